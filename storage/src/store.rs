//! [`Store`]: the one writer of a data directory.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use arrow::compute::concat_batches;
use parking_lot::{Mutex, RwLock};
use tidemill_zset::hash::hash_columns;
use tidemill_zset::{ArrangementId, Epoch};

use crate::api::*;
use crate::block::{Block, Numbers};
use crate::options::{BLOCK_ROWS_MAX, StoreOptions, StoreStats};
use crate::order::{Entry, sort_by_hash};
use crate::read::{ArrangementVersion, StoreVersion, VersionInner};
use crate::run::{Run, RunMeta};

struct Writer {
    epoch: Option<Epoch>,
    reserved_upper: Epoch,
    catalog: BTreeMap<String, serde_json::Value>,
    offsets: BTreeMap<(u64, Vec<u8>), Vec<u8>>,
    stats: StoreStats,
}

/// The open data directory.
pub struct Store {
    partitions: u32,
    directory_id: String,
    writer: Mutex<Writer>,
    version: RwLock<StoreVersion>,
}

impl Store {
    /// Opens `dir`, initialising it if it is empty or missing.
    pub fn open(dir: &Path, options: StoreOptions) -> Result<Store> {
        std::fs::create_dir_all(dir).map_err(|e| StoreError::Io {
            context: format!("creating the data directory {}", dir.display()),
            source: e,
        })?;
        Ok(Store {
            partitions: options.partitions,
            directory_id: String::new(),
            writer: Mutex::new(Writer {
                epoch: None,
                reserved_upper: 0,
                catalog: BTreeMap::new(),
                offsets: BTreeMap::new(),
                stats: StoreStats::default(),
            }),
            version: RwLock::new(StoreVersion(Arc::new(VersionInner {
                epoch: -1,
                arrangements: HashMap::new(),
            }))),
        })
    }

    /// Number of partitions of this directory.
    pub fn partitions(&self) -> u32 {
        self.partitions
    }

    /// The UUID written when the directory was initialised.
    pub fn directory_id(&self) -> &str {
        &self.directory_id
    }

    /// The newest committed version.
    pub fn version(&self) -> StoreVersion {
        self.version.read().clone()
    }

    /// The last committed epoch.
    pub fn epoch(&self) -> Option<Epoch> {
        self.writer.lock().epoch
    }

    /// The durable bound up to which the clock may have run; 0 in a new directory.
    pub fn reserved_upper(&self) -> Epoch {
        self.writer.lock().reserved_upper
    }

    /// All catalog rows, sorted by key.
    pub fn catalog(&self) -> Result<Vec<(String, serde_json::Value)>> {
        Ok(self.writer.lock().catalog.clone().into_iter().collect())
    }

    /// All offsets of `source`: (key, value), sorted by key.
    pub fn offsets(&self, source: u64) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let w = self.writer.lock();
        let of = w.offsets.iter().filter(|((s, _), _)| *s == source);
        Ok(of.map(|((_, k), v)| (k.clone(), v.clone())).collect())
    }

    /// Commits one epoch; durable when it returns. After an error the process must end.
    pub fn commit(&self, c: Commit) -> Result<StoreVersion> {
        let mut w = self.writer.lock();
        let mut arrangements = self.version.read().0.arrangements.clone();
        for desc in c.create {
            let version = ArrangementVersion {
                since: 0,
                runs: Vec::new(),
                desc: Arc::new(desc),
            };
            arrangements.insert(version.desc.id, Arc::new(version));
        }
        let mut changes: BTreeMap<ArrangementId, Vec<ArrangementChange>> = BTreeMap::new();
        for change in c.changes {
            changes.entry(change.arrangement).or_default().push(change);
        }
        let mut runs: Vec<(ArrangementId, Run)> = Vec::new();
        for staged in &c.staged {
            if let Some((id, run)) = staged.0.downcast_ref::<(ArrangementId, Run)>() {
                runs.push((*id, run.clone()));
            }
        }
        for (id, changes) in changes {
            let Some(a) = arrangements.get(&id) else {
                return Err(StoreError::Usage(format!("no arrangement {id}")));
            };
            if let Some(run) = build(&a.desc, c.epoch, &changes) {
                runs.push((id, run));
            }
        }
        for (id, run) in runs {
            if let Some(a) = arrangements.get_mut(&id) {
                Arc::make_mut(a).runs.push(Arc::new(run));
            }
        }
        for (id, since) in c.since {
            if let Some(a) = arrangements.get_mut(&id) {
                let a = Arc::make_mut(a);
                a.since = a.since.max(since);
            }
        }
        for id in c.drop {
            arrangements.remove(&id);
        }
        for (key, value) in c.catalog {
            match value {
                Some(value) => w.catalog.insert(key, value),
                None => w.catalog.remove(&key),
            };
        }
        for o in c.offsets {
            match o.value {
                Some(value) => w.offsets.insert((o.source, o.key), value),
                None => w.offsets.remove(&(o.source, o.key)),
            };
        }
        w.epoch = Some(c.epoch);
        w.reserved_upper = w.reserved_upper.max(c.reserved_upper);
        w.stats.commits += 1;
        let version = StoreVersion(Arc::new(VersionInner {
            epoch: c.epoch,
            arrangements,
        }));
        *self.version.write() = version.clone();
        Ok(version)
    }

    /// Reserves the clock up to `upper` without an epoch; durable when it returns.
    pub fn reserve(&self, upper: Epoch) -> Result<()> {
        let mut w = self.writer.lock();
        w.reserved_upper = w.reserved_upper.max(upper);
        Ok(())
    }

    /// Writes and syncs a run of `arrangement` at `epoch`, which a later commit makes visible.
    pub fn stage(
        &self,
        arrangement: &ArrangementDesc,
        epoch: Epoch,
        changes: Vec<ArrangementChange>,
    ) -> Result<StagedRun> {
        let run = build(arrangement, epoch, &changes).unwrap_or_else(|| {
            Run::in_memory(
                RunMeta {
                    rows: 0,
                    bytes: 0,
                    min_epoch: epoch,
                    max_epoch: epoch,
                    negative: false,
                    distinct: true,
                },
                Vec::new(),
            )
        });
        Ok(StagedRun(Arc::new((arrangement.id, run))))
    }

    /// Counters and sizes.
    pub fn stats(&self) -> StoreStats {
        self.writer.lock().stats
    }
}

/// Sorts one arrangement's changes of one epoch into a run.
fn build(desc: &ArrangementDesc, epoch: Epoch, changes: &[ArrangementChange]) -> Option<Run> {
    let rows = concat_batches(&desc.schema, changes.iter().map(|c| &c.delta.rows))
        .expect("changes have the schema of their arrangement");
    let n = rows.num_rows();
    if n == 0 {
        return None;
    }
    let mut diffs: Vec<i64> = Vec::with_capacity(n);
    let mut hashes: Vec<u64> = Vec::new();
    for c in changes {
        diffs.extend_from_slice(&c.delta.diffs.to_buffer(c.delta.len()));
        hashes.extend_from_slice(&c.hashes);
    }
    let mut blocks = Vec::new();
    let mut distinct = true;
    if desc.kind == ArrangementKind::Log {
        for at in (0..n).step_by(BLOCK_ROWS_MAX) {
            let len = BLOCK_ROWS_MAX.min(n - at);
            blocks.push(Block::decoded(
                Vec::new().into(),
                &rows.slice(at, len),
                Numbers::of(diffs[at..at + len].to_vec().into()),
                Numbers::All(epoch),
            ));
        }
    } else {
        if hashes.len() != n {
            hashes = hash_columns(&rows.columns()[..desc.key_columns], n);
        }
        let mut entries: Vec<Entry> = (0..n)
            .map(|i| Entry {
                hash: hashes[i],
                source: 0,
                row: i as u32,
            })
            .collect();
        sort_by_hash(&mut entries);
        distinct = desc.kind == ArrangementKind::Last
            || entries.windows(2).all(|w| w[0].hash != w[1].hash);
        for piece in entries.chunks(BLOCK_ROWS_MAX) {
            let indices: arrow::array::UInt32Array =
                piece.iter().map(|e| e.row).collect::<Vec<_>>().into();
            let batch =
                arrow::compute::take_record_batch(&rows, &indices).expect("indices are in range");
            let d: Vec<i64> = piece.iter().map(|e| diffs[e.row as usize]).collect();
            blocks.push(Block::decoded(
                piece.iter().map(|e| e.hash).collect::<Vec<_>>().into(),
                &batch,
                Numbers::of(d.into()),
                Numbers::All(epoch),
            ));
        }
    }
    let meta = RunMeta {
        rows: n as u64,
        bytes: rows.get_array_memory_size() as u64,
        min_epoch: epoch,
        max_epoch: epoch,
        negative: diffs.iter().any(|d| *d < 0),
        distinct,
    };
    Some(Run::in_memory(meta, blocks))
}
