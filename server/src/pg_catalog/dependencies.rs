//! What views read, as PostgreSQL keeps it: a rule per view, which depends on the relations that its query names.

use super::fill::{int, text};
use super::relations::{Definition, Row, Rows};
use super::sequences::is_identity;
use super::server_wide::EXTENSION_OID;
use super::value::Value;
use super::{CatalogSnapshot, RelationInfo, TIDEMILL_OID};

/// The oid of the rule of the view with oid 0.
const RULE_BASE: i64 = 1_500_000_000;
/// The oid of `pg_class`.
const PG_CLASS_OID: i64 = 1259;
/// The oid of `pg_namespace`.
const PG_NAMESPACE_OID: i64 = 2615;
/// The oid of `pg_extension`.
const PG_EXTENSION_OID: i64 = 3079;
/// The oid of `pg_rewrite`.
const PG_REWRITE_OID: i64 = 2618;

fn rule(view: &RelationInfo) -> i64 {
    RULE_BASE + i64::from(view.oid)
}

fn views(snapshot: &CatalogSnapshot) -> impl Iterator<Item = &RelationInfo> {
    let relations = snapshot.relations.iter();
    relations.filter(|r| r.definition.is_some())
}

/// `pg_rewrite`
pub(super) fn rules(definition: &Definition, snapshot: &CatalogSnapshot) -> Vec<Row> {
    let given = [
        "oid",
        "rulename",
        "ev_class",
        "ev_type",
        "ev_enabled",
        "is_instead",
    ];
    let mut rows = Rows::of(definition, &given);
    for view in views(snapshot) {
        rows.push([
            int(rule(view)),
            text("_RETURN"),
            int(view.oid),
            text("1"),
            text("O"),
            Value::Bool(true),
        ]);
    }
    rows.done()
}

/// `pg_depend`, of the rules of views: they belong to their views and need what is read; of sequences that belong to columns; and of what
/// belongs to the system.
pub(super) fn dependencies(definition: &Definition, snapshot: &CatalogSnapshot) -> Vec<Row> {
    let given = [
        "classid",
        "objid",
        "objsubid",
        "refclassid",
        "refobjid",
        "refobjsubid",
        "deptype",
    ];
    let mut rows = Rows::of(definition, &given);
    for view in views(snapshot) {
        let read = view.depends.iter().map(|oid| (*oid, "n"));
        for (oid, kind) in [(view.oid, "i")].into_iter().chain(read) {
            rows.push([
                int(PG_REWRITE_OID),
                int(rule(view)),
                int(0),
                int(PG_CLASS_OID),
                int(oid),
                int(0),
                text(kind),
            ]);
        }
    }
    let system = snapshot.relations.iter().filter(|r| r.schema == "tidemill");
    let system = system.map(|r| (PG_CLASS_OID, r.oid));
    for (class, oid) in [(PG_NAMESPACE_OID, TIDEMILL_OID)].into_iter().chain(system) {
        rows.push([
            int(class),
            int(oid),
            int(0),
            int(PG_EXTENSION_OID),
            int(EXTENSION_OID),
            int(0),
            text("e"),
        ]);
    }
    for sequence in &snapshot.sequences {
        let kind = if is_identity(sequence) { "i" } else { "a" };
        if let Some((table, column)) = sequence.owner {
            rows.push([
                int(PG_CLASS_OID),
                int(sequence.oid),
                int(0),
                int(PG_CLASS_OID),
                int(table),
                int(column as i64 + 1),
                text(kind),
            ]);
        }
    }
    rows.done()
}

/// `information_schema.view_table_usage`
pub(super) fn tables_of_views(definition: &Definition, snapshot: &CatalogSnapshot) -> Vec<Row> {
    let given = [
        "view_catalog",
        "view_schema",
        "view_name",
        "table_catalog",
        "table_schema",
        "table_name",
    ];
    let mut rows = Rows::of(definition, &given);
    for view in views(snapshot) {
        let read = snapshot.relations.iter();
        for table in read.filter(|r| view.depends.contains(&r.oid)) {
            rows.push([
                text(&snapshot.database),
                text(&view.schema),
                text(&view.name),
                text(&snapshot.database),
                text(&table.schema),
                text(&table.name),
            ]);
        }
    }
    rows.done()
}
