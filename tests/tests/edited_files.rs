//! Files that change faster than they are read, while other input keeps epochs coming.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tidemill_tests::files::drop_file;
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
