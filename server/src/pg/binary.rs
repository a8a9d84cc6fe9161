//! Values in PostgreSQL's binary format, appended to a buffer or read from one.
//!
//! Invariant: numbers are big-endian; days and microseconds count from 2000-01-01.

use std::ops::Range;

use bytes::{Buf, BufMut, BytesMut};

use super::types::{Column, oid};

/// First byte of a binary jsonb.
pub const JSONB_VERSION: u8 = 1;
/// Days from 1970-01-01 to 2000-01-01.
pub const EPOCH_DAYS: i32 = 10_957;
/// Microseconds from 1970-01-01 to 2000-01-01.
pub const EPOCH_US: i64 = EPOCH_DAYS as i64 * super::text::DAY_US;
/// Decimal digits per numeric digit.
const NUMERIC_DIGIT: usize = 4;
const NUMERIC_NEGATIVE: u16 = 0x4000;
/// NaN, Infinity and -Infinity have these bits set.
const NUMERIC_SPECIAL: u16 = 0xc000;

/// `date`.
pub fn date(days: i32, out: &mut BytesMut) {
    out.put_i32(days.saturating_sub(EPOCH_DAYS));
}

/// `timestamp`, `timestamptz`.
pub fn timestamp(micros: i64, out: &mut BytesMut) {
    out.put_i64(micros.saturating_sub(EPOCH_US));
}

/// `interval`.
pub fn interval(months: i32, days: i32, nanos: i64, out: &mut BytesMut) {
    out.put_i64(nanos / 1_000);
    out.put_i32(days);
    out.put_i32(months);
}

/// `uuid` from its text; text that is none is sent as it is.
pub fn uuid(value: &str, out: &mut BytesMut) {
    match uuid::Uuid::parse_str(value) {
        Ok(uuid) => out.put_slice(uuid.as_bytes()),
        Err(_) => out.put_slice(value.as_bytes()),
    }
}

/// `numeric` from its decimal digits without sign and point.
pub fn numeric(negative: bool, digits: &str, scale: i8, out: &mut BytesMut) {
    let mut digits = digits.as_bytes().to_vec();
    let shown = usize::from(scale.max(0).unsigned_abs());
    if scale < 0 {
        digits.resize(digits.len() + usize::from(scale.unsigned_abs()), b'0');
    }
    // Whole groups of four on both sides of the point.
    digits.resize(
        digits.len() + (NUMERIC_DIGIT - shown % NUMERIC_DIGIT) % NUMERIC_DIGIT,
        b'0',
    );
    let lead = (NUMERIC_DIGIT - digits.len() % NUMERIC_DIGIT) % NUMERIC_DIGIT;
    digits.splice(0..0, std::iter::repeat_n(b'0', lead));
    let mut groups: Vec<i16> = digits
        .chunks_exact(NUMERIC_DIGIT)
        .map(|chunk| {
            chunk
                .iter()
                .fold(0, |n, digit| n * 10 + i16::from(digit - b'0'))
        })
        .collect();
    let mut weight = groups.len() as i16 - shown.div_ceil(NUMERIC_DIGIT) as i16 - 1;
    let zeros = groups.iter().take_while(|g| **g == 0).count();
    groups.drain(..zeros);
    weight -= zeros as i16;
    while groups.last() == Some(&0) {
        groups.pop();
    }
    let zero = groups.is_empty();
    out.put_i16(groups.len() as i16);
    out.put_i16(if zero { 0 } else { weight });
    out.put_u16(if negative && !zero {
        NUMERIC_NEGATIVE
    } else {
        0
    });
    out.put_u16(shown as u16);
    for group in groups {
        out.put_i16(group);
    }
}

/// A binary `numeric` as decimal text, e.g. `-12.50`; `None` if it is malformed. NaN is `NaN`.
pub fn numeric_text(mut data: &[u8]) -> Option<String> {
    if data.len() < 8 {
        return None;
    }
    let groups = usize::from(data.get_u16());
    let weight = i32::from(data.get_i16());
    let sign = data.get_u16();
    let scale = usize::from(data.get_u16());
    if sign & NUMERIC_SPECIAL == NUMERIC_SPECIAL {
        return Some(match sign {
            0xd000 => "Infinity".into(),
            0xf000 => "-Infinity".into(),
            _ => "NaN".into(),
        });
    }
    if data.len() != groups * 2 || weight > i32::from(i16::MAX) {
        return None;
    }
    let mut values = Vec::with_capacity(groups);
    for _ in 0..groups {
        let group = data.get_u16();
        if group > 9_999 {
            return None;
        }
        values.push(group);
    }
    let at = |place: i32| {
        usize::try_from(weight - place)
            .ok()
            .and_then(|i| values.get(i).copied())
            .unwrap_or(0)
    };
    let mut text = String::new();
    if sign == NUMERIC_NEGATIVE {
        text.push('-');
    }
    if weight < 0 {
        text.push('0');
    }
    for place in (0..=weight).rev() {
        match place == weight {
            true => text.push_str(&at(place).to_string()),
            false => text.push_str(&format!("{:04}", at(place))),
        }
    }
    if scale > 0 {
        let mut fraction = String::new();
        let mut place = -1;
        while fraction.len() < scale {
            fraction.push_str(&format!("{:04}", at(place)));
            place -= 1;
        }
        text.push('.');
        text.push_str(&fraction[..scale]);
    }
    Some(text)
}

/// An int2vector or oidvector, `1 2 3`: an array that is counted from 0.
pub fn vector(text: &str, of: u32, out: &mut BytesMut) {
    let items: Vec<i64> = text
        .split(' ')
        .filter_map(|item| item.parse().ok())
        .collect();
    out.put_i32(1);
    out.put_i32(0);
    let short = of == oid::INT2VECTOR;
    out.put_u32(if short { oid::INT2 } else { oid::OID });
    out.put_i32(items.len() as i32);
    out.put_i32(0);
    for item in items {
        match short {
            true => {
                out.put_i32(2);
                out.put_i16(item as i16);
            }
            false => {
                out.put_i32(4);
                out.put_u32(item as u32);
            }
        }
    }
}

/// Levels of nesting that an array on the wire can have.
const ARRAY_DEPTH_MAX: usize = 6;

/// An array. A list of lists is sent as one array of several dimensions, as PostgreSQL has them,
/// where the inner lists have equal lengths; else the inner lists are cut or filled with NULL.
pub fn list(items: &Column, range: Range<usize>, out: &mut BytesMut) {
    let mut leaf = items;
    let mut lengths = vec![range.len()];
    let mut first = range.start;
    while let (Some((offsets, inner)), true) = (leaf.as_list(), lengths.len() < ARRAY_DEPTH_MAX) {
        let length = match lengths.last() {
            Some(0) | None => 0,
            Some(_) => (offsets[first + 1] - offsets[first]) as usize,
        };
        first = if length > 0 {
            offsets[first] as usize
        } else {
            0
        };
        lengths.push(length);
        leaf = inner;
    }
    if lengths.contains(&0) {
        lengths.clear();
    }
    out.put_i32(lengths.len() as i32);
    let flags = out.len();
    out.put_i32(0);
    out.put_u32(leaf.oid());
    for length in &lengths {
        out.put_i32(*length as i32);
        out.put_i32(1);
    }
    if !lengths.is_empty() && dimension(items, Some(range), &lengths, out) {
        out[flags..flags + 4].copy_from_slice(&1i32.to_be_bytes());
    }
}

/// Writes one dimension's elements; true if there was a NULL among them.
fn dimension(
    items: &Column,
    range: Option<Range<usize>>,
    lengths: &[usize],
    out: &mut BytesMut,
) -> bool {
    let mut nulls = false;
    let (length, deeper) = match lengths {
        [length, deeper @ ..] => (*length, deeper),
        [] => return false,
    };
    for number in 0..length {
        let row = range
            .as_ref()
            .map(|r| r.start + number)
            .filter(|row| range.as_ref().is_some_and(|r| r.contains(row)) && !items.is_null(*row));
        match (row, items.as_list()) {
            (row, Some((offsets, inner))) if !deeper.is_empty() => {
                let range = row.map(|row| offsets[row] as usize..offsets[row + 1] as usize);
                nulls |= dimension(inner, range, deeper, out);
            }
            (Some(row), _) => items.value(row, true, out),
            (None, _) => {
                out.put_i32(-1);
                nulls = true;
            }
        }
    }
    nulls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numeric_there_and_back() {
        for (negative, digits, scale, text) in [
            (false, "0", 0, "0"),
            (false, "0", 2, "0.00"),
            (true, "1", 0, "-1"),
            (false, "12345678", 3, "12345.678"),
            (true, "5", 5, "-0.00005"),
            (false, "10000", 0, "10000"),
            (false, "100000000", 4, "10000.0000"),
            (false, "12", -3, "12000"),
            (
                false,
                "99999999999999999999999999999999999999",
                10,
                "9999999999999999999999999999.9999999999",
            ),
        ] {
            let mut out = BytesMut::new();
            numeric(negative, digits, scale, &mut out);
            assert_eq!(numeric_text(&out).as_deref(), Some(text));
        }
    }

    #[test]
    fn malformed_numerics_are_refused() {
        assert_eq!(numeric_text(&[0, 1]), None);
        assert_eq!(numeric_text(&[0, 9, 0, 0, 0, 0, 0, 0, 0, 1]), None);
        assert_eq!(numeric_text(&[0, 1, 0, 0, 0, 0, 0, 0, 0xff, 0xff]), None);
    }
}
