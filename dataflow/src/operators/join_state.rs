//! [`KeyedState`]: the in-memory index of one or several arrangements that share a key.
//!
//! It is a cache: keys that it doesn't hold are fetched from the committed version, and others along with them ([`Reload`]);
//! keys that haven't been touched for long are dropped again when memory is short.
//!
//! Invariants: a key that has a slot is *resident*: all its rows, of every side, are here; so are then all keys with the same
//! hash. A side is
//! *complete* as long as keys without a slot are known to have no rows but those in [`Unindexed`], so that nothing is fetched.
//! Rows are unindexed on one side at most, and only of hashes of which memory knows everything. A slot is
//! dropped only if all its changes are committed, or if it holds nothing and nothing is stored ever.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Schema, SchemaRef};
use tidemill_storage::{RunBatch, StoreError};
use tidemill_zset::{Delta, Diffs, Epoch};

use super::join_index::SideIndex;
use super::join_keys::{KeyTable, Slot};
use super::join_rows::{BLOCK_ROWS, Debts, Groups, NIL, RowStore};
use super::join_unindexed::{Leaving, Unindexed, UnindexedLimits};
use super::reload::Reload;
use crate::state::{StateHandle, StateReader, unreadable};

/// Rows by which a piece is judged.
const SAMPLE: usize = 64;
/// Dropped rows, or empty keys, are left in memory until there are this many and they are the larger half.
const GARBAGE_MIN: usize = 16 * 1024;

/// The first step: keys that are read along count as touched then.
const FIRST_STEP: u32 = 1;

/// One arrangement in memory.
pub struct StateSide {
    /// Which arrangement.
    pub handle: StateHandle,
    /// Its rows; for a side of which only counts are kept, always empty.
    pub store: RowStore,
    keeps_rows: bool,
    complete: bool,
    debts: Debts,
    unindexed: Unindexed,
    /// All its rows, in the order of what they are searched by, once that pays.
    pub(super) index: Option<SideIndex>,
}

impl StateSide {
    /// A side without rows in memory. `with_matching`: see [`RowStore::matching`]. `keeps_rows`: false if only
    /// [`KeyedState::counts`] are wanted.
    pub fn new(handle: StateHandle, with_matching: bool, keeps_rows: bool) -> Self {
        let complete = handle.reader.as_ref().is_none_or(|r| r.is_empty());
        let (schema, key_columns) = (handle.desc.schema.clone(), handle.desc.key_columns);
        StateSide {
            unindexed: Unindexed::new(schema.clone(), key_columns, UnindexedLimits::default()),
            store: RowStore::new(schema, with_matching),
            handle,
            keeps_rows,
            complete,
            debts: Debts::default(),
            index: None,
        }
    }

    /// The same side, with other limits for rows that nobody has asked for.
    pub fn with_limits(mut self, limits: UnindexedLimits) -> Self {
        let desc = &self.handle.desc;
        self.unindexed = Unindexed::new(desc.schema.clone(), desc.key_columns, limits);
        self
    }
}

/// See the module.
pub struct KeyedState<const N: usize> {
    /// Slots of the resident keys.
    pub keys: KeyTable<N>,
    /// The arrangements.
    pub sides: [StateSide; N],
    /// Sum of diffs per slot and side, if wanted.
    pub counts: Option<Vec<[i64; N]>>,
    key_schema: SchemaRef,
    nulls: bool,
    /// The number of the epoch that is being computed, counted from 1.
    step: u32,
    /// Steps whose changes may not be committed yet, with their epochs.
    finished: VecDeque<(u32, Epoch)>,
    committed: u32,
    bytes_max: usize,
    /// Bytes from which on dropping is tried (again).
    bytes_try: usize,
    /// The step whose commit is waited for, so that keys can be dropped after all.
    blocked: Option<u32>,
    /// Slots that became empty and are still there (an upper bound).
    emptied: usize,
    /// While sides aren't complete: which hashes are, and which ones come next.
    reload: Option<Reload>,
    /// The side whose rows stay unindexed when they are read back.
    reloads_unindexed: Option<usize>,
    /// Rows that have been read along and aren't accounted for.
    rows_read: usize,
    /// The step after which tables were rebuilt last.
    rebuilt: u32,
}

impl<const N: usize> KeyedState<N> {
    /// State of arrangements whose keys have equal types. `nulls`: NULL is a key value like any other;
    /// otherwise no row with NULL in its key may be given. `bytes_max`: memory from which on keys are dropped.
    pub fn new(sides: [StateSide; N], with_counts: bool, nulls: bool, bytes_max: usize) -> Self {
        let desc = &sides[0].handle.desc;
        let key_fields = desc.schema.fields()[..desc.key_columns].to_vec();
        let key_schema = super::join_rows::nullable(&Arc::new(Schema::new(key_fields)));
        KeyedState {
            keys: KeyTable::new(key_schema.clone(), nulls),
            sides,
            counts: with_counts.then(Vec::new),
            key_schema,
            nulls,
            step: FIRST_STEP,
            finished: VecDeque::new(),
            committed: 0,
            bytes_max,
            bytes_try: bytes_max,
            blocked: None,
            emptied: 0,
            reload: None,
            reloads_unindexed: None,
            rows_read: 0,
            rebuilt: 0,
        }
    }

    /// The same state, which is to be read back; the larger one of the `unindexed` sides without an index.
    pub fn with_reload(mut self, reload: Option<Reload>, unindexed: [bool; N]) -> Self {
        self.reload = reload;
        let rows = |side: &usize| {
            let reader = &self.sides[*side].handle.reader;
            reader.as_ref().map_or(0, |r| r.rows_estimate())
        };
        self.reloads_unindexed = (0..N).filter(|side| unindexed[*side]).max_by_key(rows);
        self
    }

    /// Approximate bytes of memory.
    pub fn bytes(&self) -> usize {
        let counts = self.counts.as_ref().map_or(0, |c| c.len() * 8 * N);
        let index = |s: &StateSide| s.index.as_ref().map_or(0, |i| i.index.bytes());
        let side = |s: &StateSide| s.store.bytes() + s.unindexed.bytes() + index(s);
        self.keys.bytes() + counts + self.sides.iter().map(side).sum::<usize>()
    }

    /// Whether so many more bytes fit.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.bytes().saturating_add(bytes) <= self.bytes_max
    }

    /// The slot of each row, all of them resident afterwards. Returns a range with all slots that were read from the store; others in
    /// it are new too.
    pub fn resolve(
        &mut self,
        keys: &[ArrayRef],
        hashes: &[u64],
        slots: &mut Vec<u32>,
    ) -> std::ops::Range<u32> {
        let known = self.keys.len() as u32;
        let mut fresh = Vec::new();
        self.keys
            .resolve(keys, hashes, self.step, slots, &mut fresh);
        self.grow_counts();
        if fresh.is_empty() {
            return known..known;
        }
        self.index_found(&fresh);
        if self.is_complete() {
            return known..known;
        }
        self.fetch(&fresh);
        known..self.keys.len() as u32
    }

    fn is_complete(&self) -> bool {
        self.sides.iter().all(|s| s.complete)
    }

    /// True if no row of the side with another index may stay without one.
    fn must_index(&self, side: usize) -> bool {
        let others = |other: usize| other != side && !self.sides[other].unindexed.is_empty();
        self.sides[side].unindexed.is_closed() || (0..N).any(others)
    }

    /// Leaves those rows of a piece without an index for whose keys nobody has asked, if so many of them are worth it.
    /// Gives back the numbers of the others, or `None` if all are to be indexed. [`KeyedState::counts`] doesn't count such rows.
    pub fn leave_unindexed(
        &mut self,
        side: usize,
        piece: &Delta,
        hashes: &[u64],
    ) -> Option<Vec<u32>> {
        if self.must_index(side) || !self.is_complete() && self.reload.is_none() {
            return None;
        }
        let is_here = |hash| self.reload.as_ref().is_none_or(|reload| reload.has(hash));
        let asked_for = |hash| !is_here(hash) || self.keys.find_hash(hash).is_some();
        let unindexed = &self.sides[side].unindexed;
        let to_index = |hashes: &[u64]| unindexed.to_index(hashes, asked_for);
        // Where most keys are known, looking all of them up twice would cost more than is won. While rows are read back, few
        // can stay at first; those that don't would be looked for, which has rows of their parts indexed.
        let most = |rows: usize| match self.reload {
            Some(_) => rows.saturating_sub(1),
            None => rows / 2,
        };
        let sample = to_index(&hashes[..SAMPLE.min(hashes.len())]);
        if sample.iter().filter(|i| **i).count() > most(sample.len()) {
            return None;
        }
        let index = to_index(hashes);
        let rest: Vec<u32> = (0..index.len() as u32)
            .filter(|row| index[*row as usize])
            .collect();
        if rest.len() > most(index.len()) {
            return None;
        }
        self.push_unindexed(side, piece.clone(), hashes.to_vec(), &index, self.step);
        Some(rest)
    }

    fn push_unindexed(
        &mut self,
        side: usize,
        piece: Delta,
        hashes: Vec<u64>,
        to_index: &[bool],
        step: u32,
    ) {
        let unindexed = &mut self.sides[side].unindexed;
        unindexed.push(piece, hashes, to_index, step);
        let leaving = match unindexed.is_full() {
            true => unindexed.close(),
            false => unindexed.settle(),
        };
        self.index(side, leaving);
    }

    /// Indexes the rows that share a hash with new slots.
    fn index_found(&mut self, fresh: &[u32]) {
        for side in 0..N {
            let hashes = fresh.iter().map(|slot| self.keys.slot(*slot).hash);
            let reload = self.reload.as_ref();
            // Rows of the others can't be here.
            let hashes = hashes.filter(|hash| reload.is_none_or(|r| r.has(*hash)));
            let found = self.sides[side].unindexed.search(hashes);
            self.index(side, found);
        }
    }

    /// Indexes rows that were unindexed so far. What retractions among them have made superfluous goes at once: nobody
    /// has seen it.
    fn index(&mut self, side: usize, leaving: Vec<Leaving>) {
        let key_columns = self.sides[side].handle.desc.key_columns;
        let (mut slots, mut fresh) = (Vec::new(), Vec::new());
        let mut retracted = Vec::new();
        for Leaving {
            delta,
            hashes,
            step,
        } in leaving
        {
            let keys = &delta.rows.columns()[..key_columns];
            self.keys
                .resolve(keys, &hashes, step, &mut slots, &mut fresh);
            self.grow_counts();
            self.add(side, &delta.rows, &delta.diffs, &slots);
            let negative = |row: &usize| delta.diffs.get(*row) < 0;
            if let Diffs::Each(_) = delta.diffs {
                retracted.extend((0..slots.len()).filter(negative).map(|row| slots[row]));
            }
        }
        retracted.sort_unstable();
        retracted.dedup();
        for slots in retracted.chunks(BLOCK_ROWS) {
            self.consolidate(side, slots);
        }
    }

    fn grow_counts(&mut self) {
        if let Some(c) = &mut self.counts {
            c.resize(self.keys.len(), [0; N]);
        }
    }

    /// Reads the committed rows of new slots. Keys that share their hash come along, and others in the order of [`Reload`].
    fn fetch(&mut self, fresh: &[u32]) {
        let known = |hash: &u64| self.reload.as_ref().is_some_and(|r| r.has(*hash));
        let hashes = fresh.iter().map(|s| self.keys.slot(*s).hash);
        let mut hashes: Vec<u64> = hashes.filter(|hash| !known(hash)).collect();
        if hashes.is_empty() {
            return;
        }
        hashes.sort_unstable();
        for side in 0..N {
            let Some(reader) = self.incomplete(side) else {
                continue;
            };
            let batches = reader.get_many(&hashes);
            let batches = batches.unwrap_or_else(|e| self.unreadable(side, &e));
            for batch in batches {
                let unasked = self.take_in(side, &batch, self.step);
                assert_eq!(unasked, 0, "hashes that weren't asked for");
            }
        }
        self.read_along(hashes.len());
    }

    fn incomplete(&self, side: usize) -> Option<Arc<dyn StateReader>> {
        let side = &self.sides[side];
        match side.complete {
            true => None,
            false => side.handle.reader.clone(),
        }
    }

    fn unreadable(&self, side: usize, e: &StoreError) -> ! {
        unreadable(self.sides[side].handle.desc.id, e)
    }

    /// Reads what may be read now that `keys` had to be fetched.
    fn read_along(&mut self, keys: usize) {
        let Some(mut reload) = self.reload.take() else {
            return;
        };
        reload.earn(keys);
        // Half of the memory is for what comes: the rows may be larger than they were taken for.
        while self.bytes() < self.bytes_max / 2
            && let Some(hashes) = reload.next()
        {
            let rows = self.load(hashes);
            reload.read(rows);
            self.rows_read += rows;
        }
        match reload.is_done() {
            true => self.sides.iter_mut().for_each(|s| s.complete = true),
            false => self.reload = Some(reload),
        }
    }

    /// How many rows have been read along since this was asked last.
    pub fn take_rows_read(&mut self) -> usize {
        std::mem::take(&mut self.rows_read)
    }

    /// Reads all keys with a hash in a range, and gives their number of rows. Those that have a slot are resident already.
    fn load(&mut self, hashes: (u64, u64)) -> usize {
        let mut rows = 0;
        let known = self.keys.len() as u32;
        let last = self.reloads_unindexed.unwrap_or(N - 1);
        for side in (0..N).filter(|side| *side != last).chain([last]) {
            let Some(reader) = self.incomplete(side) else {
                continue;
            };
            let batches = reader.range(hashes);
            for batch in batches.unwrap_or_else(|e| self.unreadable(side, &e)) {
                let mut batch = batch.unwrap_or_else(|e| self.unreadable(side, &e));
                rows += batch.hashes.len();
                let resident = |hash: &u64| self.keys.find_hash(*hash).is_some_and(|s| s < known);
                let wanted: Vec<bool> = batch.hashes.iter().map(|hash| !resident(hash)).collect();
                if wanted.contains(&false) {
                    batch = filtered(&batch, &wanted);
                }
                if self.reloads_unindexed == Some(side) {
                    batch = self.leave_read(side, batch);
                }
                self.take_in(side, &batch, FIRST_STEP);
            }
        }
        rows
    }

    /// Leaves those rows of a batch that was read without an index for whose keys nobody has asked, and gives back the others.
    fn leave_read(&mut self, side: usize, batch: RunBatch) -> RunBatch {
        let mut to_index = Vec::with_capacity(batch.hashes.len());
        for start in (0..batch.hashes.len()).step_by(BLOCK_ROWS) {
            let end = batch.hashes.len().min(start + BLOCK_ROWS);
            let hashes = &batch.hashes[start..end];
            // The piece before may have moved rows to the index.
            if self.must_index(side) {
                to_index.resize(end, true);
                continue;
            }
            let asked_for = |hash| self.keys.find_hash(hash).is_some();
            let index = self.sides[side].unindexed.to_index(hashes, asked_for);
            let diffs = Diffs::from(batch.diffs[start..end].to_vec());
            let piece = Delta::new(batch.rows.slice(start, end - start), diffs);
            self.push_unindexed(side, piece, hashes.to_vec(), &index, FIRST_STEP);
            to_index.extend(index);
        }
        filtered(&batch, &to_index)
    }

    /// Adds committed rows of keys that aren't resident yet, or have been made so by the same reading. Gives the number of
    /// hashes that had no slot.
    fn take_in(&mut self, side: usize, batch: &RunBatch, step: u32) -> usize {
        let key_columns = self.sides[side].handle.desc.key_columns;
        let (mut slots, mut fresh) = (Vec::new(), Vec::new());
        for start in (0..batch.rows.num_rows()).step_by(BLOCK_ROWS) {
            let n = BLOCK_ROWS.min(batch.rows.num_rows() - start);
            let rows = batch.rows.slice(start, n);
            let diffs = Diffs::from(batch.diffs[start..start + n].to_vec());
            let keys = &rows.columns()[..key_columns];
            let hashes = &batch.hashes[start..start + n];
            self.keys
                .resolve(keys, hashes, step, &mut slots, &mut fresh);
            self.grow_counts();
            self.add(side, &rows, &diffs, &slots);
        }
        fresh.len()
    }

    /// Notes the retractions among rows that have been added, so that their lists are consolidated when it pays.
    pub fn note_retractions(&mut self, side: usize, diffs: &Diffs, slots: &[u32]) {
        let Diffs::Each(each) = diffs else {
            return;
        };
        if self.sides[side].keeps_rows {
            for (diff, slot) in each.iter().zip(slots) {
                if *diff < 0 {
                    self.sides[side].debts.note(*slot);
                }
            }
        } else if let Some(counts) = &self.counts {
            let gone =
                |s: &&u32| counts[**s as usize] == [0; N] && self.keys.slot(**s).heads == [NIL; N];
            self.emptied += slots.iter().filter(gone).count();
        }
    }

    /// Adds rows to a side; `slots` are those of [`KeyedState::resolve`]. Returns the number of the first row.
    pub fn add(&mut self, side: usize, rows: &RecordBatch, diffs: &Diffs, slots: &[u32]) -> u32 {
        if let Some(counts) = &mut self.counts {
            for (row, slot) in slots.iter().enumerate() {
                counts[*slot as usize][side] += diffs.get(row);
            }
        }
        if !self.sides[side].keeps_rows || slots.is_empty() {
            return NIL;
        }
        let StateSide { store, index, .. } = &mut self.sides[side];
        let first = store.append(rows, diffs);
        if let Some(index) = index {
            index.push(rows, slots, first, store);
        }
        for (row, slot) in slots.iter().enumerate() {
            let head = &mut self.keys.slot_mut(*slot).heads[side];
            store.link(first + row as u32, head);
        }
        first
    }

    /// Ends the step: adds up rows that retractions have made superfluous, and drops what isn't needed in memory.
    pub fn finish(&mut self, epoch: Epoch) {
        self.settle();
        self.finished.push_back((self.step, epoch));
        self.step += 1;
        let dead: usize = self.sides.iter().map(|s| s.store.dead()).sum();
        let live: usize = self.sides.iter().map(|s| s.store.live()).sum();
        let garbage_rows = dead > GARBAGE_MIN.max(live);
        let garbage_keys = self.emptied > GARBAGE_MIN.max(self.keys.len() / 2);
        if garbage_rows || garbage_keys {
            self.note_committed();
            // Keys that couldn't be dropped the last time can be now.
            let committed = self.committed >= self.rebuilt || !self.is_durable();
            if garbage_rows || committed {
                self.rebuild(0);
            }
        }
        let bytes = self.bytes();
        if bytes > self.bytes_try || bytes > self.bytes_max && self.is_unblocked() {
            self.evict();
        }
    }

    /// Consolidates the lists for which it is due.
    fn settle(&mut self) {
        for side in 0..N {
            let keys = &self.keys;
            let StateSide { debts, store, .. } = &mut self.sides[side];
            let due = debts.due(store, |slot| keys.slot(slot).heads[side]);
            // In pieces of a bounded number of lists; due lists are short or mostly garbage.
            for slots in due.chunks(BLOCK_ROWS) {
                self.consolidate(side, slots);
            }
        }
    }

    /// Adds up the equal rows of each of `slots`, which are all different.
    pub fn consolidate(&mut self, side: usize, slots: &[u32]) {
        let heads: Vec<u32> = slots
            .iter()
            .map(|s| self.keys.slot(*s).heads[side])
            .collect();
        let groups = self.sides[side].store.group(&heads);
        self.merge(side, slots, &groups);
    }

    /// Makes each group of rows of the lists of `slots` one row.
    pub fn merge(&mut self, side: usize, slots: &[u32], groups: &Groups) {
        let heads = self.sides[side].store.merge(groups, slots.len());
        for (slot, head) in slots.iter().zip(heads) {
            let slot = self.keys.slot_mut(*slot);
            slot.heads[side] = head;
            if slot.heads == [NIL; N] {
                self.emptied += 1;
            }
        }
    }

    /// Finds out which steps have been committed meanwhile.
    fn note_committed(&mut self) {
        let epochs = self
            .sides
            .iter()
            .map(|s| s.handle.reader.as_ref().map(|r| r.epoch()));
        // A side without a reader is never committed.
        let Some(durable) = epochs.min().flatten() else {
            return;
        };
        while let Some((step, epoch)) = self.finished.front() {
            if *epoch > durable {
                break;
            }
            self.committed = *step;
            self.finished.pop_front();
        }
    }

    /// What kept keys from being dropped has been committed.
    fn is_unblocked(&mut self) -> bool {
        let Some(step) = self.blocked else {
            return false;
        };
        self.note_committed();
        self.committed >= step
    }

    /// Drops keys whose changes are committed, the longest untouched half, then half of the others, until there is memory enough.
    fn evict(&mut self) {
        self.note_committed();
        self.blocked = None;
        for side in &mut self.sides {
            side.index = None;
        }
        if self.committed > 0 {
            for side in 0..N {
                let unindexed = self.sides[side].unindexed.close();
                self.index(side, unindexed);
            }
            self.keys.touch_together();
        }
        while self.bytes() > self.bytes_max {
            let touched = self.keys.slots().iter().map(|s| s.touched);
            let mut steps: Vec<u32> = touched.filter(|t| *t <= self.committed).collect();
            if steps.is_empty() {
                self.blocked = self.finished.back().map(|(step, _)| *step);
                break;
            }
            let middle = steps.len() / 2;
            let (_, cutoff, _) = steps.select_nth_unstable(middle);
            let cutoff = *cutoff;
            for side in &mut self.sides {
                side.complete = false;
            }
            // What doesn't fit needn't be read again as a whole.
            self.reload = None;
            self.rebuild(cutoff);
        }
        // Without this, a state that can't shrink would be looked through in every epoch.
        self.bytes_try = self.bytes_max.max(self.bytes() + self.bytes() / 4);
    }

    /// Moves everything to new tables, except slots touched last in step `drop_until` or before, and empty ones.
    fn rebuild(&mut self, drop_until: u32) {
        let durable = self.is_durable();
        self.emptied = 0;
        let emptied = &mut self.emptied;
        let kept: Vec<u32> = (0..self.keys.len() as u32)
            .filter(|s| {
                let slot = self.keys.slot(*s);
                let empty = slot.heads == [NIL; N]
                    && self
                        .counts
                        .as_ref()
                        .is_none_or(|c| c[*s as usize] == [0; N]);
                // Even of complete sides: they may cease to be before what emptied it is committed.
                let droppable = !durable || slot.touched <= self.committed;
                let keep = slot.touched > drop_until && !(empty && droppable);
                *emptied += usize::from(keep && empty);
                keep
            })
            .collect();
        self.rebuilt = self.step - 1;
        let old_keys = std::mem::replace(
            &mut self.keys,
            KeyTable::new(self.key_schema.clone(), self.nulls),
        );
        let mut old_keys = old_keys;
        let old_counts = self.counts.take();
        let mut renumbered = Vec::with_capacity(kept.len());
        for chunk in kept.chunks(BLOCK_ROWS) {
            let keys = old_keys.key_columns(chunk);
            let hashes: Vec<u64> = chunk.iter().map(|s| old_keys.slot(*s).hash).collect();
            let (mut slots, mut fresh) = (Vec::new(), Vec::new());
            self.keys
                .resolve(&keys, &hashes, self.step, &mut slots, &mut fresh);
            for (old, new) in chunk.iter().zip(&slots) {
                let Slot { touched, flags, .. } = old_keys.slot(*old).clone();
                let slot = self.keys.slot_mut(*new);
                slot.touched = touched;
                slot.flags = flags;
            }
            renumbered.extend(slots);
        }
        self.counts = old_counts.map(|old| {
            let mut counts = vec![[0; N]; self.keys.len()];
            for (from, to) in kept.iter().zip(&renumbered) {
                counts[*to as usize] = old[*from as usize];
            }
            counts
        });
        for side in 0..N {
            self.move_rows(side, &old_keys, &kept, &renumbered);
        }
    }

    /// True if what is changed here gets committed.
    fn is_durable(&self) -> bool {
        self.sides.iter().any(|s| s.handle.reader.is_some())
    }

    fn move_rows(&mut self, side: usize, old_keys: &KeyTable<N>, from: &[u32], to: &[u32]) {
        let StateSide {
            store,
            debts,
            index,
            ..
        } = &mut self.sides[side];
        debts.clear();
        *index = index.as_ref().map(SideIndex::emptied);
        let empty = RowStore::new(store.schema().clone(), store.matching.is_some());
        let mut old = std::mem::replace(store, empty);
        let (mut rows, mut slots) = (Vec::new(), Vec::new());
        let last = from.len().saturating_sub(1);
        for (at, (from, to)) in from.iter().zip(to).enumerate() {
            old.collect(old_keys.slot(*from).heads[side], &mut rows);
            slots.resize(rows.len(), *to);
            if rows.len() >= BLOCK_ROWS || at == last {
                let to = (&mut *store, &mut *index);
                move_chunks(&mut old, to, &rows, &slots, side, &mut self.keys);
                rows.clear();
                slots.clear();
            }
        }
    }
}

/// The rows of `batch` that are `wanted`.
fn filtered(batch: &RunBatch, wanted: &[bool]) -> RunBatch {
    fn of<T: Copy>(values: &[T], wanted: &[bool]) -> Vec<T> {
        let both = values.iter().zip(wanted);
        both.filter(|(_, w)| **w).map(|(v, _)| *v).collect()
    }
    let mask = BooleanArray::from(wanted.to_vec());
    RunBatch {
        hashes: of(&batch.hashes, wanted).into(),
        rows: filter_record_batch(&batch.rows, &mask).expect("one flag per row"),
        diffs: of(&batch.diffs, wanted).into(),
        epochs: of(&batch.epochs, wanted).into(),
    }
}

fn move_chunks<const N: usize>(
    from: &mut RowStore,
    (to, index): (&mut RowStore, &mut Option<SideIndex>),
    rows: &[u32],
    slots: &[u32],
    side: usize,
    keys: &mut KeyTable<N>,
) {
    for (rows, slots) in rows.chunks(BLOCK_ROWS).zip(slots.chunks(BLOCK_ROWS)) {
        let batch = from.gather_rows(rows);
        let diffs: Vec<i64> = rows.iter().map(|r| from.diff(*r)).collect();
        let first = to.append(&batch, &Diffs::from(diffs));
        if let Some(index) = index {
            index.push(&batch, slots, first, to);
        }
        for (i, slot) in slots.iter().enumerate() {
            to.link(first + i as u32, &mut keys.slot_mut(*slot).heads[side]);
        }
        if let (Some(old), Some(new)) = (&from.matching, &mut to.matching) {
            for (i, row) in rows.iter().enumerate() {
                new.matches[first as usize + i] = old.matches[*row as usize];
                new.shown[first as usize + i] = old.shown[*row as usize];
            }
        }
    }
}
