//! [`Operator`]: a state machine that turns input deltas of an epoch into output deltas.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tidemill_storage::ArrangementChange;
use tidemill_zset::{Delta, Epoch};

use crate::plan::RowError;

/// What an operator hands over while it steps. The runtime forwards `rows` to the next operator, and
/// collects `errors` and `changes` for the commit of the epoch.
#[derive(Default, Debug)]
pub struct Output {
    /// Output deltas, in pieces of bounded size (aim for at most 8,192 rows each).
    pub rows: Vec<Delta>,
    /// Changes of the dataflow's error collection, see [`error_schema`].
    pub errors: Vec<Delta>,
    /// Changes of the operator's arrangements. At most once per key and epoch for `Last`.
    pub changes: Vec<ArrangementChange>,
}

/// An incremental operator. It knows nothing of timely, SQL, tokio or the clock.
///
/// For every epoch, in increasing order: any number of `push`, then one `finish`. After `finish`
/// the output of the epoch is complete: the sum of all output up to it equals the operator's function of the sum
/// of all input up to it. Operators without state may emit from `push`; the others emit from `finish`.
pub trait Operator {
    /// Takes a piece of input `port`'s delta for the epoch that the next `finish` names.
    fn push(&mut self, port: usize, delta: Delta, out: &mut Output);

    /// Ends `epoch`.
    fn finish(&mut self, epoch: Epoch, out: &mut Output);

    /// Bytes of memory that its state takes now, for metrics and limits.
    fn state_bytes(&self) -> usize {
        0
    }
}

/// Columns of an error collection: SQLSTATE, message, and the row at fault as text.
pub fn error_schema() -> SchemaRef {
    static SCHEMA: std::sync::OnceLock<SchemaRef> = std::sync::OnceLock::new();
    SCHEMA
        .get_or_init(|| {
            let text = |name| Field::new(name, DataType::Utf8, true);
            Arc::new(Schema::new(vec![
                text("sqlstate"),
                text("message"),
                text("culprit"),
            ]))
        })
        .clone()
}

/// An error delta of one row per (error, culprit, diff).
pub fn error_delta(errors: &[(RowError, String, i64)]) -> Delta {
    let column = |f: fn(&(RowError, String, i64)) -> &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(errors.iter().map(f)))
    };
    let rows = RecordBatch::try_new(
        error_schema(),
        vec![
            column(|e| &e.0.sqlstate),
            column(|e| &e.0.message),
            column(|e| &e.1),
        ],
    )
    .expect("three text columns of equal length");
    Delta::new(rows, errors.iter().map(|e| e.2).collect::<Vec<_>>())
}
