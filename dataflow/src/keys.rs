//! [`KeyIndex`]: the in-memory index from keys to dense numbers ("slots") that operators hang their state on.
//!
//! Keys are equal as SQL groups them: NULL equals NULL, every NaN is one value, -0.0 is 0.0. A
//! slot's number never changes until [`KeyIndex::retain`] or [`KeyIndex::clear`].

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;

/// What [`KeyIndex::find`] gives for a key that isn't there.
pub const MISSING: u32 = u32::MAX;

/// See the module.
pub struct KeyIndex {
    types: Vec<DataType>,
    hashes: Vec<u64>,
}

impl KeyIndex {
    /// An empty index of keys with columns of `types`.
    pub fn new(types: Vec<DataType>) -> Self {
        KeyIndex {
            types,
            hashes: Vec::new(),
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
        let _ = (columns, rows, slots);
    }

    /// The slots of the keys in `columns`; [`MISSING`] where a key isn't there.
    pub fn find(&self, columns: &[ArrayRef], rows: usize, slots: &mut Vec<u32>) {
        let _ = (columns, rows, slots);
    }

    /// The key hash (`zset::hash::hash_columns`) of each slot.
    pub fn hashes(&self) -> &[u64] {
        &self.hashes
    }

    /// The keys of `slots`, as columns.
    pub fn take(&self, slots: &[u32]) -> Vec<ArrayRef> {
        let _ = slots;
        self.types
            .iter()
            .map(arrow::array::new_empty_array)
            .collect()
    }

    /// Drops the keys for which `keep` is false and renumbers the others, keeping their order. Returns
    /// the new number of each old slot, [`MISSING`] for those dropped.
    pub fn retain(&mut self, keep: impl Fn(u32) -> bool) -> Vec<u32> {
        let _ = keep;
        Vec::new()
    }

    /// Forgets all keys.
    pub fn clear(&mut self) {
        self.hashes.clear();
    }

    /// Approximate bytes of memory it takes.
    pub fn memory_bytes(&self) -> usize {
        self.hashes.len() * 8
    }
}
