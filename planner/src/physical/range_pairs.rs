//! The rows of a [`RangeJoinExec`](super::range_join::RangeJoinExec).

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::cast::AsArray;
use arrow::array::{
    Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array, new_null_array,
};
use arrow::buffer::BooleanBuffer;
use arrow::compute::{
    SortColumn, SortOptions, lexsort_to_indices, prep_null_mask_filter, take, take_record_batch,
};
use arrow::datatypes::SchemaRef;
use datafusion::physical_plan::joins::utils::ColumnIndex;
use datafusion_common::utils::memory::get_record_batch_memory_size;
use datafusion_common::{JoinSide, JoinType, Result};
use datafusion_physical_expr::PhysicalExpr;
use tidemill_dataflow::ranges::{FEW_ROWS, Order, RangeCondition};

/// Pairs that are looked at together, and rows of a batch.
const PAIRS: usize = 8192;
/// Where some matches of a row are enough, so many times more of its candidates are looked at in each round.
const ROUND_GROWTH: usize = 8;

/// What is joined how.
#[derive(Debug)]
pub(super) struct Join {
    pub range: RangeCondition,
    pub kind: Kind,
    /// The columns of the result.
    pub columns: Vec<ColumnIndex>,
    pub schema: SchemaRef,
    /// Over `condition_columns`.
    pub condition: Arc<dyn PhysicalExpr>,
    pub condition_columns: Vec<ColumnIndex>,
    pub condition_schema: SchemaRef,
    /// Nobody looks at more than these of the pairs of a probing row.
    pub first: Option<First>,
}

/// The first pairs of each row in the order of the value that is searched by.
#[derive(Clone, Debug)]
pub(super) struct First {
    pub rows: usize,
    /// The greatest values come first.
    pub descending: bool,
    /// Of pairs that are equal in it, which come first: by columns of the searched side. `None`: that isn't known, and those that are equal to the last
    /// of them are wanted, too.
    pub ties: Option<Vec<(usize, SortOptions)>>,
}

/// Of more rows with equal values those that come first are found by putting all in order.
const EQUAL_ROWS_MAX: usize = 16;

/// What a join gives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    /// Pairs, and the rows without a match of these sides.
    Pairs([bool; 2]),
    /// Rows of one side.
    Rows(usize, Chosen),
}

/// Which rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Chosen {
    Matched,
    Unmatched,
    /// All, with whether they have a match.
    Marked,
}

impl From<JoinType> for Kind {
    fn from(kind: JoinType) -> Kind {
        match kind {
            JoinType::Inner => Kind::Pairs([false, false]),
            JoinType::Left => Kind::Pairs([true, false]),
            JoinType::Right => Kind::Pairs([false, true]),
            JoinType::Full => Kind::Pairs([true, true]),
            JoinType::LeftSemi => Kind::Rows(0, Chosen::Matched),
            JoinType::LeftAnti => Kind::Rows(0, Chosen::Unmatched),
            JoinType::LeftMark => Kind::Rows(0, Chosen::Marked),
            JoinType::RightSemi => Kind::Rows(1, Chosen::Matched),
            JoinType::RightAnti => Kind::Rows(1, Chosen::Unmatched),
            JoinType::RightMark => Kind::Rows(1, Chosen::Marked),
        }
    }
}

impl Kind {
    /// Whether rows of a side that have no match are in the result.
    pub fn gives_unmatched(self, side: usize) -> bool {
        match self {
            Kind::Pairs(outer) => outer[side],
            Kind::Rows(of, chosen) => of == side && chosen != Chosen::Matched,
        }
    }

    /// Whether the result depends on which rows of a side have no match.
    fn needs_matches(self, side: usize) -> bool {
        match self {
            Kind::Pairs(outer) => outer[side],
            Kind::Rows(of, _) => of == side,
        }
    }
}

/// Rows of the searched side.
pub(super) struct Searched {
    pub rows: RecordBatch,
    order: Arc<Order>,
    /// Whether the rows are in the order of what is searched by; else they are as they came, and each is looked at.
    in_order: bool,
    /// Those that are equal in it are in the order of [`First::ties`].
    ties_in_order: bool,
    /// By row: it has a match. Empty if nobody wants to know.
    matched: Vec<bool>,
    /// By place in the order: how many more, or fewer, probing rows match the row there than the one before.
    steps: Vec<i64>,
}

impl fmt::Debug for Searched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Searched({} rows)", self.rows.num_rows())
    }
}

impl Searched {
    /// Rows in order.
    pub fn in_order(rows: RecordBatch, join: &Join) -> Result<Searched> {
        let mut order = join.range.order(&rows)?;
        let ties = join.first.as_ref().and_then(|first| first.ties.as_ref());
        let mut rows = rows;
        let by_ties = ties.filter(|_| order.has_equal(EQUAL_ROWS_MAX));
        if let Some(ties) = by_ties.filter(|ties| !ties.is_empty()) {
            // Rows that are equal in its value it leaves as they are.
            rows = join.by_ties(ties, &rows)?;
            order = join.range.order(&rows)?;
        }
        Ok(Searched {
            ties_in_order: by_ties.is_some(),
            ..Searched::new(rows, Arc::new(order), true, join)
        })
    }

    /// The same rows, none of which has a match.
    pub fn anew(&self, join: &Join) -> Searched {
        let rows = Searched::new(self.rows.clone(), self.order.clone(), self.in_order, join);
        Searched {
            ties_in_order: self.ties_in_order,
            ..rows
        }
    }

    fn new(rows: RecordBatch, order: Arc<Order>, in_order: bool, join: &Join) -> Searched {
        let wanted = join.kind.needs_matches(join.searched_side());
        let count = rows.num_rows();
        Searched {
            matched: vec![false; if wanted { count } else { 0 }],
            steps: vec![0; if wanted { count + 1 } else { 0 }],
            rows,
            order,
            in_order,
            ties_in_order: false,
        }
    }

    /// Bytes in memory.
    pub fn size(&self) -> usize {
        let counts = size_of_val(self.matched.as_slice()) + size_of_val(self.steps.as_slice());
        get_record_batch_memory_size(&self.rows) + self.order.size() + counts
    }

    /// The rows that are in the result besides pairs, once all that match are known.
    pub fn alone(mut self, join: &Join) -> Alone {
        let mut matches = 0;
        if !self.matched.is_empty() {
            for (row, step) in self.order.rows().iter().zip(&self.steps) {
                matches += step;
                self.matched[*row as usize] |= matches > 0;
            }
        }
        Alone::new(join.searched_side(), self.rows, self.matched)
    }
}

/// Rows of the probing side.
pub(super) struct Probe {
    rows: RecordBatch,
    /// Per row, the places of the candidates that are to be looked at, but for those that are passed over.
    ranges: Vec<Range<usize>>,
    /// Per row, [`Candidates::least`].
    least: Vec<i64>,
    /// Candidates that were found one by one: rows and places.
    listed: Vec<(u32, usize)>,
    /// Not all candidates match.
    filtered: bool,
    /// Per row, the matches.
    found: Vec<usize>,
    /// Where these are counted anew with other searched rows: per row, whether it has had one before.
    matched: Vec<bool>,
    /// So many per row are enough.
    wanted: usize,
    /// The row whose candidates are next, and how many of a row are looked at in this round.
    at: usize,
    round: usize,
}

impl Probe {
    /// Rows of which nothing is known.
    pub fn new(rows: RecordBatch) -> Probe {
        Probe {
            ranges: vec![],
            least: vec![],
            listed: vec![],
            filtered: false,
            found: vec![0; rows.num_rows()],
            matched: vec![],
            wanted: usize::MAX,
            at: 0,
            round: usize::MAX,
            rows,
        }
    }

    /// The rows that are in the result besides pairs, once all that match are known.
    pub fn alone(self, join: &Join) -> Alone {
        let before = |row: usize| self.matched.get(row).is_some_and(|matched| *matched);
        let found = self.found.iter().enumerate();
        let matched = found.map(|(row, found)| *found > 0 || before(row));
        let matched = matched.collect();
        Alone::new(1 - join.searched_side(), self.rows, matched)
    }

    /// Some candidates: rows of the batch, and places in the order of the searched side.
    fn next(&mut self, order: &Order, descending: bool) -> (UInt32Array, Vec<usize>) {
        let (mut rows, mut places) = (vec![], vec![]);
        let listed = self.listed.len().saturating_sub(PAIRS);
        for (row, place) in self.listed.drain(listed..) {
            rows.push(row);
            places.push(place);
        }
        let in_rounds = self.wanted < usize::MAX;
        while self.at < self.ranges.len() && places.len() < PAIRS {
            let range = &mut self.ranges[self.at];
            let most = self.round.min(PAIRS - places.len()).min(range.len());
            if self.least[self.at] > i64::MIN {
                pass_over(order, range, self.least[self.at], most, &mut places);
            } else if descending {
                places.extend((range.end - most..range.end).rev());
                range.end -= most;
            } else {
                places.extend(range.start..range.start + most);
                range.start += most;
            }
            rows.resize(places.len(), self.at as u32);
            if range.start >= range.end || in_rounds {
                self.at += 1;
            }
        }
        if self.at == self.ranges.len() && self.ranges.iter().any(|range| range.start < range.end) {
            self.at = 0;
            self.round = self.round.saturating_mul(ROUND_GROWTH);
        }
        (UInt32Array::from(rows), places)
    }

    fn is_done(&self) -> bool {
        self.at == self.ranges.len() && self.listed.is_empty()
    }
}

/// Takes up to `most` places from a range, of which others are passed over.
fn pass_over(
    order: &Order,
    range: &mut Range<usize>,
    least: i64,
    most: usize,
    places: &mut Vec<usize>,
) {
    let end = places.len() + most;
    while range.start < range.end && places.len() < end {
        match order.passed_over(range.start, least) {
            0 => {
                places.push(range.start);
                range.start += 1;
            }
            passed => range.start += passed,
        }
    }
}

/// Rows of a side that are in the result besides pairs.
pub(super) struct Alone {
    side: usize,
    rows: RecordBatch,
    matched: Vec<bool>,
    at: usize,
}

impl Alone {
    fn new(side: usize, rows: RecordBatch, matched: Vec<bool>) -> Alone {
        let at = 0;
        Alone {
            side,
            rows,
            matched,
            at,
        }
    }

    /// Some more of them.
    pub fn next(&mut self, join: &Join) -> Result<Option<RecordBatch>> {
        if !join.kind.needs_matches(self.side) {
            return Ok(None);
        }
        let wanted = |matched: bool| match join.kind {
            Kind::Rows(_, Chosen::Marked) => true,
            Kind::Rows(_, Chosen::Matched) => matched,
            Kind::Rows(_, Chosen::Unmatched) | Kind::Pairs(_) => !matched,
        };
        let mut chosen = vec![];
        while self.at < self.matched.len() && chosen.len() < PAIRS {
            if wanted(self.matched[self.at]) {
                chosen.push(self.at as u32);
            }
            self.at += 1;
        }
        if chosen.is_empty() {
            return Ok(None);
        }
        let marks = chosen.iter().map(|row| self.matched[*row as usize]);
        let marks = BooleanArray::from(BooleanBuffer::from_iter(marks));
        let chosen = UInt32Array::from(chosen);
        let mut sides = [None, None];
        sides[self.side] = Some((&self.rows, &chosen));
        join.batch(sides, Some(marks)).map(Some)
    }
}

impl Join {
    /// The side that is searched.
    pub fn searched_side(&self) -> usize {
        self.range.searched()
    }

    /// Rows of the searched side, as far as they must be to be compared with these probing rows.
    pub fn searched(&self, rows: RecordBatch, probe: &Probe) -> Result<Searched> {
        if probe.found.len() > FEW_ROWS || self.range.is_among_equal() {
            return Searched::in_order(rows, self);
        }
        let order = Order::as_it_is(&rows);
        Ok(Searched::new(rows, Arc::new(order), false, self))
    }

    /// Rows of the searched side in an order in which those with equal values come first that are wanted first: as they are gone through, forwards or
    /// backwards.
    fn by_ties(&self, ties: &[(usize, SortOptions)], rows: &RecordBatch) -> Result<RecordBatch> {
        let backwards = self.first.as_ref().is_some_and(|first| first.descending);
        let columns = ties.iter().map(|(column, options)| SortColumn {
            values: rows.column(*column).clone(),
            options: Some(match backwards {
                true => SortOptions::new(!options.descending, !options.nulls_first),
                false => *options,
            }),
        });
        let order = lexsort_to_indices(&columns.collect::<Vec<_>>(), None)?;
        Ok(take_record_batch(rows, &order)?)
    }

    /// Begins to compare rows of both sides.
    pub fn begin(&self, searched: &mut Searched, probe: &mut Probe) -> Result<()> {
        (probe.at, probe.ranges, probe.listed) = (0, vec![], vec![]);
        let are_all = match searched.in_order {
            false => {
                let listed = &mut probe.listed;
                let add = |row, place| listed.push((row as u32, place));
                self.range.scan(&searched.rows, &probe.rows, add)?
            }
            true => {
                let candidates = self.range.candidates(&searched.order, &probe.rows)?;
                (probe.ranges, probe.least) = (candidates.ranges, candidates.least);
                candidates.are_all
            }
        };
        probe.filtered = are_all || !self.range.is_whole();
        probe.wanted = match (self.kind, &self.first) {
            (Kind::Rows(side, _), _) if side != self.searched_side() => 1,
            (Kind::Pairs(_), Some(first)) if !are_all && searched.in_order => first.rows,
            _ => usize::MAX,
        };
        probe.round = probe.wanted;
        let all_match = !probe.filtered && searched.in_order && !self.range.passes_over();
        if let (Kind::Rows(side, _), true) = (self.kind, all_match) {
            // Whether there are any, or which, is all that is asked.
            for (found, range) in probe.found.iter_mut().zip(&mut probe.ranges) {
                *found += range.len();
                if side == self.searched_side() {
                    searched.steps[range.start] += 1;
                    searched.steps[range.end] -= 1;
                }
                *range = 0..0;
            }
        }
        if probe.wanted == 1 && matches!(self.kind, Kind::Rows(..)) {
            let found = probe.found.iter().zip(&mut probe.ranges);
            let known = found.filter(|(found, _)| **found > 0);
            known.for_each(|(_, range)| *range = 0..0);
        }
        if self.first.is_some() {
            probe.matched.resize(probe.found.len(), false);
            for (matched, found) in probe.matched.iter_mut().zip(&mut probe.found) {
                *matched |= std::mem::take(found) > 0;
            }
        }
        Ok(())
    }

    /// Looks at some more pairs of a batch; false if there are none left.
    pub fn pairs(
        &self,
        searched: &mut Searched,
        probe: &mut Probe,
        ready: &mut VecDeque<RecordBatch>,
    ) -> Result<bool> {
        let (mut rows, mut places) = {
            let descending = self.first.as_ref().is_some_and(|f| f.descending);
            probe.next(&searched.order, descending)
        };
        if let Kind::Rows(side, _) = self.kind
            && side == self.searched_side()
        {
            // Those that have a match needn't have another one.
            let open = |place: &usize| !searched.matched[searched.order.rows()[*place] as usize];
            let some = rows
                .values()
                .iter()
                .zip(&places)
                .filter(|(_, place)| open(place));
            let some: (Vec<u32>, Vec<usize>) = some.map(|(row, place)| (*row, *place)).unzip();
            let ended = places.is_empty();
            (rows, places) = (UInt32Array::from(some.0), some.1);
            if places.is_empty() && !ended {
                return Ok(true);
            }
        }
        if places.is_empty() {
            return Ok(!probe.is_done());
        }
        let order = &searched.order;
        let number = |place: &usize| order.rows()[*place];
        let mut numbers = UInt32Array::from_iter_values(places.iter().map(number));
        if probe.filtered {
            let mask = self.mask(&searched.rows, probe, &rows, &numbers)?;
            if mask.true_count() < rows.len() {
                let passed = || mask.values().set_indices();
                places = passed().map(|at| places[at]).collect();
                rows = passed().map(|at| Some(rows.value(at))).collect();
                numbers = UInt32Array::from_iter_values(places.iter().map(number));
            }
        }
        for (row, place) in rows.values().iter().zip(&places) {
            let row = *row as usize;
            probe.found[row] += 1;
            let range = probe.ranges.get_mut(row);
            if let Some(range) = range.filter(|_| probe.found[row] == probe.wanted) {
                *range = match &self.first {
                    // Others may come first by what the rows are ordered by besides.
                    Some(first) if !searched.ties_in_order => {
                        order.equal_within(range, *place, first.descending)
                    }
                    _ => 0..0,
                };
            }
        }
        if !searched.matched.is_empty() {
            let numbers = numbers.values().iter();
            numbers.for_each(|row| searched.matched[*row as usize] = true);
        }
        if matches!(self.kind, Kind::Pairs(_)) && !rows.is_empty() {
            let mut sides = [Some((&probe.rows, &rows)), Some((&searched.rows, &numbers))];
            if self.searched_side() == 0 {
                sides.reverse();
            }
            ready.push_back(self.batch(sides, None)?);
        }
        Ok(true)
    }

    /// Which pairs fulfil the condition.
    fn mask(
        &self,
        searched: &RecordBatch,
        probe: &Probe,
        rows: &UInt32Array,
        numbers: &UInt32Array,
    ) -> Result<BooleanArray> {
        let columns = self.condition_columns.iter().map(|c| {
            let (batch, rows) = match side(c) == Some(self.searched_side()) {
                true => (searched, numbers),
                false => (&probe.rows, rows),
            };
            Ok(take(batch.column(c.index), rows, None)?)
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        let schema = self.condition_schema.clone();
        let pairs = RecordBatch::try_new_with_options(schema, columns, &options)?;
        let passed = self.condition.evaluate(&pairs)?.into_array(rows.len())?;
        let passed = passed.as_boolean();
        Ok(match passed.null_count() {
            0 => passed.clone(),
            _ => prep_null_mask_filter(passed),
        })
    }

    /// A batch of the result: of each side, these rows, or NULLs.
    fn batch(
        &self,
        sides: [Option<(&RecordBatch, &UInt32Array)>; 2],
        marks: Option<BooleanArray>,
    ) -> Result<RecordBatch> {
        let count = sides
            .iter()
            .flatten()
            .next()
            .map_or(0, |(_, rows)| rows.len());
        let columns = self.columns.iter().zip(self.schema.fields());
        let columns = columns.map(|(column, field)| -> Result<ArrayRef> {
            Ok(match (side(column).map(|side| sides[side]), &marks) {
                (Some(Some((batch, rows))), _) => take(batch.column(column.index), rows, None)?,
                (None, Some(marks)) => Arc::new(marks.clone()),
                _ => new_null_array(field.data_type(), count),
            })
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        let schema = self.schema.clone();
        Ok(RecordBatch::try_new_with_options(
            schema, columns, &options,
        )?)
    }
}

/// The side that a column is of; `None`: it says whether a row has a match.
fn side(column: &ColumnIndex) -> Option<usize> {
    match column.side {
        JoinSide::Left => Some(0),
        JoinSide::Right => Some(1),
        JoinSide::None => None,
    }
}
