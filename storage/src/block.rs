//! [`Block`]: up to a few thousand rows of one run in memory, columns decoded when first asked for.
//!
//! Invariant: hashes ascend (unless the arrangement is a `Log`, which has none), and hashes, diffs,
//! epochs and all columns have `rows` entries.

use std::sync::{Arc, OnceLock};

use arrow::array::{ArrayRef, RecordBatch};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::SchemaRef;
use tidemill_zset::Epoch;

use crate::api::Result;

/// One i64 per row, or the same for all.
#[derive(Clone, Debug)]
pub(crate) enum Numbers {
    All(i64),
    Each(ScalarBuffer<i64>),
}

impl Numbers {
    pub(crate) fn of(values: ScalarBuffer<i64>) -> Numbers {
        match values.first() {
            Some(first) if values.iter().all(|v| v == first) => Numbers::All(*first),
            None => Numbers::All(0),
            _ => Numbers::Each(values),
        }
    }

    #[inline]
    pub(crate) fn get(&self, row: usize) -> i64 {
        match self {
            Numbers::All(v) => *v,
            Numbers::Each(v) => v[row],
        }
    }
}

/// Rows of one run, in its order.
#[derive(Debug)]
pub(crate) struct Block {
    pub rows: usize,
    /// Empty for `Log`.
    pub hashes: ScalarBuffer<u64>,
    pub diffs: Numbers,
    pub epochs: Numbers,
    columns: Vec<OnceLock<ArrayRef>>,
}

impl Block {
    /// A block of columns that are already in memory.
    pub(crate) fn decoded(
        hashes: ScalarBuffer<u64>,
        rows: &RecordBatch,
        diffs: Numbers,
        epochs: Numbers,
    ) -> Arc<Block> {
        let columns = rows.columns().iter().map(|c| OnceLock::from(c.clone()));
        Arc::new(Block {
            rows: rows.num_rows(),
            hashes,
            diffs,
            epochs,
            columns: columns.collect(),
        })
    }

    /// Column `index`, decoded now if it wasn't.
    pub(crate) fn column(&self, index: usize, schema: &SchemaRef) -> Result<&ArrayRef> {
        let _ = schema;
        Ok(self.columns[index].get().expect("decoded"))
    }

    #[inline]
    pub(crate) fn epoch(&self, row: usize) -> Epoch {
        self.epochs.get(row)
    }
}
