//! Operators under extreme input: keys that share one hash, keys and values of a megabyte, NULL, NaN and two zeros, diffs
//! of 2^40, sums that don't fit, no memory for state, epochs without changes, and very many epochs. After every epoch the
//! output equals a naive computation.

#[allow(dead_code)]
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use support::{MemoryState, Multiset, add, add_rows, map_error};
use tidemill_dataflow::operator::{BuildContext, Operator, Output};
use tidemill_dataflow::operators;
use tidemill_dataflow::operators::culprit::row_text;
use tidemill_dataflow::plan::{Aggregate, AggregateFunction, JoinKind, Node, Op};
use tidemill_storage::ArrangementChange;
use tidemill_zset::hash::{hash_columns, mix};
use tidemill_zset::{CollectionId, Delta, Diffs};

/// Two key columns and a value, as numbers; [`Kind`] says what stands for them.
type Row = [Option<i64>; 3];
type Rows = BTreeMap<Row, i64>;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// The number.
    Integer,
    /// The number and a megabyte.
    LongText,
    /// 0 and 1 are the zeros, 2 and 3 two NaN, 4 and 5 the infinities; else the number.
    Float,
}

const MEGABYTE: usize = 1 << 20;

impl Kind {
    fn data_type(self) -> DataType {
        match self {
            Kind::Integer => DataType::Int64,
            Kind::LongText => DataType::Utf8View,
            Kind::Float => DataType::Float64,
        }
    }

    fn column(self, numbers: impl Iterator<Item = Option<i64>>) -> ArrayRef {
        match self {
            Kind::Integer => Arc::new(Int64Array::from_iter(numbers)),
            Kind::LongText => Arc::new(StringViewArray::from_iter(
                numbers.map(|n| n.map(|n| format!("{n:020}{}", "x".repeat(MEGABYTE)))),
            )),
            Kind::Float => Arc::new(Float64Array::from_iter(numbers.map(|n| {
                n.map(|n| match n {
                    0 => 0.0,
                    1 => -0.0,
                    2 => f64::NAN,
                    3 => -f64::NAN,
                    4 => f64::INFINITY,
                    5 => f64::NEG_INFINITY,
                    n => n as f64,
                })
            }))),
        }
    }

    /// The number that stands for all that are equal to this one.
    fn canonical(self, number: Option<i64>) -> Option<i64> {
        match (self, number) {
            (Kind::Float, Some(1)) => Some(0),
            (Kind::Float, Some(3)) => Some(2),
            _ => number,
        }
    }
}

fn schema(kind: Kind) -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("k1", kind.data_type(), true),
        Field::new("k2", kind.data_type(), true),
        Field::new("v", DataType::Int64, true),
    ]))
}

fn batch(kind: Kind, rows: &[Row]) -> RecordBatch {
    let columns = vec![
        kind.column(rows.iter().map(|r| r[0])),
        kind.column(rows.iter().map(|r| r[1])),
        Kind::Integer.column(rows.iter().map(|r| r[2])),
    ];
    RecordBatch::try_new(schema(kind), columns).unwrap()
}

fn input(kind: Kind, id: u64) -> Node {
    Node {
        op: Op::Input {
            collection: CollectionId(id),
            columns: vec![0, 1, 2],
        },
        inputs: vec![],
        schema: schema(kind),
        append_only: false,
    }
}

fn aggregates(kind: Kind) -> Node {
    let aggregate = |function, column| Aggregate {
        function,
        column,
        second: None,
        filter: None,
        output: Field::new(format!("{function:?}"), DataType::Int64, true),
    };
    let aggregates = vec![
        aggregate(AggregateFunction::CountStar, None),
        aggregate(AggregateFunction::Sum, Some(2)),
        aggregate(AggregateFunction::Max, Some(2)),
    ];
    let mut fields: Vec<Field> = schema(kind)
        .fields()
        .iter()
        .take(2)
        .map(|f| f.as_ref().clone())
        .collect();
    fields.extend(aggregates.iter().map(|a| a.output.clone()));
    Node {
        op: Op::Aggregate {
            keys: vec![0, 1],
            aggregates,
        },
        schema: Arc::new(Schema::new(fields)),
        append_only: false,
        inputs: vec![input(kind, 1)],
    }
}

fn join(kind: Kind, join: JoinKind) -> Node {
    let one = schema(kind);
    let both = one.fields().iter().chain(one.fields()).cloned();
    let schema = match join {
        JoinKind::Semi | JoinKind::Anti => one.clone(),
        _ => Arc::new(Schema::new(both.collect::<Vec<_>>())),
    };
    Node {
        op: Op::Join {
            kind: join,
            on: vec![(0, 0), (1, 1)],
            null_equals_null: false,
            filter: None,
        },
        inputs: vec![input(kind, 1), input(kind, 2)],
        schema,
        append_only: false,
    }
}

/// The two zeros print as one.
fn text(batch: &RecordBatch, row: usize) -> String {
    row_text(batch, row).replace("-0.0", "0.0")
}

/// What the aggregate of all rows is, and in how many groups the sum doesn't fit.
fn aggregated(kind: Kind, rows: &Rows) -> (Multiset, i64) {
    type Values = Vec<(Option<i64>, i64)>;
    let mut groups: BTreeMap<[Option<i64>; 2], Values> = BTreeMap::new();
    for (row, diff) in rows {
        let key = [kind.canonical(row[0]), kind.canonical(row[1])];
        groups.entry(key).or_default().push((row[2], *diff));
    }
    let (mut out, mut failing) = (Multiset::new(), 0);
    for (key, values) in groups {
        let count: i64 = values.iter().map(|v| v.1).sum();
        let numbers = values.iter().filter_map(|(v, d)| v.map(|v| (v, *d)));
        let sum: i128 = numbers.clone().map(|(v, d)| v as i128 * d as i128).sum();
        let fits = i64::try_from(sum).ok();
        failing += i64::from(fits.is_none());
        let sum = fits.filter(|_| numbers.clone().next().is_some());
        let max = numbers.map(|(v, _)| v).max();
        let columns: Vec<ArrayRef> = vec![
            kind.column([key[0]].into_iter()),
            kind.column([key[1]].into_iter()),
            Kind::Integer.column([Some(count)].into_iter()),
            Kind::Integer.column([sum].into_iter()),
            Kind::Integer.column([max].into_iter()),
        ];
        let line = RecordBatch::try_new(aggregates(kind).schema, columns).unwrap();
        add(&mut out, text(&line, 0), 1);
    }
    (out, failing)
}

fn joined(kind: Kind, how: JoinKind, left: &Rows, right: &Rows) -> Multiset {
    let key = |r: &Row| Some((kind.canonical(r[0])?, kind.canonical(r[1])?));
    let alone = |r: &Row| text(&batch(kind, &[*r]), 0);
    let both = join(kind, JoinKind::Inner).schema;
    let line = |l: Option<&Row>, r: Option<&Row>| {
        let side = |r: Option<&Row>| batch(kind, &[*r.unwrap_or(&[None; 3])]);
        let columns = [side(l).columns(), side(r).columns()].concat();
        text(&RecordBatch::try_new(both.clone(), columns).unwrap(), 0)
    };
    let mut out = Multiset::new();
    let mut matched_right = BTreeMap::new();
    for (l, ld) in left {
        let mut matched = false;
        for (r, rd) in right {
            if key(l).is_none() || key(l) != key(r) {
                continue;
            }
            matched = true;
            matched_right.insert(r, ());
            if !matches!(how, JoinKind::Semi | JoinKind::Anti) {
                add(&mut out, line(Some(l), Some(r)), ld * rd);
            }
        }
        match how {
            JoinKind::Left | JoinKind::Full if !matched => add(&mut out, line(Some(l), None), *ld),
            JoinKind::Semi if matched => add(&mut out, alone(l), *ld),
            JoinKind::Anti if !matched => add(&mut out, alone(l), *ld),
            _ => {}
        }
    }
    if how == JoinKind::Full {
        for (r, rd) in right.iter().filter(|(r, _)| !matched_right.contains_key(r)) {
            add(&mut out, line(None, Some(r)), *rd);
        }
    }
    out
}

/// An operator with what went in and came out.
struct Test {
    kind: Kind,
    node: Node,
    states: Vec<Arc<MemoryState>>,
    state_bytes_max: usize,
    operator: Box<dyn Operator>,
    inputs: [Rows; 2],
    output: Multiset,
    errors: Multiset,
    epoch: i64,
    uncommitted: Vec<(i64, Vec<ArrangementChange>)>,
}

fn build(node: &Node, states: &[Arc<MemoryState>], state_bytes_max: usize) -> Box<dyn Operator> {
    let context = BuildContext {
        worker: 0,
        workers: 1,
        partitions: 4,
        fresh: true,
        state_bytes_max,
        error_mapper: map_error,
        demand: std::rc::Rc::new(std::cell::Cell::new(true)),
    };
    operators::build(node, states.iter().map(|s| s.handle()).collect(), &context).unwrap()
}

impl Test {
    fn new(kind: Kind, node: Node, state_bytes_max: usize) -> Test {
        let specs = operators::arrangements(&node);
        let states: Vec<_> = (specs.iter().enumerate())
            .map(|(i, spec)| MemoryState::new(10 + i as u64, spec))
            .collect();
        Test {
            kind,
            operator: build(&node, &states, state_bytes_max),
            node,
            states,
            state_bytes_max,
            inputs: Default::default(),
            output: Multiset::new(),
            errors: Multiset::new(),
            epoch: 0,
            uncommitted: Vec::new(),
        }
    }

    /// One epoch without a look at the result.
    fn step(&mut self, pushes: &[(usize, Vec<(Row, i64)>)]) {
        self.epoch += 1;
        let mut out = Output::default();
        for (port, rows) in pushes {
            for (row, diff) in rows {
                let entry = self.inputs[*port].entry(*row).or_insert(0);
                *entry += diff;
                if *entry == 0 {
                    self.inputs[*port].remove(row);
                }
            }
            let values: Vec<Row> = rows.iter().map(|r| r.0).collect();
            let diffs: Vec<i64> = rows.iter().map(|r| r.1).collect();
            let delta = Delta::new(batch(self.kind, &values), Diffs::from(diffs));
            self.operator.push(*port, delta, &mut out);
        }
        self.operator.finish(self.epoch, &mut out);
        for piece in &out.rows {
            for row in 0..piece.len() {
                let diff = piece.diffs.get(row);
                add(&mut self.output, text(&piece.rows, row), diff);
            }
        }
        out.errors
            .iter()
            .for_each(|e| add_rows(&mut self.errors, e));
        self.uncommitted.push((self.epoch, out.changes));
    }

    fn check(&self) {
        let (expected, failing) = match &self.node.op {
            Op::Join { kind, .. } => (
                joined(self.kind, *kind, &self.inputs[0], &self.inputs[1]),
                0,
            ),
            _ => aggregated(self.kind, &self.inputs[0]),
        };
        assert_eq!(self.output, expected, "epoch {}", self.epoch);
        assert_eq!(self.errors.values().sum::<i64>(), failing);
        assert!(self.errors.keys().all(|e| e.starts_with("(22003, ")));
    }

    fn commit(&mut self, behind: usize) {
        while self.uncommitted.len() > behind {
            let (epoch, changes) = self.uncommitted.remove(0);
            self.states.iter().for_each(|s| s.commit(epoch, &changes));
        }
    }

    fn restart(&mut self) {
        self.commit(0);
        self.operator = build(&self.node, &self.states, self.state_bytes_max);
    }

    /// Random changes of rows with these keys: some come, some go, some change, some do both within an epoch.
    fn run(&mut self, rng: &mut ChaCha8Rng, keys: &[[Option<i64>; 2]], epochs: usize, times: i64) {
        let ports = self.node.inputs.len();
        for _ in 0..epochs {
            let mut pushes = Vec::new();
            let mut live = self.inputs.clone();
            for _ in 0..rng.random_range(0..4) {
                let port = rng.random_range(0..ports);
                let mut rows = Vec::new();
                for _ in 0..rng.random_range(0..8) {
                    let (row, diff) = match live[port].iter().nth(rng.random_range(0..16)) {
                        Some((row, diff)) if rng.random_bool(0.5) => (*row, -*diff),
                        _ => {
                            let key = keys[rng.random_range(0..keys.len())];
                            let value = rng.random_bool(0.9).then(|| rng.random_range(-3..4));
                            ([key[0], key[1], value], rng.random_range(1..4) * times)
                        }
                    };
                    *live[port].entry(row).or_insert(0) += diff;
                    live[port].retain(|_, d| *d != 0);
                    rows.push((row, diff));
                }
                pushes.push((port, rows));
            }
            self.step(&pushes);
            self.check();
            match rng.random_range(0..8) {
                0 => self.restart(),
                1..5 => self.commit(0),
                _ => self.commit(1),
            }
        }
        self.restart();
        self.step(&[]);
        self.check();
    }
}

fn nodes(kind: Kind) -> Vec<Node> {
    let joins = [
        JoinKind::Inner,
        JoinKind::Left,
        JoinKind::Full,
        JoinKind::Semi,
        JoinKind::Anti,
    ];
    let joins = joins.into_iter().map(|how| join(kind, how));
    std::iter::once(aggregates(kind)).chain(joins).collect()
}

/// Runs all operators with plenty of memory and with none.
fn all(kind: Kind, keys: &[[Option<i64>; 2]], epochs: usize, times: i64) {
    for (i, node) in nodes(kind).into_iter().enumerate() {
        for state_bytes_max in [usize::MAX, 1] {
            let seed = 100 + i as u64;
            println!("seed {seed}, {:?}, memory {state_bytes_max}", node.op);
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            Test::new(kind, node.clone(), state_bytes_max).run(&mut rng, keys, epochs, times);
        }
    }
}

/// The number whose [`mix`] this is.
fn unmix(mut x: u64) -> u64 {
    let inverse = |odd: u64| {
        // Newton's iteration doubles the right bits each time.
        (0..6).fold(odd, |i: u64, _| {
            i.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(i)))
        })
    };
    let unshift = |x: u64, by: u32| (0..3).fold(x, |y, _| x ^ (y >> by));
    x = unshift(x, 31).wrapping_mul(inverse(0x94d0_49bb_1331_11eb));
    x = unshift(x, 27).wrapping_mul(inverse(0xbf58_476d_1ce4_e5b9));
    unshift(x, 30).wrapping_sub(0x9e37_79b9_7f4a_7c15)
}

/// Pairs of integers that all have the same key hash.
fn colliding(n: usize) -> Vec<[Option<i64>; 2]> {
    let target = 0x0123_4567_89ab_cdef_u64;
    let keys: Vec<[Option<i64>; 2]> = (0..n as i64)
        .map(|a| {
            let b = unmix(target ^ mix(a as u64).rotate_left(23));
            [Some(a), Some(b as i64)]
        })
        .collect();
    let rows: Vec<Row> = keys.iter().map(|k| [k[0], k[1], None]).collect();
    let hashes = hash_columns(&batch(Kind::Integer, &rows).columns()[..2], n);
    assert!(hashes.iter().all(|h| *h == hashes[0]), "{hashes:?}");
    keys
}

#[test]
fn keys_that_share_one_hash() {
    let mut keys = colliding(24);
    keys.extend([[Some(1), Some(1)], [None, Some(1)], [None, None]]);
    all(Kind::Integer, &keys, 40, 1);
}

#[test]
fn keys_and_values_of_a_megabyte() {
    let keys: Vec<_> = (0..3).map(|n| [Some(n), Some(n / 2)]).collect();
    for node in [
        aggregates(Kind::LongText),
        join(Kind::LongText, JoinKind::Full),
    ] {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        Test::new(Kind::LongText, node, 1).run(&mut rng, &keys, 6, 1);
    }
}

#[test]
fn null_nan_and_two_zeros_as_keys() {
    let mut keys: Vec<_> = (0..7).map(|n| [Some(n), Some(n)]).collect();
    keys.extend([
        [Some(0), Some(1)],
        [Some(1), Some(0)],
        [Some(2), Some(3)],
        [None, Some(2)],
        [Some(0), None],
        [None, None],
    ]);
    all(Kind::Float, &keys, 40, 1);
}

#[test]
fn rows_that_are_there_a_trillion_times() {
    let keys: Vec<_> = (0..4).map(|n| [Some(n), Some(0)]).collect();
    // Joins multiply the diffs of both sides.
    for node in nodes(Kind::Integer) {
        let times = match node.op {
            Op::Join { .. } => 1 << 20,
            _ => 1 << 40,
        };
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        Test::new(Kind::Integer, node, 1).run(&mut rng, &keys, 40, times);
    }
}

#[test]
fn a_sum_that_does_not_fit_heals() {
    for state_bytes_max in [usize::MAX, 1] {
        let mut test = Test::new(Kind::Integer, aggregates(Kind::Integer), state_bytes_max);
        let row = |v: i64| [Some(1), Some(1), Some(v)];
        let many = 1 << 40;
        let steps = [
            vec![(row(i64::MAX), many)],
            vec![(row(i64::MIN), many)],
            vec![(row(7), 2)],
            vec![(row(i64::MAX), -many)],
            vec![(row(i64::MIN), -many), (row(-8), 1)],
            vec![(row(7), -2), (row(-8), -1)],
        ];
        let failing = [1, 0, 0, 1, 0, 0];
        for (step, failing) in steps.into_iter().zip(failing) {
            test.step(&[(0, step)]);
            test.check();
            assert_eq!(test.errors.len(), failing, "epoch {}", test.epoch);
            test.restart();
        }
        assert!(test.output.is_empty());
    }
}

/// 10,000 epochs of one key, and of none.
#[test]
fn very_many_epochs_keep_the_state_small() {
    for node in nodes(Kind::Integer) {
        for state_bytes_max in [usize::MAX, 1] {
            let mut test = Test::new(Kind::Integer, node.clone(), state_bytes_max);
            let row = |v: i64| [Some(1), Some(1), Some(v)];
            let both = |v, diff| (0..node.inputs.len()).map(move |p| (p, vec![(row(v), diff)]));
            test.step(&both(0, 1).collect::<Vec<_>>());
            let mut largest = 0;
            for v in 1..10_000 {
                let pushes: Vec<_> = match v % 3 {
                    0 => vec![],
                    1 => vec![(0, vec![])],
                    _ => both(v - 2, -1).chain(both(v + 1, 1)).collect(),
                };
                test.step(&pushes);
                test.commit(1);
                largest = largest.max(test.operator.state_bytes());
            }
            test.check();
            assert!(largest < 2_000_000, "{largest} bytes of {:?}", node.op);
        }
    }
}
