//! The rows of a key from some row on, for programs that look at all rows before a row ([`Running`], see [`super::neighbours`]).
//!
//! What a changed row changes are the rows after it; what the rows before it come to is carried in. So that not all of them have to
//! be added up each time, what is to be carried in is kept for some places: [`Carried`]. They are made when they are wanted, for rows that haven't
//! changed, and are gone when a row before them changes, or one that those see.

use std::ops::Bound;
use std::sync::Arc;

use arrow::array::types::Int32Type;
use arrow::array::{
    Array, ArrayRef, AsArray, DictionaryArray, Int32Array, Int64Array, RecordBatch, new_empty_array,
};
use arrow::compute::concat;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use arrow::row::{Row, RowConverter, RowParser};
use hashbrown::HashMap;

use super::join_rows::batch_of;
use super::neighbour_reach::Reader;
use super::neighbour_rows::{Bytes, Entry, Key};
use crate::plan::{BatchProgram, Running};

/// Rows between two places for which it is known what is carried in; more where many are equal in order.
const STRIDE: usize = 1 << 6;
/// Rows that are added up at once.
const RUN_ROWS: usize = 1 << 16;
/// So often in an epoch for one key, which is computed whole if that isn't enough: others wait for it.
const RUNS_MAX: usize = 16;
/// What a [`Carried`] takes beside its bytes and its columns'.
const CARRIED_BYTES: usize = 512;

/// What the rows before a place come to.
pub struct Carried {
    /// The bytes of the place.
    pub at: Bytes,
    /// A row, for the types that are carried.
    pub values: Vec<ArrayRef>,
}

/// The rows of a key that are to be recomputed: all from some row on.
pub struct Tail {
    /// The first one; `None` is the key's.
    from: Option<Bytes>,
    /// What is carried into those that are counted.
    carried: Option<Carried>,
    /// How many there are, before or after the epoch.
    pub rows: usize,
}

/// Finds the tails of keys.
#[derive(Clone)]
pub struct Tails {
    program: Arc<dyn BatchProgram>,
}

/// Rows for the programs.
#[derive(Default)]
pub struct Picked<'r> {
    rows: Vec<Row<'r>>,
    segments: Vec<Option<i64>>,
    /// Which of the values is carried in.
    carried: Vec<Option<i32>>,
}

impl<'r> Picked<'r> {
    fn push(&mut self, row: Row<'r>, times: i64, segment: Option<i64>, carried: Option<i32>) {
        for _ in 0..times {
            self.rows.push(row);
            self.segments.push(segment);
            self.carried.push(carried);
        }
    }

    /// The program's input. `values`: what is carried; `input`: columns of the rows.
    pub fn batch(
        self,
        running: &Running,
        values: &[&Carried],
        input: &SchemaRef,
        by_all: &RowConverter,
    ) -> RecordBatch {
        let count = self.rows.len();
        let columns = by_all.convert_rows(self.rows);
        let mut columns = columns.expect("bytes that were made of such rows");
        columns.push(Arc::new(Int64Array::from(self.segments)));
        let mut fields = input.fields().to_vec();
        fields.push(Arc::new(Field::new("segment", DataType::Int64, true)));
        let keys = Int32Array::from(self.carried);
        for (i, of) in running.carried.iter().enumerate() {
            let values: Vec<&dyn Array> = values.iter().map(|c| c.values[i].as_ref()).collect();
            let values = match values.is_empty() {
                true => new_empty_array(of),
                false => concat(&values).expect("values of one type"),
            };
            let column = DictionaryArray::<Int32Type>::try_new(keys.clone(), values);
            let column = column.expect("keys of the values");
            let name = format!("carried_{i}");
            fields.push(Arc::new(Field::new(name, column.data_type().clone(), true)));
            columns.push(Arc::new(column));
        }
        batch_of(&Arc::new(Schema::new(fields)), columns, count)
    }
}

impl Tails {
    /// Of a program that looks at all rows before a row.
    pub fn new(program: Arc<dyn BatchProgram>) -> Tails {
        Tails { program }
    }

    /// The programs.
    pub fn running(&self) -> Option<&Running> {
        self.program.running()
    }

    /// The rows of a key that its changes change, with those before them that are wanted for that; `None` inside if there are none. `None` if they
    /// are more than `rows_max`, the key is broken, or what is carried in can't be computed.
    pub fn find(
        &self,
        key: &mut Key,
        reader: &Reader<'_>,
        input: &SchemaRef,
        by_all: &RowConverter,
        rows_max: usize,
    ) -> Option<Option<Tail>> {
        let first = match reader.first(key, RUN_ROWS) {
            Some(Some(first)) => first.clone(),
            Some(None) => return Some(None),
            None => {
                key.forget_carried(None);
                return None;
            }
        };
        key.forget_carried(Some(&first));
        count(key, Some(&first), None, rows_max)?;
        for _ in 0..RUNS_MAX {
            if !self.carry_on(key, &first, reader, input, by_all)? {
                break;
            }
        }
        let mut tail = Tail {
            from: None,
            carried: None,
            rows: 0,
        };
        if let Some(carried) = key.carried_before(&first) {
            tail.from = Some(reader.lead_in(key, &carried.at, rows_max)?.clone());
            tail.carried = Some(Carried {
                at: carried.at.clone(),
                values: carried.values.clone(),
            });
        }
        tail.rows = count(key, tail.from.as_ref(), None, rows_max + 4 * STRIDE)?;
        Some(Some(tail))
    }

    /// Finds out what is carried in for more places, none of which is behind the row at `first`, up to which nothing has changed. False if there are enough.
    fn carry_on(
        &self,
        key: &mut Key,
        first: &Bytes,
        reader: &Reader<'_>,
        input: &SchemaRef,
        by_all: &RowConverter,
    ) -> Option<bool> {
        let known = key.carried_before(first);
        if count(key, known.map(|c| &c.at), Some(first), 2 * STRIDE).is_some() {
            return Some(false);
        }
        let running = self.running()?;
        let parser = by_all.parser();
        let mut picked = Picked::default();
        let known_there = known.map(|_| 0);
        if let Some(known) = known {
            let lead_in = reader.lead_in(key, &known.at, RUN_ROWS)?;
            let lead_in = key.rows_from(Some(lead_in));
            for (bytes, entry) in lead_in.take_while(|(bytes, _)| **bytes < known.at) {
                picked.push(parse(&parser, bytes, entry), entry.old, None, known_there);
            }
        }
        // The places after the segments.
        let mut places: Vec<Bytes> = Vec::new();
        let mut in_segment = 0;
        let mut last: Option<(&Bytes, &Entry)> = None;
        let mut rest = key.rows_from(known.map(|c| &c.at));
        for (bytes, entry) in rest.by_ref() {
            let place = &bytes[..entry.order as usize];
            let begins = last.is_none_or(|(b, e)| b[..e.order as usize] != *place);
            if begins && in_segment >= STRIDE {
                places.push(place.into());
                in_segment = 0;
                if picked.rows.len() >= RUN_ROWS {
                    break;
                }
            }
            if bytes >= first {
                break;
            }
            let carried = known_there.filter(|_| places.is_empty());
            let segment = Some(places.len() as i64);
            picked.push(parse(&parser, bytes, entry), entry.old, segment, carried);
            in_segment += entry.old as usize;
            last = Some((bytes, entry));
        }
        if places.is_empty() {
            return Some(false);
        }
        // Those that the last ones see are another segment, which isn't whole.
        let (last, _) = last?;
        let lead_out = reader.lead_out(key, last, RUN_ROWS)?;
        let behind = (Bound::Excluded(last), Bound::Included(lead_out));
        let segment = Some(places.len() as i64);
        for (bytes, entry) in key.rows.range::<Bytes, _>(behind) {
            picked.push(parse(&parser, bytes, entry), entry.old, segment, None);
        }
        let known: Vec<&Carried> = known.into_iter().collect();
        let rows = picked.batch(running, &known, input, by_all);
        let found = carried_after(running, &rows)?;
        for (segment, at) in places.into_iter().enumerate() {
            let values = found.iter().map(|c| c.get(&(segment as i64)).cloned());
            let values = values.collect::<Option<_>>()?;
            key.carry(Carried { at, values });
        }
        Some(true)
    }
}

impl Tail {
    /// The rows as they were, and as they are. `number`: which of the values is carried into this tail.
    pub fn pick<'k>(
        &self,
        key: &'k Key,
        parser: &'k RowParser,
        number: i32,
        old: &mut Picked<'k>,
        new: &mut Picked<'k>,
    ) {
        let carried = self.carried.as_ref().map(|_| number);
        for (bytes, entry) in key.rows_from(self.from.as_ref()) {
            let counted = self.carried.as_ref().is_none_or(|c| *bytes >= c.at);
            let segment = counted.then_some(0);
            let row = parse(parser, bytes, entry);
            old.push(row, entry.old, segment, carried);
            new.push(row, entry.new, segment, carried);
        }
    }

    /// What is carried into it.
    pub fn carried(&self) -> Option<&Carried> {
        self.carried.as_ref()
    }
}

impl Carried {
    /// Memory, approximately.
    pub fn bytes(&self) -> usize {
        let own = |a: &ArrayRef| a.to_data().get_slice_memory_size().unwrap_or(0);
        CARRIED_BYTES + self.at.len() + self.values.iter().map(own).sum::<usize>()
    }
}

/// How many rows there are from one to another, before or after the epoch; `None` if they are more than `rows_max`.
fn count(key: &Key, from: Option<&Bytes>, to: Option<&Bytes>, rows_max: usize) -> Option<usize> {
    let mut rows = 0;
    for (bytes, entry) in key.rows_from(from) {
        if to.is_some_and(|to| bytes >= to) {
            break;
        }
        rows += entry.old.max(entry.new) as usize;
        if rows > rows_max {
            return None;
        }
    }
    Some(rows)
}

fn parse<'k>(parser: &'k RowParser, bytes: &'k Bytes, entry: &Entry) -> Row<'k> {
    parser.parse(&bytes[entry.order as usize..])
}

/// For each column that is carried, what is carried into the rows after each segment; `None` if it can't be computed.
fn carried_after(running: &Running, rows: &RecordBatch) -> Option<Vec<HashMap<i64, ArrayRef>>> {
    let mut found = Vec::new();
    for program in &running.carries {
        let given = program
            .run(vec![vec![rows.clone()]], &Arc::default())
            .ok()?;
        let columns = given.first().map_or(0, RecordBatch::num_columns);
        let from = found.len();
        found.resize_with(from + columns.saturating_sub(1), HashMap::new);
        for batch in given {
            let segments = batch.column(0).as_primitive::<Int64Type>();
            for (row, segment) in segments.values().iter().enumerate() {
                for (column, found) in found[from..].iter_mut().enumerate() {
                    found.insert(*segment, batch.column(column + 1).slice(row, 1));
                }
            }
        }
    }
    (found.len() == running.carried.len()).then_some(found)
}
