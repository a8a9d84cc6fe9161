//! [`Block`]: up to a few thousand rows of one run; on disk the unit of checking and compression, in
//! memory with columns decoded when first asked for.
//!
//! ```text
//! version u8, flags u8, 0u16, rows u32
//! [hashes   u64 × rows]                          if HASHED
//! diffs     i64 if ONE_DIFF,  else numbers
//! epochs    i64 if ONE_EPOCH, else numbers
//! rows      zset::codec
//! ```
//! Numbers are as `zset::codec` writes them at the least width; in version 1 they are i64 × rows.
//!
//! Invariant: hashes ascend (unless the arrangement is a `Log`, which has none), and hashes, diffs,
//! epochs and all columns have `rows` entries.

use std::sync::OnceLock;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::buffer::{Buffer, ScalarBuffer};
use arrow::datatypes::{ArrowNativeType, SchemaRef};
use tidemill_zset::Epoch;
use tidemill_zset::codec::{self, CodecError, Encoded};

use crate::wire::Put;

const BLOCK_VERSION: u8 = 2;
const HASHED: u8 = 1;
const ONE_DIFF: u8 = 2;
const ONE_EPOCH: u8 = 4;
const HEADER_BYTES: usize = 8;
/// What a decoded view takes beyond the encoded bytes, per row and column at most.
const VIEW_BYTES: usize = 16;
/// What a block takes however few rows it has, and each of its columns when it is decoded.
const BLOCK_BYTES: usize = size_of::<Block>() + 128;
const COLUMN_BYTES: usize = 256;

/// One i64 per row, or the same for all.
#[derive(Clone, Debug)]
pub(crate) enum Numbers {
    All(i64),
    Each(ScalarBuffer<i64>),
}

impl Numbers {
    pub(crate) fn of(values: ScalarBuffer<i64>) -> Numbers {
        match values.first() {
            Some(first) if values.iter().all(|v| v == first) => Numbers::All(*first),
            None => Numbers::All(0),
            _ => Numbers::Each(values),
        }
    }

    #[inline]
    pub(crate) fn get(&self, row: usize) -> i64 {
        match self {
            Numbers::All(v) => *v,
            Numbers::Each(v) => v[row],
        }
    }

    pub(crate) fn slice(&self, offset: usize, len: usize) -> Numbers {
        match self {
            Numbers::All(v) => Numbers::All(*v),
            Numbers::Each(v) => Numbers::of(v.slice(offset, len)),
        }
    }

    pub(crate) fn min_max(&self) -> (i64, i64) {
        match self {
            Numbers::All(v) => (*v, *v),
            Numbers::Each(v) => v
                .iter()
                .fold((i64::MAX, i64::MIN), |(a, b), v| (a.min(*v), b.max(*v))),
        }
    }
}

/// Rows to be written as one block.
pub(crate) struct BlockRows<'a> {
    /// Empty for `Log`.
    pub hashes: ScalarBuffer<u64>,
    pub rows: &'a RecordBatch,
    pub diffs: Numbers,
    pub epochs: Numbers,
}

impl BlockRows<'_> {
    /// Appends the encoded block to `out`.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let mut flags = 0;
        if !self.hashes.is_empty() {
            flags |= HASHED;
        }
        if matches!(self.diffs, Numbers::All(_)) {
            flags |= ONE_DIFF;
        }
        if matches!(self.epochs, Numbers::All(_)) {
            flags |= ONE_EPOCH;
        }
        out.extend_from_slice(&[BLOCK_VERSION, flags, 0, 0]);
        out.u32(self.rows.num_rows() as u32);
        out.extend_from_slice(self.hashes.inner());
        for numbers in [&self.diffs, &self.epochs] {
            match numbers {
                Numbers::All(v) => out.i64(*v),
                Numbers::Each(v) => codec::encode_numbers(v, out),
            }
        }
        codec::encode(self.rows, out);
    }
}

/// Rows of one run, in its order.
#[derive(Debug)]
pub(crate) struct Block {
    pub rows: usize,
    /// Empty for `Log`.
    pub hashes: ScalarBuffer<u64>,
    pub diffs: Numbers,
    pub epochs: Numbers,
    /// The largest of `epochs`.
    pub newest: Epoch,
    encoded: Encoded,
    columns: Vec<OnceLock<ArrayRef>>,
    /// Bytes of memory that it takes at most.
    pub bytes: usize,
}

impl Block {
    /// Reads what [`BlockRows::encode`] wrote. Columns stay encoded until asked for.
    pub(crate) fn decode(bytes: Buffer) -> Result<Block, CodecError> {
        let damaged = CodecError::Damaged("a block ends too early");
        if bytes.len() < HEADER_BYTES {
            return Err(damaged);
        }
        let version = bytes[0];
        if version == 0 || version > BLOCK_VERSION {
            return Err(CodecError::Version(version));
        }
        let flags = bytes[1];
        let rows = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]) as usize;
        let mut at = HEADER_BYTES;
        let hashed = if flags & HASHED > 0 { rows } else { 0 };
        let hashes = scalars::<u64>(&bytes, &mut at, hashed)?;
        let mut numbers = |one: bool| {
            Ok::<_, CodecError>(match one {
                true => Numbers::All(scalars::<i64>(&bytes, &mut at, 1)?[0]),
                false if version == 1 => Numbers::Each(scalars(&bytes, &mut at, rows)?),
                false => Numbers::Each(codec::decode_numbers(&bytes, &mut at, rows)?),
            })
        };
        let diffs = numbers(flags & ONE_DIFF > 0)?;
        let epochs = numbers(flags & ONE_EPOCH > 0)?;
        let memory = bytes.len();
        let encoded = Encoded::parse(bytes.slice(at))?;
        if encoded.rows() != rows {
            return Err(CodecError::Damaged("another number of rows"));
        }
        Ok(Block {
            rows,
            hashes,
            diffs,
            newest: epochs.min_max().1,
            epochs,
            columns: vec![OnceLock::new(); encoded.columns()],
            bytes: memory + BLOCK_BYTES + encoded.columns() * (COLUMN_BYTES + rows * VIEW_BYTES),
            encoded,
        })
    }

    /// Column `index`, decoded now if it wasn't.
    pub(crate) fn column(&self, index: usize, schema: &SchemaRef) -> Result<&ArrayRef, CodecError> {
        let slot = self
            .columns
            .get(index)
            .ok_or(CodecError::Damaged("too few columns"))?;
        if let Some(column) = slot.get() {
            return Ok(column);
        }
        let column = self
            .encoded
            .column(index, schema.field(index).data_type())?;
        Ok(slot.get_or_init(|| column))
    }

    #[inline]
    pub(crate) fn epoch(&self, row: usize) -> Epoch {
        self.epochs.get(row)
    }
}

/// `n` values at `at`, shared where they are aligned.
fn scalars<T: ArrowNativeType>(
    bytes: &Buffer,
    at: &mut usize,
    n: usize,
) -> Result<ScalarBuffer<T>, CodecError> {
    let len = n * size_of::<T>();
    if bytes.len() - *at < len {
        return Err(CodecError::Damaged("a block ends too early"));
    }
    let part = bytes.slice_with_length(*at, len);
    *at += len;
    Ok(match part.as_ptr().align_offset(align_of::<T>()) {
        0 => ScalarBuffer::from(part),
        _ => ScalarBuffer::from(Buffer::from(part.as_slice())),
    })
}
