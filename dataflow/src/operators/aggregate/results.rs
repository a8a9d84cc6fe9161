//! From cells to the values that a group shows. A value that its type can't hold is an error of the group
//! (PostgreSQL's 22003) and shown as NULL.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Decimal128Array, Float32Array, Float64Array, Int16Array, Int32Array,
    Int64Array,
};
use arrow::datatypes::{DataType, i256};

use super::cells::{At, Column, WideSum};
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
            let sums = at.gather(t).into_iter().map(i256::from_i128);
            exact(sums.collect(), counts, output, failures)
        }
        Column::Decimal(t) => {
            let sums = at.gather(t);
            exact(
                sums.iter().map(WideSum::total).collect(),
                counts,
                output,
                failures,
            )
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
    let totals: Vec<i256> = match column {
        Column::Int(t) => at.gather(t).into_iter().map(i256::from_i128).collect(),
        Column::Decimal(t) => at.gather(t).iter().map(WideSum::total).collect(),
        Column::Float(t) => {
            let sums = at.gather(t);
            return floats(&sums, counts, output, failures, |sum, n| sum / n as f64);
        }
        _ => unreachable!("the layout says that this cell adds up"),
    };
    let DataType::Decimal128(_, to) = output else {
        unreachable!("averages of exact numbers are decimals")
    };
    let shift = *to as i32 - scale as i32;
    let quotients = totals.into_iter().zip(counts).map(|(total, n)| {
        if *n > 0 {
            divide(total, *n, shift)
        } else {
            total
        }
    });
    exact(quotients.collect(), counts, output, failures)
}

/// `total * 10^shift / count`, rounded half away from zero.
fn divide(total: i256, count: i64, shift: i32) -> i256 {
    let ten = i256::from_i128(10);
    let power = |n: i32| ten.wrapping_pow(n as u32);
    let (dividend, divisor) = if shift >= 0 {
        (
            // A sum is below 2^191, and a scale at most 38: the product fits in 256 bits but for
            // sums that don't fit a decimal anyway.
            total
                .checked_mul(power(shift))
                .unwrap_or(if total.is_negative() {
                    i256::MIN
                } else {
                    i256::MAX
                }),
            i256::from_i128(count as i128),
        )
    } else {
        (
            total,
            i256::from_i128(count as i128).wrapping_mul(power(-shift)),
        )
    };
    let quotient = dividend.wrapping_div(divisor);
    let rest = dividend.wrapping_rem(divisor).wrapping_abs();
    if rest < divisor.wrapping_sub(rest) {
        quotient
    } else if dividend.is_negative() {
        quotient.wrapping_sub(i256::ONE)
    } else {
        quotient.wrapping_add(i256::ONE)
    }
}

/// Exact numbers as values of the output type; NULL where the count is 0.
fn exact(
    values: Vec<i256>,
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
    let mut fit = |(i, value): (usize, i256)| {
        if counts[i] <= 0 {
            return None;
        }
        let fits = value.to_i128().filter(|v| (min..=max).contains(v));
        if fits.is_none() {
            let message = match integer {
                true => format!("{name} out of range"),
                false => "numeric field overflow".to_string(),
            };
            failures.push((i, out_of_range(message)));
        }
        fits
    };
    let values = values.into_iter().enumerate();
    match output {
        DataType::Int16 => {
            let a: Int16Array = values.map(|v| fit(v).map(|v| v as i16)).collect();
            Arc::new(a)
        }
        DataType::Int32 => {
            let a: Int32Array = values.map(|v| fit(v).map(|v| v as i32)).collect();
            Arc::new(a)
        }
        DataType::Int64 => {
            let a: Int64Array = values.map(|v| fit(v).map(|v| v as i64)).collect();
            Arc::new(a)
        }
        _ => {
            let a: Decimal128Array = values.map(fit).collect();
            Arc::new(a.with_data_type(output.clone()))
        }
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
