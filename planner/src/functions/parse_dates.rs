//! Text to dates, times and intervals, as PostgreSQL's input functions read it; and what chrono's types are in Arrow.

use arrow::datatypes::IntervalMonthDayNano;
use chrono::{Datelike, NaiveDate, NaiveDateTime, NaiveTime, Timelike};
use tidemill_zset::interval::{Fields, IntervalError, parse_interval};

use super::parse::invalid_date;
use crate::error::{Result, SqlError};

/// Microseconds of a day.
pub const DAY_US: i64 = 86_400_000_000;

fn month_name(t: &str) -> Option<u32> {
    const NAMES: [&str; 12] = [
        "january",
        "february",
        "march",
        "april",
        "may",
        "june",
        "july",
        "august",
        "september",
        "october",
        "november",
        "december",
    ];
    let lower = t.to_ascii_lowercase();
    let is = |m: &str| m == lower || m[..3] == lower || lower == "sept" && m == "september";
    let n = NAMES.iter().position(|m| is(m))?;
    Some(n as u32 + 1)
}

fn out_of_range_field(text: &str) -> SqlError {
    SqlError::new(
        "22008",
        format!("date/time field value out of range: \"{text}\""),
    )
}

/// Days of the Julian period before 1970.
pub(super) const JULIAN_1970: i32 = 2_440_588;

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

fn date_word(t: &str, bc: bool, text: &str) -> Result<Option<NaiveDate>> {
    let known = |date: Option<NaiveDate>| match date {
        // There is no year 0.
        Some(date) if date.year() != 0 => Ok(Some(date)),
        _ => Err(out_of_range_field(text)),
    };
    let ymd = |y: i32, m: u32, d: u32| known(NaiveDate::from_ymd_opt(y, m, d));
    let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    let fields: Vec<&str> = t.split(['-', '/', '.']).collect();
    match fields.as_slice() {
        [y, ..] if y.starts_with('+') => Ok(None),
        // The number of the day in its year.
        [y, d] if y.len() == 4 && d.len() == 3 && digits(y) && digits(d) => {
            let (y, d) = (y.parse().unwrap_or_default(), d.parse().unwrap_or_default());
            known(NaiveDate::from_yo_opt(y, d))
        }
        [y, m, d] if y.len() >= 3 && y.starts_with(|c: char| c.is_ascii_digit()) => {
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
        [m, d, y] => {
            let named = [(d, m), (m, d)].into_iter();
            let mut named = named.filter_map(|(d, m)| Some((d.parse().ok()?, month_name(m)?)));
            if let (Some((d, m)), Ok(y)) = (named.next(), y.parse()) {
                return ymd(year(y, fields[2], bc), m, d);
            }
            let (Ok(m), Ok(d), Ok(y)) = (m.parse(), d.parse(), y.parse::<i32>()) else {
                return Ok(None);
            };
            ymd(year(y, fields[2], bc), m, d)
        }
        [one] if matches!(one.len(), 6 | 8) && digits(one) => {
            let n: u32 = one.parse().map_err(|_| out_of_range_field(text))?;
            let y = year((n / 10_000) as i32, &one[..one.len() - 4], bc);
            ymd(y, n / 100 % 100, n % 100)
        }
        // A day of the Julian period.
        [one] if one.len() > 1 && one.starts_with(['J', 'j']) && digits(&one[1..]) => {
            let day = one[1..]
                .parse()
                .ok()
                .and_then(|n: i32| n.checked_sub(JULIAN_1970));
            known(day.and_then(date_of))
        }
        _ => Ok(None),
    }
}

/// A year of two digits is one near to 2000, unless it is one before Christ.
fn year(y: i32, text: &str, bc: bool) -> i32 {
    match (text.len(), y) {
        _ if bc => y,
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

/// `hhmm`, `hhmmss` and `hhmmss.ffffff`, and what comes behind, as with colons.
fn time_of_digits(t: &str) -> Option<String> {
    let digits = t.bytes().take_while(u8::is_ascii_digit).count();
    let (hours, rest) = t.split_at_checked(2).filter(|_| matches!(digits, 4 | 6))?;
    let (minutes, rest) = rest.split_at(2);
    match digits {
        4 if rest.starts_with('.') => None,
        4 => Some(format!("{hours}:{minutes}{rest}")),
        _ => Some(format!("{hours}:{minutes}:{rest}")),
    }
}

/// `10:00PM` and `10:00EST` as two words.
fn time_and_rest(w: &str) -> impl Iterator<Item = String> {
    let is_time = w.contains(':') && w.starts_with(|c: char| c.is_ascii_digit());
    let rest = w.find(|c: char| c.is_ascii_alphabetic());
    let (time, rest) = w.split_at(rest.filter(|_| is_time).unwrap_or(w.len()));
    let words = [time, rest].into_iter().filter(|w| !w.is_empty());
    words.map(String::from).collect::<Vec<_>>().into_iter()
}

/// `2020-01-01Z` and `2020-01-01Europe/Berlin` as two words.
fn date_and_zone(w: &str) -> Option<(&str, &str)> {
    let end = w.find(|c: char| !c.is_ascii_digit() && !"-/.".contains(c))?;
    let (date, zone) = w.split_at(end);
    if !zone.starts_with(|c: char| c == '+' || c.is_ascii_alphabetic()) {
        return None;
    }
    let fields: Vec<&str> = date.split(['-', '/', '.']).collect();
    let whole = match fields.as_slice() {
        [all] => all.len() == 8,
        fields => fields.len() == 3 && fields.iter().all(|f| !f.is_empty()),
    };
    (whole && is_zone(zone)).then_some((date, zone))
}

fn date_time(text: &str, type_name: &str) -> Result<DateTimeText> {
    let mut out = DateTimeText::default();
    let bad = || invalid_date(type_name, text);
    let spaced = text.trim().replace(',', " ");
    let mut words: Vec<String> = Vec::new();
    for w in spaced.split_whitespace() {
        // 2020-01-01T10:00, T10:00
        let t = w.find(['T', 't']).filter(|i| {
            let date = w[..*i].ends_with(|c: char| c.is_ascii_digit()) || *i == 0;
            date && w[i + 1..].starts_with(|c: char| c.is_ascii_digit())
        });
        match t.map(|i| (&w[..i], &w[i + 1..])) {
            Some((date, time)) => {
                words.extend((!date.is_empty()).then(|| date.to_string()));
                match time_of_digits(time) {
                    Some(time) => words.extend(time_and_rest(&time)),
                    None => words.extend(time_and_rest(time)),
                }
            }
            None => match date_and_zone(w) {
                Some((date, zone)) => words.extend([date, zone].map(String::from)),
                None => words.extend(time_and_rest(w)),
            },
        }
    }
    if words.is_empty() {
        return Err(bad());
    }
    out.bc = words.iter().any(|w| w.eq_ignore_ascii_case("bc"));
    let mut loose: Vec<String> = Vec::new();
    let mut afternoon = None;
    for w in words {
        // 2024-01-02 is no time with a zone.
        let alone = out.date.is_some() || type_name == "time" && w.matches('-').count() < 2;
        let w = match time_of_digits(&w) {
            Some(time) if alone && out.time.is_none() => time,
            _ => w,
        };
        let digits = w.bytes().all(|b| b.is_ascii_digit());
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
            "bc" | "ad" => {}
            "am" | "pm" => afternoon = Some(lower == "pm"),
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
            _ if out.date.is_none() && date_word(&w, out.bc, text)?.is_some() => {
                out.date = date_word(&w, out.bc, text)?
            }
            _ if out.time.is_some()
                && out.zone.is_none()
                && !digits
                && month_name(&w).is_none() =>
            {
                out.zone = Some(w)
            }
            // 2020-01-01 +02, as JDBC sends dates.
            _ if out.date.is_some() && out.zone.is_none() && is_offset(&w) => out.zone = Some(w),
            // 2020-01-01 UTC, Jan 5 2020 UTC
            _ if out.zone.is_none() && !digits && is_zone(&w) => out.zone = Some(w),
            _ => loose.push(w),
        }
    }
    // With a date alone it says nothing.
    if afternoon.is_some() && out.time.is_none() && out.date.is_none() && loose.is_empty() {
        return Err(bad());
    }
    if let (Some(afternoon), Some(t)) = (afternoon, out.time) {
        let hour = t / 3_600_000_000;
        if hour > 12 {
            return Err(out_of_range_field(text));
        }
        out.time = Some(match (afternoon, hour) {
            (false, 12) => t - 12 * 3_600_000_000,
            (true, h) if h < 12 => t + 12 * 3_600_000_000,
            _ => t,
        });
    }
    if !loose.is_empty() {
        out.date = Some(loose_date(&loose, &out, text)?.ok_or_else(bad)?);
    }
    if out.bc
        && let Some(d) = out.date
    {
        out.date = d.with_year(1 - d.year());
    }
    Ok(out)
}

/// What can only be a zone: an offset, the name of one, or what looks like that.
fn is_zone(w: &str) -> bool {
    let letters = w.starts_with(|c: char| c.is_ascii_alphabetic());
    let other = month_name(w).is_some() || is_weekday(w);
    let named = || {
        w.eq_ignore_ascii_case("z")
            || w.contains('/') && w.bytes().all(|b| !b.is_ascii_digit())
            || super::zones::literal_to_utc(0, w).is_ok()
    };
    is_offset(w) || letters && !other && named()
}

fn is_weekday(w: &str) -> bool {
    let lower = w.to_ascii_lowercase();
    let days = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
    days.iter().any(|d| lower.starts_with(d))
}

/// `+02`, `-05:30`
fn is_offset(w: &str) -> bool {
    let digits = w.strip_prefix(['+', '-']).unwrap_or_default();
    digits.starts_with(|c: char| c.is_ascii_digit())
        && digits.chars().all(|c| c.is_ascii_digit() || c == ':')
}

/// `Jan 5 2020`, `5 January 2020`, with weekday names ignored.
fn loose_date(words: &[String], read: &DateTimeText, text: &str) -> Result<Option<NaiveDate>> {
    let words: Vec<&String> = words.iter().filter(|w| !is_weekday(w)).collect();
    if words.is_empty() {
        return Ok(read.date);
    }
    if read.date.is_some() || words.len() != 3 {
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
    NaiveDate::from_ymd_opt(year(yv, y, read.bc), m, d)
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
    check_zone(&t, text, "date")?;
    if t.special.is_some() {
        return Ok(0);
    }
    if t.infinite.is_some() {
        return Err(SqlError::unsupported("infinite dates are not supported"));
    }
    let days = t.date.map(days).ok_or_else(|| invalid_date("date", text))?;
    in_range(days, "date", text)
}

/// The day, if it isn't before the first one of the Julian period.
fn in_range(days: i32, what: &str, text: &str) -> Result<i32> {
    match days >= -JULIAN_1970 {
        true => Ok(days),
        false => Err(SqlError::new(
            "22008",
            format!("{what} out of range: \"{text}\""),
        )),
    }
}

/// A day that was given as a number, if it is a date.
pub fn day_of(days: i32) -> Result<i32> {
    let of_the_era = days.checked_add(719_163);
    match of_the_era.and_then(NaiveDate::from_num_days_from_ce_opt) {
        Some(_) if days >= -JULIAN_1970 => Ok(days),
        _ => Err(SqlError::new("22008", "date out of range")),
    }
}

/// Microseconds that were given as a number, if they are a timestamp.
pub fn timestamp_of(us: i64) -> Result<i64> {
    match datetime_of(us) {
        Some(_) if us.div_euclid(DAY_US) >= i64::from(-JULIAN_1970) => Ok(us),
        _ => Err(SqlError::new("22008", "timestamp out of range")),
    }
}

/// Microseconds that were given as a number, if they are a time of the day.
pub fn time_of(us: i64) -> Result<i64> {
    match (0..=DAY_US).contains(&us) {
        true => Ok(us),
        false => Err(SqlError::new("22008", "time out of range")),
    }
}

/// time
pub fn time(text: &str) -> Result<i64> {
    let t = date_time(text, "time")?;
    check_zone(&t, text, "time")?;
    t.time.ok_or_else(|| invalid_date("time", text))
}

/// A zone that is ignored must be one.
fn check_zone(t: &DateTimeText, text: &str, type_name: &str) -> Result<()> {
    match t.zone.as_deref() {
        None | Some("Z" | "z") => Ok(()),
        Some(zone) => super::zones::literal_to_utc(0, zone)
            .map(|_| ())
            .map_err(|e| zone_error(e, zone, text, type_name)),
    }
}

/// Only with a slash is it the name of a zone; else it belongs to no date or time.
fn zone_error(e: SqlError, zone: &str, text: &str, type_name: &str) -> SqlError {
    if e.sqlstate == "22009" {
        let message = format!("time zone displacement out of range: \"{text}\"");
        return SqlError::new("22009", message);
    }
    let named = zone.contains('/');
    match named && e.sqlstate == "22023" && e.message.starts_with("time zone") {
        true => e,
        false => invalid_date(type_name, text),
    }
}

/// timestamp: a zone in the text is ignored.
pub fn timestamp(text: &str) -> Result<i64> {
    let t = date_time(text, "timestamp")?;
    check_zone(&t, text, "timestamp")?;
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
    let days = in_range(days(d), "timestamp", text)?;
    Ok(days as i64 * DAY_US + t.time.unwrap_or(0))
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
    utc.map_err(|e| match &t.zone {
        Some(zone) => zone_error(e, zone, text, name),
        None => e,
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

/// Microseconds of the day of a time.
pub fn time_micros(t: NaiveTime) -> i64 {
    t.num_seconds_from_midnight() as i64 * 1_000_000 + t.nanosecond() as i64 / 1000
}
