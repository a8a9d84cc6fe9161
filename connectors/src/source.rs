//! What every source gives and is given.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use tidemill_zset::Delta;

use crate::files;
use crate::generator;
use crate::options::{Connector, connector_of};
use crate::queue::{BatchSender, StopSignal};

/// Offset entries as they were committed: key and value, both the connector's own encoding.
pub type Offsets = Vec<(Vec<u8>, Vec<u8>)>;

/// A flag per declared column: whether somebody reads it.
pub type Wanted = Arc<[bool]>;

/// A source that is ready to run.
pub trait Source: Send {
    /// Reads on the calling thread, which should be its own, until `stop` is given, the receiver is
    /// gone, or the input has ended (a generator's; files never end). A temporary trouble
    /// (a directory that can't be read) shows in the status and is retried; an error ends the source.
    fn run(self: Box<Self>, out: BatchSender, stop: StopSignal) -> Result<(), ConnectorError>;
}

/// Checks every option against the connector, the format and the declared columns. An unknown
/// option is an error that names the nearest one that exists.
pub fn validate_options(spec: &SourceSpec) -> Result<(), ConnectorError> {
    match connector_of(&spec.options)? {
        Connector::Files => files::FilesOptions::parse(spec).map(drop),
        Connector::Generator => generator::GeneratorOptions::parse(spec).map(drop),
    }
}

/// Whether a file at `path` is one that the source reads, as far as names say.
pub fn reads_file(spec: &SourceSpec, path: &Path) -> bool {
    let (Ok(Connector::Files), Ok(path)) = (connector_of(&spec.options), std::path::absolute(path))
    else {
        return false;
    };
    files::FilesOptions::parse(spec).is_ok_and(|options| options.root.matches(&path))
}

/// Opens a source at its committed `offsets` (none: from the start). A path that doesn't exist
/// yet is waited for; a relative one is taken from the process's working directory.
pub fn open_source(spec: SourceSpec, offsets: Offsets) -> Result<Box<dyn Source>, ConnectorError> {
    match connector_of(&spec.options)? {
        Connector::Files => Ok(Box::new(files::FilesSource::open(spec, offsets)?)),
        Connector::Generator => Ok(Box::new(generator::GeneratorSource::open(spec, offsets)?)),
    }
}

/// The columns of a source that is declared without any; `None` where the connector can't know them.
pub fn default_columns(
    options: &BTreeMap<String, String>,
) -> Result<Option<SchemaRef>, ConnectorError> {
    match connector_of(options)? {
        Connector::Files => Ok(None),
        Connector::Generator => generator::default_columns(options).map(Some),
    }
}

/// Reads the input of an unrecorded source again, exactly what it read between the offsets `from` (none: the start)
/// and `to`, and returns when all of it has been sent. The batches carry rows and errors, no offsets. A
/// consumed file that no longer matches its recorded identity is an error that names it: what
/// was sent before must then be thrown away.
pub fn reread(
    spec: &SourceSpec,
    from: Offsets,
    to: Offsets,
    out: BatchSender,
    stop: StopSignal,
) -> Result<(), ConnectorError> {
    match connector_of(&spec.options)? {
        Connector::Files => files::reread(spec, from, to, out, stop),
        Connector::Generator => generator::reread(spec, from, to, out, stop),
    }
}

/// A piece of a source's input. Rows, errors and offsets of one batch are committed in one
/// epoch; a batch is never split, so a message or transaction that must not be torn lies within one batch.
#[derive(Clone, Debug)]
pub struct SourceBatch {
    /// Rows of the declared schema (metadata columns included).
    pub rows: Option<Delta>,
    /// Which columns of `rows` hold what was read; the others have a placeholder in each row. `None`: all of them.
    pub columns: Option<Wanted>,
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
    /// What was asked can't be done any more: a consumed file has changed, a sink's file isn't its own.
    #[error("{message}")]
    Refused {
        /// What is in the way, with the file's name.
        message: String,
        /// What to do about it.
        hint: String,
    },
    /// The environment: a directory that can't be read, a full disk. Retried by the connector where that makes sense.
    #[error("{0}")]
    Io(String),
}
