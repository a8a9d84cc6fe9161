//! The key hash that places a row: which worker, which partition, which place in a run.
//!
//! The hash is part of the storage format (version [`HASH_VERSION`]): it is a function of the
//! logical values only, never of how a batch happens to be laid out, so that any build of
//! Tidemill finds the rows that another one stored. Floats are normalised first (every NaN is
//! one value, -0.0 is 0.0), because SQL groups and joins them so.
//!
//! Definition: the row hash folds the column hashes from left to right with [`combine`]. A column
//! hash is [`mix`] of the value sign-extended to 64 bits for fixed-width values of at most eight
//! bytes, XXH3-64 of the little-endian bytes for wider ones and of the UTF-8 or raw bytes for text
//! and binary; NULL has a constant of its own; lists and structs fold the hashes of their elements.

use arrow::array::cast::AsArray;
use arrow::array::types::*;
use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, PrimitiveArray};
use arrow::datatypes::{DataType, IntervalUnit, TimeUnit};
use xxhash_rust::xxh3::xxh3_64;

/// Version of the hash function, stored in the data directory.
pub const HASH_VERSION: u32 = 1;

const NULL_HASH: u64 = 0x9e37_79b9_7f4a_7c15;

/// Finaliser of 64-bit values: a bijection, so distinct integers never collide in one column.
#[inline]
pub fn mix(x: u64) -> u64 {
    // The constants are those of Stafford's variant 13 of the MurmurHash3 finaliser.
    let mut x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[inline]
fn combine(h: u64, v: u64) -> u64 {
    if h == 0 {
        v
    } else {
        mix(h.rotate_left(23) ^ v)
    }
}

/// The partition of a key hash: its high bits, so that a run sorted by hash is also sorted by
/// partition. `partitions` must be a power of two.
#[inline]
pub fn partition_of(hash: u64, partitions: u32) -> u32 {
    debug_assert!(partitions.is_power_of_two());
    if partitions == 1 {
        0
    } else {
        (hash >> (64 - partitions.trailing_zeros())) as u32
    }
}

/// The key hash of each row of `columns` (all of the length `rows`). No columns: all zero.
pub fn hash_columns(columns: &[ArrayRef], rows: usize) -> Vec<u64> {
    if columns.is_empty() {
        return vec![0; rows];
    }
    let mut out = Vec::with_capacity(rows);
    for c in columns {
        assert_eq!(c.len(), rows);
        hash_into(c.as_ref(), &mut out);
    }
    out
}

macro_rules! prim {
    ($array:expr, $out:expr, $t:ty, $f:expr) => {
        hash_primitive::<$t>($array.as_primitive(), $out, $f)
    };
}

/// Folds the hashes of a column into `out`, which is empty if there is none before it.
fn hash_into(array: &dyn Array, out: &mut Vec<u64>) {
    match array.data_type() {
        DataType::Null => fold(array.len(), out, |_| NULL_HASH),
        DataType::Boolean => {
            let a = array.as_boolean();
            each(array, out, |i| mix(a.value(i) as u64));
        }
        DataType::Int8 => prim!(array, out, Int8Type, |v| mix(v as i64 as u64)),
        DataType::Int16 => prim!(array, out, Int16Type, |v| mix(v as i64 as u64)),
        DataType::Int32 => prim!(array, out, Int32Type, |v| mix(v as i64 as u64)),
        DataType::Int64 => prim!(array, out, Int64Type, |v| mix(v as u64)),
        DataType::UInt8 => prim!(array, out, UInt8Type, |v| mix(v as u64)),
        DataType::UInt16 => prim!(array, out, UInt16Type, |v| mix(v as u64)),
        DataType::UInt32 => prim!(array, out, UInt32Type, |v| mix(v as u64)),
        DataType::UInt64 => prim!(array, out, UInt64Type, mix),
        DataType::Float16 => prim!(array, out, Float16Type, |v| mix(float_bits(v.to_f64()))),
        DataType::Float32 => prim!(array, out, Float32Type, |v| mix(float_bits(v as f64))),
        DataType::Float64 => prim!(array, out, Float64Type, |v| mix(float_bits(v))),
        DataType::Date32 => prim!(array, out, Date32Type, |v| mix(v as i64 as u64)),
        DataType::Date64 => prim!(array, out, Date64Type, |v| mix(v as u64)),
        DataType::Time32(TimeUnit::Second) => {
            prim!(array, out, Time32SecondType, |v| mix(v as i64 as u64))
        }
        DataType::Time32(_) => prim!(array, out, Time32MillisecondType, |v| mix(v as i64 as u64)),
        DataType::Time64(TimeUnit::Microsecond) => {
            prim!(array, out, Time64MicrosecondType, |v| mix(v as u64))
        }
        DataType::Time64(_) => prim!(array, out, Time64NanosecondType, |v| mix(v as u64)),
        DataType::Timestamp(TimeUnit::Second, _) => {
            prim!(array, out, TimestampSecondType, |v| mix(v as u64))
        }
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            prim!(array, out, TimestampMillisecondType, |v| mix(v as u64))
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            prim!(array, out, TimestampMicrosecondType, |v| mix(v as u64))
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            prim!(array, out, TimestampNanosecondType, |v| mix(v as u64))
        }
        DataType::Duration(TimeUnit::Microsecond) => {
            prim!(array, out, DurationMicrosecondType, |v| mix(v as u64))
        }
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            prim!(array, out, IntervalMonthDayNanoType, |v| {
                combine(
                    mix(v.months as u64 ^ ((v.days as u64) << 32)),
                    mix(v.nanoseconds as u64),
                )
            })
        }
        DataType::Decimal128(_, _) => {
            prim!(array, out, Decimal128Type, |v| xxh3_64(&v.to_le_bytes()))
        }
        DataType::Decimal256(_, _) => {
            prim!(array, out, Decimal256Type, |v| xxh3_64(&v.to_le_bytes()))
        }
        DataType::Utf8 => {
            let a = array.as_string::<i32>();
            each(array, out, |i| xxh3_64(a.value(i).as_bytes()));
        }
        DataType::LargeUtf8 => {
            let a = array.as_string::<i64>();
            each(array, out, |i| xxh3_64(a.value(i).as_bytes()));
        }
        DataType::Utf8View => {
            let a = array.as_string_view();
            each(array, out, |i| xxh3_64(a.value(i).as_bytes()));
        }
        DataType::Binary => {
            let a = array.as_binary::<i32>();
            each(array, out, |i| xxh3_64(a.value(i)));
        }
        DataType::LargeBinary => {
            let a = array.as_binary::<i64>();
            each(array, out, |i| xxh3_64(a.value(i)));
        }
        DataType::BinaryView => {
            let a = array.as_binary_view();
            each(array, out, |i| xxh3_64(a.value(i)));
        }
        DataType::FixedSizeBinary(_) => {
            let a = array.as_fixed_size_binary();
            each(array, out, |i| xxh3_64(a.value(i)));
        }
        DataType::List(_) => {
            let a = array.as_list::<i32>();
            each(array, out, |i| hash_list(&a.value(i)));
        }
        DataType::LargeList(_) => {
            let a = array.as_list::<i64>();
            each(array, out, |i| hash_list(&a.value(i)));
        }
        DataType::Struct(_) => {
            let a = array.as_struct();
            let inner = hash_columns(a.columns(), a.len());
            each(array, out, |i| mix(inner[i]));
        }
        DataType::Dictionary(_, values) => {
            let plain =
                arrow::compute::cast(array, values).expect("a dictionary casts to its values");
            hash_into(plain.as_ref(), out);
        }
        other => panic!("no key hash for the type {other}: the planner must refuse it"),
    }
}

fn hash_list(values: &ArrayRef) -> u64 {
    let inner = hash_columns(std::slice::from_ref(values), values.len());
    inner
        .iter()
        .fold(mix(values.len() as u64), |h, v| combine(h, *v))
}

/// The bits of a float under SQL equality: one NaN, one zero.
#[inline]
pub fn float_bits(v: f64) -> u64 {
    if v.is_nan() {
        f64::NAN.to_bits()
    } else if v == 0.0 {
        0
    } else {
        v.to_bits()
    }
}

#[inline]
fn each(array: &dyn Array, out: &mut Vec<u64>, f: impl Fn(usize) -> u64) {
    match array.nulls().filter(|n| n.null_count() > 0) {
        None => fold(array.len(), out, f),
        Some(nulls) => fold(array.len(), out, |i| match nulls.is_null(i) {
            true => NULL_HASH,
            false => f(i),
        }),
    }
}

/// The first column's hashes are written, not combined with zeros: zeroed memory that is read before it is written takes two
/// page faults.
#[inline]
fn fold(rows: usize, out: &mut Vec<u64>, f: impl Fn(usize) -> u64) {
    match out.is_empty() {
        true => out.extend((0..rows).map(f)),
        false => (out.iter_mut().enumerate()).for_each(|(i, h)| *h = combine(*h, f(i))),
    }
}

#[inline]
fn hash_primitive<T: ArrowPrimitiveType>(
    array: &PrimitiveArray<T>,
    out: &mut Vec<u64>,
    f: impl Fn(T::Native) -> u64,
) {
    let values = array.values();
    each(array, out, |i| f(values[i]));
}
