//! A subquery that finds one row by its primary key: `(SELECT name FROM c WHERE c.id = o.c)`.
//!
//! It needs no [`domain`](super::domain), nor to be counted: the rows of `c` are joined by their key. Those that no outer row asks for are looked at as
//! well, so that nothing above the scan may fail.

use datafusion_common::{Column, Result};
use datafusion_expr::utils::split_conjunction;
use datafusion_expr::{BinaryExpr, Expr, LogicalPlan, LogicalPlanBuilder, Operator};

use super::domain::Keyed;
use super::has_subquery;
use super::names::{free_columns, named, requalified};
use crate::functions::shared::can_fail_anywhere;
use crate::query::scan_collection;
use crate::scan::is_found_by;

/// The rows of `plan` with the keys that are equal to the columns `outer`, if no two of them have the same. `name` starts names that are made up.
pub(super) fn by_key(plan: &LogicalPlan, outer: &[Column], name: &str) -> Result<Option<Keyed>> {
    match plan {
        LogicalPlan::Projection(p) if p.expr.iter().all(is_harmless) => {
            let Some(input) = by_key(&p.input, outer, name)? else {
                return Ok(None);
            };
            let mut exprs = input.key_exprs();
            let given = p.expr.iter().cloned().zip(p.schema.columns());
            exprs.extend(given.map(|(e, c)| named(e, c)));
            project(input, exprs)
        }
        LogicalPlan::SubqueryAlias(a) => {
            let Some(input) = by_key(&a.input, outer, name)? else {
                return Ok(None);
            };
            let exprs = requalified(plan, &a.input, input.key_exprs());
            project(input, exprs)
        }
        LogicalPlan::Filter(f) if free_columns(&f.input)?.is_empty() => {
            filtered(&f.predicate, &f.input, outer, name)
        }
        _ => Ok(None),
    }
}

fn project(rows: Keyed, exprs: Vec<Expr>) -> Result<Option<Keyed>> {
    let plan = LogicalPlanBuilder::from(rows.plan)
        .project(exprs)?
        .build()?;
    let keys = rows.keys;
    Ok(Some(Keyed { plan, keys }))
}

fn filtered(
    predicate: &Expr,
    input: &LogicalPlan,
    outer: &[Column],
    name: &str,
) -> Result<Option<Keyed>> {
    let (mut equal, mut own) = (vec![], vec![]);
    for part in split_conjunction(predicate) {
        if let Some(pair) = equal_to_outer(part, input) {
            equal.push(pair);
        } else if is_harmless(part) {
            own.push(part.clone());
        } else {
            return Ok(None);
        }
    }
    let fixed = own.iter().filter_map(fixed_column);
    let told = equal.iter().map(|(_, own)| own).chain(fixed);
    if equal.len() != outer.len() || !has_key(input, told) {
        return Ok(None);
    }
    let (mut exprs, mut keys) = (vec![], vec![]);
    for (n, column) in outer.iter().enumerate() {
        let Some((_, own)) = equal.iter().find(|(outer, _)| outer == column) else {
            return Ok(None);
        };
        let key = Column::new_unqualified(format!("{name}_k{n}"));
        exprs.push(named(Expr::Column(own.clone()), key.clone()));
        keys.push(key);
    }
    exprs.extend(input.schema().columns().into_iter().map(Expr::Column));
    let mut plan = LogicalPlanBuilder::from(input.clone());
    if let Some(own) = own.into_iter().reduce(Expr::and) {
        plan = plan.filter(own)?;
    }
    let plan = plan.build()?;
    project(Keyed { plan, keys }, exprs)
}

/// It may be computed for rows that nobody asks for.
fn is_harmless(e: &Expr) -> bool {
    !can_fail_anywhere(e) && !has_subquery(e) && !e.is_volatile() && !e.contains_outer()
}

/// An outer column and the own one that it must be equal to, if the condition says so of columns of one type.
fn equal_to_outer(condition: &Expr, input: &LogicalPlan) -> Option<(Column, Column)> {
    let Expr::BinaryExpr(BinaryExpr {
        left,
        op: Operator::Eq,
        right,
    }) = condition
    else {
        return None;
    };
    let (field, outer, own) = match (left.as_ref(), right.as_ref()) {
        (Expr::OuterReferenceColumn(field, outer), Expr::Column(own))
        | (Expr::Column(own), Expr::OuterReferenceColumn(field, outer)) => (field, outer, own),
        _ => return None,
    };
    let (_, of_own) = input.schema().qualified_field_from_column(own).ok()?;
    let same = of_own.data_type() == field.data_type() && is_found_by(field.data_type());
    same.then(|| (outer.clone(), own.clone()))
}

/// The column that the condition gives one value.
fn fixed_column(condition: &Expr) -> Option<&Column> {
    let Expr::BinaryExpr(BinaryExpr {
        left,
        op: Operator::Eq,
        right,
    }) = condition
    else {
        return None;
    };
    match (left.as_ref(), right.as_ref()) {
        (Expr::Column(column), Expr::Literal(..)) | (Expr::Literal(..), Expr::Column(column)) => {
            Some(column)
        }
        _ => None,
    }
}

/// Whether `columns` of a scan have all of its primary key.
fn has_key<'c>(input: &LogicalPlan, columns: impl Iterator<Item = &'c Column>) -> bool {
    let mut below = input;
    while let LogicalPlan::SubqueryAlias(alias) = below {
        below = &alias.input;
    }
    let LogicalPlan::TableScan(scan) = below else {
        return false;
    };
    let key = scan_collection(scan).and_then(|relation| relation.primary_key);
    let place = |c: &Column| {
        let n = input.schema().maybe_index_of_column(c)?;
        match &scan.projection {
            Some(columns) => columns.get(n).copied(),
            None => Some(n),
        }
    };
    let have: Vec<usize> = columns.filter_map(place).collect();
    key.is_some_and(|key| !key.is_empty() && key.iter().all(|k| have.contains(k)))
}
