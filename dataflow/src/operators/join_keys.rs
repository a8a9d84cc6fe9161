//! [`KeyTable`]: from keys to dense slot numbers, for the in-memory index of joins.
//!
//! Invariant: one slot per key, exactly: a slot is found by the 64-bit hash and then, where the hash
//! isn't a bijection of the key, by comparing the key columns with those that the slot keeps.
//! Everything that a slot carries (list heads, flags) is the owner's business.

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, UInt32Array};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::compute::kernels::cmp::not_distinct;
use arrow::compute::{cast, take_record_batch};
use arrow::datatypes::{DataType, SchemaRef};
use hashbrown::HashMap;
use tidemill_zset::Diffs;

use super::join_rows::{BLOCK_ROWS, NIL, RowStore, batch_of, comparator};

/// Hashes that are looked up together.
const LOOKUPS: usize = 64;

/// Buckets of small tables: few enough for the first-level cache, so many that a hash which isn't there mostly finds an empty one.
const BUCKETS_MIN: usize = 4096;

/// What is known of one key.
#[derive(Clone, Debug)]
pub struct Slot<const N: usize> {
    /// Hash of the key.
    pub hash: u64,
    /// First row of each of the owner's lists, or [`NIL`].
    pub heads: [u32; N],
    /// The owner's step in which it was touched last.
    pub touched: u32,
    /// The owner's flags.
    pub flags: u8,
}

/// See the module.
pub struct KeyTable<const N: usize> {
    buckets: Buckets,
    slots: Vec<Slot<N>>,
    /// The key columns of each slot, if they must be compared: slot number → row number.
    keys: Option<(RowStore, Vec<u32>)>,
    /// Slots whose hash another slot has too: the next slot with that hash.
    collisions: HashMap<u32, u32>,
}

impl<const N: usize> KeyTable<N> {
    /// An empty table for keys with the columns of `schema`. `nulls`: NULL is a key value like any other.
    pub fn new(schema: SchemaRef, nulls: bool) -> Self {
        let exact = match schema.fields().len() {
            0 => true,
            1 => !nulls && hash_is_bijection(schema.field(0).data_type()),
            _ => false,
        };
        KeyTable {
            buckets: Buckets::default(),
            slots: Vec::new(),
            keys: (!exact).then(|| (RowStore::new(schema, false), Vec::new())),
            collisions: HashMap::new(),
        }
    }

    /// Number of slots.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// The slot with number `slot`.
    #[inline]
    pub fn slot(&self, slot: u32) -> &Slot<N> {
        &self.slots[slot as usize]
    }

    /// The slot with number `slot`.
    #[inline]
    pub fn slot_mut(&mut self, slot: u32) -> &mut Slot<N> {
        &mut self.slots[slot as usize]
    }

    /// All slots, by number.
    pub fn slots(&self) -> &[Slot<N>] {
        &self.slots
    }

    /// The key columns of `slots`, as far as they are kept.
    pub fn key_columns(&mut self, slots: &[u32]) -> Vec<ArrayRef> {
        let Some((store, of)) = &mut self.keys else {
            return Vec::new();
        };
        let rows: Vec<u32> = slots.iter().map(|s| of[*s as usize]).collect();
        store.gather_rows(&rows).columns().to_vec()
    }

    /// Approximate bytes of memory.
    pub fn bytes(&self) -> usize {
        let keys = self
            .keys
            .as_ref()
            .map_or(0, |(rows, of)| rows.bytes() + of.len() * 4);
        self.slots.len() * size_of::<Slot<N>>() + self.buckets.slots.len() * 4 + keys
    }

    /// The first slot of a key with this hash, if one has.
    #[inline]
    pub fn find_hash(&self, hash: u64) -> Option<u32> {
        self.buckets.find(hash, &self.slots)
    }

    /// The slot of each row, made where there was none. `keys` are the key columns and `hashes` their
    /// hashes, at most [`BLOCK_ROWS`]. Numbers of slots whose *hash* is new are appended to `fresh`.
    pub fn resolve(
        &mut self,
        keys: &[ArrayRef],
        hashes: &[u64],
        step: u32,
        slots: &mut Vec<u32>,
        fresh: &mut Vec<u32>,
    ) {
        assert!(hashes.len() <= BLOCK_ROWS, "the caller cuts batches");
        slots.clear();
        slots.reserve(hashes.len());
        let known = self.slots.len();
        let mut new_rows: Vec<u32> = Vec::new();
        for (chunk, hashes) in hashes.chunks(LOOKUPS).enumerate() {
            self.buckets.reserve(&self.slots);
            let mut candidates = [0; LOOKUPS];
            self.candidates(hashes, &mut candidates);
            for (i, hash) in hashes.iter().enumerate() {
                // Most rows find their slot at once; the others walk the buckets.
                let mut slot = candidates[i];
                if slot == NIL {
                    let made = self.slots.len() as u32;
                    slot = self.buckets.find_or_insert(*hash, made, &self.slots);
                    if slot == made {
                        new_rows.push((chunk * LOOKUPS + i) as u32);
                        self.slots.push(Slot {
                            hash: *hash,
                            heads: [NIL; N],
                            touched: step,
                            flags: 0,
                        });
                    }
                }
                // Rows may have come in an earlier step than the key's last.
                let touched = &mut self.slots[slot as usize].touched;
                *touched = step.max(*touched);
                slots.push(slot);
            }
        }
        fresh.extend(known as u32..self.slots.len() as u32);
        if self.keys.is_some() {
            self.verify(keys, hashes, step, new_rows, slots);
        }
    }

    /// For each hash the slot in its first bucket, if that is the one. All loads are independent of each other, so that
    /// their cache misses overlap.
    #[inline]
    fn candidates(&self, hashes: &[u64], candidates: &mut [u32; LOOKUPS]) {
        for (candidate, hash) in candidates.iter_mut().zip(hashes) {
            *candidate = self.buckets.first(*hash);
        }
        for (candidate, hash) in candidates.iter_mut().zip(hashes) {
            // Number 0 stands in for no slot: its hash is compared too.
            let slot = if *candidate == NIL { 0 } else { *candidate };
            let same = self
                .slots
                .get(slot as usize)
                .is_some_and(|s| s.hash == *hash);
            *candidate = if same { slot } else { NIL };
        }
    }

    /// Slots that share their hash count as touched together. As a key is only fetched when its hash is new, either all keys
    /// of a hash have slots or none.
    pub fn touch_together(&mut self) {
        let mut latest: HashMap<u64, u32> = HashMap::new();
        for number in self.collisions.iter().flat_map(|(a, b)| [*a, *b]) {
            let slot = &self.slots[number as usize];
            let latest = latest.entry(slot.hash).or_insert(0);
            *latest = slot.touched.max(*latest);
        }
        for number in self.collisions.iter().flat_map(|(a, b)| [*a, *b]) {
            let slot = &mut self.slots[number as usize];
            slot.touched = latest[&slot.hash];
        }
    }

    /// Compares the keys of the rows with those of their slots, and gives rows that only share the hash slots of
    /// their own.
    fn verify(
        &mut self,
        keys: &[ArrayRef],
        hashes: &[u64],
        step: u32,
        new_rows: Vec<u32>,
        slots: &mut [u32],
    ) {
        let (store, of) = self.keys.as_mut().expect("the caller has looked");
        let batch = batch_of(store.schema(), keys.to_vec(), hashes.len());
        // A row that made its slot needs no comparison.
        let found = rows_without(hashes.len(), &new_rows);
        add_keys(store, of, &batch, new_rows);
        if found.is_empty() {
            return;
        }
        let kept: Vec<u32> = found
            .iter()
            .map(|r| of[slots[*r as usize] as usize])
            .collect();
        let columns: Vec<usize> = (0..keys.len()).collect();
        let theirs = store.gather(&kept, &columns);
        let ours = match found.len() == hashes.len() {
            true => keys.to_vec(),
            false => {
                let found = UInt32Array::from(found.clone());
                let rows = take_record_batch(&batch, &found).expect("rows of the batch");
                rows.columns().to_vec()
            }
        };
        let equal = equal_keys(&ours, &theirs);
        if equal.count_set_bits() == found.len() {
            return;
        }
        for (at, row) in found.into_iter().map(|row| row as usize).enumerate() {
            if !equal.value(at) {
                slots[row] = self.resolve_collision(&batch, row, hashes[row], step, slots[row]);
            }
        }
    }

    /// The slot of row `row` of `batch`, whose hash finds `first`, the slot of another key.
    fn resolve_collision(
        &mut self,
        batch: &RecordBatch,
        row: usize,
        hash: u64,
        step: u32,
        first: u32,
    ) -> u32 {
        let (store, of) = self.keys.as_mut().expect("only compared keys get here");
        let columns: Vec<usize> = (0..batch.num_columns()).collect();
        let key: Vec<ArrayRef> = batch.columns().iter().map(|c| c.slice(row, 1)).collect();
        let mut last = first;
        while let Some(next) = self.collisions.get(&last) {
            let theirs = store.gather(&[of[*next as usize]], &columns);
            if equal_keys(&key, &theirs).value(0) {
                let touched = &mut self.slots[*next as usize].touched;
                *touched = step.max(*touched);
                return *next;
            }
            last = *next;
        }
        let slot = self.slots.len() as u32;
        self.slots.push(Slot {
            hash,
            heads: [NIL; N],
            touched: step,
            flags: 0,
        });
        add_keys(store, of, batch, vec![row as u32]);
        self.collisions.insert(last, slot);
        slot
    }
}

/// Open addressing from hashes to slots: the first slot with a hash is found by walking on from the bucket that the
/// hash's low bits name (the high bits are the partition: a worker sees few of them). Nothing is ever taken out.
#[derive(Default)]
struct Buckets {
    /// Slot numbers, or [`NIL`]; the length is a power of two, or zero.
    slots: Vec<u32>,
}

impl Buckets {
    /// Makes room for [`LOOKUPS`] more than `slots`, at most half full.
    fn reserve<const N: usize>(&mut self, slots: &[Slot<N>]) {
        let wanted = (2 * (slots.len() + LOOKUPS)).next_power_of_two();
        let wanted = wanted.max(BUCKETS_MIN);
        if wanted <= self.slots.len() {
            return;
        }
        self.slots = vec![NIL; wanted];
        for (number, slot) in slots.iter().enumerate() {
            let mut at = self.bucket(slot.hash);
            // Of slots with one hash only the first is found through the buckets.
            let mut known = false;
            while self.slots[at] != NIL && !known {
                known = slots[self.slots[at] as usize].hash == slot.hash;
                at = (at + 1) & (wanted - 1);
            }
            if !known {
                self.slots[at] = number as u32;
            }
        }
    }

    #[inline]
    fn bucket(&self, hash: u64) -> usize {
        hash as usize & (self.slots.len() - 1)
    }

    /// The slot in the first bucket of `hash`, or [`NIL`].
    #[inline]
    fn first(&self, hash: u64) -> u32 {
        self.slots[self.bucket(hash)]
    }

    /// The slot with `hash`.
    #[inline]
    fn find<const N: usize>(&self, hash: u64, slots: &[Slot<N>]) -> Option<u32> {
        if self.slots.is_empty() {
            return None;
        }
        let mut at = self.bucket(hash);
        loop {
            match self.slots[at] {
                NIL => return None,
                slot if slots[slot as usize].hash == hash => return Some(slot),
                _ => at = (at + 1) & (self.slots.len() - 1),
            }
        }
    }

    /// The slot with `hash`; if there is none, `new` becomes it.
    fn find_or_insert<const N: usize>(&mut self, hash: u64, new: u32, slots: &[Slot<N>]) -> u32 {
        let mut at = self.bucket(hash);
        loop {
            match self.slots[at] {
                NIL => {
                    self.slots[at] = new;
                    return new;
                }
                slot if slots[slot as usize].hash == hash => return slot,
                _ => at = (at + 1) & (self.slots.len() - 1),
            }
        }
    }
}

/// The numbers below `len` that aren't among `left_out`, which ascend.
fn rows_without(len: usize, left_out: &[u32]) -> Vec<u32> {
    let mut rows = Vec::with_capacity(len - left_out.len());
    let mut from = 0;
    for row in left_out.iter().copied().chain([len as u32]) {
        rows.extend(from..row);
        from = row + 1;
    }
    rows
}

/// Keeps the keys of newly made slots.
fn add_keys(store: &mut RowStore, of: &mut Vec<u32>, batch: &RecordBatch, rows: Vec<u32>) {
    if rows.is_empty() {
        return;
    }
    let n = rows.len() as u32;
    let keys = take_record_batch(batch, &UInt32Array::from(rows)).expect("rows of the batch");
    let first = store.append(&keys, &Diffs::Ones);
    of.extend(first..first + n);
}

/// For one column of these types the hash determines the value.
fn hash_is_bijection(data_type: &DataType) -> bool {
    use DataType::*;
    matches!(
        data_type,
        Boolean
            | Int8
            | Int16
            | Int32
            | Int64
            | UInt8
            | UInt16
            | UInt32
            | UInt64
            | Date32
            | Date64
            | Time32(_)
            | Time64(_)
            | Timestamp(_, _)
    )
}

/// Where all columns are equal, row by row, in the sense of the hash: NULL equals NULL, NaN equals NaN, -0 equals 0.
pub fn equal_keys(a: &[ArrayRef], b: &[ArrayRef]) -> BooleanBuffer {
    let rows = a.first().map_or(0, |c| c.len());
    let mut all = BooleanBuffer::new_set(rows);
    for (a, b) in a.iter().zip(b) {
        let (a, b) = (normal(a), normal(b));
        let equal = match a.data_type() {
            DataType::Struct(_) | DataType::List(_) | DataType::LargeList(_) => {
                let compare = comparator(&a, &b);
                BooleanBuffer::collect_bool(rows, |i| compare(i, i).is_eq())
            }
            _ => {
                let equal: BooleanArray = not_distinct(&a, &b)
                    .unwrap_or_else(|e| panic!("keys of type {}: {e}", a.data_type()));
                equal.values().clone()
            }
        };
        all = &all & &equal;
    }
    all
}

/// Floats with one NaN and one zero; everything else as it is.
pub fn normal(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Float16 | DataType::Float32 | DataType::Float64 => {
            let wide = cast(column, &DataType::Float64).expect("floats widen");
            let wide = arrow::array::cast::AsArray::as_primitive::<arrow::datatypes::Float64Type>(
                wide.as_ref(),
            );
            let normal =
                wide.unary::<_, arrow::datatypes::UInt64Type>(tidemill_zset::hash::float_bits);
            std::sync::Arc::new(normal)
        }
        _ => column.clone(),
    }
}

/// The rows whose key columns are all valid; `None`: all are.
pub fn complete_keys(keys: &[ArrayRef]) -> Option<BooleanBuffer> {
    let nulls = keys.iter().fold(None, |all, c| {
        NullBuffer::union(all.as_ref(), c.logical_nulls().as_ref())
    });
    nulls
        .filter(|n| n.null_count() > 0)
        .map(|n| n.inner().clone())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Float64Array, StringViewArray};
    use arrow::datatypes::{Field, Schema};

    use super::*;

    fn text(values: &[Option<&str>]) -> ArrayRef {
        Arc::new(StringViewArray::from(values.to_vec()))
    }

    #[test]
    fn keys_that_share_a_hash_have_slots_of_their_own() {
        let schema = Arc::new(Schema::new(vec![Field::new("k", DataType::Utf8View, true)]));
        let mut table = KeyTable::<1>::new(schema, true);
        let (mut slots, mut fresh) = (Vec::new(), Vec::new());
        let keys = text(&[Some("a"), Some("b"), Some("a"), None, Some("c"), None]);
        table.resolve(&[keys], &[7, 7, 7, 7, 8, 7], 1, &mut slots, &mut fresh);
        assert_eq!(slots, vec![0, 2, 0, 3, 1, 3]);
        assert_eq!(fresh, vec![0, 1], "one per hash");
        fresh.clear();
        let keys = text(&[None, Some("d"), Some("b"), Some("c"), Some("a")]);
        table.resolve(&[keys], &[7, 7, 7, 8, 7], 2, &mut slots, &mut fresh);
        assert_eq!(slots, vec![3, 4, 2, 1, 0]);
        assert!(fresh.is_empty(), "both hashes are known");
    }

    #[test]
    fn slots_stay_while_the_table_grows() {
        let schema = Arc::new(Schema::new(vec![Field::new("k", DataType::Utf8View, true)]));
        let mut table = KeyTable::<1>::new(schema, true);
        let (mut slots, mut fresh) = (Vec::new(), Vec::new());
        let mut known = std::collections::HashMap::new();
        // Two of each hash; low bits, which name the bucket, are nearly all equal.
        let hash = |i: usize| ((i / 2) as u64) << 3;
        for round in 0..40 {
            let numbers: Vec<usize> = (0..100).map(|i| (i * 7 + round * 50) % 2000).collect();
            let texts: Vec<String> = numbers.iter().map(|i| format!("key {i}")).collect();
            let keys = text(&texts.iter().map(|t| Some(t.as_str())).collect::<Vec<_>>());
            let hashes: Vec<u64> = numbers.iter().map(|i| hash(*i)).collect();
            table.resolve(&[keys], &hashes, 1, &mut slots, &mut fresh);
            for (number, slot) in numbers.iter().zip(&slots) {
                assert_eq!(known.entry(*number).or_insert(*slot), slot, "key {number}");
                assert_eq!(table.slot(*slot).hash, hash(*number));
            }
        }
        assert_eq!(table.len(), known.len(), "one slot per key");
        let different: std::collections::HashSet<u32> = known.values().copied().collect();
        assert_eq!(different.len(), known.len());
    }

    #[test]
    fn floats_are_equal_as_sql_has_them() {
        let odd_nan = f64::from_bits(f64::NAN.to_bits() | 1);
        let a: ArrayRef = Arc::new(Float64Array::from(vec![0.0, f64::NAN, 1.0, 2.0]));
        let b: ArrayRef = Arc::new(Float64Array::from(vec![-0.0, odd_nan, 1.0, 3.0]));
        let equal = equal_keys(&[a], &[b]);
        let got: Vec<bool> = equal.iter().collect();
        assert_eq!(got, vec![true, true, true, false]);
    }
}
