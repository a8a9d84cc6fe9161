//! What a cancelled statement says is what happened: a change is made and acknowledged, or refused and not made.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use rand::Rng;
use tidemill_tests::seed::Seed;
use tidemill_tests::{Options, Server, Sql, run};
use tokio_postgres::NoTls;

/// Statements of each kind at least that are cancelled in time, and that aren't.
const OF_EACH: usize = 15;
/// Within which a cancel request follows its statement, in µs: an INSERT takes about as long.
const AFTER_US: u64 = 4_000;

/// Runs one statement after another, each with a cancel request at some time, until enough were cancelled and enough weren't.
/// Gives the numbers of those that were acknowledged.
async fn acknowledged(
    sql: &Sql,
    rng: &mut impl Rng,
    statement: impl Fn(usize) -> String,
) -> Result<BTreeSet<usize>> {
    let token = sql.client().cancel_token();
    let (mut done, mut cancelled) = (BTreeSet::new(), 0);
    for n in 0.. {
        if done.len() >= OF_EACH && cancelled >= OF_EACH {
            break;
        }
        let (token, after) = (token.clone(), rng.random_range(0..AFTER_US));
        let cancel = async move {
            tokio::time::sleep(Duration::from_micros(after)).await;
            token.cancel_query(NoTls).await
        };
        let text = statement(n);
        let (result, sent) = tokio::join!(sql.try_rows(&text), cancel);
        sent?;
        match result {
            Ok(_) => done.extend([n]),
            Err(e) => {
                ensure!(e.sqlstate == "57014", "{text}: {e}");
                cancelled += 1;
            }
        }
    }
    Ok(done)
}

/// Writes without end, so that what else is to be written waits for its turn and can be cancelled.
async fn writes(port: u16) -> Result<tokio::task::JoinHandle<Result<()>>> {
    let sql = Sql::connect(port).await?;
    sql.run("CREATE TABLE busy (n bigint)").await?;
    Ok(tokio::spawn(async move {
        loop {
            sql.run("INSERT INTO busy VALUES (1)").await?;
        }
    }))
}

async fn numbers(sql: &Sql, query: &str) -> Result<BTreeSet<usize>> {
    let rows = sql.rows(query).await?;
    let numbers = rows.iter().flatten().flatten();
    Ok(numbers.map(|n| n.parse()).collect::<Result<_, _>>()?)
}

#[test]
fn what_a_cancel_says_is_what_happened() {
    run(|scratch| async move {
        let seed = Seed::new("cancels");
        let mut rng = seed.rng(0);
        let server = Server::start(&scratch.data(), &Options::default())?;
        let other = server.connect().await?;
        other.run("CREATE TABLE t (n bigint)").await?;
        let busy = writes(server.port()).await?;

        // A session each: the last cancel request may come after all is done.
        let sql = server.connect().await?;
        let done = acknowledged(&sql, &mut rng, |n| format!("INSERT INTO t VALUES ({n})")).await?;
        ensure!(numbers(&other, "SELECT n FROM t").await? == done);

        other.run("DELETE FROM t").await?;
        let sql = server.connect().await?;
        let blocks = |n| format!("ROLLBACK; BEGIN; INSERT INTO t VALUES ({n}); COMMIT");
        let done = acknowledged(&sql, &mut rng, blocks).await?;
        ensure!(numbers(&other, "SELECT n FROM t").await? == done);

        let sql = server.connect().await?;
        let done = acknowledged(&sql, &mut rng, |n| format!("CREATE TABLE t{n} ()")).await?;
        let tables = "SELECT substr(relname, 2)::int FROM pg_class WHERE relname ~ '^t[0-9]+$'";
        ensure!(numbers(&other, tables).await? == done);

        let sql = server.connect().await?;
        let views = |n| format!("CREATE MATERIALIZED VIEW v{n} AS SELECT count(*) FROM t");
        let done = acknowledged(&sql, &mut rng, views).await?;
        let built = "SELECT substr(relname, 2)::int FROM pg_class WHERE relname ~ '^v[0-9]+$'";
        ensure!(numbers(&other, built).await? == done);
        ensure!(!busy.is_finished(), "{:?}", busy.await?);
        Ok(())
    });
}

/// IN as a value over a query over such a query, which makes plans of many thousand nodes.
fn planned_for_minutes() -> String {
    let mut sql = "WITH c0 (h, b) AS (SELECT h, b FROM t)".to_string();
    for n in 1..=7 {
        let part = |b: i32| format!("(h IN (SELECT h FROM c{} WHERE b = {b}))::int", n - 1);
        let (one, two, below) = (part(1), part(2), n - 1);
        sql += &format!(", c{n} (h, b) AS (SELECT h, {one} + {two} FROM c{below})");
    }
    sql + " SELECT count(*) FROM c7"
}

#[test]
fn planning_holds_up_nobody_and_can_be_cancelled() {
    run(|scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let other = server.connect().await?;
        other.run("CREATE TABLE t (h int, b int)").await?;
        let query = planned_for_minutes();
        let statements = [
            query.clone(),
            format!("EXPLAIN {query}"),
            format!("INSERT INTO t (b) {query}"),
            format!("CREATE MATERIALIZED VIEW v AS {query}"),
            format!("CREATE TABLE u AS {query}"),
            query.clone(),
        ];
        let mut planned = vec![];
        for statement in statements {
            let sql = server.connect().await?;
            let token = sql.client().cancel_token();
            let task = tokio::spawn(async move { sql.try_rows(&statement).await.map(drop) });
            planned.push((token, task));
        }
        for n in 0..20 {
            other.run(&format!("INSERT INTO t VALUES ({n})")).await?;
        }
        ensure!(
            numbers(&other, "SELECT count(*) FROM t")
                .await?
                .contains(&20)
        );
        for (token, task) in planned {
            ensure!(!task.is_finished(), "it was planned quickly");
            token.cancel_query(NoTls).await?;
            let e = task.await?.expect_err("cancelled");
            ensure!(e.sqlstate == "57014", "{e}");
        }
        Ok(())
    });
}

/// Time runs out in the same places.
#[test]
fn what_a_timeout_says_is_what_happened() {
    run(|scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let (sql, other) = (server.connect().await?, server.connect().await?);
        sql.run("CREATE TABLE t (n bigint)").await?;
        let busy = writes(server.port()).await?;
        sql.run("SET statement_timeout = '1ms'").await?;
        let (mut done, mut late) = (BTreeSet::new(), 0);
        for n in 0.. {
            if done.len() >= OF_EACH && late >= OF_EACH {
                break;
            }
            match sql.try_rows(&format!("INSERT INTO t VALUES ({n})")).await {
                Ok(_) => done.extend([n]),
                Err(e) => {
                    ensure!(e.sqlstate == "57014", "{e}");
                    late += 1;
                }
            }
        }
        ensure!(numbers(&other, "SELECT n FROM t").await? == done);
        ensure!(!busy.is_finished(), "{:?}", busy.await?);
        Ok(())
    });
}

/// And sessions that others end: an error says that nothing was written.
#[test]
fn what_the_end_of_a_session_says_is_what_happened() {
    run(|scratch| async move {
        let seed = Seed::new("terminations");
        let mut rng = seed.rng(0);
        let server = Server::start(&scratch.data(), &Options::default())?;
        let other = server.connect().await?;
        other.run("CREATE TABLE t (n bigint)").await?;
        let busy = writes(server.port()).await?;
        let (mut done, mut ended) = (BTreeSet::new(), 0);
        for n in 0.. {
            if done.len() >= OF_EACH && ended >= OF_EACH {
                break;
            }
            let sql = server.connect().await?;
            let pid = sql.number("SELECT pg_backend_pid()").await?;
            let after = rng.random_range(0..AFTER_US);
            let other = &other;
            let end = async move {
                tokio::time::sleep(Duration::from_micros(after)).await;
                let end = format!("SELECT pg_terminate_backend({pid})");
                other.run(&end).await
            };
            let insert = format!("INSERT INTO t SELECT {n} FROM generate_series(1, 3000)");
            let (result, sent) = tokio::join!(sql.try_rows(&insert), end);
            sent?;
            match result {
                Ok(_) => done.extend([n]),
                Err(_) => ended += 1,
            }
        }
        ensure!(numbers(&other, "SELECT DISTINCT n FROM t").await? == done);
        ensure!(!busy.is_finished(), "{:?}", busy.await?);
        Ok(())
    });
}
