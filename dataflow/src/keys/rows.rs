//! Keys of any columns, held in Arrow's row format (in memory only: it isn't a stable format).

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use arrow::row::{RowConverter, Rows, SortField};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use tidemill_zset::consolidate::normalise_floats;

use super::MISSING;

/// See the module.
pub struct RowKeys {
    converter: RowConverter,
    /// End of each slot's row in `data`; it begins where the previous one ends.
    ends: Vec<usize>,
    data: Vec<u8>,
    table: HashTable<u32>,
    scratch: Rows,
}

impl RowKeys {
    pub fn new(types: &[DataType]) -> Self {
        let fields = types.iter().map(|t| SortField::new(t.clone())).collect();
        let converter = RowConverter::new(fields)
            .unwrap_or_else(|e| panic!("the planner must refuse keys of these types: {e}"));
        let scratch = converter.empty_rows(0, 0);
        RowKeys {
            converter,
            ends: Vec::new(),
            data: Vec::new(),
            table: HashTable::new(),
            scratch,
        }
    }

    pub fn insert(
        &mut self,
        columns: &[ArrayRef],
        hashes: &[u64],
        all: &mut Vec<u64>,
        slots: &mut Vec<u32>,
    ) {
        let columns: Vec<ArrayRef> = columns.iter().map(normalise_floats).collect();
        self.scratch.clear();
        self.converter
            .append(&mut self.scratch, &columns)
            .expect("columns of the declared types");
        let RowKeys {
            ends,
            data,
            table,
            scratch,
            ..
        } = self;
        for (i, hash) in hashes.iter().enumerate() {
            let row = scratch.row(i);
            let bytes = row.as_ref();
            let entry = table.entry(
                *hash,
                |s| all[*s as usize] == *hash && row_at(ends, data, *s) == bytes,
                |s| all[*s as usize],
            );
            let slot = match entry {
                Entry::Occupied(e) => *e.get(),
                Entry::Vacant(e) => {
                    let slot = ends.len() as u32;
                    e.insert(slot);
                    data.extend_from_slice(bytes);
                    ends.push(data.len());
                    all.push(*hash);
                    slot
                }
            };
            slots.push(slot);
        }
    }

    pub fn find(&self, columns: &[ArrayRef], hashes: &[u64], all: &[u64], slots: &mut Vec<u32>) {
        let columns: Vec<ArrayRef> = columns.iter().map(normalise_floats).collect();
        let rows = self
            .converter
            .convert_columns(&columns)
            .expect("columns of the declared types");
        for (i, hash) in hashes.iter().enumerate() {
            let row = rows.row(i);
            let found = self.table.find(*hash, |s| {
                all[*s as usize] == *hash
                    && row_at(&self.ends, &self.data, *s) == AsRef::<[u8]>::as_ref(&row)
            });
            slots.push(found.copied().unwrap_or(MISSING));
        }
    }

    pub fn take(&self, slots: &[u32]) -> Vec<ArrayRef> {
        let parser = self.converter.parser();
        let rows = slots
            .iter()
            .map(|s| parser.parse(row_at(&self.ends, &self.data, *s)));
        self.converter
            .convert_rows(rows)
            .expect("rows made by the same converter")
    }

    pub fn retain(&mut self, renumbered: &[u32], hashes: &[u64]) {
        let ends = std::mem::take(&mut self.ends);
        let data = std::mem::take(&mut self.data);
        self.table = HashTable::with_capacity(hashes.len());
        for (slot, new) in renumbered.iter().enumerate() {
            if *new != MISSING {
                self.data
                    .extend_from_slice(row_at(&ends, &data, slot as u32));
                self.ends.push(self.data.len());
                self.table
                    .insert_unique(hashes[*new as usize], *new, |s| hashes[*s as usize]);
            }
        }
    }

    pub fn memory_bytes(&self) -> usize {
        self.ends.capacity() * 8
            + self.data.capacity()
            + self.table.capacity() * 5
            + self.scratch.size()
    }
}

fn row_at<'a>(ends: &[usize], data: &'a [u8], slot: u32) -> &'a [u8] {
    let slot = slot as usize;
    let start = if slot == 0 { 0 } else { ends[slot - 1] };
    &data[start..ends[slot]]
}
