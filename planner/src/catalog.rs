//! What the planner asks of the catalog; the server implements it.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use tidemill_zset::CollectionId;

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RelationKind {
    /// `CREATE TABLE`
    Table,
    /// `CREATE SOURCE`
    Source,
    /// The error relation of a source or view.
    Errors,
    /// `CREATE VIEW`: replaced by its query when it is used.
    View {
        /// The query's text.
        sql: String,
    },
    /// `CREATE MATERIALIZED VIEW`
    MaterializedView,
    /// A relation of `tidemill`, `pg_catalog` or `information_schema`; rows come from the reader, can't be maintained.
    System,
}

/// A relation as the planner sees it.
#[derive(Clone, Debug)]
pub struct Relation {
    /// Its oid in pg_class.
    pub oid: u32,
    /// Its collection; for `View` unused.
    pub id: CollectionId,
    /// Its schema's name, e.g. `public`.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: RelationKind,
    /// Its columns; types as `tidemill_zset::schema` says.
    pub columns: SchemaRef,
    /// What plans call its columns, where some have got other names since: plans stay the same.
    pub planned: Option<Arc<Vec<String>>>,
    /// Column numbers of the PRIMARY KEY.
    pub primary_key: Option<Vec<usize>>,
    /// Columns whose combination is unique, e.g. a view's GROUP BY key.
    pub unique: Option<Vec<usize>>,
    /// True if rows are never retracted.
    pub append_only: bool,
}

impl Relation {
    /// What plans call a column.
    pub fn planned_name(&self, column: usize) -> &str {
        match self.planned.as_ref().and_then(|names| names.get(column)) {
            Some(name) => name,
            None => self.columns.field(column).name(),
        }
    }
}

/// Name resolution at one moment.
pub trait CatalogView: Send + Sync {
    /// The relation of that name; without `schema`, along the search path
    /// (`pg_catalog` first, as PostgreSQL does).
    fn resolve(&self, schema: Option<&str>, name: &str) -> Option<Relation>;

    /// All relations, for "did you mean" hints and pg_catalog.
    fn relations(&self) -> Vec<Relation>;
}
