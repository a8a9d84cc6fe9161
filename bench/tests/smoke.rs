//! Each workload runs, at a tiny scale and without looking at the clock.

use std::process::{Command, Stdio};

fn smoke(workload: &str) {
    let dir =
        std::env::temp_dir().join(format!("tidemill-smoke-{}-{workload}", std::process::id()));
    let output = Command::new(env!("CARGO_BIN_EXE_workloads"))
        .args([workload, "--smoke", "--dir"])
        .arg(&dir)
        .stdin(Stdio::null())
        .output()
        .expect("the program starts");
    let _ = std::fs::remove_dir_all(&dir);
    assert!(
        output.status.success(),
        "{workload}:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn word_count() {
    smoke("wordcount");
}

#[test]
fn bank() {
    smoke("bank");
}

#[test]
fn orders() {
    smoke("orders");
}

#[test]
fn latency() {
    smoke("latency");
}

#[test]
fn load() {
    let workloads = [
        "point",
        "subscribers",
        "views",
        "beside",
        "updates",
        "windows",
        "joins",
        "wide",
        "skew",
    ];
    for workload in workloads {
        smoke(workload);
    }
}

#[test]
fn nexmark() {
    smoke("nexmark");
}

#[test]
fn workers() {
    smoke("workers");
}
