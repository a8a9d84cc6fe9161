//! Bytes of a format to columns, in two steps per block of rows: a splitter ([`csv`], [`jsonl`]) finds
//! the fields, then each [`column`] converts its own.
//!
//! Invariant: every record either becomes a row or an error row, exactly once; what one record holds
//! never changes what becomes of another, except behind an open quote (see [`csv`]).

pub mod column;
pub mod csv;
pub mod errors;
pub mod field;
pub mod json;
pub mod jsonl;
pub mod marks;
mod shape;
pub mod views;

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, StringViewArray,
    TimestampMicrosecondArray, new_empty_array,
};
use arrow::buffer::Buffer;
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Schema, SchemaRef};
use memchr::memchr;
use tidemill_zset::schema::{SqlType, UTC};

use column::Column;
use csv::{CsvFormat, CsvSplitter};
use errors::ErrorRows;
use field::{BLOCK_BYTES, BLOCK_ROWS, BLOCK_ROWS_MIN, Block, Texts};
use jsonl::{JsonlSplitter, Wants};

use crate::source::{ConnectorError, Wanted};

/// Columns that say where a row comes from, with the types that they must have.
pub const METADATA_COLUMNS: [(&str, SqlType); 4] = [
    ("_path", SqlType::Text),
    ("_offset", SqlType::Int8),
    ("_line", SqlType::Int8),
    ("_modified_at", SqlType::Timestamptz),
];

/// A format with its options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Format {
    /// Comma-separated values.
    Csv(CsvFormat),
    /// One JSON object per line.
    Jsonl,
}

/// What the end of a chunk means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// More may follow: an incomplete record waits.
    More,
    /// Nothing has followed for a while: an open quote is an error, an incomplete line waits.
    Settled,
    /// Nothing will follow: the last line needs no line end.
    Last,
}

/// The file that is being decoded.
#[derive(Clone, Debug, Default)]
pub struct FileContext {
    /// Its path.
    pub path: String,
    /// When it was modified, in microseconds since the Unix epoch.
    pub modified_us: i64,
}

/// Rows that have been split but not converted, and everything that a splitter reports.
pub struct Rows {
    /// The fields.
    pub block: Block,
    /// Text that had to be unescaped.
    pub side: Vec<u8>,
    /// Number of the next line, from 1.
    pub line: u64,
    /// The chunk has invalid UTF-8 or a NUL somewhere: each record must be checked.
    pub dirty: bool,
    /// Position in the file of the chunk's first byte.
    base: u64,
    path: String,
    errors: ErrorRows,
    block_rows_max: usize,
    /// Longest record, in bytes.
    pub line_bytes_max: usize,
}

impl Rows {
    /// For rows of `width` fields.
    pub fn new(width: usize) -> Self {
        Rows {
            block: Block::new(width, BLOCK_ROWS),
            side: Vec::new(),
            line: 1,
            dirty: false,
            base: 0,
            path: String::new(),
            errors: ErrorRows::default(),
            block_rows_max: BLOCK_ROWS,
            line_bytes_max: usize::MAX,
        }
    }

    /// For one row of `width` fields.
    pub fn of_one(width: usize) -> Self {
        Rows {
            block: Block::new(width, 0),
            ..Rows::new(0)
        }
    }

    /// Bytes within which the end of a record is waited for. One that is too long and ends within them is passed over as a
    /// whole; of a longer one, whose quote may never close, only the first line is.
    pub fn awaited_bytes(&self) -> usize {
        let twice = self.line_bytes_max.saturating_mul(2);
        twice.min(CHUNK_BYTES_LIMIT).max(self.line_bytes_max)
    }

    /// The reason of records that are longer than allowed.
    #[cold]
    pub fn too_long(&self) -> String {
        format!(
            "record is longer than {} bytes (option max_line_bytes)",
            self.line_bytes_max
        )
    }

    /// Whether the block holds what it may.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.block.len() >= self.block_rows_max || self.errors.len() >= ERRORS_PER_BATCH_MAX
    }

    /// The buffers that the block's fields lie in.
    pub fn texts<'a>(&'a self, main: &'a [u8]) -> Texts<'a> {
        Texts {
            main,
            side: &self.side,
        }
    }

    /// Reports the bytes `start..end` of the chunk, on the current line.
    #[cold]
    pub fn error(&mut self, bytes: &[u8], start: usize, end: usize, reason: String) {
        let offset = self.base + start as u64;
        self.errors.push(
            &self.path,
            Some(offset as i64),
            Some(self.line as i64),
            Some(&bytes[start..end]),
            &reason,
        );
    }

    /// Checks the text of a record of a dirty chunk; reports it if it's bad.
    #[cold]
    pub fn check_text(&mut self, bytes: &[u8], start: usize, end: usize) -> bool {
        let text = &bytes[start..end];
        let bad = match std::str::from_utf8(text) {
            Err(e) => Some(text[e.valid_up_to()]),
            Ok(_) => memchr(0, text).map(|_| 0),
        };
        if let Some(byte) = bad {
            let reason = format!("invalid byte sequence for encoding \"UTF8\": 0x{byte:02x}");
            self.error(bytes, start, end, reason);
        }
        bad.is_none()
    }
}

/// Error rows that end a batch.
const ERRORS_PER_BATCH_MAX: usize = 4096;
/// Bytes of a chunk that are kept for a record whose end isn't found: positions in a chunk are 31 bits.
const CHUNK_BYTES_LIMIT: usize = 1 << 30;

/// Text of a batch, about, in bytes. What is unescaped or rewritten of it is kept together with offsets of 31 bits.
const BATCH_BYTES_MAX: usize = 64 << 20;

enum Splitter {
    Csv(CsvSplitter),
    Jsonl(JsonlSplitter),
}

/// Where an output column comes from.
enum Slot {
    Data(usize),
    Path,
    Offset,
    Line,
    ModifiedAt,
}

/// What a decoder hands over.
pub struct Decoded {
    /// Rows of the declared schema.
    pub rows: Option<RecordBatch>,
    /// As [`SourceBatch::columns`](crate::SourceBatch::columns).
    pub columns: Option<Wanted>,
    /// Rows of [`error_schema`](crate::error_schema).
    pub errors: Option<RecordBatch>,
}

/// Turns chunks of a file into batches.
pub struct Decoder {
    schema: SchemaRef,
    slots: Vec<Slot>,
    columns: Vec<Column>,
    /// Asked at the beginning of each batch, if there is anybody to ask.
    wanted: Option<Box<dyn Fn() -> Option<Wanted> + Send>>,
    /// Of the columns, those that the batch does without.
    left_out: Vec<bool>,
    /// What stands for each of them, as long as the longest batch that needed it.
    placeholders: Vec<ArrayRef>,
    splitter: Splitter,
    rows: Rows,
    modified_us: i64,
    /// Rows of the next block, at most.
    block_rows: usize,
    /// Bytes of the batch's records so far.
    batch_bytes: usize,
    /// Rows of the batch so far, bad ones included, and which of them are bad.
    batch_rows: usize,
    bad: Vec<usize>,
    /// Filled if the schema has `_offset` or `_line`.
    offsets: Option<Vec<i64>>,
    lines: Option<Vec<i64>>,
}

impl Decoder {
    /// A decoder for rows of `schema`. Refuses types that have no text form, metadata columns of a wrong type.
    pub fn new(schema: SchemaRef, format: &Format) -> Result<Decoder, ConnectorError> {
        let (slots, data) = layout(&schema)?;
        let columns: Vec<Column> = data.iter().map(|i| Column::new(schema.field(*i))).collect();
        let names: Vec<String> = data
            .iter()
            .map(|i| schema.field(*i).name().clone())
            .collect();
        let has = |name: &str| schema.fields().iter().any(|f| f.name() == name);
        let splitter = match format {
            Format::Csv(options) => Splitter::Csv(CsvSplitter::new(options.clone(), names)),
            Format::Jsonl => {
                let wants = data.iter().map(|i| wants(&schema, *i)).collect();
                Splitter::Jsonl(JsonlSplitter::new(names, wants))
            }
        };
        Ok(Decoder {
            slots,
            splitter,
            rows: Rows::new(columns.len()),
            left_out: vec![false; columns.len()],
            placeholders: data
                .iter()
                .map(|i| new_empty_array(schema.field(*i).data_type()))
                .collect(),
            wanted: None,
            columns,
            modified_us: 0,
            block_rows: BLOCK_ROWS_MIN,
            batch_rows: 0,
            batch_bytes: 0,
            bad: Vec::new(),
            offsets: has("_offset").then(Vec::new),
            lines: has("_line").then(Vec::new),
            schema,
        })
    }

    /// Makes records longer than `bytes` error rows.
    pub fn with_line_bytes_max(mut self, bytes: usize) -> Self {
        self.rows.line_bytes_max = bytes;
        self
    }

    /// Asks `wanted` at the beginning of each batch which columns it must have. Of the others only errors are found.
    pub fn with_wanted(mut self, wanted: impl Fn() -> Option<Wanted> + Send + 'static) -> Self {
        self.wanted = Some(Box::new(wanted));
        self
    }

    /// The reason of records that are longer than allowed.
    pub fn too_long(&self) -> String {
        self.rows.too_long()
    }

    /// Bytes within which the end of a record is waited for.
    pub fn awaited_bytes(&self) -> usize {
        self.rows.awaited_bytes()
    }

    /// Reports the first line of the record at `at`, whose end isn't waited for any longer; returns where the next line starts.
    pub fn give_up_record(&mut self, bytes: &[u8], at: usize) -> usize {
        match &mut self.splitter {
            Splitter::Csv(s) => s.give_up_record(bytes, at, &mut self.rows),
            Splitter::Jsonl(_) => at,
        }
    }

    /// What follows belongs to `file` and begins on line `line` (from 1).
    pub fn begin_file(&mut self, file: FileContext, line: u64) {
        self.rows.path = file.path;
        self.rows.line = line;
        self.modified_us = file.modified_us;
    }

    /// Whether each file begins with a header, to be given to [`set_header`](Self::set_header).
    pub fn has_header(&self) -> bool {
        matches!(&self.splitter, Splitter::Csv(s) if s.has_header())
    }

    /// Reads a file's header; an `Err` says why the file can't be read.
    pub fn set_header(&mut self, line: &[u8]) -> Result<(), String> {
        match &mut self.splitter {
            Splitter::Csv(s) => s.set_header(line),
            Splitter::Jsonl(_) => Ok(()),
        }
    }

    /// A new chunk follows, whose first byte stands at `base` of the file and which will be decoded
    /// from `from`. `last`: no chunk of the file comes after it.
    pub fn begin_chunk(&mut self, chunk: &[u8], from: usize, base: u64, last: bool) {
        self.rows.base = base;
        if let Splitter::Csv(s) = &mut self.splitter {
            s.seek(from);
        }
        self.rows.dirty = !is_clean(&chunk[from..], last);
    }

    /// Decodes complete records of the chunk from `at` on until the batch has `rows_max` rows. Returns
    /// where it stopped: behind a record.
    pub fn decode(&mut self, bytes: &[u8], mut at: usize, end: End, rows_max: usize) -> usize {
        loop {
            self.rows.block_rows_max = self
                .block_rows
                .min(rows_max.saturating_sub(self.batch_rows));
            let stop = match &mut self.splitter {
                Splitter::Csv(s) => s.fill(bytes, at, end, &mut self.rows),
                Splitter::Jsonl(s) => s.fill(bytes, at, end, &mut self.rows),
            };
            let full = self.rows.is_full();
            self.convert(bytes);
            if stop == at || !full {
                return stop;
            }
            at = stop;
            if self.is_full(rows_max) {
                return at;
            }
        }
    }

    /// Decides which columns the batch does without.
    fn choose_columns(&mut self) {
        let Some(wanted) = &self.wanted else { return };
        let wanted = wanted();
        for (place, slot) in self.slots.iter().enumerate() {
            if let Slot::Data(i) = slot {
                self.left_out[*i] = wanted.as_ref().is_some_and(|wanted| !wanted[place]);
            }
        }
    }

    /// The columns that the batch has, by place in the schema; `None`: all.
    fn chosen_columns(&self) -> Option<Wanted> {
        let has = |slot: &Slot| !matches!(slot, Slot::Data(i) if self.left_out[*i]);
        let some_are_left_out = self.left_out.contains(&true);
        some_are_left_out.then(|| self.slots.iter().map(has).collect())
    }

    /// Converts the block's fields and empties it.
    fn convert(&mut self, bytes: &[u8]) {
        if self.batch_rows == 0 {
            self.choose_columns();
        }
        let Rows {
            block,
            side,
            errors,
            base,
            path,
            ..
        } = &mut self.rows;
        let texts = Texts { main: bytes, side };
        let json = matches!(self.splitter, Splitter::Jsonl(_));
        let first = self.batch_rows;
        let known_bad = self.bad.len();
        for (i, column) in self.columns.iter_mut().enumerate() {
            let on_error = &mut |row: usize, reason: String| {
                if self.bad[known_bad..].contains(&(first + row)) {
                    return;
                }
                self.bad.push(first + row);
                let (start, end) = (block.starts[row] as usize, block.ends[row] as usize);
                errors.push(
                    path,
                    Some((*base + start as u64) as i64),
                    Some(block.lines[row]),
                    Some(&bytes[start..end]),
                    &reason,
                );
            };
            match self.left_out[i] {
                true => column.check(block, i, texts, json, on_error),
                false => column.append(block, i, texts, json, on_error),
            }
        }
        if let Some(offsets) = &mut self.offsets {
            let base = *base as i64;
            offsets.extend(block.starts.iter().map(|s| base + *s as i64));
        }
        if let Some(lines) = &mut self.lines {
            lines.extend_from_slice(&block.lines);
        }
        self.batch_rows += block.len();
        if let (Some(start), Some(end)) = (block.starts.first(), block.ends.last()) {
            let row_bytes = ((end - start) as usize / block.len()).max(1);
            self.block_rows = (BLOCK_BYTES / row_bytes).clamp(BLOCK_ROWS_MIN, BLOCK_ROWS);
            self.batch_bytes += (end - start) as usize;
        }
        block.clear();
    }

    /// Reports something about the file as a whole, or a part of it that couldn't be decoded.
    pub fn report(
        &mut self,
        offset: Option<u64>,
        line: Option<u64>,
        raw: Option<&[u8]>,
        reason: &str,
    ) {
        self.rows.errors.push(
            &self.rows.path,
            offset.map(|o| o as i64),
            line.map(|l| l as i64),
            raw,
            reason,
        );
    }

    /// Number of the next line.
    pub fn line(&self) -> u64 {
        self.rows.line
    }

    /// Counts a line that was passed over.
    pub fn skip_line(&mut self) {
        self.rows.line += 1;
    }

    /// Rows and error rows that [`finish`](Self::finish) would give.
    pub fn pending(&self) -> usize {
        self.batch_rows - self.bad.len() + self.rows.errors.len()
    }

    /// Whether the batch has `rows_max` rows, or as much text or as many error rows as it may have.
    pub fn is_full(&self, rows_max: usize) -> bool {
        self.batch_rows >= rows_max
            || self.batch_bytes >= BATCH_BYTES_MAX
            || self.rows.errors.len() >= ERRORS_PER_BATCH_MAX
    }

    /// Whether a row of the batch refers to the chunk: it must then be finished before the next chunk.
    pub fn uses_chunk(&self) -> bool {
        self.columns.iter().any(Column::uses_chunk)
    }

    /// Ends the batch. `chunk` is the one that all its rows came from; what it holds behind the bytes
    /// that were given doesn't matter.
    pub fn finish(&mut self, chunk: &Buffer) -> Decoded {
        let errors = self.rows.errors.finish();
        if self.batch_rows == 0 {
            self.rows.side.clear();
            return Decoded {
                rows: None,
                columns: None,
                errors,
            };
        }
        let side = Buffer::from_vec(std::mem::take(&mut self.rows.side));
        let rows = self.batch_rows;
        let mut data: Vec<ArrayRef> = Vec::with_capacity(self.columns.len());
        for (i, column) in self.columns.iter_mut().enumerate() {
            data.push(match self.left_out[i] {
                true => placeholder(&mut self.placeholders[i], rows),
                false => column.finish(chunk, &side),
            });
        }
        let arrays = (self.slots.iter())
            .map(|slot| match slot {
                Slot::Data(i) => data[*i].clone(),
                Slot::Path => repeated(&self.rows.path, rows),
                Slot::Offset => taken(&mut self.offsets),
                Slot::Line => taken(&mut self.lines),
                Slot::ModifiedAt => Arc::new(
                    TimestampMicrosecondArray::from_value(self.modified_us, rows)
                        .with_timezone(UTC),
                ),
            })
            .collect();
        let mut batch = assemble(&self.schema, arrays);
        if !self.bad.is_empty() {
            let mut keep = vec![true; rows];
            for row in self.bad.drain(..) {
                keep[row] = false;
            }
            batch = filter_record_batch(&batch, &BooleanArray::from(keep))
                .expect("the mask has a bit per row");
        }
        self.batch_rows = 0;
        self.batch_bytes = 0;
        self.bad.clear();
        let rows = (batch.num_rows() > 0).then_some(batch);
        let columns = rows.as_ref().and_then(|_| self.chosen_columns());
        let rows = rows.map(|b| {
            RecordBatch::try_new(self.schema.clone(), b.columns().to_vec())
                .expect("rows with a NULL where none may be were filtered out")
        });
        Decoded {
            rows,
            columns,
            errors,
        }
    }
}

/// Whether `text` is UTF-8 without NUL. What isn't `last` may end within a character: that record isn't complete.
fn is_clean(text: &[u8], last: bool) -> bool {
    // Most chunks are ASCII, which is found out many bytes at a time.
    let ascii = |bytes: &[u8]| bytes.iter().fold(true, |all, b| all & (*b as i8 > 0));
    let start = text
        .chunks(256)
        .position(|bytes| !ascii(bytes))
        .map_or(text.len(), |n| n * 256);
    let rest = &text[start..];
    let utf8 = match std::str::from_utf8(rest) {
        Ok(_) => true,
        Err(e) => !last && e.error_len().is_none(),
    };
    utf8 && memchr(0, rest).is_none()
}

/// Columns as a batch whose NOT NULL columns may still hold the placeholders of bad rows.
fn assemble(schema: &SchemaRef, arrays: Vec<ArrayRef>) -> RecordBatch {
    let fields: Vec<_> = schema
        .fields()
        .iter()
        .map(|f| f.as_ref().clone().with_nullable(true))
        .collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)
        .expect("every column has one value per row, of the declared type")
}

fn taken(values: &mut Option<Vec<i64>>) -> ArrayRef {
    let values = values.as_mut().map(std::mem::take).unwrap_or_default();
    Arc::new(Int64Array::from(values))
}

/// `rows` of `known`, which is made as long as it takes.
fn placeholder(known: &mut ArrayRef, rows: usize) -> ArrayRef {
    if known.len() < rows {
        *known = column::zeros(known.data_type(), rows);
    }
    known.slice(0, rows)
}

/// A text column that has one value in all rows, stored once.
fn repeated(text: &str, rows: usize) -> ArrayRef {
    let view = views::view_of(text.as_bytes(), 0, 0);
    let buffers = vec![Buffer::from(text.as_bytes())];
    let array = StringViewArray::try_new(vec![view; rows].into(), buffers, None)
        .expect("the view names all of its buffer");
    Arc::new(array)
}

fn wants(schema: &Schema, column: usize) -> Wants {
    match SqlType::of(schema.field(column)) {
        SqlType::Json | SqlType::Array(_) => Wants::Json,
        SqlType::Jsonb => Wants::CompactJson,
        _ => Wants::Text,
    }
}

/// Where each column of `schema` comes from, and which hold data.
fn layout(schema: &Schema) -> Result<(Vec<Slot>, Vec<usize>), ConnectorError> {
    let mut data = Vec::new();
    let mut slots = Vec::new();
    for (i, field) in schema.fields().iter().enumerate() {
        let sql = SqlType::of(field);
        let metadata = METADATA_COLUMNS.iter().position(|(n, _)| n == field.name());
        if let Some(m) = metadata {
            let wanted = &METADATA_COLUMNS[m].1;
            if sql != *wanted {
                return Err(ConnectorError::Option {
                    message: format!("column \"{}\" has type {sql}", field.name()),
                    hint: format!(
                        "The metadata column \"{}\" has type {wanted}.",
                        field.name()
                    ),
                });
            }
            slots.push(
                [Slot::Path, Slot::Offset, Slot::Line, Slot::ModifiedAt]
                    .into_iter()
                    .nth(m)
                    .expect("four of each"),
            );
            continue;
        }
        if !column::supports(&sql) {
            return Err(ConnectorError::Option {
                message: format!(
                    "column \"{}\" has type {sql}, which can't be read from text",
                    field.name()
                ),
                hint: "Declare it as jsonb or text and convert it in a view.".into(),
            });
        }
        slots.push(Slot::Data(data.len()));
        data.push(i);
    }
    if data.is_empty() {
        return Err(ConnectorError::Option {
            message: "a source of files needs at least one column besides the metadata columns"
                .into(),
            hint: "Declare the columns of the files, for example (word text).".into(),
        });
    }
    Ok((slots, data))
}
