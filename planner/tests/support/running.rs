//! Views on a runtime, in memory only or over a store, and what they have given.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Receiver;
use tidemill_dataflow::plan::{DataflowPlan, OutputStorage, apply_maps};
use tidemill_dataflow::runtime::{
    Command, DataflowId, Event, Install, Runtime, RuntimeOptions, Scope,
};
use tidemill_dataflow::state::{Batches, StateHandle, StateReader};
use tidemill_planner::error::row_error;
use tidemill_storage::{
    ArrangementChange, ArrangementDesc, ArrangementKind, ArrangementVersion, Commit, RunBatch,
    Store,
};
use tidemill_zset::{ArrangementId, CollectionId, Delta, Epoch};

use super::data;
use super::front::Bound;

/// How long an epoch may take before the test gives up.
const PATIENCE: Duration = Duration::from_secs(120);

/// Arrangement ids of one view.
const IDS_PER_VIEW: u64 = 1000;

/// A row's text and how often it is there.
pub type Multiset = BTreeMap<String, i64>;

/// A compiled query of the list.
pub struct View {
    pub name: &'static str,
    pub bound: Bound,
    pub plan: Arc<DataflowPlan>,
}

impl View {
    /// Its arrangements, the output's own (if it has one) last.
    fn descs(&self, index: usize) -> Vec<ArrangementDesc> {
        let id = |k: usize| ArrangementId(index as u64 * IDS_PER_VIEW + k as u64);
        let specs = self.plan.arrangements().into_iter().enumerate();
        let mut descs: Vec<ArrangementDesc> = specs
            .map(|(k, spec)| ArrangementDesc {
                id: id(k),
                kind: spec.kind,
                schema: spec.schema,
                key_columns: spec.key_columns,
            })
            .collect();
        if let OutputStorage::Own = self.plan.output_storage() {
            descs.push(ArrangementDesc {
                id: id(IDS_PER_VIEW as usize - 1),
                kind: ArrangementKind::Add,
                schema: self.plan.root.schema.clone(),
                key_columns: self.plan.root.schema.fields().len(),
            });
        }
        descs
    }
}

/// Reads an arrangement's newest committed version.
struct Reader {
    store: Arc<Store>,
    id: ArrangementId,
}

impl Reader {
    fn version(&self) -> Option<Arc<ArrangementVersion>> {
        self.store.version().arrangement(self.id)
    }
}

impl StateReader for Reader {
    fn epoch(&self) -> Epoch {
        self.store.epoch().unwrap_or(-1)
    }

    fn is_empty(&self) -> bool {
        self.version().is_none_or(|v| v.runs() == 0)
    }

    fn get_many(&self, hashes: &[u64]) -> tidemill_storage::Result<Vec<RunBatch>> {
        self.version().map_or(Ok(vec![]), |v| v.get_many(hashes))
    }

    fn rows_estimate(&self) -> u64 {
        self.version().map_or(0, |v| v.rows_estimate())
    }

    fn range(&self, hashes: (u64, u64)) -> tidemill_storage::Result<Batches> {
        match self.version() {
            None => Ok(Box::new(std::iter::empty())),
            Some(v) => Ok(v.range_batches(Epoch::MAX, hashes)?),
        }
    }
}

/// The views, each as a live dataflow.
pub struct Running {
    pub workers: usize,
    /// What has come out, per view, added up.
    pub outputs: Vec<Multiset>,
    /// The error collection of each view, added up.
    pub errors: Vec<Multiset>,
    runtime: Runtime,
    events: Receiver<Event>,
    store: Option<Arc<Store>>,
    /// Arrangements that the next commit creates.
    create: Vec<ArrangementDesc>,
}

impl Running {
    /// Starts them; with a store that has an epoch, from what it holds. `state_bytes_max`: see `RuntimeOptions`.
    pub fn start(
        workers: usize,
        views: &[View],
        store: Option<Arc<Store>>,
        state_bytes_max: usize,
    ) -> Running {
        let (sender, events) = crossbeam_channel::unbounded();
        let options = RuntimeOptions {
            workers,
            partitions: 16,
            state_bytes_max,
            error_mapper: row_error,
        };
        let runtime = Runtime::start(options, sender).expect("threads can be started");
        let fresh = store.as_ref().is_none_or(|s| s.epoch().is_none());
        let mut create = vec![];
        for (i, view) in views.iter().enumerate() {
            let descs = view.descs(i);
            if fresh {
                create.extend(descs.iter().cloned());
            }
            let mut states: Vec<StateHandle> = descs
                .into_iter()
                .map(|desc| {
                    let reader = store.clone().map(|store| {
                        let reader: Arc<dyn StateReader> = Arc::new(Reader { store, id: desc.id });
                        reader
                    });
                    StateHandle { desc, reader }
                })
                .collect();
            let own = matches!(view.plan.output_storage(), OutputStorage::Own);
            let output = if own { states.pop() } else { None };
            runtime.send(Command::Install(Arc::new(Install {
                id: DataflowId(i as u64),
                plan: view.plan.clone(),
                states,
                collection: None,
                output_state: output.filter(|_| store.is_some()),
                fresh,
                scope: Scope::Live,
                demand: true,
            })));
        }
        Running {
            workers,
            outputs: vec![Multiset::new(); views.len()],
            errors: vec![Multiset::new(); views.len()],
            runtime,
            events,
            store,
            create,
        }
    }

    /// Gives input for the next epoch.
    pub fn feed(&self, collection: CollectionId, delta: Delta) {
        self.runtime.send(Command::Feed {
            scope: Scope::Live,
            collection,
            delta,
        });
    }

    /// Ends the epoch, takes in what came out, and commits what changed.
    pub fn finish(&mut self, epoch: Epoch) {
        self.runtime.send(Command::Finish {
            scope: Scope::Live,
            epoch,
        });
        let mut changes: Vec<ArrangementChange> = vec![];
        for _ in 0..self.workers {
            let results = match self.events.recv_timeout(PATIENCE).expect("the epoch ends") {
                Event::Done {
                    epoch: done,
                    results,
                    ..
                } => {
                    assert_eq!(done, epoch);
                    results
                }
                Event::Failed {
                    worker, message, ..
                } => {
                    panic!("worker {worker} of {}: {message}", self.workers)
                }
            };
            for result in results {
                let i = result.dataflow.0 as usize;
                result
                    .rows
                    .iter()
                    .for_each(|d| add(&mut self.outputs[i], d));
                result
                    .errors
                    .iter()
                    .for_each(|d| add(&mut self.errors[i], d));
                changes.extend(result.changes);
            }
        }
        if let Some(store) = &self.store {
            let commit = Commit {
                epoch,
                reserved_upper: epoch + 1,
                create: std::mem::take(&mut self.create),
                changes,
                ..Default::default()
            };
            store.commit(commit).expect("the epoch is committed");
        }
    }
}

/// What a reader of view `index` finds in the store.
pub fn stored(store: &Store, view: &View, index: usize) -> Multiset {
    let descs = view.descs(index);
    let (id, columns, maps) = match view.plan.output_storage() {
        OutputStorage::Own => {
            let desc = descs.last().expect("the output has one");
            (desc.id, (0..desc.key_columns).collect::<Vec<_>>(), vec![])
        }
        OutputStorage::Arrangement {
            index,
            columns,
            maps,
        } => (descs[index].id, columns, maps),
    };
    let mut out = Multiset::new();
    let Some(version) = store.version().arrangement(id) else {
        return out;
    };
    for delta in version.scan_columns(store.epoch().unwrap_or(0), &columns) {
        let (rows, errors) = apply_maps(&maps, delta.expect("the store is readable"), row_error);
        assert!(
            errors.iter().all(Delta::is_empty),
            "{}: {errors:?}",
            view.name
        );
        add(&mut out, &rows);
    }
    out
}

fn add(to: &mut Multiset, delta: &Delta) {
    for row in 0..delta.len() {
        let text = data::texts(&[delta.rows.slice(row, 1)]).remove(0);
        *to.entry(text).or_default() += delta.diffs.get(row);
    }
    to.retain(|_, n| *n != 0);
}
