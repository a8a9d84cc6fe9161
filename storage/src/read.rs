//! Reading: [`StoreVersion`] and [`ArrangementVersion`], immutable lists of runs, and the walks over them.
//!
//! Invariant: a version names every run that its contents need and keeps them alive; nothing that
//! happens later changes what it answers.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::RecordBatch;
use arrow::array::RecordBatchOptions;
use arrow::datatypes::SchemaRef;
use tidemill_zset::{ArrangementId, Delta, Diffs, Epoch};

use crate::api::{ArrangementDesc, ArrangementKind, Result, RunBatch, StoreError};
use crate::block::{Block, Numbers};
use crate::log::LogScan;
use crate::merge::HashMerge;
use crate::options::SCAN_ROWS_MAX;
use crate::order::{Entry, seek, sort_by_hash};
use crate::resolve::{Mode, Sources, damaged_rows};
use crate::run::{BlockMeta, Run};

/// Everything as of one committed epoch. Cheap to clone; keeps its files alive.
#[derive(Clone, Debug)]
pub struct StoreVersion(pub(crate) Arc<VersionInner>);

#[derive(Debug)]
pub(crate) struct VersionInner {
    pub epoch: Epoch,
    pub arrangements: HashMap<ArrangementId, Arc<ArrangementVersion>>,
}

impl StoreVersion {
    /// The state includes everything up to and including this epoch; -1 in a new directory.
    pub fn epoch(&self) -> Epoch {
        self.0.epoch
    }

    /// An arrangement, if it existed at this version.
    pub fn arrangement(&self, id: ArrangementId) -> Option<Arc<ArrangementVersion>> {
        self.0.arrangements.get(&id).cloned()
    }

    /// The ids of all arrangements, ascending.
    pub fn arrangements(&self) -> Vec<ArrangementId> {
        let mut ids: Vec<_> = self.0.arrangements.keys().copied().collect();
        ids.sort_unstable();
        ids
    }
}

/// One arrangement as of one version.
#[derive(Clone, Debug)]
pub struct ArrangementVersion {
    pub(crate) desc: Arc<ArrangementDesc>,
    pub(crate) since: Epoch,
    /// In the order of age.
    pub(crate) runs: Vec<Arc<Run>>,
    /// What merging has put aside: entries that only reads as of an epoch before the run's `dead_from` need.
    pub(crate) history: Vec<Arc<Run>>,
    /// What merging has read and kept: reads as of an epoch before the run's `dead_from` need it instead of what was made of it.
    pub(crate) replaced: Vec<Arc<Run>>,
    /// Hashes and ranges looked for since the last merge, counted once per run; all versions share it.
    pub(crate) probes: Arc<AtomicU64>,
    /// Rows of the blocks in which queries have looked for keys since the last merge of large runs, but for those of the run that had most of
    /// them each time: what they would have been spared, about, were there one run. All versions share it.
    pub(crate) scattered: Arc<AtomicU64>,
}

impl ArrangementVersion {
    pub(crate) fn new(desc: ArrangementDesc) -> ArrangementVersion {
        ArrangementVersion {
            desc: Arc::new(desc),
            since: 0,
            runs: Vec::new(),
            history: Vec::new(),
            replaced: Vec::new(),
            probes: Arc::default(),
            scattered: Arc::default(),
        }
    }

    /// What it is.
    pub fn desc(&self) -> &ArrangementDesc {
        &self.desc
    }

    /// The oldest epoch that can be read exactly.
    pub fn since(&self) -> Epoch {
        self.since
    }

    /// Number of runs that a read has to look at.
    pub fn runs(&self) -> usize {
        self.runs.len()
    }

    /// Entries in all runs: an upper bound of the number of rows.
    pub fn rows_estimate(&self) -> u64 {
        self.runs.iter().map(|r| r.meta.rows).sum()
    }

    /// Encoded bytes of all runs.
    pub fn bytes(&self) -> u64 {
        self.all_runs().map(|r| r.meta.bytes).sum()
    }

    /// Contents as of `at`, consolidated (`Add`: diffs summed; `Last`: the newest value per key, diff 1;
    /// `Log`: consolidated only if negative diffs exist), in batches of at most [`SCAN_ROWS_MAX`]
    /// rows, in hash order (`Log`: arrival order). An `at` below `since` gives an error.
    pub fn scan(self: &Arc<Self>, at: Epoch) -> Scan {
        let all: Vec<usize> = (0..self.desc.schema.fields().len()).collect();
        self.scan_columns(at, &all)
    }

    /// Like [`ArrangementVersion::scan`], but only the given column indexes are returned. Without any, rows
    /// are summed up (not of `Last`): what there is are so many rows.
    pub fn scan_columns(self: &Arc<Self>, at: Epoch, columns: &[usize]) -> Scan {
        if columns.is_empty() && at >= self.since && !self.desc.kind.is_last() {
            let this = self.clone();
            let counted = std::iter::once_with(move || this.count(at).transpose());
            return Scan(Box::new(counted.flatten()));
        }
        let batches = self.scan_batches(at, columns);
        Scan(Box::new(batches.map(|b| {
            b.map(|b| Delta {
                rows: b.rows,
                diffs: diffs(&b.diffs),
            })
        })))
    }

    /// The number of rows as of `at`, as the diff of one row without columns; `None` if there are none. Diffs that cancel
    /// each other needn't be brought together to be added up.
    fn count(&self, at: Epoch) -> Result<Option<Delta>> {
        let mut rows = 0;
        for run in self.visible(at) {
            for i in 0..run.index()?.len() {
                let block = run.block(i)?;
                rows += match (&block.diffs, block.newest <= at) {
                    (Numbers::All(diff), true) => diff * block.rows as i64,
                    (diffs, _) => (0..block.rows)
                        .filter(|row| block.epoch(*row) <= at)
                        .map(|row| diffs.get(row))
                        .sum(),
                };
            }
        }
        if rows == 0 {
            return Ok(None);
        }
        let one = RecordBatchOptions::new().with_row_count(Some(1));
        let schema = Arc::new(arrow::datatypes::Schema::empty());
        let row = RecordBatch::try_new_with_options(schema, Vec::new(), &one)
            .map_err(|e| damaged_rows(&self.desc, &e))?;
        Ok(Some(Delta::new(row, vec![rows])))
    }

    /// Like [`ArrangementVersion::scan`], but with key hashes, for rebuilding an index.
    pub fn scan_batches(
        self: &Arc<Self>,
        at: Epoch,
        columns: &[usize],
    ) -> Box<dyn Iterator<Item = Result<RunBatch>> + Send> {
        if at < self.since {
            return Box::new(std::iter::once(Err(self.too_old(at))));
        }
        let schema = match self.desc.schema.project(columns) {
            Ok(schema) => Arc::new(schema),
            Err(e) => return Box::new(std::iter::once(Err(StoreError::Usage(e.to_string())))),
        };
        let runs = self.runs_until(at);
        if self.desc.kind == ArrangementKind::Log {
            return Box::new(LogScan::new(
                self.desc.clone(),
                runs,
                at,
                columns.to_vec(),
                schema,
            ));
        }
        let merge = HashMerge::new(
            self.desc.clone(),
            runs,
            Mode::Snapshot,
            at,
            columns.to_vec(),
            schema,
        );
        Box::new(Bounded {
            merge: Some(merge),
            rest: None,
        })
    }

    /// Contents as of `at` with a hash in `from..=until`, else as [`ArrangementVersion::scan_batches`]; not of a
    /// `Log`. Reads the blocks that may hold such hashes, one stretch after the other.
    pub fn range_batches(
        self: &Arc<Self>,
        at: Epoch,
        range: (u64, u64),
    ) -> Result<Box<dyn Iterator<Item = Result<RunBatch>> + Send>> {
        let all: Vec<usize> = (0..self.desc.schema.fields().len()).collect();
        self.range_columns(at, range, &all)
    }

    /// Like [`ArrangementVersion::range_batches`], but only the given column indexes are returned.
    pub fn range_columns(
        self: &Arc<Self>,
        at: Epoch,
        (from, until): (u64, u64),
        columns: &[usize],
    ) -> Result<Box<dyn Iterator<Item = Result<RunBatch>> + Send>> {
        if at < self.since {
            return Err(self.too_old(at));
        }
        if self.desc.kind == ArrangementKind::Log {
            return Err(self.no_key());
        }
        let schema = self.desc.schema.project(columns);
        let schema = schema.map_err(|e| StoreError::Usage(e.to_string()))?;
        let runs = self.runs_until(at);
        self.probes.fetch_add(runs.len() as u64, Ordering::Relaxed);
        let merge = HashMerge::new(
            self.desc.clone(),
            runs,
            Mode::Snapshot,
            at,
            columns.to_vec(),
            Arc::new(schema),
        );
        Ok(Box::new(Bounded {
            merge: Some(merge.between(from, until)?),
            rest: None,
        }))
    }

    /// About how many entries have hashes in `ranges` (ascending, apart): those of all blocks within one, and a part of those that
    /// begin or end within a block, which are few unless a range has as many.
    pub fn range_rows(&self, ranges: &[(u64, u64)]) -> Result<u64> {
        const OF_BLOCK: u64 = 16;
        let mut rows = 0;
        for run in &self.runs {
            let index = run.index()?;
            let mut counted = 0;
            for (from, until) in ranges {
                let rest = &index[counted..];
                let first = counted + rest.partition_point(|b| b.last_hash < *from);
                let end = counted + rest.partition_point(|b| b.first_hash <= *until);
                let blocks = index.get(first..end).unwrap_or_default();
                let within = |b: &BlockMeta| *from <= b.first_hash && b.last_hash <= *until;
                let part = |b: &BlockMeta| match within(b) {
                    true => u64::from(b.rows),
                    false => u64::from(b.rows).div_ceil(OF_BLOCK),
                };
                rows += blocks.iter().map(part).sum::<u64>();
                counted = counted.max(end);
            }
        }
        Ok(rows)
    }

    fn note_scattered(&self, rows_by_run: &[u64]) {
        let most = rows_by_run.iter().max().copied().unwrap_or(0);
        let others = rows_by_run.iter().sum::<u64>() - most;
        self.scattered.fetch_add(others, Ordering::Relaxed);
    }

    /// Contents as of `at` with a hash in any of `ranges` (ascending, apart), as [`ArrangementVersion::get_many_at`] gives them: all at
    /// once, from blocks that are read once each.
    pub fn ranges_at(
        &self,
        ranges: &[(u64, u64)],
        at: Epoch,
        columns: &[usize],
    ) -> Result<Vec<RunBatch>> {
        if at < self.since {
            return Err(self.too_old(at));
        }
        if self.desc.kind == ArrangementKind::Log {
            return Err(self.no_key());
        }
        debug_assert!(ranges.windows(2).all(|w| w[0].1 < w[1].0), "in order");
        let mut found = Found::until(at);
        for run in self.visible(at) {
            self.probes
                .fetch_add(ranges.len() as u64, Ordering::Relaxed);
            found.take_ranges(run, ranges)?;
        }
        let schema = self.desc.schema.project(columns);
        let schema = Arc::new(schema.map_err(|e| StoreError::Usage(e.to_string()))?);
        self.resolved(found, columns, &schema)
    }

    /// Where in the range about `rows` entries end, counted from its beginning or, `backwards`, from its end: the last hash (the first)
    /// of what is to be read for them. That of whole blocks, as fewer can't be read.
    pub fn first_of_range(
        &self,
        (from, until): (u64, u64),
        rows: u64,
        backwards: bool,
    ) -> Result<u64> {
        let mut ends: Vec<(u64, u64)> = Vec::new();
        for run in &self.runs {
            let index = run.index()?;
            let first = index.partition_point(|b| b.last_hash < from);
            let end = index.partition_point(|b| b.first_hash <= until);
            let blocks = index.get(first..end).unwrap_or_default().iter();
            let blocks: Box<dyn Iterator<Item = &BlockMeta>> = match backwards {
                true => Box::new(blocks.rev()),
                false => Box::new(blocks),
            };
            // No more of them than this run alone would need.
            let mut left = rows;
            for block in blocks {
                if left == 0 {
                    break;
                }
                let more = u64::from(block.rows);
                let hash = match backwards {
                    true => block.first_hash,
                    false => block.last_hash,
                };
                ends.push((hash, more));
                left = left.saturating_sub(more);
            }
        }
        ends.sort_unstable();
        if backwards {
            ends.reverse();
        }
        let mut read = 0;
        let last = ends.into_iter().find(|(_, more)| {
            read += more;
            read >= rows
        });
        Ok(match (last, backwards) {
            (Some((hash, _)), _) => hash.clamp(from, until),
            (None, false) => until,
            (None, true) => from,
        })
    }

    fn no_key(&self) -> StoreError {
        StoreError::Usage(format!(
            "arrangement {} is a log: it has no key to look up",
            self.desc.id
        ))
    }

    fn runs_until(&self, at: Epoch) -> Vec<Arc<Run>> {
        self.visible(at).cloned().collect()
    }

    pub(crate) fn all_runs(&self) -> impl Iterator<Item = &Arc<Run>> {
        let past = self.replaced.iter().chain(&self.history);
        past.chain(&self.runs)
    }

    /// The runs that say exactly what there is as of `at`, and what changed after it.
    fn from(&self, at: Epoch) -> impl Iterator<Item = &Arc<Run>> {
        self.all_runs()
            .filter(move |r| r.meta.alive_from <= at && !r.meta.is_dead(at))
    }

    /// The runs that say something about the contents as of `at`.
    fn visible(&self, at: Epoch) -> impl Iterator<Item = &Arc<Run>> {
        self.from(at).filter(move |r| r.meta.min_epoch <= at)
    }

    fn too_old(&self, at: Epoch) -> StoreError {
        StoreError::Usage(format!(
            "arrangement {} can't be read as of {at}: history is kept from {} on",
            self.desc.id, self.since
        ))
    }

    /// All entries whose hash is in `hashes` (ascending, unique), consolidated as in
    /// [`ArrangementVersion::scan`], as of the newest epoch, sorted by hash, in batches of at most
    /// [`SCAN_ROWS_MAX`] rows. May contain keys that only share the hash: the caller compares keys.
    pub fn get_many(&self, hashes: &[u64]) -> Result<Vec<RunBatch>> {
        self.get_many_at(hashes, Epoch::MAX)
    }

    /// Like [`ArrangementVersion::get_many`], as of `at`.
    pub fn get_many_at(&self, hashes: &[u64], at: Epoch) -> Result<Vec<RunBatch>> {
        if at < self.since {
            return Err(self.too_old(at));
        }
        let (found, _) = self.probe(hashes, at, self.visible(at))?;
        let all: Vec<usize> = (0..self.desc.schema.fields().len()).collect();
        self.resolved(found, &all, &self.desc.schema)
    }

    /// Like [`ArrangementVersion::get_many_at`], for a query: only the given column indexes are returned.
    pub fn get_columns(
        &self,
        hashes: &[u64],
        at: Epoch,
        columns: &[usize],
    ) -> Result<Vec<RunBatch>> {
        if at < self.since {
            return Err(self.too_old(at));
        }
        let (found, rows_by_run) = self.probe(hashes, at, self.visible(at))?;
        self.note_scattered(&rows_by_run);
        let schema = self.desc.schema.project(columns);
        let schema = Arc::new(schema.map_err(|e| StoreError::Usage(e.to_string()))?);
        self.resolved(found, columns, &schema)
    }

    /// What the entries come to.
    fn resolved(
        &self,
        mut found: Found,
        columns: &[usize],
        schema: &SchemaRef,
    ) -> Result<Vec<RunBatch>> {
        sort_by_hash(&mut found.entries);
        let sources = Sources {
            desc: &self.desc,
            blocks: &found.blocks,
        };
        let kept = sources.resolve(&found.entries, Mode::Snapshot)?.kept;
        let pieces = kept.chunks(SCAN_ROWS_MAX);
        pieces
            .map(|piece| sources.batch(piece, columns, schema))
            .collect()
    }

    /// The entries of `runs`, up to epoch `at`, that have one of `hashes`; run by run. Then the rows of the blocks in which they were found, by
    /// run.
    fn probe<'a>(
        &self,
        hashes: &[u64],
        at: Epoch,
        runs: impl Iterator<Item = &'a Arc<Run>>,
    ) -> Result<(Found, Vec<u64>)> {
        if self.desc.kind == ArrangementKind::Log {
            return Err(self.no_key());
        }
        debug_assert!(hashes.windows(2).all(|w| w[0] < w[1]), "sorted and unique");
        let mut found = Found::until(at);
        let mut rows_by_run = vec![];
        for run in runs {
            self.probes
                .fetch_add(hashes.len() as u64, Ordering::Relaxed);
            let before = found.blocks.len();
            found.probe_run(run, hashes)?;
            rows_by_run.push(found.rows_since(before));
        }
        Ok((found, rows_by_run))
    }

    /// Changes with an epoch in (`after`, `until`], by epoch, consolidated per epoch, retractions
    /// first; for `Last` as retraction of the old value and insertion of the new one. `after` must be at
    /// least `since`. Holds all of them in memory.
    pub fn changes(self: &Arc<Self>, after: Epoch, until: Epoch) -> Result<Vec<(Epoch, Delta)>> {
        if after < self.since {
            return Err(self.too_old(after));
        }
        crate::changes::changes(self, after, until)
    }

    /// The same cut into parts, for readers that mustn't hold all of it: the last epoch of each part. No part has more than about
    /// `bytes_max` bytes as they are stored uncompressed, unless one epoch has.
    pub fn cuts(&self, after: Epoch, until: Epoch, bytes_max: usize) -> Result<Vec<Epoch>> {
        if after < self.since {
            return Err(self.too_old(after));
        }
        let mut bytes_of: BTreeMap<Epoch, usize> = BTreeMap::new();
        for run in self.from(after) {
            if run.meta.max_epoch <= after || run.meta.min_epoch > until {
                continue;
            }
            for (i, b) in run.index()?.iter().enumerate() {
                if b.max_epoch <= after || b.min_epoch > until {
                    continue;
                }
                let bytes = b.raw.max(b.stored) as usize;
                if b.min_epoch == b.max_epoch {
                    *bytes_of.entry(b.min_epoch).or_default() += bytes;
                    continue;
                }
                let row_bytes = bytes / (b.rows as usize).max(1) + 1;
                let block = run.block(i)?;
                let epochs = (0..block.rows).map(|row| block.epoch(row));
                for epoch in epochs.filter(|e| *e > after && *e <= until) {
                    *bytes_of.entry(epoch).or_default() += row_bytes;
                }
            }
        }
        let (mut cuts, mut part, mut last) = (Vec::new(), 0, after);
        for (epoch, bytes) in bytes_of {
            if part > 0 && part + bytes > bytes_max {
                cuts.push(last);
                part = 0;
            }
            (part, last) = (part + bytes, epoch);
        }
        if cuts.last() != Some(&until) && until > after {
            cuts.push(until);
        }
        Ok(cuts)
    }

    /// Blocks that may hold entries with an epoch in (`after`, `until`], by run.
    pub(crate) fn window(&self, after: Epoch, until: Epoch) -> Result<Vec<Arc<Block>>> {
        let mut blocks = Vec::new();
        for run in self.from(after) {
            if run.meta.max_epoch <= after || run.meta.min_epoch > until {
                continue;
            }
            for (i, b) in run.index()?.iter().enumerate() {
                if b.max_epoch > after && b.min_epoch <= until {
                    blocks.push(run.block(i)?);
                }
            }
        }
        Ok(blocks)
    }

    /// All entries up to `until` that have one of `hashes` and were not superseded up to `after`; sorted by hash.
    pub(crate) fn entries_since(
        &self,
        hashes: &[u64],
        after: Epoch,
        until: Epoch,
    ) -> Result<(Vec<Arc<Block>>, Vec<Entry>)> {
        let (mut found, _) = self.probe(hashes, until, self.from(after))?;
        sort_by_hash(&mut found.entries);
        Ok((found.blocks, found.entries))
    }
}

/// Rows with wanted hashes, run by run.
struct Found {
    at: Epoch,
    blocks: Vec<Arc<Block>>,
    entries: Vec<Entry>,
}

impl Found {
    fn until(at: Epoch) -> Found {
        Found {
            at,
            blocks: Vec::new(),
            entries: Vec::new(),
        }
    }

    /// Of the blocks from the `n`th on.
    fn rows_since(&self, n: usize) -> u64 {
        self.blocks[n..].iter().map(|b| b.rows as u64).sum()
    }

    fn take_ranges(&mut self, run: &Run, ranges: &[(u64, u64)]) -> Result<()> {
        let index = run.index()?;
        let (mut wanted, mut b) = (0, 0);
        while let Some((from, _)) = ranges.get(wanted) {
            // The first block that ends in or after the wanted range.
            b += index[b..].partition_point(|m| m.last_hash < *from);
            let Some(meta) = index.get(b) else { break };
            wanted += ranges[wanted..].partition_point(|(_, until)| *until < meta.first_hash);
            let end =
                wanted + ranges[wanted..].partition_point(|(from, _)| *from <= meta.last_hash);
            if end > wanted {
                self.take_rows(run.block(b)?, &ranges[wanted..end]);
                // The last of them may go on in the next block.
                wanted = end - 1;
            }
            b += 1;
        }
        Ok(())
    }

    fn take_rows(&mut self, block: Arc<Block>, ranges: &[(u64, u64)]) {
        let before = self.entries.len();
        let source = self.blocks.len() as u32;
        let mut next = 0;
        for (from, until) in ranges {
            let first = seek(&block.hashes, next, *from);
            next = match until.checked_add(1) {
                Some(after) => seek(&block.hashes, first, after),
                None => block.rows,
            };
            let rows = (first..next).filter(|row| block.epoch(*row) <= self.at);
            self.entries.extend(rows.map(|row| Entry {
                hash: block.hashes[row],
                source,
                row: row as u32,
            }));
        }
        if self.entries.len() > before {
            self.blocks.push(block);
        }
    }

    fn probe_run(&mut self, run: &Run, hashes: &[u64]) -> Result<()> {
        let index = run.index()?;
        let mut wanted = 0;
        let mut b = 0;
        while wanted < hashes.len() && b < index.len() {
            // The first block that ends at or after the wanted hash.
            b += index[b..].partition_point(|m| m.last_hash < hashes[wanted]);
            let Some(meta) = index.get(b) else { break };
            wanted = seek(hashes, wanted, meta.first_hash);
            let end = wanted + hashes[wanted..].partition_point(|h| *h <= meta.last_hash);
            if end > wanted {
                let block = run.block(b)?;
                self.probe_block(block, &hashes[wanted..end]);
                // The last hash of this block may go on in the next one.
                wanted = match hashes[end - 1] == meta.last_hash {
                    true => end - 1,
                    false => end,
                };
            }
            b += 1;
        }
        Ok(())
    }

    fn probe_block(&mut self, block: Arc<Block>, hashes: &[u64]) {
        let before = self.entries.len();
        let source = self.blocks.len() as u32;
        let mut row = 0;
        for hash in hashes {
            row = seek(&block.hashes, row, *hash);
            while row < block.rows && block.hashes[row] == *hash {
                if block.epoch(row) <= self.at {
                    self.entries.push(Entry {
                        hash: *hash,
                        source,
                        row: row as u32,
                    });
                }
                row += 1;
            }
        }
        if self.entries.len() > before {
            self.blocks.push(block);
        }
    }
}

/// Cuts the merge's batches to at most [`SCAN_ROWS_MAX`] rows; stops after an error.
struct Bounded {
    merge: Option<HashMerge>,
    rest: Option<RunBatch>,
}

impl Iterator for Bounded {
    type Item = Result<RunBatch>;

    fn next(&mut self) -> Option<Result<RunBatch>> {
        let batch = match self.rest.take() {
            Some(rest) => rest,
            None => match self.merge.as_mut()?.next() {
                Ok(Some(batch)) => batch,
                Ok(None) => {
                    self.merge = None;
                    return None;
                }
                Err(e) => {
                    self.merge = None;
                    return Some(Err(e));
                }
            },
        };
        let rows = batch.rows.num_rows();
        if rows <= SCAN_ROWS_MAX {
            return Some(Ok(batch));
        }
        self.rest = Some(slice(&batch, SCAN_ROWS_MAX, rows - SCAN_ROWS_MAX));
        Some(Ok(slice(&batch, 0, SCAN_ROWS_MAX)))
    }
}

fn slice(b: &RunBatch, offset: usize, len: usize) -> RunBatch {
    RunBatch {
        hashes: match b.hashes.is_empty() {
            true => b.hashes.clone(),
            false => b.hashes.slice(offset, len),
        },
        rows: slice_rows(&b.rows, offset, len),
        diffs: b.diffs.slice(offset, len),
        epochs: b.epochs.slice(offset, len),
    }
}

/// `RecordBatch::slice`, which also works without columns.
fn slice_rows(rows: &RecordBatch, offset: usize, len: usize) -> RecordBatch {
    if rows.num_columns() > 0 {
        return rows.slice(offset, len);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(len));
    RecordBatch::try_new_with_options(rows.schema(), Vec::new(), &options)
        .expect("a schema without columns fits no columns")
}

/// Diffs in their cheapest form.
pub(crate) fn diffs(each: &arrow::buffer::ScalarBuffer<i64>) -> Diffs {
    match each.iter().all(|d| *d == 1) {
        true => Diffs::Ones,
        false => Diffs::Each(each.clone()),
    }
}

/// The contents of an arrangement at one epoch, batch by batch.
pub struct Scan(Box<dyn Iterator<Item = Result<Delta>> + Send>);

impl Iterator for Scan {
    type Item = Result<Delta>;

    fn next(&mut self) -> Option<Result<Delta>> {
        self.0.next()
    }
}

impl std::fmt::Debug for Scan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scan")
    }
}
