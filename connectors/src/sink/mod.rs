//! Sinks: files that receive a view's changes, each exactly once.
//!
//! Whoever drives a sink commits the [`Mark`] that [`FileSink::sync`] gives together with the epoch; after a
//! crash, it opens the file with that mark and writes what came after it again, of which the file keeps what it has ([`found`]).
//!
//! Invariant: when a sink has caught up, the file holds exactly the bytes below the committed length, and then the lines that
//! were written, each epoch's together. A file that doesn't end there as the sink's did is somebody else's, and isn't touched.

pub mod cells;
mod found;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use arrow::datatypes::SchemaRef;
use tidemill_zset::{Delta, Epoch};

use crate::options::{check_names, choice, missing, wrong_value};
use crate::source::ConnectorError;
use crate::text::output;
use cells::{Cells, json_string};
use found::{COMPARED_BYTES_MAX, FOUND_BYTES_MAX, Found, Taken};

/// Bytes that are collected before they go to the file.
const BUFFER_BYTES: usize = 256 << 10;

/// With `history_max`, which is for whoever runs the sink, so that errors list it.
const SINK_OPTIONS: &[&str] = &[
    "connector",
    "path",
    "format",
    "time_column",
    "diff_column",
    "history_max",
];

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SinkEncoding {
    /// One JSON object per change.
    Jsonl,
    /// One CSV line per change, a header first.
    Csv,
}

/// The format of a sink's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkFormat {
    /// How lines are written.
    pub encoding: SinkEncoding,
    /// Name of the column with the epoch.
    pub time_column: String,
    /// Name of the column with the diff.
    pub diff_column: String,
}

impl SinkFormat {
    /// The path (made absolute) and format that a sink's `WITH` options say; every option is checked.
    pub fn parse(
        options: &BTreeMap<String, String>,
    ) -> Result<(PathBuf, SinkFormat), ConnectorError> {
        check_names(options, &[], SINK_OPTIONS)?;
        match options.get("connector").map(String::as_str) {
            // Whoever chose this connector may have taken the option out.
            None | Some("files") => {}
            Some(other) => return Err(wrong_value("connector", other, &["files"])),
        }
        let path = options.get("path").filter(|p| !p.is_empty());
        let path = path.ok_or_else(|| missing("path", "path = 'a file'"))?;
        let path = std::path::absolute(path).map_err(|e| {
            ConnectorError::Io(format!("can't make the path \"{path}\" absolute: {e}"))
        })?;
        let encoding = match choice(options, "format", &["jsonl", "csv"])? {
            Some(0) => SinkEncoding::Jsonl,
            Some(_) => SinkEncoding::Csv,
            None => return Err(missing("format", "format = 'jsonl' | 'csv'")),
        };
        let name = |option: &str, default: &str| {
            options
                .get(option)
                .map_or(default, String::as_str)
                .to_string()
        };
        let format = SinkFormat {
            encoding,
            time_column: name("time_column", "time"),
            diff_column: name("diff_column", "diff"),
        };
        Ok((path, format))
    }

    /// Refuses a schema with two columns of one name, or one named like the time or diff column.
    pub fn check_columns(&self, schema: &SchemaRef) -> Result<(), ConnectorError> {
        let own = [
            ("time_column", &self.time_column),
            ("diff_column", &self.diff_column),
        ];
        if self.time_column == self.diff_column {
            return Err(ConnectorError::Option {
                message: format!(
                    "time_column and diff_column are both \"{}\"",
                    self.time_column
                ),
                hint: "Give them different names.".into(),
            });
        }
        for (i, field) in schema.fields().iter().enumerate() {
            let name = field.name();
            if let Some((option, _)) = own.iter().find(|(_, n)| *n == name) {
                return Err(ConnectorError::Option {
                    message: format!(
                        "column \"{name}\" has the name of a column that the sink adds"
                    ),
                    hint: format!("Rename the added one, for example {option} = '_{name}'."),
                });
            }
            if schema.fields()[..i].iter().any(|f| f.name() == name) {
                return Err(ConnectorError::Option {
                    message: format!("two columns are called \"{name}\""),
                    hint: "Give each a name of its own in the view.".into(),
                });
            }
        }
        Ok(())
    }
}

/// How far a sink's file is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Its length in bytes.
    pub length: u64,
    /// CRC-32 of its last [`TAIL_BYTES`] bytes, or of all; marks of earlier versions have none.
    pub tail: Option<u32>,
}

/// Bytes by whose checksum a file is known again.
const TAIL_BYTES: u64 = 4096;

/// A file that receives changes.
pub struct FileSink {
    file: File,
    path: PathBuf,
    format: SinkFormat,
    schema: SchemaRef,
    buffer: Vec<u8>,
    /// Bytes of the file that are known to be right, without the buffer.
    length: u64,
    /// What else is in the file: the buffer waits until the text of its epoch is complete.
    found: Option<Found>,
    /// The epoch that was written last.
    epoch: Option<Epoch>,
    /// What stands before each value.
    prefixes: Vec<Prefix>,
    /// What stands before the diff.
    before_diff: Vec<u8>,
}

/// Bytes of a prefix that are copied at once.
const PREFIX_BYTES: usize = 48;

/// Text that stands before every value of a column.
struct Prefix {
    text: Vec<u8>,
    /// Its beginning, for copying without a loop.
    short: [u8; PREFIX_BYTES],
}

impl Prefix {
    fn new(text: Vec<u8>) -> Prefix {
        let mut short = [0; PREFIX_BYTES];
        let len = text.len().min(PREFIX_BYTES);
        short[..len].copy_from_slice(&text[..len]);
        Prefix { text, short }
    }

    #[inline]
    fn write(&self, out: &mut Vec<u8>) {
        if self.text.len() <= PREFIX_BYTES {
            output::put(&self.short, self.text.len(), out);
        } else {
            out.extend_from_slice(&self.text);
        }
    }
}

impl FileSink {
    /// Opens the file at `path`. `resume` is what was committed: it is an error if the file is shorter or has other bytes
    /// there. What stands behind that stays until it is written again, or [`caught_up`](Self::caught_up). Without, the
    /// file must not exist or be empty.
    pub fn open(
        path: &Path,
        format: SinkFormat,
        schema: SchemaRef,
        resume: Option<Mark>,
    ) -> Result<FileSink, ConnectorError> {
        format.check_columns(&schema)?;
        let trouble = |e| trouble(path, e);
        let committed = resume.as_ref().map(|mark| mark.length);
        let fresh = matches!(committed, None | Some(0));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(fresh)
            .truncate(false)
            .open(path)
            .map_err(|e| match (e.kind(), committed) {
                (std::io::ErrorKind::NotFound, Some(length)) if length > 0 => refused(
                    path,
                    &format!("is gone, though {length} bytes of it were committed"),
                ),
                _ => trouble(e),
            })?;
        lock(&file, path)?;
        let present = file.metadata().map_err(trouble)?.len();
        let length = match committed {
            None if present > 0 => return Err(refused(path, "exists and isn't empty")),
            Some(length) if present < length => {
                let what = format!("has {present} bytes, though {length} were committed");
                return Err(refused(path, &what));
            }
            committed => committed.unwrap_or(0),
        };
        if fresh && let Some(directory) = path.parent() {
            // The name must be as durable as what is committed about it.
            File::open(directory)
                .and_then(|d| d.sync_all())
                .map_err(trouble)?;
        }
        let mut prefixes = prefixes(&format, &schema);
        let before_diff = prefixes.pop().unwrap_or_default();
        let mut sink = FileSink {
            prefixes: prefixes.into_iter().map(Prefix::new).collect(),
            before_diff,
            file,
            path: path.to_path_buf(),
            format,
            schema,
            buffer: Vec::with_capacity(BUFFER_BYTES * 2),
            length,
            found: None,
            epoch: None,
        };
        if sink.format.encoding == SinkEncoding::Csv && length == 0 {
            sink.header();
        }
        if !sink
            .knows(resume.and_then(|mark| mark.tail))
            .map_err(trouble)?
        {
            return Err(refused(
                path,
                "isn't the one that the sink wrote: put that back",
            ));
        }
        let more = present - length;
        if (1..=FOUND_BYTES_MAX).contains(&more) {
            let mut bytes = vec![0; more as usize];
            let read = sink.file.read_exact_at(&mut bytes, length);
            read.map_err(trouble)?;
            sink.found = Some(Found(bytes));
        } else {
            sink.cut()?;
        }
        Ok(sink)
    }

    /// Everything that is to be written was: what else was found in the file isn't the sink's.
    pub fn caught_up(&mut self) -> Result<(), ConnectorError> {
        match self.found {
            Some(_) => self.cut(),
            None => Ok(()),
        }
    }

    /// Ends the file where it is known to be right.
    fn cut(&mut self) -> Result<(), ConnectorError> {
        self.found = None;
        let ended = self.file.set_len(self.length);
        let ended = ended.and_then(|()| self.file.seek(SeekFrom::Start(self.length)));
        ended.map(|_| ()).map_err(|e| trouble(&self.path, e))
    }

    /// The buffer holds all that an epoch has: compares it with what was found.
    fn compare(&mut self) -> Result<(), ConnectorError> {
        let Some(found) = &mut self.found else {
            return Ok(());
        };
        let Taken { kept, missing } = found.take(&self.buffer, self.format.encoding);
        self.length += kept as u64;
        self.buffer = missing;
        match found.0.is_empty() {
            true => self.cut(),
            false => Ok(()),
        }
    }

    /// Whether the file is the sink's, before anything of it is changed: by what stands below the committed length or, where that is
    /// nothing, by its first bytes, which were written and not committed.
    fn knows(&self, tail: Option<u32>) -> std::io::Result<bool> {
        if self.length > 0 {
            return Ok(tail.is_none() || tail == Some(self.tail()?));
        }
        let beginning = match (self.format.encoding, self.prefixes.first()) {
            (SinkEncoding::Csv, _) => &self.buffer,
            (SinkEncoding::Jsonl, Some(prefix)) => &prefix.text,
            (SinkEncoding::Jsonl, None) => &self.before_diff,
        };
        let mut there = vec![0; beginning.len()];
        let mut read = 0;
        while read < there.len() {
            match self.file.read_at(&mut there[read..], read as u64)? {
                0 => break,
                n => read += n,
            }
        }
        Ok(there[..read] == beginning[..read])
    }

    /// The checksum of the last bytes below the length.
    fn tail(&self) -> std::io::Result<u32> {
        let mut tail = vec![0; self.length.min(TAIL_BYTES) as usize];
        let from = self.length - tail.len() as u64;
        self.file.read_exact_at(&mut tail, from)?;
        Ok(crc32fast::hash(&tail))
    }

    /// Writes a line per row of `delta` (into a buffer, which goes to the file as it fills). Epochs ascend.
    pub fn write(&mut self, epoch: Epoch, delta: &Delta) -> Result<(), ConnectorError> {
        if self.epoch.replace(epoch).is_some_and(|last| last != epoch) {
            self.compare()?;
        }
        let fields = self.schema.fields().clone();
        let cells: Vec<Cells> = (delta.rows.columns().iter().zip(&fields))
            .map(|(array, field)| Cells::new(array, field))
            .collect::<Result<_, _>>()
            .map_err(|e| ConnectorError::Io(format!("sink {}: {e}", self.path.display())))?;
        // Most rows come or go once.
        let [comes, goes] = [1, -1].map(|diff| Prefix::new(self.row_end(epoch, diff)));
        for row in 0..delta.len() {
            match self.format.encoding {
                SinkEncoding::Jsonl => {
                    for (cell, prefix) in cells.iter().zip(&self.prefixes) {
                        prefix.write(&mut self.buffer);
                        cell.json(row, &mut self.buffer);
                    }
                }
                SinkEncoding::Csv => {
                    for (cell, prefix) in cells.iter().zip(&self.prefixes) {
                        prefix.write(&mut self.buffer);
                        csv_value(cell, row, &mut self.buffer);
                    }
                }
            }
            match delta.diffs.get(row) {
                1 => comes.write(&mut self.buffer),
                -1 => goes.write(&mut self.buffer),
                diff => self.buffer.extend(self.row_end(epoch, diff)),
            }
            if self.found.is_some() {
                if self.buffer.len() < COMPARED_BYTES_MAX {
                    continue;
                }
                self.cut()?;
            }
            if self.buffer.len() >= BUFFER_BYTES {
                flush(
                    &mut self.file,
                    &self.path,
                    &mut self.buffer,
                    &mut self.length,
                )?;
            }
        }
        Ok(())
    }

    /// What stands behind a row's values: its diff, its time, and the end of the line.
    fn row_end(&self, epoch: Epoch, diff: i64) -> Vec<u8> {
        let mut end = self.before_diff.clone();
        output::integer(diff, &mut end);
        end.push(b',');
        if self.format.encoding == SinkEncoding::Jsonl {
            json_string(self.format.time_column.as_bytes(), &mut end);
            end.push(b':');
        }
        output::integer(epoch, &mut end);
        if self.format.encoding == SinkEncoding::Jsonl {
            end.push(b'}');
        }
        end.push(b'\n');
        end
    }

    /// Makes everything written durable and gives the file's mark, to be committed with the epoch.
    pub fn sync(&mut self) -> Result<Mark, ConnectorError> {
        self.compare()?;
        flush(
            &mut self.file,
            &self.path,
            &mut self.buffer,
            &mut self.length,
        )?;
        let synced = self.file.sync_data();
        synced.map_err(|e| trouble(&self.path, e))?;
        self.check_path()?;
        Ok(Mark {
            length: self.length,
            tail: Some(self.tail().map_err(|e| trouble(&self.path, e))?),
        })
    }

    /// What was written must be found where the user looks for it: a file that was removed, replaced or moved would take
    /// everything that follows and show nothing.
    fn check_path(&self) -> Result<(), ConnectorError> {
        let trouble = |e| trouble(&self.path, e);
        let ours = self.file.metadata().map_err(trouble)?;
        let there = std::fs::metadata(&self.path).map_err(trouble)?;
        if (ours.dev(), ours.ino()) == (there.dev(), there.ino()) {
            return Ok(());
        }
        let what = "is no longer the file that the sink writes: put that back";
        Err(refused(&self.path, what))
    }

    fn header(&mut self) {
        for field in self.schema.fields() {
            csv_text(field.name().as_bytes(), &mut self.buffer);
            self.buffer.push(b',');
        }
        csv_text(self.format.diff_column.as_bytes(), &mut self.buffer);
        self.buffer.push(b',');
        csv_text(self.format.time_column.as_bytes(), &mut self.buffer);
        self.buffer.push(b'\n');
    }
}

/// Moves the buffer to the file, unless that was cut meanwhile: what is written behind its end would leave zeros before it.
fn flush(
    file: &mut File,
    path: &Path,
    buffer: &mut Vec<u8>,
    length: &mut u64,
) -> Result<(), ConnectorError> {
    let present = file.metadata().map_err(|e| trouble(path, e))?.len();
    if present < *length {
        let what = format!("has {present} bytes, though {length} were written: put them back");
        return Err(refused(path, &what));
    }
    file.write_all(buffer).map_err(|e| trouble(path, e))?;
    *length += buffer.len() as u64;
    buffer.clear();
    Ok(())
}

fn trouble(path: &Path, e: std::io::Error) -> ConnectorError {
    ConnectorError::Io(format!("{}: {e}", path.display()))
}

/// What stands before each column's value, and last before the diff.
fn prefixes(format: &SinkFormat, schema: &SchemaRef) -> Vec<Vec<u8>> {
    let names = schema.fields().iter().map(|f| f.name().as_str());
    names
        .chain([format.diff_column.as_str()])
        .enumerate()
        .map(|(i, name)| match (format.encoding, i) {
            (SinkEncoding::Csv, 0) => Vec::new(),
            (SinkEncoding::Csv, _) => b",".to_vec(),
            (SinkEncoding::Jsonl, _) => {
                let mut prefix = vec![if i == 0 { b'{' } else { b',' }];
                json_string(name.as_bytes(), &mut prefix);
                prefix.push(b':');
                prefix
            }
        })
        .collect()
}

/// Nobody else may write to the file while we do.
fn lock(file: &File, path: &Path) -> Result<(), ConnectorError> {
    // SAFETY: flock takes an open descriptor and has no effect on memory.
    let locked = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
    if locked == 0 {
        return Ok(());
    }
    let e = std::io::Error::last_os_error();
    if e.raw_os_error() == Some(libc::EWOULDBLOCK) {
        return Err(refused(path, "is being written by another sink"));
    }
    // A file system without locks is no reason to refuse.
    Ok(())
}

fn refused(path: &Path, what: &str) -> ConnectorError {
    ConnectorError::Refused {
        message: format!("file \"{}\" {what}", path.display()),
        hint: "Choose another path, or remove the file and create the sink anew.".into(),
    }
}

/// NULL is nothing, an empty text is quoted.
fn csv_value(cell: &Cells, row: usize, out: &mut Vec<u8>) {
    if cell.is_null(row) {
        return;
    }
    let start = out.len();
    cell.text(row, out);
    let text = &out[start..];
    if text.is_empty()
        || text
            .iter()
            .any(|b| matches!(b, b',' | b'"' | b'\n' | b'\r'))
    {
        let text = out.split_off(start);
        csv_text(&text, out);
    }
}

fn csv_text(text: &[u8], out: &mut Vec<u8>) {
    if !text.is_empty()
        && !text
            .iter()
            .any(|b| matches!(b, b',' | b'"' | b'\n' | b'\r'))
    {
        out.extend_from_slice(text);
        return;
    }
    out.push(b'"');
    for b in text {
        if *b == b'"' {
            out.push(b'"');
        }
        out.push(*b);
    }
    out.push(b'"');
}
