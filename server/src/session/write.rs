//! INSERT, UPDATE, DELETE and TRUNCATE, with ON CONFLICT and RETURNING; CREATE TABLE AS.

use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch, UInt32Array};
use arrow::datatypes::{Field, SchemaRef};
use futures::TryStreamExt;
use parking_lot::Mutex;
use tidemill_planner::SqlError;
use tidemill_planner::ast::{ColumnDefault, Name, Parsed, Query, Statement};
use tidemill_planner::catalog::{CatalogView, Relation, RelationKind};
use tidemill_planner::names::sqlparser_ast;
use tidemill_planner::query::{Condition, Conflict, QueryPlan, SnapshotReader, WRITTEN};
use tidemill_zset::schema::SqlType;
use tidemill_zset::{CollectionId, Delta, Diffs};

use super::plans::{self, PlanSlot, Planned};
use super::query::{Given, bind, param_types};
use super::sql::SqlSession;
use super::transaction;
use super::unique::{Other, Unique, conflict_of};
use super::{ParamValue, Response, execution};
use crate::catalog::{Detail, Object};
use crate::coordinator::tables::check_not_null;
use crate::numbers;
use crate::published::Published;
use crate::reader::{ReadSet, RowIterator, Snapshot};

/// How often an autocommit statement is tried again after a conflict before the client hears of it.
const RETRIES_MAX: usize = 100;

/// A write's target: the relation as the planner sees it, and the object.
pub struct Target {
    pub relation: Relation,
    pub object: Arc<Object>,
    pub defaults: Vec<Option<ColumnDefault>>,
    /// What is unique of it: the PRIMARY KEY first.
    pub keys: Vec<Unique>,
}

/// A RETURNING clause.
struct Returning<'a> {
    items: &'a [sqlparser_ast::SelectItem],
    /// The table's alias in the statement.
    alias: Option<&'a sqlparser_ast::Ident>,
    /// The relations that the statement reads, the table itself first; of an INSERT none.
    from: Vec<sqlparser_ast::TableWithJoins>,
}

fn returning(statement: &Statement) -> Option<Returning<'_>> {
    fn alias(tables: &[sqlparser_ast::TableWithJoins]) -> Option<&sqlparser_ast::Ident> {
        match &tables.first()?.relation {
            sqlparser_ast::TableFactor::Table { alias, .. } => alias.as_ref().map(|a| &a.name),
            _ => None,
        }
    }
    let (items, alias, from) = match statement {
        Statement::Insert(insert) => (
            insert.returning.as_ref()?,
            insert.table_alias.as_ref().map(|a| &a.alias),
            vec![],
        ),
        Statement::Update(update) => match update.as_ref() {
            sqlparser_ast::Statement::Update(update) => {
                use sqlparser_ast::UpdateTableFromKind::{AfterSet, BeforeSet};
                let mut from = vec![update.table.clone()];
                if let Some(AfterSet(more) | BeforeSet(more)) = &update.from {
                    from.extend(more.iter().cloned());
                }
                (
                    update.returning.as_ref()?,
                    alias(std::slice::from_ref(&update.table)),
                    from,
                )
            }
            _ => return None,
        },
        Statement::Delete(delete) => match &delete.from {
            sqlparser_ast::FromTable::WithFromKeyword(tables)
            | sqlparser_ast::FromTable::WithoutKeyword(tables) => {
                let mut from = tables.clone();
                from.extend(delete.using.iter().flatten().cloned());
                (delete.returning.as_ref()?, alias(tables), from)
            }
        },
        _ => return None,
    };
    Some(Returning { items, alias, from })
}

/// The parts of CREATE TABLE AS.
pub(super) struct TableAs<'a> {
    pub name: &'a Name,
    pub if_not_exists: bool,
    pub columns: &'a [String],
    pub query: &'a Query,
    pub with_data: bool,
}

/// What a write did.
struct Written {
    delta: Delta,
    /// Rows that it counts: as they are now, or as they were before DELETE.
    rows: RecordBatch,
}

/// CHECKs of a table.
pub(super) struct Checks {
    table: String,
    names: Vec<String>,
    plan: QueryPlan,
}

impl Checks {
    /// Fails if one of them is false of one of the rows.
    pub(super) async fn of(&self, rows: &RecordBatch, snapshot: &Snapshot) -> Result<(), SqlError> {
        let reader = WithRows {
            inner: snapshot.clone(),
            rows: rows.clone(),
        };
        let found = execution::collect(self.plan.clone(), Arc::new(reader)).await?;
        let mut before = 0;
        for batch in &found {
            for (truths, name) in batch.columns().iter().zip(&self.names) {
                let Some(row) = truths.as_boolean().iter().position(|t| t == Some(false)) else {
                    continue;
                };
                let message = format!(
                    "new row for relation \"{}\" violates check constraint \"{name}\"",
                    self.table
                );
                return Err(SqlError::new("23514", message).detail(format!(
                    "The failing row is number {} of the statement.",
                    before + row + 1
                )));
            }
            before += batch.num_rows();
        }
        Ok(())
    }
}

/// Rows that a write has at hand of which expressions are computed where it is, not on a thread of their own.
const AT_ONCE_ROWS_MAX: usize = 1024;

/// A snapshot, and the rows that a write has at hand.
#[derive(Debug)]
struct WithRows {
    inner: Snapshot,
    rows: RecordBatch,
}

impl SnapshotReader for WithRows {
    fn scan(
        &self,
        collection: CollectionId,
        columns: Option<&[usize]>,
        conditions: &[Condition],
    ) -> Result<RowIterator, SqlError> {
        if collection != WRITTEN {
            return self.inner.scan(collection, columns, conditions);
        }
        let rows = match columns {
            Some(columns) => self.rows.project(columns).map_err(internal),
            None => Ok(self.rows.clone()),
        };
        Ok(Box::new(std::iter::once(rows)))
    }

    fn find(
        &self,
        collection: CollectionId,
        columns: Option<&[usize]>,
        conditions: &[Condition],
    ) -> Result<Option<RowIterator>, SqlError> {
        if collection != WRITTEN {
            return self.inner.find(collection, columns, conditions);
        }
        match self.rows.num_rows() <= AT_ONCE_ROWS_MAX {
            true => self.scan(collection, columns, conditions).map(Some),
            false => Ok(None),
        }
    }
}

fn internal(e: arrow::error::ArrowError) -> SqlError {
    SqlError::internal(e.to_string())
}

impl SqlSession {
    pub(super) fn target(
        &self,
        published: &Published,
        schema: Option<&str>,
        name: &str,
    ) -> Result<Target, SqlError> {
        let Some(relation) = self.names(published).resolve(schema, name) else {
            return Err(self.no_relation(published, name));
        };
        if relation.kind != RelationKind::Table {
            let kind = match relation.kind {
                RelationKind::Source => "source",
                RelationKind::View { .. } => "view",
                RelationKind::MaterializedView => "materialized view",
                _ => "system relation",
            };
            return Err(
                SqlError::new("42809", format!("cannot change {kind} \"{name}\""))
                    .hint("Only tables are written to directly."),
            );
        }
        let object = published
            .catalog
            .by_collection(relation.id)
            .map(|(o, _)| o.clone());
        let object = object.ok_or_else(|| SqlError::internal("a table is in the catalog"))?;
        let defaults = match &object.detail {
            Detail::Table { defaults, .. } => defaults.clone(),
            _ => vec![],
        };
        Ok(Target {
            keys: Unique::all_of(&published.catalog, &object),
            relation,
            object,
            defaults,
        })
    }

    /// Parameters of a write, and the columns of its RETURNING.
    pub(super) fn write_shape(
        &mut self,
        statement: &Statement,
        types: &[Option<Field>],
        slot: Option<&PlanSlot>,
    ) -> Result<(Vec<Field>, Option<SchemaRef>), SqlError> {
        let published = self.pin();
        let planned = self.planned_write(&published, statement, types, slot)?;
        let write = planned.write()?;
        let mut params = write.query.plan.params.clone();
        for other in write.returning.iter().chain(&write.update) {
            let more = other.plan.params.iter().skip(params.len()).cloned();
            params.extend(more.collect::<Vec<_>>());
        }
        let columns = write.returning.as_ref().map(|r| r.plan.columns.clone());
        Ok((params, columns))
    }

    /// The plan of a write, from its slot if it has one that still holds.
    fn planned_write(
        &self,
        published: &Arc<Published>,
        statement: &Statement,
        types: &[Option<Field>],
        slot: Option<&PlanSlot>,
    ) -> Result<Arc<Planned>, SqlError> {
        let version = self.settings.version();
        if let Some(planned) = slot.and_then(|s| s.get(&published.catalog, version)) {
            return Ok(planned);
        }
        let (target, plan) = self.plan_write(published, statement, types)?;
        let update = match statement {
            Statement::Insert(insert) if self.conflict(insert, &target)?.0 == Conflict::Update => {
                let plan = self.plan_do_update(published, insert, &target, types)?;
                Some(plans::Query::new(plan))
            }
            _ => None,
        };
        let returning = match returning(statement) {
            Some(returning) => {
                let plan = self.plan_returning(published, returning, &target, types)?;
                Some(plans::Query::new(plan))
            }
            None => None,
        };
        let planned = Arc::new(Planned::Write(Box::new(plans::Write {
            query: plans::Query::new(plan),
            target: Arc::new(target),
            update,
            returning,
        })));
        if let Some(slot) = slot {
            slot.set(&published.catalog, version, &planned);
        }
        Ok(planned)
    }

    fn plan_write(
        &self,
        published: &Arc<Published>,
        statement: &Statement,
        types: &[Option<Field>],
    ) -> Result<(Target, QueryPlan), SqlError> {
        let (catalog, context, planner) = (
            self.names(published),
            self.context(),
            &self.handle.env.planner,
        );
        let (name, position) = tidemill_planner::names::write_target(statement)?;
        let target = self
            .target(published, name.schema.as_deref(), &name.name)
            .map_err(|mut e| {
                e.position = position;
                e
            })?;
        let plan = match statement {
            Statement::Insert(insert) => planner.plan_insert(
                &catalog,
                &context,
                insert,
                &target.relation,
                &target.defaults,
                types,
            )?,
            Statement::Update(update) => planner.plan_update(
                &catalog,
                &context,
                update,
                &target.relation,
                &target.defaults,
                types,
            )?,
            Statement::Delete(delete) => {
                planner.plan_delete(&catalog, &context, delete, &target.relation, types)?
            }
            _ => return Err(SqlError::internal("not a write")),
        };
        Ok((target, plan))
    }

    fn conflict(
        &self,
        insert: &sqlparser_ast::Insert,
        target: &Target,
    ) -> Result<(Conflict, Vec<usize>), SqlError> {
        let keys: Vec<_> = target.keys.iter().map(|k| k.key(&target.object)).collect();
        let planner = &self.handle.env.planner;
        planner.conflict(insert, &target.relation, &keys)
    }

    fn plan_do_update(
        &self,
        published: &Arc<Published>,
        insert: &sqlparser_ast::Insert,
        target: &Target,
        types: &[Option<Field>],
    ) -> Result<QueryPlan, SqlError> {
        self.handle.env.planner.plan_do_update(
            &self.names(published),
            &self.context(),
            insert,
            &target.relation,
            &target.defaults,
            types,
        )
    }

    fn plan_returning(
        &self,
        published: &Arc<Published>,
        returning: Returning<'_>,
        target: &Target,
        types: &[Option<Field>],
    ) -> Result<QueryPlan, SqlError> {
        let alias = returning.alias.map(tidemill_planner::names::folded);
        self.handle.env.planner.plan_returning(
            &self.names(published),
            &self.context(),
            (returning.items, alias.as_deref()),
            &returning.from,
            &target.relation,
            types,
        )
    }

    /// INSERT, UPDATE or DELETE; outside a transaction it is tried again after conflicts.
    pub(super) async fn change(
        &mut self,
        statement: &Statement,
        given: &Given<'_>,
    ) -> Result<Response, SqlError> {
        self.check_writable(statement)?;
        for _ in 0..RETRIES_MAX {
            match self.try_write(statement, given).await {
                Err(e) if e.sqlstate == "40001" && self.transaction.is_none() => continue,
                other => return other,
            }
        }
        self.try_write(statement, given).await
    }

    pub(super) fn check_writable(&self, statement: &Statement) -> Result<(), SqlError> {
        if self.settings.is_on("transaction_read_only") {
            let verb = match statement {
                Statement::Insert(_) => "INSERT",
                Statement::Update(_) => "UPDATE",
                Statement::Delete(_) => "DELETE",
                _ => "TRUNCATE",
            };
            return Err(SqlError::new(
                "25006",
                format!("cannot execute {verb} in a read-only transaction"),
            ));
        }
        Ok(())
    }

    async fn try_write(
        &mut self,
        statement: &Statement,
        given: &Given<'_>,
    ) -> Result<Response, SqlError> {
        let params = given.params;
        let mut published = self.pin();
        let types = given.types();
        let mut planned = self.planned_write(&published, statement, &types, given.slot)?;
        if self
            .begin_sources(&planned.write()?.query.plan, &published)
            .await?
        {
            published = self.pin();
            planned = self.planned_write(&published, statement, &types, given.slot)?;
        }
        let plans::Write {
            query,
            target,
            update,
            returning,
        } = planned.write()?;
        for query in [Some(query), update.as_ref(), returning.as_ref()]
            .into_iter()
            .flatten()
        {
            self.check_readable(&query.plan, &published.catalog)?;
        }
        let mut snapshot = self.snapshot(&published);
        let reads = snapshot
            .reads
            .get_or_insert_with(|| Arc::new(Mutex::new(ReadSet::default())))
            .clone();
        let rows = self.rows(query, params, snapshot.clone())?;
        let mut batches: Vec<RecordBatch> = rows.try_collect().await?;
        let mut numbered = None;
        if let Statement::Insert(_) = statement {
            (batches, numbered) = self.numbered_rows(&target.object, batches)?;
        }
        let mut written = written_by(statement, &target.object, &batches)?;
        if !matches!(statement, Statement::Delete(_)) {
            self.check_rows(&target.object, &written.rows, &snapshot)
                .await?;
        }
        written.rows = with_others(statement, written.rows, &batches, &query.plan.columns)?;
        if let Statement::Insert(insert) = statement {
            let (conflict, keys) = self.conflict(insert, target)?;
            if conflict != Conflict::Fail {
                let update = update.as_ref().map(|update| (update, params));
                written = self
                    .merge(&published, (target, &keys), written.rows, update, &snapshot)
                    .await?;
                self.check_rows(&target.object, &written.rows, &snapshot)
                    .await?;
            }
        }
        let result = match returning {
            None => None,
            Some(query) => {
                let reader = WithRows {
                    inner: snapshot.clone(),
                    rows: written.rows.clone(),
                };
                let rows = self.rows(query, params, reader)?;
                let rows: Vec<RecordBatch> = rows.try_collect().await?;
                Some((query.plan.columns.clone(), rows))
            }
        };
        // The transaction's writes aren't read any more when one is added.
        drop(snapshot);
        let count = written.rows.num_rows();
        let reads = reads.lock().clone();
        if let Some(transaction) = &mut self.transaction {
            let own = transaction
                .writes
                .get(&target.relation.id)
                .map_or(&[][..], Vec::as_slice);
            transaction.own_keys.check(
                &published.catalog,
                (target.relation.id, &target.object),
                &published.store,
                own,
                &written.delta,
            )?;
        }
        let change = transaction::Written {
            numbered,
            ..transaction::Written::of(target.relation.id, written.delta)
        };
        self.write(change, published.now(), reads).await?;
        let verb = match statement {
            Statement::Insert(_) => "INSERT 0",
            Statement::Update(_) => "UPDATE",
            _ => "DELETE",
        };
        Ok(match result {
            None => Response::Tag(format!("{verb} {count}")),
            Some((schema, rows)) => Response::Rows {
                schema,
                batches: Box::pin(futures::stream::iter(rows.into_iter().map(Ok))),
                verb,
                counted: true,
                live: false,
            },
        })
    }

    /// Refuses CHECKs that can't be evaluated, when the table is made.
    pub(super) fn check_checks(&self, object: &Object) -> Result<(), SqlError> {
        self.checks_of(object).map(|_| ())
    }

    /// The plan of a table's CHECKs, if it has any.
    pub(super) fn checks_of(&self, object: &Object) -> Result<Option<Checks>, SqlError> {
        let Detail::Table { checks, .. } = &object.detail else {
            return Ok(None);
        };
        if checks.is_empty() {
            return Ok(None);
        }
        let conditions: Vec<String> = checks.iter().map(|(_, c)| c.clone()).collect();
        let table = Relation {
            id: WRITTEN,
            schema: object.record.schema.clone(),
            name: object.record.name.clone(),
            kind: RelationKind::Table,
            columns: object.columns.clone(),
            primary_key: None,
            unique: None,
            append_only: false,
        };
        let planner = &self.handle.env.planner;
        Ok(Some(Checks {
            table: object.record.name.clone(),
            names: checks.iter().map(|(name, _)| name.clone()).collect(),
            plan: planner.plan_checks(&self.context(), &conditions, &table)?,
        }))
    }

    async fn check_rows(
        &self,
        object: &Object,
        rows: &RecordBatch,
        snapshot: &Snapshot,
    ) -> Result<(), SqlError> {
        match self.checks_of(object)? {
            Some(checks) => checks.of(rows, snapshot).await,
            None => Ok(()),
        }
    }

    /// CREATE TABLE AS: the query's rows are read, then the table is created and the rows are inserted. The catalog keeps
    /// the CREATE TABLE that says the same without the query.
    pub(super) async fn create_table_as(
        &mut self,
        from: TableAs<'_>,
        params: &[ParamValue],
    ) -> Result<Response, SqlError> {
        let mut published = self.pin();
        let mut plan = self.plan(&published, from.query, &param_types(params))?;
        if self.begin_sources(&plan, &published).await? {
            published = self.pin();
            plan = self.plan(&published, from.query, &param_types(params))?;
        }
        let plan = bind(plan, params)?;
        let fields = plan.columns.fields();
        if from.columns.len() > fields.len() {
            return Err(SqlError::new(
                "42601",
                "too many column names were specified",
            ));
        }
        for (i, f) in fields.iter().enumerate() {
            if let SqlType::Other(_) = SqlType::of(f) {
                let name = from.columns.get(i).unwrap_or(f.name());
                return Err(SqlError::new(
                    "42P16",
                    format!("column \"{name}\" has a type that a table can't have"),
                ));
            }
        }
        let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        let columns: Vec<String> = fields
            .iter()
            .enumerate()
            .map(|(i, f)| {
                let name = from.columns.get(i).unwrap_or(f.name());
                format!("{} {}", quoted(name), SqlType::of(f))
            })
            .collect();
        let schema = from.name.schema.as_deref().map(|s| quoted(s) + ".");
        let sql = format!(
            "CREATE TABLE {}{}{} ({})",
            if from.if_not_exists {
                "IF NOT EXISTS "
            } else {
                ""
            },
            schema.unwrap_or_default(),
            quoted(&from.name.name),
            columns.join(", ")
        );
        let there = published.catalog.lookup(from.name).is_some();
        let batches = if from.with_data && !there {
            let snapshot = Snapshot::of(&self.handle.env, &published);
            execution::collect(plan.clone(), Arc::new(snapshot)).await?
        } else {
            vec![]
        };
        let mut statements = tidemill_planner::ast::parse(&sql)?;
        let Some(parsed @ Parsed { .. }) = statements.pop() else {
            return Err(SqlError::internal("CREATE TABLE AS makes one statement"));
        };
        let created = self.ddl(&parsed).await?;
        if there || !from.with_data {
            return Ok(created);
        }
        let published = self.pin();
        let target = self.target(&published, from.name.schema.as_deref(), &from.name.name)?;
        let mut parts = Vec::new();
        for batch in &batches {
            parts.push(part(&target.object, batch, 0)?);
        }
        let rows = concat(&target.object, &parts)?;
        let count = rows.num_rows();
        let delta = Delta::insert(rows);
        let change = transaction::Written::of(target.relation.id, delta);
        self.write(change, published.now(), ReadSet::default())
            .await?;
        Ok(Response::Tag(format!("SELECT {count}")))
    }

    /// INSERT … ON CONFLICT: `rows` of which all `keys` are free are inserted; of the others `update` makes new rows, or they are
    /// passed over.
    async fn merge(
        &self,
        published: &Arc<Published>,
        (target, keys): (&Target, &[usize]),
        rows: RecordBatch,
        update: Option<(&plans::Query, &[ParamValue])>,
        snapshot: &Snapshot,
    ) -> Result<Written, SqlError> {
        let object = &target.object;
        let own = snapshot
            .own_writes
            .get(&target.relation.id)
            .map_or(&[][..], Vec::as_slice);
        let mut there = Vec::with_capacity(keys.len());
        for key in keys {
            let key = &target.keys[*key];
            there.push(key.there(
                target,
                &published.store,
                own,
                &rows,
                snapshot.reads.as_ref(),
            )?);
        }
        let (mut free, mut old, mut excluded) = (vec![], vec![], vec![]);
        for row in 0..rows.num_rows() {
            match conflict_of(&there, row) {
                None => free.push(row as u32),
                Some(_) if update.is_none() => continue,
                Some(Other::Stored(key, at)) => {
                    old.push((key, at));
                    excluded.push(row as u32);
                }
                Some(Other::Given) => {
                    return Err(SqlError::new(
                        "21000",
                        "ON CONFLICT DO UPDATE command cannot affect row a second time",
                    )
                    .hint("Ensure that no rows proposed for insertion within the same command have duplicate constrained values."));
                }
            }
            // A row that is passed over takes no key.
            there.iter_mut().for_each(|key| key.take(row));
        }
        let take = |from: &RecordBatch, rows: Vec<u32>| {
            arrow::compute::take_record_batch(from, &UInt32Array::from(rows)).map_err(internal)
        };
        let inserted = take(&rows, free)?;
        let Some((update, params)) = update.filter(|_| !old.is_empty()) else {
            return Ok(Written {
                delta: Delta::insert(inserted.clone()),
                rows: inserted,
            });
        };
        let stored: Vec<&RecordBatch> = there.iter().map(|key| &key.rows).collect();
        let old = arrow::compute::interleave_record_batch(&stored, &old).map_err(internal)?;
        let excluded = take(&rows, excluded)?;
        let pairs = side_by_side(&old, &excluded)?;
        let reader = WithRows {
            inner: snapshot.clone(),
            rows: pairs,
        };
        let batches = self.rows(update, params, reader)?;
        let batches: Vec<RecordBatch> = batches.try_collect().await?;
        let (changes, updated) = changes(object, &batches)?;
        let rows = concat(object, &[inserted.clone(), updated])?;
        let delta = tidemill_zset::consolidate::consolidate(
            &object.columns,
            &[Delta::insert(inserted), changes],
        );
        Ok(Written { delta, rows })
    }

    pub(super) async fn truncate(
        &mut self,
        names: &[Name],
        restart_identity: bool,
    ) -> Result<Response, SqlError> {
        self.check_writable(&Statement::Truncate {
            names: vec![],
            restart_identity,
        })?;
        for name in names {
            for attempt in 0..=RETRIES_MAX {
                let published = self.pin();
                let target = self.target(&published, name.schema.as_deref(), &name.name)?;
                let snapshot = self.snapshot(&published);
                let mut deltas: Vec<Delta> = snapshot
                    .deltas(target.relation.id)?
                    .collect::<Result<_, _>>()?;
                deltas.extend(
                    snapshot
                        .own_writes
                        .get(&target.relation.id)
                        .into_iter()
                        .flatten()
                        .cloned(),
                );
                let all = tidemill_zset::consolidate::consolidate(&target.object.columns, &deltas)
                    .negate();
                let mut reads = ReadSet::default();
                reads.collections.insert(target.relation.id);
                if let Some(transaction) = &self.transaction {
                    transaction
                        .reads
                        .lock()
                        .collections
                        .insert(target.relation.id);
                }
                let numbers =
                    restart_identity && numbers::numbered(&target.object).next().is_some();
                let change = transaction::Written {
                    restart: numbers.then_some(target.object.record.id),
                    ..transaction::Written::of(target.relation.id, all)
                };
                match self.write(change, published.now(), reads).await {
                    Err(e)
                        if e.sqlstate == "40001"
                            && self.transaction.is_none()
                            && attempt < RETRIES_MAX =>
                    {
                        continue;
                    }
                    other => other?,
                }
                break;
            }
        }
        Ok(Response::Tag("TRUNCATE TABLE".into()))
    }
}

/// The columns of `left`, then those of `right`.
fn side_by_side(left: &RecordBatch, right: &RecordBatch) -> Result<RecordBatch, SqlError> {
    let fields: Vec<_> = [("old", left), ("new", right)]
        .iter()
        .flat_map(|(name, batch)| {
            let schema = batch.schema();
            let fields = schema.fields().iter().enumerate();
            fields
                .map(|(i, f)| f.as_ref().clone().with_name(format!("{name}#{i}")))
                .collect::<Vec<_>>()
        })
        .collect();
    let columns = [left.columns(), right.columns()].concat();
    RecordBatch::try_new(Arc::new(arrow::datatypes::Schema::new(fields)), columns).map_err(internal)
}

fn concat(object: &Object, batches: &[RecordBatch]) -> Result<RecordBatch, SqlError> {
    arrow::compute::concat_batches(&object.columns, batches).map_err(internal)
}

/// Columns `from..` of a batch as rows of the table.
fn part(object: &Object, batch: &RecordBatch, from: usize) -> Result<RecordBatch, SqlError> {
    let width = object.columns.fields().len();
    RecordBatch::try_new(
        object.columns.clone(),
        batch.columns()[from..from + width].to_vec(),
    )
    .map_err(internal)
}

/// What batches of old and new columns change, and the new rows.
fn changes(object: &Object, batches: &[RecordBatch]) -> Result<(Delta, RecordBatch), SqlError> {
    let width = object.columns.fields().len();
    let (mut deltas, mut rows) = (Vec::new(), Vec::new());
    for batch in batches {
        let new: Vec<usize> = (width..2 * width).collect();
        check_not_null(object, &batch.project(&new).map_err(internal)?)?;
        let new = part(object, batch, width)?;
        deltas.push(Delta {
            rows: part(object, batch, 0)?,
            diffs: Diffs::Each(vec![-1; batch.num_rows()].into()),
        });
        deltas.push(Delta::insert(new.clone()));
        rows.push(new);
    }
    let delta = tidemill_zset::consolidate::consolidate(&object.columns, &deltas);
    Ok((delta, concat(object, &rows)?))
}

/// `rows` with what the plan, of which these are the `columns`, gives beside the table's: columns of other relations.
fn with_others(
    statement: &Statement,
    rows: RecordBatch,
    batches: &[RecordBatch],
    columns: &SchemaRef,
) -> Result<RecordBatch, SqlError> {
    let own = rows.num_columns();
    let first = match statement {
        Statement::Update(_) => 2 * own,
        // An INSERT reads nothing that RETURNING sees.
        Statement::Insert(_) => columns.fields().len(),
        _ => own,
    };
    if columns.fields().len() <= first {
        return Ok(rows);
    }
    let mut fields: Vec<_> = rows.schema().fields().to_vec();
    let mut all = rows.columns().to_vec();
    for (i, field) in columns.fields().iter().enumerate().skip(first) {
        let parts: Vec<&dyn arrow::array::Array> =
            batches.iter().map(|b| b.column(i).as_ref()).collect();
        all.push(match parts.is_empty() {
            true => arrow::array::new_empty_array(field.data_type()),
            false => arrow::compute::concat(&parts).map_err(internal)?,
        });
        fields.push(field.clone());
    }
    let schema = arrow::datatypes::Schema::new(fields);
    RecordBatch::try_new(Arc::new(schema), all).map_err(internal)
}

/// The change that a write's rows mean.
fn written_by(
    statement: &Statement,
    object: &Object,
    batches: &[RecordBatch],
) -> Result<Written, SqlError> {
    if let Statement::Update(_) = statement {
        let (delta, rows) = changes(object, batches)?;
        return Ok(Written { delta, rows });
    }
    let mut parts = Vec::new();
    for batch in batches {
        if let Statement::Insert(_) = statement {
            check_not_null(object, batch)?;
        }
        parts.push(part(object, batch, 0)?);
    }
    let rows = concat(object, &parts)?;
    let delta = match statement {
        // An insertion needs no summing up.
        Statement::Insert(_) => Delta::insert(rows.clone()),
        _ => {
            let gone = Delta {
                rows: rows.clone(),
                diffs: Diffs::Each(vec![-1; rows.num_rows()].into()),
            };
            tidemill_zset::consolidate::consolidate(&object.columns, &[gone])
        }
    };
    Ok(Written { delta, rows })
}
