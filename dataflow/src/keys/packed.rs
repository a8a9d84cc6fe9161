//! Keys of columns of fixed width, held side by side in `WORDS` words of 64 bits.
//!
//! A column lies within one word, a numeric in two; one byte tells which columns are NULL, whose bits are 0.

use std::sync::Arc;

use arrow::array::cast::AsArray;
use arrow::array::{Array, ArrayData, ArrayRef, BooleanArray, make_array};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer};
use arrow::datatypes::DataType;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use tidemill_zset::consolidate::normalise_floats;

use super::{BLOCK_ROWS, MISSING, prefetch};

/// Columns that one byte of NULL marks can tell apart.
const COLUMNS_MAX: usize = 8;
/// Words that a key may take.
pub const WORDS_MAX: usize = 3;

/// See the module.
pub struct PackedKeys<const WORDS: usize> {
    layout: Layout,
    /// The key of each slot.
    keys: Vec<[u64; WORDS]>,
    table: HashTable<u32>,
    /// Keys being looked up.
    packed: Vec<[u64; WORDS]>,
}

/// Where the columns of a key lie.
pub struct Layout {
    columns: Vec<(DataType, Place)>,
    nulls: Place,
    /// Words that a key takes.
    pub words: usize,
}

#[derive(Clone, Copy)]
struct Place {
    word: usize,
    /// In bits.
    shift: usize,
    /// In bytes; 16 begin a word and end the next one.
    width: usize,
}

impl Layout {
    /// Of keys with columns of `types`, if they fit.
    pub fn of(types: &[DataType]) -> Option<Layout> {
        if types.is_empty() || types.len() > COLUMNS_MAX {
            return None;
        }
        let mut used: Vec<usize> = Vec::new();
        let mut place = |width: usize| {
            if width == 16 {
                used.extend([8, 8]);
                return Place {
                    word: used.len() - 2,
                    shift: 0,
                    width,
                };
            }
            let word = used
                .iter()
                .position(|u| u + width <= 8)
                .unwrap_or(used.len());
            if word == used.len() {
                used.push(0);
            }
            let shift = used[word] * 8;
            used[word] += width;
            Place { word, shift, width }
        };
        let columns = types
            .iter()
            .map(|t| Some((t.clone(), place(width(t)?))))
            .collect::<Option<Vec<_>>>()?;
        let nulls = place(1);
        (used.len() <= WORDS_MAX).then_some(Layout {
            columns,
            nulls,
            words: used.len(),
        })
    }

    /// The keys in `columns`, in `out` (which is overwritten).
    fn pack<const WORDS: usize>(
        &self,
        columns: &[ArrayRef],
        rows: usize,
        out: &mut Vec<[u64; WORDS]>,
    ) {
        out.clear();
        out.resize(rows, [0; WORDS]);
        for (i, (column, (_, place))) in columns.iter().zip(&self.columns).enumerate() {
            let column = normalise_floats(column);
            place.put(column.as_ref(), out);
            let Some(nulls) = column.nulls().filter(|n| n.null_count() > 0) else {
                continue;
            };
            let mark = 1 << (self.nulls.shift + i);
            for (row, key) in out.iter_mut().enumerate() {
                if nulls.is_null(row) {
                    place.clear(key);
                    key[self.nulls.word] |= mark;
                }
            }
        }
    }

    /// The keys as columns.
    fn unpack<'k, const WORDS: usize>(
        &self,
        keys: impl ExactSizeIterator<Item = &'k [u64; WORDS]> + Clone,
    ) -> Vec<ArrayRef> {
        let column = |(i, (data_type, place)): (usize, &(DataType, Place))| {
            let mark = 1 << (self.nulls.shift + i);
            let valid = keys.clone().map(|k| k[self.nulls.word] & mark == 0);
            let nulls = Some(NullBuffer::from_iter(valid)).filter(|n| n.null_count() > 0);
            let bits = keys.clone().map(|k| k[place.word] >> place.shift);
            let buffer = match (data_type, place.width) {
                (DataType::Boolean, _) => {
                    let values = BooleanBuffer::from_iter(bits.map(|b| b & 1 != 0));
                    return Arc::new(BooleanArray::new(values, nulls)) as ArrayRef;
                }
                (_, 1) => Buffer::from_iter(bits.map(|b| b as u8)),
                (_, 2) => Buffer::from_iter(bits.map(|b| b as u16)),
                (_, 4) => Buffer::from_iter(bits.map(|b| b as u32)),
                (_, 8) => Buffer::from_iter(bits),
                _ => Buffer::from_iter(
                    keys.clone()
                        .map(|k| i128::from(k[place.word]) | i128::from(k[place.word + 1]) << 64),
                ),
            };
            let data = ArrayData::builder(data_type.clone())
                .len(keys.len())
                .add_buffer(buffer)
                .nulls(nulls)
                .build()
                .expect("one value of the type's width per slot");
            make_array(data)
        };
        self.columns.iter().enumerate().map(column).collect()
    }
}

/// Bytes that a value of the type takes in a key, if keys of the type are held.
fn width(t: &DataType) -> Option<usize> {
    match t {
        DataType::Boolean => Some(1),
        DataType::Decimal128(_, _) => Some(16),
        t => t.primitive_width().filter(|w| matches!(w, 1 | 2 | 4 | 8)),
    }
}

impl Place {
    /// Adds the values of `column` to the keys, whose bits here are 0.
    fn put<const WORDS: usize>(self, column: &dyn Array, out: &mut [[u64; WORDS]]) {
        let Place { word, shift, width } = self;
        if let Some(column) = column.as_boolean_opt() {
            for (key, value) in out.iter_mut().zip(column.values()) {
                key[word] |= u64::from(value) << shift;
            }
            return;
        }
        let data = column.to_data();
        let at = data.offset();
        let buffer = &data.buffers()[0];
        macro_rules! put {
            ($t:ty) => {
                for (key, value) in out.iter_mut().zip(&buffer.typed_data::<$t>()[at..]) {
                    key[word] |= u64::from(*value) << shift;
                }
            };
        }
        match width {
            1 => put!(u8),
            2 => put!(u16),
            4 => put!(u32),
            8 => put!(u64),
            _ => {
                for (key, value) in out.iter_mut().zip(&buffer.typed_data::<i128>()[at..]) {
                    key[word] = *value as u64;
                    key[word + 1] = (*value >> 64) as u64;
                }
            }
        }
    }

    /// Sets the bits here to 0.
    fn clear<const WORDS: usize>(self, key: &mut [u64; WORDS]) {
        match self.width {
            16 => key[self.word..self.word + 2].fill(0),
            8 => key[self.word] = 0,
            width => key[self.word] &= !(((1 << (width * 8)) - 1) << self.shift),
        }
    }
}

impl<const WORDS: usize> PackedKeys<WORDS> {
    /// No keys yet; the layout has `WORDS` words.
    pub fn new(layout: Layout) -> Self {
        assert_eq!(layout.words, WORDS, "words of the layout");
        PackedKeys {
            layout,
            keys: Vec::new(),
            table: HashTable::new(),
            packed: Vec::new(),
        }
    }

    pub fn insert(
        &mut self,
        columns: &[ArrayRef],
        hashes: &[u64],
        all: &mut Vec<u64>,
        slots: &mut Vec<u32>,
    ) {
        self.layout.pack(columns, hashes.len(), &mut self.packed);
        let PackedKeys {
            keys,
            table,
            packed,
            ..
        } = self;
        for (packed, hashes) in packed.chunks(BLOCK_ROWS).zip(hashes.chunks(BLOCK_ROWS)) {
            // Located together first, so that the processor waits for their cache lines together.
            let mut likely = [MISSING; BLOCK_ROWS];
            for (likely, hash) in likely.iter_mut().zip(hashes) {
                if let Some(slot) = table.find(*hash, |_| true) {
                    *likely = *slot;
                    prefetch(&keys[*slot as usize]);
                }
            }
            for ((key, hash), likely) in packed.iter().zip(hashes).zip(likely) {
                if likely != MISSING && keys[likely as usize] == *key {
                    slots.push(likely);
                    continue;
                }
                let entry = table.entry(*hash, |s| keys[*s as usize] == *key, |s| all[*s as usize]);
                slots.push(match entry {
                    Entry::Occupied(e) => *e.get(),
                    Entry::Vacant(e) => {
                        let slot = keys.len() as u32;
                        e.insert(slot);
                        keys.push(*key);
                        all.push(*hash);
                        slot
                    }
                });
            }
        }
    }

    pub fn find(&self, columns: &[ArrayRef], hashes: &[u64], slots: &mut Vec<u32>) {
        let mut packed = Vec::new();
        self.layout.pack(columns, hashes.len(), &mut packed);
        for (key, hash) in packed.iter().zip(hashes) {
            let found = self.table.find(*hash, |s| self.keys[*s as usize] == *key);
            slots.push(found.copied().unwrap_or(MISSING));
        }
    }

    pub fn take(&self, slots: &[u32]) -> Vec<ArrayRef> {
        self.layout
            .unpack(slots.iter().map(|s| &self.keys[*s as usize]))
    }

    pub fn retain(&mut self, renumbered: &[u32], hashes: &[u64]) {
        let mut slot = 0;
        self.keys.retain(|_| {
            slot += 1;
            renumbered[slot - 1] != MISSING
        });
        self.table = HashTable::with_capacity(self.keys.len());
        for slot in 0..self.keys.len() as u32 {
            self.table
                .insert_unique(hashes[slot as usize], slot, |s| hashes[*s as usize]);
        }
    }

    pub fn memory_bytes(&self) -> usize {
        (self.keys.capacity() + self.packed.capacity()) * WORDS * 8 + self.table.capacity() * 5
    }
}
