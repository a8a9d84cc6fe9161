//! Parameters of Bind, text or binary, as Arrow arrays of one element.
//!
//! Invariant: whatever bytes a client sends, the result is a value of the parameter's type or an
//! error with PostgreSQL's SQLSTATE: 22P02 for text, 22P03 for binary, 22003 out of range. Text is read
//! by the planner's functions, so that a parameter means what the same literal means.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array,
    Float64Array, Int16Array, Int32Array, Int64Array, IntervalMonthDayNanoArray, ListArray,
    StringViewArray, Time64MicrosecondArray, TimestampMicrosecondArray, new_empty_array,
    new_null_array,
};
use arrow::buffer::OffsetBuffer;
use arrow::compute::concat;
use arrow::datatypes::{DataType, Field, IntervalMonthDayNano};
use bytes::Buf;
use chrono_tz::Tz;
use tidemill_planner::SqlError;
use tidemill_planner::functions::{json_text, parse, parse_dates};
use tidemill_zset::schema::{self, SqlType, UTC};

use super::binary;
use super::types::{oid, wire_type};

/// Elements that an array parameter may have.
const ARRAY_ELEMENTS_MAX: usize = 1 << 24;

/// A value of the field's type from its text form. `zone`: of a `timestamptz` without one; `None`: UTC.
pub fn from_text(field: &Field, data: &[u8], zone: Option<Tz>) -> Result<ArrayRef, SqlError> {
    let text = std::str::from_utf8(data)
        .map_err(|_| SqlError::new("22021", "invalid byte sequence for encoding \"UTF8\""))?;
    if text.contains('\0') {
        return Err(SqlError::new(
            "22021",
            "invalid byte sequence for encoding \"UTF8\": 0x00",
        ));
    }
    read(field, text, zone)
}

/// Reads a value as the dialect reads a literal of its type.
fn read(field: &Field, text: &str, zone: Option<Tz>) -> Result<ArrayRef, SqlError> {
    let sql = SqlType::of(field);
    let name = sql.to_string();
    let integer = |min: i64, max: i64| parse::integer(text, &name, min, max);
    Ok(match &sql {
        SqlType::Bool => Arc::new(BooleanArray::from(vec![parse::boolean(text)?])),
        SqlType::Int2 => {
            let value = integer(i64::from(i16::MIN), i64::from(i16::MAX))?;
            Arc::new(Int16Array::from(vec![value as i16]))
        }
        SqlType::Int4 => {
            let value = integer(i64::from(i32::MIN), i64::from(i32::MAX))?;
            Arc::new(Int32Array::from(vec![value as i32]))
        }
        SqlType::Int8 if wire_type(field).oid == oid::OID => {
            let value = parse::integer(text, "oid", 0, i64::from(u32::MAX))?;
            Arc::new(Int64Array::from(vec![value]))
        }
        SqlType::Int8 => Arc::new(Int64Array::from(vec![integer(i64::MIN, i64::MAX)?])),
        SqlType::Float4 => {
            let value = parse::float(text, &name)? as f32;
            Arc::new(Float32Array::from(vec![value]))
        }
        SqlType::Float8 => Arc::new(Float64Array::from(vec![parse::float(text, &name)?])),
        SqlType::Numeric(precision, scale) => decimal(text, SqlType::digits(*precision), *scale)?,
        SqlType::Text | SqlType::Varchar(_) => string(text),
        SqlType::Json => {
            json_text::check(text)?;
            string(text)
        }
        SqlType::Jsonb => string(&json_text::canonical(text)?),
        SqlType::Char(_) => string(text.trim_end_matches(' ')),
        SqlType::Uuid => string(&parse::uuid(text)?),
        SqlType::Bytea => Arc::new(BinaryArray::from(vec![parse::bytea(text)?.as_slice()])),
        SqlType::Date => Arc::new(Date32Array::from(vec![parse_dates::date(text)?])),
        SqlType::Time => Arc::new(Time64MicrosecondArray::from(vec![parse_dates::time(text)?])),
        SqlType::Timestamp => Arc::new(TimestampMicrosecondArray::from(vec![
            parse_dates::timestamp(text)?,
        ])),
        SqlType::Timestamptz => {
            let zone = zone.map_or("UTC", |zone| zone.name());
            let micros = parse_dates::timestamptz(text, zone)?;
            Arc::new(TimestampMicrosecondArray::from(vec![micros]).with_timezone(UTC))
        }
        SqlType::Interval => Arc::new(IntervalMonthDayNanoArray::from(vec![
            parse_dates::interval(text)?,
        ])),
        SqlType::Array(_) => {
            let item = schema::item(field).ok_or_else(|| parse::invalid(&name, text))?;
            let elements = parse::array(text)?
                .into_iter()
                .map(|element| match element {
                    Some(text) => read(&item, &text, zone),
                    None => Ok(new_null_array(item.data_type(), 1)),
                });
            list(field, &elements.collect::<Result<Vec<_>, _>>()?)?
        }
        SqlType::Other(_) => string(text),
    })
}

fn decimal(text: &str, precision: u8, scale: i8) -> Result<ArrayRef, SqlError> {
    let value = parse::numeric(text, precision, scale)?;
    let array = Decimal128Array::from(vec![value])
        .with_precision_and_scale(precision, scale)
        .map_err(|error| SqlError::new("22003", error.to_string()))?;
    Ok(Arc::new(array))
}

fn string(text: &str) -> ArrayRef {
    Arc::new(StringViewArray::from(vec![text]))
}

fn list(field: &Field, elements: &[ArrayRef]) -> Result<ArrayRef, SqlError> {
    let (DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _)) =
        field.data_type()
    else {
        return Err(SqlError::internal("an array type must be a list"));
    };
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

/// A parameter that the client declared as `oid`, which is a bigint here, from its binary form.
pub fn from_oid(data: [u8; 4]) -> ArrayRef {
    Arc::new(Int64Array::from(vec![i64::from(u32::from_be_bytes(data))]))
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
        SqlType::Float4 => Arc::new(Float32Array::from(vec![data.get_f32() + 0.0])),
        SqlType::Float8 => Arc::new(Float64Array::from(vec![data.get_f64() + 0.0])),
        SqlType::Numeric(precision, scale) => {
            let text = binary::numeric_text(data).ok_or_else(wrong)?;
            decimal(&text, SqlType::digits(*precision), *scale)?
        }
        SqlType::Bytea => Arc::new(BinaryArray::from(vec![data])),
        SqlType::Date => {
            let days = data.get_i32().checked_add(binary::EPOCH_DAYS);
            let days = parse_dates::day_of(days.ok_or_else(wrong)?)?;
            Arc::new(Date32Array::from(vec![days]))
        }
        SqlType::Time => {
            let micros = parse_dates::time_of(data.get_i64())?;
            Arc::new(Time64MicrosecondArray::from(vec![micros]))
        }
        SqlType::Timestamp | SqlType::Timestamptz => {
            let micros = data.get_i64().checked_add(binary::EPOCH_US);
            let micros = parse_dates::timestamp_of(micros.ok_or_else(wrong)?)?;
            let array = TimestampMicrosecondArray::from(vec![micros]);
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
            Some((&binary::JSONB_VERSION, text)) => from_text(field, text, None)?,
            _ => return Err(wrong()),
        },
        SqlType::Array(_) => binary_array(field, data, wrong)?,
        SqlType::Char(_) => from_text(field, data, None)?,
        SqlType::Text | SqlType::Varchar(_) | SqlType::Json | SqlType::Other(_) => {
            from_text(field, data, None)?
        }
    })
}

fn binary_array(
    field: &Field,
    mut data: &[u8],
    wrong: impl Fn() -> SqlError,
) -> Result<ArrayRef, SqlError> {
    let item = schema::item(field).ok_or_else(&wrong)?;
    if data.len() < 12 {
        return Err(wrong());
    }
    let dimensions = data.get_i32();
    data.advance(8);
    if dimensions == 0 {
        return list(field, &[]);
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
        let length = data.get_i32();
        elements.push(match usize::try_from(length) {
            Err(_) if length == -1 => new_null_array(item.data_type(), 1),
            Err(_) => return Err(wrong()),
            Ok(length) if length > data.len() => return Err(wrong()),
            Ok(length) => {
                let (element, rest) = data.split_at(length);
                data = rest;
                from_binary(&item, element)?
            }
        });
    }
    list(field, &elements)
}
