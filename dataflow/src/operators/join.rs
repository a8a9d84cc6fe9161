//! [`JoinOperator`]: joins of two inputs on equal columns, kept up to date.
//!
//! Both inputs are indexed by the join key ([`KeyedState`], one table of keys for both). A pushed piece
//! of one input meets the rows of the other one that are indexed so far and is then indexed itself, so
//! that over an epoch the pairs add up to dL⋈R + L⋈dR + dL⋈dR, whatever the order of the pieces.
//! Pairs are emitted at once; what depends on whether a row has *any* match waits for `finish`.
//!
//! Rows of outer, semi and anti joins depend on the presence of matches:
//! * without a filter, presence is a property of the key: the sum of the other side's diffs is positive;
//! * with a filter, it is a property of the row: each row carries the sum of its matches' diffs.
//!
//! In both cases a flag *shown* remembers the presence that the output so far stands for. Invariant:
//! after every `push` the output is the indexed rows under their shown flags; `finish` makes the flags true.
//!
//! A row with NULL in its key (unless NULLs are equal) has no match ever: it is passed on or
//! dropped, and never stored.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array, new_null_array};
use arrow::buffer::BooleanBuffer;
use arrow::compute::take;
use arrow::datatypes::{Schema, SchemaRef};
use datafusion_physical_expr::PhysicalExpr;
use tidemill_storage::ArrangementChange;
use tidemill_zset::hash::hash_columns;
use tidemill_zset::{Delta, Diffs, Epoch};

use super::culprit::row_text;
use super::join_filter::PairFilter;
use super::join_keys::complete_keys;
use super::join_plan::{StoredColumns, join_columns};
use super::join_rows::{BLOCK_ROWS, NIL, batch_of, nullable};
use super::join_state::{KeyedState, StateSide};
use crate::operator::{BuildContext, Operator, Output, error_delta};
use crate::plan::{ErrorMapper, JoinKind, Node, Op};
use crate::state::StateHandle;

/// Rows per piece of output, and pairs looked at together.
const PIECE_ROWS: usize = 8192;

const LEFT: usize = 0;
const RIGHT: usize = 1;

/// Slot flag: the output stands for "the other side has matches", for rows of side 0 and 1.
const SHOWN: [u8; 2] = [1, 2];
/// Slot flag: the slot is in `dirty_slots` of side 0 and 1.
const DIRTY: [u8; 2] = [4, 8];

/// Builds the operator of `node`.
pub fn build(node: &Node, states: Vec<StateHandle>, context: &BuildContext) -> Box<dyn Operator> {
    let Op::Join {
        kind,
        on,
        null_equals_null,
        filter,
    } = &node.op
    else {
        unreachable!("only joins are built here")
    };
    let [left, right]: [StateHandle; 2] = states
        .try_into()
        .unwrap_or_else(|_| panic!("a join has two arrangements"));
    let operator = JoinOperator::new(JoinConfig {
        kind: *kind,
        on,
        null_equals_null: *null_equals_null,
        filter: filter.as_ref(),
        left_schema: node.inputs[0].schema.clone(),
        right_schema: node.inputs[1].schema.clone(),
        output_schema: node.schema.clone(),
        left,
        right,
        state_bytes_max: context.state_bytes_max,
        error_mapper: context.error_mapper,
    });
    Box::new(operator)
}

/// What a join is made of.
pub struct JoinConfig<'a> {
    /// Which rows appear.
    pub kind: JoinKind,
    /// Equal columns: (left, right).
    pub on: &'a [(usize, usize)],
    /// NULL keys are equal.
    pub null_equals_null: bool,
    /// Further condition over left columns, then right columns.
    pub filter: Option<&'a Arc<dyn PhysicalExpr>>,
    /// Columns of the left input.
    pub left_schema: SchemaRef,
    /// Columns of the right input.
    pub right_schema: SchemaRef,
    /// Columns of the output: left, then right (Semi, Anti: left only).
    pub output_schema: SchemaRef,
    /// State of the left input, as `join_plan::join_arrangements` describes it.
    pub left: StateHandle,
    /// State of the right input.
    pub right: StateHandle,
    /// Bytes of memory from which on untouched committed keys are dropped.
    pub state_bytes_max: usize,
    /// How evaluation errors become SQLSTATE and message.
    pub error_mapper: ErrorMapper,
}

/// How the presence of matches is kept.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Presence {
    /// Not needed: inner join.
    None,
    /// One count per key and side.
    PerKey,
    /// One count per row.
    PerRow,
}

/// See the module.
pub struct JoinOperator {
    kind: JoinKind,
    presence: Presence,
    /// Rows of side 0 (1) appear alone, depending on the presence of matches.
    single: [bool; 2],
    null_equals_null: bool,
    filter: Option<PairFilter>,
    stored: [StoredColumns; 2],
    widths: [usize; 2],
    /// Per column of each side: the key column of the other side that has the same values in every pair.
    twins: [Vec<Option<usize>>; 2],
    /// Columns of a pair: left, then the right ones that are stored; for culprits' texts.
    pair_columns: Vec<usize>,
    pair_schema: SchemaRef,
    output_schema: SchemaRef,
    state: KeyedState<2>,
    dirty_slots: [Vec<u32>; 2],
    dirty_rows: [Vec<u32>; 2],
    /// NULLs for the columns of each side.
    nulls: [Vec<ArrayRef>; 2],
    slots: Vec<u32>,
    pairs: Pairs,
}

/// Pairs of rows: of the pushed piece (by place) and of the other side (by row number), or of both sides' stores.
#[derive(Default)]
struct Pairs {
    probe: Vec<u32>,
    build: Vec<u32>,
}

impl Pairs {
    fn retain(&mut self, mask: &BooleanBuffer) {
        let keep = |v: &mut Vec<u32>| {
            let mut kept = 0;
            for i in mask.set_indices() {
                v[kept] = v[i];
                kept += 1;
            }
            v.truncate(kept);
        };
        keep(&mut self.probe);
        keep(&mut self.build);
    }
}

/// Rows of one side: places in a pushed piece, or numbers in the store.
#[derive(Clone, Copy)]
enum Rows<'a> {
    Pushed(&'a RecordBatch, &'a [u32]),
    Stored(&'a [u32]),
}

impl JoinOperator {
    /// A join over the given state.
    pub fn new(config: JoinConfig) -> Self {
        let widths = [
            config.left_schema.fields().len(),
            config.right_schema.fields().len(),
        ];
        let stored = join_columns(config.kind, config.on, config.filter, widths[0], widths[1]);
        let single = match config.kind {
            JoinKind::Inner => [false, false],
            JoinKind::Full => [true, true],
            JoinKind::Left | JoinKind::Semi | JoinKind::Anti => [true, false],
        };
        let presence = match (single[LEFT], config.filter) {
            (false, _) => Presence::None,
            (true, None) => Presence::PerKey,
            (true, Some(_)) => Presence::PerRow,
        };
        let halves = matches!(config.kind, JoinKind::Semi | JoinKind::Anti);
        let fields = config.left_schema.fields().iter();
        let fields = fields.chain(config.right_schema.fields().iter());
        let whole = Schema::new(fields.cloned().collect::<Vec<_>>());
        let pair_columns: Vec<usize> = (0..widths[0] + widths[1])
            .filter(|c| *c < widths[0] || stored[RIGHT].position(c - widths[0]).is_some())
            .collect();
        let pair_fields = pair_columns.iter().map(|c| whole.field(*c).clone());
        let pair_schema = nullable(&Arc::new(Schema::new(pair_fields.collect::<Vec<_>>())));
        let per_row = presence == Presence::PerRow;
        let counted_only = halves && presence == Presence::PerKey;
        let nulls = [&config.left_schema, &config.right_schema].map(|schema| {
            let null = |f: &Arc<arrow::datatypes::Field>| new_null_array(f.data_type(), PIECE_ROWS);
            schema.fields().iter().map(null).collect()
        });
        JoinOperator {
            kind: config.kind,
            presence,
            single,
            null_equals_null: config.null_equals_null,
            filter: config
                .filter
                .map(|f| PairFilter::new(f, &whole, config.error_mapper)),
            stored,
            widths,
            twins: [
                twins(&config.left_schema, config.on),
                twins(
                    &config.right_schema,
                    &config.on.iter().map(|(l, r)| (*r, *l)).collect::<Vec<_>>(),
                ),
            ],
            pair_columns,
            pair_schema,
            output_schema: config.output_schema,
            state: KeyedState::new(
                [
                    StateSide::new(config.left, per_row && single[LEFT], true),
                    StateSide::new(config.right, per_row && single[RIGHT], !counted_only),
                ],
                presence == Presence::PerKey,
                config.null_equals_null,
                config.state_bytes_max,
            ),
            dirty_slots: Default::default(),
            dirty_rows: Default::default(),
            nulls,
            slots: Vec::new(),
            pairs: Pairs::default(),
        }
    }

    /// True if rows of a single side appear when they have matches, false if they appear when they have none.
    fn single_when(&self) -> bool {
        self.kind == JoinKind::Semi
    }

    fn emits_pairs(&self) -> bool {
        matches!(self.kind, JoinKind::Inner | JoinKind::Left | JoinKind::Full)
    }

    /// Takes a piece of at most [`PIECE_ROWS`] rows.
    fn step(&mut self, port: usize, delta: Delta, out: &mut Output) {
        let delta = match self.split_null_keys(port, delta, out) {
            Some(d) => d,
            None => return,
        };
        let stored = &self.stored[port];
        let columns: Vec<ArrayRef> = stored
            .columns
            .iter()
            .map(|c| delta.rows.column(*c).clone())
            .collect();
        let keys = &columns[..stored.key_columns];
        let hashes = hash_columns(keys, delta.len());
        let mut slots = std::mem::take(&mut self.slots);
        let fetched = self.state.resolve(keys, &hashes, &mut slots);
        self.restore_presence(fetched, out);

        let schema = &self.state.sides[port].handle.desc.schema;
        let rows = batch_of(schema, columns, delta.len());
        let looks_at_pairs = self.emits_pairs() || self.presence == Presence::PerRow;
        let mut own = vec![
            0;
            if looks_at_pairs && self.single[port] {
                delta.len()
            } else {
                0
            }
        ];
        if looks_at_pairs {
            self.meet(port, &delta, &slots, &mut own, out);
        }
        let first = self.state.insert(port, &rows, &delta.diffs, &slots);
        self.show_pushed(port, &delta, &slots, first, &own, out);
        self.slots = slots;

        let handle = &self.state.sides[port].handle;
        if handle.reader.is_some() {
            out.changes.push(ArrangementChange {
                arrangement: handle.desc.id,
                hashes,
                delta: Delta::new(rows, delta.diffs),
            });
        }
    }

    /// Rows with NULL in their key match nothing: emits them if they appear alone, and gives back the others.
    fn split_null_keys(&mut self, port: usize, delta: Delta, out: &mut Output) -> Option<Delta> {
        if self.null_equals_null {
            return Some(delta);
        }
        let stored = &self.stored[port];
        let keys: Vec<ArrayRef> = stored.columns[..stored.key_columns]
            .iter()
            .map(|c| delta.rows.column(*c).clone())
            .collect();
        let Some(complete) = complete_keys(&keys) else {
            return Some(delta);
        };
        if self.single[port] && !self.single_when() {
            let alone = delta
                .filter(&(!&complete).into())
                .expect("a mask of the batch's length");
            self.emit_single(
                port,
                alone.rows.columns().to_vec(),
                alone.len(),
                alone.diffs,
                out,
            );
        }
        let rest = delta
            .filter(&complete.into())
            .expect("a mask of the batch's length");
        (!rest.is_empty()).then_some(rest)
    }

    /// Pairs of the pushed rows with the rows of the other side: emits them and counts matches.
    fn meet(
        &mut self,
        port: usize,
        delta: &Delta,
        slots: &[u32],
        own: &mut [i64],
        out: &mut Output,
    ) {
        let other = 1 - port;
        let mut pairs = std::mem::take(&mut self.pairs);
        let (mut row, mut node) = (0, NIL);
        if let Some(slot) = slots.first() {
            node = self.state.keys.slot(*slot).heads[other];
        }
        loop {
            pairs.probe.clear();
            pairs.build.clear();
            let store = &self.state.sides[other].store;
            while row < slots.len() {
                while node != NIL && pairs.probe.len() < PIECE_ROWS {
                    pairs.probe.push(row as u32);
                    pairs.build.push(node);
                    node = store.next(node);
                }
                if pairs.probe.len() == PIECE_ROWS && node != NIL {
                    break;
                }
                row += 1;
                if let Some(slot) = slots.get(row) {
                    node = self.state.keys.slot(*slot).heads[other];
                }
            }
            if pairs.probe.is_empty() {
                break;
            }
            self.apply_filter(port, Some(delta), &mut pairs, out);
            self.count_matches(port, delta, &pairs, own);
            if self.emits_pairs() {
                self.emit_pairs(port, delta, &pairs, out);
            }
        }
        self.pairs = pairs;
    }

    /// Keeps the pairs that pass the filter; those that fail become errors, unless their pushed rows are only
    /// fetched state (`delta` is `None`, the pairs are row numbers of both sides).
    fn apply_filter(
        &mut self,
        port: usize,
        delta: Option<&Delta>,
        pairs: &mut Pairs,
        out: &mut Output,
    ) {
        let Some(filter) = self.filter.take() else {
            return;
        };
        let count = pairs.probe.len();
        let columns = self.pair_arrays(port, delta, &pairs.probe, &pairs.build, &filter.columns);
        let mut failed = Vec::new();
        let mask = filter.mask(columns, count, &mut failed);
        if let (false, Some(delta)) = (failed.is_empty(), delta) {
            let places = |of: &[u32]| -> Vec<u32> { failed.iter().map(|f| of[f.0]).collect() };
            let (probe, build) = (places(&pairs.probe), places(&pairs.build));
            let wanted = self.pair_columns.clone();
            let arrays = self.pair_arrays(port, Some(delta), &probe, &build, &wanted);
            let batch = batch_of(&self.pair_schema, arrays, failed.len());
            let diffs = self
                .pair_diffs(port, delta, &probe, &build)
                .to_buffer(failed.len());
            let errors: Vec<_> = failed
                .into_iter()
                .enumerate()
                .map(|(i, (_, error))| (error, row_text(&batch, i), diffs[i]))
                .collect();
            out.errors.push(error_delta(&errors));
        }
        if mask.count_set_bits() < count {
            pairs.retain(&mask);
        }
        self.filter = Some(filter);
    }

    /// Columns (numbered left, then right) of pairs. The probe rows are of side `port`: places in `delta`, or row
    /// numbers if there is none.
    fn pair_arrays(
        &mut self,
        port: usize,
        delta: Option<&Delta>,
        probe: &[u32],
        build: &[u32],
        columns: &[usize],
    ) -> Vec<ArrayRef> {
        let split = columns.partition_point(|c| *c < self.widths[LEFT]);
        let (left, right) = columns.split_at(split);
        let left = left.to_vec();
        let right: Vec<usize> = right.iter().map(|c| c - self.widths[LEFT]).collect();
        let probe = match delta {
            Some(d) => Rows::Pushed(&d.rows, probe),
            None => Rows::Stored(probe),
        };
        let build = Rows::Stored(build);
        let mut arrays = [Vec::new(), Vec::new()];
        for (side, columns) in [left, right].into_iter().enumerate() {
            arrays[side] = match side == port {
                true => self.side_arrays(side, probe, &columns),
                false => self.build_arrays(side, probe, build, &columns),
            };
        }
        arrays.into_iter().flatten().collect()
    }

    /// Columns of the build rows of pairs; those that equal a key column of the probe rows are taken from there, which is
    /// cheaper.
    fn build_arrays(
        &mut self,
        side: usize,
        probe: Rows,
        build: Rows,
        columns: &[usize],
    ) -> Vec<ArrayRef> {
        let twins: Vec<Option<usize>> = columns.iter().map(|c| self.twins[side][*c]).collect();
        let own = columns.iter().zip(&twins).filter(|(_, t)| t.is_none());
        let own: Vec<usize> = own.map(|(c, _)| *c).collect();
        let theirs: Vec<usize> = twins.iter().copied().flatten().collect();
        let mut own = self.side_arrays(side, build, &own).into_iter();
        let mut theirs = self.side_arrays(1 - side, probe, &theirs).into_iter();
        let next = |t: &Option<usize>| match t {
            None => own.next(),
            Some(_) => theirs.next(),
        };
        twins
            .iter()
            .map(next)
            .map(|array| array.expect("one array per column"))
            .collect()
    }

    /// Input columns of rows of one side.
    fn side_arrays(&mut self, side: usize, rows: Rows, columns: &[usize]) -> Vec<ArrayRef> {
        match rows {
            Rows::Stored(numbers) => {
                let stored = &self.stored[side];
                let position = |c: &usize| stored.position(*c).expect("needed columns are stored");
                let columns: Vec<usize> = columns.iter().map(position).collect();
                self.state.sides[side].store.gather(numbers, &columns)
            }
            Rows::Pushed(batch, places) => {
                let start = places.first().map_or(0, |p| *p as usize);
                if is_range(places) {
                    let slice = |c: &usize| batch.column(*c).slice(start, places.len());
                    return columns.iter().map(slice).collect();
                }
                let indices = UInt32Array::from(places.to_vec());
                columns
                    .iter()
                    .map(|c| take(batch.column(*c), &indices, None).expect("places of the piece"))
                    .collect()
            }
        }
    }

    fn pair_diffs(&self, port: usize, delta: &Delta, probe: &[u32], build: &[u32]) -> Diffs {
        let store = &self.state.sides[1 - port].store;
        match (&delta.diffs, store.all_ones()) {
            (Diffs::Ones, true) => Diffs::Ones,
            (Diffs::Each(d), true) => {
                let of = |p: &u32| d[*p as usize];
                Diffs::Each(probe.iter().map(of).collect::<Vec<_>>().into())
            }
            _ => {
                let pairs = probe.iter().zip(build);
                let product = pairs.map(|(p, b)| delta.diffs.get(*p as usize) * store.diff(*b));
                Diffs::Each(product.collect::<Vec<_>>().into())
            }
        }
    }

    fn emit_pairs(&mut self, port: usize, delta: &Delta, pairs: &Pairs, out: &mut Output) {
        let count = pairs.probe.len();
        if count == 0 {
            return;
        }
        let diffs = self.pair_diffs(port, delta, &pairs.probe, &pairs.build);
        let all: Vec<usize> = (0..self.widths[LEFT] + self.widths[RIGHT]).collect();
        let arrays = self.pair_arrays(port, Some(delta), &pairs.probe, &pairs.build, &all);
        let rows = batch_of(&self.output_schema, arrays, count);
        out.rows.push(Delta::new(rows, diffs));
    }

    /// With a count of matches per row: adds the pairs to those of the pushed and of the other side's rows.
    fn count_matches(&mut self, port: usize, delta: &Delta, pairs: &Pairs, own: &mut [i64]) {
        if self.presence != Presence::PerRow {
            return;
        }
        let other = 1 - port;
        let store = &mut self.state.sides[other].store;
        if self.single[port] {
            for (p, b) in pairs.probe.iter().zip(&pairs.build) {
                own[*p as usize] += store.diff(*b);
            }
        }
        if self.single[other] {
            let matching = store.matching.as_mut().expect("kept for this side");
            for (p, b) in pairs.probe.iter().zip(&pairs.build) {
                let b = *b as usize;
                matching.matches[b] += delta.diffs.get(*p as usize);
                if !matching.dirty[b] {
                    matching.dirty[b] = true;
                    self.dirty_rows[other].push(b as u32);
                }
            }
        }
    }

    /// After rows have been indexed: emits those of them that appear alone under the shown presence, and notes whose
    /// presence on the other side they may have changed.
    fn show_pushed(
        &mut self,
        port: usize,
        delta: &Delta,
        slots: &[u32],
        first: u32,
        own: &[i64],
        out: &mut Output,
    ) {
        let other = 1 - port;
        if self.presence == Presence::PerKey && self.single[other] {
            for slot in slots {
                let flags = &mut self.state.keys.slot_mut(*slot).flags;
                if *flags & DIRTY[other] == 0 {
                    *flags |= DIRTY[other];
                    self.dirty_slots[other].push(*slot);
                }
            }
        }
        if !self.single[port] {
            return;
        }
        let when = self.single_when();
        let alone: Vec<u32> = match self.presence {
            Presence::None => return,
            Presence::PerKey => {
                let shown = |slot: u32| self.state.keys.slot(slot).flags & SHOWN[port] != 0;
                let rows = slots.iter().enumerate();
                let rows = rows.filter(|(_, slot)| shown(**slot) == when);
                rows.map(|(row, _)| row as u32).collect()
            }
            Presence::PerRow => {
                let store = &mut self.state.sides[port].store;
                let matching = store.matching.as_mut().expect("kept for this side");
                for (row, matches) in own.iter().enumerate() {
                    matching.matches[first as usize + row] = *matches;
                    matching.shown[first as usize + row] = *matches > 0;
                }
                let rows = own.iter().enumerate();
                let rows = rows.filter(|(_, matches)| (**matches > 0) == when);
                rows.map(|(row, _)| row as u32).collect()
            }
        };
        if alone.is_empty() {
            return;
        }
        let delta = match alone.len() == delta.len() {
            true => delta.clone(),
            false => delta
                .take(&UInt32Array::from(alone))
                .expect("rows of the piece"),
        };
        let columns = delta.rows.columns().to_vec();
        self.emit_single(port, columns, delta.len(), delta.diffs, out);
    }

    /// Emits rows of one side, the other side's columns NULL (Semi, Anti: absent). At most [`PIECE_ROWS`].
    fn emit_single(
        &self,
        side: usize,
        columns: Vec<ArrayRef>,
        rows: usize,
        diffs: Diffs,
        out: &mut Output,
    ) {
        if rows == 0 {
            return;
        }
        let nulls = |side: usize| self.nulls[side].iter().map(|n| n.slice(0, rows));
        let columns = match (self.kind, side) {
            (JoinKind::Semi | JoinKind::Anti, _) => columns,
            (_, LEFT) => columns.into_iter().chain(nulls(RIGHT)).collect(),
            (_, _) => nulls(LEFT).chain(columns).collect(),
        };
        let rows = batch_of(&self.output_schema, columns, rows);
        out.rows.push(Delta::new(rows, diffs));
    }

    /// Sets the presence of keys that have just been fetched: the output already stands for it.
    fn restore_presence(&mut self, fetched: std::ops::Range<u32>, out: &mut Output) {
        match self.presence {
            Presence::None => {}
            Presence::PerKey => {
                let counts = self.state.counts.as_ref().expect("kept for this join");
                for slot in fetched {
                    let flags = &mut self.state.keys.slot_mut(slot).flags;
                    for side in [LEFT, RIGHT] {
                        if counts[slot as usize][1 - side] > 0 {
                            *flags |= SHOWN[side];
                        }
                    }
                }
            }
            Presence::PerRow => {
                for slot in fetched {
                    self.restore_matches(slot, out);
                }
            }
        }
    }

    /// Recomputes the matches of all rows of a fetched key.
    fn restore_matches(&mut self, slot: u32, out: &mut Output) {
        let heads = self.state.keys.slot(slot).heads;
        let (mut left, mut right) = (Vec::new(), Vec::new());
        self.state.sides[LEFT].store.collect(heads[LEFT], &mut left);
        self.state.sides[RIGHT]
            .store
            .collect(heads[RIGHT], &mut right);
        let mut pairs = Pairs::default();
        for (i, l) in left.iter().enumerate() {
            for (j, r) in right.iter().enumerate() {
                pairs.probe.push(*l);
                pairs.build.push(*r);
                let last = i + 1 == left.len() && j + 1 == right.len();
                if pairs.probe.len() == PIECE_ROWS || last {
                    self.apply_filter(LEFT, None, &mut pairs, out);
                    self.add_matches(&pairs);
                    pairs.probe.clear();
                    pairs.build.clear();
                }
            }
        }
        for (side, rows) in [(LEFT, left), (RIGHT, right)] {
            if let Some(m) = &mut self.state.sides[side].store.matching {
                for row in rows {
                    m.shown[row as usize] = m.matches[row as usize] > 0;
                }
            }
        }
    }

    fn add_matches(&mut self, pairs: &Pairs) {
        let [left, right] = &mut self.state.sides;
        for (l, r) in pairs.probe.iter().zip(&pairs.build) {
            if let Some(m) = &mut left.store.matching {
                m.matches[*l as usize] += right.store.diff(*r);
            }
            if let Some(m) = &mut right.store.matching {
                m.matches[*r as usize] += left.store.diff(*l);
            }
        }
    }

    /// Makes the shown flags of keys true, and emits or retracts their rows.
    fn flip_slots(&mut self, side: usize, out: &mut Output) {
        let mut numbers = Vec::new();
        let mut signs = Vec::new();
        for slot in std::mem::take(&mut self.dirty_slots[side]) {
            let counts = self.state.counts.as_ref().expect("kept for this join");
            let present = counts[slot as usize][1 - side] > 0;
            let when = self.single_when();
            let slot = self.state.keys.slot_mut(slot);
            slot.flags &= !DIRTY[side];
            if (slot.flags & SHOWN[side] != 0) == present {
                continue;
            }
            slot.flags ^= SHOWN[side];
            let head = slot.heads[side];
            self.state.sides[side].store.collect(head, &mut numbers);
            signs.resize(numbers.len(), if present == when { 1 } else { -1 });
            if numbers.len() >= PIECE_ROWS {
                self.emit_flips(side, &mut numbers, &mut signs, out);
            }
        }
        self.emit_flips(side, &mut numbers, &mut signs, out);
    }

    /// Makes the shown flags of rows true, and emits or retracts the rows.
    fn flip_rows(&mut self, side: usize, out: &mut Output) {
        let mut numbers = Vec::new();
        let mut signs = Vec::new();
        let when = self.single_when();
        let dirty = std::mem::take(&mut self.dirty_rows[side]);
        if let Some(m) = &mut self.state.sides[side].store.matching {
            for row in dirty {
                let at = row as usize;
                let present = m.matches[at] > 0;
                m.dirty[at] = false;
                if m.shown[at] != present {
                    m.shown[at] = present;
                    numbers.push(row);
                    signs.push(if present == when { 1 } else { -1 });
                }
            }
        }
        self.emit_flips(side, &mut numbers, &mut signs, out);
    }

    fn emit_flips(
        &mut self,
        side: usize,
        numbers: &mut Vec<u32>,
        signs: &mut Vec<i64>,
        out: &mut Output,
    ) {
        let columns: Vec<usize> = (0..self.widths[side]).collect();
        let pieces = numbers.chunks(PIECE_ROWS).zip(signs.chunks(PIECE_ROWS));
        for (numbers, signs) in pieces {
            let arrays = self.side_arrays(side, Rows::Stored(numbers), &columns);
            let store = &self.state.sides[side].store;
            let pairs = numbers.iter().zip(signs);
            let diffs: Vec<i64> = pairs.map(|(n, s)| store.diff(*n) * s).collect();
            self.emit_single(side, arrays, numbers.len(), diffs.into(), out);
        }
        numbers.clear();
        signs.clear();
    }
}

/// Per column of `schema`: the column of the other side that is equal to it by `on` (own column, other column), if equal
/// means the same value.
fn twins(schema: &Schema, on: &[(usize, usize)]) -> Vec<Option<usize>> {
    let twin = |c: usize| {
        // -0 equals 0, but they aren't the same.
        let t = schema.field(c).data_type();
        let same = !t.is_floating() && !t.is_nested();
        on.iter().find(|(own, _)| same && *own == c).map(|o| o.1)
    };
    (0..schema.fields().len()).map(twin).collect()
}

/// True if `places` are consecutive.
fn is_range(places: &[u32]) -> bool {
    places.windows(2).all(|w| w[1] == w[0] + 1)
}

impl Operator for JoinOperator {
    fn push(&mut self, port: usize, delta: Delta, out: &mut Output) {
        for start in (0..delta.len()).step_by(PIECE_ROWS.min(BLOCK_ROWS)) {
            let rows = PIECE_ROWS.min(delta.len() - start);
            self.step(port, delta.slice(start, rows), out);
        }
    }

    fn finish(&mut self, epoch: Epoch, out: &mut Output) {
        for side in [LEFT, RIGHT] {
            match self.presence {
                Presence::None => {}
                Presence::PerKey => self.flip_slots(side, out),
                Presence::PerRow => self.flip_rows(side, out),
            }
        }
        self.state.finish(epoch);
    }

    fn state_bytes(&self) -> usize {
        self.state.bytes()
    }
}
