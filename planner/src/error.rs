//! [`SqlError`]: SQLSTATE, message, detail, hint and position, as PostgreSQL reports them.

/// An error for the client. `Display` gives the message alone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SqlError {
    /// Five characters, e.g. `42P01`.
    pub sqlstate: &'static str,
    /// One line, lower case, no full stop.
    pub message: String,
    /// More facts, whole sentences.
    pub detail: Option<String>,
    /// What to do, whole sentences.
    pub hint: Option<String>,
    /// Where in the statement's text: characters, from 1.
    pub position: Option<usize>,
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, SqlError>;

impl SqlError {
    /// An error with a code and a message.
    pub fn new(sqlstate: &'static str, message: impl Into<String>) -> Self {
        SqlError {
            sqlstate,
            message: message.into(),
            detail: None,
            hint: None,
            position: None,
        }
    }

    /// Adds a detail.
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Adds a hint.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds a position (characters from 1).
    pub fn at(mut self, position: usize) -> Self {
        self.position = Some(position);
        self
    }

    /// `0A000`: not supported.
    pub fn unsupported(message: impl Into<String>) -> Self {
        SqlError::new("0A000", message)
    }

    /// `XX000`: a broken invariant of ours.
    pub fn internal(message: impl Into<String>) -> Self {
        SqlError::new("XX000", message)
    }
}

/// What the user sees of an error of planning or execution.
pub fn from_datafusion(e: &datafusion_common::DataFusionError) -> SqlError {
    SqlError::internal(e.to_string())
}

/// The same for an error of a row; installed in the dataflow runtime
/// (`tidemill_dataflow::plan::ErrorMapper`).
pub fn row_error(e: &datafusion_common::DataFusionError) -> tidemill_dataflow::plan::RowError {
    let e = from_datafusion(e);
    tidemill_dataflow::plan::RowError {
        sqlstate: e.sqlstate.to_string(),
        message: e.message,
    }
}
