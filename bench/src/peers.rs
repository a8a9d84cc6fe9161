//! Neighbouring systems on the same data, in the same run.
//!
//! DuckDB is installed into an environment of its own. Others are measured where `TIDEMILL_PEERS` names a directory that
//! holds their programs: `target/release/dd`, `target/release/dbspref` and `target/release/limit`, which take the
//! arguments workload, data directory, output and rows per epoch.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::measure::{Cost, of_command};

/// One peer's costs, or why there are none.
pub struct PeerRun {
    /// Its name.
    pub name: String,
    /// What it cost.
    pub cost: Result<Cost>,
}

/// The Python of an environment with DuckDB, made if missing.
fn duckdb_python() -> Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|h| Path::new(&h).join(".cache"));
    let venv = cache
        .or(home)
        .context("no home directory")?
        .join("tidemill/duckdb");
    let python = venv.join("bin/python");
    if !python.exists() {
        let quiet = |c: &mut Command| c.stdin(Stdio::null()).stdout(Stdio::null()).status();
        ensure!(
            quiet(Command::new("python3").args(["-m", "venv"]).arg(&venv))?.success(),
            "python3 -m venv failed"
        );
        let pip = Command::new(&python)
            .args(["-m", "pip", "install", "-q", "duckdb"])
            .stdin(Stdio::null())
            .status()?;
        ensure!(pip.success(), "pip install duckdb failed");
    }
    Ok(python)
}

fn duckdb(workload: &str, data: &Path, out: &Path, threads: usize) -> Result<Cost> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/duckdb_batch.py");
    let python = duckdb_python()?;
    let run = || {
        let mut command = Command::new(&python);
        command
            .arg(script)
            .arg(workload)
            .arg(data)
            .arg(out.join("duckdb.json"))
            .arg(threads.to_string());
        of_command(&mut command)
    };
    run()?; // the first run reads Python's and the data's files from disk
    run()
}

/// All peers that can run here.
pub fn run_all(
    workload: &str,
    data: &Path,
    out: &Path,
    threads: usize,
    epoch_rows: usize,
) -> Vec<PeerRun> {
    let mut runs = vec![PeerRun {
        name: "DuckDB, batch".into(),
        cost: duckdb(workload, data, out, threads),
    }];
    let Some(base) = std::env::var_os("TIDEMILL_PEERS").map(PathBuf::from) else {
        return runs;
    };
    let number = match workload {
        "words" => "w1",
        "bank" => "w2",
        _ => "w4",
    };
    for (name, program) in [
        ("differential-dataflow, in memory", "dd"),
        ("DBSP, in memory", "dbspref"),
    ] {
        let path = base.join("target/release").join(program);
        if path.exists() {
            let mut command = Command::new(path);
            command
                .arg(number)
                .arg(data)
                .arg(out.join(program))
                .arg(epoch_rows.to_string());
            match program {
                "dd" => command.args(["-w", &threads.to_string()]),
                _ => command.arg(threads.to_string()),
            };
            runs.push(PeerRun {
                name: name.into(),
                cost: of_command(&mut command),
            });
        }
    }
    let limit = base.join("target/release/limit");
    if workload == "words" && limit.exists() {
        let mut command = Command::new(limit);
        command.arg(data.join("words")).arg(out.join("limit.jsonl"));
        runs.push(PeerRun {
            name: "one thread of plain Rust".into(),
            cost: of_command(&mut command),
        });
    }
    runs
}
