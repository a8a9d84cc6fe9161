//! One output row per list element; then structs spread into their fields.

use arrow::array::cast::AsArray;
use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, SchemaRef};
use tidemill_zset::{Delta, Diffs, Epoch};

use crate::operator::{Operator, Output};
use crate::operators::map::conform;

/// Rows of a piece of output; a single row with more elements makes a longer one.
const PIECE_ROWS_MAX: usize = 8_192;

/// See the module.
pub struct Unnest {
    columns: Vec<usize>,
    structs: Vec<usize>,
    schema: SchemaRef,
}

/// A list column: its elements, and per row where they begin and how many they are (NULL: none).
struct Lists {
    elements: ArrayRef,
    starts: Vec<usize>,
    lengths: Vec<usize>,
}

impl Unnest {
    /// Unnests the lists in `columns`, then spreads the structs in `structs`; the result has `schema`.
    pub fn new(columns: Vec<usize>, structs: Vec<usize>, schema: SchemaRef) -> Self {
        Unnest {
            columns,
            structs,
            schema,
        }
    }

    fn unnest(&self, delta: &Delta, out: &mut Output) {
        if self.columns.is_empty() {
            out.rows.push(Delta {
                rows: self.spread(delta.rows.columns().to_vec(), delta.len()),
                diffs: delta.diffs.clone(),
            });
            return;
        }
        let lists: Vec<Lists> = self
            .columns
            .iter()
            .map(|c| Lists::of(delta.rows.column(*c)))
            .collect();
        let lengths: Vec<usize> = (0..delta.len())
            .map(|row| lists.iter().map(|l| l.lengths[row]).max().unwrap_or(1))
            .collect();
        let mut from = 0;
        while from < lengths.len() {
            let mut to = from + 1;
            let mut rows = lengths[from];
            while to < lengths.len() && rows + lengths[to] <= PIECE_ROWS_MAX {
                rows += lengths[to];
                to += 1;
            }
            if rows > 0 {
                out.rows.push(self.piece(delta, &lists, &lengths, from..to));
            }
            from = to;
        }
    }

    /// The output of the input rows in `range`.
    fn piece(
        &self,
        delta: &Delta,
        lists: &[Lists],
        lengths: &[usize],
        range: std::ops::Range<usize>,
    ) -> Delta {
        let rows = lengths[range.clone()].iter().sum();
        let only_lists = self.columns.len() == delta.rows.num_columns();
        let repeat: Vec<u32> = match (&delta.diffs, only_lists) {
            (Diffs::Ones, true) => vec![],
            _ => range
                .clone()
                .flat_map(|row| std::iter::repeat_n(row as u32, lengths[row]))
                .collect(),
        };
        let diffs = match &delta.diffs {
            Diffs::Ones => Diffs::Ones,
            Diffs::Each(d) => {
                let repeated = repeat.iter().map(|r| d[*r as usize]);
                repeated.collect::<Vec<_>>().into()
            }
        };
        let repeat = UInt32Array::from(repeat);
        let column =
            |(c, column): (usize, &ArrayRef)| match self.columns.iter().position(|l| *l == c) {
                Some(l) => lists[l].elements(lengths, range.clone()),
                None => take(column, &repeat, None).expect("row numbers within the batch"),
            };
        let columns = delta.rows.columns().iter().enumerate().map(column);
        Delta {
            rows: self.spread(columns.collect(), rows),
            diffs,
        }
    }

    /// `columns` of `rows` rows as the output's, structs spread.
    fn spread(&self, columns: Vec<ArrayRef>, rows: usize) -> RecordBatch {
        let mut out = Vec::with_capacity(self.schema.fields().len());
        for (c, column) in columns.into_iter().enumerate() {
            if self.structs.contains(&c) {
                out.extend(spread(&column));
            } else {
                out.push(column);
            }
        }
        conform(&self.schema, out, rows)
    }
}

impl Lists {
    fn of(column: &ArrayRef) -> Lists {
        let (elements, offsets): (ArrayRef, Vec<usize>) = match column.data_type() {
            DataType::List(_) => {
                let a = column.as_list::<i32>();
                let offsets = a.offsets().iter().map(|o| *o as usize);
                (a.values().clone(), offsets.collect())
            }
            DataType::LargeList(_) => {
                let a = column.as_list::<i64>();
                let offsets = a.offsets().iter().map(|o| *o as usize);
                (a.values().clone(), offsets.collect())
            }
            DataType::FixedSizeList(f, _) => {
                let list = cast(column, &DataType::List(f.clone()))
                    .expect("a list of fixed size is a list");
                return Lists::of(&list);
            }
            t => panic!("no list to unnest: {t}"),
        };
        let length = |row: usize| match column.is_null(row) {
            true => 0,
            false => offsets[row + 1] - offsets[row],
        };
        Lists {
            lengths: (0..column.len()).map(length).collect(),
            starts: offsets[..column.len()].to_vec(),
            elements,
        }
    }

    /// The elements of the rows in `range`, each row padded with NULL to its place in `lengths`.
    fn elements(&self, lengths: &[usize], range: std::ops::Range<usize>) -> ArrayRef {
        let rows = range.clone();
        let padded = rows.clone().any(|r| lengths[r] != self.lengths[r]);
        let start = self.starts[range.start];
        let mut end = start;
        let gapless = rows.clone().all(|r| {
            let follows = self.lengths[r] == 0 || self.starts[r] == end;
            end += self.lengths[r];
            follows
        });
        if gapless && !padded {
            return self.elements.slice(start, end - start);
        }
        let index = |(row, i): (usize, usize)| {
            (i < self.lengths[row]).then(|| (self.starts[row] + i) as u32)
        };
        let places = rows.flat_map(|r| (0..lengths[r]).map(move |i| (r, i)));
        let indices: UInt32Array = places.map(index).collect();
        take(&self.elements, &indices, None).expect("places within the elements")
    }
}

/// The fields of a struct column, NULL where the struct is.
fn spread(column: &ArrayRef) -> Vec<ArrayRef> {
    let a = column.as_struct();
    let Some(nulls) = a.nulls().filter(|n| n.null_count() > 0) else {
        return a.columns().to_vec();
    };
    let is_null = arrow::array::BooleanArray::new(!nulls.inner(), None);
    let blank = |c: &ArrayRef| arrow::compute::nullif(c, &is_null).expect("one flag per row");
    a.columns().iter().map(blank).collect()
}

impl Operator for Unnest {
    fn push(&mut self, _port: usize, delta: Delta, out: &mut Output) {
        if !delta.is_empty() {
            self.unnest(&delta, out);
        }
    }

    fn finish(&mut self, _epoch: Epoch, _out: &mut Output) {}

    fn only_passes(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, ListArray, StringArray, StructArray};
    use arrow::datatypes::{Field, Fields, Int64Type, Schema};

    use super::*;
    use crate::operators::culprit::row_text;

    fn lists(rows: &[Option<Vec<Option<i64>>>]) -> ArrayRef {
        Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(
            rows.iter().cloned(),
        ))
    }

    fn run(columns: Vec<usize>, structs: Vec<usize>, schema: Schema, delta: &Delta) -> Vec<String> {
        let mut op = Unnest::new(columns, structs, Arc::new(schema));
        let mut out = Output::default();
        op.push(0, delta.clone(), &mut out);
        op.push(0, delta.slice(1, delta.len() - 1), &mut out);
        let text = |d: &Delta| {
            (0..d.len())
                .map(|r| format!("{} {}", d.diffs.get(r), row_text(&d.rows, r)))
                .collect::<Vec<_>>()
        };
        out.rows.iter().flat_map(text).collect()
    }

    #[test]
    fn lists_side_by_side() {
        let ids: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3, 4]));
        let a = lists(&[
            Some(vec![Some(10), None]),
            None,
            Some(vec![]),
            Some(vec![Some(40)]),
        ]);
        let b = lists(&[
            Some(vec![Some(7)]),
            Some(vec![Some(8)]),
            None,
            Some(vec![Some(9), Some(9)]),
        ]);
        let rows = RecordBatch::try_from_iter([("id", ids), ("a", a), ("b", b)]).unwrap();
        let delta = Delta::new(rows, vec![1, -1, 1, 2]);
        let int = |n: &str| Field::new(n, DataType::Int64, true);
        let schema = Schema::new(vec![int("id"), int("a"), int("b")]);
        let tail = ["-1 (2, NULL, 8)", "2 (4, 40, 9)", "2 (4, NULL, 9)"];
        let mut expected = vec!["1 (1, 10, 7)", "1 (1, NULL, NULL)"];
        expected.extend(tail);
        expected.extend(tail);
        assert_eq!(run(vec![1, 2], vec![], schema, &delta), expected);
    }

    #[test]
    fn structs_of_a_list() {
        let fields = Fields::from(vec![
            Field::new("x", DataType::Int64, true),
            Field::new("s", DataType::Utf8, true),
        ]);
        let x: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(3)]));
        let s: ArrayRef = Arc::new(StringArray::from(vec!["a", "b", "c"]));
        let nulls = Some(vec![true, true, false].into());
        let structs = StructArray::new(fields.clone(), vec![x, s], nulls);
        let item = Arc::new(Field::new("item", DataType::Struct(fields), true));
        let offsets = arrow::buffer::OffsetBuffer::from_lengths([1, 2]);
        let list: ArrayRef = Arc::new(ListArray::new(item, offsets, Arc::new(structs), None));
        let delta = Delta::insert(RecordBatch::try_from_iter([("l", list)]).unwrap());
        let schema = Schema::new(vec![
            Field::new("x", DataType::Int64, true),
            Field::new("s", DataType::Utf8, true),
        ]);
        let got = run(vec![0], vec![0], schema, &delta);
        assert_eq!(
            got,
            [
                "1 (1, a)",
                "1 (NULL, b)",
                "1 (NULL, NULL)",
                "1 (NULL, b)",
                "1 (NULL, NULL)"
            ]
        );
    }

    #[test]
    fn long_lists_come_in_pieces() {
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..30));
        let a = lists(&vec![Some(vec![Some(1); 1_000]); 30]);
        let delta = Delta::insert(RecordBatch::try_from_iter([("id", ids), ("a", a)]).unwrap());
        let int = |n: &str| Field::new(n, DataType::Int64, true);
        let mut op = Unnest::new(
            vec![1],
            vec![],
            Arc::new(Schema::new(vec![int("id"), int("a")])),
        );
        let mut out = Output::default();
        op.push(0, delta, &mut out);
        assert!(out.rows.iter().all(|d| d.len() <= PIECE_ROWS_MAX));
        assert_eq!(out.rows.iter().map(Delta::len).sum::<usize>(), 30_000);
    }
}
