//! Recent changes in memory: the deltas of followed collections, shared by all who follow them.
//!
//! Subscriptions, sinks and views under construction are *followers*. Each has a position; a collection's deltas
//! are kept from the oldest position of its followers on, all collections together up to [`CHANGES_BYTES_MAX`]: beyond
//! that, the collection that takes most loses its oldest. A follower that fell behind is told so and goes on from the
//! store's history.

use std::collections::{HashMap, VecDeque};
use std::ops::Deref;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};

use arrow::array::UInt32Array;
use parking_lot::Mutex;
use tidemill_zset::consolidate::consolidate;
use tidemill_zset::{CollectionId, Delta, Epoch};

/// Bytes of deltas kept before the slowest followers lose their place.
pub const CHANGES_BYTES_MAX: usize = 256 << 20;

/// The changes of one epoch of one collection.
pub type EpochChanges = (Epoch, Arc<Changes>);

/// Consolidated pieces, and their sum once somebody has asked for it: a thousand followers add them up once.
pub struct Changes {
    pieces: Vec<Delta>,
    sum: OnceLock<Delta>,
}

impl Changes {
    /// Changes in pieces, of which there is at least one.
    pub fn new(pieces: Vec<Delta>) -> Self {
        Changes {
            pieces,
            sum: OnceLock::new(),
        }
    }

    /// All of them as one consolidated delta, retractions first. `apart`: no two pieces have equal rows.
    pub fn sum(&self, apart: bool) -> &Delta {
        self.sum.get_or_init(|| {
            let schema = self.pieces[0].schema();
            let whole = match apart {
                true => Delta::concat(&schema, &self.pieces).ok(),
                false => None,
            };
            retractions_first(whole.unwrap_or_else(|| consolidate(&schema, &self.pieces)))
        })
    }
}

impl Deref for Changes {
    type Target = [Delta];

    fn deref(&self) -> &[Delta] {
        &self.pieces
    }
}

/// The delta with its retractions in front.
pub fn retractions_first(delta: Delta) -> Delta {
    let negative = |row: &usize| delta.diffs.get(*row) < 0;
    let first_positive = (0..delta.len()).find(|r| !negative(r));
    let first_positive = first_positive.unwrap_or(delta.len());
    if (first_positive..delta.len()).all(|r| !negative(&r)) {
        return delta;
    }
    let (minus, plus): (Vec<usize>, Vec<usize>) = (0..delta.len()).partition(negative);
    let order = minus.into_iter().chain(plus).map(|r| r as u32);
    delta
        .take(&UInt32Array::from_iter_values(order))
        .expect("each row once")
}

#[derive(Default)]
struct Ring {
    /// Every change with an epoch at or after this one is in `entries`.
    complete_from: Epoch,
    entries: VecDeque<EpochChanges>,
    bytes: usize,
    followers: Vec<Arc<AtomicI64>>,
}

#[derive(Default)]
struct Rings {
    of: HashMap<CollectionId, Ring>,
    /// Of all of them.
    bytes: usize,
}

impl Rings {
    /// Forgets the oldest entry of a collection.
    fn forget(&mut self, collection: CollectionId) {
        let Some(ring) = self.of.get_mut(&collection) else {
            return;
        };
        if let Some((epoch, deltas)) = ring.entries.pop_front() {
            let bytes: usize = deltas.iter().map(Delta::memory_bytes).sum();
            ring.bytes -= bytes;
            self.bytes -= bytes;
            ring.complete_from = epoch + 1;
        }
    }

    fn largest(&self) -> Option<CollectionId> {
        let filled = self.of.iter().filter(|(_, r)| !r.entries.is_empty());
        filled.max_by_key(|(_, r)| r.bytes).map(|(c, _)| *c)
    }
}

/// All followed collections.
pub struct ChangeLog {
    bytes_max: usize,
    rings: Mutex<Rings>,
}

impl Default for ChangeLog {
    fn default() -> Self {
        ChangeLog::new(CHANGES_BYTES_MAX)
    }
}

/// One follower's place in one collection. Dropping it ends the interest.
pub struct Follower {
    log: Arc<ChangeLog>,
    collection: CollectionId,
    /// First epoch not yet read.
    position: Arc<AtomicI64>,
}

impl ChangeLog {
    /// One that keeps so many bytes.
    pub fn new(bytes_max: usize) -> Self {
        ChangeLog {
            bytes_max,
            rings: Mutex::default(),
        }
    }

    /// True if somebody follows `collection`.
    pub fn is_followed(&self, collection: CollectionId) -> bool {
        self.rings.lock().of.contains_key(&collection)
    }

    /// Collections that somebody follows.
    pub fn followed(&self) -> Vec<CollectionId> {
        self.rings.lock().of.keys().copied().collect()
    }

    /// Starts to follow from `upper` on. Every change from then on must be handed to `push`.
    pub fn follow(self: &Arc<Self>, collection: CollectionId, upper: Epoch) -> Follower {
        let position = Arc::new(AtomicI64::new(upper));
        let mut rings = self.rings.lock();
        let ring = rings.of.entry(collection).or_insert_with(|| Ring {
            complete_from: upper,
            ..Ring::default()
        });
        ring.followers.push(position.clone());
        Follower {
            log: self.clone(),
            collection,
            position,
        }
    }

    /// Adds the changes of an epoch, in epoch order.
    pub fn push(&self, collection: CollectionId, epoch: Epoch, deltas: Vec<Delta>) {
        let mut rings = self.rings.lock();
        let Some(ring) = rings.of.get_mut(&collection) else {
            return;
        };
        let bytes: usize = deltas.iter().map(Delta::memory_bytes).sum();
        ring.bytes += bytes;
        ring.entries
            .push_back((epoch, Arc::new(Changes::new(deltas))));
        let positions = ring.followers.iter().map(|p| p.load(Ordering::Acquire));
        let oldest = positions.min().unwrap_or(Epoch::MAX);
        let read = ring.entries.partition_point(|(e, _)| *e < oldest);
        rings.bytes += bytes;
        for _ in 0..read {
            rings.forget(collection);
        }
        while rings.bytes > self.bytes_max
            && let Some(largest) = rings.largest()
        {
            rings.forget(largest);
        }
    }
}

impl Follower {
    /// The collection it follows.
    pub fn collection(&self) -> CollectionId {
        self.collection
    }

    /// First epoch not yet read.
    pub fn position(&self) -> Epoch {
        self.position.load(Ordering::Acquire)
    }

    /// All changes from the position up to, not including, `upper`; the position moves there. `None` if some of
    /// them are gone: read the store's history from [`Follower::position`] to `upper`, then call [`Follower::skip`].
    pub fn read(&self, upper: Epoch) -> Option<Vec<EpochChanges>> {
        let rings = self.log.rings.lock();
        let ring = rings.of.get(&self.collection)?;
        let from = self.position();
        if ring.complete_from > from {
            return None;
        }
        let start = ring.entries.partition_point(|(e, _)| *e < from);
        let out = ring
            .entries
            .iter()
            .skip(start)
            .take_while(|(e, _)| *e < upper)
            .cloned()
            .collect();
        self.position.fetch_max(upper, Ordering::AcqRel);
        Some(out)
    }

    /// Nothing before the newest change is gone: [`Follower::read`] will find all there is.
    pub fn is_in_memory(&self) -> bool {
        let rings = self.log.rings.lock();
        let ring = rings.of.get(&self.collection);
        ring.is_some_and(|ring| ring.complete_from <= self.position())
    }

    /// Moves the position to `upper` without reading.
    pub fn skip(&self, upper: Epoch) {
        self.position.fetch_max(upper, Ordering::AcqRel);
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut rings = self.log.rings.lock();
        if let Some(ring) = rings.of.get_mut(&self.collection) {
            ring.followers.retain(|p| !Arc::ptr_eq(p, &self.position));
            if ring.followers.is_empty() {
                let bytes = ring.bytes;
                rings.of.remove(&self.collection);
                rings.bytes -= bytes;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, RecordBatch};
    use arrow::datatypes::{DataType, Field};
    use tidemill_zset::delta::schema_of;

    fn delta(n: i64) -> Delta {
        let schema = schema_of(vec![Field::new("n", DataType::Int64, false)]);
        Delta::insert(
            RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from(vec![n]))]).unwrap(),
        )
    }

    #[test]
    fn a_follower_reads_each_epoch_once_and_its_end_frees_the_ring() {
        let log = Arc::new(ChangeLog::default());
        let c = CollectionId(1);
        log.push(c, 4, vec![delta(0)]);
        let follower = log.follow(c, 5);
        log.push(c, 5, vec![delta(1)]);
        log.push(c, 7, vec![delta(2)]);
        let epochs = |v: Vec<EpochChanges>| v.into_iter().map(|(e, _)| e).collect::<Vec<_>>();
        assert_eq!(epochs(follower.read(6).unwrap()), vec![5]);
        assert_eq!(epochs(follower.read(8).unwrap()), vec![7]);
        assert_eq!(epochs(follower.read(8).unwrap()), Vec::<Epoch>::new());
        let second = log.follow(c, 8);
        drop(follower);
        assert!(log.is_followed(c));
        drop(second);
        assert!(!log.is_followed(c));
    }

    #[test]
    fn changes_are_added_up_once_with_retractions_in_front() {
        let minus = delta(2).negate();
        let changes = Changes::new(vec![delta(1), delta(3), minus, delta(1)]);
        let sum = changes.sum(false);
        assert_eq!((sum.len(), sum.diffs.get(0)), (3, -1));
        assert!(std::ptr::eq(sum, changes.sum(false)));
        let apart = Changes::new(vec![delta(1), delta(2).negate()]);
        assert_eq!(apart.sum(true).diffs.get(0), -1);
    }

    #[test]
    fn collections_share_one_limit() {
        let bytes = delta(1).memory_bytes();
        let log = Arc::new(ChangeLog::new(3 * bytes));
        let followers = [1, 2].map(|c| log.follow(CollectionId(c), 1));
        for (collection, epoch) in [(1, 1), (2, 1), (2, 2), (2, 3)] {
            log.push(CollectionId(collection), epoch, vec![delta(epoch)]);
        }
        assert_eq!(log.rings.lock().bytes, 3 * bytes);
        // The one that takes most has lost its oldest.
        assert!(followers[1].read(4).is_none());
        assert_eq!(followers[0].read(4).unwrap().len(), 1);
        drop(followers);
        assert_eq!(log.rings.lock().bytes, 0);
    }

    #[test]
    fn what_all_followers_have_read_is_forgotten() {
        let log = Arc::new(ChangeLog::default());
        let c = CollectionId(1);
        let follower = log.follow(c, 1);
        log.push(c, 1, vec![delta(1)]);
        follower.read(2).unwrap();
        log.push(c, 2, vec![delta(2)]);
        assert_eq!(log.rings.lock().of[&c].entries.len(), 1);
    }
}
