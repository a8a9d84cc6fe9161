//! Clauses of other streaming databases for which this one has another way: what to write instead.

use super::P;
use crate::error::{Result, SqlError};

/// The words that it begins with, the error and the hint.
type Clause = (&'static str, &'static str, &'static str);

/// Behind a source's name and columns, and behind its options.
pub(super) const OF_SOURCE: [Clause; 3] = [
    (
        "format",
        "FORMAT is not supported",
        "The format is an option: WITH (…, format = 'jsonl').",
    ),
    (
        "from",
        "CREATE SOURCE … FROM is not supported",
        "What is read is said by options: WITH (connector = 'files', path = '…').",
    ),
    (
        "in cluster",
        "clusters are not supported",
        "Leave IN CLUSTER out: one server computes everything.",
    ),
];

/// Behind a view's name and columns.
pub(super) const OF_VIEW: [Clause; 1] = [OF_SOURCE[2]];

/// Behind a sink's name.
pub(super) const OF_SINK: [Clause; 3] = [
    (
        "as",
        "a sink of a query is not supported",
        "Create a materialized view of the query, and a sink FROM it.",
    ),
    (
        "into",
        "a sink into a table is not supported",
        "Query the materialized view itself, or create another one over it.",
    ),
    OF_SOURCE[2],
];

/// Behind a cursor's name.
pub(super) const OF_CURSOR: [Clause; 1] = [(
    "subscription cursor",
    "subscription cursors are not supported",
    "A cursor may be of a subscription: DECLARE … CURSOR FOR SUBSCRIBE ….",
)];

impl P<'_> {
    /// Refuses the clause that comes next, if it is one of these.
    pub(super) fn refuse_elsewhere(&self, clauses: &[Clause]) -> Result<()> {
        let next = |words: &str| {
            let mut words = words.split(' ').enumerate();
            words.all(|(n, word)| self.peek_is(n, word))
        };
        match clauses.iter().find(|(words, ..)| next(words)) {
            Some((_, message, hint)) => Err(SqlError::unsupported(*message).hint(*hint)),
            None => Ok(()),
        }
    }
}
