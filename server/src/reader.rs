//! Reading collections at one epoch of one published version.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, StringArray, UInt32Array};
use arrow::compute;
use arrow::datatypes::SchemaRef;
use datafusion_common::ScalarValue;
use parking_lot::Mutex;
use tidemill_dataflow::plan::{ErrorMapper, Op, OutputStorage};
use tidemill_planner::SqlError;
use tidemill_planner::error::row_error as row_mapper;
use tidemill_planner::query::SnapshotReader;
use tidemill_storage::StoreError;
use tidemill_zset::{ArrangementId, CollectionId, Delta, Diffs, Epoch};

use crate::catalog::{Catalog, Detail, Object, Rows};
use crate::coordinator::Env;
use crate::published::Published;
use crate::reread::reread_source;
use crate::system::SystemRelations;

/// Batches of rows, each row once per multiplicity.
pub type RowIterator = Box<dyn Iterator<Item = Result<RecordBatch, SqlError>> + Send>;
/// Batches of rows with multiplicities.
pub type DeltaIterator = Box<dyn Iterator<Item = Result<Delta, SqlError>> + Send>;

/// Where a collection's rows are.
pub enum Contents {
    /// In an arrangement: `columns` of it are the collection's columns before `maps` are applied.
    Stored {
        arrangement: ArrangementId,
        columns: Vec<usize>,
        maps: Vec<Op>,
        schema: SchemaRef,
    },
    /// Nowhere: the source's input must be read again.
    Unrecorded(Arc<Object>),
    /// Computed from the server's own state.
    System,
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
    let ids = &object.record.ids;
    let stored = |arrangement, columns: Vec<usize>, maps, schema| {
        Ok(Contents::Stored {
            arrangement,
            columns,
            maps,
            schema,
        })
    };
    let missing = || SqlError::internal(format!("{} has no stored rows", object.display_name()));
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
        }
    }

    /// All rows of `collection` with multiplicities, as of `at`.
    pub fn deltas(&self, collection: CollectionId) -> Result<DeltaIterator, SqlError> {
        self.check_errors(collection)?;
        match contents(&self.published.catalog, collection)? {
            Contents::System => {
                let rows = self.env.system.rows(collection, &self.published)?;
                Ok(Box::new(rows.into_iter().map(|b| Ok(Delta::insert(b)))))
            }
            Contents::Unrecorded(object) => {
                reread_source(&object, vec![], self.published.offsets_of(&object))
            }
            Contents::Stored {
                arrangement,
                columns,
                maps,
                schema,
            } => {
                let version = self.arrangement(arrangement, self.at)?;
                let Some(version) = version else {
                    return Ok(Box::new(std::iter::empty()));
                };
                let mapper = row_mapper;
                Ok(Box::new(version.scan_columns(self.at, &columns).map(
                    move |piece| {
                        let piece = piece.map_err(store_error)?;
                        shape(piece, &maps, &schema, mapper)
                    },
                )))
            }
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

    /// The arrangement at the pinned version, checked to be readable at `at`.
    fn arrangement(
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
            Contents::Stored {
                arrangement,
                columns,
                maps,
                schema,
            } => {
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
                            row_mapper,
                        )?;
                        Ok((
                            epoch,
                            tidemill_zset::consolidate::consolidate(&schema, &[delta]),
                        ))
                    })
                    .filter(|r| !matches!(r, Ok((_, d)) if d.is_empty()))
                    .collect()
            }
            Contents::Unrecorded(_) | Contents::System => Err(SqlError::new(
                "55000",
                "the history of this collection is not stored",
            )
            .hint("Create the source with a persistent_id, or read a materialized view of it.")),
        }
    }

    /// The oldest epoch at which `collection` can be read.
    pub fn since(&self, collection: CollectionId) -> Result<Epoch, SqlError> {
        match contents(&self.published.catalog, collection)? {
            Contents::Stored { arrangement, .. } => Ok(self
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
            let Some(version) = self.published.store.arrangement(errors) else {
                continue;
            };
            if version.runs() == 0 {
                continue;
            }
            if let Some(piece) = version
                .scan(self.at.max(version.since()))
                .find(|p| !matches!(p, Ok(d) if d.is_empty()))
            {
                return Err(row_error(&name, &piece.map_err(store_error)?.rows));
            }
        }
        Ok(())
    }

    /// Rows of a stored collection whose key columns equal `key`, or `None` if they aren't its stored key.
    fn lookup(
        &self,
        collection: CollectionId,
        equal: &[(usize, ScalarValue)],
    ) -> Result<Option<Vec<Delta>>, SqlError> {
        let Contents::Stored {
            arrangement,
            columns,
            maps,
            schema,
        } = contents(&self.published.catalog, collection)?
        else {
            return Ok(None);
        };
        let Some(version) = self.arrangement(arrangement, self.at)? else {
            return Ok(None);
        };
        let key_columns = version.desc().key_columns;
        if key_columns == 0 || version.desc().kind == tidemill_storage::ArrangementKind::Log {
            return Ok(None);
        }
        // The key must be given by columns that reach the collection unchanged.
        let Some(passed) = pass_through(&columns, &maps, schema.fields().len()) else {
            return Ok(None);
        };
        let mut key: Vec<ArrayRef> = Vec::with_capacity(key_columns);
        for stored in 0..key_columns {
            let value = equal
                .iter()
                .find(|(c, _)| passed.get(*c) == Some(&Some(stored)));
            let Some((_, value)) = value else {
                return Ok(None);
            };
            let wanted = version.desc().schema.field(stored).data_type();
            let Ok(value) = value.cast_to(wanted) else {
                return Ok(None);
            };
            key.push(
                value
                    .to_array()
                    .map_err(|e| SqlError::internal(e.to_string()))?,
            );
        }
        let hash = tidemill_zset::hash::hash_columns(&key, 1)[0];
        if let Some(reads) = &self.reads {
            reads.lock().keys.insert((collection, hash));
        }
        let found = version.get_many_at(&[hash], self.at).map_err(store_error)?;
        let pieces = found.into_iter().map(|run| {
            let rows = run
                .rows
                .project(&columns)
                .map_err(|e| SqlError::internal(e.to_string()))?;
            shape(
                Delta {
                    rows,
                    diffs: Diffs::Each(run.diffs),
                },
                &maps,
                &schema,
                row_mapper,
            )
        });
        Ok(Some(pieces.collect::<Result<_, _>>()?))
    }
}

/// For each output column of `maps` over `columns`: the arrangement column it is, if it is one unchanged.
fn pass_through(columns: &[usize], maps: &[Op], width: usize) -> Option<Vec<Option<usize>>> {
    use datafusion_physical_expr::expressions::Column;
    let mut passed: Vec<Option<usize>> = columns.iter().map(|c| Some(*c)).collect();
    for map in maps {
        let Op::Map { projection, .. } = map else {
            return None;
        };
        if let Some(projection) = projection {
            passed = projection
                .iter()
                .map(|e| {
                    e.downcast_ref::<Column>()
                        .and_then(|c| passed.get(c.index()).copied().flatten())
                })
                .collect();
        }
    }
    (passed.len() == width).then_some(passed)
}

/// Applies the maps between an arrangement and its collection and gives the rows the collection's schema.
fn shape(
    piece: Delta,
    maps: &[Op],
    schema: &SchemaRef,
    mapper: ErrorMapper,
) -> Result<Delta, SqlError> {
    let piece = if maps.is_empty() {
        piece
    } else {
        tidemill_dataflow::plan::apply_maps(maps, piece, mapper).0
    };
    let rows = RecordBatch::try_new(schema.clone(), piece.rows.columns().to_vec());
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
        equal: &[(usize, ScalarValue)],
    ) -> Result<RowIterator, SqlError> {
        let own = self.own_writes.get(&collection);
        if own.is_none() && !equal.is_empty() {
            self.check_errors(collection)?;
            if let Some(found) = self.lookup(collection, equal)? {
                return Ok(rows_of(Box::new(found.into_iter().map(Ok)), columns));
            }
        }
        if let Some(reads) = &self.reads {
            reads.lock().collections.insert(collection);
        }
        let Some(own) = own else {
            return Ok(rows_of(self.deltas(collection)?, columns));
        };
        let mut all: Vec<Delta> = self.deltas(collection)?.collect::<Result<_, _>>()?;
        all.extend(own.iter().cloned());
        let Some(schema) = all.first().map(Delta::schema) else {
            return Ok(Box::new(std::iter::empty()));
        };
        let sum = tidemill_zset::consolidate::consolidate(&schema, &all);
        Ok(rows_of(Box::new(std::iter::once(Ok(sum))), columns))
    }
}

fn rows_of(deltas: DeltaIterator, columns: Option<&[usize]>) -> RowIterator {
    let columns = columns.map(<[usize]>::to_vec);
    Box::new(deltas.map(move |delta| {
        let rows = expand(&delta?)?;
        match &columns {
            None => Ok(rows),
            Some(columns) => rows
                .project(columns)
                .map_err(|e| SqlError::internal(e.to_string())),
        }
    }))
}

/// Each row as often as its diff says. A negative diff in a snapshot is a broken invariant.
pub fn expand(delta: &Delta) -> Result<RecordBatch, SqlError> {
    let Diffs::Each(diffs) = &delta.diffs else {
        return Ok(delta.rows.clone());
    };
    if diffs.iter().all(|d| *d == 1) {
        return Ok(delta.rows.clone());
    }
    let mut indices: Vec<u32> = Vec::with_capacity(diffs.len());
    for (row, diff) in diffs.iter().enumerate() {
        if *diff < 0 {
            return Err(
                SqlError::internal(format!("a row has the count {diff} in a snapshot"))
                    .detail("Some operator retracted a row that was not there."),
            );
        }
        indices.extend(std::iter::repeat_n(row as u32, *diff as usize));
    }
    compute::take_record_batch(&delta.rows, &UInt32Array::from(indices))
        .map_err(|e| SqlError::internal(e.to_string()))
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

/// The first row of a view's error relation as the error of reading the view.
pub fn row_error(view: &str, errors: &RecordBatch) -> SqlError {
    let text = |column: usize| {
        let values = errors.column(column).as_any().downcast_ref::<StringArray>();
        values
            .filter(|v| !v.is_empty())
            .map_or_else(String::new, |v| v.value(0).to_string())
    };
    SqlError::new(sqlstate(&text(0)), text(1))
        .detail(format!("The view \"{view}\" can't be computed for the row {}.", text(2)))
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

/// The error of asking for history that is no longer kept.
pub fn history_gone(at: Epoch, since: Epoch) -> SqlError {
    SqlError::new("22023", format!("time {at} is no longer readable"))
        .detail(format!("History is kept from time {since} on."))
        .hint("Ask for a later time, or keep more with WITH (retain_history = '…').")
}
