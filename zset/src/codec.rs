//! The codec of rows on disk: our own, versioned, columnar, independent of Arrow's memory layout.
//!
//! All numbers are little-endian; every part begins at a multiple of 8 bytes from the start of
//! the encoded rows, filled up with zeros.
//!
//! ```text
//! header     version u8, 0 0 0, columns u32, rows u32, 0u32
//! directory  one u32 per column: its bytes
//! column     flags u8 (bit 0: has NULLs), 0 × 7
//!            [validity: one bit per row, 1 = present]     if the flag is set
//!            values
//! values     fixed width  the values one after the other
//!            boolean      one bit per row
//!            text, bytes  rows + 1 offsets (u32) into the bytes, then the bytes
//!            list, map    rows + 1 offsets (u32), then a column of the elements
//!            fixed list   a column of the elements
//!            struct       its columns one after the other
//!            null         nothing
//!            dictionary   the values, as a column of the value type
//! ```
//!
//! The schema isn't part of the bytes. Fixed-width values are the two's complement or IEEE bits of the
//! width that the type has; intervals of months, days and nanoseconds are i32, i32, i64.
//!
//! Invariant: decoding damaged bytes gives an error or some batch, never a panic and never an
//! allocation larger than a small multiple of the input.

use std::sync::Arc;

use arrow::array::cast::AsArray;
use arrow::array::{
    Array, ArrayData, ArrayRef, BinaryArray, BinaryViewArray, FixedSizeListArray,
    GenericByteViewArray, LargeListArray, ListArray, MapArray, NullArray, OffsetSizeTrait,
    RecordBatch, RecordBatchOptions, StringArray, StringViewArray, StructArray, make_array,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{ByteViewType, DataType, FieldRef, SchemaRef};

#[cfg(target_endian = "big")]
compile_error!("the codec copies values as they lie in memory: little-endian only");

/// Version of the format, the first byte of everything encoded.
pub const CODEC_VERSION: u8 = 1;

const HEADER_BYTES: usize = 16;
const ALIGN: usize = 8;
const HAS_NULLS: u8 = 1;

/// Why bytes could not be decoded. The caller knows the file and the place and adds them.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The bytes end too early, or a length or offset in them is out of range.
    #[error("encoded rows are damaged: {0}")]
    Damaged(&'static str),
    /// The values don't fit their type or schema.
    #[error("encoded rows are damaged: {0}")]
    Values(String),
    /// Written by a newer version.
    #[error("encoded rows have format version {0}, this build reads up to {CODEC_VERSION}")]
    Version(u8),
}

impl From<arrow::error::ArrowError> for CodecError {
    fn from(e: arrow::error::ArrowError) -> Self {
        CodecError::Values(e.to_string())
    }
}

/// Appends the rows of `batch` to `out`. The schema is not written. A column may hold at most 4 GiB of
/// encoded bytes; a larger one panics, so cut big batches first.
pub fn encode(batch: &RecordBatch, out: &mut Vec<u8>) {
    encode_columns(batch.columns(), batch.num_rows(), out);
}

/// Like [`encode`], for columns of `rows` rows each.
pub fn encode_columns(columns: &[ArrayRef], rows: usize, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[CODEC_VERSION, 0, 0, 0]);
    out.extend_from_slice(&length(columns.len()).to_le_bytes());
    out.extend_from_slice(&length(rows).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    let directory = out.len();
    out.resize(directory + columns.len() * 4, 0);
    pad(start, out);
    for (i, column) in columns.iter().enumerate() {
        let from = out.len();
        encode_column(column, start, out);
        let bytes = length(out.len() - from);
        out[directory + i * 4..directory + i * 4 + 4].copy_from_slice(&bytes.to_le_bytes());
    }
}

fn length(n: usize) -> u32 {
    u32::try_from(n).expect("a column of encoded rows is smaller than 4 GiB")
}

fn pad(start: usize, out: &mut Vec<u8>) {
    let used = (out.len() - start) % ALIGN;
    if used > 0 {
        out.resize(out.len() + ALIGN - used, 0);
    }
}

fn encode_column(array: &ArrayRef, start: usize, out: &mut Vec<u8>) {
    if let DataType::Dictionary(_, values) = array.data_type() {
        let plain = arrow::compute::cast(array, values).expect("a dictionary casts to its values");
        return encode_column(&plain, start, out);
    }
    let nulls = match array.data_type() {
        DataType::Null => None,
        _ => array.nulls().filter(|n| n.null_count() > 0),
    };
    let flags = if nulls.is_some() { HAS_NULLS } else { 0 };
    out.extend_from_slice(&[flags, 0, 0, 0, 0, 0, 0, 0]);
    if let Some(nulls) = nulls {
        out.extend_from_slice(&bits(nulls.inner()));
        pad(start, out);
    }
    encode_values(array, nulls, start, out);
    pad(start, out);
}

/// The bits from bit 0 of the first byte on; bits after the last are zero.
fn bits(buffer: &BooleanBuffer) -> Vec<u8> {
    let mut bytes = buffer.sliced().as_slice()[..buffer.len().div_ceil(8)].to_vec();
    let tail = buffer.len() % 8;
    if tail > 0
        && let Some(last) = bytes.last_mut()
    {
        *last &= (1 << tail) - 1;
    }
    bytes
}

fn encode_values(array: &ArrayRef, nulls: Option<&NullBuffer>, start: usize, out: &mut Vec<u8>) {
    match array.data_type() {
        DataType::Null => {}
        DataType::Boolean => out.extend_from_slice(&bits(array.as_boolean().values())),
        DataType::Utf8 => {
            let a = array.as_string::<i32>();
            encode_bytes(a.offsets(), a.value_data(), out);
        }
        DataType::LargeUtf8 => {
            let a = array.as_string::<i64>();
            encode_bytes(a.offsets(), a.value_data(), out);
        }
        DataType::Binary => {
            let a = array.as_binary::<i32>();
            encode_bytes(a.offsets(), a.value_data(), out);
        }
        DataType::LargeBinary => {
            let a = array.as_binary::<i64>();
            encode_bytes(a.offsets(), a.value_data(), out);
        }
        DataType::Utf8View => encode_views(array.as_string_view(), nulls, out),
        DataType::BinaryView => encode_views(array.as_binary_view(), nulls, out),
        DataType::FixedSizeBinary(size) => {
            let data = array.to_data();
            let size = *size as usize;
            let from = data.offset() * size;
            out.extend_from_slice(&data.buffers()[0][from..from + data.len() * size]);
        }
        DataType::List(_) => {
            let a = array.as_list::<i32>();
            encode_list(a.offsets(), a.values(), start, out);
        }
        DataType::LargeList(_) => {
            let a = array.as_list::<i64>();
            encode_list(a.offsets(), a.values(), start, out);
        }
        DataType::Map(_, _) => {
            let a = array.as_map();
            let entries: ArrayRef = Arc::new(a.entries().clone());
            encode_list(a.offsets(), &entries, start, out);
        }
        DataType::FixedSizeList(_, size) => {
            let a = array.as_fixed_size_list();
            let size = *size as usize;
            let from = a.value_offset(0) as usize;
            encode_column(&a.values().slice(from, a.len() * size), start, out);
        }
        DataType::Struct(_) => {
            for column in array.as_struct().columns() {
                encode_column(column, start, out);
            }
        }
        other => match other.primitive_width() {
            Some(width) => {
                let data = array.to_data();
                let from = data.offset() * width;
                out.extend_from_slice(&data.buffers()[0][from..from + data.len() * width]);
            }
            None => panic!("no codec for the type {other}: the planner must refuse it"),
        },
    }
}

fn put_offsets(lengths: impl Iterator<Item = usize>, out: &mut Vec<u8>) -> usize {
    let mut total = 0usize;
    out.extend_from_slice(&0u32.to_le_bytes());
    let mut offsets = Vec::with_capacity(lengths.size_hint().0);
    for l in lengths {
        total += l;
        offsets.push(total as u32);
    }
    length(total);
    out.reserve(offsets.len() * 4 + total + ALIGN * 2);
    for o in offsets {
        out.extend_from_slice(&o.to_le_bytes());
    }
    total
}

fn encode_bytes<O: OffsetSizeTrait>(offsets: &OffsetBuffer<O>, data: &[u8], out: &mut Vec<u8>) {
    put_offsets(offsets.windows(2).map(|w| (w[1] - w[0]).as_usize()), out);
    let from = offsets[0].as_usize();
    let to = offsets[offsets.len() - 1].as_usize();
    out.extend_from_slice(&data[from..to]);
}

/// Bytes of a view that hold the value itself, when it is short.
const INLINE: usize = 12;

fn encode_views<T: ByteViewType>(
    array: &GenericByteViewArray<T>,
    nulls: Option<&NullBuffer>,
    out: &mut Vec<u8>,
) {
    let views = array.views();
    let total = match nulls {
        None => put_offsets(views.iter().map(|v| *v as u32 as usize), out),
        Some(nulls) => {
            let present = views.iter().zip(nulls.iter());
            put_offsets(
                present.map(|(v, p)| if p { *v as u32 as usize } else { 0 }),
                out,
            )
        }
    };
    let mut at = out.len();
    // Room for a whole inline value after the last byte, so that short values are copied at a fixed width.
    out.resize(at + total + INLINE, 0);
    let end = at + total;
    for (i, view) in views.iter().enumerate() {
        if nulls.is_some_and(|n| n.is_null(i)) {
            continue;
        }
        let len = *view as u32 as usize;
        if len <= INLINE {
            out[at..at + INLINE].copy_from_slice(&view.to_le_bytes()[4..]);
        } else {
            let buffer = &array.data_buffers()[(*view >> 64) as u32 as usize];
            let from = (*view >> 96) as u32 as usize;
            out[at..at + len].copy_from_slice(&buffer[from..from + len]);
        }
        at += len;
    }
    out[end..].fill(0);
    out.truncate(end);
}

fn encode_list<O: OffsetSizeTrait>(
    offsets: &OffsetBuffer<O>,
    values: &ArrayRef,
    start: usize,
    out: &mut Vec<u8>,
) {
    put_offsets(offsets.windows(2).map(|w| (w[1] - w[0]).as_usize()), out);
    pad(start, out);
    let from = offsets[0].as_usize();
    let to = offsets[offsets.len() - 1].as_usize();
    encode_column(&values.slice(from, to - from), start, out);
}

/// Decodes what [`encode`] wrote for a batch of `schema`. Never panics on damaged bytes.
pub fn decode(schema: &SchemaRef, bytes: &[u8]) -> Result<RecordBatch, CodecError> {
    let encoded = Encoded::parse(Buffer::from(bytes))?;
    if encoded.columns() != schema.fields().len() {
        return Err(CodecError::Damaged("another number of columns"));
    }
    let mut columns = Vec::with_capacity(encoded.columns());
    for (i, field) in schema.fields().iter().enumerate() {
        columns.push(encoded.column(i, field.data_type())?);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(encoded.rows()));
    Ok(RecordBatch::try_new_with_options(
        schema.clone(),
        columns,
        &options,
    )?)
}

/// Encoded rows whose columns are decoded one by one. Decoded columns share the memory of the
/// encoded bytes where they can.
#[derive(Clone, Debug)]
pub struct Encoded {
    bytes: Buffer,
    rows: usize,
    /// Start of each column, and the end of the last.
    bounds: Vec<usize>,
}

impl Encoded {
    /// Reads header and directory. `bytes` may be longer than what was encoded.
    pub fn parse(bytes: Buffer) -> Result<Encoded, CodecError> {
        let mut r = Reader {
            bytes: &bytes,
            at: 0,
            end: bytes.len(),
        };
        let header = r.take(HEADER_BYTES)?;
        if header[0] != CODEC_VERSION {
            return Err(CodecError::Version(header[0]));
        }
        let columns = read_u32(&header, 4) as usize;
        let rows = read_u32(&header, 8) as usize;
        let directory = r.take(
            columns
                .checked_mul(4)
                .ok_or(CodecError::Damaged("too many columns"))?,
        )?;
        r.align();
        let mut bounds = Vec::with_capacity(columns + 1);
        let mut at = r.at;
        bounds.push(at);
        for i in 0..columns {
            at += read_u32(&directory, i * 4) as usize;
            bounds.push(at);
        }
        if at > bytes.len() {
            return Err(CodecError::Damaged("columns reach beyond the end"));
        }
        Ok(Encoded {
            bytes,
            rows,
            bounds,
        })
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.bounds.len() - 1
    }

    /// Bytes that these rows take.
    pub fn len(&self) -> usize {
        self.bounds[self.bounds.len() - 1]
    }

    /// True if there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Decodes column `index`, which has type `data_type`.
    pub fn column(&self, index: usize, data_type: &DataType) -> Result<ArrayRef, CodecError> {
        let bounds = self.bounds.get(index).zip(self.bounds.get(index + 1));
        let (from, to) = bounds.ok_or(CodecError::Damaged("no such column"))?;
        let mut reader = Reader {
            bytes: &self.bytes,
            at: *from,
            end: *to,
        };
        decode_column(&mut reader, data_type, self.rows)
    }
}

fn read_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Reads parts of shared bytes without copying them; positions count from their start.
struct Reader<'a> {
    bytes: &'a Buffer,
    at: usize,
    end: usize,
}

impl Reader<'_> {
    fn take(&mut self, n: usize) -> Result<Buffer, CodecError> {
        let end = self
            .at
            .checked_add(n)
            .filter(|end| *end <= self.end && *end <= self.bytes.len())
            .ok_or(CodecError::Damaged("ends too early"))?;
        let part = self.bytes.slice_with_length(self.at, n);
        self.at = end;
        Ok(part)
    }

    fn align(&mut self) {
        self.at = self.at.next_multiple_of(ALIGN);
    }

    fn take_bits(&mut self, rows: usize) -> Result<BooleanBuffer, CodecError> {
        let bytes = self.take(rows.div_ceil(8))?;
        Ok(BooleanBuffer::new(bytes, 0, rows))
    }

    fn take_wide(&mut self, rows: usize, width: usize) -> Result<Buffer, CodecError> {
        let bytes = rows.checked_mul(width);
        self.take(bytes.ok_or(CodecError::Damaged("too many rows"))?)
    }

    /// `rows + 1` ascending offsets that begin with 0 and fit i32.
    fn take_offsets(&mut self, rows: usize) -> Result<OffsetBuffer<i32>, CodecError> {
        let bytes = self.take_wide(rows + 1, 4)?;
        let offsets: ScalarBuffer<i32> = match bytes.as_ptr().align_offset(4) {
            0 => bytes.into(),
            _ => Buffer::from(bytes.as_slice()).into(),
        };
        if offsets[0] != 0 || offsets.windows(2).any(|w| w[0] > w[1]) {
            return Err(CodecError::Damaged("offsets do not ascend"));
        }
        Ok(OffsetBuffer::new(offsets))
    }
}

fn decode_column(r: &mut Reader, t: &DataType, rows: usize) -> Result<ArrayRef, CodecError> {
    if let DataType::Dictionary(_, values) = t {
        let plain = decode_column(r, values, rows)?;
        return Ok(arrow::compute::cast(&plain, t)?);
    }
    let flags = r.take(ALIGN)?[0];
    let nulls = match flags & HAS_NULLS {
        0 => None,
        _ => {
            let nulls = NullBuffer::new(r.take_bits(rows)?);
            r.align();
            Some(nulls)
        }
    };
    let array = decode_values(r, t, rows, nulls)?;
    r.align();
    Ok(array)
}

fn decode_values(
    r: &mut Reader,
    t: &DataType,
    rows: usize,
    nulls: Option<NullBuffer>,
) -> Result<ArrayRef, CodecError> {
    match t {
        DataType::Null => Ok(Arc::new(NullArray::new(rows))),
        DataType::Boolean => {
            let values = r.take_bits(rows)?;
            Ok(Arc::new(arrow::array::BooleanArray::new(values, nulls)))
        }
        DataType::Utf8 => Ok(Arc::new(decode_text(r, rows, nulls)?)),
        DataType::LargeUtf8 => Ok(arrow::compute::cast(&decode_text(r, rows, nulls)?, t)?),
        DataType::Utf8View => {
            let text = decode_text(r, rows, nulls)?;
            Ok(Arc::new(StringViewArray::from(&text)))
        }
        DataType::Binary => Ok(Arc::new(decode_binary(r, rows, nulls)?)),
        DataType::LargeBinary => Ok(arrow::compute::cast(&decode_binary(r, rows, nulls)?, t)?),
        DataType::BinaryView => {
            let bytes = decode_binary(r, rows, nulls)?;
            Ok(Arc::new(BinaryViewArray::from(&bytes)))
        }
        DataType::FixedSizeBinary(size) => {
            let width = usize::try_from(*size).map_err(|_| CodecError::Damaged("width"))?;
            fixed(t, rows, r.take_wide(rows, width)?, nulls)
        }
        DataType::List(field) => {
            let (offsets, values) = decode_elements(r, field.data_type(), rows)?;
            let list = ListArray::try_new(field.clone(), offsets, values, nulls)?;
            Ok(Arc::new(list))
        }
        DataType::LargeList(field) => {
            let (offsets, values) = decode_elements(r, field.data_type(), rows)?;
            let wide: ScalarBuffer<i64> = offsets.iter().map(|o| i64::from(*o)).collect();
            let wide = OffsetBuffer::new(wide);
            let list = LargeListArray::try_new(field.clone(), wide, values, nulls)?;
            Ok(Arc::new(list))
        }
        DataType::Map(field, ordered) => {
            let (offsets, values) = decode_elements(r, field.data_type(), rows)?;
            let entries = values.as_struct().clone();
            let map = MapArray::try_new(field.clone(), offsets, entries, nulls, *ordered)?;
            Ok(Arc::new(map))
        }
        DataType::FixedSizeList(field, size) => {
            let each = usize::try_from(*size).map_err(|_| CodecError::Damaged("width"))?;
            let elements = rows.checked_mul(each).filter(|n| *n <= u32::MAX as usize);
            let elements = elements.ok_or(CodecError::Damaged("too many rows"))?;
            let values = decode_column(r, field.data_type(), elements)?;
            let list = FixedSizeListArray::try_new(field.clone(), *size, values, nulls)?;
            Ok(Arc::new(list))
        }
        DataType::Struct(fields) => decode_struct(r, fields, rows, nulls),
        other => match other.primitive_width() {
            Some(width) => fixed(t, rows, r.take_wide(rows, width)?, nulls),
            None => Err(CodecError::Damaged("a type without a codec")),
        },
    }
}

fn decode_struct(
    r: &mut Reader,
    fields: &arrow::datatypes::Fields,
    rows: usize,
    nulls: Option<NullBuffer>,
) -> Result<ArrayRef, CodecError> {
    if fields.is_empty() {
        return Ok(Arc::new(StructArray::new_empty_fields(rows, nulls)));
    }
    let decode = |f: &FieldRef| decode_column(r, f.data_type(), rows);
    let columns = fields.iter().map(decode).collect::<Result<Vec<_>, _>>()?;
    Ok(Arc::new(StructArray::try_new(
        fields.clone(),
        columns,
        nulls,
    )?))
}

/// Fixed-width values; copied only if they don't lie at a multiple of their width.
fn fixed(
    t: &DataType,
    rows: usize,
    values: Buffer,
    nulls: Option<NullBuffer>,
) -> Result<ArrayRef, CodecError> {
    let data = ArrayData::builder(t.clone())
        .len(rows)
        .add_buffer(values)
        .nulls(nulls)
        .align_buffers(true)
        .build()?;
    Ok(make_array(data))
}

fn decode_text(
    r: &mut Reader,
    rows: usize,
    nulls: Option<NullBuffer>,
) -> Result<StringArray, CodecError> {
    let offsets = r.take_offsets(rows)?;
    let bytes = r.take(offsets[rows] as usize)?;
    Ok(StringArray::try_new(offsets, bytes, nulls)?)
}

fn decode_binary(
    r: &mut Reader,
    rows: usize,
    nulls: Option<NullBuffer>,
) -> Result<BinaryArray, CodecError> {
    let offsets = r.take_offsets(rows)?;
    let bytes = r.take(offsets[rows] as usize)?;
    Ok(BinaryArray::try_new(offsets, bytes, nulls)?)
}

fn decode_elements(
    r: &mut Reader,
    t: &DataType,
    rows: usize,
) -> Result<(OffsetBuffer<i32>, ArrayRef), CodecError> {
    let offsets = r.take_offsets(rows)?;
    r.align();
    let values = decode_column(r, t, offsets[rows] as usize)?;
    Ok((offsets, values))
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
