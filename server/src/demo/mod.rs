//! `tidemill demo`: the whole story in less than a minute, everything embedded.
//!
//! It writes words and bank transfers into a directory, has a server (this same binary) follow them, prints the changes
//! of its views, kills the server in the middle, starts it again, and shows that it went on where it stopped.

mod input;
mod server;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use futures::{StreamExt, pin_mut};
use parking_lot::Mutex;
use tokio_postgres::Client;

use input::Truth;
use server::Server;

/// Options of `tidemill demo`.
#[derive(Args, Clone, Debug)]
pub struct DemoOptions {
    /// Leave the server running at the end, with a line for psql.
    #[arg(long)]
    pub keep: bool,
}

/// Files of each kind that the demo writes, half of them before the kill.
const FILES: usize = 60;
/// Time between two files.
const PACE: Duration = Duration::from_millis(150);
/// Changes that are printed before the stream is only counted.
const PRINTED: usize = 12;
/// No step takes longer than this.
const PATIENCE: Duration = Duration::from_secs(20);

const WORDS: &str = "CREATE SOURCE words (word text) WITH (connector = 'files', path = '{dir}/words', format = 'csv', \
                     header = 'true', persistent_id = 'words', commit_interval = '10ms')";
const BANK: &str = "CREATE SOURCE bank (events jsonb) WITH (connector = 'files', path = '{dir}/bank', format = 'jsonl', \
                    persistent_id = 'bank', commit_interval = '10ms')";
const COUNTS: &str =
    "CREATE MATERIALIZED VIEW word_counts AS SELECT word, count(*) AS n FROM words GROUP BY word";
const EVENTS: &str = "CREATE VIEW movements AS SELECT (e->>'account')::bigint AS account, (e->>'amount')::bigint AS amount, \
                      e->>'type' AS type FROM bank, jsonb_array_elements(events) AS e";
const BALANCES: &str = "CREATE MATERIALIZED VIEW balances AS \
    SELECT coalesce(c.account, d.account) AS account, coalesce(c.total, 0) + coalesce(d.total, 0) AS balance \
    FROM (SELECT account, sum(amount) AS total FROM movements WHERE type = 'credit' GROUP BY account) AS c \
    FULL JOIN (SELECT account, sum(amount) AS total FROM movements WHERE type = 'debit' GROUP BY account) AS d \
    ON c.account = d.account";

/// Runs the demo.
pub fn demo(options: DemoOptions) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(run(options))
}

async fn run(options: DemoOptions) -> anyhow::Result<()> {
    let started = Instant::now();
    let dir = tempfile::Builder::new()
        .prefix("tidemill-demo-")
        .tempdir()
        .context("can't make a directory for the demo")?;
    let root = dir.path().to_path_buf();
    say(&format!(
        "Tidemill demo. Everything happens in {}",
        root.display()
    ));
    input::make_directories(&root)?;

    let mut server = Server::start(&root).await?;
    say(&format!(
        "A server is running, as `tidemill serve` would run it: {}",
        server.psql()
    ));
    let client = server.connect().await?;
    say("Two sources and two views are declared, in SQL, over the Postgres protocol:\n");
    for statement in [WORDS, BANK, COUNTS, EVENTS, BALANCES] {
        let statement = statement.replace("{dir}", &root.display().to_string());
        println!("    {statement};");
        client
            .batch_execute(&statement)
            .await
            .context("a statement of the demo failed")?;
    }

    let halfway = Arc::new(AtomicBool::new(false));
    let writer = input::Writer::start(root.clone(), FILES, PACE, halfway.clone());
    say(
        "\nFiles are being written into both directories now. `SUBSCRIBE word_counts` gives every change, once, with its time:\n",
    );
    println!("    time            diff  word        n");
    let first = Changes::follow(&server, "word_counts", None).await?;
    let bank = Changes::follow(&server, "balances", None).await?;
    until("half of the files are written", || {
        halfway.load(Ordering::Acquire)
    })
    .await?;

    let (committed, read_before) = source_progress(&client).await?;
    server.kill().await?;
    let before = first.end().await;
    let bank_before = bank.end().await;
    say(&format!(
        "\nkill -9. The server is gone; the last time it had shown was {}. {committed} rows of input were committed.",
        before.last_time
    ));

    let restart = Instant::now();
    server = Server::start(&root).await?;
    let client = server.connect().await?;
    let answer: i64 = client
        .query_one("SELECT count(*) FROM word_counts", &[])
        .await?
        .get(0);
    say(&format!(
        "Started again on the same directory: first answer ({answer} words) after {} ms.",
        restart.elapsed().as_millis()
    ));
    let resumed_at = before.progress.saturating_sub(1).max(0);
    say(&format!(
        "The subscription goes on from the time it remembered (AS OF {resumed_at}), without a snapshot:\n"
    ));
    let second = Changes::follow(&server, "word_counts", Some(resumed_at)).await?;
    let bank = Changes::follow(
        &server,
        "balances",
        Some(bank_before.progress.saturating_sub(1).max(0)),
    )
    .await?;

    let truth = tokio::task::spawn_blocking(move || writer.finish()).await??;
    await_truth(&client, &truth).await?;
    let (_, read_after) = source_progress(&client).await?;
    tokio::time::sleep(Duration::from_millis(1)).await;
    let after = second
        .end_when(truth.words.values().sum::<i64>(), &before)
        .await?;
    let bank_after = bank.end().await;

    summary(
        &truth,
        &before,
        &after,
        &bank_before,
        &bank_after,
        read_before,
        read_after,
    )?;
    say(&format!(
        "\nThat took {:.0} seconds.",
        started.elapsed().as_secs_f64()
    ));
    finish(options, server, dir).await
}

fn summary(
    truth: &Truth,
    before: &Seen,
    after: &Seen,
    bank_before: &Seen,
    bank_after: &Seen,
    read_before: i64,
    read_after: i64,
) -> anyhow::Result<()> {
    let words: i64 = truth.words.values().sum();
    let counted = merged(&before.counts, &after.counts);
    say("\nWhat this showed:");
    println!(
        "  * {words} words were written. Added up, the changes seen before and after the kill give exactly the counts of each word: {}.",
        yes(counted == truth.words)
    );
    println!(
        "  * Times went on: {} was the last before, {} the first after: {}.",
        before.last_time,
        after.first_time.unwrap_or(0),
        yes(after.first_time.unwrap_or(i64::MAX) > before.last_time)
    );
    let bytes = truth.bytes as i64;
    println!(
        "  * Nothing that was committed was read again: {bytes} bytes were written; {read_before} were decoded before the kill was seen and {read_after} by the second run: {}.",
        yes(read_after <= bytes - read_before)
    );
    let torn = bank_before.torn + bank_after.torn;
    println!(
        "  * {} transfers moved money between accounts. At every one of the {} times that were shown, all balances added up to 0: {}.",
        truth.transfers,
        bank_before.times + bank_after.times,
        yes(torn == 0)
    );
    if counted != truth.words || torn > 0 || read_after > bytes - read_before {
        bail!("the demo did not show what it should; please report this");
    }
    Ok(())
}

async fn finish(
    options: DemoOptions,
    mut server: Server,
    dir: tempfile::TempDir,
) -> anyhow::Result<()> {
    println!("\nWhat to try next:");
    println!(
        "  psql: \\d, SELECT * FROM balances LIMIT 5, COPY (SUBSCRIBE word_counts) TO STDOUT,"
    );
    println!(
        "        EXPLAIN (DATAFLOW) SELECT word, count(*) FROM words GROUP BY word, SHOW SOURCES"
    );
    println!("  docs/quickstart.md: your own files, tables, sinks");
    if !options.keep {
        server.kill().await?;
        println!("  tidemill demo --keep: leaves the server running for psql");
        return Ok(());
    }
    let path = dir.keep();
    println!("\nThe server is still running:\n  {}", server.psql());
    println!(
        "  its files are in {}; end it with: kill {}",
        path.display(),
        server.pid()
    );
    server.leave();
    Ok(())
}

fn say(text: &str) {
    println!("{text}");
}

fn yes(held: bool) -> &'static str {
    if held { "yes" } else { "NO" }
}

fn merged(a: &BTreeMap<String, i64>, b: &BTreeMap<String, i64>) -> BTreeMap<String, i64> {
    let mut sum = a.clone();
    for (word, n) in b {
        *sum.entry(word.clone()).or_insert(0) += n;
    }
    sum
}

/// Rows and bytes of both sources since their server started.
async fn source_progress(client: &Client) -> anyhow::Result<(i64, i64)> {
    let row = client
        .query_one(
            "SELECT sum(rows)::bigint, sum(bytes)::bigint FROM tidemill.sources",
            &[],
        )
        .await?;
    Ok((
        row.get::<_, Option<i64>>(0).unwrap_or(0),
        row.get::<_, Option<i64>>(1).unwrap_or(0),
    ))
}

async fn await_truth(client: &Client, truth: &Truth) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let words: i64 = client
            .query_one("SELECT coalesce(sum(n), 0)::bigint FROM word_counts", &[])
            .await?
            .get(0);
        let transfers: i64 = client
            .query_one("SELECT count(*) FROM bank", &[])
            .await?
            .get(0);
        if words == truth.words.values().sum::<i64>() && transfers == truth.transfers {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("the server has {words} words and {transfers} transfers, not what was written");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn until(what: &str, done: impl Fn() -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        if Instant::now() > deadline {
            bail!("waited in vain until {what}");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// What a subscription has shown.
#[derive(Clone, Default)]
struct Seen {
    /// Per word (or account): the sum of value × diff.
    counts: BTreeMap<String, i64>,
    first_time: Option<i64>,
    last_time: i64,
    /// Last progress: everything before it has been shown.
    progress: i64,
    times: usize,
    /// Times at which the changes did not add up to zero.
    torn: usize,
}

impl Seen {
    /// Takes changes that a progress row has confirmed: after each of their times the balance must be zero.
    fn take(&mut self, changes: Vec<(i64, String, i64)>) {
        for same_time in changes.chunk_by(|a, b| a.0 == b.0) {
            self.first_time.get_or_insert(same_time[0].0);
            self.last_time = same_time[0].0;
            self.times += 1;
            let change: i64 = same_time.iter().map(|(_, _, value)| value).sum();
            self.torn += usize::from(change != 0);
            for (_, key, value) in same_time {
                *self.counts.entry(key.clone()).or_insert(0) += value;
            }
        }
    }
}

/// A running subscription.
struct Changes {
    seen: Arc<Mutex<Seen>>,
    task: tokio::task::JoinHandle<()>,
}

impl Changes {
    /// Follows a view of two columns; prints the first changes of `word_counts`.
    async fn follow(server: &Server, view: &str, after: Option<i64>) -> anyhow::Result<Changes> {
        let client = server.connect().await?;
        let resume = after.map_or("WITH (PROGRESS)".into(), |t| {
            format!("WITH (PROGRESS, SNAPSHOT = false) AS OF {t}")
        });
        let sql = format!("COPY (SUBSCRIBE {view} {resume}) TO STDOUT");
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (target, print) = (seen.clone(), view == "word_counts");
        let stream = client
            .copy_out(&sql)
            .await
            .context("the subscription failed")?;
        let task = tokio::spawn(async move {
            // Keeps the connection while the stream is read.
            let _client = client;
            let mut lines = Lines {
                seen: target,
                left: if print { PRINTED } else { 0 },
                pending: vec![],
            };
            let mut rest = String::new();
            pin_mut!(stream);
            while let Some(Ok(bytes)) = stream.next().await {
                rest.push_str(&String::from_utf8_lossy(&bytes));
                while let Some(end) = rest.find('\n') {
                    let line: String = rest.drain(..=end).collect();
                    lines.take(line.trim_end());
                }
            }
        });
        Ok(Changes { seen, task })
    }

    /// Ends the subscription; gives what it has shown.
    async fn end(self) -> Seen {
        self.task.abort();
        // An aborted task is what was asked for.
        let _ = self.task.await;
        self.seen.lock().clone()
    }

    /// Ends the subscription once it and the one before it have shown `total` in all.
    async fn end_when(self, total: i64, before: &Seen) -> anyhow::Result<Seen> {
        let earlier: i64 = before.counts.values().sum();
        let seen = self.seen.clone();
        until("the subscription has shown everything", || {
            earlier + seen.lock().counts.values().sum::<i64>() == total
        })
        .await?;
        Ok(self.end().await)
    }
}

/// Takes lines of the change stream: time, progressed, diff, key, value.
struct Lines {
    seen: Arc<Mutex<Seen>>,
    left: usize,
    /// Changes since the last progress: not known to be complete, so a resumed subscription gives them again.
    pending: Vec<(i64, String, i64)>,
}

impl Lines {
    fn take(&mut self, line: &str) {
        let fields: Vec<&str> = line.split('\t').collect();
        let [time, progressed, diff, key, value] = fields.as_slice() else {
            return;
        };
        let Ok(time) = time.parse::<i64>() else {
            return;
        };
        let mut seen = self.seen.lock();
        if *progressed == "t" {
            seen.take(std::mem::take(&mut self.pending));
            seen.progress = time;
            return;
        }
        let (Ok(diff), Ok(value)) = (diff.parse::<i64>(), value.parse::<i64>()) else {
            return;
        };
        self.pending.push((time, key.to_string(), diff * value));
        if self.left > 0 {
            self.left -= 1;
            println!("    {time}  {diff:>4}  {key:<10}  {value}");
            if self.left == 0 {
                println!("    …");
            }
        }
    }
}

/// The directory under `root` that a source reads.
fn source_dir(root: &Path, source: &str) -> PathBuf {
    root.join(source)
}
