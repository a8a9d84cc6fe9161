//! How long kill -9, start and the first answers take, with ever more state.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use tidemill_tests::files::drop_file;
use tidemill_tests::{Options, eventually};

use crate::Setting;
use crate::measure::{disk_mb, resident_mb};
use crate::report::Report;

/// Groups at full scale.
const GROUPS: [usize; 3] = [100_000, 1_000_000, 10_000_000];
/// Restarts of each.
const ROUNDS: usize = 3;
/// Key of group i; so that keys come in no order.
const STRIDE: usize = 7919;
const KEYS: usize = 1_000_000_007;

fn write_input(path: &Path, groups: usize) -> Result<()> {
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    writeln!(out, "k,v")?;
    for i in 0..groups {
        writeln!(out, "{},{}", i * STRIDE % KEYS, i % 100)?;
    }
    Ok(out.flush()?)
}

/// A view of 10⁵, 10⁶ and 10⁷ groups: after kill -9, the time from the start of the process to the answer of a SELECT by key, and to
/// the first change that a new file makes.
pub async fn restart(setting: &Setting) -> Result<Report> {
    let mut report = Report::new("Restart");
    for full in GROUPS {
        let groups = setting.scale.rows(full);
        let (mut server, sql) = setting.started().await?;
        let input = setting.scratch.join("input");
        let _ = std::fs::remove_dir_all(&input);
        std::fs::create_dir_all(&input)?;
        write_input(&input.join("all.csv"), groups)?;
        sql.run(&format!(
            "CREATE SOURCE s (k bigint, v bigint) WITH (connector = 'files', path = '{}', format = 'csv', header = true, commit_interval = '10ms')",
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
        report.note(format!(
            "{groups} groups, {disk:.0} MB on disk: first answer {} ms, first new output {} ms after the start; {:.0} MB resident.",
            answers.join(", "),
            outputs.join(", "),
            resident_mb(server.pid())?
        ));
    }
    Ok(report)
}
