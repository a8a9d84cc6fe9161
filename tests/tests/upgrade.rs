//! A version that plans views differently: what is unchanged keeps its state, the rest is rebuilt, and nobody sees a difference.
//!
//! `TIDEMILL_FINGERPRINT_SALT` makes a server plan one kind of operator as another version would.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use tidemill_tests::files::{read_sink, sum_sink};
use tidemill_tests::{Multiset, Options, Scratch, Server, Sql, Subscription, eventually, run};

/// Views and the queries that they must equal.
const VIEWS: [(&str, &str); 6] = [
    (
        "sums",
        "SELECT k, sum(v) AS s, max(v) AS m, count(*) AS n FROM s GROUP BY k",
    ),
    (
        "joined",
        "SELECT t.id, sums.s, sums.n FROM t JOIN sums ON t.k = sums.k",
    ),
    (
        "inner_sums",
        "SELECT t.id, x.n FROM t LEFT JOIN (SELECT k, count(*) AS n FROM s GROUP BY k) AS x ON t.k = x.k",
    ),
    (
        "lists",
        "SELECT k, array_agg(v) AS vs FROM s WHERE v < 20 GROUP BY k",
    ),
    ("total", "SELECT sum(s) AS s, count(*) AS n FROM joined"),
    ("plain", "SELECT k + 1 AS k1, v FROM s WHERE v % 3 = 0"),
];
const SINKS: [&str; 3] = ["sums", "joined", "plain"];

fn salted(kind: &str, workers: usize) -> Options {
    let mut options = Options::workers(workers);
    let salt = ("TIDEMILL_FINGERPRINT_SALT".into(), format!("{kind}:2"));
    options.env.extend([salt, ("NO_COLOR".into(), "1".into())]);
    options
}

fn append(input: &Path, from: i64, to: i64) -> Result<()> {
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(input.join("rows.csv"))?;
    let text: String = (from..to).map(|v| format!("{},{v}\n", v % 17)).collect();
    Ok(file.write_all(text.as_bytes())?)
}

async fn declare(sql: &Sql, scratch: &Scratch, input: &Path, recorded: bool) -> Result<()> {
    let id = if recorded {
        ", persistent_id = 's'"
    } else {
        ""
    };
    sql.run(&format!(
        "CREATE SOURCE s (k bigint, v bigint) WITH (connector = 'files', path = '{}', format = 'csv', \
         commit_interval = '10ms'{id})",
        input.display()
    ))
    .await?;
    sql.run("CREATE TABLE t (id bigint PRIMARY KEY, k bigint)")
        .await?;
    sql.run("INSERT INTO t SELECT n, n % 20 FROM generate_series(1, 40) AS g(n)")
        .await?;
    for (name, query) in VIEWS {
        sql.run(&format!("CREATE MATERIALIZED VIEW {name} AS {query}"))
            .await?;
    }
    for view in SINKS {
        let path = scratch.path(&format!("{view}.jsonl"));
        let path = path.display();
        sql.run(&format!(
            "CREATE SINK {view}_out FROM {view} WITH (connector = 'files', path = '{path}', format = 'jsonl')"
        ))
        .await?;
    }
    Ok(())
}

/// All rows up to `rows` are there, in every view and sink.
async fn check(sql: &Sql, scratch: &Scratch, rows: i64) -> Result<()> {
    eventually(&format!("{rows} rows are taken in"), async || {
        let n = sql
            .number("SELECT coalesce(sum(n), 0)::bigint FROM sums")
            .await?;
        ensure!(n <= rows, "{n} rows of {rows}");
        Ok((n == rows).then_some(()))
    })
    .await?;
    for (name, query) in VIEWS {
        let view = Multiset::of_lines(sql.lines(&format!("SELECT * FROM {name}")).await?);
        let select = Multiset::of_lines(sql.lines(query).await?);
        ensure!(view == select, "{name}: {view:?}\nSELECT: {select:?}");
        let errors = format!("SELECT count(*) FROM {name}_errors");
        ensure!(sql.number(&errors).await? == 0, "errors in {name}");
    }
    for view in SINKS {
        let want = Multiset::of_lines(sql.lines(&format!("SELECT * FROM {view}")).await?);
        let path = scratch.path(&format!("{view}.jsonl"));
        eventually(&format!("the sink of {view}"), async || {
            Ok((sum_sink(&read_sink(&path)?) == want).then_some(()))
        })
        .await?;
    }
    let stalled = sql
        .lines("SELECT name, reason FROM tidemill.sinks WHERE state <> 'running'")
        .await?;
    ensure!(stalled.is_empty(), "{stalled:?}");
    Ok(())
}

/// What the server has logged since its last start.
fn log(server: &Server) -> String {
    let text = server.log_text();
    text.rsplit("--- start").next().unwrap_or("").to_string()
}

async fn upgraded(server: &Server) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    let sql = server.connect().await?;
    // DDL waits for the end of an upgrade.
    sql.run("COMMENT ON TABLE t IS 'waits'").await?;
    for line in log(server).lines().filter(|l| l.contains("rebuilding")) {
        lines.push(line.to_string());
    }
    Ok(lines)
}

fn kept(lines: &[String], view: &str) -> Result<(i64, i64)> {
    let line = lines
        .iter()
        .find(|l| l.contains(&format!("{view} ")))
        .with_context(|| format!("{view} is rebuilt: {lines:?}"))?;
    let number = |name: &str| -> Result<i64> {
        let at = line
            .find(name)
            .with_context(|| format!("{name} in {line}"))?;
        let digits = line[at + name.len()..]
            .chars()
            .skip_while(|c| !c.is_ascii_digit());
        Ok(digits
            .take_while(char::is_ascii_digit)
            .collect::<String>()
            .parse()?)
    };
    Ok((number("kept")?, number("rebuilt")?))
}

#[test]
fn changed_plans_are_rebuilt_and_unchanged_state_is_kept() {
    run(|scratch| async move {
        let input = scratch.dir("input");
        let mut server = Server::start(&scratch.data(), &Options::default())?;
        declare(&server.connect().await?, &scratch, &input, true).await?;
        append(&input, 0, 3_000)?;
        check(&server.connect().await?, &scratch, 3_000).await?;
        let mut before = Subscription::open(&server.connect().await?, "plain").await?;
        before.until("all rows", |s| s.sum.0.len() == 1_000).await?;

        server.terminate()?;
        append(&input, 3_000, 3_300)?;
        server = Server::start(&scratch.data(), &salted("Join", 1))?;
        let lines = upgraded(&server).await?;
        ensure!(lines.len() == 2, "the views with joins: {lines:?}");
        let (kept_states, rebuilt) = kept(&lines, "inner_sums")?;
        ensure!(kept_states > 0 && rebuilt > 0, "{lines:?}");
        check(&server.connect().await?, &scratch, 3_300).await?;
        // A view that keeps its rows keeps their history too.
        let mut after =
            Subscription::resume(&server.connect().await?, "plain", before.frontier).await?;
        after
            .until("what came since", |s| s.sum.0.len() == 100)
            .await?;

        for (i, kind) in ["Aggregate", "Recompute", "Map", "Input"]
            .into_iter()
            .enumerate()
        {
            let rows = 3_300 + 100 * i as i64;
            server.kill();
            append(&input, rows, rows + 100)?;
            server = Server::start(&scratch.data(), &salted(kind, 1 + i % 2))?;
            let lines = upgraded(&server).await?;
            ensure!(!lines.is_empty(), "{kind}");
            check(&server.connect().await?, &scratch, rows + 100).await?;
            // Once more with the same plans: there is nothing to do.
            server.restart(&salted(kind, 2 - i % 2))?;
            ensure!(
                upgraded(&server).await?.is_empty(),
                "{kind}: {}",
                log(&server)
            );
        }
        check(&server.connect().await?, &scratch, 3_700).await
    });
}

#[test]
fn a_kill_during_an_upgrade_loses_nothing() {
    run(|scratch| async move {
        let input = scratch.dir("input");
        let mut server = Server::start(&scratch.data(), &Options::default())?;
        declare(&server.connect().await?, &scratch, &input, true).await?;
        append(&input, 0, 2_000)?;
        check(&server.connect().await?, &scratch, 2_000).await?;
        for (i, (point, passes)) in [
            ("during_upgrade", 1),
            ("during_upgrade", 2),
            ("before_transaction", 2),
            ("after_transaction", 2),
            ("before_publish", 3),
        ]
        .into_iter()
        .enumerate()
        {
            server.kill();
            let kind = ["Aggregate", "Join"][i % 2];
            let options = salted(kind, 1 + i % 2).fail_point(point, passes);
            match Server::try_start(&scratch.data(), &options)? {
                Ok(mut dying) => _ = dying.wait()?,
                Err((_, log)) => ensure!(!log.contains("panicked"), "{log}"),
            }
            server = Server::start(&scratch.data(), &salted(kind, 2 - i % 2))?;
            let rows = 2_000 + 50 * i as i64;
            append(&input, rows, rows + 50)?;
            check(&server.connect().await?, &scratch, rows + 50).await?;
        }
        Ok(())
    });
}

#[test]
fn without_its_input_an_upgrade_is_refused_before_anything_changes() {
    run(|scratch| async move {
        let input = scratch.dir("input");
        let mut server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        sql.run(&format!(
            "CREATE SOURCE s (k bigint, v bigint) WITH (connector = 'files', path = '{}', format = 'csv')",
            input.display()
        ))
        .await?;
        sql.run("CREATE MATERIALIZED VIEW sums AS SELECT k, sum(v) AS s FROM s GROUP BY k")
            .await?;
        append(&input, 0, 100)?;
        let sum = "SELECT coalesce(sum(s), 0)::bigint FROM sums";
        eventually("the rows", async || {
            Ok((server.connect().await?.number(sum).await? == 4_950).then_some(()))
        })
        .await?;
        // As long as the files are there they are read again.
        server.restart(&salted("Aggregate", 1))?;
        ensure!(upgraded_once(&server).await?, "{}", log(&server));
        ensure!(server.connect().await?.number(sum).await? == 4_950);
        server.kill();
        std::fs::rename(input.join("rows.csv"), scratch.path("elsewhere.csv"))?;
        match Server::try_start(&scratch.data(), &Options::default())? {
            Ok(_) => bail!("the view is rebuilt from nothing"),
            Err((status, log)) => {
                ensure!(status.code() == Some(1), "{status}: {log}");
                for part in ["sums", "rows.csv", "Nothing has been changed"] {
                    ensure!(log.contains(part), "{part:?} isn't in:\n{log}");
                }
            }
        }
        server = Server::start(&scratch.data(), &salted("Aggregate", 1))?;
        ensure!(server.connect().await?.number(sum).await? == 4_950);
        Ok(())
    });
}

async fn upgraded_once(server: &Server) -> Result<bool> {
    let sql = server.connect().await?;
    sql.run("COMMENT ON MATERIALIZED VIEW sums IS 'waits'")
        .await?;
    Ok(log(server).contains("rebuilding"))
}
