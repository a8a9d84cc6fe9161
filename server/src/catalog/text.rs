//! The text of CREATE TABLE: what LIKE and ALTER TABLE make of tables, written out.

use tidemill_planner::ast::{ColumnDefault, Nulls, Numbering, NumberingKind, Unique};
use tidemill_zset::schema::SqlType;

use super::Object;

/// An identifier in quotes.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Identifiers with commas between them.
pub fn list<'n>(names: impl IntoIterator<Item = &'n str>) -> String {
    let names: Vec<String> = names.into_iter().map(quoted).collect();
    names.join(", ")
}

/// The names of some columns of an object.
pub fn columns(object: &Object, columns: &[usize]) -> String {
    let fields = object.columns.fields();
    list(columns.iter().map(|n| fields[*n].name().as_str()))
}

/// A column with its type, default and NOT NULL.
pub fn column(name: &str, ty: &SqlType, default: Option<&ColumnDefault>, nullable: bool) -> String {
    let serial = match default {
        Some(ColumnDefault::Numbering(n)) if n.kind == NumberingKind::Serial => match ty {
            SqlType::Int2 => Some("smallserial"),
            SqlType::Int4 => Some("serial"),
            _ => Some("bigserial"),
        },
        _ => None,
    };
    let null = match (nullable, serial) {
        (false, _) => " NOT NULL",
        (true, Some(_)) => " NULL",
        (true, None) => "",
    };
    let name = quoted(name);
    match (default, serial) {
        (_, Some(serial)) => format!("{name} {serial}{null}"),
        (Some(ColumnDefault::Expression(text)), _) => format!("{name} {ty} DEFAULT {text}{null}"),
        (Some(ColumnDefault::Numbering(n)), _) => format!("{name} {ty}{}{null}", numbered(n)),
        (None, _) => format!("{name} {ty}{null}"),
    }
}

/// GENERATED … AS IDENTITY
pub fn numbered(n: &Numbering) -> String {
    let when = match n.kind {
        NumberingKind::ByDefault => "BY DEFAULT",
        _ => "ALWAYS",
    };
    format!(
        " GENERATED {when} AS IDENTITY (START WITH {} INCREMENT BY {} MINVALUE {} MAXVALUE {})",
        n.start, n.increment, n.min, n.max
    )
}

/// A UNIQUE, without its name.
pub fn unique(unique: &Unique) -> String {
    let nulls = match unique.nulls {
        Nulls::Distinct => "",
        Nulls::NotDistinct => " NULLS NOT DISTINCT",
    };
    format!(
        "UNIQUE{nulls} ({})",
        list(unique.columns.iter().map(String::as_str))
    )
}

/// A constraint with its name, if it has one.
pub fn constraint(name: Option<&str>, text: &str) -> String {
    match name {
        Some(name) => format!("CONSTRAINT {} {text}", quoted(name)),
        None => text.into(),
    }
}
