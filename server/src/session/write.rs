//! INSERT, UPDATE, DELETE and TRUNCATE, with ON CONFLICT and RETURNING; CREATE TABLE AS.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::datatypes::SchemaRef;
use futures::TryStreamExt;
use parking_lot::Mutex;
use tidemill_planner::SqlError;
use tidemill_planner::ast::{Name, Query, Statement};
use tidemill_planner::query::Conflict;
use tidemill_zset::Delta;
use tidemill_zset::consolidate::consolidate;
use tidemill_zset::schema::SqlType;

use super::plans;
use super::query::{Given, bind, param_types};
use super::sql::SqlSession;
use super::transaction;
use super::unique::{Other, conflict_of};
use super::write_plan::Target;
use super::write_rows::{
    WithRows, Written, changes, concat, internal, rows_of_query, side_by_side, which, with_others,
    written_by,
};
use super::{ParamValue, Response, execution};
use crate::catalog::Object;
use crate::numbers;
use crate::published::Published;
use crate::reader::{ReadSet, Snapshot};

/// How often an autocommit statement is tried again after a conflict before the client hears of it.
pub(super) const RETRIES_MAX: usize = 100;

/// The parts of CREATE TABLE AS.
pub(super) struct TableAs<'a> {
    pub name: &'a Name,
    pub if_not_exists: bool,
    pub columns: &'a [String],
    pub query: &'a Query,
    pub with_data: bool,
}

/// What a statement would do.
pub(super) struct Evaluated {
    pub verb: &'static str,
    /// Rows that it changes.
    pub count: usize,
    pub returned: Option<Returned>,
    pub change: Change,
}

/// The rows of RETURNING.
pub(super) struct Returned {
    pub columns: SchemaRef,
    /// The columns as clients are told of them.
    pub described: SchemaRef,
    pub batches: Vec<RecordBatch>,
}

/// A change of a table, and what it was computed from.
pub(super) struct Change {
    pub object: Arc<Object>,
    pub written: transaction::Written,
    pub published: Arc<Published>,
    pub reads: ReadSet,
}

impl Evaluated {
    /// What the client gets once the change is written.
    pub(super) fn parts(self) -> (Response, Change) {
        let response = match self.returned {
            None => Response::Tag(format!("{} {}", self.verb, self.count)),
            Some(returned) => Response::Rows {
                schema: returned.described,
                batches: Box::pin(futures::stream::iter(returned.batches.into_iter().map(Ok))),
                verb: self.verb,
                counted: true,
                live: false,
            },
        };
        (response, self.change)
    }
}

impl SqlSession {
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
        let evaluated = self.evaluated(statement, given).await?;
        let (response, change) = evaluated.parts();
        self.write_checked(change).await?;
        Ok(response)
    }

    /// What INSERT, UPDATE or DELETE would do. `given` says which columns of RETURNING the client was told.
    pub(super) async fn evaluated(
        &mut self,
        statement: &Statement,
        given: &Given<'_>,
    ) -> Result<Evaluated, SqlError> {
        let params = given.params;
        let mut published = self.pin();
        given.check_lifted(&published.catalog)?;
        let types = given.types();
        let mut planned = self.planned_write(&published, statement, &types, given.slot)?;
        if self
            .begin_sources(&planned.write()?.query.plan, &published)
            .await?
        {
            published = self.pin();
            given.check_lifted(&published.catalog)?;
            planned = self.planned_write(&published, statement, &types, given.slot)?;
        }
        if let Some(behind) = self.behind(&planned.write()?.plans(), &published.catalog)? {
            self.computed = behind;
            let computing = self.planned_write(&published, statement, &types, None);
            self.computed = Arc::default();
            planned = computing?;
        }
        let plans::Write {
            query,
            target,
            update,
            returning,
        } = planned.write()?;
        given.check_described(returning.as_ref().map(|r| &r.plan.columns))?;
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
        let returned = match returning {
            None => None,
            Some(query) => {
                let reader = WithRows {
                    inner: snapshot.clone(),
                    rows: written.rows.clone(),
                };
                let rows = self.rows(query, params, reader)?;
                Some(Returned {
                    columns: query.plan.columns.clone(),
                    described: query.plan.described.clone(),
                    batches: rows.try_collect().await?,
                })
            }
        };
        let reads = reads.lock().clone();
        Ok(Evaluated {
            verb: match statement {
                Statement::Insert(_) => "INSERT 0",
                Statement::Update(_) => "UPDATE",
                _ => "DELETE",
            },
            count: written.rows.num_rows(),
            returned,
            change: Change {
                object: target.object.clone(),
                written: transaction::Written {
                    numbered,
                    ..transaction::Written::of(target.relation.id, written.delta)
                },
                published,
                reads,
            },
        })
    }

    /// Adds a change to the transaction, whose keys are checked, or commits it.
    pub(super) async fn write_checked(&mut self, change: Change) -> Result<(), SqlError> {
        let Change {
            object,
            written,
            published,
            reads,
        } = change;
        let table = written.table;
        if let Some(transaction) = &mut self.transaction {
            let own = transaction.writes.get(&table);
            let checked = transaction.own_keys.check(
                &published.catalog,
                (table, &object),
                &published.store,
                own.map_or(&[][..], Vec::as_slice),
                &written.delta,
            );
            if checked.is_err() {
                // Who goes on from a savepoint knows something of the table's rows.
                transaction.reads.lock().collections.insert(table);
            }
            checked?;
        }
        self.write(vec![written], published.now(), reads).await
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
        let types = param_types(params);
        if let Some(computing) = self.computing(&plan, &published, from.query, &types)? {
            plan = computing;
        }
        let plan = bind(plan, params)?;
        let fields = plan.columns.fields();
        if from.columns.len() > fields.len() {
            return Err(SqlError::new(
                "42601",
                "too many column names were specified",
            ));
        }
        if fields.is_empty() && from.with_data {
            return Err(SqlError::unsupported(
                "rows of a table without columns are not supported",
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
        let table = format!(
            "{}{} ({})",
            schema.unwrap_or_default(),
            quoted(&from.name.name),
            columns.join(", ")
        );
        let statement = |words: &str| {
            let mut statements = tidemill_planner::ast::parse(&format!("{words} {table}"))?;
            let made = statements.pop();
            made.ok_or_else(|| SqlError::internal("CREATE TABLE AS makes one statement"))
        };
        let unless_there = statement("CREATE TABLE IF NOT EXISTS")?;
        if from.if_not_exists && published.catalog.lookup(from.name).is_some() {
            return self.ddl(&unless_there).await;
        }
        let batches = if from.with_data {
            let snapshot = self.snapshot(&published);
            execution::collect(plan.clone(), Arc::new(snapshot)).await?
        } else {
            vec![]
        };
        // In a transaction the table is there at once, its rows at COMMIT.
        let (filled, later) = match self.transaction {
            None => (batches, vec![]),
            Some(_) => (vec![], batches),
        };
        let create = statement("CREATE TABLE")?;
        let created = match self.ddl_with(&create, &filled).await {
            // Somebody else was first: the rows in it are theirs.
            Err(e) if from.if_not_exists && e.sqlstate == "42P07" => {
                return self.ddl(&unless_there).await;
            }
            created => created?,
        };
        if !from.with_data {
            return Ok(created);
        }
        if !later.is_empty() {
            let published = self.pin();
            let target = self.target(&published, from.name.schema.as_deref(), &from.name.name)?;
            let delta = Delta::insert(rows_of_query(&target.object, &later)?);
            let change = transaction::Written::of(target.relation.id, delta);
            self.write(vec![change], published.now(), ReadSet::default())
                .await?;
        }
        let batches = filled.iter().chain(&later);
        let count: usize = batches.map(RecordBatch::num_rows).sum();
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
                (snapshot.reads.as_ref(), update.is_some()),
            )?);
        }
        let (mut free, mut updates, mut excluded) = (vec![], vec![], vec![]);
        for row in 0..rows.num_rows() {
            match conflict_of(&there, row) {
                None => {
                    free.push(row as u32);
                    // A row that isn't inserted takes no key.
                    there.iter_mut().for_each(|key| key.take(row));
                }
                Some(_) if update.is_none() => continue,
                Some(Other::Stored(key, at)) => {
                    updates.push((key, at));
                    excluded.push(row as u32);
                }
                Some(Other::Given) => return Err(second_time()),
            }
        }
        let take = |from: &RecordBatch, rows: Vec<u32>| {
            arrow::compute::take_record_batch(from, &UInt32Array::from(rows)).map_err(internal)
        };
        let inserted = take(&rows, free.clone())?;
        let Some((update, params)) = update.filter(|_| !updates.is_empty()) else {
            return Ok(Written {
                delta: Delta::insert(inserted.clone()),
                rows: inserted,
            });
        };
        let stored: Vec<&RecordBatch> = there.iter().map(|key| &key.rows).collect();
        let old = arrow::compute::interleave_record_batch(&stored, &updates).map_err(internal)?;
        let pairs = side_by_side(&old, &take(&rows, excluded.clone())?)?;
        let reader = WithRows {
            inner: snapshot.clone(),
            rows: pairs,
        };
        let batches = self.rows(update, params, reader)?;
        let batches: Vec<RecordBatch> = batches.try_collect().await?;
        let (changes, updated) = changes(object, &batches)?;
        let pairs = which(&old, &batches)?;
        let mut seen = HashSet::new();
        // Those that WHERE leaves out don't count.
        if !pairs.iter().all(|pair| seen.insert(&updates[*pair])) {
            return Err(second_time());
        }
        // RETURNING has them in the order in which they were proposed.
        let mut places = free;
        places.extend(pairs.into_iter().map(|pair| excluded[pair]));
        let mut order: Vec<u32> = (0..places.len() as u32).collect();
        order.sort_by_key(|row| places[*row as usize]);
        let rows = take(&concat(object, &[inserted.clone(), updated])?, order)?;
        let delta = consolidate(&object.columns, &[Delta::insert(inserted), changes]);
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
        for _ in 0..RETRIES_MAX {
            match self.try_truncate(names, restart_identity).await {
                Err(e) if e.sqlstate == "40001" && self.transaction.is_none() => continue,
                other => return other,
            }
        }
        self.try_truncate(names, restart_identity).await
    }

    /// All the tables at once, or none.
    async fn try_truncate(
        &mut self,
        names: &[Name],
        restart_identity: bool,
    ) -> Result<Response, SqlError> {
        let published = self.pin();
        let snapshot = self.snapshot(&published);
        let mut reads = ReadSet::default();
        let mut all = Vec::with_capacity(names.len());
        for name in names {
            let target = self.target(&published, name.schema.as_deref(), &name.name)?;
            let id = target.relation.id;
            if !reads.collections.insert(id) {
                // Named twice.
                continue;
            }
            let mut deltas: Vec<Delta> = snapshot.deltas(id)?.collect::<Result<_, _>>()?;
            deltas.extend(snapshot.own_writes.get(&id).into_iter().flatten().cloned());
            let rows = consolidate(&target.object.columns, &deltas);
            let numbers = restart_identity && numbers::numbered(&target.object).next().is_some();
            all.push(transaction::Written {
                restart: numbers.then_some(target.object.record.id),
                ..transaction::Written::of(id, rows.negate())
            });
        }
        drop(snapshot);
        if let Some(transaction) = &self.transaction {
            let mut noted = transaction.reads.lock();
            noted.collections.extend(&reads.collections);
        }
        self.write(all, published.now(), reads).await?;
        Ok(Response::Tag("TRUNCATE TABLE".into()))
    }
}

/// ON CONFLICT that would have to update what the same statement has inserted or updated.
fn second_time() -> SqlError {
    SqlError::new(
        "21000",
        "ON CONFLICT DO UPDATE command cannot affect row a second time",
    )
    .hint("Ensure that no rows proposed for insertion within the same command have duplicate constrained values.")
}
