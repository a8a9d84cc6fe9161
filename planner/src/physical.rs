//! DataFusion's physical optimiser, with repairs.
//!
//! * Its rule that pushes filters down finds their columns by name, and takes a column of a join's other side that is called the same.
//!   The logical optimiser has brought them down already, so the rule is left out.
//! * So is the one that answers aggregates from statistics: it takes a column that is NULL in all rows, or that has none, for one
//!   distinct value, and nobody here knows more of the rows than their number.
//! * A column that is constant on the side of an outer join that can be NULL, or below grouping sets, isn't constant above; a sort
//!   by it would be left out. So such an input is put behind a node that says nothing of its rows.
//! * What its rule that pushes projections down gets wrong: see `projections`.
//! * A sort that it pushes below a union is lost where a column is another constant in each part, or when joins are in between.
//!   So a union is a node that it doesn't know, which gives one part after the other.
//! * What it does to sorts and limits: see `limits`; to windows: see `windows`; to recursive queries: see `rounds` and `kept`.
//! * Sorts of all rows, and windows, are slow: nodes of our own stand for them once all else is decided, see `sorts` and `window_exec`.
//! * Joins read both sides to their ends: one that finds rows of a scan by the other side's keys stands for them, see `lookups`.
//! * A join without equal columns looks at all pairs: one that searches by a comparison stands for it, see `range_join`. So
//!   does one of which only the first matches of each row are wanted, see `nearest`.
//! * Joins read both sides to their ends also for the first rows in an order, which one of their sides may have: see `first_rows`.
//! * Conditions of a query and of a subquery in it end up in one filter, which computes them all. So those that can fail get
//!   filters of their own above those that can't, in their order: `1/x = 2` isn't computed for rows that `x <> 0` drops.

mod first_rows;
pub(crate) mod in_order;
pub(crate) mod kept;
mod limits;
pub(crate) mod lookups;
mod nearest;
mod projections;
pub(crate) mod range_join;
mod range_pairs;
mod range_work;
mod rounds;
mod sort_keys;
mod sorts;
mod window_calls;
mod window_exec;
mod window_filters;
mod window_frames;
mod window_functions;
mod window_ranges;
mod windows;

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::config::ConfigOptions;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::execution_plan::{
    Boundedness, ChildrenPropertiesMode, EmissionType, ReplaceChildrenOptions,
};
use datafusion::physical_plan::filter::{FilterExec, FilterExecBuilder};
use datafusion::physical_plan::joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec};
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties,
};
use datafusion_common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion_common::{JoinType, Result};
use datafusion_physical_expr::{
    LexOrdering, OrderingRequirements, PhysicalExpr, ScalarFunctionExpr, conjunction,
    split_conjunction,
};
use futures::{StreamExt, TryStreamExt};

use self::first_rows::FirstRows;
use self::limits::{Limits, LongSorts};
use self::lookups::Lookups;
use self::nearest::Nearest;
use self::projections::ProjectionsDown;
use self::range_join::RangeJoins;
use self::rounds::Rounds;
pub(crate) use self::rounds::RoundsLimit;
use self::sorts::Sorts;
use self::window_exec::Windows;
pub(crate) use self::window_filters::without_filters;
use self::windows::{Orders, is_window};
use crate::functions;
use crate::tree::Tree;

type Rule = Arc<dyn PhysicalOptimizerRule + Send + Sync>;

/// Beginnings of the names of rules that aren't run.
const LEFT_OUT: [&str; 2] = ["FilterPushdown", "aggregate_statistics"];

/// The rules for all plans.
pub(crate) fn rules() -> Vec<Rule> {
    let rules = PhysicalOptimizer::new().rules.into_iter();
    let rules = rules.filter(|rule| !LEFT_OUT.iter().any(|name| rule.name().starts_with(name)));
    let rules = rules.map(|rule| match rule.name() {
        "ProjectionPushdown" => Arc::new(ProjectionsDown(rule)) as Rule,
        _ => rule,
    });
    [
        Arc::new(Unions) as Rule,
        Arc::new(Constants),
        Arc::new(Orders),
        Arc::new(Limits),
        Arc::new(FewRowsKept),
    ]
    .into_iter()
    .chain(rules)
    .chain([
        Arc::new(FallibleLast) as Rule,
        Arc::new(LongSorts),
        Arc::new(Rounds),
        Arc::new(Nearest),
        Arc::new(Sorts),
        Arc::new(Windows),
        Arc::new(FirstRows),
        Arc::new(RangeJoins),
        Arc::new(Lookups),
    ])
    .collect()
}

/// Splits filters in which conditions that can fail stand beside others.
#[derive(Debug)]
struct FallibleLast;

impl PhysicalOptimizerRule for FallibleLast {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(plan.change_up(&mut fallible_last)?.data)
    }

    fn name(&self) -> &str {
        "FallibleLast"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn fallible_last(plan: Arc<dyn ExecutionPlan>) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    let Some(filter) = plan.downcast_ref::<FilterExec>() else {
        return Ok(Transformed::no(plan));
    };
    let (mut safe, mut fallible) = (vec![], vec![]);
    for condition in split_conjunction(filter.predicate()) {
        match can_fail(condition)? {
            true => fallible.push(Arc::clone(condition)),
            false => safe.push(Arc::clone(condition)),
        }
    }
    let Some(last) = fallible.pop() else {
        return Ok(Transformed::no(plan));
    };
    if safe.is_empty() && fallible.is_empty() {
        return Ok(Transformed::no(plan));
    }
    let node = |condition, input| {
        FilterExecBuilder::new(condition, input)
            .with_default_selectivity(filter.default_selectivity())
            .with_batch_size(filter.batch_size())
    };
    let mut below = filter.input().clone();
    if !safe.is_empty() {
        below = Arc::new(node(conjunction(safe), below).build()?);
    }
    for condition in fallible {
        below = Arc::new(node(condition, below).build()?);
    }
    let chosen = filter.projection().as_ref().map(|p| p.to_vec());
    let above = node(last, below)
        .apply_projection(chosen)?
        .with_fetch(filter.fetch())
        .build()?;
    Ok(Transformed::yes(Arc::new(above)))
}

/// Whether a function in an expression can fail for some input.
pub(crate) fn can_fail(e: &Arc<dyn PhysicalExpr>) -> Result<bool> {
    e.any(&mut |e| {
        let call = e.downcast_ref::<ScalarFunctionExpr>();
        Ok(call.is_some_and(|call| functions::can_fail(call.fun())))
    })
}

/// Keeps the side of a cross join that is known to have few rows: DataFusion gives a batch for each row of the one that it keeps, which is
/// the left one, if it doesn't know of both how many there are.
#[derive(Debug)]
struct FewRowsKept;

/// So many rows are few: the other side's batches, which may be small as well, are given once for each.
const FEW_ROWS: usize = 64;

impl PhysicalOptimizerRule for FewRowsKept {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let rows = |side: &Arc<dyn ExecutionPlan>| -> Result<Option<usize>> {
            let known = StatisticsContext::new().compute(side.as_ref(), &StatisticsArgs::new())?;
            Ok(known.num_rows.get_value().copied())
        };
        let plan = plan.change_up(&mut |node| {
            let Some(join) = node.downcast_ref::<CrossJoinExec>() else {
                return Ok(Transformed::no(node));
            };
            let few = rows(join.right())?.is_some_and(|rows| rows <= FEW_ROWS);
            Ok(match few && rows(join.left())?.is_none() {
                true => Transformed::yes(join.swap_inputs()?),
                false => Transformed::no(node),
            })
        })?;
        Ok(plan.data)
    }

    fn name(&self) -> &str {
        "FewRowsKept"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Takes our own node for each union.
#[derive(Debug)]
struct Unions;

impl PhysicalOptimizerRule for Unions {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let plan = plan.change_up(&mut |node| {
            Ok(match node.is::<UnionExec>() {
                true => {
                    let inputs = node.children().into_iter().cloned().collect();
                    Transformed::yes(Arc::new(ConcatExec::new(inputs, node.schema())) as _)
                }
                false => Transformed::no(node),
            })
        })?;
        Ok(plan.data)
    }

    fn name(&self) -> &str {
        "Unions"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Hides what is known of rows from those above for whom it doesn't hold.
#[derive(Debug)]
struct Constants;

impl PhysicalOptimizerRule for Constants {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let plan = plan.change_up(&mut |node| {
            let doubtful = doubtful_inputs(&node);
            let mut inputs: Vec<_> = node.children().into_iter().cloned().collect();
            let mut hidden = false;
            for (input, doubtful) in inputs.iter_mut().zip(doubtful) {
                let known = input.properties().eq_properties.eq_group();
                let known = known.iter().next().is_some();
                // What becomes known only later of what a window is over can't be told yet.
                if doubtful && (known || is_window(&node) && !is_window(input)) {
                    *input = Arc::new(ConcatExec::new(vec![input.clone()], input.schema()));
                    hidden = true;
                }
            }
            Ok(match hidden {
                true => {
                    let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
                    Transformed::yes(node.replace_children(inputs, options)?)
                }
                false => Transformed::no(node),
            })
        })?;
        Ok(plan.data)
    }

    fn name(&self) -> &str {
        "Constants"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Of a node's inputs, those whose columns can be NULL above though they aren't below.
fn doubtful_inputs(node: &Arc<dyn ExecutionPlan>) -> Vec<bool> {
    let join = node.downcast_ref::<HashJoinExec>();
    let join = join.map(|j| *j.join_type());
    let loops = node.downcast_ref::<NestedLoopJoinExec>();
    if let Some(kind) = join.or_else(|| loops.map(|j| *j.join_type())) {
        let left = matches!(kind, JoinType::Right | JoinType::Full);
        let right = matches!(kind, JoinType::Left | JoinType::Full);
        return vec![left, right];
    }
    // Neither over windows nor for what is counted once does DataFusion keep what it knows of equal columns apart from what is left.
    let aggregate = node.downcast_ref::<AggregateExec>().is_some_and(|a| {
        !a.group_expr().is_single() || a.aggr_expr().iter().any(|e| e.is_distinct())
    });
    vec![is_window(node) || aggregate; node.children().len()]
}

/// The rows of its inputs, one input after the other.
#[derive(Debug)]
struct ConcatExec {
    inputs: Vec<Arc<dyn ExecutionPlan>>,
    /// The order that its inputs must have.
    order: Option<LexOrdering>,
    /// See [`ConcatExec::fence`].
    fence: bool,
    properties: Arc<PlanProperties>,
}

impl ConcatExec {
    /// The rows of an input that must come in `order`.
    fn in_order(input: Arc<dyn ExecutionPlan>, order: LexOrdering) -> Self {
        let schema = input.schema();
        ConcatExec {
            order: Some(order),
            ..ConcatExec::new(vec![input], schema)
        }
    }

    fn new(inputs: Vec<Arc<dyn ExecutionPlan>>, schema: SchemaRef) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        ConcatExec {
            inputs,
            order: None,
            fence: false,
            properties: Arc::new(properties),
        }
    }

    /// It is there only to say nothing of the rows of one input.
    fn only_hides(&self) -> bool {
        self.inputs.len() == 1 && self.order.is_none() && !self.fence
    }

    /// The rows of an input, of which all is known that is known of the input, but below which nothing is pushed.
    fn fence(input: Arc<dyn ExecutionPlan>) -> Self {
        ConcatExec {
            order: None,
            fence: true,
            properties: input.properties().clone(),
            inputs: vec![input],
        }
    }
}

impl DisplayAs for ConcatExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConcatExec")
    }
}

impl ExecutionPlan for ConcatExec {
    fn name(&self) -> &str {
        "ConcatExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.inputs.iter().collect()
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false; self.inputs.len()]
    }

    fn required_input_ordering(&self) -> Vec<Option<OrderingRequirements>> {
        let order = self.order.clone().map(OrderingRequirements::from);
        vec![order; self.inputs.len()]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if let ([input], true) = (children.as_slice(), self.fence) {
            return Ok(Arc::new(ConcatExec::fence(input.clone())));
        }
        let order = self.order.clone();
        Ok(Arc::new(ConcatExec {
            order,
            ..ConcatExec::new(children, self.schema())
        }))
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(
            children,
            ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute),
        )
    }

    fn execute(&self, _: usize, task: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let mut parts = Vec::new();
        for input in &self.inputs {
            let partitions = input.properties().partitioning.partition_count();
            parts.extend((0..partitions).map(|n| (input.clone(), n)));
        }
        // An input begins when the ones before it have ended.
        let rows = futures::stream::iter(parts)
            .map(move |(input, n)| input.execute(n, task.clone()))
            .try_flatten()
            .boxed();
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
    }
}
