//! Files that change faster than they are read, while other input keeps epochs coming.

use std::time::{Duration, Instant};

use anyhow::ensure;
use tidemill_tests::files::{append, drop_file};
use tidemill_tests::wait::pace;
use tidemill_tests::{Options, Server, eventually, run};

const REPLACEMENTS: u32 = 100;

/// A file that is replaced again and again is a retraction each time, which must find its epoch between those of a source
/// that always has input; and DDL its own after that.
#[test]
fn a_file_is_replaced_a_hundred_times_under_load() {
    run(|scratch| async move {
        let input = scratch.dir("input");
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        sql.run("CREATE SOURCE busy (n bigint) WITH (connector = 'generator', kind = 'counter', rate = 50000, commit_interval = '1ms')")
            .await?;
        sql.run("CREATE MATERIALIZED VIEW load AS SELECT n % 1000 AS k, count(*) AS n FROM busy GROUP BY n % 1000")
            .await?;
        let path = input.display();
        sql.run(&format!(
            "CREATE SOURCE s (k integer, v integer) WITH (connector = 'files', path = '{path}', format = 'csv', \
             commit_interval = '1ms', persistent_id = 's', on_delete = 'retract')"
        ))
        .await?;
        sql.run(
            "CREATE MATERIALIZED VIEW m AS SELECT k, count(*) AS n, sum(v) AS v FROM s GROUP BY k",
        )
        .await?;
        let start = Instant::now();
        for generation in 0..REPLACEMENTS {
            let lines: Vec<String> = (0..3).map(|k| format!("{k},{generation}\n")).collect();
            drop_file(&input, "a.csv", lines.concat().as_bytes())?;
            pace(start, generation, Duration::from_millis(7)).await;
        }
        let last = REPLACEMENTS - 1;
        let want: Vec<String> = (0..3).map(|k| format!("{k}|1|{last}")).collect();
        eventually("the view holds the last file", async || {
            Ok((sql.lines("SELECT * FROM m ORDER BY k").await? == want).then_some(()))
        })
        .await?;
        ensure!(sql.lines("SELECT k, 1, v FROM s ORDER BY k").await? == want);
        sql.run("DROP SOURCE busy CASCADE").await
    });
}

/// Files as programs write them that put line ends between lines only.
#[test]
fn a_last_line_without_line_end_is_read_on_request() {
    run(|scratch| async move {
        let input = scratch.dir("input");
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        let path = input.display();
        for (name, options) in [("read", ", last_line = 'read'"), ("wait", "")] {
            sql.run(&format!(
                "CREATE SOURCE {name} (k text, v integer) WITH (connector = 'files', path = '{path}', format = 'csv', \
                 commit_interval = '1ms', persistent_id = '{name}'{options})"
            ))
            .await?;
        }
        let holds = async |name: &str, want: &[&str]| {
            let query = format!("SELECT k, v FROM {name} ORDER BY k");
            let mut last = vec![];
            let outcome = eventually(&format!("{name} is {want:?}"), async || {
                last = sql.lines(&query).await?;
                Ok((last == want).then_some(()))
            })
            .await;
            outcome.map_err(|e| e.context(format!("it is {last:?}")))
        };
        let file = drop_file(&input, "a.csv", b"a,1\nb,2")?;
        holds("read", &["a|1", "b|2"]).await?;
        holds("wait", &["a|1"]).await?;
        let bytes = "SELECT bytes FROM tidemill.sources WHERE name = 'read'";
        ensure!(sql.number(bytes).await? == 7);
        // Its line end comes: nothing is read again.
        append(&file, b"\nc,3\nd,")?;
        holds("read", &["a|1", "b|2", "c|3"]).await?;
        // d, is a row with a NULL, until it turns out to be another one.
        holds("read", &["a|1", "b|2", "c|3", "d|NULL"]).await?;
        append(&file, b"4\r\n")?;
        for name in ["read", "wait"] {
            holds(name, &["a|1", "b|2", "c|3", "d|4"]).await?;
        }
        ensure!(sql.number("SELECT count(*) FROM read_errors").await? == 0);
        Ok(())
    });
}
