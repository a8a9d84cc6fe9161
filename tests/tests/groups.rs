//! Epochs of a source that is behind become durable a few at a time, and stay apart in all that shows them: times, changes,
//! history. A kill between any two steps loses no epoch and doubles none.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, ensure};
use tidemill_tests::files::{drop_file, read_sink};
use tidemill_tests::{Options, Server, Sql, eventually, run};

const EPOCHS: usize = 300;
/// Of each epoch.
const ROWS: usize = 100;
const KEYS: usize = 7;

/// Sources whose epochs are exactly [`ROWS`] rows, counted by key; the counts go to `sink`.
async fn declare(sql: &Sql, input: &Path, sink: &Path) -> Result<()> {
    sql.run(&format!(
        "CREATE SOURCE numbers (n bigint) WITH (connector = 'files', path = '{}', format = 'csv', epoch_rows_max = {ROWS})",
        input.display()
    ))
    .await?;
    sql.run(&format!(
        "CREATE MATERIALIZED VIEW counts AS SELECT n % {KEYS} AS k, count(*) AS c, sum(n) AS s FROM numbers GROUP BY n % {KEYS}"
    ))
    .await?;
    sql.run(&format!(
        "CREATE SINK out FROM counts WITH (connector = 'files', path = '{}', format = 'jsonl')",
        sink.display()
    ))
    .await
}

fn input() -> String {
    (0..EPOCHS * ROWS).map(|n| format!("{n}\n")).collect()
}

async fn all_is_counted(sql: &Sql) -> Result<()> {
    eventually("all rows are counted", async || {
        let n = sql
            .number("SELECT coalesce(sum(c), 0)::bigint FROM counts")
            .await?;
        Ok((n as usize == EPOCHS * ROWS).then_some(()))
    })
    .await
}

/// After each time that the sink shows, the counts are those of a whole number of epochs, one more than before.
/// The last line of the sink comes after what is read, so this waits.
async fn each_time_is_one_epoch(sink: &Path) -> Result<()> {
    let lines = eventually("the sink has all", async || {
        let lines = read_sink(sink)?;
        let total: i64 = lines.iter().map(|l| l.diff * number(&l.row[1])).sum();
        Ok((total as usize == EPOCHS * ROWS).then_some(lines))
    })
    .await?;
    let mut by_time: BTreeMap<i64, i64> = BTreeMap::new();
    for line in &lines {
        *by_time.entry(line.time).or_default() += line.diff * number(&line.row[1]);
    }
    // The view's contents when the sink was made are its first time.
    let first = by_time.values().next().copied().unwrap_or(0) as usize;
    ensure!(first.is_multiple_of(ROWS), "{first} rows at first");
    ensure!(
        by_time.values().skip(1).all(|n| *n as usize == ROWS),
        "rows by time: {by_time:?}"
    );
    ensure!(by_time.len() == EPOCHS + 1 - first / ROWS);
    Ok(())
}

fn number(text: &Option<String>) -> i64 {
    let parsed = text.as_deref().and_then(|t| t.parse().ok());
    parsed.expect("counts are numbers")
}

#[test]
fn epochs_of_a_backlog_share_commits_and_stay_apart() {
    run(|scratch| async move {
        let (directory, sink) = (scratch.dir("input"), scratch.path("counts.jsonl"));
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        declare(&sql, &directory, &sink).await?;
        let before = sql
            .number("SELECT epochs - commits FROM tidemill.commits")
            .await?;
        ensure!(before == 0, "nothing to share: {before}");
        drop_file(&directory, "n.csv", input().as_bytes())?;
        all_is_counted(&sql).await?;
        let shared = sql
            .number("SELECT epochs - commits FROM tidemill.commits")
            .await?;
        ensure!(shared > 0, "each epoch has a commit of its own");
        each_time_is_one_epoch(&sink).await
    });
}

#[test]
fn kills_between_shared_commits_lose_nothing() {
    for (name, passes) in [
        ("before_transaction", 12),
        ("after_transaction", 12),
        ("before_publish", 9),
        ("sink_write", 40),
    ] {
        run(|scratch| async move {
            let (directory, sink) = (scratch.dir("input"), scratch.path("counts.jsonl"));
            let mut server = Server::start(&scratch.data(), &Options::default())?;
            declare(&server.connect().await?, &directory, &sink).await?;
            server.kill();
            drop_file(&directory, "n.csv", input().as_bytes())?;
            for passes in [passes, 5] {
                let options = Options::default().fail_point(name, passes);
                let Ok(running) = Server::try_start(&scratch.data(), &options)? else {
                    continue; // It came so far while it started.
                };
                server = running;
                eventually(&format!("{name} is passed {passes} times"), async || {
                    Ok((!server.is_running()).then_some(()))
                })
                .await?;
            }
            let server = Server::start(&scratch.data(), &Options::default())?;
            all_is_counted(&server.connect().await?).await?;
            each_time_is_one_epoch(&sink).await
        });
    }
}
