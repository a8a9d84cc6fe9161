//! `manifest.copy`: the keys of sled in one checksummed file, for the day that sled doesn't open.
//!
//! ```text
//! magic u64, per key: key bytes u32, value bytes u32, key, value; crc32 of all before u32
//! ```
//!
//! Invariant: every segment that the copy names exists. Files of retired bundles are therefore kept
//! until a newer copy has been written; there is one at every opening, at closing, and every [`COPY_AFTER`].

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sled::Batch;

use crate::api::{Result, StoreError};
use crate::bundle::Bundle;
use crate::disk::{self, Disk, io_error};
use crate::fail::FailPoints;
use crate::manifest::sled_error;
use crate::store::Shared;
use crate::wire::{Put, Wire};

const MAGIC: u64 = u64::from_le_bytes(*b"TIDEMAN1");
const NAME: &str = "manifest.copy";
/// The copy is at most so much older than the manifest.
const COPY_AFTER: Duration = Duration::from_secs(60);
/// Bytes of retired files that may wait for the next copy.
const RETIRED_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// How many damaged directories of sled repair puts aside under names of their own.
const DAMAGED_MAX: u32 = 1000;

/// What has happened since the last copy.
#[derive(Debug)]
pub(crate) struct Pending {
    written: Instant,
    dirty: bool,
    retired: Vec<Arc<Bundle>>,
    retired_bytes: u64,
}

impl Default for Pending {
    fn default() -> Self {
        Pending {
            written: Instant::now(),
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
        Some(match self.retired_bytes > RETIRED_BYTES_MAX {
            true => Duration::ZERO,
            false => COPY_AFTER.saturating_sub(self.written.elapsed()),
        })
    }
}

/// Writes the copy, and lets go of the files that only the old one named.
pub(crate) fn write(shared: &Shared) -> Result<()> {
    let mut writer = shared.writer.lock();
    if !writer.copy.dirty {
        return Ok(());
    }
    let bytes = encode(&shared.db)?;
    let retired = std::mem::take(&mut writer.copy.retired);
    writer.copy.dirty = false;
    drop(writer);
    let written = shared.env.disk.replace(NAME, &bytes);
    let mut writer = shared.writer.lock();
    writer.copy.written = Instant::now();
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

fn decode(bytes: &[u8]) -> Option<Batch> {
    let (body, crc) = bytes.split_last_chunk::<4>()?;
    if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        return None;
    }
    let mut wire = Wire(body);
    if wire.u64()? != MAGIC {
        return None;
    }
    let mut batch = Batch::default();
    while !wire.0.is_empty() {
        let (key, value) = (wire.u32()? as usize, wire.u32()? as usize);
        let key = wire.bytes(key)?;
        batch.insert(key, wire.bytes(value)?);
    }
    Some(batch)
}

/// Makes a new sled from the copy of the manifest; the old one is put aside as `sled.damaged-<n>`.
/// For a directory that doesn't open; whatever was committed after the copy was written is lost.
pub fn repair(dir: &Path) -> Result<()> {
    let path = dir.join(NAME);
    let bytes = std::fs::read(&path).map_err(|e| io_error("reading", &path, e))?;
    let batch = decode(&bytes).ok_or_else(|| StoreError::Corrupt {
        what: path.display().to_string(),
        detail: "no copy of a manifest, or wrong checksum".into(),
    })?;
    let _lock = disk::lock(dir)?;
    let disk = Disk::open(dir, FailPoints::default())?;
    let sled = disk.sled();
    if sled.exists() {
        let aside = (1..DAMAGED_MAX)
            .map(|n| dir.join(format!("sled.damaged-{n}")))
            .find(|p| !p.exists())
            .ok_or_else(|| {
                StoreError::Usage(format!("too many sled.damaged-* in {}", dir.display()))
            })?;
        std::fs::rename(&sled, &aside).map_err(|e| io_error("putting aside", &sled, e))?;
    }
    let context = "writing the repaired manifest";
    let db = crate::open::open_sled(&disk)?;
    db.apply_batch(batch).map_err(sled_error(context))?;
    db.flush().map_err(sled_error(context))?;
    let log = disk.sled_log();
    std::fs::File::open(&log)
        .and_then(|f| f.sync_all())
        .map_err(|e| io_error("syncing", &log, e))?;
    disk.sync_root()
}
