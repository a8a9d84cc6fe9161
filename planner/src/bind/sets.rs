//! Calls of functions that give a set of rows.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema};
use datafusion_common::tree_node::Transformed;
use datafusion_common::{Column, DFSchema, Result as DfResult};
use datafusion_expr::{Expr, ExprSchemable, LogicalPlan, Values, Volatility};
use tidemill_zset::schema::SqlType;

use super::calls::{arity, no_function};
use super::conditions::when;
use super::expr::{Ctx, SET};
use super::select::has_subquery;
use super::types::is_number;
use super::{Binder, Typed, df};
use crate::error::{Result, SqlError};
use crate::functions::{call, json};
use crate::tree::Tree;

impl Binder<'_> {
    /// A set-returning call in a select list.
    pub(super) fn set_call(&self, c: Ctx, name: &str, args: Vec<Typed>) -> Result<Typed> {
        let Some(calls) = c.calls.filter(|_| c.sets) else {
            return Err(SqlError::unsupported(format!(
                "set-returning functions are not allowed in {}",
                c.clause
            )));
        };
        let elements = |list: Expr, element: SqlType| {
            let sets = &mut calls.borrow_mut().sets;
            // The same call twice gives the same elements side by side.
            let same = |(l, _): &(Expr, SqlType)| *l == list && !list.is_volatile();
            if let Some(n) = sets.iter().position(same) {
                return Expr::Column(Column::new(Some(SET), n.to_string()));
            }
            let column = Column::new(Some(SET), sets.len().to_string());
            sets.push((list, element));
            Expr::Column(column)
        };
        if is_each(name) {
            let (mut columns, mut values) = (Vec::new(), Vec::new());
            for (column, list, ty) in self.each_function(name, args)? {
                values.push(elements(list, ty.clone()));
                columns.push((column, ty));
            }
            // Beside a call with more elements there is no row.
            let there = Expr::IsNotNull(Box::new(values[0].clone()));
            let (row, ty) = crate::functions::rows::row(columns, values, false);
            let none = super::null_of(&ty);
            return Ok(Typed::new(when(vec![(there, row)], none), ty));
        }
        let (list, element) = self.set_function(name, args)?;
        Ok(Typed::new(elements(list, element.clone()), element))
    }

    /// A set-returning function as an expression that gives a list, and the type of an element.
    pub(crate) fn set_function(&self, name: &str, mut args: Vec<Typed>) -> Result<(Expr, SqlType)> {
        let items = |kind| match kind {
            "elements" => json::Items::Elements,
            "elements_text" => json::Items::ElementsText,
            "keys" => json::Items::Keys,
            "values" => json::Items::Values,
            _ => json::Items::ValuesText,
        };
        let jsonb = name.starts_with("jsonb");
        let own = if jsonb { SqlType::Jsonb } else { SqlType::Json };
        let kind = match name {
            "json_array_elements" | "jsonb_array_elements" => ("elements", own.clone()),
            "json_array_elements_text" | "jsonb_array_elements_text" => {
                ("elements_text", SqlType::Text)
            }
            "json_object_keys" | "jsonb_object_keys" => ("keys", SqlType::Text),
            "unnest" => {
                let t = args
                    .pop()
                    .filter(|_| args.is_empty())
                    .ok_or_else(|| arity("unnest"))?;
                return match &t.ty {
                    SqlType::Array(of) if !t.unknown => Ok((t.expr, of.as_ref().clone())),
                    _ => Err(no_function("unnest", &[t.type_name()])),
                };
            }
            "generate_series"
                if matches!(args.len(), 2 | 3)
                    && args.iter().all(|a| a.unknown || is_number(&a.ty))
                    && args
                        .iter()
                        .any(|a| !a.unknown && matches!(a.ty, SqlType::Numeric(..))) =>
            {
                let (exprs, of) = self.unify(args, "generate_series")?;
                if !matches!(of, SqlType::Numeric(..)) {
                    return Err(no_function(name, &vec![of.to_string(); exprs.len()]));
                }
                let list = crate::functions::array::numeric_series(exprs, &of);
                return Ok((list, of));
            }
            _ => {
                let t = self
                    .function(&format!("{name}_list"), args, None)
                    .map_err(|mut e| {
                        e.message = e
                            .message
                            .replace(&format!("{name}_list("), &format!("{name}("));
                        e
                    })?;
                return match t.ty {
                    SqlType::Array(of) => Ok((t.expr, *of)),
                    _ => Err(SqlError::internal(
                        "a set-returning function must give a list",
                    )),
                };
            }
        };
        let arg = args
            .pop()
            .filter(|_| args.is_empty())
            .ok_or_else(|| arity(name))?;
        if !arg.unknown && arg.ty != own {
            return Err(no_function(name, &[arg.type_name()]));
        }
        let arg = self.implicit(&arg, &own)?;
        let (what, element) = (items(kind.0), kind.1);
        Ok((json_items(name, arg, what, jsonb, &element), element))
    }

    /// Two parallel lists for `jsonb_each` and the like.
    pub(crate) fn each_function(
        &self,
        name: &str,
        args: Vec<Typed>,
    ) -> Result<Vec<(String, Expr, SqlType)>> {
        let jsonb = name.starts_with("jsonb");
        let own = if jsonb { SqlType::Jsonb } else { SqlType::Json };
        let [arg]: [Typed; 1] = args.try_into().map_err(|_| arity(name))?;
        let arg = self.implicit(&arg, &own)?;
        let text = name.ends_with("_text");
        let (what, ty) = if text {
            (json::Items::ValuesText, SqlType::Text)
        } else {
            (json::Items::Values, own)
        };
        Ok(vec![
            (
                "key".into(),
                json_items(
                    "object_keys",
                    arg.clone(),
                    json::Items::Keys,
                    jsonb,
                    &SqlType::Text,
                ),
                SqlType::Text,
            ),
            ("value".into(), json_items(name, arg, what, jsonb, &ty), ty),
        ])
    }
}

/// Functions that give a set of rows.
pub(crate) fn is_set_returning(name: &str) -> bool {
    matches!(
        name,
        "unnest"
            | "generate_series"
            | "json_array_elements"
            | "jsonb_array_elements"
            | "json_array_elements_text"
            | "jsonb_array_elements_text"
            | "json_object_keys"
            | "jsonb_object_keys"
            | "regexp_split_to_table"
            | "string_to_table"
            | "generate_subscripts"
            | "regexp_matches"
            | "jsonb_path_query"
    )
}

/// Those with several columns.
pub(crate) fn is_each(name: &str) -> bool {
    matches!(
        name,
        "json_each" | "jsonb_each" | "json_each_text" | "jsonb_each_text"
    )
}

fn json_items(name: &str, arg: Expr, what: json::Items, jsonb: bool, element: &SqlType) -> Expr {
    let ret = SqlType::Array(Box::new(element.clone()));
    let list = ret.clone();
    let kernel: crate::functions::Kernel = Arc::new(move |a| json::items(a, what, jsonb, &list));
    call(
        name,
        format!("{name} {what:?} {jsonb}"),
        kernel,
        Volatility::Immutable,
        true,
        vec![arg],
        &ret,
    )
}

/// Lets series with constant bounds take them from the columns of a row of VALUES, if `plan` is one row without columns. The optimiser
/// would make such a call a literal, of up to ten million values, that it hashes and prints a dozen times.
pub(super) fn bounds_as_columns(
    plan: LogicalPlan,
    lists: Vec<(Expr, SqlType)>,
) -> Result<(LogicalPlan, Vec<(Expr, SqlType)>)> {
    if !matches!(&plan, LogicalPlan::EmptyRelation(row) if row.produce_one_row) {
        return Ok((plan, lists));
    }
    let (mut bounds, mut fields) = (Vec::<Expr>::new(), Vec::new());
    let mut column = |bound: Expr| -> DfResult<Expr> {
        let n = match bounds.iter().position(|b| *b == bound) {
            Some(n) => n,
            None => {
                let of = bound.get_type(&DFSchema::empty())?;
                fields.push(Field::new(format!("bound#{}", bounds.len()), of, true));
                bounds.push(bound);
                bounds.len() - 1
            }
        };
        Ok(Expr::Column(Column::new_unqualified(fields[n].name())))
    };
    let constant = |e: &Expr| {
        !has_subquery(e)
            && !e.is_volatile()
            && e.column_refs().is_empty()
            && e.get_type(&DFSchema::empty()).is_ok()
    };
    let lists = (lists.into_iter())
        .map(|(list, of)| {
            let list = df(list.change_up(&mut |e| match e {
                Expr::ScalarFunction(mut f)
                    if f.name().starts_with("generate_series") && f.args.iter().all(constant) =>
                {
                    f.args = f
                        .args
                        .into_iter()
                        .map(&mut column)
                        .collect::<DfResult<_>>()?;
                    Ok(Transformed::yes(Expr::ScalarFunction(f)))
                }
                e => Ok(Transformed::no(e)),
            }))?;
            Ok((list.data, of))
        })
        .collect::<Result<Vec<_>>>()?;
    if bounds.is_empty() {
        return Ok((plan, lists));
    }
    let row = LogicalPlan::Values(Values {
        schema: Arc::new(df(DFSchema::try_from(Schema::new(fields)))?),
        values: vec![bounds],
    });
    Ok((row, lists))
}
