//! Partitions, peers and frames of windows, as ranges of rows.

use std::ops::Range;

use arrow::array::ArrayRef;
use arrow::compute::{SortOptions, partition};
use datafusion_common::{Result, ScalarValue};
use datafusion_expr::{WindowFrame, WindowFrameBound, WindowFrameUnits};

use super::window_ranges::{Line, Reach};

/// The runs of equal rows of sorted `columns`; all rows are equal if there is no column.
pub(super) fn runs(columns: &[ArrayRef], rows: usize) -> Result<Vec<Range<usize>>> {
    match (columns.is_empty(), rows) {
        (_, 0) => Ok(vec![]),
        (true, _) => Ok(vec![Range {
            start: 0,
            end: rows,
        }]),
        (false, _) => Ok(partition(columns)?.ranges()),
    }
}

/// What a frame is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Units {
    Rows,
    /// Groups of peers: rows that ORDER BY leaves equal.
    Peers,
    /// How far away the key is that rows are ordered by.
    Distance,
}

/// A frame's end.
#[derive(Clone, Debug, PartialEq)]
enum Bound {
    Unbounded,
    /// So many rows or groups after the current one.
    At(i64),
    /// Where the key is so much less, if the sign is negative, or more, if rows are in ascending order.
    Away(ScalarValue, i8),
}

/// A frame whose beginning and end move only forwards.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Frame {
    pub units: Units,
    start: Bound,
    end: Bound,
}

impl Frame {
    /// `None` if numbers of rows are too great.
    pub fn of(frame: &WindowFrame, ordered: bool) -> Option<Frame> {
        let units = match frame.units {
            WindowFrameUnits::Rows => Units::Rows,
            WindowFrameUnits::Range if has_distance(frame) => Units::Distance,
            WindowFrameUnits::Groups | WindowFrameUnits::Range => Units::Peers,
        };
        let bound = |b: &WindowFrameBound| {
            let (offset, sign) = match b {
                WindowFrameBound::CurrentRow => return Some(Bound::At(0)),
                WindowFrameBound::Preceding(n) => (n, -1i8),
                WindowFrameBound::Following(n) => (n, 1),
            };
            match offset {
                n if n.is_null() => Some(Bound::Unbounded),
                n if units == Units::Distance => Some(Bound::Away(n.clone(), sign)),
                ScalarValue::UInt64(Some(n)) => {
                    let n = i64::try_from(*n).ok()?;
                    Some(Bound::At(n.checked_mul(i64::from(sign))?))
                }
                _ => None,
            }
        };
        let (start, end) = (bound(&frame.start_bound)?, bound(&frame.end_bound)?);
        let whole = units == Units::Peers && !ordered;
        let bound = |b| {
            if whole && b == Bound::At(0) {
                Bound::Unbounded
            } else {
                b
            }
        };
        Some(Frame {
            units,
            start: bound(start),
            end: bound(end),
        })
    }

    /// Whether all rows of a partition have the same frame: the partition.
    pub fn is_whole(&self) -> bool {
        self.start == Bound::Unbounded && self.end == Bound::Unbounded
    }

    /// Whether no row leaves a partition's frames.
    pub fn grows(&self) -> bool {
        self.start == Bound::Unbounded
    }

    /// Calls `each` with each row's frame, in the order of the rows. `peers` are the chunk's groups, needed if the frame counts in them;
    /// for distances there is [`Frame::reach`]. Frames may be empty, with any beginning.
    pub fn for_each(
        &self,
        partition: &Range<usize>,
        peers: &[Range<usize>],
        mut each: impl FnMut(Range<usize>) -> Result<()>,
    ) -> Result<()> {
        let rows = partition.clone();
        // A bound's row: `unbounded` without one, else what is `offset` units from unit `at` of units `0..units`.
        let clamp = |at: usize, offset: i64| (at as i64).saturating_add(offset);
        if self.units == Units::Rows {
            for row in rows {
                let at = |offset: i64| {
                    let row = clamp(row, offset);
                    row.clamp(partition.start as i64, partition.end as i64) as usize
                };
                let start = match self.start {
                    Bound::At(n) => at(n),
                    _ => partition.start,
                };
                let end = match self.end {
                    Bound::At(n) => at(n.saturating_add(1)),
                    _ => partition.end,
                };
                each(start..end)?;
            }
            return Ok(());
        }
        let first = peers.partition_point(|p| p.start < partition.start);
        let groups = &peers[first..peers.partition_point(|p| p.start < partition.end)];
        for (g, group) in groups.iter().enumerate() {
            // Where the group begins that is so many after this one.
            let at = |offset: i64| match usize::try_from(clamp(g, offset)) {
                Err(_) => partition.start,
                Ok(g) => groups.get(g).map_or(partition.end, |g| g.start),
            };
            let start = match self.start {
                Bound::At(n) => at(n),
                _ => partition.start,
            };
            let end = match self.end {
                Bound::At(n) => at(n.saturating_add(1)),
                _ => partition.end,
            };
            for _ in group.clone() {
                each(start..end)?;
            }
        }
        Ok(())
    }

    /// How far frames by distance reach among rows ordered by `keys`.
    pub fn reach(&self, keys: &ArrayRef, options: SortOptions) -> Result<Reach> {
        let line = Line::of(keys, options.descending)?;
        let target = |bound: &Bound, last: bool| match bound {
            Bound::Unbounded => Ok(None),
            Bound::At(_) => Ok(Some(line.places())),
            Bound::Away(by, sign) => line.targets(by, *sign, last).map(Some),
        };
        Ok(Reach {
            first: target(&self.start, false)?,
            last: target(&self.end, true)?,
            places: line.places(),
            nulls: keys.logical_nulls(),
            nulls_first: options.nulls_first,
        })
    }
}

/// Whether the frame is one by RANGE with an offset.
pub(super) fn has_distance(frame: &WindowFrame) -> bool {
    let away = |b: &WindowFrameBound| match b {
        WindowFrameBound::Preceding(n) | WindowFrameBound::Following(n) => !n.is_null(),
        WindowFrameBound::CurrentRow => false,
    };
    let range = frame.units == WindowFrameUnits::Range;
    range && (away(&frame.start_bound) || away(&frame.end_bound))
}
