//! The optimiser of maintained plans: our own choice of DataFusion's rules.
//!
//! Left out are rules that trade in things a dataflow doesn't have: limits pushed into scans (rows have no
//! order), nested GROUP BYs for DISTINCT aggregates (see `distinct`), filters for NULL join keys. Names that the
//! optimiser makes up count from one in each compilation.

use std::sync::Arc;

use crate::tree::{PlanTree, Tree};
use chrono::{DateTime, Utc};
use datafusion::functions_aggregate::first_last::first_value_udaf;
use datafusion::optimizer::common_subexpr_eliminate::CommonSubexprEliminate;
use datafusion::optimizer::decorrelate_lateral_join::DecorrelateLateralJoin;
use datafusion::optimizer::decorrelate_predicate_subquery::DecorrelatePredicateSubquery;
use datafusion::optimizer::eliminate_duplicated_expr::EliminateDuplicatedExpr;
use datafusion::optimizer::eliminate_filter::EliminateFilter;
use datafusion::optimizer::eliminate_join::EliminateJoin;
use datafusion::optimizer::eliminate_limit::EliminateLimit;
use datafusion::optimizer::eliminate_outer_join::EliminateOuterJoin;
use datafusion::optimizer::optimize_projections::OptimizeProjections;
use datafusion::optimizer::optimize_unions::OptimizeUnions;
use datafusion::optimizer::propagate_empty_relation::PropagateEmptyRelation;
use datafusion::optimizer::replace_distinct_aggregate::ReplaceDistinctWithAggregate;
use datafusion::optimizer::rewrite_set_comparison::RewriteSetComparison;
use datafusion::optimizer::scalar_subquery_to_join::ScalarSubqueryToJoin;
use datafusion::optimizer::simplify_expressions::SimplifyExpressions;
use datafusion::optimizer::{Optimizer, OptimizerConfig, OptimizerContext, OptimizerRule};
use datafusion_common::alias::AliasGenerator;
use datafusion_common::config::ConfigOptions;
use datafusion_common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion_common::{Column, JoinType, Result};
use datafusion_expr::registry::{FunctionRegistry, MemoryFunctionRegistry};
use datafusion_expr::utils::split_conjunction_owned;
use datafusion_expr::{Expr, Filter, LogicalPlan, LogicalPlanBuilder};

use super::in_lists::ListsApart;
use super::join_rules::{CrossJoins, EquijoinKeys, FiltersDown};
use super::{decorrelate, expr, order};
use crate::interrupt::Interruptible;
use crate::once::same_rows;

/// Optimises a bound plan for compilation.
pub(super) fn optimise(plan: &LogicalPlan) -> Result<LogicalPlan> {
    let plan = order::canonical(plan.clone())?;
    let plan = decorrelate::hoist(plan)?;
    let plan = join_single_rows(plan)?;
    let rules: Vec<Arc<dyn OptimizerRule + Send + Sync>> = vec![
        Arc::new(RewriteSetComparison::new()),
        Arc::new(OptimizeUnions::new()),
        Arc::new(ListsApart(Arc::new(SimplifyExpressions::new()))),
        Arc::new(ReplaceDistinctWithAggregate::new()),
        Arc::new(EliminateJoin::new()),
        Arc::new(DecorrelatePredicateSubquery::new()),
        Arc::new(ScalarSubqueryToJoin::new()),
        Arc::new(DecorrelateLateralJoin::new()),
        Arc::new(EquijoinKeys::default()),
        Arc::new(EliminateDuplicatedExpr::new()),
        Arc::new(EliminateFilter::new()),
        Arc::new(CrossJoins::default()),
        Arc::new(EliminateLimit::new()),
        Arc::new(PropagateEmptyRelation::new()),
        Arc::new(EliminateOuterJoin::new()),
        Arc::new(FiltersDown::default()),
        Arc::new(CommonSubexprEliminate::new()),
        Arc::new(OptimizeProjections::new()),
    ];
    let mut options = ConfigOptions::default();
    options.optimizer.skip_failed_rules = false;
    options.optimizer.filter_null_join_keys = false;
    let mut functions = MemoryFunctionRegistry::new();
    functions.register_udaf(first_value_udaf())?;
    let context = Context {
        inner: OptimizerContext::new_with_config_options(Arc::new(options)),
        functions,
    };
    let rules = rules.into_iter();
    let rules = rules
        .map(|rule| Arc::new(Interruptible(rule)) as _)
        .collect();
    let rules = Optimizer::with_rules(rules);
    decorrelate::optimise(plan, &|plan| rules.optimize(plan, &context, |_, _| {}))
}

/// What rules may ask: options, fresh names, and the one function that they put into plans.
struct Context {
    inner: OptimizerContext,
    functions: MemoryFunctionRegistry,
}

impl OptimizerConfig for Context {
    fn query_execution_start_time(&self) -> Option<DateTime<Utc>> {
        // Without it no rule can fold the current time.
        None
    }

    fn alias_generator(&self) -> &Arc<AliasGenerator> {
        self.inner.alias_generator()
    }

    fn options(&self) -> Arc<ConfigOptions> {
        self.inner.options()
    }

    fn function_registry(&self) -> Option<&dyn FunctionRegistry> {
        Some(&self.functions)
    }
}

/// Uncorrelated scalar subqueries become joins without a condition; of those that may give more than one row, to their number
/// and one value.
fn join_single_rows(plan: LogicalPlan) -> Result<LogicalPlan> {
    let mut count = 0;
    replace_subqueries(plan, &mut |_, input, e| {
        let Expr::ScalarSubquery(subquery) = e else {
            return Ok(None);
        };
        let plan = &subquery.subquery;
        if has_outer_reference(plan)? {
            return Ok(None);
        }
        count += 1;
        let alias = format!("__single_{count}");
        if plan.max_rows().is_none_or(|n| n > 1) {
            return decorrelate::branches::beside(input, plan, &alias).map(Some);
        }
        let single = LogicalPlanBuilder::from(plan.as_ref().clone())
            .alias(alias.as_str())?
            .build()?;
        let column = Column::new(Some(alias), plan.schema().field(0).name());
        let input = LogicalPlanBuilder::from(input.clone());
        let joined = match always_one_row(plan) {
            true => input.cross_join(single)?,
            false => input.join_on(single, JoinType::Left, [datafusion_expr::lit(true)])?,
        };
        Ok(Some((joined.build()?, Expr::Column(column))))
    })
}

/// What takes the place of a subquery: its node's input with further columns, and an expression over them.
pub(super) type Joined = Option<(LogicalPlan, Expr)>;

/// Replaces subqueries of filters and projections by columns that `join` adds to the node's input. It gets the
/// input as it was, the input with the columns added so far, and the expression that is a subquery.
pub(super) fn replace_subqueries(
    plan: LogicalPlan,
    join: &mut dyn FnMut(&LogicalPlan, &LogicalPlan, &Expr) -> Result<Joined>,
) -> Result<LogicalPlan> {
    plan.change_all_up(&mut |node| {
        if !node.expressions().iter().any(decorrelate::has_subquery) {
            return Ok(Transformed::no(node));
        }
        let node = match node {
            LogicalPlan::Filter(f) => subqueries_last(f)?,
            node => node,
        };
        let input = match &node {
            LogicalPlan::Filter(f) => &f.input,
            LogicalPlan::Projection(p) => &p.input,
            _ => return Ok(Transformed::no(node)),
        };
        // It is asked for its rows once, and for the values that a subquery is computed for.
        let input = &same_rows(input)?;
        let mut joined = input.clone();
        let mut found: Vec<(Expr, Expr)> = vec![];
        let mut exprs = vec![];
        for e in node.expressions() {
            let replaced = e.change_up(&mut |e| {
                if decorrelate::subquery_of(&e).is_none() {
                    return Ok(Transformed::no(e));
                }
                if let Some((_, value)) = found.iter().find(|(have, _)| *have == e) {
                    return Ok(Transformed::yes(value.clone()));
                }
                let Some((plan, value)) = join(input, &joined, &e)? else {
                    return Ok(Transformed::no(e));
                };
                joined = plan;
                found.push((e, value.clone()));
                Ok(Transformed::yes(value))
            })?;
            exprs.push(replaced.data);
        }
        if found.is_empty() {
            return Ok(Transformed::no(node));
        }
        rebuilt(&node, joined, exprs).map(Transformed::yes)
    })
    .map(|t| t.data)
}

/// A filter by subqueries above one by what it has beside them: they needn't be computed for rows that this drops, as of the
/// cross join that it makes a join of.
fn subqueries_last(f: Filter) -> Result<LogicalPlan> {
    let parts = split_conjunction_owned(f.predicate).into_iter();
    let (last, first): (Vec<Expr>, Vec<Expr>) = parts.partition(decorrelate::has_subquery);
    let mut input = f.input;
    for parts in [first, last] {
        if let Some(predicate) = parts.into_iter().reduce(Expr::and) {
            input = Arc::new(LogicalPlan::Filter(Filter::try_new(predicate, input)?));
        }
    }
    Ok(Arc::unwrap_or_clone(input))
}

/// The filter or projection `node` with other expressions over a wider input. Its columns stay the same.
fn rebuilt(node: &LogicalPlan, input: LogicalPlan, exprs: Vec<Expr>) -> Result<LogicalPlan> {
    let columns = node.schema().columns();
    let mut plan = LogicalPlanBuilder::from(input);
    if let LogicalPlan::Projection(_) = node {
        let named = exprs.into_iter().zip(columns).map(|(e, c)| match &e {
            Expr::Column(column) if *column == c => e,
            _ => unqualified(e).alias_qualified(c.relation, c.name),
        });
        return plan.project(named.collect::<Vec<_>>())?.build();
    }
    for e in exprs {
        plan = plan.filter(e)?;
    }
    plan.project(columns.into_iter().map(Expr::Column))?.build()
}

/// The expression without an outermost alias.
fn unqualified(e: Expr) -> Expr {
    match e {
        Expr::Alias(alias) => *alias.expr,
        e => e,
    }
}

/// Whether a row of an outer query is named anywhere in `plan`.
pub(crate) fn has_outer_reference(plan: &LogicalPlan) -> Result<bool> {
    let mut found = false;
    plan.walk_all(&mut |node| {
        found |= node.expressions().iter().any(|e| {
            e.any(&mut |e| Ok(matches!(e, Expr::OuterReferenceColumn(..))))
                .unwrap_or(true)
        });
        Ok(if found {
            TreeNodeRecursion::Stop
        } else {
            TreeNodeRecursion::Continue
        })
    })?;
    Ok(found)
}

/// True if the plan gives one row whatever its input: a projection of an aggregate without keys.
fn always_one_row(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Projection(p) => {
            !p.expr.iter().any(expr::has_subquery) && always_one_row(&p.input)
        }
        LogicalPlan::SubqueryAlias(a) => always_one_row(&a.input),
        LogicalPlan::Aggregate(a) => a.group_expr.is_empty(),
        LogicalPlan::EmptyRelation(e) => e.produce_one_row,
        _ => false,
    }
}
