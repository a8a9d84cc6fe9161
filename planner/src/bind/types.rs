//! Types of the dialect: from their SQL spelling, their categories, and which one an
//! expression of several types takes.

use arrow::datatypes::DataType;
use sqlparser::ast::{
    ArrayElemTypeDef, CharacterLength, DataType as Sql, ExactNumberInfo, TimezoneInfo,
};
use tidemill_zset::schema::SqlType;

use crate::error::{Result, SqlError};

/// Digits of every `numeric`.
pub const PRECISION_MAX: u8 = 38;
/// Scale of `numeric` declared without precision and scale: PostgreSQL keeps any scale per value, we one per column.
pub const SCALE_DEFAULT: i8 = 10;
/// Scale of numerics made from floats.
const SCALE_OF_FLOATS: i8 = 15;
/// Scale of quotients and averages, as PostgreSQL prints them for quotients from 1 to 9999.
pub const SCALE_QUOTIENT: i8 = 16;
/// Scale that a product isn't given beyond its factors' own.
pub const SCALE_PRODUCT_MAX: i8 = 20;

/// The type that a declaration names.
pub(crate) fn sql_type(t: &Sql) -> Result<SqlType> {
    Ok(match t {
        Sql::Bool | Sql::Boolean => SqlType::Bool,
        Sql::SmallInt(_) | Sql::Int2(_) => SqlType::Int2,
        Sql::Int(_) | Sql::Integer(_) | Sql::Int4(_) => SqlType::Int4,
        Sql::BigInt(_) | Sql::Int8(_) => SqlType::Int8,
        Sql::Real | Sql::Float4 => SqlType::Float4,
        Sql::Float(ExactNumberInfo::Precision(p)) if *p <= 24 => SqlType::Float4,
        Sql::Float(_) | Sql::Float8 | Sql::Double(_) | Sql::DoublePrecision => SqlType::Float8,
        Sql::Numeric(n) | Sql::Decimal(n) | Sql::Dec(n) => numeric(n)?,
        Sql::Text => SqlType::Text,
        Sql::Varchar(n) | Sql::CharacterVarying(n) | Sql::CharVarying(n) => {
            SqlType::Varchar(length(n)?)
        }
        Sql::Char(n) | Sql::Character(n) => SqlType::Char(length(n)?.unwrap_or(1)),
        Sql::String(None) => SqlType::Text,
        Sql::Bytea => SqlType::Bytea,
        Sql::Date => SqlType::Date,
        Sql::Time(_, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => SqlType::Time,
        Sql::Timestamp(_, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => SqlType::Timestamp,
        Sql::Timestamp(..) => SqlType::Timestamptz,
        Sql::Interval { .. } => SqlType::Interval,
        Sql::Uuid => SqlType::Uuid,
        Sql::JSON => SqlType::Json,
        Sql::JSONB => SqlType::Jsonb,
        Sql::Regclass => regclass(),
        Sql::Array(ArrayElemTypeDef::SquareBracket(of, _) | ArrayElemTypeDef::AngleBracket(of)) => {
            match sql_type(of)? {
                SqlType::Array(_) => {
                    return Err(SqlError::unsupported("arrays of arrays are not supported"));
                }
                of => SqlType::Array(Box::new(of)),
            }
        }
        Sql::Custom(name, modifiers) => {
            custom(&crate::parser::parts(name), modifiers, &t.to_string())?
        }
        other => return Err(unknown(&other.to_string().to_lowercase())),
    })
}

fn unknown(name: &str) -> SqlError {
    SqlError::new("42704", format!("type \"{name}\" does not exist"))
}

fn custom(name: &[String], modifiers: &[String], text: &str) -> Result<SqlType> {
    let last = name.last().map(String::as_str).unwrap_or_default();
    Ok(match last {
        "bool" => SqlType::Bool,
        "int2" => SqlType::Int2,
        "int4" | "int" => SqlType::Int4,
        "int8" => SqlType::Int8,
        "float4" => SqlType::Float4,
        "float8" | "double" => SqlType::Float8,
        "numeric" | "decimal" => match modifiers {
            [] => numeric(&ExactNumberInfo::None)?,
            [p] => SqlType::Numeric(p.parse().map_err(|_| unknown(text))?, 0),
            [p, s, ..] => SqlType::Numeric(
                p.parse().map_err(|_| unknown(text))?,
                s.parse().map_err(|_| unknown(text))?,
            ),
        },
        "bpchar" if !modifiers.is_empty() => {
            SqlType::Char(modifiers[0].parse().map_err(|_| unknown(text))?)
        }
        "text" | "string" | "name" | "char" | "bpchar" | "jsonpath" | "regtype" | "regproc"
        | "regnamespace" | "regrole" | "refcursor" | "cstring" | "pg_node_tree" | "unknown" => {
            SqlType::Text
        }
        "varchar" => SqlType::Varchar(modifiers.first().and_then(|n| n.parse().ok())),
        "bytea" => SqlType::Bytea,
        "date" => SqlType::Date,
        "time" => SqlType::Time,
        "timestamp" => SqlType::Timestamp,
        "timestamptz" => SqlType::Timestamptz,
        "interval" => SqlType::Interval,
        "uuid" => SqlType::Uuid,
        "json" => SqlType::Json,
        "jsonb" => SqlType::Jsonb,
        "oid" | "xid" | "cid" => oid(),
        "regclass" => regclass(),
        "serial" | "serial4" | "bigserial" | "serial8" => {
            return Err(SqlError::unsupported(format!(
                "type {last} is not supported"
            )));
        }
        _ if last.starts_with('_') => {
            SqlType::Array(Box::new(custom(&[last[1..].to_string()], modifiers, text)?))
        }
        _ => return Err(unknown(&name.join("."))),
    })
}

/// `oid` is a bigint here.
pub(crate) fn oid() -> SqlType {
    SqlType::Int8
}

/// `regclass`: an oid that prints as a number here.
pub(crate) fn regclass() -> SqlType {
    SqlType::Int8
}

/// Digits that a numeric may be declared with, as in PostgreSQL.
const DECLARED_PRECISION_MAX: u64 = 1000;

fn numeric(n: &ExactNumberInfo) -> Result<SqlType> {
    let (p, s) = match n {
        ExactNumberInfo::None => return Ok(SqlType::Numeric(0, SCALE_DEFAULT)),
        ExactNumberInfo::Precision(p) => (*p, 0),
        ExactNumberInfo::PrecisionAndScale(p, s) => (*p, *s),
    };
    if !(1..=DECLARED_PRECISION_MAX).contains(&p) {
        return Err(SqlError::new(
            "22023",
            format!("NUMERIC precision {p} must be between 1 and {DECLARED_PRECISION_MAX}"),
        ));
    }
    // What is more than there is room for is as much as there is.
    let p = p.min(PRECISION_MAX as u64);
    if s < 0 || s > p as i64 {
        return Err(SqlError::new(
            "22023",
            format!("NUMERIC scale {s} must be between 0 and precision {p}"),
        ));
    }
    Ok(SqlType::Numeric(p as u8, s as i8))
}

fn length(n: &Option<CharacterLength>) -> Result<Option<u32>> {
    match n {
        None | Some(CharacterLength::Max) => Ok(None),
        Some(CharacterLength::IntegerLength { length: 0, .. }) => Err(SqlError::new(
            "22023",
            "length for a character type must be at least 1",
        )),
        Some(CharacterLength::IntegerLength { length, .. }) => Ok(Some(*length as u32)),
    }
}

/// PostgreSQL's name without modifiers, as error messages use it.
pub(crate) fn plain_name(t: &SqlType) -> String {
    match t {
        SqlType::Numeric(..) => "numeric".into(),
        SqlType::Varchar(_) => "character varying".into(),
        SqlType::Char(_) => "character".into(),
        SqlType::Array(of) => format!("{}[]", plain_name(of)),
        SqlType::Other(arrow::datatypes::DataType::Struct(_)) => "record".into(),
        t => t.to_string(),
    }
}

/// True for types held as text that behave as `text`.
pub(crate) fn is_text(t: &SqlType) -> bool {
    matches!(t, SqlType::Text | SqlType::Varchar(_) | SqlType::Char(_))
}

/// True for the types of numbers.
pub(crate) fn is_number(t: &SqlType) -> bool {
    number_rank(t) > 0
}

/// smallint < integer < bigint < numeric < real < double precision; 0: not a number.
pub(crate) fn number_rank(t: &SqlType) -> u8 {
    match t {
        SqlType::Int2 => 1,
        SqlType::Int4 => 2,
        SqlType::Int8 => 3,
        SqlType::Numeric(..) => 4,
        SqlType::Float4 => 5,
        SqlType::Float8 => 6,
        _ => 0,
    }
}

/// True for integers.
pub(crate) fn is_integer(t: &SqlType) -> bool {
    (1..=3).contains(&number_rank(t))
}

/// The numeric type that holds every value of a number type, as precision (0: open) and scale; floats keep 15
/// decimals, as many digits as are surely right.
pub(crate) fn as_numeric(t: &SqlType) -> (u8, i8) {
    match t {
        SqlType::Int2 => (5, 0),
        SqlType::Int4 => (10, 0),
        SqlType::Int8 => (19, 0),
        SqlType::Numeric(p, s) => (*p, *s),
        _ => (0, SCALE_OF_FLOATS),
    }
}

/// The numeric type that holds the values of both.
pub(crate) fn wider_numeric(a: (u8, i8), b: (u8, i8)) -> (u8, i8) {
    let scale = a.1.max(b.1);
    if a.0 == 0 || b.0 == 0 {
        return (0, scale);
    }
    let whole = (a.0 as i8 - a.1).max(b.0 as i8 - b.1);
    (((whole + scale).max(1) as u8).min(PRECISION_MAX), scale)
}

/// The type that UNION, CASE, VALUES and the like give to values of `a` and `b`.
pub(crate) fn common(a: &SqlType, b: &SqlType) -> Option<SqlType> {
    if a == b {
        return Some(a.clone());
    }
    match (a, b) {
        _ if is_text(a) && is_text(b) => Some(match (a, b) {
            (SqlType::Varchar(_), SqlType::Varchar(_)) => SqlType::Varchar(None),
            _ => SqlType::Text,
        }),
        _ if is_number(a) && is_number(b) => Some(common_number(a, b)),
        (SqlType::Date, SqlType::Timestamp) | (SqlType::Timestamp, SqlType::Date) => {
            Some(SqlType::Timestamp)
        }
        (SqlType::Date | SqlType::Timestamp, SqlType::Timestamptz)
        | (SqlType::Timestamptz, SqlType::Date | SqlType::Timestamp) => Some(SqlType::Timestamptz),
        (SqlType::Array(a), SqlType::Array(b)) => Some(SqlType::Array(Box::new(common(a, b)?))),
        // Rows are what their values are; the names are the first one's.
        (SqlType::Other(DataType::Struct(a)), SqlType::Other(DataType::Struct(b)))
            if a.len() == b.len() =>
        {
            let fields = a.iter().zip(b).map(|(a, b)| {
                let ty = common(&SqlType::of(a), &SqlType::of(b))?;
                Some(ty.field(a.name(), true))
            });
            let fields = fields.collect::<Option<Vec<_>>>()?;
            Some(SqlType::Other(DataType::Struct(fields.into())))
        }
        _ => None,
    }
}

/// The type of values side by side, as in COALESCE and UNION. Operators between real and other numbers take both as
/// double precision; here they become real.
pub(crate) fn united(a: &SqlType, b: &SqlType) -> Option<SqlType> {
    match (a, b) {
        (SqlType::Float4, other) | (other, SqlType::Float4)
            if is_number(other) && !matches!(other, SqlType::Float8) =>
        {
            Some(SqlType::Float4)
        }
        // Each row would keep its own values' types.
        (SqlType::Other(DataType::Struct(a)), SqlType::Other(DataType::Struct(b)))
            if a.len() == b.len() =>
        {
            let mut pairs = a.iter().zip(b);
            let same = pairs.all(|(a, b)| SqlType::of(a) == SqlType::of(b));
            same.then(|| SqlType::Other(DataType::Struct(a.clone())))
        }
        _ => common(a, b),
    }
}

fn common_number(a: &SqlType, b: &SqlType) -> SqlType {
    let top = if number_rank(a) >= number_rank(b) {
        a
    } else {
        b
    };
    match top {
        SqlType::Numeric(..) => {
            let (p, s) = wider_numeric(as_numeric(a), as_numeric(b));
            SqlType::Numeric(p, s)
        }
        SqlType::Float4 if a != b => SqlType::Float8,
        t => t.clone(),
    }
}

/// What the left side of `a = b` becomes, of which NULLIF is. Without a type are literals.
pub(crate) fn left_of_equals(a: Option<&SqlType>, b: Option<&SqlType>) -> SqlType {
    let Some(ty) = a.or(b) else {
        return SqlType::Text;
    };
    match (ty, b) {
        (SqlType::Varchar(_), _) => SqlType::Text,
        (SqlType::Char(_), Some(SqlType::Text | SqlType::Varchar(_))) => SqlType::Text,
        // There are operators between integers, and between floats, of different widths, but no others.
        (l, Some(SqlType::Float4 | SqlType::Float8)) if (1..=4).contains(&number_rank(l)) => {
            SqlType::Float8
        }
        (l, Some(SqlType::Numeric(..))) if is_integer(l) => {
            let (precision, scale) = as_numeric(l);
            SqlType::Numeric(precision, scale)
        }
        (l, _) => l.clone(),
    }
}

/// How far `from` is from `to` as an implicit cast; `None`: there is none.
pub(crate) fn implicit_cost(from: &SqlType, to: &SqlType) -> Option<u32> {
    if from == to {
        return Some(0);
    }
    match (from, to) {
        (SqlType::Numeric(..), SqlType::Numeric(..)) => Some(0),
        _ if is_text(from) && is_text(to) => Some(1),
        _ if is_number(from) && is_number(to) => {
            let (f, t) = (number_rank(from), number_rank(to));
            (f < t).then(|| {
                if t == 6 {
                    2 + (t - f) as u32
                } else {
                    (t - f) as u32 + 1
                }
            })
        }
        (SqlType::Date, SqlType::Timestamp) => Some(2),
        (SqlType::Date, SqlType::Timestamptz) => Some(1),
        (SqlType::Timestamp, SqlType::Timestamptz) => Some(1),
        (SqlType::Array(a), SqlType::Array(b)) => implicit_cost(a, b),
        (SqlType::Other(DataType::Struct(a)), SqlType::Other(DataType::Struct(b)))
            if a.len() == b.len() =>
        {
            let costs = a.iter().zip(b);
            costs
                .map(|(a, b)| implicit_cost(&SqlType::of(a), &SqlType::of(b)))
                .sum()
        }
        _ => None,
    }
}

/// True if `from` may be assigned to a column of `to` without an explicit cast.
pub(crate) fn assignable(from: &SqlType, to: &SqlType) -> bool {
    implicit_cost(from, to).is_some()
        || (is_number(from) && is_number(to))
        || is_text(to)
        || matches!(
            (from, to),
            (
                SqlType::Timestamp | SqlType::Timestamptz,
                SqlType::Date | SqlType::Time | SqlType::Timestamp
            ) | (SqlType::Time, SqlType::Interval)
                | (SqlType::Interval, SqlType::Time)
                | (SqlType::Json, SqlType::Jsonb)
                | (SqlType::Jsonb, SqlType::Json)
        )
        || matches!((from, to), (SqlType::Array(a), SqlType::Array(b)) if assignable(a, b))
}

/// True if `x::to` exists for values of `from`.
pub(crate) fn castable(from: &SqlType, to: &SqlType) -> bool {
    assignable(from, to)
        || is_text(from)
        || matches!(
            (from, to),
            (SqlType::Bool, SqlType::Int4) | (SqlType::Int4 | SqlType::Int8, SqlType::Bool)
        )
        || (matches!(from, SqlType::Jsonb) && (is_number(to) || matches!(to, SqlType::Bool)))
        || matches!((from, to), (SqlType::Array(a), SqlType::Array(b)) if castable(a, b))
}
