//! [`Scan`]: the rows of a collection, as a query's reader gives them.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use datafusion_common::{Result as DfResult, ScalarValue};

use crate::access::Condition;
use crate::catalog::Relation;
use crate::error::{Result, SqlError};
use crate::functions::external;
use crate::query::{ColumnOrder, Pieces, Rows, SnapshotReader};

/// The reader, as an extension of a session's configuration.
pub(crate) struct Reader(pub Arc<dyn SnapshotReader>);

/// What is read of a collection.
#[derive(Debug)]
pub(crate) struct Scan {
    pub relation: Arc<Relation>,
    /// Which columns, in which order; `None`: all.
    pub columns: Option<Vec<usize>>,
    /// True of every row that is wanted.
    pub conditions: Vec<Condition>,
    pub schema: SchemaRef,
}

impl PartitionStream for Scan {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, task: Arc<TaskContext>) -> SendableRecordBatchStream {
        let rows = reader(&task).and_then(|reader| {
            let columns = self.columns.as_deref();
            reader.scan(self.relation.id, columns, &self.conditions)
        });
        match rows {
            Ok(rows) => self.stream(rows),
            Err(e) => {
                let error = futures::stream::iter([Err(external(e))]);
                let schema = self.schema.clone();
                Box::pin(RecordBatchStreamAdapter::new(schema, error))
            }
        }
    }
}

impl Scan {
    /// About how many rows it gives.
    pub fn rows_estimate(&self, reader: &dyn SnapshotReader) -> DfResult<Option<usize>> {
        let Some(all) = reader.rows_estimate(self.relation.id) else {
            return Ok(None);
        };
        let found = !self.conditions.is_empty()
            && reader
                .finds(self.relation.id, &self.conditions)
                .map_err(external)?;
        // Those that an index finds are few, however many: the estimate decides between reading these and reading all.
        Ok(Some(match found {
            true => (all as usize).min(FOUND_ESTIMATE),
            false => all as usize,
        }))
    }

    /// The same of the reader that a plan is executed with.
    pub fn rows_now(&self, task: &TaskContext) -> DfResult<Option<usize>> {
        self.rows_estimate(&*reader(task).map_err(external)?)
    }

    /// The column of the collection that is the `n`th of the scan.
    pub fn column(&self, n: usize) -> Option<usize> {
        match &self.columns {
            Some(columns) => columns.get(n).copied(),
            None => Some(n),
        }
    }

    /// The rows that have one of `keys` each, which are a column of the collection and values of it; `None`: no index finds them.
    pub fn find(
        &self,
        keys: Vec<(usize, Vec<ScalarValue>)>,
        task: &TaskContext,
    ) -> Result<Option<SendableRecordBatchStream>> {
        let mut conditions = self.conditions.clone();
        for (column, values) in keys {
            let ty = self.relation.columns.field(column).data_type();
            conditions.extend(Condition::OneOf { column, values }.of_type(ty));
        }
        let columns = self.columns.as_deref();
        let found = reader(task)?.find(self.relation.id, columns, &conditions)?;
        Ok(found.map(|rows| self.stream(rows)))
    }

    /// The rows in an order that the reader has them in, if it has.
    pub fn in_order(&self, order: ColumnOrder, task: &TaskContext) -> Result<Option<Pieces>> {
        let columns = self.columns.as_deref();
        reader(task)?.find_in_order(self.relation.id, columns, &self.conditions, order)
    }

    fn stream(&self, rows: Rows) -> SendableRecordBatchStream {
        let schema = self.schema.clone();
        let batches = rows.map(move |b| b.and_then(|b| relabel(b, &schema)).map_err(external));
        let schema = self.schema.clone();
        Box::pin(RecordBatchStreamAdapter::new(
            schema,
            futures::stream::iter(batches),
        ))
    }
}

/// Rows that an index is thought to find.
const FOUND_ESTIMATE: usize = 10;

/// Whether values of the type are equal just where an index finds them by each other.
pub(crate) fn is_found_by(t: &DataType) -> bool {
    use DataType::*;
    matches!(
        t,
        Int16
            | Int32
            | Int64
            | Decimal128(..)
            | Date32
            | Timestamp(..)
            | Utf8
            | Utf8View
            | FixedSizeBinary(_)
    )
}

fn reader(task: &TaskContext) -> Result<Arc<dyn SnapshotReader>> {
    let reader = task.session_config().get_extension::<Reader>();
    match reader {
        Some(reader) => Ok(reader.0.clone()),
        None => Err(SqlError::internal("a plan was executed without a reader")),
    }
}

/// The batch under `schema`; casts columns whose Arrow type differs.
pub(crate) fn relabel(b: RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    if b.schema_ref() == schema {
        return Ok(b);
    }
    if b.num_columns() != schema.fields().len() {
        return Err(SqlError::internal(
            "a scan gave other columns than it was asked for",
        ));
    }
    let internal = |e: arrow::error::ArrowError| SqlError::internal(e.to_string());
    let columns = b
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(c, f)| {
            if c.data_type() == f.data_type() {
                Ok(c.clone())
            } else {
                arrow::compute::cast(c, f.data_type()).map_err(internal)
            }
        })
        .collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(b.num_rows()));
    RecordBatch::try_new_with_options(schema.clone(), columns, &options).map_err(internal)
}
