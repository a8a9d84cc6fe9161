//! Expressions: from logical to physical, and what the compiler asks of them.

use std::sync::Arc;

use arrow::datatypes::{DataType, Schema};
use datafusion_common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion_common::{DFSchema, Result};
use datafusion_expr::execution_props::ExecutionProps;
use datafusion_expr::{Expr, Operator};
use datafusion_physical_expr::expressions::{BinaryExpr, Column, Literal, cast};
use datafusion_physical_expr::{PhysicalExpr, create_physical_expr};

use crate::functions::json_members;
use crate::tree::Tree;

/// A compiled expression.
pub(crate) type Physical = Arc<dyn PhysicalExpr>;

/// `expr` over rows of `schema`; column numbers are positions in it.
pub(crate) fn physical(expr: &Expr, schema: &DFSchema) -> Result<Physical> {
    create_physical_expr(expr, schema, &ExecutionProps::new(), &Default::default())
}

/// All of `exprs`.
pub(super) fn physicals(exprs: &[Expr], schema: &DFSchema) -> Result<Vec<Physical>> {
    exprs.iter().map(|e| physical(e, schema)).collect()
}

/// Column `i` of `schema`.
pub(super) fn column(schema: &Schema, i: usize) -> Physical {
    Arc::new(Column::new(schema.field(i).name(), i))
}

/// The column number, if that is all there is.
pub(super) fn as_column(expr: &Physical) -> Option<usize> {
    expr.downcast_ref::<Column>().map(Column::index)
}

/// `expr`, cast unless it has the type already.
pub(super) fn cast_to(expr: Physical, schema: &Schema, to: &DataType) -> Result<Physical> {
    if expr.data_type(schema)? == *to {
        return Ok(expr);
    }
    cast(expr, schema, to.clone())
}

/// Both conditions.
pub(super) fn and(a: Option<Physical>, b: Option<Physical>) -> Option<Physical> {
    match (a, b) {
        (Some(a), Some(b)) => Some(Arc::new(BinaryExpr::new(a, Operator::And, b))),
        (a, b) => a.or(b),
    }
}

/// `expr` with every column `i` replaced by `by[i]`.
pub(super) fn substitute(expr: &Physical, by: &[Physical]) -> Physical {
    Arc::clone(expr)
        .change_up(&mut |e| {
            Ok(match as_column(&e) {
                Some(i) => Transformed::yes(Arc::clone(&by[i])),
                None => Transformed::no(e),
            })
        })
        .expect("replacing columns can't fail")
        .data
}

/// Adds one to `counts[i]` for every place where `expr` names column `i`.
pub(super) fn count_columns(expr: &Physical, counts: &mut [usize]) {
    expr.walk(&mut |e| {
        if let Some(i) = as_column(e) {
            counts[i] += 1;
        }
        Ok(TreeNodeRecursion::Continue)
    })
    .expect("counting can't fail");
}

/// Whether the expressions have no more than `max` parts together.
pub(super) fn has_few_parts<'e>(exprs: impl Iterator<Item = &'e Physical>, max: usize) -> bool {
    let mut parts = 0;
    for e in exprs {
        e.walk(&mut |_| {
            parts += 1;
            Ok(match parts > max {
                true => TreeNodeRecursion::Stop,
                false => TreeNodeRecursion::Continue,
            })
        })
        .expect("counting can't fail");
    }
    parts <= max
}

/// Costs nothing to evaluate twice. Members of JSON values are taken once in the end, see `members`.
pub(super) fn is_trivial(expr: &Physical) -> bool {
    match json_members::access(expr) {
        Some(access) => is_trivial(access.value),
        None => expr.is::<Column>() || expr.is::<Literal>(),
    }
}

/// True if there is a subquery, or a reference to the row of an outer query, in `expr`.
pub(crate) fn has_subquery(expr: &Expr) -> bool {
    expr.any(&mut |e| {
        Ok(matches!(
            e,
            Expr::ScalarSubquery(_)
                | Expr::Exists(_)
                | Expr::InSubquery(_)
                | Expr::SetComparison(_)
                | Expr::OuterReferenceColumn(..)
        ))
    })
    .expect("looking can't fail")
}

/// The expression under its aliases.
pub(crate) fn unalias(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => unalias(&alias.expr),
        e => e,
    }
}
