//! ALTER TABLE under writers, subscriptions and kills: a table has its old columns or its new ones, views over it hold what their
//! queries say, and what is acknowledged is there.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};

use anyhow::{Result, bail, ensure};
use rand::Rng;
use tidemill_tests::changes::Subscription;
use tidemill_tests::seed::rounds;
use tidemill_tests::{DEADLINE, Options, Scratch, Seed, Server, Sql, eventually, run};

const SETUP: &str = "
    CREATE TABLE t (id integer PRIMARY KEY, a integer, b text UNIQUE, CHECK (a >= 0));
    CREATE TABLE u (a integer, name text);
    INSERT INTO u VALUES (0, 'zero'), (1, 'one'), (2, 'two'), (2, 'deux');
    CREATE INDEX t_a ON t (a);
    CREATE VIEW every AS SELECT * FROM t;
    CREATE MATERIALIZED VIEW groups AS SELECT a, count(*) AS n, max(b) AS b FROM t GROUP BY a;
    CREATE MATERIALIZED VIEW joined AS SELECT t.id, u.name FROM t JOIN u ON t.a = u.a;
    CREATE MATERIALIZED VIEW outer_join AS SELECT u.name, every.b FROM u LEFT JOIN every ON every.id = u.a;
    CREATE MATERIALIZED VIEW ranked AS SELECT a, b, row_number() OVER (PARTITION BY a ORDER BY id) AS r FROM every;
    CREATE MATERIALIZED VIEW starred AS SELECT * FROM t WHERE a < 5;
    CREATE MATERIALIZED VIEW above AS SELECT n, count(*) AS m FROM groups GROUP BY n;
    CREATE MATERIALIZED VIEW never AS SELECT id FROM t WHERE a NOT IN (SELECT a FROM u WHERE name = 'two')";

/// The views, and what they are by the table as it was made. Where it has been altered since, `a` and `b` stand for those columns.
const VIEWS: [(&str, &str); 8] = [
    ("every", "SELECT id, $a, $b FROM t"),
    ("groups", "SELECT $a, count(*), max($b) FROM t GROUP BY $a"),
    ("joined", "SELECT t.id, u.name FROM t JOIN u ON t.$a = u.a"),
    (
        "outer_join",
        "SELECT u.name, t.$b FROM u LEFT JOIN t ON t.id = u.a",
    ),
    (
        "ranked",
        "SELECT $a, $b, row_number() OVER (PARTITION BY $a ORDER BY id) FROM t",
    ),
    ("starred", "SELECT id, $a, $b FROM t WHERE $a < 5"),
    (
        "above",
        "SELECT n, count(*) FROM (SELECT count(*) AS n FROM t GROUP BY $a) AS g GROUP BY n",
    ),
    (
        "never",
        "SELECT id FROM t WHERE $a NOT IN (SELECT a FROM u WHERE name = 'two')",
    ),
];

/// The names of the columns of `t`.
async fn columns(sql: &Sql) -> Result<Vec<String>> {
    sql.lines("SELECT column_name FROM information_schema.columns WHERE table_name = 't' ORDER BY ordinal_position")
        .await
}

/// All views hold what their queries say of one version of the table, and the index and the keys find the same rows.
async fn check(sql: &Sql) -> Result<()> {
    for _ in 0..100 {
        let names = columns(sql).await?;
        let called = |name: &str| {
            let now = names.iter().find(|n| n.trim_end_matches('_') == name);
            now.cloned().unwrap_or_else(|| name.to_string())
        };
        let (a, b) = (called("a"), called("b"));
        sql.run("BEGIN").await?;
        let result = check_named(sql, (&a, &b)).await;
        sql.run("ROLLBACK").await?;
        if columns(sql).await? == names {
            return result;
        }
    }
    bail!("the columns never stay the same")
}

async fn check_named(sql: &Sql, (a, b): (&str, &str)) -> Result<()> {
    for (view, query) in VIEWS {
        let query = query.replace("$a", a).replace("$b", b);
        let differing = format!(
            "(SELECT * FROM {view} EXCEPT ALL {query}) UNION ALL ({query} EXCEPT ALL SELECT * FROM {view})"
        );
        let rows = sql.lines(&differing).await?;
        ensure!(rows.is_empty(), "{view} differs from {query}: {rows:?}");
    }
    let rows = sql.lines(&format!("SELECT id, {a}, {b} FROM t")).await?;
    for value in 0..4 {
        let found = sql
            .lines(&format!("SELECT id, {a}, {b} FROM t WHERE {a} = {value}"))
            .await?;
        let expected = rows
            .iter()
            .filter(|r| r.split('|').nth(1) == Some(&value.to_string()));
        let (found, expected): (BTreeSet<_>, BTreeSet<_>) =
            (found.iter().collect(), expected.collect());
        ensure!(found == expected, "by the index: {found:?}, {expected:?}");
    }
    for row in rows.iter().take(5) {
        let id = row.split('|').next().unwrap_or_default();
        let found = sql
            .lines(&format!("SELECT id, {a}, {b} FROM t WHERE id = {id}"))
            .await?;
        ensure!(found == [row.clone()], "by the key: {found:?}, {row}");
    }
    Ok(())
}

/// In the end the table is as it was.
const ALTERS: [&str; 12] = [
    "ALTER TABLE t ADD COLUMN c integer DEFAULT 7 NOT NULL, ADD COLUMN d text",
    "ALTER TABLE t RENAME COLUMN a TO a_",
    "ALTER TABLE t DROP COLUMN c",
    "ALTER TABLE t ALTER COLUMN d TYPE integer USING id * 2",
    "ALTER TABLE t DROP CONSTRAINT t_pkey",
    "ALTER TABLE t RENAME COLUMN b TO b_",
    "ALTER TABLE t ADD PRIMARY KEY (id), ADD COLUMN n serial",
    "ALTER TABLE t DROP CONSTRAINT t_b_key",
    "ALTER TABLE t ADD CONSTRAINT t_b_key UNIQUE (b_), ALTER COLUMN b_ SET NOT NULL",
    "ALTER TABLE t DROP COLUMN d, DROP COLUMN n, ALTER COLUMN b_ DROP NOT NULL",
    "ALTER TABLE t RENAME COLUMN a_ TO a",
    "ALTER TABLE t RENAME COLUMN b_ TO b",
];

#[test]
fn a_kill_leaves_the_old_columns_or_the_new_ones() {
    run(|scratch: Scratch| async move {
        let seed = Seed::new("alter");
        let mut rng = seed.rng(0);
        let mut server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        for statement in SETUP.split(';') {
            sql.run(statement).await?;
        }
        sql.run("INSERT INTO t SELECT g, g % 7, 'row ' || g FROM generate_series(1, 3000) AS g")
            .await?;
        check(&sql).await?;
        let points = [
            "while_altering",
            "segment_synced",
            "before_transaction",
            "after_transaction",
            "before_publish",
        ];
        let mut killed = 0;
        let mut next = 10_000;
        for (i, alter) in ALTERS.iter().cycle().take(rounds(24)).enumerate() {
            let point = points[rng.random_range(0..points.len())];
            server.restart(&Options::workers(rng.random_range(1..3)).fail_point(point, 1))?;
            let before = table(&server, &mut killed, alter).await?;
            // Twice in a row.
            server.restart(&Options::default())?;
            server.restart(&Options::default())?;
            let sql = server.connect().await?;
            check(&sql).await?;
            if let Some(false) = before {
                let e = sql.try_rows(alter).await;
                // It is done already if the kill came after the commit.
                if let Err(e) = e {
                    let done = ["42701", "42703", "42704", "42P16", "42P07"];
                    ensure!(done.contains(&e.sqlstate.as_str()), "{i}: {alter}: {e}");
                }
            }
            let names = columns(&sql).await?;
            let b = names.iter().find(|n| n.starts_with('b')).cloned();
            let b = b.unwrap_or_default();
            let a = names.iter().find(|n| n.starts_with('a')).cloned();
            let a = a.unwrap_or_default();
            for _ in 0..3 {
                next += 1;
                let value = rng.random_range(0..7);
                sql.run(&format!(
                    "INSERT INTO t (id, {a}, {b}) VALUES ({next}, {value}, 'new {next}')"
                ))
                .await?;
            }
            sql.run(&format!("DELETE FROM t WHERE id = {}", i * 11 + 1))
                .await?;
            sql.run(&format!(
                "UPDATE t SET {a} = {a} + 1 WHERE id = {}",
                i * 13 + 2
            ))
            .await?;
            check(&sql).await?;
        }
        ensure!(killed > 0, "nothing was killed");
        Ok(())
    });
}

/// Runs the statement on a server that may end meanwhile: whether it was done.
async fn table(server: &Server, killed: &mut usize, alter: &str) -> Result<Option<bool>> {
    let Ok(sql) = server.connect().await else {
        return Ok(Some(false));
    };
    match sql.try_rows(alter).await {
        Ok(_) => Ok(Some(true)),
        Err(e) if e.sqlstate.is_empty() || e.sqlstate.starts_with("57") => {
            *killed += 1;
            Ok(Some(false))
        }
        Err(e) => bail!("{alter}: {e}"),
    }
}

/// What the writers share.
struct Load {
    stop: AtomicBool,
    port: AtomicU16,
    next: AtomicUsize,
    done: AtomicUsize,
}

/// Inserts rows without a column list and with one, until told to stop; gives the acknowledged ids.
async fn write(load: Arc<Load>) -> Vec<usize> {
    let mut acknowledged = vec![];
    while !load.stop.load(Ordering::Acquire) {
        let Ok(sql) = Sql::connect(load.port.load(Ordering::Acquire)).await else {
            tokio::task::yield_now().await;
            continue;
        };
        while !load.stop.load(Ordering::Acquire) {
            let id = load.next.fetch_add(1, Ordering::AcqRel);
            let insert = match id % 3 {
                0 => format!("INSERT INTO t VALUES ({id}, {})", id % 7),
                1 => format!("INSERT INTO t (id) VALUES ({id}) ON CONFLICT DO NOTHING"),
                _ => format!("BEGIN; INSERT INTO t (id) VALUES ({id}); COMMIT"),
            };
            match sql.try_rows(&insert).await {
                Ok(_) => acknowledged.push(id),
                Err(e) if e.sqlstate.is_empty() || e.sqlstate.starts_with("57") => break,
                Err(e) => {
                    // Planned for other columns, in a transaction block; it is rolled back.
                    assert_eq!(e.sqlstate, "40001", "{insert}: {e}");
                    let rolled_back = sql.try_rows("ROLLBACK").await;
                    assert!(rolled_back.is_ok(), "{rolled_back:?}");
                }
            }
            load.done.fetch_add(1, Ordering::AcqRel);
        }
    }
    acknowledged
}

#[test]
fn writers_go_on_and_lose_nothing() {
    run(|scratch: Scratch| async move {
        let seed = Seed::new("alter_writers");
        let mut rng = seed.rng(0);
        let mut server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        for statement in SETUP.split(';') {
            sql.run(statement).await?;
        }
        let load = Arc::new(Load {
            stop: AtomicBool::new(false),
            port: AtomicU16::new(server.port()),
            next: AtomicUsize::new(1),
            done: AtomicUsize::new(0),
        });
        let writers: Vec<_> = (0..3).map(|_| tokio::spawn(write(load.clone()))).collect();
        for round in 0..rounds(6) {
            let sql = server.connect().await?;
            let until = load.done.load(Ordering::Acquire) + rng.random_range(50..200);
            let alters = [
                format!("ALTER TABLE t ADD COLUMN c{round} integer DEFAULT {round} NOT NULL"),
                "ALTER TABLE t RENAME COLUMN a TO a_".to_string(),
                "ALTER TABLE t RENAME COLUMN a_ TO a".to_string(),
                format!("ALTER TABLE t ALTER COLUMN c{round} TYPE text USING 'c' || c{round}"),
            ];
            for alter in &alters {
                let altered = sql.try_rows(alter).await;
                ensure!(altered.is_ok(), "{alter}: {altered:?}");
            }
            let others =
                format!("SELECT count(*) FROM t WHERE c{round} NOT IN ('c{round}', '{round}')");
            ensure!(sql.number(&others).await? == 0, "wrong values in c{round}");
            eventually("writes", async || {
                Ok((load.done.load(Ordering::Acquire) >= until).then_some(()))
            })
            .await?;
            let dropped = sql
                .try_rows(&format!("ALTER TABLE t DROP COLUMN c{round}"))
                .await;
            ensure!(dropped.is_ok(), "{dropped:?}");
            check(&sql).await?;
            if round % 2 == 1 {
                server.restart(&Options::workers(rng.random_range(1..3)))?;
                load.port.store(server.port(), Ordering::Release);
            }
        }
        load.stop.store(true, Ordering::Release);
        let mut acknowledged = BTreeSet::new();
        for writer in writers {
            acknowledged.extend(writer.await?);
        }
        ensure!(!acknowledged.is_empty(), "nothing was written");
        let sql = server.connect().await?;
        let there = sql.lines("SELECT id FROM t").await?;
        let there: BTreeSet<usize> = there.iter().filter_map(|l| l.parse().ok()).collect();
        let lost: Vec<_> = acknowledged.difference(&there).collect();
        ensure!(lost.is_empty(), "{lost:?} were acknowledged and are lost");
        check(&sql).await
    });
}

#[test]
fn subscriptions_to_views_go_on_and_those_to_the_table_end() {
    run(|scratch: Scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        sql.run("CREATE TABLE t (id integer, a integer); INSERT INTO t VALUES (1, 1)")
            .await?;
        sql.run("CREATE MATERIALIZED VIEW m AS SELECT a, count(*) AS n FROM t GROUP BY a")
            .await?;
        let sessions = [
            server.connect().await?,
            server.connect().await?,
            server.connect().await?,
        ];
        let mut of_view = Subscription::open(&sessions[0], "m").await?;
        let mut of_table = Subscription::open(&sessions[1], "t").await?;
        let mut of_query = Subscription::open(&sessions[2], "(SELECT sum(a) AS s FROM t)").await?;
        of_view.until_rows(&["1|1"]).await?;
        of_table.until_rows(&["1|1"]).await?;
        of_query.until_rows(&["1"]).await?;
        // Names alone change nothing for anybody.
        sql.run("ALTER TABLE t RENAME COLUMN a TO b").await?;
        sql.run("INSERT INTO t VALUES (2, 2)").await?;
        of_view.until_rows(&["1|1", "2|1"]).await?;
        of_table.until_rows(&["1|1", "2|2"]).await?;
        of_query.until_rows(&["3"]).await?;
        sql.run("ALTER TABLE t ADD COLUMN c integer").await?;
        for (what, subscription) in [("table", &mut of_table), ("query", &mut of_query)] {
            let ended = loop {
                match subscription.next().await {
                    Ok(Some(_)) => continue,
                    Ok(None) => bail!("the subscription to the {what} ended without an error"),
                    Err(e) => break format!("{e:#}"),
                }
            };
            ensure!(
                ended.contains("relation \"t\" was altered"),
                "{what}: {ended}"
            );
        }
        sql.run("INSERT INTO t VALUES (3, 2, 3)").await?;
        of_view.until_rows(&["1|1", "2|2"]).await?;
        Ok(())
    });
}

#[test]
fn statements_that_were_planned_before_are_planned_again_or_refused() {
    run(|scratch: Scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let (one, two) = (server.connect().await?, server.connect().await?);
        one.run("CREATE TABLE t (id integer PRIMARY KEY, a integer)")
            .await?;
        for prepare in [
            "PREPARE every AS SELECT * FROM t",
            "PREPARE one AS SELECT a FROM t WHERE id = $1",
            "PREPARE put AS INSERT INTO t VALUES ($1, $2)",
            "EXECUTE put (1, 10)",
        ] {
            two.run(prepare).await?;
        }
        let client = two.client();
        let select = client.prepare("SELECT a FROM t WHERE id = $1").await?;
        let insert = client.prepare("INSERT INTO t VALUES ($1, $2)").await?;
        let all = client.prepare("SELECT * FROM t").await?;
        one.run("ALTER TABLE t ADD COLUMN c text DEFAULT 'c', ALTER COLUMN id TYPE bigint")
            .await?;
        one.run("ALTER TABLE t ALTER COLUMN id TYPE integer")
            .await?;
        let e = two.fails("0A000", "EXECUTE every").await?;
        ensure!(
            e.message == "cached plan must not change result type",
            "{e}"
        );
        two.run("EXECUTE put (2, 20)").await?;
        ensure!(two.lines("EXECUTE one (2)").await? == ["20"]);
        client.execute(&insert, &[&3i32, &30i32]).await?;
        let rows = client.query(&select, &[&3i32]).await?;
        ensure!(rows[0].get::<_, i32>(0) == 30);
        let refused = client.query(&all, &[]).await;
        ensure!(refused.is_err(), "columns that weren't described are sent");
        let rows = two.lines("SELECT * FROM t ORDER BY id").await?;
        ensure!(rows == ["1|10|c", "2|20|c", "3|30|c"], "{rows:?}");
        // A transaction that has written what the table was then is to run again.
        two.run("BEGIN; INSERT INTO t VALUES (4, 40)").await?;
        one.run("ALTER TABLE t DROP COLUMN c").await?;
        two.fails("40001", "COMMIT").await?;
        two.run("INSERT INTO t VALUES (4, 40)").await?;
        Ok(())
    });
}

/// A cancel ends an ALTER wherever it is, and whoever waits for its table goes on.
#[test]
fn a_cancelled_alter_lets_the_table_go() {
    run(|scratch: Scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let (alters, writes) = (server.connect().await?, server.connect().await?);
        writes.run("CREATE TABLE t (id bigint)").await?;
        writes
            .run("INSERT INTO t SELECT g FROM generate_series(1, 300000) AS g")
            .await?;
        // Without it, a table that is never let go would be waited for without end.
        let limit = DEADLINE.as_secs();
        writes
            .run(&format!("SET statement_timeout = '{limit}s'"))
            .await?;
        let held =
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'ALTER%'";
        let mut alters = alters;
        for round in 0..6 {
            let cancel = alters.client().cancel_token();
            let running = tokio::spawn(async move {
                let alter = "ALTER TABLE t ADD COLUMN c bigint DEFAULT 1";
                let result = alters.try_rows(alter).await;
                (alters, result)
            });
            // Half of them from their beginning on, half of them at once.
            if round % 2 == 0 {
                eventually("the ALTER runs", async || {
                    Ok((writes.number(held).await? > 0).then_some(()))
                })
                .await?;
            }
            cancel.cancel_query(tokio_postgres::NoTls).await?;
            let inserted = writes.try_rows("INSERT INTO t (id) VALUES (0)").await;
            let (again, result) = running.await?;
            alters = again;
            ensure!(inserted.is_ok(), "{inserted:?} after {result:?}");
            match result {
                Err(e) => ensure!(e.sqlstate == "57014", "{e}"),
                // The cancel came before or after it.
                Ok(_) => alters.run("ALTER TABLE t DROP COLUMN c").await?,
            }
        }
        ensure!(writes.number("SELECT count(*) FROM t").await? == 300_006);
        Ok(())
    });
}
