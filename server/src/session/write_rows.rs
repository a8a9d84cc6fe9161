//! The rows that a write has at hand: how plans read them, and the change that they mean.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, SortField};
use tidemill_planner::SqlError;
use tidemill_planner::ast::Statement;
use tidemill_planner::functions::cast::{Context, cast_array};
use tidemill_planner::query::{Condition, SnapshotReader, WRITTEN};
use tidemill_zset::schema::SqlType;
use tidemill_zset::{CollectionId, Delta, Diffs};

use crate::catalog::Object;
use crate::coordinator::tables::check_not_null;
use crate::reader::{RowIterator, Snapshot};

/// What a write did.
pub(super) struct Written {
    pub delta: Delta,
    /// Rows that it counts: as they are now, or as they were before DELETE.
    pub rows: RecordBatch,
}

/// Rows that a write has at hand of which expressions are computed where it is, not on a thread of their own.
const AT_ONCE_ROWS_MAX: usize = 1024;

/// A snapshot, and the rows that a write has at hand.
#[derive(Debug)]
pub(super) struct WithRows {
    pub inner: Snapshot,
    pub rows: RecordBatch,
}

impl SnapshotReader for WithRows {
    fn scan(
        &self,
        collection: CollectionId,
        columns: Option<&[usize]>,
        conditions: &[Condition],
    ) -> Result<RowIterator, SqlError> {
        if collection != WRITTEN {
            return self.inner.scan(collection, columns, conditions);
        }
        let rows = match columns {
            Some(columns) => self.rows.project(columns).map_err(internal),
            None => Ok(self.rows.clone()),
        };
        Ok(Box::new(std::iter::once(rows)))
    }

    fn find(
        &self,
        collection: CollectionId,
        columns: Option<&[usize]>,
        conditions: &[Condition],
    ) -> Result<Option<RowIterator>, SqlError> {
        if collection != WRITTEN {
            return self.inner.find(collection, columns, conditions);
        }
        match self.rows.num_rows() <= AT_ONCE_ROWS_MAX {
            true => self.scan(collection, columns, conditions).map(Some),
            false => Ok(None),
        }
    }
}

pub(super) fn internal(e: arrow::error::ArrowError) -> SqlError {
    SqlError::internal(e.to_string())
}

/// The columns of `left`, then those of `right`.
pub(super) fn side_by_side(
    left: &RecordBatch,
    right: &RecordBatch,
) -> Result<RecordBatch, SqlError> {
    let fields: Vec<_> = [("old", left), ("new", right)]
        .iter()
        .flat_map(|(name, batch)| {
            let schema = batch.schema();
            let fields = schema.fields().iter().enumerate();
            fields
                .map(|(i, f)| f.as_ref().clone().with_name(format!("{name}#{i}")))
                .collect::<Vec<_>>()
        })
        .collect();
    let columns = [left.columns(), right.columns()].concat();
    RecordBatch::try_new(Arc::new(arrow::datatypes::Schema::new(fields)), columns).map_err(internal)
}

pub(super) fn concat(object: &Object, batches: &[RecordBatch]) -> Result<RecordBatch, SqlError> {
    tidemill_zset::buffers::concat_batches(&object.columns, batches).map_err(internal)
}

/// The rows of a query as those of a table that was made with its columns.
pub(super) fn rows_of_query(
    object: &Object,
    batches: &[RecordBatch],
) -> Result<RecordBatch, SqlError> {
    let parts = batches.iter().map(|batch| assigned(object, batch));
    concat(object, &parts.collect::<Result<Vec<_>, _>>()?)
}

/// A numeric without digits has other digits in a table.
fn assigned(object: &Object, batch: &RecordBatch) -> Result<RecordBatch, SqlError> {
    let fields = object.columns.fields().iter();
    let of_query = batch.schema_ref().fields();
    let columns = batch.columns().iter().zip(of_query).zip(fields);
    let columns = columns.map(
        |((array, from), to)| match from.data_type() == to.data_type() {
            true => Ok(array.clone()),
            false => {
                let (from, to) = (SqlType::of(from), SqlType::of(to));
                cast_array(array, &from, &to, Context::Assignment, "UTC")
            }
        },
    );
    let columns = columns.collect::<Result<Vec<_>, _>>();
    let columns = columns.map_err(|e| tidemill_planner::error::from_datafusion(&e))?;
    RecordBatch::try_new(object.columns.clone(), columns).map_err(internal)
}

/// Columns `from..` of a batch as rows of the table.
pub(super) fn part(
    object: &Object,
    batch: &RecordBatch,
    from: usize,
) -> Result<RecordBatch, SqlError> {
    let width = object.columns.fields().len();
    RecordBatch::try_new(
        object.columns.clone(),
        batch.columns()[from..from + width].to_vec(),
    )
    .map_err(internal)
}

/// What batches of old and new columns change, and the new rows.
pub(super) fn changes(
    object: &Object,
    batches: &[RecordBatch],
) -> Result<(Delta, RecordBatch), SqlError> {
    let width = object.columns.fields().len();
    let (mut deltas, mut rows) = (Vec::new(), Vec::new());
    for batch in batches {
        let new: Vec<usize> = (width..2 * width).collect();
        check_not_null(object, &batch.project(&new).map_err(internal)?)?;
        let new = part(object, batch, width)?;
        deltas.push(Delta {
            rows: part(object, batch, 0)?,
            diffs: Diffs::Each(vec![-1; batch.num_rows()].into()),
        });
        deltas.push(Delta::insert(new.clone()));
        rows.push(new);
    }
    let delta = tidemill_zset::consolidate::consolidate(&object.columns, &deltas);
    Ok((delta, concat(object, &rows)?))
}

/// Which of the rows `old` each row of the batches begins with.
pub(super) fn which(old: &RecordBatch, batches: &[RecordBatch]) -> Result<Vec<usize>, SqlError> {
    let given: usize = batches.iter().map(RecordBatch::num_rows).sum();
    if given == old.num_rows() && batches.len() == 1 {
        return Ok((0..given).collect());
    }
    let fields = old.columns().iter();
    let fields = fields.map(|c| SortField::new(c.data_type().clone()));
    let converter = RowConverter::new(fields.collect()).map_err(internal)?;
    let rows = converter.convert_columns(old.columns()).map_err(internal)?;
    let places: HashMap<_, _> = rows.iter().zip(0..).collect();
    let mut out = Vec::with_capacity(given);
    for batch in batches {
        let columns = &batch.columns()[..old.num_columns()];
        let rows = converter.convert_columns(columns).map_err(internal)?;
        out.extend(
            rows.iter()
                .map(|row| places.get(&row).copied().unwrap_or_default()),
        );
    }
    Ok(out)
}

/// `rows` with what the plan, of which these are the `columns`, gives beside the table's: columns of other relations.
pub(super) fn with_others(
    statement: &Statement,
    rows: RecordBatch,
    batches: &[RecordBatch],
    columns: &SchemaRef,
) -> Result<RecordBatch, SqlError> {
    let own = rows.num_columns();
    let first = match statement {
        Statement::Update(_) => 2 * own,
        // An INSERT reads nothing that RETURNING sees.
        Statement::Insert(_) => columns.fields().len(),
        _ => own,
    };
    if columns.fields().len() <= first {
        return Ok(rows);
    }
    let mut fields: Vec<_> = rows.schema().fields().to_vec();
    let mut all = rows.columns().to_vec();
    for (i, field) in columns.fields().iter().enumerate().skip(first) {
        let parts: Vec<&dyn arrow::array::Array> =
            batches.iter().map(|b| b.column(i).as_ref()).collect();
        all.push(match parts.is_empty() {
            true => arrow::array::new_empty_array(field.data_type()),
            false => arrow::compute::concat(&parts).map_err(internal)?,
        });
        fields.push(field.clone());
    }
    let schema = arrow::datatypes::Schema::new(fields);
    RecordBatch::try_new(Arc::new(schema), all).map_err(internal)
}

/// The change that a write's rows mean.
pub(super) fn written_by(
    statement: &Statement,
    object: &Object,
    batches: &[RecordBatch],
) -> Result<Written, SqlError> {
    if let Statement::Update(_) = statement {
        let (delta, rows) = changes(object, batches)?;
        return Ok(Written { delta, rows });
    }
    let mut parts = Vec::new();
    for batch in batches {
        if let Statement::Insert(_) = statement {
            check_not_null(object, batch)?;
        }
        parts.push(part(object, batch, 0)?);
    }
    let rows = concat(object, &parts)?;
    let delta = match statement {
        // An insertion needs no summing up.
        Statement::Insert(_) => Delta::insert(rows.clone()),
        _ => {
            let gone = Delta {
                rows: rows.clone(),
                diffs: Diffs::Each(vec![-1; rows.num_rows()].into()),
            };
            tidemill_zset::consolidate::consolidate(&object.columns, &[gone])
        }
    };
    Ok(Written { delta, rows })
}
