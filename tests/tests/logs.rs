//! Views whose rows only come are stored as logs. They are read, followed, indexed and resumed like all others.

use anyhow::{Result, ensure};
use rand::Rng;
use tidemill_tests::changes::{Multiset, Subscription};
use tidemill_tests::files::{drop_file, read_sink, sum_sink};
use tidemill_tests::seed::{Seed, rounds};
use tidemill_tests::{Options, Server, Sql, eventually, run};

/// The row of the view that line `n, t` gives, if it gives one.
fn row(n: i64, t: &str) -> Option<String> {
    let t = if t.is_empty() { "NULL" } else { t };
    (n % 3 != 0).then(|| format!("{}|{t}", n % 10))
}

async fn has_come(sql: &Sql, rows: usize) -> Result<()> {
    eventually(&format!("{rows} rows"), async || {
        let n = sql.number("SELECT count(*) FROM kept").await?;
        Ok((n as usize == rows).then_some(()))
    })
    .await
}

async fn set(sql: &Sql, query: &str) -> Result<Multiset> {
    Ok(Multiset::of_lines(sql.lines(query).await?))
}

async fn now(sql: &Sql) -> Result<i64> {
    sql.number("SELECT upper FROM tidemill.views WHERE name = 'kept'")
        .await
}

/// Everything that shows the view shows `want`, in order of arrival where nobody asks for another.
async fn all_agree(sql: &Sql, want: &[String]) -> Result<()> {
    let whole = sql.lines("SELECT k, t FROM kept").await?;
    ensure!(whole == want, "{} rows, not {}", whole.len(), want.len());
    let n = sql.number("SELECT count(*) FROM kept").await?;
    ensure!(n as usize == want.len(), "count(*) is {n}");
    for k in [1, 5] {
        let of_key = want.iter().filter(|r| r.starts_with(&format!("{k}|")));
        let of_key = Multiset::of_lines(of_key);
        ensure!(set(sql, &format!("SELECT k, t FROM kept WHERE k = {k}")).await? == of_key);
        let texts = sql
            .number(&format!(
                "SELECT count(*) FROM kept WHERE k = {k} AND t = 'x'"
            ))
            .await?;
        let rows = want.iter().filter(|r| **r == format!("{k}|x")).count();
        ensure!(texts as usize == rows, "{texts} times {k}|x, not {rows}");
    }
    let counted = "SELECT k, count(*) AS c, count(t) AS texts FROM kept GROUP BY k";
    ensure!(set(sql, "SELECT k, c, texts FROM above").await? == set(sql, counted).await?);
    Ok(())
}

#[test]
fn a_view_that_only_grows_is_what_came() {
    let seed = Seed::new("a_view_that_only_grows_is_what_came");
    for round in 0..rounds(3) as u64 {
        run(|scratch| async move {
            let mut rng = seed.rng(round);
            let (input, sink) = (scratch.dir("input"), scratch.path("kept.jsonl"));
            let mut server = Server::start(&scratch.data(), &Options::default())?;
            let mut sql = server.connect().await?;
            sql.run(&format!(
                "CREATE SOURCE lines (n bigint, t text) WITH (connector = 'files', path = '{}', format = 'csv', epoch_rows_max = {})",
                input.display(),
                rng.random_range(1..200)
            ))
            .await?;
            for statement in [
                "CREATE MATERIALIZED VIEW kept AS SELECT n % 10 AS k, t FROM lines WHERE n % 3 <> 0",
                "CREATE INDEX by_key ON kept (k)",
                "CREATE MATERIALIZED VIEW above AS SELECT k, count(*) AS c, count(t) AS texts FROM kept GROUP BY k",
                &format!(
                    "CREATE SINK out FROM kept WITH (connector = 'files', path = '{}', format = 'jsonl')",
                    sink.display()
                ),
            ] {
                sql.run(statement).await?;
            }
            let mut want = Vec::new();
            let mut before: Vec<(i64, usize)> = Vec::new();
            for file in 0..rng.random_range(3..8) {
                let mut text = String::new();
                for _ in 0..rng.random_range(0..1500) {
                    let (n, t) = (
                        rng.random_range(0..40),
                        ["", "x", "y"][rng.random_range(0..3)],
                    );
                    text += &format!("{n},{t}\n");
                    want.extend(row(n, t));
                }
                drop_file(&input, &format!("{file}.csv"), text.as_bytes())?;
                let patient = rng.random_bool(0.5);
                if patient {
                    has_come(&sql, want.len()).await?;
                }
                if rng.random_bool(0.5) {
                    server.restart(&Options::workers(1))?;
                    sql = server.connect().await?;
                }
                has_come(&sql, want.len()).await?;
                all_agree(&sql, &want).await?;
                before.push((now(&sql).await? - 1, want.len()));
            }
            // Moments that are over, and what came after each.
            for (at, rows) in &before {
                let then = sql
                    .lines(&format!("SELECT k, t FROM kept AS OF {at}"))
                    .await?;
                ensure!(then == want[..*rows], "as of {at}");
                let mut after = Subscription::resume(&sql, "kept", at + 1).await?;
                let rest = Multiset::of_lines(want[*rows..].iter().cloned());
                let done = |s: &Subscription| s.sum == rest;
                after.until(&format!("what came after {at}"), done).await?;
            }
            let all = Multiset::of_lines(want.iter().cloned());
            eventually("the sink holds the view", async || {
                Ok((sum_sink(&read_sink(&sink)?) == all).then_some(()))
            })
            .await
        });
    }
}
