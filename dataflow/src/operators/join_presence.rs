//! Rows of outer, semi and anti joins that depend on the presence of matches.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, UInt32Array, new_null_array};
use arrow::datatypes::Field;
use tidemill_zset::{Delta, Diffs};

use super::join::{DIRTY, JoinOperator, LEFT, PIECE_ROWS, Presence, RIGHT, SHOWN};
use super::join_pairs::{Pairs, Rows};
use super::join_ranges::{RangeMeeting, STORED_ROWS, is_worth_order};
use super::join_rows::batch_of;
use crate::operator::Output;
use crate::plan::JoinKind;

/// Columns of so many NULLs are made each time.
const FEW_NULLS: usize = 256;

/// Fetched keys whose matches are counted, and how far that is.
pub(super) struct Restore {
    slots: Range<u32>,
    /// The next pair of the first of them.
    pair: u64,
    /// The next left row, where pairs are searched for.
    row: usize,
    /// Some left rows that meet the right side.
    ranges: Option<RangeMeeting>,
}

impl Restore {
    pub fn new(slots: Range<u32>) -> Self {
        Restore {
            slots,
            pair: 0,
            row: 0,
            ranges: None,
        }
    }
}

/// Slots or rows of one side whose shown flags are made true.
pub(super) struct Flip {
    side: usize,
    begun: bool,
    numbers: std::vec::IntoIter<u32>,
}

impl Flip {
    pub fn new(side: usize) -> Self {
        Flip {
            side,
            begun: false,
            numbers: Vec::new().into_iter(),
        }
    }

    /// Takes the list, once.
    fn begin(&mut self, dirty: &mut Vec<u32>) {
        if !std::mem::replace(&mut self.begun, true) {
            self.numbers = std::mem::take(dirty).into_iter();
        }
    }
}

impl JoinOperator {
    /// With a count of matches per row: adds the pairs to those of the pushed and of the other side's rows.
    pub(super) fn count_matches(
        &mut self,
        port: usize,
        delta: &Delta,
        pairs: &Pairs,
        own: &mut [i64],
    ) {
        if self.presence != Presence::PerRow {
            return;
        }
        let other = 1 - port;
        let store = &mut self.state.sides[other].store;
        if self.single[port] {
            for (p, b) in pairs.probe.iter().zip(&pairs.build) {
                own[*p as usize] += store.diff(*b);
            }
        }
        if self.single[other] {
            let matching = store.matching.as_mut().expect("kept for this side");
            for (p, b) in pairs.probe.iter().zip(&pairs.build) {
                let b = *b as usize;
                matching.matches[b] += delta.diffs.get(*p as usize);
                if !matching.dirty[b] {
                    matching.dirty[b] = true;
                    self.dirty_rows[other].push(b as u32);
                }
            }
        }
    }

    /// After rows have been indexed: emits those of them that appear alone under the shown presence, and notes whose
    /// presence on the other side they may have changed.
    pub(super) fn show_pushed(
        &mut self,
        port: usize,
        delta: &Delta,
        slots: &[u32],
        first: u32,
        own: &[i64],
        out: &mut Output,
    ) {
        let other = 1 - port;
        if self.presence == Presence::PerKey && self.single[other] {
            for slot in slots {
                let flags = &mut self.state.keys.slot_mut(*slot).flags;
                if *flags & DIRTY[other] == 0 {
                    *flags |= DIRTY[other];
                    self.dirty_slots[other].push(*slot);
                }
            }
        }
        if !self.single[port] {
            return;
        }
        let when = self.single_when();
        let alone: Vec<u32> = match self.presence {
            Presence::None => return,
            Presence::PerKey => {
                let shown = |slot: u32| self.state.keys.slot(slot).flags & SHOWN[port] != 0;
                let rows = slots.iter().enumerate();
                let rows = rows.filter(|(_, slot)| shown(**slot) == when);
                rows.map(|(row, _)| row as u32).collect()
            }
            Presence::PerRow => {
                let store = &mut self.state.sides[port].store;
                let matching = store.matching.as_mut().expect("kept for this side");
                for (row, matches) in own.iter().enumerate() {
                    matching.matches[first as usize + row] = *matches;
                    matching.shown[first as usize + row] = *matches > 0;
                }
                let rows = own.iter().enumerate();
                let rows = rows.filter(|(_, matches)| (**matches > 0) == when);
                rows.map(|(row, _)| row as u32).collect()
            }
        };
        if alone.is_empty() {
            return;
        }
        let delta = match alone.len() == delta.len() {
            true => delta.clone(),
            false => delta
                .take(&UInt32Array::from(alone))
                .expect("rows of the piece"),
        };
        let columns = delta.rows.columns().to_vec();
        self.emit_single(port, columns, delta.len(), delta.diffs, out);
    }

    /// Emits rows of one side, the other side's columns NULL (Semi, Anti: absent). At most [`PIECE_ROWS`].
    pub(super) fn emit_single(
        &self,
        side: usize,
        columns: Vec<ArrayRef>,
        rows: usize,
        diffs: Diffs,
        out: &mut Output,
    ) {
        if rows == 0 {
            return;
        }
        let nulls = |side| self.nulls(side, rows).into_iter();
        let columns = match (self.kind, side) {
            (JoinKind::Semi | JoinKind::Anti, _) => columns,
            (_, LEFT) => columns.into_iter().chain(nulls(RIGHT)).collect(),
            (_, _) => nulls(LEFT).chain(columns).collect(),
        };
        let rows = batch_of(&self.output_schema, columns, rows);
        out.rows.push(Delta::new(rows, diffs));
    }

    /// NULLs for the columns of a side.
    fn nulls(&self, side: usize, rows: usize) -> Vec<ArrayRef> {
        let of_side = match side {
            LEFT => 0..self.widths[LEFT],
            _ => self.widths[LEFT]..self.widths[LEFT] + self.widths[RIGHT],
        };
        let fields = &self.output_schema.fields()[of_side];
        let make = |rows| {
            let null = |f: &Arc<Field>| new_null_array(f.data_type(), rows);
            fields.iter().map(null).collect()
        };
        // Most joins never want many: kept from the start, they were half of what a view over small tables takes.
        if rows <= FEW_NULLS {
            return make(rows);
        }
        let kept = self.nulls[side].get_or_init(|| make(PIECE_ROWS));
        kept.iter().map(|n| n.slice(0, rows)).collect()
    }

    /// Sets the presence of keys that have just been fetched: the output already stands for it. Per row that is
    /// [`JoinOperator::restore_matches`].
    pub(super) fn restore_presence(&mut self, fetched: Range<u32>) {
        if self.presence != Presence::PerKey {
            return;
        }
        let counts = self.state.counts.as_ref().expect("kept for this join");
        for slot in fetched {
            let flags = &mut self.state.keys.slot_mut(slot).flags;
            for side in [LEFT, RIGHT] {
                if counts[slot as usize][1 - side] > 0 {
                    *flags |= SHOWN[side];
                }
            }
        }
    }

    /// Recomputes the matches of all rows of fetched keys. False if the allowance didn't suffice.
    pub(super) fn restore_matches(&mut self, restore: &mut Restore, out: &mut Output) -> bool {
        while let Some(slot) = restore.slots.clone().next() {
            let heads = self.state.keys.slot(slot).heads;
            let of = |side: usize| {
                let mut rows = Vec::new();
                self.state.sides[side].store.collect(heads[side], &mut rows);
                rows
            };
            let rows = [of(LEFT), of(RIGHT)];
            let [left, right] = rows.each_ref().map(Vec::len);
            let counted = match self.searches() && is_worth_order(left * right, left + right) {
                true => self.restore_ranges(restore, &rows, out),
                false => self.restore_pairs(restore, &rows, out),
            };
            if !counted {
                return false;
            }
            for (side, rows) in rows.into_iter().enumerate() {
                if let Some(m) = &mut self.state.sides[side].store.matching {
                    for row in rows {
                        m.shown[row as usize] = m.matches[row as usize] > 0;
                    }
                }
            }
            *restore = Restore::new(slot + 1..restore.slots.end);
        }
        true
    }

    /// Counts the matches among the pairs of one key.
    fn restore_pairs(
        &mut self,
        restore: &mut Restore,
        [left, right]: &[Vec<u32>; 2],
        out: &mut Output,
    ) -> bool {
        let count = left.len() as u64 * right.len() as u64;
        while restore.pair < count {
            if out.is_spent() {
                return false;
            }
            let end = count.min(restore.pair + PIECE_ROWS as u64);
            let mut pairs = Pairs::default();
            for pair in restore.pair..end {
                pairs.probe.push(left[(pair / right.len() as u64) as usize]);
                pairs
                    .build
                    .push(right[(pair % right.len() as u64) as usize]);
            }
            out.spend(pairs.probe.len());
            self.apply_filter(LEFT, None, &mut pairs, out);
            self.add_matches(&pairs);
            restore.pair = end;
        }
        true
    }

    /// The same where the condition compares both sides.
    fn restore_ranges(
        &mut self,
        restore: &mut Restore,
        [left, right]: &[Vec<u32>; 2],
        out: &mut Output,
    ) -> bool {
        while restore.row < left.len() {
            let to = left.len().min(restore.row + STORED_ROWS);
            let own = &left[restore.row..to];
            let meeting = restore.ranges.take();
            let mut meeting = meeting.unwrap_or_else(|| RangeMeeting::new(right.clone()));
            let mut pairs = Pairs::default();
            while meeting.next(self, (LEFT, Rows::Stored(own)), &mut pairs, out) {
                meeting.number(&mut pairs);
                let numbers = pairs.probe.iter_mut();
                numbers.for_each(|place| *place = own[*place as usize]);
                if meeting.is_filtered() {
                    self.apply_filter(LEFT, None, &mut pairs, out);
                }
                self.add_matches(&pairs);
                pairs = Pairs::default();
                if out.is_spent() {
                    restore.ranges = Some(meeting);
                    return false;
                }
            }
            restore.ranges = Some(meeting.again());
            restore.row = to;
        }
        true
    }

    pub(super) fn add_matches(&mut self, pairs: &Pairs) {
        let [left, right] = &mut self.state.sides;
        for (l, r) in pairs.probe.iter().zip(&pairs.build) {
            if let Some(m) = &mut left.store.matching {
                m.matches[*l as usize] += right.store.diff(*r);
            }
            if let Some(m) = &mut right.store.matching {
                m.matches[*r as usize] += left.store.diff(*l);
            }
        }
    }

    /// Makes the shown flags of keys true, and emits or retracts their rows. False if the allowance didn't suffice.
    pub(super) fn flip_slots(&mut self, flip: &mut Flip, out: &mut Output) -> bool {
        let side = flip.side;
        flip.begin(&mut self.dirty_slots[side]);
        let mut numbers = Vec::new();
        let mut weights = Vec::new();
        for slot in flip.numbers.by_ref() {
            self.state.keys.slot_mut(slot).flags &= !DIRTY[side];
            let (before, after) = self.flip(slot, side);
            out.spend(1);
            if before != after {
                let head = self.state.keys.slot(slot).heads[side];
                let store = &self.state.sides[side].store;
                store.collect(head, &mut numbers);
                let new = &numbers[weights.len()..];
                out.spend(new.len());
                weights.extend(new.iter().map(|row| store.diff(*row) * (after - before)));
            }
            if numbers.len() >= PIECE_ROWS {
                self.emit_weighted(side, &mut numbers, &mut weights, out);
            }
            if out.is_spent() {
                break;
            }
        }
        self.emit_weighted(side, &mut numbers, &mut weights, out);
        flip.numbers.len() == 0
    }

    /// Makes one shown flag true. Returns whether (1 or 0) the rows of the key appeared before, and appear now.
    pub(super) fn flip(&mut self, slot: u32, side: usize) -> (i64, i64) {
        let counts = self.state.counts.as_ref().expect("kept for this join");
        let present = counts[slot as usize][1 - side] > 0;
        let when = self.single_when();
        let slot = self.state.keys.slot_mut(slot);
        let shown = slot.flags & SHOWN[side] != 0;
        if shown != present {
            slot.flags ^= SHOWN[side];
        }
        (i64::from(shown == when), i64::from(present == when))
    }

    /// Makes the shown flags of rows true, and emits or retracts the rows. False if the allowance didn't suffice.
    pub(super) fn flip_rows(&mut self, flip: &mut Flip, out: &mut Output) -> bool {
        let side = flip.side;
        flip.begin(&mut self.dirty_rows[side]);
        let mut numbers = Vec::new();
        let mut weights = Vec::new();
        let when = self.single_when();
        let store = &mut self.state.sides[side].store;
        let turn = flip.numbers.len().min(out.allowance);
        out.spend(turn);
        for row in flip.numbers.by_ref().take(turn) {
            let diff = store.diff(row);
            let m = store.matching.as_mut().expect("kept for this side");
            let at = row as usize;
            let present = m.matches[at] > 0;
            m.dirty[at] = false;
            if m.shown[at] != present {
                m.shown[at] = present;
                numbers.push(row);
                weights.push(if present == when { diff } else { -diff });
            }
        }
        self.emit_weighted(side, &mut numbers, &mut weights, out);
        flip.numbers.len() == 0
    }

    /// Emits indexed rows of one side with the given diffs, and empties the lists.
    pub(super) fn emit_weighted(
        &mut self,
        side: usize,
        numbers: &mut Vec<u32>,
        weights: &mut Vec<i64>,
        out: &mut Output,
    ) {
        let columns: Vec<usize> = (0..self.widths[side]).collect();
        let pieces = numbers.chunks(PIECE_ROWS).zip(weights.chunks(PIECE_ROWS));
        for (numbers, weights) in pieces {
            let arrays = self.side_arrays(side, Rows::Stored(numbers), &columns);
            let diffs = weights.to_vec().into();
            self.emit_single(side, arrays, numbers.len(), diffs, out);
        }
        numbers.clear();
        weights.clear();
    }
}
