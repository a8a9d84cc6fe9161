//! A data directory that is damaged, full, or from another version: the error names what is wrong and what helps; repair
//! brings back what the copy of the manifest holds.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, bail, ensure};
use tidemill_tests::server::binary;
use tidemill_tests::{Options, Scratch, Server, Sql, run};

/// Runs the binary to its end.
fn tidemill(args: &[&str]) -> Result<(bool, String)> {
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(binary()?).args(args).output()?;
    let text = [stdout, stderr].concat();
    Ok((
        status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    ))
}

/// The message with which a server on the directory ends at its start.
fn refusal(data: &Path) -> Result<String> {
    match Server::try_start(data, &Options::default())? {
        Ok(_) => bail!("the server starts"),
        Err((status, log)) => {
            ensure!(status.code() == Some(1), "{status}: {log}");
            let last = log.rsplit("--- start").next().unwrap_or_default();
            let at = last
                .find("tidemill: ")
                .with_context(|| format!("no message:\n{last}"))?;
            Ok(last[at..].to_string())
        }
    }
}

fn contains(text: &str, parts: &[&str]) -> Result<()> {
    for part in parts {
        ensure!(text.contains(part), "{part:?} isn't in:\n{text}");
    }
    Ok(())
}

/// A table, a view, and enough rows for segment files.
async fn fill(sql: &Sql) -> Result<()> {
    sql.run("CREATE TABLE t (id bigint PRIMARY KEY, v text)")
        .await?;
    sql.run("CREATE MATERIALIZED VIEW m AS SELECT length(v) AS l, count(*) AS n FROM t GROUP BY length(v)")
        .await?;
    sql.run("INSERT INTO t SELECT n, repeat('x', 20 + (n % 7)::integer) FROM generate_series(1, 5000) AS g(n)")
        .await
}

/// A directory with 5,000 rows that its copy of the manifest knows, and one more that it doesn't; its server killed.
async fn killed(scratch: &Scratch) -> Result<PathBuf> {
    let mut server = Server::start(&scratch.data(), &Options::default())?;
    fill(&server.connect().await?).await?;
    ensure!(server.terminate()?.success());
    let mut server = Server::start(&scratch.data(), &Options::default())?;
    server
        .connect()
        .await?
        .run("INSERT INTO t VALUES (5001, 'the last one')")
        .await?;
    server.kill();
    Ok(scratch.data())
}

#[test]
fn a_damaged_manifest_is_repaired_on_request() {
    run(|scratch| async move {
        let mut server = Server::start(&scratch.data(), &Options::default())?;
        let data = scratch.data().display().to_string();
        let (ok, text) = tidemill(&["repair", "--data-dir", &data, "--yes"])?;
        ensure!(
            !ok && text.contains("in use"),
            "a directory in use:\n{text}"
        );
        fill(&server.connect().await?).await?;
        ensure!(server.terminate()?.success());
        let (ok, text) = tidemill(&["repair", "--data-dir", &data, "--yes"])?;
        ensure!(ok && text.contains("nothing to repair"), "{text}");
        let nowhere = scratch.path("nowhere").display().to_string();
        let (ok, text) = tidemill(&["repair", "--data-dir", &nowhere])?;
        ensure!(!ok && text.contains("not a data directory"), "{text}");
        ensure!(!scratch.path("nowhere").exists());

        let data_dir = killed(&scratch.sub("second")).await?;
        let data = data_dir.display().to_string();
        let log = data_dir.join("sled/db");
        let before = std::fs::read(&log)?;
        let file = OpenOptions::new().write(true).open(&log)?;
        file.write_all_at(&vec![0xaa; before.len()], 0)?;
        let message = refusal(&data_dir)?;
        contains(&message, &["sled", "tidemill repair --data-dir"])?;
        let (ok, text) = tidemill(&["repair", "--data-dir", &data])?;
        ensure!(ok, "{text}");
        contains(&text, &["manifest.copy", "Lost:", "--yes"])?;
        contains(&refusal(&data_dir)?, &["tidemill repair"])?;
        let (ok, text) = tidemill(&["repair", "--data-dir", &data, "--yes"])?;
        ensure!(ok && text.contains("sled.damaged-1"), "{text}");
        let server = Server::start(&data_dir, &Options::default())?;
        let sql = server.connect().await?;
        ensure!(sql.number("SELECT count(*) FROM t").await? == 5000);
        ensure!(sql.number("SELECT sum(n)::bigint FROM m").await? == 5000);
        sql.run("INSERT INTO t VALUES (5001, 'again')").await?;
        ensure!(sql.number("SELECT sum(n)::bigint FROM m").await? == 5001);
        Ok(())
    });
}

#[test]
fn a_log_that_lost_its_end_is_not_taken_for_an_older_state() {
    run(|scratch| async move {
        let data = killed(&scratch).await?;
        let log = data.join("sled/db");
        let file = OpenOptions::new().write(true).open(&log)?;
        let bytes = std::fs::read(&log)?;
        let written = bytes
            .iter()
            .rposition(|b| *b != 0)
            .context("it isn't empty")?;
        file.set_len(written as u64 / 2)?;
        let message = refusal(&data)?;
        contains(&message, &["sled", "tidemill repair --data-dir"])?;
        let data = data.display().to_string();
        let (ok, text) = tidemill(&["repair", "--data-dir", &data, "--yes"])?;
        ensure!(ok, "{text}");
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        ensure!(sql.number("SELECT count(*) FROM t").await? == 5000);
        Ok(())
    });
}

/// Where sled's log has been written up to.
fn end_of_log(data: &Path) -> Result<usize> {
    let bytes = std::fs::read(data.join("sled/db"))?;
    let end = bytes.iter().rposition(|b| *b != 0);
    end.context("it isn't empty")
}

#[test]
fn no_acknowledged_write_is_lost_unnoticed() {
    run(|scratch| async move {
        let data = scratch.data();
        let mut server = Server::start(&data, &Options::default())?;
        let sql = server.connect().await?;
        sql.run("CREATE TABLE t (id bigint PRIMARY KEY)").await?;
        for id in 0..20 {
            sql.run(&format!("INSERT INTO t VALUES ({id})")).await?;
        }
        let before = end_of_log(&data)?;
        for id in 20..60 {
            sql.run(&format!("INSERT INTO t VALUES ({id})")).await?;
        }
        server.kill();
        // A byte among the last writes, in a server's first minute: no copy of the manifest knows of them.
        let log = data.join("sled/db");
        let mut bytes = std::fs::read(&log)?;
        bytes[(before + end_of_log(&data)?) / 2] ^= 1;
        std::fs::write(&log, &bytes)?;
        let hint = format!("tidemill repair --data-dir {}", data.display());
        contains(&refusal(&data)?, &["sled/db", "was committed", &hint])?;
        let name = data.display().to_string();
        let (ok, text) = tidemill(&["repair", "--data-dir", &name])?;
        ensure!(ok, "{text}");
        contains(&text, &["can be kept", "Lost:", "--yes"])?;
        let (ok, text) = tidemill(&["repair", "--data-dir", &name, "--yes"])?;
        ensure!(ok, "{text}");
        let server = Server::start(&data, &Options::default())?;
        let sql = server.connect().await?;
        let rows = sql.number("SELECT count(*) FROM t").await?;
        ensure!((20..60).contains(&rows), "{rows} rows");
        sql.run("INSERT INTO t VALUES (100)").await?;
        drop(server);

        // Nothing at all is left of it.
        std::fs::write(&log, "")?;
        contains(&refusal(&data)?, &["sled", &hint])
    });
}

#[test]
fn a_file_in_place_of_the_directory_is_refused() {
    run(|scratch| async move {
        std::fs::write(scratch.data(), "precious")?;
        let message = refusal(&scratch.data())?;
        contains(&message, &["is not a directory", "choose another"])?;
        ensure!(std::fs::read_to_string(scratch.data())? == "precious");
        Ok(())
    });
}

#[test]
fn state_that_cannot_be_read_ends_the_server_with_its_file() {
    run(|scratch| async move {
        let data = scratch.data();
        let mut server = Server::start(&data, &Options::default())?;
        let sql = server.connect().await?;
        // Without a key, an INSERT reads nothing of the table.
        sql.run("CREATE TABLE t (v text)").await?;
        sql.run("CREATE MATERIALIZED VIEW m AS SELECT length(v) AS l, count(*) AS n FROM t GROUP BY length(v)")
            .await?;
        sql.run("INSERT INTO t SELECT md5(n::text) || repeat('x', (n % 7)::integer) FROM generate_series(1, 5000) AS g(n)")
            .await?;
        ensure!(server.terminate()?.success());
        let whole: Vec<(PathBuf, Vec<u8>)> = std::fs::read_dir(data.join("segments"))?
            .map(|e| Ok((e.as_ref().unwrap().path(), std::fs::read(e?.path())?)))
            .collect::<Result<_>>()?;
        // Every block of every file: the view's state is among them.
        for (path, bytes) in &whole {
            let mut bytes = bytes.clone();
            let end = bytes.len() - 200;
            bytes[16..end].iter_mut().for_each(|b| *b ^= 0x55);
            std::fs::write(path, bytes)?;
        }
        let mut server = Server::start(&data, &Options::default())?;
        let sql = server.connect().await?;
        let insert = format!("INSERT INTO t VALUES ('{}')", "x".repeat(32));
        ensure!(sql.try_rows(&insert).await.is_err());
        let status = server.wait()?;
        let log = server.log_text();
        ensure!(status.code() == Some(1), "{status}: {log}");
        let message = log.rsplit("tidemill: ").next().unwrap_or_default();
        let named = "it belongs to the materialized view m: after a restart DROP it";
        contains(message, &["segments/", "is damaged", named, "backup"])?;
        ensure!(!log.contains("panicked"), "{log}");
        for (path, bytes) in &whole {
            std::fs::write(path, bytes)?;
        }
        // The view's state alone is what writes need.
        let mut server = Server::start(&data, &Options::default())?;
        let sql = server.connect().await?;
        sql.run(&insert).await?;
        ensure!(sql.number("SELECT sum(n)::bigint FROM m").await? == 5001);
        server.kill();

        for (path, bytes) in &whole {
            let mut bytes = bytes.clone();
            let end = bytes.len() - 200;
            bytes[16..end].iter_mut().for_each(|b| *b ^= 0x55);
            std::fs::write(path, bytes)?;
        }
        let server = Server::start(&data, &Options::default())?;
        let sql = server.connect().await?;
        sql.run("DROP MATERIALIZED VIEW m").await?;
        sql.run(&insert).await
    });
}

fn largest_segment(data: &Path) -> Result<PathBuf> {
    let mut files: Vec<(u64, PathBuf)> = std::fs::read_dir(data.join("segments"))?
        .map(|e| Ok((e.as_ref().unwrap().metadata()?.len(), e?.path())))
        .collect::<Result<_>>()?;
    files.sort();
    Ok(files.pop().context("there are segments")?.1)
}

#[test]
fn a_damaged_segment_is_named() {
    run(|scratch| async move {
        let data = killed(&scratch).await?;
        let segment = largest_segment(&data)?;
        let name = segment
            .file_name()
            .context("a name")?
            .to_string_lossy()
            .into_owned();
        let whole = std::fs::read(&segment)?;
        // A byte in the middle: found when its block is read.
        let mut bytes = whole.clone();
        bytes[whole.len() / 3] ^= 0x40;
        std::fs::write(&segment, &bytes)?;
        match Server::try_start(&data, &Options::default())? {
            Err((_, log)) => contains(&log, &[&name, "damaged"])?,
            Ok(server) => {
                let sql = server.connect().await?;
                let failure = sql
                    .fails("XX001", "SELECT sum(length(v)), sum(id) FROM t")
                    .await?;
                contains(&failure.message, &[&name, "damaged"])?;
            }
        }
        // Cut: found at the start.
        File::create(&segment)?.write_all_at(&whole[..whole.len() - 1], 0)?;
        let message = refusal(&data)?;
        contains(&message, &[&name, "bytes; expected", "backup"])?;
        ensure!(
            !message.contains("tidemill repair"),
            "no help from there:\n{message}"
        );
        std::fs::remove_file(&segment)?;
        contains(&refusal(&data)?, &[&name, "backup"])?;
        std::fs::write(&segment, &whole)?;
        let server = Server::start(&data, &Options::default())?;
        let sql = server.connect().await?;
        ensure!(sql.number("SELECT count(*) FROM t").await? == 5001);
        Ok(())
    });
}
