//! Reads one file from where its entry says to where it ends now, in batches.
//!
//! Invariant: when a batch is handed over, the entry describes exactly the bytes that all batches up to and
//! including it came from.

use std::fs::File;
use std::io;

use arrow::buffer::Buffer;

use super::chunks::{CHUNK_BYTES, Chunks};
use super::entry::{FileEntry, Packing, Progress};
use super::identity::Cover;
use super::input::{BYTE_ORDER_MARK, Ending, FirstLine, Input, first_line};
use super::options::FilesOptions;
use crate::decode::errors::RAW_BYTES_MAX;
use crate::decode::{Decoded, Decoder, End, FileContext};
use crate::queue::Stopped;
use crate::source::{ConnectorError, SourceSpec, Wanted};

/// Room behind the text of a small file, so that its end can be seen in one read.
const SLACK_BYTES: usize = 64;

/// What keeps a file's last bytes from being consumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// Nothing: all is consumed.
    Nothing,
    /// A last line without line end.
    PartialLine,
    /// An open quote.
    OpenQuote,
    /// A packed file that ends too early.
    CutPacking,
}

/// Why reading stopped before the end.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The source was stopped.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// The file can't be read now.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Takes what was decoded: the entry as it is behind it, and the bytes that it consumed.
pub type Emit<'a> = &'a mut dyn FnMut(&FileEntry, Decoded, u64) -> Result<(), Stopped>;

/// One file being read.
pub struct Job<'a> {
    /// Advances as batches are handed over.
    pub entry: &'a mut FileEntry,
    /// What is covered at the entry's offset.
    pub cover: Cover,
    /// Where to stop, in unpacked bytes.
    pub limit: u64,
    /// Bytes of the file, as it was when this read began.
    pub size: u64,
    /// Nothing has changed for a while: give up open quotes, report a cut packing.
    pub settled: bool,
    /// The bytes up to `limit` were consumed before: whatever they end with was complete.
    pub again: bool,
}

/// Reads files one after the other; keeps its buffers.
pub struct Reader {
    decoder: Decoder,
    line_bytes_max: usize,
    batch_rows: usize,
    read_last_line: bool,
    chunks: Chunks,
}

impl Reader {
    /// A reader for the files of a source.
    pub fn new(spec: &SourceSpec, options: &FilesOptions) -> Result<Reader, ConnectorError> {
        Ok(Reader {
            decoder: Decoder::new(spec.schema.clone(), &options.format)?
                .with_line_bytes_max(options.line_bytes_max),
            line_bytes_max: options.line_bytes_max,
            batch_rows: options.batch_rows,
            read_last_line: options.read_last_line,
            chunks: Chunks::default(),
        })
    }

    /// Asks `wanted` at the beginning of each batch which columns it must have.
    pub fn with_wanted(mut self, wanted: impl Fn() -> Option<Wanted> + Send + 'static) -> Reader {
        self.decoder = self.decoder.with_wanted(wanted);
        self
    }

    /// Nothing is to be read for a while.
    pub fn rest(&self) {
        self.chunks.rest();
    }

    /// Reports something about a file as a whole, with the next batch.
    pub fn note(&mut self, entry: &FileEntry, reason: &str) {
        self.begin(entry);
        self.decoder.report(None, None, None, reason);
    }

    /// What has been noted but not handed over.
    pub fn take_notes(&mut self) -> Decoded {
        self.decoder.finish(&Buffer::from_vec(Vec::<u8>::new()))
    }

    fn begin(&mut self, entry: &FileEntry) {
        let file = FileContext {
            path: entry.path.to_string_lossy().into_owned(),
            modified_us: entry.stamp.modified_ns.div_euclid(1000),
        };
        self.decoder.begin_file(file, entry.lines + 1);
    }

    /// Reads `file` as `job` says, handing over batches.
    pub fn read(
        &mut self,
        file: File,
        mut job: Job<'_>,
        emit: Emit<'_>,
    ) -> Result<Left, ReadError> {
        self.begin(job.entry);
        let packing = job.entry.packing;
        let emitted = job.entry.offset;
        if self.decoder.has_header()
            && let Some(left) = self.header(file.try_clone()?, &mut job, emit)?
        {
            return Ok(left);
        }
        let offset = job.entry.offset;
        let mut run = Run {
            reader: self,
            base: offset,
            emitted,
            emit,
            job,
            skipping: None,
        };
        let input = Input::open(file, packing, offset, run.job.limit, run.job.size)?;
        run.run(input)
    }

    /// Reads the header of the file, consuming it if it hasn't been. `Some`: nothing more can be read.
    fn header(
        &mut self,
        file: File,
        job: &mut Job<'_>,
        emit: Emit<'_>,
    ) -> Result<Option<Left>, ReadError> {
        let packed = job.entry.packing != Packing::Plain;
        let fresh = job.entry.offset == 0;
        let line = match first_line(
            file,
            job.entry.packing,
            self.line_bytes_max,
            packed || !fresh || (job.settled && self.read_last_line),
        )? {
            FirstLine::Damaged(_) if !job.settled => return Ok(Some(Left::CutPacking)),
            FirstLine::Damaged(reason) => {
                self.decoder.report(Some(0), Some(1), None, &reason);
                job.entry.progress = Progress::Cut;
                job.cover.store(job.entry);
                let decoded = self.decoder.finish(&Buffer::from_vec(Vec::<u8>::new()));
                emit(job.entry, decoded, 0)?;
                return Ok(Some(Left::Nothing));
            }
            FirstLine::Incomplete => return Ok(Some(Left::PartialLine)),
            FirstLine::Line(line) => Ok(line),
            FirstLine::TooLong(line) => Err(line),
        };
        let (result, line) = match line {
            Ok(line) => {
                let text = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&line);
                let text = text.strip_suffix(b"\n").unwrap_or(text);
                let text = text.strip_suffix(b"\r").unwrap_or(text);
                (self.decoder.set_header(text), line)
            }
            Err(line) => (Err("the header is too long".to_string()), line),
        };
        if !fresh {
            // It was right when the file was begun, and is covered by the hash of the head.
            return Ok(None);
        }
        if !packed {
            job.cover.extend(&line);
        }
        match result {
            Ok(()) => {
                job.entry.offset = line.len() as u64;
                job.entry.lines = 1;
                self.decoder.skip_line();
                Ok(None)
            }
            Err(reason) => {
                let hint = "none of the file is read; correct the header or the source's columns";
                let reason = format!("{reason}; {hint}");
                self.decoder.report(Some(0), Some(1), Some(&line), &reason);
                job.entry.progress = Progress::Rejected;
                job.cover.store(job.entry);
                let decoded = self.decoder.finish(&Buffer::from_vec(Vec::<u8>::new()));
                emit(job.entry, decoded, 0)?;
                Ok(Some(Left::Nothing))
            }
        }
    }
}

/// A line longer than allowed that is being passed over.
struct Skipping {
    offset: u64,
    raw: Vec<u8>,
    cover: Cover,
}

/// The state of one [`Reader::read`].
struct Run<'r, 'e, 'j> {
    reader: &'r mut Reader,
    job: Job<'j>,
    emit: Emit<'e>,
    /// Position of the chunk's first byte.
    base: u64,
    /// The offset up to which bytes have been counted.
    emitted: u64,
    skipping: Option<Skipping>,
}

impl Run<'_, '_, '_> {
    fn run(&mut self, mut input: Input) -> Result<Left, ReadError> {
        let mut buffer = self.first_buffer();
        let mut carried = 0;
        loop {
            let (n, ending) = match input.fill(&mut buffer[carried..]) {
                Ok(filled) => filled,
                Err(e) => {
                    // What was decoded is consumed: hand it over before the trouble is told.
                    if self.reader.decoder.pending() > 0 {
                        self.flush(&self.reader.chunks.share(buffer))?;
                    }
                    return Err(e.into());
                }
            };
            let len = carried + n;
            if !matches!(ending, Ending::More) && len < buffer.len() / 2 {
                // Rows may keep the chunk alive: don't let a few hold a whole one.
                let exact = buffer[..len].to_vec();
                self.reader
                    .chunks
                    .give(std::mem::replace(&mut buffer, exact));
            }
            let chunk = self.reader.chunks.share(buffer);
            let at = self.chunk(&chunk, len, &ending)?;
            if !matches!(ending, Ending::More) {
                return self.end(&chunk, at, len, &ending);
            }
            if self.reader.decoder.uses_chunk() {
                self.flush(&chunk)?;
            }
            self.base += at as u64;
            carried = len - at;
            let wanted = if carried * 2 > len.max(CHUNK_BYTES) {
                (len * 2).min(self.reader.decoder.awaited_bytes() + CHUNK_BYTES)
            } else {
                CHUNK_BYTES
            };
            let rest = chunk[at..len].to_vec();
            // If no batch looks into it, it is taken again at once, while it is in the cache.
            drop(chunk);
            buffer = self.reader.chunks.take(wanted.max(carried + 1));
            buffer[..carried].copy_from_slice(&rest);
        }
    }

    /// A buffer for the first chunk: small for small files.
    fn first_buffer(&mut self) -> Vec<u8> {
        let left = match self.job.entry.packing {
            Packing::Plain => self.job.limit.saturating_sub(self.base),
            _ => CHUNK_BYTES as u64,
        };
        let wanted = (left as usize).saturating_add(SLACK_BYTES).min(CHUNK_BYTES);
        self.reader.chunks.take(wanted)
    }

    /// Decodes what is complete in the chunk's first `len` bytes; returns where the rest begins.
    fn chunk(&mut self, chunk: &Buffer, len: usize, ending: &Ending) -> Result<usize, ReadError> {
        let packed = self.job.entry.packing != Packing::Plain;
        let end = match ending {
            Ending::End if packed => End::Last,
            Ending::End if self.job.again => End::Last,
            Ending::End if self.job.settled && self.reader.read_last_line => End::Last,
            Ending::End if self.job.settled => End::Settled,
            _ => End::More,
        };
        let bytes = &chunk[..len];
        let mut at = match self.pass_over(bytes, end) {
            None => return Ok(len),
            Some(at) => at,
        };
        if self.base == 0 && bytes.starts_with(BYTE_ORDER_MARK) && at == 0 {
            at = BYTE_ORDER_MARK.len();
            self.advance(&bytes[..at]);
        }
        self.reader
            .decoder
            .begin_chunk(bytes, at, self.base, end == End::Last);
        at = self.decode(chunk, bytes, at, end)?;
        while len - at > self.reader.decoder.awaited_bytes() && matches!(end, End::More) {
            // Too long to wait for: an open quote gives up its first line, a line is passed over.
            if memchr::memchr(b'\n', &bytes[at..]).is_some() {
                let stop = self.reader.decoder.give_up_record(bytes, at);
                self.advance(&bytes[at..stop]);
                at = self.decode(chunk, bytes, stop, end)?;
            } else {
                let mut cover = self.job.cover.clone();
                cover.extend(&bytes[at..]);
                self.skipping = Some(Skipping {
                    offset: self.base + at as u64,
                    raw: bytes[at..len.min(at + RAW_BYTES_MAX + 1)].to_vec(),
                    cover,
                });
                return Ok(len);
            }
        }
        Ok(at)
    }

    /// Behind the line that is being passed over; `None` if it goes on.
    fn pass_over(&mut self, bytes: &[u8], end: End) -> Option<usize> {
        let Some(skipping) = &mut self.skipping else {
            return Some(0);
        };
        let stop = match memchr::memchr(b'\n', bytes) {
            Some(n) => n + 1,
            None if end == End::Last => bytes.len(),
            None => {
                skipping.cover.extend(bytes);
                return None;
            }
        };
        skipping.cover.extend(&bytes[..stop]);
        let skipping = self.skipping.take().expect("it was just there");
        let decoder = &mut self.reader.decoder;
        let reason = decoder.too_long();
        decoder.report(
            Some(skipping.offset),
            Some(decoder.line()),
            Some(&skipping.raw),
            &reason,
        );
        decoder.skip_line();
        self.job.cover = skipping.cover;
        self.job.entry.offset = self.base + stop as u64;
        self.job.entry.lines = decoder.line() - 1;
        Some(stop)
    }

    fn decode(
        &mut self,
        chunk: &Buffer,
        bytes: &[u8],
        mut at: usize,
        end: End,
    ) -> Result<usize, ReadError> {
        while at < bytes.len() {
            let rows_max = self.reader.batch_rows;
            let stop = self.reader.decoder.decode(bytes, at, end, rows_max);
            if stop == at {
                break;
            }
            self.advance(&bytes[at..stop]);
            at = stop;
            if self.reader.decoder.is_full(rows_max) {
                self.flush(chunk)?;
            }
        }
        Ok(at)
    }

    /// The next `bytes` are consumed.
    fn advance(&mut self, bytes: &[u8]) {
        self.job.entry.offset += bytes.len() as u64;
        self.job.entry.lines = self.reader.decoder.line() - 1;
        if self.job.entry.packing == Packing::Plain {
            self.job.cover.extend(bytes);
        }
    }

    /// Hands over what has been decoded.
    fn flush(&mut self, chunk: &Buffer) -> Result<(), ReadError> {
        let entry = &mut *self.job.entry;
        self.job.cover.store(entry);
        let bytes = entry.offset - self.emitted;
        self.emitted = entry.offset;
        let decoded = self.reader.decoder.finish(chunk);
        let records = [&decoded.rows, &decoded.errors].into_iter().flatten();
        entry.records += records.map(|b| b.num_rows() as u64).sum::<u64>();
        (self.emit)(entry, decoded, bytes)?;
        Ok(())
    }

    /// The input has ended with the bytes of the chunk from `at` to `len` not consumed.
    fn end(
        &mut self,
        chunk: &Buffer,
        at: usize,
        len: usize,
        ending: &Ending,
    ) -> Result<Left, ReadError> {
        let rest = &chunk[at..len];
        let packed = self.job.entry.packing != Packing::Plain;
        let before = self.job.entry.progress;
        let left = match ending {
            Ending::Damaged(reason) if self.job.settled => {
                let (offset, line) = (self.job.entry.offset, self.reader.decoder.line());
                self.reader
                    .decoder
                    .report(Some(offset), Some(line), Some(rest), reason);
                self.job.entry.progress = Progress::Cut;
                Left::Nothing
            }
            Ending::Damaged(_) => Left::CutPacking,
            _ if packed => {
                self.job.entry.progress = Progress::Complete;
                Left::Nothing
            }
            _ if self.skipping.is_some() => Left::PartialLine,
            _ if rest.is_empty() => {
                let unended = chunk[..len].last().is_some_and(|b| *b != b'\n');
                let may_end = self.job.settled && self.reader.read_last_line;
                if unended && may_end && self.job.entry.lines > 0 {
                    self.job.entry.progress = Progress::Unended;
                }
                Left::Nothing
            }
            _ if memchr::memchr(b'\n', rest).is_some() => Left::OpenQuote,
            _ => Left::PartialLine,
        };
        let changed = self.job.entry.progress != before || self.job.entry.offset > self.emitted;
        if changed || self.reader.decoder.pending() > 0 {
            self.flush(chunk)?;
        }
        Ok(left)
    }
}
