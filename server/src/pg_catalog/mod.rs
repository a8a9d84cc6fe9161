//! `pg_catalog` and `information_schema`: relations and functions that psql, drivers and tools ask
//! for, computed from a [`CatalogSnapshot`] that the caller fills.
//!
//! Invariant: pure; nothing here reads the catalog, the clock or the network.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

/// First oid of objects that users make; the catalog's ids are added to it.
pub const FIRST_USER_OID: u32 = 16_384;
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
    /// Run-time settings: name, value, description.
    pub settings: Vec<(String, String, String)>,
    /// Connected clients.
    pub backends: Vec<BackendInfo>,
    /// The asking connection's number.
    pub backend_pid: i32,
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
    /// Column numbers of the PRIMARY KEY, from 0.
    pub primary_key: Vec<usize>,
    /// Indexes, without the primary key's.
    pub indexes: Vec<IndexInfo>,
    /// The query of a view or materialized view.
    pub definition: Option<String>,
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
}

/// A connected client.
#[derive(Clone, Debug, Default)]
pub struct BackendInfo {
    /// Connection number.
    pub pid: i32,
    /// User name.
    pub user: String,
    /// `application_name`.
    pub application: String,
    /// `active`, `idle`, `idle in transaction`.
    pub state: String,
    /// Current or last statement.
    pub query: String,
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
    Vec::new()
}

/// The rows of a relation, one batch; `None` if there is no such relation.
pub fn rows(schema: &str, name: &str, snapshot: &CatalogSnapshot) -> Option<RecordBatch> {
    let _ = (schema, name, snapshot);
    None
}
