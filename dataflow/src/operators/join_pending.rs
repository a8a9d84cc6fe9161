//! Pushed rows that wait to be joined, and keys that change on both sides at once.
//!
//! Where only one side of a key has changed, its changed rows meet the other side. Where both have,
//! dL⋈R + L⋈dR + dL⋈dR, row by row, would give pairs that come and go: an update of both rows of a
//! one-to-one join has four such products but only two changes. So for those keys every row gets
//! its diff *before* and *after*, equal rows (a retraction and what it retracts) put together, and each pair
//! gives `after × after - before × before`.
//!
//! Invariant: a pending row is in its list already; *before* it counts nothing.

use std::ops::Range;
use std::rc::Rc;

use arrow::array::UInt32Array;
use tidemill_zset::{Delta, Diffs};

use super::join::{JoinOperator, LEFT, PIECE_ROWS, Presence, RIGHT};
use super::join_index::FEW_OF_KEY;
use super::join_pairs::{Meeting, Pairs, Rows, retain};
use super::join_ranges::{GroupNumbers, RangeMeeting, is_worth_order};
use super::join_rows::{Groups, NIL, RowStore, batch_of};
use super::join_tasks::Task;
use super::join_weights::{Weights, product};
use crate::operator::Output;

/// Slot flag: changed on the left.
const TOUCHED: u8 = 16;
/// Slot flag: changed on both sides.
const JOINT: u8 = 32;
/// Slot flag: rows of side 0 and 1 have been retracted.
const RETRACTED: [u8; 2] = [64, 128];
/// Keys that are taken together.
const JOINT_SLOTS: usize = 1024;
/// Rows of these keys, on a side, of which equal ones are put together. All of them meet what changes on the other side anyway, but
/// this is one step.
const JOINT_ROWS_MAX: usize = 1 << 18;
/// Going through a row of these keys takes as long as looking at so many pairs.
const PAIRS_PER_JOINT_ROW: usize = 2;

/// Numbers of pending rows of each side, ascending.
pub(super) type PendingRows = Rc<[Vec<Range<u32>>; 2]>;

/// Pushed rows that are indexed, but not joined yet.
pub(super) struct Piece {
    /// The rows, with all columns of the input.
    pub delta: Delta,
    /// The slot of each row.
    pub slots: Vec<u32>,
    /// Number of the first row in the store.
    pub first: u32,
}

/// A row of a key that changes on both sides.
#[derive(Clone, Copy)]
struct Entry {
    row: u32,
    before: i64,
    after: i64,
}

impl Entry {
    fn changed(&self) -> bool {
        self.before != self.after
    }
}

/// The rows of some slots on one side.
struct Entries {
    entries: Vec<Entry>,
    /// End of each slot's entries.
    ends: Vec<usize>,
    /// The slots whose equal rows were put together.
    grouped: Vec<u32>,
    groups: Groups,
}

impl Entries {
    fn of(&self, at: usize) -> &[Entry] {
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.entries[start..self.ends[at]]
    }
}

/// Pairs of row numbers with their diffs.
#[derive(Default)]
struct WeightedPairs {
    pairs: Pairs,
    weights: Weights,
}

impl WeightedPairs {
    /// Takes a pair, if it changes.
    fn push(&mut self, left: Entry, right: Entry) {
        let weight = product(left.after, right.after) - product(left.before, right.before);
        if weight != 0 {
            self.pairs.probe.push(left.row);
            self.pairs.build.push(right.row);
            self.weights.push(weight);
        }
    }
}

/// Some keys that change on both sides, and how far their pairs have been gone through.
pub(super) struct Joint {
    slots: Vec<u32>,
    /// Numbers of the pending rows of each side.
    pending: PendingRows,
    /// The rows of the keys, once begun.
    sides: Option<[Entries; 2]>,
    /// The next pair: which of the keys, which of its left rows, which of that one's partners.
    at: usize,
    left: usize,
    right: usize,
    /// Instead, where the condition compares both sides of so many pairs that this takes less.
    searches: Vec<Search>,
}

/// Entries of both sides, of those keys that have so many.
struct Search {
    left: Vec<Entry>,
    left_rows: Vec<u32>,
    right: Vec<Entry>,
    meeting: RangeMeeting,
}

impl Search {
    /// All these entries of the left side with these of the right side, key by key.
    fn of(sides: &[Entries; 2], is_wanted: [fn(&Entry) -> bool; 2]) -> Search {
        let mut groups = GroupNumbers {
            count: sides[LEFT].ends.len(),
            ..GroupNumbers::default()
        };
        let mut entries = [vec![], vec![]];
        for (side, entries) in entries.iter_mut().enumerate() {
            let of_row = if side == LEFT {
                &mut groups.own
            } else {
                &mut groups.stored
            };
            for at in 0..groups.count {
                let wanted = sides[side].of(at).iter().filter(|e| is_wanted[side](e));
                entries.extend(wanted.copied());
                of_row.resize(entries.len(), at as u32);
            }
        }
        let [left, right] = entries;
        let rows = |entries: &[Entry]| entries.iter().map(|e| e.row).collect();
        Search {
            left_rows: rows(&left),
            meeting: RangeMeeting::of_groups(rows(&right), groups),
            left,
            right,
        }
    }
}

impl Joint {
    fn new(slots: Vec<u32>, pending: PendingRows) -> Self {
        Joint {
            slots,
            pending,
            sides: None,
            at: 0,
            left: 0,
            right: 0,
            searches: vec![],
        }
    }

    /// Plans to search for the pairs, if that takes less than looking at all.
    fn plan_searches(&mut self, sides: &[Entries; 2]) {
        let (mut pairs, mut rows) = (0, 0);
        for at in 0..self.slots.len() {
            let [left, right] = [LEFT, RIGHT].map(|side| sides[side].of(at));
            let [l, r] =
                [left, right].map(|entries| entries.iter().filter(|e| e.changed()).count());
            pairs += l * right.len() + (left.len() - l) * r;
            rows += left.len() + right.len();
        }
        if is_worth_order(pairs, rows) {
            let unchanged = |e: &Entry| !e.changed();
            self.searches = vec![
                Search::of(sides, [Entry::changed, |_| true]),
                Search::of(sides, [unchanged, Entry::changed]),
            ];
            self.at = self.slots.len();
        }
    }
}

impl JoinOperator {
    /// What it takes to emit what the pending pieces change. Presence on keys of one changed side is left to `flip_slots`.
    pub(super) fn plan_pending(&mut self, pending: [Vec<Piece>; 2]) -> Vec<Task> {
        let (joint, searched) = self.find_joint(&pending);
        let range = |p: &Piece| p.first..p.first + p.slots.len() as u32;
        let ranges = pending
            .each_ref()
            .map(|side| side.iter().map(range).collect());
        let ranges: PendingRows = Rc::new(ranges);
        let mut tasks = Vec::new();
        for (port, pieces) in pending.into_iter().enumerate() {
            for piece in pieces {
                let Some((delta, slots)) = self.without_joint(piece) else {
                    continue;
                };
                let mut meeting = Meeting::new(port, delta, slots, 0, None);
                // Where keys that change on both sides are searched for, the left rows have met these.
                meeting.except = (port == RIGHT && searched).then(|| ranges.clone());
                tasks.push(Task::Meet(Box::new(meeting)));
            }
        }
        for slots in joint.chunks(JOINT_SLOTS) {
            let joint = Joint::new(slots.to_vec(), ranges.clone());
            tasks.push(Task::Joint(Box::new(joint)));
        }
        if !joint.is_empty() {
            tasks.push(Task::EndJoint(joint));
        }
        tasks
    }

    /// The keys are no longer joint.
    pub(super) fn end_joint(&mut self, slots: Vec<u32>) {
        for slot in slots {
            let flags = &mut self.state.keys.slot_mut(slot).flags;
            *flags &= !(JOINT | RETRACTED[LEFT] | RETRACTED[RIGHT]);
        }
    }

    /// The slots that both sides' pieces touch, with their flags set; and whether there are others, which are searched for.
    fn find_joint(&mut self, pending: &[Vec<Piece>; 2]) -> (Vec<u32>, bool) {
        let (mut joint, mut searched) = (Vec::new(), false);
        // Without pairs there is little to gain, and lists would be walked whose rows don't appear or vanish.
        if !self.emits_pairs() || pending.iter().any(|pieces| pieces.is_empty()) {
            return (joint, searched);
        }
        let slots = |port: usize| pending[port].iter().flat_map(|p| p.slots.iter().copied());
        for slot in slots(LEFT) {
            self.state.keys.slot_mut(slot).flags |= TOUCHED;
        }
        for slot in slots(RIGHT) {
            if self.state.keys.slot(slot).flags & (TOUCHED | JOINT) != TOUCHED {
                continue;
            }
            if self.is_searched(slot) {
                self.state.keys.slot_mut(slot).flags &= !TOUCHED;
                searched = true;
            } else {
                self.state.keys.slot_mut(slot).flags |= JOINT;
                joint.push(slot);
            }
        }
        let keys = &mut self.state.keys;
        for slot in slots(LEFT) {
            keys.slot_mut(slot).flags &= !TOUCHED;
        }
        for port in [LEFT, RIGHT] {
            for piece in &pending[port] {
                let Diffs::Each(diffs) = &piece.delta.diffs else {
                    continue;
                };
                for (diff, slot) in diffs.iter().zip(&piece.slots) {
                    let flags = &mut keys.slot_mut(*slot).flags;
                    if *diff < 0 && *flags & JOINT != 0 {
                        *flags |= RETRACTED[port];
                    }
                }
            }
        }
        (joint, searched)
    }

    /// The rows of a piece whose keys haven't changed on the other side.
    fn without_joint(&self, piece: Piece) -> Option<(Delta, Vec<u32>)> {
        let joint = |slot: &u32| self.state.keys.slot(*slot).flags & JOINT != 0;
        let rows = (0..piece.slots.len()).filter(|row| !joint(&piece.slots[*row]));
        let rows: Vec<u32> = rows.map(|row| row as u32).collect();
        if rows.len() == piece.slots.len() {
            return Some((piece.delta, piece.slots));
        }
        if rows.is_empty() {
            return None;
        }
        let slots: Vec<u32> = rows.iter().map(|r| piece.slots[*r as usize]).collect();
        let rows = UInt32Array::from(rows);
        let delta = piece.delta.take(&rows).expect("rows of the piece");
        Some((delta, slots))
    }

    /// Emits what changes for keys that change on both sides, and adds up their rows. False if the allowance didn't suffice.
    pub(super) fn emit_joint(&mut self, joint: &mut Joint, out: &mut Output) -> bool {
        let begins = joint.sides.is_none();
        let sides = match joint.sides.take() {
            Some(sides) => sides,
            None => [LEFT, RIGHT].map(|side| {
                let entries = self.entries(side, &joint.slots, &joint.pending[side]);
                out.spend(entries.entries.len());
                entries
            }),
        };
        if begins && self.emits_pairs() && self.searches() {
            joint.plan_searches(&sides);
            for (side, entries) in sides.iter().enumerate() {
                let of_key = |at| entries.of(at).len().saturating_sub(FEW_OF_KEY);
                let rows: usize = (0..joint.slots.len()).map(of_key).sum();
                self.note_looked_at(side, rows * PAIRS_PER_JOINT_ROW);
            }
        }
        if self.emits_pairs() && !self.joint_pairs(joint, &sides, out) {
            joint.sides = Some(sides);
            return false;
        }
        if self.presence == Presence::PerKey {
            self.joint_singles(&joint.slots, &sides, out);
        }
        for (side, entries) in sides.iter().enumerate() {
            self.state.merge(side, &entries.grouped, &entries.groups);
        }
        true
    }

    /// The pairs from the place on that `joint` remembers.
    fn joint_pairs(&mut self, joint: &mut Joint, sides: &[Entries; 2], out: &mut Output) -> bool {
        let mut made = WeightedPairs::default();
        while let Some(mut search) = joint.searches.pop() {
            if !self.searched_pairs(&mut search, &mut made, out) {
                joint.searches.push(search);
                return false;
            }
        }
        let mut changed = Vec::new();
        while joint.at < joint.slots.len() {
            let (left, right) = (sides[LEFT].of(joint.at), sides[RIGHT].of(joint.at));
            changed.clear();
            changed.extend(right.iter().copied().filter(Entry::changed));
            while let Some(l) = left.get(joint.left) {
                let partners = if l.changed() { right } else { &changed };
                let rest = &partners[joint.right..];
                let looked_at = rest.len().min(out.allowance);
                for r in &rest[..looked_at] {
                    made.push(*l, *r);
                    if made.weights.each.len() == PIECE_ROWS {
                        self.emit_joint_pairs(&mut made, out);
                    }
                }
                if looked_at < rest.len() {
                    joint.right += looked_at;
                    out.spend(looked_at);
                    self.emit_joint_pairs(&mut made, out);
                    return false;
                }
                out.spend(looked_at + 1);
                (joint.left, joint.right) = (joint.left + 1, 0);
            }
            (joint.at, joint.left) = (joint.at + 1, 0);
        }
        self.emit_joint_pairs(&mut made, out);
        true
    }

    /// The pairs that a search finds. False if the allowance didn't suffice.
    fn searched_pairs(
        &mut self,
        search: &mut Search,
        made: &mut WeightedPairs,
        out: &mut Output,
    ) -> bool {
        let mut found = Pairs::default();
        let mut left = true;
        while left && !out.is_spent() {
            let rows = (LEFT, Rows::Stored(&search.left_rows));
            left = search.meeting.next(self, rows, &mut found, out);
            for (l, r) in found.probe.drain(..).zip(found.build.drain(..)) {
                made.push(search.left[l as usize], search.right[r as usize]);
            }
            self.emit_joint_pairs(made, out);
        }
        !left
    }

    /// Emits those pairs that pass the filter, and empties the list.
    fn emit_joint_pairs(&mut self, made: &mut WeightedPairs, out: &mut Output) {
        let WeightedPairs { pairs, weights } = made;
        if let Some(filter) = self.filter.take() {
            let (probe, build) = (&pairs.probe, &pairs.build);
            let columns = self.pair_arrays(LEFT, None, probe, build, &filter.columns);
            let mut failed = Vec::new();
            let mask = filter.mask(columns, weights.each.len(), &mut failed);
            let pair = |(at, error)| (probe[at], build[at], weights.each[at], error);
            let failed = failed.into_iter().map(pair).collect();
            self.report_failed(LEFT, None, failed, out);
            retain(&mut pairs.probe, &mask);
            retain(&mut pairs.build, &mask);
            weights.retain(&mask);
            self.filter = Some(filter);
        }
        if !pairs.probe.is_empty() {
            let all: Vec<usize> = (0..self.widths[LEFT] + self.widths[RIGHT]).collect();
            let arrays = self.pair_arrays(LEFT, None, &pairs.probe, &pairs.build, &all);
            let rows = batch_of(&self.output_schema, arrays, pairs.probe.len());
            weights.report(&rows, out);
            out.rows.push(Delta::new(rows, weights.each.clone()));
        }
        *made = WeightedPairs::default();
    }

    /// Rows that appear alone: what they counted before under the presence before, and what they count now.
    fn joint_singles(&mut self, slots: &[u32], sides: &[Entries; 2], out: &mut Output) {
        for side in [LEFT, RIGHT] {
            if !self.single[side] {
                continue;
            }
            let (mut numbers, mut weights) = (Vec::new(), Vec::new());
            for (at, slot) in slots.iter().enumerate() {
                let (before, after) = self.flip(*slot, side);
                for entry in sides[side].of(at) {
                    let weight = entry.after * after - entry.before * before;
                    if weight != 0 {
                        numbers.push(entry.row);
                        weights.push(weight);
                    }
                }
            }
            self.emit_weighted(side, &mut numbers, &mut weights, out);
        }
    }

    /// The rows of `slots` with their diffs before and after the pending pieces.
    fn entries(&mut self, side: usize, slots: &[u32], pending: &[Range<u32>]) -> Entries {
        let keys = &self.state.keys;
        let store = &self.state.sides[side].store;
        let retracted = |slot: &u32| keys.slot(*slot).flags & RETRACTED[side] != 0;
        let mut room = JOINT_ROWS_MAX;
        let fits = |slot: &u32| takes_room(store, keys.slot(*slot).heads[side], &mut room);
        let candidates = slots.iter().copied().filter(retracted);
        // Otherwise a row and its retraction would each make pairs, and in a chain of joins twice as many at each.
        let (grouped, long): (Vec<u32>, Vec<u32>) = candidates.partition(fits);
        let heads: Vec<u32> = grouped.iter().map(|s| keys.slot(*s).heads[side]).collect();
        let groups = self.state.sides[side].store.group(&heads);
        // Long lists are added up when enough has been retracted from them.
        let retractions = Diffs::Each(vec![-1; long.len()].into());
        self.state.note_retractions(side, &retractions, &long);
        let (entries, ends) = self.list_entries(side, slots, pending, &grouped, &groups);
        Entries {
            entries,
            ends,
            grouped,
            groups,
        }
    }

    /// The entries, slot by slot, and where each slot's end.
    fn list_entries(
        &self,
        side: usize,
        slots: &[u32],
        pending: &[Range<u32>],
        grouped: &[u32],
        groups: &Groups,
    ) -> (Vec<Entry>, Vec<usize>) {
        let store = &self.state.sides[side].store;
        let before = |row: u32| match is_pending(pending, row) {
            true => 0,
            false => store.diff(row),
        };
        let (mut entries, mut ends) = (Vec::new(), Vec::new());
        let mut groups = groups.iter().peekable();
        let mut next = 0;
        for slot in slots {
            if grouped.get(next) == Some(slot) {
                while let Some((_, rows)) = groups.next_if(|g| g.0 == next as u32) {
                    entries.push(Entry {
                        row: rows[0],
                        before: rows.iter().map(|row| before(*row)).sum(),
                        after: rows.iter().map(|row| store.diff(*row)).sum(),
                    });
                }
                next += 1;
            } else {
                let mut row = self.state.keys.slot(*slot).heads[side];
                while row != NIL {
                    entries.push(Entry {
                        row,
                        before: before(row),
                        after: store.diff(row),
                    });
                    row = store.next(row);
                }
            }
            ends.push(entries.len());
        }
        (entries, ends)
    }
}

/// Whether a list has no more rows than there is room for, which it takes then.
fn takes_room(store: &RowStore, head: u32, room: &mut usize) -> bool {
    let (mut row, mut left) = (head, *room);
    while row != NIL {
        if left == 0 {
            return false;
        }
        (row, left) = (store.next(row), left - 1);
    }
    *room = left;
    true
}

/// True if `row` belongs to one of the pieces, which are ascending.
pub(super) fn is_pending(pending: &[Range<u32>], row: u32) -> bool {
    let after = pending.partition_point(|p| p.start <= row);
    after > 0 && pending[after - 1].contains(&row)
}
