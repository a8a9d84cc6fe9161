//! Reads by a key, by an index and of ranges over eight connections, while rows are written.
//!
//! pgbench is the client where it is installed, because it takes least of the cores it shares with the server; else,
//! and in the smoke test too, a client of our own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::{Rng, SeedableRng};
use tidemill_tests::{Server, Sql};

use crate::Setting;
use crate::load::{keyed, writer};
use crate::measure::quantile_ms;
use crate::report::Report;

const CONNECTIONS: usize = 8;

/// A query of one parameter, a random key.
struct Read {
    what: &'static str,
    sql: &'static str,
    /// Rows of each answer.
    rows: usize,
}

const READS: [Read; 4] = [
    Read {
        what: "a view by its GROUP BY key",
        sql: "SELECT s FROM sums WHERE k = $1",
        rows: 1,
    },
    Read {
        what: "a table by its primary key",
        sql: "SELECT v FROM fixed WHERE id = $1",
        rows: 1,
    },
    Read {
        what: "a table by an index on text",
        sql: "SELECT id, v FROM fixed WHERE name = 'customer-' || $1::bigint",
        rows: 1,
    },
    Read {
        what: "20 rows of a range of an index",
        sql: "SELECT k, s FROM sums WHERE k >= $1 AND k < $1 + 20",
        rows: 20,
    },
];

/// All kinds of reads, one after the other.
pub async fn point(setting: &Setting) -> Result<Report> {
    let groups = if setting.smoke { 1_000 } else { 100_000 };
    let seconds = if setting.smoke { 1 } else { 10 };
    let (server, sql) = setting.started().await?;
    keyed(&sql, groups).await?;
    sql.run("CREATE TABLE fixed (id bigint PRIMARY KEY, name text, v bigint)")
        .await?;
    sql.run(&format!(
        "INSERT INTO fixed SELECT g, 'customer-' || g, g * 7 FROM generate_series(0, {groups} - 1) AS g"
    ))
    .await?;
    sql.run("CREATE INDEX fixed_name ON fixed (name)").await?;
    sql.run("CREATE INDEX sums_k ON sums (k)").await?;
    let stop = Arc::new(AtomicBool::new(false));
    let writing = writer(&server, groups, stop.clone());
    let mut report = Report::new(format!(
        "Reads by key, {groups} groups, {CONNECTIONS} connections, under write load"
    ));
    for read in &READS {
        let own = own_client(&server, read, groups, seconds).await?;
        report.note(format!("{}: {}.", read.what, rate(&own, seconds)));
        if let Some(pgbench) = pgbench() {
            let waits = with_pgbench(&pgbench, &server, setting, read, groups, seconds)?;
            report.note(format!("… from pgbench: {}.", rate(&waits, seconds)));
        }
    }
    stop.store(true, Ordering::Release);
    writing.await??;
    Ok(report)
}

fn rate(waits: &[Duration], seconds: u64) -> String {
    format!(
        "{:.0} per second, p50 {:.2} ms, p99 {:.2} ms",
        waits.len() as f64 / seconds as f64,
        quantile_ms(waits, 0.5),
        quantile_ms(waits, 0.99)
    )
}

/// Sorted waiting times.
async fn own_client(
    server: &Server,
    read: &Read,
    groups: usize,
    seconds: u64,
) -> Result<Vec<Duration>> {
    let end = Instant::now() + Duration::from_secs(seconds);
    let readers: Vec<_> = (0..CONNECTIONS as u64)
        .map(|seed| {
            let (port, text, wanted) = (server.port(), read.sql, read.rows);
            tokio::spawn(async move {
                let sql = Sql::connect(port).await?;
                let statement = sql.client().prepare(text).await?;
                let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
                let mut waits = Vec::new();
                while Instant::now() < end {
                    let key = rng.random_range(0..(groups - wanted) as i64);
                    let start = Instant::now();
                    let rows = sql.client().query(&statement, &[&key]).await?;
                    waits.push(start.elapsed());
                    ensure!(rows.len() == wanted, "{text} of {key}: {} rows", rows.len());
                }
                Ok(waits)
            })
        })
        .collect();
    let mut waits = Vec::new();
    for reader in readers {
        waits.extend(reader.await??);
    }
    waits.sort();
    Ok(waits)
}

/// Where pgbench is, if it is installed.
fn pgbench() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join("pgbench"))
        .find(|file| file.is_file())
}

/// Sorted waiting times, from pgbench's log.
fn with_pgbench(
    pgbench: &Path,
    server: &Server,
    setting: &Setting,
    read: &Read,
    groups: usize,
    seconds: u64,
) -> Result<Vec<Duration>> {
    let dir = setting.scratch.join("pgbench");
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir)?;
    let script = dir.join("read.sql");
    let last = groups - read.rows - 1;
    let sql = read.sql.replace("$1", ":k");
    std::fs::write(&script, format!("\\set k random(0, {last})\n{sql};\n"))?;
    let output = Command::new(pgbench)
        .args([
            "-h",
            "127.0.0.1",
            "-U",
            "tidemill",
            "-M",
            "prepared",
            "-n",
            "-l",
        ])
        .args(["-p", &server.port().to_string()])
        .args(["-c", &CONNECTIONS.to_string(), "-T", &seconds.to_string()])
        .arg("-f")
        .arg(&script)
        .arg("tidemill")
        .current_dir(&dir)
        .output()
        .context("pgbench doesn't start")?;
    ensure!(
        output.status.success(),
        "pgbench: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut waits = Vec::new();
    for entry in std::fs::read_dir(&dir)? {
        let path = entry?.path();
        if !path.to_string_lossy().contains("pgbench_log") {
            continue;
        }
        for line in std::fs::read_to_string(&path)?.lines() {
            let micros = line.split(' ').nth(2).and_then(|m| m.parse().ok());
            waits.push(Duration::from_micros(micros.context("a line of the log")?));
        }
    }
    ensure!(!waits.is_empty(), "pgbench read nothing");
    waits.sort();
    Ok(waits)
}
