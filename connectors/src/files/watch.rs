//! Hints that files may have changed, from the operating system.
//!
//! Hints are only hints: they can be late, wrong or missing (network file systems). Whoever takes them looks at
//! the files, and looks at everything from time to time.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind, RemoveKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use parking_lot::{Condvar, Mutex};

use super::pattern::Root;

/// Paths that are collected before everything is looked at instead.
const HINTS_MAX: usize = 10_000;

/// What the hints say.
#[derive(Debug, Default)]
pub struct Hints {
    /// Files that may have changed.
    pub paths: BTreeSet<PathBuf>,
    /// Everything may have changed.
    pub everything: bool,
}

impl Hints {
    fn any(&self) -> bool {
        self.everything || !self.paths.is_empty()
    }
}

/// Where hints arrive and the source waits.
#[derive(Default)]
pub struct Doorbell {
    hints: Mutex<Hints>,
    rung: Condvar,
}

impl Doorbell {
    /// Wakes the source.
    pub fn ring(&self) {
        // With the lock, so that a source that is about to wait doesn't miss it.
        let _hints = self.hints.lock();
        self.rung.notify_all();
    }

    /// Takes the hints, waiting for some until `deadline` or until `ended` is true.
    pub fn wait(&self, deadline: Instant, ended: impl Fn() -> bool) -> Hints {
        let mut hints = self.hints.lock();
        while !hints.any() && !ended() {
            if self.rung.wait_until(&mut hints, deadline).timed_out() {
                break;
            }
        }
        std::mem::take(&mut hints)
    }

    fn add(&self, root: &Root, event: Event) {
        let mut hints = self.hints.lock();
        if event.need_rescan() || concerns_directories(&event.kind) {
            hints.everything = true;
        } else if concerns_files(&event.kind) {
            for path in event.paths {
                if root.matches(&path) {
                    hints.paths.insert(path);
                } else if matches!(event.kind, EventKind::Modify(ModifyKind::Name(_))) {
                    // Perhaps a directory with files in it.
                    hints.everything |= path.is_dir();
                }
            }
        }
        if hints.paths.len() > HINTS_MAX {
            hints.paths.clear();
            hints.everything = true;
        }
        if hints.any() {
            self.rung.notify_all();
        }
    }
}

fn concerns_directories(kind: &EventKind) -> bool {
    matches!(
        kind,
        EventKind::Create(CreateKind::Folder) | EventKind::Remove(RemoveKind::Folder)
    )
}

/// Reading a file causes events, too; those must not wake us.
fn concerns_files(kind: &EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        _ => true,
    }
}

/// Watches a root that exists.
pub struct Watch {
    _watcher: RecommendedWatcher,
}

impl Watch {
    /// Begins to watch; hints go to `doorbell`.
    pub fn new(root: &Arc<Root>, doorbell: &Arc<Doorbell>) -> Result<Watch, notify::Error> {
        let (hint_root, bell) = (root.clone(), doorbell.clone());
        let mut watcher = notify::recommended_watcher(move |event| match event {
            Ok(event) => bell.add(&hint_root, event),
            Err(_) => {
                bell.hints.lock().everything = true;
                bell.rung.notify_all();
            }
        })?;
        let is_dir = root.base.is_dir();
        let mode = if is_dir && root.depth() != Some(1) {
            RecursiveMode::Recursive
        } else {
            RecursiveMode::NonRecursive
        };
        // A file is watched through its directory: it may be replaced.
        let place: &Path = if is_dir {
            &root.base
        } else {
            root.base.parent().unwrap_or(&root.base)
        };
        watcher.watch(place, mode)?;
        Ok(Watch { _watcher: watcher })
    }
}
