//! [`Neighbours`]: the rows of large keys in order, for programs that look at no more than the [`Neighbourhood`] of a row.
//!
//! A changed row changes what such a program gives for the rows around it. The program is run on those and on the rows that they see in turn,
//! as they were before the epoch and as they are now; what it gives for rows at the edges, which don't see all that they should, is
//! the same both times, and so isn't in the difference. Parts of one key that aren't side by side may be given together: what the rows
//! at a seam see there is the same both times too.
//!
//! Some programs look at all rows before a row, too. Then the rows after a changed one are recomputed, and what those before it come to is carried
//! in ([`super::neighbour_tails`]).
//!
//! It is a cache of what the operator's input holds, in memory only. A key is taken in when a few rows of many change, as its rows have been
//! gathered then anyway.

use std::ops::Bound;
use std::sync::Arc;

use arrow::array::cast::AsArray;
use arrow::array::types::Float64Type;
use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::{SortOptions, cast, take};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::row::{RowConverter, Rows, SortField};
use hashbrown::HashMap;
use tidemill_zset::Delta;
use tidemill_zset::hash::float_bits;

use super::join_plan::StoredColumns;
use super::join_rows::{batch_of, nullable};
use super::neighbour_matches::Matches;
use super::neighbour_reach::{Places, Reader};
use super::neighbour_rows::{Bytes, ENTRY_BYTES, Key};
use super::neighbour_tails::{Carried, Picked, Tail, Tails};
use crate::plan::{BatchProgram, Neighbourhood, Reach};

/// Keys with fewer rows are recomputed as fast as whole.
const KEY_ROWS_MIN: usize = 512;
/// A key with more changes than this part of its rows is recomputed whole.
const CHANGED_SHARE: usize = 16;
/// So is one with more changes than these, of however many rows.
const CHANGED_MAX: usize = 1 << 14;
/// Keys that weren't taken in are remembered, so many of them.
const REFUSED_MAX: usize = 1 << 10;
/// Those on whose part the program has failed, for so many epochs.
const REFUSED_STEPS: u64 = 1 << 4;
/// A key of which more than this part comes after what has changed is recomputed whole, if that changes all of it.
const TAIL_SHARE: usize = 4;

/// See the module.
pub struct Neighbours {
    neighbourhood: Neighbourhood,
    input: SchemaRef,
    /// `None`: there is no key.
    by_key: Option<RowConverter>,
    by_order: RowConverter,
    by_all: RowConverter,
    places: Option<Places>,
    /// For a program that looks at all rows before a row.
    tails: Option<Tails>,
    /// For a program that gives rows with others that come before them.
    matches: Option<Matches>,
    keys: HashMap<Bytes, Key>,
    /// Keys that aren't worth it.
    refused: HashMap<Bytes, Refused>,
    bytes: usize,
    bytes_max: usize,
    /// Counts the epochs.
    step: u64,
}

/// Why a key isn't taken in.
enum Refused {
    /// With so many rows it didn't fit into memory.
    TooLarge(usize),
    /// The program has failed on a part of it; until this step.
    Failed(u64),
}

/// What is to be recomputed for the changes of an epoch, by the program, or by the one that is [`resumed`](crate::plan::Running::resumed).
pub struct Parts {
    /// The rows as they were.
    pub old: RecordBatch,
    /// The rows as they are.
    pub new: RecordBatch,
    /// For each key that was asked for, whether its rows are among these; the others are to be recomputed whole.
    pub covered: Vec<bool>,
}

impl Neighbours {
    /// Without rows. `keys`: the key columns of `input`. `None` if the program has no neighbourhood, or rows of such columns can't be ordered.
    pub fn new(
        program: &Arc<dyn BatchProgram>,
        keys: &[usize],
        input: &SchemaRef,
        bytes_max: usize,
    ) -> Option<Neighbours> {
        let neighbourhood = program.neighbourhood()?;
        let input = nullable(input);
        let field = |c: usize| SortField::new(sortable_type(input.field(c).data_type()));
        let order = neighbourhood.order.iter().map(|by| {
            let options = SortOptions::new(by.descending, by.nulls_first);
            let data_type = sortable_type(input.field(by.column).data_type());
            SortField::new_with_options(data_type, options)
        });
        let all = input.fields().iter();
        let all = all.map(|f| SortField::new(f.data_type().clone()));
        let converter = |fields: Vec<SortField>| match RowConverter::supports_fields(&fields) {
            true => RowConverter::new(fields).ok(),
            false => None,
        };
        let by_key = match keys.is_empty() {
            true => None,
            false => Some(converter(keys.iter().map(|c| field(*c)).collect())?),
        };
        let places = Places::of(neighbourhood, &input);
        let far = |reach: &Reach| matches!(reach, Reach::Distance { .. });
        if places.is_none() && neighbourhood.reaches.iter().any(far) {
            return None;
        }
        Some(Neighbours {
            by_key,
            places,
            tails: neighbourhood.runs.then(|| Tails::new(program.clone())),
            matches: neighbourhood.matches.map(Matches::new),
            by_order: converter(order.collect())?,
            by_all: converter(all.collect())?,
            neighbourhood: neighbourhood.clone(),
            input,
            keys: HashMap::new(),
            refused: HashMap::new(),
            bytes: 0,
            bytes_max,
            step: 0,
        })
    }

    /// Approximate bytes of memory.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes note of changes of the keys that are here; false if there are none. `keys`: the rows' keys; `changes` has the columns that
    /// are `stored`.
    pub fn note(&mut self, keys: &[ArrayRef], changes: &Delta, stored: &StoredColumns) -> bool {
        if self.keys.is_empty() {
            return false;
        }
        let owners = self.key_bytes(keys, changes.len());
        let held = |row: &u32| self.keys.contains_key(owners.of(*row as usize));
        let held: UInt32Array = (0..changes.len() as u32).filter(held).collect();
        if held.is_empty() {
            return false;
        }
        let column = |c| {
            let position = stored.position(c).expect("every column is stored");
            take(changes.rows.column(position), &held, None).expect("rows of the batch")
        };
        let columns: Vec<ArrayRef> = (0..self.input.fields().len()).map(column).collect();
        let (order, all) = self.row_bytes(&columns);
        for (i, row) in held.values().iter().enumerate() {
            let owner = owners.of(*row as usize);
            // It may have gone with the rows before.
            let Some(key) = self.keys.get_mut(owner) else {
                continue;
            };
            let before = key.bytes;
            key.add(
                order.row(i).data(),
                all.row(i).data(),
                changes.diffs.get(*row as usize),
            );
            self.bytes += key.bytes - before;
            if key.changed.len() > CHANGED_MAX {
                self.remove(owner);
            }
        }
        true
    }

    /// The rows around the changes of `keys` since the last call. No more than `rows_max` rows are given.
    pub fn parts(&mut self, keys: &[RecordBatch], rows_max: usize) -> Parts {
        let count = keys.iter().map(RecordBatch::num_rows).sum();
        let mut parts = Parts {
            old: RecordBatch::new_empty(self.input.clone()),
            new: RecordBatch::new_empty(self.input.clone()),
            covered: vec![false; count],
        };
        self.step += 1;
        if self.keys.is_empty() {
            return parts;
        }
        let mut touched = Vec::new();
        for batch in keys {
            let owners = self.key_bytes(batch.columns(), batch.num_rows());
            touched.extend((0..batch.num_rows()).map(|row| Bytes::from(owners.of(row))));
        }
        for bytes in &touched {
            if let Some(key) = self.keys.get_mut(bytes) {
                key.changed.sort_unstable();
                key.changed.dedup();
            }
        }
        match self.tails.clone() {
            Some(tails) => self.tail_parts(&tails, &touched, rows_max, &mut parts),
            None => self.side_parts(&touched, rows_max, &mut parts),
        }
        for bytes in &touched {
            self.settle(bytes);
        }
        if self.bytes > self.bytes_max {
            self.evict();
        }
        parts
    }

    /// The rows on both sides of the changes.
    fn side_parts(&self, touched: &[Bytes], rows_max: usize, parts: &mut Parts) {
        let reader = Reader {
            reaches: &self.neighbourhood.reaches,
            places: self.places.as_ref(),
        };
        let parser = self.by_all.parser();
        let (mut old, mut new) = (Vec::new(), Vec::new());
        for (bytes, covered) in touched.iter().zip(&mut parts.covered) {
            let Some(key) = self.keys.get(bytes) else {
                continue;
            };
            let left = rows_max.saturating_sub(old.len().max(new.len()));
            let most = left.min(key.count.max(0) as usize / 2);
            let around = match &self.matches {
                Some(matches) => matches.around(key, most),
                None => reader.around(key, most),
            };
            let Some(around) = around else {
                continue;
            };
            *covered = true;
            for (first, last) in &around {
                let range = (Bound::Included(first), Bound::Included(last));
                for (bytes, entry) in key.rows.range::<Bytes, _>(range) {
                    let row = parser.parse(&bytes[entry.order as usize..]);
                    old.extend((0..entry.old).map(|_| row));
                    new.extend((0..entry.new).map(|_| row));
                }
            }
        }
        parts.old = self.batch(old);
        parts.new = self.batch(new);
    }

    /// All rows from those on that the first change changes, and what is carried into them.
    fn tail_parts(&mut self, tails: &Tails, touched: &[Bytes], rows_max: usize, parts: &mut Parts) {
        let reader = Reader {
            reaches: &self.neighbourhood.reaches,
            places: self.places.as_ref(),
        };
        let mut left = rows_max;
        let mut found: Vec<(&Bytes, Tail)> = Vec::new();
        for (bytes, covered) in touched.iter().zip(&mut parts.covered) {
            let Some(key) = self.keys.get_mut(bytes) else {
                continue;
            };
            let before = key.bytes;
            let most = left.min(key.rows.len() / TAIL_SHARE);
            let tail = tails.find(key, &reader, &self.input, &self.by_all, most);
            self.bytes += key.bytes - before;
            let Some(tail) = tail else {
                continue;
            };
            *covered = true;
            if let Some(tail) = tail {
                left = left.saturating_sub(tail.rows);
                found.push((bytes, tail));
            }
        }
        let Some(running) = tails.running().filter(|_| !found.is_empty()) else {
            return;
        };
        let parser = self.by_all.parser();
        let (mut old, mut new) = (Picked::default(), Picked::default());
        let mut carried: Vec<&Carried> = Vec::new();
        for (bytes, tail) in &found {
            let number = carried.len() as i32;
            tail.pick(&self.keys[*bytes], &parser, number, &mut old, &mut new);
            carried.extend(tail.carried());
        }
        parts.old = old.batch(running, &carried, &self.input, &self.by_all);
        parts.new = new.batch(running, &carried, &self.input, &self.by_all);
    }

    /// Drops a key. What is here for it may not be what the operator holds any more.
    pub fn forget(&mut self, key: &[ArrayRef]) {
        if !self.keys.is_empty() {
            let bytes = self.key_bytes(key, 1);
            self.remove(bytes.of(0));
        }
    }

    /// Drops a key of which the program has failed on a part; it isn't taken in again for some time, as it may fail on the next one, too.
    pub fn refuse(&mut self, key: &[ArrayRef]) {
        self.forget(key);
        let owner = Bytes::from(self.key_bytes(key, 1).of(0));
        self.note_refused(owner, Refused::Failed(self.step + REFUSED_STEPS));
    }

    fn note_refused(&mut self, owner: Bytes, why: Refused) {
        if self.refused.len() >= REFUSED_MAX {
            self.refused.clear();
        }
        self.refused.insert(owner, why);
    }

    /// Takes a key in if that will pay: `rows` are all that it has, `changed` how many of them have changed in this epoch.
    pub fn take_in(&mut self, key: &[ArrayRef], rows: &RecordBatch, changed: usize) {
        let count = rows.num_rows();
        if count < KEY_ROWS_MIN || changed > most_changes(count) {
            return;
        }
        let tails = self.tails.as_ref();
        if tails.is_some_and(|tails| tails.running().is_none()) {
            return;
        }
        let owner = Bytes::from(self.key_bytes(key, 1).of(0));
        let refused = self.refused.get(&owner).is_some_and(|why| match why {
            Refused::TooLarge(had) => count >= *had,
            Refused::Failed(until) => self.step < *until,
        });
        if self.keys.contains_key(&owner) || refused {
            return;
        }
        let (order, all) = self.row_bytes(rows.columns());
        if count * ENTRY_BYTES + order.size() + all.size() > self.bytes_max {
            self.note_refused(owner, Refused::TooLarge(count));
            return;
        }
        let mut key = Key {
            touched: self.step,
            ..Key::default()
        };
        for (order, all) in order.iter().zip(&all) {
            key.add(order.data(), all.data(), 1);
        }
        key.settle();
        self.bytes += key.bytes;
        self.keys.insert(owner, key);
        if self.bytes > self.bytes_max {
            self.evict();
        }
    }

    /// What is now is what was before the next epoch.
    fn settle(&mut self, bytes: &[u8]) {
        let Some(key) = self.keys.get_mut(bytes) else {
            return;
        };
        let before = key.bytes;
        key.touched = self.step;
        let many = key.changed.len() > most_changes(key.count.max(0) as usize);
        let whole = key.settle();
        self.bytes -= before - key.bytes;
        // One that shrinks would be looked through for nothing, and one that changes as a whole costs more here than it saves.
        if !whole || many || key.count < KEY_ROWS_MIN as i64 / 2 {
            self.remove(bytes);
        }
    }

    fn remove(&mut self, bytes: &[u8]) {
        if let Some(key) = self.keys.remove(bytes) {
            self.bytes -= key.bytes;
        }
    }

    /// Drops the keys that haven't changed for the longest time, until half of the memory is free.
    fn evict(&mut self) {
        let mut keys: Vec<(u64, Bytes)> = self
            .keys
            .iter()
            .map(|(bytes, key)| (key.touched, bytes.clone()))
            .collect();
        keys.sort_unstable();
        for (_, bytes) in keys {
            if self.bytes <= self.bytes_max / 2 {
                break;
            }
            self.remove(&bytes);
        }
    }

    fn key_bytes(&self, keys: &[ArrayRef], rows: usize) -> KeyBytes {
        let columns: Vec<ArrayRef> = keys.iter().map(sortable).collect();
        let by_key = self.by_key.as_ref();
        let bytes = by_key.map(|c| c.convert_columns(&columns).expect("the types of the keys"));
        debug_assert!(bytes.as_ref().is_none_or(|b| b.num_rows() == rows));
        KeyBytes(bytes)
    }

    /// The bytes of each row's place in the order, and of the row.
    fn row_bytes(&self, columns: &[ArrayRef]) -> (Rows, Rows) {
        let order = self.neighbourhood.order.iter();
        let order: Vec<ArrayRef> = order.map(|by| sortable(&columns[by.column])).collect();
        let convert = |converter: &RowConverter, columns: &[ArrayRef]| {
            converter
                .convert_columns(columns)
                .expect("columns of the types given")
        };
        (
            convert(&self.by_order, &order),
            convert(&self.by_all, columns),
        )
    }

    fn batch<'r>(&self, rows: Vec<arrow::row::Row<'r>>) -> RecordBatch {
        let count = rows.len();
        let columns = self.by_all.convert_rows(rows);
        let columns = columns.expect("bytes that were made of such rows");
        batch_of(&self.input, columns, count)
    }
}

/// With more changes a key of so many rows is recomputed whole.
fn most_changes(rows: usize) -> usize {
    CHANGED_MAX.min(rows / CHANGED_SHARE)
}

/// The bytes of some keys.
struct KeyBytes(Option<Rows>);

impl KeyBytes {
    fn of(&self, row: usize) -> &[u8] {
        match &self.0 {
            Some(rows) => rows.row(row).data(),
            None => &[],
        }
    }
}

/// What floats are ordered by: they have one NaN and one zero.
fn sortable(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Float16 | DataType::Float32 | DataType::Float64 => {
            let wide = cast(column, &DataType::Float64).expect("floats widen");
            let wide = wide.as_primitive::<Float64Type>();
            let one = |v| f64::from_bits(float_bits(v));
            Arc::new(wide.unary::<_, Float64Type>(one))
        }
        _ => column.clone(),
    }
}

fn sortable_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Float16 | DataType::Float32 | DataType::Float64 => DataType::Float64,
        other => other.clone(),
    }
}
