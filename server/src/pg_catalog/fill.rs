//! Rows of `pg_catalog`, from a [`CatalogSnapshot`].
//!
//! Invariant: oids agree between relations: what `pg_class` calls a relation, `pg_attribute`,
//! `pg_index`, `pg_constraint` and `pg_description` call it too.

use arrow::datatypes::Field;
use tidemill_planner::definition::{with_default_schema, written};
use tidemill_planner::names::split_name;

use super::context::{DATABASE_OWNER, OWNER_OID, quote_ident};
use super::relations::{DEFINITIONS, Definition, Row, Rows};
use super::server_wide;
use super::value::{Ty, Value};
use super::{
    CatalogSnapshot, FIRST_USER_OID, INFORMATION_SCHEMA_OID, PG_CATALOG_OID, RelationInfo,
    RelationType,
};
use super::{dependencies, indexes, information, sequences};
use crate::catalog::{DEFAULT_SCHEMA, TEMPORARY_PREFIX, TableCheck};
use crate::pg::types::{oid as type_oids, wire_type};

/// `pg_encoding`'s number of UTF8.
pub const UTF8: i64 = 6;
/// `server_version_num`.
pub const SERVER_VERSION_NUM: &str = "150012";
/// Oid of the one database.
pub(super) const DATABASE_OID: i64 = 5;
/// Oid of access method heap.
pub(super) const HEAP: i64 = 2;
/// Oid of access method btree.
pub(super) const BTREE: i64 = 403;
/// Oid of the default collation.
pub(super) const COLLATION: i64 = 100;
/// Oid of collation C.
pub(super) const C_COLLATION: i64 = 950;
/// Oid of the default tablespace.
pub(super) const TABLESPACE: i64 = 1663;
/// Oids of primary keys' indexes and constraints, of defaults and of servers start here.
const INDEX_BASE: i64 = 1_000_000_000;
const CONSTRAINT_BASE: i64 = 1_100_000_000;
/// The oid of the first CHECK of the relation with oid 0, and how many a relation may have before they meet the next one's.
const CHECK_BASE: i64 = 1_200_000_000;
const CHECKS_PER_RELATION: i64 = 64;
const DEFAULT_BASE: i64 = 1_700_000_000;
const SERVER_BASE: i64 = 1_300_000_000;
pub(super) const WRAPPER_OID: i64 = 1_400_000_000;

/// All schemas: oid, name, comment.
pub fn schemas(snapshot: &CatalogSnapshot) -> Vec<(i64, &str, Option<&str>)> {
    let mut all = vec![
        (
            i64::from(PG_CATALOG_OID),
            "pg_catalog",
            Some("system catalog schema"),
        ),
        (
            i64::from(INFORMATION_SCHEMA_OID),
            "information_schema",
            None,
        ),
    ];
    for schema in &snapshot.schemas {
        all.push((
            i64::from(schema.oid),
            schema.name.as_str(),
            schema.comment.as_deref(),
        ));
    }
    all
}

/// An index of a relation, the primary key's among them.
pub struct Index<'a> {
    /// Oid.
    pub oid: i64,
    /// Name.
    pub name: String,
    /// Column numbers from 0.
    pub columns: &'a [usize],
    /// UNIQUE
    pub unique: bool,
    /// Two NULLs are duplicates.
    pub nulls_not_distinct: bool,
    /// PRIMARY KEY
    pub primary: bool,
    /// It is there because of a PRIMARY KEY or UNIQUE constraint.
    pub constraint: bool,
}

impl Index<'_> {
    /// Oid of its constraint.
    fn constraint_oid(&self, relation: &RelationInfo) -> i64 {
        match self.primary {
            true => CONSTRAINT_BASE + i64::from(relation.oid),
            false => CONSTRAINT_BASE + self.oid,
        }
    }

    fn nulls(&self) -> &'static str {
        match self.nulls_not_distinct {
            true => " NULLS NOT DISTINCT",
            false => "",
        }
    }
}

/// The indexes of a relation.
pub fn indexes(relation: &RelationInfo) -> Vec<Index<'_>> {
    let mut all = Vec::new();
    if !relation.primary_key.is_empty() {
        all.push(Index {
            oid: INDEX_BASE + i64::from(relation.oid),
            name: relation.primary_key_name.clone(),
            columns: &relation.primary_key,
            unique: true,
            nulls_not_distinct: false,
            primary: true,
            constraint: true,
        });
    }
    all.extend(relation.indexes.iter().map(|index| Index {
        oid: i64::from(index.oid),
        name: index.name.clone(),
        columns: &index.columns,
        unique: index.unique,
        nulls_not_distinct: index.nulls_not_distinct,
        primary: false,
        constraint: index.constraint,
    }));
    all
}

/// Names of a relation's columns by number.
pub fn column_names(relation: &RelationInfo, columns: &[usize]) -> String {
    let names = columns
        .iter()
        .filter_map(|n| relation.columns.fields().get(*n));
    names
        .map(|field| quote_ident(field.name()))
        .collect::<Vec<_>>()
        .join(", ")
}

fn with_index<'a>(
    snapshot: &'a CatalogSnapshot,
    oid: i64,
) -> Option<(&'a RelationInfo, Index<'a>)> {
    snapshot.relations.iter().find_map(|relation| {
        let index = indexes(relation)
            .into_iter()
            .find(|index| index.oid == oid)?;
        Some((relation, index))
    })
}

/// `pg_get_indexdef`: the statement, or the name of the index's n-th column.
pub fn index_definition(snapshot: &CatalogSnapshot, oid: i64, column: i64) -> Value {
    let Some((relation, index)) = with_index(snapshot, oid) else {
        return Value::Null;
    };
    if column > 0 {
        let one = index.columns.get(column as usize - 1);
        return Value::text(column_names(
            relation,
            one.map(std::slice::from_ref).unwrap_or(&[]),
        ));
    }
    Value::text(format!(
        "CREATE {}INDEX {} ON {}.{} USING btree ({}){}",
        if index.unique { "UNIQUE " } else { "" },
        quote_ident(&index.name),
        quote_ident(&relation.schema),
        quote_ident(&relation.name),
        column_names(relation, index.columns),
        index.nulls()
    ))
}

/// A table's CHECKs with their oids.
fn checks(relation: &RelationInfo) -> impl Iterator<Item = (i64, &TableCheck)> {
    let first = CHECK_BASE + i64::from(relation.oid) * CHECKS_PER_RELATION;
    (first..).zip(&relation.checks)
}

/// `pg_get_constraintdef`
pub fn constraint_definition(snapshot: &CatalogSnapshot, oid: i64) -> Value {
    for relation in &snapshot.relations {
        let mut checks = checks(relation);
        if let Some((_, check)) = checks.find(|(n, _)| *n == oid) {
            return Value::text(format!("CHECK (({}))", check.condition));
        }
        let mut indexes = indexes(relation).into_iter();
        let Some(index) = indexes.find(|i| i.constraint && i.constraint_oid(relation) == oid)
        else {
            continue;
        };
        let names = column_names(relation, index.columns);
        return Value::text(match index.primary {
            true => format!("PRIMARY KEY ({names})"),
            false => format!("UNIQUE{} ({names})", index.nulls()),
        });
    }
    Value::Null
}

/// `pg_get_viewdef`
pub fn view_definition(snapshot: &CatalogSnapshot, relation: Option<&RelationInfo>) -> Value {
    let definition = relation.and_then(|relation| relation.definition.as_deref());
    definition.map_or(Value::Null, |sql| {
        // In what is stored, names without a schema are of that one.
        let is_public = |name: &str| {
            let mut all = snapshot.relations.iter();
            all.any(|r| r.schema == DEFAULT_SCHEMA && r.name == name)
        };
        let qualified = match is_visible(snapshot, DEFAULT_SCHEMA) {
            true => None,
            false => with_default_schema(sql, is_public),
        };
        let sql = written(qualified.as_deref().unwrap_or(sql));
        Value::text(format!(" {};", sql.trim().trim_end_matches(';')))
    })
}

fn is_visible(snapshot: &CatalogSnapshot, schema: &str) -> bool {
    snapshot.search_path.iter().any(|s| s == schema)
}

/// The oid of a column's DEFAULT.
pub(super) fn default_oid(relation: &RelationInfo, column: usize) -> i64 {
    DEFAULT_BASE + (i64::from(relation.oid) - i64::from(FIRST_USER_OID)) * 64 + column as i64 % 64
}

/// The text of a column's DEFAULT: the sequence that numbers it has its schema where that isn't on the search path.
pub(super) fn default_text(
    snapshot: &CatalogSnapshot,
    relation: &RelationInfo,
    column: usize,
) -> Option<String> {
    let text = relation.defaults.get(column)?.as_deref()?;
    let named = text.strip_prefix("nextval('");
    match named.and_then(|rest| rest.split_once("'::regclass")) {
        Some((name, _))
            if split_name(name).len() == 1 && !is_visible(snapshot, &relation.schema) =>
        {
            let schema = quote_ident(&relation.schema);
            Some(format!("nextval('{schema}.{name}'::regclass)"))
        }
        _ => Some(text.to_string()),
    }
}

/// The comment on an object; `column` from 1, 0: the object itself.
pub fn description(snapshot: &CatalogSnapshot, oid: i64, column: i64) -> Value {
    if let Some(relation) = snapshot.relations.iter().find(|r| i64::from(r.oid) == oid) {
        let comment = match column {
            0 => relation.comment.as_deref(),
            n => relation
                .column_comments
                .iter()
                .find(|(number, _)| *number as i64 + 1 == n)
                .map(|(_, text)| text.as_str()),
        };
        return Value::maybe(comment);
    }
    let mut indexes = snapshot.relations.iter().flat_map(|r| &r.indexes);
    if let Some(index) = indexes.find(|index| i64::from(index.oid) == oid && column == 0) {
        return Value::maybe(index.comment.as_deref());
    }
    let schema = schemas(snapshot)
        .into_iter()
        .find(|(schema, ..)| *schema == oid);
    Value::maybe(schema.and_then(|(_, _, comment)| comment))
}

/// A connector's foreign server.
pub(super) fn servers(snapshot: &CatalogSnapshot) -> Vec<(i64, &str)> {
    let connectors = snapshot
        .relations
        .iter()
        .filter_map(|r| r.connector.as_deref());
    let names: std::collections::BTreeSet<&str> = connectors.collect();
    names
        .into_iter()
        .enumerate()
        .map(|(n, name)| (SERVER_BASE + n as i64, name))
        .collect()
}

fn options(relation: &RelationInfo) -> Value {
    let options = relation
        .options
        .iter()
        .filter(|(name, _)| name != "connector");
    Value::Array(
        options
            .map(|(name, value)| Value::text(format!("{name}={value}")))
            .collect(),
    )
}

/// `relkind`
pub(super) fn kind(relation: &RelationInfo) -> &'static str {
    match relation.kind {
        RelationType::Table => "r",
        RelationType::Source => "f",
        RelationType::View => "v",
        RelationType::MaterializedView => "m",
        RelationType::Sequence => "S",
    }
}

fn schema_oid(snapshot: &CatalogSnapshot, name: &str) -> Value {
    let found = schemas(snapshot)
        .into_iter()
        .find(|(_, schema, _)| *schema == name);
    Value::Int(found.map_or(0, |(oid, ..)| oid))
}

pub(super) fn text(text: impl AsRef<str>) -> Value {
    Value::text(text)
}

pub(super) fn int(value: impl Into<i64>) -> Value {
    Value::Int(value.into())
}

/// The rows of a relation.
pub fn rows(definition: &Definition, snapshot: &CatalogSnapshot) -> Vec<Row> {
    match (definition.schema, definition.name) {
        ("information_schema", _) => information::rows(definition, snapshot),
        (_, "pg_namespace") => {
            let mut rows = Rows::of(definition, &["oid", "nspname", "nspowner"]);
            for (oid, name, _) in schemas(snapshot) {
                let owner = if name == DEFAULT_SCHEMA {
                    DATABASE_OWNER.0
                } else {
                    OWNER_OID
                };
                rows.push([int(oid), text(name), int(owner)]);
            }
            rows.done()
        }
        (_, "pg_class") => classes(definition, snapshot),
        (_, "pg_attribute") => attributes(definition, snapshot),
        (_, "pg_type") => server_wide::types(definition),
        (_, "pg_index") => indexes::pg_index(definition, snapshot),
        (_, "pg_attrdef") => {
            let mut rows = Rows::of(definition, &["oid", "adrelid", "adnum", "adbin"]);
            for relation in &snapshot.relations {
                for number in 0..relation.defaults.len() {
                    if let Some(default) = default_text(snapshot, relation, number) {
                        rows.push([
                            int(default_oid(relation, number)),
                            int(relation.oid),
                            int(number as i64 + 1),
                            text(default),
                        ]);
                    }
                }
            }
            rows.done()
        }
        (_, "pg_constraint") => constraints(definition, snapshot),
        (_, "pg_rewrite") => dependencies::rules(definition, snapshot),
        (_, "pg_depend") => dependencies::dependencies(definition, snapshot),
        (_, "pg_sequence") => sequences::pg_sequence(definition, snapshot),
        (_, "pg_sequences") => sequences::pg_sequences(definition, snapshot),
        (_, "pg_description") => descriptions(definition, snapshot),
        (_, "pg_foreign_table") => {
            let servers = servers(snapshot);
            let mut rows = Rows::of(definition, &["ftrelid", "ftserver", "ftoptions"]);
            for relation in &snapshot.relations {
                let server = servers
                    .iter()
                    .find(|(_, name)| Some(*name) == relation.connector.as_deref());
                if let Some((server, _)) = server {
                    rows.push([int(relation.oid), int(*server), options(relation)]);
                }
            }
            rows.done()
        }
        (_, "pg_foreign_server") => {
            let mut rows = Rows::of(definition, &["oid", "srvname", "srvowner", "srvfdw"]);
            for (oid, name) in servers(snapshot) {
                rows.push([int(oid), text(name), int(OWNER_OID), int(WRAPPER_OID)]);
            }
            rows.done()
        }
        (_, "pg_foreign_data_wrapper") => {
            let mut rows = Rows::of(definition, &["oid", "fdwname", "fdwowner"]);
            rows.push([int(WRAPPER_OID), text("tidemill"), int(OWNER_OID)]);
            rows.done()
        }
        (_, "pg_tables") => {
            let given = ["schemaname", "tablename", "tableowner", "hasindexes"];
            let mut rows = Rows::of(definition, &given);
            for relation in snapshot.relations.iter().filter(|r| kind(r) == "r") {
                let indexed = Value::Bool(!indexes(relation).is_empty());
                rows.push([
                    text(&relation.schema),
                    text(&relation.name),
                    text(&snapshot.user),
                    indexed,
                ]);
            }
            rows.done()
        }
        (_, "pg_views" | "pg_matviews") => {
            let (name, owner, wanted) = match definition.name {
                "pg_views" => ("viewname", "viewowner", "v"),
                _ => ("matviewname", "matviewowner", "m"),
            };
            let mut given = vec!["schemaname", name, owner, "definition"];
            if wanted == "m" {
                given.extend(["hasindexes", "ispopulated"]);
            }
            let mut rows = Rows::of(definition, &given);
            for relation in snapshot.relations.iter().filter(|r| kind(r) == wanted) {
                let sql = view_definition(snapshot, Some(relation));
                let (schema, name) = (text(&relation.schema), text(&relation.name));
                let owner = text(&snapshot.user);
                if wanted == "v" {
                    rows.push([schema, name, owner, sql]);
                    continue;
                }
                let indexed = Value::Bool(!indexes(relation).is_empty());
                rows.push([schema, name, owner, sql, indexed, Value::Bool(true)]);
            }
            rows.done()
        }
        (_, "pg_indexes") => {
            let mut rows = Rows::of(
                definition,
                &["schemaname", "tablename", "indexname", "indexdef"],
            );
            for relation in &snapshot.relations {
                for index in indexes(relation) {
                    let sql = index_definition(snapshot, index.oid, 0);
                    rows.push([
                        text(&relation.schema),
                        text(&relation.name),
                        text(&index.name),
                        sql,
                    ]);
                }
            }
            rows.done()
        }
        _ => server_wide::rows(definition, snapshot),
    }
}

/// The oid of a relation's row type. `pg_type` doesn't have it, but clients tell relations from other classes by it.
fn row_type(relation: u32) -> i64 {
    const ROW_TYPES: i64 = 1 << 31;
    ROW_TYPES + i64::from(relation)
}

fn classes(definition: &Definition, snapshot: &CatalogSnapshot) -> Vec<Row> {
    let given = [
        "oid",
        "relname",
        "relnamespace",
        "reltype",
        "relowner",
        "relam",
        "relfilenode",
        "reltuples",
        "relhasindex",
        "relpersistence",
        "relkind",
        "relnatts",
        "relchecks",
        "relispopulated",
        "relreplident",
        "relhasrules",
    ];
    let mut rows = Rows::of(definition, &given);
    let (yes, no) = (Value::Bool(true), Value::Bool(false));
    for system in DEFINITIONS.iter() {
        let (am, kind, schema) = match system.schema {
            "pg_catalog" => (HEAP, "r", PG_CATALOG_OID),
            _ => (0, "v", INFORMATION_SCHEMA_OID),
        };
        rows.push([
            int(system.oid),
            text(system.name),
            int(schema),
            int(row_type(system.oid)),
            int(OWNER_OID),
            int(am),
            int(0),
            Value::Float(-1.0),
            no.clone(),
            text("p"),
            text(kind),
            int(system.columns.len() as i64),
            int(0),
            yes.clone(),
            text("n"),
            no.clone(),
        ]);
    }
    for relation in &snapshot.relations {
        let kind = kind(relation);
        let schema = schema_oid(snapshot, &relation.schema);
        let indexes = indexes(relation);
        let am = if matches!(kind, "r" | "m") { HEAP } else { 0 };
        let persistence = match relation.schema.starts_with(TEMPORARY_PREFIX) {
            true => "t",
            false => "p",
        };
        let tuples = relation.rows.map_or(-1.0, |rows| rows as f64);
        rows.push([
            int(relation.oid),
            text(&relation.name),
            schema.clone(),
            int(if kind == "S" {
                0
            } else {
                row_type(relation.oid)
            }),
            int(OWNER_OID),
            int(am),
            int(relation.oid),
            Value::Float(tuples),
            Value::Bool(!indexes.is_empty()),
            text(persistence),
            text(kind),
            int(relation.columns.fields().len() as i64),
            int(relation.checks.len() as i64),
            yes.clone(),
            text(if matches!(kind, "r" | "m") { "d" } else { "n" }),
            Value::Bool(kind == "v"),
        ]);
        for index in indexes {
            rows.push([
                int(index.oid),
                text(&index.name),
                schema.clone(),
                int(0),
                int(OWNER_OID),
                int(BTREE),
                int(index.oid),
                Value::Float(-1.0),
                no.clone(),
                text("p"),
                text("i"),
                int(index.columns.len() as i64),
                int(0),
                yes.clone(),
                text("n"),
                no.clone(),
            ]);
        }
    }
    rows.done()
}

/// What `pg_attribute` says of a type: oid, modifier, bytes, collation, dimensions.
struct Attribute {
    oid: u32,
    modifier: i32,
    size: i16,
    collation: i64,
    dimensions: i64,
}

fn attribute(field: &Field) -> Attribute {
    let wire = wire_type(field);
    let collated = matches!(
        wire.oid,
        type_oids::TEXT | type_oids::VARCHAR | type_oids::BPCHAR | 1009 | 1015
    );
    Attribute {
        oid: wire.oid,
        modifier: wire.modifier,
        size: wire.size,
        collation: match wire.oid {
            type_oids::NAME => C_COLLATION,
            _ if collated => COLLATION,
            _ => 0,
        },
        dimensions: i64::from(matches!(
            field.data_type(),
            arrow::datatypes::DataType::List(_)
        )),
    }
}

/// The type of a column of the catalog itself; some aren't on the wire.
fn catalog_type(ty: Ty) -> Option<u32> {
    use super::value::RegKind;
    match ty {
        Ty::Int2Vector => Some(type_oids::INT2VECTOR),
        Ty::OidVector => Some(type_oids::OIDVECTOR),
        Ty::Reg(RegKind::Class) => Some(2205),
        Ty::Reg(RegKind::Type) => Some(2206),
        Ty::Reg(RegKind::Namespace) => Some(4089),
        Ty::Reg(_) => Some(24),
        _ => None,
    }
}

fn attributes(definition: &Definition, snapshot: &CatalogSnapshot) -> Vec<Row> {
    let given = [
        "attrelid",
        "attname",
        "atttypid",
        "attstattarget",
        "attlen",
        "attnum",
        "attndims",
        "attcacheoff",
        "atttypmod",
        "attbyval",
        "attstorage",
        "attalign",
        "attnotnull",
        "atthasdef",
        "attidentity",
        "attislocal",
        "attcollation",
    ];
    let mut rows = Rows::of(definition, &given);
    let mut push = |relation: i64,
                    number: usize,
                    name: &str,
                    a: Attribute,
                    (required, default, identity): (bool, bool, Option<char>)| {
        let storage = if a.size < 0 { "x" } else { "p" };
        rows.push([
            int(relation),
            text(name),
            int(a.oid),
            int(-1),
            int(a.size),
            int(number as i64 + 1),
            int(a.dimensions),
            int(-1),
            int(a.modifier),
            Value::Bool((0..=8).contains(&a.size)),
            text(storage),
            text("i"),
            Value::Bool(required),
            Value::Bool(default),
            text(identity.map_or(String::new(), String::from)),
            Value::Bool(true),
            int(a.collation),
        ]);
    };
    for system in DEFINITIONS.iter() {
        for (number, (name, ty)) in system.columns.iter().enumerate() {
            let mut a = attribute(&ty.field(name));
            if let Some(oid) = catalog_type(*ty) {
                (a.oid, a.collation) = (oid, 0);
            }
            push(i64::from(system.oid), number, name, a, (false, false, None));
        }
    }
    for relation in &snapshot.relations {
        for (number, field) in relation.columns.fields().iter().enumerate() {
            let required = !field.is_nullable() || relation.primary_key.contains(&number);
            let required =
                required && matches!(relation.kind, RelationType::Table | RelationType::Source);
            let default = relation.defaults.get(number).is_some_and(Option::is_some);
            let mut identities = relation.identities.iter();
            let identity = identities
                .find(|(n, _)| *n == number)
                .map(|(_, kind)| *kind);
            push(
                i64::from(relation.oid),
                number,
                field.name(),
                attribute(field),
                (required, default, identity),
            );
        }
        for index in indexes(relation) {
            for (number, column) in index.columns.iter().enumerate() {
                if let Some(field) = relation.columns.fields().get(*column) {
                    push(
                        index.oid,
                        number,
                        field.name(),
                        attribute(field),
                        (false, false, None),
                    );
                }
            }
        }
    }
    rows.done()
}

fn constraints(definition: &Definition, snapshot: &CatalogSnapshot) -> Vec<Row> {
    let given = [
        "oid",
        "conname",
        "connamespace",
        "contype",
        "convalidated",
        "conrelid",
        "conindid",
        "conislocal",
        "connoinherit",
        "conkey",
    ];
    let mut rows = Rows::of(definition, &given);
    let yes = || Value::Bool(true);
    for relation in &snapshot.relations {
        for index in indexes(relation).into_iter().filter(|i| i.constraint) {
            rows.push([
                int(index.constraint_oid(relation)),
                text(&index.name),
                schema_oid(snapshot, &relation.schema),
                text(if index.primary { "p" } else { "u" }),
                yes(),
                int(relation.oid),
                int(index.oid),
                yes(),
                yes(),
                Value::ints(index.columns.iter().map(|n| *n as i64 + 1)),
            ]);
        }
        for (oid, check) in checks(relation) {
            rows.push([
                int(oid),
                text(&check.name),
                schema_oid(snapshot, &relation.schema),
                text("c"),
                yes(),
                int(relation.oid),
                int(0),
                yes(),
                Value::Bool(false),
                Value::ints(check.columns.iter().map(|n| *n as i64 + 1)),
            ]);
        }
    }
    rows.done()
}

fn descriptions(definition: &Definition, snapshot: &CatalogSnapshot) -> Vec<Row> {
    /// Oids of `pg_class` and `pg_namespace`.
    const CLASSES: [i64; 2] = [1259, 2615];
    let mut rows = Rows::of(
        definition,
        &["objoid", "classoid", "objsubid", "description"],
    );
    for (oid, _, comment) in schemas(snapshot) {
        if let Some(comment) = comment {
            rows.push([int(oid), int(CLASSES[1]), int(0), text(comment)]);
        }
    }
    for relation in &snapshot.relations {
        if let Some(comment) = &relation.comment {
            rows.push([int(relation.oid), int(CLASSES[0]), int(0), text(comment)]);
        }
        for index in &relation.indexes {
            if let Some(comment) = &index.comment {
                rows.push([int(index.oid), int(CLASSES[0]), int(0), text(comment)]);
            }
        }
        for (number, comment) in &relation.column_comments {
            let number = *number as i64 + 1;
            rows.push([
                int(relation.oid),
                int(CLASSES[0]),
                int(number),
                text(comment),
            ]);
        }
    }
    rows.done()
}
