//! Running sources: a reader thread each, a bounded queue, and when its input is due for an epoch.
//!
//! A source whose rows aren't recorded *begins* when somebody first reads it: a view, a subscription or a SELECT of
//! its rows or errors. Until then its reader fills a small queue and waits, no epoch takes anything of it, and its
//! offsets stay. So the first view doesn't have to read again what nobody had wanted.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tidemill_connectors::ConnectorError;
use tidemill_connectors::queue::{BatchReceiver, SourceState, StopSignal, channel};
use tidemill_connectors::source::{SourceBatch, SourceSpec, Wanted, open_source};
use tidemill_planner::SqlError;
use tidemill_zset::CollectionId;
use tokio::sync::oneshot;

use super::{Coordinator, Handle};
use crate::catalog::object::duration_ms;
use crate::catalog::{Detail, Object};

/// Longest wait of a source's input for an epoch, where `commit_interval` doesn't say.
pub const COMMIT_INTERVAL_DEFAULT: Duration = Duration::from_millis(100);
/// Rows that make an epoch due at once, where `epoch_rows_max` doesn't say.
pub const EPOCH_ROWS_MAX_DEFAULT: usize = 1_000_000;
/// Bytes of decoded input that wait per source; a full queue stops the reader.
pub const QUEUE_BYTES_MAX: usize = 64 << 20;
/// Full epochs of decoded input that wait per source. More would only take memory, and be in no cache when their turn comes.
const EPOCHS_AHEAD_MAX: usize = 2;
/// Nothing is left out of rows for so long after the reader had to start again for a new view: more views may follow.
const WHOLE_AFTER_RESTART: Duration = Duration::from_secs(10);
/// Bytes before a source begins.
const UNREAD_BYTES_MAX: usize = 8 << 20;

/// Options of every source that the coordinator, not the connector, understands.
pub const PACE_OPTIONS: [&str; 3] = ["commit_interval", "epoch_rows_max", "persistent_id"];

/// When a source's input becomes an epoch.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Longest wait of a batch.
    pub commit_interval: Duration,
    /// Rows of this source in one epoch at the most; as many waiting make an epoch due.
    pub epoch_rows_max: usize,
}

impl Pace {
    /// Reads the options.
    pub fn parse(options: &tidemill_planner::ast::Options) -> Result<Pace, SqlError> {
        let commit_interval = match options.get("commit_interval") {
            None => COMMIT_INTERVAL_DEFAULT,
            Some(text) => {
                Duration::from_millis(duration_ms("commit_interval", text)?.max(0) as u64)
            }
        };
        let epoch_rows_max = match options.get("epoch_rows_max") {
            None => EPOCH_ROWS_MAX_DEFAULT,
            Some(text) => text.trim().parse().ok().filter(|n| *n > 0).ok_or_else(|| {
                SqlError::new(
                    "22023",
                    format!("invalid value for option \"epoch_rows_max\": \"{text}\""),
                )
                .hint("Write a number of rows, at least 1.")
            })?,
        };
        Ok(Pace {
            commit_interval,
            epoch_rows_max,
        })
    }
}

/// A source whose reader runs.
pub struct RunningSource {
    pace: Pace,
    receiver: Arc<BatchReceiver>,
    stop: StopSignal,
    thread: Option<JoinHandle<()>>,
    /// A batch that retracts recorded rows and waits until nothing is being committed.
    held: Option<SourceBatch>,
    /// Somebody reads it, or its rows are recorded.
    begun: bool,
    /// Somebody waits for its first rows.
    awaited: bool,
    /// Batches in epochs that aren't published yet.
    in_flight: usize,
    /// Something of it has been published since it was started.
    published: bool,
    /// Its rows are to be whole until then.
    whole_until: Option<Instant>,
}

/// A reader that waits until all these sources have something to show, or nothing to give.
pub struct Awaited {
    sources: Vec<u64>,
    reply: oneshot::Sender<Result<(), SqlError>>,
}

impl RunningSource {
    /// When its input is due for an epoch, which takes `epoch_takes`; `None`: nothing waits. The epoch should be published
    /// when the oldest batch has waited for the commit interval, so it begins earlier, but not before half of that.
    pub fn due(&self, epoch_takes: Duration) -> Option<Instant> {
        if !self.begun {
            return None;
        }
        if self.held.is_some() {
            // Not the time decides, but the end of the commit.
            return None;
        }
        let oldest = self.receiver.oldest()?;
        if self.awaited {
            let all = self.receiver.status().state != SourceState::Running;
            let wait = self.pace.commit_interval.min(COMMIT_INTERVAL_DEFAULT);
            return Some(if all { oldest } else { oldest + wait });
        }
        let full = self.is_full();
        let interval = self.pace.commit_interval;
        Some(if full {
            oldest
        } else {
            oldest + interval - epoch_takes.min(interval / 2)
        })
    }

    /// An epoch's worth of input waits.
    fn is_full(&self) -> bool {
        self.receiver.pending_rows() >= self.pace.epoch_rows_max
            || self.receiver.pending_bytes() >= QUEUE_BYTES_MAX / 2
    }

    /// An epoch takes as much of it as it may, and more is likely to follow.
    pub fn is_behind(&self) -> bool {
        self.begun && self.is_full()
    }

    /// A batch of it waits for the end of the commit that is under way.
    pub fn holds_retraction(&self) -> bool {
        self.held.is_some()
    }

    /// Since when its oldest batch waits.
    pub fn oldest(&self) -> Option<Instant> {
        self.receiver.oldest()
    }

    /// Batches for one epoch. A batch that retracts comes alone in front of an epoch in which `may_retract` holds.
    pub fn take(&mut self, may_retract: bool) -> Vec<SourceBatch> {
        let mut out = Vec::new();
        if !self.begun {
            return out;
        }
        if let Some(held) = self.held.take() {
            if !may_retract {
                self.held = Some(held);
                return out;
            }
            out.push(held);
            return out;
        }
        for batch in self.receiver.take(self.pace.epoch_rows_max) {
            // Batches after a held one of the same take stay in order behind it only if it is the last:
            // so a retracting batch ends what is taken, unless it is the first and may go.
            if batch.retract.is_empty() || (may_retract && out.is_empty()) {
                out.push(batch);
            } else {
                self.held = Some(batch);
            }
        }
        out
    }

    /// See [`BatchReceiver::want`].
    pub fn want(&self, wanted: Option<Wanted>) -> bool {
        self.receiver.want(wanted)
    }

    /// Whether columns that nobody reads now may be left out.
    pub fn may_leave_out(&self) -> bool {
        self.begun && self.whole_until.is_none_or(|t| t <= Instant::now())
    }

    /// Epochs take its input from now on.
    fn begin(&mut self) {
        if !self.begun {
            self.begun = true;
            self.receiver.set_bytes_max(QUEUE_BYTES_MAX);
        }
    }

    /// Its first rows can be seen, or there are none for now.
    fn has_shown(&self) -> bool {
        let nothing_waits =
            self.in_flight == 0 && self.held.is_none() && self.receiver.is_empty_and_idle();
        self.published || nothing_waits
    }

    /// Ends the reader and waits for it.
    pub fn stop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            // The reader's panic, if any, was reported when it happened.
            let _ = thread.join();
        }
    }
}

impl Drop for RunningSource {
    fn drop(&mut self) {
        self.stop.stop();
    }
}

/// What the connector needs to know of a source.
pub fn source_spec(object: &Object) -> Option<SourceSpec> {
    let Detail::Source {
        options,
        persistent_id,
        ..
    } = &object.detail
    else {
        return None;
    };
    let mut options = options.clone();
    // `epoch_rows_max` stays: the reader cuts its batches so that epochs of that size are exact.
    options.remove("commit_interval");
    options.remove("persistent_id");
    Some(SourceSpec {
        name: object.display_name(),
        schema: object.columns.clone(),
        options,
        recorded: persistent_id.is_some(),
    })
}

impl Coordinator {
    /// Starts a source's reader at its committed offsets.
    pub(super) fn start_source(&mut self, object: &Object) -> Result<(), String> {
        let name = object.display_name();
        let (Detail::Source { options, .. }, Some(spec), Some(offsets)) = (
            &object.detail,
            source_spec(object),
            object.record.ids.offsets,
        ) else {
            return Err(format!("{name} is not a source"));
        };
        let pace = Pace::parse(options).map_err(|e| e.to_string())?;
        let offsets = self.env.store.offsets(offsets).map_err(|e| e.to_string())?;
        let ids = &object.record.ids;
        let mut collections = ids.collection.iter().chain(&ids.errors_collection);
        let begun = ids.rows.is_some()
            || !offsets.is_empty()
            || collections.any(|c| self.read_by_dataflows.contains_key(c));
        let source = match open_source(spec, offsets) {
            Ok(source) => source,
            Err(e) => {
                tracing::warn!(source = %name, error = %e, "the source can't be opened");
                self.env
                    .status
                    .source_failed(object.record.id, e.to_string());
                return Ok(());
            }
        };
        let wake = waker(self.handle.clone());
        let bytes_max = if begun {
            QUEUE_BYTES_MAX
        } else {
            UNREAD_BYTES_MAX
        };
        let (sender, receiver) = channel(bytes_max, wake);
        receiver.set_rows_max(pace.epoch_rows_max.saturating_mul(EPOCHS_AHEAD_MAX));
        let stop = StopSignal::new();
        let thread = {
            let stop = stop.clone();
            let (title, name) = (format!("source {name}"), name.clone());
            std::thread::Builder::new()
                .name(title)
                .spawn(move || {
                    sender.stop_with(&stop);
                    let run = AssertUnwindSafe(|| source.run(sender.clone(), stop));
                    let result = std::panic::catch_unwind(run).unwrap_or_else(|_| {
                        let failed = "its reader has failed, by a defect that the log tells of";
                        Err(ConnectorError::Io(failed.into()))
                    });
                    if let Err(e) = &result {
                        tracing::warn!(source = %name, error = %e, "the source has stopped");
                    }
                    sender.ended(&result);
                })
                .map_err(|e| format!("no thread for a source: {e}"))?
        };
        let receiver = Arc::new(receiver);
        self.env
            .status
            .source_started(object.record.id, receiver.clone(), begun);
        let running = RunningSource {
            pace,
            receiver,
            stop,
            thread: Some(thread),
            held: None,
            begun,
            awaited: false,
            in_flight: 0,
            published: false,
            whole_until: None,
        };
        self.sources.insert(object.record.id, running);
        Ok(())
    }

    /// Starts a source's reader again, where the last epoch ended. Nothing is under way. The old one isn't waited for, as it may be
    /// waiting for a disk: it ends by itself, and nobody takes what it still reads.
    pub(super) fn restart_source(&mut self, object: &Object) {
        let id = object.record.id;
        let Some(old) = self.sources.remove(&id) else {
            return;
        };
        if let Err(e) = self.start_source(object) {
            self.failure = Some(e);
        }
        if old.begun {
            self.begin_source(id);
        }
        if let Some(source) = self.sources.get_mut(&id) {
            source.awaited = old.awaited;
            source.published = old.published;
            source.whole_until = Some(Instant::now() + WHOLE_AFTER_RESTART);
        }
    }

    /// `collection` is being read; if it is a source's, rows or errors, the source begins.
    pub(super) fn begin_source_of(&mut self, collection: CollectionId) {
        let object = self.catalog.by_collection(collection);
        if let Some(id) = object.map(|(o, _)| o.record.id) {
            self.begin_source(id);
        }
    }

    fn begin_source(&mut self, id: u64) {
        if let Some(source) = self.sources.get_mut(&id) {
            source.begin();
            self.env.status.source_begun(id);
        }
    }

    /// Somebody is about to read these sources.
    pub(super) fn on_read(
        &mut self,
        sources: Vec<u64>,
        reply: oneshot::Sender<Result<(), SqlError>>,
    ) {
        for id in &sources {
            self.begin_source(*id);
            if let Some(source) = self.sources.get_mut(id) {
                source.awaited = !source.published;
            }
        }
        self.awaited.push(Awaited { sources, reply });
    }

    /// Answers those whose sources have something to show by now.
    pub(super) fn answer_awaited(&mut self) {
        let sources = &self.sources;
        let shown = |id: &u64| sources.get(id).is_none_or(RunningSource::has_shown);
        let waiting = |a: &mut Awaited| !a.reply.is_closed() && !a.sources.iter().all(shown);
        for awaited in self.awaited.extract_if(.., |a| !waiting(a)) {
            // Whoever asked may have given up.
            let _ = awaited.reply.send(Ok(()));
        }
    }

    /// A batch of the source has been taken into an epoch.
    pub(super) fn source_taken(&mut self, id: u64) {
        if let Some(source) = self.sources.get_mut(&id) {
            source.in_flight += 1;
        }
    }

    /// A batch of the source has been published.
    pub(super) fn source_published(&mut self, id: u64) {
        if let Some(source) = self.sources.get_mut(&id) {
            source.in_flight -= 1;
            source.published = true;
            source.awaited = false;
        }
    }

    /// Ends a source's reader; what it had read but not committed is forgotten.
    pub(super) fn stop_source(&mut self, id: u64) {
        if let Some(mut source) = self.sources.remove(&id) {
            source.stop();
        }
        self.env.status.source_gone(id);
    }
}

fn waker(handle: Handle) -> Arc<dyn Fn() + Send + Sync> {
    Arc::new(move || handle.wake())
}

/// The state of a source in a word and the reason, for `tidemill.sources`.
pub fn state_words(state: &SourceState) -> (&'static str, Option<String>) {
    match state {
        SourceState::Running => ("running", None),
        SourceState::Waiting(what) => ("waiting", Some(what.clone())),
        SourceState::Failed(why) => ("failed", Some(why.clone())),
        SourceState::Finished => ("finished", None),
    }
}
