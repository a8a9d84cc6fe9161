//! Keys of one text or binary column. A key of at most twelve bytes is held in sixteen, as in
//! Arrow's view arrays; the rest of longer keys is in one arena.

use std::sync::Arc;

use arrow::array::cast::AsArray;
use arrow::array::{
    Array, ArrayRef, BinaryBuilder, BinaryViewBuilder, LargeBinaryBuilder, LargeStringBuilder,
    StringBuilder, StringViewArray, StringViewBuilder,
};
use arrow::buffer::{NullBuffer, ScalarBuffer};
use arrow::datatypes::DataType;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::{BLOCK_ROWS, MISSING, each_row, locate};

/// Longest key that is held inline.
const INLINE_BYTES_MAX: usize = 12;

/// A key in sixteen bytes: the length in the low 32 bits, then the bytes, zero-padded, if they
/// fit; else the first four bytes and the place in the arena (64 bits).
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
struct View(u64, u64);

impl View {
    #[inline]
    fn len(self) -> usize {
        self.0 as u32 as usize
    }

    #[inline]
    fn from_raw(raw: u128) -> View {
        View(raw as u64, (raw >> 64) as u64)
    }

    fn raw(self) -> u128 {
        self.0 as u128 | (self.1 as u128) << 64
    }

    /// The view of `bytes`; of a long key without its place.
    #[inline]
    fn of(bytes: &[u8]) -> View {
        let mut raw = [0u8; 16];
        raw[..4].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
        let inline = if bytes.len() <= INLINE_BYTES_MAX {
            bytes.len()
        } else {
            4
        };
        raw[4..4 + inline].copy_from_slice(&bytes[..inline]);
        View::from_raw(u128::from_le_bytes(raw))
    }
}

/// See the module.
pub struct BytesKeys {
    data_type: DataType,
    views: Vec<View>,
    arena: Vec<u8>,
    table: HashTable<(View, u32)>,
    null: u32,
}

impl BytesKeys {
    /// True if keys of the type are held.
    pub fn holds(t: &DataType) -> bool {
        matches!(
            t,
            DataType::Utf8
                | DataType::LargeUtf8
                | DataType::Utf8View
                | DataType::Binary
                | DataType::LargeBinary
                | DataType::BinaryView
        )
    }

    pub fn new(data_type: DataType) -> Self {
        BytesKeys {
            data_type,
            views: Vec::new(),
            arena: Vec::new(),
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
        macro_rules! with {
            ($a:expr) => {{
                let a = $a;
                let bytes = |i: usize| -> &[u8] { a.value(i).as_ref() };
                self.insert_all(array, |i| View::of(bytes(i)), bytes, hashes, all, slots)
            }};
        }
        match array.data_type() {
            DataType::Utf8 => with!(array.as_string::<i32>()),
            DataType::LargeUtf8 => with!(array.as_string::<i64>()),
            DataType::Binary => with!(array.as_binary::<i32>()),
            DataType::LargeBinary => with!(array.as_binary::<i64>()),
            DataType::BinaryView => with!(array.as_binary_view()),
            _ => {
                let a = array.as_string_view();
                let views = a.views();
                let view = |i: usize| {
                    let mut view = View::from_raw(views[i]);
                    if view.len() > INLINE_BYTES_MAX {
                        view.1 = 0;
                    }
                    view
                };
                self.insert_all(array, view, |i| a.value(i).as_bytes(), hashes, all, slots);
            }
        }
    }

    /// Inserts every row, given its view and its bytes. Most keys are there already: those are found
    /// a block at a time; the others go one by one.
    #[inline]
    fn insert_all<'a>(
        &mut self,
        array: &dyn Array,
        view: impl Fn(usize) -> View,
        bytes: impl Fn(usize) -> &'a [u8],
        hashes: &[u64],
        all: &mut Vec<u64>,
        slots: &mut Vec<u32>,
    ) {
        let nulls = array.nulls().filter(|n| n.null_count() > 0);
        for (block, hashes) in hashes.chunks(BLOCK_ROWS).enumerate() {
            let first = block * BLOCK_ROWS;
            let found = locate(&self.table, hashes);
            let mut missing = false;
            for (i, found) in found[..hashes.len()].iter().enumerate() {
                let row = first + i;
                let slot = match found {
                    Some((held, slot)) if same(*held, view(row), &self.arena, &|| bytes(row)) => {
                        *slot
                    }
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
                if nulls.is_some_and(|n| n.is_null(row)) {
                    slots[row] = self.insert_null(*hash, all);
                } else if slots[row] == MISSING {
                    slots[row] = self.insert_one(view(row), || bytes(row), *hash, all);
                }
            }
        }
    }

    #[cold]
    fn insert_null(&mut self, hash: u64, all: &mut Vec<u64>) -> u32 {
        if self.null == MISSING {
            self.null = self.views.len() as u32;
            self.views.push(View(0, 0));
            all.push(hash);
        }
        self.null
    }

    fn insert_one<'a>(
        &mut self,
        view: View,
        bytes: impl Fn() -> &'a [u8],
        hash: u64,
        all: &mut Vec<u64>,
    ) -> u32 {
        let BytesKeys {
            views,
            arena,
            table,
            ..
        } = self;
        let entry = table.entry(
            hash,
            |e| same(e.0, view, arena, &bytes),
            |e| all[e.1 as usize],
        );
        match entry {
            Entry::Occupied(e) => e.get().1,
            Entry::Vacant(e) => {
                let mut view = view;
                if view.len() > INLINE_BYTES_MAX {
                    view.1 = arena.len() as u64;
                    arena.extend_from_slice(bytes());
                }
                let slot = views.len() as u32;
                e.insert((view, slot));
                views.push(view);
                all.push(hash);
                slot
            }
        }
    }

    pub fn find(&self, array: &dyn Array, hashes: &[u64], slots: &mut Vec<u32>) {
        macro_rules! with {
            ($a:expr) => {{
                let a = $a;
                each_row(array, |i, is_null| {
                    slots.push(if is_null {
                        self.null
                    } else {
                        let bytes: &[u8] = a.value(i).as_ref();
                        let view = View::of(bytes);
                        self.table
                            .find(hashes[i], |e| same(e.0, view, &self.arena, &|| bytes))
                            .map_or(MISSING, |e| e.1)
                    });
                })
            }};
        }
        match array.data_type() {
            DataType::Utf8 => with!(array.as_string::<i32>()),
            DataType::LargeUtf8 => with!(array.as_string::<i64>()),
            DataType::Binary => with!(array.as_binary::<i32>()),
            DataType::LargeBinary => with!(array.as_binary::<i64>()),
            DataType::BinaryView => with!(array.as_binary_view()),
            _ => with!(array.as_string_view()),
        }
    }

    pub fn take(&self, slots: &[u32]) -> ArrayRef {
        if self.data_type == DataType::Utf8View && self.arena.is_empty() {
            return self.take_inline(slots);
        }
        macro_rules! build {
            ($builder:expr, $value:expr) => {{
                let mut b = $builder;
                for s in slots {
                    if *s == self.null {
                        b.append_null();
                    } else {
                        b.append_value($value(self.bytes(*s)));
                    }
                }
                Arc::new(b.finish()) as ArrayRef
            }};
        }
        fn text(bytes: &[u8]) -> &str {
            std::str::from_utf8(bytes).expect("copied from a text column")
        }
        match self.data_type {
            DataType::Utf8 => build!(StringBuilder::new(), text),
            DataType::LargeUtf8 => build!(LargeStringBuilder::new(), text),
            DataType::Binary => build!(BinaryBuilder::new(), |b| b),
            DataType::LargeBinary => build!(LargeBinaryBuilder::new(), |b| b),
            DataType::BinaryView => build!(BinaryViewBuilder::new(), |b| b),
            _ => build!(StringViewBuilder::new(), text),
        }
    }

    /// `take` where every key is short text: the views are the column.
    fn take_inline(&self, slots: &[u32]) -> ArrayRef {
        let views: ScalarBuffer<u128> = slots
            .iter()
            .map(|s| self.views[*s as usize].raw())
            .collect::<Vec<_>>()
            .into();
        let nulls = (self.null != MISSING && slots.contains(&self.null))
            .then(|| NullBuffer::from_iter(slots.iter().map(|s| *s != self.null)));
        // SAFETY: every view is that of a value of a valid Utf8View array of at most twelve bytes,
        // copied whole, or the empty one, and so needs no buffer.
        Arc::new(unsafe { StringViewArray::new_unchecked(views, Vec::new(), nulls) })
    }

    fn bytes(&self, slot: u32) -> &[u8] {
        let view = &self.views[slot as usize];
        let len = view.len();
        if len <= INLINE_BYTES_MAX {
            // The bytes follow the length, in little-endian order.
            let raw: *const View = view;
            // SAFETY: a view is sixteen initialised bytes, of which 4..4+len are wanted; on the
            // little-endian targets that Arrow's views are defined for they lie in this order.
            unsafe { std::slice::from_raw_parts(raw.cast::<u8>().add(4), len) }
        } else {
            &self.arena[view.1 as usize..][..len]
        }
    }

    pub fn retain(&mut self, renumbered: &[u32], hashes: &[u64]) {
        let old = std::mem::replace(self, BytesKeys::new(self.data_type.clone()));
        self.table = HashTable::with_capacity(hashes.len());
        for (slot, new) in renumbered.iter().enumerate() {
            if *new == MISSING {
                continue;
            }
            let mut view = old.views[slot];
            if slot as u32 == old.null {
                self.null = *new;
            } else {
                if view.len() > INLINE_BYTES_MAX {
                    view.1 = self.arena.len() as u64;
                    self.arena.extend_from_slice(old.bytes(slot as u32));
                }
                self.table
                    .insert_unique(hashes[*new as usize], (view, *new), |e| {
                        hashes[e.1 as usize]
                    });
            }
            self.views.push(view);
        }
    }

    pub fn memory_bytes(&self) -> usize {
        self.views.capacity() * 16 + self.arena.capacity() + self.table.capacity() * 25
    }
}

/// True if the key held as `held` is the one of `view` and `bytes`.
#[inline]
fn same<'a>(held: View, view: View, arena: &[u8], bytes: &impl Fn() -> &'a [u8]) -> bool {
    if held.0 != view.0 {
        return false;
    }
    if view.len() <= INLINE_BYTES_MAX {
        held.1 == view.1
    } else {
        &arena[held.1 as usize..][..view.len()] == bytes()
    }
}

#[cfg(not(target_endian = "little"))]
compile_error!("keys are held in the byte order of Arrow's views on little-endian machines");
