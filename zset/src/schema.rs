//! SQL types as users declare them, and the Arrow fields that carry them.
//!
//! An Arrow type alone cannot say "jsonb" or "uuid"; such fields carry the SQL name in their
//! metadata under [`TYPE_KEY`]. Everything else is a function of the Arrow type.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, IntervalUnit, TimeUnit};

/// Metadata key of a field whose SQL type the Arrow type does not determine.
pub const TYPE_KEY: &str = "tidemill.type";

/// The time zone of every `timestamptz`: instants are stored as microseconds since the Unix epoch, UTC.
pub const UTC: &str = "+00:00";

/// A type of the SQL dialect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SqlType {
    /// `boolean`
    Bool,
    /// `smallint`
    Int2,
    /// `integer`
    Int4,
    /// `bigint`
    Int8,
    /// `real`
    Float4,
    /// `double precision`
    Float8,
    /// `numeric(precision, scale)`; at most 38 digits. Precision 0: declared without one; values have up to 38 digits
    /// ([`SqlType::digits`]) and are shown without trailing zeros after the point.
    Numeric(u8, i8),
    /// `text`
    Text,
    /// `varchar(n)`, n in characters; `None`: without a limit
    Varchar(Option<u32>),
    /// `char(n)`, n in characters; held without the spaces that pad it
    Char(u32),
    /// `bytea`
    Bytea,
    /// `date`
    Date,
    /// `time`, microseconds
    Time,
    /// `timestamp`, microseconds
    Timestamp,
    /// `timestamptz`, microseconds, UTC
    Timestamptz,
    /// `interval`
    Interval,
    /// `uuid`, held as its canonical lower-case text
    Uuid,
    /// `json`, held as the text given
    Json,
    /// `jsonb`, held as text with the insignificant space removed
    Jsonb,
    /// an array of one dimension
    Array(Box<SqlType>),
    /// anything else: a struct, a type of the catalog. Printed by the name of its Arrow type.
    Other(DataType),
}

impl SqlType {
    /// The Arrow type that carries values of this type.
    pub fn arrow(&self) -> DataType {
        match self {
            SqlType::Bool => DataType::Boolean,
            SqlType::Int2 => DataType::Int16,
            SqlType::Int4 => DataType::Int32,
            SqlType::Int8 => DataType::Int64,
            SqlType::Float4 => DataType::Float32,
            SqlType::Float8 => DataType::Float64,
            SqlType::Numeric(p, s) => DataType::Decimal128(SqlType::digits(*p), *s),
            SqlType::Text
            | SqlType::Varchar(_)
            | SqlType::Char(_)
            | SqlType::Uuid
            | SqlType::Json
            | SqlType::Jsonb => DataType::Utf8View,
            SqlType::Bytea => DataType::Binary,
            SqlType::Date => DataType::Date32,
            SqlType::Time => DataType::Time64(TimeUnit::Microsecond),
            SqlType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            SqlType::Timestamptz => DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into())),
            SqlType::Interval => DataType::Interval(IntervalUnit::MonthDayNano),
            SqlType::Array(of) => DataType::List(Arc::new(Field::new("item", of.arrow(), true))),
            SqlType::Other(t) => t.clone(),
        }
    }

    /// Digits that a numeric of some precision has room for.
    pub const fn digits(precision: u8) -> u8 {
        if precision == 0 { 38 } else { precision }
    }

    /// An Arrow field of this type.
    pub fn field(&self, name: &str, nullable: bool) -> Field {
        let field = Field::new(name, self.arrow(), nullable);
        match self.tag() {
            Some(tag) => field.with_metadata(HashMap::from([(TYPE_KEY.to_string(), tag)])),
            None => field,
        }
    }

    fn tag(&self) -> Option<String> {
        match self {
            SqlType::Varchar(Some(n)) => Some(format!("varchar({n})")),
            SqlType::Varchar(None) => Some("varchar".into()),
            SqlType::Char(n) => Some(format!("char({n})")),
            SqlType::Uuid => Some("uuid".into()),
            SqlType::Json => Some("json".into()),
            SqlType::Jsonb => Some("jsonb".into()),
            SqlType::Numeric(0, _) => Some("numeric".into()),
            SqlType::Array(of) => of.tag().map(|tag| tag + ARRAY),
            _ => None,
        }
    }

    /// The SQL type that a field carries.
    pub fn of(field: &Field) -> SqlType {
        if let Some(tag) = field.metadata().get(TYPE_KEY) {
            match tag.as_str() {
                "uuid" => return SqlType::Uuid,
                "json" => return SqlType::Json,
                "jsonb" => return SqlType::Jsonb,
                "varchar" => return SqlType::Varchar(None),
                "numeric" => {
                    if let DataType::Decimal128(_, s) = field.data_type() {
                        return SqlType::Numeric(0, *s);
                    }
                }
                _ => {
                    if let Some(n) = tag
                        .strip_prefix("varchar(")
                        .and_then(|t| t.strip_suffix(')'))
                    {
                        return SqlType::Varchar(n.parse().ok());
                    }
                    if let Some(n) = tag
                        .strip_prefix("char(")
                        .and_then(|t| t.strip_suffix(')')?.parse().ok())
                    {
                        return SqlType::Char(n);
                    }
                }
            }
        }
        if let Some(item) = item(field) {
            return SqlType::Array(Box::new(SqlType::of(&item)));
        }
        match field.data_type() {
            DataType::Boolean => SqlType::Bool,
            DataType::Int8 | DataType::UInt8 | DataType::Int16 => SqlType::Int2,
            DataType::UInt16 | DataType::Int32 => SqlType::Int4,
            DataType::UInt32 | DataType::Int64 => SqlType::Int8,
            DataType::UInt64 => SqlType::Numeric(20, 0),
            DataType::Float16 | DataType::Float32 => SqlType::Float4,
            DataType::Float64 => SqlType::Float8,
            DataType::Decimal32(p, s)
            | DataType::Decimal64(p, s)
            | DataType::Decimal128(p, s)
            | DataType::Decimal256(p, s) => SqlType::Numeric(*p, *s),
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => {
                SqlType::Text
            }
            DataType::Binary
            | DataType::LargeBinary
            | DataType::BinaryView
            | DataType::FixedSizeBinary(_) => SqlType::Bytea,
            DataType::Date32 | DataType::Date64 => SqlType::Date,
            DataType::Time32(_) | DataType::Time64(_) => SqlType::Time,
            DataType::Timestamp(_, None) => SqlType::Timestamp,
            DataType::Timestamp(_, Some(_)) => SqlType::Timestamptz,
            DataType::Interval(_) | DataType::Duration(_) => SqlType::Interval,
            DataType::Dictionary(_, v) => SqlType::of(&Field::new("", v.as_ref().clone(), true)),
            other => SqlType::Other(other.clone()),
        }
    }
}

/// What a tag of an array's elements has behind it as one of the array. A list's own item has none, so that all lists of values that
/// are carried alike have one Arrow type: much of DataFusion forgets what is said of items.
const ARRAY: &str = "[]";

/// The elements of a list as a column of the SQL type that they have. `None`: it is no list.
pub fn item(list: &Field) -> Option<Field> {
    let (DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _)) =
        list.data_type()
    else {
        return None;
    };
    let mut item = item.as_ref().clone();
    let tag = list.metadata().get(TYPE_KEY);
    if let Some(tag) = tag.and_then(|tag| tag.strip_suffix(ARRAY)) {
        item.set_metadata(HashMap::from([(TYPE_KEY.to_string(), tag.to_string())]));
    }
    Some(item)
}

/// The field with the tag of a list's elements where it is now: versions before had it on the item.
pub fn settled(field: &Field) -> Field {
    match (item(field), field.data_type()) {
        (Some(item), DataType::List(_)) if item.metadata().contains_key(TYPE_KEY) => {
            SqlType::Array(Box::new(SqlType::of(&item))).field(field.name(), field.is_nullable())
        }
        _ => field.clone(),
    }
}

impl std::fmt::Display for SqlType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SqlType::Bool => f.write_str("boolean"),
            SqlType::Int2 => f.write_str("smallint"),
            SqlType::Int4 => f.write_str("integer"),
            SqlType::Int8 => f.write_str("bigint"),
            SqlType::Float4 => f.write_str("real"),
            SqlType::Float8 => f.write_str("double precision"),
            SqlType::Numeric(0, _) => f.write_str("numeric"),
            SqlType::Numeric(p, s) => write!(f, "numeric({p},{s})"),
            SqlType::Text => f.write_str("text"),
            SqlType::Varchar(Some(n)) => write!(f, "character varying({n})"),
            SqlType::Varchar(None) => f.write_str("character varying"),
            SqlType::Char(n) => write!(f, "character({n})"),
            SqlType::Bytea => f.write_str("bytea"),
            SqlType::Date => f.write_str("date"),
            SqlType::Time => f.write_str("time without time zone"),
            SqlType::Timestamp => f.write_str("timestamp without time zone"),
            SqlType::Timestamptz => f.write_str("timestamp with time zone"),
            SqlType::Interval => f.write_str("interval"),
            SqlType::Uuid => f.write_str("uuid"),
            SqlType::Json => f.write_str("json"),
            SqlType::Jsonb => f.write_str("jsonb"),
            SqlType::Array(of) => write!(f, "{of}[]"),
            SqlType::Other(t) => write!(f, "{t}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_of_all_types_that_are_carried_alike_have_one_arrow_type() {
        let of = |ty: SqlType| SqlType::Array(Box::new(ty));
        let carried_as_text = [
            SqlType::Text,
            SqlType::Uuid,
            SqlType::Json,
            SqlType::Jsonb,
            SqlType::Varchar(Some(5)),
            SqlType::Char(3),
        ];
        for ty in carried_as_text {
            let field = of(ty.clone()).field("a", true);
            assert_eq!(SqlType::of(&field), of(ty.clone()), "{ty} is known again");
            assert_eq!(field.data_type(), &of(SqlType::Text).arrow());
            assert_eq!(item(&field).map(|i| SqlType::of(&i)), Some(ty.clone()));
            // As directories of earlier versions have it.
            let before = DataType::List(Arc::new(ty.field("item", true)));
            let before = Field::new("a", before, true);
            assert_eq!(settled(&before), field);
            assert_eq!(settled(&field), field);
        }
        assert_eq!(item(&SqlType::Uuid.field("u", true)), None);
    }
}
