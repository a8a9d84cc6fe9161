//! Pairs of a join whose condition compares both sides ([`RangeCondition`](crate::ranges::RangeCondition)): the pushed rows meet only those that the
//! comparisons allow, piece of the other side by piece. With a key, where looking at all pairs of its rows takes longer.
//! Once a side has an index of its rows ([`super::join_index`]), that is searched instead.

use std::sync::Arc;

use hashbrown::HashMap;

use super::join::{JoinOperator, LEFT, PIECE_ROWS, RIGHT};
use super::join_filter::PairFilter;
use super::join_pairs::{Meeting, Pairs, Place, Rows};
use super::join_rows::batch_of;
use crate::operator::Output;
use crate::ranges::{Candidates, FEW_ROWS, Order};

/// Rows of the other side that are put in order, or searched for, together.
pub(super) const STORED_ROWS: usize = 64 * 1024;
/// Putting a row in order, or searching for it, takes as long as looking at so many pairs.
pub(super) const PAIRS_PER_ROW: usize = 8;

/// Whether looking at so many pairs takes longer than putting the `rows` that they are of in order.
pub(super) fn is_worth_order(pairs: usize, rows: usize) -> bool {
    pairs > rows.saturating_mul(PAIRS_PER_ROW)
}

/// Rows of one side that meet the other, and how far they have come.
pub(super) struct RangeMeeting {
    /// The rows of the other side.
    stored: Vec<u32>,
    /// Which of them meet which; `None`: all do.
    groups: Option<GroupNumbers>,
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
    /// The first row of the piece of the other side.
    from: usize,
}

/// The group of each row: those of one meet each other.
#[derive(Default)]
pub(super) struct GroupNumbers {
    pub own: Vec<u32>,
    pub stored: Vec<u32>,
    /// How many groups there are.
    pub count: usize,
}

enum Candidate {
    /// By probing row, from this one on, the places in an order.
    Ranges(usize, Candidates, Arc<Order>),
    /// Probing and searched rows.
    Each(Vec<(u32, u32)>),
}

impl JoinOperator {
    /// Whether the condition compares both sides.
    pub(super) fn searches(&self) -> bool {
        self.filter.as_ref().is_some_and(|f| f.range.is_some())
    }

    /// Rows of these keys with the rows of the `other` side that have the same; `None`: all pairs are better looked at.
    pub(super) fn meeting_of_keys(&mut self, slots: &[u32], other: usize) -> Option<RangeMeeting> {
        if !self.searches() || slots.len() <= PAIRS_PER_ROW {
            return None;
        }
        let mut numbers: HashMap<u32, u32> = HashMap::new();
        let (mut groups, mut of_group) = (GroupNumbers::default(), vec![]);
        for slot in slots {
            let next = of_group.len() as u32;
            let group = *numbers.entry(*slot).or_insert(next);
            match group == next {
                true => of_group.push((*slot, 1)),
                false => of_group[group as usize].1 += 1,
            }
            groups.own.push(group);
        }
        // With the rows of its key, so few have no more pairs than these are worth.
        if of_group.iter().all(|(_, own)| *own <= PAIRS_PER_ROW) {
            return None;
        }
        let (mut stored, mut pairs) = (vec![], 0);
        for (group, (slot, own)) in of_group.iter().enumerate() {
            let before = stored.len();
            let head = self.state.keys.slot(*slot).heads[other];
            self.state.sides[other].store.collect(head, &mut stored);
            groups.stored.resize(stored.len(), group as u32);
            pairs += own * (stored.len() - before);
        }
        groups.count = of_group.len();
        let rows = slots.len() + stored.len();
        if !is_worth_order(pairs, rows) {
            return None;
        }
        self.note_looked_at(other, rows * PAIRS_PER_ROW);
        Some(RangeMeeting::of_groups(stored, groups))
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
            ranges.number(&mut pairs);
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
            groups: None,
            from: 0,
            order: None,
            found: None,
        }
    }

    /// The same where rows meet only those of their group.
    pub fn of_groups(stored: Vec<u32>, groups: GroupNumbers) -> Self {
        RangeMeeting {
            groups: Some(groups),
            ..RangeMeeting::new(stored)
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

    /// Makes the places of the rows of the other side their numbers.
    pub fn number(&self, pairs: &mut Pairs) {
        for row in &mut pairs.build {
            *row = self.stored[*row as usize];
        }
    }

    /// Appends some candidates to `pairs`: places in the rows `own` of a side, and in those of the other side. False if there were none left.
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
        let from = self.from;
        let to = self.stored.len().min(from + STORED_ROWS);
        let piece = &self.stored[from..to];
        self.from = to;
        let (port, rows) = own;
        let range = filter.range.as_ref().expect("the caller has looked");
        let mut sides = [LEFT, RIGHT].map(|side| {
            let rows = if side == port {
                rows
            } else {
                Rows::Stored(piece)
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
        let few = probing.num_rows() <= FEW_ROWS;
        if few && self.order.is_none() && self.groups.is_none() {
            let mut each = vec![];
            let add = |row, at| each.push((row as u32, at as u32));
            let all = range.scan(&searched, &probing, add).expect(EVALUATED);
            return Found {
                filtered: all || !range.is_whole(),
                pairs: Candidate::Each(each),
                from,
            };
        }
        let searches_own = range.searched() == port;
        let groups = self.groups.as_ref().map(|groups| {
            let (own, stored) = (groups.own.as_slice(), &groups.stored[from..to]);
            match searches_own {
                true => (own, stored, groups.count),
                false => (stored, own, groups.count),
            }
        });
        let order = match (&self.order, groups) {
            (Some(order), _) => Arc::clone(order),
            (None, None) => Arc::new(range.order(&searched).expect(EVALUATED)),
            (None, Some((of_row, _, count))) => {
                let order = range.order_of_groups(&searched, of_row, count);
                Arc::new(order.expect(EVALUATED))
            }
        };
        if searches_own {
            self.order = Some(Arc::clone(&order));
        }
        let found = match groups {
            None => range.candidates(&order, &probing),
            Some((_, of_row, _)) => range.candidates_of_groups(&order, &probing, of_row),
        };
        let found = found.expect(EVALUATED);
        Found {
            filtered: found.are_all || !range.is_whole(),
            pairs: Candidate::Ranges(0, found, order),
            from,
        }
    }
}

impl Found {
    /// Goes to the next pair; true if there is none.
    fn is_empty(&mut self) -> bool {
        match &mut self.pairs {
            Candidate::Each(pairs) => pairs.is_empty(),
            Candidate::Ranges(row, candidates, order) => {
                while let Some(range) = candidates.ranges.get_mut(*row) {
                    if range.start >= range.end {
                        *row += 1;
                        continue;
                    }
                    match order.passed_over(range.start, candidates.least[*row]) {
                        0 => return false,
                        passed => range.start += passed,
                    }
                }
                true
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
                to.build.push(self.from as u32 + stored);
            };
            match &mut self.pairs {
                Candidate::Each(pairs) => {
                    let most = room.min(pairs.len());
                    let given = pairs.drain(pairs.len() - most..);
                    given.for_each(|(row, at)| give(row, at));
                }
                Candidate::Ranges(row, candidates, order) => {
                    let range = &mut candidates.ranges[*row];
                    let most = match candidates.least[*row] {
                        i64::MIN => room,
                        _ => 1,
                    };
                    let end = range.end.min(range.start + most);
                    let places = &order.rows()[range.start..end];
                    places.iter().for_each(|at| give(*row as u32, *at));
                    range.start = end;
                }
            }
        }
    }
}
