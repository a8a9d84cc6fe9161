//! The data directory from outside: locking, versions, damage, sweeping, pinned files, staged runs, and
//! a process that is killed at each fail point.

mod model;

use std::path::{Path, PathBuf};
use std::process::Command;

use model::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tidemill_storage::*;
use tidemill_zset::{ArrangementId, Delta, Epoch};

fn open(dir: &Path) -> Result<Store> {
    Store::open(dir, StoreOptions::default())
}

/// Everything in segment files, merged only on demand.
fn segments_only() -> StoreOptions {
    let options = StoreOptions {
        inline_bytes_max: 0,
        ..StoreOptions::default()
    };
    options.fail.hold_merges(true);
    options
}

fn segment_files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir.join("segments"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    files.sort();
    files
}

/// Commits `rows` to the `Add` arrangement 3 (keyed by the whole row), creating it in epoch 1; no history is kept.
fn add(store: &Store, epoch: Epoch, rows: &[Row]) -> StoreVersion {
    let a = Arrangement::of(3);
    store
        .commit(Commit {
            epoch,
            reserved_upper: epoch + 1,
            create: (epoch == 1).then(|| a.desc(3)).into_iter().collect(),
            changes: vec![ArrangementChange {
                arrangement: ArrangementId(3),
                hashes: vec![],
                delta: Delta::insert(batch(rows)),
            }],
            since: vec![(ArrangementId(3), epoch)],
            ..Commit::default()
        })
        .unwrap()
}

fn row(k: i64) -> Row {
    (k, Some(format!("row {k}")), Some(k))
}

fn count(version: &StoreVersion) -> usize {
    let a = version.arrangement(ArrangementId(3)).unwrap();
    a.scan(Epoch::MAX).map(|d| d.unwrap().len()).sum()
}

#[test]
fn a_second_opener_is_refused_and_the_first_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    assert!(matches!(open(dir.path()), Err(StoreError::Locked(_))));
    add(&store, 1, &[row(1)]);
    drop(store);
    let store = open(dir.path()).unwrap();
    assert_eq!(count(&store.version()), 1);
}

#[test]
fn a_new_directory_is_empty_and_remembers_its_constants() {
    let dir = tempfile::tempdir().unwrap();
    let inner = dir.path().join("deep/er");
    let options = StoreOptions {
        partitions: 4,
        ..StoreOptions::default()
    };
    let store = Store::open(&inner, options).unwrap();
    assert_eq!(
        (store.partitions(), store.epoch(), store.reserved_upper()),
        (4, None, 0)
    );
    let id = store.directory_id().to_string();
    assert_eq!(id.len(), 36);
    store.reserve(77).unwrap();
    store.reserve(5).unwrap();
    drop(store);
    let store = open(&inner).unwrap();
    assert_eq!((store.partitions(), store.directory_id()), (4, id.as_str()));
    assert_eq!((store.epoch(), store.reserved_upper()), (None, 77));
    let bad = StoreOptions {
        partitions: 3,
        ..StoreOptions::default()
    };
    let error = Store::open(&dir.path().join("other"), bad).unwrap_err();
    assert!(matches!(error, StoreError::Usage(_)), "{error}");
}

#[test]
fn another_version_is_refused_with_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()).unwrap());
    for (position, name) in [(0, "format"), (4, "key hash"), (8, "row codec")] {
        let change = |by: i8| {
            let db = sled::open(dir.path().join("sled")).unwrap();
            let mut value = db.get("f").unwrap().unwrap().to_vec();
            value[position] = value[position].wrapping_add_signed(by);
            db.insert("f", value).unwrap();
            db.flush().unwrap();
        };
        change(1);
        let error = open(dir.path()).unwrap_err();
        assert!(matches!(error, StoreError::Usage(_)), "{error}");
        assert!(error.to_string().contains(name), "{error}");
        change(-1);
    }
    open(dir.path()).unwrap();
}

/// Format and row codec have older versions, whose data is read; the directory then has the new ones.
#[test]
fn an_older_version_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    add(&store, 1, &[row(1)]);
    drop(store);
    let versions = |set: Option<(u8, u8)>| {
        let db = sled::open(dir.path().join("sled")).unwrap();
        let mut value = db.get("f").unwrap().unwrap().to_vec();
        let found = (value[0], value[8]);
        if let Some((format, codec)) = set {
            (value[0], value[8]) = (format, codec);
            db.insert("f", value).unwrap();
            // As a repair leaves it: no sum behind the clock.
            let clock = db.get("k").unwrap().unwrap().to_vec();
            db.insert("k", &clock[..16]).unwrap();
            db.flush().unwrap();
        }
        found
    };
    let newest = versions(Some((1, 1)));
    for _ in 0..2 {
        let store = open(dir.path()).unwrap();
        assert_eq!(count(&store.version()), 1);
    }
    assert_eq!(versions(None), newest);
    assert!(newest.0 > 1 && newest.1 > 1);
}

#[test]
fn wrong_commits_are_refused_and_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    add(&store, 1, &[row(1)]);
    let late = Commit {
        epoch: 1,
        ..Commit::default()
    };
    assert!(matches!(store.commit(late), Err(StoreError::Usage(_))));
    let unknown = Commit {
        epoch: 2,
        changes: vec![ArrangementChange {
            arrangement: ArrangementId(9),
            hashes: vec![],
            delta: Delta::insert(batch(&[row(1)])),
        }],
        ..Commit::default()
    };
    assert!(matches!(store.commit(unknown), Err(StoreError::Usage(_))));
    let twice = Commit {
        epoch: 2,
        create: vec![Arrangement::of(3).desc(3)],
        ..Commit::default()
    };
    assert!(matches!(store.commit(twice), Err(StoreError::Usage(_))));
    add(&store, 2, &[row(2)]);
    assert_eq!(count(&store.version()), 2);
}

#[test]
fn damage_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let rows: Vec<Row> = (0..3000).map(row).collect();
    let store = Store::open(dir.path(), segments_only()).unwrap();
    add(&store, 1, &rows);
    drop(store);
    let file = segment_files(dir.path()).remove(0);
    let name = file.file_name().unwrap().to_str().unwrap().to_string();
    let intact = std::fs::read(&file).unwrap();
    let described = describe_segment(&file).unwrap();
    assert_eq!(
        (described[0].0.id, described[0].1.rows),
        (ArrangementId(3), 3000)
    );
    assert_eq!(described[0].0.schema, schema());

    std::fs::write(&file, &intact[..intact.len() - 1]).unwrap();
    let error = open(dir.path()).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains(&name), "{error}");

    std::fs::remove_file(&file).unwrap();
    let error = open(dir.path()).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    assert!(
        error.to_string().contains(&name) && error.to_string().contains("missing"),
        "{error}"
    );

    // A flipped bit anywhere is found when it is read, or lies where nothing is read.
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut found = 0;
    for _ in 0..40 {
        let mut damaged = intact.clone();
        let at = rng.random_range(16..damaged.len());
        damaged[at] ^= 1 << rng.random_range(0..8);
        std::fs::write(&file, &damaged).unwrap();
        let store = open(dir.path()).unwrap();
        let a = store.version().arrangement(ArrangementId(3)).unwrap();
        let read: Result<Vec<Delta>> = a.scan(Epoch::MAX).collect();
        match read {
            Ok(deltas) => {
                let read: Vec<Row> = deltas.iter().flat_map(|d| rows_of(&d.rows)).collect();
                assert_eq!(read.len(), 3000);
            }
            Err(e) => {
                found += 1;
                assert!(matches!(e, StoreError::Corrupt { .. }), "{e}");
                assert!(e.to_string().contains(&name), "{e}");
            }
        }
    }
    assert!(found > 30, "{found} of 40");
    std::fs::write(&file, &intact).unwrap();
    assert_eq!(count(&open(dir.path()).unwrap().version()), 3000);
}

#[test]
fn opening_sweeps_what_nobody_names_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), segments_only()).unwrap();
    add(&store, 1, &[row(1)]);
    let staged = store
        .stage(
            &Arrangement::of(3).desc(3),
            2,
            vec![ArrangementChange {
                arrangement: ArrangementId(3),
                hashes: vec![],
                delta: Delta::insert(batch(&[row(2)])),
            }],
        )
        .unwrap();
    assert_eq!(segment_files(dir.path()).len(), 2);
    // As after a crash: the destructor of the staged run doesn't run.
    std::mem::forget(staged);
    drop(store);
    std::fs::write(dir.path().join("segments/00000000000000ff.tmp"), b"half").unwrap();
    // What has no name of ours isn't ours: a file that somebody put there, the lost+found of a file system.
    let strays = ["segments/stray.seg", "segments/lost+found"].map(|name| dir.path().join(name));
    std::fs::write(&strays[0], b"").unwrap();
    std::fs::create_dir(&strays[1]).unwrap();
    let store = Store::open(dir.path(), segments_only()).unwrap();
    assert!(strays.iter().all(|path| path.exists()));
    std::fs::remove_file(&strays[0]).unwrap();
    std::fs::remove_dir(&strays[1]).unwrap();
    assert_eq!(segment_files(dir.path()).len(), 1);
    add(&store, 2, &[row(3)]);
    assert_eq!(count(&store.version()), 2);
}

#[test]
fn a_held_version_keeps_its_files() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), segments_only()).unwrap();
    for epoch in 1..=30 {
        add(&store, epoch, &[row(epoch), row(epoch + 1000)]);
    }
    let held = store.version();
    assert_eq!(segment_files(dir.path()).len(), 30);
    store.merge().unwrap();
    assert!(store.stats().segment_files < 16);
    // The inputs of merges are still there, for the version held.
    assert!(segment_files(dir.path()).len() > 30);
    assert_eq!(count(&held), 60);
    drop(held);
    assert_eq!(
        segment_files(dir.path()).len() as u64,
        store.stats().segment_files
    );
    assert_eq!(count(&store.version()), 60);
    // Dropping an arrangement removes its files, and its description.
    store
        .commit(Commit {
            epoch: 31,
            drop: vec![ArrangementId(3)],
            ..Commit::default()
        })
        .unwrap();
    store.merge().unwrap();
    assert_eq!(segment_files(dir.path()).len(), 0);
    drop(store);
    let store = open(dir.path()).unwrap();
    assert!(store.version().arrangements().is_empty());
    assert_eq!(store.stats().runs, 0);
}

#[test]
fn staged_runs_appear_with_their_commit() {
    for inline_bytes_max in [0, 1 << 20] {
        let dir = tempfile::tempdir().unwrap();
        let options = StoreOptions {
            inline_bytes_max,
            ..StoreOptions::default()
        };
        let store = Store::open(dir.path(), options.clone()).unwrap();
        add(&store, 1, &[row(1)]);
        let stage = |rows: &[Row]| {
            let change = ArrangementChange {
                arrangement: ArrangementId(3),
                hashes: vec![],
                delta: Delta::insert(batch(rows)),
            };
            store
                .stage(&Arrangement::of(3).desc(3), 2, vec![change])
                .unwrap()
        };
        let staged = vec![stage(&[row(2), row(3)]), stage(&[row(4)]), stage(&[])];
        assert_eq!(count(&store.version()), 1);
        let unused = stage(&[row(5)]);
        let version = store
            .commit(Commit {
                epoch: 2,
                staged,
                ..Commit::default()
            })
            .unwrap();
        assert_eq!(count(&version), 4);
        drop(unused);
        drop(store);
        let store = Store::open(dir.path(), options).unwrap();
        assert_eq!(count(&store.version()), 4);
        let expected = if inline_bytes_max == 0 { 3 } else { 0 };
        assert_eq!(segment_files(dir.path()).len(), expected);
    }
}

#[test]
fn the_medium_is_told_in_the_right_order() {
    let dir = tempfile::tempdir().unwrap();
    let options = segments_only();
    let store = Store::open(dir.path(), options.clone()).unwrap();
    options.fail.fail_operation(0);
    add(&store, 1, &[row(1)]);
    let transaction = ["sled batch", "sled flush", "sync sled"];
    let segment = [
        "create file",
        "write file",
        "sync file",
        "rename file",
        "sync directory",
    ];
    assert_eq!(
        options.fail.trace(),
        [&segment[..], &transaction, &["mark epoch"]].concat()
    );
    options.fail.fail_operation(0);
    store.reserve(50).unwrap();
    assert_eq!(options.fail.trace(), transaction);
    for epoch in 2..=16 {
        add(&store, epoch, &[row(epoch)]);
    }
    // A merge: its segment, the transaction that names it, the copy of the manifest, and only then the
    // removal of its inputs.
    options.fail.fail_operation(0);
    store.merge().unwrap();
    let copy = ["create file", "write file", "replace file"];
    let removals = vec!["remove file"; 16];
    assert_eq!(
        options.fail.trace(),
        [&segment[..], &transaction, &copy, &removals].concat()
    );
}

#[test]
fn a_lost_sled_is_repaired_from_the_copy() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let many: Vec<Row> = (0..5000).map(row).collect();
    add(&store, 1, &many);
    for epoch in 2..=40 {
        add(&store, epoch, &[row(10_000 + epoch)]);
    }
    drop(store);
    std::fs::write(dir.path().join("sled/db"), vec![0xaa; 100_000]).unwrap();
    repair(dir.path()).unwrap();
    let store = open(dir.path()).unwrap();
    assert_eq!((store.epoch(), count(&store.version())), (Some(40), 5039));
    add(&store, 41, &[row(-1)]);
    drop(store);
    std::fs::remove_dir_all(dir.path().join("sled")).unwrap();
    let error = open(dir.path()).unwrap_err();
    assert!(error.to_string().contains("repair"), "{error}");
    repair(dir.path()).unwrap();
    assert_eq!(count(&open(dir.path()).unwrap().version()), 5040);
    let copy = dir.path().join("manifest.copy");
    let mut bytes = std::fs::read(&copy).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&copy, bytes).unwrap();
    assert_eq!(repair(dir.path()).unwrap(), None, "sled is sound");
    std::fs::write(dir.path().join("sled/db"), vec![0xaa; 100_000]).unwrap();
    assert!(matches!(
        repair(dir.path()),
        Err(StoreError::Corrupt { .. })
    ));
}

/// The last byte that isn't zero.
fn end_of(log: &std::path::Path) -> usize {
    let bytes = std::fs::read(log).unwrap();
    bytes.iter().rposition(|b| *b != 0).unwrap()
}

#[test]
fn a_log_without_its_end_is_refused_and_what_is_left_can_be_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    add(&store, 1, &(0..5000).map(row).collect::<Vec<_>>());
    let log = dir.path().join("sled/db");
    let whole = end_of(&log);
    for epoch in 2..=40 {
        add(&store, epoch, &[row(10_000 + epoch)]);
    }
    // As after a kill: no copy of the manifest is written.
    std::mem::forget(store);
    let kept = tempfile::tempdir().unwrap();
    for damage in ["cut", "flipped", "empty"] {
        let copy = kept.path().join(damage);
        copy_directory(dir.path(), &copy);
        let log = copy.join("sled/db");
        let mut bytes = std::fs::read(&log).unwrap();
        let middle = (whole + end_of(&log)) / 2;
        match damage {
            "cut" => bytes.truncate(middle),
            "flipped" => bytes[middle] ^= 0x10,
            _ => bytes.clear(),
        }
        std::fs::write(&log, bytes).unwrap();
        for _ in 0..2 {
            let error = open(&copy).unwrap_err();
            assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
            assert!(error.to_string().contains("sled/db"), "{error}");
        }
        let plan = plan_repair(&copy).unwrap();
        println!("{damage}: {:?}", plan.sled);
        if damage == "empty" {
            // The copy is that of the first opening, which knows of nothing.
            assert!(plan.copy.is_some());
            continue;
        }
        assert!(matches!(plan.sled, SledState::Cut { committed: 40, .. }));
        assert!(plan.copy.is_none() && plan.missing.is_empty());
        assert_eq!(repair(&copy).unwrap(), None);
        let store = open(&copy).unwrap();
        let epoch = store.epoch().unwrap();
        assert_eq!(Some(epoch), plan.epoch);
        assert!((1..40).contains(&epoch));
        assert_eq!(count(&store.version()), 5000 + epoch as usize - 1);
        let next = store.reserved_upper();
        assert!(next > 40, "no time that was lost comes again");
        add(&store, next, &[row(-1)]);
        drop(store);
        assert_eq!(open(&copy).unwrap().epoch(), Some(next));
    }
}

fn copy_directory(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy_directory(&path, &target),
            false => drop(std::fs::copy(&path, &target).unwrap()),
        }
    }
}

#[test]
fn tombstones_have_nulls_where_values_have_none() {
    use arrow::datatypes::{DataType, Field, Schema};
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), segments_only()).unwrap();
    let desc = ArrangementDesc {
        schema: std::sync::Arc::new(Schema::new(vec![
            Field::new("k", DataType::Int64, false),
            Field::new("t", DataType::Utf8View, false),
            Field::new("f", DataType::Float64, false),
        ])),
        ..Arrangement::of(1).desc(1)
    };
    for epoch in 1..=20 {
        let rows = [row(epoch), (epoch - 1, None, None)];
        let commit = Commit {
            epoch,
            create: (epoch == 1).then(|| desc.clone()).into_iter().collect(),
            changes: vec![ArrangementChange {
                arrangement: ArrangementId(1),
                hashes: vec![],
                delta: Delta::new(batch(&rows), vec![1, -1]),
            }],
            ..Commit::default()
        };
        store.commit(commit).unwrap();
        store.merge().unwrap();
    }
    let a = store.version().arrangement(ArrangementId(1)).unwrap();
    assert!(a.runs() < 10, "merged");
    let left: Vec<Delta> = a.scan(Epoch::MAX).map(|d| d.unwrap()).collect();
    assert_eq!(left.len(), 1);
    assert_eq!(
        (rows_of(&left[0].rows), left[0].schema()),
        (vec![row(20)], desc.schema)
    );
}

#[test]
fn a_small_run_does_not_keep_a_large_file() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), segments_only()).unwrap();
    let big: Vec<Row> = (0..20_000).map(row).collect();
    let change = |id: u64, rows: &[Row]| ArrangementChange {
        arrangement: ArrangementId(id),
        hashes: vec![],
        delta: Delta::insert(batch(rows)),
    };
    let both = Commit {
        epoch: 1,
        create: vec![Arrangement::of(3).desc(3), Arrangement::of(6).desc(6)],
        changes: vec![change(3, &[row(1)]), change(6, &big)],
        ..Commit::default()
    };
    store.commit(both).unwrap();
    assert!(store.stats().segment_bytes > 500_000);
    let drop_big = Commit {
        epoch: 2,
        drop: vec![ArrangementId(6)],
        ..Commit::default()
    };
    store.commit(drop_big).unwrap();
    store.merge().unwrap();
    let stats = store.stats();
    assert!(stats.segment_bytes < 5_000, "{stats:?}");
    assert_eq!(segment_files(dir.path()).len(), 1);
    assert_eq!(count(&store.version()), 1);
}

/// With this variable set, the test below is the process to be killed.
const CHILD: &str = "TIDEMILL_STORAGE_TEST_CHILD";

/// The child: commits epochs of a fixed workload until it is killed, printing each when it is
/// acknowledged.
fn child(dir: &Path, fail: &str) {
    let options = StoreOptions {
        inline_bytes_max: 1000,
        fail: FailPoints::parse(fail).unwrap(),
        ..StoreOptions::default()
    };
    let store = Store::open(dir, options).unwrap();
    let from = store.epoch().unwrap_or(0) + 1;
    for epoch in from..200 {
        let rows: Vec<Row> = (0..1 + epoch % 3 * 20)
            .map(|i| row(epoch * 100 + i))
            .collect();
        add(&store, epoch, &rows);
        println!("acknowledged {epoch}");
        if epoch % 13 == 0 {
            store.merge().unwrap();
        }
    }
}

#[test]
fn a_process_killed_at_a_fail_point_loses_nothing_acknowledged() {
    if let Ok(argument) = std::env::var(CHILD) {
        let (dir, fail) = argument.split_once('|').unwrap();
        return child(Path::new(dir), fail);
    }
    let dir = tempfile::tempdir().unwrap();
    let me = std::env::current_exe().unwrap();
    for fail in [
        "before_transaction:1",
        "segment_synced:3",
        "after_transaction:5",
        "during_merge:1",
        "during_recovery:1",
        "before_transaction:9",
        "during_merge:2",
        "after_transaction:1",
    ] {
        let argument = format!("{}|{fail}", dir.path().display());
        let output = Command::new(&me)
            .args([
                "--exact",
                "a_process_killed_at_a_fail_point_loses_nothing_acknowledged",
            ])
            .arg("--nocapture")
            .env(CHILD, argument)
            .output()
            .unwrap();
        assert!(
            !output.status.success(),
            "{fail}: the child was to be killed"
        );
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let acknowledged = printed
            .lines()
            .filter_map(|l| l.split_once("acknowledged ")?.1.trim().parse::<i64>().ok())
            .max();
        let store = open(dir.path()).unwrap();
        let epoch = store.epoch().unwrap_or(0);
        if let Some(acknowledged) = acknowledged {
            assert!(epoch == acknowledged || epoch == acknowledged + 1, "{fail}");
        }
        if epoch > 0 {
            let expected: i64 = (1..=epoch).map(|e| 1 + e % 3 * 20).sum();
            assert_eq!(count(&store.version()) as i64, expected, "{fail}");
        }
    }
}

/// As a full disk leaves it: sled's snapshot of its index is empty.
#[test]
fn an_unreadable_snapshot_of_sled_is_done_without() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    for epoch in 1..=300 {
        add(&store, epoch, &[row(epoch)]);
    }
    drop(store);
    drop(open(dir.path()).unwrap());
    let sled = std::fs::read_dir(dir.path().join("sled")).unwrap();
    let paths = sled.map(|e| e.unwrap().path());
    let is_snapshot = |p: &PathBuf| {
        p.file_name()
            .unwrap()
            .to_string_lossy()
            .starts_with("snap.")
    };
    let snapshots: Vec<PathBuf> = paths.filter(is_snapshot).collect();
    assert!(!snapshots.is_empty());
    for path in snapshots {
        std::fs::write(path, b"").unwrap();
    }
    let store = open(dir.path()).unwrap();
    assert_eq!((store.epoch(), count(&store.version())), (Some(300), 300));
}

/// A key that changes in ten thousand epochs: neither runs nor files nor sled pile up.
#[test]
fn ten_thousand_epochs_of_one_key() {
    // Nothing here is about the medium, so where there is a file system in memory the syncs cost nothing.
    let memory = Path::new("/dev/shm");
    let dir = match memory.is_dir() {
        true => tempfile::tempdir_in(memory).unwrap(),
        false => tempfile::tempdir().unwrap(),
    };
    let store = open(dir.path()).unwrap();
    let ids = [ArrangementId(3), ArrangementId(6)];
    let descs = ids.map(|id| Arrangement::of(id.0).desc(id.0));
    for epoch in 1..=10_000 {
        let changes = ids.map(|arrangement| {
            let (rows, diffs) = match epoch {
                1 => (vec![row(1)], vec![1]),
                _ => (vec![row(epoch - 1), row(epoch)], vec![-1, 1]),
            };
            ArrangementChange {
                arrangement,
                hashes: vec![],
                delta: Delta::new(batch(&rows), diffs),
            }
        });
        let commit = Commit {
            epoch,
            create: match epoch {
                1 => descs.to_vec(),
                _ => vec![],
            },
            changes: changes.to_vec(),
            since: ids.map(|id| (id, epoch - 1)).to_vec(),
            ..Commit::default()
        };
        store.commit(commit).unwrap();
    }
    store.merge().unwrap();
    let stats = store.stats();
    assert!(stats.inline_runs < 200, "{stats:?}");
    assert!(stats.segment_files < 200, "{stats:?}");
    assert!(stats.segment_bytes < 8 << 20, "{stats:?}");
    assert_eq!(count(&store.version()), 1);
    drop(store);
    let log = std::fs::metadata(dir.path().join("sled/db")).unwrap().len();
    assert!(log < 128 << 20, "{log} bytes");
    let store = open(dir.path()).unwrap();
    assert_eq!((store.epoch(), count(&store.version())), (Some(10_000), 1));
}

/// What was looked at of runs that are gone: else memory would grow with every commit, up to the cache's size.
#[test]
fn blocks_leave_the_cache_with_their_bundle() {
    let dir = tempfile::tempdir().unwrap();
    for options in [segments_only(), StoreOptions::default()] {
        options.fail.hold_merges(true);
        let store = Store::open(dir.path(), options).unwrap();
        let first = store.epoch().unwrap_or(0) + 1;
        for epoch in first..first + 50 {
            add(&store, epoch, &[row(epoch)]);
            assert_eq!(count(&store.version()) as i64, epoch);
        }
        let before = store.stats().cache_bytes;
        store.merge().unwrap();
        assert_eq!(count(&store.version()) as i64, first + 49);
        let after = store.stats().cache_bytes;
        assert!(after * 4 < before, "{before} bytes became {after}");
    }
}
