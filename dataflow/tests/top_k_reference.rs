//! The first rows of each key against a list that is sorted anew after every epoch of random changes, with restarts and eviction at random.

#[allow(dead_code)]
mod support;

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt64Type};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use support::integers::{Row, Rows, add, delta, rows_of};
use support::{MemoryState, map_error};
use tidemill_dataflow::operator::{BuildContext, Operator, Output};
use tidemill_dataflow::operators;
use tidemill_dataflow::plan::{Node, Numbering, Op, OrderBy};
use tidemill_zset::CollectionId;

/// What an operator may do in one turn.
const ALLOWANCE: usize = 1 << 30;

/// What varies from run to run.
#[derive(Clone, Debug)]
struct Case {
    key: Option<DataType>,
    numbering: Numbering,
    count: u64,
    descending: bool,
    nulls_first: bool,
    numbered: bool,
    append_only: bool,
    state_bytes_max: usize,
    /// Values that rows may have, and rows per epoch at most.
    values: i64,
    rows: usize,
}

/// Input: (v, key, x); ordered by v.
fn node(case: &Case) -> Node {
    let key = case.key.clone().unwrap_or(DataType::Int64);
    let mut fields = vec![
        Field::new("v", DataType::Float64, true),
        Field::new("key", key, true),
        Field::new("x", DataType::Int64, true),
    ];
    let schema: SchemaRef = Arc::new(Schema::new(fields.clone()));
    fields.extend(
        case.numbered
            .then(|| Field::new("number", DataType::UInt64, true)),
    );
    let input = Node {
        op: Op::Input {
            collection: CollectionId(0),
            columns: vec![0, 1, 2],
        },
        inputs: vec![],
        schema,
        append_only: case.append_only,
    };
    Node {
        op: Op::TopK {
            keys: case.key.iter().map(|_| 1).collect(),
            order: vec![OrderBy {
                column: 0,
                descending: case.descending,
                nulls_first: case.nulls_first,
            }],
            numbering: case.numbering,
            count: case.count,
            numbered: case.numbered,
        },
        inputs: vec![input],
        schema: Arc::new(Schema::new(fields)),
        append_only: false,
    }
}

fn build(node: &Node, state: &Arc<MemoryState>, fresh: bool, case: &Case) -> Box<dyn Operator> {
    let context = BuildContext {
        worker: 0,
        workers: 1,
        partitions: 16,
        fresh,
        state_bytes_max: case.state_bytes_max,
        error_mapper: map_error,
        demand: Default::default(),
    };
    operators::build(node, vec![state.handle()], &context).unwrap()
}

/// By v as the case says, then by key and x, NULL first.
fn compare(a: &Row, b: &Row, case: &Case) -> Ordering {
    let by_v = match (a[0], b[0]) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) if case.nulls_first => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (Some(_), None) if case.nulls_first => Ordering::Greater,
        (Some(_), None) => Ordering::Less,
        (Some(a), Some(b)) if case.descending => b.cmp(&a),
        (Some(a), Some(b)) => a.cmp(&b),
    };
    by_v.then(a[1].cmp(&b[1])).then(a[2].cmp(&b[2]))
}

fn reference(case: &Case, input: &Rows) -> Rows {
    let key = |row: &Row| case.key.as_ref().and(row[1]);
    let mut rows: Vec<&Row> = input
        .iter()
        .flat_map(|(row, diff)| std::iter::repeat_n(row, *diff as usize))
        .collect();
    rows.sort_by(|a, b| key(a).cmp(&key(b)).then(compare(a, b, case)));
    let mut out = Rows::new();
    for of_key in rows.chunk_by(|a, b| key(a) == key(b)) {
        let (mut value, mut rank, mut before) = (0, 0, None);
        for (i, row) in of_key.iter().enumerate() {
            if before != Some(row[0]) {
                (value, rank, before) = (value + 1, i as u64 + 1, Some(row[0]));
            }
            let number = match case.numbering {
                Numbering::RowNumber => i as u64 + 1,
                Numbering::Rank => rank,
                Numbering::DenseRank => value,
            };
            if number <= case.count {
                let mut row = (*row).clone();
                row.extend(case.numbered.then_some(Some(number as i64)));
                add(&mut out, row, 1);
            }
        }
    }
    out
}

/// Output rows; the number's type is none of those that rows of tests have.
fn output_rows(case: &Case, rows: &RecordBatch) -> Vec<Row> {
    let mut of_input = rows_of(&rows.project(&[0, 1, 2]).unwrap());
    if case.numbered {
        let numbers = rows.column(3).as_primitive::<UInt64Type>();
        assert_eq!(numbers.null_count(), 0);
        for (row, number) in of_input.iter_mut().zip(numbers.values()) {
            row.push(Some(*number as i64));
        }
    }
    of_input
}

fn random_run(case: &Case, seed: u64) {
    println!("seed {seed}, {case:?}");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let node = node(case);
    let specs = operators::arrangements(&node);
    assert_eq!(specs.len(), 1);
    let state = MemoryState::new(0, &specs[0]);
    let mut operator = build(&node, &state, true, case);
    let mut input = Rows::new();
    let mut output = Rows::new();
    let mut uncommitted = Vec::new();
    for epoch in 1..50 {
        let mut out = Output::default();
        for _ in 0..rng.random_range(0..4) {
            let mut rows = Vec::new();
            // Few changes of a large key are often behind its first rows.
            let most = if rng.random_bool(0.4) { 2 } else { case.rows };
            for _ in 0..rng.random_range(1..=most) {
                let mut value = |null: u32, below: i64| match rng.random_range(0..null) {
                    0 => None,
                    _ => Some(rng.random_range(0..below)),
                };
                let new = vec![value(8, case.values), value(6, 5), value(9, 3)];
                let nth = rng.random_range(0..2 * case.rows);
                let (row, diff) = match (rng.random_bool(0.5), input.iter().nth(nth)) {
                    (true, Some((row, diff))) if !case.append_only => (row.clone(), -diff),
                    _ => (new, rng.random_range(1..3)),
                };
                add(&mut input, row.clone(), diff);
                rows.push((row, diff));
            }
            operator.push(0, delta(&node.inputs[0].schema, &rows), &mut out);
        }
        if seed.is_multiple_of(2) {
            out.allowance = 1;
        }
        operator.finish(epoch, &mut out);
        while operator.is_busy() {
            out.allowance = 1;
            operator.go_on(&mut out);
        }
        for piece in &out.rows {
            for (i, row) in output_rows(case, &piece.rows).into_iter().enumerate() {
                add(&mut output, row, piece.diffs.get(i));
            }
        }
        uncommitted.push((epoch, out.changes));
        assert_eq!(output, reference(case, &input), "epoch {epoch}");

        let behind = match rng.random_range(0..4) {
            0 => 1,
            _ => 0,
        };
        while uncommitted.len() > behind {
            let (epoch, changes) = uncommitted.remove(0);
            state.commit(epoch, &changes);
        }
        if behind == 0 {
            let stored = match case.append_only {
                false => input.len(),
                true => {
                    let case = Case {
                        numbered: false,
                        ..case.clone()
                    };
                    reference(&case, &input).len()
                }
            };
            assert_eq!(state.len(), stored, "rows are stored");
            if rng.random_bool(0.15) {
                operator = build(&node, &state, false, case);
            }
        }
    }
}

#[test]
fn like_sorting_anew() {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let numberings = [Numbering::RowNumber, Numbering::Rank, Numbering::DenseRank];
    for seed in 0..320 {
        let key = [None, Some(DataType::Int64), Some(DataType::Utf8View)];
        let case = Case {
            key: key[rng.random_range(0..3)].clone(),
            numbering: numberings[rng.random_range(0..3)],
            count: [1, 2, 3, 10, u64::MAX][rng.random_range(0..5)],
            descending: rng.random(),
            nulls_first: rng.random(),
            numbered: rng.random(),
            append_only: rng.random(),
            state_bytes_max: [usize::MAX, 1, 4_000][rng.random_range(0..3)],
            values: [3, 30, 1000][rng.random_range(0..3)],
            rows: [4, 60, 300][rng.random_range(0..3)],
        };
        random_run(&case, seed);
    }
}

/// A key of 5,000 rows: what comes newly before all, what goes behind the first rows, and a first row that becomes another one are found without a look
/// at the others; a first row that goes isn't.
#[test]
fn first_rows_of_a_large_key_follow() {
    for numbering in [Numbering::RowNumber, Numbering::Rank, Numbering::DenseRank] {
        let case = Case {
            key: Some(DataType::Int64),
            numbering,
            count: 3,
            descending: true,
            nulls_first: false,
            numbered: true,
            append_only: false,
            state_bytes_max: usize::MAX,
            values: 0,
            rows: 0,
        };
        let node = node(&case);
        let state = MemoryState::new(0, &operators::arrangements(&node)[0]);
        let mut operator = build(&node, &state, true, &case);
        let (mut input, mut output) = (Rows::new(), Rows::new());
        let mut epoch = 0;
        // Gives how many rows it has looked at.
        let mut change = |operator: &mut Box<dyn Operator>, rows: &[(Row, i64)]| -> usize {
            epoch += 1;
            let mut out = Output {
                allowance: ALLOWANCE,
                ..Output::default()
            };
            operator.push(0, delta(&node.inputs[0].schema, rows), &mut out);
            operator.finish(epoch, &mut out);
            assert!(!operator.is_busy());
            for (row, diff) in rows {
                add(&mut input, row.clone(), *diff);
            }
            for piece in &out.rows {
                for (i, row) in output_rows(&case, &piece.rows).into_iter().enumerate() {
                    add(&mut output, row, piece.diffs.get(i));
                }
            }
            assert_eq!(output, reference(&case, &input), "epoch {epoch}");
            state.commit(epoch, &out.changes);
            ALLOWANCE - out.allowance
        };
        let row = |v: i64| vec![Some(v), Some(1), Some(v)];
        let other = |v: i64| vec![Some(v), Some(1), Some(-v)];
        let all: Vec<(Row, i64)> = (0..5000).map(|v| (row(v), 1)).collect();
        change(&mut operator, &all);
        assert!(change(&mut operator, &[(row(5000), 1)]) < 10);
        operator = build(&node, &state, false, &case);
        let looked = change(&mut operator, &[(row(5001), 1)]);
        assert!(looked > 5000, "after a restart nothing is known");

        for v in 5002..5020 {
            let rows = [
                vec![(row(v), 1), (row(v - 5000), -1)],
                vec![(row(v), -1), (other(v), 1), (row(17), 1)],
                vec![(row(v), 2), (other(v), -1), (row(v), -1)],
            ];
            for rows in rows {
                assert!(change(&mut operator, &rows) < 10, "{numbering:?}, {v}");
            }
        }
        assert!(change(&mut operator, &[(row(5019), -1)]) > 5000);
    }
}
