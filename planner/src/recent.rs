//! [`RecentRows`]: what a recursive query's recursive term reads.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::coop::cooperative;
use datafusion::physical_plan::execution_plan::{
    Boundedness, EmissionType, ReplaceChildrenOptions,
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties,
};
use datafusion_common::tree_node::TreeNodeRecursion;
use datafusion_common::{Result, internal_err};
use datafusion_expr::{Expr, TableType};
use datafusion_physical_expr::PhysicalExpr;
use futures::stream;

type Plan = Arc<dyn ExecutionPlan>;

/// The rows of the last round of one execution. DataFusion's node for recursive queries counts their memory.
#[derive(Clone, Default)]
pub(crate) struct Recent(Arc<Mutex<Vec<RecordBatch>>>);

impl Recent {
    /// A round begins after one that gave `rows`.
    pub fn set(&self, rows: Vec<RecordBatch>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = rows;
    }

    fn get(&self) -> Vec<RecordBatch> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// The properties of rows of which nothing is known.
pub(crate) fn unknown(schema: SchemaRef) -> Arc<PlanProperties> {
    Arc::new(PlanProperties::new(
        EquivalenceProperties::new(schema),
        Partitioning::UnknownPartitioning(1),
        EmissionType::Incremental,
        Boundedness::Bounded,
    ))
}

/// The table that a recursive query's own name stands for in its recursive term: the rows of the last round. DataFusion's own can be read
/// in one place; a subquery that names its columns reads it in others.
#[derive(Debug)]
pub(crate) struct RecentRows {
    query: String,
    schema: SchemaRef,
}

impl RecentRows {
    /// Of the query with this name, which no other has.
    pub fn new(query: &str, schema: SchemaRef) -> Self {
        RecentRows {
            query: query.into(),
            schema,
        }
    }
}

#[async_trait]
impl TableProvider for RecentRows {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Temporary
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Plan> {
        let schema = match projection {
            Some(columns) => Arc::new(self.schema.project(columns)?),
            None => self.schema.clone(),
        };
        Ok(Arc::new(RecentRowsExec {
            query: self.query.clone(),
            columns: projection.cloned(),
            recent: None,
            properties: unknown(schema),
        }))
    }
}

/// See [`RecentRows`].
#[derive(Clone)]
pub(crate) struct RecentRowsExec {
    query: String,
    columns: Option<Vec<usize>>,
    recent: Option<Recent>,
    properties: Arc<PlanProperties>,
}

impl RecentRowsExec {
    /// The name of the query.
    pub fn query(&self) -> &str {
        &self.query
    }

    /// The same table of one execution of it.
    pub fn of(&self, recent: &Recent) -> Self {
        RecentRowsExec {
            recent: Some(recent.clone()),
            ..self.clone()
        }
    }
}

impl fmt::Debug for RecentRowsExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecentRowsExec({})", self.query)
    }
}

impl DisplayAs for RecentRowsExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecentRowsExec: {}", self.query)
    }
}

impl ExecutionPlan for RecentRowsExec {
    fn name(&self) -> &str {
        "RecentRowsExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Plan> {
        vec![]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(self: Arc<Self>, _: Vec<Plan>, _: ReplaceChildrenOptions) -> Result<Plan> {
        Ok(self)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Plan>) -> Result<Plan> {
        Ok(self)
    }

    fn execute(&self, _: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let Some(recent) = &self.recent else {
            return internal_err!("the rows of {} are read outside of it", self.query);
        };
        let recent = recent.get();
        let recent = recent.into_iter().map(|batch| match &self.columns {
            Some(columns) => Ok(batch.project(columns)?),
            None => Ok(batch),
        });
        let recent = recent.collect::<Vec<_>>();
        let recent = RecordBatchStreamAdapter::new(self.schema(), stream::iter(recent));
        Ok(Box::pin(cooperative(recent)))
    }
}
