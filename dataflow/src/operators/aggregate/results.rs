//! From cells to the values that a group shows. A value that its type can't hold is an error of the group
//! (PostgreSQL's 22003) and shown as NULL.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Decimal128Array, Float32Array, Float64Array, Int16Array, Int32Array,
    Int64Array,
};
use arrow::datatypes::{DataType, i256};

use super::cells::{At, Column};
use super::layout::{Layout, Result};
use crate::plan::RowError;
use tidemill_zset::float_sum::FloatSum;

/// An error of the group at this place in what was asked for.
pub type Failure = (usize, RowError);

/// The values of the `n`-th aggregate at `at`; errors are appended to `failures`.
pub fn evaluate(
    layout: &Layout,
    columns: &[Column],
    n: usize,
    at: At,
    failures: &mut Vec<Failure>,
) -> ArrayRef {
    let output = layout.aggregates[n].output.data_type();
    match &layout.results[n] {
        Result::Count(c) => Arc::new(Int64Array::from(columns[*c].counts(at))),
        Result::Sum { sum, count } => {
            let counts = columns[*count].counts(at);
            sums(&columns[*sum], at, &counts, output, failures)
        }
        Result::Avg { sum, count } => {
            let counts = columns[*count].counts(at);
            let scale = match layout.value_type(&layout.cells[*sum]) {
                DataType::Decimal128(_, s) => s,
                _ => 0,
            };
            averages(&columns[*sum], at, &counts, scale, output, failures)
        }
        Result::Moments(c) => columns[*c].moments(at),
        Result::Record(c) => extreme(&columns[*c], at, false),
        Result::Extreme { values, max } => extreme(&columns[*values], at, *max),
        Result::BoolAnd { trues, count } => {
            booleans(columns, *trues, *count, at, |trues, count| trues == count)
        }
        Result::BoolOr { trues, count } => {
            booleans(columns, *trues, *count, at, |trues, _| trues > 0)
        }
    }
}

/// True if the `n`-th aggregate may fail.
pub fn may_fail(layout: &Layout, n: usize) -> bool {
    matches!(layout.results[n], Result::Sum { .. } | Result::Avg { .. })
}

fn extreme(column: &Column, at: At, max: bool) -> ArrayRef {
    match (column, at) {
        (Column::Extremes(e), At::Now(slots)) => e.now(slots, max),
        (Column::Extremes(e), At::Before(positions)) => e.before(positions, max),
        _ => unreachable!("the layout says that this cell holds extremes"),
    }
}

fn booleans(
    columns: &[Column],
    trues: usize,
    count: usize,
    at: At,
    f: impl Fn(i64, i64) -> bool,
) -> ArrayRef {
    let trues = columns[trues].counts(at);
    let counts = columns[count].counts(at);
    let values = trues
        .iter()
        .zip(&counts)
        .map(|(t, c)| (*c > 0).then(|| f(*t, *c)));
    Arc::new(BooleanArray::from_iter(values))
}

fn sums(
    column: &Column,
    at: At,
    counts: &[i64],
    output: &DataType,
    failures: &mut Vec<Failure>,
) -> ArrayRef {
    match column {
        Column::Int(t) => {
            let sums = at.gather(t).into_iter().map(Some);
            exact(sums, counts, output, failures)
        }
        Column::Decimal(t) => {
            let sums = at.gather(t).into_iter().map(|s| s.narrow());
            exact(sums, counts, output, failures)
        }
        Column::Float(t) => {
            let sums = at.gather(t);
            floats(&sums, counts, output, failures, |sum, _| sum)
        }
        _ => unreachable!("the layout says that this cell adds up"),
    }
}

fn averages(
    column: &Column,
    at: At,
    counts: &[i64],
    scale: i8,
    output: &DataType,
    failures: &mut Vec<Failure>,
) -> ArrayRef {
    let shift = match output {
        DataType::Decimal128(_, to) => *to as i32 - scale as i32,
        // Averages of exact numbers are decimals, those of floats need no shift.
        _ => 0,
    };
    match column {
        Column::Int(t) => {
            let sums = at.gather(t).into_iter().zip(counts);
            let quotients = sums.map(|(sum, n)| divide(sum, *n, shift));
            exact(quotients, counts, output, failures)
        }
        Column::Decimal(t) => {
            let sums = at.gather(t).into_iter().zip(counts);
            let quotients = sums.map(|(sum, n)| match sum.narrow() {
                Some(narrow) => divide(narrow, *n, shift),
                None => divide_wide(sum.total(), *n, shift),
            });
            exact(quotients, counts, output, failures)
        }
        Column::Float(t) => {
            let sums = at.gather(t);
            floats(&sums, counts, output, failures, |sum, n| sum / n as f64)
        }
        _ => unreachable!("the layout says that this cell adds up"),
    }
}

/// `total * 10^shift / count`, rounded half away from zero; `None` if it is out of range. No rows: anything.
fn divide(total: i128, count: i64, shift: i32) -> Option<i128> {
    let power = 10i128.checked_pow(shift.unsigned_abs());
    let scaled = match power {
        Some(p) if shift >= 0 => total.checked_mul(p).map(|t| (t, count as i128)),
        Some(p) => (count as i128).checked_mul(p).map(|c| (total, c)),
        None => None,
    };
    let Some((dividend, divisor)) = scaled else {
        return divide_wide(i256::from_i128(total), count, shift);
    };
    if divisor <= 0 {
        return Some(0);
    }
    let (quotient, rest) = match (i64::try_from(dividend), i64::try_from(divisor)) {
        // Several times faster than the division of 128 bits.
        (Ok(a), Ok(b)) => ((a / b) as i128, (a % b) as i128),
        _ => (dividend / divisor, dividend % divisor),
    };
    let up = rest.abs() >= divisor - rest.abs();
    Some(quotient + if up { dividend.signum() } else { 0 })
}

/// [`divide`] for everything that doesn't fit 128 bits on the way.
fn divide_wide(total: i256, count: i64, shift: i32) -> Option<i128> {
    let power = i256::from_i128(10).checked_pow(shift.unsigned_abs())?;
    let count = i256::from_i128(count as i128);
    // A sum is below 2^191: a product that doesn't fit 256 bits doesn't fit a decimal either.
    let (dividend, divisor) = match shift >= 0 {
        true => (total.checked_mul(power)?, count),
        false => (total, count.checked_mul(power)?),
    };
    if divisor <= i256::ZERO {
        return Some(0);
    }
    let quotient = dividend.checked_div(divisor)?;
    let rest = dividend.wrapping_sub(quotient.wrapping_mul(divisor));
    let rest = rest.wrapping_abs();
    let up = rest >= divisor.wrapping_sub(rest);
    let away = match (up, dividend.is_negative()) {
        (false, _) => i256::ZERO,
        (true, false) => i256::ONE,
        (true, true) => i256::MINUS_ONE,
    };
    quotient.checked_add(away)?.to_i128()
}

/// Exact numbers (`None`: beyond 128 bits) as values of the output type; NULL where the count is 0.
fn exact(
    values: impl Iterator<Item = Option<i128>>,
    counts: &[i64],
    output: &DataType,
    failures: &mut Vec<Failure>,
) -> ArrayRef {
    let (max, name) = match output {
        DataType::Int16 => (i16::MAX as i128, "smallint"),
        DataType::Int32 => (i32::MAX as i128, "integer"),
        DataType::Int64 => (i64::MAX as i128, "bigint"),
        DataType::Decimal128(precision, _) => (10i128.pow(*precision as u32) - 1, ""),
        t => unreachable!("the layout allows no exact result of type {t}"),
    };
    let integer = !matches!(output, DataType::Decimal128(_, _));
    let min = if integer { -max - 1 } else { -max };
    let fit = |(i, value): (usize, Option<i128>)| {
        if counts[i] <= 0 {
            return None;
        }
        let fits = value.filter(|v| (min..=max).contains(v));
        if fits.is_none() {
            let message = match integer {
                true => format!("{name} out of range"),
                false => "numeric field overflow".to_string(),
            };
            failures.push((i, out_of_range(message)));
        }
        fits
    };
    let values = values.enumerate().map(fit);
    match output {
        DataType::Int16 => Arc::new(Int16Array::from_iter(values.map(|v| v.map(|v| v as i16)))),
        DataType::Int32 => Arc::new(Int32Array::from_iter(values.map(|v| v.map(|v| v as i32)))),
        DataType::Int64 => Arc::new(Int64Array::from_iter(values.map(|v| v.map(|v| v as i64)))),
        _ => Arc::new(Decimal128Array::from_iter(values).with_data_type(output.clone())),
    }
}

/// Floats computed from exact sums; NULL where the count is 0.
fn floats(
    sums: &[FloatSum],
    counts: &[i64],
    output: &DataType,
    failures: &mut Vec<Failure>,
    f: impl Fn(f64, i64) -> f64,
) -> ArrayRef {
    let mut value = |(i, sum): (usize, &FloatSum)| {
        if counts[i] <= 0 {
            return None;
        }
        let exact = sum.value();
        let value = f(exact, counts[i]);
        let narrow = *output == DataType::Float32 && (value as f32).is_infinite();
        if sum.overflows() || (narrow && exact.is_finite()) {
            failures.push((i, out_of_range("value out of range: overflow".into())));
            return None;
        }
        Some(value)
    };
    let values = sums.iter().enumerate();
    if *output == DataType::Float32 {
        let a: Float32Array = values.map(|v| value(v).map(|v| v as f32)).collect();
        return Arc::new(a);
    }
    let a: Float64Array = values.map(value).collect();
    Arc::new(a)
}

fn out_of_range(message: String) -> RowError {
    RowError {
        sqlstate: "22003".into(),
        message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_round_half_away_from_zero() {
        let both = |total: i128, n, shift| {
            let narrow = divide(total, n, shift);
            assert_eq!(narrow, divide_wide(i256::from_i128(total), n, shift));
            narrow
        };
        assert_eq!(both(5, 2, 0), Some(3));
        assert_eq!(both(-5, 2, 0), Some(-3));
        assert_eq!(both(7, 3, 2), Some(233));
        assert_eq!(both(8, 3, 2), Some(267));
        assert_eq!(both(-8, 3, 2), Some(-267));
        assert_eq!(both(250, 1, -2), Some(3));
        assert_eq!(both(249, 1, -2), Some(2));
        assert_eq!(both(i128::MAX / 2, 3, 0), Some(i128::MAX / 6));
        // Fits only when it has been divided.
        assert_eq!(both(10i128.pow(37), 1_000_000, 6), Some(10i128.pow(37)));
        assert_eq!(both(i128::MAX, 1, 6), None);
    }
}
