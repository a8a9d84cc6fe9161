//! What WHERE says of the relations to the left of a LATERAL subquery.
//!
//! Such a subquery is computed for all values of the columns that it names (`compile/decorrelate`), and where they are compared by an
//! inequality, each of them meets all of its rows. A row that WHERE drops by its own columns needs none of that: such conditions are
//! asked of the relations to the left first. They stay in WHERE. NULL fulfils none of them, so that the rows to which an outer join
//! adds NULLs, because what they matched is gone, are dropped there too.

use datafusion_expr::{Expr, LogicalPlan, Operator};
use sqlparser::ast::{self, BinaryOperator, Expr as E};

use super::expr::{Ctx, strip};
use super::from_functions::is_lateral;
use super::scope::Scope;
use super::{Binder, Ctes, filter};
use crate::error::Result;

impl Binder<'_> {
    /// Binds the FROM of `s`.
    pub(super) fn within<T>(&self, s: &ast::Select, bind: impl FnOnce() -> Result<T>) -> Result<T> {
        let lateral = s.from.iter().any(has_lateral);
        let all = s.selection.iter().filter(|_| lateral);
        let all = all.flat_map(super::factors::conjuncts);
        let simple = all
            .filter(|c| compares(c))
            .map(|c| c.into_owned())
            .collect();
        let around = self.narrowing.replace(simple);
        let bound = bind();
        self.narrowing.replace(around);
        bound
    }

    /// The rows of `left` that the WHERE of its query may keep.
    pub(super) fn narrowed(
        &self,
        left: LogicalPlan,
        scope: &Scope,
        ctes: &Ctes,
    ) -> Result<LogicalPlan> {
        let conditions = self.narrowing.borrow().clone();
        let of_left = conditions.iter().filter(|c| {
            operands(c).iter().all(|e| match column(e) {
                Some(idents) => scope.own(&idents).is_some_and(
                    |c| matches!(&c.expr, Expr::Column(c) if left.schema().has_column(c)),
                ),
                None => true,
            })
        });
        let bound = of_left.map(|c| self.condition(Ctx::plain(scope, ctes, "WHERE"), c));
        let bound: Vec<Expr> = bound.collect::<Result<_>>()?;
        match bound.is_empty() {
            true => Ok(left),
            false => filter(left, super::conditions::balanced(bound, Operator::And)),
        }
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

/// A comparison of columns and constants, which can't fail.
fn compares(e: &E) -> bool {
    let all = operands(e);
    let simple = |e: &&E| column(e).is_some() || is_constant(e);
    all.iter().any(|e| column(e).is_some()) && all.iter().all(simple)
}

/// What is compared; empty for other expressions.
fn operands(e: &E) -> Vec<&E> {
    use BinaryOperator::*;
    match strip(e) {
        E::BinaryOp {
            left,
            op: Eq | Lt | LtEq | Gt | GtEq,
            right,
        } => vec![left, right],
        E::Between {
            expr,
            negated: false,
            low,
            high,
        } => vec![expr, low, high],
        E::InList {
            expr,
            list,
            negated: false,
        } => std::iter::once(expr.as_ref()).chain(list).collect(),
        _ => vec![],
    }
}

fn column(e: &E) -> Option<Vec<ast::Ident>> {
    match strip(e) {
        E::Identifier(name) => Some(vec![name.clone()]),
        E::CompoundIdentifier(names) => Some(names.clone()),
        _ => None,
    }
}

fn is_constant(e: &E) -> bool {
    match strip(e) {
        E::Value(_) | E::TypedString(_) => true,
        E::Cast { expr, .. }
        | E::UnaryOp {
            op: ast::UnaryOperator::Minus,
            expr,
        } => is_constant(expr),
        _ => false,
    }
}
