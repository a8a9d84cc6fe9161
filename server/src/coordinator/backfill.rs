//! The thread of a build: feeds a hidden dataflow with the contents of its inputs at one version, then with their
//! changes, and stages what comes out.
//!
//! A view or a query from now on takes the changes in as few steps as it can. A query from an earlier time (`exact`) steps
//! through every epoch since then, so that each one's changes come out apart.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use arrow::datatypes::SchemaRef;
use crossbeam_channel::Receiver;
use tidemill_dataflow::plan::DataflowPlan;
use tidemill_dataflow::runtime::{Command, DataflowId, DataflowResult, Scope};
use tidemill_planner::SqlError;
use tidemill_storage::{ArrangementChange, ArrangementDesc, StagedRun};
use tidemill_zset::consolidate::consolidate;
use tidemill_zset::{ArrangementId, CollectionId, Delta, Epoch};

use super::duplicates::Duplicates;
use super::{Handle, Message, SharedRuntime};
use crate::changes::Follower;
use crate::published::Published;
use crate::reader::{DeltaIterator, Snapshot, Stored};
use crate::status::BuildProgress;

/// Rows in one step of a build: what the workers hold at once.
const CHUNK_ROWS_MAX: usize = 1 << 19;
/// The share of the memory for state that a larger step may take.
const STATE_SHARE: usize = 16;
/// Bytes that a row takes in operators beyond those of its values, about.
const ROW_BYTES: usize = 64;
/// A build whose inputs changed by fewer rows while it caught up joins now.
const SMALL_GAP_ROWS: usize = 50_000;
/// A build that can't get below the gap joins after this many rounds all the same.
const ROUNDS_MAX: usize = 20;

/// How much a step takes in.
#[derive(Clone, Copy)]
pub struct StepSize {
    bytes_min: usize,
}

impl StepSize {
    /// Where operators look at all rows of a key again in each step that changes it, a build makes as few steps as there is memory for:
    /// `state_bytes` are those that all operators may take.
    pub fn of(plan: &DataflowPlan, state_bytes: usize) -> StepSize {
        let bytes_min = match plan.recomputes() {
            true => state_bytes / STATE_SHARE,
            false => 0,
        };
        StepSize { bytes_min }
    }

    fn is_reached(self, open: &Open) -> bool {
        open.rows >= CHUNK_ROWS_MAX && open.bytes >= self.bytes_min
    }
}

/// What has been fed since the last step.
#[derive(Default)]
struct Open {
    rows: usize,
    bytes: usize,
}

impl Open {
    fn add(&mut self, delta: &Delta) {
        self.rows += delta.len();
        self.bytes += delta.memory_bytes() + delta.len() * ROW_BYTES;
    }
}

/// What a build's thread has when it has taken in everything.
pub struct Built {
    /// A view's state.
    pub staged: Vec<StagedRun>,
    /// Its rows in error.
    pub errors: Delta,
    /// A query's contents at the version it began with if that is `exact`, else when it joined.
    pub rows: Vec<Delta>,
    /// A query's changes after that version, by epoch, if it is `exact`.
    pub history: Vec<(Epoch, Delta)>,
}

impl Default for Built {
    fn default() -> Self {
        Built {
            staged: vec![],
            errors: Delta::empty(tidemill_dataflow::operator::error_schema()),
            rows: vec![],
            history: vec![],
        }
    }
}

/// What one worker reports of a hidden epoch.
pub type Report = (usize, Epoch, Vec<DataflowResult>);

/// See the module's documentation.
pub struct BuildThread {
    pub id: DataflowId,
    pub handle: Handle,
    pub runtime: Arc<SharedRuntime>,
    pub workers: usize,
    /// Collections that it reads, those of `followers`.
    pub inputs: Vec<CollectionId>,
    /// The version of which everything has been taken in, but for `followers` that are behind it; at first also the time that it
    /// begins with.
    pub snapshot: Snapshot,
    /// Every epoch after the snapshot is a step of its own.
    pub exact: bool,
    /// Columns of the output.
    pub output: SchemaRef,
    /// Of the inputs, from the snapshot's version on.
    pub followers: Vec<Follower>,
    pub reports: Receiver<Report>,
    /// Gives the version to stop at. `None`: nothing changes while this runs.
    pub finish: Option<Receiver<Arc<Published>>>,
    /// Tells the coordinator from which epoch on it still needs the history of its inputs.
    pub taken_in: Arc<AtomicI64>,
    /// Inputs that are no collections, and where their rows are.
    pub stored: HashMap<CollectionId, Stored>,
    pub descs: HashMap<ArrangementId, ArrangementDesc>,
    /// A view.
    pub durable: bool,
    /// Of a unique index.
    pub duplicates: Option<Duplicates>,
    /// How much it takes in at once.
    pub step_size: StepSize,
    /// Number of the last hidden epoch. They count from 1, far below any epoch of the clock.
    pub step: Epoch,
    pub built: Built,
    /// What is told of it.
    pub progress: Arc<BuildProgress>,
    /// Rows that have been fed.
    pub fed: usize,
}

impl BuildThread {
    pub fn run(mut self) {
        let status = self.handle.env.status.clone();
        status.build_started(self.id.0, self.progress.clone());
        let result = self.build();
        status.build_ended(self.id.0);
        // Who reads the inputs from now on is the dataflow.
        self.followers.clear();
        let built = result.map(|()| self.built);
        self.handle.send(Message::BuildDone(self.id, built));
    }

    fn build(&mut self) -> Result<(), SqlError> {
        for collection in self.inputs.clone() {
            let mut open = Open::default();
            for piece in self.contents(collection)? {
                let piece = piece?;
                open.add(&piece);
                self.feed(collection, piece)?;
                if self.step_size.is_reached(&open) {
                    open = Open::default();
                    self.step()?;
                }
            }
        }
        self.step()?;
        let Some(finish) = self.finish.take() else {
            return Ok(());
        };
        if self.exact {
            self.built.rows = vec![consolidate(&self.output, &self.built.rows)];
            self.replay()?;
        }
        for _ in 0..ROUNDS_MAX {
            let published = self.handle.env.publisher.pin();
            if self.catch_up(published)? < SMALL_GAP_ROWS {
                break;
            }
        }
        self.check_unique()?;
        self.handle.send(Message::BuildReady(self.id));
        let published = finish.recv().map_err(|_| super::shutting_down())?;
        self.catch_up(published)?;
        self.check_unique()?;
        if !self.exact && !self.durable {
            self.built.rows = vec![consolidate(&self.output, &self.built.rows)];
        }
        Ok(())
    }

    /// Fails if what has been taken in has duplicates that a unique index mustn't have.
    fn check_unique(&mut self) -> Result<(), SqlError> {
        let (Some(duplicates), [table]) = (&mut self.duplicates, self.inputs.as_slice()) else {
            return Ok(());
        };
        let table = *table;
        let snapshot = self.snapshot.clone();
        duplicates.check(|| snapshot.deltas(table))
    }

    fn contents(&self, collection: CollectionId) -> Result<DeltaIterator, SqlError> {
        match self.stored.get(&collection) {
            Some(stored) => self.snapshot.read(stored.clone()),
            // What was in error when the view was maintained is so now.
            None if self.finish.is_none() => self.snapshot.deltas_in_error(collection),
            None => self.snapshot.deltas(collection),
        }
    }

    /// Takes in the stored history from the snapshot's time to its version, epoch by epoch.
    fn replay(&mut self) -> Result<(), SqlError> {
        let (after, until) = (self.snapshot.at, self.snapshot.published.now());
        if after >= until {
            return Ok(());
        }
        let reader = self.snapshot.clone();
        let mut changes = Vec::new();
        for collection in &self.inputs {
            let history = reader.history(*collection, after, until)?;
            changes.extend(history.into_iter().map(|(e, d)| (e, *collection, d)));
        }
        self.take_in(changes).map(drop)
    }

    /// Takes in all changes up to `published`; gives their number of rows.
    fn catch_up(&mut self, published: Arc<Published>) -> Result<usize, SqlError> {
        let newer = Snapshot::of(&self.handle.env, &published);
        let mut changes = Vec::new();
        let mut fed = 0;
        for follower in std::mem::take(&mut self.followers) {
            let collection = follower.collection();
            let from = follower.position();
            if let Some(read) = follower.read(published.upper) {
                for (epoch, deltas) in read {
                    let deltas = deltas.iter().cloned();
                    changes.extend(deltas.map(|delta| (epoch, collection, delta)));
                }
            } else {
                // Too far behind for the changes in memory.
                tracing::debug!(build = self.id.0, from, "a build reads history");
                if self.exact {
                    let history = newer.history(collection, from - 1, newer.at)?;
                    changes.extend(history.into_iter().map(|(e, d)| (e, collection, d)));
                } else {
                    fed += self.feed_since(&newer, collection)?;
                }
                follower.skip(published.upper);
            }
            self.followers.push(follower);
        }
        self.taken_in.store(newer.at, Ordering::Release);
        self.snapshot = newer;
        let rows = self.take_in(changes)?;
        if rows == 0 && fed > 0 {
            self.step()?;
        }
        Ok(rows + fed)
    }

    /// Feeds what has changed between the snapshot and `newer`, in steps of bounded size; the last one is still open.
    fn feed_since(
        &mut self,
        newer: &Snapshot,
        collection: CollectionId,
    ) -> Result<usize, SqlError> {
        let (mut fed, mut open) = (0, Open::default());
        for delta in newer.changes_since(&self.snapshot.published, collection)? {
            let delta = delta?;
            fed += delta.len();
            open.add(&delta);
            self.feed(collection, delta)?;
            if self.step_size.is_reached(&open) {
                open = Open::default();
                self.step()?;
            }
        }
        Ok(fed)
    }

    /// Feeds changes and steps: once, or once per epoch. Gives the number of rows.
    fn take_in(
        &mut self,
        mut changes: Vec<(Epoch, CollectionId, Delta)>,
    ) -> Result<usize, SqlError> {
        if self.exact {
            changes.sort_by_key(|(epoch, ..)| *epoch);
        }
        let mut rows = 0;
        let mut changes = changes.into_iter().peekable();
        while let Some((epoch, collection, delta)) = changes.next() {
            rows += delta.len();
            self.feed(collection, delta)?;
            let last = changes
                .peek()
                .is_none_or(|(e, ..)| self.exact && *e != epoch);
            if last {
                let before = self.built.rows.len();
                self.step()?;
                if self.exact {
                    let changed = self.built.rows.split_off(before);
                    let delta = consolidate(&self.output, &changed);
                    if !delta.is_empty() {
                        self.built.history.push((epoch, delta));
                    }
                }
            }
        }
        Ok(rows)
    }

    fn feed(&mut self, collection: CollectionId, delta: Delta) -> Result<(), SqlError> {
        if let Some(duplicates) = &mut self.duplicates {
            duplicates.note(&delta)?;
        }
        self.fed += delta.len();
        if !delta.is_empty() {
            self.runtime.send(Command::Feed {
                scope: Scope::Hidden(self.id),
                collection,
                delta,
            });
        }
        Ok(())
    }

    /// Ends a hidden epoch, waits for all workers, and stages what it changed.
    fn step(&mut self) -> Result<(), SqlError> {
        self.step += 1;
        self.runtime.send(Command::Finish {
            scope: Scope::Hidden(self.id),
            epoch: self.step,
        });
        let mut changes: HashMap<ArrangementId, Vec<ArrangementChange>> = HashMap::new();
        let mut errors = vec![self.built.errors.clone()];
        for _ in 0..self.workers {
            let (_, epoch, results) = self.reports.recv().map_err(|_| super::shutting_down())?;
            assert_eq!(epoch, self.step, "workers report hidden epochs in order");
            for result in results {
                errors.extend(result.errors);
                if !self.durable {
                    self.built.rows.extend(result.rows);
                }
                for change in result.changes {
                    changes.entry(change.arrangement).or_default().push(change);
                }
            }
        }
        self.progress.rows.store(self.fed as u64, Ordering::Relaxed);
        self.built.errors = consolidate(&tidemill_dataflow::operator::error_schema(), &errors);
        if !self.durable {
            if !self.built.errors.is_empty() {
                let row = &self.built.errors.rows;
                return Err(crate::reader::row_error(None, row));
            }
            return Ok(());
        }
        for (id, changes) in changes {
            let desc = &self.descs[&id];
            let staged = self.handle.env.store.stage(desc, self.step, changes);
            self.built
                .staged
                .push(staged.map_err(crate::reader::store_error)?);
        }
        Ok(())
    }
}
