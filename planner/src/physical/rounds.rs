//! WITH RECURSIVE … UNION: a row that was found before isn't found again.
//!
//! DataFusion's own node for it takes the numbers that `GroupValues` gives to the rows of a batch for ascending. They aren't where two new rows have
//! one hash, and then it drops rows. So its node is one for UNION ALL here, and those above its two terms, which share what has been
//! found, let the new rows through.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use datafusion::config::ConfigOptions;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::aggregates::group_values::{GroupValues, new_group_values};
use datafusion::physical_plan::aggregates::order::GroupOrdering;
use datafusion::physical_plan::execution_plan::{
    Boundedness, ChildrenPropertiesMode, EmissionType, ReplaceChildrenOptions,
};
use datafusion::physical_plan::recursive_query::RecursiveQueryExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties,
};
use datafusion_common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion_common::{Result, internal_err};
use datafusion_physical_expr::PhysicalExpr;
use futures::StreamExt;

use crate::tree::Tree;

type Plan = Arc<dyn ExecutionPlan>;

/// Puts [`NewRowsExec`] above the terms of recursive queries with UNION.
#[derive(Debug)]
pub(super) struct Rounds;

impl PhysicalOptimizerRule for Rounds {
    fn optimize(&self, plan: Plan, _: &ConfigOptions) -> Result<Plan> {
        let plan = plan.change_up(&mut |node| {
            let Some(query) = node.downcast_ref::<RecursiveQueryExec>() else {
                return Ok(Transformed::no(node));
            };
            if !query.is_distinct() {
                return Ok(Transformed::no(node));
            }
            let found = Arc::<Mutex<Option<Found>>>::default();
            let first = NewRowsExec::new(query.static_term().clone(), true, found.clone());
            let next = NewRowsExec::new(query.recursive_term().clone(), false, found);
            let all = RecursiveQueryExec::try_new(
                query.name().into(),
                query.schema(),
                Arc::new(first),
                Arc::new(next),
                false,
            )?;
            Ok(Transformed::yes(Arc::new(all) as Plan))
        })?;
        Ok(plan.data)
    }

    fn name(&self) -> &str {
        "Rounds"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// The rows that were found in one execution.
struct Found {
    rows: Box<dyn GroupValues>,
    memory: MemoryReservation,
    /// The rows of a batch by their numbers among all.
    numbers: Vec<usize>,
}

impl Found {
    /// Those rows of the batch that are new, each once.
    fn new_of(&mut self, batch: &RecordBatch) -> Result<RecordBatch> {
        let before = self.rows.len();
        self.numbers.clear();
        self.rows.intern(batch.columns(), &mut self.numbers)?;
        self.memory.try_resize(self.rows.size())?;
        let mut seen = vec![false; self.rows.len() - before];
        let is_new = |number: &usize| match number.checked_sub(before) {
            Some(at) => !std::mem::replace(&mut seen[at], true),
            None => false,
        };
        let new: BooleanArray = self.numbers.iter().map(is_new).map(Some).collect();
        Ok(filter_record_batch(batch, &new)?)
    }
}

/// Rows of its input that weren't found before.
struct NewRowsExec {
    input: Plan,
    /// Above the first term: nothing has been found when it begins.
    first: bool,
    found: Arc<Mutex<Option<Found>>>,
    properties: Arc<PlanProperties>,
}

impl NewRowsExec {
    fn new(input: Plan, first: bool, found: Arc<Mutex<Option<Found>>>) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(input.schema()),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        NewRowsExec {
            input,
            first,
            found,
            properties: Arc::new(properties),
        }
    }
}

impl fmt::Debug for NewRowsExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NewRowsExec({:?})", self.input)
    }
}

impl DisplayAs for NewRowsExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NewRowsExec")
    }
}

impl ExecutionPlan for NewRowsExec {
    fn name(&self) -> &str {
        "NewRowsExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Plan> {
        vec![&self.input]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
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
        children: Vec<Plan>,
        _: ReplaceChildrenOptions,
    ) -> Result<Plan> {
        let [input] = children.as_slice() else {
            return internal_err!("new rows of one input, {} given", children.len());
        };
        // Each round runs a copy of its term.
        let found = self.found.clone();
        Ok(Arc::new(NewRowsExec::new(input.clone(), self.first, found)))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Plan>) -> Result<Plan> {
        self.replace_children(
            children,
            ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute),
        )
    }

    fn execute(&self, n: usize, task: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        if self.first {
            let rows = new_group_values(self.schema(), &GroupOrdering::None)?;
            let consumer = MemoryConsumer::new("rows of a recursive query");
            *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Some(Found {
                rows,
                memory: consumer.register(task.memory_pool()),
                numbers: vec![],
            });
        }
        let found = self.found.clone();
        let rows = self.input.execute(n, task)?.map(move |batch| {
            let batch = batch?;
            match found
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .as_mut()
            {
                Some(found) => found.new_of(&batch),
                None => internal_err!("the first term of a recursive query comes first"),
            }
        });
        let rows = RecordBatchStreamAdapter::new(self.schema(), rows);
        Ok(Box::pin(rows))
    }
}
