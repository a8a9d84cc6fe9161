//! Files as they live: grown, rotated, edited, deleted, compressed; generators; edits of the source itself.

use std::io::Write;
use std::path::Path;

use anyhow::{Result, ensure};
use flate2::Compression;
use flate2::write::GzEncoder;
use tidemill_tests::files::{append, drop_file};
use tidemill_tests::{Options, Server, Sql, eventually, run};

async fn source(sql: &Sql, path: &Path, more: &str) -> Result<()> {
    let path = path.display();
    sql.run(&format!(
        "CREATE SOURCE s (k text, v integer) WITH (connector = 'files', path = '{path}', format = 'csv', commit_interval = '10ms'{more})"
    ))
    .await?;
    sql.run("CREATE MATERIALIZED VIEW m AS SELECT k, count(*) AS n, sum(v) AS v FROM s GROUP BY k")
        .await
}

async fn is(sql: &Sql, want: &[&str]) -> Result<()> {
    let mut last = Vec::new();
    let outcome = eventually(&format!("the view is {want:?}"), async || {
        last = sql.lines("SELECT * FROM m ORDER BY k").await?;
        Ok((last == want).then_some(()))
    })
    .await;
    outcome.map_err(|e| e.context(format!("it is {last:?}")))
}

async fn bytes(sql: &Sql) -> Result<i64> {
    sql.number("SELECT bytes FROM tidemill.sources WHERE name = 's'")
        .await
}

#[test]
fn rotation_and_growth_read_nothing_again() {
    run(|scratch| async move {
        let input = scratch.dir("input");
        let mut server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        source(&sql, &input, ", persistent_id = 's'").await?;
        append(&input.join("log.csv"), b"a,1\nb,2\n")?;
        is(&sql, &["a|1|1", "b|1|2"]).await?;
        std::fs::rename(input.join("log.csv"), input.join("log.1.csv"))?;
        append(&input.join("log.csv"), b"a,10\n")?;
        is(&sql, &["a|2|11", "b|1|2"]).await?;
        append(&input.join("log.1.csv"), b"c,3\n")?;
        is(&sql, &["a|2|11", "b|1|2", "c|1|3"]).await?;
        ensure!(
            bytes(&sql).await? == 8 + 5 + 4,
            "{} bytes were read",
            bytes(&sql).await?
        );
        server.restart(&Options::default())?;
        let sql = server.connect().await?;
        std::fs::rename(input.join("log.1.csv"), input.join("log.2.csv"))?;
        append(&input.join("log.csv"), b"d,4\n")?;
        is(&sql, &["a|2|11", "b|1|2", "c|1|3", "d|1|4"]).await?;
        ensure!(
            bytes(&sql).await? == 4,
            "{} bytes were read after the restart",
            bytes(&sql).await?
        );
        Ok(())
    });
}

#[test]
fn edits_and_deletions_retract_what_was_recorded() {
    run(|scratch| async move {
        let input = scratch.dir("input");
        let mut server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        source(&sql, &input, ", persistent_id = 's', on_delete = 'retract'").await?;
        drop_file(&input, "a.csv", b"a,1\na,2\nbad\n")?;
        drop_file(&input, "b.csv", b"a,5\nb,1\n")?;
        is(&sql, &["a|3|8", "b|1|1"]).await?;
        ensure!(sql.number("SELECT count(*) FROM s_errors").await? == 1);
        drop_file(&input, "a.csv", b"a,100\n")?;
        is(&sql, &["a|2|105", "b|1|1"]).await?;
        ensure!(
            sql.number("SELECT count(*) FROM s_errors").await? == 0,
            "errors of the old contents are retracted too"
        );
        server.kill();
        drop_file(&input, "a.csv", b"a,200\nc,1\n")?;
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        is(&sql, &["a|2|205", "b|1|1", "c|1|1"]).await?;
        std::fs::remove_file(input.join("b.csv"))?;
        is(&sql, &["a|1|200", "c|1|1"]).await?;
        // A root that is gone is no deletion.
        std::fs::rename(&input, scratch.path("elsewhere"))?;
        append(&scratch.path("elsewhere").join("a.csv"), b"d,1\n")?;
        std::fs::rename(scratch.path("elsewhere"), &input)?;
        is(&sql, &["a|1|200", "c|1|1", "d|1|1"]).await?;
        ensure!(sql.lines("SELECT k, v FROM s ORDER BY k").await? == ["a|200", "c|1", "d|1"]);
        Ok(())
    });
}

/// As logrotate does, into a name that `path` doesn't match.
#[test]
fn what_was_rotated_away_stays_over_a_restart() {
    run(|scratch| async move {
        let input = scratch.dir("input");
        let mut server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        let options = ", persistent_id = 's', on_delete = 'retract'";
        source(&sql, &input.join("*.csv"), options).await?;
        append(&input.join("log.csv"), b"a,1\nb,2\n")?;
        append(&input.join("other.csv"), b"o,1\n")?;
        is(&sql, &["a|1|1", "b|1|2", "o|1|1"]).await?;
        std::fs::rename(input.join("log.csv"), input.join("log.csv.1"))?;
        append(&input.join("log.csv"), b"a,10\n")?;
        is(&sql, &["a|2|11", "b|1|2", "o|1|1"]).await?;
        server.kill();
        server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        // A look that finds this one gone would have found others.
        std::fs::remove_file(input.join("other.csv"))?;
        is(&sql, &["a|2|11", "b|1|2"]).await?;
        append(&input.join("log.csv"), b"b,20\n")?;
        is(&sql, &["a|2|11", "b|2|22"]).await
    });
}

#[test]
fn without_a_record_an_edit_is_reported() {
    run(|scratch| async move {
        let input = scratch.dir("input");
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        source(&sql, &input, "").await?;
        drop_file(&input, "a.csv", b"a,1\n")?;
        is(&sql, &["a|1|1"]).await?;
        std::fs::write(input.join("a.csv"), b"b,2\n")?;
        eventually("a report of the edit", async || {
            let errors = sql.number("SELECT count(*) FROM s_errors").await?;
            let state = sql
                .lines("SELECT state FROM tidemill.sources WHERE reason IS NOT NULL")
                .await?;
            Ok((errors > 0 || !state.is_empty()).then_some(()))
        })
        .await?;
        drop_file(&input, "c.csv", b"c,3\n")?;
        eventually("other files go on", async || {
            Ok(sql
                .lines("SELECT k FROM m")
                .await?
                .contains(&"c".to_owned())
                .then_some(()))
        })
        .await
    });
}

#[test]
fn globs_and_compressed_files() {
    run(|scratch| async move {
        let input = scratch.dir("input");
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        source(
            &sql,
            &input.join("*.csv*"),
            ", persistent_id = 's', delimiter = ';', null = '-'",
        )
        .await?;
        let gz = |text: &str| -> Result<Vec<u8>> {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(text.as_bytes())?;
            Ok(encoder.finish()?)
        };
        drop_file(&input, "a.csv", b"a;1\na;-\n")?;
        drop_file(&input, "ignored.txt", b"x;1\n")?;
        drop_file(&input, ".hidden.csv", b"x;1\n")?;
        drop_file(&input, "b.csv.gz", &gz("b;2\nb;3\n")?)?;
        is(&sql, &["a|2|1", "b|2|5"]).await?;
        drop_file(&input, "b.csv.gz", &gz("b;2\nc;1\n")?)?;
        is(&sql, &["a|2|1", "b|1|2", "c|1|1"]).await
    });
}

#[test]
fn generators_are_deterministic() {
    run(|scratch| async move {
        let mut answers = Vec::new();
        for run in 0..2 {
            let mut server = Server::start(
                &scratch.path(&format!("data{run}")),
                &Options::workers(1 + run),
            )?;
            let sql = server.connect().await?;
            sql.run("CREATE SOURCE w (word text) WITH (connector = 'generator', kind = 'words', seed = 7, rows = 5000, persistent_id = 'w')").await?;
            sql.run("CREATE MATERIALIZED VIEW m AS SELECT word AS k, count(*) AS n, 0 AS v FROM w GROUP BY word").await?;
            if run == 1 {
                server.restart(&Options::workers(1))?;
            }
            let sql = server.connect().await?;
            eventually("5,000 words", async || {
                Ok((sql.value("SELECT coalesce(sum(n), 0) FROM m").await? == "5000").then_some(()))
            })
            .await?;
            answers.push(sql.lines("SELECT * FROM m ORDER BY k").await?);
        }
        ensure!(answers[0] == answers[1], "two runs with one seed differ");
        Ok(())
    });
}

#[test]
fn the_files_of_a_server_are_no_input() {
    run(|scratch| async move {
        let both = scratch.dir("both");
        let server = Server::start(&both.join("data"), &Options::default())?;
        let sql = server.connect().await?;
        drop_file(&both, "1.csv", b"a,1\n")?;
        source(&sql, &both, ", persistent_id = 's'").await?;
        is(&sql, &["a|1|1"]).await?;
        sql.run("CREATE TABLE t (v text)").await?;
        for n in 2..5 {
            // Too much for the manifest: commits write files.
            sql.run("INSERT INTO t SELECT md5(n::text) FROM generate_series(1, 3000) AS g(n)")
                .await?;
            drop_file(&both, &format!("{n}.csv"), b"a,1\n")?;
            is(&sql, &[&format!("a|{n}|{n}")]).await?;
        }
        let from_data = "SELECT count(*) FROM s_errors WHERE path LIKE '%/data/%'";
        ensure!(sql.number(from_data).await? == 0);
        Ok(())
    });
}

#[test]
fn what_a_source_waits_for_is_told() {
    run(|scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        let input = scratch.path("later");
        source(&sql, &input, "").await?;
        let reason = async |part: &str| {
            eventually(part, async || {
                let told = sql.value("SELECT reason FROM tidemill.sources").await?;
                Ok(told.contains(part).then_some(told))
            })
            .await
        };
        reason("later doesn't exist").await?;
        std::fs::create_dir(&input)?;
        drop_file(&input, "empty.csv", b"")?;
        drop_file(&input, "1.csv", b"a,1\n")?;
        is(&sql, &["a|1|1"]).await?;
        let told = reason("new input").await?;
        ensure!(told == "new input", "{told}");
        append(&input.join("empty.csv"), b"b,2")?;
        reason("empty.csv").await?;
        append(&input.join("empty.csv"), b"0\n")?;
        is(&sql, &["a|1|1", "b|1|20"]).await
    });
}
