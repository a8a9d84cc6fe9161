//! Subscribers, many views, many tables, updates and deletes against one server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use rand::{Rng, SeedableRng};
use tidemill_tests::{Server, Sql, Subscription, eventually};

use crate::Setting;
use crate::measure::{cpu_seconds, of_process};
use crate::report::Report;

/// A table of `groups` keys and a view grouped by it, filled in bulk.
pub(crate) async fn keyed(sql: &Sql, groups: usize) -> Result<()> {
    sql.run("CREATE TABLE t (k bigint, v bigint)").await?;
    sql.run(
        "CREATE MATERIALIZED VIEW sums AS SELECT k, sum(v) AS s, count(*) AS n FROM t GROUP BY k",
    )
    .await?;
    const ROWS: usize = 10_000;
    for start in (0..groups).step_by(ROWS) {
        let rows: Vec<String> = (start..groups.min(start + ROWS))
            .map(|k| format!("({k}, {k})"))
            .collect();
        sql.run(&format!("INSERT INTO t VALUES {}", rows.join(", ")))
            .await?;
    }
    Ok(())
}

/// One client that writes a few rows in every epoch until told to stop.
pub(crate) fn writer(
    server: &Server,
    groups: usize,
    stop: Arc<AtomicBool>,
) -> tokio::task::JoinHandle<Result<()>> {
    let port = server.port();
    tokio::spawn(async move {
        let sql = Sql::connect(port).await?;
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(7);
        while !stop.load(Ordering::Acquire) {
            let rows: Vec<String> = (0..20)
                .map(|_| format!("({}, 1)", rng.random_range(0..groups)))
                .collect();
            sql.run(&format!("INSERT INTO t VALUES {}", rows.join(", ")))
                .await?;
        }
        Ok(())
    })
}

/// Many subscribers of one view.
pub async fn subscribers(setting: &Setting) -> Result<Report> {
    let (n, changes) = if setting.smoke {
        (10, 20)
    } else {
        (1_000, 200)
    };
    let (server, sql) = setting.started().await?;
    keyed(&sql, 10).await?;
    let received = Arc::new(AtomicU64::new(0));
    let mut tasks = Vec::new();
    for _ in 0..n {
        let mut subscription =
            Subscription::with(&sql, "SUBSCRIBE TO sums WITH (SNAPSHOT = false)").await?;
        let received = received.clone();
        tasks.push(tokio::spawn(async move {
            while subscription.changes.len() < 2 * changes {
                subscription.next().await?.context("the stream ended")?;
                received.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<_, anyhow::Error>(())
        }));
    }
    let start = Instant::now();
    for i in 0..changes {
        sql.run(&format!("INSERT INTO t VALUES ({}, 1)", i % 10))
            .await?;
    }
    let written = start.elapsed();
    for task in tasks {
        task.await??;
    }
    let cost = of_process(server.pid(), start)?;
    let mut report = Report::new(format!("{n} subscribers of one view, {changes} changes"));
    report.note(format!(
        "Written in {:.2} s, received by all {:.2} s after the first write: {:.0} messages per second; peak {:.0} MB.",
        written.as_secs_f64(),
        start.elapsed().as_secs_f64(),
        received.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64(),
        cost.peak_mb
    ));
    Ok(report)
}

/// 1, 10 and 100 views on one source.
pub async fn views(setting: &Setting) -> Result<Report> {
    let (data, rows) = crate::generate::words(
        &setting.data,
        crate::generate::Scale(setting.scale.0 / 10.0),
    )?;
    let mut report = Report::new(format!("Many views on one source of {rows} words"));
    for n in if setting.smoke {
        vec![1, 5]
    } else {
        vec![1, 10, 100]
    } {
        let start = Instant::now();
        let (server, sql) = setting.started().await?;
        let path = data.join("words");
        let empty = setting.scratch.join("empty");
        std::fs::create_dir_all(&empty)?;
        let path = path.display();
        sql.run(&format!(
            "CREATE SOURCE words (word text) WITH (connector = 'files', path = '{path}', format = 'csv', header = true, \
             epoch_rows_max = 100000, persistent_id = 'words')"
        ))
        .await?;
        for i in 0..n {
            sql.run(&format!(
                "CREATE MATERIALIZED VIEW v{i} AS SELECT left(word, {}) AS w, count(*) AS n FROM words GROUP BY left(word, {0})",
                1 + i % 4
            ))
            .await?;
        }
        for i in 0..n {
            eventually("all rows", async || {
                let sum = sql
                    .number(&format!("SELECT coalesce(sum(n), 0)::bigint FROM v{i}"))
                    .await?;
                Ok((sum == rows as i64).then_some(()))
            })
            .await?;
        }
        report.cost(
            format!("{n} view(s)"),
            of_process(server.pid(), start)?,
            rows * n,
        );
    }
    Ok(report)
}

/// INSERTs of one row into a table with a view, beside none and many others.
pub async fn beside(setting: &Setting) -> Result<Report> {
    let (steps, rows) = match setting.smoke {
        true => (vec![0, 5], 20),
        false => (vec![0, 100, 1_000], 500),
    };
    let (server, sql) = setting.started().await?;
    keyed(&sql, 10).await?;
    let mut report = Report::new(format!(
        "{rows} INSERTs of one row into a table with a view, beside other tables and views"
    ));
    let mut there = 0;
    for others in steps {
        for i in there..others {
            sql.run(&format!("CREATE TABLE other{i} (k bigint, v bigint)"))
                .await?;
            sql.run(&format!(
                "CREATE MATERIALIZED VIEW others{i} AS SELECT k, sum(v) AS s FROM other{i} GROUP BY k"
            ))
            .await?;
        }
        there = others;
        let (start, before) = (Instant::now(), cpu_seconds(server.pid())?);
        for i in 0..rows {
            sql.run(&format!("INSERT INTO t VALUES ({}, 1)", i % 10))
                .await?;
        }
        let each = |seconds: f64| seconds * 1e3 / rows as f64;
        report.note(format!(
            "Beside {others} tables and views: {:.2} ms of CPU and {:.2} ms each.",
            each(cpu_seconds(server.pid())? - before),
            each(start.elapsed().as_secs_f64()),
        ));
    }
    Ok(report)
}

/// INSERTs of one row into a large partition, below window functions.
pub async fn windows(setting: &Setting) -> Result<Report> {
    let (rows, most) = match setting.smoke {
        true => (1_000, 5),
        false => (100_000, 200),
    };
    let (server, sql) = setting.started().await?;
    let mut report = Report::new(format!(
        "INSERTs of one row below windows over a partition of {rows} rows"
    ));
    for (what, single, call) in [
        (
            "the row before",
            most,
            "v - lag(v) OVER (PARTITION BY d ORDER BY ts)",
        ),
        (
            "ten rows before",
            most,
            "avg(v) OVER (PARTITION BY d ORDER BY ts ROWS 10 PRECEDING)",
        ),
        (
            "a minute before",
            most,
            "avg(v) OVER (PARTITION BY d ORDER BY ts RANGE INTERVAL '1 minute' PRECEDING)",
        ),
        (
            "all rows before",
            most,
            "sum(v) OVER (PARTITION BY d ORDER BY ts)",
        ),
    ] {
        sql.run("CREATE TABLE e (d bigint, ts timestamp, v numeric)")
            .await?;
        let second = "timestamp '2026-01-01' + INTERVAL '1 second'";
        sql.run(&format!(
            "INSERT INTO e SELECT 1, {second} * n, n % 97 FROM generate_series(1, {rows}) AS s (n)"
        ))
        .await?;
        sql.run(&format!(
            "CREATE MATERIALIZED VIEW w AS SELECT *, {call} AS x FROM e"
        ))
        .await?;
        // The first change puts the partition in order.
        let insert = async |n| {
            sql.run(&format!("INSERT INTO e VALUES (1, {second} * {n}, 3)"))
                .await
        };
        insert(rows + 1).await?;
        let (start, before) = (Instant::now(), cpu_seconds(server.pid())?);
        for n in 0..single {
            insert(rows + 2 + n).await?;
        }
        let each = |seconds: f64| seconds * 1e3 / single as f64;
        report.note(format!(
            "Each row sees {what}: {:.2} ms of CPU and {:.2} ms each.",
            each(cpu_seconds(server.pid())? - before),
            each(start.elapsed().as_secs_f64()),
        ));
        let n = sql.number("SELECT count(*) FROM w").await?;
        ensure!(n == rows + 1 + single, "the view has all rows");
        sql.run("DROP MATERIALIZED VIEW w").await?;
        sql.run("DROP TABLE e").await?;
    }
    Ok(report)
}

/// Updates of one key after another, updates of many, deletes of all.
pub async fn updates(setting: &Setting) -> Result<Report> {
    let (rows, single) = if setting.smoke {
        (1_000, 50)
    } else {
        (100_000, 2_000)
    };
    let (server, sql) = setting.started().await?;
    sql.run("CREATE TABLE t (k bigint PRIMARY KEY, g bigint, v bigint)")
        .await?;
    sql.run("CREATE MATERIALIZED VIEW sums AS SELECT g, sum(v) AS s, count(*) AS n, max(v) AS m FROM t GROUP BY g").await?;
    let start = Instant::now();
    sql.run(&format!(
        "INSERT INTO t SELECT n, n % 1000, n FROM generate_series(1, {rows}) AS s (n)"
    ))
    .await?;
    let mut report = Report::new(format!(
        "Updates and deletes, {rows} rows under a key, an aggregate over them"
    ));
    let mut step = |what: &str, from: Instant| {
        report.note(format!("{what}: {:.3} s.", from.elapsed().as_secs_f64()))
    };
    step("INSERT of all rows in one statement", start);
    let from = Instant::now();
    for i in 0..single {
        sql.run(&format!(
            "UPDATE t SET v = v + 1 WHERE k = {}",
            1 + i % rows
        ))
        .await?;
    }
    step(
        &format!("{single} UPDATEs of one row each, one after the other"),
        from,
    );
    let from = Instant::now();
    sql.run("UPDATE t SET v = v + 1, g = g + 1").await?;
    step("UPDATE of all rows in one statement", from);
    let from = Instant::now();
    sql.run("DELETE FROM t WHERE k % 2 = 0").await?;
    step("DELETE of half of them", from);
    let n = sql
        .number("SELECT coalesce(sum(n), 0)::bigint FROM sums")
        .await?;
    ensure!(
        n == sql.number("SELECT count(*) FROM t").await?,
        "the view follows"
    );
    report.cost("server", of_process(server.pid(), start)?, rows);
    Ok(report)
}
