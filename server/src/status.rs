//! What is going on right now, for the relations of schema `tidemill`: counters of sources, states of sinks, commits.
//!
//! Counters start at zero with the process; what is durable is read from the store.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use parking_lot::Mutex;
use tidemill_connectors::queue::BatchReceiver;
use tidemill_zset::Epoch;

use crate::catalog::record::SinkProgress;

/// A source's counters.
#[derive(Clone, Default)]
pub struct SourceCounters {
    /// Rows committed.
    pub rows: u64,
    /// Error rows likewise.
    pub errors: u64,
    /// Input bytes decoded for them.
    pub bytes: u64,
    /// Batches of epochs that aren't published yet: rows, bytes, and since when they wait, oldest first.
    pub under_way: VecDeque<(usize, u64, Instant)>,
    /// Its queue; absent if it could not be opened.
    pub receiver: Option<Arc<BatchReceiver>>,
    /// Epochs take its input; until somebody reads it, they don't.
    pub begun: bool,
    /// Why it could not be opened.
    pub failure: Option<String>,
}

/// A sink's state.
#[derive(Clone, Debug, Default)]
pub struct SinkState {
    /// `running`, `paused` (its view is in error), `stalled` (it needs help).
    pub state: &'static str,
    /// Why.
    pub reason: Option<String>,
    /// Everything up to this epoch is in the file, as far as there was anything.
    pub epoch: Option<Epoch>,
    /// Bytes in the file.
    pub length: Option<u64>,
}

/// How far a build is.
#[derive(Debug)]
pub struct BuildProgress {
    /// What is built.
    pub kind: &'static str,
    /// Schema and name, unless it is a subscription's query.
    pub name: Option<(String, String)>,
    /// When it began.
    pub started: Instant,
    /// Rows of its inputs that have been taken in, later changes of them included.
    pub rows: AtomicU64,
    /// About how many rows the inputs had when it began.
    pub rows_expected: u64,
}

/// All of it.
#[derive(Default)]
pub struct Status {
    builds: Mutex<BTreeMap<u64, Arc<BuildProgress>>>,
    sources: Mutex<BTreeMap<u64, SourceCounters>>,
    sinks: Mutex<BTreeMap<u64, SinkState>>,
    epochs: AtomicU64,
    last_epoch: AtomicI64,
    failure: OnceLock<String>,
}

impl Status {
    /// The process is about to end, because something is broken.
    pub fn server_failed(&self, reason: String) {
        let _ = self.failure.set(reason);
    }

    /// Why the process is about to end.
    pub fn server_failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    /// A build begins. `id`: of its dataflow.
    pub fn build_started(&self, id: u64, progress: Arc<BuildProgress>) {
        self.builds.lock().insert(id, progress);
    }

    /// A build has joined, or failed.
    pub fn build_ended(&self, id: u64) {
        self.builds.lock().remove(&id);
    }

    /// The builds that are under way, in the order in which they began.
    pub fn builds(&self) -> Vec<Arc<BuildProgress>> {
        self.builds.lock().values().cloned().collect()
    }

    /// A source's reader runs.
    pub fn source_started(&self, id: u64, receiver: Arc<BatchReceiver>, begun: bool) {
        let mut sources = self.sources.lock();
        let counters = sources.entry(id).or_default();
        counters.receiver = Some(receiver);
        counters.begun = begun;
        counters.failure = None;
    }

    /// Somebody reads a source.
    pub fn source_begun(&self, id: u64) {
        self.sources.lock().entry(id).or_default().begun = true;
    }

    /// A source can't be opened.
    pub fn source_failed(&self, id: u64, reason: String) {
        self.sources.lock().entry(id).or_default().failure = Some(reason);
    }

    /// A batch was taken into an epoch; the oldest has waited `since` then.
    pub fn source_taken(&self, id: u64, rows: usize, bytes: u64, since: Instant) {
        let mut sources = self.sources.lock();
        let counters = sources.entry(id).or_default();
        counters.under_way.push_back((rows, bytes, since));
    }

    /// The oldest batch that was taken and not published yet is published.
    pub fn source_progress(&self, id: u64, rows: usize, errors: usize, bytes: u64) {
        let mut sources = self.sources.lock();
        let counters = sources.entry(id).or_default();
        counters.under_way.pop_front();
        counters.rows += rows as u64;
        counters.errors += errors as u64;
        counters.bytes += bytes;
    }

    /// A source was dropped.
    pub fn source_gone(&self, id: u64) {
        self.sources.lock().remove(&id);
    }

    /// A source's counters.
    pub fn source(&self, id: u64) -> SourceCounters {
        self.sources.lock().get(&id).cloned().unwrap_or_default()
    }

    /// A sink's writer runs.
    pub fn sink_started(&self, id: u64) {
        let mut sinks = self.sinks.lock();
        let sink = sinks.entry(id).or_default();
        sink.state = "running";
        sink.reason = None;
    }

    /// A sink has written and synced.
    pub fn sink_progress(&self, id: u64, progress: &SinkProgress) {
        let mut sinks = self.sinks.lock();
        let sink = sinks.entry(id).or_default();
        sink.epoch = sink.epoch.max(Some(progress.epoch));
        sink.length = Some(progress.length);
    }

    /// There is nothing to write for a sink up to `epoch`.
    pub fn sink_caught_up(&self, id: u64, epoch: Epoch) {
        let mut sinks = self.sinks.lock();
        let sink = sinks.entry(id).or_default();
        // Before its first report it has no file to speak of.
        sink.epoch = sink.epoch.map(|e| e.max(epoch));
    }

    /// A sink's view is in error.
    pub fn sink_paused(&self, id: u64, reason: String) {
        let mut sinks = self.sinks.lock();
        let sink = sinks.entry(id).or_default();
        sink.state = "paused";
        sink.reason = Some(reason);
    }

    /// A sink can't go on.
    pub fn sink_failed(&self, id: u64, reason: String) {
        let mut sinks = self.sinks.lock();
        let sink = sinks.entry(id).or_default();
        sink.state = "stalled";
        sink.reason = Some(reason);
    }

    /// A sink was dropped.
    pub fn sink_gone(&self, id: u64) {
        self.sinks.lock().remove(&id);
    }

    /// A sink's state.
    pub fn sink(&self, id: u64) -> SinkState {
        self.sinks.lock().get(&id).cloned().unwrap_or_default()
    }

    /// An epoch was published.
    pub fn published(&self, epoch: Epoch) {
        self.epochs.fetch_add(1, Ordering::Relaxed);
        self.last_epoch.store(epoch, Ordering::Relaxed);
    }

    /// Epochs published since the start, and the last one.
    pub fn epochs(&self) -> (u64, Epoch) {
        (
            self.epochs.load(Ordering::Relaxed),
            self.last_epoch.load(Ordering::Relaxed),
        )
    }
}
