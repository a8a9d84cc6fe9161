//! Sequences under concurrent sessions and kills: no number is given twice.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};

use anyhow::{Result, bail, ensure};
use rand::Rng;
use tidemill_tests::seed::rounds;
use tidemill_tests::{Options, Scratch, Seed, Server, Sql, eventually, run};

/// What the takers share.
struct Load {
    stop: AtomicBool,
    port: AtomicU16,
    taken: AtomicUsize,
}

/// Takes numbers until it is told to stop, through restarts of the server.
async fn take(load: Arc<Load>, n: usize) -> Result<Vec<i64>> {
    let statements = [
        "SELECT nextval('s')",
        "SELECT nextval('s') FROM generate_series(1, 40)",
        "INSERT INTO t (v) VALUES ('a') RETURNING id",
        "SELECT nextval('t_id_seq')",
        "INSERT INTO u DEFAULT VALUES RETURNING id",
    ];
    let mut taken = vec![];
    let mut at = n;
    while !load.stop.load(Ordering::Acquire) {
        let Ok(sql) = Sql::connect(load.port.load(Ordering::Acquire)).await else {
            tokio::task::yield_now().await;
            continue;
        };
        while !load.stop.load(Ordering::Acquire) {
            at += 1;
            let statement = at % statements.len();
            let Ok(rows) = sql.try_rows(statements[statement]).await else {
                break;
            };
            for row in rows {
                let Some(number) = row[0].as_ref().and_then(|n| n.parse::<i64>().ok()) else {
                    bail!("no number: {row:?}");
                };
                load.taken.fetch_add(1, Ordering::AcqRel);
                // Those of `t` and of `s` are apart.
                taken.push(if matches!(statement, 2 | 3) {
                    -number
                } else {
                    number
                });
            }
        }
    }
    Ok(taken)
}

#[test]
fn no_number_is_given_twice() {
    run(|scratch: Scratch| async move {
        let mut rng = Seed::new("sequences").rng(0);
        let mut server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        sql.run("CREATE SEQUENCE s").await?;
        sql.run("CREATE TABLE t (id serial PRIMARY KEY, v text)")
            .await?;
        sql.run("CREATE TABLE u (id bigint DEFAULT nextval('s') PRIMARY KEY)")
            .await?;
        let load = Arc::new(Load {
            stop: AtomicBool::new(false),
            port: AtomicU16::new(server.port()),
            taken: AtomicUsize::new(0),
        });
        let takers: Vec<_> = (0..4)
            .map(|n| tokio::spawn(take(load.clone(), n)))
            .collect();
        for _ in 0..rounds(4) {
            let until = load.taken.load(Ordering::Acquire) + rng.random_range(100..900);
            eventually("numbers", async || {
                Ok((load.taken.load(Ordering::Acquire) >= until).then_some(()))
            })
            .await?;
            // Others go on while it counts anew.
            let sql = server.connect().await?;
            for n in 0..20 {
                let counting = [
                    "INCREMENT BY 1 MAXVALUE 9000000",
                    "NO MAXVALUE",
                    "OWNED BY NONE",
                ];
                let how = counting[n % counting.len()];
                sql.run(&format!("ALTER SEQUENCE s {how}")).await?;
            }
            server.restart(&Options::workers(rng.random_range(1..3)))?;
            load.port.store(server.port(), Ordering::Release);
        }
        load.stop.store(true, Ordering::Release);
        let mut all = BTreeSet::new();
        for taker in takers {
            for number in taker.await?? {
                ensure!(all.insert(number), "{number} was given twice");
            }
        }
        // What was given out isn't far from where they go on: at most what each restart skips.
        let next = server
            .connect()
            .await?
            .number("SELECT nextval('s')")
            .await?;
        let of_s = all.iter().filter(|n| **n > 0).count() as i64;
        ensure!(
            next > of_s && next < of_s + 2_000,
            "{of_s} numbers were given, the next is {next}"
        );
        Ok(())
    });
}

#[test]
fn numbers_of_rows_that_a_transaction_took_away_again_are_kept() {
    run(|scratch: Scratch| async move {
        let mut server = Server::start(&scratch.data(), &Options::default())?;
        let sql = server.connect().await?;
        sql.run("CREATE TABLE t (id serial PRIMARY KEY, v text)")
            .await?;
        for (number, then) in [(1, "DELETE FROM t"), (2, "ROLLBACK TO before")] {
            let sql = server.connect().await?;
            sql.run("BEGIN; SAVEPOINT before").await?;
            let insert = "INSERT INTO t (v) VALUES ('a') RETURNING id";
            ensure!(sql.number(insert).await? == number);
            sql.run(then).await?;
            sql.run("COMMIT").await?;
            server.restart(&Options::default())?;
        }
        let sql = server.connect().await?;
        let id = sql.number("INSERT INTO t VALUES (DEFAULT, 'b') RETURNING id");
        ensure!(id.await? == 3);
        Ok(())
    });
}
