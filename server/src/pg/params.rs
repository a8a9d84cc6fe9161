//! Parameters of Bind, text or binary, as Arrow arrays of one element.
//!
//! Invariant: whatever bytes a client sends, the result is a value of the parameter's type or an
//! error with PostgreSQL's SQLSTATE: 22P02 for text, 22P03 for binary, 22003 out of range.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array,
    Float64Array, Int16Array, Int32Array, Int64Array, IntervalMonthDayNanoArray, ListArray,
    StringViewArray, Time64MicrosecondArray, TimestampMicrosecondArray, new_empty_array,
    new_null_array,
};
use arrow::buffer::OffsetBuffer;
use arrow::compute::{CastOptions, cast_with_options, concat};
use arrow::datatypes::{DataType, Field, FieldRef, IntervalMonthDayNano};
use arrow::util::display::FormatOptions;
use bytes::Buf;
use tidemill_planner::SqlError;
use tidemill_zset::schema::{SqlType, TYPE_KEY, UTC};

use super::binary;
use super::types::wire_type;

/// Elements that an array parameter may have.
const ARRAY_ELEMENTS_MAX: usize = 1 << 24;

/// A value of the field's type from its text form.
pub fn from_text(field: &Field, data: &[u8]) -> Result<ArrayRef, SqlError> {
    let text = std::str::from_utf8(data)
        .map_err(|_| SqlError::new("22021", "invalid byte sequence for encoding \"UTF8\""))?;
    if text.contains('\0') {
        return Err(SqlError::new(
            "22021",
            "invalid byte sequence for encoding \"UTF8\": 0x00",
        ));
    }
    parse(field, text)
}

fn invalid(sql: &SqlType, text: &str) -> SqlError {
    let code = match sql {
        SqlType::Date
        | SqlType::Time
        | SqlType::Timestamp
        | SqlType::Timestamptz
        | SqlType::Interval => "22007",
        _ => "22P02",
    };
    SqlError::new(
        code,
        format!("invalid input syntax for type {sql}: \"{text}\""),
    )
}

fn out_of_range(sql: &SqlType, text: &str) -> SqlError {
    SqlError::new(
        "22003",
        format!("value \"{text}\" is out of range for type {sql}"),
    )
}

fn parse(field: &Field, text: &str) -> Result<ArrayRef, SqlError> {
    let sql = SqlType::of(field);
    let trimmed = text.trim();
    let bad = || invalid(&sql, text);
    Ok(match &sql {
        SqlType::Bool => Arc::new(BooleanArray::from(vec![boolean(trimmed).ok_or_else(bad)?])),
        SqlType::Int2 | SqlType::Int4 | SqlType::Int8 => {
            let wide = whole(trimmed).ok_or_else(bad)?;
            integer(&sql, field, wide).ok_or_else(|| out_of_range(&sql, text))?
        }
        SqlType::Float4 => Arc::new(Float32Array::from(vec![
            float(trimmed).ok_or_else(bad)? as f32
        ])),
        SqlType::Float8 => Arc::new(Float64Array::from(vec![float(trimmed).ok_or_else(bad)?])),
        SqlType::Numeric(precision, scale) => decimal(*precision, *scale, trimmed, &sql)?,
        SqlType::Text | SqlType::Varchar(_) | SqlType::Json | SqlType::Jsonb => string(text),
        SqlType::Uuid => {
            let uuid = uuid::Uuid::parse_str(trimmed).map_err(|_| bad())?;
            string(&uuid.to_string())
        }
        SqlType::Bytea => {
            let bytes = bytea(text).ok_or_else(bad)?;
            Arc::new(BinaryArray::from(vec![bytes.as_slice()]))
        }
        SqlType::Date => convert(trimmed, &DataType::Date32).ok_or_else(bad)?,
        SqlType::Time => convert(trimmed, &sql.arrow()).ok_or_else(bad)?,
        SqlType::Timestamp => convert(without_zone(trimmed), &sql.arrow()).ok_or_else(bad)?,
        SqlType::Timestamptz => convert(trimmed, &sql.arrow()).ok_or_else(bad)?,
        SqlType::Interval => convert(trimmed, &sql.arrow()).ok_or_else(bad)?,
        SqlType::Array(_) => array(item_of(field).ok_or_else(bad)?, text)?,
        SqlType::Other(_) => string(text),
    })
}

fn item_of(field: &Field) -> Option<&FieldRef> {
    match field.data_type() {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            Some(item)
        }
        _ => None,
    }
}

fn string(text: &str) -> ArrayRef {
    Arc::new(StringViewArray::from(vec![text]))
}

fn boolean(text: &str) -> Option<bool> {
    let text = text.to_ascii_lowercase();
    let starts = |word: &str, least: usize| text.len() >= least && word.starts_with(&text);
    if starts("true", 1) || starts("yes", 1) || starts("on", 2) || text == "1" {
        Some(true)
    } else if starts("false", 1) || starts("no", 1) || starts("off", 2) || text == "0" {
        Some(false)
    } else {
        None
    }
}

fn whole(text: &str) -> Option<i128> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let valid = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    // Beyond i128 it's out of any range.
    valid.then(|| {
        text.strip_prefix('+')
            .unwrap_or(text)
            .parse()
            .unwrap_or(i128::MAX)
    })
}

fn integer(sql: &SqlType, field: &Field, wide: i128) -> Option<ArrayRef> {
    let is_oid = field.metadata().get(TYPE_KEY).is_some_and(|t| t == "oid");
    if is_oid && u32::try_from(wide).is_err() {
        return None;
    }
    Some(match sql {
        SqlType::Int2 => Arc::new(Int16Array::from(vec![i16::try_from(wide).ok()?])),
        SqlType::Int4 => Arc::new(Int32Array::from(vec![i32::try_from(wide).ok()?])),
        _ => Arc::new(Int64Array::from(vec![i64::try_from(wide).ok()?])),
    })
}

fn float(text: &str) -> Option<f64> {
    let named = text.trim_start_matches(['-', '+']).to_ascii_lowercase();
    let starts = named.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    let known = matches!(named.as_str(), "nan" | "inf" | "infinity");
    (starts || known).then(|| text.parse().ok()).flatten()
}

/// Rounds half away from zero, as PostgreSQL does.
fn decimal(precision: u8, scale: i8, text: &str, sql: &SqlType) -> Result<ArrayRef, SqlError> {
    let unscaled = unscaled(text, scale).ok_or_else(|| invalid(sql, text))?;
    let limit = 10i128
        .checked_pow(u32::from(precision))
        .unwrap_or(i128::MAX);
    let value = unscaled
        .filter(|value| value.unsigned_abs() < limit.unsigned_abs())
        .ok_or_else(|| SqlError::new("22003", "numeric field overflow"))?;
    let array = Decimal128Array::from(vec![value])
        .with_precision_and_scale(precision, scale)
        .map_err(|error| SqlError::new("22003", error.to_string()))?;
    Ok(Arc::new(array))
}

/// The value times ten to the scale; inner `None`: too large.
fn unscaled(text: &str, scale: i8) -> Option<Option<i128>> {
    let negative = text.starts_with('-');
    let text = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digits = digits.trim_start_matches('0');
    // The point's place in `digits`, after scaling.
    let point = i64::from(exponent) - fraction.len() as i64 + i64::from(scale);
    let kept = digits.len() as i64 + point;
    if digits.is_empty() || kept < 0 {
        return Some(Some(0));
    }
    if kept > 38 {
        return Some(None);
    }
    let (taken, rest) = digits.split_at(digits.len().min(kept as usize));
    let mut value: i128 = if taken.is_empty() {
        0
    } else {
        taken.parse().ok()?
    };
    for _ in 0..(kept as usize - taken.len()) {
        value *= 10;
    }
    if rest.as_bytes().first().is_some_and(|b| *b >= b'5') {
        value += 1;
    }
    Some(Some(if negative { -value } else { value }))
}

/// `\x0aff` or the escape format.
fn bytea(text: &str) -> Option<Vec<u8>> {
    if let Some(hex) = text.strip_prefix("\\x") {
        let hex: Vec<u8> = hex.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
        if hex.len() % 2 == 1 {
            return None;
        }
        return hex
            .chunks_exact(2)
            .map(|pair| {
                let digit = |b: u8| (b as char).to_digit(16);
                Some((digit(pair[0])? * 16 + digit(pair[1])?) as u8)
            })
            .collect();
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.as_bytes();
    while let Some((first, rest)) = bytes.split_first() {
        bytes = rest;
        match (first, rest) {
            (b'\\', [b'\\', rest @ ..]) => {
                out.push(b'\\');
                bytes = rest;
            }
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', rest @ ..]) => {
                out.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
                bytes = rest;
            }
            (b'\\', _) => return None,
            (byte, _) => out.push(*byte),
        }
    }
    Some(out)
}

/// `timestamp` ignores a zone in its input.
fn without_zone(text: &str) -> &str {
    let time = text.find(':').unwrap_or(text.len());
    let end = text[time..]
        .find(['+', '-', 'Z'])
        .map_or(text.len(), |at| time + at);
    text[..end].trim_end()
}

/// Through Arrow's own readers of ISO dates, times and PostgreSQL intervals.
fn convert(text: &str, to: &DataType) -> Option<ArrayRef> {
    let options = CastOptions {
        safe: false,
        format_options: FormatOptions::default(),
    };
    let from: ArrayRef = Arc::new(arrow::array::StringArray::from(vec![text]));
    cast_with_options(&from, to, &options)
        .ok()
        .filter(|array| array.is_valid(0))
}

fn list(item: &FieldRef, elements: &[ArrayRef]) -> Result<ArrayRef, SqlError> {
    let refs: Vec<&dyn Array> = elements.iter().map(AsRef::as_ref).collect();
    let values = match refs.is_empty() {
        true => new_empty_array(item.data_type()),
        false => concat(&refs).map_err(|error| SqlError::new("22P02", error.to_string()))?,
    };
    let offsets = OffsetBuffer::from_lengths([values.len()]);
    ListArray::try_new(Arc::clone(item), offsets, values, None)
        .map(|array| Arc::new(array) as ArrayRef)
        .map_err(|error| SqlError::new("22P02", error.to_string()))
}

/// `{1,NULL,"a b"}`.
fn array(item: &FieldRef, text: &str) -> Result<ArrayRef, SqlError> {
    let malformed = |detail: &str| {
        SqlError::new("22P02", format!("malformed array literal: \"{text}\"")).detail(detail)
    };
    let body = text
        .trim()
        .strip_prefix('{')
        .and_then(|rest| rest.strip_suffix('}'))
        .ok_or_else(|| malformed("Array value must start with \"{\" and end with \"}\"."))?;
    let mut elements = Vec::new();
    for element in split_elements(body).ok_or_else(|| malformed("Unexpected array element."))? {
        elements.push(match element {
            Some(text) => parse(item, &text)?,
            None => new_null_array(item.data_type(), 1),
        });
    }
    list(item, &elements)
}

/// The elements between the outer braces: unquoted; `None` is NULL.
fn split_elements(body: &str) -> Option<Vec<Option<String>>> {
    let mut elements = Vec::new();
    let mut current = String::new();
    let (mut quoted, mut was_quoted, mut depth) = (false, false, 0usize);
    let mut chars = body.chars();
    if body.trim().is_empty() {
        return Some(elements);
    }
    loop {
        let next = chars.next();
        match next {
            Some('\\') if depth == 0 => current.push(chars.next()?),
            Some('"') => {
                quoted = !quoted;
                was_quoted = true;
                if depth > 0 {
                    current.push('"');
                }
            }
            Some(c) if quoted => current.push(c),
            None | Some(',') if depth == 0 => {
                let bare = current.trim();
                elements.push(match was_quoted {
                    true => Some(current.clone()),
                    false if bare.eq_ignore_ascii_case("null") => None,
                    false if bare.is_empty() => return None,
                    false => Some(bare.to_string()),
                });
                current.clear();
                was_quoted = false;
                if next.is_none() {
                    return (!quoted).then_some(elements);
                }
            }
            None => return None,
            Some(c) => {
                match c {
                    '{' => depth += 1,
                    '}' => depth = depth.checked_sub(1)?,
                    _ => {}
                }
                // Space outside quotes around a quoted element means nothing.
                if !(was_quoted && depth == 0 && c.is_whitespace()) {
                    current.push(c);
                }
            }
        }
    }
}

/// A value of the field's type from its binary form.
pub fn from_binary(field: &Field, mut data: &[u8]) -> Result<ArrayRef, SqlError> {
    let sql = SqlType::of(field);
    let wrong = || {
        SqlError::new(
            "22P03",
            format!("incorrect binary data format for a parameter of type {sql}"),
        )
    };
    let width = match &sql {
        SqlType::Bool => Some(1),
        SqlType::Int2 => Some(2),
        SqlType::Int4 | SqlType::Float4 | SqlType::Date => Some(4),
        SqlType::Int8 if wire_type(field).size == 4 => Some(4),
        SqlType::Int8
        | SqlType::Float8
        | SqlType::Time
        | SqlType::Timestamp
        | SqlType::Timestamptz => Some(8),
        SqlType::Interval | SqlType::Uuid => Some(16),
        _ => None,
    };
    if width.is_some_and(|width| width != data.len()) {
        return Err(wrong());
    }
    Ok(match &sql {
        SqlType::Bool => Arc::new(BooleanArray::from(vec![data.get_u8() != 0])),
        SqlType::Int2 => Arc::new(Int16Array::from(vec![data.get_i16()])),
        SqlType::Int4 => Arc::new(Int32Array::from(vec![data.get_i32()])),
        SqlType::Int8 if data.len() == 4 => {
            Arc::new(Int64Array::from(vec![i64::from(data.get_u32())]))
        }
        SqlType::Int8 => Arc::new(Int64Array::from(vec![data.get_i64()])),
        SqlType::Float4 => Arc::new(Float32Array::from(vec![data.get_f32()])),
        SqlType::Float8 => Arc::new(Float64Array::from(vec![data.get_f64()])),
        SqlType::Numeric(precision, scale) => {
            let text = binary::numeric_text(data).ok_or_else(wrong)?;
            decimal(*precision, *scale, &text, &sql)?
        }
        SqlType::Bytea => Arc::new(BinaryArray::from(vec![data])),
        SqlType::Date => {
            let days = data.get_i32().checked_add(binary::EPOCH_DAYS);
            Arc::new(Date32Array::from(vec![days.ok_or_else(wrong)?]))
        }
        SqlType::Time => Arc::new(Time64MicrosecondArray::from(vec![data.get_i64()])),
        SqlType::Timestamp | SqlType::Timestamptz => {
            let micros = data.get_i64().checked_add(binary::EPOCH_US);
            let array = TimestampMicrosecondArray::from(vec![micros.ok_or_else(wrong)?]);
            match sql {
                SqlType::Timestamptz => Arc::new(array.with_timezone(UTC)),
                _ => Arc::new(array),
            }
        }
        SqlType::Interval => {
            let nanoseconds = data.get_i64().checked_mul(1_000).ok_or_else(wrong)?;
            let (days, months) = (data.get_i32(), data.get_i32());
            let value = IntervalMonthDayNano {
                months,
                days,
                nanoseconds,
            };
            Arc::new(IntervalMonthDayNanoArray::from(vec![value]))
        }
        SqlType::Uuid => {
            let uuid = uuid::Uuid::from_slice(data).map_err(|_| wrong())?;
            string(&uuid.to_string())
        }
        SqlType::Jsonb => match data.split_first() {
            Some((&binary::JSONB_VERSION, text)) => from_text(field, text)?,
            _ => return Err(wrong()),
        },
        SqlType::Array(_) => binary_array(item_of(field).ok_or_else(wrong)?, data, wrong)?,
        SqlType::Text | SqlType::Varchar(_) | SqlType::Json | SqlType::Other(_) => {
            from_text(field, data)?
        }
    })
}

fn binary_array(
    item: &FieldRef,
    mut data: &[u8],
    wrong: impl Fn() -> SqlError,
) -> Result<ArrayRef, SqlError> {
    if data.len() < 12 {
        return Err(wrong());
    }
    let dimensions = data.get_i32();
    data.advance(8);
    if dimensions == 0 {
        return list(item, &[]);
    }
    if dimensions != 1 {
        return Err(SqlError::unsupported(
            "array parameters of several dimensions are not supported",
        ));
    }
    if data.len() < 8 {
        return Err(wrong());
    }
    let count = usize::try_from(data.get_i32()).map_err(|_| wrong())?;
    data.advance(4);
    if count > ARRAY_ELEMENTS_MAX || count > data.len() / 4 {
        return Err(wrong());
    }
    let mut elements = Vec::with_capacity(count);
    for _ in 0..count {
        if data.len() < 4 {
            return Err(wrong());
        }
        elements.push(match usize::try_from(data.get_i32()) {
            Err(_) => new_null_array(item.data_type(), 1),
            Ok(length) if length > data.len() => return Err(wrong()),
            Ok(length) => {
                let (element, rest) = data.split_at(length);
                data = rest;
                from_binary(item, element)?
            }
        });
    }
    list(item, &elements)
}
