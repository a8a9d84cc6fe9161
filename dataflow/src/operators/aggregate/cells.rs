//! [`Column`]: one cell of every group, as a column, with what touched groups had when the epoch began.

use arrow::array::cast::AsArray;
use arrow::array::{Array, ArrayRef, BinaryArray, BooleanArray, Int64Array, RecordBatch};
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::*;
use tidemill_zset::moments::{ExactMoments, FloatMoments};
use tidemill_zset::{Diffs, FloatSum, WideSum};

use super::extremes::{Extremes, extremes};
use super::layout::{Cell, Layout, Number, Scope};
use crate::keys::MISSING;

/// Bytes that a sum of floats takes on the heap, as a rule.
const FLOAT_SUM_HEAP_BYTES: usize = 40;
/// The same of moments of doubles: two sums, which have both.
const FLOAT_MOMENTS_HEAP_BYTES: usize = 2 * (size_of::<FloatSum>() + FLOAT_SUM_HEAP_BYTES);

/// Values of all groups by slot, and those that the touched groups had when the epoch began, by the
/// position in which they were touched.
#[derive(Default)]
pub struct Tracked<T> {
    /// By slot.
    pub now: Vec<T>,
    /// By position.
    pub before: Vec<T>,
}

impl<T: Clone + PartialEq> Tracked<T> {
    pub fn remember(&mut self, slots: &[u32]) {
        let now = &self.now;
        self.before
            .extend(slots.iter().map(|s| now[*s as usize].clone()));
    }

    pub fn mark_changed(&self, touched: &[u32], changed: &mut [bool]) {
        for ((slot, before), changed) in touched.iter().zip(&self.before).zip(changed) {
            *changed |= self.now[*slot as usize] != *before;
        }
    }

    pub fn gather_now(&self, slots: &[u32]) -> Vec<T> {
        slots
            .iter()
            .map(|s| self.now[*s as usize].clone())
            .collect()
    }

    pub fn gather_before(&self, positions: &[u32]) -> Vec<T> {
        let before = &self.before;
        positions
            .iter()
            .map(|p| before[*p as usize].clone())
            .collect()
    }

    pub fn retain(&mut self, renumbered: &[u32]) {
        let mut slot = 0;
        self.now.retain(|_| {
            slot += 1;
            renumbered[slot - 1] != MISSING
        });
    }

    pub fn memory_bytes(&self) -> usize {
        (self.now.capacity() + self.before.capacity()) * std::mem::size_of::<T>()
    }
}

/// The rows of a batch that a cell looks at.
pub struct Rows<'a> {
    len: usize,
    diffs: &'a Diffs,
    /// `None`: all.
    selected: Option<BooleanBuffer>,
}

impl<'a> Rows<'a> {
    /// The rows in `scope`.
    pub fn of(batch: &RecordBatch, diffs: &'a Diffs, scope: Scope) -> Rows<'a> {
        let valid = scope
            .column
            .and_then(|c| batch.column(c).logical_nulls())
            .filter(|n| n.null_count() > 0)
            .map(|n| n.into_inner());
        let filter = scope.filter.map(|f| truth(batch.column(f).as_boolean()));
        let selected = match (valid, filter) {
            (Some(a), Some(b)) => Some(&a & &b),
            (a, b) => a.or(b),
        };
        Rows {
            len: batch.num_rows(),
            diffs,
            selected,
        }
    }
}

impl Rows<'_> {
    /// Leaves out those for which `column` is NULL.
    fn only_valid(&mut self, column: &ArrayRef) {
        if let Some(nulls) = column.logical_nulls().filter(|n| n.null_count() > 0) {
            let valid = nulls.into_inner();
            self.selected = Some(match &self.selected {
                Some(selected) => selected & &valid,
                None => valid,
            });
        }
    }
}

/// Where the column is true; NULL is not.
fn truth(column: &BooleanArray) -> BooleanBuffer {
    match column.nulls() {
        None => column.values().clone(),
        Some(nulls) => column.values() & nulls.inner(),
    }
}

/// Calls `f` with each row's number and diff.
#[inline]
pub fn each(rows: &Rows, mut f: impl FnMut(usize, i64)) {
    match (rows.diffs, &rows.selected) {
        (Diffs::Ones, None) => (0..rows.len).for_each(|i| f(i, 1)),
        (Diffs::Each(d), None) => d.iter().enumerate().for_each(|(i, d)| f(i, *d)),
        (diffs, Some(selected)) => selected.set_indices().for_each(|i| f(i, diffs.get(i))),
    }
}

/// One cell of every group.
pub enum Column {
    Count(Tracked<i64>),
    Trues(Tracked<i64>),
    Int(Tracked<i128>),
    Decimal(Tracked<WideSum>),
    Float(Tracked<FloatSum>),
    ExactMoments(Tracked<ExactMoments>),
    FloatMoments(Tracked<FloatMoments>),
    Extremes(Box<dyn Extremes>),
}

/// Calls the same method on whichever [`Tracked`] or [`Extremes`] the column is.
macro_rules! on_each {
    ($self:expr, $t:ident => $body:expr) => {
        match $self {
            Column::Count($t) | Column::Trues($t) => $body,
            Column::Int($t) => $body,
            Column::Decimal($t) => $body,
            Column::Float($t) => $body,
            Column::ExactMoments($t) => $body,
            Column::FloatMoments($t) => $body,
            Column::Extremes($t) => $body,
        }
    };
}

impl Column {
    pub fn new(cell: &Cell, layout: &Layout) -> Column {
        let t = layout.value_type(cell);
        match cell {
            Cell::Count(_) => Column::Count(Tracked::default()),
            Cell::Trues(_) => Column::Trues(Tracked::default()),
            Cell::Sum(_, Number::Int) => Column::Int(Tracked::default()),
            Cell::Sum(_, Number::Decimal) => Column::Decimal(Tracked::default()),
            Cell::Sum(_, Number::Float) => Column::Float(Tracked::default()),
            Cell::Moments {
                number: Number::Float,
                ..
            } => Column::FloatMoments(Tracked::default()),
            Cell::Moments { .. } => Column::ExactMoments(Tracked::default()),
            Cell::Record { max, .. } => Column::Extremes(extremes(&t, false, *max)),
            Cell::Values { .. } => Column::Extremes(extremes(&t, true, false)),
        }
    }

    /// Makes room for `len` groups.
    pub fn resize(&mut self, len: usize) {
        match self {
            Column::Count(t) | Column::Trues(t) => t.now.resize(len, 0),
            Column::Int(t) => t.now.resize(len, 0),
            Column::Decimal(t) => t.now.resize(len, WideSum::default()),
            Column::Float(t) => t.now.resize(len, FloatSum::default()),
            Column::ExactMoments(t) => t.now.resize(len, ExactMoments::default()),
            Column::FloatMoments(t) => t.now.resize(len, FloatMoments::default()),
            Column::Extremes(e) => e.resize(len),
        }
    }

    /// Puts aside what `slots` have now.
    pub fn remember(&mut self, slots: &[u32]) {
        on_each!(self, t => t.remember(slots))
    }

    /// Takes in a batch whose rows belong to the groups `slots`.
    pub fn update(&mut self, cell: &Cell, slots: &[u32], batch: &RecordBatch, diffs: &Diffs) {
        let scope = cell.scope();
        let mut rows = Rows::of(batch, diffs, scope);
        let argument = |what: &str| {
            batch.column(
                scope
                    .column
                    .unwrap_or_else(|| panic!("{what} has an argument")),
            )
        };
        match self {
            Column::Count(t) => {
                let now = &mut t.now;
                each(&rows, |row, diff| now[slots[row] as usize] += diff);
            }
            Column::Trues(t) => {
                let values = argument("a boolean aggregate").as_boolean().values();
                let now = &mut t.now;
                each(&rows, |row, diff| {
                    now[slots[row] as usize] += diff * values.value(row) as i64
                });
            }
            Column::Int(t) => add_ints(&mut t.now, slots, argument("sum"), &rows),
            Column::Decimal(t) => {
                let values = argument("sum").as_primitive::<Decimal128Type>().values();
                let now = &mut t.now;
                each(&rows, |row, diff| {
                    now[slots[row] as usize].add(values[row], diff)
                });
            }
            Column::Float(t) => {
                let now = &mut t.now;
                let column = argument("sum");
                if let Some(values) = column.as_primitive_opt::<Float32Type>() {
                    let values = values.values();
                    each(&rows, |row, diff| {
                        now[slots[row] as usize].add_times(values[row] as f64, diff)
                    });
                } else {
                    let values = column.as_primitive::<Float64Type>().values();
                    each(&rows, |row, diff| {
                        now[slots[row] as usize].add_times(values[row], diff)
                    });
                }
            }
            Column::ExactMoments(t) => add_squares(&mut t.now, slots, argument("a moment"), &rows),
            Column::FloatMoments(t) => {
                let now = &mut t.now;
                let y = argument("a moment").as_primitive::<Float64Type>().values();
                let Some(second) = cell.second() else {
                    each(&rows, |row, diff| {
                        now[slots[row] as usize].add(y[row], diff)
                    });
                    return;
                };
                rows.only_valid(batch.column(second));
                let x = batch.column(second).as_primitive::<Float64Type>().values();
                each(&rows, |row, diff| {
                    now[slots[row] as usize].add_pair(y[row], x[row], diff)
                });
            }
            Column::Extremes(e) => e.update(slots, argument("min or max"), &rows),
        }
    }

    /// Adds the stored `values` of `slots`, both to now and to what was remembered at `positions`.
    pub fn load(&mut self, slots: &[u32], positions: &[u32], values: &ArrayRef) {
        let places = || slots.iter().zip(positions).enumerate();
        match self {
            Column::Count(t) | Column::Trues(t) => {
                let values = values.as_primitive::<Int64Type>();
                for (i, (slot, position)) in places().filter(|(i, _)| values.is_valid(*i)) {
                    t.now[*slot as usize] += values.value(i);
                    t.before[*position as usize] += values.value(i);
                }
            }
            Column::Int(t) => {
                for (i, (slot, position)) in places() {
                    let value = stored_int(values, i);
                    t.now[*slot as usize] += value;
                    t.before[*position as usize] += value;
                }
            }
            Column::Decimal(t) => {
                for (i, (slot, position)) in places() {
                    let value = stored_decimal(values, i);
                    t.now[*slot as usize].merge(value);
                    t.before[*position as usize].merge(value);
                }
            }
            Column::Float(t) => {
                let values = values.as_binary::<i32>();
                for (i, (slot, position)) in places().filter(|(i, _)| values.is_valid(*i)) {
                    let sum = FloatSum::from_bytes(values.value(i))
                        .unwrap_or_else(|| panic!("a stored sum has the wrong form"));
                    t.now[*slot as usize].merge(&sum);
                    t.before[*position as usize].merge(&sum);
                }
            }
            Column::ExactMoments(t) => {
                load_moments(values, slots, positions, |slot, position, bytes| {
                    t.now[slot].merge(bytes)?;
                    t.before[position].merge(bytes)
                })
            }
            Column::FloatMoments(t) => {
                load_moments(values, slots, positions, |slot, position, bytes| {
                    t.now[slot].merge(bytes)?;
                    t.before[position].merge(bytes)
                })
            }
            Column::Extremes(e) => e.load_records(slots, positions, values),
        }
    }

    /// Brings the values of touched groups into the form in which equal ones are equal.
    pub fn settle(&mut self, touched: &[u32]) {
        match self {
            Column::Float(t) => {
                for slot in touched {
                    t.now[*slot as usize].normalise();
                }
            }
            Column::FloatMoments(t) => {
                for slot in touched {
                    t.now[*slot as usize].normalise();
                }
            }
            _ => {}
        }
    }

    /// Sets `changed[i]` if the i-th touched group has another value than it had.
    pub fn mark_changed(&self, touched: &[u32], changed: &mut [bool]) {
        on_each!(self, t => t.mark_changed(touched, changed))
    }

    /// Forgets what was remembered.
    pub fn forget(&mut self) {
        match self {
            Column::Count(t) | Column::Trues(t) => t.before.clear(),
            Column::Int(t) => t.before.clear(),
            Column::Decimal(t) => t.before.clear(),
            Column::Float(t) => t.before.clear(),
            Column::ExactMoments(t) => t.before.clear(),
            Column::FloatMoments(t) => t.before.clear(),
            Column::Extremes(e) => e.forget(),
        }
    }

    /// Renumbers the groups; see `KeyIndex::retain`.
    pub fn retain(&mut self, renumbered: &[u32]) {
        on_each!(self, t => t.retain(renumbered))
    }

    /// Approximate bytes of memory.
    pub fn memory_bytes(&self) -> usize {
        // Looking at each would make an epoch's cost depend on the number of groups.
        let heap = match self {
            Column::Float(t) => t.now.len() * FLOAT_SUM_HEAP_BYTES,
            Column::FloatMoments(t) => t.now.len() * FLOAT_MOMENTS_HEAP_BYTES,
            _ => 0,
        };
        heap + on_each!(self, t => t.memory_bytes())
    }

    /// The counts (or trues) at `at`.
    pub fn counts(&self, at: At) -> Vec<i64> {
        match self {
            Column::Count(t) | Column::Trues(t) => at.gather(t),
            _ => unreachable!("the layout says that this cell counts"),
        }
    }

    /// The moments at `at` as bytes; NULL of no values.
    pub fn moments(&self, at: At) -> ArrayRef {
        let of_exact = |m: &ExactMoments| (m.count != 0).then(|| m.to_bytes());
        let of_floats = |m: &FloatMoments| (m.count != 0).then(|| m.to_bytes());
        let array: BinaryArray = match self {
            Column::ExactMoments(t) => at.gather(t).iter().map(of_exact).collect(),
            Column::FloatMoments(t) => at.gather(t).iter().map(of_floats).collect(),
            _ => unreachable!("the layout says that this cell has moments"),
        };
        std::sync::Arc::new(array)
    }

    /// The stored form of the values of `slots`; sums only where `wanted` says so.
    pub fn hidden(&self, slots: &[u32], wanted: impl Fn(usize) -> bool) -> ArrayRef {
        fn bytes<T: Clone + PartialEq, B: AsRef<[u8]>>(
            t: &Tracked<T>,
            slots: &[u32],
            wanted: impl Fn(usize) -> bool,
            f: impl Fn(&T) -> B,
        ) -> ArrayRef {
            let of = |(i, s): (usize, &u32)| wanted(i).then(|| f(&t.now[*s as usize]));
            std::sync::Arc::new(BinaryArray::from_iter(slots.iter().enumerate().map(of)))
        }
        match self {
            Column::Count(t) | Column::Trues(t) => {
                std::sync::Arc::new(Int64Array::from(t.gather_now(slots)))
            }
            Column::Int(t) => bytes(t, slots, wanted, |v| v.to_le_bytes()),
            Column::Decimal(t) => bytes(t, slots, wanted, |v| v.total().to_le_bytes()),
            Column::Float(t) => bytes(t, slots, wanted, |v| v.to_bytes()),
            Column::ExactMoments(_) | Column::FloatMoments(_) | Column::Extremes(_) => {
                unreachable!("these are outputs or have their own arrangement")
            }
        }
    }
}

/// Which values of a column are meant.
#[derive(Clone, Copy)]
pub enum At<'a> {
    /// What these slots have now.
    Now(&'a [u32]),
    /// What was remembered at these positions.
    Before(&'a [u32]),
}

impl At<'_> {
    /// The values.
    pub fn gather<T: Clone + PartialEq>(&self, t: &Tracked<T>) -> Vec<T> {
        match self {
            At::Now(slots) => t.gather_now(slots),
            At::Before(positions) => t.gather_before(positions),
        }
    }
}

fn add_ints(now: &mut [i128], slots: &[u32], column: &ArrayRef, rows: &Rows) {
    macro_rules! add {
        ($t:ty) => {{
            let values = column.as_primitive::<$t>().values();
            each(rows, |row, diff| {
                now[slots[row] as usize] += values[row] as i128 * diff as i128
            });
        }};
    }
    match column.data_type() {
        DataType::Int8 => add!(Int8Type),
        DataType::Int16 => add!(Int16Type),
        DataType::Int32 => add!(Int32Type),
        DataType::Int64 => add!(Int64Type),
        DataType::UInt8 => add!(UInt8Type),
        DataType::UInt16 => add!(UInt16Type),
        DataType::UInt32 => add!(UInt32Type),
        DataType::UInt64 => add!(UInt64Type),
        t => unreachable!("the layout asks for no sum of {t}"),
    }
}

/// Adds integers or decimals to their groups' moments.
fn add_squares(now: &mut [ExactMoments], slots: &[u32], column: &ArrayRef, rows: &Rows) {
    macro_rules! add {
        ($t:ty) => {{
            let values = column.as_primitive::<$t>().values();
            each(rows, |row, diff| {
                now[slots[row] as usize].add(values[row] as i128, diff)
            });
        }};
    }
    match column.data_type() {
        DataType::Int16 => add!(Int16Type),
        DataType::Int32 => add!(Int32Type),
        DataType::Int64 => add!(Int64Type),
        DataType::Decimal128(_, _) => add!(Decimal128Type),
        t => unreachable!("the layout asks for no exact moments of {t}"),
    }
}

/// Calls `merge` with slot, position and bytes of each stored moment that there is.
fn load_moments(
    values: &ArrayRef,
    slots: &[u32],
    positions: &[u32],
    mut merge: impl FnMut(usize, usize, &[u8]) -> Option<()>,
) {
    let values = values.as_binary::<i32>();
    for (i, (slot, position)) in slots.iter().zip(positions).enumerate() {
        if values.is_valid(i) {
            merge(*slot as usize, *position as usize, values.value(i))
                .unwrap_or_else(|| panic!("a stored moment has the wrong form"));
        }
    }
}

/// A stored sum of integers: the output column's value or the hidden column's bytes; NULL is 0.
fn stored_int(values: &ArrayRef, row: usize) -> i128 {
    if values.is_null(row) {
        return 0;
    }
    match values.data_type() {
        DataType::Int16 => values.as_primitive::<Int16Type>().value(row) as i128,
        DataType::Int32 => values.as_primitive::<Int32Type>().value(row) as i128,
        DataType::Int64 => values.as_primitive::<Int64Type>().value(row) as i128,
        DataType::Decimal128(_, _) => values.as_primitive::<Decimal128Type>().value(row),
        _ => {
            let bytes = values.as_binary::<i32>().value(row).try_into();
            i128::from_le_bytes(bytes.expect("a stored sum has 16 bytes"))
        }
    }
}

/// A stored sum of decimals, likewise.
fn stored_decimal(values: &ArrayRef, row: usize) -> i256 {
    if values.is_null(row) {
        return i256::ZERO;
    }
    match values.data_type() {
        DataType::Decimal128(_, _) => {
            i256::from_i128(values.as_primitive::<Decimal128Type>().value(row))
        }
        _ => {
            let bytes = values.as_binary::<i32>().value(row).try_into();
            i256::from_le_bytes(bytes.expect("a stored sum has 32 bytes"))
        }
    }
}
