//! One client's session: statements in, responses out. Knows nothing of the wire format.

pub mod advisory;
mod alter;
pub mod backends;
mod catalog_query;
mod checks;
mod control;
mod copy;
mod copy_binary;
mod copy_text;
mod cursor;
mod ddl;
mod execution;
mod like;
mod literals;
mod numbering;
mod placing;
mod plans;
mod query;
pub mod sequences;
mod setting_values;
pub mod settings;
mod show;
pub mod sql;
mod subscribe;
pub mod temporary;
mod times;
mod together;
mod transaction;
mod unique;
mod write;
mod write_plan;
mod write_rows;

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, SchemaRef};
use futures::stream::BoxStream;
use tidemill_planner::SqlError;
use tidemill_planner::ast::{CopyOptions, Parsed};

use self::backends::{Backend, Backends};
pub use plans::PlanSlot;
pub use settings::Timeouts;
pub use sql::{Sessions, SqlSession};
pub use tidemill_planner::names::DATABASE;

/// What clients are told; they decide by the number in front what they may ask.
pub const SERVER_VERSION: &str = crate::pg::SERVER_VERSION;

/// Batches of a result. Dropping it cancels the work behind it.
pub type BatchStream = BoxStream<'static, Result<RecordBatch, SqlError>>;

/// What a statement gives.
pub enum Response {
    /// An empty query string.
    Empty,
    /// A command tag alone, e.g. `CREATE TABLE`, `INSERT 0 3`, `BEGIN`.
    Tag(String),
    /// Rows. The tag is `verb` plus the number of rows, e.g. `SELECT 3`, `FETCH 1`, `SHOW`.
    Rows {
        /// Columns of every batch.
        schema: SchemaRef,
        /// The rows.
        batches: BatchStream,
        /// `SELECT`, `FETCH`, `SUBSCRIBE`; with `counted`, followed by the number of rows.
        verb: &'static str,
        /// See `verb`.
        counted: bool,
        /// A stream without an end in sight: every batch is flushed to the client at once.
        live: bool,
    },
    /// COPY … TO STDOUT.
    CopyOut {
        /// Columns of every batch.
        schema: SchemaRef,
        /// The rows.
        batches: BatchStream,
        /// Format.
        options: CopyOptions,
        /// As in `Rows`.
        live: bool,
    },
    /// COPY … FROM STDIN: the wire collects the client's data, decodes nothing, and hands it in.
    CopyIn {
        /// Columns expected, in order.
        schema: SchemaRef,
        /// Format.
        options: CopyOptions,
        /// Where the data goes.
        sink: Box<dyn CopySink>,
    },
}

/// Takes the client's COPY data.
#[async_trait::async_trait]
pub trait CopySink: Send {
    /// Raw bytes as they come; rows may be torn anywhere.
    async fn data(&mut self, bytes: bytes::Bytes) -> Result<(), SqlError>;
    /// End of data: number of rows copied.
    async fn done(self: Box<Self>) -> Result<u64, SqlError>;
    /// The client gave up, or an error happened.
    async fn fail(self: Box<Self>, message: String);
}

/// Message of level NOTICE or WARNING that precedes the response.
#[derive(Clone, Debug)]
pub struct Notice {
    /// `NOTICE` or `WARNING`.
    pub severity: &'static str,
    /// SQLSTATE, `00000` for plain notices.
    pub sqlstate: &'static str,
    /// One line.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

/// Transaction status for ReadyForQuery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionStatus {
    /// Outside a transaction.
    Idle,
    /// Inside one.
    Open,
    /// Inside one that failed.
    Failed,
}

/// A parameter of the extended protocol, decoded by the wire according to its type.
#[derive(Clone, Debug)]
pub enum ParamValue {
    /// SQL NULL.
    Null,
    /// An Arrow array of one element of the parameter's type.
    Value(arrow::array::ArrayRef),
}

/// A statement that Parse has prepared.
#[derive(Clone)]
pub struct Prepared {
    /// The statement.
    pub parsed: Arc<Parsed>,
    /// Types of `$1`, `$2`, … as declared or inferred.
    pub params: Vec<Field>,
    /// Columns of the result; `None` when it gives no rows.
    pub columns: Option<SchemaRef>,
    /// Its plan.
    pub plan: PlanSlot,
}

/// The error of a statement in a transaction that has failed.
pub fn aborted() -> SqlError {
    let message = "current transaction is aborted, commands ignored until end of transaction block";
    SqlError::new("25P02", message)
}

/// What the wire needs of a session. One statement at a time.
///
/// A cancel, or a client that goes away, drops the future of `prepare`, `execute`,
/// `execute_parsed` or `sync`, or the response's stream, at any await point; `failed` follows.
#[async_trait::async_trait]
pub trait Session: Send {
    /// Splits a query string into statements. Errors carry positions in the whole string.
    fn parse(&mut self, sql: &str) -> Result<Vec<Parsed>, SqlError>;

    /// Parse and Describe of the extended protocol; `types` are what the client declared (`None`: infer).
    async fn prepare(&mut self, sql: &str, types: Vec<Option<Field>>)
    -> Result<Prepared, SqlError>;

    /// Runs a statement. `implicit`: it is one of several in a simple-query string, which form one
    /// implicit transaction; the wire calls `sync` after the last one.
    async fn execute(
        &mut self,
        statement: &Prepared,
        params: Vec<ParamValue>,
        implicit: bool,
    ) -> Result<Response, SqlError>;

    /// Runs a parsed statement of the simple protocol (no parameters, no describe before).
    async fn execute_parsed(
        &mut self,
        statement: Parsed,
        implicit: bool,
    ) -> Result<Response, SqlError>;

    /// End of a simple-query string or Sync: commits the implicit transaction.
    async fn sync(&mut self) -> Result<(), SqlError>;

    /// A statement failed, or its response stream did: marks an open transaction as failed.
    fn failed(&mut self);

    /// For ReadyForQuery.
    fn transaction_status(&self) -> TransactionStatus;

    /// Notices to send before the response.
    fn take_notices(&mut self) -> Vec<Notice>;

    /// Parameters whose new value the client must be told (ParameterStatus), e.g. `TimeZone`.
    fn take_parameter_changes(&mut self) -> Vec<(String, String)>;

    /// Limits of time that the wire keeps.
    fn timeouts(&self) -> Timeouts {
        Timeouts::default()
    }

    /// Columns of a cursor that DECLARE has opened: to the protocol it is a portal.
    fn cursor(&self, _name: &str) -> Option<SchemaRef> {
        None
    }

    /// The columns of a FETCH or EXECUTE as they are now, of which what was prepared before may have had others. `None`: what was
    /// prepared stays as it is.
    fn columns_now(&self, _statement: &Parsed) -> Option<Option<SchemaRef>> {
        None
    }

    /// Closes such a cursor, if there is one.
    fn close_cursor(&mut self, _name: &str) {}
}

/// Opens sessions. Startup parameters were sent by the client.
#[async_trait::async_trait]
pub trait SessionFactory: Send + Sync + 'static {
    /// Errors such as 3D000 end the connection.
    async fn open(
        &self,
        user: &str,
        database: &str,
        parameters: Vec<(String, String)>,
        backend: &Backend,
    ) -> Result<Box<dyn Session>, SqlError>;

    /// The list in which the connections of a listener are entered.
    fn backends(&self) -> Arc<Backends> {
        Arc::default()
    }
}
