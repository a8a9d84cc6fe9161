//! Running sources: a reader thread each, a bounded queue, and when its input is due for an epoch.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tidemill_connectors::queue::{BatchReceiver, SourceState, StopSignal, channel};
use tidemill_connectors::source::{SourceBatch, SourceSpec, open_source};
use tidemill_planner::SqlError;

use super::{Coordinator, Handle};
use crate::catalog::object::duration_ms;
use crate::catalog::{Detail, Object};

/// Longest wait of a source's input for an epoch, where `commit_interval` doesn't say.
pub const COMMIT_INTERVAL_DEFAULT: Duration = Duration::from_millis(100);
/// Rows that make an epoch due at once, where `epoch_rows_max` doesn't say.
pub const EPOCH_ROWS_MAX_DEFAULT: usize = 1_000_000;
/// Bytes of decoded input that wait per source; a full queue stops the reader.
pub const QUEUE_BYTES_MAX: usize = 64 << 20;

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
}

impl RunningSource {
    /// When its input is due for an epoch; `None`: nothing waits.
    pub fn due(&self) -> Option<Instant> {
        if self.held.is_some() {
            return Some(Instant::now());
        }
        let oldest = self.receiver.oldest()?;
        let full = self.receiver.pending_rows() >= self.pace.epoch_rows_max
            || self.receiver.pending_bytes() >= QUEUE_BYTES_MAX / 2;
        Some(if full {
            oldest
        } else {
            oldest + self.pace.commit_interval
        })
    }

    /// Batches for one epoch. A batch that retracts comes alone in front of an epoch in which `may_retract` holds.
    pub fn take(&mut self, may_retract: bool) -> Vec<SourceBatch> {
        let mut out = Vec::new();
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
        let (sender, receiver) = channel(QUEUE_BYTES_MAX, wake);
        let stop = StopSignal::new();
        let thread = {
            let stop = stop.clone();
            let (title, name) = (format!("source {name}"), name.clone());
            std::thread::Builder::new()
                .name(title)
                .spawn(move || {
                    sender.stop_with(&stop);
                    let result = source.run(sender.clone(), stop);
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
            .source_started(object.record.id, receiver.clone());
        let running = RunningSource {
            pace,
            receiver,
            stop,
            thread: Some(thread),
            held: None,
        };
        self.sources.insert(object.record.id, running);
        Ok(())
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
