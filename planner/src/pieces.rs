//! [`PiecesExec`]: a projection that makes lists, such as the calls of generate_series that are then spread into rows. A batch of rows
//! may stand for billions of elements, so only as many rows are taken at once as make lists of moderate size.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PhysicalExpr, PlanProperties,
};
use datafusion_common::{Result, internal_err};
use futures::StreamExt;
use futures::stream::unfold;

/// Elements of lists to make at once, where a row has no more.
const ELEMENTS: usize = 1 << 16;
/// Rows of a batch.
const ROWS_MAX: usize = 8192;

/// See the module.
#[derive(Debug)]
pub(crate) struct PiecesExec {
    projection: Arc<ProjectionExec>,
    input: Arc<dyn ExecutionPlan>,
}

impl PiecesExec {
    /// In place of `plan`, if that is a projection that makes lists.
    pub fn instead_of(plan: &Arc<dyn ExecutionPlan>) -> Option<Arc<dyn ExecutionPlan>> {
        let projection = plan.downcast_ref::<ProjectionExec>()?;
        let schema = projection.schema();
        let makes_list = |(i, e): (usize, &Arc<dyn PhysicalExpr>)| {
            let list = matches!(schema.field(i).data_type(), DataType::List(_));
            list && !e.is::<Column>()
        };
        let exprs = projection.expr().iter().map(|e| &e.expr);
        exprs.enumerate().any(makes_list).then(|| {
            Arc::new(PiecesExec {
                input: projection.input().clone(),
                projection: Arc::new(projection.clone()),
            }) as Arc<dyn ExecutionPlan>
        })
    }
}

impl DisplayAs for PiecesExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PiecesExec")
    }
}

impl ExecutionPlan for PiecesExec {
    fn name(&self) -> &str {
        "PiecesExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.projection.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.projection.apply_expressions(f)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let (Some(input), true) = (children.pop(), children.is_empty()) else {
            return internal_err!("a projection has one input");
        };
        Ok(Arc::new(PiecesExec {
            projection: self.projection.clone(),
            input,
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

    fn execute(
        &self,
        partition: usize,
        task: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let schema = self.projection.schema();
        let exprs = self.projection.expr().iter().map(|e| e.expr.clone());
        let pieces = Pieces {
            input: self.input.execute(partition, task)?,
            exprs: exprs.collect(),
            schema: schema.clone(),
            todo: VecDeque::new(),
            rows: 1,
        };
        let stream = unfold(pieces, |mut pieces| async move {
            Some((pieces.next().await?, pieces))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, stream)))
    }
}

struct Pieces {
    input: SendableRecordBatchStream,
    exprs: Vec<Arc<dyn PhysicalExpr>>,
    schema: SchemaRef,
    /// Rows that wait.
    todo: VecDeque<RecordBatch>,
    /// How many to take next.
    rows: usize,
}

impl Pieces {
    async fn next(&mut self) -> Option<Result<RecordBatch>> {
        loop {
            let Some(batch) = self.todo.pop_front() else {
                match self.input.next().await? {
                    Ok(batch) if batch.num_rows() == 0 => continue,
                    Ok(batch) => self.todo.push_back(batch),
                    Err(e) => return Some(Err(e)),
                }
                continue;
            };
            let rows = self.rows.min(batch.num_rows());
            match self.project(&batch.slice(0, rows)) {
                // Fewer rows may do; the row that fails by itself fails at last.
                Err(_) if rows > 1 => {
                    self.rows = rows / 2;
                    self.todo.push_front(batch);
                }
                Err(e) => return Some(Err(e)),
                Ok(projected) => {
                    let elements: usize = projected.columns().iter().map(elements).sum();
                    self.rows = (rows * ELEMENTS / elements.max(1)).clamp(1, ROWS_MAX);
                    if rows < batch.num_rows() {
                        self.todo
                            .push_front(batch.slice(rows, batch.num_rows() - rows));
                    }
                    return Some(Ok(projected));
                }
            }
        }
    }

    fn project(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let columns = self
            .exprs
            .iter()
            .map(|e| e.evaluate(rows)?.into_array(rows.num_rows()))
            .collect::<Result<Vec<ArrayRef>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        Ok(RecordBatch::try_new_with_options(
            self.schema.clone(),
            columns,
            &options,
        )?)
    }
}

/// Elements of the lists of a column.
fn elements(column: &ArrayRef) -> usize {
    column.as_list_opt::<i32>().map_or(0, |list| {
        let offsets = list.value_offsets();
        offsets
            .last()
            .zip(offsets.first())
            .map_or(0, |(to, from)| (to - from) as usize)
    })
}
