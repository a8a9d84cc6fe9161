//! The codec of rows on disk: our own, versioned, columnar, independent of Arrow's memory layout.
//!
//! All numbers are little-endian; every part begins at a multiple of 8 bytes from the start of
//! the encoded rows, filled up with zeros.
//!
//! ```text
//! header     version u8, 0 0 0, columns u32, rows u32, 0u32
//! directory  one u32 per column: its bytes
//! column     flags u8 (bit 0: has NULLs), width u8, 0 × 6
//!            [validity: one bit per row, 1 = present]     if the flag is set
//!            values
//! values     fixed width  the values one after the other
//!            integers     if the width isn't 0: a base i64, then per row the distance from it, in so many bytes
//!            boolean      one bit per row
//!            text, bytes  rows + 1 offsets (u32) into the bytes, then the bytes
//!            list, map    rows + 1 offsets (u32), then a column of the elements
//!                         both: if the width isn't 0, lengths in so many bytes instead of offsets
//!            fixed list   a column of the elements
//!            struct       its columns one after the other
//!            null         nothing
//!            dictionary   the values, as a column of the value type
//! ```
//!
//! The schema isn't part of the bytes. Fixed-width values are the two's complement or IEEE bits of the
//! width that the type has; intervals of months, days and nanoseconds are i32, i32, i64. Integers are also dates, times,
//! timestamps and decimals of up to 128 bits. In version 1 all widths are 0.
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

use crate::narrow;

#[cfg(target_endian = "big")]
compile_error!("the codec copies values as they lie in memory: little-endian only");

/// Version of the format, the first byte of everything encoded.
pub const CODEC_VERSION: u8 = 2;

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
    let head = out.len();
    out.extend_from_slice(&[flags, 0, 0, 0, 0, 0, 0, 0]);
    if let Some(nulls) = nulls {
        out.extend_from_slice(&bits(nulls.inner()));
        pad(start, out);
    }
    out[head + 1] = encode_values(array, nulls, start, out).unwrap_or(0) as u8;
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

/// Appends the values; gives their width, or that of their lengths, if it isn't the usual one.
fn encode_values(
    array: &ArrayRef,
    nulls: Option<&NullBuffer>,
    start: usize,
    out: &mut Vec<u8>,
) -> Option<usize> {
    match array.data_type() {
        DataType::Utf8 => {
            let a = array.as_string::<i32>();
            return encode_bytes(a.offsets(), a.value_data(), out);
        }
        DataType::LargeUtf8 => {
            let a = array.as_string::<i64>();
            return encode_bytes(a.offsets(), a.value_data(), out);
        }
        DataType::Binary => {
            let a = array.as_binary::<i32>();
            return encode_bytes(a.offsets(), a.value_data(), out);
        }
        DataType::LargeBinary => {
            let a = array.as_binary::<i64>();
            return encode_bytes(a.offsets(), a.value_data(), out);
        }
        DataType::Utf8View => return encode_views(array.as_string_view(), nulls, out),
        DataType::BinaryView => return encode_views(array.as_binary_view(), nulls, out),
        DataType::List(_) => {
            let a = array.as_list::<i32>();
            return encode_list(a.offsets(), a.values(), start, out);
        }
        DataType::LargeList(_) => {
            let a = array.as_list::<i64>();
            return encode_list(a.offsets(), a.values(), start, out);
        }
        DataType::Map(_, _) => {
            let a = array.as_map();
            let entries: ArrayRef = Arc::new(a.entries().clone());
            return encode_list(a.offsets(), &entries, start, out);
        }
        DataType::Null => {}
        DataType::Boolean => out.extend_from_slice(&bits(array.as_boolean().values())),
        DataType::FixedSizeBinary(size) => {
            let data = array.to_data();
            let size = *size as usize;
            let from = data.offset() * size;
            out.extend_from_slice(&data.buffers()[0][from..from + data.len() * size]);
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
                let values = data.buffers()[0].slice_with_length(from, data.len() * width);
                let packed = match is_integer(other) {
                    true => encode_integers(width, values.clone(), out),
                    false => None,
                };
                if packed.is_none() {
                    out.extend_from_slice(&values);
                }
                return packed;
            }
            None => panic!("no codec for the type {other}: the planner must refuse it"),
        },
    }
    None
}

/// Values that are stored at the least width.
fn is_integer(t: &DataType) -> bool {
    use DataType::*;
    matches!(
        t,
        Int16
            | Int32
            | Int64
            | UInt16
            | UInt32
            | UInt64
            | Date32
            | Date64
            | Time32(_)
            | Time64(_)
            | Timestamp(..)
            | Duration(_)
            | Decimal32(..)
            | Decimal64(..)
            | Decimal128(..)
    )
}

fn encode_integers(width: usize, values: Buffer, out: &mut Vec<u8>) -> Option<usize> {
    match width {
        2 => narrow::pack::<i16>(values.typed_data(), out),
        4 => narrow::pack::<i32>(values.typed_data(), out),
        8 => narrow::pack::<i64>(values.typed_data(), out),
        16 => narrow::pack::<i128>(values.typed_data(), out),
        _ => None,
    }
}

/// Appends lengths, or offsets where a length needs more than two bytes. Gives their sum, and their width unless they are offsets.
fn put_lengths(
    lengths: impl ExactSizeIterator<Item = usize> + Clone,
    out: &mut Vec<u8>,
) -> (usize, Option<usize>) {
    let (mut total, mut longest) = (0usize, 0usize);
    for l in lengths.clone() {
        total += l;
        longest = longest.max(l);
    }
    length(total);
    out.reserve(lengths.len() * 4 + total + ALIGN * 2);
    let width = narrow::width_for(longest as u64);
    if width <= 2 {
        narrow::put(lengths.map(|l| l as u64), width, out);
        return (total, Some(width));
    }
    let mut end = 0u64;
    out.extend_from_slice(&0u32.to_le_bytes());
    narrow::put(
        lengths.map(|l| {
            end += l as u64;
            end
        }),
        4,
        out,
    );
    (total, None)
}

/// Differences of neighbours.
fn lengths_of<O: OffsetSizeTrait>(
    offsets: &OffsetBuffer<O>,
) -> impl ExactSizeIterator<Item = usize> + Clone + '_ {
    let length = |w: &[O]| (w[1] - w[0]).as_usize();
    offsets.windows(2).map(length)
}

fn encode_bytes<O: OffsetSizeTrait>(
    offsets: &OffsetBuffer<O>,
    data: &[u8],
    out: &mut Vec<u8>,
) -> Option<usize> {
    let (_, width) = put_lengths(lengths_of(offsets), out);
    let from = offsets[0].as_usize();
    let to = offsets[offsets.len() - 1].as_usize();
    out.extend_from_slice(&data[from..to]);
    width
}

/// Bytes of a view that hold the value itself, when it is short.
const INLINE: usize = 12;

fn encode_views<T: ByteViewType>(
    array: &GenericByteViewArray<T>,
    nulls: Option<&NullBuffer>,
    out: &mut Vec<u8>,
) -> Option<usize> {
    let views = array.views();
    let length = |i: usize| match nulls.is_some_and(|n| n.is_null(i)) {
        true => 0,
        false => views[i] as u32 as usize,
    };
    let (total, width) = put_lengths((0..views.len()).map(length), out);
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
    width
}

fn encode_list<O: OffsetSizeTrait>(
    offsets: &OffsetBuffer<O>,
    values: &ArrayRef,
    start: usize,
    out: &mut Vec<u8>,
) -> Option<usize> {
    let (_, width) = put_lengths(lengths_of(offsets), out);
    pad(start, out);
    let from = offsets[0].as_usize();
    let to = offsets[offsets.len() - 1].as_usize();
    encode_column(&values.slice(from, to - from), start, out);
    width
}

/// Appends numbers of which the reader knows how many there are, at the least width, filled up to a multiple of 8 bytes.
pub fn encode_numbers(numbers: &[i64], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + ALIGN, 0);
    match narrow::pack(numbers, out) {
        Some(width) => out[start] = width as u8,
        None => out.extend_from_slice(Buffer::from_slice_ref(numbers).as_slice()),
    }
    pad(start, out);
}

/// Reads `n` numbers that [`encode_numbers`] wrote, and moves `at` behind them.
pub fn decode_numbers(
    bytes: &Buffer,
    at: &mut usize,
    n: usize,
) -> Result<ScalarBuffer<i64>, CodecError> {
    let start = *at;
    let mut r = Reader {
        bytes,
        at: start,
        end: bytes.len(),
    };
    let numbers = match usize::from(r.take(ALIGN)?[0]) {
        0 => r.take_wide(n, size_of::<i64>())?,
        width => r.take_integers(n, width, size_of::<i64>())?,
    };
    *at = start + (r.at - start).next_multiple_of(ALIGN);
    Ok(match numbers.as_ptr().align_offset(align_of::<i64>()) {
        0 => numbers.into(),
        _ => Buffer::from(numbers.as_slice()).into(),
    })
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
        if header[0] == 0 || header[0] > CODEC_VERSION {
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

    /// `rows + 1` ascending offsets that begin with 0 and fit i32; of lengths, if they have a width.
    fn take_offsets(&mut self, rows: usize, width: usize) -> Result<OffsetBuffer<i32>, CodecError> {
        if width > 0 {
            return self.take_lengths(rows, width);
        }
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

    fn take_lengths(&mut self, rows: usize, width: usize) -> Result<OffsetBuffer<i32>, CodecError> {
        if width > 2 {
            return Err(CodecError::Damaged("width of lengths"));
        }
        let lengths = self.take_wide(rows, width)?;
        let mut offsets = Vec::with_capacity(rows + 1);
        let mut end = 0u64;
        offsets.push(0);
        narrow::get(&lengths, width, |l| {
            end += l;
            offsets.push(end as i32);
        });
        if i32::try_from(end).is_err() {
            return Err(CodecError::Damaged("lengths are too large"));
        }
        Ok(OffsetBuffer::new(offsets.into()))
    }

    /// Integers of `native` bytes each.
    fn take_integers(
        &mut self,
        rows: usize,
        width: usize,
        native: usize,
    ) -> Result<Buffer, CodecError> {
        if width >= native || !matches!(width, 1 | 2 | 4 | 8) {
            return Err(CodecError::Damaged("width of integers"));
        }
        let base = self.take(8)?;
        let base = base.as_slice().first_chunk::<8>();
        let base = i64::from_le_bytes(*base.ok_or(CodecError::Damaged("ends too early"))?);
        let distances = self.take_wide(rows, width)?;
        match native {
            2 => Ok(narrow::unpack::<i16>(base, &distances, width)),
            4 => Ok(narrow::unpack::<i32>(base, &distances, width)),
            8 => Ok(narrow::unpack::<i64>(base, &distances, width)),
            16 => Ok(narrow::unpack::<i128>(base, &distances, width)),
            _ => Err(CodecError::Damaged("width of integers")),
        }
    }
}

fn decode_column(r: &mut Reader, t: &DataType, rows: usize) -> Result<ArrayRef, CodecError> {
    if let DataType::Dictionary(_, values) = t {
        let plain = decode_column(r, values, rows)?;
        return Ok(arrow::compute::cast(&plain, t)?);
    }
    let head = r.take(ALIGN)?;
    let (flags, width) = (head[0], usize::from(head[1]));
    let nulls = match flags & HAS_NULLS {
        0 => None,
        _ => {
            let nulls = NullBuffer::new(r.take_bits(rows)?);
            r.align();
            Some(nulls)
        }
    };
    let array = decode_values(r, t, rows, width, nulls)?;
    r.align();
    Ok(array)
}

fn decode_values(
    r: &mut Reader,
    t: &DataType,
    rows: usize,
    width: usize,
    nulls: Option<NullBuffer>,
) -> Result<ArrayRef, CodecError> {
    match t {
        DataType::Null => Ok(Arc::new(NullArray::new(rows))),
        DataType::Boolean => {
            let values = r.take_bits(rows)?;
            Ok(Arc::new(arrow::array::BooleanArray::new(values, nulls)))
        }
        DataType::Utf8 => Ok(Arc::new(decode_text(r, rows, width, nulls)?)),
        DataType::LargeUtf8 => Ok(arrow::compute::cast(
            &decode_text(r, rows, width, nulls)?,
            t,
        )?),
        DataType::Utf8View => {
            let text = decode_text(r, rows, width, nulls)?;
            Ok(Arc::new(StringViewArray::from(&text)))
        }
        DataType::Binary => Ok(Arc::new(decode_binary(r, rows, width, nulls)?)),
        DataType::LargeBinary => Ok(arrow::compute::cast(
            &decode_binary(r, rows, width, nulls)?,
            t,
        )?),
        DataType::BinaryView => {
            let bytes = decode_binary(r, rows, width, nulls)?;
            Ok(Arc::new(BinaryViewArray::from(&bytes)))
        }
        DataType::FixedSizeBinary(size) => {
            let width = usize::try_from(*size).map_err(|_| CodecError::Damaged("width"))?;
            fixed(t, rows, r.take_wide(rows, width)?, nulls)
        }
        DataType::List(field) => {
            let (offsets, values) = decode_elements(r, field.data_type(), rows, width)?;
            let list = ListArray::try_new(field.clone(), offsets, values, nulls)?;
            Ok(Arc::new(list))
        }
        DataType::LargeList(field) => {
            let (offsets, values) = decode_elements(r, field.data_type(), rows, width)?;
            let wide: ScalarBuffer<i64> = offsets.iter().map(|o| i64::from(*o)).collect();
            let wide = OffsetBuffer::new(wide);
            let list = LargeListArray::try_new(field.clone(), wide, values, nulls)?;
            Ok(Arc::new(list))
        }
        DataType::Map(field, ordered) => {
            let (offsets, values) = decode_elements(r, field.data_type(), rows, width)?;
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
            Some(native) if width > 0 && is_integer(other) => {
                fixed(t, rows, r.take_integers(rows, width, native)?, nulls)
            }
            Some(native) => fixed(t, rows, r.take_wide(rows, native)?, nulls),
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
    width: usize,
    nulls: Option<NullBuffer>,
) -> Result<StringArray, CodecError> {
    let offsets = r.take_offsets(rows, width)?;
    let bytes = r.take(offsets[rows] as usize)?;
    Ok(StringArray::try_new(offsets, bytes, nulls)?)
}

fn decode_binary(
    r: &mut Reader,
    rows: usize,
    width: usize,
    nulls: Option<NullBuffer>,
) -> Result<BinaryArray, CodecError> {
    let offsets = r.take_offsets(rows, width)?;
    let bytes = r.take(offsets[rows] as usize)?;
    Ok(BinaryArray::try_new(offsets, bytes, nulls)?)
}

fn decode_elements(
    r: &mut Reader,
    t: &DataType,
    rows: usize,
    width: usize,
) -> Result<(OffsetBuffer<i32>, ArrayRef), CodecError> {
    let offsets = r.take_offsets(rows, width)?;
    r.align();
    let values = decode_column(r, t, offsets[rows] as usize)?;
    Ok((offsets, values))
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
