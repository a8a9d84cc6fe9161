//! Queries: bound against the catalog, then executed on a snapshot or compiled to a dataflow.
//!
//! [`Planner::plan_query`] gives a [`QueryPlan`]: a DataFusion logical plan in which every expression has its
//! PostgreSQL type and meaning (all coercions are explicit, arithmetic is checked), so that a
//! SELECT and a view made of the same plan can't differ. `now()` is a function call in the plan, never a constant.

use std::fmt::Debug;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::datasource::DefaultTableSource;
use datafusion_common::ScalarValue;
use datafusion_expr::{Expr, LogicalPlan, TableScan};
use futures::stream::BoxStream;
use sqlparser::ast;
use tidemill_zset::CollectionId;
use tidemill_zset::schema::SqlType;

use crate::bind::dml::{evaluate, evaluate_rows};
use crate::bind::expr::Ctx;
use crate::bind::late_errors::late_errors;
use crate::bind::scope::{Outer, Scope};
pub use crate::bind::written::{Conflict, Key, WRITTEN};
use crate::bind::{Binder, Rel, project, unique_names, written};

pub use crate::access::Condition;
use crate::ast::ColumnDefault;
use crate::catalog::{CatalogView, NoSequences, Relation, Sequences};
use crate::compile::{decorrelate, order};
use crate::error::{Result, SqlError, from_datafusion};
use crate::execute;
pub use crate::execute::{CollectionTable, limit_query_memory};
use crate::origins;
use crate::walk;

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
    /// `now()`: the start of the transaction, or of a statement outside of one, microseconds since the Unix epoch.
    pub now: i64,
    /// `statement_timestamp()`: the start of the statement.
    pub statement: i64,
    /// `pg_backend_pid()`.
    pub backend_pid: i32,
    /// When the server started, likewise; `None`: there is none.
    pub server_started: Option<i64>,
    /// Other settings by lower-case name, for `current_setting`.
    pub variables: Arc<std::collections::BTreeMap<String, String>>,
    /// What `nextval` and its kin reach.
    pub sequences: Arc<dyn Sequences>,
}

impl Default for SessionContextInfo {
    fn default() -> Self {
        SessionContextInfo {
            backend_pid: 0,
            user: "tidemill".into(),
            database: "tidemill".into(),
            search_path: vec!["public".into()],
            time_zone: "UTC".into(),
            now: 0,
            statement: 0,
            server_started: None,
            variables: Default::default(),
            sequences: Arc::new(NoSequences),
        }
    }
}

/// Reads collections at the one version that the statement has pinned.
pub trait SnapshotReader: Send + Sync + Debug {
    /// Rows of `collection`, each as often as its multiplicity says. `columns`: which, in which
    /// order (`None`: all). `conditions`: all of them true of every row that is wanted; the reader may use them to
    /// find rows by an index or ignore them.
    fn scan(
        &self,
        collection: CollectionId,
        columns: Option<&[usize]>,
        conditions: &[Condition],
    ) -> Result<Rows>;

    /// About how many rows the collection has; `None`: nobody knows.
    fn rows_estimate(&self, _collection: CollectionId) -> Option<u64> {
        None
    }

    /// Some of the collection's rows, as far as that costs little, for those who want to know what they are like. They don't count as read.
    fn sample(&self, _collection: CollectionId, _columns: Option<&[usize]>) -> Option<RecordBatch> {
        None
    }

    /// As [`SnapshotReader::scan`], if `conditions` select few rows by an index; `None`: they don't.
    fn find(
        &self,
        _collection: CollectionId,
        _columns: Option<&[usize]>,
        _conditions: &[Condition],
    ) -> Result<Option<Rows>> {
        Ok(None)
    }

    /// Whether [`SnapshotReader::find`] would find the rows by an index.
    fn finds(&self, collection: CollectionId, conditions: &[Condition]) -> Result<bool> {
        Ok(self.find(collection, None, conditions)?.is_some())
    }

    /// As [`SnapshotReader::find`], the first rows in some order before the others: a piece has all rows whose values of the column lie in
    /// some range, in any order. `None`: nothing has them in that order, or less is read without it.
    fn find_in_order(
        &self,
        _collection: CollectionId,
        _columns: Option<&[usize]>,
        _conditions: &[Condition],
        _order: ColumnOrder,
    ) -> Result<Option<Pieces>> {
        Ok(None)
    }
}

/// The order of a column's values, NULL after (descending: before) all others, in which rows are wanted.
#[derive(Clone, Copy, Debug)]
pub struct ColumnOrder {
    /// Which column of the collection.
    pub column: usize,
    /// The greatest first.
    pub descending: bool,
    /// Rows with NULL are wanted as well.
    pub nulls: bool,
    /// How many rows will do at best.
    pub rows: usize,
}

/// Rows in pieces: what is in one comes before what is in the next.
pub type Pieces = Box<dyn Iterator<Item = Result<Rows>> + Send>;

/// Batches of a collection's rows.
pub type Rows = Box<dyn Iterator<Item = Result<RecordBatch>> + Send>;

/// Plans queries. Cheap to clone and share: functions are resolved from tables made once per process.
#[derive(Clone, Debug, Default)]
pub struct Planner {}

/// A bound query.
#[derive(Clone, Debug)]
pub struct QueryPlan {
    /// Bound and typed, not yet optimised, with one total order where order decides a result
    /// (`compile::order`). Names of columns in it are internal.
    pub logical: LogicalPlan,
    /// The output as users see it: names, types (see `tidemill_zset::schema`).
    pub columns: SchemaRef,
    /// The same with what is known of where each column comes from (see [`crate::origins`]).
    pub described: SchemaRef,
    /// Types of `$1`, `$2`, …
    pub params: Vec<Field>,
    /// What decided them.
    pub settled: Vec<Settled>,
    /// Collections that are read, each once.
    pub inputs: Vec<CollectionId>,
    /// `now()`, `current_date` and the like occur.
    pub uses_now: bool,
    /// The first volatile function that occurs, e.g. `random`.
    pub volatile: Option<String>,
    /// A function that asks the session or the catalog, e.g. `current_setting`. What it gives isn't kept up to date.
    pub asks: Option<String>,
    /// The session's part, constant for one execution.
    pub session: SessionContextInfo,
    /// What DataFusion makes of it, from its first execution on, if nothing is put in at each.
    pub(crate) kept: execute::Kept,
}

/// What decides the type of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// The client, or what stands beside it.
    Typed,
    /// Nothing: it is text.
    Named,
    /// Nothing, and it isn't named at all.
    Unnamed,
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
        self.plan(catalog, session, param_types, |b| {
            let rel = b.query(query, &Vec::new(), Outer::None)?;
            b.settled(rel)
        })
    }

    /// Rows to insert into `table`: all its columns, in order, coerced by assignment, defaults filled in.
    /// `defaults`: what each column holds where the INSERT doesn't say. Then, of each column that numbers rows, whether the row is to
    /// have the next number.
    pub fn plan_insert(
        &self,
        catalog: &dyn CatalogView,
        session: &SessionContextInfo,
        insert: &ast::Insert,
        table: &Relation,
        defaults: &[Option<ColumnDefault>],
        param_types: &[Option<Field>],
    ) -> Result<QueryPlan> {
        self.plan(catalog, session, param_types, |b| {
            b.insert(insert, table, defaults)
        })
    }

    /// Rows to update: all old columns of `table`, then all new ones; with RETURNING then those of the other relations.
    pub fn plan_update(
        &self,
        catalog: &dyn CatalogView,
        session: &SessionContextInfo,
        update: &ast::Statement,
        table: &Relation,
        defaults: &[Option<ColumnDefault>],
        param_types: &[Option<Field>],
    ) -> Result<QueryPlan> {
        self.plan(catalog, session, param_types, |b| {
            b.update(update, table, defaults)
        })
    }

    /// Rows to delete: all columns of `table`; with RETURNING then those of the other relations.
    pub fn plan_delete(
        &self,
        catalog: &dyn CatalogView,
        session: &SessionContextInfo,
        delete: &ast::Delete,
        table: &Relation,
        param_types: &[Option<Field>],
    ) -> Result<QueryPlan> {
        self.plan(catalog, session, param_types, |b| b.delete(delete, table))
    }

    /// What INSERT does with rows that have a key which is there already, and which of `keys` count, by their numbers.
    pub fn conflict(
        &self,
        insert: &ast::Insert,
        table: &Relation,
        keys: &[Key],
    ) -> Result<(Conflict, Vec<usize>)> {
        written::conflict(insert, table, keys)
    }

    /// ON CONFLICT DO UPDATE: all old columns of `table`, then all new ones, from the collection [`WRITTEN`] with all columns
    /// of the rows that are there and then those of the rows that were to be inserted.
    pub fn plan_do_update(
        &self,
        catalog: &dyn CatalogView,
        session: &SessionContextInfo,
        insert: &ast::Insert,
        table: &Relation,
        defaults: &[Option<ColumnDefault>],
        param_types: &[Option<Field>],
    ) -> Result<QueryPlan> {
        self.plan(catalog, session, param_types, |b| {
            b.do_update(insert, table, defaults)
        })
    }

    /// RETURNING, from the collection [`WRITTEN`] with the columns of `table` and those that the write's plan gives beside them:
    /// of the relations in `from` but the first.
    pub fn plan_returning(
        &self,
        catalog: &dyn CatalogView,
        session: &SessionContextInfo,
        (items, alias): (&[ast::SelectItem], Option<&str>),
        from: &[ast::TableWithJoins],
        table: &Relation,
        param_types: &[Option<Field>],
    ) -> Result<QueryPlan> {
        self.plan(catalog, session, param_types, |b| {
            b.returning(items, table, alias, from)
        })
    }

    /// The conditions of CHECKs, from the collection [`WRITTEN`] with the columns of `table`: a column of truth values for each.
    pub fn plan_checks(
        &self,
        session: &SessionContextInfo,
        conditions: &[String],
        table: &Relation,
    ) -> Result<QueryPlan> {
        self.plan(&NoRelations, session, &[], |b| b.checks(conditions, table))
    }

    /// Refuses what ALTER COLUMN … TYPE can't make of a column's values.
    pub fn check_transform(
        &self,
        session: &SessionContextInfo,
        (column, using): (&str, Option<&str>),
        to: &SqlType,
        table: &Relation,
    ) -> Result<()> {
        let binder = Binder::new(&NoRelations, session, vec![]);
        binder.transform((column, using), to, table)
    }

    fn plan(
        &self,
        catalog: &dyn CatalogView,
        session: &SessionContextInfo,
        param_types: &[Option<Field>],
        f: impl FnOnce(&Binder) -> Result<Rel>,
    ) -> Result<QueryPlan> {
        let params = param_types
            .iter()
            .map(|p| p.as_ref().map(SqlType::of))
            .collect();
        let binder = Binder::new(catalog, session, params);
        let rel = f(&binder)?;
        let facts = binder.finish();
        let columns = rel
            .cols
            .iter()
            .map(|c| c.ty.field(&c.name, true))
            .collect::<Vec<_>>();
        let columns: SchemaRef = Arc::new(Schema::new(columns));
        let of: Vec<_> = rel.cols.iter().map(|c| c.column.clone()).collect();
        let described = origins::described(&rel.plan, &of, &facts.origins, &columns);
        Ok(QueryPlan {
            described,
            logical: late_errors(output(rel)?)
                .and_then(decorrelate::prepare)
                .and_then(order::canonical)
                .map_err(|e| from_datafusion(&e))?,
            columns,
            params: facts
                .params
                .iter()
                .enumerate()
                .map(|(i, t)| t.field(&format!("${}", i + 1), true))
                .collect(),
            settled: facts.settled,
            inputs: facts.inputs,
            uses_now: facts.uses_now,
            volatile: facts.volatile,
            asks: facts.asks,
            session: session.clone(),
            kept: execute::Kept::default(),
        })
    }

    /// Refuses a DEFAULT that no row could take, as PostgreSQL does when the table is made.
    pub fn check_default(
        &self,
        session: &SessionContextInfo,
        column: &Field,
        default: &str,
    ) -> Result<()> {
        let refused =
            |what| SqlError::new("0A000", format!("cannot use {what} in DEFAULT expression"));
        let expr = crate::parser::parse_expr(default)?;
        let is_query = |e: &ast::Expr| {
            matches!(
                e,
                ast::Expr::Subquery(_) | ast::Expr::Exists { .. } | ast::Expr::InSubquery { .. }
            )
        };
        if walk::any_expr(&expr, is_query) {
            return Err(refused("subquery"));
        }
        let binder = Binder::new(&NoRelations, session, vec![]);
        let scope = Scope::new(Outer::None);
        let ctes = Vec::new();
        let value = match binder.expr(Ctx::plain(&scope, &ctes, "DEFAULT expressions"), &expr) {
            Err(e) if matches!(e.sqlstate, "42703" | "42P01") => {
                return Err(refused("column reference"));
            }
            value => value?,
        };
        for sequence in crate::definition::sequences_of(default) {
            session.sequences.check(&sequence)?;
        }
        let of = value.type_name();
        let to = SqlType::of(column);
        binder.assign(value, &to, column.name()).map_err(|mut e| {
            if e.sqlstate == "42804" {
                e.message = format!(
                    "column \"{}\" is of type {} but default expression is of type {of}",
                    column.name(),
                    crate::bind::types::plain_name(&to)
                );
            }
            e
        })?;
        Ok(())
    }

    /// The value of an expression without columns (DEFAULT, EXECUTE's arguments, AS OF), coerced to `to` as an
    /// assignment if it is given.
    pub fn constant(
        &self,
        session: &SessionContextInfo,
        expr: &ast::Expr,
        to: Option<&Field>,
    ) -> Result<(ScalarValue, Field)> {
        let binder = Binder::new(&NoRelations, session, vec![]);
        let scope = Scope::new(Outer::None);
        let ctes = Vec::new();
        let t = binder.expr(Ctx::plain(&scope, &ctes, "constant expressions"), expr)?;
        let (e, ty) = match to {
            Some(f) => {
                let ty = SqlType::of(f);
                (binder.assign(t, &ty, f.name())?, ty)
            }
            None => {
                let t = binder.known(t)?;
                (t.expr, t.ty)
            }
        };
        let value = evaluate(&execute::with_times(e, session)?)?;
        Ok((value, ty.field(to.map_or("", |f| f.name()), true)))
    }

    /// What a DEFAULT gives for `rows` rows of `column`: each of them gets a value of its own of `gen_random_uuid()` and the like.
    pub fn defaults(
        &self,
        session: &SessionContextInfo,
        default: &str,
        column: &Field,
        rows: usize,
    ) -> Result<ArrayRef> {
        let expr = crate::parser::parse_expr(default)?;
        let binder = Binder::new(&NoRelations, session, vec![]);
        let scope = Scope::new(Outer::None);
        let value = binder.expr(Ctx::plain(&scope, &Vec::new(), "DEFAULT"), &expr)?;
        let value = binder.assign(value, &SqlType::of(column), column.name())?;
        let values = evaluate_rows(&execute::with_times(value, session)?, rows)?;
        values.into_array(rows).map_err(|e| from_datafusion(&e))
    }
}

/// The plan with exactly the relation's columns, under unqualified unique names.
fn output(rel: Rel) -> Result<LogicalPlan> {
    let schema = rel.plan.schema();
    let same = schema.fields().len() == rel.cols.len()
        && rel
            .cols
            .iter()
            .zip(schema.columns())
            .all(|(c, s)| c.column == s && s.relation.is_none());
    if same {
        return Ok(rel.plan);
    }
    let names = unique_names(&rel.cols.iter().map(|c| c.name.clone()).collect::<Vec<_>>());
    let exprs = rel
        .cols
        .iter()
        .zip(names)
        .map(|(c, n)| Expr::Column(c.column.clone()).alias(n))
        .collect();
    project(rel.plan, exprs)
}

/// A catalog without relations.
struct NoRelations;

impl CatalogView for NoRelations {
    fn resolve(&self, _: Option<&str>, _: &str) -> Option<Relation> {
        None
    }

    fn relations(&self) -> Vec<Relation> {
        vec![]
    }
}

impl QueryPlan {
    /// The logical plan after DataFusion's optimiser. Scans keep pushed-down filters only as hints: the
    /// `Filter` nodes stay.
    pub fn optimised(&self) -> Result<LogicalPlan> {
        let logical = execute::at_time(self.logical.clone(), &self.session)?;
        execute::optimised(logical).map_err(|e| from_datafusion(&e))
    }

    /// The same with joins in the order that suits the rows of `reader`.
    pub fn ordered(&self, reader: &dyn SnapshotReader) -> Result<LogicalPlan> {
        let logical = execute::at_time(self.logical.clone(), &self.session)?;
        execute::ordered(logical, reader).map_err(|e| from_datafusion(&e))
    }

    /// The plan with `now()` and `statement_timestamp()` as its last two parameters.
    pub(crate) fn with_times_as_params(&self) -> Result<QueryPlan> {
        let mut params = self.params.clone();
        for _ in 0..2 {
            let name = format!("${}", params.len() + 1);
            params.push(SqlType::Timestamptz.field(&name, true));
        }
        Ok(QueryPlan {
            logical: execute::times_as_params(self.logical.clone(), self.params.len())?,
            params,
            uses_now: false,
            kept: execute::Kept::default(),
            ..self.clone()
        })
    }

    /// The plan with its parameters replaced by `values`.
    pub fn bind_params(&self, values: &[ScalarValue]) -> Result<QueryPlan> {
        if values.len() < self.params.len() {
            return Err(SqlError::new(
                "08P01",
                format!(
                    "bind message supplies {} parameters, but prepared statement requires {}",
                    values.len(),
                    self.params.len()
                ),
            ));
        }
        if self.params.is_empty() {
            return Ok(self.clone());
        }
        let logical = execute::with_params(self.logical.clone(), values, &self.params)?;
        Ok(QueryPlan {
            logical,
            params: vec![],
            settled: vec![],
            kept: execute::Kept::default(),
            ..self.clone()
        })
    }

    /// Runs the plan. Batches have exactly the types of `columns`.
    pub fn execute(&self, reader: Arc<dyn SnapshotReader>) -> Result<ResultStream> {
        if !self.params.is_empty() {
            return Err(SqlError::new("42P02", "there is no parameter $1"));
        }
        if let Some(physical) = self.kept.get() {
            return Ok(execute::run_again(physical, self.columns.clone(), reader));
        }
        let logical = execute::at_time(self.logical.clone(), &self.session)?;
        let keep = (!self.uses_now && self.volatile.is_none()).then(|| self.kept.clone());
        Ok(execute::run(logical, keep, self.columns.clone(), reader))
    }
}

/// The collection that a scan in a [`QueryPlan`] reads.
pub fn scan_collection(scan: &TableScan) -> Option<Relation> {
    scanned_relation(scan).cloned()
}

/// The same.
pub(crate) fn scanned_relation(scan: &TableScan) -> Option<&Relation> {
    let source: &dyn std::any::Any = scan.source.as_ref();
    let provider = &source.downcast_ref::<DefaultTableSource>()?.table_provider;
    let provider: &dyn std::any::Any = provider.as_ref();
    provider
        .downcast_ref::<CollectionTable>()
        .map(CollectionTable::relation)
}
