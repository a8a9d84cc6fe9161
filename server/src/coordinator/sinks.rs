//! Running sinks: a thread each that writes a collection's published changes to a file, exactly once.
//!
//! The thread writes an epoch, syncs the file, and then reports (epoch, length), which rides in the next commit.
//! After a crash the file is cut to the committed length and the epochs after it are written again
//! from the store's history, which `since` holds back for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use tidemill_connectors::sink::{FileSink, SinkFormat};
use tidemill_planner::SqlError;
use tidemill_zset::consolidate::consolidate;
use tidemill_zset::{CollectionId, Delta, Epoch};
use tokio::sync::watch;

use super::{Coordinator, Following, Handle, Message};
use crate::catalog::record::{SinkProgress, put, sink_key};
use crate::catalog::{Detail, Object};
use crate::feed::{ChangeFeed, FeedItem};

/// A sink whose writer runs.
pub struct RunningSink {
    /// The object it follows.
    pub from: u64,
    /// Last epoch whose progress is known here; history after it must be kept.
    pub written: Epoch,
    stop: Arc<AtomicBool>,
    /// It shall report how far it is, even if nothing has changed.
    report: Arc<AtomicBool>,
    wake: watch::Sender<()>,
    thread: Option<JoinHandle<()>>,
}

impl RunningSink {
    /// It writes; false also once it has stalled.
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|t| !t.is_finished())
    }

    /// Has the writer report the last complete epoch once everything up to that is in the file.
    pub fn report(&self) {
        self.report.store(true, Ordering::Release);
        self.wake.send_replace(());
    }

    /// Ends the writer after the epoch it is writing.
    pub fn stop(mut self) {
        self.stop.store(true, Ordering::Release);
        self.wake.send_replace(());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Opens a sink's file as its options say.
pub fn open_file(
    options: &BTreeMap<String, String>,
    object: &Object,
    resume: Option<u64>,
) -> Result<FileSink, SqlError> {
    let options = options.clone();
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
    /// Starts a sink's writer. `file` is open when the sink is new; after a restart it is resumed here.
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
        let file = match file {
            Some(file) => Ok(file),
            None => open_file(
                options,
                &object,
                Some(progress.as_ref().map_or(0, |p| p.length)),
            ),
        };
        let file = match file {
            Ok(file) => file,
            Err(e) => {
                tracing::error!(sink = %name, error = %e, "the sink's file can't be opened; the sink is stalled");
                self.env.status.sink_failed(id, e.to_string());
                // History is held for it: it goes on where it stopped once the file is back and the server restarts.
                if let Some(progress) = progress {
                    self.sinks
                        .insert(id, RunningSink::idle(*from, progress.epoch));
                }
                return;
            }
        };
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
        let start = progress.as_ref().map(|p| p.epoch);
        let stop = Arc::new(AtomicBool::new(false));
        let report = Arc::new(AtomicBool::new(false));
        let (wake, woken) = watch::channel(());
        let writer = Writer {
            id,
            name: name.clone(),
            file,
            handle: self.handle.clone(),
            stop: stop.clone(),
            report: report.clone(),
            woken,
        };
        let thread = std::thread::Builder::new()
            .name(format!("sink {name}"))
            .spawn(move || writer.run(collection, following, start));
        match thread {
            Ok(thread) => {
                let written = start.unwrap_or(published.now());
                self.env.status.sink_started(id);
                self.sinks.insert(
                    id,
                    RunningSink {
                        from: *from,
                        written,
                        stop,
                        report,
                        wake,
                        thread: Some(thread),
                    },
                );
            }
            Err(e) => self.failure = Some(format!("no thread for the sink {name}: {e}")),
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

impl RunningSink {
    fn idle(from: u64, written: Epoch) -> Self {
        let (wake, _) = watch::channel(());
        RunningSink {
            from,
            written,
            stop: Arc::new(AtomicBool::new(false)),
            report: Arc::new(AtomicBool::new(false)),
            wake,
            thread: None,
        }
    }
}

struct Writer {
    id: u64,
    name: String,
    file: FileSink,
    handle: Handle,
    stop: Arc<AtomicBool>,
    report: Arc<AtomicBool>,
    woken: watch::Receiver<()>,
}

impl Writer {
    fn run(mut self, collection: CollectionId, following: Following, start: Option<Epoch>) {
        let tokio = self.handle.env.tokio.clone();
        let mut feed = ChangeFeed::new(&self.handle.env, collection, following);
        match start {
            Some(epoch) => feed.resume_after(epoch),
            None => feed.with_snapshot(),
        }
        // While the view is in error the sink pauses; the net change goes out when it heals.
        let mut paused: Vec<Delta> = Vec::new();
        loop {
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            let items = match feed.ready() {
                Ok(items) => items,
                Err(e) => return self.stall(e.to_string()),
            };
            if items.is_empty() {
                if paused.is_empty() && !feed.in_error() {
                    let epoch = feed.position() - 1;
                    self.handle.env.status.sink_caught_up(self.id, epoch);
                    if self.report.swap(false, Ordering::AcqRel)
                        && let Err(e) = self.progress(epoch)
                    {
                        return self.stall(e);
                    }
                }
                let woken = &mut self.woken;
                tokio.block_on(async {
                    tokio::select! { _ = feed.wait() => {}, _ = woken.changed() => {} }
                });
                continue;
            }
            if let Err(e) = self.write(&mut feed, items, &mut paused) {
                return self.stall(e);
            }
        }
    }

    fn write(
        &mut self,
        feed: &mut ChangeFeed,
        items: Vec<FeedItem>,
        paused: &mut Vec<Delta>,
    ) -> Result<(), String> {
        let mut last = None;
        for item in items {
            match item {
                FeedItem::Changes { epoch, delta, .. } => {
                    if feed.in_error() {
                        paused.push(delta);
                        continue;
                    }
                    let delta = if paused.is_empty() {
                        delta
                    } else {
                        paused.push(delta);
                        consolidate(&paused[0].schema(), &std::mem::take(paused))
                    };
                    self.handle.env.fail.pass("sink_write");
                    self.file.write(epoch, &delta).map_err(|e| e.to_string())?;
                    last = Some(epoch);
                }
                FeedItem::Error(e) => {
                    tracing::warn!(sink = %self.name, error = %e, "the view is in error; the sink waits");
                    self.handle.env.status.sink_paused(self.id, e.to_string());
                }
                FeedItem::Healed => self.handle.env.status.sink_started(self.id),
            }
        }
        last.map_or(Ok(()), |epoch| self.progress(epoch))
    }

    /// Everything up to `epoch` is written: syncs it, and says so.
    fn progress(&mut self, epoch: Epoch) -> Result<(), String> {
        let length = self.file.sync().map_err(|e| e.to_string())?;
        let progress = SinkProgress { epoch, length };
        self.handle.send(Message::SinkProgress(self.id, progress));
        Ok(())
    }

    fn stall(&self, reason: String) {
        tracing::error!(sink = %self.name, error = %reason, "the sink is stalled");
        self.handle.env.status.sink_failed(self.id, reason);
    }
}
