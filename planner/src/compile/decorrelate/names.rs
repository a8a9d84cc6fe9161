//! Outer columns in plans and expressions: which there are, and how others take their place.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::tree::{PlanTree, Tree};
use datafusion_common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion_common::{Column, Result};
use datafusion_expr::expr::{Exists, InSubquery, SetComparison};
use datafusion_expr::expr_rewriter::NamePreserver;
use datafusion_expr::logical_plan::Subquery;
use datafusion_expr::{Expr, LogicalPlan};

/// The subquery of an expression that is one.
pub(crate) fn subquery_of(e: &Expr) -> Option<&Subquery> {
    match e {
        Expr::ScalarSubquery(s) => Some(s),
        Expr::Exists(e) => Some(&e.subquery),
        Expr::InSubquery(i) => Some(&i.subquery),
        Expr::SetComparison(c) => Some(&c.subquery),
        _ => None,
    }
}

/// An expression that is a subquery, with another one.
pub(crate) fn with_subquery(e: Expr, f: impl FnOnce(Subquery) -> Result<Subquery>) -> Result<Expr> {
    Ok(match e {
        Expr::ScalarSubquery(s) => Expr::ScalarSubquery(f(s)?),
        Expr::Exists(e) => Expr::Exists(Exists {
            subquery: f(e.subquery)?,
            negated: e.negated,
        }),
        Expr::InSubquery(i) => Expr::InSubquery(InSubquery {
            expr: i.expr,
            subquery: f(i.subquery)?,
            negated: i.negated,
        }),
        Expr::SetComparison(c) => Expr::SetComparison(SetComparison {
            subquery: f(c.subquery)?,
            ..c
        }),
        e => e,
    })
}

/// The columns that `plan` names and that none of its own nodes has, in order of their names.
pub(crate) fn free_columns(plan: &LogicalPlan) -> Result<BTreeSet<Column>> {
    let mut out = BTreeSet::new();
    plan.walk(&mut |node| {
        for e in node.expressions() {
            let inputs = node.inputs();
            free_in_expr(
                &e,
                &|c| inputs.iter().any(|i| i.schema().has_column(c)),
                &mut out,
            )?;
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(out)
}

/// The outer columns of an expression. `own`: whether a subquery's outer column is one of the expression's own row.
pub(super) fn free_in_expr(
    e: &Expr,
    own: &dyn Fn(&Column) -> bool,
    out: &mut BTreeSet<Column>,
) -> Result<()> {
    e.walk(&mut |e| {
        if let Expr::OuterReferenceColumn(_, c) = e {
            out.insert(c.clone());
        }
        if let Some(s) = subquery_of(e) {
            out.extend(free_columns(&s.subquery)?.into_iter().filter(|c| !own(c)));
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(())
}

/// `e` with the outer columns `outer` replaced by the columns `keys` of its row.
pub(super) fn rebind(e: Expr, outer: &[Column], keys: &[Column]) -> Result<Expr> {
    let place = |c: &Column| outer.iter().position(|o| o == c);
    let bound = e.change_up(&mut |e| {
        Ok(match e {
            Expr::OuterReferenceColumn(_, ref c) if place(c).is_some() => {
                let i = place(c).unwrap_or_default();
                Transformed::yes(Expr::Column(keys[i].clone()))
            }
            e if subquery_of(&e).is_some() => {
                Transformed::yes(with_subquery(e, |s| renamed(s, outer, keys))?)
            }
            e => Transformed::no(e),
        })
    })?;
    Ok(bound.data)
}

/// The subquery with its outer columns `outer` replaced by the outer columns `keys`.
fn renamed(s: Subquery, outer: &[Column], keys: &[Column]) -> Result<Subquery> {
    replace_outer(s, &|e| {
        let Expr::OuterReferenceColumn(field, c) = e else {
            return Ok(None);
        };
        let place = outer.iter().position(|o| o == c);
        Ok(place.map(|i| Expr::OuterReferenceColumn(Arc::clone(field), keys[i].clone())))
    })
}

/// The subquery with expressions replaced as `f` says, from the top; those of its own subqueries too.
pub(crate) fn replace_outer(
    s: Subquery,
    f: &dyn Fn(&Expr) -> Result<Option<Expr>>,
) -> Result<Subquery> {
    let rename = |e: Expr| {
        e.change_down(&mut |e| {
            Ok(match f(&e)? {
                Some(new) => Transformed::new(new, true, TreeNodeRecursion::Jump),
                None => Transformed::no(e),
            })
        })
    };
    let plan = Arc::unwrap_or_clone(s.subquery).change_all_up(&mut |node| {
        let names = NamePreserver::new(&node);
        node.change_exprs(&mut |e| {
            let name = names.save(&e);
            Ok(rename(e)?.update_data(|e| name.restore(e)))
        })
    })?;
    let free = free_columns(&plan.data)?;
    let mut outer_ref_columns: Vec<Expr> = vec![];
    plan.data.walk_all(&mut |node| {
        for e in node.expressions() {
            e.walk(&mut |e| {
                if let Expr::OuterReferenceColumn(_, c) = e
                    && free.contains(c)
                    && !outer_ref_columns.contains(e)
                {
                    outer_ref_columns.push(e.clone());
                }
                Ok(TreeNodeRecursion::Continue)
            })?;
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(Subquery {
        subquery: Arc::new(plan.data),
        outer_ref_columns,
        spans: s.spans,
    })
}

/// The columns of `original` under the names that the alias `plan` gives them, behind `keys`.
pub(super) fn requalified(
    plan: &LogicalPlan,
    original: &LogicalPlan,
    keys: Vec<Expr>,
) -> Vec<Expr> {
    let mut exprs = keys;
    let names = plan.schema().columns();
    for (from, to) in original.schema().columns().into_iter().zip(names) {
        exprs.push(named(Expr::Column(from), to));
    }
    exprs
}

/// `e` under the name `c`.
pub(super) fn named(e: Expr, c: Column) -> Expr {
    match &e {
        Expr::Column(have) if *have == c => e,
        Expr::Alias(alias) => alias
            .expr
            .as_ref()
            .clone()
            .alias_qualified(c.relation, c.name),
        _ => e.alias_qualified(c.relation, c.name),
    }
}
