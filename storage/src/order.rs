//! Order by key hash: positions of rows in source blocks, sorted by (hash, source, row).
//!
//! Hashes are spread evenly over a range, so one scatter into about as many buckets as there are
//! entries leaves almost nothing to sort; skewed input falls back to a comparison sort per bucket.

/// A row of a source block, with its key hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub hash: u64,
    /// Index of the block in the list of sources; later sources are newer.
    pub source: u32,
    pub row: u32,
}

const SMALL: usize = 64;
const BUCKETS_MAX_BITS: u32 = 16;

/// Sorts by hash, keeping the order of entries with equal hashes.
pub(crate) fn sort_by_hash(entries: &mut Vec<Entry>) {
    Sorter::default().sort(entries);
}

/// [`sort_by_hash`] with memory that is used again.
#[derive(Default)]
pub(crate) struct Sorter {
    starts: Vec<u32>,
    out: Vec<Entry>,
}

impl Sorter {
    pub(crate) fn sort(&mut self, entries: &mut Vec<Entry>) {
        let n = entries.len();
        if entries.windows(2).all(|w| w[0].hash <= w[1].hash) {
            return;
        }
        if n <= SMALL {
            entries.sort_by_key(|e| e.hash);
            return;
        }
        let (mut low, mut high) = (u64::MAX, 0);
        for e in entries.iter() {
            low = low.min(e.hash);
            high = high.max(e.hash);
        }
        let bits = (usize::BITS - n.leading_zeros()).clamp(4, BUCKETS_MAX_BITS);
        let span_bits = u64::BITS - (high - low).leading_zeros();
        let shift = span_bits.saturating_sub(bits);
        let bucket = |hash: u64| ((hash - low) >> shift) as usize;
        let Sorter { starts, out } = self;
        starts.clear();
        starts.resize((1 << bits) + 1, 0);
        for e in entries.iter() {
            starts[bucket(e.hash) + 1] += 1;
        }
        for i in 1..starts.len() {
            starts[i] += starts[i - 1];
        }
        // What was in it before is written over.
        let nothing = Entry {
            hash: 0,
            source: 0,
            row: 0,
        };
        out.resize(n, nothing);
        for e in entries.iter() {
            let at = &mut starts[bucket(e.hash)];
            out[*at as usize] = *e;
            *at += 1;
        }
        // After the scatter `starts[b]` is the end of bucket `b`.
        let mut from = 0usize;
        for end in starts.iter().take(1 << bits) {
            let end = *end as usize;
            match end - from {
                0 | 1 => {}
                2 => {
                    if out[from].hash > out[from + 1].hash {
                        out.swap(from, from + 1);
                    }
                }
                _ => out[from..end].sort_by_key(|e| e.hash),
            }
            from = end;
        }
        std::mem::swap(entries, out);
    }
}

/// The first position at or after `from` in the ascending `hashes` whose hash is at least `hash`,
/// found by steps that double: cheap when it is near.
pub(crate) fn seek(hashes: &[u64], from: usize, hash: u64) -> usize {
    // Invariant: everything before `low` is smaller than `hash`.
    let mut low = from;
    let mut step = 1;
    while low + step <= hashes.len() && hashes[low + step - 1] < hash {
        low += step;
        step *= 2;
    }
    let high = (low + step).min(hashes.len());
    low + hashes[low..high].partition_point(|h| *h < hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};

    #[test]
    fn sorts_like_a_stable_sort() {
        let seed = 7;
        println!("seed {seed}");
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let mut sorter = Sorter::default();
        for round in 0..200 {
            let n = rng.random_range(0..3000);
            let spread: u64 = match round % 4 {
                0 => u64::MAX,
                1 => 10,
                2 => 1,
                _ => 1 << 40,
            };
            let base = rng.random_range(0..=u64::MAX - spread);
            let mut entries: Vec<Entry> = (0..n)
                .map(|i| Entry {
                    hash: base + rng.random_range(0..=spread),
                    source: 0,
                    row: i as u32,
                })
                .collect();
            let mut expected = entries.clone();
            expected.sort_by_key(|e| e.hash);
            sorter.sort(&mut entries);
            assert_eq!(entries, expected);
        }
    }

    #[test]
    fn seek_is_partition_point() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(8);
        for _ in 0..500 {
            let n = rng.random_range(0..50);
            let mut hashes: Vec<u64> = (0..n).map(|_| rng.random_range(0..60)).collect();
            hashes.sort_unstable();
            let from = rng.random_range(0..=n);
            let hash = rng.random_range(0..62);
            let expected = from + hashes[from..].partition_point(|h| *h < hash);
            assert_eq!(seek(&hashes, from, hash), expected);
        }
    }
}
