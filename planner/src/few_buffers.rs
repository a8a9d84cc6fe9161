//! [`FewBuffersExec`]: the rows of a join, whose texts lie in few buffers.
//!
//! A row's texts point into buffers, and each batch that a join makes points into all those of the side that it keeps in memory. Where the next join
//! keeps these batches, it puts their buffers together once more: with every join as many times more as there are batches, which no
//! memory limit sees.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PhysicalExpr, PlanProperties,
};
use datafusion_common::{Result, internal_err};
use futures::TryStreamExt;
use tidemill_zset::buffers::in_few_buffers;

/// See the module.
#[derive(Debug)]
pub(crate) struct FewBuffersExec {
    input: Arc<dyn ExecutionPlan>,
}

impl FewBuffersExec {
    /// Around `input`, if it has texts.
    pub fn around(input: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
        let schema = input.schema();
        let mut types = schema.fields().iter().map(|f| f.data_type());
        match types.any(has_buffers) {
            true => Arc::new(FewBuffersExec { input }),
            false => input,
        }
    }
}

fn has_buffers(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8View | DataType::BinaryView => true,
        DataType::List(item) => has_buffers(item.data_type()),
        _ => false,
    }
}

impl DisplayAs for FewBuffersExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FewBuffersExec")
    }
}

impl ExecutionPlan for FewBuffersExec {
    fn name(&self) -> &str {
        "FewBuffersExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
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
            return internal_err!("there is one input");
        };
        Ok(Arc::new(FewBuffersExec { input }))
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
        let rows = self.input.execute(partition, task)?;
        let rows = rows.and_then(async |batch| Ok(in_few_buffers(batch)?));
        let rows = Box::pin(rows);
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
    }
}
