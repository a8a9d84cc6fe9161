//! What the planner asks of the catalog; the server implements it.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use tidemill_zset::CollectionId;

use crate::error::{Result, SqlError};

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
    /// A view that the last start couldn't restore: whoever names it gets an error.
    Broken {
        /// Why.
        reason: String,
    },
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

/// The error of a statement that names a view which the last start couldn't restore.
pub fn broken_view(name: &str, reason: &str) -> SqlError {
    SqlError::new(
        "55000",
        format!("view \"{name}\" can't be used: it couldn't be restored at the last start"),
    )
    .detail(reason)
    .hint(
        "Drop it and create it anew (tidemill.objects has its text), or mend what it reads and restart.",
    )
}

/// Name resolution at one moment.
pub trait CatalogView: Send + Sync {
    /// The relation of that name; without `schema`, along the search path
    /// (`pg_catalog` first, as PostgreSQL does).
    fn resolve(&self, schema: Option<&str>, name: &str) -> Option<Relation>;

    /// All relations, for "did you mean" hints and pg_catalog.
    fn relations(&self) -> Vec<Relation>;
}

/// What a session does with sequences, by their names as text (or their oids as digits). Takes effect at once, whatever becomes of the
/// transaction.
pub trait Sequences: Send + Sync + std::fmt::Debug {
    /// Fails if there is no sequence of that name.
    fn check(&self, name: &str) -> Result<()>;

    /// `nextval`, `count` times.
    fn next(&self, name: &str, count: usize) -> Result<Vec<i64>>;

    /// `currval`: the last number that the session got from it.
    fn current(&self, name: &str) -> Result<i64>;

    /// `lastval`: the last number that the session got from any.
    fn last(&self) -> Result<i64>;

    /// `setval`; `called`: the next number is the one after `value`.
    fn set(&self, name: &str, value: i64, called: bool) -> Result<()>;

    /// `pg_get_serial_sequence`: the qualified name of what numbers a column.
    fn of_column(&self, table: &str, column: &str) -> Result<Option<String>>;
}

/// For those who run no statements, e.g. while a view is opened again.
#[derive(Debug)]
pub struct NoSequences;

fn none<T>() -> Result<T> {
    Err(SqlError::unsupported(
        "sequences can't be used here: there is no session",
    ))
}

impl Sequences for NoSequences {
    fn check(&self, _: &str) -> Result<()> {
        none()
    }

    fn next(&self, _: &str, _: usize) -> Result<Vec<i64>> {
        none()
    }

    fn current(&self, _: &str) -> Result<i64> {
        none()
    }

    fn last(&self) -> Result<i64> {
        none()
    }

    fn set(&self, _: &str, _: i64, _: bool) -> Result<()> {
        none()
    }

    fn of_column(&self, _: &str, _: &str) -> Result<Option<String>> {
        none()
    }
}
