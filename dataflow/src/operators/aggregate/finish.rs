//! The end of an aggregate's epoch: from touched groups to output rows, errors and state changes.

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, new_null_array};
use arrow::compute;
use arrow::datatypes::DataType;
use tidemill_storage::ArrangementChange;
use tidemill_zset::{Delta, Epoch};

use super::cells::{At, Column};
use super::layout::{ROWS, Stored};
use super::results::{Failure, evaluate, may_fail};
use super::{Groups, counts_of};
use crate::operator::{Output, error_delta};
use crate::operators::map::conform;
use crate::operators::reload::Reload;

/// Groups that are looked at together: a retraction and an insertion each make 8,192 rows.
const CHUNK_GROUPS: usize = 4_096;

/// Touched groups that changed: slots, and where they were remembered.
struct Changed {
    slots: Vec<u32>,
    positions: Vec<u32>,
    /// Whether the group was there before, and is there now.
    was: Vec<bool>,
    is: Vec<bool>,
}

impl Groups {
    /// Ends `epoch`.
    pub(super) fn finish_epoch(&mut self, epoch: Epoch, out: &mut Output) {
        if self.touched.is_empty() {
            return;
        }
        self.load();
        let touched = std::mem::take(&mut self.touched);
        let mut changed = vec![false; touched.len()];
        self.settle(&touched, out);
        for column in &self.columns {
            column.mark_changed(&touched, &mut changed);
        }
        self.check(&touched, epoch);
        let changed = self.classify(&touched, &changed);
        for from in (0..changed.slots.len()).step_by(CHUNK_GROUPS) {
            let to = changed.slots.len().min(from + CHUNK_GROUPS);
            self.emit(&changed.range(from, to), out);
        }
        for slot in &touched {
            self.marks[*slot as usize] = 0;
        }
        self.columns.iter_mut().for_each(Column::forget);
        self.global |= self.is_global();
        self.loaded = self.index.len();
        self.complete |= self.reload.as_ref().is_some_and(Reload::is_done);
        if self.states[0].reader.is_some() {
            self.pinned += touched.len();
            self.uncommitted.push_back((epoch, touched));
        } else {
            self.touched = touched;
            self.touched.clear();
        }
    }

    /// Adds up the changes of values and reports those of their arrangements.
    fn settle(&mut self, touched: &[u32], out: &mut Output) {
        let (first, complete) = (self.loaded, self.complete);
        for cell in 0..self.columns.len() {
            self.columns[cell].settle(touched);
            let (Stored::Own(n), Column::Extremes(e)) =
                (self.layout.stored[cell], &mut self.columns[cell])
            else {
                continue;
            };
            let changes = e.settle(touched, &|slot| !complete && slot as usize >= first);
            let Some(values) = changes.values else {
                continue;
            };
            if self.states[1 + n].reader.is_none() {
                continue;
            }
            let desc = &self.states[1 + n].desc;
            let mut columns = self.index.take(&changes.slots);
            columns.push(values);
            let hashes = self.index.hashes();
            out.changes.push(ArrangementChange {
                arrangement: desc.id,
                hashes: changes.slots.iter().map(|s| hashes[*s as usize]).collect(),
                delta: Delta::new(
                    conform(&desc.schema, columns, changes.slots.len()),
                    changes.diffs,
                ),
            });
        }
    }

    /// No count may be negative: that would be a retraction of what was never there.
    fn check(&self, touched: &[u32], epoch: Epoch) {
        for (column, cell) in self.columns.iter().zip(&self.layout.cells) {
            if !counts_of(column, cell) {
                continue;
            }
            let (Column::Count(t) | Column::Trues(t)) = column else {
                unreachable!("it counts")
            };
            for slot in touched {
                let count = t.now[*slot as usize];
                assert!(
                    count >= 0,
                    "group {} has a count of {count} ({cell:?}) in epoch {epoch}",
                    self.key_text(*slot)
                );
            }
        }
    }

    /// The groups that changed, or that came or went.
    fn classify(&mut self, touched: &[u32], changed: &[bool]) -> Changed {
        let Column::Count(rows) = &self.columns[ROWS] else {
            unreachable!("the first cell counts rows")
        };
        let global = self.is_global();
        let mut out = Changed {
            slots: Vec::with_capacity(touched.len()),
            positions: Vec::with_capacity(touched.len()),
            was: Vec::with_capacity(touched.len()),
            is: Vec::with_capacity(touched.len()),
        };
        for (position, slot) in touched.iter().enumerate() {
            let now = rows.now[*slot as usize];
            let before = rows.before[position];
            let was = if global { self.global } else { before > 0 };
            let is = global || now > 0;
            let known = (*slot as usize) < self.loaded;
            // Dead groups that memory holds.
            match (known && before == 0, now == 0) {
                (false, true) => self.dead += 1,
                (true, false) => self.dead -= 1,
                _ => {}
            }
            if changed[position] || was != is {
                out.slots.push(*slot);
                out.positions.push(position as u32);
                out.was.push(was);
                out.is.push(is);
            }
        }
        out
    }

    /// Reports a chunk of changed groups.
    fn emit(&mut self, changed: &Changed, out: &mut Output) {
        let keys = self.index.take(&changed.slots);
        let mut failed = Vec::new();
        let now: Vec<ArrayRef> = (0..self.layout.aggregates.len())
            .map(|n| {
                let at = At::Now(&changed.slots);
                evaluate(&self.layout, &self.columns, n, at, &mut failed)
            })
            .collect();
        let demand = self.context.demand.get();
        let mut failed_before = Vec::new();
        let before: Vec<Option<ArrayRef>> = (0..self.layout.aggregates.len())
            .map(|n| {
                let at = At::Before(&changed.positions);
                let failed = self.may_have_failed && may_fail(&self.layout, n);
                (demand || failed)
                    .then(|| evaluate(&self.layout, &self.columns, n, at, &mut failed_before))
            })
            .collect();
        self.may_have_failed |= !failed.is_empty();
        self.emit_errors(changed, failed_before, failed, out);
        if self.states[0].reader.is_some() {
            self.emit_state(changed, &keys, &now, out);
        }
        if demand {
            let before: Vec<ArrayRef> = before.into_iter().flatten().collect();
            self.emit_rows(changed, &keys, &before, &now, out);
        }
    }

    fn emit_errors(
        &self,
        changed: &Changed,
        before: Vec<Failure>,
        now: Vec<Failure>,
        out: &mut Output,
    ) {
        let mut errors = Vec::new();
        for (list, there, diff) in [(before, &changed.was, -1), (now, &changed.is, 1)] {
            for (i, error) in list {
                if there[i] {
                    errors.push((error, self.key_text(changed.slots[i]), diff));
                }
            }
        }
        if !errors.is_empty() {
            out.errors.push(error_delta(&errors));
        }
    }

    /// The change of the groups' arrangement: one entry per group.
    fn emit_state(&self, changed: &Changed, keys: &[ArrayRef], now: &[ArrayRef], out: &mut Output) {
        let slots = &changed.slots;
        let mut columns = keys.to_vec();
        columns.extend_from_slice(now);
        for (cell, stored) in self.layout.stored.iter().enumerate() {
            let column = &self.columns[cell];
            match stored {
                Stored::Hidden(_) => columns.push(column.hidden(slots, |_| true)),
                // The output says it unless it couldn't hold the sum (or there is nothing to sum).
                Stored::OutputOrHidden(a, _) => {
                    let output = now[*a].clone();
                    columns.push(match output.null_count() {
                        0 => new_null_array(&DataType::Binary, slots.len()),
                        _ => column.hidden(slots, |i| output.is_null(i)),
                    });
                }
                Stored::Output(_) | Stored::Own(_) => {}
            }
        }
        let diffs: Vec<i64> = changed
            .is
            .iter()
            .map(|is| if *is { 1 } else { -1 })
            .collect();
        let desc = &self.states[0].desc;
        let hashes = self.index.hashes();
        let rows = conform(&desc.schema, columns, slots.len());
        let delta = Delta::new(rows, diffs);
        let change = ArrangementChange {
            arrangement: desc.id,
            hashes: slots.iter().map(|s| hashes[*s as usize]).collect(),
            delta,
        };
        out.changes.push(change);
    }

    /// Retractions of old rows, then insertions of new ones, where they differ.
    fn emit_rows(
        &self,
        changed: &Changed,
        keys: &[ArrayRef],
        before: &[ArrayRef],
        now: &[ArrayRef],
        out: &mut Output,
    ) {
        let mut differ: Vec<bool> = changed
            .was
            .iter()
            .zip(&changed.is)
            .map(|(a, b)| a != b)
            .collect();
        for (before, now) in before.iter().zip(now) {
            let distinct = compute::kernels::cmp::distinct(before, now)
                .expect("aggregates have comparable types");
            for (i, d) in differ.iter_mut().enumerate() {
                *d |= distinct.value(i);
            }
        }
        let gone = select(&differ, &changed.was);
        let come = select(&differ, &changed.is);
        let rows = |values: &[ArrayRef], mask: &BooleanArray| -> RecordBatch {
            let mut columns = keys.to_vec();
            columns.extend_from_slice(values);
            let rows = conform(&self.layout.output, columns, differ.len());
            if mask.true_count() == differ.len() {
                return rows;
            }
            compute::filter_record_batch(&rows, mask).expect("one flag per row")
        };
        let (gone, come) = (rows(before, &gone), rows(now, &come));
        let diffs: Vec<i64> = std::iter::repeat_n(-1, gone.num_rows())
            .chain(std::iter::repeat_n(1, come.num_rows()))
            .collect();
        if diffs.is_empty() {
            return;
        }
        let rows = compute::concat_batches(&self.layout.output, [&gone, &come])
            .expect("batches of one schema");
        out.rows.push(Delta::new(rows, diffs));
    }
}

fn select(differ: &[bool], there: &[bool]) -> BooleanArray {
    let both = differ.iter().zip(there).map(|(d, t)| *d && *t);
    BooleanArray::from(both.collect::<Vec<_>>())
}

impl Changed {
    fn range(&self, from: usize, to: usize) -> Changed {
        Changed {
            slots: self.slots[from..to].to_vec(),
            positions: self.positions[from..to].to_vec(),
            was: self.was[from..to].to_vec(),
            is: self.is[from..to].to_vec(),
        }
    }
}
