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
