//! Arithmetic of intervals, which are months, days and microseconds apart.

use arrow::datatypes::IntervalMonthDayNano;
use chrono::{Datelike, Months, NaiveDate};
use tidemill_zset::interval::{Fields, Unit};

use super::datetime::range;
use super::parse_dates::{DAY_US, datetime_of, micros};
use super::zones::{to_local, to_utc};
use crate::error::{Result, SqlError};

/// The length that comparisons see, in microseconds: a month is 30 days, a day 24 hours.
pub fn interval_key(i: IntervalMonthDayNano) -> i64 {
    let days = i.months as i64 * 30 + i.days as i64;
    days.saturating_mul(DAY_US)
        .saturating_add(i.nanoseconds / 1000)
}

/// A timestamp plus `sign` times an interval. `zone`: days and months are those of that zone's calendar.
pub fn add_interval(
    us: i64,
    i: IntervalMonthDayNano,
    sign: i64,
    zone: Option<&str>,
) -> Result<i64> {
    let mut t = us;
    if i.months != 0 || i.days != 0 {
        let mut local = match zone {
            Some(z) => to_local(t, z)?,
            None => t,
        };
        if i.months != 0 {
            let d = datetime_of(local).ok_or_else(range)?;
            let n = i.months as i64 * sign;
            let m = Months::new(n.unsigned_abs() as u32);
            let d = if n > 0 {
                d.checked_add_months(m)
            } else {
                d.checked_sub_months(m)
            };
            local = micros(d.ok_or_else(range)?);
        }
        local = (i.days as i64 * sign)
            .checked_mul(DAY_US)
            .and_then(|d| local.checked_add(d))
            .ok_or_else(range)?;
        t = match zone {
            Some(z) => to_utc(local, z)?,
            None => local,
        };
    }
    t.checked_add(i.nanoseconds / 1000 * sign).ok_or_else(range)
}

pub(super) fn interval(months: i64, days: i64, us: i64) -> Result<Option<IntervalMonthDayNano>> {
    let out = || SqlError::new("22008", "interval out of range");
    Ok(Some(IntervalMonthDayNano::new(
        i32::try_from(months).map_err(|_| out())?,
        i32::try_from(days).map_err(|_| out())?,
        us.checked_mul(1000).ok_or_else(out)?,
    )))
}

/// Difference of timestamps: days and time.
pub(super) fn difference(a: i64, b: i64) -> Result<Option<IntervalMonthDayNano>> {
    let us = a.checked_sub(b).ok_or_else(range)?;
    interval(0, us / DAY_US, us % DAY_US)
}

pub(super) fn scale(i: IntervalMonthDayNano, f: f64) -> Result<Option<IntervalMonthDayNano>> {
    scale_by(i, |x| x * f)
}

pub(super) fn divide(i: IntervalMonthDayNano, f: f64) -> Result<Option<IntervalMonthDayNano>> {
    if f == 0.0 {
        return Err(super::arith::division_by_zero());
    }
    scale_by(i, |x| x / f)
}

/// Each unit is scaled by itself; what is left of months becomes days, and what is left of days time.
pub(super) fn scale_by(
    i: IntervalMonthDayNano,
    scaled: impl Fn(f64) -> f64,
) -> Result<Option<IntervalMonthDayNano>> {
    let to_micros = |x: f64| (x * 1e6).round_ties_even() / 1e6;
    let (months, days) = (scaled(i.months as f64), scaled(i.days as f64));
    let more_days = to_micros((months - months.trunc()) * 30.0);
    let part = days - days.trunc() + more_days - more_days.trunc();
    let seconds = to_micros(part * 86_400.0);
    let whole_days = (seconds / 86_400.0).trunc();
    let seconds = seconds - whole_days * 86_400.0;
    let us = scaled((i.nanoseconds / 1000) as f64) + seconds * 1e6;
    if !us.is_finite() || us.abs() > 9e15 {
        return Err(SqlError::new("22008", "interval out of range"));
    }
    interval(
        months.trunc() as i64,
        (days.trunc() + more_days.trunc() + whole_days) as i64,
        us.round_ties_even() as i64,
    )
}

/// The units that a type may name, by number.
const UNITS: [Unit; 6] = [
    Unit::Second,
    Unit::Minute,
    Unit::Hour,
    Unit::Day,
    Unit::Month,
    Unit::Year,
];

/// The fields of an interval that count, as an argument: units from 1, and the precision from 1.
pub fn fields_code(fields: Fields) -> i32 {
    let number = |unit: Unit| UNITS.iter().position(|u| *u == unit).map_or(0, |n| n + 1);
    let (from, to) = fields.range.map_or((0, 0), |(a, b)| (number(a), number(b)));
    let precision = fields.precision.map_or(0, |p| usize::from(p) + 1);
    (from * 100 + to * 10 + precision) as i32
}

pub(super) fn fields_of(code: i32) -> Fields {
    let unit = |n: i32| UNITS.get((n % 10 - 1) as usize).copied();
    Fields {
        range: unit(code / 100).zip(unit(code / 10)),
        precision: u8::try_from(code % 10 - 1).ok(),
    }
}

/// Microseconds rounded to a number of fractional digits of seconds, half away from zero.
pub(super) fn round_to(us: i64, digits: i32) -> i64 {
    let unit = 10i64.pow((6 - digits.clamp(0, 6)) as u32);
    let half = if us < 0 { -(unit / 2) } else { unit / 2 };
    us.saturating_add(half) / unit * unit
}

/// An interval divided as PostgreSQL does it.
pub fn divide_interval(i: IntervalMonthDayNano, by: f64) -> Result<IntervalMonthDayNano> {
    divide(i, by)?.ok_or_else(|| SqlError::internal("an interval has parts"))
}

/// A multiple of an interval; fractions of months and days become days and time.
pub fn scale_interval(i: IntervalMonthDayNano, f: f64) -> Result<IntervalMonthDayNano> {
    scale(i, f)?.ok_or_else(|| SqlError::internal("an interval has multiples"))
}

/// `a` plus `sign` times `b`.
pub fn add_intervals(
    a: IntervalMonthDayNano,
    b: IntervalMonthDayNano,
    sign: i64,
) -> Result<IntervalMonthDayNano> {
    let us = |i: IntervalMonthDayNano| i.nanoseconds / 1000;
    interval(
        a.months as i64 + sign * b.months as i64,
        a.days as i64 + sign * b.days as i64,
        us(a) + sign * us(b),
    )?
    .ok_or_else(|| SqlError::internal("intervals have a sum"))
}

/// `age(a, b)`: years, months and days as a person counts them.
pub(super) fn age(a: i64, b: i64) -> Result<Option<IntervalMonthDayNano>> {
    if a < b {
        return Ok(
            age(b, a)?.map(|i| IntervalMonthDayNano::new(-i.months, -i.days, -i.nanoseconds))
        );
    }
    let (x, y) = (
        datetime_of(a).ok_or_else(range)?,
        datetime_of(b).ok_or_else(range)?,
    );
    let mut months = (x.year() as i64 - y.year() as i64) * 12 + x.month() as i64 - y.month() as i64;
    let mut day = x.day() as i64 - y.day() as i64;
    let mut us = a.rem_euclid(DAY_US) - b.rem_euclid(DAY_US);
    if us < 0 {
        us += DAY_US;
        day -= 1;
    }
    if day < 0 {
        months -= 1;
        // Days of the earlier date's month.
        let first = NaiveDate::from_ymd_opt(y.year(), y.month(), 1).ok_or_else(range)?;
        let next = first.checked_add_months(Months::new(1)).ok_or_else(range)?;
        day += (next - first).num_days();
    }
    interval(months, day, us)
}
