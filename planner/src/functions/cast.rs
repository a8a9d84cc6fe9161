//! Casts between all types, with PostgreSQL's rounding and errors.

use std::sync::Arc;

use arrow::array::cast::AsArray;
use arrow::array::types::*;
use arrow::array::*;
use arrow::datatypes::{DataType, i256};
use datafusion_common::{Result as DfResult, ScalarValue};
use datafusion_expr::{Expr, Volatility};
use tidemill_zset::digits::short_integer_inline;
use tidemill_zset::schema::{SqlType, UTC};

use super::{
    Args, Kernel, by_zone, call, external, format, json, json_text, parse, parse_dates, revised,
};
use crate::bind::types::{as_numeric, is_integer, is_text, number_rank, plain_name};
use crate::error::{Result, SqlError};

/// Why a value is cast: decides what happens to text that is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Context {
    /// `x::t`: too long text is cut.
    Explicit,
    /// INSERT, UPDATE: too long text is an error.
    Assignment,
}

/// True if the cast can't fail and arrow's own does the same.
fn is_lossless(from: &SqlType, to: &SqlType) -> bool {
    let (f, t) = (number_rank(from), number_rank(to));
    match (from, to) {
        (SqlType::Numeric(p, s), SqlType::Numeric(tp, ts)) => {
            let (p, tp) = (SqlType::digits(*p), SqlType::digits(*tp));
            ts >= s && tp as i16 - *ts as i16 >= p as i16 - *s as i16
        }
        (_, SqlType::Numeric(tp, ts)) if is_integer(from) => {
            let (p, _) = as_numeric(from);
            SqlType::digits(*tp) as i16 - *ts as i16 >= p as i16
        }
        (SqlType::Date, SqlType::Timestamp) => false,
        _ => is_integer(from) && t > f && t != 4 && t != 5 || (f == 5 && t == 6),
    }
}

/// `expr` of type `from` as `to`. The caller has checked that the cast exists.
pub fn cast(expr: Expr, from: &SqlType, to: &SqlType, context: Context, zone: &str) -> Expr {
    if from == to {
        return expr;
    }
    let same_text = match (from, to) {
        (
            SqlType::Varchar(_) | SqlType::Char(_) | SqlType::Text,
            SqlType::Text | SqlType::Varchar(None),
        ) => true,
        (SqlType::Char(n), SqlType::Char(m) | SqlType::Varchar(Some(m))) => n <= m,
        (SqlType::Varchar(Some(n)), SqlType::Varchar(Some(m))) => n <= m,
        (SqlType::Uuid | SqlType::Json, SqlType::Text | SqlType::Varchar(None)) => true,
        (SqlType::Jsonb, SqlType::Json) => false,
        _ => false,
    };
    let same_numeric = matches!((from, to), (SqlType::Numeric(..), SqlType::Numeric(..)))
        && from.arrow() == to.arrow();
    if same_text || same_numeric {
        return expr;
    }
    if is_lossless(from, to) {
        return Expr::Cast(datafusion_expr::Cast::new(Box::new(expr), to.arrow()));
    }
    let name = plain_name(to).replace(' ', "_");
    let name = match by_zone("", [from, to], zone) {
        true => revised(&name),
        false => name,
    };
    let key = format!("cast {from} to {to} {context:?} {zone}");
    let (from, to2, zone) = (from.clone(), to.clone(), zone.to_string());
    let kernel: Kernel = Arc::new(move |a: &Args| {
        let array = &a.arrays[0];
        let out = cast_array(array, &from, &to2, context, &zone)?;
        if out.len() == a.rows {
            return Ok(out);
        }
        let zeros = UInt32Array::from(vec![0u32; a.rows]);
        Ok(arrow::compute::take(&out, &zeros, None)?)
    });
    call(
        &name,
        key,
        kernel,
        Volatility::Immutable,
        true,
        vec![expr],
        to,
    )
}

/// A text constant as a value of `to`.
pub fn constant(text: &str, to: &SqlType, context: Context, zone: &str) -> Result<ScalarValue> {
    let array: ArrayRef = Arc::new(StringViewArray::from_iter_values([text]));
    let out = cast_array(&array, &SqlType::Text, to, context, zone)
        .map_err(|e| crate::error::from_datafusion(&e))?;
    ScalarValue::try_from_array(&out, 0).map_err(|e| crate::error::from_datafusion(&e))
}

/// Casts a column.
pub fn cast_array(
    array: &ArrayRef,
    from: &SqlType,
    to: &SqlType,
    context: Context,
    zone: &str,
) -> DfResult<ArrayRef> {
    match (from, to) {
        (SqlType::Array(f), SqlType::Array(t)) => cast_list(array, f, t, to, context, zone),
        (SqlType::Other(DataType::Struct(_)), SqlType::Other(DataType::Struct(fields))) => {
            let rows = array.as_struct();
            let columns = rows.fields().iter().zip(rows.columns()).zip(fields);
            let columns = columns.map(|((from, column), to)| {
                let (from, to) = (SqlType::of(from), SqlType::of(to));
                match from == to {
                    true => Ok(column.clone()),
                    false => cast_array(column, &from, &to, context, zone),
                }
            });
            let columns = columns.collect::<DfResult<Vec<_>>>()?;
            let nulls = rows.nulls().cloned();
            let (fields, rows) = (fields.clone(), rows.len());
            let rows = StructArray::try_new_with_length(fields, columns, nulls, rows)?;
            Ok(Arc::new(rows))
        }
        (_, SqlType::Varchar(Some(n))) => {
            let text = to_text(array, from, zone)?;
            limit(&text, *n as usize, to, context)
        }
        (_, SqlType::Char(n)) => {
            let text = to_text(array, from, zone)?;
            let unpadded: StringViewArray = text
                .as_string_view()
                .iter()
                .map(|v| v.map(|v| v.trim_end_matches(' ')))
                .collect();
            let text = limit(&(Arc::new(unpadded) as ArrayRef), *n as usize, to, context)?;
            // What was cut off may leave spaces at the end again.
            let unpadded = text.as_string_view().iter();
            Ok(Arc::new(
                unpadded
                    .map(|v| v.map(|v| v.trim_end_matches(' ')))
                    .collect::<StringViewArray>(),
            ))
        }
        (_, SqlType::Json | SqlType::Jsonb)
            if is_text(from) || matches!(from, SqlType::Json | SqlType::Jsonb) =>
        {
            if matches!((from, to), (SqlType::Jsonb, SqlType::Json)) {
                return to_text(array, from, zone);
            }
            json_text::validate(array, matches!(to, SqlType::Jsonb))
        }
        _ if is_text(to) => to_text(array, from, zone),
        _ if is_text(from) => from_text(array, to, context, zone),
        (SqlType::Jsonb, _) => json::to_sql(array, to),
        _ if number_rank(from) > 0 && number_rank(to) > 0 => number(array, from, to),
        (SqlType::Bool, SqlType::Int4) | (SqlType::Date, SqlType::Timestamp) => {
            Ok(arrow::compute::cast(array, &to.arrow())?)
        }
        (SqlType::Int4 | SqlType::Int8, SqlType::Bool) => {
            Ok(arrow::compute::cast(array, &to.arrow())?)
        }
        _ => temporal(array, from, to, zone),
    }
}

fn each<A, T, O>(
    array: &A,
    value: impl Fn(usize) -> T,
    f: impl Fn(T) -> Result<O::Native>,
) -> DfResult<PrimitiveArray<O>>
where
    A: Array,
    O: ArrowPrimitiveType,
{
    let mut b = PrimitiveBuilder::<O>::with_capacity(array.len());
    for i in 0..array.len() {
        if array.is_null(i) {
            b.append_null();
        } else {
            b.append_value(f(value(i)).map_err(external)?);
        }
    }
    Ok(b.finish())
}

fn to_text(array: &ArrayRef, from: &SqlType, zone: &str) -> DfResult<ArrayRef> {
    if matches!(
        from,
        SqlType::Text | SqlType::Varchar(_) | SqlType::Char(_) | SqlType::Uuid | SqlType::Json
    ) {
        return Ok(array.clone());
    }
    let mut b = StringViewBuilder::with_capacity(array.len());
    for i in 0..array.len() {
        b.append_option(format::value(array, i, from, zone).map_err(external)?);
    }
    Ok(Arc::new(b.finish()))
}

fn limit(text: &ArrayRef, n: usize, to: &SqlType, context: Context) -> DfResult<ArrayRef> {
    let a = text.as_string_view();
    let mut b = StringViewBuilder::with_capacity(a.len());
    for v in a.iter() {
        let Some(v) = v else {
            b.append_null();
            continue;
        };
        match v.char_indices().nth(n) {
            None => b.append_value(v),
            Some((end, _)) => {
                if context == Context::Assignment && v[end..].chars().any(|c| c != ' ') {
                    return Err(external(SqlError::new(
                        "22001",
                        format!("value too long for type {to}"),
                    )));
                }
                b.append_value(&v[..end]);
            }
        }
    }
    Ok(Arc::new(b.finish()))
}

/// Texts as integers between `min` and `max`, those that a view holds itself without looking elsewhere.
fn integers<O>(
    texts: &StringViewArray,
    type_name: &str,
    min: O::Native,
    max: O::Native,
) -> DfResult<PrimitiveArray<O>>
where
    O: ArrowPrimitiveType,
    O::Native: Into<i64> + TryFrom<i64>,
{
    let nulls = texts.nulls();
    let mut values = Vec::with_capacity(texts.len());
    for (i, view) in texts.views().iter().enumerate() {
        let short = short_integer_inline(*view).and_then(|v| O::Native::try_from(v).ok());
        values.push(match short {
            Some(value) => value,
            None if nulls.is_some_and(|n| n.is_null(i)) => O::default_value(),
            None => {
                let value = parse::integer(texts.value(i), type_name, min.into(), max.into());
                let value = O::Native::try_from(value.map_err(external)?);
                value.unwrap_or_else(|_| unreachable!("it is between min and max"))
            }
        });
    }
    Ok(PrimitiveArray::new(values.into(), nulls.cloned()))
}

fn from_text(array: &ArrayRef, to: &SqlType, context: Context, zone: &str) -> DfResult<ArrayRef> {
    let a = array.as_string_view();
    let get = |i: usize| a.value(i);
    Ok(match to {
        SqlType::Bool => {
            let mut b = BooleanBuilder::with_capacity(a.len());
            for v in a.iter() {
                b.append_option(v.map(parse::boolean).transpose().map_err(external)?);
            }
            Arc::new(b.finish())
        }
        SqlType::Int2 => Arc::new(integers::<Int16Type>(a, "smallint", i16::MIN, i16::MAX)?),
        SqlType::Int4 => Arc::new(integers::<Int32Type>(a, "integer", i32::MIN, i32::MAX)?),
        SqlType::Int8 => Arc::new(integers::<Int64Type>(a, "bigint", i64::MIN, i64::MAX)?),
        SqlType::Float4 => Arc::new(each::<_, _, Float32Type>(a, get, |t| {
            let v = parse::float(t, "real")?;
            let narrow = v as f32;
            if v.is_finite() && (narrow.is_infinite() || (narrow == 0.0 && v != 0.0)) {
                return Err(SqlError::new(
                    "22003",
                    format!("\"{t}\" is out of range for type real"),
                ));
            }
            Ok(narrow)
        })?),
        SqlType::Float8 => Arc::new(each::<_, _, Float64Type>(a, get, |t| {
            parse::float(t, "double precision")
        })?),
        SqlType::Numeric(p, s) => Arc::new(
            each::<_, _, Decimal128Type>(a, get, |t| parse::numeric(t, SqlType::digits(*p), *s))?
                .with_precision_and_scale(SqlType::digits(*p), *s)?,
        ),
        SqlType::Date => Arc::new(each::<_, _, Date32Type>(a, get, parse_dates::date)?),
        SqlType::Time => Arc::new(each::<_, _, Time64MicrosecondType>(
            a,
            get,
            parse_dates::time,
        )?),
        SqlType::Timestamp => Arc::new(each::<_, _, TimestampMicrosecondType>(
            a,
            get,
            parse_dates::timestamp,
        )?),
        SqlType::Timestamptz => Arc::new(
            each::<_, _, TimestampMicrosecondType>(a, get, |t| parse_dates::timestamptz(t, zone))?
                .with_timezone(UTC),
        ),
        SqlType::Interval => Arc::new(each::<_, _, IntervalMonthDayNanoType>(
            a,
            get,
            parse_dates::interval,
        )?),
        SqlType::Uuid => {
            let mut b = StringViewBuilder::with_capacity(a.len());
            for v in a.iter() {
                b.append_option(v.map(parse::uuid).transpose().map_err(external)?);
            }
            Arc::new(b.finish())
        }
        SqlType::Bytea => {
            let mut b = BinaryBuilder::with_capacity(a.len(), 0);
            for v in a.iter() {
                b.append_option(v.map(parse::bytea).transpose().map_err(external)?);
            }
            Arc::new(b.finish())
        }
        SqlType::Array(of) => list_from_text(a, of, to, context, zone)?,
        other => return Err(external(no_cast(&SqlType::Text, other))),
    })
}

fn list_from_text(
    a: &StringViewArray,
    of: &SqlType,
    to: &SqlType,
    context: Context,
    zone: &str,
) -> DfResult<ArrayRef> {
    let mut elements = StringViewBuilder::new();
    let (mut lengths, mut valid) = (Vec::new(), Vec::new());
    for v in a.iter() {
        valid.push(v.is_some());
        let items = v
            .map(parse::array)
            .transpose()
            .map_err(external)?
            .unwrap_or_default();
        lengths.push(items.len());
        items.into_iter().for_each(|e| elements.append_option(e));
    }
    let texts: ArrayRef = Arc::new(elements.finish());
    let values = cast_array(&texts, &SqlType::Text, of, context, zone)?;
    list_array(values, lengths, valid, to)
}

/// A list column of type `to` (an array type) from its flat values.
pub fn list_array(
    values: ArrayRef,
    lengths: Vec<usize>,
    valid: Vec<bool>,
    to: &SqlType,
) -> DfResult<ArrayRef> {
    let arrow::datatypes::DataType::List(field) = to.arrow() else {
        return Err(external(SqlError::internal("an array type must be a list")));
    };
    Ok(Arc::new(ListArray::try_new(
        field,
        arrow::buffer::OffsetBuffer::from_lengths(lengths),
        values,
        Some(valid.into()),
    )?))
}

fn cast_list(
    array: &ArrayRef,
    from: &SqlType,
    to: &SqlType,
    whole: &SqlType,
    context: Context,
    zone: &str,
) -> DfResult<ArrayRef> {
    let a = array.as_list::<i32>();
    let values = cast_array(a.values(), from, to, context, zone)?;
    let arrow::datatypes::DataType::List(field) = whole.arrow() else {
        return Err(external(SqlError::internal("an array type must be a list")));
    };
    Ok(Arc::new(ListArray::try_new(
        field,
        a.offsets().clone(),
        values,
        a.nulls().cloned(),
    )?))
}

/// `cannot cast type a to b`
pub fn no_cast(from: &SqlType, to: &SqlType) -> SqlError {
    SqlError::new(
        "42846",
        format!(
            "cannot cast type {} to {}",
            plain_name(from),
            plain_name(to)
        ),
    )
}

fn range(t: &SqlType) -> SqlError {
    SqlError::new("22003", format!("{} out of range", plain_name(t)))
}

/// A number as an exact 256-bit decimal, if it is one.
enum Numbers<'a> {
    Exact(Box<dyn Fn(usize) -> i256 + 'a>, i32),
    Float(Box<dyn Fn(usize) -> f64 + 'a>),
}

fn numbers<'a>(array: &'a ArrayRef, from: &SqlType) -> Numbers<'a> {
    let a = array.as_ref();
    match from {
        SqlType::Int2 => {
            let a = a.as_primitive::<Int16Type>();
            Numbers::Exact(Box::new(|i| i256::from_i128(a.value(i) as i128)), 0)
        }
        SqlType::Int4 => {
            let a = a.as_primitive::<Int32Type>();
            Numbers::Exact(Box::new(|i| i256::from_i128(a.value(i) as i128)), 0)
        }
        SqlType::Int8 => {
            let a = a.as_primitive::<Int64Type>();
            Numbers::Exact(Box::new(|i| i256::from_i128(a.value(i) as i128)), 0)
        }
        SqlType::Numeric(_, s) => {
            let a = a.as_primitive::<Decimal128Type>();
            Numbers::Exact(Box::new(|i| i256::from_i128(a.value(i))), *s as i32)
        }
        SqlType::Float4 => {
            let a = a.as_primitive::<Float32Type>();
            Numbers::Float(Box::new(|i| a.value(i) as f64))
        }
        _ => {
            let a = a.as_primitive::<Float64Type>();
            Numbers::Float(Box::new(|i| a.value(i)))
        }
    }
}

fn number(array: &ArrayRef, from: &SqlType, to: &SqlType) -> DfResult<ArrayRef> {
    let source = numbers(array, from);
    // An integer type's value: decimals round half away from zero, floats half to even.
    let integer = |i: usize, min: i64, max: i64| -> Result<i64> {
        match &source {
            Numbers::Exact(get, scale) => {
                let v = parse::rescale(get(i), *scale, 0).and_then(|v| v.to_i128());
                v.filter(|v| *v >= min as i128 && *v <= max as i128)
                    .map(|v| v as i64)
                    .ok_or_else(|| range(to))
            }
            Numbers::Float(get) => {
                let v = get(i).round_ties_even();
                // i64::MAX isn't a double: the bound is exclusive there.
                let below = if max == i64::MAX {
                    v < 9_223_372_036_854_775_808.0
                } else {
                    v <= max as f64
                };
                if v >= min as f64 && below {
                    Ok(v as i64)
                } else {
                    Err(range(to))
                }
            }
        }
    };
    let index = |i: usize| i;
    Ok(match to {
        SqlType::Int2 => Arc::new(each::<_, _, Int16Type>(array, index, |i| {
            integer(i, i16::MIN as i64, i16::MAX as i64).map(|v| v as i16)
        })?),
        SqlType::Int4 => Arc::new(each::<_, _, Int32Type>(array, index, |i| {
            integer(i, i32::MIN as i64, i32::MAX as i64).map(|v| v as i32)
        })?),
        SqlType::Int8 => Arc::new(each::<_, _, Int64Type>(array, index, |i| {
            integer(i, i64::MIN, i64::MAX)
        })?),
        SqlType::Numeric(p, s) => {
            let p = &SqlType::digits(*p);
            let one = |i: usize| -> Result<i128> {
                let (v, scale) = match &source {
                    Numbers::Exact(get, scale) => (get(i), *scale),
                    Numbers::Float(get) => {
                        let v = get(i);
                        if !v.is_finite() {
                            return Err(SqlError::unsupported(format!(
                                "numeric \"{}\" is not supported",
                                format::float8(v)
                            )));
                        }
                        // PostgreSQL keeps the digits that are surely right.
                        let digits = if matches!(from, SqlType::Float4) {
                            5
                        } else {
                            14
                        };
                        parse::decimal_parts(&format!("{v:.digits$e}")).ok_or_else(|| range(to))?
                    }
                };
                let v = parse::rescale(v, scale, *s as i32)
                    .ok_or_else(|| parse::numeric_overflow(*p, *s))?;
                parse::fits(v, *p, *s)
            };
            Arc::new(
                each::<_, _, Decimal128Type>(array, index, one)?
                    .with_precision_and_scale(*p, *s)?,
            )
        }
        _ => {
            let float = |i: usize| -> f64 {
                match &source {
                    Numbers::Float(get) => get(i),
                    Numbers::Exact(get, 0) => get(i).to_i128().unwrap_or(0) as f64,
                    // Through text, so that the nearest double is found.
                    Numbers::Exact(get, scale) => {
                        let text = format!("{}e{}", get(i), -*scale);
                        text.parse().unwrap_or(0.0)
                    }
                }
            };
            if matches!(to, SqlType::Float8) {
                Arc::new(each::<_, _, Float64Type>(array, index, |i| Ok(float(i)))?)
            } else {
                Arc::new(each::<_, _, Float32Type>(array, index, |i| {
                    let v = float(i);
                    let narrow = v as f32;
                    if v.is_finite() && narrow.is_infinite() {
                        return Err(SqlError::new("22003", "value out of range: overflow"));
                    }
                    if narrow == 0.0 && v != 0.0 {
                        return Err(SqlError::new("22003", "value out of range: underflow"));
                    }
                    Ok(narrow)
                })?)
            }
        }
    })
}

fn temporal(array: &ArrayRef, from: &SqlType, to: &SqlType, zone: &str) -> DfResult<ArrayRef> {
    use super::parse_dates::DAY_US;
    use super::zones::{to_local, to_utc};
    let us = || array.as_primitive::<TimestampMicrosecondType>();
    Ok(match (from, to) {
        (SqlType::Date, SqlType::Timestamptz) => {
            let a = array.as_primitive::<Date32Type>();
            let out = each::<_, _, TimestampMicrosecondType>(
                a,
                |i| a.value(i),
                |d| to_utc(d as i64 * DAY_US, zone),
            )?;
            Arc::new(out.with_timezone(UTC))
        }
        (SqlType::Timestamp, SqlType::Timestamptz) => {
            let a = us();
            let out =
                each::<_, _, TimestampMicrosecondType>(a, |i| a.value(i), |t| to_utc(t, zone))?;
            Arc::new(out.with_timezone(UTC))
        }
        (SqlType::Timestamptz, SqlType::Timestamp) => {
            let a = us();
            Arc::new(each::<_, _, TimestampMicrosecondType>(
                a,
                |i| a.value(i),
                |t| to_local(t, zone),
            )?)
        }
        (SqlType::Timestamp | SqlType::Timestamptz, SqlType::Date | SqlType::Time) => {
            let a = us();
            let local = |t: i64| {
                if matches!(from, SqlType::Timestamp) {
                    Ok(t)
                } else {
                    to_local(t, zone)
                }
            };
            if matches!(to, SqlType::Date) {
                Arc::new(each::<_, _, Date32Type>(
                    a,
                    |i| a.value(i),
                    |t| Ok(local(t)?.div_euclid(DAY_US) as i32),
                )?)
            } else {
                Arc::new(each::<_, _, Time64MicrosecondType>(
                    a,
                    |i| a.value(i),
                    |t| Ok(local(t)?.rem_euclid(DAY_US)),
                )?)
            }
        }
        (SqlType::Time, SqlType::Interval) => {
            let a = array.as_primitive::<Time64MicrosecondType>();
            Arc::new(each::<_, _, IntervalMonthDayNanoType>(
                a,
                |i| a.value(i),
                |t| Ok(IntervalMonthDayNanoType::make_value(0, 0, t * 1000)),
            )?)
        }
        (SqlType::Interval, SqlType::Time) => {
            let a = array.as_primitive::<IntervalMonthDayNanoType>();
            Arc::new(each::<_, _, Time64MicrosecondType>(
                a,
                |i| a.value(i),
                |t| Ok((t.nanoseconds / 1000).rem_euclid(DAY_US)),
            )?)
        }
        _ => return Err(external(no_cast(from, to))),
    })
}
