//! Pushed rows that wait to be joined, and keys that change on both sides at once.
//!
//! Where only one side of a key has changed, its changed rows meet the other side. Where both have,
//! dL⋈R + L⋈dR + dL⋈dR, row by row, would give pairs that come and go: an update of both rows of a
//! one-to-one join has four such products but only two changes. So for those keys every row gets
//! its diff *before* and *after*, equal rows (a retraction and what it retracts) put together, and each pair
//! gives `after × after - before × before`.
//!
//! Invariant: a pending row is in its list already; *before* it counts nothing.

use arrow::array::UInt32Array;
use tidemill_zset::{Delta, Diffs};

use super::join::{JoinOperator, LEFT, PIECE_ROWS, Presence, RIGHT};
use super::join_pairs::{Pairs, retain};
use super::join_rows::{Groups, NIL, RowStore, SHORT_LIST, batch_of};
use crate::operator::Output;

/// Slot flag: changed on the left.
const TOUCHED: u8 = 16;
/// Slot flag: changed on both sides.
const JOINT: u8 = 32;
/// Slot flag: rows of side 0 and 1 have been retracted.
const RETRACTED: [u8; 2] = [64, 128];
/// Keys that are taken together.
const JOINT_SLOTS: usize = 1024;

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
    weights: Vec<i64>,
}

impl JoinOperator {
    /// Emits what the pending pieces change. Presence on keys of one changed side is left to `flip_slots`.
    pub(super) fn emit_pending(&mut self, pending: &[Vec<Piece>; 2], out: &mut Output) {
        let joint = self.find_joint(pending);
        for port in [LEFT, RIGHT] {
            for piece in &pending[port] {
                match joint.is_empty() {
                    true => self.emit_plain(port, &piece.delta, &piece.slots, out),
                    false => self.emit_unless_joint(port, piece, out),
                }
            }
        }
        for slots in joint.chunks(JOINT_SLOTS) {
            self.emit_joint(slots, pending, out);
        }
        for slot in joint {
            let flags = &mut self.state.keys.slot_mut(slot).flags;
            *flags &= !(JOINT | RETRACTED[LEFT] | RETRACTED[RIGHT]);
        }
    }

    /// The slots that both sides' pieces touch, with their flags set.
    fn find_joint(&mut self, pending: &[Vec<Piece>; 2]) -> Vec<u32> {
        let mut joint = Vec::new();
        // Without pairs there is little to gain, and lists would be walked whose rows don't appear or vanish.
        if !self.emits_pairs() || pending.iter().any(|pieces| pieces.is_empty()) {
            return joint;
        }
        let keys = &mut self.state.keys;
        let slots = |port: usize| pending[port].iter().flat_map(|p| p.slots.iter().copied());
        for slot in slots(LEFT) {
            keys.slot_mut(slot).flags |= TOUCHED;
        }
        for slot in slots(RIGHT) {
            let flags = &mut keys.slot_mut(slot).flags;
            if *flags & (TOUCHED | JOINT) == TOUCHED {
                *flags |= JOINT;
                joint.push(slot);
            }
        }
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
        joint
    }

    /// Emits what rows of keys change that haven't changed on the other side.
    fn emit_plain(&mut self, port: usize, delta: &Delta, slots: &[u32], out: &mut Output) {
        self.meet(port, delta, slots, &mut [], out);
        self.show_pushed(port, delta, slots, NIL, &[], out);
        self.state.note_retractions(port, &delta.diffs, slots);
    }

    fn emit_unless_joint(&mut self, port: usize, piece: &Piece, out: &mut Output) {
        let joint = |slot: &u32| self.state.keys.slot(*slot).flags & JOINT != 0;
        let rows = (0..piece.slots.len()).filter(|row| !joint(&piece.slots[*row]));
        let rows: Vec<u32> = rows.map(|row| row as u32).collect();
        if rows.len() == piece.slots.len() {
            return self.emit_plain(port, &piece.delta, &piece.slots, out);
        }
        if rows.is_empty() {
            return;
        }
        let slots: Vec<u32> = rows.iter().map(|r| piece.slots[*r as usize]).collect();
        let rows = UInt32Array::from(rows);
        let delta = piece.delta.take(&rows).expect("rows of the piece");
        self.emit_plain(port, &delta, &slots, out);
    }

    /// Emits what changes for keys that change on both sides, and adds up their rows.
    fn emit_joint(&mut self, slots: &[u32], pending: &[Vec<Piece>; 2], out: &mut Output) {
        let sides = [
            self.entries(LEFT, slots, &pending[LEFT]),
            self.entries(RIGHT, slots, &pending[RIGHT]),
        ];
        if self.emits_pairs() {
            self.joint_pairs(slots, &sides, out);
        }
        if self.presence == Presence::PerKey {
            self.joint_singles(slots, &sides, out);
        }
        for (side, entries) in sides.iter().enumerate() {
            self.state.merge(side, &entries.grouped, &entries.groups);
        }
    }

    fn joint_pairs(&mut self, slots: &[u32], sides: &[Entries; 2], out: &mut Output) {
        let mut made = WeightedPairs::default();
        let mut changed = Vec::new();
        for at in 0..slots.len() {
            let (left, right) = (sides[LEFT].of(at), sides[RIGHT].of(at));
            changed.clear();
            changed.extend(right.iter().copied().filter(Entry::changed));
            for l in left {
                let partners = if l.changed() { right } else { &changed };
                for r in partners {
                    let weight = l.after * r.after - l.before * r.before;
                    if weight == 0 {
                        continue;
                    }
                    made.pairs.probe.push(l.row);
                    made.pairs.build.push(r.row);
                    made.weights.push(weight);
                    if made.weights.len() == PIECE_ROWS {
                        self.emit_joint_pairs(&mut made, out);
                    }
                }
            }
        }
        self.emit_joint_pairs(&mut made, out);
    }

    /// Emits those pairs that pass the filter, and empties the list.
    fn emit_joint_pairs(&mut self, made: &mut WeightedPairs, out: &mut Output) {
        let WeightedPairs { pairs, weights } = made;
        if let Some(filter) = self.filter.take() {
            let (probe, build) = (&pairs.probe, &pairs.build);
            let columns = self.pair_arrays(LEFT, None, probe, build, &filter.columns);
            let mut failed = Vec::new();
            let mask = filter.mask(columns, weights.len(), &mut failed);
            let pair = |(at, error)| (probe[at], build[at], weights[at], error);
            let failed = failed.into_iter().map(pair).collect();
            self.report_failed(LEFT, None, failed, out);
            retain(&mut pairs.probe, &mask);
            retain(&mut pairs.build, &mask);
            retain(weights, &mask);
            self.filter = Some(filter);
        }
        if !weights.is_empty() {
            let all: Vec<usize> = (0..self.widths[LEFT] + self.widths[RIGHT]).collect();
            let arrays = self.pair_arrays(LEFT, None, &pairs.probe, &pairs.build, &all);
            let rows = batch_of(&self.output_schema, arrays, weights.len());
            out.rows.push(Delta::new(rows, weights.clone()));
        }
        pairs.probe.clear();
        pairs.build.clear();
        weights.clear();
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
    fn entries(&mut self, side: usize, slots: &[u32], pending: &[Piece]) -> Entries {
        let keys = &self.state.keys;
        let store = &self.state.sides[side].store;
        let retracted = |slot: &u32| keys.slot(*slot).flags & RETRACTED[side] != 0;
        let short = |slot: &u32| is_short(store, keys.slot(*slot).heads[side]);
        let candidates = slots.iter().copied().filter(retracted);
        let (grouped, long): (Vec<u32>, Vec<u32>) = candidates.partition(short);
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
        pending: &[Piece],
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

fn is_short(store: &RowStore, head: u32) -> bool {
    let mut row = head;
    for _ in 0..SHORT_LIST {
        if row == NIL {
            return true;
        }
        row = store.next(row);
    }
    row == NIL
}

/// True if `row` belongs to one of the pieces, which are ascending.
fn is_pending(pending: &[Piece], row: u32) -> bool {
    let after = pending.partition_point(|p| p.first <= row);
    after > 0 && {
        let piece = &pending[after - 1];
        row - piece.first < piece.slots.len() as u32
    }
}
