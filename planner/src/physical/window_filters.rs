//! Filters of window functions, which DataFusion keeps to itself.

use datafusion_common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion_common::{Result, ScalarValue};
use datafusion_expr::{Case, Expr, LogicalPlan, Window, WindowFunctionDefinition};

use crate::functions::aggregate::skips_nulls;
use crate::tree::PlanTree;

/// The plan with NULL for the argument of those rows that the filter of a window function leaves out, where the function skips NULLs.
pub(crate) fn without_filters(plan: &LogicalPlan) -> Result<LogicalPlan> {
    let mut filtered = false;
    plan.walk_all(&mut |node| {
        if let LogicalPlan::Window(w) = node {
            filtered |= w.window_expr.iter().any(|e| unfiltered(e).is_some());
        }
        Ok(match filtered {
            true => TreeNodeRecursion::Stop,
            false => TreeNodeRecursion::Continue,
        })
    })?;
    if !filtered {
        return Ok(plan.clone());
    }
    let plan = plan.clone().change_all_up(&mut |node| {
        let LogicalPlan::Window(w) = node else {
            return Ok(Transformed::no(node));
        };
        let exprs = w.window_expr.into_iter();
        let exprs = exprs.map(|e| unfiltered(&e).unwrap_or(e)).collect();
        let window = Window::try_new_with_schema(exprs, w.input, w.schema)?;
        Ok(Transformed::yes(LogicalPlan::Window(window)))
    })?;
    Ok(plan.data)
}

/// The expression without its filter, under its name.
fn unfiltered(e: &Expr) -> Option<Expr> {
    let Expr::WindowFunction(w) = e.clone().unalias_nested().data else {
        return None;
    };
    let mut w = *w;
    let WindowFunctionDefinition::AggregateUDF(function) = &w.fun else {
        return None;
    };
    let filter = w.params.filter.take()?;
    let (first, true) = (w.params.args.first_mut()?, skips_nulls(function.name())) else {
        return None;
    };
    let value = std::mem::replace(first, Expr::Literal(ScalarValue::Null, None));
    *first = Expr::Case(Case {
        expr: None,
        when_then_expr: vec![(filter, Box::new(value))],
        else_expr: None,
    });
    let name = e.schema_name().to_string();
    Some(Expr::WindowFunction(Box::new(w)).alias(name))
}
