//! What a subscription promises beyond the change of rows: progress without input, history, errors, ends.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use tidemill_tests::changes::{Change, Event};
use tidemill_tests::client::SqlFailure;
use tidemill_tests::files::{read_sink, sum_sink};
use tidemill_tests::{DEADLINE, Multiset, Options, Server, Sql, Subscription, eventually, run};

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
fn queries_end_with_the_views_that_they_read() {
    run(|scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        with_view(&sql).await?;
        sql.run("CREATE VIEW named AS SELECT k, q FROM m WHERE k <> 'e'")
            .await?;
        let mut subscriptions = Vec::new();
        for query in [
            "(SELECT k, q FROM m WHERE k <> 'e')",
            "named",
            "(SELECT k, q FROM named)",
            "(SELECT t.k, m.q FROM t JOIN m ON t.k = m.k)",
        ] {
            let mut subscription = Subscription::open(&sql, query).await?;
            subscription.until_rows(&["a|12", "b|6"]).await?;
            subscriptions.push((query, subscription));
        }
        sql.run("INSERT INTO t VALUES ('c', 3)").await?;
        // The good row isn't shown without the other one, which can't be.
        sql.run("INSERT INTO t VALUES ('zero', 0), ('d', 4)")
            .await?;
        sql.run("INSERT INTO t VALUES ('e', 12)").await?;
        for (query, mut subscription) in subscriptions {
            let failure = failure_of(&mut subscription).await?;
            ensure!(failure.sqlstate == "22012", "{query}: {failure}");
            let detail = failure.detail.clone().unwrap_or_default();
            ensure!(
                detail.contains("view \"m\"") && detail.contains("zero"),
                "{query}: {detail}"
            );
            ensure!(
                subscription.sum == Multiset::of_lines(["a|12", "b|6", "c|4"]),
                "{query}: {:?}",
                subscription.sum
            );
            sql.fails("22012", &format!("SUBSCRIBE TO {query}")).await?;
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

/// Reads a stream to its end.
async fn to_the_end(sql: &Sql, subscribe: &str) -> Result<Subscription> {
    let mut subscription = Subscription::with(sql, subscribe).await?;
    while subscription.next().await?.is_some() {}
    Ok(subscription)
}

#[test]
fn queries_have_history_too() {
    run(|scratch| async move {
        let mut server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        sql.run("CREATE TABLE t (k integer, v integer)").await?;
        sql.run("CREATE TABLE names (k integer, name text)").await?;
        sql.run("CREATE VIEW named AS SELECT t.v, n.name FROM t JOIN names AS n ON t.k = n.k")
            .await?;
        sql.run("INSERT INTO names VALUES (0, 'zero'), (1, 'one'), (2, 'two')")
            .await?;
        let query = "(SELECT name, sum(v) AS s, max(v) AS m FROM named GROUP BY name)";
        let mut live = Subscription::open(&sql, query).await?;
        for i in 0..30 {
            sql.run(&format!("INSERT INTO t VALUES ({}, {i})", i % 3))
                .await?;
        }
        sql.run("UPDATE names SET name = 'ace' WHERE k = 1").await?;
        sql.run("DELETE FROM t WHERE k = 2").await?;
        let last = ["zero|135|27", "ace|145|28"];
        live.until_rows(&last).await?;
        let states = live.states();
        ensure!(states.len() == 32, "{} epochs", states.len());
        let check = async |sql: &Sql| -> Result<()> {
            for i in (0..states.len()).step_by(6) {
                let time = states[i].0;
                let from = format!("SUBSCRIBE TO {query} WITH (SNAPSHOT, PROGRESS) AS OF {time}");
                let mut from = Subscription::with(sql, &from).await?;
                ensure!(
                    from.next().await? == Some(Event::Progress(time)),
                    "progress at AS OF comes first"
                );
                // Whoever is cut off among later changes can resume: the snapshot's end is told before them.
                loop {
                    match from.next().await? {
                        Some(Event::Change(c)) => {
                            ensure!(c.time == time, "{c:?} before the progress of the snapshot")
                        }
                        Some(Event::Progress(p)) => {
                            ensure!(p == time + 1, "{p} after a snapshot at {time}");
                            break;
                        }
                        None => anyhow::bail!("the stream ended"),
                    }
                }
                from.until_rows(&last).await?;
                ensure!(from.states() == states[i..], "from {time} on");
                let mut resumed = Subscription::resume(sql, query, time + 1).await?;
                let end = states[states.len() - 1].0;
                resumed
                    .until("the last change", |s| s.frontier > end)
                    .await?;
                let later = live.changes.iter().filter(|c| c.time > time);
                ensure!(
                    sorted(&resumed.changes) == sorted(later),
                    "resumed after {time}"
                );
                let until = states[(i + 3).min(states.len() - 1)].0;
                let between = format!(
                    "SUBSCRIBE TO {query} WITH (SNAPSHOT, PROGRESS) AS OF {time} UP TO {until}"
                );
                let between = to_the_end(sql, &between).await?;
                let want: Vec<_> = states[i..]
                    .iter()
                    .filter(|(t, _)| *t < until)
                    .cloned()
                    .collect();
                ensure!(between.states() == want, "from {time} up to {until}");
            }
            // A view that is only a name for a query, and an empty interval.
            let (first, end) = (states[0].0, states[states.len() - 1].0);
            let named = format!(
                "SUBSCRIBE TO named WITH (SNAPSHOT) AS OF {first} UP TO {}",
                end + 1
            );
            let named = to_the_end(sql, &named).await?;
            ensure!(named.sum.0.values().sum::<i64>() == 20, "{:?}", named.sum);
            let empty = format!("SUBSCRIBE TO {query} WITH (SNAPSHOT) AS OF {first} UP TO {first}");
            ensure!(to_the_end(sql, &empty).await?.changes.is_empty());
            Ok(())
        };
        check(&sql).await?;
        sql.fails("22023", &format!("SUBSCRIBE TO {query} AS OF 12345"))
            .await?;
        let failure = sql
            .fails(
                "22023",
                &format!("SUBSCRIBE TO {query} AS OF 9000000000000"),
            )
            .await?;
        ensure!(failure.detail.is_some(), "{failure}");
        sql.run("CREATE SOURCE c WITH (connector = 'generator', kind = 'counter', rows = 3)")
            .await?;
        let now = live.frontier;
        let failure = sql
            .fails(
                "55000",
                &format!("SUBSCRIBE TO (SELECT * FROM c) AS OF {now}"),
            )
            .await?;
        ensure!(failure.hint.is_some(), "{failure}");
        server.restart(&Options::workers(2))?;
        check(&server.connect().await?).await
    });
}

fn sorted<'a>(changes: impl IntoIterator<Item = &'a Change>) -> Vec<(i64, i64, String)> {
    let changes = changes.into_iter();
    let mut out: Vec<_> = changes
        .map(|c| (c.time, c.diff, format!("{:?}", c.row)))
        .collect();
    out.sort();
    out
}

fn wall_clock() -> Result<i64> {
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    Ok(since_1970.as_millis() as i64)
}

#[test]
fn time_stays_close_to_the_clock_across_restarts() {
    run(|scratch| async move {
        let mut server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        with_view(&sql).await?;
        let mut before = Subscription::open(&sql, "m").await?;
        let started = Instant::now();
        before
            .until("two seconds of progress", |_| {
                started.elapsed() > Duration::from_secs(2)
            })
            .await?;
        server.restart(&Options::default())?;
        let mut after = Subscription::open(&server.connect().await?, "m").await?;
        let Some(Event::Progress(first)) = after.next().await? else {
            anyhow::bail!("the first message is progress at AS OF");
        };
        let ahead = first - wall_clock()?;
        ensure!(first + 1 >= before.frontier, "time went back");
        ensure!(ahead <= 1_100, "time is {ahead} ms ahead of the clock");
        // Progress goes on even while the wall clock is behind.
        let (started, from) = (Instant::now(), first);
        after.until("progress", |s| s.frontier > from + 1).await?;
        ensure!(
            started.elapsed() < Duration::from_millis(1_500),
            "progress after {:?}",
            started.elapsed()
        );
        // An orderly end leaves no gap.
        server.terminate()?;
        let server = Server::start(&scratch.data(), &Options::default())?;
        let mut again = Subscription::open(&server.connect().await?, "m").await?;
        let Some(Event::Progress(first)) = again.next().await? else {
            anyhow::bail!("the first message is progress at AS OF");
        };
        ensure!(first + 1 >= after.frontier, "time went back");
        let ahead = first - wall_clock()?;
        ensure!(ahead <= 0, "time is {ahead} ms ahead of the clock");
        Ok(())
    });
}

#[test]
fn followers_that_fall_behind_go_on_from_history() {
    run(|scratch| async move {
        // Nothing is kept in memory: everybody has fallen behind at once.
        let mut options = Options::workers(2);
        options
            .env
            .push(("TIDEMILL_CHANGES_BYTES".into(), "0".into()));
        let server = Server::start(&scratch.data(), &options)?;
        let sql = server.connect().await?;
        with_view(&sql).await?;
        let out = scratch.path("m.jsonl");
        let path = out.display();
        sql.run(&format!(
            "CREATE SINK s FROM m WITH (connector = 'files', path = '{path}', format = 'jsonl')"
        ))
        .await?;
        let mut subscription = Subscription::open(&sql, "m").await?;
        let query = "(SELECT q, count(*) AS n FROM m GROUP BY q)";
        let mut of_query = Subscription::open(&sql, query).await?;
        of_query.until_rows(&["12|1", "6|1"]).await?;
        let creating = sql.another().await?;
        let create = tokio::spawn(async move {
            creating
                .run("CREATE MATERIALIZED VIEW n AS SELECT q, count(*) AS n FROM m GROUP BY q")
                .await
        });
        for i in 3..40 {
            sql.run(&format!("INSERT INTO t VALUES ('c', {i})")).await?;
        }
        create.await??;
        ensure!(sql.number("SELECT sum(n)::bigint FROM n").await? == 39);
        let all = sql.lines("SELECT * FROM m").await?;
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        subscription.until_rows(&all).await?;
        ensure!(
            subscription.states().len() == 38,
            "every epoch comes apart: {}",
            subscription.states().len()
        );
        eventually("the sink", async || {
            Ok((sum_sink(&read_sink(&out)?) == subscription.sum).then_some(()))
        })
        .await?;
        // A query's changes are nowhere but in memory; what came is right, and it can be resumed.
        let failure = failure_of(&mut of_query).await?;
        ensure!(
            failure.sqlstate == "53400" && failure.hint.is_some(),
            "{failure}"
        );
        let mut resumed = Subscription::resume(&sql, query, of_query.frontier).await?;
        let below = of_query.frontier;
        for change in of_query.changes.iter().filter(|c| c.time < below) {
            resumed.sum.add(&change.row, change.diff);
        }
        let rows = sql.lines("SELECT * FROM n").await?;
        let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
        resumed.until_rows(&rows).await?;
        // Errors are seen too.
        sql.run("INSERT INTO t VALUES ('zero', 0)").await?;
        let failure = failure_of(&mut subscription).await?;
        ensure!(failure.sqlstate == "22012", "{failure}");
        Ok(())
    });
}

#[test]
fn a_follower_far_behind_reads_its_history_in_parts() {
    run(|scratch| async move {
        let mut options = Options::workers(2);
        let log = "tidemill_server::backlog=debug".to_string();
        options.env.push(("RUST_LOG".into(), log));
        let mut server = Server::start(&scratch.data(), &options)?;
        let sql = server.connect().await?;
        sql.run("CREATE TABLE t (k bigint, v bigint)").await?;
        sql.run("CREATE MATERIALIZED VIEW m WITH (retain_history = '1 hour') AS SELECT k, 100 / v AS q, repeat(md5(k::text), 20) AS text FROM t")
            .await?;
        sql.run("INSERT INTO t VALUES (-1, 1)").await?;
        let first = sql.number("SELECT last_time FROM tidemill.commits").await?;
        let insert = |epoch: i64| {
            let first = epoch * 2_000;
            format!(
                "INSERT INTO t SELECT g, 1 + g % 9 FROM generate_series({first}, {first} + 1999) AS s (g)"
            )
        };
        for epoch in 0..10 {
            sql.run(&insert(epoch)).await?;
        }
        // A time in error that is over is no reason to stop, however many parts it takes.
        sql.run("INSERT INTO t VALUES (-2, 0)").await?;
        for epoch in 10..20 {
            sql.run(&insert(epoch)).await?;
        }
        sql.run("DELETE FROM t WHERE v = 0").await?;
        for epoch in 20..25 {
            sql.run(&insert(epoch)).await?;
        }
        let upper = sql.number("SELECT last_time FROM tidemill.commits").await? + 1;
        for restarted in [false, true] {
            if restarted {
                server.restart(&options)?;
            }
            let sql = server.connect().await?;
            let from = server.log_text().matches("a part of a backlog").count();
            for (snapshot, missing) in [(true, 0), (false, 1)] {
                let subscribe = format!(
                    "SUBSCRIBE TO m WITH (SNAPSHOT = {snapshot}, PROGRESS) AS OF {first} UP TO {upper}"
                );
                let mut subscription = Subscription::with(&sql, &subscribe).await?;
                let (mut times, mut rows) = (Vec::new(), std::collections::BTreeSet::new());
                while let Some(event) = subscription.next().await? {
                    match event {
                        Event::Progress(time) => {
                            ensure!(times.last().is_none_or(|last| *last < time));
                            times.push(time);
                        }
                        Event::Change(change) => {
                            ensure!(change.diff == 1, "{change:?}");
                            ensure!(
                                times.last().is_none_or(|last| *last <= change.time),
                                "a change below progress"
                            );
                            ensure!(rows.insert(change.row[0].clone()), "{change:?} twice");
                        }
                    }
                }
                ensure!(rows.len() == 50_001 - missing, "{} rows", rows.len());
            }
            let parts = server.log_text().matches("a part of a backlog").count() - from;
            ensure!(parts >= 2 * 3, "{parts} parts");
        }
        Ok(())
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
        let other = server.connect().await?;
        let mut of_query = Subscription::open(&other, "(SELECT k, q + 1 FROM m)").await?;
        of_query.until_rows(&["a|7", "b|5"]).await?;
        sql.run("DROP MATERIALIZED VIEW m").await?;
        for ended in [&mut subscription, &mut of_query] {
            let failure = failure_of(ended).await?;
            ensure!(failure.sqlstate == "42P01", "{failure}");
        }
        ensure!(sql.number("SELECT count(*) FROM t").await? == 2);
        Ok(())
    });
}

#[test]
fn a_drop_that_a_subscription_meets_is_told() {
    run(|scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let (sql, other) = (server.connect().await?, server.connect().await?);
        for round in 0..60 {
            sql.run("CREATE TABLE r (n bigint)").await?;
            let subscribe = "COPY (SUBSCRIBE TO r WITH (SNAPSHOT = false)) TO STDOUT";
            let follows = sql.client().copy_out(subscribe);
            let ends = other.run("DROP TABLE r");
            let (followed, ended) = tokio::join!(follows, ends);
            ended?;
            let failure = match followed {
                Err(e) => Some(e),
                Ok(stream) => {
                    let told = async { Box::pin(stream).next().await };
                    let told = tokio::time::timeout(DEADLINE, told).await;
                    told.with_context(|| format!("{round}: the end"))?
                        .and_then(Result::err)
                }
            };
            let code = failure.map(|e| SqlFailure::from(e).sqlstate);
            let codes = ["42P01", "40001", "55000"];
            ensure!(
                code.as_deref().is_some_and(|code| codes.contains(&code)),
                "{round}: {code:?}"
            );
        }
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

/// A group's new value may look like its old one, or like that of another group, also one that another worker has.
#[test]
fn changes_of_an_epoch_are_added_up_per_row() {
    run(|scratch| async move {
        for workers in [1, 2] {
            let data = scratch.sub(&workers.to_string()).data();
            let server = Server::start(&data, &Options::workers(workers))?;
            let sql = server.connect().await?;
            sql.run("CREATE TABLE t (id int PRIMARY KEY, g int, v int)")
                .await?;
            sql.run("INSERT INTO t SELECT i, i % 10, i FROM generate_series(1, 100) i")
                .await?;
            sql.run("CREATE MATERIALIZED VIEW same AS SELECT g, variance(v) AS a, sum(v) > 0 AS b FROM t GROUP BY g")
                .await?;
            sql.run("CREATE MATERIALIZED VIEW others AS SELECT count(*) AS n FROM t GROUP BY g")
                .await?;
            sql.run(
                "CREATE MATERIALIZED VIEW joined AS SELECT a.v FROM t a JOIN t b ON a.id = b.id",
            )
            .await?;
            // In the epoch in which a count goes from 3 to 5 each row that goes comes back, perhaps from another worker.
            sql.run("CREATE TABLE s (s text); CREATE TABLE k (n int); INSERT INTO s VALUES ('A'), ('A'), ('A'); INSERT INTO k VALUES (3), (5)")
                .await?;
            sql.run("CREATE MATERIALIZED VIEW back AS SELECT q.s FROM (SELECT s, count(*) AS c FROM s GROUP BY s) q JOIN k ON n = c")
                .await?;
            let mut open = vec![];
            for view in ["same", "others", "joined", "back"] {
                open.push((view, Subscription::open(&sql, view).await?, 0));
            }
            for change in [
                "INSERT INTO s VALUES ('A'), ('A')",
                "UPDATE t SET v = v + 1",
                "UPDATE t SET v = v - 1, g = (g + 1) % 10 WHERE g < 5",
                "UPDATE t SET id = id + 1000, v = v + 100",
            ] {
                for (view, subscription, before) in &mut open {
                    let now = sql.lines(&format!("SELECT * FROM {view}")).await?;
                    let now = Multiset::of_lines(now);
                    subscription.until("all rows", |s| s.sum == now).await?;
                    *before = subscription.changes.len();
                }
                sql.run(change).await?;
            }
            for (view, subscription, before) in &mut open {
                let now = sql.lines(&format!("SELECT * FROM {view}")).await?;
                let now = Multiset::of_lines(now);
                let end = sql.number("SELECT max(upper) FROM tidemill.views").await?;
                subscription
                    .until("all rows", |s| s.sum == now && s.frontier >= end)
                    .await?;
                let moved = subscription.changes.len() - *before;
                ensure!(*view == "joined" || moved == 0, "{view}: {moved} changes");
            }
        }
        Ok(())
    });
}

/// FETCH gives the rows of good epochs before the error that ends them, and the error whenever there is nothing else.
#[test]
fn a_cursor_gives_its_rows_before_its_error() {
    run(|scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        sql.run("CREATE TABLE t (a int)").await?;
        sql.run("CREATE MATERIALIZED VIEW m AS SELECT 10 / a AS x FROM t")
            .await?;
        for _ in 0..2 {
            sql.run("DECLARE c CURSOR WITH HOLD FOR SUBSCRIBE m WITH (SNAPSHOT = false)")
                .await?;
            for n in [1, 2, 0] {
                sql.run(&format!("INSERT INTO t VALUES ({n})")).await?;
            }
            let fetch = "FETCH 10 c WITH (timeout = '10s')";
            let rows = sql.rows(fetch).await?;
            let given: Vec<_> = rows.iter().filter_map(|row| row[2].as_deref()).collect();
            ensure!(given == ["10", "5"], "{given:?}");
            for _ in 0..3 {
                sql.fails("22012", fetch).await?;
            }
            sql.fails("22012", "MOVE 1 c").await?;
            sql.run("CLOSE c").await?;
            sql.run("DELETE FROM t").await?;
        }
        // A query's rows before its error are worth nothing.
        sql.run(
            "DECLARE q CURSOR WITH HOLD FOR SELECT 1 / (g - 3) FROM generate_series(1, 9) AS g",
        )
        .await?;
        for _ in 0..2 {
            sql.fails("22012", "FETCH 2 q").await?;
        }
        Ok(())
    });
}

#[test]
fn who_resumes_gets_what_merges_have_replaced() {
    run(|scratch| async move {
        let mut server = Server::start(&scratch.data(), &Options::workers(1))?;
        let sql = server.connect().await?;
        sql.run("CREATE TABLE t (id bigint PRIMARY KEY, x bigint, s text)")
            .await?;
        sql.run("INSERT INTO t SELECT g, 0, md5(g::text) FROM generate_series(1, 2000) AS s (g)")
            .await?;
        sql.run("CREATE MATERIALIZED VIEW m WITH (retain_history = '1 hour') AS SELECT id, x, s FROM t WHERE x >= 0")
            .await?;
        let time = "SELECT last_time FROM tidemill.commits";
        let first = sql.number(time).await?;
        // Changes of so many rows that merges keep what they read, then smaller ones, whose history is put aside.
        let changed = [vec![2000; 17], vec![250; 80], vec![2000; 17], vec![250; 40]].concat();
        for (i, rows) in changed.iter().enumerate() {
            sql.run(&format!(
                "UPDATE t SET x = {i} + 1, s = md5((id + {i})::text) WHERE id <= {rows}"
            ))
            .await?;
        }
        let upper = sql.number(time).await? + 1;
        for restarted in [false, true] {
            if restarted {
                server.restart(&Options::workers(2))?;
            }
            let sql = server.connect().await?;
            let subscribe =
                format!("SUBSCRIBE TO m WITH (SNAPSHOT = false) AS OF {first} UP TO {upper}");
            let mut subscription = Subscription::with(&sql, &subscribe).await?;
            let mut of_time = std::collections::BTreeMap::new();
            while let Some(event) = subscription.next().await? {
                if let Event::Change(change) = event {
                    *of_time.entry(change.time).or_insert(0) += 1;
                }
            }
            let came: Vec<usize> = of_time.into_values().collect();
            let want: Vec<usize> = changed.iter().map(|rows| 2 * rows).collect();
            ensure!(came == want, "{came:?}\nnot {want:?}");
        }
        Ok(())
    });
}
