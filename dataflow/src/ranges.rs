//! Conditions of joins that compare one side with the other: a value of the *searched* side lies between limits that the *probing* side
//! gives. With the searched rows in the order of that value, the rows that a probing row can match are found by binary search instead of
//! by looking at all pairs.
//!
//! Invariant: pairs that aren't candidates don't fulfil the condition, and can't fail either. So what can't be evaluated for some row
//! excludes nothing, and a condition of which another part can fail is none of these.

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::cast::AsArray;
use arrow::array::types::{Float32Type, Float64Type, Int64Type};
use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::compute::{cast, concat};
use arrow::datatypes::{DataType, Schema};
use arrow::row::{RowConverter, Rows, SortField};
use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_common::{Result, ScalarValue};
use datafusion_expr::Operator;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::{BinaryExpr, CaseExpr, CastExpr, Column, Literal};
use datafusion_physical_expr::utils::collect_columns;
use hashbrown::HashMap;
use tidemill_zset::hash::hash_columns;

type Expr = Arc<dyn PhysicalExpr>;

/// So few probing rows are better compared with each row ([`RangeCondition::scan`]): that takes less than putting the rows in order.
pub const FEW_ROWS: usize = 4;

/// See the module.
#[derive(Debug)]
pub struct RangeCondition {
    searched: usize,
    /// Columns of both sides that are equal besides.
    equal: Vec<[Expr; 2]>,
    /// Over the columns of the searched side.
    key: Expr,
    limits: Vec<Limit>,
    is_whole: bool,
}

/// What is to be searched by.
#[derive(Clone, Copy, Debug)]
pub enum Wanted {
    /// Whatever ends the range in both directions; of those that are as good, a value of this side, 0 or 1.
    Side(usize),
    /// This column of a side.
    Column(usize, usize),
}

/// A comparison of the key with a value of the probing side.
#[derive(Debug)]
struct Limit {
    /// Over the columns of the probing side.
    value: Expr,
    /// Of the key with the value: `<`, `<=`, `>`, `>=` or `=`.
    op: Operator,
}

/// A comparison between both sides.
struct Comparison<'e> {
    /// What stands on each side.
    sides: [&'e Expr; 2],
    /// Of the first with the second.
    op: Operator,
}

impl RangeCondition {
    /// What there is to search by in `condition`, over columns of `schema` of which `side_of` gives the side, 0 or 1, and the number among
    /// the columns of that side. `can_fail` says whether an expression can fail for some rows.
    pub fn of(
        condition: &Expr,
        schema: &Schema,
        side_of: &dyn Fn(usize) -> (usize, usize),
        can_fail: &dyn Fn(&Expr) -> bool,
        wanted: Wanted,
    ) -> Option<RangeCondition> {
        let volatile = condition.exists(&mut |e: &Expr| Ok(e.is_volatile_node()));
        if !volatile.is_ok_and(|volatile| !volatile) {
            return None;
        }
        let mut parts = vec![];
        let all_known = conjuncts(condition, &mut parts);
        let comparisons: Vec<_> = parts
            .iter()
            .map(|e| comparison(e, schema, side_of))
            .collect();
        let known = comparisons.iter().flatten();
        let keys = known.flat_map(|c| [(0, c.sides[0]), (1, c.sides[1])]);
        let keys = keys.filter(|(_, e)| {
            let column = e.downcast_ref::<Column>().map(|c| side_of(c.index()));
            match wanted {
                Wanted::Column(side, number) => column == Some((side, number)),
                Wanted::Side(_) => true,
            }
        });
        let of_key = |(searched, key): (usize, &Expr)| {
            let limits = comparisons.iter().map(|c| {
                let c = c.as_ref()?;
                let op = if searched == 0 { c.op } else { c.op.swap()? };
                (c.sides[searched] == key).then_some((c.sides[1 - searched], op))
            });
            let limits: Vec<_> = limits.collect();
            let others = parts.iter().zip(&limits).filter(|(_, l)| l.is_none());
            let mut others = others.map(|(e, _)| e).peekable();
            let is_whole = all_known && others.peek().is_none();
            if others.any(|e| can_fail(e)) {
                return None;
            }
            let renumbered = |e: &Expr| renumbered(e, side_of);
            let limits = limits.into_iter().flatten().map(|(value, op)| Limit {
                value: renumbered(value),
                op,
            });
            Some(RangeCondition {
                searched,
                equal: vec![],
                key: renumbered(key),
                limits: limits.collect(),
                is_whole,
            })
        };
        let rank = |range: &RangeCondition| {
            let liked = matches!(wanted, Wanted::Side(side) if side == range.searched);
            (range.bounds(), liked)
        };
        let found = keys.filter_map(of_key);
        found.reduce(|best, next| match rank(&next) > rank(&best) {
            true => next,
            false => best,
        })
    }

    /// The condition between rows that are equal in these columns of the left and the right side, none of which is NULL. `None`: there is no
    /// order of them in which it can be searched, or a value can't be computed for all rows.
    pub fn among_equal(
        self,
        columns: &[(Expr, Expr)],
        schemas: [&Schema; 2],
        can_fail: &dyn Fn(&Expr) -> bool,
    ) -> Option<RangeCondition> {
        let exact = |e: &Expr, schema| {
            let ty = e.data_type(schema).ok();
            let exact = ty.filter(|ty| is_ordered(ty) && !ty.is_floating());
            exact.filter(|_| e.is::<Column>())
        };
        let all_equal = columns.iter().all(|(left, right)| {
            let left = exact(left, schemas[0]);
            left.is_some() && left == exact(right, schemas[1])
        });
        let fails = can_fail(&self.key);
        let equal = columns.iter().map(|(l, r)| [l.clone(), r.clone()]);
        (all_equal && !fails).then_some(RangeCondition {
            equal: equal.collect(),
            ..self
        })
    }

    /// In how many directions the range ends.
    fn bounds(&self) -> usize {
        let any = |ops: &[Operator]| self.limits.iter().any(|l| ops.contains(&l.op));
        let low = any(&[Operator::Gt, Operator::GtEq, Operator::Eq]);
        let high = any(&[Operator::Lt, Operator::LtEq, Operator::Eq]);
        usize::from(low) + usize::from(high)
    }

    /// The side that is searched: 0 or 1.
    pub fn searched(&self) -> usize {
        self.searched
    }

    /// What its rows are in the order of, over the columns of the searched side.
    pub fn key(&self) -> &Expr {
        &self.key
    }

    /// The values, over the columns of the probing side, that the key is compared with, and how it is.
    pub fn limits(&self) -> impl Iterator<Item = (&Expr, Operator)> {
        self.limits.iter().map(|limit| (&limit.value, limit.op))
    }

    /// Whether all candidates fulfil the condition, where [`Candidates::are_all`] is false.
    pub fn is_whole(&self) -> bool {
        self.is_whole
    }

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
            let is_null = |(key, _): &(ArrayRef, Values)| key.is_null(row as usize);
            2 * of_row[row as usize] + u32::from(keys.as_ref().is_some_and(is_null))
        };
        let all = 0..rows.num_rows() as u32;
        let (mut order, apart): (Vec<u32>, Vec<u32>) =
            all.partition(|row| of_row[*row as usize] != NO_GROUP);
        match &keys {
            Some((_, Values::Numbers(numbers))) => {
                let number = |row: u32| numbers[row as usize];
                let sorted = order.iter().map(|row| (part(*row), number(*row), *row));
                let mut sorted: Vec<_> = sorted.collect();
                sorted.sort_unstable();
                order = sorted.into_iter().map(|(.., row)| row).collect();
            }
            Some((_, Values::Rows(values))) => {
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
        let values = keys.map(|(_, values)| match values {
            Values::Numbers(numbers) => {
                Values::Numbers(order.iter().map(|row| numbers[*row as usize]).collect())
            }
            values => values,
        });
        Ok(Order {
            values,
            numbers: Numbers::new(),
            starts,
            rows: order,
        })
    }

    /// Whether rows are only compared with those that are equal in some columns.
    pub fn is_among_equal(&self) -> bool {
        !self.equal.is_empty()
    }

    /// Hashes of the columns of a side that are equal to the other's.
    pub fn equal_hashes(&self, rows: &RecordBatch, side: usize) -> Result<Vec<u64>> {
        Ok(hash_columns(
            &self.equal_columns(rows, side)?,
            rows.num_rows(),
        ))
    }

    fn equal_columns(&self, rows: &RecordBatch, side: usize) -> Result<Vec<ArrayRef>> {
        let columns = self.equal.iter().map(|columns| {
            let column = columns[side].evaluate(rows)?;
            column.into_array(rows.num_rows())
        });
        columns.collect()
    }

    /// The keys of rows of the searched side; `None`: they can't be evaluated.
    fn keys(&self, rows: &RecordBatch) -> Result<Option<(ArrayRef, Values)>> {
        let key = self.key.evaluate(rows);
        let key = key.and_then(|key| key.into_array(rows.num_rows())).ok();
        let values = |key: ArrayRef| Ok((key.clone(), Values::of(&key)?));
        key.map(values).transpose()
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
                are_all: true,
            });
        }
        let mut ranges: Vec<Range<usize>> =
            of_row.iter().map(|group| order.with_key(*group)).collect();
        let limits = self.evaluated(rows)?;
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
        }
        Ok(Candidates {
            ranges,
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
            match &keys {
                Some((key, values)) if !limits.failed.contains(&row) => {
                    for at in 0..searched.num_rows() {
                        let within = |limit: &Limits| {
                            let ordering = values.compare(at, &limit.values, row);
                            limit.array.is_valid(row) && holds(limit.op, ordering)
                        };
                        if key.is_valid(at) && limits.each.iter().all(within) {
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
        for limit in &self.limits {
            let array = evaluated(&limit.value, rows, &mut failed)?;
            each.push(Limits {
                values: Values::of(&array)?,
                array,
                op: limit.op,
            });
        }
        Ok(AllLimits { each, failed })
    }
}

/// Rows of the searched side in the order of their keys.
#[derive(Debug)]
pub struct Order {
    /// The keys: numbers in this order, others by row. `None`: they can't be evaluated.
    values: Option<Values>,
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
        values + numbers.sum::<usize>() + starts + size_of_val(self.rows.as_slice())
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
    /// Some rows can match all, as something of them can't be evaluated: the whole condition must be.
    pub are_all: bool,
}

/// What a limit is for each row of the probing side.
struct Limits {
    array: ArrayRef,
    values: Values,
    op: Operator,
}

struct AllLimits {
    each: Vec<Limits>,
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
fn evaluated(e: &Expr, rows: &RecordBatch, failed: &mut Vec<usize>) -> Result<ArrayRef> {
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
fn total(v: f64) -> i64 {
    let v = if v == 0.0 { 0.0 } else { v };
    let bits = v.to_bits() as i64;
    bits ^ (((bits >> 63) as u64) >> 1) as i64
}

/// Types of which DataFusion and [`Values`] have the same order.
pub fn is_ordered(ty: &DataType) -> bool {
    use DataType::*;
    matches!(
        ty,
        Boolean
            | Int16
            | Int32
            | Int64
            | Float32
            | Float64
            | Decimal128(..)
            | Utf8View
            | Date32
            | Time64(_)
            | Timestamp(..)
    )
}

/// The comparison of one side with the other that `e` is, if it is one.
fn comparison<'e>(
    e: &'e Expr,
    schema: &Schema,
    side_of: &dyn Fn(usize) -> (usize, usize),
) -> Option<Comparison<'e>> {
    let e = e.downcast_ref::<BinaryExpr>()?;
    let op = *e.op();
    let ty = e.left().data_type(schema).ok()?;
    if !is_ordered(&ty) || e.right().data_type(schema).ok()? != ty {
        return None;
    }
    let compares = matches!(
        op,
        Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq | Operator::Eq
    );
    let side = |e: &Expr| {
        let columns = collect_columns(e);
        let mut sides = columns.iter().map(|c| side_of(c.index()).0);
        let first = sides.next()?;
        sides.all(|side| side == first).then_some(first)
    };
    let sides = compares.then_some((side(e.left())?, side(e.right())?))?;
    Some(match sides {
        (0, 1) => Comparison {
            sides: [e.left(), e.right()],
            op,
        },
        (1, 0) => Comparison {
            sides: [e.right(), e.left()],
            op: op.swap()?,
        },
        _ => return None,
    })
}

/// The operands of a condition's ANDs, also of those that are written as a CASE, so that an operand is evaluated only where those before it
/// are true. False: there may be more to it than they say.
fn conjuncts<'e>(condition: &'e Expr, parts: &mut Vec<&'e Expr>) -> bool {
    if let Some(binary) = condition.downcast_ref::<BinaryExpr>() {
        if *binary.op() == Operator::And {
            let left = conjuncts(binary.left(), parts);
            return conjuncts(binary.right(), parts) && left;
        }
        let case = binary.left().downcast_ref::<CaseExpr>();
        let case = case.filter(|case| case.expr().is_none());
        let is_one = literal(binary.right()) == Some(&ScalarValue::Int32(Some(1)));
        if let (Some(case), Operator::Eq, true) = (case, binary.op(), is_one) {
            return of_case(case, parts);
        }
    }
    parts.push(condition);
    true
}

/// The same for a CASE that gives a boolean as a number.
fn of_case<'e>(case: &'e CaseExpr, parts: &mut Vec<&'e Expr>) -> bool {
    let is_zero = |e: &Expr| literal(e) == Some(&ScalarValue::Int32(Some(0)));
    let known = parts.len();
    match (case.when_then_expr(), case.else_expr()) {
        // Where the first is true, the second.
        ([(first, second)], Some(otherwise)) if is_zero(otherwise) => {
            let first = conjuncts(first, parts);
            outcome(second, parts) && first
        }
        // Unless the first is false, both.
        ([(is_false, zero)], Some(both)) if is_zero(zero) => {
            let all_known = outcome(both, parts);
            let excluded = is_false.downcast_ref::<BinaryExpr>().is_some_and(|e| {
                let mut first = vec![];
                let falsehood = literal(e.right()) == Some(&ScalarValue::Boolean(Some(false)));
                let compares = *e.op() == Operator::IsNotDistinctFrom;
                let all = conjuncts(e.left(), &mut first);
                let mut first = first.into_iter();
                compares && falsehood && all && first.all(|e| parts[known..].contains(&e))
            });
            all_known && excluded
        }
        _ => false,
    }
}

/// The same for a boolean as a number.
fn outcome<'e>(number: &'e Expr, parts: &mut Vec<&'e Expr>) -> bool {
    match number.downcast_ref::<CastExpr>() {
        Some(cast) => conjuncts(cast.expr(), parts),
        None => false,
    }
}

fn literal(e: &Expr) -> Option<&ScalarValue> {
    e.downcast_ref::<Literal>().map(Literal::value)
}

/// The expression over the columns of its side.
fn renumbered(e: &Expr, side_of: &dyn Fn(usize) -> (usize, usize)) -> Expr {
    let column = |e: Expr| {
        Ok(match e.downcast_ref::<Column>() {
            Some(c) => {
                let column: Expr = Arc::new(Column::new(c.name(), side_of(c.index()).1));
                Transformed::yes(column)
            }
            None => Transformed::no(e),
        })
    };
    let found = Arc::clone(e).transform_down(column);
    found.expect("renumbering columns can't fail").data
}
