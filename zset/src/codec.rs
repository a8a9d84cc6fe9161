//! The codec of rows on disk: our own, versioned, columnar, independent of Arrow's memory layout.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

/// Version of the format, the first byte of everything encoded.
pub const CODEC_VERSION: u8 = 1;

/// Why bytes could not be decoded. The caller knows the file and the place and adds them.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The bytes end too early, or a length or offset in them is out of range.
    #[error("encoded rows are damaged: {0}")]
    Damaged(&'static str),
    /// Written by a newer version.
    #[error("encoded rows have format version {0}, this build reads up to {CODEC_VERSION}")]
    Version(u8),
}

/// Appends the rows of `batch` to `out`. The schema is not written.
pub fn encode(batch: &RecordBatch, out: &mut Vec<u8>) {
    let _ = (batch, out);
}

/// Decodes what [`encode`] wrote for a batch of `schema`. Never panics on damaged bytes.
pub fn decode(schema: &SchemaRef, bytes: &[u8]) -> Result<RecordBatch, CodecError> {
    let _ = (schema, bytes);
    Err(CodecError::Damaged("empty"))
}
