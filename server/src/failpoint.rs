//! Named points at which a test kills the process: `TIDEMILL_FAILPOINT=name[:n]` sends SIGKILL to ourselves at the
//! n-th pass (default 1st). Without the variable a pass costs one load.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};

struct FailPoint {
    name: String,
    left: AtomicI64,
}

static POINT: OnceLock<Option<FailPoint>> = OnceLock::new();

/// The name and count that the environment asks for.
pub fn configured() -> Option<(String, u64)> {
    let text = std::env::var("TIDEMILL_FAILPOINT").ok()?;
    let (name, count) = text.split_once(':').unwrap_or((&text, "1"));
    Some((name.to_string(), count.parse().ok()?))
}

/// Passes the point `name`.
pub fn pass(name: &str) {
    let point = POINT.get_or_init(|| {
        configured().map(|(name, count)| FailPoint { name, left: AtomicI64::new(count as i64) })
    });
    if let Some(point) = point
        && point.name == name
        && point.left.fetch_sub(1, Ordering::AcqRel) == 1
    {
        // SAFETY: kill has no preconditions; the signal ends this process at once.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    }
}
