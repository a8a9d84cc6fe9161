//! Random commits against the model: every way to read, at every readable epoch, before and after
//! merges and reopenings.

mod model;

use model::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tidemill_storage::*;

fn options(inline_bytes_max: usize) -> StoreOptions {
    StoreOptions {
        inline_bytes_max,
        cache_bytes: 1 << 20,
        ..StoreOptions::default()
    }
}

fn run(seed: u64, commits: usize, rows_max: usize, inline_bytes_max: usize, background: bool) {
    println!("seed {seed}");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let options = options(inline_bytes_max);
    options.fail.hold_merges(!background);
    let mut store = Store::open(dir.path(), options.clone()).unwrap();
    let mut model = Model::default();
    for _ in 0..commits {
        let plan = model.plan(&mut rng, rows_max);
        let shapes = shapes(&model, &plan);
        commit(&store, &plan, &shapes).unwrap();
        model.apply(&plan);
        if plan.merge {
            store.merge().unwrap();
        }
        if rng.random_bool(0.2) {
            assert_equal(&store, &model);
            assert_reads(&store, &model, &mut rng);
        }
        if rng.random_bool(0.05) {
            drop(store);
            store = Store::open(dir.path(), options.clone()).unwrap();
            assert_equal(&store, &model);
            assert_reads(&store, &model, &mut rng);
        }
    }
    store.merge().unwrap();
    assert_equal(&store, &model);
    assert_reads(&store, &model, &mut rng);
    let stats = store.stats();
    assert!(stats.merges > 0, "the test is to merge: {stats:?}");
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

#[test]
fn blocks_and_segments_of_all_sizes() {
    for seed in 20..23 {
        run(seed, 60, 9000, 16 * 1024, false);
    }
}

#[test]
fn merging_in_the_background() {
    for seed in 30..34 {
        run(seed, 150, 50, 4096, true);
    }
}
