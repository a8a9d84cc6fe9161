//! Queries that compute for ever disturb nobody, and end when they are cancelled or their client goes away; those that need
//! too much memory fail alone.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tidemill_tests::client::psql_command;
use tidemill_tests::{Options, Server, Sql, eventually, run};
use tokio_postgres::NoTls;

/// A million million pairs: hours of work before the first row.
const ENDLESS: &str = "SELECT count(*) FROM generate_series(1, 1000000) AS a (x), generate_series(1, 1000000) AS b (y) WHERE x + y < 0";

/// More than the server has threads for its network.
const QUERIES: usize = 4;

/// Over how long a process's use of the CPU is looked at.
const WINDOW: Duration = Duration::from_millis(500);

/// Seconds of CPU that a process has used.
fn cpu(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = stat.rsplit_once(") ").context("a line of /proc/PID/stat")?;
    let ticks = rest.split(' ').skip(11).take(2).map(str::parse::<f64>);
    Ok(ticks.sum::<Result<f64, _>>()? / 100.0)
}

/// The process has become idle.
async fn quiet(server: &Server) -> Result<()> {
    let mut last = (Instant::now(), cpu(server.pid())?);
    eventually("the server computes no longer", async || {
        if last.0.elapsed() < WINDOW {
            return Ok(None);
        }
        let now = (Instant::now(), cpu(server.pid())?);
        let share = (now.1 - last.1) / (now.0 - last.0).as_secs_f64();
        last = now;
        Ok((share < 0.2).then_some(()))
    })
    .await
}

#[test]
fn endless_queries_disturb_nobody() {
    run(|scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let mut running = Vec::new();
        for _ in 0..QUERIES {
            let sql = Sql::connect(server.port()).await?;
            let token = sql.client().cancel_token();
            let query = tokio::spawn(async move { sql.try_rows(ENDLESS).await });
            running.push((token, query));
        }
        // Others are served: new sessions, reads, writes and their views.
        let sql = server.connect().await?;
        sql.run("CREATE TABLE t (x bigint)").await?;
        sql.run("CREATE MATERIALIZED VIEW s AS SELECT sum(x) AS s FROM t")
            .await?;
        for x in 1..=20 {
            sql.run(&format!("INSERT INTO t VALUES ({x})")).await?;
        }
        ensure!(sql.value("SELECT s FROM s").await? == "210");
        for (token, query) in running {
            ensure!(
                !query.is_finished(),
                "an endless query ended: {:?}",
                query.await?
            );
            token.cancel_query(NoTls).await?;
            let failure = query.await?.expect_err("it was cancelled");
            ensure!(failure.sqlstate == "57014", "cancelled: {failure}");
        }
        quiet(&server).await
    })
}

#[test]
fn a_query_ends_with_its_client() {
    run(|scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let mut client = psql_command(server.port())
            .args(["-c", ENDLESS])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        eventually("the query computes", async || {
            Ok((cpu(server.pid())? > 1.0).then_some(()))
        })
        .await?;
        client.kill()?;
        client.wait()?;
        quiet(&server).await
    })
}

#[test]
fn a_query_that_needs_too_much_memory_fails_alone() {
    run(|scratch| async move {
        let options = Options {
            args: vec!["--query-memory".into(), "30000000".into()],
            ..Options::default()
        };
        let server = Server::start(&scratch.data(), &options)?;
        let sql = server.connect().await?;
        let sort = |rows: usize| {
            format!(
                "SELECT max(y) FROM (SELECT x AS y FROM generate_series(1, {rows}) AS s (x) ORDER BY x % 1000, x OFFSET 10) AS t"
            )
        };
        let failure = sql.fails("53200", &sort(8_000_000)).await?;
        ensure!(
            failure.hint.is_some_and(|h| h.contains("--query-memory")),
            "the hint names the option"
        );

        ensure!(
            sql.number(&sort(999)).await? == 999,
            "memory was given back"
        );
        Ok(())
    })
}

#[test]
fn endless_input_keeps_nobody_from_declaring() {
    run(|scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        sql.run("CREATE SOURCE numbers WITH (connector = 'generator', kind = 'counter', epoch_rows_max = 10000)")
            .await?;
        sql.run("CREATE MATERIALIZED VIEW total AS SELECT count(*) AS n FROM numbers")
            .await?;
        let n = "SELECT coalesce(sum(n), 0)::bigint FROM total";
        let mut before = 0;
        let out = scratch.path("total.jsonl");
        // Input never pauses, and each of these needs a moment between two epochs.
        for statement in [
            "CREATE TABLE t (x bigint)".to_owned(),
            "CREATE MATERIALIZED VIEW odd AS SELECT n % 2 AS odd FROM total".to_owned(),
            format!(
                "CREATE SINK s FROM total WITH (connector = 'files', path = '{}', format = 'jsonl')",
                out.display()
            ),
            "DROP SINK s".to_owned(),
            "DROP MATERIALIZED VIEW odd".to_owned(),
        ] {
            sql.run(&statement).await?;
            // And they don't hold input up either.
            eventually("input goes on", async || {
                let now = sql.number(n).await?;
                Ok((now > before).then(|| before = now))
            })
            .await?;
        }
        Ok(())
    })
}
