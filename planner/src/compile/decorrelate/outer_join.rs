//! Outer joins with subqueries about both sides in their condition. Such a condition can only be a filter, so the join becomes the
//! rows of the inner join, and those of a side for which there are none, with NULLs.

use std::sync::Arc;

use datafusion_common::tree_node::Transformed;
use datafusion_common::{Column, ExprSchema, JoinType, NullEquality, Result, Spans};
use datafusion_expr::expr::Exists;
use datafusion_expr::logical_plan::{Subquery, Union};
use datafusion_expr::{Expr, Filter, Join, LogicalPlan, LogicalPlanBuilder, Operator, Projection};
use datafusion_expr::{binary_expr, lit};
use tidemill_zset::schema::SqlType;

use super::names::{named, replace_outer};
use crate::bind::null_of;
use crate::tree::Tree;

/// The outer join `join` as a union. Its columns keep their names.
pub(super) fn expand(join: &Join, count: &mut usize) -> Result<LogicalPlan> {
    let equal = join.on.iter().map(|(l, r)| {
        let operator = match join.null_equality {
            NullEquality::NullEqualsNothing => Operator::Eq,
            NullEquality::NullEqualsNull => Operator::IsNotDistinctFrom,
        };
        binary_expr(l.clone(), operator, r.clone())
    });
    let condition = equal.chain(join.filter.clone()).reduce(Expr::and);
    let condition = condition.unwrap_or_else(|| lit(true));

    let given = join.schema.columns();
    *count += 1;
    let name = |i: usize| format!("__outer_join_{count}_{i}");
    let part = |rows: LogicalPlan| -> Result<Arc<LogicalPlan>> {
        let fields = given.iter().zip(join.schema.fields()).enumerate();
        let exprs = fields.map(|(i, (c, field))| {
            let there = rows.schema().has_column(c);
            let value = match there {
                true => Expr::Column(c.clone()),
                false => null_of(&SqlType::of(field)),
            };
            value.alias(name(i))
        });
        let exprs = exprs.collect();
        let rows = Projection::try_new(exprs, Arc::new(rows))?;
        Ok(Arc::new(LogicalPlan::Projection(rows)))
    };

    let pairs = LogicalPlanBuilder::from(join.left.as_ref().clone())
        .cross_join(join.right.as_ref().clone())?
        .build()?;
    let pairs = Filter::try_new(condition.clone(), Arc::new(pairs))?;
    let mut parts = vec![part(LogicalPlan::Filter(pairs))?];
    if matches!(join.join_type, JoinType::Left | JoinType::Full) {
        parts.push(part(alone(&join.left, &join.right, &condition)?)?);
    }
    if matches!(join.join_type, JoinType::Right | JoinType::Full) {
        parts.push(part(alone(&join.right, &join.left, &condition)?)?);
    }
    let union = LogicalPlan::Union(Union::try_new(parts)?);
    let renamed = given.into_iter().enumerate();
    let exprs = renamed.map(|(i, c)| named(Expr::Column(Column::new_unqualified(name(i))), c));
    let exprs = exprs.collect();
    Ok(LogicalPlan::Projection(Projection::try_new(
        exprs,
        Arc::new(union),
    )?))
}

/// The rows of `side` that meet none of `other`.
fn alone(
    side: &Arc<LogicalPlan>,
    other: &Arc<LogicalPlan>,
    condition: &Expr,
) -> Result<LogicalPlan> {
    let condition = condition.clone().change_up(&mut |e| {
        let Expr::Column(c) = &e else {
            return Ok(Transformed::no(e));
        };
        let Ok(field) = side.schema().field_from_column(c) else {
            return Ok(Transformed::no(e));
        };
        let outer = Expr::OuterReferenceColumn(Arc::clone(field), c.clone());
        Ok(Transformed::yes(outer))
    })?;
    let met = Filter::try_new(condition.data, Arc::clone(other))?;
    let met = Subquery {
        subquery: Arc::new(LogicalPlan::Filter(met)),
        outer_ref_columns: vec![],
        spans: Spans::new(),
    };
    let none = Expr::Exists(Exists {
        subquery: replace_outer(met, &|_| Ok(None))?,
        negated: true,
    });
    Ok(LogicalPlan::Filter(Filter::try_new(
        none,
        Arc::clone(side),
    )?))
}
