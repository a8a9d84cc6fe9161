//! GROUP BY with aggregates that are kept up to date per group; without aggregates: DISTINCT.
//!
//! Groups are slots of a [`KeyIndex`]; each cell of the [`Layout`] is a column over them. `push` updates the
//! columns at once and puts aside, once per epoch and group, what a group had before; `finish`
//! compares. After a restart memory holds nothing: what is stored of a group is added to what memory
//! knows when the group is next touched, which works because cells are additive. Other groups are read along ([`Reload`]).

pub mod cells;
pub mod extremes;
mod finish;
pub mod layout;
pub mod ordered;
mod results;

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::cast::AsArray;
use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch};
use arrow::buffer::ScalarBuffer;
use arrow::compute::filter_record_batch;
use arrow::datatypes::Int64Type;
use tidemill_storage::RunBatch;
use tidemill_zset::{Delta, Epoch};

use crate::keys::{KeyIndex, MISSING};
use crate::operator::{BuildContext, Operator, Output};
use crate::operators::culprit::row_text;
use crate::operators::reload::Reload;
use crate::plan::{ArrangementSpec, Node};
use crate::state::{StateHandle, unreadable};
use cells::Column;
use layout::{Cell, Layout, ROWS, Stored};

pub use layout::supports;

/// Groups without rows are forgotten when there are more than this and more than the others.
const DEAD_GROUPS_MIN: usize = 4_096;

/// Keys that are read from the store at once.
const LOAD_KEYS_MAX: usize = 65_536;

/// The arrangements of an aggregate: its groups, then the values of each min and max that must survive retractions.
pub fn arrangements(node: &Node) -> Vec<ArrangementSpec> {
    Layout::of(node).arrangements()
}

/// Builds the operator of `node`.
pub fn build(node: &Node, states: Vec<StateHandle>, context: &BuildContext) -> Box<dyn Operator> {
    Box::new(Groups::new(Layout::of(node), states, context))
}

/// The operator.
struct Groups {
    layout: Layout,
    /// The groups' arrangement, then those of the values.
    states: Vec<StateHandle>,
    context: BuildContext,
    index: KeyIndex,
    columns: Vec<Column>,
    /// Per slot: 1 + position in `touched`, or 0.
    marks: Vec<u32>,
    /// Slots that this epoch's input concerns, in order of their first row.
    touched: Vec<u32>,
    /// Slots from here on came up in this epoch, and what is stored of them isn't known, unless
    /// memory is `complete`.
    loaded: usize,
    /// A key that isn't in memory doesn't exist.
    complete: bool,
    /// While memory isn't complete: which hashes are, and which ones come next.
    reload: Option<Reload>,
    /// Some group may have had an error, in memory or before the restart: what groups had must be looked at.
    may_have_failed: bool,
    /// The global group's row has been given out.
    global: bool,
    /// Slots changed in epochs that the store may not have committed yet.
    uncommitted: VecDeque<(Epoch, Vec<u32>)>,
    /// How many slots `uncommitted` has together.
    pinned: usize,
    /// Slots whose group has no rows.
    dead: usize,
    slots: Vec<u32>,
}

impl Groups {
    fn new(layout: Layout, states: Vec<StateHandle>, context: &BuildContext) -> Self {
        let input = &layout.input;
        let types = layout.keys.iter().map(|k| input.field(*k).data_type());
        let columns = layout.cells.iter().map(|c| Column::new(c, &layout));
        let complete = states[0].reader.as_ref().is_none_or(|r| r.is_empty());
        let reload = match layout.keys.is_empty() {
            true => None,
            false => Reload::new(&states, context.state_bytes_max, context),
        };
        Groups {
            index: KeyIndex::new(types.cloned().collect()),
            columns: columns.collect(),
            layout,
            states,
            context: context.clone(),
            marks: Vec::new(),
            touched: Vec::new(),
            loaded: 0,
            complete,
            reload,
            may_have_failed: !complete,
            global: false,
            uncommitted: VecDeque::new(),
            pinned: 0,
            dead: 0,
            slots: Vec::new(),
        }
    }

    /// True for an aggregate without keys, whose one row is there even without input.
    fn is_global(&self) -> bool {
        self.layout.keys.is_empty()
    }

    /// Finds the groups of the keys, making room for new ones, and notes which are touched.
    fn touch(&mut self, keys: &[ArrayRef], rows: usize) {
        self.index.insert(keys, rows, &mut self.slots);
        let len = self.index.len();
        if len > self.marks.len() {
            self.marks.resize(len, 0);
            self.columns.iter_mut().for_each(|c| c.resize(len));
        }
        let from = self.touched.len();
        for slot in &self.slots {
            let mark = &mut self.marks[*slot as usize];
            if *mark == 0 {
                self.touched.push(*slot);
                *mark = self.touched.len() as u32;
            }
        }
        for column in &mut self.columns {
            column.remember(&self.touched[from..]);
        }
    }

    /// Adds what is stored of the groups that came up in this epoch.
    fn load(&mut self) {
        if self.complete {
            return;
        }
        let known = |hash: &u64| self.reload.as_ref().is_some_and(|r| r.has(*hash));
        let fresh = self.index.hashes()[self.loaded..].iter().copied();
        let mut hashes: Vec<u64> = fresh.filter(|hash| !known(hash)).collect();
        hashes.sort_unstable();
        hashes.dedup();
        let first = self.loaded;
        for hashes in hashes.chunks(LOAD_KEYS_MAX) {
            for batch in read(&self.states[0], hashes) {
                self.load_groups(&batch.rows, first);
            }
            for (cell, n) in self.values() {
                for batch in read(&self.states[1 + n], hashes) {
                    self.load_values(cell, &batch, first);
                }
            }
        }
        self.read_along(hashes.len());
    }

    /// Reads what may be read now that `keys` had to be looked for. Groups that memory doesn't have are touched and don't change.
    fn read_along(&mut self, keys: usize) {
        let Some(mut reload) = self.reload.take() else {
            return;
        };
        reload.earn(keys);
        // Half of the memory is for what comes: the rows may be larger than they were taken for.
        while self.state_bytes() < self.context.state_bytes_max / 2
            && let Some(hashes) = reload.next()
        {
            let (first, mut read) = (self.index.len(), 0);
            for batch in read_range(&self.states[0], hashes) {
                read += batch.rows.num_rows();
                let keys = &batch.rows.columns()[..self.layout.keys.len()];
                self.index
                    .find(keys, batch.rows.num_rows(), &mut self.slots);
                let missing = self.slots.iter().map(|slot| Some(*slot == MISSING));
                let missing: BooleanArray = missing.collect();
                let rows = filter_record_batch(&batch.rows, &missing).expect("one flag per row");
                self.touch(&rows.columns()[..self.layout.keys.len()], rows.num_rows());
                self.load_groups(&rows, first);
            }
            for (cell, n) in self.values() {
                for batch in read_range(&self.states[1 + n], hashes) {
                    read += batch.rows.num_rows();
                    self.load_values(cell, &batch, first);
                }
            }
            reload.read(read);
        }
        self.reload = Some(reload);
    }

    /// The cells that have arrangements of their own, and the numbers of these.
    fn values(&self) -> Vec<(usize, usize)> {
        let stored = self.layout.stored.iter().enumerate();
        let own = stored.filter_map(|(cell, stored)| match stored {
            Stored::Own(n) => Some((cell, *n)),
            _ => None,
        });
        own.collect()
    }

    /// Adds stored groups to those that have slots from `first` on.
    fn load_groups(&mut self, rows: &RecordBatch, first: usize) {
        let (rows, slots) = self.select(rows, first);
        if slots.is_empty() {
            return;
        }
        if self.is_global() {
            self.global = true;
        }
        let marks = &self.marks;
        let positions: Vec<u32> = slots.iter().map(|s| marks[*s as usize] - 1).collect();
        for (cell, column) in self.columns.iter_mut().enumerate() {
            let keys = self.layout.keys.len();
            match self.layout.stored[cell] {
                Stored::Own(_) => {}
                Stored::Output(a) => column.load(&slots, &positions, rows.column(keys + a)),
                Stored::Hidden(h) => column.load(&slots, &positions, rows.column(h)),
                Stored::OutputOrHidden(a, h) => {
                    // Where the sum fits the output, the hidden column is NULL, which counts as 0.
                    column.load(&slots, &positions, rows.column(keys + a));
                    column.load(&slots, &positions, rows.column(h));
                }
            }
        }
    }

    /// Adds stored values of a cell to the groups that have slots from `first` on.
    fn load_values(&mut self, cell: usize, batch: &RunBatch, first: usize) {
        let with_counts = with_column(&batch.rows, &batch.diffs);
        let (rows, slots) = self.select(&with_counts, first);
        let last = rows.num_columns() - 1;
        let counts = rows.column(last).as_primitive::<Int64Type>();
        if let Column::Extremes(e) = &mut self.columns[cell] {
            e.load_values(&slots, rows.column(last - 1), counts.values());
        }
    }

    /// The stored rows that belong to groups with slots from `first` on, and these groups: a stored key may only share
    /// the hash.
    fn select(&self, rows: &RecordBatch, first: usize) -> (RecordBatch, Vec<u32>) {
        let keys = &rows.columns()[..self.layout.keys.len()];
        let mut slots = Vec::new();
        self.index.find(keys, rows.num_rows(), &mut slots);
        let wanted = |s: &u32| *s != MISSING && *s as usize >= first;
        if slots.iter().all(wanted) {
            return (rows.clone(), slots);
        }
        let mask: BooleanArray = slots.iter().map(|s| Some(wanted(s))).collect();
        let rows = filter_record_batch(rows, &mask).expect("one flag per row");
        slots.retain(wanted);
        (rows, slots)
    }

    /// The group's key as text.
    fn key_text(&self, slot: u32) -> String {
        let fields: Vec<_> = self.layout.schema.fields()[..self.layout.keys.len()].to_vec();
        let schema = std::sync::Arc::new(arrow::datatypes::Schema::new(fields));
        let columns = self.index.take(&[slot]);
        row_text(&crate::operators::map::conform(&schema, columns, 1), 0)
    }

    /// Forgets what memory needn't hold: groups without rows when they are many, and everything
    /// that is committed when memory runs short.
    fn tidy(&mut self) {
        let reader = self.states[0].reader.as_ref();
        let committed = reader.map_or(Epoch::MAX, |r| r.epoch());
        while self
            .uncommitted
            .front()
            .is_some_and(|(e, _)| *e <= committed)
        {
            let slots = self.uncommitted.pop_front().map(|(_, slots)| slots);
            self.pinned -= slots.map_or(0, |s| s.len());
        }
        let (len, pinned) = (self.index.len(), self.pinned);
        let many_dead = self.dead > DEAD_GROUPS_MIN && self.dead > len / 2 + pinned;
        let short = self.state_bytes() > self.context.state_bytes_max && pinned < len / 2;
        let evict = short && reader.is_some();
        if !self.is_global() && (many_dead || evict) {
            self.forget(evict);
        }
    }

    /// Forgets dead groups, or all (`everything`), but for those with uncommitted changes.
    fn forget(&mut self, everything: bool) {
        let mut keep = vec![false; self.index.len()];
        for (_, slots) in &self.uncommitted {
            slots.iter().for_each(|s| keep[*s as usize] = true);
        }
        let Column::Count(rows) = &self.columns[ROWS] else {
            unreachable!("the first cell counts rows")
        };
        let alive = |s: u32| !everything && rows.now[s as usize] > 0;
        let renumbered = self.index.retain(|s| keep[s as usize] || alive(s));
        for column in &mut self.columns {
            column.retain(&renumbered);
        }
        for (_, slots) in &mut self.uncommitted {
            slots.iter_mut().for_each(|s| *s = renumbered[*s as usize]);
        }
        self.marks.truncate(self.index.len());
        self.loaded = self.index.len();
        if everything {
            self.complete = false;
            // What doesn't fit needn't be read again as a whole.
            self.reload = None;
        }
        let Column::Count(rows) = &self.columns[ROWS] else {
            unreachable!("the first cell counts rows")
        };
        self.dead = rows.now.iter().filter(|n| **n == 0).count();
    }
}

impl Operator for Groups {
    fn push(&mut self, _port: usize, delta: Delta, _out: &mut Output) {
        if delta.is_empty() {
            return;
        }
        let keys: Vec<ArrayRef> = self
            .layout
            .keys
            .iter()
            .map(|k| delta.rows.column(*k).clone())
            .collect();
        self.touch(&keys, delta.len());
        for (column, cell) in self.columns.iter_mut().zip(&self.layout.cells) {
            column.update(cell, &self.slots, &delta.rows, &delta.diffs);
        }
    }

    fn finish(&mut self, epoch: Epoch, out: &mut Output) {
        if self.is_global() && !self.global && self.context.owns(0) && self.touched.is_empty() {
            // The row for empty input.
            self.touch(&[], 1);
        }
        self.finish_epoch(epoch, out);
        self.tidy();
    }

    fn state_bytes(&self) -> usize {
        let columns: usize = self.columns.iter().map(Column::memory_bytes).sum();
        columns + self.index.memory_bytes() + self.marks.capacity() * 4
    }
}

/// Reads stored entries; a store that can't be read ends the process.
fn read(state: &StateHandle, hashes: &[u64]) -> Vec<RunBatch> {
    let Some(reader) = &state.reader else {
        return Vec::new();
    };
    reader
        .get_many(hashes)
        .unwrap_or_else(|e| unreadable(state.desc.id, &e))
}

/// Reads the stored entries with a hash in a range.
fn read_range(state: &StateHandle, hashes: (u64, u64)) -> impl Iterator<Item = RunBatch> + use<> {
    let id = state.desc.id;
    let batches = state.reader.as_ref().map(|r| r.range(hashes));
    let batches = batches.map(|b| b.unwrap_or_else(|e| unreadable(id, &e)));
    let batches = batches.into_iter().flatten();
    batches.map(move |b| b.unwrap_or_else(|e| unreadable(id, &e)))
}

/// `rows` with one more column.
fn with_column(rows: &RecordBatch, values: &ScalarBuffer<i64>) -> RecordBatch {
    use arrow::datatypes::{DataType, Field, Schema};
    let mut fields = rows.schema().fields().to_vec();
    fields.push(Arc::new(Field::new("$count", DataType::Int64, false)));
    let mut columns = rows.columns().to_vec();
    columns.push(Arc::new(Int64Array::new(values.clone(), None)));
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("one count per row")
}

/// Cells that count something: none may be negative when an epoch ends.
fn counts_of(column: &Column, cell: &Cell) -> bool {
    matches!(column, Column::Count(_) | Column::Trues(_))
        && matches!(cell, Cell::Count(_) | Cell::Trues(_))
}
