//! Products of diffs. A pair of rows is there as often as the product of its rows' diffs says, which may not fit.
//!
//! What a product exceeds [`WEIGHT_MAX`] by becomes an error of the pair, whose diff is the number of times that it does: both
//! parts are linear, so retractions take away what insertions brought, and the view is readable again when the
//! multiplicities are. (A total that shrank in other steps than it grew may leave the error behind; never the other way.)

use arrow::array::RecordBatch;
use arrow::buffer::BooleanBuffer;

use super::culprit::row_text;
use super::join_pairs::retain;
use crate::operator::{Output, error_delta};
use crate::plan::RowError;

/// The largest multiplicity that a pair of rows may have. Far from the limits of 64 bits, so that sums have room.
const WEIGHT_MAX: i128 = 1 << 53;

/// Weights of pairs under construction.
#[derive(Default)]
pub(super) struct Weights {
    pub each: Vec<i64>,
    /// Places whose weight was too large, with the number of times that [`WEIGHT_MAX`] was taken off.
    excess: Vec<(usize, i64)>,
}

impl Weights {
    pub fn push(&mut self, weight: i128) {
        let (weight, times) = split(weight);
        if times != 0 {
            self.excess.push((self.each.len(), times));
        }
        self.each.push(weight);
    }

    /// Keeps the weights where `mask` is set.
    pub fn retain(&mut self, mask: &BooleanBuffer) {
        let excess = self.excess.iter().filter(|(at, _)| mask.value(*at));
        let moved = |(at, times): &(usize, i64)| (mask.slice(0, *at).count_set_bits(), *times);
        self.excess = excess.map(moved).collect();
        retain(&mut self.each, mask);
    }

    /// Reports the pairs, which are `rows`, whose weight was too large.
    pub fn report(&self, rows: &RecordBatch, out: &mut Output) {
        if self.excess.is_empty() {
            return;
        }
        let error = |(at, times): &(usize, i64)| {
            let error = RowError {
                sqlstate: "22003".into(),
                message: format!("a row would occur {WEIGHT_MAX} times or more"),
            };
            (error, row_text(rows, *at), *times)
        };
        let errors: Vec<_> = self.excess.iter().map(error).collect();
        out.errors.push(error_delta(&errors));
    }
}

/// `weight` as a small weight and a number of times [`WEIGHT_MAX`].
fn split(weight: i128) -> (i64, i64) {
    let times = weight / WEIGHT_MAX;
    let rest = (weight - times * WEIGHT_MAX) as i64;
    let times = times.clamp(i64::MIN as i128, i64::MAX as i128) as i64;
    (rest, times)
}

/// The product of two diffs.
pub(super) fn product(a: i64, b: i64) -> i128 {
    i128::from(a) * i128::from(b)
}
