//! Planning and queries that can be stopped. Whoever plans says how to know that it is to stop, and the planner asks at the levels of
//! expressions and between the optimiser's rules. The query that is executed asks at each set of pairs that a join's condition looks at, and
//! at calls of window functions.
//!
//! What is asked belongs to the thread and not to the planner: it would have to pass through DataFusion's rules, which take nothing along.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, FieldRef, Schema};
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};
use datafusion_common::tree_node::Transformed;
use datafusion_common::{Result as DfResult, internal_err};
use datafusion_expr::{ColumnarValue, LogicalPlan};
use datafusion_physical_expr::PhysicalExpr;

use crate::error::{Result, SqlError};
use crate::functions::external;

/// Gives the error to stop with, from when on the plan isn't wanted any more.
pub type Ask = Arc<dyn Fn() -> Option<SqlError> + Send + Sync>;

/// Levels of expressions, or nodes of plans, for which is asked once.
const LEVELS: u32 = 32;

thread_local! {
    static ASK: RefCell<Option<Ask>> = const { RefCell::new(None) };
    static LEVEL: Cell<u32> = const { Cell::new(0) };
}

/// Runs `work`, whose planning stops when `ask` says so.
pub fn asking<T>(ask: &Ask, work: impl FnOnce() -> T) -> T {
    struct Before(Option<Ask>);
    impl Drop for Before {
        fn drop(&mut self) {
            ASK.set(self.0.take());
        }
    }
    let _before = Before(ASK.replace(Some(Arc::clone(ask))));
    work()
}

/// Fails if planning, or the query that runs on this thread, is to stop.
pub(crate) fn check() -> Result<()> {
    let stop = ASK.with_borrow(|ask| ask.as_ref().and_then(|ask| ask()));
    stop.map_or(Ok(()), Err)
}

/// What is asked on this thread, for work of the planner on others.
pub(crate) fn asked() -> Ask {
    ASK.with_borrow(|ask| ask.clone())
        .unwrap_or_else(|| Arc::new(|| None))
}

/// As [`check`], at a level of an expression or a node of a plan, of which there are many.
pub(crate) fn check_level() -> Result<()> {
    let level = LEVEL.get().wrapping_add(1);
    LEVEL.set(level);
    match level % LEVELS {
        0 => check(),
        _ => Ok(()),
    }
}

/// The rule, which asks before it looks at a node.
#[derive(Debug)]
pub(crate) struct Interruptible(pub(crate) Arc<dyn OptimizerRule + Send + Sync>);

impl OptimizerRule for Interruptible {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        self.0.apply_order()
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        config: &dyn OptimizerConfig,
    ) -> datafusion_common::Result<Transformed<LogicalPlan>> {
        check().map_err(external)?;
        self.0.rewrite(plan, config)
    }
}

/// An expression that asks before it is evaluated.
#[derive(Debug)]
pub(crate) struct AskingExpr(Arc<dyn PhysicalExpr>);

impl PartialEq for AskingExpr {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq(&other.0)
    }
}

impl Eq for AskingExpr {}

impl Hash for AskingExpr {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl AskingExpr {
    pub(crate) fn around(expr: &Arc<dyn PhysicalExpr>) -> Arc<dyn PhysicalExpr> {
        Arc::new(AskingExpr(Arc::clone(expr)))
    }
}

impl fmt::Display for AskingExpr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl PhysicalExpr for AskingExpr {
    fn return_field(&self, input: &Schema) -> DfResult<FieldRef> {
        self.0.return_field(input)
    }

    fn data_type(&self, input: &Schema) -> DfResult<DataType> {
        self.0.data_type(input)
    }

    fn nullable(&self, input: &Schema) -> DfResult<bool> {
        self.0.nullable(input)
    }

    fn evaluate(&self, batch: &RecordBatch) -> DfResult<ColumnarValue> {
        check().map_err(external)?;
        self.0.evaluate(batch)
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.0]
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn PhysicalExpr>>,
    ) -> DfResult<Arc<dyn PhysicalExpr>> {
        match children.as_slice() {
            [expr] => Ok(AskingExpr::around(expr)),
            _ => internal_err!("an expression that asks is around one"),
        }
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt_sql(f)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn planning_stops_when_told_to() {
        let asked = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&asked);
        let ask: Ask = Arc::new(move || {
            let third = counter.fetch_add(1, Ordering::Relaxed) == 2;
            third.then(SqlError::cancelled)
        });
        let many = || (0..1_000).try_for_each(|_| check_level());
        let stopped = asking(&ask, many).expect_err("told to stop");
        assert_eq!(stopped.sqlstate, "57014");
        assert_eq!(asked.load(Ordering::Relaxed), 3);
        many().expect("nobody asks any more");
    }
}
