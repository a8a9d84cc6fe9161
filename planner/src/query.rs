//! Queries: bound against the catalog, then executed on a snapshot or compiled to a dataflow.
//!
//! [`Planner::plan_query`] gives a [`QueryPlan`]: a DataFusion logical plan in which every expression has its
//! PostgreSQL type and meaning (all coercions are explicit, arithmetic is checked), so that a
//! SELECT and a view made of the same plan can't differ. `now()` is a function call in the plan, never a constant.

use std::fmt::Debug;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, SchemaRef};
use datafusion_common::ScalarValue;
use datafusion_expr::{LogicalPlan, TableScan};
use futures::stream::BoxStream;
use sqlparser::ast;
use tidemill_zset::CollectionId;

use crate::catalog::{CatalogView, Relation};
use crate::error::{Result, SqlError};

/// What a statement knows of the session that runs it.
#[derive(Clone, Debug)]
pub struct SessionContextInfo {
    /// `current_user`.
    pub user: String,
    /// `current_database()`.
    pub database: String,
    /// Schemas in which unqualified names are looked for, in order.
    pub search_path: Vec<String>,
    /// `TimeZone`, an IANA name or `UTC`.
    pub time_zone: String,
    /// `now()`: the statement's (transaction's) start, microseconds since the Unix epoch.
    pub now: i64,
    /// Other settings by lower-case name, for `current_setting`.
    pub variables: std::collections::BTreeMap<String, String>,
}

impl Default for SessionContextInfo {
    fn default() -> Self {
        SessionContextInfo {
            user: "tidemill".into(),
            database: "tidemill".into(),
            search_path: vec!["public".into()],
            time_zone: "UTC".into(),
            now: 0,
            variables: Default::default(),
        }
    }
}

/// Reads collections at the one version that the statement has pinned.
pub trait SnapshotReader: Send + Sync + Debug {
    /// Rows of `collection`, each as often as its multiplicity says. `columns`: which, in which
    /// order (`None`: all). `equal`: column number of the collection = constant, all of them true
    /// of every row that is wanted; the reader may use them for a point lookup or ignore them.
    #[allow(clippy::type_complexity)]
    fn scan(
        &self,
        collection: CollectionId,
        columns: Option<&[usize]>,
        equal: &[(usize, ScalarValue)],
    ) -> Result<Box<dyn Iterator<Item = Result<RecordBatch>> + Send>>;
}

/// Plans queries. Holds DataFusion's registries; cheap to clone and share.
#[derive(Clone, Debug, Default)]
pub struct Planner {}

/// A bound query.
#[derive(Clone, Debug)]
pub struct QueryPlan {
    /// Bound and typed, not yet optimised. Names of columns in it are internal.
    pub logical: LogicalPlan,
    /// The output as users see it: names, types (see `tidemill_zset::schema`).
    pub columns: SchemaRef,
    /// Types of `$1`, `$2`, …
    pub params: Vec<Field>,
    /// Collections that are read, each once.
    pub inputs: Vec<CollectionId>,
    /// `now()`, `current_date` and the like occur.
    pub uses_now: bool,
    /// The first volatile function that occurs, e.g. `random`.
    pub volatile: Option<String>,
    /// The session's part, constant for one execution.
    pub session: SessionContextInfo,
}

/// Rows of an executed query. Dropping it cancels.
pub type ResultStream = BoxStream<'static, Result<RecordBatch>>;

impl Planner {
    /// A planner with all functions registered.
    pub fn new() -> Planner {
        Planner {}
    }

    /// Binds a SELECT, VALUES, or set operation. `param_types`: what the client declared for `$1`, …
    pub fn plan_query(
        &self,
        catalog: &dyn CatalogView,
        session: &SessionContextInfo,
        query: &ast::Query,
        param_types: &[Option<Field>],
    ) -> Result<QueryPlan> {
        let _ = (catalog, session, query, param_types);
        Err(SqlError::unsupported("queries are not supported yet"))
    }

    /// Rows to insert into `table`: all its columns, in order, coerced by assignment, defaults filled in.
    /// `defaults`: the text of each column's DEFAULT expression.
    pub fn plan_insert(
        &self,
        catalog: &dyn CatalogView,
        session: &SessionContextInfo,
        insert: &ast::Insert,
        table: &Relation,
        defaults: &[Option<String>],
        param_types: &[Option<Field>],
    ) -> Result<QueryPlan> {
        let _ = (catalog, session, insert, table, defaults, param_types);
        Err(SqlError::unsupported("INSERT is not supported yet"))
    }

    /// Rows to update: all old columns of `table`, then all new ones.
    pub fn plan_update(
        &self,
        catalog: &dyn CatalogView,
        session: &SessionContextInfo,
        update: &ast::Statement,
        table: &Relation,
        defaults: &[Option<String>],
        param_types: &[Option<Field>],
    ) -> Result<QueryPlan> {
        let _ = (catalog, session, update, table, defaults, param_types);
        Err(SqlError::unsupported("UPDATE is not supported yet"))
    }

    /// Rows to delete: all columns of `table`.
    pub fn plan_delete(
        &self,
        catalog: &dyn CatalogView,
        session: &SessionContextInfo,
        delete: &ast::Delete,
        table: &Relation,
        param_types: &[Option<Field>],
    ) -> Result<QueryPlan> {
        let _ = (catalog, session, delete, table, param_types);
        Err(SqlError::unsupported("DELETE is not supported yet"))
    }

    /// The value of an expression without columns (DEFAULT, EXECUTE's arguments, AS OF), coerced to `to` as an
    /// assignment if it is given.
    pub fn constant(
        &self,
        session: &SessionContextInfo,
        expr: &ast::Expr,
        to: Option<&Field>,
    ) -> Result<(ScalarValue, Field)> {
        let _ = (session, expr, to);
        Err(SqlError::unsupported("expressions are not supported yet"))
    }
}

impl QueryPlan {
    /// The logical plan after DataFusion's optimiser. Scans keep pushed-down filters only as hints: the
    /// `Filter` nodes stay.
    pub fn optimised(&self) -> Result<LogicalPlan> {
        Ok(self.logical.clone())
    }

    /// The plan with its parameters replaced by `values`.
    pub fn bind_params(&self, values: &[ScalarValue]) -> Result<QueryPlan> {
        let _ = values;
        Ok(self.clone())
    }

    /// Runs the plan. Batches have exactly the types of `columns`.
    pub fn execute(&self, reader: Arc<dyn SnapshotReader>) -> Result<ResultStream> {
        let _ = reader;
        Err(SqlError::unsupported("queries are not supported yet"))
    }
}

/// The collection that a scan in a [`QueryPlan`] reads.
pub fn scan_collection(scan: &TableScan) -> Option<Relation> {
    let _ = scan;
    None
}
