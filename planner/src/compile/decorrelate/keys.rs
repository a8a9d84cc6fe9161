//! Keys that DataFusion would draw a wrong conclusion from.
//!
//! DataFusion notes for each node which of its columns determine others. Of an aggregate it says that a column of its input
//! that determines some others, and is a grouping key, determines all of the aggregate's columns; and drops DISTINCT and
//! keys of aggregates above for that. It's wrong where there are further keys that the column doesn't determine, as above
//! a join with a unique side. It recognises keys by their names, so there they get others. Of the rows that a list is unnested to it
//! says what it says of the row that had the list: there the columns become expressions, of which it says nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::tree::PlanTree;
use datafusion_common::tree_node::Transformed;
use datafusion_common::{Column, DFSchema, Result};
use datafusion_expr::{Aggregate, Distinct, Expr, LogicalPlan, Projection, Unnest};
use tidemill_zset::schema::SqlType;

use super::super::expr::unalias;
use super::names::named;
use crate::functions::single::nullable;

/// `plan` with such keys renamed. Output columns keep their names.
pub(crate) fn honest(plan: LogicalPlan) -> Result<LogicalPlan> {
    let mut count = 0;
    // What a node says of its columns it takes from its inputs, so each is made anew, and DISTINCT is an aggregate already.
    plan.change_all_up(&mut |node| match node.recompute_schema()? {
        LogicalPlan::Aggregate(a) if misleads(a.input.schema(), &a.group_expr) => {
            count += 1;
            Ok(Transformed::yes(renamed(a, count)?))
        }
        LogicalPlan::Distinct(Distinct::All(input)) => {
            let all: Vec<Expr> = input
                .schema()
                .columns()
                .into_iter()
                .map(Expr::Column)
                .collect();
            if all.is_empty() {
                return Ok(Transformed::no(LogicalPlan::Distinct(Distinct::All(input))));
            }
            let misleads = misleads(input.schema(), &all);
            let groups = Aggregate::try_new(input, all, vec![])?;
            count += usize::from(misleads);
            Ok(Transformed::yes(match misleads {
                true => renamed(groups, count)?,
                false => LogicalPlan::Aggregate(groups),
            }))
        }
        LogicalPlan::Unnest(unnest)
            if !unnest.input.schema().functional_dependencies().is_empty() =>
        {
            let input = Arc::new(forgetful(unnest.input.as_ref())?);
            let plan = LogicalPlan::Unnest(Unnest { input, ..unnest });
            Ok(Transformed::yes(plan.recompute_schema()?))
        }
        node => Ok(Transformed::yes(node)),
    })
    .map(|t| t.data)
}

/// `input` of which DataFusion knows no column that determines others: what determines a row doesn't determine the rows that are made of it,
/// of which it knows nothing.
fn forgetful(input: &LogicalPlan) -> Result<LogicalPlan> {
    let schema = input.schema();
    let all = schema.functional_dependencies().iter();
    let keys: BTreeSet<usize> = all.flat_map(|d| d.source_indices.iter().copied()).collect();
    let exprs = schema.columns().into_iter().enumerate().map(|(i, c)| {
        let value = Expr::Column(c.clone());
        match keys.contains(&i) {
            true => named(nullable(value, &SqlType::of(schema.field(i))), c),
            false => value,
        }
    });
    let projection = Projection::try_new(exprs.collect(), Arc::new(input.clone()))?;
    Ok(LogicalPlan::Projection(projection))
}

/// True if a column among `keys` determines others, but not all of `keys`.
fn misleads(input: &DFSchema, keys: &[Expr]) -> bool {
    if keys.iter().any(|k| matches!(k, Expr::GroupingSet(_))) {
        return false;
    }
    let at = |k: &Expr| match unalias(k) {
        Expr::Column(c) => input.maybe_index_of_column(c),
        _ => None,
    };
    let places: Vec<Option<usize>> = keys.iter().map(at).collect();
    let known: BTreeSet<usize> = places.iter().flatten().copied().collect();
    input.functional_dependencies().iter().any(|d| {
        let determined = |p: &Option<usize>| p.is_some_and(|i| d.target_indices.contains(&i));
        d.source_indices.iter().all(|i| known.contains(i)) && !places.iter().all(determined)
    })
}

fn renamed(a: Aggregate, n: usize) -> Result<LogicalPlan> {
    let columns = a.schema.columns();
    let name = |i: usize| format!("__key{n}_{i}");
    let keys = a.group_expr.len();
    let groups = a.group_expr.into_iter().enumerate();
    let groups = groups.map(|(i, e)| unalias(&e).clone().alias(name(i)));
    let groups = groups.collect();
    let plan = LogicalPlan::Aggregate(Aggregate::try_new(a.input, groups, a.aggr_expr)?);
    let back = columns
        .into_iter()
        .enumerate()
        .map(|(i, c)| match i < keys {
            true => named(Expr::Column(Column::new_unqualified(name(i))), c),
            false => Expr::Column(c),
        });
    let back = back.collect();
    Ok(LogicalPlan::Projection(Projection::try_new(
        back,
        Arc::new(plan),
    )?))
}
