//! What a run costs: wall time, CPU time of the process and its children, peak memory, bytes written.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// Costs of one run.
#[derive(Clone, Debug, Default)]
pub struct Cost {
    /// Seconds on the clock.
    pub wall_s: f64,
    /// User and system seconds of the process and the children it waited for.
    pub cpu_s: f64,
    /// Largest resident set, in megabytes.
    pub peak_mb: f64,
    /// Bytes that reached the disk, in megabytes.
    pub written_mb: f64,
}

/// CPU seconds of a running process, of all its threads, to the nanosecond: what /proc tells has steps of ten milliseconds.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let mut clock = 0;
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: both calls write to the place that they are given.
    let found = unsafe {
        let found = libc::clock_getcpuclockid(pid as libc::pid_t, &mut clock);
        found == 0 && libc::clock_gettime(clock, &mut time) == 0
    };
    anyhow::ensure!(found, "process {pid} has no CPU clock: it has ended");
    Ok(time.tv_sec as f64 + time.tv_nsec as f64 / 1e9)
}

fn field(path: &str, name: &str) -> Result<f64> {
    let text = std::fs::read_to_string(path)?;
    let line = text
        .lines()
        .find(|l| l.starts_with(name))
        .with_context(|| format!("{name} in {path}"))?;
    let number = line.split_whitespace().nth(1).context("a number")?;
    Ok(number.parse()?)
}

/// Memory that a process holds now, in megabytes.
pub fn resident_mb(pid: u32) -> Result<f64> {
    Ok(field(&format!("/proc/{pid}/status"), "VmRSS:")? / 1024.0)
}

/// The costs so far of a process that was started at `start`.
pub fn of_process(pid: u32, start: Instant) -> Result<Cost> {
    Ok(Cost {
        wall_s: start.elapsed().as_secs_f64(),
        cpu_s: cpu_seconds(pid)?,
        peak_mb: field(&format!("/proc/{pid}/status"), "VmHWM:")? / 1024.0,
        written_mb: field(&format!("/proc/{pid}/io"), "write_bytes:")? / 1e6,
    })
}

/// How long the orphans of a command may take to end after it.
const ORPHANS_MAX: Duration = Duration::from_secs(30);

/// Runs a command to its end, and what it leaves behind (a JVM outlives the Python that started it).
pub fn of_command(command: &mut Command) -> Result<Cost> {
    of_command_to(command, Stdio::null())
}

/// The same, and what it printed, which goes through a file: a pipe would have to be read meanwhile.
pub fn of_printing_command(command: &mut Command, file: &Path) -> Result<(Cost, String)> {
    let cost = of_command_to(command, File::create(file)?.into())?;
    Ok((cost, std::fs::read_to_string(file)?))
}

fn of_command_to(command: &mut Command, stdout: Stdio) -> Result<Cost> {
    // SAFETY: makes this process the parent of orphaned descendants; no memory is involved.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
    let start = Instant::now();
    let child = command
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(Stdio::inherit())
        .spawn();
    let child = child.with_context(|| format!("{command:?}"))?;
    let mut cost = Cost::default();
    let main = child.id() as libc::pid_t;
    let status = loop {
        let (pid, status) = wait(-1, 0, &mut cost).context("a child was started")?;
        if pid == main {
            break status;
        }
    };
    cost.wall_s = start.elapsed().as_secs_f64();
    let ended = Instant::now();
    while let Some((pid, _)) = wait(-1, libc::WNOHANG, &mut cost) {
        ensure!(
            ended.elapsed() < ORPHANS_MAX,
            "{command:?} left processes that don't end"
        );
        if pid == 0 {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    ensure!(
        libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0,
        "{command:?} failed ({status})"
    );
    Ok(cost)
}

/// Waits for a child and adds its costs. `None`: there is none; pid 0: none has ended.
fn wait(pid: libc::pid_t, flags: i32, cost: &mut Cost) -> Option<(libc::pid_t, i32)> {
    // SAFETY: both pointers are to live locals.
    let (waited, status, usage) = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        let mut status = 0;
        let waited = libc::wait4(pid, &mut status, flags, &mut usage);
        (waited, status, usage)
    };
    if waited > 0 {
        let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
        cost.cpu_s += seconds(usage.ru_utime) + seconds(usage.ru_stime);
        cost.peak_mb = cost.peak_mb.max(usage.ru_maxrss as f64 / 1024.0);
        cost.written_mb += usage.ru_oublock as f64 * 512.0 / 1e6;
    }
    (waited >= 0).then_some((waited, status))
}

/// Bytes of all files below a directory, in megabytes.
pub fn disk_mb(dir: &Path) -> f64 {
    fn bytes(path: &Path) -> u64 {
        let Ok(meta) = std::fs::symlink_metadata(path) else {
            return 0;
        };
        if !meta.is_dir() {
            return meta.len();
        }
        std::fs::read_dir(path)
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| bytes(&e.path()))
            .sum()
    }
    bytes(dir) as f64 / 1e6
}

/// A quantile of durations, in milliseconds.
pub fn quantile_ms(sorted: &[Duration], q: f64) -> f64 {
    let at = ((sorted.len() as f64 * q) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(at).map_or(f64::NAN, |d| d.as_secs_f64() * 1e3)
}

/// The machine in one line, for the results.
pub fn machine() -> String {
    let cpus = std::thread::available_parallelism().map_or(0, |n| n.get());
    let model = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = model.lines().find_map(|l| {
        l.strip_prefix("model name")
            .map(|m| m.trim_matches([' ', '\t', ':']).to_owned())
    });
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("?").to_owned();
    format!(
        "{cpus} cores ({}), load {load} before the run",
        model.unwrap_or_default()
    )
}
