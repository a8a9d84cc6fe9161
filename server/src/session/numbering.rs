//! Rows of an INSERT get the numbers that their plan asks for.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::compute;
use arrow::datatypes::{DataType, Int64Type, SchemaRef};
use tidemill_planner::SqlError;
use tidemill_planner::ast::Numbering;

use super::sequences::Currents;
use super::sql::SqlSession;
use crate::catalog::Object;
use crate::numbers::{Numbered, Numbers, numbered};

impl SqlSession {
    /// Rows as they are to be inserted into `table`: the plan gives its columns, then, of each column that numbers rows, whether
    /// the row is to have the next number.
    pub(super) fn numbered_rows(
        &self,
        table: &Object,
        batches: Vec<RecordBatch>,
    ) -> Result<(Vec<RecordBatch>, Option<Numbered>), SqlError> {
        let given = &mut |column, number| self.sequences.gave((table.record.id, column), number);
        number(&self.handle.env.numbers, table, batches, given)
    }
}

/// Like [`SqlSession::numbered_rows`], with numbers of `numbers`. `gave` hears of the last number of each batch and column.
pub(super) fn number(
    numbers: &Numbers,
    table: &Object,
    batches: Vec<RecordBatch>,
    gave: &mut dyn FnMut(usize, i64),
) -> Result<(Vec<RecordBatch>, Option<Numbered>), SqlError> {
    let width = table.columns.fields().len();
    let mut held = None;
    let mut out = Vec::with_capacity(batches.len());
    for batch in batches {
        let mut columns = batch.columns()[..width].to_vec();
        for (i, column) in numbered(table).enumerate() {
            let asks = batch.column(width + i).as_boolean();
            let count = asks.true_count();
            if count == 0 {
                continue;
            }
            let (given, when) = numbers.give(table, column, count)?;
            held = held.or(Some(when));
            given.last().iter().for_each(|last| gave(column.0, **last));
            let (mut given, old) = (given.into_iter(), as_longs(&columns[column.0])?);
            let numbers = (0..asks.len()).map(|row| match asks.value(row) {
                true => given.next(),
                false => old.is_valid(row).then(|| old.value(row)),
            });
            let numbers: ArrayRef = Arc::new(Int64Array::from_iter(numbers));
            let to = columns[column.0].data_type();
            columns[column.0] = compute::cast(&numbers, to).map_err(internal)?;
        }
        let schema = batch.schema().project(&(0..width).collect::<Vec<_>>());
        let schema: SchemaRef = Arc::new(schema.map_err(internal)?);
        out.push(RecordBatch::try_new(schema, columns).map_err(internal)?);
    }
    Ok((out, held))
}

/// Numbers for `rows` rows of a column.
pub(super) fn column_of(
    env: (&Numbers, &Currents),
    table: &Object,
    (column, numbering): (usize, &Numbering),
    rows: usize,
) -> Result<(ArrayRef, Numbered), SqlError> {
    let (numbers, currents) = env;
    let (given, when) = numbers.give(table, (column, numbering), rows)?;
    if let Some(last) = given.last() {
        currents.gave((table.record.id, column), *last);
    }
    let given: ArrayRef = Arc::new(Int64Array::from(given));
    let to = table.columns.field(column).data_type();
    Ok((compute::cast(&given, to).map_err(internal)?, when))
}

fn as_longs(column: &ArrayRef) -> Result<Int64Array, SqlError> {
    let longs = compute::cast(column, &DataType::Int64).map_err(internal)?;
    Ok(longs.as_primitive::<Int64Type>().clone())
}

fn internal(e: arrow::error::ArrowError) -> SqlError {
    SqlError::internal(e.to_string())
}
