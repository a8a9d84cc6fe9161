//! The options of a files source, checked.

use std::path::PathBuf;
use std::sync::Arc;

use super::pattern::Root;
use crate::decode::csv::CsvFormat;
use crate::decode::{Decoder, Format};
use crate::options::{
    COMMON_OPTIONS, boolean, character, check_names, choice, integer, malformed, missing,
};
use crate::source::{ConnectorError, SourceSpec};

/// Bytes of one record (default of `max_line_bytes`): what is longer becomes an error row.
pub const LINE_BYTES_MAX: u64 = 64 << 20;
/// The largest `max_line_bytes`: positions in a chunk are 31 bits.
const LINE_BYTES_LIMIT: u64 = 1 << 30;
/// Rows of a batch at most.
pub const BATCH_ROWS_MAX: usize = 65_536;

const FILES_OPTIONS: &[&str] = &[
    "path",
    "format",
    "on_delete",
    "last_line",
    "verify",
    "max_line_bytes",
];
const CSV_OPTIONS: &[&str] = &["header", "delimiter", "null", "quote", "escape"];

/// The options of a files source, checked.
#[derive(Clone, Debug)]
pub struct FilesOptions {
    /// What is read.
    pub root: Arc<Root>,
    /// How it is decoded.
    pub format: Format,
    /// The rows of a deleted file are retracted.
    pub retract_deleted: bool,
    /// A last line without line end is read once its file has settled.
    pub read_last_line: bool,
    /// An edit is looked for in everything that was consumed, not only at its ends.
    pub verify_full: bool,
    /// Longest record, in bytes.
    pub line_bytes_max: usize,
    /// Rows of a batch, chosen so that whole batches fill an epoch.
    pub batch_rows: usize,
}

impl FilesOptions {
    /// Checks and reads the options of `spec`, and its columns.
    pub fn parse(spec: &SourceSpec) -> Result<Self, ConnectorError> {
        let o = &spec.options;
        let format = choice(o, "format", &["csv", "jsonl"])?;
        let known: Vec<&str> = match format {
            Some(1) => FILES_OPTIONS.to_vec(),
            _ => [FILES_OPTIONS, CSV_OPTIONS].concat(),
        };
        if let (Some(1), Some(csv)) = (format, CSV_OPTIONS.iter().find(|n| o.contains_key(**n))) {
            return Err(ConnectorError::Option {
                message: format!("option \"{csv}\" has no meaning with format = 'jsonl'"),
                hint: "Leave it out, or write format = 'csv'.".into(),
            });
        }
        check_names(o, COMMON_OPTIONS, &known)?;
        let path = o.get("path").filter(|p| !p.is_empty());
        let path = path.ok_or_else(|| missing("path", "path = 'a file, directory or glob'"))?;
        let format = match format {
            None => return Err(missing("format", "format = 'csv' | 'jsonl'")),
            Some(0) => Format::Csv(csv_format(spec)?),
            Some(_) => Format::Jsonl,
        };
        let retract_deleted = choice(o, "on_delete", &["keep", "retract"])? == Some(1);
        if retract_deleted && !spec.recorded {
            return Err(ConnectorError::Option {
                message: "on_delete = 'retract' needs recorded rows".into(),
                hint: "Add persistent_id = '…', so that the rows of a deleted file are known."
                    .into(),
            });
        }
        Decoder::new(spec.schema.clone(), &format)?;
        Ok(FilesOptions {
            root: Arc::new(Root::parse(&absolute(path)?)?),
            format,
            retract_deleted,
            read_last_line: choice(o, "last_line", &["wait", "read"])? == Some(1),
            verify_full: choice(o, "verify", &["ends", "full"])? == Some(1),
            line_bytes_max: integer(o, "max_line_bytes", LINE_BYTES_MAX, 1024, LINE_BYTES_LIMIT)?
                as usize,
            batch_rows: batch_rows(o.get("epoch_rows_max")),
        })
    }
}

/// So many numbers of batches are tried.
const DIVISORS_TRIED_MAX: usize = 10_000;

/// Rows of a batch: of some that make `epoch_rows_max` together, exactly if there is such a number that isn't much smaller
/// than it may be.
pub fn batch_rows(epoch_rows_max: Option<&String>) -> usize {
    let epoch = epoch_rows_max.and_then(|n| n.parse::<usize>().ok());
    let Some(epoch) = epoch.filter(|n| *n > 0) else {
        return BATCH_ROWS_MAX;
    };
    let fewest = epoch.div_ceil(BATCH_ROWS_MAX);
    let most = (2 * fewest).min(fewest + DIVISORS_TRIED_MAX);
    let exact = (fewest..=most).find(|batches| epoch.is_multiple_of(*batches));
    epoch / exact.unwrap_or(fewest)
}

fn csv_format(spec: &SourceSpec) -> Result<CsvFormat, ConnectorError> {
    let o = &spec.options;
    let quote = character(o, "quote", b'"')?;
    let format = CsvFormat {
        delimiter: character(o, "delimiter", b',')?,
        quote,
        escape: character(o, "escape", quote)?,
        null: o.get("null").map_or(Vec::new(), |n| n.clone().into_bytes()),
        header: boolean(o, "header", false)?,
    };
    if format.delimiter == format.quote || format.delimiter == format.escape {
        return Err(ConnectorError::Option {
            message: "the delimiter is also the quote or escape character".into(),
            hint: "Choose three different characters (escape may be the quote).".into(),
        });
    }
    if format
        .null
        .iter()
        .any(|b| *b == format.delimiter || *b == b'\n' || *b == b'\r')
    {
        let null = String::from_utf8_lossy(&format.null).into_owned();
        return Err(malformed(
            "null",
            &null,
            "a text without delimiter and line end",
        ));
    }
    Ok(format)
}

fn absolute(path: &str) -> Result<PathBuf, ConnectorError> {
    std::path::absolute(path)
        .map_err(|e| ConnectorError::Io(format!("can't make the path \"{path}\" absolute: {e}")))
}
