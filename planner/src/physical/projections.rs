//! Projections on their way down, by DataFusion's rule.
//!
//! * It takes a projection above a filter that already chooses columns for one above the filter's input: columns of the same name
//!   are then mistaken for each other. So filters don't choose columns when it begins.
//! * It computes those parts of a join's condition that are about one side below the join, also for rows for which the condition
//!   is decided without them. Where a part can fail it does no more than to leave out projections.
//! * It brings expressions below filters, where they are computed for rows that the filter drops. So of a projection that can fail it
//!   sees only which columns it needs: these are chosen below, and a fence is put between. The same is done where another value is given
//!   at each call, which has an order.

use std::sync::Arc;

use datafusion::config::ConfigOptions;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::{FilterExec, FilterExecBuilder};
use datafusion::physical_plan::joins::NestedLoopJoinExec;
use datafusion::physical_plan::projection::{
    ProjectionExec, ProjectionExpr, remove_unnecessary_projections,
};
use datafusion_common::Result;
use datafusion_common::tree_node::Transformed;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::Column;
use datafusion_physical_expr::utils::collect_columns;

use super::{ConcatExec, Rule, can_fail};
use crate::tree::Tree;

type Plan = Arc<dyn ExecutionPlan>;

/// DataFusion's rule, with care.
#[derive(Debug)]
pub(super) struct ProjectionsDown(pub Rule);

impl PhysicalOptimizerRule for ProjectionsDown {
    fn optimize(&self, plan: Plan, config: &ConfigOptions) -> Result<Plan> {
        let plan = plan.change_up(&mut apart)?.data;
        match plan.any(&mut |node| joins_by_what_can_fail(node))? {
            true => Ok(plan.change_down(&mut remove_unnecessary_projections)?.data),
            false => {
                let fenced = plan.change_up(&mut fenced)?.data;
                let plan = self.0.optimize(fenced, config)?;
                Ok(plan.change_up(&mut without_fence)?.data)
            }
        }
    }

    fn name(&self) -> &str {
        self.0.name()
    }

    fn schema_check(&self) -> bool {
        self.0.schema_check()
    }
}

fn joins_by_what_can_fail(plan: &Plan) -> Result<bool> {
    let join = plan.downcast_ref::<NestedLoopJoinExec>();
    match join.and_then(NestedLoopJoinExec::filter) {
        Some(filter) => can_fail(filter.expression()),
        None => Ok(false),
    }
}

/// A filter that chooses columns as a filter, and a choice of columns above it.
fn apart(plan: Plan) -> Result<Transformed<Plan>> {
    let Some(filter) = plan.downcast_ref::<FilterExec>() else {
        return Ok(Transformed::no(plan));
    };
    let Some(chosen) = filter.projection() else {
        return Ok(Transformed::no(plan));
    };
    let schema = filter.input().schema();
    let columns = chosen.iter().map(|i| {
        let name = schema.field(*i).name().clone();
        let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(&name, *i));
        (column, name)
    });
    let columns: Vec<_> = columns.collect();
    let whole = FilterExecBuilder::new(filter.predicate().clone(), filter.input().clone())
        .with_default_selectivity(filter.default_selectivity())
        .with_batch_size(filter.batch_size())
        .with_fetch(filter.fetch())
        .build()?;
    let above = ProjectionExec::try_new(columns, Arc::new(whole))?;
    Ok(Transformed::yes(Arc::new(above)))
}

/// A projection that can fail, above a fence and a choice of the columns that it needs.
fn fenced(plan: Plan) -> Result<Transformed<Plan>> {
    let Some(projection) = plan.downcast_ref::<ProjectionExec>() else {
        return Ok(Transformed::no(plan));
    };
    let mut fallible = false;
    for e in projection.expr() {
        fallible |= can_fail(&e.expr)? || e.expr.any(&mut |e| Ok(e.is_volatile_node()))?;
    }
    if !fallible {
        return Ok(Transformed::no(plan));
    }
    let input = projection.input();
    let used = projection.expr().iter();
    let mut used: Vec<Column> = used.flat_map(|e| collect_columns(&e.expr)).collect();
    used.sort_by_key(Column::index);
    used.dedup();
    if used.len() == input.schema().fields().len() {
        let above = projection.expr().to_vec();
        let below = Arc::new(ConcatExec::fence(input.clone()));
        return Ok(Transformed::yes(Arc::new(ProjectionExec::try_new(
            above, below,
        )?)));
    }
    let chosen = used.iter().map(|c| {
        let column: Arc<dyn PhysicalExpr> = Arc::new(c.clone());
        (column, c.name().to_string())
    });
    let chosen = ProjectionExec::try_new(chosen.collect::<Vec<_>>(), input.clone())?;
    // Not by name: several columns may have the same.
    let mut moved = |e: Arc<dyn PhysicalExpr>| {
        Ok(match e.downcast_ref::<Column>() {
            Some(c) => {
                let at = used.iter().position(|u| u.index() == c.index());
                let at = at.unwrap_or_default();
                Transformed::yes(Arc::new(Column::new(c.name(), at)) as _)
            }
            None => Transformed::no(e),
        })
    };
    let above = projection.expr().iter().map(|e| {
        let expr = e.expr.clone().change_up(&mut moved)?.data;
        Ok(ProjectionExpr::new(expr, e.alias.clone()))
    });
    let above = above.collect::<Result<Vec<_>>>()?;
    let below = Arc::new(ConcatExec::fence(Arc::new(chosen)));
    let plan = ProjectionExec::try_new(above, below)?;
    Ok(Transformed::yes(Arc::new(plan)))
}

fn without_fence(plan: Plan) -> Result<Transformed<Plan>> {
    match plan.downcast_ref::<ConcatExec>() {
        Some(concat) if concat.fence => Ok(Transformed::yes(concat.inputs[0].clone())),
        _ => Ok(Transformed::no(plan)),
    }
}
