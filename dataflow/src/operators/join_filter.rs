//! [`PairFilter`]: the further condition of a join, evaluated on pairs of rows.
//!
//! It sees only the columns that it needs, so that pairs that fail cost no more. Invariant: whether a
//! pair passes, and the error that it gives, depends on that pair alone: a batch on which
//! evaluation fails is bisected to the failing pairs.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, BooleanBufferBuilder, RecordBatch};
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::{Schema, SchemaRef};
use datafusion_common::DataFusionError;
use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_physical_expr::expressions::Column;
use datafusion_physical_expr::utils::collect_columns;
use datafusion_physical_expr::{PhysicalExpr, ScalarFunctionExpr};

use super::join_rows::batch_of;
use super::map::is_dropped;
use crate::plan::{ErrorMapper, RowError};
use crate::ranges::{RangeCondition, Wanted};

/// See the module.
pub struct PairFilter {
    expr: Arc<dyn PhysicalExpr>,
    /// Columns of the pair (left columns, then right columns) that it looks at, ascending.
    pub columns: Vec<usize>,
    schema: SchemaRef,
    /// The same columns, of the left and of the right side.
    pub sides: [SchemaRef; 2],
    /// What there is to search by, over them.
    pub range: Option<RangeCondition>,
    /// By side, what its rows can be kept in the order of for that.
    pub indexed: [Option<Arc<RangeCondition>>; 2],
    mapper: ErrorMapper,
}

impl PairFilter {
    /// The condition `expr` over pairs of `schema`, whose first `width` columns are the left side's.
    pub fn new(
        expr: &Arc<dyn PhysicalExpr>,
        schema: &Schema,
        width: usize,
        mapper: ErrorMapper,
    ) -> Self {
        let columns: BTreeSet<usize> = collect_columns(expr).iter().map(|c| c.index()).collect();
        let columns: Vec<usize> = columns.into_iter().collect();
        let renumber = |e: Arc<dyn PhysicalExpr>| {
            let Some(column) = e.downcast_ref::<Column>() else {
                return Ok(Transformed::no(e));
            };
            let index = columns
                .binary_search(&column.index())
                .expect("all columns have been collected");
            let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(column.name(), index));
            Ok(Transformed::yes(column))
        };
        let expr = expr
            .clone()
            .transform_down(renumber)
            .expect("renumbering columns can't fail")
            .data;
        let fields = columns.iter().map(|c| schema.field(*c).clone());
        let fields: Vec<_> = fields.map(|f| f.with_nullable(true)).collect();
        let (left, right) = fields.split_at(columns.partition_point(|c| *c < width));
        let side_of = |column: usize| match column.checked_sub(left.len()) {
            None => (0, column),
            Some(column) => (1, column),
        };
        let calls = |e: &Arc<dyn PhysicalExpr>| {
            let called = |e: &Arc<dyn PhysicalExpr>| Ok(e.is::<ScalarFunctionExpr>());
            e.exists(called).unwrap_or(true)
        };
        let sides = [left, right].map(|fields| Arc::new(Schema::new(fields.to_vec())));
        let schema = Arc::new(Schema::new(fields.clone()));
        let of = |wanted| RangeCondition::of(&expr, &schema, &side_of, &calls, wanted);
        PairFilter {
            range: of(Wanted::Side(0)),
            indexed: [0, 1].map(|side| of(Wanted::Only(side)).map(Arc::new)),
            expr,
            columns,
            schema,
            sides,
            mapper,
        }
    }

    /// Which pairs pass. `columns` are those of [`PairFilter::columns`]; pairs that can't be evaluated don't pass and
    /// are appended to `failed`.
    pub fn mask(
        &self,
        columns: Vec<ArrayRef>,
        pairs: usize,
        failed: &mut Vec<(usize, RowError)>,
    ) -> BooleanBuffer {
        let batch = batch_of(&self.schema, columns, pairs);
        match self.evaluate(&batch) {
            Ok(mask) => mask,
            Err(_) => {
                let mut passed = BooleanBufferBuilder::new(pairs);
                self.bisect(&batch, 0, &mut passed, failed);
                passed.finish()
            }
        }
    }

    fn bisect(
        &self,
        batch: &RecordBatch,
        start: usize,
        passed: &mut BooleanBufferBuilder,
        failed: &mut Vec<(usize, RowError)>,
    ) {
        let pairs = batch.num_rows();
        match self.evaluate(batch) {
            Ok(mask) => passed.append_buffer(&mask),
            // AND evaluates what stands behind a NULL.
            Err(_) if pairs == 1 && is_dropped(&self.expr, batch) => passed.append(false),
            Err(e) if pairs <= 1 => {
                failed.push((start, (self.mapper)(&e)));
                passed.append_n(pairs, false);
            }
            Err(_) => {
                let half = pairs / 2;
                self.bisect(&batch.slice(0, half), start, passed, failed);
                self.bisect(
                    &batch.slice(half, pairs - half),
                    start + half,
                    passed,
                    failed,
                );
            }
        }
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<BooleanBuffer, DataFusionError> {
        let value = self.expr.evaluate(batch)?.into_array(batch.num_rows())?;
        let mask: &BooleanArray = value
            .as_any()
            .downcast_ref()
            .expect("the planner makes conditions boolean");
        Ok(match mask.nulls() {
            None => mask.values().clone(),
            Some(valid) => mask.values() & valid.inner(),
        })
    }
}
