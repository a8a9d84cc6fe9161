//! A view whose stored SQL can't be planned any more, by a defect of this version or of the one that stored it: everything else opens,
//! and the view goes on where it should be as soon as a start can restore it.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use tidemill_storage::{Commit, Store, StoreOptions};
use tidemill_tests::files::{drop_file, read_sink, sum_sink};
use tidemill_tests::{Multiset, Options, Scratch, Server, Sql, eventually, run};

const COUNTS: &str = "SELECT k, count(*) AS n FROM t GROUP BY k";
const LARGE: &str = "SELECT k, n FROM counts WHERE n > 1";
/// A relation that isn't there.
const GONE: &str = "elsewhere";

/// Replaces a word in the stored SQL of an object, in a directory that no server has open.
fn rewrite(data: &Path, object: &str, from: &str, to: &str) -> Result<()> {
    let store = Store::open(data, StoreOptions::default())?;
    let rows = store.catalog()?;
    let found = rows.into_iter().find(|(_, row)| row["name"] == object);
    let (key, mut row) = found.with_context(|| format!("no {object} in the catalog"))?;
    let sql = row["sql"].as_str().context("an object has SQL")?;
    ensure!(sql.contains(from), "no {from:?} in {sql:?}");
    row["sql"] = sql.replace(from, to).into();
    let epoch = store.reserved_upper();
    store.commit(Commit {
        epoch,
        reserved_upper: epoch + 1,
        catalog: vec![(key, Some(row))],
        ..Commit::default()
    })?;
    Ok(())
}

async fn declare(sql: &Sql, scratch: &Scratch) -> Result<()> {
    sql.run("CREATE TABLE t (id bigint PRIMARY KEY, k bigint)")
        .await?;
    for (name, query) in [
        ("counts", COUNTS),
        ("large", LARGE),
        ("whole", "SELECT count(*) AS n FROM t"),
    ] {
        sql.run(&format!("CREATE MATERIALIZED VIEW {name} AS {query}"))
            .await?;
    }
    sql.run("CREATE VIEW over_large AS SELECT n FROM large")
        .await?;
    sql.run("CREATE INDEX large_n ON large (n)").await?;
    let path = scratch.path("large.jsonl");
    sql.run(&format!(
        "CREATE SINK large_out FROM large WITH (connector = 'files', path = '{}', format = 'jsonl')",
        path.display()
    ))
    .await?;
    sql.run("INSERT INTO t SELECT n, n % 5 FROM generate_series(1, 30) AS g(n)")
        .await
}

/// All that stands on table t is as it must be.
async fn check(sql: &Sql, scratch: &Scratch) -> Result<()> {
    // DDL waits until all that missed something is rebuilt.
    sql.run("COMMENT ON TABLE t IS 'waits'").await?;
    let of =
        async |query: &str| Ok::<_, anyhow::Error>(Multiset::of_lines(sql.lines(query).await?));
    let large = LARGE.replace("counts", &format!("({COUNTS}) AS counts"));
    let want = of(&large).await?;
    ensure!(of("SELECT * FROM counts").await? == of(COUNTS).await?);
    ensure!(of("SELECT * FROM large").await? == want);
    ensure!(
        of("SELECT n FROM over_large").await? == of(&format!("SELECT n FROM ({large})")).await?
    );
    for n in 1..20 {
        let by_index = of(&format!("SELECT * FROM large WHERE n = {n}")).await?;
        ensure!(
            by_index == of(&format!("{large} AND n = {n}")).await?,
            "n = {n}"
        );
    }
    let path = scratch.path("large.jsonl");
    eventually("the sink", async || {
        Ok((sum_sink(&read_sink(&path)?) == want).then_some(()))
    })
    .await?;
    let broken = "SELECT count(*) FROM tidemill.objects WHERE broken IS NOT NULL";
    ensure!(sql.number(broken).await? == 0);
    Ok(())
}

/// What stands on `counts` can't be used, everything else can.
async fn check_broken(server: &Server) -> Result<()> {
    let sql = server.connect().await?;
    let broken =
        "SELECT string_agg(name, ' ' ORDER BY name) FROM tidemill.objects WHERE broken IS NOT NULL";
    ensure!(sql.value(broken).await? == "counts large large_n large_out over_large");
    for statement in [
        "SELECT * FROM counts",
        "SELECT * FROM large WHERE n = 3",
        "SELECT * FROM over_large",
        "SUBSCRIBE counts",
        "SUBSCRIBE (SELECT n FROM large)",
        "CREATE MATERIALIZED VIEW more AS SELECT k FROM counts",
        "CREATE INDEX ON counts (k)",
        "CREATE SINK more FROM counts WITH (connector = 'files', path = 'more.jsonl', format = 'jsonl')",
        "ALTER TABLE t DROP COLUMN k",
        "ALTER TABLE t RENAME k TO key",
        "ALTER TABLE t RENAME TO t2",
    ] {
        let failure = sql.fails("55000", statement).await?;
        let text = format!("{failure:?}");
        ensure!(text.contains("couldn't be restored"), "{statement}: {text}");
    }
    let failure = format!("{:?}", sql.fails("55000", "SELECT * FROM counts").await?);
    ensure!(failure.contains(GONE), "{failure}");
    let log = server.log_text();
    ensure!(log.contains("public.counts") && log.contains(GONE), "{log}");
    let before = sql.number("SELECT n FROM whole").await?;
    sql.run("INSERT INTO t SELECT max(id) + 1, 3 FROM t")
        .await?;
    ensure!(sql.number("SELECT n FROM whole").await? == before + 1);
    sql.run("ALTER TABLE t ADD CHECK (id > 0)").await?;
    Ok(())
}

#[test]
fn a_view_that_cant_be_restored_keeps_nothing_else_from_opening() {
    run(|scratch| async move {
        let data = scratch.data();
        let mut server = Server::start(&data, &Options::default())?;
        declare(&server.connect().await?, &scratch).await?;
        check(&server.connect().await?, &scratch).await?;
        server.terminate()?;

        rewrite(&data, "counts", "FROM t", &format!("FROM {GONE}"))?;
        server = Server::start(&data, &Options::default())?;
        check_broken(&server).await?;
        for _ in 0..2 {
            server.kill();
            server = Server::start(&data, &Options::workers(1))?;
            check_broken(&server).await?;
        }
        let sql = server.connect().await?;
        sql.run("DELETE FROM t WHERE id % 3 = 0").await?;
        server.kill();

        // The view missed all of that.
        rewrite(&data, "counts", GONE, "t")?;
        server = Server::start(&data, &Options::default())?;
        check(&server.connect().await?, &scratch).await?;
        server.restart(&Options::workers(2))?;
        let sql = server.connect().await?;
        sql.run("INSERT INTO t SELECT n, n % 7 FROM generate_series(100, 150) AS g(n)")
            .await?;
        check(&sql, &scratch).await
    });
}

/// The meaning of SQL can change from one version to another.
#[test]
fn a_view_with_other_columns_than_those_stored_is_left_out() {
    run(|scratch| async move {
        let mut server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        declare(&sql, &scratch).await?;
        sql.run("CREATE MATERIALIZED VIEW named AS SELECT id, 7 AS more FROM t WHERE id > 3")
            .await?;
        sql.run("CREATE INDEX ON named (more)").await?;
        server.kill();
        // One is read from the state of its aggregate, the other has rows of its own.
        rewrite(&scratch.data(), "counts", "count(*)", "count(*)::text")?;
        rewrite(&scratch.data(), "named", "7 AS", "'7' AS")?;
        server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        let broken =
            "SELECT broken FROM tidemill.objects WHERE name IN ('counts', 'named') ORDER BY name";
        let reasons = sql.lines(broken).await?;
        for (reason, types) in reasons.iter().zip([
            ["bigint, bigint", "bigint, text"],
            ["bigint, integer", "bigint, text"],
        ]) {
            let [old, new] = types;
            let want = format!(
                "its query has other columns in this version (stored are ({old}), now it has ({new}))"
            );
            ensure!(*reason == want, "{reason}");
        }
        ensure!(reasons.len() == 2, "{reasons:?}");
        sql.run("DELETE FROM t WHERE id % 3 = 0").await?;

        server.kill();
        rewrite(&scratch.data(), "counts", "count(*)::text", "count(*)")?;
        rewrite(&scratch.data(), "named", "'7' AS", "7 AS")?;
        server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        check(&sql, &scratch).await?;
        ensure!(
            sql.number("SELECT count(*) FROM named WHERE more = 7")
                .await?
                == 18
        );
        Ok(())
    });
}

#[test]
fn broken_views_can_be_dropped_and_replaced() {
    run(|scratch| async move {
        let data = scratch.data();
        let mut server = Server::start(&data, &Options::default())?;
        let sql = server.connect().await?;
        declare(&sql, &scratch).await?;
        sql.run("CREATE VIEW plain AS SELECT k FROM t").await?;
        sql.run("CREATE VIEW over_plain AS SELECT count(*) FROM plain")
            .await?;
        server.terminate()?;
        rewrite(&data, "counts", "FROM t", &format!("FROM {GONE}"))?;
        rewrite(&data, "plain", "FROM t", &format!("FROM {GONE}"))?;
        server = Server::start(&data, &Options::default())?;
        let sql = server.connect().await?;
        sql.fails("2BP01", "DROP MATERIALIZED VIEW counts").await?;
        sql.run("DROP MATERIALIZED VIEW counts CASCADE").await?;
        sql.run("CREATE OR REPLACE VIEW plain AS SELECT k FROM t WHERE k > 1")
            .await?;
        ensure!(sql.number("SELECT count(*) FROM plain").await? == 18);
        sql.run(&format!("CREATE MATERIALIZED VIEW counts AS {COUNTS}"))
            .await?;
        server.restart(&Options::default())?;
        let sql = server.connect().await?;
        ensure!(sql.number("SELECT * FROM over_plain").await? == 18);
        ensure!(sql.number("SELECT count(*) FROM counts").await? == 5);
        let left =
            "SELECT count(*) FROM tidemill.objects WHERE broken IS NOT NULL OR name LIKE 'large%'";
        ensure!(sql.number(left).await? == 0);
        Ok(())
    });
}

#[test]
fn a_table_that_cant_be_restored_is_named() {
    run(|scratch| async move {
        let data = scratch.data();
        let mut server = Server::start(&data, &Options::default())?;
        declare(&server.connect().await?, &scratch).await?;
        server.terminate()?;
        rewrite(&data, "t", "bigint", "nothing")?;
        match Server::try_start(&data, &Options::default())? {
            Ok(_) => bail!("a table without its columns opens"),
            Err((_, log)) => ensure!(log.contains("table public.t can't be restored"), "{log}"),
        }
        rewrite(&data, "t", "nothing", "bigint")?;
        server = Server::start(&data, &Options::default())?;
        check(&server.connect().await?, &scratch).await
    });
}

/// Starts a server that ends by itself, sooner or later.
fn start_ends(data: &Path) -> Result<()> {
    let status = match Server::try_start(data, &Options::default())? {
        Ok(mut server) => server.wait()?,
        Err((status, _)) => status,
    };
    ensure!(!status.success(), "it ended with {status}");
    Ok(())
}

#[test]
fn a_view_that_panics_again_and_again_is_left_out() {
    run(|scratch| async move {
        let (data, input) = (scratch.data(), scratch.dir("input"));
        let mut server = Server::start(&data, &Options::default())?;
        let sql = server.connect().await?;
        sql.run(&format!(
            "CREATE SOURCE s (n integer) WITH (connector = 'files', path = '{}', format = 'csv', persistent_id = 's', \
             commit_interval = '1ms', on_delete = 'retract')",
            input.display()
        ))
        .await?;
        // Of n rows n, n^2, n^3, and 16 * 16 * 64 of these: more than a multiplicity can be, on any worker.
        let times = |of: &str, n: usize| vec![format!("SELECT x FROM {of}"); n].join(" UNION ALL ");
        for (name, query) in [
            ("rows", "SELECT count(*) AS n FROM s".into()),
            ("one", "SELECT 1 AS x FROM s".into()),
            ("two", "SELECT a.x FROM one AS a, one AS b".into()),
            ("three", "SELECT a.x FROM two AS a, one AS b".into()),
            ("m1", times("three", 16)),
            ("m2", times("m1", 16)),
            ("m3", times("m2", 64)),
            ("counted", "SELECT count(*) AS n FROM m3".into()),
        ] {
            sql.run(&format!("CREATE MATERIALIZED VIEW {name} AS {query}"))
                .await?;
        }
        let lines = |n: usize| (0..n).map(|i| format!("{i}\n")).collect::<String>();
        drop_file(&input, "a.csv", lines(1 << 17).as_bytes())?;
        ensure!(!server.wait()?.success());
        start_ends(&data)?;

        server = Server::start(&data, &Options::default())?;
        let sql = server.connect().await?;
        let holds = async |sql: &Sql, n: i64| {
            eventually(&format!("{n} rows"), async || {
                let now = sql.number("SELECT n FROM rows").await?;
                Ok((now == n).then_some(()))
            })
            .await
        };
        holds(&sql, 1 << 17).await?;
        let broken = "SELECT string_agg(name, ' ' ORDER BY name) FROM tidemill.objects WHERE broken IS NOT NULL";
        ensure!(sql.value(broken).await? == "counted m3");
        let failure = sql.fails("55000", "SELECT * FROM counted").await?;
        let text = format!("{failure:?}");
        ensure!(text.contains("ended the server 2 times"), "{text}");
        // It stays so, and all else goes on.
        drop_file(&input, "a.csv", lines(10).as_bytes())?;
        holds(&sql, 10).await?;
        server.restart(&Options::workers(1))?;
        let sql = server.connect().await?;
        holds(&sql, 10).await?;
        ensure!(sql.value(broken).await? == "counted m3");

        server.terminate()?;
        std::fs::remove_file(data.join("panics.json"))?;
        server = Server::start(&data, &Options::default())?;
        let sql = server.connect().await?;
        // DDL waits until the views are rebuilt.
        sql.run("COMMENT ON MATERIALIZED VIEW counted IS 'waits'")
            .await?;
        ensure!(sql.number("SELECT n FROM counted").await? == 1000 * 16 * 16 * 64);
        drop_file(&input, "a.csv", lines(11).as_bytes())?;
        holds(&sql, 11).await?;
        ensure!(sql.number("SELECT n FROM counted").await? == 1331 * 16 * 16 * 64);
        Ok(())
    });
}

#[test]
fn a_view_that_missed_changes_and_whose_input_is_gone_is_left_out() {
    run(|scratch| async move {
        let (data, input) = (scratch.data(), scratch.dir("input"));
        let mut server = Server::start(&data, &Options::default())?;
        let sql = server.connect().await?;
        sql.run("CREATE TABLE other (n integer)").await?;
        sql.run(&format!(
            "CREATE SOURCE t (k integer) WITH (connector = 'files', path = '{}', format = 'csv', commit_interval = '1ms')",
            input.display()
        ))
        .await?;
        sql.run(&format!("CREATE MATERIALIZED VIEW counts AS {COUNTS}"))
            .await?;
        let file = drop_file(&input, "a.csv", b"1\n2\n2\n")?;
        let counted = async |sql: &Sql| {
            eventually("the file is read", async || {
                let lines = sql.lines("SELECT k, n FROM counts ORDER BY k").await?;
                Ok((lines == ["1|1", "2|2"]).then_some(()))
            })
            .await
        };
        counted(&sql).await?;
        server.terminate()?;
        rewrite(&data, "counts", "FROM t", &format!("FROM {GONE}"))?;
        server = Server::start(&data, &Options::default())?;
        let sql = server.connect().await?;
        sql.run("INSERT INTO other VALUES (0)").await?;
        server.terminate()?;
        rewrite(&data, "counts", GONE, "t")?;

        let aside = scratch.path("aside.csv");
        std::fs::rename(&file, &aside)?;
        server = Server::start(&data, &Options::default())?;
        let sql = server.connect().await?;
        sql.run("INSERT INTO other VALUES (1)").await?;
        let failure = sql.fails("55000", "SELECT * FROM counts").await?;
        let text = format!("{failure:?}");
        ensure!(text.contains("a.csv"), "{text}");
        server.terminate()?;

        std::fs::rename(&aside, &file)?;
        server = Server::start(&data, &Options::default())?;
        let sql = server.connect().await?;
        sql.run("COMMENT ON TABLE other IS 'waits'").await?;
        counted(&sql).await
    });
}
