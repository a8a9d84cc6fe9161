//! The general operator over large keys, for a program that looks at neighbours only: against the program run on everything, after every epoch
//! of random changes, with restarts and eviction at random. And it is given few rows.

#[allow(dead_code)]
mod support;

use std::collections::BTreeMap;
use std::ops::Range;
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
use tidemill_dataflow::plan::{
    BatchProgram, Neighbourhood, Node, Op, OrderBy, Reach, RowError, Running,
};
use tidemill_zset::CollectionId;

/// A row with this value makes the program fail if it is seen by the row two places after it.
const POISON: i64 = 13;
/// More than the operator recomputes as a whole.
const KEY_ROWS: usize = 700;

/// What the program computes for a row.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// The value two rows before, and the sum of that over three rows around.
    Rows,
    /// The sum of the values not more than three away in the first order column, and then the row before's sum.
    Distance,
    /// The sum of all values up to the row, each with twice the one before it and three times the twentieth one after it.
    Running,
}

/// Of rows (key, x, v), by key and x, descending or not, equal ones by v descending: (key, x, v, result).
struct Windows {
    kind: Kind,
    keyed: bool,
    neighbourhood: Neighbourhood,
    output: SchemaRef,
    seen: Arc<AtomicUsize>,
    running: Option<Running>,
}

impl std::fmt::Debug for Windows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.kind)
    }
}

/// The rows of each key in order.
fn in_order(input: &[Row], keyed: bool) -> Vec<Vec<&Row>> {
    let mut by_key: BTreeMap<Option<i64>, Vec<&Row>> = BTreeMap::new();
    for row in input {
        let key = if keyed { row[0] } else { None };
        by_key.entry(key).or_default().push(row);
    }
    for rows in by_key.values_mut() {
        // NULLs last, whatever comes first.
        rows.sort_by_key(|r| {
            let x = r[1].map(|x| if keyed { -x } else { x });
            (x.is_none(), x, r[2].map(|v| -v))
        });
    }
    by_key.into_values().collect()
}

fn poison() -> RowError {
    RowError {
        sqlstate: "22000".into(),
        message: "poison".into(),
    }
}

/// For each row of a key, that counts or doesn't: the sum of all up to it that do.
fn running_sums(rows: &[&Row], counts: impl Fn(&Row) -> bool) -> Result<Vec<i64>, RowError> {
    let mut sum = rows.first().and_then(|r| r.get(4).copied()?).unwrap_or(0);
    let at = |i: Option<usize>| i.and_then(|i| rows.get(i)).map_or(0, |r| r[2].unwrap());
    let sums = rows.iter().enumerate().map(|(i, row)| {
        let (before, after) = (at(i.checked_sub(1)), at(Some(i + 20)));
        if counts(row) {
            sum += row[2].unwrap() + 2 * before + 3 * after;
        }
        match before {
            POISON => Err(poison()),
            _ => Ok(sum),
        }
    });
    sums.collect()
}

impl Windows {
    fn rows(&self, input: &[Row]) -> Result<Vec<Row>, RowError> {
        let mut out = Vec::new();
        for rows in in_order(input, self.keyed) {
            let at = |i: Option<usize>| i.and_then(|i| rows.get(i)).map(|r| r[2].unwrap());
            let near = |i: usize, j: usize| match (rows[i][1], rows[j][1]) {
                (Some(a), Some(b)) => (a - b).abs() <= 3,
                (a, b) => a == b,
            };
            let first: Vec<i64> = match self.kind {
                Kind::Rows => (0..rows.len())
                    .map(|i| at(i.checked_sub(2)).unwrap_or(-1))
                    .collect(),
                Kind::Distance => {
                    let sum = |i: usize| {
                        let before = (0..i).rev().take_while(|j| near(i, *j));
                        let after = (i..rows.len()).take_while(|j| near(i, *j));
                        before.chain(after).map(|j| rows[j][2].unwrap()).sum()
                    };
                    (0..rows.len()).map(sum).collect()
                }
                Kind::Running => running_sums(&rows, |_| true)?,
            };
            if self.kind == Kind::Rows && first.contains(&POISON) {
                return Err(poison());
            }
            for (i, row) in rows.iter().enumerate() {
                let result = match self.kind {
                    Kind::Rows => first[i.saturating_sub(1)..rows.len().min(i + 2)]
                        .iter()
                        .sum(),
                    Kind::Distance => i.checked_sub(1).map_or(-1, |i| first[i]),
                    Kind::Running => first[i],
                };
                out.push(vec![row[0], row[1], row[2], Some(result)]);
            }
        }
        Ok(out)
    }
}

impl BatchProgram for Windows {
    fn run(
        &self,
        inputs: Vec<Vec<RecordBatch>>,
        _stop: &Arc<AtomicBool>,
    ) -> Result<Vec<RecordBatch>, RowError> {
        let rows: Vec<Row> = inputs[0].iter().flat_map(rows_of).collect();
        self.seen.fetch_add(rows.len(), Ordering::Relaxed);
        Ok(vec![batch(&self.output, &self.rows(&rows)?)])
    }

    fn neighbourhood(&self) -> Option<&Neighbourhood> {
        Some(&self.neighbourhood)
    }

    fn running(&self) -> Option<&Running> {
        self.running.as_ref()
    }

    fn same(&self, other: &dyn BatchProgram) -> bool {
        std::ptr::addr_eq(self, other)
    }

    fn multiplies(&self) -> bool {
        false
    }

    fn describe(&self) -> String {
        "windows".into()
    }
}

/// Of rows (key, x, v, segment, carried): the sums of those that count, or what is carried further.
#[derive(Debug)]
struct Tails {
    keyed: bool,
    carries: bool,
    output: SchemaRef,
    seen: Arc<AtomicUsize>,
}

impl BatchProgram for Tails {
    fn run(
        &self,
        inputs: Vec<Vec<RecordBatch>>,
        _stop: &Arc<AtomicBool>,
    ) -> Result<Vec<RecordBatch>, RowError> {
        let rows: Vec<Row> = inputs[0].iter().flat_map(rows_of).collect();
        self.seen.fetch_add(rows.len(), Ordering::Relaxed);
        let mut out: BTreeMap<Row, Row> = BTreeMap::new();
        for (key, rows) in in_order(&rows, self.keyed).iter().enumerate() {
            assert!(rows.iter().is_sorted_by_key(|r| r[3].is_some()) || self.carries);
            for (i, sum) in running_sums(rows, |r| r[3].is_some())?.iter().enumerate() {
                let row = rows[i];
                match (self.carries, row[3]) {
                    (true, None) => {}
                    // The last one of a segment stays.
                    (true, segment) => {
                        assert_eq!(key, 0, "one key after the other");
                        out.insert(vec![segment], vec![segment, Some(*sum)]);
                    }
                    (false, _) => {
                        let place = vec![Some(key as i64), Some(i as i64)];
                        out.insert(place, vec![row[0], row[1], row[2], Some(*sum)]);
                    }
                }
            }
        }
        let rows: Vec<Row> = out.into_values().collect();
        Ok(vec![batch(&self.output, &rows)])
    }

    fn same(&self, _: &dyn BatchProgram) -> bool {
        false
    }

    fn multiplies(&self) -> bool {
        false
    }

    fn describe(&self) -> String {
        "tails".into()
    }
}

fn running(keyed: bool, output: &SchemaRef, seen: &Arc<AtomicUsize>) -> Running {
    let program = |carries, output| -> Arc<dyn BatchProgram> {
        Arc::new(Tails {
            keyed,
            carries,
            output,
            seen: seen.clone(),
        })
    };
    Running {
        resumed: program(false, output.clone()),
        carries: vec![program(true, schema(&[DataType::Int64, DataType::Int64]))],
        carried: vec![DataType::Int64],
    }
}

fn node(kind: Kind, keyed: bool, key: DataType, x: DataType) -> (Node, Arc<Windows>) {
    let input = schema(&[key.clone(), x.clone(), DataType::Int64]);
    let output = schema(&[key, x, DataType::Int64, DataType::Int64]);
    let rows = |before, after| Reach::Rows { before, after };
    let reaches = match kind {
        Kind::Rows => vec![rows(2, 0), rows(1, 1)],
        Kind::Distance => vec![
            Reach::Distance {
                before: 3,
                after: 3,
            },
            rows(1, 0),
        ],
        Kind::Running => vec![rows(1, 20)],
    };
    let order = vec![OrderBy {
        column: 1,
        descending: keyed,
        nulls_first: false,
    }];
    let seen = Arc::new(AtomicUsize::new(0));
    let runs = kind == Kind::Running;
    let program = Arc::new(Windows {
        kind,
        keyed,
        neighbourhood: Neighbourhood {
            order,
            reaches,
            runs,
            matches: None,
        },
        running: runs.then(|| running(keyed, &output, &seen)),
        output: output.clone(),
        seen,
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
                columns: vec![0, 1, 2],
            },
            inputs: vec![],
            schema: input,
            append_only: false,
        }],
        schema: output,
        append_only: false,
    };
    (node, program)
}

/// What the program gives for each key alone, and how many keys it fails on.
fn reference(program: &Windows, input: &Rows) -> (Rows, usize) {
    let mut by_key: BTreeMap<Option<i64>, Vec<Row>> = BTreeMap::new();
    for (row, diff) in input {
        let key = if program.keyed { row[0] } else { None };
        let rows = by_key.entry(key).or_default();
        rows.extend(vec![row.clone(); *diff as usize]);
    }
    let (mut out, mut failing) = (Rows::new(), 0);
    for rows in by_key.values() {
        match program.rows(rows) {
            Ok(rows) => rows.into_iter().for_each(|r| add(&mut out, r, 1)),
            Err(_) => failing += 1,
        }
    }
    (out, failing)
}

fn random_row(rng: &mut ChaCha8Rng, places: Range<i64>, poison: bool) -> Row {
    let key = [None, Some(0), Some(1)][rng.random_range(0..3)];
    let x = rng
        .random_bool(0.99)
        .then(|| rng.random_range(places.clone()));
    let v = match poison && rng.random_bool(0.03) {
        true => POISON,
        false => rng.random_range(20..30),
    };
    vec![key, x, Some(v)]
}

/// Gives how many rows the program was given in the last epochs. `steady`: a few rows change in each, and nothing goes wrong.
fn random_run(
    node: Node,
    program: &Windows,
    bytes_max: usize,
    seed: u64,
    steady: bool,
) -> Vec<usize> {
    let keyed = program.keyed;
    println!(
        "seed {seed}, {:?}, keyed {keyed}, {bytes_max} bytes",
        program.kind
    );
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    // Equal places are rare or frequent.
    let span = [100, 2_000, 20_000][seed as usize % 3];
    let schema = node.inputs[0].schema.clone();
    let states: Vec<_> = operators::arrangements(&node)
        .iter()
        .enumerate()
        .map(|(i, spec)| MemoryState::new(i as u64, spec))
        .collect();
    let mut operator = build(&node, &states, true, bytes_max);
    let (mut input, mut output) = (Rows::new(), Rows::new());
    let mut errors: BTreeMap<String, i64> = BTreeMap::new();
    let mut uncommitted = Vec::new();
    let mut seen = Vec::new();
    for epoch in 1..60 {
        let mut out = Output::default();
        let mut rows: Vec<(Row, i64)> = Vec::new();
        let many = epoch == 1 || !steady && rng.random_bool(0.04);
        // Changes beside each other, or anywhere; near the end of the order if all that comes after them changes.
        let focus = match (program.kind, keyed) {
            (Kind::Running, true) => rng.random_range(0..span / 10),
            (Kind::Running, false) => span - 1 - rng.random_range(0..span / 10),
            _ => rng.random_range(0..span),
        };
        let beside = steady && program.kind == Kind::Running || rng.random_bool(0.7);
        let places = match !many && beside {
            true => focus..focus + 3,
            false => 0..span,
        };
        for _ in 0..if many { 3 * KEY_ROWS } else { 6 } {
            let near = |row: &&Row| row[1].is_some_and(|x| places.contains(&x));
            let near: Vec<&Row> = match many {
                true => Vec::new(),
                false => input.keys().filter(near).collect(),
            };
            let old = (!near.is_empty()).then(|| near[rng.random_range(0..near.len())]);
            let old = old.map(|row| (row.clone(), input[row]));
            let change = match (rng.random_range(0..4), old) {
                (0, Some((row, diff))) => (row, -diff),
                (1, Some((row, _))) => (row, 1),
                _ => (
                    random_row(&mut rng, places.clone(), epoch > 1 && !many && !steady),
                    1,
                ),
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
        for piece in &out.errors {
            for row in 0..piece.len() {
                let text = arrow::util::display::array_value_to_string(piece.rows.column(2), row);
                *errors.entry(text.unwrap()).or_insert(0) += piece.diffs.get(row);
            }
        }
        uncommitted.push((epoch, out.changes));
        let (expected, failing) = reference(program, &input);
        assert!(output == expected, "epoch {epoch}");
        assert!(errors.values().all(|n| matches!(n, 0 | 1)), "{errors:?}");
        assert_eq!(errors.values().sum::<i64>() as usize, failing, "{errors:?}");

        let behind = usize::from(rng.random_bool(0.25));
        while uncommitted.len() > behind {
            let (epoch, changes) = uncommitted.remove(0);
            states.iter().for_each(|s| s.commit(epoch, &changes));
        }
        if behind == 0 {
            assert_eq!(states[1].len(), output.len(), "the output is stored");
            if !steady && rng.random_bool(0.1) {
                operator = build(&node, &states, false, bytes_max);
            }
        }
    }
    seen.split_off(20)
}

#[test]
fn as_if_computed_from_everything() {
    let int = DataType::Int64;
    for seed in 0..6 {
        let bytes = [usize::MAX, 400_000, 1][seed as usize % 3];
        for kind in [Kind::Rows, Kind::Distance, Kind::Running] {
            for keyed in [true, false] {
                let key = [DataType::Utf8View, int.clone()][seed as usize % 2].clone();
                let x = [DataType::Int32, int.clone()][seed as usize / 3 % 2].clone();
                let (node, program) = node(kind, keyed, key, x);
                random_run(node, &program, bytes, seed, false);
            }
        }
    }
}

#[test]
fn few_rows_are_looked_at() {
    for kind in [Kind::Rows, Kind::Distance] {
        for keyed in [true, false] {
            let (node, program) = node(kind, keyed, DataType::Int64, DataType::Int64);
            // Seed 2 has few equal places. Six changes, each with what is around it, before and after.
            let seen = random_run(node, &program, usize::MAX, 2, true);
            assert!(seen.iter().all(|rows| *rows < 250), "{seen:?}");
        }
    }
    for keyed in [true, false] {
        let (node, program) = node(Kind::Running, keyed, DataType::Int64, DataType::Int64);
        // What is carried in is known for places 64 rows apart, or becomes known; from there on, all rows of up to three keys, before and after.
        let seen = random_run(node, &program, usize::MAX, 2, true);
        let known = if keyed { 3 } else { 1 } * 3 * 64;
        let most = 2 * (known + 3 * KEY_ROWS / 10) + known;
        assert!(seen.iter().all(|rows| *rows < most), "{seen:?}");
    }
}
