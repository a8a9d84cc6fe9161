//! Text to values, as PostgreSQL's input functions read it. Errors are theirs too.

use arrow::datatypes::i256;
use tidemill_zset::digits::short_integer;

use crate::error::{Result, SqlError};

/// `invalid input syntax for type …: "…"`
pub fn invalid(type_name: &str, text: &str) -> SqlError {
    SqlError::new(
        "22P02",
        format!("invalid input syntax for type {type_name}: \"{text}\""),
    )
}

pub(super) fn invalid_date(type_name: &str, text: &str) -> SqlError {
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
        "nan" | "-nan" | "+nan" => f64::NAN,
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
                        '\\' => {
                            quoted = true;
                            s.push(chars.next().ok_or_else(bad)?);
                        }
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
