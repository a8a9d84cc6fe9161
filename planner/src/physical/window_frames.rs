//! Partitions, peers and frames of windows, as ranges of rows.

use std::ops::Range;

use arrow::array::ArrayRef;
use arrow::compute::partition;
use datafusion_common::{Result, ScalarValue};
use datafusion_expr::{WindowFrame, WindowFrameBound, WindowFrameUnits};

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
}

/// A frame's end, in rows or groups after the current one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bound {
    Unbounded,
    At(i64),
}

/// A frame that can be told from the numbers of rows and groups, whose beginning and end move only forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub units: Units,
    start: Bound,
    end: Bound,
}

impl Frame {
    /// `None` for RANGE with offsets, which depends on values.
    pub fn of(frame: &WindowFrame, ordered: bool) -> Option<Frame> {
        let units = match frame.units {
            WindowFrameUnits::Rows => Units::Rows,
            WindowFrameUnits::Groups | WindowFrameUnits::Range => Units::Peers,
        };
        let bound = |b: &WindowFrameBound| {
            let (offset, sign) = match b {
                WindowFrameBound::CurrentRow => return Some(Bound::At(0)),
                WindowFrameBound::Preceding(n) => (n, -1),
                WindowFrameBound::Following(n) => (n, 1),
            };
            match offset {
                n if n.is_null() => Some(Bound::Unbounded),
                ScalarValue::UInt64(Some(n)) if frame.units != WindowFrameUnits::Range => {
                    Some(Bound::At(i64::try_from(*n).ok()?.checked_mul(sign)?))
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

    /// Calls `each` with each row's frame, in the order of the rows. `peers` are the chunk's groups, needed if the frame counts in them.
    /// Frames may be empty, with any beginning.
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
                    Bound::Unbounded => partition.start,
                    Bound::At(n) => at(n),
                };
                let end = match self.end {
                    Bound::Unbounded => partition.end,
                    Bound::At(n) => at(n.saturating_add(1)),
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
                Bound::Unbounded => partition.start,
                Bound::At(n) => at(n),
            };
            let end = match self.end {
                Bound::Unbounded => partition.end,
                Bound::At(n) => at(n.saturating_add(1)),
            };
            for _ in group.clone() {
                each(start..end)?;
            }
        }
        Ok(())
    }
}
