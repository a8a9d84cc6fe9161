//! Scalar subqueries in branches that may not be taken: more than one row is an error only where the value is needed.

use datafusion_common::tree_node::TreeNodeRecursion;
use datafusion_common::{Column, Result};
use datafusion_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Operator};

use super::super::rules::{has_outer_reference, replace_subqueries};
use super::domain::Keyed;
use super::{at_most_one, counted};
use crate::functions::single::single;
use crate::tree::{PlanTree, Tree};

/// Joins what subqueries in branches of CASE and OR that name no outer row give: the number of their rows and one value. An operator of
/// their own would fail before any branch is chosen. Those with one row at most can't fail so.
pub(super) fn branches(plan: LogicalPlan) -> Result<LogicalPlan> {
    let mut found: Vec<Expr> = vec![];
    plan.walk_all(&mut |node| {
        for e in node.expressions() {
            in_branches(&e, &mut found)?;
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    if found.is_empty() {
        return Ok(plan);
    }
    let mut count = 0;
    replace_subqueries(plan, &mut |_, input, e| {
        let Expr::ScalarSubquery(subquery) = e else {
            return Ok(None);
        };
        let plan = subquery.subquery.as_ref();
        if !found.contains(e) || at_most_one(plan)?.0 || has_outer_reference(plan)? {
            return Ok(None);
        }
        count += 1;
        let name = format!("__branch_{count}");
        beside(input, plan, &name).map(Some)
    })
}

/// `input` with the number of the rows of `plan` and one of their values in columns of `name`, and the value, which fails where
/// there is more than one row.
pub(crate) fn beside(
    input: &LogicalPlan,
    plan: &LogicalPlan,
    name: &str,
) -> Result<(LogicalPlan, Expr)> {
    let value = Expr::Column(plan.schema().columns().remove(0));
    let rows = Keyed {
        plan: plan.clone(),
        keys: vec![],
    };
    let right = LogicalPlanBuilder::from(counted(rows, value)?);
    let given = right.schema().columns();
    let columns = given.into_iter().zip(["n", "v"]);
    let columns = columns.map(|(c, name)| Expr::Column(c).alias(name));
    let right = right.project(columns)?.alias(name)?.build()?;
    let joined = LogicalPlanBuilder::from(input.clone())
        .cross_join(right)?
        .build()?;
    let column = |c: &str| Expr::Column(Column::new(Some(name), c));
    let value = single(column("n"), column("v"), plan.schema().field(0));
    Ok((joined, value))
}

/// Adds the scalar subqueries of `e` that stand in a branch.
pub(crate) fn in_branches(e: &Expr, found: &mut Vec<Expr>) -> Result<()> {
    e.walk(&mut |e| {
        let branches: Vec<&Expr> = match e {
            Expr::Case(case) => {
                let values = case.when_then_expr.iter().map(|(_, then)| then.as_ref());
                let later = case.when_then_expr.iter().skip(1);
                let otherwise = case.else_expr.iter().map(|e| e.as_ref());
                let later = later.map(|(when, _)| when.as_ref());
                values.chain(later).chain(otherwise).collect()
            }
            Expr::BinaryExpr(b) if b.op == Operator::Or => vec![&b.right],
            _ => vec![],
        };
        for branch in branches {
            branch.walk(&mut |e| {
                if matches!(e, Expr::ScalarSubquery(_)) && !found.contains(e) {
                    found.push(e.clone());
                }
                Ok(TreeNodeRecursion::Continue)
            })?;
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(())
}
