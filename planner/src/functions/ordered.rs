//! What ordered-set aggregates and sums of intervals make of the array of a group's values.
//!
//! The array holds the group's values without NULLs, in the order of WITHIN GROUP; there is none for an empty group.

use std::sync::Arc;

use arrow::array::cast::AsArray;
use arrow::array::types::*;
use arrow::array::{Array, ArrayRef, Float64Array, Float64Builder, UInt32Array, make_comparator};
use arrow::compute::SortOptions;
use arrow::datatypes::IntervalMonthDayNano;
use datafusion_common::Result as DfResult;
use tidemill_zset::schema::SqlType;

use super::intervals::{add_intervals, divide_interval, interval_key, scale_interval};
use super::registry::{CallTypes, Registry};
use super::{Args, Kernel, external, kernel};
use crate::error::{Result, SqlError};

fn check_fraction(f: f64) -> Result<f64> {
    if (0.0..=1.0).contains(&f) {
        Ok(f)
    } else {
        Err(SqlError::new(
            "22003",
            format!(
                "percentile value {} is not between 0 and 1",
                super::format::float8(f)
            ),
        ))
    }
}

/// The first of the values that occur most often.
fn mode() -> Kernel {
    Arc::new(|a: &Args| {
        let list = a.arrays[0].as_list::<i32>();
        let values = list.values();
        // 24 hours are a day.
        let keys: ArrayRef = match values.as_primitive_opt::<IntervalMonthDayNanoType>() {
            Some(intervals) => Arc::new(intervals.unary::<_, Int64Type>(interval_key)),
            None => values.clone(),
        };
        let compare = make_comparator(&keys, &keys, SortOptions::default())?;
        let picks: UInt32Array = (0..a.rows)
            .map(|row| {
                let at = a.at(0, row);
                if list.is_null(at) {
                    return None;
                }
                let from = list.value_offsets()[at] as usize;
                let to = from + list.value_length(at) as usize;
                let (mut best, mut most, mut start) = (None, 0, from);
                for i in from..to {
                    if compare(start, i).is_ne() {
                        start = i;
                    }
                    if i + 1 - start > most {
                        (best, most) = (Some(start as u32), i + 1 - start);
                    }
                }
                best
            })
            .collect();
        Ok(arrow::compute::take(values, &picks, None)?)
    })
}

/// Number of the value at which at least the fraction `f` of `n` values is reached.
fn discrete(f: f64, n: usize) -> usize {
    ((f * n as f64).ceil() as usize).clamp(1, n) - 1
}

/// For each row and fraction what `one` gives of the values' range and the fraction.
fn fractions(a: &Args) -> Vec<Option<Vec<Option<f64>>>> {
    let one = |f: &Float64Array, i: usize| f.is_valid(i).then(|| f.value(i));
    (0..a.rows)
        .map(|row| {
            let at = a.at(1, row);
            if a.arrays[1].is_null(at) {
                return None;
            }
            Some(match a.arrays[1].as_list_opt::<i32>() {
                Some(list) => {
                    let part = list.value(at);
                    let part = part.as_primitive::<Float64Type>();
                    (0..part.len()).map(|i| one(part, i)).collect()
                }
                None => vec![one(a.arrays[1].as_primitive::<Float64Type>(), at)],
            })
        })
        .collect()
}

/// Percentiles: `place` appends the value for a fraction of the values `from..from + n`. One per row, or a list per row.
fn percentiles(
    a: &Args,
    ret: &SqlType,
    mut place: impl FnMut(usize, usize, Option<f64>) -> Result<()>,
    finish: impl FnOnce() -> DfResult<ArrayRef>,
) -> DfResult<ArrayRef> {
    let list = a.arrays[0].as_list::<i32>();
    let (mut lengths, mut valid) = (vec![], vec![]);
    let many = matches!(ret, SqlType::Array(_));
    for (row, fractions) in fractions(a).into_iter().enumerate() {
        let at = a.at(0, row);
        let n = if list.is_null(at) {
            0
        } else {
            list.value_length(at) as usize
        };
        let from = list.value_offsets()[at] as usize;
        match fractions {
            Some(fractions) if n > 0 => {
                lengths.push(fractions.len());
                valid.push(true);
                for f in fractions {
                    let f = f.map(check_fraction).transpose().map_err(external)?;
                    place(from, n, f).map_err(external)?;
                }
            }
            _ => {
                lengths.push(0);
                valid.push(false);
                if !many {
                    place(from, n, None).map_err(external)?;
                }
            }
        }
    }
    let values = finish()?;
    if many {
        return super::cast::list_array(values, lengths, valid, ret);
    }
    Ok(values)
}

fn percentile_disc(t: &CallTypes) -> Kernel {
    let ret = t.ret.clone();
    Arc::new(move |a: &Args| {
        let picks = std::cell::RefCell::new(Vec::new());
        percentiles(
            a,
            &ret,
            |from, n, f| {
                let pick = f.map(|f| (from + discrete(f, n)) as u32);
                picks.borrow_mut().push(pick);
                Ok(())
            },
            || {
                let picks = UInt32Array::from(picks.take());
                let values = a.arrays[0].as_list::<i32>().values();
                Ok(arrow::compute::take(values, &picks, None)?)
            },
        )
    })
}

/// The two values around a fraction, and how far between them it is.
fn around(from: usize, n: usize, f: f64) -> (usize, usize, f64) {
    let place = f * (n - 1) as f64;
    let (low, high) = (place.floor(), place.ceil());
    (from + low as usize, from + high as usize, place - low)
}

fn percentile_cont(t: &CallTypes) -> Kernel {
    let ret = t.ret.clone();
    let of = match &ret {
        SqlType::Array(of) => of.as_ref().clone(),
        t => t.clone(),
    };
    if matches!(of, SqlType::Interval) {
        return Arc::new(move |a: &Args| {
            let out = std::cell::RefCell::new(arrow::array::IntervalMonthDayNanoBuilder::new());
            let values = a.arrays[0].as_list::<i32>().values();
            let values = values.as_primitive::<IntervalMonthDayNanoType>();
            percentiles(
                a,
                &ret,
                |from, n, f| {
                    let Some(f) = f else {
                        out.borrow_mut().append_null();
                        return Ok(());
                    };
                    let (low, high, rest) = around(from, n, f);
                    let (x, y) = (values.value(low), values.value(high));
                    let v = if low == high {
                        x
                    } else {
                        add_intervals(x, scale_interval(add_intervals(y, x, -1)?, rest)?, 1)?
                    };
                    out.borrow_mut().append_value(v);
                    Ok(())
                },
                || Ok(Arc::new(out.borrow_mut().finish())),
            )
        });
    }
    Arc::new(move |a: &Args| {
        let out = std::cell::RefCell::new(Float64Builder::new());
        let values = a.arrays[0].as_list::<i32>().values();
        let values = values.as_primitive::<Float64Type>();
        percentiles(
            a,
            &ret,
            |from, n, f| {
                let v = f.map(|f| {
                    let (low, high, rest) = around(from, n, f);
                    let (x, y) = (values.value(low), values.value(high));
                    if low == high { x } else { x + rest * (y - x) }
                });
                out.borrow_mut().append_option(v);
                Ok(())
            },
            || Ok(Arc::new(out.borrow_mut().finish())),
        )
    })
}

fn intervals(list: &ArrayRef) -> impl Iterator<Item = IntervalMonthDayNano> {
    let values = list.as_primitive::<IntervalMonthDayNanoType>();
    values.iter().flatten()
}

fn total(list: &ArrayRef) -> Result<Option<(IntervalMonthDayNano, usize)>> {
    let (mut sum, mut n) = (IntervalMonthDayNano::ZERO, 0);
    for v in intervals(list) {
        sum = add_intervals(sum, v, 1)?;
        n += 1;
    }
    Ok((n > 0).then_some((sum, n)))
}

/// Registers the functions of this file.
pub fn register(r: &mut Registry) {
    r.add("mode_of_sorted(anyarray) anyelement", mode());
    r.add_typed(
        "percentile_disc_of_sorted(anyarray, float8) anyelement",
        percentile_disc,
    );
    r.add_typed(
        "percentiles_disc_of_sorted(anyarray, float8[]) anyarray",
        percentile_disc,
    );
    r.add_typed(
        "percentile_cont_of_sorted(anyarray, float8) anyelement",
        percentile_cont,
    );
    r.add_typed(
        "percentiles_cont_of_sorted(anyarray, float8[]) anyarray",
        percentile_cont,
    );
    r.add_fallible(
        "interval_sum_of(interval[]) interval",
        kernel!(|l: list| -> interval Ok(total(&l)?.map(|(sum, _)| sum))),
    );
    r.add_fallible(
        "interval_avg_of(interval[]) interval",
        kernel!(|l: list| -> interval match total(&l)? {
            Some((sum, n)) => divide_interval(sum, n as f64).map(Some),
            None => Ok(None),
        }),
    );
}
