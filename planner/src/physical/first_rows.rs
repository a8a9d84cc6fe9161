//! [`FirstRowsExec`]: the first rows, also above joins, by the order in which the reader has those of one scan. DataFusion reads and joins
//! all rows to find the ten newest.
//!
//! Where a sort with a limit begins with a column of a scan, and each row below the sort is of one row of that scan, some rows of the
//! scan in that order decide the first of all: these go through the joins, which look up what they need of the other sides. As soon as
//! enough rows have come out of them, they are sorted. Where few rows pass, where a side would have to be read to its end, and
//! where anything fails, the plan that reads all runs instead.

use std::fmt;
use std::sync::Arc;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::{
    SortOptions, concat_batches, partition, sort_to_indices, take, take_record_batch,
};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::config::ConfigOptions;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr_common::physical_expr::is_volatile;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::execution_plan::{
    ChildrenPropertiesMode, ReplaceChildrenOptions, reset_plan_states,
};
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::HashJoinExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use datafusion_common::tree_node::Transformed;
use datafusion_common::{JoinType, Result, internal_err};
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::Column;
use futures::{TryStreamExt, stream};

use super::lookups::{LookupJoinExec, Running};
use crate::counted::Counted;
use crate::functions::external;
use crate::query::{ColumnOrder, Pieces, Rows};
use crate::scan::relabel;
use crate::tree::Tree;

type Plan = Arc<dyn ExecutionPlan>;

/// Rows of the scan that are read until there are enough above; beyond that all are.
const READ_ROWS_MAX: usize = 65_536;
/// Rows of the scan that go through the joins first, at least. Later there are several times as many.
const SOME_ROWS: usize = 64;
/// Rows of the scan that tell how many of them it takes.
const TELLING_ROWS: usize = 4096;

/// Takes [`FirstRowsExec`] where first rows are sorted.
#[derive(Debug)]
pub(super) struct FirstRows;

impl PhysicalOptimizerRule for FirstRows {
    fn optimize(&self, plan: Plan, _: &ConfigOptions) -> Result<Plan> {
        let plan = plan.change_up(&mut |node| {
            Ok(match FirstRowsExec::instead_of(&node)? {
                Some(first) => Transformed::yes(Arc::new(first)),
                None => Transformed::no(node),
            })
        })?;
        Ok(plan.data)
    }

    fn name(&self) -> &str {
        "FirstRows"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct FirstRowsExec {
    /// What finds the rows among all.
    sort: Plan,
    /// How many are wanted.
    rows: usize,
    /// Of the column that they are sorted by first.
    order: SortOptions,
    input: Driven,
}

/// A plan each of whose rows is of one row of a scan.
#[derive(Clone, Debug)]
struct Driven {
    /// The plan, with its joins made for some rows of the scan.
    plan: Plan,
    /// The scan, which is a [`Counted`].
    scan: Plan,
    /// The column of the scan that was asked for.
    column: usize,
    /// The most rows of the scan by which it is worth it.
    rows_max: usize,
}

impl FirstRowsExec {
    fn instead_of(node: &Plan) -> Result<Option<FirstRowsExec>> {
        let Some(sort) = node.downcast_ref::<SortExec>() else {
            return Ok(None);
        };
        let (Some(rows), false) = (sort.fetch(), sort.preserve_partitioning()) else {
            return Ok(None);
        };
        let key = sort.expr().first();
        let Some(column) = key.expr.downcast_ref::<Column>() else {
            return Ok(None);
        };
        // Each side is read for each part of the rows, and all of them perhaps once more.
        if sort.input().any(&mut calls_volatile)? {
            return Ok(None);
        }
        let Some(input) = Driven::of(sort.input(), column.index())? else {
            return Ok(None);
        };
        let nullable = input.scan.schema().field(input.column).is_nullable();
        let options = key.options;
        // The reader has NULL after all others.
        let ordered = !nullable || options.descending == options.nulls_first;
        Ok((ordered && rows <= input.rows_max).then(|| FirstRowsExec {
            sort: node.clone(),
            rows,
            order: options,
            input,
        }))
    }
}

impl Driven {
    /// `plan`, if its `column`th column is one of a scan that it has a row of for each of its own.
    fn of(plan: &Plan, column: usize) -> Result<Option<Driven>> {
        if plan.is::<Counted>() {
            return Ok(Some(Driven {
                plan: plan.clone(),
                scan: plan.clone(),
                column,
                rows_max: READ_ROWS_MAX,
            }));
        }
        if let Some(join) = plan.downcast_ref::<HashJoinExec>() {
            let Some((side, column)) = column_of_side(join, column) else {
                return Ok(None);
            };
            let Some(join) = LookupJoinExec::of_some_rows(join, side) else {
                return Ok(None);
            };
            let Some(below) = Driven::of(join.giver(), column)? else {
                return Ok(None);
            };
            return Ok(Some(Driven {
                plan: Arc::new(join.with_giver(below.plan)),
                rows_max: below.rows_max.min(join.rows_max()),
                ..below
            }));
        }
        let Some(column) = column_of_input(plan, column) else {
            return Ok(None);
        };
        let [input] = plan.children()[..] else {
            return Ok(None);
        };
        let Some(below) = Driven::of(input, column)? else {
            return Ok(None);
        };
        Ok(Some(Driven {
            plan: with_input(plan, below.plan)?,
            ..below
        }))
    }
}

/// The plan of [`Driven`] for those rows of the scan that `source` gives.
fn over(plan: &Plan, source: Plan) -> Result<Plan> {
    if plan.is::<Counted>() {
        return Ok(source);
    }
    if let Some(join) = plan.downcast_ref::<LookupJoinExec>() {
        let giver = over(join.giver(), source)?;
        return Ok(Arc::new(join.with_giver(giver)));
    }
    match plan.children()[..] {
        [input] => with_input(plan, over(input, source)?),
        _ => internal_err!("there is no scan below {}", plan.name()),
    }
}

fn with_input(plan: &Plan, input: Plan) -> Result<Plan> {
    let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
    plan.clone().replace_children(vec![input], options)
}

fn calls_volatile(plan: &Plan) -> Result<bool> {
    let mut found = false;
    plan.apply_expressions(&mut |e| {
        found |= is_volatile(e);
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(found)
}

/// The column of the one input, of a node that keeps or drops each row by itself.
fn column_of_input(plan: &Plan, column: usize) -> Option<usize> {
    if let Some(filter) = plan.downcast_ref::<FilterExec>() {
        let kept = filter.projection().as_ref();
        let column = kept.map_or(Some(column), |kept| kept.get(column).copied());
        return column.filter(|_| filter.fetch().is_none());
    }
    if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
        let expr = &projection.expr().get(column)?.expr;
        return Some(expr.downcast_ref::<Column>()?.index());
    }
    plan.is::<CooperativeExec>().then_some(column)
}

/// The side that a join's column is of, and which it is there.
fn column_of_side(join: &HashJoinExec, column: usize) -> Option<(usize, usize)> {
    use JoinType::{Inner, Left, LeftAnti, LeftSemi, Right, RightAnti, RightSemi};
    let column = match &join.projection {
        Some(kept) => *kept.get(column)?,
        None => column,
    };
    let left = join.left().schema().fields().len();
    match join.join_type() {
        Inner | Left | Right if column < left => Some((0, column)),
        Inner | Left | Right => Some((1, column - left)),
        LeftSemi | LeftAnti => Some((0, column)),
        RightSemi | RightAnti => Some((1, column)),
        _ => None,
    }
}

impl DisplayAs for FirstRowsExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scan, column) = (self.input.scan.schema(), self.input.column);
        write!(
            f,
            "FirstRowsExec: rows={}, by={}",
            self.rows,
            scan.field(column).name()
        )
    }
}

impl ExecutionPlan for FirstRowsExec {
    fn name(&self) -> &str {
        "FirstRowsExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.sort.properties()
    }

    fn children(&self) -> Vec<&Plan> {
        vec![&self.sort]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Plan>,
        _: ReplaceChildrenOptions,
    ) -> Result<Plan> {
        match (children.pop(), children.is_empty()) {
            (Some(sort), true) => Ok(Arc::new(FirstRowsExec {
                sort,
                ..FirstRowsExec::clone(&self)
            })),
            _ => internal_err!("first rows have one input"),
        }
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Plan>) -> Result<Plan> {
        let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
        self.replace_children(children, options)
    }

    fn execute(
        &self,
        partition: usize,
        task: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let this = self.clone();
        let rows = stream::once(async move {
            match this.first(partition, &task).await {
                Ok(Some(rows)) => Ok(rows),
                // Where a value fails, the plan for all rows says how.
                Ok(None) | Err(_) => this.sort.execute(partition, task),
            }
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            self.schema(),
            rows.try_flatten(),
        )))
    }
}

impl FirstRowsExec {
    /// The rows, if some of the scan's have enough.
    async fn first(
        &self,
        partition: usize,
        task: &Arc<TaskContext>,
    ) -> Result<Option<SendableRecordBatchStream>> {
        let Some(pieces) = self.pieces(task)? else {
            return Ok(None);
        };
        // A plan that is kept would collect the metrics of all its runs.
        let plan = reset_plan_states(self.input.plan.clone())?;
        let (mut found, mut rows, mut read) = (vec![], 0, 0);
        let (mut taken, mut some) = (0, self.rows.max(SOME_ROWS));
        let rows_max = self.input.rows_max;
        for piece in pieces {
            let piece = self.piece(piece.map_err(external)?, &mut read)?;
            let mut from = 0;
            while from < piece.rows.num_rows() {
                let part = piece.part(from, some)?;
                from += part.num_rows();
                taken += part.num_rows();
                if taken > rows_max || read > READ_ROWS_MAX {
                    return Ok(None);
                }
                some = some.saturating_mul(4);
                for batch in self.of_part(&plan, part, partition, task).await? {
                    rows += batch.num_rows();
                    found.push(batch);
                }
                if rows >= self.rows {
                    return self.sorted(found, partition, task).map(Some);
                }
                if taken >= TELLING_ROWS && taken * self.rows > rows_max * rows {
                    return Ok(None);
                }
            }
        }
        self.sorted(found, partition, task).map(Some)
    }

    /// The scan's rows in order; `None`: the reader has them in another.
    fn pieces(&self, task: &TaskContext) -> Result<Option<Pieces>> {
        let Some(scan) = self.input.scan.downcast_ref::<Counted>() else {
            return internal_err!("first rows have lost their scan");
        };
        let scan = scan.scan();
        let Some(column) = scan.column(self.input.column) else {
            return internal_err!("a scan has lost a column");
        };
        let order = ColumnOrder {
            column,
            descending: self.order.descending,
            nulls: self
                .input
                .scan
                .schema()
                .field(self.input.column)
                .is_nullable(),
            rows: self.rows,
        };
        scan.in_order(order, task).map_err(external)
    }

    /// Reads the rows of a piece. `read`: how many have been read.
    fn piece(&self, rows: Rows, read: &mut usize) -> Result<Piece> {
        let schema = self.input.scan.schema();
        let mut batches = vec![];
        for batch in rows {
            let batch = relabel(batch.map_err(external)?, &schema).map_err(external)?;
            *read += batch.num_rows();
            batches.push(batch);
            if *read > READ_ROWS_MAX {
                break;
            }
        }
        let rows = concat_batches(&schema, &batches)?;
        let column = rows.column(self.input.column);
        let order = sort_to_indices(column, Some(self.order), None)?;
        let ranges = partition(&[take(column, &order, None)?])?.ranges();
        let ends = ranges.into_iter().map(|r| r.end).collect();
        Ok(Piece { rows, order, ends })
    }

    /// What `plan` makes of some rows of the scan.
    async fn of_part(
        &self,
        plan: &Plan,
        part: RecordBatch,
        partition: usize,
        task: &Arc<TaskContext>,
    ) -> Result<Vec<RecordBatch>> {
        let source = running(&self.input.scan, vec![part]);
        over(plan, source)?
            .execute(partition, task.clone())?
            .try_collect()
            .await
    }

    fn sorted(
        &self,
        found: Vec<RecordBatch>,
        partition: usize,
        task: &Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let source = running(&self.input.plan, found);
        with_input(&self.sort, source)?.execute(partition, task.clone())
    }
}

/// `rows` in place of those of `plan`.
fn running(plan: &Plan, rows: Vec<RecordBatch>) -> Plan {
    let rows = stream::iter(rows.into_iter().map(Ok));
    let rows = RecordBatchStreamAdapter::new(plan.schema(), rows);
    Running::of(plan, Box::pin(rows))
}

/// Rows of the scan that come before all that follow.
struct Piece {
    rows: RecordBatch,
    /// The numbers of the rows in order.
    order: UInt32Array,
    /// Where in that order those end that come at the same place.
    ends: Vec<usize>,
}

impl Piece {
    /// About `some` rows, with all that come at the same place as the last of them.
    fn part(&self, from: usize, some: usize) -> Result<RecordBatch> {
        let wanted = from.saturating_add(some);
        let last = self.ends.partition_point(|end| *end < wanted);
        let until = self.ends.get(last).copied().unwrap_or(self.rows.num_rows());
        let part = self.order.slice(from, until - from);
        Ok(take_record_batch(&self.rows, &part)?)
    }
}
