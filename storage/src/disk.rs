//! The data directory: its files, its lock, and the order of system calls that makes a file durable.
//!
//! Invariant: a segment appears under its final name only when its bytes are synced, and the name is
//! synced before the caller may refer to it. Every operation that changes the disk passes the
//! injected-failure counter first.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::api::{Result, StoreError};
use crate::fail::FailPoints;

const LOCK: &str = "LOCK";
const SEGMENTS: &str = "segments";
const SLED: &str = "sled";
const SEGMENT_SUFFIX: &str = ".seg";

/// Where everything lies. Holds the lock as long as it lives.
#[derive(Debug)]
pub(crate) struct Disk {
    root: PathBuf,
    segments: PathBuf,
    segments_dir: File,
    pub fail: FailPoints,
}

/// An I/O error with what was being done to which file.
pub(crate) fn io_error(action: &str, path: &Path, source: std::io::Error) -> StoreError {
    StoreError::Io {
        context: format!("{action} {}", path.display()),
        source,
    }
}

/// How long the lock of another process is waited for: one that was killed a moment ago holds it until the system
/// has taken it down.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
/// Time between two looks at the lock.
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// Takes the lock of the directory `root`, creating it if it is missing. It is held until the file is closed.
pub(crate) fn lock(root: &Path) -> Result<File> {
    if !root.exists() {
        std::fs::create_dir_all(root).map_err(|e| io_error("creating", root, e))?;
        if let Some(parent) = root.parent().filter(|p| !p.as_os_str().is_empty()) {
            sync_directory(parent)?;
        }
    }
    if !root.is_dir() {
        return Err(StoreError::Usage(format!(
            "{} is not a directory: choose another one for the data",
            root.display()
        )));
    }
    let path = root.join(LOCK);
    let mut options = OpenOptions::new();
    let file = options
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|e| io_error("opening", &path, e))?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(std::fs::TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(LOCK_RETRY);
            }
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(StoreError::Locked(root.display().to_string()));
            }
            Err(std::fs::TryLockError::Error(e)) => return Err(io_error("locking", &path, e)),
        }
    }
}

fn sync_directory(path: &Path) -> Result<()> {
    let dir = File::open(path).map_err(|e| io_error("opening", path, e))?;
    dir.sync_all().map_err(|e| io_error("syncing", path, e))
}

impl Disk {
    /// Creates what is missing below `root`, which is locked.
    pub(crate) fn open(root: &Path, fail: FailPoints) -> Result<Disk> {
        let segments = root.join(SEGMENTS);
        if !segments.exists() {
            fail.operation("create directory")
                .and_then(|()| std::fs::create_dir(&segments))
                .map_err(|e| io_error("creating", &segments, e))?;
            sync_directory(root)?;
        }
        let segments_dir = File::open(&segments).map_err(|e| io_error("opening", &segments, e))?;
        Ok(Disk {
            root: root.to_path_buf(),
            segments,
            segments_dir,
            fail,
        })
    }

    /// The directory itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// sled's directory.
    pub(crate) fn sled(&self) -> PathBuf {
        self.root.join(SLED)
    }

    /// The file that sled appends its log to.
    pub(crate) fn sled_log(&self) -> PathBuf {
        self.sled().join("db")
    }

    /// Makes the entries of a new directory durable.
    pub(crate) fn sync_root(&self) -> Result<()> {
        sync_directory(&self.sled())?;
        sync_directory(&self.root)
    }

    /// The final name of segment `id`.
    pub(crate) fn segment(&self, id: u64) -> PathBuf {
        self.segments.join(format!("{id:016x}{SEGMENT_SUFFIX}"))
    }

    /// Opens a new file that will become segment `id`.
    pub(crate) fn create_segment(&self, id: u64) -> Result<NewFile> {
        self.create(self.segment(id))
    }

    fn create(&self, path: PathBuf) -> Result<NewFile> {
        let temporary = path.with_extension("tmp");
        let file = self
            .fail
            .operation("create file")
            .and_then(|()| File::create(&temporary))
            .map_err(|e| io_error("creating", &temporary, e))?;
        Ok(NewFile {
            file,
            temporary,
            path,
        })
    }

    /// Makes the new file's bytes and then its name durable.
    pub(crate) fn publish_segment(&self, new: NewFile) -> Result<()> {
        let NewFile {
            file,
            temporary,
            path,
        } = new;
        self.fail
            .operation("sync file")
            .and_then(|()| file.sync_all())
            .map_err(|e| io_error("syncing", &temporary, e))?;
        self.fail
            .operation("rename file")
            .and_then(|()| std::fs::rename(&temporary, &path))
            .map_err(|e| io_error("renaming", &temporary, e))?;
        self.fail
            .operation("sync directory")
            .and_then(|()| self.segments_dir.sync_all())
            .map_err(|e| io_error("syncing", &self.segments, e))?;
        self.fail.pass("segment_synced");
        Ok(())
    }

    /// Replaces the file `name` below the root with `bytes`, durably.
    pub(crate) fn replace(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let mut new = self.create(self.root.join(name))?;
        self.write(&mut new, bytes)?;
        self.fail
            .operation("replace file")
            .and_then(|()| new.file.sync_all())
            .and_then(|()| std::fs::rename(&new.temporary, &new.path))
            .map_err(|e| io_error("replacing", &new.path, e))?;
        sync_directory(&self.root)
    }

    /// Appends to a new file.
    pub(crate) fn write(&self, new: &mut NewFile, bytes: &[u8]) -> Result<()> {
        self.fail
            .operation("write file")
            .and_then(|()| new.file.write_all(bytes))
            .map_err(|e| io_error("writing", &new.temporary, e))
    }

    /// Removes segment `id`, which nobody names any more. A failure only costs space until the next opening.
    pub(crate) fn remove_segment(&self, id: u64) {
        let path = self.segment(id);
        let removed = self
            .fail
            .operation("remove file")
            .and_then(|()| std::fs::remove_file(&path));
        if let Err(e) = removed
            && e.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), error = %e, "could not remove a retired segment");
        }
    }

    /// The files of segments, complete or not: path and id. What has another name isn't ours.
    pub(crate) fn list_segments(&self) -> Result<Vec<(PathBuf, u64)>> {
        let list = || -> std::io::Result<Vec<(PathBuf, u64)>> {
            let mut out = Vec::new();
            for entry in std::fs::read_dir(&self.segments)? {
                let path = entry?.path();
                let name = path.file_name().map(|n| n.to_string_lossy().into_owned());
                let id = name
                    .as_deref()
                    .and_then(|n| n.split_once('.'))
                    .filter(|(stem, suffix)| stem.len() == 16 && matches!(*suffix, "seg" | "tmp"))
                    .and_then(|(stem, _)| u64::from_str_radix(stem, 16).ok());
                out.extend(id.map(|id| (path, id)));
            }
            Ok(out)
        };
        list().map_err(|e| io_error("listing", &self.segments, e))
    }

    /// Removes a file that the manifest doesn't name, at opening.
    pub(crate) fn sweep(&self, path: &Path) -> Result<()> {
        self.fail
            .operation("remove file")
            .and_then(|()| std::fs::remove_file(path))
            .map_err(|e| io_error("removing", path, e))
    }
}

/// A file that doesn't have its final name yet.
#[derive(Debug)]
pub(crate) struct NewFile {
    file: File,
    temporary: PathBuf,
    path: PathBuf,
}

impl NewFile {
    /// Removes a file that won't be completed. What remains after a failure is swept at the next opening.
    pub(crate) fn remove(self) {
        if let Err(e) = std::fs::remove_file(&self.temporary) {
            tracing::warn!(path = %self.temporary.display(), error = %e, "could not remove");
        }
    }
}
