//! What stands for something else in the clauses of a SELECT, put in its place.

use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion_common::Column;
use datafusion_common::tree_node::Transformed;
use datafusion_expr::Expr;
use sqlparser::ast::{Expr as E, SelectItem, VisitorMut};

use super::df;
use super::scope::Scope;
use crate::compile::decorrelate::names::{replace_outer, subquery_of, with_subquery};
use crate::error::Result;
use crate::parser::fold;
use crate::tree::Tree;

pub(super) fn replace(e: Expr, with: &[(String, Vec<Expr>)]) -> Result<Expr> {
    if with.is_empty() {
        return Ok(e);
    }
    let found = |c: &Column| -> Option<&Expr> {
        let relation = c.relation.as_ref()?.table();
        let (_, found) = with.iter().find(|(q, _)| q == relation)?;
        found.get(c.name.parse::<usize>().ok()?)
    };
    // What a subquery compares with its rows, computed beside it.
    let around = |e: &Expr| -> datafusion_common::Result<Option<Expr>> {
        let Expr::OuterReferenceColumn(field, c) = e else {
            return Ok(None);
        };
        let outer = |e: &Expr| {
            e.clone().change_up(&mut |e| match e {
                Expr::Column(c) => Ok(Transformed::yes(Expr::OuterReferenceColumn(
                    Arc::clone(field),
                    c,
                ))),
                e => Ok(Transformed::no(e)),
            })
        };
        found(c).map(|e| outer(e).map(|t| t.data)).transpose()
    };
    let t = e.change_up(&mut |e| {
        if let Expr::Column(c) = &e
            && let Some(found) = found(c)
        {
            return Ok(Transformed::yes(found.clone()));
        }
        if subquery_of(&e).is_some() {
            let e = with_subquery(e, |s| replace_outer(s, &around))?;
            return Ok(Transformed::yes(e));
        }
        Ok(Transformed::no(e))
    });
    df(t.map(|t| t.data))
}

/// The condition of QUALIFY with names of the select list as what they stand for: the systems that have QUALIFY know them there. Columns
/// of FROM go before.
pub(super) fn by_output_names(condition: &E, items: &[SelectItem], scope: &Scope) -> E {
    let mut condition = condition.clone();
    crate::walk::change(&mut condition, &mut OutputNames { items, scope });
    condition
}

struct OutputNames<'q> {
    items: &'q [SelectItem],
    scope: &'q Scope<'q>,
}

impl VisitorMut for OutputNames<'_> {
    type Break = ();

    fn post_visit_expr(&mut self, e: &mut E) -> ControlFlow<()> {
        let E::Identifier(i) = &*e else {
            return ControlFlow::Continue(());
        };
        let name = fold(i);
        if matches!(self.scope.column(&name), Ok(None)) {
            let meant = self.items.iter().find_map(|item| match item {
                SelectItem::ExprWithAlias { expr, alias } if fold(alias) == name => Some(expr),
                _ => None,
            });
            if let Some(meant) = meant {
                *e = E::Nested(Box::new(meant.clone()));
            }
        }
        ControlFlow::Continue(())
    }
}
