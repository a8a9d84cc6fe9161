//! Window functions.
//!
//! * Frames by RANGE with offsets are those of [`super::window_exec`], which takes rows that are sorted by partition; DataFusion's nodes
//!   would take rows that are sorted by the key alone.
//! * It takes a running min or max for ordered as the window is, with NULLs at the same end.
//! * A sort that takes the first rows and that finds another sort below it, of a window's rows, is brought below the window, whose order
//!   then is the sort's, and how many are taken is forgotten.

use std::sync::Arc;

use datafusion::config::ConfigOptions;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec};
use datafusion_common::Result;
use datafusion_common::tree_node::Transformed;
use datafusion_physical_expr::window::{PlainAggregateWindowExpr, WindowExpr};

use super::ConcatExec;
use super::window_frames::has_distance;
use crate::tree::Tree;

/// Whether the node computes window functions.
pub(super) fn is_window(node: &Arc<dyn ExecutionPlan>) -> bool {
    functions(node).is_some()
}

/// The functions of a node of window functions.
pub(super) fn functions(node: &Arc<dyn ExecutionPlan>) -> Option<&[Arc<dyn WindowExpr>]> {
    let bounded = node.downcast_ref::<BoundedWindowAggExec>();
    let whole = node.downcast_ref::<WindowAggExec>();
    let bounded = bounded.map(BoundedWindowAggExec::window_expr);
    bounded.or_else(|| whole.map(WindowAggExec::window_expr))
}

/// Hides the order of windows from those who would draw a wrong conclusion from it.
#[derive(Debug)]
pub(super) struct Orders;

impl PhysicalOptimizerRule for Orders {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(plan.change_up(&mut hidden)?.data)
    }

    fn name(&self) -> &str {
        "Orders"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn hidden(node: Arc<dyn ExecutionPlan>) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    let behind = |plan: Arc<dyn ExecutionPlan>| -> Arc<dyn ExecutionPlan> {
        let schema = plan.schema();
        Arc::new(ConcatExec::new(vec![plan], schema))
    };
    if functions(&node).is_some_and(|all| all.iter().any(is_extreme)) {
        return Ok(Transformed::yes(behind(node)));
    }
    if functions(&node).is_some_and(|all| all.iter().any(of_partitions_by_distance)) {
        let inputs = node.children().into_iter().cloned().map(behind).collect();
        let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
        return node.replace_children(inputs, options).map(Transformed::yes);
    }
    let first = node.downcast_ref::<SortExec>();
    let Some(first) = first.filter(|sort| sort.fetch().is_some()) else {
        return Ok(Transformed::no(node));
    };
    let sorts_all = |node: &Arc<dyn ExecutionPlan>| {
        let sort = node.downcast_ref::<SortExec>();
        Ok(sort.is_some_and(|sort| sort.fetch().is_none()))
    };
    let input = first.input();
    if !input.any(&mut |node| Ok(is_window(node)))? || !input.any(&mut { sorts_all })? {
        return Ok(Transformed::no(node));
    }
    let input = behind(input.clone());
    let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
    node.replace_children(vec![input], options)
        .map(Transformed::yes)
}

/// Whether it is a min or max over all rows up to the current one.
fn is_extreme(e: &Arc<dyn WindowExpr>) -> bool {
    let running = e.as_any().downcast_ref::<PlainAggregateWindowExpr>();
    running.is_some_and(|e| matches!(e.get_aggregate_expr().fun().name(), "min" | "max"))
}

/// Whether its frames within partitions are by RANGE with offsets.
fn of_partitions_by_distance(e: &Arc<dyn WindowExpr>) -> bool {
    !e.partition_by().is_empty() && has_distance(e.get_window_frame())
}
