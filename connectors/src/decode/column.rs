//! Columns under construction: fields of text in, Arrow arrays out.
//!
//! Invariant: every call adds exactly one value per row, also for rows that turn out to be bad
//! (they get a placeholder and are filtered out when the batch is finished).

use std::sync::Arc;

use arrow::array::{
    Array, ArrayData, ArrayRef, BinaryArray, BooleanArray, BooleanBufferBuilder, ListArray,
    NullBufferBuilder, PrimitiveArray, make_array, new_empty_array,
};
use arrow::buffer::{Buffer, MutableBuffer, OffsetBuffer};
use arrow::datatypes::*;
use tidemill_zset::schema::{SqlType, UTC};

use super::field::{Block, Texts};
use super::json::{self, Met};
use super::views::{TextKind, Views};
use crate::text::{self, ValueError, datetime, interval, number};

/// Called for a row of the block that is bad, with the reason.
pub type OnError<'a> = &'a mut dyn FnMut(usize, String);

/// A column of fixed-width values.
pub struct Fixed<T: ArrowPrimitiveType> {
    values: Vec<T::Native>,
    nulls: NullBufferBuilder,
    data_type: DataType,
}

impl<T: ArrowPrimitiveType> Fixed<T> {
    fn new(data_type: DataType) -> Self {
        Fixed {
            values: Vec::new(),
            nulls: NullBufferBuilder::new(0),
            data_type,
        }
    }

    #[inline]
    fn push(&mut self, value: Option<T::Native>) {
        match value {
            Some(v) => {
                self.values.push(v);
                self.nulls.append_non_null();
            }
            None => {
                self.values.push(T::default_value());
                self.nulls.append_null();
            }
        }
    }

    fn finish(&mut self) -> ArrayRef {
        let values = std::mem::take(&mut self.values);
        self.values.reserve(values.len());
        let array = PrimitiveArray::<T>::new(values.into(), self.nulls.finish());
        Arc::new(array.with_data_type(self.data_type.clone()))
    }
}

/// The builder that a column's type needs.
pub enum Values {
    /// `boolean`
    Bool(BooleanBufferBuilder, NullBufferBuilder),
    /// `smallint`
    Int2(Fixed<Int16Type>),
    /// `integer`
    Int4(Fixed<Int32Type>),
    /// `bigint`
    Int8(Fixed<Int64Type>),
    /// `real`
    Float4(Fixed<Float32Type>),
    /// `double precision`
    Float8(Fixed<Float64Type>),
    /// `numeric(precision, scale)`
    Numeric(Fixed<Decimal128Type>, u8, i8),
    /// `date`
    Date(Fixed<Date32Type>),
    /// `time`
    Time(Fixed<Time64MicrosecondType>),
    /// `timestamp`
    Timestamp(Fixed<TimestampMicrosecondType>),
    /// `timestamptz`
    Timestamptz(Fixed<TimestampMicrosecondType>),
    /// `interval`
    Interval(Fixed<IntervalMonthDayNanoType>),
    /// `bytea`: bytes, ends, nulls
    Bytea(Vec<u8>, Vec<i32>, NullBufferBuilder),
    /// Everything that is text
    Text(Views),
    /// An array
    List(Box<ListColumn>),
}

/// An array column: its elements, and where each row's end.
pub struct ListColumn {
    elements: Column,
    field: FieldRef,
    ends: Vec<i32>,
    nulls: NullBufferBuilder,
}

/// A column under construction.
pub struct Column {
    name: String,
    type_name: String,
    nullable: bool,
    values: Values,
}

/// How PostgreSQL's input functions call a type in their messages.
fn name_in_messages(sql: &SqlType) -> String {
    match sql {
        SqlType::Numeric(_, _) => "numeric".into(),
        SqlType::Timestamp => "timestamp".into(),
        SqlType::Time => "time".into(),
        other => other.to_string(),
    }
}

/// Whether values of a type can be read from text.
pub fn supports(sql: &SqlType) -> bool {
    match sql {
        SqlType::Other(_) => false,
        SqlType::Array(of) => supports(of),
        _ => true,
    }
}

impl Column {
    /// A column for `field`, whose type [`supports`] must accept.
    pub fn new(field: &arrow::datatypes::Field) -> Column {
        let sql = SqlType::of(field);
        let values = match &sql {
            SqlType::Bool => Values::Bool(BooleanBufferBuilder::new(0), NullBufferBuilder::new(0)),
            SqlType::Int2 => Values::Int2(Fixed::new(DataType::Int16)),
            SqlType::Int4 => Values::Int4(Fixed::new(DataType::Int32)),
            SqlType::Int8 => Values::Int8(Fixed::new(DataType::Int64)),
            SqlType::Float4 => Values::Float4(Fixed::new(DataType::Float32)),
            SqlType::Float8 => Values::Float8(Fixed::new(DataType::Float64)),
            SqlType::Numeric(p, s) => {
                let p = SqlType::digits(*p);
                Values::Numeric(Fixed::new(DataType::Decimal128(p, *s)), p, *s)
            }
            SqlType::Date => Values::Date(Fixed::new(DataType::Date32)),
            SqlType::Time => Values::Time(Fixed::new(DataType::Time64(TimeUnit::Microsecond))),
            SqlType::Timestamp => {
                Values::Timestamp(Fixed::new(DataType::Timestamp(TimeUnit::Microsecond, None)))
            }
            SqlType::Timestamptz => Values::Timestamptz(Fixed::new(DataType::Timestamp(
                TimeUnit::Microsecond,
                Some(UTC.into()),
            ))),
            SqlType::Interval => {
                Values::Interval(Fixed::new(DataType::Interval(IntervalUnit::MonthDayNano)))
            }
            SqlType::Bytea => Values::Bytea(Vec::new(), vec![0], NullBufferBuilder::new(0)),
            SqlType::Text | SqlType::Other(_) => Values::Text(Views::new(TextKind::Text)),
            SqlType::Char(n) => Values::Text(Views::new(TextKind::Char(*n))),
            SqlType::Varchar(n) => Values::Text(Views::new(match n {
                None => TextKind::Text,
                Some(n) => TextKind::Varchar(*n),
            })),
            SqlType::Uuid => Values::Text(Views::new(TextKind::Uuid)),
            SqlType::Json => Values::Text(Views::new(TextKind::Json)),
            SqlType::Jsonb => Values::Text(Views::new(TextKind::Jsonb)),
            SqlType::Array(of) => {
                let item = match field.data_type() {
                    DataType::List(item) => item.clone(),
                    _ => Arc::new(Field::new("item", of.arrow(), true)),
                };
                Values::List(Box::new(ListColumn {
                    elements: Column::new(&of.field("item", true)),
                    field: item,
                    ends: vec![0],
                    nulls: NullBufferBuilder::new(0),
                }))
            }
        };
        Column {
            name: field.name().clone(),
            type_name: name_in_messages(&sql),
            nullable: field.is_nullable(),
            values,
        }
    }

    /// Whether the column wants JSON values as they stand rather than the text in them.
    pub fn wants_json(&self) -> bool {
        match &self.values {
            Values::Text(views) => views.is_json(),
            Values::List(_) => true,
            _ => false,
        }
    }

    /// Whether any value refers to the chunk.
    pub fn uses_chunk(&self) -> bool {
        matches!(&self.values, Values::Text(views) if views.uses_chunk())
    }

    /// Whether no value can be in error, `checked_json` as for [`append`](Self::append).
    pub fn takes_any(&self, checked_json: bool) -> bool {
        self.nullable
            && matches!(&self.values, Values::Text(views) if views.takes_any(checked_json))
    }

    /// Adds field `index` of every row of `block`. `checked_json`: JSON texts have been scanned, and what isn't compact
    /// is in the side buffer.
    pub fn append(
        &mut self,
        block: &Block,
        index: usize,
        texts: Texts<'_>,
        checked_json: bool,
        on_error: OnError<'_>,
    ) {
        self.convert::<true>(block, index, texts, checked_json, on_error);
    }

    /// Reports the errors that [`append`](Self::append) would, to a column that is empty and stays so.
    pub fn check(
        &mut self,
        block: &Block,
        index: usize,
        texts: Texts<'_>,
        checked_json: bool,
        on_error: OnError<'_>,
    ) {
        if self.takes_any(checked_json) {
            return;
        }
        self.convert::<false>(block, index, texts, checked_json, on_error);
        match &mut self.values {
            Values::Text(views) => views.forget(),
            Values::Bool(..) | Values::Bytea(..) | Values::List(_) => {
                let empty = Buffer::from_vec(Vec::<u8>::new());
                self.finish(&empty, &empty);
            }
            _ => {}
        }
    }

    /// Fixed-width values are kept if `KEEP`, all others always.
    fn convert<const KEEP: bool>(
        &mut self,
        block: &Block,
        index: usize,
        texts: Texts<'_>,
        checked_json: bool,
        on_error: OnError<'_>,
    ) {
        let Column {
            name,
            type_name,
            nullable,
            values,
        } = self;
        let mut fail = |row: usize, e: ValueError, text: &[u8]| {
            let reason = e.message(type_name, text);
            on_error(row, format!("column \"{name}\": {reason}"));
        };
        macro_rules! placed {
            ($column:expr, $parse:expr) => {
                fixed::<_, KEEP>($column, block, index, texts, *nullable, &mut fail, $parse)
            };
        }
        macro_rules! fixed {
            ($column:expr, $parse:expr) => {
                placed!($column, |from: &[u8], start, len| $parse(
                    &from[start..start + len]
                ))
            };
        }
        macro_rules! integer {
            ($column:expr, $type:ty) => {
                placed!($column, |from: &[u8], start, len| {
                    let value = number::parse_i64_in(from, start, len)?;
                    <$type>::try_from(value).map_err(|_| ValueError::Range)
                })
            };
        }
        match values {
            Values::Int8(c) => placed!(c, number::parse_i64_in),
            Values::Int4(c) => integer!(c, i32),
            Values::Int2(c) => integer!(c, i16),
            Values::Float4(c) => fixed!(c, number::parse_f32),
            Values::Float8(c) => fixed!(c, number::parse_f64),
            Values::Numeric(c, p, s) => {
                let (p, s) = (*p, *s);
                fixed!(c, |t: &[u8]| number::parse_numeric(t, p, s))
            }
            Values::Date(c) => fixed!(c, datetime::parse_date),
            Values::Time(c) => fixed!(c, datetime::parse_time),
            Values::Timestamp(c) => fixed!(c, datetime::parse_timestamp),
            Values::Timestamptz(c) => fixed!(c, datetime::parse_timestamptz),
            Values::Interval(c) => fixed!(c, interval::parse_interval),
            Values::Text(views) => {
                views.append(block, index, texts, *nullable, checked_json, &mut fail)
            }
            Values::Bool(..) | Values::Bytea(..) | Values::List(_) => {
                for row in 0..block.len() {
                    let field = block.fields[row * block.width + index];
                    let text = (!field.is_null()).then(|| texts.get(field));
                    if let Err(e) = self.push(text, checked_json) {
                        let reason = e.message(&self.type_name, text.unwrap_or_default());
                        on_error(row, format!("column \"{}\": {reason}", self.name));
                    }
                }
            }
        }
    }

    /// Adds one value (`None`: NULL). In case of an error, adds a placeholder. `json`: the text is a JSON value.
    pub fn push(&mut self, text: Option<&[u8]>, json: bool) -> Result<(), ValueError> {
        let missing = text.is_none() && !self.nullable;
        let mut failed = None;
        macro_rules! fixed {
            ($column:expr, $parse:expr) => {{
                let value = text.map($parse).transpose().unwrap_or_else(|e| {
                    failed = Some(e);
                    None
                });
                $column.push(value)
            }};
        }
        match &mut self.values {
            Values::Bool(bits, nulls) => {
                let value = text.map(text::parse_bool).transpose().unwrap_or_else(|e| {
                    failed = Some(e);
                    None
                });
                bits.append(value.unwrap_or(false));
                nulls.append(value.is_some());
            }
            Values::Int8(c) => fixed!(c, number::parse_i64),
            Values::Int4(c) => fixed!(c, |t| number::parse_i64(t)
                .and_then(|v| i32::try_from(v).map_err(|_| ValueError::Range))),
            Values::Int2(c) => fixed!(c, |t| number::parse_i64(t)
                .and_then(|v| i16::try_from(v).map_err(|_| ValueError::Range))),
            Values::Float4(c) => fixed!(c, number::parse_f32),
            Values::Float8(c) => fixed!(c, number::parse_f64),
            Values::Numeric(c, p, s) => fixed!(c, |t| number::parse_numeric(t, *p, *s)),
            Values::Date(c) => fixed!(c, datetime::parse_date),
            Values::Time(c) => fixed!(c, datetime::parse_time),
            Values::Timestamp(c) => fixed!(c, datetime::parse_timestamp),
            Values::Timestamptz(c) => fixed!(c, datetime::parse_timestamptz),
            Values::Interval(c) => fixed!(c, interval::parse_interval),
            Values::Bytea(bytes, ends, nulls) => {
                let before = bytes.len();
                if let Some(Err(e)) = text.map(|t| text::parse_bytea(t, bytes)) {
                    bytes.truncate(before);
                    failed = Some(e);
                }
                nulls.append(text.is_some());
                ends.push(bytes.len() as i32);
            }
            Values::Text(views) => failed = views.push(text).err(),
            Values::List(list) => failed = list.push(text, json).err(),
        }
        match failed {
            Some(e) => Err(e),
            None if missing => Err(null_in_not_null()),
            None => Ok(()),
        }
    }

    /// The array, with everything forgotten. `chunk` and `side` are the buffers of the fields that were added.
    pub fn finish(&mut self, chunk: &Buffer, side: &Buffer) -> ArrayRef {
        match &mut self.values {
            Values::Bool(bits, nulls) => Arc::new(BooleanArray::new(bits.finish(), nulls.finish())),
            Values::Int2(c) => c.finish(),
            Values::Int4(c) => c.finish(),
            Values::Int8(c) => c.finish(),
            Values::Float4(c) => c.finish(),
            Values::Float8(c) => c.finish(),
            Values::Numeric(c, _, _) => c.finish(),
            Values::Date(c) => c.finish(),
            Values::Time(c) => c.finish(),
            Values::Timestamp(c) | Values::Timestamptz(c) => c.finish(),
            Values::Interval(c) => c.finish(),
            Values::Bytea(bytes, ends, nulls) => {
                let ends = OffsetBuffer::new(std::mem::replace(ends, vec![0]).into());
                let bytes = Buffer::from_vec(std::mem::take(bytes));
                Arc::new(BinaryArray::new(ends, bytes, nulls.finish()))
            }
            Values::Text(views) => views.finish(chunk, side),
            Values::List(list) => list.finish(),
        }
    }
}

/// `rows` times the value whose bytes are all zero: what stands for a column that nobody reads.
pub fn zeros(data_type: &DataType, rows: usize) -> ArrayRef {
    let zeroed = |bytes| Buffer::from(MutableBuffer::from_len_zeroed(bytes));
    let data = ArrayData::builder(data_type.clone()).len(rows);
    let data = match data_type {
        DataType::Boolean => data.add_buffer(zeroed(rows.div_ceil(8))),
        DataType::Utf8View => data.add_buffer(zeroed(rows * size_of::<u128>())),
        DataType::Binary => data
            .add_buffer(zeroed((rows + 1) * size_of::<i32>()))
            .add_buffer(zeroed(0)),
        DataType::List(item) => data
            .add_buffer(zeroed((rows + 1) * size_of::<i32>()))
            .add_child_data(new_empty_array(item.data_type()).to_data()),
        fixed => data.add_buffer(zeroed(rows * fixed.primitive_width().unwrap_or_default())),
    };
    make_array(data.build().expect("all other types have a fixed width"))
}

fn null_in_not_null() -> ValueError {
    ValueError::Other("null value violates the not-null constraint".into())
}

/// The loop of all fixed-width types, one copy per parser, which gets a buffer and where the text is in it.
#[inline]
fn fixed<T: ArrowPrimitiveType, const KEEP: bool>(
    column: &mut Fixed<T>,
    block: &Block,
    index: usize,
    texts: Texts<'_>,
    nullable: bool,
    fail: &mut dyn FnMut(usize, ValueError, &[u8]),
    parse: impl Fn(&[u8], usize, usize) -> Result<T::Native, ValueError>,
) {
    if KEEP {
        column.values.reserve(block.len());
    }
    let mut keep = |value| {
        if KEEP {
            column.push(value);
        }
    };
    for row in 0..block.len() {
        let field = block.fields[row * block.width + index];
        if field.is_null() {
            keep(None);
            if !nullable {
                fail(row, null_in_not_null(), b"");
            }
            continue;
        }
        let (from, start, len) = texts.place(field);
        match parse(from, start, len) {
            Ok(v) => keep(Some(v)),
            Err(e) => {
                keep(None);
                fail(row, e, &from[start..start + len]);
            }
        }
    }
}

impl ListColumn {
    /// Adds one array, from PostgreSQL's `{…}` or from JSON. On error the row holds what was read before it.
    fn push(&mut self, text: Option<&[u8]>, json: bool) -> Result<(), ValueError> {
        let result = match text {
            None => Ok(()),
            Some(t) if json => self.push_json(t),
            Some(t) => self.push_braces(t),
        };
        self.nulls.append(text.is_some());
        self.ends.push(self.elements.len() as i32);
        result
    }

    fn push_json(&mut self, text: &[u8]) -> Result<(), ValueError> {
        if text.first() != Some(&b'[') {
            return Err(ValueError::Other("expected JSON array".into()));
        }
        let mut at = json::skip_space(text, 1);
        let (mut scratch, mut first_error) = (Vec::new(), None);
        while text.get(at).is_some_and(|b| *b != b']') {
            let mut met = Met::default();
            let end = json::skip_value(text, at, &mut met).map_err(other)?;
            let value = &text[at..end];
            let pushed = match value {
                b"null" => self.elements.push(None, true),
                [b'"', inside @ .., b'"'] if !self.elements.wants_json() => {
                    scratch.clear();
                    match json::unescape(inside, &mut scratch) {
                        Ok(()) => self.elements.push(Some(&scratch), true),
                        Err(e) => Err(other(e)),
                    }
                }
                _ => self.elements.push(Some(value), true),
            };
            if let Err(e) = pushed {
                let message = e.message(&self.elements.type_name, value);
                first_error.get_or_insert(ValueError::Other(message));
            }
            at = json::skip_space(text, end);
            if text.get(at) == Some(&b',') {
                at = json::skip_space(text, at + 1);
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    /// `{a,"b c",NULL}`; one dimension.
    fn push_braces(&mut self, text: &[u8]) -> Result<(), ValueError> {
        let malformed = || ValueError::Quoted("malformed array literal");
        let inside = match text::trim(text) {
            [b'{', inside @ .., b'}'] => inside,
            _ => return Err(malformed()),
        };
        if text::trim(inside).is_empty() {
            return Ok(());
        }
        let mut rest = inside;
        let mut element = Vec::new();
        let mut first_error = None;
        loop {
            element.clear();
            rest = rest.trim_ascii_start();
            let quoted = rest.first() == Some(&b'"');
            let mut at = usize::from(quoted);
            loop {
                match (rest.get(at), quoted) {
                    (Some(b'\\'), _) => {
                        element.push(*rest.get(at + 1).ok_or_else(malformed)?);
                        at += 2;
                    }
                    (Some(b'"'), true) => {
                        at += 1;
                        break;
                    }
                    (Some(b','), false) | (None, false) => break,
                    (Some(b'{' | b'}' | b'"'), false) | (None, true) => return Err(malformed()),
                    (Some(b), _) => {
                        element.push(*b);
                        at += 1;
                    }
                }
            }
            let value = if quoted {
                element.as_slice()
            } else {
                text::trim(&element)
            };
            if !quoted && value.is_empty() {
                return Err(malformed());
            }
            let null = !quoted && value.eq_ignore_ascii_case(b"null");
            if let Err(e) = self.elements.push((!null).then_some(value), false) {
                let message = e.message(&self.elements.type_name, value);
                first_error.get_or_insert(ValueError::Other(message));
            }
            rest = rest[at..].trim_ascii_start();
            match rest.split_first() {
                None => return first_error.map_or(Ok(()), Err),
                Some((b',', tail)) => rest = tail,
                Some(_) => return Err(malformed()),
            }
        }
    }

    fn finish(&mut self) -> ArrayRef {
        let empty = Buffer::from_vec(Vec::<u8>::new());
        let elements = self.elements.finish(&empty, &empty);
        let ends = OffsetBuffer::new(std::mem::replace(&mut self.ends, vec![0]).into());
        Arc::new(ListArray::new(
            self.field.clone(),
            ends,
            elements,
            self.nulls.finish(),
        ))
    }
}

fn other(e: json::JsonError) -> ValueError {
    ValueError::Other(e.to_string())
}

impl Column {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Values so far.
    pub fn len(&self) -> usize {
        match &self.values {
            Values::Bool(bits, _) => bits.len(),
            Values::Int2(c) => c.values.len(),
            Values::Int4(c) => c.values.len(),
            Values::Int8(c) => c.values.len(),
            Values::Float4(c) => c.values.len(),
            Values::Float8(c) => c.values.len(),
            Values::Numeric(c, _, _) => c.values.len(),
            Values::Date(c) => c.values.len(),
            Values::Time(c) => c.values.len(),
            Values::Timestamp(c) | Values::Timestamptz(c) => c.values.len(),
            Values::Interval(c) => c.values.len(),
            Values::Bytea(_, ends, _) => ends.len() - 1,
            Values::Text(views) => views.len(),
            Values::List(list) => list.ends.len() - 1,
        }
    }
}
