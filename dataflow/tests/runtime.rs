//! The runtime with one worker and several: equal results, views on views, hidden dataflows that join, drops, failures.

#[allow(dead_code)]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use crossbeam_channel::Receiver;
use datafusion_common::ScalarValue;
use datafusion_expr::Operator as Binary;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::{BinaryExpr, Column, Literal};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use support::{MemoryState, Multiset, add, add_rows, map_error};
use tidemill_dataflow::plan::{
    Aggregate, AggregateFunction, DataflowPlan, Node, Op, OutputStorage,
};
use tidemill_dataflow::runtime::*;
use tidemill_storage::{ArrangementDesc, ArrangementKind};
use tidemill_zset::{ArrangementId, CollectionId, Delta};

const WAIT: Duration = Duration::from_secs(60);

fn schema(names: &[&str]) -> SchemaRef {
    let field = |n: &&str| Field::new(*n, DataType::Int64, true);
    Arc::new(Schema::new(names.iter().map(field).collect::<Vec<_>>()))
}

fn input(collection: u64, names: &[&str]) -> Node {
    Node {
        op: Op::Input {
            collection: CollectionId(collection),
            columns: (0..names.len()).collect(),
        },
        inputs: vec![],
        schema: schema(names),
        append_only: false,
    }
}

/// SELECT key, count(*), sum(value) FROM collection GROUP BY key
fn grouped(collection: u64) -> Node {
    let int = |n: &str| Field::new(n, DataType::Int64, true);
    let aggregate = |function, column, name| Aggregate {
        function,
        column,
        second: None,
        filter: None,
        output: int(name),
    };
    Node {
        op: Op::Aggregate {
            keys: vec![0],
            aggregates: vec![
                aggregate(AggregateFunction::CountStar, None, "n"),
                aggregate(AggregateFunction::Sum, Some(1), "s"),
            ],
        },
        inputs: vec![input(collection, &["k", "v"])],
        schema: schema(&["k", "n", "s"]),
        append_only: false,
    }
}

/// SELECT count(*), sum(n) FROM grouped
fn totals(collection: u64) -> Node {
    let mut node = grouped(collection);
    node.inputs = vec![input(collection, &["k", "n", "s"])];
    if let Op::Aggregate { keys, .. } = &mut node.op {
        keys.clear();
    }
    node.schema = schema(&["n", "s"]);
    node
}

/// SELECT k, v / (k - 3) FROM collection WHERE v > 0
fn mapped(collection: u64) -> Node {
    let column = |i: usize| -> Arc<dyn PhysicalExpr> { Arc::new(Column::new("c", i)) };
    let number =
        |n: i64| -> Arc<dyn PhysicalExpr> { Arc::new(Literal::new(ScalarValue::Int64(Some(n)))) };
    let binary = |a, op, b| -> Arc<dyn PhysicalExpr> { Arc::new(BinaryExpr::new(a, op, b)) };
    let less = binary(column(0), Binary::Minus, number(3));
    Node {
        op: Op::Map {
            predicate: Some(binary(column(1), Binary::Gt, number(0))),
            projection: Some(vec![column(0), binary(column(1), Binary::Divide, less)]),
        },
        inputs: vec![input(collection, &["k", "v"])],
        schema: schema(&["k", "q"]),
        append_only: false,
    }
}

fn install(id: u64, root: Node, collection: u64, scope: Scope, demand: bool) -> Command {
    let plan = DataflowPlan { root };
    let states = plan.arrangements();
    let states = states
        .iter()
        .enumerate()
        .map(|(i, s)| MemoryState::new(id * 100 + i as u64, s).handle());
    let own = matches!(plan.output_storage(), OutputStorage::Own);
    let output = ArrangementDesc {
        id: ArrangementId(id * 100 + 99),
        kind: ArrangementKind::Add,
        schema: plan.root.schema.clone(),
        key_columns: plan.root.schema.fields().len(),
    };
    Command::Install(Arc::new(Install {
        id: DataflowId(id),
        states: states.collect(),
        collection: Some(CollectionId(collection)),
        output_state: own.then(|| MemoryState::of(output).handle()),
        fresh: true,
        scope,
        demand,
        plan: Arc::new(plan),
    }))
}

fn batch(rows: &[(i64, i64)]) -> RecordBatch {
    let keys: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.0)));
    let values: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.1)));
    RecordBatch::try_new(schema(&["k", "v"]), vec![keys, values]).unwrap()
}

/// What the dataflows have given so far.
#[derive(Default, Debug, PartialEq, Clone)]
struct World {
    rows: BTreeMap<DataflowId, Multiset>,
    errors: BTreeMap<DataflowId, Multiset>,
    stored: BTreeMap<DataflowId, Multiset>,
}

struct Rig {
    runtime: Runtime,
    events: Receiver<Event>,
    workers: usize,
    world: World,
    /// Done reports that came while another was waited for.
    early: Vec<Event>,
}

impl Rig {
    fn new(workers: usize) -> Rig {
        let (sender, events) = crossbeam_channel::unbounded();
        let options = RuntimeOptions {
            workers,
            partitions: 16,
            state_bytes_max: usize::MAX,
            error_mapper: map_error,
        };
        Rig {
            runtime: Runtime::start(options, sender).unwrap(),
            events,
            workers,
            world: World::default(),
            early: Vec::new(),
        }
    }

    fn feed(&self, scope: Scope, collection: u64, rows: &[(i64, i64)], diffs: Vec<i64>) {
        self.feed_batch(scope, collection, Delta::new(batch(rows), diffs));
    }

    /// Rows of a view as [`grouped`], the sum always zero.
    fn feed_groups(&self, scope: Scope, collection: u64, rows: &[(i64, i64)], diffs: Vec<i64>) {
        let mut columns = batch(rows).columns().to_vec();
        columns.push(Arc::new(Int64Array::from(vec![0; rows.len()])));
        let rows = RecordBatch::try_new(schema(&["k", "n", "s"]), columns).unwrap();
        self.feed_batch(scope, collection, Delta::new(rows, diffs));
    }

    fn feed_batch(&self, scope: Scope, collection: u64, delta: Delta) {
        self.runtime.send(Command::Feed {
            scope,
            collection: CollectionId(collection),
            delta,
        });
    }

    /// True if the workers took part.
    fn finish(&mut self, scope: Scope, epoch: i64) -> bool {
        let reported = self.runtime.send(Command::Finish { scope, epoch });
        if reported {
            self.wait(scope, epoch);
        }
        reported
    }

    fn wait(&mut self, scope: Scope, epoch: i64) {
        let mut missing: BTreeSet<usize> = (0..self.workers).collect();
        let mut early = std::mem::take(&mut self.early);
        while !missing.is_empty() {
            let event = match early.pop() {
                Some(e) => e,
                None => self.events.recv_timeout(WAIT).expect("a report"),
            };
            match event {
                Event::Done {
                    worker,
                    scope: s,
                    epoch: e,
                    results,
                } if (s, e) == (scope, epoch) => {
                    assert!(missing.remove(&worker));
                    results.into_iter().for_each(|r| self.take(r));
                }
                Event::Failed { message, .. } => panic!("{message}"),
                other => self.early.push(other),
            }
        }
        self.early.append(&mut early);
    }

    fn take(&mut self, result: DataflowResult) {
        let id = result.dataflow;
        result
            .rows
            .iter()
            .for_each(|d| add_rows(self.world.rows.entry(id).or_default(), d));
        result
            .errors
            .iter()
            .for_each(|d| add_rows(self.world.errors.entry(id).or_default(), d));
        for c in &result.changes {
            if c.arrangement == ArrangementId(id.0 * 100 + 99) {
                add_rows(self.world.stored.entry(id).or_default(), &c.delta);
            }
        }
    }
}

fn expected_groups(rows: &[(i64, i64)]) -> Multiset {
    let mut groups: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
    for (k, v) in rows {
        let g = groups.entry(*k).or_default();
        *g = (g.0 + 1, g.1 + v);
    }
    let mut out = Multiset::new();
    groups
        .iter()
        .for_each(|(k, (n, s))| add(&mut out, format!("({k}, {n}, {s})"), 1));
    out
}

fn expected_totals(groups: &Multiset) -> Multiset {
    let mut sum = 0;
    for g in groups.keys() {
        sum += g.split(", ").nth(1).unwrap().parse::<i64>().unwrap();
    }
    let sum = if groups.is_empty() {
        "NULL".into()
    } else {
        sum.to_string()
    };
    Multiset::from([(format!("({}, {sum})", groups.len()), 1)])
}

fn expected_mapped(rows: &[(i64, i64)]) -> (Multiset, Multiset) {
    let (mut good, mut bad) = (Multiset::new(), Multiset::new());
    for (k, v) in rows.iter().filter(|r| r.1 > 0) {
        match k - 3 {
            0 => add(&mut bad, format!("({k}, {v})"), 1),
            d => add(&mut good, format!("({k}, {})", v / d), 1),
        }
    }
    (good, bad)
}

fn random_changes(rng: &mut ChaCha8Rng, rows: &mut Vec<(i64, i64)>) -> (Vec<(i64, i64)>, Vec<i64>) {
    let (mut changed, mut diffs) = (Vec::new(), Vec::new());
    for _ in 0..rng.random_range(0..30) {
        if !rows.is_empty() && rng.random_bool(0.4) {
            changed.push(rows.swap_remove(rng.random_range(0..rows.len())));
            diffs.push(-1);
        } else {
            let row = (rng.random_range(0..8), rng.random_range(-3..9));
            rows.push(row);
            changed.push(row);
            diffs.push(1);
        }
    }
    (changed, diffs)
}

#[test]
fn any_number_of_workers_gives_the_same() {
    for workers in [1, 2, 3] {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let mut rig = Rig::new(workers);
        // The view on the view is installed with demand, the view below it without: it is wanted all the same.
        rig.runtime
            .send(install(1, grouped(1), 11, Scope::Live, false));
        rig.runtime
            .send(install(2, totals(11), 12, Scope::Live, true));
        rig.runtime
            .send(install(3, mapped(1), 13, Scope::Live, true));
        rig.runtime
            .send(install(4, grouped(1), 14, Scope::Live, true));
        let mut rows = Vec::new();
        for epoch in 1..40 {
            for _ in 0..rng.random_range(0..4) {
                let (changed, diffs) = random_changes(&mut rng, &mut rows);
                rig.feed(Scope::Live, 1, &changed, diffs);
            }
            rig.finish(Scope::Live, epoch * 10);
            let world = &rig.world;
            let groups = expected_groups(&rows);
            let of = |map: &BTreeMap<DataflowId, Multiset>, id| {
                map.get(&DataflowId(id)).cloned().unwrap_or_default()
            };
            assert_eq!(
                of(&world.rows, 4),
                groups,
                "workers {workers} epoch {epoch}"
            );
            assert_eq!(of(&world.rows, 2), expected_totals(&groups));
            assert!(of(&world.rows, 1).is_empty());
            let (good, bad) = expected_mapped(&rows);
            assert_eq!(of(&world.rows, 3), good);
            assert_eq!(of(&world.stored, 3), good);
            let culprits: i64 = of(&world.errors, 3).values().sum();
            assert_eq!(culprits, bad.values().sum::<i64>());
        }
        rig.runtime.shutdown();
    }
}

/// SELECT k, count(*) FROM collection GROUP BY k: equal rows are added up before they cross workers.
fn counted(collection: u64) -> Node {
    let mut node = grouped(collection);
    node.inputs = vec![input(collection, &["k"])];
    if let Op::Aggregate { aggregates, .. } = &mut node.op {
        aggregates.truncate(1);
    }
    node.schema = schema(&["k", "n"]);
    node
}

#[test]
fn equal_rows_from_several_workers_add_up() {
    for workers in [1, 2, 3] {
        let mut rig = Rig::new(workers);
        rig.runtime
            .send(install(1, counted(1), 11, Scope::Live, true));
        for epoch in 1..6 {
            for piece in 0..4 {
                let rows: Vec<(i64, i64)> = (0..50).map(|i| (i % 5 + piece, i)).collect();
                rig.feed(Scope::Live, 1, &rows, vec![1; 50]);
                rig.feed(Scope::Live, 1, &rows[..10], vec![-1; 10]);
            }
            rig.finish(Scope::Live, epoch);
            let counts = [8, 16, 24, 32, 32, 24, 16, 8].into_iter().enumerate();
            let expected: Multiset = counts
                .map(|(k, n)| (format!("({k}, {})", n * epoch), 1))
                .collect();
            assert_eq!(rig.world.rows[&DataflowId(1)], expected);
        }
    }
}

#[test]
fn a_hidden_dataflow_joins_and_follows() {
    for workers in [1, 2] {
        let mut rig = Rig::new(workers);
        let hidden = Scope::Hidden(DataflowId(2));
        rig.runtime
            .send(install(1, grouped(1), 11, Scope::Live, true));
        rig.feed(Scope::Live, 1, &[(1, 10), (2, 20)], vec![1, 1]);
        rig.finish(Scope::Live, 1);
        rig.runtime.send(install(2, totals(11), 12, hidden, true));
        // A long backfill, in epochs of its own, while live epochs go on.
        for epoch in 1..20 {
            let key = epoch % 5;
            rig.feed_groups(hidden, 11, &[(key, 1)], vec![1]);
            rig.runtime.send(Command::Finish {
                scope: hidden,
                epoch,
            });
        }
        rig.feed(Scope::Live, 1, &[(3, 30)], vec![1]);
        rig.finish(Scope::Live, 2);
        (1..20).for_each(|epoch| rig.wait(hidden, epoch));
        // The backfill's rows are taken back and replaced by the view's contents.
        let mut rows: Vec<(i64, i64)> = (1..20).map(|e| (e % 5, 1)).collect();
        let mut diffs = vec![-1; rows.len()];
        rows.extend([(1, 1), (2, 1), (3, 1)]);
        diffs.extend([1, 1, 1]);
        rig.feed_groups(hidden, 11, &rows, diffs);
        rig.runtime.send(Command::Finish {
            scope: hidden,
            epoch: 20,
        });
        rig.runtime.send(Command::Join(DataflowId(2)));
        rig.feed(Scope::Live, 1, &[(3, 1), (4, 40)], vec![1, 1]);
        rig.finish(Scope::Live, 21);
        rig.wait(hidden, 20);
        let groups = rig.world.rows[&DataflowId(1)].clone();
        assert_eq!(rig.world.rows[&DataflowId(2)], expected_totals(&groups));
        // Dropped, it says nothing any more, and the others go on.
        rig.runtime.send(Command::Drop(DataflowId(2)));
        let before = rig.world.rows[&DataflowId(2)].clone();
        rig.feed(Scope::Live, 1, &[(5, 1)], vec![1]);
        rig.finish(Scope::Live, 22);
        assert_eq!(rig.world.rows[&DataflowId(2)], before);
        assert_eq!(rig.world.rows[&DataflowId(1)].len(), 5);
    }
}

#[test]
fn many_dataflows_come_and_go() {
    let mut rig = Rig::new(2);
    rig.runtime
        .send(install(1, grouped(1), 11, Scope::Live, true));
    for round in 0..30u64 {
        let id = 10 + round;
        let hidden = Scope::Hidden(DataflowId(id));
        rig.runtime
            .send(install(id, grouped(1), 100 + id, hidden, true));
        rig.feed(hidden, 1, &[(1, 1), (2, 2)], vec![1, 1]);
        rig.runtime.send(Command::Finish {
            scope: hidden,
            epoch: 1,
        });
        if round % 3 == 0 {
            // Given up while it may be under way.
            rig.runtime.send(Command::Drop(DataflowId(id)));
        }
        rig.feed(Scope::Live, 1, &[(round as i64, 1)], vec![1]);
        rig.finish(Scope::Live, round as i64 + 1);
        if round % 3 == 1 {
            rig.wait(hidden, 1);
            rig.runtime.send(Command::Join(DataflowId(id)));
            rig.runtime.send(Command::Demand(DataflowId(id), false));
        }
    }
    assert_eq!(rig.world.rows[&DataflowId(1)].len(), 30);
}

#[test]
fn constants_appear_once_and_unions_add_up() {
    for workers in [1, 3] {
        let constant = Node {
            op: Op::Constant {
                rows: batch(&[(1, 100), (9, 9)]),
            },
            inputs: vec![],
            schema: schema(&["k", "v"]),
            append_only: true,
        };
        let union = Node {
            op: Op::Union,
            inputs: vec![input(1, &["a", "b"]), constant, input(1, &["k", "v"])],
            schema: schema(&["k", "v"]),
            append_only: false,
        };
        let mut rig = Rig::new(workers);
        rig.runtime.send(install(1, union, 11, Scope::Live, true));
        rig.feed(Scope::Live, 1, &[(1, 100)], vec![1]);
        rig.finish(Scope::Live, 1);
        rig.feed(Scope::Live, 1, &[(1, 100)], vec![1]);
        rig.finish(Scope::Live, 2);
        let expected = Multiset::from([("(1, 100)".to_string(), 5), ("(9, 9)".to_string(), 1)]);
        assert_eq!(rig.world.rows[&DataflowId(1)], expected);
        assert_eq!(rig.world.stored[&DataflowId(1)], expected);
    }
}

#[test]
fn an_epoch_without_input_is_for_nobody_once_all_have_settled() {
    let mut rig = Rig::new(2);
    assert!(!rig.finish(Scope::Live, 1), "nobody is there");
    rig.runtime
        .send(install(1, grouped(1), 11, Scope::Live, true));
    rig.runtime
        .send(install(2, grouped(2), 12, Scope::Live, true));
    // Its first step is to come, and one when that is committed.
    let mut epoch = 2;
    while rig.finish(Scope::Live, epoch) {
        epoch += 1;
        assert!(epoch < 1_000, "the workers are asked for ever");
    }
    assert!(epoch > 40, "settled after {epoch} epochs");
    rig.feed(Scope::Live, 1, &[(1, 10)], vec![1]);
    assert!(rig.finish(Scope::Live, 1_000));
    assert_eq!(rig.world.rows[&DataflowId(1)], expected_groups(&[(1, 10)]));
    assert!(!rig.world.rows.contains_key(&DataflowId(2)));
    // What nobody reads counts as little as nothing.
    (1_001..1_041).for_each(|epoch| assert!(rig.finish(Scope::Live, epoch)));
    assert!(!rig.finish(Scope::Live, 1_041));
}

#[test]
fn a_panic_is_reported() {
    let rig = Rig::new(2);
    rig.runtime
        .send(install(1, grouped(1), 11, Scope::Live, true));
    rig.feed(Scope::Live, 1, &[(1, 1)], vec![-1]);
    rig.runtime.send(Command::Finish {
        scope: Scope::Live,
        epoch: 1,
    });
    let mut event = rig.events.recv_timeout(WAIT).unwrap();
    if let Event::Done { .. } = event {
        // The worker that has no rows.
        event = rig.events.recv_timeout(WAIT).unwrap();
    }
    match event {
        Event::Failed { message, .. } => {
            assert!(message.contains("group (1) has a count of -1"), "{message}")
        }
        other => panic!("{other:?}"),
    }
    rig.runtime.shutdown();
}
