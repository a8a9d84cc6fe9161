//! After each epoch of random changes, every view equals its query run from scratch.

use anyhow::{Result, ensure};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use tidemill_tests::seed::rounds;
use tidemill_tests::{Options, Scratch, Seed, Server, run};

/// Epochs per run; each checks [`CHECKED_PER_EPOCH`] of the views, so that each view is checked many times.
const EPOCHS: usize = 1_000;
const CHECKED_PER_EPOCH: usize = 2;

const VIEWS: [&str; 34] = [
    "SELECT k, v FROM a WHERE v > 0",
    "SELECT k + 1 AS k1, upper(s) AS u, v * 2 AS d FROM a",
    "SELECT s || '-' || coalesce(k::text, 'none') AS t FROM a WHERE s IS NOT NULL",
    "SELECT DISTINCT k, s FROM a",
    "SELECT DISTINCT f FROM a",
    "SELECT k, count(*) AS c, count(v) AS cv, sum(v) AS s FROM a GROUP BY k",
    "SELECT s, avg(v) AS m, sum(n) AS sn, avg(n) AS an FROM a GROUP BY s",
    "SELECT k, min(v) AS lo, max(v) AS hi, min(s) AS ls, max(n) AS hn FROM a GROUP BY k",
    "SELECT k, sum(f) AS s, min(f) AS lo, max(f) AS hi FROM a GROUP BY k",
    "SELECT count(*) AS c, sum(v) AS s, min(f) AS lo, max(s) AS hi FROM a",
    "SELECT k, s, count(*) AS c FROM a GROUP BY k, s",
    "SELECT k % 3 AS r, sum(v) FROM a GROUP BY k % 3 HAVING count(*) > 2",
    "SELECT f, count(*) AS c FROM a GROUP BY f",
    "SELECT n, count(*) AS c FROM a GROUP BY n",
    "SELECT k, count(DISTINCT s) AS d, count(DISTINCT v) AS dv FROM a GROUP BY k",
    "SELECT k, sum(v) FILTER (WHERE s = 'x') AS sx, count(*) FILTER (WHERE v < 0) AS neg FROM a GROUP BY k",
    "SELECT k, bool_or(v > 0) AS some, bool_and(v > 0) AS every FROM a GROUP BY k",
    "SELECT k, string_agg(s, ',' ORDER BY s, v) AS l FROM a GROUP BY k",
    "SELECT k, array_agg(v ORDER BY v) AS l FROM a GROUP BY k",
    "SELECT a.k, a.v, b.w FROM a JOIN b ON a.k = b.k",
    "SELECT a.k, a.s, b.w FROM a JOIN b ON a.k = b.k AND a.s = b.s",
    "SELECT a.k, b.k AS bk, b.w FROM a LEFT JOIN b ON a.k = b.k",
    "SELECT a.k, b.k AS bk, b.w FROM a RIGHT JOIN b ON a.k = b.k AND b.w > 0",
    "SELECT a.k, b.k AS bk, a.v, b.w FROM a FULL JOIN b ON a.k = b.k AND a.s = b.s",
    "SELECT coalesce(x.k, y.k) AS k, x.c, y.w FROM (SELECT k, count(*) AS c FROM a GROUP BY k) AS x \
     FULL JOIN (SELECT k, sum(w) AS w FROM b GROUP BY k) AS y ON x.k = y.k",
    "SELECT a.k, b.w FROM a JOIN b ON a.v < b.w AND a.k > b.k",
    "SELECT count(*) AS c FROM a CROSS JOIN b",
    "SELECT x.k, y.v FROM a AS x JOIN a AS y ON x.k = y.k WHERE x.v < y.v",
    "SELECT b.s, count(*) AS c, sum(a.v) AS v FROM a JOIN b ON a.k = b.k GROUP BY b.s",
    "SELECT k FROM a UNION ALL SELECT k FROM b",
    "SELECT k, s FROM a UNION SELECT k, s FROM b",
    "SELECT x, count(*) AS c FROM (SELECT unnest(l) AS x FROM b) AS u GROUP BY x",
    "SELECT c, count(*) AS groups FROM (SELECT k, count(*) AS c FROM a GROUP BY k) AS x GROUP BY c",
    "SELECT a.k, b.s, c.v FROM a JOIN b ON a.k = b.k JOIN a AS c ON c.s = b.s WHERE a.v > 3",
];

fn or_null(rng: &mut ChaCha8Rng, value: String) -> String {
    if rng.random_range(0..8) == 0 {
        "NULL".into()
    } else {
        value
    }
}

fn row_of_a(rng: &mut ChaCha8Rng) -> String {
    let k = rng.random_range(0..12).to_string();
    let v = rng.random_range(-5..6).to_string();
    let f = [
        "0",
        "1.5",
        "-2.25",
        "'NaN'",
        "1e16",
        "-1e16",
        "0.1",
        "'Infinity'",
    ][rng.random_range(0..8)]
    .to_string();
    let n = format!(
        "{}.{:02}",
        rng.random_range(-9..10),
        rng.random_range(0..100)
    );
    let s = ["'x'", "'y'", "''", "'a longer text than twelve bytes'"][rng.random_range(0..4)]
        .to_string();
    let values = [k, v, f, n, s].map(|value| or_null(rng, value));
    format!("({})", values.join(", "))
}

fn row_of_b(rng: &mut ChaCha8Rng) -> String {
    let k = rng.random_range(0..12).to_string();
    let w = rng.random_range(-5..6).to_string();
    let s = ["'x'", "'y'", "'z'"][rng.random_range(0..3)].to_string();
    let l = ["'{}'", "'{1,2}'", "'{2,2,3}'", "'{NULL,1}'"][rng.random_range(0..4)].to_string();
    let values = [k, w, s, l].map(|value| or_null(rng, value));
    format!("({})", values.join(", "))
}

/// The statements of one epoch: inserts with copies, deletes and updates of the same keys, sometimes all of a table.
fn epoch(rng: &mut ChaCha8Rng) -> Vec<String> {
    let mut statements = Vec::new();
    for _ in 0..rng.random_range(1..4) {
        let key = rng.random_range(0..12);
        statements.push(match rng.random_range(0..20) {
            0..=8 => {
                let rows: Vec<String> =
                    (0..rng.random_range(1..6)).map(|_| row_of_a(rng)).collect();
                format!("INSERT INTO a VALUES {}", rows.join(", "))
            }
            9..=12 => {
                let rows: Vec<String> =
                    (0..rng.random_range(1..4)).map(|_| row_of_b(rng)).collect();
                format!("INSERT INTO b VALUES {}", rows.join(", "))
            }
            13..=14 => format!("DELETE FROM a WHERE k = {key}"),
            15 => format!("DELETE FROM b WHERE k = {key}"),
            16 => format!("UPDATE a SET v = v + 1 WHERE k = {key}"),
            17 => format!("UPDATE a SET k = {key}, s = 'y' WHERE k IS NULL OR v = 3"),
            18 => format!("UPDATE b SET w = -w, k = k + 1 WHERE k <= {key}"),
            _ => "DELETE FROM a WHERE s = 'x' OR f > 1e15".into(),
        });
    }
    statements
}

async fn random_epochs(scratch: Scratch, workers: usize) -> Result<()> {
    let mut rng = Seed::new("incremental = batch").rng(workers as u64);
    let mut server = Server::start(&scratch.data(), &Options::workers(workers))?;
    let mut sql = server.connect().await?;
    sql.run("CREATE TABLE a (k integer, v bigint, f double precision, n numeric(8,2), s text)")
        .await?;
    sql.run("CREATE TABLE b (k integer, w bigint, s text, l integer[])")
        .await?;
    // A third of the views is made now, the rest while the data changes.
    let epochs = rounds(EPOCHS);
    let mut made = 0;
    for number in 0..epochs {
        while made < VIEWS.len()
            && (made < VIEWS.len() / 3 || number >= made * epochs / (3 * VIEWS.len()))
        {
            sql.run(&format!(
                "CREATE MATERIALIZED VIEW v{made} AS {}",
                VIEWS[made]
            ))
            .await?;
            made += 1;
        }
        let statements = epoch(&mut rng);
        if statements.len() > 1 {
            sql.run("BEGIN").await?;
        }
        for statement in &statements {
            sql.run(statement).await?;
        }
        if statements.len() > 1 {
            sql.run("COMMIT").await?;
        }
        if number % 250 == 249 {
            server.restart(&Options::workers(workers))?;
            sql = server.connect().await?;
        }
        let last = number + 1 == epochs;
        let checked = if last { made } else { CHECKED_PER_EPOCH };
        for i in 0..checked {
            let view = if last {
                i
            } else {
                (number * CHECKED_PER_EPOCH + i) % made
            };
            let mut incremental = sql.lines(&format!("SELECT * FROM v{view}")).await?;
            let mut batch = sql.lines(VIEWS[view]).await?;
            incremental.sort();
            batch.sort();
            ensure!(
                incremental == batch,
                "epoch {number}: {}\n  view:   {incremental:?}\n  select: {batch:?}\n  after {statements:?}",
                VIEWS[view]
            );
        }
    }
    Ok(())
}

#[test]
fn one_worker() {
    run(|scratch| random_epochs(scratch, 1));
}

#[test]
fn two_workers() {
    run(|scratch| random_epochs(scratch, 2));
}
