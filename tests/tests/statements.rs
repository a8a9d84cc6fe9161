//! A statement happens whole or not at all, and what it was checked with holds when it commits.

use std::time::Duration;

use anyhow::{Result, ensure};
use futures::SinkExt;
use tidemill_tests::{Options, Scratch, Server, Sql, eventually, run};
use tokio_postgres::NoTls;
use tokio_postgres::types::Type;

/// Sends rows by COPY, without its end.
async fn copy(
    sql: &Sql,
    statement: &str,
    rows: &'static str,
) -> Result<std::pin::Pin<Box<tokio_postgres::CopyInSink<bytes::Bytes>>>> {
    let mut sink = Box::pin(sql.client().copy_in(statement).await?);
    sink.send(bytes::Bytes::from_static(rows.as_bytes()))
        .await?;
    Ok(sink)
}

#[test]
fn a_statement_is_whole() {
    run(|scratch: Scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        sql.run("CREATE TABLE a (n bigint); CREATE TABLE b (n bigint)")
            .await?;
        sql.run("INSERT INTO a VALUES (1); INSERT INTO b VALUES (1)")
            .await?;
        // A table that isn't there keeps the others as they are.
        sql.fails("42P01", "TRUNCATE a, c").await?;
        ensure!(sql.number("SELECT count(*) FROM a").await? == 1);
        sql.run("TRUNCATE a, b, a").await?;
        ensure!(sql.number("SELECT count(*) FROM a, b").await? == 0);

        // Statements of one string are one transaction, whatever they are.
        sql.run("PREPARE p AS INSERT INTO a VALUES (7)").await?;
        sql.fails("22012", "EXECUTE p; SELECT 1 / 0").await?;
        sql.fails("22012", "SET TimeZone = 'Asia/Tokyo'; SELECT 1 / 0")
            .await?;
        ensure!(sql.value("SHOW TimeZone").await? == "UTC");
        sql.run("SET TimeZone = 'Asia/Tokyo'; SELECT 1; EXECUTE p")
            .await?;
        ensure!(sql.value("SHOW TimeZone").await? == "Asia/Tokyo");
        ensure!(sql.lines("SELECT n FROM a").await? == ["7"]);
        // A transaction that begins among them is one with what came before.
        sql.run("EXECUTE p; SET TimeZone = 'UTC'; BEGIN; EXECUTE p; ROLLBACK")
            .await?;
        ensure!(sql.value("SHOW TimeZone").await? == "Asia/Tokyo");
        ensure!(sql.lines("SELECT n FROM a").await? == ["7"]);
        Ok(())
    });
}

#[test]
fn rows_that_are_returned_have_the_columns_that_were_described() {
    run(|scratch: Scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let (sql, other) = (server.connect().await?, server.connect().await?);
        sql.run("CREATE TABLE t (n bigint)").await?;
        let insert = "INSERT INTO t VALUES ($1) RETURNING *";
        let prepared = sql.client().prepare(insert).await?;
        other.run("ALTER TABLE t ADD COLUMN b bigint").await?;
        let refused = sql.client().query(&prepared, &[&1i64]).await;
        let refused = refused.expect_err("the client can't read its rows");
        ensure!(
            refused.code().is_some_and(|c| c.code() == "0A000"),
            "{refused}"
        );
        ensure!(sql.number("SELECT count(*) FROM t").await? == 0);
        Ok(())
    });
}

#[test]
fn a_commit_that_is_told_of_slowly_is_no_timeout() {
    run(|scratch: Scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        sql.run("CREATE TABLE t (n bigint, x text)").await?;
        let insert = "INSERT INTO t SELECT g, repeat('x', 1000) FROM generate_series(1, 60000) AS g RETURNING n";
        let time = std::time::Instant::now();
        sql.run(insert).await?;
        sql.run("DELETE FROM t").await?;
        // Its rows are more than fit between server and client, which doesn't read on while the time runs out.
        let limit = time.elapsed() * 2 + Duration::from_millis(500);
        sql.run(&format!("SET statement_timeout = {}", limit.as_millis()))
            .await?;
        let insert = insert.replace("RETURNING n", "RETURNING *");
        let rows = sql.client().simple_query_raw(&insert).await?;
        let mut rows = Box::pin(rows);
        let mut read = 0;
        use futures::TryStreamExt;
        while let Some(message) = rows.try_next().await? {
            if read == 1 {
                tokio::time::sleep(limit * 2).await;
            }
            read += usize::from(matches!(
                message,
                tokio_postgres::SimpleQueryMessage::Row(_)
            ));
        }
        ensure!(read == 60_000, "{read}");
        Ok(())
    });
}

#[test]
fn create_table_as_reads_what_its_transaction_sees() {
    run(|scratch: Scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let (one, two) = (server.connect().await?, server.connect().await?);
        one.run("CREATE TABLE t (n bigint); CREATE TABLE log (n bigint)")
            .await?;
        one.run("BEGIN; INSERT INTO t VALUES (1); CREATE TABLE u AS SELECT * FROM t; COMMIT")
            .await?;
        ensure!(two.lines("SELECT n FROM u").await? == ["1"]);
        // What it read counts at COMMIT.
        one.run("BEGIN; CREATE TABLE c AS SELECT count(*) FROM t")
            .await?;
        two.run("BEGIN; SELECT * FROM log; INSERT INTO t VALUES (2); COMMIT")
            .await?;
        one.run("INSERT INTO log VALUES (1)").await?;
        one.fails("40001", "COMMIT").await?;
        // One of several makes the table, and the rows in it are its own.
        let mut sessions = vec![];
        for n in 0..4 {
            let sql = server.connect().await?;
            sessions.push(tokio::spawn(async move {
                sql.run(&format!(
                    "CREATE TABLE IF NOT EXISTS one AS SELECT {n} AS n"
                ))
                .await
            }));
        }
        for session in sessions {
            session.await??;
        }
        ensure!(one.number("SELECT count(*) FROM one").await? == 1);
        Ok(())
    });
}

#[test]
fn a_table_made_from_a_query_is_there_with_its_rows() {
    run(|scratch: Scratch| async move {
        let mut server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        sql.run("CREATE TABLE t AS SELECT g FROM generate_series(1, 1000) AS g")
            .await?;
        for passes in 1..=4 {
            server.restart(&Options::default().fail_point("before_transaction", passes))?;
            let sql = server.connect().await?;
            let made = sql.try_rows("CREATE TABLE u AS SELECT g FROM t").await;
            server.restart(&Options::default())?;
            let sql = server.connect().await?;
            match sql.try_rows("SELECT g FROM u").await {
                Ok(rows) => ensure!(rows.len() == 1000, "{passes}: {} rows", rows.len()),
                Err(e) => {
                    ensure!(e.sqlstate == "42P01", "{e}");
                    ensure!(made.is_err(), "{passes}: what was made is gone");
                }
            }
            sql.run("DROP TABLE IF EXISTS u").await?;
        }
        Ok(())
    });
}

#[test]
fn who_makes_a_view_that_is_being_made_waits_for_it() {
    run(|scratch: Scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        sql.run("CREATE TABLE t AS SELECT g, g % 10 AS h FROM generate_series(1, 300000) AS g")
            .await?;
        let make = async |statement: &'static str| -> Result<Vec<Result<(), String>>> {
            let mut sessions = vec![];
            for _ in 0..6 {
                let sql = server.connect().await?;
                sessions.push(tokio::spawn(async move {
                    let made = sql.try_rows(statement).await;
                    made.map(drop).map_err(|e| e.sqlstate)
                }));
            }
            let mut made = vec![];
            for session in sessions {
                made.push(session.await?);
            }
            Ok(made)
        };
        for statement in [
            "CREATE MATERIALIZED VIEW IF NOT EXISTS v AS SELECT h, count(*) AS n FROM t GROUP BY h",
            "CREATE INDEX IF NOT EXISTS i ON t (h, g)",
        ] {
            let made = make(statement).await?;
            ensure!(made.iter().all(Result::is_ok), "{statement}: {made:?}");
        }
        ensure!(sql.number("SELECT sum(n) FROM v").await? == 300_000);
        let made = make("CREATE MATERIALIZED VIEW w AS SELECT DISTINCT g FROM t").await?;
        let (done, refused): (Vec<_>, Vec<_>) = made.into_iter().partition(Result::is_ok);
        ensure!(done.len() == 1, "{}", done.len());
        ensure!(
            refused.iter().all(|e| *e == Err("42P07".into())),
            "{refused:?}"
        );
        // Whoever waits goes on when the other is cancelled.
        let other = server.connect().await?;
        let token = other.client().cancel_token();
        let slow = "CREATE MATERIALIZED VIEW x AS SELECT a.h, count(*) FROM t a JOIN t b ON a.h = b.h GROUP BY a.h";
        let first = tokio::spawn(async move { other.try_rows(slow).await.map(drop) });
        eventually("the view is being made", async || {
            let builds = "SELECT count(*) FROM tidemill.builds WHERE name = 'x'";
            Ok((sql.number(builds).await? == 1).then_some(()))
        })
        .await?;
        let second = server.connect().await?;
        let second = tokio::spawn(async move {
            let quick = "CREATE MATERIALIZED VIEW x AS SELECT count(*) AS n FROM t";
            second.run(quick).await?;
            second.number("SELECT n FROM x").await
        });
        token.cancel_query(NoTls).await?;
        let e = first.await?.expect_err("cancelled");
        ensure!(e.sqlstate == "57014", "{e}");
        ensure!(second.await?? == 300_000);
        Ok(())
    });
}

#[test]
fn a_default_and_the_drop_of_its_sequence_exclude_each_other() {
    run(|scratch: Scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let (one, two) = (server.connect().await?, server.connect().await?);
        one.run("CREATE TABLE old (n bigint)").await?;
        for round in 0..40 {
            one.run("CREATE SEQUENCE s").await?;
            let (table, statement) = match round % 2 {
                0 => ("t", "CREATE TABLE t (n bigint DEFAULT nextval('s'), x int)"),
                _ => ("old", "ALTER TABLE old ALTER n SET DEFAULT nextval('s')"),
            };
            let gone = ["DROP SEQUENCE s", "ALTER SEQUENCE s RENAME TO r"][round / 2 % 2];
            let (made, gone) = tokio::join!(one.try_rows(statement), two.try_rows(gone));
            ensure!(made.is_ok() != gone.is_ok(), "{round}: {made:?} {gone:?}");
            if made.is_ok() {
                one.run(&format!("INSERT INTO {table} DEFAULT VALUES"))
                    .await?;
            }
            one.run("ALTER TABLE old ALTER n DROP DEFAULT; DROP TABLE IF EXISTS t")
                .await?;
            one.run("DROP SEQUENCE IF EXISTS s; DROP SEQUENCE IF EXISTS r")
                .await?;
        }
        Ok(())
    });
}

#[test]
fn keys_of_a_copy_are_checked_at_its_end() {
    run(|scratch: Scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        sql.run("CREATE TABLE k (n bigint PRIMARY KEY); INSERT INTO k VALUES (5)")
            .await?;
        for rows in ["1\n1\n", "5\n", "7\n"] {
            sql.run("BEGIN; INSERT INTO k VALUES (7)").await?;
            let mut sink = copy(&sql, "COPY k FROM STDIN", rows).await?;
            let refused = sink
                .as_mut()
                .finish()
                .await
                .expect_err("a key is there twice");
            ensure!(
                refused.code().is_some_and(|c| c.code() == "23505"),
                "{refused}"
            );
            sql.run("ROLLBACK").await?;
        }
        ensure!(sql.lines("SELECT n FROM k").await? == ["5"]);
        Ok(())
    });
}

#[test]
fn a_check_holds_for_writes_that_began_before_it() {
    run(|scratch: Scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let (one, two) = (server.connect().await?, server.connect().await?);
        two.run("CREATE TABLE t (n bigint)").await?;
        let add = "ALTER TABLE t ADD CONSTRAINT positive CHECK (n > 0)";
        let drop = "ALTER TABLE t DROP CONSTRAINT positive";

        one.run("BEGIN; INSERT INTO t VALUES (-5)").await?;
        two.run(add).await?;
        one.fails("40001", "COMMIT").await?;
        two.run(drop).await?;
        // DDL of its own in between doesn't hide it.
        one.run("BEGIN; INSERT INTO t VALUES (-5)").await?;
        two.run(add).await?;
        one.fails("40001", "CREATE TABLE u ()").await?;
        one.run("ROLLBACK").await?;
        two.run(drop).await?;

        let mut sink = copy(&one, "COPY t FROM STDIN", "-5\n").await?;
        two.run(add).await?;
        let refused = sink
            .as_mut()
            .finish()
            .await
            .expect_err("the CHECK is there");
        ensure!(
            refused.code().is_some_and(|c| c.code() == "40001"),
            "{refused}"
        );
        two.run(drop).await?;

        // Writes that wait for the ALTER are checked as if they came after it.
        two.run("INSERT INTO t SELECT g FROM generate_series(1, 200000) AS g")
            .await?;
        for _ in 0..5 {
            let insert = async {
                loop {
                    match one.try_rows("INSERT INTO t VALUES (-7)").await {
                        Ok(_) => two_if_negative(&one).await?,
                        Err(e) => {
                            ensure!(e.sqlstate == "23514", "{e}");
                            return Ok(());
                        }
                    }
                }
            };
            let alter = async {
                loop {
                    match two.try_rows(add).await {
                        Ok(_) => return Ok(()),
                        Err(e) => ensure!(e.sqlstate == "23514", "{e}"),
                    }
                }
            };
            tokio::try_join!(insert, alter)?;
            ensure!(two.number("SELECT count(*) FROM t WHERE n < 0").await? == 0);
            two.run(drop).await?;
        }
        Ok(())
    });
}

/// Makes room for the CHECK again.
async fn two_if_negative(sql: &Sql) -> Result<()> {
    sql.run("DELETE FROM t WHERE n < 0").await
}

/// Two transactions of which each reads what the other one changes: the second COMMIT fails, however the reading was done.
#[test]
fn reads_of_all_kinds_count_at_commit() {
    run(|scratch: Scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let (one, two) = (server.connect().await?, server.connect().await?);
        one.run("CREATE TABLE t (pk int PRIMARY KEY, u int UNIQUE, x int, y int)")
            .await?;
        one.run("CREATE TABLE log (a text); CREATE TABLE wide (n int)")
            .await?;
        one.run("INSERT INTO wide SELECT g FROM generate_series(1, 200000) AS g")
            .await?;
        let cases = [
            (
                "the row in the way of an INSERT",
                "INSERT INTO t VALUES (2, 1, 0, 0) ON CONFLICT (u) DO UPDATE SET y = 1 WHERE t.x = 5",
                "UPDATE t SET x = 5 WHERE pk = 1",
                "",
            ),
            (
                "a key that is there",
                "SAVEPOINT s; INSERT INTO t VALUES (1, 9, 0, 0)",
                "DELETE FROM t WHERE pk = 1",
                "ROLLBACK TO s",
            ),
            (
                "a view that somebody drops",
                "SELECT * FROM v",
                "INSERT INTO t VALUES (3, 3, 0, 0); COMMIT; DROP MATERIALIZED VIEW v; BEGIN",
                "",
            ),
            (
                "the rest of a cursor",
                "DECLARE c CURSOR FOR SELECT n FROM wide UNION ALL SELECT x FROM t; FETCH 1 FROM c",
                "UPDATE t SET x = 6",
                "CREATE TABLE own (); FETCH ALL FROM c",
            ),
        ];
        for (what, read, change, after) in cases {
            two.run("DELETE FROM t; DELETE FROM log; DROP TABLE IF EXISTS own")
                .await?;
            two.run("INSERT INTO t VALUES (1, 1, 0, 0)").await?;
            two.run("CREATE MATERIALIZED VIEW IF NOT EXISTS v AS SELECT count(*) FROM t")
                .await?;
            one.run("BEGIN").await?;
            let known = one.try_rows(read).await;
            ensure!(
                known.is_ok() || read.starts_with("SAVEPOINT"),
                "{what}: {known:?}"
            );
            two.run("BEGIN; SELECT * FROM log").await?;
            two.run(change).await?;
            two.run("COMMIT").await?;
            let rest = [after, "INSERT INTO log VALUES ('seen')", "COMMIT"];
            let mut failed = None;
            for statement in rest {
                if let Err(e) = one.try_rows(statement).await {
                    failed = Some(e.sqlstate);
                    break;
                }
            }
            one.run("ROLLBACK").await?;
            ensure!(failed.as_deref() == Some("40001"), "{what}: {failed:?}");
        }
        // A transaction's own DROP of what it has read is no conflict.
        two.run("CREATE MATERIALIZED VIEW IF NOT EXISTS v AS SELECT count(*) FROM t")
            .await?;
        one.run("BEGIN; SELECT * FROM v; DROP MATERIALIZED VIEW v; INSERT INTO log VALUES ('own'); COMMIT")
            .await?;
        Ok(())
    });
}

#[test]
fn parameters_are_checked_as_literals_are() {
    run(|scratch: Scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        sql.run("CREATE TABLE j (a jsonb, b json)").await?;
        let texts = [Type::TEXT, Type::TEXT];
        let insert = "INSERT INTO j VALUES ($1::text::jsonb, $2::text::json)";
        let typed = sql.client().prepare_typed(insert, &texts).await?;
        let refused = sql.client().execute(&typed, &[&"{bad", &"1"]).await;
        ensure!(refused.is_err());
        // As drivers send them: by the types of the columns.
        let insert = sql
            .client()
            .prepare("INSERT INTO j VALUES ($1, $2)")
            .await?;
        for bad in ["{bad", "", "[1"] {
            for row in [[bad, "1"], ["1", bad]] {
                let [a, b] = row.map(Raw);
                let refused = sql.client().execute(&insert, &[&a, &b]).await;
                let refused = refused.expect_err("it isn't JSON");
                ensure!(
                    refused.code().is_some_and(|c| c.code() == "22P02"),
                    "{bad}: {refused}"
                );
            }
        }
        let [a, b] = [r#"{"b":1,"a":1,"a":2}"#, r#"{"b":1,"a":1}"#].map(Raw);
        sql.client().execute(&insert, &[&a, &b]).await?;
        let kept = sql.lines("SELECT a, b FROM j").await?;
        ensure!(kept == [r#"{"a": 2, "b": 1}|{"b":1,"a":1}"#], "{kept:?}");
        Ok(())
    });
}

/// A text for a parameter of json or jsonb, in their binary form.
#[derive(Debug)]
struct Raw(&'static str);

impl tokio_postgres::types::ToSql for Raw {
    fn to_sql(
        &self,
        ty: &Type,
        out: &mut bytes::BytesMut,
    ) -> std::result::Result<tokio_postgres::types::IsNull, Box<dyn std::error::Error + Sync + Send>>
    {
        if *ty == Type::JSONB {
            out.extend_from_slice(&[1]);
        }
        out.extend_from_slice(self.0.as_bytes());
        Ok(tokio_postgres::types::IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        matches!(*ty, Type::JSON | Type::JSONB)
    }

    tokio_postgres::types::to_sql_checked!();
}

#[test]
fn a_parameter_is_not_rounded_to_what_it_stands_beside() {
    run(|scratch: Scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        sql.run("CREATE TABLE t (id int PRIMARY KEY, a numeric(10, 0), b numeric(8, 2))")
            .await?;
        sql.run("INSERT INTO t VALUES (1, 2, 1.56), (2, 3, 2.00)")
            .await?;
        let cases = [
            ("b * $1 = 0.0234", "0.015", "1"),
            ("b = $1", "1.555", ""),
            ("a IN (7, $1)", "1.6", ""),
            ("b BETWEEN $1 AND 1.9", "1.565", ""),
            ("a / $1 = 5", "0.4", "1"),
            ("coalesce(a, $1) > 0 AND greatest(a, $1) = 2.4", "2.4", "1"),
            ("nullif(a, $1) IS NULL", "1.9", ""),
            ("+ $1 = 6", "6", "1|2"),
            ("substr('abc', $1) = 'bc'", "2", "1|2"),
        ];
        for (n, (condition, value, rows)) in cases.into_iter().enumerate() {
            sql.run(&format!(
                "PREPARE p{n} AS SELECT id FROM t WHERE {condition} ORDER BY id"
            ))
            .await?;
            let found = sql.lines(&format!("EXECUTE p{n} ({value})")).await?;
            ensure!(found.join("|") == rows, "{condition}: {found:?}");
        }
        sql.run("PREPARE u AS UPDATE t SET b = b * $1 WHERE id = 1; EXECUTE u (1.0825)")
            .await?;
        ensure!(sql.value("SELECT b FROM t WHERE id = 1").await? == "1.69");
        sql.run("PREPARE d AS DELETE FROM t WHERE a = $1; EXECUTE d (2.6)")
            .await?;
        ensure!(sql.number("SELECT count(*) FROM t").await? == 2);
        Ok(())
    });
}

#[test]
fn returned_rows_come_in_the_order_in_which_they_were_proposed() {
    run(|scratch: Scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        sql.run("CREATE TABLE t (id int PRIMARY KEY, v int UNIQUE, w int)")
            .await?;
        sql.run("INSERT INTO t VALUES (3, 3, 0), (7, 7, 0)").await?;
        let upsert = "INSERT INTO t VALUES (50, 50, 1), (3, 3, 1), (40, 40, 1), (7, 7, 1), (1, 1, 1) \
                      ON CONFLICT (id) DO UPDATE SET w = t.w + 10 RETURNING id, w";
        let rows = sql.lines(upsert).await?;
        ensure!(rows == ["50|1", "3|10", "40|1", "7|10", "1|1"], "{rows:?}");
        let some = "INSERT INTO t VALUES (60, 7, 2), (61, 3, 2), (62, 62, 2) \
                    ON CONFLICT (v) DO UPDATE SET w = 5 WHERE t.id = 3 RETURNING id, w";
        let rows = sql.lines(some).await?;
        ensure!(rows == ["3|5", "62|2"], "{rows:?}");
        // The same row again and again within a transaction.
        sql.run("BEGIN").await?;
        for _ in 0..200 {
            sql.run("UPDATE t SET w = w + 1, v = v + 100 WHERE id = 3")
                .await?;
        }
        sql.fails("23505", "INSERT INTO t VALUES (99, 20003, 0)")
            .await?;
        sql.run("ROLLBACK").await?;
        Ok(())
    });
}

#[test]
fn copied_texts_mean_what_they_mean_in_statements() {
    run(|scratch: Scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        sql.run("CREATE TABLE t (n int, z timestamptz, j jsonb)")
            .await?;
        sql.run("SET TimeZone = 'America/New_York'").await?;
        let rows = "1\t2024-07-01 12:00\t{\"b\": 1, \"a\": 1, \"a\": 2}\n2\t\\N\t\\N\n";
        copy(&sql, "COPY t FROM STDIN", rows)
            .await?
            .as_mut()
            .finish()
            .await?;
        let shown = sql.lines("SELECT * FROM t ORDER BY n").await?;
        let wanted = [
            r#"1|2024-07-01 12:00:00-04|{"a": 2, "b": 1}"#,
            "2|NULL|NULL",
        ];
        ensure!(shown == wanted, "{shown:?}");
        for (bad, place) in [
            (
                "1\t2024-07-01 12:00\t1\n2\t2024-07-01 99:00\t1\n",
                "line 2, column z",
            ),
            ("1\t\\N\t{\n", "line 1, column j"),
        ] {
            let mut sink = copy(&sql, "COPY t FROM STDIN", bad).await?;
            let refused = sink.as_mut().finish().await.expect_err("it has no meaning");
            let detail = refused.as_db_error().and_then(|e| e.detail());
            ensure!(detail.is_some_and(|d| d.contains(place)), "{refused:?}");
        }
        ensure!(sql.number("SELECT count(*) FROM t").await? == 2);
        Ok(())
    });
}

#[test]
fn a_transaction_has_one_time() {
    run(|scratch: Scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        sql.run("CREATE TABLE d (id int, at timestamptz DEFAULT now())")
            .await?;
        sql.run("BEGIN").await?;
        sql.run("INSERT INTO d (id) VALUES (1)").await?;
        sql.run("INSERT INTO d (id) SELECT 2 FROM generate_series(1, 3)")
            .await?;
        ensure!(
            sql.number("SELECT count(*) FROM d WHERE at = now()")
                .await?
                == 4
        );
        ensure!(
            sql.number("SELECT count(*) FROM d WHERE at < transaction_timestamp()")
                .await?
                == 0
        );
        ensure!(sql.value("SELECT statement_timestamp() > now()").await? == "t");
        sql.run("COMMIT").await?;
        ensure!(sql.number("SELECT count(DISTINCT at) FROM d").await? == 1);
        ensure!(
            sql.number("SELECT count(*) FROM d WHERE at = now()")
                .await?
                == 0
        );
        Ok(())
    });
}

/// It took twice the memory at each UPDATE: texts that are read, changed and put beside the old ones point into the same buffers.
#[test]
fn a_row_that_a_transaction_changes_again_and_again_stays_small() {
    run(|scratch: Scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        sql.run("CREATE TABLE t (id int PRIMARY KEY, n int, s text, l text[])")
            .await?;
        sql.run("INSERT INTO t SELECT i, 0, 's' || i, ARRAY['a text that is not within its view ' || i] FROM generate_series(1, 1000) i")
            .await?;
        sql.run("BEGIN").await?;
        for _ in 0..60 {
            sql.run("UPDATE t SET n = n + 1 WHERE id = 7").await?;
        }
        sql.run("COMMIT").await?;
        let row = sql.lines("SELECT n, s, l FROM t WHERE id = 7").await?;
        ensure!(
            row == ["60|s7|{\"a text that is not within its view 7\"}"],
            "{row:?}"
        );
        Ok(())
    });
}

#[test]
fn each_copied_row_has_a_default_of_its_own() {
    run(|scratch: Scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        sql.run("CREATE SEQUENCE s START 7").await?;
        sql.run("CREATE TABLE t (a uuid DEFAULT gen_random_uuid(), b bigint DEFAULT nextval('s'), c serial, d date DEFAULT now(), n int)")
            .await?;
        copy(&sql, "COPY t (n) FROM STDIN", "1\n2\n3\n")
            .await?
            .as_mut()
            .finish()
            .await?;
        let different = "SELECT count(DISTINCT a), count(DISTINCT d), array_agg(b ORDER BY n), array_agg(c ORDER BY n) FROM t";
        ensure!(sql.lines(different).await? == ["3|1|{7,8,9}|{1,2,3}"]);
        let last = "SELECT currval('s'), currval('t_c_seq')";
        ensure!(sql.lines(last).await? == ["9|3"]);
        Ok(())
    });
}

#[test]
fn an_error_shows_the_row_that_fails() {
    run(|scratch: Scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        sql.run("CREATE TABLE t (id serial, name text NOT NULL, n integer CHECK (n > 0))")
            .await?;
        sql.run("INSERT INTO t (name, n) VALUES ('a', 1), ('b', 2)")
            .await?;
        let long = "x".repeat(100);
        let cases = [
            (
                "23502",
                "UPDATE t SET name = NULL WHERE id = 2",
                "(2, null, 2)",
            ),
            ("23514", "UPDATE t SET n = n - 1", "(1, a, 0)"),
            (
                "23514",
                &format!("INSERT INTO t VALUES (9, '{long}', -1)"),
                &format!("(9, {}..., -1)", &long[..64]),
            ),
        ];
        for (state, statement, row) in cases {
            let detail = sql.fails(state, statement).await?.detail;
            let wanted = format!("Failing row contains {row}.");
            ensure!(detail.as_ref() == Some(&wanted), "{statement}: {detail:?}");
        }
        Ok(())
    });
}

#[test]
fn a_string_of_statements_is_a_transaction_for_cursors_and_discard() {
    run(|scratch: Scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        let declare = "DECLARE k CURSOR FOR SELECT g FROM generate_series(1, 3) AS s (g)";
        sql.fails("25P01", declare).await?;
        let rows = sql.lines(&format!("{declare}; FETCH 2 FROM k")).await?;
        ensure!(rows == ["1", "2"], "{rows:?}");
        sql.fails("25001", "SELECT 1; DISCARD ALL").await?;
        sql.run("DISCARD ALL").await?;
        sql.fails("57014", "SELECT pg_cancel_backend(pg_backend_pid())")
            .await?;
        sql.run("SET statement_timeout = 100").await?;
        sql.fails("57014", "SELECT pg_sleep('inf')").await?;
        Ok(())
    });
}

#[test]
fn a_dataflow_is_explained_with_the_names_of_relations() {
    run(|scratch: Scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        sql.run("CREATE TABLE t (k integer, v integer)").await?;
        let explain = "EXPLAIN (DATAFLOW) SELECT k, count(*) FROM t GROUP BY k";
        let lines = sql.lines(explain).await?.join("\n");
        ensure!(lines.contains("Input t columns"), "{lines}");
        let uptime = "SELECT now() - pg_postmaster_start_time() BETWEEN interval '0' AND interval '1 hour', \
                      count(*) FROM pg_stat_user_tables WHERE relname = 't'";
        let uptime = sql.lines(uptime).await?;
        ensure!(uptime == ["t|1"], "{uptime:?}");
        Ok(())
    });
}
