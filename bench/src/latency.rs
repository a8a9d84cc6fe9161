//! How long a change takes to be seen: from a file's rename, and from an INSERT, to the change stream.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tidemill_tests::changes::Event;
use tidemill_tests::files::drop_file;
use tidemill_tests::wait::pace;
use tidemill_tests::{Options, Subscription};

use crate::Setting;
use crate::measure::{cpu_seconds, quantile_ms};
use crate::report::Report;

const EVERY: Duration = Duration::from_millis(50);

fn line(what: &str, mut waits: Vec<Duration>) -> String {
    waits.sort();
    format!(
        "{what}: p50 {:.1} ms, p99 {:.1} ms, maximum {:.1} ms over {} changes.",
        quantile_ms(&waits, 0.5),
        quantile_ms(&waits, 0.99),
        quantile_ms(&waits, 1.0),
        waits.len()
    )
}

/// A value of a key, that grows with every input, and when it was sent or seen.
type Stamped = (String, u64, Instant);

/// Receives changes of rows `(key, value)` until each of `last` has been seen.
async fn watch(mut subscription: Subscription, last: Vec<(String, u64)>) -> Result<Vec<Stamped>> {
    let mut seen: Vec<Stamped> = Vec::new();
    while !last
        .iter()
        .all(|(key, value)| first_at_least(&seen, key, *value).is_some())
    {
        match subscription.next().await?.context("the stream ended")? {
            Event::Change(change) if change.diff > 0 => {
                let mut fields = change.row.into_iter().flatten();
                let key = fields.next().context("no key")?;
                let value = fields.next().context("no value")?.parse()?;
                seen.push((key, value, Instant::now()));
            }
            _ => {}
        }
    }
    Ok(seen)
}

/// When an input was seen: two inputs of one epoch are one change, to the value of the later.
fn first_at_least(seen: &[Stamped], key: &str, value: u64) -> Option<Instant> {
    let mut at_least = seen.iter().filter(|(k, v, _)| k == key && *v >= value);
    at_least.next().map(|(_, _, at)| *at)
}

fn waits(sent: &[Stamped], seen: &[Stamped]) -> Vec<Duration> {
    sent.iter()
        .filter_map(|(key, value, at)| {
            Some(first_at_least(seen, key, *value)?.saturating_duration_since(*at))
        })
        .collect()
}

/// Files and INSERTs.
pub async fn latency(setting: &Setting) -> Result<Report> {
    let n: u64 = if setting.smoke { 10 } else { 200 };
    let mut report = Report::new("Latency");
    let (mut server, sql) = setting.started().await?;
    let input = setting.scratch.join("input");
    let _ = std::fs::remove_dir_all(&input);
    std::fs::create_dir_all(&input)?;
    let path = input.display();
    sql.run(&format!(
        "CREATE SOURCE words (word text) WITH (connector = 'files', path = '{path}', format = 'csv', header = true, commit_interval = '10ms')"
    ))
    .await?;
    sql.run(
        "CREATE MATERIALIZED VIEW counts AS SELECT word, count(*) AS n FROM words GROUP BY word",
    )
    .await?;
    let subscription =
        Subscription::with(&sql, "SUBSCRIBE TO counts WITH (SNAPSHOT = false)").await?;
    let words = ["hello", "world"];
    let last = words.map(|word| (word.to_owned(), n / 2)).to_vec();
    let watcher = tokio::spawn(watch(subscription, last));
    let (start, mut sent) = (Instant::now(), Vec::new());
    for i in 0..n {
        pace(start, i as u32, EVERY).await;
        let word = words[i as usize % 2];
        drop_file(
            &input,
            &format!("part-{i:04}.csv"),
            format!("word\n{word}\n").as_bytes(),
        )?;
        sent.push((word.to_owned(), i / 2 + 1, Instant::now()));
    }
    let seen = watcher.await??;
    report.note(line(
        "File renamed to change visible, commit_interval 10 ms, a file every 50 ms",
        waits(&sent, &seen),
    ));

    sql.run("CREATE TABLE t (id bigint PRIMARY KEY, v bigint)")
        .await?;
    sql.run("CREATE MATERIALIZED VIEW m AS SELECT id, v FROM t WHERE v >= 0")
        .await?;
    let subscription = Subscription::with(&sql, "SUBSCRIBE TO m WITH (SNAPSHOT = false)").await?;
    let watcher = tokio::spawn(watch(subscription, vec![((n - 1).to_string(), n - 1)]));
    let (start, mut sent, mut acknowledged) = (Instant::now(), Vec::new(), Vec::new());
    for i in 0..n {
        pace(start, i as u32, Duration::from_millis(20)).await;
        let at = Instant::now();
        sent.push((i.to_string(), i, at));
        sql.run(&format!("INSERT INTO t VALUES ({i}, {i})")).await?;
        acknowledged.push(at.elapsed());
    }
    let seen = watcher.await??;
    report.note(line("INSERT sent to change visible", waits(&sent, &seen)));
    report.note(line(
        "INSERT sent to acknowledged (durable and published)",
        acknowledged,
    ));

    if !setting.smoke {
        let (before, start) = (cpu_seconds(server.pid())?, Instant::now());
        tokio::time::sleep(Duration::from_secs(10)).await;
        let used = (cpu_seconds(server.pid())? - before) / start.elapsed().as_secs_f64();
        report.note(format!(
            "A quiet server uses {:.2} % of a core.",
            used * 100.0
        ));
    }
    let restart = Instant::now();
    server.restart(&Options::workers(setting.workers))?;
    server.connect().await?.run("SELECT * FROM counts").await?;
    report.note(format!(
        "kill -9, start, first answer: {:.0} ms.",
        restart.elapsed().as_secs_f64() * 1e3
    ));
    Ok(report)
}
