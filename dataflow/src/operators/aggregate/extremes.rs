//! Least and greatest values per group. Where rows may be retracted, all values of a group are kept in
//! order with their multiplicities; where they are only inserted, the record alone.

use std::collections::BTreeMap;

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;

use super::cells::{Rows, Tracked, each};
use super::ordered::{Form, Ordered, form_of};
use crate::keys::MISSING;

/// True if min and max of the type are kept.
pub fn ordered(t: &DataType) -> bool {
    form_of(t).is_some()
}

/// Changes of the values of groups: slot, value, change of its multiplicity.
pub struct ValueChanges {
    /// Whose.
    pub slots: Vec<u32>,
    /// The values.
    pub values: Option<ArrayRef>,
    /// Their changes.
    pub diffs: Vec<i64>,
}

/// One column of least and greatest values. `Tracked` positions and slots as in [`Tracked`].
pub trait Extremes {
    /// Makes room for `len` groups.
    fn resize(&mut self, len: usize);
    /// Puts aside what `slots` have now.
    fn remember(&mut self, slots: &[u32]);
    /// Takes in values of `column` for the groups `slots` of each row.
    fn update(&mut self, slots: &[u32], column: &ArrayRef, rows: &Rows);
    /// Takes in the stored record of `slots` (which were remembered at `positions`).
    fn load_records(&mut self, slots: &[u32], positions: &[u32], values: &ArrayRef);
    /// Takes in stored values of `slots` with their multiplicities.
    fn load_values(&mut self, slots: &[u32], values: &ArrayRef, counts: &[i64]);
    /// Ends the epoch for `touched`; `loaded`: groups whose previous extremes weren't known when they were remembered.
    fn settle(&mut self, touched: &[u32], loaded: &dyn Fn(u32) -> bool) -> ValueChanges;
    /// Sets `changed[i]` if the i-th remembered group (now `touched[i]`) has other extremes.
    fn mark_changed(&self, touched: &[u32], changed: &mut [bool]);
    /// The least (or greatest) values of `slots`.
    fn now(&self, slots: &[u32], max: bool) -> ArrayRef;
    /// Those that were remembered at `positions`.
    fn before(&self, positions: &[u32], max: bool) -> ArrayRef;
    /// Forgets what was remembered.
    fn forget(&mut self);
    /// Renumbers the groups; see `KeyIndex::retain`.
    fn retain(&mut self, renumbered: &[u32]);
    /// Approximate bytes of memory.
    fn memory_bytes(&self) -> usize;
}

/// A column for values of type `t`; `all`: of input with retractions; else `max` says which record.
pub fn extremes(t: &DataType, all: bool, max: bool) -> Box<dyn Extremes> {
    match form_of(t).unwrap_or_else(|| panic!("no order of {t}: the planner must not ask for it")) {
        Form::Short => build::<u64>(t, all, max),
        Form::Long => build::<u128>(t, all, max),
        Form::Bytes => build::<Vec<u8>>(t, all, max),
    }
}

fn build<K: Ordered>(t: &DataType, all: bool, max: bool) -> Box<dyn Extremes> {
    match all {
        true => Box::new(Values::<K> {
            data_type: t.clone(),
            values: BTreeMap::new(),
            pending: Vec::new(),
            compact_at: PENDING_MIN,
            ends: Tracked::default(),
        }),
        false => Box::new(Records::<K> {
            data_type: t.clone(),
            max,
            best: Tracked::default(),
        }),
    }
}

/// The best value so far of each group.
struct Records<K> {
    data_type: DataType,
    max: bool,
    best: Tracked<Option<K>>,
}

impl<K: Ordered> Records<K> {
    fn better(&self, new: &K, old: &Option<K>) -> bool {
        match old {
            None => true,
            Some(old) => match self.max {
                true => new > old,
                false => new < old,
            },
        }
    }
}

impl<K: Ordered> Extremes for Records<K> {
    fn resize(&mut self, len: usize) {
        self.best.now.resize(len, None);
    }

    fn remember(&mut self, slots: &[u32]) {
        self.best.remember(slots);
    }

    fn update(&mut self, slots: &[u32], column: &ArrayRef, rows: &Rows) {
        let values = K::encode(column);
        each(rows, |row, diff| {
            assert!(diff >= 0, "a retraction in append-only input");
            let slot = slots[row] as usize;
            if diff > 0 && self.better(&values[row], &self.best.now[slot]) {
                self.best.now[slot] = Some(values[row].clone());
            }
        });
    }

    fn load_records(&mut self, slots: &[u32], positions: &[u32], values: &ArrayRef) {
        let keys = K::encode(values);
        for (i, key) in keys.into_iter().enumerate() {
            if values.is_valid(i) {
                let slot = slots[i] as usize;
                if self.better(&key, &self.best.now[slot]) {
                    self.best.now[slot] = Some(key.clone());
                }
                self.best.before[positions[i] as usize] = Some(key);
            }
        }
    }

    fn load_values(&mut self, _: &[u32], _: &ArrayRef, _: &[i64]) {
        unreachable!("records are stored with the groups")
    }

    fn settle(&mut self, _: &[u32], _: &dyn Fn(u32) -> bool) -> ValueChanges {
        ValueChanges {
            slots: Vec::new(),
            values: None,
            diffs: Vec::new(),
        }
    }

    fn mark_changed(&self, touched: &[u32], changed: &mut [bool]) {
        self.best.mark_changed(touched, changed);
    }

    fn now(&self, slots: &[u32], _: bool) -> ArrayRef {
        K::decode(&self.data_type, &self.best.gather_now(slots))
    }

    fn before(&self, positions: &[u32], _: bool) -> ArrayRef {
        K::decode(&self.data_type, &self.best.gather_before(positions))
    }

    fn forget(&mut self) {
        self.best.before.clear();
    }

    fn retain(&mut self, renumbered: &[u32]) {
        self.best.retain(renumbered);
    }

    fn memory_bytes(&self) -> usize {
        // Of values on the heap one is looked at in place of all.
        let first = self.best.now.iter().flatten().next();
        let heap = first.map_or(0, K::heap_bytes);
        self.best.memory_bytes() + self.best.now.len() * heap
    }
}

/// Changes are held unsorted until there are so many that adding them up is worth a look.
const PENDING_MIN: usize = 1 << 16;

/// Bytes that an entry of a B-tree takes beside its content, roughly.
const ENTRY_OVERHEAD_BYTES: usize = 8;

/// All values of each group.
struct Values<K> {
    data_type: DataType,
    values: BTreeMap<(u32, K), i64>,
    /// Changes of this epoch.
    pending: Vec<(u32, K, i64)>,
    compact_at: usize,
    /// Least and greatest.
    ends: Tracked<Option<(K, K)>>,
}

impl<K: Ordered> Values<K> {
    /// Adds up the pending changes of equal values.
    fn compact(&mut self) {
        let pending = &mut self.pending;
        pending.sort_unstable_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        pending.dedup_by(|next, kept| {
            let same = next.0 == kept.0 && next.1 == kept.1;
            if same {
                kept.2 += next.2;
            }
            same
        });
        pending.retain(|p| p.2 != 0);
        self.compact_at = PENDING_MIN.max(pending.len() * 2);
    }

    fn ends_of(&self, slot: u32) -> Option<(K, K)> {
        let from = (slot, K::LEAST);
        let group = self.values.range(from..(slot + 1, K::LEAST));
        let mut keys = group.map(|((_, k), _)| k);
        let least = keys.next()?.clone();
        let greatest = keys.next_back().cloned().unwrap_or_else(|| least.clone());
        Some((least, greatest))
    }

    fn decode<'a>(&self, ends: impl Iterator<Item = &'a Option<(K, K)>>, max: bool) -> ArrayRef {
        let pick = |e: &Option<(K, K)>| {
            let (least, greatest) = e.as_ref()?;
            Some(if max { greatest } else { least }.clone())
        };
        K::decode(&self.data_type, &ends.map(pick).collect::<Vec<_>>())
    }
}

impl<K: Ordered> Extremes for Values<K> {
    fn resize(&mut self, len: usize) {
        self.ends.now.resize(len, None);
    }

    fn remember(&mut self, slots: &[u32]) {
        self.ends.remember(slots);
    }

    fn update(&mut self, slots: &[u32], column: &ArrayRef, rows: &Rows) {
        let values = K::encode(column);
        let pending = &mut self.pending;
        each(rows, |row, diff| {
            pending.push((slots[row], values[row].clone(), diff))
        });
        if self.pending.len() > self.compact_at {
            self.compact();
        }
    }

    fn load_records(&mut self, _: &[u32], _: &[u32], _: &ArrayRef) {
        // The values say it.
    }

    fn load_values(&mut self, slots: &[u32], values: &ArrayRef, counts: &[i64]) {
        for (i, key) in K::encode(values).into_iter().enumerate() {
            *self.values.entry((slots[i], key)).or_insert(0) += counts[i];
        }
    }

    fn settle(&mut self, touched: &[u32], loaded: &dyn Fn(u32) -> bool) -> ValueChanges {
        for (position, slot) in touched.iter().enumerate() {
            if loaded(*slot) {
                self.ends.before[position] = self.ends_of(*slot);
            }
        }
        self.compact();
        let mut changes = ValueChanges {
            slots: Vec::with_capacity(self.pending.len()),
            values: None,
            diffs: Vec::with_capacity(self.pending.len()),
        };
        let mut values = Vec::with_capacity(self.pending.len());
        for (slot, key, diff) in std::mem::take(&mut self.pending) {
            changes.slots.push(slot);
            changes.diffs.push(diff);
            values.push(Some(key.clone()));
            let entry = self.values.entry((slot, key)).or_insert(0);
            *entry += diff;
            assert!(
                *entry >= 0,
                "a value was retracted more often than inserted"
            );
            if *entry == 0 {
                let key = values.last().cloned().flatten().expect("pushed above");
                self.values.remove(&(slot, key));
            }
        }
        for slot in touched {
            self.ends.now[*slot as usize] = self.ends_of(*slot);
        }
        if !values.is_empty() {
            changes.values = Some(K::decode(&self.data_type, &values));
        }
        changes
    }

    fn mark_changed(&self, touched: &[u32], changed: &mut [bool]) {
        self.ends.mark_changed(touched, changed);
    }

    fn now(&self, slots: &[u32], max: bool) -> ArrayRef {
        self.decode(slots.iter().map(|s| &self.ends.now[*s as usize]), max)
    }

    fn before(&self, positions: &[u32], max: bool) -> ArrayRef {
        let before = positions.iter().map(|p| &self.ends.before[*p as usize]);
        self.decode(before, max)
    }

    fn forget(&mut self) {
        self.ends.before.clear();
    }

    fn retain(&mut self, renumbered: &[u32]) {
        self.ends.retain(renumbered);
        let values = std::mem::take(&mut self.values).into_iter();
        self.values = values
            .filter_map(|((slot, key), count)| {
                let slot = renumbered[slot as usize];
                (slot != MISSING).then_some(((slot, key), count))
            })
            .collect();
    }

    fn memory_bytes(&self) -> usize {
        let entry = std::mem::size_of::<((u32, K), i64)>() + ENTRY_OVERHEAD_BYTES;
        // Of values on the heap one is looked at in place of all.
        let heap = self.values.keys().next().map_or(0, |(_, k)| k.heap_bytes());
        self.values.len() * (entry + heap) + self.ends.memory_bytes()
    }
}
