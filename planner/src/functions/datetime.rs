//! Functions on dates, times and intervals.

use std::sync::Arc;

use arrow::array::cast::AsArray;
use arrow::array::types::*;
use arrow::datatypes::{Decimal128Type, IntervalMonthDayNano};
use chrono::{Datelike, NaiveDate};

use super::intervals::{
    add_interval, age, difference, divide, fields_of, interval, interval_key, round_to, scale,
};
use super::parse_dates::{DAY_US, JULIAN_1970, date_of, datetime_of, days};
use super::registry::Registry;
use super::zones::{argument_to_utc, offset_at, to_local, to_utc};
use super::{Args, Kernel, external, kernel};
use crate::error::{Result, SqlError};

pub(super) fn range() -> SqlError {
    SqlError::new("22008", "timestamp out of range")
}

fn unit_error(unit: &str, of: &str) -> SqlError {
    SqlError::new(
        "22023",
        format!("unit \"{unit}\" not recognized for type {of}"),
    )
}

/// The day of 4714-11-24 BC, PostgreSQL's first date.
const FIRST_DAY: i32 = -2_440_588;

/// The day of a date whose parts are given; years before 0 are those before Christ.
fn made_date(year: i32, month: i32, day: i32) -> Result<i32> {
    let historic = if year < 0 { year + 1 } else { year };
    NaiveDate::from_ymd_opt(historic, month as u32, day as u32)
        .filter(|d| year != 0 && days(*d) >= FIRST_DAY)
        .map(days)
        .ok_or_else(|| {
            SqlError::new(
                "22008",
                format!("date field value out of range: {year}-{month:02}-{day:02}"),
            )
        })
}

/// Microseconds east of UTC of a time zone that is an interval, of whole seconds.
fn zone_of(zone: IntervalMonthDayNano) -> Result<i64> {
    if zone.months != 0 || zone.days != 0 {
        let shown = super::format::interval(zone);
        let message = format!("interval time zone \"{shown}\" must not include months or days");
        return Err(SqlError::new("22023", message));
    }
    Ok(zone.nanoseconds / 1_000_000_000 * 1_000_000)
}

/// Local microseconds.
fn made_timestamp([y, mo, d, h, mi]: [i32; 5], second: f64) -> Result<i64> {
    Ok(made_date(y, mo, d)? as i64 * DAY_US + made_time(h, mi, second)?)
}

/// Microseconds since midnight; the day's end may be said.
fn made_time(hour: i32, minute: i32, second: f64) -> Result<i64> {
    let fits = (0..=24).contains(&hour)
        && (0..60).contains(&minute)
        && (0.0..=60.0).contains(&second)
        && (hour < 24 || (minute == 0 && second == 0.0));
    if !fits {
        return Err(SqlError::new(
            "22008",
            format!("time field value out of range: {hour}:{minute:02}:{second:02}"),
        ));
    }
    Ok((hour as i64 * 3600 + minute as i64 * 60) * 1_000_000 + (second * 1e6).round() as i64)
}

/// A field that a type hasn't.
fn field_error(field: &str, of: &str) -> SqlError {
    const FIELDS: &[&str] = &[
        "millennium",
        "century",
        "decade",
        "year",
        "isoyear",
        "quarter",
        "month",
        "week",
        "day",
        "dow",
        "isodow",
        "doy",
        "julian",
        "hour",
        "minute",
        "second",
        "milliseconds",
        "microseconds",
        "timezone",
        "timezone_hour",
        "timezone_minute",
    ];
    if FIELDS.contains(&unit(field).as_str()) {
        return SqlError::unsupported(format!("unit \"{field}\" not supported for type {of}"));
    }
    unit_error(field, of)
}

/// A unit's name without plural and abbreviation.
pub fn unit(u: &str) -> String {
    let l = u.to_ascii_lowercase();
    match l.as_str() {
        "years" | "y" | "yr" | "yrs" => "year",
        "months" | "mon" | "mons" => "month",
        "weeks" | "w" => "week",
        "days" | "d" => "day",
        "hours" | "h" | "hr" | "hrs" => "hour",
        "minutes" | "m" | "min" | "mins" => "minute",
        "seconds" | "s" | "sec" | "secs" => "second",
        "millisecond" | "ms" | "msec" | "msecs" => "milliseconds",
        "microsecond" | "us" | "usec" | "usecs" => "microseconds",
        "decades" => "decade",
        "centuries" => "century",
        "millenniums" | "millennia" => "millennium",
        _ => return l,
    }
    .to_string()
}

/// date_trunc on local microseconds.
fn truncate(u: &str, us: i64) -> Result<i64> {
    let name = unit(u);
    let step = |n: i64| Ok(us.div_euclid(n) * n);
    match name.as_str() {
        "microseconds" => return Ok(us),
        "milliseconds" => return step(1000),
        "second" => return step(1_000_000),
        "minute" => return step(60_000_000),
        "hour" => return step(3_600_000_000),
        "day" => return step(DAY_US),
        _ => {}
    }
    let d = datetime_of(us).ok_or_else(range)?.date();
    let y = d.year();
    let first = |y: i32, m: u32| NaiveDate::from_ymd_opt(y, m, 1).ok_or_else(range);
    let d = match name.as_str() {
        "week" => {
            let after = chrono::Days::new(d.weekday().num_days_from_monday() as u64);
            d.checked_sub_days(after).ok_or_else(range)?
        }
        "month" => first(y, d.month())?,
        "quarter" => first(y, (d.month() - 1) / 3 * 3 + 1)?,
        "year" => first(y, 1)?,
        "decade" => first(y.div_euclid(10) * 10, 1)?,
        "century" => first((y - 1).div_euclid(100) * 100 + 1, 1)?,
        "millennium" => first((y - 1).div_euclid(1000) * 1000 + 1, 1)?,
        _ => return Err(unit_error(u, "timestamp without time zone")),
    };
    Ok(days(d) as i64 * DAY_US)
}

fn truncate_interval(u: &str, i: IntervalMonthDayNano) -> Result<Option<IntervalMonthDayNano>> {
    let us = i.nanoseconds / 1000;
    let (m, d) = (i.months as i64, i.days as i64);
    let cut = |n: i64| interval(m, d, us / n * n);
    match unit(u).as_str() {
        "microseconds" => Ok(Some(i)),
        "milliseconds" => cut(1000),
        "second" => cut(1_000_000),
        "minute" => cut(60_000_000),
        "hour" => cut(3_600_000_000),
        "day" => interval(m, d, 0),
        "month" => interval(m, 0, 0),
        "quarter" => interval(m / 3 * 3, 0, 0),
        "year" => interval(m / 12 * 12, 0, 0),
        "decade" => interval(m / 120 * 120, 0, 0),
        "century" => interval(m / 1200 * 1200, 0, 0),
        "millennium" => interval(m / 12_000 * 12_000, 0, 0),
        "week" => Err(field_error(u, "interval")),
        _ => Err(unit_error(u, "interval")),
    }
}

/// A point in time rounded as PostgreSQL does, which counts from 2000: half away from there.
fn round_since_2000(us: i64, digits: i32) -> i64 {
    const Y2000_US: i64 = 946_684_800_000_000;
    match us.checked_sub(Y2000_US) {
        Some(since) => round_to(since, digits) + Y2000_US,
        None => us,
    }
}

/// A field of local microseconds, in millionths.
fn field(u: &str, us: i64, of: &str) -> Result<i128> {
    let time = match of {
        // 24:00 is one.
        "time" => us,
        _ => us.rem_euclid(DAY_US),
    };
    let million = 1_000_000i128;
    let name = unit(u);
    let whole = |v: i64| Ok(v as i128 * million);
    match name.as_str() {
        "microseconds" => return whole(time % 60_000_000),
        "milliseconds" => return Ok((time % 60_000_000) as i128 * 1000),
        "second" => return Ok((time % 60_000_000) as i128),
        "minute" => return whole(time / 60_000_000 % 60),
        "hour" => return whole(time / 3_600_000_000),
        "epoch" => return Ok(us as i128),
        "julian" => {
            let day = JULIAN_1970 as i128 * million;
            let millionths = us as i128 * million;
            return Ok(day + (millionths + DAY_US as i128 / 2).div_euclid(DAY_US as i128));
        }
        _ => {}
    }
    let d = datetime_of(us).ok_or_else(range)?.date();
    let y = d.year() as i64;
    whole(match name.as_str() {
        "day" => d.day() as i64,
        "month" => d.month() as i64,
        "quarter" => (d.month() as i64 - 1) / 3 + 1,
        "year" if y <= 0 => y - 1,
        "year" => y,
        "week" => d.iso_week().week() as i64,
        "isoyear" => match d.iso_week().year() as i64 {
            y if y <= 0 => y - 1,
            y => y,
        },
        "dow" => d.weekday().num_days_from_sunday() as i64,
        "isodow" => d.weekday().number_from_monday() as i64,
        "doy" => d.ordinal() as i64,
        "decade" => y.div_euclid(10),
        "century" => {
            if y > 0 {
                (y + 99) / 100
            } else {
                -((100 - y) / 100)
            }
        }
        "millennium" => {
            if y > 0 {
                (y + 999) / 1000
            } else {
                -((1000 - y) / 1000)
            }
        }
        _ => return Err(field_error(u, of)),
    })
}

fn interval_field(u: &str, i: IntervalMonthDayNano) -> Result<i128> {
    let us = i.nanoseconds / 1000;
    let m = i.months as i64;
    let million = 1_000_000i128;
    Ok(match unit(u).as_str() {
        "microseconds" => (us % 60_000_000) as i128 * million,
        "milliseconds" => (us % 60_000_000) as i128 * 1000,
        "second" => (us % 60_000_000) as i128,
        "minute" => (us / 60_000_000 % 60) as i128 * million,
        "hour" => (us / 3_600_000_000) as i128 * million,
        "day" => i.days as i128 * million,
        "month" => (m % 12) as i128 * million,
        "quarter" => (m % 12 / 3 + 1) as i128 * million,
        "year" => (m / 12) as i128 * million,
        "decade" => (m / 120) as i128 * million,
        "century" => (m / 1200) as i128 * million,
        "millennium" => (m / 12_000) as i128 * million,
        "epoch" => {
            // Years are 365.25 days here, months 30.
            let days = (m / 12) as i128 * 1461 * DAY_US as i128 / 4
                + (m % 12 * 30 + i.days as i64) as i128 * DAY_US as i128;
            days + us as i128
        }
        _ => return Err(field_error(u, "interval")),
    })
}

/// What `extract` reads.
#[derive(Clone, Copy)]
enum Source {
    Date,
    Time,
    Timestamp,
    Timestamptz,
    Interval,
}

/// extract (numeric with six decimals) and date_part (double precision).
fn extract(source: Source, zone: String, float: bool) -> Kernel {
    Arc::new(move |a: &Args| {
        let mut out = Vec::with_capacity(a.rows);
        let units = a.arrays[0].as_string_view();
        let value = &a.arrays[1];
        for row in 0..a.rows {
            if a.is_null(0, row) || a.is_null(1, row) {
                out.push(None);
                continue;
            }
            let u = units.value(a.at(0, row));
            let at = a.at(1, row);
            let us = || value.as_primitive::<TimestampMicrosecondType>().value(at);
            let v =
                match source {
                    Source::Date
                        if !float
                            && matches!(
                                unit(u).as_str(),
                                "hour"
                                    | "minute"
                                    | "second"
                                    | "milliseconds"
                                    | "microseconds"
                                    | "timezone"
                                    | "timezone_hour"
                                    | "timezone_minute"
                            ) =>
                    {
                        Err(SqlError::unsupported(format!(
                            "unit \"{u}\" not supported for type date"
                        )))
                    }
                    Source::Date => field(
                        u,
                        value.as_primitive::<Date32Type>().value(at) as i64 * DAY_US,
                        "date",
                    ),
                    Source::Time => match unit(u).as_str() {
                        "hour" | "minute" | "second" | "milliseconds" | "microseconds"
                        | "epoch" => field(
                            u,
                            value.as_primitive::<Time64MicrosecondType>().value(at),
                            "time",
                        ),
                        _ => Err(field_error(u, "time without time zone")),
                    },
                    Source::Timestamp => field(u, us(), "timestamp without time zone"),
                    Source::Timestamptz => match unit(u).as_str() {
                        "epoch" => Ok(us() as i128),
                        "timezone" => offset_at(us(), &zone).map(|o| o as i128 * 1_000_000),
                        "timezone_hour" => {
                            offset_at(us(), &zone).map(|o| (o / 3600) as i128 * 1_000_000)
                        }
                        "timezone_minute" => {
                            offset_at(us(), &zone).map(|o| (o / 60 % 60) as i128 * 1_000_000)
                        }
                        _ => to_local(us(), &zone)
                            .and_then(|l| field(u, l, "timestamp with time zone")),
                    },
                    Source::Interval => interval_field(
                        u,
                        value.as_primitive::<IntervalMonthDayNanoType>().value(at),
                    ),
                };
            out.push(Some(v.map_err(external)?));
        }
        if float {
            return Ok(Arc::new(
                out.into_iter()
                    .map(|v| v.map(|v| v as f64 / 1e6))
                    .collect::<arrow::array::Float64Array>(),
            ));
        }
        let array = out
            .into_iter()
            .collect::<arrow::array::PrimitiveArray<Decimal128Type>>();
        Ok(Arc::new(array.with_precision_and_scale(38, 6)?))
    })
}

fn bin(step: IntervalMonthDayNano, us: i64, origin: i64) -> Result<Option<i64>> {
    if step.months != 0 {
        return Err(SqlError::unsupported(
            "timestamps cannot be binned into intervals containing months or years",
        ));
    }
    let n = interval_key(step);
    if n <= 0 {
        return Err(SqlError::new("22008", "stride must be greater than zero"));
    }
    Ok(Some(origin + (us - origin).div_euclid(n) * n))
}

fn zoned_truncate(zone_of: Option<&str>) -> impl Fn(&str, i64, &str) -> Result<Option<i64>> {
    let fixed = zone_of.map(str::to_string);
    move |u, us, zone| {
        let z = fixed.as_deref().unwrap_or(zone);
        let local = to_local(us, z)?;
        let cut = truncate(u, local)?;
        // Within a day the zone's offset stays: an hour that occurs twice is cut to itself.
        match unit(u).as_str() {
            "hour" | "minute" | "second" | "milliseconds" | "microseconds" => {
                Ok(Some(us - (local - cut)))
            }
            _ => to_utc(cut, z).map(Some),
        }
    }
}

/// `small` units as far as they make a `large` one of `each`, carried there; the rest gets the sign of the large ones.
fn carried(large: i64, small: i64, each: i64) -> (i64, i64) {
    let (large, small) = (large + small / each, small % each);
    match (large.signum(), small.signum()) {
        (1, -1) => (large - 1, small + each),
        (-1, 1) => (large + 1, small - each),
        _ => (large, small),
    }
}

/// Registers the functions of this file.
pub fn register(r: &mut Registry) {
    r.add(
        "interval_key(interval) int8",
        kernel!(|i: interval| -> int8 Ok(Some(interval_key(i)))),
    );
    let date_range = || SqlError::new("22008", "date out of range");
    r.add_fallible(
        "date_plus(date, int4) date",
        kernel!(|d: date, n: int4| -> date d.checked_add(n).map(Some).ok_or_else(date_range)),
    );
    r.add_fallible(
        "date_minus(date, int4) date",
        kernel!(|d: date, n: int4| -> date d.checked_sub(n).map(Some).ok_or_else(date_range)),
    );
    r.add(
        "date_diff_days(date, date) int4",
        kernel!(|a: date, b: date| -> int4 Ok(Some(a.wrapping_sub(b)))),
    );
    r.add(
        "date_time(date, time) timestamp",
        kernel!(|d: date, t: time| -> timestamp Ok(Some(d as i64 * DAY_US + t))),
    );
    for (name, sign) in [("plus_interval", 1i64), ("minus_interval", -1)] {
        let leak =
            |types: &str| -> &'static str { Box::leak(format!("{name}({types}").into_boxed_str()) };
        r.add_fallible(leak("timestamp, interval) timestamp"), kernel!(|t: timestamp, i: interval| -> timestamp add_interval(t, i, sign, None).map(Some)));
        r.add_fallible(leak("date, interval) timestamp"), kernel!(|d: date, i: interval| -> timestamp add_interval(d as i64 * DAY_US, i, sign, None).map(Some)));
        r.add(leak("time, interval) time"), kernel!(|t: time, i: interval| -> time Ok(Some((t + sign * (i.nanoseconds / 1000)).rem_euclid(DAY_US)))));
        r.add_typed(leak("timestamptz, interval) timestamptz"), move |t| {
            let zone = t.zone.to_string();
            kernel!(|t: timestamptz, i: interval| -> timestamptz add_interval(t, i, sign, Some(&zone)).map(Some))
        });
    }
    r.add_fallible(
        "timestamp_diff(timestamp, timestamp) interval",
        kernel!(|a: timestamp, b: timestamp| -> interval difference(a, b)),
    );
    r.add_fallible(
        "timestamp_diff(timestamptz, timestamptz) interval",
        kernel!(|a: timestamptz, b: timestamptz| -> interval difference(a, b)),
    );
    r.add_fallible(
        "time_diff(time, time) interval",
        kernel!(|a: time, b: time| -> interval interval(0, 0, a - b)),
    );
    r.add_fallible(
        "interval_add(interval, interval) interval",
        kernel!(|a: interval, b: interval| -> interval {
            interval(
                a.months as i64 + b.months as i64,
                a.days as i64 + b.days as i64,
                a.nanoseconds / 1000 + b.nanoseconds / 1000,
            )
        }),
    );
    r.add_fallible(
        "interval_sub(interval, interval) interval",
        kernel!(|a: interval, b: interval| -> interval {
            interval(
                a.months as i64 - b.months as i64,
                a.days as i64 - b.days as i64,
                a.nanoseconds / 1000 - b.nanoseconds / 1000,
            )
        }),
    );
    r.add_fallible("interval_neg(interval) interval", kernel!(|a: interval| -> interval interval(-(a.months as i64), -(a.days as i64), -(a.nanoseconds / 1000))));
    r.add_fallible(
        "interval_mul(interval, float8) interval",
        kernel!(|i: interval, f: float8| -> interval scale(i, f)),
    );
    r.add_fallible(
        "interval_div(interval, float8) interval",
        kernel!(|i: interval, f: float8| -> interval divide(i, f)),
    );
    r.add_fallible(
        "age(timestamp, timestamp) interval",
        kernel!(|a: timestamp, b: timestamp| -> interval age(a, b)),
    );
    r.add_typed("age(timestamptz, timestamptz) interval", |t| {
        let zone = t.zone.to_string();
        kernel!(|a: timestamptz, b: timestamptz| -> interval age(to_local(a, &zone)?, to_local(b, &zone)?))
    });
    r.add_fallible(
        "date_trunc(text, timestamp) timestamp",
        kernel!(|u: text, t: timestamp| -> timestamp truncate(u, t).map(Some)),
    );
    r.add_fallible(
        "date_trunc(text, interval) interval",
        kernel!(|u: text, i: interval| -> interval truncate_interval(u, i)),
    );
    r.add_typed("date_trunc(text, timestamptz) timestamptz", |t| {
        let (f, zone) = (zoned_truncate(None), t.zone.to_string());
        kernel!(|u: text, t: timestamptz| -> timestamptz f(u, t, &zone))
    });
    r.add_fallible("date_trunc(text, timestamptz, text) timestamptz", {
        let f = zoned_truncate(None);
        kernel!(|u: text, t: timestamptz, z: text| -> timestamptz f(u, t, z))
    });
    let sources = [
        (
            Source::Date,
            "extract(text, date) numeric6",
            "date_part(text, date) float8",
        ),
        (
            Source::Time,
            "extract(text, time) numeric6",
            "date_part(text, time) float8",
        ),
        (
            Source::Timestamp,
            "extract(text, timestamp) numeric6",
            "date_part(text, timestamp) float8",
        ),
        (
            Source::Timestamptz,
            "extract(text, timestamptz) numeric6",
            "date_part(text, timestamptz) float8",
        ),
        (
            Source::Interval,
            "extract(text, interval) numeric6",
            "date_part(text, interval) float8",
        ),
    ];
    for (source, exact, float) in sources {
        r.add_typed(exact, move |t| extract(source, t.zone.to_string(), false));
        r.add_typed(float, move |t| extract(source, t.zone.to_string(), true));
    }
    r.add_fallible(
        "date_bin(interval, timestamp, timestamp) timestamp",
        kernel!(|s: interval, t: timestamp, o: timestamp| -> timestamp bin(s, t, o)),
    );
    r.add_fallible(
        "date_bin(interval, timestamptz, timestamptz) timestamptz",
        kernel!(|s: interval, t: timestamptz, o: timestamptz| -> timestamptz bin(s, t, o)),
    );
    r.add_fallible(
        "timezone(text, timestamp) timestamptz",
        kernel!(|z: text, t: timestamp| -> timestamptz to_utc(t, z).map(Some)),
    );
    r.add_fallible(
        "timezone(text, timestamptz) timestamp",
        kernel!(|z: text, t: timestamptz| -> timestamp to_local(t, z).map(Some)),
    );
    r.add_fallible(
        "make_date(int4, int4, int4) date",
        kernel!(|y: int4, m: int4, d: int4| -> date made_date(y, m, d).map(Some)),
    );
    r.add_fallible(
        "make_timestamp(int4, int4, int4, int4, int4, float8) timestamp",
        kernel!(
            |y: int4, m: int4, d: int4, h: int4, n: int4, s: float8| -> timestamp {
                made_timestamp([y, m, d, h, n], s).map(Some)
            }
        ),
    );
    r.add_fallible(
        "make_time(int4, int4, float8) time",
        kernel!(|h: int4, n: int4, s: float8| -> time made_time(h, n, s).map(Some)),
    );
    r.add_fallible(
        "to_timestamp(float8) timestamptz",
        kernel!(|s: float8| -> timestamptz {
            if !s.is_finite() || s.abs() > 9e12 {
                return Err(range());
            }
            Ok(Some((s * 1e6).round_ties_even() as i64))
        }),
    );
    r.add(
        "justify_days(interval) interval",
        kernel!(|i: interval| -> interval {
            let (months, days) = carried(i.months as i64, i.days as i64, 30);
            interval(months, days, i.nanoseconds / 1000)
        }),
    );
    r.add(
        "justify_hours(interval) interval",
        kernel!(|i: interval| -> interval {
            let (days, us) = carried(i.days as i64, i.nanoseconds / 1000, DAY_US);
            interval(i.months as i64, days, us)
        }),
    );
    r.add(
        "round_seconds(timestamp, int4) timestamp",
        kernel!(|t: timestamp, p: int4| -> timestamp Ok(Some(round_since_2000(t, p)))),
    );
    r.add(
        "round_seconds(timestamptz, int4) timestamptz",
        kernel!(|t: timestamptz, p: int4| -> timestamptz Ok(Some(round_since_2000(t, p)))),
    );
    r.add(
        "round_seconds(time, int4) time",
        kernel!(|t: time, p: int4| -> time Ok(Some(round_to(t, p)))),
    );
    r.add(
        "interval_fields(interval, int4) interval",
        kernel!(|i: interval, f: int4| -> interval Ok(Some(fields_of(f).cut(i)))),
    );
    r.add(
        "justify_interval(interval) interval",
        kernel!(|i: interval| -> interval {
            let (mut months, mut days) = (i.months as i64, i.days as i64);
            let mut us = i.nanoseconds / 1000;
            days += us / DAY_US;
            us %= DAY_US;
            months += days / 30;
            days %= 30;
            // The parts get one sign.
            if months > 0 && (days < 0 || days == 0 && us < 0) {
                days += 30;
                months -= 1;
            } else if months < 0 && (days > 0 || days == 0 && us > 0) {
                days -= 30;
                months += 1;
            }
            if days > 0 && us < 0 {
                us += DAY_US;
                days -= 1;
            } else if days < 0 && us > 0 {
                us -= DAY_US;
                days += 1;
            }
            interval(months, days, us)
        }),
    );
    r.add(
        "isfinite(interval) bool",
        kernel!(|_i: interval| -> bool Ok(Some(true))),
    );
    r.add(
        "isfinite(timestamptz) bool",
        kernel!(|_t: timestamptz| -> bool Ok(Some(true))),
    );
    for name in [
        "make_timestamptz(int4, int4, int4, int4, int4, float8) timestamptz",
        "make_timestamptz(int4, int4, int4, int4, int4, float8, text) timestamptz",
    ] {
        r.add_typed(name, |t| {
            let own = t.zone.to_string();
            Arc::new(move |a: &Args| {
                let int = |i: usize, row: usize| {
                    a.arrays[i].as_primitive::<Int32Type>().value(a.at(i, row))
                };
                let mut out = arrow::array::TimestampMicrosecondBuilder::with_capacity(a.rows);
                for row in 0..a.rows {
                    if (0..a.arrays.len()).any(|i| a.is_null(i, row)) {
                        out.append_null();
                        continue;
                    }
                    let seconds = a.arrays[5]
                        .as_primitive::<Float64Type>()
                        .value(a.at(5, row));
                    let local = made_timestamp([0, 1, 2, 3, 4].map(|i| int(i, row)), seconds);
                    let us = local.and_then(|us| match a.arrays.get(6) {
                        Some(z) => argument_to_utc(us, z.as_string_view().value(a.at(6, row))),
                        None => to_utc(us, &own),
                    });
                    out.append_value(us.map_err(external)?);
                }
                Ok(Arc::new(
                    out.finish().with_timezone(tidemill_zset::schema::UTC),
                ))
            })
        });
    }
    r.add_fallible(
        "timezone(interval, timestamptz) timestamp",
        kernel!(|z: interval, t: timestamptz| -> timestamp Ok(Some(t + zone_of(z)?))),
    );
    r.add_fallible(
        "timezone(interval, timestamp) timestamptz",
        kernel!(|z: interval, t: timestamp| -> timestamptz Ok(Some(t - zone_of(z)?))),
    );
    r.add(
        "isfinite(timestamp) bool",
        kernel!(|_t: timestamp| -> bool Ok(Some(true))),
    );
    r.add(
        "isfinite(date) bool",
        kernel!(|d: date| -> bool Ok(date_of(d).map(|_| true))),
    );
}
