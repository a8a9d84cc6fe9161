//! [`Order`]: rows of the searched side that have been put in order, and the search in them.

use std::cmp::Ordering;
use std::ops::Range;

use arrow::array::cast::AsArray;
use arrow::array::types::{Float32Type, Float64Type, Int64Type};
use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::compute::{cast, concat};
use arrow::datatypes::DataType;
use arrow::row::{RowConverter, Rows, SortField};
use datafusion_common::Result;
use datafusion_expr::Operator;
use hashbrown::HashMap;

use super::codes::Bounds;
use super::second::Greatest;
use super::{Expr, RangeCondition};

/// So few probing rows are better compared with each row ([`RangeCondition::scan`]): that takes less than putting the rows in order.
pub const FEW_ROWS: usize = 4;

impl RangeCondition {
    /// Puts rows of the searched side in order.
    pub fn order(&self, rows: &RecordBatch) -> Result<Order> {
        let (numbers, of_row) = match self.is_among_equal() {
            true => numbered(&self.equal_columns(rows, self.searched)?)?,
            false => return self.order_of_groups(rows, &vec![0; rows.num_rows()], 1),
        };
        let groups = numbers.len();
        let order = self.order_of_groups(rows, &of_row, groups)?;
        Ok(Order { numbers, ..order })
    }

    /// The same of rows that are only compared with those of their group: by row, a number below `groups`, or [`NO_GROUP`].
    pub fn order_of_groups(
        &self,
        rows: &RecordBatch,
        of_row: &[u32],
        groups: usize,
    ) -> Result<Order> {
        let keys = self.keys(rows)?;
        // In a group, those without a key come last.
        let part = |row: u32| {
            let has_key = keys.as_ref().is_none_or(|keys| keys.has(row as usize));
            2 * of_row[row as usize] + u32::from(!has_key)
        };
        let all = 0..rows.num_rows() as u32;
        let (mut order, apart): (Vec<u32>, Vec<u32>) =
            all.partition(|row| of_row[*row as usize] != NO_GROUP);
        match keys.as_ref().map(|keys| &keys.values) {
            Some(Values::Numbers(numbers)) => {
                let number = |row: u32| numbers[row as usize];
                let sorted = order.iter().map(|row| (part(*row), number(*row), *row));
                let mut sorted: Vec<_> = sorted.collect();
                sorted.sort_unstable();
                order = sorted.into_iter().map(|(.., row)| row).collect();
            }
            Some(Values::Rows(values)) => {
                let of = |row: u32| (part(row), values.row(row as usize), row);
                order.sort_unstable_by(|a, b| of(*a).cmp(&of(*b)));
            }
            None => order.sort_by_key(|row| part(*row)),
        }
        let mut starts = vec![0; 2 * groups + 1];
        for row in &order {
            starts[part(*row) as usize + 1] += 1;
        }
        for at in 1..starts.len() {
            starts[at] += starts[at - 1];
        }
        order.extend(apart);
        let (values, codes) = match keys {
            None => (None, None),
            Some(keys) => {
                let codes = keys.second.map(|(_, codes)| codes);
                (Some(keys.values), codes)
            }
        };
        let in_order = |numbers: Vec<i64>| -> Vec<i64> {
            let rows = order.iter();
            rows.map(|row| numbers[*row as usize]).collect()
        };
        let values = values.map(|values| match values {
            Values::Numbers(numbers) => Values::Numbers(in_order(numbers)),
            values => values,
        });
        let seconds = codes.map(in_order);
        Ok(Order {
            values,
            seconds: seconds.map(Greatest::of).unwrap_or_default(),
            numbers: Numbers::new(),
            starts,
            rows: order,
        })
    }

    /// The keys of rows of the searched side; `None`: they can't be evaluated.
    fn keys(&self, rows: &RecordBatch) -> Result<Option<Keys>> {
        let key = self.key.evaluate(rows);
        let Ok(array) = key.and_then(|key| key.into_array(rows.num_rows())) else {
            return Ok(None);
        };
        let mut failed = vec![];
        let second = self.second.as_ref();
        let second = second.map(|second| second.values(rows, &mut failed));
        let keys = Keys {
            values: Values::of(&array)?,
            array,
            second: second.transpose()?,
        };
        Ok(failed.is_empty().then_some(keys))
    }

    /// The rows of `order` that each of these rows of the probing side can match.
    pub fn candidates(&self, order: &Order, rows: &RecordBatch) -> Result<Candidates> {
        if !self.is_among_equal() {
            return self.candidates_of_groups(order, rows, &vec![0; rows.num_rows()]);
        }
        let mut of_row = vec![];
        each_value(&self.equal_columns(rows, 1 - self.searched)?, |value| {
            let group = value.and_then(|value| order.numbers.get(value));
            of_row.push(group.copied().unwrap_or(NO_GROUP));
        })?;
        self.candidates_of_groups(order, rows, &of_row)
    }

    /// The same of rows that are only compared with those of their group, as [`RangeCondition::order_of_groups`] knows it.
    pub fn candidates_of_groups(
        &self,
        order: &Order,
        rows: &RecordBatch,
        of_row: &[u32],
    ) -> Result<Candidates> {
        if order.values.is_none() {
            return Ok(Candidates {
                ranges: of_row.iter().map(|group| order.group(*group)).collect(),
                least: vec![i64::MIN; of_row.len()],
                are_all: true,
            });
        }
        let mut ranges: Vec<Range<usize>> =
            of_row.iter().map(|group| order.with_key(*group)).collect();
        let mut least = vec![i64::MIN; of_row.len()];
        let limits = self.evaluated(rows)?;
        if let Some((second, bounds)) = self.second.as_ref().zip(limits.second.as_ref()) {
            for (row, (range, least)) in ranges.iter_mut().zip(&mut least).enumerate() {
                match bounds.of_row(row) {
                    None => *range = 0..0,
                    Some(bounds) => *least = second.least(&bounds),
                }
            }
        }
        for limit in &limits.each {
            for (row, range) in ranges.iter_mut().enumerate() {
                let before = |ends: &[Ordering]| {
                    order.partition_point(range, |at| {
                        ends.contains(&order.compare(at, &limit.values, row))
                    })
                };
                use Ordering::{Equal, Less};
                *range = match limit.op {
                    _ if limit.array.is_null(row) => 0..0,
                    Operator::Lt => range.start..before(&[Less]),
                    Operator::LtEq => range.start..before(&[Less, Equal]),
                    Operator::Gt => before(&[Less, Equal])..range.end,
                    Operator::GtEq => before(&[Less])..range.end,
                    _ => before(&[Less])..before(&[Less, Equal]),
                };
            }
        }
        for row in &limits.failed {
            ranges[*row] = order.group(of_row[*row]);
            least[*row] = i64::MIN;
        }
        Ok(Candidates {
            ranges,
            least,
            are_all: !limits.failed.is_empty(),
        })
    }

    /// The same for few probing rows of sides without equal columns, without putting the searched ones in order: calls `found` with the numbers of a probing row and of a
    /// searched one. Returns what [`Candidates::are_all`] is.
    pub fn scan(
        &self,
        searched: &RecordBatch,
        probing: &RecordBatch,
        mut found: impl FnMut(usize, usize),
    ) -> Result<bool> {
        let limits = self.evaluated(probing)?;
        let keys = self.keys(searched)?;
        for row in 0..probing.num_rows() {
            let least = self.second.as_ref().zip(limits.second.as_ref());
            let least = least.map(|(s, bounds)| bounds.of_row(row).map(|b| s.least(&b)));
            match &keys {
                Some(keys) if !limits.failed.contains(&row) => {
                    for at in 0..searched.num_rows() {
                        let within = |limit: &Limits| {
                            let ordering = keys.values.compare(at, &limit.values, row);
                            limit.array.is_valid(row) && holds(limit.op, ordering)
                        };
                        let has_second = match (&keys.second, least) {
                            (Some((_, codes)), Some(least)) => {
                                least.is_some_and(|least| codes[at] >= least)
                            }
                            _ => true,
                        };
                        if keys.has(at) && has_second && limits.each.iter().all(within) {
                            found(row, at);
                        }
                    }
                }
                _ => (0..searched.num_rows()).for_each(|at| found(row, at)),
            }
        }
        Ok(keys.is_none() || !limits.failed.is_empty())
    }

    fn evaluated(&self, rows: &RecordBatch) -> Result<AllLimits> {
        let mut failed = vec![];
        let mut each = vec![];
        let second = self.second.as_ref();
        let second = second.map(|second| second.bounds(rows, &mut failed));
        let second = second.transpose()?;
        for limit in &self.limits {
            let array = evaluated(&limit.value, rows, &mut failed)?;
            each.push(Limits {
                values: Values::of(&array)?,
                array,
                op: limit.op,
            });
        }
        Ok(AllLimits {
            each,
            second,
            failed,
        })
    }
}

/// Rows of the searched side in the order of their keys.
#[derive(Debug)]
pub struct Order {
    /// The keys: numbers in this order, others by row. `None`: they can't be evaluated.
    values: Option<Values>,
    /// Their second values, if such are compared.
    seconds: Greatest,
    /// Where rows are only compared with equal ones: the groups by the values of these columns.
    numbers: Numbers,
    /// By group, the place of its first row, and that of its first one without a key; and the place behind the last one.
    starts: Vec<usize>,
    /// The rows in order.
    rows: Vec<u32>,
}

impl Order {
    /// Rows as they come, for [`RangeCondition::scan`].
    pub fn as_it_is(rows: &RecordBatch) -> Order {
        Order {
            values: None,
            seconds: Greatest::default(),
            numbers: Numbers::new(),
            starts: vec![],
            rows: (0..rows.num_rows() as u32).collect(),
        }
    }

    /// The places of a group's rows.
    fn group(&self, group: u32) -> Range<usize> {
        match group {
            NO_GROUP => 0..0,
            group => self.starts[2 * group as usize]..self.starts[2 * group as usize + 2],
        }
    }

    /// The places of those that have a key.
    fn with_key(&self, group: u32) -> Range<usize> {
        match group {
            NO_GROUP => 0..0,
            group => self.starts[2 * group as usize]..self.starts[2 * group as usize + 1],
        }
    }

    /// The rows, by their numbers in the batch.
    pub fn rows(&self) -> &[u32] {
        &self.rows
    }

    /// How many places from this one on have no row that a probing row with this [`Candidates::least`] can match.
    #[inline]
    pub fn passed_over(&self, place: usize, least: i64) -> usize {
        self.seconds.passed_over(place, least)
    }

    /// Whether more than `most` rows that are compared with each other have the same key.
    pub fn has_equal(&self, most: usize) -> bool {
        let Some(values) = &self.values else {
            return self.rows.len() > most;
        };
        let is_equal = |at: usize| self.compare(at - most, values, self.value_at(at)).is_eq();
        let parts = self.starts.windows(2);
        parts
            .into_iter()
            .any(|part| (part[0] + most..part[1]).any(is_equal))
    }

    /// Of the places in `range`, which come directly after `place`, or before it if they are gone through backwards, those of an equal key.
    pub fn equal_within(
        &self,
        range: &Range<usize>,
        place: usize,
        backwards: bool,
    ) -> Range<usize> {
        let Some(values) = &self.values else {
            return range.clone();
        };
        let differs = |at: usize| !self.compare(at, values, self.value_at(place)).is_eq();
        match backwards {
            false => range.start..self.partition_point(range, |at| !differs(at)),
            true => self.partition_point(range, differs)..range.end,
        }
    }

    /// Where the values have the key at a place.
    fn value_at(&self, place: usize) -> usize {
        match &self.values {
            Some(Values::Rows(_)) => self.rows[place] as usize,
            _ => place,
        }
    }

    /// Bytes in memory.
    pub fn size(&self) -> usize {
        let values = match &self.values {
            Some(Values::Numbers(numbers)) => size_of_val(numbers.as_slice()),
            Some(Values::Rows(values)) => values.size(),
            None => 0,
        };
        let numbers = self.numbers.keys().map(|key| key.len() + 32);
        let starts = size_of_val(self.starts.as_slice());
        values
            + self.seconds.bytes()
            + numbers.sum::<usize>()
            + starts
            + size_of_val(self.rows.as_slice())
    }

    fn compare(&self, at: usize, others: &Values, other: usize) -> Ordering {
        match &self.values {
            Some(values) => values.compare(self.value_at(at), others, other),
            None => Ordering::Equal,
        }
    }

    /// The first place in `range` for which `before` isn't true.
    fn partition_point(&self, range: &Range<usize>, before: impl Fn(usize) -> bool) -> usize {
        let (mut from, mut to) = (range.start, range.end);
        while from < to {
            let middle = from + (to - from) / 2;
            match before(middle) {
                true => from = middle + 1,
                false => to = middle,
            }
        }
        from
    }
}

/// What rows of the probing side can match.
#[derive(Debug)]
pub struct Candidates {
    /// Per row of the probing side, places in [`Order::rows`].
    pub ranges: Vec<Range<usize>>,
    /// Per row, which of these places it can't match after all: see [`Order::passed_over`].
    pub least: Vec<i64>,
    /// Some rows can match all, as something of them can't be evaluated: the whole condition must be.
    pub are_all: bool,
}

/// What rows of the searched side are searched by.
struct Keys {
    array: ArrayRef,
    values: Values,
    /// The second values, and their codes.
    second: Option<(ArrayRef, Vec<i64>)>,
}

impl Keys {
    /// Whether a row can match any.
    fn has(&self, row: usize) -> bool {
        let second = self.second.as_ref();
        self.array.is_valid(row) && second.is_none_or(|(values, _)| values.is_valid(row))
    }
}

/// What a limit is for each row of the probing side.
struct Limits {
    array: ArrayRef,
    values: Values,
    op: Operator,
}

struct AllLimits {
    each: Vec<Limits>,
    second: Option<Bounds>,
    /// Rows for which one of them can't be evaluated.
    failed: Vec<usize>,
}

fn holds(op: Operator, ordering: Ordering) -> bool {
    match op {
        Operator::Lt => ordering.is_lt(),
        Operator::LtEq => ordering.is_le(),
        Operator::Gt => ordering.is_gt(),
        Operator::GtEq => ordering.is_ge(),
        _ => ordering.is_eq(),
    }
}

/// The values of `e`; rows for which it can't be evaluated have NULL, and are appended to `failed`.
pub(super) fn evaluated(e: &Expr, rows: &RecordBatch, failed: &mut Vec<usize>) -> Result<ArrayRef> {
    let count = rows.num_rows();
    if let Ok(values) = e.evaluate(rows).and_then(|v| v.into_array(count)) {
        return Ok(values);
    }
    let ty = e.data_type(rows.schema_ref())?;
    let value = |row| match e
        .evaluate(&rows.slice(row, 1))
        .and_then(|v| v.into_array(1))
    {
        Ok(value) => value,
        Err(_) => {
            failed.push(row);
            arrow::array::new_null_array(&ty, 1)
        }
    };
    let each: Vec<ArrayRef> = (0..count).map(value).collect();
    let each: Vec<&dyn Array> = each.iter().map(AsRef::as_ref).collect();
    Ok(concat(&each)?)
}

/// The number of a group that no row is compared with.
pub const NO_GROUP: u32 = u32::MAX;

/// Numbers of groups by the bytes of their values.
type Numbers = HashMap<Vec<u8>, u32>;

/// A number for each combination of values of these columns, and each row's; [`NO_GROUP`]: one of them is NULL.
fn numbered(columns: &[ArrayRef]) -> Result<(Numbers, Vec<u32>)> {
    let mut numbers = Numbers::new();
    let mut of_row = vec![];
    each_value(columns, |value| {
        let next = numbers.len() as u32;
        of_row.push(match value {
            None => NO_GROUP,
            Some(value) => *numbers.entry_ref(value).or_insert(next),
        });
    })?;
    Ok((numbers, of_row))
}

/// Calls `take` with the values of each row's columns as bytes that are equal if they are; `None`: one of them is NULL.
fn each_value(columns: &[ArrayRef], mut take: impl FnMut(Option<&[u8]>)) -> Result<()> {
    let fields = columns
        .iter()
        .map(|c| SortField::new(c.data_type().clone()));
    let converter = RowConverter::new(fields.collect())?;
    let values = converter.convert_columns(columns)?;
    for row in 0..values.num_rows() {
        let known = columns.iter().all(|column| column.is_valid(row));
        take(known.then_some(values.row(row).data()));
    }
    Ok(())
}

/// Values of one type, as they are compared.
#[derive(Debug)]
enum Values {
    Numbers(Vec<i64>),
    Rows(Rows),
}

impl Values {
    fn of(array: &ArrayRef) -> Result<Values> {
        let ty = array.data_type();
        Ok(match ty {
            // As DataFusion compares them.
            DataType::Float32 => {
                let values = array.as_primitive::<Float32Type>().values().iter();
                Values::Numbers(values.map(|v| total(f64::from(*v))).collect())
            }
            DataType::Float64 => {
                let values = array.as_primitive::<Float64Type>().values().iter();
                Values::Numbers(values.map(|v| total(*v)).collect())
            }
            ty if ty.is_signed_integer() || ty.is_temporal() => {
                let numbers = cast(array, &DataType::Int64)?;
                Values::Numbers(numbers.as_primitive::<Int64Type>().values().to_vec())
            }
            ty => {
                let converter = RowConverter::new(vec![SortField::new(ty.clone())])?;
                Values::Rows(converter.convert_columns(std::slice::from_ref(array))?)
            }
        })
    }

    fn compare(&self, at: usize, others: &Values, other: usize) -> Ordering {
        match (self, others) {
            (Values::Numbers(a), Values::Numbers(b)) => a[at].cmp(&b[other]),
            (Values::Rows(a), Values::Rows(b)) => a.row(at).cmp(&b.row(other)),
            _ => unreachable!("both sides of a comparison have one type"),
        }
    }
}

/// The number that has the same place among all as `v` has by IEEE 754's total order, in which 0 and -0 are one.
pub(super) fn total(v: f64) -> i64 {
    let v = if v == 0.0 { 0.0 } else { v };
    let bits = v.to_bits() as i64;
    bits ^ (((bits >> 63) as u64) >> 1) as i64
}
