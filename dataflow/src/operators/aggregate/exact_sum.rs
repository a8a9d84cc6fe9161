//! [`ExactSum`]: a sum of floats without rounding, so that it doesn't depend on order and can be undone.
//!
//! The sum is a two's complement integer in units of 2^-1074 (the smallest float), of which only
//! the 32-bit digits that were ever touched are held. It is rounded once, when it is read. NaN and the
//! infinities are counted beside it.

/// Bits of a digit.
const DIGIT_BITS: usize = 32;
const DIGIT: i128 = 1 << DIGIT_BITS;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExactSum {
    /// Place of the first digit held, counted in digits from 2^-1074.
    base: u16,
    /// The lowest first; all in `0..2^32` but the last, which carries the sign, in `-2^31..2^31`.
    digits: Vec<i64>,
    special: Option<Box<Special>>,
}

/// How many of these were added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Special {
    nan: i64,
    plus: i64,
    minus: i64,
}

impl ExactSum {
    /// Bytes of memory beside the value itself, as a rule.
    pub const HEAP_BYTES: usize = 48;

    /// Adds `value`, `times` times (negative: takes it away).
    pub fn add(&mut self, value: f64, times: i64) {
        if !value.is_finite() {
            let special = self.special.get_or_insert_default();
            let counter = if value.is_nan() {
                &mut special.nan
            } else if value > 0.0 {
                &mut special.plus
            } else {
                &mut special.minus
            };
            *counter += times;
            return;
        }
        let bits = value.to_bits();
        let fraction = bits & ((1 << 52) - 1);
        let (mantissa, place) = match (bits >> 52) as usize & 0x7ff {
            0 => (fraction, 0),
            exponent => (fraction | 1 << 52, exponent - 1),
        };
        if mantissa == 0 || times == 0 {
            return;
        }
        let times = if value < 0.0 {
            -(times as i128)
        } else {
            times as i128
        };
        let wide = (mantissa as u128) << (place % DIGIT_BITS);
        let parts = [wide, wide >> DIGIT_BITS, wide >> (2 * DIGIT_BITS)];
        let parts = parts.map(|p| (p as u32) as i128 * times);
        self.add_parts(place / DIGIT_BITS, parts);
    }

    /// Adds another sum.
    pub fn merge(&mut self, other: &ExactSum) {
        for (i, digit) in other.digits.iter().enumerate() {
            self.add_parts(other.base as usize + i, [*digit as i128, 0, 0]);
        }
        if let Some(s) = &other.special {
            let special = self.special.get_or_insert_default();
            special.nan += s.nan;
            special.plus += s.plus;
            special.minus += s.minus;
        }
        self.trim();
    }

    /// Adds `parts` at three digits from `place` on, and carries.
    fn add_parts(&mut self, place: usize, parts: [i128; 3]) {
        self.cover(place, parts.len());
        let from = place - self.base as usize;
        let mut carry = 0i128;
        let mut i = from;
        loop {
            let part = parts.get(i - from).copied().unwrap_or(0);
            let sum = self.digits[i] as i128 + part + carry;
            let last = i + 1 == self.digits.len();
            if last && (-DIGIT / 2..DIGIT / 2).contains(&sum) {
                self.digits[i] = sum as i64;
                return;
            }
            self.digits[i] = (sum & (DIGIT - 1)) as i64;
            carry = sum >> DIGIT_BITS;
            if last {
                self.digits.push(0);
            } else if carry == 0 && i + 1 >= from + parts.len() {
                return;
            }
            i += 1;
        }
    }

    /// Holds digits from `place` on, `count` of them at least.
    fn cover(&mut self, place: usize, count: usize) {
        if self.digits.is_empty() {
            self.base = place as u16;
            self.digits.resize(count, 0);
            return;
        }
        let base = self.base as usize;
        if place < base {
            self.digits
                .splice(0..0, std::iter::repeat_n(0, base - place));
            self.base = place as u16;
        }
        while self.digits.len() < place + count - self.base as usize {
            let last = self.digits.len() - 1;
            let negative = self.digits[last] < 0;
            if negative {
                self.digits[last] += DIGIT as i64;
            }
            self.digits.push(if negative { -1 } else { 0 });
        }
    }

    /// Gives up digits that say nothing; equal sums are then equal values.
    pub fn trim(&mut self) {
        while let [.., below, last] = &mut self.digits[..] {
            let high = *below >= DIGIT as i64 / 2;
            match (*last, high) {
                (0, false) => {}
                (-1, true) => *below -= DIGIT as i64,
                _ => break,
            }
            self.digits.pop();
        }
        let zeros = self.digits.iter().take_while(|d| **d == 0).count();
        self.digits.drain(..zeros);
        self.base = match self.digits.is_empty() {
            true => 0,
            false => self.base + zeros as u16,
        };
        if self.special.as_deref() == Some(&Special::default()) {
            self.special = None;
        }
    }

    /// The sum, rounded to the nearest float, ties to even. Beyond the largest float: infinite.
    pub fn value(&self) -> f64 {
        if let Some(s) = &self.special {
            match (s.nan > 0, s.plus > 0, s.minus > 0) {
                (true, _, _) | (_, true, true) => return f64::NAN,
                (_, true, _) => return f64::INFINITY,
                (_, _, true) => return f64::NEG_INFINITY,
                _ => {}
            }
        }
        let negative = self.digits.last().is_some_and(|d| *d < 0);
        let magnitude = self.magnitude(negative);
        let value = round(&magnitude, self.base as usize);
        if negative { -value } else { value }
    }

    /// True if the sum of finite floats is beyond the largest float.
    pub fn overflows(&self) -> bool {
        self.special.is_none() && self.value().is_infinite()
    }

    /// The digits of the absolute value.
    fn magnitude(&self, negative: bool) -> Vec<u32> {
        let mut carry = negative;
        let digit = |d: &i64| {
            let d = *d as u32;
            if !negative {
                return d;
            }
            let (d, overflow) = (!d).overflowing_add(carry as u32);
            carry = overflow;
            d
        };
        self.digits.iter().map(digit).collect()
    }

    /// Bytes that [`ExactSum::from_bytes`] reads; equal sums give equal bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut sum = self.clone();
        sum.trim();
        let mut out = sum.base.to_le_bytes().to_vec();
        out.push(sum.special.is_some() as u8);
        if let Some(s) = &sum.special {
            for n in [s.nan, s.plus, s.minus] {
                out.extend_from_slice(&n.to_le_bytes());
            }
        }
        for d in &sum.digits {
            out.extend_from_slice(&(*d as u32).to_le_bytes());
        }
        out
    }

    /// The inverse of [`ExactSum::to_bytes`]; `None` if the bytes aren't of that form.
    pub fn from_bytes(bytes: &[u8]) -> Option<ExactSum> {
        let (base, rest) = bytes.split_first_chunk::<2>()?;
        let (flag, mut rest) = rest.split_first()?;
        let mut sum = ExactSum {
            base: u16::from_le_bytes(*base),
            ..Default::default()
        };
        if *flag == 1 {
            let mut next = || -> Option<i64> {
                let (n, r) = rest.split_first_chunk::<8>()?;
                rest = r;
                Some(i64::from_le_bytes(*n))
            };
            sum.special = Some(Box::new(Special {
                nan: next()?,
                plus: next()?,
                minus: next()?,
            }));
        }
        let (digits, odd) = rest.as_chunks::<4>();
        sum.digits = digits
            .iter()
            .map(|d| u32::from_le_bytes(*d) as i64)
            .collect();
        if let Some(last) = sum.digits.last_mut() {
            *last = *last as i32 as i64;
        }
        odd.is_empty().then_some(sum)
    }
}

/// The float nearest to the number with these digits from digit place `base` on.
fn round(digits: &[u32], base: usize) -> f64 {
    let Some(top) = digits.iter().rposition(|d| *d != 0) else {
        return 0.0;
    };
    // The top four digits, shifted so that the highest bit is set; the rest only says "more than that".
    let mut window = 0u128;
    for i in 0..4 {
        let digit = top.checked_sub(i).map_or(0, |at| digits[at]);
        window = window << DIGIT_BITS | digit as u128;
    }
    let rest = digits[..top.saturating_sub(3)].iter().any(|d| *d != 0);
    let zeros = window.leading_zeros() as usize;
    window <<= zeros;
    // Place of the highest bit, from 2^-1074.
    let place = (base + top) * DIGIT_BITS + (DIGIT_BITS - 1 - zeros);
    if place < 53 {
        // Below the second binade floats are just their bits.
        return f64::from_bits((window >> (127 - place)) as u64);
    }
    let mantissa = (window >> 75) as u64;
    let half = window >> 74 & 1 == 1;
    let sticky = rest || window & ((1 << 74) - 1) != 0;
    let up = half && (sticky || mantissa & 1 == 1);
    let bits = ((place as u64 - 51) << 52) + (mantissa - (1 << 52)) + up as u64;
    if bits >> 52 >= 0x7ff {
        f64::INFINITY
    } else {
        f64::from_bits(bits)
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, seq::SliceRandom};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn float(rng: &mut ChaCha8Rng) -> f64 {
        loop {
            let v = match rng.random_range(0..4) {
                0 => f64::from_bits(rng.random()),
                1 => rng.random_range(-1e6..1e6),
                2 => f64::from_bits(rng.random_range(0..1 << 54)),
                _ => rng.random_range(-5..5) as f64 * 0.1,
            };
            if v.is_finite() {
                return v;
            }
        }
    }

    #[test]
    fn one_value_comes_back() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for _ in 0..20_000 {
            let v = float(&mut rng);
            let mut s = ExactSum::default();
            s.add(v, 1);
            assert_eq!(s.value(), v);
            let back = ExactSum::from_bytes(&s.to_bytes()).unwrap();
            assert_eq!(back.value(), v);
            s.add(v, -1);
            s.trim();
            assert_eq!(s, ExactSum::default());
        }
    }

    #[test]
    fn order_and_detours_do_not_matter() {
        for seed in 0..200 {
            println!("seed {seed}");
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let kept: Vec<(f64, i64)> = (0..rng.random_range(1..30))
                .map(|_| (float(&mut rng), rng.random_range(1..4)))
                .collect();
            let mut all: Vec<(f64, i64)> = kept.clone();
            for _ in 0..rng.random_range(0..30) {
                let v = (
                    float(&mut rng),
                    rng.random_range(-1_000_000_000_000..1_000_000_000_000),
                );
                all.push(v);
                all.push((v.0, -v.1));
            }
            all.shuffle(&mut rng);
            let mut a = ExactSum::default();
            let mut b = ExactSum::default();
            for (v, n) in &kept {
                (0..*n).for_each(|_| a.add(*v, 1));
            }
            for (i, (v, n)) in all.iter().enumerate() {
                if i % 3 == 0 {
                    let mut c = ExactSum::default();
                    c.add(*v, *n);
                    b.merge(&c);
                } else {
                    b.add(*v, *n);
                }
            }
            a.trim();
            b.trim();
            assert_eq!(a, b);
            assert_eq!(ExactSum::from_bytes(&b.to_bytes()).unwrap(), a);
        }
    }

    #[test]
    fn rounds_once() {
        let sum = |values: &[f64]| {
            let mut s = ExactSum::default();
            values.iter().for_each(|v| s.add(*v, 1));
            s.value()
        };
        assert_eq!(sum(&[1e16, 1.0, -1e16]), 1.0);
        assert_eq!(sum(&[0.1; 10]), 1.0);
        assert_eq!(sum(&[1e308, 1e308, -1e308]), 1e308);
        assert_eq!(sum(&[9007199254740992.0, 1.0]), 9007199254740992.0);
        assert_eq!(sum(&[9007199254740992.0, 1.0, 1e-300]), 9007199254740994.0);
        assert_eq!(sum(&[9007199254740992.0, 3.0]), 9007199254740996.0);
        assert_eq!(
            sum(&[f64::MIN_POSITIVE, -5e-324]),
            f64::MIN_POSITIVE - 5e-324
        );
        assert!(sum(&[f64::INFINITY, f64::NEG_INFINITY]).is_nan());
        assert_eq!(sum(&[f64::INFINITY, 1.0]), f64::INFINITY);
        let mut s = ExactSum::default();
        s.add(f64::MAX, 2);
        assert!(s.overflows());
        s.add(f64::NAN, 1);
        s.add(f64::NAN, -1);
        s.add(f64::MAX, -1);
        s.trim();
        assert_eq!(s.value(), f64::MAX);
    }
}
