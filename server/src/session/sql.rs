//! [`SqlSession`]: one client's statements, dispatched to one file per kind.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arrow::datatypes::{Field, SchemaRef};
use tidemill_planner::SqlError;
use tidemill_planner::ast::{CopySource, CursorSource, Name, Parsed, Statement, Subscribe, parse};
use tidemill_planner::catalog::{CatalogView, RelationKind};
use tidemill_planner::query::SessionContextInfo;

use super::backends::{Backend, Backends};
use super::copy::Copied;
use super::cursor::Cursor;
use super::plans::{PlanSlot, Planned, Texts};
use super::query::{Given, LIFT_AGAIN};
use super::sequences::{Currents, SessionSequences};
use super::settings::{Settings, Timeouts};
use super::times::add_time_params;
use super::together::Changed;
use super::transaction::Transaction;
use super::write::TableAs;
use super::write_plan::params_of;
use super::{
    Notice, ParamValue, Prepared, Response, Session, SessionFactory, TransactionStatus, aborted,
};
use crate::catalog::CatalogSnapshot;
use crate::coordinator::Handle;
use crate::coordinator::reply::Underway;
use crate::define::Definer;
use crate::published::Published;

/// Opens sessions of one server.
pub struct Sessions {
    /// The coordinator.
    pub handle: Handle,
}

#[async_trait::async_trait]
impl SessionFactory for Sessions {
    async fn open(
        &self,
        user: &str,
        database: &str,
        parameters: Vec<(String, String)>,
        backend: &Backend,
    ) -> Result<Box<dyn Session>, SqlError> {
        if database != super::DATABASE {
            return Err(
                SqlError::new("3D000", format!("database \"{database}\" does not exist")).hint(
                    format!(
                        "There is one database, \"{}\": connect with dbname={}.",
                        super::DATABASE,
                        super::DATABASE
                    ),
                ),
            );
        }
        let mut session = SqlSession::new(self.handle.clone(), user);
        session.backend_pid = backend.pid;
        session.underway = Arc::clone(&backend.underway);
        for (name, value) in parameters {
            // As in PostgreSQL, what a client asks for at the start must be valid, but clients send names we don't have.
            match session.settings.set(&name, Some(value), false) {
                Err(e) if e.sqlstate != "42704" && e.sqlstate != "55P02" => return Err(e),
                _ => {}
            }
        }
        session.settings.started();
        Ok(Box::new(session))
    }

    fn backends(&self) -> Arc<Backends> {
        Arc::clone(&self.handle.env.system.backends)
    }
}

/// One client's session.
pub struct SqlSession {
    pub(super) handle: Handle,
    pub(super) user: String,
    pub(super) settings: Settings,
    pub(super) transaction: Option<Transaction>,
    pub(super) cursors: HashMap<String, Cursor>,
    /// How many have been opened.
    pub(super) cursors_opened: u64,
    pub(super) copied: Copied,
    /// The connection's number; 0: none.
    pub(super) backend_pid: i32,
    /// The change that it waits for.
    pub(super) underway: Arc<Underway>,
    /// When the statement that runs began, microseconds since the Unix epoch.
    pub(super) statement_began: i64,
    /// The schema of its temporary objects, if it has had any.
    pub(super) temporary: Option<String>,
    /// The numbers that it got from sequences.
    pub(super) sequences: Arc<Currents>,
    /// While a statement is planned: the materialized views that are computed for it, see [`SqlSession::behind`].
    pub(super) computed: Arc<HashSet<u64>>,
    /// While a statement runs: what the statements in its WITH return.
    pub(super) changed: Changed,
    prepared: HashMap<String, Prepared>,
    texts: Texts,
    /// Of statements with parameters instead of literals.
    pub(super) shapes: Texts,
    notices: Vec<Notice>,
}

impl SqlSession {
    /// A session of `user`.
    pub fn new(handle: Handle, user: &str) -> Self {
        SqlSession {
            handle,
            user: user.into(),
            settings: Settings::default(),
            transaction: None,
            cursors: HashMap::new(),
            cursors_opened: 0,
            copied: Copied::default(),
            backend_pid: 0,
            underway: Arc::default(),
            statement_began: now_micros(),
            temporary: None,
            sequences: Arc::default(),
            computed: Arc::default(),
            changed: Changed::default(),
            prepared: HashMap::new(),
            texts: Texts::default(),
            shapes: Texts::default(),
            notices: vec![],
        }
    }

    pub(super) fn notify(&mut self, notice: Notice) {
        self.notices.push(notice);
    }

    /// Tells the client something.
    pub(super) fn inform(&mut self, message: String, hint: Option<String>) {
        self.notify(Notice {
            severity: "NOTICE",
            sqlstate: "00000",
            message,
            hint,
        });
    }

    /// `now()`, microseconds since the Unix epoch.
    pub(super) fn now(&self) -> i64 {
        self.transaction
            .as_ref()
            .map_or(self.statement_began, |t| t.began)
    }

    /// What the planner may know of the session now.
    pub(super) fn context(&self) -> SessionContextInfo {
        SessionContextInfo {
            backend_pid: self.backend_pid,
            user: self.user.clone(),
            database: super::DATABASE.into(),
            search_path: self.search_path(),
            time_zone: self
                .settings
                .get("timezone")
                .unwrap_or_else(|| "UTC".into()),
            now: self.now(),
            statement: self.statement_began,
            server_started: Some(micros(self.handle.env.system.started)),
            variables: self.settings.variables(),
            sequences: Arc::new(SessionSequences {
                handle: self.handle.clone(),
                search_path: self.search_path(),
                read_only: self.settings.is_on("transaction_read_only"),
                currents: Arc::clone(&self.sequences),
            }),
        }
    }

    /// Names at a version.
    pub(super) fn names(&self, published: &Published) -> CatalogSnapshot {
        CatalogSnapshot::new(
            published.catalog.clone(),
            self.handle.env.system.clone(),
            self.search_path(),
        )
        .computing(Arc::clone(&self.computed))
        .with_changed(Arc::clone(&self.changed.relations))
    }

    /// Makes objects of CREATE statements.
    pub(super) fn definer<'a>(
        &'a self,
        published: &Published,
        context: &'a SessionContextInfo,
    ) -> Definer<'a> {
        Definer {
            catalog: published.catalog.clone(),
            system: self.handle.env.system.clone(),
            planner: &self.handle.env.planner,
            session: context,
        }
    }

    /// A statement that only ends a failed transaction may run in it.
    fn check_failed(&self, statement: &Statement) -> Result<(), SqlError> {
        let failed = self.transaction.as_ref().is_some_and(|t| t.failed);
        if failed
            && !matches!(
                statement,
                Statement::Commit { .. }
                    | Statement::Rollback { .. }
                    | Statement::RollbackTo { .. }
                    | Statement::Empty
            )
        {
            return Err(aborted());
        }
        Ok(())
    }

    /// Statements of one string form an implicit transaction, unless they end or begin one themselves.
    fn begin_implicit(&mut self, statement: &Statement, implicit: bool) {
        let undone = matches!(
            statement,
            Statement::Insert(_)
                | Statement::Update(_)
                | Statement::Delete(_)
                | Statement::Truncate { .. }
                | Statement::CopyFrom { .. }
                | Statement::Execute { .. }
                | Statement::Set { .. }
                | Statement::Reset { .. }
                | Statement::Query { .. }
                | Statement::Declare { .. }
                | Statement::Together { .. }
                | Statement::CopyTo {
                    source: CopySource::Change(_),
                    ..
                }
        );
        if implicit && undone && self.transaction.is_none() {
            self.transaction = Some(Transaction::new(false, self.statement_began));
            self.settings.begin();
        }
    }

    async fn run(
        &mut self,
        parsed: &Parsed,
        given: Given<'_>,
        implicit: bool,
    ) -> Result<Response, SqlError> {
        self.statement_began = now_micros();
        self.take_copied();
        self.check_failed(&parsed.statement)?;
        self.begin_implicit(&parsed.statement, implicit);
        let parsed = &*self.placed(parsed).await?;
        let tag = |text: &str| Ok(Response::Tag(text.into()));
        match &parsed.statement {
            Statement::Empty => Ok(Response::Empty),
            Statement::Query { query, as_of } => self.select(query, as_of.as_ref(), &given).await,
            Statement::CreateSchema { .. }
            | Statement::CreateTable { .. }
            | Statement::CreateSource { .. }
            | Statement::CreateView { .. }
            | Statement::CreateMaterializedView { .. }
            | Statement::CreateSink { .. }
            | Statement::CreateIndex { .. }
            | Statement::Drop { .. }
            | Statement::Rename { .. }
            | Statement::Alter { .. }
            | Statement::CreateSequence { .. }
            | Statement::AlterSequence { .. }
            | Statement::Comment { .. } => self.ddl(parsed).await,
            Statement::Insert(_) | Statement::Update(_) | Statement::Delete(_) => {
                self.change(&parsed.statement, &given).await
            }
            Statement::Together { changes, main } => self.together(changes, main, &given).await,
            Statement::CreateTableAs {
                name,
                if_not_exists,
                columns,
                query,
                with_data,
            } => {
                let from = TableAs {
                    name,
                    if_not_exists: *if_not_exists,
                    columns,
                    query,
                    with_data: *with_data,
                };
                self.create_table_as(from, given.params).await
            }
            Statement::CreateTableAsExecute {
                name,
                if_not_exists,
                columns,
                prepared,
                args,
                with_data,
            } => {
                let (prepared, params) = self.executed(prepared, args)?;
                let Statement::Query { query, as_of: None } = &prepared.parsed.statement else {
                    return Err(SqlError::new("42809", "prepared statement is not a SELECT"));
                };
                let from = TableAs {
                    name,
                    if_not_exists: *if_not_exists,
                    columns,
                    query,
                    with_data: *with_data,
                };
                self.create_table_as(from, &params).await
            }
            Statement::CreateTableLike {
                name,
                if_not_exists,
                items,
            } => self.create_table_like(name, *if_not_exists, items).await,
            Statement::Truncate {
                names,
                restart_identity,
            } => self.truncate(names, *restart_identity).await,
            Statement::CopyFrom {
                table,
                columns,
                options,
            } => self.copy_from(table, columns, options).await,
            Statement::CopyTo { source, options } => self.copy_to(source, options).await,
            Statement::Subscribe(subscribe) => self.subscribe_rows(subscribe, given.params).await,
            Statement::Declare {
                cursor,
                hold,
                source,
            } => self.declare(cursor, *hold, source, given.params).await,
            Statement::Fetch {
                cursor,
                count,
                timeout_ms,
            } => self.fetch(cursor, *count, *timeout_ms).await,
            Statement::Move { cursor, count } => self.move_on(cursor, *count).await,
            Statement::Close { cursor } => self.close(cursor.as_deref()),
            Statement::Begin { start, modes } => self.begin(*start, modes),
            Statement::SetRole { reset, name } => self.set_role(*reset, name.as_deref()),
            Statement::Commit { chain } => self.end(true, *chain).await,
            Statement::Rollback { chain } => self.end(false, *chain).await,
            Statement::LockTable { names, exclusive } => self.lock_tables(names, *exclusive),
            Statement::Savepoint { name } => self.savepoint(name),
            Statement::Release { name } => self.release(name),
            Statement::RollbackTo { name } => self.rollback_to(name),
            Statement::SetTransaction { session, modes } => self.set_transaction(*session, modes),
            Statement::Set { local, name, value } => self.set(*local, name, value.clone()),
            Statement::Reset { name } => self.reset(name.as_deref()),
            Statement::Show(show) => self.show(show).await,
            Statement::Explain { stage, statement } => self.explain(*stage, statement).await,
            Statement::Prepare {
                name,
                types,
                statement,
            } => self.prepare_named(name, types, statement).await,
            Statement::Execute { name, args } => self.execute_named(name, args).await,
            Statement::Deallocate { name } => self.deallocate(name.as_deref()),
            Statement::Discard => {
                if self.transaction.is_some() {
                    return Err(SqlError::new(
                        "25001",
                        "DISCARD ALL cannot run inside a transaction block",
                    ));
                }
                self.cursors.clear();
                self.prepared.clear();
                self.texts.clear();
                self.shapes.clear();
                self.settings.reset_all();
                self.handle.env.system.advisory.unlock_all(self.backend_pid);
                self.sequences.forget();
                self.drop_temporary().await?;
                tag("DISCARD ALL")
            }
            Statement::Refresh { name } => self.refresh(name),
            Statement::Other { verb } => {
                if verb.starts_with("discard temp") {
                    self.drop_temporary().await?;
                }
                if verb == "discard sequences" {
                    self.sequences.forget();
                }
                if matches!(verb.as_str(), "flush" | "wait") {
                    let hint = "Reads see every acknowledged write.";
                    self.inform("nothing to wait for".into(), Some(hint.into()));
                }
                if verb == "grant" {
                    self.inform("GRANT has no effect".into(), Some(EVERYTHING.into()));
                }
                if verb.starts_with("alter ") {
                    self.inform("OWNER TO has no effect".into(), Some(EVERYTHING.into()));
                }
                other(verb)
            }
        }
    }

    /// REFRESH MATERIALIZED VIEW: there is nothing to do, as views follow every change.
    fn refresh(&mut self, name: &Name) -> Result<Response, SqlError> {
        let published = self.pin();
        let found = self
            .names(&published)
            .resolve(name.schema.as_deref(), &name.name);
        match found.map(|relation| relation.kind) {
            None => Err(self.no_relation(&published, &name.name)),
            Some(RelationKind::MaterializedView) => {
                Ok(Response::Tag("REFRESH MATERIALIZED VIEW".into()))
            }
            Some(_) => Err(SqlError::unsupported(format!(
                "\"{}\" is not a materialized view",
                name.name
            ))),
        }
    }

    async fn prepare_named(
        &mut self,
        name: &str,
        types: &[String],
        statement: &Parsed,
    ) -> Result<Response, SqlError> {
        if self.prepared.contains_key(name) {
            return Err(SqlError::new(
                "42P05",
                format!("prepared statement \"{name}\" already exists"),
            ));
        }
        let types = types
            .iter()
            .map(|t| tidemill_planner::names::parse_type(t).map(|t| Some(t.field("?", true))));
        let types = types.collect::<Result<Vec<_>, _>>()?;
        let prepared = self.describe(statement.clone(), types)?;
        self.prepared.insert(name.into(), prepared);
        Ok(Response::Tag("PREPARE".into()))
    }

    /// The prepared statement that EXECUTE names, and the values of its parameters.
    fn executed(
        &self,
        name: &str,
        args: &[tidemill_planner::ast::Expr],
    ) -> Result<(Prepared, Vec<ParamValue>), SqlError> {
        let Some(prepared) = self.prepared.get(name).cloned() else {
            return Err(SqlError::new(
                "26000",
                format!("prepared statement \"{name}\" does not exist"),
            ));
        };
        if args.len() != prepared.params.len() {
            return Err(SqlError::new(
                "42601",
                format!("wrong number of parameters for prepared statement \"{name}\""),
            )
            .detail(format!(
                "Expected {} parameters but got {}.",
                prepared.params.len(),
                args.len()
            )));
        }
        let context = self.context();
        let values = args.iter().zip(&prepared.params).map(|(arg, field)| {
            let (value, _) = self
                .handle
                .env
                .planner
                .constant(&context, arg, Some(field))?;
            if value.is_null() {
                return Ok(ParamValue::Null);
            }
            value
                .to_array()
                .map(ParamValue::Value)
                .map_err(|e| SqlError::internal(e.to_string()))
        });
        let values = values.collect::<Result<Vec<_>, SqlError>>()?;
        Ok((prepared, values))
    }

    async fn execute_named(
        &mut self,
        name: &str,
        args: &[tidemill_planner::ast::Expr],
    ) -> Result<Response, SqlError> {
        let (prepared, values) = self.executed(name, args)?;
        let response = Box::pin(self.run(&prepared.parsed, prepared.given(&values), false)).await?;
        let is_query = matches!(prepared.parsed.statement, Statement::Query { .. });
        if let (true, Response::Rows { schema, .. }, Some(columns)) =
            (is_query, &response, &prepared.columns)
        {
            let of = |s: &SchemaRef| -> Vec<_> {
                let fields = s.fields().iter();
                fields
                    .map(|f| (f.name().clone(), f.data_type().clone()))
                    .collect()
            };
            if of(schema) != of(columns) {
                return Err(SqlError::outdated_plan());
            }
        }
        Ok(response)
    }

    fn deallocate(&mut self, name: Option<&str>) -> Result<Response, SqlError> {
        match name {
            None => self.prepared.clear(),
            Some(name) => {
                if self.prepared.remove(name).is_none() {
                    return Err(SqlError::new(
                        "26000",
                        format!("prepared statement \"{name}\" does not exist"),
                    ));
                }
            }
        }
        Ok(Response::Tag(
            if name.is_some() {
                "DEALLOCATE"
            } else {
                "DEALLOCATE ALL"
            }
            .into(),
        ))
    }

    /// Parameters and result columns of a statement.
    fn describe(
        &mut self,
        parsed: Parsed,
        types: Vec<Option<Field>>,
    ) -> Result<Prepared, SqlError> {
        self.check_failed(&parsed.statement)?;
        let plan = PlanSlot::default();
        let (params, columns) = self.shape(&parsed.statement, &types, &plan)?;
        Ok(Prepared {
            parsed: Arc::new(parsed),
            params,
            columns,
            plan,
        })
    }

    fn shape(
        &mut self,
        statement: &Statement,
        types: &[Option<Field>],
        slot: &PlanSlot,
    ) -> Result<(Vec<Field>, Option<SchemaRef>), SqlError> {
        Ok(match statement {
            Statement::Query { query, as_of } => {
                if as_of.is_none()
                    && let Some(shape) = self.catalog_shape(query, types)
                {
                    return Ok(shape);
                }
                let published = self.pin();
                let planned =
                    self.planned(&published, (query, as_of.as_ref()), types, Some(slot))?;
                let Planned::Query(planned) = &*planned else {
                    return Err(SqlError::internal("a query has a plan"));
                };
                let mut params = params_of(&[&planned.plan])?;
                add_time_params(as_of.as_ref(), &mut params);
                (params, Some(planned.plan.described.clone()))
            }
            Statement::Insert(_) | Statement::Update(_) | Statement::Delete(_) => {
                self.write_shape(statement, types, Some(slot))?
            }
            Statement::Together { changes, main } => self.together_shape(changes, main, types)?,
            Statement::Declare {
                source: CursorSource::Query(query),
                ..
            } => {
                let published = self.pin();
                (params_of(&[&self.plan(&published, query, types)?])?, None)
            }
            Statement::Declare {
                source: CursorSource::Subscribe(subscribe),
                ..
            } => (subscribe_params(subscribe), None),
            Statement::Subscribe(subscribe) => (
                subscribe_params(subscribe),
                Some(self.subscribe_schema(subscribe)?),
            ),
            Statement::Show(show) => (vec![], Some(self.show_schema(show))),
            Statement::Explain { statement, .. } => {
                let params = match &**statement {
                    query @ Statement::Query { .. } => self.shape(query, types, slot)?.0,
                    _ => vec![],
                };
                (params, Some(super::show::explain_schema()))
            }
            Statement::Fetch { cursor, .. } => (vec![], Some(self.cursor_schema(cursor)?)),
            Statement::Execute { name, .. } => (
                vec![],
                self.prepared.get(name).and_then(|p| p.columns.clone()),
            ),
            _ => (vec![], None),
        })
    }
}

fn subscribe_params(subscribe: &Subscribe) -> Vec<Field> {
    let mut params = vec![];
    add_time_params(subscribe.as_of.as_ref(), &mut params);
    add_time_params(subscribe.up_to.as_ref(), &mut params);
    params
}

impl Prepared {
    fn given<'a>(&'a self, params: &'a [ParamValue]) -> Given<'a> {
        Given {
            params,
            declared: Some(&self.params),
            slot: Some(&self.plan),
            lifted_with: None,
            described: self.columns.as_ref(),
            lasting: false,
        }
    }
}

/// Now, microseconds since the Unix epoch.
pub(super) fn now_micros() -> i64 {
    micros(SystemTime::now())
}

fn micros(time: SystemTime) -> i64 {
    let since_1970 = time.duration_since(UNIX_EPOCH);
    since_1970.unwrap_or_default().as_micros() as i64
}

/// What there is instead of rights.
const EVERYTHING: &str = "Every user may read and write everything.";

fn other(verb: &str) -> Result<Response, SqlError> {
    match verb.to_ascii_uppercase().as_str() {
        // Every key is checked when its statement has ended.
        "SET CONSTRAINTS" => Ok(Response::Tag("SET CONSTRAINTS".into())),
        word if word.starts_with("ALTER ") => Ok(Response::Tag(word.into())),
        // Nothing to do, and clients send them without need.
        word @ ("CREATE EXTENSION" | "VACUUM" | "ANALYZE" | "UNLISTEN" | "CHECKPOINT" | "FLUSH"
        | "REINDEX" | "CLUSTER" | "WAIT" | "GRANT" | "DISCARD PLANS"
        | "DISCARD SEQUENCES" | "DISCARD TEMP" | "DISCARD TEMPORARY") => {
            Ok(Response::Tag(word.replace("TEMPORARY", "TEMP")))
        }
        // Not with a notice only: who takes a right away counts on it.
        "REVOKE" => Err(SqlError::unsupported("REVOKE is not supported").hint(EVERYTHING)),
        word => {
            let e = SqlError::unsupported(format!("{word} is not supported"));
            Err(match word {
                "DO" => {
                    e.hint("Send its statements one by one: conditions and loops are the client's.")
                }
                "CALL" => e.hint("There are no procedures."),
                "LISTEN" | "NOTIFY" => e.hint("SUBSCRIBE tells of changes of a table or view."),
                _ => e,
            })
        }
    }
}

impl Drop for SqlSession {
    fn drop(&mut self) {
        super::temporary::leave(&self.handle, self.temporary.take());
        self.handle
            .env
            .system
            .advisory
            .end_session(self.backend_pid);
    }
}

#[async_trait::async_trait]
impl Session for SqlSession {
    fn parse(&mut self, sql: &str) -> Result<Vec<Parsed>, SqlError> {
        parse(sql)
    }

    async fn prepare(
        &mut self,
        sql: &str,
        types: Vec<Option<Field>>,
    ) -> Result<Prepared, SqlError> {
        let mut statements = parse(sql)?;
        let parsed = match statements.len() {
            0 => Parsed {
                statement: Statement::Empty,
                sql: String::new(),
            },
            1 => statements.remove(0),
            _ => {
                return Err(SqlError::new(
                    "42601",
                    "cannot insert multiple commands into a prepared statement",
                ));
            }
        };
        self.describe(parsed, types)
    }

    async fn execute(
        &mut self,
        statement: &Prepared,
        params: Vec<ParamValue>,
        implicit: bool,
    ) -> Result<Response, SqlError> {
        self.run(&statement.parsed, statement.given(&params), implicit)
            .await
    }

    async fn execute_parsed(
        &mut self,
        statement: Parsed,
        implicit: bool,
    ) -> Result<Response, SqlError> {
        if let Some((lifted, slot)) = self.lifted(&statement) {
            let given = lifted.given(&slot);
            match self.run(&lifted.parsed, given, implicit).await {
                Err(e) if e.sqlstate == LIFT_AGAIN => {}
                ran => return ran,
            }
        }
        let slot = match &statement.statement {
            Statement::Query { .. } => self.texts.slot(&statement.sql),
            _ => None,
        };
        let given = Given {
            slot: slot.as_ref(),
            ..Given::default()
        };
        self.run(&statement, given, implicit).await
    }

    async fn sync(&mut self) -> Result<(), SqlError> {
        self.take_copied();
        if self.transaction.as_ref().is_some_and(|t| !t.explicit) {
            self.commit().await?;
        }
        if self.transaction.is_none() {
            self.unlock_transaction();
        }
        Ok(())
    }

    fn failed(&mut self) {
        self.changed = Changed::default();
        match &mut self.transaction {
            Some(transaction) if transaction.explicit => transaction.failed = true,
            _ => {
                self.transaction = None;
                // A COMMIT that was cancelled.
                self.ended(false);
            }
        }
    }

    fn transaction_status(&self) -> TransactionStatus {
        match &self.transaction {
            Some(t) if t.explicit && t.failed => TransactionStatus::Failed,
            Some(t) if t.explicit => TransactionStatus::Open,
            _ => TransactionStatus::Idle,
        }
    }

    fn take_notices(&mut self) -> Vec<Notice> {
        let mut notices = std::mem::take(&mut self.notices);
        notices.retain(|notice| self.settings.wants(notice.severity));
        notices
    }

    fn timeouts(&self) -> Timeouts {
        self.settings.timeouts()
    }

    fn cursor(&self, name: &str) -> Option<SchemaRef> {
        // Asked at each Bind, mostly about none.
        self.cursors.get(name).map(|c| c.schema().clone())
    }

    fn columns_now(&self, statement: &Parsed) -> Option<Option<SchemaRef>> {
        match &statement.statement {
            Statement::Fetch { cursor, .. } => self.cursor(cursor).map(Some),
            Statement::Execute { name, .. } => {
                let prepared = self.prepared.get(name);
                prepared.map(|p| p.columns.clone())
            }
            _ => None,
        }
    }

    fn close_cursor(&mut self, name: &str) {
        self.cursors.remove(name);
    }

    fn take_parameter_changes(&mut self) -> Vec<(String, String)> {
        self.settings.take_reported()
    }
}
