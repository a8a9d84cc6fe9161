//! A second value that a condition compares, in one direction, besides the one that rows are in the order of: the other end of an interval.
//!
//! Blocks of the rows know their greatest second value, so that those that it excludes are passed over as in a priority search tree
//! (McCreight, 1985).

use std::ops::RangeInclusive;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::Schema;
use datafusion_common::Result;

use super::codes::{Bounds, codes};
use super::comparisons::{Compared, Limit, renumbered};
use super::order::evaluated;
use super::{Expr, SideOf};

/// Each block has two to the power of this many rows, or of the blocks below it.
const BLOCK_BITS: u32 = 4;

/// See the module.
#[derive(Debug)]
pub(super) struct Second {
    /// Over the columns of the searched side.
    key: Expr,
    limits: Vec<Limit>,
    /// It must not be greater.
    is_upper: bool,
    /// The [`codes`] say all.
    pub is_exact: bool,
}

impl Second {
    /// What `chosen` compares, with all its limits in this direction among what is `compared`.
    pub fn of(chosen: &Compared, compared: &[&Compared], schema: &Schema, side_of: SideOf) -> Self {
        let limits = compared.iter().filter(|c| chosen.is_alike(c));
        Second {
            key: renumbered(chosen.key, side_of),
            limits: limits.map(|c| c.limit(side_of)).collect(),
            is_upper: chosen.is_upper(),
            is_exact: chosen.is_exact(schema),
        }
    }

    /// The values of rows of the searched side, and their codes, of which greater ones are searched for. Rows for which they can't be evaluated
    /// are appended to `failed`.
    pub fn values(
        &self,
        rows: &RecordBatch,
        failed: &mut Vec<usize>,
    ) -> Result<(ArrayRef, Vec<i64>)> {
        let values = evaluated(&self.key, rows, failed)?;
        let mut codes = codes(&values)?;
        if self.is_upper {
            codes.iter_mut().for_each(|code| *code = !*code);
        }
        Ok((values, codes))
    }

    /// What rows of the probing side compare with.
    pub fn bounds(&self, rows: &RecordBatch, failed: &mut Vec<usize>) -> Result<Bounds> {
        Bounds::of(&self.limits, rows, failed)
    }

    /// The least code that is searched for.
    pub fn least(&self, bounds: &RangeInclusive<i64>) -> i64 {
        match self.is_upper {
            true => !*bounds.end(),
            false => *bounds.start(),
        }
    }
}

/// The second values by place, then the greatest of each block of them, of each block of these, and so on.
#[derive(Debug, Default)]
pub(super) struct Greatest(Vec<Vec<i64>>);

impl Greatest {
    /// Those of some codes, or of none at all where no second value is compared.
    pub fn of(codes: Vec<i64>) -> Self {
        if codes.is_empty() {
            return Greatest::default();
        }
        let mut levels = vec![codes];
        while let Some(below) = levels.last().filter(|below| below.len() > 1) {
            let blocks = below.chunks(1 << BLOCK_BITS);
            let greatest = blocks.filter_map(|block| block.iter().max().copied());
            let greatest = greatest.collect();
            levels.push(greatest);
        }
        Greatest(levels)
    }

    /// By place.
    pub fn codes(&self) -> &[i64] {
        self.0.first().map_or(&[], Vec::as_slice)
    }

    /// How many places from this one on all have a smaller code than `least`: of the largest block that begins there.
    #[inline]
    pub fn passed_over(&self, place: usize, least: i64) -> usize {
        let mut passed = 0;
        for (level, greatest) in self.0.iter().enumerate() {
            let bits = BLOCK_BITS * level as u32;
            if place & ((1 << bits) - 1) != 0 || greatest[place >> bits] >= least {
                break;
            }
            passed = 1 << bits;
        }
        passed
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        8 * self.0.iter().map(Vec::len).sum::<usize>()
    }
}
