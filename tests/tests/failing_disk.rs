//! A disk that fails under the server: it ends and says why, and a restart has every write that was acknowledged.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use tidemill_tests::{Options, Scratch, Server, run};

/// I/O operations of the server's life after which all fail; the first ones are those of its start.
const OPERATIONS: [usize; 6] = [3, 14, 22, 36, 37, 90];

/// Writes until the server ends; the ids that were acknowledged, and all that were tried.
async fn write_until_it_ends(server: &mut Server) -> Result<(BTreeSet<i64>, i64)> {
    let mut acknowledged = BTreeSet::new();
    let mut next = 0;
    let Ok(sql) = server.connect().await else {
        return Ok((acknowledged, next));
    };
    let ddl = [
        "CREATE TABLE IF NOT EXISTS t (id bigint PRIMARY KEY, v text)",
        "CREATE MATERIALIZED VIEW IF NOT EXISTS m AS SELECT id % 7 AS k, count(*) AS n, sum(length(v)) AS l FROM t GROUP BY id % 7",
    ];
    for statement in ddl {
        if sql.try_rows(statement).await.is_err() {
            return Ok((acknowledged, next));
        }
    }
    for round in 0.. {
        // Now and then enough rows for a segment file.
        let rows = if round % 4 == 3 { 1500 } else { 1 };
        let ids = next..next + rows;
        next += rows;
        let insert = format!(
            "INSERT INTO t SELECT n, md5(n::text) FROM generate_series({}, {}) AS g(n)",
            ids.start,
            ids.end - 1
        );
        match sql.try_rows(&insert).await {
            Ok(_) => acknowledged.extend(ids),
            Err(_) => break,
        }
    }
    Ok((acknowledged, next))
}

async fn fails_at(scratch: &Scratch, n: usize) -> Result<()> {
    let failing = Options::default().fail_point("io_error", n);
    let (acknowledged, tried) = match Server::try_start(&scratch.data(), &failing)? {
        Err((status, log)) => {
            ensure!(status.code() == Some(1), "{status}: {log}");
            ensure!(log.contains("injected failure"), "{log}");
            Default::default()
        }
        Ok(mut server) => {
            let written = write_until_it_ends(&mut server).await?;
            let status = server.wait()?;
            let log = server.log_text();
            ensure!(status.code() == Some(1), "{status}: {log}");
            ensure!(log.contains("tidemill: "), "no message: {log}");
            ensure!(log.contains("injected failure"), "{log}");
            ensure!(!log.contains("panicked"), "{log}");
            written
        }
    };
    let server = Server::start(&scratch.data(), &Options::default())?;
    let sql = server.connect().await?;
    let tables = sql
        .number("SELECT count(*) FROM pg_class WHERE relname IN ('t', 'm')")
        .await?;
    ensure!(tables == 2 || acknowledged.is_empty());
    if tables < 2 {
        return Ok(());
    }
    let ids: BTreeSet<i64> = sql
        .lines("SELECT id FROM t")
        .await?
        .iter()
        .map(|l| l.parse())
        .collect::<Result<_, _>>()?;
    ensure!(acknowledged.is_subset(&ids), "acknowledged rows are lost");
    ensure!(ids.iter().all(|id| (0..tried).contains(id)));
    let view = sql.lines("SELECT * FROM m ORDER BY k").await?;
    let query = "SELECT id % 7, count(*), sum(length(v)) FROM t GROUP BY id % 7 ORDER BY 1";
    ensure!(view == sql.lines(query).await?);
    sql.run("INSERT INTO t VALUES (-1, 'it goes on')").await
}

#[test]
fn a_failing_disk_ends_the_server_and_loses_nothing() {
    run(|scratch| async move {
        for n in OPERATIONS {
            let scratch = scratch.sub(&n.to_string());
            fails_at(&scratch, n)
                .await
                .with_context(|| format!("all operations fail from the {n}th on"))?;
        }
        Ok(())
    });
}
