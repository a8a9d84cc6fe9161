//! How much a server's process does.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::{Server, eventually};

/// Over how long a process's use of the CPU is looked at.
const WINDOW: Duration = Duration::from_millis(500);

/// Seconds of CPU that a process has used.
fn cpu(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = stat.rsplit_once(") ").context("a line of /proc/PID/stat")?;
    let ticks = rest.split(' ').skip(11).take(2).map(str::parse::<f64>);
    Ok(ticks.sum::<Result<f64, _>>()? / 100.0)
}

/// Waits until the number of cores that the server uses is as wanted.
pub async fn uses_cpu(server: &Server, what: &str, wanted: impl Fn(f64) -> bool) -> Result<()> {
    let mut last = (Instant::now(), cpu(server.pid())?);
    eventually(what, async || {
        if last.0.elapsed() < WINDOW {
            return Ok(None);
        }
        let now = (Instant::now(), cpu(server.pid())?);
        let cores = (now.1 - last.1) / (now.0 - last.0).as_secs_f64();
        last = now;
        Ok(wanted(cores).then_some(()))
    })
    .await
}

/// The process has become idle.
pub async fn quiet(server: &Server) -> Result<()> {
    uses_cpu(server, "the server computes no longer", |cores| cores < 0.2).await
}
