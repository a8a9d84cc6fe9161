//! The binary `tidemill`.

use clap::{Parser, Subcommand, ValueEnum};
use tidemill_server::serve::{ServeOptions, serve};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::prelude::*;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A streaming SQL database: declare sources and materialized views with psql, read views that are always up to date,
/// or subscribe to their changes. After a crash it goes on where it stopped.
#[derive(Parser)]
#[command(name = "tidemill", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Form of the log on standard error. RUST_LOG sets what is logged.
    #[arg(long, global = true, value_enum, default_value = "text")]
    log_format: LogFormat,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the server on a data directory.
    Serve(ServeOptions),
    /// Makes a new manifest for a data directory that doesn't open, from its last copy; says first what is lost.
    Repair(tidemill_server::repair::RepairOptions),
    /// Shows what Tidemill does in less than a minute, everything embedded.
    Demo(tidemill_server::demo::DemoOptions),
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

/// The error and its causes, without those that it quotes already.
fn with_causes(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// For how many milliseconds memory that was freed is kept before it goes back to the system. The allocator's own second
/// is as good as never for a server that frees its batches every few milliseconds.
const PURGE_DELAY_MS: std::ffi::c_long = 50;

/// Keeps resident memory close to what is in use: batches come and go, and each of a dozen threads has a heap of its own.
fn keep_memory_small() {
    use libmimalloc_sys::{mi_option_set_default, mi_option_t};
    /// `mi_option_purge_delay`, which the bindings don't name.
    const PURGE_DELAY: mi_option_t = 15;
    // SAFETY: sets a number, unless MIMALLOC_PURGE_DELAY has; no thread of ours runs yet.
    unsafe { mi_option_set_default(PURGE_DELAY, PURGE_DELAY_MS) };
}

/// Pages of 2 MiB made a server that does nothing take 40 MB more, and word count's peak 85 MB more, for no less CPU.
#[cfg(target_os = "linux")]
extern "C" fn without_huge_pages() {
    // SAFETY: a flag of this process. Where the system doesn't know it, huge pages stay.
    unsafe {
        libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0);
    }
}

/// Called before `main` and before the allocator's own constructor, whose first two pages would be huge ones:
/// clearing them took up to 40 ms where the machine is a virtual one.
#[cfg(target_os = "linux")]
// SAFETY: the function only makes a system call, and needs nothing that a constructor sets up.
#[unsafe(link_section = ".init_array.00099")]
#[used]
static BEFORE_THE_ALLOCATOR: extern "C" fn() = without_huge_pages;

/// Logs what RUST_LOG asks for, as `target=level,…`.
fn start_log(format: LogFormat) {
    let wanted = std::env::var("RUST_LOG").unwrap_or_default();
    let (filter, mistake) = match wanted.parse::<Targets>() {
        Ok(filter) if !wanted.is_empty() => (filter, None),
        parsed => {
            let usual = Targets::new()
                .with_default(LevelFilter::WARN)
                .with_target("tidemill_server", LevelFilter::INFO);
            (usual, parsed.err())
        }
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let log = tracing_subscriber::registry();
    match format {
        LogFormat::Text => log.with(lines.with_filter(filter)).init(),
        LogFormat::Json => log.with(lines.json().with_filter(filter)).init(),
    }
    if let Some(mistake) = mistake {
        tracing::warn!("RUST_LOG={wanted} is ignored: {mistake}");
    }
}

/// Bytes of stack of every thread, taken from the system as far as they are used: parsed expressions and plans are gone through
/// level by level, and the parser takes chains of thousands of operators.
const STACK_BYTES: usize = 64 << 20;

/// Lets the standard library give all threads [`STACK_BYTES`], those that crates start among them.
fn large_stacks() {
    const VARIABLE: &str = "RUST_MIN_STACK";
    if std::env::var_os(VARIABLE).is_none() {
        // SAFETY: no other thread runs yet.
        unsafe { std::env::set_var(VARIABLE, STACK_BYTES.to_string()) };
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Serve(options) => serve(options),
        Command::Repair(options) => tidemill_server::repair::run(options),
        Command::Demo(options) => tidemill_server::demo::demo(options),
    }
}

fn main() {
    keep_memory_small();
    large_stacks();
    let cli = Cli::parse();
    start_log(cli.log_format);
    // The first thread's stack is of the shell's choosing, and recovery plans all views.
    let main = std::thread::Builder::new().name("main".into());
    let result = match main.spawn(move || run(cli.command)) {
        Ok(thread) => thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
        Err(e) => Err(anyhow::Error::new(e).context("can't start a thread")),
    };
    if let Err(e) = result {
        eprintln!("tidemill: {}", with_causes(&e));
        std::process::exit(1);
    }
}
