//! `tidemill serve`: opens the data directory, recovers, listens, and shuts down cleanly.

use std::io::Write;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use tidemill_storage::{FailPoints, Store, StoreOptions};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};

use crate::coordinator::recover::{CoordinatorOptions, recover};
use crate::coordinator::{Handle, Message};
use crate::init;
use crate::session::Sessions;

/// Share of the machine's memory that operator state may take, unless told otherwise.
const STATE_SHARE: u64 = 4;
/// The same for what SELECTs hold while they run.
const QUERY_SHARE: u64 = 4;

/// How long an orderly end may take: less than the ten seconds after which those who ask for it usually kill.
const STOP_PATIENCE: Duration = Duration::from_secs(8);

/// Options of `tidemill serve`.
#[derive(Args, Clone, Debug)]
pub struct ServeOptions {
    /// Where everything durable is kept; made if it doesn't exist.
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Address of the Postgres protocol; port 0 takes a free one. Only loopback addresses until there are passwords.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:6565", value_parser = address)]
    pub listen: SocketAddr,
    /// Worker threads; may change at every start [default: one per core, at most one per partition].
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,
    /// Partitions of the data directory, a power of two; fixed when it is made [default: 16].
    #[arg(long, value_name = "P")]
    pub partitions: Option<u32>,
    /// CREATE and COMMENT statements to run at the start; what the catalog has already must agree.
    #[arg(long, value_name = "FILE")]
    pub init: Option<PathBuf>,
    /// Bytes of memory for operator state, all workers together, or with a unit: 512MB, 4GB [default: a quarter of the machine's].
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub state_memory: Option<usize>,
    /// Bytes of memory for sorts, hash tables and the like of SELECTs, all sessions together [default: a quarter of the
    /// machine's]; a query that needs more fails.
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub query_memory: Option<usize>,
}

/// Runs the server until SIGTERM or SIGINT.
pub fn serve(options: ServeOptions) -> anyhow::Result<()> {
    check_listen(options.listen)?;
    raise_open_files();
    report_too_large_files();
    let started = Instant::now();
    let store = open_store(&options)?;
    let partitions = store.partitions() as usize;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = options.workers.unwrap_or(cores).min(partitions);
    if options.workers.is_some_and(|n| n == 0 || n > partitions) {
        bail!(
            "--workers must be between 1 and the number of partitions of the data directory, {partitions}"
        );
    }
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("can't start the async runtime")?;
    let fail = fail_points()?;
    let state = options
        .state_memory
        .unwrap_or_else(|| (memory_bytes() / STATE_SHARE) as usize);
    let query = options
        .query_memory
        .unwrap_or_else(|| (memory_bytes() / QUERY_SHARE) as usize);
    tidemill_planner::query::limit_query_memory(query);
    let coordinator_options = CoordinatorOptions {
        data_dir: options.data_dir.clone(),
        workers,
        state_bytes_max: (state / workers).max(1 << 20),
        changes_bytes_max: changes_bytes_max()?,
        fail,
    };
    // For tests of upgrades: plans one kind of operator as another version would.
    if let Ok(text) = std::env::var("TIDEMILL_FINGERPRINT_SALT") {
        let (kind, salt) = text.split_once(':').unwrap_or((text.as_str(), "salted"));
        tidemill_dataflow::plan::salt_fingerprints(kind, salt);
    }
    let (coordinator, handle) = recover(store, coordinator_options, tokio.handle().clone())?;
    tracing::info!(
        data_dir = %options.data_dir.display(),
        objects = handle.env.publisher.pin().catalog.objects().count(),
        workers,
        ms = started.elapsed().as_millis() as u64,
        "opened"
    );
    let (failed, failure) = oneshot::channel();
    std::thread::Builder::new()
        .name("coordinator".into())
        .spawn(move || {
            let result =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| coordinator.run()));
            let reason = match result {
                Ok(Ok(())) => return,
                Ok(Err(reason)) => reason,
                Err(_) => "the coordinator panicked; see the message above".into(),
            };
            // The receiver is gone only when the process ends anyway.
            let _ = failed.send(reason);
        })
        .context("can't start the coordinator's thread")?;
    let result = tokio.block_on(run(options, handle, failure));
    if result.is_err() {
        // Nothing is put in order: destructors would write to a disk that may just have refused.
        std::mem::forget(tokio);
        return result;
    }
    tokio.shutdown_timeout(Duration::from_secs(1));
    result
}

async fn run(
    options: ServeOptions,
    handle: Handle,
    failure: oneshot::Receiver<String>,
) -> anyhow::Result<()> {
    let listener = TcpListener::bind(options.listen)
        .await
        .with_context(|| format!("can't listen on {}", options.listen))?;
    let address = listener.local_addr()?;
    crate::session::temporary::sweep(&handle)
        .await
        .context("can't drop temporary tables")?;
    if let Some(path) = &options.init {
        init::run(&handle, path).await?;
    }
    announce(address)?;
    let (stop, stopped) = watch::channel(false);
    let sessions = Arc::new(Sessions {
        handle: handle.clone(),
    });
    let server = tokio::spawn(crate::pg::serve(listener, sessions, stopped));
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let failed = tokio::select! {
        _ = tokio::signal::ctrl_c() => None,
        _ = terminate.recv() => None,
        reason = failure => reason.ok(),
    };
    if let Some(reason) = failed {
        tracing::error!(%reason, "the server can't go on; a restart resumes from the last commit");
        bail!("{reason}");
    }
    tracing::info!("shutting down");
    stop.send_replace(true);
    let (reply, done) = oneshot::channel();
    handle.send(Message::Stop(reply));
    // If the coordinator is gone there is nothing left to wait for.
    if tokio::time::timeout(STOP_PATIENCE, done).await.is_err() {
        tracing::warn!(
            "an epoch is still being computed and is given up; a restart resumes from the last commit"
        );
    }
    server.await.context("the listener panicked")??;
    Ok(())
}

/// The lines that people and scripts wait for.
fn announce(address: SocketAddr) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "listening on {address}")?;
    writeln!(
        out,
        "connect with: psql -h {} -p {} -U tidemill -d {}",
        address.ip(),
        address.port(),
        crate::session::DATABASE
    )?;
    out.flush()?;
    Ok(())
}

/// `HOST:PORT`, where the host may be a name.
fn address(text: &str) -> Result<SocketAddr, String> {
    let example = "write HOST:PORT, such as 127.0.0.1:6565";
    let found = text
        .to_socket_addrs()
        .map_err(|e| format!("{e}; {example}"))?;
    // localhost may be both ::1 and 127.0.0.1, and clients try the latter at least.
    found
        .min_by_key(|address| !address.is_ipv4())
        .ok_or_else(|| example.to_string())
}

fn check_listen(listen: SocketAddr) -> anyhow::Result<()> {
    if !listen.ip().is_loopback() {
        bail!(
            "--listen {listen} is not a loopback address: anyone who reaches it could read and change everything, \
             because there are no passwords yet. Listen on 127.0.0.1 and tunnel, e.g. with ssh -L."
        );
    }
    Ok(())
}

fn open_store(options: &ServeOptions) -> anyhow::Result<Arc<Store>> {
    let mut store_options = StoreOptions {
        fail: fail_points()?,
        ..StoreOptions::default()
    };
    if let Some(partitions) = options.partitions {
        if !partitions.is_power_of_two() || partitions > 4_096 {
            bail!(
                "--partitions {partitions}: the number of partitions is a power of two, at most 4096"
            );
        }
        store_options.partitions = partitions;
    }
    let store = Store::open(&options.data_dir, store_options)
        .map_err(|e| crate::repair::explain(&options.data_dir, e))?;
    if options.partitions.is_some_and(|p| p != store.partitions()) {
        bail!(
            "{} has {} partitions, fixed when it was made; leave --partitions out or start with another --data-dir",
            options.data_dir.display(),
            store.partitions()
        );
    }
    Ok(Arc::new(store))
}

/// Tests of followers that read history make it small.
fn changes_bytes_max() -> anyhow::Result<usize> {
    match std::env::var("TIDEMILL_CHANGES_BYTES") {
        Ok(text) => text.parse().context("TIDEMILL_CHANGES_BYTES is no number"),
        Err(_) => Ok(crate::changes::CHANGES_BYTES_MAX),
    }
}

fn fail_points() -> anyhow::Result<FailPoints> {
    match std::env::var("TIDEMILL_FAILPOINT") {
        Ok(text) => FailPoints::parse(&text).map_err(anyhow::Error::msg),
        Err(_) => Ok(FailPoints::default()),
    }
}

/// Segments and input files stay open while they are in use: as many as the system allows, not as a shell's default does.
fn raise_open_files() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: getrlimit writes one rlimit, setrlimit reads one; both outlive the calls.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 && limit.rlim_cur < limit.rlim_max
        {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
    }
}

/// A file that would become larger than the process may make it is an error of the write, as a full disk is.
fn report_too_large_files() {
    // SAFETY: nothing of ours handles this signal.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}

/// A number of bytes, or of a unit as PostgreSQL has them: `512MB`.
fn bytes(text: &str) -> Result<usize, String> {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = (&text[..end], text[end..].trim());
    let power = match unit {
        "" => Some(0),
        unit => UNITS.iter().position(|u| u.eq_ignore_ascii_case(unit)),
    };
    let bytes = number.parse::<usize>().ok().zip(power);
    bytes
        .and_then(|(n, power)| n.checked_mul(1 << (10 * power)))
        .ok_or_else(|| {
            format!(
                "write a number of bytes, or one with a unit ({})",
                UNITS.join(", ")
            )
        })
}

/// Physical memory of the machine.
fn memory_bytes() -> u64 {
    // SAFETY: sysconf only reads its argument.
    let (pages, size) = unsafe {
        (
            libc::sysconf(libc::_SC_PHYS_PAGES),
            libc::sysconf(libc::_SC_PAGESIZE),
        )
    };
    const FALLBACK: u64 = 4 << 30;
    if pages <= 0 || size <= 0 {
        FALLBACK
    } else {
        pages as u64 * size as u64
    }
}
