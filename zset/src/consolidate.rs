//! Consolidation: add up the diffs of equal rows and drop those that become zero.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::cast::AsArray;
use arrow::array::{Array, ArrayRef, LargeListArray, ListArray, StructArray, UInt32Array};
use arrow::array::{DynComparator, make_comparator};
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Float16Type, Float32Type, Float64Type, SchemaRef};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::hash::hash_columns;
use crate::{Delta, Diffs};

/// Consolidates `deltas` (all of `schema`) into one delta without duplicate rows and without
/// zero diffs. Rows keep the order of their first occurrence. Two rows are equal if all their
/// columns are: NULL equals NULL, every NaN equals every NaN, -0.0 equals 0.0.
pub fn consolidate(schema: &SchemaRef, deltas: &[Delta]) -> Delta {
    let all = Delta::concat(schema, deltas).expect("deltas of one schema");
    match all.len() {
        0 => return all,
        1 if all.diffs.get(0) != 0 => return all,
        _ => {}
    }
    let Some(sums) = summed(&all) else {
        return all;
    };
    let kept: Vec<u32> = (0..all.len() as u32)
        .filter(|row| sums[*row as usize] != 0)
        .collect();
    let diffs: Vec<i64> = sums.into_iter().filter(|sum| *sum != 0).collect();
    let rows = Delta {
        rows: all.rows,
        diffs: Diffs::Ones,
    };
    let mut kept = rows
        .take(&UInt32Array::from(kept))
        .expect("row numbers within the batch");
    kept.diffs = diffs.into();
    kept
}

/// Rows of which so many are looked at to know whether most are repeated.
const SAMPLE_ROWS: usize = 256;
/// Rows that are worth it.
const SAMPLED_ROWS_MIN: usize = 4 * SAMPLE_ROWS;

/// `delta` consolidated where a sample of its rows says that few are left of them, as of the foreign keys of a large table; else
/// as it is.
pub fn consolidate_repeated(delta: Delta) -> Delta {
    if delta.len() < SAMPLED_ROWS_MIN {
        return delta;
    }
    let every = delta.len() / SAMPLE_ROWS;
    let sample = (0..SAMPLE_ROWS).map(|n| (n * every) as u32);
    let sample = delta.take(&UInt32Array::from_iter_values(sample));
    let sample = sample.expect("row numbers within the batch");
    let mut hashes = hash_columns(sample.rows.columns(), sample.len());
    hashes.sort_unstable();
    hashes.dedup();
    match hashes.len() <= SAMPLE_ROWS / 2 {
        true => consolidate(&delta.schema(), &[delta]),
        false => delta,
    }
}

/// By row, the sum of the diffs of all rows equal to it where it is the first of them, else 0. `None` if that is what
/// `all` has, with no zero in it.
fn summed(all: &Delta) -> Option<Vec<i64>> {
    let hashes = hash_columns(all.rows.columns(), all.len());
    let repeated = perhaps_repeated(&hashes);
    let mut sums = all.diffs.to_buffer(all.len()).to_vec();
    let mut changed = sums.contains(&0);
    if repeated.is_empty() && !changed {
        return None;
    }
    let equal = RowEquality::new(all.rows.columns());
    // First rows.
    let mut table: HashTable<u32> = HashTable::with_capacity(repeated.len());
    for row in repeated {
        let hash = hashes[row as usize];
        let entry = table.entry(
            hash,
            |first| hashes[*first as usize] == hash && equal.test(*first as usize, row as usize),
            |first| hashes[*first as usize],
        );
        match entry {
            Entry::Occupied(first) => {
                let diff = std::mem::take(&mut sums[row as usize]);
                let sum = &mut sums[*first.get() as usize];
                *sum = sum
                    .checked_add(diff)
                    .expect("the multiplicity of a row fits 64 bits");
                changed = true;
            }
            Entry::Vacant(e) => {
                e.insert(row);
            }
        }
    }
    changed.then_some(sums)
}

/// Bits per row of the table in which [`perhaps_repeated`] marks hashes: one row in so many is looked at for nothing.
const MARKS_PER_ROW: usize = 16;

/// The rows, ascending, whose hash may occur more than once; all others' doesn't. Most changes have few or none, which two passes
/// over a table of bits find out several times faster than a hash table of rows.
fn perhaps_repeated(hashes: &[u64]) -> Vec<u32> {
    let marks = (hashes.len() * MARKS_PER_ROW).next_power_of_two().max(64);
    let shift = u64::BITS - marks.trailing_zeros();
    // Side by side: marked once, marked again.
    let mut table = vec![[0u64; 2]; marks / 64];
    let place = |hash: u64| {
        let mark = hash >> shift;
        (mark as usize / 64, 1u64 << (mark % 64))
    };
    let mut any = 0;
    for hash in hashes {
        let (word, bit) = place(*hash);
        let [once, again] = &mut table[word];
        *again |= *once & bit;
        any |= *again;
        *once |= bit;
    }
    if any == 0 {
        return Vec::new();
    }
    let repeated = |(_, hash): &(usize, &u64)| {
        let (word, bit) = place(**hash);
        table[word][1] & bit != 0
    };
    let rows = hashes.iter().enumerate().filter(repeated);
    rows.map(|(row, _)| row as u32).collect()
}

/// Compares rows of one batch with each other.
struct RowEquality {
    columns: Vec<DynComparator>,
}

impl RowEquality {
    fn new(columns: &[ArrayRef]) -> Self {
        let compare = |c: &ArrayRef| {
            let c = normalise_floats(c);
            make_comparator(&c, &c, SortOptions::default())
                .unwrap_or_else(|e| panic!("the planner must refuse rows of this type: {e}"))
        };
        RowEquality {
            columns: columns.iter().map(compare).collect(),
        }
    }

    #[inline]
    fn test(&self, a: usize, b: usize) -> bool {
        self.columns.iter().all(|c| c(a, b) == Ordering::Equal)
    }
}

/// The column with every NaN the same and -0.0 as 0.0, also inside lists and structs; other columns as they are.
pub fn normalise_floats(array: &ArrayRef) -> ArrayRef {
    if !has_floats(array.data_type()) {
        return array.clone();
    }
    match array.data_type() {
        DataType::Float64 => {
            let plain = |v: f64| if v.is_nan() { f64::NAN } else { v + 0.0 };
            let a = array.as_primitive::<Float64Type>();
            Arc::new(a.unary::<_, Float64Type>(plain))
        }
        DataType::Float32 => {
            let plain = |v: f32| if v.is_nan() { f32::NAN } else { v + 0.0 };
            let a = array.as_primitive::<Float32Type>();
            Arc::new(a.unary::<_, Float32Type>(plain))
        }
        DataType::Float16 => {
            let a = array.as_primitive::<Float16Type>();
            let wide = a.unary::<_, Float32Type>(|v| v.to_f32());
            let wide = normalise_floats(&(Arc::new(wide) as ArrayRef));
            arrow::compute::cast(&wide, &DataType::Float16).expect("floats convert")
        }
        DataType::List(_) => {
            let (field, offsets, values, nulls) = array.as_list::<i32>().clone().into_parts();
            let values = normalise_floats(&values);
            Arc::new(ListArray::new(field, offsets, values, nulls))
        }
        DataType::LargeList(_) => {
            let (field, offsets, values, nulls) = array.as_list::<i64>().clone().into_parts();
            let values = normalise_floats(&values);
            Arc::new(LargeListArray::new(field, offsets, values, nulls))
        }
        DataType::Struct(_) => {
            let (fields, columns, nulls) = array.as_struct().clone().into_parts();
            let columns = columns.iter().map(normalise_floats).collect();
            Arc::new(StructArray::new(fields, columns, nulls))
        }
        _ => array.clone(),
    }
}

fn has_floats(t: &DataType) -> bool {
    match t {
        DataType::Float16 | DataType::Float32 | DataType::Float64 => true,
        DataType::List(f) | DataType::LargeList(f) => has_floats(f.data_type()),
        DataType::Struct(fields) => fields.iter().any(|f| has_floats(f.data_type())),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use arrow::array::{Float64Array, Int64Array, RecordBatch, StringViewArray};
    use arrow::datatypes::{Field, Schema};
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("i", DataType::Int64, true),
            Field::new("f", DataType::Float64, true),
            Field::new("s", DataType::Utf8View, true),
        ]))
    }

    #[test]
    fn large_deltas_of_few_different_rows_are_added_up() {
        let seed = 11;
        println!("seed {seed}");
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for (rows, ints, small) in [(6000, 10, true), (6000, 1 << 40, false), (1000, 2, false)] {
            let delta = random(&mut rng, rows, ints);
            let other = consolidate_repeated(delta.clone());
            assert_eq!(other.len() < delta.len() / 2, small, "{rows} rows, {ints}");
            let all = |delta: &Delta| consolidate(&delta.schema(), std::slice::from_ref(delta));
            let (want, got) = (all(&delta), all(&other));
            assert_eq!(
                consolidate(&want.schema(), &[want.clone(), got.negate()]).len(),
                0
            );
        }
    }

    /// Integers below `ints`: few or many rows are equal.
    fn random(rng: &mut ChaCha8Rng, rows: usize, ints: i64) -> Delta {
        let ints = Int64Array::from_iter(
            (0..rows).map(|_| rng.random_bool(0.8).then(|| rng.random_range(0..ints))),
        );
        let floats = [
            Some(0.0),
            Some(-0.0),
            Some(f64::NAN),
            Some(-f64::NAN),
            Some(1.5),
            None,
        ];
        let floats = Float64Array::from_iter((0..rows).map(|_| floats[rng.random_range(0..6)]));
        let words = [Some("a"), Some("a word of more than twelve bytes"), None];
        let words = StringViewArray::from_iter((0..rows).map(|_| words[rng.random_range(0..3)]));
        let columns: Vec<ArrayRef> = vec![Arc::new(ints), Arc::new(floats), Arc::new(words)];
        let rows = RecordBatch::try_new(schema(), columns).unwrap();
        if rng.random_bool(0.3) {
            return Delta::insert(rows);
        }
        let diffs: Vec<i64> = (0..rows.num_rows())
            .map(|_| rng.random_range(-2..3))
            .collect();
        Delta::new(rows, diffs)
    }

    fn key(d: &Delta, row: usize) -> String {
        let ints = d
            .rows
            .column(0)
            .as_primitive::<arrow::datatypes::Int64Type>();
        let floats = d.rows.column(1).as_primitive::<Float64Type>();
        let words = d.rows.column(2).as_string_view();
        let float = floats
            .is_valid(row)
            .then(|| crate::hash::float_bits(floats.value(row)));
        let int = ints.is_valid(row).then(|| ints.value(row));
        let word = words.is_valid(row).then(|| words.value(row));
        format!("{int:?} {float:?} {word:?}")
    }

    #[test]
    fn sums_diffs_as_a_map_does() {
        for seed in 0..50 {
            println!("seed {seed}");
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let deltas: Vec<Delta> = (0..rng.random_range(0..4))
                .map(|_| {
                    let (rows, ints) = match seed % 2 {
                        0 => (rng.random_range(0..60), 3),
                        _ => (rng.random_range(0..600), 100_000),
                    };
                    random(&mut rng, rows, ints)
                })
                .collect();
            let mut sums: HashMap<String, i64> = HashMap::new();
            let mut order = Vec::new();
            for d in &deltas {
                for row in 0..d.len() {
                    let k = key(d, row);
                    if !sums.contains_key(&k) {
                        order.push(k.clone());
                    }
                    *sums.entry(k).or_default() += d.diffs.get(row);
                }
            }
            let expected: Vec<(String, i64)> = order
                .into_iter()
                .map(|k| (k.clone(), sums[&k]))
                .filter(|(_, d)| *d != 0)
                .collect();
            let got = consolidate(&schema(), &deltas);
            let got: Vec<(String, i64)> = (0..got.len())
                .map(|r| (key(&got, r), got.diffs.get(r)))
                .collect();
            assert_eq!(got, expected);
        }
    }
}
