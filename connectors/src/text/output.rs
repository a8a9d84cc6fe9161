//! Values to PostgreSQL's text forms, appended to a byte buffer.

use std::io::Write;

use super::datetime::{DAY_US, date_of};

const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[0; 2]; 100];
    let mut i = 0;
    while i < 100 {
        pairs[i] = [b'0' + (i / 10) as u8, b'0' + (i % 10) as u8];
        i += 1;
    }
    pairs
};

/// Appends the first `len` of `bytes`. Copying a number of bytes that the compiler knows and then
/// cutting is several times faster than copying a few bytes by their length.
#[inline]
pub fn put<const N: usize>(bytes: &[u8; N], len: usize, out: &mut Vec<u8>) {
    let end = out.len() + len;
    out.extend_from_slice(bytes);
    out.truncate(end);
}

/// An integer.
#[inline]
pub fn integer(value: i64, out: &mut Vec<u8>) {
    const EIGHT: u64 = 100_000_000;
    if (0..10).contains(&value) {
        out.push(b'0' + value as u8);
        return;
    }
    if value < 0 {
        out.push(b'-');
    }
    let rest = value.unsigned_abs();
    if rest < EIGHT {
        first_digits(rest, out);
    } else if rest < EIGHT * EIGHT {
        first_digits(rest / EIGHT, out);
        out.extend_from_slice(&eight_digits(rest % EIGHT));
    } else {
        first_digits(rest / (EIGHT * EIGHT), out);
        out.extend_from_slice(&eight_digits(rest / EIGHT % EIGHT));
        out.extend_from_slice(&eight_digits(rest % EIGHT));
    }
}

/// A number of up to eight digits that isn't 0.
#[inline]
fn first_digits(value: u64, out: &mut Vec<u8>) {
    let digits = u64::from_le_bytes(eight_digits(value));
    let zeros = (digits ^ ASCII_ZEROS).trailing_zeros() / 8;
    let text = (digits >> (8 * zeros)).to_le_bytes();
    put(&text, 8 - zeros as usize, out);
}

const ASCII_ZEROS: u64 = 0x3030_3030_3030_3030;

/// The eight digits of a number below 10^8, without a loop or a branch. The steps are from "How to print integers really fast"
/// (P. Khuong, 2017): halves of four digits, then of two, then of one, side by side in one word.
#[inline]
fn eight_digits(value: u64) -> [u8; 8] {
    let fours = (value / 10_000) | ((value % 10_000) << 32);
    let hundreds = ((fours * 10_486) >> 20) & 0x0000_007f_0000_007f;
    let twos = ((fours - 100 * hundreds) << 16) + hundreds;
    let tens = ((twos * 103) >> 10) & 0x000f_000f_000f_000f;
    let ones = tens + ((twos - 10 * tens) << 8);
    (ones | ASCII_ZEROS).to_le_bytes()
}

/// `numeric` of a scale, exactly.
pub fn numeric(value: i128, scale: i8, out: &mut Vec<u8>) {
    if value < 0 {
        out.push(b'-');
    }
    let start = out.len();
    match i64::try_from(value.unsigned_abs()) {
        Ok(small) => integer(small, out),
        Err(_) => append(out, format_args!("{}", value.unsigned_abs())),
    }
    if scale < 0 && value != 0 {
        out.extend(std::iter::repeat_n(b'0', scale.unsigned_abs() as usize));
    }
    if scale > 0 {
        let scale = scale as usize;
        let missing = (scale + 1).saturating_sub(out.len() - start);
        out.splice(start..start, std::iter::repeat_n(b'0', missing));
        out.insert(out.len() - scale, b'.');
    }
}

/// Appending to a vector can't fail.
fn append(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a vector takes everything");
}

/// `double precision`: the shortest digits that read back the same.
pub fn float8(value: f64, out: &mut Vec<u8>) {
    if !special(value, out) {
        let start = out.len();
        append(out, format_args!("{value:e}"));
        lay_out(start, 15, out);
    }
}

/// `real`.
pub fn float4(value: f32, out: &mut Vec<u8>) {
    if !special(value as f64, out) {
        let start = out.len();
        append(out, format_args!("{value:e}"));
        lay_out(start, 6, out);
    }
}

fn special(value: f64, out: &mut Vec<u8>) -> bool {
    let text: &[u8] = if value.is_nan() {
        b"NaN"
    } else if value == f64::INFINITY {
        b"Infinity"
    } else if value == f64::NEG_INFINITY {
        b"-Infinity"
    } else {
        return false;
    };
    out.extend_from_slice(text);
    true
}

/// Turns `-1.25e3`, which begins at `start`, into `-1250`; the exponent stays, with two digits, from `digits_max` on.
fn lay_out(start: usize, digits_max: i32, out: &mut Vec<u8>) {
    let text = out.split_off(start);
    let e = text.iter().rposition(|b| *b == b'e').unwrap_or(text.len());
    let exponent: i32 = std::str::from_utf8(&text[(e + 1).min(text.len())..])
        .ok()
        .and_then(|t| t.parse().ok())
        .unwrap_or(0);
    let (sign, mantissa) = match text[..e].split_first() {
        Some((b'-', rest)) => (true, rest),
        _ => (false, &text[..e]),
    };
    if sign {
        out.push(b'-');
    }
    if !(-4..digits_max).contains(&exponent) {
        out.extend_from_slice(mantissa);
        let sign = if exponent < 0 { '-' } else { '+' };
        append(out, format_args!("e{sign}{:02}", exponent.abs()));
        return;
    }
    let digits = mantissa.iter().copied().filter(|b| *b != b'.');
    let count = digits.clone().count() as i32;
    if exponent < 0 {
        out.extend_from_slice(b"0.");
        out.extend(std::iter::repeat_n(b'0', (-exponent - 1) as usize));
        out.extend(digits);
    } else {
        for (i, d) in digits.enumerate() {
            if i as i32 == exponent + 1 {
                out.push(b'.');
            }
            out.push(d);
        }
        let missing = (exponent + 1 - count).max(0);
        out.extend(std::iter::repeat_n(b'0', missing as usize));
    }
}

fn two(value: i64, out: &mut Vec<u8>) {
    out.extend_from_slice(&PAIRS[(value % 100) as usize]);
}

/// `date`, from days since 1970-01-01.
pub fn date(days: i64, out: &mut Vec<u8>) {
    let bc = date_part(days, out);
    if bc {
        out.extend_from_slice(b" BC");
    }
}

/// Year, month and day; whether it is before Christ.
fn date_part(days: i64, out: &mut Vec<u8>) -> bool {
    let (year, month, day) = date_of(days);
    let shown = if year > 0 { year } else { 1 - year };
    if shown < 10_000 {
        two(shown / 100, out);
        two(shown, out);
    } else {
        integer(shown, out);
    }
    out.push(b'-');
    two(month as i64, out);
    out.push(b'-');
    two(day as i64, out);
    year <= 0
}

/// `time`, from microseconds since midnight.
pub fn time(us: i64, out: &mut Vec<u8>) {
    let seconds = us / 1_000_000;
    two(seconds / 3600, out);
    out.push(b':');
    two(seconds / 60 % 60, out);
    out.push(b':');
    two(seconds % 60, out);
    fraction(us % 1_000_000, out);
}

/// A point and six digits without the zeros at the end; nothing for zero.
fn fraction(us: i64, out: &mut Vec<u8>) {
    if us == 0 {
        return;
    }
    out.push(b'.');
    two(us / 10_000, out);
    two(us / 100, out);
    two(us, out);
    while out.last() == Some(&b'0') {
        out.pop();
    }
}

/// `timestamp` or, with `zone`, `timestamptz` in UTC, from microseconds.
pub fn timestamp(us: i64, zone: bool, out: &mut Vec<u8>) {
    let bc = date_part(us.div_euclid(DAY_US), out);
    out.push(b' ');
    time(us.rem_euclid(DAY_US), out);
    if zone {
        out.extend_from_slice(b"+00");
    }
    if bc {
        out.extend_from_slice(b" BC");
    }
}

/// `interval`, in PostgreSQL's style.
pub fn interval(months: i32, days: i32, nanoseconds: i64, out: &mut Vec<u8>) {
    let start = out.len();
    let mut negative_before = false;
    let mut part = |value: i64, unit: &str, out: &mut Vec<u8>| {
        if value == 0 {
            return;
        }
        if out.len() > start {
            out.push(b' ');
        }
        if negative_before && value > 0 {
            out.push(b'+');
        }
        negative_before = value < 0;
        let plural = if value == 1 { "" } else { "s" };
        append(out, format_args!("{value} {unit}{plural}"));
    };
    part((months / 12) as i64, "year", out);
    part((months % 12) as i64, "mon", out);
    part(days as i64, "day", out);
    let us = nanoseconds / 1000;
    if us != 0 || out.len() == start {
        if out.len() > start {
            out.push(b' ');
        }
        if us < 0 {
            out.push(b'-');
        } else if negative_before {
            out.push(b'+');
        }
        let us = us.unsigned_abs();
        let seconds = us / 1_000_000;
        append(
            out,
            format_args!(
                "{:02}:{:02}:{:02}",
                seconds / 3600,
                seconds / 60 % 60,
                seconds % 60
            ),
        );
        fraction((us % 1_000_000) as i64, out);
    }
}

/// `bytea`, in hexadecimal.
pub fn bytea(bytes: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.extend_from_slice(b"\\x");
    for b in bytes {
        out.push(HEX[(b >> 4) as usize]);
        out.push(HEX[(b & 15) as usize]);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{datetime, interval as interval_in, number};
    use super::*;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = b"|".to_vec();
        write(&mut out);
        String::from_utf8(out.split_off(1)).expect("ASCII")
    }

    #[test]
    fn integers() {
        for v in [0, 7, 10, 99, 100, 12345, -1, -100, i64::MAX, i64::MIN] {
            assert_eq!(text(|o| integer(v, o)), v.to_string());
        }
        let mut power = 1i64;
        while let Some(next) = power.checked_mul(10) {
            for v in [power - 1, power, power + 1, 7 * (power / 10), -power] {
                assert_eq!(text(|o| integer(v, o)), v.to_string());
            }
            power = next;
        }
        // The halves of eight digits don't depend on each other.
        for half in 0..10_000u64 {
            let digits = format!("{half:04}{:04}", 9_999 - half);
            let value = half * 10_000 + 9_999 - half;
            assert_eq!(&eight_digits(value), digits.as_bytes());
        }
    }

    #[test]
    fn numerics() {
        for (v, scale, want) in [
            (12345, 2, "123.45"),
            (-5, 2, "-0.05"),
            (0, 3, "0.000"),
            (7, 0, "7"),
            (13, -2, "1300"),
            (
                10i128.pow(37),
                10,
                "1000000000000000000000000000.0000000000",
            ),
        ] {
            assert_eq!(text(|o| numeric(v, scale, o)), want);
            let read = number::parse_numeric(want.as_bytes(), 38, scale);
            assert_eq!(read, Ok(v), "{want}");
        }
    }

    #[test]
    fn floats() {
        for (v, want) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (100.0, "100"),
            (1.5, "1.5"),
            (123.456, "123.456"),
            (1e14, "100000000000000"),
            (1e15, "1e+15"),
            (123456789012345680.0, "1.2345678901234568e+17"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (-1.25e-7, "-1.25e-07"),
            (1e300, "1e+300"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Infinity"),
        ] {
            assert_eq!(text(|o| float8(v, o)), want);
        }
        assert_eq!(text(|o| float4(1e6, o)), "1e+06");
        assert_eq!(text(|o| float4(123456.0, o)), "123456");
        assert_eq!(text(|o| float4(0.1, o)), "0.1");
    }

    #[test]
    fn dates_and_times_read_back() {
        for (t, us) in [
            ("2024-05-06 07:08:09.5", None),
            ("1969-12-31 23:59:59.999999", Some(-1)),
            ("0044-03-15 00:00:00 BC", None),
            ("12345-01-02 00:00:00", None),
        ] {
            let read = datetime::parse_timestamp(t.as_bytes()).expect("a timestamp");
            assert!(us.is_none_or(|us| us == read));
            assert_eq!(text(|o| timestamp(read, false, o)), t);
        }
        assert_eq!(text(|o| timestamp(0, true, o)), "1970-01-01 00:00:00+00");
        assert_eq!(text(|o| date(-1, o)), "1969-12-31");
        assert_eq!(text(|o| time(DAY_US, o)), "24:00:00");
    }

    #[test]
    fn intervals_read_back() {
        for t in [
            "1 year 2 mons 3 days 04:05:06.5",
            "-1 days +02:03:00",
            "-1 years -2 mons",
            "1 day -00:00:01",
            "00:00:00",
            "1 mon",
            "-1 mons +1 day",
        ] {
            let v = interval_in::parse_interval(t.as_bytes()).expect("an interval");
            assert_eq!(text(|o| interval(v.months, v.days, v.nanoseconds, o)), t);
        }
    }
}
