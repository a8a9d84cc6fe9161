//! to_date and to_timestamp: text read by a template, as PostgreSQL's `do_to_timestamp` (`formatting.c`) does it.

use chrono::{Datelike, NaiveDate, Weekday};

use super::parse_dates::{DAY_US, days};
use super::to_char::{DAYS, MONTHS, Part, ROMAN_MONTHS, parts};
use crate::error::{Result, SqlError};

/// What a text says; 0 where it says nothing, as in PostgreSQL.
#[derive(Default)]
struct Fields {
    year: i64,
    /// Digits that the year's pattern has.
    year_digits: usize,
    century: i64,
    month: i64,
    day: i64,
    day_of_year: i64,
    /// 1: Sunday.
    day_of_week: i64,
    week_of_month: i64,
    week: i64,
    julian: i64,
    hour: i64,
    minute: i64,
    second: i64,
    us: i64,
    bc: bool,
    afternoon: bool,
    /// The hour is one of twelve.
    half_day: bool,
    /// Patterns of the ISO week calendar; of the other one.
    iso: bool,
    gregorian: bool,
    /// Minutes east of UTC.
    zone: Option<i64>,
    west: bool,
}

/// Text by a template to local microseconds, and how many minutes the zone that it names is east of UTC.
pub(super) fn time_from(text: &str, template: &str) -> Result<(i64, Option<i64>)> {
    let parts = parts(template);
    let mut fields = Fields::default();
    let mut reader = Reader { rest: text };
    // Characters that were passed over where the template has none: its next ones may stand for them.
    let mut extra = 0;
    for (i, part) in parts.iter().enumerate() {
        if reader.rest.is_empty() {
            break;
        }
        if i == 0 || matches!(part, Part::Pattern(..)) {
            extra += reader.skip_space();
        }
        match part {
            Part::Pattern(pattern, fill) => {
                let open = *fill || parts.get(i + 1).is_none_or(ends_number);
                reader.pattern(pattern, open, &mut fields)?;
                // Of what was passed over before it nothing is left to be matched.
                extra = 0;
            }
            Part::Text(mark) => {
                for c in mark.chars() {
                    let separates = c.is_whitespace() || is_separator(c);
                    let next = reader.rest.chars().next();
                    if separates && mark.chars().count() == 1 {
                        extra -= 1;
                        if next.is_some_and(|n| n.is_whitespace() || is_separator(n)) {
                            reader.skip(1);
                            extra += 1;
                        }
                    } else if extra > 0 {
                        extra -= 1;
                    } else {
                        reader.skip(1);
                    }
                }
                extra = extra.max(0);
            }
        }
    }
    fields.time(text)
}

/// Whether a number before it ends where its digits do.
fn ends_number(next: &Part) -> bool {
    match next {
        Part::Text(text) => !text.starts_with(|c: char| c.is_ascii_digit()),
        Part::Pattern(pattern, _) => width(pattern).is_none(),
    }
}

fn is_separator(c: char) -> bool {
    c.is_ascii_graphic() && !c.is_ascii_alphanumeric()
}

/// Digits of a pattern that is a number.
fn width(pattern: &str) -> Option<usize> {
    Some(match pattern {
        "YYYY" | "IYYY" => 4,
        "YYY" | "IYY" | "DDD" | "IDDD" | "MS" | "FF3" => 3,
        "YY" | "IY" | "CC" | "MM" | "DD" | "IW" | "WW" | "HH24" | "HH12" | "HH" | "MI" | "SS"
        | "TZM" | "FF2" => 2,
        "Y" | "I" | "D" | "ID" | "Q" | "W" | "FF1" => 1,
        "US" | "FF6" => 6,
        "FF4" => 4,
        "FF5" => 5,
        "SSSSS" | "SSSS" => 5,
        "J" => 7,
        _ => return None,
    })
}

/// The text that isn't read yet.
struct Reader<'t> {
    rest: &'t str,
}

impl Reader<'_> {
    fn skip(&mut self, characters: usize) {
        let mut chars = self.rest.chars();
        chars.by_ref().take(characters).for_each(drop);
        self.rest = chars.as_str();
    }

    /// Passes over blanks; gives how many.
    fn skip_space(&mut self) -> i64 {
        let after = self.rest.trim_start();
        let blanks = self.rest.len() - after.len();
        let count = self.rest[..blanks].chars().count();
        self.rest = after;
        count as i64
    }

    fn invalid(&self, pattern: &str, width: usize) -> SqlError {
        let shown: String = self.rest.chars().take(width).collect();
        SqlError::new(
            "22007",
            format!("invalid value \"{shown}\" for \"{pattern}\""),
        )
    }

    /// A number of at most `width` digits, or of any number of them if it is `open`; and how many it has.
    fn number(&mut self, pattern: &str, width: usize, open: bool) -> Result<(i64, usize)> {
        let sign = usize::from(open && self.rest.starts_with(['-', '+']));
        let most = if open { usize::MAX } else { width };
        let digits = self.rest.bytes().skip(sign).take(most);
        let len = digits.take_while(u8::is_ascii_digit).count();
        // The years of Y,YYY may be fewer digits.
        let fixed = !open && !pattern.contains(',');
        let remain = self.rest.chars().take(width).count();
        if fixed && remain < width {
            let message = format!("source string too short for \"{pattern}\" formatting field");
            return Err(too_few(
                SqlError::new("22007", message),
                width,
                remain,
                "remain",
            ));
        }
        if len == 0 {
            return Err(self
                .invalid(pattern, width)
                .detail("Value must be an integer."));
        }
        if fixed && len < width {
            let invalid = self.invalid(pattern, width);
            return Err(too_few(invalid, width, len, "could be parsed"));
        }
        let value = self.rest[..sign + len].parse::<i32>().map_err(|_| {
            SqlError::new(
                "22008",
                format!("value for \"{pattern}\" in source string is out of range"),
            )
        })?;
        self.rest = &self.rest[sign + len..];
        Ok((i64::from(value), len))
    }

    /// Which of `names` comes next, cut to `letters`.
    fn name(&mut self, pattern: &str, names: &[&str], letters: usize) -> Result<i64> {
        let starts = |name: &&str| {
            let name = &name[..name.len().min(letters)];
            let start = self.rest.get(..name.len());
            start.is_some_and(|start| start.eq_ignore_ascii_case(name))
        };
        // XII before X.
        let found = (0..names.len()).filter(|i| starts(&names[*i]));
        let found = found.max_by_key(|i| names[*i].len());
        let Some(i) = found else {
            return Err(self
                .invalid(pattern, letters.min(pattern.len().max(3)))
                .detail(
                    "The given value did not match any of the allowed values for this field.",
                ));
        };
        self.skip(names[i].len().min(letters));
        Ok(i as i64)
    }

    fn pattern(&mut self, pattern: &str, open: bool, f: &mut Fields) -> Result<()> {
        let all = usize::MAX;
        match pattern.to_ascii_uppercase().as_str() {
            "FX" => {}
            "TH" => self.skip(2),
            "MONTH" | "MON" | "RM" => {
                let (names, letters) = match pattern.len() {
                    5 => (&MONTHS, all),
                    3 => (&MONTHS, 3),
                    _ => (&ROMAN_MONTHS, all),
                };
                let month = self.name(pattern, names, letters)? + 1;
                set(&mut f.month, month, pattern)?;
            }
            "DAY" => f.day_of_week = self.name(pattern, &DAYS, all)? + 1,
            "DY" => f.day_of_week = self.name(pattern, &DAYS, 3)? + 1,
            "AM" | "PM" => {
                f.afternoon = self.name(pattern, &["am", "pm"], all)? == 1;
                f.half_day = true;
            }
            "A.M." | "P.M." => {
                f.afternoon = self.name(pattern, &["a.m.", "p.m."], all)? == 1;
                f.half_day = true;
            }
            "BC" | "AD" => f.bc = self.name(pattern, &["ad", "bc"], all)? == 1,
            "B.C." | "A.D." => f.bc = self.name(pattern, &["a.d.", "b.c."], all)? == 1,
            "TZ" | "OF" => {
                return Err(SqlError::unsupported(format!(
                    "formatting field \"{pattern}\" is only supported in to_char"
                )));
            }
            "TZH" => {
                f.west = self.rest.starts_with('-');
                self.rest = self.rest.strip_prefix(['+', '-', ' ']).unwrap_or(self.rest);
                let (hours, _) = self.number(pattern, 2, open)?;
                f.zone = Some(if f.west { -hours * 60 } else { hours * 60 });
            }
            "TZM" => {
                let (minutes, _) = self.number(pattern, 2, open)?;
                f.zone = Some(f.zone.unwrap_or(0) + if f.west { -minutes } else { minutes });
            }
            "Y,YYY" => {
                let (thousands, _) = self.number(pattern, all, true)?;
                self.skip(1);
                let (years, _) = self.number(pattern, 3, false)?;
                (f.year, f.year_digits) = (thousands * 1000 + years, 4);
                f.gregorian = true;
            }
            upper => {
                let Some(width) = width(upper) else {
                    return Err(SqlError::unsupported(format!(
                        "pattern \"{pattern}\" is not supported here"
                    )));
                };
                let (n, digits) = self.number(pattern, width, open)?;
                f.number(upper, n, digits, pattern)?;
            }
        }
        Ok(())
    }
}

/// That a pattern of a fixed width has too few characters.
fn too_few(e: SqlError, width: usize, has: usize, what: &str) -> SqlError {
    e.detail(format!(
        "Field requires {width} characters, but only {has} {what}."
    ))
    .hint("If your source string is not fixed-width, try using the \"FM\" modifier.")
}

/// Sets a field, which can't be two things at once.
fn set(field: &mut i64, value: i64, pattern: &str) -> Result<()> {
    if *field != 0 && *field != value {
        let message = format!("conflicting values for \"{pattern}\" field in formatting string");
        return Err(SqlError::new("22007", message)
            .detail("This value contradicts a previous setting for the same field type."));
    }
    *field = value;
    Ok(())
}

impl Fields {
    /// The value `n` of `digits` digits of a pattern that is a number.
    fn number(&mut self, pattern: &str, n: i64, digits: usize, written: &str) -> Result<()> {
        let iso = matches!(pattern, "IYYY" | "IYY" | "IY" | "I" | "IW" | "ID" | "IDDD");
        let either = "HH24 HH12 HH MI SS SSSS SSSSS MS US FF1 FF2 FF3 FF4 FF5 FF6 CC Q J TZM";
        self.iso |= iso;
        self.gregorian |= !iso && !either.split(' ').any(|p| p == pattern);
        match pattern {
            "YYYY" | "IYYY" => {
                set(&mut self.year, n, written)?;
                self.year_digits = 4;
            }
            "YYY" | "YY" | "Y" | "IYY" | "IY" | "I" => {
                set(&mut self.year, n, written)?;
                self.year_digits = pattern.trim_start_matches("I").len().max(1);
                self.year = if digits < 4 { near_2020(n) } else { n };
            }
            "CC" => set(&mut self.century, n, written)?,
            "MM" => set(&mut self.month, n, written)?,
            "DD" => set(&mut self.day, n, written)?,
            "DDD" | "IDDD" => set(&mut self.day_of_year, n, written)?,
            "D" => self.day_of_week = n,
            // Monday is 1.
            "ID" => self.day_of_week = n % 7 + 1,
            "IW" | "WW" => set(&mut self.week, n, written)?,
            "W" => set(&mut self.week_of_month, n, written)?,
            "J" => set(&mut self.julian, n, written)?,
            "HH24" => set(&mut self.hour, n, written)?,
            "HH12" | "HH" => {
                set(&mut self.hour, n, written)?;
                self.half_day = true;
            }
            "MI" => set(&mut self.minute, n, written)?,
            "SS" => set(&mut self.second, n, written)?,
            "SSSSS" | "SSSS" => {
                (self.hour, self.minute, self.second) = (n / 3600, n / 60 % 60, n % 60);
            }
            "MS" => self.us += n * 10i64.pow(6 - digits.min(3) as u32),
            "US" | "FF1" | "FF2" | "FF3" | "FF4" | "FF5" | "FF6" => {
                self.us += n * 10i64.pow(6 - digits.min(6) as u32);
            }
            // Q says nothing that a date could be made of.
            _ => {}
        }
        Ok(())
    }

    /// Local microseconds and the zone.
    fn time(mut self, text: &str) -> Result<(i64, Option<i64>)> {
        let range = || {
            SqlError::new(
                "22008",
                format!("date/time field value out of range: \"{text}\""),
            )
        };
        if self.iso && self.gregorian {
            return Err(
                SqlError::new("22007", "invalid combination of date conventions").hint(
                    "Do not mix Gregorian and ISO week date conventions in a formatting template.",
                ),
            );
        }
        if self.half_day {
            if !(1..=12).contains(&self.hour) {
                let message = format!("hour \"{}\" is invalid for the 12-hour clock", self.hour);
                return Err(SqlError::new("22007", message)
                    .hint("Use the 24-hour clock, or give an hour between 1 and 12."));
            }
            self.hour = self.hour % 12 + if self.afternoon { 12 } else { 0 };
        }
        let year = self.whole_year();
        let date = self.date(year, &range)?;
        let fits = |n: i64, most: i64| (0..=most).contains(&n);
        if !fits(self.hour, 23) || !fits(self.minute, 59) || !fits(self.second, 59) {
            return Err(range());
        }
        if self.zone.is_some_and(|zone| zone.abs() >= 16 * 60) {
            return Err(SqlError::new(
                "22009",
                format!("time zone displacement out of range: \"{text}\""),
            ));
        }
        let seconds = self.hour * 3600 + self.minute * 60 + self.second;
        let us = days(date) as i64 * DAY_US + seconds * 1_000_000 + self.us;
        Ok((us, self.zone))
    }

    /// The year, astronomically: that before 1 is 0.
    fn whole_year(&self) -> i64 {
        let mut year = self.year;
        if self.year != 0 {
            if self.century != 0 && self.year_digits <= 2 {
                let within = self.year % 100;
                year = match (within, self.century < 0) {
                    (0, _) => self.century * 100,
                    (within, true) => (self.century + 1) * 100 - 100 + within,
                    (within, false) => (self.century - 1) * 100 + within,
                };
            }
        } else if self.century != 0 {
            year = match self.century > 0 {
                true => (self.century - 1) * 100 + 1,
                false => self.century * 100 + 1,
            };
        }
        if self.bc {
            year = -year;
        }
        if year < 0 { year + 1 } else { year }
    }

    fn date(&self, year: i64, range: &dyn Fn() -> SqlError) -> Result<NaiveDate> {
        let (mut month, mut day) = (self.month, self.day);
        let mut day_of_year = self.day_of_year;
        if self.julian != 0 {
            // Day 2440588 is 1970-01-01.
            let epoch = NaiveDate::from_ymd_opt(1970, 1, 1).ok_or_else(range)?;
            let offset = chrono::Duration::days(self.julian - 2_440_588);
            return epoch.checked_add_signed(offset).ok_or_else(range);
        }
        if self.week != 0 && self.iso {
            let weekday = Weekday::try_from(((self.day_of_week + 5) % 7) as u8);
            let weekday = match self.day_of_week {
                0 => Weekday::Mon,
                _ => weekday.map_err(|_| range())?,
            };
            return NaiveDate::from_isoywd_opt(year as i32, self.week as u32, weekday)
                .ok_or_else(range);
        }
        if self.week != 0 {
            day_of_year = (self.week - 1) * 7 + 1;
        }
        if self.week_of_month != 0 {
            day = (self.week_of_month - 1) * 7 + 1;
        }
        if day_of_year != 0 && (month <= 1 || day <= 1) {
            if self.year == 0 && !self.bc && self.century == 0 {
                return Err(SqlError::new(
                    "22007",
                    "cannot calculate day of year without year information",
                ));
            }
            let first = match self.iso {
                true => NaiveDate::from_isoywd_opt(year as i32, 1, Weekday::Mon),
                false => NaiveDate::from_ymd_opt(year as i32, 1, 1),
            };
            let of_year = self.iso || (1..=366).contains(&day_of_year);
            return first
                .and_then(|d| d.checked_add_signed(chrono::Duration::days(day_of_year - 1)))
                .filter(|d| of_year && (self.iso || d.year() == year as i32))
                .ok_or_else(range);
        }
        (month, day) = (
            month.max(i64::from(month == 0)),
            day.max(i64::from(day == 0)),
        );
        let part = |n: i64| u32::try_from(n).map_err(|_| range());
        NaiveDate::from_ymd_opt(year as i32, part(month)?, part(day)?).ok_or_else(range)
    }
}

/// A year of fewer than four digits: the one nearest to 2020.
fn near_2020(year: i64) -> i64 {
    match year {
        0..70 => year + 2000,
        70..100 => year + 1900,
        100..520 => year + 2000,
        520..1000 => year + 1000,
        _ => year,
    }
}
