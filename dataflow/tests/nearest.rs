//! The general operator over large keys, for a program that gives rows of one side with the nearest ones of the other: against the program run on everything,
//! after every epoch of random changes, with restarts and eviction at random. And it is given few rows.

#[allow(dead_code)]
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use support::integers::{Row, Rows, add, batch, delta, rows_of, schema};
use support::{MemoryState, build};
use tidemill_dataflow::operator::Output;
use tidemill_dataflow::operators;
use tidemill_dataflow::plan::{BatchProgram, Neighbourhood, Node, Op, OrderBy, RowError};
use tidemill_zset::CollectionId;

/// Of rows (key, probes, place, v): those that probe, each with the last `count` of the others up to its place, of equal ones the least v first:
/// (key, place, v, place, v). One without any comes with NULLs, or, if it is `strict`, sees only those before its place, and doesn't come without.
#[derive(Debug)]
struct Nearest {
    keyed: bool,
    count: usize,
    strict: bool,
    descending: bool,
    neighbourhood: Neighbourhood,
    output: SchemaRef,
    seen: AtomicUsize,
}

impl Nearest {
    fn rows(&self, input: &[Row]) -> Vec<Row> {
        let mut by_key: BTreeMap<Option<i64>, Vec<&Row>> = BTreeMap::new();
        for row in input {
            let key = if self.keyed { row[0] } else { None };
            by_key.entry(key).or_default().push(row);
        }
        let mut out = Vec::new();
        for rows in by_key.values() {
            // In the order of the places, whichever that is.
            let place = |row: &Row| row[2].map(|p| if self.descending { -p } else { p });
            let (probing, mut searched): (Vec<&Row>, Vec<&Row>) =
                rows.iter().partition(|row| row[1] == Some(1));
            searched.retain(|row| row[2].is_some());
            searched.sort_by_key(|row| (place(row).map(|p| -p), row[3], row[0]));
            for own in probing {
                let within = |row: &&&Row| match place(own) {
                    None => false,
                    Some(p) => place(row) < Some(p) || !self.strict && place(row) == Some(p),
                };
                let found: Vec<_> = searched.iter().filter(within).take(self.count).collect();
                let none = found.is_empty() && !self.strict;
                let found = found.into_iter().map(|row| (row[2], row[3]));
                for (p, v) in found.chain(none.then_some((None, None))) {
                    out.push(vec![own[0], own[2], own[3], p, v]);
                }
            }
        }
        out
    }
}

impl BatchProgram for Nearest {
    fn run(
        &self,
        inputs: Vec<Vec<RecordBatch>>,
        _stop: &Arc<AtomicBool>,
    ) -> Result<Vec<RecordBatch>, RowError> {
        let rows: Vec<Row> = inputs[0].iter().flat_map(rows_of).collect();
        self.seen.fetch_add(rows.len(), Ordering::Relaxed);
        Ok(vec![batch(&self.output, &self.rows(&rows))])
    }

    fn neighbourhood(&self) -> Option<&Neighbourhood> {
        Some(&self.neighbourhood)
    }

    fn same(&self, other: &dyn BatchProgram) -> bool {
        std::ptr::addr_eq(self, other)
    }

    fn multiplies(&self) -> bool {
        true
    }

    fn describe(&self) -> String {
        "nearest".into()
    }
}

fn node(keyed: bool, count: usize, strict: bool, place: DataType) -> (Node, Arc<Nearest>) {
    let int = DataType::Int64;
    let descending = count.is_multiple_of(2);
    let by = |column, descending| OrderBy {
        column,
        descending,
        nulls_first: false,
    };
    let output = [&int, &place, &int, &place, &int].map(DataType::clone);
    let program = Arc::new(Nearest {
        keyed,
        count,
        strict,
        descending,
        neighbourhood: Neighbourhood {
            order: vec![by(1, false), by(2, descending)],
            reaches: vec![],
            runs: false,
            matches: Some(count as u64),
        },
        output: schema(&output),
        seen: AtomicUsize::new(0),
    });
    let node = Node {
        op: Op::Recompute {
            keys: vec![if keyed { vec![0] } else { vec![] }],
            program: program.clone(),
            reason: "a test".into(),
        },
        inputs: vec![Node {
            op: Op::Input {
                collection: CollectionId(0),
                columns: vec![0, 1, 2, 3],
            },
            inputs: vec![],
            schema: schema(&[int.clone(), DataType::Boolean, place, int]),
            append_only: false,
        }],
        schema: program.output.clone(),
        append_only: false,
    };
    (node, program)
}

/// Of both sides equally many, or hardly any of one of them.
fn random_row(rng: &mut ChaCha8Rng, span: i64, seed: u64) -> Row {
    let key = [None, Some(0), Some(1)][rng.random_range(0..3)];
    let probes = rng.random_bool([0.5, 0.02, 0.98][seed as usize % 3]);
    let place = rng.random_bool(0.98).then(|| rng.random_range(0..span));
    vec![
        key,
        Some(i64::from(probes)),
        place,
        Some(rng.random_range(0..5)),
    ]
}

/// Gives how many rows the program was given in the last epochs. `steady`: a few rows change in each.
fn random_run(
    (node, program): (Node, Arc<Nearest>),
    bytes_max: usize,
    seed: u64,
    steady: bool,
) -> Vec<usize> {
    let Nearest {
        keyed,
        count,
        strict,
        ..
    } = &*program;
    println!("seed {seed}, keyed {keyed}, first {count}, strict {strict}, {bytes_max} bytes");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    // Equal places are frequent or rare.
    let span = [150, 10_000][seed as usize / 3 % 2];
    let schema = node.inputs[0].schema.clone();
    let states: Vec<_> = operators::arrangements(&node)
        .iter()
        .enumerate()
        .map(|(i, spec)| MemoryState::new(i as u64, spec))
        .collect();
    let mut operator = build(&node, &states, true, bytes_max);
    let (mut input, mut output) = (Rows::new(), Rows::new());
    let mut seen = Vec::new();
    for epoch in 1..30 {
        let mut out = Output::default();
        let mut rows: Vec<(Row, i64)> = Vec::new();
        let many = epoch == 1 || !steady && rng.random_bool(0.04);
        let changes = if many { 3_000 } else { 4 };
        for _ in 0..changes {
            let old = (!many && rng.random_bool(0.5)).then(|| {
                let at = rng.random_range(0..input.len());
                input.iter().nth(at).map(|(row, n)| (row.clone(), *n))
            });
            let change = match (rng.random_range(0..2), old.flatten()) {
                (0, Some((row, n))) => (row, -n),
                (_, Some((row, _))) => (row, 1),
                _ => (random_row(&mut rng, span, seed), 1),
            };
            add(&mut input, change.0.clone(), change.1);
            rows.push(change);
        }
        operator.push(0, delta(&schema, &rows), &mut out);
        let before = program.seen.load(Ordering::Relaxed);
        operator.finish(epoch, &mut out);
        while operator.is_busy() {
            operator.go_on(&mut out);
        }
        seen.push(program.seen.load(Ordering::Relaxed) - before);
        for piece in &out.rows {
            for (i, row) in rows_of(&piece.rows).into_iter().enumerate() {
                add(&mut output, row, piece.diffs.get(i));
            }
        }
        assert!(out.errors.is_empty());
        let all = input
            .iter()
            .flat_map(|(row, n)| vec![row.clone(); *n as usize]);
        let mut expected = Rows::new();
        for row in program.rows(&all.collect::<Vec<_>>()) {
            add(&mut expected, row, 1);
        }
        assert!(output == expected, "epoch {epoch}");
        states.iter().for_each(|s| s.commit(epoch, &out.changes));
        if !steady && rng.random_bool(0.1) {
            operator = build(&node, &states, false, bytes_max);
        }
    }
    seen.split_off(5)
}

#[test]
fn as_if_computed_from_everything() {
    for seed in 0..6 {
        let bytes = [usize::MAX, 300_000, 1][seed as usize % 3];
        for keyed in [true, false] {
            for (count, strict) in [(1, false), (1, true), (2, false), (3, true)] {
                let types = [DataType::Int64, DataType::Int32, DataType::Float64];
                let place = types[seed as usize / 2].clone();
                random_run(node(keyed, count, strict, place), bytes, seed, false);
            }
        }
    }
}

#[test]
fn few_rows_are_looked_at() {
    // Seeds 3 to 5 have few equal places.
    for seed in 3..6 {
        for keyed in [true, false] {
            for (count, strict) in [(1, false), (1, true), (3, false)] {
                let of = node(keyed, count, strict, DataType::Int64);
                let seen = random_run(of, usize::MAX, seed, true);
                // All rows without a place have the same.
                assert!(seen.iter().all(|rows| *rows < 250), "{seen:?}");
            }
        }
    }
}
