//! Statements that differ in their literals have one plan, and mean what each of them says.

use anyhow::{Result, ensure};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use tidemill_tests::seed::rounds;
use tidemill_tests::{Options, Scratch, Seed, Server, Sql, run};

const COLUMNS: [(&str, &str); 14] = [
    ("i2", "smallint"),
    ("i4", "integer"),
    ("i8", "bigint"),
    ("n", "numeric(8,2)"),
    ("f", "double precision"),
    ("s", "text"),
    ("v", "varchar(3)"),
    ("c", "char(4)"),
    ("d", "date"),
    ("ts", "timestamp"),
    ("tz", "timestamptz"),
    ("u", "uuid"),
    ("b", "boolean"),
    ("j", "jsonb"),
];

const LITERALS: [&str; 50] = [
    "0",
    "1",
    "2",
    "7",
    "-1",
    "- 2",
    "32767",
    "32768",
    "-32768",
    "2147483647",
    "2147483648",
    "-2147483648",
    "9223372036854775807",
    "9223372036854775808",
    "1.5",
    "2.0",
    "1e2",
    "NULL",
    "true",
    "'1'",
    "' 2 '",
    "'-7'",
    "'2147483648'",
    "'1.5'",
    "''",
    "'a'",
    "'ab'",
    "'ab '",
    "'abc'",
    "'abcd'",
    "'abcd  '",
    "'it''s'",
    "'ä'",
    "E'a\\n'",
    "'2020-01-01'",
    "'2020-1-2'",
    "'Jan 3 2020'",
    "'2020-02-30'",
    "'2020-01-01 12:30'",
    "'2020-01-01 12:30+02'",
    "'2020-01-01 12:30:00 America/New_York'",
    "'now'",
    "'infinity'",
    "'t'",
    "'11111111-2222-3333-4444-555555555555'",
    "'{11111111222233334444555555555555}'",
    "'{\"a\": 1}'",
    "'1'::bigint",
    "date '2020-01-01'",
    "(2)",
];

fn one<T: Copy>(rng: &mut ChaCha8Rng, of: &[T]) -> T {
    of[rng.random_range(0..of.len())]
}

/// A literal, more often than not one of the column's type.
fn literal(rng: &mut ChaCha8Rng, ty: &str) -> &'static str {
    let fitting: &[&str] = match ty {
        "smallint" | "integer" | "bigint" => &[
            "0",
            "1",
            "2",
            "-1",
            "- 2",
            "7",
            "'1'",
            "' 2 '",
            "'-7'",
            "32767",
            "(2)",
            "2147483647",
        ],
        "numeric(8,2)" | "double precision" => &["0", "1", "1.5", "2.0", "1e2", "-1", "'1.5'"],
        "date" | "timestamp" | "timestamptz" => &[
            "'2020-01-01'",
            "'2020-1-2'",
            "'Jan 3 2020'",
            "'2020-01-01 12:30'",
            "'2020-01-01 12:30+02'",
            "'2020-01-01 12:30:00 America/New_York'",
        ],
        "uuid" => &[
            "'11111111-2222-3333-4444-555555555555'",
            "'{11111111222233334444555555555555}'",
        ],
        "boolean" => &["true", "false", "'t'", "NULL"],
        "jsonb" => &["'{\"a\": 1}'", "'1'"],
        _ => &[
            "''", "'a'", "'ab'", "'ab '", "'abc'", "'it''s'", "'ä'", "E'a\\n'",
        ],
    };
    match rng.random_range(0..8) {
        0 => one(rng, &LITERALS),
        _ => one(rng, fitting),
    }
}

fn condition(rng: &mut ChaCha8Rng, values: &mut ChaCha8Rng, table: &str) -> String {
    let (column, ty) = one(rng, &COLUMNS);
    let qualified = format!("{table}.{column}");
    let column = one(rng, &[column, &qualified]);
    let value = literal(values, ty);
    match rng.random_range(0..10) {
        0 => format!("{column} BETWEEN {value} AND {}", literal(values, ty)),
        1 => format!("{column} IN ({value}, {})", literal(values, ty)),
        2 => format!("{value} = {column}"),
        3 => format!("({column} <= {value})"),
        _ => {
            let operator = one(rng, &["=", "=", "<>", "<", ">="]);
            format!("{column} {operator} {value}")
        }
    }
}

/// A statement over `table`, of which `values` chooses the literals and nothing else.
fn statement(rng: &mut ChaCha8Rng, values: &mut ChaCha8Rng, table: &str) -> String {
    let mut conditions = condition(rng, values, table);
    for _ in 0..rng.random_range(0..3) {
        let word = one(rng, &["AND", "AND", "OR"]);
        conditions = format!("{conditions} {word} {}", condition(rng, values, table));
    }
    match rng.random_range(0..8) {
        0 => format!("DELETE FROM {table} WHERE {conditions} AND id < 3 RETURNING id"),
        1..=3 => {
            let (column, ty) = one(rng, &COLUMNS);
            let value = literal(values, ty);
            let value = match rng.random_range(0..3) {
                0 => format!("{column} {} {value}", one(rng, &["+", "-", "||"])),
                _ => value.to_string(),
            };
            format!(
                "UPDATE {table} SET {column} = {value} WHERE {conditions} RETURNING id, {column}"
            )
        }
        4 => format!("SELECT id, i4 AS x FROM {table} WHERE {conditions} ORDER BY id LIMIT 3"),
        5 => format!("SELECT count(*), max(i8 + 1) FROM {table} WHERE {conditions}"),
        _ => format!("SELECT * FROM {table} WHERE {conditions} ORDER BY id"),
    }
}

async fn outcome(sql: &Sql, statement: &str) -> Result<Vec<String>, String> {
    let rows = sql.try_rows(statement).await.map_err(|e| e.to_string())?;
    let mut lines: Vec<String> = rows.iter().map(|row| format!("{row:?}")).collect();
    lines.sort();
    Ok(lines)
}

/// The same statement, which is planned with its literals.
fn as_it_is(statement: &str) -> String {
    statement.replacen(' ', " /* $ */ ", 1)
}

#[test]
fn statements_mean_what_their_literals_say() {
    run(|scratch: Scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let (sql, other) = (server.connect().await?, server.connect().await?);
        let columns: Vec<String> = COLUMNS.iter().map(|(n, t)| format!("{n} {t}")).collect();
        for table in ["ours", "theirs"] {
            sql.run(&format!(
                "CREATE TABLE {table} (id integer PRIMARY KEY, {}); CREATE INDEX ON {table} (i8)",
                columns.join(", ")
            ))
            .await?;
        }
        let seed = Seed::new("literals");
        let (mut rng, mut values) = (seed.rng(0), seed.rng(1));
        let rows = "INSERT INTO {} SELECT g, g % 4, g % 5, g % 6, g % 7 * 0.5, g % 3, left('abcd', g % 5), left('abc', g % 4), \
                    left('abcd', g % 5), date '2020-01-01' + g % 3, timestamp '2020-01-01 12:30' + g % 2 * interval '1 hour', \
                    timestamptz '2020-01-01 12:30+00' + g % 2 * interval '1 hour', '11111111-2222-3333-4444-555555555555', \
                    g % 2 = 0, '{\"a\": 1}' FROM generate_series(0, 19) g";
        let (mut failed, mut succeeded) = (0, 0);
        for round in 0..rounds(600) {
            if round % 20 == 0 {
                for table in ["ours", "theirs"] {
                    sql.run(&format!("DELETE FROM {table}")).await?;
                    sql.run(&rows.replacen("{}", table, 1)).await?;
                }
                let zone = one(&mut rng, &["UTC", "Asia/Tokyo"]);
                for session in [&sql, &other] {
                    session.run(&format!("SET TimeZone = '{zone}'")).await?;
                }
            }
            let shape = rng.clone();
            // A few of each kind: the second and those after it may have the plan of the first.
            for _ in 0..3 {
                let mut same = values.clone();
                let ours = statement(&mut shape.clone(), &mut values, "ours");
                let theirs = as_it_is(&statement(&mut shape.clone(), &mut same, "theirs"));
                let ours_gave = outcome(&sql, &ours)
                    .await
                    .map_err(|e| e.replace("ours", "theirs"));
                let theirs_gave = outcome(&other, &theirs).await;
                ensure!(
                    ours_gave == theirs_gave,
                    "round {round}: {ours}\n  gives {ours_gave:?}\n  and not {theirs_gave:?}"
                );
                match ours_gave {
                    Ok(_) => succeeded += 1,
                    Err(_) => failed += 1,
                }
            }
            statement(&mut rng, &mut values.clone(), "ours");
        }
        ensure!(
            failed > 100 && succeeded > 500,
            "{failed} failed, {succeeded} succeeded"
        );
        let all = |table| format!("SELECT * FROM {table} ORDER BY id");
        ensure!(sql.lines(&all("ours")).await? == sql.lines(&all("theirs")).await?);
        Ok(())
    });
}

/// What a plan was made with must be what there is when it is used again.
#[test]
fn a_kept_plan_follows_what_changes_around_it() {
    run(|scratch: Scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let (sql, other) = (server.connect().await?, server.connect().await?);
        sql.run("CREATE SCHEMA a; CREATE TABLE t (id integer PRIMARY KEY, v text)")
            .await?;
        sql.run("INSERT INTO t VALUES (1, 'one'), (2, 'two'), (3, 'three')")
            .await?;
        for (id, v) in [(1, "one"), (2, "two"), (3, "three")] {
            ensure!(
                sql.value(&format!("SELECT v FROM t WHERE id = {id}"))
                    .await?
                    == v
            );
        }
        // Another's change, and one's own in a transaction that is undone.
        other.run("UPDATE t SET v = 'zwei' WHERE id = 2").await?;
        ensure!(sql.value("SELECT v FROM t WHERE id = 2").await? == "zwei");
        sql.run("BEGIN").await?;
        sql.run("UPDATE t SET v = 'drei' WHERE id = 3").await?;
        ensure!(sql.value("SELECT v FROM t WHERE id = 3").await? == "drei");
        sql.run("ROLLBACK").await?;
        ensure!(sql.value("SELECT v FROM t WHERE id = 3").await? == "three");
        // Another table of that name, found first.
        other
            .run("CREATE TABLE a.t (id bigint, v integer); INSERT INTO a.t VALUES (2, 22)")
            .await?;
        sql.run("SET search_path = a, public").await?;
        ensure!(sql.value("SELECT v FROM t WHERE id = 2").await? == "22");
        sql.run("RESET search_path").await?;
        ensure!(sql.value("SELECT v FROM t WHERE id = 2").await? == "zwei");
        // The column is of another type, then gone.
        other.run("ALTER TABLE t ALTER COLUMN id TYPE text").await?;
        sql.fails("42883", "SELECT v FROM t WHERE id = 2").await?;
        ensure!(sql.value("SELECT v FROM t WHERE id = '2'").await? == "zwei");
        other.run("ALTER TABLE t DROP COLUMN v").await?;
        sql.fails("42703", "SELECT v FROM t WHERE id = '2'").await?;
        // A string of statements is a transaction, with such statements in it as well.
        sql.run("ALTER TABLE t ADD COLUMN v integer").await?;
        for n in 1..5 {
            let both = format!(
                "UPDATE t SET v = {n} WHERE id = '1'; SELECT 1 / (v - {n}) FROM t WHERE id = '1'"
            );
            sql.fails("22012", &both).await?;
        }
        ensure!(sql.lines("SELECT v FROM t WHERE id = '1'").await? == ["NULL"]);
        // Looking at a statement isn't reading: a transaction sees what was there when it first read.
        sql.run("CREATE TABLE p (id integer PRIMARY KEY, v integer); INSERT INTO p VALUES (1, 0)")
            .await?;
        for (n, first) in [
            "SET LOCAL statement_timeout = 50000",
            "SAVEPOINT s",
            "SHOW timezone",
        ]
        .iter()
        .enumerate()
        {
            sql.run("BEGIN").await?;
            sql.run(first).await?;
            other.run("UPDATE p SET v = v + 10 WHERE id = 1").await?;
            let seen = sql.number("SELECT v FROM p WHERE id = 1").await?;
            ensure!(seen == 10 * (n as i64 + 1), "after {first}: {seen}");
            sql.run("UPDATE p SET v = v + 0 WHERE id = 1").await?;
            sql.run("COMMIT").await?;
        }
        sql.run("BEGIN READ ONLY; SET TRANSACTION READ WRITE; COMMIT")
            .await?;
        // Columns may have other names in a statement.
        sql.run("CREATE TABLE al (a timestamp, b date, c text, d char(4), id integer)")
            .await?;
        sql.run("INSERT INTO al VALUES ('2020-01-05', '2020-01-01', 'ab', 'ab', 1)")
            .await?;
        for (literal, found) in [("ab ", 1), ("ab", 1), ("ab  ", 1)] {
            let query = format!("SELECT id FROM al AS x (b, a, d, c) WHERE c = '{literal}'");
            ensure!(sql.lines(&query).await?.len() == found, "{query}");
        }
        for minutes in ["12:30", "13:30", "14:30"] {
            let query = format!("SELECT id FROM al AS x (b, a) WHERE a < '2020-01-01 {minutes}'");
            ensure!(sql.lines(&query).await?.is_empty(), "{query}");
        }
        // By what has no index, three times and more.
        for v in [10, 30, 7, 30, 30, 31] {
            let found = sql
                .lines(&format!("SELECT id FROM p WHERE v = {v}"))
                .await?;
            ensure!(found.len() == usize::from(v == 30), "{v}: {found:?}");
        }
        sql.run("SET default_transaction_read_only = on").await?;
        sql.fails("25006", "UPDATE t SET v = 9 WHERE id = '1'")
            .await?;
        Ok(())
    });
}

/// Another session gives a column another type while a statement like it runs, waits for that, and is tried again.
#[test]
fn literals_are_of_the_types_that_columns_have_by_then() {
    run(|scratch: Scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let (sql, other) = (server.connect().await?, server.connect().await?);
        let rows = "SELECT g, g, 0 FROM generate_series(1, 50000) AS s (g)";
        for _ in 0..rounds(3) {
            sql.run("CREATE TABLE r (id integer PRIMARY KEY, v integer, k integer)")
                .await?;
            sql.run(&format!("INSERT INTO r {rows}")).await?;
            let altered = std::cell::Cell::new(false);
            let updates = async {
                let mut after = 0;
                while after < 3 {
                    after += u32::from(altered.get());
                    sql.run("UPDATE r SET v = '007', k = k + 1 WHERE id = 7")
                        .await?;
                }
                anyhow::Ok(())
            };
            let alter = async {
                other.run("ALTER TABLE r ALTER COLUMN v TYPE text").await?;
                altered.set(true);
                anyhow::Ok(())
            };
            let (updated, changed) = tokio::join!(updates, alter);
            updated.and(changed)?;
            ensure!(sql.value("SELECT v FROM r WHERE id = 7").await? == "007");
            sql.run("UPDATE r SET v = '008' WHERE id = 8").await?;
            ensure!(sql.value("SELECT v FROM r WHERE id = 8").await? == "008");
            sql.run("DROP TABLE r").await?;
        }
        Ok(())
    });
}
