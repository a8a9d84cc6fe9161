//! Queries that compute for ever disturb nobody, and end when they are cancelled or their client goes away; those that need
//! too much memory fail alone.

use std::process::Stdio;

use anyhow::{Context, ensure};
use futures::TryStreamExt;
use tidemill_tests::client::psql_command;
use tidemill_tests::load::{quiet, uses_cpu};
use tidemill_tests::{Options, Server, Sql, eventually, run};
use tokio_postgres::{NoTls, SimpleQueryMessage};

/// A million million pairs: hours of work before the first row.
const ENDLESS: &str = "SELECT count(*) FROM generate_series(1, 1000000) AS a (x), generate_series(1, 1000000) AS b (y) WHERE x + y < 0";

/// More than the server has threads for its network.
const QUERIES: usize = 4;

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

/// A join gives no batch, and so no chance to stop, for pairs that its condition leaves out, nor do windows for the rows of a frame.
#[test]
fn what_finds_nothing_ends_when_its_time_is_over() {
    run(|scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        sql.run("CREATE TABLE t (k int, x int)").await?;
        sql.run("INSERT INTO t SELECT 1, 0 FROM generate_series(1, 300000)")
            .await?;
        sql.run("SET statement_timeout = '300ms'").await?;
        let frame = "rows between 100000 preceding and 100000 following exclude current row";
        let queries = [
            "SELECT count(*) FROM t a JOIN t b ON a.k = b.k AND a.x + b.x < 0".into(),
            "SELECT count(*) FROM t a JOIN t b ON a.x + b.x < 0".into(),
            "SELECT count(*) FROM t a JOIN t b ON a.x <= b.x AND a.k <> b.k".into(),
            "SELECT count(*) FROM t a JOIN t b ON a.k = b.k AND a.x <= b.x AND a.x <> b.x".into(),
            "SELECT count(*) FROM t a WHERE NOT EXISTS (SELECT FROM t b WHERE a.x <= b.x AND a.k <> b.k)".into(),
            "SELECT count(*) FROM t a LEFT JOIN t b ON a.k = b.k AND a.x + b.x < 0".into(),
            "SELECT count(*) FROM t a FULL JOIN t b ON a.k = b.k AND a.x + b.x < 0".into(),
            "SELECT count(*) FROM t a WHERE EXISTS (SELECT FROM t b WHERE a.k = b.k AND a.x + b.x < 0)"
                .into(),
            format!("SELECT max(m) FROM (SELECT max(x) OVER (ORDER BY x {frame}) AS m FROM t) q"),
        ];
        for query in &queries {
            sql.fails("57014", query).await?;
            quiet(&server).await.with_context(|| query.clone())?;
        }
        Ok(())
    })
}

#[test]
fn fetch_all_holds_few_rows_at_once() {
    run(|scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        sql.run("BEGIN; DECLARE c CURSOR FOR SELECT repeat('x', 1000) || g AS x FROM generate_series(1, 400000) AS g")
            .await?;
        ensure!(sql.rows("FETCH 3 FROM c").await?.len() == 3);
        let before = peak_mb(&server)?;
        let fetched = sql.client().simple_query_raw("FETCH ALL FROM c").await?;
        let mut fetched = std::pin::pin!(fetched);
        let mut rows = 0;
        while let Some(message) = fetched.try_next().await? {
            if let SimpleQueryMessage::Row(row) = message {
                rows += usize::from(row.get(0).is_some_and(|x| x.len() > 1000));
            }
        }
        ensure!(rows == 399_997, "{rows}");
        let more = peak_mb(&server)? - before;
        ensure!(more < 150, "{more} MB more for 400 MB of rows");
        ensure!(sql.rows("FETCH 3 FROM c").await?.is_empty());
        Ok(())
    });
}

/// Binding never waits: on the threads that serve the network it would hold up everybody.
#[test]
fn statements_that_take_long_to_bind_disturb_nobody() {
    run(|scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        let long = format!("SELECT {}", vec!["abs(-1)"; 30_000].join(", "));
        let mut preparing = Vec::new();
        for _ in 0..std::thread::available_parallelism()?.get() + 2 {
            let (other, long) = (Sql::connect(server.port()).await?, long.clone());
            preparing.push(tokio::spawn(async move {
                other.client().prepare(&long).await.map(drop)
            }));
        }
        for _ in 0..100 {
            sql.run("SELECT 1").await?;
        }
        ensure!(
            preparing.iter().all(|p| !p.is_finished()),
            "a long statement was faster, or was waited for"
        );
        for prepared in preparing {
            prepared.await??;
        }
        Ok(())
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
        uses_cpu(&server, "the query computes", |cores| cores > 0.2).await?;
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
fn the_nearest_rows_take_no_more_memory_than_the_rows_themselves() {
    run(|scratch| async move {
        let options = Options {
            args: vec!["--query-memory".into(), "10000000".into()],
            ..Options::default()
        };
        let server = Server::start(&scratch.data(), &options)?;
        let sql = server.connect().await?;
        sql.run("CREATE TABLE e (id int PRIMARY KEY, k int, at int)")
            .await?;
        sql.run("INSERT INTO e SELECT n, n % 4, n * 7919 % 20011 FROM generate_series(1, 20000) AS s (n)")
            .await?;
        // All pairs are 200 million, or a quarter of them.
        let all = sql
            .number(
                "SELECT sum((SELECT n.at FROM e AS n WHERE n.at > e.at ORDER BY n.at LIMIT 1) - at) FROM e",
            )
            .await?;
        let ends = "SELECT max(at) - min(at) FROM e";
        ensure!(all == sql.number(ends).await?, "each row's next one");
        let of_its_kind = sql
            .number(
                "SELECT sum(e.at - p.at) FROM e, LATERAL (SELECT at FROM e AS p WHERE p.k = e.k AND p.at < e.at ORDER BY at DESC LIMIT 1) AS p",
            )
            .await?;
        let ends = format!("SELECT sum(x)::bigint FROM ({ends} GROUP BY k) AS s (x)");
        ensure!(
            of_its_kind == sql.number(&ends).await?,
            "the one before it of its kind"
        );
        Ok(())
    })
}

/// The side that doesn't fit passes by, and loses nothing; what doesn't fit below it is an error.
#[test]
fn a_join_by_a_range_needs_memory_for_one_side_only() {
    run(|scratch| async move {
        let options = Options {
            args: vec!["--query-memory".into(), "16000000".into()],
            ..Options::default()
        };
        let server = Server::start(&scratch.data(), &options)?;
        let sql = server.connect().await?;
        sql.run("CREATE TABLE l (id int, a int, k int, pad text)")
            .await?;
        sql.run("CREATE TABLE p (id int, lo int, k int)").await?;
        sql.run(
            "INSERT INTO l SELECT n, n, n % 10, repeat('x', 300) FROM generate_series(1, 200000) AS s (n)",
        )
        .await?;
        sql.run(
            "INSERT INTO p SELECT n, n * 2, n * 2 % 10 FROM generate_series(1, 20000) AS s (n)",
        )
        .await?;
        let on = "ON l.a >= p.lo AND l.a < p.lo + 1";
        let count = async |from: &str| sql.number(&format!("SELECT count(*) FROM {from}")).await;
        ensure!(count(&format!("l JOIN p {on} AND l.pad <> ''")).await? == 20_000);
        ensure!(count(&format!("l LEFT JOIN p {on} AND l.pad <> ''")).await? == 200_000);
        ensure!(count(&format!("p LEFT JOIN l {on} AND l.pad <> ''")).await? == 20_000);
        // Nor does one among rows with equal columns, though it reads some of the other side to see whether it is worth it.
        let of_key = format!("{on} AND l.k = p.k AND l.pad <> ''");
        ensure!(count(&format!("p JOIN l {of_key}")).await? == 20_000);
        ensure!(count(&format!("l LEFT JOIN p {of_key}")).await? == 200_000);
        let has_match = format!("EXISTS (SELECT FROM p WHERE {})", &of_key[3..]);
        ensure!(count(&format!("l WHERE {has_match}")).await? == 20_000);
        let below = format!(
            "SELECT count(*) FROM p JOIN (SELECT DISTINCT a, pad FROM l) AS l {on} AND l.pad <> ''"
        );
        sql.fails("53200", &below).await?;
        Ok(())
    })
}

/// The batches of an aggregate are slices of the same memory, which is held once.
#[test]
fn rows_that_are_kept_for_several_places_count_once() {
    run(|scratch| async move {
        let options = Options {
            args: vec!["--query-memory".into(), "64000000".into()],
            ..Options::default()
        };
        let server = Server::start(&scratch.data(), &options)?;
        let sql = server.connect().await?;
        let drawn = "WITH s AS (SELECT n, max(random()) AS r FROM generate_series(1, 200000) AS g (n) GROUP BY n) \
                     SELECT count(*) FROM s a JOIN s b ON a.n = b.n AND a.r = b.r";
        ensure!(sql.number(drawn).await? == 200_000);
        let too_many = drawn.replace("200000", "4000000");
        sql.fails("53200", &too_many).await?;
        ensure!(
            sql.number(drawn).await? == 200_000,
            "the memory is free again"
        );
        Ok(())
    })
}

#[test]
fn long_texts_of_many_rows_are_refused_before_they_take_all_memory() {
    run(|scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        let select = |bytes: usize, rows: usize| {
            format!(
                "SELECT sum(length(repeat('x', {bytes} + n)))::bigint FROM generate_series(1, {rows}) AS g (n)"
            )
        };
        let failure = sql.fails("53200", &select(10_000_000, 8000)).await?;
        ensure!(failure.hint.is_some(), "{failure}");
        ensure!(peak_mb(&server)? < 3000, "{} MB", peak_mb(&server)?);
        // Rows that are computed apart don't add up.
        ensure!(sql.number(&select(30_000, 100_000)).await? == 8_000_050_000);
        Ok(())
    });
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

/// Most memory that a server may have taken so far, in MB.
fn peak_mb(server: &Server) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid()))?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kb = line.and_then(|l| l.trim().strip_suffix(" kB"));
    Ok(kb.map_or(Ok(0), str::parse::<u64>)? / 1024)
}

#[test]
fn few_rows_that_stand_for_very_many_take_little_memory() {
    run(|scratch| async move {
        let server = Server::start(&scratch.data(), &Options::workers(1))?;
        let sql = server.connect().await?;
        sql.run("CREATE TABLE t (n bigint)").await?;
        sql.run("INSERT INTO t SELECT 200000 FROM generate_series(1, 800) AS g")
            .await?;
        for (i, from) in [
            "t, generate_series(1, t.n) AS s (g)",
            "t, generate_series(1, 200000) AS s (g)",
        ]
        .into_iter()
        .enumerate()
        {
            let select = format!("SELECT count(*) AS n, sum(g) AS s FROM {from}");
            let want = ["160000000|16000080000000"];
            ensure!(sql.lines(&select).await? == want, "{select}");
            sql.run(&format!("CREATE MATERIALIZED VIEW m{i} AS {select}"))
                .await?;
            ensure!(sql.lines(&format!("SELECT * FROM m{i}")).await? == want);
        }
        let peak = peak_mb(&server)?;
        ensure!(peak < 700, "{peak} MB");
        Ok(())
    });
}
