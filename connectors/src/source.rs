//! What every source gives and is given.

use std::collections::BTreeMap;

use arrow::datatypes::SchemaRef;
use tidemill_zset::Delta;

/// A piece of a source's input. Rows, errors and offsets of one batch are committed in one
/// epoch; a batch is never split, so a message or transaction that must not be torn lies within one batch.
#[derive(Clone, Debug)]
pub struct SourceBatch {
    /// Rows of the declared schema (metadata columns included).
    pub rows: Option<Delta>,
    /// Rows of [`error_schema`].
    pub errors: Option<Delta>,
    /// Connector-defined number of the file (0: none) that `rows` and `errors` come from; recorded with them.
    pub origin: u64,
    /// Origins whose recorded rows and errors must be retracted before `rows` are added.
    pub retract: Vec<u64>,
    /// Offset entries that changed: key, new value or `None` to delete.
    pub offsets: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// Input bytes that were decoded for this batch.
    pub bytes: u64,
}

/// Columns of `<source>_errors`: path, offset in bytes, line from 1, the raw text, the reason.
pub fn error_schema() -> SchemaRef {
    use arrow::datatypes::{DataType, Field};
    tidemill_zset::delta::schema_of(vec![
        Field::new("path", DataType::Utf8View, true),
        Field::new("offset", DataType::Int64, true),
        Field::new("line", DataType::Int64, true),
        Field::new("raw", DataType::Utf8View, true),
        Field::new("reason", DataType::Utf8View, true),
    ])
}

/// What a source is made of: the declared columns and the `WITH` options.
#[derive(Clone, Debug)]
pub struct SourceSpec {
    /// The source's name, for messages.
    pub name: String,
    /// Declared columns, types as `tidemill_zset::schema` says. Columns named `_path`, `_offset`,
    /// `_line`, `_modified_at` are metadata.
    pub schema: SchemaRef,
    /// Lower-case option names.
    pub options: BTreeMap<String, String>,
    /// True if rows are recorded (`persistent_id`): edits and deletions can then be retracted.
    pub recorded: bool,
}

/// What goes wrong in a source or its options.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConnectorError {
    /// The user gave a wrong option: name the option, what it was, what is allowed.
    #[error("{message}")]
    Option {
        /// What is wrong.
        message: String,
        /// What to write instead.
        hint: String,
    },
    /// The environment: a directory that can't be read, a full disk. Retried by the connector where that makes sense.
    #[error("{0}")]
    Io(String),
}
