//! Equality of rows under SQL grouping rules, by column: NULL equals NULL, every NaN is one value,
//! -0.0 equals 0.0. The rows lie in several batches; comparators are typed closures over one column of all of
//! them, built once, so that a comparison neither copies nor matches on types.

use std::sync::Arc;

use arrow::array::cast::AsArray;
use arrow::array::types::{
    ArrowPrimitiveType, ByteViewType, Float16Type, Float32Type, Float64Type,
};
use arrow::array::{Array, ArrayRef, GenericByteViewArray, PrimitiveArray, downcast_primitive};
use arrow::buffer::{NullBuffer, ScalarBuffer};
use arrow::datatypes::DataType;
use tidemill_zset::hash::float_bits;

/// A row: index of the batch, index in the batch.
pub(crate) type Place = (usize, usize);

/// Are the values at two places of one column equal?
type Equal = Box<dyn Fn(Place, Place) -> bool>;

/// Are the rows at two places equal, in all columns given?
pub(crate) struct RowEqual(Vec<Equal>);

impl RowEqual {
    /// `columns`: for each column its arrays, one per batch.
    pub(crate) fn new(columns: &[Vec<ArrayRef>]) -> RowEqual {
        RowEqual(columns.iter().map(|c| with_nulls(c)).collect())
    }

    /// Rows of one batch, which has index 0.
    pub(crate) fn of_batch(columns: &[ArrayRef]) -> RowEqual {
        RowEqual(
            columns
                .iter()
                .map(|c| with_nulls(std::slice::from_ref(c)))
                .collect(),
        )
    }

    #[inline]
    pub(crate) fn equal(&self, a: Place, b: Place) -> bool {
        self.0.iter().all(|c| c(a, b))
    }
}

fn with_nulls(arrays: &[ArrayRef]) -> Equal {
    let values = values_equal(arrays);
    let nulls: Vec<Option<NullBuffer>> = arrays
        .iter()
        .map(|a| a.logical_nulls().filter(|n| n.null_count() > 0))
        .collect();
    if nulls.iter().all(Option::is_none) {
        return values;
    }
    let is_null = move |p: Place| nulls[p.0].as_ref().is_some_and(|n| n.is_null(p.1));
    Box::new(move |a, b| match (is_null(a), is_null(b)) {
        (false, false) => values(a, b),
        (a, b) => a == b,
    })
}

fn values_equal(arrays: &[ArrayRef]) -> Equal {
    macro_rules! by_value {
        ($of:expr) => {{
            let of = $of;
            let all: Vec<_> = arrays.iter().map(|a| of(a).clone()).collect();
            Box::new(move |a: Place, b: Place| all[a.0].value(a.1) == all[b.0].value(b.1))
        }};
    }
    macro_rules! elements {
        ($of:expr, $values:expr) => {{
            let (of, values) = ($of, $values);
            let inner: Vec<ArrayRef> = arrays.iter().map(|a| values(of(a))).collect();
            let inner = with_nulls(&inner);
            let all: Vec<_> = arrays.iter().map(|a| of(a).offsets().clone()).collect();
            Box::new(move |a: Place, b: Place| {
                let range = |p: Place| (all[p.0][p.1] as usize, all[p.0][p.1 + 1] as usize);
                let ((from, to), (other_from, other_to)) = (range(a), range(b));
                to - from == other_to - other_from
                    && (0..to - from).all(|k| inner((a.0, from + k), (b.0, other_from + k)))
            })
        }};
    }
    let Some(first) = arrays.first() else {
        return Box::new(|_, _| true);
    };
    match first.data_type() {
        DataType::Null => Box::new(|_, _| true),
        DataType::Boolean => by_value!(|a: &ArrayRef| a.as_boolean().clone()),
        DataType::Float16 => float::<Float16Type>(arrays, |v| v.to_f64()),
        DataType::Float32 => float::<Float32Type>(arrays, f64::from),
        DataType::Float64 => float::<Float64Type>(arrays, |v| v),
        DataType::Utf8 => by_value!(|a: &ArrayRef| a.as_string::<i32>().clone()),
        DataType::LargeUtf8 => by_value!(|a: &ArrayRef| a.as_string::<i64>().clone()),
        DataType::Binary => by_value!(|a: &ArrayRef| a.as_binary::<i32>().clone()),
        DataType::LargeBinary => by_value!(|a: &ArrayRef| a.as_binary::<i64>().clone()),
        DataType::FixedSizeBinary(_) => {
            by_value!(|a: &ArrayRef| a.as_fixed_size_binary().clone())
        }
        DataType::Utf8View => views(arrays.iter().map(|a| a.as_string_view().clone()).collect()),
        DataType::BinaryView => views(arrays.iter().map(|a| a.as_binary_view().clone()).collect()),
        DataType::List(_) => elements!(
            |a: &ArrayRef| a.as_list::<i32>().clone(),
            |a: arrow::array::ListArray| a.values().clone()
        ),
        DataType::LargeList(_) => elements!(
            |a: &ArrayRef| a.as_list::<i64>().clone(),
            |a: arrow::array::LargeListArray| a.values().clone()
        ),
        DataType::Map(_, _) => elements!(
            |a: &ArrayRef| a.as_map().clone(),
            |a: arrow::array::MapArray| Arc::new(a.entries().clone()) as ArrayRef
        ),
        DataType::FixedSizeList(_, size) => fixed_list(arrays, *size as usize),
        DataType::Struct(fields) => {
            let column = |i: usize| -> Vec<ArrayRef> {
                arrays
                    .iter()
                    .map(|a| a.as_struct().column(i).clone())
                    .collect()
            };
            let columns: Vec<Vec<ArrayRef>> = (0..fields.len()).map(column).collect();
            let row = RowEqual::new(&columns);
            Box::new(move |a, b| row.equal(a, b))
        }
        DataType::Dictionary(_, values) => {
            let plain = |a: &ArrayRef| {
                arrow::compute::cast(a, values).expect("a dictionary casts to its values")
            };
            with_nulls(&arrays.iter().map(plain).collect::<Vec<_>>())
        }
        other => {
            macro_rules! primitive_equal {
                ($t:ty) => {
                    primitive::<$t>(arrays)
                };
            }
            downcast_primitive! {
                other => (primitive_equal),
                other => panic!("no equality for the type {other}: the planner must refuse it")
            }
        }
    }
}

fn values_of<T: ArrowPrimitiveType>(arrays: &[ArrayRef]) -> Vec<ScalarBuffer<T::Native>> {
    let values = |a: &ArrayRef| -> ScalarBuffer<T::Native> {
        let array: &PrimitiveArray<T> = a.as_primitive();
        array.values().clone()
    };
    arrays.iter().map(values).collect()
}

fn primitive<T: ArrowPrimitiveType>(arrays: &[ArrayRef]) -> Equal {
    let all = values_of::<T>(arrays);
    Box::new(move |a, b| all[a.0][a.1] == all[b.0][b.1])
}

fn float<T: ArrowPrimitiveType>(arrays: &[ArrayRef], wide: fn(T::Native) -> f64) -> Equal {
    let all = values_of::<T>(arrays);
    let bits = move |p: Place| float_bits(wide(all[p.0][p.1]));
    Box::new(move |a, b| bits(a) == bits(b))
}

/// Bytes of a view that hold the value itself, when it is short.
const INLINE: u32 = 12;

/// Most values differ, or agree, in the 16 bytes of the view alone.
fn views<T: ByteViewType>(all: Vec<GenericByteViewArray<T>>) -> Equal {
    Box::new(move |a, b| {
        let (left, right) = (all[a.0].views()[a.1], all[b.0].views()[b.1]);
        // Length and the first four bytes.
        if left as u64 != right as u64 {
            return false;
        }
        if left as u32 <= INLINE {
            return left == right;
        }
        let (left, right): (&[u8], &[u8]) =
            (all[a.0].value(a.1).as_ref(), all[b.0].value(b.1).as_ref());
        left == right
    })
}

fn fixed_list(arrays: &[ArrayRef], size: usize) -> Equal {
    let inner: Vec<ArrayRef> = arrays
        .iter()
        .map(|a| a.as_fixed_size_list().values().clone())
        .collect();
    let inner = with_nulls(&inner);
    let bases: Vec<usize> = arrays
        .iter()
        .map(|a| a.as_fixed_size_list().value_offset(0) as usize)
        .collect();
    Box::new(move |a, b| {
        let from = |p: Place| bases[p.0] + p.1 * size;
        (0..size).all(|k| inner((a.0, from(a) + k), (b.0, from(b) + k)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Float64Array, Int64Array, ListArray, StringViewArray};
    use arrow::datatypes::Int32Type;

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
        let eq = RowEqual::of_batch(&[floats]);
        assert!(eq.equal((0, 0), (0, 1)) && eq.equal((0, 2), (0, 3)) && eq.equal((0, 4), (0, 5)));
        assert!(
            !eq.equal((0, 0), (0, 6)) && !eq.equal((0, 4), (0, 0)) && !eq.equal((0, 0), (0, 4))
        );
        let ints: ArrayRef = Arc::new(Int64Array::from(vec![1, 1, 2]));
        let text: ArrayRef = Arc::new(StringViewArray::from(vec!["a", "a", "a"]));
        let eq = RowEqual::of_batch(&[ints, text]);
        assert!(eq.equal((0, 0), (0, 1)) && !eq.equal((0, 1), (0, 2)));
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
        let eq = RowEqual::of_batch(&[sliced]);
        assert!(
            eq.equal((0, 0), (0, 1))
                && !eq.equal((0, 0), (0, 2))
                && !eq.equal((0, 2), (0, 3))
                && eq.equal((0, 3), (0, 3))
        );
    }

    #[test]
    fn across_batches() {
        let text = |values: Vec<&str>| -> ArrayRef { Arc::new(StringViewArray::from(values)) };
        let a = text(vec!["x", "the same beginning, long", "exactly12byt"]);
        let b = text(vec![
            "the same beginning, also",
            "exactly12byt",
            "the same beginning, long",
        ]);
        let eq = RowEqual::new(&[vec![a, b]]);
        assert!(eq.equal((0, 1), (1, 2)) && eq.equal((0, 2), (1, 1)));
        assert!(!eq.equal((0, 1), (1, 0)) && !eq.equal((0, 0), (1, 1)));
    }
}
