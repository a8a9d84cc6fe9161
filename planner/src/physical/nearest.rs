//! Of each row's matches the first ones in an order, as `LATERAL (… ORDER BY … LIMIT 1)` and `DISTINCT ON` ask for: where rows are numbered
//! above a join, by the value that the join's condition compares, and only those with the first numbers are kept, the join needn't give more.

use std::sync::Arc;

use datafusion::config::ConfigOptions;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::windows::WindowUDFExpr;
use datafusion_common::Result;
use datafusion_common::tree_node::Transformed;
use datafusion_expr::Operator;
use datafusion_physical_expr::expressions::{BinaryExpr, CastExpr, Column, Literal};
use datafusion_physical_expr::window::{StandardWindowExpr, WindowExpr};
use datafusion_physical_expr::{PhysicalExpr, PhysicalSortExpr, split_conjunction};

use super::ConcatExec;
use super::range_join::RangeJoinExec;
use super::range_pairs::First;
use super::windows::functions;
use crate::tree::Tree;

type Plan = Arc<dyn ExecutionPlan>;

/// So many rows of each are kept at most; beyond that all are looked at.
const ROWS_MAX: usize = 1024;

/// Takes joins that give the first matches of each row.
#[derive(Debug)]
pub(super) struct Nearest;

impl PhysicalOptimizerRule for Nearest {
    fn optimize(&self, plan: Plan, _: &ConfigOptions) -> Result<Plan> {
        let plan = plan.change_up(&mut |node| {
            Ok(match above_first(&node)? {
                Some(changed) => Transformed::yes(changed),
                None => Transformed::no(node),
            })
        })?;
        Ok(plan.data)
    }

    fn name(&self) -> &str {
        "Nearest"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// The filter above a join that gives no more rows than it needs.
fn above_first(node: &Plan) -> Result<Option<Plan>> {
    let Some(filter) = node.downcast_ref::<FilterExec>() else {
        return Ok(None);
    };
    for (column, rows) in split_conjunction(filter.predicate())
        .into_iter()
        .filter_map(most)
    {
        if let Some(input) = above_window(filter.input(), column, rows)? {
            return over(node, input).map(Some);
        }
    }
    Ok(None)
}

/// The column that a condition allows to be so much at most.
fn most(condition: &Arc<dyn PhysicalExpr>) -> Option<(usize, usize)> {
    let condition = condition.downcast_ref::<BinaryExpr>()?;
    let mut number = condition.left();
    while let Some(cast) = number.downcast_ref::<CastExpr>() {
        number = cast.expr();
    }
    let column = number.downcast_ref::<Column>()?.index();
    let value = condition.right().downcast_ref::<Literal>()?.value();
    let value: usize = value.to_string().parse().ok()?;
    let most = match condition.op() {
        Operator::Eq | Operator::LtEq => value,
        Operator::Lt => value.checked_sub(1)?,
        _ => return None,
    };
    (1..=ROWS_MAX).contains(&most).then_some((column, most))
}

/// The node above a window that numbers rows in `column`, of which `rows` are kept of each partition.
fn above_window(node: &Plan, column: usize, rows: usize) -> Result<Option<Plan>> {
    let [input] = node.children()[..] else {
        return Ok(None);
    };
    if let Some(projection) = node.downcast_ref::<ProjectionExec>() {
        let e = &projection.expr()[column].expr;
        let Some(below) = e.downcast_ref::<Column>() else {
            return Ok(None);
        };
        let below = above_window(input, below.index(), rows)?;
        return below.map(|below| over(node, below)).transpose();
    }
    let Some(functions) = functions(node) else {
        return Ok(None);
    };
    let number = column.checked_sub(input.schema().fields().len());
    let Some(function) = number.and_then(|n| functions.get(n)) else {
        return Ok(None);
    };
    let same = |e: &Arc<dyn WindowExpr>| {
        let same_rows = e.partition_by() == function.partition_by();
        ranks(e) && same_rows && e.order_by() == function.order_by()
    };
    // What a partition is of is the same for all its rows.
    let own = |e: &&PhysicalSortExpr| !function.partition_by().contains(&e.expr);
    let first = function.order_by().iter().find(own);
    let Some(first) = first.filter(|_| functions.iter().all(same)) else {
        return Ok(None);
    };
    let column = |e: &Arc<dyn PhysicalExpr>| Some(e.downcast_ref::<Column>()?.index());
    let by = function.partition_by().iter().map(column);
    let (Some(by), Some(key)) = (by.collect::<Option<Vec<_>>>(), column(&first.expr)) else {
        return Ok(None);
    };
    let first = First {
        rows,
        descending: first.options.descending,
    };
    let below = above_join(input, by, key, first, false)?;
    below.map(|below| over(node, below)).transpose()
}

/// Whether the function numbers rows by those before them.
fn ranks(e: &Arc<dyn WindowExpr>) -> bool {
    let e = e.as_any().downcast_ref::<StandardWindowExpr>();
    let function = e.map(StandardWindowExpr::get_standard_func_expr);
    let function = function.and_then(|f| f.as_any().downcast_ref::<WindowUDFExpr>());
    function.is_some_and(|f| matches!(f.fun().name(), "row_number" | "rank"))
}

/// The node above a join of whose rows the first ones in the order of column `key` are wanted for each value of the columns `by`.
fn above_join(
    node: &Plan,
    by: Vec<usize>,
    key: usize,
    first: First,
    sorted: bool,
) -> Result<Option<Plan>> {
    if let Some(join) = RangeJoinExec::giving_first(node, &by, key, first)?.filter(|_| sorted) {
        return Ok(Some(Arc::new(join)));
    }
    let [input] = node.children()[..] else {
        return Ok(None);
    };
    let sorts = node.downcast_ref::<SortExec>();
    let hides = node
        .downcast_ref::<ConcatExec>()
        .is_some_and(ConcatExec::only_hides);
    let passes =
        hides || node.is::<CooperativeExec>() || sorts.is_some_and(|s| s.fetch().is_none());
    let below = if passes {
        above_join(input, by, key, first, sorted || sorts.is_some())?
    } else if let Some(projection) = node.downcast_ref::<ProjectionExec>() {
        let below = |column: &usize| {
            let e = &projection.expr()[*column].expr;
            Some(e.downcast_ref::<Column>()?.index())
        };
        let by = by.iter().map(below).collect::<Option<Vec<_>>>();
        match (by, below(&key)) {
            (Some(by), Some(key)) => above_join(input, by, key, first, sorted)?,
            _ => None,
        }
    } else {
        None
    };
    below.map(|below| over(node, below)).transpose()
}

/// The node over another input.
fn over(node: &Plan, input: Plan) -> Result<Plan> {
    let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
    node.clone().replace_children(vec![input], options)
}
