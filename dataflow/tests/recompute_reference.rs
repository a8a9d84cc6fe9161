//! The general operator against its program run on everything, after every epoch of random changes, with restarts and
//! eviction at random.

#[allow(dead_code)]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use support::integers::{Row, Rows, add, batch, delta, rows_of, schema};
use support::{MemoryState, build};
use tidemill_dataflow::operator::Output;
use tidemill_dataflow::operators;
use tidemill_dataflow::plan::{BatchProgram, Node, Op, RowError};
use tidemill_zset::CollectionId;

/// A row with this value makes the program fail.
const POISON: i64 = 13;

/// Per key: the rows of input 0 numbered in the order given (like row_number), and how many rows input 1 has. Without
/// a key: one row, of the sum and the last row's value, and the count of input 1.
#[derive(Debug)]
struct Numbered {
    keyed: bool,
    /// It says that it may take long.
    multiplies: bool,
    output: SchemaRef,
}

impl Numbered {
    fn rows(&self, inputs: &[Vec<Row>]) -> Result<Vec<Row>, RowError> {
        let values = |port: usize| inputs[port].iter().map(|r: &Row| r[1].unwrap());
        if values(0).chain(values(1)).any(|v| v == POISON) {
            return Err(RowError {
                sqlstate: "22000".into(),
                message: "poison".into(),
            });
        }
        if !self.keyed {
            let last = inputs[0].last().map(|r| r[1].unwrap());
            let count = inputs[1].len() as i64;
            return Ok(vec![vec![Some(values(0).sum()), last, Some(count)]]);
        }
        let mut by_key: BTreeMap<Option<i64>, (Vec<&Row>, i64)> = BTreeMap::new();
        for row in &inputs[0] {
            by_key.entry(row[2]).or_default().0.push(row);
        }
        for row in &inputs[1] {
            by_key.entry(row[0]).or_default().1 += 1;
        }
        let mut out = Vec::new();
        for (key, (rows, count)) in by_key {
            for (i, row) in rows.iter().enumerate() {
                out.push(vec![key, row[0], row[1], Some(i as i64), Some(count)]);
            }
        }
        Ok(out)
    }
}

impl BatchProgram for Numbered {
    fn run(
        &self,
        inputs: Vec<Vec<RecordBatch>>,
        _stop: &Arc<AtomicBool>,
    ) -> Result<Vec<RecordBatch>, RowError> {
        let rows: Vec<Vec<Row>> = inputs
            .iter()
            .map(|batches| batches.iter().flat_map(rows_of).collect())
            .collect();
        for (rows, key) in rows.iter().zip([2, 0]) {
            let alike = |a: &Row, b: &Row| !self.keyed || a[key] == b[key];
            let mut keys = BTreeSet::new();
            for of_key in rows.chunk_by(alike) {
                assert!(of_key.is_sorted(), "rows of a key come in canonical order");
                let new = keys.insert(of_key[0][key]);
                assert!(!self.keyed || new, "rows of a key come side by side");
            }
        }
        Ok(vec![batch(&self.output, &self.rows(&rows)?)])
    }

    fn same(&self, other: &dyn BatchProgram) -> bool {
        std::ptr::addr_eq(self, other)
    }

    fn multiplies(&self) -> bool {
        self.multiplies
    }

    fn describe(&self) -> String {
        "numbered".into()
    }
}

/// Input 0: (x, v, key). Input 1: (key, v).
fn node(keyed: bool, key: DataType, multiplies: bool) -> (Node, Arc<Numbered>) {
    let int = DataType::Int64;
    let schemas = [
        schema(&[int.clone(), int.clone(), key.clone()]),
        schema(&[key.clone(), int.clone()]),
    ];
    let output = match keyed {
        true => schema(&[key, int.clone(), int.clone(), int.clone(), int]),
        false => schema(&[int.clone(), int.clone(), int]),
    };
    let program = Arc::new(Numbered {
        keyed,
        multiplies,
        output: output.clone(),
    });
    let input = |(i, schema): (usize, SchemaRef)| Node {
        op: Op::Input {
            collection: CollectionId(i as u64),
            columns: (0..schema.fields().len()).collect(),
        },
        inputs: vec![],
        schema,
        append_only: false,
    };
    let keys = match keyed {
        true => vec![vec![2], vec![0]],
        false => vec![vec![], vec![]],
    };
    let node = Node {
        op: Op::Recompute {
            keys,
            program: program.clone(),
            reason: "a test".into(),
        },
        inputs: schemas.into_iter().enumerate().map(input).collect(),
        schema: output,
        append_only: false,
    };
    (node, program)
}

/// What the program gives for each key alone; keys on which it fails.
fn reference(program: &Numbered, inputs: &[Rows; 2]) -> (Rows, Vec<Option<i64>>) {
    let column = [2, 0];
    let mut keys: Vec<Option<i64>> = match program.keyed {
        true => (0..2)
            .flat_map(|port| inputs[port].keys().map(move |r| r[column[port]]))
            .collect(),
        false => vec![None],
    };
    keys.sort();
    keys.dedup();
    let mut out = Rows::new();
    let mut failing = Vec::new();
    for key in keys {
        let of_key = |port: usize| -> Vec<Row> {
            let rows = inputs[port].iter();
            rows.filter(|(r, _)| !program.keyed || r[column[port]] == key)
                .flat_map(|(r, d)| vec![r.clone(); *d as usize])
                .collect()
        };
        match program.rows(&[of_key(0), of_key(1)]) {
            Ok(rows) => rows.into_iter().for_each(|r| add(&mut out, r, 1)),
            Err(_) => failing.push(key),
        }
    }
    (out, failing)
}

fn random_run(keyed: bool, key: DataType, state_bytes_max: usize, seed: u64) {
    println!("seed {seed}, keyed {keyed}, key {key}, {state_bytes_max} bytes");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (node, program) = node(keyed, key, seed.is_multiple_of(3));
    let states: Vec<_> = operators::arrangements(&node)
        .iter()
        .enumerate()
        .map(|(i, spec)| MemoryState::new(i as u64, spec))
        .collect();
    let mut operator = build(&node, &states, true, state_bytes_max);
    let mut inputs: [Rows; 2] = Default::default();
    let mut output = Rows::new();
    let mut errors: BTreeMap<String, i64> = BTreeMap::new();
    let mut uncommitted = Vec::new();
    for epoch in 1..60 {
        let mut out = Output::default();
        for _ in 0..rng.random_range(0..4) {
            let port = rng.random_range(0..2);
            let mut rows = Vec::new();
            for _ in 0..rng.random_range(1..5) {
                let key = match rng.random_range(0..6) {
                    0 => None,
                    _ => Some(rng.random_range(0..6)),
                };
                let v = match rng.random_range(0..20) {
                    0 => Some(POISON),
                    _ => Some(rng.random_range(0..4)),
                };
                let old = inputs[port].iter().nth(rng.random_range(0..15));
                let (row, diff) = match (rng.random_bool(0.5), old) {
                    (true, Some((row, diff))) => (row.clone(), -diff),
                    _ if port == 0 => (vec![Some(rng.random_range(0..3)), v, key], 2),
                    _ => (vec![key, v], 1),
                };
                add(&mut inputs[port], row.clone(), diff);
                rows.push((row, diff));
            }
            operator.push(port, delta(&node.inputs[port].schema, &rows), &mut out);
        }
        if seed.is_multiple_of(2) {
            out.allowance = 1;
        }
        operator.finish(epoch, &mut out);
        while operator.is_busy() {
            operator.go_on(&mut out);
        }
        for piece in &out.rows {
            for (i, row) in rows_of(&piece.rows).into_iter().enumerate() {
                add(&mut output, row, piece.diffs.get(i));
            }
        }
        for piece in &out.errors {
            for i in 0..piece.len() {
                let text =
                    arrow::util::display::array_value_to_string(piece.rows.column(2), i).unwrap();
                *errors.entry(text).or_insert(0) += piece.diffs.get(i);
            }
        }
        uncommitted.push((epoch, out.changes));
        let (expected, failing) = reference(&program, &inputs);
        assert_eq!(output, expected, "epoch {epoch}");
        let failed: Vec<_> = errors.iter().filter(|e| *e.1 != 0).collect();
        assert!(failed.iter().all(|e| *e.1 == 1), "{failed:?}");
        assert_eq!(failed.len(), failing.len(), "{failed:?} {failing:?}");

        let behind = match rng.random_range(0..4) {
            0 => 1,
            _ => 0,
        };
        while uncommitted.len() > behind {
            let (epoch, changes) = uncommitted.remove(0);
            states.iter().for_each(|s| s.commit(epoch, &changes));
        }
        if behind == 0 {
            assert_eq!(states[2].len(), output.len(), "the output is stored");
            assert_eq!(states[3].len(), failing.len(), "the failures are stored");
        }
        if behind == 0 && rng.random_bool(0.15) {
            operator = build(&node, &states, false, state_bytes_max);
        }
    }
}

#[test]
fn by_key() {
    for seed in 0..40 {
        let bytes = [usize::MAX, 1, 4_000][seed as usize % 3];
        random_run(true, DataType::Int64, bytes, seed);
        random_run(true, DataType::Utf8View, bytes, 1000 + seed);
    }
}

#[test]
fn without_a_key() {
    for seed in 0..40 {
        let bytes = [usize::MAX, 1][seed as usize % 2];
        random_run(false, DataType::Int64, bytes, seed);
    }
}

/// State that is too large can't be dropped before it is committed. Then it can, in a step without input too.
#[test]
fn too_large_a_state_is_dropped_once_it_is_committed() {
    let (node, _) = node(true, DataType::Int64, false);
    let states: Vec<_> = operators::arrangements(&node)
        .iter()
        .enumerate()
        .map(|(i, spec)| MemoryState::new(i as u64, spec))
        .collect();
    let bytes_max = 100_000;
    let mut operator = build(&node, &states, true, bytes_max);
    let rows: Vec<(Row, i64)> = (0..5_000)
        .map(|key| (vec![Some(key), Some(1), Some(key)], 1))
        .collect();
    let mut out = Output::default();
    operator.push(0, delta(&node.inputs[0].schema, &rows), &mut out);
    operator.finish(1, &mut out);
    assert!(operator.state_bytes() > 2 * bytes_max);
    for epoch in 2..4 {
        let mut nothing = Output::default();
        operator.finish(epoch, &mut nothing);
        assert!(nothing.changes.is_empty());
        assert!(operator.state_bytes() > 2 * bytes_max, "it isn't committed");
    }
    states.iter().for_each(|s| s.commit(1, &out.changes));
    operator.finish(4, &mut Output::default());
    assert!(operator.state_bytes() <= bytes_max);
    // What was dropped is found again.
    let mut out = Output::default();
    operator.push(
        0,
        delta(&node.inputs[0].schema, &[(rows[7].0.clone(), -1)]),
        &mut out,
    );
    operator.finish(5, &mut out);
    let changed: i64 = out.rows.iter().map(|piece| piece.diffs.get(0)).sum();
    assert_eq!(changed, -1);
}
