//! Views whose computation takes very long: nobody else waits for it, it ends when it is cancelled, and the server ends within
//! its limit whatever is under way.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::SinkExt;
use tidemill_tests::files::drop_file;
use tidemill_tests::load::{quiet, uses_cpu};
use tidemill_tests::raw::{message, startup};
use tidemill_tests::{Options, Server, Sql, eventually, run};
use tokio_postgres::NoTls;

/// The longest that an orderly end may take; those who ask for one kill after ten seconds.
const STOP_MAX: Duration = Duration::from_secs(9);

/// Joins that look at far more pairs than anybody can wait for: without a key, on a key that all rows share, and with
/// pairs that are all kept in between.
const LONG: [&str; 4] = [
    "SELECT count(*) AS n FROM big a JOIN big b ON a.v < b.v",
    "SELECT count(*) AS n FROM big a JOIN big b ON a.k = b.k WHERE a.v + b.v < 0",
    "SELECT a.v FROM big a LEFT JOIN big b ON a.v + b.v < 0",
    "SELECT count(a.v + b.v) AS n FROM big a CROSS JOIN big b",
];

async fn with_big(server: &Server) -> Result<Sql> {
    let sql = server.connect().await?;
    sql.run("CREATE TABLE big (k bigint, v bigint)").await?;
    sql.run("INSERT INTO big SELECT 1, g FROM generate_series(1, 200000) AS s (g)")
        .await?;
    sql.run("CREATE TABLE t (x bigint)").await?;
    sql.run("CREATE MATERIALIZED VIEW s AS SELECT sum(x) AS s FROM t")
        .await?;
    Ok(sql)
}

#[test]
fn a_build_disturbs_nobody_and_ends_when_it_is_cancelled() {
    run(|scratch| async move {
        let server = Server::start(&scratch.data(), &Options::workers(2))?;
        let sql = with_big(&server).await?;
        for (i, query) in LONG.into_iter().enumerate() {
            let building = sql.another().await?;
            let cancel = building.client().cancel_token();
            let create = tokio::spawn(async move {
                let create = format!("CREATE MATERIALIZED VIEW w AS {query}");
                building.try_rows(&create).await
            });
            uses_cpu(&server, "the build is at work", |cores| cores > 0.2).await?;
            let builds = "SELECT name, kind, rows_expected FROM tidemill.builds";
            let under_way = sql.lines(builds).await?;
            ensure!(under_way == ["w|materialized view|200000"], "{under_way:?}");
            // Writes, their views, and DDL go on.
            let started = Instant::now();
            for x in 1..=20 {
                sql.run(&format!("INSERT INTO t VALUES ({x})")).await?;
            }
            let sum = 210 * (i as i64 + 1);
            ensure!(sql.number("SELECT s FROM s").await? == sum);
            sql.run("CREATE MATERIALIZED VIEW other AS SELECT count(*) AS n FROM t")
                .await?;
            sql.run("DROP MATERIALIZED VIEW other").await?;
            let took = started.elapsed();
            ensure!(
                took < Duration::from_secs(20),
                "{query}: others took {took:?}"
            );
            ensure!(
                !create.is_finished(),
                "{query} is done: {:?}",
                create.await?
            );
            let cancelled = Instant::now();
            cancel.cancel_query(NoTls).await?;
            let failure = create.await?.expect_err("it was cancelled");
            ensure!(failure.sqlstate == "57014", "{failure}");
            quiet(&server).await?;
            let took = cancelled.elapsed();
            ensure!(
                took < Duration::from_secs(5),
                "{query}: its end took {took:?}"
            );
            let under_way = sql.lines(builds).await?;
            ensure!(under_way.is_empty(), "{under_way:?}");
            // Its name is free, and nothing of it is left.
            sql.run("CREATE MATERIALIZED VIEW w AS SELECT count(*) AS n FROM big")
                .await?;
            ensure!(sql.number("SELECT n FROM w").await? == 200_000);
            sql.run("DROP MATERIALIZED VIEW w").await?;
        }
        Ok(())
    });
}

/// Equal rows on both sides are a few with counts: 40 billion pairs aren't looked at one by one.
#[test]
fn equal_rows_that_are_joined_to_themselves_are_quick() {
    run(|scratch| async move {
        let server = Server::start(&scratch.data(), &Options::workers(2))?;
        let sql = with_big(&server).await?;
        sql.run("CREATE MATERIALIZED VIEW w AS SELECT count(*) AS n FROM big a CROSS JOIN big b")
            .await?;
        ensure!(sql.number("SELECT n FROM w").await? == 200_000 * 200_000);
        sql.run("INSERT INTO big SELECT 2, g FROM generate_series(1, 100000) AS s (g)")
            .await?;
        ensure!(sql.number("SELECT n FROM w").await? == 300_000 * 300_000);
        Ok(())
    });
}

#[test]
fn a_long_epoch_leaves_reads_alone_and_can_be_ended() {
    run(|scratch| async move {
        let mut server = Server::start(&scratch.data(), &Options::workers(2))?;
        let sql = with_big(&server).await?;
        sql.run("INSERT INTO t VALUES (1)").await?;
        sql.run("CREATE TABLE few (v bigint)").await?;
        sql.run(
            "CREATE MATERIALIZED VIEW w AS SELECT count(*) AS n FROM few a JOIN big b ON a.v < b.v",
        )
        .await?;
        let writing = sql.another().await?;
        let write = tokio::spawn(async move {
            writing
                .try_rows("INSERT INTO few SELECT g FROM generate_series(1, 200000) AS s (g)")
                .await
        });
        uses_cpu(&server, "the epoch is computed", |cores| cores > 0.2).await?;
        for _ in 0..20 {
            ensure!(sql.number("SELECT s FROM s").await? == 1);
            ensure!(sql.number("SELECT n FROM w").await? == 0);
        }
        ensure!(
            !write.is_finished(),
            "the write is done: {:?}",
            write.await?
        );
        let started = Instant::now();
        server.terminate()?;
        let took = started.elapsed();
        ensure!(took < STOP_MAX, "the end took {took:?}");
        ensure!(write.await?.is_err(), "the write was not acknowledged");
        // What was acknowledged is there; what was not is not.
        let server = Server::start(&scratch.data(), &Options::workers(1))?;
        let sql = server.connect().await?;
        ensure!(sql.number("SELECT s FROM s").await? == 1);
        ensure!(sql.number("SELECT count(*) FROM few").await? == 0);
        Ok(())
    });
}

/// Everybody waits for the epoch in which a view finds that there is no end.
#[test]
fn a_recursion_without_an_end_is_an_error_of_its_view_alone() {
    run(|scratch| async move {
        let server = Server::start(&scratch.data(), &Options::workers(2))?;
        let sql = server.connect().await?;
        sql.run("CREATE TABLE e (a int, b int)").await?;
        sql.run("INSERT INTO e VALUES (1, 2), (2, 3)").await?;
        let reached = "SELECT 1 AS x UNION ALL SELECT e.b FROM r JOIN e ON e.a = r.x";
        let twice = "SELECT 1 AS x UNION ALL SELECT e.b FROM r JOIN e ON e.a = r.x CROSS JOIN (VALUES (1), (2)) AS v";
        for (name, terms) in [("once", reached), ("twice", twice)] {
            sql.run(&format!(
                "CREATE MATERIALIZED VIEW {name} AS WITH RECURSIVE r AS ({terms}) SELECT count(*) AS n FROM r"
            ))
            .await?;
        }
        sql.run("CREATE MATERIALIZED VIEW all_of AS SELECT count(*) AS n FROM e")
            .await?;
        ensure!(sql.number("SELECT n FROM once").await? == 3);
        ensure!(sql.number("SELECT n FROM twice").await? == 7);

        sql.run("INSERT INTO e VALUES (3, 1)").await?;
        ensure!(sql.number("SELECT n FROM all_of").await? == 3);
        let rounds = sql.fails("54000", "SELECT n FROM once").await?;
        ensure!(rounds.message.contains("1000000 rounds"), "{rounds}");
        let rows = sql.fails("54000", "SELECT n FROM twice").await?;
        ensure!(rows.message.contains("50000000 rows"), "{rows}");

        sql.run("DELETE FROM e WHERE a = 3").await?;
        ensure!(sql.number("SELECT n FROM once").await? == 3);
        ensure!(sql.number("SELECT n FROM twice").await? == 7);
        Ok(())
    });
}

#[test]
fn an_orderly_end_takes_no_longer_than_it_may() {
    run(|scratch| async move {
        let mut server = Server::start(&scratch.data(), &Options::workers(2))?;
        let sql = with_big(&server).await?;
        sql.run("CREATE TABLE wide (x bigint, text text)").await?;
        // A subscriber that never reads, with more to come than sockets hold.
        let mut idle = startup(server.port())?;
        let subscribe = "COPY (SUBSCRIBE TO wide WITH (PROGRESS)) TO STDOUT";
        message(&mut idle, b'Q', &[subscribe.as_bytes(), b"\0"].concat())?;
        // A COPY whose rows have come, but not its end.
        let copying = sql.another().await?;
        let sink = copying.client().copy_in("COPY t FROM STDIN").await?;
        let mut sink = std::pin::pin!(sink);
        sink.send(bytes::Bytes::from_static(b"1\n2\n")).await?;
        sink.flush().await?;
        // A transaction, a query that computes for ever, and a build.
        let open = sql.another().await?;
        open.run("BEGIN; INSERT INTO t VALUES (7)").await?;
        for _ in 0..3 {
            sql.run("INSERT INTO wide SELECT g, repeat('x', 1000) FROM generate_series(1, 20000) AS s (g)")
                .await?;
        }
        let (reading, building) = (sql.another().await?, sql.another().await?);
        let read = tokio::spawn(async move {
            let endless = "SELECT count(*) FROM big a, big b, big c WHERE a.v + b.v + c.v < 0";
            reading.try_rows(endless).await
        });
        let create = tokio::spawn(async move {
            let create = format!("CREATE MATERIALIZED VIEW w AS {}", LONG[0]);
            building.try_rows(&create).await
        });
        uses_cpu(&server, "they are at work", |cores| cores > 0.2).await?;
        let started = Instant::now();
        let status = server.terminate()?;
        let took = started.elapsed();
        ensure!(took < STOP_MAX, "the end took {took:?}");
        ensure!(status.success(), "it ended with {status}");
        for ended in [read, create] {
            ensure!(ended.await?.is_err(), "nothing was completed");
        }
        drop(idle);
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        ensure!(sql.number("SELECT count(*) FROM t").await? == 0);
        ensure!(sql.number("SELECT count(*) FROM wide").await? == 60_000);
        sql.fails("42P01", "SELECT * FROM w").await?;
        Ok(())
    });
}

#[test]
fn rows_in_a_long_epoch_are_pending() {
    run(|scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        let input = scratch.dir("in");
        sql.run(&format!(
            "CREATE SOURCE big (v bigint) WITH (connector = 'files', path = '{}', format = 'csv', persistent_id = 'big')",
            input.display()
        ))
        .await?;
        sql.run(
            "CREATE MATERIALIZED VIEW w AS SELECT count(*) AS n FROM big a JOIN big b ON a.v < b.v",
        )
        .await?;
        let lines: String = (0..200_000).map(|v| format!("{v}\n")).collect();
        drop_file(&input, "rows.csv", lines.as_bytes())?;
        let waiting = "SELECT pending_rows, rows, reason FROM tidemill.sources WHERE lag_ms > 500";
        eventually("a long epoch", async || {
            let lines = sql.lines(waiting).await?;
            let wanted = ["200000|0|the epoch that its last rows are in"];
            Ok((lines == wanted).then_some(()))
        })
        .await
    });
}
