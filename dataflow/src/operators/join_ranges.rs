//! Pairs of a join without a key whose condition compares both sides ([`RangeCondition`]): the pushed rows meet only those that the
//! comparisons allow, piece of the other side by piece.

use std::ops::Range;
use std::sync::Arc;

use super::join::{JoinOperator, LEFT, PIECE_ROWS, RIGHT};
use super::join_filter::PairFilter;
use super::join_pairs::{Meeting, Pairs, Place, Rows};
use super::join_rows::batch_of;
use crate::operator::Output;
use crate::ranges::{FEW_ROWS, Order};

/// Rows of the other side that are put in order, or searched for, together.
const STORED_ROWS: usize = 64 * 1024;

/// Rows of one side that meet the other, and how far they have come.
pub(super) struct RangeMeeting {
    /// The rows of the other side.
    stored: Vec<u32>,
    /// The first one of the next piece.
    from: usize,
    /// The side's own rows in order, if they are searched.
    order: Option<Arc<Order>>,
    /// What there is of the piece.
    found: Option<Found>,
}

/// Candidates of which some are still to be looked at.
struct Found {
    pairs: Candidate,
    /// Whether the condition must be evaluated.
    filtered: bool,
    /// The piece of the other side, by row number.
    piece: Vec<u32>,
}

enum Candidate {
    /// By probing row, from this one on, the places in an order.
    Ranges(usize, Vec<Range<usize>>, Arc<Order>),
    /// Probing and searched rows.
    Each(Vec<(u32, u32)>),
}

impl JoinOperator {
    /// Whether the condition compares both sides of a join without a key.
    pub(super) fn searches(&self) -> bool {
        let keyless = self.stored[LEFT].key_columns == 0;
        keyless && self.filter.as_ref().is_some_and(|f| f.range.is_some())
    }

    /// Pairs of the pushed rows with the rows of the other side that the condition's comparisons allow. False if the allowance
    /// didn't suffice for all of them.
    pub(super) fn meet_ranges(&mut self, meeting: &mut Meeting, out: &mut Output) -> bool {
        let Meeting {
            port,
            delta,
            own,
            place: Place::Ranges(ranges),
            ..
        } = meeting
        else {
            unreachable!("the caller has looked")
        };
        let port = *port;
        let all: Vec<u32> = (0..delta.len() as u32).collect();
        let mut pairs = std::mem::take(&mut self.pairs);
        let mut left = true;
        while left && !out.is_spent() {
            left = ranges.next(
                self,
                (port, Rows::Pushed(&delta.rows, &all)),
                &mut pairs,
                out,
            );
            if ranges.is_filtered() {
                self.apply_filter(port, Some(delta), &mut pairs, out);
            }
            self.accept(port, delta, &mut pairs, own, out);
        }
        self.pairs = pairs;
        !left
    }
}

impl RangeMeeting {
    /// A meeting with these rows of the other side.
    pub fn new(stored: Vec<u32>) -> Self {
        RangeMeeting {
            stored,
            from: 0,
            order: None,
            found: None,
        }
    }

    /// The same, of other rows of this side.
    pub fn again(self) -> Self {
        RangeMeeting::new(self.stored)
    }

    /// Whether the condition must be evaluated for the pairs given last.
    pub fn is_filtered(&self) -> bool {
        self.found.as_ref().is_some_and(|found| found.filtered)
    }

    /// Appends some candidates to `pairs`: places in the rows `own` of a side, and row numbers of the other side. False if they were the last.
    pub fn next(
        &mut self,
        join: &mut JoinOperator,
        own: (usize, Rows),
        pairs: &mut Pairs,
        out: &mut Output,
    ) -> bool {
        let searched = |join: &JoinOperator| {
            let filter = join.filter.as_ref();
            filter.and_then(|f| f.range.as_ref()).map(|r| r.searched())
        };
        if self.found.as_mut().is_none_or(|found| found.is_empty()) {
            self.found = None;
            if self.from >= self.stored.len() {
                return false;
            }
            let filter = join.filter.take().expect("the caller has looked");
            self.found = Some(self.find(join, &filter, own, out));
            join.filter = Some(filter);
        }
        let searches_own = searched(join) == Some(own.0);
        if let Some(found) = &mut self.found {
            found.give(searches_own, pairs);
        }
        out.spend(pairs.probe.len());
        true
    }

    /// What the next piece of the other side may match.
    fn find(
        &mut self,
        join: &mut JoinOperator,
        filter: &PairFilter,
        own: (usize, Rows),
        out: &mut Output,
    ) -> Found {
        let to = self.stored.len().min(self.from + STORED_ROWS);
        let piece = self.stored[self.from..to].to_vec();
        self.from = to;
        let (port, rows) = own;
        let range = filter.range.as_ref().expect("the caller has looked");
        let mut sides = [LEFT, RIGHT].map(|side| {
            let rows = if side == port {
                rows
            } else {
                Rows::Stored(&piece)
            };
            let arrays = join.condition_arrays(side, rows, &filter.columns);
            batch_of(&filter.sides[side], arrays, rows.len())
        });
        if range.searched() == RIGHT {
            sides.reverse();
        }
        let [searched, probing] = sides;
        out.spend(searched.num_rows() + probing.num_rows());
        const EVALUATED: &str = "comparisons of one type";
        if self.order.is_none() && probing.num_rows() <= FEW_ROWS {
            let mut each = vec![];
            let add = |row, at| each.push((row as u32, at as u32));
            let all = range.scan(&searched, &probing, add).expect(EVALUATED);
            return Found {
                filtered: all || !range.is_whole(),
                pairs: Candidate::Each(each),
                piece,
            };
        }
        let order = match &self.order {
            Some(order) => Arc::clone(order),
            None => Arc::new(range.order(&searched).expect(EVALUATED)),
        };
        if range.searched() == port {
            self.order = Some(Arc::clone(&order));
        }
        let found = range.candidates(&order, &probing).expect(EVALUATED);
        Found {
            filtered: found.are_all || !range.is_whole(),
            pairs: Candidate::Ranges(0, found.ranges, order),
            piece,
        }
    }
}

impl Found {
    /// Goes to the next pair; true if there is none.
    fn is_empty(&mut self) -> bool {
        match &mut self.pairs {
            Candidate::Each(pairs) => pairs.is_empty(),
            Candidate::Ranges(row, ranges, _) => {
                while ranges.get(*row).is_some_and(|r| r.start >= r.end) {
                    *row += 1;
                }
                *row == ranges.len()
            }
        }
    }

    /// Moves pairs to `to`, which then has [`PIECE_ROWS`] at most.
    fn give(&mut self, searches_own: bool, to: &mut Pairs) {
        while to.probe.len() < PIECE_ROWS && !self.is_empty() {
            let room = PIECE_ROWS - to.probe.len();
            let mut give = |row: u32, at: u32| {
                let (own, stored) = if searches_own { (at, row) } else { (row, at) };
                to.probe.push(own);
                to.build.push(self.piece[stored as usize]);
            };
            match &mut self.pairs {
                Candidate::Each(pairs) => {
                    let most = room.min(pairs.len());
                    let given = pairs.drain(pairs.len() - most..);
                    given.for_each(|(row, at)| give(row, at));
                }
                Candidate::Ranges(row, ranges, order) => {
                    let range = &mut ranges[*row];
                    let end = range.end.min(range.start + room);
                    let places = &order.rows()[range.start..end];
                    places.iter().for_each(|at| give(*row as u32, *at));
                    range.start = end;
                }
            }
        }
    }
}
