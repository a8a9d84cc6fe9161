//! Reading collections at one epoch of one published version.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, RecordBatch, RecordBatchOptions, StringArray, UInt32Array};
use arrow::compute;
use arrow::datatypes::SchemaRef;
use parking_lot::Mutex;
use tidemill_dataflow::plan::{Op, OutputStorage};
use tidemill_planner::SqlError;
use tidemill_planner::error::row_error as row_mapper;
use tidemill_planner::query::{ColumnOrder, Condition, Pieces, SnapshotReader};
use tidemill_storage::StoreError;
use tidemill_zset::consolidate::consolidate;
use tidemill_zset::hash::hash_columns;
use tidemill_zset::{ArrangementId, CollectionId, Delta, Diffs, Epoch};

use crate::catalog::{Catalog, Detail, Object, Rows};
use crate::coordinator::Env;
use crate::find::Found;
use crate::published::Published;
use crate::reread::reread_source;
use crate::system::SystemRelations;

/// Batches of rows, each row once per multiplicity.
pub type RowIterator = Box<dyn Iterator<Item = Result<RecordBatch, SqlError>> + Send>;
/// Batches of rows with multiplicities.
pub type DeltaIterator = Box<dyn Iterator<Item = Result<Delta, SqlError>> + Send>;

/// Where a collection's rows are.
pub enum Contents {
    /// In an arrangement.
    Stored(Stored),
    /// Nowhere: the source's input must be read again.
    Unrecorded(Arc<Object>),
    /// Computed from the server's own state.
    System,
}

/// A collection's place in an arrangement.
#[derive(Clone)]
pub struct Stored {
    /// Which.
    pub arrangement: ArrangementId,
    /// Its columns that are the collection's before `maps` are applied.
    pub columns: Vec<usize>,
    /// Filters and projections between the two.
    pub maps: Vec<Op>,
    /// The collection's columns.
    pub schema: SchemaRef,
}

impl Stored {
    /// Only `columns` of the collection, to which no maps lead.
    pub(crate) fn only(self, columns: &[usize]) -> Result<Stored, SqlError> {
        let schema = self.schema.project(columns);
        let schema = schema.map_err(|e| SqlError::internal(e.to_string()))?;
        Ok(Stored {
            columns: columns.iter().map(|c| self.columns[*c]).collect(),
            schema: Arc::new(schema),
            ..self
        })
    }
}

/// Finds where the rows of `collection` are.
pub fn contents(catalog: &Catalog, collection: CollectionId) -> Result<Contents, SqlError> {
    if SystemRelations::is_system(collection) {
        return Ok(Contents::System);
    }
    let Some((object, rows)) = catalog.by_collection(collection) else {
        return Err(SqlError::new(
            "42P01",
            format!("relation {collection} does not exist any more"),
        ));
    };
    if object.record.behind && rows == Rows::Data {
        let missed = "It missed changes while it couldn't be restored, and is being rebuilt.";
        return Err(not_yet(object, missed));
    }
    contents_of(object, rows)
}

fn not_yet(object: &Object, why: &str) -> SqlError {
    let message = format!("\"{}\" can't be read yet", object.display_name());
    SqlError::new("55000", message).detail(why)
}

/// Finds where the rows (or errors) of `object` are.
pub fn contents_of(object: &Arc<Object>, rows: Rows) -> Result<Contents, SqlError> {
    let ids = &object.record.ids;
    let stored = |arrangement, columns: Vec<usize>, maps, schema| {
        Ok(Contents::Stored(Stored {
            arrangement,
            columns,
            maps,
            schema,
        }))
    };
    let missing = || {
        not_yet(
            object,
            "It is being rebuilt, because this version computes it differently than the one that stored it.",
        )
    };
    if rows == Rows::Errors {
        let schema = object.error_columns().ok_or_else(missing)?;
        // The errors of a source carry the origin in front; see `origin_schema`.
        let skip = usize::from(matches!(object.detail, Detail::Source { .. }));
        let columns = (skip..schema.fields().len() + skip).collect();
        return stored(ids.errors.ok_or_else(missing)?, columns, vec![], schema);
    }
    let width = object.columns.fields().len();
    match &object.detail {
        Detail::Table { primary_key, .. } => {
            let order = key_first(primary_key, width);
            let mut columns = vec![0; width];
            order
                .iter()
                .enumerate()
                .for_each(|(stored, column)| columns[*column] = stored);
            stored(
                ids.rows.ok_or_else(missing)?,
                columns,
                vec![],
                object.columns.clone(),
            )
        }
        Detail::Source { .. } => match ids.rows {
            Some(rows) => stored(
                rows,
                (1..width + 1).collect(),
                vec![],
                object.columns.clone(),
            ),
            None => Ok(Contents::Unrecorded(object.clone())),
        },
        Detail::MaterializedView { output, .. } => match output {
            OutputStorage::Own => {
                let rows = ids.rows.ok_or_else(missing)?;
                stored(rows, (0..width).collect(), vec![], object.columns.clone())
            }
            OutputStorage::Arrangement {
                index,
                columns,
                maps,
            } => {
                let state = ids.states.get(*index).ok_or_else(missing)?;
                stored(
                    state.id,
                    columns.clone(),
                    maps.clone(),
                    object.columns.clone(),
                )
            }
        },
        _ => Err(missing()),
    }
}

/// Columns of a table in the order they are stored: the key's first, then the rest; all, if there is no key.
pub fn key_first(primary_key: &[usize], width: usize) -> Vec<usize> {
    let mut order = primary_key.to_vec();
    order.extend((0..width).filter(|c| !primary_key.contains(c)));
    order
}

/// What a transaction has read, for the check at COMMIT.
#[derive(Clone, Debug, Default)]
pub struct ReadSet {
    /// Collections read as a whole.
    pub collections: HashSet<CollectionId>,
    /// Single keys of tables: (collection, hash of the key).
    pub keys: HashSet<(CollectionId, u64)>,
    /// Single keys of unique indexes: (the table, the index's rows, code of the key).
    pub uniques: HashSet<(CollectionId, ArrangementId, u64)>,
}

impl ReadSet {
    /// Nothing was read.
    pub fn is_empty(&self) -> bool {
        self.collections.is_empty() && self.keys.is_empty() && self.uniques.is_empty()
    }

    /// What was read of one collection counts as all of another, which has its rows now.
    pub fn follow(&mut self, from: CollectionId, to: CollectionId) {
        let read = self.take_out(|c| *c == from);
        self.collections.extend(read.into_iter().map(|_| to));
    }

    /// All collections of which something was read.
    pub fn of(&self) -> impl Iterator<Item = &CollectionId> {
        let keys = self.keys.iter().map(|(c, _)| c);
        let uniques = self.uniques.iter().map(|(c, ..)| c);
        self.collections.iter().chain(keys).chain(uniques)
    }

    /// Forgets what was read of some collections; gives those of which something was.
    pub fn take_out(&mut self, of: impl Fn(&CollectionId) -> bool) -> HashSet<CollectionId> {
        let out = self.of().copied().filter(&of).collect();
        self.collections.retain(|c| !of(c));
        self.keys.retain(|(c, _)| !of(c));
        self.uniques.retain(|(c, ..)| !of(c));
        out
    }
}

/// A published version at one epoch, with a transaction's own writes on top.
#[derive(Clone)]
pub struct Snapshot {
    /// The version.
    pub published: Arc<Published>,
    /// The epoch to read at; `since <= at < upper`.
    pub at: Epoch,
    /// The rest of the server.
    pub env: Arc<Env>,
    /// Uncommitted writes of the reader's own transaction, by table.
    pub own_writes: Arc<HashMap<CollectionId, Vec<Delta>>>,
    /// Where reads are noted, in a transaction.
    pub reads: Option<Arc<Mutex<ReadSet>>>,
    /// What statements in WITH return, by their collections.
    pub changed: Arc<HashMap<CollectionId, Vec<RecordBatch>>>,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Snapshot(at {})", self.at)
    }
}

impl Snapshot {
    /// The newest readable epoch of `published`, without writes of one's own.
    pub fn of(env: &Arc<Env>, published: &Arc<Published>) -> Self {
        Snapshot {
            published: published.clone(),
            at: published.now(),
            env: env.clone(),
            own_writes: Default::default(),
            reads: None,
            changed: Default::default(),
        }
    }

    /// All rows of `collection` with multiplicities, as of `at`.
    pub fn deltas(&self, collection: CollectionId) -> Result<DeltaIterator, SqlError> {
        self.check_errors(collection)?;
        self.deltas_in_error(collection)
    }

    /// Like [`Snapshot::deltas`], of a view in error too: what there is.
    pub fn deltas_in_error(&self, collection: CollectionId) -> Result<DeltaIterator, SqlError> {
        match contents(&self.published.catalog, collection)? {
            Contents::System => {
                let rows = self.env.system.rows(collection, &self.published)?;
                Ok(Box::new(rows.into_iter().map(|b| Ok(Delta::insert(b)))))
            }
            Contents::Unrecorded(object) => {
                reread_source(&object, vec![], self.published.offsets_of(&object))
            }
            Contents::Stored(stored) => self.read(stored),
        }
    }

    /// All changes of `collection` after the version `before`, as one sum: what a reader of the store's history gets who
    /// doesn't need the epochs apart, so for sources that aren't recorded, too.
    pub fn changes_since(
        &self,
        before: &Published,
        collection: CollectionId,
    ) -> Result<DeltaIterator, SqlError> {
        if let Contents::Unrecorded(object) = contents(&self.published.catalog, collection)? {
            let (from, to) = (
                before.offsets_of(&object),
                self.published.offsets_of(&object),
            );
            return reread_source(&object, from, to);
        }
        let changes = self.history(collection, before.now(), self.at)?;
        Ok(Box::new(changes.into_iter().map(|(_, delta)| Ok(delta))))
    }

    /// The rows of `collection`, only `columns` of them where that saves reading the others; and which columns of what is
    /// read are then left to be taken.
    fn rows<'c>(
        &self,
        collection: CollectionId,
        columns: Option<&'c [usize]>,
    ) -> Result<(DeltaIterator, Option<&'c [usize]>), SqlError> {
        if let (Some(wanted), Contents::Stored(stored)) =
            (columns, contents(&self.published.catalog, collection)?)
            && stored.maps.is_empty()
        {
            self.check_errors(collection)?;
            return Ok((self.read(stored.only(wanted)?)?, None));
        }
        Ok((self.deltas(collection)?, columns))
    }

    /// The rows of a collection with what the transaction has written to it. Stored rows pass by as they are, but for those that may be
    /// equal to one that it has taken away.
    fn with_own(
        &self,
        collection: CollectionId,
        own: &[Delta],
        columns: Option<&[usize]>,
    ) -> Result<RowIterator, SqlError> {
        let own = match own.first() {
            Some(first) => consolidate(&first.schema(), own),
            None => return Ok(rows_of(self.deltas(collection)?, columns)),
        };
        let (gone, come): (Vec<u32>, Vec<u32>) =
            (0..own.len() as u32).partition(|row| own.diffs.get(*row as usize) < 0);
        if gone.is_empty() {
            let (rows, left) = self.rows(collection, columns)?;
            let own = Box::new(std::iter::once(Ok(own)));
            return Ok(Box::new(rows_of(rows, left).chain(rows_of(own, columns))));
        }
        let part = |delta: &Delta, rows: Vec<u32>| {
            let rows = delta.take(&UInt32Array::from(rows));
            rows.map_err(|e| SqlError::internal(e.to_string()))
        };
        let gone = part(&own, gone)?;
        // The first column tells enough: it mostly is the key.
        let hashes = |delta: &Delta| {
            let first = delta.rows.columns().iter().take(1).cloned();
            hash_columns(&first.collect::<Vec<_>>(), delta.len())
        };
        let wanted: HashSet<u64> = hashes(&gone).into_iter().collect();
        let mut alike = vec![gone, part(&own, come)?];
        let mut stored = Some(self.deltas(collection)?);
        let deltas = std::iter::from_fn(move || {
            while let Some(deltas) = &mut stored {
                let Some(delta) = deltas.next() else {
                    stored = None;
                    let sum = consolidate(&alike[0].schema(), &alike);
                    return Some(Ok(sum));
                };
                let split = delta.and_then(|delta| {
                    let hashes = hashes(&delta);
                    let rows = 0..delta.len() as u32;
                    let (near, far): (Vec<u32>, Vec<u32>) =
                        rows.partition(|row| wanted.contains(&hashes[*row as usize]));
                    if near.is_empty() {
                        return Ok(delta);
                    }
                    alike.push(part(&delta, near)?);
                    part(&delta, far)
                });
                match split {
                    Ok(far) if far.is_empty() => {}
                    split => return Some(split),
                }
            }
            None
        });
        Ok(rows_of(Box::new(deltas), columns))
    }

    /// All rows of stored contents with multiplicities, as of `at`.
    pub fn read(&self, stored: Stored) -> Result<DeltaIterator, SqlError> {
        let Stored {
            arrangement,
            columns,
            maps,
            schema,
        } = stored;
        let Some(version) = self.arrangement(arrangement, self.at)? else {
            return Ok(Box::new(std::iter::empty()));
        };
        Ok(Box::new(version.scan_columns(self.at, &columns).map(
            move |piece| {
                let piece = piece.map_err(store_error)?;
                shape(piece, &maps, &schema)
            },
        )))
    }

    /// The arrangement at the pinned version, checked to be readable at `at`.
    pub(crate) fn arrangement(
        &self,
        id: ArrangementId,
        at: Epoch,
    ) -> Result<Option<Arc<tidemill_storage::ArrangementVersion>>, SqlError> {
        let Some(version) = self.published.store.arrangement(id) else {
            return Ok(None);
        };
        if at < version.since() && at < self.published.now() {
            return Err(history_gone(at, version.since()));
        }
        Ok(Some(version))
    }

    /// Changes of `collection` in the epochs after `after` up to `until`, from the store's history.
    pub fn history(
        &self,
        collection: CollectionId,
        after: Epoch,
        until: Epoch,
    ) -> Result<Vec<(Epoch, Delta)>, SqlError> {
        match contents(&self.published.catalog, collection)? {
            Contents::Stored(Stored {
                arrangement,
                columns,
                maps,
                schema,
            }) => {
                let Some(version) = self.arrangement(arrangement, after)? else {
                    return Ok(vec![]);
                };
                let changes = version.changes(after, until).map_err(store_error)?;
                changes
                    .into_iter()
                    .map(|(epoch, delta)| {
                        let rows = delta
                            .rows
                            .project(&columns)
                            .map_err(|e| SqlError::internal(e.to_string()))?;
                        let delta = shape(
                            Delta {
                                rows,
                                diffs: delta.diffs,
                            },
                            &maps,
                            &schema,
                        )?;
                        Ok((epoch, consolidate(&schema, &[delta])))
                    })
                    .filter(|r| !matches!(r, Ok((_, d)) if d.is_empty()))
                    .collect()
            }
            Contents::Unrecorded(object) => Err(no_history(&object)),
            Contents::System => Err(SqlError::new(
                "55000",
                "the history of system relations is not stored",
            )),
        }
    }

    /// Where [`Snapshot::history`] from `after` up to now may be cut: the last epoch of each part of about `bytes_max` bytes.
    pub fn history_cuts(
        &self,
        collection: CollectionId,
        after: Epoch,
        bytes_max: usize,
    ) -> Result<Vec<Epoch>, SqlError> {
        let Contents::Stored(stored) = contents(&self.published.catalog, collection)? else {
            return Ok(vec![self.at]);
        };
        match self.arrangement(stored.arrangement, after)? {
            None => Ok(vec![self.at]),
            Some(version) => version.cuts(after, self.at, bytes_max).map_err(store_error),
        }
    }

    /// The oldest epoch at which `collection` can be read.
    pub fn since(&self, collection: CollectionId) -> Result<Epoch, SqlError> {
        match contents(&self.published.catalog, collection)? {
            Contents::Stored(Stored { arrangement, .. }) => Ok(self
                .published
                .store
                .arrangement(arrangement)
                .map_or(0, |v| v.since())),
            _ => Ok(self.published.now()),
        }
    }

    /// Fails with the view's first error if `collection` is a view (or stands on one) with a row in error.
    pub fn check_errors(&self, collection: CollectionId) -> Result<(), SqlError> {
        let Some((object, Rows::Data)) = self.published.catalog.by_collection(collection) else {
            return Ok(());
        };
        for (name, errors) in error_arrangements(&self.published.catalog, object) {
            // Whether there were errors is known as far back as their own history goes.
            let Some(version) = self.arrangement(errors, self.at)? else {
                continue;
            };
            if version.runs() == 0 {
                continue;
            }
            if let Some(piece) = version
                .scan(self.at.max(version.since()))
                .find(|p| !matches!(p, Ok(d) if d.is_empty()))
            {
                return Err(row_error(Some(&name), &piece.map_err(store_error)?.rows));
            }
        }
        Ok(())
    }
}

/// Applies the maps between an arrangement and its collection and gives the rows the collection's schema.
pub(crate) fn shape(piece: Delta, maps: &[Op], schema: &SchemaRef) -> Result<Delta, SqlError> {
    let piece = if maps.is_empty() {
        piece
    } else {
        tidemill_dataflow::plan::apply_maps(maps, piece, row_mapper).0
    };
    let count = RecordBatchOptions::new().with_row_count(Some(piece.rows.num_rows()));
    let columns = piece.rows.columns().to_vec();
    let rows = RecordBatch::try_new_with_options(schema.clone(), columns, &count);
    let rows = rows.map_err(|e| {
        SqlError::internal(format!("stored rows do not have the declared columns: {e}"))
    })?;
    Ok(Delta {
        rows,
        diffs: piece.diffs,
    })
}

impl SnapshotReader for Snapshot {
    fn scan(
        &self,
        collection: CollectionId,
        columns: Option<&[usize]>,
        conditions: &[Condition],
    ) -> Result<RowIterator, SqlError> {
        if let Some(rows) = self.changed.get(&collection) {
            let rows: Vec<_> = rows.iter().cloned().map(|b| Ok(Delta::insert(b))).collect();
            return Ok(rows_of(Box::new(rows.into_iter()), columns));
        }
        if let Some(found) = self.find_deltas(collection, conditions, (columns, false))? {
            return Ok(rows_of(found.rows, found.left.as_deref()));
        }
        if let Some(reads) = &self.reads {
            reads.lock().collections.insert(collection);
        }
        let Some(own) = self.own_writes.get(&collection) else {
            let (rows, left) = self.rows(collection, columns)?;
            return Ok(rows_of(rows, left));
        };
        self.with_own(collection, own, columns)
    }

    fn rows_estimate(&self, collection: CollectionId) -> Option<u64> {
        if let Some(rows) = self.changed.get(&collection) {
            return Some(rows.iter().map(|b| b.num_rows() as u64).sum());
        }
        let Ok(Contents::Stored(stored)) = contents(&self.published.catalog, collection) else {
            return None;
        };
        let version = self.published.store.arrangement(stored.arrangement);
        let own = self.own_writes.get(&collection).into_iter().flatten();
        let own: usize = own.map(Delta::len).sum();
        Some(version.map_or(0, |v| v.rows_estimate()) + own as u64)
    }

    fn sample(&self, collection: CollectionId, columns: Option<&[usize]>) -> Option<RecordBatch> {
        let (rows, left) = self.rows(collection, columns).ok()?;
        rows_of(rows, left).next()?.ok()
    }

    fn find(
        &self,
        collection: CollectionId,
        columns: Option<&[usize]>,
        conditions: &[Condition],
    ) -> Result<Option<RowIterator>, SqlError> {
        if self.changed.contains_key(&collection) {
            return Ok(None);
        }
        let found = self.find_deltas(collection, conditions, (columns, true))?;
        Ok(found.map(|found| rows_of(found.rows, found.left.as_deref())))
    }

    fn finds(&self, collection: CollectionId, conditions: &[Condition]) -> Result<bool, SqlError> {
        Ok(!self.changed.contains_key(&collection) && self.serves(collection, conditions)?)
    }

    fn find_in_order(
        &self,
        collection: CollectionId,
        columns: Option<&[usize]>,
        conditions: &[Condition],
        order: ColumnOrder,
    ) -> Result<Option<Pieces>, SqlError> {
        if self.changed.contains_key(&collection) || self.own_writes.contains_key(&collection) {
            return Ok(None);
        }
        let found = self.in_order(collection, columns, conditions, order)?;
        Ok(found.map(|pieces| {
            let rows = |found: Found| rows_of(found.rows, found.left.as_deref());
            Box::new(pieces.map(move |found| found.map(rows))) as Pieces
        }))
    }
}

fn rows_of(deltas: DeltaIterator, columns: Option<&[usize]>) -> RowIterator {
    let columns = columns.map(<[usize]>::to_vec);
    Box::new(deltas.flat_map(move |delta| -> RowIterator {
        match delta {
            Ok(delta) => Box::new(Copies::new(delta, columns.clone())),
            Err(e) => Box::new(std::iter::once(Err(e))),
        }
    }))
}

/// Rows in one batch of [`Copies`].
const COPIES_MAX: usize = 65_536;

/// The rows of a delta, each as often as its diff says, in batches of a bounded size: a row may be there a trillion times. A
/// negative diff in a snapshot is a broken invariant.
struct Copies {
    rows: RecordBatch,
    diffs: Diffs,
    /// The row whose turn it is, and how many of it have been given.
    row: usize,
    given: i64,
}

impl Copies {
    fn new(delta: Delta, columns: Option<Vec<usize>>) -> Self {
        let rows = match columns {
            None => delta.rows,
            Some(columns) => delta
                .rows
                .project(&columns)
                .expect("the columns are among the collection's"),
        };
        Copies {
            rows,
            diffs: delta.diffs,
            row: 0,
            given: 0,
        }
    }

    /// All rows, if each is there once.
    fn whole(&mut self) -> Option<RecordBatch> {
        let once = match &self.diffs {
            Diffs::Each(diffs) => diffs.iter().all(|d| *d == 1),
            _ => true,
        };
        (once && self.row == 0).then(|| {
            self.row = self.rows.num_rows();
            self.rows.clone()
        })
    }

    fn some(&mut self) -> Result<RecordBatch, SqlError> {
        let mut indices: Vec<u32> = Vec::new();
        while self.row < self.rows.num_rows() && indices.len() < COPIES_MAX {
            let diff = self.diffs.get(self.row);
            if diff < 0 {
                self.row = self.rows.num_rows();
                return Err(SqlError::internal(format!(
                    "a row has the count {diff} in a snapshot"
                ))
                .detail("Some operator retracted a row that was not there."));
            }
            let room = (COPIES_MAX - indices.len()) as i64;
            let n = room.min(diff - self.given);
            indices.extend(std::iter::repeat_n(self.row as u32, n as usize));
            self.given += n;
            if self.given == diff {
                (self.row, self.given) = (self.row + 1, 0);
            }
        }
        if self.rows.num_columns() == 0 {
            // A query that only counts.
            let count = RecordBatchOptions::new().with_row_count(Some(indices.len()));
            return RecordBatch::try_new_with_options(self.rows.schema(), vec![], &count)
                .map_err(|e| SqlError::internal(e.to_string()));
        }
        compute::take_record_batch(&self.rows, &UInt32Array::from(indices))
            .map_err(|e| SqlError::internal(e.to_string()))
    }
}

impl Iterator for Copies {
    type Item = Result<RecordBatch, SqlError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.row >= self.rows.num_rows() {
            return None;
        }
        Some(self.whole().map_or_else(|| self.some(), Ok))
    }
}

/// The error arrangements of a view and of all views below it, with the views' names.
pub fn error_arrangements(catalog: &Catalog, object: &Object) -> Vec<(String, ArrangementId)> {
    let mut out = Vec::new();
    let mut todo = vec![object.record.id];
    let mut seen = HashSet::new();
    while let Some(id) = todo.pop() {
        let Some(object) = catalog.get(id).filter(|_| seen.insert(id)) else {
            continue;
        };
        if let (Detail::MaterializedView { .. }, Some(errors)) =
            (&object.detail, object.record.ids.errors)
        {
            out.push((object.display_name(), errors));
        }
        todo.extend(&object.record.depends);
    }
    out
}

/// The first row of a view's error relation as the error of reading the view; of a query that is followed, `None`.
pub fn row_error(view: Option<&str>, errors: &RecordBatch) -> SqlError {
    let text = |column: usize| {
        let values = errors.column(column).as_any().downcast_ref::<StringArray>();
        values
            .filter(|v| !v.is_empty())
            .map_or_else(String::new, |v| v.value(0).to_string())
    };
    let e = SqlError::new(sqlstate(&text(0)), text(1));
    if text(2).is_empty() {
        // Of no row: something that it reads is gone.
        return e;
    }
    let Some(view) = view else {
        return e.detail(format!(
            "The query can't be computed for the row {}.",
            text(2)
        ));
    };
    e.detail(format!("The view \"{view}\" can't be computed for the row {}.", text(2)))
        .hint(format!("All rows in error are in {view}_errors; the view can be read again when they are corrected or deleted at their origin."))
}

/// A SQLSTATE read from data as the static text that [`SqlError`] wants. There are a few hundred codes at
/// most; each is kept once.
pub fn sqlstate(code: &str) -> &'static str {
    static CODES: Mutex<Vec<&'static str>> = Mutex::new(Vec::new());
    const CODES_MAX: usize = 512;
    let mut codes = CODES.lock();
    if let Some(known) = codes.iter().find(|c| **c == code) {
        return known;
    }
    let valid = code.len() == 5
        && code
            .bytes()
            .all(|b| b.is_ascii_digit() || b.is_ascii_uppercase());
    if !valid || codes.len() >= CODES_MAX {
        return "XX000";
    }
    let kept: &'static str = Box::leak(code.to_string().into_boxed_str());
    codes.push(kept);
    kept
}

/// An error of the store as a client sees it.
pub fn store_error(e: StoreError) -> SqlError {
    let code = match &e {
        StoreError::Corrupt { .. } => "XX001",
        StoreError::Io { .. } | StoreError::Sled { .. } => "58030",
        StoreError::Usage(_) | StoreError::Locked(_) => "55000",
    };
    SqlError::new(code, e.to_string())
}

/// The error of asking for history of a source that isn't recorded.
pub fn no_history(source: &Object) -> SqlError {
    let name = source.display_name();
    SqlError::new(
        "55000",
        format!("the history of source {name} is not stored"),
    )
    .hint("Create the source with a persistent_id, or read a materialized view of it.")
}

/// The error of asking for a time to come.
pub fn not_complete(at: Epoch, now: Epoch) -> SqlError {
    SqlError::new("22023", format!("time {at} is not complete yet"))
        .detail(format!("The newest complete time is {now}."))
}

/// The end of the message of [`history_gone`].
const HISTORY_GONE: &str = "is no longer readable";

/// Whether `e` is that of [`history_gone`].
pub fn is_history_gone(e: &SqlError) -> bool {
    e.sqlstate == "22023" && e.message.ends_with(HISTORY_GONE)
}

/// The error of asking for history that is no longer kept.
pub fn history_gone(at: Epoch, since: Epoch) -> SqlError {
    SqlError::new("22023", format!("time {at} {HISTORY_GONE}"))
        .detail(format!("History is kept from time {since} on."))
        .hint("Ask for a later time, or keep more with WITH (retain_history = '…').")
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::Int64Array;
    use arrow::datatypes::{DataType, Field};

    #[test]
    fn rows_come_as_often_as_their_diffs_say_in_bounded_batches() {
        let schema = tidemill_zset::delta::schema_of(vec![Field::new("n", DataType::Int64, false)]);
        let column = Arc::new(Int64Array::from(vec![7, 8, 9]));
        let rows = RecordBatch::try_new(schema, vec![column]).unwrap();
        let of = |diffs: Vec<i64>| Copies::new(Delta::new(rows.clone(), diffs), None);
        let lengths = |diffs| -> Vec<usize> { of(diffs).map(|b| b.unwrap().num_rows()).collect() };
        assert_eq!(lengths(vec![1, 1, 1]), [3]);
        assert_eq!(lengths(vec![2, 0, 1]), [3]);
        let many = COPIES_MAX as i64;
        assert_eq!(lengths(vec![1, many, 1]), [COPIES_MAX, 2]);
        let trillion = of(vec![1 << 40, 1, 1]).take(3);
        assert!(
            trillion
                .map(|b| b.unwrap())
                .all(|b| b.num_rows() == COPIES_MAX)
        );
        assert!(of(vec![1, -1, 1]).any(|b| b.is_err()));
    }
}
