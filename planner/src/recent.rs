//! [`RecentRows`]: what a recursive query's recursive term reads.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
use futures::{StreamExt, stream};

type Plan = Arc<dyn ExecutionPlan>;

/// The rows of the last round of one execution.
#[derive(Clone)]
pub(crate) struct Recent {
    /// In one place, whose rows are given back as it reads them.
    once: bool,
    rows: Arc<Mutex<Round>>,
}

#[derive(Default)]
struct Round {
    /// If they are read more than once.
    rows: Vec<RecordBatch>,
    /// The same rows, which holds their memory.
    stream: Option<SendableRecordBatchStream>,
}

impl Recent {
    /// `once`: in each round they are read one time.
    pub fn new(once: bool) -> Recent {
        Recent {
            once,
            rows: Arc::default(),
        }
    }

    /// Whether they are read one time in each round.
    pub fn is_read_once(&self) -> bool {
        self.once
    }

    /// A round begins after one that gave these rows; as a list if they are read more than once.
    pub fn set(&self, rows: Vec<RecordBatch>, stream: SendableRecordBatchStream) {
        let stream = Some(stream);
        *self.locked() = Round { rows, stream };
    }

    fn read(&self, schema: &SchemaRef) -> Result<SendableRecordBatchStream> {
        if !self.once {
            let rows = self.locked().rows.clone();
            let rows = stream::iter(rows.into_iter().map(Ok));
            let rows = RecordBatchStreamAdapter::new(schema.clone(), rows);
            return Ok(Box::pin(cooperative(rows)));
        }
        match self.locked().stream.take() {
            Some(rows) => Ok(rows),
            None => internal_err!("the rows of a round are read twice"),
        }
    }

    fn locked(&self) -> MutexGuard<'_, Round> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
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
        let Some(columns) = self.columns.clone() else {
            return recent.read(&self.schema());
        };
        let rows = recent.read(&self.schema())?;
        let rows = rows.map(move |batch| Ok(batch?.project(&columns)?));
        let rows = RecordBatchStreamAdapter::new(self.schema(), rows);
        Ok(Box::pin(rows))
    }
}
