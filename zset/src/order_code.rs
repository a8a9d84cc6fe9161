//! The key code of an ordered arrangement: 64 bits that place a row near its neighbours in the order of its first key
//! column and still tell keys apart.
//!
//! The upper 40 bits are the *rank* of the first key column's value: a value that isn't smaller never has a
//! smaller rank, but different values may share one (integers are exact up to 33 bits, then keep their 33 leading
//! bits; text has its first five bytes). The lower 24 bits are the leading bits of the key hash over all key columns
//! (see [`crate::hash`]). So the rows of a range of the first column have a range of codes, and the rows of one key have one code,
//! also where many keys share a rank.
//!
//! Like the hash, the code is part of the storage format and a function of logical values only. NULL has the greatest
//! rank; floats are normalised as they are for the hash (every NaN is one value, greater than all others, -0.0 is 0.0).

use arrow::array::cast::AsArray;
use arrow::array::types::*;
use arrow::array::{Array, ArrayRef, ArrowPrimitiveType};
use arrow::datatypes::{DataType, TimeUnit};

use crate::hash::{float_bits, hash_columns};

const HASH_BITS: u32 = 24;
const NULL_RANK: u64 = (1 << 40) - 1;
const RANK_MAX: u64 = NULL_RANK - 1;
/// Magnitudes below 2^33 are exact.
const EXACT_BITS: u32 = 33;

/// True if values of this type have ranks, so that a column of it may be the first of an ordered key.
pub fn has_rank(data_type: &DataType) -> bool {
    use DataType::*;
    matches!(
        data_type,
        Boolean
            | Int16
            | Int32
            | Int64
            | Float32
            | Float64
            | Decimal128(..)
            | Utf8View
            | Binary
            | Date32
            | Time64(TimeUnit::Microsecond)
            | Timestamp(TimeUnit::Microsecond, _)
    )
}

/// The code of each row of `columns`, of which there is at least one, all of the length `rows`.
///
/// # Panics
/// If the first column has a type without ranks.
pub fn order_codes(columns: &[ArrayRef], rows: usize) -> Vec<u64> {
    let mut codes = hash_columns(columns, rows);
    let first = columns[0].as_ref();
    for (row, code) in codes.iter_mut().enumerate() {
        *code >>= 64 - HASH_BITS;
        if first.is_null(row) {
            *code |= NULL_RANK << HASH_BITS;
        }
    }
    add_ranks(first, &mut codes);
    codes
}

/// The codes that rows with a first key column between `low` and `high` may have, first and last. The bounds are
/// arrays of one value; without one the range is open, but for NULL.
pub fn code_range(low: Option<&ArrayRef>, high: Option<&ArrayRef>) -> (u64, u64) {
    let rank = |bound: &ArrayRef| {
        let mut code = [0];
        add_ranks(bound.as_ref(), &mut code);
        code[0]
    };
    let last = (1 << HASH_BITS) - 1;
    let low = low.map_or(0, rank);
    let high = high.map_or(RANK_MAX << HASH_BITS, rank);
    (low, high | last)
}

/// The codes of one rank, first and last, of which `code` is one.
pub fn rank_codes(code: u64) -> (u64, u64) {
    let hash = (1 << HASH_BITS) - 1;
    (code & !hash, code | hash)
}

/// All codes, those of NULL among them.
pub const ALL_CODES: (u64, u64) = (0, u64::MAX);

fn add_ranks(first: &dyn Array, codes: &mut [u64]) {
    match first.data_type() {
        DataType::Boolean => {
            let a = first.as_boolean();
            each(first, codes, |i| a.value(i) as u64);
        }
        DataType::Int16 => primitive::<Int16Type>(first, codes, |v| integer(v.into())),
        DataType::Int32 => primitive::<Int32Type>(first, codes, |v| integer(v.into())),
        DataType::Int64 => primitive::<Int64Type>(first, codes, |v| integer(v.into())),
        DataType::Float32 => primitive::<Float32Type>(first, codes, |v| float(v.into())),
        DataType::Float64 => primitive::<Float64Type>(first, codes, float),
        DataType::Decimal128(..) => primitive::<Decimal128Type>(first, codes, integer),
        DataType::Date32 => primitive::<Date32Type>(first, codes, |v| integer(v.into())),
        DataType::Time64(TimeUnit::Microsecond) => {
            primitive::<Time64MicrosecondType>(first, codes, |v| integer(v.into()))
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            primitive::<TimestampMicrosecondType>(first, codes, |v| integer(v.into()))
        }
        DataType::Utf8View => {
            let a = first.as_string_view();
            each(first, codes, |i| bytes(a.value(i).as_bytes()));
        }
        DataType::Binary => {
            let a = first.as_binary::<i32>();
            each(first, codes, |i| bytes(a.value(i)));
        }
        other => panic!("values of {other} have no rank"),
    }
}

fn primitive<T: ArrowPrimitiveType>(
    array: &dyn Array,
    codes: &mut [u64],
    rank: impl Fn(T::Native) -> u64,
) {
    let values = array.as_primitive::<T>().values();
    each(array, codes, |i| rank(values[i]));
}

/// Adds the ranks of the values that aren't NULL.
fn each(array: &dyn Array, codes: &mut [u64], rank: impl Fn(usize) -> u64) {
    let nulls = array.nulls().filter(|n| n.null_count() > 0);
    for (row, code) in codes.iter_mut().enumerate() {
        if nulls.is_none_or(|n| n.is_valid(row)) {
            *code |= rank(row) << HASH_BITS;
        }
    }
}

/// Below 2^33 the magnitude itself, above it the length in bits and the leading bits.
fn magnitude(m: u128) -> u64 {
    let length = u128::BITS - m.leading_zeros();
    let Some(beyond) = length.checked_sub(EXACT_BITS).filter(|b| *b > 0) else {
        return m as u64;
    };
    let half = 1u64 << (EXACT_BITS - 1);
    // The leading bit is implied by the length.
    2 * half + u64::from(beyond - 1) * half + ((m >> beyond) as u64 - half)
}

fn integer(v: i128) -> u64 {
    // More than any magnitude of a number of 128 bits has.
    const ZERO: u64 = 1 << 39;
    match u128::try_from(v) {
        Ok(m) => ZERO + magnitude(m),
        Err(_) => ZERO - 1 - magnitude(!v as u128),
    }
}

fn float(v: f64) -> u64 {
    let bits = float_bits(v);
    // Negative floats have ascending bits while they descend.
    let ascending = match bits >> 63 {
        0 => bits | 1 << 63,
        _ => !bits,
    };
    (ascending >> HASH_BITS).min(RANK_MAX)
}

fn bytes(v: &[u8]) -> u64 {
    let mut first = [0; 8];
    let n = v.len().min(5);
    first[3..3 + n].copy_from_slice(&v[..n]);
    u64::from_be_bytes(first).min(RANK_MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::*;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn ranks(array: ArrayRef) -> Vec<u64> {
        let rows = array.len();
        let codes = order_codes(&[array], rows);
        codes.into_iter().map(|c| c >> HASH_BITS).collect()
    }

    /// `ascending` holds ascending values and NULL at the end.
    fn check(ascending: ArrayRef) {
        let ranks = ranks(ascending.clone());
        assert!(
            ranks.windows(2).all(|w| w[0] <= w[1]),
            "{ascending:?} {ranks:?}"
        );
        let (nulls, values) = (ascending.null_count(), ascending.len());
        assert!(ranks[values - nulls..].iter().all(|r| *r == NULL_RANK));
        assert!(ranks[..values - nulls].iter().all(|r| *r <= RANK_MAX));
        let codes = order_codes(std::slice::from_ref(&ascending), values);
        for low in 0..values - nulls {
            let bound = ascending.slice(low, 1);
            let (from, _) = code_range(Some(&bound), None);
            let (_, until) = code_range(None, Some(&bound));
            assert!(codes[low..values - nulls].iter().all(|c| *c >= from));
            assert!(codes[..=low].iter().all(|c| *c <= until));
        }
        let (all_from, all_until) = code_range(None, None);
        let inside = codes.iter().filter(|c| (all_from..=all_until).contains(c));
        assert_eq!(inside.count(), values - nulls, "NULL is in no range");
    }

    #[test]
    fn a_greater_value_never_has_a_smaller_rank() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(17);
        let mut wide: Vec<i128> = vec![i128::MIN, i128::MAX, 0, -1, 1];
        for bits in 0..127 {
            for _ in 0..4 {
                let v = rng.random_range(0..=(1i128 << bits));
                wide.extend([v, -v, v + 1, 1 << bits, (1 << bits) - 1]);
            }
        }
        wide.sort_unstable();
        let decimals: Vec<Option<i128>> = wide.iter().copied().map(Some).chain([None]).collect();
        check(Arc::new(Decimal128Array::from(decimals)));
        let longs = wide.iter().filter_map(|v| i64::try_from(*v).ok());
        check(Arc::new(Int64Array::from_iter(
            longs.map(Some).chain([None]),
        )));
        let shorts = wide.iter().filter_map(|v| i16::try_from(*v).ok());
        check(Arc::new(Int16Array::from_iter(
            shorts.map(Some).chain([None]),
        )));
        let mut floats: Vec<f64> = wide.iter().map(|v| *v as f64 / 1e9).collect();
        floats.extend([f64::INFINITY, f64::NEG_INFINITY, f64::MIN_POSITIVE, 0.0]);
        floats.sort_by(f64::total_cmp);
        floats.push(f64::NAN);
        check(Arc::new(Float64Array::from_iter(
            floats.into_iter().map(Some).chain([None]),
        )));
        let mut texts: Vec<String> = (0..300)
            .map(|_| {
                let n = rng.random_range(0..9);
                (0..n)
                    .map(|_| ['\0', 'a', 'b', 'é', '\u{10ffff}'][rng.random_range(0..5)])
                    .collect()
            })
            .collect();
        texts.sort();
        check(Arc::new(StringViewArray::from_iter(
            texts.iter().map(|t| Some(t.as_str())).chain([None]),
        )));
        check(Arc::new(BinaryArray::from_opt_vec(vec![
            Some(&[][..]),
            Some(&[0xff; 4]),
            Some(&[0xff; 7]),
            None,
        ])));
        check(Arc::new(BooleanArray::from(vec![
            Some(false),
            Some(true),
            None,
        ])));
    }

    #[test]
    fn small_integers_have_ranks_of_their_own() {
        let array =
            Int64Array::from_iter_values((-1000..1000).chain([(1 << 33) - 2, (1 << 33) - 1]));
        let ranks = ranks(Arc::new(array));
        assert!(ranks.windows(2).all(|w| w[0] < w[1]));
    }

    #[test]
    fn a_rank_is_fixed() {
        assert_eq!(
            ranks(Arc::new(Int64Array::from(vec![0, 7, 1 << 40]))),
            [1 << 39, (1 << 39) + 7, (1 << 39) + (1 << 33) + (7 << 32),]
        );
        assert_eq!(
            ranks(Arc::new(Float64Array::from(vec![-0.0, 1.0]))),
            [1 << 39, 0xbf_f000_0000,]
        );
        assert_eq!(
            ranks(Arc::new(StringViewArray::from(vec!["ab"]))),
            [0x61_6200_0000]
        );
    }

    #[test]
    fn keys_of_one_rank_are_told_apart_by_their_hash() {
        let n = 10_000;
        let texts = StringViewArray::from_iter_values((0..n).map(|i| format!("customer-{i}")));
        let codes = order_codes(&[Arc::new(texts)], n);
        let mut distinct = codes.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert!(
            codes
                .iter()
                .all(|c| c >> HASH_BITS == codes[0] >> HASH_BITS)
        );
        assert!(
            distinct.len() > n - 20,
            "{} codes of {n} keys",
            distinct.len()
        );
    }

    /// These names stand in `keys_in_order.slt`, where rows of one code must be told apart.
    #[test]
    fn a_code_may_be_that_of_two_keys() {
        let names = StringViewArray::from_iter_values(["customer-2055", "customer-3894"]);
        let names: ArrayRef = Arc::new(names);
        let codes = order_codes(std::slice::from_ref(&names), 2);
        assert_eq!(codes[0], codes[1]);
        let hashes = hash_columns(&[names], 2);
        assert_ne!(hashes[0], hashes[1]);
    }
}
