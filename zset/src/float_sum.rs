//! [`FloatSum`]: an exact sum of doubles. Order doesn't matter and what was added can be taken away again, so
//! a view that is kept up to date and a SELECT over the same rows give the same bits.
//!
//! The sum is a fixed-point number with 2^-1074, the least double, as its unit, in limbs of 32 bits. Only
//! the limbs in use are held. Invariant: `base + limbs.len() <= LIMBS_MAX`.

/// Limbs that any sum of at most 2^63 doubles needs: (1074 + 1024 + 64) / 32, and one for the sign.
const LIMBS_MAX: usize = 70;
/// Additions after which carries must be resolved: a limb is below 2^32 then and grows by less than 2^32 each time.
const PENDING_MAX: u32 = 1 << 30;

/// An exact, order-independent, retractable sum of doubles.
#[derive(Clone, Debug, Default)]
pub struct FloatSum {
    base: usize,
    limbs: Vec<i64>,
    pending: u32,
    nans: i64,
    positive_infinities: i64,
    negative_infinities: i64,
}

/// Compares representations: true of equal sums only after [`FloatSum::normalise`].
impl PartialEq for FloatSum {
    fn eq(&self, other: &Self) -> bool {
        self.base == other.base
            && self.limbs == other.limbs
            && self.nans == other.nans
            && self.positive_infinities == other.positive_infinities
            && self.negative_infinities == other.negative_infinities
    }
}

impl FloatSum {
    /// Zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `v`.
    #[inline]
    pub fn add(&mut self, v: f64) {
        self.add_times(v, 1);
    }

    /// Takes away a `v` that was added.
    #[inline]
    pub fn subtract(&mut self, v: f64) {
        self.add_times(v, -1);
    }

    /// Adds `v` `times` times; negative: takes it away.
    pub fn add_times(&mut self, v: f64, times: i64) {
        if !v.is_finite() {
            match v {
                v if v.is_nan() => self.nans += times,
                v if v > 0.0 => self.positive_infinities += times,
                _ => self.negative_infinities += times,
            }
            return;
        }
        let bits = v.to_bits();
        let exponent = (bits >> 52 & 0x7ff) as usize;
        let fraction = bits & ((1 << 52) - 1);
        let (mantissa, shift) = match exponent {
            0 => (fraction, 0),
            e => (fraction | 1 << 52, e - 1),
        };
        if mantissa == 0 || times == 0 {
            return;
        }
        let negative = (bits >> 63 == 1) != (times < 0);
        if times.unsigned_abs() == 1 {
            let wide = (mantissa as u128) << (shift % 32);
            self.add_limbs(
                shift / 32,
                &[wide as u32, (wide >> 32) as u32, (wide >> 64) as u32],
                negative,
            );
        } else {
            let product = mantissa as u128 * times.unsigned_abs() as u128;
            let low = (product & u64::MAX as u128) << (shift % 32);
            let high = (product >> 64) << (shift % 32);
            let at = shift / 32;
            self.add_limbs(
                at,
                &[low as u32, (low >> 32) as u32, (low >> 64) as u32],
                negative,
            );
            self.add_limbs(
                at + 2,
                &[high as u32, (high >> 32) as u32, (high >> 64) as u32],
                negative,
            );
        }
    }

    fn add_limbs(&mut self, at: usize, digits: &[u32; 3], negative: bool) {
        let used = 3 - digits.iter().rev().take_while(|d| **d == 0).count();
        if used == 0 {
            return;
        }
        if self.pending >= PENDING_MAX {
            self.carry();
        }
        self.pending += 1;
        self.reach(at, at + used);
        let from = at - self.base;
        for (limb, d) in self.limbs[from..].iter_mut().zip(&digits[..used]) {
            *limb += if negative { -(*d as i64) } else { *d as i64 };
        }
    }

    /// Makes room for limbs `from..to`.
    fn reach(&mut self, from: usize, to: usize) {
        if self.limbs.is_empty() {
            self.base = from;
        }
        if from < self.base {
            let more = self.base - from;
            self.limbs.splice(0..0, std::iter::repeat_n(0, more));
            self.base = from;
        }
        if to > self.base + self.limbs.len() {
            self.limbs.resize(to - self.base, 0);
        }
        debug_assert!(self.base + self.limbs.len() <= LIMBS_MAX);
    }

    /// Brings the sum into the one form that equal sums have, for comparisons with `==`.
    pub fn normalise(&mut self) {
        self.carry();
    }

    /// True if the sum of finite doubles is beyond the greatest double.
    pub fn overflows(&self) -> bool {
        self.positive_infinities == 0 && self.negative_infinities == 0 && self.value().is_infinite()
    }

    /// Brings every limb but the last into 0..2^32; the last one has the sign. Drops zeros at both ends.
    fn carry(&mut self) {
        self.pending = 0;
        let mut carry = 0i64;
        let last = self.limbs.len().saturating_sub(1);
        for (i, limb) in self.limbs.iter_mut().enumerate() {
            let v = *limb + carry;
            if i == last {
                *limb = v;
                carry = 0;
            } else {
                *limb = v & 0xffff_ffff;
                carry = v >> 32;
            }
        }
        debug_assert_eq!(carry, 0);
        while let Some(top) = self.limbs.last().copied() {
            if (-1i64 << 31..1 << 31).contains(&top) {
                break;
            }
            let low = top & 0xffff_ffff;
            *self.limbs.last_mut().expect("there is a last limb") = low;
            self.limbs.push(top >> 32);
        }
        // A top limb that only repeats the sign of the one below is redundant.
        while let [.., below, top] = self.limbs.as_mut_slice() {
            if *top == 0 && *below < 1 << 31 {
                self.limbs.pop();
            } else if *top == -1 && *below >= 1 << 31 {
                *below -= 1 << 32;
                self.limbs.pop();
            } else {
                break;
            }
        }
        let zeros = self.limbs.iter().take_while(|l| **l == 0).count();
        self.limbs.drain(..zeros);
        self.base = if self.limbs.is_empty() {
            0
        } else {
            self.base + zeros
        };
    }

    /// Adds another sum.
    pub fn merge(&mut self, other: &FloatSum) {
        self.nans += other.nans;
        self.positive_infinities += other.positive_infinities;
        self.negative_infinities += other.negative_infinities;
        if other.limbs.is_empty() {
            return;
        }
        let mut other = other.clone();
        other.carry();
        self.carry();
        if other.limbs.is_empty() {
            return;
        }
        self.reach(other.base, other.base + other.limbs.len());
        let from = other.base - self.base;
        for (limb, o) in self.limbs[from..].iter_mut().zip(&other.limbs) {
            *limb += o;
        }
        self.carry();
    }

    /// The double nearest to the sum (ties to even). Zero is positive.
    pub fn value(&self) -> f64 {
        if self.nans != 0 || (self.positive_infinities != 0 && self.negative_infinities != 0) {
            return f64::NAN;
        }
        if self.positive_infinities != 0 {
            return f64::INFINITY;
        }
        if self.negative_infinities != 0 {
            return f64::NEG_INFINITY;
        }
        let mut s = self.clone();
        s.carry();
        let negative = s.limbs.last().is_some_and(|t| *t < 0);
        if negative {
            s.limbs.iter_mut().for_each(|l| *l = -*l);
            s.carry();
        }
        let magnitude = s.magnitude();
        if negative { -magnitude } else { magnitude }
    }

    /// The value of a carried, non-negative sum.
    fn magnitude(&self) -> f64 {
        let Some(top) = self.limbs.last() else {
            return 0.0;
        };
        let n = self.limbs.len();
        // The highest 96 bits and whether anything lies below them.
        let mut head = *top as u128;
        for i in 1..3 {
            head = head << 32 | n.checked_sub(1 + i).map_or(0, |i| self.limbs[i] as u128);
        }
        let sticky = n > 3 && self.limbs[..n - 3].iter().any(|l| *l != 0);
        // Unit of `head`'s last bit: 2^(unit - 1074).
        let unit = 32 * (self.base as i64 + n as i64 - 3);
        let bits = 128 - head.leading_zeros() as i64;
        // Drop all but 53 bits, but never bits that a subnormal keeps.
        let drop = (bits - 53).max(-unit);
        let (mut mantissa, mut exponent) = if drop > 0 {
            let kept = (head >> drop) as u64;
            let rest = head & ((1u128 << drop) - 1);
            let half = 1u128 << (drop - 1);
            let up = rest > half || (rest == half && (sticky || kept & 1 == 1));
            (kept + up as u64, unit + drop)
        } else {
            (head as u64, unit)
        };
        if mantissa == 1 << 53 {
            mantissa >>= 1;
            exponent += 1;
        }
        // A short mantissa at a high unit is widened, so that the exponent field fits.
        while exponent > 0 && mantissa != 0 && mantissa < 1 << 52 {
            mantissa <<= 1;
            exponent -= 1;
        }
        if mantissa < 1 << 52 {
            return f64::from_bits(mantissa);
        }
        if exponent + 1 >= 0x7ff {
            return f64::INFINITY;
        }
        f64::from_bits(((exponent + 1) as u64) << 52 | (mantissa & ((1 << 52) - 1)))
    }

    /// True if nothing, or only zeros, remain.
    pub fn is_zero(&self) -> bool {
        let mut s = self.clone();
        s.carry();
        s.limbs.is_empty()
            && s.nans == 0
            && s.positive_infinities == 0
            && s.negative_infinities == 0
    }

    /// Bytes of heap memory held.
    pub fn heap_bytes(&self) -> usize {
        self.limbs.capacity() * 8
    }

    /// A canonical form: equal sums give equal bytes. Layout: flags (1: the three counts follow, i64 each), base u8,
    /// limbs u32 each, little-endian; the last limb is signed.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut s = self.clone();
        s.carry();
        let counts = [s.nans, s.positive_infinities, s.negative_infinities];
        let special = counts != [0; 3];
        let mut out = vec![special as u8];
        if special {
            counts
                .iter()
                .for_each(|c| out.extend_from_slice(&c.to_le_bytes()));
        }
        out.push(s.base as u8);
        for l in &s.limbs {
            out.extend_from_slice(&(*l as u32).to_le_bytes());
        }
        out
    }

    /// What [`FloatSum::to_bytes`] wrote; `None` if the bytes are damaged.
    pub fn from_bytes(bytes: &[u8]) -> Option<FloatSum> {
        let mut s = FloatSum::new();
        let (flag, mut rest) = bytes.split_first()?;
        match flag {
            0 => {}
            1 => {
                let (counts, more) = rest.split_at_checked(24)?;
                let count = |i: usize| Some(i64::from_le_bytes(counts[i..i + 8].try_into().ok()?));
                (s.nans, s.positive_infinities, s.negative_infinities) =
                    (count(0)?, count(8)?, count(16)?);
                rest = more;
            }
            _ => return None,
        }
        let (base, limbs) = rest.split_first()?;
        if limbs.len() % 4 != 0 || *base as usize + limbs.len() / 4 > LIMBS_MAX {
            return None;
        }
        s.base = *base as usize;
        s.limbs = limbs
            .chunks_exact(4)
            .map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]]) as i64)
            .collect();
        if let Some(top) = s.limbs.last_mut() {
            *top = *top as u32 as i32 as i64;
        }
        Some(s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(values: &[f64]) -> f64 {
        let mut s = FloatSum::new();
        values.iter().for_each(|v| s.add(*v));
        s.value()
    }

    #[test]
    fn single_values_come_back() {
        for v in [
            0.0,
            1.0,
            -1.0,
            0.1,
            1e300,
            -1e-300,
            f64::MAX,
            f64::MIN_POSITIVE,
            5e-324,
            1.5e-310,
            4294967296.5,
        ] {
            assert_eq!(sum(&[v]).to_bits(), v.to_bits(), "{v}");
            assert_eq!(sum(&[-v, v, v]).to_bits(), v.to_bits(), "{v}");
        }
    }

    #[test]
    fn sums_are_exact_then_rounded() {
        assert_eq!(sum(&[1e100, 1.0, -1e100]), 1.0);
        assert_eq!(sum(&[0.1; 10]), 1.0);
        assert_eq!(sum(&[f64::MAX, f64::MAX, -f64::MAX]), f64::MAX);
        assert_eq!(sum(&[f64::MAX, f64::MAX]), f64::INFINITY);
        assert_eq!(sum(&[9007199254740992.0, 1.0]), 9007199254740992.0);
        assert_eq!(sum(&[9007199254740992.0, 1.0, 5e-324]), 9007199254740994.0);
        assert!(sum(&[f64::INFINITY, f64::NEG_INFINITY]).is_nan());
    }

    #[test]
    fn order_and_retraction_do_not_matter() {
        // A fixed linear congruential sequence of doubles of all magnitudes.
        let mut x = 12345u64;
        let values: Vec<f64> = (0..2000)
            .map(|_| {
                x = x
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                f64::from_bits(x)
            })
            .filter(|v| v.is_finite())
            .collect();
        let (mut a, mut b) = (FloatSum::new(), FloatSum::new());
        values.iter().for_each(|v| a.add(*v));
        values.iter().rev().for_each(|v| {
            b.add(*v);
            b.add(v / 3.0);
        });
        values.iter().for_each(|v| b.subtract(v / 3.0));
        assert_eq!(a.to_bytes(), b.to_bytes());
        assert_eq!(a.value().to_bits(), b.value().to_bits());
        let again = FloatSum::from_bytes(&a.to_bytes()).expect("just written");
        assert_eq!(again.value().to_bits(), a.value().to_bits());
        let mut c = again.clone();
        values.iter().for_each(|v| c.subtract(*v));
        assert!(c.is_zero());
        let mut d = FloatSum::new();
        values.iter().for_each(|v| d.add_times(*v, 1_000_003));
        values.iter().for_each(|v| d.add_times(*v, -1_000_002));
        assert_eq!(d.to_bytes(), a.to_bytes());
        let mut e = FloatSum::new();
        let half = values.len() / 2;
        let part = |vs: &[f64]| {
            let mut s = FloatSum::new();
            vs.iter().for_each(|v| s.add(*v));
            s
        };
        e.merge(&part(&values[half..]));
        e.merge(&part(&values[..half]));
        assert_eq!(e.to_bytes(), a.to_bytes());
    }
}
