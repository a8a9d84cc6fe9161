//! ALTER TABLE: what it means is worked out against a version; where rows must be read or stored anew, the table is held, its rows go
//! in pieces into new arrangements that nobody sees, and one commit puts them in the place of the old ones.

use std::sync::Arc;

use arrow::array::{Array, RecordBatch};
use futures::TryStreamExt;
use tidemill_planner::SqlError;
use tidemill_planner::ast::{AlterAction, ColumnDefault, Name, ObjectKind, Statement, parse};
use tidemill_planner::query::QueryPlan;
use tidemill_storage::{ArrangementChange, ArrangementDesc, StagedRun};
use tidemill_zset::consolidate::consolidate;
use tidemill_zset::{Delta, Epoch};

use super::sql::SqlSession;
use super::write::RETRIES_MAX;
use super::write_rows::internal;
use super::{execution, numbering};
use crate::alter::{Altered, From, alter, rename_view_column};
use crate::catalog::record::Kind;
use crate::catalog::{Catalog, Detail, Object, text};
use crate::coordinator::alter::{Alteration, Hold};
use crate::coordinator::build::stored_desc;
use crate::coordinator::ddl::{Ddl, find_any, with_article};
use crate::coordinator::duplicates::Duplicates;
use crate::coordinator::ids::table_desc;
use crate::coordinator::unique::UniqueIndex;
use crate::coordinator::{Handle, Message, stale};
use crate::numbers::Numbers;
use crate::published::Published;
use crate::reader::{Snapshot, key_first, store_error};

/// Rows that are put into a run together: what a rewrite holds in memory.
const RUN_ROWS: usize = 1 << 17;

/// ALTER as it is written.
pub(super) struct Alter<'a> {
    pub kind: ObjectKind,
    pub name: &'a Name,
    pub if_exists: bool,
    pub actions: &'a [AlterAction],
}

/// What has been stored of a table.
#[derive(Default)]
struct Stored {
    create: Vec<ArrangementDesc>,
    staged: Vec<StagedRun>,
    numbers: Numbers,
}

impl SqlSession {
    pub(super) async fn alter(&mut self, statement: &Alter<'_>) -> Result<(), SqlError> {
        for _ in 0..RETRIES_MAX {
            match self.try_alter(statement).await {
                Err(e) if e.sqlstate == "40001" => continue,
                other => return other,
            }
        }
        self.try_alter(statement).await
    }

    async fn try_alter(&mut self, statement: &Alter<'_>) -> Result<(), SqlError> {
        let mut published = self.handle.env.publisher.pin();
        let target = match find_any(&published.catalog, statement.name) {
            Err(e) if statement.if_exists && e.sqlstate == "42P01" => {
                self.inform(format!("{}, skipping", e.message), None);
                return Ok(());
            }
            other => other?.clone(),
        };
        let plan = || self.altered(&published, &target, statement, &[]);
        let mut altered = execution::planning(plan)?;
        if altered.reads_rows() {
            self.check_unwritten(&target)?;
        }
        let mut stored = Stored::default();
        let handle = self.handle.clone();
        let mut hand = None;
        if altered.reads_rows() {
            let table = target.record.id;
            let ids = 2 + 2 * altered.indexes.len();
            let hold = |reply| Message::Hold(Hold { table, ids, reply });
            let held = handle.ask(hold).await?;
            hand = Some(held.hand);
            published = held.published;
            let now = published.catalog.get(table).cloned();
            let Some(now) = now.filter(|now| now.record.name == target.record.name) else {
                return Err(crate::coordinator::tables::conflict());
            };
            altered = execution::planning(|| self.altered(&published, &now, statement, &held.ids))?;
            stored = self.store(&published, &altered).await?;
            handle.env.fail.pass("while_altering");
        }
        if !altered.followed.stale.queue.is_empty() {
            let mut next = Catalog::clone(&published.catalog);
            next.put(Arc::new(altered.new.clone()));
            for object in &altered.followed.changed {
                next.put(Arc::new(object.clone()));
            }
            let seen = Arc::new(Published {
                catalog: Arc::new(next),
                ..Published::clone(&published)
            });
            stale::check_inputs(&mut altered.followed.stale, &handle.env, &seen).map_err(
                |stale::Missing { view, reason }| {
                    let name = view.display_name();
                    let cause = "must be computed anew, but what it reads can't be read any more";
                    SqlError::new(
                        "55000",
                        format!("materialized view {name} {cause}: {reason}"),
                    )
                },
            )?;
        }
        let notices = std::mem::take(&mut altered.notices);
        if altered.touched {
            let ddl = Ddl::Alter(Box::new(alteration(&published, altered, stored)));
            let ddl = |reply| Message::Ddl(ddl, reply);
            handle.change(&self.underway, ddl).await?;
        }
        drop(hand);
        notices.into_iter().for_each(|n| self.notify(n));
        Ok(())
    }

    /// Rows that the transaction has written are not committed, so that nothing would look at them.
    fn check_unwritten(&self, table: &Object) -> Result<(), SqlError> {
        let rows = table.record.ids.collection;
        let transaction = self.transaction.as_ref();
        match transaction.is_some_and(|t| rows.is_some_and(|rows| t.writes.contains_key(&rows))) {
            false => Ok(()),
            true => Err(SqlError::new(
                "55006",
                format!(
                    "cannot alter table \"{}\" because this transaction has changed its rows",
                    table.display_name()
                ),
            )
            .detail("DDL takes effect at once, on the rows that are committed.")
            .hint("COMMIT before ALTER TABLE.")),
        }
    }

    /// What the statement makes of `target`; without `ids` it is only tried.
    fn altered(
        &self,
        published: &Published,
        target: &Arc<Object>,
        statement: &Alter<'_>,
        ids: &[u64],
    ) -> Result<Altered, SqlError> {
        let context = self.context();
        let definer = self.definer(published, &context);
        let kind = target.record.kind;
        let is_view = matches!(kind, Kind::View | Kind::MaterializedView);
        let renames = matches!(statement.actions, [AlterAction::RenameColumn { .. }]);
        let fits = match statement.kind {
            // As in PostgreSQL, which words for a relation are said doesn't matter to RENAME COLUMN.
            ObjectKind::View | ObjectKind::MaterializedView if renames => {
                kind == Kind::Table || is_view
            }
            ObjectKind::Table => kind == Kind::Table || is_view,
            ObjectKind::View => kind == Kind::View,
            ObjectKind::MaterializedView => kind == Kind::MaterializedView,
            ObjectKind::Source => kind == Kind::Source,
            _ => false,
        };
        if !fits {
            let name = &target.record.name;
            let (wanted, real) = (statement.kind.words(), kind.words());
            let (wanted, real) = (with_article(wanted), with_article(real));
            let message = format!("\"{name}\" is not {wanted}");
            return Err(SqlError::new("42809", message)
                .hint(format!("It is {real}: only the columns of tables can be altered, and those of views renamed.")));
        }
        if is_view && let [AlterAction::RenameColumn { from, to }] = statement.actions {
            return rename_view_column(&definer, target, (from, to));
        }
        if kind != Kind::Table {
            let action = statement.actions.first().map_or("", action_words);
            let name = target.display_name();
            let message =
                format!("ALTER action {action} cannot be performed on relation \"{name}\"");
            return Err(SqlError::new("42809", message)
                .detail(format!(
                    "This operation is not supported for {}s.",
                    kind.words()
                ))
                .hint("Drop it and create it anew."));
        }
        let mut unused = Catalog::clone(&published.catalog);
        let mut given = ids.iter().copied();
        let mut next_id = || given.next().unwrap_or_else(|| unused.allocate());
        let altered = alter(&definer, target, statement.actions, &mut next_id)?;
        self.check_checks(&altered.new)?;
        Ok(altered)
    }

    /// Reads the rows of a held table and stores them as they will be.
    async fn store(
        &self,
        published: &Arc<Published>,
        altered: &Altered,
    ) -> Result<Stored, SqlError> {
        let plan = self.rewriting(published, altered)?;
        let volatile = plan.volatile.is_some() || has_numbers(altered);
        let mut writer = Writer::new(&self.handle, altered)?;
        let numbers = Numbers::default();
        let snapshot = Snapshot::of(&self.handle.env, published);
        let checks = match altered.checked {
            true => self.checks_of(&altered.new)?,
            false => None,
        };
        let mut rows = execution::start(plan.clone(), Arc::new(snapshot.clone()));
        while let Some(batch) = rows.try_next().await? {
            let (batches, _) =
                numbering::number(&numbers, &altered.new, vec![batch], &mut |_, _| {})?;
            for batch in batches {
                let batch = as_rows(&altered.new, batch)?;
                if let Some(checks) = &checks {
                    checks.of_all(&batch, &snapshot).await?;
                }
                tokio::task::block_in_place(|| writer.take(batch))?;
            }
        }
        tokio::task::block_in_place(|| writer.flush())?;
        for duplicates in &mut writer.duplicates {
            let suspects = duplicates.suspects();
            if suspects.is_empty() {
                continue;
            }
            if volatile {
                // They wouldn't be the same again.
                return Err(duplicates.refused());
            }
            let mut found = vec![];
            let mut rows = execution::start(plan.clone(), Arc::new(snapshot.clone()));
            while let Some(batch) = rows.try_next().await? {
                let delta = Delta::insert(as_rows(&altered.new, batch)?);
                found.push(duplicates.among(&delta, &suspects)?);
            }
            duplicates.check_found(&found)?;
        }
        Ok(Stored {
            create: writer.create(),
            staged: writer.staged,
            numbers,
        })
    }

    /// The rows of the table as they will be: the plan of an INSERT into the new table from the old one.
    fn rewriting(&self, published: &Published, altered: &Altered) -> Result<QueryPlan, SqlError> {
        let (old, new) = (&altered.old, &altered.new);
        let name = |object: &Object, n: usize| text::quoted(object.columns.field(n).name());
        let (mut targets, mut values) = (vec![], vec![]);
        for (n, from) in altered.from.iter().enumerate() {
            match from {
                From::Column(column) | From::Converted(column, None) => {
                    targets.push(name(new, n));
                    values.push(name(old, *column));
                }
                From::Converted(_, Some(using)) => {
                    targets.push(name(new, n));
                    values.push(format!("({using})"));
                }
                From::New => {}
            }
        }
        let Detail::Table { defaults, .. } = &new.detail else {
            return Err(SqlError::internal("not a table"));
        };
        if targets.is_empty() {
            let default = match defaults.first().and_then(Option::as_ref) {
                Some(ColumnDefault::Expression(default)) => format!("({default})"),
                None => "NULL".into(),
                Some(ColumnDefault::Numbering(_)) => {
                    return Err(SqlError::unsupported(
                        "no column of the table would stay but numbered ones",
                    ));
                }
            };
            targets.push(name(new, 0));
            values.push(default);
        }
        let (schema, table) = (
            text::quoted(&old.record.schema),
            text::quoted(&old.record.name),
        );
        let sql = format!(
            "INSERT INTO {schema}.{table} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {schema}.{table}",
            targets.join(", "),
            values.join(", ")
        );
        let parsed = parse(&sql)?.into_iter().next().map(|p| p.statement);
        let Some(Statement::Insert(insert)) = parsed else {
            return Err(SqlError::internal("an INSERT is one"));
        };
        let relation = crate::catalog::view::data_relation(new)
            .ok_or_else(|| SqlError::internal("a table is a relation"))?;
        let context = self.context();
        self.handle.env.planner.plan_insert(
            &self.names(published),
            &context,
            &insert,
            &relation,
            defaults,
            &[],
        )
    }
}

fn action_words(action: &AlterAction) -> &'static str {
    match action {
        AlterAction::AddColumn { .. } => "ADD COLUMN",
        AlterAction::DropColumn { .. } => "DROP COLUMN",
        AlterAction::RenameColumn { .. } => "RENAME COLUMN",
        AlterAction::RenameConstraint { .. } => "RENAME CONSTRAINT",
        AlterAction::SetDefault { default: None, .. } => "ALTER COLUMN ... DROP DEFAULT",
        AlterAction::SetDefault { .. } => "ALTER COLUMN ... SET DEFAULT",
        AlterAction::SetNullable { nullable: true, .. } => "ALTER COLUMN ... DROP NOT NULL",
        AlterAction::SetNullable { .. } => "ALTER COLUMN ... SET NOT NULL",
        AlterAction::AddIdentity { .. } => "ALTER COLUMN ... ADD IDENTITY",
        AlterAction::SetIdentity { .. } => "ALTER COLUMN ... SET",
        AlterAction::Restart { .. } => "ALTER COLUMN ... RESTART",
        AlterAction::DropIdentity { .. } => "ALTER COLUMN ... DROP IDENTITY",
        AlterAction::SetType { .. } => "ALTER COLUMN ... SET DATA TYPE",
        AlterAction::AddConstraint(_) => "ADD CONSTRAINT",
        AlterAction::DropConstraint { .. } => "DROP CONSTRAINT",
    }
}

fn has_numbers(altered: &Altered) -> bool {
    let mut numbered = crate::numbers::numbered(&altered.new);
    numbered.any(|(n, _)| altered.from[n] == From::New)
}

fn alteration(published: &Published, altered: Altered, stored: Stored) -> Alteration {
    let from = altered.from.iter().map(From::column).collect();
    let renumbered = altered.rewritten.then_some((from, stored.numbers));
    let target = altered.old.record.id;
    let checked = altered.checked;
    let mut changed = vec![altered.new];
    changed.extend(altered.renamed_indexes);
    changed.extend(altered.indexes);
    changed.extend(altered.followed.changed);
    Alteration {
        seen: published.catalog.clone(),
        target,
        changed,
        dropped: altered.dropped,
        renumbered,
        checked,
        create: stored.create,
        staged: stored.staged,
        stale: altered.followed.stale,
    }
}

/// A batch with the columns of the table; a NULL where none may be is 23502.
fn as_rows(table: &Object, batch: RecordBatch) -> Result<RecordBatch, SqlError> {
    let width = table.columns.fields().len();
    let columns = batch.columns()[..width].to_vec();
    for (column, field) in columns.iter().zip(table.columns.fields()) {
        if !field.is_nullable() && column.null_count() > 0 {
            let (name, table) = (field.name(), &table.record.name);
            let message = format!("column \"{name}\" of relation \"{table}\" contains null values");
            return Err(SqlError::new("23502", message));
        }
    }
    RecordBatch::try_new(table.columns.clone(), columns).map_err(internal)
}

/// An arrangement that is written.
struct Target {
    desc: ArrangementDesc,
    /// Columns of the table in the order in which they are stored.
    order: Vec<usize>,
}

/// Puts rows of a table into its arrangement and those of its indexes.
struct Writer<'w> {
    handle: &'w Handle,
    targets: Vec<Target>,
    duplicates: Vec<Duplicates>,
    rows: Vec<RecordBatch>,
    count: usize,
    step: Epoch,
    staged: Vec<StagedRun>,
}

impl<'w> Writer<'w> {
    fn new(handle: &'w Handle, altered: &Altered) -> Result<Self, SqlError> {
        let table = &altered.new;
        let width = table.columns.fields().len();
        let (mut targets, mut duplicates) = (vec![], vec![]);
        let stored = |id: Option<_>| id.ok_or_else(|| SqlError::internal("it has rows"));
        if let (true, Detail::Table { primary_key, .. }) = (altered.rewritten, &table.detail) {
            targets.push(Target {
                desc: table_desc(stored(table.record.ids.rows)?, &table.columns, primary_key),
                order: key_first(primary_key, width),
            });
        }
        if altered.key_checked {
            duplicates.extend(UniqueIndex::of_primary_key(table).map(Duplicates::new));
        }
        for index in &altered.indexes {
            let Detail::Index { columns, .. } = &index.detail else {
                continue;
            };
            targets.push(Target {
                desc: stored_desc(stored(index.record.ids.rows)?, index),
                order: key_first(columns, width),
            });
            duplicates.extend(UniqueIndex::of(index, table).map(Duplicates::new));
        }
        Ok(Writer {
            handle,
            targets,
            duplicates,
            rows: vec![],
            count: 0,
            step: 0,
            staged: vec![],
        })
    }

    fn create(&self) -> Vec<ArrangementDesc> {
        self.targets.iter().map(|t| t.desc.clone()).collect()
    }

    fn take(&mut self, rows: RecordBatch) -> Result<(), SqlError> {
        self.count += rows.num_rows();
        self.rows.push(rows);
        match self.count < RUN_ROWS {
            true => Ok(()),
            false => self.flush(),
        }
    }

    fn flush(&mut self) -> Result<(), SqlError> {
        self.count = 0;
        let rows = std::mem::take(&mut self.rows);
        let Some(first) = rows.first() else {
            return Ok(());
        };
        self.step += 1;
        let rows = arrow::compute::concat_batches(&first.schema(), &rows).map_err(internal)?;
        let all = Delta::insert(rows);
        for duplicates in &mut self.duplicates {
            duplicates.note(&all)?;
        }
        let all = consolidate(&all.schema(), &[all]);
        for target in &self.targets {
            let rows = all.rows.project(&target.order).map_err(internal)?;
            let columns = rows.columns().to_vec();
            let rows =
                RecordBatch::try_new(target.desc.schema.clone(), columns).map_err(internal)?;
            let change = ArrangementChange {
                arrangement: target.desc.id,
                hashes: vec![],
                delta: Delta {
                    rows,
                    diffs: all.diffs.clone(),
                },
            };
            let store = &self.handle.env.store;
            let staged = store.stage(&target.desc, self.step, vec![change]);
            self.staged.push(staged.map_err(store_error)?);
        }
        Ok(())
    }
}
