//! Adds up the diffs of equal rows before they go to other workers: fewer rows to move and to look up there.
//!
//! It changes nothing that its consumer computes, since a delta with rows added up is the same delta. Where rows
//! seldom repeat it notices and lets them pass.

use arrow::datatypes::SchemaRef;
use tidemill_zset::{Delta, Diffs, Epoch};

use crate::keys::KeyIndex;
use crate::operator::{Operator, Output};
use crate::operators::map::conform;

/// Different rows that are held before they are sent on.
const HELD_ROWS_MAX: usize = 1 << 16;

/// Rows of a piece of output.
const PIECE_ROWS: usize = 8_192;

/// It pays when rows repeat this often.
const REPEATS_MIN: usize = 2;

/// Rows after which it is decided whether it pays.
const TRIAL_ROWS: usize = 1 << 15;

/// See the module.
pub struct Combine {
    schema: SchemaRef,
    index: KeyIndex,
    sums: Vec<i64>,
    /// Rows since the index was last empty.
    rows: usize,
    pays: bool,
    slots: Vec<u32>,
}

impl Combine {
    /// For rows of `schema`.
    pub fn new(schema: SchemaRef) -> Self {
        let types = schema.fields().iter().map(|f| f.data_type().clone());
        Combine {
            index: KeyIndex::new(types.collect()),
            schema,
            sums: Vec::new(),
            rows: 0,
            pays: true,
            slots: Vec::new(),
        }
    }

    fn flush(&mut self, out: &mut Output) {
        if self.rows >= TRIAL_ROWS {
            self.pays = self.rows >= REPEATS_MIN * self.index.len();
        }
        let kept: Vec<u32> = (0..self.index.len() as u32)
            .filter(|s| self.sums[*s as usize] != 0)
            .collect();
        for slots in kept.chunks(PIECE_ROWS) {
            let diffs: Vec<i64> = slots.iter().map(|s| self.sums[*s as usize]).collect();
            let rows = conform(&self.schema, self.index.take(slots), slots.len());
            out.rows.push(Delta::new(rows, diffs));
        }
        self.index.clear();
        self.sums.clear();
        self.rows = 0;
    }
}

impl Operator for Combine {
    fn push(&mut self, _port: usize, delta: Delta, out: &mut Output) {
        if !self.pays {
            out.rows.push(delta);
            return;
        }
        self.rows += delta.len();
        self.index
            .insert(delta.rows.columns(), delta.len(), &mut self.slots);
        self.sums.resize(self.index.len(), 0);
        match &delta.diffs {
            Diffs::Ones => self.slots.iter().for_each(|s| self.sums[*s as usize] += 1),
            Diffs::Each(d) => {
                for (slot, diff) in self.slots.iter().zip(d) {
                    self.sums[*slot as usize] += diff;
                }
            }
        }
        if self.index.len() > HELD_ROWS_MAX {
            self.flush(out);
        }
    }

    fn finish(&mut self, _epoch: Epoch, out: &mut Output) {
        self.flush(out);
    }

    fn state_bytes(&self) -> usize {
        self.index.memory_bytes() + self.sums.capacity() * 8
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;

    fn delta(values: impl IntoIterator<Item = i64>) -> Delta {
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(values));
        Delta::insert(RecordBatch::try_from_iter([("v", column)]).unwrap())
    }

    fn combine() -> Combine {
        Combine::new(Arc::new(Schema::new(vec![Field::new(
            "v",
            DataType::Int64,
            true,
        )])))
    }

    #[test]
    fn equal_rows_become_one() {
        let mut op = combine();
        let mut out = Output::default();
        op.push(0, delta([1, 2, 1, 3]), &mut out);
        op.push(0, delta([3, 1]).negate(), &mut out);
        assert!(out.rows.is_empty());
        op.finish(1, &mut out);
        assert_eq!(out.rows.len(), 1);
        assert_eq!(out.rows[0].rows.columns(), delta([1, 2]).rows.columns());
        op.finish(2, &mut out);
        assert_eq!(out.rows.len(), 1);
    }

    #[test]
    fn rows_that_do_not_repeat_pass() {
        let mut op = combine();
        let mut out = Output::default();
        op.push(0, delta(0..TRIAL_ROWS as i64), &mut out);
        op.finish(1, &mut out);
        assert!(!op.pays);
        let before = out.rows.len();
        op.push(0, delta([5, 5]), &mut out);
        assert_eq!(out.rows.len(), before + 1);
        assert!(out.rows.iter().all(|d| d.len() <= PIECE_ROWS));
    }
}
