//! Random queries answered alike by Tidemill, as SELECT and as view, and by a PostgreSQL 15, where one is installed.
//!
//! Runs on demand: `TIDEMILL_SEED=n`, and `TIDEMILL_ROUNDS` for the number of queries.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use tidemill_sqllogictest::random;
use tidemill_tests::client::{SqlFailure, line};
use tidemill_tests::seed::rounds;
use tidemill_tests::{Options, Seed, Server, Sql, run};

const BIN: &str = "/usr/lib/postgresql/15/bin";
const QUERIES: usize = 300;
/// Differences shown.
const SHOWN_MAX: usize = 12;

/// A PostgreSQL of the test's own, on a socket in its directory.
struct Postgres {
    dir: String,
}

impl Postgres {
    fn command(program: &str, args: &[&str]) -> Result<()> {
        // SAFETY: getuid has no preconditions.
        let root = unsafe { libc::getuid() } == 0;
        let path = format!("{BIN}/{program}");
        let mut command = if root {
            Command::new("runuser")
        } else {
            Command::new(&path)
        };
        if root {
            command.args(["-u", "postgres", "--", &path]);
        }
        let status = command
            .args(args)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
        ensure!(status.success(), "{program} {args:?}: {status}");
        Ok(())
    }

    fn start() -> Result<Postgres> {
        let dir = tempfile::Builder::new()
            .prefix("tidemill-pg-")
            .tempdir()?
            .keep();
        // SAFETY: getuid has no preconditions.
        if unsafe { libc::getuid() } == 0 {
            let status = Command::new("chown").arg("postgres").arg(&dir).status()?;
            ensure!(status.success(), "chown postgres");
        }
        let postgres = Postgres {
            dir: dir.display().to_string(),
        };
        let data = format!("{}/db", postgres.dir);
        Self::command(
            "initdb",
            &[
                "-D",
                &data,
                "-U",
                "postgres",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--locale=C.UTF-8",
                "--no-sync",
            ],
        )?;
        let options = format!(
            "-k {} -c listen_addresses='' -c fsync=off -c timezone=UTC",
            postgres.dir
        );
        Self::command(
            "pg_ctl",
            &[
                "-D",
                &data,
                "-w",
                "-l",
                &format!("{}/log", postgres.dir),
                "-o",
                &options,
                "start",
            ],
        )?;
        Ok(postgres)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let _ = Self::command(
            "pg_ctl",
            &["-D", &format!("{}/db", self.dir), "-m", "immediate", "stop"],
        );
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Sorted lines, or the SQLSTATE.
async fn answer(sql: &Sql, query: &str) -> Result<Vec<String>, SqlFailure> {
    let mut lines: Vec<String> = sql
        .try_rows(query)
        .await?
        .iter()
        .map(|row| line(row))
        .collect();
    lines.sort();
    Ok(lines)
}

fn outcome(answer: &Result<Vec<String>, SqlFailure>) -> Result<&Vec<String>, &str> {
    answer.as_ref().map_err(|f| f.sqlstate.as_str())
}

#[test]
fn random_queries() {
    if std::env::var_os("TIDEMILL_SEED").is_none() {
        eprintln!("skipped: on demand, with TIDEMILL_SEED=n (text of numeric differs in scale)");
        return;
    }
    if !Path::new(BIN).join("initdb").exists() {
        eprintln!("skipped: there is no PostgreSQL 15 in {BIN}");
        return;
    }
    run(|scratch| async move {
        let seed = Seed::new("random queries");
        let mut rng = seed.rng(0);
        let postgres = Postgres::start()?;
        let server = Server::start(&scratch.data(), &Options::default())?;
        let reference = Sql::connect_to(
            &format!("host={} user=postgres dbname=postgres", postgres.dir),
            0,
        )
        .await?;
        let sql = server.connect().await?;
        for statement in random::tables(&mut rng) {
            reference.run(&statement).await?;
            sql.run(&statement).await?;
        }
        let mut differences = Vec::new();
        let queries = rounds(QUERIES);
        for n in 0..queries {
            let (query, _) = random::query(&mut rng);
            let want = answer(&reference, &query).await;
            let got = answer(&sql, &query).await;
            if outcome(&want) != outcome(&got) {
                differences.push(format!(
                    "SELECT: {query}\n    PostgreSQL: {want:?}\n    Tidemill:   {got:?}"
                ));
                continue;
            }
            if n % 3 == 0 && want.is_ok() {
                sql.run(&format!("CREATE MATERIALIZED VIEW v AS {query}"))
                    .await
                    .context("a view of it")?;
                let view = answer(&sql, "SELECT * FROM v").await;
                if outcome(&want) != outcome(&view) {
                    differences.push(format!(
                        "view: {query}\n    PostgreSQL: {want:?}\n    Tidemill:   {view:?}"
                    ));
                }
                sql.run("DROP MATERIALIZED VIEW v").await?;
            }
        }
        let shown = &differences[..differences.len().min(SHOWN_MAX)];
        ensure!(
            differences.is_empty(),
            "{} of {queries} queries differ\n{}",
            differences.len(),
            shown.join("\n")
        );
        Ok(())
    });
}
