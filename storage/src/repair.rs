//! Repair of a directory whose sled is damaged or lost: a new one is made from the copy of the manifest.
//!
//! Invariant: nothing is deleted. The damaged sled is put aside under a name of its own, and segments stay until an opening
//! that works.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use sled::Batch;
use tidemill_zset::Epoch;

use crate::api::{Result, StoreError};
use crate::copy::{self, Copy};
use crate::disk::{self, Disk, io_error};
use crate::fail::FailPoints;
use crate::manifest::{self, BundleRecord, Clock, Format, join_long, read_long, sled_error};

/// How many damaged directories of sled are put aside under names of their own.
const DAMAGED_MAX: u32 = 1000;

/// What sled is like before a repair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SledState {
    /// There is none.
    Missing,
    /// It opens, and every key of it can be read.
    Sound {
        /// Its last epoch.
        epoch: Option<Epoch>,
    },
    /// It doesn't open, or some of it can't be read, or its end is lost.
    Damaged(String),
}

/// What a repair would do.
#[derive(Clone, Debug)]
pub struct RepairPlan {
    /// The copy that it starts from.
    pub copy: PathBuf,
    /// When that was written.
    pub written: SystemTime,
    /// The last epoch in it; what was committed later will be lost.
    pub epoch: Option<Epoch>,
    /// Segments that the copy names, but that are missing or have another length: without them the
    /// repaired directory doesn't open either.
    pub missing: Vec<PathBuf>,
    /// What is there now.
    pub sled: SledState,
}

/// Looks at `dir` without changing it, but for what sled itself does when it is opened. Takes the lock.
pub fn plan_repair(dir: &Path) -> Result<RepairPlan> {
    let _lock = lock(dir)?;
    let copy = copy::read(dir)?;
    let format = copy.keys.get(manifest::FORMAT_KEY);
    let format = format.and_then(|v| Format::decode(v));
    crate::open::check_format(dir, format)?;
    let disk = Disk::open(dir, FailPoints::default())?;
    let mut missing = Vec::new();
    for (id, record) in bundles(dir, &copy)? {
        let path = disk.segment(id);
        let there = std::fs::metadata(&path).is_ok_and(|m| m.len() == record.len);
        if !record.inline && !there {
            missing.push(path);
        }
    }
    Ok(RepairPlan {
        copy: copy::path(dir),
        written: copy.written,
        epoch: copy.clock().unwrap_or_default().epoch,
        missing,
        sled: look_at_sled(dir, &disk),
    })
}

fn lock(dir: &Path) -> Result<std::fs::File> {
    if !dir.is_dir() {
        let message = format!("{} is not a data directory", dir.display());
        return Err(StoreError::Usage(message));
    }
    disk::lock(dir)
}

/// The bundles that the copy names.
fn bundles(dir: &Path, copy: &Copy) -> Result<Vec<(u64, BundleRecord)>> {
    let named = copy.keys.iter();
    let named = named.filter(|(k, _)| k.first() == Some(&manifest::BUNDLE));
    let mut out = Vec::new();
    for (key, value) in join_long(named.map(Ok), &[manifest::BUNDLE])? {
        let record = BundleRecord::decode(&value).ok_or_else(|| StoreError::Corrupt {
            what: copy::path(dir).display().to_string(),
            detail: "the record of a bundle has an unknown version, or is too short".into(),
        })?;
        out.push((crate::open::id_of(&key)?, record));
    }
    Ok(out)
}

fn batch(keys: std::collections::BTreeMap<Vec<u8>, Vec<u8>>) -> Batch {
    let mut batch = Batch::default();
    for (key, value) in keys {
        batch.insert(key, value);
    }
    batch
}

fn look_at_sled(dir: &Path, disk: &Disk) -> SledState {
    if !disk.sled().exists() {
        return SledState::Missing;
    }
    let look = || -> Result<Option<Epoch>> {
        let db = crate::open::open_sled(disk)?;
        copy::check(dir, &db)?;
        for prefix in [
            manifest::ARRANGEMENT,
            manifest::BUNDLE,
            manifest::CATALOG,
            manifest::OFFSET,
        ] {
            read_long(&db, &[prefix])?;
        }
        for entry in db.iter() {
            entry.map_err(sled_error("reading sled"))?;
        }
        let clock = db
            .get(manifest::CLOCK_KEY)
            .map_err(sled_error("reading the clock"))?;
        Ok(clock
            .and_then(|v| Clock::decode(&v))
            .unwrap_or_default()
            .epoch)
    };
    let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(look));
    match looked {
        Ok(Ok(epoch)) => SledState::Sound { epoch },
        Ok(Err(e)) => SledState::Damaged(e.to_string()),
        Err(_) => SledState::Damaged("sled panicked while it was read".into()),
    }
}

/// Makes a new sled from the copy of the manifest; gives where the old one was put. Whatever was committed after
/// the copy was written is lost; epochs begin at the wall clock's time, so that none that was lost is used again.
pub fn repair(dir: &Path) -> Result<Option<PathBuf>> {
    let _lock = lock(dir)?;
    let mut copy = copy::read(dir)?;
    let clock = copy.clock().unwrap_or_default();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let now = Epoch::try_from(now.as_millis()).unwrap_or(0);
    let clock = Clock {
        reserved_upper: clock.reserved_upper.max(now),
        ..clock
    };
    copy.keys
        .insert(manifest::CLOCK_KEY.to_vec(), clock.encode());
    let disk = Disk::open(dir, FailPoints::default())?;
    let aside = put_aside(dir, &disk)?;
    let context = "writing the repaired manifest";
    let db = crate::open::open_sled(&disk)?;
    db.apply_batch(batch(copy.keys))
        .map_err(sled_error(context))?;
    db.flush().map_err(sled_error(context))?;
    let log = disk.sled_log();
    std::fs::File::open(&log)
        .and_then(|f| f.sync_all())
        .map_err(|e| io_error("syncing", &log, e))?;
    disk.sync_root()?;
    Ok(aside)
}

fn put_aside(dir: &Path, disk: &Disk) -> Result<Option<PathBuf>> {
    let sled = disk.sled();
    if !sled.exists() {
        return Ok(None);
    }
    let aside = (1..DAMAGED_MAX)
        .map(|n| dir.join(format!("sled.damaged-{n}")))
        .find(|p| !p.exists())
        .ok_or_else(|| {
            StoreError::Usage(format!("too many sled.damaged-* in {}", dir.display()))
        })?;
    std::fs::rename(&sled, &aside).map_err(|e| io_error("putting aside", &sled, e))?;
    Ok(Some(aside))
}
