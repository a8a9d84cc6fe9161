//! DDL in transactions that have read or written something, as migration tools have it: it takes effect at once, and the transaction goes on
//! from there if what it has read is still so.

use anyhow::{Result, ensure};
use tidemill_tests::{Options, Scratch, Server, Sql, run};

async fn two(server: &Server) -> Result<(Sql, Sql)> {
    let (one, two) = (server.connect().await?, server.connect().await?);
    one.run("CREATE TABLE version (n bigint)").await?;
    one.run("INSERT INTO version VALUES (1)").await?;
    one.run("CREATE TABLE t (id bigint PRIMARY KEY, a text)")
        .await?;
    one.run("INSERT INTO t VALUES (1, 'x'), (2, 'y')").await?;
    one.run("CREATE MATERIALIZED VIEW total AS SELECT count(*) AS n FROM t")
        .await?;
    Ok((one, two))
}

#[test]
fn a_migration_is_one_transaction() {
    run(|scratch: Scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let (one, two) = two(&server).await?;
        one.run("BEGIN").await?;
        ensure!(one.lines("SELECT n FROM version").await? == ["1"]);
        one.run("CREATE TABLE users (id bigint PRIMARY KEY, name text)")
            .await?;
        one.run("INSERT INTO users VALUES (1, 'ann'), (2, 'bob')")
            .await?;
        one.run("CREATE INDEX ON users (name)").await?;
        one.run("ALTER TABLE t ADD COLUMN b integer DEFAULT 5")
            .await?;
        one.run("UPDATE t SET b = id WHERE id = 2").await?;
        one.run("CREATE MATERIALIZED VIEW names AS SELECT name FROM users")
            .await?;
        one.run("UPDATE version SET n = 2").await?;
        ensure!(
            one.lines("SELECT name FROM users ORDER BY id").await? == ["ann", "bob"],
            "its own rows are there after DDL"
        );
        ensure!(two.lines("SELECT n FROM version").await? == ["1"]);
        ensure!(two.lines("SELECT name FROM names").await?.is_empty());
        one.run("COMMIT").await?;
        ensure!(two.lines("SELECT n FROM version").await? == ["2"]);
        ensure!(two.lines("SELECT name FROM names ORDER BY 1").await? == ["ann", "bob"]);
        ensure!(two.lines("SELECT id FROM users WHERE name = 'bob'").await? == ["2"]);
        ensure!(two.lines("SELECT id, b FROM t ORDER BY id").await? == ["1|5", "2|2"]);
        ensure!(two.lines("SELECT n FROM total").await? == ["2"]);
        Ok(())
    });
}

#[test]
fn what_was_read_before_ddl_must_hold_after_it() {
    run(|scratch: Scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let (one, two) = two(&server).await?;
        // Changed before the DDL: it isn't done.
        one.run("BEGIN; SELECT n FROM version").await?;
        two.run("UPDATE version SET n = 7").await?;
        one.fails("40001", "CREATE TABLE never (a integer)").await?;
        one.run("ROLLBACK").await?;
        one.fails("42P01", "SELECT * FROM never").await?;
        // Changed after it: COMMIT finds out.
        one.run("BEGIN; SELECT n FROM version").await?;
        one.run("CREATE TABLE some (a bigint)").await?;
        two.run("UPDATE version SET n = 8").await?;
        one.run("INSERT INTO some SELECT n FROM version").await?;
        one.fails("40001", "COMMIT").await?;
        ensure!(one.lines("SELECT count(*) FROM some").await? == ["0"]);
        // A table that it has altered itself is still what it has read, and so is a view of it.
        for read in [
            "SELECT count(*) FROM t",
            "SELECT a FROM t WHERE id = 1",
            "SELECT n FROM total",
        ] {
            one.run(&format!("BEGIN; {read}")).await?;
            one.run("ALTER TABLE t ADD COLUMN c integer").await?;
            one.run("INSERT INTO some SELECT count(*) FROM t").await?;
            one.run("COMMIT").await?;
            one.run(&format!("BEGIN; {read}")).await?;
            one.run("ALTER TABLE t DROP COLUMN c").await?;
            two.run("UPDATE t SET a = a || 'z' WHERE id = 1").await?;
            one.run("INSERT INTO some VALUES (0)").await?;
            one.fails("40001", "COMMIT").await?;
        }
        ensure!(one.lines("SELECT a FROM some").await? == ["2", "2", "2"]);
        Ok(())
    });
}

#[test]
fn what_was_written_before_ddl_stays_to_be_committed() {
    run(|scratch: Scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let (one, two) = two(&server).await?;
        // A rewrite would miss rows that aren't committed.
        one.run("BEGIN; INSERT INTO t VALUES (3, 'z')").await?;
        let e = one
            .fails("55006", "ALTER TABLE t ADD COLUMN b integer")
            .await?;
        ensure!(
            e.message == "cannot alter table \"t\" because this transaction has changed its rows",
            "{e}"
        );
        one.run("ROLLBACK").await?;
        // What changes no rows goes on with them.
        one.run("BEGIN; INSERT INTO t VALUES (3, 'z')").await?;
        one.run("ALTER TABLE t RENAME COLUMN a TO word").await?;
        one.run("ALTER TABLE t ALTER COLUMN word SET DEFAULT 'd'")
            .await?;
        one.run("INSERT INTO t (id) VALUES (4)").await?;
        let words = "SELECT id, word FROM t WHERE id > 2 ORDER BY id";
        ensure!(one.lines(words).await? == ["3|z", "4|d"]);
        ensure!(two.lines(words).await?.is_empty());
        one.run("COMMIT").await?;
        ensure!(two.lines(words).await? == ["3|z", "4|d"]);
        ensure!(two.lines("SELECT n FROM total").await? == ["4"]);
        // With a table go its changes, and with them nothing else.
        one.run("CREATE TABLE gone (a integer)").await?;
        one.run("BEGIN; INSERT INTO gone VALUES (1); INSERT INTO t VALUES (5, 'five')")
            .await?;
        one.run("DROP TABLE gone").await?;
        one.run("CREATE TABLE gone (b text)").await?;
        one.run("INSERT INTO gone VALUES ('new')").await?;
        one.run("COMMIT").await?;
        ensure!(two.lines("SELECT b FROM gone").await? == ["new"]);
        ensure!(two.lines("SELECT n FROM total").await? == ["5"]);
        // What somebody else alters isn't dropped.
        one.run("BEGIN; INSERT INTO t VALUES (9, 'nine'); CREATE TABLE other (a integer)")
            .await?;
        two.run("ALTER TABLE t ADD COLUMN more integer").await?;
        one.fails("40001", "DROP TABLE other").await?;
        one.run("ROLLBACK").await?;
        two.run("ALTER TABLE t DROP COLUMN more; DROP TABLE other")
            .await?;
        // Back to before DDL: rows go, it stays.
        one.run("BEGIN; SAVEPOINT s; INSERT INTO t VALUES (6, 'six')")
            .await?;
        one.run("CREATE TABLE stays (a integer)").await?;
        one.run("ROLLBACK TO s; INSERT INTO stays VALUES (1); COMMIT")
            .await?;
        ensure!(two.lines("SELECT a FROM stays").await? == ["1"]);
        ensure!(two.lines("SELECT n FROM total").await? == ["5"]);
        Ok(())
    });
}
