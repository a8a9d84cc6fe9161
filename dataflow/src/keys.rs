//! [`KeyIndex`]: the in-memory index from keys to dense numbers ("slots") that operators hang their state on.
//!
//! Keys are equal as SQL groups them: NULL equals NULL, every NaN is one value, -0.0 is 0.0. A
//! slot's number never changes until [`KeyIndex::retain`] or [`KeyIndex::clear`]. A single key column of at
//! most eight bytes, or of text or bytes, has a layout of its own, and so have few columns of fixed width; everything else
//! is kept in Arrow's row format.

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::DataType;
use hashbrown::HashTable;
use tidemill_zset::hash::hash_columns;

mod bytes;
mod fixed;
mod packed;
mod rows;

use bytes::BytesKeys;
use fixed::FixedKeys;
use packed::{Layout, PackedKeys};
use rows::RowKeys;

/// What [`KeyIndex::find`] gives for a key that isn't there.
pub const MISSING: u32 = u32::MAX;

/// See the module.
pub struct KeyIndex {
    types: Vec<DataType>,
    hashes: Vec<u64>,
    keys: Keys,
}

enum Keys {
    /// No key columns: there is one key.
    Empty,
    Fixed(FixedKeys),
    Bytes(BytesKeys),
    OneWord(PackedKeys<1>),
    TwoWords(PackedKeys<2>),
    ThreeWords(PackedKeys<3>),
    Rows(RowKeys),
}

impl KeyIndex {
    /// An empty index of keys with columns of `types`.
    pub fn new(types: Vec<DataType>) -> Self {
        let keys = match types.as_slice() {
            [] => Keys::Empty,
            [t] if FixedKeys::holds(t) => Keys::Fixed(FixedKeys::new(t.clone())),
            [t] if BytesKeys::holds(t) => Keys::Bytes(BytesKeys::new(t.clone())),
            types => match Layout::of(types) {
                Some(layout) if layout.words == 1 => Keys::OneWord(PackedKeys::new(layout)),
                Some(layout) if layout.words == 2 => Keys::TwoWords(PackedKeys::new(layout)),
                Some(layout) => Keys::ThreeWords(PackedKeys::new(layout)),
                None => Keys::Rows(RowKeys::new(types)),
            },
        };
        KeyIndex {
            types,
            hashes: Vec::new(),
            keys,
        }
    }

    /// Number of keys; slots are `0..len`.
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// The slots of the keys in `columns` (of `rows` rows), in `slots` (which is overwritten).
    /// Keys not seen before get the next numbers, in order.
    pub fn insert(&mut self, columns: &[ArrayRef], rows: usize, slots: &mut Vec<u32>) {
        let hashes = hash_columns(columns, rows);
        self.insert_hashed(columns, &hashes, slots);
    }

    /// [`KeyIndex::insert`] for a caller that knows the key hashes (`zset::hash::hash_columns` of `columns`).
    pub fn insert_hashed(&mut self, columns: &[ArrayRef], hashes: &[u64], slots: &mut Vec<u32>) {
        slots.clear();
        slots.reserve(hashes.len());
        match &mut self.keys {
            Keys::Empty => {
                if self.hashes.is_empty() && !hashes.is_empty() {
                    self.hashes.push(0);
                }
                slots.resize(hashes.len(), 0);
            }
            Keys::Fixed(k) => k.insert(columns[0].as_ref(), hashes, &mut self.hashes, slots),
            Keys::Bytes(k) => k.insert(columns[0].as_ref(), hashes, &mut self.hashes, slots),
            Keys::OneWord(k) => k.insert(columns, hashes, &mut self.hashes, slots),
            Keys::TwoWords(k) => k.insert(columns, hashes, &mut self.hashes, slots),
            Keys::ThreeWords(k) => k.insert(columns, hashes, &mut self.hashes, slots),
            Keys::Rows(k) => k.insert(columns, hashes, &mut self.hashes, slots),
        }
        assert!(self.hashes.len() < MISSING as usize, "too many keys");
    }

    /// The slots of the keys in `columns`; [`MISSING`] where a key isn't there.
    pub fn find(&self, columns: &[ArrayRef], rows: usize, slots: &mut Vec<u32>) {
        let hashes = hash_columns(columns, rows);
        slots.clear();
        slots.reserve(rows);
        match &self.keys {
            Keys::Empty => {
                let slot = if self.hashes.is_empty() { MISSING } else { 0 };
                slots.resize(rows, slot);
            }
            Keys::Fixed(k) => k.find(columns[0].as_ref(), &hashes, slots),
            Keys::Bytes(k) => k.find(columns[0].as_ref(), &hashes, slots),
            Keys::OneWord(k) => k.find(columns, &hashes, slots),
            Keys::TwoWords(k) => k.find(columns, &hashes, slots),
            Keys::ThreeWords(k) => k.find(columns, &hashes, slots),
            Keys::Rows(k) => k.find(columns, &hashes, &self.hashes, slots),
        }
    }

    /// The key hash (`zset::hash::hash_columns`) of each slot.
    pub fn hashes(&self) -> &[u64] {
        &self.hashes
    }

    /// The keys of `slots`, as columns.
    pub fn take(&self, slots: &[u32]) -> Vec<ArrayRef> {
        match &self.keys {
            Keys::Empty => Vec::new(),
            Keys::Fixed(k) => vec![k.take(slots)],
            Keys::Bytes(k) => vec![k.take(slots)],
            Keys::OneWord(k) => k.take(slots),
            Keys::TwoWords(k) => k.take(slots),
            Keys::ThreeWords(k) => k.take(slots),
            Keys::Rows(k) => k.take(slots),
        }
    }

    /// Drops the keys for which `keep` is false and renumbers the others, keeping their order. Returns
    /// the new number of each old slot, [`MISSING`] for those dropped.
    pub fn retain(&mut self, keep: impl Fn(u32) -> bool) -> Vec<u32> {
        let mut next = 0;
        let renumbered: Vec<u32> = (0..self.hashes.len() as u32)
            .map(|slot| {
                if keep(slot) {
                    next += 1;
                    next - 1
                } else {
                    MISSING
                }
            })
            .collect();
        let mut slot = 0;
        self.hashes.retain(|_| {
            slot += 1;
            renumbered[slot - 1] != MISSING
        });
        match &mut self.keys {
            Keys::Empty => {}
            Keys::Fixed(k) => k.retain(&renumbered, &self.hashes),
            Keys::Bytes(k) => k.retain(&renumbered, &self.hashes),
            Keys::OneWord(k) => k.retain(&renumbered, &self.hashes),
            Keys::TwoWords(k) => k.retain(&renumbered, &self.hashes),
            Keys::ThreeWords(k) => k.retain(&renumbered, &self.hashes),
            Keys::Rows(k) => k.retain(&renumbered, &self.hashes),
        }
        renumbered
    }

    /// Forgets all keys.
    pub fn clear(&mut self) {
        *self = KeyIndex::new(std::mem::take(&mut self.types));
    }

    /// Approximate bytes of memory it takes.
    pub fn memory_bytes(&self) -> usize {
        let keys = match &self.keys {
            Keys::Empty => 0,
            Keys::Fixed(k) => k.memory_bytes(),
            Keys::Bytes(k) => k.memory_bytes(),
            Keys::OneWord(k) => k.memory_bytes(),
            Keys::TwoWords(k) => k.memory_bytes(),
            Keys::ThreeWords(k) => k.memory_bytes(),
            Keys::Rows(k) => k.memory_bytes(),
        };
        keys + self.hashes.capacity() * 8
    }
}

/// Rows that are looked up together, so that the processor waits for their cache lines together.
const BLOCK_ROWS: usize = 64;

/// Where each of `hashes` (at most [`BLOCK_ROWS`]) would be in `table`: the first entry whose hash looks alike. It
/// isn't read, only located; comparing it is the caller's.
#[inline]
fn locate<'t, T>(table: &'t HashTable<T>, hashes: &[u64]) -> [Option<&'t T>; BLOCK_ROWS] {
    let mut found = [None; BLOCK_ROWS];
    for (found, hash) in found.iter_mut().zip(hashes) {
        *found = table.find(*hash, |_| true);
        if let Some(entry) = *found {
            prefetch(entry);
        }
    }
    found
}

/// Asks the processor to have the cache line of `entry` ready.
#[inline]
fn prefetch<T>(entry: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch has no effect but on time, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(entry).cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = entry;
}

/// Calls `f` for each row with whether its key is NULL.
#[inline]
fn each_row(array: &dyn Array, mut f: impl FnMut(usize, bool)) {
    match array.nulls().filter(|n| n.null_count() > 0) {
        None => (0..array.len()).for_each(|i| f(i, false)),
        Some(nulls) => (0..array.len()).for_each(|i| f(i, nulls.is_null(i))),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use arrow::array::*;
    use arrow::datatypes::TimeUnit;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use tidemill_zset::consolidate::normalise_floats;

    use super::*;

    /// Keys of every layout, with NULLs, repeated, in several batches.
    fn columns(kind: usize, rng: &mut ChaCha8Rng, rows: usize) -> Vec<ArrayRef> {
        let mut pick = |n: i64| {
            (0..rows)
                .map(|_| rng.random_range(-1..n))
                .collect::<Vec<_>>()
        };
        let numbers = pick(40);
        let some = |v: i64| (v >= 0).then_some(v);
        let ints: ArrayRef = Arc::new(Int32Array::from_iter(
            numbers.iter().map(|v| some(*v).map(|v| v as i32)),
        ));
        let floats: ArrayRef = Arc::new(Float64Array::from_iter(numbers.iter().map(|v| {
            some(*v).map(|v| match v {
                0 => -0.0,
                1 => 0.0,
                2 => f64::NAN,
                3 => -f64::NAN,
                v => v as f64,
            })
        })));
        let words: Vec<Option<String>> = numbers
            .iter()
            .map(|v| some(*v).map(|v| format!("{v}").repeat(v as usize % 13)))
            .collect();
        match kind {
            0 => vec![ints],
            1 => vec![floats],
            2 => vec![Arc::new(StringViewArray::from_iter(words))],
            3 => vec![Arc::new(StringArray::from_iter(words))],
            4 => vec![Arc::new(BinaryArray::from_iter(words))],
            5 => vec![ints, Arc::new(StringViewArray::from_iter(words))],
            6 => vec![floats, ints],
            7 => vec![Arc::new(BooleanArray::from_iter(
                numbers.iter().map(|v| some(*v).map(|v| v > 20)),
            ))],
            8..=11 => {
                let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()));
                let types = [
                    DataType::Date32,
                    utc,
                    DataType::Decimal128(20, 2),
                    DataType::Int16,
                ];
                let long = arrow::compute::cast(&ints, &DataType::Int64).unwrap();
                let from = if kind == 8 { &ints } else { &long };
                vec![arrow::compute::cast(from, &types[kind - 8]).unwrap()]
            }
            13 => {
                let long = arrow::compute::cast(&ints, &DataType::Int64).unwrap();
                vec![
                    long.clone(),
                    Arc::new(Int64Array::from_iter(pick(3).into_iter().map(some))),
                ]
            }
            14 => {
                let marks = pick(2).into_iter().map(|v| some(v).map(|v| v > 0));
                let days = arrow::compute::cast(&ints, &DataType::Date32).unwrap();
                let small = arrow::compute::cast(&ints, &DataType::Int16).unwrap();
                vec![Arc::new(BooleanArray::from_iter(marks)), small, days]
            }
            15 => {
                let parts = pick(2)
                    .into_iter()
                    .map(|v| some(v).map(|v| -i128::from(v) << 70));
                vec![Arc::new(Decimal128Array::from_iter(parts)), ints]
            }
            16 => {
                let bytes = arrow::compute::cast(&ints, &DataType::Int8).unwrap();
                vec![bytes; 9]
            }
            _ => vec![],
        }
    }

    fn text(columns: &[ArrayRef], row: usize) -> String {
        let columns: Vec<ArrayRef> = columns.iter().map(normalise_floats).collect();
        let batch = RecordBatch::try_from_iter_with_nullable(
            columns
                .iter()
                .enumerate()
                .map(|(i, c)| (format!("{i}"), c.clone(), true)),
        );
        batch.map_or("()".into(), |b| {
            crate::operators::culprit::row_text(&b, row)
        })
    }

    #[test]
    fn slots_are_a_function_of_the_key() {
        for kind in 0..=16 {
            for seed in 0..4 {
                println!("kind {kind} seed {seed}");
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                let types = columns(kind, &mut rng, 1)
                    .iter()
                    .map(|c| c.data_type().clone())
                    .collect();
                let mut index = KeyIndex::new(types);
                let mut model: HashMap<String, u32> = HashMap::new();
                let mut slots = Vec::new();
                for round in 0..12 {
                    let keys = columns(kind, &mut rng, 25);
                    let hashes = hash_columns(&keys, 25);
                    index.find(&keys, 25, &mut slots);
                    for (row, slot) in slots.iter().enumerate() {
                        let known = model.get(&text(&keys, row)).copied().unwrap_or(MISSING);
                        assert_eq!(*slot, known);
                    }
                    index.insert(&keys, 25, &mut slots);
                    let taken = index.take(&slots);
                    for (row, slot) in slots.iter().enumerate() {
                        let next = model.len() as u32;
                        let key = text(&keys, row);
                        assert_eq!(*slot, *model.entry(key.clone()).or_insert(next));
                        assert_eq!(text(&taken, row), key);
                        assert_eq!(index.hashes()[*slot as usize], hashes[row]);
                    }
                    assert_eq!(index.len(), model.len());
                    if round % 4 == 3 {
                        let new = index.retain(|s| s % 3 != 1);
                        model.retain(|_, s| {
                            *s = new[*s as usize];
                            *s != MISSING
                        });
                        assert_eq!(index.len(), model.len());
                    }
                }
                assert!(index.memory_bytes() > 0);
                index.clear();
                assert!(index.is_empty());
            }
        }
    }
}
