//! What views read, as PostgreSQL keeps it: a rule per view, which depends on the relations that its query names.

use tidemill_planner::definition::sequences_of;

use super::fill::{WRAPPER_OID, default_oid, default_text, int, servers, text};
use super::relations::{Definition, Row, Rows};
use super::sequences::is_identity;
use super::server_wide::EXTENSION_OID;
use super::value::Value;
use super::{CatalogSnapshot, RelationInfo, SequenceInfo, TIDEMILL_OID};
use tidemill_planner::names::split_name;

/// The oid of the rule of the view with oid 0.
const RULE_BASE: i64 = 1_500_000_000;
/// The oid of `pg_class`.
const PG_CLASS_OID: i64 = 1259;
/// The oid of `pg_namespace`.
const PG_NAMESPACE_OID: i64 = 2615;
/// The oid of `pg_attrdef`.
const PG_ATTRDEF_OID: i64 = 2604;
/// The oid of `pg_foreign_data_wrapper`.
const PG_FOREIGN_DATA_WRAPPER_OID: i64 = 2328;
/// The oid of `pg_foreign_server`.
const PG_FOREIGN_SERVER_OID: i64 = 1417;
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
    let servers = servers(snapshot).into_iter();
    let foreign = servers.map(|(oid, _)| (PG_FOREIGN_SERVER_OID, oid as u32));
    let own = [
        (PG_NAMESPACE_OID, TIDEMILL_OID),
        (PG_FOREIGN_DATA_WRAPPER_OID, WRAPPER_OID as u32),
    ];
    for (class, oid) in own.into_iter().chain(system).chain(foreign) {
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
    for relation in &snapshot.relations {
        for column in 0..relation.defaults.len() {
            let Some(default) = default_text(snapshot, relation, column) else {
                continue;
            };
            let oid = default_oid(relation, column);
            let used = sequences_of(&default).into_iter();
            let used = used.filter_map(|name| named(snapshot, &name));
            let needed = used.map(|sequence| (sequence.oid, 0, "n"));
            for (to, number, kind) in [(relation.oid, column as i64 + 1, "a")]
                .into_iter()
                .chain(needed)
            {
                rows.push([
                    int(PG_ATTRDEF_OID),
                    int(oid),
                    int(0),
                    int(PG_CLASS_OID),
                    int(to),
                    int(number),
                    text(kind),
                ]);
            }
        }
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

/// The sequence that a DEFAULT names.
fn named<'a>(snapshot: &'a CatalogSnapshot, name: &str) -> Option<&'a SequenceInfo> {
    let parts = split_name(name);
    let mut all = snapshot.sequences.iter();
    match parts.as_slice() {
        [schema, name] => all.find(|s| s.schema == *schema && s.name == *name),
        [name] => {
            let path = snapshot.search_path.iter();
            let mut found = path.filter_map(|schema| {
                let mut all = snapshot.sequences.iter();
                all.find(|s| s.schema == *schema && s.name == *name)
            });
            found.next().or_else(|| all.find(|s| s.name == *name))
        }
        _ => None,
    }
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
