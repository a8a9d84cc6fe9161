//! A server under steady input is killed, at random moments and at each named fail point; at the end
//! everything equals the truth: what the files hold, and what was acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rand::Rng;
use tidemill_tests::files::{read_sink, sum_sink};
use tidemill_tests::seed::rounds;
use tidemill_tests::{DEADLINE, Multiset, Options, Scratch, Seed, Server, Sql, eventually, run};

const KEYS: i64 = 200;
/// Passes before a fail point strikes: so that there is something to lose.
const PASSES: [(&str, usize); 6] = [
    ("before_transaction", 5),
    ("after_transaction", 6),
    ("before_publish", 7),
    ("segment_synced", 3),
    ("sink_write", 4),
    ("during_merge", 2),
];

/// What the files and the acknowledged inserts say.
#[derive(Default)]
struct Truth {
    /// Per key: sum, count, maximum.
    groups: BTreeMap<i64, (i64, i64, i64)>,
    /// Keys of `t` whose insert was acknowledged.
    acknowledged: BTreeSet<i64>,
    /// Keys whose insert may have happened.
    attempted: BTreeSet<i64>,
}

/// Input that goes on whether the server is there or not.
struct Load {
    stop: Arc<AtomicBool>,
    port: Arc<AtomicU16>,
    files: std::thread::JoinHandle<Result<Truth>>,
    inserts: tokio::task::JoinHandle<Truth>,
}

impl Load {
    fn start(seed: Seed, input: PathBuf, port: u16) -> Load {
        let (stop, port) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU16::new(port)),
        );
        let stopped = stop.clone();
        let files = std::thread::spawn(move || write_files(seed, input, &stopped));
        let inserts = tokio::spawn(insert(stop.clone(), port.clone()));
        Load {
            stop,
            port,
            files,
            inserts,
        }
    }

    async fn finish(self) -> Result<Truth> {
        self.stop.store(true, Ordering::Release);
        let mut truth = self.files.join().expect("the writer doesn't panic")?;
        let inserts = self.inserts.await?;
        (truth.acknowledged, truth.attempted) = (inserts.acknowledged, inserts.attempted);
        Ok(truth)
    }
}

/// Appends rows to four files, from a few to enough for an epoch of its own segment file.
fn write_files(seed: Seed, input: PathBuf, stop: &AtomicBool) -> Result<Truth> {
    let mut rng = seed.rng(1);
    let mut truth = Truth::default();
    let mut files = Vec::new();
    for i in 0..4 {
        let mut file = File::create(input.join(format!("part-{i}.csv")))?;
        file.write_all(b"k,v\n")?;
        files.push(file);
    }
    while !stop.load(Ordering::Acquire) {
        let rows = if rng.random_range(0..6) == 0 {
            6_000
        } else {
            rng.random_range(1..60)
        };
        let mut text = String::new();
        for _ in 0..rows {
            let (k, v) = (rng.random_range(0..KEYS), rng.random_range(-1000..1000));
            text.push_str(&format!("{k},{v}\n"));
            let group = truth.groups.entry(k).or_insert((0, 0, i64::MIN));
            *group = (group.0 + v, group.1 + 1, group.2.max(v));
        }
        let file = rng.random_range(0..4);
        // A line may be torn: the rest comes with the next write to the file.
        let cut = rng.random_range(0..=text.len());
        files[file].write_all(&text.as_bytes()[..cut])?;
        std::thread::sleep(Duration::from_millis(5));
        files[file].write_all(&text.as_bytes()[cut..])?;
    }
    Ok(truth)
}

/// Inserts one key after the other, remembering which were acknowledged.
async fn insert(stop: Arc<AtomicBool>, port: Arc<AtomicU16>) -> Truth {
    let mut truth = Truth::default();
    let mut next = 0;
    'connect: while !stop.load(Ordering::Acquire) {
        let Ok(sql) = Sql::connect(port.load(Ordering::Acquire)).await else {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        while !stop.load(Ordering::Acquire) {
            let key = next;
            next += 1;
            truth.attempted.insert(key);
            match sql
                .try_rows(&format!("INSERT INTO t VALUES ({key}, {})", key % KEYS))
                .await
            {
                Ok(_) => _ = truth.acknowledged.insert(key),
                Err(_) => continue 'connect,
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    truth
}

async fn declare(sql: &Sql, scratch: &Scratch, input: &std::path::Path) -> Result<()> {
    sql.run("CREATE TABLE t (id bigint PRIMARY KEY, k bigint)")
        .await?;
    sql.run(&format!(
        "CREATE SOURCE s (k bigint, v bigint) WITH (connector = 'files', path = '{}', format = 'csv', header = true, \
         commit_interval = '10ms', persistent_id = 's')",
        input.display()
    ))
    .await?;
    sql.run("CREATE MATERIALIZED VIEW sums AS SELECT k, sum(v) AS s, count(*) AS n, max(v) AS m FROM s GROUP BY k").await?;
    sql.run(
        "CREATE MATERIALIZED VIEW joined AS SELECT t.id, sums.n FROM t JOIN sums ON t.k = sums.k",
    )
    .await?;
    for view in ["sums", "joined"] {
        let path = scratch.path(&format!("{view}.jsonl"));
        let path = path.display();
        sql.run(&format!("CREATE SINK {view}_out FROM {view} WITH (connector = 'files', path = '{path}', format = 'jsonl')")).await?;
    }
    Ok(())
}

/// Starts to create a view that isn't there after a kill at the wrong moment; nobody waits for it.
fn create_late_view(port: u16) {
    tokio::spawn(async move {
        if let Ok(sql) = Sql::connect(port).await {
            let _ = sql.try_rows("DROP MATERIALIZED VIEW IF EXISTS late").await;
            let _ = sql.try_rows("CREATE MATERIALIZED VIEW late AS SELECT v % 10 AS r, count(*) AS n FROM s GROUP BY v % 10").await;
        }
    });
}

/// Everything equals the truth once all input has been taken.
async fn check(server: &Server, scratch: &Scratch, truth: &Truth) -> Result<()> {
    let sql = server.connect().await?;
    let rows: i64 = truth.groups.values().map(|g| g.1).sum();
    eventually(&format!("all {rows} rows counted"), async || {
        let n = sql
            .number("SELECT coalesce(sum(n), 0)::bigint FROM sums")
            .await?;
        ensure!(n <= rows, "{n} rows are counted, only {rows} were written");
        Ok((n == rows).then_some(()))
    })
    .await?;
    let want: Vec<String> = truth
        .groups
        .iter()
        .map(|(k, (s, n, m))| format!("{k}|{s}|{n}|{m}"))
        .collect();
    ensure!(
        sql.lines("SELECT * FROM sums ORDER BY k").await? == want,
        "the sums differ from the files"
    );
    ensure!(
        sql.number("SELECT count(*) FROM s").await? == rows,
        "the record of the source differs from the files"
    );
    ensure!(
        sql.number("SELECT count(*) FROM s_errors").await? == 0,
        "there are errors"
    );

    let ids: BTreeSet<i64> = sql
        .lines("SELECT id FROM t")
        .await?
        .iter()
        .map(|l| l.parse())
        .collect::<Result<_, _>>()?;
    let lost: Vec<_> = truth.acknowledged.difference(&ids).collect();
    ensure!(lost.is_empty(), "acknowledged inserts are lost: {lost:?}");
    let invented: Vec<_> = ids.difference(&truth.attempted).collect();
    ensure!(
        invented.is_empty(),
        "rows that nobody inserted: {invented:?}"
    );
    ensure!(sql.number("SELECT count(*) FROM t").await? == ids.len() as i64);

    let joined = sql.lines("SELECT id, n FROM joined ORDER BY id").await?;
    let by_select = sql.lines("SELECT t.id, x.n FROM t JOIN (SELECT k, count(*) AS n FROM s GROUP BY k) AS x ON t.k = x.k ORDER BY t.id").await?;
    ensure!(
        joined == by_select,
        "the join view has {} rows, SELECT {}",
        joined.len(),
        by_select.len()
    );

    sql.run("DROP MATERIALIZED VIEW IF EXISTS late").await?;
    sql.run(
        "CREATE MATERIALIZED VIEW late AS SELECT v % 10 AS r, count(*) AS n FROM s GROUP BY v % 10",
    )
    .await?;
    let late = sql.lines("SELECT * FROM late ORDER BY r").await?;
    ensure!(
        late == sql
            .lines("SELECT v % 10 AS r, count(*) FROM s GROUP BY v % 10 ORDER BY r")
            .await?,
        "the late view differs"
    );

    for (view, lines) in [("sums", want), ("joined", joined)] {
        let path = scratch.path(&format!("{view}.jsonl"));
        let want = Multiset::of_lines(lines);
        eventually(
            &format!("the sink of {view} sums up to the view"),
            async || Ok((sum_sink(&read_sink(&path)?) == want).then_some(())),
        )
        .await?;
    }
    Ok(())
}

async fn random_kills(scratch: Scratch) -> Result<()> {
    let seed = Seed::new("kills");
    let mut rng = seed.rng(0);
    let input = scratch.dir("input");
    let mut server = Server::start(&scratch.data(), &Options::default())?;
    declare(&server.connect().await?, &scratch, &input).await?;
    let load = Load::start(seed, input, server.port());
    for round in 0..rounds(20) {
        create_late_view(server.port());
        tokio::time::sleep(Duration::from_millis(rng.random_range(20..400))).await;
        server.restart(&Options::workers(1 + round % 2))?;
        load.port.store(server.port(), Ordering::Release);
    }
    let truth = load.finish().await?;
    check(&server, &scratch, &truth).await
}

async fn fail_point(scratch: Scratch, name: &str, passes: usize) -> Result<()> {
    let seed = Seed::new(name);
    let input = scratch.dir("input");
    let mut server = Server::start(&scratch.data(), &Options::default())?;
    declare(&server.connect().await?, &scratch, &input).await?;
    let load = Load::start(seed, input, server.port());
    for n in [passes, 1] {
        server.kill();
        match Server::try_start(&scratch.data(), &Options::default().fail_point(name, n))? {
            Ok(running) => server = running,
            Err(_) => continue, // struck while it started
        }
        load.port.store(server.port(), Ordering::Release);
        create_late_view(server.port());
        let start = std::time::Instant::now();
        while server.is_running() {
            if start.elapsed() > DEADLINE {
                load.stop.store(true, Ordering::Release);
                bail!("the fail point {name} was not passed {n} times in {DEADLINE:?}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    server = Server::start(&scratch.data(), &Options::default())
        .context("the restart after the fail point")?;
    load.port.store(server.port(), Ordering::Release);
    let truth = load.finish().await?;
    check(&server, &scratch, &truth).await
}

#[test]
fn at_random_moments() {
    run(random_kills);
}

#[test]
fn at_the_fail_points_of_a_commit() {
    for (name, passes) in &PASSES[..3] {
        run(|scratch| fail_point(scratch, name, *passes));
    }
}

#[test]
fn after_a_segment_is_synced() {
    run(|scratch| fail_point(scratch, PASSES[3].0, PASSES[3].1));
}

#[test]
fn in_a_sink_write() {
    run(|scratch| fail_point(scratch, PASSES[4].0, PASSES[4].1));
}

#[test]
fn during_a_merge() {
    run(|scratch| fail_point(scratch, PASSES[5].0, PASSES[5].1));
}

#[test]
fn during_recovery() {
    run(|scratch| fail_point(scratch, "during_recovery", 1));
}
