//! Malformed input ends in the error relation with its place and reason, and disturbs nothing else.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use flate2::Compression;
use flate2::write::GzEncoder;
use tidemill_tests::files::{append, drop_file};
use tidemill_tests::{Options, Server, Sql, eventually, run};

async fn source(sql: &Sql, name: &str, path: &Path, format: &str, columns: &str) -> Result<()> {
    let (path, header) = (
        path.display(),
        if format == "csv" {
            ", header = true"
        } else {
            ""
        },
    );
    sql.run(&format!(
        "CREATE SOURCE {name} ({columns}) WITH (connector = 'files', path = '{path}', format = '{format}', \
         commit_interval = '10ms', persistent_id = '{name}'{header})"
    ))
    .await
}

async fn settled(sql: &Sql, name: &str, rows: i64, errors: i64) -> Result<()> {
    let mut last = (0, 0);
    eventually(
        &format!("{name}: {rows} rows and {errors} errors"),
        async || {
            last = (
                sql.number(&format!("SELECT count(*) FROM {name}")).await?,
                sql.number(&format!("SELECT count(*) FROM {name}_errors"))
                    .await?,
            );
            Ok((last == (rows, errors)).then_some(()))
        },
    )
    .await
    .with_context(|| format!("the last counts were {last:?}"))
}

#[test]
fn csv() {
    run(|scratch| async move {
        let input = scratch.dir("csv");
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        source(
            &sql,
            "c",
            &input,
            "csv",
            "id integer, name text, v smallint",
        )
        .await?;
        sql.run("CREATE MATERIALIZED VIEW total AS SELECT count(*) AS n, sum(v) AS s FROM c")
            .await?;
        sql.run("CREATE MATERIALIZED VIEW reasons AS SELECT reason, count(*) AS n FROM c_errors GROUP BY reason").await?;
        drop_file(&input, "good.csv", b"id,name,v\n1,a,1\n2,b,2\n")?;
        settled(&sql, "c", 2, 0).await?;

        // Each of these is one bad line between two good ones.
        let bad_lines: [(&str, &[u8]); 6] = [
            ("utf8", b"3,\xff\xfe,1"),
            ("overflow", b"3,a,40000"),
            ("number", b"three,a,1"),
            ("few", b"3,a"),
            ("many", b"3,a,1,2"),
            ("huge", b"99999999999999999999999,a,1"),
        ];
        let (mut rows, mut errors) = (2, 0);
        for (name, line) in bad_lines {
            let content = [&b"id,name,v\n10,before,1\n"[..], line, b"\n11,after,1\n"].concat();
            drop_file(&input, &format!("{name}.csv"), &content)?;
            (rows, errors) = (rows + 2, errors + 1);
            settled(&sql, "c", rows, errors)
                .await
                .with_context(|| name.to_owned())?;
            let place = sql
                .rows(&format!(
                    "SELECT \"offset\", line, reason FROM c_errors WHERE path LIKE '%{name}.csv'"
                ))
                .await?;
            ensure!(place.len() == 1, "{name}: {place:?}");
            ensure!(
                place[0][0].as_deref() == Some("22"),
                "{name} is at byte 22: {place:?}"
            );
            ensure!(
                place[0][1].as_deref() == Some("3"),
                "{name} is line 3: {place:?}"
            );
            ensure!(
                place[0][2].as_deref().is_some_and(|r| !r.is_empty()),
                "{name} has a reason"
            );
        }
        // These are fine: a byte order mark, CRLF, quotes over lines, a last line without its end in a closed file.
        drop_file(&input, "bom.csv", b"\xef\xbb\xbfid,name,v\n20,bom,1\n")?;
        drop_file(&input, "crlf.csv", b"id,name,v\r\n21,crlf,1\r\n")?;
        drop_file(
            &input,
            "quoted.csv",
            b"id,name,v\n22,\"a \"\"b\"\"\nc\",1\n",
        )?;
        rows += 3;
        settled(&sql, "c", rows, errors).await?;
        ensure!(
            sql.lines("SELECT name FROM c WHERE id IN (20, 21) ORDER BY id")
                .await?
                == ["bom", "crlf"]
        );
        ensure!(sql.value("SELECT name FROM c WHERE id = 22").await? == "a \"b\"\nc");
        // NUL can't be text in PostgreSQL's protocol: an error or a row, but never a crash.
        drop_file(&input, "nul.csv", b"id,name,v\n30,a\x00b,1\n31,c,1\n")?;
        eventually("the row after NUL", async || {
            Ok((sql.number("SELECT count(*) FROM c WHERE id = 31").await? == 1).then_some(()))
        })
        .await?;
        let nul = sql.number("SELECT count(*) FROM c WHERE id = 30").await?;
        let nul_errors = sql
            .number("SELECT count(*) FROM c_errors WHERE path LIKE '%nul.csv'")
            .await?;
        ensure!(
            nul + nul_errors == 1,
            "the line with NUL is a row or an error"
        );
        // An open quote swallows at most its own file.
        drop_file(
            &input,
            "quote.csv",
            b"id,name,v\n40,\"open,1\n41,b,1\n42,c,1\n",
        )?;
        drop_file(&input, "later.csv", b"id,name,v\n50,later,1\n")?;
        eventually("a file after the open quote", async || {
            Ok((sql.number("SELECT count(*) FROM c WHERE id = 50").await? == 1).then_some(()))
        })
        .await?;
        ensure!(
            sql.number("SELECT n FROM total").await?
                == sql.number("SELECT count(*) FROM c").await?
        );
        let by_view = sql.number("SELECT sum(n)::bigint FROM reasons").await?;
        ensure!(
            by_view == sql.number("SELECT count(*) FROM c_errors").await?,
            "views read error relations like any other"
        );
        Ok(())
    });
}

#[test]
fn json() {
    run(|scratch| async move {
        let input = scratch.dir("json");
        let mut server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        source(
            &sql,
            "j",
            &input,
            "jsonl",
            "id integer, v double precision, d jsonb",
        )
        .await?;
        let deep = format!(
            "{{\"id\":1,\"d\":{}1{}}}",
            "[".repeat(100_000),
            "]".repeat(100_000)
        );
        let bad: [(&str, &str); 7] = [
            ("half", "{\"id\":1,\"v\":"),
            ("text", "not json"),
            ("array", "[1,2]"),
            ("type", "{\"id\":\"x\"}"),
            ("overflow", "{\"id\":99999999999}"),
            ("number", "{\"id\":1,\"v\":1e999}"),
            ("deep", &deep),
        ];
        for (name, line) in bad {
            drop_file(
                &input,
                &format!("{name}.jsonl"),
                format!("{{\"id\":1}}\n{line}\n{{\"id\":2}}\n").as_bytes(),
            )?;
        }
        settled(&sql, "j", 14, 7).await?;
        drop_file(&input, "bytes.jsonl", b"{\"id\":1}\n\xff\xfe\n{\"id\":2}\n")?;
        settled(&sql, "j", 16, 8).await?;
        // A document cut at the end of a growing file waits for its rest.
        append(&input.join("grow.jsonl"), b"{\"id\":3}\n{\"id\":")?;
        settled(&sql, "j", 17, 8).await?;
        append(&input.join("grow.jsonl"), b"4,\"v\":2.5}\n")?;
        settled(&sql, "j", 18, 8).await?;
        server.restart(&Options::default())?;
        let sql = server.connect().await?;
        settled(&sql, "j", 18, 8).await
    });
}

#[test]
fn compressed() {
    run(|scratch| async move {
        let input = scratch.dir("gz");
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        source(&sql, "g", &input, "csv", "id integer").await?;
        let text: String = (0..50_000).map(|i| format!("{i}\n")).collect();
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(format!("id\n{text}").as_bytes())?;
        let whole = encoder.finish()?;
        drop_file(&input, "whole.csv.gz", &whole)?;
        settled(&sql, "g", 50_000, 0).await?;
        drop_file(&input, "cut.csv.gz", &whole[..whole.len() / 2])?;
        drop_file(&input, "none.csv.gz", b"this is no gzip")?;
        drop_file(&input, "plain.csv", b"id\n-1\n")?;
        eventually("both errors", async || {
            let cut = sql
                .number("SELECT count(*) FROM g_errors WHERE path LIKE '%cut.csv.gz'")
                .await?;
            let none = sql
                .number("SELECT count(*) FROM g_errors WHERE path LIKE '%none.csv.gz'")
                .await?;
            Ok((cut >= 1 && none >= 1).then_some(()))
        })
        .await?;
        eventually("the plain file", async || {
            Ok((sql.number("SELECT count(*) FROM g WHERE id = -1").await? == 1).then_some(()))
        })
        .await
    });
}

#[test]
fn a_line_of_100_megabytes() {
    run(|scratch| async move {
        let input = scratch.dir("long");
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        source(&sql, "l", &input, "csv", "id integer, t text").await?;
        let mut content = b"id,t\n1,short\n2,".to_vec();
        content.resize(content.len() + 100_000_000, b'x');
        content.extend_from_slice(b"\n3,short\n");
        drop_file(&input, "long.csv", &content)?;
        drop_file(&input, "other.csv", b"id,t\n4,other\n")?;
        eventually("the rows around it", async || {
            Ok((sql
                .number("SELECT count(*) FROM l WHERE id IN (1, 3, 4)")
                .await?
                == 3)
                .then_some(()))
        })
        .await?;
        let long = sql.number("SELECT count(*) FROM l WHERE id = 2").await?;
        let errors = sql
            .lines("SELECT length(raw) < 1000000 FROM l_errors")
            .await?;
        ensure!(
            (long == 1 && errors.is_empty()) || (long == 0 && errors == ["t"]),
            "a row, or an error with a shortened text: {errors:?}"
        );
        Ok(())
    });
}
