//! Subqueries in FROM that use what stands to their left.

use std::sync::Arc;

use datafusion_common::{Column, JoinType};
use datafusion_expr::expr::{Sort, WindowFunction, WindowFunctionParams};
use datafusion_expr::{Expr, LogicalPlan};
use sqlparser::ast::{self, JoinConstraint, SelectItem, SetExpr, TableAlias};

use super::expr::{Calls, Ctx};
use super::grouping::is_subquery;
use super::scope::{Outer, Scope, ScopeCol, ScopeTable};
use super::{Binder, Ctes, Typed, columns_of, df, filter_all, project};
use crate::compile::decorrelate;
use crate::error::{Result, SqlError};
use crate::once::is_volatile_value;
use crate::parser::{fold, parts};
use crate::walk;

use super::from::{Joined, one_row};

/// Begins the names of what a LATERAL subquery is computed for.
pub(super) const LATERAL: &str = "#lateral";

impl Binder<'_> {
    /// A subquery that uses what stands to its left.
    pub(super) fn join_lateral<'o>(
        &self,
        left: Joined<'o>,
        q: &ast::Query,
        alias: Option<&TableAlias>,
        kind: JoinType,
        constraint: &JoinConstraint,
        ctes: &Ctes,
    ) -> Result<Joined<'o>> {
        let trivial = match constraint {
            JoinConstraint::On(e) => {
                matches!(super::expr::strip(e), ast::Expr::Value(v) if v.value == ast::Value::Boolean(true))
            }
            JoinConstraint::None => true,
            _ => false,
        };
        if !matches!(kind, JoinType::Inner | JoinType::Left) {
            return Err(SqlError::new(
                "42P10",
                "the combining JOIN type must be INNER or LEFT for a LATERAL reference",
            ));
        }
        let s = match continues_join(q) {
            Some(s) if kind == JoinType::Inner => s,
            _ => return self.lateral_query(left, q, alias, kind, constraint, ctes),
        };
        let base = || left.plan.clone().unwrap_or_else(one_row);
        let name = alias.map(|a| fold(&a.name)).unwrap_or_default();
        let (plan, cols) = if s.projection.iter().any(is_aggregated) {
            match self.lateral_aggregates(base(), &left.scope, q, s, ctes)? {
                Some(joined) => joined,
                None => return self.lateral_query(left, q, alias, kind, constraint, ctes),
            }
        } else {
            self.lateral_rows(base(), &left.scope, s, ctes)?
        };
        let mut scope = left.scope;
        let mut t = ScopeTable {
            alias: name,
            schema: None,
            cols,
            primary_key: None,
        };
        for (c, n) in t
            .cols
            .iter_mut()
            .zip(alias.map(|a| &a.columns).into_iter().flatten())
        {
            c.name = fold(&n.name);
        }
        let width = scope.tables.len();
        scope.add(t)?;
        let mut plan = plan;
        if let (JoinConstraint::On(e), false) = (constraint, trivial) {
            plan = self.where_clause(plan, &scope, ctes, e)?;
        }
        let (on, merged) = self.columns_in_common(&mut scope, width, kind, constraint)?;
        plan = filter_all(plan, on)?;
        if let Some(merged) = merged {
            plan = self.with_merged(plan, merged, &mut scope)?;
        }
        Ok(Joined {
            plan: Some(plan),
            scope,
        })
    }

    /// Any query, computed for all rows to the left at once and joined to them.
    fn lateral_query<'o>(
        &self,
        left: Joined<'o>,
        q: &ast::Query,
        alias: Option<&TableAlias>,
        kind: JoinType,
        constraint: &JoinConstraint,
        ctes: &Ctes,
    ) -> Result<Joined<'o>> {
        let mut scope = left.scope;
        let base = self.narrowed(left.plan.unwrap_or_else(one_row))?;
        let used = std::cell::RefCell::new(Vec::new());
        let rel = self.query(q, ctes, Outer::Query(&scope, &used, None))?;
        let mut rel = self.settled(rel)?;
        // Names that nothing to the left has.
        let names: Vec<String> = rel.cols.iter().map(|_| self.fresh("lateral")).collect();
        let exprs = rel.cols.iter().zip(&names);
        let exprs = exprs
            .map(|(c, n)| Expr::Column(c.column.clone()).alias(n))
            .collect();
        let right = project(rel.plan, exprs)?;
        for (c, n) in rel.cols.iter_mut().zip(names) {
            c.column = Column::new_unqualified(n);
        }
        let cols = rel.cols.into_iter().map(|c| ScopeCol {
            name: c.name,
            ty: c.ty,
            expr: Expr::Column(c.column),
            hidden: false,
        });
        let mut t = ScopeTable {
            alias: alias.map(|a| fold(&a.name)).unwrap_or_default(),
            schema: None,
            cols: cols.collect(),
            primary_key: None,
        };
        let names = alias.map(|a| &a.columns).into_iter().flatten();
        for (c, n) in t.cols.iter_mut().zip(names) {
            c.name = fold(&n.name);
        }
        let width = scope.tables.len();
        scope.add(t)?;
        let (common, merged) = self.columns_in_common(&mut scope, width, kind, constraint)?;
        // A condition with a subquery can't be one of a join; above an inner join it means the same.
        let mut above = None;
        let on = match constraint {
            JoinConstraint::On(e) if walk::any_expr(e, is_subquery) => {
                if kind != JoinType::Inner {
                    return Err(SqlError::unsupported(
                        "a subquery in the condition of this LATERAL join is not supported",
                    )
                    .hint("Write the condition in the WHERE of the LATERAL subquery."));
                }
                above = Some(e);
                None
            }
            JoinConstraint::On(e) => Some(self.condition(Ctx::plain(&scope, ctes, "ON"), e)?),
            _ => datafusion_expr::utils::conjunction(common),
        };
        let name = self.qualifier(LATERAL).to_string();
        let plan = df(decorrelate::lateral(&base, &right, kind, on, name))?.ok_or_else(|| {
            SqlError::unsupported("this LATERAL subquery is not supported")
                .detail("It is recursive, or has a LIMIT that isn't constant.")
        })?;
        let mut plan = match above {
            Some(e) => self.where_clause(plan, &scope, ctes, e)?,
            None => plan,
        };
        if let Some(merged) = merged {
            plan = self.with_merged(plan, merged, &mut scope)?;
        }
        Ok(Joined {
            plan: Some(plan),
            scope,
        })
    }

    /// Aggregates without GROUP BY give one row: each is a scalar subquery. `None`: they might be of different rows.
    pub(super) fn lateral_aggregates(
        &self,
        base: LogicalPlan,
        scope: &Scope,
        q: &ast::Query,
        s: &ast::Select,
        ctes: &Ctes,
    ) -> Result<Option<(LogicalPlan, Vec<ScopeCol>)>> {
        let mut exprs: Vec<Expr> = columns_of(&base).into_iter().map(Expr::Column).collect();
        let mut cols = Vec::new();
        for item in &s.projection {
            let (name, e) = match item {
                SelectItem::UnnamedExpr(e) => (super::names::output_name(e), e),
                SelectItem::ExprWithAlias { expr, alias } => (fold(alias), expr),
                _ => {
                    return Err(SqlError::unsupported(
                        "* beside aggregates in LATERAL is not supported",
                    ));
                }
            };
            let mut one = s.clone();
            one.projection = vec![SelectItem::UnnamedExpr(e.clone())];
            let mut single = q.clone();
            // Of one row.
            single.order_by = None;
            *single.body = SetExpr::Select(Box::new(one));
            let t = self.scalar_subquery(Ctx::plain(scope, ctes, "LATERAL"), &single)?;
            if s.projection.len() > 1 && df(is_volatile_value(&t.expr))? {
                return Ok(None);
            }
            let column = self.fresh("lateral");
            exprs.push(t.expr.alias(&column));
            cols.push(ScopeCol {
                name,
                ty: t.ty,
                expr: Expr::Column(Column::new_unqualified(column)),
                hidden: false,
            });
        }
        Ok(Some((project(base, exprs)?, cols)))
    }

    /// Rows of a subquery without aggregates: its FROM continues the join.
    pub(super) fn lateral_rows(
        &self,
        base: LogicalPlan,
        left: &Scope,
        s: &ast::Select,
        ctes: &Ctes,
    ) -> Result<(LogicalPlan, Vec<ScopeCol>)> {
        let left_columns = columns_of(&base);
        let (mut plan, inner) =
            self.relations_on(Some(base), &s.from, ctes, Outer::Lateral(left))?;
        if let Some(w) = &s.selection {
            plan = self.where_clause(plan, &inner, ctes, w)?;
        }
        let calls = std::cell::RefCell::new(Calls::default());
        let ctx = Ctx {
            calls: Some(&calls),
            sets: false,
            ..Ctx::plain(&inner, ctes, "LATERAL")
        };
        let mut exprs: Vec<Expr> = left_columns.into_iter().map(Expr::Column).collect();
        let mut cols = Vec::new();
        let mut push = |name: String, t: Typed| -> Result<()> {
            let t = self.known(t)?;
            let column = self.fresh("lateral");
            exprs.push(t.expr.alias(&column));
            cols.push(ScopeCol {
                name,
                ty: t.ty,
                expr: Expr::Column(Column::new_unqualified(column)),
                hidden: false,
            });
            Ok(())
        };
        for item in &s.projection {
            match item {
                SelectItem::UnnamedExpr(e) => {
                    push(super::names::output_name(e), self.expr(ctx, e)?)?
                }
                SelectItem::ExprWithAlias { expr, alias } => {
                    push(fold(alias), self.expr(ctx, expr)?)?
                }
                SelectItem::Wildcard(_) => {
                    for c in inner.star() {
                        push(c.name.clone(), Typed::new(c.expr.clone(), c.ty.clone()))?;
                    }
                }
                other => {
                    return Err(SqlError::unsupported(format!(
                        "LATERAL with {other} is not supported"
                    )));
                }
            }
        }
        Ok((project(plan, exprs)?, cols))
    }
}

/// The SELECT of a query whose FROM can go on where the relations to its left end: no rows of it depend on all of its
/// input but by aggregates.
fn continues_join(q: &ast::Query) -> Option<&ast::Select> {
    let SetExpr::Select(s) = q.body.as_ref() else {
        return None;
    };
    let plain_group = matches!(&s.group_by, ast::GroupByExpr::Expressions(e, _) if e.is_empty());
    let is_table = |r: &ast::TableFactor| matches!(r, ast::TableFactor::Table { .. });
    let plain_joins = s.from.iter().all(|t| {
        is_table(&t.relation)
            && t.joins.iter().all(|j| {
                is_table(&j.relation)
                    && matches!(
                        j.join_operator,
                        ast::JoinOperator::Join(_)
                            | ast::JoinOperator::Inner(_)
                            | ast::JoinOperator::CrossJoin(_)
                    )
            })
    });
    let calls = |e: &ast::Expr| {
        walk::any_expr(e, |e| match e {
            ast::Expr::Function(f) => {
                let name = parts(&f.name).pop();
                f.over.is_some()
                    || name.is_some_and(|n| {
                        super::sets::is_set_returning(&n) || super::sets::is_each(&n)
                    })
            }
            e => matches!(e, ast::Expr::Subquery(_)),
        })
        // One in a subquery may be of the query's own rows.
        || !has_aggregate(e) && walk::any_expr(e, is_aggregate)
    };
    let items = s.projection.iter().all(|i| match i {
        SelectItem::UnnamedExpr(e) | SelectItem::ExprWithAlias { expr: e, .. } => !calls(e),
        SelectItem::Wildcard(_) => true,
        _ => false,
    });
    // Beside aggregates a constant by itself would be a query with as many rows as its FROM.
    let aggregated = s.projection.iter().filter(|i| is_aggregated(i)).count();
    let items = items && (aggregated == 0 || aggregated == s.projection.len());
    let plain = plain_group
        && plain_joins
        && items
        && q.with.is_none()
        && q.limit_clause.is_none()
        && q.fetch.is_none()
        && s.having.is_none()
        && s.distinct.is_none()
        && s.qualify.is_none()
        && !s.from.is_empty();
    plain.then_some(s)
}

fn is_aggregated(i: &SelectItem) -> bool {
    match i {
        SelectItem::UnnamedExpr(e) | SelectItem::ExprWithAlias { expr: e, .. } => has_aggregate(e),
        _ => false,
    }
}

/// It has an aggregate that isn't in a subquery.
pub(super) fn has_aggregate(e: &ast::Expr) -> bool {
    walk::any_expr_here(e, is_aggregate)
}

fn is_aggregate(e: &ast::Expr) -> bool {
    match e {
        ast::Expr::Function(f) if f.over.is_none() => {
            let name = parts(&f.name).pop();
            name.is_some_and(|n| super::aggregates::is_aggregate_call(&n, f))
        }
        _ => false,
    }
}

pub(crate) fn row_number(partition_by: Vec<Expr>, order_by: Vec<Sort>) -> Expr {
    let function = datafusion::functions_window::row_number::row_number_udwf();
    numbering(function, partition_by, order_by)
}

pub(crate) fn rank(partition_by: Vec<Expr>, order_by: Vec<Sort>) -> Expr {
    let function = datafusion::functions_window::rank::rank_udwf();
    numbering(function, partition_by, order_by)
}

/// A call of a function that numbers rows by those before them.
fn numbering(
    function: Arc<datafusion_expr::WindowUDF>,
    partition_by: Vec<Expr>,
    order_by: Vec<Sort>,
) -> Expr {
    Expr::WindowFunction(Box::new(WindowFunction {
        fun: datafusion_expr::WindowFunctionDefinition::WindowUDF(function),
        params: WindowFunctionParams {
            args: vec![],
            partition_by,
            order_by,
            window_frame: super::windows::numbering_frame(),
            filter: None,
            null_treatment: None,
            distinct: false,
        },
    }))
}
