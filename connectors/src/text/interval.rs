//! `interval`: PostgreSQL's verbose and ISO 8601 input.

use arrow::datatypes::IntervalMonthDayNano;

use super::{ValueError, trim};

/// What has been added up; fractions move down as PostgreSQL moves them (a month has 30 days, a day 24 hours).
#[derive(Default)]
struct Sum {
    months: f64,
    days: f64,
    seconds: f64,
    /// Whole microseconds, kept apart so that they stay exact.
    micros: i128,
}

impl Sum {
    fn add(&mut self, value: f64, unit: &str) -> Result<(), ValueError> {
        let unit = unit.to_ascii_lowercase();
        let (months, days, seconds) = match unit.as_str() {
            "y" | "yr" | "yrs" | "year" | "years" => (12.0, 0.0, 0.0),
            "mon" | "mons" | "month" | "months" => (1.0, 0.0, 0.0),
            "decade" | "decades" | "dec" | "decs" => (120.0, 0.0, 0.0),
            "century" | "centuries" | "cent" | "c" => (1200.0, 0.0, 0.0),
            "millennium" | "millennia" | "mil" | "mils" => (12_000.0, 0.0, 0.0),
            "w" | "week" | "weeks" => (0.0, 7.0, 0.0),
            "d" | "day" | "days" => (0.0, 1.0, 0.0),
            "h" | "hr" | "hrs" | "hour" | "hours" => (0.0, 0.0, 3600.0),
            "m" | "min" | "mins" | "minute" | "minutes" => (0.0, 0.0, 60.0),
            "s" | "sec" | "secs" | "second" | "seconds" => (0.0, 0.0, 1.0),
            "ms" | "msec" | "msecs" | "millisecond" | "milliseconds" => (0.0, 0.0, 1e-3),
            "us" | "usec" | "usecs" | "microsecond" | "microseconds" => (0.0, 0.0, 1e-6),
            _ => return Err(ValueError::Syntax),
        };
        let whole = if months >= 12.0 {
            // A fraction of a year is rounded to months.
            (value * months).round()
        } else {
            value * months
        };
        self.months += whole.trunc();
        let rest_days = whole.fract() * 30.0 + value * days;
        self.days += rest_days.trunc();
        self.seconds += (rest_days.fract() * 86_400.0 * 1e6).round() / 1e6 + value * seconds;
        Ok(())
    }

    fn finish(self, sign: f64) -> Result<IntervalMonthDayNano, ValueError> {
        let micros = (self.seconds * 1e6).round() + self.micros as f64;
        let (months, days) = (self.months * sign, self.days * sign);
        let fits = |v: f64, max: f64| v.abs() <= max;
        if !fits(months, i32::MAX as f64) || !fits(days, i32::MAX as f64) || !fits(micros, 9.2e15) {
            return Err(ValueError::Quoted("interval out of range"));
        }
        let micros = (self.seconds * 1e6).round() as i128 + self.micros;
        let nanoseconds = (micros * sign as i128 * 1000) as i64;
        Ok(IntervalMonthDayNano::new(
            months as i32,
            days as i32,
            nanoseconds,
        ))
    }
}

/// `interval`, as months, days and nanoseconds (always whole microseconds).
pub fn parse_interval(text: &[u8]) -> Result<IntervalMonthDayNano, ValueError> {
    let text = std::str::from_utf8(trim(text)).map_err(|_| ValueError::Syntax)?;
    if let Some(iso) = text.strip_prefix('P') {
        return parse_iso(iso);
    }
    let spaced = separate(text.strip_prefix('@').unwrap_or(text));
    let words: Vec<&str> = spaced.split_ascii_whitespace().collect();
    let (words, sign) = match words.split_last() {
        Some((last, rest)) if last.eq_ignore_ascii_case("ago") => (rest, -1.0),
        _ => (words.as_slice(), 1.0),
    };
    if words.is_empty() {
        return Err(ValueError::Syntax);
    }
    let mut sum = Sum::default();
    let mut at = 0;
    while at < words.len() {
        let word = words[at];
        at += 1;
        if word.contains(':') {
            sum.micros += clock(word)?;
            continue;
        }
        let value: f64 = number(word)?;
        match words.get(at) {
            Some(unit) if unit.starts_with(|c: char| c.is_ascii_alphabetic()) => {
                sum.add(value, unit)?;
                at += 1;
            }
            // "1 02:03:04": a number before a time of day is days; a last number is seconds.
            Some(next) if next.contains(':') => sum.add(value, "day")?,
            None => sum.add(value, "second")?,
            Some(_) => return Err(ValueError::Syntax),
        }
    }
    sum.finish(sign)
}

fn number(word: &str) -> Result<f64, ValueError> {
    let ok = word
        .bytes()
        .all(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.'));
    word.parse().ok().filter(|_| ok).ok_or(ValueError::Syntax)
}

/// "3days" is "3 days".
fn separate(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    let mut digit = false;
    for c in text.chars() {
        if digit && c.is_ascii_alphabetic() {
            out.push(' ');
        }
        digit = c.is_ascii_digit() || c == '.';
        out.push(c);
    }
    out
}

/// `[-]hh:mm[:ss[.ffffff]]`, in microseconds.
fn clock(word: &str) -> Result<i128, ValueError> {
    let (sign, body) = match word.as_bytes().first() {
        Some(b'-') => (-1, &word[1..]),
        Some(b'+') => (1, &word[1..]),
        _ => (1, word),
    };
    let fields: Vec<&str> = body.split(':').collect();
    let whole = |t: &str| -> Result<i128, ValueError> {
        let ok = !t.is_empty() && t.len() <= 10 && t.bytes().all(|b| b.is_ascii_digit());
        ok.then(|| t.parse().ok())
            .flatten()
            .ok_or(ValueError::Syntax)
    };
    let (hours, minutes, seconds) = match fields.as_slice() {
        [h, m] => (whole(h)?, whole(m)?, 0.0),
        [h, m, s] => (whole(h)?, whole(m)?, number(s)?),
        _ => return Err(ValueError::Syntax),
    };
    if minutes >= 60 || !(0.0..=60.0).contains(&seconds) {
        return Err(ValueError::Quoted("interval field value out of range"));
    }
    Ok(sign * ((hours * 60 + minutes) * 60_000_000 + (seconds * 1e6).round() as i128))
}

/// What follows the `P` of ISO 8601: `1Y2M3DT4H5M6.5S`, `2W`.
fn parse_iso(text: &str) -> Result<IntervalMonthDayNano, ValueError> {
    let mut sum = Sum::default();
    let (mut time, mut any) = (false, false);
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if first == 'T' && !time {
            time = true;
            rest = &rest[1..];
            continue;
        }
        let end = rest
            .find(|c: char| c.is_ascii_alphabetic())
            .ok_or(ValueError::Syntax)?;
        let value = number(&rest[..end])?;
        let unit = match (rest.as_bytes()[end], time) {
            (b'Y', false) => "year",
            (b'M', false) => "month",
            (b'W', false) => "week",
            (b'D', false) => "day",
            (b'H', true) => "hour",
            (b'M', true) => "minute",
            (b'S', true) => "second",
            _ => return Err(ValueError::Syntax),
        };
        sum.add(value, unit)?;
        any = true;
        rest = &rest[end + 1..];
    }
    if any {
        sum.finish(1.0)
    } else {
        Err(ValueError::Syntax)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals() {
        for (text, months, days, us) in [
            ("1 day", 0, 1, 0i64),
            ("1 year 2 mons 3 days 04:05:06.5", 14, 3, 14_706_500_000),
            ("@ 1 year ago", -12, 0, 0),
            ("-1 day +02:03", 0, -1, 7_380_000_000),
            ("1.5 months", 1, 15, 0),
            ("1.5 days", 0, 1, 43_200_000_000),
            ("2 weeks", 0, 14, 0),
            ("3days 4h", 0, 3, 14_400_000_000),
            ("250 ms", 0, 0, 250_000),
            ("P1Y2M3DT4H5M6S", 14, 3, 14_706_000_000),
            ("P2W", 0, 14, 0),
            ("1 12:00", 0, 1, 43_200_000_000),
            ("17", 0, 0, 17_000_000),
            ("-00:00:01", 0, 0, -1_000_000),
        ] {
            let want = IntervalMonthDayNano::new(months, days, us * 1000);
            assert_eq!(parse_interval(text.as_bytes()), Ok(want), "{text}");
        }
        for text in [
            "",
            "day",
            "1 lightyear",
            "P",
            "PT",
            "1:2:3:4",
            "1 2 3",
            "1:99",
            "99999999999999999 years",
        ] {
            assert!(parse_interval(text.as_bytes()).is_err(), "{text}");
        }
    }
}
