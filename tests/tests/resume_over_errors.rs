//! Change streams that begin before a view's time in error and are read after it.

use anyhow::{Result, ensure};
use tidemill_tests::files::{read_sink, sum_sink};
use tidemill_tests::{Multiset, Options, Server, Sql, eventually, run};

/// Bounds a SUBSCRIBE at the newest time.
async fn now(sql: &Sql) -> Result<i64> {
    sql.number("SELECT upper FROM tidemill.views WHERE name = 'm'")
        .await
}

#[test]
fn a_time_in_error_that_has_ended_is_one_net_change() {
    run(|scratch| async move {
        let path = scratch.path("m.jsonl");
        let mut server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        sql.run("CREATE TABLE t (id bigint PRIMARY KEY, x integer)")
            .await?;
        sql.run("CREATE MATERIALIZED VIEW m AS SELECT id, 10 / x AS q FROM t")
            .await?;
        let target = path.display();
        sql.run(&format!(
            "CREATE SINK out FROM m WITH (connector = 'files', path = '{target}', format = 'jsonl')"
        ))
        .await?;
        sql.run("INSERT INTO t VALUES (1, 5)").await?;
        let start = now(&sql).await? - 1;
        sql.run("INSERT INTO t VALUES (2, 2)").await?;
        let good = now(&sql).await?;
        sql.run("INSERT INTO t VALUES (3, 0), (4, 1)").await?;
        sql.run("DELETE FROM t WHERE id = 4").await?;
        sql.run("INSERT INTO t VALUES (5, 10)").await?;

        let bounded =
            |until: i64| format!("SUBSCRIBE m WITH (SNAPSHOT = false) AS OF {start} UP TO {until}");
        let changes = async |sql: &Sql, until: i64| -> Result<Vec<String>> {
            let rows = sql.rows(&bounded(until)).await?;
            let rows = rows.iter().map(|r| {
                let text = |c: usize| r[c].clone().unwrap_or_default();
                format!("{} {} {}", text(1), text(2), text(3))
            });
            Ok(rows.collect())
        };
        // Before the error it doesn't matter that there is one now.
        ensure!(changes(&sql, good).await? == ["1 2 5"]);
        sql.fails("22012", &bounded(now(&sql).await?)).await?;

        // It heals in an epoch that doesn't change the view's rows.
        sql.run("DELETE FROM t WHERE id = 3").await?;
        let healed = now(&sql).await?;
        let got = changes(&sql, healed).await?;
        ensure!(got == ["1 2 5", "1 5 1"], "{got:?}");
        // What reads the view was in error with it.
        let query = "(SELECT id + 0 AS id, q FROM m WHERE q > 0)";
        let query = bounded(healed).replace("SUBSCRIBE m", &format!("SUBSCRIBE {query}"));
        let (rows, same) = (sql.rows(&bounded(healed)).await?, sql.rows(&query).await?);
        ensure!(rows == same, "{rows:?} {same:?}");
        let want = ["1|2", "2|5", "5|1"];
        let sink_holds = async |want: &[&str]| {
            eventually("the sink holds the view", async || {
                let lines = read_sink(&path)?;
                let want = Multiset::of_lines(want.iter().copied());
                Ok((sum_sink(&lines) == want).then_some(lines))
            })
            .await
        };
        let lines = sink_holds(&want).await?;
        ensure!(lines.len() == 3, "the sink has seen row 4: {lines:?}");

        // The sink is down while the view gets into error and out again.
        sql.run("INSERT INTO t VALUES (6, 0), (7, 1)").await?;
        server.restart(&Options::default())?;
        let sql = server.connect().await?;
        sql.run("INSERT INTO t VALUES (8, 1)").await?;
        sql.run("DELETE FROM t WHERE id IN (6, 7)").await?;
        let lines = sink_holds(&["1|2", "2|5", "5|1", "8|10"]).await?;
        ensure!(lines.len() == 4, "the sink has seen row 7: {lines:?}");
        Ok(())
    });
}
