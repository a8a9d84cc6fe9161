//! The text form of `interval`: PostgreSQL's words, the SQL standard's fields and ISO 8601, also where a
//! type names the fields that count, as in `interval '1:30' minute to second`.
//!
//! Numbers are read from right to left, because a number's unit is the word behind it, or follows from
//! what stands there.

use arrow::datatypes::IntervalMonthDayNano;

/// Why a text isn't an interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntervalError {
    /// It doesn't have the form.
    Syntax,
    /// A field is too large.
    Field,
    /// Its sum is.
    Range,
}

type Result<T> = std::result::Result<T, IntervalError>;

/// The units that a type or a literal may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unit {
    Microsecond,
    Millisecond,
    Second,
    Minute,
    Hour,
    Day,
    Week,
    Month,
    Year,
    Decade,
    Century,
    Millennium,
}

/// The fields that a type keeps: all, one (`interval day`) or a range (`interval day to second`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    /// The largest and the smallest field.
    pub range: Option<(Unit, Unit)>,
    /// Decimals of the seconds.
    pub precision: Option<u8>,
}

impl Fields {
    /// Nothing is left out.
    pub const ALL: Fields = Fields {
        range: None,
        precision: None,
    };

    /// `from` or `from TO to`, if SQL has that.
    pub fn new(from: Unit, to: Option<Unit>) -> Option<Fields> {
        use Unit::*;
        let to = to.unwrap_or(from);
        let known = match (from, to) {
            (Year | Month | Day | Hour | Minute | Second, _) if from == to => true,
            (Year, Month) | (Minute, Second) => true,
            (Day, Hour | Minute | Second) | (Hour, Minute | Second) => true,
            _ => false,
        };
        known.then_some(Fields {
            range: Some((from, to)),
            precision: None,
        })
    }

    /// The unit of a number that nothing says the unit of.
    fn last(self) -> Unit {
        self.range.map_or(Unit::Second, |(_, to)| to)
    }

    /// `interval` without what lies below these fields.
    pub fn cut(self, i: IntervalMonthDayNano) -> IntervalMonthDayNano {
        let below = |unit: i64| i.nanoseconds / unit * unit;
        let (months, days, ns) = match self.range.map(|(_, to)| to) {
            Some(Unit::Year) => (i.months / 12 * 12, 0, 0),
            Some(Unit::Month) => (i.months, 0, 0),
            Some(Unit::Day) => (i.months, i.days, 0),
            Some(Unit::Hour) => (i.months, i.days, below(HOUR * 1000)),
            Some(Unit::Minute) => (i.months, i.days, below(MINUTE * 1000)),
            _ => (i.months, i.days, i.nanoseconds),
        };
        let ns = match self.precision {
            Some(p) if p < 6 => {
                let unit = 10i64.pow(9 - u32::from(p));
                ns.saturating_add(ns.signum() * (unit / 2)) / unit * unit
            }
            _ => ns,
        };
        IntervalMonthDayNano::new(months, days, ns)
    }
}

const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// What has been added up; times are in microseconds.
#[derive(Default)]
struct Sum {
    years: i32,
    months: i32,
    days: i32,
    micros: i64,
}

impl Sum {
    fn time(&mut self, value: i64, fraction: f64, unit: i64) -> Result<()> {
        let whole = value.checked_mul(unit).ok_or(IntervalError::Field)?;
        self.micros = self.micros.checked_add(whole).ok_or(IntervalError::Field)?;
        self.part_of_time(fraction, unit)
    }

    fn part_of_time(&mut self, fraction: f64, unit: i64) -> Result<()> {
        let exact = fraction * unit as f64;
        let mut whole = exact as i64;
        let rest = exact - whole as f64;
        if rest > 0.5 {
            whole += 1;
        } else if rest < -0.5 {
            whole -= 1;
        }
        self.micros = self.micros.checked_add(whole).ok_or(IntervalError::Field)?;
        Ok(())
    }

    fn days(&mut self, value: i64, unit: i32) -> Result<()> {
        add(&mut self.days, value, unit)
    }

    fn part_of_days(&mut self, fraction: f64, unit: i32) -> Result<()> {
        let exact = fraction * f64::from(unit);
        let whole = exact as i32;
        add(&mut self.days, i64::from(whole), 1)?;
        self.part_of_time(exact - f64::from(whole), DAY)
    }

    fn years(&mut self, value: i64, fraction: f64, unit: i32) -> Result<()> {
        add(&mut self.years, value, unit)?;
        let months = (fraction * f64::from(unit) * 12.0).round_ties_even();
        add(&mut self.months, months as i64, 1)
    }

    fn add(&mut self, value: i64, fraction: f64, unit: Unit) -> Result<()> {
        match unit {
            Unit::Microsecond => self.time(value, fraction, 1),
            Unit::Millisecond => self.time(value, fraction, 1000),
            Unit::Second => self.time(value, fraction, SECOND),
            Unit::Minute => self.time(value, fraction, MINUTE),
            Unit::Hour => self.time(value, fraction, HOUR),
            Unit::Day => {
                self.days(value, 1)?;
                self.part_of_time(fraction, DAY)
            }
            Unit::Week => {
                self.days(value, 7)?;
                self.part_of_days(fraction, 7)
            }
            Unit::Month => {
                add(&mut self.months, value, 1)?;
                self.part_of_days(fraction, 30)
            }
            Unit::Year => self.years(value, fraction, 1),
            Unit::Decade => self.years(value, fraction, 10),
            Unit::Century => self.years(value, fraction, 100),
            Unit::Millennium => self.years(value, fraction, 1000),
        }
    }

    fn finish(self, sign: i64) -> Result<IntervalMonthDayNano> {
        let months = i64::from(self.years) * 12 + i64::from(self.months);
        let months = i32::try_from(months * sign).map_err(|_| IntervalError::Range)?;
        let days = i32::try_from(i64::from(self.days) * sign).map_err(|_| IntervalError::Field)?;
        let ns = self
            .micros
            .checked_mul(1000 * sign)
            .ok_or(IntervalError::Field)?;
        Ok(IntervalMonthDayNano::new(months, days, ns))
    }
}

fn add(to: &mut i32, value: i64, unit: i32) -> Result<()> {
    let sum = value
        .checked_mul(i64::from(unit))
        .and_then(|v| v.checked_add(i64::from(*to)))
        .and_then(|v| i32::try_from(v).ok());
    *to = sum.ok_or(IntervalError::Field)?;
    Ok(())
}

/// Reads an interval; `fields` says what a number without a unit is, and what is left out.
pub fn parse_interval(text: &str, fields: Fields) -> Result<IntervalMonthDayNano> {
    let read = tokens(text)
        .and_then(|t| by_tokens(&t, fields))
        .or_else(|e| match e {
            IntervalError::Syntax => iso(text),
            e => Err(e),
        })?;
    Ok(fields.cut(read))
}

/// A piece of the text.
#[derive(Debug, PartialEq)]
enum Token<'a> {
    /// A number, or numbers joined by `-`, `/` or `.`.
    Number(&'a str),
    /// Digits with colons.
    Time(&'a str),
    /// The same, or a number, behind a sign.
    Signed {
        negative: bool,
        text: &'a str,
    },
    Word(&'a str),
}

/// Splits the text; punctuation separates and says nothing else.
fn tokens(text: &str) -> Result<Vec<Token<'_>>> {
    let bytes = text.as_bytes();
    let mut out = Vec::new();
    let mut at = 0;
    let until = |from: usize, ok: &dyn Fn(u8) -> bool| {
        from + bytes[from..].iter().take_while(|b| ok(**b)).count()
    };
    let digits = |from: usize| until(from, &|b| b.is_ascii_digit());
    while at < bytes.len() {
        let from = at;
        match bytes[at] {
            b if b.is_ascii_digit() => {
                at = digits(at);
                match bytes.get(at).copied() {
                    Some(b':') => {
                        at = until(at, &|b| b.is_ascii_digit() || matches!(b, b':' | b'.'));
                        out.push(Token::Time(&text[from..at]));
                        continue;
                    }
                    Some(by @ (b'-' | b'/' | b'.')) => {
                        at += 1;
                        if bytes.get(at).is_some_and(u8::is_ascii_digit) {
                            at = digits(at);
                            if bytes.get(at) == Some(&by) {
                                at = until(at, &|b| b.is_ascii_digit() || b == by);
                            }
                        } else {
                            at = until(at, &|b| b.is_ascii_alphanumeric() || b == by);
                        }
                    }
                    _ => {}
                }
                out.push(Token::Number(&text[from..at]));
            }
            b'.' => {
                at = digits(at + 1);
                out.push(Token::Number(&text[from..at]));
            }
            b if b.is_ascii_alphabetic() => {
                at = until(at, &|b| b.is_ascii_alphabetic());
                out.push(Token::Word(&text[from..at]));
                // A word that goes on is none of an interval's: ISO 8601, or a mistake. But for units that
                // dates have too, as in "1h30m".
                let short = || {
                    let word = text[from..at].to_ascii_lowercase();
                    ["d", "dec", "h", "m", "mon", "s", "y"].contains(&word.as_str())
                };
                match bytes.get(at) {
                    Some(b'-' | b'/' | b'.') => return Err(IntervalError::Syntax),
                    Some(b'+' | b'0'..=b'9') if !short() => return Err(IntervalError::Syntax),
                    _ => {}
                }
            }
            b if b.is_ascii_whitespace() || b == 0x0b => at += 1,
            sign @ (b'+' | b'-') => {
                at = until(at + 1, &|b| b.is_ascii_whitespace() || b == 0x0b);
                let number = at;
                at = until(at, &|b| {
                    b.is_ascii_digit() || matches!(b, b':' | b'.' | b'-')
                });
                let starts = bytes
                    .get(number)
                    .is_some_and(|b| b.is_ascii_digit() || *b == b'.');
                if !starts {
                    return Err(IntervalError::Syntax);
                }
                out.push(Token::Signed {
                    negative: sign == b'-',
                    text: &text[number..at],
                });
            }
            b if b.is_ascii_punctuation() => at += 1,
            _ => return Err(IntervalError::Syntax),
        }
    }
    Ok(out)
}

fn unit(word: &str) -> Option<Unit> {
    // PostgreSQL compares ten letters.
    let word = word.get(..10).unwrap_or(word).to_ascii_lowercase();
    Some(match word.as_str() {
        "us" | "usec" | "usecs" | "usecond" | "useconds" | "microsecon" => Unit::Microsecond,
        "ms" | "msec" | "msecs" | "msecond" | "mseconds" | "millisecon" => Unit::Millisecond,
        "s" | "sec" | "secs" | "second" | "seconds" => Unit::Second,
        "m" | "min" | "mins" | "minute" | "minutes" => Unit::Minute,
        "h" | "hr" | "hrs" | "hour" | "hours" => Unit::Hour,
        "d" | "day" | "days" => Unit::Day,
        "w" | "week" | "weeks" => Unit::Week,
        "mon" | "mons" | "month" | "months" => Unit::Month,
        "y" | "yr" | "yrs" | "year" | "years" => Unit::Year,
        "dec" | "decs" | "decade" | "decades" => Unit::Decade,
        "c" | "cent" | "century" | "centuries" => Unit::Century,
        "mil" | "mils" | "millennia" | "millennium" => Unit::Millennium,
        _ => return None,
    })
}

/// Words for units that no number may have.
fn is_no_length(word: &str) -> bool {
    let word = word.to_ascii_lowercase();
    ["qtr", "quarter", "timezone"].contains(&word.as_str())
}

/// Which fields a token has set: none may come twice.
mod set {
    pub const SECOND: u32 = 1;
    pub const MILLISECOND: u32 = 2;
    pub const MICROSECOND: u32 = 4;
    pub const MINUTE: u32 = 8;
    pub const HOUR: u32 = 16;
    pub const SECONDS: u32 = SECOND | MILLISECOND | MICROSECOND;
    pub const TIME: u32 = SECONDS | MINUTE | HOUR;

    /// A unit of days or more.
    pub fn date(unit: super::Unit) -> u32 {
        32 << unit as u32
    }
}

fn by_tokens(tokens: &[Token], fields: Fields) -> Result<IntervalMonthDayNano> {
    let mut sum = Sum::default();
    // The unit of the number that comes next, i.e. stands to the left; `ago` leaves it none.
    let mut next = Some(fields.last());
    let mut seen = 0;
    let mut sign = 1;
    for token in tokens.iter().rev() {
        let (negative, number) = match token {
            Token::Word(word) if word.eq_ignore_ascii_case("ago") => {
                sign = -1;
                next = None;
                continue;
            }
            Token::Word(word) => {
                next = unit(word);
                if next.is_none() && !is_no_length(word) {
                    return Err(IntervalError::Syntax);
                }
                continue;
            }
            Token::Time(text) => {
                // As in PostgreSQL, the parts of a second that fractions to the right gave are lost.
                sum.micros = clock(text, fields)?;
                seen = once(seen, set::TIME)?;
                next = Some(Unit::Day);
                continue;
            }
            Token::Signed { negative, text } => {
                if text.contains(':')
                    && let Ok(time) = clock(text, fields)
                {
                    sum.micros = if *negative { -time } else { time };
                    seen = once(seen, set::TIME)?;
                    next = Some(Unit::Day);
                    continue;
                }
                if text.starts_with('.') {
                    return Err(IntervalError::Syntax);
                }
                (*negative, *text)
            }
            Token::Number(text) => (false, *text),
        };
        let (value, fraction, months) = parts(number, negative)?;
        let unit = match months {
            true => Unit::Month,
            false => next.ok_or(IntervalError::Syntax)?,
        };
        next = Some(unit);
        sum.add(value, fraction, unit)?;
        let sets = match unit {
            Unit::Microsecond => set::MICROSECOND,
            Unit::Millisecond => set::MILLISECOND,
            Unit::Second if fraction == 0.0 => set::SECOND,
            Unit::Second => set::SECONDS,
            Unit::Minute => set::MINUTE,
            Unit::Hour => {
                // What stands before hours is days.
                next = Some(Unit::Day);
                set::HOUR
            }
            date => set::date(date),
        };
        seen = once(seen, sets)?;
    }
    if seen == 0 {
        return Err(IntervalError::Syntax);
    }
    sum.finish(sign)
}

fn once(seen: u32, sets: u32) -> Result<u32> {
    if seen & sets != 0 {
        return Err(IntervalError::Syntax);
    }
    Ok(seen | sets)
}

/// A number with its fraction, and whether it is `years-months`, in months.
fn parts(text: &str, negative: bool) -> Result<(i64, f64, bool)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    let signed = |v: i64| if negative { -v } else { v };
    let value = match digits {
        "" => 0,
        _ => digits.parse().map_err(|_| IntervalError::Field)?,
    };
    if let Some(months) = rest.strip_prefix('-') {
        if !months.bytes().all(|b| b.is_ascii_digit()) {
            return Err(IntervalError::Syntax);
        }
        let months: i64 = match months {
            "" => 0,
            _ => months.parse().map_err(|_| IntervalError::Field)?,
        };
        if months >= 12 {
            return Err(IntervalError::Field);
        }
        let value = i64::checked_mul(value, 12).ok_or(IntervalError::Field)?;
        return Ok((signed(value) + signed(months), 0.0, true));
    }
    let fraction = fraction(rest)?;
    Ok((
        signed(value),
        if negative { -fraction } else { fraction },
        false,
    ))
}

/// What follows a number: nothing, or a point and digits.
fn fraction(rest: &str) -> Result<f64> {
    match rest.strip_prefix('.') {
        None if rest.is_empty() => Ok(0.0),
        Some("") => Ok(0.0),
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
            rest.parse().map_err(|_| IntervalError::Syntax)
        }
        _ => Err(IntervalError::Syntax),
    }
}

/// `h:m`, `h:m:s`, `m:s.f`; `m:s` too where the type says so. In microseconds.
fn clock(text: &str, fields: Fields) -> Result<i64> {
    let number = |t: &str| -> Result<i64> {
        match t {
            "" => Ok(0),
            t if t.bytes().all(|b| b.is_ascii_digit()) => {
                t.parse().map_err(|_| IntervalError::Field)
            }
            _ => Err(IntervalError::Syntax),
        }
    };
    let (body, part) = match text.find('.') {
        Some(i) => (
            &text[..i],
            (fraction(&text[i..])? * 1e6).round_ties_even() as i64,
        ),
        None => (text, 0),
    };
    let minutes_first = text.contains('.') || fields.range == Some((Unit::Minute, Unit::Second));
    let mut pieces = body.split(':');
    let (first, second) = match (pieces.next(), pieces.next()) {
        (Some(a), Some(b)) => (number(a)?, number(b)?),
        _ => return Err(IntervalError::Syntax),
    };
    let (hours, minutes, seconds) = match (pieces.next(), pieces.next()) {
        (None, _) if minutes_first => (0, first, second),
        (None, _) => (first, second, 0),
        (Some(s), None) => (first, second, number(s)?),
        _ => return Err(IntervalError::Syntax),
    };
    if minutes > 59 || seconds > 60 || part > SECOND {
        return Err(IntervalError::Field);
    }
    hours
        .checked_mul(HOUR)
        .and_then(|h| h.checked_add(minutes * MINUTE + seconds * SECOND + part))
        .ok_or(IntervalError::Field)
}

/// ISO 8601: `P1Y2M3DT4H5M6S`, `P1W`, `P0001-02-03T04:05:06`, `P00010203T040506`.
fn iso(text: &str) -> Result<IntervalMonthDayNano> {
    let mut s = text.strip_prefix('P').unwrap_or("");
    if s.is_empty() {
        return Err(IntervalError::Syntax);
    }
    let mut sum = Sum::default();
    let (mut date, mut any) = (true, false);
    while let Some(first) = s.chars().next() {
        if first == 'T' {
            (date, any) = (false, false);
            s = &s[1..];
            continue;
        }
        let from = s;
        let (value, part) = iso_number(&mut s)?;
        let unit = s.chars().next();
        let width = from.bytes().take_while(u8::is_ascii_digit).count();
        s = s.get(1..).unwrap_or("");
        match (date, unit) {
            (true, Some('Y')) => sum.add(value, part, Unit::Year)?,
            (true, Some('M')) => sum.add(value, part, Unit::Month)?,
            (true, Some('W')) => sum.add(value, part, Unit::Week)?,
            (true, Some('D')) => sum.add(value, part, Unit::Day)?,
            (false, Some('H')) => sum.add(value, part, Unit::Hour)?,
            (false, Some('M')) => sum.add(value, part, Unit::Minute)?,
            (false, Some('S')) => sum.add(value, part, Unit::Second)?,
            // The alternative form, without and with delimiters.
            (true, None | Some('T')) if width == 8 && !any => {
                sum.add(value / 10_000, 0.0, Unit::Year)?;
                sum.add(value / 100 % 100, 0.0, Unit::Month)?;
                sum.add(value % 100, part, Unit::Day)?;
                (date, any) = (false, false);
                continue;
            }
            (true, None | Some('T' | '-')) if !any => {
                sum.add(value, part, Unit::Year)?;
                if unit == Some('-') {
                    let (value, part) = iso_number(&mut s)?;
                    sum.add(value, part, Unit::Month)?;
                    if let Some(rest) = s.strip_prefix('-') {
                        s = rest;
                        let (value, part) = iso_number(&mut s)?;
                        sum.add(value, part, Unit::Day)?;
                    }
                    s = match s.strip_prefix('T') {
                        Some(rest) => rest,
                        None if s.is_empty() => s,
                        None => return Err(IntervalError::Syntax),
                    };
                }
                (date, any) = (false, false);
                continue;
            }
            (false, None) if width == 6 && !any => {
                sum.add(value / 10_000, 0.0, Unit::Hour)?;
                sum.add(value / 100 % 100, 0.0, Unit::Minute)?;
                sum.add(value % 100, part, Unit::Second)?;
                break;
            }
            (false, None | Some(':')) if !any => {
                sum.add(value, part, Unit::Hour)?;
                if unit == Some(':') {
                    let (value, part) = iso_number(&mut s)?;
                    sum.add(value, part, Unit::Minute)?;
                    if let Some(rest) = s.strip_prefix(':') {
                        s = rest;
                        let (value, part) = iso_number(&mut s)?;
                        sum.add(value, part, Unit::Second)?;
                    }
                    if !s.is_empty() {
                        return Err(IntervalError::Syntax);
                    }
                }
                break;
            }
            _ => return Err(IntervalError::Syntax),
        }
        any = true;
    }
    sum.finish(1)
}

/// A number at the start of `s`, which is moved behind it: its whole part and its fraction.
fn iso_number(s: &mut &str) -> Result<(i64, f64)> {
    let bytes = s.as_bytes();
    let mut end = usize::from(bytes.first() == Some(&b'-'));
    let digits = |from: usize| {
        from + bytes[from..]
            .iter()
            .take_while(|b| b.is_ascii_digit())
            .count()
    };
    let whole = digits(end);
    let mut last = whole;
    if bytes.get(whole) == Some(&b'.') {
        last = digits(whole + 1);
    }
    if !bytes[end..last].iter().any(u8::is_ascii_digit) {
        return Err(IntervalError::Syntax);
    }
    // An exponent, as strtod reads it.
    end = last;
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let signed = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        let exponent = digits(end + 1 + signed);
        if exponent > end + 1 + signed {
            last = exponent;
        }
    }
    let value: f64 = s[..last].parse().map_err(|_| IntervalError::Syntax)?;
    if !value.is_finite() {
        return Err(IntervalError::Syntax);
    }
    if value.abs() >= i64::MAX as f64 {
        return Err(IntervalError::Field);
    }
    *s = &s[last..];
    Ok((value.trunc() as i64, value.fract()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, fields: Fields) -> Result<(i32, i32, i64)> {
        parse_interval(text, fields).map(|i| (i.months, i.days, i.nanoseconds / 1000))
    }

    fn fields(from: Unit, to: Unit) -> Fields {
        Fields::new(from, Some(to)).expect("fields of SQL")
    }

    #[test]
    fn words_fields_and_iso() {
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
            ("1 12:00", 0, 1, 43_200_000_000),
            ("17", 0, 0, 17_000_000),
            ("-00:00:01", 0, 0, -1_000_000),
            ("2-3", 27, 0, 0),
            ("4:", 0, 0, 4 * HOUR),
            ("8::.25", 0, 0, 8 * HOUR + 250_000),
            ("7:8.5", 0, 0, 7 * MINUTE + 8_500_000),
            ("P1Y2M3DT4H5M6S", 14, 3, 14_706_000_000),
            ("P2W", 0, 14, 0),
            (
                "P0002-03-04T05:06:07",
                27,
                4,
                5 * HOUR + 6 * MINUTE + 7 * SECOND,
            ),
            (
                "P00020304T050607",
                27,
                4,
                5 * HOUR + 6 * MINUTE + 7 * SECOND,
            ),
        ] {
            assert_eq!(read(text, Fields::ALL), Ok((months, days, us)), "{text}");
        }
    }

    #[test]
    fn fields_of_the_type() {
        let minute_second = fields(Unit::Minute, Unit::Second);
        let day_hour = fields(Unit::Day, Unit::Hour);
        assert_eq!(read("2:30", minute_second), Ok((0, 0, 150 * SECOND)));
        assert_eq!(read("9", fields(Unit::Year, Unit::Year)), Ok((108, 0, 0)));
        assert_eq!(read("5 7:45", day_hour), Ok((0, 5, 7 * HOUR)));
        assert_eq!(Fields::new(Unit::Month, Some(Unit::Hour)), None);
        let tenths = Fields {
            range: None,
            precision: Some(1),
        };
        assert_eq!(read("-0.25", tenths), Ok((0, 0, -300_000)));
    }

    #[test]
    fn refused() {
        use IntervalError::*;
        for (text, why) in [
            ("", Syntax),
            ("day", Syntax),
            ("1 lightyear", Syntax),
            ("3 year-old", Syntax),
            ("+.5", Syntax),
            ("5 ago", Syntax),
            ("P", Syntax),
            ("1:2:3:4", Syntax),
            ("1 2 3", Syntax),
            ("3 days 4 days", Syntax),
            ("1:99", Field),
            ("5-12", Field),
            ("99999999999999999 years", Field),
            ("999999999 years", Range),
        ] {
            assert_eq!(read(text, Fields::ALL), Err(why), "{text}");
        }
    }
}
