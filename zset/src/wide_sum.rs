//! [`WideSum`]: an exact sum of 128-bit integers, from which what was added can be taken away again.

use arrow::datatypes::i256;

/// A sum of 128-bit integers in 192 bits: `high * 2^64 + low`, with `low` in 0..2^64, so that equal sums are equal values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WideSum {
    low: i128,
    high: i128,
}

impl WideSum {
    /// Adds `value` `times` times; negative: takes it away.
    #[inline]
    pub fn add(&mut self, value: i128, times: i64) {
        self.low += (value as u64) as i128 * times as i128;
        self.high += (value >> 64) * times as i128;
        self.carry();
    }

    /// Adds a sum, as [`WideSum::total`] gave it.
    pub fn merge(&mut self, other: i256) {
        let (low, high) = other.to_parts();
        self.low += (low as u64) as i128;
        self.high += (low >> 64) as i128 | high << 64;
        self.carry();
    }

    /// `low` stays small, so that neither ever overflows.
    fn carry(&mut self) {
        self.high += self.low >> 64;
        self.low = (self.low as u64) as i128;
    }

    /// The sum.
    pub fn total(&self) -> i256 {
        let low = (self.high as u128) << 64 | self.low as u128;
        i256::from_parts(low, self.high >> 64)
    }

    /// The sum, if it fits 128 bits.
    pub fn narrow(&self) -> Option<i128> {
        let high = i64::try_from(self.high).ok()?;
        Some((high as i128) << 64 | self.low)
    }
}
