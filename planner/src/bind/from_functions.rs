//! Functions in FROM: those that give rows, ROWS FROM, and JSON as records.

use datafusion_common::JoinType;
use datafusion_expr::{Expr, LogicalPlan};
use sqlparser::ast::{self, BinaryOperator, FunctionArg, JoinConstraint, TableAlias, TableFactor};
use tidemill_zset::schema::SqlType;

use super::conditions::cases;
use super::expr::{Ctx, null, strip};
use super::from::{Joined, one_row};
use super::scope::{Outer, Scope, ScopeCol, ScopeTable};
use super::sets::{is_each, is_set_returning};
use super::types::sql_type;
use super::{Binder, Ctes, Typed, columns_of, project};
use crate::error::{Result, SqlError};
use crate::functions::cast::Context;
use crate::parser::spelling::ROWS_FROM;
use crate::parser::{fold, parts};

/// Names of columns, and for each an expression that gives a list, with the type of an element.
type Lists = (Vec<String>, Vec<(Expr, SqlType)>);

impl Binder<'_> {
    /// A set-returning function in FROM: it may use what stands to its left. An inner join, or a left join with every row.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn join_function<'o>(
        &self,
        left: Joined<'o>,
        name: &str,
        args: &[FunctionArg],
        alias: Option<&TableAlias>,
        ordinality: bool,
        kind: JoinType,
        constraint: &JoinConstraint,
        ctes: &Ctes,
    ) -> Result<Joined<'o>> {
        let base = left.plan.unwrap_or_else(one_row);
        let row_type = self.populated(name, args)?;
        let args = match row_type {
            Some(_) => &args[1..],
            None => args,
        };
        let record = record_function(name);
        let (mut names, mut lists) = {
            let mut inner = Scope::new(Outer::Lateral(&left.scope));
            inner.tables.clear();
            let c = Ctx::plain(&inner, ctes, "functions in FROM");
            match (name, record) {
                (ROWS_FROM, _) => self.rows_from(c, args)?,
                (_, Some(per_row)) => {
                    let args = self.function_args(c, args)?;
                    let checked = self.function(&format!("#{name}"), args, None)?;
                    self.function_columns(per_row, vec![checked])?
                }
                _ => self.function_columns(name, self.function_args(c, args)?)?,
            }
        };
        if ordinality {
            let all: Vec<Typed> = lists
                .iter()
                .map(|(e, t)| Typed::new(e.clone(), SqlType::Array(Box::new(t.clone()))))
                .collect();
            if all.is_empty() {
                return Err(SqlError::new("42601", "WITH ORDINALITY needs a function"));
            }
            let e = self.function("ordinality", all, None)?;
            names.push("ordinality".into());
            lists.push((e.expr, SqlType::Int8));
        }
        let types: Vec<SqlType> = lists.iter().map(|(_, t)| t.clone()).collect();
        let (mut plan, mut columns) = self.unnest(base, lists, kind == JoinType::Left)?;
        let mut types = types;
        if record.is_some() {
            let fields = match row_type {
                Some(fields) => fields,
                None => record_fields(alias)?,
            };
            (plan, columns, types) = self.record_columns(plan, columns, types, &fields)?;
            names = fields.into_iter().map(|(name, _)| name).collect();
            names.extend(ordinality.then(|| "ordinality".to_string()));
        }
        let table_name = alias.map_or(name.to_string(), |a| fold(&a.name));
        let single = names.len() == 1 + ordinality as usize;
        let given: Vec<String> = alias
            .map(|a| a.columns.iter().map(|c| fold(&c.name)).collect())
            .unwrap_or_default();
        let cols = columns
            .into_iter()
            .zip(types)
            .enumerate()
            .map(|(i, (expr, ty))| {
                // The alias of a function with one column names the column too.
                let name = given.get(i).cloned().unwrap_or_else(|| {
                    if i == 0 && single && alias.is_some() && names[0] != "value" {
                        table_name.clone()
                    } else {
                        names[i].clone()
                    }
                });
                ScopeCol {
                    name,
                    ty,
                    expr,
                    hidden: false,
                }
            })
            .collect();
        let mut scope = left.scope;
        scope.add(ScopeTable {
            alias: table_name,
            schema: None,
            cols,
            primary_key: None,
        })?;
        if let JoinConstraint::On(e) = constraint
            && kind == JoinType::Inner
        {
            plan = self.where_clause(plan, &scope, ctes, e)?;
        }
        Ok(Joined {
            plan: Some(plan),
            scope,
        })
    }

    /// The columns of the table whose row type the first argument of `json_populate_record` and its like has.
    fn populated(
        &self,
        name: &str,
        args: &[FunctionArg],
    ) -> Result<Option<Vec<(String, SqlType)>>> {
        let (true, [base, _]) = (name.contains("_populate_record"), args) else {
            return Ok(None);
        };
        let FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(base)) = base else {
            return Ok(None);
        };
        let of = match strip(base) {
            ast::Expr::Cast {
                expr, data_type, ..
            } => match (strip(expr), data_type) {
                (ast::Expr::Value(v), ast::DataType::Custom(of, _))
                    if v.value == ast::Value::Null =>
                {
                    parts(of)
                }
                _ => vec![],
            },
            _ => vec![],
        };
        if of.is_empty() || of.len() > 2 {
            let message = format!("{name} of other rows than NULL is not supported");
            return Err(SqlError::unsupported(message)
                .hint("Give NULL of the table's row type: NULL::name_of_table."));
        }
        match self.row_type(&of) {
            None => {
                let message = format!("type \"{}\" does not exist", of.join("."));
                Err(SqlError::new("42704", message))
            }
            columns => Ok(columns),
        }
    }

    /// A function in a join that is more than a loop over the rows to its left: a relation of its own or, where it uses what
    /// stands to its left, a LATERAL subquery.
    pub(super) fn join_function_apart<'o>(
        &self,
        left: Joined<'o>,
        factor: &TableFactor,
        kind: JoinType,
        constraint: &JoinConstraint,
        ctes: &Ctes,
    ) -> Result<Joined<'o>> {
        let Some((name, args, alias, ordinality)) = table_function(factor) else {
            return Err(SqlError::internal("not a function in FROM"));
        };
        let alone = Joined {
            plan: None,
            scope: Scope::new(left.scope.outer),
        };
        let inner = JoinType::Inner;
        let none = &JoinConstraint::None;
        match self.join_function(alone, &name, &args, alias, ordinality, inner, none, ctes) {
            Err(e)
                if matches!(kind, JoinType::Left | JoinType::Inner)
                    && matches!(e.sqlstate, "42P01" | "42703") =>
            {
                let Some(alias) = alias else { return Err(e) };
                let rows = crate::parser::parse_query(&format!("SELECT * FROM {factor}"))?;
                self.join_lateral(left, &rows, Some(alias), kind, constraint, ctes)
                    .map_err(|e| SqlError {
                        // It would be one in the text made here.
                        position: None,
                        ..e
                    })
            }
            right => self.combine(left, right?, kind, constraint, ctes),
        }
    }

    /// The columns that a function in FROM gives, as lists side by side.
    fn function_columns(&self, name: &str, args: Vec<Typed>) -> Result<Lists> {
        if is_each(name) {
            let each = self.each_function(name, args)?;
            return Ok(each.into_iter().map(|(n, e, t)| (n, (e, t))).unzip());
        }
        if name == "unnest" {
            let lists = args
                .into_iter()
                .map(|a| self.set_function("unnest", vec![a]))
                .collect::<Result<Vec<_>>>()?;
            return Ok((vec![name.to_string(); lists.len()], lists));
        }
        if is_set_returning(name) {
            // These have an OUT parameter, which names the column whatever the alias.
            let column = if name.contains("_array_elements") {
                "value"
            } else {
                name
            };
            return Ok((
                vec![column.to_string()],
                vec![self.set_function(name, args)?],
            ));
        }
        // A plain function gives one row.
        let t = match (name, args) {
            ("now" | "current_schema" | "current_database", args) if args.is_empty() => {
                let call = crate::parser::parse_expr(&format!("{name}()"))?;
                let (scope, ctes) = (Scope::new(Outer::None), Ctes::new());
                self.expr(Ctx::plain(&scope, &ctes, "functions in FROM"), &call)?
            }
            (ONE_JSON | ONE_JSONB, args) if args.len() == 1 => {
                let ty = match name {
                    ONE_JSON => SqlType::Json,
                    _ => SqlType::Jsonb,
                };
                Typed::new(self.implicit(&args[0], &ty)?, ty)
            }
            (name, args) => self.function(name, args, None)?,
        };
        let list = self.function("array_construct", vec![t.clone()], None)?;
        Ok((vec![name.to_string()], vec![(list.expr, t.ty)]))
    }

    /// `ROWS FROM (f(…), g(…))`: what the calls give, side by side.
    fn rows_from(&self, c: Ctx, calls: &[FunctionArg]) -> Result<Lists> {
        let (mut names, mut lists) = Lists::default();
        for call in calls {
            let FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(ast::Expr::Function(f))) = call
            else {
                return Err(SqlError::new(
                    "42601",
                    format!("syntax error at or near \"{call}\""),
                ));
            };
            let name = parts(&f.name).pop().unwrap_or_default();
            let args = match &f.args {
                ast::FunctionArguments::List(l) => self.function_args(c, &l.args)?,
                _ => vec![],
            };
            let (n, l) = self.function_columns(&name, args)?;
            names.extend(n);
            lists.extend(l);
        }
        Ok((names, lists))
    }

    /// Instead of a column of JSON objects, their fields as columns of the types that are asked for.
    fn record_columns(
        &self,
        plan: LogicalPlan,
        columns: Vec<Expr>,
        types: Vec<SqlType>,
        fields: &[(String, SqlType)],
    ) -> Result<(LogicalPlan, Vec<Expr>, Vec<SqlType>)> {
        let mut given = columns.into_iter().zip(types);
        let (object, ty) = given
            .next()
            .ok_or_else(|| SqlError::internal("a function without columns"))?;
        let object = Typed::new(object, ty);
        let mut exprs: Vec<Expr> = columns_of(&plan).into_iter().map(Expr::Column).collect();
        let (mut columns, mut types) = (Vec::new(), Vec::new());
        for (name, ty) in fields {
            let access = match ty {
                SqlType::Json | SqlType::Jsonb | SqlType::Array(_) => BinaryOperator::Arrow,
                _ => BinaryOperator::LongArrow,
            };
            let key = Typed {
                expr: super::literal(datafusion_common::ScalarValue::Utf8View(Some(name.clone()))),
                ..null()
            };
            let mut value = self.operator(&access, object.clone(), key.clone())?;
            if let SqlType::Json | SqlType::Jsonb = ty {
                let text = self.operator(&BinaryOperator::LongArrow, object.clone(), key)?;
                let given = Expr::IsNotNull(Box::new(text.expr));
                let none = super::null_of(&value.ty);
                value.expr = cases(vec![given], vec![value.expr], none, &value.ty);
            }
            if let SqlType::Array(of) = ty {
                let literal = match of.as_ref() {
                    SqlType::Json | SqlType::Jsonb => "#json_array_literal",
                    _ => "#array_literal",
                };
                let json = self.cast(value, &SqlType::Json, Context::Explicit)?;
                let json = Typed::new(json, SqlType::Json);
                value = self.function(literal, vec![json], None)?;
            }
            let context = match ty {
                // What is too long isn't cut.
                SqlType::Varchar(_) | SqlType::Char(_) => Context::Assignment,
                _ => Context::Explicit,
            };
            let value = self.cast(value, ty, context)?;
            let column = self.fresh(name);
            exprs.push(value.alias(&column));
            columns.push(Expr::Column(datafusion_common::Column::new_unqualified(
                column,
            )));
            types.push(ty.clone());
        }
        let (others, other_types): (Vec<Expr>, Vec<SqlType>) = given.unzip();
        columns.extend(others);
        types.extend(other_types);
        Ok((project(plan, exprs)?, columns, types))
    }
}

/// Stand for functions that give their argument.
const ONE_JSON: &str = "#json";
const ONE_JSONB: &str = "#jsonb";

/// For a function whose columns are those that its alias or a table defines: the function that gives its objects.
fn record_function(name: &str) -> Option<&'static str> {
    match name {
        "json_to_record" | "json_populate_record" => Some(ONE_JSON),
        "jsonb_to_record" | "jsonb_populate_record" => Some(ONE_JSONB),
        "json_to_recordset" | "json_populate_recordset" => Some("json_array_elements"),
        "jsonb_to_recordset" | "jsonb_populate_recordset" => Some("jsonb_array_elements"),
        _ => None,
    }
}

/// The columns that the alias of such a function defines.
fn record_fields(alias: Option<&TableAlias>) -> Result<Vec<(String, SqlType)>> {
    let columns = alias.map_or(&[][..], |a| &a.columns);
    if columns.is_empty() {
        let message = "a column definition list is required for functions returning \"record\"";
        return Err(SqlError::new("42601", message));
    }
    columns
        .iter()
        .map(|c| match c.data_type.as_ref().map(sql_type).transpose()? {
            Some(ty) => Ok((fold(&c.name), ty)),
            None => Err(SqlError::new(
                "42601",
                "a column definition list is required for functions returning \"record\"",
            )),
        })
        .collect()
}

/// Name, arguments, alias and WITH ORDINALITY of a function in FROM.
pub(super) fn table_function(
    f: &TableFactor,
) -> Option<(String, Vec<FunctionArg>, Option<&TableAlias>, bool)> {
    match f {
        TableFactor::Table {
            name,
            args: Some(args),
            alias,
            with_ordinality,
            ..
        } => Some((
            parts(name).pop()?,
            args.args.clone(),
            alias.as_ref(),
            *with_ordinality,
        )),
        TableFactor::Function {
            name,
            args,
            alias,
            with_ordinality,
            ..
        } => Some((
            parts(name).pop()?,
            args.clone(),
            alias.as_ref(),
            *with_ordinality,
        )),
        TableFactor::UNNEST {
            alias,
            array_exprs,
            with_ordinality,
            ..
        } => {
            let args = array_exprs
                .iter()
                .map(|e| FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(e.clone())))
                .collect();
            Some(("unnest".into(), args, alias.as_ref(), *with_ordinality))
        }
        TableFactor::TableFunction {
            expr: ast::Expr::Function(f),
            alias,
        } => {
            let args = match &f.args {
                ast::FunctionArguments::List(l) => l.args.clone(),
                _ => vec![],
            };
            Some((parts(&f.name).pop()?, args, alias.as_ref(), false))
        }
        _ => None,
    }
}

pub(super) fn is_lateral(f: &TableFactor) -> bool {
    table_function(f).is_some() || matches!(f, TableFactor::Derived { lateral: true, .. })
}
