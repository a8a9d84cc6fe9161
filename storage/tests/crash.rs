//! A store that fails at every N-th operation: after reopening it holds exactly the state of the last
//! acknowledged epochs or of those that were being committed, and goes on from there.

mod model;

use model::*;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tidemill_storage::*;

const COMMITS: usize = 22;

/// Runs the workload of `seed` with a failure at operation `fail_at`. False: it passed without one.
fn fails_at(seed: u64, fail_at: u64) -> bool {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions {
        inline_bytes_max: 2000,
        ..StoreOptions::default()
    };
    options.fail.hold_merges(true);
    options.fail.fail_operation(fail_at);
    let mut model = Model::default();
    let mut failed = false;
    let mut done = 0;
    let mut store = match Store::open(dir.path(), options.clone()) {
        Ok(store) => store,
        Err(_) => {
            failed = true;
            options.fail.fail_operation(0);
            Store::open(dir.path(), options.clone()).unwrap()
        }
    };
    while done < COMMITS {
        let group = model.plan_group(&mut rng, 60);
        let after = group.after.clone();
        let mut result = commit(&store, &group).map(|_| ());
        let acknowledged = result.is_ok();
        if acknowledged && group.merge {
            result = store.merge();
        }
        done += 1;
        if result.is_ok() {
            model = after;
            continue;
        }
        assert!(!failed, "it fails once: {result:?}");
        failed = true;
        assert!(
            store.commit(Commit::default()).is_err(),
            "refused after a failure"
        );
        drop(store);
        options.fail.fail_operation(0);
        store = Store::open(dir.path(), options.clone()).unwrap();
        match difference(&store, &after) {
            None => model = after,
            Some(_) if !acknowledged => {
                assert_equal(&store, &model);
                // Ids must not be used again, as in the real catalog.
                model.next_id = after.next_id;
            }
            Some(difference) => panic!("an acknowledged epoch is gone: {difference}"),
        }
    }
    assert_equal(&store, &model);
    assert_reads(&store, &model, &mut rng);
    failed
}

#[test]
fn all_or_nothing_at_every_operation() {
    let seed = 42;
    println!("seed {seed}");
    let mut n = 1;
    while fails_at(seed, n) {
        n += 1;
    }
    println!("{} operations", n - 1);
    assert!(n > 100, "the workload does I/O");
}
