//! One worker and two over the same input: ten views, which come to share what the input's reader gives.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use tidemill_tests::{Options, Server};

use crate::batch::ASK_EVERY;
use crate::measure::{Cost, of_process};
use crate::report::Report;
use crate::{Setting, generate};

/// Views of each run.
const VIEWS: usize = 10;
/// One and two workers in turn, so that both see the same machine.
const ROUNDS: usize = 3;

/// A view's state: little of it changes in an epoch, or most of it.
struct Shape {
    name: &'static str,
    key: fn(usize) -> String,
}

const SHAPES: [Shape; 2] = [
    Shape {
        name: "hundreds of groups a view",
        key: |view| format!("substr(word, {}, 2) || '{view}'", 1 + view % 4),
    },
    Shape {
        name: "100,000 groups a view",
        key: |view| format!("word || '{view}'"),
    },
];

/// Wall time of ten views with one worker and with two, from the input's arrival to the last row.
pub async fn workers(setting: &Setting) -> Result<Report> {
    let (data, _) = generate::words(&setting.data, setting.scale)?;
    let mut files = std::fs::read_dir(data.join("words"))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    files.sort();
    // As many rows as a run of some seconds takes.
    files.truncate((files.len() / 3).max(1));
    let mut report = Report::new(format!("{VIEWS} views with one worker and with two"));
    let rounds = if setting.smoke { 1 } else { ROUNDS };
    for shape in SHAPES {
        let mut walls = [Vec::new(), Vec::new()];
        for _ in 0..rounds {
            for (workers, walls) in (1..).zip(&mut walls) {
                let (cost, rows) = run(setting, &files, &shape, workers).await?;
                walls.push(cost.wall_s);
                let name = format!("{}, {workers} worker(s)", shape.name);
                report.cost(name, cost, rows * VIEWS);
            }
        }
        let least = |walls: &[f64]| walls.iter().copied().fold(f64::INFINITY, f64::min);
        report.note(format!(
            "{}: with two workers {:.2} times as fast as with one (the best of {rounds} each).",
            shape.name,
            least(&walls[0]) / least(&walls[1])
        ));
    }
    Ok(report)
}

async fn run(
    setting: &Setting,
    files: &[impl AsRef<Path>],
    shape: &Shape,
    workers: usize,
) -> Result<(Cost, usize)> {
    for dir in ["data", "input"] {
        let _ = std::fs::remove_dir_all(setting.scratch.join(dir));
    }
    let input = setting.scratch.join("input");
    std::fs::create_dir_all(&input)?;
    let server = Server::start(&setting.scratch.join("data"), &Options::workers(workers))?;
    let sql = server.connect().await?;
    sql.run(&format!(
        "CREATE SOURCE words (word text) WITH (connector = 'files', path = '{}', format = 'csv', header = true, epoch_rows_max = 100000)",
        input.display()
    ))
    .await?;
    for view in 0..VIEWS {
        let key = (shape.key)(view);
        sql.run(&format!(
            "CREATE MATERIALIZED VIEW v{view} AS SELECT {key} AS k, count(*) AS n, max(length(word)) AS m FROM words GROUP BY {key}"
        ))
        .await?;
    }
    let mut rows = 0;
    for file in files {
        let file = file.as_ref();
        // A header line, and a line per row.
        rows += std::fs::read_to_string(file)?.lines().count() - 1;
    }
    let start = Instant::now();
    for file in files {
        let file = file.as_ref();
        std::fs::hard_link(file, input.join(file.file_name().context("a file's name")?))?;
    }
    // One epoch's changes of all views are published together.
    let read = "SELECT coalesce(max(rows), 0)::bigint FROM tidemill.sources";
    while sql.number(read).await? < rows as i64 {
        tokio::time::sleep(ASK_EVERY).await;
    }
    let cost = of_process(server.pid(), start)?;
    for view in [0, VIEWS - 1] {
        let counted = format!("SELECT coalesce(sum(n), 0)::bigint FROM v{view}");
        ensure!(sql.number(&counted).await? == rows as i64, "all rows count");
    }
    Ok((cost, rows))
}
