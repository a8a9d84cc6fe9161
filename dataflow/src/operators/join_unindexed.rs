//! [`Unindexed`]: rows of one side of a join for whose keys nobody has asked yet.
//!
//! To index a row costs a hundred times what it costs to compare its hash, and most of a join's memory; a join of many rows
//! with the largest of each group asks for a few keys of millions. So rows whose keys the other side doesn't have stay in the
//! batches they came in. A key that turns up later is looked for among the hashes of its part: one of [`PARTS`].
//!
//! That never costs more than twice what the index would have cost, whatever keys come ("ski rental": Karlin, Manasse,
//! Rudolph and Sleator, Competitive Snoopy Caching, 1988): when comparisons have cost as much as it costs to index a part, that
//! part gets indexed for good.
//!
//! Invariants: rows that are here have keys without a slot. All rows that share a hash leave together. The parts before
//! `parts_done` are empty.

use std::collections::VecDeque;

use arrow::array::UInt32Array;
use arrow::datatypes::SchemaRef;
use hashbrown::HashSet;
use tidemill_zset::hash::hash_columns;
use tidemill_zset::{Delta, Diffs};

use super::join_rows::{BLOCK_ROWS, memory_bytes, without_waste};

/// Parts of the hashes.
const PARTS: usize = 256;
/// Rows here per wanted key up to which everything is indexed at once: so many would be found, or looked for again and again.
const WANTED_SHARE: usize = 128;
/// Comparisons that looking for one of several hashes at once stands for.
const LOOKUP_COST: usize = 4;
/// Retractions that are left here, and a quarter of the rows if that is more; and the parts that are moved at a time when there
/// are more, so that nobody waits for all of them.
const RETRACTIONS_MIN: usize = 16 * 1024;
const SETTLED_PARTS: usize = PARTS / 16;
/// Rows that a part is paid for as at least: while few rows are here, nothing is known of what will be asked for.
const PART_ROWS_MIN: usize = 64;
/// Rows of blocks of which less than a quarter is here, from which on that is worth an index.
const HELD_MIN: usize = 1 << 16;
/// Waiting pieces of fewer rows than this are put together.
const SMALL_PIECE: usize = 1024;
/// Blocks that have numbers.
const BLOCKS_MAX: usize = u32::MAX as usize / BLOCK_ROWS;
/// Bytes that a row takes besides its values.
const ROW_BYTES: usize = 8;

/// When rows without an index are moved.
#[derive(Clone, Copy, Debug)]
pub struct UnindexedLimits {
    /// Rows that wait, as they came, to be sorted into parts; at most [`BLOCK_ROWS`].
    pub waiting_rows_max: usize,
    /// What it costs to index a row, in comparisons of a hash.
    pub index_cost: usize,
}

impl Default for UnindexedLimits {
    fn default() -> Self {
        UnindexedLimits {
            waiting_rows_max: BLOCK_ROWS,
            index_cost: 100,
        }
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

impl Leaving {
    fn take(&self, rows: &[u32]) -> Leaving {
        Leaving {
            delta: taken(&self.delta, rows),
            hashes: rows.iter().map(|row| self.hashes[*row as usize]).collect(),
            step: self.step,
        }
    }
}

/// Rows that are found through their parts.
struct Block {
    delta: Delta,
    step: u32,
    /// Rows that have left; empty: none has.
    gone: Vec<bool>,
    /// Rows that are here.
    rows: usize,
}

/// The rows of all blocks whose hashes belong together: the low half of each hash, and the number of the block times
/// [`BLOCK_ROWS`] plus the place in it.
#[derive(Default)]
struct Part {
    tags: Vec<u32>,
    rows: Vec<u32>,
}

/// See the module.
pub struct Unindexed {
    schema: SchemaRef,
    key_columns: usize,
    limits: UnindexedLimits,
    /// Pieces that aren't sorted into parts yet.
    waiting: VecDeque<Leaving>,
    waiting_rows: usize,
    blocks: Vec<Block>,
    parts: Vec<Part>,
    rows: usize,
    bytes: usize,
    /// Rows with a negative diff.
    retractions: usize,
    /// The part that [`Unindexed::settle`] moves next.
    settling: usize,
    /// Rows of all blocks, those that have left too.
    held: usize,
    /// Parts that have been indexed.
    parts_done: usize,
    /// Comparisons that no part has been indexed for.
    compared: usize,
}

impl Unindexed {
    /// No rows yet, of `schema`, whose first `key_columns` columns are the key.
    pub fn new(schema: SchemaRef, key_columns: usize, limits: UnindexedLimits) -> Self {
        Unindexed {
            schema,
            key_columns,
            limits,
            waiting: VecDeque::new(),
            waiting_rows: 0,
            blocks: Vec::new(),
            parts: Vec::new(),
            rows: 0,
            bytes: 0,
            retractions: 0,
            settling: 0,
            held: 0,
            parts_done: 0,
            compared: 0,
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
    pub fn push(&mut self, delta: Delta, hashes: Vec<u64>, gone: &[bool], step: u32) {
        let mut piece = Leaving {
            delta,
            hashes,
            step,
        };
        if gone.contains(&true) {
            let here = (0..gone.len() as u32).filter(|row| !gone[*row as usize]);
            piece = piece.take(&here.collect::<Vec<_>>());
        }
        let rows = piece.hashes.len();
        if rows == 0 {
            return;
        }
        piece.delta = Delta::new(without_waste(&piece.delta.rows), piece.delta.diffs);
        self.rows += rows;
        self.bytes += bytes_of(&piece.delta);
        self.retractions += retractions(&piece.delta);
        if self.waiting_rows + rows > self.limits.waiting_rows_max {
            self.sort_waiting();
        }
        self.waiting_rows += rows;
        self.waiting.push_back(piece);
        self.merge_small();
        if self.waiting_rows >= self.limits.waiting_rows_max {
            self.sort_waiting();
        }
    }

    /// Puts small waiting pieces together, as often as they double.
    fn merge_small(&mut self) {
        while let [.., a, b] = self.waiting.make_contiguous() {
            let last = b.hashes.len();
            if last >= SMALL_PIECE || a.hashes.len() >= 2 * last {
                return;
            }
            let pieces: Vec<Leaving> = self.waiting.drain(self.waiting.len() - 2..).collect();
            let before: usize = pieces.iter().map(|p| bytes_of(&p.delta)).sum();
            let both = self.concat(pieces);
            self.bytes = (self.bytes + bytes_of(&both.delta)).saturating_sub(before);
            self.waiting.push_back(both);
        }
    }

    fn concat(&self, pieces: Vec<Leaving>) -> Leaving {
        let step = pieces.iter().map(|p| p.step).max().unwrap_or(0);
        let (mut deltas, mut hashes) = (Vec::new(), Vec::new());
        for piece in pieces {
            deltas.push(piece.delta);
            hashes.extend(piece.hashes);
        }
        let delta = Delta::concat(&self.schema, &deltas).expect("pieces of one schema");
        Leaving {
            delta,
            hashes,
            step,
        }
    }

    /// Makes what waits a block, and sorts its rows into their parts.
    fn sort_waiting(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let pieces: Vec<Leaving> = std::mem::take(&mut self.waiting).into();
        self.waiting_rows = 0;
        let before: usize = pieces.iter().map(|p| bytes_of(&p.delta)).sum();
        let Leaving {
            delta,
            hashes,
            step,
        } = match <[Leaving; 1]>::try_from(pieces) {
            Ok([piece]) => piece,
            Err(pieces) => self.concat(pieces),
        };
        self.bytes = (self.bytes + bytes_of(&delta)).saturating_sub(before);
        self.parts.resize_with(PARTS, Part::default);
        let first = (self.blocks.len() * BLOCK_ROWS) as u32;
        for (row, hash) in hashes.iter().enumerate() {
            let part = &mut self.parts[part(*hash)];
            part.tags.push(tag(*hash));
            part.rows.push(first + row as u32);
        }
        self.held += hashes.len();
        self.blocks.push(Block {
            delta,
            step,
            gone: Vec::new(),
            rows: hashes.len(),
        });
    }

    /// True if no further block would have a number.
    pub fn is_full(&self) -> bool {
        self.blocks.len() >= BLOCKS_MAX
    }

    /// Takes out all rows, and lets none in again.
    pub fn close(&mut self) -> Vec<Leaving> {
        self.parts_done = PARTS;
        self.take_all()
    }

    /// Takes out some rows if many of all take others back: the index adds up equal rows.
    pub fn settle(&mut self) -> Vec<Leaving> {
        if self.retractions <= RETRACTIONS_MIN.max(self.rows / 4) {
            return Vec::new();
        }
        let settled = self.settling..self.settling + SETTLED_PARTS;
        self.settling = settled.end % PARTS;
        let parts = self.parts.get_mut(settled.clone()).unwrap_or_default();
        let rows = parts.iter_mut().map(|part| std::mem::take(part).rows);
        let rows: Vec<u32> = rows.flatten().collect();
        let mut found = self.take_rows(rows);
        found.extend(self.take_waiting(|hash| settled.contains(&part(hash))));
        self.leave(found)
    }

    /// Notes what has been taken out, and everything else if that isn't worth its place any more.
    fn leave(&mut self, mut found: Vec<Leaving>) -> Vec<Leaving> {
        for Leaving { delta, .. } in &found {
            self.rows -= delta.len();
            self.retractions -= retractions(delta);
        }
        if self.rows == 0 || self.held > HELD_MIN && self.rows < self.held / 4 {
            found.extend(self.take_all());
        }
        merged(&self.schema, found)
    }

    fn take_all(&mut self) -> Vec<Leaving> {
        (self.rows, self.bytes, self.retractions, self.held) = (0, 0, 0, 0);
        self.parts = Vec::new();
        let blocks = std::mem::take(&mut self.blocks);
        let blocks = blocks.into_iter().filter(|b| b.rows > 0);
        let mut all: Vec<Leaving> = blocks
            .map(|b| b.part(&b.here(), self.key_columns))
            .collect();
        self.waiting_rows = 0;
        all.extend(self.waiting.drain(..));
        all
    }

    /// Takes out all rows with one of the hashes, and those of further parts that are due.
    pub fn search(&mut self, hashes: impl Iterator<Item = u64>) -> Vec<Leaving> {
        let mut wanted: Vec<u64> = match self.is_empty() {
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
        if self.waiting_rows >= SMALL_PIECE {
            self.sort_waiting();
        }
        wanted.sort_unstable_by_key(|hash| (part(*hash), *hash));
        wanted.dedup();
        let mut rows = Vec::new();
        if !self.parts.is_empty() {
            for wanted in wanted.chunk_by(|a, b| part(*a) == part(*b)) {
                let part = &mut self.parts[part(wanted[0])];
                let cost = if wanted.len() == 1 { 1 } else { LOOKUP_COST };
                self.compared += cost * part.rows.len();
                part.find(wanted, &mut rows);
            }
        }
        self.compared += LOOKUP_COST * self.waiting_rows;
        let done = self.parts_done;
        self.take_due_parts(&mut rows);
        let mut found = self.take_rows(rows);
        let wanted: HashSet<_> = wanted.iter().map(|h| (part(*h), tag(*h))).collect();
        let due = done..self.parts_done;
        let leaves = |hash| due.contains(&part(hash)) || wanted.contains(&(part(hash), tag(hash)));
        found.extend(self.take_waiting(leaves));
        self.leave(found)
    }

    /// Empties the parts that have been paid for, and appends the numbers of their rows.
    fn take_due_parts(&mut self, rows: &mut Vec<u32>) {
        while self.parts_done < PARTS {
            let waiting = self.waiting_rows / PARTS;
            let sorted = self.parts.get(self.parts_done).map_or(0, |p| p.rows.len());
            let cost = (sorted + waiting).max(PART_ROWS_MIN) * self.limits.index_cost;
            if self.compared < cost {
                return;
            }
            self.compared -= cost;
            if let Some(part) = self.parts.get_mut(self.parts_done) {
                rows.extend(std::mem::take(part).rows);
            }
            self.parts_done += 1;
        }
    }

    /// The rows with these numbers, which have left their parts.
    fn take_rows(&mut self, mut rows: Vec<u32>) -> Vec<Leaving> {
        rows.sort_unstable();
        let block = |row: &u32| *row as usize / BLOCK_ROWS;
        let mut found = Vec::new();
        for rows in rows.chunk_by(|a, b| block(a) == block(b)) {
            let at = block(&rows[0]);
            let places = rows.iter().map(|row| row % BLOCK_ROWS as u32);
            let places: Vec<u32> = places.collect();
            let block = &mut self.blocks[at];
            block.mark(&places);
            found.push(block.part(&places, self.key_columns));
            if block.rows == 0 {
                self.bytes = self.bytes.saturating_sub(bytes_of(&block.delta));
                block.delta = Delta::empty(self.schema.clone());
                block.gone = Vec::new();
            }
        }
        found
    }

    /// Takes out the waiting rows whose hashes are wanted.
    fn take_waiting(&mut self, wanted: impl Fn(u64) -> bool) -> Vec<Leaving> {
        let mut found = Vec::new();
        for piece in std::mem::take(&mut self.waiting) {
            let all = 0..piece.hashes.len() as u32;
            let (leaving, staying): (Vec<u32>, Vec<u32>) =
                all.partition(|row| wanted(piece.hashes[*row as usize]));
            if leaving.is_empty() {
                self.waiting.push_back(piece);
                continue;
            }
            self.waiting_rows -= leaving.len();
            self.bytes = self.bytes.saturating_sub(bytes_of(&piece.delta));
            found.push(piece.take(&leaving));
            if !staying.is_empty() {
                let piece = piece.take(&staying);
                self.bytes += bytes_of(&piece.delta);
                self.waiting.push_back(piece);
            }
        }
        found
    }
}

/// Of rows, diffs and what finds them.
fn bytes_of(delta: &Delta) -> usize {
    let diffs = match &delta.diffs {
        Diffs::Ones => 0,
        Diffs::Each(_) => 8,
    };
    memory_bytes(&delta.rows) + delta.len() * (ROW_BYTES + diffs)
}

fn retractions(delta: &Delta) -> usize {
    match &delta.diffs {
        Diffs::Ones => 0,
        Diffs::Each(diffs) => diffs.iter().filter(|d| **d < 0).count(),
    }
}

fn taken(delta: &Delta, rows: &[u32]) -> Delta {
    let rows = UInt32Array::from(rows.to_vec());
    delta.take(&rows).expect("rows of the delta")
}

impl Block {
    fn mark(&mut self, rows: &[u32]) {
        self.gone.resize(self.delta.len(), false);
        for row in rows {
            self.gone[*row as usize] = true;
        }
        self.rows -= rows.len();
    }

    /// The numbers of the rows that haven't left.
    fn here(&self) -> Vec<u32> {
        let gone = |row: &u32| self.gone.get(*row as usize).is_some_and(|gone| *gone);
        (0..self.delta.len() as u32)
            .filter(|row| !gone(row))
            .collect()
    }

    fn part(&self, rows: &[u32], key_columns: usize) -> Leaving {
        let delta = match rows.len() == self.delta.len() {
            true => self.delta.clone(),
            false => taken(&self.delta, rows),
        };
        Leaving {
            hashes: hash_columns(&delta.rows.columns()[..key_columns], delta.len()),
            delta,
            step: self.step,
        }
    }
}

impl Part {
    /// Takes out the rows that may have one of the hashes, which are of this part. Another hash has the same tag hardly ever;
    /// then all its rows leave.
    fn find(&mut self, hashes: &[u64], rows: &mut Vec<u32>) {
        let mut places: Vec<usize> = Vec::new();
        match hashes {
            [hash] => {
                let wanted = tag(*hash);
                let tags = self.tags.iter().enumerate();
                places.extend(tags.filter(|(_, tag)| **tag == wanted).map(|(at, _)| at));
            }
            _ => {
                let wanted: HashSet<u32> = hashes.iter().map(|hash| tag(*hash)).collect();
                let tags = self.tags.iter().enumerate();
                places.extend(tags.filter(|(_, t)| wanted.contains(*t)).map(|(at, _)| at));
            }
        }
        // From behind, so that what takes a row's place isn't to be taken out itself.
        for at in places.into_iter().rev() {
            self.tags.swap_remove(at);
            rows.push(self.rows.swap_remove(at));
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
fn part(hash: u64) -> usize {
    (hash >> 32) as usize % PARTS
}

/// What rows of one part are told apart by.
#[inline]
fn tag(hash: u64) -> u32 {
    hash as u32
}
