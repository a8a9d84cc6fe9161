//! Functions and casts of the server that clients look for in the catalog.

use std::collections::BTreeSet;

use super::PG_CATALOG_OID;
use super::context::{ARRAY_IN_OID, OWNER_OID};
use super::fill::{int, text};
use super::relations::{Definition, Row, Rows};
use super::server_wide::all_types;
use super::value::Value;
use crate::pg::types::oid;

/// Functions of one argument whose result is of its type: Rails looks for lower().
const NAMED: &[(i64, &str, u32)] = &[(870, "lower", oid::TEXT), (871, "upper", oid::TEXT)];

/// Casts that change nothing but the type: oid, from, to, and where they are made without being asked for.
const CASTS: &[(i64, u32, u32, &str)] = &[
    (10039, oid::INT4, oid::OID, "i"),
    (10041, oid::OID, oid::INT4, "a"),
    (10125, oid::TEXT, oid::BPCHAR, "i"),
    (10126, oid::TEXT, oid::VARCHAR, "i"),
    (10129, oid::VARCHAR, oid::TEXT, "i"),
    (10130, oid::VARCHAR, oid::BPCHAR, "i"),
];

/// The oid of a function of `pg_proc` by its name, which may be followed by its arguments in parentheses.
pub(super) fn function_oid(name: &str) -> Option<(i64, String)> {
    let name = name.split('(').next().unwrap_or(name).trim();
    let name = name.strip_prefix("pg_catalog.").unwrap_or(name);
    if let Some((oid, name, _)) = NAMED.iter().find(|(_, known, _)| *known == name) {
        return Some((*oid, name.to_string()));
    }
    let mut all = all_types()
        .into_iter()
        .flat_map(|t| (0..4).map(move |job| conversion(t.oid, &t.name, t.element > 0, job)));
    all.find(|(_, known)| known == name)
}

/// `pg_cast`
pub(super) fn pg_cast(definition: &Definition) -> Vec<Row> {
    let given = [
        "oid",
        "castsource",
        "casttarget",
        "castfunc",
        "castcontext",
        "castmethod",
    ];
    let mut rows = Rows::of(definition, &given);
    for (oid, from, to, context) in CASTS {
        rows.push([
            int(*oid),
            int(*from),
            int(*to),
            int(0),
            text(context),
            text("b"),
        ]);
    }
    rows.done()
}

/// The language of functions that are part of the server.
const INTERNAL_LANGUAGE: i64 = 12;

/// The first oid of functions that read and write values of types: four after each other of each type.
const CONVERSIONS: i64 = 1_000_000;

/// What a type's values are read and written by, as text (`job` 0 and 1) and as bytes (2 and 3): oid and name. Clients know arrays by
/// those of arrays.
pub(super) fn conversion(oid: u32, name: &str, array: bool, job: usize) -> (i64, String) {
    const JOBS: [&str; 4] = ["in", "out", "recv", "send"];
    const OF_ARRAYS: [i64; 4] = [ARRAY_IN_OID, 751, 2400, 2401];
    if array {
        return (OF_ARRAYS[job], format!("array_{}", JOBS[job]));
    }
    let apart = matches!(
        name,
        "numeric"
            | "date"
            | "time"
            | "timestamp"
            | "timestamptz"
            | "interval"
            | "uuid"
            | "json"
            | "jsonb"
            | "record"
            | "inet"
            | "pg_node_tree"
    );
    let apart = if apart { "_" } else { "" };
    let at = CONVERSIONS + 4 * i64::from(oid) + job as i64;
    (at, format!("{name}{apart}{}", JOBS[job]))
}

/// `pg_proc`: what types are read and written by, and [`NAMED`].
pub(super) fn pg_proc(definition: &Definition) -> Vec<Row> {
    let given = [
        "oid",
        "proname",
        "pronamespace",
        "proowner",
        "prolang",
        "procost",
        "prokind",
        "proisstrict",
        "provolatile",
        "proparallel",
        "pronargs",
        "prorettype",
        "proargtypes",
        "prosrc",
    ];
    let mut rows = Rows::of(definition, &given);
    let mut push = |oid: i64, name: &str, takes: Option<u32>, gives: u32| {
        rows.push([
            int(oid),
            text(name),
            int(PG_CATALOG_OID),
            int(OWNER_OID),
            int(INTERNAL_LANGUAGE),
            Value::Float(1.0),
            text("f"),
            Value::Bool(true),
            text("i"),
            text("s"),
            int(1),
            int(gives),
            Value::ints(takes.into_iter().map(i64::from)),
            text(name),
        ]);
    };
    let mut known = BTreeSet::new();
    for t in all_types() {
        for job in 0..4 {
            let (number, name) = conversion(t.oid, &t.name, t.element > 0, job);
            if !known.insert(number) {
                continue;
            }
            // As text, and as bytes.
            let gives = match (job, t.element > 0) {
                (0 | 2, true) => 2277,
                (0 | 2, false) => t.oid,
                (1, _) => 2275,
                _ => oid::BYTEA,
            };
            push(number, &name, None, gives);
        }
    }
    for (number, name, of) in NAMED {
        push(*number, name, Some(*of), *of);
    }
    rows.done()
}
