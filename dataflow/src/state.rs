//! How operators reach the committed part of their arrangements.
//!
//! An operator's in-memory index is a cache. What it doesn't hold, it reads from the newest
//! committed version through [`StateReader`]; what it changed in epochs that aren't committed
//! yet it must keep in memory until [`StateReader::epoch`] has reached them.

use std::sync::Arc;

use tidemill_storage::{ArrangementDesc, RunBatch, StoreError};
use tidemill_zset::{ArrangementId, Epoch};

/// What a [`StateReader`] reads, one batch after the other.
pub type Batches = Box<dyn Iterator<Item = tidemill_storage::Result<RunBatch>>>;

/// Reads one arrangement. Cheap to share between threads.
pub trait StateReader: Send + Sync {
    /// The last committed epoch that a read sees.
    fn epoch(&self) -> Epoch;

    /// True if the committed arrangement is known to hold nothing: a miss in memory is a miss.
    fn is_empty(&self) -> bool;

    /// Entries for the sorted, unique `hashes`; see `ArrangementVersion::get_many`.
    fn get_many(&self, hashes: &[u64]) -> tidemill_storage::Result<Vec<RunBatch>>;

    /// An upper bound of the number of entries.
    fn rows_estimate(&self) -> u64;

    /// Entries with a hash in `from..=until`, in order of their hashes; see `ArrangementVersion::range_batches`.
    fn range(&self, hashes: (u64, u64)) -> tidemill_storage::Result<Batches>;
}

/// Ends the worker, and so the process, because committed state can't be read. The fault is the medium's, not ours: no
/// panic handler reports it, only the message that the server ends with.
pub(crate) fn unreadable(id: ArrangementId, e: &StoreError) -> ! {
    std::panic::resume_unwind(Box::new(Unreadable {
        id,
        damaged: matches!(e, StoreError::Corrupt { .. }),
        message: format!("the state of arrangement {id} can't be read: {e}"),
    }))
}

/// What a worker ends with whose state can't be read.
#[derive(Clone, Debug)]
pub struct Unreadable {
    /// The arrangement.
    pub id: ArrangementId,
    /// Its rows are damaged; otherwise it may be readable at another time.
    pub damaged: bool,
    /// What happened.
    pub message: String,
}

/// An arrangement that an operator owns: its description and how to read it.
#[derive(Clone)]
pub struct StateHandle {
    /// Id, kind and columns.
    pub desc: ArrangementDesc,
    /// `None`: the dataflow isn't durable (a subscription's query), all state is in memory, and
    /// operators report no changes of it.
    pub reader: Option<Arc<dyn StateReader>>,
}
