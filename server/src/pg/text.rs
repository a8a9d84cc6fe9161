//! Values as PostgreSQL 15 prints them, one function per type, appended to a buffer.
//!
//! Invariant: for every value that PostgreSQL can hold too, the bytes are PostgreSQL's with
//! `DateStyle = ISO, MDY`, `IntervalStyle` `postgres` or `iso_8601`, `extra_float_digits = 1`,
//! `bytea_output = hex`. The property tests in `server/tests/text_output.rs` compare them.

use std::fmt::Write;

use arrow::datatypes::i256;
use bytes::{BufMut, BytesMut};
use chrono_tz::Tz;

/// Microseconds per second.
pub const SECOND_US: i64 = 1_000_000;
/// Microseconds per day.
pub const DAY_US: i64 = 86_400 * SECOND_US;
/// Longest decimal form of a `u64`, in digits.
const U64_DIGITS_MAX: usize = 20;

/// `t` or `f`.
pub fn boolean(value: bool, out: &mut BytesMut) {
    out.put_u8(if value { b't' } else { b'f' });
}

/// Any integer.
pub fn integer(value: i64, out: &mut BytesMut) {
    if value < 0 {
        out.put_u8(b'-');
    }
    unsigned(value.unsigned_abs(), 0, out);
}

/// A non-negative number, padded with zeros to `width` digits.
fn unsigned(mut value: u64, width: usize, out: &mut BytesMut) {
    let mut digits = [b'0'; U64_DIGITS_MAX];
    let mut at = digits.len();
    while value > 0 || at == digits.len() {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
    }
    let at = at.min(digits.len() - width.min(digits.len()));
    out.put_slice(&digits[at..]);
}

/// `double precision`: the shortest digits that read back as the same value.
pub fn float8(value: f64, out: &mut BytesMut) {
    let strict = |digits: &str, exponent: i32| {
        let bits = value.to_bits();
        let fraction = bits & ((1 << 52) - 1);
        let raw = ((bits >> 52) & 0x7ff) as i32;
        let (mantissa, power) = match raw {
            0 => (fraction, -1074),
            _ => (fraction | 1 << 52, raw - 1075),
        };
        !is_between(digits, exponent, mantissa, power, raw > 1 && fraction == 0)
    };
    float(
        value,
        15,
        17,
        |v, n| match n {
            Some(n) => format!("{v:.n$e}"),
            None => format!("{v:e}"),
        },
        strict,
        out,
    );
}

/// `real`: the shortest digits that read back as the same value.
pub fn float4(value: f32, out: &mut BytesMut) {
    let strict = |digits: &str, exponent: i32| {
        let bits = value.to_bits();
        let fraction = bits & ((1 << 23) - 1);
        let raw = ((bits >> 23) & 0xff) as i32;
        let (mantissa, power) = match raw {
            0 => (fraction, -149),
            _ => (fraction | 1 << 23, raw - 150),
        };
        let lowest = raw > 1 && fraction == 0;
        !is_between(digits, exponent, u64::from(mantissa), power, lowest)
    };
    float(
        value,
        6,
        9,
        |v, n| match n {
            Some(n) => format!("{v:.n$e}"),
            None => format!("{v:e}"),
        },
        strict,
        out,
    );
}

/// True if `digits · 10^exponent` lies exactly half way between `mantissa · 2^power` and one of its
/// neighbours. PostgreSQL refuses such a decimal (it does not trust readers to round to even)
/// and prints more digits; Rust takes it. `lowest`: the neighbour below is half as far.
fn is_between(digits: &str, exponent: i32, mantissa: u64, power: i32, lowest: bool) -> bool {
    // Further out, five to that power divides neither side.
    const FIVES_MAX: u32 = 27;
    if mantissa % 2 == 1 || exponent.unsigned_abs() > FIVES_MAX {
        return false;
    }
    let Ok(decimal) = digits.parse::<u128>() else {
        return false;
    };
    if decimal == 0 {
        return false;
    }
    let fives = 5u128.pow(exponent.unsigned_abs());
    // Both sides as odd · 2^n: decimal side over five's power, or the binary side times it.
    let equal = |binary: u128, binary_power: i32| {
        let (left, right) = match exponent >= 0 {
            true => (decimal.checked_mul(fives), Some(binary)),
            false => (Some(decimal), binary.checked_mul(fives)),
        };
        let (Some(left), Some(right)) = (left, right) else {
            return false;
        };
        let left_power = exponent + left.trailing_zeros() as i32;
        let right_power = binary_power + right.trailing_zeros() as i32;
        left >> left.trailing_zeros() == right >> right.trailing_zeros()
            && left_power == right_power
    };
    let twice = u128::from(mantissa) * 2;
    equal(twice + 1, power - 1)
        || match lowest {
            true => equal(twice * 2 - 1, power - 2),
            false => equal(twice - 1, power - 1),
        }
}

/// Prints a float. `fixed_below`: exponents from here on are printed as `1e+20`; `precise`:
/// digits that always suffice; `scientific` prints with the fewest or with that many decimals;
/// `strict` says whether digits and exponent are inside the value's interval.
fn float<F: Copy + Into<f64> + PartialEq + std::str::FromStr>(
    value: F,
    fixed_below: i32,
    precise: usize,
    scientific: impl Fn(F, Option<usize>) -> String,
    strict: impl Fn(&str, i32) -> bool,
    out: &mut BytesMut,
) {
    let wide: f64 = value.into();
    if wide.is_nan() {
        return out.put_slice(b"NaN");
    }
    if wide.is_sign_negative() {
        out.put_u8(b'-');
    }
    if wide.is_infinite() {
        return out.put_slice(b"Infinity");
    }
    let (mut digits, mut exponent) = split(&scientific(value, None));
    let mut decimals = digits.len();
    if decimals + 2 >= precise {
        // Of two shortest decimals that are equally near, Rust takes the upper, PostgreSQL the even.
        let text = scientific(value, Some(decimals - 1));
        if text.parse::<F>().is_ok_and(|back| back == value) {
            (digits, exponent) = split(&text);
        }
    }
    while !strict(&digits, exponent - (digits.len() as i32 - 1)) && decimals < precise {
        (digits, exponent) = split(&scientific(value, Some(decimals)));
        decimals += 1;
    }
    if (-4..fixed_below).contains(&exponent) {
        fixed(&digits, exponent, out);
    } else {
        out.put_slice(&digits.as_bytes()[..1]);
        if digits.len() > 1 {
            out.put_u8(b'.');
            out.put_slice(&digits.as_bytes()[1..]);
        }
        out.put_slice(if exponent < 0 { b"e-" } else { b"e+" });
        unsigned(u64::from(exponent.unsigned_abs()), 2, out);
    }
}

/// Rust's `-1.25e-7` as digits `125` and exponent -7.
fn split(text: &str) -> (String, i32) {
    let (mantissa, exponent) = text.split_once('e').unwrap_or((text, "0"));
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    (digits, exponent.parse().unwrap_or(0))
}

/// `0.00125`, `12.5`, `125000`.
fn fixed(digits: &str, exponent: i32, out: &mut BytesMut) {
    let digits = digits.as_bytes();
    if exponent < 0 {
        out.put_slice(b"0.");
        out.put_bytes(b'0', (-exponent - 1) as usize);
        return out.put_slice(digits);
    }
    let whole = exponent as usize + 1;
    if digits.len() <= whole {
        out.put_slice(digits);
        out.put_bytes(b'0', whole - digits.len());
    } else {
        out.put_slice(&digits[..whole]);
        out.put_u8(b'.');
        out.put_slice(&digits[whole..]);
    }
}

/// `numeric`: unscaled value and scale.
pub fn numeric(value: i128, scale: i8, out: &mut BytesMut) {
    if value < 0 {
        out.put_u8(b'-');
    }
    match u64::try_from(value.unsigned_abs()) {
        Ok(small) if scale == 0 => unsigned(small, 0, out),
        _ => scaled(&value.unsigned_abs().to_string(), scale, out),
    }
}

/// The same number without zeros at the end of its fraction.
pub fn without_zeros(mut value: i128, mut scale: i8) -> (i128, i8) {
    while scale > 0 && value % 10 == 0 {
        value /= 10;
        scale -= 1;
    }
    (value, scale)
}

/// `char(n)`: with spaces up to `n` characters.
pub fn padded(value: &str, n: usize, out: &mut BytesMut) {
    out.put_slice(value.as_bytes());
    out.put_bytes(b' ', n.saturating_sub(value.chars().count()));
}

/// `jsonb`: a space after each comma and colon outside strings, and no other.
pub fn jsonb(value: &str, out: &mut BytesMut) {
    let bytes = value.as_bytes();
    let (mut written, mut at) = (0, 0);
    while at < bytes.len() {
        match bytes[at] {
            b'"' => {
                at += 1;
                while at < bytes.len() && bytes[at] != b'"' {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                at += 1;
            }
            b',' | b':' => {
                at += 1;
                out.put_slice(&bytes[written..at]);
                out.put_u8(b' ');
                written = at;
            }
            b' ' | b'\n' | b'\r' | b'\t' => {
                out.put_slice(&bytes[written..at]);
                at += 1;
                written = at;
            }
            _ => at += 1,
        }
    }
    out.put_slice(&bytes[written..]);
}

/// `numeric` of up to 76 digits.
pub fn numeric_wide(value: i256, scale: i8, out: &mut BytesMut) {
    let text = value.to_string();
    let digits = text.strip_prefix('-').unwrap_or(&text);
    if digits.len() < text.len() {
        out.put_u8(b'-');
    }
    scaled(digits, scale, out);
}

fn scaled(digits: &str, scale: i8, out: &mut BytesMut) {
    if scale <= 0 {
        out.put_slice(digits.as_bytes());
        if digits != "0" {
            out.put_bytes(b'0', usize::from(scale.unsigned_abs()));
        }
        return;
    }
    let scale = scale as usize;
    if digits.len() <= scale {
        out.put_slice(b"0.");
        out.put_bytes(b'0', scale - digits.len());
        out.put_slice(digits.as_bytes());
    } else {
        let (whole, fraction) = digits.split_at(digits.len() - scale);
        out.put_slice(whole.as_bytes());
        out.put_u8(b'.');
        out.put_slice(fraction.as_bytes());
    }
}

/// Year (astronomical), month, day of a day number since 1970-01-01, proleptic Gregorian.
pub fn civil(days: i64) -> (i64, u32, u32) {
    let shifted = days + 719_468; // days since 0000-03-01
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month as u32, day as u32)
}

/// The day without its era; true if it is before the common era.
fn day(days: i64, out: &mut BytesMut) -> bool {
    let (year, month, day) = civil(days);
    let before = year <= 0;
    let shown = if before { 1 - year } else { year };
    unsigned(shown as u64, 4, out);
    out.put_u8(b'-');
    unsigned(u64::from(month), 2, out);
    out.put_u8(b'-');
    unsigned(u64::from(day), 2, out);
    before
}

/// `date`, in days since 1970-01-01.
pub fn date(days: i32, out: &mut BytesMut) {
    if day(i64::from(days), out) {
        out.put_slice(b" BC");
    }
}

/// `time`, in microseconds since midnight.
pub fn time(micros: i64, out: &mut BytesMut) {
    let seconds = micros / SECOND_US;
    unsigned((seconds / 3_600) as u64, 2, out);
    out.put_u8(b':');
    unsigned((seconds / 60 % 60) as u64, 2, out);
    out.put_u8(b':');
    unsigned((seconds % 60) as u64, 2, out);
    fraction((micros % SECOND_US) as u64, out);
}

/// `.5`, `.000001`, or nothing.
fn fraction(micros: u64, out: &mut BytesMut) {
    if micros == 0 {
        return;
    }
    out.put_u8(b'.');
    let (mut value, mut width) = (micros, 6);
    while value.is_multiple_of(10) {
        value /= 10;
        width -= 1;
    }
    unsigned(value, width, out);
}

/// `timestamp`, in microseconds since 1970-01-01.
pub fn timestamp(micros: i64, out: &mut BytesMut) {
    let before = day(micros.div_euclid(DAY_US), out);
    out.put_u8(b' ');
    time(micros.rem_euclid(DAY_US), out);
    if before {
        out.put_slice(b" BC");
    }
}

/// `timestamptz`, in microseconds since 1970-01-01 UTC, shown in a zone (`None`: UTC).
pub fn timestamptz(micros: i64, zone: Option<Tz>, out: &mut BytesMut) {
    let offset = zone.map_or(0, |zone| offset_at(micros, zone));
    let local = micros.saturating_add(i64::from(offset) * SECOND_US);
    let before = day(local.div_euclid(DAY_US), out);
    out.put_u8(b' ');
    time(local.rem_euclid(DAY_US), out);
    out.put_u8(if offset < 0 { b'-' } else { b'+' });
    let offset = u64::from(offset.unsigned_abs());
    unsigned(offset / 3_600, 2, out);
    for part in [offset / 60 % 60, offset % 60]
        .iter()
        .take(match (offset / 60 % 60, offset % 60) {
            (0, 0) => 0,
            (_, 0) => 1,
            _ => 2,
        })
    {
        out.put_u8(b':');
        unsigned(*part, 2, out);
    }
    if before {
        out.put_slice(b" BC");
    }
}

/// Seconds east of UTC; beyond chrono's calendar: none.
fn offset_at(micros: i64, zone: Tz) -> i32 {
    chrono::DateTime::from_timestamp_micros(micros).map_or(0, |utc| {
        tidemill_zset::zones::offset_of_instant(&zone, utc.naive_utc()) as i32
    })
}

/// `interval`: `1 year 2 mons 3 days 04:05:06.789`. Nanoseconds below a microsecond are cut off.
pub fn interval(months: i32, days: i32, nanos: i64, out: &mut BytesMut) {
    let micros = nanos / 1_000;
    let mut first = true;
    let mut negative = false;
    for (value, unit) in [(months / 12, "year"), (months % 12, "mon"), (days, "day")] {
        if value == 0 {
            continue;
        }
        if !first {
            out.put_u8(b' ');
        }
        if negative && value > 0 {
            out.put_u8(b'+');
        }
        integer(i64::from(value), out);
        out.put_u8(b' ');
        out.put_slice(unit.as_bytes());
        if value != 1 {
            out.put_u8(b's');
        }
        negative = value < 0;
        first = false;
    }
    if first || micros != 0 {
        if !first {
            out.put_u8(b' ');
        }
        if micros < 0 {
            out.put_u8(b'-');
        } else if negative {
            out.put_u8(b'+');
        }
        let micros = micros.unsigned_abs();
        let seconds = micros / SECOND_US as u64;
        unsigned(seconds / 3_600, 2, out);
        out.put_u8(b':');
        unsigned(seconds / 60 % 60, 2, out);
        out.put_u8(b':');
        unsigned(seconds % 60, 2, out);
        fraction(micros % SECOND_US as u64, out);
    }
}

/// `interval` in the form of ISO 8601: `P1Y2M3DT4H5M6.789S`. Every part has a sign of its own.
pub fn iso_interval(months: i32, days: i32, nanos: i64, out: &mut BytesMut) {
    let micros = nanos / 1_000;
    if (months, days, micros) == (0, 0, 0) {
        return out.put_slice(b"PT0S");
    }
    out.put_u8(b'P');
    let seconds = micros / SECOND_US;
    let dates = [(months / 12, b'Y'), (months % 12, b'M'), (days, b'D')];
    let times = [(seconds / 3_600, b'H'), (seconds / 60 % 60, b'M')];
    for (value, unit) in dates.into_iter().filter(|(v, _)| *v != 0) {
        integer(i64::from(value), out);
        out.put_u8(unit);
    }
    if micros == 0 {
        return;
    }
    out.put_u8(b'T');
    for (value, unit) in times.into_iter().filter(|(v, _)| *v != 0) {
        integer(value, out);
        out.put_u8(unit);
    }
    let rest = micros % (60 * SECOND_US);
    if rest != 0 {
        if rest < 0 {
            out.put_u8(b'-');
        }
        let rest = rest.unsigned_abs();
        unsigned(rest / SECOND_US as u64, 1, out);
        fraction(rest % SECOND_US as u64, out);
        out.put_u8(b'S');
    }
}

/// `bytea` as `\x0aff`.
pub fn bytea(value: &[u8], out: &mut BytesMut) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.reserve(2 + 2 * value.len());
    out.put_slice(b"\\x");
    for byte in value {
        out.put_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
    }
}

/// White space of array and record literals.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

/// Quotes the array element that was written at `from..`, where it must be.
pub fn quote_element(from: usize, out: &mut BytesMut) {
    let text = &out[from..];
    let plain = !text.is_empty()
        && !text.eq_ignore_ascii_case(b"null")
        && !text
            .iter()
            .any(|b| matches!(b, b'{' | b'}' | b'"' | b'\\' | b',') || is_space(*b));
    if !plain {
        // Not split_off, which leaves no room to write on.
        let text = out[from..].to_vec();
        out.truncate(from);
        out.put_u8(b'"');
        for byte in text {
            if matches!(byte, b'"' | b'\\') {
                out.put_u8(b'\\');
            }
            out.put_u8(byte);
        }
        out.put_u8(b'"');
    }
}

/// Quotes the record field that was written at `from..`, where it must be.
pub fn quote_field(from: usize, out: &mut BytesMut) {
    let text = &out[from..];
    let plain = !text.is_empty()
        && !text
            .iter()
            .any(|b| matches!(b, b'(' | b')' | b'"' | b'\\' | b',') || is_space(*b));
    if !plain {
        let text = out[from..].to_vec();
        out.truncate(from);
        out.put_u8(b'"');
        for byte in text {
            if matches!(byte, b'"' | b'\\') {
                out.put_u8(byte);
            }
            out.put_u8(byte);
        }
        out.put_u8(b'"');
    }
}

/// Anything that can be displayed.
pub fn display(value: impl std::fmt::Display, out: &mut BytesMut) {
    // A BytesMut grows; writing to it fails only beyond `usize::MAX`.
    let _ = write!(out, "{value}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(write: impl FnOnce(&mut BytesMut)) -> String {
        let mut out = BytesMut::new();
        write(&mut out);
        String::from_utf8(out.to_vec()).expect("text output is UTF-8")
    }

    #[test]
    fn floats() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.5, "1.5"),
            (1e20, "1e+20"),
            (1e15, "1e+15"),
            (123456789012345.0, "123456789012345"),
            (1e-4, "0.0001"),
            (1e-5, "1e-05"),
            (1.25e-7, "1.25e-07"),
            (5e-324, "5e-324"),
            (f64::MAX, "1.7976931348623157e+308"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Infinity"),
            (9007199254740993.0, "9.007199254740992e+15"),
            // As near as …13.
            (-141989584807415.0 - 0.125, "-141989584807415.12"),
            // Half way between two floats: PostgreSQL doesn't take 1e+23.
            (1e23, "9.999999999999999e+22"),
        ] {
            assert_eq!(shown(|o| float8(value, o)), text);
        }
        assert_eq!(shown(|o| float4(1.1, o)), "1.1");
        assert_eq!(shown(|o| float4(1234567.0, o)), "1.234567e+06");
        assert_eq!(shown(|o| float4(123456.0, o)), "123456");
    }

    #[test]
    fn numerics() {
        assert_eq!(shown(|o| numeric(-5, 2, o)), "-0.05");
        assert_eq!(shown(|o| numeric(12345, 2, o)), "123.45");
        assert_eq!(shown(|o| numeric(0, 3, o)), "0.000");
        assert_eq!(shown(|o| numeric(12, -2, o)), "1200");
        assert_eq!(shown(|o| numeric(i128::MAX, 0, o)), i128::MAX.to_string());
        assert_eq!(
            shown(|o| numeric_wide(i256::from_i128(-1234), 2, o)),
            "-12.34"
        );
    }

    #[test]
    fn dates_and_times() {
        assert_eq!(shown(|o| date(0, o)), "1970-01-01");
        assert_eq!(shown(|o| date(-719_528, o)), "0001-01-01 BC");
        assert_eq!(shown(|o| date(2_932_897, o)), "10000-01-01");
        assert_eq!(shown(|o| time(DAY_US, o)), "24:00:00");
        assert_eq!(shown(|o| timestamp(-1, o)), "1969-12-31 23:59:59.999999");
        assert_eq!(
            shown(|o| timestamptz(500_000, None, o)),
            "1970-01-01 00:00:00.5+00"
        );
        assert_eq!(
            shown(|o| timestamptz(0, Some(chrono_tz::Asia::Kolkata), o)),
            "1970-01-01 05:30:00+05:30"
        );
    }

    #[test]
    fn intervals() {
        for (months, days, nanos, text) in [
            (0, 0, 0, "00:00:00"),
            (
                14,
                3,
                14_706_789_000_000,
                "1 year 2 mons 3 days 04:05:06.789",
            ),
            (-14, 0, 0, "-1 years -2 mons"),
            (1, -1, 1_000_000_000, "1 mon -1 days +00:00:01"),
            (0, 0, -1_000, "-00:00:00.000001"),
            (-1, 1, 0, "-1 mons +1 day"),
        ] {
            assert_eq!(shown(|o| interval(months, days, nanos, o)), text);
        }
    }

    #[test]
    fn quoting() {
        let element = |text: &str| {
            shown(|o| {
                o.put_slice(text.as_bytes());
                quote_element(0, o);
            })
        };
        assert_eq!(element("a"), "a");
        assert_eq!(element("a b"), "\"a b\"");
        assert_eq!(element(""), "\"\"");
        assert_eq!(element("NULL"), "\"NULL\"");
        assert_eq!(element("a\"\\"), "\"a\\\"\\\\\"");
        let field = |text: &str| {
            shown(|o| {
                o.put_slice(text.as_bytes());
                quote_field(0, o);
            })
        };
        assert_eq!(field("a\"b"), "\"a\"\"b\"");
        assert_eq!(field("null"), "null");
    }
}
