//! Restarts with another number of workers: the same answers, and the state is not rebuilt.

use anyhow::{Result, ensure};
use tidemill_tests::{Options, Server, Sql, run};

const QUERIES: [&str; 3] = [
    "SELECT * FROM sums ORDER BY 1",
    "SELECT * FROM joined ORDER BY 1, 2",
    "SELECT * FROM dist ORDER BY 1",
];

async fn answers(sql: &Sql) -> Result<Vec<Vec<String>>> {
    let mut all = Vec::new();
    for query in QUERIES {
        all.push(sql.lines(query).await?);
    }
    Ok(all)
}

#[test]
fn the_number_of_workers_may_change() {
    run(|scratch| async move {
        let input = scratch.dir("input");
        let mut text = String::from("k,v\n");
        (0..20_000).for_each(|i| text.push_str(&format!("{},{}\n", i % 1000, i)));
        std::fs::write(input.join("a.csv"), text)?;
        let mut server = Server::start(&scratch.data(), &Options::workers(1))?;
        let sql = server.connect().await?;
        sql.run(&format!(
            "CREATE SOURCE s (k integer, v bigint) WITH (connector = 'files', path = '{}', format = 'csv', header = true, commit_interval = '10ms')",
            input.display()
        ))
        .await?;
        sql.run("CREATE TABLE t (k integer PRIMARY KEY, name text)")
            .await?;
        sql.run("INSERT INTO t VALUES (1, 'one'), (2, 'two'), (3, 'three')")
            .await?;
        sql.run("CREATE MATERIALIZED VIEW sums AS SELECT k, sum(v) AS s, count(*) AS n, max(v) AS m FROM s GROUP BY k").await?;
        sql.run("CREATE MATERIALIZED VIEW joined AS SELECT t.name, s.v FROM t JOIN s ON t.k = s.k")
            .await?;
        sql.run("CREATE MATERIALIZED VIEW dist AS SELECT DISTINCT v % 7 AS r FROM s")
            .await?;
        tidemill_tests::eventually("all rows", async || {
            Ok((sql.number("SELECT coalesce(sum(n), 0) FROM sums").await? == 20_000).then_some(()))
        })
        .await?;
        let mut want = answers(&sql).await?;
        for (round, workers) in [2, 1, 3, 2].into_iter().enumerate() {
            drop(answers(&server.connect().await?).await?);
            server.restart(&Options::workers(workers))?;
            let sql = server.connect().await?;
            ensure!(
                answers(&sql).await? == want,
                "{workers} workers answer differently"
            );
            let bytes = sql
                .number("SELECT bytes FROM tidemill.sources WHERE name = 's'")
                .await?;
            ensure!(
                bytes == 0,
                "with {workers} workers {bytes} bytes were read again"
            );
            // State found its new owner: changes of old keys go on from it.
            let key = 10 + round;
            sql.run(&format!("INSERT INTO t VALUES ({key}, 'more')"))
                .await?;
            std::fs::write(
                input.join(format!("b{round}.csv")),
                format!("k,v\n{key},1000000\n"),
            )?;
            let query = "SELECT count(*) FROM joined WHERE name = 'more' AND v = 1000000";
            tidemill_tests::eventually("the new row", async || {
                Ok((sql.number(query).await? == round as i64 + 1).then_some(()))
            })
            .await?;
            ensure!(
                sql.value(&format!("SELECT n FROM sums WHERE k = {key}"))
                    .await?
                    == "21"
            );
            want = answers(&sql).await?;
        }
        Ok(())
    });
}

#[test]
fn partitions_are_fixed_at_the_first_start() {
    run(|scratch| async move {
        let mut server = Server::start(
            &scratch.data(),
            &Options {
                partitions: Some(8),
                ..Options::default()
            },
        )?;
        server
            .connect()
            .await?
            .run("CREATE TABLE t (a integer)")
            .await?;
        server.kill();
        match Server::try_start(
            &scratch.data(),
            &Options {
                partitions: Some(32),
                ..Options::default()
            },
        )? {
            Err((status, log)) => ensure!(
                !status.success() && log.contains("partition"),
                "says why:\n{log}"
            ),
            Ok(mut server) => {
                // Accepted: then the number of the directory goes on.
                server
                    .connect()
                    .await?
                    .run("INSERT INTO t VALUES (1)")
                    .await?;
                server.kill();
            }
        }
        let server = Server::start(&scratch.data(), &Options::default())?;
        server.connect().await?.run("SELECT * FROM t").await
    });
}
