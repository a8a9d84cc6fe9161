//! Builds: a view or a subscription's query is computed over what is there already, in a hidden dataflow
//! beside the live ones, and joins them between two epochs.
//!
//! A thread per build (`backfill`) reads the inputs at one published version in bounded chunks, then the changes since,
//! until little is left; then the coordinator stops cutting for the one moment in which the build takes the rest and joins.
//! State goes to the store as staged runs that the joining epoch's commit makes visible; a crash before that leaves nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Instant;

use crossbeam_channel::Sender;
use tidemill_dataflow::plan::{ColumnsRead, DataflowPlan, OutputStorage};
use tidemill_dataflow::runtime::{Command, DataflowId, DataflowResult, Install, Scope};
use tidemill_dataflow::state::{Batches, StateHandle, StateReader};
use tidemill_planner::SqlError;
use tidemill_planner::compile::revision;
use tidemill_planner::query::SnapshotReader;
use tidemill_storage::{
    ArrangementChange, ArrangementDesc, ArrangementKind, RunBatch, Store, StoreError,
};
use tidemill_zset::{ArrangementId, CollectionId, Delta, Epoch};

use super::backfill::{BuildThread, Built, Report, StepSize};
use super::duplicates::Duplicates;
use super::rename::check_seen;
use super::reply::Reply;
use super::stale::types_of;
use super::unique::UniqueIndex;
use super::{Coordinator, Following, Message, Owner};
use crate::catalog::record::{Ids, Kind, NEXT_ID_KEY, Output, State, object_key, put};
use crate::catalog::{Catalog, Detail, Object};
use crate::feed::ChangeFeed;
use crate::published::Published;
use crate::reader::{Contents, Snapshot, contents, history_gone, no_history, not_complete};
use crate::status::BuildProgress;

/// What is to be built.
pub struct BuildRequest {
    /// A view with its name and text, or a query.
    pub target: BuildTarget,
    /// The plan.
    pub plan: Arc<DataflowPlan>,
    /// Objects it reads.
    pub depends: Vec<u64>,
    /// The catalog that it was planned against.
    pub seen: Arc<Catalog>,
}

/// What a build becomes.
pub enum BuildTarget {
    /// A materialized view or an index: everything but its ids.
    View(Box<Object>),
    /// A subscription's query: its output is followed under a collection id of its own.
    Query {
        /// Columns of the output.
        schema: arrow::datatypes::SchemaRef,
        /// Start from its contents at this time, and give every change after it.
        as_of: Option<Epoch>,
    },
}

/// Answer to a build.
pub type BuildReply = Reply<Joined>;

/// A build that waits for its name.
pub(super) type WaitingBuild = (Box<BuildRequest>, BuildReply);

/// A build that has joined.
pub struct Joined {
    /// Its dataflow.
    pub dataflow: DataflowId,
    /// For a query: its output's changes from now on.
    pub following: Option<Following>,
    /// For a query: its contents at `as_of`, or just before it joined.
    pub snapshot: Vec<Delta>,
    /// For a query with `as_of`: its changes after that, up to where it joined, by epoch.
    pub history: Vec<(Epoch, Delta)>,
    /// For a query: the output's collection.
    pub collection: Option<CollectionId>,
}

/// A build under way, or the part of a live query that is still needed.
pub struct Build {
    /// `None`: new state of a view that is there.
    pub(super) target: Option<BuildTarget>,
    reply: Option<BuildReply>,
    /// What it reads.
    pub(super) reads: ColumnsRead,
    reports: Sender<Report>,
    /// Where it waits to be told how far to go, if it does.
    finish: Option<Sender<Arc<Published>>>,
    /// The epoch up to which it has read what it reads.
    taken_in: Arc<AtomicI64>,
    create: Vec<ArrangementDesc>,
    pub(super) depends: Vec<u64>,
}

impl Build {
    /// The rebuilding of a view, which nobody waits for and that doesn't wait for anybody.
    pub(super) fn of_view(reads: ColumnsRead, reports: Sender<Report>) -> Self {
        Build {
            target: None,
            reply: None,
            reads,
            reports,
            finish: None,
            taken_in: Arc::new(AtomicI64::new(Epoch::MAX)),
            create: vec![],
            depends: vec![],
        }
    }

    /// Somebody waits for it.
    pub(super) fn is_under_construction(&self) -> bool {
        self.target.is_some() && self.reply.is_some()
    }

    /// The epoch from which on it needs the history of a collection: it may be too far behind for the changes in memory.
    pub(super) fn holds_history(&self, of: CollectionId) -> Option<Epoch> {
        let reads = self.is_under_construction() && self.reads.contains_key(&of);
        reads.then(|| self.taken_in.load(Ordering::Acquire))
    }

    /// A worker has finished one of its hidden epochs.
    pub fn report(&self, worker: usize, epoch: Epoch, results: Vec<DataflowResult>) {
        // The thread is gone only if it has failed and said so.
        let _ = self.reports.send((worker, epoch, results));
    }
}

/// Reads an arrangement's newest committed version. Until the commit that makes what was built of it visible, nothing of it
/// is committed: whoever drops its changes before that would not find them.
pub struct LiveReader {
    store: Arc<Store>,
    id: ArrangementId,
}

impl LiveReader {
    /// A reader of `id`.
    pub fn new(store: Arc<Store>, id: ArrangementId) -> Arc<Self> {
        Arc::new(LiveReader { store, id })
    }

    fn version(&self) -> Option<Arc<tidemill_storage::ArrangementVersion>> {
        self.store.version().arrangement(self.id)
    }
}

impl StateReader for LiveReader {
    fn epoch(&self) -> Epoch {
        let version = self.store.version();
        match version.arrangement(self.id) {
            Some(_) => version.epoch(),
            None => -1,
        }
    }

    fn is_empty(&self) -> bool {
        self.version().is_none_or(|v| v.runs() == 0)
    }

    fn get_many(&self, hashes: &[u64]) -> Result<Vec<RunBatch>, StoreError> {
        self.version().map_or(Ok(vec![]), |v| v.get_many(hashes))
    }

    fn rows_estimate(&self) -> u64 {
        self.version().map_or(0, |v| v.rows_estimate())
    }

    fn range(&self, hashes: (u64, u64)) -> Result<Batches, StoreError> {
        match self.version() {
            None => Ok(Box::new(std::iter::empty())),
            Some(v) => Ok(v.range_batches(Epoch::MAX, hashes)?),
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

/// The arrangement of the output of a view or an index. Rows that only come, and that nobody can look for by a key, are a
/// log: they are written as they come.
pub fn stored_desc(id: ArrangementId, object: &Object) -> ArrangementDesc {
    match &object.detail {
        Detail::MaterializedView {
            append_only: true,
            unique: None,
            ..
        } => ArrangementDesc {
            id,
            kind: ArrangementKind::Log,
            schema: object.columns.clone(),
            key_columns: 0,
        },
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
        if reply.is_given_up() {
            return;
        }
        if let BuildTarget::View(view) = &request.target {
            let key = (view.record.schema.clone(), view.record.name.clone());
            if let Some(waiting) = self.reserved.get_mut(&key) {
                // Until it is known whether the name is taken.
                waiting.push((Box::new(request), reply));
                return;
            }
        }
        let checked = self.check_as_of(&request);
        match checked.and_then(|()| self.prepare_build(&request)) {
            Err(e) => {
                let _ = reply.send(Err(e));
            }
            Ok(ids) => self.launch_build(request, ids, reply),
        }
    }

    /// The time that a query starts at must lie within the history of everything that it reads.
    fn check_as_of(&self, request: &BuildRequest) -> Result<(), SqlError> {
        let BuildTarget::Query {
            as_of: Some(at), ..
        } = request.target
        else {
            return Ok(());
        };
        let published = self.env.publisher.pin();
        if at > published.now() {
            return Err(not_complete(at, published.now()));
        }
        let reader = Snapshot::of(&self.env, &published);
        for input in request.plan.inputs() {
            if let Contents::Unrecorded(object) = contents(&self.catalog, input)? {
                return Err(no_history(&object));
            }
            let since = reader.since(input)?;
            if at < since {
                return Err(history_gone(at, since));
            }
            reader.check_errors(input)?;
        }
        Ok(())
    }

    fn prepare_build(&mut self, request: &BuildRequest) -> Result<Ids, SqlError> {
        check_seen(&request.depends, &request.seen, &self.catalog)?;
        if let BuildTarget::View(view) = &request.target {
            let key = (view.record.schema.clone(), view.record.name.clone());
            let name = tidemill_planner::ast::Name {
                schema: Some(key.0.clone()),
                name: key.1.clone(),
            };
            self.catalog.free_name(&name)?;
            self.reserved.insert(key, vec![]);
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
            output: Output::of(&request.plan.output_storage()),
            ..Ids::default()
        };
        if is_index {
            // Nobody reads it by name, and a row that is stored can't fail.
            ids.rows = Some(ArrangementId(catalog.allocate()));
            return Ok(ids);
        }
        if let BuildTarget::View(view) = &request.target {
            ids.types = types_of(&view.columns);
            ids.revision = revision(&request.plan);
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
        let handle_of = |desc: &ArrangementDesc| {
            let reader = || LiveReader::new(self.env.store.clone(), desc.id);
            StateHandle {
                desc: desc.clone(),
                reader: durable.then(|| reader() as Arc<dyn StateReader>),
            }
        };
        let states = create.iter().map(handle_of).collect();
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
        let reads = request.plan.columns_read();
        let inputs: Vec<CollectionId> = reads.keys().copied().collect();
        let followers = inputs
            .iter()
            .map(|c| self.follow(*c, published.upper))
            .collect();
        inputs.iter().for_each(|c| self.demand(*c));
        let (reports, reported) = crossbeam_channel::unbounded();
        let (finish, finished) = crossbeam_channel::bounded(1);
        let (as_of, output) = match &request.target {
            BuildTarget::Query { as_of, schema } => (*as_of, schema.clone()),
            BuildTarget::View(view) => (None, view.columns.clone()),
        };
        let duplicates = match &request.target {
            BuildTarget::View(view) => self.duplicates(view, &ids),
            BuildTarget::Query { .. } => None,
        };
        let snapshot = Snapshot {
            at: as_of.unwrap_or(published.now()),
            ..Snapshot::of(&self.env, &published)
        };
        let (object, kind) = match &request.target {
            BuildTarget::Query { .. } => (None, "subscription"),
            BuildTarget::View(view) => (Some(&**view), view.record.kind.words()),
        };
        let progress = progress_of(object, kind, &snapshot, &inputs);
        let taken_in = Arc::new(AtomicI64::new(snapshot.at));
        let thread = BuildThread {
            id,
            handle: self.handle.clone(),
            runtime: self.runtime.clone(),
            workers: self.workers,
            inputs: inputs.clone(),
            snapshot,
            exact: as_of.is_some(),
            output,
            followers,
            reports: reported,
            finish: Some(finished),
            taken_in: taken_in.clone(),
            stored: HashMap::new(),
            descs: if durable {
                create.iter().map(|d| (d.id, d.clone())).collect()
            } else {
                HashMap::new()
            },
            durable,
            step: 0,
            duplicates,
            step_size: StepSize::of(&request.plan, self.state_bytes_max),
            built: Built::default(),
            progress,
            fed: 0,
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
            BuildTarget::Query { schema, as_of } => {
                // A live query is found by its collection.
                let (rows, errors) = ids
                    .collection
                    .zip(ids.errors_collection)
                    .expect("just given");
                self.dataflows.insert(id, Owner::Query { rows, errors });
                BuildTarget::Query { schema, as_of }
            }
        };
        let build = Build {
            target: Some(target),
            reply: Some(reply),
            reads,
            reports,
            finish: Some(finish),
            taken_in,
            create,
            depends: request.depends,
        };
        self.builds.insert(id, build);
    }

    /// What finds duplicates, if a unique index is built.
    fn duplicates(&self, index: &Object, ids: &Ids) -> Option<Duplicates> {
        let Detail::Index { on, .. } = &index.detail else {
            return None;
        };
        let mut index = index.clone();
        index.record.ids = ids.clone();
        let unique = UniqueIndex::of(&index, self.catalog.get(*on)?)?;
        Some(Duplicates::new(unique))
    }

    /// The build has caught up; nothing is under way and nothing will be until it has joined.
    pub(super) fn start_join(&mut self, id: DataflowId) {
        let Some(build) = self.builds.get(&id) else {
            return;
        };
        self.joining = Some(id);
        if let Some(finish) = &build.finish {
            let _ = finish.send(self.env.publisher.pin());
        }
    }

    pub(super) fn on_build_done(&mut self, id: DataflowId, result: Result<Built, SqlError>) {
        if self.joining == Some(id) {
            self.joining = None;
        }
        match self.builds.get(&id) {
            // Its thread has noticed that nobody wants it any more.
            None => return,
            Some(build) if build.target.is_none() => return self.on_rebuilt(id, result),
            Some(_) => {}
        }
        let gone = self
            .builds
            .get(&id)
            .is_none_or(|b| b.reply.as_ref().is_none_or(|reply| !reply.begin()));
        let lost = self
            .builds
            .get(&id)
            .and_then(|b| b.depends.iter().find(|d| self.catalog.get(**d).is_none()));
        let result = match (result, gone, lost) {
            (Ok(_), true, _) => Err(SqlError::cancelled()),
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

    /// Ends builds whose client has cancelled them or is gone: their names become free at once.
    pub(super) fn abandon_unwanted_builds(&mut self) {
        let unwanted = |(id, build): (&DataflowId, &Build)| {
            let given_up = build.reply.as_ref().is_some_and(Reply::is_given_up);
            (given_up && self.joining != Some(*id)).then_some(*id)
        };
        let unwanted: Vec<DataflowId> = self.builds.iter().filter_map(unwanted).collect();
        for id in unwanted {
            // The thread notices when it waits for the workers.
            self.abandon_build(id, super::shutting_down());
        }
    }

    pub(super) fn abandon_build(&mut self, id: DataflowId, e: SqlError) {
        self.runtime.send(Command::Drop(id));
        self.dataflows.remove(&id);
        let Some(build) = self.builds.remove(&id) else {
            return;
        };
        if let Some(BuildTarget::View(view)) = &build.target {
            self.release_name(view);
        }
        if let Some(reply) = build.reply {
            let _ = reply.send(Err(e));
        }
    }

    /// A view under construction is there now, or never will be: who waits for its name goes on.
    fn release_name(&mut self, view: &Object) {
        let key = (view.record.schema.clone(), view.record.name.clone());
        for (request, reply) in self.reserved.remove(&key).unwrap_or_default() {
            self.handle.send(Message::Build(request, reply));
        }
    }

    fn join(&mut self, id: DataflowId, built: Built) {
        let Some(mut build) = self.builds.remove(&id) else {
            return;
        };
        self.runtime.send(Command::Join(id));
        let reply = build.reply.take();
        match build.target.take() {
            None => {}
            Some(BuildTarget::Query { schema, as_of }) => {
                let Some(Owner::Query { rows, errors }) = self.dataflows.get(&id) else {
                    return;
                };
                let (collection, errors) = (*rows, *errors);
                build.target = Some(BuildTarget::Query { schema, as_of });
                let depends = build.depends.clone();
                self.builds.insert(id, build);
                self.recount_inputs();
                let published = self.env.publisher.pin();
                // What it gives is nobody's answer while a view below is in error.
                let below = ChangeFeed::errors(&published.catalog, depends);
                let follow = |c| self.env.changes.follow(c, published.upper);
                let followers = [collection, errors].into_iter().chain(below);
                let followers = followers.map(follow).collect();
                let following = Following {
                    published,
                    followers,
                };
                let joined = Joined {
                    dataflow: id,
                    following: Some(following),
                    snapshot: built.rows,
                    history: built.history,
                    collection: Some(collection),
                };
                if let Some(reply) = reply
                    && reply.send(Ok(joined)).is_err()
                {
                    self.on_end_query(id);
                }
            }
            Some(BuildTarget::View(view)) => {
                self.release_name(&view);
                self.dataflows.insert(id, Owner::View(view.record.id));
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
        let is_unique = matches!(&view.detail, Detail::Index { unique, .. } if unique.is_some());
        catalog.put(Arc::new(view));
        self.recount_inputs();
        let mut work = self.begin_epoch();
        work.catalog = Some(self.catalog.clone());
        work.has_writes = is_unique;
        work.commit.catalog.extend(work_catalog);
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
                    history: vec![],
                    collection: None,
                }));
            }));
        }
        self.finish_cut(work);
    }
}

/// What is told of a build over `inputs`.
pub(super) fn progress_of<'c>(
    object: Option<&Object>,
    kind: &'static str,
    snapshot: &Snapshot,
    inputs: impl IntoIterator<Item = &'c CollectionId>,
) -> Arc<BuildProgress> {
    let rows = inputs.into_iter().map(|c| snapshot.rows_estimate(*c));
    Arc::new(BuildProgress {
        kind,
        name: object.map(|o| (o.record.schema.clone(), o.record.name.clone())),
        started: Instant::now(),
        rows: AtomicU64::new(0),
        rows_expected: rows.flatten().sum(),
    })
}
