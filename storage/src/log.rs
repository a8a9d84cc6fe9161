//! [`LogScan`]: the contents of a `Log` in the order of arrival.
//!
//! Only where a run holds negative diffs are rows compared: the negative entries are collected first
//! (they are few: the retracted rows of edited files) and then cancelled against the stream.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use hashbrown::HashTable;
use tidemill_zset::Epoch;
use tidemill_zset::hash::hash_columns;

use crate::api::{ArrangementDesc, Result, RunBatch};
use crate::batches::{batch_of, concat_rows};
use crate::block::Block;
use crate::options::SCAN_ROWS_MAX;
use crate::order::Entry;
use crate::resolve::{Kept, Sources, damaged_rows};
use crate::rows::RowEqual;
use crate::run::Run;

/// Iterates a log's runs in order.
pub(crate) struct LogScan {
    desc: Arc<ArrangementDesc>,
    runs: VecDeque<Arc<Run>>,
    next_block: usize,
    at: Epoch,
    columns: Vec<usize>,
    schema: SchemaRef,
    /// Set once the negative entries were looked for.
    retracted: Option<Retracted>,
    ready: VecDeque<RunBatch>,
    done: bool,
}

impl LogScan {
    pub(crate) fn new(
        desc: Arc<ArrangementDesc>,
        runs: Vec<Arc<Run>>,
        at: Epoch,
        columns: Vec<usize>,
        schema: SchemaRef,
    ) -> LogScan {
        LogScan {
            desc,
            runs: runs.into(),
            next_block: 0,
            at,
            columns,
            schema,
            retracted: None,
            ready: VecDeque::new(),
            done: false,
        }
    }

    fn step(&mut self) -> Result<Option<RunBatch>> {
        let mut retracted = match self.retracted.take() {
            Some(r) => r,
            None => Retracted::collect(&self.desc, &self.runs, self.at)?,
        };
        let result = self.step_with(&mut retracted);
        self.retracted = Some(retracted);
        result
    }

    fn step_with(&mut self, retracted: &mut Retracted) -> Result<Option<RunBatch>> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Ok(Some(batch));
            }
            let Some(run) = self.runs.front() else {
                return retracted.rest(&self.columns, &self.schema);
            };
            let index = run.index()?;
            if self.next_block >= index.len() {
                self.runs.pop_front();
                self.next_block = 0;
                continue;
            }
            let blocks = [run.block(self.next_block)?];
            self.next_block += 1;
            let sources = Sources {
                desc: &self.desc,
                blocks: &blocks,
            };
            if retracted.is_empty()
                && let Some(batch) = sources.whole(self.at, &self.columns, &self.schema)?
            {
                return Ok(Some(batch));
            }
            let kept = self.visible(&blocks[0], retracted)?;
            for piece in kept.chunks(SCAN_ROWS_MAX) {
                self.ready
                    .push_back(sources.batch(piece, &self.columns, &self.schema)?);
            }
        }
    }

    fn visible(&self, block: &Arc<Block>, retracted: &mut Retracted) -> Result<Vec<Kept>> {
        let mut kept = Vec::with_capacity(block.rows);
        for row in 0..block.rows {
            let (epoch, diff) = (block.epoch(row), block.diffs.get(row));
            if epoch <= self.at && diff > 0 {
                kept.push(Kept {
                    entry: Entry {
                        hash: 0,
                        source: 0,
                        row: row as u32,
                    },
                    diff,
                    epoch,
                });
            }
        }
        if !retracted.is_empty() {
            retracted.cancel(&self.desc, block, &mut kept)?;
            kept.retain(|k| k.diff != 0);
        }
        Ok(kept)
    }
}

impl Iterator for LogScan {
    type Item = Result<RunBatch>;

    fn next(&mut self) -> Option<Result<RunBatch>> {
        if self.done {
            return None;
        }
        let next = self.step().transpose();
        self.done = !matches!(next, Some(Ok(_)));
        next
    }
}

/// Blocks of at least so many rows are copied as they are; smaller ones are put together.
const WHOLE_ROWS_MIN: usize = 512;

/// A part of the result of a [`LogMerge`].
pub(crate) enum LogPiece {
    Rows(RunBatch),
    /// A block that goes over untouched.
    Whole(Arc<Run>, usize),
}

/// Puts a log's runs one after the other. Retracted rows go if all rows that they may cancel are among
/// the inputs and nobody can ask for the time before.
pub(crate) struct LogMerge {
    desc: Arc<ArrangementDesc>,
    blocks: VecDeque<(Arc<Run>, usize)>,
    since: Epoch,
    /// `None`: nothing is cancelled.
    retracted: Option<Retracted>,
    done: bool,
}

impl LogMerge {
    pub(crate) fn new(
        desc: Arc<ArrangementDesc>,
        inputs: &[Arc<Run>],
        since: Epoch,
        oldest: bool,
    ) -> Result<LogMerge> {
        let retracted = match oldest {
            true => Some(Retracted::collect(&desc, inputs, since)?).filter(|r| !r.is_empty()),
            false => None,
        };
        let mut blocks = VecDeque::new();
        for run in inputs {
            blocks.extend((0..run.index()?.len()).map(|b| (run.clone(), b)));
        }
        Ok(LogMerge {
            desc,
            blocks,
            since,
            retracted,
            done: false,
        })
    }

    fn step(&mut self) -> Result<Option<LogPiece>> {
        let all: Vec<usize> = (0..self.desc.schema.fields().len()).collect();
        while let Some((run, index)) = self.blocks.pop_front() {
            if self.retracted.is_none() && run.index()?[index].rows as usize >= WHOLE_ROWS_MIN {
                return Ok(Some(LogPiece::Whole(run, index)));
            }
            let block = run.block_uncached(index)?;
            let mut kept: Vec<Kept> = (0..block.rows)
                .map(|row| Kept {
                    entry: Entry {
                        hash: 0,
                        source: 0,
                        row: row as u32,
                    },
                    diff: block.diffs.get(row),
                    epoch: block.epoch(row).max(self.since),
                })
                .collect();
            if let Some(retracted) = &mut self.retracted {
                // Negative rows up to `since` were collected; what they don't cancel comes at the end.
                kept.retain(|k| k.diff > 0 || block.epoch(k.entry.row as usize) > self.since);
                let mut old: Vec<Kept> = kept
                    .extract_if(.., |k| block.epoch(k.entry.row as usize) <= self.since)
                    .collect();
                retracted.cancel(&self.desc, &block, &mut old)?;
                old.retain(|k| k.diff != 0);
                old.append(&mut kept);
                kept = old;
                kept.sort_by_key(|k| k.entry.row);
            }
            if kept.is_empty() {
                continue;
            }
            let blocks = [block];
            let sources = Sources {
                desc: &self.desc,
                blocks: &blocks,
            };
            let batch = sources.batch(&kept, &all, &self.desc.schema)?;
            return Ok(Some(LogPiece::Rows(batch)));
        }
        match &mut self.retracted {
            Some(retracted) => {
                let rest = retracted.rest(&all, &self.desc.schema)?;
                Ok(rest.map(LogPiece::Rows))
            }
            None => Ok(None),
        }
    }
}

impl Iterator for LogMerge {
    type Item = Result<LogPiece>;

    fn next(&mut self) -> Option<Result<LogPiece>> {
        if self.done {
            return None;
        }
        let next = self.step().transpose();
        self.done = !matches!(next, Some(Ok(_)));
        next
    }
}

/// The rows with negative diffs, each with what is left to cancel.
pub(crate) struct Retracted {
    rows: Option<RecordBatch>,
    hashes: Vec<u64>,
    left: Vec<i64>,
    epochs: Vec<i64>,
    remaining: i64,
    index: HashTable<u32>,
}

impl Retracted {
    pub(crate) fn collect<'a>(
        desc: &ArrangementDesc,
        runs: impl IntoIterator<Item = &'a Arc<Run>>,
        at: Epoch,
    ) -> Result<Retracted> {
        let mut batches = Vec::new();
        let (mut left, mut epochs) = (Vec::new(), Vec::new());
        for run in runs.into_iter().filter(|r| r.meta.negative) {
            for b in 0..run.index()?.len() {
                let block = run.block(b)?;
                let negative = |r: &usize| block.diffs.get(*r) < 0 && block.epoch(*r) <= at;
                let rows: Vec<(usize, usize)> =
                    (0..block.rows).filter(negative).map(|r| (0, r)).collect();
                if rows.is_empty() {
                    continue;
                }
                left.extend(rows.iter().map(|r| -block.diffs.get(r.1)));
                epochs.extend(rows.iter().map(|r| block.epoch(r.1)));
                let sources = Sources {
                    desc,
                    blocks: &[block],
                };
                batches.push(sources.gather_all(&rows)?);
            }
        }
        if batches.is_empty() {
            return Ok(Retracted {
                rows: None,
                hashes: Vec::new(),
                left,
                epochs,
                remaining: 0,
                index: HashTable::new(),
            });
        }
        let all: Vec<&RecordBatch> = batches.iter().collect();
        let rows = concat_rows(&desc.schema, &all).map_err(|e| damaged_rows(desc, &e))?;
        let hashes = hash_columns(rows.columns(), rows.num_rows());
        let mut index = HashTable::with_capacity(rows.num_rows());
        for i in 0..rows.num_rows() as u32 {
            index.insert_unique(hashes[i as usize], i, |j| hashes[*j as usize]);
        }
        Ok(Retracted {
            rows: Some(rows),
            hashes,
            remaining: left.iter().sum(),
            left,
            epochs,
            index,
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.remaining == 0
    }

    /// Subtracts what is left to cancel from the diffs of `kept`, rows of `block`.
    pub(crate) fn cancel(
        &mut self,
        desc: &ArrangementDesc,
        block: &Arc<Block>,
        kept: &mut [Kept],
    ) -> Result<()> {
        let Some(retracted) = &self.rows else {
            return Ok(());
        };
        let positions: Vec<(usize, usize)> =
            kept.iter().map(|k| (0, k.entry.row as usize)).collect();
        let blocks = [block.clone()];
        let sources = Sources {
            desc,
            blocks: &blocks,
        };
        let rows = sources.gather_all(&positions)?;
        let hashes = hash_columns(rows.columns(), rows.num_rows());
        let hits: Vec<usize> = (0..kept.len())
            .filter(|i| {
                self.index
                    .find(hashes[*i], |j| self.hashes[*j as usize] == hashes[*i])
                    .is_some()
            })
            .collect();
        if hits.is_empty() {
            return Ok(());
        }
        // Two batches: the retracted rows, and the rows of the block.
        let sides = retracted.columns().iter().zip(rows.columns());
        let sides: Vec<Vec<_>> = sides.map(|(a, b)| vec![a.clone(), b.clone()]).collect();
        let equal = RowEqual::new(&sides);
        for i in hits {
            for candidate in self.index.iter_hash(hashes[i]) {
                let c = *candidate as usize;
                if self.left[c] > 0 && equal.equal((0, c), (1, i)) {
                    let cancelled = self.left[c].min(kept[i].diff);
                    self.left[c] -= cancelled;
                    self.remaining -= cancelled;
                    kept[i].diff -= cancelled;
                    if kept[i].diff == 0 {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// Retractions that met no row (the caller retracted what was never there): still part of
    /// the Z-set. Given once.
    fn rest(&mut self, columns: &[usize], schema: &SchemaRef) -> Result<Option<RunBatch>> {
        let Some(rows) = self.rows.take() else {
            return Ok(None);
        };
        let open: Vec<u32> = (0..rows.num_rows() as u32)
            .filter(|i| self.left[*i as usize] > 0)
            .collect();
        if open.is_empty() {
            return Ok(None);
        }
        let indices: arrow::array::UInt32Array = open.clone().into();
        let taken = arrow::compute::take_record_batch(&rows, &indices)
            .and_then(|t| t.project(columns))
            .and_then(|t| batch_of(schema, t.columns().to_vec(), open.len()))
            .map_err(|e| crate::api::StoreError::Usage(e.to_string()))?;
        Ok(Some(RunBatch {
            hashes: Vec::new().into(),
            rows: taken,
            diffs: open
                .iter()
                .map(|i| -self.left[*i as usize])
                .collect::<Vec<_>>()
                .into(),
            epochs: open
                .iter()
                .map(|i| self.epochs[*i as usize])
                .collect::<Vec<_>>()
                .into(),
        }))
    }
}
