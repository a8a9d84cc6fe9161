//! Fail points: named places where a test can kill the process, and injected I/O errors.
//!
//! Unset fail points cost one relaxed load. A set that was cloned shares its counters.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

/// The names that this crate passes. The server adds its own.
pub const FAIL_POINTS: &[&str] = &[
    "segment_synced",
    "before_transaction",
    "after_transaction",
    "during_merge",
    "during_recovery",
];

/// The name of a fail point that stands for failing I/O.
const IO_ERROR: &str = "io_error";

#[derive(Default)]
struct Inner {
    armed: AtomicBool,
    kill: Mutex<HashMap<String, u64>>,
    counting: AtomicBool,
    operations: AtomicU64,
    /// The operation that fails (1 = the next one counted); 0: none.
    fail_at: AtomicU64,
    hold_merges: AtomicBool,
    /// What was done, in order, while operations are counted.
    trace: Mutex<Vec<&'static str>>,
}

/// Named hooks for crash tests. Cheap when unset.
#[derive(Clone, Default)]
pub struct FailPoints(Arc<Inner>);

impl std::fmt::Debug for FailPoints {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FailPoints")
            .field("kill", &*self.0.kill.lock())
            .finish_non_exhaustive()
    }
}

impl FailPoints {
    /// Parses `name[:n][,name[:n]…]`: at the n-th pass (default 1) of `name` the process kills
    /// itself with SIGKILL. With [`IO_ERROR`] as the name, the n-th I/O operation fails instead, and all after it.
    pub fn parse(text: &str) -> Result<FailPoints, String> {
        let points = FailPoints::default();
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let (name, count) = match part.split_once(':') {
                None => (part, 1),
                Some((name, n)) => match n.trim().parse::<u64>() {
                    Ok(n) if n > 0 => (name.trim(), n),
                    _ => {
                        return Err(format!(
                            "fail point {part:?}: expected name:count, count >= 1"
                        ));
                    }
                },
            };
            if name == IO_ERROR {
                points.fail_operation(count);
                continue;
            }
            points.0.kill.lock().insert(name.to_string(), count);
            points.0.armed.store(true, Ordering::Relaxed);
        }
        Ok(points)
    }

    /// Called where `name` stands in the code: kills the process if its count is reached.
    #[inline]
    pub fn pass(&self, name: &str) {
        if self.0.armed.load(Ordering::Relaxed) {
            self.pass_armed(name);
        }
    }

    #[cold]
    fn pass_armed(&self, name: &str) {
        let mut kill = self.0.kill.lock();
        if let Some(left) = kill.get_mut(name) {
            *left -= 1;
            if *left == 0 {
                kill_self();
            }
        }
    }

    /// From now on, I/O operations are counted and the `n`-th one (1 = the next) returns an error
    /// instead of happening. 0 only counts.
    pub fn fail_operation(&self, n: u64) {
        self.0.operations.store(0, Ordering::SeqCst);
        self.0.trace.lock().clear();
        self.0.fail_at.store(n, Ordering::SeqCst);
        self.0.counting.store(true, Ordering::SeqCst);
    }

    /// Keeps the background thread from merging, so that a test decides when it happens.
    pub fn hold_merges(&self, hold: bool) {
        self.0.hold_merges.store(hold, Ordering::SeqCst);
    }

    pub(crate) fn merges_held(&self) -> bool {
        self.0.hold_merges.load(Ordering::Relaxed)
    }

    /// I/O operations since [`FailPoints::fail_operation`].
    pub fn operations(&self) -> u64 {
        self.0.operations.load(Ordering::SeqCst)
    }

    /// The names of these operations, in order.
    pub fn trace(&self) -> Vec<&'static str> {
        self.0.trace.lock().clone()
    }

    /// Called before every I/O operation that changes the disk.
    #[inline]
    pub(crate) fn operation(&self, name: &'static str) -> std::io::Result<()> {
        match self.0.counting.load(Ordering::Relaxed) {
            false => Ok(()),
            true => self.counted(name),
        }
    }

    #[cold]
    fn counted(&self, name: &'static str) -> std::io::Result<()> {
        self.0.trace.lock().push(name);
        let n = self.0.operations.fetch_add(1, Ordering::SeqCst) + 1;
        let fail_at = self.0.fail_at.load(Ordering::SeqCst);
        // After the first failure everything fails: the disk is gone.
        if fail_at > 0 && n >= fail_at {
            return Err(std::io::Error::other("injected failure"));
        }
        Ok(())
    }
}

/// Ends the process as `kill -9` would: no destructors, no flushing.
#[allow(unsafe_code)]
fn kill_self() -> ! {
    // SAFETY: plain system calls without pointers.
    unsafe {
        libc::kill(libc::getpid(), libc::SIGKILL);
        libc::_exit(137)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_names_and_counts() {
        let f = FailPoints::parse("before_transaction:3, during_merge").unwrap();
        assert_eq!(f.0.kill.lock()["before_transaction"], 3);
        assert_eq!(f.0.kill.lock()["during_merge"], 1);
        f.pass("before_transaction");
        f.pass("unknown");
        assert_eq!(f.0.kill.lock()["before_transaction"], 2);
        let failing = FailPoints::parse("io_error:2").unwrap();
        assert!(failing.operation("write").is_ok());
        assert!(failing.operation("write").is_err());
        assert!(FailPoints::parse("x:0").is_err());
        assert!(FailPoints::parse("x:y").is_err());
    }

    #[test]
    fn every_operation_after_the_first_failure_fails() {
        let f = FailPoints::default();
        assert!(f.operation("write").is_ok());
        f.fail_operation(2);
        assert!(f.operation("write").is_ok());
        assert!(f.operation("write").is_err());
        assert!(f.operation("write").is_err());
        f.fail_operation(0);
        assert!(f.operation("write").is_ok());
        assert_eq!(f.operations(), 1);
    }
}
