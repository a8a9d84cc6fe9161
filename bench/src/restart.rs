//! How long kill -9, start and the first answers take, with ever more state.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use tidemill_tests::files::drop_file;
use tidemill_tests::{Options, Server, Sql, eventually};

use crate::Setting;
use crate::measure::{cpu_seconds, disk_mb, resident_mb};
use crate::report::Report;

/// Groups at full scale.
const GROUPS: [usize; 3] = [100_000, 1_000_000, 10_000_000];
/// Restarts of each.
const ROUNDS: usize = 3;
/// Rows of new groups that come after the restarts, as a share of the groups, and how often.
const NEW_SHARE: usize = 10;
const NEW_FILES: usize = 6;
/// Key of group i; so that keys come in no order.
const STRIDE: usize = 7919;
const KEYS: usize = 1_000_000_007;

fn key(group: usize) -> usize {
    group * STRIDE % KEYS
}

fn write_groups(out: &mut impl Write, groups: Range<usize>) -> Result<()> {
    writeln!(out, "k,v")?;
    for i in groups {
        writeln!(out, "{},{}", key(i), i % 100)?;
    }
    Ok(out.flush()?)
}

/// CPU seconds that `groups` new ones cost, from their file to the view.
async fn add_groups(
    server: &Server,
    sql: &Sql,
    input: &Path,
    groups: Range<usize>,
) -> Result<String> {
    let mut text = Vec::new();
    write_groups(&mut text, groups.clone())?;
    let before = cpu_seconds(server.pid())?;
    drop_file(input, &format!("new-{}.csv", groups.start), &text)?;
    let last = format!("SELECT count(*) FROM g WHERE k = {}", key(groups.end - 1));
    eventually("the last new group is there", async || {
        Ok((sql.number(&last).await? > 0).then_some(()))
    })
    .await?;
    Ok(format!("{:.2}", cpu_seconds(server.pid())? - before))
}

/// A view of 10⁵, 10⁶ and 10⁷ groups: after kill -9, the time from the start of the process to the answer of a SELECT by key, and to
/// the first change that a new file makes; then what new groups cost, that the store is asked for in vain.
pub async fn restart(setting: &Setting) -> Result<Report> {
    let mut report = Report::new("Restart");
    for full in GROUPS {
        let groups = setting.scale.rows(full);
        let (mut server, sql) = setting.started().await?;
        let input = setting.scratch.join("input");
        let _ = std::fs::remove_dir_all(&input);
        std::fs::create_dir_all(&input)?;
        let all = File::create(input.join("all.csv"))?;
        write_groups(&mut BufWriter::with_capacity(1 << 20, all), 0..groups)?;
        sql.run(&format!(
            "CREATE SOURCE s (k bigint, v bigint) WITH (connector = 'files', path = '{}', format = 'csv', header = true, commit_interval = '10ms', epoch_rows_max = 100000)",
            input.display()
        ))
        .await?;
        sql.run(
            "CREATE MATERIALIZED VIEW g AS SELECT k, count(*) AS n, sum(v) AS t FROM s GROUP BY k",
        )
        .await?;
        let read = "SELECT coalesce(max(rows), 0)::bigint FROM tidemill.sources";
        for _ in 0..10 {
            let all = eventually("all rows are read", async || {
                Ok((sql.number(read).await? >= groups as i64).then_some(()))
            });
            if all.await.is_ok() {
                break;
            }
        }
        let one = format!("SELECT n FROM g WHERE k = {STRIDE}");
        let mut n = sql.number(&one).await?;
        let disk = disk_mb(&setting.scratch.join("data"));
        let new = (groups / NEW_SHARE).max(1);
        let new = |n: usize| groups + n * new..groups + (n + 1) * new;
        let before = add_groups(&server, &sql, &input, new(0)).await?;
        let (mut answers, mut outputs) = (vec![], vec![]);
        for round in 0..ROUNDS {
            let start = Instant::now();
            server.restart(&Options::workers(setting.workers))?;
            let sql = server.connect().await?;
            anyhow::ensure!(sql.number(&one).await? == n, "the state is there");
            answers.push(format!("{:.0}", start.elapsed().as_secs_f64() * 1e3));
            let line = format!("k,v\n{STRIDE},1\n");
            drop_file(&input, &format!("more-{round}.csv"), line.as_bytes())?;
            eventually("the new row is counted", async || {
                Ok((sql.number(&one).await? > n).then_some(()))
            })
            .await?;
            outputs.push(format!("{:.0}", start.elapsed().as_secs_f64() * 1e3));
            n += 1;
        }
        let sql = server.connect().await?;
        let mut after = Vec::new();
        for n in 1..=NEW_FILES {
            after.push(add_groups(&server, &sql, &input, new(n)).await?);
        }
        report.note(format!(
            "{groups} groups, {disk:.0} MB on disk: first answer {} ms, first new output {} ms after the start; {:.0} MB resident.",
            answers.join(", "),
            outputs.join(", "),
            resident_mb(server.pid())?
        ));
        report.note(format!(
            "A tenth as many new groups: {before} CPU s before the restarts; one file after the other, {} after them.",
            after.join(", ")
        ));
    }
    Ok(report)
}
