//! Writes to tables: conflicts with what others wrote since, keys and constraints, all checked when the
//! transaction is sequenced, against the committed state plus what the same epoch took before it.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, UInt32Array, make_comparator};
use arrow::compute::{self, SortOptions, not};
use hashbrown::{HashMap, HashSet};
use tidemill_planner::SqlError;
use tidemill_planner::query::WRITTEN;
use tidemill_storage::{ArrangementChange, StoreVersion};
use tidemill_zset::consolidate::{consolidate, normalise_floats};
use tidemill_zset::hash::hash_columns;
use tidemill_zset::{ArrangementId, CollectionId, Delta, Diffs, Epoch};

use super::reply::Reply;
use super::unique::{Keys, UniqueIndex, UniqueState, duplicate, failing_row};
use super::{Coordinator, EpochWork};
use crate::catalog::{Catalog, Detail, Object};
use crate::numbers::Numbered;
use crate::reader::{ReadSet, key_first, store_error};
use crate::system::SystemRelations;

/// Keys whose last change is remembered one by one; older transactions are checked by table.
const KEYS_REMEMBERED_MAX: usize = 1 << 20;

/// A transaction that wants to commit.
pub struct WriteRequest {
    /// Changes by table, full rows in the table's columns, consolidated.
    pub writes: Vec<(CollectionId, Delta)>,
    /// The epoch it read at.
    pub read_at: Epoch,
    /// What it read.
    pub reads: ReadSet,
    /// Numbers that its rows have.
    pub numbered: Vec<Numbered>,
    /// Tables whose numbers begin anew.
    pub restart: Vec<u64>,
    /// Gets the epoch once it is published.
    pub reply: Reply<Epoch>,
}

/// Which tables and keys changed when, since the server started.
#[derive(Default)]
pub struct WriteLog {
    tables: HashMap<CollectionId, Epoch>,
    keys: HashMap<(CollectionId, u64), Epoch>,
    uniques: HashMap<(ArrangementId, u64), Epoch>,
    /// Collections in whose place others are.
    replaced: HashSet<CollectionId>,
    /// Since when a table's rows are checked as they are, if that has changed.
    checked: HashMap<CollectionId, Epoch>,
    /// Keys changed at or before this epoch may have been forgotten.
    forgotten: Epoch,
}

impl WriteLog {
    fn note(&mut self, table: CollectionId, hashes: &[u64], epoch: Epoch) {
        self.tables.insert(table, epoch);
        self.make_room(hashes.len(), epoch);
        self.keys
            .extend(hashes.iter().map(|h| ((table, *h), epoch)));
    }

    fn note_unique(&mut self, index: ArrangementId, codes: &[u64], epoch: Epoch) {
        self.make_room(codes.len(), epoch);
        self.uniques
            .extend(codes.iter().map(|c| ((index, *c), epoch)));
    }

    /// A table's rows are in another collection from an epoch on.
    pub(super) fn replace(&mut self, from: CollectionId, to: CollectionId) {
        self.replaced.insert(from);
        // Who has read a view of the table sees the same in it, but may have missed what was written to the table.
        let last = self.tables.remove(&from);
        self.tables.extend(last.map(|epoch| (to, epoch)));
    }

    /// Rows of a table are checked in another way from an epoch on.
    pub(super) fn note_checks(&mut self, table: CollectionId, epoch: Epoch) {
        self.checked.insert(table, epoch);
    }

    /// Something was read that isn't there any more, or is written that isn't, or that wasn't checked as it is now.
    fn is_outdated(&self, request: &WriteRequest, catalog: &Catalog) -> bool {
        // A table whose rows are elsewhere isn't there either, a relation of the system always.
        let is_gone = |c: &CollectionId| {
            *c != WRITTEN && !SystemRelations::is_system(*c) && catalog.by_collection(*c).is_none()
        };
        let unchecked = |(table, _): &(CollectionId, Delta)| {
            let since = self.checked.get(table);
            since.is_some_and(|epoch| request.read_at < *epoch)
        };
        let written = |(table, _): &(CollectionId, Delta)| self.replaced.contains(table);
        request.reads.of().any(is_gone) || request.writes.iter().any(|w| written(w) || unchecked(w))
    }

    fn make_room(&mut self, more: usize, epoch: Epoch) {
        if self.keys.len() + self.uniques.len() + more > KEYS_REMEMBERED_MAX {
            self.keys.clear();
            self.uniques.clear();
            self.forgotten = epoch - 1;
        }
    }

    fn conflicts(
        &self,
        request: &WriteRequest,
        tables_below: impl Fn(CollectionId) -> Vec<CollectionId>,
    ) -> bool {
        let changed =
            |table: &CollectionId| self.tables.get(table).is_some_and(|e| *e > request.read_at);
        let whole = request
            .reads
            .collections
            .iter()
            .flat_map(|c| tables_below(*c))
            .any(|t| changed(&t));
        let keys = request.reads.keys.iter().any(|(collection, hash)| {
            tables_below(*collection).iter().any(|table| {
                changed(table)
                    && (table != collection
                        || request.read_at <= self.forgotten
                        || self
                            .keys
                            .get(&(*table, *hash))
                            .is_some_and(|e| *e > request.read_at))
            })
        });
        let uniques = request.reads.uniques.iter().any(|(table, index, code)| {
            let newer = |e: &Epoch| *e > request.read_at;
            changed(table)
                && (request.read_at <= self.forgotten
                    || self.uniques.get(&(*index, *code)).is_some_and(newer))
        });
        whole || keys || uniques
    }
}

/// A table's committed rows, and what this epoch has changed of them so far.
struct TableState {
    object: Arc<Object>,
    version: StoreVersion,
    order: Vec<usize>,
    key_columns: usize,
    /// Accepted changes of this epoch, in stored column order.
    accepted: Vec<Delta>,
    /// Hashes that `accepted` touches, to find out cheaply when it needn't be looked at.
    touched: HashSet<u64>,
    uniques: Vec<UniqueState>,
}

/// What is to be accepted of a transaction's changes of a table.
struct Checked {
    stored: Delta,
    hashes: Vec<u64>,
    /// By unique index.
    keys: Vec<Keys>,
}

impl Coordinator {
    /// Takes the waiting transactions into the epoch, in order of arrival.
    pub(super) fn cut_writes(&mut self, work: &mut EpochWork) {
        if self.writes.is_empty() {
            return;
        }
        let mut states: HashMap<CollectionId, TableState> = HashMap::new();
        for request in std::mem::take(&mut self.writes) {
            if !request.reply.begin() {
                continue;
            }
            match self.accept(&request, &mut states, work.epoch) {
                Ok(()) => {
                    work.has_writes = true;
                    // A table whose numbers begin anew may have had no rows to delete.
                    let numbered = request.numbered.iter().map(|n| &n.table);
                    let tables = numbered.chain(&request.restart);
                    let tables = tables.filter_map(|id| self.catalog.get(*id));
                    let counters = tables.flat_map(|table| self.env.numbers.changed(table));
                    work.commit.catalog.extend(counters);
                    let epoch = work.epoch;
                    work.after.push(Box::new(move |_, _| {
                        let _ = request.reply.send(Ok(epoch));
                    }));
                }
                Err(e) => {
                    let _ = request.reply.send(Err(e));
                }
            }
        }
        for (collection, state) in states {
            let counters = self.env.numbers.changed(&state.object);
            work.commit.catalog.extend(counters);
            if let Err(e) = self.apply_table(collection, state, work) {
                self.failure = Some(format!("accepted writes can't be applied: {e}"));
            }
        }
    }

    /// Answers a transaction that goes on from the newest version.
    pub(super) fn check_reads(&self, request: WriteRequest) {
        let below = |collection: CollectionId| tables_below(&self.catalog, collection);
        let log = &self.write_log;
        let answer =
            match log.is_outdated(&request, &self.catalog) || log.conflicts(&request, below) {
                true => Err(conflict()),
                false => Ok(request.read_at),
            };
        let _ = request.reply.send(answer);
    }

    fn accept(
        &mut self,
        request: &WriteRequest,
        states: &mut HashMap<CollectionId, TableState>,
        epoch: Epoch,
    ) -> Result<(), SqlError> {
        let catalog = self.catalog.clone();
        let below = |collection: CollectionId| tables_below(&catalog, collection);
        // Numbers of rows that are gone may come again once the table's begin anew.
        let holds = |n: &Numbered| request.writes.is_empty() || self.env.numbers.holds(n);
        if self.write_log.is_outdated(request, &catalog)
            || self.write_log.conflicts(request, below)
            || !request.numbered.iter().all(holds)
        {
            return Err(conflict());
        }
        let mut checked = Vec::with_capacity(request.writes.len());
        for (collection, delta) in &request.writes {
            if !states.contains_key(collection) {
                let Some((object, _)) = catalog.by_collection(*collection) else {
                    return Err(SqlError::new("42P01", "the table was dropped meanwhile"));
                };
                states.insert(
                    *collection,
                    TableState::new(&catalog, object.clone(), self.env.store.version()),
                );
            }
            checked.push((*collection, states[collection].check(delta)?));
        }
        for (collection, checked) in checked {
            self.write_log.note(collection, &checked.hashes, epoch);
            let state = states.get_mut(&collection).expect("just made");
            for (unique, keys) in state.uniques.iter().zip(&checked.keys) {
                self.write_log
                    .note_unique(unique.index.rows, &keys.codes, epoch);
            }
            state.accept(checked);
        }
        for table in request.restart.iter().filter_map(|id| catalog.get(*id)) {
            self.env.numbers.restart(table);
        }
        Ok(())
    }

    fn apply_table(
        &mut self,
        collection: CollectionId,
        state: TableState,
        work: &mut EpochWork,
    ) -> Result<(), SqlError> {
        let Some(first) = state.accepted.first() else {
            return Ok(());
        };
        // Each is consolidated by itself, but for rows of a table without a key, of which there may be several.
        let stored = match state.accepted.as_slice() {
            [one] => one.clone(),
            all => consolidate(&first.schema(), all),
        };
        if stored.is_empty() {
            return Ok(());
        }
        let rows = state
            .object
            .record
            .ids
            .rows
            .ok_or_else(|| SqlError::internal("a table has rows"))?;
        let change = if state.key_columns == 0 {
            stored.clone()
        } else {
            // `Last`: one entry per key. An insertion sets the value; a retraction alone deletes the key.
            let hashes = state.hashes(&stored.rows);
            let replaced = replaced(&stored, state.key_of(&stored.rows), &hashes);
            let kept = replaced.and_then(|replaced| match replaced.true_count() {
                0 => Ok(stored.clone()),
                _ => stored.filter(&not(&replaced)?),
            });
            kept.map_err(arrow_error)?
        };
        work.commit.changes.push(ArrangementChange {
            arrangement: rows,
            hashes: vec![],
            delta: change,
        });
        let mut back = vec![0; state.order.len()];
        state
            .order
            .iter()
            .enumerate()
            .for_each(|(stored, column)| back[*column] = stored);
        let columns: Vec<ArrayRef> = back
            .iter()
            .map(|c| stored.rows.column(*c).clone())
            .collect();
        let rows =
            RecordBatch::try_new(state.object.columns.clone(), columns).map_err(arrow_error)?;
        self.feed(
            collection,
            Delta {
                rows,
                diffs: stored.diffs,
            },
            work,
        );
        Ok(())
    }
}

impl TableState {
    fn new(catalog: &Catalog, object: Arc<Object>, version: StoreVersion) -> Self {
        let primary_key = match &object.detail {
            Detail::Table { primary_key, .. } => primary_key.clone(),
            _ => vec![],
        };
        let order = key_first(&primary_key, object.columns.fields().len());
        let uniques = UniqueIndex::all_on(catalog, &object);
        TableState {
            uniques: uniques.into_iter().map(UniqueState::new).collect(),
            object,
            version,
            order,
            key_columns: primary_key.len(),
            accepted: vec![],
            touched: HashSet::new(),
        }
    }

    /// The delta with the key's columns first, and the hash of each row's key (all columns, without a key). It says which key it is, also where
    /// rows are sorted by a code that says less.
    fn stored_form(&self, delta: &Delta) -> Result<(Delta, Vec<u64>), SqlError> {
        let rows = delta.rows.project(&self.order).map_err(arrow_error)?;
        let hashes = self.hashes(&rows);
        Ok((
            Delta {
                rows,
                diffs: delta.diffs.clone(),
            },
            hashes,
        ))
    }

    fn hashes(&self, rows: &RecordBatch) -> Vec<u64> {
        hash_columns(self.key_of(rows), rows.num_rows())
    }

    fn key_of<'r>(&self, rows: &'r RecordBatch) -> &'r [ArrayRef] {
        match self.key_columns {
            0 => rows.columns(),
            width => &rows.columns()[..width],
        }
    }

    /// Checks that after `delta` no row has a negative count (somebody else changed it: conflict) and no key has two rows.
    fn check(&self, delta: &Delta) -> Result<Checked, SqlError> {
        let (stored, hashes) = self.stored_form(delta)?;
        self.check_rows(&stored, &hashes)?;
        let mut keys = Vec::with_capacity(self.uniques.len());
        for unique in &self.uniques {
            let changed = unique.index.changed(delta)?;
            let checked = unique.check(&self.version, &changed);
            checked.map_err(|e| of_table(e, &self.object))?;
            keys.push(changed);
        }
        Ok(Checked {
            stored,
            hashes,
            keys,
        })
    }

    fn accept(&mut self, checked: Checked) {
        self.touched.extend(&checked.hashes);
        self.accepted.push(checked.stored);
        for (unique, keys) in self.uniques.iter_mut().zip(checked.keys) {
            unique.accept(keys);
        }
    }

    /// Adds up changes of like sizes, so that statement after statement on the same rows looks through few.
    fn put_together(&mut self) {
        let accepted = &mut self.accepted;
        while let [.., before, last] = accepted.as_slice()
            && are_put_together(before, last)
        {
            let both = consolidate(&last.schema(), &accepted[accepted.len() - 2..]);
            accepted.truncate(accepted.len() - 2);
            accepted.push(both);
        }
        self.uniques.iter_mut().for_each(UniqueState::put_together);
    }

    /// Takes in changes without checking them.
    fn accept_own(&mut self, own: &[Delta]) -> Result<(), SqlError> {
        for delta in own {
            let (stored, hashes) = self.stored_form(delta)?;
            let keys = self.uniques.iter().map(|u| u.index.changed(delta));
            let keys = keys.collect::<Result<Vec<_>, _>>()?;
            self.accept(Checked {
                stored,
                hashes,
                keys,
            });
        }
        Ok(())
    }

    fn check_rows(&self, delta: &Delta, hashes: &[u64]) -> Result<(), SqlError> {
        let only = |sign: i64| (0..delta.len()).all(|r| delta.diffs.get(r).signum() == sign);
        let (only_inserts, only_deletes) = (only(1), only(-1));
        if only_inserts && self.key_columns == 0 {
            return Ok(());
        }
        let current = self.current(hashes, &delta.rows)?;
        let mut all = current;
        all.push(delta.clone());
        // What is there already isn't negative.
        let after = match only_inserts {
            true => Delta::concat(&delta.schema(), &all).map_err(arrow_error)?,
            false => consolidate(&delta.schema(), &all),
        };
        if !only_inserts && (0..after.len()).any(|r| after.diffs.get(r) < 0) {
            return Err(conflict());
        }
        if self.key_columns > 0 && !only_deletes {
            let keys = after
                .rows
                .project(&(0..self.key_columns).collect::<Vec<_>>())
                .map_err(arrow_error)?;
            let keys = Delta {
                rows: keys,
                diffs: after.diffs.clone(),
            };
            let counted = consolidate(&keys.schema(), &[keys]);
            if let Some(row) = (0..counted.len()).find(|r| counted.diffs.get(*r) > 1) {
                let constraint = self.object.primary_key_name();
                let e = duplicate(&constraint, &counted.rows, row);
                return Err(of_table(e, &self.object));
            }
        }
        Ok(())
    }

    /// Committed rows and accepted changes that share a hash with `like`, whose keys have `hashes`.
    fn current(&self, hashes: &[u64], like: &RecordBatch) -> Result<Vec<Delta>, SqlError> {
        let unique = |mut hashes: Vec<u64>| {
            hashes.sort_unstable();
            hashes.dedup();
            hashes
        };
        let wanted = unique(hashes.to_vec());
        let set = || wanted.iter().copied().collect::<HashSet<u64>>();
        let mut out = Vec::new();
        let rows = self.object.record.ids.rows;
        if let Some(version) = rows.and_then(|id| self.version.arrangement(id)) {
            let desc = version.desc();
            let ordered = desc.kind.is_ordered();
            let found = match ordered {
                true => {
                    let codes = desc.key_hashes(self.key_of(like), like.num_rows());
                    version.get_many(&unique(codes))
                }
                false => version.get_many(&wanted),
            };
            let of_codes = ordered.then(set);
            for run in found.map_err(store_error)? {
                let rows = RecordBatch::try_new(like.schema(), run.rows.columns().to_vec())
                    .map_err(arrow_error)?;
                let diffs = run.diffs.to_vec().into();
                let found = Delta { rows, diffs };
                // Keys of one code.
                out.push(match &of_codes {
                    Some(set) => {
                        let hashes = self.hashes(&found.rows);
                        let same = hashes.iter().map(|h| Some(set.contains(h)));
                        found.filter(&same.collect()).map_err(arrow_error)?
                    }
                    None => found,
                });
            }
        }
        if wanted.iter().any(|h| self.touched.contains(h)) {
            let set = set();
            for delta in &self.accepted {
                let hashes = self.hashes(&delta.rows);
                let mask = hashes.iter().map(|h| Some(set.contains(h))).collect();
                let same = delta.filter(&mask).map_err(arrow_error)?;
                let rows = RecordBatch::try_new(like.schema(), same.rows.columns().to_vec())
                    .map_err(arrow_error)?;
                out.push(Delta {
                    rows,
                    diffs: same.diffs,
                });
            }
        }
        Ok(out)
    }
}

/// Which rows of a consolidated delta are retractions of a key that it has another row for. `hashes`: of the rows' keys.
fn replaced(
    stored: &Delta,
    keys: &[ArrayRef],
    hashes: &[u64],
) -> Result<BooleanArray, arrow::error::ArrowError> {
    let by_hash = |inserted: bool| {
        let rows = (0..stored.len()).filter(|row| (stored.diffs.get(*row) > 0) == inserted);
        let mut rows: Vec<(u64, usize)> = rows.map(|row| (hashes[row], row)).collect();
        rows.sort_unstable();
        rows
    };
    let mut replaced = vec![false; stored.len()];
    let only_inserts = matches!(stored.diffs, Diffs::Ones);
    let retracted = if only_inserts { vec![] } else { by_hash(false) };
    if retracted.is_empty() || retracted.len() == stored.len() {
        return Ok(replaced.into());
    }
    let keys = keys.iter().map(|key| {
        let key = normalise_floats(key);
        make_comparator(&key, &key, SortOptions::default())
    });
    let keys = keys.collect::<Result<Vec<_>, _>>()?;
    let inserted = by_hash(true);
    let mut inserted = inserted.as_slice();
    for (hash, row) in retracted {
        let behind = inserted.iter().take_while(|(h, _)| *h < hash).count();
        inserted = &inserted[behind..];
        let mut same = inserted.iter().take_while(|(h, _)| *h == hash);
        replaced[row] = same.any(|(_, new)| keys.iter().all(|k| k(*new, row).is_eq()));
    }
    Ok(replaced.into())
}

/// The tables that a collection's contents depend on; for a table, itself.
pub fn tables_below(catalog: &Catalog, collection: CollectionId) -> Vec<CollectionId> {
    let Some((object, _)) = catalog.by_collection(collection) else {
        return vec![];
    };
    let mut out = Vec::new();
    let mut todo = vec![object.record.id];
    while let Some(id) = todo.pop() {
        let Some(object) = catalog.get(id) else {
            continue;
        };
        match object.detail {
            Detail::Table { .. } => out.extend(object.record.ids.collection),
            _ => todo.extend(&object.record.depends),
        }
    }
    out
}

/// Changed rows that are added up.
const PUT_TOGETHER_ROWS_MAX: usize = 1 << 16;

/// Whether the changes of a transaction's statements are added up with those before them: sizes double from the last to the first.
pub(super) fn are_put_together(before: &Delta, last: &Delta) -> bool {
    before.len() <= 2 * last.len() && before.len() + last.len() <= PUT_TOGETHER_ROWS_MAX
}

/// A transaction can't be placed after what others committed since it read.
pub fn conflict() -> SqlError {
    SqlError::new(
        "40001",
        "could not serialize access due to concurrent update",
    )
    .detail("What the transaction read or changed was changed by another one that committed first.")
    .hint("Run the transaction again.")
}

pub(super) fn arrow_error(e: arrow::error::ArrowError) -> SqlError {
    SqlError::internal(e.to_string())
}

/// The keys of what a transaction has written, for its later statements: each change is taken in once.
#[derive(Default)]
pub struct OwnKeys(HashMap<CollectionId, OwnTable>);

struct OwnTable {
    state: TableState,
    /// Number of the transaction's changed rows that are in it.
    taken: usize,
    /// The version that it stands on.
    epoch: Epoch,
}

impl OwnKeys {
    /// Checks the keys of a table for a statement, against what the transaction with the writes `own` sees; what others commit
    /// meanwhile is checked at COMMIT.
    pub fn check(
        &mut self,
        catalog: &Catalog,
        (collection, object): (CollectionId, &Arc<Object>),
        version: &StoreVersion,
        own: &[Delta],
        delta: &Delta,
    ) -> Result<(), SqlError> {
        let epoch = version.epoch();
        let rows = own.iter().map(Delta::len).sum();
        let usable = |t: &OwnTable| t.taken <= rows && t.epoch == epoch;
        if !self.0.get(&collection).is_some_and(usable) {
            let state = TableState::new(catalog, object.clone(), version.clone());
            let table = OwnTable {
                state,
                taken: 0,
                epoch,
            };
            self.0.insert(collection, table);
        }
        let table = self.0.get_mut(&collection).expect("just made");
        // The pieces may have been put together meanwhile, their rows are the same.
        let mut known = table.taken;
        for delta in own {
            let skipped = known.min(delta.len());
            known -= skipped;
            if skipped < delta.len() {
                let fresh = delta.slice(skipped, delta.len() - skipped);
                table.state.accept_own(&[fresh])?;
            }
        }
        table.taken = rows;
        table.state.put_together();
        table.state.check(delta).map(drop)
    }

    /// Some of the writes were undone.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

/// The rows of a table that have keys of `rows`, as a transaction with the writes `own` sees them, and the hashes of the
/// keys of `rows`.
pub fn existing(
    object: &Arc<Object>,
    version: &StoreVersion,
    own: &[Delta],
    rows: &RecordBatch,
) -> Result<(RecordBatch, Vec<u64>), SqlError> {
    let mut state = TableState::new(&Catalog::default(), object.clone(), version.clone());
    state.accept_own(own)?;
    let (stored, hashes) = state.stored_form(&Delta::insert(rows.clone()))?;
    let found = state.current(&hashes, &stored.rows)?;
    let found = consolidate(&stored.schema(), &found);
    let there = (0..found.len()).filter(|r| found.diffs.get(*r) > 0);
    let there = UInt32Array::from_iter_values(there.map(|r| r as u32));
    let found = compute::take_record_batch(&found.rows, &there).map_err(arrow_error)?;
    let mut columns = vec![found.column(0).clone(); state.order.len()];
    for (stored, column) in state.order.iter().enumerate() {
        columns[*column] = found.column(stored).clone();
    }
    let found = RecordBatch::try_new(object.columns.clone(), columns).map_err(arrow_error)?;
    Ok((found, hashes))
}

/// The hashes of rows of a table by which changes of them are noted.
pub fn row_hashes(
    object: &Arc<Object>,
    version: &StoreVersion,
    rows: &RecordBatch,
) -> Result<Vec<u64>, SqlError> {
    let state = TableState::new(&Catalog::default(), object.clone(), version.clone());
    let (_, hashes) = state.stored_form(&Delta::insert(rows.clone()))?;
    Ok(hashes)
}

/// The error as one about rows of a table.
pub fn of_table(e: SqlError, table: &Object) -> SqlError {
    match e.sqlstate.starts_with("23") {
        false => e,
        true => e.about(|a| {
            a.schema = Some(table.record.schema.clone());
            a.table = Some(table.record.name.clone());
        }),
    }
}

/// Checks NOT NULL of a table's columns in rows to be written.
pub fn check_not_null(object: &Object, rows: &RecordBatch) -> Result<(), SqlError> {
    for (column, field) in rows.columns().iter().zip(object.columns.fields()) {
        if field.is_nullable() || column.null_count() == 0 {
            continue;
        }
        let message = format!(
            "null value in column \"{}\" of relation \"{}\" violates not-null constraint",
            field.name(),
            object.record.name
        );
        let nulls = compute::is_null(column).map_err(arrow_error)?;
        let failing = nulls.iter().position(|n| n == Some(true)).unwrap_or(0);
        let detail = failing_row(object.columns.fields(), rows.columns(), failing);
        let e = SqlError::new("23502", message).detail(detail);
        let e = e.about(|a| a.column = Some(field.name().clone()));
        return Err(of_table(e, object));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Float64Array, RecordBatch};
    use tidemill_zset::{Delta, Diffs};

    use super::replaced;

    #[test]
    fn keys_of_one_hash_are_told_apart() {
        let keys: ArrayRef = Arc::new(Float64Array::from(vec![1.0, 2.0, 3.0, 3.0, 0.0, -0.0, 4.0]));
        let rows = RecordBatch::try_from_iter([("k", keys.clone())]).expect("a column");
        let diffs = Diffs::Each(vec![-1, 1, -1, 1, -1, 1, -1].into());
        let found = replaced(&Delta { rows, diffs }, &[keys], &[7, 7, 7, 7, 7, 7, 8]);
        let found: Vec<bool> = found.expect("comparable").iter().flatten().collect();
        assert_eq!(found, [false, false, true, false, true, false, false]);
    }
}
