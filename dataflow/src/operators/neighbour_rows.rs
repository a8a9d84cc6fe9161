//! The rows of one key in order, as they were before the epoch and as they are ([`super::neighbours`]).

use std::collections::BTreeMap;
use std::collections::btree_map::Range;
use std::ops::Bound;

use super::neighbour_tails::Carried;

/// What an entry takes beside its bytes.
pub const ENTRY_BYTES: usize = 80;

/// A row's place in the order and its values, comparable as bytes.
pub type Bytes = Box<[u8]>;

/// The rows of one key.
#[derive(Default)]
pub struct Key {
    /// By their bytes: those of the place in the order, then those of all columns.
    pub rows: BTreeMap<Bytes, Entry>,
    /// How many rows there are now, equal ones counted.
    pub count: i64,
    /// Entries that have changed in this epoch, some of them more than once.
    pub changed: Vec<Bytes>,
    /// Places for which it is known what is carried in, in order.
    pub carried: Vec<Carried>,
    /// Memory, approximately.
    pub bytes: usize,
    /// The step in which it was changed last.
    pub touched: u64,
}

/// Equal rows.
#[derive(Clone, Copy, Default)]
pub struct Entry {
    /// How many of the bytes are the place in the order.
    pub order: u32,
    /// How many rows there were before the epoch.
    pub old: i64,
    /// How many there are now.
    pub new: i64,
}

impl Key {
    /// Adds `diff` rows with a place in the order and all columns, as bytes.
    pub fn add(&mut self, order: &[u8], all: &[u8], diff: i64) {
        let bytes: Bytes = [order, all].concat().into();
        self.changed.push(bytes.clone());
        self.count += diff;
        let size = bytes.len() + ENTRY_BYTES;
        let entry = self.rows.entry(bytes).or_insert_with(|| {
            self.bytes += size;
            Entry {
                order: order.len() as u32,
                ..Entry::default()
            }
        });
        entry.new += diff;
    }

    /// Ends the epoch. False if there are fewer rows than none of some kind: what was retracted was given as another one.
    pub fn settle(&mut self) -> bool {
        let mut whole = true;
        for bytes in std::mem::take(&mut self.changed) {
            let Some(entry) = self.rows.get_mut(&bytes) else {
                continue;
            };
            entry.old = entry.new;
            whole &= entry.new >= 0;
            if entry.new == 0 {
                self.rows.remove(&bytes);
                self.bytes -= bytes.len() + ENTRY_BYTES;
            }
        }
        whole
    }

    /// The last place, not behind the row at `row`, for which it is known what is carried in.
    pub fn carried_before(&self, row: &Bytes) -> Option<&Carried> {
        let known = self.carried.partition_point(|c| c.at <= *row);
        self.carried[..known].last()
    }

    /// Forgets what is carried in at places behind the row at `first`, or anywhere.
    pub fn forget_carried(&mut self, first: Option<&Bytes>) {
        let kept = first.map_or(0, |row| self.carried.partition_point(|c| c.at <= *row));
        let dropped = self.carried.drain(kept..);
        self.bytes -= dropped.map(|c| c.bytes()).sum::<usize>();
    }

    /// Keeps what is carried in at a place.
    pub fn carry(&mut self, carried: Carried) {
        let at = self.carried.partition_point(|c| c.at < carried.at);
        debug_assert!(self.carried.get(at).is_none_or(|c| c.at != carried.at));
        self.bytes += carried.bytes();
        self.carried.insert(at, carried);
    }

    /// The rows that aren't before a place; `None` is before all.
    pub fn rows_from(&self, place: Option<&Bytes>) -> Range<'_, Bytes, Entry> {
        let from = place.map_or(Bound::Unbounded, Bound::Included);
        self.rows.range::<Bytes, _>((from, Bound::Unbounded))
    }

    /// The first of the rows that the order leaves equal to the one at `at`.
    pub fn first_of_equals<'k>(&'k self, at: &'k Bytes) -> &'k Bytes {
        let place = self.place(at);
        let from = (Bound::Included(place), Bound::Unbounded);
        let mut rows = self.rows.range::<[u8], _>(from);
        rows.next().map_or(at, |(bytes, _)| bytes)
    }

    /// The last of them.
    pub fn last_of_equals<'k>(&'k self, at: &'k Bytes) -> &'k Bytes {
        self.last_before(next(self.place(at))).unwrap_or(at)
    }

    /// The last row before `end`; `None` is behind all.
    pub fn last_before(&self, end: Option<Vec<u8>>) -> Option<&Bytes> {
        let end = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut rows = self.rows.range::<[u8], _>((Bound::Unbounded, end));
        rows.next_back().map(|(bytes, _)| bytes)
    }

    /// The bytes of a row's place in the order.
    pub fn place<'k>(&self, at: &'k Bytes) -> &'k [u8] {
        let entry = &self.rows[at];
        &at[..entry.order as usize]
    }
}

/// The first bytes that aren't less than all that begin with `prefix`; `None` if there are none.
pub fn next(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|b| *b != u8::MAX)?;
    let mut next = prefix[..=last].to_vec();
    next[last] += 1;
    Some(next)
}
