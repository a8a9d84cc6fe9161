//! [`SqlError`]: SQLSTATE, message, detail, hint and position, as PostgreSQL reports them.

use arrow::error::ArrowError;
use datafusion_common::DataFusionError;

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
    /// What it is about, for programs.
    pub about: Option<Box<About>>,
}

/// Names that belong to an error, which clients look at rather than at its text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// Schema of the table.
    pub schema: Option<String>,
    /// Table whose rows it is about.
    pub table: Option<String>,
    /// Column of the table.
    pub column: Option<String>,
    /// Constraint that is violated; also a unique index.
    pub constraint: Option<String>,
    /// PostgreSQL's name of the place, where clients know an error by that.
    pub routine: Option<&'static str>,
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
            about: None,
        }
    }

    /// Changes what it is about.
    pub fn about(mut self, change: impl FnOnce(&mut About)) -> Self {
        change(self.about.get_or_insert_default());
        self
    }

    /// `0A000`: a prepared statement would give other columns than it said. Drivers know it by its routine, and prepare it again.
    pub fn outdated_plan() -> Self {
        let e = SqlError::unsupported("cached plan must not change result type");
        e.about(|a| a.routine = Some("RevalidateCachedQuery"))
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

    /// `57014`: somebody asked for the end of the statement, or nobody waits for it any more.
    pub fn cancelled() -> Self {
        SqlError::new("57014", "canceling statement due to user request")
    }

    /// `XX000`: a broken invariant of ours.
    pub fn internal(message: impl Into<String>) -> Self {
        SqlError::new("XX000", message)
    }
}

/// What the user sees of an error of planning or execution. Errors of ours travel through DataFusion as
/// `External`; the rest are recognised by their text, here and nowhere else.
pub fn from_datafusion(e: &DataFusionError) -> SqlError {
    if let Some(own) = find_own(e) {
        return own;
    }
    from_text(&e.find_root().strip_backtrace())
}

fn find_own(e: &DataFusionError) -> Option<SqlError> {
    match e {
        DataFusionError::External(b) => {
            if let Some(own) = b.downcast_ref::<SqlError>() {
                return Some(own.clone());
            }
            if let Some(row) = b.downcast_ref::<tidemill_dataflow::plan::RowError>() {
                return Some(SqlError::new(
                    known_state(&row.sqlstate),
                    row.message.clone(),
                ));
            }
            find_own(b.downcast_ref::<DataFusionError>()?)
        }
        DataFusionError::ArrowError(a, _) => match a.as_ref() {
            ArrowError::ExternalError(b) => match b.downcast_ref::<SqlError>() {
                Some(own) => Some(own.clone()),
                None => find_own(b.downcast_ref::<DataFusionError>()?),
            },
            ArrowError::DivideByZero => Some(SqlError::new("22012", "division by zero")),
            _ => None,
        },
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => {
            find_own(inner)
        }
        DataFusionError::Shared(inner) => find_own(inner),
        DataFusionError::Collection(all) => all.iter().find_map(find_own),
        _ => None,
    }
}

/// The states that rows' errors can have, as constants.
pub(crate) fn known_state(state: &str) -> &'static str {
    const STATES: &[&str] = &[
        "0A000", "21000", "22001", "22003", "22004", "22007", "22008", "22009", "2200C", "22011",
        "22012", "22014", "22015", "22016", "2201B", "2201E", "2201F", "2201G", "22021", "22023",
        "22025", "2202E", "22P02", "42703", "42809", "42846", "42883", "53200", "54000",
    ];
    STATES
        .iter()
        .find(|s| **s == state)
        .copied()
        .unwrap_or("XX000")
}

fn from_text(text: &str) -> SqlError {
    let lower = text.to_lowercase();
    let has = |s: &str| lower.contains(s);
    if has("divide by zero") || has("division by zero") {
        SqlError::new("22012", "division by zero")
    } else if has("limit must be >=") {
        // A parameter's value.
        SqlError::new("2201W", "LIMIT must not be negative")
    } else if has("offset must be >=") {
        SqlError::new("2201X", "OFFSET must not be negative")
    } else if has("returned more than one row")
        || has("more than one row")
        || has("must return at most one row")
    {
        SqlError::new(
            "21000",
            "more than one row returned by a subquery used as an expression",
        )
    } else if has("overflow") || has("too large to store in a decimal") || has("out of range") {
        SqlError::new("22003", "value out of range").detail(text)
    } else if has("resources exhausted") {
        SqlError::new("53200", "out of memory")
            .detail(text.lines().next().unwrap_or_default())
            .hint("Ask for less at once, or start the server with a larger --query-memory.")
    } else if has("not implemented")
        || has("not supported")
        || has("unsupported")
        || has("physical plan does not support logical expression")
        || has("correlated scalar subquery can only be used in")
        || has("correlated scalar subquery must be aggregated")
    {
        SqlError::new("0A000", "this query is not supported").detail(text)
    } else {
        SqlError::internal(text)
    }
}

/// The same for an error of a row; installed in the dataflow runtime
/// (`tidemill_dataflow::plan::ErrorMapper`).
pub fn row_error(e: &DataFusionError) -> tidemill_dataflow::plan::RowError {
    let e = from_datafusion(e);
    tidemill_dataflow::plan::RowError {
        sqlstate: e.sqlstate.to_string(),
        message: e.message,
    }
}
