//! [`RangeIndex`]: rows of one side of a join that are kept in the order of what its condition compares with the other side. Those that a
//! changed row of the other side can match are found without going through the rest.
//!
//! Rows are in sorted runs, and the last runs are merged so that their sizes double: a row is moved as often as the number of rows has bits,
//! and a search goes through as many runs (O'Neil et al., The Log-Structured Merge-Tree, 1996).
//!
//! Invariant: as in [`super`].

use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use datafusion_common::Result;

use super::RangeCondition;
use super::codes::{Bounds, codes};
use super::order::evaluated;
use super::second::Greatest;

/// See the module.
#[derive(Debug)]
pub struct RangeIndex {
    condition: Arc<RangeCondition>,
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
    /// Nothing where no second value is compared.
    seconds: Greatest,
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
    pub fn new(condition: Arc<RangeCondition>, is_grouped: bool) -> Self {
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
        let second = self.condition.second.as_ref();
        let second = second.map(|second| second.values(rows, &mut failed));
        let second = second.transpose()?;
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
        let (mut run, mut seconds) = (Run::default(), vec![]);
        for (group, key, at) in sorted {
            if self.is_grouped {
                run.groups.push(group);
            }
            run.keys.push(key);
            run.rows.push(numbers[at as usize]);
            let codes = second.iter().map(|(_, codes)| codes[at as usize]);
            seconds.extend(codes);
        }
        if !run.rows.is_empty() {
            run.seconds = Greatest::of(seconds);
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
        let second = self.condition.second.as_ref();
        let bounds = second.map(|second| second.bounds(probing, &mut failed));
        let seconds = second.zip(bounds.transpose()?);
        failed.sort_unstable();
        let mut found = Found {
            parts: vec![],
            at: 0,
            others: vec![],
            is_filtered: !(self.condition.is_whole && limits.are_exact()),
        };
        for probing in wanted {
            let row = *probing as usize;
            let group = if self.is_grouped { groups[row] } else { 0 };
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
                let Some(keys) = limits.of_row(row) else {
                    continue;
                };
                let least = match &seconds {
                    None => i64::MIN,
                    Some((second, bounds)) => match bounds.of_row(row) {
                        None => continue,
                        Some(bounds) => second.least(&bounds),
                    },
                };
                (keys, least)
            };
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
                match run.seconds.passed_over(part.places.start, part.least) {
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
        let rows = 4 * self.groups.len() + 8 * self.keys.len() + 4 * self.rows.len();
        rows + self.seconds.bytes()
    }

    fn at(&self, place: usize) -> (u32, i64) {
        let group = self.groups.get(place).copied().unwrap_or_default();
        (group, self.keys[place])
    }

    /// The rows of both that aren't gone.
    fn merge(from: [&Run; 2], is_gone: &dyn Fn(u32) -> bool) -> Run {
        let count = |of: fn(&Run) -> usize| from.iter().map(|run| of(run)).sum();
        let mut run = Run {
            groups: Vec::with_capacity(count(|run| run.groups.len())),
            keys: Vec::with_capacity(count(|run| run.keys.len())),
            rows: Vec::with_capacity(count(|run| run.rows.len())),
            seconds: Greatest::default(),
        };
        let mut seconds = Vec::with_capacity(count(|run| run.seconds.codes().len()));
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
            seconds.extend(from.seconds.codes().get(place));
        }
        run.seconds = Greatest::of(seconds);
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
}
