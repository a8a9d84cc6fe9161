//! Neighbouring systems on the same data, in the same run.
//!
//! DuckDB is installed into an environment of its own. Others are measured where `TIDEMILL_PEERS` names a directory that
//! holds them, built and installed: programs `target/release/{dd,dbspref,limit}`, which take the arguments workload, data
//! directory, output and rows per epoch, and Python environments `venv/{bytewax,pathway,flink}` with their programs
//! in `programs/{bytewax,pathway,flink}/`. What isn't there isn't measured.
//!
//! Nexmark's programs are the project's own, in `bench/peers`: in Python, run by the same environments, and in Rust, as
//! `target/release/{nexmark_dd,nexmark_dbsp}`. Each prints the number of its result's rows.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::measure::{Cost, of_command, of_printing_command};

/// One peer's costs, or why there are none.
pub struct PeerRun {
    /// Its name.
    pub name: String,
    /// What it cost.
    pub cost: Result<Cost>,
}

/// One peer's costs of a query and the number of rows that it found, or why there are none.
pub struct QueryRun {
    /// Its name.
    pub name: &'static str,
    /// What it cost, and its rows.
    pub outcome: Result<(Cost, i64)>,
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
    if let Some(base) = std::env::var_os("TIDEMILL_PEERS").map(PathBuf::from) {
        for (name, mut command) in commands(&base, workload, data, out, threads, epoch_rows) {
            command.stdin(Stdio::null());
            let cost = of_command(&mut command);
            runs.push(PeerRun { name, cost });
        }
    }
    runs
}

/// The programs below `base` for a workload.
fn commands(
    base: &Path,
    workload: &str,
    data: &Path,
    out: &Path,
    threads: usize,
    epoch_rows: usize,
) -> Vec<(String, Command)> {
    let (number, program) = match workload {
        "words" => ("w1", "w1_wordcount"),
        "bank" => ("w2", "w2_bank"),
        _ => ("w4", "w4_join"),
    };
    // Word count's programs take the directory of its files, the others that of the data set.
    let input = match workload {
        "words" => data.join("words"),
        _ => data.to_owned(),
    };
    let mut commands = Vec::new();
    let built = |name: &str| base.join("target/release").join(name);
    if workload == "words" && built("limit").exists() {
        let mut command = Command::new(built("limit"));
        command.arg(&input).arg(out.join("limit.jsonl"));
        commands.push(("one thread of plain Rust".to_owned(), command));
    }
    for (name, program) in [
        ("differential-dataflow, in memory", "dd"),
        ("DBSP, in memory", "dbspref"),
    ] {
        if !built(program).exists() {
            continue;
        }
        let mut command = Command::new(built(program));
        command.arg(number).arg(data).arg(out.join(program));
        command.arg(epoch_rows.to_string());
        match program {
            "dd" => command.args(["-w", &threads.to_string()]),
            _ => command.arg(threads.to_string()),
        };
        commands.push((name.to_owned(), command));
    }
    let python = |peer: &str| base.join("venv").join(peer).join("bin/python");
    let programs = |peer: &str| base.join("programs").join(peer);
    if python("bytewax").exists() {
        let mut command = Command::new(python("bytewax"));
        let flow = match workload {
            "words" => "w1_final:flow".to_owned(),
            _ => format!("{program}:flow"),
        };
        command.current_dir(programs("bytewax"));
        command.args(["-m", "bytewax.run", &flow]);
        command.env("SRC", &input).env("OUT", out.join("bytewax"));
        commands.push(("Bytewax, in memory".to_owned(), command));
    }
    if python("pathway").exists() {
        let mut command = Command::new(python("pathway"));
        command.arg(programs("pathway").join(format!("{program}.py")));
        command.arg(&input).arg(out.join("pathway")).arg("static");
        command.env("PATHWAY_THREADS", threads.to_string());
        commands.push(("Pathway, in memory".to_owned(), command));
    }
    if python("flink").exists() {
        for mode in ["batch", "stream"] {
            let mut command = Command::new(python("flink"));
            command.arg(programs("flink").join(format!("{program}.py")));
            command.arg(&input).arg(out.join(format!("flink-{mode}")));
            command.args([mode, &threads.to_string()]);
            command.stdout(Stdio::null());
            commands.push((format!("Flink SQL, {mode}"), command));
        }
    }
    commands
}

/// Where the project's programs for its neighbours are.
const PROGRAMS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers");

/// A peer's programs for a query.
struct QueryPrograms {
    name: &'static str,
    /// Runs before, to read its and the data's files from disk. Its number of rows counts.
    first: Option<Command>,
    /// What is measured.
    measured: Command,
}

impl QueryPrograms {
    fn run(mut self, printed: &Path) -> Result<(Cost, i64)> {
        let mut run = |command: &mut Command| of_printing_command(command, printed);
        let first = self.first.as_mut().map(&mut run).transpose()?;
        let (cost, text) = run(&mut self.measured)?;
        let text = first.map_or(text, |(_, text)| text);
        let rows = text.lines().last().unwrap_or_default().trim();
        let rows = rows.parse().with_context(|| format!("rows: {rows}"))?;
        Ok((cost, rows))
    }
}

/// Nexmark queries that only DuckDB's program has.
const ONLY_DUCKDB: [&str; 5] = ["q5", "q9", "q16", "q18", "q19"];

/// A Nexmark query on all peers that have it and can run here.
pub fn nexmark(
    query: &str,
    data: &Path,
    out: &Path,
    threads: usize,
    epoch_rows: usize,
) -> Vec<QueryRun> {
    let printed = out.join("printed");
    let threads = threads.to_string();
    let duckdb = || {
        let python = duckdb_python()?;
        let command = || script(&python, "duckdb", query, data, &["-", &threads]);
        let programs = QueryPrograms {
            name: "DuckDB, batch",
            first: Some(command()),
            measured: command(),
        };
        programs.run(&printed)
    };
    let mut runs = vec![QueryRun {
        name: "DuckDB, batch",
        outcome: duckdb(),
    }];
    let base = std::env::var_os("TIDEMILL_PEERS").map(PathBuf::from);
    if let Some(base) = base.filter(|_| !ONLY_DUCKDB.contains(&query)) {
        for programs in nexmark_programs(&base, query, data, &threads, &epoch_rows.to_string()) {
            let name = programs.name;
            let outcome = programs.run(&printed);
            runs.push(QueryRun { name, outcome });
        }
    }
    runs
}

/// The program for a peer in Python.
fn script(python: &Path, peer: &str, query: &str, data: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(python);
    command.arg(Path::new(PROGRAMS).join(format!("nexmark_{peer}.py")));
    command.arg(query).arg(data).args(more);
    command
}

/// The programs of what is installed below `base`.
fn nexmark_programs(
    base: &Path,
    query: &str,
    data: &Path,
    threads: &str,
    epoch_rows: &str,
) -> Vec<QueryPrograms> {
    let mut programs = Vec::new();
    let mut add = |name, first, measured| {
        programs.push(QueryPrograms {
            name,
            first,
            measured,
        });
    };
    for (name, program) in [
        ("differential-dataflow", "nexmark_dd"),
        ("DBSP", "nexmark_dbsp"),
    ] {
        let program = base.join("target/release").join(program);
        if program.exists() {
            let mut command = Command::new(program);
            command
                .arg(query)
                .arg(data)
                .args(["-", epoch_rows, threads]);
            add(name, None, command);
        }
    }
    let python = |peer: &str| base.join("venv").join(peer).join("bin/python");
    let bytewax = python("bytewax");
    if bytewax.exists() {
        let command = script(&bytewax, "bytewax", query, data, &["-", threads]);
        add("Bytewax", None, command);
    }
    let pathway = python("pathway");
    if pathway.exists() {
        let mut command = script(&pathway, "pathway", query, data, &["-"]);
        command.env("PATHWAY_THREADS", threads);
        add("Pathway", None, command);
    }
    let flink = python("flink");
    if flink.exists() {
        for (name, mode) in [
            ("Flink SQL, batch", "batch"),
            ("Flink SQL, stream", "stream"),
        ] {
            // Counting is the other one's, because it costs seconds.
            let command = |out| script(&flink, "flink", query, data, &[out, mode, threads]);
            add(name, Some(command("count")), command("-"));
        }
    }
    programs
}
