//! Rows of COPY FROM in PostgreSQL's binary format. Data arrives in pieces torn anywhere.

use arrow::array::{Array, ArrayRef, new_empty_array, new_null_array};
use arrow::compute::concat;
use arrow::datatypes::Field;
use bytes::{Buf, BytesMut};
use tidemill_planner::SqlError;

use crate::pg::params::from_binary;

/// Signature at the head of the data.
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
/// Signature, flags, length of the extension.
const HEAD_BYTES: usize = SIGNATURE.len() + 8;
/// Flags that a reader must understand; the only one, oids, is of the past.
const CRITICAL_FLAGS: u32 = 0xffff_0000;
/// A row longer than this is refused, in bytes.
const ROW_BYTES_MAX: usize = 256 << 20;
/// Values are put together into arrays of this many.
const CHUNK_ROWS: usize = 4_096;

/// Reads rows into columns.
pub struct BinaryRows {
    fields: Vec<Field>,
    pending: BytesMut,
    /// Per column: values that aren't put together yet, and those that are.
    columns: Vec<(Vec<ArrayRef>, Vec<ArrayRef>)>,
    /// Bytes of the extension that are still to be skipped; `None`: the head is still to come.
    extension: Option<usize>,
    ended: bool,
    /// Rows so far.
    pub rows: u64,
}

fn malformed(message: impl Into<String>) -> SqlError {
    SqlError::new("22P04", message)
}

impl BinaryRows {
    /// Rows of these columns.
    pub fn new(fields: Vec<Field>) -> BinaryRows {
        BinaryRows {
            columns: fields.iter().map(|_| (vec![], vec![])).collect(),
            fields,
            pending: BytesMut::new(),
            extension: None,
            ended: false,
            rows: 0,
        }
    }

    /// More data. `table`: its name, for messages.
    pub fn add(&mut self, bytes: &[u8], table: &str) -> Result<(), SqlError> {
        self.pending.extend_from_slice(bytes);
        if !self.head()? {
            return Ok(());
        }
        while !self.ended && self.row(table)? {}
        if self.ended && !self.pending.is_empty() {
            return Err(malformed("received copy data after EOF marker"));
        }
        match self.pending.len() > ROW_BYTES_MAX {
            true => Err(SqlError::new("54000", "a row of COPY data is too long")),
            false => Ok(()),
        }
    }

    /// True once the head is read.
    fn head(&mut self) -> Result<bool, SqlError> {
        if self.extension.is_none() {
            let seen = self.pending.len().min(SIGNATURE.len());
            if self.pending[..seen] != SIGNATURE[..seen] {
                return Err(malformed("COPY file signature not recognized"));
            }
            if self.pending.len() < HEAD_BYTES {
                return Ok(false);
            }
            self.pending.advance(SIGNATURE.len());
            if self.pending.get_u32() & CRITICAL_FLAGS != 0 {
                return Err(malformed("unrecognized critical flags in COPY file header"));
            }
            let length = usize::try_from(self.pending.get_i32())
                .map_err(|_| malformed("invalid COPY file header (missing length)"))?;
            self.extension = Some(length);
        }
        if let Some(left) = &mut self.extension {
            let skipped = self.pending.len().min(*left);
            self.pending.advance(skipped);
            *left -= skipped;
        }
        Ok(self.extension == Some(0))
    }

    /// Reads a row, or the mark of the end, if it is here as a whole.
    fn row(&mut self, table: &str) -> Result<bool, SqlError> {
        let data = self.pending.as_ref();
        let place = || format!("COPY {table}, line {}", self.rows + 1);
        let Some(count) = data.get(..2) else {
            return Ok(false);
        };
        let count = i16::from_be_bytes([count[0], count[1]]);
        if count == -1 {
            self.pending.advance(2);
            self.ended = true;
            return Ok(true);
        }
        if count as usize != self.fields.len() {
            let message = format!("row field count is {count}, expected {}", self.fields.len());
            return Err(malformed(message).detail(place()));
        }
        let mut at = 2;
        let mut ends = Vec::with_capacity(self.fields.len());
        for _ in &self.fields {
            let Some(length) = data.get(at..at + 4) else {
                return Ok(false);
            };
            at += 4;
            let length = i32::from_be_bytes([length[0], length[1], length[2], length[3]]);
            match usize::try_from(length) {
                Ok(length) => {
                    at += length;
                    ends.push(Some((at - length, at)));
                }
                Err(_) if length == -1 => ends.push(None),
                Err(_) => return Err(malformed("invalid field size").detail(place())),
            }
            if data.len() < at {
                return Ok(false);
            }
        }
        for ((field, (values, chunks)), ends) in self.fields.iter().zip(&mut self.columns).zip(ends)
        {
            values.push(match ends {
                None => new_null_array(field.data_type(), 1),
                Some((from, to)) => from_binary(field, &data[from..to])
                    .map_err(|e| e.detail(format!("{}, column {}", place(), field.name())))?,
            });
            if values.len() == CHUNK_ROWS {
                chunks.push(joined(field, values)?);
                values.clear();
            }
        }
        self.pending.advance(at);
        self.rows += 1;
        Ok(true)
    }

    /// The columns, at the end of the data.
    pub fn finish(&mut self) -> Result<Vec<ArrayRef>, SqlError> {
        // As in PostgreSQL, the mark of the end may be missing, but not a part of a row.
        if !self.pending.is_empty() || (self.extension != Some(0) && self.rows == 0) {
            return Err(malformed("unexpected EOF in COPY data"));
        }
        let columns = self.fields.iter().zip(&mut self.columns);
        columns
            .map(|(field, (values, chunks))| {
                chunks.append(values);
                joined(field, chunks)
            })
            .collect()
    }
}

fn joined(field: &Field, arrays: &[ArrayRef]) -> Result<ArrayRef, SqlError> {
    if arrays.is_empty() {
        return Ok(new_empty_array(field.data_type()));
    }
    let refs: Vec<&dyn Array> = arrays.iter().map(AsRef::as_ref).collect();
    concat(&refs).map_err(|e| SqlError::internal(e.to_string()))
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::Int32Type;
    use tidemill_zset::schema::SqlType;

    use super::*;

    fn data() -> Vec<u8> {
        let mut data = [SIGNATURE, &[0; 8]].concat();
        for row in 0..3i32 {
            data.extend([0, 2, 0, 0, 0, 4]);
            data.extend(row.to_be_bytes());
            match row {
                1 => data.extend((-1i32).to_be_bytes()),
                _ => data.extend(b"\0\0\0\x02ab"),
            }
        }
        data.extend((-1i16).to_be_bytes());
        data
    }

    fn reader() -> BinaryRows {
        BinaryRows::new(vec![
            SqlType::Int4.field("a", true),
            SqlType::Text.field("b", true),
        ])
    }

    #[test]
    fn pieces_of_any_size_give_the_same_rows() {
        for size in 1..data().len() {
            let mut rows = reader();
            for piece in data().chunks(size) {
                rows.add(piece, "t").unwrap();
            }
            let columns = rows.finish().unwrap();
            assert_eq!(rows.rows, 3);
            assert_eq!(columns[0].as_primitive::<Int32Type>().values(), &[0, 1, 2]);
            let text: Vec<_> = columns[1].as_string_view().iter().collect();
            assert_eq!(text, [Some("ab"), None, Some("ab")]);
        }
    }

    #[test]
    fn what_is_cut_off_or_wrong_is_refused() {
        let whole = data();
        let end = whole.len();
        for cut in 0..end {
            let mut rows = reader();
            rows.add(&whole[..cut], "t").unwrap();
            // After the head, a cut between rows is an end.
            let between = cut == end - 2 || cut >= HEAD_BYTES && rows.pending.is_empty();
            assert_eq!(rows.finish().is_ok(), between, "{cut}");
        }
        let wrong = |at: usize, byte: u8| {
            let mut data = whole.clone();
            data[at] = byte;
            reader().add(&data, "t").unwrap_err().message
        };
        assert!(wrong(0, b'X').contains("signature"));
        assert!(wrong(11, 0xff).contains("flags"));
        assert!(wrong(20, 3).contains("row field count is 3, expected 2"));
        assert!(wrong(24, 3).contains("incorrect binary data format"));
        let more = [data(), b"x".to_vec()].concat();
        assert!(reader().add(&more, "t").is_err());
    }
}
