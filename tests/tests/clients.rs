//! psql, tokio-postgres and psycopg each run a small session: queries, SUBSCRIBE, resume, cancel.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::TryStreamExt;
use tidemill_tests::client::{psql, psql_command};
use tidemill_tests::raw::{answer, message, startup};
use tidemill_tests::{DEADLINE, Options, Scratch, Server, Subscription, run};
use tokio_postgres::NoTls;

async fn started(scratch: &Scratch) -> Result<Server> {
    let server = Server::start(&scratch.data(), &Options::default())?;
    let sql = server.connect().await?;
    sql.run("CREATE TABLE t (id integer PRIMARY KEY, name text, v double precision)")
        .await?;
    sql.run("CREATE MATERIALIZED VIEW names AS SELECT name, count(*) AS n FROM t GROUP BY name")
        .await?;
    Ok(server)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn psql_session() {
    run(|scratch| async move {
        let server = started(&scratch).await?;
        let script = "INSERT INTO t VALUES (1, 'a', 1.5), (2, 'b', NULL);\nSELECT * FROM t ORDER BY id;\n\
                      \\copy t from stdin\n3\ta\t2.5\n\\.\nSELECT name, n FROM names ORDER BY name;\n\
                      BEGIN;\nDECLARE c CURSOR FOR SUBSCRIBE names;\nFETCH 2 c;\nCOMMIT;\n";
        let output = psql(server.port(), script)?;
        let out = text(&output.stdout);
        ensure!(output.status.success(), "{out}\n{}", text(&output.stderr));
        ensure!(out.starts_with("1|a|1.5\n2|b|\na|2\nb|1\n"), "{out}");
        ensure!(out.lines().count() == 6, "two rows of the cursor: {out}");
        // The meta-commands read pg_catalog; psql -E-free and without errors.
        for command in [
            "\\d",
            "\\dt",
            "\\dv",
            "\\dm",
            "\\d t",
            "\\d names",
            "\\l",
            "\\dn",
            "\\df",
            "\\conninfo",
            "\\d+ t",
            "\\du",
        ] {
            let output = psql(server.port(), &format!("{command}\n"))?;
            let err = text(&output.stderr);
            ensure!(
                output.status.success() && !err.contains("ERROR"),
                "{command}: {err}"
            );
        }
        let output = psql(server.port(), "\\d t\n")?;
        ensure!(
            ["id", "integer", "name", "text", "double precision"]
                .iter()
                .all(|w| text(&output.stdout).contains(w)),
            "{}",
            text(&output.stdout)
        );
        let output = psql(server.port(), "\\dm\n")?;
        ensure!(
            text(&output.stdout).contains("names"),
            "{}",
            text(&output.stdout)
        );
        // What psql asks when the user presses Tab: relations, schemas, columns, settings.
        for query in [
            "SELECT c.relname, NULL::pg_catalog.text FROM pg_catalog.pg_class c WHERE c.relkind IN ('r', 'S', 'v', 'm', 'f', 'p') \
             AND (c.relname) LIKE 't%' AND c.relnamespace <> (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = 'pg_catalog') \
             AND pg_catalog.pg_table_is_visible(c.oid) UNION ALL SELECT NULL::pg_catalog.text, n.nspname \
             FROM pg_catalog.pg_namespace n WHERE n.nspname LIKE 't%' LIMIT 1000",
            "SELECT attname FROM pg_catalog.pg_attribute a, pg_catalog.pg_class c WHERE c.oid = a.attrelid AND a.attnum > 0 \
             AND NOT a.attisdropped AND (attname) LIKE '%' AND (c.relname) = ('t') AND pg_catalog.pg_table_is_visible(c.oid) LIMIT 1000",
            "SELECT nspname FROM pg_catalog.pg_namespace WHERE nspname LIKE '%' LIMIT 1000",
            "SELECT name FROM (SELECT pg_catalog.lower(name) AS name FROM pg_catalog.pg_settings) AS s WHERE name LIKE 'time%' LIMIT 1000",
        ] {
            let output = psql(server.port(), &format!("{query};\n"))?;
            ensure!(
                output.status.success() && !output.stdout.is_empty(),
                "{query}: {}",
                text(&output.stderr)
            );
        }
        // An error has its SQLSTATE, position and hint.
        let output = psql(
            server.port(),
            "\\set VERBOSITY verbose\nSELECT nmae FROM t;\n",
        )?;
        ensure!(
            text(&output.stderr).contains("42703"),
            "{}",
            text(&output.stderr)
        );
        // What a transaction leaves although it is rolled back is said.
        for (end, warned) in [
            ("ROLLBACK", true),
            ("SELECT 1/0; COMMIT", true),
            ("COMMIT", false),
        ] {
            let script = format!(
                "\\set ON_ERROR_STOP 0\nBEGIN;\nCREATE TABLE left_over (x int);\n{end};\nDROP TABLE left_over;\n"
            );
            let output = psql(server.port(), &script)?;
            let said = text(&output.stderr);
            ensure!(
                said.contains("not undone by ROLLBACK: CREATE TABLE") == warned,
                "{end}: {said}"
            );
        }
        // The command that the server printed works as it stands.
        let output = Command::new("bash")
            .args(["-c", &format!("{} -qAtc 'SELECT 1'", server.psql_command())])
            .output()?;
        ensure!(
            text(&output.stdout).trim() == "1",
            "{} gave {}",
            server.psql_command(),
            text(&output.stderr)
        );
        Ok(())
    });
}

#[test]
fn psql_follows_and_cancels() {
    run(|scratch| async move {
        let server = started(&scratch).await?;
        let sql = server.connect().await?;
        let mut child = psql_command(server.port())
            .args([
                "-qAt",
                "-c",
                "COPY (SUBSCRIBE names WITH (SNAPSHOT)) TO STDOUT",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        let pid = child.id();
        let first = tokio::task::spawn_blocking(move || -> Result<(String, _)> {
            let line = lines.next().context("the stream ended")??;
            Ok((line, lines))
        });
        sql.run("INSERT INTO t VALUES (1, 'live', 1)").await?;
        let (line, lines) = tokio::time::timeout(DEADLINE, first).await???;
        ensure!(
            line.ends_with("\t1\tlive\t1"),
            "psql shows changes as they come: {line:?}"
        );
        // SAFETY: kill(2) has no memory effects; the child is ours and hasn't been waited for.
        unsafe { libc::kill(pid as libc::pid_t, libc::SIGINT) };
        let start = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            ensure!(start.elapsed() < DEADLINE, "Ctrl-C doesn't end the stream");
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        drop(lines);
        let mut err = String::new();
        std::io::Read::read_to_string(
            &mut child.stderr.take().expect("stderr is piped"),
            &mut err,
        )?;
        ensure!(
            !status.success() && err.to_lowercase().contains("cancel"),
            "psql reports the cancel: {status} {err}"
        );
        // psql shows nothing of a plain SUBSCRIBE until it ends, so a NOTICE says what to type.
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)?
            .as_millis();
        let output = psql(
            server.port(),
            &format!("SUBSCRIBE names UP TO {};\n", now + 1500),
        )?;
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        ensure!(
            output.status.success() && out.contains("|1|live|1"),
            "{out} {err}"
        );
        ensure!(
            err.contains("NOTICE") && err.contains("COPY (SUBSCRIBE"),
            "{err}"
        );
        let sql = server.connect().await?;
        ensure!(sql.number("SELECT n FROM names").await? == 1);
        Ok(())
    });
}

#[test]
fn tokio_postgres_session() {
    run(|scratch| async move {
        let server = started(&scratch).await?;
        let config = format!(
            "host=127.0.0.1 port={} user=tidemill dbname=tidemill",
            server.port()
        );
        let (client, connection) = tokio_postgres::connect(&config, NoTls).await?;
        tokio::spawn(connection);
        let insert = client.prepare("INSERT INTO t VALUES ($1, $2, $3)").await?;
        for (id, name) in [(1, "a"), (2, "b"), (3, "a")] {
            ensure!(client.execute(&insert, &[&id, &name, &1.5f64]).await? == 1);
        }
        let row = client
            .query_one(
                "SELECT count(*), sum(v), max(name) FROM t WHERE id > $1",
                &[&1],
            )
            .await?;
        ensure!(
            (
                row.get::<_, i64>(0),
                row.get::<_, f64>(1),
                row.get::<_, &str>(2)
            ) == (2, 3.0, "b")
        );

        // COPY in, and a row by row result of SUBSCRIBE in the extended protocol.
        let sink = client.copy_in("COPY t FROM STDIN").await?;
        let mut sink = std::pin::pin!(sink);
        futures::SinkExt::send(
            &mut sink,
            bytes::Bytes::from_static(b"10\tcopied\t0.25\n11\tcopied\t\\N\n"),
        )
        .await?;
        ensure!(sink.finish().await? == 2);
        let stream = client
            .query_raw("SUBSCRIBE names WITH (SNAPSHOT)", Vec::<i32>::new())
            .await?;
        let mut stream = std::pin::pin!(stream);
        let mut names = Vec::new();
        for _ in 0..3 {
            let row = tokio::time::timeout(DEADLINE, stream.try_next())
                .await??
                .context("a row of the snapshot")?;
            names.push((
                row.get::<_, String>("name"),
                row.get::<_, i64>("n"),
                row.get::<_, i64>("diff"),
            ));
            ensure!(row.get::<_, i64>("time") > 0);
        }
        names.sort();
        ensure!(
            names
                == [
                    ("a".into(), 2, 1),
                    ("b".into(), 1, 1),
                    ("copied".into(), 2, 1)
                ],
            "{names:?}"
        );
        let cancel = client.cancel_token();
        cancel.cancel_query(NoTls).await?;
        let end = tokio::time::timeout(DEADLINE, async {
            loop {
                match stream.try_next().await {
                    Ok(Some(_)) => {}
                    Ok(None) => return None,
                    Err(error) => return Some(error),
                }
            }
        })
        .await?;
        let code = end
            .as_ref()
            .and_then(|e| e.code())
            .map(|c| c.code().to_owned());
        ensure!(
            code.as_deref() == Some("57014"),
            "the cancelled stream ends with {code:?}"
        );
        ensure!(
            client
                .query_one("SELECT 1::bigint", &[])
                .await?
                .get::<_, i64>(0)
                == 1,
            "the session goes on after a cancel"
        );

        // Resume after progress p: AS OF p-1 without a snapshot.
        let sql = server.connect().await?;
        let mut first = Subscription::open(&sql, "names").await?;
        first.until_rows(&["a|2", "b|1", "copied|2"]).await?;
        let p = first.frontier;
        drop(first);
        sql.run("DELETE FROM t WHERE name = 'b'").await?;
        let mut second = Subscription::resume(&sql, "names", p).await?;
        second
            .until("the deletion", |s| s.changes.len() == 1)
            .await?;
        ensure!(
            second.changes[0].diff == -1 && second.changes[0].row[0].as_deref() == Some("b"),
            "{:?}",
            second.changes
        );

        // UP TO is exclusive and ends the stream; AS OF = UP TO gives nothing; the reverse is an error.
        let t = second.changes[0].time;
        let count = async |from: i64, to: i64| -> Result<usize> {
            Ok(sql
                .rows(&format!(
                    "SUBSCRIBE names WITH (SNAPSHOT = false) AS OF {from} UP TO {to}"
                ))
                .await?
                .len())
        };
        ensure!(
            count(t - 1, t + 1).await? == 1
                && count(t - 1, t).await? == 0
                && count(t, t).await? == 0
                && count(t, t + 1).await? == 0
        );
        let failure = sql
            .try_rows(&format!("SUBSCRIBE names AS OF {t} UP TO {}", t - 1))
            .await
            .expect_err("UP TO before AS OF");
        ensure!(
            failure.sqlstate == "22000" || failure.sqlstate == "22023",
            "{failure}"
        );
        ensure!(
            sql.lines(&format!(
                "SELECT name FROM names ORDER BY name AS OF {}",
                t - 1
            ))
            .await?
                == ["a", "b", "copied"]
        );
        ensure!(
            sql.lines(&format!("SELECT name FROM names ORDER BY name AS OF {t}"))
                .await?
                == ["a", "copied"]
        );
        Ok(())
    });
}

/// The Sync of a statement comes in a packet of its own: the statement is alone nevertheless, so that it commits by itself and may do
/// what transactions can't.
#[test]
fn a_late_sync() {
    run(|scratch| async move {
        let server = started(&scratch).await?;
        let sql = server.connect().await?;
        sql.run("CREATE TABLE numbered (id serial, v integer)")
            .await?;
        let mut stream = startup(server.port())?;
        stream.set_nodelay(true)?;
        message(
            &mut stream,
            b'P',
            b"\0TRUNCATE numbered RESTART IDENTITY\0\0\0",
        )?;
        message(&mut stream, b'B', b"\0\0\0\0\0\0\0\0")?;
        message(&mut stream, b'E', b"\0\0\0\0\0")?;
        // Another connection's answers give it the time to look for what comes next.
        for _ in 0..20 {
            sql.run("SELECT 1").await?;
        }
        message(&mut stream, b'S', b"")?;
        let mut kinds = vec![];
        loop {
            let (kind, body) = answer(&mut stream)?;
            ensure!(kind != b'E', "{}", String::from_utf8_lossy(&body));
            kinds.push(kind);
            if kind == b'Z' {
                break;
            }
        }
        ensure!(kinds == b"12CZ", "{}", String::from_utf8_lossy(&kinds));
        Ok(())
    });
}

#[test]
fn psycopg_session() {
    run(|scratch| async move {
        let server = started(&scratch).await?;
        let python = std::env::var("TIDEMILL_PYTHON").unwrap_or_else(|_| "python3".into());
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/python/session.py");
        let port = server.port().to_string();
        let output = tokio::task::spawn_blocking(move || {
            Command::new("timeout")
                .args(["120", &python, script, &port])
                .stdin(Stdio::null())
                .output()
        })
        .await??;
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        std::io::stderr().write_all(out.as_bytes())?;
        ensure!(
            output.status.success() && out.trim().ends_with("ok"),
            "psycopg (./test makes its environment): {err}"
        );
        Ok(())
    });
}
