//! `pg_catalog` and `information_schema`: relations and functions that psql, drivers and tools ask
//! for, computed from a [`CatalogSnapshot`] that the caller fills.
//!
//! Invariant: nothing here reads the catalog, the clock or the network. What functions do besides giving a value, they do to what
//! the snapshot hands them (`signal`, `advisory`), or leave to the session ([`Effects`]).

mod advisory;
mod bind;
mod bind_call;
mod bind_expr;
mod bind_from;
mod bind_order;
mod builtin;
mod columns;
mod context;
mod dependencies;
mod eval;
mod fill;
mod functions;
mod indexes;
mod information;
mod plan;
mod relations;
mod run;
mod scope;
mod sequences;
mod server_wide;
mod statistics;
mod value;

use std::sync::Arc;
use std::time::SystemTime;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tidemill_planner::SqlError;
use tidemill_planner::ast::{Numbering, Query};
use tidemill_zset::schema::SqlType;

pub use self::context::{Effects, quote_ident};
use self::relations::DEFINITIONS;
use self::value::{Ty, Value};
use crate::catalog::TableCheck;
use crate::pg::types::{oid, text_of, wire_type};
use crate::session::advisory::AdvisoryLocks;
use crate::session::backends::Activity;

/// Parameters that a catalog query may have.
const PARAMS_MAX: usize = 1_000;

/// First oid of objects that users make; the catalog's ids are added to it.
pub const FIRST_USER_OID: u32 = 16_384;
/// Oids of sequences that columns have are above this.
pub const COLUMN_SEQUENCES: u32 = 1_600_000_000;
/// Oid of schema `pg_catalog`.
pub const PG_CATALOG_OID: u32 = 11;
/// Oid of schema `public`.
pub const PUBLIC_OID: u32 = 2_200;
/// Oid of schema `information_schema`.
pub const INFORMATION_SCHEMA_OID: u32 = 13_000;
/// Oid of schema `tidemill`.
pub const TIDEMILL_OID: u32 = 13_500;

/// The catalog at one moment, as these relations need it. `pg_catalog` and `information_schema`
/// themselves are added here; everything else, `tidemill` and `public` included, is listed.
#[derive(Clone, Debug, Default)]
pub struct CatalogSnapshot {
    /// Name of the database.
    pub database: String,
    /// The session's user, who owns everything.
    pub user: String,
    /// `server_version`, e.g. `15.12 (Tidemill)`.
    pub server_version: String,
    /// The search path, in order, without `pg_catalog`.
    pub search_path: Vec<String>,
    /// Schemas other than `pg_catalog` and `information_schema`.
    pub schemas: Vec<SchemaInfo>,
    /// Relations of those schemas.
    pub relations: Vec<RelationInfo>,
    /// Sequences; each is among the relations too.
    pub sequences: Vec<SequenceInfo>,
    /// Run-time settings: name, value, description.
    pub settings: Vec<(String, String, String)>,
    /// Connected clients: number, what they are doing.
    pub backends: Vec<(i32, Activity)>,
    /// Cancels or terminates one; false if there is none of that number.
    pub signal: Signal,
    /// The asking connection's number.
    pub backend_pid: i32,
    /// Advisory locks of all connections.
    pub advisory: Arc<AdvisoryLocks>,
    /// When the server started.
    pub started: Option<SystemTime>,
}

/// What `pg_cancel_backend` and `pg_terminate_backend` do; by default nothing.
#[derive(Clone, Default)]
pub struct Signal(pub Option<Arc<Signalling>>);

/// Takes a connection's number, and whether it has to end.
pub type Signalling = dyn Fn(i32, bool) -> bool + Send + Sync;

impl std::fmt::Debug for Signal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signal")
    }
}

/// A schema.
#[derive(Clone, Debug)]
pub struct SchemaInfo {
    /// Oid: [`PUBLIC_OID`], [`TIDEMILL_OID`], or above [`FIRST_USER_OID`].
    pub oid: u32,
    /// Name.
    pub name: String,
    /// COMMENT ON.
    pub comment: Option<String>,
}

/// What a relation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelationType {
    /// `CREATE TABLE`: relkind `r`.
    Table,
    /// `CREATE SOURCE` and error relations: relkind `f`, a foreign table whose server is the connector.
    Source,
    /// `CREATE VIEW`, and relations of `tidemill`: relkind `v`.
    View,
    /// `CREATE MATERIALIZED VIEW`: relkind `m`.
    MaterializedView,
    /// `CREATE SEQUENCE`, and what numbers a column: relkind `S`.
    Sequence,
}

/// A sequence.
#[derive(Clone, Debug)]
pub struct SequenceInfo {
    /// Oid, also of its relation.
    pub oid: u32,
    /// Its schema's name.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// The type of its numbers.
    pub data_type: SqlType,
    /// How it counts.
    pub numbering: Numbering,
    /// The last number that was given, if one was.
    pub last: Option<i64>,
    /// The table's oid and the column's number, from 0, that it belongs to.
    pub owner: Option<(u32, usize)>,
    /// COMMENT ON the sequence.
    pub comment: Option<String>,
}

/// A relation.
#[derive(Clone, Debug)]
pub struct RelationInfo {
    /// Oid; [`FIRST_USER_OID`] plus the collection's id.
    pub oid: u32,
    /// Its schema's name.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: RelationType,
    /// Columns, types and nullability.
    pub columns: SchemaRef,
    /// Text of DEFAULT per column; may be shorter than `columns`.
    pub defaults: Vec<Option<String>>,
    /// How IDENTITY columns are declared, by column: `a`lways or by `d`efault.
    pub identities: Vec<(usize, char)>,
    /// Column numbers of the PRIMARY KEY, from 0.
    pub primary_key: Vec<usize>,
    /// Name of the key, where there is one.
    pub primary_key_name: String,
    /// CHECKs of a table.
    pub checks: Vec<TableCheck>,
    /// Indexes, without the primary key's.
    pub indexes: Vec<IndexInfo>,
    /// The query of a view or materialized view.
    pub definition: Option<String>,
    /// Oids of what a view reads.
    pub depends: Vec<u32>,
    /// `connector` of a source.
    pub connector: Option<String>,
    /// Options of a source.
    pub options: Vec<(String, String)>,
    /// COMMENT ON the relation.
    pub comment: Option<String>,
    /// COMMENT ON its columns: number from 0, text.
    pub column_comments: Vec<(usize, String)>,
    /// Rows, where known.
    pub rows: Option<u64>,
    /// Bytes of state, where known.
    pub bytes: Option<u64>,
}

impl RelationInfo {
    /// A relation of these columns, of which nothing more is known.
    pub fn new(oid: u32, schema: &str, name: &str, kind: RelationType, columns: SchemaRef) -> Self {
        RelationInfo {
            oid,
            schema: schema.into(),
            name: name.into(),
            kind,
            columns,
            defaults: vec![],
            identities: vec![],
            primary_key: vec![],
            primary_key_name: String::new(),
            checks: vec![],
            indexes: vec![],
            definition: None,
            depends: vec![],
            connector: None,
            options: vec![],
            comment: None,
            column_comments: vec![],
            rows: None,
            bytes: None,
        }
    }
}

/// An index.
#[derive(Clone, Debug)]
pub struct IndexInfo {
    /// Oid.
    pub oid: u32,
    /// Name.
    pub name: String,
    /// Column numbers, from 0.
    pub columns: Vec<usize>,
    /// True if the columns are unique.
    pub unique: bool,
    /// Two NULLs are duplicates.
    pub nulls_not_distinct: bool,
    /// It is there because of a UNIQUE constraint.
    pub constraint: bool,
    /// COMMENT ON the index.
    pub comment: Option<String>,
    /// Bytes that are stored of it.
    pub bytes: u64,
}

/// A relation of `pg_catalog` or `information_schema`.
#[derive(Clone, Debug)]
pub struct SystemRelation {
    /// Fixed oid.
    pub oid: u32,
    /// `pg_catalog` or `information_schema`.
    pub schema: &'static str,
    /// Name.
    pub name: &'static str,
    /// Columns.
    pub columns: SchemaRef,
}

/// All relations that [`rows`] can fill.
pub fn relations() -> Vec<SystemRelation> {
    let all = DEFINITIONS.iter().map(|definition| SystemRelation {
        oid: definition.oid,
        schema: definition.schema,
        name: definition.name,
        columns: definition.arrow(),
    });
    all.collect()
}

/// The rows of a relation, one batch; `None` if there is no such relation.
pub fn rows(schema: &str, name: &str, snapshot: &CatalogSnapshot) -> Option<RecordBatch> {
    let definition = relations::find(Some(schema), name)?;
    let rows = fill::rows(definition, snapshot);
    let columns: Vec<_> = definition
        .columns
        .iter()
        .map(|(name, ty)| (name.to_string(), *ty))
        .collect();
    Some(batch(&columns, &rows))
}

/// A query over the catalog alone, ready to run.
pub struct CatalogQuery {
    plan: plan::Plan,
    /// Columns of the result.
    pub columns: SchemaRef,
    /// Types of `$1`, `$2`, ….
    pub params: Vec<Field>,
}

/// Binds a query that reads relations of `pg_catalog` and `information_schema` only, or that reads none but
/// calls functions of the catalog, such as `SELECT version()`. `None`: the planner must answer it.
///
/// `declared`: types that the client gave for `$1`, ….
pub fn query(query: &Query, declared: &[Option<Field>]) -> Option<CatalogQuery> {
    query_why(query, declared).ok()
}

/// As [`query()`]; says why it is the planner's.
pub fn query_why(query: &Query, declared: &[Option<Field>]) -> Result<CatalogQuery, SqlError> {
    let declared = declared
        .iter()
        .map(|field| field.as_ref().map(declared_type))
        .collect();
    let binder = bind::Binder::new(declared);
    let plan = binder.query(query, &scope::Scope::default())?;
    if !binder.ours.get() {
        return Err(scope::not_ours("nothing of the catalog"));
    }
    if binder.computes.get() && !binder.ours_alone.get() {
        return Err(scope::not_ours("a computation"));
    }
    let params = binder.params.into_inner();
    let params = params
        .into_iter()
        .map(|ty| ty.unwrap_or(Ty::Text).field(""));
    let columns: Vec<Field> = plan
        .columns
        .iter()
        .map(|(name, ty)| ty.field(name))
        .collect();
    Ok(CatalogQuery {
        columns: Arc::new(Schema::new(columns)),
        params: params.collect(),
        plan,
    })
}

/// True for an error that says: the planner must answer this query.
pub fn is_planners(error: &SqlError) -> bool {
    error.sqlstate == scope::NOT_OURS
}

impl CatalogQuery {
    /// Runs it. `params`: arrays of one element each, of the types in `params`.
    pub fn run(
        &self,
        snapshot: &CatalogSnapshot,
        params: &[Option<ArrayRef>],
    ) -> Result<(RecordBatch, Effects), SqlError> {
        let params: Vec<Value> = params
            .iter()
            .map(|p| p.as_ref().map_or(Value::Null, param))
            .collect();
        let context = context::Context::new(snapshot, &params);
        let rows = run::rows(&self.plan, None, &context)?;
        Ok((
            batch(&self.plan.columns, &rows),
            context.effects.into_inner(),
        ))
    }
}

fn batch(columns: &[(String, Ty)], rows: &[Vec<Value>]) -> RecordBatch {
    let fields: Vec<Field> = columns.iter().map(|(name, ty)| ty.field(name)).collect();
    let arrays = columns.iter().enumerate().map(|(number, (_, ty))| {
        let values: Vec<Value> = rows.iter().map(|row| row[number].clone()).collect();
        ty.arrow(&values)
    });
    let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays.collect(), &options)
        .expect("arrays are made from the fields' types")
}

/// The type of a parameter that a client declared.
fn declared_type(field: &Field) -> Ty {
    match wire_type(field).oid {
        oid::BOOL => Ty::Bool,
        oid::INT2 => Ty::Int2,
        oid::INT4 => Ty::Int4,
        oid::INT8 => Ty::Int8,
        oid::OID => Ty::Oid,
        oid::NAME => Ty::Name,
        oid::CHAR => Ty::Char,
        oid::FLOAT4 | oid::FLOAT8 | oid::NUMERIC => Ty::Float8,
        _ => match SqlType::of(field) {
            SqlType::Array(of) => declared_type(&of.field("", true)).array(),
            _ => Ty::Text,
        },
    }
}

/// A parameter's value.
fn param(array: &ArrayRef) -> Value {
    if array.is_null(0) {
        return Value::Null;
    }
    let text = text_of(array, 0);
    match array.data_type() {
        DataType::Int16 | DataType::Int32 | DataType::Int64 => {
            text.parse().map_or(Value::Null, Value::Int)
        }
        DataType::Boolean => Value::Bool(text == "t"),
        DataType::Float32 | DataType::Float64 => text.parse().map_or(Value::Null, Value::Float),
        DataType::List(_) => context::read_array(&text).unwrap_or(Value::Null),
        _ => Value::text(text),
    }
}
