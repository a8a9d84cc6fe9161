//! [`Run`]: an immutable piece of one arrangement, a section of a [`Bundle`].
//!
//! Its block index is read when first needed, its blocks one by one, each checked against the
//! checksum in the index; the index against the one in the manifest.

use std::sync::{Arc, OnceLock};

use arrow::buffer::Buffer;
use tidemill_zset::{ArrangementId, Epoch};

use crate::api::{Result, StoreError};
use crate::block::Block;
use crate::bundle::Bundle;
use crate::wire::{Put, Wire};

const NEGATIVE: u32 = 1;
const DISTINCT: u32 = 2;
const ASIDE: u32 = 4;

/// What the manifest says of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RunMeta {
    pub arrangement: ArrangementId,
    /// Place among the arrangement's runs: larger is newer.
    pub order: u64,
    pub rows: u64,
    /// Bytes of its blocks.
    pub bytes: u64,
    pub min_epoch: Epoch,
    pub max_epoch: Epoch,
    /// History below it was summed up.
    pub since: Epoch,
    /// Position of the block index in the bundle.
    pub index_at: u64,
    pub blocks: u32,
    pub index_crc: u32,
    /// Some diff is negative (for `Last`: a tombstone).
    pub negative: bool,
    /// No two entries have equal rows (`Add`) or keys (`Last`).
    pub distinct: bool,
    /// It is no part of what is read as of this epoch or later; [`ALIVE`] for the runs that make the contents.
    pub dead_from: Epoch,
    /// It is no part of what is read as of an earlier epoch: other runs, which are dead from this one on, say it exactly.
    /// [`ALWAYS`] for runs whose entries have all the epochs that they need.
    pub alive_from: Epoch,
    /// It was put aside by a merge: once it is dead its entries say nothing anyway, for later ones took their place, or they
    /// add up to nothing.
    pub aside: bool,
}

/// See [`RunMeta::dead_from`].
pub(crate) const ALIVE: Epoch = Epoch::MAX;
/// See [`RunMeta::alive_from`].
pub(crate) const ALWAYS: Epoch = Epoch::MIN;

impl RunMeta {
    /// Bytes of the encoded form.
    pub(crate) const BYTES: usize = 10 * 8 + 4 * 4;
    /// Version of the encoded form. In version 1 no run has `dead_from` or `alive_from`.
    pub(crate) const VERSION: u8 = 2;

    /// No part of what is read as of `at`.
    pub(crate) fn is_dead(&self, at: Epoch) -> bool {
        self.dead_from <= at && self.dead_from != ALIVE
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        out.u64(self.arrangement.0);
        out.u64(self.order);
        out.u64(self.rows);
        out.u64(self.bytes);
        out.i64(self.min_epoch);
        out.i64(self.max_epoch);
        out.i64(self.since);
        out.u64(self.index_at);
        out.u32(self.blocks);
        out.u32(self.index_crc);
        let negative = if self.negative { NEGATIVE } else { 0 };
        let distinct = if self.distinct { DISTINCT } else { 0 };
        out.u32(negative | distinct | if self.aside { ASIDE } else { 0 });
        out.u32(0);
        out.i64(self.dead_from);
        out.i64(self.alive_from);
    }

    pub(crate) fn get(w: &mut Wire, version: u8) -> Option<RunMeta> {
        let mut meta = RunMeta {
            arrangement: ArrangementId(w.u64()?),
            order: w.u64()?,
            rows: w.u64()?,
            bytes: w.u64()?,
            min_epoch: w.i64()?,
            max_epoch: w.i64()?,
            since: w.i64()?,
            index_at: w.u64()?,
            blocks: w.u32()?,
            index_crc: w.u32()?,
            negative: false,
            distinct: false,
            dead_from: ALIVE,
            alive_from: ALWAYS,
            aside: false,
        };
        let flags = w.u32()?;
        w.u32()?;
        meta.negative = flags & NEGATIVE > 0;
        meta.distinct = flags & DISTINCT > 0;
        meta.aside = flags & ASIDE > 0;
        if version >= 2 {
            meta.dead_from = w.i64()?;
            meta.alive_from = w.i64()?;
        }
        Some(meta)
    }
}

/// What the index says of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BlockMeta {
    /// Position in the bundle.
    pub at: u64,
    /// Bytes as stored.
    pub stored: u32,
    /// Bytes before compression; 0: not compressed.
    pub raw: u32,
    /// Of the bytes as stored.
    pub crc: u32,
    pub rows: u32,
    pub first_hash: u64,
    pub last_hash: u64,
    pub min_epoch: Epoch,
    pub max_epoch: Epoch,
}

impl BlockMeta {
    pub(crate) const BYTES: usize = 5 * 8 + 4 * 4;

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        out.u64(self.at);
        out.u32(self.stored);
        out.u32(self.raw);
        out.u32(self.crc);
        out.u32(self.rows);
        out.u64(self.first_hash);
        out.u64(self.last_hash);
        out.i64(self.min_epoch);
        out.i64(self.max_epoch);
    }

    fn get(w: &mut Wire) -> Option<BlockMeta> {
        Some(BlockMeta {
            at: w.u64()?,
            stored: w.u32()?,
            raw: w.u32()?,
            crc: w.u32()?,
            rows: w.u32()?,
            first_hash: w.u64()?,
            last_hash: w.u64()?,
            min_epoch: w.i64()?,
            max_epoch: w.i64()?,
        })
    }
}

/// An immutable piece of one arrangement.
#[derive(Debug)]
pub(crate) struct Run {
    pub meta: RunMeta,
    pub bundle: Arc<Bundle>,
    index: OnceLock<Vec<BlockMeta>>,
}

impl Run {
    pub(crate) fn new(meta: RunMeta, bundle: Arc<Bundle>) -> Run {
        Run {
            meta,
            bundle,
            index: OnceLock::new(),
        }
    }

    fn corrupt(&self, place: &str, detail: String) -> StoreError {
        StoreError::Corrupt {
            what: self.bundle.name(),
            detail: format!(
                "{place} of the run of arrangement {}: {detail}",
                self.meta.arrangement
            ),
        }
    }

    /// The blocks, in order.
    pub(crate) fn index(&self) -> Result<&[BlockMeta]> {
        if let Some(index) = self.index.get() {
            return Ok(index);
        }
        let len = self.meta.blocks as usize * BlockMeta::BYTES;
        let bytes = self.bundle.read(self.meta.index_at, len)?;
        if crc32fast::hash(&bytes) != self.meta.index_crc {
            let at = self.meta.index_at;
            return Err(self.corrupt(&format!("the index at {at}"), "wrong checksum".into()));
        }
        let mut wire = Wire(&bytes);
        let index: Option<Vec<BlockMeta>> = (0..self.meta.blocks)
            .map(|_| BlockMeta::get(&mut wire))
            .collect();
        let index = index.ok_or_else(|| self.corrupt("the index", "too short".into()))?;
        Ok(self.index.get_or_init(|| index))
    }

    /// A block, from the cache or read and then cached.
    pub(crate) fn block(&self, index: usize) -> Result<Arc<Block>> {
        let meta = &self.index()?[index];
        if let Some(block) = self.bundle.cached(meta.at) {
            return Ok(block);
        }
        let block = self.read(meta)?;
        self.bundle.cache(meta.at, block.clone());
        Ok(block)
    }

    /// A block, read past the cache: for walks that read everything once.
    pub(crate) fn block_uncached(&self, index: usize) -> Result<Arc<Block>> {
        let meta = &self.index()?[index];
        match self.bundle.cached(meta.at) {
            Some(block) => Ok(block),
            None => self.read(meta),
        }
    }

    /// The bytes of a block as they are stored, checked.
    pub(crate) fn stored(&self, meta: &BlockMeta) -> Result<Buffer> {
        let bytes = self.bundle.read(meta.at, meta.stored as usize)?;
        match crc32fast::hash(&bytes) == meta.crc {
            true => Ok(bytes),
            false => {
                let place = format!("the block at {}", meta.at);
                Err(self.corrupt(&place, "wrong checksum".into()))
            }
        }
    }

    fn read(&self, meta: &BlockMeta) -> Result<Arc<Block>> {
        let place = || format!("the block at {}", meta.at);
        let mut bytes = self.stored(meta)?;
        if meta.raw > 0 {
            let raw = lz4_flex::block::decompress(&bytes, meta.raw as usize)
                .map_err(|e| self.corrupt(&place(), e.to_string()))?;
            bytes = Buffer::from_vec(raw);
        }
        let block = Block::decode(bytes).map_err(|e| self.corrupt(&place(), e.to_string()))?;
        if block.rows != meta.rows as usize {
            return Err(self.corrupt(&place(), "another number of rows".into()));
        }
        Ok(Arc::new(block))
    }
}
