//! `manifest.copy`: the keys of sled in one checksummed file, for the day that sled doesn't open.
//!
//! ```text
//! magic u64, per key: key bytes u32, value bytes u32, key, value; crc32 of all before u32
//! ```
//!
//! Invariant: every segment that the copy names exists. Files of retired bundles are therefore kept
//! until a newer copy has been written; there is one at every opening, at closing, and at most [`COPY_AFTER_MAX`]
//! after a change.
//! It is never newer than what sled has made durable.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::api::{Result, StoreError};
use crate::bundle::Bundle;
use crate::disk::{Disk, io_error};
use crate::manifest::{self, Clock, sled_error};
use crate::store::Shared;
use crate::wire::{Put, Wire};

const MAGIC: u64 = u64::from_le_bytes(*b"TIDEMAN1");
const NAME: &str = "manifest.copy";
/// The copy is at most so much older than the manifest,
const COPY_AFTER_MAX: Duration = Duration::from_secs(60);
/// and never written sooner than this after the last one.
const COPY_AFTER_MIN: Duration = Duration::from_secs(5);
/// Between these, writing it may take one part in this many of the time.
const COPY_SHARE: u32 = 1000;
/// Bytes of retired files that may wait for the next copy.
const RETIRED_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// How many of them: each may be open.
const RETIRED_FILES_MAX: usize = 128;

/// What has happened since the last copy.
#[derive(Debug)]
pub(crate) struct Pending {
    written: Instant,
    /// How long the last one took.
    took: Duration,
    dirty: bool,
    retired: Vec<Arc<Bundle>>,
    retired_bytes: u64,
}

impl Default for Pending {
    fn default() -> Self {
        Pending {
            written: Instant::now(),
            took: Duration::ZERO,
            dirty: false,
            retired: Vec::new(),
            retired_bytes: 0,
        }
    }
}

impl Pending {
    /// The manifest has changed.
    pub(crate) fn changed(&mut self) {
        self.dirty = true;
    }

    /// A bundle that the manifest names no more, but perhaps the copy.
    pub(crate) fn retire(&mut self, bundle: Arc<Bundle>) {
        bundle.retire();
        if !bundle.is_inline() {
            self.retired_bytes += bundle.len;
            self.retired.push(bundle);
        }
    }

    /// How long the next copy may wait; `None`: there is nothing to write.
    pub(crate) fn due_in(&self) -> Option<Duration> {
        if !self.dirty {
            return None;
        }
        let many = self.retired.len() > RETIRED_FILES_MAX;
        Some(match many || self.retired_bytes > RETIRED_BYTES_MAX {
            true => Duration::ZERO,
            false => (self.took * COPY_SHARE)
                .clamp(COPY_AFTER_MIN, COPY_AFTER_MAX)
                .saturating_sub(self.written.elapsed()),
        })
    }
}

/// Writes the copy, and lets go of the files that only the old one named.
pub(crate) fn write(shared: &Shared) -> Result<()> {
    let mut writer = shared.writer.lock();
    if !writer.copy.dirty {
        return Ok(());
    }
    // After a failure nobody knows which of its last changes sled will give after a restart.
    writer.check()?;
    let started = Instant::now();
    let bytes = encode(&shared.db)?;
    let retired = std::mem::take(&mut writer.copy.retired);
    writer.copy.dirty = false;
    drop(writer);
    let written = shared.env.disk.replace(NAME, &bytes);
    let mut writer = shared.writer.lock();
    writer.copy.written = Instant::now();
    writer.copy.took = started.elapsed();
    if written.is_err() {
        writer.copy.dirty = true;
        writer.copy.retired.extend(retired);
    } else {
        writer.copy.retired_bytes = writer.copy.retired.iter().map(|b| b.len).sum();
        drop(writer);
        // Only now may their files go.
        drop(retired);
    }
    written
}

/// Writes the copy at opening, before anything is swept.
pub(crate) fn write_first(disk: &Disk, db: &sled::Db) -> Result<()> {
    disk.replace(NAME, &encode(db)?)
}

/// Writes the last copy. If that fails, the files it would have let go stay until the next opening.
pub(crate) fn close(shared: &Shared) {
    if let Err(e) = write(shared) {
        tracing::warn!(error = %e, "could not write the copy of the manifest");
        for bundle in &shared.writer.lock().copy.retired {
            bundle.adopt();
        }
    }
}

fn encode(db: &sled::Db) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    out.u64(MAGIC);
    for entry in db.iter() {
        let (key, value) = entry.map_err(sled_error("copying the manifest"))?;
        out.u32(key.len() as u32);
        out.u32(value.len() as u32);
        out.extend_from_slice(&key);
        out.extend_from_slice(&value);
    }
    let crc = crc32fast::hash(&out);
    out.u32(crc);
    Ok(out)
}

/// A copy that was read back.
pub(crate) struct Copy {
    /// The modification time of its file.
    pub written: SystemTime,
    pub keys: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Copy {
    /// The clock when it was written.
    pub(crate) fn clock(&self) -> Option<Clock> {
        self.keys
            .get(manifest::CLOCK_KEY)
            .map_or(Some(Clock::default()), |v| Clock::decode(v))
    }
}

/// The copy's path below `root`.
pub(crate) fn path(root: &Path) -> PathBuf {
    root.join(NAME)
}

/// Reads the copy below `root`.
pub(crate) fn read(root: &Path) -> Result<Copy> {
    let path = path(root);
    let read = || Ok((std::fs::metadata(&path)?.modified()?, std::fs::read(&path)?));
    let (written, bytes) = read().map_err(|e| io_error("reading", &path, e))?;
    let keys = decode(&bytes).ok_or_else(|| StoreError::Corrupt {
        what: path.display().to_string(),
        detail: "no copy of a manifest, or wrong checksum".into(),
    })?;
    Ok(Copy { written, keys })
}

fn decode(bytes: &[u8]) -> Option<BTreeMap<Vec<u8>, Vec<u8>>> {
    let (body, crc) = bytes.split_last_chunk::<4>()?;
    if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        return None;
    }
    let mut wire = Wire(body);
    if wire.u64()? != MAGIC {
        return None;
    }
    let mut keys = BTreeMap::new();
    while !wire.0.is_empty() {
        let (key, value) = (wire.u32()? as usize, wire.u32()? as usize);
        let key = wire.bytes(key)?.to_vec();
        keys.insert(key, wire.bytes(value)?.to_vec());
    }
    Some(keys)
}

/// Compares sled with the copy at opening. sled takes damage at the end of its log for writes that a crash cut off, and
/// opens without them; but what the copy holds was durable when it was written.
pub(crate) fn check(root: &Path, db: &sled::Db) -> Result<()> {
    let copy = match read(root) {
        Ok(copy) => copy,
        Err(StoreError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return Ok(());
        }
        Err(StoreError::Corrupt { what, detail }) => {
            tracing::warn!(%what, %detail, "the copy of the manifest is useless; it is written anew");
            return Ok(());
        }
        Err(e) => return Err(e),
    };
    let clock = db
        .get(manifest::CLOCK_KEY)
        .map_err(sled_error("reading the clock"))?
        .and_then(|v| Clock::decode(&v))
        .unwrap_or_default();
    let copied = copy.clock().unwrap_or_default();
    if clock.epoch >= copied.epoch {
        return Ok(());
    }
    let known = |epoch: Option<i64>| epoch.map_or("none".to_string(), |e| e.to_string());
    Err(StoreError::Corrupt {
        what: root.join("sled").join("db").display().to_string(),
        detail: format!(
            "its last epoch is {}, but {} was written when the last one was {}: the end of it is lost",
            known(clock.epoch),
            path(root).display(),
            known(copied.epoch)
        ),
    })
}
