//! [`HashMerge`]: walks several runs of one arrangement in the order of the key hash, a bounded
//! stretch of hashes at a time. Scans and background merges are both this walk.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use tidemill_zset::Epoch;

use crate::api::{ArrangementDesc, Result, RunBatch};
use crate::block::Block;
use crate::order::{Entry, seek, sort_by_hash};
use crate::resolve::{Mode, Sources};
use crate::run::Run;

struct Cursor {
    run: Arc<Run>,
    next: usize,
    /// Keep the blocks in the cache: readers come back, a background merge doesn't.
    cached: bool,
    /// Hashes that are wanted: from, until.
    wanted: (u64, u64),
    /// Blocks read and not used up, with the first row not used yet.
    loaded: VecDeque<(Arc<Block>, usize)>,
}

impl Cursor {
    fn load(&mut self) -> Result<bool> {
        if self.next_hash()?.is_none() {
            return Ok(false);
        }
        let block = match self.cached {
            true => self.run.block(self.next)?,
            false => self.run.block_uncached(self.next)?,
        };
        let from = seek(&block.hashes, 0, self.wanted.0);
        self.loaded.push_back((block, from));
        self.next += 1;
        Ok(true)
    }

    /// The hash of the next block's first row, if that is wanted.
    fn next_hash(&self) -> Result<Option<u64>> {
        let next = self.run.index()?.get(self.next).map(|b| b.first_hash);
        Ok(next.filter(|hash| *hash <= self.wanted.1))
    }
}

/// Merges runs by hash. Yields batches in hash order; a group of equal hashes is never split.
pub(crate) struct HashMerge {
    desc: Arc<ArrangementDesc>,
    cursors: Vec<Cursor>,
    mode: Mode,
    /// Entries above it are left out.
    at: Epoch,
    columns: Vec<usize>,
    schema: SchemaRef,
    /// The last hash that is wanted.
    until: u64,
    /// Everything up to `until` was yielded.
    ended: bool,
    /// No two entries that were yielded have equal rows (`Add`) or keys (`Last`).
    pub distinct: bool,
    /// What the last call of `next` put aside, see [`crate::resolve::Compaction::split`].
    pub past: Option<RunBatch>,
}

impl HashMerge {
    /// `runs` are in the order of age; `columns` (with `schema`) are those to yield.
    pub(crate) fn new(
        desc: Arc<ArrangementDesc>,
        runs: impl IntoIterator<Item = Arc<Run>>,
        mode: Mode,
        at: Epoch,
        columns: Vec<usize>,
        schema: SchemaRef,
    ) -> HashMerge {
        let cursors = runs.into_iter().map(|run| Cursor {
            run,
            next: 0,
            cached: matches!(mode, Mode::Snapshot),
            wanted: (0, u64::MAX),
            loaded: VecDeque::new(),
        });
        HashMerge {
            desc,
            cursors: cursors.collect(),
            mode,
            at,
            columns,
            schema,
            until: u64::MAX,
            ended: false,
            distinct: true,
            past: None,
        }
    }

    /// Only the hashes in `from..=until`. To be called before the first batch is taken.
    pub(crate) fn between(mut self, from: u64, until: u64) -> Result<HashMerge> {
        self.until = until;
        for c in &mut self.cursors {
            c.wanted = (from, until);
            c.next = c.run.index()?.partition_point(|b| b.last_hash < from);
        }
        Ok(self)
    }

    /// The next batch, which isn't empty unless something was put aside; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<RunBatch>> {
        loop {
            if let Some(batch) = self.whole_block()? {
                return Ok(Some(batch));
            }
            let Some(limit) = self.limit()? else {
                return Ok(None);
            };
            let (blocks, entries) = self.collect(limit);
            if entries.is_empty() {
                continue;
            }
            let sources = Sources {
                desc: &self.desc,
                blocks: &blocks,
            };
            let resolved = sources.resolve(&entries, self.mode)?;
            self.distinct &= resolved.distinct;
            let batch = |kept| sources.batch(kept, &self.columns, &self.schema);
            if !resolved.past.is_empty() {
                self.past = Some(batch(&resolved.past)?);
            }
            if !resolved.kept.is_empty() || self.past.is_some() {
                return Ok(Some(batch(&resolved.kept)?));
            }
        }
    }

    /// The next block as it is, where it needs no look at its rows: of the only run, all of it visible, with nothing to
    /// sum up.
    fn whole_block(&mut self) -> Result<Option<RunBatch>> {
        let (Mode::Snapshot, [c]) = (self.mode, &mut self.cursors[..]) else {
            return Ok(None);
        };
        if !c.run.meta.distinct || (c.loaded.is_empty() && !c.load()?) {
            return Ok(None);
        }
        let Some((block, 0)) = c.loaded.front() else {
            return Ok(None);
        };
        if block.hashes.last().is_some_and(|last| *last > self.until) {
            return Ok(None);
        }
        let sources = Sources {
            desc: &self.desc,
            blocks: std::slice::from_ref(block),
        };
        let whole = sources.whole(self.at, &self.columns, &self.schema)?;
        if whole.is_some() {
            c.loaded.pop_front();
        }
        Ok(whole)
    }

    /// Reads blocks so that all rows up to the returned hash are loaded. `None`: nothing is left.
    fn limit(&mut self) -> Result<Option<u64>> {
        if self.ended {
            return Ok(None);
        }
        let mut limit = self.until;
        let mut any = false;
        for c in &mut self.cursors {
            if c.loaded.is_empty() && !c.load()? {
                continue;
            }
            any = true;
            if c.next_hash()?.is_some()
                && let Some((block, _)) = c.loaded.back()
                && let Some(last) = block.hashes.last()
            {
                limit = limit.min(*last);
            }
        }
        // A run's rows of one hash may go on in its next block.
        for c in &mut self.cursors {
            while c.next_hash()?.is_some_and(|h| h <= limit) {
                c.load()?;
            }
        }
        self.ended = limit == self.until;
        Ok(any.then_some(limit))
    }

    /// Takes all rows with a hash up to `limit` from the cursors, sorted.
    fn collect(&mut self, limit: u64) -> (Vec<Arc<Block>>, Vec<Entry>) {
        let mut blocks = Vec::new();
        let mut entries = Vec::new();
        for c in &mut self.cursors {
            for (block, from) in &mut c.loaded {
                let to = match block.hashes.last() {
                    Some(last) if *last <= limit => block.rows,
                    _ => seek(&block.hashes, *from, limit.saturating_add(1)),
                };
                let source = blocks.len() as u32;
                let before = entries.len();
                let every = block.newest <= self.at;
                let hashes = block.hashes[*from..to].iter().zip(*from..to);
                let entry = |(hash, row): (&u64, usize)| Entry {
                    hash: *hash,
                    source,
                    row: row as u32,
                };
                match every {
                    true => entries.extend(hashes.map(entry)),
                    false => {
                        let visible = hashes.filter(|(_, row)| block.epoch(*row) <= self.at);
                        entries.extend(visible.map(entry));
                    }
                }
                if entries.len() > before {
                    blocks.push(block.clone());
                }
                *from = to;
            }
            while c.loaded.front().is_some_and(|(b, at)| *at >= b.rows) {
                c.loaded.pop_front();
            }
        }
        sort_by_hash(&mut entries);
        (blocks, entries)
    }
}
