//! Record batches of an arrangement's rows, made from columns.
//!
//! A field that the arrangement declares NOT NULL may hold NULLs all the same: tombstones have no values. Then,
//! and only then, the batch has a schema whose fields are all nullable.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::compute::{cast, concat};
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use tidemill_zset::buffers::{buffers, in_one_buffer};

/// A batch of `rows` rows with `schema`.
pub(crate) fn batch_of(
    schema: &SchemaRef,
    columns: Vec<ArrayRef>,
    rows: usize,
) -> Result<RecordBatch, ArrowError> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    let strict = |(f, c): (&Arc<Field>, &ArrayRef)| f.is_nullable() || c.null_count() == 0;
    let schema = match schema.fields().iter().zip(&columns).all(strict) {
        true => schema.clone(),
        false => nullable(schema),
    };
    RecordBatch::try_new_with_options(schema, columns, &options)
}

fn nullable(schema: &SchemaRef) -> SchemaRef {
    let fields = schema.fields().iter();
    let fields: Vec<Field> = fields
        .map(|f| f.as_ref().clone().with_nullable(true))
        .collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

/// The rows of `batches`, at least one, one after the other.
pub(crate) fn concat_rows(
    schema: &SchemaRef,
    batches: &[&RecordBatch],
) -> Result<RecordBatch, ArrowError> {
    if let [one] = batches {
        return Ok((*one).clone());
    }
    let mut columns = Vec::with_capacity(schema.fields().len());
    for c in 0..schema.fields().len() {
        let arrays: Vec<_> = batches.iter().map(|b| b.column(c).as_ref()).collect();
        columns.push(concat(&arrays)?);
    }
    batch_of(schema, columns, batches.iter().map(|b| b.num_rows()).sum())
}

/// `rows` for being taken in so many pieces, each of which gets all buffers of a column's texts: the texts are copied into one
/// where those would be more than there are rows.
pub(crate) fn for_pieces(rows: RecordBatch, pieces: usize) -> Result<RecordBatch, ArrowError> {
    let many = |buffers: usize| buffers > 1 && buffers.saturating_mul(pieces) > rows.num_rows();
    if !rows.columns().iter().any(|c| many(buffers(c))) {
        return Ok(rows);
    }
    let columns = rows.columns().iter().map(|c| match many(buffers(c)) {
        true => in_one_buffer(c),
        false => c.clone(),
    });
    batch_of(rows.schema_ref(), columns.collect(), rows.num_rows())
}

/// `rows` with the types of `schema`, where they differ only in what they say of nested fields (name, NOT
/// NULL, metadata). Other differences give an error.
pub(crate) fn conform(schema: &SchemaRef, rows: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    if rows.num_columns() != schema.fields().len() {
        return Err(ArrowError::SchemaError(format!(
            "{} columns, expected {}",
            rows.num_columns(),
            schema.fields().len()
        )));
    }
    let mut columns = Vec::with_capacity(rows.num_columns());
    for (field, column) in schema.fields().iter().zip(rows.columns()) {
        let (found, expected) = (column.data_type(), field.data_type());
        if found == expected {
            columns.push(column.clone());
        } else if found.equals_datatype(expected) {
            columns.push(cast(column, expected)?);
        } else {
            return Err(ArrowError::SchemaError(format!(
                "column {:?} is {found}, expected {expected}",
                field.name()
            )));
        }
    }
    batch_of(schema, columns, rows.num_rows())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Array, AsArray, BinaryViewArray, Int64Array, ListArray, StringViewArray};
    use arrow::datatypes::{DataType, Int64Type};

    #[test]
    fn nested_fields_may_say_something_else_of_nulls() {
        let list: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>([
            Some([Some(1), Some(2)]),
            None,
        ]));
        let found = Schema::new(vec![Field::new("l", list.data_type().clone(), true)]);
        let rows = RecordBatch::try_new(Arc::new(found), vec![list]).unwrap();
        let element = Arc::new(Field::new("element", DataType::Int64, true));
        let expected = Field::new("l", DataType::List(element), true);
        let expected = Arc::new(Schema::new(vec![expected]));
        let conformed = conform(&expected, &rows).unwrap();
        assert_eq!(conformed.schema(), expected);
        let other = Arc::new(Schema::new(vec![Field::new("l", DataType::Int64, true)]));
        assert!(conform(&other, &rows).is_err());
    }

    #[test]
    fn texts_of_many_buffers_are_put_into_one_for_many_pieces() {
        let texts = |n: usize| format!("a text of more than twelve bytes, number {n}");
        let part = |n: usize| -> RecordBatch {
            let (text, number) = (texts(n), n as i64);
            let columns: [(&str, ArrayRef); 3] = [
                (
                    "t",
                    Arc::new(StringViewArray::from(vec![Some(text.as_str()), None])),
                ),
                (
                    "b",
                    Arc::new(BinaryViewArray::from(vec![Some(text.as_bytes()), None])),
                ),
                ("n", Arc::new(Int64Array::from(vec![number, number]))),
            ];
            RecordBatch::try_from_iter_with_nullable(columns.map(|(n, c)| (n, c, true))).unwrap()
        };
        let parts: Vec<RecordBatch> = (0..20).map(part).collect();
        let schema = parts[0].schema();
        let rows = concat_rows(&schema, &parts.iter().collect::<Vec<_>>()).unwrap();
        for (pieces, buffers) in [(1, 20), (2, 20), (3, 1)] {
            let got = for_pieces(rows.clone(), pieces).unwrap();
            assert_eq!(got, rows);
            assert_eq!(got.column(0).as_string_view().data_buffers().len(), buffers);
            assert_eq!(got.column(1).as_binary_view().data_buffers().len(), buffers);
        }
    }

    #[test]
    fn nulls_where_none_are_declared_make_the_schema_nullable() {
        let strict = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        let column = |v: Option<i64>| -> ArrayRef { Arc::new(Int64Array::from(vec![v])) };
        let full = batch_of(&strict, vec![column(Some(1))], 1).unwrap();
        assert_eq!(full.schema(), strict);
        let null = batch_of(&strict, vec![column(None)], 1).unwrap();
        assert!(null.schema().field(0).is_nullable());
        let both = concat_rows(&strict, &[&full, &null]).unwrap();
        assert_eq!(both.column(0).null_count(), 1);
    }
}
