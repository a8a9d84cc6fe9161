//! Incremental = batch: after every epoch the accumulated output of each view equals the SELECT on the
//! accumulated input, with one worker and with two; and so does what a reader finds in the store, when the views
//! are taken down and started again from it, with another number of workers and little memory.
//!
//! `TIDEMILL_SEED` chooses the changes, `TIDEMILL_EPOCHS` how many epochs there are, `TIDEMILL_QUERY` one query.

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use support::data::{self, Row, Tables};
use support::front::{self, Contents};
use support::queries::{FAILING, QUERIES};
use support::running::{Multiset, Running, View, stored};
use tidemill_storage::{Store, StoreOptions};
use tidemill_zset::{CollectionId, Delta};

/// Rows per table above which there are more deletions than insertions.
const ROWS_AIM: usize = 25;

#[test]
fn views_equal_selects_at_every_epoch() {
    let mut input = Input::new(8);
    let views = views(&input.tables, QUERIES);
    let mut running = [1, 2].map(|workers| Running::start(workers, &views, None, 1 << 30));
    for epoch in 1..=input.epochs {
        for (collection, delta) in input.changes() {
            running
                .iter()
                .for_each(|r| r.feed(collection, delta.clone()));
        }
        running.iter_mut().for_each(|r| r.finish(epoch));
        let wanted = input.selects(&views);
        for r in &running {
            let what = format!("epoch {epoch}, {} workers", r.workers);
            for (view, errors) in views.iter().zip(&r.errors) {
                assert!(errors.is_empty(), "{what}: {}: {errors:?}", view.name);
            }
            compare(&views, &wanted, &r.outputs, &what);
        }
    }
}

#[test]
fn views_go_on_from_their_store() {
    let mut input = Input::new(8);
    let views = views(&input.tables, QUERIES);
    let folder = tempfile::tempdir().expect("a folder");
    let open = || Arc::new(Store::open(folder.path(), StoreOptions::default()).expect("a store"));
    let mut store = open();
    // So little memory that operators drop what they know of keys after each commit.
    let start =
        |workers, store: &Arc<Store>| Running::start(workers, &views, Some(store.clone()), 1);
    let mut running = start(1, &store);
    for epoch in 1..=input.epochs {
        if epoch % 3 == 0 {
            drop(running);
            drop(store);
            store = open();
            running = start(1 + (epoch / 3 % 3) as usize, &store);
        }
        for (collection, delta) in input.changes() {
            running.feed(collection, delta);
        }
        running.finish(epoch);
        let have: Vec<Multiset> = views
            .iter()
            .enumerate()
            .map(|(i, v)| stored(&store, v, i))
            .collect();
        let what = format!("epoch {epoch}, stored, {} workers", running.workers);
        compare(&views, &input.selects(&views), &have, &what);
    }
}

fn views(tables: &Tables, queries: &[(&str, &'static str, &str)]) -> Vec<View> {
    let only = std::env::var("TIDEMILL_QUERY").ok();
    let chosen = queries
        .iter()
        .filter(|(_, name, _)| only.as_ref().is_none_or(|o| o == name));
    let compile = |(_, name, sql): &(&str, &'static str, &str)| {
        let bound = front::bind(tables, sql).unwrap_or_else(|e| panic!("{name}: {e}"));
        let view = front::view(tables, &bound).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        View {
            name,
            bound,
            plan: Arc::new(view.plan),
        }
    };
    chosen.map(compile).collect()
}

/// The tables, and the random changes of their contents.
struct Input {
    tables: Tables,
    rows: BTreeMap<CollectionId, Vec<Row>>,
    random: ChaCha8Rng,
    epochs: i64,
}

impl Input {
    fn new(epochs: u64) -> Input {
        let seed = front::setting("TIDEMILL_SEED", 11);
        let epochs = front::setting("TIDEMILL_EPOCHS", epochs);
        println!("TIDEMILL_SEED={seed} TIDEMILL_EPOCHS={epochs}");
        let tables = Tables::new();
        Input {
            rows: tables.relations.iter().map(|r| (r.id, vec![])).collect(),
            tables,
            random: ChaCha8Rng::seed_from_u64(seed),
            epochs: epochs as i64,
        }
    }

    /// The changes of one epoch, in pieces.
    fn changes(&mut self) -> Vec<(CollectionId, Delta)> {
        let mut out = vec![];
        for (id, held) in &mut self.rows {
            let schema = self.tables.schema(*id);
            let changes = changes(&schema, held, &mut self.random);
            let cut = self.random.random_range(0..=changes.len());
            let (a, b) = changes.split_at(cut);
            for part in [a, b].into_iter().filter(|part| !part.is_empty()) {
                let rows: Vec<Row> = part.iter().map(|(row, _)| row.clone()).collect();
                let diffs: Vec<i64> = part.iter().map(|(_, n)| *n).collect();
                out.push((*id, Delta::new(data::batch(&schema, &rows), diffs)));
            }
        }
        out
    }

    /// What each view's SELECT gives now, if none fails.
    fn selects(&self, views: &[View]) -> Vec<Vec<String>> {
        let all = self.try_selects(views).into_iter().zip(views);
        all.map(|(rows, v)| rows.unwrap_or_else(|e| panic!("{}: {e}", v.name)))
            .collect()
    }

    fn try_selects(&self, views: &[View]) -> Vec<Result<Vec<String>, String>> {
        let batch = |(id, rows): (&CollectionId, &Vec<Row>)| {
            (*id, data::batch(&self.tables.schema(*id), rows))
        };
        let contents: Contents = self.rows.iter().map(batch).collect();
        let select = |v: &View| front::select(&self.tables, &v.bound, &contents);
        views.iter().map(select).collect()
    }
}

/// A view has errors exactly while its SELECT fails, and is whole again afterwards.
#[test]
fn errors_come_and_go_with_their_rows() {
    let mut input = Input::new(40);
    let views = views(&input.tables, FAILING);
    let mut running = [1, 2].map(|workers| Running::start(workers, &views, None, 1 << 30));
    let (mut failed, mut healed) = (vec![false; views.len()], 0);
    for epoch in 1..=input.epochs {
        for (collection, delta) in input.changes() {
            running
                .iter()
                .for_each(|r| r.feed(collection, delta.clone()));
        }
        running.iter_mut().for_each(|r| r.finish(epoch));
        for (i, wanted) in input.try_selects(&views).into_iter().enumerate() {
            let Ok(wanted) = wanted else {
                for r in &running {
                    let negative = r.errors[i].values().any(|n| *n < 0);
                    assert!(
                        !r.errors[i].is_empty() && !negative,
                        "epoch {epoch}: {} has no error",
                        views[i].name
                    );
                }
                failed[i] = true;
                continue;
            };
            for r in &running {
                let what = format!("epoch {epoch}, {} workers", r.workers);
                assert!(
                    r.errors[i].is_empty(),
                    "{what}: {}: {:?}",
                    views[i].name,
                    r.errors[i]
                );
                compare(
                    &views[i..=i],
                    std::slice::from_ref(&wanted),
                    &r.outputs[i..=i],
                    &what,
                );
            }
            healed += usize::from(std::mem::take(&mut failed[i]));
        }
    }
    assert!(healed > 0, "some view fails and heals");
}

/// Random changes of one table, applied to `held`: insertions, several of one row, deletions, a row that comes and
/// goes within the epoch, and many updates of one row.
fn changes(
    schema: &arrow::datatypes::SchemaRef,
    held: &mut Vec<Row>,
    random: &mut ChaCha8Rng,
) -> Vec<(Row, i64)> {
    let mut out: Vec<(Row, i64)> = vec![];
    for _ in 0..random.random_range(0..8) {
        let shrink = held.len() > random.random_range(0..2 * ROWS_AIM);
        match random.random_range(0..10) {
            _ if shrink && !held.is_empty() => {
                let row = held.swap_remove(random.random_range(0..held.len()));
                out.push((row, -1));
            }
            0 => {
                let row = data::row(schema, random);
                let n = random.random_range(2..4);
                held.extend((0..n).map(|_| row.clone()));
                out.push((row, n));
            }
            1 => {
                let row = data::row(schema, random);
                out.push((row.clone(), 1));
                out.push((row, -1));
            }
            2 if !held.is_empty() => {
                // Only the second half of the columns changes: the leading ones are keys of most queries.
                let at = random.random_range(0..held.len());
                for _ in 0..5 {
                    let mut row = held[at].clone();
                    let fresh = data::row(schema, random);
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
                let row = data::row(schema, random);
                held.push(row.clone());
                out.push((row, 1));
            }
        }
    }
    if random.random_bool(0.05) {
        out.extend(held.drain(..).map(|row| (row, -1)));
    }
    out
}

fn compare(views: &[View], wanted: &[Vec<String>], have: &[Multiset], what: &str) {
    let mut failures = vec![];
    for ((view, wanted), have) in views.iter().zip(wanted).zip(have) {
        let negative: Vec<_> = have.iter().filter(|(_, n)| **n < 0).take(3).collect();
        let rows = have
            .iter()
            .flat_map(|(row, n)| std::iter::repeat_n(row, (*n).max(0) as usize));
        if rows.eq(wanted) && negative.is_empty() {
            continue;
        }
        let missing: Vec<_> = wanted
            .iter()
            .filter(|w| !have.contains_key(*w))
            .take(3)
            .collect();
        let further: Vec<_> = have
            .keys()
            .filter(|h| !wanted.contains(h))
            .take(3)
            .collect();
        let counts = (have.values().sum::<i64>(), wanted.len());
        failures.push(format!(
            "{}: {counts:?} rows; negative {negative:?}\nhave   {further:?}\nwanted {missing:?}\n{}",
            view.name,
            view.plan.explain()
        ));
    }
    assert!(
        failures.is_empty(),
        "{what}: {} failures\n{}",
        failures.len(),
        failures.join("\n---\n")
    );
}
