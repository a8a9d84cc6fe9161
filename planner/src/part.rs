//! [`Part`]: a part of a very large query ([`crate::divided`]) as a table that the rest reads.

use std::any::Any;
use std::sync::{Arc, OnceLock};

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::memory::MemorySourceConfig;
use datafusion::catalog::{Session, TableProvider};
use datafusion::datasource::{TableType, provider_as_source, source_as_provider};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};
use datafusion::physical_plan::ExecutionPlan;
use datafusion_common::utils::memory::RecordBatchMemoryCounter;
use datafusion_common::{Column, DFSchema, Result, internal_err};
use datafusion_expr::logical_plan::Projection;
use datafusion_expr::{Expr, LogicalPlan, TableScan, TableScanBuilder};
use futures::StreamExt;

/// See the module.
#[derive(Debug)]
pub(crate) struct Part {
    number: usize,
    schema: SchemaRef,
    /// Its rows, once they have been computed. A view's parts are compiled instead.
    rows: OnceLock<(Vec<RecordBatch>, MemoryReservation)>,
}

impl Part {
    /// Part `number`, which is `plan`.
    pub fn new(number: usize, plan: &LogicalPlan) -> Part {
        let fields = plan.schema().fields().iter().enumerate();
        let fields = fields.map(|(i, f)| f.as_ref().clone().with_name(format!("c{i}")));
        let schema = Schema::new(fields.collect::<Vec<Field>>());
        Part {
            number,
            schema: Arc::new(schema),
            rows: OnceLock::new(),
        }
    }

    /// What reads it, with the columns of `plan`.
    pub fn leaf(self: Arc<Self>, plan: &LogicalPlan) -> Result<LogicalPlan> {
        leaf_named(format!("part_{}", self.number), self, plan.schema())
    }

    /// The number of the part that a scan reads.
    pub fn read_by(scan: &TableScan) -> Option<usize> {
        let provider = source_as_provider(&scan.source).ok()?;
        let provider: &dyn Any = provider.as_ref();
        Some(provider.downcast_ref::<Part>()?.number)
    }

    /// Reads its rows.
    pub async fn fill(
        &self,
        mut rows: SendableRecordBatchStream,
        pool: &Arc<dyn MemoryPool>,
    ) -> Result<()> {
        let memory = MemoryConsumer::new("a part of a query").register(pool);
        let mut counter = RecordBatchMemoryCounter::new();
        let mut batches = vec![];
        while let Some(batch) = rows.next().await {
            let batch = batch?;
            memory.try_grow(counter.count_batch(&batch))?;
            let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
            let (_, columns, _) = batch.into_parts();
            let schema = self.schema.clone();
            batches.push(RecordBatch::try_new_with_options(
                schema, columns, &options,
            )?);
        }
        match self.rows.set((batches, memory)) {
            Ok(()) => Ok(()),
            Err(_) => internal_err!("a part of a query is computed once"),
        }
    }
}

/// What reads a table `name` of columns `c0`, `c1`, …, which the plan above calls as `named` says.
pub(crate) fn leaf_named(
    name: String,
    table: Arc<dyn TableProvider>,
    named: &DFSchema,
) -> Result<LogicalPlan> {
    let scan = TableScanBuilder::new(name.clone(), provider_as_source(table)).build()?;
    let named = named.iter().enumerate().map(|(i, (qualifier, field))| {
        let column = Expr::Column(Column::new(Some(name.clone()), format!("c{i}")));
        column.alias_qualified(qualifier.cloned(), field.name())
    });
    let named: Vec<Expr> = named.collect();
    let scan = Arc::new(LogicalPlan::TableScan(scan));
    Ok(match named.is_empty() {
        true => Arc::unwrap_or_clone(scan),
        false => LogicalPlan::Projection(Projection::try_new(named, scan)?),
    })
}

#[async_trait]
impl TableProvider for Part {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Temporary
    }

    async fn scan(
        &self,
        _: &dyn Session,
        columns: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let Some((rows, _)) = self.rows.get() else {
            return internal_err!("a part of a query is computed before the rest");
        };
        let schema = self.schema.clone();
        let rows = std::slice::from_ref(rows);
        Ok(MemorySourceConfig::try_new_exec(
            rows,
            schema,
            columns.cloned(),
        )?)
    }
}
