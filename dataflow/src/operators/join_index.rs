//! Indexes of the rows of a side by what the condition compares ([`RangeIndex`]): a changed row of the other side meets only those that it
//! can match, however many there are.
//!
//! An index is made when without one so many pairs have been looked at that it would have cost as much, and is kept from then on ("ski
//! rental", as in [`super::join_unindexed`]); it goes where memory is short.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use super::join::{JoinOperator, PIECE_ROWS};
use super::join_pairs::{Meeting, Place, Rows};
use super::join_pending::is_pending;
use super::join_plan::StoredColumns;
use super::join_ranges::STORED_ROWS;
use super::join_rows::{NIL, RowStore, batch_of};
use crate::operator::Output;
use crate::ranges::{Found, RangeCondition, RangeIndex};

/// Indexing a row takes as long as looking at so many pairs.
const PAIRS_PER_INDEXED_ROW: usize = 4;
/// Rows that are paid for at least.
const INDEXED_ROWS_MIN: usize = 64;
/// Bytes that an indexed row takes, at most and about.
const INDEXED_ROW_BYTES: usize = 25;
/// So many rows of a key are looked at one by one.
pub(super) const FEW_OF_KEY: usize = 16;
/// Keys with more rows than this are searched for what changes on both sides, where there are indexes.
const FEW_OF_JOINT_KEY: usize = 64;

/// The index of a side.
pub(super) struct SideIndex {
    pub index: RangeIndex,
    /// Of the stored columns, those that it is over.
    columns: Vec<usize>,
    schema: SchemaRef,
}

impl SideIndex {
    /// An index by `condition`, over columns of `schema`: these `columns` of a side's input.
    pub fn new(
        condition: Arc<RangeCondition>,
        schema: SchemaRef,
        columns: &[usize],
        stored: &StoredColumns,
    ) -> Self {
        let position = |c: &usize| stored.position(*c).expect("needed columns are stored");
        SideIndex {
            index: RangeIndex::new(condition, stored.key_columns > 0),
            columns: columns.iter().map(position).collect(),
            schema,
        }
    }

    /// The same index without rows.
    pub fn emptied(&self) -> Self {
        SideIndex {
            index: self.index.emptied(),
            columns: self.columns.clone(),
            schema: self.schema.clone(),
        }
    }

    /// Adds rows that are in the store.
    pub fn push(&mut self, rows: &RecordBatch, slots: &[u32], first: u32, store: &RowStore) {
        let columns = self.columns.iter().map(|c| rows.column(*c).clone());
        let rows = batch_of(&self.schema, columns.collect(), rows.num_rows());
        let numbers: Vec<u32> = (first..first + slots.len() as u32).collect();
        self.add(&rows, slots, &numbers, store);
    }

    /// Adds rows that are in the store, by their numbers.
    fn push_stored(&mut self, numbers: &[u32], slots: &[u32], store: &mut RowStore) {
        let arrays = store.gather(numbers, &self.columns);
        let rows = batch_of(&self.schema, arrays, numbers.len());
        self.add(&rows, slots, numbers, store);
    }

    fn add(&mut self, rows: &RecordBatch, slots: &[u32], numbers: &[u32], store: &RowStore) {
        let is_gone = |row| store.is_dead(row);
        let added = self.index.push(rows, slots, numbers, &is_gone);
        added.expect("values of ordered types");
    }
}

/// An index that is being made.
pub(super) struct Build {
    side: usize,
    index: SideIndex,
    /// The next list.
    slot: u32,
    /// The next row of the one before.
    node: u32,
}

/// Pushed rows that meet those of the other side that its index finds.
pub(super) struct IndexMeeting {
    found: Found,
    /// Places of pushed rows, and rows of their keys where these are few.
    few: Vec<(u32, u32)>,
}

impl JoinOperator {
    fn has_index(&self, side: usize) -> bool {
        self.state.sides[side].index.is_some()
    }

    /// Notes that so many pairs with rows of a side have been looked at, or as much has been done, that an index would have spared.
    pub(super) fn note_looked_at(&mut self, side: usize, pairs: usize) {
        self.looked_at[side] = self.looked_at[side].saturating_add(pairs);
    }

    /// The index of a side, if it is time to make it.
    pub(super) fn due_index(&self, side: usize) -> Option<Build> {
        let filter = self.filter.as_ref()?;
        let condition = filter.indexed[side].as_ref()?;
        let rows = self.state.sides[side].store.live();
        let cost = rows.max(INDEXED_ROWS_MIN) * PAIRS_PER_INDEXED_ROW;
        let pays = self.looked_at[side] > cost && !self.has_index(side);
        if !pays || !self.state.has_room(rows * INDEXED_ROW_BYTES) {
            return None;
        }
        let columns = self.condition_columns(side, &filter.columns);
        let schema = filter.sides[side].clone();
        Some(Build {
            side,
            index: SideIndex::new(condition.clone(), schema, &columns, &self.stored[side]),
            slot: 0,
            node: NIL,
        })
    }

    /// Indexes rows until all are. False if the allowance didn't suffice.
    pub(super) fn build_index(&mut self, build: &mut Build, out: &mut Output) -> bool {
        let side = build.side;
        let (keys, store) = (&self.state.keys, &mut self.state.sides[side].store);
        while !out.is_spent() {
            let (mut rows, mut slots) = (vec![], vec![]);
            while rows.len() < STORED_ROWS
                && (build.node != NIL || (build.slot as usize) < keys.len())
            {
                if build.node == NIL {
                    build.node = keys.slot(build.slot).heads[side];
                    build.slot += 1;
                } else {
                    rows.push(build.node);
                    slots.push(build.slot - 1);
                    build.node = store.next(build.node);
                }
            }
            if rows.is_empty() {
                return true;
            }
            build.index.push_stored(&rows, &slots, store);
            out.spend(rows.len());
        }
        false
    }

    /// The index has been made.
    pub(super) fn install_index(&mut self, build: Build) {
        self.looked_at[build.side] = 0;
        self.state.sides[build.side].index = Some(build.index);
    }

    /// What the index of the other side finds for pushed rows; `None`: there is none.
    pub(super) fn meeting_by_index(&mut self, meeting: &Meeting) -> Option<IndexMeeting> {
        let (port, other) = (meeting.port, 1 - meeting.port);
        let side = &self.state.sides[other];
        side.index.as_ref()?;
        let (mut few, mut many) = (vec![], vec![]);
        for (row, slot) in meeting.slots.iter().enumerate() {
            let from = few.len();
            let mut node = self.state.keys.slot(*slot).heads[other];
            while node != NIL && few.len() - from < FEW_OF_KEY {
                few.push((row as u32, node));
                node = side.store.next(node);
            }
            if node != NIL {
                few.truncate(from);
                many.push(row as u32);
            }
        }
        let filter = self.filter.take().expect("an index is by the condition");
        let all: Vec<u32> = (0..meeting.delta.len() as u32).collect();
        let rows = Rows::Pushed(&meeting.delta.rows, &all);
        let arrays = self.condition_arrays(port, rows, &filter.columns);
        let probing = batch_of(&filter.sides[port], arrays, all.len());
        self.filter = Some(filter);
        let index = self.state.sides[other].index.as_ref()?;
        let found = index.index.search(&probing, &meeting.slots, &many);
        Some(IndexMeeting {
            found: found.expect("values of ordered types"),
            few,
        })
    }

    /// Pairs of the pushed rows with those that the index has found. False if the allowance didn't suffice for all of them.
    pub(super) fn meet_indexed(&mut self, meeting: &mut Meeting, out: &mut Output) -> bool {
        let Meeting {
            port,
            delta,
            own,
            except,
            place: Place::Indexed(IndexMeeting { found, few }),
            ..
        } = meeting
        else {
            unreachable!("the caller has looked")
        };
        let (port, other) = (*port, 1 - *port);
        let mut pairs = std::mem::take(&mut self.pairs);
        while !(out.is_spent() || few.is_empty() && found.is_empty()) {
            let side = &self.state.sides[other];
            let mut add = |probe: u32, row: u32| {
                let excepted = except.as_ref().is_some_and(|e| is_pending(&e[other], row));
                if !excepted && !side.store.is_dead(row) {
                    pairs.probe.push(probe);
                    pairs.build.push(row);
                }
            };
            let is_filtered = !few.is_empty() || found.is_filtered;
            let steps = match few.len() {
                0 => {
                    let index = side.index.as_ref().expect("indexes go between epochs");
                    index.index.give(found, PIECE_ROWS, add)
                }
                rows => {
                    let some = few.drain(rows.saturating_sub(PIECE_ROWS)..);
                    some.map(|(probe, row)| add(probe, row)).count()
                }
            };
            out.spend(steps);
            if is_filtered && !pairs.probe.is_empty() {
                self.apply_filter(port, Some(delta), &mut pairs, out);
            }
            self.accept(port, delta, &mut pairs, own, out);
        }
        self.pairs = pairs;
        few.is_empty() && found.is_empty()
    }

    /// Whether what changes on both sides of a key is searched for in the indexes: it has many rows, and each side has one.
    pub(super) fn is_searched(&self, slot: u32) -> bool {
        let is_long = |side: usize| {
            let store = &self.state.sides[side].store;
            store.is_longer(self.state.keys.slot(slot).heads[side], FEW_OF_JOINT_KEY)
        };
        self.has_index(0) && self.has_index(1) && (is_long(0) || is_long(1))
    }
}
