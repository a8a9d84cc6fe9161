//! [`RecomputeOperator`]: the general operator. It runs a batch program on the rows of the *touched keys* and
//! subtracts what the program gave for them before.
//!
//! It keeps, by key: the rows of every input, the output, and the errors of keys on which the program failed.
//! Invariant: after every epoch the stored output and errors are those of the program run on the stored rows, key by
//! key. A key without rows has neither. Without key columns there is one key that is always there.
//!
//! A program that may take long runs on a thread of its own ([`Aside`]), so that the worker has time for others.
//!
//! Of a large key of which few rows have changed, only the rows around those are recomputed ([`Neighbours`]), if the program looks no farther.
//!
//! The program sees all touched keys at once. If it fails, the keys are bisected, so that an error costs nobody but its own
//! key: that key has no output, and one error, until its rows change such that it succeeds.

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, StringArray, UInt32Array};
use arrow::buffer::BooleanBuffer;
use arrow::compute::{LexicographicalComparator, filter_record_batch, take_record_batch};
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, SortField};
use tidemill_storage::ArrangementChange;
use tidemill_zset::consolidate::consolidate;
use tidemill_zset::hash::hash_columns;
use tidemill_zset::{Delta, Epoch};

use super::culprit::row_text;
use super::join_keys::KeyTable;
use super::join_plan::StoredColumns;
use super::join_rows::{BLOCK_ROWS, batch_of, nullable};
use super::join_state::{KeyedState, StateSide};
use super::neighbours::Neighbours;
use super::reload::Reload;
use crate::aside::Aside;
use crate::operator::{BuildContext, Operator, Output, error_schema};
use crate::plan::{BatchProgram, Node, Op, RowError};
use crate::state::StateHandle;

/// Rows per piece of output and of the program's input.
const PIECE_ROWS: usize = BLOCK_ROWS;
/// A program with more rows as input runs aside.
const ROWS_HERE_MAX: usize = 1 << 16;
/// So does one that makes pairs of them.
const PAIRED_HERE_MAX: usize = 1 << 14;

/// Builds the operator of `node`.
pub fn build(node: &Node, states: Vec<StateHandle>, context: &BuildContext) -> Box<dyn Operator> {
    let Op::Recompute { keys, program, .. } = &node.op else {
        unreachable!("only recomputations are built here")
    };
    let inputs: Vec<SchemaRef> = node.inputs.iter().map(|n| n.schema.clone()).collect();
    let keyless = keys.iter().all(Vec::is_empty);
    Box::new(RecomputeOperator::new(
        keys,
        program.clone(),
        &inputs,
        node.schema.clone(),
        states,
        keyless && context.fresh && context.owns(0),
        context,
    ))
}

/// See the module.
pub struct RecomputeOperator {
    program: Arc<dyn BatchProgram>,
    inputs: Vec<Input>,
    output: KeyedState<1>,
    failed: KeyedState<1>,
    key_columns: usize,
    key_schema: SchemaRef,
    /// Keys whose rows have changed in this epoch.
    touched: KeyTable<1>,
    /// The rows of large keys in order, if that helps, and how many changes each touched key has had.
    neighbours: Option<(Neighbours, Vec<u32>)>,
    /// The next `finish` runs the program even if nothing has changed.
    run_anyway: bool,
    running: Option<Run>,
}

/// A recomputation of the touched keys under way.
struct Run {
    epoch: Epoch,
    /// The touched keys.
    keys: Vec<RecordBatch>,
    gathered: Vec<Gathered>,
    /// Keys that the program hasn't been run on; the last ones come first.
    todo: Vec<Range<u32>>,
    aside: Option<(Range<u32>, Aside<Ran>)>,
    results: Vec<RecordBatch>,
    failures: Vec<(u32, RowError)>,
}

type Ran = Result<Vec<RecordBatch>, RowError>;

/// One input with its stored rows.
struct Input {
    stored: StoredColumns,
    schema: SchemaRef,
    state: KeyedState<1>,
}

/// The rows of the touched keys in one input, key by key, those of each in canonical order, each with the number of its key.
struct Gathered {
    rows: RecordBatch,
    keys: Vec<u32>,
}

impl RecomputeOperator {
    /// The operator over `states`, which are those of `join_plan::recompute_arrangements`: one per input, the
    /// output, the failed keys. `run_first`: run the program in the first epoch, whatever comes.
    pub fn new(
        keys: &[Vec<usize>],
        program: Arc<dyn BatchProgram>,
        inputs: &[SchemaRef],
        output: SchemaRef,
        states: Vec<StateHandle>,
        run_first: bool,
        context: &BuildContext,
    ) -> Self {
        assert_eq!(
            states.len(),
            inputs.len() + 2,
            "one state per input and two"
        );
        let neighbourhood = program.neighbourhood().filter(|_| inputs.len() == 1);
        // The arrangements share with the rows in order what they may take together.
        let shares = states.len() + usize::from(neighbourhood.is_some());
        let bytes_max = context.state_bytes_max / shares * states.len();
        let neighbours = neighbourhood.and_then(|_| {
            let keys = keys.first().map_or(&[][..], Vec::as_slice);
            Neighbours::new(&program, keys, &inputs[0], bytes_max)
        });
        let key_columns = keys.first().map_or(0, Vec::len);
        let key_fields = output.fields()[..key_columns].to_vec();
        let key_schema = nullable(&Arc::new(arrow::datatypes::Schema::new(key_fields)));
        let mut states = states.into_iter().map(|handle| {
            let reload = match key_columns {
                0 => None,
                _ => Reload::new(std::slice::from_ref(&handle), bytes_max, context),
            };
            let side = StateSide::new(handle, false, true);
            KeyedState::new([side], false, true, bytes_max).with_reload(reload, [false])
        });
        let mut next = || states.next().expect("counted above");
        let inputs = inputs.iter().enumerate().map(|(i, schema)| {
            let columns = keys.get(i).map_or(&[][..], Vec::as_slice);
            Input {
                stored: StoredColumns::new(columns, schema.fields().len(), |_| true),
                schema: schema.clone(),
                state: next(),
            }
        });
        RecomputeOperator {
            program,
            inputs: inputs.collect(),
            output: next(),
            failed: next(),
            key_columns,
            touched: KeyTable::new(key_schema.clone(), true),
            key_schema,
            neighbours: neighbours.map(|n| (n, Vec::new())),
            run_anyway: run_first,
            running: None,
        }
    }

    fn take_piece(&mut self, port: usize, delta: Delta, out: &mut Output) {
        let input = &mut self.inputs[port];
        let of = |c: &usize| delta.rows.column(*c).clone();
        let columns: Vec<ArrayRef> = input.stored.columns.iter().map(of).collect();
        let schema = &input.state.sides[0].handle.desc.schema;
        let rows = batch_of(schema, columns, delta.len());
        let delta = Delta::new(rows, delta.diffs);
        let keys = &delta.rows.columns()[..self.key_columns];
        let hashes = hash_columns(keys, delta.len());
        let (mut slots, mut fresh) = (Vec::new(), Vec::new());
        self.touched
            .resolve(keys, &hashes, 0, &mut slots, &mut fresh);
        let mut retracted = None;
        if let Some((neighbours, changes)) = &mut self.neighbours {
            changes.resize(self.touched.len(), 0);
            for slot in &slots {
                changes[*slot as usize] += 1;
            }
            if neighbours.note(keys, &delta, &input.stored) {
                retracted = Some(delta.diffs.clone());
            }
        }
        let slots = store(&mut input.state, delta, hashes, out);
        // Keys that are recomputed whole are consolidated then.
        if let Some(diffs) = retracted {
            input.state.note_retractions(0, &diffs, &slots);
        }
    }

    /// Begins to recompute the touched keys.
    fn begin(&mut self, epoch: Epoch, out: &mut Output) -> Run {
        let all: Vec<u32> = (0..self.touched.len() as u32).collect();
        let mut keys = self.touched_keys(&all);
        let left = self.recompute_neighbours(&keys, out);
        if left.len() < all.len() {
            keys = self.touched_keys(&left);
        }
        let mut gathered = Vec::new();
        if !left.is_empty() {
            let in_order = self.program.sees_order();
            let inputs = self.inputs.iter_mut();
            gathered.extend(inputs.map(|i| gather(i, &keys, in_order)));
        }
        self.take_neighbours_in(&keys, &gathered, &left);
        if !all.is_empty() {
            self.touched = KeyTable::new(self.key_schema.clone(), true);
        }
        Run {
            epoch,
            keys,
            gathered,
            todo: Vec::from_iter((!left.is_empty()).then_some(0..left.len() as u32)),
            aside: None,
            results: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// The touched keys with these slots, [`BLOCK_ROWS`] per batch.
    fn touched_keys(&mut self, slots: &[u32]) -> Vec<RecordBatch> {
        let batches = slots.chunks(BLOCK_ROWS).map(|slots| {
            let columns = self.touched.key_columns(slots);
            batch_of(&self.key_schema, columns, slots.len())
        });
        batches.collect()
    }

    /// Recomputes those of the touched keys for which only what is around their changes need be looked at. Gives the slots of
    /// the others.
    fn recompute_neighbours(&mut self, keys: &[RecordBatch], out: &mut Output) -> Vec<u32> {
        let all = 0..self.touched.len() as u32;
        let Some((neighbours, _)) = &mut self.neighbours else {
            return all.collect();
        };
        let parts = neighbours.parts(
            keys,
            match self.program.multiplies() {
                true => PAIRED_HERE_MAX,
                false => ROWS_HERE_MAX,
            },
        );
        if !parts.covered.contains(&true) {
            return all.collect();
        }
        let program = match self.program.running() {
            Some(running) => &running.resumed,
            None => &self.program,
        };
        let run = |rows: &RecordBatch| program.run(vec![pieces(rows)], &Arc::default());
        let Ok([old, new]) = run(&parts.old).and_then(|old| Ok([old, run(&parts.new)?])) else {
            // Which key it fails on comes out when they are run whole.
            for slot in all.clone().filter(|slot| parts.covered[*slot as usize]) {
                neighbours.refuse(&self.touched.key_columns(&[slot]));
            }
            return all.collect();
        };
        let schema = self.output.sides[0].handle.desc.schema.clone();
        let delta = |rows: RecordBatch, diff: i64| {
            let count = rows.num_rows();
            let rows = batch_of(&schema, rows.columns().to_vec(), count);
            Delta::new(rows, vec![diff; count])
        };
        let old = old.into_iter().map(|rows| delta(rows, -1));
        let new = new.into_iter().map(|rows| delta(rows, 1));
        let deltas: Vec<Delta> = old.chain(new).collect();
        let difference = consolidate(&schema, &deltas);
        change(&mut self.output, &difference, true, out);
        put_out(difference, out);
        all.filter(|slot| !parts.covered[*slot as usize]).collect()
    }

    /// Of the `slots` whose rows have been gathered, those that have many, few of which have changed, are kept in order from now on.
    fn take_neighbours_in(&mut self, keys: &[RecordBatch], gathered: &[Gathered], slots: &[u32]) {
        let Some((neighbours, changes)) = &mut self.neighbours else {
            return;
        };
        let mut from = 0;
        for owned in gathered.iter().flat_map(|g| g.keys.chunk_by(|a, b| a == b)) {
            let rows = gathered[0].rows.slice(from, owned.len());
            from += owned.len();
            let number = owned[0] as usize;
            let key = key_of(keys, owned[0]);
            let changed = changes.get(slots[number] as usize);
            neighbours.take_in(key.columns(), &rows, changed.map_or(0, |n| *n as usize));
        }
        changes.clear();
    }

    /// Runs the program on all keys, or on parts of them where it fails. False if it takes longer than a turn.
    fn run_program(&self, run: &mut Run, out: &Output) -> bool {
        loop {
            let (range, ran) = if let Some((range, aside)) = run.aside.take() {
                match aside.wait(out.allowance == usize::MAX) {
                    Some(ran) => (range, ran),
                    None => {
                        run.aside = Some((range, aside));
                        return false;
                    }
                }
            } else {
                let Some(range) = run.todo.pop() else {
                    return true;
                };
                let inputs = run.inputs(&range);
                let rows: usize = inputs.iter().map(RecordBatch::num_rows).sum();
                if self.key_columns > 0 && rows == 0 {
                    continue;
                }
                let inputs: Vec<_> = inputs.iter().map(pieces).collect();
                if rows > ROWS_HERE_MAX || self.program.multiplies() {
                    let program = self.program.clone();
                    let aside = Aside::start(move |stop| program.run(inputs, stop));
                    run.aside = Some((range, aside));
                    continue;
                }
                let ran = self.program.run(inputs, &Arc::default());
                (range, ran)
            };
            match ran {
                Ok(batches) => run
                    .results
                    .extend(batches.into_iter().filter(|b| b.num_rows() > 0)),
                Err(error) if range.len() == 1 => run.failures.push((range.start, error)),
                Err(_) => {
                    let middle = range.start + range.len() as u32 / 2;
                    run.todo.extend([middle..range.end, range.start..middle]);
                }
            }
        }
    }

    /// Puts the results in place of the old ones.
    fn replace_output(&mut self, run: Run, out: &mut Output) {
        let Run {
            keys,
            results,
            failures,
            ..
        } = run;
        let schema = self.output.sides[0].handle.desc.schema.clone();
        let new = results.into_iter().map(|rows| {
            let columns = rows.columns().to_vec();
            Delta::insert(batch_of(&schema, columns, rows.num_rows()))
        });
        let difference = replace(&mut self.output, &keys, new.collect(), out);
        put_out(difference, out);

        if let Some((neighbours, _)) = &mut self.neighbours {
            for (key, _) in &failures {
                let key = key_of(&keys, *key);
                neighbours.forget(key.columns());
            }
        }
        let failed = self.failed_rows(&keys, failures);
        let difference = replace(&mut self.failed, &keys, failed, out);
        if !difference.is_empty() {
            let columns = difference.rows.columns()[self.key_columns..].to_vec();
            let rows = batch_of(&error_schema(), columns, difference.len());
            out.errors.push(Delta::new(rows, difference.diffs));
        }
    }

    /// The rows of the arrangement of failed keys.
    fn failed_rows(&self, keys: &[RecordBatch], failures: Vec<(u32, RowError)>) -> Vec<Delta> {
        let schema = &self.failed.sides[0].handle.desc.schema;
        let rows = failures.into_iter().map(|(key, error)| {
            let key = key_of(keys, key);
            let text = |t: String| -> ArrayRef { Arc::new(StringArray::from(vec![t])) };
            let mut columns = key.columns().to_vec();
            columns.extend([
                text(error.sqlstate),
                text(error.message),
                text(row_text(&key, 0)),
            ]);
            Delta::insert(batch_of(schema, columns, 1))
        });
        rows.collect()
    }
}

impl Run {
    /// The program's inputs for the keys in `range`.
    fn inputs(&self, range: &Range<u32>) -> Vec<RecordBatch> {
        let count: usize = self.keys.iter().map(RecordBatch::num_rows).sum();
        let whole = range.len() == count;
        let part = |g: &Gathered| match whole {
            true => g.rows.clone(),
            false => g.part(range),
        };
        self.gathered.iter().map(part).collect()
    }
}

impl Gathered {
    /// The rows of the keys in `range`.
    fn part(&self, range: &Range<u32>) -> RecordBatch {
        let inside =
            BooleanBuffer::collect_bool(self.keys.len(), |i| range.contains(&self.keys[i]));
        filter_record_batch(&self.rows, &BooleanArray::from(inside)).expect("a mask of its length")
    }
}

/// One of the touched keys, of which there are [`BLOCK_ROWS`] per batch.
fn key_of(keys: &[RecordBatch], number: u32) -> RecordBatch {
    let number = number as usize;
    keys[number / BLOCK_ROWS].slice(number % BLOCK_ROWS, 1)
}

fn put_out(difference: Delta, out: &mut Output) {
    for start in (0..difference.len()).step_by(PIECE_ROWS) {
        let rows = PIECE_ROWS.min(difference.len() - start);
        out.rows.push(difference.slice(start, rows));
    }
}

/// Stores a delta of at most [`BLOCK_ROWS`] stored rows and reports the change. Gives the slots of the rows' keys.
pub(super) fn store(
    state: &mut KeyedState<1>,
    delta: Delta,
    hashes: Vec<u64>,
    out: &mut Output,
) -> Vec<u32> {
    let desc = &state.sides[0].handle.desc;
    let (id, key_columns) = (desc.id, desc.key_columns);
    let keys = &delta.rows.columns()[..key_columns];
    let mut slots = Vec::new();
    state.resolve(keys, &hashes, &mut slots);
    state.add(0, &delta.rows, &delta.diffs, &slots);
    if state.sides[0].handle.reader.is_some() {
        out.changes.push(ArrangementChange {
            arrangement: id,
            hashes,
            delta,
        });
    }
    slots
}

/// Makes `new` the rows of `keys` in `state`; returns and reports the difference.
fn replace(
    state: &mut KeyedState<1>,
    keys: &[RecordBatch],
    new: Vec<Delta>,
    out: &mut Output,
) -> Delta {
    let (numbers, _) = rows_of_keys(state, keys);
    let side = &mut state.sides[0];
    let desc = side.handle.desc.clone();
    let mut deltas = new;
    for numbers in numbers.chunks(BLOCK_ROWS) {
        let diffs: Vec<i64> = numbers.iter().map(|n| -side.store.diff(*n)).collect();
        deltas.push(Delta::new(side.store.gather_rows(numbers), diffs));
    }
    let difference = consolidate(&desc.schema, &deltas);
    change(state, &difference, false, out);
    difference
}

/// Adds `difference` to `state` and reports it. `unseen`: the keys' rows won't be gathered for it, so they are to be added up when it pays.
fn change(state: &mut KeyedState<1>, difference: &Delta, unseen: bool, out: &mut Output) {
    let key_columns = state.sides[0].handle.desc.key_columns;
    for start in (0..difference.len()).step_by(BLOCK_ROWS) {
        let piece = difference.slice(start, BLOCK_ROWS.min(difference.len() - start));
        let hashes = hash_columns(&piece.rows.columns()[..key_columns], piece.len());
        let diffs = piece.diffs.clone();
        let slots = store(state, piece, hashes, out);
        if unseen {
            state.note_retractions(0, &diffs, &slots);
        }
    }
}

/// The rows of `keys` in `state`, added up, with the number of each row's key.
pub(super) fn rows_of_keys(
    state: &mut KeyedState<1>,
    keys: &[RecordBatch],
) -> (Vec<u32>, Vec<u32>) {
    let (mut numbers, mut owners, mut slots) = (Vec::new(), Vec::new(), Vec::new());
    let mut first_key = 0;
    for keys in keys {
        let hashes = hash_columns(keys.columns(), keys.num_rows());
        state.resolve(keys.columns(), &hashes, &mut slots);
        state.consolidate(0, &slots);
        for (i, slot) in slots.iter().enumerate() {
            let head = state.keys.slot(*slot).heads[0];
            state.sides[0].store.collect(head, &mut numbers);
            owners.resize(numbers.len(), (first_key + i) as u32);
        }
        first_key += keys.num_rows();
    }
    (numbers, owners)
}

/// The rows of `keys` as the program wants them: input columns, one row per row, key by key, `in_order`: those of each in canonical order.
fn gather(input: &mut Input, keys: &[RecordBatch], in_order: bool) -> Gathered {
    let (numbers, owners) = rows_of_keys(&mut input.state, keys);
    let store = &mut input.state.sides[0].store;
    let (mut expanded, mut expanded_owners) = (Vec::new(), Vec::new());
    for (number, owner) in numbers.iter().zip(&owners) {
        // A collection has no negative rows at the end of an epoch.
        let times = store.diff(*number).max(0) as usize;
        expanded.resize(expanded.len() + times, *number);
        expanded_owners.resize(expanded.len(), *owner);
    }
    let width = input.schema.fields().len();
    let position = |c| input.stored.position(c).expect("every column is stored");
    let columns: Vec<usize> = (0..width).map(position).collect();
    let arrays = store.gather(&expanded, &columns);
    let rows = batch_of(&nullable(&input.schema), arrays, expanded.len());
    let rows = match in_order {
        true => {
            let order = canonical_order(&rows, &expanded_owners);
            take_record_batch(&rows, &order).expect("places in the batch")
        }
        false => rows,
    };
    let keys = expanded_owners;
    Gathered { rows, keys }
}

fn pieces(rows: &RecordBatch) -> Vec<RecordBatch> {
    let starts = (0..rows.num_rows()).step_by(PIECE_ROWS);
    starts
        .map(|s| rows.slice(s, PIECE_ROWS.min(rows.num_rows() - s)))
        .collect()
}

/// The canonical order of the rows of each key: by all columns, from left to right, ascending, NULLs first. `owners` are the rows' keys,
/// those of a key side by side, which they stay.
fn canonical_order(rows: &RecordBatch, owners: &[u32]) -> UInt32Array {
    let mut order: Vec<u32> = (0..rows.num_rows() as u32).collect();
    let by_key = || owners.chunk_by(|a, b| a == b);
    if rows.num_columns() == 0 || by_key().all(|rows| rows.len() < 2) {
        return order.into();
    }
    let of = |c: &ArrayRef| SortField::new(c.data_type().clone());
    let fields: Vec<SortField> = rows.columns().iter().map(of).collect();
    let mut sort = |compare: &dyn Fn(&u32, &u32) -> Ordering| {
        let mut rest = order.as_mut_slice();
        for rows in by_key() {
            let (of_key, others) = rest.split_at_mut(rows.len());
            of_key.sort_unstable_by(|a, b| compare(a, b).then(a.cmp(b)));
            rest = others;
        }
    };
    if RowConverter::supports_fields(&fields) {
        let converter = RowConverter::new(fields).expect("supported, as checked");
        let sortable = converter
            .convert_columns(rows.columns())
            .expect("columns of the types given");
        sort(&|a, b| sortable.row(*a as usize).cmp(&sortable.row(*b as usize)));
    } else {
        let of = |c: &ArrayRef| arrow::compute::SortColumn {
            values: c.clone(),
            options: None,
        };
        let columns: Vec<_> = rows.columns().iter().map(of).collect();
        let comparator = LexicographicalComparator::try_new(&columns)
            .unwrap_or_else(|e| panic!("rows can't be ordered: {e}"));
        sort(&|a, b| comparator.compare(*a as usize, *b as usize));
    }
    order.into()
}

impl Operator for RecomputeOperator {
    fn push(&mut self, port: usize, delta: Delta, out: &mut Output) {
        for start in (0..delta.len()).step_by(BLOCK_ROWS) {
            let rows = BLOCK_ROWS.min(delta.len() - start);
            self.take_piece(port, delta.slice(start, rows), out);
        }
    }

    fn finish(&mut self, epoch: Epoch, out: &mut Output) {
        if std::mem::take(&mut self.run_anyway) {
            let (mut slots, mut fresh) = (Vec::new(), Vec::new());
            self.touched.resolve(&[], &[0], 0, &mut slots, &mut fresh);
        }
        self.running = Some(self.begin(epoch, out));
        self.go_on(out);
    }

    fn is_busy(&self) -> bool {
        self.running.is_some()
    }

    fn go_on(&mut self, out: &mut Output) {
        let Some(mut run) = self.running.take() else {
            return;
        };
        if !self.run_program(&mut run, out) {
            self.running = Some(run);
            return;
        }
        let epoch = run.epoch;
        if !run.keys.is_empty() {
            self.replace_output(run, out);
        }
        for input in &mut self.inputs {
            input.state.finish(epoch);
        }
        self.output.finish(epoch);
        self.failed.finish(epoch);
    }

    fn state_bytes(&self) -> usize {
        let inputs: usize = self.inputs.iter().map(|i| i.state.bytes()).sum();
        let neighbours = self.neighbours.as_ref().map_or(0, |(n, _)| n.bytes());
        inputs + self.output.bytes() + self.failed.bytes() + neighbours
    }
}
