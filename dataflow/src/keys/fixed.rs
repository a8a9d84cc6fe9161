//! Keys of one primitive column of at most eight bytes, held as the bits of the value.

use arrow::array::{Array, ArrayData, ArrayRef, make_array};
use arrow::buffer::{Buffer, NullBuffer};
use arrow::datatypes::DataType;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use tidemill_zset::consolidate::normalise_floats;

use super::{BLOCK_ROWS, MISSING, each_row, locate};

/// See the module.
pub struct FixedKeys {
    data_type: DataType,
    width: usize,
    /// Bits of the value of each slot, zero-extended; 0 for the NULL key.
    bits: Vec<u64>,
    table: HashTable<(u64, u32)>,
    null: u32,
}

impl FixedKeys {
    /// True if keys of the type are held.
    pub fn holds(t: &DataType) -> bool {
        !matches!(t, DataType::Boolean) && matches!(t.primitive_width(), Some(1 | 2 | 4 | 8))
    }

    pub fn new(data_type: DataType) -> Self {
        let width = data_type.primitive_width().expect("a primitive type");
        FixedKeys {
            data_type,
            width,
            bits: Vec::new(),
            table: HashTable::new(),
            null: MISSING,
        }
    }

    pub fn insert(
        &mut self,
        array: &dyn Array,
        hashes: &[u64],
        all: &mut Vec<u64>,
        slots: &mut Vec<u32>,
    ) {
        let nulls = array.nulls().filter(|n| n.null_count() > 0);
        let FixedKeys {
            bits, table, null, ..
        } = self;
        with_bits(array, |value| {
            for (block, hashes) in hashes.chunks(BLOCK_ROWS).enumerate() {
                let first = block * BLOCK_ROWS;
                let mut missing = false;
                for (i, found) in locate(table, hashes)[..hashes.len()].iter().enumerate() {
                    let slot = match found {
                        Some((held, slot)) if *held == value(first + i) => *slot,
                        _ => MISSING,
                    };
                    missing |= slot == MISSING;
                    slots.push(slot);
                }
                if !missing && nulls.is_none() {
                    continue;
                }
                for (i, hash) in hashes.iter().enumerate() {
                    let row = first + i;
                    let next = bits.len() as u32;
                    if nulls.is_some_and(|n| n.is_null(row)) {
                        if *null == MISSING {
                            *null = next;
                            bits.push(0);
                            all.push(*hash);
                        }
                        slots[row] = *null;
                    } else if slots[row] == MISSING {
                        let v = value(row);
                        let entry = table.entry(*hash, |e| e.0 == v, |e| all[e.1 as usize]);
                        slots[row] = match entry {
                            Entry::Occupied(e) => e.get().1,
                            Entry::Vacant(e) => {
                                e.insert((v, next));
                                bits.push(v);
                                all.push(*hash);
                                next
                            }
                        };
                    }
                }
            }
        });
    }

    pub fn find(&self, array: &dyn Array, hashes: &[u64], slots: &mut Vec<u32>) {
        with_bits(array, |value| {
            each_row(array, |i, is_null| {
                slots.push(if is_null {
                    self.null
                } else {
                    let v = value(i);
                    self.table
                        .find(hashes[i], |e| e.0 == v)
                        .map_or(MISSING, |e| e.1)
                });
            })
        });
    }

    pub fn take(&self, slots: &[u32]) -> ArrayRef {
        let bits = slots.iter().map(|s| self.bits[*s as usize]);
        let buffer = match self.width {
            1 => Buffer::from_iter(bits.map(|b| b as u8)),
            2 => Buffer::from_iter(bits.map(|b| b as u16)),
            4 => Buffer::from_iter(bits.map(|b| b as u32)),
            _ => Buffer::from_iter(bits),
        };
        let nulls = (self.null != MISSING && slots.contains(&self.null))
            .then(|| NullBuffer::from_iter(slots.iter().map(|s| *s != self.null)));
        let data = ArrayData::builder(self.data_type.clone())
            .len(slots.len())
            .add_buffer(buffer)
            .nulls(nulls)
            .build()
            .expect("one value of the type's width per slot");
        make_array(data)
    }

    pub fn retain(&mut self, renumbered: &[u32], hashes: &[u64]) {
        let mut slot = 0;
        self.bits.retain(|_| {
            slot += 1;
            renumbered[slot - 1] != MISSING
        });
        if self.null != MISSING {
            self.null = renumbered[self.null as usize];
        }
        let null = self.null;
        self.table = HashTable::with_capacity(self.bits.len());
        for (slot, bits) in self.bits.iter().enumerate() {
            if slot as u32 != null {
                self.table
                    .insert_unique(hashes[slot], (*bits, slot as u32), |e| hashes[e.1 as usize]);
            }
        }
    }

    pub fn memory_bytes(&self) -> usize {
        self.bits.capacity() * 8 + self.table.capacity() * 17
    }
}

/// Runs `f` with a function that gives the bits of a row's value, floats normalised.
fn with_bits(array: &dyn Array, f: impl FnOnce(&dyn Fn(usize) -> u64)) {
    let float = array.data_type().is_floating();
    let data = if float {
        normalise_floats(&make_array(array.to_data())).to_data()
    } else {
        array.to_data()
    };
    let at = data.offset();
    let buffer = &data.buffers()[0];
    match data.data_type().primitive_width() {
        Some(1) => {
            let v = &buffer.typed_data::<u8>()[at..];
            f(&|i| v[i] as u64)
        }
        Some(2) => {
            let v = &buffer.typed_data::<u16>()[at..];
            f(&|i| v[i] as u64)
        }
        Some(4) => {
            let v = &buffer.typed_data::<u32>()[at..];
            f(&|i| v[i] as u64)
        }
        _ => {
            let v = &buffer.typed_data::<u64>()[at..];
            f(&|i| v[i])
        }
    }
}
