//! What can't be maintained: queries whose answer isn't a function of their input alone.

use datafusion_common::tree_node::TreeNodeRecursion;
use datafusion_expr::{Expr, LogicalPlan, Volatility, WindowFunctionDefinition};

use super::Resolve;
use crate::catalog::RelationKind;
use crate::error::{Result, SqlError, from_datafusion};
use crate::tree::{PlanTree, Tree};

/// Functions of the statement's time. Stable functions besides these depend on the session.
const CLOCK: [&str; 11] = [
    "now",
    "current_date",
    "current_time",
    "current_timestamp",
    "localtime",
    "localtimestamp",
    "transaction_timestamp",
    "statement_timestamp",
    "clock_timestamp",
    "timeofday",
    "today",
];

/// Refuses plans that can't be maintained, with the reason and a hint.
pub(super) fn check(plan: &LogicalPlan, resolve: Resolve<'_>) -> Result<()> {
    let mut refused = None;
    plan.walk_all(&mut |node| {
        refused = refuse_node(node, resolve)?;
        Ok(match refused {
            Some(_) => TreeNodeRecursion::Stop,
            None => TreeNodeRecursion::Continue,
        })
    })
    .map_err(|e| from_datafusion(&e))?;
    refused.map_or(Ok(()), Err)
}

fn refuse_node(
    node: &LogicalPlan,
    resolve: Resolve<'_>,
) -> datafusion_common::Result<Option<SqlError>> {
    if let LogicalPlan::TableScan(scan) = node
        && let Some(relation) = resolve(scan)
        && relation.kind == RelationKind::System
    {
        return Ok(Some(
            SqlError::unsupported(format!(
                "system relation {}.{} can't be maintained",
                relation.schema, relation.name
            ))
            .hint("Query it with SELECT."),
        ));
    }
    let mut refused = None;
    for expr in node.expressions() {
        expr.walk(&mut |e| {
            refused = refuse_expr(e);
            Ok(match refused {
                Some(_) => TreeNodeRecursion::Stop,
                None => TreeNodeRecursion::Continue,
            })
        })?;
        if refused.is_some() {
            break;
        }
    }
    Ok(refused)
}

fn refuse_expr(expr: &Expr) -> Option<SqlError> {
    let (name, volatility) = match expr {
        Expr::ScalarFunction(f) => (f.name(), f.func.signature().volatility),
        Expr::AggregateFunction(f) => (f.func.name(), f.func.signature().volatility),
        Expr::WindowFunction(w) => match &w.fun {
            WindowFunctionDefinition::AggregateUDF(f) => (f.name(), f.signature().volatility),
            WindowFunctionDefinition::WindowUDF(f) => (f.name(), f.signature().volatility),
        },
        _ => return None,
    };
    if CLOCK.contains(&name) {
        return Some(clock(name));
    }
    match volatility {
        Volatility::Immutable => None,
        Volatility::Volatile => Some(volatile(name)),
        Volatility::Stable => Some(
            SqlError::unsupported(format!("{name}() can't be maintained: it depends on the session"))
                .hint("Write the value as a constant, or call the function in the SELECT that reads the view."),
        ),
    }
}

/// The refusal of a function of the current time.
pub(super) fn clock(name: &str) -> SqlError {
    SqlError::unsupported(format!(
        "{name}() can't be maintained: its value changes with time"
    ))
    .hint("Compare with a column that holds the time, or filter in the SELECT that reads the view.")
}

/// The refusal of a volatile function.
pub(super) fn asks(name: &str) -> SqlError {
    SqlError::unsupported(format!(
        "{name}() can't be maintained: it asks the session or the catalog"
    ))
    .hint("Write the value, or call the function in the SELECT that reads the view.")
}

pub(super) fn volatile(name: &str) -> SqlError {
    SqlError::unsupported(format!("{name}() can't be maintained: it is volatile"))
        .hint("Store the value in a table, or call the function in the SELECT that reads the view.")
}
