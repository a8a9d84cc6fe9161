//! Rows of `information_schema`, from a [`CatalogSnapshot`].
//!
//! Invariant: only users' schemas are listed, and `pg_catalog` is not; as clients expect who list tables.

use arrow::datatypes::{DataType, Field};
use tidemill_planner::ast::Numbering;
use tidemill_zset::schema::SqlType;

use super::context::DATABASE_OWNER;
use super::fill::{Index, default_text, indexes, schemas, view_definition};

use super::relations::{Definition, Row, Rows};
use super::value::Value;
use super::{CatalogSnapshot, RelationInfo, RelationType, sequences};
use crate::catalog::{DEFAULT_SCHEMA, TEMPORARY_PREFIX, TableCheck};
use crate::pg::types::{TYPES, wire_type};

fn text(text: impl AsRef<str>) -> Value {
    Value::text(text)
}

fn yes_or_no(value: bool) -> Value {
    text(if value { "YES" } else { "NO" })
}

fn number(value: Option<i64>) -> Value {
    value.map_or(Value::Null, Value::Int)
}

/// The rows of a relation.
pub fn rows(definition: &Definition, snapshot: &CatalogSnapshot) -> Vec<Row> {
    let database = || text(&snapshot.database);
    match definition.name {
        "schemata" => {
            let mut rows = Rows::of(definition, &["catalog_name", "schema_name", "schema_owner"]);
            for (_, name, _) in schemas(snapshot) {
                let owner = match name == DEFAULT_SCHEMA {
                    true => DATABASE_OWNER.1,
                    false => &snapshot.user,
                };
                rows.push([database(), text(name), text(owner)]);
            }
            rows.done()
        }
        "information_schema_catalog_name" => {
            let mut rows = Rows::of(definition, &["catalog_name"]);
            rows.push([database()]);
            rows.done()
        }
        "tables" => {
            let given = [
                "table_catalog",
                "table_schema",
                "table_name",
                "table_type",
                "is_insertable_into",
                "is_typed",
            ];
            let mut rows = Rows::of(definition, &given);
            for relation in &snapshot.relations {
                // PostgreSQL leaves materialized views out; clients that list tables need them.
                let (kind, writable) = match relation.kind {
                    RelationType::Table if relation.schema.starts_with(TEMPORARY_PREFIX) => {
                        ("LOCAL TEMPORARY", true)
                    }
                    RelationType::Table => ("BASE TABLE", true),
                    RelationType::Source => ("FOREIGN", false),
                    RelationType::View if relation.schema.starts_with(TEMPORARY_PREFIX) => {
                        ("LOCAL TEMPORARY", false)
                    }
                    RelationType::View | RelationType::MaterializedView => ("VIEW", false),
                    RelationType::Sequence => continue,
                };
                rows.push([
                    database(),
                    text(&relation.schema),
                    text(&relation.name),
                    text(kind),
                    yes_or_no(writable),
                    yes_or_no(false),
                ]);
            }
            rows.done()
        }
        "views" => {
            let given = [
                "table_catalog",
                "table_schema",
                "table_name",
                "view_definition",
                "check_option",
                "is_updatable",
            ];
            let mut rows = Rows::of(definition, &given);
            for relation in snapshot.relations.iter().filter(|r| r.definition.is_some()) {
                rows.push([
                    database(),
                    text(&relation.schema),
                    text(&relation.name),
                    view_definition(snapshot, Some(relation)),
                    text("NONE"),
                    yes_or_no(false),
                ]);
            }
            rows.done()
        }
        "view_table_usage" => super::dependencies::tables_of_views(definition, snapshot),
        "columns" => columns(definition, snapshot),
        "table_constraints" => {
            let given = [
                "constraint_catalog",
                "constraint_schema",
                "constraint_name",
                "table_catalog",
                "table_schema",
                "table_name",
                "constraint_type",
                "is_deferrable",
                "initially_deferred",
                "enforced",
            ];
            let mut rows = Rows::of(definition, &given);
            for (relation, key) in keys(snapshot) {
                let schema = || text(&relation.schema);
                rows.push([
                    database(),
                    schema(),
                    text(&key.name),
                    database(),
                    schema(),
                    text(&relation.name),
                    text(if key.primary { "PRIMARY KEY" } else { "UNIQUE" }),
                    yes_or_no(false),
                    yes_or_no(false),
                    yes_or_no(true),
                ]);
            }
            for (relation, check) in checks(snapshot) {
                let schema = || text(&relation.schema);
                rows.push([
                    database(),
                    schema(),
                    text(&check.name),
                    database(),
                    schema(),
                    text(&relation.name),
                    text("CHECK"),
                    yes_or_no(false),
                    yes_or_no(false),
                    yes_or_no(true),
                ]);
            }
            rows.done()
        }
        "check_constraints" => {
            let given = [
                "constraint_catalog",
                "constraint_schema",
                "constraint_name",
                "check_clause",
            ];
            let mut rows = Rows::of(definition, &given);
            for (relation, check) in checks(snapshot) {
                rows.push([
                    database(),
                    text(&relation.schema),
                    text(&check.name),
                    text(format!("(({}))", check.condition)),
                ]);
            }
            rows.done()
        }
        "key_column_usage" | "constraint_column_usage" => {
            let given = [
                "constraint_catalog",
                "constraint_schema",
                "constraint_name",
                "table_catalog",
                "table_schema",
                "table_name",
                "column_name",
            ];
            let mut given: Vec<&str> = given.to_vec();
            if definition.name == "key_column_usage" {
                given.push("ordinal_position");
            }
            let mut rows = Rows::of(definition, &given);
            for (relation, key) in keys(snapshot) {
                for (position, column) in key.columns.iter().enumerate() {
                    let schema = || text(&relation.schema);
                    let column = relation.columns.fields().get(*column);
                    let column = column.map_or("", |field| field.name());
                    rows.push([
                        database(),
                        schema(),
                        text(&key.name),
                        database(),
                        schema(),
                        text(&relation.name),
                        text(column),
                        Value::Int(position as i64 + 1),
                    ]);
                }
            }
            rows.done()
        }
        "enabled_roles" | "applicable_roles" => {
            let name = if definition.name == "enabled_roles" {
                "role_name"
            } else {
                "grantee"
            };
            let mut rows = Rows::of(definition, &[name]);
            rows.push([text(&snapshot.user)]);
            rows.done()
        }
        "character_sets" => {
            let given = [
                "character_set_name",
                "character_repertoire",
                "form_of_use",
                "default_collate_catalog",
            ];
            let mut rows = Rows::of(definition, &given);
            rows.push([text("UTF8"), text("UCS"), text("UTF8"), database()]);
            rows.done()
        }
        "table_privileges" | "role_table_grants" => {
            let given = [
                "grantor",
                "grantee",
                "table_catalog",
                "table_schema",
                "table_name",
                "privilege_type",
                "is_grantable",
            ];
            let mut rows = Rows::of(definition, &given);
            for relation in plain(snapshot) {
                rows.push([
                    text(&snapshot.user),
                    text(&snapshot.user),
                    database(),
                    text(&relation.schema),
                    text(&relation.name),
                    text("SELECT"),
                    yes_or_no(true),
                ]);
            }
            rows.done()
        }
        "sequences" => sequences::information(definition, snapshot),
        _ => Vec::new(),
    }
}

/// Relations but for sequences.
fn plain(snapshot: &CatalogSnapshot) -> impl Iterator<Item = &RelationInfo> {
    let relations = snapshot.relations.iter();
    relations.filter(|r| r.kind != RelationType::Sequence)
}

/// PRIMARY KEY and UNIQUE constraints.
fn keys(snapshot: &CatalogSnapshot) -> impl Iterator<Item = (&RelationInfo, Index<'_>)> {
    snapshot.relations.iter().flat_map(|relation| {
        let constraints = indexes(relation).into_iter().filter(|i| i.constraint);
        constraints.map(move |index| (relation, index))
    })
}

fn checks(snapshot: &CatalogSnapshot) -> impl Iterator<Item = (&RelationInfo, &TableCheck)> {
    let relations = snapshot.relations.iter();
    relations.flat_map(|relation| relation.checks.iter().map(move |check| (relation, check)))
}

/// `data_type`: without modifiers, arrays are `ARRAY`.
fn type_name(field: &Field) -> String {
    match SqlType::of(field) {
        SqlType::Array(_) => "ARRAY".into(),
        SqlType::Numeric(..) => "numeric".into(),
        SqlType::Varchar(_) => "character varying".into(),
        SqlType::Char(_) => "character".into(),
        SqlType::Other(DataType::Struct(_)) => "record".into(),
        SqlType::Other(_) => "text".into(),
        other => other.to_string(),
    }
}

fn columns(definition: &Definition, snapshot: &CatalogSnapshot) -> Vec<Row> {
    let given = [
        "table_catalog",
        "table_schema",
        "table_name",
        "column_name",
        "ordinal_position",
        "column_default",
        "is_nullable",
        "data_type",
        "character_maximum_length",
        "numeric_precision",
        "numeric_precision_radix",
        "numeric_scale",
        "datetime_precision",
        "udt_catalog",
        "udt_schema",
        "udt_name",
        "dtd_identifier",
        "is_self_referencing",
        "is_identity",
        "identity_generation",
        "identity_start",
        "identity_increment",
        "identity_maximum",
        "identity_minimum",
        "identity_cycle",
        "is_generated",
        "is_updatable",
    ];
    let mut rows = Rows::of(definition, &given);
    for relation in plain(snapshot) {
        for (position, field) in relation.columns.fields().iter().enumerate() {
            let sql = SqlType::of(field);
            let (precision, radix, scale) = match &sql {
                SqlType::Int2 => (Some(16), Some(2), Some(0)),
                SqlType::Int4 => (Some(32), Some(2), Some(0)),
                SqlType::Int8 => (Some(64), Some(2), Some(0)),
                SqlType::Float4 => (Some(24), Some(2), None),
                SqlType::Float8 => (Some(53), Some(2), None),
                SqlType::Numeric(0, _) => (None, Some(10), None),
                SqlType::Numeric(p, s) => (Some(i64::from(*p)), Some(10), Some(i64::from(*s))),
                _ => (None, None, None),
            };
            let length = match &sql {
                SqlType::Varchar(length) => length.map(i64::from),
                SqlType::Char(length) => Some(i64::from(*length)),
                _ => None,
            };
            let datetime = match &sql {
                SqlType::Date => Some(0),
                SqlType::Time | SqlType::Timestamp | SqlType::Timestamptz | SqlType::Interval => {
                    Some(6)
                }
                _ => None,
            };
            let default = default_text(snapshot, relation, position);
            let mut identities = relation.identities.iter();
            let generation = identities.find(|(n, _)| *n == position);
            let generation = generation.map(|(_, kind)| match kind {
                'a' => "ALWAYS",
                _ => "BY DEFAULT",
            });
            let numbering =
                generation.and_then(|_| sequences::numbering(snapshot, relation.oid, position));
            let of_identity = |text_of: fn(&Numbering) -> String| {
                numbering.map_or(Value::Null, |n| text(text_of(n)))
            };
            let nullable = field.is_nullable() && !relation.primary_key.contains(&position);
            let database = || text(&snapshot.database);
            rows.push([
                database(),
                text(&relation.schema),
                text(&relation.name),
                text(field.name()),
                Value::Int(position as i64 + 1),
                Value::maybe(default.as_deref()),
                yes_or_no(nullable),
                text(type_name(field)),
                number(length),
                number(precision),
                number(radix),
                number(scale),
                number(datetime),
                database(),
                text("pg_catalog"),
                text(internal_name(field)),
                text((position + 1).to_string()),
                yes_or_no(false),
                yes_or_no(generation.is_some()),
                Value::maybe(generation),
                of_identity(|n| n.start.to_string()),
                of_identity(|n| n.increment.to_string()),
                of_identity(|n| n.max.to_string()),
                of_identity(|n| n.min.to_string()),
                yes_or_no(false),
                text("NEVER"),
                yes_or_no(relation.kind == RelationType::Table),
            ]);
        }
    }
    rows.done()
}

/// `udt_name`: the name in `pg_type`.
fn internal_name(field: &Field) -> String {
    let oid = wire_type(field).oid;
    let plain = TYPES
        .iter()
        .find(|t| t.oid == oid)
        .map(|t| t.name.to_string());
    let array = || {
        TYPES
            .iter()
            .find(|t| t.array == oid)
            .map(|t| format!("_{}", t.name))
    };
    plain.or_else(array).unwrap_or_else(|| "text".into())
}
