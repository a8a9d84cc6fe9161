//! [`Given`]: rows of constants, in columns. As VALUES of expressions every rule of the optimiser looks at each of them, which is
//! most of what an INSERT of many rows costs.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::catalog::memory::MemorySourceConfig;
use datafusion::physical_plan::ExecutionPlan;
use datafusion_common::{DFSchema, DFSchemaRef, Result};
use datafusion_expr::logical_plan::Extension;
use datafusion_expr::{Expr, LogicalPlan, UserDefinedLogicalNodeCore};

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    rows: RecordBatch,
    schema: DFSchemaRef,
}

impl Given {
    /// The plan that gives `rows`, in their order.
    pub fn plan(rows: RecordBatch) -> Result<LogicalPlan> {
        let schema = Arc::new(DFSchema::try_from(rows.schema())?);
        let node = Arc::new(Given { rows, schema });
        Ok(LogicalPlan::Extension(Extension { node }))
    }

    /// What runs it.
    pub fn exec(&self) -> Result<Arc<dyn ExecutionPlan>> {
        let (rows, schema) = (vec![self.rows.clone()], self.rows.schema());
        Ok(MemorySourceConfig::try_new_exec(&[rows], schema, None)?)
    }
}

impl PartialEq for Given {
    fn eq(&self, other: &Self) -> bool {
        self.rows == other.rows
    }
}

impl Eq for Given {}

impl Hash for Given {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.rows.num_rows().hash(state);
    }
}

impl PartialOrd for Given {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (self == other).then_some(Ordering::Equal)
    }
}

impl UserDefinedLogicalNodeCore for Given {
    fn name(&self) -> &str {
        "Given"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        vec![]
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Given: {} rows", self.rows.num_rows())
    }

    fn with_exprs_and_inputs(&self, _: Vec<Expr>, _: Vec<LogicalPlan>) -> Result<Self> {
        Ok(self.clone())
    }
}
