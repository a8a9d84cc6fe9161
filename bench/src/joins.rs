//! Joins of queries: by a range, of the nearest row, in another order than they are written in; and views of some.

use std::time::Instant;

use anyhow::{Result, ensure};
use tidemill_tests::{Server, Sql};

use crate::Setting;
use crate::measure::cpu_seconds;
use crate::report::Report;

/// What a query asks for, and the query.
const QUERIES: [(&str, &str); 9] = [
    (
        "Events within a minute of each of a hundredth as many errors",
        "SELECT count(*) FROM errors x JOIN events e ON e.at BETWEEN x.at - INTERVAL '1 minute' AND x.at + INTERVAL '1 minute'",
    ),
    (
        "Events per day, days without any included",
        "SELECT count(*) FROM (SELECT d, count(e.id) FROM generate_series(timestamptz '2026-01-01Z', timestamptz '2026-01-20Z', INTERVAL '1 day') AS d \
         LEFT JOIN events e ON e.at >= d AND e.at < d + INTERVAL '1 day' GROUP BY d) AS s",
    ),
    (
        "Errors without an event in the hour after them",
        "SELECT count(*) FROM errors x WHERE NOT EXISTS (SELECT FROM events e WHERE e.at BETWEEN x.at AND x.at + INTERVAL '1 hour')",
    ),
    (
        "The next event of each error",
        "SELECT count(*) FROM errors x, LATERAL (SELECT e.id FROM events e WHERE e.at > x.at ORDER BY e.at LIMIT 1) AS n",
    ),
    (
        "The event of the same kind before each event",
        "SELECT count(*) FROM events x, LATERAL (SELECT e.id FROM events e WHERE e.kind = x.kind AND e.at < x.at ORDER BY e.at DESC LIMIT 1) AS n",
    ),
    (
        "The time of the next event of each error, as a minimum",
        "SELECT count(m) FROM (SELECT (SELECT min(e.at) FROM events e WHERE e.at > x.at) AS m FROM errors x) AS s",
    ),
    (
        "One label's events, found at the end of four joins",
        "SELECT count(*) FROM days d JOIN events e ON e.day = d.id JOIN marks m ON m.event = e.id JOIN labels l ON l.id = m.label WHERE l.name = 'label 7'",
    ),
    (
        "Events of the same kind within an hour after each",
        "SELECT count(*) FROM events x JOIN events e ON e.kind = x.kind AND e.at > x.at AND e.at < x.at + INTERVAL '1 hour'",
    ),
    (
        "Events of ten seconds that overlap",
        "SELECT count(*) FROM events x JOIN events e ON x.at <= e.at + INTERVAL '10 seconds' AND x.at + INTERVAL '10 seconds' >= e.at",
    ),
];

/// What is kept up to date, the view's name, its query, and which of [`QUERIES`] counts its rows.
const VIEWS: [(&str, &str, &str, usize); 4] = [
    (
        "The first",
        "near",
        "SELECT x.id AS error, e.id FROM errors x JOIN events e ON e.at BETWEEN x.at - INTERVAL '1 minute' AND x.at + INTERVAL '1 minute'",
        0,
    ),
    (
        "The fourth",
        "next",
        "SELECT x.id AS error, n.id FROM errors x, LATERAL (SELECT e.id FROM events e WHERE e.at > x.at ORDER BY e.at LIMIT 1) AS n",
        3,
    ),
    (
        "The eighth",
        "soon",
        "SELECT x.id AS first, e.id FROM events x JOIN events e ON e.kind = x.kind AND e.at > x.at AND e.at < x.at + INTERVAL '1 hour'",
        7,
    ),
    (
        "The last",
        "overlapping",
        "SELECT x.id AS first, e.id FROM events x JOIN events e ON x.at <= e.at + INTERVAL '10 seconds' AND x.at + INTERVAL '10 seconds' >= e.at",
        8,
    ),
];

async fn load(sql: &Sql, rows: u64) -> Result<()> {
    let at = "timestamptz '2026-01-01Z' + INTERVAL '1 second' *";
    for statement in [
        "CREATE TABLE events (id int PRIMARY KEY, at timestamptz NOT NULL, kind int, day int)"
            .into(),
        "CREATE TABLE errors (id int PRIMARY KEY, at timestamptz NOT NULL)".into(),
        "CREATE TABLE days (id int PRIMARY KEY, name text)".into(),
        "CREATE TABLE labels (id int PRIMARY KEY, name text)".into(),
        "CREATE TABLE marks (event int, label int, PRIMARY KEY (event, label))".into(),
        format!(
            "INSERT INTO events SELECT n, {at} (n * 7), n % 101, n / 12000 FROM generate_series(1, {rows}) AS s (n)"
        ),
        format!(
            "INSERT INTO errors SELECT n, {at} (n * 691) FROM generate_series(1, {rows} / 100) AS s (n)"
        ),
        "INSERT INTO days SELECT n, 'day ' || n FROM generate_series(0, 200) AS s (n)".into(),
        "INSERT INTO labels SELECT n, 'label ' || n FROM generate_series(1, 5000) AS s (n)".into(),
        format!(
            "INSERT INTO marks SELECT n, n % 5000 + 1 FROM generate_series(1, {rows}) AS s (n)"
        ),
        "CREATE INDEX ON marks (label)".into(),
    ] {
        sql.run(&statement).await?;
    }
    Ok(())
}

/// See the module.
pub async fn joins(setting: &Setting) -> Result<Report> {
    let rows = if setting.smoke { 2_000 } else { 200_000 };
    let (server, sql) = setting.started().await?;
    let mut report = Report::new(format!("Joins of {rows} events, ms of CPU and ms each"));
    load(&sql, rows).await?;
    for (what, query) in QUERIES {
        let found = sql.number(query).await?;
        let (each, wall) = timed(&server, 5, async || {
            ensure!(sql.number(query).await? == found, "the same answer again");
            Ok(())
        })
        .await?;
        report.note(format!("{what}: {each:.1} and {wall:.1}; {found} rows."));
    }
    for view in VIEWS {
        maintained(&server, &sql, view, &mut report).await?;
    }
    Ok(report)
}

/// Creates a view, and measures what changes below it cost.
async fn maintained(
    server: &Server,
    sql: &Sql,
    (what, name, query, counted): (&str, &str, &str, usize),
    report: &mut Report,
) -> Result<()> {
    let view = format!("CREATE MATERIALIZED VIEW {name} AS {query}");
    let (cpu, wall) = timed(server, 1, async || sql.run(&view).await).await?;
    report.note(format!(
        "{what} as a view, created: {cpu:.1} and {wall:.1}."
    ));
    for (changed, table, values) in [("error", "errors", "at"), ("event", "events", "at, 1, 1")] {
        let number = format!("SELECT max(id) FROM {table}");
        let mut n = sql.number(&number).await?;
        let (cpu, wall) = timed(server, 20, async || {
            n += 1;
            sql.run(&format!(
                "INSERT INTO {table} SELECT {n}, {values} FROM events WHERE id = {}",
                n % 1000 + 1
            ))
            .await
        })
        .await?;
        report.note(format!(
            "Each new {changed} below it: {cpu:.1} and {wall:.1}."
        ));
    }
    let rows = sql.number(&format!("SELECT count(*) FROM {name}")).await?;
    ensure!(
        rows == sql.number(QUERIES[counted].1).await?,
        "the view is what the query gives"
    );
    sql.run(&format!("DROP MATERIALIZED VIEW {name}")).await
}

/// Milliseconds of the server's CPU, and of the clock, that each of `times` calls takes.
pub(crate) async fn timed(
    server: &Server,
    times: u32,
    mut call: impl AsyncFnMut() -> Result<()>,
) -> Result<(f64, f64)> {
    let (start, before) = (Instant::now(), cpu_seconds(server.pid())?);
    for _ in 0..times {
        call().await?;
    }
    let each = |seconds: f64| seconds * 1e3 / f64::from(times);
    let cpu = cpu_seconds(server.pid())? - before;
    Ok((each(cpu), each(start.elapsed().as_secs_f64())))
}
