//! The coordinator: one thread that owns time. It cuts epochs, has workers compute them, has the
//! committer make them durable, publishes them, and sequences DDL between them.
//!
//! ```text
//! cut(E) → workers → Done(E) from each → commit(E) on its own thread → publish(E), replies
//! ```
//! One epoch computes while those before it commit. Everything that reaches the coordinator is a
//! [`Message`]; the files beside this one each hold one concern:
//! `cut` (input → epoch), `group` (epochs → commit), `publish` (epoch → readers), `tables` (constraints and conflicts of writes), `unique`, `ddl`
//! (objects come and go), `alter`, `build`, `backfill` and `duplicates` (a view or query
//! joins), `sources`, `sinks`, `sink_writer`, `recover`
//! (start), `stale` and `upgrade` (views that this version computes differently), `rename`.

pub mod alter;
pub mod backfill;
pub mod build;
pub mod clock;
mod columns;
mod cut;
pub mod ddl;
pub(crate) mod drop;
pub mod duplicates;
mod group;
pub mod ids;
mod panicked;
mod publish;
pub mod recover;
pub(crate) mod rename;
pub mod reply;
pub mod sequences;
mod sink_writer;
pub mod sinks;
pub mod sources;
pub mod stale;
pub mod tables;
pub mod unique;
pub mod upgrade;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use tidemill_dataflow::plan::ColumnsRead;
use tidemill_dataflow::runtime::{Command, DataflowId, Event, Runtime, Scope};
use tidemill_planner::SqlError;
use tidemill_planner::query::Planner;
use tidemill_storage::{Commit, OffsetChange, Store, StoreError, StoreVersion};
use tidemill_zset::{ArrangementId, CollectionId, Delta, Epoch};
use tokio::sync::oneshot;

use crate::catalog::{Catalog, Change};
use crate::changes::{ChangeLog, Follower};
use crate::numbers::Numbers;
use crate::published::{Published, Publisher};
use crate::status::Status;
use crate::system::SystemRelations;

use alter::{HeldTables, Hold};
use build::{Build, BuildReply, BuildRequest, WaitingBuild};
use clock::Clock;
use ddl::{Ddl, DdlReply};
use panicked::Panicked;
use sequences::NumberRequest;
use sinks::RunningSink;
use sources::{Awaited, RunningSource};
use tables::{WriteLog, WriteRequest};
use upgrade::Upgrade;

/// How often an idle coordinator looks at the clock: `upper` follows it at least this closely.
const TICK: Duration = Duration::from_millis(250);
/// How long changes of the catalog alone (progress of sinks, `since`) may wait for an epoch to ride in.
const RIDE: Duration = Duration::from_millis(500);

/// What all parts of the server share.
pub struct Env {
    /// Durable state.
    pub store: Arc<Store>,
    /// What readers see.
    pub publisher: Arc<Publisher>,
    /// Recent changes in memory.
    pub changes: Arc<ChangeLog>,
    /// SQL.
    pub planner: Planner,
    /// Relations of the system.
    pub system: Arc<SystemRelations>,
    /// Counters of columns that number rows.
    pub numbers: Arc<Numbers>,
    /// What is going on, for system relations.
    pub status: Arc<Status>,
    /// Where tests kill the process.
    pub fail: tidemill_storage::FailPoints,
    /// For blocking threads that wait for async things.
    pub tokio: tokio::runtime::Handle,
}

/// Everything that reaches the coordinator.
pub enum Message {
    /// Some source has input.
    Wake,
    /// A transaction wants to commit its writes.
    Write(WriteRequest),
    /// A transaction wants to know if what it read is still so; it writes nothing.
    Check(WriteRequest),
    /// A statement that changes the catalog.
    Ddl(Ddl, DdlReply),
    /// A sequence has to store something.
    Number(NumberRequest),
    /// Nobody else is to write to a table.
    Hold(Hold),
    /// Others may write to a table again.
    Release(u64),
    /// A view or a query wants to join.
    Build(Box<BuildRequest>, BuildReply),
    /// Somebody wants the changes of collections from now on.
    Follow(
        Vec<CollectionId>,
        oneshot::Sender<Result<Following, SqlError>>,
    ),
    /// A build has caught up as far as it can by itself.
    BuildReady(DataflowId),
    /// A build has taken in everything up to the upper that it was told.
    BuildDone(DataflowId, Result<backfill::Built, SqlError>),
    /// A rebuilt view has been compared with what it was.
    Compared(Result<upgrade::Difference, SqlError>),
    /// A query's dataflow is no longer wanted.
    EndQuery(DataflowId),
    /// A sink has synced its file.
    SinkProgress(u64, crate::catalog::record::SinkProgress),
    /// The committer has finished.
    Committed(Result<StoreVersion, StoreError>),
    /// Somebody wants to read sources that may not have begun; answered when they have something to show.
    Read(Vec<u64>, oneshot::Sender<Result<(), SqlError>>),
    /// Finish what is under way, then stop.
    Stop(oneshot::Sender<()>),
}

/// The answer to [`Message::Follow`]: a version, and all changes after it.
pub struct Following {
    /// The version.
    pub published: Arc<Published>,
    /// One per collection, positioned at `published.upper`.
    pub followers: Vec<Follower>,
}

/// The coordinator's address.
#[derive(Clone)]
pub struct Handle {
    sender: Sender<Message>,
    awake: Arc<AtomicBool>,
    /// What is shared.
    pub env: Arc<Env>,
}

impl Handle {
    /// Sends a message; after the coordinator has stopped it goes nowhere, and replies come back closed.
    pub fn send(&self, message: Message) {
        let _ = self.sender.send(message);
    }

    /// Sends `Wake`, unless one is already under way.
    pub fn wake(&self) {
        if !self.awake.swap(true, Ordering::AcqRel) {
            self.send(Message::Wake);
        }
    }

    /// Why the coordinator doesn't answer.
    fn gone(&self) -> SqlError {
        let Some(reason) = self.env.status.server_failure() else {
            return shutting_down();
        };
        SqlError::new("57P02", format!("the server can't go on: {reason}"))
            .detail("Whether this statement was committed shows after a restart.")
            .hint("What was acknowledged is durable. The server's log says more.")
    }

    /// Sends a message with a reply and waits for it.
    pub async fn ask<T>(
        &self,
        message: impl FnOnce(oneshot::Sender<Result<T, SqlError>>) -> Message,
    ) -> Result<T, SqlError> {
        let (reply, answer) = oneshot::channel();
        self.send(message(reply));
        answer.await.map_err(|_| self.gone())?
    }
}

/// The error of everything that was under way when the server stopped.
pub fn shutting_down() -> SqlError {
    SqlError::new(
        "57P01",
        "terminating connection due to administrator command",
    )
}

/// What to do once an epoch is published.
type AfterPublish = Box<dyn FnOnce(&mut Coordinator, &Arc<Published>) + Send>;

/// An epoch on its way.
struct EpochWork {
    epoch: Epoch,
    cut_at: Instant,
    /// A source had at least as much input waiting, when it was cut, as an epoch takes.
    behind: bool,
    commit: Commit,
    /// Deltas of followed collections.
    deltas: Vec<(CollectionId, Vec<Delta>)>,
    /// Changed offsets of sources that aren't recorded: the next version names them.
    offsets: Vec<OffsetChange>,
    /// Workers that haven't reported.
    remaining: usize,
    /// The catalog from this epoch on, if it changes.
    catalog: Option<Arc<Catalog>>,
    /// Writes wait until it is committed: it has some, or an index that those to come are checked with.
    has_writes: bool,
    /// Somebody waits for numbers that it passes over.
    is_awaited: bool,
    after: Vec<AfterPublish>,
}

/// Who a dataflow works for.
enum Owner {
    /// A materialized view, by object id.
    View(u64),
    /// A subscription's query; its output and its errors have these collection ids.
    Query {
        rows: CollectionId,
        errors: CollectionId,
    },
}

/// The state of the loop. See the module's documentation.
pub struct Coordinator {
    env: Arc<Env>,
    handle: Handle,
    runtime: Arc<SharedRuntime>,
    workers: usize,
    /// Bytes of operator state in memory, all workers together.
    state_bytes_max: usize,
    messages: Receiver<Message>,
    events: Receiver<Event>,
    commits: Sender<Vec<Commit>>,
    clock: Clock,
    /// Including DDL of epochs on their way.
    catalog: Arc<Catalog>,
    /// Names taken by views under construction, and what waits to be built under them.
    reserved: HashMap<(String, String), Vec<WaitingBuild>>,
    sources: BTreeMap<u64, RunningSource>,
    /// Readers that wait for the first rows of sources.
    awaited: Vec<Awaited>,
    sinks: BTreeMap<u64, RunningSink>,
    dataflows: HashMap<DataflowId, Owner>,
    /// What live dataflows read from outside.
    read_by_dataflows: ColumnsRead,
    next_dataflow: u64,
    builds: HashMap<DataflowId, Build>,
    /// The build that everything waits for while it takes its last step.
    joining: Option<DataflowId>,
    write_log: WriteLog,
    writes: VecDeque<WriteRequest>,
    numbers_wanted: Vec<NumberRequest>,
    held: HeldTables,
    quiet_work: VecDeque<QuietWork>,
    /// Something was done quietly since the last cut, so that input goes before more of it.
    input_turn: bool,
    /// Catalog changes that ride in the next epoch, since when.
    riding: Vec<Change>,
    riding_since: Option<Instant>,
    /// How long an epoch takes from its cut to its publication, smoothed.
    epoch_takes: Duration,
    computing: Option<EpochWork>,
    /// Epochs that the workers have computed, for the next commit; in order.
    computed: Vec<EpochWork>,
    /// Epochs that one commit makes durable; in order.
    committing: Vec<EpochWork>,
    last_since: Instant,
    /// Views that must be rebuilt before anything else happens.
    upgrade: Upgrade,
    panicked: Panicked,
    /// Arrangements that a rebuild left behind, to drop with the next epoch; and their notes.
    left_behind: (Vec<ArrangementId>, Vec<Change>),
    /// When `upper` was last published.
    upper_moved: Instant,
    stopping: Option<oneshot::Sender<()>>,
    failure: Option<String>,
}

/// What must happen between two epochs, with nothing under way.
enum QuietWork {
    Ddl(Ddl, DdlReply),
    Hold(Hold),
    Build(Box<BuildRequest>, BuildReply),
    Follow(
        Vec<CollectionId>,
        oneshot::Sender<Result<Following, SqlError>>,
    ),
    Join(DataflowId),
}

/// The runtime, with one order of commands for all senders.
pub struct SharedRuntime(parking_lot::Mutex<Option<Runtime>>);

impl SharedRuntime {
    /// Wraps a started runtime.
    pub fn new(runtime: Runtime) -> Self {
        SharedRuntime(parking_lot::Mutex::new(Some(runtime)))
    }

    /// Sends a command to the workers. False: none of them has anything to do, nor to report.
    pub fn send(&self, command: Command) -> bool {
        let runtime = self.0.lock();
        runtime.as_ref().is_none_or(|r| r.send(command))
    }

    fn shutdown(&self) {
        if let Some(runtime) = self.0.lock().take() {
            runtime.shutdown();
        }
    }
}

impl Coordinator {
    /// Runs until stopped. An `Err` is a reason to end the process: what was not acknowledged is not durable,
    /// and a restart resumes from the last commit.
    pub fn run(mut self) -> Result<(), String> {
        loop {
            crossbeam_channel::select! {
                recv(self.messages) -> message => match message {
                    Ok(message) => self.on_message(message),
                    Err(_) => return Ok(()),
                },
                recv(self.events) -> event => match event {
                    Ok(event) => self.on_event(event),
                    Err(_) => self.failure = Some("the workers are gone".into()),
                },
                default(self.patience()) => {}
            }
            while let Ok(message) = self.messages.try_recv() {
                self.on_message(message);
            }
            while let Ok(event) = self.events.try_recv() {
                self.on_event(event);
            }
            self.step();
            if let Some(failure) = self.failure.take() {
                self.env.status.server_failed(failure.clone());
                return Err(failure);
            }
            if self.is_quiet() && self.stopping.is_some() && self.joining.is_none() {
                return self.stop();
            }
        }
    }

    fn stop(mut self) -> Result<(), String> {
        for source in self.sources.values_mut() {
            source.stop();
        }
        for (_, sink) in std::mem::take(&mut self.sinks) {
            sink.stop();
        }
        self.runtime.shutdown();
        // What was reserved beyond `upper` was never shown: the next start needn't skip it.
        let upper = self.env.publisher.pin().upper;
        let store = &self.env.store;
        if let Err(e) = store.release(upper).and_then(|()| store.copy_manifest()) {
            tracing::warn!(error = %e, "the store could not be put in order");
        }
        if let Some(reply) = self.stopping.take() {
            let _ = reply.send(());
        }
        Ok(())
    }

    fn on_message(&mut self, message: Message) {
        match message {
            Message::Wake => self.handle.awake.store(false, Ordering::Release),
            Message::Write(request) => self.on_write(request),
            Message::Check(request) => self.check_reads(request),
            Message::Number(request) => self.numbers_wanted.push(request),
            Message::Hold(hold) => self.quiet_work.push_back(QuietWork::Hold(hold)),
            Message::Release(table) => self.on_release(table),
            Message::Ddl(ddl, reply) => self.quiet_work.push_back(QuietWork::Ddl(ddl, reply)),
            Message::Build(request, reply) => {
                self.quiet_work.push_back(QuietWork::Build(request, reply))
            }
            Message::Follow(collections, reply) => self.on_follow(collections, reply),
            Message::BuildReady(id) => self.quiet_work.push_back(QuietWork::Join(id)),
            Message::BuildDone(id, result) => self.on_build_done(id, result),
            Message::Compared(difference) => self.on_compared(difference),
            Message::EndQuery(id) => self.on_end_query(id),
            Message::SinkProgress(id, progress) => self.on_sink_progress(id, progress),
            Message::Committed(Ok(version)) => self.publish(version),
            Message::Committed(Err(e)) => self.failure = Some(format!("commit failed: {e}")),
            Message::Read(sources, reply) => self.on_read(sources, reply),
            Message::Stop(reply) => self.stopping = Some(reply),
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Done {
                scope: Scope::Live,
                epoch,
                results,
                ..
            } => {
                let mut work = self
                    .computing
                    .take()
                    .expect("workers report only epochs that were cut");
                assert_eq!(work.epoch, epoch, "workers report epochs in order");
                work.remaining -= 1;
                self.collect(&mut work, results);
                self.computing = Some(work);
            }
            Event::Done {
                scope: Scope::Hidden(id),
                worker,
                epoch,
                results,
            } => {
                if let Some(build) = self.builds.get(&id) {
                    build.report(worker, epoch, results);
                }
            }
            Event::Failed {
                worker,
                message,
                damaged,
                dataflow,
            } => {
                if let Some(view) = dataflow.and_then(|id| self.view_of(id)) {
                    let catalog = &self.env.publisher.pin().catalog;
                    self.panicked.note(view, &message, catalog);
                }
                let advice = damaged.map_or(String::new(), |id| self.advice(id));
                self.failure = Some(format!("worker {worker} failed: {message}{advice}"));
            }
        }
    }

    /// The materialized view that a dataflow maintains or rebuilds.
    fn view_of(&self, dataflow: DataflowId) -> Option<u64> {
        match self.dataflows.get(&dataflow) {
            Some(Owner::View(id)) => Some(*id),
            Some(Owner::Query { .. }) => None,
            None => self
                .upgrade
                .rebuilds()
                .filter(|_| self.builds.contains_key(&dataflow)),
        }
    }

    /// What can be done about damaged state. A view's can be computed again.
    fn advice(&self, state: ArrangementId) -> String {
        let mut objects = self.catalog.objects();
        let view = objects.find(|o| o.record.ids.states.iter().any(|s| s.id == state));
        match view {
            Some(view) => {
                let name = view.display_name();
                format!(
                    "; it belongs to the materialized view {name}: after a restart DROP it before anything that it reads is written to, \
                     and create it again, or restore the data directory from a backup"
                )
            }
            None => "; restore the data directory from a backup".into(),
        }
    }

    /// Does everything that has become possible.
    fn step(&mut self) {
        self.answer_awaited();
        self.abandon_unwanted_builds();
        self.take_computed();
        if self.is_quiet() && self.upgrade.is_under_way() {
            self.step_upgrade();
        }
        while self.is_quiet() && self.joining.is_none() && !self.upgrade.is_under_way() {
            let Some(work) = self.quiet_work.pop_front() else {
                break;
            };
            self.do_quietly(work);
            self.input_turn = true;
        }
        if self.may_cut() && self.should_cut() {
            self.cut();
        }
        // An epoch may have had nothing for the workers.
        self.take_computed();
        if self.is_quiet() {
            self.follow_clock();
        }
    }

    /// Takes over the epoch that the workers are done with, and commits if it is time.
    fn take_computed(&mut self) {
        self.computed
            .extend(self.computing.take_if(|w| w.remaining == 0));
        if self.should_commit() {
            self.start_commit();
        }
    }

    fn do_quietly(&mut self, work: QuietWork) {
        match work {
            QuietWork::Ddl(ddl, reply) => self.do_ddl(ddl, reply),
            QuietWork::Hold(hold) => self.hold(hold),
            QuietWork::Build(request, reply) => self.start_build(*request, reply),
            QuietWork::Follow(collections, reply) => self.do_follow(collections, reply),
            QuietWork::Join(id) => self.start_join(id),
        }
    }

    /// The workers are free for an epoch, and nothing that must happen between two waits. Under load one epoch is always
    /// cut while others commit and nothing would ever be quiet by itself: what waits for that gets it, then input has
    /// its turn.
    fn may_cut(&self) -> bool {
        self.computing.is_none()
            && (self.computed.is_empty() || self.group_is_open())
            && self.joining.is_none()
            && !self.upgrade.is_under_way()
            && (self.quiet_work.is_empty() || self.input_turn)
    }

    /// No epoch is under way.
    fn is_quiet(&self) -> bool {
        self.computing.is_none() && self.all_is_committed()
    }

    /// No epoch but the one that is being cut or computed is under way.
    fn all_is_committed(&self) -> bool {
        self.computed.is_empty() && self.committing.is_empty()
    }

    /// An epoch with writes, or with an index that they will be checked with, isn't committed yet.
    fn writes_are_under_way(&self) -> bool {
        let mut earlier = self.computed.iter().chain(&self.committing);
        earlier.any(|w| w.has_writes)
    }

    /// How long the loop may sleep.
    fn patience(&self) -> Duration {
        let (takes, may_cut) = (self.epoch_takes, self.may_cut());
        let inputs = self.sources.values().filter(|_| may_cut);
        let inputs = inputs.filter_map(|s| s.due(takes));
        let due = inputs.chain(self.group_due()).min();
        due.map_or(TICK, |at| {
            at.saturating_duration_since(Instant::now()).min(TICK)
        })
    }

    /// Moves `upper` on with the clock while nothing is committed.
    fn follow_clock(&mut self) {
        let published = self.env.publisher.pin();
        let waited = self.upper_moved.elapsed();
        let Some(upper) = self.clock.idle_upper(published.upper, waited, TICK) else {
            return;
        };
        if let Some(bound) = self.clock.idle_reservation(upper) {
            if let Err(e) = self.env.store.reserve(bound) {
                self.failure = Some(format!("the clock could not be reserved: {e}"));
                return;
            }
            self.clock.reserved(bound);
        }
        self.clock.passed(upper);
        self.upper_moved = Instant::now();
        self.env.publisher.publish(Published {
            upper,
            ..published.as_ref().clone()
        });
    }

    fn on_follow(
        &mut self,
        collections: Vec<CollectionId>,
        reply: oneshot::Sender<Result<Following, SqlError>>,
    ) {
        if collections.iter().all(|c| self.env.changes.is_followed(*c)) {
            // The changes are already on their way; no need to wait for a quiet moment.
            self.do_follow(collections, reply);
        } else {
            self.quiet_work
                .push_back(QuietWork::Follow(collections, reply));
        }
    }

    fn do_follow(
        &mut self,
        collections: Vec<CollectionId>,
        reply: oneshot::Sender<Result<Following, SqlError>>,
    ) {
        let published = self.env.publisher.pin();
        let followers: Vec<Follower> = collections
            .iter()
            .map(|c| self.follow(*c, published.upper))
            .collect();
        for collection in collections {
            self.demand(collection);
            self.begin_source_of(collection);
        }
        let _ = reply.send(Ok(Following {
            published,
            followers,
        }));
    }

    /// Has the dataflow of `collection`, if there is one, give its output deltas from the next epoch on.
    fn demand(&self, collection: CollectionId) {
        for (id, owner) in &self.dataflows {
            let output = match owner {
                Owner::View(object) => self
                    .catalog
                    .get(*object)
                    .and_then(|o| o.record.ids.collection),
                Owner::Query { rows, .. } => Some(*rows),
            };
            if output == Some(collection) {
                self.runtime.send(Command::Demand(*id, true));
            }
        }
    }

    fn on_end_query(&mut self, id: DataflowId) {
        self.builds.remove(&id);
        if matches!(self.dataflows.remove(&id), Some(Owner::Query { .. })) {
            self.runtime.send(Command::Drop(id));
            self.recount_inputs();
        }
    }
}
