//! [`Once`]: a part of a query that stands in several places and is computed once: a common table expression with volatile functions, whose
//! rows are the same wherever it is named, or parts that are equal ([`crate::equal_parts`]). Each place has a copy of its plan; in an
//! execution the first one that is asked for rows computes them, for all.

use std::any::Any;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering as AtomicOrdering};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::execution::context::QueryPlanner;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::coop::cooperative;
use datafusion::physical_plan::execution_plan::{
    ChildrenPropertiesMode, ReplaceChildrenOptions, reset_plan_states,
};
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PhysicalExpr,
    PlanProperties, Statistics,
};
use datafusion::physical_planner::{DefaultPhysicalPlanner, ExtensionPlanner, PhysicalPlanner};
use datafusion_common::utils::memory::RecordBatchMemoryCounter;
use datafusion_common::{DFSchemaRef, Result, internal_err};
use datafusion_expr::logical_plan::Extension;
use datafusion_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion_expr::{Expr, LogicalPlan, UserDefinedLogicalNode, UserDefinedLogicalNodeCore};
use futures::{TryStreamExt, stream};
use tokio::sync::OnceCell;

use crate::compile::decorrelate::names::subquery_of;
use crate::compile::rules::has_outer_reference;
use crate::functions::time_of;
use crate::given::Given;
use crate::physical::kept::bytes_max;
use crate::physical::without_filters;
use crate::tree::{PlanTree, Tree};

/// See the module.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Once {
    /// The same in all places.
    number: usize,
    /// Another computation may give other rows.
    volatile: bool,
    input: LogicalPlan,
}

impl Once {
    /// The plan as that of common table expression `number` of its statement.
    pub fn plan(number: usize, input: LogicalPlan) -> LogicalPlan {
        Once::node(number, true, input)
    }

    /// The plan, which isn't volatile, to be put into several places.
    pub fn equal(input: LogicalPlan) -> LogicalPlan {
        Once::node(new_number(), false, input)
    }

    fn node(number: usize, volatile: bool, input: LogicalPlan) -> LogicalPlan {
        LogicalPlan::Extension(Extension {
            node: Arc::new(Once {
                number,
                volatile,
                input,
            }),
        })
    }
}

/// A number that no other plan has. Those of common table expressions count from the other end.
fn new_number() -> usize {
    static NUMBERS: AtomicUsize = AtomicUsize::new(0);
    usize::MAX - NUMBERS.fetch_add(1, AtomicOrdering::Relaxed)
}

/// `plan`, to be put into several places that must have the same rows.
pub(crate) fn same_rows(plan: &LogicalPlan) -> Result<LogicalPlan> {
    if !is_volatile(plan)? || has_outer_reference(plan)? {
        return Ok(plan.clone());
    }
    Ok(Once::plan(new_number(), plan.clone()))
}

/// Whether a function of the expression, or of a subquery in it, may give another value each time it is called.
pub(crate) fn is_volatile_value(e: &Expr) -> Result<bool> {
    e.any(&mut |e| match subquery_of(e) {
        Some(subquery) => is_volatile(&subquery.subquery),
        None => Ok(calls_volatile(e)),
    })
}

/// The time of the statement is put in before it runs.
fn calls_volatile(e: &Expr) -> bool {
    time_of(e).is_none() && e.is_volatile_node()
}

/// The same of a plan.
pub(crate) fn is_volatile(plan: &LogicalPlan) -> Result<bool> {
    let mut found = false;
    plan.walk_all(&mut |node| {
        // The walk comes to the plans of subqueries by itself.
        for e in node.expressions() {
            found |= e.any(&mut |e| Ok(calls_volatile(e)))?;
        }
        Ok(match found {
            true => TreeNodeRecursion::Stop,
            false => TreeNodeRecursion::Continue,
        })
    })?;
    Ok(found)
}

impl Hash for Once {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.number.hash(state);
    }
}

impl PartialOrd for Once {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        match self.number.cmp(&other.number) {
            Ordering::Equal => self.input.partial_cmp(&other.input),
            other => Some(other),
        }
    }
}

impl UserDefinedLogicalNodeCore for Once {
    fn name(&self) -> &str {
        "Once"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        self.input.schema()
    }

    fn expressions(&self) -> Vec<Expr> {
        vec![]
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Once")
    }

    fn with_exprs_and_inputs(&self, _: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<Self> {
        let (Some(input), true) = (inputs.pop(), inputs.is_empty()) else {
            return internal_err!("a part that is computed once has one plan");
        };
        Ok(Once { input, ..*self })
    }
}

/// DataFusion's planner, which knows [`Once`] and [`Given`].
#[derive(Debug)]
pub(crate) struct Planner;

#[async_trait]
impl QueryPlanner for Planner {
    async fn create_physical_plan(
        &self,
        plan: &LogicalPlan,
        session: &dyn Session,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let planner = DefaultPhysicalPlanner::with_extension_planners(vec![Arc::new(Planner)]);
        let plan = without_filters(plan)?;
        planner.create_physical_plan(&plan, session).await
    }
}

#[async_trait]
impl ExtensionPlanner for Planner {
    async fn plan_extension(
        &self,
        _: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        _: &[&LogicalPlan],
        inputs: &[Arc<dyn ExecutionPlan>],
        _: &dyn Session,
        _: &PhysicalPlanningContext,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let node: &dyn Any = node.as_any();
        if let Some(given) = node.downcast_ref::<Given>() {
            return given.exec().map(Some);
        }
        let (Some(once), [input]) = (node.downcast_ref::<Once>(), inputs) else {
            return Ok(None);
        };
        Ok(Some(Arc::new(OnceExec {
            number: once.number,
            volatile: once.volatile,
            input: input.clone(),
        })))
    }
}

/// The rows of a part, and the memory that they take; `None`: there isn't enough.
type Computed = Arc<OnceCell<Option<(Vec<RecordBatch>, MemoryReservation)>>>;

/// The rows of one execution, by number; a part of its settings.
#[derive(Debug, Default)]
pub(crate) struct Results(Mutex<HashMap<usize, Computed>>);

impl Results {
    fn of(&self, number: usize) -> Computed {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(number).or_default().clone()
    }
}

/// See [`Once`].
#[derive(Debug)]
pub(crate) struct OnceExec {
    number: usize,
    volatile: bool,
    input: Arc<dyn ExecutionPlan>,
}

/// Parts of one execution are computed anew from now on.
pub(crate) fn forget(numbers: &[usize], task: &TaskContext) {
    if let Some(results) = task.session_config().get_extension::<Results>() {
        let mut all = results.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|number, _| !numbers.contains(number));
    }
}

impl OnceExec {
    /// What its places have in common.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Whether each place may compute its rows, or some of them, by itself.
    pub fn is_shared_for_speed(&self) -> bool {
        !self.volatile
    }

    /// All rows of the input; `None`: there is no memory to keep them in.
    async fn compute(
        &self,
        partition: usize,
        task: Arc<TaskContext>,
    ) -> Result<Option<(Vec<RecordBatch>, MemoryReservation)>> {
        let memory = MemoryConsumer::new("rows of a part that stands in several places");
        let memory = memory.register(task.memory_pool());
        let most = bytes_max(&task);
        let mut rows = reset_plan_states(self.input.clone())?.execute(partition, task)?;
        let (mut batches, mut bytes) = (vec![], RecordBatchMemoryCounter::new());
        while let Some(batch) = rows.try_next().await? {
            let grown = memory.try_grow(bytes.count_batch(&batch));
            if self.volatile {
                grown?;
            } else if grown.is_err() || bytes.memory_usage() > most {
                return Ok(None);
            }
            batches.push(batch);
        }
        Ok(Some((batches, memory)))
    }
}

impl DisplayAs for OnceExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OnceExec")
    }
}

impl ExecutionPlan for OnceExec {
    fn name(&self) -> &str {
        "OnceExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    /// It does, but a sort mustn't move into the input of one place.
    fn maintains_input_order(&self) -> Vec<bool> {
        vec![false]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let (Some(input), true) = (children.pop(), children.is_empty()) else {
            return internal_err!("a part that is computed once has one plan");
        };
        Ok(Arc::new(OnceExec { input, ..*self }))
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

    fn execute(
        &self,
        partition: usize,
        task: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let results = task.session_config().get_extension::<Results>();
        let Some(results) = results else {
            return internal_err!("a plan was executed without a place for its results");
        };
        let partitions = self.input.output_partitioning().partition_count();
        if partitions != 1 {
            return internal_err!("plans have one partition, not {partitions}");
        }
        let cell = results.of(self.number);
        let this = OnceExec {
            input: self.input.clone(),
            ..*self
        };
        let rows = stream::once(async move {
            let compute = || this.compute(partition, task.clone());
            let Some((batches, _)) = cell.get_or_try_init(compute).await? else {
                return reset_plan_states(this.input.clone())?.execute(partition, task);
            };
            let batches = stream::iter(batches.clone().into_iter().map(Ok));
            let batches = RecordBatchStreamAdapter::new(this.schema(), batches);
            Ok(Box::pin(cooperative(batches)) as SendableRecordBatchStream)
        });
        let rows = rows.try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
    }

    fn statistics_from_inputs(
        &self,
        inputs: &[Arc<Statistics>],
        _: &StatisticsArgs,
    ) -> Result<Arc<Statistics>> {
        match inputs {
            [input] => Ok(input.clone()),
            _ => internal_err!("a part that is computed once has one plan"),
        }
    }
}
