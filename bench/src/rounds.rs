//! Recursive queries, whose rounds share what doesn't change, and WITH queries named more than once.

use anyhow::{Result, ensure};
use tidemill_tests::Sql;

use crate::Setting;
use crate::joins::timed;
use crate::report::Report;

const REACHED: &str =
    "WITH RECURSIVE r (n) AS (SELECT 1 UNION SELECT e.dst FROM edges e JOIN r ON e.src = r.n)";

/// What a query asks for, and the query.
const QUERIES: [(&str, &str); 5] = [
    (
        "What is reached in a thousand steps",
        "SELECT count(*) FROM r",
    ),
    (
        "All below one, eleven levels",
        "WITH RECURSIVE r (id) AS (VALUES (1) UNION ALL SELECT s.id FROM staff s JOIN r ON s.boss = r.id) SELECT count(*) FROM r",
    ),
    (
        "A hundred rounds that each look up a group's sum",
        "WITH RECURSIVE r (i, s) AS (SELECT 0, 0::numeric UNION ALL SELECT i + 1, r.s + a.n FROM r JOIN (SELECT boss % 1000 AS k, sum(id) AS n FROM staff GROUP BY 1) a \
         ON a.k = r.i WHERE i < 100) SELECT count(*) FROM r",
    ),
    (
        "The distinct values of a column, each the next one after the last",
        "WITH RECURSIVE r AS (SELECT min(pay) AS pay FROM staff UNION ALL SELECT (SELECT s.pay FROM staff s WHERE s.pay > r.pay ORDER BY s.pay LIMIT 1) FROM r WHERE r.pay IS NOT NULL) \
         SELECT count(*) FROM r",
    ),
    (
        "Sums per group, named four times",
        "WITH s AS (SELECT boss, sum(pay) AS pay FROM staff GROUP BY boss), p AS (SELECT a.boss, a.pay + b.pay AS pay FROM s a JOIN s b USING (boss)) \
         SELECT count(*) FROM p a JOIN p b USING (boss)",
    ),
];

async fn load(sql: &Sql, rows: u64) -> Result<()> {
    for statement in [
        "CREATE TABLE edges (src int, dst int)".into(),
        "CREATE TABLE staff (id int PRIMARY KEY, boss int, pay int)".into(),
        "INSERT INTO edges SELECT n, n + 1 FROM generate_series(1, 1000) AS s (n)".into(),
        format!(
            "INSERT INTO edges SELECT 10000 + n % 5000, 10000 + (n * 7919) % 100000 FROM generate_series(1, {rows}::bigint) AS s (n)"
        ),
        format!(
            "INSERT INTO staff SELECT n, n / 3, n % 211 FROM generate_series(1, {rows}) AS s (n)"
        ),
    ] {
        sql.run(&statement).await?;
    }
    Ok(())
}

/// See the module.
pub async fn rounds(setting: &Setting) -> Result<Report> {
    let rows = if setting.smoke { 2_000 } else { 200_000 };
    let (server, sql) = setting.started().await?;
    let mut report = Report::new(format!(
        "Recursive queries over {rows} rows, ms of CPU and ms each"
    ));
    load(&sql, rows).await?;
    for (i, (what, query)) in QUERIES.into_iter().enumerate() {
        let query = match i {
            0 => format!("{REACHED} {query}"),
            _ => query.into(),
        };
        let found = sql.number(&query).await?;
        let (cpu, wall) = timed(&server, 5, async || {
            ensure!(sql.number(&query).await? == found, "the same answer again");
            Ok(())
        })
        .await?;
        report.note(format!("{what}: {cpu:.1} and {wall:.1}; {found} rows."));
    }
    let view = format!("CREATE MATERIALIZED VIEW reached AS {REACHED} SELECT n FROM r");
    let (cpu, wall) = timed(&server, 1, async || sql.run(&view).await).await?;
    report.note(format!(
        "The first as a view, created: {cpu:.1} and {wall:.1}."
    ));
    let mut n = 1000;
    let (cpu, wall) = timed(&server, 10, async || {
        n += 1;
        sql.run(&format!("INSERT INTO edges VALUES ({n}, {})", n + 1))
            .await?;
        let reached = sql.number("SELECT count(*) FROM reached").await?;
        ensure!(reached == n + 1, "{reached} are reached, not {}", n + 1);
        Ok(())
    })
    .await?;
    report.note(format!("Each new edge below it: {cpu:.1} and {wall:.1}."));
    Ok(report)
}
