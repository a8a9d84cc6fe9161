//! The rows of a [`RangeJoinExec`](super::range_join::RangeJoinExec).

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::cast::AsArray;
use arrow::array::{
    Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array, new_null_array,
};
use arrow::buffer::BooleanBuffer;
use arrow::compute::{concat_batches, prep_null_mask_filter, take};
use arrow::datatypes::SchemaRef;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::joins::utils::ColumnIndex;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion_common::utils::memory::get_record_batch_memory_size;
use datafusion_common::{JoinSide, JoinType, Result, resources_err};
use datafusion_physical_expr::PhysicalExpr;
use futures::StreamExt;
use futures::stream::unfold;
use tidemill_dataflow::ranges::{Order, RangeCondition};

use crate::functions::external;
use crate::interrupt;

/// Pairs that are looked at together, and rows of a batch.
const PAIRS: usize = 8192;
/// Where one match of a row is enough, so many times more of its candidates are looked at in each round.
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
    matched: Vec<bool>,
    /// One match per row is enough.
    first_only: bool,
    /// The row whose candidates are next, and how many of a row are looked at in this round.
    at: usize,
    round: usize,
}

impl Work {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        if let Some(input) = self.to_search.take() {
            self.searched = Some(self.search(input).await?);
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
                    self.join
                        .rows_alone(own, &probe.rows, &probe.matched, &mut self.ready)?;
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

    /// Reads the searched side.
    async fn search(&mut self, mut input: SendableRecordBatchStream) -> Result<Searched> {
        let mut batches = vec![];
        while let Some(batch) = input.next().await {
            let batch = batch?;
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
            .try_resize(get_record_batch_memory_size(&rows) + order.size())?;
        let wanted = self.join.kind.needs_matches(self.join.range.searched());
        Ok(Searched {
            matched: vec![false; if wanted { count } else { 0 }],
            steps: vec![0; if wanted { count + 1 } else { 0 }],
            rows,
            order,
        })
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
        let mut matched: Vec<bool> = ranges.iter().map(|_| false).collect();
        if let (Kind::Rows(side, _), false) = (self.kind, filtered) {
            // Whether there are any, or which, is all that is asked.
            for (matched, range) in matched.iter_mut().zip(&mut ranges) {
                *matched = range.start < range.end;
                if side == self.searched_side() {
                    searched.steps[range.start] += 1;
                    searched.steps[range.end] -= 1;
                }
                *range = 0..0;
            }
        }
        let first_only = self.kind.needs_matches(1 - self.searched_side())
            && !matches!(self.kind, Kind::Pairs(_));
        Ok(Probe {
            rows,
            ranges,
            filtered,
            matched,
            first_only,
            at: 0,
            round: if first_only { 1 } else { usize::MAX },
        })
    }

    /// Looks at some more pairs of a batch; false if there are none left.
    fn pairs(
        &self,
        searched: &mut Searched,
        probe: &mut Probe,
        ready: &mut VecDeque<RecordBatch>,
    ) -> Result<bool> {
        let (mut rows, mut places) = (vec![], vec![]);
        while probe.at < probe.ranges.len() && places.len() < PAIRS {
            let range = &mut probe.ranges[probe.at];
            if probe.first_only && probe.matched[probe.at] {
                *range = 0..0;
            }
            let most = probe.round.min(PAIRS - places.len());
            let end = range.end.min(range.start.saturating_add(most));
            rows.extend((range.start..end).map(|_| probe.at as u32));
            places.extend((range.start..end).map(|at| searched.order.rows()[at]));
            range.start = end.max(range.start);
            if range.start >= range.end || probe.first_only {
                probe.at += 1;
            }
        }
        if probe.at == probe.ranges.len() && probe.first_only {
            let left = probe.ranges.iter().any(|range| range.start < range.end);
            if left {
                probe.at = 0;
                probe.round = probe.round.saturating_mul(ROUND_GROWTH);
            }
        }
        if places.is_empty() {
            return Ok(probe.at < probe.ranges.len());
        }
        let (mut rows, mut places) = (UInt32Array::from(rows), UInt32Array::from(places));
        if probe.filtered {
            let mask = self.mask(searched, probe, &rows, &places)?;
            if mask.true_count() < rows.len() {
                let kept = |all: &UInt32Array| {
                    let kept = mask.values().set_indices();
                    UInt32Array::from_iter_values(kept.map(|at| all.value(at)))
                };
                (rows, places) = (kept(&rows), kept(&places));
            }
        }
        rows.values()
            .iter()
            .for_each(|row| probe.matched[*row as usize] = true);
        if !searched.matched.is_empty() {
            let places = places.values().iter();
            places.for_each(|row| searched.matched[*row as usize] = true);
        }
        if matches!(self.kind, Kind::Pairs(_)) && !rows.is_empty() {
            let mut sides = [Some((&probe.rows, &rows)), Some((&searched.rows, &places))];
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
        searched: &Searched,
        probe: &Probe,
        rows: &UInt32Array,
        places: &UInt32Array,
    ) -> Result<BooleanArray> {
        let columns = self.condition_columns.iter().map(|c| {
            let (batch, rows) = match side(c) == Some(self.searched_side()) {
                true => (&searched.rows, places),
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
