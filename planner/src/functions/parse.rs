//! Text to values, as PostgreSQL's input functions read it. Errors are theirs too.

use arrow::datatypes::{IntervalMonthDayNano, i256};
use chrono::{Datelike, NaiveDate, NaiveDateTime, NaiveTime, Timelike};
use tidemill_zset::digits::short_integer;
use tidemill_zset::interval::{Fields, IntervalError, parse_interval};

use crate::error::{Result, SqlError};

/// Microseconds of a day.
pub const DAY_US: i64 = 86_400_000_000;

/// `invalid input syntax for type …: "…"`
pub fn invalid(type_name: &str, text: &str) -> SqlError {
    SqlError::new(
        "22P02",
        format!("invalid input syntax for type {type_name}: \"{text}\""),
    )
}

fn invalid_date(type_name: &str, text: &str) -> SqlError {
    SqlError::new(
        "22007",
        format!("invalid input syntax for type {type_name}: \"{text}\""),
    )
}

/// `… out of range for type …`
pub fn out_of_range(type_name: &str, text: &str) -> SqlError {
    SqlError::new(
        "22003",
        format!("value \"{text}\" is out of range for type {type_name}"),
    )
}

/// boolean
pub fn boolean(text: &str) -> Result<bool> {
    let t = text.trim().to_ascii_lowercase();
    let prefix = |word: &str, least: usize| t.len() >= least && word.starts_with(&t);
    if prefix("true", 1) || prefix("yes", 1) || t == "on" || t == "1" {
        Ok(true)
    } else if prefix("false", 1) || prefix("no", 1) || prefix("off", 2) || t == "0" {
        Ok(false)
    } else {
        Err(invalid("boolean", text))
    }
}

/// smallint, integer, bigint: `min` and `max` are the type's.
#[inline]
pub fn integer(text: &str, type_name: &str, min: i64, max: i64) -> Result<i64> {
    match short_integer(text.as_bytes()) {
        Some(v) if v >= min && v <= max => Ok(v),
        _ => any_integer(text, type_name, min, max),
    }
}

fn any_integer(text: &str, type_name: &str, min: i64, max: i64) -> Result<i64> {
    let t = text.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\u{b}');
    let digits = t.strip_prefix(['+', '-']).unwrap_or(t);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(invalid(type_name, text));
    }
    match t.parse::<i64>() {
        Ok(v) if v >= min && v <= max => Ok(v),
        _ => Err(out_of_range(type_name, text)),
    }
}

/// double precision; also real, before it is narrowed.
pub fn float(text: &str, type_name: &str) -> Result<f64> {
    let t = text.trim();
    let v = match t.to_ascii_lowercase().as_str() {
        "nan" => f64::NAN,
        "inf" | "infinity" | "+inf" | "+infinity" => f64::INFINITY,
        "-inf" | "-infinity" => f64::NEG_INFINITY,
        lower => {
            let plain = lower
                .bytes()
                .all(|b| b.is_ascii_digit() || b".+-e".contains(&b));
            let v = if plain { t.parse::<f64>().ok() } else { None };
            let v = v.ok_or_else(|| invalid(type_name, text))?;
            let mantissa = lower.split('e').next().unwrap_or_default();
            let nonzero = mantissa.bytes().any(|b| (b'1'..=b'9').contains(&b));
            if v.is_infinite() || (v == 0.0 && nonzero) {
                return Err(SqlError::new(
                    "22003",
                    format!("\"{t}\" is out of range for type {type_name}"),
                ));
            }
            v
        }
    };
    // One zero: -0 and 0 are equal everywhere.
    Ok(v + 0.0)
}

/// 10^n
pub fn pow10(n: u32) -> i256 {
    let mut r = i256::from_i128(10i128.pow(n.min(38)));
    if n > 38 {
        r = r.wrapping_mul(i256::from_i128(10i128.pow((n - 38).min(38))));
    }
    r
}

/// `numeric field overflow` with its detail.
pub fn numeric_overflow(precision: u8, scale: i8) -> SqlError {
    let e = SqlError::new("22003", "numeric field overflow");
    if precision >= 38 && scale == 0 {
        return e.detail("numeric holds at most 38 digits here.");
    }
    let whole = precision as i32 - scale as i32;
    e.detail(format!(
        "A field with precision {precision}, scale {scale} must round to an absolute value less than {}.",
        if whole == 0 { "1".to_string() } else { format!("10^{whole}") }
    ))
}

/// A literal's digits: (unscaled value, scale). `None` if it isn't a number.
pub fn decimal_parts(text: &str) -> Option<(i256, i32)> {
    let t = text.trim();
    let (negative, t) = match t.as_bytes().first()? {
        b'-' => (true, &t[1..]),
        b'+' => (false, &t[1..]),
        _ => (false, t),
    };
    let (mantissa, exponent) = match t.find(['e', 'E']) {
        Some(i) => (&t[..i], t[i + 1..].parse::<i32>().ok()?),
        None => (t, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let mut v = i256::ZERO;
    let ten = i256::from_i128(10);
    for b in whole.bytes().chain(fraction.bytes()) {
        if !b.is_ascii_digit() {
            return None;
        }
        v = v
            .checked_mul(ten)?
            .checked_add(i256::from_i128((b - b'0') as i128))?;
    }
    let mut scale = fraction.len() as i32 - exponent;
    if !(-70..=1000).contains(&scale) {
        return None;
    }
    if scale < 0 {
        v = v.checked_mul(pow10((-scale) as u32))?;
        scale = 0;
    }
    Some((if negative { v.wrapping_neg() } else { v }, scale))
}

/// `v` at scale `from` brought to scale `to`, rounding half away from zero.
pub fn rescale(v: i256, from: i32, to: i32) -> Option<i256> {
    if to >= from {
        return v.checked_mul(pow10((to - from) as u32));
    }
    let down = (from - to) as u32;
    if down > 76 {
        return Some(i256::ZERO);
    }
    let d = pow10(down);
    let half = d.wrapping_div(i256::from_i128(2));
    let adjusted = if v < i256::ZERO {
        v.checked_sub(half)?
    } else {
        v.checked_add(half)?
    };
    Some(adjusted.wrapping_div(d))
}

/// Checks a value's digits against a precision.
pub fn fits(v: i256, precision: u8, scale: i8) -> Result<i128> {
    match v.to_i128() {
        Some(v) => fits_narrow(v, precision, scale),
        None => Err(numeric_overflow(precision, scale)),
    }
}

/// [`fits`] of what fits 128 bits.
#[inline]
pub fn fits_narrow(v: i128, precision: u8, scale: i8) -> Result<i128> {
    match v.unsigned_abs() < POWERS[precision.min(38) as usize] {
        true => Ok(v),
        false => Err(numeric_overflow(precision, scale)),
    }
}

/// Powers of ten.
const POWERS: [u128; 39] = {
    let mut powers = [1; 39];
    let mut n = 1;
    while n < 39 {
        powers[n] = powers[n - 1] * 10;
        n += 1;
    }
    powers
};

/// numeric(p,s)
pub fn numeric(text: &str, precision: u8, scale: i8) -> Result<i128> {
    let t = text.trim();
    if matches!(
        t.to_ascii_lowercase().as_str(),
        "nan" | "infinity" | "-infinity" | "inf" | "-inf" | "+inf" | "+infinity"
    ) {
        return Err(SqlError::unsupported(format!(
            "numeric \"{t}\" is not supported"
        )));
    }
    let (v, s) = decimal_parts(t).ok_or_else(|| {
        let number = t
            .bytes()
            .all(|b| b.is_ascii_digit() || b".+-eE".contains(&b))
            && t.parse::<f64>().is_ok();
        if number {
            numeric_overflow(precision, scale)
        } else {
            invalid("numeric", text)
        }
    })?;
    let v = rescale(v, s, scale as i32).ok_or_else(|| numeric_overflow(precision, scale))?;
    fits(v, precision, scale)
}

fn month_name(t: &str) -> Option<u32> {
    const NAMES: [&str; 12] = [
        "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
    ];
    let lower = t.to_ascii_lowercase();
    let n = NAMES.iter().position(|m| lower.starts_with(m))?;
    Some(n as u32 + 1)
}

fn out_of_range_field(text: &str) -> SqlError {
    SqlError::new(
        "22008",
        format!("date/time field value out of range: \"{text}\""),
    )
}

/// What a date/time text says, before it is made a value.
#[derive(Default, Debug)]
struct DateTimeText {
    date: Option<NaiveDate>,
    /// Microseconds of the day; 24:00:00 is allowed.
    time: Option<i64>,
    zone: Option<String>,
    /// infinity, -infinity
    infinite: Option<bool>,
    special: Option<&'static str>,
    bc: bool,
}

fn date_word(t: &str, text: &str) -> Result<Option<NaiveDate>> {
    let ymd = |y: i32, m: u32, d: u32| {
        NaiveDate::from_ymd_opt(y, m, d)
            .ok_or_else(|| out_of_range_field(text))
            .map(Some)
    };
    let fields: Vec<&str> = t.split(['-', '/', '.']).collect();
    match fields.as_slice() {
        [y, m, d] if y.len() >= 3 && t.contains(['-', '/']) => {
            let (Ok(y), Ok(d)) = (y.parse(), d.parse()) else {
                return Ok(None);
            };
            let m = match m.parse() {
                Ok(m) => m,
                Err(_) => match month_name(m) {
                    Some(m) => m,
                    None => return Ok(None),
                },
            };
            ymd(y, m, d)
        }
        // Month first, PostgreSQL's default DateStyle.
        [m, d, y] if y.len() >= 2 => {
            if let (Ok(d), Some(m), Ok(y)) = (m.parse(), month_name(d), y.parse()) {
                return ymd(year(y, fields[2]), m, d);
            }
            let (Ok(m), Ok(d), Ok(y)) = (m.parse(), d.parse(), y.parse::<i32>()) else {
                return Ok(None);
            };
            ymd(year(y, fields[2]), m, d)
        }
        [one] if one.len() == 8 && one.bytes().all(|b| b.is_ascii_digit()) => {
            let n: u32 = one.parse().map_err(|_| out_of_range_field(text))?;
            ymd((n / 10_000) as i32, n / 100 % 100, n % 100)
        }
        _ => Ok(None),
    }
}

fn year(y: i32, text: &str) -> i32 {
    match (text.len(), y) {
        (1 | 2, 70..) => 1900 + y,
        (1 | 2, _) => 2000 + y,
        _ => y,
    }
}

/// `hh:mm[:ss[.ffffff]]` to microseconds.
fn time_word(t: &str, text: &str) -> Result<Option<i64>> {
    if !t.contains(':') {
        return Ok(None);
    }
    let mut fields = t.split(':');
    let mut next = |max: u32| -> Option<u32> {
        match fields.next() {
            None => Some(0),
            Some(f) => f.parse().ok().filter(|v| *v <= max.max(999)),
        }
    };
    let (Some(h), Some(m)) = (next(24), next(59)) else {
        return Ok(None);
    };
    let (seconds, fraction) = match fields.next() {
        None => (0, 0.0),
        Some(s) => {
            let (w, f) = s.split_once('.').unwrap_or((s, ""));
            let Ok(w) = w.parse::<u32>() else {
                return Ok(None);
            };
            if !f.bytes().all(|b| b.is_ascii_digit()) {
                return Ok(None);
            }
            let f: f64 = if f.is_empty() {
                0.0
            } else {
                format!("0.{f}").parse().unwrap_or(0.0)
            };
            (w, f)
        }
    };
    let us = (h as i64 * 3600 + m as i64 * 60 + seconds as i64) * 1_000_000
        + (fraction * 1e6).round_ties_even() as i64;
    if h > 24 || m > 59 || seconds > 60 || us > DAY_US {
        return Err(out_of_range_field(text));
    }
    Ok(Some(us))
}

fn date_time(text: &str, type_name: &str) -> Result<DateTimeText> {
    let mut out = DateTimeText::default();
    let bad = || invalid_date(type_name, text);
    let spaced = text.trim().replace(',', " ");
    let mut words: Vec<String> = Vec::new();
    for w in spaced.split_whitespace() {
        // 2020-01-01T10:00
        match w.char_indices().find(|(i, c)| {
            (*c == 'T' || *c == 't')
                && *i > 0
                && w.as_bytes()[i - 1].is_ascii_digit()
                && w[i + 1..].contains(':')
        }) {
            Some((i, _)) => words.extend([w[..i].to_string(), w[i + 1..].to_string()]),
            None => words.push(w.to_string()),
        }
    }
    if words.is_empty() {
        return Err(bad());
    }
    let mut loose: Vec<String> = Vec::new();
    for w in &words {
        let lower = w.to_ascii_lowercase();
        match lower.as_str() {
            "infinity" | "+infinity" => out.infinite = Some(true),
            "-infinity" => out.infinite = Some(false),
            "epoch" => out.special = Some("epoch"),
            "now" | "today" | "tomorrow" | "yesterday" => {
                return Err(SqlError::unsupported(format!(
                    "the date/time input \"{w}\" is not supported"
                ))
                .hint("Use now() or current_date."));
            }
            "allballs" => out.time = Some(0),
            "bc" => out.bc = true,
            "ad" => {}
            "am" | "pm" if out.time.is_some() => {
                let t = out.time.unwrap_or(0);
                let hour = t / 3_600_000_000;
                if hour > 12 {
                    return Err(out_of_range_field(text));
                }
                out.time = Some(match (lower.as_str(), hour) {
                    ("am", 12) => t - 12 * 3_600_000_000,
                    ("pm", h) if h < 12 => t + 12 * 3_600_000_000,
                    _ => t,
                });
            }
            _ if out.time.is_none() && w.contains(':') => {
                let split = w
                    .find(['+', 'Z', 'z'])
                    .or_else(|| w.rfind('-'))
                    .unwrap_or(w.len());
                out.time = Some(time_word(&w[..split], text)?.ok_or_else(bad)?);
                if split < w.len() {
                    out.zone = Some(w[split..].to_string());
                }
            }
            _ if out.date.is_none() && date_word(w, text)?.is_some() => {
                out.date = date_word(w, text)?
            }
            _ if out.time.is_some() && out.zone.is_none() => out.zone = Some(w.clone()),
            // 2020-01-01 +02, as JDBC sends dates.
            _ if out.date.is_some() && out.zone.is_none() && is_offset(w) => {
                out.zone = Some(w.clone());
            }
            _ => loose.push(w.clone()),
        }
    }
    if !loose.is_empty() {
        out.date = Some(loose_date(&loose, out.date, text)?.ok_or_else(bad)?);
    }
    if out.bc
        && let Some(d) = out.date
    {
        out.date = d.with_year(1 - d.year());
    }
    Ok(out)
}

/// `+02`, `-05:30`
fn is_offset(w: &str) -> bool {
    let digits = w.strip_prefix(['+', '-']).unwrap_or_default();
    digits.starts_with(|c: char| c.is_ascii_digit())
        && digits.chars().all(|c| c.is_ascii_digit() || c == ':')
}

/// `Jan 5 2020`, `5 January 2020`, with weekday names ignored.
fn loose_date(words: &[String], date: Option<NaiveDate>, text: &str) -> Result<Option<NaiveDate>> {
    let weekday = |w: &str| {
        let l = w.to_ascii_lowercase();
        ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
            .iter()
            .any(|d| l.starts_with(d))
    };
    let words: Vec<&String> = words.iter().filter(|w| !weekday(w)).collect();
    if words.is_empty() {
        return Ok(date);
    }
    if date.is_some() || words.len() != 3 {
        return Ok(None);
    }
    let month = words
        .iter()
        .find_map(|w| month_name(w).filter(|_| w.parse::<i32>().is_err()));
    let numbers: Vec<&&String> = words.iter().filter(|w| w.parse::<i32>().is_ok()).collect();
    let (Some(m), [a, b]) = (month, numbers.as_slice()) else {
        return Ok(None);
    };
    let (d, y) = if a.len() > 2 { (b, a) } else { (a, b) };
    let (Ok(d), Ok(yv)) = (d.parse::<u32>(), y.parse::<i32>()) else {
        return Ok(None);
    };
    NaiveDate::from_ymd_opt(year(yv, y), m, d)
        .ok_or_else(|| out_of_range_field(text))
        .map(Some)
}

/// Days since 1970-01-01.
pub fn days(d: NaiveDate) -> i32 {
    d.signed_duration_since(NaiveDate::default()).num_days() as i32
}

/// The date of a day number; `None` outside chrono's range.
pub fn date_of(days: i32) -> Option<NaiveDate> {
    NaiveDate::from_num_days_from_ce_opt(days.checked_add(719_163)?)
}

/// The date and time of microseconds since 1970; `None` outside chrono's range.
pub fn datetime_of(us: i64) -> Option<NaiveDateTime> {
    chrono::DateTime::from_timestamp_micros(us).map(|d| d.naive_utc())
}

/// Microseconds since 1970.
pub fn micros(t: NaiveDateTime) -> i64 {
    t.and_utc().timestamp_micros()
}

/// date
pub fn date(text: &str) -> Result<i32> {
    let t = date_time(text, "date")?;
    if t.special.is_some() {
        return Ok(0);
    }
    if t.infinite.is_some() {
        return Err(SqlError::unsupported("infinite dates are not supported"));
    }
    t.date.map(days).ok_or_else(|| invalid_date("date", text))
}

/// time
pub fn time(text: &str) -> Result<i64> {
    date_time(text, "time")?
        .time
        .ok_or_else(|| invalid_date("time", text))
}

/// timestamp: a zone in the text is ignored.
pub fn timestamp(text: &str) -> Result<i64> {
    let t = date_time(text, "timestamp")?;
    naive(&t, text, "timestamp")
}

fn naive(t: &DateTimeText, text: &str, type_name: &str) -> Result<i64> {
    if t.special.is_some() {
        return Ok(0);
    }
    if t.infinite.is_some() {
        return Err(SqlError::unsupported(
            "infinite timestamps are not supported",
        ));
    }
    let d = t.date.ok_or_else(|| invalid_date(type_name, text))?;
    Ok(days(d) as i64 * DAY_US + t.time.unwrap_or(0))
}

/// timestamptz, microseconds UTC; without a zone in the text `session_zone` is meant.
pub fn timestamptz(text: &str, session_zone: &str) -> Result<i64> {
    let name = "timestamp with time zone";
    let t = date_time(text, name)?;
    let local = naive(&t, text, name)?;
    if t.special.is_some() {
        return Ok(local);
    }
    let utc = match &t.zone {
        Some(zone) => super::zones::literal_to_utc(local, zone),
        None => super::zones::to_utc(local, session_zone),
    };
    utc.map_err(|e| {
        if t.zone.is_some() && e.sqlstate == "22023" && e.message.starts_with("time zone") {
            e
        } else if t.zone.is_some() {
            invalid_date(name, text)
        } else {
            e
        }
    })
}

/// interval
pub fn interval(text: &str) -> Result<IntervalMonthDayNano> {
    interval_of(text, Fields::ALL)
}

/// An interval of which a type names the fields, such as `interval day to second`.
pub fn interval_of(text: &str, fields: Fields) -> Result<IntervalMonthDayNano> {
    parse_interval(text, fields).map_err(|e| match e {
        IntervalError::Syntax => invalid_date("interval", text),
        IntervalError::Field => SqlError::new(
            "22015",
            format!("interval field value out of range: \"{text}\""),
        ),
        IntervalError::Range => SqlError::new("22008", "interval out of range"),
    })
}

/// uuid: canonical text.
pub fn uuid(text: &str) -> Result<String> {
    let t = text.trim();
    let inner = match (t.strip_prefix('{'), t.ends_with('}')) {
        (Some(i), true) => &i[..i.len() - 1],
        (None, false) => t,
        _ => return Err(invalid("uuid", text)),
    };
    let hex: String = inner
        .chars()
        .filter(|c| *c != '-')
        .collect::<String>()
        .to_ascii_lowercase();
    let dashes_ok =
        inner.len() == 32 || inner.split('-').all(|g| !g.is_empty() && g.len() % 4 == 0);
    if hex.len() != 32 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) || !dashes_ok {
        return Err(invalid("uuid", text));
    }
    Ok(format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    ))
}

/// bytea, hex (`\x…`) or escape format.
pub fn bytea(text: &str) -> Result<Vec<u8>> {
    if let Some(hex) = text.strip_prefix("\\x") {
        let digits: Vec<u8> = hex.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
        if let Some(b) = digits.iter().find(|b| !b.is_ascii_hexdigit()) {
            return Err(SqlError::new(
                "22023",
                format!("invalid hexadecimal digit: \"{}\"", *b as char),
            ));
        }
        if digits.len() % 2 == 1 {
            return Err(SqlError::new(
                "22023",
                "invalid hexadecimal data: odd number of digits",
            ));
        }
        let value = |b: u8| (b as char).to_digit(16).unwrap_or(0) as u8;
        return Ok(digits
            .chunks(2)
            .map(|p| value(p[0]) << 4 | value(p[1]))
            .collect());
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes().peekable();
    while let Some(b) = bytes.next() {
        if b != b'\\' {
            out.push(b);
            continue;
        }
        match bytes.next() {
            Some(b'\\') => out.push(b'\\'),
            Some(a @ b'0'..=b'3') => {
                let (Some(b @ b'0'..=b'7'), Some(c @ b'0'..=b'7')) = (bytes.next(), bytes.next())
                else {
                    return Err(invalid("bytea", text));
                };
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
            }
            _ => return Err(invalid("bytea", text)),
        }
    }
    Ok(out)
}

/// The elements of an array's text, `{a,"b c",NULL}`; `None` is NULL.
pub fn array(text: &str) -> Result<Vec<Option<String>>> {
    let bad = || SqlError::new("22P02", format!("malformed array literal: \"{text}\""));
    let t = text.trim();
    let inner = t
        .strip_prefix('{')
        .and_then(|t| t.strip_suffix('}'))
        .ok_or_else(bad)?;
    let mut out = Vec::new();
    if inner.trim().is_empty() {
        return Ok(out);
    }
    let mut chars = inner.chars().peekable();
    loop {
        while chars.peek().is_some_and(|c| c.is_whitespace()) {
            chars.next();
        }
        let (mut s, mut quoted) = (String::new(), false);
        match chars.peek() {
            Some('{') => return Err(SqlError::unsupported("arrays of arrays are not supported")),
            Some('"') => {
                quoted = true;
                chars.next();
                loop {
                    match chars.next().ok_or_else(bad)? {
                        '"' => break,
                        '\\' => s.push(chars.next().ok_or_else(bad)?),
                        c => s.push(c),
                    }
                }
                while chars.peek().is_some_and(|c| c.is_whitespace()) {
                    chars.next();
                }
            }
            _ => {
                while let Some(c) = chars.peek().copied().filter(|c| *c != ',') {
                    chars.next();
                    match c {
                        '\\' => s.push(chars.next().ok_or_else(bad)?),
                        '"' | '{' | '}' => return Err(bad()),
                        c => s.push(c),
                    }
                }
                s.truncate(s.trim_end().len());
                if s.is_empty() {
                    return Err(bad());
                }
            }
        }
        out.push(if !quoted && s.eq_ignore_ascii_case("null") {
            None
        } else {
            Some(s)
        });
        match chars.next() {
            None => return Ok(out),
            Some(',') => {}
            Some(_) => return Err(bad()),
        }
    }
}

/// Microseconds of the day of a time.
pub fn time_micros(t: NaiveTime) -> i64 {
    t.num_seconds_from_midnight() as i64 * 1_000_000 + t.nanosecond() as i64 / 1000
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};

    use super::*;

    /// The short way against the one that every text can take.
    #[test]
    fn short_integers_are_what_all_are() {
        let seed = 41;
        println!("seed {seed}");
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let mut short = 0;
        for _ in 0..50_000 {
            let text: String = (0..random.random_range(0..22))
                .map(|i| match random.random_range(0..60) {
                    0 => {
                        ['-', '+', ' ', '\u{b}', '.', 'x', ':', '/', 'é'][random.random_range(0..9)]
                    }
                    1..3 if i == 0 => '-',
                    n => (b'0' + n as u8 % 10) as char,
                })
                .collect();
            if let Some(v) = short_integer(text.as_bytes()) {
                short += 1;
                assert_eq!(
                    any_integer(&text, "bigint", i64::MIN, i64::MAX),
                    Ok(v),
                    "{text:?}"
                );
            }
            for (name, min, max) in [
                ("smallint", i16::MIN as i64, i16::MAX as i64),
                ("bigint", i64::MIN, i64::MAX),
            ] {
                assert_eq!(
                    integer(&text, name, min, max),
                    any_integer(&text, name, min, max),
                    "{text:?}"
                );
            }
        }
        assert!(short > 10_000, "the short way is taken: {short}");
    }
}
