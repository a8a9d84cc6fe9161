//! `count(DISTINCT x)` and its like: aggregates over the distinct pairs of key and argument. Several arguments, or one beside plain
//! aggregates, are one aggregate: its rows are the pairs of each argument and the input's rows for the plain ones, each with NULL in the
//! columns of the others, which every aggregate passes over. All of them have rows of every group.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion_common::ScalarValue;
use datafusion_expr::{Aggregate as LogicalAggregate, Expr, LogicalPlan, when};
use datafusion_physical_expr::expressions::Literal;
use tidemill_dataflow::plan::{Aggregate, AggregateFunction, Node, Op};

use super::aggregate::{Call, Columns, distinct_rows};
use super::expr::{self, Physical};
use super::{Compiler, Piece, node, rows, schema_of};
use crate::bind::conditions::is_fallible;
use crate::error::{Result, from_datafusion};

/// Rows for some of the calls: keys, then the columns that these use.
struct Part {
    node: Node,
    /// By number of the call.
    calls: Vec<(usize, Uses)>,
}

/// Which of a part's columns behind the keys a call uses.
#[derive(Clone, Copy)]
struct Uses {
    function: AggregateFunction,
    column: Option<usize>,
    second: Option<usize>,
    filter: Option<usize>,
}

impl Compiler<'_> {
    pub(super) fn distinct_aggregates(
        &mut self,
        a: &LogicalAggregate,
        calls: &[Call],
    ) -> Result<Piece> {
        let schema = schema_of(&a.schema);
        let keys = a.group_expr.len();
        let input = self.piece(&a.input)?;
        let mut parts = vec![];
        if calls.iter().any(|c| !c.distinct) {
            parts.push(plain_part(a, &input, calls)?);
        }
        for argument in arguments(calls)? {
            parts.push(distinct_part(a, &input, calls, argument)?);
        }
        let (rows, calls_of) = side_by_side(parts, keys)?;
        let mut uses = calls_of;
        uses.sort_by_key(|(call, _)| *call);
        let aggregates = uses.into_iter().map(|(call, uses)| Aggregate {
            function: uses.function,
            column: uses.column,
            second: uses.second,
            filter: uses.filter,
            output: schema.field(keys + call).clone(),
        });
        let op = Op::Aggregate {
            keys: (0..keys).collect(),
            aggregates: aggregates.collect(),
        };
        let node = node(op, vec![rows], schema, false);
        Ok(Piece::new(node).unique(Some((0..keys).collect())))
    }
}

/// The input's rows for the calls without DISTINCT.
fn plain_part(a: &LogicalAggregate, input: &Piece, calls: &[Call]) -> Result<Part> {
    let mut part = PartColumns::of(&a.input, &a.group_expr)?;
    let mut of_calls = vec![];
    for (i, call) in calls.iter().enumerate().filter(|(_, c)| !c.distinct) {
        let mut function = call.function;
        let mut argument = call.argument.clone();
        if function == AggregateFunction::CountStar {
            // The others' rows don't count.
            function = AggregateFunction::Count;
            argument = Some(datafusion_expr::lit(true));
        }
        let mut place = |e: &Option<Expr>| e.as_ref().map(|e| part.add(e)).transpose();
        let uses = Uses {
            function,
            column: place(&argument)?,
            second: place(&call.second)?,
            filter: place(&call.filter)?,
        };
        of_calls.push((i, uses));
    }
    Ok(Part {
        node: part.over(input)?,
        calls: of_calls,
    })
}

/// An argument of DISTINCT calls.
struct Argument {
    of: Expr,
    /// The calls, and which of the filters is theirs.
    calls: Vec<(usize, Option<usize>)>,
    filters: Vec<Expr>,
}

/// Each key with each value of the argument once, and whether a filter was true of any such row.
fn distinct_part(
    a: &LogicalAggregate,
    input: &Piece,
    calls: &[Call],
    argument: Argument,
) -> Result<Part> {
    let keys = a.group_expr.len();
    let mut part = PartColumns::of(&a.input, &a.group_expr)?;
    part.add(&argument.of)?;
    let filters = argument.filters.iter().map(|f| part.add(f));
    let filters = filters.collect::<Result<Vec<_>>>()?;
    let rows = part.over(input)?;
    let node = match filters.is_empty() {
        true => distinct_rows(Piece::new(rows)).node,
        false => {
            let flag = |at: &usize| Aggregate {
                function: AggregateFunction::BoolOr,
                column: Some(keys + at),
                second: None,
                filter: None,
                output: rows.schema.field(keys + at).clone(),
            };
            let aggregates: Vec<Aggregate> = filters.iter().map(flag).collect();
            let pair = rows.schema.fields()[..=keys].iter();
            let fields = pair.map(|f| f.as_ref().clone());
            let fields = fields.chain(aggregates.iter().map(|a| a.output.clone()));
            let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
            let op = Op::Aggregate {
                keys: (0..=keys).collect(),
                aggregates,
            };
            node(op, vec![rows], schema, false)
        }
    };
    let uses = |(call, filter): (usize, Option<usize>)| {
        let uses = Uses {
            function: calls[call].function,
            column: Some(0),
            second: None,
            filter: filter.map(|f| 1 + f),
        };
        (call, uses)
    };
    Ok(Part {
        node,
        calls: argument.calls.into_iter().map(uses).collect(),
    })
}

/// The columns of a part: keys, then what is added, each a column of its own even if it is a key.
struct PartColumns<'a> {
    columns: Columns<'a>,
    /// Their numbers there.
    chosen: Vec<usize>,
    keys: usize,
}

impl<'a> PartColumns<'a> {
    fn of(input: &'a LogicalPlan, keys: &[Expr]) -> Result<Self> {
        let mut columns = Columns::of(input);
        let chosen = keys.iter().map(|k| columns.add(k));
        Ok(PartColumns {
            chosen: chosen.collect::<Result<_>>()?,
            columns,
            keys: keys.len(),
        })
    }

    /// Which column behind the keys has `e`.
    fn add(&mut self, e: &Expr) -> Result<usize> {
        let at = self.columns.add(e)?;
        let added = &self.chosen[self.keys..];
        Ok(added.iter().position(|i| *i == at).unwrap_or_else(|| {
            self.chosen.push(at);
            self.chosen.len() - 1 - self.keys
        }))
    }

    fn over(&self, input: &Piece) -> Result<Node> {
        let (node, places) = self.columns.over(input.node.clone())?;
        let chosen: Vec<usize> = self.chosen.iter().map(|i| places[*i]).collect();
        Ok(rows::choose(node, &chosen))
    }
}

/// The distinct calls by argument. Calls with filters share the argument's pairs if nothing fails for rows that no filter lets through; by
/// itself, a filter's rows are pairs of their own, and what it leaves out counts as NULL.
fn arguments(calls: &[Call]) -> Result<Vec<Argument>> {
    let mut found: Vec<Argument> = vec![];
    let distinct = || calls.iter().enumerate().filter(|(_, c)| c.distinct);
    let one = || datafusion_expr::lit(1i64);
    for (i, call) in distinct() {
        let of = call.argument.clone().unwrap_or_else(one);
        let same = |other: &Call| other.argument == call.argument;
        let unfiltered = distinct().any(|(_, c)| same(c) && c.filter.is_none());
        let several = distinct().any(|(_, c)| same(c) && c.filter != call.filter);
        let (of, filter) = match &call.filter {
            Some(filter) if !several || is_fallible(&of) && !unfiltered => {
                let only = when(filter.clone(), of).end();
                (only.map_err(|e| from_datafusion(&e))?, None)
            }
            filter => (of, filter.clone()),
        };
        let at = match found.iter().position(|a| a.of == of) {
            Some(at) => at,
            None => {
                found.push(Argument {
                    of,
                    calls: vec![],
                    filters: vec![],
                });
                found.len() - 1
            }
        };
        let argument = &mut found[at];
        let filter = filter.map(|f| {
            let have = argument.filters.iter().position(|have| *have == f);
            have.unwrap_or_else(|| {
                argument.filters.push(f);
                argument.filters.len() - 1
            })
        });
        argument.calls.push((i, filter));
    }
    Ok(found)
}

/// The rows of all parts, each with NULL in the others' columns, and where the calls find theirs.
fn side_by_side(parts: Vec<Part>, keys: usize) -> Result<(Node, Vec<(usize, Uses)>)> {
    let alone = parts.len() == 1;
    let mut fields: Vec<Field> = vec![];
    let mut calls = vec![];
    let mut begins = vec![];
    for part in &parts {
        let schema = &part.node.schema;
        let from = if fields.is_empty() { 0 } else { keys };
        let own = schema.fields()[from..].iter();
        begins.push(fields.len().max(keys));
        fields.extend(own.map(|f| f.as_ref().clone()));
        let begin = begins[begins.len() - 1];
        let moved = |at: Option<usize>| at.map(|at| begin + at);
        calls.extend(part.calls.iter().map(|(call, uses)| {
            let uses = Uses {
                function: uses.function,
                column: moved(uses.column),
                second: moved(uses.second),
                filter: moved(uses.filter),
            };
            (*call, uses)
        }));
    }
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    let mut branches = vec![];
    for (part, begin) in parts.into_iter().zip(begins) {
        if alone {
            return Ok((part.node, calls));
        }
        branches.push(widened(part.node, begin, keys, &schema)?);
    }
    let append_only = branches.iter().all(|b| b.append_only);
    Ok((node(Op::Union, branches, schema, append_only), calls))
}

/// The rows of a part in the columns of `schema`: its own ones behind the keys stand from `begin`.
fn widened(part: Node, begin: usize, keys: usize, schema: &SchemaRef) -> Result<Node> {
    let end = begin + part.schema.fields().len() - keys;
    let column = |i: usize| -> Result<Physical> {
        if i < keys {
            return Ok(expr::column(&part.schema, i));
        }
        if (begin..end).contains(&i) {
            return Ok(expr::column(&part.schema, keys + i - begin));
        }
        let null = ScalarValue::try_new_null(schema.field(i).data_type());
        Ok(Arc::new(Literal::new(
            null.map_err(|e| from_datafusion(&e))?,
        )))
    };
    let exprs = (0..schema.fields().len()).map(column);
    let exprs = exprs.collect::<Result<Vec<_>>>()?;
    Ok(rows::map(part, None, Some((exprs, schema.clone()))))
}
