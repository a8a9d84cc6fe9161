//! Times before a relation was made, or was stored anew: an error, also after restarts, and never the rows of another time.

use anyhow::{Result, ensure};
use tidemill_tests::{Options, Server, Sql, run};

/// A complete time at which everything acknowledged is there.
async fn now(sql: &Sql) -> Result<i64> {
    sql.number("SELECT max(upper) - 1 FROM tidemill.views")
        .await
}

#[test]
fn times_before_a_relation_are_refused_after_restarts_too() {
    run(|scratch| async move {
        let mut server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        sql.run("CREATE TABLE kept (x int)").await?;
        sql.run("CREATE TABLE a (x int)").await?;
        sql.run("CREATE MATERIALIZED VIEW clock AS SELECT count(*) FROM kept")
            .await?;
        sql.run("CREATE MATERIALIZED VIEW m AS SELECT count(*) AS n FROM a")
            .await?;
        sql.run("INSERT INTO kept VALUES (1)").await?;
        sql.run("INSERT INTO a VALUES (1), (2)").await?;
        let before = now(&sql).await?;
        sql.run("INSERT INTO kept VALUES (2)").await?;
        sql.run("INSERT INTO a VALUES (3)").await?;
        sql.run("DROP MATERIALIZED VIEW m").await?;
        sql.run("ALTER TABLE a ADD COLUMN y int DEFAULT 5").await?;
        sql.run("CREATE MATERIALIZED VIEW m AS SELECT count(*) AS n FROM a")
            .await?;
        sql.run("CREATE TABLE b AS SELECT * FROM a").await?;
        sql.run("CREATE TABLE empty (x int)").await?;
        let after = now(&sql).await?;
        for restart in 0..3 {
            let sql = server.connect().await?;
            for relation in ["a", "m", "b", "empty"] {
                let select = format!("SELECT * FROM {relation} AS OF {before}");
                sql.fails("22023", &select).await?;
                let subscribe = format!(
                    "SUBSCRIBE {relation} WITH (SNAPSHOT = false) AS OF {before} UP TO {}",
                    after + 1
                );
                sql.fails("22023", &subscribe).await?;
            }
            let old = sql
                .lines(&format!("SELECT * FROM kept AS OF {before}"))
                .await?;
            ensure!(old == ["1"], "restart {restart}: {old:?}");
            let made = sql.lines(&format!("SELECT * FROM m AS OF {after}")).await?;
            ensure!(made == ["3"], "restart {restart}: {made:?}");
            server.restart(&Options::default())?;
        }
        Ok(())
    });
}
