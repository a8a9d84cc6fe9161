//! Incremental = batch: after every epoch the accumulated output of each view equals the SELECT on the
//! accumulated input, with one worker and with two.
//!
//! `TIDEMILL_SEED` chooses the changes, `TIDEMILL_EPOCHS` how many epochs there are, `TIDEMILL_QUERY` one query.

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Receiver;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use support::data::{self, Row, Tables};
use support::front::{self, Bound, Contents};
use support::queries::QUERIES;
use tidemill_dataflow::plan::DataflowPlan;
use tidemill_dataflow::runtime::{
    Command, DataflowId, Event, Install, Runtime, RuntimeOptions, Scope,
};
use tidemill_dataflow::state::StateHandle;
use tidemill_planner::error::row_error;
use tidemill_storage::ArrangementDesc;
use tidemill_zset::{ArrangementId, CollectionId, Delta};

/// How long an epoch may take before the test gives up.
const PATIENCE: Duration = Duration::from_secs(120);

/// Rows per table above which there are more deletions than insertions.
const ROWS_AIM: usize = 25;

struct View {
    name: &'static str,
    bound: Bound,
    plan: Arc<DataflowPlan>,
}

/// The views on a runtime of their own, and what they have given so far.
struct Running {
    workers: usize,
    runtime: Runtime,
    events: Receiver<Event>,
    outputs: Vec<BTreeMap<String, i64>>,
}

#[test]
fn views_equal_selects_at_every_epoch() {
    let seed = front::setting("TIDEMILL_SEED", 11);
    let epochs = front::setting("TIDEMILL_EPOCHS", 8);
    println!("TIDEMILL_SEED={seed} TIDEMILL_EPOCHS={epochs}");
    let only = std::env::var("TIDEMILL_QUERY").ok();
    let tables = Tables::new();
    let views: Vec<View> = QUERIES
        .iter()
        .filter(|(_, name, _)| only.as_ref().is_none_or(|o| o == name))
        .map(|(_, name, sql)| {
            let bound = front::bind(&tables, sql).unwrap_or_else(|e| panic!("{name}: {e}"));
            let view = front::view(&tables, &bound).unwrap_or_else(|e| panic!("{name}: {e}"));
            View {
                name,
                bound,
                plan: Arc::new(view.plan),
            }
        })
        .collect();
    let mut running: Vec<Running> = [1, 2].map(|workers| Running::start(workers, &views)).into();
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut rows: BTreeMap<CollectionId, Vec<Row>> =
        tables.relations.iter().map(|r| (r.id, vec![])).collect();
    for epoch in 1..=epochs as i64 {
        for r in &tables.relations {
            let held = rows.get_mut(&r.id).expect("every table has rows");
            for delta in changes(&tables, r.id, held, &mut random) {
                for running in &running {
                    running.runtime.send(Command::Feed {
                        scope: Scope::Live,
                        collection: r.id,
                        delta: delta.clone(),
                    });
                }
            }
        }
        for running in &mut running {
            running.finish(epoch, &views);
        }
        let contents: Contents = rows
            .iter()
            .map(|(id, rows)| (*id, data::batch(&tables.schema(*id), rows)))
            .collect();
        compare(&tables, &views, &running, &contents, epoch);
    }
}

impl Running {
    fn start(workers: usize, views: &[View]) -> Running {
        let (sender, events) = crossbeam_channel::unbounded();
        let options = RuntimeOptions {
            workers,
            partitions: 16,
            state_bytes_max: 1 << 30,
            error_mapper: row_error,
        };
        let runtime = Runtime::start(options, sender).expect("threads can be started");
        for (i, view) in views.iter().enumerate() {
            let states = view
                .plan
                .arrangements()
                .into_iter()
                .enumerate()
                .map(|(k, spec)| StateHandle {
                    desc: ArrangementDesc {
                        id: ArrangementId((i * 100 + k) as u64),
                        kind: spec.kind,
                        schema: spec.schema,
                        key_columns: spec.key_columns,
                    },
                    reader: None,
                });
            runtime.send(Command::Install(Arc::new(Install {
                id: DataflowId(i as u64),
                plan: view.plan.clone(),
                states: states.collect(),
                collection: None,
                output_state: None,
                fresh: true,
                scope: Scope::Live,
                demand: true,
            })));
        }
        Running {
            workers,
            runtime,
            events,
            outputs: vec![BTreeMap::new(); views.len()],
        }
    }

    /// Ends the epoch and takes in what came out.
    fn finish(&mut self, epoch: i64, views: &[View]) {
        self.runtime.send(Command::Finish {
            scope: Scope::Live,
            epoch,
        });
        for _ in 0..self.workers {
            let event = self.events.recv_timeout(PATIENCE).expect("the epoch ends");
            let results = match event {
                Event::Done {
                    epoch: done,
                    results,
                    ..
                } => {
                    assert_eq!(done, epoch);
                    results
                }
                Event::Failed { worker, message } => {
                    panic!("worker {worker} of {}: {message}", self.workers)
                }
            };
            for result in results {
                let i = result.dataflow.0 as usize;
                assert!(
                    result.errors.iter().all(Delta::is_empty),
                    "{}: {:?}",
                    views[i].name,
                    result.errors
                );
                for delta in result.rows {
                    for row in 0..delta.len() {
                        let text = data::texts(&[delta.rows.slice(row, 1)]).remove(0);
                        *self.outputs[i].entry(text).or_default() += delta.diffs.get(row);
                    }
                }
                self.outputs[i].retain(|_, n| *n != 0);
            }
        }
    }
}

/// Random changes of one table, applied to `held`: insertions, several of one row, deletions, a row that comes and
/// goes within the epoch, and many updates of one row.
fn changes(
    tables: &Tables,
    id: CollectionId,
    held: &mut Vec<Row>,
    random: &mut ChaCha8Rng,
) -> Vec<Delta> {
    let schema = tables.schema(id);
    let mut out: Vec<(Row, i64)> = vec![];
    for _ in 0..random.random_range(0..8) {
        let shrink = held.len() > random.random_range(0..2 * ROWS_AIM);
        match random.random_range(0..10) {
            _ if shrink && !held.is_empty() => {
                let row = held.swap_remove(random.random_range(0..held.len()));
                out.push((row, -1));
            }
            0 => {
                let row = data::row(&schema, random);
                let n = random.random_range(2..4);
                held.extend((0..n).map(|_| row.clone()));
                out.push((row, n));
            }
            1 => {
                let row = data::row(&schema, random);
                out.push((row.clone(), 1));
                out.push((row, -1));
            }
            2 if !held.is_empty() => {
                // Only the second half of the columns changes: the leading ones are keys of most queries.
                let at = random.random_range(0..held.len());
                for _ in 0..5 {
                    let mut row = held[at].clone();
                    let fresh = data::row(&schema, random);
                    let from = row.len() / 2;
                    row[from..].clone_from_slice(&fresh[from..]);
                    out.push((std::mem::replace(&mut held[at], row.clone()), -1));
                    out.push((row, 1));
                }
            }
            3 if !held.is_empty() => {
                let row = held[random.random_range(0..held.len())].clone();
                held.push(row.clone());
                out.push((row, 1));
            }
            _ => {
                let row = data::row(&schema, random);
                held.push(row.clone());
                out.push((row, 1));
            }
        }
    }
    if random.random_bool(0.05) {
        out.extend(held.drain(..).map(|row| (row, -1)));
    }
    let cut = random.random_range(0..=out.len());
    let (a, b) = out.split_at(cut);
    [a, b]
        .into_iter()
        .filter(|part| !part.is_empty())
        .map(|part| {
            let rows: Vec<Row> = part.iter().map(|(row, _)| row.clone()).collect();
            Delta::new(
                data::batch(&schema, &rows),
                part.iter().map(|(_, n)| *n).collect::<Vec<_>>(),
            )
        })
        .collect()
}

fn compare(tables: &Tables, views: &[View], running: &[Running], contents: &Contents, epoch: i64) {
    let mut failures = vec![];
    for (i, view) in views.iter().enumerate() {
        let wanted = front::select(tables, &view.bound, contents);
        let wanted = wanted.unwrap_or_else(|e| panic!("{} at epoch {epoch}: {e}", view.name));
        for r in running {
            let mut have = vec![];
            for (row, n) in &r.outputs[i] {
                have.extend(std::iter::repeat_n(row.clone(), (*n).max(0) as usize));
            }
            let negative: Vec<_> = r.outputs[i]
                .iter()
                .filter(|(_, n)| **n < 0)
                .take(3)
                .collect();
            if have == wanted && negative.is_empty() {
                continue;
            }
            let missing: Vec<_> = wanted
                .iter()
                .filter(|w| !have.contains(w))
                .take(3)
                .collect();
            let further: Vec<_> = have
                .iter()
                .filter(|h| !wanted.contains(h))
                .take(3)
                .collect();
            failures.push(format!(
                "{} with {} workers: {} rows, wanted {}; negative {negative:?}\nhave   {further:?}\nwanted {missing:?}\n{}",
                view.name,
                r.workers,
                have.len(),
                wanted.len(),
                view.plan.explain()
            ));
        }
    }
    assert!(
        failures.is_empty(),
        "epoch {epoch}: {} failures\n{}",
        failures.len(),
        failures.join("\n---\n")
    );
}
