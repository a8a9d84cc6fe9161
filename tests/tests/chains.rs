//! Long chains of operators: the server answers or refuses them, and goes on; also after a restart, which plans views again.

use anyhow::Result;
use tidemill_tests::scratch::{self, Scratch};
use tidemill_tests::server::{Options, Server};

fn chain(n: usize, by: &str, part: impl Fn(usize) -> String) -> String {
    (0..n).map(part).collect::<Vec<_>>().join(by)
}

/// `a = 0 OR a = 1 OR …`
fn alternatives(n: usize) -> String {
    chain(n, " OR ", |i| format!("a = {i}"))
}

fn unions(n: usize) -> String {
    chain(n, " UNION ALL ", |i| format!("SELECT a + {i} AS a FROM t"))
}

#[test]
fn end_no_server() {
    scratch::run(|scratch: Scratch| async move {
        let mut server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        sql.run("CREATE TABLE t (a bigint)").await?;
        sql.run("INSERT INTO t SELECT generate_series(0, 2999)")
            .await?;
        let count = |n| format!("SELECT count(*) FROM t WHERE {}", alternatives(n));
        assert_eq!(sql.number(&count(2000)).await?, 2000);
        let of_all = |n| format!("SELECT count(*) FROM ({}) AS u", unions(n));
        assert_eq!(sql.number(&of_all(200)).await?, 200 * 3000);
        sql.fails(
            "54001",
            &format!("SELECT {}", chain(2000, " + ", |i| i.to_string())),
        )
        .await?;
        for too_long in [
            count(50_000),
            of_all(5_000),
            format!("SELECT {}", chain(50_000, " || ", |i| format!("'{i}'"))),
        ] {
            sql.fails("54001", &too_long).await?;
        }
        let view = format!("CREATE MATERIALIZED VIEW v AS {}", count(1000));
        sql.run(&view).await?;
        server.kill();
        server.restart(&Options::default())?;
        let sql = server.connect().await?;
        sql.run("INSERT INTO t VALUES (7), (5000)").await?;
        assert_eq!(sql.number("SELECT * FROM v").await?, 1001);
        Ok(()) as Result<()>
    });
}

/// A chain of joins on one key of which all sides change at once: each must pass on what changes and no more, or the last of them
/// would have twice as much to do as the one before it.
#[test]
fn many_aggregates_of_one_key_change_at_once() {
    scratch::run(|scratch: Scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        sql.run("CREATE TABLE t (k int PRIMARY KEY, a int); CREATE TABLE u (k int PRIMARY KEY, a int, v int)")
            .await?;
        sql.run("INSERT INTO t SELECT g, g % 7 FROM generate_series(1, 200) AS g")
            .await?;
        sql.run("INSERT INTO u SELECT g, g % 7, g FROM generate_series(1, 200) AS g")
            .await?;
        let counts = chain(16, ", ", |i| {
            format!("(SELECT count(*) FROM u WHERE u.a = t.a AND v < {i}) AS c{i}")
        });
        let query = format!("SELECT k, {counts} FROM t");
        sql.run(&format!("CREATE MATERIALIZED VIEW v AS {query}"))
            .await?;
        sql.run("UPDATE t SET a = a + 1 WHERE k < 10").await?;
        sql.run("UPDATE t SET a = a - 1 WHERE k < 10").await?;
        for n in 1..=5 {
            sql.run(&format!("INSERT INTO u VALUES (-{n}, 1, -{n})"))
                .await?;
        }
        let view = sql.lines("SELECT * FROM v ORDER BY k").await?;
        assert_eq!(view, sql.lines(&format!("{query} ORDER BY k")).await?);
        Ok(()) as Result<()>
    });
}

/// A view is planned piece by piece, some pieces with many inputs.
#[test]
fn a_view_over_many_inputs_is_planned() {
    scratch::run(|scratch: Scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        let inputs = chain(200, " UNION ALL ", |i| format!("SELECT {i} AS x"));
        sql.run(&format!(
            "CREATE MATERIALIZED VIEW v AS SELECT x, sum(x) OVER (ORDER BY x) AS s FROM ({inputs}) AS u"
        ))
        .await?;
        assert_eq!(sql.number("SELECT s FROM v WHERE x = 199").await?, 19_900);
        Ok(()) as Result<()>
    });
}
