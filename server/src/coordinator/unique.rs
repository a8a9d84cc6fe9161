//! Unique indexes: whether a transaction gives a key to a second row.
//!
//! An index has its rows in an arrangement of its own, in the commits of its table. At most one epoch with writes is under way, so
//! when a transaction is sequenced the committed arrangement and what the epoch took before hold every key. Only the keys
//! that the transaction adds are looked up: the cost doesn't grow with the table.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, UInt32Array};
use arrow::compute;
use arrow::datatypes::{Field, Fields, SchemaRef};
use hashbrown::HashSet;
use tidemill_planner::SqlError;
use tidemill_planner::ast::Nulls;
use tidemill_storage::{RunBatch, StoreVersion};
use tidemill_zset::consolidate::consolidate;
use tidemill_zset::order_code::order_codes;
use tidemill_zset::{ArrangementId, Delta, Diffs};

use super::tables::{are_put_together, arrow_error};
use crate::catalog::{Catalog, Detail, Object};
use crate::pg::types::{Column, TextStyle};
use crate::reader::{key_first, store_error};

/// Bytes of a value of a row that an error shows; longer ones are cut, as PostgreSQL does.
const SHOWN_BYTES_MAX: usize = 64;

/// A unique index of a table.
#[derive(Clone)]
pub struct UniqueIndex {
    /// Its name.
    pub name: String,
    /// Columns of the table.
    pub columns: Vec<usize>,
    /// It is a constraint of the table.
    pub constraint: bool,
    /// Where its rows are.
    pub rows: ArrangementId,
    nulls: Nulls,
    key: SchemaRef,
}

impl UniqueIndex {
    /// The unique indexes on a table, in the order in which they were made.
    pub fn all_on(catalog: &Catalog, table: &Object) -> Vec<UniqueIndex> {
        let indexes = catalog.indexes_on(table.record.id);
        indexes.filter_map(|i| UniqueIndex::of(i, table)).collect()
    }

    /// The index, if it is a unique one.
    pub fn of(index: &Object, table: &Object) -> Option<UniqueIndex> {
        let Detail::Index {
            columns,
            unique: Some(nulls),
            ..
        } = &index.detail
        else {
            return None;
        };
        let key = table.columns.project(columns).ok()?;
        Some(UniqueIndex {
            name: index.record.name.clone(),
            columns: columns.clone(),
            constraint: index.record.constraint,
            rows: index.record.ids.rows?,
            nulls: *nulls,
            key: Arc::new(key),
        })
    }

    /// The PRIMARY KEY of a table, to find duplicates among its rows: they are stored by it, not in an index of their own.
    pub fn of_primary_key(table: &Object) -> Option<UniqueIndex> {
        let Detail::Table { primary_key, .. } = &table.detail else {
            return None;
        };
        let key = table.columns.project(primary_key).ok()?;
        Some(UniqueIndex {
            name: table.primary_key_name(),
            columns: primary_key.clone(),
            constraint: true,
            rows: table.record.ids.rows?,
            nulls: Nulls::Distinct,
            key: Arc::new(key),
        })
        .filter(|key| !key.columns.is_empty())
    }

    /// The keys of rows of the table that can have duplicates, each with its code; and which rows these are.
    pub fn keys(
        &self,
        rows: &RecordBatch,
    ) -> Result<(RecordBatch, Vec<u64>, UInt32Array), SqlError> {
        let columns = self.columns.iter().map(|c| rows.column(*c).clone());
        let columns: Vec<ArrayRef> = columns.collect();
        let kept = self.kept(&columns, rows.num_rows());
        let keys = RecordBatch::try_new(self.key.clone(), columns).map_err(arrow_error)?;
        let keys = compute::take_record_batch(&keys, &kept).map_err(arrow_error)?;
        let codes = order_codes(keys.columns(), keys.num_rows());
        Ok((keys, codes, kept))
    }

    /// The rows whose keys can have duplicates.
    fn kept(&self, columns: &[ArrayRef], rows: usize) -> UInt32Array {
        let free =
            |row: usize| self.nulls == Nulls::Distinct && columns.iter().any(|c| c.is_null(row));
        UInt32Array::from_iter_values((0..rows).filter(|r| !free(*r)).map(|r| r as u32))
    }

    /// A row that can't be a duplicate, because of a NULL.
    pub fn is_free(&self, rows: &RecordBatch, row: usize) -> bool {
        self.nulls == Nulls::Distinct && self.columns.iter().any(|c| rows.column(*c).is_null(row))
    }

    /// How often `delta` adds and removes each key.
    pub fn changed(&self, delta: &Delta) -> Result<Keys, SqlError> {
        let (keys, _, kept) = self.keys(&delta.rows)?;
        let diffs: Vec<i64> = kept
            .values()
            .iter()
            .map(|r| delta.diffs.get(*r as usize))
            .collect();
        Ok(self.net(&[Delta::new(keys, diffs)]))
    }

    /// Changes of keys, added up.
    fn net(&self, changes: &[Delta]) -> Keys {
        let net = consolidate(&self.key, changes);
        let codes = order_codes(net.rows.columns(), net.len());
        Keys { net, codes }
    }

    /// Committed rows with one of the codes, as rows of the table.
    fn committed(&self, version: &StoreVersion, codes: &[u64]) -> Result<Vec<RunBatch>, SqlError> {
        let Some(stored) = version.arrangement(self.rows) else {
            return Err(SqlError::internal("a unique index is stored"));
        };
        let mut codes = codes.to_vec();
        codes.sort_unstable();
        codes.dedup();
        stored.get_many(&codes).map_err(store_error)
    }

    /// Rows of the table with keys of `rows`, as a transaction with the writes `own` sees them, and the codes of the keys of `rows`.
    pub fn existing(
        &self,
        table: &Object,
        version: &StoreVersion,
        own: &[Delta],
        rows: &RecordBatch,
    ) -> Result<(RecordBatch, Vec<u64>), SqlError> {
        let (_, codes, _) = self.keys(rows)?;
        let order = key_first(&self.columns, table.columns.fields().len());
        let mut back = vec![0; order.len()];
        order
            .iter()
            .enumerate()
            .for_each(|(stored, column)| back[*column] = stored);
        let mut found = Vec::new();
        for run in self.committed(version, &codes)? {
            let rows = run.rows.project(&back).map_err(arrow_error)?;
            let rows = RecordBatch::try_new(table.columns.clone(), rows.columns().to_vec());
            found.push(Delta::new(
                rows.map_err(arrow_error)?,
                Diffs::Each(run.diffs),
            ));
        }
        let wanted: HashSet<u64> = codes.iter().copied().collect();
        for delta in own {
            let (_, codes, kept) = self.keys(&delta.rows)?;
            let same = kept
                .values()
                .iter()
                .zip(&codes)
                .filter(|(_, c)| wanted.contains(*c));
            let same = UInt32Array::from_iter_values(same.map(|(r, _)| *r));
            found.push(delta.take(&same).map_err(arrow_error)?);
        }
        let found = consolidate(&table.columns, &found);
        let there = (0..found.len()).filter(|r| found.diffs.get(*r) > 0);
        let there = UInt32Array::from_iter_values(there.map(|r| r as u32));
        let there = compute::take_record_batch(&found.rows, &there).map_err(arrow_error)?;
        Ok((there, codes))
    }
}

/// Changes of keys.
pub struct Keys {
    net: Delta,
    /// Of each.
    pub codes: Vec<u64>,
}

impl Keys {
    fn among(&self, wanted: &HashSet<u64>) -> Result<Delta, SqlError> {
        let mask: BooleanArray = self
            .codes
            .iter()
            .map(|c| Some(wanted.contains(c)))
            .collect();
        self.net.filter(&mask).map_err(arrow_error)
    }
}

/// A unique index, and what an epoch has changed of its keys so far.
pub struct UniqueState {
    /// The index.
    pub index: UniqueIndex,
    accepted: Vec<Keys>,
    /// Codes in `accepted`.
    touched: HashSet<u64>,
}

impl UniqueState {
    /// The index as it is committed.
    pub fn new(index: UniqueIndex) -> Self {
        UniqueState {
            index,
            accepted: vec![],
            touched: HashSet::new(),
        }
    }

    /// Takes changes into the epoch.
    pub fn accept(&mut self, changed: Keys) {
        self.touched.extend(&changed.codes);
        self.accepted.push(changed);
    }

    /// Adds up changes of like sizes.
    pub fn put_together(&mut self) {
        while let [.., before, last] = self.accepted.as_slice()
            && are_put_together(&before.net, &last.net)
        {
            let both = self.index.net(&[before.net.clone(), last.net.clone()]);
            self.accepted.truncate(self.accepted.len() - 2);
            self.accepted.push(both);
        }
    }

    /// Fails if a key would have two rows.
    pub fn check(&self, version: &StoreVersion, changed: &Keys) -> Result<(), SqlError> {
        let added = (0..changed.net.len()).filter(|r| changed.net.diffs.get(*r) > 0);
        let wanted: HashSet<u64> = added.map(|r| changed.codes[r]).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let index = &self.index;
        let codes: Vec<u64> = wanted.iter().copied().collect();
        let mut all = vec![changed.among(&wanted)?];
        for run in index.committed(version, &codes)? {
            // The index's columns stand in front.
            let columns = run.rows.columns()[..index.columns.len()].to_vec();
            let kept = index.kept(&columns, run.rows.num_rows());
            let keys = RecordBatch::try_new(index.key.clone(), columns).map_err(arrow_error)?;
            let keys = Delta::new(keys, Diffs::Each(run.diffs))
                .take(&kept)
                .map_err(arrow_error)?;
            all.push(keys);
        }
        if wanted.iter().any(|c| self.touched.contains(c)) {
            for earlier in &self.accepted {
                all.push(earlier.among(&wanted)?);
            }
        }
        let after = consolidate(&index.key, &all);
        match (0..after.len()).find(|r| after.diffs.get(*r) > 1) {
            None => Ok(()),
            Some(row) => Err(duplicate(&index.name, &after.rows, row)),
        }
    }
}

/// A row has a key that another one has already.
pub fn duplicate(constraint: &str, keys: &RecordBatch, row: usize) -> SqlError {
    let message = format!("duplicate key value violates unique constraint \"{constraint}\"");
    SqlError::new("23505", message)
        .detail(format!("Key {} already exists.", shown(keys, row)))
        .about(|a| a.constraint = Some(constraint.into()))
}

/// `(columns)=(values)` of a key.
pub fn shown(keys: &RecordBatch, row: usize) -> String {
    let schema = keys.schema();
    let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
    let columns = schema.fields().iter().zip(keys.columns());
    let values: Vec<String> = columns.map(|(f, array)| value(f, array, row)).collect();
    format!("({})=({})", names.join(", "), values.join(", "))
}

/// The detail of an error that a row to be written, of the table's columns `fields`, breaks a rule.
pub fn failing_row(fields: &Fields, columns: &[ArrayRef], row: usize) -> String {
    let values = fields.iter().zip(columns).map(|(f, array)| {
        let mut value = value(f, array, row);
        if value.len() > SHOWN_BYTES_MAX {
            value.truncate(value.floor_char_boundary(SHOWN_BYTES_MAX));
            value.push_str("...");
        }
        value
    });
    let values: Vec<String> = values.collect();
    format!("Failing row contains ({}).", values.join(", "))
}

/// A value as an error shows it.
fn value(field: &Field, array: &ArrayRef, row: usize) -> String {
    if array.is_null(row) {
        return "null".to_string();
    }
    let mut out = bytes::BytesMut::new();
    Column::new(field, array, TextStyle::default()).text(row, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}
