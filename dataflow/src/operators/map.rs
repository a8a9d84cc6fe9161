//! Filter, then project. A row's result is what a batch of that row alone gives: when the evaluation of a
//! batch fails, the batch is bisected to the failing rows, which become error deltas; all others go on.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion_common::DataFusionError;
use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_expr::Operator as BinaryOperator;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::{
    BinaryExpr, Column, IsNotNullExpr, IsNullExpr, Literal, NotExpr,
};
use datafusion_physical_expr::utils::{collect_columns, split_conjunction};
use tidemill_zset::{Delta, Epoch};

use crate::operator::{Operator, Output, error_delta};
use crate::operators::culprit::row_text;
use crate::plan::ErrorMapper;

/// See the module.
pub struct Map {
    predicate: Option<Arc<dyn PhysicalExpr>>,
    projection: Option<Vec<Arc<dyn PhysicalExpr>>>,
    /// The columns that a projection behind a predicate reads: the others needn't be filtered. Its column numbers are
    /// places in this list.
    kept: Option<Vec<usize>>,
    schema: Option<SchemaRef>,
    mapper: ErrorMapper,
    /// It makes lists, whose elements may be very many.
    makes_lists: bool,
    /// Rows that wait, and how many of them to take next; only where lists are made.
    todo: VecDeque<Delta>,
    rows: usize,
}

/// Elements of lists to make at once, where a row has no more.
const ELEMENTS: usize = 1 << 16;
/// Rows to take at once where lists are made.
const ROWS_MAX: usize = 8192;
/// SQLSTATE of a function that would make too much of a batch, but not of each of its rows.
const TOO_MUCH_AT_ONCE: &str = "53200";

impl Map {
    /// A map that keeps rows for which `predicate` is true and computes `projection`.
    pub fn new(
        predicate: Option<Arc<dyn PhysicalExpr>>,
        projection: Option<Vec<Arc<dyn PhysicalExpr>>>,
        mapper: ErrorMapper,
    ) -> Self {
        let (projection, kept) = match (&predicate, projection) {
            (Some(_), Some(exprs)) => {
                let kept: Vec<usize> = exprs
                    .iter()
                    .flat_map(collect_columns)
                    .map(|c| c.index())
                    .collect::<BTreeSet<_>>()
                    .into_iter()
                    .collect();
                let exprs = exprs.iter().map(|e| renumbered(e, &kept)).collect();
                (Some(exprs), Some(kept))
            }
            (_, projection) => (projection, None),
        };
        Map {
            predicate,
            projection,
            kept,
            schema: None,
            mapper,
            makes_lists: false,
            todo: VecDeque::new(),
            rows: 1,
        }
    }

    /// Gives the output columns the names and types of `schema`. Otherwise they are those of the expressions.
    pub fn with_schema(mut self, schema: SchemaRef) -> Self {
        let exprs = self.projection.iter().flatten();
        self.makes_lists = exprs.zip(schema.fields()).any(|(e, f)| {
            let list = matches!(f.data_type(), DataType::List(_));
            list && !e.is::<Column>()
        });
        self.schema = Some(schema);
        self
    }

    /// The mapped rows of `delta`; appends the errors of failing rows to `errors`.
    pub fn apply(&self, delta: &Delta, errors: &mut Vec<Delta>) -> Delta {
        let schema = self.output_schema(delta);
        if delta.is_empty() {
            return Delta::empty(schema);
        }
        let mut done = Vec::new();
        let mut failed = Vec::new();
        self.bisect(delta, &schema, &mut done, &mut failed);
        if !failed.is_empty() {
            errors.push(error_delta(&failed));
        }
        match done.len() {
            0 => Delta::empty(schema),
            1 => done.swap_remove(0),
            _ => Delta::concat(&schema, &done).expect("pieces of one schema"),
        }
    }

    fn bisect(
        &self,
        delta: &Delta,
        schema: &SchemaRef,
        done: &mut Vec<Delta>,
        failed: &mut Vec<(crate::plan::RowError, String, i64)>,
    ) {
        match self.evaluate(delta, schema) {
            Ok(d) => {
                if !d.is_empty() {
                    done.push(d);
                }
            }
            // AND evaluates what stands behind a NULL.
            Err(_) if delta.len() == 1 && self.drops(&delta.rows) => {}
            Err(e) if delta.len() == 1 => failed.push((
                (self.mapper)(&e),
                row_text(&delta.rows, 0),
                delta.diffs.get(0),
            )),
            Err(_) => {
                let half = delta.len() / 2;
                self.bisect(&delta.slice(0, half), schema, done, failed);
                self.bisect(&delta.slice(half, delta.len() - half), schema, done, failed);
            }
        }
    }

    fn drops(&self, row: &RecordBatch) -> bool {
        self.predicate.as_ref().is_some_and(|p| is_dropped(p, row))
    }

    fn evaluate(&self, delta: &Delta, schema: &SchemaRef) -> Result<Delta, DataFusionError> {
        let kept = match &self.predicate {
            None => delta.clone(),
            Some(p) => {
                let mask = p.evaluate(&delta.rows)?.into_array(delta.len())?;
                let mask = mask
                    .as_any()
                    .downcast_ref::<BooleanArray>()
                    .expect("the planner makes predicates boolean");
                let delta = match &self.kept {
                    Some(columns) => &Delta {
                        rows: delta.rows.project(columns)?,
                        diffs: delta.diffs.clone(),
                    },
                    None => delta,
                };
                if mask.true_count() == delta.len() {
                    delta.clone()
                } else {
                    delta.filter(mask)?
                }
            }
        };
        // Expressions aren't evaluated on zero rows: some fail on constants alone.
        if kept.is_empty() {
            return Ok(Delta::empty(schema.clone()));
        }
        let columns = match &self.projection {
            None => kept.rows.columns().to_vec(),
            Some(exprs) => exprs
                .iter()
                .map(|e| e.evaluate(&kept.rows)?.into_array(kept.len()))
                .collect::<Result<Vec<ArrayRef>, DataFusionError>>()?,
        };
        Ok(Delta {
            rows: conform(schema, columns, kept.len()),
            diffs: kept.diffs,
        })
    }

    fn output_schema(&self, delta: &Delta) -> SchemaRef {
        if let Some(s) = &self.schema {
            return s.clone();
        }
        let input = match &self.kept {
            Some(columns) => Arc::new(
                delta
                    .schema()
                    .project(columns)
                    .expect("columns of the input"),
            ),
            None => delta.schema(),
        };
        match &self.projection {
            None => input,
            Some(exprs) => {
                let field = |e: &Arc<dyn PhysicalExpr>| {
                    let field = e
                        .return_field(&input)
                        .expect("the planner has typed every expression");
                    Arc::new(Field::clone(&field).with_nullable(true))
                };
                Arc::new(Schema::new(exprs.iter().map(field).collect::<Vec<_>>()))
            }
        }
    }
}

impl Map {
    /// Maps waiting rows, as many at once as make lists of moderate size.
    fn make_lists(&mut self, out: &mut Output) {
        while !out.is_spent()
            && let Some(delta) = self.todo.pop_front()
        {
            let rows = self.rows.min(delta.len());
            let piece = delta.slice(0, rows);
            let mapped = match self.evaluate(&piece, &self.output_schema(&piece)) {
                Ok(mapped) => mapped,
                // Fewer rows do.
                Err(e) if rows > 1 && (self.mapper)(&e).sqlstate == TOO_MUCH_AT_ONCE => {
                    self.rows = rows / 2;
                    self.todo.push_front(delta);
                    continue;
                }
                Err(_) => self.apply(&piece, &mut out.errors),
            };
            let elements: usize = mapped.rows.columns().iter().map(elements).sum();
            self.rows = (rows * ELEMENTS / elements.max(1)).clamp(1, ROWS_MAX);
            out.spend(rows.max(elements));
            if !mapped.is_empty() {
                out.rows.push(mapped);
            }
            if rows < delta.len() {
                self.todo.push_front(delta.slice(rows, delta.len() - rows));
            }
        }
    }
}

/// Elements of the lists of a column.
fn elements(column: &ArrayRef) -> usize {
    column.as_list_opt::<i32>().map_or(0, |list| {
        let offsets = list.value_offsets();
        let ends = offsets.last().zip(offsets.first());
        ends.map_or(0, |(to, from)| (to - from) as usize)
    })
}

impl Operator for Map {
    fn push(&mut self, _port: usize, delta: Delta, out: &mut Output) {
        if self.makes_lists {
            if !delta.is_empty() {
                self.todo.push_back(delta);
                self.make_lists(out);
            }
            return;
        }
        let rows = self.apply(&delta, &mut out.errors);
        if !rows.is_empty() {
            out.rows.push(rows);
        }
    }

    fn finish(&mut self, _epoch: Epoch, _out: &mut Output) {}

    fn only_passes(&self) -> bool {
        true
    }

    fn is_busy(&self) -> bool {
        !self.todo.is_empty()
    }

    fn go_on(&mut self, out: &mut Output) {
        self.make_lists(out);
    }
}

/// `expr` over rows of which only the columns `kept` are left.
fn renumbered(expr: &Arc<dyn PhysicalExpr>, kept: &[usize]) -> Arc<dyn PhysicalExpr> {
    let renumber = |e: Arc<dyn PhysicalExpr>| {
        let Some(column) = e.downcast_ref::<Column>() else {
            return Ok(Transformed::no(e));
        };
        let at = kept.binary_search(&column.index());
        let at = at.expect("every column of a projection is kept");
        let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(column.name(), at));
        Ok(Transformed::yes(column))
    };
    let renumbered = Arc::clone(expr).transform_up(renumber);
    renumbered.expect("renumbering can't fail").data
}

/// `columns` of `rows` rows as a batch of `schema`; a column whose type differs is cast.
pub fn conform(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> RecordBatch {
    let columns = columns
        .into_iter()
        .zip(schema.fields())
        .map(|(c, f)| {
            if c.data_type() == f.data_type() {
                c
            } else {
                arrow::compute::cast(&c, f.data_type())
                    .unwrap_or_else(|e| panic!("column {} has the wrong type: {e}", f.name()))
            }
        })
        .collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(schema.clone(), columns, &options)
        .unwrap_or_else(|e| panic!("rows don't fit the plan's schema: {e}"))
}

/// Whether some part of a condition isn't true of the one row in a batch, whatever becomes of the other parts.
pub(super) fn is_dropped(condition: &Arc<dyn PhysicalExpr>, row: &RecordBatch) -> bool {
    split_conjunction(condition).into_iter().any(|part| {
        let value = part.evaluate(row).and_then(|v| v.into_array(1));
        value.is_ok_and(|v| v.as_boolean().is_null(0) || !v.as_boolean().value(0))
    })
}

/// True if evaluating `expr` can't fail on any row (a safe guess: false when in doubt).
pub fn never_fails(expr: &Arc<dyn PhysicalExpr>) -> bool {
    if expr.is::<Column>() || expr.is::<Literal>() {
        return true;
    }
    let transparent = match expr.downcast_ref::<BinaryExpr>() {
        Some(b) => matches!(
            b.op(),
            BinaryOperator::Eq
                | BinaryOperator::NotEq
                | BinaryOperator::Lt
                | BinaryOperator::LtEq
                | BinaryOperator::Gt
                | BinaryOperator::GtEq
                | BinaryOperator::And
                | BinaryOperator::Or
                | BinaryOperator::IsDistinctFrom
                | BinaryOperator::IsNotDistinctFrom
        ),
        None => expr.is::<IsNullExpr>() || expr.is::<IsNotNullExpr>() || expr.is::<NotExpr>(),
    };
    transparent && expr.children().into_iter().all(never_fails)
}
