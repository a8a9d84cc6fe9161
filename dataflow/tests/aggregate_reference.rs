//! Aggregates against a naive computation over all rows, after every epoch of random changes, with restarts, late
//! commits and eviction at random.

#[allow(dead_code)]
mod support;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use rand::{Rng, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;
use support::{MemoryState, Multiset, add, add_rows, map_error};
use tidemill_dataflow::operator::{BuildContext, Operator, Output};
use tidemill_dataflow::operators;
use tidemill_dataflow::operators::culprit::row_text;
use tidemill_dataflow::operators::map::conform;
use tidemill_dataflow::plan::{Aggregate, AggregateFunction, Node, Op};
use tidemill_storage::ArrangementChange;
use tidemill_zset::moments::{ExactMoments, FloatMoments};
use tidemill_zset::{CollectionId, Delta};

use AggregateFunction::*;

/// Columns: word, number, integer, decimal, float, truth, filter, other (a float).
#[derive(Clone, Debug, PartialEq)]
struct Row {
    word: Option<String>,
    number: Option<i32>,
    integer: Option<i64>,
    decimal: Option<i128>,
    float: Option<f64>,
    truth: Option<bool>,
    filter: Option<bool>,
    other: Option<f64>,
}

const FILTER: usize = 6;
const OTHER: usize = 7;

fn input_schema() -> SchemaRef {
    let field = |n: &str, t| Field::new(n, t, true);
    Arc::new(Schema::new(vec![
        field("word", DataType::Utf8View),
        field("number", DataType::Int32),
        field("integer", DataType::Int64),
        field("decimal", DataType::Decimal128(10, 2)),
        field("float", DataType::Float64),
        field("truth", DataType::Boolean),
        field("filter", DataType::Boolean),
        field("other", DataType::Float64),
    ]))
}

fn row(rng: &mut ChaCha8Rng, keys: i64) -> Row {
    let mut maybe = |p: f64| rng.random_bool(p);
    let (a, b, c, d, e, f, g) = (
        maybe(0.9),
        maybe(0.9),
        maybe(0.8),
        maybe(0.8),
        maybe(0.8),
        maybe(0.7),
        maybe(0.9),
    );
    let n = rng.random_range(0..keys);
    let specials = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0];
    let float = match rng.random_bool(0.05) {
        true => specials[rng.random_range(0..4)],
        false => rng.random_range(-40..40) as f64 * 0.25,
    };
    Row {
        word: a.then(|| format!("{n}").repeat(n as usize % 8 + 1)),
        number: b.then(|| rng.random_range(0..5)),
        integer: c
            .then(|| rng.random_range(-9..9) * if rng.random_bool(0.1) { 1 << 59 } else { 1 }),
        decimal: d.then(|| rng.random_range(-99_999..99_999)),
        float: e.then_some(float),
        truth: f.then(|| rng.random_bool(0.8)),
        filter: g.then(|| rng.random_bool(0.5)),
        other: rng.random_bool(0.8).then(|| rng.random_range(-1e9..1e9)),
    }
}

fn batch(rows: &[Row]) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringViewArray::from_iter(
            rows.iter().map(|r| r.word.clone()),
        )),
        Arc::new(Int32Array::from_iter(rows.iter().map(|r| r.number))),
        Arc::new(Int64Array::from_iter(rows.iter().map(|r| r.integer))),
        Arc::new(
            Decimal128Array::from_iter(rows.iter().map(|r| r.decimal))
                .with_data_type(DataType::Decimal128(10, 2)),
        ),
        Arc::new(Float64Array::from_iter(rows.iter().map(|r| r.float))),
        Arc::new(BooleanArray::from_iter(rows.iter().map(|r| r.truth))),
        Arc::new(BooleanArray::from_iter(rows.iter().map(|r| r.filter))),
        Arc::new(Float64Array::from_iter(rows.iter().map(|r| r.other))),
    ];
    RecordBatch::try_new(input_schema(), columns).unwrap()
}

fn aggregate(
    function: AggregateFunction,
    column: Option<usize>,
    filter: bool,
    t: DataType,
) -> Aggregate {
    Aggregate {
        function,
        column,
        second: None,
        filter: filter.then_some(FILTER),
        output: Field::new(format!("{function:?}{column:?}"), t, true),
    }
}

fn all_aggregates() -> Vec<Aggregate> {
    let decimal = |s| DataType::Decimal128(38, s);
    let mut out = Vec::new();
    for filter in [false, true] {
        out.extend([
            aggregate(CountStar, None, filter, DataType::Int64),
            aggregate(Count, Some(2), filter, DataType::Int64),
            aggregate(Sum, Some(1), filter, DataType::Int64),
            aggregate(Sum, Some(2), filter, decimal(0)),
            aggregate(Sum, Some(3), filter, decimal(2)),
            aggregate(Sum, Some(4), filter, DataType::Float64),
            aggregate(Avg, Some(2), filter, decimal(6)),
            aggregate(Avg, Some(3), filter, decimal(4)),
            aggregate(Avg, Some(4), filter, DataType::Float64),
            aggregate(Min, Some(0), filter, DataType::Utf8View),
            aggregate(Max, Some(0), filter, DataType::Utf8View),
            aggregate(Min, Some(2), filter, DataType::Int64),
            aggregate(Max, Some(3), filter, DataType::Decimal128(10, 2)),
            aggregate(Min, Some(4), filter, DataType::Float64),
            aggregate(Max, Some(4), filter, DataType::Float64),
            aggregate(BoolAnd, Some(5), filter, DataType::Boolean),
            aggregate(BoolOr, Some(5), filter, DataType::Boolean),
        ]);
        for column in 1..=4 {
            out.push(aggregate(Moments, Some(column), filter, DataType::Binary));
        }
        out.push(Aggregate {
            second: Some(OTHER),
            ..aggregate(Moments, Some(4), filter, DataType::Binary)
        });
    }
    out
}

fn node(keys: &[usize], aggregates: &[Aggregate], append_only: bool) -> Node {
    let schema = input_schema();
    let mut fields: Vec<Field> = keys.iter().map(|k| schema.field(*k).clone()).collect();
    fields.extend(aggregates.iter().map(|a| a.output.clone()));
    Node {
        op: Op::Aggregate {
            keys: keys.to_vec(),
            aggregates: aggregates.to_vec(),
        },
        schema: Arc::new(Schema::new(fields)),
        append_only: false,
        inputs: vec![Node {
            op: Op::Input {
                collection: CollectionId(1),
                columns: (0..8).collect(),
            },
            inputs: vec![],
            schema,
            append_only,
        }],
    }
}

fn float_key(f: f64) -> (u8, u64) {
    // NaN is the greatest.
    match f.is_nan() {
        true => (1, 0),
        false => (
            0,
            (f + 0.0).to_bits() ^ if f < 0.0 { u64::MAX } else { 1 << 63 },
        ),
    }
}

/// The slow and obvious way: rows of one group, each as often as it is there.
fn naive(a: &Aggregate, rows: &[&Row]) -> ArrayRef {
    let rows: Vec<&&Row> = rows
        .iter()
        .filter(|r| a.filter.is_none() || r.filter == Some(true))
        .collect();
    let ints: Vec<i128> = rows
        .iter()
        .filter_map(|r| match a.column {
            Some(1) => r.number.map(|v| v as i128),
            Some(2) => r.integer.map(|v| v as i128),
            Some(3) => r.decimal,
            _ => None,
        })
        .collect();
    let floats: Vec<f64> = rows.iter().filter_map(|r| r.float).collect();
    let words: Vec<String> = rows.iter().filter_map(|r| r.word.clone()).collect();
    let truths: Vec<bool> = rows.iter().filter_map(|r| r.truth).collect();
    let t = a.output.data_type();
    let int = |v: Option<i128>| -> ArrayRef {
        match t {
            DataType::Int64 => Arc::new(Int64Array::from(vec![v.map(|v| v as i64)])),
            _ => Arc::new(Decimal128Array::from(vec![v]).with_data_type(t.clone())),
        }
    };
    let float = |v: Option<f64>| -> ArrayRef { Arc::new(Float64Array::from(vec![v])) };
    let n = ints.len() as i128;
    let bytes = |n: i64, bytes: Vec<u8>| -> ArrayRef {
        Arc::new(BinaryArray::from_iter([(n > 0).then_some(bytes)]))
    };
    match (a.function, a.column) {
        (CountStar, _) => int(Some(rows.len() as i128)),
        (Count, _) => int(Some(n)),
        (Sum, Some(4)) => float((!floats.is_empty()).then(|| floats.iter().sum::<f64>() + 0.0)),
        (Avg, Some(4)) => float(
            (!floats.is_empty()).then(|| (floats.iter().sum::<f64>() + 0.0) / floats.len() as f64),
        ),
        (Sum, _) => int((n > 0).then(|| ints.iter().sum())),
        (Avg, c) => int((n > 0).then(|| {
            let shift = if c == Some(2) { 1_000_000 } else { 100 };
            let total = ints.iter().sum::<i128>() * shift;
            let twice = 2 * total.abs() + n;
            twice / (2 * n) * total.signum()
        })),
        (Min, Some(0)) => Arc::new(StringViewArray::from_iter([words.iter().min()])),
        (Max, Some(0)) => Arc::new(StringViewArray::from_iter([words.iter().max()])),
        (Min, Some(4)) => float(
            floats
                .into_iter()
                .min_by_key(|f| float_key(*f))
                .map(|f| f + 0.0),
        ),
        (Max, Some(4)) => float(
            floats
                .into_iter()
                .max_by_key(|f| float_key(*f))
                .map(|f| f + 0.0),
        ),
        (Min, _) => int(ints.into_iter().min()),
        (Max, _) => int(ints.into_iter().max()),
        (Moments, Some(4)) => {
            let mut all = FloatMoments::default();
            for r in rows {
                match (r.float, a.second, r.other) {
                    (Some(y), None, _) => all.add(y, 1),
                    (Some(y), _, Some(x)) => all.add_pair(y, x, 1),
                    _ => {}
                }
            }
            bytes(all.count, all.to_bytes())
        }
        (Moments, _) => {
            let mut all = ExactMoments::default();
            ints.iter().for_each(|v| all.add(*v, 1));
            bytes(all.count, all.to_bytes())
        }
        (BoolAnd, _) => Arc::new(BooleanArray::from(vec![
            (!truths.is_empty()).then(|| truths.iter().all(|t| *t)),
        ])),
        (BoolOr, _) => Arc::new(BooleanArray::from(vec![
            (!truths.is_empty()).then(|| truths.iter().any(|t| *t)),
        ])),
    }
}

fn reference(node: &Node, rows: &[Row]) -> Multiset {
    let Op::Aggregate { keys, aggregates } = &node.op else {
        unreachable!()
    };
    let mut groups: BTreeMap<String, Vec<&Row>> = BTreeMap::new();
    if keys.is_empty() {
        groups.insert("()".into(), Vec::new());
    }
    let key_of = |r: &Row| {
        let plain = Row {
            float: r.float.map(|f| f + 0.0),
            ..r.clone()
        };
        batch(&[plain]).project(keys).unwrap()
    };
    for r in rows {
        groups.entry(row_text(&key_of(r), 0)).or_default().push(r);
    }
    let mut out = Multiset::new();
    for rows in groups.values() {
        let mut columns: Vec<ArrayRef> = match rows.first() {
            Some(r) => key_of(r).columns().to_vec(),
            None => Vec::new(),
        };
        columns.extend(aggregates.iter().map(|a| naive(a, rows)));
        let b = conform(&node.schema, columns, 1);
        add(&mut out, row_text(&b, 0), 1);
    }
    out
}

fn context(state_bytes_max: usize) -> BuildContext {
    BuildContext {
        worker: 0,
        workers: 1,
        partitions: 4,
        fresh: true,
        state_bytes_max,
        error_mapper: map_error,
        demand: Rc::new(Cell::new(true)),
    }
}

struct Bench {
    node: Node,
    states: Vec<Arc<MemoryState>>,
    operator: Box<dyn Operator>,
    output: Multiset,
    epoch: i64,
    uncommitted: Vec<(i64, Vec<ArrangementChange>)>,
}

impl Bench {
    fn new(node: Node, durable: bool, state_bytes_max: usize) -> Bench {
        let specs = operators::arrangements(&node);
        let states: Vec<_> = specs
            .iter()
            .enumerate()
            .map(|(i, s)| MemoryState::new(i as u64, s))
            .collect();
        let mut handles: Vec<_> = states.iter().map(|s| s.handle()).collect();
        if !durable {
            handles.iter_mut().for_each(|h| h.reader = None);
        }
        Bench {
            operator: operators::build(&node, handles, &context(state_bytes_max)).unwrap(),
            node,
            states,
            output: Multiset::new(),
            epoch: 0,
            uncommitted: Vec::new(),
        }
    }

    fn step(&mut self, deltas: Vec<Delta>) -> Output {
        self.epoch += 1;
        let mut out = Output::default();
        for d in deltas {
            self.operator.push(0, d, &mut out);
        }
        self.operator.finish(self.epoch, &mut out);
        for d in &out.rows {
            assert!(d.len() <= 8_192);
            add_rows(&mut self.output, d);
        }
        self.uncommitted
            .push((self.epoch, std::mem::take(&mut out.changes)));
        out
    }

    fn commit(&mut self, all: bool) {
        let keep = if all { 0 } else { 1 };
        while self.uncommitted.len() > keep {
            let (epoch, changes) = self.uncommitted.remove(0);
            self.states.iter().for_each(|s| s.commit(epoch, &changes));
        }
    }

    fn restart(&mut self, state_bytes_max: usize) {
        self.commit(true);
        let handles = self.states.iter().map(|s| s.handle()).collect();
        self.operator = operators::build(&self.node, handles, &context(state_bytes_max)).unwrap();
    }
}

fn changes(rng: &mut ChaCha8Rng, rows: &mut Vec<Row>, append_only: bool, keys: i64) -> Vec<Delta> {
    let mut out = Vec::new();
    for _ in 0..rng.random_range(0..4) {
        let mut batch_rows = Vec::new();
        let mut diffs = Vec::new();
        for _ in 0..rng.random_range(0..12) {
            if !append_only && !rows.is_empty() && rng.random_bool(0.5) {
                batch_rows.push(rows.swap_remove(rng.random_range(0..rows.len())));
                diffs.push(-1);
            } else if !append_only && rng.random_bool(0.2) {
                // Comes and goes within the epoch, the retraction first.
                let r = row(rng, keys);
                batch_rows.extend([r.clone(), r]);
                diffs.extend([-2, 2]);
            } else {
                let r = row(rng, keys);
                let times = rng.random_range(1..3);
                rows.extend(std::iter::repeat_n(r.clone(), times));
                batch_rows.push(r);
                diffs.push(times as i64);
            }
        }
        out.push(Delta::new(batch(&batch_rows), diffs));
    }
    out
}

#[test]
fn equals_the_naive_computation_at_every_epoch() {
    let all = all_aggregates();
    for seed in 0..80 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let key_sets: [&[usize]; 6] = [&[], &[0], &[1], &[4], &[0, 1], &[5, 4, 3]];
        let keys = *key_sets.choose(&mut rng).unwrap();
        let count = rng.random_range(0..7);
        let aggregates: Vec<Aggregate> = all.choose_multiple(&mut rng, count).cloned().collect();
        let append_only = rng.random_bool(0.3);
        let durable = rng.random_bool(0.8);
        let memory = |rng: &mut ChaCha8Rng| {
            if rng.random_bool(0.4) {
                100
            } else {
                usize::MAX
            }
        };
        let distinct_words = rng.random_range(1..40);
        let functions: Vec<_> = aggregates
            .iter()
            .map(|a| (a.function, a.column, a.filter))
            .collect();
        println!("seed {seed} keys {keys:?} {functions:?} append {append_only} durable {durable}");
        let limit = memory(&mut rng);
        let mut bench = Bench::new(node(keys, &aggregates, append_only), durable, limit);
        let mut rows = Vec::new();
        for _ in 0..25 {
            let deltas = changes(&mut rng, &mut rows, append_only, distinct_words);
            let out = bench.step(deltas);
            assert!(out.errors.is_empty());
            let expected = reference(&bench.node, &rows);
            assert_eq!(bench.output, expected, "epoch {}", bench.epoch);
            bench.commit(rng.random_bool(0.5));
            if durable && rng.random_bool(0.2) {
                let limit = memory(&mut rng);
                bench.restart(limit);
            }
        }
        bench.commit(true);
        let columns: Vec<usize> = (0..keys.len() + aggregates.len()).collect();
        let stored = bench.states[0].contents(&columns);
        match durable {
            true => assert_eq!(stored, bench.output),
            false => assert!(stored.is_empty()),
        }
    }
}

#[test]
fn a_sum_that_its_type_cannot_hold_is_an_error_until_it_fits() {
    overflow(false);
    overflow(true);
}

fn overflow(restarts: bool) {
    let sum = aggregate(Sum, Some(2), false, DataType::Int64);
    let mut bench = Bench::new(node(&[0], &[sum], false), true, usize::MAX);
    let row = |integer| Row {
        word: Some("w".into()),
        number: None,
        integer: Some(integer),
        decimal: None,
        float: None,
        truth: None,
        filter: None,
        other: None,
    };
    let mut errors = Multiset::new();
    let mut step = |bench: &mut Bench, rows: &[Row], diffs: Vec<i64>| {
        let out = bench.step(vec![Delta::new(batch(rows), diffs)]);
        out.errors.iter().for_each(|e| add_rows(&mut errors, e));
        if restarts {
            bench.restart(usize::MAX);
        }
        (
            errors.clone(),
            bench.output.keys().cloned().collect::<Vec<_>>(),
        )
    };
    let (errors, rows) = step(&mut bench, &[row(i64::MAX)], vec![1]);
    assert!(errors.is_empty());
    assert_eq!(rows, [format!("(w, {})", i64::MAX)]);
    let (errors, rows) = step(&mut bench, &[row(i64::MAX), row(1)], vec![2, 5]);
    assert_eq!(
        errors.keys().collect::<Vec<_>>(),
        ["(22003, bigint out of range, (w))"]
    );
    assert_eq!(rows, ["(w, NULL)"]);
    let (errors, _) = step(&mut bench, &[row(2)], vec![1]);
    assert_eq!(errors.values().collect::<Vec<_>>(), [&1]);
    let (errors, rows) = step(&mut bench, &[row(i64::MAX)], vec![-3]);
    assert!(errors.is_empty());
    assert_eq!(rows, ["(w, 7)"]);
}

#[test]
#[should_panic(expected = "group (w) has a count of -1")]
fn a_negative_count_is_a_broken_invariant() {
    let mut bench = Bench::new(node(&[0], &[], false), true, usize::MAX);
    let r = Row {
        word: Some("w".into()),
        number: None,
        integer: None,
        decimal: None,
        float: None,
        truth: None,
        filter: None,
        other: None,
    };
    bench.step(vec![Delta::new(batch(&[r]), vec![-1])]);
}

#[test]
fn without_demand_only_state_changes_are_made() {
    let sum = aggregate(Sum, Some(2), false, DataType::Decimal128(38, 0));
    let n = node(&[0], &[sum], false);
    let states: Vec<_> = operators::arrangements(&n)
        .iter()
        .map(|s| MemoryState::new(0, s).handle())
        .collect();
    let context = context(usize::MAX);
    context.demand.set(false);
    let mut operator = operators::build(&n, states, &context).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let rows: Vec<Row> = (0..100).map(|_| row(&mut rng, 10)).collect();
    let mut out = Output::default();
    operator.push(0, Delta::insert(batch(&rows)), &mut out);
    operator.finish(1, &mut out);
    assert!(out.rows.is_empty());
    assert_eq!(out.changes.len(), 1);
}
