//! Every `.slt` file in every world, each a test of its own named `world::file`.
//!
//! By default the restarting world restarts a few times per file and the views made before the data come
//! one row per epoch; `TIDEMILL_SLT=all` plays every world and restarts after every step.

use std::path::{Path, PathBuf};

use sqllogictest::harness::{Arguments, Failed, Trial, run};
use tidemill_sqllogictest::run::play;
use tidemill_sqllogictest::world::WORLDS;

/// Restarts per file by default.
const RESTARTS: usize = 3;

fn files(dir: &Path, out: &mut Vec<PathBuf>) {
    for path in std::fs::read_dir(dir)
        .expect("slt/ is there")
        .flatten()
        .map(|e| e.path())
    {
        if path.is_dir() {
            files(&path, out);
        } else if path.extension().is_some_and(|e| e == "slt") {
            out.push(path);
        }
    }
}

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("slt");
    let all = std::env::var("TIDEMILL_SLT").is_ok_and(|v| v == "all");
    let mut paths = Vec::new();
    files(&root, &mut paths);
    paths.sort();
    let mut trials = Vec::new();
    for world in WORLDS.iter().filter(|w| all || w.name != "view-before") {
        for path in &paths {
            let name = path
                .strip_prefix(&root)
                .expect("found below the root")
                .with_extension("");
            let path = path.clone();
            trials.push(Trial::test(
                format!("{}::{}", world.name, name.display()),
                move || {
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build()?;
                    let restarts = if all { usize::MAX / 2 } else { RESTARTS };
                    runtime
                        .block_on(play(&path, world, restarts))
                        .map_err(|e| Failed::from(format!("{e:#}")))
                },
            ));
        }
    }
    run(&Arguments::from_args(), trials).exit();
}
