//! One test's directory and runtime.
//!
//! Invariant: a test ends, with or without success, before [`TEST_MAX`], and a failed one shows its servers' logs.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, anyhow};
use tempfile::TempDir;

/// No test may take longer.
pub const TEST_MAX: Duration = Duration::from_secs(600);

/// A directory of the test's own, removed at its end.
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Where a server keeps its data (not made yet).
    pub fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    /// A scratch directory within this one: for a second server.
    pub fn sub(&self, name: &str) -> Scratch {
        Scratch {
            path: self.dir(name),
        }
    }

    /// A subdirectory, made if missing.
    pub fn dir(&self, name: &str) -> PathBuf {
        let path = self.path.join(name);
        std::fs::create_dir_all(&path).expect("a fresh directory can be made");
        path
    }

    /// A path in the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

/// Runs a test's body; a failure panics with the error and the ends of all server logs.
pub fn run<F>(body: impl FnOnce(Scratch) -> F)
where
    F: Future<Output = Result<()>>,
{
    let dir = TempDir::with_prefix("tidemill-test-").expect("a temporary directory can be made");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let scratch = Scratch {
        path: dir.path().to_owned(),
    };
    let outcome = runtime.expect("a runtime starts").block_on(async {
        match tokio::time::timeout(TEST_MAX, body(scratch)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(anyhow!("the test isn't done after {TEST_MAX:?}")),
        }
    });
    if let Err(error) = outcome {
        let error = error
            .chain()
            .map(|e| e.to_string())
            .collect::<Vec<_>>()
            .join("\n  because: ");
        panic!("{error}\n{}", logs(dir.path()));
    }
}

fn logs(dir: &Path) -> String {
    const TAIL_BYTES: usize = 6_000;
    let mut out = String::new();
    for path in std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path())
    {
        if path.extension().is_some_and(|e| e == "log") {
            let text = std::fs::read(&path).unwrap_or_default();
            let tail = String::from_utf8_lossy(&text[text.len().saturating_sub(TAIL_BYTES)..])
                .into_owned();
            out.push_str(&format!("--- {}\n{tail}\n", path.display()));
        }
    }
    out
}
