//! Sorts and limits.
//!
//! * DataFusion leaves out sorts whose order no node above asks for, and a limit doesn't ask: only a sort that takes the first rows
//!   itself stays. Below a recursive query and below an OFFSET without LIMIT a sort is there for what comes first, so a node that
//!   does ask is put above it.
//! * It brings a sort below a limit of rows that have no order; so a limit over the rounds of a recursive query, and an OFFSET
//!   without LIMIT, are put behind a node that it doesn't know.
//! * It finds the first rows with a heap of them, which costs more than sorting all when they are many.

use std::sync::Arc;

use datafusion::config::ConfigOptions;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::limit::GlobalLimitExec;
use datafusion::physical_plan::recursive_query::RecursiveQueryExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use datafusion_common::Result;
use datafusion_common::tree_node::Transformed;

use super::ConcatExec;
use crate::tree::Tree;

type Plan = Arc<dyn ExecutionPlan>;

/// Rows up to which the first are found with a heap.
const HEAP_ROWS_MAX: usize = 20_000;

/// Keeps the order of the rows that OFFSET passes over, and within each round of a recursive query.
#[derive(Debug)]
pub(super) struct Limits;

impl PhysicalOptimizerRule for Limits {
    fn optimize(&self, plan: Plan, _: &ConfigOptions) -> Result<Plan> {
        Ok(plan.change_up(&mut in_order)?.data)
    }

    fn name(&self) -> &str {
        "Limits"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn in_order(plan: Plan) -> Result<Transformed<Plan>> {
    if let Some(limit) = plan.downcast_ref::<GlobalLimitExec>() {
        let input = limit.input();
        let rounds = &mut |node: &Plan| Ok(node.is::<RecursiveQueryExec>());
        let behind = |plan: Plan| {
            let schema = plan.schema();
            Transformed::yes(Arc::new(ConcatExec::new(vec![plan], schema)) as Plan)
        };
        if input.output_ordering().is_none() && input.any(rounds)? {
            return Ok(behind(plan));
        }
        if limit.fetch().is_some() {
            return Ok(Transformed::no(plan));
        }
        return Ok(behind(match kept_sort(input)? {
            Some(input) => with_inputs(plan, vec![input])?.data,
            None => plan,
        }));
    }
    if !plan.is::<RecursiveQueryExec>() {
        return Ok(Transformed::no(plan));
    }
    let kept = |term: &Plan| sorted(term).unwrap_or_else(|| term.clone());
    let terms = plan.children().into_iter().map(kept).collect();
    with_inputs(plan, terms)
}

/// A sort, and above it what asks for its order.
fn sorted(plan: &Plan) -> Option<Plan> {
    let order = plan.downcast_ref::<SortExec>()?.expr().clone();
    Some(Arc::new(ConcatExec::in_order(plan.clone(), order)))
}

/// The plan with the sort kept that its order comes from. A choice of columns may have dropped those that it is by.
fn kept_sort(plan: &Plan) -> Result<Option<Plan>> {
    if let Some(kept) = sorted(plan) {
        return Ok(Some(kept));
    }
    let ([input], [true]) = (&*plan.children(), &*plan.maintains_input_order()) else {
        return Ok(None);
    };
    match kept_sort(input)? {
        Some(input) => Ok(Some(with_inputs(plan.clone(), vec![input])?.data)),
        None => Ok(None),
    }
}

fn with_inputs(plan: Plan, inputs: Vec<Plan>) -> Result<Transformed<Plan>> {
    let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
    plan.replace_children(inputs, options).map(Transformed::yes)
}

/// Sorts all rows where many of them are wanted.
#[derive(Debug)]
pub(super) struct LongSorts;

impl PhysicalOptimizerRule for LongSorts {
    fn optimize(&self, plan: Plan, _: &ConfigOptions) -> Result<Plan> {
        let plan = plan.change_up(&mut |node| {
            let sort = node.downcast_ref::<SortExec>();
            let long = sort.and_then(|sort| Some((sort, sort.fetch()?)));
            Ok(match long {
                Some((sort, rows)) if rows > HEAP_ROWS_MAX => {
                    let all = Arc::new(sort.with_fetch(None));
                    Transformed::yes(Arc::new(GlobalLimitExec::new(all, 0, Some(rows))))
                }
                _ => Transformed::no(node),
            })
        })?;
        Ok(plan.data)
    }

    fn name(&self) -> &str {
        "LongSorts"
    }

    fn schema_check(&self) -> bool {
        true
    }
}
