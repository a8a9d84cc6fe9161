//! The thread of a sink: follows a collection and writes its changes to a file; what fails is tried again.
//!
//! Invariant: progress is reported only of what is synced. A second attempt goes on at the last report and takes the changes
//! after it from history; those that the file has already stay there, so it holds each change once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tidemill_connectors::sink::{FileSink, Mark};
use tidemill_planner::SqlError;
use tidemill_zset::consolidate::consolidate;
use tidemill_zset::{CollectionId, Delta, Epoch};
use tokio::sync::watch;

use super::sinks::{Signals, open_file};
use super::{Following, Handle, Message};
use crate::backlog::hold;
use crate::catalog::Object;
use crate::catalog::record::SinkProgress;
use crate::changes::retractions_first;
use crate::feed::{ChangeFeed, FeedItem};
use crate::reader::is_history_gone;

/// How long a stalled sink waits before it tries again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What a writer starts with; without a file it opens its own.
pub(super) struct Opened {
    pub file: Option<FileSink>,
    pub following: Following,
}

/// See the module's documentation.
pub(super) struct Writer {
    pub id: u64,
    pub name: String,
    pub options: BTreeMap<String, String>,
    /// What it follows.
    pub object: Arc<Object>,
    pub collection: CollectionId,
    pub handle: Handle,
    pub signals: Arc<Signals>,
    pub woken: watch::Receiver<()>,
    /// The last report.
    pub progress: Option<SinkProgress>,
}

/// Why a writer stopped writing.
enum Stall {
    /// It may work again later.
    Retry(String),
    /// It needs history that isn't there any more.
    TooLate(String),
}

/// A writer at work.
struct Work {
    file: FileSink,
    feed: ChangeFeed,
    in_error: bool,
    /// While the view is in error the sink pauses; the net change goes out when it heals.
    paused: Vec<Delta>,
    /// When it has healed, until the changes of that epoch have come.
    healed: Option<Epoch>,
}

impl Writer {
    pub(super) fn run(mut self, opened: Opened) {
        let mut opened = Some(opened);
        while !self.is_stopped() {
            let result = match opened.take().map_or_else(|| self.follow(), |o| Ok(Some(o))) {
                Ok(Some(opened)) => self.write_all(opened),
                Ok(None) => return,
                Err(e) => Err(Stall::Retry(e.to_string())),
            };
            let reason = match result {
                Ok(()) => return,
                Err(Stall::Retry(reason)) => reason,
                Err(Stall::TooLate(reason)) => {
                    let reason = format!("{reason}; drop the sink and create it anew");
                    self.signals.released.store(true, Ordering::Release);
                    self.stalled(reason);
                    return;
                }
            };
            self.stalled(reason);
            let woken = &mut self.woken;
            self.handle.env.tokio.clone().block_on(async {
                tokio::select! { _ = tokio::time::sleep(RETRY_AFTER) => {}, _ = woken.changed() => {} }
            });
        }
    }

    /// It was told to end, or nobody is left to tell it.
    fn is_stopped(&self) -> bool {
        self.signals.stop.load(Ordering::Acquire) || self.woken.has_changed().is_err()
    }

    fn stalled(&self, reason: String) {
        let mut since = self.signals.stalled_since.lock();
        if since.is_none() {
            tracing::error!(sink = %self.name, error = %reason, "the sink is stalled");
            *since = Some(Instant::now());
        }
        if self.is_stopped() {
            return;
        }
        self.handle.env.status.sink_failed(self.id, reason);
    }

    /// It works: whatever was wrong isn't any more.
    fn works(&self) {
        if self.signals.stalled_since.lock().take().is_some() {
            tracing::info!(sink = %self.name, "the sink goes on");
            self.handle.env.status.sink_started(self.id);
        }
    }

    /// Follows the collection anew; `None` if the writer was stopped meanwhile.
    fn follow(&mut self) -> Result<Option<Opened>, SqlError> {
        let handle = self.handle.clone();
        let published = handle.env.publisher.pin();
        let collections = ChangeFeed::collections(&published.catalog, self.collection);
        let (signals, woken) = (self.signals.clone(), &mut self.woken);
        let following = handle.env.tokio.block_on(async {
            let mut asked = std::pin::pin!(handle.ask(|reply| Message::Follow(collections, reply)));
            loop {
                // Who stops this writer waits for it, and may be the one that would answer.
                tokio::select! {
                    following = &mut asked => return following.map(Some),
                    changed = woken.changed() => {
                        if changed.is_err() || signals.stop.load(Ordering::Acquire) {
                            return Ok(None);
                        }
                    }
                }
            }
        })?;
        Ok(following.map(|following| Opened {
            file: None,
            following,
        }))
    }

    /// Writes until it is stopped.
    fn write_all(&mut self, opened: Opened) -> Result<(), Stall> {
        let retry = |e: SqlError| Stall::Retry(e.to_string());
        let file = match opened.file {
            Some(file) => file,
            // A new sink's file is its own, and empty as long as nothing was reported.
            None => {
                let progress = self.progress.as_ref();
                let mark = progress.map_or(Mark::default(), SinkProgress::mark);
                open_file(&self.options, &self.object, Some(mark)).map_err(retry)?
            }
        };
        let mut feed = ChangeFeed::new(&self.handle.env, self.collection, opened.following);
        match &self.progress {
            Some(progress) => feed.resume_after(progress.epoch),
            None => feed.with_snapshot(),
        }
        let mut work = Work {
            file,
            feed,
            in_error: false,
            paused: Vec::new(),
            healed: None,
        };
        while !self.is_stopped() {
            let items = work.feed.ready().map_err(|e| match is_history_gone(&e) {
                true => Stall::TooLate(e.to_string()),
                false => Stall::Retry(e.to_string()),
            })?;
            if !items.is_empty() {
                self.write(&mut work, items).map_err(Stall::Retry)?;
                continue;
            }
            if !work.in_error {
                let settled = work.file.caught_up();
                settled.map_err(|e| Stall::Retry(e.to_string()))?;
                self.works();
                let epoch = work.feed.position() - 1;
                self.handle.env.status.sink_caught_up(self.id, epoch);
                if self.signals.report.swap(false, Ordering::AcqRel) {
                    self.report(&mut work.file, epoch).map_err(Stall::Retry)?;
                }
            }
            let (feed, woken) = (&mut work.feed, &mut self.woken);
            self.handle.env.tokio.clone().block_on(async {
                tokio::select! { _ = feed.wait() => {}, _ = woken.changed() => {} }
            });
        }
        Ok(())
    }

    fn write(&mut self, work: &mut Work, items: Vec<FeedItem>) -> Result<(), String> {
        let mut last = None;
        for item in items {
            match item {
                FeedItem::Changes { delta, .. } if work.in_error => hold(&mut work.paused, delta),
                // Of a snapshot nothing is reported before it is there as a whole.
                FeedItem::Changes {
                    epoch,
                    delta,
                    snapshot: true,
                } => self.write_epoch(work, epoch, &delta)?,
                FeedItem::Complete(_) if work.in_error => {}
                FeedItem::Complete(epoch) => last = Some(epoch),
                FeedItem::Changes { epoch, delta, .. } => {
                    if work.healed.is_some_and(|healed| healed < epoch) {
                        self.write_paused(work)?;
                    }
                    work.healed = None;
                    work.paused.push(delta);
                    let delta = sum(&mut work.paused);
                    self.write_epoch(work, epoch, &delta)?;
                    last = Some(epoch);
                }
                FeedItem::Error(_, e) => {
                    last = self.write_paused(work)?.or(last);
                    work.in_error = true;
                    tracing::warn!(sink = %self.name, error = %e, "the view is in error; the sink waits");
                    self.handle.env.status.sink_paused(self.id, e.to_string());
                }
                FeedItem::Healed(epoch) => {
                    work.in_error = false;
                    work.healed = Some(epoch);
                    self.handle.env.status.sink_started(self.id);
                }
            }
        }
        last = self.write_paused(work)?.or(last);
        last.map_or(Ok(()), |epoch| self.report(&mut work.file, epoch))
    }

    /// Writes what came while the view was in error, if that is over and hasn't been written; gives its epoch.
    fn write_paused(&mut self, work: &mut Work) -> Result<Option<Epoch>, String> {
        let Some(epoch) = work.healed.take().filter(|_| !work.paused.is_empty()) else {
            return Ok(None);
        };
        let delta = sum(&mut work.paused);
        self.write_epoch(work, epoch, &delta)?;
        Ok(Some(epoch))
    }

    fn write_epoch(&self, work: &mut Work, epoch: Epoch, delta: &Delta) -> Result<(), String> {
        self.handle.env.fail.pass("sink_write");
        work.file.write(epoch, delta).map_err(|e| e.to_string())
    }

    /// Everything up to `epoch` is written: syncs it, and says so.
    fn report(&mut self, file: &mut FileSink, epoch: Epoch) -> Result<(), String> {
        let Mark { length, tail } = file.sync().map_err(|e| e.to_string())?;
        self.works();
        let progress = SinkProgress {
            epoch,
            length,
            tail,
        };
        self.progress = Some(progress.clone());
        self.handle.send(Message::SinkProgress(self.id, progress));
        Ok(())
    }
}

/// Empties it, which it isn't yet.
fn sum(paused: &mut Vec<Delta>) -> Delta {
    if paused.len() == 1 {
        return paused.remove(0);
    }
    let schema = paused[0].schema();
    retractions_first(consolidate(&schema, &std::mem::take(paused)))
}
