//! Upgrade: views whose stored state another plan has written than the one that this version makes of their SQL.
//!
//! It is done at the start (`stale` says for which views), before any input is taken: the changed parts of a view's plan are computed anew in a hidden
//! dataflow, from stored inputs and from the state of the unchanged parts, while everything is read as of the last
//! commit. Per view there are two commits: one makes the new state visible to the store, one gives it to the view. What the view's
//! contents differ by is a change of the second epoch like any other, for views above it, subscriptions and sinks.
//! A crash in between leaves a note of what to remove, and the upgrade begins again.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::datatypes::SchemaRef;
use tidemill_dataflow::plan::{OutputStorage, Remainder};
use tidemill_dataflow::runtime::{Command, DataflowId, Install, Scope};
use tidemill_dataflow::state::{StateHandle, StateReader};
use tidemill_planner::SqlError;
use tidemill_planner::compile::revision;
use tidemill_storage::{ArrangementChange, ArrangementDesc};
use tidemill_zset::consolidate::consolidate;
use tidemill_zset::hash::{hash_columns, mix};
use tidemill_zset::{ArrangementId, CollectionId, Delta, Epoch};

use super::backfill::{BuildThread, Built, StepSize};
use super::build::{Build, LiveReader, progress_of, state_descs, stored_desc};
use super::stale::{Stale, parts, types_of};
use super::{Coordinator, Message};
use crate::catalog::record::{NEXT_ID_KEY, Output, State, object_key, put, rebuild_key};
use crate::catalog::{Detail, Object, Rows};
use crate::published::Published;
use crate::reader::{Contents, DeltaIterator, Snapshot, Stored, contents_of};

/// How long a sink may take to write what it still has before its view's state is exchanged.
const SINK_PATIENCE: Duration = Duration::from_secs(10);

/// Views to rebuild, in the order of creation, and the one under way.
#[derive(Default)]
pub struct Upgrade {
    pub(crate) queue: VecDeque<Stale>,
    current: Option<Rebuild>,
}

struct Rebuild {
    stale: Stale,
    /// Of the whole new plan: kept ones and new ones.
    states: Vec<State>,
    /// Where the rows were built, if the new plan has an arrangement of their own.
    rows: Option<ArrangementId>,
    create: Vec<ArrangementDesc>,
    errors: Delta,
    /// The epoch that made the new state visible.
    visible: Epoch,
    phase: Phase,
}

enum Phase {
    /// A hidden dataflow computes, or its result is being committed or compared.
    Busy,
    /// All is ready; sinks write what they still have, at most until then.
    Ready(Difference, Instant),
}

/// What new contents have more or less than the old ones.
pub struct Difference {
    rows: Vec<Delta>,
    errors: Delta,
}

impl Upgrade {
    /// Something is left to do.
    pub fn is_under_way(&self) -> bool {
        self.current.is_some() || !self.queue.is_empty()
    }

    /// The view that is being rebuilt.
    pub fn rebuilds(&self) -> Option<u64> {
        self.current.as_ref().map(|rebuild| rebuild.stale.id)
    }

    /// True if the view of that id isn't maintained yet.
    pub fn holds(&self, id: u64) -> bool {
        let current = self.current.iter().map(|r| r.stale.id);
        current
            .chain(self.queue.iter().map(|s| s.id))
            .any(|s| s == id)
    }
}

impl Coordinator {
    /// Goes on with the upgrade; nothing else is under way.
    pub(super) fn step_upgrade(&mut self) {
        let Some(mut rebuild) = self.upgrade.current.take() else {
            if let Some(stale) = self.upgrade.queue.pop_front()
                && let Err(e) = self.start_rebuild(stale)
            {
                self.failure = Some(format!("a view can't be rebuilt: {e}"));
            }
            return;
        };
        match std::mem::replace(&mut rebuild.phase, Phase::Busy) {
            Phase::Busy => self.upgrade.current = Some(rebuild),
            Phase::Ready(difference, until) => {
                let written = self.sinks_have_written(rebuild.stale.id, rebuild.visible);
                if written || until <= Instant::now() {
                    self.exchange(rebuild, difference);
                } else {
                    rebuild.phase = Phase::Ready(difference, until);
                    self.upgrade.current = Some(rebuild);
                }
            }
        }
    }

    fn sinks_have_written(&self, view: u64, epoch: Epoch) -> bool {
        let mut sinks = self.sinks.values().filter(|s| s.from == view);
        sinks.all(|s| !s.is_running() || s.written >= epoch)
    }

    fn start_rebuild(&mut self, stale: Stale) -> Result<(), SqlError> {
        let Some(object) = self.catalog.get(stale.id).cloned() else {
            return Ok(());
        };
        let Detail::MaterializedView { plan, .. } = &object.detail else {
            return Ok(());
        };
        let published = self.env.publisher.pin();
        let catalog = Arc::make_mut(&mut self.catalog);
        let parts = parts(&object, plan, stale.whole, || {
            CollectionId(catalog.allocate())
        });
        let specs = plan.arrangements();
        let states: Vec<State> = specs
            .into_iter()
            .enumerate()
            .map(|(i, spec)| {
                let kept = parts.kept[i].filter(|_| !parts.remainder.fresh.contains(&i));
                State {
                    id: kept.unwrap_or_else(|| ArrangementId(catalog.allocate())),
                    fingerprint: spec.fingerprint,
                }
            })
            .collect();
        let own = matches!(stale.output, OutputStorage::Own);
        let rows = own.then(|| ArrangementId(catalog.allocate()));
        tracing::info!(
            view = %object.display_name(), kept = states.len() - parts.remainder.fresh.len(), rebuilt = parts.remainder.fresh.len(),
            "what is stored of the view isn't what this version makes of its query and its input: rebuilding"
        );
        let fresh: Vec<State> = parts
            .remainder
            .fresh
            .iter()
            .map(|i| states[*i].clone())
            .collect();
        let mut create = state_descs(&parts.remainder.plan, &fresh);
        let output = rows.map(|rows| stored_desc(rows, &object));
        self.launch_rebuild(
            &object,
            &parts.remainder,
            &states,
            &create,
            output.clone(),
            &published,
        )?;
        create.extend(output);
        self.upgrade.current = Some(Rebuild {
            stale,
            states,
            rows,
            create,
            errors: Built::default().errors,
            visible: 0,
            phase: Phase::Busy,
        });
        Ok(())
    }

    fn launch_rebuild(
        &mut self,
        object: &Arc<Object>,
        remainder: &Remainder,
        states: &[State],
        create: &[ArrangementDesc],
        output: Option<ArrangementDesc>,
        published: &Arc<Published>,
    ) -> Result<(), SqlError> {
        let id = DataflowId(self.next_dataflow);
        self.next_dataflow += 1;
        let handle = |desc: &ArrangementDesc| {
            let reader = LiveReader::new(self.env.store.clone(), desc.id);
            StateHandle {
                desc: desc.clone(),
                reader: Some(reader as Arc<dyn StateReader>),
            }
        };
        let plan = Arc::new(remainder.plan.clone());
        self.runtime.send(Command::Install(Arc::new(Install {
            id,
            plan: plan.clone(),
            states: create.iter().map(handle).collect(),
            collection: None,
            output_state: output.as_ref().map(handle),
            fresh: true,
            scope: Scope::Hidden(id),
            demand: false,
        })));
        let reads = plan.columns_read();
        let stored: HashMap<CollectionId, Stored> = remainder
            .cuts
            .iter()
            .map(|cut| {
                let stored = Stored {
                    arrangement: states[cut.index].id,
                    columns: cut.columns.clone(),
                    maps: vec![],
                    schema: cut.schema.clone(),
                };
                (cut.collection, stored)
            })
            .collect();
        let (reports, reported) = crossbeam_channel::unbounded();
        let snapshot = Snapshot::of(&self.env, published);
        let thread = BuildThread {
            id,
            handle: self.handle.clone(),
            runtime: self.runtime.clone(),
            workers: self.workers,
            inputs: reads.keys().copied().collect(),
            snapshot: snapshot.clone(),
            stored,
            exact: false,
            output: object.columns.clone(),
            followers: vec![],
            reports: reported,
            finish: None,
            taken_in: Default::default(),
            descs: create
                .iter()
                .chain(&output)
                .map(|d| (d.id, d.clone()))
                .collect(),
            durable: true,
            step: 0,
            duplicates: None,
            step_size: StepSize::of(&plan, self.state_bytes_max),
            built: Built::default(),
            progress: progress_of(Some(object), "rebuilt view", &snapshot, reads.keys()),
            fed: 0,
        };
        std::thread::Builder::new()
            .name(format!("rebuild {}", object.display_name()))
            .spawn(move || thread.run())
            .map_err(|e| SqlError::new("53000", format!("no thread for a build: {e}")))?;
        self.builds.insert(id, Build::of_view(reads, reports));
        Ok(())
    }

    /// The hidden dataflow of the view under way has computed everything.
    pub(super) fn on_rebuilt(&mut self, id: DataflowId, result: Result<Built, SqlError>) {
        self.builds.remove(&id);
        self.runtime.send(Command::Drop(id));
        let Some(mut rebuild) = self.upgrade.current.take() else {
            return;
        };
        let built = match result {
            Ok(built) => built,
            Err(e) => {
                let object = self.catalog.get(rebuild.stale.id);
                let name = object.map_or_else(String::new, |o| o.display_name());
                self.failure = Some(format!("materialized view {name} can't be rebuilt: {e}"));
                return;
            }
        };
        let made: Vec<ArrangementId> = rebuild.create.iter().map(|d| d.id).collect();
        let mut work = self.begin_epoch();
        work.commit.catalog.extend([
            put(NEXT_ID_KEY.into(), &self.catalog.next_id()),
            put(rebuild_key(rebuild.stale.id), &made),
        ]);
        work.commit.create = rebuild.create.clone();
        work.commit.staged = built.staged;
        work.after
            .push(Box::new(|c, published| c.compare(published)));
        rebuild.errors = built.errors;
        rebuild.visible = work.epoch;
        self.upgrade.current = Some(rebuild);
        self.finish_cut(work);
    }

    /// The view as it will be.
    fn renewed(&self, rebuild: &Rebuild) -> Option<Object> {
        let mut object = Object::clone(self.catalog.get(rebuild.stale.id)?);
        if let Detail::MaterializedView { plan, output, .. } = &mut object.detail {
            *output = rebuild.stale.output.clone();
            object.record.ids.revision = revision(plan);
        }
        object.record.ids.states = rebuild.states.clone();
        object.record.ids.output = Output::of(&rebuild.stale.output);
        object.record.ids.rows = rebuild.rows;
        object.record.ids.types = types_of(&object.columns);
        object.record.behind = false;
        Some(object)
    }

    /// The new state is visible: compares what it says with what the old one said, on a thread of its own.
    fn compare(&mut self, published: &Arc<Published>) {
        self.env.fail.pass("during_upgrade");
        let Some(rebuild) = &self.upgrade.current else {
            return;
        };
        let (Some(old), Some(new)) = (
            self.catalog.get(rebuild.stale.id).cloned(),
            self.renewed(rebuild).map(Arc::new),
        ) else {
            return;
        };
        for sink in self.sinks.values().filter(|s| s.from == rebuild.stale.id) {
            sink.report();
        }
        let (readable, errors) = (rebuild.stale.readable, rebuild.errors.clone());
        let reader = Snapshot::of(&self.env, published);
        let handle = self.handle.clone();
        let spawned = std::thread::Builder::new()
            .name(format!("compare {}", old.display_name()))
            .spawn(move || {
                let difference = difference(&reader, &old, &new, readable, &errors);
                handle.send(Message::Compared(difference));
            });
        if let Err(e) = spawned {
            self.failure = Some(format!("no thread to compare a view: {e}"));
        }
    }

    pub(super) fn on_compared(&mut self, difference: Result<Difference, SqlError>) {
        match (difference, &mut self.upgrade.current) {
            (Ok(difference), Some(rebuild)) => {
                rebuild.phase = Phase::Ready(difference, Instant::now() + SINK_PATIENCE);
            }
            (Err(e), _) => self.failure = Some(format!("a rebuilt view can't be read: {e}")),
            (Ok(_), None) => {}
        }
    }

    /// The epoch in which the view goes over to its new state.
    fn exchange(&mut self, rebuild: Rebuild, difference: Difference) {
        let (Some(old), Some(mut new)) = (
            self.catalog.get(rebuild.stale.id).cloned(),
            self.renewed(&rebuild),
        ) else {
            return;
        };
        let ids = &mut new.record.ids;
        let mut work = self.begin_epoch();
        let changed = difference.rows.iter().any(|d| !d.is_empty());
        let states = old.record.ids.states.iter().map(|s| s.id);
        let kept = |id: &ArrangementId| rebuild.states.iter().any(|s| s.id == *id);
        work.commit.drop.extend(states.filter(|id| !kept(id)));
        match (old.record.ids.rows, rebuild.rows) {
            // Its history goes on, with the difference as one more change.
            (Some(rows), Some(built)) => {
                ids.rows = Some(rows);
                work.commit.drop.push(built);
                work.commit
                    .changes
                    .extend(difference.rows.iter().map(|delta| ArrangementChange {
                        arrangement: rows,
                        hashes: vec![],
                        delta: delta.clone(),
                    }));
            }
            (old_rows, _) => {
                work.commit.drop.extend(old_rows);
                if changed {
                    // The difference isn't among the stored changes: history begins after it.
                    let made = rebuild.create.iter().map(|d| (d.id, work.epoch));
                    work.commit.begins.extend(made);
                }
            }
        }
        work.commit.catalog.extend([
            put(object_key(new.record.id), &new.record),
            (rebuild_key(new.record.id), None),
        ]);
        let (collection, errors) = (new.record.ids.collection, new.record.ids.errors);
        let errors_collection = new.record.ids.errors_collection;
        let new = Arc::new(new);
        Arc::make_mut(&mut self.catalog).put(new.clone());
        work.catalog = Some(self.catalog.clone());
        if let Some(collection) = collection {
            for delta in difference.rows {
                self.feed(collection, delta, &mut work);
            }
        }
        if let (Some(errors), Some(collection)) = (errors, errors_collection)
            && !difference.errors.is_empty()
        {
            work.commit.changes.push(ArrangementChange {
                arrangement: errors,
                hashes: vec![],
                delta: difference.errors.clone(),
            });
            self.feed(collection, difference.errors, &mut work);
        }
        tracing::info!(view = %new.display_name(), changed, "the view is rebuilt");
        self.finish_cut(work);
        self.resume_view(&new);
        self.recount_inputs();
        if !self.upgrade.is_under_way()
            && let Err(e) = self.start_sources()
        {
            self.failure = Some(e);
        }
    }

    /// Starts the readers of all sources; those that can't be opened say so in `tidemill.sources`.
    pub(super) fn start_sources(&mut self) -> Result<(), String> {
        let catalog = self.catalog.clone();
        for object in catalog.objects() {
            let runs = self.sources.contains_key(&object.record.id);
            if let (Detail::Source { .. }, false) = (&object.detail, runs) {
                self.start_source(object)?;
            }
        }
        self.tell_wanted_columns();
        Ok(())
    }
}

/// What `new` holds more than `old`.
fn difference(
    reader: &Snapshot,
    old: &Arc<Object>,
    new: &Arc<Object>,
    readable: bool,
    errors: &Delta,
) -> Result<Difference, SqlError> {
    let read = |object: &Arc<Object>, rows| match contents_of(object, rows)? {
        Contents::Stored(stored) => reader.read(stored),
        _ => Err(SqlError::internal("a view's rows are stored")),
    };
    let mut rows = vec![];
    if readable {
        let same = digest(read(old, Rows::Data)?)? == digest(read(new, Rows::Data)?)?;
        if !same {
            let mut all: Vec<Delta> = read(new, Rows::Data)?.collect::<Result<_, _>>()?;
            for piece in read(old, Rows::Data)? {
                all.push(piece?.negate());
            }
            rows.push(consolidate(&new.columns, &all));
        }
    }
    let schema: SchemaRef = tidemill_dataflow::operator::error_schema();
    let mut all = vec![errors.clone()];
    for piece in read(old, Rows::Errors)? {
        all.push(piece?.negate());
    }
    Ok(Difference {
        rows,
        errors: consolidate(&schema, &all),
    })
}

/// A number that is equal for equal multisets of rows, in whatever order and pieces they come.
fn digest(rows: DeltaIterator) -> Result<(u64, u64), SqlError> {
    let mut sums = (0u64, 0u64);
    for piece in rows {
        let piece = piece?;
        let hashes = hash_columns(piece.rows.columns(), piece.len());
        for (row, hash) in hashes.into_iter().enumerate() {
            let diff = piece.diffs.get(row) as u64;
            sums.0 = sums.0.wrapping_add(hash.wrapping_mul(diff));
            sums.1 = sums.1.wrapping_add(mix(hash).wrapping_mul(diff));
        }
    }
    Ok(sums)
}
