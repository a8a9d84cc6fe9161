//! [`DataflowPlan`]: a tree of operators over input collections, as plain data.
//!
//! A plan is made anew from SQL at every start; only ids of arrangements and fingerprints are
//! stored. Column numbers refer to the output of the node's input.

use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion_physical_expr::PhysicalExpr;
use tidemill_zset::{CollectionId, Delta};

mod arrangements;
mod explain;
mod output;
mod reuse;
mod shared;

pub use arrangements::{ArrangementSpec, ColumnsRead};
pub use explain::{fingerprint, salt_fingerprints};
pub use output::{OutputStorage, apply_maps};
pub use reuse::{Cut, Remainder};
pub use shared::{Classes, same_rows};

/// Metadata of a field whose values are parts of other columns of the row: where a row is shown, such a column isn't.
pub const DERIVED_KEY: &str = "tidemill.derived";

/// One dataflow: the plan of a view, a sink's or a subscription's query.
#[derive(Clone, Debug)]
pub struct DataflowPlan {
    /// The operators; the root's output is the dataflow's output.
    pub root: Node,
}

/// An operator with its inputs.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it does.
    pub op: Op,
    /// Its inputs, in the order the operator names them.
    pub inputs: Vec<Node>,
    /// Columns of its output.
    pub schema: SchemaRef,
    /// The planner's statement that rows are only ever inserted, with diff +1 or more
    /// (an append-only source and operators that keep it so): lets min/max keep one value.
    pub append_only: bool,
}

/// The operators there are.
#[derive(Clone, Debug)]
pub enum Op {
    /// Deltas of a source, table or view, reduced to `columns`.
    Input {
        /// Which.
        collection: CollectionId,
        /// Columns of the collection, in output order.
        columns: Vec<usize>,
    },
    /// Fixed rows, inserted once, in the first epoch of the dataflow.
    Constant {
        /// The rows.
        rows: RecordBatch,
    },
    /// Filter, then project, row by row.
    Map {
        /// Keep rows for which this is true; NULL is not true.
        predicate: Option<Arc<dyn PhysicalExpr>>,
        /// Output columns; `None`: all input columns.
        projection: Option<Vec<Arc<dyn PhysicalExpr>>>,
    },
    /// One output row per element of the list in `column`; the other columns are repeated. NULL and empty
    /// lists give no row. Lists in several columns advance side by side, padded with NULL.
    Unnest {
        /// The columns that hold lists. In the output they hold elements, at the same position.
        columns: Vec<usize>,
        /// Struct columns to spread into their fields, in place.
        structs: Vec<usize>,
    },
    /// GROUP BY with aggregates that are kept up to date per group. Output: `keys`, then one column per
    /// aggregate. With no keys there is always exactly one row, also for empty input.
    /// No aggregates: DISTINCT.
    Aggregate {
        /// Key columns of the input.
        keys: Vec<usize>,
        /// What is computed per group.
        aggregates: Vec<Aggregate>,
    },
    /// Join of two inputs. Output: all columns of left, then all of right (Semi, Anti: left only).
    Join {
        /// Which rows appear.
        kind: JoinKind,
        /// Equal columns: (left, right). Empty: every pair is looked at. Types are equal.
        on: Vec<(usize, usize)>,
        /// NULL = NULL for the keys (IS NOT DISTINCT FROM).
        null_equals_null: bool,
        /// Further condition over left columns followed by right columns.
        filter: Option<Arc<dyn PhysicalExpr>>,
    },
    /// The sum of its inputs (UNION ALL).
    Union,
    /// The first rows of each key in an order. Output: the input's columns, then, if it is numbered, the row's number as UInt64.
    TopK {
        /// Key columns of the input. Empty: the first rows of all.
        keys: Vec<usize>,
        /// What comes first.
        order: Vec<OrderBy>,
        /// What number a row has.
        numbering: Numbering,
        /// The largest number of rows that are wanted.
        count: u64,
        /// The output has the numbers.
        numbered: bool,
    },
    /// The general operator: recomputes `program` over the rows of the *touched keys* and
    /// subtracts what it gave before. With no keys every change recomputes everything.
    Recompute {
        /// Key columns of each input; the output starts with the key columns. Empty: no key.
        keys: Vec<Vec<usize>>,
        /// The batch plan.
        program: Arc<dyn BatchProgram>,
        /// For EXPLAIN: what is computed and why no specialised operator does.
        reason: String,
    },
}

/// How the rows of a key are numbered in their order, from 1 on. *Peers* are rows with equal order columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbering {
    /// One after the other; peers in the order of all other columns.
    RowNumber,
    /// By how many rows come before a row and its peers.
    Rank,
    /// By how many distinct values of the order columns come before.
    DenseRank,
}

/// A column to order by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderBy {
    /// Column of the input.
    pub column: usize,
    /// The largest value first.
    pub descending: bool,
    /// NULL before all values.
    pub nulls_first: bool,
}

/// Join kinds. `Right` is planned as `Left` with sides swapped and columns reordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinKind {
    /// Pairs that match.
    Inner,
    /// Inner, plus left rows without a match, right columns NULL.
    Left,
    /// Left, plus right rows without a match, left columns NULL.
    Full,
    /// Left rows with at least one match, once each.
    Semi,
    /// Left rows without a match.
    Anti,
}

/// One aggregate of an [`Op::Aggregate`].
#[derive(Clone, Debug, PartialEq)]
pub struct Aggregate {
    /// Which function.
    pub function: AggregateFunction,
    /// Input column; `None` only for `CountStar`.
    pub column: Option<usize>,
    /// Input column of the other value of a pair; only for `Moments`.
    pub second: Option<usize>,
    /// Boolean input column: rows for which it isn't true don't count (FILTER).
    pub filter: Option<usize>,
    /// The output column's name and type decide the accumulator and its overflow check:
    /// e.g. sum(integer) is Int64, sum(bigint) is Decimal128(38, 0).
    pub output: arrow::datatypes::Field,
}

/// Aggregates with a specialised, retractable accumulator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AggregateFunction {
    /// count(*)
    CountStar,
    /// count(x): rows where x is not NULL
    Count,
    /// sum of integers or decimals (exact), or of floats (exact, order-independent)
    Sum,
    /// avg: sum / count
    Avg,
    /// Count, sum and sums of products (see `tidemill_zset::moments`), as bytes
    Moments,
    /// least value
    Min,
    /// greatest value
    Max,
    /// true if all are
    BoolAnd,
    /// true if any is
    BoolOr,
}

/// In which order, and how far, a [`BatchProgram`] looks around each row of its input, among those with the same key.
///
/// A changed row changes what the program gives for the rows that see it, and for no others; and run on a part of a key's rows that are
/// side by side in this order, the program gives the same for each row whose surroundings are in the part, and for the others something
/// that depends on nothing but what is in the part of their surroundings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbourhood {
    /// What rows come in order by. Those that it leaves equal may be in any order, which may be another one for each step.
    pub order: Vec<OrderBy>,
    /// How far each step looks around a row; the first one's results are what the second one looks at. What steps that look at all
    /// rows before a row have at its other end.
    pub reaches: Vec<Reach>,
    /// Whether some step looks at all rows before a row, too. Then a changed row changes what the program gives for all that come after
    /// it, for which the program has others: see [`BatchProgram::running`].
    pub runs: bool,
    /// Instead of all that: the first column of `order`, a boolean, says of which of two sides a row is. What the program gives for a row of
    /// which it is true depends on that row and on the so many nearest ones of the other side that aren't behind it by the further columns of
    /// `order`; for the others it gives nothing.
    pub matches: Option<u64>,
}

/// Programs for the rows of a key from some row on, in place of one that looks at all rows before a row.
///
/// Their input has the columns of that one's input; then `segment`, a bigint; then a column for each type that is `carried`, as a
/// dictionary with keys of type integer. Rows with a segment are counted; the others are only there to be seen by steps that don't look at
/// all rows before.
pub struct Running {
    /// Gives for the rows what the whole program gives for them, if what is carried is what all rows before them come to, the same for all of them;
    /// NULL if there are none. For rows that aren't counted, and those that see them in other steps, it may be wrong.
    pub resumed: Arc<dyn BatchProgram>,
    /// Give what is to be carried into the rows after each segment: `segment`, then the next ones of the columns that are `carried`. Segments follow each other by their numbers; what is carried into the first one is to be in its rows and those
    /// before it, and in no others.
    pub carries: Vec<Arc<dyn BatchProgram>>,
    /// Types of what is carried.
    pub carried: Vec<DataType>,
}

/// How far one step of a program looks around a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// So many rows.
    Rows {
        /// Those that come before it in the order.
        before: u64,
        /// Those that come after it.
        after: u64,
    },
    /// As far as the values of the only column to order by are no farther away than that: integers, days of dates, microseconds of
    /// timestamps, and decimals in units of their last digit. NULL is next to nothing but NULL.
    Distance {
        /// Of those before it.
        before: i128,
        /// Of those after it.
        after: i128,
    },
}

/// A batch plan as the general operator sees it; implemented by the planner over DataFusion.
/// Must be deterministic: equal multisets of rows give equal multisets of rows.
pub trait BatchProgram: Any + Debug + Send + Sync {
    /// Runs the plan on whole inputs (one batch list per input; every row stands for one row,
    /// multiplicities are already expanded). Rows come key by key, those of each in canonical order, if the program sees it.
    /// May take for ever; soon after `stop` has become true it ends, with any result.
    fn run(
        &self,
        inputs: Vec<Vec<RecordBatch>>,
        stop: &Arc<AtomicBool>,
    ) -> Result<Vec<RecordBatch>, RowError>;
    /// Whether the order of its inputs' rows may be seen in what it gives; otherwise they come in any.
    fn sees_order(&self) -> bool {
        true
    }
    /// Where what it gives for a row depends only on the rows around it; only programs of one input have it.
    fn neighbourhood(&self) -> Option<&Neighbourhood> {
        None
    }
    /// Of a program whose neighbourhood `runs`; `None` if there turns out to be no such thing.
    fn running(&self) -> Option<&Running> {
        None
    }
    /// True only if `other` gives the same for equal inputs.
    fn same(&self, other: &dyn BatchProgram) -> bool;
    /// It may take far longer than reading and sorting its inputs: it joins them, or goes on as long as there is something new.
    fn multiplies(&self) -> bool;
    /// What it computes, in one line, without values that change from start to start.
    fn describe(&self) -> String;
}

/// An error that a row (or a group) gives, as a user sees it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("{message}")]
pub struct RowError {
    /// PostgreSQL's code, e.g. `22012`.
    pub sqlstate: String,
    /// PostgreSQL's message where there is one, e.g. `division by zero`.
    pub message: String,
}

/// Converts an error of expression evaluation to what the user sees. The planner installs the
/// mapping of DataFusion's messages to SQLSTATEs; it is a function so that `dataflow` needn't know them.
pub type ErrorMapper = fn(&datafusion_common::DataFusionError) -> RowError;

/// Deltas on their way into a dataflow.
pub type InputDelta = (CollectionId, Delta);
