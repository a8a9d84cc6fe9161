//! [`Reload`]: how stored state comes back to memory after a restart.
//!
//! An operator that starts over stored state reads a key when it is first asked for. Where a few keys of many are asked for, that
//! is all that it ever reads. Where a stream flows through, each epoch's new keys are looked for in every block of
//! the store, for nothing if they are new to the store too, as long as the operator lives. So with each key that had to be looked for,
//! some stored rows more are read: in the order of their hashes, as they lie on disk. Of the hashes that have been passed,
//! memory knows everything, also that a key doesn't exist.
//!
//! Reading key by key until that has cost as much as reading everything, and then everything, costs at most twice what the
//! better of the two would have ("ski rental": Karlin, Manasse, Rudolph and Sleator, Competitive Snoopy Caching, 1988); bit by
//! bit, no lookup waits for all of it. State that wouldn't fit into memory is left to be read key by key.

use std::sync::Arc;

use arrow::datatypes::{DataType, Schema};

use crate::operator::{BuildContext, worker_of};
use crate::state::StateHandle;

/// Stored rows that are read per key that had to be looked for: what it costs to look at a block of a few runs.
const ROWS_PER_KEY: u64 = 128;
/// Of many keys, no more than this part of the worker's rows: to look at every block costs that much less than to read all of it.
const LOOK_SHARE: u64 = 32;
/// Rows that are read together, if there are so many.
const PART_ROWS: u64 = 16 * 1024;
/// Parts of the hashes, at least.
const PARTS_MIN: u64 = 64;
/// Bytes that a row takes besides its values, and a text or a list, about.
const ROW_BYTES: usize = 48;
const TEXT_BYTES: usize = 32;

/// See the module.
#[derive(Debug)]
pub struct Reload {
    worker: usize,
    workers: usize,
    partitions: u32,
    /// Parts of equal size that the hashes are cut into, by their high bits: a power of two, and at least as many as there are
    /// partitions, so that a part is one worker's.
    parts: u64,
    /// About how many rows a lookup of many keys earns, and how many a part has.
    most: u64,
    part_rows: u64,
    /// The parts before this one are in memory, or another worker's.
    done: u64,
    /// Rows that may be read; less than none if parts had more rows than others.
    credit: i64,
    /// Rows that were taken off for what is being read.
    expected: u64,
}

impl Reload {
    /// For arrangements with the same keys; `None` if they hold nothing, or more than half of `bytes_max`.
    pub fn new(states: &[StateHandle], bytes_max: usize, context: &BuildContext) -> Option<Reload> {
        let (mut rows, mut bytes) = (0, 0);
        for state in states {
            let stored = state.reader.as_ref().map_or(0, |r| r.rows_estimate());
            rows += stored;
            bytes += stored * row_bytes(&state.desc.schema) as u64;
        }
        let workers = context.workers as u64;
        // Half of it is for what comes.
        if rows == 0 || bytes / workers > bytes_max as u64 / 2 {
            return None;
        }
        let parts = (rows / PART_ROWS).next_power_of_two();
        let parts = parts.max(PARTS_MIN).max(u64::from(context.partitions));
        let mut reload = Reload {
            worker: context.worker,
            workers: context.workers,
            partitions: context.partitions,
            parts,
            most: (rows / workers / LOOK_SHARE).max(1),
            part_rows: (rows / parts).max(1),
            done: 0,
            credit: 0,
            expected: 0,
        };
        reload.pass_others();
        Some(reload)
    }

    /// True if memory knows all keys with this hash.
    #[inline]
    pub fn has(&self, hash: u64) -> bool {
        hash >> self.shift() < self.done
    }

    /// True if memory knows all keys.
    pub fn is_done(&self) -> bool {
        self.done == self.parts
    }

    /// Notes that `keys` had to be looked for, together.
    pub fn earn(&mut self, keys: usize) {
        self.credit += (keys as u64 * ROWS_PER_KEY).min(self.most) as i64;
        // What isn't read because memory is short isn't made up for at once.
        self.credit = self.credit.min(2 * self.most.max(self.part_rows) as i64);
    }

    /// The first and the last hash of those whose rows are to be read now, if that has been earned. From then on [`Reload::has`]
    /// counts them in: the caller reads them before it asks. To be repeated until there are none, or memory is short.
    pub fn next(&mut self) -> Option<(u64, u64)> {
        let first = self.done;
        self.expected = 0;
        while self.credit >= self.part_rows as i64 && !self.is_done() && self.owns(self.done) {
            self.credit -= self.part_rows as i64;
            self.expected += self.part_rows;
            self.done += 1;
        }
        let end = self.done;
        self.pass_others();
        let last = |part: u64| (part << self.shift()) | ((1 << self.shift()) - 1);
        (end > first).then(|| (first << self.shift(), last(end - 1)))
    }

    /// Notes how many rows there were.
    pub fn read(&mut self, rows: usize) {
        self.credit += self.expected as i64 - rows as i64;
    }

    fn pass_others(&mut self) {
        while !self.is_done() && !self.owns(self.done) {
            self.done += 1;
        }
    }

    fn owns(&self, part: u64) -> bool {
        worker_of(part << self.shift(), self.partitions, self.workers) == self.worker
    }

    fn shift(&self) -> u32 {
        64 - self.parts.trailing_zeros()
    }
}

fn row_bytes(schema: &Arc<Schema>) -> usize {
    let width = |t: &DataType| t.primitive_width().unwrap_or(TEXT_BYTES);
    let fields = schema.fields().iter();
    ROW_BYTES + fields.map(|f| width(f.data_type())).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reload(worker: usize, workers: usize, partitions: u32, parts: u64, rows: u64) -> Reload {
        let mut reload = Reload {
            worker,
            workers,
            partitions,
            parts,
            most: rows,
            part_rows: rows,
            done: 0,
            credit: 0,
            expected: 0,
        };
        reload.pass_others();
        reload
    }

    #[test]
    fn all_hashes_of_all_workers_once() {
        for (workers, partitions, parts) in [(1, 1, 64), (2, 16, 64), (3, 16, 16), (4, 2, 64)] {
            let mut ranges = Vec::new();
            for worker in 0..workers {
                let mut reload = reload(worker, workers, partitions, parts, 100);
                for _ in 0..1_000 {
                    reload.earn(7);
                    ranges.extend(std::iter::from_fn(|| reload.next()));
                }
                assert!(reload.is_done(), "worker {worker} of {workers}");
            }
            ranges.sort_unstable();
            let mut next = 0u128;
            for (from, until) in ranges {
                assert_eq!(u128::from(from), next);
                let owner = |hash| worker_of(hash, partitions, workers);
                assert_eq!(owner(from), owner(until));
                next = u128::from(until) + 1;
            }
            assert_eq!(next, 1 << 64, "{workers} workers");
        }
    }

    #[test]
    fn no_more_than_the_keys_pay_for() {
        let mut reload = reload(0, 1, 16, 64, 1000);
        for _ in 0..500 {
            reload.earn(1);
            while let Some((from, until)) = reload.next() {
                assert!(reload.has(from) && reload.has(until));
                assert!(until == u64::MAX || !reload.has(until + 1));
            }
        }
        assert_eq!(reload.done, 500 * ROWS_PER_KEY / 1000);
    }
}
