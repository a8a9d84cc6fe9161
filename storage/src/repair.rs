//! Repair of a directory whose sled is damaged or lost: a new one is made from the copy of the manifest, unless only the
//! end of its log is gone.
//!
//! Invariant: nothing is deleted. The damaged sled is put aside under a name of its own, and segments stay until an opening
//! that works.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use sled::Batch;
use tidemill_zset::Epoch;

use crate::api::{Result, StoreError};
use crate::copy;
use crate::disk::{self, Disk, io_error};
use crate::fail::FailPoints;
use crate::ledger::Ledger;
use crate::manifest::{self, BundleRecord, Clock, Format, join_long, read_long, sled_error};
use crate::mark::Mark;

/// The contents of sled.
type Keys = BTreeMap<Vec<u8>, Vec<u8>>;

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
    /// It can be read, but the end of its log is lost or damaged. What it holds is newer than the copy.
    Cut {
        /// Its last epoch.
        epoch: Option<Epoch>,
        /// The one that was committed last.
        committed: Epoch,
    },
    /// It doesn't open, or some of it can't be read, or the copy holds more.
    Damaged(String),
}

/// What a repair would do.
#[derive(Clone, Debug)]
pub struct RepairPlan {
    /// What is there now.
    pub sled: SledState,
    /// The copy that it starts from; `None`: what sled holds is kept.
    pub copy: Option<UsedCopy>,
    /// The last epoch that will be there; what was committed later will be lost.
    pub epoch: Option<Epoch>,
    /// Segments that are needed, but that are missing or have another length: without them the
    /// repaired directory doesn't open either.
    pub missing: Vec<PathBuf>,
}

/// The copy of the manifest that a repair starts from.
#[derive(Clone, Debug)]
pub struct UsedCopy {
    /// Its file.
    pub path: PathBuf,
    /// When it was written.
    pub written: SystemTime,
}

/// Looks at `dir` without changing it, but for what sled itself does when it is opened. Takes the lock.
pub fn plan_repair(dir: &Path) -> Result<RepairPlan> {
    let _lock = lock(dir)?;
    plan(dir)
}

fn plan(dir: &Path) -> Result<RepairPlan> {
    let disk = Disk::open(dir, FailPoints::default())?;
    let (sled, keys) = look_at_sled(dir, &disk);
    if let SledState::Sound { epoch } | SledState::Cut { epoch, .. } = sled {
        return Ok(RepairPlan {
            copy: None,
            epoch,
            missing: missing(dir, &disk, &keys)?,
            sled,
        });
    }
    let copy = copy::read(dir)?;
    let format = copy.keys.get(manifest::FORMAT_KEY);
    let format = format.and_then(|v| Format::decode(v));
    crate::open::check_format(dir, format)?;
    Ok(RepairPlan {
        epoch: copy.clock().unwrap_or_default().epoch,
        missing: missing(dir, &disk, &copy.keys)?,
        copy: Some(UsedCopy {
            path: copy::path(dir),
            written: copy.written,
        }),
        sled,
    })
}

fn lock(dir: &Path) -> Result<std::fs::File> {
    if !dir.is_dir() {
        let message = format!("{} is not a data directory", dir.display());
        return Err(StoreError::Usage(message));
    }
    disk::lock(dir)
}

/// The segments that a manifest of these keys names, and that aren't there as it says.
fn missing(dir: &Path, disk: &Disk, keys: &Keys) -> Result<Vec<PathBuf>> {
    let named = keys.iter();
    let named = named.filter(|(k, _)| k.first() == Some(&manifest::BUNDLE));
    let mut out = Vec::new();
    for (key, value) in join_long(named.map(Ok), &[manifest::BUNDLE])? {
        let record = BundleRecord::decode(&value).ok_or_else(|| StoreError::Corrupt {
            what: format!("the manifest of {}", dir.display()),
            detail: "the record of a bundle has an unknown version, or is too short".into(),
        })?;
        let path = disk.segment(crate::open::id_of(&key)?);
        let there = std::fs::metadata(&path).is_ok_and(|m| m.len() == record.len);
        if !record.inline && !there {
            out.push(path);
        }
    }
    Ok(out)
}

fn batch(keys: Keys) -> Batch {
    let mut batch = Batch::default();
    for (key, value) in keys {
        batch.insert(key, value);
    }
    batch
}

fn look_at_sled(dir: &Path, disk: &Disk) -> (SledState, Keys) {
    if !disk.sled().exists() {
        return (SledState::Missing, Keys::new());
    }
    let look = || -> Result<(Option<Epoch>, Option<Epoch>, Keys)> {
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
        let mut keys = Keys::new();
        for entry in db.iter() {
            let (key, value) = entry.map_err(sled_error("reading sled"))?;
            keys.insert(key.to_vec(), value.to_vec());
        }
        if !keys.contains_key(manifest::FORMAT_KEY) {
            return Err(StoreError::Corrupt {
                what: disk.sled_log().display().to_string(),
                detail: "it is empty".into(),
            });
        }
        let clock = keys.get(manifest::CLOCK_KEY).map(Vec::as_slice);
        Ledger::of_keys(&keys).check(clock, &disk.sled_log())?;
        let epoch = crate::open::last_epoch(&db)?;
        Ok((epoch, Mark::open(dir)?.epoch()?, keys))
    };
    let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(look));
    match looked {
        Ok(Ok((epoch, Some(committed), keys))) if epoch.is_none_or(|e| e < committed) => {
            (SledState::Cut { epoch, committed }, keys)
        }
        Ok(Ok((epoch, _, keys))) => (SledState::Sound { epoch }, keys),
        Ok(Err(e)) => (SledState::Damaged(e.to_string()), Keys::new()),
        Err(_) => {
            let why = "sled panicked while it was read".into();
            (SledState::Damaged(why), Keys::new())
        }
    }
}

/// Does what [`plan_repair`] says; gives where the old sled was put, if a new one was made. Whatever was committed after
/// the plan's epoch is lost; epochs begin at the wall clock's time, so that none that was lost is used again.
pub fn repair(dir: &Path) -> Result<Option<PathBuf>> {
    let _lock = lock(dir)?;
    let plan = plan(dir)?;
    if let SledState::Sound { .. } = plan.sled {
        return Ok(None);
    }
    let disk = Disk::open(dir, FailPoints::default())?;
    let (mut keys, aside) = match plan.copy {
        Some(_) => (copy::read(dir)?.keys, put_aside(dir, &disk)?),
        None => (look_at_sled(dir, &disk).1, None),
    };
    let clock = keys.get(manifest::CLOCK_KEY);
    let clock = clock.and_then(|v| Clock::decode(v)).unwrap_or_default();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let now = Epoch::try_from(now.as_millis()).unwrap_or(0);
    let clock = Clock {
        reserved_upper: clock.reserved_upper.max(now),
        ..clock
    };
    keys.insert(manifest::CLOCK_KEY.to_vec(), clock.encode());
    let context = "writing the repaired manifest";
    let db = crate::open::open_sled(&disk)?;
    db.apply_batch(batch(keys)).map_err(sled_error(context))?;
    db.flush().map_err(sled_error(context))?;
    let log = disk.sled_log();
    std::fs::File::open(&log)
        .and_then(|f| f.sync_all())
        .map_err(|e| io_error("syncing", &log, e))?;
    disk.sync_root()?;
    Mark::open(dir)?.clear()?;
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
