//! [`Operator`]: a state machine that turns input deltas of an epoch into output deltas.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tidemill_storage::ArrangementChange;
use tidemill_zset::{Delta, Epoch};

use crate::plan::{ErrorMapper, RowError};

/// What an operator hands over while it steps. The runtime forwards `rows` to the next operator, and
/// collects `errors` and `changes` for the commit of the epoch.
#[derive(Debug)]
pub struct Output {
    /// Output deltas, in pieces of bounded size (aim for at most 8,192 rows each).
    pub rows: Vec<Delta>,
    /// Changes of the dataflow's error collection, see [`error_schema`].
    pub errors: Vec<Delta>,
    /// Changes of the operator's arrangements. At most once per key and epoch for `Last`.
    pub changes: Vec<ArrangementChange>,
    /// How much the operator may do before it lets others go on: rows taken, pairs of rows looked at.
    pub allowance: usize,
}

impl Default for Output {
    /// Without a limit.
    fn default() -> Self {
        Output::with_allowance(usize::MAX)
    }
}

impl Output {
    /// An operator that has spent this keeps the rest of its work for [`Operator::go_on`].
    pub fn with_allowance(allowance: usize) -> Self {
        Output {
            rows: Vec::new(),
            errors: Vec::new(),
            changes: Vec::new(),
            allowance,
        }
    }

    /// Notes that so much has been done.
    pub fn spend(&mut self, work: usize) {
        self.allowance = self.allowance.saturating_sub(work);
    }

    /// Nothing more should be begun.
    pub fn is_spent(&self) -> bool {
        self.allowance == 0
    }
}

/// An incremental operator. It knows nothing of timely, SQL, tokio or the clock.
///
/// For every epoch, in increasing order: any number of `push`, then one `finish`. After `finish`
/// the output of the epoch is complete: the sum of all output up to it equals the operator's function of the sum
/// of all input up to it. Operators without state, and joins, may emit
/// from `push`; the others emit from `finish`.
///
/// Both may leave work undone when the allowance of the output is spent. Then the operator is *busy*: `go_on`
/// is called until it no longer is, and nothing else meanwhile. The epoch has ended when `finish` was called and the
/// operator isn't busy.
pub trait Operator {
    /// Takes a piece of input `port`'s delta for the epoch that the next `finish` names.
    fn push(&mut self, port: usize, delta: Delta, out: &mut Output);

    /// Ends `epoch`.
    fn finish(&mut self, epoch: Epoch, out: &mut Output);

    /// It has work left of an earlier call.
    fn is_busy(&self) -> bool {
        false
    }

    /// Rows only pass through it: it remembers nothing from one piece of input to the next, `finish` does nothing, and it makes no
    /// changes.
    fn only_passes(&self) -> bool {
        false
    }

    /// Goes on with the work that is left, within the allowance of `out`.
    fn go_on(&mut self, _out: &mut Output) {}

    /// Bytes of memory that its state takes now, for metrics and limits.
    fn state_bytes(&self) -> usize {
        0
    }
}

/// How the rows of an input reach the worker that needs them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exchange {
    /// They stay where they are.
    Local,
    /// By the hash of these columns: the worker of the key's partition.
    Keys(Vec<usize>),
    /// All to worker 0, which owns the partition of the empty key.
    One,
}

/// What an operator needs to know of where it runs.
#[derive(Clone)]
pub struct BuildContext {
    /// Index of the worker.
    pub worker: usize,
    /// How many there are.
    pub workers: usize,
    /// Partitions of the data directory.
    pub partitions: u32,
    /// The dataflow has never run.
    pub fresh: bool,
    /// Bytes of memory, for each arrangement of this operator, from which on it drops cold committed state.
    pub state_bytes_max: usize,
    /// How evaluation errors become SQLSTATE and message.
    pub error_mapper: ErrorMapper,
    /// False: nobody reads the output rows of this operator, it may skip making them (its errors
    /// and changes are wanted all the same). Changes between epochs only.
    pub demand: Rc<Cell<bool>>,
}

impl BuildContext {
    /// True if keys with `hash` are this worker's.
    pub fn owns(&self, hash: u64) -> bool {
        worker_of(hash, self.partitions, self.workers) == self.worker
    }
}

/// The worker that owns the keys with `hash`.
#[inline]
pub fn worker_of(hash: u64, partitions: u32, workers: usize) -> usize {
    tidemill_zset::hash::partition_of(hash, partitions) as usize % workers
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
