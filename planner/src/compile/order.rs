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
use datafusion_expr::logical_plan::{Filter, Limit, Sort, SubqueryAlias, Window};
use datafusion_expr::{
    Distinct, Expr, FetchType, LogicalPlan, Projection, SkipType, WindowFrameUnits, lit,
};
use datafusion_expr::{DistinctOn, WindowFrameBound, WindowFunctionDefinition};

use super::decorrelate::keys::honest;
use super::decorrelate::names::{free_columns, subquery_of};
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
    let plan = honest(plan)?;
    let prune = Optimizer::with_rules(vec![Arc::new(OptimizeProjections::new())]);
    let plan = prune.optimize(apart(plan)?, &OptimizerContext::new(), |_, _| {})?;
    total(without_true(plan)?)
}

/// The rule makes one of two projections, and then doesn't see which columns of the lower one a subquery in the upper one names.
/// So a filter that does nothing is put between them.
fn apart(plan: LogicalPlan) -> Result<LogicalPlan> {
    let correlated = |e: &Expr| {
        let found = &mut |e: &Expr| match subquery_of(e) {
            Some(subquery) => Ok(!free_columns(&subquery.subquery)?.is_empty()),
            None => Ok(false),
        };
        e.any(found)
    };
    let plan = plan.change_all_up(&mut |node| {
        let LogicalPlan::Projection(upper) = node else {
            return Ok(Transformed::no(node));
        };
        if !matches!(*upper.input, LogicalPlan::Projection(_)) {
            return Ok(Transformed::no(LogicalPlan::Projection(upper)));
        }
        for e in &upper.expr {
            if correlated(e)? {
                let input = Filter::try_new(lit(true), upper.input)?;
                let input = Arc::new(LogicalPlan::Filter(input));
                let upper = Projection::try_new_with_schema(upper.expr, input, upper.schema)?;
                return Ok(Transformed::yes(LogicalPlan::Projection(upper)));
            }
        }
        Ok(Transformed::no(LogicalPlan::Projection(upper)))
    })?;
    Ok(plan.data)
}

fn without_true(plan: LogicalPlan) -> Result<LogicalPlan> {
    let plan = plan.change_all_up(&mut |node| {
        Ok(match node {
            LogicalPlan::Filter(f) if f.predicate == lit(true) => {
                Transformed::yes(Arc::unwrap_or_clone(f.input))
            }
            node => Transformed::no(node),
        })
    })?;
    Ok(plan.data)
}

/// Whether there is any place where order decides.
fn has_order(plan: &LogicalPlan) -> Result<bool> {
    let mut found = false;
    plan.walk_all(&mut |node| {
        found |= match node {
            LogicalPlan::Limit(_) | LogicalPlan::Distinct(Distinct::On(_)) => true,
            LogicalPlan::Window(w) => w.window_expr.iter().any(looks_at_order),
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
        LogicalPlan::Window(window) if window.window_expr.iter().any(looks_at_order) => {
            Ok(Transformed::yes(ordered_window(window)?))
        }
        LogicalPlan::Aggregate(mut aggregate)
            if aggregate.aggr_expr.iter().any(is_ordered_aggregate) =>
        {
            let calls = aggregate.aggr_expr.into_iter();
            aggregate.aggr_expr = calls.map(ordered_aggregate).collect();
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

/// The same with an order.
pub(super) fn add_ties(sort: &mut Vec<SortExpr>, ties: &[SortExpr]) {
    for tie in ties {
        if !sort.iter().any(|s| unalias(&s.expr) == &tie.expr) {
            sort.push(tie.clone());
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
/// a node of their own, because all functions of a node share one order; if what they give depends on the order among
/// peers, their rows come to them in one.
fn ordered_window(window: Window) -> Result<LogicalPlan> {
    let columns = window.schema.columns();
    let (by_row, by_peers): (Vec<Expr>, Vec<Expr>) =
        window.window_expr.into_iter().partition(is_ordered_window);
    let mut plan = Arc::unwrap_or_clone(window.input);
    let mut ties = vec![];
    if let LogicalPlan::Sort(sort) = plan {
        // The order that the rows have of their own, or what came of it at an earlier time.
        (plan, ties) = (Arc::unwrap_or_clone(sort.input), sort.expr);
    }
    break_ties(&mut ties, told_apart(plan.schema()));
    if let Some(call) = by_peers.iter().find(|e| is_ordered_among_peers(e)) {
        plan = kept_sort(plan, order_of(call, &ties));
    }
    if !by_peers.is_empty() {
        plan = LogicalPlan::Window(Window::try_new(by_peers, Arc::new(plan))?);
    }
    if !by_row.is_empty() {
        let by_row = by_row.into_iter();
        let by_row = by_row.map(|e| ordered_window_function(e, &ties)).collect();
        plan = LogicalPlan::Window(Window::try_new(by_row, Arc::new(plan))?);
    }
    let same = plan.schema().columns() == columns;
    match same {
        true => Ok(plan),
        false => {
            let columns = columns.into_iter().map(Expr::Column).collect();
            let chosen = Projection::try_new(columns, Arc::new(plan))?;
            Ok(LogicalPlan::Projection(chosen))
        }
    }
}

/// A sort below a window. DataFusion takes one out that orders more than the window asks for, but none that takes the first rows.
pub(super) fn kept_sort(plan: LogicalPlan, expr: Vec<SortExpr>) -> LogicalPlan {
    LogicalPlan::Sort(Sort {
        expr,
        input: Arc::new(plan),
        fetch: Some(KEPT),
    })
}

const KEPT: usize = i64::MAX as usize;

/// A sort that [`kept_sort`] has made.
pub(super) fn is_kept_sort(sort: &Sort) -> bool {
    sort.fetch == Some(KEPT)
}

/// The order in which a window function gets its rows, and among its peers that of `ties`.
fn order_of(call: &Expr, ties: &[SortExpr]) -> Vec<SortExpr> {
    let mut order = vec![];
    if let Expr::WindowFunction(w) = unalias(call) {
        order.extend(w.params.partition_by.iter().cloned().map(ascending));
        order.extend(w.params.order_by.clone());
    }
    add_ties(&mut order, ties);
    order
}

fn ordered_window_function(e: Expr, ties: &[SortExpr]) -> Expr {
    let name = e.schema_name().to_string();
    let Expr::WindowFunction(w) = unalias(&e) else {
        return e;
    };
    let mut w = w.clone();
    let partition = &w.params.partition_by;
    let apart = ties.iter().filter(|tie| !partition.contains(&tie.expr));
    let apart: Vec<SortExpr> = apart.cloned().collect();
    add_ties(&mut w.params.order_by, &apart);
    Expr::WindowFunction(w).alias(name)
}

/// Whether the order of rows that ORDER BY leaves equal matters.
fn looks_at_order(e: &Expr) -> bool {
    is_ordered_window(e) || is_ordered_among_peers(e)
}

/// True where it does and more ORDER BY columns would change which rows are peers.
pub(super) fn is_ordered_among_peers(e: &Expr) -> bool {
    let Expr::WindowFunction(w) = unalias(e) else {
        return false;
    };
    let name = w.fun.name();
    let by_order = matches!(name, "first_value" | "last_value" | "nth_value")
        || name.starts_with(OVER_FRAME)
        || ORDERED_AGGREGATES.contains(&name);
    by_order && !is_ordered_window(e)
}

/// True where the result depends on the order of equal rows and more ORDER BY columns change nothing else:
/// the function numbers rows, or its frame is bounded by rows or by the partition.
pub(super) fn is_ordered_window(e: &Expr) -> bool {
    let Expr::WindowFunction(w) = unalias(e) else {
        return false;
    };
    let frame = &w.params.window_frame;
    let rows = frame.units == WindowFrameUnits::Rows;
    let from_start = matches!(&frame.start_bound, WindowFrameBound::Preceding(n) if n.is_null());
    let to_end = matches!(&frame.end_bound, WindowFrameBound::Following(n) if n.is_null());
    match w.fun.name() {
        "row_number" | "ntile" | "lag" | "lead" => true,
        // More peer groups would have the frame end before others of them.
        "first_value" => {
            let ends_before =
                matches!(&frame.end_bound, WindowFrameBound::Preceding(n) if !n.is_null());
            rows || from_start && !ends_before
        }
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

pub(super) fn is_ordered_aggregate(e: &Expr) -> bool {
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
