//! Unique columns and numbered rows under concurrent writers and kills: no key has two rows, no number is given to two rows, and
//! what is acknowledged is there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};

use anyhow::{Result, bail, ensure};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use tidemill_tests::client::{psql, psql_command};
use tidemill_tests::seed::rounds;
use tidemill_tests::{Options, Scratch, Seed, Server, Sql, eventually, run};

/// What may happen to a statement of a writer.
const REFUSED: [&str; 3] = ["23505", "40001", "21000"];

/// What the writers share.
struct Load {
    stop: AtomicBool,
    port: AtomicU16,
    done: AtomicUsize,
}

/// Numbers of rows that were acknowledged, each once or the test fails.
type Acknowledged = BTreeSet<i64>;

fn statement(rng: &mut ChaCha8Rng) -> String {
    let (a, b) = (rng.random_range(0..60), rng.random_range(0..60));
    let b = match b {
        0 => "NULL".to_string(),
        b => format!("'a long common beginning {b}'"),
    };
    let values = format!("INSERT INTO t (a, b) VALUES ({a}, {b})");
    match rng.random_range(0..7) {
        0 => format!("{values} ON CONFLICT DO NOTHING RETURNING id"),
        1 => format!("{values} ON CONFLICT (a) DO UPDATE SET n = t.n + 1 RETURNING 0"),
        2 => format!("DELETE FROM t WHERE a = {a} RETURNING 0"),
        3 => format!("UPDATE t SET a = 60 - a WHERE a IN ({a}, 60 - {a}) RETURNING 0"),
        4 => format!("UPDATE t SET b = {b} WHERE a = {a} RETURNING 0"),
        _ => format!("{values} RETURNING id"),
    }
}

/// One transaction; gives the numbers of its new rows if it was acknowledged.
async fn transact(sql: &Sql, rng: &mut ChaCha8Rng) -> Result<Option<Vec<i64>>> {
    let count = rng.random_range(1..4);
    let mut statements: Vec<String> = (0..count).map(|_| statement(rng)).collect();
    if count > 1 {
        statements.insert(0, "BEGIN".into());
        statements.push("COMMIT".into());
    }
    let mut ids = vec![];
    for statement in &statements {
        match sql.try_rows(statement).await {
            Ok(rows) => {
                let numbers = rows
                    .iter()
                    .filter_map(|r| r[0].as_ref()?.parse::<i64>().ok());
                ids.extend(numbers.filter(|n| *n > 0));
            }
            Err(e) if e.sqlstate.is_empty() || e.sqlstate.starts_with("57") => {
                bail!("the server is gone")
            }
            Err(e) => {
                assert!(REFUSED.contains(&e.sqlstate.as_str()), "{statement}: {e}");
                if count > 1 {
                    sql.run("ROLLBACK").await?;
                }
                return Ok(None);
            }
        }
    }
    Ok(Some(ids))
}

async fn write(load: Arc<Load>, mut rng: ChaCha8Rng) -> Vec<i64> {
    let mut acknowledged = vec![];
    while !load.stop.load(Ordering::Acquire) {
        let Ok(sql) = Sql::connect(load.port.load(Ordering::Acquire)).await else {
            tokio::task::yield_now().await;
            continue;
        };
        while !load.stop.load(Ordering::Acquire) {
            match transact(&sql, &mut rng).await {
                Ok(ids) => acknowledged.extend(ids.into_iter().flatten()),
                Err(_) => break,
            }
            load.done.fetch_add(1, Ordering::AcqRel);
        }
    }
    acknowledged
}

/// No key twice, in the rows and in the indexes, which hold the same rows.
async fn check(sql: &Sql) -> Result<()> {
    // At one version: the writers go on.
    sql.run("BEGIN").await?;
    let rows = sql.rows("SELECT id, a, b FROM t").await?;
    for column in 0..3 {
        let values: Vec<&String> = rows.iter().filter_map(|r| r[column].as_ref()).collect();
        let distinct: BTreeSet<&String> = values.iter().copied().collect();
        ensure!(
            values.len() == distinct.len(),
            "column {column} has a value twice: {rows:?}"
        );
    }
    let mut by_index = BTreeMap::new();
    for a in 0..=60 {
        for row in sql
            .rows(&format!("SELECT id, a, b FROM t WHERE a = {a}"))
            .await?
        {
            by_index.insert(row[0].clone(), row);
        }
    }
    sql.run("COMMIT").await?;
    let all: BTreeMap<_, _> = rows.into_iter().map(|r| (r[0].clone(), r)).collect();
    ensure!(all == by_index, "the index differs: {all:?} {by_index:?}");
    Ok(())
}

#[test]
fn no_key_and_no_number_twice_through_kills() {
    run(|scratch: Scratch| async move {
        let seed = Seed::new("unique");
        let mut server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        sql.run("CREATE TABLE t (id bigserial PRIMARY KEY, a integer UNIQUE, b text UNIQUE, n integer DEFAULT 0)")
            .await?;
        let load = Arc::new(Load {
            stop: AtomicBool::new(false),
            port: AtomicU16::new(server.port()),
            done: AtomicUsize::new(0),
        });
        let writers: Vec<_> = (0..4)
            .map(|i| tokio::spawn(write(load.clone(), seed.rng(i))))
            .collect();
        let mut rng = seed.rng(100);
        for _ in 0..rounds(4) {
            let until = load.done.load(Ordering::Acquire) + rng.random_range(300..900);
            eventually("transactions", async || {
                Ok((load.done.load(Ordering::Acquire) >= until).then_some(()))
            })
            .await?;
            server.restart(&Options::workers(rng.random_range(1..3)))?;
            load.port.store(server.port(), Ordering::Release);
            check(&server.connect().await?).await?;
        }
        load.stop.store(true, Ordering::Release);
        let mut acknowledged = Acknowledged::new();
        for writer in writers {
            for id in writer.await? {
                ensure!(acknowledged.insert(id), "number {id} was given twice");
            }
        }
        ensure!(
            acknowledged.len() > 50,
            "{} rows were inserted",
            acknowledged.len()
        );
        let sql = server.connect().await?;
        check(&sql).await?;
        let next = sql
            .number("INSERT INTO t (a) VALUES (1000) RETURNING id")
            .await?;
        ensure!(
            acknowledged.last().is_some_and(|last| *last < next),
            "number {next} comes after {:?}",
            acknowledged.last()
        );
        Ok(())
    });
}

#[test]
fn an_index_is_unique_from_its_first_moment() {
    run(|scratch: Scratch| async move {
        let seed = Seed::new("unique_index");
        let mut rng = seed.rng(0);
        let mut server = Server::start(&scratch.data(), &Options::default())?;
        let mut sql = server.connect().await?;
        let mut made = 0;
        for round in 0..rounds(12) {
            let table = format!("t{round}");
            sql.run(&format!("CREATE TABLE {table} (k text, v integer)"))
                .await?;
            sql.run(&format!(
                "INSERT INTO {table} SELECT 'a long common beginning ' || g, g FROM generate_series(1, 3000) AS g"
            ))
            .await?;
            // Odd rounds may write a key again while the index is built.
            let most = if round % 2 == 0 {
                1_000_000_000
            } else {
                30_000
            };
            let stop = Arc::new(AtomicBool::new(false));
            let (writer, mut numbers) = (sql.another().await?, seed.rng(1 + round as u64));
            let (stopped, into) = (stop.clone(), table.clone());
            let writing = tokio::spawn(async move {
                while !stopped.load(Ordering::Acquire) {
                    let k = numbers.random_range(3001..most);
                    let insert =
                        format!("INSERT INTO {into} VALUES ('a long common beginning {k}', 0)");
                    if let Err(e) = writer.try_rows(&insert).await {
                        assert_eq!(e.sqlstate, "23505", "{e}");
                    }
                }
            });
            let created = sql
                .try_rows(&format!("CREATE UNIQUE INDEX {table}_k ON {table} (k)"))
                .await;
            stop.store(true, Ordering::Release);
            writing.await?;
            if rng.random_bool(0.3) {
                server.restart(&Options::default())?;
            }
            sql = server.connect().await?;
            let twice = sql
                .number(&format!("SELECT count(*) - count(DISTINCT k) FROM {table}"))
                .await?;
            match created {
                Ok(_) => {
                    made += 1;
                    ensure!(
                        twice == 0,
                        "{table} has {twice} duplicates under a unique index"
                    );
                    let again =
                        format!("INSERT INTO {table} VALUES ('a long common beginning 7', 0)");
                    sql.fails("23505", &again).await?;
                }
                Err(e) => {
                    ensure!(e.sqlstate == "23505", "{e}");
                    ensure!(twice > 0, "{table} has no duplicates: {e}");
                }
            }
        }
        ensure!(made > 0, "no index was made");
        Ok(())
    });
}

#[test]
fn of_two_transactions_with_a_key_one_fails() {
    run(|scratch: Scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let (one, two) = (server.connect().await?, server.connect().await?);
        one.run(
            "CREATE TABLE t (a integer UNIQUE, b integer); INSERT INTO t VALUES (1, 1), (2, 2)",
        )
        .await?;
        for sql in [&one, &two] {
            sql.run("BEGIN").await?;
            sql.run("INSERT INTO t VALUES (5, 5)").await?;
        }
        one.run("COMMIT").await?;
        let e = two.fails("23505", "COMMIT").await?;
        ensure!(
            e.message == "duplicate key value violates unique constraint \"t_a_key\"",
            "{e}"
        );
        ensure!(
            e.detail.as_deref() == Some("Key (a)=(5) already exists."),
            "{e}"
        );

        // What was passed over because of a row must still be there at COMMIT; other rows don't matter.
        for (deleted, state) in [(2, None), (1, Some("40001"))] {
            one.run("BEGIN; INSERT INTO t VALUES (1, 0) ON CONFLICT (a) DO NOTHING; INSERT INTO t VALUES (NULL, 7)")
                .await?;
            two.run(&format!("DELETE FROM t WHERE a = {deleted}"))
                .await?;
            match state {
                None => one.run("COMMIT").await?,
                Some(state) => drop(one.fails(state, "COMMIT").await?),
            }
        }
        Ok(())
    });
}

#[test]
fn numbers_from_before_they_began_anew_are_refused() {
    run(|scratch: Scratch| async move {
        let mut server = Server::start(&scratch.data(), &Options::default())?;
        let (one, two) = (server.connect().await?, server.connect().await?);
        one.run(
            "CREATE TABLE t (id serial PRIMARY KEY, b integer); INSERT INTO t (b) VALUES (1), (2)",
        )
        .await?;
        one.run("BEGIN; INSERT INTO t (b) VALUES (3)").await?;
        two.run("TRUNCATE t RESTART IDENTITY").await?;
        one.fails("40001", "COMMIT").await?;
        server.restart(&Options::default())?;
        let sql = server.connect().await?;
        let insert = "INSERT INTO t (b) VALUES (4) RETURNING id";
        ensure!(
            sql.number(insert).await? == 1,
            "the numbers didn't begin anew"
        );
        // So they do where there is no row to delete.
        sql.run("DELETE FROM t").await?;
        sql.run("TRUNCATE t RESTART IDENTITY").await?;
        server.kill();
        server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        ensure!(
            sql.number(insert).await? == 1,
            "the numbers didn't begin anew after a kill"
        );
        Ok(())
    });
}

#[test]
fn copy_numbers_rows_and_obeys_keys() {
    run(|scratch: Scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        sql.run("CREATE TABLE t (id serial, a integer GENERATED ALWAYS AS IDENTITY (START 5), b text UNIQUE)")
            .await?;
        let copied = psql(
            server.port(),
            "COPY t (b) FROM STDIN;\nx\ny\n\\N\n\\.\nCOPY t FROM STDIN;\n9\t9\tz\n\\.\n",
        )?;
        ensure!(copied.status.success(), "{copied:?}");
        let again = psql(server.port(), "COPY t (b) FROM STDIN;\nw\nx\n\\.\n")?;
        let error = String::from_utf8(again.stderr)?;
        ensure!(
            error.contains("violates unique constraint \"t_b_key\""),
            "{error}"
        );
        let rows = sql.lines("SELECT * FROM t ORDER BY id").await?;
        ensure!(rows == ["1|5|x", "2|6|y", "3|7|NULL", "9|9|z"], "{rows:?}");
        Ok(())
    });
}

#[test]
fn psql_shows_constraints_and_numbers() {
    run(|scratch: Scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        sql.run("CREATE TABLE t (id serial, a integer GENERATED ALWAYS AS IDENTITY UNIQUE, b text, UNIQUE NULLS NOT DISTINCT (b, id)); \
                 CREATE UNIQUE INDEX by_b ON t (b)")
            .await?;
        let out = psql_command(server.port()).args(["-c", "\\d t"]).output()?;
        let text = String::from_utf8(out.stdout)?;
        for line in [
            "\"by_b\" UNIQUE, btree (b)",
            "\"t_a_key\" UNIQUE CONSTRAINT, btree (a)",
            "\"t_b_id_key\" UNIQUE CONSTRAINT, btree (b, id) NULLS NOT DISTINCT",
            "nextval('t_id_seq'::regclass)",
            "generated always as identity",
        ] {
            ensure!(text.contains(line), "{line} is missing:\n{text}");
        }
        Ok(())
    });
}
