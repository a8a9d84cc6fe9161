//! The least or the greatest value of each group, where a join's condition compares it: it is in the group's first match ([`super::nearest`]). So
//! `(SELECT max(q.at) FROM quotes q WHERE q.at <= t.at)` doesn't keep all pairs.

use std::sync::Arc;

use datafusion_common::Result;
use datafusion_physical_expr::expressions::{IsNotNullExpr, Literal};
use tidemill_dataflow::plan::{Aggregate, AggregateFunction, JoinKind, Node, Op, OrderBy};

use super::expr::{self, Physical};
use super::nearest::{First, above_join, nearest};

/// `input` of an aggregate with these keys, with fewer rows of which it makes the same; `None` if it isn't made of a join that finds them.
pub(super) fn extreme(
    input: &Node,
    keys: &[usize],
    aggregates: &[Aggregate],
) -> Result<Option<Node>> {
    let Some((column, descending)) = only_extreme(aggregates) else {
        return Ok(None);
    };
    let first = |input: &Node, by: &[usize], column: usize| {
        let order = [OrderBy {
            column,
            descending,
            nulls_first: false,
        }];
        let (order, count) = (&order, 1);
        nearest(input, First { by, order, count })
    };
    if aggregates.iter().all(|a| a.filter.is_none())
        && let Some(fewer) = first(input, keys, column)?
    {
        return Ok(Some(fewer));
    }
    let Some(outer) = Outer::of(input) else {
        return Ok(None);
    };
    let filters = aggregates.iter().filter_map(|a| a.filter);
    let by: Option<Vec<usize>> = keys.iter().map(|key| outer.of_matches(*key)).collect();
    let (Some(by), Some(column)) = (by, outer.own(column)) else {
        return Ok(None);
    };
    if !filters
        .into_iter()
        .all(|filter| outer.tells_of_match(filter))
    {
        return Ok(None);
    }
    let fewer = first(outer.matches, &by, column)?;
    Ok(fewer.map(|matches| over(input, matches)))
}

/// The column of which the aggregates compute nothing but the greatest value (true), or the least (false).
fn only_extreme(aggregates: &[Aggregate]) -> Option<(usize, bool)> {
    let extreme = |a: &Aggregate| match a.function {
        AggregateFunction::Min => Some((a.column?, false)),
        AggregateFunction::Max => Some((a.column?, true)),
        _ => None,
    };
    let (first, others) = aggregates.split_first()?;
    let first = extreme(first)?;
    others
        .iter()
        .all(|a| extreme(a) == Some(first))
        .then_some(first)
}

/// An outer join by equal columns alone, by which a correlated subquery's rows come back to those that they were found for. Those without a match have no value.
struct Outer<'n> {
    /// What is made of its rows.
    columns: Vec<Physical>,
    on: &'n [(usize, usize)],
    /// How many columns the left side has.
    left: usize,
    matches: &'n Node,
}

impl<'n> Outer<'n> {
    fn of(input: &'n Node) -> Option<Self> {
        let (columns, join) = above_join(input)?;
        let Op::Join {
            kind: JoinKind::Left,
            on,
            filter: None,
            ..
        } = &join.op
        else {
            return None;
        };
        Some(Outer {
            columns,
            on,
            left: join.inputs[0].schema.fields().len(),
            matches: &join.inputs[1],
        })
    }

    /// The column of the matches that a column is.
    fn own(&self, column: usize) -> Option<usize> {
        expr::as_column(&self.columns[column])?.checked_sub(self.left)
    }

    /// The same, or the one that is equal to it where there is a match.
    fn of_matches(&self, column: usize) -> Option<usize> {
        let left = expr::as_column(&self.columns[column])?;
        let equal = || self.on.iter().find(|(l, _)| *l == left).map(|(_, r)| *r);
        left.checked_sub(self.left).or_else(equal)
    }

    /// Whether a column is true for rows that have a match, and for no others.
    fn tells_of_match(&self, column: usize) -> bool {
        let present = self.columns[column].downcast_ref::<IsNotNullExpr>();
        let marker = present.and_then(|e| expr::as_column(e.arg())?.checked_sub(self.left));
        let Op::Map {
            projection: Some(exprs),
            ..
        } = &self.matches.op
        else {
            return false;
        };
        let literal = marker.and_then(|m| exprs[m].downcast_ref::<Literal>());
        literal.is_some_and(|literal| !literal.value().is_null())
    }
}

/// The maps of `input` over its join, of other matches.
fn over(input: &Node, matches: Node) -> Node {
    let inputs = match &input.op {
        Op::Join { .. } => vec![input.inputs[0].clone(), matches],
        _ => vec![over(&input.inputs[0], matches)],
    };
    Node {
        op: input.op.clone(),
        inputs,
        schema: Arc::clone(&input.schema),
        append_only: false,
    }
}
