//! Functions of DataFusion's, called with one frame after the other.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use datafusion_common::{Result, ScalarValue};
use datafusion_expr::{Accumulator, PartitionEvaluator};
use datafusion_physical_expr::aggregate::AggregateFunctionExpr;
use datafusion_physical_expr::window::StandardWindowFunctionExpr;

use crate::functions::external;
use crate::interrupt::check_level;

/// What is called.
#[derive(Debug)]
pub(super) enum Callee {
    Standard(Arc<dyn StandardWindowFunctionExpr>),
    Aggregate {
        function: Box<AggregateFunctionExpr>,
        /// Whether no row leaves a frame.
        grows: bool,
    },
}

/// The calls over one partition's rows.
pub(super) struct Calls<'f> {
    callee: &'f Callee,
    /// The arguments in the partition's rows.
    args: Vec<ArrayRef>,
    /// The partition's first row.
    first: usize,
    state: State,
}

enum State {
    Standard(Box<dyn PartitionEvaluator>),
    /// An aggregate, and the rows that it has seen and not forgotten.
    Aggregate(Box<dyn Accumulator>, Range<usize>),
}

impl Callee {
    fn begin(&self) -> Result<State> {
        Ok(match self {
            Callee::Standard(function) => State::Standard(function.create_evaluator()?),
            Callee::Aggregate { function, grows } => {
                let forgetting = match grows {
                    true => None,
                    // An error says that it can't forget rows.
                    false => function.create_sliding_accumulator().ok(),
                };
                let sum = match forgetting {
                    Some(sum) => sum,
                    None => function.create_accumulator()?,
                };
                State::Aggregate(sum, 0..0)
            }
        })
    }
}

impl Calls<'_> {
    pub fn new<'f>(
        callee: &'f Callee,
        args: &[ArrayRef],
        partition: Range<usize>,
    ) -> Result<Calls<'f>> {
        let own = |a: &ArrayRef| a.slice(partition.start, partition.len());
        Ok(Calls {
            callee,
            args: args.iter().map(own).collect(),
            first: partition.start,
            state: callee.begin()?,
        })
    }

    /// The result of the next row, whose frame is given in rows of the chunk. Beginnings and ends of frames move only forwards.
    pub fn result(&mut self, frame: Range<usize>) -> Result<ScalarValue> {
        check_level().map_err(external)?;
        let start = frame.start - self.first;
        let end = frame.end.max(frame.start) - self.first;
        if let State::Aggregate(sum, within) = &mut self.state
            && start > within.start
        {
            if start < within.end && sum.supports_retract_batch() {
                sum.retract_batch(&slices(&self.args, within.start..start))?;
                within.start = start;
            } else {
                self.state = self.callee.begin()?;
            }
        }
        match &mut self.state {
            State::Standard(function) => function.evaluate(&self.args, &(start..end)),
            State::Aggregate(sum, within) => {
                if within.start >= within.end {
                    *within = start..start;
                }
                if end > within.end {
                    sum.update_batch(&slices(&self.args, within.end..end))?;
                    within.end = end;
                }
                sum.evaluate()
            }
        }
    }
}

fn slices(columns: &[ArrayRef], rows: Range<usize>) -> Vec<ArrayRef> {
    let columns = columns.iter();
    columns.map(|c| c.slice(rows.start, rows.len())).collect()
}
