//! Correlated scalar subqueries that DataFusion's rules leave alone: aggregates whose condition on the outer row is
//! more than equalities.
//!
//! The outer rows' distinct values of the columns that the subquery names are its *domain*. The subquery's input is
//! joined with the domain, its aggregate grouped by it, and the result joined back. Values of the domain for
//! which there is no row are kept by an outer join, and a filter on each aggregate makes theirs the value of an empty input.
//!
//! SELECT and views use this alike, and only for plans in which a reference to an outer row is left after
//! optimisation.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion_common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion_common::{Column, JoinType, NullEquality, Result};
use datafusion_expr::expr::AggregateFunction;
use datafusion_expr::logical_plan::{Join, Subquery};
use datafusion_expr::{
    Aggregate, Expr, Filter, JoinConstraint, LogicalPlan, LogicalPlanBuilder, Projection, lit,
};

use super::expr::unalias;
use super::rules::{has_outer_reference, replace_subqueries};

/// The column that says that a row of the subquery's input is there.
const PRESENT: &str = "__present";

/// Runs `rules` on `plan`; where they leave a reference to an outer row, again on the plan with its correlated
/// aggregates as joins.
pub(crate) fn optimise(
    plan: LogicalPlan,
    rules: &dyn Fn(LogicalPlan) -> Result<LogicalPlan>,
) -> Result<LogicalPlan> {
    if !has_outer_reference(&plan)? {
        return rules(plan);
    }
    let optimised = rules(plan.clone())?;
    match has_outer_reference(&optimised)? {
        true => rules(decorrelate(plan)?),
        false => Ok(optimised),
    }
}

/// Replaces the correlated scalar aggregates of `plan` by joins, where their shape is known.
fn decorrelate(plan: LogicalPlan) -> Result<LogicalPlan> {
    let mut count = 0;
    replace_subqueries(plan, &mut |base, input, subquery| {
        if !has_outer_reference(&subquery.subquery)? {
            return Ok(None);
        }
        count += 1;
        join_back(base, input, subquery, count)
    })
}

/// `input` with the subquery's value as a further column. `base`: the rows whose columns the subquery names.
fn join_back(
    base: &LogicalPlan,
    input: &LogicalPlan,
    subquery: &Subquery,
    n: usize,
) -> Result<Option<(LogicalPlan, Column)>> {
    let outer = outer_columns(&subquery.subquery)?;
    if outer.is_empty() || !outer.iter().all(|c| base.schema().has_column(c)) {
        return Ok(None);
    }
    let values = outer
        .iter()
        .enumerate()
        .map(|(i, c)| Expr::Column(c.clone()).alias(format!("d{i}")));
    let values = LogicalPlanBuilder::from(base.clone())
        .project(values)?
        .distinct()?
        .build()?;
    let domain = |role: &str| -> Result<Domain> {
        let name = format!("__{role}_{n}");
        let plan = LogicalPlanBuilder::from(values.clone())
            .alias(name.as_str())?
            .build()?;
        Ok(Domain {
            outer: outer.clone(),
            columns: plan.schema().columns(),
            plan,
        })
    };
    let groups = domain("group")?;
    let Some(value) = above(&subquery.subquery, &domain("outer")?, &groups)? else {
        return Ok(None);
    };
    let name = format!("__value_{n}");
    let result = value
        .schema()
        .columns()
        .into_iter()
        .find(|c| !groups.columns.contains(c));
    let Some(result) = result else {
        return Ok(None);
    };
    let named = groups
        .columns
        .iter()
        .enumerate()
        .map(|(i, c)| Expr::Column(c.clone()).alias(format!("d{i}")));
    let named = named.chain([Expr::Column(result).alias("v")]);
    let value = LogicalPlanBuilder::from(value)
        .project(named.collect::<Vec<_>>())?
        .alias(name.as_str())?
        .build()?;
    let keys = (0..outer.len())
        .map(|i| Column::new(Some(name.clone()), format!("d{i}")))
        .collect::<Vec<_>>();
    let joined = LogicalPlanBuilder::from(input.clone())
        .join_detailed(
            value,
            JoinType::Inner,
            (outer, keys),
            None,
            NullEquality::NullEqualsNull,
        )?
        .build()?;
    Ok(Some((joined, Column::new(Some(name), "v"))))
}

/// The distinct values of the outer columns that a subquery names.
struct Domain {
    plan: LogicalPlan,
    /// The outer columns, and for each the domain's.
    outer: Vec<Column>,
    columns: Vec<Column>,
}

impl Domain {
    /// `e` with outer columns replaced by the domain's.
    fn bind(&self, e: Expr) -> Result<Expr> {
        let bound = e.transform_up(|e| {
            let Expr::OuterReferenceColumn(_, c) = &e else {
                return Ok(Transformed::no(e));
            };
            Ok(match self.outer.iter().position(|o| o == c) {
                Some(i) => Transformed::yes(Expr::Column(self.columns[i].clone())),
                None => Transformed::no(e),
            })
        })?;
        Ok(bound.data)
    }

    fn exprs(&self) -> Vec<Expr> {
        self.columns.iter().cloned().map(Expr::Column).collect()
    }
}

/// From the top down to the aggregate: columns of `groups`, then those of `plan`.
fn above(plan: &LogicalPlan, domain: &Domain, groups: &Domain) -> Result<Option<LogicalPlan>> {
    match plan {
        LogicalPlan::Projection(p) => {
            let Some(input) = above(&p.input, domain, groups)? else {
                return Ok(None);
            };
            let mut exprs = groups.exprs();
            for (e, c) in p.expr.iter().zip(p.schema.columns()) {
                exprs.push(named(groups.bind(e.clone())?, c));
            }
            Ok(Some(LogicalPlan::Projection(Projection::try_new(
                exprs,
                Arc::new(input),
            )?)))
        }
        LogicalPlan::SubqueryAlias(a) => {
            let Some(input) = above(&a.input, domain, groups)? else {
                return Ok(None);
            };
            requalified(plan, &a.input, input, groups).map(Some)
        }
        LogicalPlan::Aggregate(a) if a.group_expr.is_empty() => {
            let Some(input) = below(&a.input, domain)? else {
                return Ok(None);
            };
            grouped(a, input, domain, groups).map(Some)
        }
        _ => Ok(None),
    }
}

/// The aggregate by the domain's values, those without rows included.
fn grouped(
    a: &Aggregate,
    input: LogicalPlan,
    domain: &Domain,
    groups: &Domain,
) -> Result<LogicalPlan> {
    let mut all: Vec<Expr> = input
        .schema()
        .columns()
        .into_iter()
        .map(Expr::Column)
        .collect();
    all.push(lit(true).alias(PRESENT));
    let rows = LogicalPlanBuilder::from(input).project(all)?.build()?;
    let keys = (groups.columns.clone(), domain.columns.clone());
    let rows = LogicalPlanBuilder::from(groups.plan.clone())
        .join_detailed(
            rows,
            JoinType::Left,
            keys,
            None,
            NullEquality::NullEqualsNull,
        )?
        .build()?;
    let mut calls = vec![];
    for (e, c) in a.aggr_expr.iter().zip(a.schema.columns()) {
        let Expr::AggregateFunction(f) = unalias(e) else {
            return datafusion_common::internal_err!("{e} is not an aggregate");
        };
        let mut params = f.params.clone();
        let present = Expr::Column(Column::new_unqualified(PRESENT)).is_not_null();
        let filter = params
            .filter
            .take()
            .map_or(present.clone(), |f| present.and(*f));
        params.filter = Some(Box::new(filter));
        let call = Expr::AggregateFunction(AggregateFunction {
            func: f.func.clone(),
            params,
        });
        calls.push(named(domain.bind(call)?, c));
    }
    Ok(LogicalPlan::Aggregate(Aggregate::try_new(
        Arc::new(rows),
        groups.exprs(),
        calls,
    )?))
}

/// Below the aggregate: `plan` for every value of the domain at once; the domain's columns, then those of `plan`.
fn below(plan: &LogicalPlan, domain: &Domain) -> Result<Option<LogicalPlan>> {
    if !has_outer_reference(plan)? {
        let crossed = LogicalPlanBuilder::from(domain.plan.clone()).cross_join(plan.clone())?;
        return crossed.build().map(Some);
    }
    match plan {
        LogicalPlan::Filter(f) => {
            let Some(input) = below(&f.input, domain)? else {
                return Ok(None);
            };
            let filter = Filter::try_new(domain.bind(f.predicate.clone())?, Arc::new(input))?;
            Ok(Some(LogicalPlan::Filter(filter)))
        }
        LogicalPlan::Projection(p) => {
            let Some(input) = below(&p.input, domain)? else {
                return Ok(None);
            };
            let mut exprs = domain.exprs();
            for (e, c) in p.expr.iter().zip(p.schema.columns()) {
                exprs.push(named(domain.bind(e.clone())?, c));
            }
            Ok(Some(LogicalPlan::Projection(Projection::try_new(
                exprs,
                Arc::new(input),
            )?)))
        }
        LogicalPlan::SubqueryAlias(a) => {
            let Some(input) = below(&a.input, domain)? else {
                return Ok(None);
            };
            requalified(plan, &a.input, input, domain).map(Some)
        }
        LogicalPlan::Sort(s) if s.fetch.is_none() => below(&s.input, domain),
        LogicalPlan::Join(j)
            if j.join_type == JoinType::Inner && j.join_constraint == JoinConstraint::On =>
        {
            let right_only = has_outer_reference(&j.right)?;
            if right_only && has_outer_reference(&j.left)? {
                return Ok(None);
            }
            let (left, right) = match right_only {
                true => (Some(j.left.as_ref().clone()), below(&j.right, domain)?),
                false => (below(&j.left, domain)?, Some(j.right.as_ref().clone())),
            };
            let (Some(left), Some(right)) = (left, right) else {
                return Ok(None);
            };
            let mut on = vec![];
            for (l, r) in &j.on {
                on.push((domain.bind(l.clone())?, domain.bind(r.clone())?));
            }
            let filter = j.filter.clone().map(|f| domain.bind(f)).transpose()?;
            let (left, right) = (Arc::new(left), Arc::new(right));
            let join = Join::try_new(
                left,
                right,
                on,
                filter,
                j.join_type,
                j.join_constraint,
                j.null_equality,
                false,
            )?;
            let mut exprs = domain.exprs();
            exprs.extend(plan.schema().columns().into_iter().map(Expr::Column));
            let join = Arc::new(LogicalPlan::Join(join));
            Ok(Some(LogicalPlan::Projection(Projection::try_new(
                exprs, join,
            )?)))
        }
        _ => Ok(None),
    }
}

/// `input` with the names that the alias `plan` gives the columns of `original`.
fn requalified(
    plan: &LogicalPlan,
    original: &LogicalPlan,
    input: LogicalPlan,
    domain: &Domain,
) -> Result<LogicalPlan> {
    let mut exprs = domain.exprs();
    for (from, to) in original
        .schema()
        .columns()
        .into_iter()
        .zip(plan.schema().columns())
    {
        exprs.push(named(Expr::Column(from), to));
    }
    Ok(LogicalPlan::Projection(Projection::try_new(
        exprs,
        Arc::new(input),
    )?))
}

/// `e` under the name `c`.
fn named(e: Expr, c: Column) -> Expr {
    match &e {
        Expr::Column(have) if *have == c => e,
        Expr::Alias(alias) => alias
            .expr
            .as_ref()
            .clone()
            .alias_qualified(c.relation, c.name),
        _ => e.alias_qualified(c.relation, c.name),
    }
}

/// The outer columns that `plan` names, in order of their names.
fn outer_columns(plan: &LogicalPlan) -> Result<Vec<Column>> {
    let mut out = BTreeSet::new();
    plan.apply_with_subqueries(|node| {
        for e in node.expressions() {
            e.apply(|e| {
                if let Expr::OuterReferenceColumn(_, c) = e {
                    out.insert(c.clone());
                }
                Ok(TreeNodeRecursion::Continue)
            })?;
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(out.into_iter().collect())
}
