//! [`Backlog`]: stored changes that a feed gives out part by part, so that a follower that is far behind holds little of them.
//!
//! It pins the version that it reads. Times in which the view was in error and that are over are told as one net change,
//! at the epoch in which the view healed.

use std::collections::VecDeque;

use tidemill_planner::SqlError;
use tidemill_zset::consolidate::consolidate;
use tidemill_zset::{CollectionId, Delta, Epoch};

use crate::changes::retractions_first;
use crate::feed::FeedItem;
use crate::reader::Snapshot;

/// Bytes of one part as they are stored; decoded they take a few times that.
const PART_BYTES_MAX: usize = 8 << 20;
/// Deltas that are held before they are added up.
const HELD_MAX: usize = 256;

/// See the module's documentation.
pub struct Backlog {
    reader: Snapshot,
    collection: CollectionId,
    /// Everything up to this epoch has been given out.
    after: Epoch,
    /// The last epoch of each part to come.
    cuts: VecDeque<Epoch>,
    marks: Marks,
}

/// Puts a view's changes and its times in error into one order. A time in error that is over is one net change.
pub struct Marks {
    marks: VecDeque<Mark>,
    /// Changes of a time in error that ends at this epoch.
    held: Option<(Epoch, Vec<Delta>)>,
}

/// What becomes of the view, between its changes.
enum Mark {
    /// In error from this epoch to the end.
    Error(Epoch, SqlError),
    /// In error until this epoch, from before the start.
    Healed(Epoch),
    /// In error from one epoch until another.
    Passed(Epoch, Epoch),
}

impl Mark {
    fn epoch(&self) -> Epoch {
        let (Mark::Error(epoch, _) | Mark::Healed(epoch) | Mark::Passed(epoch, _)) = self;
        *epoch
    }
}

impl Backlog {
    /// The changes of `collection` in the epochs after `after` up to that of `reader`. `errors`: when the view began and ceased to
    /// be in error, in order.
    pub fn new(
        reader: Snapshot,
        collection: CollectionId,
        after: Epoch,
        errors: Vec<FeedItem>,
    ) -> Result<Self, SqlError> {
        let cuts = reader.history_cuts(collection, after, PART_BYTES_MAX)?;
        Ok(Backlog {
            reader,
            collection,
            after,
            cuts: cuts.into(),
            marks: Marks::new(errors),
        })
    }

    /// Everything up to this epoch has been given out.
    pub fn after(&self) -> Epoch {
        self.after
    }

    /// Nothing is left.
    pub fn is_done(&self) -> bool {
        self.cuts.is_empty()
    }

    /// The next part.
    pub fn next_part(&mut self) -> Result<Vec<FeedItem>, SqlError> {
        let Some(until) = self.cuts.pop_front() else {
            return Ok(vec![]);
        };
        let mut out = Vec::new();
        let history = self.reader.history(self.collection, self.after, until)?;
        for (epoch, delta) in history {
            self.marks.add(epoch, delta, &mut out);
        }
        self.marks.end(until, &mut out);
        self.after = until;
        tracing::debug!(collection = %self.collection, until, items = out.len(), "a part of a backlog");
        Ok(out)
    }
}

impl Marks {
    /// `errors`: when the view began and ceased to be in error, in order.
    pub fn new(errors: Vec<FeedItem>) -> Marks {
        let mut errors = errors.into_iter().peekable();
        let mut marks = VecDeque::new();
        while let Some(item) = errors.next() {
            marks.push_back(match (item, errors.peek()) {
                (FeedItem::Error(from, _), Some(FeedItem::Healed(to))) => {
                    let passed = Mark::Passed(from, *to);
                    errors.next();
                    passed
                }
                (FeedItem::Error(from, e), _) => Mark::Error(from, e),
                (FeedItem::Healed(at), _) => Mark::Healed(at),
                _ => continue,
            });
        }
        Marks { marks, held: None }
    }

    /// The changes of an epoch, with what comes before them; those of a time in error are held back.
    pub fn add(&mut self, epoch: Epoch, delta: Delta, out: &mut Vec<FeedItem>) {
        self.pass_marks(epoch, out);
        match &mut self.held {
            Some((_, held)) => hold(held, delta),
            None => out.extend(changes(epoch, retractions_first(delta))),
        }
    }

    /// All changes up to `epoch` have been given.
    pub fn end(&mut self, epoch: Epoch, out: &mut Vec<FeedItem>) {
        self.pass_marks(epoch, out);
        // The epoch in which it healed may be this one.
        self.settle(epoch + 1, out);
    }

    /// Everything that comes before the changes of `epoch`.
    fn pass_marks(&mut self, epoch: Epoch, out: &mut Vec<FeedItem>) {
        self.settle(epoch, out);
        while let Some(mark) = self.marks.pop_front_if(|mark| mark.epoch() <= epoch) {
            match mark {
                Mark::Error(at, e) => out.push(FeedItem::Error(at, e)),
                Mark::Healed(at) => out.push(FeedItem::Healed(at)),
                Mark::Passed(_, to) => {
                    self.held = Some((to, vec![]));
                    self.settle(epoch, out);
                }
            }
        }
    }

    /// Gives out what is held of a time in error that ended before `epoch`.
    fn settle(&mut self, epoch: Epoch, out: &mut Vec<FeedItem>) {
        if let Some((to, held)) = self.held.take_if(|(to, _)| *to < epoch)
            && let Some(first) = held.first()
        {
            let schema = first.schema();
            out.extend(changes(to, retractions_first(consolidate(&schema, &held))));
        }
    }
}

fn changes(epoch: Epoch, delta: Delta) -> Option<FeedItem> {
    (!delta.is_empty()).then_some(FeedItem::Changes {
        epoch,
        delta,
        snapshot: false,
    })
}

/// Keeps changes, added up now and then, so that they take no more space than what they amount to.
pub fn hold(held: &mut Vec<Delta>, delta: Delta) {
    held.push(delta);
    if held.len() >= HELD_MAX {
        let schema = held[0].schema();
        *held = vec![consolidate(&schema, held)];
    }
}
