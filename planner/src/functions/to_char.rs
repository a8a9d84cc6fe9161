//! to_char: the templates; those of numbers are in `number_text` and `number_read`, to_date and to_timestamp in `from_template`.

use std::cell::RefCell;
use std::rc::Rc;

use arrow::array::Array;
use arrow::datatypes::IntervalMonthDayNano;
use chrono::Datelike;

use super::from_template::time_from;
use super::kernel;
use super::number_text::{FLOAT4_DIGITS, FLOAT8_DIGITS, decimal_text, float_text};
use super::parse_dates::{DAY_US, datetime_of};
use super::registry::Registry;
use super::zones::{to_local, to_utc};
use crate::error::{Result, SqlError};

pub(super) const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
pub(super) const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];

pub(super) const ROMAN_MONTHS: [&str; 12] = [
    "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII",
];

/// Template patterns, longer ones before their prefixes.
const PATTERNS: &[&str] = &[
    "YYYY", "IYYY", "Y,YYY", "YYY", "YY", "Y", "MONTH", "Month", "month", "MON", "Mon", "mon",
    "MM", "MI", "MS", "IDDD", "DDD", "DD", "DAY", "Day", "day", "DY", "Dy", "dy", "D", "HH24",
    "HH12", "HH", "SSSSS", "SSSS", "SS", "US", "A.M.", "P.M.", "a.m.", "p.m.", "AM", "PM", "am",
    "pm", "B.C.", "A.D.", "b.c.", "a.d.", "BC", "AD", "bc", "ad", "IYY", "IY", "IW", "ID", "I",
    "WW", "W", "Q", "CC", "J", "RM", "rm", "TZH", "TZM", "TZ", "tz", "OF", "FF1", "FF2", "FF3",
    "FF4", "FF5", "FF6", "FX",
];

/// Patterns of names.
const NAMES: [&str; 4] = ["MONTH", "MON", "DAY", "DY"];

/// A part of a template: a pattern, in fill mode or not, or text, of one character where it isn't quoted.
pub(super) enum Part {
    Pattern(&'static str, bool),
    Text(String),
}

thread_local! {
    /// The template that was read last, with its parts: it is mostly the same for all rows.
    static LAST: RefCell<Option<(String, Rc<[Part]>)>> = const { RefCell::new(None) };
}

pub(super) fn parts(template: &str) -> Rc<[Part]> {
    LAST.with_borrow_mut(|last| match last {
        Some((have, parts)) if have == template => Rc::clone(parts),
        _ => {
            let parts: Rc<[Part]> = parts_of(template).into();
            *last = Some((template.to_string(), Rc::clone(&parts)));
            parts
        }
    })
}

fn parts_of(template: &str) -> Vec<Part> {
    let mut out = Vec::new();
    let mut rest = template;
    let mut fill = false;
    'next: while !rest.is_empty() {
        if let Some(r) = rest.strip_prefix("FM").or_else(|| rest.strip_prefix("fm")) {
            fill = true;
            rest = r;
            continue;
        }
        if let Some(r) = rest.strip_prefix("TM").or_else(|| rest.strip_prefix("tm")) {
            // In the language that there is. It leaves out the blanks of names, and means nothing to numbers.
            fill |= NAMES.iter().any(|name| {
                let start = r.get(..name.len());
                start.is_some_and(|start| start.eq_ignore_ascii_case(name))
            });
            rest = r;
            continue;
        }
        if let Some(r) = rest.strip_prefix('"') {
            let (text, after) = quoted(r);
            out.push(Part::Text(text));
            rest = after;
            continue;
        }
        if let Some(r) = rest.strip_prefix("\\\"") {
            out.push(Part::Text("\"".into()));
            rest = r;
            continue;
        }
        for p in PATTERNS.iter().copied() {
            // Case matters for names only.
            let named = matches!(
                p.to_ascii_lowercase().as_str(),
                "month" | "mon" | "day" | "dy" | "am" | "pm" | "bc" | "ad" | "tz" | "rm"
            ) || p.ends_with('.');
            let same = rest.get(..p.len()).is_some_and(|r| {
                if named {
                    r == p
                } else {
                    r.eq_ignore_ascii_case(p)
                }
            });
            if same {
                out.push(Part::Pattern(p, fill));
                fill = false;
                rest = &rest[p.len()..];
                if let Some(r) = rest.strip_prefix("TH").or_else(|| rest.strip_prefix("th")) {
                    out.push(Part::Pattern("TH", rest.starts_with('t')));
                    rest = r;
                }
                continue 'next;
            }
        }
        let c = rest.chars().next().unwrap_or(' ');
        out.push(Part::Text(c.to_string()));
        rest = &rest[c.len_utf8()..];
    }
    out
}

/// What stands up to the closing quote, in which a backslash takes the meaning from what follows it, and what comes after.
fn quoted(rest: &str) -> (String, &str) {
    let mut text = String::new();
    let mut chars = rest.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => break,
            '\\' => text.push(chars.next().unwrap_or(c)),
            c => text.push(c),
        }
    }
    (text, chars.as_str())
}

fn cased(name: &str, pattern: &str, width: usize, fill: bool) -> String {
    let text = if pattern.chars().all(|c| c.is_ascii_uppercase()) {
        name.to_uppercase()
    } else if pattern.chars().all(|c| c.is_ascii_lowercase()) {
        name.to_lowercase()
    } else {
        name.to_string()
    };
    if fill || width == 0 {
        text
    } else {
        format!("{text:<width$}")
    }
}

/// Local microseconds by a template. `zone`: the zone's name and its seconds east, where there is one.
fn time_text(us: i64, template: &str, zone: Option<(&str, i64)>) -> Result<String> {
    let t = datetime_of(us).ok_or_else(|| SqlError::new("22008", "timestamp out of range"))?;
    let time = us.rem_euclid(DAY_US);
    let (h, mi, s) = (
        time / 3_600_000_000,
        time / 60_000_000 % 60,
        time / 1_000_000 % 60,
    );
    // Before the year 1 they count backwards.
    let shown = |year: i32| match year as i64 {
        y if y > 0 => y,
        y => 1 - y,
    };
    let (year, iso_year) = (shown(t.year()), shown(t.iso_week().year()));
    let mut out = String::new();
    let mut last = 0i64;
    for p in parts(template).iter() {
        let (p, fill) = match p {
            Part::Text(t) => {
                out.push_str(t);
                continue;
            }
            Part::Pattern(p, fill) => (*p, *fill),
        };
        let (n, width) = match p {
            "YYYY" => (year, 4),
            "IYYY" => (iso_year, 4),
            "IYY" => (iso_year % 1000, 3),
            "IY" => (iso_year % 100, 2),
            "I" => (iso_year % 10, 1),
            "YYY" => (year % 1000, 3),
            "YY" => (year % 100, 2),
            "Y" => (year % 10, 1),
            "MM" => (t.month() as i64, 2),
            "DD" => (t.day() as i64, 2),
            "DDD" => (t.ordinal() as i64, 3),
            "IDDD" => {
                let week = t.iso_week().week0() as i64;
                (week * 7 + t.weekday().number_from_monday() as i64, 3)
            }
            "D" => (t.weekday().num_days_from_sunday() as i64 + 1, 1),
            "ID" => (t.weekday().number_from_monday() as i64, 1),
            "HH24" => (h, 2),
            "HH12" | "HH" => ((h + 11) % 12 + 1, 2),
            "MI" => (mi, 2),
            "SS" => (s, 2),
            "MS" => (time / 1000 % 1000, 3),
            "US" => (time % 1_000_000, 6),
            "FF1" | "FF2" | "FF3" | "FF4" | "FF5" | "FF6" => {
                let digits = p[2..].parse::<usize>().unwrap_or(6);
                out.push_str(&format!("{:06}", time % 1_000_000)[..digits]);
                continue;
            }
            "SSSSS" | "SSSS" => (time / 1_000_000, 1),
            "IW" => (t.iso_week().week() as i64, 2),
            "WW" => ((t.ordinal() as i64 - 1) / 7 + 1, 2),
            "W" => ((t.day() as i64 - 1) / 7 + 1, 1),
            "Q" => ((t.month() as i64 - 1) / 3 + 1, 1),
            "CC" if t.year() > 0 => ((year + 99) / 100, 2),
            "CC" => {
                out.push_str(&format!("{:03}", -((year + 99) / 100)));
                continue;
            }
            "RM" | "rm" => {
                let month = ROMAN_MONTHS[t.month0() as usize];
                let month = match p {
                    "rm" => month.to_lowercase(),
                    _ => month.to_string(),
                };
                out.push_str(&match fill {
                    true => month,
                    false => format!("{month:<4}"),
                });
                continue;
            }
            "J" => (us.div_euclid(DAY_US) + 2_440_588, 1),
            "Y,YYY" => {
                out.push_str(&format!("{},{:03}", year / 1000, year % 1000));
                continue;
            }
            "FX" => continue,
            "TH" => {
                let th = match (last % 100, last % 10) {
                    (11..=13, _) => "th",
                    (_, 1) => "st",
                    (_, 2) => "nd",
                    (_, 3) => "rd",
                    _ => "th",
                };
                out.push_str(&if fill {
                    th.to_string()
                } else {
                    th.to_uppercase()
                });
                continue;
            }
            "MONTH" | "Month" | "month" => {
                out.push_str(&cased(MONTHS[t.month0() as usize], p, 9, fill));
                continue;
            }
            "MON" | "Mon" | "mon" => {
                out.push_str(&cased(&MONTHS[t.month0() as usize][..3], p, 0, fill));
                continue;
            }
            "DAY" | "Day" | "day" => {
                out.push_str(&cased(
                    DAYS[t.weekday().num_days_from_sunday() as usize],
                    p,
                    9,
                    fill,
                ));
                continue;
            }
            "DY" | "Dy" | "dy" => {
                out.push_str(&cased(
                    &DAYS[t.weekday().num_days_from_sunday() as usize][..3],
                    p,
                    0,
                    fill,
                ));
                continue;
            }
            "AM" | "PM" | "am" | "pm" | "A.M." | "P.M." | "a.m." | "p.m." => {
                out.push_str(&mark(if h < 12 { "am" } else { "pm" }, p));
                continue;
            }
            "BC" | "AD" | "bc" | "ad" | "B.C." | "A.D." | "b.c." | "a.d." => {
                out.push_str(&mark(if t.year() > 0 { "ad" } else { "bc" }, p));
                continue;
            }
            "TZ" => {
                out.push_str(&zone.map_or(String::new(), |(name, _)| name.to_uppercase()));
                continue;
            }
            "tz" => {
                out.push_str(&zone.map_or(String::new(), |(name, _)| name.to_lowercase()));
                continue;
            }
            "OF" | "TZH" | "TZM" => {
                let east = zone.map_or(0, |(_, east)| east);
                let (hours, minutes) = (east.abs() / 3600, east.abs() / 60 % 60);
                let sign = if east < 0 { '-' } else { '+' };
                out.push_str(&match p {
                    "TZM" => format!("{minutes:02}"),
                    "OF" if minutes > 0 => format!("{sign}{hours:02}:{minutes:02}"),
                    _ => format!("{sign}{hours:02}"),
                });
                continue;
            }
            _ => {
                return Err(SqlError::unsupported(format!(
                    "to_char pattern \"{p}\" is not supported"
                )));
            }
        };
        last = n;
        out.push_str(&padded(n, width, fill));
    }
    Ok(out)
}

/// Two letters in the case of `pattern`, with full stops if it has them.
fn mark(letters: &str, pattern: &str) -> String {
    let mark = match pattern.contains('.') {
        true => format!("{}.{}.", &letters[..1], &letters[1..]),
        false => letters.to_string(),
    };
    match pattern.starts_with(|c: char| c.is_ascii_uppercase()) {
        true => mark.to_uppercase(),
        false => mark,
    }
}

/// A number of at least `width` digits, unless `fill` says that it needn't.
fn padded(n: i64, width: usize, fill: bool) -> String {
    let width = width + usize::from(n < 0);
    if fill {
        n.to_string()
    } else {
        format!("{n:0width$}")
    }
}

/// The ISO year of an interval, its parts taken for those of a date.
fn iso_year(months: i64, days: i64) -> i64 {
    let julian = |year: i64, month: i64, day: i64| {
        let (month, year) = match month > 2 {
            true => (month + 1, year + 4800),
            false => (month + 13, year + 4799),
        };
        let leap = year / 4 - year / 100 + year / 400;
        year * 365 - 32_167 + leap + 7834 * month / 256 + day
    };
    // The Monday of the year's first week.
    let start = |year: i64| {
        let fourth = julian(year, 1, 4);
        fourth - fourth.rem_euclid(7)
    };
    let (year, month) = (months / 12, months % 12);
    let day = julian(year, month, days);
    match day {
        day if day < start(year) => year - 1,
        day if day >= start(year + 1) => year + 1,
        _ => year,
    }
}

/// An interval by a template: its months, days and hours as they are, however many.
fn interval_text(i: IntervalMonthDayNano, template: &str) -> Result<String> {
    let (months, days, us) = (i64::from(i.months), i64::from(i.days), i.nanoseconds / 1000);
    let hours = us / 3_600_000_000;
    let mut out = String::new();
    for part in parts(template).iter() {
        let (pattern, fill) = match part {
            Part::Text(text) => {
                out.push_str(text);
                continue;
            }
            Part::Pattern(pattern, fill) => (*pattern, *fill),
        };
        let (n, width) = match pattern {
            "YYYY" => (months / 12, 4),
            "YYY" => (months / 12 % 1000, 3),
            "YY" => (months / 12 % 100, 2),
            "Y" => (months / 12 % 10, 1),
            // The year of a week that belongs to no date, as PostgreSQL has it.
            "IYYY" => (iso_year(months, days), 4),
            "IYY" => (iso_year(months, days) % 1000, 3),
            "IY" => (iso_year(months, days) % 100, 2),
            "I" => (iso_year(months, days) % 10, 1),
            "MM" => (months % 12, 2),
            "DD" => (days, 2),
            "HH24" => (hours, 2),
            "HH12" | "HH" if hours % 12 == 0 => (12, 2 + usize::from(hours < 0)),
            "HH12" | "HH" => (hours % 12, 2),
            "MI" => (us / 60_000_000 % 60, 2),
            "SS" => (us / 1_000_000 % 60, 2),
            "MS" => (us / 1000 % 1000, 3),
            "US" => (us % 1_000_000, 6),
            "SSSS" => (us / 1_000_000, 1),
            "AM" | "PM" | "am" | "pm" => {
                let half = if hours.rem_euclid(24) < 12 {
                    "am"
                } else {
                    "pm"
                };
                out.push_str(&cased(half, pattern, 0, true));
                continue;
            }
            "MONTH" | "Month" | "month" | "MON" | "Mon" | "mon" | "DAY" | "Day" | "day" | "DY"
            | "Dy" | "dy" | "BC" | "AD" | "bc" | "ad" | "TZ" | "tz" | "TZH" | "TZM" | "OF" => {
                return Err(SqlError::new(
                    "22007",
                    "invalid format specification for an interval value",
                )
                .hint("Intervals are not tied to specific calendar dates."));
            }
            _ => {
                return Err(SqlError::unsupported(format!(
                    "to_char pattern \"{pattern}\" is not supported for intervals"
                )));
            }
        };
        out.push_str(&padded(n, width, fill));
    }
    Ok(out)
}

/// Registers the functions of this file.
pub fn register(r: &mut Registry) {
    r.add_fallible(
        "to_char(timestamp, text) text",
        kernel!(|t: timestamp, f: text| -> text time_text(t, f, None).map(Some)),
    );
    r.add_typed("to_char(timestamptz, text) text", |t| {
        let zone = t.zone.to_string();
        kernel!(|t: timestamptz, f: text| -> text {
            let east = super::zones::offset_at(t, &zone)?;
            let name = super::zones::abbreviation(t, &zone)?;
            time_text(to_local(t, &zone)?, f, Some((&name, east))).map(Some)
        })
    });
    r.add_fallible(
        "to_char(interval, text) text",
        kernel!(|i: interval, f: text| -> text interval_text(i, f).map(Some)),
    );
    r.add_fallible(
        "to_char(int4, text) text",
        kernel!(|n: int4, f: text| -> text decimal_text(&n.to_string(), f).map(Some)),
    );
    r.add_fallible(
        "to_char(int8, text) text",
        kernel!(|n: int8, f: text| -> text decimal_text(&n.to_string(), f).map(Some)),
    );
    r.add_fallible(
        "to_char(float4, text) text",
        kernel!(|n: float4, f: text| -> text float_text(n as f64, f, FLOAT4_DIGITS).map(Some)),
    );
    r.add_fallible(
        "to_char(float8, text) text",
        kernel!(|n: float8, f: text| -> text float_text(n, f, FLOAT8_DIGITS).map(Some)),
    );
    r.add_typed("to_char(numeric, text) text", |t| {
        let scale = match t.args[0] {
            tidemill_zset::schema::SqlType::Numeric(_, s) => s,
            _ => 0,
        };
        kernel!(|n: numeric, f: text| -> text decimal_text(&super::format::numeric(n, scale), f).map(Some))
    });
    r.add_fallible(
        "to_date(text, text) date",
        kernel!(|s: text, f: text| -> date {
            time_from(s, f).map(|(us, _)| Some(us.div_euclid(DAY_US) as i32))
        }),
    );
    r.add_typed("to_timestamp(text, text) timestamptz", |t| {
        let zone = t.zone.to_string();
        kernel!(|s: text, f: text| -> timestamptz {
            match time_from(s, f)? {
                (us, Some(east)) => Ok(Some(us - east * 60_000_000)),
                (us, None) => to_utc(us, &zone).map(Some),
            }
        })
    });
    r.add_typed("to_number(text, text) numeric_open", |_| {
        std::sync::Arc::new(|a: &super::Args| {
            let s = arrow::array::cast::AsArray::as_string_view(a.arrays[0].as_ref());
            let f = arrow::array::cast::AsArray::as_string_view(a.arrays[1].as_ref());
            let mut out = arrow::array::Decimal128Builder::with_capacity(a.rows);
            for row in 0..a.rows {
                let i = a.at(0, row);
                if s.is_null(i) || a.is_null(1, row) {
                    out.append_null();
                    continue;
                }
                let template = f.value(a.at(1, row));
                let read = super::number_read::number(s.value(i), template, 6);
                out.append_value(read.map_err(super::external)?);
            }
            Ok(std::sync::Arc::new(
                out.finish().with_precision_and_scale(38, 6)?,
            ))
        })
    });
}
