//! The order in which the items of FROM are joined: each with those before it that it has an equality with, where there is such a one.
//! Many clients write the catalog's relations in any order.

use tidemill_planner::ast::syntax as ast;

use super::scope::{fold, name_of};

/// The items of FROM in a good order; as they are written where `*` shows the order.
pub(super) fn in_order(select: &ast::Select) -> Vec<&ast::TableWithJoins> {
    let written: Vec<&ast::TableWithJoins> = select.from.iter().collect();
    let shown = |item: &ast::SelectItem| matches!(item, ast::SelectItem::Wildcard(_));
    let names: Option<Vec<Vec<String>>> = written.iter().map(|item| names_of(item)).collect();
    let (Some(names), Some(condition)) = (names, &select.selection) else {
        return written;
    };
    if written.len() < 3 || select.projection.iter().any(shown) {
        return written;
    }
    let of = |name: &str| names.iter().position(|of| of.iter().any(|n| n == name));
    let (mut linked, mut filtered) = (vec![], vec![false; written.len()]);
    for part in conjuncts(condition) {
        let ast::Expr::BinaryOp { left, op, right } = part else {
            continue;
        };
        let side = |e: &ast::Expr| qualifier(e).and_then(|name| of(&name));
        match (side(left), side(right)) {
            (Some(a), Some(b)) if *op == ast::BinaryOperator::Eq => linked.push((a, b)),
            (Some(a), None) if matches!(**right, ast::Expr::Value(_)) => filtered[a] = true,
            (None, Some(a)) if matches!(**left, ast::Expr::Value(_)) => filtered[a] = true,
            _ => {}
        }
    }
    let mut order: Vec<usize> = vec![];
    while order.len() < written.len() {
        let left = (0..written.len()).filter(|item| !order.contains(item));
        let has_link = |item: usize| {
            let ends = linked.iter().map(|(a, b)| (*a, *b));
            let mut ends = ends.chain(linked.iter().map(|(a, b)| (*b, *a)));
            ends.any(|(a, b)| a == item && order.contains(&b))
        };
        let next = left.min_by_key(|item| (!has_link(*item), !filtered[*item]));
        order.extend(next);
    }
    order.into_iter().map(|item| written[item]).collect()
}

/// What the relations of an item are called; `None`: it may look at those before it.
fn names_of(item: &ast::TableWithJoins) -> Option<Vec<String>> {
    let joined = item.joins.iter().map(|join| &join.relation);
    let name = |factor: &ast::TableFactor| match factor {
        ast::TableFactor::Table {
            name,
            alias,
            args: None,
            ..
        } => Some(match alias {
            Some(alias) => fold(&alias.name),
            None => name_of(name).1,
        }),
        ast::TableFactor::Derived {
            lateral: false,
            alias: Some(alias),
            ..
        } => Some(fold(&alias.name)),
        _ => None,
    };
    std::iter::once(&item.relation)
        .chain(joined)
        .map(name)
        .collect()
}

fn conjuncts(e: &ast::Expr) -> Vec<&ast::Expr> {
    match e {
        ast::Expr::Nested(e) => conjuncts(e),
        ast::Expr::BinaryOp {
            left,
            op: ast::BinaryOperator::And,
            right,
        } => [conjuncts(left), conjuncts(right)].concat(),
        e => vec![e],
    }
}

/// The relation of a column that is written with it.
fn qualifier(e: &ast::Expr) -> Option<String> {
    match e {
        ast::Expr::Nested(e) => qualifier(e),
        ast::Expr::CompoundIdentifier(parts) => match parts.as_slice() {
            [.., relation, _] => Some(fold(relation)),
            _ => None,
        },
        _ => None,
    }
}
