//! Dates, times of day and timestamps.
//!
//! Days count from 1970-01-01 in the proleptic Gregorian calendar, times are microseconds.

use std::str::FromStr;

use arrow::array::timezone::Tz;

use super::{ValueError, trim};

/// Microseconds of a day.
pub const DAY_US: i64 = 86_400_000_000;

/// Years that PostgreSQL's timestamps reach.
const YEAR_MAX: i64 = 294_276;
/// The first year (4713 BC, counted astronomically).
const YEAR_MIN: i64 = -4712;

const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];

/// Days since 1970-01-01 of a date of the Gregorian calendar.
pub fn days_of(year: i64, month: u32, day: u32) -> i64 {
    // The year is taken to begin in March, so that the leap day is its last.
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let year_of_era = y.rem_euclid(400);
    let month_from_march = (month as i64 + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day as i64 - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Year, month and day of a number of days since 1970-01-01.
pub fn date_of(days: i64) -> (i64, u32, u32) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = (doy - (153 * mp + 2) / 5 + 1) as u32;
    let month = if mp < 10 { mp + 3 } else { mp - 9 } as u32;
    (yoe + era * 400 + i64::from(month <= 2), month, day)
}

/// `date`, as days.
pub fn parse_date(text: &[u8]) -> Result<i32, ValueError> {
    if let Some(days) = iso_date(text) {
        return days.map(|d| d as i32);
    }
    let parts = Parts::of(text)?;
    let days = parts.date.ok_or(ValueError::Syntax)?;
    Ok(days as i32)
}

/// `time`, as microseconds since midnight; a zone is read and ignored.
pub fn parse_time(text: &[u8]) -> Result<i64, ValueError> {
    let parts = Parts::of(text)?;
    parts.time.ok_or(ValueError::Syntax)
}

/// `timestamp`, as microseconds; a zone is read and ignored.
pub fn parse_timestamp(text: &[u8]) -> Result<i64, ValueError> {
    if let Some(us) = iso_timestamp(text) {
        return us;
    }
    let parts = Parts::of(text)?;
    parts.local()
}

/// `timestamptz`, as microseconds UTC; without a zone it is UTC.
pub fn parse_timestamptz(text: &[u8]) -> Result<i64, ValueError> {
    if let Some(us) = iso_timestamp(text) {
        return us;
    }
    let parts = Parts::of(text)?;
    let local = parts.local()?;
    match parts.zone {
        None => Ok(local),
        Some(Zone::Offset(seconds)) => {
            let utc = local.checked_sub(seconds * 1_000_000);
            utc.ok_or(ValueError::Range)
        }
        Some(Zone::Named(tz)) => {
            let seconds = local.div_euclid(1_000_000);
            let naive = chrono::DateTime::from_timestamp(seconds, 0)
                .ok_or(ValueError::Range)?
                .naive_utc();
            Ok(local - tidemill_zset::zones::offset_of_local(&tz, naive) * 1_000_000)
        }
    }
}

/// `YYYY-MM-DD` exactly; `None` if it has another form.
fn iso_date(text: &[u8]) -> Option<Result<i64, ValueError>> {
    let &[a, b, c, d, b'-', e, f, b'-', g, h] = text else {
        return None;
    };
    let number = |digits: &[u8]| {
        digits.iter().try_fold(0u32, |v, b| {
            b.is_ascii_digit().then(|| v * 10 + (b - b'0') as u32)
        })
    };
    let (year, month, day) = (number(&[a, b, c, d])?, number(&[e, f])?, number(&[g, h])?);
    if year == 0 {
        return Some(Err(date_range()));
    }
    Some(checked_date(year as i64, month, day))
}

/// `YYYY-MM-DD hh:mm:ss` with up to six digits of fraction and perhaps `Z`; `None` if it has another form.
fn iso_timestamp(text: &[u8]) -> Option<Result<i64, ValueError>> {
    if text.len() < 19 || !matches!(text[10], b' ' | b'T') {
        return None;
    }
    let two = |at: usize| {
        let (a, b) = (text[at].wrapping_sub(b'0'), text[at + 1].wrapping_sub(b'0'));
        (a <= 9 && b <= 9).then_some(a as i64 * 10 + b as i64)
    };
    if text[13] != b':' || text[16] != b':' {
        return None;
    }
    let (h, m, s) = (two(11)?, two(14)?, two(17)?);
    if h > 23 || m > 59 || s > 59 {
        return None;
    }
    let rest = text[19..].strip_suffix(b"Z").unwrap_or(&text[19..]);
    let mut fraction = 0i64;
    match rest {
        [] => {}
        [b'.', digits @ ..] if digits.len() <= 6 => {
            for i in 0..6 {
                let d = digits.get(i).copied().unwrap_or(b'0').wrapping_sub(b'0');
                if d > 9 {
                    return None;
                }
                fraction = fraction * 10 + d as i64;
            }
        }
        _ => return None,
    }
    let days = match iso_date(&text[..10])? {
        Ok(days) => days,
        Err(e) => return Some(Err(e)),
    };
    Some(Ok(days * DAY_US
        + ((h * 60 + m) * 60 + s) * 1_000_000
        + fraction))
}

fn checked_date(year: i64, month: u32, day: u32) -> Result<i64, ValueError> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days_max = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => return Err(date_range()),
    };
    if day == 0 || day > days_max || !(YEAR_MIN..=YEAR_MAX).contains(&year) {
        return Err(date_range());
    }
    Ok(days_of(year, month, day))
}

fn date_range() -> ValueError {
    ValueError::Quoted("date/time field value out of range")
}

enum Zone {
    /// Seconds east of UTC.
    Offset(i64),
    Named(Tz),
}

/// What the words of a date, time or timestamp say.
#[derive(Default)]
struct Parts {
    /// Days.
    date: Option<i64>,
    /// Microseconds of the day.
    time: Option<i64>,
    zone: Option<Zone>,
}

impl Parts {
    fn local(&self) -> Result<i64, ValueError> {
        let days = self.date.ok_or(ValueError::Syntax)?;
        days.checked_mul(DAY_US)
            .and_then(|d| d.checked_add(self.time.unwrap_or(0)))
            .ok_or(ValueError::Range)
    }

    fn of(text: &[u8]) -> Result<Parts, ValueError> {
        let text = std::str::from_utf8(trim(text)).map_err(|_| ValueError::Syntax)?;
        let mut parts = Parts::default();
        let mut named: (Option<u32>, Vec<i64>) = (None, Vec::new());
        let (mut pm, mut bc) = (None, false);
        let mut year_after_bc: Option<(i64, u32, u32)> = None;
        // An ISO 8601 "T" between date and time is a space.
        let split = text
            .char_indices()
            .zip(text.chars().skip(1))
            .find(|((i, c), next)| {
                matches!(c, 'T' | 't')
                    && next.is_ascii_digit()
                    && *i > 0
                    && text.as_bytes()[*i - 1].is_ascii_digit()
            })
            .map(|((i, _), _)| i);
        let spaced;
        let text = match split {
            Some(i) => {
                spaced = format!("{} {}", &text[..i], &text[i + 1..]);
                spaced.as_str()
            }
            None => text,
        };
        for word in text.split([' ', '\t', ',']).filter(|w| !w.is_empty()) {
            let lower = word.to_ascii_lowercase();
            if word.contains(':') {
                parts.read_time(word)?;
            } else if lower == "epoch" {
                parts.date = Some(0);
            } else if lower == "am" || lower == "pm" {
                pm = Some(lower == "pm");
            } else if lower == "bc" || lower == "ad" {
                bc = lower == "bc";
            } else if lower == "infinity" || lower == "-infinity" {
                return Err(ValueError::Other(
                    "infinite dates and timestamps are not supported".into(),
                ));
            } else if let Some(month) = month_named(&lower) {
                named.0 = Some(month);
            } else if let Some(ymd) = date_word(word)? {
                year_after_bc = Some(ymd);
            } else if word.bytes().all(|b| b.is_ascii_digit()) {
                named.1.push(word.parse().map_err(|_| ValueError::Syntax)?);
            } else if parts.time.is_some() || parts.date.is_some() || year_after_bc.is_some() {
                parts.zone = Some(zone(word)?);
            } else if !is_weekday(&lower) {
                return Err(ValueError::Syntax);
            }
        }
        if let (Some(month), [a, b]) = (named.0, named.1.as_slice()) {
            // "Jan 8 1999", "8 Jan 1999", "1999 Jan 8"
            let (day, year) = if *a > 31 { (*b, *a) } else { (*a, *b) };
            year_after_bc = Some((year, month, u32::try_from(day).map_err(|_| date_range())?));
        } else if named.0.is_some() || !named.1.is_empty() {
            return Err(ValueError::Syntax);
        }
        if let Some((year, month, day)) = year_after_bc {
            if year == 0 {
                return Err(date_range());
            }
            let year = if bc { 1 - year } else { year };
            parts.date = Some(checked_date(year, month, day)?);
        }
        if let (Some(pm), Some(time)) = (pm, parts.time) {
            let (hour, rest) = (time / 3_600_000_000, time % 3_600_000_000);
            if !(1..=12).contains(&hour) {
                return Err(date_range());
            }
            parts.time = Some((hour % 12 + if pm { 12 } else { 0 }) * 3_600_000_000 + rest);
        }
        Ok(parts)
    }

    /// `hh:mm[:ss[.ffffff]]`, perhaps with a zone or AM/PM glued to it.
    fn read_time(&mut self, word: &str) -> Result<(), ValueError> {
        let end = word
            .find(|c: char| !c.is_ascii_digit() && c != ':' && c != '.')
            .unwrap_or(word.len());
        let (clock, glued) = word.split_at(end);
        let mut fields = clock.split(':');
        let mut field = |max: i64| -> Result<Option<i64>, ValueError> {
            let Some(f) = fields.next() else {
                return Ok(None);
            };
            let value: i64 = f.parse().map_err(|_| ValueError::Syntax)?;
            if value > max {
                return Err(date_range());
            }
            Ok(Some(value))
        };
        let hour = field(24)?.ok_or(ValueError::Syntax)?;
        let minute = field(59)?.ok_or(ValueError::Syntax)?;
        let seconds_us = match fields.next() {
            None => 0,
            Some(s) => seconds_us(s).ok_or(ValueError::Syntax)?,
        };
        if fields.next().is_some() {
            return Err(ValueError::Syntax);
        }
        let time = (hour * 60 + minute) * 60_000_000 + seconds_us;
        if seconds_us > 60_000_000 || time > DAY_US {
            return Err(date_range());
        }
        self.time = Some(time);
        match glued.to_ascii_lowercase().as_str() {
            "" => {}
            "am" | "pm" => {
                let hour12 = hour % 12
                    + if glued.eq_ignore_ascii_case("pm") {
                        12
                    } else {
                        0
                    };
                self.time = Some(time - hour * 3_600_000_000 + hour12 * 3_600_000_000);
            }
            _ => self.zone = Some(zone(glued)?),
        }
        Ok(())
    }
}

/// Seconds with a fraction, rounded to microseconds.
fn seconds_us(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole: i64 = whole.parse().ok().filter(|s| (0..=60).contains(s))?;
    let mut us = 0;
    for i in 0..7 {
        let d = match fraction.as_bytes().get(i) {
            None => 0,
            Some(b) if b.is_ascii_digit() => (b - b'0') as i64,
            Some(_) => return None,
        };
        us = us * 10 + d;
    }
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(whole * 1_000_000 + (us + 5) / 10)
}

fn month_named(lower: &str) -> Option<u32> {
    const FULL: [&str; 12] = [
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
    (0..12)
        .find(|i| lower == MONTHS[*i] || lower == FULL[*i] || (*i == 8 && lower == "sept"))
        .map(|i| i as u32 + 1)
}

fn is_weekday(lower: &str) -> bool {
    const DAYS: [&str; 7] = [
        "monday",
        "tuesday",
        "wednesday",
        "thursday",
        "friday",
        "saturday",
        "sunday",
    ];
    lower.len() >= 3 && DAYS.iter().any(|d| d.starts_with(lower))
}

/// `2024-01-31`, `2024/1/31`, `1/31/2024`, `31-Jan-2024`, `20240131`: year, month, day.
fn date_word(word: &str) -> Result<Option<(i64, u32, u32)>, ValueError> {
    if word.len() == 8 && word.bytes().all(|b| b.is_ascii_digit()) {
        let n: i64 = word.parse().map_err(|_| ValueError::Syntax)?;
        return Ok(Some((n / 10_000, (n / 100 % 100) as u32, (n % 100) as u32)));
    }
    let mut behind_first = word.chars().skip(1);
    let Some(separator) = behind_first.find(|c| matches!(c, '-' | '/' | '.')) else {
        return Ok(None);
    };
    let fields: Vec<&str> = word.split(separator).collect();
    let &[a, b, c] = fields.as_slice() else {
        return Ok(None);
    };
    let number = |t: &str| -> Result<u32, ValueError> {
        let ok = !t.is_empty() && t.len() <= 6 && t.bytes().all(|b| b.is_ascii_digit());
        ok.then(|| t.parse().ok())
            .flatten()
            .ok_or(ValueError::Syntax)
    };
    if let Some(month) = month_named(&b.to_ascii_lowercase()) {
        let (x, y) = (number(a)?, number(c)?);
        return match (a.len() > 2, c.len() > 2) {
            (true, _) => Ok(Some((x as i64, month, y))),
            (false, true) => Ok(Some((y as i64, month, x))),
            (false, false) => Err(two_digits_of_year()),
        };
    }
    let (x, y, z) = (number(a)?, number(b)?, number(c)?);
    if a.len() > 2 {
        Ok(Some((x as i64, y, z)))
    } else if c.len() > 2 {
        Ok(Some((z as i64, x, y)))
    } else {
        Err(two_digits_of_year())
    }
}

/// They are ambiguous; PostgreSQL guesses the century, we don't.
fn two_digits_of_year() -> ValueError {
    ValueError::Syntax
}

/// Hours from UTC of what is an abbreviation first: zones of the same names have summer time.
fn abbreviation(word: &str) -> Option<i64> {
    match word {
        "z" | "utc" | "gmt" | "zulu" | "wet" => Some(0),
        "cet" | "met" => Some(1),
        "eet" => Some(2),
        _ => None,
    }
}

fn zone(word: &str) -> Result<Zone, ValueError> {
    if let Some(hours) = abbreviation(&word.to_ascii_lowercase()) {
        return Ok(Zone::Offset(hours * 3_600));
    }
    let sign = match word.as_bytes().first() {
        Some(b'+') => 1,
        Some(b'-') => -1,
        _ => {
            return Tz::from_str(word)
                .map(Zone::Named)
                .map_err(|_| ValueError::Other(format!("time zone \"{word}\" not recognized")));
        }
    };
    let body = &word[1..];
    let digits: String = body.chars().filter(|c| *c != ':').collect();
    if digits.is_empty() || digits.len() > 6 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(ValueError::Syntax);
    }
    let (h, m, s) = if body.contains(':') {
        let mut f = body.split(':').map(|p| p.parse::<i64>().unwrap_or(-1));
        (
            f.next().unwrap_or(0),
            f.next().unwrap_or(0),
            f.next().unwrap_or(0),
        )
    } else {
        let n: i64 = digits.parse().map_err(|_| ValueError::Syntax)?;
        match digits.len() {
            1 | 2 => (n, 0, 0),
            3 | 4 => (n / 100, n % 100, 0),
            _ => (n / 10_000, n / 100 % 100, n % 100),
        }
    };
    if !(0..=15).contains(&h) || !(0..60).contains(&m) || !(0..60).contains(&s) {
        return Err(ValueError::Quoted("time zone displacement out of range"));
    }
    Ok(Zone::Offset(sign * ((h * 60 + m) * 60 + s)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn us(y: i64, mo: u32, d: u32, h: i64, mi: i64, s_us: i64) -> i64 {
        days_of(y, mo, d) * DAY_US + (h * 60 + mi) * 60_000_000 + s_us
    }

    #[test]
    fn calendar_round_trips() {
        for days in (-1_800_000..1_800_000).step_by(97) {
            let (y, m, d) = date_of(days);
            assert_eq!(days_of(y, m, d), days);
        }
        assert_eq!(date_of(0), (1970, 1, 1));
        assert_eq!(days_of(2000, 2, 29), 11_016);
    }

    #[test]
    fn dates() {
        let want = days_of(1999, 1, 8) as i32;
        for t in [
            "1999-01-08",
            "1999-1-8",
            "19990108",
            "1/8/1999",
            "January 8, 1999",
            "8 Jan 1999",
            "1999-Jan-08",
            "08-Jan-1999",
            "1999/01/08",
            " 1999-01-08 ",
        ] {
            assert_eq!(parse_date(t.as_bytes()), Ok(want), "{t}");
        }
        assert_eq!(parse_date(b"0044-03-15 BC"), Ok(days_of(-43, 3, 15) as i32));
        for t in [
            "",
            "1999-02-30",
            "1999-13-01",
            "yesterday",
            "99-1-1",
            "1999",
            "2024-00-10",
            "0000-01-01",
            "0000-01-01 BC",
            "08-Jan-99",
            "99-Jan-08",
            "é",
        ] {
            assert!(parse_date(t.as_bytes()).is_err(), "{t}");
        }
    }

    #[test]
    fn times() {
        assert_eq!(
            parse_time(b"04:05:06.789"),
            Ok((4 * 60 + 5) * 60_000_000 + 6_789_000)
        );
        assert_eq!(parse_time(b"04:05"), Ok((4 * 60 + 5) * 60_000_000));
        assert_eq!(parse_time(b"4:05 PM"), Ok((16 * 60 + 5) * 60_000_000));
        assert_eq!(parse_time(b"12:05 am"), Ok(5 * 60_000_000));
        assert_eq!(parse_time(b"24:00:00"), Ok(DAY_US));
        for t in ["25:00", "24:00:01", "10:60", "x", "", "1:2:3:4"] {
            assert!(parse_time(t.as_bytes()).is_err(), "{t}");
        }
    }

    #[test]
    fn timestamps() {
        let want = us(2024, 5, 6, 7, 8, 9_500_000);
        for t in [
            "2024-05-06 07:08:09.5",
            "2024-05-06T07:08:09.5",
            "2024-05-06 07:08:09.5Z",
            "2024-05-06 07:08:09.5+02",
            "20240506T07:08:09.500000",
            "May 6 2024 07:08:09.5",
            "Mon May 6 07:08:09.5 2024",
        ] {
            assert_eq!(parse_timestamp(t.as_bytes()), Ok(want), "{t}");
        }
        assert_eq!(parse_timestamp(b"2024-05-06"), Ok(us(2024, 5, 6, 0, 0, 0)));
        assert_eq!(parse_timestamp(b"epoch"), Ok(0));
        assert!(parse_timestamp(b"2024-02-30 00:00:00").is_err());
        assert!(parse_timestamp(b"2024-05-06 07:08:61").is_err());
        assert!(parse_timestamp("2024-05-06 07:0é:61".as_bytes()).is_err());
    }

    #[test]
    fn timestamps_with_zones() {
        let want = us(2024, 5, 6, 5, 8, 9_000_000);
        for t in [
            "2024-05-06 07:08:09+02",
            "2024-05-06 07:08:09+0200",
            "2024-05-06T07:08:09+02:00",
            "2024-05-06 05:08:09Z",
            "2024-05-06 05:08:09",
            "2024-05-06 05:08:09 UTC",
            "2024-05-06 07:08:09 Europe/Berlin",
            "2024-05-06 06:08:09 CET",
        ] {
            assert_eq!(parse_timestamptz(t.as_bytes()), Ok(want), "{t}");
        }
        assert!(parse_timestamptz(b"2024-05-06 07:08:09 Nowhere/Land").is_err());
        assert!(parse_timestamptz(b"2024-05-06 07:08:09+99").is_err());
    }
}
