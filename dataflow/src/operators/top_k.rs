//! [`TopKOperator`]: the first rows of each key in an order, perhaps with their numbers.
//!
//! It keeps, by key, the rows of its input, or of an append-only input only those that are among the first: a row that others have
//! pushed out never comes back then. The output isn't kept. In each epoch the old and the new first rows of the touched keys are
//! found together, from the rows before the epoch and its changes.
//!
//! Stored rows have a total order: after the columns that are asked for come all others. So which rows win never depends on when they came. What is
//! wanted of them, in that order, says [`super::top_k_changes`].

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, UInt32Array, UInt64Array};
use arrow::compute::{SortOptions, concat, interleave};
use arrow::datatypes::{Schema, SchemaRef};
use tidemill_storage::ArrangementKind;
use tidemill_zset::buffers::{buffers, in_one_buffer};
use tidemill_zset::hash::hash_columns;
use tidemill_zset::{Delta, Diffs, Epoch};

use super::join_keys::KeyTable;
use super::join_plan::StoredColumns;
use super::join_rows::{BLOCK_ROWS, batch_of, nullable};
use super::join_state::{KeyedState, StateSide};
use super::recompute::{rows_of_keys, store};
use super::reload::Reload;
use super::top_k_changes::{Found, TotalOrder, Wanted, comparators};
use super::top_k_first::{First, FirstRows, rows_max, taken};
use crate::operator::{BuildContext, Operator, Output};
use crate::plan::{ArrangementSpec, Node, Numbering, Op};
use crate::state::StateHandle;

/// The arrangement of an [`Op::TopK`]: rows by key. Empty for every other operator.
pub fn arrangements(node: &Node) -> Vec<ArrangementSpec> {
    let Op::TopK {
        keys,
        order,
        numbering,
        count,
        ..
    } = &node.op
    else {
        return Vec::new();
    };
    let input = &node.inputs[0];
    let stored = StoredColumns::new(keys, input.schema.fields().len(), |_| true);
    let which = match input.append_only {
        false => "all".to_string(),
        true if *numbering == Numbering::RowNumber => format!("first {count} by {order:?}"),
        true => format!("first {count} {numbering:?} by {order:?}"),
    };
    vec![ArrangementSpec {
        kind: ArrangementKind::Add,
        schema: stored.schema(&input.schema),
        key_columns: stored.key_columns,
        name: "rows".into(),
        fingerprint: format!("top k v1 key {keys:?} {which}"),
        input: Some(0),
    }]
}

/// Builds the operator of `node`.
pub fn build(node: &Node, states: Vec<StateHandle>, context: &BuildContext) -> Box<dyn Operator> {
    Box::new(TopKOperator::new(node, states, context))
}

/// See the module.
pub struct TopKOperator {
    stored: StoredColumns,
    order: TotalOrder,
    wanted: Wanted,
    output: SchemaRef,
    numbered: bool,
    /// The rows that aren't among the first are kept too.
    keeps_all: bool,
    state: KeyedState<1>,
    /// Those of large keys.
    first: FirstRows,
    key_schema: SchemaRef,
    /// Changes of the epoch, as stored.
    changes: Vec<Delta>,
    /// Keys of the changes.
    touched: KeyTable<1>,
    /// The number in `touched` of each row of each of `changes`.
    slots: Vec<Vec<u32>>,
    running: Option<Run>,
}

/// The touched keys of an epoch, on the way to their first rows.
struct Run {
    epoch: Epoch,
    keys: KeyTable<1>,
    changes: Vec<Delta>,
    /// Rows of `changes`, by key.
    by_key: Vec<(usize, usize)>,
    /// Where each key's rows end in `by_key`.
    ends: Vec<usize>,
    /// The next key.
    next: usize,
}

impl TopKOperator {
    /// The operator over the state that [`arrangements`] says.
    fn new(node: &Node, states: Vec<StateHandle>, context: &BuildContext) -> Self {
        let Op::TopK {
            keys,
            order,
            numbering,
            count,
            numbered,
        } = &node.op
        else {
            unreachable!("only first rows are built here")
        };
        let [handle]: [StateHandle; 1] = states.try_into().ok().expect("it has one state");
        let input = &node.inputs[0];
        let stored = StoredColumns::new(keys, input.schema.fields().len(), |_| true);
        let key_fields = handle.desc.schema.fields()[..keys.len()].to_vec();
        let key_schema = nullable(&Arc::new(Schema::new(key_fields)));
        let reload = match keys.is_empty() {
            true => None,
            false => Reload::new(
                std::slice::from_ref(&handle),
                context.state_bytes_max,
                context,
            ),
        };
        let side = StateSide::new(handle, false, true);
        let state = KeyedState::new([side], false, true, context.state_bytes_max);
        TopKOperator {
            order: TotalOrder::new(order, *numbering, &stored),
            stored,
            wanted: Wanted {
                numbering: *numbering,
                count: i64::try_from(*count).unwrap_or(i64::MAX),
            },
            output: node.schema.clone(),
            numbered: *numbered,
            keeps_all: !input.append_only,
            state: state.with_reload(reload, [false]),
            first: FirstRows::new(context.state_bytes_max),
            changes: Vec::new(),
            touched: KeyTable::new(key_schema.clone(), true),
            key_schema,
            slots: Vec::new(),
            running: None,
        }
    }

    fn take_piece(&mut self, delta: Delta) {
        let of = |c: &usize| delta.rows.column(*c).clone();
        let columns: Vec<ArrayRef> = self.stored.columns.iter().map(of).collect();
        let keys = &columns[..self.stored.key_columns];
        let hashes = hash_columns(keys, delta.len());
        let (mut slots, mut fresh) = (Vec::new(), Vec::new());
        self.touched
            .resolve(keys, &hashes, 0, &mut slots, &mut fresh);
        let schema = &self.state.sides[0].handle.desc.schema;
        let rows = batch_of(schema, columns, delta.len());
        self.changes.push(Delta::new(rows, delta.diffs));
        self.slots.push(slots);
    }

    fn begin(&mut self, epoch: Epoch) -> Run {
        let empty = KeyTable::new(self.key_schema.clone(), true);
        let keys = std::mem::replace(&mut self.touched, empty);
        let slots = std::mem::take(&mut self.slots);
        let mut ends = vec![0; keys.len()];
        for slot in slots.iter().flatten() {
            ends[*slot as usize] += 1;
        }
        let mut end = 0;
        for of_key in &mut ends {
            // For now where they begin.
            end += std::mem::replace(of_key, end);
        }
        let mut by_key = vec![(0, 0); end];
        for (batch, slots) in slots.iter().enumerate() {
            for (row, slot) in slots.iter().enumerate() {
                let next = &mut ends[*slot as usize];
                by_key[*next] = (batch, row);
                *next += 1;
            }
        }
        Run {
            epoch,
            keys,
            changes: std::mem::take(&mut self.changes),
            by_key,
            ends,
            next: 0,
        }
    }

    /// The first rows of a large key, if they follow from those before and the changes; these are stored without a look at the key's other rows then.
    fn follow(&mut self, run: &Run, keys: &Range<usize>, out: &mut Output) -> bool {
        let hash = run.keys.slot(keys.start as u32).hash;
        let Some(first) = self.first.get(hash) else {
            return false;
        };
        let changed = run.rows_of(keys);
        let changes = run.gather(changed, self.stored.columns.len());
        let by_key = (0..self.stored.key_columns).map(|c| (c, SortOptions::default()));
        let by_key: Vec<(usize, SortOptions)> = by_key.collect();
        let keys = comparators(first.rows.columns(), &changes, &by_key);
        if keys.iter().any(|compare| compare(0, 0).is_ne()) {
            return false;
        }
        let order = self.order.over(first.rows.columns(), &changes);
        let last = first.rows.num_rows() as u32 - 1;
        // No row that isn't known comes before one of these.
        let near = (0..changed.len() as u32).filter(|row| order.compare_peers(last, *row).is_ge());
        let near: Vec<u32> = near.collect();
        let diffs = changed.iter().map(|(b, r)| run.changes[*b].diffs.get(*r));
        let diffs: Vec<i64> = diffs.collect();
        if !near.is_empty() {
            let first = first.clone();
            let of_near = near.iter().map(|row| diffs[*row as usize]).collect();
            let near = taken(&changes, &UInt32Array::from(near));
            if !first.whole || !self.follow_first(hash, &first, &near, of_near, out) {
                return false;
            }
        }
        self.remember(changes, vec![hash; diffs.len()], Diffs::from(diffs), out);
        true
    }

    /// The first rows of a key after changes of rows that aren't behind them. False if there are others among them now that aren't known.
    fn follow_first(
        &mut self,
        hash: u64,
        first: &First,
        changes: &[ArrayRef],
        diffs_of_changes: Vec<i64>,
        out: &mut Output,
    ) -> bool {
        let kept = first.diffs.len();
        let columns = both(first.rows.columns(), changes);
        let diffs = [first.diffs.as_slice(), &diffs_of_changes].concat();
        let order = self.order.over(&columns, &columns);
        let mut candidates: Vec<u32> = (0..kept as u32).collect();
        self.wanted
            .candidates(&mut candidates, kept..diffs.len(), &diffs, &order);
        let mut found = Found::new(self.wanted, self.numbered);
        let is_full = found.walk(&candidates, kept, &diffs, &order);
        if is_full {
            self.first.replace(hash, first, &columns, &found.first);
            self.emit(&columns, found, out);
        }
        is_full
    }

    /// The first rows of some touched keys, before and after the epoch.
    fn compute(&mut self, run: &mut Run, keys: Range<usize>, out: &mut Output) {
        let slots: Vec<u32> = keys.clone().map(|k| k as u32).collect();
        let key_columns = run.keys.key_columns(&slots);
        let key_rows = batch_of(&self.key_schema, key_columns, slots.len());
        let (numbers, owners) = rows_of_keys(&mut self.state, &[key_rows]);
        let changed = run.rows_of(&keys);
        let width = self.stored.columns.len();
        let store = &mut self.state.sides[0].store;
        let mut diffs: Vec<i64> = numbers.iter().map(|n| store.diff(*n)).collect();
        let kept = diffs.len();
        out.spend(kept);
        diffs.extend(changed.iter().map(|(b, r)| run.changes[*b].diffs.get(*r)));
        let before = store.gather(&numbers, &(0..width).collect::<Vec<_>>());
        let after = run.gather(changed, width);
        let columns = match kept {
            0 => after.clone(),
            _ => both(&before, &after),
        };

        let order = self.order.over(&columns, &columns);
        let mut found = Found::new(self.wanted, self.numbered);
        let (mut stored, mut candidates) = (0, Vec::new());
        for (i, key) in keys.clone().enumerate() {
            let begin = stored;
            while owners.get(stored) == Some(&(i as u32)) {
                stored += 1;
            }
            let changes = run.range_of(key, &keys);
            let changes = kept + changes.start..kept + changes.end;
            candidates.clear();
            candidates.extend((begin..stored).map(|r| r as u32));
            self.wanted
                .candidates(&mut candidates, changes, &diffs, &order);
            let is_full = found.walk(&candidates, kept, &diffs, &order);
            let of_key = stored - begin + run.range_of(key, &keys).len();
            let rows_max = rows_max(of_key).filter(|_| is_full && self.keeps_all);
            let hash = run.keys.slot(key as u32).hash;
            match rows_max {
                Some(rows_max) => {
                    let schema = &self.state.sides[0].handle.desc.schema;
                    self.first
                        .remember(hash, schema, &columns, &found.first, rows_max);
                }
                None => self.first.forget(hash),
            }
        }

        let hashes = |owner: usize| run.keys.slot((keys.start + owner) as u32).hash;
        if self.keeps_all {
            let owners = run.owners_of(&keys);
            let hashes = owners.map(hashes).collect();
            let diffs = Diffs::from(diffs.split_off(kept));
            self.remember(after, hashes, diffs, out);
        } else {
            let rows = UInt32Array::from(found.kept_rows.clone());
            let taken = taken(&columns, &rows);
            let keys = &taken[..self.stored.key_columns];
            let hashes = hash_columns(keys, rows.len());
            self.remember(taken, hashes, Diffs::from(found.kept_diffs.clone()), out);
        }
        self.emit(&columns, found, out);
    }

    /// Changes the stored rows.
    fn remember(
        &mut self,
        columns: Vec<ArrayRef>,
        hashes: Vec<u64>,
        diffs: Diffs,
        out: &mut Output,
    ) {
        let schema = self.state.sides[0].handle.desc.schema.clone();
        let delta = Delta::new(batch_of(&schema, columns, hashes.len()), diffs);
        for start in (0..delta.len()).step_by(BLOCK_ROWS) {
            let rows = BLOCK_ROWS.min(delta.len() - start);
            let hashes = hashes[start..start + rows].to_vec();
            store(&mut self.state, delta.slice(start, rows), hashes, out);
        }
    }

    fn emit(&self, columns: &[ArrayRef], found: Found, out: &mut Output) {
        let width = self.stored.columns.len();
        let rows = UInt32Array::from(found.rows);
        let position = |c| self.stored.position(c).expect("every column is stored");
        let of_input: Vec<ArrayRef> = (0..width).map(|c| columns[position(c)].clone()).collect();
        let mut taken = taken(&of_input, &rows);
        if self.numbered {
            taken.push(Arc::new(UInt64Array::from(found.numbers)));
        }
        let delta = Delta::new(batch_of(&self.output, taken, rows.len()), found.diffs);
        for start in (0..delta.len()).step_by(BLOCK_ROWS) {
            let rows = BLOCK_ROWS.min(delta.len() - start);
            out.rows.push(delta.slice(start, rows));
        }
    }
}

/// Rows are handed on in pieces, each with all buffers.
fn one_buffer(column: &ArrayRef) -> ArrayRef {
    match buffers(column) > 1 {
        true => in_one_buffer(column),
        false => column.clone(),
    }
}

/// The rows of the ones, then those of the others.
fn both(before: &[ArrayRef], after: &[ArrayRef]) -> Vec<ArrayRef> {
    let both = before.iter().zip(after).map(|(before, after)| {
        let both = concat(&[before.as_ref(), after.as_ref()]);
        one_buffer(&both.expect("columns of one type"))
    });
    both.collect()
}

impl Run {
    fn begin_of(&self, key: usize) -> usize {
        key.checked_sub(1).map_or(0, |before| self.ends[before])
    }

    /// Places of the changes of `keys`.
    fn rows_of(&self, keys: &Range<usize>) -> &[(usize, usize)] {
        &self.by_key[self.begin_of(keys.start)..self.begin_of(keys.end)]
    }

    /// Where the changes of `key` are among those of `keys`.
    fn range_of(&self, key: usize, keys: &Range<usize>) -> Range<usize> {
        let first = self.begin_of(keys.start);
        self.begin_of(key) - first..self.ends[key] - first
    }

    /// For each change of `keys` the number of its key among them.
    fn owners_of(&self, keys: &Range<usize>) -> impl Iterator<Item = usize> {
        let count = |key: usize| self.ends[key] - self.begin_of(key);
        let keys = keys.clone().enumerate();
        keys.flat_map(move |(i, key)| std::iter::repeat_n(i, count(key)))
    }

    /// Keys from the next one on with about as many changes as a block has rows, up to one that is `apart`.
    fn next_keys(&self, apart: &FirstRows) -> Range<usize> {
        let most = self.begin_of(self.next) + BLOCK_ROWS;
        let within = self.ends.partition_point(|end| *end <= most);
        let end = within.clamp(self.next + 1, self.next + BLOCK_ROWS);
        let end = end.min(self.ends.len());
        if apart.is_empty() {
            return self.next..end;
        }
        let is_apart = |key: &usize| apart.get(self.keys.slot(*key as u32).hash).is_some();
        if is_apart(&self.next) {
            return self.next..self.next + 1;
        }
        self.next..(self.next + 1..end).find(is_apart).unwrap_or(end)
    }

    fn gather(&self, places: &[(usize, usize)], width: usize) -> Vec<ArrayRef> {
        let column = |c: usize| {
            let all = self.changes.iter().map(|d| d.rows.column(c).as_ref());
            let rows = interleave(&all.collect::<Vec<_>>(), places);
            one_buffer(&rows.expect("columns of one type"))
        };
        (0..width).map(column).collect()
    }
}

impl Operator for TopKOperator {
    fn push(&mut self, _: usize, delta: Delta, _: &mut Output) {
        for start in (0..delta.len()).step_by(BLOCK_ROWS) {
            self.take_piece(delta.slice(start, BLOCK_ROWS.min(delta.len() - start)));
        }
    }

    fn finish(&mut self, epoch: Epoch, out: &mut Output) {
        self.running = Some(self.begin(epoch));
        self.go_on(out);
    }

    fn is_busy(&self) -> bool {
        self.running.is_some()
    }

    fn go_on(&mut self, out: &mut Output) {
        let Some(mut run) = self.running.take() else {
            return;
        };
        while run.next < run.ends.len() {
            if out.is_spent() {
                self.running = Some(run);
                return;
            }
            let keys = run.next_keys(&self.first);
            out.spend(run.rows_of(&keys).len());
            run.next = keys.end;
            if !self.follow(&run, &keys, out) {
                self.compute(&mut run, keys, out);
            }
        }
        self.state.finish(run.epoch);
    }

    fn state_bytes(&self) -> usize {
        self.state.bytes() + self.first.bytes()
    }
}
