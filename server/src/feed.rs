//! [`ChangeFeed`]: the published changes of one collection in order, for a subscription or a sink.
//!
//! It starts from a snapshot or from a time in the store's history, goes on from the changes in memory, and
//! falls back to history when it was too slow for them. It knows when the collection's view is in error.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use tidemill_planner::SqlError;
use tidemill_zset::consolidate::consolidate;
use tidemill_zset::{CollectionId, Delta, Epoch};
use tokio::sync::watch;

use crate::catalog::{Catalog, Detail, Rows};
use crate::changes::{Changes, EpochChanges, Follower, retractions_first};
use crate::coordinator::{Env, Following};
use crate::published::Published;
use crate::reader::{Snapshot, row_error};

/// One step of a feed.
pub enum FeedItem {
    /// All changes of one epoch, in pieces that may share an epoch only for the snapshot.
    Changes {
        /// The epoch.
        epoch: Epoch,
        /// Consolidated.
        delta: Delta,
        /// Part of the snapshot.
        snapshot: bool,
    },
    /// From this epoch on the view is in error.
    Error(Epoch, SqlError),
    /// From this epoch on it no longer is. Comes before the changes of the epoch.
    Healed(Epoch),
}

enum Start {
    Snapshot(Epoch),
    History(Epoch),
    Now,
}

/// See the module's documentation.
pub struct ChangeFeed {
    env: Arc<Env>,
    collection: CollectionId,
    /// The view's name, for errors.
    name: String,
    /// It is an object of the catalog, which may be dropped.
    in_catalog: bool,
    unique: bool,
    pinned: Option<Arc<Published>>,
    start: Start,
    rows: Option<Follower>,
    errors: Vec<Follower>,
    /// Open errors: the sum of diffs per (collection, row text).
    open: HashMap<(u64, String), i64>,
    upper: watch::Receiver<Epoch>,
    /// Everything below is given out.
    position: Epoch,
    queue: VecDeque<FeedItem>,
}

impl ChangeFeed {
    /// Collections that a feed of `collection` must follow: itself, then the error relations of its view and of
    /// all views below.
    pub fn collections(catalog: &Catalog, collection: CollectionId) -> Vec<CollectionId> {
        let mut out = vec![collection];
        let mut todo: Vec<u64> = match catalog.by_collection(collection) {
            Some((object, Rows::Data)) => vec![object.record.id],
            _ => vec![],
        };
        while let Some(id) = todo.pop() {
            let Some(object) = catalog.get(id) else {
                continue;
            };
            if let (Detail::MaterializedView { .. }, Some(errors)) =
                (&object.detail, object.record.ids.errors_collection)
            {
                out.push(errors);
            }
            todo.extend(&object.record.depends);
        }
        out
    }

    /// A feed of `collection` from now on; `following` answers [`ChangeFeed::collections`].
    pub fn new(env: &Arc<Env>, collection: CollectionId, following: Following) -> Self {
        let mut followers = following.followers.into_iter();
        let object = following.published.catalog.by_collection(collection);
        let in_catalog = object.is_some();
        let (name, unique) = match object {
            Some((object, rows)) => {
                let unique = matches!(
                    &object.detail,
                    Detail::MaterializedView {
                        unique: Some(_),
                        ..
                    }
                );
                (object.display_name(), unique && rows == Rows::Data)
            }
            None => ("subscription".into(), false),
        };
        ChangeFeed {
            env: env.clone(),
            collection,
            name,
            in_catalog,
            unique,
            position: following.published.upper,
            rows: followers.next(),
            errors: followers.collect(),
            open: HashMap::new(),
            upper: env.publisher.watch(),
            pinned: Some(following.published),
            start: Start::Now,
            queue: VecDeque::new(),
        }
    }

    /// Starts with the contents at the pinned version.
    pub fn with_snapshot(&mut self) {
        self.start = Start::Snapshot(self.position - 1);
    }

    /// Starts with the contents as of `at`, then the history after it.
    pub fn with_snapshot_at(&mut self, at: Epoch) {
        self.start = Start::Snapshot(at);
    }

    /// Starts with the changes after `epoch`, without a snapshot.
    pub fn resume_after(&mut self, epoch: Epoch) {
        self.start = Start::History(epoch);
    }

    /// Starts with the given rows as the contents at `at`, then the given changes of the epochs after it.
    pub fn with_rows(&mut self, at: Epoch, rows: Vec<Delta>, history: Vec<(Epoch, Delta)>) {
        let items = |epoch, delta, snapshot| FeedItem::Changes {
            epoch,
            delta,
            snapshot,
        };
        let rows = rows.into_iter().filter(|d| !d.is_empty());
        self.queue.extend(rows.map(|delta| items(at, delta, true)));
        let history = history.into_iter();
        self.queue
            .extend(history.map(|(epoch, delta)| items(epoch, delta, false)));
    }

    /// Everything below this epoch has been given out by [`ChangeFeed::ready`].
    pub fn position(&self) -> Epoch {
        self.position
    }

    /// The view is in error at the last item that was given out.
    pub fn in_error(&self) -> bool {
        self.open.values().any(|n| *n > 0)
    }

    /// Waits until there may be something new.
    pub async fn wait(&mut self) {
        let position = self.position;
        // The sender lives as long as the server.
        let _ = self.upper.wait_for(|upper| *upper > position).await;
    }

    /// [`ChangeFeed::ready`] will need nothing but memory.
    pub fn is_in_memory(&self) -> bool {
        let rows = self.rows.as_ref();
        let mut all = rows.into_iter().chain(&self.errors);
        self.pinned.is_none() && all.all(Follower::is_in_memory)
    }

    /// Everything that is ready, in order. Reads the store at the start and where it was too slow, which may take long.
    pub fn ready(&mut self) -> Result<Vec<FeedItem>, SqlError> {
        if let Some(pinned) = self.pinned.take() {
            self.first(&pinned)?;
            if !self.queue.is_empty() {
                return Ok(self.queue.drain(..).collect());
            }
        }
        let upper = *self.upper.borrow_and_update();
        if upper > self.position {
            self.advance(upper)?;
        }
        if self.in_catalog && self.queue.is_empty() {
            let published = self.env.publisher.pin();
            if published.catalog.by_collection(self.collection).is_none() {
                return Err(SqlError::new(
                    "42P01",
                    format!("\"{}\" was dropped", self.name),
                ));
            }
        }
        Ok(self.queue.drain(..).collect())
    }

    fn snapshot(&self, published: &Arc<Published>, at: Epoch) -> Snapshot {
        Snapshot {
            at,
            ..Snapshot::of(&self.env, published)
        }
    }

    fn first(&mut self, pinned: &Arc<Published>) -> Result<(), SqlError> {
        let now = pinned.now();
        let after = match self.start {
            Start::Now => return Ok(()),
            Start::Snapshot(at) => {
                let reader = self.snapshot(pinned, at);
                for piece in reader.deltas(self.collection)? {
                    let delta = piece?;
                    self.queue.push_back(FeedItem::Changes {
                        epoch: at,
                        delta,
                        snapshot: true,
                    });
                }
                at
            }
            Start::History(after) => after,
        };
        if after < now {
            self.past(pinned, after, now)?;
        }
        Ok(())
    }

    /// The stored history after `after` up to `now`. What came and went while the view was in error is left out: its net
    /// change comes when it has healed.
    fn past(&mut self, pinned: &Arc<Published>, after: Epoch, now: Epoch) -> Result<(), SqlError> {
        let reader = self.snapshot(pinned, now);
        let changes = stored(reader.history(self.collection, after, now)?);
        let mut errors = Vec::new();
        for follower in &self.errors {
            let collection = follower.collection();
            let kept = reader.since(collection)?.max(after);
            for piece in self.snapshot(pinned, kept).deltas(collection)? {
                errors.push((kept, collection.0, Arc::new(Changes::new(vec![piece?]))));
            }
            let history = stored(reader.history(collection, kept, now)?);
            errors.extend(history.into_iter().map(|(e, d)| (e, collection.0, d)));
        }
        let snapshot = self.queue.len();
        self.enqueue(changes, errors);
        let past = self.queue.split_off(snapshot);
        self.queue.extend(without_healed_errors(past));
        Ok(())
    }

    fn advance(&mut self, upper: Epoch) -> Result<(), SqlError> {
        let Some(rows) = &self.rows else {
            return Ok(());
        };
        let changes = self.changes_of(rows, upper)?;
        let mut errors: Vec<ErrorChanges> = Vec::new();
        for follower in &self.errors {
            let collection = follower.collection().0;
            let read = self.changes_of(follower, upper)?;
            errors.extend(read.into_iter().map(|(e, d)| (e, collection, d)));
        }
        self.enqueue(changes, errors);
        self.position = upper;
        Ok(())
    }

    /// Puts changes of the collection and of its errors into one order.
    fn enqueue(&mut self, changes: Vec<EpochChanges>, errors: Vec<ErrorChanges>) {
        let mut errors_of: BTreeMap<Epoch, Vec<ErrorChanges>> = BTreeMap::new();
        for change in errors {
            errors_of.entry(change.0).or_default().push(change);
        }
        for (epoch, deltas) in changes {
            let later = errors_of.split_off(&(epoch + 1));
            for (at, errors) in std::mem::replace(&mut errors_of, later) {
                self.note_errors(at, &errors);
            }
            let delta = deltas.sum(self.unique).clone();
            if !delta.is_empty() {
                self.queue.push_back(FeedItem::Changes {
                    epoch,
                    delta,
                    snapshot: false,
                });
            }
        }
        for (at, errors) in errors_of {
            self.note_errors(at, &errors);
        }
    }

    /// A follower's changes below `upper`, from memory or, where that has forgotten some, from the stored history.
    fn changes_of(&self, follower: &Follower, upper: Epoch) -> Result<Vec<EpochChanges>, SqlError> {
        if let Some(changes) = follower.read(upper) {
            return Ok(changes);
        }
        let position = follower.position();
        if !self.in_catalog {
            return Err(SqlError::new(
                "53400",
                "the subscription was too slow: changes of a query are kept in memory only, and not all of them fit",
            )
            .detail(format!("Everything below time {position} has been sent."))
            .hint("Resume with AS OF and SNAPSHOT = false, or subscribe to a materialized view of the query."));
        }
        let published = self.env.publisher.pin();
        let history = self.snapshot(&published, upper - 1).history(
            follower.collection(),
            position - 1,
            upper - 1,
        )?;
        follower.skip(upper);
        Ok(stored(history))
    }

    /// Notes the changes of error relations in one epoch.
    fn note_errors(&mut self, epoch: Epoch, changes: &[ErrorChanges]) {
        let before = self.in_error();
        let mut first = None;
        for (_, owner, deltas) in changes {
            for delta in deltas.iter() {
                for row in 0..delta.len() {
                    let line = delta.rows.slice(row, 1);
                    let key = (*owner, format!("{:?}", line.columns()));
                    let count = self.open.entry(key).or_insert(0);
                    *count += delta.diffs.get(row);
                    if *count > 0 {
                        first.get_or_insert(line);
                    }
                }
            }
        }
        self.open.retain(|_, n| *n != 0);
        match (before, self.in_error(), first) {
            (false, true, Some(line)) => {
                let error = row_error(&self.name, &line);
                self.queue.push_back(FeedItem::Error(epoch, error));
            }
            (true, false, _) => self.queue.push_back(FeedItem::Healed(epoch)),
            _ => {}
        }
    }
}

/// Changes of an error relation, which has this id, in one epoch.
type ErrorChanges = (Epoch, u64, Arc<Changes>);

fn stored(history: Vec<(Epoch, Delta)>) -> Vec<EpochChanges> {
    let history = history.into_iter();
    history
        .map(|(epoch, delta)| (epoch, Arc::new(Changes::new(vec![delta]))))
        .collect()
}

/// The same with one net change in place of each time in error that has ended.
fn without_healed_errors(items: VecDeque<FeedItem>) -> Vec<FeedItem> {
    let mut out: Vec<FeedItem> = Vec::new();
    let mut error_at = None;
    let mut healed: Option<(Epoch, Vec<Delta>)> = None;
    for item in items {
        if let Some((epoch, mut held)) = healed.take() {
            let of_same = matches!(&item, FeedItem::Changes { epoch: e, .. } if *e == epoch);
            match item {
                FeedItem::Changes { delta, .. } if of_same => {
                    held.push(delta);
                    out.extend(net(epoch, held));
                    continue;
                }
                _ => out.extend(net(epoch, held)),
            }
        }
        match item {
            FeedItem::Error(..) => {
                error_at = Some(out.len());
                out.push(item);
            }
            FeedItem::Healed(epoch) => {
                let since = error_at.take().unwrap_or(out.len());
                let held = out.drain(since..).filter_map(|item| match item {
                    FeedItem::Changes { delta, .. } => Some(delta),
                    _ => None,
                });
                healed = Some((epoch, held.collect()));
            }
            changes => out.push(changes),
        }
    }
    if let Some((epoch, held)) = healed {
        out.extend(net(epoch, held));
    }
    out
}

fn net(epoch: Epoch, changes: Vec<Delta>) -> Option<FeedItem> {
    let schema = changes.first()?.schema();
    let delta = retractions_first(consolidate(&schema, &changes));
    (!delta.is_empty()).then_some(FeedItem::Changes {
        epoch,
        delta,
        snapshot: false,
    })
}
