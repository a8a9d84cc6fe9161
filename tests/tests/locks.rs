//! Advisory locks between sessions, as migration tools and job queues use them, and SELECT FOR UPDATE.

use anyhow::{Result, ensure};
use tidemill_tests::{Options, Server, Sql, eventually, run};

/// Runs a statement in a session of its own task.
fn begin(sql: Sql, statement: &'static str) -> tokio::task::JoinHandle<(Sql, Result<()>)> {
    tokio::spawn(async move {
        let result = sql.run(statement).await;
        (sql, result)
    })
}

/// Waits until as many locks are waited for.
async fn waiting(sql: &Sql, n: i64) -> Result<()> {
    let query = "SELECT count(*) FROM pg_locks WHERE NOT granted";
    eventually("sessions wait for locks", async || {
        Ok((sql.number(query).await? == n).then_some(()))
    })
    .await
}

#[test]
fn who_waits_for_a_lock_sees_what_was_committed_before() {
    run(|scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let a = server.connect().await?;
        let watch = server.connect().await?;
        a.run("CREATE TABLE applied (version int PRIMARY KEY)")
            .await?;
        a.run("SELECT pg_advisory_lock(4711)").await?;
        let b = server.connect().await?;
        let b = begin(
            b,
            "BEGIN; SELECT pg_advisory_xact_lock(4711); \
             INSERT INTO applied SELECT max(version) + 1 FROM applied; COMMIT",
        );
        waiting(&watch, 1).await?;
        let shown = "SELECT locktype, relation, page, classid, objid, objsubid, mode, granted FROM pg_locks ORDER BY granted";
        let want = [
            "advisory|NULL|NULL|0|4711|1|ExclusiveLock|f",
            "advisory|NULL|NULL|0|4711|1|ExclusiveLock|t",
        ];
        ensure!(watch.lines(shown).await? == want);
        a.run("INSERT INTO applied VALUES (1)").await?;
        ensure!(a.value("SELECT pg_advisory_unlock(4711)").await? == "t");
        ensure!(a.value("SELECT pg_advisory_unlock(4711)").await? == "f");
        let (_b, result) = b.await?;
        result?;
        ensure!(
            watch
                .lines("SELECT version FROM applied ORDER BY 1")
                .await?
                == ["1", "2"]
        );
        ensure!(watch.number("SELECT count(*) FROM pg_locks").await? == 0);
        Ok(())
    });
}

#[test]
fn locks_end_with_their_session_transaction_savepoint_or_statement() {
    run(|scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let a = server.connect().await?;
        let watch = server.connect().await?;
        let held = "SELECT objid, mode FROM pg_locks ORDER BY 1";
        // Of a statement outside of a transaction.
        ensure!(a.value("SELECT pg_try_advisory_xact_lock(1)").await? == "t");
        ensure!(watch.lines(held).await?.is_empty());
        a.run("BEGIN; SELECT pg_advisory_xact_lock(2); SAVEPOINT s; SELECT pg_advisory_xact_lock_shared(3)")
            .await?;
        ensure!(watch.lines(held).await? == ["2|ExclusiveLock", "3|ShareLock"]);
        ensure!(watch.value("SELECT pg_try_advisory_xact_lock(3)").await? == "f");
        ensure!(
            watch
                .value("SELECT pg_try_advisory_xact_lock_shared(3)")
                .await?
                == "t"
        );
        a.run("ROLLBACK TO s").await?;
        ensure!(watch.lines(held).await? == ["2|ExclusiveLock"]);
        a.fails("22012", "SELECT 1 / 0").await?;
        a.run("ROLLBACK").await?;
        ensure!(watch.lines(held).await?.is_empty());
        // By the extended protocol, of two numbers; then the session ends.
        let client = a.client();
        let lock = "SELECT pg_try_advisory_lock($1, $2)";
        let row = client.query_one(lock, &[&5i32, &-6i32]).await?;
        ensure!(row.get::<_, bool>(0));
        client
            .execute("SELECT pg_advisory_lock($1)", &[&(-1i64)])
            .await?;
        let ids = "SELECT classid, objid, objsubid FROM pg_locks ORDER BY 3";
        let want = ["4294967295|4294967295|1", "5|4294967290|2"];
        ensure!(watch.lines(ids).await? == want);
        drop(a);
        eventually("the session's locks are gone", async || {
            Ok(watch.lines(held).await?.is_empty().then_some(()))
        })
        .await?;
        watch.run("SELECT pg_advisory_lock(8)").await?;
        watch.run("DISCARD ALL").await?;
        ensure!(watch.lines(held).await?.is_empty());
        Ok(())
    });
}

#[test]
fn a_wait_ends_by_a_circle_a_limit_or_a_cancel() {
    run(|scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let (a, b) = (server.connect().await?, server.connect().await?);
        let watch = server.connect().await?;
        a.run("SELECT pg_advisory_lock(1)").await?;
        b.run("SELECT pg_advisory_lock(2)").await?;
        let b = begin(b, "SELECT pg_advisory_lock(1)");
        waiting(&watch, 1).await?;
        let failure = a.fails("40P01", "SELECT pg_advisory_lock(2)").await?;
        ensure!(failure.message == "deadlock detected" && failure.hint.is_some());
        watch.run("SET lock_timeout = '5ms'").await?;
        watch.fails("55P03", "SELECT pg_advisory_lock(2)").await?;
        watch
            .run("SET lock_timeout = 0; SET statement_timeout = '5ms'")
            .await?;
        watch.fails("57014", "SELECT pg_advisory_lock(2)").await?;
        watch.run("SET statement_timeout = 0").await?;
        waiting(&watch, 1).await?;
        a.run("SELECT pg_advisory_unlock_all()").await?;
        let (b, result) = b.await?;
        result?;
        let cancel = a.client().cancel_token();
        let a = begin(a, "SELECT pg_advisory_lock(1)");
        waiting(&watch, 1).await?;
        cancel.cancel_query(tokio_postgres::NoTls).await?;
        let (_a, result) = a.await?;
        ensure!(result.is_err());
        waiting(&watch, 0).await?;
        ensure!(watch.value("SELECT pg_try_advisory_lock(NULL)").await? == "NULL");
        watch
            .fails("22003", "SELECT pg_advisory_lock(1, 3000000000)")
            .await?;
        drop(b);
        Ok(())
    });
}

/// What FOR UPDATE is for: the row that it gave is the one that COMMIT finds.
#[test]
fn rows_selected_for_update_are_unchanged_at_commit() {
    run(|scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let (a, b) = (server.connect().await?, server.connect().await?);
        a.run("CREATE TABLE seats (id int PRIMARY KEY, free int); INSERT INTO seats VALUES (1, 5), (2, 5)")
            .await?;
        a.run("CREATE TABLE sold (id int, n int)").await?;
        for (other, conflicts) in [("id = 1", true), ("id = 2", false)] {
            a.run("BEGIN").await?;
            let seats = "SELECT free FROM seats AS s WHERE id = $1 FOR NO KEY UPDATE OF s NOWAIT";
            let row = a.client().query_one(seats, &[&1i32]).await?;
            a.run(&format!(
                "INSERT INTO sold VALUES (1, {})",
                row.get::<_, i32>(0)
            ))
            .await?;
            b.run(&format!("UPDATE seats SET free = free - 1 WHERE {other}"))
                .await?;
            match conflicts {
                true => drop(a.fails("40001", "COMMIT").await?),
                false => a.run("COMMIT").await?,
            }
        }
        ensure!(a.lines("SELECT * FROM sold").await? == ["1|4"]);
        Ok(())
    });
}

#[test]
fn a_locked_table_is_unchanged_at_commit() {
    run(|scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let (a, b) = (server.connect().await?, server.connect().await?);
        a.run("CREATE TABLE t (n int); CREATE TABLE log (n int); CREATE VIEW v AS SELECT n FROM t")
            .await?;
        for (lock, conflicts) in [
            ("LOCK TABLE t", true),
            ("LOCK v IN SHARE MODE", true),
            (
                "LOCK TABLE ONLY public.t, log IN SHARE ROW EXCLUSIVE MODE NOWAIT",
                true,
            ),
            ("LOCK TABLE t IN ACCESS SHARE MODE", false),
            ("LOCK TABLE t IN ROW EXCLUSIVE MODE", false),
        ] {
            a.run("BEGIN").await?;
            a.run(lock).await?;
            a.run("INSERT INTO log VALUES (1)").await?;
            b.run("INSERT INTO t VALUES (1)").await?;
            match conflicts {
                true => drop(a.fails("40001", "COMMIT").await?),
                false => a.run("COMMIT").await?,
            }
        }
        a.fails("25P01", "LOCK TABLE t").await?;
        for (code, lock) in [
            ("42P01", "LOCK TABLE nothing"),
            ("42809", "LOCK TABLE pg_class"),
            ("42601", "LOCK TABLE t IN LOUD MODE"),
        ] {
            a.run("BEGIN").await?;
            a.fails(code, lock).await?;
            a.run("ROLLBACK").await?;
        }
        Ok(())
    });
}
