//! `row_number() OVER (PARTITION BY key ORDER BY …) <= n`, and so with rank() and dense_rank(): the first rows of each key have an operator of their own.
//! DISTINCT ON, LIMIT in a LATERAL subquery, ORDER BY … LIMIT and FETCH FIRST … WITH TIES come here too.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema};
use datafusion_common::{Column, DFSchema, Result, ScalarValue};
use datafusion_expr::expr::Sort as SortExpr;
use datafusion_expr::logical_plan::{Filter, Projection, Window};
use datafusion_expr::utils::{conjunction, split_conjunction_owned};
use datafusion_expr::{BinaryExpr, Expr, LogicalPlan, Operator, WindowFunctionDefinition};
use datafusion_physical_expr::expressions::Literal;
use tidemill_dataflow::plan::{Node, Numbering, Op, OrderBy};

use super::expr::{self, Physical, has_subquery, unalias};
use super::first_rows::FIRST_ROWS_MAX;
use super::nearest::{First, nearest};
use super::windows::Windows;
use super::{Compiler, Piece, node, rows, schema_of};
use crate::error::{self, from_datafusion};

/// A window that only numbers rows, of which a filter lets the first through.
struct FirstRows<'p> {
    window: &'p Window,
    partition: Vec<Expr>,
    order: Vec<SortExpr>,
    /// Choices of columns between the window and the filter, from the top.
    between: Vec<&'p Projection>,
    /// The column of the numbers, as the filter calls it.
    number: Column,
    numbering: Numbering,
    count: u64,
    /// What else the filter asks for.
    rest: Option<Expr>,
}

impl<'p> FirstRows<'p> {
    /// Those of the window that `filter` stands over.
    fn of(filter: &'p Filter) -> Option<Self> {
        let mut between = vec![];
        let mut at = filter.input.as_ref();
        let window = loop {
            match at {
                LogicalPlan::Window(window) => break window,
                LogicalPlan::Projection(p) if chooses(p) => {
                    between.push(p);
                    at = &p.input;
                }
                _ => return None,
            }
        };
        let [call] = window.window_expr.as_slice() else {
            return None;
        };
        let Expr::WindowFunction(w) = unalias(call) else {
            return None;
        };
        let WindowFunctionDefinition::WindowUDF(function) = &w.fun else {
            return None;
        };
        let numbering = match function.name() {
            "row_number" => Numbering::RowNumber,
            "rank" => Numbering::Rank,
            "dense_rank" => Numbering::DenseRank,
            _ => return None,
        };
        if matches!(*window.input, LogicalPlan::Sort(_)) {
            return None;
        }
        let mut number = window.schema.columns().pop()?;
        for p in between.iter().rev() {
            let mut places = (0..p.expr.len()).filter(|i| is_column(&p.expr[*i], &number));
            let (at, None) = (places.next()?, places.next()) else {
                return None;
            };
            number = p.schema.columns().swap_remove(at);
        }

        let (count, rest) = bound(filter, &number)?;
        Some(FirstRows {
            window,
            partition: w.params.partition_by.clone(),
            order: w.params.order_by.clone(),
            between,
            number,
            numbering,
            count,
            rest,
        })
    }

    /// Whether somebody of the nodes above, from the top, or above these looks at the numbers.
    fn wants_numbers(&self, above: &[&LogicalPlan]) -> bool {
        let mut number = self.number.clone();
        let uses = |e: &Expr, number: &Column| e.column_refs().contains(number);
        if self.rest.as_ref().is_some_and(|e| uses(e, &number)) {
            return true;
        }
        for above in above.iter().rev() {
            match above {
                LogicalPlan::Filter(f) if uses(&f.predicate, &number) => return true,
                LogicalPlan::Projection(p) => {
                    let mut places = (0..p.expr.len()).filter(|i| uses(&p.expr[*i], &number));
                    match (places.next(), places.next()) {
                        (None, _) => return false,
                        (Some(at), None) => number = p.schema.columns().swap_remove(at),
                        _ => return true,
                    }
                }
                LogicalPlan::SubqueryAlias(alias) => {
                    number.relation = Some(alias.alias.clone());
                }
                _ => {}
            }
        }
        true
    }
}

fn is_column(e: &Expr, column: &Column) -> bool {
    matches!(unalias(e), Expr::Column(c) if c == column)
}

/// Whether it computes nothing.
pub(super) fn chooses(p: &Projection) -> bool {
    let column = |e: &Expr| matches!(unalias(e), Expr::Column(_));
    p.expr.iter().all(column)
}

/// Whether the node lets the first rows of each key of a window through.
pub(super) fn is_first_rows(node: &LogicalPlan) -> bool {
    matches!(node, LogicalPlan::Filter(filter) if FirstRows::of(filter).is_some())
}

/// How many numbers from 1 on the filter lets through, if its conditions say so, and the other conditions.
fn bound(filter: &Filter, number: &Column) -> Option<(u64, Option<Expr>)> {
    let mut rest = split_conjunction_owned(filter.predicate.clone());
    rest.retain(|e| !is_always(e, number));

    let bounds = rest.iter().map(|e| most(e, number)).enumerate();
    let (at, count) = bounds
        .filter_map(|(i, most)| Some((i, most?)))
        .min_by_key(|(_, most)| *most)?;
    // An equality says more than its bound, unless it is with the first.
    let equality = matches!(&rest[at], Expr::BinaryExpr(b) if b.op == Operator::Eq);
    if !equality || count == 1 {
        rest.remove(at);
    }
    Some((count, conjunction(rest)))
}

/// The largest number that the condition allows.
fn most(e: &Expr, number: &Column) -> Option<u64> {
    match compared(e, number)? {
        (Operator::LtEq | Operator::Eq, n) => Some(n),
        (Operator::Lt, n) => Some(n.saturating_sub(1)),
        _ => None,
    }
}

/// Whether the condition says what is so of numbers from 1 on.
fn is_always(e: &Expr, number: &Column) -> bool {
    matches!(
        compared(e, number),
        Some((Operator::Gt, 0) | (Operator::GtEq, 0 | 1))
    )
}

/// How the condition compares the number, and with what.
fn compared(e: &Expr, number: &Column) -> Option<(Operator, u64)> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = e else {
        return None;
    };
    let (literal, op) = match (left.as_ref(), right.as_ref()) {
        (Expr::Column(c), Expr::Literal(v, _)) if c == number => (v, *op),
        (Expr::Literal(v, _), Expr::Column(c)) if c == number => (v, op.swap()?),
        _ => return None,
    };
    match literal {
        ScalarValue::UInt64(Some(n)) => Some((op, *n)),
        _ => None,
    }
}

impl Compiler<'_> {
    /// The first rows of each key, if that is all that the windows are for.
    pub(super) fn first_of_each(
        &mut self,
        top: &LogicalPlan,
        windows: &Windows<'_>,
    ) -> error::Result<Option<Piece>> {
        let is_window = |n: &&&LogicalPlan| matches!(n, LogicalPlan::Window(_));
        if windows.nodes.iter().filter(is_window).count() > 1 {
            // One program for all of them keeps no rows between them.
            return Ok(None);
        }
        let is_filtered = |n: &&LogicalPlan| is_first_rows(n);

        let Some(at) = windows.nodes.iter().position(is_filtered) else {
            return Ok(None);
        };
        let (above, LogicalPlan::Filter(filter)) = (&windows.nodes[..at], windows.nodes[at]) else {
            return Ok(None);
        };
        let Some(first) = FirstRows::of(filter) else {
            return Ok(None);
        };
        self.first_numbers(top, above, filter, &first).map(Some)
    }

    /// The first rows of all, if `top` is those of a window without a key, or a choice of columns or rows of them.
    pub(super) fn first_of_all(&mut self, top: &LogicalPlan) -> error::Result<Option<Piece>> {
        let (mut above, mut at) = (vec![], top);
        let (filter, first) = loop {
            match at {
                LogicalPlan::Projection(p) if chooses(p) => {
                    above.push(at);
                    at = &p.input;
                }
                LogicalPlan::SubqueryAlias(alias) => {
                    above.push(at);
                    at = &alias.input;
                }
                LogicalPlan::Filter(filter) if has_subquery(&filter.predicate) => return Ok(None),
                LogicalPlan::Filter(filter) => match FirstRows::of(filter) {
                    Some(first) => break (filter, first),
                    None => {
                        above.push(at);
                        at = &filter.input;
                    }
                },
                _ => return Ok(None),
            }
        };
        if !first.partition.is_empty()
            || first.count > FIRST_ROWS_MAX
            || !self.reads(&first.window.input)?
        {
            return Ok(None);
        }
        self.first_numbers(top, &above, filter, &first).map(Some)
    }

    /// `above`, from the top, over the rows of `filter` that `first` says.
    fn first_numbers(
        &mut self,
        top: &LogicalPlan,
        above: &[&LogicalPlan],
        filter: &Filter,
        first: &FirstRows<'_>,
    ) -> error::Result<Piece> {
        let input = rows::strip(self.piece(&first.window.input)?);
        let wanted = Wanted {
            order: &first.order,
            numbering: first.numbering,
            count: first.count,
            named: first.window.input.schema(),
        };
        let numbered = first.wants_numbers(above);
        let node = match first.partition.is_empty() {
            true => wanted.of_parts(input.node)?,
            false => input.node,
        };
        let build = || -> Result<Piece> {
            let (node, keys) = wanted.of_each(node, &first.partition, numbered)?;
            let unique = match (first.numbering, first.count) {
                // Only the key's first row.
                (Numbering::RowNumber, 1) => keys.filter(|keys| !keys.is_empty()).or(input.unique),
                _ => input.unique,
            };
            let mut piece = Piece::new(node).unique(unique);
            for between in first.between.iter().rev() {
                piece = chosen(piece, between)?;
            }
            if let Some(rest) = &first.rest {
                piece.node = filtered(piece.node, rest, filter.input.schema())?;
            }
            for above in above.iter().rev() {
                piece = over(piece, above)?;
            }
            Ok(piece)
        };
        let piece = build().map_err(|e| from_datafusion(&e))?;
        let node = Node {
            schema: schema_of(top.schema()),
            ..piece.node
        };
        Ok(Piece::new(node).unique(piece.unique))
    }
}

fn filtered(input: Node, predicate: &Expr, schema: &DFSchema) -> Result<Node> {
    Ok(rows::map(
        input,
        Some(expr::physical(predicate, schema)?),
        None,
    ))
}

/// A filter or a choice of columns over `input`.
fn over(input: Piece, above: &LogicalPlan) -> Result<Piece> {
    match above {
        LogicalPlan::Filter(f) => {
            let node = filtered(input.node, &f.predicate, f.input.schema())?;
            Ok(Piece::new(node).unique(input.unique))
        }
        LogicalPlan::Projection(p) => chosen(input, p),
        LogicalPlan::SubqueryAlias(_) => Ok(input),
        other => datafusion_common::internal_err!("{} over first rows", other.display()),
    }
}

/// A choice of columns. The number comes last, and is NULL if it hasn't been made.
fn chosen(input: Piece, p: &Projection) -> Result<Piece> {
    let width = input.node.schema.fields().len();
    let physical = |e: &Expr| -> Result<Physical> {
        let physical = expr::physical(unalias(e), p.input.schema())?;
        Ok(match expr::as_column(&physical) {
            Some(column) if column >= width => Arc::new(Literal::new(ScalarValue::UInt64(None))),
            _ => physical,
        })
    };
    let exprs = p.expr.iter().map(physical);
    let exprs = exprs.collect::<Result<Vec<Physical>>>()?;
    let unique = rows::unique_through(&input.unique, &exprs);
    let node = rows::map(input.node, None, Some((exprs, schema_of(&p.schema))));
    Ok(Piece::new(node).unique(unique))
}

/// Rows of an input that are wanted, by their numbers.
pub(super) struct Wanted<'a> {
    /// What the rows are ordered by.
    pub order: &'a [SortExpr],
    /// How they are numbered.
    pub numbering: Numbering,
    /// The largest number.
    pub count: u64,
    /// The columns of the input.
    pub named: &'a DFSchema,
}

impl Wanted<'_> {
    /// The operator over `input`, with the input's columns and perhaps the numbers behind; and the columns of the keys, if all of them are of the input.
    pub fn of_each(
        &self,
        input: Node,
        keys: &[Expr],
        numbered: bool,
    ) -> Result<(Node, Option<Vec<usize>>)> {
        let width = input.schema.fields().len();
        let mut exprs: Vec<Physical> = (0..width).map(|i| expr::column(&input.schema, i)).collect();
        let mut fields: Vec<Field> = (input.schema.fields().iter())
            .map(|f| f.as_ref().clone())
            .collect();
        let mut column = |e: &Expr| -> Result<Option<usize>> {
            if matches!(unalias(e), Expr::Literal(..)) {
                return Ok(None);
            }
            let physical = expr::physical(unalias(e), self.named)?;
            let have = exprs.iter().position(|have| **have == *physical);
            Ok(Some(match have {
                Some(at) => at,
                None => {
                    let field = physical.return_field(&input.schema)?;
                    let name = format!("__by_{}", exprs.len());
                    fields.push(field.as_ref().clone().with_name(name).with_nullable(true));
                    exprs.push(physical);
                    exprs.len() - 1
                }
            }))
        };
        let mut key_columns = vec![];
        for key in keys {
            key_columns.extend(column(key)?.filter(|c| !key_columns.contains(c)));
        }
        let mut order_by: Vec<OrderBy> = vec![];
        for sort in self.order {
            let Some(column) = column(&sort.expr)? else {
                continue;
            };
            // A later key that is an earlier one again decides nothing.
            if order_by.iter().all(|have| have.column != column) {
                order_by.push(OrderBy {
                    column,
                    descending: !sort.asc,
                    nulls_first: sort.nulls_first,
                });
            }
        }
        let whole = exprs.len();
        let schema = Arc::new(Schema::new(fields));
        let input = match whole == width {
            true => input,
            false => rows::map(input, None, Some((exprs, schema.clone()))),
        };
        let first = First {
            by: &key_columns,
            order: &order_by,
            count: self.count,
        };
        let fewer = match self.numbering {
            Numbering::RowNumber => nearest(&input, first)?,
            Numbering::Rank | Numbering::DenseRank => None,
        };
        let input = fewer.unwrap_or(input);
        let mut fields: Vec<Field> = (schema.fields().iter())
            .map(|f| f.as_ref().clone())
            .collect();
        if numbered {
            fields.push(Field::new(NUMBER, arrow::datatypes::DataType::UInt64, true));
        }
        let of_input = key_columns.iter().all(|c| *c < width);
        let unique = of_input.then(|| key_columns.clone());
        let op = Op::TopK {
            keys: key_columns,
            order: order_by,
            numbering: self.numbering,
            count: self.count,
            numbered,
        };
        let first = node(op, vec![input], Arc::new(Schema::new(fields)), false);
        if whole == width {
            return Ok((first, unique));
        }
        let mut back: Vec<usize> = (0..width).collect();
        back.extend(numbered.then_some(whole));
        Ok((rows::choose(first, &back), unique))
    }
}

/// The column of a row's number.
const NUMBER: &str = "__number";
