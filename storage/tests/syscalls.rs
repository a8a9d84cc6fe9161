//! What a commit asks of the kernel, and in which order, seen by strace (which `./test` installs): the bytes of a
//! segment, its name, the directory, then sled's log, and fdatasync of that log before the commit returns.

mod model;

use std::path::Path;
use std::process::Command;

use model::*;
use tidemill_storage::*;
use tidemill_zset::{ArrangementId, Delta};

/// With this variable set, the test below is the process to be traced.
const CHILD: &str = "TIDEMILL_STORAGE_TEST_TRACED";
const TEST: &str = "a_commit_is_on_the_medium_before_it_returns";

/// Leaves a name in the trace.
fn mark(name: &str) {
    assert!(std::fs::File::open(format!("/mark-{name}")).is_err());
}

/// The child: a small epoch, which goes into sled, and a large one, which becomes a segment.
fn child(dir: &Path) {
    let store = Store::open(dir, StoreOptions::default()).unwrap();
    for (epoch, rows) in [(1, 1), (2, 20_000)] {
        let rows: Vec<Row> = (0..rows).map(|k| (k, None, Some(k))).collect();
        let commit = Commit {
            epoch,
            create: (epoch == 1)
                .then(|| Arrangement::of(3).desc(3))
                .into_iter()
                .collect(),
            changes: vec![ArrangementChange {
                arrangement: ArrangementId(3),
                hashes: vec![],
                delta: Delta::insert(batch(&rows)),
            }],
            ..Commit::default()
        };
        mark(&format!("begin-{epoch}"));
        store.commit(commit).unwrap();
        mark(&format!("end-{epoch}"));
    }
}

/// The lines of the trace between the marks of an epoch.
fn during(trace: &str, epoch: i64) -> Vec<&str> {
    trace
        .lines()
        .skip_while(|l| !l.contains(&format!("/mark-begin-{epoch}")))
        .take_while(|l| !l.contains(&format!("/mark-end-{epoch}")))
        .collect()
}

/// Where the only line, or the first or last of several, stands that holds all of `parts`.
fn at(lines: &[&str], parts: &[&str], last: bool) -> usize {
    let holds = |l: &&str| parts.iter().all(|p| l.contains(p));
    let found = match last {
        false => lines.iter().position(holds),
        true => lines.iter().rposition(holds),
    };
    found.unwrap_or_else(|| panic!("no {parts:?} in\n{}", lines.join("\n")))
}

#[test]
fn a_commit_is_on_the_medium_before_it_returns() {
    if let Ok(dir) = std::env::var(CHILD) {
        return child(Path::new(&dir));
    }
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("trace");
    let output = Command::new("strace")
        .args(["-f", "-y", "-s", "0", "-o"])
        .arg(&trace)
        .args(["-e", "trace=openat,write,pwrite64,rename,fsync,fdatasync"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture"])
        .env(CHILD, dir.path().join("data"))
        .output()
        .expect("strace is installed");
    assert!(output.status.success(), "{output:?}");
    let trace = std::fs::read_to_string(trace).unwrap();

    let small = during(&trace, 1);
    let logged = at(&small, &["pwrite64(", "/sled/db>"], true);
    assert!(logged < at(&small, &["fdatasync(", "/sled/db>"], false));
    assert!(
        !small.iter().any(|l| l.contains("/segments/")),
        "no segment"
    );

    let large = during(&trace, 2);
    let order = [
        at(&large, &["write(", ".tmp>"], true),
        at(&large, &["fsync(", ".tmp>"], false),
        at(&large, &["rename(", ".seg"], false),
        at(&large, &["fsync(", "/segments>"], false),
        at(&large, &["pwrite64(", "/sled/db>"], false),
        at(&large, &["pwrite64(", "/sled/db>"], true),
        at(&large, &["fdatasync(", "/sled/db>"], false),
    ];
    assert!(order.is_sorted(), "{order:?} in\n{}", large.join("\n"));
}
