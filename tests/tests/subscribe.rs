//! What a subscription promises beyond the change of rows: progress without input, history, errors, ends.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tidemill_tests::changes::Event;
use tidemill_tests::client::SqlFailure;
use tidemill_tests::files::{read_sink, sum_sink};
use tidemill_tests::{Multiset, Options, Server, Sql, Subscription, eventually, run};

async fn failure_of(subscription: &mut Subscription) -> Result<SqlFailure> {
    loop {
        match subscription.next().await {
            Ok(Some(_)) => {}
            Ok(None) => anyhow::bail!("the stream ended without an error"),
            Err(error) => {
                return error
                    .downcast_ref::<SqlFailure>()
                    .cloned()
                    .context("a failure of the server");
            }
        }
    }
}

async fn with_view(sql: &Sql) -> Result<()> {
    sql.run("CREATE TABLE t (k text, v integer)").await?;
    sql.run("INSERT INTO t VALUES ('a', 1), ('b', 2)").await?;
    sql.run("CREATE MATERIALIZED VIEW m AS SELECT k, 12 / v AS q FROM t")
        .await
}

#[test]
fn progress_comes_every_second_without_input() {
    run(|scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        with_view(&sql).await?;
        let mut subscription = Subscription::open(&sql, "m").await?;
        ensure!(
            matches!(subscription.next().await?, Some(Event::Progress(_))),
            "the first message is progress at AS OF"
        );
        subscription.until_rows(&["a|12", "b|6"]).await?;
        let (start, first, mut seen) = (Instant::now(), subscription.frontier, 0);
        while start.elapsed() < Duration::from_secs(4) {
            if let Some(Event::Progress(_)) = subscription.next().await? {
                seen += 1;
            }
        }
        let advanced = subscription.frontier - first;
        ensure!(seen >= 3, "{seen} progress rows in four seconds");
        ensure!(
            advanced >= 2_000,
            "time follows the clock: it advanced by {advanced} ms"
        );
        Ok(())
    });
}

#[test]
fn an_error_in_a_row_ends_the_stream_after_the_last_good_epoch() {
    run(|scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        with_view(&sql).await?;
        let out = scratch.path("m.jsonl");
        let path = out.display();
        sql.run(&format!(
            "CREATE SINK s FROM m WITH (connector = 'files', path = '{path}', format = 'jsonl')"
        ))
        .await?;
        let mut subscription = Subscription::open(&sql, "m").await?;
        subscription.until_rows(&["a|12", "b|6"]).await?;
        sql.run("INSERT INTO t VALUES ('c', 3)").await?;
        sql.run("INSERT INTO t VALUES ('zero', 0)").await?;
        let failure = failure_of(&mut subscription).await?;
        ensure!(failure.sqlstate == "22012", "{failure}");
        ensure!(
            subscription.sum == Multiset::of_lines(["a|12", "b|6", "c|4"]),
            "{:?}",
            subscription.sum
        );
        let failure = sql.fails("22012", "SELECT * FROM m").await?;
        ensure!(
            failure.detail.is_some() || failure.hint.is_some(),
            "the culprit is named: {failure}"
        );
        ensure!(
            sql.number("SELECT count(*) FROM t").await? == 4,
            "the table goes on"
        );
        eventually("the sink pauses", async || {
            Ok((sql.value("SELECT state FROM tidemill.sinks").await? == "paused").then_some(()))
        })
        .await?;
        sql.run("DELETE FROM t WHERE v = 0").await?;
        ensure!(sql.number("SELECT count(*) FROM m").await? == 3, "it heals");
        let mut again = Subscription::open(&sql, "m").await?;
        again.until_rows(&["a|12", "b|6", "c|4"]).await?;
        sql.run("DELETE FROM t WHERE k = 'a'").await?;
        let want = Multiset::of_lines(["b|6", "c|4"]);
        eventually("the sink goes on", async || {
            Ok((sum_sink(&read_sink(&out)?) == want).then_some(()))
        })
        .await?;
        // What happens elsewhere is nothing to write: the sink is up to date all the same.
        sql.run("CREATE TABLE other (k integer)").await?;
        for _ in 0..3 {
            sql.run("INSERT INTO other VALUES (1)").await?;
            let last = sql.number("SELECT last_time FROM tidemill.commits").await?;
            eventually("the sink is up to date", async || {
                let time = sql.number("SELECT time FROM tidemill.sinks").await?;
                Ok((time >= last).then_some(()))
            })
            .await?;
        }
        Ok(())
    });
}

#[test]
fn history_is_exact_and_bounded() {
    run(|scratch| async move {
        let mut server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        sql.run("CREATE TABLE t (k integer, v integer)").await?;
        sql.run("CREATE MATERIALIZED VIEW m AS SELECT k, sum(v) AS s FROM t GROUP BY k")
            .await?;
        let mut subscription = Subscription::open(&sql, "m").await?;
        for i in 0..30 {
            sql.run(&format!("INSERT INTO t VALUES ({}, {i})", i % 3))
                .await?;
        }
        subscription
            .until_rows(&["0|135", "1|145", "2|155"])
            .await?;
        let states = subscription.states();
        ensure!(states.len() == 30, "{} epochs for 30 inserts", states.len());
        let check = async |sql: &Sql| -> Result<()> {
            for (time, state) in states.iter().step_by(7) {
                let rows =
                    Multiset::of_lines(sql.lines(&format!("SELECT * FROM m AS OF {time}")).await?);
                ensure!(
                    rows == *state,
                    "at {time}: {rows:?}, the stream says {state:?}"
                );
                let mut from = Subscription::with(
                    sql,
                    &format!("SUBSCRIBE TO m WITH (SNAPSHOT, PROGRESS) AS OF {time}"),
                )
                .await?;
                from.until_rows(&["0|135", "1|145", "2|155"]).await?;
                ensure!(
                    from.states()[0].1 == *state && from.states()[0].0 == *time,
                    "a snapshot at {time}"
                );
            }
            Ok(())
        };
        check(&sql).await?;
        sql.fails("22023", "SELECT * FROM m AS OF 12345").await?;
        sql.fails("22023", "SUBSCRIBE m AS OF 12345").await?;
        server.restart(&Options::workers(2))?;
        check(&server.connect().await?).await
    });
}

#[test]
fn queries_and_drops() {
    run(|scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        with_view(&sql).await?;
        let query = "(SELECT t.k, m.q, t.v FROM t JOIN m ON t.k = m.k WHERE t.v > 1)";
        let mut subscription = Subscription::open(&sql, query).await?;
        subscription.until_rows(&["b|6|2"]).await?;
        sql.run("UPDATE t SET v = v + 1").await?;
        subscription.until_rows(&["a|6|2", "b|4|3"]).await?;
        let last = subscription.changes.last().context("changes")?.time;
        let diffs: Vec<i64> = subscription
            .changes
            .iter()
            .filter(|c| c.time == last)
            .map(|c| c.diff)
            .collect();
        ensure!(diffs.is_sorted(), "retractions come first: {diffs:?}");
        drop(subscription);
        // Dropping what is followed ends the stream with an error.
        let mut subscription = Subscription::open(&sql, "m").await?;
        subscription.until_rows(&["a|6", "b|4"]).await?;
        sql.run("DROP MATERIALIZED VIEW m").await?;
        let failure = failure_of(&mut subscription).await?;
        ensure!(
            !failure.sqlstate.is_empty() && failure.sqlstate != "XX000",
            "{failure}"
        );
        ensure!(sql.number("SELECT count(*) FROM t").await? == 2);
        Ok(())
    });
}

#[test]
fn a_subscriber_that_goes_away_leaves_nothing() {
    run(|scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        with_view(&sql).await?;
        for _ in 0..20 {
            let mut subscription =
                Subscription::open(&sql, "(SELECT k, count(*) AS n FROM t GROUP BY k)").await?;
            subscription.until_rows(&["a|1", "b|1"]).await?;
        }
        for i in 0..50 {
            sql.run(&format!("INSERT INTO t VALUES ('x', {})", i + 1))
                .await?;
        }
        ensure!(sql.number("SELECT count(*) FROM m").await? == 52);
        sql.run("DROP TABLE t CASCADE").await
    });
}
