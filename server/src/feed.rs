//! [`ChangeFeed`]: the published changes of one collection in order, for a subscription or a sink.
//!
//! It starts from a snapshot or from a time in the store's history, goes on from the changes in memory, and
//! falls back to history when it was too slow for them. It knows when the collection's view is in error.
//! Contents and history are read in parts ([`Backlog`]): what a feed holds doesn't grow with how far it is behind.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use tidemill_planner::SqlError;
use tidemill_zset::{CollectionId, Delta, Epoch};
use tokio::sync::watch;

use crate::backlog::{Backlog, Marks};
use crate::catalog::{Catalog, Detail, Rows};
use crate::changes::{Changes, EpochChanges, Follower};
use crate::coordinator::alter::altered;
use crate::coordinator::drop::dropped;
use crate::coordinator::{Env, Following};
use crate::published::Published;
use crate::reader::{DeltaIterator, Snapshot, row_error};

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
    /// All pieces of the snapshot as of this epoch have been given out, and there were some.
    Complete(Epoch),
}

enum Start {
    Snapshot(Epoch),
    History(Epoch),
    Given(Given),
    Now,
}

/// The contents of a query at some time, if they are wanted, and its changes of the epochs after it.
struct Given {
    at: Epoch,
    rows: Option<Vec<Delta>>,
    history: Vec<(Epoch, Delta)>,
}

/// The contents that a feed starts with, as they are read.
struct SnapshotParts {
    at: Epoch,
    pieces: DeltaIterator,
    any: bool,
}

/// See the module's documentation.
pub struct ChangeFeed {
    env: Arc<Env>,
    collection: CollectionId,
    /// The view's name, for errors.
    name: String,
    /// It is a collection of the catalog, which may be dropped.
    in_catalog: bool,
    /// The object that it is of.
    object: Option<u64>,
    unique: bool,
    pinned: Option<Arc<Published>>,
    start: Start,
    contents: Option<SnapshotParts>,
    backlog: Option<Backlog>,
    rows: Option<Follower>,
    errors: Vec<Follower>,
    /// The views whose error relations are among these.
    views: HashMap<u64, String>,
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
        if let Some((object, Rows::Data)) = catalog.by_collection(collection) {
            out.extend(ChangeFeed::errors(catalog, vec![object.record.id]));
        }
        out
    }

    /// The error relations of those of these objects that are views, and of all views below.
    pub fn errors(catalog: &Catalog, objects: Vec<u64>) -> Vec<CollectionId> {
        let mut out = vec![];
        let mut todo = objects;
        while let Some(id) = todo.pop() {
            let Some(object) = catalog.get(id) else {
                continue;
            };
            if let (Detail::MaterializedView { .. }, Some(errors)) =
                (&object.detail, object.record.ids.errors_collection)
            {
                if out.contains(&errors) {
                    continue;
                }
                out.push(errors);
            }
            todo.extend(&object.record.depends);
        }
        out
    }

    /// A feed of `collection` from now on; `following` answers [`ChangeFeed::collections`], or follows the rows of a query, then its errors and those of the views
    /// below it.
    pub fn new(env: &Arc<Env>, collection: CollectionId, following: Following) -> Self {
        let mut followers = following.followers.into_iter();
        let object = following.published.catalog.by_collection(collection);
        let in_catalog = object.is_some();
        let id = object.map(|(object, _)| object.record.id);
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
        let rows = followers.next();
        let errors: Vec<Follower> = followers.collect();
        let catalog = &following.published.catalog;
        let view = |errors: &Follower| {
            let (view, _) = catalog.by_collection(errors.collection())?;
            Some((errors.collection().0, view.display_name()))
        };
        ChangeFeed {
            env: env.clone(),
            collection,
            name,
            in_catalog,
            object: id,
            unique,
            position: following.published.upper,
            rows,
            views: errors.iter().filter_map(view).collect(),
            errors,
            open: HashMap::new(),
            upper: env.publisher.watch(),
            pinned: Some(following.published),
            start: Start::Now,
            contents: None,
            backlog: None,
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

    /// Starts with the given rows as the contents at `at`, if they are wanted, then the given changes of the epochs after it.
    pub fn with_rows(&mut self, at: Epoch, rows: Option<Vec<Delta>>, history: Vec<(Epoch, Delta)>) {
        self.start = Start::Given(Given { at, rows, history });
    }

    /// Everything below this epoch has been given out by [`ChangeFeed::ready`].
    pub fn position(&self) -> Epoch {
        self.position
    }

    /// The view is in error, as far as its error relations have been read.
    fn in_error(&self) -> bool {
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
        let stored = self.pinned.is_some() || self.contents.is_some() || self.backlog.is_some();
        !stored && all.all(Follower::is_in_memory)
    }

    /// What is ready, in order; nothing if that is all. Reads the store at the start and where it was too slow, which may take long:
    /// a part at a time.
    pub fn ready(&mut self) -> Result<Vec<FeedItem>, SqlError> {
        if let Some(pinned) = self.pinned.take() {
            self.begin(&pinned)?;
        }
        if self.queue.is_empty() {
            self.read_contents()?;
        }
        if self.queue.is_empty() {
            self.read_backlog()?;
        }
        let upper = *self.upper.borrow_and_update();
        if self.queue.is_empty() && upper > self.position {
            self.advance(upper)?;
            self.read_backlog()?;
        }
        if self.in_catalog && self.queue.is_empty() {
            let published = self.env.publisher.pin();
            if published.catalog.by_collection(self.collection).is_none() {
                return Err(match self.object.and_then(|id| published.catalog.get(id)) {
                    Some(_) => altered(&self.name),
                    None => dropped(&self.name),
                });
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

    /// Prepares what comes before the changes from now on.
    fn begin(&mut self, pinned: &Arc<Published>) -> Result<(), SqlError> {
        let (after, with_contents) = match std::mem::replace(&mut self.start, Start::Now) {
            Start::Now => return Ok(()),
            Start::Given(given) => return self.begin_with(given, pinned),
            Start::Snapshot(at) => (at, true),
            Start::History(after) => (after, false),
        };
        let mut errors = self.stored_errors(pinned, after)?;
        self.position = after + 1;
        if with_contents {
            let at = after;
            self.position = at;
            let pieces = self.snapshot(pinned, at).deltas_in_error(self.collection)?;
            let any = false;
            self.contents = Some(SnapshotParts { at, pieces, any });
            // What was in error then is told before the contents.
            let then;
            (then, errors) = errors.into_iter().partition(|(epoch, ..)| *epoch <= at);
            let marks = self.error_marks(then);
            self.queue.extend(marks);
        }
        self.start_backlog(pinned, after, errors)
    }

    fn begin_with(&mut self, given: Given, pinned: &Arc<Published>) -> Result<(), SqlError> {
        let Given { at, rows, history } = given;
        let mut errors = self.stored_errors(pinned, at)?;
        if let Some(rows) = rows {
            // There are no contents of a time in error.
            let then;
            (then, errors) = errors.into_iter().partition(|(epoch, ..)| *epoch <= at);
            let marks = self.error_marks(then);
            self.queue.extend(marks);
            let rows = rows.into_iter().filter(|d| !d.is_empty());
            self.queue.extend(rows.map(|delta| FeedItem::Changes {
                epoch: at,
                delta,
                snapshot: true,
            }));
        }
        let mut marks = Marks::new(self.error_marks(errors));
        let mut out = Vec::new();
        for (epoch, delta) in history {
            marks.add(epoch, delta, &mut out);
        }
        marks.end(pinned.now(), &mut out);
        self.queue.extend(out);
        Ok(())
    }

    /// What the store has of the error relations after `after`, up to `pinned`; first what was open then, or when it begins to know.
    fn stored_errors(
        &self,
        pinned: &Arc<Published>,
        after: Epoch,
    ) -> Result<Vec<ErrorChanges>, SqlError> {
        let mut errors = Vec::new();
        let reader = Snapshot::of(&self.env, pinned);
        for follower in &self.errors {
            let collection = follower.collection();
            // A query's own errors aren't stored: it had none when it was built.
            if pinned.catalog.by_collection(collection).is_none() {
                continue;
            }
            let kept = reader.since(collection)?.max(after);
            for piece in self.snapshot(pinned, kept).deltas(collection)? {
                errors.push((kept, collection.0, Arc::new(Changes::new(vec![piece?]))));
            }
            let history = stored(reader.history(collection, kept, pinned.now())?);
            errors.extend(history.into_iter().map(|(e, d)| (e, collection.0, d)));
        }
        Ok(errors)
    }

    /// Goes on with the stored changes after `after` up to `pinned`.
    fn start_backlog(
        &mut self,
        pinned: &Arc<Published>,
        after: Epoch,
        errors: Vec<ErrorChanges>,
    ) -> Result<(), SqlError> {
        let marks = self.error_marks(errors);
        if after >= pinned.now() {
            self.queue.extend(marks);
            return Ok(());
        }
        let reader = Snapshot::of(&self.env, pinned);
        self.backlog = Some(Backlog::new(reader, self.collection, after, marks)?);
        Ok(())
    }

    /// Reads a part of the contents that it starts with, if there is one left.
    fn read_contents(&mut self) -> Result<(), SqlError> {
        let Some(contents) = &mut self.contents else {
            return Ok(());
        };
        let at = contents.at;
        if let Some(piece) = contents.pieces.next() {
            contents.any = true;
            self.queue.push_back(FeedItem::Changes {
                epoch: at,
                delta: piece?,
                snapshot: true,
            });
            return Ok(());
        }
        if contents.any {
            self.queue.push_back(FeedItem::Complete(at));
        }
        self.contents = None;
        self.position = at + 1;
        Ok(())
    }

    /// Reads parts of the backlog until one gives something.
    fn read_backlog(&mut self) -> Result<(), SqlError> {
        while let (true, Some(backlog)) = (self.queue.is_empty(), &mut self.backlog) {
            self.queue.extend(backlog.next_part()?);
            self.position = backlog.after() + 1;
            if backlog.is_done() {
                self.backlog = None;
            }
        }
        Ok(())
    }

    /// Takes the changes below `upper` from memory; where that has forgotten some, they become a backlog.
    fn advance(&mut self, upper: Epoch) -> Result<(), SqlError> {
        let Some(rows) = &self.rows else {
            return Ok(());
        };
        let changes = rows.read(upper);
        let mut errors: Option<Vec<ErrorChanges>> = Some(Vec::new());
        for follower in &self.errors {
            let collection = follower.collection().0;
            match (follower.read(upper), &mut errors) {
                (Some(read), Some(errors)) => {
                    errors.extend(read.into_iter().map(|(e, d)| (e, collection, d)));
                }
                _ => errors = None,
            }
        }
        if let (Some(changes), Some(errors)) = (changes, errors) {
            self.enqueue(changes, errors);
            self.position = upper;
            return Ok(());
        }
        self.fall_back(upper)
    }

    /// Goes on from the stored history, having been too slow for the changes in memory.
    fn fall_back(&mut self, upper: Epoch) -> Result<(), SqlError> {
        let position = self.position;
        if !self.in_catalog {
            return Err(SqlError::new(
                "53400",
                "the subscription was too slow: changes of a query are kept in memory only, and not all of them fit",
            )
            .detail(format!("Everything below time {position} has been sent."))
            .hint("Resume with AS OF and SNAPSHOT = false, or subscribe to a materialized view of the query."));
        }
        let published = self.env.publisher.pin();
        let upper = published.upper.max(upper);
        let reader = Snapshot::of(&self.env, &published);
        let mut errors = Vec::new();
        for follower in &self.errors {
            let collection = follower.collection();
            let history = stored(reader.history(collection, position - 1, upper - 1)?);
            errors.extend(history.into_iter().map(|(e, d)| (e, collection.0, d)));
        }
        self.start_backlog(&published, position - 1, errors)?;
        for follower in self.rows.iter().chain(&self.errors) {
            follower.skip(upper);
        }
        Ok(())
    }

    /// Puts changes of the collection and of its errors into one order.
    fn enqueue(&mut self, changes: Vec<EpochChanges>, errors: Vec<ErrorChanges>) {
        let mut marks = VecDeque::from(self.error_marks(errors));
        let up_to = |marks: &mut VecDeque<FeedItem>, epoch: Epoch| {
            marks.pop_front_if(|mark| {
                matches!(mark, FeedItem::Error(at, _) | FeedItem::Healed(at) if *at <= epoch)
            })
        };
        for (epoch, deltas) in changes {
            while let Some(mark) = up_to(&mut marks, epoch) {
                self.queue.push_back(mark);
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
        self.queue.extend(marks);
    }

    /// When the view begins and ceases to be in error by these changes of error relations.
    fn error_marks(&mut self, errors: Vec<ErrorChanges>) -> Vec<FeedItem> {
        let mut by_epoch: BTreeMap<Epoch, Vec<ErrorChanges>> = BTreeMap::new();
        for change in errors {
            by_epoch.entry(change.0).or_default().push(change);
        }
        let by_epoch = by_epoch.into_iter();
        by_epoch
            .filter_map(|(at, errors)| self.note_errors(at, &errors))
            .collect()
    }

    /// Notes the changes of error relations in one epoch.
    fn note_errors(&mut self, epoch: Epoch, changes: &[ErrorChanges]) -> Option<FeedItem> {
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
                        first.get_or_insert((*owner, line));
                    }
                }
            }
        }
        self.open.retain(|_, n| *n != 0);
        match (before, self.in_error(), first) {
            (false, true, Some((owner, line))) => {
                let view = self.views.get(&owner).map(String::as_str);
                Some(FeedItem::Error(epoch, row_error(view, &line)))
            }
            (true, false, _) => Some(FeedItem::Healed(epoch)),
            _ => None,
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
