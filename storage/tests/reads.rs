//! Random commits against the model: every way to read, at every readable epoch, before and after
//! merges and reopenings.

mod model;

use model::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tidemill_storage::*;
use tidemill_zset::{ArrangementId, Delta, Epoch};

fn options(inline_bytes_max: usize) -> StoreOptions {
    StoreOptions {
        inline_bytes_max,
        cache_bytes: 1 << 20,
        ..StoreOptions::default()
    }
}

fn run(seed: u64, commits: usize, rows_max: usize, inline_bytes_max: usize, background: bool) {
    let usual = |_| Habits::default();
    run_with(
        seed,
        (commits, &usual),
        rows_max,
        inline_bytes_max,
        background,
    );
}

fn run_with(
    seed: u64,
    (commits, habits): (usize, &dyn Fn(usize) -> Habits),
    rows_max: usize,
    inline_bytes_max: usize,
    background: bool,
) {
    println!("seed {seed}");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let options = options(inline_bytes_max);
    options.fail.hold_merges(!background);
    let mut store = Store::open(dir.path(), options.clone()).unwrap();
    let mut model = Model::default();
    let mut merges = 0;
    for n in 0..commits {
        model.habits = habits(n);
        let group = model.plan_group(&mut rng, rows_max);
        commit(&store, &group).unwrap();
        model = group.after;
        if group.merge {
            store.merge().unwrap();
        }
        if rng.random_bool(0.2) {
            assert_equal(&store, &model);
            assert_reads(&store, &model, &mut rng);
        }
        if rng.random_bool(0.05) {
            merges += store.stats().merges;
            drop(store);
            store = Store::open(dir.path(), options.clone()).unwrap();
            assert_equal(&store, &model);
            assert_reads(&store, &model, &mut rng);
        }
    }
    store.merge().unwrap();
    assert_equal(&store, &model);
    assert_reads(&store, &model, &mut rng);
    merges += store.stats().merges;
    assert!(merges > 0, "the test is to merge");
}

#[test]
fn small_epochs_inside_sled() {
    for seed in 0..6 {
        run(seed, 120, 20, 32 * 1024, false);
    }
}

#[test]
fn everything_in_segments() {
    for seed in 10..14 {
        run(seed, 80, 200, 0, false);
    }
}

/// Large changes, whose runs are kept when they are merged, then small ones, whose entries are put aside; and history goes
/// back to before both.
#[test]
fn large_and_small_changes_in_a_long_history() {
    let habits = |n: usize| Habits {
        large: if n % 40 < 20 { 0.9 } else { 0.05 },
        forgets: 0.005,
    };
    for seed in 30..36 {
        run_with(seed, (160, &habits), 100, 512, false);
    }
}

#[test]
fn blocks_and_segments_of_all_sizes() {
    for seed in 20..22 {
        run(seed, 40, 6000, 16 * 1024, false);
    }
}

#[test]
fn logs_merge_block_by_block_in_order_with_their_epochs() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(0);
    options.fail.hold_merges(true);
    let store = Store::open(dir.path(), options.clone()).unwrap();
    let log = Arrangement::of(2);
    let row = |epoch: i64, i: i64| -> Row { (epoch * 10_000 + i, Some("x".into()), None) };
    for epoch in 1..=40i64 {
        // Large and small blocks side by side.
        let n = if epoch % 5 == 0 { 3 } else { 1500 };
        let rows: Vec<Row> = (0..n).map(|i| row(epoch, i)).collect();
        let commit = Commit {
            epoch,
            create: (epoch == 1).then(|| log.desc(2)).into_iter().collect(),
            changes: vec![ArrangementChange {
                arrangement: ArrangementId(2),
                hashes: vec![],
                delta: Delta::insert(batch(&rows)),
            }],
            since: vec![(ArrangementId(2), epoch - 5)],
            ..Commit::default()
        };
        store.commit(commit).unwrap();
        store.merge().unwrap();
    }
    drop(store);
    let store = Store::open(dir.path(), options).unwrap();
    let a = store.version().arrangement(ArrangementId(2)).unwrap();
    assert!(a.runs() < 20, "{} runs", a.runs());
    let scanned: Vec<Row> = a
        .scan(Epoch::MAX)
        .flat_map(|d| rows_of(&d.unwrap().rows))
        .collect();
    assert!(scanned.windows(2).all(|w| w[0].0 < w[1].0));
    assert_eq!(scanned.len(), 32 * 1500 + 8 * 3);
    let changes = a.changes(36, 40).unwrap();
    let counts: Vec<(i64, usize)> = changes.iter().map(|(e, d)| (*e, d.len())).collect();
    assert_eq!(counts, [(37, 1500), (38, 1500), (39, 1500), (40, 3)]);
}

/// More runs than one merge takes, all of them older than `since`: the rest of them is still the newer part.
#[test]
fn a_key_that_changes_again_after_what_one_merge_takes() {
    const RUNS: i64 = 150;
    let dir = tempfile::tempdir().unwrap();
    let options = options(32 * 1024);
    options.fail.hold_merges(true);
    let store = Store::open(dir.path(), options.clone()).unwrap();
    let last = Arrangement::of(1);
    for epoch in 1..=RUNS {
        // Key k changes in epochs k, k + 10, k + 20, …
        let rows = [(epoch % 10, Some(format!("{epoch}")), None)];
        let commit = Commit {
            epoch,
            create: (epoch == 1).then(|| last.desc(1)).into_iter().collect(),
            changes: vec![ArrangementChange {
                arrangement: ArrangementId(1),
                hashes: last.hashes(&rows),
                delta: Delta::insert(batch(&rows)),
            }],
            since: vec![(ArrangementId(1), epoch)],
            ..Commit::default()
        };
        store.commit(commit).unwrap();
    }
    store.merge().unwrap();
    let a = store.version().arrangement(ArrangementId(1)).unwrap();
    let scanned = a.scan(Epoch::MAX).flat_map(|d| rows_of(&d.unwrap().rows));
    let mut scanned: Vec<Row> = scanned.collect();
    scanned.sort();
    let newest = |k: i64| RUNS - (RUNS - k) % 10;
    let expected: Vec<Row> = (0..10)
        .map(|k| (k, Some(newest(k).to_string()), None))
        .collect();
    assert_eq!(scanned, expected);
}

/// Large runs in which nothing vanishes are merged when look-ups have paid for it, or when they are very many.
#[test]
fn rows_that_only_come_are_merged_when_they_are_looked_up() {
    const ROWS: i64 = 1000;
    let dir = tempfile::tempdir().unwrap();
    let options = options(32 * 1024);
    options.fail.hold_merges(true);
    let store = Store::open(dir.path(), options).unwrap();
    let sums = Arrangement::of(3);
    let text = Some("x".repeat(400));
    let rows = |epoch: i64| -> Vec<Row> {
        (0..ROWS)
            .map(|i| (epoch * ROWS + i, text.clone(), None))
            .collect()
    };
    let commit = |epoch: i64| {
        let rows = rows(epoch);
        let commit = Commit {
            epoch,
            create: (epoch == 1).then(|| sums.desc(3)).into_iter().collect(),
            changes: vec![ArrangementChange {
                arrangement: ArrangementId(3),
                hashes: sums.hashes(&rows),
                delta: Delta::insert(batch(&rows)),
            }],
            ..Commit::default()
        };
        store.commit(commit).unwrap();
        store.merge().unwrap();
    };
    let runs = || {
        let a = store.version().arrangement(ArrangementId(3)).unwrap();
        (a.runs(), a)
    };
    (1..=20).for_each(commit);
    let (before, a) = runs();
    assert_eq!(before, 20, "nobody has looked");
    let mut wanted = sums.hashes(&rows(7));
    wanted.sort_unstable();
    let found: usize = (a.get_many(&wanted).unwrap().iter())
        .map(|b| b.rows.num_rows())
        .sum();
    assert_eq!(found, ROWS as usize);
    store.merge().unwrap();
    assert_eq!(runs().0, 1, "looked for 1000 hashes in 20 runs");
    (21..=120).for_each(commit);
    let (after, a) = runs();
    assert!(after < 64, "{after} runs");
    let all: usize = a.scan(Epoch::MAX).map(|d| d.unwrap().len()).sum();
    assert_eq!(all, 120 * ROWS as usize);
}

/// A few large runs are merged when queries have read as much in them as that costs. The state of an operator isn't a query.
#[test]
fn large_runs_are_merged_when_queries_have_paid_for_it() {
    const ROWS: i64 = 1000;
    const RUNS: i64 = 5;
    let dir = tempfile::tempdir().unwrap();
    let options = options(32 * 1024);
    options.fail.hold_merges(true);
    let store = Store::open(dir.path(), options).unwrap();
    for (id, a) in [3, 4].map(|id| (id, Arrangement::of(id))) {
        let rows = |epoch: i64| -> Vec<Row> {
            (0..ROWS)
                .map(|i| (i, Some(format!("{epoch}{}", "x".repeat(400))), None))
                .collect()
        };
        for epoch in 1..=RUNS {
            let new = rows(epoch);
            let at = epoch + id as i64 * RUNS;
            // Without history, of which a merge would keep its inputs for a while.
            let since = (epoch == RUNS).then_some((ArrangementId(id), at));
            let commit = Commit {
                epoch: at,
                since: since.into_iter().collect(),
                create: (epoch == 1).then(|| a.desc(id)).into_iter().collect(),
                changes: vec![ArrangementChange {
                    arrangement: ArrangementId(id),
                    hashes: a.hashes(&new),
                    delta: Delta::insert(batch(&new)),
                }],
                ..Commit::default()
            };
            store.commit(commit).unwrap();
        }
        let stored = || store.version().arrangement(ArrangementId(id)).unwrap();
        let mut wanted = a.hashes(&rows(1));
        wanted.sort_unstable();
        // Some of each block.
        let wanted: Vec<u64> = wanted.into_iter().step_by(20).collect();
        let whole = stored().get_many(&wanted).unwrap();
        for _ in 0..100 {
            stored().get_many(&wanted).unwrap();
        }
        store.merge().unwrap();
        assert_eq!(stored().runs(), RUNS as usize, "no query has looked");
        let mut reads = 0;
        while stored().runs() > 1 {
            reads += 1;
            assert!(reads < 100, "{} runs after so many reads", stored().runs());
            let found = stored().get_columns(&wanted, Epoch::MAX, &[1]).unwrap();
            let (found, whole) = (&found[0].rows, &whole[0].rows);
            assert_eq!(found.column(0), whole.column(1));
            store.merge().unwrap();
        }
        assert!(reads > 1, "one read isn't worth it");
    }
}

/// The same in the background of a store that is opened and only read.
#[test]
fn look_ups_without_commits_lead_to_a_merge() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), options(32 * 1024)).unwrap();
    let sums = Arrangement::of(3);
    let rows = |epoch: i64| -> Vec<Row> {
        (0..1000)
            .map(|i| (epoch * 1000 + i, Some("x".repeat(400)), None))
            .collect()
    };
    for epoch in 1..=20 {
        let rows = rows(epoch);
        let commit = Commit {
            epoch,
            create: (epoch == 1).then(|| sums.desc(3)).into_iter().collect(),
            changes: vec![ArrangementChange {
                arrangement: ArrangementId(3),
                hashes: sums.hashes(&rows),
                delta: Delta::insert(batch(&rows)),
            }],
            ..Commit::default()
        };
        store.commit(commit).unwrap();
    }
    drop(store);
    let store = Store::open(dir.path(), options(32 * 1024)).unwrap();
    let stored = || store.version().arrangement(ArrangementId(3)).unwrap();
    assert_eq!(stored().runs(), 20);
    let mut wanted = sums.hashes(&rows(7));
    wanted.sort_unstable();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while stored().runs() > 1 {
        assert!(std::time::Instant::now() < deadline, "it isn't merged");
        stored().get_many(&wanted).unwrap();
        std::thread::yield_now();
    }
}

/// What newer values have replaced is put aside, is read as of the epochs that need it, and goes with them.
#[test]
fn history_is_put_aside_and_goes() {
    const EPOCHS: i64 = 1250;
    const KEYS: i64 = 40;
    const KEPT: i64 = 1100;
    let dir = tempfile::tempdir().unwrap();
    let options = options(32 * 1024);
    options.fail.hold_merges(true);
    let mut store = Store::open(dir.path(), options.clone()).unwrap();
    let [last, sums] = [1, 6].map(Arrangement::of);
    // Key k has the value of the last epoch e with e % KEYS = k; every seventh time it is gone.
    let value = |k: i64, epoch: i64| -> Option<Row> {
        let changed = epoch - (epoch - k).rem_euclid(KEYS);
        (changed > 0 && changed % 7 != 0).then(|| (k, Some(format!("{changed}")), None))
    };
    let change = |id: u64, a: &Arrangement, rows: &[Row], diff: i64| ArrangementChange {
        arrangement: ArrangementId(id),
        hashes: a.hashes(rows),
        delta: Delta::new(batch(rows), vec![diff; rows.len()]),
    };
    let commit = |store: &Store, epoch: i64, since: i64| {
        let k = epoch % KEYS;
        let (old, new) = (value(k, epoch - 1), value(k, epoch));
        let mut changes = Vec::new();
        if let Some(old) = old {
            changes.push(change(6, &sums, std::slice::from_ref(&old), -1));
            if new.is_none() {
                changes.push(change(1, &last, &[old], -1));
            }
        }
        if let Some(new) = new {
            changes.push(change(6, &sums, std::slice::from_ref(&new), 1));
            changes.push(change(1, &last, &[new], 1));
        }
        let create = match epoch {
            1 => vec![last.desc(1), sums.desc(6)],
            _ => vec![],
        };
        let since = [1, 6].map(|id| (ArrangementId(id), since)).to_vec();
        let commit = Commit {
            epoch,
            create,
            changes,
            since,
            ..Commit::default()
        };
        store.commit(commit).unwrap();
        store.merge().unwrap();
    };
    let check = |store: &Store, at: i64| {
        let mut expected: Vec<Row> = (0..KEYS).filter_map(|k| value(k, at)).collect();
        expected.sort();
        for id in [1, 6] {
            let a = store.version().arrangement(ArrangementId(id)).unwrap();
            let scanned = a.scan(at).flat_map(|d| rows_of(&d.unwrap().rows));
            let mut scanned: Vec<Row> = scanned.collect();
            scanned.sort();
            assert_eq!(scanned, expected, "arrangement {id} as of {at}");
        }
    };
    for epoch in 1..=EPOCHS {
        commit(&store, epoch, epoch - KEPT);
    }
    for round in 0..2 {
        for at in (EPOCHS - KEPT..=EPOCHS).step_by(37) {
            check(&store, at);
        }
        let a = store.version().arrangement(ArrangementId(1)).unwrap();
        let rows = a.rows_estimate();
        assert!(rows < 100, "{rows} entries make {KEYS} rows");
        let runs = store.stats().runs;
        assert!(runs < 250, "{runs} runs in round {round}");
        drop(store);
        store = Store::open(dir.path(), options.clone()).unwrap();
    }
    for epoch in EPOCHS + 1..=EPOCHS + 40 {
        commit(&store, epoch, epoch);
    }
    check(&store, EPOCHS + 40);
    let (runs, bytes) = (store.stats().runs, store.version());
    let bytes = bytes.arrangement(ArrangementId(6)).unwrap().bytes();
    assert!(
        runs < 40 && bytes < 20_000,
        "{runs} runs, {bytes} bytes are left"
    );
}

/// What was put aside before a merge that kept what it read stays apart from what was put aside after it: that merge has
/// forgotten which of those rows were deleted.
#[test]
fn rows_deleted_before_a_large_merge_stay_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(512);
    options.fail.hold_merges(true);
    let mut store = Store::open(dir.path(), options.clone()).unwrap();
    let mut models = [1, 10].map(|id| (id, Arrangement::of(id)));
    let mut epoch = 0;
    let mut commit = |store: &Store, changes: &[(Row, i64)]| {
        epoch += 1;
        let (rows, diffs): (Vec<Row>, Vec<i64>) = changes.iter().cloned().unzip();
        let mut commit = Commit {
            epoch,
            ..Commit::default()
        };
        for (id, model) in &mut models {
            if epoch == 1 {
                commit.create.push(model.desc(*id));
            }
            commit.changes.push(ArrangementChange {
                arrangement: ArrangementId(*id),
                hashes: model.hashes(&rows),
                delta: Delta::new(batch(&rows), diffs.clone()),
            });
            let entries = changes.iter().map(|(row, diff)| Entry {
                epoch,
                row: row.clone(),
                diff: *diff,
            });
            model.entries.extend(entries);
        }
        store.commit(commit).unwrap();
        store.merge().unwrap();
        epoch
    };
    let row = |k: i64, n: i64| -> Row { (k, Some(format!("{n}")), None) };
    // Keys that come, change and go.
    for n in 0..500 {
        let k = 10_000 + n % 30;
        let diff = if n % 90 < 60 { 1 } else { -1 };
        commit(&store, &[(row(k, n), diff)]);
    }
    for k in 0..30 {
        commit(&store, &[(row(10_000 + k, 0), -1)]);
    }
    for n in 0..17 {
        let all: Vec<(Row, i64)> = (0..300).map(|k| (row(k, n), 1)).collect();
        commit(&store, &all);
    }
    let mut newest = 0;
    for n in 0..1400 {
        newest = commit(&store, &[(row(20_000 + n % 40, n), 1)]);
    }
    for _ in 0..2 {
        for (id, model) in &models {
            let stored = store.version().arrangement(ArrangementId(*id)).unwrap();
            for at in (1..=newest).rev().step_by(41) {
                let mut found: Vec<Row> = stored
                    .scan(at)
                    .flat_map(|d| rows_of(&d.unwrap().rows))
                    .collect();
                found.sort();
                let expected: Vec<Row> = model.contents(at).into_keys().collect();
                assert_eq!(found, expected, "arrangement {id} as of {at}");
            }
        }
        drop(store);
        store = Store::open(dir.path(), options.clone()).unwrap();
    }
}

/// A merge that leaves nothing writes no run; what was there before stays unknown all the same, also after a restart.
#[test]
fn nothing_left_is_not_nothing_ever() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(32 * 1024);
    options.fail.hold_merges(true);
    let store = Store::open(dir.path(), options.clone()).unwrap();
    let kinds = [1, 2, 3, 6].map(|id| (id, Arrangement::of(id)));
    let left = |store: &Store, id: u64| {
        let version = store.version();
        let a = version.arrangement(ArrangementId(id)).unwrap();
        let rows: usize = a.scan(Epoch::MAX).map(|d| d.unwrap().len()).sum();
        (a.since(), rows, a.rows_estimate())
    };
    let all = || kinds.each_ref().map(|(id, _)| left(&store, *id));
    let is_empty = |(_, _, entries): (Epoch, usize, u64)| entries == 0;
    let mut epochs = 1..=200i64;
    while epochs.start() == &1 || !all().into_iter().all(is_empty) {
        let epoch = epochs.next().expect("a merge leaves nothing");
        let row: Row = (7, Some("seven".into()), None);
        let diff = if epoch % 2 == 1 { 1 } else { -1 };
        let changes = kinds.iter().map(|(id, a)| ArrangementChange {
            arrangement: ArrangementId(*id),
            hashes: a.hashes(std::slice::from_ref(&row)),
            delta: Delta::new(batch(std::slice::from_ref(&row)), vec![diff]),
        });
        let create = kinds.iter().map(|(id, a)| a.desc(*id));
        let commit = Commit {
            epoch,
            changes: changes.collect(),
            create: create.filter(|_| epoch == 1).collect(),
            since: kinds
                .iter()
                .map(|(id, _)| (ArrangementId(*id), epoch))
                .collect(),
            ..Commit::default()
        };
        store.commit(commit).unwrap();
        store.merge().unwrap();
    }
    let before = all();
    drop(store);
    let store = Store::open(dir.path(), options).unwrap();
    for (i, (id, _)) in kinds.iter().enumerate() {
        let version = store.version();
        let a = version.arrangement(ArrangementId(*id)).unwrap();
        assert_eq!(a.since(), before[i].0, "arrangement {id}");
        let odd = a.scan(1).collect::<Result<Vec<_>>>();
        assert!(odd.is_err(), "arrangement {id}: epoch 1 had a row");
    }
}

/// Readers hold versions of all ages while commits and merges go on: what a version answers never changes.
#[test]
fn held_versions_do_not_change() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), options(4096)).unwrap();
    let arrangement = Arrangement::of(1);
    let rows_at = |epoch: i64| -> Vec<Row> {
        (0..50)
            .map(|i| ((epoch * 7 + i) % 300, Some(format!("{epoch}")), Some(i)))
            .collect()
    };
    // Keys ever written after `epoch`, and the sum of the newest epochs.
    let expected = |epoch: i64| -> (usize, i64) {
        let mut newest = std::collections::BTreeMap::new();
        for e in 1..=epoch {
            newest.extend(rows_at(e).into_iter().map(|r| (r.0, e)));
        }
        (newest.len(), newest.values().sum())
    };
    let observe = |version: &StoreVersion| -> (usize, i64) {
        let a = version.arrangement(ArrangementId(1)).unwrap();
        let rows: Vec<Row> = a
            .scan(Epoch::MAX)
            .flat_map(|d| rows_of(&d.unwrap().rows))
            .collect();
        let newest = |r: &Row| r.1.as_deref().unwrap().parse::<i64>().unwrap();
        (rows.len(), rows.iter().map(newest).sum())
    };
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut held: Vec<StoreVersion> = Vec::new();
                    let mut reads = 0;
                    while !done.load(std::sync::atomic::Ordering::SeqCst) {
                        let version = store.version();
                        if version.epoch() < 1 {
                            continue;
                        }
                        assert_eq!(observe(&version), expected(version.epoch()));
                        held.push(version);
                        let old = &held[reads * 7 % held.len()];
                        assert_eq!(observe(old), expected(old.epoch()));
                        if held.len() > 20 {
                            held.remove(0);
                        }
                        reads += 1;
                    }
                    reads
                })
            })
            .collect();
        for epoch in 1..=150 {
            let rows = rows_at(epoch);
            let commit = Commit {
                epoch,
                reserved_upper: epoch + 1,
                create: (epoch == 1)
                    .then(|| arrangement.desc(1))
                    .into_iter()
                    .collect(),
                changes: vec![ArrangementChange {
                    arrangement: ArrangementId(1),
                    hashes: arrangement.hashes(&rows),
                    delta: Delta::insert(batch(&rows)),
                }],
                since: vec![(ArrangementId(1), epoch - 3)],
                ..Commit::default()
            };
            store.commit(commit).unwrap();
        }
        done.store(true, std::sync::atomic::Ordering::SeqCst);
        for reader in readers {
            assert!(reader.join().unwrap() > 0);
        }
    });
    assert_eq!(observe(&store.version()), expected(150));
}

#[test]
fn merging_in_the_background() {
    for seed in 30..34 {
        run(seed, 150, 50, 4096, true);
    }
}
