//! Finds line ends, delimiters and quotes, 64 bytes at a time.
//!
//! Invariant: [`Marks::next`] gives every position of one of the three bytes, in order, once.

/// Positions found ahead of their use, and room for those of one more step.
const AHEAD: usize = 1024;
/// Bytes looked at in one step.
const STEP_BYTES: usize = 64;

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

    fn refill(&mut self, bytes: &[u8]) -> bool {
        self.len = 0;
        self.next = 0;
        while self.len < AHEAD && self.scanned < bytes.len() {
            let at = self.scanned;
            match bytes.get(at..at + STEP_BYTES) {
                Some(step) => {
                    let step: &[u8; STEP_BYTES] = step.try_into().expect("its length");
                    let mut mask = mask_of(step, self.wanted);
                    while mask != 0 {
                        self.positions[self.len] = at as u32 + mask.trailing_zeros();
                        self.len += 1;
                        mask &= mask - 1;
                    }
                    self.scanned += STEP_BYTES;
                }
                None => {
                    for (i, b) in bytes[at..].iter().enumerate() {
                        if self.wanted.contains(b) {
                            self.positions[self.len] = (at + i) as u32;
                            self.len += 1;
                        }
                    }
                    self.scanned = bytes.len();
                }
            }
        }
        self.len > 0
    }
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
            marks.next(&bytes);
            marks.skip_to(len / 2);
            let rest: Vec<usize> = std::iter::from_fn(|| marks.next(&bytes)).collect();
            let want: Vec<usize> = want.into_iter().skip(1).filter(|p| *p >= len / 2).collect();
            assert_eq!(rest, want, "skipping, length {len}");
        }
    }
}
