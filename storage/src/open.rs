//! Opening a data directory: initialise or recover. Reads the manifest and looks at file lengths;
//! the time depends on the number of runs, not on the rows in them.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use tidemill_zset::codec::CODEC_VERSION;
use tidemill_zset::hash::HASH_VERSION;
use tidemill_zset::{ArrangementId, Epoch};

use crate::api::{Result, StoreError};
use crate::background::Background;
use crate::bundle::{BlockWeight, Bundle, Env};
use crate::copy::{self, Pending};
use crate::disk::{Disk, io_error};
use crate::ledger::Ledger;
use crate::manifest::{self, BundleRecord, Clock, FORMAT_VERSION, Format, read_long, sled_error};
use crate::mark::Mark;
use crate::options::StoreOptions;
use crate::read::{ArrangementVersion, StoreVersion, VersionInner};
use crate::run::{ALIVE, Run};
use crate::store::{Live, Shared, Writer};
use crate::wire::Wire;

/// Memory for sled's own cache of pages.
const SLED_CACHE_BYTES: u64 = 64 * 1024 * 1024;
/// Blocks of usual size, to estimate how many the cache will hold.
const CACHED_BLOCK_BYTES: usize = 64 * 1024;
/// sled's threads of a store that was just closed may still hold its lock; ours is taken already,
/// so that nobody else can.
const SLED_LOCK_WAIT: Duration = Duration::from_secs(10);
const PARTITIONS_MAX: u32 = 65_536;

/// Opens the directory `root`, whose lock the caller holds.
pub(crate) fn open(root: &Path, options: &StoreOptions) -> Result<Arc<Shared>> {
    let new = !root.join("sled").exists();
    let disk = Disk::open(root, options.fail.clone())?;
    if new && (copy::path(root).exists() || !disk.list_segments()?.is_empty()) {
        return Err(StoreError::Corrupt {
            what: root.display().to_string(),
            detail: "it has been used, but has no directory `sled`: restore it, or repair".into(),
        });
    }
    let db = open_sled(&disk)?;
    copy::check(root, &db)?;
    let mark = Mark::open(root)?;
    mark.check(last_epoch(&db)?, &disk.sled_log())?;
    let mut ledger = Ledger::of_sled(&db)?;
    let clock = db
        .get(manifest::CLOCK_KEY)
        .map_err(sled_error("reading the clock"))?;
    ledger.check(clock.as_deref(), &disk.sled_log())?;
    let log_path = disk.sled_log();
    let sled_log = File::open(&log_path).map_err(|e| io_error("opening", &log_path, e))?;
    let format = match db
        .get(manifest::FORMAT_KEY)
        .map_err(sled_error("reading the format"))?
    {
        Some(bytes) => check_format(root, Format::decode(&bytes))?,
        None if copy::path(root).exists() || !disk.list_segments()?.is_empty() => {
            return Err(StoreError::Corrupt {
                what: log_path.display().to_string(),
                detail: "the directory has been used, but this is empty: its contents are lost"
                    .into(),
            });
        }
        None => {
            let format = initialise(&disk, &db, &sled_log, options)?;
            ledger = Ledger::of_sled(&db)?;
            format
        }
    };
    let blocks = options.cache_bytes / CACHED_BLOCK_BYTES;
    let env = Arc::new(Env {
        disk,
        files: quick_cache::sync::Cache::new(crate::bundle::OPEN_FILES_MAX),
        cache: quick_cache::sync::Cache::with_weighter(
            blocks.max(16),
            options.cache_bytes as u64,
            BlockWeight,
        ),
        sled: RwLock::new(Some(db.clone())),
        blocks_read: AtomicU64::new(0),
        bytes_written: AtomicU64::new(0),
    });
    let recovered = recover(&env, &db, ledger)?;
    let shared = Shared {
        env,
        db,
        sled_log,
        mark,
        format: format.newest(),
        inline_bytes_max: options.inline_bytes_max,
        writer: Mutex::new(recovered.writer),
        version: RwLock::new(recovered.version),
        background: Background::default(),
    };
    if format != shared.format {
        // What is written from now on, older builds can't read.
        let mut writer = shared.writer.lock();
        let mut step = shared.step();
        step.batch
            .insert(manifest::FORMAT_KEY, shared.format.encode());
        let clock = writer.clock;
        shared.apply(&mut writer, step, clock)?;
    }
    Ok(Arc::new(shared))
}

pub(crate) fn open_sled(disk: &Disk) -> Result<sled::Db> {
    let path = disk.sled();
    let config = sled::Config::new()
        .path(&path)
        .cache_capacity(SLED_CACHE_BYTES)
        .flush_every_ms(None);
    let started = Instant::now();
    let mut snapshots = true;
    loop {
        // Some kinds of damage make sled panic instead of giving an error.
        let opened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| config.open()))
            .map_err(|_| StoreError::Corrupt {
                what: disk.sled_log().display().to_string(),
                detail: "sled can't read it".into(),
            })?;
        match opened {
            Ok(db) => return Ok(db),
            Err(sled::Error::Io(e))
                if e.to_string().contains("lock") && started.elapsed() < SLED_LOCK_WAIT =>
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            // A snapshot only spares sled reading its log from the start. One that was being written when the disk was full
            // must not keep the log from being read; what is read is compared with the sum of all keys.
            Err(sled::Error::Corruption { .. })
                if std::mem::take(&mut snapshots) && remove_snapshots(&path) > 0 => {}
            Err(source) => {
                return Err(StoreError::Sled {
                    context: format!("opening sled in {}", path.display()),
                    source,
                });
            }
        }
    }
}

/// Removes sled's snapshots of its index; gives how many there were.
fn remove_snapshots(sled: &Path) -> usize {
    let entries = std::fs::read_dir(sled).into_iter().flatten().flatten();
    let snapshots = entries.filter(|e| e.file_name().to_string_lossy().starts_with("snap."));
    let removed = snapshots.filter(|e| {
        tracing::warn!(path = %e.path().display(), "removing a snapshot that sled may not be able to read");
        std::fs::remove_file(e.path()).is_ok()
    });
    removed.count()
}

/// The last committed epoch in sled.
pub(crate) fn last_epoch(db: &sled::Db) -> Result<Option<Epoch>> {
    let clock = db
        .get(manifest::CLOCK_KEY)
        .map_err(sled_error("reading the clock"))?;
    Ok(clock.and_then(|v| Clock::decode(&v)).and_then(|c| c.epoch))
}

fn initialise(
    disk: &Disk,
    db: &sled::Db,
    sled_log: &File,
    options: &StoreOptions,
) -> Result<Format> {
    let what = disk.root().display().to_string();
    if !db.is_empty() {
        return Err(StoreError::Corrupt {
            what,
            detail: "sled holds keys, but not the format version".into(),
        });
    }
    let partitions = options.partitions;
    if !partitions.is_power_of_two() || partitions > PARTITIONS_MAX {
        return Err(StoreError::Usage(format!(
            "the number of partitions is {partitions}; it must be a power of two up to {PARTITIONS_MAX}"
        )));
    }
    let format = Format {
        format: FORMAT_VERSION,
        hash: HASH_VERSION,
        codec: u32::from(CODEC_VERSION),
        partitions,
        directory_id: uuid::Uuid::new_v4().to_string(),
    };
    let written = |e: std::io::Error| io_error("initialising", disk.root(), e);
    disk.fail.operation("sled batch").map_err(written)?;
    db.insert(manifest::FORMAT_KEY, format.encode())
        .map_err(sled_error("initialising sled"))?;
    db.flush().map_err(sled_error("initialising sled"))?;
    disk.fail.operation("sync sled").map_err(written)?;
    sled_log.sync_all().map_err(written)?;
    disk.sync_root()?;
    Ok(format)
}

/// Refuses what this build doesn't read.
pub(crate) fn check_format(root: &Path, format: Option<Format>) -> Result<Format> {
    let format = format.ok_or_else(|| StoreError::Corrupt {
        what: format!("the format key in {}", root.display()),
        detail: "too short".into(),
    })?;
    // Version, and the oldest and newest that this build reads.
    let ours = [
        ("format", format.format, 1, FORMAT_VERSION),
        ("key hash", format.hash, HASH_VERSION, HASH_VERSION),
        ("row codec", format.codec, 1, u32::from(CODEC_VERSION)),
    ];
    for (name, found, oldest, newest) in ours {
        if found < oldest || found > newest {
            let read = match oldest == newest {
                true => format!("version {newest}"),
                false => format!("versions {oldest} to {newest}"),
            };
            return Err(StoreError::Usage(format!(
                "{} was written with {name} version {found}, this build reads {read}: use the build that wrote it",
                root.display()
            )));
        }
    }
    if !format.partitions.is_power_of_two() {
        return Err(StoreError::Corrupt {
            what: format!("the format key in {}", root.display()),
            detail: format!("{} partitions", format.partitions),
        });
    }
    Ok(format)
}

struct Recovered {
    writer: Writer,
    version: StoreVersion,
}

/// The id in the rest of a manifest key.
pub(crate) fn id_of(key: &[u8]) -> Result<u64> {
    Wire(key)
        .bytes(8)
        .filter(|_| key.len() == 8)
        .and_then(|b| b.try_into().ok())
        .map(u64::from_be_bytes)
        .ok_or_else(|| StoreError::Corrupt {
            what: format!("the manifest key {key:?}"),
            detail: "expected a number of 8 bytes".into(),
        })
}

fn recover(env: &Arc<Env>, db: &sled::Db, ledger: Ledger) -> Result<Recovered> {
    let clock = match db
        .get(manifest::CLOCK_KEY)
        .map_err(sled_error("reading the clock"))?
    {
        None => Clock::default(),
        Some(bytes) => Clock::decode(&bytes).ok_or_else(|| StoreError::Corrupt {
            what: "the clock in the manifest".into(),
            detail: "too short".into(),
        })?,
    };
    let mut arrangements = BTreeMap::new();
    for (key, value) in read_long(db, &[manifest::ARRANGEMENT])? {
        let id = ArrangementId(id_of(&key)?);
        let (desc, begins) =
            manifest::get_arrangement(id, Wire(&value)).map_err(|detail| StoreError::Corrupt {
                what: format!("the manifest's description of arrangement {id}"),
                detail,
            })?;
        let mut version = ArrangementVersion::new(desc);
        version.since = begins;
        arrangements.insert(id, version);
    }
    let (bundles, next_order) = recover_bundles(env, db, &mut arrangements)?;
    env.disk.fail.pass("during_recovery");
    copy::write_first(&env.disk, db)?;
    let next_bundle = sweep(env, &bundles)?;
    let arrangements: HashMap<_, _> = arrangements
        .into_iter()
        .map(|(id, mut a)| {
            a.runs.sort_by_key(|r| r.meta.order);
            a.history.sort_by_key(|r| r.meta.order);
            a.replaced.sort_by_key(|r| r.meta.order);
            (id, Arc::new(a))
        })
        .collect();
    Ok(Recovered {
        version: StoreVersion(Arc::new(VersionInner {
            epoch: clock.epoch.unwrap_or(-1),
            arrangements,
        })),
        writer: Writer {
            clock,
            bundles,
            next_bundle,
            next_order,
            failed: None,
            commits: 0,
            merges: 0,
            merge_bytes_written: 0,
            merged: Vec::new(),
            copy: Pending::default(),
            ledger,
        },
    })
}

fn recover_bundles(
    env: &Arc<Env>,
    db: &sled::Db,
    arrangements: &mut BTreeMap<ArrangementId, ArrangementVersion>,
) -> Result<(HashMap<u64, Live>, u64)> {
    let mut bundles = HashMap::new();
    let mut next_order = 0;
    for (key, value) in read_long(db, &[manifest::BUNDLE])? {
        let id = id_of(&key)?;
        let what = format!("the manifest's record of bundle {id:016x}");
        let record = BundleRecord::decode(&value).ok_or_else(|| StoreError::Corrupt {
            what: what.clone(),
            detail: "unknown version, or too short".into(),
        })?;
        let bundle = Arc::new(Bundle::committed(
            env.clone(),
            id,
            record.len,
            record.inline,
        ));
        bundle.check_file()?;
        for run in &record.runs {
            let Some(a) = arrangements.get_mut(&run.arrangement) else {
                return Err(StoreError::Corrupt {
                    what,
                    detail: format!("arrangement {} doesn't exist", run.arrangement),
                });
            };
            next_order = next_order.max(run.order + 1);
            a.since = a.since.max(run.since);
            let place = match run.dead_from {
                ALIVE => &mut a.runs,
                _ if run.aside => &mut a.history,
                _ => &mut a.replaced,
            };
            place.push(Arc::new(Run::new(run.clone(), bundle.clone())));
        }
        bundles.insert(id, Live { bundle, record });
    }
    Ok((bundles, next_order))
}

/// Removes files that the manifest doesn't name: left by a crash, or by a store that closed while
/// a version was held. Returns an id above all that were ever seen.
fn sweep(env: &Env, bundles: &HashMap<u64, Live>) -> Result<u64> {
    let mut next = bundles.keys().map(|id| id + 1).max().unwrap_or(0);
    for (path, id) in env.disk.list_segments()? {
        next = next.max(id + 1);
        let named =
            path == env.disk.segment(id) && bundles.get(&id).is_some_and(|b| !b.record.inline);
        if !named {
            tracing::info!(path = %path.display(), "removing a file that the manifest doesn't name");
            env.disk.sweep(&path)?;
        }
    }
    Ok(next)
}
