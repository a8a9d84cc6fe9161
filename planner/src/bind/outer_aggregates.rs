//! Aggregate calls in a subquery that are aggregates of a query around it.

use std::sync::Arc;

use datafusion_common::Column;
use datafusion_common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion_expr::Expr;
use tidemill_zset::schema::SqlType;

use super::Binder;
use super::aggregates::note;
use super::expr::AGGREGATE;
use super::scope::{Outer, Scope};
use crate::compile::decorrelate::names::subquery_of;
use crate::error::{Result, SqlError};
use crate::tree::Tree;

impl Binder<'_> {
    /// A call in a subquery over columns of queries around it alone is an aggregate of the nearest of these: gives what stands
    /// for its result in the subquery.
    pub(super) fn aggregate_around(
        &self,
        scope: &Scope,
        call: &Expr,
        ty: &SqlType,
    ) -> Result<Option<Expr>> {
        let (own, outer) = columns_named(scope, call);
        if own || outer.is_empty() {
            return Ok(None);
        }
        let (mut at, mut passed) = (scope.outer, vec![]);
        let (around, calls) = loop {
            match at {
                Outer::Query(around, used, calls) => {
                    passed.push(used);
                    if outer.iter().any(|c| around.has(c)) {
                        break (around, calls);
                    }
                    at = around.outer;
                }
                Outer::Lateral(_) if !passed.is_empty() => {
                    return Err(SqlError::new(
                        "42803",
                        "aggregate functions are not allowed in FROM clause of their own query level",
                    ));
                }
                // A function or a subquery in FROM: the columns may be of a query further out than what stands to the left.
                Outer::Lateral(left) if !outer.iter().any(|c| left.has(c)) => at = left.outer,
                Outer::Lateral(_) | Outer::None => return Ok(None),
            }
        };
        let calls = calls.ok_or_else(|| {
            SqlError::new(
                "42803",
                "aggregate functions are not allowed in this clause of the query around",
            )
        })?;
        let call = call.clone().change_up(&mut |e| {
            Ok(match e {
                Expr::OuterReferenceColumn(_, c) if around.has(&c) => {
                    Transformed::yes(Expr::Column(c))
                }
                e => Transformed::no(e),
            })
        });
        let n = note(calls, super::df(call)?.data, ty);
        let name = outer_marker(around, n);
        let field = Arc::new(arrow::datatypes::Field::new(&name, ty.arrow(), true));
        let marker = Expr::OuterReferenceColumn(field, Column::new(Some(AGGREGATE), name));
        for used in passed {
            let mut used = used.borrow_mut();
            if !used.contains(&marker) {
                used.push(marker.clone());
            }
        }
        Ok(Some(marker))
    }
}

/// The name of the marker of a query's `n`th aggregate in subqueries, which tells the queries around them apart.
fn outer_marker(around: &Scope, n: usize) -> String {
    format!("{}.{n}", around.depth())
}

/// The place in the list of the call that a marker in a subquery stands for, if it is one of that query.
pub(super) fn outer_call(around: &Scope, marker: &Column) -> Option<usize> {
    if marker
        .relation
        .as_ref()
        .is_none_or(|r| r.table() != AGGREGATE)
    {
        return None;
    }
    let (depth, n) = marker.name.split_once('.')?;
    let ours = depth.parse() == Ok(around.depth());
    ours.then(|| n.parse().ok()).flatten()
}

/// Whether `call` names columns of the scope, itself or in a subquery, and which ones it names of the queries around.
fn columns_named(scope: &Scope, call: &Expr) -> (bool, Vec<Column>) {
    let (mut own, mut outer) = (false, Vec::new());
    let _ = call.walk(&mut |e| {
        match e {
            Expr::Column(_) => own = true,
            Expr::OuterReferenceColumn(_, c) => outer.push(c.clone()),
            e => {
                let of_subquery = subquery_of(e)
                    .into_iter()
                    .flat_map(|s| &s.outer_ref_columns);
                for named in of_subquery {
                    if let Expr::OuterReferenceColumn(_, c) = named {
                        match scope.has(c) {
                            true => own = true,
                            false => outer.push(c.clone()),
                        }
                    }
                }
            }
        }
        Ok(TreeNodeRecursion::Continue)
    });
    (own, outer)
}
