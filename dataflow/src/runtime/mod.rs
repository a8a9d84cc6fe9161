//! Workers: threads that run dataflows on timely and report each epoch's results.
//!
//! Commands reach every worker in the same order. Two kinds of scope exist: the *live* scope, in which all
//! published dataflows step through the same epochs together, each through those that change what it reads, and one *hidden*
//! scope per dataflow under construction, which steps through epochs of its own until it joins the live scope.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::Thread;

use crossbeam_channel::Sender;
use parking_lot::Mutex;
use tidemill_storage::ArrangementChange;
use tidemill_zset::{ArrangementId, CollectionId, Delta, Epoch};
use timely::communication::WorkerGuards;

use self::rounds::SETTLED_AFTER;
use crate::plan::{DataflowPlan, ErrorMapper};
use crate::state::{StateHandle, Unreadable};

mod adapter;
mod batch;
mod graph;
mod passing;
mod rounds;
mod worker;

/// A dataflow's number; never reused within a run of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DataflowId(pub u64);

/// A smaller share of input isn't worth another worker, in rows.
const SHARE_ROWS_MIN: usize = 1024;

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
    /// A piece of a collection's delta for the next epoch of `scope`; each worker gets a share of its rows.
    Feed {
        /// Which dataflows.
        scope: Scope,
        /// Whose delta.
        collection: CollectionId,
        /// The piece.
        delta: Delta,
    },
    /// No more input for `epoch` in `scope`: compute and report `Done`. Of the live dataflows those take part that read
    /// something that changes.
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
        /// The state that is damaged.
        damaged: Option<ArrangementId>,
        /// The dataflow whose operator panicked, if it was one's.
        dataflow: Option<DataflowId>,
    },
}

/// Settings of the runtime.
#[derive(Clone, Debug)]
pub struct RuntimeOptions {
    /// Worker threads, at least 1.
    pub workers: usize,
    /// Partitions of the data directory (a power of two); worker of a key = partition % workers.
    pub partitions: u32,
    /// Bytes of operator state kept in memory per worker before cold state is dropped from memory;
    /// shared out among the arrangements there are when a dataflow is built.
    pub state_bytes_max: usize,
    /// How evaluation errors become SQLSTATE and message.
    pub error_mapper: ErrorMapper,
}

/// Why the runtime couldn't be started.
#[derive(Debug, thiserror::Error)]
#[error("can't start workers: {0}")]
pub struct StartError(String);

/// The running workers. Dropping it ends them.
pub struct Runtime {
    workers: Vec<WorkerHandle>,
    /// Who gets the next piece of input.
    turn: AtomicUsize,
    open: Mutex<OpenEpoch>,
    threads: Option<WorkerGuards<()>>,
}

/// What the live epoch that isn't finished has for the workers.
#[derive(Default)]
struct OpenEpoch {
    /// Collections with input, maybe more than once.
    fed: Vec<CollectionId>,
    /// A dataflow became live, and has its first step to come.
    joined: bool,
    /// So many epochs are for the workers whatever they have: some dataflow may not have settled.
    settling: u64,
}

struct WorkerHandle {
    orders: Sender<Order>,
    thread: Thread,
}

/// What one worker is told.
#[derive(Clone)]
enum Order {
    /// A command, of `Feed` this worker's share.
    Command(Command),
    /// The end of a live epoch that has input of these collections, on whichever worker.
    FinishLive(Epoch, Arc<[CollectionId]>),
}

impl Runtime {
    /// Starts the worker threads; they report to `events`.
    pub fn start(options: RuntimeOptions, events: Sender<Event>) -> Result<Runtime, StartError> {
        assert!(
            options.partitions.is_power_of_two(),
            "partitions are a power of two"
        );
        let workers = options.workers.max(1);
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..workers)
            .map(|_| crossbeam_channel::unbounded::<Order>())
            .unzip();
        let body = move |timely: &mut timely::worker::Worker| {
            let index = timely.index();
            let orders = receivers[index].clone();
            let mut worker = worker::Worker::new(timely, options.clone(), orders, events.clone());
            let run = std::panic::AssertUnwindSafe(|| worker.run());
            if let Err(panic) = std::panic::catch_unwind(run) {
                let message = panic_message(panic.as_ref());
                let unreadable = panic.downcast_ref::<Unreadable>();
                let damaged = unreadable.filter(|u| u.damaged).map(|u| u.id);
                let dataflow = adapter::at_work().filter(|_| unreadable.is_none());
                // If nobody listens any more, the process is ending.
                let _ = events.send(Event::Failed {
                    worker: index,
                    message,
                    damaged,
                    dataflow,
                });
                // Timely would go on stepping the broken dataflows.
                for dataflow in timely.installed_dataflows() {
                    timely.drop_dataflow(dataflow);
                }
            }
        };
        let threads =
            timely::execute(timely::Config::process(workers), body).map_err(StartError)?;
        let handles = threads.guards().iter().zip(senders);
        let workers = handles
            .map(|(guard, orders)| WorkerHandle {
                orders,
                thread: guard.thread().clone(),
            })
            .collect();
        Ok(Runtime {
            workers,
            turn: AtomicUsize::new(0),
            open: Mutex::default(),
            threads: Some(threads),
        })
    }

    /// Gives a command to the workers: [`Command::Feed`] is shared out among them, anything else goes to all. Never blocks. False: it
    /// ends a live epoch that has nothing for any worker; none is woken, and none will report.
    pub fn send(&self, command: Command) -> bool {
        match command {
            Command::Feed {
                scope,
                collection,
                delta,
            } => self.share_out(scope, collection, &delta),
            Command::Finish {
                scope: Scope::Live,
                epoch,
            } => return self.finish_live(epoch),
            command => {
                self.open.lock().joined |= match &command {
                    Command::Join(_) => true,
                    Command::Install(install) => install.scope == Scope::Live,
                    _ => false,
                };
                self.send_all(Order::Command(command));
            }
        }
        true
    }

    fn finish_live(&self, epoch: Epoch) -> bool {
        let mut open = self.open.lock();
        let fed = std::mem::take(&mut open.fed);
        if std::mem::take(&mut open.joined) || !fed.is_empty() {
            open.settling = SETTLED_AFTER + 1;
        }
        let Some(settling) = open.settling.checked_sub(1) else {
            return false;
        };
        open.settling = settling;
        self.send_all(Order::FinishLive(epoch, fed.into()));
        true
    }

    fn send_all(&self, order: Order) {
        for worker in &self.workers {
            worker.send(order.clone());
        }
    }

    /// Gives each worker a part of the rows, if there are enough.
    fn share_out(&self, scope: Scope, collection: CollectionId, delta: &Delta) {
        if scope == Scope::Live {
            self.open.lock().fed.push(collection);
        }
        let rows = delta.len();
        let share = rows.div_ceil(self.workers.len()).max(SHARE_ROWS_MIN);
        for from in (0..rows).step_by(share) {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            self.workers[turn % self.workers.len()].send(Order::Command(Command::Feed {
                scope,
                collection,
                delta: delta.slice(from, share.min(rows - from)),
            }));
        }
    }

    /// Ends the worker threads and waits for them.
    pub fn shutdown(self) {
        drop(self);
    }
}

impl WorkerHandle {
    fn send(&self, order: Order) {
        // A worker that is gone has reported why.
        let _ = self.orders.send(order);
        self.thread.unpark();
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.send_all(Order::Command(Command::Shutdown));
        if let Some(threads) = self.threads.take() {
            for ended in threads.join() {
                if let Err(e) = ended {
                    tracing::error!("a worker ended with a panic: {e}");
                }
            }
        }
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    if let Some(unreadable) = panic.downcast_ref::<Unreadable>() {
        return unreadable.message.clone();
    }
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(s), _) => s.to_string(),
        (_, Some(s)) => s.clone(),
        _ => "a worker panicked without a message".to_string(),
    }
}
