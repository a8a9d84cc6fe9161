//! The work of a join as a queue of tasks: what one turn's allowance doesn't suffice for is done in the next.
//!
//! A key may be so frequent on both sides, or there may be no key at all, that one pushed row or one epoch stands for
//! billions of pairs. So every loop over pairs is a task that remembers its place. Tasks are done strictly in order, and a
//! task may put others in front: the result is that of doing everything at once.

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use tidemill_storage::ArrangementChange;
use tidemill_zset::{Delta, Epoch};

use super::join::{JoinOperator, LEFT, Presence, RIGHT, may_stay_unindexed};
use super::join_index::Build;
use super::join_pairs::Meeting;
use super::join_pending::Joint;
use super::join_presence::{Flip, Restore};
use super::join_rows::NIL;
use crate::operator::Output;

/// Work that is left. See the module.
pub(super) enum Task {
    /// Look up the keys of a pushed piece.
    Take(usize, Delta),
    /// Count the matches of the rows of keys that were fetched.
    Restore(Restore),
    /// Index the rows of a piece, whose keys are resident, or have them meet the other side first.
    Arrive(Arrival),
    /// Give the pairs of pushed rows with those of the other side.
    Meet(Box<Meeting>),
    /// Make the index of a side.
    Index(Box<Build>),
    /// Emit what the pending pieces change.
    Flush,
    /// Emit what changes for keys that change on both sides.
    Joint(Box<Joint>),
    /// All of these keys are done.
    EndJoint(Vec<u32>),
    /// Make the shown flags of keys true.
    FlipSlots(Flip),
    /// Make the shown flags of rows true.
    FlipRows(Flip),
    /// End the epoch.
    End(Epoch),
}

/// A pushed piece with its keys.
pub(super) struct Arrival {
    pub port: usize,
    /// All columns of the input.
    pub delta: Delta,
    /// The stored columns.
    pub rows: RecordBatch,
    pub hashes: Vec<u64>,
    pub slots: Vec<u32>,
    /// The change of the arrangement has been reported.
    pub reported: bool,
}

impl JoinOperator {
    /// Works through the queue until it is empty or the allowance is spent.
    pub(super) fn run_tasks(&mut self, out: &mut Output) {
        while !out.is_spent() {
            let Some(task) = self.tasks.pop_front() else {
                return;
            };
            self.run_task(task, out);
        }
    }

    /// Puts tasks in front of all others, in this order.
    pub(super) fn do_first(&mut self, tasks: Vec<Task>) {
        for task in tasks.into_iter().rev() {
            self.tasks.push_front(task);
        }
    }

    fn run_task(&mut self, task: Task, out: &mut Output) {
        match task {
            Task::Take(port, delta) => self.take(port, delta, out),
            Task::Restore(mut restore) => {
                if !self.restore_matches(&mut restore, out) {
                    self.tasks.push_front(Task::Restore(restore));
                }
            }
            Task::Arrive(arrival) => self.arrive(arrival, out),
            Task::Meet(mut meeting) => {
                if let Some(build) = self.begin(&mut meeting) {
                    return self.do_first(vec![Task::Index(Box::new(build)), Task::Meet(meeting)]);
                }
                match self.meet(&mut meeting, out) {
                    true => self.end_meeting(*meeting, out),
                    false => self.tasks.push_front(Task::Meet(meeting)),
                }
            }
            Task::Index(mut build) => match self.build_index(&mut build, out) {
                true => self.install_index(*build),
                false => self.tasks.push_front(Task::Index(build)),
            },
            Task::Flush => {
                let due = [LEFT, RIGHT].into_iter();
                let due = due.filter_map(|side| self.due_index(side));
                let mut first: Vec<Task> = due.map(|b| Task::Index(Box::new(b))).collect();
                if first.is_empty() {
                    return self.flush();
                }
                first.push(Task::Flush);
                self.do_first(first);
            }
            Task::Joint(mut joint) => match self.emit_joint(&mut joint, out) {
                true => {}
                false => self.tasks.push_front(Task::Joint(joint)),
            },
            Task::EndJoint(slots) => self.end_joint(slots),
            Task::FlipSlots(mut flip) => {
                if !self.flip_slots(&mut flip, out) {
                    self.tasks.push_front(Task::FlipSlots(flip));
                }
            }
            Task::FlipRows(mut flip) => {
                if !self.flip_rows(&mut flip, out) {
                    self.tasks.push_front(Task::FlipRows(flip));
                }
            }
            Task::End(epoch) => self.end(epoch),
        }
    }

    /// Takes a piece of at most `PIECE_ROWS` rows.
    fn take(&mut self, port: usize, delta: Delta, out: &mut Output) {
        let Some(delta) = self.split_null_keys(port, delta, out) else {
            return;
        };
        let (mut rows, mut hashes) = self.stored_rows(port, &delta);
        let (mut delta, mut reported) = (delta, false);
        if let Some(rest) = self.leave_unindexed(port, &delta, &rows, &hashes) {
            if rest.is_empty() {
                return self.report_change(port, rows, hashes, delta, out);
            }
            self.report_change(port, rows.clone(), hashes.clone(), delta.clone(), out);
            reported = true;
            hashes = rest.iter().map(|row| hashes[*row as usize]).collect();
            let rest = UInt32Array::from(rest);
            delta = delta.take(&rest).expect("rows of the piece");
            rows = take_record_batch(&rows, &rest).expect("rows of the piece");
        }
        let keys = &rows.columns()[..self.stored[port].key_columns];
        let mut slots = Vec::new();
        let fetched = self.state.resolve(keys, &hashes, &mut slots);
        out.spend(self.state.take_rows_read());
        let arrival = Arrival {
            port,
            delta,
            rows,
            hashes,
            slots,
            reported,
        };
        if self.presence == Presence::PerRow && !fetched.is_empty() {
            let restore = Restore::new(fetched);
            return self.do_first(vec![Task::Restore(restore), Task::Arrive(arrival)]);
        }
        self.restore_presence(fetched);
        self.arrive(arrival, out);
    }

    /// Leaves rows without an index that have no effect as long as their keys aren't on the other side. See
    /// [`KeyedState::leave_unindexed`](super::join_state::KeyedState::leave_unindexed).
    fn leave_unindexed(
        &mut self,
        port: usize,
        delta: &Delta,
        rows: &RecordBatch,
        hashes: &[u64],
    ) -> Option<Vec<u32>> {
        if !may_stay_unindexed(self.kind, self.presence, port) || !self.waits() {
            return None;
        }
        let piece = Delta::new(rows.clone(), delta.diffs.clone());
        self.state.leave_unindexed(port, &piece, hashes)
    }

    fn arrive(&mut self, arrival: Arrival, out: &mut Output) {
        if self.waits() {
            return self.hold(arrival, out);
        }
        let Arrival {
            port,
            delta,
            rows,
            hashes,
            slots,
            ..
        } = arrival;
        let own = if self.single[port] { delta.len() } else { 0 };
        let meeting = Meeting::new(port, delta, slots, own, Some((rows, hashes)));
        self.tasks.push_front(Task::Meet(Box::new(meeting)));
    }

    /// After the pairs: the pushed rows alone, where they appear, and their place in the index.
    fn end_meeting(&mut self, meeting: Meeting, out: &mut Output) {
        let Meeting {
            port,
            delta,
            slots,
            own,
            unindexed,
            ..
        } = meeting;
        let Some((rows, hashes)) = unindexed else {
            self.show_pushed(port, &delta, &slots, NIL, &own, out);
            return self.state.note_retractions(port, &delta.diffs, &slots);
        };
        let first = self.state.add(port, &rows, &delta.diffs, &slots);
        self.state.note_retractions(port, &delta.diffs, &slots);
        self.show_pushed(port, &delta, &slots, first, &own, out);
        self.report_change(port, rows, hashes, delta, out);
    }

    /// Reports the change of a side's arrangement.
    pub(super) fn report_change(
        &self,
        port: usize,
        rows: RecordBatch,
        hashes: Vec<u64>,
        delta: Delta,
        out: &mut Output,
    ) {
        let handle = &self.state.sides[port].handle;
        if handle.reader.is_some() {
            out.changes.push(ArrangementChange {
                arrangement: handle.desc.id,
                hashes,
                delta: Delta::new(rows, delta.diffs),
            });
        }
    }

    /// Plans what the end of an epoch takes.
    pub(super) fn plan_end(&mut self, epoch: Epoch) {
        self.tasks.push_back(Task::Flush);
        if self.presence == Presence::PerRow {
            for side in [LEFT, RIGHT] {
                self.tasks.push_back(Task::FlipRows(Flip::new(side)));
            }
        }
        self.tasks.push_back(Task::End(epoch));
    }
}
