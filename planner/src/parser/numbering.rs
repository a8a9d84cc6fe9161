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
    data_type: &SqlType,
    kind: NumberingKind,
    options: &[SequenceOptions],
) -> Result<ColumnDefault> {
    let mut given = crate::ast::SequenceOptions::default();
    for option in options {
        match option {
            SequenceOptions::StartWith(e, _) => given.start = Some(number(e)?),
            SequenceOptions::IncrementBy(e, _) => given.increment = Some(number(e)?),
            SequenceOptions::MinValue(e) => given.min = Some(e.as_ref().map(number).transpose()?),
            SequenceOptions::MaxValue(e) => given.max = Some(e.as_ref().map(number).transpose()?),
            SequenceOptions::Cache(_) => {}
            SequenceOptions::Cycle(no) => given.cycle = Some(!no),
        }
    }
    Numbering::of_identity(data_type, kind, &given).map(ColumnDefault::Numbering)
}

pub(super) fn not_a_number() -> SqlError {
    SqlError::new(
        "22023",
        "identity column type must be smallint, integer, or bigint",
    )
}

pub(super) fn no_cycle() -> SqlError {
    SqlError::unsupported("CYCLE of a column is not supported").hint("Numbers are given once.")
}

/// The smallest and the greatest number of a type.
pub(super) fn range(data_type: &SqlType) -> Option<(i64, i64)> {
    match data_type {
        SqlType::Int2 => Some((i64::from(i16::MIN), i64::from(i16::MAX))),
        SqlType::Int4 => Some((i64::from(i32::MIN), i64::from(i32::MAX))),
        SqlType::Int8 => Some((i64::MIN, i64::MAX)),
        _ => None,
    }
}

/// The numbering that `given` declares, with PostgreSQL's defaults.
pub(super) fn declared(
    data_type: &SqlType,
    kind: NumberingKind,
    given: &crate::ast::SequenceOptions,
) -> Result<Numbering> {
    let (type_min, type_max) = range(data_type).ok_or_else(|| {
        SqlError::new(
            "22023",
            "sequence type must be smallint, integer, or bigint",
        )
    })?;
    let invalid = |message: String| Err(SqlError::new("22023", message));
    let increment = given.increment.unwrap_or(1);
    if increment == 0 {
        return invalid("INCREMENT must not be zero".into());
    }
    let up = increment > 0;
    let min = given.min.flatten().unwrap_or(if up { 1 } else { type_min });
    let max = given
        .max
        .flatten()
        .unwrap_or(if up { type_max } else { -1 });
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
    let start = given.start.unwrap_or(if up { min } else { max });
    within("START value", start, (min, max))?;
    Ok(Numbering {
        kind,
        start,
        increment,
        min,
        max,
        cycle: given.cycle.unwrap_or(false),
    })
}

/// Fails if a number isn't between the bounds.
pub(super) fn within(what: &str, number: i64, (min, max): (i64, i64)) -> Result<()> {
    let invalid = |message: String| Err(SqlError::new("22023", message));
    if number < min {
        return invalid(format!(
            "{what} ({number}) cannot be less than MINVALUE ({min})"
        ));
    }
    if number > max {
        return invalid(format!(
            "{what} ({number}) cannot be greater than MAXVALUE ({max})"
        ));
    }
    Ok(())
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
