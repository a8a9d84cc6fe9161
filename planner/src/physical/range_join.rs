//! [`RangeJoinExec`]: a join whose condition compares values of both sides. It puts the rows of one side in the order of their values, and
//! finds those that a row of the other can match by binary search. DataFusion's join looks at all pairs.

use std::fmt;
use std::sync::Arc;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::config::ConfigOptions;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::joins::NestedLoopJoinExec;
use datafusion::physical_plan::joins::utils::build_join_schema;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties,
};
use datafusion_common::tree_node::Transformed;
use datafusion_common::{JoinSide, Result, internal_err};
use datafusion_physical_expr::PhysicalExpr;
use tidemill_dataflow::ranges::RangeCondition;

use super::can_fail;
use super::in_order::InOrderExpr;
use super::range_pairs::{Join, rows};
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
}

impl RangeJoinExec {
    fn instead_of(node: &Plan) -> Result<Option<RangeJoinExec>> {
        let Some(loops) = node.downcast_ref::<NestedLoopJoinExec>() else {
            return Ok(None);
        };
        let inputs = [loops.left().clone(), loops.right().clone()];
        let apart = |plan: &Plan| plan.output_partitioning().partition_count() > 1;
        let Some(filter) = loops.filter().filter(|_| !inputs.iter().any(apart)) else {
            return Ok(None);
        };
        let indices = filter.column_indices();
        let side_of = |column: usize| {
            let column = &indices[column];
            (usize::from(column.side == JoinSide::Right), column.index)
        };
        let fails = |e: &Arc<dyn PhysicalExpr>| can_fail(e).unwrap_or(true);
        let condition = filter.expression();
        let Some(range) = RangeCondition::of(condition, filter.schema(), &side_of, &fails) else {
            return Ok(None);
        };
        let schemas = inputs.each_ref().map(|plan| plan.schema());
        let (_, columns) = build_join_schema(&schemas[0], &schemas[1], loops.join_type());
        let columns = match loops.projection() {
            Some(chosen) => chosen.iter().map(|c| columns[*c].clone()).collect(),
            None => columns,
        };
        let join = Join {
            range,
            kind: (*loops.join_type()).into(),
            columns,
            schema: node.schema(),
            condition: InOrderExpr::of(condition)?,
            condition_columns: indices.to_vec(),
            condition_schema: filter.schema().clone(),
        };
        Ok(Some(RangeJoinExec {
            node: node.clone(),
            inputs,
            join: Arc::new(join),
        }))
    }
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
        let this = RangeJoinExec::clone(&self);
        Ok(Arc::new(RangeJoinExec { inputs, ..this }))
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
        Ok(rows(self.join.clone(), inputs, &task))
    }
}
