//! The types that cross the border of this crate.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::SchemaRef;
use serde::{Deserialize, Serialize};
use tidemill_zset::hash::hash_columns;
use tidemill_zset::order_code::order_codes;
use tidemill_zset::{ArrangementId, Delta, Epoch};

/// What the rows of an arrangement mean. Fixed when it is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ArrangementKind {
    /// A Z-set, sorted by key hash; merging adds the diffs of equal rows.
    Add,
    /// Key → value; the newest entry of a key wins; diff -1 is a tombstone.
    Last,
    /// An append-only sequence in the order of arrival, not sorted, without a key (all hashes are
    /// zero and not stored). Diffs may be negative (an edited file); a scan consolidates only
    /// if some diff is.
    Log,
    /// As `Add`, but sorted by a key code that follows the order of the first key column
    /// (`zset::order_code`): ranges of it are read without the rest. What is said of hashes holds for its codes.
    Ordered,
    /// As `Last`, but sorted as `Ordered`.
    OrderedLast,
}

impl ArrangementKind {
    /// The newest entry of a key wins.
    pub fn is_last(self) -> bool {
        matches!(self, ArrangementKind::Last | ArrangementKind::OrderedLast)
    }

    /// Sorted by key codes, so that ranges of the first key column can be read.
    pub fn is_ordered(self) -> bool {
        matches!(
            self,
            ArrangementKind::Ordered | ArrangementKind::OrderedLast
        )
    }
}

/// Everything that defines an arrangement; stored in the catalog when it is created.
#[derive(Clone, Debug)]
pub struct ArrangementDesc {
    /// Never reused.
    pub id: ArrangementId,
    /// Fixed for its life.
    pub kind: ArrangementKind,
    /// All columns. The first `key_columns` are the key.
    pub schema: SchemaRef,
    /// How many leading columns form the key.
    pub key_columns: usize,
}

impl ArrangementDesc {
    /// What rows with these key columns are sorted and looked up by.
    pub fn key_hashes(&self, keys: &[ArrayRef], rows: usize) -> Vec<u64> {
        match self.kind.is_ordered() {
            true => order_codes(keys, rows),
            false => hash_columns(keys, rows),
        }
    }
}

/// Rows of one arrangement, one entry per position: sorted by hash within a run (`Log`: in
/// order of arrival).
#[derive(Clone, Debug)]
pub struct RunBatch {
    /// Key hash of each row. Empty for `Log`.
    pub hashes: ScalarBuffer<u64>,
    /// Key columns, then value columns.
    pub rows: RecordBatch,
    /// `Add`, `Log`: the multiplicity. `Last`: +1 the key has this value, -1 the key is gone
    /// (value columns are NULL or arbitrary and must be ignored).
    pub diffs: ScalarBuffer<i64>,
    /// The epoch of each entry; entries at or below `since` may carry `since`.
    pub epochs: ScalarBuffer<i64>,
}

/// The changes of one arrangement in one epoch, from one worker. Not sorted; the store sorts.
/// `Last`: at most one entry per key and epoch over all changes of the commit.
#[derive(Clone, Debug)]
pub struct ArrangementChange {
    /// Whose.
    pub arrangement: ArrangementId,
    /// Key hash of each row; empty means: compute it (`Log`: always empty).
    pub hashes: Vec<u64>,
    /// Rows and diffs, meaning as in [`RunBatch`].
    pub delta: Delta,
}

/// One atomic step. Everything in it becomes durable together or not at all.
#[derive(Default, Debug)]
pub struct Commit {
    /// The epoch; greater than every epoch committed before.
    pub epoch: Epoch,
    /// Upper bound up to which the clock may run ahead without another commit (durable
    /// reservation); at least `epoch + 1`. After a restart no epoch below it is ever used.
    pub reserved_upper: Epoch,
    /// Catalog rows: key, new value or `None` to delete.
    pub catalog: Vec<(String, Option<serde_json::Value>)>,
    /// Source offsets: (source, offset key), new value or `None` to delete.
    pub offsets: Vec<OffsetChange>,
    /// Arrangements to register before `changes` apply.
    pub create: Vec<ArrangementDesc>,
    /// Arrangements to forget; their keys and files go.
    pub drop: Vec<ArrangementId>,
    /// State changes of this epoch.
    pub changes: Vec<ArrangementChange>,
    /// Runs staged beforehand with [`Store::stage`] (a backfill) that become visible now.
    pub staged: Vec<StagedRun>,
    /// New `since` per arrangement: history below it may be compacted. Never moves back.
    pub since: Vec<(ArrangementId, Epoch)>,
    /// Where the history of an arrangement begins, also after a restart: before that its rows were elsewhere, or it wasn't there.
    /// Its `since` moves there at once.
    pub begins: Vec<(ArrangementId, Epoch)>,
}

/// One change of one source's offsets. A source has many small offset entries (one per file, per
/// Kafka partition), so that a commit writes only those that moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetChange {
    /// The source's collection id, or any number the caller keeps apart.
    pub source: u64,
    /// The connector's own key, e.g. a file identity.
    pub key: Vec<u8>,
    /// The connector's own value; `None` deletes.
    pub value: Option<Vec<u8>>,
}

/// A run written outside a commit; becomes visible when a [`Commit`] names it, and is swept at
/// the next opening if none does.
#[derive(Clone, Debug)]
pub struct StagedRun(pub(crate) Arc<dyn std::any::Any + Send + Sync>);

/// What went wrong, by who must act.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The user gave a wrong directory or wrong options; the message says which and what to do.
    #[error("{0}")]
    Usage(String),
    /// Another process holds the directory.
    #[error("the data directory {0} is in use by another process")]
    Locked(String),
    /// A file or key can't be read back as written. Names file, place and what was expected.
    #[error("{what} is damaged: {detail}")]
    Corrupt {
        /// The file or key.
        what: String,
        /// Place and expectation.
        detail: String,
    },
    /// The operating system refused.
    #[error("{context}: {source}")]
    Io {
        /// What was being done to which file.
        context: String,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// sled refused.
    #[error("{context}: {source}")]
    Sled {
        /// What was being done.
        context: String,
        /// sled's error.
        #[source]
        source: sled::Error,
    },
}

impl StoreError {
    /// The system had no room for what was to be written: nothing is damaged.
    pub fn is_out_of_space(&self) -> bool {
        use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        let error = match self {
            StoreError::Io { source, .. } => source,
            StoreError::Sled {
                source: sled::Error::Io(source),
                ..
            } => source,
            _ => return false,
        };
        matches!(error.kind(), StorageFull | FileTooLarge | QuotaExceeded)
    }
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, StoreError>;
