//! [`Unindexed`]: rows of one side of a join for whose keys nobody has asked yet.
//!
//! To index a row costs a hundred times what it costs to compare its hash, and most of a join's memory; a join of many rows
//! with the largest of each group asks for a few keys of a million. So rows whose keys the other side doesn't have stay in the
//! batches they came in, and a key that turns up later is looked for among all their hashes.
//!
//! That never costs more than a few times what the index would have cost, whatever keys come ("ski rental": Karlin, Manasse,
//! Rudolph and Sleator, Competitive Snoopy Caching, 1988): with each search one more part of the hashes, which is a
//! part of the keys too, gets indexed for good, so that after [`PARTS`] searches none is left.
//!
//! Invariant: rows that are here have keys without a slot. All rows that share a hash leave together.

use arrow::array::UInt32Array;
use arrow::datatypes::SchemaRef;
use hashbrown::HashSet;
use tidemill_zset::{Delta, Diffs};

use super::join_rows::{BLOCK_ROWS, memory_bytes, without_waste};

/// Parts of the hashes, of which each search moves one to the index.
const PARTS: u64 = 128;
/// Rows here per wanted key up to which everything is indexed at once: so many would be found, or looked for again and again.
const WANTED_SHARE: usize = 128;
/// Bits of the filter that is asked before the set of wanted hashes, per wanted hash.
const FILTER_BITS: usize = 64;
const FILTER_BITS_MIN: usize = 1 << 12;
const FILTER_BITS_MAX: usize = 1 << 20;
/// Retractions that are left here, and a quarter of the rows if that is more.
const RETRACTIONS_MIN: usize = 16 * 1024;
/// Blocks of fewer rows than this are put together.
const SMALL_BLOCK: usize = 1024;

/// How many rows may stay without an index.
#[derive(Clone, Copy, Debug)]
pub struct UnindexedLimits {
    /// Rows of a side that are looked through in one search; when there are more, all are indexed, and those that come later too.
    pub rows_max: usize,
}

impl Default for UnindexedLimits {
    fn default() -> Self {
        UnindexedLimits { rows_max: 2 << 20 }
    }
}

/// Rows on their way into the index.
pub struct Leaving {
    /// At most [`BLOCK_ROWS`] rows.
    pub delta: Delta,
    /// Hash of each row's key.
    pub hashes: Vec<u64>,
    /// The owner's step in which they came; for rows of several, the latest.
    pub step: u32,
}

struct Block {
    delta: Delta,
    hashes: Vec<u64>,
    step: u32,
    /// Rows that have left; empty: none has.
    gone: Vec<bool>,
    /// Rows that are here.
    rows: usize,
}

/// See the module.
pub struct Unindexed {
    schema: SchemaRef,
    limits: UnindexedLimits,
    blocks: Vec<Block>,
    rows: usize,
    bytes: usize,
    /// Rows that came with a negative diff, since the last time that none was here.
    retractions: usize,
    /// Parts of the hashes that have been indexed.
    parts_done: u64,
}

impl Unindexed {
    /// No rows yet, of `schema`.
    pub fn new(schema: SchemaRef, limits: UnindexedLimits) -> Self {
        Unindexed {
            schema,
            limits,
            blocks: Vec::new(),
            rows: 0,
            bytes: 0,
            retractions: 0,
            parts_done: 0,
        }
    }

    /// True if no row is here.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Approximate bytes of memory.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// True once everything is indexed, and will be.
    pub fn is_closed(&self) -> bool {
        self.parts_done == PARTS
    }

    /// Marks the rows that may not stay: those for whose keys `has_slot`, and those of the parts that are indexed.
    pub fn to_index(&self, hashes: &[u64], has_slot: impl Fn(u64) -> bool) -> Vec<bool> {
        let done = self.parts_done;
        hashes
            .iter()
            .map(|h| part(*h) < done || has_slot(*h))
            .collect()
    }

    /// Keeps the rows of `delta` (at most [`BLOCK_ROWS`]) that aren't `gone`.
    pub fn push(&mut self, delta: Delta, hashes: Vec<u64>, gone: Vec<bool>, step: u32) {
        let rows = gone.iter().filter(|g| !**g).count();
        let delta = Delta::new(without_waste(&delta.rows), delta.diffs);
        self.rows += rows;
        self.bytes += bytes_of(&delta);
        if let Diffs::Each(diffs) = &delta.diffs {
            let negative = diffs
                .iter()
                .zip(&gone)
                .filter(|(d, gone)| **d < 0 && !**gone);
            self.retractions += negative.count();
        }
        self.blocks.push(Block {
            gone: if rows == hashes.len() {
                Vec::new()
            } else {
                gone
            },
            delta,
            hashes,
            step,
            rows,
        });
        self.merge_small();
    }

    /// Puts small blocks together, as often as they double.
    fn merge_small(&mut self) {
        while let [.., a, b] = &self.blocks[..] {
            let (rows, last) = (a.hashes.len() + b.hashes.len(), b.hashes.len());
            if last >= SMALL_BLOCK || a.hashes.len() >= 2 * last || rows > BLOCK_ROWS {
                return;
            }
            let [a, b] = [a, b].map(|block| block.part(&block.here()));
            let deltas = [&a.delta, &b.delta].map(Delta::clone);
            let delta = Delta::concat(&self.schema, &deltas).expect("pieces of one schema");
            let (hashes, rows) = ([a.hashes, b.hashes].concat(), delta.len());
            for block in self.blocks.drain(self.blocks.len() - 2..) {
                self.bytes = self.bytes.saturating_sub(bytes_of(&block.delta));
            }
            self.bytes += bytes_of(&delta);
            self.blocks.push(Block {
                delta,
                hashes,
                step: b.step,
                gone: Vec::new(),
                rows,
            });
        }
    }

    /// True if so many rows are here that looking through them takes too long.
    pub fn is_full(&self) -> bool {
        self.rows > self.limits.rows_max
    }

    /// Takes out all rows, and lets none in again.
    pub fn close(&mut self) -> Vec<Leaving> {
        self.parts_done = PARTS;
        self.take_all()
    }

    /// Takes out all rows if many of them take others back: the index adds up equal rows.
    pub fn settle(&mut self) -> Vec<Leaving> {
        match self.retractions > RETRACTIONS_MIN.max(self.rows / 4) {
            true => self.take_all(),
            false => Vec::new(),
        }
    }

    fn take_all(&mut self) -> Vec<Leaving> {
        (self.rows, self.bytes, self.retractions) = (0, 0, 0);
        let whole = |block: Block| {
            if block.gone.is_empty() {
                let Block {
                    delta,
                    hashes,
                    step,
                    ..
                } = block;
                return Leaving {
                    delta,
                    hashes,
                    step,
                };
            }
            block.part(&block.here())
        };
        let blocks = std::mem::take(&mut self.blocks);
        blocks
            .into_iter()
            .filter(|b| b.rows > 0)
            .map(whole)
            .collect()
    }

    /// Takes out all rows with one of the hashes, and those of one more part.
    pub fn search(&mut self, hashes: impl Iterator<Item = u64>) -> Vec<Leaving> {
        let wanted: Vec<u64> = match self.is_empty() {
            true => Vec::new(),
            // The others aren't here.
            false => hashes.filter(|h| part(*h) >= self.parts_done).collect(),
        };
        if wanted.is_empty() {
            return Vec::new();
        }
        if wanted.len() * WANTED_SHARE >= self.rows {
            return self.take_all();
        }
        let next_part = self.parts_done;
        self.parts_done += 1;
        let wanted = Wanted::new(&wanted);
        let (mut found, mut rows) = (Vec::new(), Vec::new());
        for block in &mut self.blocks {
            rows.resize(block.hashes.len(), 0);
            let mut candidates = 0;
            // Without a branch per row: nearly all are passed over.
            for (row, hash) in block.hashes.iter().enumerate() {
                rows[candidates] = row as u32;
                let is_one = (part(*hash) == next_part) | wanted.may_contain(*hash);
                candidates += usize::from(is_one);
            }
            rows.truncate(candidates);
            rows.retain(|row| {
                let hash = block.hashes[*row as usize];
                let is_one = part(hash) == next_part || wanted.hashes.contains(&hash);
                is_one && !block.gone.get(*row as usize).is_some_and(|gone| *gone)
            });
            if !rows.is_empty() {
                block.mark(&rows);
                self.rows -= rows.len();
                found.push(block.part(&rows));
            }
        }
        self.drop_empty();
        merged(&self.schema, found)
    }

    fn drop_empty(&mut self) {
        let bytes = &mut self.bytes;
        self.blocks.retain(|block| {
            if block.rows == 0 {
                *bytes = bytes.saturating_sub(bytes_of(&block.delta));
            }
            block.rows > 0
        });
    }
}

/// Of rows, diffs and hashes.
fn bytes_of(delta: &Delta) -> usize {
    let diffs = match &delta.diffs {
        Diffs::Ones => 0,
        Diffs::Each(_) => 8,
    };
    memory_bytes(&delta.rows) + delta.len() * (8 + diffs)
}

impl Block {
    fn mark(&mut self, rows: &[u32]) {
        self.gone.resize(self.hashes.len(), false);
        for row in rows {
            self.gone[*row as usize] = true;
        }
        self.rows -= rows.len();
    }

    /// The numbers of the rows that haven't left.
    fn here(&self) -> Vec<u32> {
        let gone = |row: &u32| self.gone.get(*row as usize).is_some_and(|gone| *gone);
        (0..self.hashes.len() as u32)
            .filter(|row| !gone(row))
            .collect()
    }

    fn part(&self, rows: &[u32]) -> Leaving {
        let hashes = rows.iter().map(|row| self.hashes[*row as usize]).collect();
        let rows = UInt32Array::from(rows.to_vec());
        Leaving {
            delta: self.delta.take(&rows).expect("rows of the block"),
            hashes,
            step: self.step,
        }
    }
}

/// Small pieces put together, up to [`BLOCK_ROWS`] rows each.
fn merged(schema: &SchemaRef, pieces: Vec<Leaving>) -> Vec<Leaving> {
    let mut all = Vec::new();
    let mut rest = pieces.into_iter().peekable();
    while let Some(Leaving {
        delta,
        mut hashes,
        mut step,
    }) = rest.next()
    {
        let mut deltas = vec![delta];
        while let Some(next) = rest.next_if(|n| hashes.len() + n.hashes.len() <= BLOCK_ROWS) {
            deltas.push(next.delta);
            hashes.extend(next.hashes);
            step = step.max(next.step);
        }
        let delta = Delta::concat(schema, &deltas).expect("pieces of one schema");
        all.push(Leaving {
            delta,
            hashes,
            step,
        });
    }
    all
}

/// The part of a hash: by other bits than those that name a worker's partition, or a bucket of a small table.
#[inline]
fn part(hash: u64) -> u64 {
    (hash >> 32) % PARTS
}

/// The hashes that are looked for, behind a filter that most others don't pass.
struct Wanted {
    hashes: HashSet<u64>,
    filter: Vec<u64>,
    bits: u64,
}

impl Wanted {
    fn new(hashes: &[u64]) -> Self {
        let bits = (hashes.len() * FILTER_BITS).next_power_of_two();
        let bits = bits.clamp(FILTER_BITS_MIN, FILTER_BITS_MAX);
        let mut filter = vec![0; bits / 64];
        let bits = bits as u64;
        for hash in hashes {
            let bit = hash & (bits - 1);
            filter[(bit / 64) as usize] |= 1 << (bit % 64);
        }
        Wanted {
            hashes: hashes.iter().copied().collect(),
            filter,
            bits,
        }
    }

    #[inline]
    fn may_contain(&self, hash: u64) -> bool {
        let bit = hash & (self.bits - 1);
        self.filter[(bit / 64) as usize] >> (bit % 64) & 1 == 1
    }
}
