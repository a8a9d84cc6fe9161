//! Arrow columns as Postgres types: oid, modifier, and the text or binary form of each value.
//!
//! Invariant: [`Column`] is made once per batch and column; writing a value allocates nothing
//! for the types of the hot path.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Date32Array, Decimal128Array,
    Decimal256Array, Float32Array, Float64Array, Int16Array, Int32Array, Int64Array,
    IntervalMonthDayNanoArray, StringArray, StringViewArray, Time64MicrosecondArray,
    TimestampMicrosecondArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Decimal256Type, Field, Float32Type, Float64Type,
    Int16Type, Int32Type, Int64Type, IntervalMonthDayNanoType, IntervalUnit, Time64MicrosecondType,
    TimeUnit, TimestampMicrosecondType,
};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use bytes::{BufMut, BytesMut};
use chrono_tz::Tz;
use tidemill_zset::schema::{self, SqlType, TYPE_KEY};

use super::{binary, text};

/// Oids of the types that the server speaks.
#[allow(missing_docs)]
pub mod oid {
    pub const BOOL: u32 = 16;
    pub const BYTEA: u32 = 17;
    pub const CHAR: u32 = 18;
    pub const NAME: u32 = 19;
    pub const INT8: u32 = 20;
    pub const INT2: u32 = 21;
    pub const INT2VECTOR: u32 = 22;
    pub const INT4: u32 = 23;
    pub const TEXT: u32 = 25;
    pub const OID: u32 = 26;
    pub const OIDVECTOR: u32 = 30;
    pub const JSON: u32 = 114;
    pub const FLOAT4: u32 = 700;
    pub const FLOAT8: u32 = 701;
    pub const UNKNOWN: u32 = 705;
    pub const BPCHAR: u32 = 1042;
    pub const VARCHAR: u32 = 1043;
    pub const DATE: u32 = 1082;
    pub const TIME: u32 = 1083;
    pub const TIMESTAMP: u32 = 1114;
    pub const TIMESTAMPTZ: u32 = 1184;
    pub const INTERVAL: u32 = 1186;
    pub const NUMERIC: u32 = 1700;
    pub const RECORD: u32 = 2249;
    pub const UUID: u32 = 2950;
    pub const JSONB: u32 = 3802;
}

/// A type of `pg_type` that values on the wire can have: oid, oid of its array type, size in bytes
/// (-1: variable), name.
pub struct PgType {
    /// Oid.
    pub oid: u32,
    /// Oid of the array of it.
    pub array: u32,
    /// Bytes; -1: variable.
    pub size: i16,
    /// Name in `pg_type`.
    pub name: &'static str,
}

const fn pg_type(oid: u32, array: u32, size: i16, name: &'static str) -> PgType {
    PgType {
        oid,
        array,
        size,
        name,
    }
}

/// All types that values on the wire can have.
pub const TYPES: &[PgType] = &[
    pg_type(oid::BOOL, 1000, 1, "bool"),
    pg_type(oid::BYTEA, 1001, -1, "bytea"),
    pg_type(oid::CHAR, 1002, 1, "char"),
    pg_type(oid::NAME, 1003, 64, "name"),
    pg_type(oid::INT8, 1016, 8, "int8"),
    pg_type(oid::INT2, 1005, 2, "int2"),
    pg_type(oid::INT4, 1007, 4, "int4"),
    pg_type(oid::TEXT, 1009, -1, "text"),
    pg_type(oid::OID, 1028, 4, "oid"),
    pg_type(oid::JSON, 199, -1, "json"),
    pg_type(oid::FLOAT4, 1021, 4, "float4"),
    pg_type(oid::FLOAT8, 1022, 8, "float8"),
    pg_type(oid::BPCHAR, 1014, -1, "bpchar"),
    pg_type(oid::VARCHAR, 1015, -1, "varchar"),
    pg_type(oid::DATE, 1182, 4, "date"),
    pg_type(oid::TIME, 1183, 8, "time"),
    pg_type(oid::TIMESTAMP, 1115, 8, "timestamp"),
    pg_type(oid::TIMESTAMPTZ, 1185, 8, "timestamptz"),
    pg_type(oid::INTERVAL, 1187, 16, "interval"),
    pg_type(oid::NUMERIC, 1231, -1, "numeric"),
    pg_type(oid::RECORD, 2287, -1, "record"),
    pg_type(oid::UUID, 2951, 16, "uuid"),
    pg_type(oid::JSONB, 3807, -1, "jsonb"),
];

/// What RowDescription says of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WireType {
    /// Oid of the type.
    pub oid: u32,
    /// Bytes; -1: variable.
    pub size: i16,
    /// Modifier, e.g. precision and scale; -1: none.
    pub modifier: i32,
}

/// The Postgres type of a field. Fields tagged `oid`, `name` and so on are those types of `pg_catalog`.
pub fn wire_type(field: &Field) -> WireType {
    if let Some(tag) = field.metadata().get(TYPE_KEY) {
        let oid = match tag.as_str() {
            "oid" => Some(oid::OID),
            "name" => Some(oid::NAME),
            "char" => Some(oid::CHAR),
            "int2vector" => Some(oid::INT2VECTOR),
            "oidvector" => Some(oid::OIDVECTOR),
            _ => None,
        };
        if let Some(oid) = oid {
            return WireType {
                oid,
                size: size(oid),
                modifier: -1,
            };
        }
    }
    if let (DataType::List(_), Some(item)) = (field.data_type(), schema::item(field)) {
        let element = wire_type(&item);
        return WireType {
            oid: array_of(element.oid),
            size: -1,
            modifier: element.modifier,
        };
    }
    let sql = SqlType::of(field);
    let oid = oid_of(&sql);
    WireType {
        oid,
        size: size(oid),
        modifier: modifier(&sql),
    }
}

/// The oid of a type; types without one are shown as text.
pub fn oid_of(sql: &SqlType) -> u32 {
    match sql {
        SqlType::Bool => oid::BOOL,
        SqlType::Int2 => oid::INT2,
        SqlType::Int4 => oid::INT4,
        SqlType::Int8 => oid::INT8,
        SqlType::Float4 => oid::FLOAT4,
        SqlType::Float8 => oid::FLOAT8,
        SqlType::Numeric(..) => oid::NUMERIC,
        SqlType::Text => oid::TEXT,
        SqlType::Varchar(_) => oid::VARCHAR,
        SqlType::Char(_) => oid::BPCHAR,
        SqlType::Bytea => oid::BYTEA,
        SqlType::Date => oid::DATE,
        SqlType::Time => oid::TIME,
        SqlType::Timestamp => oid::TIMESTAMP,
        SqlType::Timestamptz => oid::TIMESTAMPTZ,
        SqlType::Interval => oid::INTERVAL,
        SqlType::Uuid => oid::UUID,
        SqlType::Json => oid::JSON,
        SqlType::Jsonb => oid::JSONB,
        // An array of arrays has the type of its innermost elements' array.
        SqlType::Array(of) => match of.as_ref() {
            SqlType::Array(_) => oid_of(of),
            element => array_of(oid_of(element)),
        },
        SqlType::Other(DataType::Struct(_)) => oid::RECORD,
        SqlType::Other(_) => oid::TEXT,
    }
}

/// The type of a declared parameter; `None` for oids that the server doesn't know and for `unknown`.
pub fn type_of_oid(oid: u32) -> Option<SqlType> {
    if let Some(element) = TYPES.iter().find(|t| t.array == oid) {
        return type_of_oid(element.oid).map(|t| SqlType::Array(Box::new(t)));
    }
    Some(match oid {
        oid::BOOL => SqlType::Bool,
        oid::BYTEA => SqlType::Bytea,
        oid::INT8 | oid::OID => SqlType::Int8,
        oid::INT2 => SqlType::Int2,
        oid::INT4 => SqlType::Int4,
        oid::TEXT | oid::NAME | oid::CHAR | oid::BPCHAR => SqlType::Text,
        oid::VARCHAR => SqlType::Varchar(None),
        oid::JSON => SqlType::Json,
        oid::JSONB => SqlType::Jsonb,
        oid::FLOAT4 => SqlType::Float4,
        oid::FLOAT8 => SqlType::Float8,
        oid::DATE => SqlType::Date,
        oid::TIME => SqlType::Time,
        oid::TIMESTAMP => SqlType::Timestamp,
        oid::TIMESTAMPTZ => SqlType::Timestamptz,
        oid::INTERVAL => SqlType::Interval,
        oid::NUMERIC => SqlType::Numeric(NUMERIC_PARAM.0, NUMERIC_PARAM.1),
        oid::UUID => SqlType::Uuid,
        _ => return None,
    })
}

/// Precision (open) and scale of a parameter that the client declares as plain `numeric`.
const NUMERIC_PARAM: (u8, i8) = (0, 10);

fn array_of(element: u32) -> u32 {
    match TYPES.iter().find(|t| t.oid == element) {
        Some(found) => found.array,
        // The element is an array itself.
        None => element,
    }
}

fn size(oid: u32) -> i16 {
    TYPES.iter().find(|t| t.oid == oid).map_or(-1, |t| t.size)
}

/// PostgreSQL adds the four bytes of a length header to these.
fn modifier(sql: &SqlType) -> i32 {
    match sql {
        SqlType::Numeric(0, _) => -1,
        SqlType::Numeric(precision, scale) => {
            ((i32::from(*precision) << 16) | (i32::from(*scale) & 0x7ff)) + 4
        }
        SqlType::Varchar(Some(n)) | SqlType::Char(n) => i32::try_from(*n).map_or(-1, |n| n + 4),
        SqlType::Array(of) => modifier(of),
        _ => -1,
    }
}

/// One value as text, as psql shows it; NULL is the empty string.
pub fn text_of(array: &ArrayRef, row: usize) -> String {
    let field = Field::new("", array.data_type().clone(), true);
    let column = Column::new(&field, array, TextStyle::default());
    let mut out = BytesMut::new();
    if !column.is_null(row) {
        column.text(row, &mut out);
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A column of a batch, ready to be written value by value.
pub struct Column {
    nulls: Option<NullBuffer>,
    oid: u32,
    values: Values,
}

enum Values {
    Null,
    Bool(BooleanArray),
    Int2(Int16Array),
    Int4(Int32Array),
    Int8(Int64Array),
    Float4(Float32Array),
    Float8(Float64Array),
    Numeric(Decimal128Array, i8),
    /// Without trailing zeros.
    NumericOpen(Decimal128Array, i8),
    NumericWide(Decimal256Array, i8),
    Text(StringArray),
    TextView(StringViewArray),
    /// `char(n)`: shown with spaces up to n characters.
    Padded(StringViewArray, u32),
    Bytea(BinaryArray),
    Date(Date32Array),
    Time(Time64MicrosecondArray),
    Timestamp(TimestampMicrosecondArray),
    Timestamptz(TimestampMicrosecondArray, Option<Tz>),
    /// In the form of ISO 8601, if so wished.
    Interval(IntervalMonthDayNanoArray, bool),
    List(OffsetBuffer<i32>, Box<Column>),
    Record(Vec<Column>),
    /// Types that PostgreSQL doesn't have, as Arrow prints them.
    Other(ArrayRef),
}

/// How a session wants values of some types as text.
#[derive(Clone, Copy, Debug, Default)]
pub struct TextStyle {
    /// TimeZone: of `timestamptz`; `None`: UTC.
    pub zone: Option<Tz>,
    /// `IntervalStyle = iso_8601`
    pub iso_intervals: bool,
}

impl Column {
    /// The values of a column.
    pub fn new(field: &Field, array: &ArrayRef, style: TextStyle) -> Column {
        let array = plain(array);
        let values = match array.data_type() {
            DataType::Null => Values::Null,
            DataType::Boolean => Values::Bool(array.as_boolean().clone()),
            DataType::Int16 => Values::Int2(array.as_primitive::<Int16Type>().clone()),
            DataType::Int32 => Values::Int4(array.as_primitive::<Int32Type>().clone()),
            DataType::Int64 => Values::Int8(array.as_primitive::<Int64Type>().clone()),
            DataType::Float32 => Values::Float4(array.as_primitive::<Float32Type>().clone()),
            DataType::Float64 => Values::Float8(array.as_primitive::<Float64Type>().clone()),
            DataType::Decimal128(_, scale)
                if matches!(SqlType::of(field), SqlType::Numeric(0, _)) =>
            {
                Values::NumericOpen(array.as_primitive::<Decimal128Type>().clone(), *scale)
            }
            DataType::Decimal128(_, scale) => {
                Values::Numeric(array.as_primitive::<Decimal128Type>().clone(), *scale)
            }
            DataType::Decimal256(_, scale) => {
                Values::NumericWide(array.as_primitive::<Decimal256Type>().clone(), *scale)
            }
            DataType::Utf8 => Values::Text(array.as_string::<i32>().clone()),
            DataType::Utf8View => match SqlType::of(field) {
                SqlType::Char(n) => Values::Padded(array.as_string_view().clone(), n),
                _ => Values::TextView(array.as_string_view().clone()),
            },
            DataType::Binary => Values::Bytea(array.as_binary::<i32>().clone()),
            DataType::Date32 => Values::Date(array.as_primitive::<Date32Type>().clone()),
            DataType::Time64(TimeUnit::Microsecond) => {
                Values::Time(array.as_primitive::<Time64MicrosecondType>().clone())
            }
            DataType::Timestamp(TimeUnit::Microsecond, at) => {
                let micros = array.as_primitive::<TimestampMicrosecondType>().clone();
                match at {
                    None => Values::Timestamp(micros),
                    Some(_) => Values::Timestamptz(micros, style.zone),
                }
            }
            DataType::Interval(IntervalUnit::MonthDayNano) => {
                let lengths = array.as_primitive::<IntervalMonthDayNanoType>().clone();
                Values::Interval(lengths, style.iso_intervals)
            }
            DataType::List(item) => {
                let list = array.as_list::<i32>();
                let item = schema::item(field).unwrap_or_else(|| item.as_ref().clone());
                let items = Column::new(&item, list.values(), style);
                Values::List(list.offsets().clone(), Box::new(items))
            }
            DataType::Struct(fields) => Values::Record(
                fields
                    .iter()
                    .zip(array.as_struct().columns())
                    .map(|(field, column)| Column::new(field, column, style))
                    .collect(),
            ),
            _ => Values::Other(Arc::clone(&array)),
        };
        Column {
            nulls: array.logical_nulls(),
            oid: wire_type(field).oid,
            values,
        }
    }

    /// True if the value is NULL.
    pub fn is_null(&self, row: usize) -> bool {
        matches!(self.values, Values::Null)
            || self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row))
    }

    /// Appends the text form of a value that isn't NULL.
    pub fn text(&self, row: usize, out: &mut BytesMut) {
        match &self.values {
            Values::Null => {}
            Values::Bool(v) => text::boolean(v.value(row), out),
            Values::Int2(v) => text::integer(i64::from(v.value(row)), out),
            Values::Int4(v) => text::integer(i64::from(v.value(row)), out),
            Values::Int8(v) => text::integer(v.value(row), out),
            Values::Float4(v) => text::float4(v.value(row), out),
            Values::Float8(v) => text::float8(v.value(row), out),
            Values::Numeric(v, scale) => text::numeric(v.value(row), *scale, out),
            Values::NumericOpen(v, scale) => {
                let (value, scale) = text::without_zeros(v.value(row), *scale);
                text::numeric(value, scale, out);
            }
            Values::NumericWide(v, scale) => text::numeric_wide(v.value(row), *scale, out),
            Values::Text(v) => out.put_slice(v.value(row).as_bytes()),
            Values::TextView(v) if self.oid == oid::JSONB => text::jsonb(v.value(row), out),
            Values::TextView(v) => out.put_slice(v.value(row).as_bytes()),
            Values::Padded(v, n) => text::padded(v.value(row), *n as usize, out),
            Values::Bytea(v) => text::bytea(v.value(row), out),
            Values::Date(v) => text::date(v.value(row), out),
            Values::Time(v) => text::time(v.value(row), out),
            Values::Timestamp(v) => text::timestamp(v.value(row), out),
            Values::Timestamptz(v, zone) => text::timestamptz(v.value(row), *zone, out),
            Values::Interval(v, iso) => {
                let v = v.value(row);
                match iso {
                    true => text::iso_interval(v.months, v.days, v.nanoseconds, out),
                    false => text::interval(v.months, v.days, v.nanoseconds, out),
                }
            }
            Values::List(offsets, items) => {
                out.put_u8(b'{');
                for item in offsets[row] as usize..offsets[row + 1] as usize {
                    if item > offsets[row] as usize {
                        out.put_u8(b',');
                    }
                    items.element(item, out);
                }
                out.put_u8(b'}');
            }
            Values::Record(columns) => {
                out.put_u8(b'(');
                for (number, column) in columns.iter().enumerate() {
                    if number > 0 {
                        out.put_u8(b',');
                    }
                    if !column.is_null(row) {
                        let from = out.len();
                        column.text(row, out);
                        text::quote_field(from, out);
                    }
                }
                out.put_u8(b')');
            }
            Values::Other(array) => {
                match ArrayFormatter::try_new(array, &FormatOptions::default()) {
                    Ok(formatter) => text::display(formatter.value(row), out),
                    Err(error) => text::display(error, out),
                }
            }
        }
    }

    fn element(&self, row: usize, out: &mut BytesMut) {
        if self.is_null(row) {
            return out.put_slice(b"NULL");
        }
        let from = out.len();
        self.text(row, out);
        if !matches!(self.values, Values::List(..)) {
            text::quote_element(from, out);
        }
    }

    /// Appends the binary form of a value that isn't NULL, without its length.
    pub fn binary(&self, row: usize, out: &mut BytesMut) {
        match &self.values {
            Values::Null => {}
            Values::Bool(v) => out.put_u8(u8::from(v.value(row))),
            Values::Int2(v) => out.put_i16(v.value(row)),
            Values::Int4(v) if self.oid == oid::OID => out.put_u32(v.value(row) as u32),
            Values::Int4(v) => out.put_i32(v.value(row)),
            Values::Int8(v) if self.oid == oid::OID => out.put_u32(v.value(row) as u32),
            Values::Int8(v) => out.put_i64(v.value(row)),
            Values::Float4(v) => out.put_f32(v.value(row)),
            Values::Float8(v) => out.put_f64(v.value(row)),
            Values::Numeric(v, scale) => {
                let value = v.value(row);
                let digits = value.unsigned_abs().to_string();
                binary::numeric(value < 0, &digits, *scale, out);
            }
            Values::NumericOpen(v, scale) => {
                let (value, scale) = text::without_zeros(v.value(row), *scale);
                let digits = value.unsigned_abs().to_string();
                binary::numeric(value < 0, &digits, scale, out);
            }
            Values::NumericWide(v, scale) => {
                let text = v.value(row).to_string();
                let digits = text.strip_prefix('-').unwrap_or(&text);
                binary::numeric(digits.len() < text.len(), digits, *scale, out);
            }
            Values::Text(v) => self.string(v.value(row), out),
            Values::TextView(v) => self.string(v.value(row), out),
            Values::Padded(..) => self.text(row, out),
            Values::Bytea(v) => out.put_slice(v.value(row)),
            Values::Date(v) => binary::date(v.value(row), out),
            Values::Time(v) => out.put_i64(v.value(row)),
            Values::Timestamp(v) | Values::Timestamptz(v, _) => {
                binary::timestamp(v.value(row), out);
            }
            Values::Interval(v, _) => {
                let v = v.value(row);
                binary::interval(v.months, v.days, v.nanoseconds, out);
            }
            Values::List(offsets, items) => {
                let range = offsets[row] as usize..offsets[row + 1] as usize;
                binary::list(items, range, out);
            }
            Values::Record(columns) => {
                out.put_i32(columns.len() as i32);
                for column in columns {
                    out.put_u32(column.oid);
                    column.value(row, true, out);
                }
            }
            Values::Other(_) => self.text(row, out),
        }
    }

    fn string(&self, value: &str, out: &mut BytesMut) {
        match self.oid {
            oid::UUID => binary::uuid(value, out),
            oid::CHAR => out.put_u8(value.bytes().next().unwrap_or(0)),
            oid::INT2VECTOR | oid::OIDVECTOR => binary::vector(value, self.oid, out),
            oid::JSONB => {
                out.put_u8(binary::JSONB_VERSION);
                text::jsonb(value, out);
            }
            _ => out.put_slice(value.as_bytes()),
        }
    }

    /// Appends length and value, -1 for NULL.
    pub fn value(&self, row: usize, as_binary: bool, out: &mut BytesMut) {
        if self.is_null(row) {
            return out.put_i32(-1);
        }
        let at = out.len();
        out.put_i32(0);
        if as_binary {
            self.binary(row, out);
        } else {
            self.text(row, out);
        }
        let length = (out.len() - at - 4) as i32;
        out[at..at + 4].copy_from_slice(&length.to_be_bytes());
    }

    /// Oid of the values.
    pub fn oid(&self) -> u32 {
        self.oid
    }

    /// The elements of a list column's row, if it is one.
    pub(super) fn as_list(&self) -> Option<(&OffsetBuffer<i32>, &Column)> {
        match &self.values {
            Values::List(offsets, items) => Some((offsets, items)),
            _ => None,
        }
    }
}

/// The array in one of the forms that [`Values`] holds; exotic ones are cast.
fn plain(array: &ArrayRef) -> ArrayRef {
    let target = match array.data_type() {
        DataType::Int8 | DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        DataType::UInt32 => DataType::Int64,
        DataType::UInt64 => DataType::Decimal128(20, 0),
        DataType::Float16 => DataType::Float32,
        DataType::Decimal32(p, s) | DataType::Decimal64(p, s) => DataType::Decimal128(*p, *s),
        DataType::LargeUtf8 => DataType::Utf8View,
        DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            DataType::Binary
        }
        DataType::Date64 => DataType::Date32,
        DataType::Time32(_) | DataType::Time64(TimeUnit::Nanosecond) => {
            DataType::Time64(TimeUnit::Microsecond)
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => return Arc::clone(array),
        DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Microsecond, zone.clone()),
        DataType::Interval(IntervalUnit::YearMonth | IntervalUnit::DayTime)
        | DataType::Duration(_) => DataType::Interval(IntervalUnit::MonthDayNano),
        DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            DataType::List(Arc::clone(item))
        }
        DataType::Dictionary(_, value) => value.as_ref().clone(),
        _ => return Arc::clone(array),
    };
    match cast(array, &target) {
        Ok(cast) if matches!(array.data_type(), DataType::Dictionary(..)) => plain(&cast),
        Ok(cast) => cast,
        // Shown as Arrow prints it.
        Err(_) => Arc::clone(array),
    }
}
