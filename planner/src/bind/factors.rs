//! Equalities that all branches of an OR ask for.
//!
//! `(a = b AND x) OR (a = b AND y)` is `a = b AND (x OR y)`, and only so does a join find its rows by `a = b`: an OR of branches
//! that can fail is evaluated as a whole, row by row.

use std::borrow::Cow;

use sqlparser::ast::{BinaryOperator, Expr as E};

use super::expr::strip;

/// What must all be true for the condition to be true.
pub(super) fn conjuncts(e: &E) -> Vec<Cow<'_, E>> {
    let mut out = vec![];
    for e in operands(e, &BinaryOperator::And) {
        match common_equalities(e) {
            Some((common, rest)) => {
                out.extend(common.into_iter().map(Cow::Borrowed));
                out.extend(rest.map(Cow::Owned));
            }
            None => out.push(Cow::Borrowed(e)),
        }
    }
    out
}

/// The operands of a chain of one operator, from left to right; other conditions are chains of one.
fn operands<'e>(e: &'e E, of: &BinaryOperator) -> Vec<&'e E> {
    let (mut out, mut left) = (vec![], vec![e]);
    while let Some(e) = left.pop() {
        match strip(e) {
            E::BinaryOp {
                left: l,
                op,
                right: r,
            } if op == of => left.extend([r.as_ref(), l.as_ref()]),
            e => out.push(e),
        }
    }
    out
}

/// The equalities of columns that all branches of an OR have, and what is left of it.
fn common_equalities(e: &E) -> Option<(Vec<&E>, Option<E>)> {
    let branches = operands(e, &BinaryOperator::Or);
    if branches.len() < 2 {
        return None;
    }
    let mut common: Vec<&E> = operands(branches[0], &BinaryOperator::And);
    common.retain(|e| columns_of_equality(e).is_some());
    let mut rest = Vec::with_capacity(branches.len());
    for branch in branches {
        if common.is_empty() {
            return None;
        }
        let all = operands(branch, &BinaryOperator::And);
        common.retain(|e| all.iter().any(|other| is_same(e, other)));
        rest.push(all);
    }
    let is_common = |e: &&E| common.iter().any(|c| is_same(c, e));
    for branch in &mut rest {
        branch.retain(|e| !is_common(e));
    }
    // A branch that asks for nothing more decides it.
    if common.is_empty() || rest.iter().any(Vec::is_empty) {
        return (!common.is_empty()).then_some((common, None));
    }
    let chain = |all: Vec<E>, op: BinaryOperator| {
        all.into_iter().reduce(|left, right| E::BinaryOp {
            left: Box::new(left),
            op: op.clone(),
            right: Box::new(right),
        })
    };
    let branches = rest.into_iter().filter_map(|all| {
        let all = all.into_iter().cloned().collect();
        chain(all, BinaryOperator::And)
    });
    let rest = chain(branches.collect(), BinaryOperator::Or);
    Some((common, rest))
}

fn columns_of_equality(e: &E) -> Option<(&E, &E)> {
    let is_column = |e: &E| matches!(e, E::Identifier(_) | E::CompoundIdentifier(_));
    match e {
        E::BinaryOp {
            left,
            op: BinaryOperator::Eq,
            right,
        } => {
            let sides = (strip(left), strip(right));
            (is_column(sides.0) && is_column(sides.1)).then_some(sides)
        }
        _ => None,
    }
}

/// Whether two conditions are one equality of columns, also the other way round.
fn is_same(a: &E, b: &E) -> bool {
    match (columns_of_equality(a), columns_of_equality(b)) {
        (Some((a, b)), Some((c, d))) => (a, b) == (c, d) || (a, b) == (d, c),
        _ => false,
    }
}
