//! Materialized views whose operators panicked, so that one that does it again and again doesn't keep the server from starting.
//!
//! A panic ends the process, and a restart resumes from the last commit. Where the same input comes again, as recorded rows and files
//! do, so does the panic. A view that panicked [`TIMES_MAX`] times is therefore left out by the next start, like one that can't be
//! planned (`recover`). `panics.json` in the data directory is where it is noted: there may be no commit after a panic.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::catalog::Catalog;
use crate::catalog::record::Kind;

const FILE: &str = "panics.json";
/// A view that panicked so often is left out.
const TIMES_MAX: u32 = 2;
/// Panics that are further apart aren't counted together.
const MEMORY: Duration = Duration::from_secs(24 * 60 * 60);
/// Another version may do better.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Panics of a materialized view.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Panics {
    /// For people who read the file.
    view: String,
    times: u32,
    /// Seconds since 1970.
    last: u64,
    version: String,
    message: String,
}

/// The panics of all views, by object id.
pub(super) struct Panicked {
    path: PathBuf,
    views: BTreeMap<u64, Panics>,
}

impl Panicked {
    /// What is noted in a data directory. A file that can't be read is none, which the log says.
    pub fn load(data_dir: &Path) -> Self {
        let path = data_dir.join(FILE);
        let views = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).unwrap_or_else(|e| {
                tracing::warn!(path = %path.display(), error = %e, "can't be understood and is left aside");
                BTreeMap::new()
            }),
            Err(e) if e.kind() == ErrorKind::NotFound => BTreeMap::new(),
            Err(e) => {
                tracing::warn!(path = %path.display(), error = %e, "can't be read and is left aside");
                BTreeMap::new()
            }
        };
        Panicked { path, views }
    }

    /// Why a view is to be left out.
    pub fn reason(&self, view: u64) -> Option<String> {
        let panics = self.views.get(&view)?;
        let again = panics.times >= TIMES_MAX && panics.version == VERSION;
        again.then(|| {
            format!(
                "computing it has ended the server {} times: {}. Another version of Tidemill will try again, as will a start \
                 without the file {}",
                panics.times,
                panics.message,
                self.path.display()
            )
        })
    }

    /// Notes that an operator of a view of `catalog` panicked, before the process ends.
    pub fn note(&mut self, view: u64, message: &str, catalog: &Catalog) {
        let Some(object) = catalog.get(view) else {
            return;
        };
        if object.record.kind != Kind::MaterializedView {
            return;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default().as_secs();
        self.views.retain(|id, _| catalog.get(*id).is_some());
        let before = self
            .views
            .remove(&view)
            .filter(|p| p.version == VERSION && now.saturating_sub(p.last) <= MEMORY.as_secs());
        let panics = Panics {
            view: object.display_name(),
            times: before.map_or(0, |p| p.times) + 1,
            last: now,
            version: VERSION.into(),
            message: message.into(),
        };
        match panics.times < TIMES_MAX {
            true => tracing::error!(
                view = panics.view,
                "its computation panicked; a restart tries again"
            ),
            false => tracing::error!(
                view = panics.view,
                "its computation panicked again; a restart leaves the view out"
            ),
        }
        self.views.insert(view, panics);
        if let Err(e) = self.write() {
            tracing::error!(path = %self.path.display(), error = %e, "can't be written");
        }
    }

    fn write(&self) -> std::io::Result<()> {
        let temporary = self.path.with_extension("tmp");
        let mut file = File::create(&temporary)?;
        file.write_all(&serde_json::to_vec_pretty(&self.views)?)?;
        file.sync_all()?;
        std::fs::rename(&temporary, &self.path)?;
        match self.path.parent() {
            Some(dir) => File::open(dir)?.sync_all(),
            None => Ok(()),
        }
    }
}
