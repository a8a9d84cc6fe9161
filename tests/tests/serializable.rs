//! Concurrent transfers and reads through kills: the recorded history is strictly serializable.
//!
//! Each account carries a version that every transfer raises by one, and each transfer leaves a row in a
//! log in the same transaction. So the order of all writes of an account is known, and the history is strictly
//! serializable exactly if the graph of who-must-precede-whom (versions, reads, real time) has no cycle.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU16, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::Rng;
use tidemill_tests::seed::rounds;
use tidemill_tests::{Options, Scratch, Seed, Server, Sql, eventually, run};

const ACCOUNTS: i64 = 6;
const INITIAL: i64 = 100;
const CLIENTS: u64 = 4;
/// Fewer transfers or reads say little.
const ENOUGH: usize = 20;

/// One operation as a client saw it. Times are nanoseconds since the start; `end` is the maximum if the outcome was never heard.
#[derive(Clone, Debug)]
struct Operation {
    start: u128,
    end: u128,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    /// The number of a transfer, which the log decides on.
    Transfer(i64),
    /// Version of each account.
    Read(Vec<i64>),
}

struct Client {
    port: Arc<AtomicU16>,
    stop: Arc<AtomicBool>,
    next_transfer: Arc<AtomicI64>,
    /// Of all clients.
    reads: Arc<AtomicUsize>,
    origin: Instant,
    history: Vec<Operation>,
    conflicts: usize,
}

impl Client {
    async fn play(mut self, mut rng: rand_chacha::ChaCha8Rng) -> Result<(Vec<Operation>, usize)> {
        'connect: while !self.stop.load(Ordering::Acquire) {
            let Ok(sql) = Sql::connect(self.port.load(Ordering::Acquire)).await else {
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            };
            while !self.stop.load(Ordering::Acquire) {
                let connected = if rng.random_range(0..3) == 0 {
                    self.read(&sql).await?
                } else {
                    let from = rng.random_range(0..ACCOUNTS);
                    let to = (from + rng.random_range(1..ACCOUNTS)) % ACCOUNTS;
                    self.transfer(&sql, from, to, rng.random_range(1..10))
                        .await?
                };
                if !connected {
                    continue 'connect;
                }
            }
        }
        Ok((self.history, self.conflicts))
    }

    fn now(&self) -> u128 {
        self.origin.elapsed().as_nanos()
    }

    async fn read(&mut self, sql: &Sql) -> Result<bool> {
        let start = self.now();
        let Ok(rows) = sql.try_rows("SELECT a.version, a.balance, t.s FROM accounts AS a CROSS JOIN total AS t ORDER BY a.id").await else {
            return Ok(false);
        };
        let end = self.now();
        let number = |text: &Option<String>| -> Result<i64> {
            Ok(text.as_deref().context("NULL")?.parse()?)
        };
        let versions = rows
            .iter()
            .map(|r| number(&r[0]))
            .collect::<Result<Vec<_>>>()?;
        let balances = rows
            .iter()
            .map(|r| number(&r[1]))
            .collect::<Result<Vec<_>>>()?;
        ensure!(
            balances.iter().sum::<i64>() == ACCOUNTS * INITIAL,
            "a read shows {balances:?}"
        );
        ensure!(
            number(&rows[0][2])? == ACCOUNTS * INITIAL,
            "the view and the table disagree: {rows:?}"
        );
        self.history.push(Operation {
            start,
            end,
            kind: Kind::Read(versions),
        });
        self.reads.fetch_add(1, Ordering::AcqRel);
        Ok(true)
    }

    async fn transfer(&mut self, sql: &Sql, from: i64, to: i64, amount: i64) -> Result<bool> {
        let id = self.next_transfer.fetch_add(1, Ordering::AcqRel);
        let start = self.now();
        let statements = [
            "BEGIN".to_owned(),
            format!(
                "UPDATE accounts SET version = version + 1, balance = balance - {amount} WHERE id = {from}"
            ),
            format!(
                "UPDATE accounts SET version = version + 1, balance = balance + {amount} WHERE id = {to}"
            ),
            format!(
                "INSERT INTO log SELECT {id}, {from}, (SELECT version FROM accounts WHERE id = {from}), \
                 {to}, (SELECT version FROM accounts WHERE id = {to})"
            ),
            "COMMIT".to_owned(),
        ];
        for (n, statement) in statements.iter().enumerate() {
            match sql.try_rows(statement).await {
                Ok(_) => {}
                Err(failure) if failure.sqlstate == "40001" => {
                    self.conflicts += 1;
                    let _ = sql.try_rows("ROLLBACK").await;
                    return Ok(true);
                }
                Err(failure)
                    if failure.sqlstate.is_empty()
                        || failure.sqlstate.starts_with("57P")
                        || failure.sqlstate.starts_with("08") =>
                {
                    if n + 1 == statements.len() {
                        self.history.push(Operation {
                            start,
                            end: u128::MAX,
                            kind: Kind::Transfer(id),
                        });
                    }
                    return Ok(false);
                }
                Err(failure) => anyhow::bail!("{statement}: {failure}"),
            }
        }
        let end = self.now();
        self.history.push(Operation {
            start,
            end,
            kind: Kind::Transfer(id),
        });
        Ok(true)
    }
}

/// Per transfer: the versions that it made.
type Log = HashMap<i64, [(i64, i64); 2]>;

/// Fails with the reason if no strict serial order explains the history.
fn check(history: &[Operation], log: &Log) -> Result<()> {
    // Nodes: operations that happened. An unheard transfer that isn't in the log did not.
    let mut nodes: Vec<&Operation> = Vec::new();
    for operation in history {
        match &operation.kind {
            Kind::Transfer(id) if operation.end == u128::MAX && !log.contains_key(id) => {}
            Kind::Transfer(id) => {
                ensure!(
                    log.contains_key(id),
                    "the acknowledged transfer {id} is lost"
                );
                nodes.push(operation);
            }
            Kind::Read(_) => nodes.push(operation),
        }
    }
    let mut writer: BTreeMap<(i64, i64), usize> = BTreeMap::new();
    for (n, node) in nodes.iter().enumerate() {
        if let Kind::Transfer(id) = &node.kind {
            for version in log[id] {
                ensure!(
                    writer.insert(version, n).is_none(),
                    "two transfers made {version:?} (account, version)"
                );
            }
        }
    }
    let mut edges: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    for (&(account, version), &n) in &writer {
        if version > 1 {
            let before = writer
                .get(&(account, version - 1))
                .context("a version that nobody made")?;
            edges[*before].push(n);
        }
    }
    for (n, node) in nodes.iter().enumerate() {
        if let Kind::Read(versions) = &node.kind {
            for (account, version) in versions.iter().enumerate() {
                if let Some(before) = writer.get(&(account as i64, *version)) {
                    edges[*before].push(n);
                }
                if let Some(after) = writer.get(&(account as i64, version + 1)) {
                    edges[n].push(*after);
                }
            }
        }
    }
    for (a, before) in nodes.iter().enumerate() {
        edges[a].extend((0..nodes.len()).filter(|b| before.end < nodes[*b].start));
    }
    let mut incoming = vec![0; nodes.len()];
    edges.iter().flatten().for_each(|n| incoming[*n] += 1);
    let mut ready: Vec<usize> = (0..nodes.len()).filter(|n| incoming[*n] == 0).collect();
    let mut ordered = 0;
    while let Some(n) = ready.pop() {
        ordered += 1;
        for &next in &edges[n] {
            incoming[next] -= 1;
            if incoming[next] == 0 {
                ready.push(next);
            }
        }
    }
    let stuck: Vec<&&Operation> = nodes
        .iter()
        .zip(&incoming)
        .filter(|(_, i)| **i > 0)
        .map(|(n, _)| n)
        .take(8)
        .collect();
    ensure!(
        ordered == nodes.len(),
        "{} operations form a cycle, among them {stuck:?}",
        nodes.len() - ordered
    );
    Ok(())
}

async fn concurrent(scratch: Scratch) -> Result<()> {
    let seed = Seed::new("serializable");
    let mut server = Server::start(&scratch.data(), &Options::workers(2))?;
    let sql = server.connect().await?;
    sql.run("CREATE TABLE accounts (id bigint PRIMARY KEY, version bigint, balance bigint)")
        .await?;
    sql.run("CREATE TABLE log (id bigint PRIMARY KEY, a bigint, va bigint, b bigint, vb bigint)")
        .await?;
    sql.run("CREATE MATERIALIZED VIEW total AS SELECT sum(balance)::bigint AS s FROM accounts")
        .await?;
    let rows: Vec<String> = (0..ACCOUNTS)
        .map(|id| format!("({id}, 0, {INITIAL})"))
        .collect();
    sql.run(&format!("INSERT INTO accounts VALUES {}", rows.join(", ")))
        .await?;

    let (stop, port) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU16::new(server.port())),
    );
    let (next_transfer, origin) = (Arc::new(AtomicI64::new(0)), Instant::now());
    let reads = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|n| {
            let client = Client {
                port: port.clone(),
                stop: stop.clone(),
                next_transfer: next_transfer.clone(),
                reads: reads.clone(),
                origin,
                history: Vec::new(),
                conflicts: 0,
            };
            tokio::spawn(client.play(seed.rng(n)))
        })
        .collect();
    let mut rng = seed.rng(CLIENTS);
    for _ in 0..rounds(4) {
        tokio::time::sleep(Duration::from_millis(rng.random_range(200..1200))).await;
        server.restart(&Options::workers(2))?;
        port.store(server.port(), Ordering::Release);
    }
    let sql = server.connect().await?;
    let enough = eventually("enough transfers and reads", async || {
        let transfers = sql.number("SELECT count(*) FROM log").await? as usize;
        let reads = reads.load(Ordering::Acquire);
        Ok((transfers > ENOUGH && reads > ENOUGH).then_some(()))
    })
    .await;
    stop.store(true, Ordering::Release);
    let (mut history, mut conflicts) = (Vec::new(), 0);
    for client in clients {
        let (operations, n) = client.await??;
        history.extend(operations);
        conflicts += n;
    }
    enough?;
    let mut log = Log::new();
    for row in sql.rows("SELECT * FROM log").await? {
        let n: Vec<i64> = row
            .iter()
            .map(|v| v.as_deref().unwrap_or("").parse())
            .collect::<Result<_, _>>()?;
        log.insert(n[0], [(n[1], n[2]), (n[3], n[4])]);
    }
    eprintln!(
        "{} transfers committed, {conflicts} conflicts, {} reads",
        log.len(),
        reads.load(Ordering::Acquire)
    );
    check(&history, &log)
}

#[test]
fn transfers_and_reads_through_kills() {
    run(concurrent);
}

#[test]
fn the_checker_finds_a_stale_read() {
    let transfer = |id, start, end| Operation {
        start,
        end,
        kind: Kind::Transfer(id),
    };
    let read = |versions: [i64; 2], start, end| Operation {
        start,
        end,
        kind: Kind::Read(versions.to_vec()),
    };
    let log = Log::from([(1, [(0, 1), (1, 1)]), (2, [(0, 2), (1, 2)])]);
    let writes = [transfer(1, 0, 10), transfer(2, 20, 30)];
    let with = |r: Operation| check(&[&writes[..], &[r]].concat(), &log);
    assert!(with(read([1, 1], 12, 15)).is_ok());
    assert!(with(read([1, 1], 12, 25)).is_ok());
    assert!(with(read([2, 2], 22, 25)).is_ok());
    assert!(with(read([1, 1], 40, 50)).is_err(), "a stale read");
    assert!(with(read([2, 1], 22, 25)).is_err(), "half a transfer");
    assert!(with(read([2, 2], 12, 15)).is_err(), "a read of the future");
}
