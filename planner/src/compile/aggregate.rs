//! GROUP BY: the specialised aggregates, several sets of keys, and what the general operator must do.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion_common::ScalarValue;
use datafusion_expr::expr::{AggregateFunctionParams, GroupingSet};
use datafusion_expr::{Aggregate as LogicalAggregate, Expr, LogicalPlan};
use datafusion_physical_expr::expressions::{Literal, cast};
use tidemill_dataflow::operators::aggregate::supports;
use tidemill_dataflow::plan::{Aggregate, AggregateFunction, Node, Op};

use super::expr::{self, Physical, unalias};
use super::extremes::extreme;
use super::{Compiler, Piece, node, rows, schema_of};
use crate::error::{Result, SqlError, from_datafusion};
use crate::functions::moments;

/// Grouping sets up to which each gets an operator of its own; a cube of n keys has 2^n.
const SETS_MAX: usize = 64;

/// One aggregate of the query as the operator can compute it.
#[derive(Clone)]
pub(super) struct Call {
    pub function: AggregateFunction,
    /// `None`: count(*).
    pub argument: Option<Expr>,
    /// The other value of a pair.
    pub second: Option<Expr>,
    pub filter: Option<Expr>,
    pub distinct: bool,
}

/// Columns of an aggregate's input: each distinct expression once.
pub(super) struct Columns<'a> {
    input: &'a LogicalPlan,
    exprs: Vec<(Expr, Physical)>,
}

impl<'a> Columns<'a> {
    pub(super) fn of(input: &'a LogicalPlan) -> Self {
        Columns {
            input,
            exprs: vec![],
        }
    }

    /// The number of the column that holds `e`.
    pub(super) fn add(&mut self, e: &Expr) -> Result<usize> {
        let e = unalias(e);
        if let Some(i) = self.exprs.iter().position(|(have, _)| have == e) {
            return Ok(i);
        }
        let physical = expr::physical(e, self.input.schema()).map_err(|e| from_datafusion(&e))?;
        self.exprs.push((e.clone(), physical));
        Ok(self.exprs.len() - 1)
    }

    /// The node that has these columns, and where they are in it.
    pub(super) fn over(&self, input: Node) -> Result<(Node, Vec<usize>)> {
        let plain: Option<Vec<usize>> =
            self.exprs.iter().map(|(_, p)| expr::as_column(p)).collect();
        if let Some(columns) = plain {
            return Ok((input, columns));
        }
        let fields = self
            .exprs
            .iter()
            .map(|(e, p)| {
                let field = p
                    .return_field(&input.schema)
                    .map_err(|e| from_datafusion(&e))?;
                let name = e.schema_name().to_string();
                Ok(field.as_ref().clone().with_name(name).with_nullable(true))
            })
            .collect::<Result<Vec<Field>>>()?;
        let exprs = self.exprs.iter().map(|(_, p)| Arc::clone(p)).collect();
        let columns = (0..fields.len()).collect();
        Ok((
            rows::map(input, None, Some((exprs, Arc::new(Schema::new(fields))))),
            columns,
        ))
    }
}

/// The aggregate as a [`Call`], or why no operator has it.
fn call(e: &Expr, output: &Field, input: &LogicalPlan) -> std::result::Result<Call, String> {
    let Expr::AggregateFunction(f) = unalias(e) else {
        return Err(format!("{e} is not an aggregate"));
    };
    let AggregateFunctionParams {
        args,
        distinct,
        filter,
        ..
    } = &f.params;
    let name = f.func.name();
    let unknown = || Err(format!("{name}() has no incremental form"));
    let (argument, second) = match args.as_slice() {
        [argument] => (argument, None),
        [argument, second] if name == moments::NAME && !distinct => (argument, Some(second)),
        _ => return unknown(),
    };
    let of = expr::physical(argument, input.schema())
        .and_then(|p| p.data_type(input.schema().as_arrow()))
        .map_err(|e| e.to_string())?;
    let literal = matches!(unalias(argument), Expr::Literal(v, _) if !v.is_null());
    let function = match name {
        "count" if literal && !distinct => AggregateFunction::CountStar,
        "count" => AggregateFunction::Count,
        "sum" => AggregateFunction::Sum,
        "avg" => AggregateFunction::Avg,
        "min" => AggregateFunction::Min,
        "max" => AggregateFunction::Max,
        "bool_and" => AggregateFunction::BoolAnd,
        "bool_or" => AggregateFunction::BoolOr,
        moments::NAME => AggregateFunction::Moments,
        _ => return unknown(),
    };
    if !supports(function, &of, output.data_type()) {
        return Err(format!("{name}({of}) has no incremental form"));
    }
    use AggregateFunction::*;
    Ok(Call {
        argument: (function != CountStar).then(|| unalias(argument).clone()),
        second: second.map(|e| unalias(e).clone()),
        filter: filter.as_deref().cloned(),
        // A second equal value changes nothing for these.
        distinct: *distinct && matches!(function, Count | Sum | Avg | Moments),
        function,
    })
}

impl Compiler<'_> {
    pub(super) fn aggregate(&mut self, plan: &LogicalPlan, a: &LogicalAggregate) -> Result<Piece> {
        let keys = match a.group_expr.as_slice() {
            [Expr::GroupingSet(sets)] if number_of_sets(sets) <= SETS_MAX => {
                return self.grouping_sets(a, &each_set(sets));
            }
            keys if keys.iter().any(|k| matches!(k, Expr::GroupingSet(_))) => {
                return self.recompute(plan, "grouping sets");
            }
            keys => keys,
        };
        let outputs = &schema_of(&a.schema).fields()[keys.len()..].to_vec();
        let calls: std::result::Result<Vec<Call>, String> = a
            .aggr_expr
            .iter()
            .zip(outputs)
            .map(|(e, field)| call(e, field, &a.input))
            .collect();
        let calls = match calls {
            Ok(calls) => calls,
            Err(reason) => return self.keyed(plan, &a.input, keys, &reason),
        };
        if calls.iter().any(|c| c.distinct) {
            return self.distinct_aggregates(a, &calls);
        }
        let input = self.piece(&a.input)?;
        self.grouped(input, &a.input, keys, &calls, schema_of(&a.schema))
    }

    /// The aggregate by its keys. `schema`: keys, then one column per call. Keys that are constants group
    /// nothing: they are put back afterwards.
    pub(super) fn grouped(
        &mut self,
        input: Piece,
        logical: &LogicalPlan,
        keys: &[Expr],
        calls: &[Call],
        schema: SchemaRef,
    ) -> Result<Piece> {
        let is_constant = |e: &Expr| matches!(unalias(e), Expr::Literal(..));
        let varying: Vec<usize> = (0..keys.len())
            .filter(|i| !is_constant(&keys[*i]))
            .collect();
        if varying.is_empty() || varying.len() == keys.len() {
            return self.operator(input, logical, keys, calls, schema);
        }
        let kept: Vec<Expr> = varying.iter().map(|i| keys[*i].clone()).collect();
        let columns: Vec<usize> = varying
            .iter()
            .copied()
            .chain(keys.len()..schema.fields().len())
            .collect();
        let fields: Vec<Field> = columns.iter().map(|i| schema.field(*i).clone()).collect();
        let grouped = self
            .operator(input, logical, &kept, calls, Arc::new(Schema::new(fields)))?
            .node;
        let constant = |e: &Expr| expr::physical(unalias(e), logical.schema());
        let back = (0..schema.fields().len()).map(|i| match columns.iter().position(|c| *c == i) {
            Some(at) => Ok(expr::column(&grouped.schema, at)),
            None => constant(&keys[i]).map_err(|e| from_datafusion(&e)),
        });
        let exprs = back.collect::<Result<Vec<Physical>>>()?;
        let node = rows::map(grouped, None, Some((exprs, schema)));
        Ok(Piece::new(node).unique(Some(varying)))
    }

    /// The specialised operator.
    fn operator(
        &mut self,
        input: Piece,
        logical: &LogicalPlan,
        keys: &[Expr],
        calls: &[Call],
        schema: SchemaRef,
    ) -> Result<Piece> {
        let mut columns = Columns::of(logical);
        let keys: Vec<usize> = keys.iter().map(|k| columns.add(k)).collect::<Result<_>>()?;
        let mut arguments = vec![];
        for c in calls {
            let argument = c.argument.as_ref().map(|e| columns.add(e)).transpose()?;
            let second = c.second.as_ref().map(|e| columns.add(e)).transpose()?;
            let filter = c.filter.as_ref().map(|e| columns.add(e)).transpose()?;
            arguments.push((argument, second, filter));
        }
        let (input, at) = columns.over(input.node)?;
        let keys: Vec<usize> = keys.into_iter().map(|k| at[k]).collect();
        let width = keys.len();
        let aggregates: Vec<Aggregate> = calls
            .iter()
            .zip(arguments)
            .enumerate()
            .map(|(i, (c, (argument, second, filter)))| Aggregate {
                function: c.function,
                column: argument.map(|a| at[a]),
                second: second.map(|s| at[s]),
                filter: filter.map(|f| at[f]),
                output: schema.field(width + i).clone(),
            })
            .collect();
        // DISTINCT of insertions is insertions only; an aggregate's row is replaced.
        let append_only = aggregates.is_empty() && input.append_only;
        let fewer = extreme(&input, &keys, &aggregates).map_err(|e| from_datafusion(&e))?;
        let input = fewer.unwrap_or(input);
        let op = Op::Aggregate { keys, aggregates };
        let piece = Piece::new(node(op, vec![input], schema, append_only));
        Ok(piece.unique(Some((0..width).collect())))
    }

    /// SELECT DISTINCT: all columns are keys.
    pub(super) fn distinct(&mut self, input: &LogicalPlan) -> Result<Piece> {
        let piece = rows::strip(self.piece(input)?);
        Ok(distinct_rows(piece))
    }

    /// One aggregate per set of keys, each with NULL for the keys that it leaves out, and the set's number; all over one
    /// input.
    fn grouping_sets(&mut self, a: &LogicalAggregate, sets: &[Vec<Expr>]) -> Result<Piece> {
        let schema = schema_of(&a.schema);
        // In the order in which DataFusion has them in its output.
        let mut all: Vec<Expr> = vec![];
        for e in a.group_expr.iter().flat_map(|e| match e {
            Expr::GroupingSet(sets) => sets.distinct_expr(),
            e => vec![e],
        }) {
            if !all.contains(e) {
                all.push(e.clone());
            }
        }
        let input = self.piece(&a.input)?;
        self.compiled.push((a.input.clone(), input));
        let mut branches = vec![];
        let mut seen: Vec<u64> = vec![];
        for set in sets {
            let missing = all
                .iter()
                .fold(0u64, |mask, e| mask << 1 | u64::from(!set.contains(e)));
            let ordinal = seen.iter().filter(|m| **m == missing).count() as u64;
            seen.push(missing);
            let id = ordinal << all.len() | missing;
            branches.push(self.grouping_set(a, &all, set, id, &schema)?);
        }
        self.compiled.pop();
        Ok(Piece::new(node(Op::Union, branches, schema, false)))
    }

    /// The groups by the keys in `set`, in the columns of `schema`: `all` keys, the number `id`, the aggregates.
    fn grouping_set(
        &mut self,
        a: &LogicalAggregate,
        all: &[Expr],
        set: &[Expr],
        id: u64,
        schema: &SchemaRef,
    ) -> Result<Node> {
        let keys: Vec<Expr> = all.iter().filter(|e| set.contains(e)).cloned().collect();
        let place = |e: &Expr| keys.iter().position(|k| k == e);
        let grouped = if keys.is_empty() && a.aggr_expr.is_empty() {
            // One row of no columns, which is no aggregate to DataFusion.
            let input = self.piece(&a.input)?;
            self.grouped(input, &a.input, &[], &[], Arc::new(Schema::empty()))?
        } else {
            let calls = a.aggr_expr.clone();
            let of_set = LogicalAggregate::try_new(a.input.clone(), keys.clone(), calls)
                .map_err(|e| from_datafusion(&e))?;
            self.aggregate(&LogicalPlan::Aggregate(of_set.clone()), &of_set)?
        };
        let grouped = grouped.node;
        let mut exprs: Vec<Physical> = vec![];
        for (i, e) in all.iter().enumerate() {
            exprs.push(match place(e) {
                Some(at) => expr::column(&grouped.schema, at),
                None => {
                    let null = ScalarValue::try_new_null(schema.field(i).data_type());
                    Arc::new(Literal::new(null.map_err(|e| from_datafusion(&e))?))
                }
            });
        }
        let number: Physical = Arc::new(Literal::new(ScalarValue::UInt64(Some(id))));
        let to = schema.field(all.len()).data_type().clone();
        let number =
            cast(number, &grouped.schema, to).map_err(|e| SqlError::internal(e.to_string()))?;
        exprs.push(number);
        let calls = 0..a.aggr_expr.len();
        exprs.extend(calls.map(|i| expr::column(&grouped.schema, keys.len() + i)));
        Ok(rows::map(grouped, None, Some((exprs, schema.clone()))))
    }
}

/// How many sets of keys are meant.
fn number_of_sets(sets: &GroupingSet) -> usize {
    match sets {
        GroupingSet::GroupingSets(sets) => sets.len(),
        GroupingSet::Rollup(exprs) => exprs.len() + 1,
        GroupingSet::Cube(exprs) => 1usize.checked_shl(exprs.len() as u32).unwrap_or(usize::MAX),
    }
}

/// The sets of keys that are meant.
pub(super) fn each_set(sets: &GroupingSet) -> Vec<Vec<Expr>> {
    match sets {
        GroupingSet::GroupingSets(sets) => sets.clone(),
        GroupingSet::Rollup(exprs) => (0..=exprs.len())
            .rev()
            .map(|n| exprs[..n].to_vec())
            .collect(),
        GroupingSet::Cube(exprs) => {
            let chosen = |mask: usize| {
                let taken = exprs
                    .iter()
                    .enumerate()
                    .filter(move |(i, _)| mask >> i & 1 == 1);
                taken.map(|(_, e)| e.clone()).collect()
            };
            (0..1usize << exprs.len()).rev().map(chosen).collect()
        }
    }
}

/// Each row of `piece` once.
pub(super) fn distinct_rows(piece: Piece) -> Piece {
    let all: Vec<usize> = (0..piece.width).collect();
    let (schema, append_only) = (piece.node.schema.clone(), piece.node.append_only);
    // A key among the columns already makes the rows distinct.
    if piece.unique.is_some() {
        return piece;
    }
    let op = Op::Aggregate {
        keys: all.clone(),
        aggregates: vec![],
    };
    Piece::new(node(op, vec![piece.node], schema, append_only)).unique(Some(all))
}
