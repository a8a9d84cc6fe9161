//! [`RangeIndex`]: rows of one side of a join that are kept in the order of what its condition compares with the other side. Those that a
//! changed row of the other side can match are found without going through the rest.
//!
//! Rows are in sorted runs, and the last runs are merged so that their sizes double: a row is moved as often as the number of rows has bits,
//! and a search goes through as many runs (O'Neil et al., The Log-Structured Merge-Tree, 1996). Where two values are compared, each in one
//! direction, as the ends of an interval are, the rows are in the order of the first, and blocks of them know their greatest second one, so
//! that those that it excludes are passed over as in a priority search tree (McCreight, 1985).
//!
//! Invariant: as in [`super`].

use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use arrow::array::cast::AsArray;
use arrow::array::types::{Decimal128Type, Float32Type, Float64Type, Int64Type};
use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Schema};
use datafusion_common::Result;
use datafusion_expr::Operator;

use super::comparisons::{Compared, Comparisons, Limit, renumbered};
use super::order::{evaluated, total};
use super::{Expr, SideOf};

/// Each block has two to the power of this many rows, or of the blocks below it.
const BLOCK_BITS: u32 = 4;
/// Decimals of so many digits are whole numbers of 64 bits.
const EXACT_DIGITS: u8 = 18;

/// What the rows of a side are searched by.
#[derive(Debug)]
pub struct IndexCondition {
    /// Over the columns of the searched side.
    key: Expr,
    limits: Vec<Limit>,
    second: Option<Second>,
    is_whole: bool,
}

/// A value that is compared besides, in one direction.
#[derive(Debug)]
struct Second {
    key: Expr,
    limits: Vec<Limit>,
    /// It must not be greater.
    is_upper: bool,
}

impl IndexCondition {
    /// What there is to search the rows of side `searched` by; see [`RangeCondition::of`](super::RangeCondition::of).
    pub fn of(
        condition: &Expr,
        schema: &Schema,
        side_of: SideOf,
        can_fail: &dyn Fn(&Expr) -> bool,
        searched: usize,
    ) -> Option<IndexCondition> {
        let comparisons = Comparisons::of(condition, schema, side_of)?;
        let parts = comparisons.of_side(searched);
        let compared: Vec<&Compared> = parts.iter().flatten().collect();
        let ends_both = |key: &Expr| {
            let mut of_key = compared.iter().filter(|c| c.key == key);
            let first = of_key.next().map(|c| c.op);
            let is_other = |op: Operator| Some(is_upper(op)) != first.map(is_upper);
            first == Some(Operator::Eq) || of_key.any(|c| c.op == Operator::Eq || is_other(c.op))
        };
        // How much is excluded; each key alone, and with each other value.
        let rank = |first: &Compared, second: Option<&Compared>| match second {
            None if ends_both(first.key) => 3,
            Some(second) if is_upper(second.op) != is_upper(first.op) => 2,
            Some(_) => 1,
            None => 0,
        };
        let mut ways: Vec<(&Compared, Option<&Compared>)> = vec![];
        for first in &compared {
            ways.push((first, None));
            if !ends_both(first.key) {
                let others = compared.iter().filter(|c| c.key != first.key);
                let others = others.filter(|c| c.op != Operator::Eq);
                ways.extend(others.map(|second| (*first, Some(*second))));
            }
        }
        ways.sort_by_key(|(first, second)| std::cmp::Reverse(rank(first, *second)));
        let exact = |e: &Expr| e.data_type(schema).is_ok_and(|ty| is_exact(&ty));
        ways.into_iter().find_map(|(first, second)| {
            let is_second = |c: &Compared| {
                let same = |s: &Compared| s.key == c.key && is_upper(s.op) == is_upper(c.op);
                c.op != Operator::Eq && second.is_some_and(same)
            };
            let is_limit = |c: &Compared| c.key == first.key || is_second(c);
            let others = comparisons.parts.iter().zip(&parts);
            let others = others.filter(|(_, c)| !c.as_ref().is_some_and(is_limit));
            let others: Vec<_> = others.map(|(e, _)| e).collect();
            if others.iter().any(|e| can_fail(e)) {
                return None;
            }
            let limits = |wanted: &dyn Fn(&Compared) -> bool| {
                let limits = compared.iter().filter(|c| wanted(c));
                limits.map(|c| c.limit(side_of)).collect::<Vec<_>>()
            };
            let all = comparisons.all_known && others.is_empty();
            Some(IndexCondition {
                key: renumbered(first.key, side_of),
                limits: limits(&|c| c.key == first.key),
                second: second.map(|second| Second {
                    key: renumbered(second.key, side_of),
                    limits: limits(&is_second),
                    is_upper: is_upper(second.op),
                }),
                is_whole: all && exact(first.key) && second.is_none_or(|s| exact(s.key)),
            })
        })
    }
}

/// See the module.
#[derive(Debug)]
pub struct RangeIndex {
    condition: Arc<IndexCondition>,
    /// Rows only match those of their group.
    is_grouped: bool,
    /// Their sizes double from the end to the front.
    runs: Vec<Run>,
    /// Groups and numbers of the rows of which a value is NULL.
    without_key: Vec<(u32, u32)>,
    /// The same of those of which a value can't be evaluated.
    failed: Vec<(u32, u32)>,
}

/// Rows in the order of their groups and keys.
#[derive(Debug, Default)]
struct Run {
    /// Unless there is but one.
    groups: Vec<u32>,
    /// See [`codes`].
    keys: Vec<i64>,
    /// The numbers of the rows.
    rows: Vec<u32>,
    /// The second values, so that greater ones are searched for; then the greatest of each block of them, of each block of these, and
    /// so on.
    greatest: Vec<Vec<i64>>,
}

/// What rows can match, of which some is still to be given.
#[derive(Debug)]
pub struct Found {
    parts: Vec<Part>,
    /// The part that comes next.
    at: usize,
    /// Probing and searched rows besides.
    others: Vec<(u32, u32)>,
    /// Whether the condition must be evaluated for them.
    pub is_filtered: bool,
}

/// Places in a run that a probing row can match.
#[derive(Debug)]
struct Part {
    probing: u32,
    run: u32,
    places: Range<usize>,
    /// The least second value.
    least: i64,
}

impl RangeIndex {
    /// An index without rows. `is_grouped`: rows are compared with those of their group only.
    pub fn new(condition: Arc<IndexCondition>, is_grouped: bool) -> Self {
        RangeIndex {
            condition,
            is_grouped,
            runs: vec![],
            without_key: vec![],
            failed: vec![],
        }
    }

    /// An index of the same kind without rows.
    pub fn emptied(&self) -> Self {
        RangeIndex::new(self.condition.clone(), self.is_grouped)
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        let runs = self.runs.iter().map(Run::bytes).sum::<usize>();
        runs + 8 * (self.without_key.capacity() + self.failed.capacity())
    }

    /// Adds rows of the columns that the condition is over, with the group and the number of each. Those that are gone by now are
    /// forgotten where runs are merged.
    pub fn push(
        &mut self,
        rows: &RecordBatch,
        groups: &[u32],
        numbers: &[u32],
        is_gone: &dyn Fn(u32) -> bool,
    ) -> Result<()> {
        let mut failed = vec![];
        let key = evaluated(&self.condition.key, rows, &mut failed)?;
        let second = match &self.condition.second {
            Some(second) => {
                let values = evaluated(&second.key, rows, &mut failed)?;
                let mut codes = codes(&values)?;
                if second.is_upper {
                    codes.iter_mut().for_each(|code| *code = !*code);
                }
                Some((values, codes))
            }
            None => None,
        };
        failed.sort_unstable();
        failed.dedup();
        let keys = codes(&key)?;
        let mut sorted: Vec<(u32, i64, u32)> = Vec::with_capacity(numbers.len());
        for at in 0..numbers.len() {
            let is_null = |values: &ArrayRef| values.is_null(at);
            if failed.binary_search(&at).is_ok() {
                self.failed.push((groups[at], numbers[at]));
            } else if is_null(&key) || second.as_ref().is_some_and(|(values, _)| is_null(values)) {
                self.without_key.push((groups[at], numbers[at]));
            } else {
                let group = if self.is_grouped { groups[at] } else { 0 };
                sorted.push((group, keys[at], at as u32));
            }
        }
        sorted.sort_unstable();
        let mut run = Run::default();
        for (group, key, at) in sorted {
            if self.is_grouped {
                run.groups.push(group);
            }
            run.keys.push(key);
            run.rows.push(numbers[at as usize]);
            if let Some((_, codes)) = &second {
                run.add_second(codes[at as usize]);
            }
        }
        if !run.rows.is_empty() {
            run.end();
            self.runs.push(run);
        }
        while let [.., a, b] = self.runs.as_slice()
            && a.rows.len() < 2 * b.rows.len()
        {
            let merged = Run::merge([a, b], is_gone);
            self.runs.truncate(self.runs.len() - 2);
            if !merged.rows.is_empty() {
                self.runs.push(merged);
            }
        }
        Ok(())
    }

    /// What these rows of the probing side, each of a group, can match: those of `wanted`, by their numbers.
    pub fn search(&self, probing: &RecordBatch, groups: &[u32], wanted: &[u32]) -> Result<Found> {
        let mut failed = vec![];
        let limits = Bounds::of(&self.condition.limits, probing, &mut failed)?;
        let second = match &self.condition.second {
            Some(second) => Bounds::of(&second.limits, probing, &mut failed)?,
            None => Bounds(vec![]),
        };
        let is_upper = self.condition.second.as_ref().is_some_and(|s| s.is_upper);
        failed.sort_unstable();
        let mut found = Found {
            parts: vec![],
            at: 0,
            others: vec![],
            is_filtered: !self.condition.is_whole,
        };
        for probing in wanted {
            let row = *probing as usize;
            let group = if self.is_grouped { groups[row] } else { 0 };
            let others = found.others.len();
            let of_group = |row: &&(u32, u32)| !self.is_grouped || row.0 == group;
            let pair = |(_, number): &(u32, u32)| (*probing, *number);
            let rows = self.failed.iter().filter(of_group);
            found.others.extend(rows.map(pair));
            let (keys, least) = if failed.binary_search(&row).is_ok() {
                let rows = self.without_key.iter().filter(of_group);
                found.others.extend(rows.map(pair));
                found.is_filtered = true;
                (i64::MIN..=i64::MAX, i64::MIN)
            } else {
                let (Some(keys), Some(second)) = (limits.of_row(row), second.of_row(row)) else {
                    continue;
                };
                let least = if is_upper {
                    !*second.end()
                } else {
                    *second.start()
                };
                (keys, least)
            };
            found.is_filtered |= found.others.len() > others;
            for (number, run) in self.runs.iter().enumerate() {
                let places = run.places(group, &keys);
                if !places.is_empty() {
                    found.parts.push(Part {
                        probing: *probing,
                        run: number as u32,
                        places,
                        least,
                    });
                }
            }
        }
        found.is_filtered |= !found.others.is_empty();
        Ok(found)
    }

    /// Gives the numbers of a probing and of a searched row of what has been `found`, in about `most` steps, and how many these
    /// were. Rows are given that are gone by now.
    pub fn give(&self, found: &mut Found, most: usize, mut give: impl FnMut(u32, u32)) -> usize {
        let mut steps = 0;
        while steps < most
            && let Some((probing, row)) = found.others.pop()
        {
            give(probing, row);
            steps += 1;
        }
        while steps < most
            && let Some(part) = found.parts.get_mut(found.at)
        {
            let run = &self.runs[part.run as usize];
            while steps < most && !part.places.is_empty() {
                steps += 1;
                match run.passed_over(part.places.start, part.least) {
                    0 => {
                        give(part.probing, run.rows[part.places.start]);
                        part.places.start += 1;
                    }
                    places => part.places.start += places,
                }
            }
            if part.places.is_empty() {
                found.at += 1;
                steps += 1;
            }
        }
        steps
    }
}

impl Found {
    /// Nothing is left to be given.
    pub fn is_empty(&self) -> bool {
        self.others.is_empty() && self.at == self.parts.len()
    }
}

impl Run {
    fn bytes(&self) -> usize {
        let greatest = self.greatest.iter().map(Vec::len).sum::<usize>();
        4 * self.groups.len() + 8 * self.keys.len() + 4 * self.rows.len() + 8 * greatest
    }

    fn add_second(&mut self, code: i64) {
        if self.greatest.is_empty() {
            self.greatest.push(vec![]);
        }
        self.greatest[0].push(code);
    }

    /// All rows are there.
    fn end(&mut self) {
        while let Some(below) = self.greatest.last().filter(|b| b.len() > 1) {
            let blocks = below.chunks(1 << BLOCK_BITS);
            let greatest = blocks.filter_map(|block| block.iter().max().copied());
            let greatest = greatest.collect();
            self.greatest.push(greatest);
        }
    }

    fn at(&self, place: usize) -> (u32, i64) {
        let group = self.groups.get(place).copied().unwrap_or_default();
        (group, self.keys[place])
    }

    /// The rows of both that aren't gone.
    fn merge(from: [&Run; 2], is_gone: &dyn Fn(u32) -> bool) -> Run {
        let mut run = Run::default();
        let rows = from.iter().map(|f| f.rows.len()).sum();
        run.keys.reserve_exact(rows);
        run.rows.reserve_exact(rows);
        let mut places = [0, 0];
        loop {
            let [a, b] = [0, 1].map(|i| {
                let left = places[i] < from[i].rows.len();
                left.then(|| from[i].at(places[i]))
            });
            let next = match (a, b) {
                (None, None) => break,
                (Some(a), Some(b)) => usize::from(b < a),
                (a, _) => usize::from(a.is_none()),
            };
            let (from, place) = (from[next], places[next]);
            places[next] += 1;
            let row = from.rows[place];
            if is_gone(row) {
                continue;
            }
            if let Some(group) = from.groups.get(place) {
                run.groups.push(*group);
            }
            run.keys.push(from.keys[place]);
            run.rows.push(row);
            if let Some(seconds) = from.greatest.first() {
                run.add_second(seconds[place]);
            }
        }
        run.end();
        run
    }

    /// Where the rows of a group with these keys are.
    fn places(&self, group: u32, keys: &RangeInclusive<i64>) -> Range<usize> {
        let first = |before: &dyn Fn((u32, i64)) -> bool| {
            let (mut from, mut to) = (0, self.rows.len());
            while from < to {
                let middle = from + (to - from) / 2;
                match before(self.at(middle)) {
                    true => from = middle + 1,
                    false => to = middle,
                }
            }
            from
        };
        let start = first(&|at| at < (group, *keys.start()));
        start..first(&|at| at <= (group, *keys.end())).max(start)
    }

    /// How many rows from `place` on have all a second value below `least`: of the largest block that begins there.
    fn passed_over(&self, place: usize, least: i64) -> usize {
        let mut passed = 0;
        for (level, greatest) in self.greatest.iter().enumerate() {
            let bits = BLOCK_BITS * level as u32;
            if place & ((1 << bits) - 1) != 0 || greatest[place >> bits] >= least {
                break;
            }
            passed = 1 << bits;
        }
        passed
    }
}

/// For each row of the probing side, the limits of a code.
struct Bounds(Vec<(ArrayRef, Vec<i64>, Operator)>);

impl Bounds {
    fn of(limits: &[Limit], rows: &RecordBatch, failed: &mut Vec<usize>) -> Result<Bounds> {
        let each = limits.iter().map(|limit| {
            let values = evaluated(&limit.value, rows, failed)?;
            let codes = codes(&values)?;
            Ok((values, codes, limit.op))
        });
        Ok(Bounds(each.collect::<Result<_>>()?))
    }

    /// What the codes are between; `None`: nothing is.
    fn of_row(&self, row: usize) -> Option<RangeInclusive<i64>> {
        let (mut least, mut greatest) = (i64::MIN, i64::MAX);
        for (values, codes, op) in &self.0 {
            if values.is_null(row) {
                return None;
            }
            // Different values may have the same code.
            let step = i64::from(is_exact(values.data_type()));
            let code = codes[row];
            match op {
                Operator::Lt => greatest = greatest.min(code.checked_sub(step)?),
                Operator::LtEq => greatest = greatest.min(code),
                Operator::Gt => least = least.max(code.checked_add(step)?),
                Operator::GtEq => least = least.max(code),
                _ => (least, greatest) = (least.max(code), greatest.min(code)),
            }
        }
        (least <= greatest).then_some(least..=greatest)
    }
}

fn is_upper(op: Operator) -> bool {
    matches!(op, Operator::Lt | Operator::LtEq)
}

/// Whether different values have different [`codes`].
fn is_exact(ty: &DataType) -> bool {
    match ty {
        DataType::Utf8View => false,
        DataType::Decimal128(digits, _) => *digits <= EXACT_DIGITS,
        _ => true,
    }
}

/// Numbers in the order of the values, whose type is ordered ([`super::is_ordered`]). Those of NULLs say nothing.
fn codes(values: &ArrayRef) -> Result<Vec<i64>> {
    Ok(match values.data_type() {
        DataType::Boolean => {
            let values = values.as_boolean();
            let code = |at| i64::from(values.value(at));
            (0..values.len()).map(code).collect()
        }
        DataType::Float32 => {
            let values = values.as_primitive::<Float32Type>().values().iter();
            values.map(|v| total(f64::from(*v))).collect()
        }
        DataType::Float64 => {
            let values = values.as_primitive::<Float64Type>().values().iter();
            values.map(|v| total(*v)).collect()
        }
        DataType::Decimal128(digits, _) => {
            let numbers = values.as_primitive::<Decimal128Type>().values().iter();
            match *digits <= EXACT_DIGITS {
                true => numbers.map(|v| *v as i64).collect(),
                false => numbers.map(|v| total(*v as f64)).collect(),
            }
        }
        // The first bytes.
        DataType::Utf8View => {
            let values = values.as_string_view();
            let code = |at| {
                let text = values.value(at).as_bytes();
                let mut first = [0; 8];
                let known = text.len().min(first.len());
                first[..known].copy_from_slice(&text[..known]);
                (u64::from_be_bytes(first) ^ 1 << 63) as i64
            };
            (0..values.len()).map(code).collect()
        }
        _ => {
            let numbers = cast(values, &DataType::Int64)?;
            numbers.as_primitive::<Int64Type>().values().to_vec()
        }
    })
}
