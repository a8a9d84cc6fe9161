//! Correlated subqueries in branches that may not be taken. As joins they are computed for all rows around them, also for those for which
//! that would fail, as for a division by what the branch says isn't zero. So they get the columns that they name as they are where the
//! branch is taken, and NULL elsewhere, where nobody looks at what they give.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion_common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion_common::{Column, Result};
use datafusion_expr::expr::{BinaryExpr, Case};
use datafusion_expr::expr_rewriter::NamePreserver;
use datafusion_expr::{Expr, LogicalPlan, Operator, Projection, binary_expr, when};

use super::has_subquery;
use super::hoist::columns;
use super::names::{free_columns, replace_outer, subquery_of, with_subquery};
use crate::functions::shared::{can_fail_anywhere, can_fail_for_some_value};
use crate::tree::{PlanTree, Tree};

/// See the module.
pub(super) fn guarded(plan: LogicalPlan) -> Result<LogicalPlan> {
    let mut count = 0;
    let changed = plan.change_all_up(&mut |node| {
        let [input] = node.inputs()[..] else {
            return Ok(Transformed::no(node));
        };
        if !node.expressions().iter().any(has_subquery) {
            return Ok(Transformed::no(node));
        }
        let mut columns = Guarded {
            input,
            is_filter: matches!(node, LogicalPlan::Filter(_)),
            found: vec![],
            count: &mut count,
        };
        let names = NamePreserver::new_for_projection();
        let mut exprs = vec![];
        for e in node.expressions() {
            let name = names.save(&e);
            let e = columns.guard(e, &[])?;
            exprs.push(match node {
                LogicalPlan::Filter(_) | LogicalPlan::Sort(_) => e,
                _ => name.restore(e),
            });
        }
        match std::mem::take(&mut columns.found) {
            found if found.is_empty() => Ok(Transformed::no(node)),
            found => over(&node, exprs, found).map(Transformed::yes),
        }
    })?;
    Ok(changed.data)
}

/// The node with other expressions, which name further columns of its input. Its own columns stay.
fn over(node: &LogicalPlan, exprs: Vec<Expr>, found: Vec<(Expr, Column)>) -> Result<LogicalPlan> {
    let input = node.inputs()[0];
    let mut all = columns(input);
    all.extend(found.into_iter().map(|(e, c)| e.alias(c.name)));
    let input = Projection::try_new(all, Arc::new(input.clone()))?;
    let plan = node.with_new_exprs(exprs, vec![LogicalPlan::Projection(input)])?;
    if matches!(plan, LogicalPlan::Projection(_) | LogicalPlan::Aggregate(_)) {
        return Ok(plan);
    }
    let plan = Projection::try_new(columns(node), Arc::new(plan))?;
    Ok(LogicalPlan::Projection(plan))
}

/// Columns of a node's input as they are where something holds.
struct Guarded<'n> {
    input: &'n LogicalPlan,
    /// Filters evaluate what stands between ANDs from left to right.
    is_filter: bool,
    found: Vec<(Expr, Column)>,
    count: &'n mut usize,
}

impl Guarded<'_> {
    /// `e`, which is evaluated where all of `guards` are true, the first ones first.
    fn guard(&mut self, e: Expr, guards: &[Expr]) -> Result<Expr> {
        match e {
            Expr::Case(case) => self.case(case, guards),
            Expr::BinaryExpr(BinaryExpr { left, op, right })
                if matches!(op, Operator::And | Operator::Or) =>
            {
                let decides = match op {
                    Operator::And if self.is_filter && guards.is_empty() => None,
                    Operator::And => Some(Expr::IsNotFalse(left.clone())),
                    _ => Some(Expr::IsNotTrue(left.clone())),
                };
                let right = match decides {
                    Some(decides) => self.guard(*right, &with(guards, decides))?,
                    None => self.guard(*right, guards)?,
                };
                let left = self.guard(*left, guards)?;
                Ok(binary_expr(left, op, right))
            }
            Expr::ScalarFunction(mut call) if call.func.name() == "coalesce" => {
                let mut guards = guards.to_vec();
                let args = std::mem::take(&mut call.args);
                for arg in args {
                    let before = with(&guards, Expr::IsNull(Box::new(arg.clone())));
                    call.args.push(self.guard(arg, &guards)?);
                    guards = before;
                }
                Ok(Expr::ScalarFunction(call))
            }
            e if subquery_of(&e).is_some() => self.subquery(e, guards),
            e => {
                let mut inner = |e: Expr| self.guard(e, guards).map(Transformed::yes);
                Ok(e.change_children(&mut inner)?.data)
            }
        }
    }

    fn case(&mut self, case: Case, guards: &[Expr]) -> Result<Expr> {
        let mut guards = guards.to_vec();
        let mut branches = vec![];
        for (condition, value) in case.when_then_expr {
            let holds = match &case.expr {
                Some(of) => binary_expr(of.as_ref().clone(), Operator::Eq, *condition.clone()),
                None => condition.as_ref().clone(),
            };
            let taken = with(&guards, Expr::IsTrue(Box::new(holds.clone())));
            let condition = self.guard(*condition, &guards)?;
            let value = self.guard(*value, &taken)?;
            branches.push((Box::new(condition), Box::new(value)));
            guards = with(&guards, Expr::IsNotTrue(Box::new(holds)));
        }
        let otherwise = case
            .else_expr
            .map(|e| self.guard(*e, &guards))
            .transpose()?;
        Ok(Expr::Case(Case {
            expr: case.expr,
            when_then_expr: branches,
            else_expr: otherwise.map(Box::new),
        }))
    }

    fn subquery(&mut self, e: Expr, guards: &[Expr]) -> Result<Expr> {
        let Some(subquery) = subquery_of(&e) else {
            return Ok(e);
        };
        let free = free_columns(&subquery.subquery)?;
        let ours = |c: &Column| self.input.schema().has_column(c);
        if guards.is_empty() || free.is_empty() || !free.iter().all(ours) {
            return Ok(e);
        }
        let looks_for = match &e {
            Expr::InSubquery(i) => can_fail_anywhere(&i.expr),
            _ => false,
        };
        if !looks_for && !fails_of(&subquery.subquery, &free)? {
            return Ok(e);
        }
        let mut columns = vec![];
        for c in &free {
            columns.push((c, self.column(c, guards)?));
        }
        let e = with_subquery(e, |s| {
            replace_outer(s, &|e| {
                let Expr::OuterReferenceColumn(field, c) = e else {
                    return Ok(None);
                };
                let place = columns.iter().find(|(from, _)| *from == c);
                let field = Arc::new(field.as_ref().clone().with_nullable(true));
                Ok(place.map(|(_, to)| Expr::OuterReferenceColumn(field, to.clone())))
            })
        })?;
        Ok(match e {
            Expr::InSubquery(mut i) => {
                *i.expr = where_true(guards, *i.expr)?;
                Expr::InSubquery(i)
            }
            e => e,
        })
    }

    /// The column that `c` becomes.
    fn column(&mut self, c: &Column, guards: &[Expr]) -> Result<Column> {
        let e = where_true(guards, Expr::Column(c.clone()))?;
        if let Some((_, column)) = self.found.iter().find(|(have, _)| *have == e) {
            return Ok(column.clone());
        }
        *self.count += 1;
        let column = Column::new_unqualified(format!("__guarded_{}", self.count));
        self.found.push((e, column.clone()));
        Ok(column)
    }
}

/// And `guard`, unless it takes a subquery to know it.
fn with(guards: &[Expr], guard: Expr) -> Vec<Expr> {
    let more = (!has_subquery(&guard)).then_some(guard);
    guards.iter().cloned().chain(more).collect()
}

/// `e` where all of `guards` are true, else NULL. None is evaluated where one before it isn't true.
fn where_true(guards: &[Expr], e: Expr) -> Result<Expr> {
    let mut guards = guards.iter().rev();
    guards.try_fold(e, |e, guard| when(guard.clone(), e).end())
}

/// Whether something in the plan can fail that is computed of `outer` columns, or of rows that are chosen by them.
fn fails_of(plan: &LogicalPlan, outer: &BTreeSet<Column>) -> Result<bool> {
    let mut fails = false;
    plan.walk_all(&mut |node| {
        for e in node.expressions() {
            let of_outer = e.any(&mut |e| {
                Ok(matches!(e, Expr::OuterReferenceColumn(_, c) if outer.contains(c)))
            })?;
            fails |=
                of_outer && can_fail_anywhere(&e) || can_fail_for_some_value(&e, &node.inputs());
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(fails)
}
