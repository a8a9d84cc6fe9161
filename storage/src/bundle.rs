//! [`Bundle`]: the runs that were written together, as one file or as values inside sled.
//!
//! ```text
//! magic u64, bundle id u64
//! per run:  its blocks, each at a multiple of 8; its block index
//! footer    (files only) what the manifest says of each run, kind and schema: self-describing
//! trailer   (files only) footer position u64, bytes u32, crc u32, magic u64
//! ```
//!
//! Invariant: a bundle is written once. A file is removed when its bundle is retired (or was never
//! committed) and the last version that names it is gone.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use arrow::buffer::Buffer;
use parking_lot::{Mutex, RwLock};
use tidemill_zset::Epoch;

use crate::api::{ArrangementDesc, ArrangementKind, Result, StoreError};
use crate::block::{Block, BlockRows};
use crate::disk::{Disk, NewFile, io_error};
use crate::manifest;
use crate::options::BLOCK_BYTES_TARGET;
use crate::run::{ALIVE, ALWAYS, BlockMeta, RunMeta};
use crate::wire::{Put, Wire};

const MAGIC: u64 = u64::from_le_bytes(*b"TIDESEG1");
const HEADER_BYTES: usize = 16;
const TRAILER_BYTES: usize = 24;
const ALIGN: usize = 8;
/// Bytes gathered before they are written to the file: few enough for the second-level cache, in memory that isn't given back
/// to the system between two commits.
const WRITE_BYTES: usize = 256 * 1024;

/// Weighs blocks for the cache.
#[derive(Clone, Debug)]
pub(crate) struct BlockWeight;

impl quick_cache::Weighter<(u64, u64), Arc<Block>> for BlockWeight {
    fn weight(&self, _key: &(u64, u64), block: &Arc<Block>) -> u64 {
        block.bytes.max(1) as u64
    }
}

/// Decoded blocks by (bundle id, position).
pub(crate) type BlockCache = quick_cache::sync::Cache<(u64, u64), Arc<Block>, BlockWeight>;

/// Segment files that are open to be read, by bundle id. As many as there are live segments would be too many: one comes with every
/// large epoch, and stays as long as history does.
pub(crate) type OpenFiles = quick_cache::sync::Cache<u64, Arc<File>>;

/// Files that are kept open.
pub(crate) const OPEN_FILES_MAX: usize = 256;

/// What bundles need to be read and removed. Outlives the store while a version is held.
pub(crate) struct Env {
    pub disk: Disk,
    pub cache: BlockCache,
    pub files: OpenFiles,
    /// Where inline bundles are; taken away when the store closes.
    pub sled: RwLock<Option<sled::Db>>,
    pub blocks_read: AtomicU64,
    pub bytes_written: AtomicU64,
}

impl std::fmt::Debug for Env {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Env")
            .field("disk", &self.disk)
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
enum Location {
    Inline(OnceLock<Buffer>),
    File,
}

/// Runs that were written together.
#[derive(Debug)]
pub(crate) struct Bundle {
    pub id: u64,
    pub env: Arc<Env>,
    /// Bytes of the file or of the inline value.
    pub len: u64,
    location: Location,
    retired: AtomicBool,
    /// Where its blocks begin that may be in the cache.
    cached: Mutex<BTreeSet<u64>>,
}

impl Bundle {
    /// A bundle that the manifest names.
    pub(crate) fn committed(env: Arc<Env>, id: u64, len: u64, inline: bool) -> Bundle {
        Bundle {
            id,
            env,
            len,
            location: match inline {
                true => Location::Inline(OnceLock::new()),
                false => Location::File,
            },
            retired: AtomicBool::new(false),
            cached: Mutex::default(),
        }
    }

    /// The block that begins at `at`, if it is in the cache.
    pub(crate) fn cached(&self, at: u64) -> Option<Arc<Block>> {
        self.env.cache.get(&(self.id, at))
    }

    /// Puts a block that begins at `at` into the cache. It goes with the bundle: nobody asks for it after that.
    pub(crate) fn cache(&self, at: u64, block: Arc<Block>) {
        self.cached.lock().insert(at);
        self.env.cache.insert((self.id, at), block);
    }

    /// True if it lies inside sled.
    pub(crate) fn is_inline(&self) -> bool {
        matches!(self.location, Location::Inline(_))
    }

    /// For messages: the file or the key.
    pub(crate) fn name(&self) -> String {
        match self.location {
            Location::Inline(_) => format!("the inline bundle {:016x}", self.id),
            Location::File => self.env.disk.segment(self.id).display().to_string(),
        }
    }

    /// The manifest is about to name it: from now on its file stays until it is retired.
    pub(crate) fn adopt(&self) {
        self.retired.store(false, Ordering::SeqCst);
    }

    /// The manifest no longer names it: its file goes with the last version that does.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::SeqCst);
    }

    fn too_short(&self, at: u64, len: usize, have: u64) -> StoreError {
        StoreError::Corrupt {
            what: self.name(),
            detail: format!("expected {len} bytes at {at}, but it ends at {have}"),
        }
    }

    /// Bytes of an inline bundle, read from sled the first time.
    pub(crate) fn inline_bytes(&self) -> Result<Option<&Buffer>> {
        let Location::Inline(bytes) = &self.location else {
            return Ok(None);
        };
        if let Some(bytes) = bytes.get() {
            return Ok(Some(bytes));
        }
        let sled = self.env.sled.read();
        let Some(db) = sled.as_ref() else {
            return Err(StoreError::Usage(format!(
                "{} can't be read: the store is closed",
                self.name()
            )));
        };
        let read = manifest::read_inline(db, self.id, self.len as usize)?;
        if read.len() as u64 != self.len {
            return Err(self.too_short(0, self.len as usize, read.len() as u64));
        }
        Ok(Some(bytes.get_or_init(|| Buffer::from_vec(read))))
    }

    /// `len` bytes at `at`.
    pub(crate) fn read(&self, at: u64, len: usize) -> Result<Buffer> {
        let end = at.checked_add(len as u64).filter(|end| *end <= self.len);
        if end.is_none() {
            return Err(self.too_short(at, len, self.len));
        }
        self.env.blocks_read.fetch_add(1, Ordering::Relaxed);
        if let Some(bytes) = self.inline_bytes()? {
            return Ok(bytes.slice_with_length(at as usize, len));
        }
        let file = self.file()?;
        let mut bytes = vec![0; len];
        match file.read_exact_at(&mut bytes, at) {
            Ok(()) => Ok(Buffer::from_vec(bytes)),
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
                let have = file.metadata().map(|m| m.len()).unwrap_or(0);
                Err(self.too_short(at, len, have))
            }
            Err(e) => Err(io_error("reading", &self.env.disk.segment(self.id), e)),
        }
    }

    fn file(&self) -> Result<Arc<File>> {
        self.env.files.get_or_insert_with(&self.id, || {
            let path = self.env.disk.segment(self.id);
            let opened = File::open(&path).map_err(|e| match e.kind() {
                std::io::ErrorKind::NotFound => StoreError::Corrupt {
                    what: path.display().to_string(),
                    detail: format!("the file is missing; expected {} bytes", self.len),
                },
                _ => io_error("opening", &path, e),
            })?;
            Ok(Arc::new(opened))
        })
    }

    /// Checks at opening that the file is there and has its length.
    pub(crate) fn check_file(&self) -> Result<()> {
        if self.is_inline() {
            return Ok(());
        }
        let path = self.env.disk.segment(self.id);
        let have = match std::fs::metadata(&path) {
            Ok(m) => m.len(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return self.file().map(|_| ());
            }
            Err(e) => return Err(io_error("reading", &path, e)),
        };
        match have == self.len {
            true => Ok(()),
            false => Err(StoreError::Corrupt {
                what: self.name(),
                detail: format!("the file has {have} bytes; expected {}", self.len),
            }),
        }
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        for at in self.cached.get_mut().iter() {
            self.env.cache.remove(&(self.id, *at));
        }
        if self.is_inline() {
            return;
        }
        self.env.files.remove(&self.id);
        if self.retired.load(Ordering::SeqCst) {
            self.env.disk.remove_segment(self.id);
        }
    }
}

/// A bundle that was written but that no manifest names yet.
#[derive(Debug)]
pub(crate) struct NewBundle {
    pub bundle: Arc<Bundle>,
    pub runs: Vec<RunMeta>,
    /// Of the footer; 0 for inline bundles.
    pub crc: u32,
}

impl NewBundle {
    /// What the manifest is to say of it.
    pub(crate) fn record(&self) -> manifest::BundleRecord {
        manifest::BundleRecord {
            inline: self.bundle.is_inline(),
            len: self.bundle.len,
            crc: self.crc,
            runs: self.runs.clone(),
        }
    }
}

/// What is known of a run when all of it has been written; see [`RunMeta`].
pub(crate) struct RunEnd {
    pub since: Epoch,
    pub distinct: bool,
    pub dead_from: Epoch,
    pub alive_from: Epoch,
    pub aside: bool,
}

impl RunEnd {
    /// Of a run that has its place among the contents at all epochs from `since` on.
    pub(crate) fn of(since: Epoch, distinct: bool) -> RunEnd {
        RunEnd {
            since,
            distinct,
            dead_from: ALIVE,
            alive_from: ALWAYS,
            aside: false,
        }
    }
}

/// Writes the runs of a bundle one after the other.
pub(crate) struct BundleWriter {
    env: Arc<Env>,
    id: u64,
    buffer: Vec<u8>,
    /// Bytes already in the file.
    written: u64,
    file: Option<NewFile>,
    runs: Vec<(RunMeta, Arc<ArrangementDesc>)>,
}

impl BundleWriter {
    pub(crate) fn new(env: Arc<Env>, id: u64) -> BundleWriter {
        let mut buffer = Vec::new();
        buffer.u64(MAGIC);
        buffer.u64(id);
        BundleWriter {
            env,
            id,
            buffer,
            written: 0,
            file: None,
            runs: Vec::new(),
        }
    }

    /// Makes room for about so many bytes, so that the buffer doesn't grow by copying.
    pub(crate) fn reserve(&mut self, bytes: usize) {
        self.buffer
            .reserve(bytes.min(WRITE_BYTES + 2 * BLOCK_BYTES_TARGET));
    }

    fn position(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    fn align(&mut self) {
        self.buffer
            .resize(self.buffer.len().next_multiple_of(ALIGN), 0);
    }

    fn flush(&mut self) -> Result<()> {
        let disk = &self.env.disk;
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(disk.create_segment(self.id)?),
        };
        disk.write(file, &self.buffer)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Begins the run of an arrangement.
    pub(crate) fn run(&mut self, desc: Arc<ArrangementDesc>, compress: bool) -> RunWriter<'_> {
        RunWriter {
            to: self,
            desc,
            compress,
            index: Vec::new(),
            rows: 0,
            bytes: 0,
            negative: false,
            epochs: (Epoch::MAX, Epoch::MIN),
        }
    }

    /// Completes the bundle: inside sled if it has at most `inline_bytes_max` bytes, else as a synced file.
    /// `None` if there is no run.
    pub(crate) fn finish(mut self, inline_bytes_max: usize) -> Result<Option<NewBundle>> {
        if self.runs.is_empty() {
            return Ok(None);
        }
        let inline = self.file.is_none() && self.buffer.len() <= inline_bytes_max;
        let mut crc = 0;
        if !inline {
            crc = self.put_footer();
            self.flush()?;
            if let Some(file) = self.file.take() {
                self.env.disk.publish_segment(file)?;
            }
        }
        let len = self.position();
        self.env.bytes_written.fetch_add(len, Ordering::Relaxed);
        let location = match inline {
            true => {
                let bytes = Buffer::from_vec(std::mem::take(&mut self.buffer));
                Location::Inline(OnceLock::from(bytes))
            }
            false => Location::File,
        };
        let bundle = Bundle {
            id: self.id,
            env: self.env.clone(),
            len,
            location,
            retired: AtomicBool::new(true),
            cached: Mutex::default(),
        };
        Ok(Some(NewBundle {
            bundle: Arc::new(bundle),
            runs: self.runs.drain(..).map(|r| r.0).collect(),
            crc,
        }))
    }

    fn put_footer(&mut self) -> u32 {
        self.align();
        let at = self.position();
        let mut footer = Vec::new();
        footer.u32(self.runs.len() as u32);
        footer.u32(u32::from(RunMeta::VERSION));
        for (meta, desc) in &self.runs {
            meta.put(&mut footer);
            manifest::put_desc(desc, &mut footer);
        }
        let crc = crc32fast::hash(&footer);
        let len = footer.len() as u32;
        self.buffer.extend_from_slice(&footer);
        self.buffer.u64(at);
        self.buffer.u32(len);
        self.buffer.u32(crc);
        self.buffer.u64(MAGIC);
        crc
    }
}

impl Drop for BundleWriter {
    fn drop(&mut self) {
        // Given up half-way: nobody will ever name the file.
        if let Some(file) = self.file.take() {
            file.remove();
        }
    }
}

/// Writes one run, block by block.
pub(crate) struct RunWriter<'a> {
    to: &'a mut BundleWriter,
    desc: Arc<ArrangementDesc>,
    compress: bool,
    index: Vec<BlockMeta>,
    rows: u64,
    bytes: u64,
    negative: bool,
    epochs: (Epoch, Epoch),
}

impl RunWriter<'_> {
    /// Appends a block.
    pub(crate) fn block(&mut self, rows: &BlockRows) -> Result<()> {
        self.to.align();
        let at = self.to.position();
        let from = self.to.buffer.len();
        rows.encode(&mut self.to.buffer);
        let mut raw = 0;
        if self.compress {
            let plain = &self.to.buffer[from..];
            let packed = lz4_flex::block::compress(plain);
            // Worth reading back only if it saves an eighth.
            if packed.len() < plain.len() - plain.len() / 8 {
                raw = plain.len() as u32;
                self.to.buffer.truncate(from);
                self.to.buffer.extend_from_slice(&packed);
            }
        }
        let stored = &self.to.buffer[from..];
        let (min_epoch, max_epoch) = rows.epochs.min_max();
        self.index.push(BlockMeta {
            at,
            stored: stored.len() as u32,
            raw,
            crc: crc32fast::hash(stored),
            rows: rows.rows.num_rows() as u32,
            first_hash: rows.hashes.first().copied().unwrap_or(0),
            last_hash: rows.hashes.last().copied().unwrap_or(0),
            min_epoch,
            max_epoch,
        });
        self.count(rows.diffs.min_max().0 < 0)
    }

    /// Appends a block of another run as it is stored there; `negative` if that run has negative diffs.
    pub(crate) fn copy(&mut self, meta: &BlockMeta, stored: &[u8], negative: bool) -> Result<()> {
        self.to.align();
        let at = self.to.position();
        self.to.buffer.extend_from_slice(stored);
        self.index.push(BlockMeta { at, ..meta.clone() });
        self.count(negative)
    }

    /// Takes the block added last into the sums of the run.
    fn count(&mut self, negative: bool) -> Result<()> {
        if let Some(b) = self.index.last() {
            self.rows += u64::from(b.rows);
            self.bytes += u64::from(b.stored);
            let (oldest, newest) = self.epochs;
            self.epochs = (oldest.min(b.min_epoch), newest.max(b.max_epoch));
        }
        self.negative |= negative;
        if self.to.buffer.len() >= WRITE_BYTES {
            self.to.flush()?;
        }
        Ok(())
    }

    /// Ends the run. Without a block there is none. `order` is given when the run becomes visible.
    pub(crate) fn finish(self, end: RunEnd) {
        if self.index.is_empty() {
            return;
        }
        self.to.align();
        let index_at = self.to.position();
        let from = self.to.buffer.len();
        self.to.buffer.reserve(self.index.len() * BlockMeta::BYTES);
        for b in &self.index {
            b.put(&mut self.to.buffer);
        }
        let meta = RunMeta {
            arrangement: self.desc.id,
            order: 0,
            rows: self.rows,
            bytes: self.bytes,
            min_epoch: self.epochs.0,
            max_epoch: self.epochs.1,
            since: end.since,
            index_at,
            blocks: self.index.len() as u32,
            index_crc: crc32fast::hash(&self.to.buffer[from..]),
            negative: self.negative,
            distinct: end.distinct,
            dead_from: end.dead_from,
            alive_from: end.alive_from,
            aside: end.aside,
        };
        self.to.runs.push((meta, self.desc));
    }
}

/// What a segment file says of itself: for repair, when the manifest is lost.
pub fn describe_segment(path: &std::path::Path) -> Result<Vec<(ArrangementDesc, SegmentRun)>> {
    let damaged = |detail: &str| StoreError::Corrupt {
        what: path.display().to_string(),
        detail: detail.to_string(),
    };
    let bytes = std::fs::read(path).map_err(|e| io_error("reading", path, e))?;
    let split = bytes.len().checked_sub(TRAILER_BYTES);
    let split = split.filter(|s| *s >= HEADER_BYTES);
    let mut trailer = Wire(&bytes[split.ok_or_else(|| damaged("too short"))?..]);
    let (at, len, crc) = (trailer.u64(), trailer.u32(), trailer.u32());
    if trailer.u64() != Some(MAGIC) {
        return Err(damaged("no segment ends here"));
    }
    let from = at.unwrap_or(0) as usize;
    let footer = bytes
        .get(from..)
        .and_then(|b| b.get(..len.unwrap_or(0) as usize))
        .filter(|f| Some(crc32fast::hash(f)) == crc)
        .ok_or_else(|| damaged("wrong checksum of the footer"))?;
    let mut wire = Wire(footer);
    // Segments of the first version have 0 here.
    let (runs, version) = (wire.u32().unwrap_or(0), wire.u32().unwrap_or(0).max(1));
    let mut out = Vec::new();
    for _ in 0..runs {
        let meta = RunMeta::get(&mut wire, version as u8)
            .ok_or_else(|| damaged("the footer is too short"))?;
        let desc = manifest::get_desc(meta.arrangement, &mut wire)
            .map_err(|detail| damaged(&format!("the footer: {detail}")))?;
        out.push((
            desc,
            SegmentRun {
                rows: meta.rows,
                min_epoch: meta.min_epoch,
                max_epoch: meta.max_epoch,
            },
        ));
    }
    Ok(out)
}

/// One run of a segment file, as its footer describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentRun {
    /// Entries.
    pub rows: u64,
    /// Smallest epoch of an entry.
    pub min_epoch: Epoch,
    /// Largest epoch of an entry.
    pub max_epoch: Epoch,
}

/// True for kinds whose runs are sorted by hash.
pub(crate) fn is_sorted(kind: ArrangementKind) -> bool {
    kind != ArrangementKind::Log
}
