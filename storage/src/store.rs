//! [`Store`]: the one writer of a data directory, and its commit.
//!
//! Invariant: the manifest in memory, the published version and what sled would give after a
//! restart agree whenever the writer's lock is free; after a failure that leaves open which of two states is on disk,
//! nothing is written any more.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use parking_lot::{Mutex, RwLock};
use tidemill_zset::{ArrangementId, Epoch};

use crate::api::*;
use crate::background::{Background, Merged};
use crate::bundle::{Bundle, BundleWriter, Env, NewBundle};
use crate::copy::{self, Pending};
use crate::disk::io_error;
use crate::ledger::{Ledger, Writes};
use crate::manifest::{self, BundleRecord, Clock, Format, put_long, sled_error};
use crate::mark::Mark;
use crate::options::{StoreOptions, StoreStats};
use crate::read::{ArrangementVersion, StoreVersion, VersionInner};
use crate::run::{Run, RunMeta};
use crate::sorting::write_changes;

/// A bundle that the manifest names.
#[derive(Debug)]
pub(crate) struct Live {
    pub bundle: Arc<Bundle>,
    pub record: BundleRecord,
}

/// The state that only the holder of the writer's lock changes.
#[derive(Debug)]
pub(crate) struct Writer {
    pub clock: Clock,
    pub bundles: HashMap<u64, Live>,
    pub next_bundle: u64,
    pub next_order: u64,
    /// Why nothing may be written any more.
    pub failed: Option<String>,
    pub commits: u64,
    pub merges: u64,
    pub merge_bytes_written: u64,
    /// Merges whose manifest changes wait for the next commit.
    pub merged: Vec<Merged>,
    /// What the copy of the manifest doesn't know yet.
    pub copy: Pending,
    /// All keys in sled.
    pub ledger: Ledger,
}

/// What the store and its background thread share.
pub(crate) struct Shared {
    pub env: Arc<Env>,
    pub db: sled::Db,
    pub sled_log: File,
    pub mark: Mark,
    pub format: Format,
    pub inline_bytes_max: usize,
    pub writer: Mutex<Writer>,
    pub version: RwLock<StoreVersion>,
    pub background: Background,
}

/// The open data directory.
pub struct Store {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// Released last.
    _lock: File,
}

/// A run that [`Store::stage`] wrote.
struct Staged {
    arrangement: ArrangementId,
    new: Mutex<Option<NewBundle>>,
}

impl Store {
    /// Opens `dir`, initialising it if it is empty or missing. Reads the manifest, not the rows.
    pub fn open(dir: &Path, options: StoreOptions) -> Result<Store> {
        let lock = crate::disk::lock(dir)?;
        let shared = crate::open::open(dir, &options)?;
        let for_thread = shared.clone();
        let thread = std::thread::Builder::new()
            .name("tidemill-merge".into())
            .spawn(move || crate::background::run(&for_thread))
            .map_err(|e| io_error("starting the merge thread of", dir, e))?;
        Ok(Store {
            shared,
            thread: Some(thread),
            _lock: lock,
        })
    }

    /// Number of partitions of this directory.
    pub fn partitions(&self) -> u32 {
        self.shared.format.partitions
    }

    /// The UUID written when the directory was initialised.
    pub fn directory_id(&self) -> &str {
        &self.shared.format.directory_id
    }

    /// The newest committed version.
    pub fn version(&self) -> StoreVersion {
        self.shared.version.read().clone()
    }

    /// The last committed epoch.
    pub fn epoch(&self) -> Option<Epoch> {
        let epoch = self.shared.version.read().epoch();
        (epoch >= 0).then_some(epoch)
    }

    /// The durable bound up to which the clock may have run; 0 in a new directory.
    pub fn reserved_upper(&self) -> Epoch {
        self.shared.writer.lock().clock.reserved_upper
    }

    /// All catalog rows, sorted by key.
    pub fn catalog(&self) -> Result<Vec<(String, serde_json::Value)>> {
        // A batch isn't atomic for those who read while it is applied.
        let _quiet = self.shared.writer.lock();
        let rows = manifest::read_long(&self.shared.db, &[manifest::CATALOG])?;
        let mut out = Vec::with_capacity(rows.len());
        for (key, value) in rows {
            let key = String::from_utf8_lossy(&key).into_owned();
            let value = serde_json::from_slice(&value).map_err(|e| StoreError::Corrupt {
                what: format!("the catalog row {key}"),
                detail: e.to_string(),
            })?;
            out.push((key, value));
        }
        Ok(out)
    }

    /// All offsets of `source`: (key, value), sorted by key.
    pub fn offsets(&self, source: u64) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let _quiet = self.shared.writer.lock();
        let prefix = manifest::id_key(manifest::OFFSET, source);
        Ok(manifest::read_long(&self.shared.db, &prefix)?
            .into_iter()
            .collect())
    }

    /// Commits one epoch; durable when it returns. After an error the process must end: a restart
    /// finds either all of it or nothing.
    pub fn commit(&self, commit: Commit) -> Result<StoreVersion> {
        self.commit_group(vec![commit])
    }

    /// Commits epochs that follow each other, at least one, as one atomic step: a restart finds all of them or none. Each keeps
    /// its own place in history. The version is that of the last.
    pub fn commit_group(&self, group: Vec<Commit>) -> Result<StoreVersion> {
        let shared = &self.shared;
        let mut writer = shared.writer.lock();
        writer.check()?;
        let result = shared.commit(&mut writer, group);
        if let Err(e) = &result
            && !matches!(e, StoreError::Usage(_))
        {
            writer.failed = Some(e.to_string());
        }
        drop(writer);
        shared.background.wake();
        result
    }

    /// Reserves the clock up to `upper` without an epoch; durable when it returns.
    pub fn reserve(&self, upper: Epoch) -> Result<()> {
        self.set_reserved(|reserved| reserved.max(upper))
    }

    /// Gives back what is reserved above `upper`: for an orderly end, when nothing above it was shown to anybody.
    pub fn release(&self, upper: Epoch) -> Result<()> {
        self.set_reserved(|reserved| reserved.min(upper))
    }

    fn set_reserved(&self, change: impl FnOnce(Epoch) -> Epoch) -> Result<()> {
        let shared = &self.shared;
        let mut writer = shared.writer.lock();
        writer.check()?;
        let reserved_upper =
            change(writer.clock.reserved_upper).max(writer.clock.epoch.map_or(0, |e| e + 1));
        if reserved_upper == writer.clock.reserved_upper {
            return Ok(());
        }
        let clock = Clock {
            reserved_upper,
            ..writer.clock
        };
        let mut batch = Writes::default();
        batch.insert(manifest::CLOCK_KEY, clock.encode());
        shared.transaction(&mut writer, batch)?;
        writer.clock = clock;
        Ok(())
    }

    /// Writes a run of `arrangement` at `epoch`, synced unless it is small enough to lie in sled, which
    /// becomes visible when a commit names it.
    pub fn stage(
        &self,
        arrangement: &ArrangementDesc,
        epoch: Epoch,
        changes: Vec<ArrangementChange>,
    ) -> Result<StagedRun> {
        let mut to = self.shared.bundle_writer(&mut self.shared.writer.lock());
        write_changes(&mut to, &Arc::new(arrangement.clone()), epoch, &changes)?;
        Ok(StagedRun(Arc::new(Staged {
            arrangement: arrangement.id,
            new: Mutex::new(to.finish(self.shared.inline_bytes_max)?),
        })))
    }

    /// Runs the merges that are due now, in this thread, makes them durable and writes the copy of the manifest.
    /// For tests and idle moments; otherwise a background thread does it.
    pub fn merge(&self) -> Result<()> {
        crate::background::merge_all(&self.shared)?;
        copy::write(&self.shared)
    }

    /// Writes the copy of the manifest, for an orderly end: what it says is then as new as what is committed.
    pub fn copy_manifest(&self) -> Result<()> {
        copy::write(&self.shared)
    }

    /// Counters and sizes.
    pub fn stats(&self) -> StoreStats {
        let w = self.shared.writer.lock();
        let env = &self.shared.env;
        let mut stats = StoreStats {
            commits: w.commits,
            bytes_written: env.bytes_written.load(Ordering::Relaxed),
            merge_bytes_written: w.merge_bytes_written,
            merges: w.merges,
            cache_bytes: env.cache.weight(),
            blocks_read: env.blocks_read.load(Ordering::Relaxed),
            ..StoreStats::default()
        };
        for live in w.bundles.values() {
            stats.runs += live.record.runs.len() as u64;
            if live.record.inline {
                stats.inline_runs += live.record.runs.len() as u64;
            } else {
                stats.segment_files += 1;
                stats.segment_bytes += live.record.len;
            }
        }
        stats
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let root = self.shared.env.disk.root();
        f.debug_struct("Store")
            .field("root", &root)
            .finish_non_exhaustive()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.shared.background.stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the merge thread panicked");
        }
        copy::close(&self.shared);
        // Versions that are still held can't keep sled open.
        self.shared.env.sled.write().take();
    }
}

impl Writer {
    pub(crate) fn check(&self) -> Result<()> {
        match &self.failed {
            None => Ok(()),
            Some(why) => Err(StoreError::Usage(format!(
                "nothing can be written after a failure ({why}): restart"
            ))),
        }
    }
}

/// Changes of the manifest in preparation: what the batch will do, and what memory must know after it.
pub(crate) struct Step {
    pub batch: Writes,
    /// Rows of sled by key, with the value that each has in the end; `None`: it goes. Values may be long.
    pub rows: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    pub arrangements: HashMap<ArrangementId, Arc<ArrangementVersion>>,
    /// Records of bundles that are new or changed.
    pub records: BTreeMap<u64, BundleRecord>,
    pub added: Vec<Arc<Bundle>>,
}

impl Step {
    fn version(&mut self, id: ArrangementId) -> Option<&mut ArrangementVersion> {
        self.arrangements.get_mut(&id).map(Arc::make_mut)
    }

    /// A new bundle; its runs become visible at the given places.
    pub(crate) fn add(&mut self, new: NewBundle) -> Arc<Bundle> {
        self.add_record(new.bundle.clone(), new.record());
        new.bundle
    }

    /// The same, whose runs have their places already.
    pub(crate) fn add_record(&mut self, bundle: Arc<Bundle>, record: BundleRecord) {
        self.records.insert(bundle.id, record);
        self.added.push(bundle);
    }

    /// Takes a run out of its bundle's record.
    pub(crate) fn retire(&mut self, writer: &Writer, run: &Run) {
        if let Some(record) = self.record(writer, run) {
            record.runs.retain(|r| *r != run.meta);
        }
    }

    /// Gives a run another description.
    pub(crate) fn describe(&mut self, writer: &Writer, run: &Run, meta: &RunMeta) {
        let record = self.record(writer, run);
        let found = record.and_then(|r| r.runs.iter_mut().find(|r| **r == run.meta));
        if let Some(found) = found {
            *found = meta.clone();
        }
    }

    /// The record of the run's bundle, to be changed.
    fn record(&mut self, writer: &Writer, run: &Run) -> Option<&mut BundleRecord> {
        let id = run.bundle.id;
        if !self.records.contains_key(&id)
            && let Some(live) = writer.bundles.get(&id)
        {
            self.records.insert(id, live.record.clone());
        }
        self.records.get_mut(&id)
    }
}

impl Shared {
    pub(crate) fn bundle_writer(&self, writer: &mut Writer) -> BundleWriter {
        let id = writer.next_bundle;
        writer.next_bundle += 1;
        BundleWriter::new(self.env.clone(), id)
    }

    pub(crate) fn step(&self) -> Step {
        Step {
            batch: Writes::default(),
            rows: BTreeMap::new(),
            arrangements: self.version.read().0.arrangements.clone(),
            records: BTreeMap::new(),
            added: Vec::new(),
        }
    }

    fn commit(&self, writer: &mut Writer, group: Vec<Commit>) -> Result<StoreVersion> {
        let mut clock = writer.clock;
        let mut step = self.step();
        let mut bundle = None;
        for mut c in group {
            if clock.epoch.is_some_and(|e| c.epoch <= e) || c.epoch < 0 {
                return Err(StoreError::Usage(format!(
                    "epoch {} doesn't follow {:?}",
                    c.epoch, clock.epoch
                )));
            }
            create(&mut step, std::mem::take(&mut c.create))?;
            if !(c.staged.is_empty() && c.drop.is_empty()) {
                // What was written of the epochs before comes before what is staged, and may be dropped.
                self.finish_bundle(writer, &mut step, bundle.take())?;
            }
            for s in c.staged.drain(..) {
                show_staged(writer, &mut step, &s)?;
            }
            let to = bundle.get_or_insert_with(|| self.bundle_writer(writer));
            write_epoch(to, &step, c.epoch, std::mem::take(&mut c.changes))?;
            for (id, since) in &c.since {
                if let Some(a) = step.version(*id) {
                    a.since = a.since.max(*since);
                }
            }
            for (id, begins) in &c.begins {
                begin(&mut step, *id, *begins);
            }
            if !c.drop.is_empty() {
                self.finish_bundle(writer, &mut step, bundle.take())?;
                forget(writer, &mut step, &c.drop);
            }
            put_rows(&mut step, &c);
            clock = Clock {
                epoch: Some(c.epoch),
                reserved_upper: (clock.reserved_upper)
                    .max(c.reserved_upper)
                    .max(c.epoch + 1),
            };
        }
        self.finish_bundle(writer, &mut step, bundle)?;
        for merged in std::mem::take(&mut writer.merged) {
            crate::background::install(writer, &mut step, merged);
        }
        let version = self.apply(writer, step, clock)?;
        self.mark.write(version.epoch(), &self.env.disk.fail)?;
        writer.commits += 1;
        Ok(version)
    }

    /// Makes what was written to a bundle the newest runs.
    fn finish_bundle(
        &self,
        writer: &mut Writer,
        step: &mut Step,
        bundle: Option<BundleWriter>,
    ) -> Result<()> {
        let new = bundle.map(|to| to.finish(self.inline_bytes_max));
        match new.transpose()?.flatten() {
            Some(new) => show_newest(writer, step, new),
            None => Ok(()),
        }
    }

    /// Makes a step durable, then visible.
    pub(crate) fn apply(
        &self,
        writer: &mut Writer,
        step: Step,
        clock: Clock,
    ) -> Result<StoreVersion> {
        let mut batch = step.batch;
        batch.insert(manifest::CLOCK_KEY, clock.encode());
        for (key, value) in &step.rows {
            put_long(&self.db, &mut batch, key, value.as_deref())?;
        }
        for (id, record) in &step.records {
            let key = manifest::id_key(manifest::BUNDLE, *id);
            let gone = record.runs.is_empty();
            let value = (!gone).then(|| record.encode());
            put_long(&self.db, &mut batch, &key, value.as_deref())?;
            if gone && record.inline {
                if let Some(live) = writer.bundles.get(id) {
                    // Held versions may still want it.
                    live.bundle.inline_bytes()?;
                }
                manifest::remove_inline(&mut batch, *id, record.len as usize);
            }
        }
        for bundle in &step.added {
            bundle.adopt();
            if let Some(bytes) = bundle.inline_bytes()?
                && step
                    .records
                    .get(&bundle.id)
                    .is_some_and(|r| !r.runs.is_empty())
            {
                manifest::put_inline(&mut batch, bundle.id, bytes);
            }
        }
        self.transaction(writer, batch)?;
        writer.clock = clock;
        for bundle in step.added {
            let record = BundleRecord {
                inline: bundle.is_inline(),
                len: bundle.len,
                crc: 0,
                runs: Vec::new(),
            };
            writer.bundles.insert(bundle.id, Live { bundle, record });
        }
        for (id, record) in step.records {
            if record.runs.is_empty() {
                if let Some(live) = writer.bundles.remove(&id) {
                    writer.copy.retire(live.bundle);
                }
            } else if let Some(live) = writer.bundles.get_mut(&id) {
                live.record = record;
            }
        }
        let version = StoreVersion(Arc::new(VersionInner {
            epoch: clock.epoch.unwrap_or(-1),
            arrangements: step.arrangements,
        }));
        *self.version.write() = version.clone();
        Ok(version)
    }

    /// Applies `batch` atomically and waits until it is on the medium.
    pub(crate) fn transaction(&self, writer: &mut Writer, batch: Writes) -> Result<()> {
        let fail = &self.env.disk.fail;
        fail.pass("before_transaction");
        let injected = |context: &'static str| {
            move |source: std::io::Error| StoreError::Io {
                context: context.to_string(),
                source,
            }
        };
        let batch = writer.ledger.enter(batch);
        let result = (|| {
            fail.operation("sled batch")
                .map_err(injected("writing to sled"))?;
            self.db
                .apply_batch(batch)
                .map_err(sled_error("writing to sled"))?;
            fail.operation("sled flush")
                .map_err(injected("flushing sled"))?;
            self.db.flush().map_err(sled_error("flushing sled"))?;
            // sled's flush is a `sync_file_range`: it survives a kill. This one survives a power cut.
            fail.operation("sync sled")
                .map_err(injected("syncing sled"))?;
            self.sled_log
                .sync_data()
                .map_err(|e| io_error("syncing", &self.env.disk.sled_log(), e))
        })();
        if let Err(e) = &result {
            writer.failed = Some(e.to_string());
        }
        writer.copy.changed();
        fail.pass("after_transaction");
        result
    }
}

fn create(step: &mut Step, create: Vec<ArrangementDesc>) -> Result<()> {
    for desc in create {
        if step.arrangements.contains_key(&desc.id) {
            let message = format!("arrangement {} exists already", desc.id);
            return Err(StoreError::Usage(message));
        }
        put_arrangement(step, &desc, 0);
        let version = ArrangementVersion::new(desc);
        step.arrangements.insert(version.desc.id, Arc::new(version));
    }
    Ok(())
}

/// Has the history of an arrangement begin at `epoch`, if it doesn't begin later.
fn begin(step: &mut Step, id: ArrangementId, epoch: Epoch) {
    let Some(a) = step.version(id).filter(|a| a.since < epoch) else {
        return;
    };
    a.since = epoch;
    let desc = Arc::clone(&a.desc);
    put_arrangement(step, &desc, epoch);
}

/// Describes an arrangement in the manifest, whose history begins at `begins` after a restart, if not later.
pub(crate) fn put_arrangement(step: &mut Step, desc: &ArrangementDesc, begins: Epoch) {
    let mut value = Vec::new();
    manifest::put_arrangement(desc, begins, &mut value);
    let key = manifest::id_key(manifest::ARRANGEMENT, desc.id.0);
    step.rows.insert(key.to_vec(), Some(value));
}

fn forget(writer: &Writer, step: &mut Step, drop: &[ArrangementId]) {
    let gone: BTreeSet<ArrangementId> = drop.iter().copied().collect();
    for id in gone {
        let Some(a) = step.arrangements.remove(&id) else {
            continue;
        };
        for run in a.all_runs() {
            step.retire(writer, run);
        }
        let key = manifest::id_key(manifest::ARRANGEMENT, id.0);
        step.rows.insert(key.to_vec(), None);
    }
}

/// The rows of the catalog and the offsets of an epoch.
fn put_rows(step: &mut Step, c: &Commit) {
    for (key, value) in &c.catalog {
        let value = value.as_ref().map(|v| v.to_string().into_bytes());
        step.rows.insert(manifest::catalog_key(key), value);
    }
    for o in &c.offsets {
        let key = manifest::offset_key(o.source, &o.key);
        step.rows.insert(key, o.value.clone());
    }
}

/// Sorts and writes the changes of an epoch.
fn write_epoch(
    to: &mut BundleWriter,
    step: &Step,
    epoch: Epoch,
    changes: Vec<ArrangementChange>,
) -> Result<()> {
    let mut by_arrangement: BTreeMap<ArrangementId, Vec<ArrangementChange>> = BTreeMap::new();
    for c in changes {
        by_arrangement.entry(c.arrangement).or_default().push(c);
    }
    for (id, changes) in &by_arrangement {
        let Some(a) = step.arrangements.get(id) else {
            let message = format!("a change names arrangement {id}, which doesn't exist");
            return Err(StoreError::Usage(message));
        };
        write_changes(to, &a.desc, epoch, changes)?;
    }
    Ok(())
}

/// Gives the runs of a new bundle the newest places.
fn show_newest(writer: &mut Writer, step: &mut Step, mut new: NewBundle) -> Result<()> {
    for meta in &mut new.runs {
        meta.order = writer.next_order;
        writer.next_order += 1;
    }
    let metas = new.runs.clone();
    let bundle = step.add(new);
    for meta in metas {
        let id = meta.arrangement;
        let Some(a) = step.version(id) else {
            let message = format!("a run names arrangement {id}, which doesn't exist");
            return Err(StoreError::Usage(message));
        };
        a.runs.push(Arc::new(Run::new(meta, bundle.clone())));
    }
    Ok(())
}

fn show_staged(writer: &mut Writer, step: &mut Step, staged: &StagedRun) -> Result<()> {
    let Some(staged) = staged.0.downcast_ref::<Staged>() else {
        return Err(StoreError::Usage("a staged run of another kind".into()));
    };
    if !step.arrangements.contains_key(&staged.arrangement) {
        return Err(StoreError::Usage(format!(
            "a staged run names arrangement {}, which doesn't exist",
            staged.arrangement
        )));
    }
    match staged.new.lock().take() {
        Some(new) => show_newest(writer, step, new),
        // It holds no row, or is visible already.
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;
    use crate::block::{BlockRows, Numbers};
    use crate::bundle::RunEnd;

    #[test]
    fn compressed_blocks_are_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        let schema = Arc::new(Schema::new(vec![
            Field::new("n", DataType::Int64, true),
            Field::new("t", DataType::Utf8, true),
        ]));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from_iter_values(0..4000)),
            Arc::new(StringArray::from_iter_values((0..4000).map(|_| "the same"))),
        ];
        let rows = RecordBatch::try_new(schema.clone(), columns).unwrap();
        let desc = Arc::new(ArrangementDesc {
            id: ArrangementId(1),
            kind: ArrangementKind::Log,
            schema: schema.clone(),
            key_columns: 0,
        });
        let block = BlockRows {
            hashes: Vec::new().into(),
            rows: &rows,
            diffs: Numbers::All(1),
            epochs: Numbers::All(7),
        };
        let mut sizes = Vec::new();
        for compress in [false, true] {
            let mut to = store.shared.bundle_writer(&mut store.shared.writer.lock());
            let mut run = to.run(desc.clone(), compress);
            run.block(&block).unwrap();
            run.finish(RunEnd::of(0, true));
            let mut new = to.finish(0).unwrap().unwrap();
            sizes.push(new.bundle.len);
            let run = Run::new(new.runs.remove(0), new.bundle);
            let read = run.block(0).unwrap();
            assert_eq!((read.rows, read.epoch(3999)), (4000, 7));
            for c in 0..2 {
                assert_eq!(read.column(c, &schema).unwrap(), rows.column(c));
            }
        }
        assert!(sizes[1] * 2 < sizes[0], "{sizes:?}");
    }
}
