//! Aggregate function calls.

use std::cell::RefCell;

use arrow::compute::SortOptions;
use arrow::datatypes::DataType;
use datafusion::functions_aggregate as agg;
use datafusion_common::Column;
use datafusion_expr::Expr;
use datafusion_expr::expr::{AggregateFunction, Sort};
use sqlparser::ast::{
    self, DuplicateTreatment, FunctionArg, FunctionArgExpr, FunctionArgumentClause,
    FunctionArguments,
};
use tidemill_zset::schema::SqlType;

use super::aggregate_kinds::{Resolved, Then};
use super::calls::no_function;
use super::conditions::guard;
use super::expr::{AGGREGATE, Calls, Ctx};
use super::scope::Outer;
use super::types::is_number;
use super::windows::is_window;
use super::{Binder, Typed};
use crate::error::{Result, SqlError};
use crate::functions::{lists, moments};

/// Names of aggregate functions.
pub(crate) fn is_aggregate(name: &str) -> bool {
    matches!(
        name,
        "count"
            | "sum"
            | "avg"
            | "min"
            | "max"
            | "bool_and"
            | "bool_or"
            | "every"
            | "array_agg"
            | "string_agg"
            | "json_agg"
            | "jsonb_agg"
            | "json_object_agg"
            | "jsonb_object_agg"
            | "stddev"
            | "stddev_samp"
            | "stddev_pop"
            | "variance"
            | "var_samp"
            | "var_pop"
            | "corr"
            | "covar_pop"
            | "covar_samp"
            | "regr_slope"
            | "regr_intercept"
            | "regr_r2"
            | "regr_count"
            | "regr_avgx"
            | "regr_avgy"
            | "regr_sxx"
            | "regr_syy"
            | "regr_sxy"
            | "bit_and"
            | "bit_or"
            | "bit_xor"
            | "percentile_cont"
            | "percentile_disc"
            | "mode"
            | "grouping"
            | "any_value"
            | "approx_count_distinct"
    )
}

/// Names of window functions that without OVER, but with an ORDER BY of their own, are aggregates.
fn is_first_or_last(name: &str) -> bool {
    matches!(name, "first_value" | "last_value")
}

/// Whether the call, which has no OVER, is one of an aggregate.
pub(super) fn is_aggregate_call(name: &str, f: &ast::Function) -> bool {
    let is_order = |c: &FunctionArgumentClause| matches!(c, FunctionArgumentClause::OrderBy(_));
    let has_order = matches!(&f.args, FunctionArguments::List(l) if l.clauses.iter().any(is_order));
    is_aggregate(name) || is_first_or_last(name) && has_order
}

/// Names of aggregates that need WITHIN GROUP.
fn is_ordered_set(name: &str) -> bool {
    matches!(name, "percentile_cont" | "percentile_disc" | "mode")
}

/// Names of window functions that with WITHIN GROUP are aggregates.
fn is_hypothetical(name: &str) -> bool {
    matches!(name, "rank" | "dense_rank" | "percent_rank" | "cume_dist")
}

/// FILTER for the values that aren't NULL.
fn unless_null(filter: Option<Box<Expr>>, value: &Expr) -> Expr {
    let some = Expr::IsNotNull(Box::new(value.clone()));
    match filter {
        Some(f) => super::conditions::and(*f, some),
        None => some,
    }
}

/// Whether there is a query around, perhaps around what stands to the left in FROM.
fn is_within_query(outer: Outer) -> bool {
    match outer {
        Outer::Query(..) => true,
        Outer::Lateral(left) => is_within_query(left.outer),
        Outer::None => false,
    }
}

pub(super) fn not_here(c: Ctx) -> SqlError {
    let message = match c.clause {
        "aggregate" => "aggregate function calls cannot be nested".to_string(),
        clause => format!("aggregate functions are not allowed in {clause}"),
    };
    SqlError::new("42803", message)
}

/// The call's place in the list.
pub(super) fn note(calls: &RefCell<Calls>, call: Expr, ty: &SqlType) -> usize {
    let mut calls = calls.borrow_mut();
    match calls.aggregates.iter().position(|(e, _)| *e == call) {
        Some(n) => n,
        None => {
            calls.aggregates.push((call, ty.clone()));
            calls.aggregates.len() - 1
        }
    }
}

impl Binder<'_> {
    pub(crate) fn aggregate_or_window(
        &self,
        c: Ctx,
        name: &str,
        f: &ast::Function,
    ) -> Result<Typed> {
        if f.over.is_some() {
            return self.window_call(c, name, f);
        }
        if is_hypothetical(name) && !f.within_group.is_empty() {
            return self.hypothetical(c, name, f);
        }
        if is_window(name) && !is_aggregate_call(name, f) {
            return Err(SqlError::new(
                "42809",
                format!("window function {name} requires an OVER clause"),
            ));
        }
        if let ("approx_count_distinct", FunctionArguments::List(list)) = (name, &f.args) {
            // The exact number is as near as can be.
            let mut list = list.clone();
            list.duplicate_treatment = Some(DuplicateTreatment::Distinct);
            let args = FunctionArguments::List(list);
            return self.aggregate_or_window(c, "count", &ast::Function { args, ..f.clone() });
        }
        let inner = Ctx {
            aggregates: false,
            windows: false,
            sets: false,
            clause: "aggregate",
            ..c
        };
        let calls = c.calls.filter(|_| c.aggregates);
        if name == "grouping" {
            let inner = Ctx {
                clause: "GROUPING",
                ..inner
            };
            if calls.is_none() {
                return Err(not_here(c));
            }
            return self.grouping_call(inner, f);
        }
        if calls.is_none() && !is_within_query(c.scope.outer) {
            return Err(not_here(c));
        }
        let a = self.aggregate_parts(inner, name, f)?;
        let call = Expr::AggregateFunction(AggregateFunction::new_udf(
            a.0.function.clone(),
            a.0.args.clone(),
            a.1,
            a.2,
            a.3,
            None,
        ));
        if let Some(marker) = self.aggregate_around(c.scope, &call, &a.0.ty)? {
            return self.finish_aggregate(marker, a.0);
        }
        let calls = calls.ok_or_else(|| not_here(c))?;
        let n = note(calls, call, &a.0.ty);
        let marker = Expr::Column(Column::new(Some(AGGREGATE), n.to_string()));
        self.finish_aggregate(marker, a.0)
    }

    pub(super) fn finish_aggregate(&self, marker: Expr, r: Resolved) -> Result<Typed> {
        match r.then {
            None => Ok(Typed::new(marker, r.ty)),
            Some(Then::Moment(moment, of)) => Ok(moments::of(moment, &of, marker)),
            Some(Then::Function(f, ty, more)) => {
                let mut args = vec![Typed::new(marker, r.ty)];
                args.extend(more);
                let t = self.function(f, args, None)?;
                Ok(Typed::new(t.expr, ty))
            }
        }
    }

    /// The call's parts: function and arguments, DISTINCT, FILTER, ORDER BY.
    #[allow(clippy::type_complexity)]
    pub(super) fn aggregate_parts(
        &self,
        c: Ctx,
        name: &str,
        f: &ast::Function,
    ) -> Result<(Resolved, bool, Option<Box<Expr>>, Vec<Sort>)> {
        let (mut args, mut star, mut distinct, mut order) = (Vec::new(), false, false, Vec::new());
        if let FunctionArguments::List(l) = &f.args {
            distinct = matches!(l.duplicate_treatment, Some(DuplicateTreatment::Distinct));
            match l.args.as_slice() {
                [FunctionArg::Unnamed(FunctionArgExpr::Wildcard)] if distinct => {
                    let message = format!("DISTINCT cannot be used with {name}(*)");
                    return Err(SqlError::new("42601", message));
                }
                [FunctionArg::Unnamed(FunctionArgExpr::Wildcard)] => star = true,
                list => args = self.function_args(c, list)?,
            }
            for clause in &l.clauses {
                match clause {
                    FunctionArgumentClause::OrderBy(o) => order = self.sorts(c, o)?,
                    other => {
                        return Err(SqlError::unsupported(format!("{other} is not supported")));
                    }
                }
            }
        }
        let filter = match &f.filter {
            Some(e) => Some(Box::new(self.condition(
                Ctx {
                    clause: "FILTER",
                    ..c
                },
                e,
            )?)),
            None => None,
        };
        if is_ordered_set(name) {
            return self.ordered_set(c, name, f, args, filter);
        }
        if !f.within_group.is_empty() {
            return Err(SqlError::new(
                "42883",
                format!("{name} is not an ordered-set aggregate, so it cannot have WITHIN GROUP"),
            ));
        }
        if let ("count", true, [value]) = (name, distinct, args.as_mut_slice()) {
            // DataFusion charges each array or row that it has seen for the whole batch that it came in, so these are counted by their keys.
            let known = self.known(value.clone())?;
            *value = self.sort_key(known)?;
        }
        let by_elements = match args.first() {
            Some(value) if matches!(value.ty, SqlType::Array(_)) => Some(
                crate::functions::rows::array_key(value.expr.clone(), &value.ty),
            ),
            _ => None,
        };
        // What the first argument is compared by; json can't be compared.
        let key = match args.first() {
            Some(value) if distinct => {
                let value = match name {
                    "string_agg" => self.as_type(value, &SqlType::Text),
                    _ => self.known(value.clone()),
                };
                value.and_then(|v| self.sort_key(v)).ok().map(|k| k.expr)
            }
            _ => None,
        };
        let mut r = self.resolve_aggregate(name, args, star)?;
        let mut filter = filter;
        if name == "last_value" {
            for sort in &mut order {
                (sort.asc, sort.nulls_first) = (!sort.asc, !sort.nulls_first);
            }
        }
        if let ("any_value", [value]) = (name, r.args.as_slice()) {
            filter = Some(Box::new(unless_null(filter, value)));
        }
        if let ("string_agg", None, [text, Expr::Literal(..)]) = (name, &f.over, r.args.as_slice())
        {
            // As an array, of which DataFusion makes several in different orders.
            filter = Some(Box::new(unless_null(filter, text)));
            let separator = Typed::new(r.args[1].clone(), SqlType::Text);
            r = Resolved {
                then: Some(Then::Function(
                    "array_to_string",
                    SqlType::Text,
                    vec![separator],
                )),
                ..Resolved::over_array(Typed::new(text.clone(), SqlType::Text), "", SqlType::Text)
            };
            r.ordered = true;
        }
        if distinct
            && r.args.first().is_some_and(|_| !order.is_empty())
            && !order.iter().all(|s| {
                r.args.contains(&s.expr) || [&key, &by_elements].contains(&&Some(s.expr.clone()))
            })
        {
            return Err(SqlError::new(
                "42P10",
                "in an aggregate with DISTINCT, ORDER BY expressions must appear in argument list",
            ));
        }
        if distinct && r.function.name() == "array_agg" && f.over.is_none() {
            let (asc, nulls_first) = order
                .first()
                .map_or((true, false), |s| (s.asc, s.nulls_first));
            let by_value = order.first().is_none_or(|s| key.as_ref() == Some(&s.expr));
            let key = match key.filter(|_| by_value && !name.ends_with("object_agg")) {
                Some(key) => key,
                None => order.first().map_or(r.args[0].clone(), |s| s.expr.clone()),
            };
            r.function = lists::distinct_list(SortOptions {
                descending: !asc,
                nulls_first,
            });
            r.args.truncate(1);
            r.args.push(key);
            guard(&filter, r.args.iter_mut());
            return Ok((r, false, filter, vec![]));
        }
        if r.function.name() == "array_agg" && f.over.is_some() {
            // Frames drop values again.
            r.function = agg::array_agg::array_agg_udaf();
        }
        if matches!(
            name,
            "sum" | "count" | "avg" | "min" | "max" | "bool_and" | "bool_or" | "every"
        ) {
            order.clear();
        }
        let distinct =
            distinct && !matches!(name, "min" | "max" | "bool_and" | "bool_or" | "every");
        let keys = order.iter_mut().map(|s| &mut s.expr);
        guard(&filter, r.args.iter_mut().chain(keys));
        Ok((r, distinct, filter, order))
    }

    /// `percentile_cont(f) WITHIN GROUP (ORDER BY x)` and its kin: a function of the array of the values that aren't NULL,
    /// in order.
    #[allow(clippy::type_complexity)]
    fn ordered_set(
        &self,
        c: Ctx,
        name: &str,
        f: &ast::Function,
        direct: Vec<Typed>,
        filter: Option<Box<Expr>>,
    ) -> Result<(Resolved, bool, Option<Box<Expr>>, Vec<Sort>)> {
        if f.over.is_some() {
            return Err(SqlError::unsupported(format!(
                "OVER is not supported for ordered-set aggregate {name}"
            )));
        }
        let [by] = f.within_group.as_slice() else {
            return Err(match f.within_group.len() {
                0 => SqlError::new(
                    "42809",
                    format!("WITHIN GROUP is required for ordered-set aggregate {name}"),
                ),
                _ => no_function(
                    name,
                    &vec!["…".to_string(); direct.len() + f.within_group.len()],
                ),
            });
        };
        let value = self.expr(c, &by.expr)?;
        let value = self.known(value)?;
        let shown = || {
            let types: Vec<String> = direct
                .iter()
                .chain([&value])
                .map(Typed::type_name)
                .collect();
            no_function(name, &types)
        };
        // The direct argument: one fraction or several.
        let many = direct
            .first()
            .is_some_and(|d| !d.unknown && matches!(d.ty, SqlType::Array(_)));
        let float = SqlType::Float8;
        let floats = SqlType::Array(Box::new(SqlType::Float8));
        let fraction = match (name, direct.as_slice()) {
            ("mode", []) => vec![],
            ("percentile_cont" | "percentile_disc", [d]) => {
                vec![
                    self.as_type(d, if many { &floats } else { &float })
                        .map_err(|_| shown())?,
                ]
            }
            _ => return Err(shown()),
        };
        let value = match (name, &value.ty) {
            ("percentile_cont", SqlType::Interval) => value,
            ("percentile_cont", t) if is_number(t) => self.as_type(&value, &float)?,
            ("percentile_cont", _) => return Err(shown()),
            (_, SqlType::Varchar(_) | SqlType::Char(_)) => self.as_type(&value, &SqlType::Text)?,
            _ => value,
        };
        let sort = self.sort(value.clone(), &by.options)?;
        let given = Expr::IsNotNull(Box::new(value.expr.clone()));
        let filter = match filter {
            Some(f) => super::conditions::and(*f, given),
            None => given,
        };
        let result = if many {
            SqlType::Array(Box::new(value.ty.clone()))
        } else {
            value.ty.clone()
        };
        if matches!(value.ty, SqlType::Array(_)) {
            return Err(SqlError::unsupported("arrays of arrays are not supported"));
        }
        let function = match (name, many) {
            ("mode", _) => "mode_of_sorted",
            ("percentile_cont", false) => "percentile_cont_of_sorted",
            ("percentile_cont", true) => "percentiles_cont_of_sorted",
            (_, false) => "percentile_disc_of_sorted",
            (_, true) => "percentiles_disc_of_sorted",
        };
        let resolved = Resolved {
            function: lists::array_agg(),
            args: vec![value.expr],
            ty: SqlType::Array(Box::new(value.ty)),
            then: Some(Then::Function(function, result, fraction)),
            ordered: true,
        };
        Ok((resolved, false, Some(Box::new(filter)), vec![sort]))
    }

    /// ORDER BY items as sort expressions; ascending puts NULLs last.
    pub(crate) fn sorts(&self, c: Ctx, items: &[ast::OrderByExpr]) -> Result<Vec<Sort>> {
        let mut sorts: Vec<Sort> = Vec::with_capacity(items.len());
        for o in items {
            let t = self.known(self.expr(c, &o.expr)?)?;
            let sort = self.sort(t, &o.options)?;
            // A key that was there already decides nothing.
            if sort.expr.is_volatile() || sorts.iter().all(|s| s.expr != sort.expr) {
                sorts.push(sort);
            }
        }
        Ok(sorts)
    }

    pub(crate) fn sort(&self, t: Typed, o: &ast::OrderByOptions) -> Result<Sort> {
        if matches!(t.ty, SqlType::Json) {
            return Err(SqlError::new(
                "42883",
                "could not identify an ordering operator for type json",
            )
            .hint("Use an explicit ordering operator or modify the query."));
        }
        let asc = o.asc.unwrap_or(true);
        let nulls_first = o.nulls_first.unwrap_or(!asc);
        Ok(Sort::new(self.sort_key(t)?.expr, asc, nulls_first))
    }
}

/// The Arrow type that an aggregate or window call of DataFusion gives.
pub(crate) fn given_type(plan: &datafusion_expr::LogicalPlan, column: &Column) -> Option<DataType> {
    let schema = plan.schema();
    let n = schema.maybe_index_of_column(column)?;
    Some(schema.field(n).data_type().clone())
}
