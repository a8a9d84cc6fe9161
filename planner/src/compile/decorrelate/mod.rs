//! Subqueries as joins.
//!
//! DataFusion's rules turn the simple shapes into joins: EXISTS and IN over filtered rows, aggregates with equal
//! columns. Others they leave alone, refuse, or get wrong (an aggregate below EXISTS has a row even without
//! input). Those are joined here, before the rules see them: the subquery is computed for all values of the outer
//! columns that it names, its [`domain`], and the result is joined back to the rows around it.
//!
//! Where the subquery finds a row by its primary key, no domain is needed: see [`by_key`].
//!
//! [`branches`] and [`guarded`] keep those from failing whose value isn't needed. [`hoist`] first moves subqueries out of
//! nodes other than filters and projections; outer joins are [`outer_join`]'s where that isn't possible.
//!
//! SELECT and views use this alike.

pub(crate) mod branches;
mod by_key;
mod domain;
mod guarded;
mod hoist;
pub(crate) mod keys;
pub(crate) mod names;
mod outer_join;

use std::collections::BTreeSet;

use datafusion::functions_aggregate::count::count_udaf;
use datafusion::functions_aggregate::first_last::first_value_udaf;
use datafusion::functions_aggregate::min_max::max_udaf;
use datafusion_common::tree_node::TreeNodeRecursion;
use datafusion_common::{Column, JoinType, NullEquality, Result};
use datafusion_expr::logical_plan::Subquery;
use datafusion_expr::utils::split_conjunction;
use datafusion_expr::{
    Aggregate, Expr, FetchType, LogicalPlan, LogicalPlanBuilder, Operator, binary_expr, lit,
};
use std::sync::Arc;

use super::rules::{Joined, has_outer_reference, replace_subqueries};
use crate::functions::shared::can_fail_for_some_value;
use crate::functions::single::single;
use crate::once::same_rows;
use crate::tree::{PlanTree, Tree};
use domain::{Domain, Keyed};
pub(super) use hoist::hoist;
pub(super) use names::subquery_of;
use names::{free_columns, free_in_expr};

/// Passes over a plan; each resolves one more level of nested subqueries.
const PASSES_MAX: usize = 64;

/// The first number of a name that [`optimise`] makes up; those of [`prepare`] are smaller.
const OPTIMISED: usize = 1_000_000;

/// Joins the subqueries of a bound plan that the rules can't be trusted with. Before anything else: rules check that outer
/// columns are only where they know them.
pub(crate) fn prepare(plan: LogicalPlan) -> Result<LogicalPlan> {
    let plan = match has_outer_reference(&plan)? {
        true => guarded::guarded(plan)?,
        false => plan,
    };
    let plan = hoist(plan)?;
    match has_outer_reference(&plan)? {
        true => decorrelate(plan, false, &mut 0),
        false => Ok(plan),
    }
}

/// Runs `rules` on `plan` with those subqueries as joins that the rules can't be trusted with; where they leave a reference
/// to an outer row nevertheless, again with all of them as joins.
pub(crate) fn optimise(
    plan: LogicalPlan,
    rules: &dyn Fn(LogicalPlan) -> Result<LogicalPlan>,
) -> Result<LogicalPlan> {
    let plan = branches::branches(hoist(plan)?)?;
    let plan = keys::honest(plan)?;
    if !has_outer_reference(&plan)? {
        return rules(plan);
    }
    let mut count = OPTIMISED;
    let plan = decorrelate(plan, false, &mut count)?;
    let optimised = rules(plan.clone());
    match &optimised {
        Ok(done) if !has_outer_reference(done)? => optimised,
        _ if !has_outer_reference(&plan)? => optimised,
        _ => rules(decorrelate(plan, true, &mut count)?),
    }
}

/// `left` joined with what `right`, which may name `left`'s columns as an outer query's, gives for each of its rows. The
/// columns of `left`, then those of `right`. `None` if there is no way.
pub(crate) fn lateral(
    left: &LogicalPlan,
    right: &LogicalPlan,
    kind: JoinType,
    on: Option<Expr>,
    name: String,
) -> Result<Option<LogicalPlan>> {
    let outer = free_columns(right)?.into_iter();
    let outer: Vec<Column> = outer.filter(|c| left.schema().has_column(c)).collect();
    let left = &same_rows(left)?;
    let mut exprs: Vec<Expr> = left
        .schema()
        .columns()
        .into_iter()
        .map(Expr::Column)
        .collect();
    exprs.extend(right.schema().columns().into_iter().map(Expr::Column));
    let (right, keys) = match outer.is_empty() {
        true => (right.clone(), vec![]),
        false => {
            let domain = Domain::new(left, outer.clone(), name)?;
            let Some(Keyed { plan, keys }) = domain.all(right)? else {
                return Ok(None);
            };
            (plan, keys)
        }
    };
    let same = outer.into_iter().zip(keys).map(|(a, b)| {
        let (a, b) = (Expr::Column(a), Expr::Column(b));
        binary_expr(a, Operator::IsNotDistinctFrom, b)
    });
    let condition = same.chain(on).reduce(Expr::and);
    LogicalPlanBuilder::from(left.clone())
        .join_on(right, kind, [condition.unwrap_or_else(|| lit(true))])?
        .project(exprs)?
        .build()
        .map(Some)
}

/// Replaces correlated subqueries of `plan` by joins: those of a shape that the rules don't know, or `all`.
fn decorrelate(plan: LogicalPlan, all: bool, count: &mut usize) -> Result<LogicalPlan> {
    let mut plan = plan;
    for _ in 0..PASSES_MAX {
        let before = *count;
        plan = replace_subqueries(plan, &mut |base, input, e| {
            let Some(subquery) = subquery_of(e) else {
                return Ok(None);
            };
            let free: Vec<Column> = free_columns(&subquery.subquery)?.into_iter().collect();
            let ours = free.iter().all(|c| base.schema().has_column(c));
            if free.is_empty() || !ours || !all && is_simple(e, &subquery.subquery)? {
                return Ok(None);
            }
            let joined = join_back(base, input, e, subquery, free, *count + 1)?;
            *count += usize::from(joined.is_some());
            Ok(joined)
        })?;
        if *count == before {
            break;
        }
        // A subquery within one that became a join is now one of the rows around it.
        plan = hoist(plan)?;
    }
    keys::honest(plan)
}

/// Shapes that DataFusion's rules join correctly.
fn is_simple(e: &Expr, subquery: &LogicalPlan) -> Result<bool> {
    if names_clash(subquery)? {
        return Ok(false);
    }
    match e {
        Expr::Exists(_) => filtered(subquery),
        Expr::InSubquery(i) => Ok(!i.negated && filtered(subquery)?),
        Expr::ScalarSubquery(_) => Ok(one_aggregate(subquery)? && !fails_for_some_row(subquery)?),
        _ => Ok(false),
    }
}

/// Whether two columns of one name are compared with an outer row, or one that is with another that the subquery gives: the rules
/// put the columns of such conditions under one alias and tell them apart by their names only.
fn names_clash(subquery: &LogicalPlan) -> Result<bool> {
    let mut compared = BTreeSet::new();
    subquery.walk(&mut |node| {
        let outer = |e: &Expr| e.any(&mut |e| Ok(matches!(e, Expr::OuterReferenceColumn(..))));
        for e in node.expressions() {
            for part in split_conjunction(&e) {
                if outer(part)? {
                    compared.extend(part.column_refs().into_iter().cloned());
                }
            }
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    let given = subquery.schema().columns();
    let mut others = compared.iter().chain(&given);
    Ok(others.any(|c| compared.iter().any(|o| o.name == c.name && o != c)))
}

/// Whether a row of the subquery can fail for what it is. The rules compute aggregates of all rows, also of those that no outer row asks for.
fn fails_for_some_row(subquery: &LogicalPlan) -> Result<bool> {
    let mut fails = false;
    subquery.walk_all(&mut |node| {
        let inputs = node.inputs();
        let mut exprs = node.expressions().into_iter();
        fails |= exprs.any(|e| can_fail_for_some_value(&e, &inputs));
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(fails)
}

/// An aggregate without keys over filtered rows, below projections.
fn one_aggregate(plan: &LogicalPlan) -> Result<bool> {
    Ok(match plan {
        LogicalPlan::Projection(p) => !is_correlated(plan)? && one_aggregate(&p.input)?,
        LogicalPlan::SubqueryAlias(a) => one_aggregate(&a.input)?,
        LogicalPlan::Aggregate(a) => {
            a.group_expr.is_empty() && !is_correlated(plan)? && filtered(&a.input)?
        }
        _ => false,
    })
}

/// Rows that don't depend on the outer row, below filters that do.
fn filtered(plan: &LogicalPlan) -> Result<bool> {
    if free_columns(plan)?.is_empty() {
        return Ok(true);
    }
    Ok(match plan {
        LogicalPlan::Projection(p) => !is_correlated(plan)? && filtered(&p.input)?,
        // Filters on both sides of a name: the rule would use those below by names that end there.
        LogicalPlan::SubqueryAlias(_) => false,
        LogicalPlan::Filter(f) => !has_subquery_that_reaches_out(plan)? && filtered(&f.input)?,
        _ => false,
    })
}

/// Whether the node's own expressions name an outer column.
fn is_correlated(node: &LogicalPlan) -> Result<bool> {
    let mut out = BTreeSet::new();
    let inputs = node.inputs();
    let own = |c: &Column| inputs.iter().any(|i| i.schema().has_column(c));
    for e in node.expressions() {
        free_in_expr(&e, &own, &mut out)?;
    }
    Ok(!out.is_empty())
}

/// Whether a condition of the node has a subquery and names a column of a query further out than the node's, there or beside it. The
/// rules take such a condition out of the node, to where the subquery's own columns aren't.
fn has_subquery_that_reaches_out(node: &LogicalPlan) -> Result<bool> {
    let inputs = node.inputs();
    let own = |c: &Column| inputs.iter().any(|i| i.schema().has_column(c));
    let mut out = BTreeSet::new();
    for e in node.expressions() {
        for part in split_conjunction(&e)
            .into_iter()
            .filter(|p| has_subquery(p))
        {
            free_in_expr(part, &own, &mut out)?;
        }
    }
    Ok(!out.is_empty())
}

/// `input` with what the subquery gives as further columns, and the expression that takes the place of `e`. `base`: the
/// rows whose columns `outer` the subquery names.
fn join_back(
    base: &LogicalPlan,
    input: &LogicalPlan,
    e: &Expr,
    subquery: &Subquery,
    outer: Vec<Column>,
    n: usize,
) -> Result<Joined> {
    let plan = &subquery.subquery;
    let made_up = format!("__outer_{n}");
    let of_key = match e {
        Expr::ScalarSubquery(_) => by_key::by_key(plan, &outer, &made_up)?,
        _ => None,
    };
    let (one_by_key, nulls) = match of_key {
        Some(_) => (true, NullEquality::NullEqualsNothing),
        None => (false, NullEquality::NullEqualsNull),
    };
    let rows = match of_key {
        Some(rows) => Some(rows),
        None => Domain::new(base, outer.clone(), made_up)?.all(plan)?,
    };
    let Some(rows) = rows else {
        return Ok(None);
    };
    let own = plan.schema().columns();
    let name = format!("__value_{n}");
    let column = |c: &str| Expr::Column(Column::new(Some(name.clone()), format!("__{c}{n}")));
    let keys = |of: &[Column]| -> Vec<Expr> {
        let named = of.iter().enumerate();
        named
            .map(|(i, c)| Expr::Column(c.clone()).alias(format!("__d{n}_{i}")))
            .collect()
    };
    // The columns of the joined side, how it is joined, and what it means.
    let (right, kind, further, value) = match e {
        Expr::Exists(exists) => {
            let right = LogicalPlanBuilder::from(rows.plan)
                .project(keys(&rows.keys))?
                .distinct()?
                .build()?;
            let right = with_mark(right, n)?;
            let some = column("m").is_not_null();
            let value = if exists.negated { !some } else { some };
            (right, JoinType::Left, None, value)
        }
        Expr::InSubquery(i) if !i.negated => {
            let y = Expr::Column(own[0].clone());
            let mut exprs = keys(&rows.keys);
            exprs.push(y.clone().alias(format!("__y{n}")));
            let right = LogicalPlanBuilder::from(rows.plan)
                .filter(y.is_not_null())?
                .project(exprs)?
                .distinct()?
                .build()?;
            let equal = binary_expr(i.expr.as_ref().clone(), Operator::Eq, column("y"));
            let some = column("m").is_not_null();
            (with_mark(right, n)?, JoinType::Left, Some(equal), some)
        }
        Expr::ScalarSubquery(_) => {
            let value = Expr::Column(own[0].clone());
            let (most, always) = at_most_one(plan)?;
            let mut exprs = keys(&rows.keys);
            if most || one_by_key {
                exprs.push(value.alias(format!("__v{n}")));
                let right = LogicalPlanBuilder::from(rows.plan)
                    .project(exprs)?
                    .build()?;
                let kind = if always {
                    JoinType::Inner
                } else {
                    JoinType::Left
                };
                (right, kind, None, column("v"))
            } else {
                let right = counted(rows, value)?;
                let right = LogicalPlanBuilder::from(right);
                let given = right.schema().columns();
                let width = outer.len();
                let mut exprs = keys(&given[..width]);
                exprs.push(Expr::Column(given[width].clone()).alias(format!("__n{n}")));
                exprs.push(Expr::Column(given[width + 1].clone()).alias(format!("__v{n}")));
                let right = right.project(exprs)?.build()?;
                let value = single(column("n"), column("v"), plan.schema().field(0));
                (right, JoinType::Left, None, value)
            }
        }
        _ => return Ok(None),
    };
    let right = LogicalPlanBuilder::from(right)
        .alias(name.as_str())?
        .build()?;
    let named = (0..outer.len()).map(|i| Column::new(Some(name.clone()), format!("__d{n}_{i}")));
    let on = (outer, named.collect::<Vec<_>>());
    let joined = LogicalPlanBuilder::from(input.clone())
        .join_detailed(right, kind, on, further, nulls)?
        .build()?;
    Ok(Some((joined, value)))
}

/// `plan` with a column that is never NULL.
fn with_mark(plan: LogicalPlan, n: usize) -> Result<LogicalPlan> {
    let mut exprs: Vec<Expr> = plan
        .schema()
        .columns()
        .into_iter()
        .map(Expr::Column)
        .collect();
    exprs.push(lit(true).alias(format!("__m{n}")));
    LogicalPlanBuilder::from(plan).project(exprs)?.build()
}

/// Per key the number of rows, and one of their values.
fn counted(rows: Keyed, value: Expr) -> Result<LogicalPlan> {
    use arrow::datatypes::DataType::*;
    let t = datafusion_expr::ExprSchemable::get_type(&value, rows.plan.schema())?;
    let any = match t {
        Boolean | List(_) | Struct(_) | Interval(_) | Binary => first_value_udaf(),
        _ => max_udaf(),
    };
    let calls = vec![count_udaf().call(vec![lit(1i64)]), any.call(vec![value])];
    let keys = rows.keys.into_iter().map(Expr::Column).collect();
    Ok(LogicalPlan::Aggregate(Aggregate::try_new(
        Arc::new(rows.plan),
        keys,
        calls,
    )?))
}

/// Whether `plan` always gives one row.
pub(crate) fn always_one(plan: &LogicalPlan) -> Result<bool> {
    Ok(at_most_one(plan)?.1)
}

/// Whether `plan` gives at most one row for an outer row, and whether always one.
fn at_most_one(plan: &LogicalPlan) -> Result<(bool, bool)> {
    Ok(match plan {
        LogicalPlan::Projection(p) => at_most_one(&p.input)?,
        LogicalPlan::SubqueryAlias(a) => at_most_one(&a.input)?,
        LogicalPlan::Filter(f) => (at_most_one(&f.input)?.0, false),
        LogicalPlan::Sort(s) => at_most_one(&s.input)?,
        LogicalPlan::Aggregate(a) => (a.group_expr.is_empty(), a.group_expr.is_empty()),
        LogicalPlan::EmptyRelation(e) => (true, e.produce_one_row),
        LogicalPlan::Limit(l) => match l.get_fetch_type()? {
            FetchType::Literal(Some(n)) if n <= 1 => (true, false),
            _ => (at_most_one(&l.input)?.0, false),
        },
        _ => (false, false),
    })
}

/// True if there is a subquery in `e`.
pub(super) fn has_subquery(e: &Expr) -> bool {
    e.any(&mut |e| Ok(subquery_of(e).is_some())).unwrap_or(true)
}
