//! [`WindowsExec`]: window functions of sorted rows, over as many partitions at once as a batch ends (`window_functions`), in place of
//! DataFusion's nodes, which take one partition after the other.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::compute::concat;
use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::config::ConfigOptions;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::windows::BoundedWindowAggExec;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, InputOrderMode, PlanProperties,
};
use datafusion_common::tree_node::Transformed;
use datafusion_common::utils::memory::get_record_batch_memory_size;
use datafusion_common::{Result, internal_err};
use datafusion_physical_expr::PhysicalExpr;
use futures::StreamExt;
use futures::stream::unfold;

use super::sorts::SortedExec;
use super::window_frames::runs;
use super::window_functions::{Chunk, Function};
use super::windows::functions;
use crate::tree::Tree;

/// Takes [`WindowsExec`] where it knows one of the functions.
#[derive(Debug)]
pub(super) struct Windows;

impl PhysicalOptimizerRule for Windows {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let plan = plan.change_up(&mut |node| {
            Ok(match WindowsExec::instead_of(&node) {
                Some(windows) => Transformed::yes(Arc::new(windows)),
                None => Transformed::no(node),
            })
        })?;
        Ok(plan.data)
    }

    fn name(&self) -> &str {
        "Windows"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// See the module.
#[derive(Debug)]
struct WindowsExec {
    /// What it stands for.
    node: Arc<dyn ExecutionPlan>,
    input: Arc<dyn ExecutionPlan>,
    /// What all functions divide rows by.
    by: Vec<Arc<dyn PhysicalExpr>>,
    functions: Arc<Vec<Function>>,
}

impl WindowsExec {
    fn instead_of(node: &Arc<dyn ExecutionPlan>) -> Option<WindowsExec> {
        let exprs = functions(node)?;
        let [input] = node.children()[..] else {
            return None;
        };
        let bounded = node.downcast_ref::<BoundedWindowAggExec>();
        if bounded.is_some_and(|b| b.input_order_mode != InputOrderMode::Sorted) {
            return None;
        }
        let by = exprs.first()?.partition_by();
        let within = |a: &[Arc<dyn PhysicalExpr>], b: &[Arc<dyn PhysicalExpr>]| {
            a.iter().all(|e| b.contains(e))
        };
        let same = |other: &[Arc<dyn PhysicalExpr>]| within(by, other) && within(other, by);
        if !exprs.iter().all(|e| same(e.partition_by())) {
            return None;
        }
        let functions: Vec<Function> = exprs.iter().map(Function::of).collect();
        let here = functions.iter().any(Function::has_distance);
        // DataFusion's node gives the first rows before it has seen the last, which is of use where nothing below waits for that.
        if by.is_empty() && bounded.is_some() && !input.is::<SortedExec>() && !here {
            return None;
        }
        if functions.iter().all(Function::is_other) && !here {
            return None;
        }
        Some(WindowsExec {
            node: node.clone(),
            input: input.clone(),
            by: by.to_vec(),
            functions: Arc::new(functions),
        })
    }
}

impl DisplayAs for WindowsExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WindowsExec")
    }
}

impl ExecutionPlan for WindowsExec {
    fn name(&self) -> &str {
        "WindowsExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.node.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
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
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.node.apply_expressions(f)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let (Some(input), true) = (children.pop(), children.is_empty()) else {
            return internal_err!("windows have one input");
        };
        Ok(Arc::new(WindowsExec {
            node: self.node.clone(),
            input,
            by: self.by.clone(),
            functions: self.functions.clone(),
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

    fn execute(&self, n: usize, task: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let consumer = MemoryConsumer::new("rows of a partition");
        let rows = Rows {
            input: self.input.execute(n, task.clone())?,
            schema: self.schema(),
            by: self.by.clone(),
            functions: self.functions.clone(),
            pending: vec![],
            last: None,
            done: VecDeque::new(),
            memory: consumer.register(task.memory_pool()),
        };
        let stream = unfold(rows, |mut rows| async move {
            match rows.next().await {
                Ok(batch) => Some((Ok(batch?), rows)),
                Err(e) => Some((Err(e), rows)),
            }
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            self.schema(),
            stream,
        )))
    }
}

/// The rows on their way.
struct Rows {
    input: SendableRecordBatchStream,
    schema: SchemaRef,
    by: Vec<Arc<dyn PhysicalExpr>>,
    functions: Arc<Vec<Function>>,
    /// Rows of the partition whose end hasn't come.
    pending: Vec<RecordBatch>,
    /// The key of the last row that came.
    last: Option<Vec<ArrayRef>>,
    done: VecDeque<RecordBatch>,
    memory: MemoryReservation,
}

impl Rows {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            if let Some(batch) = self.done.pop_front() {
                return Ok(Some(batch));
            }
            match self.input.next().await {
                Some(batch) => self.add(batch?)?,
                None if self.pending.is_empty() => return Ok(None),
                None => self.compute()?,
            }
        }
    }

    fn add(&mut self, batch: RecordBatch) -> Result<()> {
        let rows = batch.num_rows();
        if rows == 0 {
            return Ok(());
        }
        let keys = self.by.iter();
        let keys = keys.map(|e| e.evaluate(&batch)?.into_array(rows));
        let keys = keys.collect::<Result<Vec<ArrayRef>>>()?;
        // Where the batch's last partition begins.
        let cut = runs(&keys, rows)?.last().map_or(0, |run| run.start);
        let end = |at: usize| -> Vec<ArrayRef> { keys.iter().map(|k| k.slice(at, 1)).collect() };
        let goes_on = match self.last.replace(end(rows - 1)) {
            Some(last) => are_equal(&last, &end(0))?,
            None => true,
        };
        if cut > 0 {
            self.pending.push(batch.slice(0, cut));
        }
        if cut > 0 || !goes_on {
            self.compute()?;
        }
        let rest = batch.slice(cut, rows - cut);
        self.memory.try_grow(get_record_batch_memory_size(&rest))?;
        self.pending.push(rest);
        Ok(())
    }

    /// Has the rows that wait done.
    fn compute(&mut self) -> Result<()> {
        let batches = std::mem::take(&mut self.pending);
        self.memory.free();
        let mut chunk = Chunk {
            rows: batches.iter().map(RecordBatch::num_rows).sum(),
            batches: &batches,
            partitions: vec![],
        };
        let keys = self.by.iter().map(|e| chunk.column(e));
        chunk.partitions = runs(&keys.collect::<Result<Vec<_>>>()?, chunk.rows)?;
        let results = self.functions.iter().map(|f| f.evaluate(&chunk));
        let results = results.collect::<Result<Vec<_>>>()?;
        let mut from = 0;
        for batch in &batches {
            let rows = batch.num_rows();
            let own = results.iter().map(|r| r.slice(from, rows));
            let columns = batch.columns().iter().cloned().chain(own).collect();
            from += rows;
            let options = RecordBatchOptions::new().with_row_count(Some(rows));
            let schema = self.schema.clone();
            let batch = RecordBatch::try_new_with_options(schema, columns, &options)?;
            self.done.push_back(batch);
        }
        Ok(())
    }
}

/// Whether the rows of two columns' parts, each of one row, are equal.
fn are_equal(a: &[ArrayRef], b: &[ArrayRef]) -> Result<bool> {
    let both = a.iter().zip(b);
    let both = both.map(|(a, b)| Ok(concat(&[a.as_ref(), b.as_ref()])?));
    let both = both.collect::<Result<Vec<ArrayRef>>>()?;
    Ok(runs(&both, 2)?.len() == 1)
}
