//! What is unique of a table, and which rows stand in the way of those that an INSERT … ON CONFLICT proposes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{Array, RecordBatch};
use arrow::row::{OwnedRow, RowConverter, SortField};
use parking_lot::Mutex;
use tidemill_planner::SqlError;
use tidemill_planner::query::Key;
use tidemill_storage::StoreVersion;
use tidemill_zset::Delta;

use super::write_plan::Target;
use crate::catalog::{Catalog, Detail, Object};
use crate::coordinator::tables::{existing, row_hashes};
use crate::coordinator::unique::UniqueIndex;
use crate::reader::ReadSet;

/// A key of a table.
pub enum Unique {
    /// The PRIMARY KEY: its columns.
    Primary(Vec<usize>),
    /// A unique index.
    Index(UniqueIndex),
}

impl Unique {
    /// Those of a table, the PRIMARY KEY first.
    pub fn all_of(catalog: &Catalog, table: &Object) -> Vec<Unique> {
        let primary = match &table.detail {
            Detail::Table { primary_key, .. } if !primary_key.is_empty() => {
                Some(Unique::Primary(primary_key.clone()))
            }
            _ => None,
        };
        let indexes = UniqueIndex::all_on(catalog, table);
        let indexes = indexes.into_iter().map(Unique::Index);
        primary.into_iter().chain(indexes).collect()
    }

    /// As the planner sees it.
    pub fn key(&self, table: &Object) -> Key {
        match self {
            Unique::Primary(columns) => Key {
                name: table.primary_key_name(),
                columns: columns.clone(),
                constraint: true,
            },
            Unique::Index(index) => Key {
                name: index.name.clone(),
                columns: index.columns.clone(),
                constraint: index.constraint,
            },
        }
    }

    /// The stored rows, as a transaction with the writes `own` sees them, that have this key in common with one of `rows`. `reads`:
    /// where that is noted; true if more of the rows is read than their keys.
    pub fn there(
        &self,
        target: &Target,
        version: &StoreVersion,
        own: &[Delta],
        rows: &RecordBatch,
        (reads, whole): (Option<&Arc<Mutex<ReadSet>>>, bool),
    ) -> Result<There, SqlError> {
        let id = target.relation.id;
        let (columns, there) = match self {
            Unique::Primary(columns) => {
                let (there, hashes) = existing(&target.object, version, own, rows)?;
                if let Some(reads) = reads {
                    reads.lock().keys.extend(hashes.iter().map(|h| (id, *h)));
                }
                (columns, there)
            }
            Unique::Index(index) => {
                let (there, codes) = index.existing(&target.object, version, own, rows)?;
                if let Some(reads) = reads {
                    let codes = codes.iter().map(|c| (id, index.rows, *c));
                    let mut reads = reads.lock();
                    reads.uniques.extend(codes);
                    if whole {
                        let hashes = row_hashes(&target.object, version, &there)?;
                        reads.keys.extend(hashes.into_iter().map(|h| (id, h)));
                    }
                }
                (&index.columns, there)
            }
        };
        let keys = Keys::new(rows, columns)?;
        let free = |row: &usize| match self {
            Unique::Primary(_) => false,
            Unique::Index(index) => index.is_free(rows, *row),
        };
        let free = (0..rows.num_rows()).filter(free).collect();
        Ok(There {
            stored: keys.of(&there)?.into_iter().zip(0..).collect(),
            given: keys.of(rows)?,
            rows: there,
            free,
            taken: HashSet::new(),
        })
    }
}

/// Stored rows in the way of proposed ones, by one key.
pub struct There {
    /// The stored rows.
    pub rows: RecordBatch,
    stored: HashMap<OwnedRow, usize>,
    /// Of each proposed row.
    given: Vec<OwnedRow>,
    /// Proposed rows that are in nobody's way.
    free: HashSet<usize>,
    taken: HashSet<OwnedRow>,
}

impl There {
    /// The proposed row is inserted.
    pub fn take(&mut self, row: usize) {
        if !self.free.contains(&row) {
            self.taken.insert(self.given[row].clone());
        }
    }
}

/// The row that has a key of a proposed one.
pub enum Other {
    /// A stored one: number of the key, and of the row among its rows.
    Stored(usize, usize),
    /// One that was proposed before.
    Given,
}

/// What stands in the way of a proposed row.
pub fn conflict_of(keys: &[There], row: usize) -> Option<Other> {
    for (number, key) in keys.iter().enumerate() {
        if key.free.contains(&row) {
            continue;
        }
        let value = &key.given[row];
        if key.taken.contains(value) {
            return Some(Other::Given);
        }
        if let Some(at) = key.stored.get(value) {
            return Some(Other::Stored(number, *at));
        }
    }
    None
}

/// Keys of rows as values that can be looked up.
struct Keys {
    converter: RowConverter,
    columns: Vec<usize>,
}

impl Keys {
    fn new(like: &RecordBatch, columns: &[usize]) -> Result<Self, SqlError> {
        let fields = columns
            .iter()
            .map(|c| SortField::new(like.column(*c).data_type().clone()))
            .collect();
        Ok(Keys {
            converter: RowConverter::new(fields).map_err(internal)?,
            columns: columns.to_vec(),
        })
    }

    fn of(&self, rows: &RecordBatch) -> Result<Vec<OwnedRow>, SqlError> {
        let columns: Vec<_> = self
            .columns
            .iter()
            .map(|c| rows.column(*c).clone())
            .collect();
        let rows = self.converter.convert_columns(&columns).map_err(internal)?;
        Ok(rows.iter().map(|r| r.owned()).collect())
    }
}

fn internal(e: arrow::error::ArrowError) -> SqlError {
    SqlError::internal(e.to_string())
}
