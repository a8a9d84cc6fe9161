//! Start: the catalog is read, views are planned anew from their SQL, and every worker, source and sink goes on
//! from what the last commit says. No input is read again, no operator recomputes.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use tidemill_dataflow::plan::ColumnsRead;
use tidemill_dataflow::runtime::{Command, DataflowId, Install, Runtime, RuntimeOptions, Scope};
use tidemill_dataflow::state::{StateHandle, StateReader};
use tidemill_planner::SqlError;
use tidemill_planner::ast::parse;
use tidemill_planner::query::Planner;
use tidemill_storage::{ArrangementDesc, Commit, Store, StoreVersion};
use tidemill_zset::ArrangementId;

use super::build::{LiveReader, state_descs, stored_desc};
use super::clock::Clock;
use super::panicked::Panicked;
use super::stale;
use super::tables::WriteLog;
use super::upgrade::Upgrade;
use super::{Coordinator, Env, Handle, Message, Owner, SharedRuntime};
use crate::catalog::record::{
    Change, Kind, NEXT_ID_KEY, PersistentRecord, Record, SchemaRecord, SinkProgress, object_key,
    put,
};
use crate::catalog::{Catalog, Detail, Object};
use crate::changes::ChangeLog;
use crate::define::Definer;
use crate::numbers::Numbers;
use crate::offsets::SourceOffsets;
use crate::published::{Published, Publisher};
use crate::status::Status;
use crate::system::SystemRelations;

/// Settings of the coordinator.
pub struct CoordinatorOptions {
    /// Where the store is.
    pub data_dir: PathBuf,
    /// Worker threads.
    pub workers: usize,
    /// Bytes of operator state in memory per worker.
    pub state_bytes_max: usize,
    /// Bytes of recent changes in memory per collection that somebody follows.
    pub changes_bytes_max: usize,
    /// Where tests kill the process.
    pub fail: tidemill_storage::FailPoints,
}

/// What can be wrong with a data directory's catalog.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// A row of the catalog can't be understood.
    #[error("the catalog row \"{key}\" can't be read: {reason}")]
    Row {
        /// Its key.
        key: String,
        /// Why.
        reason: String,
    },
    /// A stored statement can't be planned any more.
    #[error("{kind} {name} can't be restored: {source}")]
    Object {
        /// What it is.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Why.
        source: Box<SqlError>,
    },
    /// A view must be rebuilt, but something that it is computed from is gone.
    #[error(
        "materialized view {name} must be rebuilt, because this version of Tidemill computes it differently than the one that \
         stored it, but what it reads can't be read any more: {reason}. Nothing has been changed: bring the input back, \
         or start the version that stored the view and drop it there"
    )]
    Upgrade {
        /// The view.
        name: String,
        /// Why.
        reason: Box<SqlError>,
    },
    /// The store refuses.
    #[error(transparent)]
    Store(#[from] tidemill_storage::StoreError),
    /// Threads can't be started.
    #[error("{0}")]
    Start(String),
}

struct Stored {
    catalog: Catalog,
    records: Vec<Record>,
    sinks: BTreeMap<u64, SinkProgress>,
    numbers: Numbers,
    left_behind: (Vec<ArrangementId>, Vec<Change>),
}

/// Reads the catalog and starts everything. Returns the coordinator, to be run on a thread of its own, and its address.
pub fn recover(
    store: Arc<Store>,
    options: CoordinatorOptions,
    tokio: tokio::runtime::Handle,
) -> Result<(Coordinator, Handle), RecoverError> {
    let mut stored = read_catalog(&store)?;
    let panicked = Panicked::load(&options.data_dir);
    let mut left_out: BTreeMap<u64, String> = stored
        .records
        .iter()
        .filter_map(|record| Some((record.id, panicked.reason(record.id)?)))
        .collect();
    let numbers = Arc::new(std::mem::take(&mut stored.numbers));
    let (env, upgrade, notes) = loop {
        let (env, mut upgrade, notes) =
            restore(&store, &options, &stored, &numbers, &left_out, &tokio)?;
        match stale::check_inputs(&mut upgrade, &env, &env.publisher.pin()) {
            Ok(()) => break (env, upgrade, notes),
            Err(stale::Missing { view, reason }) if view.record.behind => {
                left_out.insert(view.record.id, reason.to_string());
            }
            Err(stale::Missing { view, reason }) => {
                return Err(RecoverError::Upgrade {
                    name: view.display_name(),
                    reason: Box::new(reason),
                });
            }
        }
    };
    stored.left_behind.1.extend(notes);
    let catalog = env.publisher.pin().catalog.clone();
    let clock = Clock::new(store.reserved_upper());
    let (sender, messages) = crossbeam_channel::unbounded();
    let (events_in, events) = crossbeam_channel::unbounded();
    let handle = Handle {
        sender: sender.clone(),
        awake: Arc::new(AtomicBool::new(false)),
        env: env.clone(),
    };
    let runtime = Runtime::start(
        RuntimeOptions {
            workers: options.workers,
            partitions: store.partitions(),
            state_bytes_max: options.state_bytes_max,
            error_mapper: tidemill_planner::error::row_error,
        },
        events_in,
    )
    .map_err(|e| RecoverError::Start(e.to_string()))?;
    let commits = start_committer(store, sender)?;
    let mut coordinator = Coordinator {
        env,
        handle: handle.clone(),
        runtime: Arc::new(SharedRuntime::new(runtime)),
        workers: options.workers,
        state_bytes_max: options.state_bytes_max * options.workers,
        messages,
        events,
        commits,
        clock,
        catalog: catalog.clone(),
        reserved: Default::default(),
        sources: BTreeMap::new(),
        awaited: vec![],
        sinks: BTreeMap::new(),
        dataflows: HashMap::new(),
        read_by_dataflows: ColumnsRead::new(),
        next_dataflow: 1,
        builds: HashMap::new(),
        joining: None,
        write_log: WriteLog::default(),
        writes: Default::default(),
        numbers_wanted: Default::default(),
        held: Default::default(),
        quiet_work: Default::default(),
        input_turn: false,
        riding: vec![],
        riding_since: None,
        epoch_takes: Duration::ZERO,
        computing: None,
        computed: vec![],
        committing: vec![],
        last_since: Instant::now(),
        upgrade,
        panicked,
        left_behind: stored.left_behind,
        upper_moved: Instant::now(),
        stopping: None,
        failure: None,
    };
    coordinator.resume(&catalog, stored.sinks)?;
    Ok((coordinator, handle))
}

/// Plans the objects of the catalog, but for those that are `left_out`. What isn't durable is begun: what readers see, the views to
/// rebuild, and changes of the catalog to be made with the first epoch.
#[allow(clippy::type_complexity)]
fn restore(
    store: &Arc<Store>,
    options: &CoordinatorOptions,
    stored: &Stored,
    numbers: &Arc<Numbers>,
    left_out: &BTreeMap<u64, String>,
    tokio: &tokio::runtime::Handle,
) -> Result<(Arc<Env>, Upgrade, Vec<Change>), RecoverError> {
    let planner = Planner::new();
    let status = Arc::new(Status::default());
    let system = SystemRelations::new(store.clone(), status.clone(), numbers.clone());
    let (mut upgrade, mut notes) = (Upgrade::default(), vec![]);
    let catalog = derive_objects(
        stored,
        &store.version(),
        left_out,
        &planner,
        &system,
        &mut upgrade,
        &mut notes,
    )?;
    let catalog = Arc::new(catalog);
    let published = Published {
        upper: store
            .epoch()
            .map_or(0, |e| e + 1)
            .max(store.reserved_upper()),
        store: store.version(),
        offsets: Arc::new(SourceOffsets::load(&catalog, store)?),
        catalog,
    };
    let env = Arc::new(Env {
        store: store.clone(),
        publisher: Arc::new(Publisher::new(published)),
        changes: Arc::new(ChangeLog::new(options.changes_bytes_max)),
        planner,
        system,
        numbers: numbers.clone(),
        status,
        fail: options.fail.clone(),
        tokio: tokio.clone(),
    });
    Ok((env, upgrade, notes))
}

fn start_committer(
    store: Arc<Store>,
    replies: Sender<Message>,
) -> Result<Sender<Vec<Commit>>, RecoverError> {
    let (commits, jobs) = crossbeam_channel::unbounded::<Vec<Commit>>();
    std::thread::Builder::new()
        .name("committer".into())
        .spawn(move || {
            for group in jobs {
                let result = store.commit_group(group);
                let failed = result.is_err();
                if replies.send(Message::Committed(result)).is_err() || failed {
                    return;
                }
            }
        })
        .map_err(|e| RecoverError::Start(format!("no thread for the committer: {e}")))?;
    Ok(commits)
}

fn read_catalog(store: &Store) -> Result<Stored, RecoverError> {
    let mut stored = Stored {
        catalog: Catalog::new(),
        records: vec![],
        sinks: BTreeMap::new(),
        numbers: Numbers::default(),
        left_behind: Default::default(),
    };
    for (key, value) in store.catalog()? {
        let row = |e: serde_json::Error| RecoverError::Row {
            key: key.clone(),
            reason: e.to_string(),
        };
        match key.split_once('/') {
            Some(("object", _)) => stored
                .records
                .push(serde_json::from_value::<Record>(value).map_err(row)?),
            Some(("schema", name)) => {
                let record: SchemaRecord = serde_json::from_value(value).map_err(row)?;
                match record.id {
                    0 => stored.catalog.schemas_mut().remove(name),
                    _ => stored.catalog.schemas_mut().insert(name.into(), record),
                };
            }
            Some(("persistent", name)) => {
                let record: PersistentRecord = serde_json::from_value(value).map_err(row)?;
                stored.catalog.persistent_mut().insert(name.into(), record);
            }
            Some(("sink", id)) => {
                let progress: SinkProgress = serde_json::from_value(value).map_err(row)?;
                let id = id.parse().map_err(|_| RecoverError::Row {
                    key: key.clone(),
                    reason: "no number".into(),
                })?;
                stored.sinks.insert(id, progress);
            }
            Some(("number", column)) => {
                let next: Option<i64> = serde_json::from_value(value).map_err(row)?;
                let parsed = column
                    .split_once('/')
                    .and_then(|(table, n)| Some((table.parse().ok()?, n.parse().ok()?)));
                let Some((table, number)) = parsed else {
                    return Err(RecoverError::Row {
                        key: key.clone(),
                        reason: "no column".into(),
                    });
                };
                stored.numbers.load(table, number, next);
            }
            Some(("rebuild", _)) => {
                let made: Vec<ArrangementId> = serde_json::from_value(value).map_err(row)?;
                stored.left_behind.0.extend(made);
                stored.left_behind.1.push((key, None));
            }
            _ if key == NEXT_ID_KEY => {
                let id = value.as_u64().ok_or(RecoverError::Row {
                    key: key.clone(),
                    reason: "no number".into(),
                })?;
                stored.catalog.set_next_id(id);
            }
            _ => {
                return Err(RecoverError::Row {
                    key,
                    reason: "unknown kind of row; written by a newer version?".into(),
                });
            }
        }
    }
    stored.records.sort_by_key(|r| r.id);
    Ok(stored)
}

fn derive_objects(
    stored: &Stored,
    version: &StoreVersion,
    out: &BTreeMap<u64, String>,
    planner: &Planner,
    system: &Arc<SystemRelations>,
    upgrade: &mut Upgrade,
    notes: &mut Vec<Change>,
) -> Result<Catalog, RecoverError> {
    let mut catalog = stored.catalog.clone();
    for record in what_they_stand_on_first(stored.records.clone()) {
        let planned = match out.get(&record.id) {
            Some(reason) => Err(SqlError::new("55000", reason.clone())),
            None => derived(&record, &catalog, planner, system).and_then(|object| {
                stale::check_columns(&object, &record, version)?;
                Ok(object)
            }),
        };
        let mut object = match planned {
            Ok(object) => object,
            Err(e) if can_be_left_out(&record, &catalog) => left_out(&record, &e),
            Err(e) => {
                return Err(RecoverError::Object {
                    kind: record.kind.words(),
                    name: format!("{}.{}", record.schema, record.name),
                    source: Box::new(e),
                });
            }
        };
        let fits = stale::state_fits(&object, &record, version);
        object.record = record;
        stale::check(&mut object, &catalog, fits, upgrade);
        if object.broken().is_some()
            && object.record.kind == Kind::MaterializedView
            && !object.record.behind
        {
            object.record.behind = true;
            notes.push(put(object_key(object.record.id), &object.record));
        }
        catalog.put(Arc::new(object));
    }
    Ok(catalog)
}

/// What the stored SQL of an object says.
fn derived(
    record: &Record,
    catalog: &Catalog,
    planner: &Planner,
    system: &Arc<SystemRelations>,
) -> Result<Object, SqlError> {
    let parsed = parse(&record.sql)?.into_iter().next();
    let parsed = parsed.ok_or_else(|| SqlError::internal("no statement is stored"))?;
    let session = record.settings.session();
    let definer = Definer {
        catalog: Arc::new(catalog.clone()),
        system: system.clone(),
        planner,
        session: &session,
    };
    definer.object(&parsed.statement, &record.sql)
}

/// Everything else can go on without it: a view, and what stands on nothing but one. Rows of tables and sources, and what their
/// constraints say, can't be kept right without their definitions.
fn can_be_left_out(record: &Record, catalog: &Catalog) -> bool {
    match record.kind {
        Kind::View | Kind::MaterializedView | Kind::Sink => true,
        Kind::Index => {
            let mut on = record.depends.iter().filter_map(|id| catalog.get(*id));
            on.any(|object| object.broken().is_some())
        }
        Kind::Table | Kind::Source | Kind::Sequence => false,
    }
}

/// An object that stays in the catalog, to be dropped or restored by another start.
fn left_out(record: &Record, e: &SqlError) -> Object {
    let name = format!("{}.{}", record.schema, record.name);
    let reason = match &e.detail {
        Some(detail) => format!("{} ({detail})", e.message),
        None => e.message.clone(),
    };
    tracing::error!(
        kind = record.kind.words(),
        name,
        reason,
        "can't be restored; everything that doesn't stand on it goes on. Drop it and create it anew: tidemill.objects has its text"
    );
    Object {
        record: record.clone(),
        columns: tidemill_zset::delta::schema_of(vec![]),
        detail: Detail::Broken { reason },
    }
}

/// A replaced view may stand on what was made after it, so that the order of the ids isn't enough.
fn what_they_stand_on_first(records: Vec<Record>) -> Vec<Record> {
    let mut waiting: BTreeMap<u64, Record> = records.into_iter().map(|r| (r.id, r)).collect();
    let mut ordered = Vec::with_capacity(waiting.len());
    // Each: what of it waits is looked for below it, as deep as that goes.
    while let Some(first) = waiting.keys().next().copied() {
        let mut path = vec![first];
        while let Some(&id) = path.last() {
            let below = waiting.get(&id).and_then(|record| {
                let mut below = record.depends.iter();
                below.find(|id| waiting.contains_key(id) && !path.contains(id))
            });
            match below {
                Some(below) => path.push(*below),
                None => {
                    path.pop();
                    ordered.extend(waiting.remove(&id));
                }
            }
        }
    }
    ordered
}

impl Coordinator {
    fn resume(
        &mut self,
        catalog: &Arc<Catalog>,
        sinks: BTreeMap<u64, SinkProgress>,
    ) -> Result<(), RecoverError> {
        for object in catalog.objects() {
            if let Detail::MaterializedView { .. } | Detail::Index { .. } = object.detail
                && !self.upgrade.holds(object.record.id)
            {
                self.resume_view(object);
            }
        }
        self.recount_inputs();
        let mut sinks = sinks;
        for object in catalog.objects() {
            if let Detail::Sink { .. } = object.detail {
                // A sink that had no time to report starts anew with an empty file of its own.
                let progress = sinks.remove(&object.record.id);
                self.start_sink(object, None, progress);
            }
        }
        if self.upgrade.is_under_way() {
            return Ok(());
        }
        self.start_sources().map_err(RecoverError::Start)
    }

    /// The arrangement of the output as it is, which an older version may have made as another kind.
    fn as_stored(&self, rows: ArrangementId, object: &Object) -> ArrangementDesc {
        match self.env.store.version().arrangement(rows) {
            Some(stored) => stored.desc().clone(),
            None => stored_desc(rows, object),
        }
    }

    /// Installs the dataflow of a view or an index over its stored state.
    pub(super) fn resume_view(&mut self, object: &Arc<Object>) {
        let (Detail::MaterializedView { plan, .. } | Detail::Index { plan, .. }) = &object.detail
        else {
            return;
        };
        let ids = &object.record.ids;
        let id = DataflowId(self.next_dataflow);
        self.next_dataflow += 1;
        let handle = |desc: ArrangementDesc| StateHandle {
            reader: Some(LiveReader::new(self.env.store.clone(), desc.id) as Arc<dyn StateReader>),
            desc,
        };
        let install = Install {
            id,
            plan: plan.clone(),
            states: state_descs(plan, &ids.states)
                .into_iter()
                .map(handle)
                .collect(),
            collection: ids.collection,
            output_state: ids.rows.map(|rows| handle(self.as_stored(rows, object))),
            fresh: false,
            scope: Scope::Live,
            // After an upgrade sinks and subscriptions are there already.
            demand: ids
                .collection
                .is_some_and(|c| self.env.changes.is_followed(c)),
        };
        self.dataflows.insert(id, Owner::View(object.record.id));
        self.runtime.send(Command::Install(Arc::new(install)));
    }
}
