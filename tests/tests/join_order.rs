//! Joins of a query that are executed in another order than they are written in: the answer is a view's, whose order stays.

use anyhow::{Result, ensure};
use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use tidemill_tests::seed::rounds;
use tidemill_tests::{Options, Seed, Server, Sql, run};

/// The tables that a plan reads, in its order.
async fn scans(sql: &Sql, statement: &str) -> Result<Vec<String>> {
    let lines = sql.lines(&format!("EXPLAIN {statement}")).await?;
    let scans = lines
        .iter()
        .filter_map(|line| line.trim().strip_prefix("TableScan: "));
    let name = |scan: &str| scan.split(' ').next().unwrap_or(scan).to_string();
    Ok(scans.map(name).collect())
}

#[test]
fn joins_begin_where_few_rows_are_left() {
    run(|scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        for statement in [
            "CREATE TABLE sales (id int PRIMARY KEY, region int)",
            "CREATE TABLE lines (id int PRIMARY KEY, sale int, part int)",
            "CREATE TABLE parts (id int PRIMARY KEY, maker int, name text)",
            "CREATE TABLE makers (id int PRIMARY KEY, name text)",
            "INSERT INTO sales SELECT n, n % 9 FROM generate_series(1, 5000) AS s (n)",
            "INSERT INTO lines SELECT n, 1 + n * 7 % 5000, 1 + n % 2000 FROM generate_series(1, 20000) AS s (n)",
            "INSERT INTO parts SELECT n, 1 + n % 20, 'part ' || n FROM generate_series(1, 2000) AS s (n)",
            "INSERT INTO makers SELECT n, 'maker ' || n FROM generate_series(1, 20) AS s (n)",
            "CREATE INDEX ON lines (part)",
        ] {
            sql.run(statement).await?;
        }
        let joins = "FROM sales s JOIN lines l ON l.sale = s.id JOIN parts p ON p.id = l.part JOIN makers m ON m.id = p.maker";
        let few = format!("SELECT s.id, m.name {joins} WHERE p.name = 'part 7'");
        ensure!(
            scans(&sql, &few).await?[0] == "p",
            "the one part comes first: {:?}",
            sql.lines(&format!("EXPLAIN {few}")).await?
        );
        ensure!(sql.lines(&few).await?.len() == 10, "ten lines have it");
        // A view's plan doesn't depend on what there is.
        let view = format!("CREATE MATERIALIZED VIEW v AS {few}");
        ensure!(scans(&sql, &view).await? == ["s", "l", "p", "m"]);
        // Nothing is won here.
        let all = format!("SELECT count(*) {joins}");
        ensure!(scans(&sql, &all).await? == ["s", "l", "p", "m"]);
        ensure!(sql.number(&all).await? == 20_000);
        // The newest sales are read in their key's order, and what belongs to them is looked up.
        let newest =
            format!("SELECT s.id, p.name {joins} WHERE p.name <> 'x' ORDER BY s.id DESC LIMIT 3");
        ensure!(scans(&sql, &newest).await?[0] == "s");
        // What has effects is called for as many rows as it is written for, and not by EXPLAIN.
        sql.run("CREATE SEQUENCE q").await?;
        let counted = format!("{few} AND nextval('q') > 0");
        ensure!(scans(&sql, &counted).await? == ["s", "l", "p", "m"]);
        ensure!(sql.number("SELECT nextval('q')").await? == 1);
        // A statement with a parameter is planned for its value.
        let rows = sql
            .client()
            .query(&few.replace("'part 7'", "$1"), &[&"part 11"])
            .await?;
        ensure!(rows.len() == 10);
        Ok(())
    })
}

#[test]
fn the_branches_of_an_or_are_joins() {
    run(|scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        sql.run("CREATE TABLE l (x int, y int)").await?;
        sql.run("CREATE TABLE r (x int, y int)").await?;
        let on = "l.x = r.x OR l.y = r.y";
        for (query, kind) in [
            (format!("SELECT count(*) FROM l JOIN r ON {on}"), "Inner"),
            (
                format!("SELECT x FROM l WHERE EXISTS (SELECT FROM r WHERE {on})"),
                "LeftMark",
            ),
            (
                format!("SELECT x FROM l WHERE NOT EXISTS (SELECT FROM r WHERE {on})"),
                "LeftAnti",
            ),
        ] {
            let plan = sql.lines(&format!("EXPLAIN {query}")).await?;
            let by = |column: &str| {
                let equal = format!("{kind} Join: l.{column} = ");
                plan.iter().filter(|line| line.contains(&equal)).count()
            };
            ensure!(by("x") == 1 && by("y") == 1, "{plan:?}");
        }
        // What can fail is evaluated for the pairs that it is written for, and a subquery is computed once.
        for query in [
            "SELECT count(*) FROM l JOIN r ON l.x = r.x OR l.y = 1 / r.y",
            "SELECT count(*) FROM l JOIN (SELECT x, max(y) AS y FROM r GROUP BY x) r ON l.x = r.x OR l.y = r.y",
        ] {
            let plan = sql.lines(&format!("EXPLAIN {query}")).await?;
            let joins = plan.iter().filter(|line| line.contains(" Join:"));
            ensure!(joins.count() == 1, "{plan:?}");
        }
        Ok(())
    })
}

/// Relations, all with the columns id, a, b and t.
const TABLES: [&str; 4] = ["t0", "t1", "t2", "t3"];

/// A query over joins of some tables, each under an alias of its own.
fn query(rng: &mut ChaCha8Rng) -> String {
    let count = rng.random_range(3..6);
    let column = |rng: &mut ChaCha8Rng| ["a", "b"][rng.random_range(0..2)];
    let mut from = format!("{} AS r0", TABLES.choose(rng).unwrap_or(&"t0"));
    let (mut conditions, mut commas) = (vec![], false);
    for n in 1..count {
        let table = TABLES.choose(rng).unwrap_or(&"t0");
        let other = rng.random_range(0..n);
        let on = match rng.random_range(0..6) {
            0..3 => format!("r{n}.id = r{other}.{}", column(rng)),
            3 => format!("r{n}.{} = r{other}.id", column(rng)),
            4 => format!("r{n}.id = r{other}.id AND r{n}.t <> r{other}.t"),
            _ => format!("r{n}.a = r{other}.a AND r{n}.id <= r{other}.id"),
        };
        // What stands before a comma isn't known in ON.
        commas |= rng.random_bool(0.2);
        if commas {
            from += &format!(", {table} AS r{n}");
            conditions.push(on);
            continue;
        }
        from += &match rng.random_range(0..4) {
            0 => format!(" LEFT JOIN {table} AS r{n} ON {on}"),
            1 => format!(
                " JOIN (SELECT max(id) AS id, a, min(b) AS b, max(t) AS t FROM {table} GROUP BY a) AS r{n} ON {on}"
            ),
            _ => format!(" JOIN {table} AS r{n} ON {on}"),
        };
    }
    for _ in 0..rng.random_range(1..3) {
        let r = rng.random_range(0..count);
        conditions.push(match rng.random_range(0..9) {
            0 => format!("r{r}.id = {}", rng.random_range(1..1200)),
            1 => format!("r{r}.t = 'x{}'", rng.random_range(0..400)),
            2 => format!("r{r}.t LIKE 'x1{}%'", rng.random_range(0..9)),
            3 => format!("r{r}.a IN ({}, 7, 8)", rng.random_range(0..900)),
            4 => format!("r{r}.b BETWEEN 10 AND {}", rng.random_range(10..60)),
            5 => format!("r{r}.b > {}", rng.random_range(10..600)),
            _ => format!("r{r}.id > 10 AND r{r}.a IS NOT NULL"),
        });
    }
    let wanted: Vec<_> = (0..count).map(|n| format!("r{n}.id AS i{n}")).collect();
    format!(
        "SELECT {}, r{}.t FROM {from} WHERE {}",
        wanted.join(", "),
        rng.random_range(0..count),
        conditions.join(" AND ")
    )
}

#[test]
fn random_joins_give_what_views_give() {
    run(|scratch| async move {
        let seed = Seed::new("join_order");
        let mut rng = seed.rng(0);
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        for (n, table) in TABLES.into_iter().enumerate() {
            let rows = [1_200, 900, 600, 40][n];
            sql.run(&format!(
                "CREATE TABLE {table} (id int PRIMARY KEY, a int, b int, t text)"
            ))
            .await?;
            sql.run(&format!(
                "INSERT INTO {table} SELECT n, CASE WHEN n % 13 <> 0 THEN n * {} % 997 END, n * 31 % 907, 'x' || n % 400 FROM generate_series(1, {rows}) AS s (n)",
                7 + n
            ))
            .await?;
        }
        sql.run("CREATE INDEX ON t0 (a)").await?;
        sql.run("CREATE INDEX ON t1 (b)").await?;
        sql.run("CREATE INDEX ON t2 (t)").await?;
        let (mut others, mut found) = (0, 0);
        for _ in 0..rounds(150) {
            let query = query(&mut rng);
            let view = format!("CREATE MATERIALIZED VIEW v AS {query}");
            others += u32::from(scans(&sql, &query).await? != scans(&sql, &view).await?);
            sql.run(&view).await?;
            let rows = |from: &str| format!("SELECT q::text FROM ({from}) AS q ORDER BY 1");
            let answer = sql.lines(&rows(&query)).await?;
            ensure!(
                answer == sql.lines(&rows("SELECT * FROM v")).await?,
                "{query}"
            );
            found += answer.len();
            sql.run("DROP MATERIALIZED VIEW v").await?;
        }
        ensure!(
            others > 5 && found > 100,
            "{others} other orders, {found} rows"
        );
        Ok(())
    })
}
