//! Sinks: files that receive a view's changes, each exactly once.
//!
//! Invariant: after a resume the file holds exactly the bytes below the committed length, and then what is written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use arrow::datatypes::SchemaRef;
use tidemill_zset::{Delta, Epoch};

use crate::source::ConnectorError;

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
        let _ = options;
        Err(ConnectorError::Io("no sink".into()))
    }

    /// Refuses a schema with two columns of one name, or one named like the time or diff column.
    pub fn check_columns(&self, schema: &SchemaRef) -> Result<(), ConnectorError> {
        let _ = schema;
        Ok(())
    }
}

/// A file that receives changes.
pub struct FileSink {}

impl FileSink {
    /// Opens the file at `path`. `resume` is the committed length: the file is cut to it, and it is
    /// an error if it is shorter. Without, the file must not exist or be empty.
    pub fn open(
        path: &Path,
        format: SinkFormat,
        schema: SchemaRef,
        resume: Option<u64>,
    ) -> Result<FileSink, ConnectorError> {
        let _ = (path, format, schema, resume);
        Ok(FileSink {})
    }

    /// Writes a line per row of `delta` (into a buffer, which goes to the file as it fills).
    pub fn write(&mut self, epoch: Epoch, delta: &Delta) -> Result<(), ConnectorError> {
        let _ = (epoch, delta);
        Ok(())
    }

    /// Makes everything written durable and gives the file's length, to be committed with the epoch.
    pub fn sync(&mut self) -> Result<u64, ConnectorError> {
        Ok(0)
    }
}
