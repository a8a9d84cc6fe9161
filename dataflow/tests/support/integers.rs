//! Small rows of optional integers, and their way to Arrow columns of several types and back.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatch,
    StringViewArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::util::display::array_value_to_string;
use tidemill_zset::{Delta, Diffs};

/// A row of a test.
pub type Row = Vec<Option<i64>>;
/// A multiset of rows.
pub type Rows = BTreeMap<Row, i64>;

/// Adds `diff` of `row`; a row with diff zero is gone.
pub fn add(rows: &mut Rows, row: Row, diff: i64) {
    let entry = rows.entry(row.clone()).or_insert(0);
    *entry += diff;
    if *entry == 0 {
        rows.remove(&row);
    }
}

/// Rows as a batch. Text is the number with a long prefix.
pub fn batch(schema: &SchemaRef, rows: &[Row]) -> RecordBatch {
    let columns = schema
        .fields()
        .iter()
        .enumerate()
        .map(|(c, f)| {
            let values = rows.iter().map(|r| r[c]);
            let column: ArrayRef = match f.data_type() {
                DataType::Int32 => {
                    Arc::new(Int32Array::from_iter(values.map(|v| v.map(|v| v as i32))))
                }
                DataType::Int64 => Arc::new(Int64Array::from_iter(values)),
                DataType::Boolean => {
                    Arc::new(BooleanArray::from_iter(values.map(|v| v.map(|v| v != 0))))
                }
                DataType::Float64 => {
                    Arc::new(Float64Array::from_iter(values.map(|v| v.map(|v| v as f64))))
                }
                DataType::Utf8View => Arc::new(StringViewArray::from_iter(
                    values.map(|v| v.map(|v| format!("a rather long text {v}"))),
                )),
                other => panic!("no test rows of type {other}"),
            };
            column
        })
        .collect();
    RecordBatch::try_new(schema.clone(), columns).unwrap()
}

/// The reverse of [`batch`].
pub fn rows_of(batch: &RecordBatch) -> Vec<Row> {
    let value = |c: &ArrayRef, row: usize| {
        if c.is_null(row) {
            return None;
        }
        let text = array_value_to_string(c, row).unwrap();
        let number = text.rsplit(' ').next().unwrap();
        Some(match number.parse::<bool>() {
            Ok(v) => i64::from(v),
            Err(_) => number.parse::<f64>().unwrap() as i64,
        })
    };
    (0..batch.num_rows())
        .map(|row| batch.columns().iter().map(|c| value(c, row)).collect())
        .collect()
}

/// A delta of rows with diffs.
pub fn delta(schema: &SchemaRef, rows: &[(Row, i64)]) -> Delta {
    let values: Vec<Row> = rows.iter().map(|r| r.0.clone()).collect();
    let diffs: Vec<i64> = rows.iter().map(|r| r.1).collect();
    Delta::new(batch(schema, &values), Diffs::from(diffs))
}

/// Columns of these types, which may be NULL.
pub fn schema(types: &[DataType]) -> SchemaRef {
    let field = |(i, t): (usize, &DataType)| Field::new(format!("c{i}"), t.clone(), true);
    Arc::new(Schema::new(
        types.iter().enumerate().map(field).collect::<Vec<_>>(),
    ))
}
