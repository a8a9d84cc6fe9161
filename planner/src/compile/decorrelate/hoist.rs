//! Subqueries in conditions of joins, aggregates, windows and sorts, moved to projections below, where they can become
//! joins.

use std::sync::Arc;

use crate::tree::{PlanTree, Tree};
use datafusion::functions_aggregate::count::count_udaf;
use datafusion_common::tree_node::Transformed;
use datafusion_common::{Column, JoinType, Result};
use datafusion_expr::expr::Exists;
use datafusion_expr::expr_rewriter::NamePreserver;
use datafusion_expr::logical_plan::Subquery;
use datafusion_expr::{Expr, Filter, Join, LogicalPlan, LogicalPlanBuilder, Projection, lit};

use tidemill_zset::schema::SqlType;

use super::names::{free_columns, free_in_expr, subquery_of};
use super::{has_subquery, outer_join};
use crate::functions::single::nullable;

/// See the module.
pub(in crate::compile) fn hoist(plan: LogicalPlan) -> Result<LogicalPlan> {
    let mut count = 0;
    plan.change_all_up(&mut |node| match node {
        LogicalPlan::Join(join)
            if join.filter.as_ref().is_some_and(has_subquery)
                || join
                    .on
                    .iter()
                    .any(|(l, r)| has_subquery(l) || has_subquery(r)) =>
        {
            hoist_join(join, &mut count)
        }
        LogicalPlan::Aggregate(_) | LogicalPlan::Window(_) | LogicalPlan::Sort(_)
            if node.expressions().iter().any(has_subquery) =>
        {
            hoist_one(node, &mut count)
        }
        LogicalPlan::Filter(_) | LogicalPlan::Projection(_)
            if node.expressions().iter().any(looks_for_subqueries) =>
        {
            hoist_operands(node, &mut count)
        }
        node => Ok(Transformed::no(node)),
    })
    .map(|t| t.data)
}

/// Whether a subquery is looked for among another one's rows in `e`.
fn looks_for_subqueries(e: &Expr) -> bool {
    let mut within = |e: &Expr| Ok(matches!(e, Expr::InSubquery(i) if has_subquery(&i.expr)));
    e.any(&mut within).unwrap_or(true)
}

/// A filter or projection in which subqueries are looked for among others' rows: the rules would have them in a join's condition. Its own
/// columns stay.
fn hoist_operands(node: LogicalPlan, count: &mut usize) -> Result<Transformed<LogicalPlan>> {
    let given = columns(&node);
    let names = NamePreserver::new_for_projection();
    let mut found = Found::default();
    let mut exprs = vec![];
    for e in node.expressions() {
        let name = names.save(&e);
        let taken = e.change_down(&mut |e| match e {
            Expr::InSubquery(mut i) if has_subquery(&i.expr) => {
                *i.expr = found.take(*i.expr, count, &|_| Ok(true))?;
                Ok(Transformed::yes(Expr::InSubquery(i)))
            }
            e => Ok(Transformed::no(e)),
        })?;
        exprs.push(match node {
            LogicalPlan::Filter(_) => taken.data,
            _ => name.restore(taken.data),
        });
    }
    let input = found.over(Arc::new(node.inputs()[0].clone()))?;
    let plan = node.with_new_exprs(exprs, vec![Arc::unwrap_or_clone(input)])?;
    if matches!(node, LogicalPlan::Projection(_)) {
        return Ok(Transformed::yes(plan));
    }
    let plan = Projection::try_new(given, Arc::new(plan))?;
    Ok(Transformed::yes(LogicalPlan::Projection(plan)))
}

/// Subqueries that became columns.
#[derive(Default)]
struct Found(Vec<(Expr, Column)>);

impl Found {
    /// `e` with its subqueries replaced by columns, as far as `wanted` says.
    fn take(
        &mut self,
        e: Expr,
        count: &mut usize,
        wanted: &dyn Fn(&Expr) -> Result<bool>,
    ) -> Result<Expr> {
        // From the top: a subquery's other operand goes with it.
        let taken = e.change_down(&mut |e| {
            if subquery_of(&e).is_none() || !wanted(&e)? {
                return Ok(Transformed::no(e));
            }
            Ok(Transformed::yes(self.column(e, count)))
        })?;
        Ok(taken.data)
    }

    /// A window function with the keys in which there are subqueries replaced by columns: DataFusion doesn't recognise an order by
    /// expressions over what they become.
    fn take_keys(&mut self, e: Expr, count: &mut usize) -> Result<Expr> {
        let taken = e.change_down(&mut |e| {
            let Expr::WindowFunction(mut window) = e else {
                return Ok(Transformed::no(e));
            };
            let params = &mut window.params;
            let order = params.order_by.iter_mut().map(|by| &mut by.expr);
            for key in params.partition_by.iter_mut().chain(order) {
                if has_subquery(key) {
                    *key = self.column(key.clone(), count);
                }
            }
            Ok(Transformed::yes(Expr::WindowFunction(window)))
        })?;
        Ok(taken.data)
    }

    /// The column that `e` becomes.
    fn column(&mut self, e: Expr, count: &mut usize) -> Expr {
        if let Some((_, column)) = self.0.iter().find(|(have, _)| *have == e) {
            return Expr::Column(column.clone());
        }
        *count += 1;
        let column = Column::new_unqualified(format!("__hoisted_{count}"));
        self.0.push((e, column.clone()));
        Expr::Column(column)
    }

    /// `input` with the columns behind its own.
    fn over(self, input: Arc<LogicalPlan>) -> Result<Arc<LogicalPlan>> {
        if self.0.is_empty() {
            return Ok(input);
        }
        let mut exprs = columns(&input);
        for (e, c) in self.0 {
            let e = match &e {
                // As where it stood: NULL without a row.
                Expr::ScalarSubquery(s) => {
                    let ty = SqlType::of(s.subquery.schema().field(0));
                    nullable(e, &ty)
                }
                Expr::Exists(exists) if free_columns(&exists.subquery.subquery)?.is_empty() => {
                    counted(exists)?
                }
                _ => e,
            };
            exprs.push(e.alias(c.name));
        }
        let projection = Projection::try_new(exprs, input)?;
        Ok(Arc::new(LogicalPlan::Projection(projection)))
    }
}

/// EXISTS that names no outer column by the number of its rows: the rules know it in conditions only.
fn counted(exists: &Exists) -> Result<Expr> {
    let subquery = &exists.subquery;
    let rows = LogicalPlanBuilder::from(subquery.subquery.as_ref().clone());
    let rows = rows.aggregate(Vec::<Expr>::new(), vec![count_udaf().call(vec![lit(1i64)])])?;
    let rows = Expr::ScalarSubquery(Subquery {
        subquery: Arc::new(rows.build()?),
        outer_ref_columns: vec![],
        spans: subquery.spans.clone(),
    });
    Ok(match exists.negated {
        true => rows.eq(lit(0i64)),
        false => rows.gt(lit(0i64)),
    })
}

/// The columns of a plan, as expressions.
pub(super) fn columns(plan: &LogicalPlan) -> Vec<Expr> {
    plan.schema()
        .columns()
        .into_iter()
        .map(Expr::Column)
        .collect()
}

/// A node with one input. Its own columns stay.
fn hoist_one(node: LogicalPlan, count: &mut usize) -> Result<Transformed<LogicalPlan>> {
    let given = columns(&node);
    let is_aggregate = matches!(node, LogicalPlan::Aggregate(_));
    let names = NamePreserver::new_for_projection();
    let mut found = Found::default();
    let mut exprs = vec![];
    for e in node.expressions() {
        if is_aggregate && matches!(e, Expr::GroupingSet(_)) {
            exprs.push(e);
            continue;
        }
        let name = names.save(&e);
        let e = match node {
            LogicalPlan::Window(_) => found.take_keys(e, count)?,
            _ => e,
        };
        let taken = found.take(e, count, &|_| Ok(true))?;
        exprs.push(match node {
            LogicalPlan::Sort(_) => taken,
            _ => name.restore(taken),
        });
    }
    let input = found.over(Arc::new(node.inputs()[0].clone()))?;
    let plan = node.with_new_exprs(exprs, vec![Arc::unwrap_or_clone(input)])?;
    if is_aggregate {
        return Ok(Transformed::yes(plan));
    }
    let plan = Projection::try_new(given, Arc::new(plan))?;
    Ok(Transformed::yes(LogicalPlan::Projection(plan)))
}

/// A subquery goes to the side whose columns it names; if it names both, the condition becomes a filter.
fn hoist_join(join: Join, count: &mut usize) -> Result<Transformed<LogicalPlan>> {
    let given = columns(&LogicalPlan::Join(join.clone()));
    let names_only = |side: &LogicalPlan, e: &Expr| -> Result<bool> {
        let mut out = std::collections::BTreeSet::new();
        free_in_expr(e, &|_| false, &mut out)?;
        out.extend(e.column_refs().into_iter().cloned());
        let (l, r) = (join.left.schema(), join.right.schema());
        let ours = |c: &Column| l.has_column(c) || r.has_column(c);
        Ok(out
            .iter()
            .filter(|c| ours(c))
            .all(|c| side.schema().has_column(c)))
    };
    let (mut left, mut right) = (Found::default(), Found::default());
    let mut place = |e: Expr, count: &mut usize| -> Result<Expr> {
        let e = right.take(e, count, &|e| names_only(&join.right, e))?;
        left.take(e, count, &|e| names_only(&join.left, e))
    };
    let filter = join.filter.clone().map(|f| place(f, count)).transpose()?;
    let mut on = vec![];
    for (l, r) in &join.on {
        on.push((place(l.clone(), count)?, place(r.clone(), count)?));
    }
    let (left, right) = (
        left.over(join.left.clone())?,
        right.over(join.right.clone())?,
    );
    let both_sides = filter.as_ref().is_some_and(has_subquery);
    let (filter, above) = match both_sides && join.join_type == JoinType::Inner {
        true => (None, filter),
        false => (filter, None),
    };
    let placed = Join::try_new(
        left,
        right,
        on,
        filter,
        join.join_type,
        join.join_constraint,
        join.null_equality,
        join.null_aware,
    )?;
    let mut plan = match placed.join_type {
        JoinType::Left | JoinType::Right | JoinType::Full if both_sides => {
            outer_join::expand(&placed, count)?
        }
        _ => LogicalPlan::Join(placed),
    };
    if let Some(predicate) = above {
        plan = LogicalPlan::Filter(Filter::try_new(predicate, Arc::new(plan))?);
    }
    let plan = LogicalPlanBuilder::from(plan).project(given)?.build()?;
    Ok(Transformed::yes(plan))
}
