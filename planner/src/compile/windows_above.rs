//! Windows above windows: rows that one window has put in order keep it for those above that ask for no more.
//!
//! `sum(n) OVER (… ROWS …)` over a subquery that finds `n` by `lag` is how sessions are numbered by hand. Which of two rows with equal
//! keys comes first must be the same for both, or a session would begin at its second row. PostgreSQL sorts such rows once;
//! here the window below also numbers them, and the one above breaks ties by that number.

use std::sync::Arc;

use datafusion_common::tree_node::Transformed;
use datafusion_common::{Column, DFSchema, Result};
use datafusion_expr::expr::{Sort, WindowFunction};
use datafusion_expr::logical_plan::{Filter, SubqueryAlias, Window};
use datafusion_expr::{Expr, LogicalPlan, Projection};

use super::expr::unalias;
use super::order::is_ordered_window;
use crate::bind::lateral::row_number;
use crate::tree::Tree;

/// Prefix of the names of the numbers' columns.
const NUMBER: &str = "number#";

/// Breaks the ties of `calls`, those that depend on the order of equal rows, by the order of a window in `plan` that sorts by the same keys.
/// The plan gets columns behind its own.
pub(crate) fn as_below<T>(mut plan: LogicalPlan, calls: &mut [(Expr, T)]) -> Result<LogicalPlan> {
    let mut known: Vec<(Vec<Expr>, Option<Column>)> = Vec::new();
    for (call, _) in calls.iter_mut().filter(|(e, _)| is_ordered_window(e)) {
        let Expr::WindowFunction(w) = call else {
            continue;
        };
        let keys = keys_of(w);
        let number = match known.iter().find(|(of, _)| *of == keys) {
            Some((_, number)) => number.clone(),
            None => {
                let number;
                (plan, number) = numbered(plan, keys.clone())?;
                known.push((keys, number.clone()));
                number
            }
        };
        if let Some(number) = number {
            w.params.order_by.push(ascending(number));
        }
    }
    Ok(plan)
}

fn keys_of(w: &WindowFunction) -> Vec<Expr> {
    let order = w.params.order_by.iter().map(|s| &s.expr);
    w.params.partition_by.iter().chain(order).cloned().collect()
}

fn ascending(column: Column) -> Sort {
    Sort::new(Expr::Column(column), true, false)
}

/// The plan, and the column in which a window of it that sorts by `keys` numbers its rows; `None`: there is no such window.
fn numbered(plan: LogicalPlan, keys: Vec<Expr>) -> Result<(LogicalPlan, Option<Column>)> {
    Ok(match plan {
        LogicalPlan::Window(mut window) => {
            let mut alike = vec![];
            for e in &window.window_expr {
                if let Expr::WindowFunction(w) = unalias(e)
                    && is_ordered_window(e)
                    && sorts_by(w, &keys, &window.input)?
                {
                    alike.push(e);
                }
            }
            alike.sort_by_key(|e| !is_row_number(e));
            match alike.first().map(|e| (e, unalias(e))) {
                Some((call, _)) if is_row_number(call) => {
                    let number = Column::new_unqualified(call.schema_name().to_string());
                    (LogicalPlan::Window(window), Some(number))
                }
                Some((_, Expr::WindowFunction(w))) => {
                    let name = new_name(&window.schema);
                    let params = &w.params;
                    let number = row_number(params.partition_by.clone(), params.order_by.clone());
                    window.window_expr.push(number.alias(&name));
                    let window = Window::try_new(window.window_expr, window.input)?;
                    let number = Column::new_unqualified(name);
                    (LogicalPlan::Window(window), Some(number))
                }
                _ => {
                    let (input, number) = numbered(Arc::unwrap_or_clone(window.input), keys)?;
                    let window = Window::try_new(window.window_expr, Arc::new(input))?;
                    (LogicalPlan::Window(window), number)
                }
            }
        }
        LogicalPlan::Filter(filter) => {
            let (input, number) = numbered(Arc::unwrap_or_clone(filter.input), keys)?;
            let filter = Filter::try_new(filter.predicate, Arc::new(input))?;
            (LogicalPlan::Filter(filter), number)
        }
        LogicalPlan::SubqueryAlias(alias) => {
            let below = alias.input.schema().columns();
            let below: Vec<Expr> = below.into_iter().map(Expr::Column).collect();
            let keys = in_terms_of(keys, &alias.schema, &below)?;
            let (input, number) = numbered(Arc::unwrap_or_clone(alias.input), keys)?;
            let alias = SubqueryAlias::try_new(Arc::new(input), alias.alias)?;
            let number = number.map(|n| Column::new(Some(alias.alias.clone()), n.name));
            (LogicalPlan::SubqueryAlias(alias), number)
        }
        LogicalPlan::Projection(Projection {
            mut expr,
            input,
            schema,
            ..
        }) => {
            let keys = in_terms_of(keys, &schema, &expr)?;
            let (input, number) = numbered(Arc::unwrap_or_clone(input), keys)?;
            let input = Arc::new(input);
            match number {
                Some(number) => {
                    let name = new_name(&schema);
                    expr.push(Expr::Column(number).alias(&name));
                    let plan = Projection::try_new(expr, input)?;
                    let number = Column::new_unqualified(name);
                    (LogicalPlan::Projection(plan), Some(number))
                }
                None => {
                    let plan = Projection::try_new_with_schema(expr, input, schema)?;
                    (LogicalPlan::Projection(plan), None)
                }
            }
        }
        plan => (plan, None),
    })
}

fn is_row_number(e: &Expr) -> bool {
    matches!(unalias(e), Expr::WindowFunction(w) if w.fun.name() == "row_number")
}

/// Whether rows with equal `keys` lie side by side in the order of `w`, and in one partition of it: the keys are its partition's and the first
/// of its order's, in any order. Some of its keys may be computed just below.
fn sorts_by(w: &WindowFunction, keys: &[Expr], input: &LogicalPlan) -> Result<bool> {
    let below = |exprs: Vec<Expr>| match input {
        LogicalPlan::Projection(p) => in_terms_of(exprs, &p.schema, &p.expr),
        _ => Ok(exprs),
    };
    let keys = below(keys.to_vec())?;
    let partition = below(w.params.partition_by.clone())?;
    let order = below(w.params.order_by.iter().map(|s| s.expr.clone()).collect())?;
    let mut rest: Vec<&Expr> = keys.iter().filter(|k| !partition.contains(k)).collect();
    let mut order = order.iter();
    while !rest.is_empty() {
        match order.next() {
            Some(key) if rest.contains(&key) => rest.retain(|k| *k != key),
            _ => return Ok(false),
        }
    }
    Ok(partition.iter().all(|p| keys.contains(p)))
}

/// `keys` over a node with `schema`, whose columns are `below`, in terms of its input.
pub(super) fn in_terms_of(keys: Vec<Expr>, schema: &DFSchema, below: &[Expr]) -> Result<Vec<Expr>> {
    let below_one = |e: Expr| {
        Ok(match &e {
            Expr::Column(c) => match schema.maybe_index_of_column(c) {
                Some(i) => Transformed::yes(unalias(&below[i]).clone()),
                None => Transformed::no(e),
            },
            _ => Transformed::no(e),
        })
    };
    let keys = keys.into_iter();
    keys.map(|key| Ok(key.change_up(&mut { below_one })?.data))
        .collect()
}

/// A name that no column has.
fn new_name(schema: &DFSchema) -> String {
    let taken = |name: &String| schema.fields().iter().any(|f| f.name() == name);
    let mut made = (1..).map(|n| format!("{NUMBER}{n}"));
    made.find(|name| !taken(name)).unwrap_or_default()
}
