//! A compiled plan means what its query means: each query of the list, on random tables, gives the same rows
//! as a SELECT and as the plain meaning of its dataflow's nodes.

mod support;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use support::data::{self, Tables};
use support::front::{self, Contents};
use support::queries::QUERIES;
use support::reference;

#[test]
fn plans_mean_what_queries_mean() {
    let seed = front::setting("TIDEMILL_SEED", 7);
    println!("TIDEMILL_SEED={seed}");
    let only = std::env::var("TIDEMILL_QUERY").ok();
    let tables = Tables::new();
    let mut failures = vec![];
    for (_, name, sql) in QUERIES {
        if only.as_ref().is_some_and(|o| o != name) {
            continue;
        }
        for round in 0..4 {
            if let Err(e) = check(&tables, sql, seed, round) {
                failures.push(format!("{name}, round {round}: {e}"));
                break;
            }
        }
    }
    assert!(
        failures.is_empty(),
        "{} failures\n{}",
        failures.len(),
        failures.join("\n---\n")
    );
}

fn check(tables: &Tables, sql: &str, seed: u64, round: u64) -> Result<(), String> {
    let contents = contents(tables, seed + round, 20 * round);
    let bound = front::bind(tables, sql)?;
    let view = front::view(tables, &bound).map_err(|e| format!("{e:?}"))?;
    let wanted = front::select(tables, &bound, &contents)?;
    let explain = format!("{}\n{}", view.logical.display_indent(), view.plan.explain());
    let evaluate = || {
        data::texts(&[reference::evaluate(&view.plan.root, &|id| {
            contents[&id].clone()
        })])
    };
    let have = std::panic::catch_unwind(std::panic::AssertUnwindSafe(evaluate))
        .map_err(|_| format!("panicked\n{explain}"))?;
    if have == wanted {
        return Ok(());
    }
    let missing: Vec<_> = wanted
        .iter()
        .filter(|r| !have.contains(r))
        .take(3)
        .collect();
    let further: Vec<_> = have
        .iter()
        .filter(|r| !wanted.contains(r))
        .take(3)
        .collect();
    Err(format!(
        "{} rows, wanted {}\nhave   {further:?}\nwanted {missing:?}\n{explain}",
        have.len(),
        wanted.len()
    ))
}

/// Random rows, at most `rows_max` per table.
fn contents(tables: &Tables, seed: u64, rows_max: u64) -> Contents {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut one = |schema: &arrow::datatypes::SchemaRef| {
        let n = random.random_range(0..=rows_max);
        let rows: Vec<_> = (0..n).map(|_| data::row(schema, &mut random)).collect();
        data::batch(schema, &rows)
    };
    tables
        .relations
        .iter()
        .map(|r| (r.id, one(&r.columns)))
        .collect()
}
