//! Transactions: one version to read, own writes on top, one check at COMMIT.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use parking_lot::Mutex;
use tidemill_planner::SqlError;
use tidemill_planner::ast::Statement;
use tidemill_planner::query::QueryPlan;
use tidemill_zset::consolidate::consolidate;
use tidemill_zset::{CollectionId, Delta, Epoch};

use super::advisory::Mark;
use super::settings::Values;
use super::sql::SqlSession;
use crate::catalog::{Catalog, Detail, Object};
use crate::coordinator::Message;
use crate::coordinator::tables::{OwnKeys, WriteRequest, tables_below};
use crate::numbers::Numbered;
use crate::published::Published;
use crate::reader::{ReadSet, Snapshot};

/// A transaction, explicit or of one query string.
pub struct Transaction {
    /// BEGIN was said; otherwise it ends with the query string.
    pub explicit: bool,
    /// When it began, microseconds since the Unix epoch: its `now()`.
    pub began: i64,
    /// A statement failed; only ROLLBACK helps.
    pub failed: bool,
    /// The version it reads, from its first statement on.
    pub published: Option<Arc<Published>>,
    /// Changes by table; readers share them.
    pub writes: Arc<HashMap<CollectionId, Vec<Delta>>>,
    /// The keys of `writes`.
    pub own_keys: OwnKeys,
    /// Numbers that its rows have.
    pub numbered: HashSet<Numbered>,
    /// What it has read.
    pub reads: Arc<Mutex<ReadSet>>,
    /// Tags of DDL that took effect in it.
    pub ddl: Vec<String>,
    /// Savepoints, in the order in which they were made.
    pub savepoints: Vec<Savepoint>,
}

/// A change of a table.
pub struct Written {
    /// The table's rows.
    pub table: CollectionId,
    /// How they change.
    pub delta: Delta,
    /// Numbers that new rows have.
    pub numbered: Option<Numbered>,
    /// The table whose numbers begin anew.
    pub restart: Option<u64>,
}

impl Written {
    /// A change without numbers.
    pub fn of(table: CollectionId, delta: Delta) -> Self {
        Written {
            table,
            delta,
            numbered: None,
            restart: None,
        }
    }
}

/// What ROLLBACK TO goes back to.
#[derive(Clone)]
pub struct Savepoint {
    /// Its name; names may repeat, the newest counts.
    pub name: String,
    /// Number of changed rows by table.
    pub rows_written: HashMap<CollectionId, usize>,
    /// How many cursors had been opened.
    pub cursors_opened: u64,
    /// Settings.
    pub settings: Values,
    /// Advisory locks that it held.
    pub advisory: Mark,
}

impl Transaction {
    /// A transaction that has done nothing yet. `began`: what `now()` is in it, microseconds since the Unix epoch.
    pub fn new(explicit: bool, began: i64) -> Self {
        Transaction {
            explicit,
            began,
            failed: false,
            published: None,
            writes: Arc::default(),
            own_keys: OwnKeys::default(),
            numbered: HashSet::new(),
            reads: Default::default(),
            ddl: vec![],
            savepoints: vec![],
        }
    }

    /// Adds a change. All others are copied with it only if somebody reads them at the moment.
    pub fn add(&mut self, table: CollectionId, delta: Delta) {
        let writes = Arc::make_mut(&mut self.writes);
        add_piece(writes.entry(table).or_default(), delta);
    }

    /// Number of changed rows by table.
    pub fn rows_written(&self) -> HashMap<CollectionId, usize> {
        let rows = |pieces: &Vec<Delta>| pieces.iter().map(Delta::len).sum();
        let tables = self.writes.iter();
        tables.map(|(table, all)| (*table, rows(all))).collect()
    }

    /// Takes back all but the first changes of each table.
    pub fn cut_back(&mut self, rows: &HashMap<CollectionId, usize>) {
        self.own_keys.clear();
        Arc::make_mut(&mut self.writes).retain(|table, pieces| {
            let mut left = rows.get(table).copied().unwrap_or(0);
            for piece in pieces.iter_mut() {
                let kept = piece.len().min(left);
                *piece = piece.slice(0, kept);
                left -= kept;
            }
            pieces.retain(|piece| !piece.is_empty());
            !pieces.is_empty()
        });
    }

    /// Nothing was read or written.
    pub fn is_untouched(&self) -> bool {
        self.writes.is_empty() && self.reads.lock().is_empty()
    }

    /// Takes in DDL of its own. What it has read of a table that was altered counts as all of the table from now on; what it has written
    /// has the columns' names of now, and what it has written to tables that it dropped goes with them.
    pub(super) fn follow(&mut self, statement: &Statement, before: &Catalog, now: &Catalog) {
        if !matches!(statement, Statement::Drop { .. } | Statement::Alter { .. }) {
            return;
        }
        let writes = Arc::make_mut(&mut self.writes);
        match statement {
            Statement::Drop { .. } => {
                // One whose rows are elsewhere because somebody else altered it is there: COMMIT refuses to write what it was.
                let is_there = |collection: &CollectionId| {
                    let owner = before.by_collection(*collection);
                    owner.is_none_or(|(object, _)| now.get(object.record.id).is_some())
                };
                writes.retain(|table, _| is_there(table));
                // What it has read of a view is what the tables below had.
                let below = self.reads.lock().take_out(|c| !is_there(c));
                let below = below.into_iter().flat_map(|c| tables_below(before, c));
                self.reads.lock().collections.extend(below.filter(is_there));
            }
            Statement::Alter { name, .. } => {
                let altered = before.lookup(name).map(|o| &o.record);
                let Some((id, from)) = altered.and_then(|r| r.ids.collection.map(|c| (r.id, c)))
                else {
                    return;
                };
                let object = now.get(id);
                if let Some(to) = object.and_then(|o| o.record.ids.collection) {
                    self.reads.lock().follow(from, to);
                }
                for delta in writes.get_mut(&from).into_iter().flatten() {
                    let columns = delta.rows.columns().to_vec();
                    let renamed = object.map(|o| RecordBatch::try_new(o.columns.clone(), columns));
                    if let Some(Ok(rows)) = renamed {
                        delta.rows = rows;
                    }
                }
            }
            _ => {}
        }
        self.own_keys.clear();
    }
}

/// Rows of a transaction's changes that are put together.
const PIECE_ROWS_MAX: usize = 1 << 16;

/// Adds a change of a table behind the others, those of few rows together: each statement looks through all pieces.
fn add_piece(pieces: &mut Vec<Delta>, delta: Delta) {
    pieces.push(delta);
    while let [.., before, last] = pieces.as_slice()
        && before.len() <= last.len()
        && before.len() + last.len() <= PIECE_ROWS_MAX
        && let Ok(both) = Delta::concat(&last.schema(), &pieces[pieces.len() - 2..])
    {
        pieces.truncate(pieces.len() - 2);
        pieces.push(both);
    }
}

impl SqlSession {
    /// The version that the next statement reads: the transaction's, or the newest.
    pub(super) fn pin(&mut self) -> Arc<Published> {
        let newest = self.handle.env.publisher.pin();
        match &mut self.transaction {
            Some(transaction) => transaction.published.get_or_insert(newest).clone(),
            None => newest,
        }
    }

    /// Goes on from the newest version, if what the transaction has read so far is the same there; otherwise it is error 40001.
    pub(super) async fn move_forward(&mut self) -> Result<(), SqlError> {
        let newest = self.handle.env.publisher.pin();
        let Some(transaction) = &mut self.transaction else {
            return Ok(());
        };
        let reads = transaction.reads.lock().clone();
        // Of what it has written only that it may be written still.
        let tables = transaction.writes.iter();
        let tables =
            tables.filter_map(|(table, pieces)| Some((*table, pieces.first()?.slice(0, 0))));
        let writes: Vec<(CollectionId, Delta)> = tables.collect();
        if let Some(before) = &transaction.published
            && !(reads.is_empty() && writes.is_empty())
        {
            let read_at = before.now();
            let check = |reply| {
                Message::Check(WriteRequest {
                    writes,
                    read_at,
                    reads,
                    numbered: vec![],
                    restart: vec![],
                    reply,
                })
            };
            self.handle.change(&self.underway, check).await?;
        }
        if let Some(transaction) = &mut self.transaction {
            transaction.published = (!transaction.is_untouched()).then_some(newest);
        }
        Ok(())
    }

    /// Has the sources that `plan` reads begin, and waits until they have something to show. True: there is a newer
    /// version to read than `published`, which was pinned for this statement.
    pub(super) async fn begin_sources(
        &mut self,
        plan: &QueryPlan,
        published: &Arc<Published>,
    ) -> Result<bool, SqlError> {
        let unread = unread_sources(&published.catalog, plan, |offsets| {
            published.offsets.has(offsets)
        });
        if unread.is_empty() {
            return Ok(false);
        }
        self.handle
            .ask(|reply| Message::Read(unread, reply))
            .await?;
        if let Some(transaction) = &mut self.transaction {
            // What the transaction has read before holds for all of it.
            if !transaction.is_untouched() {
                return Ok(false);
            }
            transaction.published = None;
        }
        Ok(true)
    }

    /// A reader of `published` with the transaction's own writes.
    pub(super) fn snapshot(&self, published: &Arc<Published>) -> Snapshot {
        let mut snapshot = Snapshot::of(&self.handle.env, published);
        if let Some(transaction) = &self.transaction {
            snapshot.own_writes = transaction.writes.clone();
            snapshot.reads = Some(transaction.reads.clone());
        }
        snapshot.changed = self.changed.rows.clone();
        snapshot
    }

    /// The materialized views that don't include what the transaction has written, if a plan reads such a one: they have to be computed
    /// for it. Errors: one of those that are read is made of a source, whose rows may not be there to be read.
    pub(super) fn behind(
        &self,
        plans: &[&QueryPlan],
        catalog: &Catalog,
    ) -> Result<Option<Arc<HashSet<u64>>>, SqlError> {
        let Some(transaction) = self.transaction.as_ref().filter(|t| !t.writes.is_empty()) else {
            return Ok(None);
        };
        let written = |object: &Object| {
            let rows = object.record.ids.collection;
            rows.is_some_and(|c| transaction.writes.contains_key(&c))
        };
        let is_behind = |object: &Object| {
            matches!(object.detail, Detail::MaterializedView { .. })
                && below(catalog, object).iter().any(|o| written(o))
        };
        let mut behind = false;
        let inputs = plans.iter().flat_map(|plan| &plan.inputs);
        for (view, _) in inputs.filter_map(|input| catalog.by_collection(*input)) {
            if !is_behind(view) {
                continue;
            }
            behind = true;
            let is_source = |o: &&Arc<Object>| matches!(o.detail, Detail::Source { .. });
            let below = below(catalog, view);
            if let Some(source) = below.iter().copied().find(is_source) {
                let (view, source) = (&view.record.name, &source.record.name);
                let message = format!(
                    "materialized view \"{view}\" can't be read after writing to what it is made of in the same transaction"
                );
                return Err(SqlError::unsupported(message)
                    .detail(format!(
                        "It would have to be computed anew, and reads the source \"{source}\"."
                    ))
                    .hint("COMMIT first, or query the table itself."));
            }
        }
        if !behind {
            return Ok(None);
        }
        let all = catalog.objects().filter(|object| is_behind(object));
        Ok(Some(Arc::new(all.map(|object| object.record.id).collect())))
    }

    /// Adds changes to the transaction, or commits them at once where there is none. `read_at` and `reads` say what
    /// the changes were computed from.
    pub(super) async fn write(
        &mut self,
        changes: Vec<Written>,
        read_at: Epoch,
        reads: ReadSet,
    ) -> Result<(), SqlError> {
        let (mut writes, mut numbered, mut restart) = (vec![], vec![], vec![]);
        for change in changes {
            if change.restart.is_some() && self.transaction.is_some() {
                return Err(SqlError::unsupported(
                    "RESTART IDENTITY is not supported in a transaction block",
                )
                .hint("Truncate the table before BEGIN."));
            }
            restart.extend(change.restart);
            if !change.delta.is_empty() {
                writes.push((change.table, change.delta));
                numbered.extend(change.numbered);
            }
        }
        if writes.is_empty() && restart.is_empty() {
            return Ok(());
        }
        if let Some(transaction) = &mut self.transaction {
            for (table, delta) in writes {
                transaction.add(table, delta);
            }
            transaction.numbered.extend(numbered);
            return Ok(());
        }
        self.handle
            .change(&self.underway, |reply| {
                Message::Write(WriteRequest {
                    writes,
                    read_at,
                    reads,
                    numbered,
                    restart,
                    reply,
                })
            })
            .await
            .map(drop)
    }

    /// Ends the transaction: its writes become one epoch, or nothing.
    pub(super) async fn commit(&mut self) -> Result<bool, SqlError> {
        let Some(transaction) = self.transaction.take() else {
            return Ok(true);
        };
        let ddl = transaction.ddl.clone();
        // Settings come back unless everything below succeeds.
        let committed = match transaction.failed {
            true => Ok(false),
            false => self.commit_transaction(transaction).await,
        };
        if !matches!(committed, Ok(true)) {
            self.warn_of_ddl(&ddl);
        }
        self.ended(matches!(committed, Ok(true)));
        committed
    }

    /// What goes with a transaction, however it ended.
    pub(super) fn ended(&mut self, committed: bool) {
        self.end_cursors(committed);
        self.settings.end(committed);
        self.unlock_transaction();
    }

    /// Advisory locks of a transaction, or of a statement outside of one.
    pub(super) fn unlock_transaction(&self) {
        let advisory = &self.handle.env.system.advisory;
        advisory.end_transaction(self.backend_pid);
    }

    async fn commit_transaction(&mut self, transaction: Transaction) -> Result<bool, SqlError> {
        let writes: Vec<(CollectionId, Delta)> = transaction
            .writes
            .iter()
            .map(|(table, deltas)| {
                let schema: SchemaRef = deltas[0].schema();
                (*table, consolidate(&schema, deltas))
            })
            .filter(|(_, delta)| !delta.is_empty())
            .collect();
        if writes.is_empty() && transaction.numbered.is_empty() {
            return Ok(true);
        }
        // Numbers that were given are kept also where the rows are gone again, which then depends on nothing.
        let (read_at, reads) = match &transaction.published {
            Some(published) if !writes.is_empty() => {
                (published.now(), transaction.reads.lock().clone())
            }
            _ => (Epoch::MAX, ReadSet::default()),
        };
        self.handle
            .change(&self.underway, |reply| {
                Message::Write(WriteRequest {
                    writes,
                    read_at,
                    reads,
                    numbered: transaction.numbered.into_iter().collect(),
                    restart: vec![],
                    reply,
                })
            })
            .await?;
        Ok(true)
    }
}

/// Sources among the inputs of `plan` whose rows aren't recorded and of which nothing has been committed.
fn unread_sources(
    catalog: &Catalog,
    plan: &QueryPlan,
    has_begun: impl Fn(u64) -> bool,
) -> Vec<u64> {
    let objects = plan
        .inputs
        .iter()
        .filter_map(|c| catalog.by_collection(*c))
        .map(|(o, _)| &o.record);
    objects
        .filter(|r| r.ids.rows.is_none() && r.ids.offsets.is_some_and(|o| !has_begun(o)))
        .map(|r| r.id)
        .collect()
}

/// Everything that an object is made of.
fn below<'c>(catalog: &'c Catalog, object: &Object) -> Vec<&'c Arc<Object>> {
    let (mut seen, mut found) = (HashSet::new(), vec![]);
    let mut todo = object.record.depends.clone();
    while let Some(id) = todo.pop() {
        if let Some(object) = catalog.get(id).filter(|_| seen.insert(id)) {
            todo.extend(&object.record.depends);
            found.push(object);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, Int64Array};
    use arrow::datatypes::{DataType, Field, Int64Type, Schema};
    use rand::{Rng, SeedableRng};

    use super::*;

    fn rows(from: i64, n: usize) -> Delta {
        let schema = Schema::new(vec![Field::new("n", DataType::Int64, false)]);
        let column = Int64Array::from_iter_values(from..from + n as i64);
        let rows = RecordBatch::try_new(Arc::new(schema), vec![Arc::new(column)]);
        Delta::insert(rows.expect("one column"))
    }

    fn written(transaction: &Transaction, table: CollectionId) -> Vec<i64> {
        let pieces = transaction.writes.get(&table).into_iter().flatten();
        let numbers = |d: &Delta| {
            d.rows
                .column(0)
                .as_primitive::<Int64Type>()
                .values()
                .to_vec()
        };
        pieces.flat_map(numbers).collect()
    }

    #[test]
    fn writes_keep_their_order_and_can_be_taken_back_from_any_row_on() {
        let seed = 3;
        println!("seed {seed}");
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let tables = [CollectionId(1), CollectionId(2)];
        for _ in 0..50 {
            let mut transaction = Transaction::new(true, 0);
            let mut model: HashMap<CollectionId, Vec<i64>> = HashMap::new();
            let mut saved = vec![];
            for n in 0..200 {
                let table = tables[rng.random_range(0..2)];
                let delta = rows(n * 10, rng.random_range(1..5));
                model
                    .entry(table)
                    .or_default()
                    .extend(n * 10..n * 10 + delta.len() as i64);
                transaction.add(table, delta);
                match rng.random_range(0..20) {
                    0 => saved.push((transaction.rows_written(), model.clone())),
                    1 if !saved.is_empty() => {
                        saved.truncate(rng.random_range(1..=saved.len()));
                        let (counts, before) = saved.last().expect("not empty");
                        transaction.cut_back(counts);
                        model = before.clone();
                    }
                    _ => {}
                }
                for table in tables {
                    let want = model.get(&table).cloned().unwrap_or_default();
                    assert_eq!(written(&transaction, table), want);
                }
            }
            let pieces = |table| transaction.writes.get(table).map_or(0, Vec::len);
            assert!(tables.iter().map(pieces).sum::<usize>() < 40, "few pieces");
        }
    }
}
