//! Measures what commits, merges, reopening and reads cost on this machine:
//! `cargo bench -p tidemill-bench --bench commit [-- DIRECTORY]`.
//!
//! The workload: 100 epochs, each changing about 24,000 of 100,000 keys (text key, bigint value,
//! kind `Last`); then 1,000 epochs of one row, and 1,000 of one row in each of 20 arrangements.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringViewArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use rand::{Rng, SeedableRng};
use tidemill_storage::{
    ArrangementChange, ArrangementDesc, ArrangementKind, Commit, Store, StoreOptions,
};
use tidemill_zset::hash::hash_columns;
use tidemill_zset::{ArrangementId, Delta, Epoch};

const KEYS: usize = 100_000;
const CHANGED: usize = 24_000;
const ARRANGEMENTS: u64 = 20;

/// How many epochs of each shape.
struct Epochs {
    large: i64,
    small: i64,
}

impl Epochs {
    fn all() -> Epochs {
        match tidemill_bench::benching() {
            true => Epochs {
                large: 100,
                small: 1_000,
            },
            false => Epochs { large: 2, small: 5 },
        }
    }
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("word", DataType::Utf8View, true),
        Field::new("count", DataType::Int64, true),
    ]))
}

fn change(keys: &[usize], epoch: Epoch) -> ArrangementChange {
    let words = keys.iter().map(|k| format!("w{k:x}-{}", k % 1000));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringViewArray::from_iter_values(words)),
        Arc::new(Int64Array::from_iter_values(
            keys.iter().map(|k| *k as i64 + epoch),
        )),
    ];
    let hashes = hash_columns(&columns[..1], keys.len());
    let rows = RecordBatch::try_new(schema(), columns).expect("two columns of one length");
    ArrangementChange {
        arrangement: ArrangementId(1),
        hashes,
        delta: Delta::insert(rows),
    }
}

/// CPU time of `who` so far.
fn cpu(who: i32) -> Duration {
    // SAFETY: getrusage fills the struct that it is given.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(who, &mut usage);
        usage
    };
    let of = |t: libc::timeval| {
        Duration::from_secs(t.tv_sec as u64) + Duration::from_micros(t.tv_usec as u64)
    };
    of(usage.ru_utime) + of(usage.ru_stime)
}

fn percentile(times: &mut [Duration], p: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() - 1) * p / 100]
}

fn commit(store: &Store, epoch: Epoch, keys: &[usize], create: bool) -> (Duration, Duration) {
    let mut c = Commit {
        epoch,
        reserved_upper: epoch + 1,
        changes: vec![change(keys, epoch)],
        since: vec![(ArrangementId(1), epoch - 1)],
        ..Commit::default()
    };
    if create {
        c.create.push(ArrangementDesc {
            id: ArrangementId(1),
            kind: ArrangementKind::Last,
            schema: schema(),
            key_columns: 1,
        });
    }
    let (wall, before) = (Instant::now(), cpu(libc::RUSAGE_THREAD));
    store.commit(c).expect("the disk works");
    (wall.elapsed(), cpu(libc::RUSAGE_THREAD) - before)
}

fn run(dir: &Path) {
    let Epochs { large, small } = Epochs::all();
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    let store = Store::open(dir, StoreOptions::default()).expect("a new directory");
    let mut walls = Vec::new();
    let (mut total, all) = (Duration::ZERO, cpu(libc::RUSAGE_SELF));
    let mut making = Duration::ZERO;
    for epoch in 1..=large {
        let before = cpu(libc::RUSAGE_THREAD);
        let mut keys: Vec<usize> = (0..CHANGED).map(|_| rng.random_range(0..KEYS)).collect();
        keys.sort_unstable();
        keys.dedup();
        for i in (1..keys.len()).rev() {
            keys.swap(i, rng.random_range(0..=i));
        }
        making += cpu(libc::RUSAGE_THREAD) - before;
        let before = cpu(libc::RUSAGE_THREAD);
        let (wall, cpu_commit) = commit(&store, epoch, &keys, epoch == 1);
        making += cpu(libc::RUSAGE_THREAD) - before - cpu_commit;
        walls.push(wall);
        total += cpu_commit;
    }
    let process = cpu(libc::RUSAGE_SELF) - all - making;
    println!(
        "{large} epochs of ~{CHANGED} rows: commit CPU {:?} each; wall p50 {:?} p99 {:?}",
        total / large as u32,
        percentile(&mut walls, 50),
        percentile(&mut walls, 99)
    );
    println!(
        "  merge thread CPU {:?} in all",
        process.saturating_sub(total)
    );
    println!("  {:?}", store.stats());
    let (mut walls, mut total) = (Vec::new(), Duration::ZERO);
    for epoch in large + 1..=large + small {
        let (wall, cpu) = commit(&store, epoch, &[rng.random_range(0..KEYS)], false);
        walls.push(wall);
        total += cpu;
    }
    println!(
        "{small} epochs of 1 row: commit CPU {:?} each; wall p50 {:?} p99 {:?}",
        total / small as u32,
        percentile(&mut walls, 50),
        percentile(&mut walls, 99)
    );
    println!("  {:?}", store.stats());
    many_arrangements(&store, large + small + 1, small);
    log_of_a_source(&store, large + 2 * small + 1, large);
    drop(store);
    let started = Instant::now();
    let store = Store::open(dir, StoreOptions::default()).expect("it was closed");
    println!("reopened in {:?}", started.elapsed());
    let version = store.version();
    let a = version.arrangement(ArrangementId(1)).expect("it exists");
    let started = Instant::now();
    let rows: usize = a.scan(Epoch::MAX).map(|d| d.expect("readable").len()).sum();
    println!(
        "cold scan of {rows} rows, {} runs: {:?}",
        a.runs(),
        started.elapsed()
    );
    let started = Instant::now();
    let rows: usize = a.scan(Epoch::MAX).map(|d| d.expect("readable").len()).sum();
    println!("warm scan of {rows} rows: {:?}", started.elapsed());
    for n in [1, 100, 10_000] {
        let keys: Vec<usize> = (0..n).map(|_| rng.random_range(0..KEYS)).collect();
        let mut hashes = change(&keys, 0).hashes;
        hashes.sort_unstable();
        hashes.dedup();
        let started = Instant::now();
        let found = a.get_many(&hashes).expect("readable");
        let rows: usize = found.iter().map(|b| b.rows.num_rows()).sum();
        println!("get_many of {n}: {rows} rows in {:?}", started.elapsed());
    }
}

/// A row for each of many arrangements per epoch, as a server with many small views commits.
fn many_arrangements(store: &Store, first: Epoch, small: i64) {
    let (mut walls, mut total) = (Vec::new(), Duration::ZERO);
    for epoch in first..first + small {
        let mut c = Commit {
            epoch,
            reserved_upper: epoch + 1,
            ..Commit::default()
        };
        for id in 2..2 + ARRANGEMENTS {
            if epoch == first {
                c.create.push(ArrangementDesc {
                    id: ArrangementId(id),
                    kind: ArrangementKind::Last,
                    schema: schema(),
                    key_columns: 1,
                });
            }
            let mut change = change(&[epoch as usize % 50], epoch);
            change.arrangement = ArrangementId(id);
            c.changes.push(change);
            c.since.push((ArrangementId(id), epoch - 1));
        }
        let (wall, before) = (Instant::now(), cpu(libc::RUSAGE_THREAD));
        store.commit(c).expect("the disk works");
        walls.push(wall.elapsed());
        total += cpu(libc::RUSAGE_THREAD) - before;
    }
    println!(
        "{small} epochs of 1 row in each of {ARRANGEMENTS} arrangements: commit CPU {:?} each; wall p50 {:?} p99 {:?}",
        total / small as u32,
        percentile(&mut walls, 50),
        percentile(&mut walls, 99)
    );
    println!("  {:?}", store.stats());
}

/// The record of a source's rows: large epochs of a `Log`.
fn log_of_a_source(store: &Store, first: Epoch, large: i64) {
    let keys: Vec<usize> = (0..KEYS).collect();
    let mut rows = change(&keys, first);
    rows.arrangement = ArrangementId(1_000);
    rows.hashes.clear();
    let (all, mut total) = (cpu(libc::RUSAGE_SELF), Duration::ZERO);
    let mut making = Duration::ZERO;
    for epoch in first..first + large {
        let before = cpu(libc::RUSAGE_THREAD);
        let mut c = Commit {
            epoch,
            changes: vec![rows.clone()],
            ..Commit::default()
        };
        if epoch == first {
            c.create.push(ArrangementDesc {
                id: ArrangementId(1_000),
                kind: ArrangementKind::Log,
                schema: schema(),
                key_columns: 0,
            });
        }
        making += cpu(libc::RUSAGE_THREAD) - before;
        let before = cpu(libc::RUSAGE_THREAD);
        store.commit(c).expect("the disk works");
        total += cpu(libc::RUSAGE_THREAD) - before;
    }
    let process = cpu(libc::RUSAGE_SELF) - all - making;
    println!(
        "{large} epochs of {KEYS} rows of a log: commit CPU {:?} each; merge thread CPU {:?} in all",
        total / large as u32,
        process.saturating_sub(total)
    );
    println!("  {:?}", store.stats());
}

fn main() {
    let given = std::env::args().skip(1).find(|a| !a.starts_with("--"));
    let temporary = tempfile::tempdir().expect("a temporary directory");
    run(given.as_ref().map_or(temporary.path(), |g| Path::new(g)));
}
