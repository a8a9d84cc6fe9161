//! Data of unpleasant shapes: very wide rows, and one key that has half of all rows.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use tidemill_tests::{Sql, eventually};

use crate::Setting;
use crate::measure::of_process;
use crate::report::Report;

/// Columns of a wide row: bigints at even places, texts at odd ones.
const WIDTH: usize = 200;

/// A file of CSV lines without a header.
fn file(path: &Path, rows: usize, line: impl Fn(usize) -> String) -> Result<()> {
    std::fs::create_dir_all(path.parent().context("a directory above")?)?;
    let mut out = std::io::BufWriter::with_capacity(1 << 20, std::fs::File::create(path)?);
    for row in 0..rows {
        writeln!(out, "{}", line(row))?;
    }
    out.flush()?;
    Ok(())
}

/// Waits until `query` gives `n`.
async fn until(sql: &Sql, query: &str, n: usize) -> Result<()> {
    eventually(query, async || {
        Ok((sql.number(query).await? == n as i64).then_some(()))
    })
    .await
}

/// Rows of 200 columns: an aggregate over three of them, and a view that keeps a tenth of the rows whole.
pub async fn wide(setting: &Setting) -> Result<Report> {
    let rows = setting.scale.rows(100_000);
    let dir = setting.scratch.join("wide");
    file(&dir.join("a.csv"), rows, |row| {
        let cell = |c: usize| match c % 2 {
            0 => (row * 31 + c).to_string(),
            _ => format!("text {} of column {c}", row % 1_000),
        };
        (0..WIDTH).map(cell).collect::<Vec<_>>().join(",")
    })?;
    let columns: Vec<String> = (0..WIDTH)
        .map(|c| format!("c{c} {}", if c % 2 == 0 { "bigint" } else { "text" }))
        .collect();
    let start = Instant::now();
    let (server, sql) = setting.started().await?;
    sql.run(&format!(
        "CREATE SOURCE wide ({}) WITH (connector = 'files', path = '{}', format = 'csv', epoch_rows_max = 10000, persistent_id = 'wide')",
        columns.join(", "),
        dir.display()
    ))
    .await?;
    sql.run("CREATE MATERIALIZED VIEW few AS SELECT c0 % 100 AS g, count(*) AS n, sum(c2) AS s, max(c199) AS m FROM wide GROUP BY c0 % 100")
        .await?;
    sql.run("CREATE MATERIALIZED VIEW whole AS SELECT * FROM wide WHERE c0 % 10 = 0")
        .await?;
    until(&sql, "SELECT coalesce(sum(n), 0)::bigint FROM few", rows).await?;
    let kept = sql.number("SELECT count(*) FROM whole").await?;
    ensure!(
        kept as usize == rows.div_ceil(10),
        "{kept} of {rows} rows are kept whole"
    );
    let mut report = Report::new(format!("Wide rows: {rows} rows of {WIDTH} columns"));
    report.cost(
        "recorded, two views",
        of_process(server.pid(), start)?,
        rows,
    );
    Ok(report)
}

/// Half of all orders are one customer's, who then moves to another region and back.
pub async fn skew(setting: &Setting) -> Result<Report> {
    let rows = setting.scale.rows(1_000_000);
    let customers = setting.scale.rows(10_000);
    let dir = setting.scratch.join("skew");
    file(&dir.join("a.csv"), rows, |row| {
        let customer = if row % 2 == 0 { 0 } else { row % customers };
        format!("{row},{customer},{}", row % 100)
    })?;
    let start = Instant::now();
    let (server, sql) = setting.started().await?;
    sql.run("CREATE TABLE customers (id bigint PRIMARY KEY, region text)")
        .await?;
    sql.run(&format!(
        "INSERT INTO customers SELECT n, 'region ' || n % 50 FROM generate_series(0, {}) AS s (n)",
        customers - 1
    ))
    .await?;
    sql.run(&format!(
        "CREATE SOURCE orders (id bigint, customer bigint, amount bigint) WITH (connector = 'files', path = '{}', format = 'csv', \
         epoch_rows_max = 100000)",
        dir.display()
    ))
    .await?;
    sql.run(
        "CREATE MATERIALIZED VIEW regions AS SELECT c.region, count(*) AS n, sum(o.amount) AS total FROM orders AS o \
         JOIN customers AS c ON o.customer = c.id GROUP BY c.region",
    )
    .await?;
    let counted = "SELECT coalesce(sum(n), 0)::bigint FROM regions";
    until(&sql, counted, rows).await?;
    let mut report = Report::new(format!(
        "A hot key: half of {rows} orders are one customer's"
    ));
    report.cost("joined and grouped", of_process(server.pid(), start)?, rows);
    for region in ["elsewhere", "region 0"] {
        let from = Instant::now();
        sql.run(&format!(
            "UPDATE customers SET region = '{region}' WHERE id = 0"
        ))
        .await?;
        report.note(format!(
            "The customer's move to {region}, until acknowledged: {:.3} s.",
            from.elapsed().as_secs_f64()
        ));
        ensure!(
            sql.number(counted).await? == rows as i64,
            "no order is lost by a move"
        );
    }
    report.cost(
        "and moved twice",
        of_process(server.pid(), start)?,
        2 * rows,
    );
    Ok(report)
}
