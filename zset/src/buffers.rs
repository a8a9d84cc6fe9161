//! Rows put together, whose texts don't take more buffers each time.
//!
//! A column of texts points into buffers. What is taken of it points into all of them, and what is put together into those of all its
//! parts: rows that are read, changed and put beside the old ones again and again would double them each time.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, ByteView, ListArray, RecordBatch, RecordBatchOptions, StringViewArray,
};
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow::compute;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;

/// Buffers of a column that aren't looked at.
const FEW: usize = 16;

/// Bytes up to which a text is in its view.
const INLINE_BYTES_MAX: u32 = 12;

/// The rows of all `batches`. A buffer that several of their columns point into is in the result once.
pub fn concat_batches<'b>(
    schema: &SchemaRef,
    batches: impl IntoIterator<Item = &'b RecordBatch>,
) -> Result<RecordBatch, ArrowError> {
    let rows = compute::concat_batches(schema, batches)?;
    if !rows.columns().iter().any(repeats) {
        return Ok(rows);
    }
    let columns = rows.columns().iter().map(each_buffer_once).collect();
    RecordBatch::try_new(rows.schema(), columns)
}

/// How many buffers the texts or bytes of a column point into; none where they lie in the column itself.
pub fn buffers(column: &ArrayRef) -> usize {
    match column.data_type() {
        DataType::Utf8View => column.as_string_view().data_buffers().len(),
        DataType::BinaryView => column.as_binary_view().data_buffers().len(),
        _ => 0,
    }
}

/// The column with its texts or bytes copied into a buffer of their own: whoever takes rows of it piece by piece hands on all its
/// buffers with each.
pub fn in_one_buffer(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Utf8View => Arc::new(column.as_string_view().gc()),
        DataType::BinaryView => Arc::new(column.as_binary_view().gc()),
        _ => Arc::clone(column),
    }
}

/// The rows with their texts in one buffer per column where they point into many: whoever puts such batches together puts all their
/// buffers together, whether anything points into them or not.
pub fn in_few_buffers(rows: RecordBatch) -> Result<RecordBatch, ArrowError> {
    if !rows.columns().iter().any(|c| buffers_below(c) > FEW) {
        return Ok(rows);
    }
    let columns = rows.columns().iter().map(few).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    RecordBatch::try_new_with_options(rows.schema(), columns, &options)
}

/// How many buffers the texts of a column point into, also those in its lists.
fn buffers_below(column: &ArrayRef) -> usize {
    match column.data_type() {
        DataType::List(_) => buffers_below(column.as_list::<i32>().values()),
        _ => buffers(column),
    }
}

fn few(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        _ if buffers_below(column) <= FEW => Arc::clone(column),
        DataType::List(item) => {
            // A part of a longer column has all its values with it.
            let list = column.as_list::<i32>();
            let offsets = list.offsets();
            let (first, last) = (offsets[0], offsets[offsets.len() - 1]);
            let values = list.values().slice(first as usize, (last - first) as usize);
            let lengths = OffsetBuffer::from_lengths(offsets.lengths());
            let nulls = list.nulls().cloned();
            Arc::new(ListArray::new(
                Arc::clone(item),
                lengths,
                few(&values),
                nulls,
            ))
        }
        _ => in_one_buffer(column),
    }
}

/// Whether a column has a buffer more than once.
fn repeats(column: &ArrayRef) -> bool {
    match column.data_type() {
        DataType::Utf8View => {
            let buffers = column.as_string_view().data_buffers();
            if buffers.len() <= FEW {
                return false;
            }
            let mut places: Vec<*const u8> = buffers.iter().map(|b| b.as_ptr()).collect();
            places.sort_unstable();
            places.windows(2).any(|pair| pair[0] == pair[1])
        }
        DataType::List(_) => repeats(column.as_list::<i32>().values()),
        _ => false,
    }
}

fn each_buffer_once(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        _ if !repeats(column) => Arc::clone(column),
        DataType::Utf8View => Arc::new(once(column.as_string_view())),
        DataType::List(item) => {
            let list = column.as_list::<i32>();
            let values = each_buffer_once(list.values());
            let (offsets, nulls) = (list.offsets().clone(), list.nulls().cloned());
            Arc::new(ListArray::new(Arc::clone(item), offsets, values, nulls))
        }
        _ => Arc::clone(column),
    }
}

/// The texts with the buffers that they point into, each once.
fn once(texts: &StringViewArray) -> StringViewArray {
    let buffers = texts.data_buffers();
    let mut kept: Vec<Buffer> = Vec::new();
    let mut places: HashMap<(*const u8, usize), u32> = HashMap::new();
    let mut place = |index: usize| {
        let buffer = &buffers[index];
        let at = (buffer.as_ptr(), buffer.len());
        *places.entry(at).or_insert_with(|| {
            kept.push(buffer.clone());
            kept.len() as u32 - 1
        })
    };
    let moved = texts.views().iter().enumerate().map(|(row, raw)| {
        let mut view = ByteView::from(*raw);
        match (texts.is_null(row), view.length) {
            (true, _) => 0,
            (false, ..=INLINE_BYTES_MAX) => *raw,
            (false, _) => {
                view.buffer_index = place(view.buffer_index as usize);
                view.as_u128()
            }
        }
    });
    let views: ScalarBuffer<u128> = moved.collect::<Vec<u128>>().into();
    StringViewArray::new(views, kept, texts.nulls().cloned())
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{Field, Schema};

    use super::*;

    #[test]
    fn buffers_dont_grow_with_what_is_put_together() {
        let schema: SchemaRef = Arc::new(Schema::new(vec![
            Field::new("a", DataType::Utf8View, true),
            Field::new_list("b", Field::new("item", DataType::Utf8View, true), true),
        ]));
        let texts = || {
            let long = "a text that is longer than a view";
            StringViewArray::from(vec![Some(long), None, Some("short")])
        };
        let list = {
            let DataType::List(item) = schema.field(1).data_type() else {
                unreachable!()
            };
            let offsets = arrow::buffer::OffsetBuffer::from_lengths([1, 1, 1]);
            ListArray::new(Arc::clone(item), offsets, Arc::new(texts()), None)
        };
        let first =
            RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(texts()), Arc::new(list)])
                .unwrap();
        let mut rows = first.clone();
        for n in 2..40 {
            let last = rows.slice(rows.num_rows() - 3, 3);
            rows = concat_batches(&schema, [&rows, &last]).unwrap();
            assert!(rows.column(0).as_string_view().data_buffers().len() <= 2 * FEW);
            let values = rows.column(1).as_list::<i32>().values();
            assert!(values.as_string_view().data_buffers().len() <= 2 * FEW);
            assert_eq!(rows.num_rows(), 3 * n);
            assert_eq!(rows.slice(3 * n - 3, 3), first);
            assert_eq!(rows.slice(0, 3), first);
        }
        // Without looking for equal ones: parts that point into all buffers.
        let many: Vec<RecordBatch> = (0..20).map(|_| rows.slice(3, 5)).collect();
        let many = compute::concat_batches(&schema, &many).unwrap();
        assert!(many.columns().iter().all(|c| buffers_below(c) > FEW));
        let few = in_few_buffers(many.slice(5, 50)).unwrap();
        assert!(few.columns().iter().all(|c| buffers_below(c) == 1));
        assert_eq!(few, many.slice(5, 50));
    }
}
