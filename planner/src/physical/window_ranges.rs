//! Frames by RANGE with offsets: the rows whose key is not farther away than that from the current row's.

use std::ops::Range;

use arrow::array::cast::AsArray;
use arrow::array::types::{Decimal128Type, Float64Type, Int64Type, TimestampMicrosecondType};
use arrow::array::{Array, ArrayRef};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, TimeUnit};
use datafusion_common::{Result, ScalarValue, internal_err};

use crate::functions::intervals::add_interval;

/// Keys of rows on the line on which they are ordered.
pub(super) struct Line<'k> {
    keys: &'k ArrayRef,
    descending: bool,
}

impl Line<'_> {
    /// Keys are bigint, double precision, numeric or timestamps: `bind::windows` makes all others so.
    pub fn of(keys: &ArrayRef, descending: bool) -> Result<Line<'_>> {
        match keys.data_type() {
            DataType::Int64
            | DataType::Float64
            | DataType::Decimal128(..)
            | DataType::Timestamp(TimeUnit::Microsecond, _) => Ok(Line { keys, descending }),
            other => internal_err!("RANGE over {other}"),
        }
    }

    /// Where keys are: rows come in ascending order of these, those without a key apart.
    pub fn places(&self) -> Vec<i128> {
        let forwards: Vec<i128> = match self.keys.data_type() {
            DataType::Int64 => {
                let keys = self.keys.as_primitive::<Int64Type>().values().iter();
                keys.map(|v| i128::from(*v)).collect()
            }
            DataType::Float64 => {
                let keys = self.keys.as_primitive::<Float64Type>().values().iter();
                keys.map(|v| place_of_float(*v)).collect()
            }
            DataType::Decimal128(..) => {
                let keys = self.keys.as_primitive::<Decimal128Type>();
                keys.values().to_vec()
            }
            _ => {
                let keys = self.keys.as_primitive::<TimestampMicrosecondType>();
                keys.values().iter().map(|v| i128::from(*v)).collect()
            }
        };
        self.in_order(forwards)
    }

    /// For each row the place that is `by` before it, if `sign` is negative, or after it. What no key can reach is an end of the line;
    /// infinity less infinity is the one that takes all in, if the `last` or the first place is asked for.
    pub fn targets(&self, by: &ScalarValue, sign: i8, last: bool) -> Result<Vec<i128>> {
        let sign = if self.descending { -sign } else { sign };
        let add = |v: i128, by: i128| match sign {
            1 => v.saturating_add(by),
            _ => v.saturating_sub(by),
        };
        let forwards: Vec<i128> = match (self.keys.data_type(), by) {
            (DataType::Int64, ScalarValue::Int64(Some(by))) => {
                let keys = self.keys.as_primitive::<Int64Type>().values().iter();
                keys.map(|v| add(i128::from(*v), i128::from(*by))).collect()
            }
            (DataType::Decimal128(_, scale), ScalarValue::Decimal128(Some(by), _, of))
                if scale == of =>
            {
                let keys = self.keys.as_primitive::<Decimal128Type>().values().iter();
                keys.map(|v| add(*v, *by)).collect()
            }
            (DataType::Float64, ScalarValue::Float64(Some(by))) => {
                let keys = self.keys.as_primitive::<Float64Type>().values().iter();
                let by = if sign == 1 { *by } else { -*by };
                let all = match last != self.descending {
                    true => f64::INFINITY,
                    false => f64::NEG_INFINITY,
                };
                let target = |v: f64| match v + by {
                    t if t.is_nan() && !v.is_nan() => all,
                    t => t,
                };
                keys.map(|v| place_of_float(target(*v))).collect()
            }
            (
                DataType::Timestamp(TimeUnit::Microsecond, zone),
                ScalarValue::IntervalMonthDayNano(Some(by)),
            ) => {
                let keys = self.keys.as_primitive::<TimestampMicrosecondType>();
                let end = if sign == 1 { i128::MAX } else { i128::MIN };
                let add = |v: i64| match add_interval(v, *by, sign.into(), zone.as_deref()) {
                    Ok(v) => i128::from(v),
                    // Beyond all timestamps.
                    Err(_) => end,
                };
                keys.values().iter().map(|v| add(*v)).collect()
            }
            (key, by) => return internal_err!("RANGE over {key} by {by:?}"),
        };
        Ok(self.in_order(forwards))
    }

    fn in_order(&self, mut forwards: Vec<i128>) -> Vec<i128> {
        if self.descending {
            forwards.iter_mut().for_each(|v| *v = v.saturating_neg());
        }
        forwards
    }
}

/// NaN is greater than all numbers, and both zeros are one.
fn place_of_float(v: f64) -> i128 {
    if v.is_nan() {
        return i128::from(i64::MAX);
    }
    let bits = (v + 0.0).to_bits() as i64;
    i128::from(bits ^ (((bits >> 63) as u64) >> 1) as i64)
}

/// The frames of a chunk's rows.
pub(super) struct Reach {
    pub places: Vec<i128>,
    /// The places at which frames begin and end; without them they go to the end of the partition.
    pub first: Option<Vec<i128>>,
    pub last: Option<Vec<i128>>,
    pub nulls: Option<NullBuffer>,
    pub nulls_first: bool,
}

impl Reach {
    /// As [`super::window_frames::Frame::for_each`]. Rows without a key are equally far away from each other and out of reach of all
    /// others. Calendars can have a later row's frame begin before an earlier one's: like Postgres, it begins there too.
    pub fn for_each(
        &self,
        partition: &Range<usize>,
        mut each: impl FnMut(Range<usize>) -> Result<()>,
    ) -> Result<()> {
        let nulls = match &self.nulls {
            Some(nulls) => nulls.slice(partition.start, partition.len()).null_count(),
            None => 0,
        };
        let (keyless, keyed) = match self.nulls_first {
            true => {
                let cut = partition.start + nulls;
                (partition.start..cut, cut..partition.end)
            }
            false => {
                let cut = partition.end - nulls;
                (cut..partition.end, partition.start..cut)
            }
        };
        let (mut start, mut end) = (keyed.start, keyed.start);
        for row in partition.clone() {
            let (from, to) = if keyless.contains(&row) {
                (keyless.start, keyless.end)
            } else {
                if let Some(first) = &self.first {
                    while start < keyed.end && self.places[start] < first[row] {
                        start += 1;
                    }
                }
                if let Some(last) = &self.last {
                    while end < keyed.end && self.places[end] <= last[row] {
                        end += 1;
                    }
                }
                (start, end)
            };
            let from = match self.first {
                Some(_) => from,
                None => partition.start,
            };
            let to = match self.last {
                Some(_) => to,
                None => partition.end,
            };
            each(from..to.max(from))?;
        }
        Ok(())
    }
}
