//! Rows of `pg_catalog` that don't depend on what users made: types, roles, the database, settings.
//!
//! Invariant: the types are those that values have on the wire, and those of the catalog's own columns.

use std::sync::Arc;

use super::context::{DATABASE_OWNER, OWNER_OID};
use super::fill::{BTREE, C_COLLATION, COLLATION, DATABASE_OID, HEAP, TABLESPACE, UTF8, int, text};
use super::relations::{Definition, Row, Rows};
use super::value::Value;
use super::{CatalogSnapshot, PG_CATALOG_OID, TIDEMILL_OID};
use super::{builtin, indexes, statistics};
use crate::pg::types::{TYPES, oid};

/// Types that values don't have on the wire, but columns of the catalog do: oid, name, bytes, category, array's oid.
pub const EXTRA_TYPES: &[(u32, &str, i16, &str, u32)] = &[
    (22, "int2vector", -1, "A", 1006),
    (24, "regproc", 4, "N", 1008),
    (27, "tid", 6, "U", 1010),
    (28, "xid", 4, "U", 1011),
    (29, "cid", 4, "U", 1012),
    (30, "oidvector", -1, "A", 1013),
    (194, "pg_node_tree", -1, "Z", 0),
    (705, "unknown", -2, "X", 0),
    (869, "inet", -1, "I", 1041),
    (2205, "regclass", 4, "N", 2210),
    (2206, "regtype", 4, "N", 2211),
    (2275, "cstring", -2, "P", 1263),
    (2276, "any", 4, "P", 0),
    (2277, "anyarray", -1, "P", 0),
    (2278, "void", 4, "P", 0),
    (2279, "trigger", 4, "P", 0),
    (2281, "internal", 8, "P", 0),
    (2283, "anyelement", 4, "P", 0),
    (2776, "anynonarray", 4, "P", 0),
    (3838, "event_trigger", 4, "P", 0),
    (4089, "regnamespace", 4, "N", 4090),
];

/// The oid of the extension that schema `tidemill` belongs to: tools such as pg_dump leave extensions' members out.
pub(super) const EXTENSION_OID: i64 = 13_000;

/// Relations that don't depend on what users made.
pub fn rows(definition: &Definition, snapshot: &CatalogSnapshot) -> Vec<Row> {
    let yes = || Value::Bool(true);
    match definition.name {
        "pg_proc" => builtin::pg_proc(definition),
        "pg_cast" => builtin::pg_cast(definition),
        "pg_database" => {
            let given = [
                "oid",
                "datname",
                "datdba",
                "encoding",
                "datlocprovider",
                "datallowconn",
                "datconnlimit",
                "dattablespace",
                "datcollate",
                "datctype",
            ];
            let mut rows = Rows::of(definition, &given);
            rows.push([
                int(DATABASE_OID),
                text(&snapshot.database),
                int(OWNER_OID),
                int(UTF8),
                text("c"),
                yes(),
                int(-1),
                int(TABLESPACE),
                text("C"),
                text("C"),
            ]);
            rows.done()
        }
        "pg_authid" | "pg_roles" => {
            let given = [
                "oid",
                "rolname",
                "rolsuper",
                "rolinherit",
                "rolcreaterole",
                "rolcreatedb",
                "rolcanlogin",
                "rolconnlimit",
            ];
            let mut rows = Rows::of(definition, &given);
            rows.push([
                int(OWNER_OID),
                text(&snapshot.user),
                yes(),
                yes(),
                yes(),
                yes(),
                yes(),
                int(-1),
            ]);
            let no = || Value::Bool(false);
            rows.push([
                int(DATABASE_OWNER.0),
                text(DATABASE_OWNER.1),
                no(),
                yes(),
                no(),
                no(),
                no(),
                int(-1),
            ]);
            rows.done()
        }
        "pg_user" | "pg_shadow" => {
            let mut rows = Rows::of(
                definition,
                &["usename", "usesysid", "usecreatedb", "usesuper"],
            );
            rows.push([text(&snapshot.user), int(OWNER_OID), yes(), yes()]);
            rows.done()
        }
        "pg_am" => {
            let mut rows = Rows::of(definition, &["oid", "amname", "amtype"]);
            rows.push([int(HEAP), text("heap"), text("t")]);
            rows.push([int(BTREE), text("btree"), text("i")]);
            rows.done()
        }
        "pg_collation" => {
            let given = [
                "oid",
                "collname",
                "collnamespace",
                "collowner",
                "collprovider",
                "collisdeterministic",
                "collencoding",
            ];
            let mut rows = Rows::of(definition, &given);
            for (oid, name, provider) in [(COLLATION, "default", "d"), (C_COLLATION, "C", "c")] {
                rows.push([
                    int(oid),
                    text(name),
                    int(PG_CATALOG_OID),
                    int(OWNER_OID),
                    text(provider),
                    yes(),
                    int(-1),
                ]);
            }
            rows.done()
        }
        "pg_tablespace" => {
            let mut rows = Rows::of(definition, &["oid", "spcname", "spcowner"]);
            rows.push([int(TABLESPACE), text("pg_default"), int(OWNER_OID)]);
            rows.done()
        }
        "pg_language" => {
            let mut rows = Rows::of(definition, &["oid", "lanname", "lanowner"]);
            rows.push([int(14), text("sql"), int(OWNER_OID)]);
            rows.done()
        }
        "pg_extension" => {
            let given = ["oid", "extname", "extowner", "extnamespace", "extversion"];
            let mut rows = Rows::of(definition, &given);
            rows.push([
                int(EXTENSION_OID),
                text("tidemill"),
                int(OWNER_OID),
                int(TIDEMILL_OID),
                text(env!("CARGO_PKG_VERSION")),
            ]);
            rows.done()
        }
        "pg_timezone_names" => {
            let mut rows = Rows::of(definition, &["name", "abbrev", "utc_offset", "is_dst"]);
            for zone in zones() {
                rows.push(zone);
            }
            rows.done()
        }
        "pg_settings" => {
            let given = [
                "name",
                "setting",
                "short_desc",
                "context",
                "vartype",
                "source",
                "boot_val",
                "reset_val",
            ];
            let mut rows = Rows::of(definition, &given);
            for (name, value, description) in &snapshot.settings {
                rows.push([
                    text(name),
                    text(value),
                    text(description),
                    text("user"),
                    text("string"),
                    text("default"),
                    text(value),
                    text(value),
                ]);
            }
            rows.done()
        }
        "pg_stat_activity" => {
            let given = [
                "datid",
                "datname",
                "pid",
                "usesysid",
                "usename",
                "application_name",
                "client_addr",
                "client_port",
                "backend_start",
                "query_start",
                "state_change",
                "state",
                "query",
                "backend_type",
            ];
            let mut rows = Rows::of(definition, &given);
            for (pid, activity) in &snapshot.backends {
                rows.push([
                    int(DATABASE_OID),
                    text(&snapshot.database),
                    int(*pid),
                    int(OWNER_OID),
                    text(&activity.user),
                    text(&activity.application),
                    Value::maybe(activity.client.map(|c| c.ip().to_string()).as_deref()),
                    activity
                        .client
                        .map_or(Value::Null, |c| int(i32::from(c.port()))),
                    Value::time(Some(activity.started)),
                    Value::time(activity.query_started),
                    Value::time(Some(activity.state_since)),
                    text(activity.state),
                    text(&activity.query),
                    text("client backend"),
                ]);
            }
            rows.done()
        }
        "pg_locks" => locks(definition, snapshot),
        "pg_opclass" => indexes::pg_opclass(definition),
        // Otherwise nothing of the kind exists here.
        _ => statistics::rows(definition, snapshot).unwrap_or_default(),
    }
}

/// Advisory locks, the only ones that sessions wait for.
fn locks(definition: &Definition, snapshot: &CatalogSnapshot) -> Vec<Row> {
    let given = [
        "locktype",
        "database",
        "relation",
        "page",
        "tuple",
        "transactionid",
        "classid",
        "objid",
        "objsubid",
        "virtualtransaction",
        "pid",
        "mode",
        "granted",
        "fastpath",
    ];
    let mut rows = Rows::of(definition, &given);
    for lock in snapshot.advisory.list() {
        let (class, object, sub) = lock.key.ids();
        rows.push([
            text("advisory"),
            int(DATABASE_OID),
            Value::Null,
            Value::Null,
            Value::Null,
            Value::Null,
            int(class),
            int(object),
            int(sub),
            text(format!("{}/0", lock.pid)),
            int(lock.pid),
            text(lock.mode.to_string()),
            Value::Bool(lock.granted),
            Value::Bool(false),
        ]);
    }
    rows.done()
}

/// Key words of PostgreSQL 15, one a line with its class; `as` where it is no bare label.
const KEYWORDS: &str = include_str!("keywords.txt");

/// Key words: word, class, whether AS may be left out before it, and both in words.
pub fn keywords() -> impl Iterator<Item = [Value; 5]> {
    KEYWORDS.lines().map(|line| {
        let mut parts = line.split(' ');
        let (word, class) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
        let bare = parts.next().is_none();
        let described = match class {
            "U" => "unreserved",
            "C" => "unreserved (cannot be function or type name)",
            "T" => "reserved (can be function or type name)",
            _ => "reserved",
        };
        let label = if bare {
            "can be bare label"
        } else {
            "requires AS"
        };
        [
            text(word),
            text(class),
            Value::Bool(bare),
            text(described),
            text(label),
        ]
    })
}

/// Time zones: name, abbreviation, offset, daylight saving. Without a clock only the name is known.
pub fn zones() -> impl Iterator<Item = [Value; 4]> {
    chrono_tz::TZ_VARIANTS
        .iter()
        .map(|zone| [text(zone.name()), Value::Null, Value::Null, Value::Null])
}

pub fn types(definition: &Definition) -> Vec<Row> {
    let given = [
        "oid",
        "typname",
        "typnamespace",
        "typowner",
        "typlen",
        "typbyval",
        "typtype",
        "typcategory",
        "typispreferred",
        "typisdefined",
        "typdelim",
        "typelem",
        "typarray",
        "typinput",
        "typoutput",
        "typreceive",
        "typsend",
        "typalign",
        "typstorage",
        "typtypmod",
        "typcollation",
    ];
    let mut rows = Rows::of(definition, &given);
    let mut push = |oid: u32, name: &str, size: i16, category: &str, element: u32, array: u32| {
        let collation = match name.strip_prefix('_').unwrap_or(name) {
            "text" | "varchar" | "bpchar" => COLLATION,
            "name" => C_COLLATION,
            _ => 0,
        };
        let preferred = matches!(
            name,
            "bool" | "text" | "float8" | "timestamptz" | "interval" | "oid"
        );
        let [input, output, receive, send] = [0, 1, 2, 3].map(|job| {
            let (oid, name) = builtin::conversion(oid, name, element > 0, job);
            Value::Reg(oid, Arc::from(name))
        });
        let kind = if category == "P" || category == "X" {
            "p"
        } else {
            "b"
        };
        rows.push([
            int(oid),
            text(name),
            int(PG_CATALOG_OID),
            int(OWNER_OID),
            int(size),
            Value::Bool((0..=8).contains(&size)),
            text(kind),
            text(category),
            Value::Bool(preferred),
            Value::Bool(true),
            text(","),
            int(of_vector(name).unwrap_or(element)),
            int(array),
            input,
            output,
            receive,
            send,
            text("i"),
            text(if size < 0 { "x" } else { "p" }),
            int(-1),
            int(collation),
        ]);
    };
    for t in all_types() {
        push(t.oid, &t.name, t.size, t.category, t.element, t.array);
    }
    rows.done()
}

/// A type as the catalog shows it.
pub(super) struct Shown {
    pub oid: u32,
    pub name: String,
    size: i16,
    category: &'static str,
    /// Of an array: its elements' type.
    pub element: u32,
    /// Of another: the type of arrays of it.
    array: u32,
}

/// All types, arrays after what they are of.
pub(super) fn all_types() -> Vec<Shown> {
    let mut all = Vec::new();
    let mut with_array = |oid, name: &str, size, category, array| {
        all.push(Shown {
            oid,
            name: name.to_string(),
            size,
            category,
            element: 0,
            array,
        });
        if array > 0 {
            all.push(Shown {
                oid: array,
                name: format!("_{name}"),
                size: -1,
                category: "A",
                element: oid,
                array: 0,
            });
        }
    };
    for known in TYPES {
        let category = match known.name {
            "bool" => "B",
            "text" | "varchar" | "bpchar" | "name" => "S",
            "date" | "time" | "timestamp" | "timestamptz" => "D",
            "interval" => "T",
            "char" => "Z",
            "record" => "P",
            "bytea" | "json" | "jsonb" | "uuid" => "U",
            _ => "N",
        };
        with_array(known.oid, known.name, known.size, category, known.array);
    }
    for (oid, name, size, category, array) in EXTRA_TYPES {
        with_array(*oid, name, *size, category, *array);
    }
    all
}

/// The type of what is in values of a type that isn't called an array.
fn of_vector(name: &str) -> Option<u32> {
    Some(match name {
        "int2vector" => oid::INT2,
        "oidvector" => oid::OID,
        "name" => oid::CHAR,
        _ => return None,
    })
}
