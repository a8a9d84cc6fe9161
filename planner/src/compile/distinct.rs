//! `count(DISTINCT x)` and its like: an aggregate over the distinct pairs of key and argument. Several
//! such aggregates, or one beside plain ones, are joined by the group's key, which all of them have.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema};
use datafusion_expr::{Aggregate as LogicalAggregate, Expr, when};
use tidemill_dataflow::plan::{JoinKind, Node, Op};

use super::aggregate::{Call, Columns, distinct_rows};
use super::{Compiler, Piece, node, rows, schema_of};
use crate::error::{Result, from_datafusion};
use tidemill_dataflow::plan::Aggregate;

impl Compiler<'_> {
    pub(super) fn distinct_aggregates(
        &mut self,
        a: &LogicalAggregate,
        calls: &[Call],
    ) -> Result<Piece> {
        let schema = schema_of(&a.schema);
        let keys = a.group_expr.len();
        let plain: Vec<usize> = (0..calls.len()).filter(|i| !calls[*i].distinct).collect();
        // Where each call's column ends up among the parts joined side by side.
        let mut order = vec![0; calls.len()];
        let mut parts: Vec<Node> = vec![];
        let mut width = 0;
        let mut add = |part: Node, of: &[usize], parts: &mut Vec<Node>| {
            for (i, c) in of.iter().enumerate() {
                order[*c] = width + keys + i;
            }
            width += part.schema.fields().len();
            parts.push(part);
        };
        if !plain.is_empty() {
            let chosen: Vec<Call> = plain.iter().map(|i| calls[*i].clone()).collect();
            let fields = part_fields(&schema, keys, &plain);
            let input = self.piece(&a.input)?;
            let part = self
                .grouped(input, &a.input, &a.group_expr, &chosen, fields)?
                .node;
            add(part, &plain, &mut parts);
        }
        for group in same_argument(calls)? {
            let part = self.distinct_part(a, calls, &group)?;
            add(part, &group, &mut parts);
        }
        let joined = join_parts(parts, keys);
        let columns: Vec<usize> = (0..keys).chain(order).collect();
        let node = rows::choose(joined, &columns);
        let node = Node { schema, ..node };
        Ok(Piece::new(node).unique(Some((0..keys).collect())))
    }

    /// The calls `group`, which share argument and filter: keys, then one column each.
    fn distinct_part(
        &mut self,
        a: &LogicalAggregate,
        calls: &[Call],
        group: &[usize],
    ) -> Result<Node> {
        let schema = schema_of(&a.schema);
        let keys = a.group_expr.len();
        let input = self.piece(&a.input)?;
        let mut columns = Columns::of(&a.input);
        let mut at: Vec<usize> = a
            .group_expr
            .iter()
            .map(|k| columns.add(k))
            .collect::<Result<_>>()?;
        at.push(columns.add(&argument(&calls[group[0]])?)?);
        let (node, places) = columns.over(input.node)?;
        let chosen: Vec<usize> = at.iter().map(|i| places[*i]).collect();
        let pairs = distinct_rows(Piece::new(rows::choose(node, &chosen))).node;
        let aggregates = group
            .iter()
            .map(|c| Aggregate {
                function: calls[*c].function,
                column: Some(keys),
                second: None,
                filter: None,
                output: schema.field(keys + c).clone(),
            })
            .collect();
        let op = Op::Aggregate {
            keys: (0..keys).collect(),
            aggregates,
        };
        Ok(node_of(op, pairs, part_fields(&schema, keys, group)))
    }
}

fn node_of(op: Op, input: Node, schema: arrow::datatypes::SchemaRef) -> Node {
    node(op, vec![input], schema, false)
}

/// Rows that the FILTER leaves out count as NULL, so that every group exists in every part.
fn argument(call: &Call) -> Result<Expr> {
    let x = call
        .argument
        .clone()
        .unwrap_or_else(|| datafusion_expr::lit(1i64));
    match &call.filter {
        None => Ok(x),
        Some(filter) => when(filter.clone(), x)
            .end()
            .map_err(|e| from_datafusion(&e)),
    }
}

/// The distinct calls, by argument and filter, in order of first use.
fn same_argument(calls: &[Call]) -> Result<Vec<Vec<usize>>> {
    let mut groups: Vec<(Expr, Vec<usize>)> = vec![];
    for (i, call) in calls.iter().enumerate().filter(|(_, c)| c.distinct) {
        let x = argument(call)?;
        match groups.iter_mut().find(|(have, _)| *have == x) {
            Some((_, group)) => group.push(i),
            None => groups.push((x, vec![i])),
        }
    }
    Ok(groups.into_iter().map(|(_, group)| group).collect())
}

/// The keys' fields and those of `calls`.
fn part_fields(schema: &Schema, keys: usize, calls: &[usize]) -> arrow::datatypes::SchemaRef {
    let fields: Vec<Field> = (0..keys)
        .chain(calls.iter().map(|c| keys + c))
        .map(|i| schema.field(i).clone())
        .collect();
    Arc::new(Schema::new(fields))
}

/// Side by side, matched by their leading `keys` columns.
fn join_parts(parts: Vec<Node>, keys: usize) -> Node {
    let joined = parts.into_iter().reduce(|left, right| {
        let fields: Vec<_> = left
            .schema
            .fields()
            .iter()
            .chain(right.schema.fields())
            .cloned()
            .collect();
        let op = Op::Join {
            kind: JoinKind::Inner,
            on: (0..keys).map(|k| (k, k)).collect(),
            null_equals_null: true,
            filter: None,
        };
        node(op, vec![left, right], Arc::new(Schema::new(fields)), false)
    });
    joined.expect("there is at least one aggregate")
}
