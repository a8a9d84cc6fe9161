//! Rows on their way to the client: DataRow, or COPY's text, CSV and binary.
//!
//! Invariant: a batch's rows are written straight from its columns into the output buffer, which
//! never holds much more than [`FLUSH_BYTES`] plus one row; a live stream's batch is sent at once.

use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::{BufMut, BytesMut};
use futures::{FutureExt, StreamExt};
use tidemill_planner::SqlError;
use tidemill_planner::ast::CopyOptions;

use super::backend::is_binary;
use super::types::{Column, TextStyle};
use super::wire::{FLUSH_BYTES, Guard, Stop, Wire};
use crate::session::BatchStream;

/// Signature, flags and extension length at the head of a binary COPY.
const COPY_BINARY_HEAD: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// How rows are written.
pub enum Form {
    /// DataRow; formats as in Bind.
    Data(Vec<i16>),
    /// CopyData.
    Copy(CopyForm),
}

/// COPY's formats.
pub struct CopyForm {
    csv: bool,
    binary: bool,
    header: bool,
    delimiter: u8,
    null: String,
    /// The binary head is still to be sent: as in PostgreSQL it is in one message with what follows.
    head: AtomicBool,
}

impl CopyForm {
    /// With PostgreSQL's defaults.
    pub fn new(options: &CopyOptions) -> CopyForm {
        CopyForm {
            csv: options.csv,
            binary: options.binary,
            header: options.header,
            delimiter: options
                .delimiter
                .unwrap_or(if options.csv { b',' } else { b'\t' }),
            null: options.null.clone().unwrap_or_else(|| match options.csv {
                true => String::new(),
                false => "\\N".into(),
            }),
            head: AtomicBool::new(options.binary),
        }
    }

    /// True for the binary format.
    pub fn is_binary(&self) -> bool {
        self.binary
    }

    /// What precedes the first row.
    pub fn head(&self, schema: &SchemaRef, out: &mut BytesMut) -> Result<(), SqlError> {
        if self.header && !self.binary {
            message(b'd', out, |out| {
                for (number, field) in schema.fields().iter().enumerate() {
                    if number > 0 {
                        out.put_u8(self.delimiter);
                    }
                    let from = out.len();
                    out.put_slice(field.name().as_bytes());
                    self.escape(from, schema.fields().len() == 1, out);
                }
                out.put_u8(b'\n');
            })
        } else {
            Ok(())
        }
    }

    /// What follows the last row.
    pub fn tail(&self, out: &mut BytesMut) -> Result<(), SqlError> {
        match self.binary {
            true => message(b'd', out, |out| {
                self.binary_head(out);
                out.put_i16(-1);
            }),
            false => Ok(()),
        }
    }

    fn binary_head(&self, out: &mut BytesMut) {
        if self.head.swap(false, Ordering::Relaxed) {
            out.put_slice(COPY_BINARY_HEAD);
        }
    }

    fn row(&self, columns: &[Column], row: usize, out: &mut BytesMut) {
        if self.binary {
            self.binary_head(out);
            out.put_i16(columns.len() as i16);
            for column in columns {
                column.value(row, true, out);
            }
            return;
        }
        for (number, column) in columns.iter().enumerate() {
            if number > 0 {
                out.put_u8(self.delimiter);
            }
            if column.is_null(row) {
                out.put_slice(self.null.as_bytes());
            } else {
                let from = out.len();
                column.text(row, out);
                self.escape(from, columns.len() == 1, out);
            }
        }
        out.put_u8(b'\n');
    }

    /// Escapes or quotes the value that was written at `from..`, where it must be.
    fn escape(&self, from: usize, alone: bool, out: &mut BytesMut) {
        let value = &out[from..];
        if self.csv {
            let special = |b: &u8| *b == self.delimiter || matches!(b, b'"' | b'\n' | b'\r');
            let quoted = value == self.null.as_bytes()
                || (alone && value == b"\\.")
                || value.iter().any(special);
            if quoted {
                let value = out.split_off(from);
                out.put_u8(b'"');
                for byte in value {
                    if byte == b'"' {
                        out.put_u8(b'"');
                    }
                    out.put_u8(byte);
                }
                out.put_u8(b'"');
            }
            return;
        }
        let special = |b: u8| b == b'\\' || b == self.delimiter || (8..=13).contains(&b);
        if value.iter().any(|b| special(*b)) {
            let value = out.split_off(from);
            for byte in value {
                let letter = match byte {
                    8 => b'b',
                    9 => b't',
                    10 => b'n',
                    11 => b'v',
                    12 => b'f',
                    13 => b'r',
                    byte => byte,
                };
                if special(byte) {
                    out.put_u8(b'\\');
                }
                out.put_u8(letter);
            }
        }
    }
}

impl Form {
    fn write(&self, columns: &[Column], row: usize, out: &mut BytesMut) -> Result<(), SqlError> {
        match self {
            Form::Data(formats) => message(b'D', out, |out| {
                out.put_i16(columns.len() as i16);
                for (number, column) in columns.iter().enumerate() {
                    column.value(row, is_binary(formats, number), out);
                }
            }),
            Form::Copy(copy) => message(b'd', out, |out| copy.row(columns, row, out)),
        }
    }
}

/// A message of a type and a body, with its length filled in.
fn message(kind: u8, out: &mut BytesMut, body: impl FnOnce(&mut BytesMut)) -> Result<(), SqlError> {
    let start = out.len();
    out.put_u8(kind);
    out.put_i32(0);
    body(out);
    let length = i32::try_from(out.len() - start - 1)
        .map_err(|_| SqlError::new("54000", "a row is larger than the protocol's 2 GB"))?;
    out[start + 1..start + 5].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

/// A result that is being sent, possibly in several Executes.
pub struct Cursor {
    batches: BatchStream,
    schema: SchemaRef,
    columns: Vec<Column>,
    row: usize,
    rows: usize,
    live: bool,
    style: TextStyle,
    /// Rows sent so far.
    pub sent: u64,
}

impl Cursor {
    /// A result of which nothing is sent. `live`: every batch is sent as soon as it comes.
    pub fn new(schema: SchemaRef, batches: BatchStream, live: bool, style: TextStyle) -> Cursor {
        Cursor {
            batches,
            schema,
            columns: Vec::new(),
            row: 0,
            rows: 0,
            live,
            style,
            sent: 0,
        }
    }

    fn take(&mut self, batch: &RecordBatch) {
        let fields = self.schema.fields().iter();
        self.columns = fields
            .zip(batch.columns())
            .map(|(field, array)| Column::new(field, array, self.style))
            .collect();
        self.row = 0;
        self.rows = batch.num_rows();
    }

    /// Reads all that is left, to be sent later.
    pub async fn read_on(&mut self, wire: &mut Wire, guard: &mut Guard) -> Result<(), Stop> {
        let mut all = vec![];
        while let Some(batch) = wire.run(guard, self.batches.next()).await? {
            all.push(batch);
        }
        self.batches = futures::stream::iter(all).boxed();
        Ok(())
    }

    /// Passes over rows, at most `count`; gives their number.
    pub async fn pass(
        &mut self,
        wire: &mut Wire,
        guard: &mut Guard,
        count: u64,
    ) -> Result<u64, Stop> {
        let mut passed = 0;
        loop {
            let here = (count - passed).min((self.rows - self.row) as u64);
            self.row += here as usize;
            passed += here;
            if passed == count {
                return Ok(passed);
            }
            match wire.run(guard, self.batches.next()).await? {
                Some(batch) => self.take(&batch?),
                None => return Ok(passed),
            }
        }
    }

    /// Sends rows, at most `limit` (0: all). True when the result has ended.
    pub async fn send(
        &mut self,
        wire: &mut Wire,
        guard: &mut Guard,
        form: &Form,
        limit: u64,
    ) -> Result<bool, Stop> {
        let until = match limit {
            0 => u64::MAX,
            limit => self.sent.saturating_add(limit),
        };
        loop {
            while self.row < self.rows {
                if self.sent == until {
                    return Ok(false);
                }
                wire.put(|out| form.write(&self.columns, self.row, out))?;
                self.row += 1;
                self.sent += 1;
                if wire.pending() >= FLUSH_BYTES {
                    wire.flush(guard).await?;
                }
            }
            if self.sent == until {
                return Ok(false);
            }
            if self.live {
                wire.flush(guard).await?;
            }
            // What is ready needs no wait; a client shouldn't wait for rows that it could have.
            let next = match self.batches.next().now_or_never() {
                Some(next) => next,
                None => {
                    wire.flush(guard).await?;
                    wire.run(guard, self.batches.next()).await?
                }
            };
            match next {
                Some(batch) => self.take(&batch?),
                None => return Ok(true),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, StringArray};
    use arrow::datatypes::{DataType, Field};

    use super::*;

    fn copied(options: &CopyOptions, text: Option<&str>, number: i64) -> String {
        let arrays: [ArrayRef; 2] = [
            Arc::new(StringArray::from(vec![text])),
            Arc::new(Int64Array::from(vec![number])),
        ];
        let columns: Vec<Column> = arrays
            .iter()
            .map(|a| {
                Column::new(
                    &Field::new("c", a.data_type().clone(), true),
                    a,
                    TextStyle::default(),
                )
            })
            .collect();
        let mut out = BytesMut::new();
        CopyForm::new(options).row(&columns, 0, &mut out);
        String::from_utf8(out.to_vec()).expect("COPY text is UTF-8")
    }

    #[test]
    fn copy_text() {
        let options = CopyOptions::default();
        assert_eq!(
            copied(&options, Some("a\tb\\c\nd"), -1),
            "a\\tb\\\\c\\nd\t-1\n"
        );
        assert_eq!(copied(&options, None, 2), "\\N\t2\n");
        let options = CopyOptions {
            delimiter: Some(b'|'),
            null: Some("NULL".into()),
            ..CopyOptions::default()
        };
        assert_eq!(copied(&options, Some("a|b"), 1), "a\\|b|1\n");
        assert_eq!(copied(&options, None, 1), "NULL|1\n");
    }

    #[test]
    fn copy_csv() {
        let options = CopyOptions {
            csv: true,
            ..CopyOptions::default()
        };
        assert_eq!(copied(&options, Some("a,\"b"), 1), "\"a,\"\"b\",1\n");
        assert_eq!(copied(&options, Some(""), 1), "\"\",1\n");
        assert_eq!(copied(&options, None, 1), ",1\n");
        let field = Field::new("a,b", DataType::Int64, true);
        let schema = Arc::new(arrow::datatypes::Schema::new(vec![field]));
        let form = CopyForm::new(&CopyOptions {
            header: true,
            ..options
        });
        let mut out = BytesMut::new();
        form.head(&schema, &mut out).expect("a short header");
        assert_eq!(&out[5..], b"\"a,b\"\n");
    }
}
