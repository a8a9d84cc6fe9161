//! The sets of keys that ROLLUP, CUBE and GROUPING SETS stand for.

use datafusion_expr::Expr;
use sqlparser::ast::{self, Expr as E};

use super::expr::strip;
use super::select::Item;
use crate::error::{Result, SqlError};

/// A key as an element of GROUP BY names it.
#[derive(Clone, PartialEq)]
pub(super) struct Key {
    pub(super) expr: Expr,
    /// The output column that it is named as.
    pub(super) output: Option<usize>,
}

/// The keys of a grouping set; `named`: output columns that are keys. Two of one expression are two keys: only together they are one.
pub(super) fn keys_of(set: &[Key], named: &[usize], items: &[Item]) -> Result<Vec<Expr>> {
    let mut keys: Vec<Expr> = Vec::new();
    for key in set {
        if !keys.contains(&key.expr) {
            keys.push(key.expr.clone());
        }
    }
    let has = |n: usize| set.iter().any(|k| k.output == Some(n));
    for n in named.iter().filter(|n| has(**n)) {
        let same = |o: &&usize| items[**o].value.expr == items[*n].value.expr;
        if named.iter().filter(same).any(|o| !has(*o)) {
            let message = "grouping sets with one of two output columns that are the same expression are not supported";
            let hint = "Group by one of them in a subquery, and select it twice around that.";
            return Err(SqlError::unsupported(message).hint(hint));
        }
    }
    Ok(keys)
}

/// Sets of keys that are still planned.
const SETS_MAX: usize = 4096;

pub(super) fn each(
    groups: &[Vec<E>],
    one: &mut impl FnMut(&E) -> Result<Key>,
) -> Result<Vec<Vec<Key>>> {
    groups
        .iter()
        .map(|g| flat(g).iter().map(&mut *one).collect())
        .collect()
}

/// One element of GROUPING SETS: a set, or ROLLUP or CUBE, which the parser takes for calls there.
pub(super) fn nested(set: &[E], one: &mut impl FnMut(&E) -> Result<Key>) -> Result<Vec<Vec<Key>>> {
    if let [E::Function(f)] = set
        && let ast::FunctionArguments::List(l) = &f.args
        && let Some(name @ ("rollup" | "cube")) =
            crate::parser::parts(&f.name).last().map(String::as_str)
    {
        let mut groups = Vec::new();
        for a in &l.args {
            match a {
                ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(E::Tuple(es))) => {
                    groups.push(es.clone())
                }
                ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(e)) => {
                    groups.push(vec![super::expr::strip(e).clone()])
                }
                other => {
                    return Err(SqlError::new(
                        "42601",
                        format!("syntax error at or near \"{other}\""),
                    ));
                }
            }
        }
        let groups = each(&groups, one)?;
        return if name == "rollup" {
            Ok(rollup(&groups))
        } else {
            cube(&groups)
        };
    }
    Ok(vec![flat(set).iter().map(one).collect::<Result<_>>()?])
}

/// `(a, b, c), (a, b), (a), ()`
pub(super) fn rollup(groups: &[Vec<Key>]) -> Vec<Vec<Key>> {
    (0..=groups.len())
        .rev()
        .map(|n| groups[..n].concat())
        .collect()
}

/// Every subset.
pub(super) fn cube(groups: &[Vec<Key>]) -> Result<Vec<Vec<Key>>> {
    if groups.len() > 12 {
        return Err(SqlError::new("54023", "CUBE is limited to 12 elements"));
    }
    Ok((0..1usize << groups.len())
        .rev()
        .map(|mask| {
            let taken = groups.iter().rev().enumerate().rev();
            taken
                .filter(|(i, _)| mask >> i & 1 == 1)
                .flat_map(|(_, g)| g.clone())
                .collect()
        })
        .collect())
}

/// The row that an expression is within parentheses, or the expression.
pub(super) fn row_or(e: &E) -> &E {
    match strip(e) {
        row @ E::Tuple(_) => row,
        _ => e,
    }
}

/// The fields of a row, and of rows in it.
fn flat(row: &[E]) -> Vec<E> {
    let fields = row.iter().map(|e| match row_or(e) {
        E::Tuple(row) => flat(row),
        e => vec![e.clone()],
    });
    fields.flatten().collect()
}

/// Every set of `a` with every set of `b`.
pub(super) fn product(a: Vec<Vec<Key>>, b: &[Vec<Key>]) -> Result<Vec<Vec<Key>>> {
    if a.len().saturating_mul(b.len()) > SETS_MAX {
        return Err(SqlError::new(
            "54011",
            format!("too many grouping sets present (maximum {SETS_MAX})"),
        ));
    }
    Ok(a.iter()
        .flat_map(|x| {
            b.iter().map(|y| {
                let mut set = x.clone();
                for e in y {
                    if !set.contains(e) {
                        set.push(e.clone());
                    }
                }
                set
            })
        })
        .collect())
}
