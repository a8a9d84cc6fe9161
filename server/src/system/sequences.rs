//! What sequences show: a row each, and what `pg_catalog` says of them.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch};
use arrow::datatypes::SchemaRef;
use tidemill_planner::SqlError;
use tidemill_planner::ast::NumberingKind;
use tidemill_planner::catalog::{Relation, RelationKind};
use tidemill_zset::CollectionId;
use tidemill_zset::delta::schema_of;
use tidemill_zset::schema::SqlType;

use super::{SEQUENCE_BIT, SYSTEM_BIT, SystemRelations};
use crate::catalog::{Catalog, Detail};
use crate::numbers::{Counted, last_before, numbered};
use crate::pg_catalog;

/// Columns of a table that are told apart in the number of a sequence.
const COLUMNS_MAX: u64 = 1 << 12;

impl SystemRelations {
    /// The relation that shows where a sequence is.
    pub fn of_sequence(&self, schema: &str, of: &Counted) -> Relation {
        Relation {
            oid: sequence_oid(of),
            id: CollectionId(
                SYSTEM_BIT | SEQUENCE_BIT | (of.object * COLUMNS_MAX + of.column as u64),
            ),
            schema: schema.into(),
            name: of.name.clone(),
            kind: RelationKind::System,
            columns: sequence_columns(),
            planned: None,
            primary_key: None,
            unique: None,
            append_only: false,
        }
    }

    /// The row of the sequence with that number.
    pub(super) fn sequence_row(
        &self,
        number: u64,
        catalog: &Catalog,
    ) -> Result<RecordBatch, SqlError> {
        let (object, column) = (number / COLUMNS_MAX, (number % COLUMNS_MAX) as usize);
        let of = catalog
            .get(object)
            .and_then(|object| match Counted::of(object) {
                Some(of) => Some(of),
                None => numbered(object)
                    .find(|(n, _)| *n == column)
                    .map(|found| Counted::of_column(object, found)),
            });
        let of = of.ok_or_else(|| SqlError::new("42P01", "the sequence was dropped"))?;
        let (last, called) = self.last_of(&of);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![last])),
            Arc::new(Int64Array::from(vec![0])),
            Arc::new(BooleanArray::from(vec![called])),
        ];
        RecordBatch::try_new(sequence_columns(), columns)
            .map_err(|e| SqlError::internal(e.to_string()))
    }

    /// `last_value` and `is_called` of a sequence.
    fn last_of(&self, of: &Counted) -> (i64, bool) {
        let next = self.numbers.next_of(of);
        match last_before(&of.numbering, next) {
            Some(last) => (last, true),
            None => (next.unwrap_or(of.numbering.start), false),
        }
    }

    /// All sequences of a catalog.
    pub(super) fn sequences(&self, catalog: &Catalog) -> Vec<pg_catalog::SequenceInfo> {
        let oid = |object: u64| pg_catalog::FIRST_USER_OID + object as u32;
        let mut out = vec![];
        for object in catalog.objects() {
            let record = &object.record;
            let info = |of: &Counted, data_type: SqlType| {
                let (last, called) = self.last_of(of);
                pg_catalog::SequenceInfo {
                    oid: sequence_oid(of),
                    schema: record.schema.clone(),
                    name: of.name.clone(),
                    data_type,
                    numbering: of.numbering.clone(),
                    last: called.then_some(last),
                    owner: None,
                    comment: None,
                }
            };
            if let (Some(of), Detail::Sequence(sequence)) = (Counted::of(object), &object.detail) {
                let owner = record.owned_by.as_ref().and_then(|owner| {
                    let table = catalog.get(owner.table)?;
                    Some((
                        oid(owner.table),
                        table.columns.index_of(&owner.column).ok()?,
                    ))
                });
                out.push(pg_catalog::SequenceInfo {
                    owner,
                    comment: record.comment.clone(),
                    ..info(&of, sequence.data_type.clone())
                });
            }
            for column in numbered(object) {
                let of = Counted::of_column(object, column);
                let data_type = SqlType::of(object.columns.field(column.0));
                out.push(pg_catalog::SequenceInfo {
                    owner: Some((oid(record.id), column.0)),
                    ..info(&of, data_type)
                });
            }
        }
        out
    }
}

/// What a sequence shows as a relation.
fn sequence_columns() -> SchemaRef {
    schema_of(vec![
        SqlType::Int8.field("last_value", false),
        SqlType::Int8.field("log_cnt", false),
        SqlType::Bool.field("is_called", false),
    ])
}

/// Those of columns have no object of their own.
fn sequence_oid(of: &Counted) -> u32 {
    match of.numbering.kind {
        NumberingKind::Sequence => pg_catalog::FIRST_USER_OID + of.object as u32,
        _ => {
            let number = (of.object as u32).wrapping_mul(16) + of.column as u32 % 16;
            pg_catalog::COLUMN_SEQUENCES.wrapping_add(number)
        }
    }
}

/// A sequence as a relation.
pub(super) fn relation(sequence: &pg_catalog::SequenceInfo) -> pg_catalog::RelationInfo {
    pg_catalog::RelationInfo {
        comment: sequence.comment.clone(),
        rows: Some(1),
        ..pg_catalog::RelationInfo::new(
            sequence.oid,
            &sequence.schema,
            &sequence.name,
            pg_catalog::RelationType::Sequence,
            sequence_columns(),
        )
    }
}
