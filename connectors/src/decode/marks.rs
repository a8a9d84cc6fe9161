//! Finds line ends, delimiters and quotes, 64 bytes at a time.
//!
//! Invariant: [`Marks::next`] gives every position of one of the three bytes, in order, once.

/// Positions found ahead of their use, and room for those of one more step.
const AHEAD: usize = 1024;
/// Bytes looked at in one step.
const STEP_BYTES: usize = 64;
/// Positions of a step that are put down together.
const AT_ONCE: usize = 4;

/// A stream of positions over one chunk.
pub struct Marks {
    positions: Box<[u32; AHEAD + STEP_BYTES]>,
    len: usize,
    next: usize,
    scanned: usize,
    wanted: [u8; 3],
}

impl Marks {
    /// Looks for `a`, `b` and `c` (which may be equal).
    pub fn new(a: u8, b: u8, c: u8) -> Self {
        Marks {
            positions: Box::new([0; AHEAD + STEP_BYTES]),
            len: 0,
            next: 0,
            scanned: 0,
            wanted: [a, b, c],
        }
    }

    /// Starts over at `from`.
    pub fn seek(&mut self, from: usize) {
        self.len = 0;
        self.next = 0;
        self.scanned = from;
    }

    /// Goes on behind `from`, keeping what is known.
    pub fn skip_to(&mut self, from: usize) {
        while self.next < self.len {
            if self.positions[self.next] as usize >= from {
                return;
            }
            self.next += 1;
        }
        self.scanned = self.scanned.max(from);
    }

    /// The next position in `bytes`, which must be the same as in the last call.
    #[inline]
    pub fn next(&mut self, bytes: &[u8]) -> Option<usize> {
        if self.next == self.len && !self.refill(bytes) {
            return None;
        }
        let p = self.positions[self.next];
        self.next += 1;
        Some(p as usize)
    }

    /// The next `n` positions, fewer if there are no more or if `n` is more than are kept at once. They stay the next ones until
    /// [`pass`](Self::pass) says otherwise. `bytes` as in [`next`](Self::next).
    #[inline]
    pub fn ahead(&mut self, bytes: &[u8], n: usize) -> &[u32] {
        if self.len - self.next < n {
            self.positions.copy_within(self.next..self.len, 0);
            self.len -= self.next;
            self.next = 0;
            self.find(bytes);
        }
        let until = self.len.min(self.next + n);
        &self.positions[self.next..until]
    }

    /// Passes over the next `n` positions, which [`ahead`](Self::ahead) gave.
    #[inline]
    pub fn pass(&mut self, n: usize) {
        self.next += n;
    }

    fn refill(&mut self, bytes: &[u8]) -> bool {
        self.len = 0;
        self.next = 0;
        self.find(bytes);
        self.len > 0
    }

    #[cfg(target_arch = "x86_64")]
    fn find(&mut self, bytes: &[u8]) {
        let wanted = self.wanted;
        if is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("popcnt")
        {
            // SAFETY: the processor has what the function is compiled for.
            unsafe { self.find_wide(bytes) }
        } else {
            self.find_with(bytes, |step| mask_of(step, wanted));
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn find(&mut self, bytes: &[u8]) {
        let wanted = self.wanted;
        self.find_with(bytes, |step| mask_of(step, wanted));
    }

    /// [`find_with`](Self::find_with) compiled for processors with these features, which nearly all have.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,bmi1,popcnt")]
    fn find_wide(&mut self, bytes: &[u8]) {
        let wanted = self.wanted;
        self.find_with(bytes, |step| wide_mask_of(step, wanted));
    }

    /// Fills `positions` from where the last call ended; bit i of `mask` says that byte i of a step is wanted.
    #[inline(always)]
    fn find_with(&mut self, bytes: &[u8], mask: impl Fn(&[u8; STEP_BYTES]) -> u64) {
        while self.len < AHEAD && self.scanned < bytes.len() {
            let at = self.scanned;
            let rest = &bytes[at..];
            let Some(step) = rest.first_chunk::<STEP_BYTES>() else {
                for (i, b) in rest.iter().enumerate() {
                    if self.wanted.contains(b) {
                        self.positions[self.len] = (at + i) as u32;
                        self.len += 1;
                    }
                }
                self.scanned = bytes.len();
                return;
            };
            let mut mask = mask(step);
            let found = mask.count_ones() as usize;
            let out = &mut self.positions[self.len..];
            // Some too many cost less than a branch at each one.
            let mut put = 0;
            while put < found {
                for place in &mut out[put..put + AT_ONCE] {
                    *place = at as u32 + mask.trailing_zeros();
                    mask &= mask.wrapping_sub(1);
                }
                put += AT_ONCE;
            }
            self.len += found;
            self.scanned += STEP_BYTES;
        }
    }
}

/// Bit i: byte i is wanted.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn wide_mask_of(step: &[u8; STEP_BYTES], wanted: [u8; 3]) -> u64 {
    use std::arch::x86_64::*;
    let [a, b, c] = wanted.map(|byte| _mm256_set1_epi8(byte as i8));
    let half = |from: usize| {
        // SAFETY: an unaligned load of 32 bytes within `step`.
        let v = unsafe { _mm256_loadu_si256(step[from..from + 32].as_ptr().cast()) };
        let hit = _mm256_or_si256(
            _mm256_or_si256(_mm256_cmpeq_epi8(v, a), _mm256_cmpeq_epi8(v, b)),
            _mm256_cmpeq_epi8(v, c),
        );
        u64::from(_mm256_movemask_epi8(hit) as u32)
    };
    half(0) | half(32) << 32
}

/// Bit i: byte i is wanted.
#[cfg(target_arch = "x86_64")]
#[inline]
fn mask_of(step: &[u8; STEP_BYTES], wanted: [u8; 3]) -> u64 {
    use std::arch::x86_64::*;
    // SAFETY: SSE2 is part of x86-64; the loads are unaligned ones within `step`.
    unsafe {
        let a = _mm_set1_epi8(wanted[0] as i8);
        let b = _mm_set1_epi8(wanted[1] as i8);
        let c = _mm_set1_epi8(wanted[2] as i8);
        let mut mask = 0u64;
        for lane in 0..STEP_BYTES / 16 {
            let v = _mm_loadu_si128(step.as_ptr().add(lane * 16).cast());
            let hit = _mm_or_si128(
                _mm_or_si128(_mm_cmpeq_epi8(v, a), _mm_cmpeq_epi8(v, b)),
                _mm_cmpeq_epi8(v, c),
            );
            mask |= (_mm_movemask_epi8(hit) as u32 as u64) << (lane * 16);
        }
        mask
    }
}

/// Bit i: byte i is wanted.
#[cfg(not(target_arch = "x86_64"))]
#[inline]
fn mask_of(step: &[u8; STEP_BYTES], wanted: [u8; 3]) -> u64 {
    let mut mask = 0u64;
    for (i, b) in step.iter().enumerate() {
        let hit = *b == wanted[0] || *b == wanted[1] || *b == wanted[2];
        mask |= (hit as u64) << i;
    }
    mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_a_plain_loop_finds() {
        let mut x = 12345u32;
        for len in [0, 1, 63, 64, 65, 1000, 5000] {
            let bytes: Vec<u8> = (0..len)
                .map(|_| {
                    x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    b"ab,\"\nz"[(x >> 24) as usize % 6]
                })
                .collect();
            let want: Vec<usize> = (0..len).filter(|i| b",\"\n".contains(&bytes[*i])).collect();
            let mut marks = Marks::new(b'\n', b',', b'"');
            marks.seek(0);
            let got: Vec<usize> = std::iter::from_fn(|| marks.next(&bytes)).collect();
            assert_eq!(got, want, "length {len}");
            marks.seek(0);
            let mut got: Vec<usize> = Vec::new();
            loop {
                let n = 1 + got.len() % 9;
                let ahead = marks.ahead(&bytes, n).to_vec();
                assert_eq!(ahead, marks.ahead(&bytes, n));
                got.extend(ahead.iter().map(|p| *p as usize));
                marks.pass(ahead.len());
                if ahead.len() < n {
                    break;
                }
                got.extend(marks.next(&bytes));
            }
            assert_eq!(got, want, "several at once, length {len}");
            marks.seek(0);
            marks.next(&bytes);
            marks.skip_to(len / 2);
            let rest: Vec<usize> = std::iter::from_fn(|| marks.next(&bytes)).collect();
            let want: Vec<usize> = want.into_iter().skip(1).filter(|p| *p >= len / 2).collect();
            assert_eq!(rest, want, "skipping, length {len}");
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn both_masks_are_the_same() {
        let has_wide = is_x86_feature_detected!("avx2");
        let wanted = [b'\n', b',', 0xff];
        for byte in 0..=u8::MAX {
            for at in 0..STEP_BYTES {
                let mut step = [b'x'; STEP_BYTES];
                step[at] = byte;
                step[63 - at] = b',';
                let plain = (0..STEP_BYTES).filter(|i| wanted.contains(&step[*i]));
                let plain = plain.fold(0u64, |mask, i| mask | 1 << i);
                assert_eq!(mask_of(&step, wanted), plain);
                if has_wide {
                    // SAFETY: the processor has AVX2.
                    assert_eq!(unsafe { wide_mask_of(&step, wanted) }, plain);
                }
            }
        }
    }
}
