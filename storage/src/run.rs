//! [`Run`]: an immutable piece of one arrangement, as an ordered list of blocks.

use std::sync::Arc;

use tidemill_zset::Epoch;

use crate::api::Result;
use crate::block::Block;

/// What is known of a run without reading it.
#[derive(Clone, Debug)]
pub(crate) struct RunMeta {
    pub rows: u64,
    pub bytes: u64,
    pub min_epoch: Epoch,
    pub max_epoch: Epoch,
    /// Some diff is negative (for `Last`: a tombstone).
    pub negative: bool,
    /// No two entries have equal rows (`Add`) or keys (`Last`).
    pub distinct: bool,
}

/// What is known of a block without reading it.
#[derive(Clone, Debug)]
pub(crate) struct BlockMeta {
    pub rows: u32,
    pub first_hash: u64,
    pub last_hash: u64,
    pub min_epoch: Epoch,
    pub max_epoch: Epoch,
}

/// An immutable piece of one arrangement.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub meta: RunMeta,
    index: Vec<BlockMeta>,
    blocks: Vec<Arc<Block>>,
}

impl Run {
    pub(crate) fn in_memory(meta: RunMeta, blocks: Vec<Arc<Block>>) -> Run {
        let index = blocks
            .iter()
            .map(|b| BlockMeta {
                rows: b.rows as u32,
                first_hash: b.hashes.first().copied().unwrap_or(0),
                last_hash: b.hashes.last().copied().unwrap_or(0),
                min_epoch: meta.min_epoch,
                max_epoch: meta.max_epoch,
            })
            .collect();
        Run {
            meta,
            index,
            blocks,
        }
    }

    pub(crate) fn index(&self) -> Result<&[BlockMeta]> {
        Ok(&self.index)
    }

    pub(crate) fn block(&self, index: usize) -> Result<Arc<Block>> {
        Ok(self.blocks[index].clone())
    }
}
