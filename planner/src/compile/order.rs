//! One total order wherever order decides a result.
//!
//! A collection is a multiset: a query whose answer depends on which of two equal rows comes first would
//! flicker as a view and differ from the same SELECT. So `LIMIT`, `DISTINCT ON`, window functions and aggregates
//! like `array_agg` break ties by all columns (or all arguments). SELECT and views follow the same rule.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::optimizer::optimize_projections::OptimizeProjections;
use datafusion::optimizer::{Optimizer, OptimizerContext};
use datafusion_common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion_common::{Column, DFSchema, Result};
use datafusion_expr::expr::Sort as SortExpr;
use datafusion_expr::logical_plan::{Limit, Sort, SubqueryAlias, Window};
use datafusion_expr::{
    Distinct, Expr, FetchType, LogicalPlan, Projection, SkipType, WindowFrameUnits,
};
use datafusion_expr::{DistinctOn, WindowFrameBound, WindowFunctionDefinition};

use super::expr::unalias;
use crate::functions::rows;
use crate::functions::windows::OVER_FRAME;
use crate::tree::{PlanTree, Tree};

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

/// `plan` with its order made total where it matters. Output columns keep their names. Columns that nobody
/// needs are taken out first: rows that differ only in them are alike.
pub fn canonical(plan: LogicalPlan) -> Result<LogicalPlan> {
    if !has_order(&plan)? {
        return Ok(plan);
    }
    let prune = Optimizer::with_rules(vec![Arc::new(OptimizeProjections::new())]);
    let plan = prune.optimize(plan, &OptimizerContext::new(), |_, _| {})?;
    total(plan)
}

/// Whether there is any place where order decides.
fn has_order(plan: &LogicalPlan) -> Result<bool> {
    let mut found = false;
    plan.walk_all(&mut |node| {
        found |= match node {
            LogicalPlan::Limit(_) | LogicalPlan::Distinct(Distinct::On(_)) => true,
            LogicalPlan::Window(w) => w.window_expr.iter().any(is_ordered_window),
            LogicalPlan::Aggregate(a) => a.aggr_expr.iter().any(is_ordered_aggregate),
            _ => false,
        };
        Ok(match found {
            true => TreeNodeRecursion::Stop,
            false => TreeNodeRecursion::Continue,
        })
    })?;
    Ok(found)
}

fn total(plan: LogicalPlan) -> Result<LogicalPlan> {
    plan.change_all_up(&mut |node| match node {
        LogicalPlan::Limit(limit) if !limits_nothing(&limit) => {
            let input = Arc::unwrap_or_clone(limit.input);
            let input = Arc::new(sorted(input)?);
            Ok(Transformed::yes(LogicalPlan::Limit(Limit {
                input,
                ..limit
            })))
        }
        LogicalPlan::Window(window) if window.window_expr.iter().any(is_ordered_window) => {
            Ok(Transformed::yes(ordered_window(window)?))
        }
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
            let used = on.select_expr.iter().flat_map(|e| e.column_refs());
            let columns: Vec<Column> = on.input.schema().columns();
            let used: HashSet<Column> = used.cloned().collect();
            let ties = columns.into_iter().filter(|c| used.contains(c));
            break_ties(&mut sort, ties.map(Expr::Column));
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

/// Columns of the schema, by which rows are told apart.
fn told_apart(schema: &DFSchema) -> Vec<Expr> {
    let columns = schema.columns().into_iter().map(Expr::Column);
    let fields = schema.fields().iter();
    columns
        .zip(fields)
        .map(|(column, field)| match field.data_type() {
            of @ DataType::Struct(_) => rows::key(column, of),
            _ => column,
        })
        .collect()
}

/// Appends those of `columns` that `sort` doesn't name.
fn break_ties(sort: &mut Vec<SortExpr>, columns: impl IntoIterator<Item = Expr>) {
    for column in columns {
        if !sort.iter().any(|s| unalias(&s.expr) == &column) {
            sort.push(ascending(column));
        }
    }
}

/// Whether the rows of `plan` are those of a recursive query as it finds them, round by round. LIMIT takes the first of them,
/// because there may be no last one.
pub(crate) fn by_rounds(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::RecursiveQuery(_) => true,
        LogicalPlan::Projection(p) => by_rounds(&p.input),
        LogicalPlan::Filter(f) => by_rounds(&f.input),
        LogicalPlan::SubqueryAlias(a) => by_rounds(&a.input),
        _ => false,
    }
}

/// The plan, of which [`by_rounds`] is true, with the rows of each round in order.
fn rounds_sorted(plan: LogicalPlan) -> Result<LogicalPlan> {
    if let LogicalPlan::RecursiveQuery(mut query) = plan {
        let in_order = |term: Arc<LogicalPlan>| sorted(Arc::unwrap_or_clone(term)).map(Arc::new);
        query.static_term = in_order(query.static_term)?;
        query.recursive_term = in_order(query.recursive_term)?;
        return Ok(LogicalPlan::RecursiveQuery(query));
    }
    plan.change_children(&mut |input| rounds_sorted(input).map(Transformed::yes))
        .map(|t| t.data)
}

/// The sort under `plan` made total, or a new one.
fn sorted(plan: LogicalPlan) -> Result<LogicalPlan> {
    Ok(match plan {
        plan if by_rounds(&plan) => rounds_sorted(plan)?,
        LogicalPlan::Sort(mut sort) => {
            break_ties(&mut sort.expr, told_apart(sort.input.schema()));
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
            break_ties(&mut expr, told_apart(input.schema()));
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

/// Breaks ties in the ORDER BY of window functions that count rows. Those that look at peers stay as they are, in
/// a node of their own, because all functions of a node share one order.
fn ordered_window(window: Window) -> Result<LogicalPlan> {
    let columns = window.schema.columns();
    let (by_row, by_peers): (Vec<Expr>, Vec<Expr>) =
        window.window_expr.into_iter().partition(is_ordered_window);
    let mixed = !by_peers.is_empty();
    let ties = told_apart(window.input.schema());
    let input = match mixed {
        true => Arc::new(LogicalPlan::Window(Window::try_new(
            by_peers,
            window.input,
        )?)),
        false => window.input,
    };
    let by_row = by_row
        .into_iter()
        .map(|e| ordered_window_function(e, &ties))
        .collect();
    let window = LogicalPlan::Window(Window::try_new(by_row, input)?);
    if !mixed {
        return Ok(window);
    }
    let columns = columns.into_iter().map(Expr::Column).collect();
    Ok(LogicalPlan::Projection(Projection::try_new(
        columns,
        Arc::new(window),
    )?))
}

fn ordered_window_function(e: Expr, ties: &[Expr]) -> Expr {
    let name = e.schema_name().to_string();
    let Expr::WindowFunction(w) = unalias(&e) else {
        return e;
    };
    let mut w = w.clone();
    let partition = w.params.partition_by.clone();
    let ties = ties.iter().filter(|tie| !partition.contains(tie));
    break_ties(&mut w.params.order_by, ties.cloned());
    Expr::WindowFunction(w).alias(name)
}

/// True where the result depends on the order of equal rows and more ORDER BY columns change nothing else:
/// the function numbers rows, or its frame is bounded by rows or by the partition.
fn is_ordered_window(e: &Expr) -> bool {
    let Expr::WindowFunction(w) = unalias(e) else {
        return false;
    };
    let frame = &w.params.window_frame;
    let rows = frame.units == WindowFrameUnits::Rows;
    let from_start = matches!(&frame.start_bound, WindowFrameBound::Preceding(n) if n.is_null());
    let to_end = matches!(&frame.end_bound, WindowFrameBound::Following(n) if n.is_null());
    match w.fun.name() {
        "row_number" | "ntile" | "lag" | "lead" => true,
        "first_value" => rows || from_start,
        "last_value" | "nth_value" => rows || from_start && to_end,
        // What EXCLUDE leaves out is told by its own copy of the keys.
        name if name.starts_with(OVER_FRAME) => rows || from_start && to_end,
        name if ORDERED_AGGREGATES.contains(&name) => rows,
        _ => {
            rows && !(from_start && to_end)
                && matches!(w.fun, WindowFunctionDefinition::AggregateUDF(_))
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
