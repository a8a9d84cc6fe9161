//! Numbers: the integers, the floats, and `numeric` with a fixed scale.

use tidemill_zset::digits::{short_integer, short_integer_in};

use super::{ValueError, trim};

/// A signed integer of 64 bits: the common form (a sign, up to 18 digits) at full speed, the rest apart.
#[inline]
pub fn parse_i64(text: &[u8]) -> Result<i64, ValueError> {
    match short_integer(text) {
        Some(value) => Ok(value),
        None => parse_i64_slow(text),
    }
}

/// [`parse_i64`] of `bytes[start..start + len]`.
#[inline(always)]
pub fn parse_i64_in(bytes: &[u8], start: usize, len: usize) -> Result<i64, ValueError> {
    match short_integer_in(bytes, start, len) {
        Some(value) => Ok(value),
        None => parse_i64_slow(&bytes[start..start + len]),
    }
}

/// White space, `+`, 0x/0o/0b and underscores (as PostgreSQL 16), and values near the limits.
#[cold]
fn parse_i64_slow(text: &[u8]) -> Result<i64, ValueError> {
    let text = trim(text);
    let (negative, digits) = match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        Some((b'+', rest)) => (false, rest),
        _ => (false, text),
    };
    let (radix, digits) = match digits {
        [b'0', b'x' | b'X', rest @ ..] => (16, rest),
        [b'0', b'o' | b'O', rest @ ..] => (8, rest),
        [b'0', b'b' | b'B', rest @ ..] => (2, rest),
        _ => (10, digits),
    };
    let mut value = 0i128;
    let mut after_digit = false;
    for &b in digits {
        if b == b'_' && after_digit {
            after_digit = false;
            continue;
        }
        let d = (b as char).to_digit(radix).ok_or(ValueError::Syntax)?;
        after_digit = true;
        // Saturates far above the range, so that the rest is still checked for syntax.
        value = (value * radix as i128 + d as i128).min(1 << 70);
    }
    if !after_digit {
        return Err(ValueError::Syntax);
    }
    i64::try_from(if negative { -value } else { value }).map_err(|_| ValueError::Range)
}

/// A float of 64 bits; NaN and the infinities by PostgreSQL's names.
pub fn parse_f64(text: &[u8]) -> Result<f64, ValueError> {
    let text = trim(text);
    let value: f64 = lexical_core::parse(text).map_err(|_| ValueError::Syntax)?;
    // There is one zero: what is added makes -0 that.
    check_float(text, value.is_infinite(), value == 0.0).map(|()| value + 0.0)
}

/// A float of 32 bits.
pub fn parse_f32(text: &[u8]) -> Result<f32, ValueError> {
    let text = trim(text);
    let value: f32 = lexical_core::parse(text).map_err(|_| ValueError::Syntax)?;
    // There is one zero: what is added makes -0 that.
    check_float(text, value.is_infinite(), value == 0.0).map(|()| value + 0.0)
}

/// PostgreSQL refuses what overflows to infinity and what underflows to zero.
fn check_float(text: &[u8], infinite: bool, zero: bool) -> Result<(), ValueError> {
    if infinite && text.iter().any(u8::is_ascii_digit) {
        return Err(ValueError::Range);
    }
    if zero {
        let mantissa = text.iter().take_while(|b| !matches!(b, b'e' | b'E'));
        if mantissa.into_iter().any(|b| matches!(b, b'1'..=b'9')) {
            return Err(ValueError::Range);
        }
    }
    Ok(())
}

/// `numeric(precision, scale)` as the integer that Arrow stores: rounds half away from zero.
pub fn parse_numeric(text: &[u8], precision: u8, scale: i8) -> Result<i128, ValueError> {
    let text = trim(text);
    let (negative, rest) = match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        Some((b'+', rest)) => (false, rest),
        _ => (false, text),
    };
    let (mantissa, exponent) = match rest.iter().position(|b| matches!(b, b'e' | b'E')) {
        None => (rest, 0),
        Some(at) => (&rest[..at], parse_exponent(&rest[at + 1..])?),
    };
    let point = mantissa.iter().position(|b| *b == b'.');
    let fraction = point.map_or(0, |p| mantissa.len() - p - 1);
    let digits = || mantissa.iter().filter(|b| **b != b'.');
    let well_formed = mantissa
        .iter()
        .enumerate()
        .all(|(i, b)| b.is_ascii_digit() || (*b == b'.' && Some(i) == point));
    if !well_formed || digits().next().is_none() {
        return Err(match text.to_ascii_lowercase().as_slice() {
            b"nan" | b"infinity" | b"-infinity" | b"+infinity" | b"inf" | b"-inf" | b"+inf" => {
                ValueError::Other("numeric can't hold NaN or infinity here".into())
            }
            _ => ValueError::Syntax,
        });
    }
    // value = digits × 10^(exponent - fraction); wanted: value × 10^scale
    let shift = exponent - fraction as i64 + scale as i64;
    let count = digits().count() as i64;
    let kept = (count + shift.min(0)).max(0);
    let mut value = 0i128;
    for b in digits().take(kept as usize) {
        value = value
            .checked_mul(10)
            .and_then(|v| v.checked_add((b - b'0') as i128))
            .ok_or_else(|| overflow(precision, scale))?;
    }
    if value != 0 && shift > 0 {
        let power = 10i128
            .checked_pow(shift.min(1000) as u32)
            .ok_or_else(|| overflow(precision, scale))?;
        value = value
            .checked_mul(power)
            .ok_or_else(|| overflow(precision, scale))?;
    }
    let rounds_up = kept < count && count + shift >= 0 && {
        let next = digits().nth(kept as usize).expect("kept < count");
        *next >= b'5'
    };
    value += i128::from(rounds_up);
    if value >= 10i128.pow(precision.min(38) as u32) {
        return Err(overflow(precision, scale));
    }
    Ok(if negative { -value } else { value })
}

/// Exponents beyond this are as good as this.
const EXPONENT_MAX: i64 = 1_000_000;

fn parse_exponent(text: &[u8]) -> Result<i64, ValueError> {
    let (negative, digits) = match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        Some((b'+', rest)) => (false, rest),
        _ => (false, text),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(ValueError::Syntax);
    }
    let value = digits
        .iter()
        .fold(0i64, |v, b| (v * 10 + (b - b'0') as i64).min(EXPONENT_MAX));
    Ok(if negative { -value } else { value })
}

fn overflow(precision: u8, scale: i8) -> ValueError {
    ValueError::Other(format!(
        "numeric field overflow: a field with precision {precision}, scale {scale} must round to an absolute value less than 10^{}",
        precision as i32 - scale as i32
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers() {
        for (text, value) in [
            ("0", 0),
            ("-5", -5),
            (" +17 ", 17),
            ("9223372036854775807", i64::MAX),
            ("-9223372036854775808", i64::MIN),
            ("0x1F", 31),
            ("1_000", 1000),
            ("000000000000000000000000001", 1),
        ] {
            assert_eq!(parse_i64(text.as_bytes()), Ok(value), "{text}");
        }
        for text in ["", " ", "-", "1.0", "1e3", "x", "1_", "--1", "1 2", "0x"] {
            assert_eq!(
                parse_i64(text.as_bytes()),
                Err(ValueError::Syntax),
                "{text}"
            );
        }
        for text in [
            "9223372036854775808",
            "99999999999999999999999999999999999999999",
        ] {
            assert_eq!(parse_i64(text.as_bytes()), Err(ValueError::Range), "{text}");
        }
    }

    #[test]
    fn floats() {
        assert_eq!(parse_f64(b" 1.5e3 "), Ok(1500.0));
        assert_eq!(parse_f64(b"-inf"), Ok(f64::NEG_INFINITY));
        assert_eq!(parse_f64(b"Infinity"), Ok(f64::INFINITY));
        assert!(parse_f64(b"NaN").is_ok_and(f64::is_nan));
        assert_eq!(parse_f64(b"1e400"), Err(ValueError::Range));
        assert_eq!(parse_f64(b"1e-400"), Err(ValueError::Range));
        assert_eq!(parse_f64(b"0e-400"), Ok(0.0));
        assert!(parse_f64(b"-0").is_ok_and(|zero| zero.is_sign_positive()));
        assert!(parse_f32(b"-0.0e1").is_ok_and(|zero| zero.is_sign_positive()));
        assert_eq!(parse_f64(b"+1."), Ok(1.0));
        assert_eq!(parse_f64(b"-.5E-1"), Ok(-0.05));
        assert_eq!(parse_f64(b"INF"), Ok(f64::INFINITY));
        for text in [
            "one", ".", "1e", "1e+", "-", "0x10", "1_0", "1 2", "1,5", "e5",
        ] {
            assert_eq!(
                parse_f64(text.as_bytes()),
                Err(ValueError::Syntax),
                "{text}"
            );
        }
        let mut x = 1u64;
        for _ in 0..20_000 {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let value = f64::from_bits(x);
            if value.is_finite() && value != 0.0 {
                for text in [format!("{value:e}"), format!("{value:?}")] {
                    assert_eq!(parse_f64(text.as_bytes()), Ok(value), "{text}");
                }
            }
        }
        assert_eq!(parse_f64(b""), Err(ValueError::Syntax));
        assert_eq!(parse_f32(b"1e39"), Err(ValueError::Range));
    }

    #[test]
    fn numerics_round_and_overflow() {
        let p = |t: &str| parse_numeric(t.as_bytes(), 6, 2);
        assert_eq!(p("12.345"), Ok(1235));
        assert_eq!(p("-12.344"), Ok(-1234));
        assert_eq!(p("-0.005"), Ok(-1));
        assert_eq!(p(".5"), Ok(50));
        assert_eq!(p("5."), Ok(500));
        assert_eq!(p("1.2e2"), Ok(12000));
        assert_eq!(p("1234e-2"), Ok(1234));
        assert_eq!(p("0.0049999"), Ok(0));
        assert_eq!(p("4e-9"), Ok(0));
        assert_eq!(p("9999.99"), Ok(999999));
        assert!(matches!(p("9999.995"), Err(ValueError::Other(_))));
        assert!(matches!(p("10000"), Err(ValueError::Other(_))));
        assert!(matches!(p("1e999999999999"), Err(ValueError::Other(_))));
        assert_eq!(p("0e999999999999"), Ok(0));
        for t in ["", ".", "1.2.3", "1e", "e5", "abc", "1 2"] {
            assert_eq!(p(t), Err(ValueError::Syntax), "{t}");
        }
        assert_eq!(
            parse_numeric(b"99999999999999999999999999999999999999", 38, 0),
            Ok(10i128.pow(38) - 1)
        );
        assert_eq!(parse_numeric(b"1250", 4, -2), Ok(13));
    }
}
