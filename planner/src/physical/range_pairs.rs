//! The rows of a [`RangeJoinExec`](super::range_join::RangeJoinExec).

use std::collections::{HashSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use arrow::array::cast::AsArray;
use arrow::array::{
    Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array, new_null_array,
};
use arrow::buffer::BooleanBuffer;
use arrow::compute::{concat_batches, filter_record_batch, prep_null_mask_filter, take};
use arrow::datatypes::SchemaRef;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::joins::utils::ColumnIndex;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion_common::utils::memory::get_record_batch_memory_size;
use datafusion_common::{JoinSide, JoinType, Result, resources_err};
use datafusion_physical_expr::PhysicalExpr;
use futures::StreamExt;
use futures::stream::{iter, unfold};
use tidemill_dataflow::ranges::{Order, RangeCondition};

use crate::functions::external;
use crate::interrupt;

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

/// The first pairs of each row in the order of the value that is searched by; those that are equal in it to the last of them, too.
#[derive(Clone, Copy, Debug)]
pub(super) struct First {
    pub rows: usize,
    /// The greatest values come first.
    pub descending: bool,
}

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
    /// Whether the result depends on which rows of a side have no match.
    fn needs_matches(self, side: usize) -> bool {
        match self {
            Kind::Pairs(outer) => outer[side],
            Kind::Rows(of, _) => of == side,
        }
    }
}

/// The rows of the join of `inputs`.
pub(super) fn rows(
    join: Arc<Join>,
    inputs: [SendableRecordBatchStream; 2],
    task: &TaskContext,
) -> SendableRecordBatchStream {
    let schema = join.schema.clone();
    let [left, right] = inputs;
    let (searched, probing) = match join.range.searched() {
        0 => (left, right),
        _ => (right, left),
    };
    let consumer = MemoryConsumer::new("rows of a join by a range");
    let work = Work {
        join,
        to_search: Some(searched),
        searched: None,
        probing: Some(probing),
        probe: None,
        ready: VecDeque::new(),
        memory: consumer.register(task.memory_pool()),
    };
    let stream = unfold(work, |mut work| async move {
        match work.next().await {
            Ok(batch) => Some((Ok(batch?), work)),
            Err(e) => Some((Err(e), work)),
        }
    });
    Box::pin(RecordBatchStreamAdapter::new(schema, stream))
}

/// The join on its way.
struct Work {
    join: Arc<Join>,
    /// Both sides, until they have been read.
    to_search: Option<SendableRecordBatchStream>,
    probing: Option<SendableRecordBatchStream>,
    searched: Option<Searched>,
    probe: Option<Probe>,
    ready: VecDeque<RecordBatch>,
    memory: MemoryReservation,
}

/// All rows of the searched side.
struct Searched {
    rows: RecordBatch,
    order: Order,
    /// By row: it has a match. Empty if nobody wants to know.
    matched: Vec<bool>,
    /// By place in the order: how many more, or fewer, probing rows match the row there than the one before.
    steps: Vec<i64>,
}

/// A batch of the probing side.
struct Probe {
    rows: RecordBatch,
    /// Per row, the places of the candidates that are to be looked at.
    ranges: Vec<Range<usize>>,
    /// Not all candidates match.
    filtered: bool,
    /// Per row, the matches.
    found: Vec<usize>,
    /// So many per row are enough.
    wanted: usize,
    /// The row whose candidates are next, and how many of a row are looked at in this round.
    at: usize,
    round: usize,
}

impl Work {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        if let Some(input) = self.to_search.take() {
            let wanted = match self.join.range.is_among_equal() {
                true => Some(self.wanted().await?),
                false => None,
            };
            self.searched = Some(self.search(input, wanted).await?);
        }
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Ok(Some(batch));
            }
            interrupt::check().map_err(external)?;
            let Some(searched) = &mut self.searched else {
                return Ok(None);
            };
            if let Some(probe) = &mut self.probe {
                if !self.join.pairs(searched, probe, &mut self.ready)? {
                    let own = 1 - self.join.searched_side();
                    let matched: Vec<bool> = probe.found.iter().map(|found| *found > 0).collect();
                    self.join
                        .rows_alone(own, &probe.rows, &matched, &mut self.ready)?;
                    self.probe = None;
                }
                continue;
            }
            let next = match &mut self.probing {
                Some(probing) => probing.next().await.transpose()?,
                None => None,
            };
            match next {
                Some(rows) if rows.num_rows() == 0 => {}
                Some(rows) => self.probe = Some(self.join.probe(searched, rows)?),
                None => {
                    self.probing = None;
                    self.join.end(searched, &mut self.ready)?;
                    self.searched = None;
                }
            }
        }
    }

    /// Reads the probing side, and gives the hashes of what rows of the searched one must be equal to.
    async fn wanted(&mut self) -> Result<HashSet<u64>> {
        let mut wanted = HashSet::new();
        let side = 1 - self.join.searched_side();
        let Some(mut input) = self.probing.take() else {
            return Ok(wanted);
        };
        let mut batches = vec![];
        while let Some(batch) = input.next().await {
            let batch = batch?;
            self.memory.try_grow(get_record_batch_memory_size(&batch))?;
            wanted.extend(self.join.range.equal_hashes(&batch, side)?);
            batches.push(Ok(batch));
        }
        let rows = RecordBatchStreamAdapter::new(input.schema(), iter(batches));
        self.probing = Some(Box::pin(rows));
        Ok(wanted)
    }

    /// Reads the searched side: of each row, or of those that have one of the hashes.
    async fn search(
        &mut self,
        mut input: SendableRecordBatchStream,
        wanted: Option<HashSet<u64>>,
    ) -> Result<Searched> {
        let others = self.memory.size();
        let mut batches = vec![];
        while let Some(batch) = input.next().await {
            let mut batch = batch?;
            if let Some(wanted) = &wanted {
                let hashes = self
                    .join
                    .range
                    .equal_hashes(&batch, self.join.searched_side())?;
                let mask: BooleanBuffer = hashes.iter().map(|hash| wanted.contains(hash)).collect();
                batch = filter_record_batch(&batch, &BooleanArray::from(mask))?;
            }
            // Once as it came, and once in one piece.
            self.memory
                .try_grow(2 * get_record_batch_memory_size(&batch))?;
            batches.push(batch);
        }
        let rows = concat_batches(&input.schema(), &batches)?;
        drop(batches);
        let count = rows.num_rows();
        if u32::try_from(count).is_err() {
            return resources_err!("a side of a join by a range has {count} rows, 2^32 at most");
        }
        let order = self.join.range.order(&rows)?;
        self.memory
            .try_resize(others + get_record_batch_memory_size(&rows) + order.size())?;
        let wanted = self.join.kind.needs_matches(self.join.range.searched());
        Ok(Searched {
            matched: vec![false; if wanted { count } else { 0 }],
            steps: vec![0; if wanted { count + 1 } else { 0 }],
            rows,
            order,
        })
    }
}

impl Probe {
    /// Some candidates: rows of the batch, and places in the order of the searched side.
    fn next(&mut self, descending: bool) -> (UInt32Array, Vec<usize>) {
        let (mut rows, mut places) = (vec![], vec![]);
        let in_rounds = self.wanted < usize::MAX;
        while self.at < self.ranges.len() && places.len() < PAIRS {
            let range = &mut self.ranges[self.at];
            let most = self.round.min(PAIRS - places.len()).min(range.len());
            match descending {
                false => places.extend(range.start..range.start + most),
                true => places.extend((range.end - most..range.end).rev()),
            }
            match descending {
                false => range.start += most,
                true => range.end -= most,
            }
            rows.resize(places.len(), self.at as u32);
            if range.len() == 0 || in_rounds {
                self.at += 1;
            }
        }
        if self.at == self.ranges.len() && self.ranges.iter().any(|range| range.len() > 0) {
            self.at = 0;
            self.round = self.round.saturating_mul(ROUND_GROWTH);
        }
        (UInt32Array::from(rows), places)
    }
}

impl Join {
    fn searched_side(&self) -> usize {
        self.range.searched()
    }

    /// Begins with a batch of the probing side.
    fn probe(&self, searched: &mut Searched, rows: RecordBatch) -> Result<Probe> {
        let candidates = self.range.candidates(&searched.order, &rows)?;
        let filtered = candidates.are_all || !self.range.is_whole();
        let mut ranges = candidates.ranges;
        let mut found: Vec<usize> = vec![0; ranges.len()];
        if let (Kind::Rows(side, _), false) = (self.kind, filtered) {
            // Whether there are any, or which, is all that is asked.
            for (found, range) in found.iter_mut().zip(&mut ranges) {
                *found = range.len();
                if side == self.searched_side() {
                    searched.steps[range.start] += 1;
                    searched.steps[range.end] -= 1;
                }
                *range = 0..0;
            }
        }
        let wanted = match (self.kind, self.first) {
            (Kind::Rows(side, _), _) if side != self.searched_side() => 1,
            (Kind::Pairs(_), Some(first)) if !candidates.are_all => first.rows,
            _ => usize::MAX,
        };
        Ok(Probe {
            rows,
            ranges,
            filtered,
            found,
            wanted,
            at: 0,
            round: wanted,
        })
    }

    /// Looks at some more pairs of a batch; false if there are none left.
    fn pairs(
        &self,
        searched: &mut Searched,
        probe: &mut Probe,
        ready: &mut VecDeque<RecordBatch>,
    ) -> Result<bool> {
        let (mut rows, mut places) = probe.next(self.first.is_some_and(|f| f.descending));
        if places.is_empty() {
            return Ok(probe.at < probe.ranges.len());
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
            if probe.found[row] == probe.wanted {
                let range = &mut probe.ranges[row];
                *range = match self.first {
                    // Others may come first by what the rows are ordered by besides.
                    Some(first) => order.equal_within(range, *place, first.descending),
                    None => 0..0,
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

    /// Gives what the searched side has besides its pairs.
    fn end(&self, searched: &mut Searched, ready: &mut VecDeque<RecordBatch>) -> Result<()> {
        let mut matches = 0;
        for (row, step) in searched.order.rows().iter().zip(&searched.steps) {
            matches += step;
            searched.matched[*row as usize] |= matches > 0;
        }
        self.rows_alone(
            self.searched_side(),
            &searched.rows,
            &searched.matched,
            ready,
        )
    }

    /// Gives what rows of a side are in the result besides pairs, when it is known which have a match.
    fn rows_alone(
        &self,
        side: usize,
        rows: &RecordBatch,
        matched: &[bool],
        ready: &mut VecDeque<RecordBatch>,
    ) -> Result<()> {
        if !self.kind.needs_matches(side) {
            return Ok(());
        }
        let wanted = |matched: bool| match self.kind {
            Kind::Rows(_, Chosen::Marked) => true,
            Kind::Rows(_, Chosen::Matched) => matched,
            Kind::Rows(_, Chosen::Unmatched) | Kind::Pairs(_) => !matched,
        };
        let chosen = (0..matched.len()).filter(|row| wanted(matched[*row]));
        let chosen: Vec<u32> = chosen.map(|row| row as u32).collect();
        for chosen in chosen.chunks(PAIRS) {
            let marks = chosen.iter().map(|row| matched[*row as usize]);
            let marks = BooleanArray::from(BooleanBuffer::from_iter(marks));
            let chosen = UInt32Array::from(chosen.to_vec());
            let mut sides = [None, None];
            sides[side] = Some((rows, &chosen));
            ready.push_back(self.batch(sides, Some(marks))?);
        }
        Ok(())
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
