//! Indexes, and the operator classes that they order their columns by: PostgreSQL's defaults of its B-trees.

use arrow::datatypes::{DataType, Field};

use super::context::OWNER_OID;
use super::fill::{BTREE, COLLATION, indexes, int, text};
use super::relations::{Definition, Row, Rows};
use super::value::Value;
use super::{CatalogSnapshot, PG_CATALOG_OID};
use crate::pg::types::{oid, wire_type};

/// An operator class of B-trees.
struct Class {
    oid: u32,
    name: &'static str,
    family: u32,
    /// The type whose values it orders.
    of: u32,
}

const fn class(oid: u32, name: &'static str, family: u32, of: u32) -> Class {
    Class {
        oid,
        name,
        family,
        of,
    }
}

/// anyarray
const ANY_ARRAY: u32 = 2277;
const ARRAYS: Class = class(10000, "array_ops", 397, ANY_ARRAY);
const TEXTS: Class = class(3126, "text_ops", 1994, oid::TEXT);

/// The default of each type, with PostgreSQL 15's numbers.
const CLASSES: &[Class] = &[
    ARRAYS,
    TEXTS,
    class(10003, "bool_ops", 424, oid::BOOL),
    class(10006, "bytea_ops", 428, oid::BYTEA),
    class(10007, "char_ops", 429, oid::CHAR),
    class(10028, "name_ops", 1994, oid::NAME),
    class(3124, "int8_ops", 1976, oid::INT8),
    class(1979, "int2_ops", 1976, oid::INT2),
    class(1978, "int4_ops", 1976, oid::INT4),
    class(1981, "oid_ops", 1989, oid::OID),
    class(10012, "float4_ops", 1970, oid::FLOAT4),
    class(3123, "float8_ops", 1970, oid::FLOAT8),
    class(10004, "bpchar_ops", 426, oid::BPCHAR),
    class(3122, "date_ops", 434, oid::DATE),
    class(10038, "time_ops", 1996, oid::TIME),
    class(3128, "timestamp_ops", 434, oid::TIMESTAMP),
    class(3127, "timestamptz_ops", 434, oid::TIMESTAMPTZ),
    class(10022, "interval_ops", 1982, oid::INTERVAL),
    class(3125, "numeric_ops", 1988, oid::NUMERIC),
    class(10034, "record_ops", 2994, oid::RECORD),
    class(10065, "uuid_ops", 2968, oid::UUID),
    class(10088, "jsonb_ops", 4033, oid::JSONB),
];

/// The class that an index over a column has.
fn class_of(column: &Field) -> &'static Class {
    if let DataType::List(_) = column.data_type() {
        return &ARRAYS;
    }
    let of = wire_type(column).oid;
    CLASSES.iter().find(|c| c.of == of).unwrap_or(&TEXTS)
}

/// `pg_opclass`
pub(super) fn pg_opclass(definition: &Definition) -> Vec<Row> {
    let given = [
        "oid",
        "opcmethod",
        "opcname",
        "opcnamespace",
        "opcowner",
        "opcfamily",
        "opcintype",
        "opcdefault",
        "opckeytype",
    ];
    let mut rows = Rows::of(definition, &given);
    for class in CLASSES {
        rows.push([
            int(class.oid),
            int(BTREE),
            text(class.name),
            int(PG_CATALOG_OID),
            int(OWNER_OID),
            int(class.family),
            int(class.of),
            Value::Bool(true),
            int(0),
        ]);
    }
    rows.done()
}

/// `pg_index`
pub(super) fn pg_index(definition: &Definition, snapshot: &CatalogSnapshot) -> Vec<Row> {
    let given = [
        "indexrelid",
        "indrelid",
        "indnatts",
        "indnkeyatts",
        "indisunique",
        "indnullsnotdistinct",
        "indisprimary",
        "indimmediate",
        "indisvalid",
        "indisready",
        "indislive",
        "indkey",
        "indcollation",
        "indclass",
        "indoption",
    ];
    let mut rows = Rows::of(definition, &given);
    let yes = || Value::Bool(true);
    for relation in &snapshot.relations {
        for index in indexes(relation) {
            let count = int(index.columns.len() as i64);
            let columns = index.columns.iter();
            let classes = || {
                columns
                    .clone()
                    .map(|n| class_of(relation.columns.field(*n)))
            };
            rows.push([
                int(index.oid),
                int(relation.oid),
                count.clone(),
                count,
                Value::Bool(index.unique),
                Value::Bool(index.nulls_not_distinct),
                Value::Bool(index.primary),
                yes(),
                yes(),
                yes(),
                yes(),
                Value::ints(index.columns.iter().map(|n| *n as i64 + 1)),
                Value::ints(classes().map(|class| match class.name {
                    "text_ops" | "bpchar_ops" => COLLATION,
                    _ => 0,
                })),
                Value::ints(classes().map(|class| i64::from(class.oid))),
                Value::ints(index.columns.iter().map(|_| 0)),
            ]);
        }
    }
    rows.done()
}
