//! Rows of a collection by conditions on its columns: the arrangement that finds them without reading all others.
//!
//! A stored collection is arranged by a key (a table's PRIMARY KEY, a view's GROUP BY key, else the whole row), and
//! once more by each index on it. Where a query gives every column of a key a few values, their hashes are looked up; of
//! an index, a range of its first column can be read too. That is all that is read.
//!
//! Invariant: what is found holds every row that fulfils all conditions, and possibly others (an equal hash, a
//! condition that wasn't used): the query filters again.

use std::ops::Bound;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, UInt32Array, new_empty_array};
use arrow::compute;
use arrow::datatypes::DataType;
use datafusion_common::ScalarValue;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::Column;
use tidemill_dataflow::plan::Op;
use tidemill_planner::SqlError;
use tidemill_planner::query::{ColumnOrder, Condition};
use tidemill_storage::{ArrangementKind, ArrangementVersion, RunBatch, StoreError};
use tidemill_zset::consolidate::consolidate;
use tidemill_zset::hash::hash_columns;
use tidemill_zset::order_code::{ALL_CODES, code_range, rank_codes};
use tidemill_zset::{CollectionId, Delta, Diffs, Epoch};

use crate::catalog::{Detail, Object, Rows};
use crate::reader::{
    Contents, DeltaIterator, Snapshot, Stored, contents, key_first, shape, store_error,
};

/// More keys than this are not looked up one by one.
const LOOKUPS_MAX: usize = 4096;
/// A range that has more rows is read by a thread that may take its time. A block of each run is looked at anyhow.
const FEW_ROWS: u64 = 200_000;
/// Many ranges, as those of a lookup join's keys, may come to this part of all rows,
const FEW_SHARE: u64 = 4;
/// but not to more than these.
const FEW_ROWS_MAX: u64 = 4_000_000;
/// So many rows of a range are read, whatever order another arrangement has the rows in.
const FEW_ROWS_ELSEWHERE: u64 = 20_000;

/// An arrangement of a collection, with its key in terms of the collection's columns.
struct Access {
    version: Arc<ArrangementVersion>,
    stored: Arc<Stored>,
    key: Vec<usize>,
}

/// Values of an arrangement's key, by column.
struct Keys {
    columns: Vec<ArrayRef>,
    count: usize,
}

impl Keys {
    /// By which changes of a table's rows are noted.
    fn hashes(&self) -> Vec<u64> {
        hash_columns(&self.columns, self.count)
    }
}

/// What was found.
pub(crate) struct Found {
    /// The rows.
    pub rows: DeltaIterator,
    /// Which of their columns are wanted, unless all are.
    pub left: Option<Vec<usize>>,
}

/// What is read of an arrangement.
enum Wanted {
    /// Rows of these key hashes, ascending.
    Hashes(Vec<u64>),
    /// Rows with a key code in any of these ranges, ascending, which don't overlap.
    Ranges(Vec<(u64, u64)>),
}

impl Wanted {
    fn contains(&self, hash: u64) -> bool {
        match self {
            Wanted::Hashes(hashes) => hashes.binary_search(&hash).is_ok(),
            Wanted::Ranges(ranges) => {
                let after = ranges.partition_point(|(from, _)| *from <= hash);
                after > 0 && hash <= ranges[after - 1].1
            }
        }
    }
}

impl Snapshot {
    /// The rows of `collection` that fulfil `conditions`, and possibly others, by a key or an index; with the transaction's
    /// own writes. `None`: nothing serves the conditions, or, if only `few` rows are asked for, a range is wide. `columns`: those that
    /// are wanted.
    pub(crate) fn find_deltas(
        &self,
        collection: CollectionId,
        conditions: &[Condition],
        (columns, few): (Option<&[usize]>, bool),
    ) -> Result<Option<Found>, SqlError> {
        let Some((access, wanted)) = self.access(collection, conditions, few, true)? else {
            return Ok(None);
        };
        let Some(own) = self.own_writes.get(&collection) else {
            return access.read(&wanted, self.at, columns).map(Some);
        };
        let schema = access.stored.schema.clone();
        let Found { rows, .. } = access.read(&wanted, self.at, None)?;
        let mut all = rows.collect::<Result<Vec<Delta>, _>>()?;
        for delta in own {
            all.push(access.of_own(delta, &wanted)?);
        }
        let sum = consolidate(&schema, &all);
        Ok(Some(Found {
            rows: Box::new(std::iter::once(Ok(sum))),
            left: columns.map(<[usize]>::to_vec),
        }))
    }

    /// Where [`Snapshot::find_deltas`] finds the rows, and which; `note`: they are going to be read.
    fn access(
        &self,
        collection: CollectionId,
        conditions: &[Condition],
        few: bool,
        note: bool,
    ) -> Result<Option<(Access, Wanted)>, SqlError> {
        if conditions.is_empty() {
            return Ok(None);
        }
        self.check_errors(collection)?;
        let Contents::Stored(stored) = contents(&self.published.catalog, collection)? else {
            return Ok(None);
        };
        let reads = self.reads.as_ref().filter(|_| note);
        let mut found = None;
        let mut own = self.by_key(stored)?;
        if let Some(access) = &own
            && let Some(keys) = access.keys(conditions)?
        {
            if let Some(reads) = reads {
                let hashes = keys.hashes().into_iter();
                reads
                    .lock()
                    .keys
                    .extend(hashes.map(|hash| (collection, hash)));
            }
            let wanted = Wanted::Hashes(access.codes(&keys));
            found = own.take().map(|access| (access, wanted));
        }
        if found.is_none() {
            found = self.by_index(collection, own, conditions)?;
            if let (true, Some((access, wanted))) = (few, &found)
                && access.rows(wanted)? > access.few(wanted)
            {
                return Ok(None);
            }
            if let (Some(_), Some(reads)) = (&found, reads) {
                // Which keys of the table were looked at isn't known.
                reads.lock().collections.insert(collection);
            }
        }
        Ok(found)
    }

    /// Whether [`Snapshot::find_deltas`] would find few rows. None of them is read.
    pub(crate) fn serves(
        &self,
        collection: CollectionId,
        conditions: &[Condition],
    ) -> Result<bool, SqlError> {
        Ok(self.access(collection, conditions, true, false)?.is_some())
    }

    /// The arrangement that holds the collection, if it has a key that reaches the collection unchanged.
    fn by_key(&self, stored: Stored) -> Result<Option<Access>, SqlError> {
        let Some(version) = self.arrangement(stored.arrangement, self.at)? else {
            return Ok(None);
        };
        let desc = version.desc();
        if desc.key_columns == 0 || desc.kind == ArrangementKind::Log {
            return Ok(None);
        }
        let passed = pass_through(&stored);
        let key = (0..desc.key_columns).map(|k| passed.iter().position(|p| *p == Some(k)));
        let Some(key) = key.collect() else {
            return Ok(None);
        };
        Ok(Some(Access {
            version,
            stored: Arc::new(stored),
            key,
        }))
    }

    /// What leaves least to read, as far as the conditions tell: an index, or the collection's `own` arrangement.
    fn by_index(
        &self,
        collection: CollectionId,
        own: Option<Access>,
        conditions: &[Condition],
    ) -> Result<Option<(Access, Wanted)>, SqlError> {
        let own = own.filter(|access| access.version.desc().kind.is_ordered());
        let indexes = self.index_accesses(collection);
        let mut best: Option<(usize, Access, Wanted)> = None;
        for access in own.into_iter().chain(indexes) {
            let (cost, wanted) = match access.keys(conditions)? {
                Some(keys) => (0, Wanted::Hashes(access.codes(&keys))),
                None => match access.ranges(conditions)? {
                    Some((cost, ranges)) => (cost, Wanted::Ranges(ranges)),
                    None => continue,
                },
            };
            if best.as_ref().is_none_or(|(least, ..)| cost < *least) {
                best = Some((cost, access, wanted));
            }
        }
        Ok(best.map(|(_, access, wanted)| (access, wanted)))
    }

    /// The arrangements of the collection's indexes.
    fn index_accesses(&self, collection: CollectionId) -> impl Iterator<Item = Access> {
        let catalog = &self.published.catalog;
        let of = catalog.by_collection(collection);
        let of = of.filter(|(_, rows)| *rows == Rows::Data).into_iter();
        of.flat_map(|(object, _)| {
            let indexes = catalog.indexes_on(object.record.id);
            indexes.filter_map(|index| self.index_access(object, index))
        })
    }

    /// The arrangement of an index, unless it is younger than what is read.
    fn index_access(&self, object: &Object, index: &Object) -> Option<Access> {
        let Detail::Index { columns, .. } = &index.detail else {
            return None;
        };
        let arrangement = index.record.ids.rows?;
        let version = self.published.store.arrangement(arrangement)?;
        if self.at < version.since() && self.at < self.published.now() {
            return None;
        }
        let order = key_first(columns, object.columns.fields().len());
        let mut back = vec![0; order.len()];
        for (stored, column) in order.iter().enumerate() {
            back[*column] = stored;
        }
        Some(Access {
            version,
            stored: Arc::new(Stored {
                arrangement,
                columns: back,
                maps: vec![],
                schema: object.columns.clone(),
            }),
            key: columns.clone(),
        })
    }

    /// The rows of `collection` that fulfil `conditions`, and possibly others, as the arrangement of an index or a primary key has them in
    /// `order`. `None`: there is none, or keys and ranges of other columns leave less to read.
    pub(crate) fn in_order(
        &self,
        collection: CollectionId,
        columns: Option<&[usize]>,
        conditions: &[Condition],
        order: ColumnOrder,
    ) -> Result<Option<InOrder>, SqlError> {
        self.check_errors(collection)?;
        let Contents::Stored(stored) = contents(&self.published.catalog, collection)? else {
            return Ok(None);
        };
        let indexes = self.index_accesses(collection);
        let mut found = None;
        for access in self.by_key(stored)?.into_iter().chain(indexes) {
            if access.keys(conditions)?.is_some() {
                return Ok(None);
            }
            if !access.version.desc().kind.is_ordered() {
                continue;
            }
            let ranges = access.ranges(conditions)?.map(|(_, ranges)| ranges);
            if access.key[0] == order.column {
                found = found.or(Some((access, ranges)));
            } else if let Some(ranges) = ranges
                && access.rows(&Wanted::Ranges(ranges))? <= FEW_ROWS_ELSEWHERE
            {
                return Ok(None);
            }
        }
        let Some((access, ranges)) = found else {
            return Ok(None);
        };
        let left = match ranges.as_deref() {
            None if order.nulls => ALL_CODES,
            None => code_range(None, None),
            Some([range]) => *range,
            Some(_) => return Ok(None),
        };
        if let Some(reads) = &self.reads {
            reads.lock().collections.insert(collection);
        }
        Ok(Some(InOrder {
            access,
            at: self.at,
            columns: columns.map(<[usize]>::to_vec),
            left: Some(left),
            descending: order.descending,
            rows: (order.rows as u64).max(1),
        }))
    }
}

/// Rows of an arrangement in the order of its codes, piece by piece, each several times as long as the one before.
pub(crate) struct InOrder {
    access: Access,
    at: Epoch,
    columns: Option<Vec<usize>>,
    /// Codes that are still to be read.
    left: Option<(u64, u64)>,
    descending: bool,
    /// About how many rows the next piece has.
    rows: u64,
}

impl Iterator for InOrder {
    type Item = Result<Found, SqlError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (from, until) = self.left.take()?;
        let version = &self.access.version;
        let end = version.first_of_range((from, until), self.rows, self.descending);
        let end = match end.map_err(store_error) {
            Ok(end) => rank_codes(end),
            Err(e) => return Some(Err(e)),
        };
        // Rows of one rank are in no order, so that none of them may be in another piece.
        let piece = match self.descending {
            false => (from, end.1.min(until)),
            true => (end.0.max(from), until),
        };
        self.left = match self.descending {
            false => (piece.1 < until).then(|| (piece.1 + 1, until)),
            true => (piece.0 > from).then(|| (from, piece.0 - 1)),
        };
        self.rows = self.rows.saturating_mul(4);
        let wanted = Wanted::Ranges(vec![piece]);
        Some(self.access.read(&wanted, self.at, self.columns.as_deref()))
    }
}

impl Stored {
    /// Rows of the arrangement as rows of the collection.
    fn rows_of(&self, run: RunBatch) -> Result<Delta, SqlError> {
        let rows = run.rows.project(&self.columns).map_err(internal)?;
        let diffs = Diffs::Each(run.diffs);
        shape(Delta { rows, diffs }, &self.maps, &self.schema)
    }
}

impl Access {
    fn read(
        &self,
        wanted: &Wanted,
        at: Epoch,
        columns: Option<&[usize]>,
    ) -> Result<Found, SqlError> {
        // Columns that nobody wants aren't read.
        let mut stored = Stored::clone(&self.stored);
        let mut left = columns;
        if let Some(wanted) = columns.filter(|wanted| stored.maps.is_empty() && !wanted.is_empty())
        {
            stored = stored.only(wanted)?;
            left = None;
        }
        let mut read = stored.columns.clone();
        read.sort_unstable();
        read.dedup();
        for column in &mut stored.columns {
            *column = read.partition_point(|r| r < column);
        }
        let left = left.map(<[usize]>::to_vec);
        let version = self.version.clone();
        let ranges = match wanted {
            Wanted::Hashes(hashes) => {
                let found = version
                    .get_columns(hashes, at, &read)
                    .map_err(store_error)?;
                let rows = found.into_iter().map(|run| stored.rows_of(run));
                return Ok(Found {
                    rows: Box::new(rows.collect::<Vec<_>>().into_iter()),
                    left,
                });
            }
            Wanted::Ranges(ranges) => ranges.clone(),
        };
        // Many ranges may have rows in the same blocks.
        let runs: Box<dyn Iterator<Item = Result<RunBatch, StoreError>> + Send> =
            match ranges.len() > 1 && self.rows(wanted)? <= self.few(wanted) {
                true => {
                    let found = version.ranges_at(&ranges, at, &read).map_err(store_error)?;
                    Box::new(found.into_iter().map(Ok))
                }
                false => Box::new(ranges.into_iter().flat_map(move |range| {
                    version
                        .range_columns(at, range, &read)
                        .unwrap_or_else(|e| Box::new(std::iter::once(Err(e))))
                })),
            };
        let rows =
            move |run: Result<RunBatch, StoreError>| stored.rows_of(run.map_err(store_error)?);
        Ok(Found {
            rows: Box::new(runs.map(rows)),
            left,
        })
    }

    /// How many rows will be looked at, roughly.
    fn rows(&self, wanted: &Wanted) -> Result<u64, SqlError> {
        match wanted {
            Wanted::Hashes(_) => Ok(0),
            Wanted::Ranges(ranges) => self.version.range_rows(ranges).map_err(store_error),
        }
    }

    /// So many rows of blocks are few.
    fn few(&self, wanted: &Wanted) -> u64 {
        match wanted {
            Wanted::Ranges(ranges) if ranges.len() > 1 => {
                let share = self.version.rows_estimate() / FEW_SHARE;
                share.clamp(FEW_ROWS, FEW_ROWS_MAX)
            }
            _ => FEW_ROWS,
        }
    }

    /// All keys that the conditions allow; `None`: some column of the key is open, or they are too many.
    fn keys(&self, conditions: &[Condition]) -> Result<Option<Keys>, SqlError> {
        let mut lists: Vec<&[ScalarValue]> = Vec::with_capacity(self.key.len());
        let mut count = 1usize;
        for column in &self.key {
            let Some(values) = values_of(conditions, *column) else {
                return Ok(None);
            };
            count = count.saturating_mul(values.len());
            lists.push(values);
        }
        if count > LOOKUPS_MAX {
            return Ok(None);
        }
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(lists.len());
        // Every combination once: the values of a column repeat in blocks.
        let mut repeat = count;
        for (stored, values) in lists.iter().enumerate() {
            if count == 0 {
                columns.push(new_empty_array(self.key_type(stored)));
                continue;
            }
            let array = array_of(values, self.key_type(stored))?;
            repeat /= values.len();
            columns.push(match count {
                1 => array,
                _ => {
                    let index = (0..count).map(|i| ((i / repeat) % values.len()) as u32);
                    let index = UInt32Array::from_iter_values(index);
                    compute::take(&array, &index, None).map_err(internal)?
                }
            });
        }
        Ok(Some(Keys { columns, count }))
    }

    /// By what the arrangement finds the keys, ascending.
    fn codes(&self, keys: &Keys) -> Vec<u64> {
        let mut codes = self.version.desc().key_hashes(&keys.columns, keys.count);
        codes.sort_unstable();
        codes.dedup();
        codes
    }

    /// The ranges of codes that the conditions on the first column of an ordered key allow, and a measure of how
    /// much they leave to read.
    #[allow(clippy::type_complexity)]
    fn ranges(
        &self,
        conditions: &[Condition],
    ) -> Result<Option<(usize, Vec<(u64, u64)>)>, SqlError> {
        let first = self.key[0];
        if let Some(values) = values_of(conditions, first) {
            if values.len() > LOOKUPS_MAX {
                return Ok(None);
            }
            let mut ranges = Vec::with_capacity(values.len());
            for value in values {
                let bound = array_of(std::slice::from_ref(value), self.key_type(0))?;
                ranges.push(code_range(Some(&bound), Some(&bound)));
            }
            ranges.sort_unstable();
            // Values of one rank have the same range.
            ranges.dedup();
            return Ok(Some((1, ranges)));
        }
        let mut range = (0, u64::MAX);
        let mut bounds = 0;
        for condition in conditions.iter().filter(|c| c.column() == first) {
            let Condition::Range { low, high, .. } = condition else {
                continue;
            };
            let mut bound = |bound: &Bound<ScalarValue>| match bound {
                Bound::Unbounded => Ok(None),
                Bound::Included(v) | Bound::Excluded(v) => {
                    bounds += 1;
                    array_of(std::slice::from_ref(v), self.key_type(0)).map(Some)
                }
            };
            let (low, high) = (bound(low)?, bound(high)?);
            let (from, until) = code_range(low.as_ref(), high.as_ref());
            range = (range.0.max(from), range.1.min(until));
        }
        Ok(match bounds {
            0 => None,
            _ if range.0 > range.1 => Some((1, vec![])),
            1 => Some((3, vec![range])),
            _ => Some((2, vec![range])),
        })
    }

    /// The part of one's own writes that is wanted.
    fn of_own(&self, delta: &Delta, wanted: &Wanted) -> Result<Delta, SqlError> {
        let columns = self.key.iter().enumerate().map(|(k, column)| {
            let column = delta.rows.column(*column);
            compute::cast(column, self.key_type(k))
        });
        let columns = columns.collect::<Result<Vec<_>, _>>().map_err(internal)?;
        let hashes = self.version.desc().key_hashes(&columns, delta.len());
        let mask = hashes.iter().map(|hash| Some(wanted.contains(*hash)));
        let mask: BooleanArray = mask.collect();
        delta.filter(&mask).map_err(internal)
    }

    /// The type in which a key column is stored.
    fn key_type(&self, stored: usize) -> &DataType {
        self.version.desc().schema.field(stored).data_type()
    }
}

/// The shortest list of values that a column must have one of.
fn values_of(conditions: &[Condition], column: usize) -> Option<&[ScalarValue]> {
    let lists = conditions.iter().filter_map(|c| match c {
        Condition::OneOf { column: c, values } if *c == column => Some(values.as_slice()),
        _ => None,
    });
    lists.min_by_key(|values| values.len())
}

/// The values as an array of the stored type.
fn array_of(values: &[ScalarValue], wanted: &DataType) -> Result<ArrayRef, SqlError> {
    let array = match values {
        [one] => one.to_array(),
        many => ScalarValue::iter_to_array(many.iter().cloned()),
    };
    let array = array.map_err(|e| SqlError::internal(e.to_string()))?;
    match array.data_type() == wanted {
        true => Ok(array),
        false => compute::cast(&array, wanted).map_err(internal),
    }
}

/// For each column of the collection: the arrangement's column that it is, if it is one unchanged.
fn pass_through(stored: &Stored) -> Vec<Option<usize>> {
    let mut passed: Vec<Option<usize>> = stored.columns.iter().map(|c| Some(*c)).collect();
    for map in &stored.maps {
        let Op::Map { projection, .. } = map else {
            return vec![];
        };
        if let Some(projection) = projection {
            let column = |e: &Arc<dyn PhysicalExpr>| {
                let column = e.downcast_ref::<Column>()?;
                passed.get(column.index()).copied().flatten()
            };
            passed = projection.iter().map(column).collect();
        }
    }
    passed
}

fn internal(e: arrow::error::ArrowError) -> SqlError {
    SqlError::internal(e.to_string())
}

#[cfg(test)]
mod tests {
    use super::Wanted;

    #[test]
    fn what_is_wanted() {
        let hashes = Wanted::Hashes(vec![3, 9]);
        let ranges = Wanted::Ranges(vec![(3, 5), (9, 9)]);
        let of = |w: &Wanted| (0..12).filter(|h| w.contains(*h)).collect::<Vec<u64>>();
        assert_eq!(of(&hashes), [3, 9]);
        assert_eq!(of(&ranges), [3, 4, 5, 9]);
        assert!(of(&Wanted::Ranges(vec![])).is_empty());
    }
}
