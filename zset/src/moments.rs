//! Counts, sums and sums of products of values, from which variances, covariances and regressions are made. All sums are
//! exact: the order of rows never shows, and what was added can be taken away again.

use arrow::datatypes::i256;

use crate::{FloatSum, WideSum};

/// Where a square is cut: both parts of the square of a number below 10^38 fit 127 bits.
const LOW_BITS: u32 = 126;

/// Moments of integers, or of decimals of one scale.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExactMoments {
    /// How many values.
    pub count: i64,
    sum: WideSum,
    /// Sum of the squares of numbers of 64 bits, and of the others' modulo 2^126.
    low: WideSum,
    /// Sum of the others' squares divided by 2^126.
    high: WideSum,
}

impl ExactMoments {
    /// Adds `value`, whose absolute value is at most 10^38, `times` times; negative: takes it away.
    #[inline]
    pub fn add(&mut self, value: i128, times: i64) {
        self.count += times;
        self.sum.add(value, times);
        if let Ok(short) = i64::try_from(value) {
            // At most 2^126, so that nothing is cut off: the common case.
            self.low.add(short as i128 * short as i128, times);
            return;
        }
        let wide = i256::from_i128(value);
        let (low, high) = wide.wrapping_mul(wide).to_parts();
        let cut = low & ((1 << LOW_BITS) - 1);
        self.low.add(cut as i128, times);
        self.high
            .add((low >> LOW_BITS) as i128 | high << (128 - LOW_BITS), times);
    }

    /// Sum of the values.
    pub fn sum(&self) -> i256 {
        self.sum.total()
    }

    /// Sum of their squares; `None` if it doesn't fit 256 bits.
    pub fn squares(&self) -> Option<i256> {
        let unit = i256::from_i128(1 << LOW_BITS);
        let high = self.high.total().checked_mul(unit)?;
        high.checked_add(self.low.total())
    }

    /// A form to be kept: count, sum and both parts of the squares, little-endian.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(104);
        bytes.extend(self.count.to_le_bytes());
        for sum in [self.sum, self.low, self.high] {
            bytes.extend(sum.total().to_le_bytes());
        }
        bytes
    }

    /// Adds what [`ExactMoments::to_bytes`] wrote; `None` if the bytes are damaged.
    pub fn merge(&mut self, bytes: &[u8]) -> Option<()> {
        let (count, mut rest) = bytes.split_first_chunk::<8>()?;
        self.count += i64::from_le_bytes(*count);
        for sum in [&mut self.sum, &mut self.low, &mut self.high] {
            let (own, more) = rest.split_first_chunk::<32>()?;
            sum.merge(i256::from_le_bytes(*own));
            rest = more;
        }
        rest.is_empty().then_some(())
    }
}

/// Moments of doubles, or of pairs of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FloatMoments {
    /// How many values, or pairs.
    pub count: i64,
    /// How many products of finite doubles were beyond the greatest double.
    pub overflows: i64,
    /// Of y, y², x, x², xy; none before the first value, and the last three only of pairs.
    sums: Vec<FloatSum>,
}

/// Sums of single values, and of pairs.
const SUMS: [usize; 2] = [2, 5];

impl FloatMoments {
    /// Adds `y` `times` times; negative: takes it away.
    pub fn add(&mut self, y: f64, times: i64) {
        self.reach(SUMS[0]);
        self.count += times;
        self.sums[0].add_times(y, times);
        self.add_product(1, y, y, times);
    }

    /// Adds the pair `times` times; negative: takes it away.
    pub fn add_pair(&mut self, y: f64, x: f64, times: i64) {
        self.reach(SUMS[1]);
        self.add(y, times);
        self.sums[2].add_times(x, times);
        self.add_product(3, x, x, times);
        self.add_product(4, y, x, times);
    }

    fn reach(&mut self, sums: usize) {
        if self.sums.len() < sums {
            self.sums.resize(sums, FloatSum::default());
        }
    }

    /// Adds `a * b` exactly: the product and what rounding took from it.
    fn add_product(&mut self, n: usize, a: f64, b: f64, times: i64) {
        let product = a * b;
        if product.is_infinite() && a.is_finite() && b.is_finite() {
            self.overflows += times;
            return;
        }
        self.sums[n].add_times(product, times);
        if product.is_finite() {
            self.sums[n].add_times(a.mul_add(b, -product), times);
        }
    }

    /// Sums of y, y², x, x², xy.
    pub fn sums(&self) -> [FloatSum; 5] {
        std::array::from_fn(|i| self.sums.get(i).cloned().unwrap_or_default())
    }

    /// Brings the sums into the form in which equal ones are equal.
    pub fn normalise(&mut self) {
        self.sums.iter_mut().for_each(FloatSum::normalise);
    }

    /// Bytes of heap memory held.
    pub fn heap_bytes(&self) -> usize {
        let sums: usize = self.sums.iter().map(FloatSum::heap_bytes).sum();
        sums + self.sums.capacity() * size_of::<FloatSum>()
    }

    /// A form to be kept: count and overflows, then length (u32) and bytes of each sum, little-endian.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64);
        bytes.extend(self.count.to_le_bytes());
        bytes.extend(self.overflows.to_le_bytes());
        for sum in &self.sums {
            let part = sum.to_bytes();
            bytes.extend((part.len() as u32).to_le_bytes());
            bytes.extend(part);
        }
        bytes
    }

    /// Adds what [`FloatMoments::to_bytes`] wrote; `None` if the bytes are damaged.
    pub fn merge(&mut self, bytes: &[u8]) -> Option<()> {
        let (count, rest) = bytes.split_first_chunk::<8>()?;
        let (overflows, mut rest) = rest.split_first_chunk::<8>()?;
        self.count += i64::from_le_bytes(*count);
        self.overflows += i64::from_le_bytes(*overflows);
        let mut n = 0;
        while !rest.is_empty() {
            let (length, more) = rest.split_first_chunk::<4>()?;
            let (own, more) = more.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            if n == SUMS[1] {
                return None;
            }
            self.reach(n + 1);
            self.sums[n].merge(&FloatSum::from_bytes(own)?);
            (n, rest) = (n + 1, more);
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squares_of_any_size_add_up_and_go_away() {
        let greatest = 10i128.pow(38) - 1;
        let values = [0, 1, -1, i64::MAX as i128, i64::MIN as i128, 1 << 64, 3];
        let mut of_all = ExactMoments::default();
        let mut expected = i256::ZERO;
        for v in values.into_iter().chain([greatest, -greatest]) {
            of_all.add(v, 3);
            let v = i256::from_i128(v);
            if v.wrapping_abs() < i256::from_i128(greatest) {
                expected =
                    expected.wrapping_add(v.wrapping_mul(v).wrapping_mul(i256::from_i128(3)));
            }
        }
        // 6 * 10^76 doesn't fit 256 bits.
        assert_eq!(of_all.squares(), None);
        of_all.add(greatest, -3);
        of_all.add(-greatest, -3);
        assert_eq!(of_all.squares(), Some(expected));
        let mut again = ExactMoments::default();
        again.merge(&of_all.to_bytes()).unwrap();
        assert_eq!(again, of_all);
        assert_eq!(again.merge(&of_all.to_bytes()[1..]), None);
        for v in values {
            of_all.add(v, -3);
        }
        assert_eq!(of_all, ExactMoments::default());
    }

    #[test]
    fn pairs_of_doubles_come_and_go() {
        let pairs = [(0.1, 1e15), (-3.5, 0.1), (1e-300, 1e100), (7.0, f64::NAN)];
        let mut all = FloatMoments::default();
        pairs.iter().for_each(|(y, x)| all.add_pair(*y, *x, 2));
        all.add_pair(1e200, 1e200, 1);
        assert_eq!(all.overflows, 3);
        all.add_pair(1e200, 1e200, -1);
        all.add_pair(7.0, f64::NAN, -2);
        assert_eq!((all.count, all.overflows), (6, 0));
        let mut again = FloatMoments::default();
        again.merge(&all.to_bytes()).unwrap();
        all.normalise();
        again.normalise();
        assert_eq!(again, all);
        assert_eq!(
            again.merge(&all.to_bytes()[..all.to_bytes().len() - 1]),
            None
        );
        pairs[..3]
            .iter()
            .for_each(|(y, x)| all.add_pair(*y, *x, -2));
        assert!(all.count == 0 && all.sums().iter().all(FloatSum::is_zero));
    }
}
