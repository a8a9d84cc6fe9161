//! One column's values as JSON or as PostgreSQL text, straight from the Arrow array.
//!
//! Invariant: what is written for a value never contains a line end as JSON, whatever the value.

use arrow::array::cast::AsArray;
use arrow::array::types::*;
use arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, ListArray, PrimitiveArray, StringViewArray,
    StructArray,
};
use arrow::buffer::NullBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, IntervalUnit, TimeUnit};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use tidemill_zset::schema::{self, SqlType, UTC};

use crate::decode::json;
use crate::text::output;

/// The values of a column, ready to be written.
pub struct Cells {
    array: ArrayRef,
    /// Of `array`, so that asking for a row's isn't a call through a table of methods.
    nulls: Option<NullBuffer>,
    kind: Kind,
}

enum Kind {
    Bool(BooleanArray),
    Int2(PrimitiveArray<Int16Type>),
    Int4(PrimitiveArray<Int32Type>),
    Int8(PrimitiveArray<Int64Type>),
    Float4(PrimitiveArray<Float32Type>),
    Float8(PrimitiveArray<Float64Type>),
    /// With its scale; open: without zeros at the end of the fraction.
    Numeric(PrimitiveArray<Decimal128Type>, i8, bool),
    Text(StringViewArray),
    Json(StringViewArray),
    Bytea(BinaryArray),
    Date(PrimitiveArray<Date32Type>),
    Time(PrimitiveArray<Time64MicrosecondType>),
    Timestamp(PrimitiveArray<TimestampMicrosecondType>, bool),
    Interval(PrimitiveArray<IntervalMonthDayNanoType>),
    List(ListArray, Box<Cells>),
    Struct(StructArray, Vec<Cells>),
    Null,
    /// What has no form of its own: Arrow's.
    Other,
}

/// The type among few that values of `data_type` are written as.
fn plain_type(data_type: &DataType) -> Option<DataType> {
    Some(match data_type {
        DataType::Int8 | DataType::UInt8 | DataType::UInt16 | DataType::UInt32 => DataType::Int64,
        DataType::UInt64 => DataType::Decimal128(20, 0),
        DataType::Decimal32(p, s) | DataType::Decimal64(p, s) => DataType::Decimal128(*p, *s),
        DataType::Float16 => DataType::Float32,
        DataType::Utf8 | DataType::LargeUtf8 => DataType::Utf8View,
        DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            DataType::Binary
        }
        DataType::Date64 => DataType::Date32,
        DataType::Time32(_) | DataType::Time64(TimeUnit::Nanosecond) => {
            DataType::Time64(TimeUnit::Microsecond)
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => return None,
        DataType::Timestamp(_, None) => DataType::Timestamp(TimeUnit::Microsecond, None),
        DataType::Timestamp(_, Some(_)) => {
            DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into()))
        }
        DataType::LargeList(f) | DataType::FixedSizeList(f, _) => DataType::List(f.clone()),
        DataType::Dictionary(_, values) => values.as_ref().clone(),
        _ => return None,
    })
}

impl Cells {
    /// The values of `array`, a column declared as `field`.
    pub fn new(array: &ArrayRef, field: &Field) -> Result<Cells, ArrowError> {
        let mut array = array.clone();
        while let Some(plain) = plain_type(array.data_type()) {
            array = cast(&array, &plain)?;
        }
        let kind = match array.data_type() {
            DataType::Boolean => Kind::Bool(array.as_boolean().clone()),
            DataType::Int16 => Kind::Int2(array.as_primitive().clone()),
            DataType::Int32 => Kind::Int4(array.as_primitive().clone()),
            DataType::Int64 => Kind::Int8(array.as_primitive().clone()),
            DataType::Float32 => Kind::Float4(array.as_primitive().clone()),
            DataType::Float64 => Kind::Float8(array.as_primitive().clone()),
            DataType::Decimal128(_, scale) => {
                let open = matches!(SqlType::of(field), SqlType::Numeric(0, _));
                Kind::Numeric(array.as_primitive().clone(), *scale, open)
            }
            DataType::Utf8View => match SqlType::of(field) {
                SqlType::Json | SqlType::Jsonb => Kind::Json(array.as_string_view().clone()),
                _ => Kind::Text(array.as_string_view().clone()),
            },
            DataType::Binary => Kind::Bytea(array.as_binary().clone()),
            DataType::Date32 => Kind::Date(array.as_primitive().clone()),
            DataType::Time64(TimeUnit::Microsecond) => Kind::Time(array.as_primitive().clone()),
            DataType::Timestamp(TimeUnit::Microsecond, zone) => {
                Kind::Timestamp(array.as_primitive().clone(), zone.is_some())
            }
            DataType::Interval(IntervalUnit::MonthDayNano) => {
                Kind::Interval(array.as_primitive().clone())
            }
            DataType::List(item) => {
                let list = array.as_list::<i32>();
                let item = schema::item(field).unwrap_or_else(|| item.as_ref().clone());
                let items = Cells::new(list.values(), &item)?;
                Kind::List(list.clone(), Box::new(items))
            }
            DataType::Struct(fields) => {
                let fields = fields.iter().zip(array.as_struct().columns());
                let cells = fields
                    .map(|(f, a)| Cells::new(a, f))
                    .collect::<Result<_, _>>()?;
                Kind::Struct(array.as_struct().clone(), cells)
            }
            DataType::Null => Kind::Null,
            _ => Kind::Other,
        };
        let nulls = array.nulls().cloned();
        Ok(Cells { array, nulls, kind })
    }

    /// Whether `row` is NULL.
    #[inline]
    pub fn is_null(&self, row: usize) -> bool {
        match &self.nulls {
            Some(nulls) => nulls.is_null(row),
            None => matches!(self.kind, Kind::Null),
        }
    }

    /// Appends the JSON value of `row`.
    #[inline]
    pub fn json(&self, row: usize, out: &mut Vec<u8>) {
        if self.is_null(row) {
            out.extend_from_slice(b"null");
            return;
        }
        match &self.kind {
            Kind::Int8(a) => output::integer(a.value(row), out),
            Kind::Text(a) => {
                let view = a.views()[row];
                if !json_short(view, out) {
                    json_string(a.value(row).as_bytes(), out);
                }
            }
            Kind::Int2(a) => output::integer(a.value(row) as i64, out),
            Kind::Int4(a) => output::integer(a.value(row) as i64, out),
            Kind::Bool(a) => out.extend_from_slice(if a.value(row) { b"true" } else { b"false" }),
            Kind::Numeric(a, scale, open) => numeric(a.value(row), *scale, *open, out),
            Kind::Float8(a) if a.value(row).is_finite() => output::float8(a.value(row), out),
            Kind::Float4(a) if a.value(row).is_finite() => output::float4(a.value(row), out),
            Kind::Json(a) => {
                let text = a.value(row).as_bytes();
                if memchr::memchr2(b'\n', b'\r', text).is_some() {
                    json::compact(text, out);
                } else {
                    out.extend_from_slice(text);
                }
            }
            Kind::List(a, items) => {
                out.push(b'[');
                let (from, to) = (a.value_offsets()[row], a.value_offsets()[row + 1]);
                for i in from..to {
                    if i > from {
                        out.push(b',');
                    }
                    items.json(i as usize, out);
                }
                out.push(b']');
            }
            Kind::Struct(a, cells) => {
                out.push(b'{');
                for (i, (name, cell)) in a.column_names().iter().zip(cells).enumerate() {
                    if i > 0 {
                        out.push(b',');
                    }
                    json_string(name.as_bytes(), out);
                    out.push(b':');
                    cell.json(row, out);
                }
                out.push(b'}');
            }
            _ => {
                // These need no escaping, but for what Arrow makes of exotic types.
                let mut text = Vec::new();
                self.text(row, &mut text);
                json_string(&text, out);
            }
        }
    }

    /// Appends PostgreSQL's text of `row`, which isn't NULL; it may contain line ends.
    pub fn text(&self, row: usize, out: &mut Vec<u8>) {
        match &self.kind {
            Kind::Bool(a) => out.push(if a.value(row) { b't' } else { b'f' }),
            Kind::Float8(a) => output::float8(a.value(row), out),
            Kind::Float4(a) => output::float4(a.value(row), out),
            Kind::Text(a) | Kind::Json(a) => out.extend_from_slice(a.value(row).as_bytes()),
            Kind::Bytea(a) => output::bytea(a.value(row), out),
            Kind::Date(a) => output::date(a.value(row) as i64, out),
            Kind::Time(a) => output::time(a.value(row), out),
            Kind::Timestamp(a, zone) => output::timestamp(a.value(row), *zone, out),
            Kind::Interval(a) => {
                let v = a.value(row);
                output::interval(v.months, v.days, v.nanoseconds, out);
            }
            Kind::List(a, items) => {
                out.push(b'{');
                let (from, to) = (a.value_offsets()[row], a.value_offsets()[row + 1]);
                for i in from as usize..to as usize {
                    if i > from as usize {
                        out.push(b',');
                    }
                    items.array_element(i, out);
                }
                out.push(b'}');
            }
            Kind::Other => {
                let options = FormatOptions::default();
                if let Ok(f) = ArrayFormatter::try_new(self.array.as_ref(), &options) {
                    out.extend_from_slice(f.value(row).to_string().as_bytes());
                }
            }
            Kind::Int2(_)
            | Kind::Int4(_)
            | Kind::Int8(_)
            | Kind::Numeric(..)
            | Kind::Struct(..)
            | Kind::Null => self.json(row, out),
        }
    }

    /// An element within `{…}`, quoted where PostgreSQL quotes it.
    fn array_element(&self, row: usize, out: &mut Vec<u8>) {
        if self.is_null(row) {
            out.extend_from_slice(b"NULL");
            return;
        }
        let start = out.len();
        self.text(row, out);
        let text = &out[start..];
        let special =
            |b: &u8| matches!(b, b'{' | b'}' | b',' | b'"' | b'\\' | b' ' | b'\t'..=b'\r');
        let quoted = !matches!(self.kind, Kind::List(..))
            && (text.is_empty() || text.iter().any(special) || text.eq_ignore_ascii_case(b"null"));
        if quoted {
            let text = out.split_off(start);
            out.push(b'"');
            for b in text {
                if matches!(b, b'"' | b'\\') {
                    out.push(b'\\');
                }
                out.push(b);
            }
            out.push(b'"');
        }
    }
}

/// Every byte of a word is `byte`.
const fn all(byte: u8) -> u128 {
    u128::from_le_bytes([byte; 16])
}

/// Appends the text of a view that holds its text itself as a JSON string, if nothing in it must be escaped.
#[inline]
fn json_short(view: u128, out: &mut Vec<u8>) -> bool {
    let len = view as u32 as usize;
    if len > 12 {
        return false;
    }
    let text = view >> 32;
    // Spaces behind the text, so that all 16 bytes can be looked at together.
    let padded = text | all(b' ') << (len * 8);
    let zero_byte = |x: u128| x.wrapping_sub(all(1)) & !x;
    let control = padded.wrapping_sub(all(0x20)) & !padded;
    let special = control | zero_byte(padded ^ all(b'"')) | zero_byte(padded ^ all(b'\\'));
    if special & all(0x80) != 0 {
        return false;
    }
    let mut quoted = [b'"'; 16];
    quoted[1..13].copy_from_slice(&text.to_le_bytes()[..12]);
    quoted[len + 1] = b'"';
    output::put(&quoted, len + 2, out);
    true
}

/// Appends `text` as a JSON string.
#[inline]
pub fn json_string(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let mut from = 0;
    loop {
        let stop = json::string_special(text, from);
        out.extend_from_slice(&text[from..stop]);
        if stop == text.len() {
            break;
        }
        escape(text[stop], out);
        from = stop + 1;
    }
    out.push(b'"');
}

#[cold]
fn escape(b: u8, out: &mut Vec<u8>) {
    match b {
        b'"' => out.extend_from_slice(b"\\\""),
        b'\\' => out.extend_from_slice(b"\\\\"),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        8 => out.extend_from_slice(b"\\b"),
        12 => out.extend_from_slice(b"\\f"),
        _ => out.extend_from_slice(format!("\\u{b:04x}").as_bytes()),
    }
}

fn numeric(mut value: i128, mut scale: i8, open: bool, out: &mut Vec<u8>) {
    while open && scale > 0 && value % 10 == 0 {
        value /= 10;
        scale -= 1;
    }
    output::numeric(value, scale, out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::views::view_of;

    #[test]
    fn short_texts_are_written_like_long_ones() {
        for len in 0..=12 {
            for special in [
                "x", "\"", "\\", "\n", "\u{1f}", "\0", " ", "\u{7f}", "é", "\u{80}",
            ] {
                for at in 0..=len {
                    let mut text = "a".repeat(at) + special + &"~".repeat(len - at);
                    while text.len() > 12 {
                        text.pop();
                    }
                    let mut want = Vec::new();
                    json_string(text.as_bytes(), &mut want);
                    let mut got = Vec::new();
                    if !json_short(view_of(text.as_bytes(), 0, 0), &mut got) {
                        assert!(got.is_empty());
                        json_string(text.as_bytes(), &mut got);
                    }
                    assert_eq!(got, want, "{text:?}");
                    let read: String = serde_json::from_slice(&got).expect("JSON");
                    assert_eq!(read, text);
                }
            }
        }
    }
}
