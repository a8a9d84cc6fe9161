//! Which rows of a key were among its first ones before an epoch, and which are after it.
//!
//! Rows are numbers of places in some columns: those that are stored, then the changes of the epoch, each with its diff. *Peers* are rows whose columns
//! that are asked for are equal; where rows are numbered one after the other, all columns are asked for, so that only equal rows are peers.

use std::cmp::Ordering;
use std::ops::Range;

use arrow::array::{ArrayRef, DynComparator, make_comparator};
use arrow::compute::SortOptions;
use tidemill_zset::consolidate::normalise_floats;

use super::join_plan::StoredColumns;
use crate::plan::{Numbering, OrderBy};

/// The order of stored rows within a key: columns that are asked for, then all others, so that rows that it leaves equal are the same row.
pub struct TotalOrder {
    columns: Vec<(usize, SortOptions)>,
    /// By how many of them peers are equal.
    peers: usize,
}

impl TotalOrder {
    /// Keys are equal within a key.
    pub fn new(order: &[OrderBy], numbering: Numbering, stored: &StoredColumns) -> Self {
        let position = |c| stored.position(c).expect("every column is stored");
        let asked = order.iter().map(|by| {
            let options = SortOptions {
                descending: by.descending,
                nulls_first: by.nulls_first,
            };
            (position(by.column), options)
        });
        let mut columns: Vec<(usize, SortOptions)> = asked.collect();
        columns.retain(|(column, _)| *column >= stored.key_columns);
        let asked = columns.len();
        for column in stored.key_columns..stored.columns.len() {
            if columns.iter().all(|(have, _)| *have != column) {
                columns.push((column, SortOptions::default()));
            }
        }
        let peers = match numbering {
            Numbering::RowNumber => columns.len(),
            Numbering::Rank | Numbering::DenseRank => asked,
        };
        TotalOrder { columns, peers }
    }

    /// Compares rows of `left` with rows of `right`.
    pub fn over(&self, left: &[ArrayRef], right: &[ArrayRef]) -> Order {
        Order {
            columns: comparators(left, right, &self.columns),
            peers: self.peers,
        }
    }
}

/// Compares rows of some columns with rows of others.
pub struct Order {
    columns: Vec<DynComparator>,
    peers: usize,
}

impl Order {
    /// Equal: they are the same row.
    pub fn compare(&self, a: u32, b: u32) -> Ordering {
        first_difference(&self.columns, a, b)
    }

    /// Equal: they are peers.
    pub fn compare_peers(&self, a: u32, b: u32) -> Ordering {
        first_difference(&self.columns[..self.peers], a, b)
    }
}

fn first_difference(columns: &[DynComparator], a: u32, b: u32) -> Ordering {
    let (a, b) = (a as usize, b as usize);
    let mut by = columns.iter().map(|compare| compare(a, b));
    by.find(|o| o.is_ne()).unwrap_or(Ordering::Equal)
}

/// One for each of the columns.
pub fn comparators(
    left: &[ArrayRef],
    right: &[ArrayRef],
    columns: &[(usize, SortOptions)],
) -> Vec<DynComparator> {
    let by = |(column, options): &(usize, SortOptions)| {
        let [left, right] = [left, right].map(|of| normalise_floats(&of[*column]));
        make_comparator(&left, &right, *options)
            .unwrap_or_else(|e| panic!("{} can't be ordered: {e}", left.data_type()))
    };
    columns.iter().map(by).collect()
}

/// Which rows are wanted.
#[derive(Clone, Copy)]
pub struct Wanted {
    /// What number a row has.
    pub numbering: Numbering,
    /// The largest one that is wanted.
    pub count: i64,
}

impl Wanted {
    /// Adds to the stored rows of a key those of its `changes`, and leaves in the list what may be among its first rows
    /// before or after the epoch, in order.
    pub fn candidates(
        self,
        list: &mut Vec<u32>,
        changes: Range<usize>,
        diffs: &[i64],
        order: &Order,
    ) {
        let before = list.len();
        let first = usize::try_from(self.count).unwrap_or(usize::MAX);
        // A retraction takes away as many rows at most, and is one itself.
        let retracted = diffs[changes.clone()].iter().filter(|d| **d < 0);
        let gone = retracted.fold(0usize, |gone, d| {
            gone.saturating_add(d.unsigned_abs() as usize)
                .saturating_add(1)
        });
        list.extend(changes.map(|r| r as u32));
        let wanted = first.saturating_add(gone);
        if list.len() > wanted.saturating_mul(2) {
            let mut old: Vec<u32> = list[..before].to_vec();
            self.select(&mut old, first, order);
            self.select(list, wanted, order);
            list.extend(old);
        }
        if list.len() > 1 {
            list.sort_unstable_by(|a, b| order.compare(*a, *b).then(a.cmp(b)));
            list.dedup();
        }
    }

    /// Leaves in the list the rows with numbers up to `most`, if each stands for one row.
    fn select(self, list: &mut Vec<u32>, most: usize, order: &Order) {
        if list.len() <= most {
            return;
        }
        let Some(last) = most.checked_sub(1) else {
            list.clear();
            return;
        };
        let last = match self.numbering {
            Numbering::RowNumber => {
                list.select_nth_unstable_by(last, |a, b| order.compare(*a, *b));
                list.truncate(most);
                return;
            }
            Numbering::Rank => {
                let by = |a: &u32, b: &u32| order.compare_peers(*a, *b);
                Some(*list.select_nth_unstable_by(last, by).1)
            }
            Numbering::DenseRank => nth_distinct(list, last, order),
        };
        if let Some(last) = last {
            list.retain(|row| order.compare_peers(*row, last).is_le());
        }
    }
}

/// A row with the value of which `nth` distinct ones come before; `None`: there are not so many.
fn nth_distinct(list: &[u32], nth: usize, order: &Order) -> Option<u32> {
    // The first row of each of the least values so far, in their order.
    let mut least: Vec<u32> = Vec::new();
    for row in list {
        if let Some(last) = least.get(nth)
            && order.compare_peers(*row, *last).is_ge()
        {
            continue;
        }
        if let Err(at) = least.binary_search_by(|have| order.compare_peers(*have, *row)) {
            least.insert(at, *row);
            least.truncate(nth.saturating_add(1));
        }
    }
    least.get(nth).copied()
}

/// Changes of first rows.
pub struct Found {
    wanted: Wanted,
    numbered: bool,
    /// Rows of the output, each with its diff and, if they are numbered, its number.
    pub rows: Vec<u32>,
    /// See `rows`.
    pub diffs: Vec<i64>,
    /// See `rows`.
    pub numbers: Vec<u64>,
    /// The same without numbers.
    pub kept_rows: Vec<u32>,
    /// See `kept_rows`.
    pub kept_diffs: Vec<i64>,
    /// Rows of the last key that are among its first now, in order, and how often each is there, within what is wanted or not.
    pub first: Vec<(u32, i64)>,
}

/// How many rows, and how many distinct values, come before.
#[derive(Clone, Copy, Default)]
struct Before {
    rows: i64,
    values: i64,
}

impl Before {
    /// The number before that of the rows that come next, if these are numbered alike.
    fn number(self, numbering: Numbering) -> i64 {
        match numbering {
            Numbering::RowNumber | Numbering::Rank => self.rows,
            Numbering::DenseRank => self.values,
        }
    }

    fn pass(&mut self, peers: i64) {
        self.rows = self.rows.saturating_add(peers);
        self.values += i64::from(peers > 0);
    }
}

impl Found {
    /// None yet.
    pub fn new(wanted: Wanted, numbered: bool) -> Self {
        Found {
            wanted,
            numbered,
            rows: Vec::new(),
            diffs: Vec::new(),
            numbers: Vec::new(),
            kept_rows: Vec::new(),
            kept_diffs: Vec::new(),
            first: Vec::new(),
        }
    }

    /// The rows of a key, in order; the first `kept` rows of all are those before the epoch, the others are changes. Says whether
    /// there are as many first rows as are wanted.
    pub fn walk(&mut self, rows: &[u32], kept: usize, diffs: &[i64], order: &Order) -> bool {
        let Wanted { numbering, count } = self.wanted;
        self.first.clear();
        let (mut old_before, mut new_before) = (Before::default(), Before::default());
        for peers in rows.chunk_by(|a, b| order.compare_peers(*a, *b).is_eq()) {
            let [old_number, new_number] = [old_before, new_before].map(|b| b.number(numbering));
            if old_number >= count && new_number >= count {
                break;
            }
            let (mut old_peers, mut new_peers) = (0i64, 0i64);
            for equal in peers.chunk_by(|a, b| order.compare(*a, *b).is_eq()) {
                let (mut old, mut new) = (0, 0);
                for row in equal {
                    let diff = diffs[*row as usize];
                    new += diff;
                    if (*row as usize) < kept {
                        old += diff;
                    }
                }
                // A collection has no negative rows at the end of an epoch.
                let (old, new) = (old.max(0), new.max(0));
                match numbering {
                    Numbering::RowNumber => {
                        let within = |before: i64, rows: i64| {
                            let first = before.min(count);
                            first..before.saturating_add(rows).min(count)
                        };
                        self.change(equal[0], within(old_number, old), within(new_number, new));
                    }
                    Numbering::Rank | Numbering::DenseRank => {
                        let within = |before, rows| if before < count { rows } else { 0 };
                        let old = (old_number, within(old_number, old));
                        self.change_alike(equal[0], old, (new_number, within(new_number, new)));
                    }
                }
                if new > 0 && new_number < count {
                    self.first.push((equal[0], new));
                }
                old_peers = old_peers.saturating_add(old);
                new_peers = new_peers.saturating_add(new);
            }
            old_before.pass(old_peers);
            new_before.pass(new_peers);
        }
        !self.first.is_empty() && new_before.number(numbering) >= count
    }

    /// A row had numbers from `old.start + 1` to `old.end`, and has others now.
    fn change(&mut self, row: u32, old: Range<i64>, new: Range<i64>) {
        let length = |r: &Range<i64>| r.end - r.start;
        self.keep(row, length(&new) - length(&old));
        if !self.numbered {
            return;
        }
        let gone = old.clone().filter(|n| !new.contains(n)).map(|n| (n, -1));
        let come = new.clone().filter(|n| !old.contains(n)).map(|n| (n, 1));
        for (number, diff) in gone.chain(come) {
            self.give(row, number, diff);
        }
    }

    /// A row was there so often with one number, and is now with another: (the number before its own, how often).
    fn change_alike(&mut self, row: u32, old: (i64, i64), new: (i64, i64)) {
        self.keep(row, new.1 - old.1);
        if !self.numbered {
            return;
        }
        if old.0 == new.0 {
            self.give(row, new.0, new.1 - old.1);
        } else {
            self.give(row, old.0, -old.1);
            self.give(row, new.0, new.1);
        }
    }

    /// A row without its number.
    fn keep(&mut self, row: u32, more: i64) {
        if more == 0 {
            return;
        }
        self.kept_rows.push(row);
        self.kept_diffs.push(more);
        if !self.numbered {
            self.rows.push(row);
            self.diffs.push(more);
        }
    }

    fn give(&mut self, row: u32, before: i64, diff: i64) {
        if diff != 0 {
            self.rows.push(row);
            self.numbers.push(before as u64 + 1);
            self.diffs.push(diff);
        }
    }
}
