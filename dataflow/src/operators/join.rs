//! [`JoinOperator`]: joins of two inputs on equal columns, kept up to date.
//!
//! Both inputs are indexed by the join key ([`KeyedState`], one table of keys for both). The rows of one input that
//! change meet the indexed rows of the other, so that over an epoch the pairs add up to dL⋈R + L⋈dR + dL⋈dR, whatever
//! the order of the pieces. Pushed rows wait a while, so that a key that changes on both sides gives the difference of its
//! pairs and not pairs that come and go ([`super::join_pending`]).
//!
//! Rows of outer, semi and anti joins depend on the presence of matches:
//! * without a filter, presence is a property of the key: the sum of the other side's diffs is positive;
//! * with a filter, it is a property of the row: each row carries the sum of its matches' diffs.
//!
//! In both cases a flag *shown* remembers the presence that the output so far stands for. Invariant:
//! apart from pending pieces the output is the indexed rows under their shown flags; `finish` makes the flags true.
//!
//! See [`super::join_presence`] for this, [`super::join_pairs`] for the pairs and [`super::join_index`] for those that a range allows,
//! [`super::join_tasks`] for how the work is cut.
//!
//! A row with NULL in its key (unless NULLs are equal) has no match ever: it is passed on or
//! dropped, and never stored.

use std::cell::OnceCell;
use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{Schema, SchemaRef};
use datafusion_physical_expr::PhysicalExpr;
use tidemill_zset::consolidate::{consolidate, consolidate_repeated};
use tidemill_zset::hash::hash_columns;
use tidemill_zset::{Delta, Diffs, Epoch};

use super::join_filter::PairFilter;
use super::join_keys::complete_keys;
use super::join_pairs::{Pairs, twins};
use super::join_pending::Piece;
use super::join_plan::{StoredColumns, join_columns};
use super::join_presence::Flip;
use super::join_rows::{BLOCK_ROWS, batch_of, nullable};
use super::join_state::{KeyedState, StateSide};
use super::join_tasks::{Arrival, Task};
pub use super::join_unindexed::UnindexedLimits;
use super::reload::Reload;
use crate::operator::{BuildContext, Operator, Output};
use crate::plan::{JoinKind, Node, Op};
use crate::state::StateHandle;

/// Rows per piece of output, and pairs looked at together.
pub(super) const PIECE_ROWS: usize = 8192;

/// Pushed rows that wait to be joined.
const PENDING_ROWS_MAX: usize = 64 * 1024;

/// The same where only one side has changed of late, as a large fact table does beside small ones: it needn't wait, but a few rows
/// do, as in a chain of joins each would otherwise pass on twice as many changes once both sides change.
const ALONE_ROWS_MAX: usize = 4 * 1024;

pub(super) const LEFT: usize = 0;
pub(super) const RIGHT: usize = 1;

/// Slot flag: the output stands for "the other side has matches", for rows of side 0 and 1.
pub(super) const SHOWN: [u8; 2] = [1, 2];
/// Slot flag: the slot is in `dirty_slots` of side 0 and 1.
pub(super) const DIRTY: [u8; 2] = [4, 8];

/// Builds the operator of `node`.
pub fn build(node: &Node, states: Vec<StateHandle>, context: &BuildContext) -> Box<dyn Operator> {
    build_with(node, states, context, UnindexedLimits::default())
}

/// Like [`build`], with other limits.
pub fn build_with(
    node: &Node,
    states: Vec<StateHandle>,
    context: &BuildContext,
    unindexed: UnindexedLimits,
) -> Box<dyn Operator> {
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
        context,
        unindexed,
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
    /// Where it runs, with how much memory.
    pub context: &'a BuildContext,
    /// When rows without an index are moved.
    pub unindexed: UnindexedLimits,
}

/// How the presence of matches is kept.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    /// Not needed: inner join.
    None,
    /// One count per key and side.
    PerKey,
    /// One count per row.
    PerRow,
}

/// True if rows of a side have no effect as long as their keys aren't on the other side.
pub(super) fn may_stay_unindexed(kind: JoinKind, presence: Presence, side: usize) -> bool {
    match (kind, presence) {
        (_, Presence::None) => true,
        // They appear when a row of the right side comes, which looks at all rows of its key.
        (JoinKind::Semi, Presence::PerKey) => side == LEFT,
        _ => false,
    }
}

/// See the module.
pub struct JoinOperator {
    pub(super) kind: JoinKind,
    pub(super) presence: Presence,
    /// Rows of side 0 (1) appear alone, depending on the presence of matches.
    pub(super) single: [bool; 2],
    pub(super) null_equals_null: bool,
    pub(super) filter: Option<PairFilter>,
    pub(super) stored: [StoredColumns; 2],
    pub(super) widths: [usize; 2],
    /// Per column of each side: the key column of the other side that has the same values in every pair.
    pub(super) twins: [Vec<Option<usize>>; 2],
    /// Columns of a pair: left, then the right ones that are stored; for culprits' texts.
    pub(super) pair_columns: Vec<usize>,
    pub(super) pair_schema: SchemaRef,
    pub(super) output_schema: SchemaRef,
    pub(super) state: KeyedState<2>,
    pub(super) dirty_slots: [Vec<u32>; 2],
    pub(super) dirty_rows: [Vec<u32>; 2],
    /// [`PIECE_ROWS`] NULLs for the columns of each side, once they have been wanted.
    pub(super) nulls: [OnceCell<Vec<ArrayRef>>; 2],
    /// Pieces of both sides that are indexed but not emitted yet; only without [`Presence::PerRow`].
    pub(super) pending: [Vec<Piece>; 2],
    pending_rows: usize,
    /// Rows of both sides that wait for the end of the epoch; only where pieces that are indexed don't ([`JoinOperator::waits`]).
    held: [Vec<Delta>; 2],
    held_rows: usize,
    /// Which sides have had rows in this epoch.
    active: [bool; 2],
    /// Pushed rows wait, however many: both sides had rows in the last epoch that had any.
    waiting: bool,
    pub(super) pairs: Pairs,
    /// Pairs with rows of each side that have been looked at for want of an index of them; see [`super::join_index`].
    pub(super) looked_at: [usize; 2],
    /// What is to be done, in order.
    pub(super) tasks: VecDeque<Task>,
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
        let bytes_max = config.context.state_bytes_max;
        // Rows that count their matches would meet all others of their key. Without a key there is nothing else to read.
        let reload = match per_row || stored[LEFT].key_columns == 0 {
            true => None,
            false => {
                let states = [config.left.clone(), config.right.clone()];
                Reload::new(&states, bytes_max, config.context)
            }
        };
        JoinOperator {
            kind: config.kind,
            presence,
            single,
            null_equals_null: config.null_equals_null,
            filter: config
                .filter
                .map(|f| PairFilter::new(f, &whole, widths[LEFT], config.context.error_mapper)),
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
                    StateSide::new(config.left, per_row && single[LEFT], true)
                        .with_limits(config.unindexed),
                    StateSide::new(config.right, per_row && single[RIGHT], !counted_only)
                        .with_limits(config.unindexed),
                ],
                presence == Presence::PerKey,
                config.null_equals_null,
                bytes_max,
            )
            .with_reload(
                reload,
                [LEFT, RIGHT].map(|side| may_stay_unindexed(config.kind, presence, side)),
            ),
            dirty_slots: Default::default(),
            dirty_rows: Default::default(),
            nulls: Default::default(),
            pending: Default::default(),
            pending_rows: 0,
            held: Default::default(),
            held_rows: 0,
            active: [false; 2],
            waiting: true,
            pairs: Pairs::default(),
            looked_at: [0; 2],
            tasks: VecDeque::new(),
        }
    }

    /// True if rows of a single side appear when they have matches, false if they appear when they have none.
    pub(super) fn single_when(&self) -> bool {
        self.kind == JoinKind::Semi
    }

    pub(super) fn emits_pairs(&self) -> bool {
        matches!(self.kind, JoinKind::Inner | JoinKind::Left | JoinKind::Full)
    }

    /// True if pushed rows may wait for the rest of the epoch, so that changes of both sides of a key are taken together.
    pub(super) fn waits(&self) -> bool {
        // Without a key the pieces of both sides would meet pair by pair, which `meet_all` does better.
        self.presence != Presence::PerRow && self.stored[LEFT].key_columns > 0
    }

    /// The stored columns of a pushed piece, and the hashes of its keys.
    pub(super) fn stored_rows(&self, port: usize, delta: &Delta) -> (RecordBatch, Vec<u64>) {
        let stored = &self.stored[port];
        let columns: Vec<ArrayRef> = stored
            .columns
            .iter()
            .map(|c| delta.rows.column(*c).clone())
            .collect();
        let hashes = hash_columns(&columns[..stored.key_columns], delta.len());
        let schema = &self.state.sides[port].handle.desc.schema;
        (batch_of(schema, columns, delta.len()), hashes)
    }

    /// Indexes a piece and has it wait to be joined.
    pub(super) fn hold(&mut self, arrival: Arrival, out: &mut Output) {
        let Arrival {
            port,
            delta,
            rows,
            hashes,
            slots,
            reported,
        } = arrival;
        let first = self.state.add(port, &rows, &delta.diffs, &slots);
        self.pending_rows += delta.len();
        self.pending[port].push(Piece {
            delta: delta.clone(),
            slots,
            first,
        });
        let behind = !self.waiting && self.pending_rows >= ALONE_ROWS_MAX;
        if behind || self.pending_rows >= PENDING_ROWS_MAX {
            self.tasks.push_front(Task::Flush);
        }
        if !reported {
            self.report_change(port, rows, hashes, delta, out);
        }
    }

    /// Plans what the pending pieces change.
    pub(super) fn flush(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        self.pending_rows = 0;
        let mut tasks = self.plan_pending(pending);
        if self.presence == Presence::PerKey {
            for side in [LEFT, RIGHT] {
                tasks.push(Task::FlipSlots(Flip::new(side)));
            }
        }
        self.do_first(tasks);
    }

    /// Everything of the epoch is done.
    pub(super) fn end(&mut self, epoch: Epoch) {
        if self.active != [false; 2] {
            self.waiting = self.active == [true; 2];
            self.active = [false; 2];
        }
        self.state.finish(epoch);
    }

    /// Rows with NULL in their key match nothing: emits them if they appear alone, and gives back the others.
    pub(super) fn split_null_keys(
        &mut self,
        port: usize,
        delta: Delta,
        out: &mut Output,
    ) -> Option<Delta> {
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
}

impl JoinOperator {
    /// Plans to take the rows.
    fn plan_take(&mut self, port: usize, delta: &Delta) {
        for start in (0..delta.len()).step_by(PIECE_ROWS.min(BLOCK_ROWS)) {
            let rows = PIECE_ROWS.min(delta.len() - start);
            let piece = delta.slice(start, rows);
            self.tasks.push_back(Task::Take(port, piece));
        }
    }

    /// Plans to take the rows that are held, equal ones added up. One row on each side that changes gives
    /// four pairs, of which two are each other's opposite; a join of that join would give eight, and so on.
    fn plan_held(&mut self) {
        self.held_rows = 0;
        for port in [LEFT, RIGHT] {
            let mut held = std::mem::take(&mut self.held[port]);
            if held.iter().any(|d| matches!(d.diffs, Diffs::Each(_))) {
                held = vec![consolidate(&held[0].schema(), &held)];
            }
            for delta in held {
                self.plan_take(port, &consolidate_repeated(delta));
            }
        }
    }
}

impl Operator for JoinOperator {
    fn push(&mut self, port: usize, delta: Delta, out: &mut Output) {
        self.active[port] |= !delta.is_empty();
        if self.waits() {
            // Equal rows meet the same rows: a few with weights instead of many make as many fewer pairs.
            self.plan_take(port, &consolidate_repeated(delta));
        } else if !delta.is_empty() {
            self.held_rows += delta.len();
            self.held[port].push(delta);
            if self.held_rows >= PENDING_ROWS_MAX {
                self.plan_held();
            }
        }
        self.run_tasks(out);
    }

    fn finish(&mut self, epoch: Epoch, out: &mut Output) {
        self.plan_held();
        self.plan_end(epoch);
        self.run_tasks(out);
    }

    fn is_busy(&self) -> bool {
        !self.tasks.is_empty()
    }

    fn go_on(&mut self, out: &mut Output) {
        self.run_tasks(out);
    }

    fn state_bytes(&self) -> usize {
        self.state.bytes()
    }
}
