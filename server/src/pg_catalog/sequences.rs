//! Sequences: those that were created, and those that number columns.

use tidemill_planner::SqlError;
use tidemill_planner::ast::Numbering;
use tidemill_zset::schema::SqlType;

use super::context::quote_ident;
use super::fill::{int, text};
use super::relations::{Definition, Row, Rows};
use super::value::Value;
use super::{CatalogSnapshot, RelationInfo, SequenceInfo};
use crate::pg::types::wire_type;

fn type_oid(sequence: &SequenceInfo) -> i64 {
    i64::from(wire_type(&sequence.data_type.field("", false)).oid)
}

/// `pg_sequence`
pub(super) fn pg_sequence(definition: &Definition, snapshot: &CatalogSnapshot) -> Vec<Row> {
    let given = [
        "seqrelid",
        "seqtypid",
        "seqstart",
        "seqincrement",
        "seqmax",
        "seqmin",
        "seqcache",
        "seqcycle",
    ];
    let mut rows = Rows::of(definition, &given);
    for sequence in &snapshot.sequences {
        let n = &sequence.numbering;
        rows.push([
            int(sequence.oid),
            int(type_oid(sequence)),
            int(n.start),
            int(n.increment),
            int(n.max),
            int(n.min),
            int(1),
            Value::Bool(n.cycle),
        ]);
    }
    rows.done()
}

/// `pg_sequences`
pub(super) fn pg_sequences(definition: &Definition, snapshot: &CatalogSnapshot) -> Vec<Row> {
    let given = [
        "schemaname",
        "sequencename",
        "sequenceowner",
        "data_type",
        "start_value",
        "min_value",
        "max_value",
        "increment_by",
        "cycle",
        "cache_size",
        "last_value",
    ];
    let mut rows = Rows::of(definition, &given);
    for sequence in &snapshot.sequences {
        let n = &sequence.numbering;
        rows.push([
            text(&sequence.schema),
            text(&sequence.name),
            text(&snapshot.user),
            Value::Reg(type_oid(sequence), sequence.data_type.to_string().into()),
            int(n.start),
            int(n.min),
            int(n.max),
            int(n.increment),
            Value::Bool(n.cycle),
            int(1),
            sequence.last.map_or(Value::Null, Value::Int),
        ]);
    }
    rows.done()
}

/// `information_schema.sequences`, which leaves those of IDENTITY columns out.
pub(super) fn information(definition: &Definition, snapshot: &CatalogSnapshot) -> Vec<Row> {
    let given = [
        "sequence_catalog",
        "sequence_schema",
        "sequence_name",
        "data_type",
        "numeric_precision",
        "numeric_precision_radix",
        "numeric_scale",
        "start_value",
        "minimum_value",
        "maximum_value",
        "increment",
        "cycle_option",
    ];
    let mut rows = Rows::of(definition, &given);
    for sequence in snapshot.sequences.iter().filter(|s| !is_identity(s)) {
        let n = &sequence.numbering;
        let bits = match sequence.data_type {
            SqlType::Int2 => 16,
            SqlType::Int4 => 32,
            _ => 64,
        };
        rows.push([
            text(&snapshot.database),
            text(&sequence.schema),
            text(&sequence.name),
            text(sequence.data_type.to_string()),
            int(bits),
            int(2),
            int(0),
            text(n.start.to_string()),
            text(n.min.to_string()),
            text(n.max.to_string()),
            text(n.increment.to_string()),
            text(if n.cycle { "YES" } else { "NO" }),
        ]);
    }
    rows.done()
}

/// It belongs to an IDENTITY column.
pub(super) fn is_identity(sequence: &SequenceInfo) -> bool {
    use tidemill_planner::ast::NumberingKind::{Always, ByDefault};
    matches!(sequence.numbering.kind, Always | ByDefault)
}

/// How an IDENTITY column of a table counts.
pub(super) fn numbering(
    snapshot: &CatalogSnapshot,
    table: u32,
    column: usize,
) -> Option<&Numbering> {
    let mut all = snapshot.sequences.iter().filter(|s| is_identity(s));
    let own = all.find(|s| s.owner == Some((table, column)))?;
    Some(&own.numbering)
}

/// `pg_get_serial_sequence`: the qualified name of the sequence that belongs to a column.
pub(super) fn of_column(
    snapshot: &CatalogSnapshot,
    relation: &RelationInfo,
    column: &str,
) -> Result<Option<String>, SqlError> {
    let Ok(number) = relation.columns.index_of(column) else {
        let table = &relation.name;
        let message = format!("column \"{column}\" of relation \"{table}\" does not exist");
        return Err(SqlError::new("42703", message));
    };
    let mut all = snapshot.sequences.iter();
    let own = all.find(|s| s.owner == Some((relation.oid, number)));
    Ok(own.map(|s| format!("{}.{}", quote_ident(&s.schema), quote_ident(&s.name))))
}
