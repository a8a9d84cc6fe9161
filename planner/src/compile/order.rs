//! One total order wherever order decides a result.
//!
//! A collection is a multiset: a query whose answer depends on which of two equal rows comes first would
//! flicker as a view and differ from the same SELECT. So `LIMIT`, `DISTINCT ON`, window functions and aggregates
//! like `array_agg` break ties by all columns (or all arguments). SELECT and views follow the same rule.

use std::sync::Arc;

use datafusion_common::Result;
use datafusion_common::tree_node::Transformed;
use datafusion_expr::expr::Sort as SortExpr;
use datafusion_expr::logical_plan::{Limit, Sort, SubqueryAlias, Window};
use datafusion_expr::{
    Distinct, Expr, FetchType, LogicalPlan, Projection, SkipType, WindowFrameUnits,
};
use datafusion_expr::{DistinctOn, WindowFunctionDefinition};

use super::expr::unalias;

/// Aggregates whose result depends on the order of their input.
const ORDERED_AGGREGATES: [&str; 10] = [
    "array_agg",
    "string_agg",
    "first_value",
    "last_value",
    "nth_value",
    "json_agg",
    "jsonb_agg",
    "json_object_agg",
    "jsonb_object_agg",
    "xmlagg",
];

/// Window functions that give equal rows equal results.
const PEER_FUNCTIONS: [&str; 4] = ["rank", "dense_rank", "percent_rank", "cume_dist"];

/// `plan` with its order made total where it matters. Output columns keep their names.
pub fn canonical(plan: LogicalPlan) -> Result<LogicalPlan> {
    plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Limit(limit) if !limits_nothing(&limit) => {
            let input = Arc::unwrap_or_clone(limit.input);
            let input = Arc::new(sorted(input)?);
            Ok(Transformed::yes(LogicalPlan::Limit(Limit {
                input,
                ..limit
            })))
        }
        LogicalPlan::Window(window) if window.window_expr.iter().any(is_ordered_window) => Ok(
            Transformed::yes(LogicalPlan::Window(sorted_window(window)?)),
        ),
        LogicalPlan::Aggregate(mut aggregate)
            if aggregate.aggr_expr.iter().any(is_ordered_aggregate) =>
        {
            aggregate.aggr_expr = aggregate
                .aggr_expr
                .into_iter()
                .map(ordered_aggregate)
                .collect();
            Ok(Transformed::yes(LogicalPlan::Aggregate(aggregate)))
        }
        LogicalPlan::Distinct(Distinct::On(on)) => {
            let mut sort = on.sort_expr.clone().unwrap_or_default();
            if sort.is_empty() {
                sort = on.on_expr.iter().cloned().map(ascending).collect();
            }
            break_ties(&mut sort, &on.input);
            Ok(Transformed::yes(LogicalPlan::Distinct(Distinct::On(
                DistinctOn {
                    sort_expr: Some(sort),
                    ..on
                },
            ))))
        }
        node => Ok(Transformed::no(node)),
    })
    .map(|t| t.data)
}

/// True for `LIMIT ALL OFFSET 0`.
pub(super) fn limits_nothing(limit: &Limit) -> bool {
    matches!(limit.get_fetch_type(), Ok(FetchType::Literal(None)))
        && matches!(limit.get_skip_type(), Ok(SkipType::Literal(0)))
}

/// Whether the rows of `plan` come in an order that its parent relies on.
pub(super) fn is_sorted(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Sort(_) => true,
        LogicalPlan::Projection(p) => is_sorted(&p.input),
        LogicalPlan::SubqueryAlias(a) => is_sorted(&a.input),
        _ => false,
    }
}

fn ascending(e: Expr) -> SortExpr {
    SortExpr::new(e, true, false)
}

/// Appends all columns of `input` that `sort` doesn't name.
fn break_ties(sort: &mut Vec<SortExpr>, input: &LogicalPlan) {
    for column in input.schema().columns() {
        let column = Expr::Column(column);
        if !sort.iter().any(|s| unalias(&s.expr) == &column) {
            sort.push(ascending(column));
        }
    }
}

/// The sort under `plan` made total, or a new one.
fn sorted(plan: LogicalPlan) -> Result<LogicalPlan> {
    Ok(match plan {
        LogicalPlan::Sort(mut sort) => {
            break_ties(&mut sort.expr, &sort.input);
            LogicalPlan::Sort(sort)
        }
        LogicalPlan::Projection(p) if is_sorted(&p.input) => {
            let input = Arc::new(sorted(Arc::unwrap_or_clone(p.input))?);
            LogicalPlan::Projection(Projection::try_new_with_schema(p.expr, input, p.schema)?)
        }
        LogicalPlan::SubqueryAlias(a) if is_sorted(&a.input) => {
            let input = Arc::new(sorted(Arc::unwrap_or_clone(a.input))?);
            LogicalPlan::SubqueryAlias(SubqueryAlias::try_new(input, a.alias)?)
        }
        input => {
            let mut expr = vec![];
            break_ties(&mut expr, &input);
            match expr.is_empty() {
                true => input,
                false => LogicalPlan::Sort(Sort {
                    expr,
                    input: Arc::new(input),
                    fetch: None,
                }),
            }
        }
    })
}

/// Sorts the input by partition, order and then everything: the window operator needs the first two
/// anyway, and leaves equal rows in the order in which they come.
fn sorted_window(window: Window) -> Result<Window> {
    let mut expr: Vec<SortExpr> = vec![];
    if let Some(Expr::WindowFunction(w)) = window.window_expr.first().map(unalias) {
        for e in &w.params.partition_by {
            if !expr.iter().any(|s| s.expr == *e) {
                expr.push(ascending(e.clone()));
            }
        }
        for s in &w.params.order_by {
            if !expr.iter().any(|have| have.expr == s.expr) {
                expr.push(s.clone());
            }
        }
    }
    break_ties(&mut expr, &window.input);
    let input = match Arc::unwrap_or_clone(window.input) {
        LogicalPlan::Sort(sort) if sort.fetch.is_none() => sort.input,
        input => Arc::new(input),
    };
    let input = Arc::new(LogicalPlan::Sort(Sort {
        expr,
        input,
        fetch: None,
    }));
    Ok(Window { input, ..window })
}

fn is_ordered_window(e: &Expr) -> bool {
    let Expr::WindowFunction(w) = unalias(e) else {
        return false;
    };
    match &w.fun {
        WindowFunctionDefinition::WindowUDF(f) => !PEER_FUNCTIONS.contains(&f.name()),
        WindowFunctionDefinition::AggregateUDF(f) => {
            ORDERED_AGGREGATES.contains(&f.name())
                || w.params.window_frame.units == WindowFrameUnits::Rows
        }
    }
}

fn is_ordered_aggregate(e: &Expr) -> bool {
    matches!(unalias(e), Expr::AggregateFunction(f) if ORDERED_AGGREGATES.contains(&f.func.name()))
}

/// The aggregate with ties broken by its arguments: rows that agree in them are alike to it.
fn ordered_aggregate(e: Expr) -> Expr {
    let name = e.schema_name().to_string();
    match unalias(&e) {
        Expr::AggregateFunction(f) if is_ordered_aggregate(&e) => {
            let mut f = f.clone();
            for argument in f.params.args.clone() {
                let constant = matches!(unalias(&argument), Expr::Literal(..));
                if !constant && !f.params.order_by.iter().any(|s| s.expr == argument) {
                    f.params.order_by.push(ascending(argument));
                }
            }
            Expr::AggregateFunction(f).alias(name)
        }
        _ => e,
    }
}
