//! Values to text, as PostgreSQL's output functions write them.

use std::fmt::Write;

use arrow::array::cast::AsArray;
use arrow::array::types::*;
use arrow::array::{Array, ArrayRef};
use arrow::datatypes::{DataType, IntervalMonthDayNano};
use chrono::{Datelike, Timelike};
use tidemill_zset::schema::SqlType;

use super::parse_dates::{DAY_US, date_of, datetime_of};
use super::zones::offset_at;
use crate::error::{Result, SqlError};

/// double precision: the shortest text that reads back as the same value.
pub fn float8(v: f64) -> String {
    float_text(v, &format!("{v:e}"), 15)
}

/// real
pub fn float4(v: f32) -> String {
    float_text(v as f64, &format!("{v:e}"), 6)
}

/// `digits`: above this exponent the scientific form is used, as `%g` of that precision would.
fn float_text(v: f64, scientific: &str, digits: i32) -> String {
    if v.is_nan() {
        return "NaN".into();
    }
    if v.is_infinite() {
        return if v > 0.0 {
            "Infinity".into()
        } else {
            "-Infinity".into()
        };
    }
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if v != 0.0 && !(-4..digits).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.abs());
    }
    let negative = mantissa.starts_with('-');
    let all: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let mut out = String::new();
    if negative {
        out.push('-');
    }
    if exponent < 0 {
        out.push_str("0.");
        (1..-exponent).for_each(|_| out.push('0'));
        out.push_str(&all);
    } else {
        let point = exponent as usize + 1;
        for (i, c) in all.chars().enumerate() {
            if i == point {
                out.push('.');
            }
            out.push(c);
        }
        (all.len()..point).for_each(|_| out.push('0'));
    }
    out
}

/// numeric: all digits of its scale.
pub fn numeric(v: i128, scale: i8) -> String {
    if scale <= 0 {
        return v.to_string();
    }
    let scale = scale as usize;
    let digits = format!("{:0>1$}", v.unsigned_abs().to_string(), scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    format!("{}{whole}.{fraction}", if v < 0 { "-" } else { "" })
}

/// numeric declared without precision: the digits that it needs.
pub fn open_numeric(v: i128, scale: i8) -> String {
    let text = numeric(v, scale);
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_string()
    } else {
        text
    }
}

/// date, ISO
pub fn date(days: i32) -> String {
    match date_of(days) {
        Some(d) => {
            let (y, bc) = if d.year() <= 0 {
                (1 - d.year(), " BC")
            } else {
                (d.year(), "")
            };
            format!("{y:04}-{:02}-{:02}{bc}", d.month(), d.day())
        }
        None => days.to_string(),
    }
}

/// time
pub fn time(us: i64) -> String {
    let s = us / 1_000_000;
    let mut out = format!("{:02}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
    fraction(&mut out, us % 1_000_000);
    out
}

fn fraction(out: &mut String, us: i64) {
    if us != 0 {
        let f = format!("{:06}", us.abs());
        let _ = write!(out, ".{}", f.trim_end_matches('0'));
    }
}

/// timestamp, ISO
pub fn timestamp(us: i64) -> String {
    timestamp_in(us, "")
}

/// The offset of a zone stands between the time and BC.
fn timestamp_in(us: i64, offset: &str) -> String {
    let Some(t) = datetime_of(us) else {
        return us.to_string();
    };
    let (y, bc) = if t.year() <= 0 {
        (1 - t.year(), " BC")
    } else {
        (t.year(), "")
    };
    let mut out = format!(
        "{y:04}-{:02}-{:02} {:02}:{:02}:{:02}",
        t.month(),
        t.day(),
        t.hour(),
        t.minute(),
        t.second()
    );
    fraction(&mut out, us.rem_euclid(1_000_000));
    out.push_str(offset);
    out.push_str(bc);
    out
}

/// timestamptz in a zone
pub fn timestamptz(us: i64, zone: &str) -> Result<String> {
    let offset = offset_at(us, zone)?;
    let local = us + offset * 1_000_000;
    let mut out = String::new();
    let (sign, o) = if offset < 0 {
        ('-', -offset)
    } else {
        ('+', offset)
    };
    let _ = write!(out, "{sign}{:02}", o / 3600);
    if o % 3600 != 0 {
        let _ = write!(out, ":{:02}", o / 60 % 60);
    }
    if o % 60 != 0 {
        let _ = write!(out, ":{:02}", o % 60);
    }
    Ok(timestamp_in(local, &out))
}

/// interval, PostgreSQL's style
pub fn interval(v: IntervalMonthDayNano) -> String {
    let mut out = String::new();
    let (years, months) = (v.months / 12, v.months % 12);
    let mut negative_before = false;
    let mut unit = |out: &mut String, n: i32, name: &str| {
        if n != 0 {
            if !out.is_empty() {
                out.push(' ');
            }
            let plus = if negative_before && n > 0 { "+" } else { "" };
            let s = if n == 1 { "" } else { "s" };
            let _ = write!(out, "{plus}{n} {name}{s}");
            negative_before = n < 0;
        }
    };
    unit(&mut out, years, "year");
    unit(&mut out, months, "mon");
    unit(&mut out, v.days, "day");
    let us = v.nanoseconds / 1000;
    if us != 0 || out.is_empty() {
        if !out.is_empty() {
            out.push(' ');
        }
        if us < 0 {
            out.push('-');
        } else if negative_before {
            out.push('+');
        }
        let u = us.unsigned_abs() as i64;
        let s = u / 1_000_000;
        let _ = write!(out, "{:02}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
        fraction(&mut out, u % 1_000_000);
    }
    out
}

/// bytea, hex
pub fn bytea(v: &[u8]) -> String {
    let mut out = String::with_capacity(2 + v.len() * 2);
    out.push_str("\\x");
    for b in v {
        let _ = write!(out, "{b:02x}");
    }
    out
}

/// The text of one value. `zone`: the session's time zone.
pub fn value(array: &ArrayRef, row: usize, t: &SqlType, zone: &str) -> Result<Option<String>> {
    if array.is_null(row) {
        return Ok(None);
    }
    let a = array.as_ref();
    Ok(Some(match (t, a.data_type()) {
        (_, DataType::Boolean) => if a.as_boolean().value(row) {
            "true"
        } else {
            "false"
        }
        .into(),
        (_, DataType::Int16) => a.as_primitive::<Int16Type>().value(row).to_string(),
        (_, DataType::Int32) => a.as_primitive::<Int32Type>().value(row).to_string(),
        (_, DataType::Int64) => a.as_primitive::<Int64Type>().value(row).to_string(),
        (_, DataType::Float32) => float4(a.as_primitive::<Float32Type>().value(row)),
        (_, DataType::Float64) => float8(a.as_primitive::<Float64Type>().value(row)),
        (SqlType::Numeric(0, _), DataType::Decimal128(_, s)) => {
            open_numeric(a.as_primitive::<Decimal128Type>().value(row), *s)
        }
        (_, DataType::Decimal128(_, s)) => {
            numeric(a.as_primitive::<Decimal128Type>().value(row), *s)
        }
        (SqlType::Jsonb, DataType::Utf8View) => {
            super::json_text::spaced(a.as_string_view().value(row))
        }
        (_, DataType::Utf8View) => a.as_string_view().value(row).into(),
        (_, DataType::Utf8) => a.as_string::<i32>().value(row).into(),
        (_, DataType::LargeUtf8) => a.as_string::<i64>().value(row).into(),
        (_, DataType::Binary) => bytea(a.as_binary::<i32>().value(row)),
        (_, DataType::Date32) => date(a.as_primitive::<Date32Type>().value(row)),
        (_, DataType::Time64(_)) => time(a.as_primitive::<Time64MicrosecondType>().value(row)),
        (_, DataType::Timestamp(_, None)) => {
            timestamp(a.as_primitive::<TimestampMicrosecondType>().value(row))
        }
        (_, DataType::Timestamp(_, Some(_))) => timestamptz(
            a.as_primitive::<TimestampMicrosecondType>().value(row),
            zone,
        )?,
        (_, DataType::Interval(_)) => {
            interval(a.as_primitive::<IntervalMonthDayNanoType>().value(row))
        }
        (SqlType::Array(of), DataType::List(_)) => list(&a.as_list::<i32>().value(row), of, zone)?,
        (_, DataType::Struct(_)) => super::rows::text(array, row, zone)?,
        (_, DataType::Null) => return Ok(None),
        (_, other) => {
            return Err(SqlError::unsupported(format!(
                "values of type {other} have no text form"
            )));
        }
    }))
}

fn list(elements: &ArrayRef, of: &SqlType, zone: &str) -> Result<String> {
    let mut out = String::from("{");
    for i in 0..elements.len() {
        if i > 0 {
            out.push(',');
        }
        match value(elements, i, of, zone)? {
            None => out.push_str("NULL"),
            Some(mut t) => {
                if matches!(of, SqlType::Bool) {
                    t.truncate(1);
                }
                let plain = !t.is_empty()
                    && !t.eq_ignore_ascii_case("null")
                    && !t.contains(|c: char| c.is_whitespace() || "{}\",\\".contains(c));
                if plain {
                    out.push_str(&t);
                } else {
                    out.push('"');
                    for c in t.chars() {
                        if c == '"' || c == '\\' {
                            out.push('\\');
                        }
                        out.push(c);
                    }
                    out.push('"');
                }
            }
        }
    }
    out.push('}');
    Ok(out)
}

/// Midnight of the day on which an instant falls.
pub fn day_start(us: i64) -> i64 {
    us.div_euclid(DAY_US) * DAY_US
}
