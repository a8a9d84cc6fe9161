//! What a definition says stays what it said: under another search path, after renames, and after a restart, which plans
//! every view anew from its text.

use std::time::Duration;

use anyhow::{Result, ensure};
use tidemill_tests::{Options, Server, Sql, eventually, run};

async fn restarted(server: &mut Server) -> Result<Sql> {
    server.restart(&Options::default())?;
    server.connect().await
}

#[test]
fn a_view_does_not_depend_on_the_session_that_reads_or_restores_it() {
    run(|scratch| async move {
        let mut server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        sql.run("CREATE SCHEMA s1").await?;
        sql.run("CREATE TABLE s1.t (a integer, ts timestamptz)")
            .await?;
        sql.run("CREATE TABLE u (a integer)").await?;
        sql.run("SET search_path = s1, public").await?;
        sql.run("SET TimeZone = 'America/New_York'").await?;
        sql.run(
            "CREATE MATERIALIZED VIEW m AS WITH x AS (SELECT * FROM t) \
             SELECT x.a, ts::text AS local, '2020-01-01 00:00'::timestamptz AS new_year FROM x JOIN u ON x.a = u.a",
        )
        .await?;
        sql.run("CREATE VIEW v AS SELECT t.a FROM t, u WHERE t.a = u.a")
            .await?;
        sql.run("INSERT INTO t VALUES (1, '2021-06-01 00:00')")
            .await?;
        sql.run("INSERT INTO u VALUES (1), (2)").await?;
        // A table of the same name that comes first on the path changes neither.
        sql.run("CREATE TABLE s1.u (a integer)").await?;
        let check = async |sql: &Sql, rows: i64| -> Result<()> {
            for path in ["public", "s1, public", "s1"] {
                sql.run(&format!("SET search_path = {path}")).await?;
                ensure!(sql.number("SELECT count(*) FROM s1.v").await? == rows);
                let rows = sql
                    .lines("SELECT DISTINCT local, new_year AT TIME ZONE 'UTC' FROM s1.m")
                    .await?;
                let want = "2021-06-01 00:00:00-04|2020-01-01 05:00:00";
                ensure!(rows == [want], "under {path}: {rows:?}");
            }
            Ok(())
        };
        check(&sql, 1).await?;
        let sql = restarted(&mut server).await?;
        check(&sql, 1).await?;
        sql.run("INSERT INTO s1.t VALUES (2, '2021-06-01 00:00-04')")
            .await?;
        check(&sql, 2).await
    });
}

#[test]
fn a_rename_reaches_every_definition() {
    run(|scratch| async move {
        let mut server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        sql.run("CREATE TABLE t (a integer)").await?;
        sql.run("CREATE SCHEMA s1").await?;
        sql.run("CREATE TABLE s1.t (a integer)").await?;
        sql.run("CREATE SOURCE s WITH (connector = 'generator', kind = 'counter', rows = 3)")
            .await?;
        sql.run("CREATE VIEW bad AS SELECT * FROM s_errors").await?;
        sql.run(
            "CREATE MATERIALIZED VIEW m AS WITH t AS (SELECT a + 1 AS a FROM t) SELECT * FROM t",
        )
        .await?;
        sql.run("CREATE MATERIALIZED VIEW n AS SELECT t.a, (SELECT count(*) FROM s1.t AS u) AS c FROM t")
            .await?;
        let out = scratch.path("m.jsonl");
        sql.run(&format!(
            "CREATE SINK o FROM m WITH (connector = 'files', path = '{}', format = 'jsonl')",
            out.display()
        ))
        .await?;
        sql.run("INSERT INTO t VALUES (1)").await?;
        sql.run("ALTER TABLE t RENAME TO table_1").await?;
        sql.run("ALTER TABLE s1.t RENAME TO t2").await?;
        sql.run("ALTER SOURCE s RENAME TO source_1").await?;
        sql.run("ALTER MATERIALIZED VIEW m RENAME TO m2").await?;
        let mut sql = sql;
        for a in [2, 3] {
            sql.run(&format!("INSERT INTO table_1 VALUES ({a})"))
                .await?;
            sql.run(&format!("INSERT INTO s1.t2 VALUES ({a})")).await?;
            ensure!(sql.number("SELECT count(*) FROM bad").await? == 0);
            ensure!(sql.number("SELECT max(a) FROM m2").await? == a + 1);
            ensure!(sql.number("SELECT max(c) FROM n").await? == a - 1);
            sql = restarted(&mut server).await?;
        }
        Ok(())
    });
}

/// What a name may be is asked when it is given: a table that is there opens again.
#[test]
fn a_table_may_come_to_be_called_as_its_key() {
    run(|scratch| async move {
        let mut server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        sql.fails(
            "42P07",
            "CREATE TABLE k (a integer CONSTRAINT k PRIMARY KEY)",
        )
        .await?;
        sql.run("CREATE TABLE t (a integer CONSTRAINT k PRIMARY KEY)")
            .await?;
        sql.run("ALTER TABLE t RENAME TO k").await?;
        sql.run("ALTER TABLE k ADD COLUMN b integer").await?;
        sql.run("INSERT INTO k VALUES (1, 1)").await?;
        let sql = restarted(&mut server).await?;
        let failure = sql.fails("23505", "INSERT INTO k VALUES (1, 2)").await?;
        ensure!(failure.message.contains("\"k\""), "{failure}");
        sql.run("ALTER TABLE k DROP CONSTRAINT k").await?;
        sql.run("INSERT INTO k VALUES (1, 2)").await
    });
}

/// Objects change while a view is being made of them: it is made of what they are, or not at all.
#[test]
fn names_change_while_a_view_is_being_created() {
    run(|scratch| async move {
        let mut server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        sql.run("CREATE SCHEMA s1").await?;
        sql.run("CREATE TABLE t0 (a bigint, b bigint)").await?;
        sql.run("CREATE VIEW v AS SELECT a, b FROM t0").await?;
        sql.run("CREATE TABLE other (a bigint)").await?;
        sql.run("INSERT INTO t0 SELECT n, n % 1000 FROM generate_series(1, 60000) AS g(n)")
            .await?;
        let (mut made, mut sql) = (0, sql);
        for round in 0..6 {
            let (old, new) = (format!("t{round}"), format!("t{}", round + 1));
            sql.run("CREATE SCHEMA IF NOT EXISTS s1").await?;
            // Refused where a view stands on it, and then not needed.
            let view = format!("CREATE OR REPLACE VIEW v AS SELECT a, b FROM {old}");
            let _ = sql.try_rows(&view).await;
            let creating = server.connect().await?;
            let create = format!(
                "CREATE MATERIALIZED VIEW s1.m{round} AS \
                 SELECT x.b, count(*) AS n FROM {old} AS x JOIN v ON x.a = v.a GROUP BY x.b"
            );
            let create = tokio::spawn(async move { creating.try_rows(&create).await });
            tokio::time::sleep(Duration::from_millis(20 * round)).await;
            sql.run(&format!("ALTER TABLE {old} RENAME TO {new}"))
                .await?;
            // None of these may take the view's name or what it needs away.
            for other in [
                format!("CREATE TABLE s1.m{round} (a integer)"),
                "DROP SCHEMA s1".to_string(),
                format!("CREATE OR REPLACE VIEW v AS SELECT a, b FROM {new} WHERE false"),
            ] {
                let _ = sql.try_rows(&other).await;
            }
            match create.await? {
                Ok(_) => made += 1,
                Err(e) => ensure!(
                    ["42P01", "40001", "3F000", "42P07"].contains(&e.sqlstate.as_str()),
                    "{e}"
                ),
            }
            sql = restarted(&mut server).await?;
            let count = format!("SELECT count(*) FROM {new}");
            ensure!(sql.number(&count).await? == 60_000, "in round {round}");
            let views = "SELECT name FROM tidemill.views WHERE schema = 's1'";
            for view in sql.lines(views).await? {
                let n = format!("SELECT coalesce(sum(n), 0)::bigint FROM s1.{view}");
                ensure!(sql.number(&n).await? == 60_000, "{view} in round {round}");
            }
        }
        ensure!(made > 0, "no view was made at all");
        Ok(())
    });
}

#[test]
fn temporary_tables_go_with_their_session_and_with_the_server() {
    run(|scratch| async move {
        let mut server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        sql.run("CREATE TABLE t (a integer)").await?;
        sql.run("INSERT INTO t VALUES (1)").await?;
        let schemas = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'pg_temp%'";
        {
            let first = server.connect().await?;
            let second = server.connect().await?;
            for (session, value) in [(&first, 2), (&second, 3)] {
                session.run("CREATE TEMP TABLE t (a integer)").await?;
                session
                    .run(&format!("INSERT INTO t VALUES ({value})"))
                    .await?;
                session
                    .run("CREATE VIEW v AS SELECT a * 10 AS a FROM t")
                    .await?;
            }
            ensure!(first.number("SELECT a FROM t").await? == 2);
            ensure!(second.number("SELECT a FROM v").await? == 30);
            ensure!(sql.number("SELECT a FROM t").await? == 1);
            ensure!(sql.lines("SELECT a FROM v").await.is_err());
            ensure!(sql.number(schemas).await? == 2);
        }
        eventually("the sessions' schemas are dropped", async || {
            Ok((sql.number(schemas).await? == 0).then_some(()))
        })
        .await?;
        let left = server.connect().await?;
        left.run("CREATE TEMP TABLE kept (a integer)").await?;
        server.kill();
        let sql = restarted(&mut server).await?;
        ensure!(sql.number(schemas).await? == 0);
        ensure!(sql.lines("SELECT * FROM kept").await.is_err());
        ensure!(sql.number("SELECT a FROM t").await? == 1);
        Ok(())
    });
}

#[test]
fn a_replaced_view_may_stand_on_what_was_made_after_it() {
    run(|scratch| async move {
        let mut server = Server::start(&scratch.data(), &Options::default())?;
        let mut sql = server.connect().await?;
        sql.run("CREATE VIEW first AS SELECT 1 AS a").await?;
        sql.run("CREATE VIEW above AS SELECT a FROM first").await?;
        sql.run("CREATE TABLE t (a integer)").await?;
        sql.run("CREATE VIEW second AS SELECT a + 1 AS a FROM t")
            .await?;
        sql.run("CREATE OR REPLACE VIEW first AS SELECT a * 10 AS a FROM second")
            .await?;
        sql.run("CREATE MATERIALIZED VIEW kept AS SELECT sum(a) AS a FROM above")
            .await?;
        for round in 1..4 {
            sql.run("INSERT INTO t VALUES (1)").await?;
            for view in ["above", "kept"] {
                let sum = format!("SELECT sum(a)::bigint FROM {view}");
                ensure!(sql.number(&sum).await? == round * 20, "{view} in {round}");
            }
            server.kill();
            sql = restarted(&mut server).await?;
        }
        Ok(())
    });
}

#[test]
fn the_default_schema_may_be_dropped_and_made_again() {
    run(|scratch| async move {
        let mut server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        sql.run("CREATE TABLE t (a integer)").await?;
        sql.run("CREATE MATERIALIZED VIEW m AS SELECT count(*) FROM t")
            .await?;
        sql.fails("2BP01", "DROP SCHEMA public").await?;
        sql.run("DROP SCHEMA public CASCADE").await?;
        sql.fails("3F000", "CREATE TABLE t (a integer)").await?;
        let sql = restarted(&mut server).await?;
        sql.fails("3F000", "CREATE TABLE public.t (a integer)")
            .await?;
        sql.run("CREATE SCHEMA public").await?;
        sql.run("CREATE TABLE t AS SELECT 7 AS a").await?;
        let sql = restarted(&mut server).await?;
        ensure!(sql.number("SELECT a FROM public.t").await? == 7);
        Ok(())
    });
}

#[test]
fn a_replaced_view_keeps_its_comments() {
    run(|scratch| async move {
        let mut server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        sql.run("CREATE VIEW v AS SELECT 1 AS a").await?;
        sql.run("COMMENT ON VIEW v IS 'one'").await?;
        sql.run("COMMENT ON COLUMN v.a IS 'column'").await?;
        sql.run("CREATE OR REPLACE VIEW v AS SELECT 1 AS a, 2 AS b")
            .await?;
        let sql = restarted(&mut server).await?;
        let comments = "SELECT obj_description('v'::regclass), col_description('v'::regclass, 1)";
        let comments = sql.lines(comments).await?;
        ensure!(comments == ["one|column"], "{comments:?}");
        Ok(())
    });
}
