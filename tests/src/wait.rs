//! Waiting for something to become true, up to a deadline. The only place that sleeps.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long a test waits for something that takes milliseconds on an idle machine. Long, because CI
/// machines are small and shared; a test that reaches it has failed.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Time between two looks.
const POLL: Duration = Duration::from_millis(10);

/// Repeats `check` until it gives a value; `Ok(None)` means not yet. Fails after [`DEADLINE`] or when `check` fails.
pub async fn eventually<T>(
    what: &str,
    mut check: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = check().await? {
            return Ok(value);
        }
        if start.elapsed() > DEADLINE {
            bail!("waited {DEADLINE:?} in vain for: {what}");
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The next moment of a load generator's steady rhythm. It paces input, it doesn't synchronise.
pub async fn pace(start: Instant, step: u32, every: Duration) {
    tokio::time::sleep_until((start + every * step).into()).await;
}
