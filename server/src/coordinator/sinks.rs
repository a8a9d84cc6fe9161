//! Running sinks: a thread each (`sink_writer`) that writes a collection's published changes to a file, exactly once.
//!
//! The thread writes an epoch, syncs the file, and then reports (epoch, length), which rides in the next commit.
//! After a crash the file is cut to the committed length and the epochs after it are written again
//! from the store's history, which `since` holds back for it.
//!
//! A sink that can't write is *stalled*: it tries again, and history is held for it, but no longer than its `history_max`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tidemill_connectors::sink::{FileSink, Mark, SinkFormat};
use tidemill_planner::SqlError;
use tidemill_zset::Epoch;
use tokio::sync::watch;

use super::sink_writer::{Opened, Writer};
use super::{Coordinator, Following};
use crate::catalog::object::duration_ms;
use crate::catalog::record::{SinkProgress, put, sink_key};
use crate::catalog::{Catalog, Detail, Object};
use crate::changes::Follower;
use crate::feed::ChangeFeed;

/// How long the history that a stalled sink needs is kept, where `history_max` doesn't say.
const HISTORY_MAX_DEFAULT: Duration = Duration::from_secs(24 * 60 * 60);

/// A sink whose writer runs.
pub struct RunningSink {
    /// The object it follows.
    pub from: u64,
    /// Last epoch whose progress is known here; history after it must be kept.
    pub written: Epoch,
    /// How long it is kept while the sink is stalled.
    history_max: Duration,
    signals: Arc<Signals>,
    wake: watch::Sender<()>,
    thread: Option<JoinHandle<()>>,
}

/// What a sink's writer and the coordinator tell each other.
#[derive(Default)]
pub struct Signals {
    /// The writer shall end.
    pub stop: AtomicBool,
    /// It shall report how far it is, even if nothing has changed.
    pub report: AtomicBool,
    /// Since when it can't write.
    pub stalled_since: Mutex<Option<Instant>>,
    /// No history is held for it any more.
    pub released: AtomicBool,
}

impl RunningSink {
    /// It writes.
    pub fn is_running(&self) -> bool {
        let alive = self.thread.as_ref().is_some_and(|t| !t.is_finished());
        alive && self.signals.stalled_since.lock().is_none()
    }

    /// History from [`RunningSink::written`] on is held for it.
    pub fn holds_history(&self) -> bool {
        !self.signals.released.load(Ordering::Acquire)
    }

    /// Has the writer report the last complete epoch once everything up to that is in the file.
    pub fn report(&self) {
        self.signals.report.store(true, Ordering::Release);
        self.wake.send_replace(());
    }

    fn ask_to_stop(&self) {
        self.signals.stop.store(true, Ordering::Release);
        self.wake.send_replace(());
    }

    /// Ends the writer after the epoch it is writing.
    pub fn stop(mut self) {
        self.ask_to_stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The options of a sink that are the connector's, and for how long history is held for it.
fn split_options(
    options: &BTreeMap<String, String>,
) -> Result<(BTreeMap<String, String>, Duration), SqlError> {
    let mut options = options.clone();
    let history_max = match options.remove("history_max") {
        None => HISTORY_MAX_DEFAULT,
        Some(text) => Duration::from_millis(duration_ms("history_max", &text)?.max(0) as u64),
    };
    Ok((options, history_max))
}

/// Opens a sink's file as its options say.
pub fn open_file(
    options: &BTreeMap<String, String>,
    object: &Object,
    resume: Option<Mark>,
) -> Result<FileSink, SqlError> {
    let (options, _) = split_options(options)?;
    if options.get("connector").map(String::as_str) != Some("files") {
        return Err(
            SqlError::new("22023", "a sink needs the option connector = 'files'")
                .hint("Write WITH (connector = 'files', path = '…', format = 'jsonl' | 'csv')."),
        );
    }
    let (path, format) = SinkFormat::parse(&options).map_err(connector_error)?;
    format
        .check_columns(&object.columns)
        .map_err(connector_error)?;
    FileSink::open(&path, format, object.columns.clone(), resume).map_err(connector_error)
}

/// A connector's error as a client sees it.
pub fn connector_error(e: tidemill_connectors::ConnectorError) -> SqlError {
    use tidemill_connectors::ConnectorError::*;
    match e {
        Option { message, hint } => SqlError::new("22023", message).hint(hint),
        Refused { message, hint } => SqlError::new("55000", message).hint(hint),
        Io(message) => SqlError::new("58030", message),
    }
}

impl Coordinator {
    /// Follows what a new sink will, until its writer does: by the time that the sink's epoch is published the next one may have been computed,
    /// and what nobody follows then is dropped.
    pub(super) fn follow_for_sink(&mut self, sink: &Object, catalog: &Catalog) -> Vec<Follower> {
        let Detail::Sink { from, .. } = &sink.detail else {
            return vec![];
        };
        let from = catalog.get(*from).and_then(|o| o.record.ids.collection);
        let Some(collection) = from else {
            return vec![];
        };
        let upper = self.env.publisher.pin().upper;
        self.demand(collection);
        let all = ChangeFeed::collections(catalog, collection).into_iter();
        all.map(|c| self.follow(c, upper)).collect()
    }

    /// Starts a sink's writer. `file` is open when the sink is new; after a restart the writer resumes it.
    pub(super) fn start_sink(
        &mut self,
        sink: &Object,
        file: Option<FileSink>,
        progress: Option<SinkProgress>,
    ) {
        let Detail::Sink { from, options } = &sink.detail else {
            return;
        };
        let Some(object) = self.catalog.get(*from).cloned() else {
            return;
        };
        let id = sink.record.id;
        let name = sink.display_name();
        let history_max = split_options(options).map_or(HISTORY_MAX_DEFAULT, |(_, max)| max);
        let collection = object
            .record
            .ids
            .collection
            .expect("a sink follows a collection");
        let published = self.env.publisher.pin();
        self.demand(collection);
        let followers = ChangeFeed::collections(&published.catalog, collection)
            .into_iter()
            .map(|c| self.env.changes.follow(c, published.upper))
            .collect();
        let following = Following {
            published: published.clone(),
            followers,
        };
        let written = progress.as_ref().map_or(published.now(), |p| p.epoch);
        let signals = Arc::new(Signals::default());
        let (wake, woken) = watch::channel(());
        let writer = Writer {
            id,
            name: name.clone(),
            options: options.clone(),
            object,
            collection,
            handle: self.handle.clone(),
            signals: signals.clone(),
            woken,
            progress,
        };
        self.env.status.sink_started(id);
        let opened = Opened { file, following };
        let status = self.env.status.clone();
        let run = move || {
            let written = std::panic::AssertUnwindSafe(|| writer.run(opened));
            if std::panic::catch_unwind(written).is_err() {
                let reason = "an internal error, see the server's log; it goes on when the server is started again";
                status.sink_failed(id, reason.into());
            }
        };
        let thread = std::thread::Builder::new()
            .name(format!("sink {name}"))
            .spawn(run);
        match thread {
            Ok(thread) => {
                let sink = RunningSink {
                    from: *from,
                    written,
                    history_max,
                    signals,
                    wake,
                    thread: Some(thread),
                };
                self.sinks.insert(id, sink);
            }
            Err(e) => self.failure = Some(format!("no thread for the sink {name}: {e}")),
        }
    }

    /// Stops holding history for sinks that have been stalled for too long.
    pub(super) fn release_stalled_sinks(&self) {
        for (id, sink) in &self.sinks {
            let since = *sink.signals.stalled_since.lock();
            if since.is_none_or(|t| t.elapsed() < sink.history_max) || !sink.holds_history() {
                continue;
            }
            sink.signals.released.store(true, Ordering::Release);
            sink.ask_to_stop();
            let reason = self.env.status.sink(*id).reason.unwrap_or_default();
            let reason = format!(
                "{reason}; it could not write for longer than its history_max, so the history that it needs is no longer \
                 kept: drop the sink and create it anew"
            );
            let object = self.catalog.get(*id);
            let name = object.map(|o| o.display_name()).unwrap_or_default();
            tracing::error!(sink = %name, %reason, "the sink is given up");
            self.env.status.sink_failed(*id, reason);
        }
    }

    pub(super) fn on_sink_progress(&mut self, id: u64, progress: SinkProgress) {
        let Some(sink) = self.sinks.get_mut(&id) else {
            return;
        };
        sink.written = progress.epoch;
        self.env.status.sink_progress(id, &progress);
        let change = put(sink_key(id), &progress);
        self.riding.retain(|(key, _)| *key != change.0);
        self.riding.push(change);
        self.riding_since
            .get_or_insert_with(std::time::Instant::now);
    }
}
