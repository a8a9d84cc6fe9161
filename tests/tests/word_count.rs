//! Word count over files that appear one by one, with a kill in the middle: nothing lost, nothing read twice.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use tidemill_tests::files::{drop_file, read_sink, sum_sink};
use tidemill_tests::wait::pace;
use tidemill_tests::{Multiset, Options, Scratch, Server, eventually, run};

const FILES: u32 = 200;
const EVERY: Duration = Duration::from_millis(50);

fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_millis() as i64
}

async fn declare(server: &Server, input: &Path, out: &Path, persistent: bool) -> Result<()> {
    let persistent_id = if persistent {
        ", persistent_id = 'words'"
    } else {
        ""
    };
    let sql = server.connect().await?;
    sql.run(&format!(
        "CREATE SOURCE words (word text) WITH (connector = 'files', path = '{}', format = 'csv', header = true, \
         commit_interval = '10ms'{persistent_id})",
        input.display()
    ))
    .await?;
    sql.run(
        "CREATE MATERIALIZED VIEW counts AS SELECT word, count(*) AS n FROM words GROUP BY word",
    )
    .await?;
    let path = out.display();
    sql.run(&format!(
        "CREATE SINK out FROM counts WITH (connector = 'files', path = '{path}', format = 'jsonl')"
    ))
    .await
}

/// Rows that the sink's changes up to `time` add up to.
fn counted_at(out: &Path, time: i64) -> Result<i64> {
    let mut sum = 0;
    for line in read_sink(out)?.iter().filter(|l| l.time <= time) {
        let n: i64 = line.row[1].as_deref().unwrap_or("0").parse()?;
        sum += n * line.diff;
    }
    Ok(sum)
}

async fn interrupted(scratch: Scratch, persistent: bool) -> Result<()> {
    let (input, out) = (scratch.dir("input"), scratch.path("out.jsonl"));
    let mut server = Server::start(&scratch.data(), &Options::default())?;
    declare(&server, &input, &out, persistent).await?;

    let start = Instant::now();
    let mut killed = 0;
    let mut bytes_written = 0;
    for i in 0..FILES {
        pace(start, i, EVERY).await;
        let content = if i % 2 == 0 {
            "word\nhello\n"
        } else {
            "word\nworld\n"
        };
        bytes_written += content.len() as i64;
        drop_file(&input, &format!("part-{i:03}.csv"), content.as_bytes())?;
        if i == FILES / 2 {
            server.kill();
            killed = now_ms();
            // Input goes on while nobody reads it; the clock goes on too.
            pace(start, i + 2, EVERY).await;
            server.restart(&Options::default())?;
        }
    }
    let sql = server.connect().await?;
    eventually("both counts at 100", async || {
        let lines = sql
            .lines("SELECT word, n FROM counts ORDER BY word")
            .await?;
        Ok((lines == ["hello|100", "world|100"]).then_some(()))
    })
    .await?;

    let want = Multiset::of_lines(["hello|100", "world|100"]);
    eventually("the sink sums up to the view", async || {
        Ok((sum_sink(&read_sink(&out)?) == want).then_some(()))
    })
    .await?;
    let lines = read_sink(&out)?; // fails if times go back
    ensure!(
        lines.iter().any(|l| l.time <= killed) && lines.iter().any(|l| l.time > killed),
        "both runs wrote"
    );

    // Each file is one row of 11 bytes, so the rows of the first run tell the bytes it committed.
    let committed = 11 * counted_at(&out, killed)?;
    let again = sql
        .number("SELECT bytes FROM tidemill.sources WHERE name = 'words'")
        .await?;
    ensure!(
        committed + again == bytes_written,
        "the first run committed {committed} bytes, the second decoded {again}, {bytes_written} were written"
    );
    Ok(())
}

#[test]
fn interrupted_with_recording() {
    run(|scratch| interrupted(scratch, true));
}

#[test]
fn interrupted_without_recording() {
    run(|scratch| interrupted(scratch, false));
}
