//! A query that a key or an index serves answers exactly as the same query over all rows: for random keys and ranges, under
//! random writes, in transactions with writes of their own, as of the past, while indexes come and go, and after a kill.

use anyhow::{Context, Result, ensure};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use tidemill_tests::seed::rounds;
use tidemill_tests::{Options, Scratch, Seed, Server, Sql, run};
use tokio_postgres::Statement;

const T: &str = "coalesce(id::text, '-') || '|' || coalesce(a::text, '-') || '|' || coalesce(b, '-') || '|' || coalesce(c::text, '-')";
const V: &str = "coalesce(a::text, '-') || '|' || n::text || '|' || coalesce(s::text, '-') || '|' || coalesce(m, '-')";

/// What is selected, from where, a condition that a key or an index serves, and the same one in a form that none does. Of the
/// parameters the first two are bigint, the third is text.
const PAIRS: [(&str, &str, &str, &str); 12] = [
    (T, "t", "id = $1::bigint", "id + 0 = $1::bigint"),
    (
        T,
        "t",
        "id = ($1::bigint % 1000)::integer AND a > $2::bigint",
        "id + 0 = ($1::bigint % 1000)::integer AND a > $2::bigint",
    ),
    (
        T,
        "t",
        "id IN ($1::bigint, $2::bigint, 7, 7)",
        "id + 0 IN ($1::bigint, $2::bigint, 7, 7)",
    ),
    (
        T,
        "t",
        "id = $1::bigint OR id = $2::bigint",
        "id + 0 = $1::bigint OR id + 0 = $2::bigint",
    ),
    (T, "t", "b = $3::text", "b || '' = $3::text"),
    (
        T,
        "t",
        "b >= $3::text AND b < $3::text || 'z'",
        "b || '' >= $3::text AND b || '' < $3::text || 'z'",
    ),
    (
        T,
        "t",
        "a = $1::bigint AND b = $3::text",
        "a + 0 = $1::bigint AND b || '' = $3::text",
    ),
    (
        T,
        "t",
        "c BETWEEN $1::bigint AND $2::bigint + 2.5",
        "c + 0 BETWEEN $1::bigint AND $2::bigint + 2.5",
    ),
    (V, "v", "a = $1::bigint", "a + 0 = $1::bigint"),
    (V, "v", "n > $1::bigint - 20", "n + 0 > $1::bigint - 20"),
    (
        V,
        "v",
        "a IN ($1::bigint, $2::bigint) AND m = $3::text",
        "a + 0 IN ($1::bigint, $2::bigint) AND m || '' = $3::text",
    ),
    (
        V,
        "v",
        "$1::bigint <= a AND $2::bigint > a",
        "$1::bigint <= a + 0 AND $2::bigint > a + 0",
    ),
];

/// Indexes that come and go.
const INDEXES: [(&str, &str); 6] = [
    ("i_b", "t (b)"),
    ("i_ab", "t (a, b)"),
    ("i_c", "t (c)"),
    ("i_n", "v (n)"),
    ("i_a", "v (a)"),
    ("i_m", "v (m, a)"),
];

fn key(rng: &mut ChaCha8Rng) -> i64 {
    match rng.random_range(0..20) {
        0 => 1 << 40,
        1 => -5,
        _ => rng.random_range(0..40),
    }
}

fn text(rng: &mut ChaCha8Rng) -> String {
    match rng.random_range(0..6) {
        0 => String::new(),
        1 => format!("x{}", rng.random_range(0..3)),
        _ => format!("a long common beginning {}", rng.random_range(0..9)),
    }
}

fn sql_text(value: Option<String>) -> String {
    value.map_or("NULL".into(), |v| format!("'{v}'"))
}

fn write(rng: &mut ChaCha8Rng) -> String {
    let maybe = |rng: &mut ChaCha8Rng, v: String| {
        if rng.random_bool(0.1) {
            "NULL".into()
        } else {
            v
        }
    };
    let (a, c) = (rng.random_range(0..12), rng.random_range(-300..4000));
    let (a, c) = (
        maybe(rng, a.to_string()),
        maybe(rng, format!("{c} / 100.0")),
    );
    let b = rng.random_bool(0.9).then(|| text(rng));
    let b = sql_text(b);
    let id = rng.random_range(0..40);
    match rng.random_range(0..5) {
        0 => format!("UPDATE t SET a = {a} WHERE id = {id}"),
        1 => format!("UPDATE t SET b = {b}, c = {c} WHERE id BETWEEN {id} AND {id} + 3"),
        2 => format!("DELETE FROM t WHERE id = {id}"),
        3 => format!("DELETE FROM t WHERE b = {}", sql_text(Some(text(rng)))),
        _ => format!(
            "INSERT INTO t SELECT {id}, {a}, {b}, {c} WHERE NOT EXISTS (SELECT 1 FROM t WHERE id = {id})"
        ),
    }
}

/// Prepared statements of one session.
struct Prepared(Vec<(Statement, Statement)>);

impl Prepared {
    async fn new(sql: &Sql) -> Result<Prepared> {
        let mut all = Vec::new();
        for (what, from, fast, slow) in PAIRS {
            // All three parameters have a type in every statement.
            let text = |condition: &str| {
                format!(
                    "SELECT {what} AS line FROM {from} WHERE ({condition}) AND ($1::bigint IS NULL OR $2::bigint IS NULL OR $3::text IS NULL OR true)"
                )
            };
            all.push((
                sql.client()
                    .prepare(&text(fast))
                    .await
                    .with_context(|| text(fast))?,
                sql.client()
                    .prepare(&text(slow))
                    .await
                    .with_context(|| text(slow))?,
            ));
        }
        Ok(Prepared(all))
    }

    /// Runs each pair with random parameters; `tables` only where a transaction has written.
    async fn check(&self, sql: &Sql, rng: &mut ChaCha8Rng, tables: bool) -> Result<usize> {
        let mut rows = 0;
        for ((fast, slow), pair) in self.0.iter().zip(PAIRS) {
            if tables && pair.1 != "t" {
                continue;
            }
            let number = |rng: &mut ChaCha8Rng| rng.random_bool(0.95).then(|| key(rng));
            let (x, y) = (number(rng), number(rng));
            let z = rng.random_bool(0.95).then(|| text(rng));
            let mut answers = Vec::new();
            for statement in [fast, slow] {
                let found = sql.client().query(statement, &[&x, &y, &z]).await;
                let mut lines: Vec<String> = match found {
                    Ok(rows) => rows.iter().map(|r| r.get(0)).collect(),
                    Err(e) => vec![format!("{:?}", e.code())],
                };
                lines.sort();
                answers.push(lines);
            }
            ensure!(
                answers[0] == answers[1],
                "{} with {x:?}, {y:?}, {z:?}:\n{:?}\nall rows:\n{:?}",
                pair.2,
                answers[0],
                answers[1]
            );
            rows += answers[0].len();
        }
        Ok(rows)
    }
}

/// The same with constants, at a time.
async fn check_past(sql: &Sql, rng: &mut ChaCha8Rng, at: i64) -> Result<()> {
    for (what, from, fast, slow) in PAIRS {
        let (x, y, z) = (key(rng), key(rng), text(rng));
        let mut answers = Vec::new();
        for condition in [fast, slow] {
            let condition = condition
                .replace("$1::bigint", &format!("({x})::bigint"))
                .replace("$2::bigint", &format!("({y})::bigint"))
                .replace("$3::text", &format!("'{z}'"));
            let query = format!("SELECT {what} AS line FROM {from} WHERE {condition} AS OF {at}");
            let mut lines = match sql.try_rows(&query).await {
                Ok(rows) => rows.iter().map(|r| format!("{r:?}")).collect(),
                Err(e) => vec![e.to_string()],
            };
            lines.sort();
            answers.push((query, lines));
        }
        ensure!(answers[0].1 == answers[1].1, "{answers:#?}");
    }
    Ok(())
}

#[test]
fn keys_and_indexes_answer_as_all_rows_do() {
    run(|scratch: Scratch| async move {
        let seed = Seed::new("reads_by_key");
        let mut rng = seed.rng(0);
        let mut server = Server::start(&scratch.data(), &Options::workers(2))?;
        let mut sql = server.connect().await?;
        sql.run("CREATE TABLE t (id integer PRIMARY KEY, a bigint, b text, c numeric(8,2))")
            .await?;
        sql.run("CREATE MATERIALIZED VIEW v AS SELECT a, count(*) AS n, sum(c) AS s, max(b) AS m FROM t GROUP BY a")
            .await?;
        let mut there = [false; INDEXES.len()];
        let mut prepared = Prepared::new(&sql).await?;
        let mut rows = 0;
        for round in 0..rounds(60) {
            for _ in 0..rng.random_range(0..8) {
                sql.run(&write(&mut rng)).await?;
            }
            rows += prepared.check(&sql, &mut rng, false).await?;
            if rng.random_bool(0.3) {
                sql.run("BEGIN").await?;
                for _ in 0..rng.random_range(1..5) {
                    sql.run(&write(&mut rng)).await?;
                }
                rows += prepared.check(&sql, &mut rng, true).await?;
                sql.run(["COMMIT", "ROLLBACK"][rng.random_range(0..2)])
                    .await?;
            }
            if rng.random_bool(0.5) {
                let i = rng.random_range(0..INDEXES.len());
                let (name, on) = INDEXES[i];
                match there[i] {
                    true => sql.run(&format!("DROP INDEX {name}")).await?,
                    false => sql.run(&format!("CREATE INDEX {name} ON {on}")).await?,
                }
                there[i] = !there[i];
            }
            if rng.random_bool(0.2) {
                let at = sql.number("SELECT upper - 1 FROM tidemill.commits").await?;
                for _ in 0..rng.random_range(0..4) {
                    sql.run(&write(&mut rng)).await?;
                }
                check_past(&sql, &mut rng, at).await?;
            }
            if round % 20 == 19 {
                server.kill();
                server.restart(&Options::workers(1 + round % 2))?;
                sql = server.connect().await?;
                prepared = Prepared::new(&sql).await?;
            }
        }
        ensure!(rows > 0, "nothing was ever found");
        Ok(())
    });
}

/// What is computed in several ways: by joins, which keep a side in memory, sorts, sets, windows and subqueries.
const SENT_AGAIN: [&str; 7] = [
    "SELECT count(*), coalesce(sum(a), 0) FROM t",
    "SELECT x.id, y.id FROM t AS x JOIN t AS y ON x.a = y.id ORDER BY 1, 2",
    "SELECT x.id, y.b FROM t AS x, t AS y WHERE x.a < y.a ORDER BY 1, 2 LIMIT 7",
    "SELECT id, sum(a) OVER (PARTITION BY b ORDER BY id) FROM t ORDER BY id DESC LIMIT 9",
    "SELECT a FROM v UNION SELECT id FROM t EXCEPT SELECT n FROM v ORDER BY 1",
    "SELECT id FROM t WHERE a > (SELECT avg(a) FROM t) AND EXISTS (SELECT FROM v WHERE v.a = t.a) ORDER BY id",
    "WITH RECURSIVE r AS (SELECT min(id) AS id FROM t UNION SELECT t.id FROM r JOIN t ON t.a = r.id) SELECT * FROM r ORDER BY 1",
];

/// The plan of a text that a session sends again is used again; the rows are those of now, and of the session's transaction.
#[test]
fn statements_sent_again_read_what_is_new() {
    run(|scratch: Scratch| async move {
        let seed = Seed::new("sent_again");
        let mut rng = seed.rng(0);
        let server = Server::start(&scratch.data(), &Options::workers(2))?;
        let sql = server.connect().await?;
        sql.run("CREATE TABLE t (id integer PRIMARY KEY, a bigint, b text, c numeric(8,2))")
            .await?;
        sql.run("CREATE MATERIALIZED VIEW v AS SELECT a, count(*) AS n, sum(c) AS s, max(b) AS m FROM t GROUP BY a")
            .await?;
        let mut prepared = Vec::new();
        for query in SENT_AGAIN {
            prepared.push(sql.client().prepare(query).await?);
        }
        let mut different = std::collections::HashSet::new();
        for _ in 0..rounds(20) {
            for _ in 0..rng.random_range(1..6) {
                sql.run(&write(&mut rng)).await?;
            }
            let fresh = sql.another().await?;
            for (query, statement) in SENT_AGAIN.iter().zip(&prepared) {
                let expected = fresh.lines(query).await?;
                let again = sql.lines(query).await?;
                ensure!(again == expected, "{query}: {again:?}, not {expected:?}");
                let rows = sql.client().query(statement, &[]).await?.len();
                ensure!(rows == expected.len(), "{query}: {rows} rows prepared");
                different.insert(expected);
            }
            sql.run("BEGIN").await?;
            let before = sql.lines(SENT_AGAIN[0]).await?;
            sql.run("INSERT INTO t VALUES (-1, 5, 'mine', 1)").await?;
            let within = sql.lines(SENT_AGAIN[0]).await?;
            sql.run("ROLLBACK").await?;
            ensure!(before != within, "own writes aren't seen: {within:?}");
            let after = sql.lines(SENT_AGAIN[0]).await?;
            ensure!(after == before, "{after:?}, not {before:?}");
        }
        ensure!(
            different.len() > 2 * SENT_AGAIN.len(),
            "hardly anything changed"
        );
        two_cursors(&sql).await
    });
}

/// Two runs of one plan at a time.
async fn two_cursors(sql: &Sql) -> Result<()> {
    let query = SENT_AGAIN[1];
    let expected = sql.lines(query).await?;
    sql.run("BEGIN").await?;
    for cursor in ["a", "b"] {
        sql.run(&format!("DECLARE {cursor} CURSOR FOR {query}"))
            .await?;
    }
    let mut got = [Vec::new(), Vec::new()];
    for _ in 0..expected.len() {
        for (cursor, got) in ["a", "b"].iter().zip(&mut got) {
            got.extend(sql.lines(&format!("FETCH 1 FROM {cursor}")).await?);
        }
    }
    sql.run("COMMIT").await?;
    ensure!(
        got[0] == expected && got[1] == expected,
        "{got:?}, not {expected:?}"
    );
    Ok(())
}
