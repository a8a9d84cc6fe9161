//! [`RangeJoinExec`]: a join whose condition compares values of both sides. It puts the rows of one side in the order of their values, and
//! finds those that a row of the other can match by binary search. DataFusion's join looks at all pairs.

use std::fmt;
use std::sync::{Arc, Mutex};

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::config::ConfigOptions;
use datafusion::execution::memory_pool::MemoryReservation;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::joins::utils::{
    ColumnIndex, JoinFilter, JoinOnRef, build_join_schema,
};
use datafusion::physical_plan::joins::{HashJoinExec, NestedLoopJoinExec};
use datafusion::physical_plan::limit::LimitStream;
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties,
};
use datafusion_common::tree_node::Transformed;
use datafusion_common::{JoinSide, JoinType, NullEquality, Result, internal_err};
use datafusion_physical_expr::PhysicalExpr;
use tidemill_dataflow::ranges::{self, RangeCondition, Wanted};

use super::can_fail;
use super::in_order::InOrderExpr;
use super::lookups::Running;
use super::range_pairs::{First, Join, Kind, Searched};
use super::range_work::rows;
use crate::execute::with_a_chance_to_stop;
use crate::recent::RecentRowsExec;
use crate::tree::Tree;

type Plan = Arc<dyn ExecutionPlan>;

/// Takes [`RangeJoinExec`] where there is a value to search by.
#[derive(Debug)]
pub(super) struct RangeJoins;

impl PhysicalOptimizerRule for RangeJoins {
    fn optimize(&self, plan: Plan, _: &ConfigOptions) -> Result<Plan> {
        let plan = plan.change_up(&mut |node| {
            Ok(match RangeJoinExec::instead_of(&node)? {
                Some(join) => Transformed::yes(Arc::new(join)),
                None => Transformed::no(node),
            })
        })?;
        Ok(plan.data)
    }

    fn name(&self) -> &str {
        "RangeJoins"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct RangeJoinExec {
    /// The join that it stands for.
    node: Plan,
    /// Left and right.
    inputs: [Plan; 2],
    join: Arc<Join>,
    /// In a recursive query whose rounds search the same rows: these.
    kept: Option<Arc<KeptOrder>>,
}

/// Rows in order, once they have been read, and their memory.
pub(super) type KeptOrder = Mutex<Option<(Searched, MemoryReservation)>>;

impl RangeJoinExec {
    fn instead_of(node: &Plan) -> Result<Option<RangeJoinExec>> {
        let Some(given) = Given::of(node) else {
            return Ok(None);
        };
        // In a recursive query the other join keeps its hash table.
        let recent = |plan: &Plan| plan.any(&mut |node| Ok(node.is::<RecentRowsExec>()));
        let [left, right] = &given.inputs;
        let is_hashed = !given.on.is_empty();
        if is_hashed && (is_ordered(node) || recent(left)? || recent(right)?) {
            return Ok(None);
        }
        given.join(node, None)
    }

    /// The join that `node` is, if it can be one that gives, for each value of the columns `by`, the first rows in the order of column `key`. `first` is over
    /// its columns.
    pub(super) fn giving_first(
        node: &Plan,
        by: &[usize],
        key: usize,
        first: &First,
    ) -> Result<Option<RangeJoinExec>> {
        let Some(given) = Given::of(node).filter(|_| !is_ordered(node)) else {
            return Ok(None);
        };
        let columns = given.columns();
        let key = (side(&columns[key]), columns[key].index);
        // All rows of the probing side may be there without a match, those of the searched side may not.
        let gives = match given.kind {
            JoinType::Inner => true,
            JoinType::Left => key.0 == 1,
            JoinType::Right => key.0 == 0,
            _ => false,
        };
        if !gives || by.iter().any(|c| side(&columns[*c]) == key.0) {
            return Ok(None);
        }
        let schema = given.inputs[key.0].schema();
        let is_exact = |column: usize| {
            let data_type = schema.field(column).data_type();
            ranges::is_ordered(data_type) && !data_type.is_floating()
        };
        let ties = first.ties.as_ref().map(|ties| {
            let ties = ties.iter().map(|(c, options)| (&columns[*c], *options));
            // The others are the same for all pairs of a probing row.
            let own = ties.filter(|(column, _)| side(column) == key.0);
            own.map(|(column, options)| (column.index, options))
                .collect::<Vec<_>>()
        });
        let all = |ties: &Vec<(usize, _)>| ties.iter().all(|(column, _)| is_exact(*column));
        let ties = ties.filter(|ties| is_exact(key.1) && all(ties));
        let first = First { ties, ..*first };
        given.join(node, Some((key, first)))
    }

    /// The hash join that it stands for, of its inputs.
    pub(super) fn hash_join(&self) -> Option<Result<HashJoinExec>> {
        let join = self.node.downcast_ref::<HashJoinExec>()?;
        let join = join.builder().reset_state().recompute_properties();
        let join = join.with_new_children(self.inputs.to_vec());
        Some(join.and_then(|join| join.build()))
    }

    /// How it is joined.
    pub(super) fn join(&self) -> &Arc<Join> {
        &self.join
    }

    /// The rows of the hash join that it stands for.
    pub(super) fn instead(
        &self,
        inputs: [SendableRecordBatchStream; 2],
        task: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let plans = self.inputs.iter().zip(inputs);
        let plans: Vec<Plan> = plans.map(|(plan, rows)| Running::of(plan, rows)).collect();
        let Ok(inputs) = <[Plan; 2]>::try_from(plans) else {
            return internal_err!("a join has two inputs");
        };
        match self.with_inputs(inputs).hash_join() {
            Some(join) => with_a_chance_to_stop(Arc::new(join?))?.execute(0, task),
            None => internal_err!("a join by a range stands for no hash join"),
        }
    }

    /// The join of other inputs.
    pub(super) fn with_inputs(&self, inputs: [Plan; 2]) -> RangeJoinExec {
        let this = self.clone();
        RangeJoinExec { inputs, ..this }
    }

    /// Left and right.
    pub(super) fn inputs(&self) -> &[Plan; 2] {
        &self.inputs
    }

    /// The same join, which keeps the rows that it searches from one execution to the next if they are the same.
    pub(super) fn keeping(&self, same: bool) -> RangeJoinExec {
        RangeJoinExec {
            kept: same.then(Arc::default),
            ..self.clone()
        }
    }

    /// The rows that are kept.
    pub(super) fn kept(&self) -> Option<&KeptOrder> {
        self.kept.as_deref()
    }
}

/// Whether what stands above a join may need the order of its rows, which the other join doesn't keep.
fn is_ordered(node: &Plan) -> bool {
    node.properties().output_ordering().is_some()
}

/// A join of DataFusion's.
struct Given<'n> {
    inputs: [Plan; 2],
    kind: JoinType,
    projection: Option<&'n [usize]>,
    filter: &'n JoinFilter,
    on: JoinOnRef<'n>,
}

impl Given<'_> {
    fn of(node: &Plan) -> Option<Given<'_>> {
        let given = if let Some(loops) = node.downcast_ref::<NestedLoopJoinExec>() {
            Given {
                inputs: [loops.left().clone(), loops.right().clone()],
                kind: *loops.join_type(),
                projection: loops.projection().as_deref(),
                filter: loops.filter()?,
                on: &[],
            }
        } else {
            let hash = node.downcast_ref::<HashJoinExec>()?;
            if hash.null_equality() == NullEquality::NullEqualsNull || hash.null_aware {
                return None;
            }
            Given {
                inputs: [hash.left().clone(), hash.right().clone()],
                kind: *hash.join_type(),
                projection: hash.projection.as_deref(),
                filter: hash.filter()?,
                on: hash.on(),
            }
        };
        let apart = |plan: &Plan| plan.output_partitioning().partition_count() > 1;
        (!given.inputs.iter().any(apart)).then_some(given)
    }

    /// The columns of the result.
    fn columns(&self) -> Vec<ColumnIndex> {
        let [left, right] = self.inputs.each_ref().map(|plan| plan.schema());
        let (_, columns) = build_join_schema(&left, &right, &self.kind);
        match self.projection {
            Some(chosen) => chosen.iter().map(|c| columns[*c].clone()).collect(),
            None => columns,
        }
    }

    /// The join by a range, if there is something to search by. `first` is for each row, in the order of a column of a side.
    fn join(
        &self,
        node: &Plan,
        first: Option<((usize, usize), First)>,
    ) -> Result<Option<RangeJoinExec>> {
        let (filter, condition) = (self.filter, self.filter.expression());
        let indices = filter.column_indices();
        let side_of = |column: usize| (side(&indices[column]), indices[column].index);
        let fails = |e: &Arc<dyn PhysicalExpr>| can_fail(e).unwrap_or(true);
        let searched = match (&first, Kind::from(self.kind)) {
            (Some(((side, column), _)), _) => Wanted::Column(*side, *column),
            // One match of a row that probes is enough.
            (None, Kind::Rows(side, _)) => Wanted::Side(1 - side),
            (None, Kind::Pairs(_)) => Wanted::Side(0),
        };
        let range = RangeCondition::of(condition, filter.schema(), &side_of, &fails, searched);
        let [left, right] = self.inputs.each_ref().map(|plan| plan.schema());
        let range = range.and_then(|range| match self.on {
            [] => Some(range),
            on => range.among_equal(on, [&left, &right], &fails),
        });
        let join = |range| -> Result<RangeJoinExec> {
            let join = Join {
                range,
                kind: self.kind.into(),
                columns: self.columns(),
                schema: node.schema(),
                condition: InOrderExpr::of(condition)?,
                condition_columns: indices.to_vec(),
                condition_schema: filter.schema().clone(),
                first: first.map(|(_, first)| first),
            };
            Ok(RangeJoinExec {
                node: node.clone(),
                inputs: self.inputs.clone(),
                join: Arc::new(join),
                kept: None,
            })
        };
        range.map(join).transpose()
    }
}

/// The side of a column of pairs.
fn side(column: &ColumnIndex) -> usize {
    usize::from(column.side == JoinSide::Right)
}

impl DisplayAs for RangeJoinExec {
    fn fmt_as(&self, t: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RangeJoinExec: ")?;
        self.node.fmt_as(t, f)
    }
}

impl ExecutionPlan for RangeJoinExec {
    fn name(&self) -> &str {
        "RangeJoinExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.node.properties()
    }

    fn children(&self) -> Vec<&Plan> {
        self.inputs.iter().collect()
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.node.apply_expressions(f)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Plan>,
        _: ReplaceChildrenOptions,
    ) -> Result<Plan> {
        let Ok(inputs) = <[Plan; 2]>::try_from(children) else {
            return internal_err!("a join has two inputs");
        };
        Ok(Arc::new(self.with_inputs(inputs)))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Plan>) -> Result<Plan> {
        let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
        self.replace_children(children, options)
    }

    fn execute(&self, n: usize, task: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let [left, right] = &self.inputs;
        let inputs = [
            left.execute(n, task.clone())?,
            right.execute(n, task.clone())?,
        ];
        let all = rows(self.clone(), inputs, task);
        Ok(match self.node.fetch() {
            Some(most) => {
                let metrics = BaselineMetrics::new(&ExecutionPlanMetricsSet::new(), n);
                Box::pin(LimitStream::new(all, 0, Some(most), metrics))
            }
            None => all,
        })
    }
}
