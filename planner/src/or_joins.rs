//! Joins whose condition is an OR: one join for each of its branches, which finds its rows by what is equal in it. DataFusion looks at all
//! pairs. For queries that are executed once; a view's plan stays.
//!
//! * Rows that have a match (EXISTS) have one by one of the branches: each tells of a row whether it has (a mark join).
//! * Rows without a match have none by the first, and of these none by the second.
//! * Pairs are those of the first, and those of the second that aren't of the first.

use std::sync::Arc;

use datafusion_common::tree_node::Transformed;
use datafusion_common::{DFSchema, JoinType, NullEquality, Result};
use datafusion_expr::expr_rewriter::normalize_col;
use datafusion_expr::utils::{split_binary, split_conjunction};
use datafusion_expr::{
    Expr, ExprSchemable, Filter, Join, JoinConstraint, LogicalPlan, LogicalPlanBuilder, Operator,
    Projection, Union,
};

use crate::functions::shared::can_fail_anywhere;
use crate::tree::Tree;

/// More branches stay one condition.
const BRANCHES_MAX: usize = 4;

/// The optimised plan with such joins taken apart.
pub(crate) fn by_branches(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    plan.change_up(&mut |node| {
        let LogicalPlan::Join(join) = &node else {
            return Ok(Transformed::no(node));
        };
        Ok(match of_branches(join)? {
            Some(plan) => Transformed::yes(plan),
            None => Transformed::no(node),
        })
    })
}

fn of_branches(join: &Join) -> Result<Option<LogicalPlan>> {
    let Some(filter) = join.filter.as_ref().filter(|_| join.on.is_empty()) else {
        return Ok(None);
    };
    if can_fail_anywhere(filter) || filter.is_volatile() {
        return Ok(None);
    }
    let (mut branches, mut others) = (vec![], vec![]);
    for part in split_conjunction(filter) {
        match split_binary(part, Operator::Or) {
            all if branches.is_empty() && (2..=BRANCHES_MAX).contains(&all.len()) => branches = all,
            _ => others.push(part),
        }
    }
    // The right side is read for each branch, for pairs the left one is, too.
    let repeated =
        is_read(&join.right) && (join.join_type != JoinType::Inner || is_read(&join.left));
    let sides = [join.left.schema(), join.right.schema()];
    // Columns that aren't asked for may have one name.
    let Ok(both) = sides[0].join(sides[1]) else {
        return Ok(None);
    };
    let conditions = branches
        .iter()
        .map(|branch| Condition::of(branch, &others, sides, &both));
    let conditions: Vec<_> = conditions.collect();
    if !repeated || conditions.is_empty() || conditions.iter().any(|c| c.on.is_empty()) {
        return Ok(None);
    }
    let joined = |left: &LogicalPlan, condition: &Condition, kind| {
        let join = Join::try_new(
            Arc::new(left.clone()),
            join.right.clone(),
            condition.on.clone(),
            condition.filter.clone(),
            kind,
            JoinConstraint::On,
            NullEquality::NullEqualsNothing,
            false,
        );
        join.map(LogicalPlan::Join)
    };
    let left = &*join.left;
    match join.join_type {
        JoinType::LeftAnti if !join.null_aware => {
            let mut all = conditions.iter();
            all.try_fold(left.clone(), |rows, c| joined(&rows, c, JoinType::LeftAnti))
                .map(Some)
        }
        JoinType::LeftSemi => marked(left, &conditions, &joined).map(Some),
        JoinType::Inner => {
            let mut parts = vec![];
            for (n, condition) in conditions.iter().enumerate() {
                let mut only = condition.clone();
                for earlier in &branches[..n] {
                    let isnt = Expr::IsNotTrue(Box::new((*earlier).clone()));
                    only.filter = Some(match only.filter.take() {
                        Some(filter) => filter.and(isnt),
                        None => isnt,
                    });
                }
                parts.push(Arc::new(joined(left, &only, JoinType::Inner)?));
            }
            let schema = join.schema.clone();
            let all = LogicalPlan::Union(Union {
                inputs: parts,
                schema,
            });
            Ok(Some(all))
        }
        _ => Ok(None),
    }
}

/// The rows of `left` that have a match by one of the conditions.
fn marked(
    left: &LogicalPlan,
    conditions: &[Condition],
    joined: &dyn Fn(&LogicalPlan, &Condition, JoinType) -> Result<LogicalPlan>,
) -> Result<LogicalPlan> {
    let own: Vec<Expr> = left
        .schema()
        .columns()
        .into_iter()
        .map(Expr::Column)
        .collect();
    let (mut rows, mut marks) = (left.clone(), vec![]);
    for (n, condition) in conditions.iter().enumerate() {
        rows = joined(&rows, condition, JoinType::LeftMark)?;
        let name = format!("__mark_{n}");
        let (mark, mut kept) = (rows.schema().columns().pop(), own.clone());
        kept.extend(marks.iter().cloned());
        kept.extend(mark.map(|mark| Expr::Column(mark).alias(&name)));
        rows = LogicalPlanBuilder::from(rows).project(kept)?.build()?;
        let column = Expr::Column(datafusion_common::Column::from_name(name));
        marks.push(normalize_col(column, &rows)?);
    }
    let Some(any) = marks.into_iter().reduce(Expr::or) else {
        return Ok(rows);
    };
    let rows = LogicalPlan::Filter(Filter::try_new(any, Arc::new(rows))?);
    let all = Projection::try_new_with_schema(own, Arc::new(rows), left.schema().clone())?;
    Ok(LogicalPlan::Projection(all))
}

/// Whether a plan only reads rows, so that it may be run more than once.
fn is_read(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::TableScan(_) => true,
        LogicalPlan::Filter(f) => is_read(&f.input),
        LogicalPlan::Projection(p) => is_read(&p.input),
        LogicalPlan::SubqueryAlias(a) => is_read(&a.input),
        _ => false,
    }
}

/// The condition of one branch.
#[derive(Clone)]
struct Condition {
    on: Vec<(Expr, Expr)>,
    filter: Option<Expr>,
}

impl Condition {
    fn of(
        branch: &Expr,
        others: &[&Expr],
        sides: [&Arc<DFSchema>; 2],
        both: &DFSchema,
    ) -> Condition {
        let (mut on, mut rest) = (vec![], vec![]);
        for part in split_conjunction(branch)
            .into_iter()
            .chain(others.iter().copied())
        {
            match equal(part, sides, both) {
                Some(pair) => on.push(pair),
                None => rest.push(part.clone()),
            }
        }
        Condition {
            on,
            filter: rest.into_iter().reduce(Expr::and),
        }
    }
}

/// What a condition says is equal on the left and the right.
fn equal(e: &Expr, [left, right]: [&Arc<DFSchema>; 2], both: &DFSchema) -> Option<(Expr, Expr)> {
    let Expr::BinaryExpr(b) = e else {
        return None;
    };
    let of = |e: &Expr, schema: &DFSchema| {
        let columns = e.column_refs();
        !columns.is_empty() && columns.iter().all(|c| schema.has_column(c))
    };
    let ty = b.left.get_type(both).ok()?;
    // Hashes of floats and of what consists of others aren't those of equal values.
    let exact = !ty.is_floating() && !ty.is_nested();
    if b.op != Operator::Eq || !exact || b.right.get_type(both).ok()? != ty {
        return None;
    }
    if of(&b.left, left) && of(&b.right, right) {
        Some(((*b.left).clone(), (*b.right).clone()))
    } else if of(&b.left, right) && of(&b.right, left) {
        Some(((*b.right).clone(), (*b.left).clone()))
    } else {
        None
    }
}
