//! DataFusion's rules, kept away from what they would give another meaning.
//!
//! * A join in which NULL keys are equal treats all of its keys so. A rule that adds `a = b` to its keys, or that puts its keys
//!   together with those of other joins, would match NULL with NULL, or lose matches.
//! * An aggregate without keys gives a row for no input. A condition that names no column, as of a join that never matches,
//!   must drop this row; below the aggregate it would only drop the input.

use crate::tree::Tree;
use datafusion::optimizer::eliminate_cross_join::EliminateCrossJoin;
use datafusion::optimizer::extract_equijoin_predicate::ExtractEquijoinPredicate;
use datafusion::optimizer::push_down_filter::PushDownFilter;
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};
use datafusion_common::tree_node::Transformed;
use datafusion_common::{NullEquality, Result};
use datafusion_expr::utils::split_conjunction;
use datafusion_expr::{Expr, Filter, LogicalPlan};
use std::sync::Arc;

/// The rule that takes the place of `rule`, or it itself.
pub(crate) fn careful(
    rule: Arc<dyn OptimizerRule + Send + Sync>,
) -> Arc<dyn OptimizerRule + Send + Sync> {
    match rule.name() {
        "extract_equijoin_predicate" => Arc::new(EquijoinKeys::default()),
        "eliminate_cross_join" => Arc::new(CrossJoins::default()),
        "push_down_filter" => Arc::new(FiltersDown::default()),
        _ => rule,
    }
}

/// Makes equalities of a join's condition its keys.
#[derive(Debug, Default)]
pub(super) struct EquijoinKeys(ExtractEquijoinPredicate);

/// Makes joins of cross joins and a filter above them.
#[derive(Debug, Default)]
pub(super) struct CrossJoins(EliminateCrossJoin);

/// Brings filters closer to the scans.
#[derive(Debug, Default)]
pub(super) struct FiltersDown(PushDownFilter);

/// Whether rows of `plan` come from an aggregate that may have no keys, below filters only.
fn may_be_one_group(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Filter(f) => may_be_one_group(&f.input),
        LogicalPlan::Aggregate(a) => matches!(a.group_expr.as_slice(), [] | [Expr::GroupingSet(_)]),
        _ => false,
    }
}

/// A filter with the one below it, each condition once: an outer join adds what it infers again with each pass.
fn merged(f: Filter) -> Result<Transformed<LogicalPlan>> {
    let LogicalPlan::Filter(below) = f.input.as_ref() else {
        return Ok(Transformed::no(LogicalPlan::Filter(f)));
    };
    let mut all: Vec<Expr> = vec![];
    for e in split_conjunction(&below.predicate)
        .into_iter()
        .chain(split_conjunction(&f.predicate))
    {
        if !all.contains(e) {
            all.push(e.clone());
        }
    }
    let predicate = all.into_iter().reduce(Expr::and).unwrap_or(f.predicate);
    let filter = Filter::try_new(predicate, Arc::clone(&below.input))?;
    Ok(Transformed::yes(LogicalPlan::Filter(filter)))
}

fn nulls_are_equal(node: &LogicalPlan) -> bool {
    matches!(node, LogicalPlan::Join(j) if j.null_equality == NullEquality::NullEqualsNull)
}

impl OptimizerRule for EquijoinKeys {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        self.0.apply_order()
    }

    fn supports_rewrite(&self) -> bool {
        true
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        config: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>> {
        match nulls_are_equal(&plan) {
            true => Ok(Transformed::no(plan)),
            false => self.0.rewrite(plan, config),
        }
    }
}

impl OptimizerRule for CrossJoins {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn supports_rewrite(&self) -> bool {
        true
    }

    // The rule walks the plan by itself, so it is a matter of the whole plan.
    fn rewrite(
        &self,
        plan: LogicalPlan,
        config: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>> {
        match plan.any(&mut |node| Ok(nulls_are_equal(node)))? {
            true => Ok(Transformed::no(plan)),
            false => self.0.rewrite(plan, config),
        }
    }
}

impl OptimizerRule for FiltersDown {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        self.0.apply_order()
    }

    fn supports_rewrite(&self) -> bool {
        true
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        config: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>> {
        match plan {
            LogicalPlan::Filter(f) if may_be_one_group(&f.input) => merged(f),
            plan => self.0.rewrite(plan, config),
        }
    }
}
