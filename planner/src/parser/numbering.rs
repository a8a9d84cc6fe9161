//! serial and IDENTITY columns.

use sqlparser::ast::{self as sql, SequenceOptions};
use tidemill_zset::schema::SqlType;

use crate::ast::{ColumnDef, ColumnDefault, Numbering, NumberingKind};
use crate::error::{Result, SqlError};

/// The type of a serial column, if it is declared as one.
pub(super) fn serial(declared: &sql::DataType) -> Option<SqlType> {
    let sql::DataType::Custom(name, modifiers) = declared else {
        return None;
    };
    let parts = super::parts(name);
    let [name] = parts.as_slice() else {
        return None;
    };
    match (name.as_str(), modifiers.as_slice()) {
        ("smallserial" | "serial2", []) => Some(SqlType::Int2),
        ("serial" | "serial4", []) => Some(SqlType::Int4),
        ("bigserial" | "serial8", []) => Some(SqlType::Int8),
        _ => None,
    }
}

/// How a column of the type is numbered.
pub(super) fn of(
    column: &str,
    data_type: &SqlType,
    kind: NumberingKind,
    options: &[SequenceOptions],
) -> Result<ColumnDefault> {
    let (type_min, type_max) = match data_type {
        SqlType::Int2 => (i64::from(i16::MIN), i64::from(i16::MAX)),
        SqlType::Int4 => (i64::from(i32::MIN), i64::from(i32::MAX)),
        SqlType::Int8 => (i64::MIN, i64::MAX),
        _ => {
            return Err(SqlError::new(
                "22023",
                "identity column type must be smallint, integer, or bigint",
            ));
        }
    };
    let (mut start, mut increment, mut min, mut max) = (None, 1, None, None);
    for option in options {
        match option {
            SequenceOptions::StartWith(e, _) => start = Some(number(e)?),
            SequenceOptions::IncrementBy(e, _) => increment = number(e)?,
            SequenceOptions::MinValue(e) => min = e.as_ref().map(number).transpose()?,
            SequenceOptions::MaxValue(e) => max = e.as_ref().map(number).transpose()?,
            SequenceOptions::Cache(_) | SequenceOptions::Cycle(false) => {}
            SequenceOptions::Cycle(true) => {
                return Err(SqlError::unsupported(format!(
                    "CYCLE of column \"{column}\" is not supported"
                ))
                .hint("Numbers are given once."));
            }
        }
    }
    let invalid = |message: String| Err(SqlError::new("22023", message));
    if increment == 0 {
        return invalid("INCREMENT must not be zero".into());
    }
    let up = increment > 0;
    let min = min.unwrap_or(if up { 1 } else { type_min });
    let max = max.unwrap_or(if up { type_max } else { -1 });
    for (bound, name) in [(max, "MAXVALUE"), (min, "MINVALUE")] {
        if bound < type_min || bound > type_max {
            return invalid(format!(
                "{name} ({bound}) is out of range for sequence data type {data_type}"
            ));
        }
    }
    if min >= max {
        return invalid(format!(
            "MINVALUE ({min}) must be less than MAXVALUE ({max})"
        ));
    }
    let start = start.unwrap_or(if up { min } else { max });
    if start < min {
        return invalid(format!(
            "START value ({start}) cannot be less than MINVALUE ({min})"
        ));
    }
    if start > max {
        return invalid(format!(
            "START value ({start}) cannot be greater than MAXVALUE ({max})"
        ));
    }
    Ok(ColumnDefault::Numbering(Numbering {
        kind,
        start,
        increment,
        min,
        max,
    }))
}

/// A column has one DEFAULT or numbering; `identity`: what comes is the latter.
pub(super) fn check_alone(column: &ColumnDef, table: &str, identity: bool) -> Result<()> {
    let is_identity = match &column.default {
        None => return Ok(()),
        Some(ColumnDefault::Numbering(n)) => n.kind != NumberingKind::Serial,
        Some(ColumnDefault::Expression(_)) => false,
    };
    let what = match (is_identity, identity) {
        (true, true) => "multiple identity specifications",
        (false, false) => "multiple default values specified",
        _ => "both default and identity specified",
    };
    let column = &column.name;
    Err(SqlError::new(
        "42601",
        format!("{what} for column \"{column}\" of table \"{table}\""),
    ))
}

fn number(e: &sql::Expr) -> Result<i64> {
    let text = e.to_string().replace(' ', "");
    text.parse()
        .map_err(|_| SqlError::new("42601", format!("syntax error at or near \"{text}\"")))
}
