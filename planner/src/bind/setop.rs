//! UNION, EXCEPT, INTERSECT with bag semantics, and VALUES.

use std::sync::Arc;

use datafusion_common::{Column, DFSchema, JoinType, NullEquality};
use datafusion_expr::expr::{Sort, WindowFunction, WindowFunctionParams};
use datafusion_expr::logical_plan::{Union, Values};
use datafusion_expr::{Expr, LogicalPlan, LogicalPlanBuilder, WindowFrame};
use sqlparser::ast::{self, SetExpr, SetOperator, SetQuantifier};
use tidemill_zset::schema::SqlType;

use super::coerce::{own_scales, with_digits, without_length};
use super::expr::Ctx;
use super::scope::{Outer, Scope};
use super::types::SCALE_DEFAULT;
use super::{Binder, Ctes, Rel, RelCol, Typed, builder, columns_of, df, project, unique_names};
use crate::error::{Result, SqlError};
use crate::functions::cast::Context;

/// The literal of unknown type that a column is.
fn literal_of(rel: &Rel, col: &RelCol) -> Option<Typed> {
    let LogicalPlan::Projection(p) = &rel.plan else {
        return None;
    };
    let at = p.schema.maybe_index_of_column(&col.column)?;
    let expr = p.expr[at].clone().unalias();
    let literal = Typed {
        unknown: true,
        ..Typed::new(expr, SqlType::Text)
    };
    col.unknown.then_some(literal)
}

impl Binder<'_> {
    pub(crate) fn set_operation(
        &self,
        left: &SetExpr,
        op: SetOperator,
        quantifier: SetQuantifier,
        right: &SetExpr,
        ctes: &Ctes,
        outer: Outer,
    ) -> Result<Rel> {
        let (name, op) = match op {
            SetOperator::Union => ("UNION", op),
            SetOperator::Intersect => ("INTERSECT", op),
            SetOperator::Except | SetOperator::Minus => ("EXCEPT", SetOperator::Except),
        };
        let all = match quantifier {
            SetQuantifier::All => true,
            SetQuantifier::Distinct | SetQuantifier::None => false,
            _ => {
                return Err(SqlError::unsupported(
                    "set operations BY NAME are not supported",
                ));
            }
        };
        let mut l = self.set_expr(left, ctes, outer)?;
        let mut r = self.set_expr(right, ctes, outer)?;
        let types = |rel: &Rel| -> Vec<_> {
            let cols = rel.cols.iter();
            cols.map(|c| (!c.unknown).then(|| c.ty.clone())).collect()
        };
        if self.types_of_params(left, &l, &types(&r)) {
            l = self.set_expr(left, ctes, outer)?;
        } else if self.types_of_params(right, &r, &types(&l)) {
            r = self.set_expr(right, ctes, outer)?;
        }
        let bare = l.cols.is_empty() && r.cols.is_empty();
        if bare {
            // Rows without columns are equal, which a column says.
            (l, r) = (marked(l)?, marked(r)?);
        }
        if l.cols.len() != r.cols.len() {
            return Err(SqlError::new(
                "42601",
                format!("each {name} query must have the same number of columns"),
            ));
        }
        let types = l
            .cols
            .iter()
            .zip(&r.cols)
            .map(|(a, b)| {
                let both = [(&a.ty, a.unknown), (&b.ty, b.unknown)];
                let ty = self.unify_types(both.into_iter(), name)?;
                let ty = own_scales(ty, both.into_iter());
                let literals = [literal_of(&l, a), literal_of(&r, b)];
                Ok(with_digits(ty, literals.iter().flatten()))
            })
            .collect::<Result<Vec<_>>>()?;
        let unknown: Vec<bool> = l
            .cols
            .iter()
            .zip(&r.cols)
            .map(|(a, b)| a.unknown && b.unknown)
            .collect();
        let names = unique_names(&l.cols.iter().map(|c| c.name.clone()).collect::<Vec<_>>());
        let titles: Vec<String> = l.cols.iter().map(|c| c.name.clone()).collect();
        let (l, r) = (
            self.shaped(l, &types, &names)?,
            self.shaped(r, &types, &names)?,
        );
        let plan = match (op, all) {
            (SetOperator::Union, _) => {
                let u = df(Union::try_new(vec![Arc::new(l), Arc::new(r)]).map(LogicalPlan::Union))?;
                if all { u } else { self.distinct(u, &types)? }
            }
            (SetOperator::Intersect, true) => self.numbered(l, r, JoinType::LeftSemi)?,
            (SetOperator::Intersect, false) => df(LogicalPlanBuilder::intersect(l, r, false))?,
            (_, true) => self.numbered(l, r, JoinType::LeftAnti)?,
            (_, false) => df(LogicalPlanBuilder::except(l, r, false))?,
        };
        if bare {
            let plan = project(plan, vec![])?;
            return Ok(Rel { plan, cols: vec![] });
        }
        let cols = columns_of(&plan)
            .into_iter()
            .zip(titles)
            .zip(types)
            .zip(unknown)
            .map(|(((column, name), ty), unknown)| RelCol {
                name,
                ty,
                unknown,
                column,
            })
            .collect();
        Ok(Rel { plan, cols })
    }

    /// Parameters without a type that are columns of `query` get `types`, where they are known; whether there are any.
    pub(super) fn types_of_params(
        &self,
        query: &SetExpr,
        rel: &Rel,
        types: &[Option<SqlType>],
    ) -> bool {
        let SetExpr::Select(s) = query else {
            return false;
        };
        let mut any = false;
        for ((item, own), other) in s.projection.iter().zip(&rel.cols).zip(types) {
            let (ast::SelectItem::UnnamedExpr(e) | ast::SelectItem::ExprWithAlias { expr: e, .. }) =
                item
            else {
                return any;
            };
            if let ast::Expr::Value(v) = e
                && let ast::Value::Placeholder(p) = &v.value
                && let Ok(n) = p.trim_start_matches('$').parse::<usize>()
                && own.unknown
                && let Some(other) = other
                && self.param_type(n) == Some(SqlType::Text)
            {
                // What is sent isn't cut to the other's digits or length.
                let ty = match other {
                    SqlType::Numeric(..) => SqlType::Numeric(0, SCALE_DEFAULT),
                    ty => without_length(ty),
                };
                self.set_param_type(n, &ty);
                any = true;
            }
        }
        any
    }

    /// The relation with these types and internal names.
    fn shaped(&self, rel: Rel, types: &[SqlType], names: &[String]) -> Result<LogicalPlan> {
        let exprs = rel
            .cols
            .into_iter()
            .zip(types)
            .zip(names)
            .map(|((c, ty), n)| {
                let t = Typed::new(Expr::Column(c.column), c.ty);
                let e = if c.unknown {
                    self.cast(t, ty, Context::Explicit)?
                } else {
                    self.implicit(&t, ty)?
                };
                Ok(e.alias(n))
            })
            .collect::<Result<Vec<_>>>()?;
        project(rel.plan, exprs)
    }

    /// EXCEPT ALL and INTERSECT ALL: equal rows are numbered on both sides, then matched one to one.
    fn numbered(&self, l: LogicalPlan, r: LogicalPlan, kind: JoinType) -> Result<LogicalPlan> {
        let number = |plan: LogicalPlan| -> Result<LogicalPlan> {
            let columns: Vec<Expr> = columns_of(&plan).into_iter().map(Expr::Column).collect();
            let call = Expr::WindowFunction(Box::new(WindowFunction {
                fun: datafusion_expr::WindowFunctionDefinition::WindowUDF(
                    datafusion::functions_window::row_number::row_number_udwf(),
                ),
                params: WindowFunctionParams {
                    args: vec![],
                    partition_by: columns.clone(),
                    order_by: Vec::<Sort>::new(),
                    window_frame: WindowFrame::new(None),
                    filter: None,
                    null_treatment: None,
                    distinct: false,
                },
            }));
            let plan = df(LogicalPlanBuilder::window_plan(plan, vec![call.clone()]))?;
            let mut exprs = columns;
            exprs.push(
                Expr::Column(Column::new_unqualified(call.schema_name().to_string()))
                    .alias("#copy"),
            );
            let plan = project(plan, exprs)?;
            df(builder(plan)
                .alias(self.qualifier("#side"))
                .and_then(|b| b.build()))
        };
        let (l, r) = (number(l)?, number(r)?);
        let (left, right) = (columns_of(&l), columns_of(&r));
        let kept: Vec<Expr> = left[..left.len() - 1]
            .iter()
            .map(|c| Expr::Column(c.clone()).alias(&c.name))
            .collect();
        let plan = df(builder(l)
            .join_detailed(r, kind, (left, right), None, NullEquality::NullEqualsNull)
            .and_then(|b| b.build()))?;
        project(plan, kept)
    }

    pub(crate) fn values(&self, v: &ast::Values, ctes: &Ctes, outer: Outer) -> Result<Rel> {
        let scope = Scope::new(outer);
        let ctx = Ctx::plain(&scope, ctes, "VALUES");
        let rows = v
            .rows
            .iter()
            .map(|r| self.exprs(ctx, r))
            .collect::<Result<Vec<_>>>()?;
        self.values_of(rows)
    }

    /// VALUES of bound rows.
    pub(crate) fn values_of(&self, mut rows: Vec<Vec<Typed>>) -> Result<Rel> {
        let width = rows.first().map_or(0, Vec::len);
        if rows.iter().any(|r| r.len() != width) {
            return Err(SqlError::new(
                "42601",
                "VALUES lists must all be the same length",
            ));
        }
        let mut types = Vec::new();
        let mut unknown = Vec::new();
        for i in 0..width {
            let numeric = |t: &&Typed| !t.unknown && matches!(t.ty, SqlType::Numeric(..));
            if let Some(numeric) = rows.iter().map(|r| &r[i]).find(numeric).cloned() {
                for row in rows.iter_mut().filter(|r| r[i].unknown) {
                    row[i] = self.beside(row[i].clone(), &numeric)?;
                }
            }
            let column = || rows.iter().map(|r| (&r[i].ty, r[i].unknown));
            let ty = own_scales(self.unify_types(column(), "VALUES")?, column());
            types.push(with_digits(ty, rows.iter().map(|r| &r[i])));
            unknown.push(rows.iter().all(|r| r[i].unknown));
        }
        let names: Vec<String> = (1..=width).map(|i| format!("column{i}")).collect();
        let fields: Vec<arrow::datatypes::Field> = types
            .iter()
            .zip(&names)
            .map(|(t, n)| arrow::datatypes::Field::new(n, t.arrow(), true))
            .collect();
        let values = rows
            .iter()
            .map(|r| {
                r.iter()
                    .zip(&types)
                    .map(|(t, ty)| self.implicit(t, ty))
                    .collect::<Result<Vec<_>>>()
            })
            .collect::<Result<Vec<_>>>()?;
        let plan = if values.iter().flatten().any(super::select::has_subquery) {
            rows_apart(values, &names)?
        } else {
            let schema = df(DFSchema::try_from(arrow::datatypes::Schema::new(fields)))?;
            LogicalPlan::Values(Values {
                schema: Arc::new(schema),
                values,
            })
        };
        let cols = names
            .into_iter()
            .zip(types)
            .zip(unknown)
            .map(|((n, ty), unknown)| RelCol {
                column: Column::new_unqualified(n.clone()),
                name: n,
                ty,
                unknown,
            })
            .collect();
        Ok(Rel { plan, cols })
    }
}

/// Rows without columns, with one that is the same for all.
fn marked(rel: Rel) -> Result<Rel> {
    const ROW: &str = "#row";
    let plan = project(rel.plan, vec![super::truth(true).alias(ROW)])?;
    let column = RelCol {
        name: ROW.into(),
        ty: SqlType::Bool,
        unknown: false,
        column: Column::new_unqualified(ROW),
    };
    Ok(Rel {
        plan,
        cols: vec![column],
    })
}

/// VALUES as a union of queries for one row each: DataFusion evaluates VALUES while it plans, when no subquery has run.
fn rows_apart(values: Vec<Vec<Expr>>, names: &[String]) -> Result<LogicalPlan> {
    let rows = values
        .into_iter()
        .map(|row| {
            let exprs = row.into_iter().zip(names).map(|(e, n)| e.alias(n));
            project(super::from::one_row(), exprs.collect()).map(Arc::new)
        })
        .collect::<Result<Vec<_>>>()?;
    match <[Arc<LogicalPlan>; 1]>::try_from(rows) {
        Ok([one]) => Ok(Arc::unwrap_or_clone(one)),
        Err(rows) => df(Union::try_new(rows).map(LogicalPlan::Union)),
    }
}
