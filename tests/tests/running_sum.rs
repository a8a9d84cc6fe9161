//! A sum that goes on after a stop: 0, 1, 3, then 6 and 10, with nothing replayed; also after two quick restarts.

use anyhow::{Result, ensure};
use tidemill_tests::files::append;
use tidemill_tests::{Options, Server, Sql, Subscription, eventually, run};

async fn sum_is(sql: &Sql, want: &str) -> Result<()> {
    eventually(&format!("the sum is {want}"), async || {
        Ok((sql.value("SELECT s FROM total").await? == want).then_some(()))
    })
    .await
}

#[test]
fn goes_on_after_restarts() {
    run(|scratch| async move {
        let file = scratch.dir("input").join("n.csv");
        append(&file, b"n\n")?;
        let mut server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        sql.run(&format!(
            "CREATE SOURCE n (n bigint) WITH (connector = 'files', path = '{}', format = 'csv', header = true, commit_interval = '10ms')",
            file.display()
        ))
        .await?;
        sql.run("CREATE MATERIALIZED VIEW total AS SELECT sum(n) AS s FROM n")
            .await?;
        let mut subscription = Subscription::open(&sql, "total").await?;
        let mut seen = Vec::new();
        for (n, want) in [(0, "0"), (1, "1"), (2, "3")] {
            append(&file, format!("{n}\n").as_bytes())?;
            subscription.until_rows(&[want]).await?;
            seen.push(want);
        }
        ensure!(
            server.terminate()?.success(),
            "SIGTERM ends the server cleanly"
        );
        drop(sql);

        for round in 0..2 {
            server = Server::start(&scratch.data(), &Options::default())?;
            let sql = server.connect().await?;
            ensure!(
                sql.value("SELECT s FROM total").await? == "3",
                "restart {round}: the sum is there at once"
            );
            let bytes = sql
                .number("SELECT bytes FROM tidemill.sources WHERE name = 'n'")
                .await?;
            ensure!(bytes == 0, "restart {round}: {bytes} bytes were read again");
            server.kill();
        }
        server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        let mut subscription = Subscription::open(&sql, "total").await?;
        subscription.until_rows(&["3"]).await?;
        for (n, want) in [(3, "6"), (4, "10")] {
            append(&file, format!("{n}\n").as_bytes())?;
            subscription.until_rows(&[want]).await?;
        }
        let values: Vec<String> = subscription
            .changes
            .iter()
            .filter(|c| c.diff > 0)
            .map(|c| c.row[0].clone().unwrap_or_default())
            .collect();
        ensure!(values == ["3", "6", "10"], "the stream shows {values:?}");
        sum_is(&sql, "10").await
    });
}
