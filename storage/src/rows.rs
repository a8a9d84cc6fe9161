//! Equality of rows under SQL grouping rules, by column: NULL equals NULL, every NaN is one value,
//! -0.0 equals 0.0. Comparators are typed closures over one array, built once per batch.

use arrow::array::cast::AsArray;
use arrow::array::types::{ArrowPrimitiveType, Float16Type, Float32Type, Float64Type};
use arrow::array::{Array, ArrayRef, downcast_primitive_array};
use arrow::datatypes::DataType;
use tidemill_zset::hash::float_bits;

/// Are the values at two positions of one array equal?
type Equal = Box<dyn Fn(usize, usize) -> bool>;

/// Are the rows at positions `i` and `j` of `columns` equal?
pub(crate) struct RowEqual(Vec<Equal>);

impl RowEqual {
    pub(crate) fn new(columns: &[ArrayRef]) -> RowEqual {
        RowEqual(columns.iter().map(with_nulls).collect())
    }

    #[inline]
    pub(crate) fn equal(&self, i: usize, j: usize) -> bool {
        self.0.iter().all(|c| c(i, j))
    }
}

fn with_nulls(array: &ArrayRef) -> Equal {
    let values = values_equal(array);
    match array.logical_nulls().filter(|n| n.null_count() > 0) {
        None => values,
        Some(nulls) => Box::new(move |i, j| match (nulls.is_null(i), nulls.is_null(j)) {
            (false, false) => values(i, j),
            (a, b) => a == b,
        }),
    }
}

fn primitive<T: ArrowPrimitiveType>(array: &dyn Array) -> Equal
where
    T::Native: PartialEq,
{
    let values = array.as_primitive::<T>().values().clone();
    Box::new(move |i, j| values[i] == values[j])
}

fn values_equal(array: &ArrayRef) -> Equal {
    macro_rules! by_value {
        ($a:expr) => {{
            let a = $a.clone();
            Box::new(move |i, j| a.value(i) == a.value(j))
        }};
    }
    macro_rules! list {
        ($a:expr) => {{
            let a = $a;
            let inner = with_nulls(a.values());
            let offsets = a.offsets().clone();
            Box::new(move |i, j| {
                let (a, b) = (offsets[i] as usize, offsets[j] as usize);
                let (len, other) = (offsets[i + 1] as usize - a, offsets[j + 1] as usize - b);
                len == other && (0..len).all(|k| inner(a + k, b + k))
            })
        }};
    }
    match array.data_type() {
        DataType::Null => Box::new(|_, _| true),
        DataType::Boolean => by_value!(array.as_boolean()),
        DataType::Float16 => float(array.as_primitive::<Float16Type>().values(), |v| v.to_f64()),
        DataType::Float32 => float(array.as_primitive::<Float32Type>().values(), |v| v as f64),
        DataType::Float64 => float(array.as_primitive::<Float64Type>().values(), |v| v),
        DataType::Utf8 => by_value!(array.as_string::<i32>()),
        DataType::LargeUtf8 => by_value!(array.as_string::<i64>()),
        DataType::Utf8View => by_value!(array.as_string_view()),
        DataType::Binary => by_value!(array.as_binary::<i32>()),
        DataType::LargeBinary => by_value!(array.as_binary::<i64>()),
        DataType::BinaryView => by_value!(array.as_binary_view()),
        DataType::FixedSizeBinary(_) => by_value!(array.as_fixed_size_binary()),
        DataType::List(_) => list!(array.as_list::<i32>()),
        DataType::LargeList(_) => list!(array.as_list::<i64>()),
        DataType::Map(_, _) => {
            let a = array.as_map();
            let inner: ArrayRef = std::sync::Arc::new(a.entries().clone());
            let inner = with_nulls(&inner);
            let offsets = a.offsets().clone();
            Box::new(move |i, j| {
                let (a, b) = (offsets[i] as usize, offsets[j] as usize);
                let (len, other) = (offsets[i + 1] as usize - a, offsets[j + 1] as usize - b);
                len == other && (0..len).all(|k| inner(a + k, b + k))
            })
        }
        DataType::FixedSizeList(_, size) => {
            let a = array.as_fixed_size_list();
            let inner = with_nulls(a.values());
            let (size, base) = (*size as usize, a.value_offset(0) as usize);
            Box::new(move |i, j| (0..size).all(|k| inner(base + i * size + k, base + j * size + k)))
        }
        DataType::Struct(_) => {
            let row = RowEqual::new(array.as_struct().columns());
            Box::new(move |i, j| row.equal(i, j))
        }
        DataType::Dictionary(_, values) => {
            let plain =
                arrow::compute::cast(array, values).expect("a dictionary casts to its values");
            with_nulls(&plain)
        }
        _ => downcast_primitive_array! {
            array => primitive_of(array),
            other => panic!("no equality for the type {other}: the planner must refuse it")
        },
    }
}

fn primitive_of<T: ArrowPrimitiveType>(array: &arrow::array::PrimitiveArray<T>) -> Equal
where
    T::Native: PartialEq,
{
    primitive::<T>(array)
}

fn float<T: Copy + 'static>(values: &arrow::buffer::ScalarBuffer<T>, wide: fn(T) -> f64) -> Equal
where
    T: arrow::datatypes::ArrowNativeType,
{
    let values = values.clone();
    Box::new(move |i, j| float_bits(wide(values[i])) == float_bits(wide(values[j])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Float64Array, Int64Array, ListArray, StringViewArray};
    use arrow::datatypes::Int32Type;
    use std::sync::Arc;

    #[test]
    fn grouping_equality() {
        let floats: ArrayRef = Arc::new(Float64Array::from(vec![
            Some(0.0),
            Some(-0.0),
            Some(f64::NAN),
            Some(-f64::NAN),
            None,
            None,
            Some(1.0),
        ]));
        let eq = RowEqual::new(&[floats]);
        assert!(eq.equal(0, 1) && eq.equal(2, 3) && eq.equal(4, 5));
        assert!(!eq.equal(0, 6) && !eq.equal(4, 0) && !eq.equal(0, 4));
        let ints: ArrayRef = Arc::new(Int64Array::from(vec![1, 1, 2]));
        let text: ArrayRef = Arc::new(StringViewArray::from(vec!["a", "a", "a"]));
        let eq = RowEqual::new(&[ints, text]);
        assert!(eq.equal(0, 1) && !eq.equal(1, 2));
    }

    #[test]
    fn nested_and_sliced() {
        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>(vec![
            Some(vec![Some(9)]),
            Some(vec![Some(1), None]),
            Some(vec![Some(1), None]),
            Some(vec![Some(1)]),
            None,
        ]);
        let sliced: ArrayRef = Arc::new(lists.slice(1, 4));
        let eq = RowEqual::new(&[sliced]);
        assert!(eq.equal(0, 1) && !eq.equal(0, 2) && !eq.equal(2, 3) && eq.equal(3, 3));
    }
}
