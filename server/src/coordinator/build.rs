//! Builds: a view or a subscription's query is computed over what is there already, in a hidden dataflow
//! beside the live ones, and joins them between two epochs.
//!
//! A thread per build reads the inputs at one published version in bounded chunks, then the changes since, until little
//! is left; then the coordinator stops cutting for the one moment in which the build takes the rest and joins.
//! State goes to the store as staged runs that the joining epoch's commit makes visible; a crash before that leaves nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender};
use tidemill_dataflow::plan::{DataflowPlan, OutputStorage};
use tidemill_dataflow::runtime::{Command, DataflowId, DataflowResult, Install, Scope};
use tidemill_dataflow::state::{StateHandle, StateReader};
use tidemill_planner::SqlError;
use tidemill_storage::{
    ArrangementChange, ArrangementDesc, ArrangementKind, RunBatch, StagedRun, Store, StoreError,
};
use tidemill_zset::consolidate::consolidate;
use tidemill_zset::{ArrangementId, CollectionId, Delta, Epoch};
use tokio::sync::oneshot;

use super::{Coordinator, Following, Handle, Message, Owner, SharedRuntime};
use crate::catalog::record::{Ids, Kind, NEXT_ID_KEY, State, object_key, put};
use crate::catalog::{Detail, Object};
use crate::changes::Follower;
use crate::published::Published;
use crate::reader::{Snapshot, expand};

/// Rows in one step of a build: what the workers hold at once.
const CHUNK_ROWS_MAX: usize = 1 << 19;
/// A build whose inputs changed by fewer rows while it caught up joins now.
const SMALL_GAP_ROWS: usize = 50_000;
/// A build that can't get below the gap joins after this many rounds all the same.
const ROUNDS_MAX: usize = 20;

/// What is to be built.
pub struct BuildRequest {
    /// A view with its name and text, or a query.
    pub target: BuildTarget,
    /// The plan.
    pub plan: Arc<DataflowPlan>,
    /// Objects it reads.
    pub depends: Vec<u64>,
}

/// What a build becomes.
pub enum BuildTarget {
    /// A materialized view or an index: everything but its ids.
    View(Box<Object>),
    /// A subscription's query: its output is followed under a collection id of its own.
    Query {
        /// Columns of the output.
        schema: arrow::datatypes::SchemaRef,
    },
}

/// Answer to a build.
pub type BuildReply = oneshot::Sender<Result<Joined, SqlError>>;

/// A build that has joined.
pub struct Joined {
    /// Its dataflow.
    pub dataflow: DataflowId,
    /// For a query: its output's changes from now on.
    pub following: Option<Following>,
    /// For a query: its contents just before.
    pub snapshot: Vec<Delta>,
    /// For a query: the output's collection.
    pub collection: Option<CollectionId>,
}

/// What a build's thread has when it has taken in everything.
pub struct Built {
    staged: Vec<StagedRun>,
    errors: Delta,
    rows: Vec<Delta>,
}

type Report = (usize, Epoch, Vec<DataflowResult>);

/// A build under way, or the part of a live query that is still needed.
pub struct Build {
    target: BuildTarget,
    reply: Option<BuildReply>,
    /// Collections it reads.
    pub inputs: Vec<CollectionId>,
    reports: Sender<Report>,
    finish: Sender<Arc<Published>>,
    create: Vec<ArrangementDesc>,
    readers: Vec<Arc<LiveReader>>,
    depends: Vec<u64>,
}

impl Build {
    /// A worker has finished one of its hidden epochs.
    pub fn report(&self, worker: usize, epoch: Epoch, results: Vec<DataflowResult>) {
        // The thread is gone only if it has failed and said so.
        let _ = self.reports.send((worker, epoch, results));
    }
}

/// Reads an arrangement's newest committed version. While the arrangement is being built nothing of it is committed.
pub struct LiveReader {
    store: Arc<Store>,
    id: ArrangementId,
    building: AtomicBool,
}

impl LiveReader {
    /// A reader of `id`.
    pub fn new(store: Arc<Store>, id: ArrangementId, building: bool) -> Arc<Self> {
        Arc::new(LiveReader {
            store,
            id,
            building: AtomicBool::new(building),
        })
    }

    fn version(&self) -> Option<Arc<tidemill_storage::ArrangementVersion>> {
        if self.building.load(Ordering::Acquire) {
            None
        } else {
            self.store.version().arrangement(self.id)
        }
    }
}

impl StateReader for LiveReader {
    fn epoch(&self) -> Epoch {
        if self.building.load(Ordering::Acquire) {
            -1
        } else {
            self.store.version().epoch()
        }
    }

    fn is_empty(&self) -> bool {
        self.version().is_none_or(|v| v.runs() == 0)
    }

    fn get_many(&self, hashes: &[u64]) -> Result<Vec<RunBatch>, StoreError> {
        self.version().map_or(Ok(vec![]), |v| v.get_many(hashes))
    }

    fn scan(
        &self,
    ) -> Result<Box<dyn Iterator<Item = Result<RunBatch, StoreError>> + '_>, StoreError> {
        match self.version() {
            None => Ok(Box::new(std::iter::empty())),
            Some(v) => {
                let columns: Vec<usize> = (0..v.desc().schema.fields().len()).collect();
                Ok(Box::new(v.scan_batches(Epoch::MAX, &columns)))
            }
        }
    }
}

/// The arrangement of a view's own output.
pub fn output_desc(id: ArrangementId, schema: &arrow::datatypes::SchemaRef) -> ArrangementDesc {
    ArrangementDesc {
        id,
        kind: ArrangementKind::Add,
        schema: schema.clone(),
        key_columns: schema.fields().len(),
    }
}

/// The arrangement of the output of a view or an index.
pub fn stored_desc(id: ArrangementId, object: &Object) -> ArrangementDesc {
    match &object.detail {
        Detail::Index { plan, columns, .. } => ArrangementDesc {
            id,
            kind: ArrangementKind::Ordered,
            schema: plan.root.schema.clone(),
            key_columns: columns.len(),
        },
        _ => output_desc(id, &object.columns),
    }
}

/// Describes a plan's arrangements under the given ids.
pub fn state_descs(plan: &DataflowPlan, ids: &[State]) -> Vec<ArrangementDesc> {
    plan.arrangements()
        .into_iter()
        .zip(ids)
        .map(|(spec, state)| ArrangementDesc {
            id: state.id,
            kind: spec.kind,
            schema: spec.schema,
            key_columns: spec.key_columns,
        })
        .collect()
}

impl Coordinator {
    /// Begins a build. Nothing is under way, so every later change of its inputs is seen by its followers.
    pub(super) fn start_build(&mut self, request: BuildRequest, reply: BuildReply) {
        match self.prepare_build(&request) {
            Err(e) => {
                let _ = reply.send(Err(e));
            }
            Ok(ids) => self.launch_build(request, ids, reply),
        }
    }

    fn prepare_build(&mut self, request: &BuildRequest) -> Result<Ids, SqlError> {
        for id in &request.depends {
            if self.catalog.get(*id).is_none() {
                return Err(SqlError::new(
                    "42P01",
                    "a relation that the query reads was dropped meanwhile",
                ));
            }
        }
        if let BuildTarget::View(view) = &request.target {
            let key = (view.record.schema.clone(), view.record.name.clone());
            let name = tidemill_planner::ast::Name {
                schema: Some(key.0.clone()),
                name: key.1.clone(),
            };
            self.catalog.free_name(&name)?;
            if !self.reserved.insert(key) {
                return Err(SqlError::new(
                    "42P07",
                    format!("relation \"{}\" already exists", name.name),
                )
                .detail("A relation of that name is being created."));
            }
        }
        let catalog = Arc::make_mut(&mut self.catalog);
        let durable = matches!(request.target, BuildTarget::View(_));
        let is_index =
            matches!(&request.target, BuildTarget::View(v) if v.record.kind == Kind::Index);
        let states = request.plan.arrangements();
        let states = states.into_iter().map(|spec| State {
            id: ArrangementId(catalog.allocate()),
            fingerprint: spec.fingerprint,
        });
        let mut ids = Ids {
            states: states.collect(),
            ..Ids::default()
        };
        if is_index {
            // Nobody reads it by name, and a row that is stored can't fail.
            ids.rows = Some(ArrangementId(catalog.allocate()));
            return Ok(ids);
        }
        ids.collection = Some(CollectionId(catalog.allocate()));
        ids.errors_collection = Some(CollectionId(catalog.allocate()));
        if durable {
            if matches!(request.plan.output_storage(), OutputStorage::Own) {
                ids.rows = Some(ArrangementId(catalog.allocate()));
            }
            ids.errors = Some(ArrangementId(catalog.allocate()));
        }
        Ok(ids)
    }

    fn launch_build(&mut self, request: BuildRequest, ids: Ids, reply: BuildReply) {
        let id = DataflowId(self.next_dataflow);
        self.next_dataflow += 1;
        let durable = matches!(request.target, BuildTarget::View(_));
        let mut create = state_descs(&request.plan, &ids.states);
        let mut readers = Vec::new();
        let mut handle_of = |desc: &ArrangementDesc| {
            let reader = durable.then(|| {
                let reader = LiveReader::new(self.env.store.clone(), desc.id, true);
                readers.push(reader.clone());
                reader as Arc<dyn StateReader>
            });
            StateHandle {
                desc: desc.clone(),
                reader,
            }
        };
        let states = create.iter().map(&mut handle_of).collect();
        let output_state = match &request.target {
            BuildTarget::View(view) => ids.rows.map(|rows| {
                let desc = stored_desc(rows, view);
                let handle = handle_of(&desc);
                create.push(desc);
                handle
            }),
            BuildTarget::Query { .. } => None,
        };
        if let Some(errors) = ids.errors {
            create.push(output_desc(
                errors,
                &tidemill_dataflow::operator::error_schema(),
            ));
        }
        let install = Install {
            id,
            plan: request.plan.clone(),
            states,
            collection: ids.collection,
            output_state,
            fresh: true,
            scope: Scope::Hidden(id),
            demand: !durable,
        };
        self.runtime.send(Command::Install(Arc::new(install)));

        let published = self.env.publisher.pin();
        let inputs = request.plan.inputs();
        let followers = inputs
            .iter()
            .map(|c| self.env.changes.follow(*c, published.upper))
            .collect();
        inputs.iter().for_each(|c| self.demand(*c));
        let (reports, reported) = crossbeam_channel::unbounded();
        let (finish, finished) = crossbeam_channel::bounded(1);
        let thread = BuildThread {
            id,
            handle: self.handle.clone(),
            runtime: self.runtime.clone(),
            workers: self.workers,
            inputs: inputs.clone(),
            snapshot: Snapshot::of(&self.env, &published),
            followers,
            reports: reported,
            finish: finished,
            descs: if durable {
                create.iter().map(|d| (d.id, d.clone())).collect()
            } else {
                HashMap::new()
            },
            durable,
            step: 0,
            built: Built {
                staged: vec![],
                errors: Delta::empty(tidemill_dataflow::operator::error_schema()),
                rows: vec![],
            },
        };
        let name = format!("build {}", id.0);
        if let Err(e) = std::thread::Builder::new()
            .name(name)
            .spawn(move || thread.run())
        {
            self.failure = Some(format!("no thread for a build: {e}"));
        }
        let target = match request.target {
            BuildTarget::View(mut view) => {
                view.record.ids = ids;
                view.record.depends = request.depends.clone();
                BuildTarget::View(view)
            }
            BuildTarget::Query { schema } => {
                // A live query is found by its collection.
                let (rows, errors) = ids
                    .collection
                    .zip(ids.errors_collection)
                    .expect("just given");
                self.dataflows.insert(id, Owner::Query { rows, errors });
                BuildTarget::Query { schema }
            }
        };
        let build = Build {
            target,
            reply: Some(reply),
            inputs,
            reports,
            finish,
            create,
            readers,
            depends: request.depends,
        };
        self.builds.insert(id, build);
    }

    /// The build has caught up; nothing is under way and nothing will be until it has joined.
    pub(super) fn start_join(&mut self, id: DataflowId) {
        let Some(build) = self.builds.get(&id) else {
            return;
        };
        self.joining = Some(id);
        let _ = build.finish.send(self.env.publisher.pin());
    }

    pub(super) fn on_build_done(&mut self, id: DataflowId, result: Result<Built, SqlError>) {
        if self.joining == Some(id) {
            self.joining = None;
        }
        let gone = self
            .builds
            .get(&id)
            .is_none_or(|b| b.reply.as_ref().is_none_or(oneshot::Sender::is_closed));
        let lost = self
            .builds
            .get(&id)
            .and_then(|b| b.depends.iter().find(|d| self.catalog.get(**d).is_none()));
        let result = match (result, gone, lost) {
            (Ok(_), true, _) => Err(SqlError::new(
                "57014",
                "canceling statement due to user request",
            )),
            (Ok(_), _, Some(_)) => Err(SqlError::new(
                "42P01",
                "a relation that the query reads was dropped meanwhile",
            )),
            (result, ..) => result,
        };
        match result {
            Ok(built) => self.join(id, built),
            Err(e) => self.abandon_build(id, e),
        }
    }

    fn abandon_build(&mut self, id: DataflowId, e: SqlError) {
        self.runtime.send(Command::Drop(id));
        self.dataflows.remove(&id);
        let Some(build) = self.builds.remove(&id) else {
            return;
        };
        if let BuildTarget::View(view) = &build.target {
            self.reserved
                .remove(&(view.record.schema.clone(), view.record.name.clone()));
        }
        if let Some(reply) = build.reply {
            let _ = reply.send(Err(e));
        }
    }

    fn join(&mut self, id: DataflowId, built: Built) {
        let Some(mut build) = self.builds.remove(&id) else {
            return;
        };
        self.runtime.send(Command::Join(id));
        let reply = build.reply.take();
        match std::mem::replace(
            &mut build.target,
            BuildTarget::Query {
                schema: tidemill_dataflow::operator::error_schema(),
            },
        ) {
            BuildTarget::Query { schema } => {
                let Some(Owner::Query { rows, errors }) = self.dataflows.get(&id) else {
                    return;
                };
                let (collection, errors) = (*rows, *errors);
                build.target = BuildTarget::Query {
                    schema: schema.clone(),
                };
                self.builds.insert(id, build);
                self.recount_inputs();
                let published = self.env.publisher.pin();
                let follow = |c| self.env.changes.follow(c, published.upper);
                let followers = vec![follow(collection), follow(errors)];
                let following = Following {
                    published,
                    followers,
                };
                let snapshot = vec![consolidate(&schema, &built.rows)];
                let joined = Joined {
                    dataflow: id,
                    following: Some(following),
                    snapshot,
                    collection: Some(collection),
                };
                if let Some(reply) = reply
                    && reply.send(Ok(joined)).is_err()
                {
                    self.on_end_query(id);
                }
            }
            BuildTarget::View(view) => {
                self.reserved
                    .remove(&(view.record.schema.clone(), view.record.name.clone()));
                self.dataflows.insert(id, Owner::View(view.record.id));
                for reader in &build.readers {
                    reader.building.store(false, Ordering::Release);
                }
                self.publish_view(id, *view, build.create, built, reply);
            }
        }
    }

    /// The epoch that makes a built view visible.
    fn publish_view(
        &mut self,
        id: DataflowId,
        mut view: Object,
        create: Vec<ArrangementDesc>,
        built: Built,
        reply: Option<BuildReply>,
    ) {
        let catalog = Arc::make_mut(&mut self.catalog);
        view.record.id = catalog.allocate();
        self.dataflows.insert(id, Owner::View(view.record.id));
        let mut work_catalog = vec![put(object_key(view.record.id), &view.record)];
        work_catalog.push(put(NEXT_ID_KEY.into(), &catalog.next_id()));
        let errors = view.record.ids.errors;
        catalog.put(Arc::new(view));
        self.recount_inputs();
        let mut work = self.begin_epoch();
        work.catalog = Some(self.catalog.clone());
        work.commit.catalog.extend(work_catalog);
        // What was built carries epochs of its own, so nothing before the joining epoch can be read.
        work.commit.since = create.iter().map(|d| (d.id, work.epoch)).collect();
        work.commit.create = create;
        work.commit.staged = built.staged;
        if let Some(arrangement) = errors.filter(|_| !built.errors.is_empty()) {
            work.commit.changes.push(ArrangementChange {
                arrangement,
                hashes: vec![],
                delta: built.errors,
            });
        }
        if let Some(reply) = reply {
            work.after.push(Box::new(move |_, _| {
                let _ = reply.send(Ok(Joined {
                    dataflow: id,
                    following: None,
                    snapshot: vec![],
                    collection: None,
                }));
            }));
        }
        self.finish_cut(work);
    }
}

/// The thread that feeds a build.
struct BuildThread {
    id: DataflowId,
    handle: Handle,
    runtime: Arc<SharedRuntime>,
    workers: usize,
    inputs: Vec<CollectionId>,
    /// The version of which everything has been taken in, but for `followers` that are behind it.
    snapshot: Snapshot,
    followers: Vec<Follower>,
    reports: Receiver<Report>,
    finish: Receiver<Arc<Published>>,
    descs: HashMap<ArrangementId, ArrangementDesc>,
    durable: bool,
    /// Number of the last hidden epoch. They count from 1, far below any epoch of the clock.
    step: Epoch,
    built: Built,
}

impl BuildThread {
    fn run(mut self) {
        let result = self.build();
        let built = result.map(|()| self.built);
        self.handle.send(Message::BuildDone(self.id, built));
    }

    fn build(&mut self) -> Result<(), SqlError> {
        for collection in self.inputs.clone() {
            let mut rows = 0;
            for piece in self.snapshot.deltas(collection)? {
                let piece = piece?;
                rows += piece.len();
                self.feed(collection, piece);
                if rows >= CHUNK_ROWS_MAX {
                    rows = 0;
                    self.step()?;
                }
            }
        }
        self.step()?;
        for _ in 0..ROUNDS_MAX {
            let published = self.handle.env.publisher.pin();
            if self.catch_up(published)? < SMALL_GAP_ROWS {
                break;
            }
        }
        self.handle.send(Message::BuildReady(self.id));
        let published = self.finish.recv().map_err(|_| super::shutting_down())?;
        self.catch_up(published)?;
        Ok(())
    }

    /// Takes in all changes up to `published`; gives their number of rows.
    fn catch_up(&mut self, published: Arc<Published>) -> Result<usize, SqlError> {
        let mut rows = 0;
        let newer = Snapshot::of(&self.handle.env, &published);
        for follower in std::mem::take(&mut self.followers) {
            let collection = follower.collection();
            match follower.read(published.upper) {
                Some(changes) => {
                    for delta in changes.iter().flat_map(|(_, deltas)| deltas.iter()) {
                        rows += delta.len();
                        self.feed(collection, delta.clone());
                    }
                }
                None => {
                    // Too far behind for the changes in memory.
                    let mut taken = 0;
                    for delta in newer.changes_since(&self.snapshot.published, collection)? {
                        let delta = delta?;
                        (rows, taken) = (rows + delta.len(), taken + delta.len());
                        self.feed(collection, delta);
                        if taken >= CHUNK_ROWS_MAX {
                            taken = 0;
                            self.step()?;
                        }
                    }
                    follower.skip(published.upper);
                }
            }
            self.followers.push(follower);
        }
        self.snapshot = newer;
        if rows > 0 {
            self.step()?;
        }
        Ok(rows)
    }

    fn feed(&self, collection: CollectionId, delta: Delta) {
        if !delta.is_empty() {
            self.runtime.send(Command::Feed {
                scope: Scope::Hidden(self.id),
                collection,
                delta,
            });
        }
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
        self.built.errors = consolidate(&tidemill_dataflow::operator::error_schema(), &errors);
        if !self.durable {
            if !self.built.errors.is_empty() {
                let row = &self.built.errors.rows;
                return Err(crate::reader::row_error(
                    "subscription",
                    &expand(&Delta::insert(row.clone()))?,
                ));
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
