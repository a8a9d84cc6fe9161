//! Window functions over large partitions, of which a few rows change at a time: views are what the same SELECT gives, also after
//! kill -9.

use anyhow::{Result, ensure};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use tidemill_tests::seed::rounds;
use tidemill_tests::{Options, Seed, Server, Sql, run};

/// Rows of the table; two thirds of them are in one partition.
const ROWS: i64 = 1_500;

const COLUMNS: &str = "id integer, d integer, i integer, n numeric(12,2), f double precision, ts timestamptz, t timestamp, s text";

const VIEWS: [&str; 21] = [
    "SELECT id, d, n - lag(n) OVER (PARTITION BY d ORDER BY ts) AS a, lead(s, 3, 'none') OVER (PARTITION BY d ORDER BY ts) AS b FROM e",
    "SELECT *, lag(f) OVER (ORDER BY i DESC) AS a FROM e",
    "SELECT d, s, avg(f) OVER w AS a, max(s) OVER w AS b, nth_value(n, 2) OVER w AS c FROM e WINDOW w AS (PARTITION BY d ORDER BY i, s ROWS BETWEEN 4 PRECEDING AND 1 FOLLOWING)",
    "SELECT id, sum(f) OVER (PARTITION BY d ORDER BY ts RANGE BETWEEN INTERVAL '3 seconds' PRECEDING AND CURRENT ROW) AS a FROM e",
    "SELECT id, count(*) OVER (ORDER BY t DESC RANGE BETWEEN INTERVAL '1 day' PRECEDING AND INTERVAL '2 seconds' FOLLOWING) AS a FROM e",
    "SELECT id, sum(i) OVER (PARTITION BY d ORDER BY i RANGE BETWEEN 2 PRECEDING AND 2 FOLLOWING) AS a, lag(id) OVER (PARTITION BY d ORDER BY i) AS b FROM e",
    "SELECT id, min(f) OVER (PARTITION BY d ORDER BY n DESC NULLS LAST RANGE 0.5 PRECEDING) AS a FROM e",
    "SELECT * FROM (SELECT id, d, i - lag(i) OVER (PARTITION BY d ORDER BY id) AS step FROM e) AS q WHERE step > 10",
    "SELECT id, sum(gap) OVER (PARTITION BY d ORDER BY i ROWS 2 PRECEDING) AS a FROM (SELECT *, CASE WHEN ts - lag(ts) OVER (PARTITION BY d ORDER BY i) > INTERVAL '9 seconds' THEN 1 ELSE 0 END AS gap FROM e) AS q",
    "SELECT id, 100 / (i - lag(i) OVER (PARTITION BY d ORDER BY i, id) + 7) AS a FROM e WHERE i IS NOT NULL",
    "SELECT id, row_number() OVER (PARTITION BY d ORDER BY id) AS a, lag(id) OVER (PARTITION BY d ORDER BY id) AS b FROM e",
    "SELECT d, first_value(id) OVER (ORDER BY f, n, id ROWS BETWEEN CURRENT ROW AND 2 FOLLOWING) AS a FROM e",
    // Those that look at all rows before a row: rows are added at the end of the order by id.
    "SELECT id, sum(n) OVER w AS a, row_number() OVER w AS b, avg(f) OVER w AS c, max(s) OVER w AS m FROM e WHERE i > 3 WINDOW w AS (PARTITION BY d ORDER BY id)",
    "SELECT id, min(f) OVER w AS a, count(*) FILTER (WHERE i > 10) OVER w AS b, sum(f) OVER w AS c FROM e WINDOW w AS (ORDER BY id ROWS BETWEEN UNBOUNDED PRECEDING AND 2 FOLLOWING)",
    "SELECT d, session, count(*) AS n, min(id) AS a FROM (SELECT *, sum(gap) OVER (PARTITION BY d ORDER BY id) AS session FROM (SELECT *, CASE WHEN i - lag(i) OVER (PARTITION BY d ORDER BY id) > 9 THEN 1 ELSE 0 END AS gap FROM e) AS q) AS r GROUP BY d, session",
    "SELECT id, lag(a) OVER (PARTITION BY d ORDER BY id) AS b, sum(a) OVER (PARTITION BY d ORDER BY id) AS c FROM (SELECT id, d, sum(n) OVER (PARTITION BY d ORDER BY id) AS a FROM e) AS q",
    "SELECT id, sum(a) OVER (PARTITION BY d ORDER BY id) AS b FROM (SELECT id, d, sum(n) OVER (PARTITION BY d ORDER BY id) AS a FROM e) AS q WHERE id % 600 < 300",
    "SELECT id, sum(a) OVER (PARTITION BY d ORDER BY id) AS b FROM (SELECT id, d, lead(n, 2) OVER (PARTITION BY d ORDER BY id) AS a FROM e) AS q",
    "SELECT id, sum(a) OVER (PARTITION BY d ORDER BY id) AS b FROM (SELECT id, d, count(*) OVER (PARTITION BY d ORDER BY id ROWS BETWEEN UNBOUNDED PRECEDING AND 40 FOLLOWING) AS a FROM e) AS q",
    "SELECT id, sum(a) OVER (PARTITION BY d ORDER BY id) AS b FROM (SELECT id, d, sum(i) OVER (PARTITION BY d ORDER BY id ROWS BETWEEN UNBOUNDED PRECEDING AND 3 PRECEDING) AS a FROM e) AS q",
    "SELECT * FROM (SELECT id, bool_or(f > 1) OVER w AS a, 1000 / (sum(i) OVER w + 1) AS b FROM e WHERE i IS NOT NULL WINDOW w AS (PARTITION BY d ORDER BY id ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)) AS q WHERE b < 100",
];

/// The values of a row. Places in the orders repeat where `span` is short.
fn row(rng: &mut ChaCha8Rng, id: i64, span: i64) -> String {
    let texts = [
        [1, 1, 2][rng.random_range(0..3)].to_string(),
        rng.random_range(0..span).to_string(),
        (rng.random_range(-500..500) as f64 / 4.0).to_string(),
        ["'NaN'", "'-0'", "0", "1.5", "-3", "0.1"][rng.random_range(0..6)].to_string(),
        format!(
            "'2026-03-29 00:00Z'::timestamptz + {} * INTERVAL '1 second'",
            rng.random_range(0..span)
        ),
        format!(
            "'2026-03-29 00:00'::timestamp + {} * INTERVAL '1 second'",
            rng.random_range(0..span)
        ),
        format!("'k{}'", rng.random_range(0..40)),
    ];
    let values = texts.map(|text| match rng.random_bool(0.02) {
        true => "NULL".to_string(),
        false => text,
    });
    format!("({id}, {})", values.join(", "))
}

fn change(rng: &mut ChaCha8Rng, next: &mut i64, span: i64) -> String {
    let id = rng.random_range(0..*next);
    match rng.random_range(0..10) {
        0..4 => {
            let rows = [1, 1, 5][rng.random_range(0..3)];
            let rows: Vec<String> = (0..rows).map(|n| row(rng, *next + n, span)).collect();
            *next += rows.len() as i64;
            format!("INSERT INTO e VALUES {}", rows.join(", "))
        }
        4 | 5 => format!("DELETE FROM e WHERE id = {id}"),
        6 => format!("INSERT INTO e SELECT * FROM e WHERE id = {id}"),
        7 => format!(
            "UPDATE e SET n = n + 1 WHERE id BETWEEN {id} AND {}",
            id + 30
        ),
        _ => {
            let set = [
                "i = i + 1",
                "f = -f",
                "ts = NULL",
                "d = 2",
                "n = 0",
                "s = 'zz'",
            ];
            format!(
                "UPDATE e SET {} WHERE id = {id}",
                set[rng.random_range(0..set.len())]
            )
        }
    }
}

async fn are_equal(sql: &Sql) -> Result<()> {
    for (n, query) in VIEWS.iter().enumerate() {
        let view = format!("SELECT * FROM w{n}");
        // A SELECT that fails has a view that does.
        let Ok(expected) = sql.lines(query).await else {
            sql.fails("22012", &view).await?;
            continue;
        };
        let mut expected = expected;
        let mut found = sql.lines(&view).await?;
        expected.sort_unstable();
        found.sort_unstable();
        ensure!(found == expected, "{query}");
    }
    Ok(())
}

#[test]
fn views_are_what_select_gives() {
    run(|scratch| async move {
        let seed = Seed::new("large_windows");
        let mut rng = seed.rng(0);
        let span = [ROWS / 10, ROWS, ROWS * 10][rng.random_range(0..3)];
        let mut server = Server::start(&scratch.data(), &Options::default())?;
        let mut sql = server.connect().await?;
        sql.run(&format!("CREATE TABLE e ({COLUMNS})")).await?;
        for (n, query) in VIEWS.iter().enumerate() {
            sql.run(&format!("CREATE MATERIALIZED VIEW w{n} AS {query}"))
                .await?;
        }
        let rows: Vec<String> = (0..ROWS).map(|id| row(&mut rng, id, span)).collect();
        sql.run(&format!("INSERT INTO e VALUES {}", rows.join(", ")))
            .await?;
        let mut next = ROWS;
        for round in 0..rounds(25) {
            for _ in 0..rng.random_range(1..4) {
                sql.run(&change(&mut rng, &mut next, span)).await?;
            }
            are_equal(&sql).await?;
            if round % 10 == 9 {
                server.kill();
                server = Server::start(&scratch.data(), &Options::default())?;
                sql = server.connect().await?;
                are_equal(&sql).await?;
            }
        }
        Ok(())
    });
}
