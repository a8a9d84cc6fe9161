//! A data set through a pipeline, epoch by epoch, and the view read at the end.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tidemill_tests::{Options, Server, Sql, eventually};

use crate::measure::{Cost, disk_mb, of_process};
use crate::report::Report;
use crate::{Setting, generate, peers};

/// Rows of an epoch.
const EPOCH_ROWS: usize = 100_000;
/// The same where each change is written: the neighbours' programs take as many messages of the bank.
const BANK_EPOCH_ROWS: usize = 10_000;

/// Between two questions whether a run is done, each of which takes a millisecond.
pub const ASK_EVERY: Duration = Duration::from_millis(50);

/// Which copy of the input, if any, and which output.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Plain,
    Recorded,
    /// Every change of every epoch goes to a file. The input comes when everything has been declared.
    Sink,
}

/// One measurement of a pipeline.
struct Run {
    title: String,
    mode: Mode,
    epoch_rows: usize,
}

/// A pipeline over a data set.
struct Pipeline {
    workload: &'static str,
    rows: usize,
    data: PathBuf,
    /// Sources: name, columns, directory, format.
    sources: Vec<(&'static str, &'static str, &'static str, &'static str)>,
    /// Views in order; the last one is read.
    views: Vec<(&'static str, &'static str)>,
    /// A query whose one value is `done.1` when all input is in the view.
    done: (&'static str, i64),
}

impl Pipeline {
    fn runs(&self) -> Vec<Run> {
        let run = |title: &str, mode, epoch_rows| Run {
            title: title.to_owned(),
            mode,
            epoch_rows,
        };
        let mut runs = vec![
            run("Tidemill, durable", Mode::Plain, EPOCH_ROWS),
            run("Tidemill, recording its input", Mode::Recorded, EPOCH_ROWS),
        ];
        let sink_rows = self.sink_epoch_rows();
        if sink_rows != EPOCH_ROWS {
            let title = format!("Tidemill, durable, in epochs of {sink_rows} rows");
            runs.push(run(&title, Mode::Plain, sink_rows));
        }
        runs.push(run(
            "Tidemill, each change to a file",
            Mode::Sink,
            sink_rows,
        ));
        runs
    }

    fn sink_epoch_rows(&self) -> usize {
        match self.workload {
            "bank" => BANK_EPOCH_ROWS,
            _ => EPOCH_ROWS,
        }
    }

    async fn declare(&self, sql: &Sql, run: &Run, input: &Path, out: &Path) -> Result<()> {
        let epoch_rows = run.epoch_rows;
        for (name, columns, dir, format) in &self.sources {
            let path = input.join(dir);
            let path = path.display();
            let header = if *format == "csv" {
                ", header = true"
            } else {
                ""
            };
            let recorded = if run.mode == Mode::Recorded {
                format!(", persistent_id = '{name}'")
            } else {
                String::new()
            };
            sql.run(&format!(
                "CREATE SOURCE {name} ({columns}) WITH (connector = 'files', path = '{path}', format = '{format}', \
                 epoch_rows_max = {epoch_rows}{header}{recorded})"
            ))
            .await?;
        }
        for (name, query) in &self.views {
            sql.run(&format!("CREATE MATERIALIZED VIEW {name} AS {query}"))
                .await?;
        }
        if run.mode == Mode::Sink {
            let (view, path) = (self.last_view()?, out.display());
            sql.run(&format!("CREATE SINK out FROM {view} WITH (connector = 'files', path = '{path}', format = 'jsonl')")).await?;
        }
        Ok(())
    }

    /// Puts links to the data set's files into `input`, a source after the other, each file whole.
    fn arrive(&self, input: &Path) -> Result<()> {
        for (_, _, dir, _) in &self.sources {
            let mut files = std::fs::read_dir(self.data.join(dir))?
                .map(|entry| Ok(entry?.path()))
                .collect::<Result<Vec<PathBuf>>>()?;
            files.sort();
            for file in files {
                let name = file.file_name().context("a file has a name")?;
                std::fs::hard_link(&file, input.join(dir).join(name))?;
            }
        }
        Ok(())
    }

    fn last_view(&self) -> Result<&str> {
        Ok(self.views.last().context("a pipeline has views")?.0)
    }

    /// Costs from the server's start to the last row of the view.
    async fn run(&self, setting: &Setting, run: &Run) -> Result<(Cost, Server)> {
        let out = setting.scratch.join("out.jsonl");
        let _ = std::fs::remove_file(&out);
        let arriving = setting.scratch.join("input");
        let input = match run.mode {
            Mode::Sink => &arriving,
            _ => &self.data,
        };
        if run.mode == Mode::Sink {
            let _ = std::fs::remove_dir_all(input);
            for (_, _, dir, _) in &self.sources {
                std::fs::create_dir_all(input.join(dir))?;
            }
        }
        let start = Instant::now();
        let (server, sql) = setting.started().await?;
        self.declare(&sql, run, input, &out).await?;
        if run.mode == Mode::Sink {
            self.arrive(input)?;
        }
        // A cheap question until the largest source has been read, and not often, so that asking isn't what is measured.
        let read = "SELECT coalesce(max(rows), 0)::bigint FROM tidemill.sources";
        eventually_long(&format!("{} rows read", self.rows), async || {
            let done = sql.number(read).await? >= self.rows as i64;
            if !done {
                tokio::time::sleep(ASK_EVERY).await;
            }
            Ok(done.then_some(()))
        })
        .await?;
        eventually_long(&format!("{} rows", self.rows), async || {
            Ok((sql.number(self.done.0).await? == self.done.1).then_some(()))
        })
        .await?;
        let rows = sql
            .rows(&format!("SELECT * FROM {}", self.last_view()?))
            .await?;
        ensure!(!rows.is_empty(), "the view is empty");
        if run.mode == Mode::Sink {
            eventually_long("the sink is up to date", async || {
                let behind = "SELECT count(*) FROM tidemill.sinks AS s, tidemill.commits AS c WHERE s.time < c.last_time";
                Ok((sql.number(behind).await? == 0).then_some(()))
            })
            .await?;
        }
        Ok((of_process(server.pid(), start)?, server))
    }

    async fn measure(&self, setting: &Setting, report: &mut Report) -> Result<()> {
        // As for the neighbours: a run first that reads the program's and the data's files from disk.
        if !setting.smoke {
            self.run(setting, &self.runs()[0]).await?;
        }
        for run in self.runs() {
            let (cost, mut server) = self.run(setting, &run).await?;
            let name = &run.title;
            report.cost(name, cost, self.rows);
            let disk = disk_mb(&setting.scratch.join("data"));
            let restart = Instant::now();
            server.restart(&Options::workers(setting.workers))?;
            let sql = server.connect().await?;
            ensure!(
                sql.number(self.done.0).await? == self.done.1,
                "the answer is there after kill -9"
            );
            let bytes = sql
                .number("SELECT coalesce(sum(bytes), 0)::bigint FROM tidemill.sources")
                .await?;
            report.note(format!(
                "{name}: {disk:.0} MB on disk; kill -9, start, first answer: {:.0} ms, {bytes} bytes read again.",
                restart.elapsed().as_secs_f64() * 1e3
            ));
            if run.mode == Mode::Sink {
                let lines = lines_of(&setting.scratch.join("out.jsonl"))?;
                report.note(format!(
                    "{name}: {lines} lines, in epochs of {} rows.",
                    run.epoch_rows
                ));
            }
        }
        if !setting.smoke {
            for peer in peers::run_all(
                self.workload,
                &self.data,
                &setting.scratch,
                setting.workers,
                self.sink_epoch_rows(),
            ) {
                match peer.cost {
                    Ok(cost) => report.cost(peer.name, cost, self.rows),
                    Err(error) => report.note(format!("{}: not measured ({error:#}).", peer.name)),
                }
            }
        }
        report.compare_with("DuckDB, batch");
        Ok(())
    }
}

fn lines_of(path: &Path) -> Result<usize> {
    let file = std::fs::File::open(path)?;
    Ok(std::io::BufRead::lines(std::io::BufReader::new(file)).count())
}

/// Like the tests' `eventually`, for work that takes longer than a test may.
async fn eventually_long(
    what: &str,
    mut check: impl AsyncFnMut() -> Result<Option<()>>,
) -> Result<()> {
    const DEADLINES: usize = 10;
    for _ in 1..DEADLINES {
        if eventually(what, async || check().await).await.is_ok() {
            return Ok(());
        }
    }
    eventually(what, check).await
}

/// `SELECT word, count(*) … GROUP BY word` over ten million rows in a hundred files.
pub async fn word_count(setting: &Setting) -> Result<Report> {
    let (data, rows) = generate::words(&setting.data, setting.scale)?;
    let pipeline = Pipeline {
        workload: "words",
        rows,
        data,
        sources: vec![("words", "word text", "words", "csv")],
        views: vec![(
            "counts",
            "SELECT word, count(*) AS n FROM words GROUP BY word",
        )],
        done: (
            "SELECT coalesce(sum(n), 0)::bigint FROM counts",
            rows as i64,
        ),
    };
    let mut report = Report::new(format!(
        "Word count, {rows} rows, {} worker(s)",
        setting.workers
    ));
    pipeline.measure(setting, &mut report).await?;
    Ok(report)
}

/// Messages of two events: unnest, two sums, full join.
pub async fn bank(setting: &Setting) -> Result<Report> {
    let (data, rows) = generate::bank(&setting.data, setting.scale)?;
    let pipeline = Pipeline {
        workload: "bank",
        rows,
        data,
        sources: vec![("transfers", "events jsonb", "bank", "jsonl")],
        views: vec![(
            "balances",
            "WITH events AS (\
                   SELECT (e ->> 'account_id')::bigint AS account, (e ->> 'amount')::bigint AS amount, e ->> 'event_type' AS kind \
                   FROM (SELECT jsonb_array_elements(events) AS e FROM transfers) AS x), \
                 credits AS (SELECT account, sum(amount) AS s, count(*) AS n FROM events WHERE kind = 'credit' GROUP BY account), \
                 debits AS (SELECT account, sum(amount) AS s FROM events WHERE kind = 'debit' GROUP BY account) \
                 SELECT coalesce(c.account, d.account) AS account, coalesce(c.s, 0) + coalesce(d.s, 0) AS balance, coalesce(c.n, 0) AS n \
                 FROM credits AS c FULL JOIN debits AS d ON c.account = d.account",
        )],
        done: (
            "SELECT coalesce(sum(n), 0)::bigint FROM balances",
            rows as i64,
        ),
    };
    let mut report = Report::new(format!(
        "Bank, {rows} messages, {} worker(s)",
        setting.workers
    ));
    pipeline.measure(setting, &mut report).await?;
    Ok(report)
}

/// Orders joined with customers, grouped by region.
pub async fn orders(setting: &Setting) -> Result<Report> {
    let (data, rows) = generate::orders(&setting.data, setting.scale)?;
    let pipeline = Pipeline {
        workload: "orders",
        rows,
        data,
        sources: vec![
            (
                "customers",
                "customer_id integer, name text, region text",
                "customers",
                "csv",
            ),
            (
                "orders",
                "order_id bigint, customer_id integer, amount integer",
                "orders",
                "csv",
            ),
        ],
        views: vec![(
            "regions",
            "SELECT c.region, count(*) AS n, sum(o.amount) AS total FROM orders AS o JOIN customers AS c \
             ON o.customer_id = c.customer_id GROUP BY c.region",
        )],
        done: (
            "SELECT coalesce(sum(n), 0)::bigint FROM regions",
            rows as i64,
        ),
    };
    let mut report = Report::new(format!(
        "Orders with customers, {rows} orders, {} worker(s)",
        setting.workers
    ));
    pipeline.measure(setting, &mut report).await?;
    Ok(report)
}
