//! Settings of a store and the numbers it reports. Plain data.

use crate::fail::FailPoints;

/// Rows of a block at most; a block is the unit of reading, checking and caching.
pub const BLOCK_ROWS_MAX: usize = 4096;
/// Encoded bytes at which a block is closed (a single wide row may exceed it).
pub const BLOCK_BYTES_TARGET: usize = 64 * 1024;
/// Rows of a batch that a scan returns, at most.
pub const SCAN_ROWS_MAX: usize = 8192;
/// Bytes of one value in sled, at most: larger ones leak disk in sled 0.34.
pub const VALUE_BYTES_MAX: usize = 4000;

/// How to open a [`crate::Store`].
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Number of partitions, a power of two. Only used when the directory is initialised.
    pub partitions: u32,
    /// Bytes of decoded blocks kept in memory.
    pub cache_bytes: usize,
    /// A bundle of at most so many bytes is stored inside sled, a larger one as a segment file.
    pub inline_bytes_max: usize,
    /// Fail points, for crash tests.
    pub fail: FailPoints,
}

impl Default for StoreOptions {
    fn default() -> Self {
        StoreOptions {
            partitions: 16,
            cache_bytes: 256 * 1024 * 1024,
            inline_bytes_max: 32 * 1024,
            fail: FailPoints::default(),
        }
    }
}

/// What a store did since it was opened, and what it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Commits since opening.
    pub commits: u64,
    /// Bytes of bundles written since opening: commits, staged runs and merges, inline or not.
    pub bytes_written: u64,
    /// The part of `bytes_written` that merges wrote.
    pub merge_bytes_written: u64,
    /// Segment files that the newest version names.
    pub segment_files: u64,
    /// Their bytes.
    pub segment_bytes: u64,
    /// Runs of the newest version that live inside sled.
    pub inline_runs: u64,
    /// All runs of the newest version.
    pub runs: u64,
    /// Merges finished since opening.
    pub merges: u64,
    /// Bytes of blocks held by the cache.
    pub cache_bytes: u64,
    /// Blocks read from disk (or sled) since opening.
    pub blocks_read: u64,
}
