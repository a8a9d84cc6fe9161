//! The command line: help, refusals, `--init`, clean ends, `demo`, and the statements of docs/quickstart.md.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tidemill_tests::client::psql;
use tidemill_tests::server::binary;
use tidemill_tests::{Options, Server, Sql, run};

/// Runs the binary to its end, which must come within `limit`.
fn tidemill(args: &[&str], limit: Duration) -> Result<Output> {
    let mut child = Command::new(binary()?)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let pid = child.id();
    let start = Instant::now();
    let (done, waited) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let finished = waited.recv_timeout(limit);
        if finished.is_err() {
            // SAFETY: kill(2) has no memory effects; the child is waited for only after this thread is told.
            unsafe { libc::kill(pid as libc::pid_t, libc::SIGKILL) };
        }
    });
    let stdout = child.stdout.take().expect("stdout is piped");
    let reader = std::thread::spawn(move || std::io::read_to_string(stdout));
    let stderr =
        std::io::read_to_string(child.stderr.take().expect("stderr is piped"))?.into_bytes();
    let stdout = reader
        .join()
        .expect("the reader doesn't panic")?
        .into_bytes();
    let status = child.wait()?;
    let _ = done.send(());
    if start.elapsed() >= limit {
        bail!(
            "tidemill {args:?} isn't done after {limit:?}:\n{}",
            String::from_utf8_lossy(&stdout)
        );
    }
    Ok(Output {
        status,
        stdout,
        stderr,
    })
}

fn all(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

const SOON: Duration = Duration::from_secs(30);

#[test]
fn help_names_every_option() {
    run(|_| async {
        let output = tidemill(&["--help"], SOON)?;
        ensure!(
            output.status.success()
                && all(&output).contains("serve")
                && all(&output).contains("demo"),
            "{}",
            all(&output)
        );
        let output = tidemill(&["serve", "--help"], SOON)?;
        for option in [
            "--data-dir",
            "--listen",
            "--workers",
            "--partitions",
            "--init",
            "--log-format",
            "--state-memory",
        ] {
            ensure!(
                all(&output).contains(option),
                "{option} isn't in\n{}",
                all(&output)
            );
        }
        let start = |size, listen| {
            let options = [
                "--data-dir",
                "/nowhere",
                "--state-memory",
                size,
                "--listen",
                listen,
            ];
            tidemill(&[&["serve"], &options[..]].concat(), SOON)
        };
        for size in ["12 MiB", "lots", "99999999999TB"] {
            let refused = all(&start(size, "127.0.0.1:0")?);
            ensure!(refused.contains("a number of bytes"), "{size}: {refused}");
        }
        let refused = all(&start("1gb", "127.0.0.1:no")?);
        ensure!(refused.contains("port value"), "{refused}");
        let output = tidemill(&["demo", "--help"], SOON)?;
        ensure!(all(&output).contains("--keep"), "{}", all(&output));
        ensure!(
            !tidemill(&["serve"], SOON)?.status.success(),
            "--data-dir is needed"
        );
        Ok(())
    });
}

#[test]
fn refusals() {
    run(|scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let data = scratch.data().display().to_string();
        let output = tidemill(
            &["serve", "--data-dir", &data, "--listen", "127.0.0.1:0"],
            SOON,
        )?;
        ensure!(
            !output.status.success() && all(&output).contains("in use"),
            "a second server:\n{}",
            all(&output)
        );
        let other = scratch.path("other").display().to_string();
        let output = tidemill(
            &["serve", "--data-dir", &other, "--listen", "0.0.0.0:0"],
            SOON,
        )?;
        ensure!(
            !output.status.success() && all(&output).contains("loopback"),
            "a public address:\n{}",
            all(&output)
        );
        let port = server.port();
        let failure = Sql::connect_to(
            &format!("host=127.0.0.1 port={port} user=any dbname=nope"),
            port,
        )
        .await;
        let failure = failure.err().context("an unknown database is refused")?;
        let db = failure
            .downcast_ref::<tokio_postgres::Error>()
            .and_then(|e| e.as_db_error())
            .context("a database error")?;
        ensure!(db.code().code() == "3D000" && db.hint().is_some(), "{db:?}");
        Sql::connect_to(
            &format!("host=127.0.0.1 port={port} user=any dbname=tidemill"),
            port,
        )
        .await?
        .run("SELECT 1")
        .await
    });
}

/// Pages of 2 MiB would more than double what a server takes.
#[test]
#[cfg(target_os = "linux")]
fn memory_is_taken_in_small_pages() {
    run(|scratch| async move {
        let server = Server::start(&scratch.data(), &Options::default())?;
        let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid()))?;
        ensure!(status.contains("\nTHP_enabled:\t0\n"), "{status}");
        Ok(())
    });
}

/// A log level that can't be read is no reason not to start, but one to say so.
#[test]
fn a_mistaken_log_filter_is_named() {
    run(|scratch| async move {
        for (filter, warned) in [
            ("tidemill_server=loud", true),
            ("tidemill_server=warn", false),
        ] {
            let mut options = Options::default();
            options.env.push(("RUST_LOG".into(), filter.into()));
            let mut server = Server::start(&scratch.path(filter), &options)?;
            server.connect().await?.run("SELECT 1").await?;
            server.terminate()?;
            let log = server.log_text();
            let warning = format!("RUST_LOG={filter} is ignored");
            ensure!(log.contains(&warning) == warned, "{filter}:\n{log}");
        }
        Ok(())
    });
}

#[test]
fn init_is_idempotent_and_names_differences() {
    run(|scratch| async move {
        let init = scratch.path("pipeline.sql");
        let text = "-- a pipeline\nCREATE TABLE t (a integer, b text);\n\
                    CREATE MATERIALIZED VIEW m AS SELECT b, sum(a) AS s FROM t GROUP BY b;\nCOMMENT ON TABLE t IS 'input; of all';\n";
        std::fs::write(&init, text)?;
        let options = Options {
            init: Some(init.clone()),
            ..Options::default()
        };
        let mut server = Server::start(&scratch.data(), &options)?;
        server
            .connect()
            .await?
            .run("INSERT INTO t VALUES (1, 'x'), (2, 'x')")
            .await?;
        server.restart(&options)?;
        ensure!(server.connect().await?.lines("SELECT * FROM m").await? == ["x|3"]);
        server.kill();
        std::fs::write(&init, text.replace("sum(a)", "max(a)"))?;
        let Err((status, log)) = Server::try_start(&scratch.data(), &options)? else {
            bail!("a different definition is accepted")
        };
        ensure!(!status.success() && log.contains('m'), "{log}");
        std::fs::write(&init, "DROP TABLE t CASCADE;\n")?;
        let Err((status, _)) = Server::try_start(&scratch.data(), &options)? else {
            bail!("DROP is accepted in --init")
        };
        ensure!(!status.success());
        let mut server = Server::start(&scratch.data(), &Options::default())?;
        ensure!(
            server.connect().await?.lines("SELECT * FROM m").await? == ["x|3"],
            "a refused file changes nothing"
        );
        ensure!(server.terminate()?.success(), "SIGTERM ends cleanly");
        Ok(())
    });
}

#[test]
fn a_start_that_fails_says_where() {
    run(|scratch| async move {
        let init = scratch.path("pipeline.sql");
        let (file, data) = (
            init.display().to_string(),
            scratch.data().display().to_string(),
        );
        let serve = |more: &[&str]| {
            let args = ["serve", "--listen", "localhost:0"];
            tidemill(&[&args, more].concat(), SOON)
        };
        for (text, line, what) in [
            (
                "CREATE TABLE t (a integer);\n\nCREATE TABEL u;\n",
                3,
                "syntax error",
            ),
            (
                "-- one\nCREATE TABLE t (a integer);\nCREATE VIEW v AS\n  SELECT b\n  FROM t;\n",
                4,
                "\"b\" does not exist",
            ),
            (
                "CREATE TABLE t (a integer);\n\nSELECT 1;\n",
                3,
                "only CREATE",
            ),
            ("CREATE TABLE t (a text);\n", 1, "another definition"),
        ] {
            std::fs::write(&init, text)?;
            let output = serve(&["--data-dir", &data, "--init", &file])?;
            let all = all(&output);
            ensure!(
                !output.status.success()
                    && all.contains(&format!("{file}:{line}: "))
                    && all.contains(what),
                "{all}"
            );
        }
        std::fs::write(scratch.path("file"), "")?;
        let below = scratch.path("file").join("data").display().to_string();
        let output = serve(&["--data-dir", &below])?;
        let all = all(&output);
        ensure!(
            !output.status.success() && all.matches("Not a directory").count() == 1,
            "{all}"
        );
        Ok(())
    });
}

#[test]
fn demo_resumes_and_ends_by_itself() {
    run(|_| async {
        let output = tidemill(&["demo"], Duration::from_secs(90))?;
        let text = all(&output);
        ensure!(output.status.success(), "{text}");
        ensure!(
            text.contains("kill -9") && text.contains(": yes") && !text.contains(": no"),
            "{text}"
        );
        Ok(())
    });
}

/// docs/quickstart.md: its shell blocks marked `sh input` make the input, its `sql` blocks run in order with psql, and
/// each `text` block that follows a `sql` block is what psql shows (in the end).
#[test]
fn quickstart() {
    run(|scratch| async move {
        let text = std::fs::read_to_string(
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/quickstart.md"),
        )?;
        let dir = scratch.dir("quickstart");
        let mut server = Server::start(&scratch.data(), &Options::default())?;
        let mut shown = None;
        let mut ran = 0;
        for (language, block) in annotated_blocks(&text) {
            let block = block.replace("/tmp/tide", &dir.display().to_string());
            match language.as_str() {
                "sh input" => {
                    let status = Command::new("bash").args(["-ec", &block]).status()?;
                    ensure!(status.success(), "{block}");
                }
                "sh kill" => server.restart(&Options::default())?,
                "sql" => {
                    shown = Some(block.clone());
                    let output = psql(server.port(), &block)?;
                    ensure!(
                        output.status.success(),
                        "{block}\n{}",
                        String::from_utf8_lossy(&output.stderr)
                    );
                    ran += 1;
                }
                "text" => {
                    let sql = shown.clone().context("a text block follows a sql block")?;
                    let port = server.port();
                    tidemill_tests::eventually(&format!("{sql}\nshows\n{block}"), async || {
                        let output = Command::new("psql")
                            .args([
                                "-X",
                                "-h",
                                "127.0.0.1",
                                "-p",
                                &port.to_string(),
                                "-U",
                                "tidemill",
                                "tidemill",
                                "-c",
                                &sql,
                            ])
                            .stdin(Stdio::null())
                            .output()?;
                        Ok(
                            (normal(&String::from_utf8_lossy(&output.stdout)) == normal(&block))
                                .then_some(()),
                        )
                    })
                    .await?;
                }
                _ => {}
            }
        }
        ensure!(ran >= 5, "the quickstart has statements");
        Ok(())
    });
}

/// The fenced blocks of a Markdown file, each with the words after its fence.
fn annotated_blocks(text: &str) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let body = lines
                .by_ref()
                .take_while(|l| l.trim() != "```")
                .collect::<Vec<_>>()
                .join("\n");
            out.push((language.trim().to_owned(), body));
        }
    }
    out
}

fn normal(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
