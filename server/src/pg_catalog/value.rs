//! Values and types of catalog queries.
//!
//! Invariant: rows of the catalog are few and short-lived, so values are an enum here, unlike
//! everywhere else; they become Arrow when they leave.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int16Array, Int32Array, Int64Array, ListArray,
    StringViewArray, TimestampMicrosecondArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field};
use tidemill_planner::SqlError;
use tidemill_zset::schema::{SqlType, TYPE_KEY, UTC};

/// A value.
#[derive(Clone, Debug)]
pub enum Value {
    /// NULL
    Null,
    /// boolean
    Bool(bool),
    /// integers and oids
    Int(i64),
    /// double precision
    Float(f64),
    /// text, name, "char"
    Text(Arc<str>),
    /// regclass and its like: an oid that is shown as a name
    Reg(i64, Arc<str>),
    /// arrays and vectors
    Array(Arc<[Value]>),
}

/// A type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ty {
    /// boolean
    Bool,
    /// smallint
    Int2,
    /// integer
    Int4,
    /// bigint
    Int8,
    /// oid
    Oid,
    /// double precision
    Float8,
    /// text
    Text,
    /// json
    Json,
    /// jsonb
    Jsonb,
    /// name
    Name,
    /// "char"
    Char,
    /// timestamptz: always NULL here
    Timestamptz,
    /// regclass, regtype, …
    Reg(RegKind),
    /// one-dimensional array
    Array(&'static Ty),
    /// int2vector: an array that is counted from 0 and shown as `1 2 3`
    Int2Vector,
    /// oidvector: likewise
    OidVector,
}

/// Which names a `reg…` type shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegKind {
    /// relations
    Class,
    /// types
    Type,
    /// schemas
    Namespace,
    /// functions
    Proc,
    /// roles
    Role,
}

impl Ty {
    /// The type of a name in [`columns`](super::columns), or of a cast. `None`: unknown.
    pub fn named(name: &str) -> Option<Ty> {
        Some(match name {
            "bool" | "boolean" => Ty::Bool,
            "int2" | "smallint" => Ty::Int2,
            "int4" | "integer" | "int" | "xid" | "cardinal_number" => Ty::Int4,
            "int8" | "bigint" => Ty::Int8,
            "oid" => Ty::Oid,
            "float8" | "float4" | "double precision" | "real" | "numeric" => Ty::Float8,
            "text" | "varchar" | "character varying" | "unknown" | "bpchar" | "sql_identifier"
            | "character_data" | "yes_or_no" | "regexp" => Ty::Text,
            "json" => Ty::Json,
            "jsonb" => Ty::Jsonb,
            "name" => Ty::Name,
            "char" => Ty::Char,
            "timestamptz" | "timestamp with time zone" | "timestamp" => Ty::Timestamptz,
            "regclass" => Ty::Reg(RegKind::Class),
            "regtype" => Ty::Reg(RegKind::Type),
            "regnamespace" => Ty::Reg(RegKind::Namespace),
            "regproc" | "regprocedure" => Ty::Reg(RegKind::Proc),
            "regrole" => Ty::Reg(RegKind::Role),
            "int2vector" => Ty::Int2Vector,
            "oidvector" => Ty::OidVector,
            _ => {
                let element = name.strip_prefix('_').or_else(|| name.strip_suffix("[]"))?;
                Ty::named(element)?.array()
            }
        })
    }

    /// The array of this type.
    pub fn array(self) -> Ty {
        Ty::Array(match self {
            Ty::Bool => &Ty::Bool,
            Ty::Int2 => &Ty::Int2,
            Ty::Int4 => &Ty::Int4,
            Ty::Int8 => &Ty::Int8,
            Ty::Oid => &Ty::Oid,
            Ty::Float8 => &Ty::Float8,
            Ty::Name => &Ty::Name,
            Ty::Char => &Ty::Char,
            Ty::Reg(RegKind::Class) => &Ty::Reg(RegKind::Class),
            Ty::Reg(RegKind::Type) => &Ty::Reg(RegKind::Type),
            Ty::Reg(RegKind::Namespace) => &Ty::Reg(RegKind::Namespace),
            Ty::Reg(RegKind::Proc) => &Ty::Reg(RegKind::Proc),
            Ty::Reg(RegKind::Role) => &Ty::Reg(RegKind::Role),
            _ => &Ty::Text,
        })
    }

    /// The type of an array's elements.
    pub fn element(self) -> Ty {
        match self {
            Ty::Array(of) => *of,
            Ty::Int2Vector => Ty::Int2,
            Ty::OidVector => Ty::Oid,
            other => other,
        }
    }

    /// Whether it is counted from 0.
    pub fn is_vector(self) -> bool {
        matches!(self, Ty::Int2Vector | Ty::OidVector)
    }

    /// The field that carries it.
    pub fn field(self, name: &str) -> Field {
        let tagged = |field: Field, tag: &str| {
            field.with_metadata(HashMap::from([(TYPE_KEY.to_string(), tag.to_string())]))
        };
        match self {
            Ty::Bool => SqlType::Bool.field(name, true),
            Ty::Int2 => SqlType::Int2.field(name, true),
            Ty::Int4 => SqlType::Int4.field(name, true),
            Ty::Int8 => SqlType::Int8.field(name, true),
            Ty::Oid => tagged(SqlType::Int8.field(name, true), "oid"),
            Ty::Float8 => SqlType::Float8.field(name, true),
            Ty::Name => tagged(SqlType::Text.field(name, true), "name"),
            Ty::Char => tagged(SqlType::Text.field(name, true), "char"),
            Ty::Timestamptz => SqlType::Timestamptz.field(name, true),
            Ty::Int2Vector => tagged(SqlType::Text.field(name, true), "int2vector"),
            Ty::OidVector => tagged(SqlType::Text.field(name, true), "oidvector"),
            Ty::Json => SqlType::Json.field(name, true),
            Ty::Jsonb => SqlType::Jsonb.field(name, true),
            Ty::Text | Ty::Reg(_) => SqlType::Text.field(name, true),
            Ty::Array(of) => Field::new(name, DataType::List(Arc::new(of.field("item"))), true),
        }
    }

    /// Values as an Arrow array of [`Ty::field`]'s type.
    pub fn arrow(self, values: &[Value]) -> ArrayRef {
        let ints = || values.iter().map(Value::int);
        match self {
            Ty::Bool => Arc::new(values.iter().map(Value::bool).collect::<BooleanArray>()),
            Ty::Int2 => Arc::new(ints().map(|v| v.map(|v| v as i16)).collect::<Int16Array>()),
            Ty::Int4 => Arc::new(ints().map(|v| v.map(|v| v as i32)).collect::<Int32Array>()),
            Ty::Int8 | Ty::Oid => Arc::new(ints().collect::<Int64Array>()),
            Ty::Float8 => Arc::new(
                values
                    .iter()
                    .map(|value| match value {
                        Value::Float(v) => Some(*v),
                        other => other.int().map(|v| v as f64),
                    })
                    .collect::<Float64Array>(),
            ),
            Ty::Timestamptz => {
                let micros = ints().collect::<TimestampMicrosecondArray>();
                Arc::new(micros.with_timezone(UTC))
            }
            Ty::Text
            | Ty::Json
            | Ty::Jsonb
            | Ty::Name
            | Ty::Char
            | Ty::Reg(_)
            | Ty::Int2Vector
            | Ty::OidVector => {
                let texts = values.iter().map(|value| match (self, value) {
                    (_, Value::Null) => None,
                    (Ty::Int2Vector | Ty::OidVector, Value::Array(items)) => {
                        Some(items.iter().map(Value::show).collect::<Vec<_>>().join(" "))
                    }
                    (_, value) => Some(value.show()),
                });
                Arc::new(texts.collect::<StringViewArray>())
            }
            Ty::Array(of) => {
                let mut items = Vec::new();
                let mut lengths = Vec::new();
                for value in values {
                    let before = items.len();
                    if let Value::Array(elements) = value {
                        items.extend(elements.iter().cloned());
                    }
                    lengths.push(items.len() - before);
                }
                let nulls: NullBuffer = values.iter().map(|v| !v.is_null()).collect();
                Arc::new(ListArray::new(
                    Arc::new(of.field("item")),
                    OffsetBuffer::from_lengths(lengths),
                    of.arrow(&items),
                    Some(nulls),
                ))
            }
        }
    }
}

impl Value {
    /// Text.
    pub fn text(text: impl AsRef<str>) -> Value {
        Value::Text(Arc::from(text.as_ref()))
    }

    /// Text, or NULL.
    pub fn maybe(text: Option<&str>) -> Value {
        text.map_or(Value::Null, Value::text)
    }

    /// A time, in microseconds.
    pub fn time(time: Option<std::time::SystemTime>) -> Value {
        let since_1970 = time.and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
        since_1970.map_or(Value::Null, |d| Value::Int(d.as_micros() as i64))
    }

    /// An array of integers.
    pub fn ints(values: impl IntoIterator<Item = i64>) -> Value {
        Value::Array(values.into_iter().map(Value::Int).collect())
    }

    /// True for NULL.
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    /// As an integer, where it is or reads as one.
    pub fn int(&self) -> Option<i64> {
        match self {
            Value::Int(v) | Value::Reg(v, _) => Some(*v),
            Value::Float(v) => Some(*v as i64),
            Value::Bool(v) => Some(i64::from(*v)),
            Value::Text(text) => text.trim().parse().ok(),
            _ => None,
        }
    }

    /// As a boolean; NULL and what is none: `None`.
    pub fn bool(&self) -> Option<bool> {
        match self {
            Value::Bool(v) => Some(*v),
            Value::Text(text) => match text.as_ref() {
                "t" | "true" | "on" | "yes" | "1" => Some(true),
                "f" | "false" | "off" | "no" | "0" => Some(false),
                _ => None,
            },
            _ => None,
        }
    }

    /// As text; NULL is empty.
    pub fn show(&self) -> String {
        match self {
            Value::Null => String::new(),
            Value::Bool(v) => if *v { "t" } else { "f" }.into(),
            Value::Int(v) => v.to_string(),
            Value::Float(v) => v.to_string(),
            Value::Text(text) | Value::Reg(_, text) => text.to_string(),
            Value::Array(items) => {
                let items: Vec<String> = items
                    .iter()
                    .map(|item| match item {
                        Value::Null => "NULL".into(),
                        item => {
                            let mut out = bytes::BytesMut::from(item.show().as_bytes());
                            crate::pg::text::quote_element(0, &mut out);
                            String::from_utf8_lossy(&out).into_owned()
                        }
                    })
                    .collect();
                format!("{{{}}}", items.join(","))
            }
        }
    }

    /// PostgreSQL's order of two values that aren't NULL; `None` where they can't be compared.
    pub fn compare(&self, other: &Value) -> Option<Ordering> {
        match (self, other) {
            (Value::Null, _) | (_, Value::Null) => None,
            (Value::Array(a), Value::Array(b)) => {
                for (a, b) in a.iter().zip(b.iter()) {
                    match a.compare(b) {
                        Some(Ordering::Equal) => {}
                        unequal => return unequal,
                    }
                }
                Some(a.len().cmp(&b.len()))
            }
            (Value::Array(_), Value::Text(_)) | (Value::Text(_), Value::Array(_)) => {
                Some(self.show().cmp(&other.show()))
            }
            (Value::Text(a), Value::Text(b)) => Some(a.cmp(b)),
            (Value::Reg(_, a), Value::Text(b)) if b.parse::<i64>().is_err() => {
                Some(a.as_ref().cmp(b))
            }
            (Value::Text(a), Value::Reg(_, b)) if a.parse::<i64>().is_err() => {
                Some(a.as_ref().cmp(b))
            }
            (Value::Bool(_), _) | (_, Value::Bool(_)) => Some(self.bool()?.cmp(&other.bool()?)),
            (Value::Float(_), _) | (_, Value::Float(_)) => {
                let float = |value: &Value| match value {
                    Value::Float(v) => Some(*v),
                    Value::Text(text) => text.trim().parse().ok(),
                    other => other.int().map(|v| v as f64),
                };
                let (a, b) = (float(self)?, float(other)?);
                // NaN is equal to itself, and greater than all others.
                Some(a.partial_cmp(&b).unwrap_or(a.is_nan().cmp(&b.is_nan())))
            }
            _ => Some(self.int()?.cmp(&other.int()?)),
        }
    }
}

/// `22P02` for a value that doesn't read as its new type.
pub fn invalid(what: &str, text: &str) -> SqlError {
    SqlError::new(
        "22P02",
        format!("invalid input syntax for type {what}: \"{text}\""),
    )
}
