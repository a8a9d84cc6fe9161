//! Views made late: from the record when the files are gone, from the files when they are unchanged,
//! and under full input without delaying others.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use rand::Rng;
use rand::seq::SliceRandom;
use tidemill_tests::files::append;
use tidemill_tests::seed::rounds;
use tidemill_tests::{Options, Seed, Server, Subscription, eventually, run};

fn source(name: &str, path: &std::path::Path, columns: &str, more: &str) -> String {
    let path = path.display();
    format!(
        "CREATE SOURCE {name} ({columns}) WITH (connector = 'files', path = '{path}', format = 'csv', header = true, commit_interval = '10ms'{more})"
    )
}

#[test]
fn from_the_record_when_the_files_are_gone() {
    run(|scratch| async move {
        let input = scratch.dir("input");
        for i in 0..10 {
            let rows: String = (0..100).map(|n| format!("{},{n}\n", i % 3)).collect();
            append(
                &input.join(format!("{i}.csv")),
                format!("k,v\n{rows}").as_bytes(),
            )?;
        }
        let mut server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        sql.run(&source(
            "s",
            &input,
            "k integer, v integer",
            ", persistent_id = 'events'",
        ))
        .await?;
        eventually("all rows", async || {
            Ok((sql.number("SELECT count(*) FROM s").await? == 1000).then_some(()))
        })
        .await?;
        for i in 0..10 {
            std::fs::remove_file(input.join(format!("{i}.csv")))?;
        }
        let late = "CREATE MATERIALIZED VIEW late AS SELECT k, count(*) AS n, sum(v) AS s FROM s GROUP BY k";
        let want = ["0|400|19800", "1|300|14850", "2|300|14850"];
        sql.run(late).await?;
        ensure!(sql.lines("SELECT * FROM late ORDER BY k").await? == want);

        // Dropped and made again under the same id, after a restart: it goes on.
        sql.run("DROP SOURCE s CASCADE").await?;
        ensure!(
            sql.lines("SELECT persistent_id FROM tidemill.persistent_ids")
                .await?
                == ["events"]
        );
        server.restart(&Options::default())?;
        let sql = server.connect().await?;
        let failure = sql
            .try_rows(&source(
                "s",
                &input,
                "k text, v integer",
                ", persistent_id = 'events'",
            ))
            .await;
        let failure = failure.expect_err("another schema under a known id is an error");
        ensure!(
            !failure.sqlstate.is_empty() && failure.sqlstate != "XX000",
            "{failure}"
        );
        sql.run(&source(
            "s",
            &input,
            "k integer, v integer",
            ", persistent_id = 'events'",
        ))
        .await?;
        sql.run(late).await?;
        ensure!(sql.lines("SELECT * FROM late ORDER BY k").await? == want);
        append(&input.join("new.csv"), b"k,v\n7,1\n")?;
        eventually("the new row", async || {
            Ok((sql.number("SELECT count(*) FROM late").await? == 4).then_some(()))
        })
        .await?;
        ensure!(sql.number("SELECT count(*) FROM s").await? == 1001);
        Ok(())
    });
}

#[test]
fn from_the_files_when_they_are_unchanged() {
    run(|scratch| async move {
        let input = scratch.dir("input");
        append(&input.join("a.csv"), b"k,v\n1,10\n2,20\n")?;
        append(&input.join("b.csv"), b"k,v\n1,30\n")?;
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        sql.run(&source("s", &input, "k integer, v integer", ""))
            .await?;
        sql.run("CREATE MATERIALIZED VIEW first AS SELECT count(*) AS n FROM s")
            .await?;
        eventually("all rows", async || {
            Ok((sql.number("SELECT n FROM first").await? == 3).then_some(()))
        })
        .await?;
        sql.run("CREATE MATERIALIZED VIEW second AS SELECT k, sum(v) AS v FROM s GROUP BY k")
            .await?;
        ensure!(sql.lines("SELECT * FROM second ORDER BY k").await? == ["1|40", "2|20"]);
        ensure!(sql.lines("SELECT v FROM s ORDER BY v").await? == ["10", "20", "30"]);
        // Growth is no change of what was consumed.
        append(&input.join("a.csv"), b"3,5\n")?;
        eventually("growth", async || {
            Ok((sql.number("SELECT n FROM first").await? == 4).then_some(()))
        })
        .await?;
        sql.run("CREATE MATERIALIZED VIEW third AS SELECT max(k) AS k FROM s")
            .await?;
        ensure!(sql.value("SELECT k FROM third").await? == "3");
        // An edit is: the late view is refused and says what to do.
        std::fs::write(input.join("b.csv"), "k,v\n1,31\n")?;
        let failure = eventually("a refusal", async || {
            match sql
                .try_rows("CREATE MATERIALIZED VIEW fourth AS SELECT min(v) AS v FROM s")
                .await
            {
                Ok(_) => {
                    sql.run("DROP MATERIALIZED VIEW fourth").await?;
                    Ok(None)
                }
                Err(failure) => Ok(Some(failure)),
            }
        })
        .await?;
        ensure!(
            failure
                .hint
                .as_deref()
                .is_some_and(|h| h.contains("persistent_id")),
            "the hint names the way out: {failure}"
        );
        ensure!(
            sql.lines("SELECT * FROM second ORDER BY k").await?[..2] == ["1|40", "2|20"],
            "what was there stays"
        );
        Ok(())
    });
}

#[test]
fn under_full_input_without_delaying_others() {
    run(|scratch| async move {
        let input = scratch.dir("input");
        let server = Server::start(&scratch.data(), &Options::workers(2))?;
        let sql = server.connect().await?;
        let first: String = (0..200_000)
            .map(|i| format!("{},{i}\n", i % 1000))
            .collect();
        append(&input.join("a.csv"), format!("k,v\n{first}").as_bytes())?;
        sql.run(&source(
            "s",
            &input,
            "k integer, v bigint",
            ", persistent_id = 's'",
        ))
        .await?;
        sql.run("CREATE MATERIALIZED VIEW other AS SELECT count(*) AS n FROM s")
            .await?;
        eventually("the first rows", async || {
            Ok((sql.number("SELECT n FROM other").await? >= 200_000).then_some(()))
        })
        .await?;

        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, file) = (stop.clone(), input.join("a.csv"));
        let writer = std::thread::spawn(move || -> Result<i64> {
            let mut rows = 0;
            while !stopped.load(Ordering::Acquire) {
                let text: String = (0..500).map(|i| format!("{},{i}\n", i % 1000)).collect();
                append(&file, text.as_bytes())?;
                rows += 500;
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(rows)
        });
        let mut other = Subscription::open(&sql, "other").await?;
        let creator = server.connect().await?;
        let creating = tokio::spawn(async move {
            creator.run("CREATE MATERIALIZED VIEW late AS SELECT k, count(*) AS n, sum(v) AS s, max(v) AS m FROM s GROUP BY k").await
        });
        // While it is built, the other view goes on changing.
        let mut changes_meanwhile = 0;
        while !creating.is_finished() {
            let seen = other.changes.len();
            other.next().await?;
            changes_meanwhile += other.changes.len() - seen;
        }
        creating.await??;
        stop.store(true, Ordering::Release);
        let rows = 200_000 + writer.join().expect("the writer doesn't panic")?;
        eventually("all rows", async || {
            Ok((sql.number("SELECT n FROM other").await? == rows).then_some(()))
        })
        .await?;
        eprintln!("{changes_meanwhile} changes of the other view during the build");
        let late = sql.lines("SELECT * FROM late ORDER BY k").await?;
        let batch = sql
            .lines("SELECT k, count(*), sum(v), max(v) FROM s GROUP BY k ORDER BY k")
            .await?;
        ensure!(late == batch, "the late view differs from its query");
        Ok(())
    });
}

/// What a build has computed is dropped from memory only when it is committed, which is an epoch after it has joined.
#[test]
fn under_writes_with_more_state_than_memory() {
    const KEYS: i64 = 20_000;
    const VIEWS: [&str; 3] = [
        "SELECT k, count(*) AS n, sum(v) AS s, max(v) AS m FROM t GROUP BY k",
        "SELECT t.k, t.v, u.w FROM t JOIN u ON t.k = u.k",
        "SELECT k, count(DISTINCT v) AS d FROM t GROUP BY k",
    ];
    run(|scratch| async move {
        let seed = Seed::new("under_writes_with_more_state_than_memory");
        let options = Options {
            args: vec!["--state-memory".into(), "2000000".into()],
            ..Options::workers(1)
        };
        let server = Server::start(&scratch.data(), &options)?;
        let sql = server.connect().await?;
        sql.run("CREATE TABLE t (k bigint, v bigint)").await?;
        sql.run("CREATE TABLE u (k bigint, w bigint)").await?;
        let all = format!("SELECT i, i FROM generate_series(1, {KEYS}) AS i");
        sql.run(&format!("INSERT INTO t {all}")).await?;
        sql.run(&format!("INSERT INTO u {all}")).await?;
        let stop = Arc::new(AtomicBool::new(false));
        let mut writers = vec![];
        for stream in 0..4 {
            let (client, stopped) = (server.connect().await?, stop.clone());
            let mut random = seed.rng(stream);
            writers.push(tokio::spawn(async move {
                while !stopped.load(Ordering::Acquire) {
                    let from = random.random_range(1..=KEYS);
                    let range = format!("{from} AND {from} + 200");
                    client
                        .run(&format!(
                            "INSERT INTO t SELECT k, k + {from} FROM u WHERE k BETWEEN {range}"
                        ))
                        .await?;
                    if from % 2 == 0 {
                        let delete = format!("DELETE FROM t WHERE k BETWEEN {range}");
                        client.run(&delete).await?;
                    }
                }
                anyhow::Ok(())
            }));
        }
        for round in 0..rounds(2) {
            for query in VIEWS {
                sql.run(&format!("CREATE MATERIALIZED VIEW late AS {query}"))
                    .await?;
                let differ = format!(
                    "SELECT count(*) FROM ((TABLE late EXCEPT ALL ({query})) UNION ALL (({query}) EXCEPT ALL TABLE late)) AS d"
                );
                // At once, and when what was put aside has been read again.
                for _ in 0..5 {
                    let differ = sql.number(&differ).await?;
                    ensure!(differ == 0, "round {round}: {differ} rows of {query}");
                    sql.run("INSERT INTO t VALUES (1, 1)").await?;
                }
                sql.run("DROP MATERIALIZED VIEW late").await?;
            }
        }
        stop.store(true, Ordering::Release);
        for writer in writers {
            writer.await??;
        }
        Ok(())
    });
}

#[test]
fn what_nobody_reads_waits_for_the_first_view() {
    run(|scratch| async move {
        let input = scratch.dir("input");
        append(&input.join("a.csv"), b"k,v\n1,10\nbad,row,here\n2,20\n")?;
        append(&input.join("b.csv"), b"k,v\n1,30\n")?;
        let mut server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        let declared = source("s", &input, "k integer, v integer", "");
        sql.run(&declared).await?;
        let state = "SELECT state, reason LIKE 'nothing reads it yet%', rows, offset_entries FROM tidemill.sources";
        let unread = ["waiting|t|0|0"];
        ensure!(
            sql.lines(state).await? == unread,
            "{:?}",
            sql.lines(state).await?
        );
        server.restart(&Options::default())?;
        let sql = server.connect().await?;
        ensure!(sql.lines(state).await? == unread);
        eventually("a full queue", async || {
            let rows = sql
                .number("SELECT pending_rows FROM tidemill.sources")
                .await?;
            Ok((rows == 3).then_some(()))
        })
        .await?;
        // What is in the queue was read: the view doesn't need the files any more.
        std::fs::remove_dir_all(&input)?;
        sql.run("CREATE MATERIALIZED VIEW m AS SELECT k, sum(v) AS v FROM s GROUP BY k")
            .await?;
        eventually("all rows", async || {
            let lines = sql.lines("SELECT * FROM m ORDER BY k").await?;
            Ok((lines == ["1|40", "2|20"]).then_some(()))
        })
        .await?;
        ensure!(sql.number("SELECT count(*) FROM s_errors").await? == 1);
        ensure!(sql.number("SELECT rows FROM tidemill.sources").await? == 3);
        Ok(())
    });
}

#[test]
fn the_first_select_begins_and_waits_for_rows() {
    run(|scratch| async move {
        let (input, empty) = (scratch.dir("input"), scratch.dir("empty"));
        append(&input.join("a.csv"), b"k,v\n1,10\nbad,row,here\n2,20\n")?;
        let server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        let slow = |name: &str, path: &std::path::Path| {
            source(name, path, "k integer, v integer", "").replace("10ms", "1h")
        };
        for name in ["plain", "in_transaction", "errors", "inserted"] {
            sql.run(&slow(name, &input)).await?;
        }
        sql.run(&slow("nothing", &empty)).await?;
        sql.run(&slow("missing", &scratch.path("not there")))
            .await?;
        ensure!(sql.number("SELECT count(*) FROM plain").await? == 2);
        sql.run("BEGIN").await?;
        ensure!(sql.number("SELECT count(*) FROM in_transaction").await? == 2);
        sql.run("COMMIT").await?;
        ensure!(sql.number("SELECT count(*) FROM errors_errors").await? == 1);
        sql.run("CREATE TABLE t (k integer, v integer)").await?;
        sql.run("INSERT INTO t SELECT k, v FROM inserted").await?;
        ensure!(sql.number("SELECT sum(v)::integer FROM t").await? == 30);
        ensure!(sql.number("SELECT count(*) FROM nothing").await? == 0);
        ensure!(sql.number("SELECT count(*) FROM missing").await? == 0);
        Ok(())
    });
}

#[test]
fn a_source_is_read_at_the_epoch_of_its_views() {
    run(|scratch| async move {
        let input = scratch.dir("input");
        append(&input.join("a.csv"), b"k,v\n1,10\n")?;
        let server = Server::start(&scratch.data(), &Options::default())?;
        let (sql, other) = (server.connect().await?, server.connect().await?);
        sql.run(&source("s", &input, "k integer, v integer", ""))
            .await?;
        sql.run("CREATE MATERIALIZED VIEW m AS SELECT count(*) AS n FROM s")
            .await?;
        for n in 1..20 {
            eventually("the new row", async || {
                Ok((other.number("SELECT n FROM m").await? == n).then_some(()))
            })
            .await?;
            sql.run("BEGIN").await?;
            ensure!(sql.number("SELECT n FROM m").await? == n);
            append(&input.join("a.csv"), format!("{n},5\n").as_bytes())?;
            append(&input.join(format!("{n}.csv")), b"k,v\n")?;
            eventually("the next row", async || {
                Ok((other.number("SELECT n FROM m").await? == n + 1).then_some(()))
            })
            .await?;
            ensure!(sql.number("SELECT count(*) FROM s").await? == n);
            sql.run("COMMIT").await?;
            let together = "SELECT count(*) - (SELECT n FROM m) FROM s";
            ensure!(sql.number(together).await? == 0);
        }
        Ok(())
    });
}

/// Readers of a source come and go while its reader, which passes over columns that none of them reads, is ahead of them.
#[test]
fn each_reader_has_its_columns() {
    const READS: [&str; 4] = [
        "SELECT k % 7 AS g, count(*) AS n FROM s GROUP BY k % 7",
        "SELECT k % 7 AS g, count(*) AS n, sum(length(a)) AS l, max(a) AS m FROM s GROUP BY k % 7",
        "SELECT max(b) AS m, min(b) AS l, count(DISTINCT b) AS d, count(c) AS c FROM s",
        "SELECT s.k, s.c, o.a FROM s JOIN s AS o ON s.b = o.b AND s.k = o.k WHERE s.k % 1000 = 3",
    ];
    let seed = Seed::new("each_reader_has_its_columns");
    run(|scratch| async move {
        let input = scratch.dir("input");
        let rows = |file: usize| -> String {
            (0..2000)
                .map(|i| {
                    let k = file * 2000 + i;
                    format!(
                        "{k},some text of row {k},b {k} is longer than a view holds,{}\n",
                        k % 13
                    )
                })
                .collect()
        };
        let text = |file: usize| format!("k,a,b,c\n{}", rows(file));
        let declared = |name: &str, more: &str| {
            source(
                name,
                &input,
                "k integer, a text, b text, c text",
                &format!(", epoch_rows_max = 1000{more}"),
            )
        };
        let mut files = 0;
        while files < 40 {
            append(&input.join(format!("{files}.csv")), text(files).as_bytes())?;
            files += 1;
        }
        for round in 0..rounds(6) {
            let mut rng = seed.rng(round as u64);
            let mut server = Server::start(
                &scratch.sub(&format!("round {round}")).data(),
                &Options::workers(1 + round % 2),
            )?;
            let sql = server.connect().await?;
            sql.run(&declared("s", "")).await?;
            let mut order: Vec<usize> = (0..READS.len()).collect();
            order.shuffle(&mut rng);
            let killed = rng.random_range(0..order.len());
            let mut subscription = None;
            for (turn, read) in order.iter().enumerate() {
                sql.run(&format!(
                    "CREATE MATERIALIZED VIEW v{read} AS {}",
                    READS[*read]
                ))
                .await?;
                if turn == 1 && round % 3 != 0 {
                    subscription = Some(Subscription::open(&sql.another().await?, "s").await?);
                }
                if turn == killed && subscription.is_none() {
                    server.kill();
                    server.restart(&Options::default())?;
                    break;
                }
            }
            let sql = server.connect().await?;
            append(&input.join(format!("{files}.csv")), text(files).as_bytes())?;
            files += 1;
            for read in order {
                sql.run(&format!(
                    "CREATE MATERIALIZED VIEW IF NOT EXISTS v{read} AS {}",
                    READS[read]
                ))
                .await?;
            }
            let all = files as i64 * 2000;
            eventually("all rows", async || {
                Ok((sql.number("SELECT sum(n)::bigint FROM v0").await? == all).then_some(()))
            })
            .await?;
            sql.run(&declared("r", ", persistent_id = 'r'")).await?;
            eventually("all rows recorded", async || {
                Ok((sql.number("SELECT count(*) FROM r").await? == all).then_some(()))
            })
            .await?;
            for (number, read) in READS.iter().enumerate() {
                let read = read
                    .replace("FROM s", "FROM r AS s")
                    .replace("JOIN s", "JOIN r");
                let want = sql
                    .lines(&format!("SELECT * FROM ({read}) AS q ORDER BY 1"))
                    .await?;
                let got = sql
                    .lines(&format!("SELECT * FROM v{number} ORDER BY 1"))
                    .await?;
                ensure!(
                    got == want,
                    "v{number}: {:?}, not {:?}",
                    got.first(),
                    want.first()
                );
            }
            if let Some(mut subscription) = subscription {
                let want = sql.lines("SELECT * FROM r").await?;
                let want: Vec<&str> = want.iter().map(String::as_str).collect();
                subscription.until_rows(&want).await?;
            }
        }
        Ok(())
    });
}

#[test]
fn the_history_that_a_build_still_needs_is_kept() {
    run(|scratch| async move {
        // Nothing is kept in memory, and next to nothing in the store: a build that takes its time needs more than that.
        let mut options = Options::workers(2);
        options
            .env
            .push(("TIDEMILL_CHANGES_BYTES".into(), "0".into()));
        let server = Server::start(&scratch.data(), &options)?;
        let sql = server.connect().await?;
        sql.run("CREATE TABLE t (id bigint PRIMARY KEY, x bigint)")
            .await?;
        sql.run("INSERT INTO t SELECT g, 0 FROM generate_series(1, 1000) AS s (g)")
            .await?;
        sql.run("CREATE TABLE words (s text)").await?;
        sql.run("INSERT INTO words SELECT md5(g::text) FROM generate_series(1, 2400) AS s (g)")
            .await?;
        sql.run("CREATE MATERIALIZED VIEW v WITH (retain_history = '1 millisecond') AS SELECT id, x FROM t WHERE x >= 0")
            .await?;
        let creating = sql.another().await?;
        let create = tokio::spawn(async move {
            creating
                .run(
                    "CREATE MATERIALIZED VIEW w AS SELECT id, x FROM v \
                     UNION ALL SELECT 0, count(*) FROM words AS a JOIN words AS b ON md5(a.s || b.s) < b.s",
                )
                .await
        });
        let mut updates = 0;
        while !create.is_finished() {
            updates += 1;
            sql.run(&format!("UPDATE t SET x = {updates} WHERE id <= 40"))
                .await?;
        }
        create.await??;
        ensure!(updates > 5, "{updates} updates beside the build");
        let w = sql
            .lines("SELECT id, x FROM w WHERE id > 0 ORDER BY id")
            .await?;
        ensure!(w == sql.lines("SELECT id, x FROM v ORDER BY id").await?);
        Ok(())
    });
}
