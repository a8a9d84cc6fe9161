//! What is remembered of large keys: their first rows, so that a change among or behind them is made without a look at the others.

use std::collections::HashMap;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::SchemaRef;

use super::join_rows::{batch_of, without_waste};

/// Rows of a key, stored and changed ones, from which on it is large.
const LARGE_KEY_ROWS: usize = 256;
/// Of a key's rows so many stand for one that may be remembered.
const ROWS_PER_FIRST: usize = 16;
/// Of the bytes that the state may have so many stand for one that may be remembered.
const BYTES_PER_FIRST: usize = 16;

/// The first rows of large keys that have as many rows as are wanted, by the key's hash. A key isn't here if another with that hash is.
pub struct FirstRows {
    by_hash: HashMap<u64, First>,
    bytes: usize,
    bytes_max: usize,
}

/// The first rows of a key.
#[derive(Clone)]
pub struct First {
    /// In order, as stored, without numbers. Only the last one, unless `whole`.
    pub rows: RecordBatch,
    /// How often each of `rows` is there.
    pub diffs: Vec<i64>,
    /// All of them are known.
    pub whole: bool,
    /// So many may be.
    rows_max: usize,
}

impl First {
    fn bytes(&self) -> usize {
        self.rows.get_array_memory_size() + self.diffs.len() * size_of::<i64>()
    }
}

/// How many first rows are remembered of a key with so many rows; `None`: not even the last one.
pub fn rows_max(of_key: usize) -> Option<usize> {
    (of_key >= LARGE_KEY_ROWS).then_some(of_key / ROWS_PER_FIRST)
}

/// Rows of columns.
pub fn taken(columns: &[ArrayRef], rows: &UInt32Array) -> Vec<ArrayRef> {
    let taken = columns.iter().map(|c| take(c.as_ref(), rows, None));
    taken.map(|c| c.expect("places in the columns")).collect()
}

impl FirstRows {
    /// None yet, of a state that may have `state_bytes_max` bytes.
    pub fn new(state_bytes_max: usize) -> Self {
        FirstRows {
            by_hash: HashMap::new(),
            bytes: 0,
            bytes_max: state_bytes_max / BYTES_PER_FIRST,
        }
    }

    /// Those of the key with this hash, or of another one.
    pub fn get(&self, hash: u64) -> Option<&First> {
        self.by_hash.get(&hash)
    }

    /// No key's.
    pub fn is_empty(&self) -> bool {
        self.by_hash.is_empty()
    }

    /// Bytes of all of them.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Forgets those of a key.
    pub fn forget(&mut self, hash: u64) {
        if let Some(first) = self.by_hash.remove(&hash) {
            self.bytes -= first.bytes();
        }
    }

    /// `first`: the first rows of a key in order, by their places in `columns`, each with how often it is there. There is one at least. Only
    /// the last one is remembered of more than `rows_max`.
    pub fn remember(
        &mut self,
        hash: u64,
        schema: &SchemaRef,
        columns: &[ArrayRef],
        first: &[(u32, i64)],
        rows_max: usize,
    ) {
        self.forget(hash);
        let whole = first.len() <= rows_max;
        let chosen = match whole {
            true => first,
            false => &first[first.len() - 1..],
        };
        let places: UInt32Array = chosen.iter().map(|(row, _)| *row).collect();
        let rows = batch_of(schema, taken(columns, &places), places.len());
        let first = First {
            // Its texts would keep those of all the rows that they were found among.
            rows: without_waste(&rows),
            diffs: chosen.iter().map(|(_, diff)| *diff).collect(),
            whole,
            rows_max,
        };
        self.bytes += first.bytes();
        self.by_hash.insert(hash, first);
        if self.bytes > self.bytes_max {
            self.by_hash.clear();
            self.bytes = 0;
        }
    }

    /// The first rows of a key that was there are others now: see [`FirstRows::remember`].
    pub fn replace(
        &mut self,
        hash: u64,
        before: &First,
        columns: &[ArrayRef],
        first: &[(u32, i64)],
    ) {
        self.remember(
            hash,
            before.rows.schema_ref(),
            columns,
            first,
            before.rows_max,
        );
    }
}
