//! The file `committed`: the last committed epoch once more, beside sled.
//!
//! sled takes damage in its log for writes that a crash cut off, and opens without what follows. Against that stands this
//! number, written after each commit and not synced: a kill keeps it, and a power cut may only leave an older one.
//!
//! Invariant: it is never newer than what sled has made durable.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tidemill_zset::Epoch;

use crate::api::{Result, StoreError};
use crate::disk::io_error;
use crate::fail::FailPoints;

const NAME: &str = "committed";
/// The epoch i64, and the crc32 of its bytes.
const BYTES: usize = 12;

/// The open file.
#[derive(Debug)]
pub(crate) struct Mark {
    file: File,
    path: PathBuf,
}

impl Mark {
    /// Opens the one below `root`; makes it if there is none.
    pub(crate) fn open(root: &Path) -> Result<Mark> {
        let path = root.join(NAME);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options
            .open(&path)
            .map_err(|e| io_error("opening", &path, e))?;
        Ok(Mark { file, path })
    }

    /// The epoch that was written last; `None` also for a file that isn't whole, which says nothing.
    pub(crate) fn epoch(&self) -> Result<Option<Epoch>> {
        let mut bytes = [0; BYTES];
        match self.file.read_exact_at(&mut bytes, 0) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(e) => return Err(io_error("reading", &self.path, e)),
        }
        let (epoch, crc) = bytes.split_at(8);
        let whole = crc == crc32fast::hash(epoch).to_le_bytes();
        Ok(whole.then(|| Epoch::from_le_bytes(epoch.try_into().expect("eight bytes"))))
    }

    /// `epoch` is durable.
    pub(crate) fn write(&self, epoch: Epoch, fail: &FailPoints) -> Result<()> {
        let mut bytes = epoch.to_le_bytes().to_vec();
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        fail.operation("mark epoch")
            .and_then(|()| self.file.write_all_at(&bytes, 0))
            .map_err(|e| io_error("writing", &self.path, e))
    }

    /// Compares it with the last epoch that sled gives.
    pub(crate) fn check(&self, found: Option<Epoch>, log: &Path) -> Result<()> {
        match self.epoch()? {
            Some(committed) if found.is_none_or(|e| e < committed) => Err(StoreError::Corrupt {
                what: log.display().to_string(),
                detail: format!(
                    "its last epoch is {}, but {committed} was committed: the end of it is lost or damaged",
                    found.map_or("none".to_string(), |e| e.to_string())
                ),
            }),
            _ => Ok(()),
        }
    }

    /// Says nothing until the next commit: the loss was accepted.
    pub(crate) fn clear(&self) -> Result<()> {
        self.file
            .set_len(0)
            .and_then(|()| self.file.sync_all())
            .map_err(|e| io_error("clearing", &self.path, e))
    }
}
