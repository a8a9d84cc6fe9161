//! What WHERE says of the relations to the left of a LATERAL subquery.
//!
//! Such a subquery is computed for all values of the columns that it names (`compile/decorrelate`), and where they are compared by an
//! inequality, each of them meets all of its rows. A row that WHERE drops by its own columns needs none of that: comparisons of these are
//! asked of the relations to the left first. They stay in WHERE. NULL fulfils none of them, so that the rows to which an outer join
//! adds NULLs, because what they matched is gone, are dropped there too.
//!
//! What a name or a parameter in WHERE means is known when all of FROM is bound. Then FROM is bound once more, with the same names, and the
//! comparisons as they were bound.

use datafusion_expr::expr::{BinaryExpr, InList};
use datafusion_expr::utils::split_conjunction;
use datafusion_expr::{Cast, Expr, LogicalPlan};
use sqlparser::ast;

use super::conditions::{is_fallible, varies};
use super::from_functions::is_lateral;
use super::scope::{Outer, Scope};
use super::{Binder, Ctes, filter_all};
use crate::error::Result;

/// FROMs within each other that are bound twice: each level doubles what is below it.
const LEVELS_MAX: usize = 2;

/// What narrows the FROM that is being bound.
#[derive(Default)]
pub(super) struct Narrowing {
    conditions: Vec<Expr>,
    /// How many FROMs around, and this one, are bound for the second time.
    levels: usize,
}

impl Binder<'_> {
    /// The rows of FROM and WHERE.
    pub(super) fn filtered_from<'o>(
        &self,
        s: &ast::Select,
        ctes: &Ctes,
        outer: Outer<'o>,
    ) -> Result<(LogicalPlan, Scope<'o>)> {
        let levels = self.narrowing.borrow().levels;
        let lateral = s.from.iter().any(has_lateral);
        let twice = lateral && s.selection.is_some() && levels < LEVELS_MAX;
        let before = twice.then(|| self.found.borrow().clone());
        let bind = |narrowing| {
            let around = self.narrowing.replace(narrowing);
            let bound = self.relations(&s.from, ctes, outer);
            self.narrowing.replace(around);
            bound
        };
        let (plan, scope) = bind(Narrowing {
            levels,
            ..Narrowing::default()
        })?;
        let Some(w) = &s.selection else {
            return Ok((plan, scope));
        };
        let all = self.conditions(&scope, ctes, w)?;
        let simple = all.iter().flat_map(split_conjunction);
        let conditions: Vec<Expr> = simple.filter(|e| compares(e)).cloned().collect();
        let plan = match before.filter(|_| !conditions.is_empty()) {
            None => plan,
            Some(before) => {
                let after = self.found.replace(before);
                let again = bind(Narrowing {
                    conditions,
                    levels: levels + 1,
                });
                self.found.replace(after);
                again?.0
            }
        };
        Ok((filter_all(plan, all)?, scope))
    }

    /// The rows of `left` that the WHERE of its query may keep.
    pub(super) fn narrowed(&self, left: LogicalPlan) -> Result<LogicalPlan> {
        let narrowing = self.narrowing.borrow();
        let of_left = |e: &&Expr| {
            let columns = e.column_refs();
            columns.iter().all(|c| left.schema().has_column(c))
        };
        let all: Vec<Expr> = narrowing
            .conditions
            .iter()
            .filter(of_left)
            .cloned()
            .collect();
        filter_all(left, all)
    }
}

fn has_lateral(t: &ast::TableWithJoins) -> bool {
    let nested = |f: &ast::TableFactor| match f {
        ast::TableFactor::NestedJoin {
            table_with_joins, ..
        } => has_lateral(table_with_joins),
        f => is_lateral(f),
    };
    nested(&t.relation) || t.joins.iter().any(|j| nested(&j.relation))
}

/// A comparison of columns with what is the same for all rows, which can't fail, and isn't true of NULL; or some of these with AND and OR.
fn compares(e: &Expr) -> bool {
    use datafusion_expr::Operator::*;
    let plain = match e {
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: Eq | Lt | LtEq | Gt | GtEq,
            right,
        }) => is_plain(left) && is_plain(right),
        Expr::InList(InList {
            expr,
            list,
            negated: false,
        }) => is_plain(expr) && list.iter().all(is_plain),
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: Or | And,
            right,
        }) => compares(left) && compares(right),
        _ => false,
    };
    plain && !e.column_refs().is_empty()
}

fn is_plain(e: &Expr) -> bool {
    match e {
        Expr::Column(_) | Expr::Literal(..) | Expr::Placeholder(_) => true,
        Expr::Cast(Cast { expr, .. }) => is_plain(expr),
        e => !varies(e) && !e.is_volatile() && !is_fallible(e),
    }
}
