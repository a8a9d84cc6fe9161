//! Conditions: AND, OR and CASE that evaluate no more than SQL does.
//!
//! Invariant: an operand that can fail is never evaluated for a row that the operands before it have decided.

use datafusion_common::ScalarValue;
use datafusion_expr::expr::{Case, ScalarFunction};
use datafusion_expr::{BinaryExpr, Expr, Operator};

use super::{literal, truth};
use crate::functions::Function;
use crate::tree::Tree;

/// True if evaluating the expression can fail for some input.
pub(crate) fn is_fallible(e: &Expr) -> bool {
    use datafusion_common::tree_node::TreeNodeRecursion;
    let mut found = false;
    let _ = e.walk(&mut |e| {
        if let Expr::ScalarFunction(ScalarFunction { func, .. }) = e {
            let inner: &dyn std::any::Any = func.inner().as_ref();
            found |= inner.downcast_ref::<Function>().is_none_or(|f| f.fallible);
        }
        Ok(if found {
            TreeNodeRecursion::Stop
        } else {
            TreeNodeRecursion::Continue
        })
    });
    found
}

/// `l AND r`, where `r` isn't evaluated for rows in which `l` is false.
pub(crate) fn and(l: Expr, r: Expr) -> Expr {
    chain(vec![l, r], Operator::And)
}

/// `l OR r`, where `r` isn't evaluated for rows in which `l` is true.
pub(crate) fn or(l: Expr, r: Expr) -> Expr {
    chain(vec![l, r], Operator::Or)
}

/// A chain of ANDs or ORs. Each operand occurs at most twice, however long the chain is.
pub(crate) fn chain(operands: Vec<Expr>, op: Operator) -> Expr {
    let lazily = operands.iter().skip(1).any(is_fallible);
    let last = operands.len().saturating_sub(1);
    let branches = operands[..last]
        .iter()
        .map(|e| match op {
            Operator::And => (Expr::IsFalse(Box::new(e.clone())), truth(false)),
            _ => (Expr::IsTrue(Box::new(e.clone())), truth(true)),
        })
        .collect::<Vec<_>>();
    let all = balanced(operands, op);
    if lazily { lazy(branches, all) } else { all }
}

/// One tree of the operands, as flat as can be: whatever walks it needs little stack.
pub(crate) fn balanced(mut operands: Vec<Expr>, op: Operator) -> Expr {
    while operands.len() > 1 {
        let mut next = Vec::with_capacity(operands.len().div_ceil(2));
        let mut it = operands.into_iter();
        while let Some(l) = it.next() {
            next.push(match it.next() {
                Some(r) => Expr::BinaryExpr(BinaryExpr::new(Box::new(l), op, Box::new(r))),
                None => l,
            });
        }
        operands = next;
    }
    operands.pop().unwrap_or_else(|| truth(op == Operator::And))
}

/// CASE WHEN … ELSE … END
pub(crate) fn when(branches: Vec<(Expr, Expr)>, otherwise: Expr) -> Expr {
    Expr::Case(Case::new(
        None,
        branches
            .into_iter()
            .map(|(c, r)| (Box::new(c), Box::new(r)))
            .collect(),
        Some(Box::new(otherwise)),
    ))
}

/// A CASE that gives a boolean and stays a CASE: DataFusion would make AND and OR of it, which evaluate everything.
pub(crate) fn lazy(branches: Vec<(Expr, Expr)>, otherwise: Expr) -> Expr {
    let number = |e: Expr| {
        Expr::Cast(datafusion_expr::Cast::new(
            Box::new(e),
            arrow::datatypes::DataType::Int32,
        ))
    };
    let branches = branches.into_iter().map(|(c, r)| (c, number(r))).collect();
    let one = literal(ScalarValue::Int32(Some(1)));
    Expr::BinaryExpr(BinaryExpr::new(
        Box::new(when(branches, number(otherwise))),
        Operator::Eq,
        Box::new(one),
    ))
}

/// NOT
pub(crate) fn not(e: Expr) -> Expr {
    Expr::Not(Box::new(e))
}
