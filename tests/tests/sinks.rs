//! Sinks whose file is out of reach: they stall, say so, and go on once it is back; history is held for them, but not for
//! ever.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, ensure};
use tidemill_tests::files::{read_sink, sum_sink};
use tidemill_tests::{Multiset, Options, Server, Sql, eventually, run};
use tokio::sync::RwLock;

async fn declare(sql: &Sql, path: &Path, options: &str) -> Result<()> {
    sql.run("CREATE TABLE t (id bigint PRIMARY KEY, k text)")
        .await?;
    sql.run("CREATE MATERIALIZED VIEW m WITH (retain_history = '10ms') AS SELECT k, count(*) AS n FROM t GROUP BY k")
        .await?;
    let path = path.display();
    sql.run(&format!(
        "CREATE SINK out FROM m WITH (connector = 'files', path = '{path}', format = 'jsonl'{options})"
    ))
    .await
}

/// Waits until the sink is in the given state; gives the reason.
async fn becomes(sql: &Sql, state: &str) -> Result<String> {
    eventually(&format!("the sink is {state}"), async || {
        let rows = sql
            .rows("SELECT state, coalesce(reason, '') FROM tidemill.sinks")
            .await?;
        let reason = rows
            .iter()
            .find(|r| r[0].as_deref() == Some(state))
            .and_then(|r| r[1].clone());
        Ok(reason)
    })
    .await
}

async fn holds_the_view(sql: &Sql, path: &Path) -> Result<()> {
    let want = Multiset::of_lines(sql.lines("SELECT * FROM m").await?);
    eventually("the sink sums up to the view", async || {
        Ok((sum_sink(&read_sink(path)?) == want).then_some(()))
    })
    .await
}

#[test]
fn a_sink_goes_on_when_its_file_is_back() {
    run(|scratch| async move {
        let directory = scratch.dir("out");
        let (path, away) = (directory.join("m.jsonl"), scratch.path("away"));
        let mut server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        declare(&sql, &path, "").await?;
        sql.run("INSERT INTO t VALUES (1, 'a'), (2, 'b')").await?;
        holds_the_view(&sql, &path).await?;
        std::fs::rename(&directory, &away)?;
        sql.run("INSERT INTO t VALUES (3, 'a')").await?;
        let reason = becomes(&sql, "stalled").await?;
        ensure!(reason.contains("m.jsonl"), "{reason}");
        // Others aren't concerned.
        sql.run("INSERT INTO t VALUES (4, 'c')").await?;
        ensure!(sql.lines("SELECT * FROM m ORDER BY k").await? == ["a|2", "b|1", "c|1"]);
        std::fs::rename(&away, &directory)?;
        becomes(&sql, "running").await?;
        holds_the_view(&sql, &path).await?;

        // The same with a restart in between.
        std::fs::rename(&directory, &away)?;
        sql.run("DELETE FROM t WHERE k = 'a'").await?;
        becomes(&sql, "stalled").await?;
        server.restart(&Options::default())?;
        let sql = server.connect().await?;
        becomes(&sql, "stalled").await?;
        sql.run("INSERT INTO t VALUES (5, 'b')").await?;
        std::fs::rename(&away, &directory)?;
        becomes(&sql, "running").await?;
        holds_the_view(&sql, &path).await?;

        // Another file under the name is not the sink's.
        std::fs::remove_file(&path)?;
        std::fs::write(&path, "")?;
        sql.run("INSERT INTO t VALUES (6, 'd')").await?;
        let reason = becomes(&sql, "stalled").await?;
        ensure!(reason.contains("m.jsonl"), "{reason}");
        sql.run("DROP SINK out").await
    });
}

#[test]
fn a_stalled_sink_holds_history_for_a_limited_time() {
    run(|scratch| async move {
        let directory = scratch.dir("out");
        let path = directory.join("m.jsonl");
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        declare(&sql, &path, ", history_max = '1s'").await?;
        sql.run("INSERT INTO t VALUES (0, 'a')").await?;
        holds_the_view(&sql, &path).await?;
        let since = "SELECT since FROM tidemill.views WHERE name = 'm'";
        std::fs::remove_dir_all(&directory)?;
        sql.run("INSERT INTO t VALUES (1, 'a')").await?;
        becomes(&sql, "stalled").await?;
        let held = sql.number(since).await?;
        let mut next = 2;
        eventually("history is released", async || {
            sql.run(&format!("INSERT INTO t VALUES ({next}, 'a')"))
                .await?;
            next += 1;
            Ok((sql.number(since).await? > held + 1_000).then_some(()))
        })
        .await?;
        let reason = becomes(&sql, "stalled").await?;
        ensure!(reason.contains("history_max"), "{reason}");
        ensure!(reason.contains("drop the sink"), "{reason}");
        let failure = sql
            .fails("22023", "CREATE SINK other FROM m WITH (connector = 'files', path = '/tmp/x', format = 'jsonl', history_max = 'long')")
            .await?;
        ensure!(failure.message.contains("history_max"), "{failure:?}");
        sql.run("DROP SINK out").await
    });
}

/// A view in error is no fault of its sinks: they are paused, also after a restart, whether or not they have written before.
#[test]
fn a_sink_of_a_view_in_error_is_paused_after_a_restart() {
    run(|scratch| async move {
        for (name, first) in [
            ("fresh", None),
            ("written", Some("INSERT INTO t VALUES (1, 4)")),
        ] {
            let scratch = scratch.sub(name);
            let path = scratch.path("m.jsonl");
            let mut server = Server::start(&scratch.data(), &Options::default())?;
            let sql = server.connect().await?;
            sql.run("CREATE TABLE t (id bigint PRIMARY KEY, v bigint)")
                .await?;
            sql.run("CREATE MATERIALIZED VIEW m AS SELECT id, 12 / v AS q FROM t")
                .await?;
            let sink = path.display();
            sql.run(&format!(
                "CREATE SINK out FROM m WITH (connector = 'files', path = '{sink}', format = 'jsonl')"
            ))
            .await?;
            if let Some(insert) = first {
                sql.run(insert).await?;
                holds_the_view(&sql, &path).await?;
            }
            sql.run("INSERT INTO t VALUES (2, 0)").await?;
            becomes(&sql, "paused").await?;
            sql.run("INSERT INTO t VALUES (3, 3)").await?;
            for kill in [false, true] {
                match kill {
                    true => server.kill(),
                    false => drop(server.terminate()?),
                }
                server.restart(&Options::default())?;
                let sql = server.connect().await?;
                let reason = becomes(&sql, "paused").await?;
                ensure!(reason.contains("division by zero"), "{reason}");
                let id = 10 + i64::from(kill);
                sql.run(&format!("INSERT INTO t VALUES ({id}, {id})"))
                    .await?;
                ensure!(becomes(&sql, "paused").await? == reason);
            }
            let sql = server.connect().await?;
            sql.run("DELETE FROM t WHERE v = 0").await?;
            becomes(&sql, "running").await?;
            holds_the_view(&sql, &path).await?;
        }
        Ok(())
    });
}

/// What a file was cut by while the sink had it open would become zeros under the next lines.
#[test]
fn a_sink_whose_file_is_cut_stalls() {
    run(|scratch| async move {
        let path = scratch.path("m.jsonl");
        let mut server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        declare(&sql, &path, "").await?;
        sql.run("INSERT INTO t SELECT n, 'k' || n % 7 FROM generate_series(1, 100) AS g(n)")
            .await?;
        holds_the_view(&sql, &path).await?;
        let whole = std::fs::read(&path)?;
        let file = std::fs::OpenOptions::new().write(true).open(&path)?;
        file.set_len(10)?;
        sql.run("INSERT INTO t VALUES (1000, 'new')").await?;
        let reason = becomes(&sql, "stalled").await?;
        ensure!(reason.contains("has 10 bytes"), "{reason}");
        server.kill();
        server.restart(&Options::default())?;
        let sql = server.connect().await?;
        let reason = becomes(&sql, "stalled").await?;
        ensure!(reason.contains("has 10 bytes"), "{reason}");
        ensure!(std::fs::metadata(&path)?.len() == 10);
        std::fs::write(&path, &whole)?;
        becomes(&sql, "running").await?;
        holds_the_view(&sql, &path).await
    });
}

#[test]
fn a_sink_never_feeds_what_it_stands_on() {
    run(|scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        let input = scratch.dir("input");
        let shown = input.display();
        sql.run(&format!(
            "CREATE SOURCE s (k text) WITH (connector = 'files', path = '{shown}/**/*.csv', format = 'csv', persistent_id = 's')"
        ))
        .await?;
        sql.run("CREATE VIEW v AS SELECT k FROM s").await?;
        sql.run("CREATE MATERIALIZED VIEW m AS SELECT count(*) AS n FROM v")
            .await?;
        let sink = |path: &str, format: &str| {
            format!(
                "CREATE SINK out FROM m WITH (connector = 'files', path = '{path}', format = '{format}')"
            )
        };
        let failure = sql
            .fails("22023", &sink(&format!("{shown}/out.csv"), "csv"))
            .await?;
        ensure!(format!("{failure:?}").contains("source s"), "{failure:?}");
        ensure!(!input.join("out.csv").exists());
        // The source doesn't read such files.
        sql.run(&sink(&format!("{shown}/out.jsonl"), "jsonl")).await
    });
}

/// The epoch after the one that a sink is made in may be computed already when it starts.
#[test]
fn a_sink_made_while_rows_are_written_misses_nothing() {
    const SINKS: usize = 20;
    run(|scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        sql.run("CREATE TABLE t (id bigint, k bigint)").await?;
        sql.run("CREATE MATERIALIZED VIEW counts AS SELECT k, count(*) AS n, sum(id) AS s FROM t GROUP BY k")
            .await?;
        sql.run("CREATE MATERIALIZED VIEW few AS SELECT id FROM t WHERE k < 8")
            .await?;
        // Who has it for writing holds the writers back.
        let turn = Arc::new(RwLock::new(false));
        let mut writers = vec![];
        for writer in 0..3 {
            let (other, turn) = (server.connect().await?, turn.clone());
            writers.push(tokio::spawn(async move {
                for n in 0.. {
                    let stop = turn.read().await;
                    if *stop {
                        break;
                    }
                    let id = 3 * n + writer;
                    let insert = format!("INSERT INTO t VALUES ({id}, {})", id % 10);
                    other.run(&insert).await?;
                }
                anyhow::Ok(())
            }));
        }
        for from in ["t", "counts", "few"] {
            for n in 0..SINKS {
                let path = scratch.path(&format!("{from}_{n}.jsonl"));
                let with = format!(
                    "connector = 'files', path = '{}', format = 'jsonl'",
                    path.display()
                );
                sql.run(&format!("CREATE SINK out FROM {from} WITH ({with})"))
                    .await?;
                eventually("a change is written", async || {
                    let lines = read_sink(&path)?;
                    let later = lines.first().zip(lines.last());
                    Ok(later.filter(|(a, b)| a.time < b.time).map(|_| ()))
                })
                .await?;
                let mut stop = turn.write().await;
                let want = Multiset::of_lines(sql.lines(&format!("SELECT * FROM {from}")).await?);
                eventually(&format!("sink {n} of {from}"), async || {
                    Ok((sum_sink(&read_sink(&path)?) == want).then_some(()))
                })
                .await?;
                // The next one is the first to follow again.
                sql.run("DROP SINK out").await?;
                *stop = from == "few" && n + 1 == SINKS;
            }
        }
        for writer in writers {
            writer.await??;
        }
        Ok(())
    });
}
