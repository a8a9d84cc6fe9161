//! Values as ordered keys: numbers whose order as unsigned integers, or bytes whose order as bytes, is that
//! of SQL (NaN is the greatest float, text goes by its bytes).

use std::sync::Arc;

use arrow::array::cast::AsArray;
use arrow::array::{
    Array, ArrayData, ArrayRef, BinaryBuilder, BinaryViewBuilder, BooleanArray, Decimal128Array,
    LargeBinaryBuilder, LargeStringBuilder, StringBuilder, StringViewBuilder, make_array,
};
use arrow::buffer::{Buffer, NullBuffer};
use arrow::datatypes::{DataType, Decimal128Type};
use tidemill_zset::consolidate::normalise_floats;

/// A value of a column as something that can be compared.
pub trait Ordered: Ord + Clone + 'static {
    /// The least of all.
    const LEAST: Self;
    /// One per row; anything where the row is NULL.
    fn encode(array: &ArrayRef) -> Vec<Self>;
    /// A column of type `t` of these values.
    fn decode(t: &DataType, values: &[Option<Self>]) -> ArrayRef;
    /// Bytes of memory beside the value itself.
    fn heap_bytes(&self) -> usize {
        0
    }
}

/// How values of a type are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// In a u64.
    Short,
    /// In an u128.
    Long,
    /// As bytes.
    Bytes,
}

/// How values of `t` are held; `None`: they have no order here.
pub fn form_of(t: &DataType) -> Option<Form> {
    match t {
        DataType::Boolean => Some(Form::Short),
        DataType::Decimal128(_, _) => Some(Form::Long),
        DataType::Utf8
        | DataType::LargeUtf8
        | DataType::Utf8View
        | DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView => Some(Form::Bytes),
        DataType::Float16 | DataType::Interval(_) => None,
        t if matches!(t.primitive_width(), Some(1 | 2 | 4 | 8)) => Some(Form::Short),
        _ => None,
    }
}

const SIGN: u64 = 1 << 63;

impl Ordered for u64 {
    const LEAST: u64 = 0;

    fn encode(array: &ArrayRef) -> Vec<u64> {
        if let Some(b) = array.as_boolean_opt() {
            return b.values().iter().map(|v| v as u64).collect();
        }
        let data = normalise_floats(array).to_data();
        let (at, len) = (data.offset(), data.len());
        let buffer = &data.buffers()[0];
        macro_rules! each {
            ($t:ty, $f:expr) => {
                buffer.typed_data::<$t>()[at..at + len]
                    .iter()
                    .map($f)
                    .collect()
            };
        }
        let width = data.data_type().primitive_width();
        match (data.data_type(), width) {
            (DataType::Float64, _) => each!(u64, |v| order_float(*v)),
            (DataType::Float32, _) => {
                each!(f32, |v| order_float((*v as f64).to_bits()))
            }
            (DataType::UInt8, _) => each!(u8, |v| *v as u64),
            (DataType::UInt16, _) => each!(u16, |v| *v as u64),
            (DataType::UInt32, _) => each!(u32, |v| *v as u64),
            (DataType::UInt64, _) => each!(u64, |v| *v),
            (_, Some(1)) => each!(i8, |v| *v as i64 as u64 ^ SIGN),
            (_, Some(2)) => each!(i16, |v| *v as i64 as u64 ^ SIGN),
            (_, Some(4)) => each!(i32, |v| *v as i64 as u64 ^ SIGN),
            _ => each!(i64, |v| *v as u64 ^ SIGN),
        }
    }

    fn decode(t: &DataType, values: &[Option<u64>]) -> ArrayRef {
        if *t == DataType::Boolean {
            return Arc::new(BooleanArray::from_iter(
                values.iter().map(|v| v.map(|v| v == 1)),
            ));
        }
        macro_rules! each {
            ($t:ty, $f:expr) => {
                Buffer::from_iter(values.iter().map(|v| v.map_or(0 as $t, $f)))
            };
        }
        let buffer = match (t, t.primitive_width()) {
            (DataType::Float64, _) => each!(u64, unorder_float),
            (DataType::Float32, _) => each!(f32, |v| f64::from_bits(unorder_float(v)) as f32),
            (DataType::UInt8, _) => each!(u8, |v| v as u8),
            (DataType::UInt16, _) => each!(u16, |v| v as u16),
            (DataType::UInt32, _) => each!(u32, |v| v as u32),
            (DataType::UInt64, _) => each!(u64, |v| v),
            (_, Some(1)) => each!(u8, |v| v as u8),
            (_, Some(2)) => each!(u16, |v| v as u16),
            (_, Some(4)) => each!(u32, |v| v as u32),
            _ => each!(u64, |v| v ^ SIGN),
        };
        let data = ArrayData::builder(t.clone())
            .len(values.len())
            .add_buffer(buffer)
            .nulls(Some(NullBuffer::from_iter(
                values.iter().map(Option::is_some),
            )))
            .build()
            .expect("one value of the type's width each");
        make_array(data)
    }
}

fn order_float(bits: u64) -> u64 {
    if bits & SIGN == 0 { bits ^ SIGN } else { !bits }
}

fn unorder_float(v: u64) -> u64 {
    if v & SIGN != 0 { v ^ SIGN } else { !v }
}

const WIDE_SIGN: u128 = 1 << 127;

impl Ordered for u128 {
    const LEAST: u128 = 0;

    fn encode(array: &ArrayRef) -> Vec<u128> {
        let a = array.as_primitive::<Decimal128Type>();
        a.values().iter().map(|v| *v as u128 ^ WIDE_SIGN).collect()
    }

    fn decode(t: &DataType, values: &[Option<u128>]) -> ArrayRef {
        let values = values.iter().map(|v| v.map(|v| (v ^ WIDE_SIGN) as i128));
        Arc::new(Decimal128Array::from_iter(values).with_data_type(t.clone()))
    }
}

impl Ordered for Vec<u8> {
    const LEAST: Vec<u8> = Vec::new();

    fn encode(array: &ArrayRef) -> Vec<Vec<u8>> {
        macro_rules! each {
            ($a:expr) => {{
                let a = $a;
                (0..a.len())
                    .map(|i| {
                        if a.is_null(i) {
                            Vec::new()
                        } else {
                            AsRef::<[u8]>::as_ref(a.value(i)).to_vec()
                        }
                    })
                    .collect()
            }};
        }
        match array.data_type() {
            DataType::Utf8 => each!(array.as_string::<i32>()),
            DataType::LargeUtf8 => each!(array.as_string::<i64>()),
            DataType::Utf8View => each!(array.as_string_view()),
            DataType::Binary => each!(array.as_binary::<i32>()),
            DataType::LargeBinary => each!(array.as_binary::<i64>()),
            _ => each!(array.as_binary_view()),
        }
    }

    fn decode(t: &DataType, values: &[Option<Vec<u8>>]) -> ArrayRef {
        macro_rules! build {
            ($builder:expr, $value:expr) => {{
                let mut b = $builder;
                values
                    .iter()
                    .for_each(|v| b.append_option(v.as_deref().map($value)));
                Arc::new(b.finish()) as ArrayRef
            }};
        }
        fn text(bytes: &[u8]) -> &str {
            std::str::from_utf8(bytes).expect("copied from a text column")
        }
        match t {
            DataType::Utf8 => build!(StringBuilder::new(), text),
            DataType::LargeUtf8 => build!(LargeStringBuilder::new(), text),
            DataType::Utf8View => build!(StringViewBuilder::new(), text),
            DataType::Binary => build!(BinaryBuilder::new(), |b: &[u8]| b),
            DataType::LargeBinary => build!(LargeBinaryBuilder::new(), |b: &[u8]| b),
            _ => build!(BinaryViewBuilder::new(), |b: &[u8]| b),
        }
    }

    fn heap_bytes(&self) -> usize {
        self.capacity()
    }
}
