//! The end of a query: ORDER BY, LIMIT, OFFSET and FETCH.

use std::cell::RefCell;
use std::collections::HashSet;

use datafusion_common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion_common::{Column, ScalarValue};
use datafusion_expr::expr::{Sort, WindowFunction};
use datafusion_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Operator};
use sqlparser::ast::{self, Expr as E, FunctionArg, FunctionArgExpr, OrderByKind};
use tidemill_zset::schema::SqlType;

use super::expr::{Ctx, strip};
use super::scope::{Outer, Scope};
use super::select::Item;
use super::{
    Binder, Ctes, Rel, Typed, builder, columns_of, df, filter, literal, only, project, truth,
};
use crate::compile::decorrelate::names::{replace_outer, subquery_of, with_subquery};
use crate::compile::order::by_rounds;
use crate::compile::own_order::own_order;
use crate::error::{Result, SqlError};
use crate::functions::cast::Context;
use crate::functions::single::{Clause, number_of_rows};
use crate::once::is_volatile_value;
use crate::parser::spelling_queries::TIES;
use crate::parser::{fold, parts, position};
use crate::tree::{PlanTree, Tree};

/// ORDER BY, LIMIT and OFFSET of the query around a SELECT.
#[derive(Default)]
pub(crate) struct Tail<'q> {
    pub order_by: Vec<&'q ast::OrderByExpr>,
    pub limit: Option<&'q E>,
    pub offset: Option<&'q E>,
    /// FETCH FIRST without a number: one row.
    pub one: bool,
    /// WITH TIES: rows that the order leaves equal to the last one come too.
    pub ties: bool,
}

impl Tail<'_> {
    pub(crate) fn is_empty(&self) -> bool {
        self.order_by.is_empty() && !self.cuts()
    }

    /// Not all rows are wanted.
    fn cuts(&self) -> bool {
        self.limit.is_some() || self.offset.is_some() || self.one
    }
}

/// Outputs that are computed after the rows were ordered and cut off.
#[derive(Default)]
pub(super) struct Late {
    pub values: Vec<(Column, Expr)>,
    /// The columns that they are made of, with their types. Rows that are equal in these and in the other outputs are alike.
    pub carried: Vec<(Column, SqlType)>,
}

impl Late {
    /// The columns that rows are told apart by, with their types.
    pub fn ties(&self, outputs: &[Column], types: &[SqlType]) -> (Vec<Column>, Vec<SqlType>) {
        let early = |c: &Column| !self.values.iter().any(|(after, _)| after == c);
        let outputs = outputs.iter().cloned().zip(types.iter().cloned());
        let outputs = outputs.filter(|(c, _)| early(c));
        outputs.chain(self.carried.iter().cloned()).unzip()
    }
}

/// Whether a subquery of `e` has a relation with columns that are called as ones of `input`, so that it isn't clear whose they are.
fn hides(e: &Expr, input: &LogicalPlan) -> datafusion_common::Result<bool> {
    let own: HashSet<_> = input.schema().iter().map(|(q, f)| (q, f.name())).collect();
    let mut hidden = false;
    e.walk(&mut |e| {
        if let Some(subquery) = subquery_of(e) {
            subquery.subquery.walk_all(&mut |node| {
                let mut columns = node.schema().iter();
                hidden |= columns.any(|(q, f)| own.contains(&(q, f.name())));
                Ok(TreeNodeRecursion::Continue)
            })?;
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(hidden)
}

/// What DISTINCT ON or ORDER BY names, and how it is sorted.
pub(super) type SortKey = (Key, ast::OrderByOptions);

/// A key of ORDER BY: a column of the output or an expression beside it.
pub(super) enum Key {
    Output(usize),
    Hidden(Expr),
    /// What orders the values of an output column (`Binder::sort_key`), as an expression beside it.
    Beside(usize, Expr),
}

impl Binder<'_> {
    /// ORDER BY and LIMIT over a set operation or VALUES: only output columns can be named.
    pub(super) fn order_output(
        &self,
        rel: Rel,
        tail: &Tail,
        ctes: &Ctes,
        outer: Outer,
    ) -> Result<Rel> {
        let mut scope = Scope::new(outer);
        scope.add(rel.table("", None))?;
        let mut sorts = Vec::new();
        for o in &tail.order_by {
            let t = match ordinal(&o.expr, rel.cols.len(), "ORDER BY")? {
                Some(i) => Typed::new(
                    Expr::Column(rel.cols[i].column.clone()),
                    rel.cols[i].ty.clone(),
                ),
                None => self.expr(Ctx::plain(&scope, ctes, "ORDER BY"), &o.expr)?,
            };
            sorts.push(self.sort(t, &o.options)?);
        }
        let cols: Vec<Column> = rel.cols.iter().map(|c| c.column.clone()).collect();
        let types: Vec<SqlType> = rel.cols.iter().map(|c| c.ty.clone()).collect();
        let of_output = (&cols[..], &types[..]);
        let plan = self.sort_and_limit(rel.plan, &mut sorts, of_output, tail, ctes, outer)?;
        let plan = only(plan, cols)?;
        Ok(Rel {
            plan,
            cols: rel.cols,
        })
    }

    /// ORDER BY: output columns by number or name, else expressions.
    pub(super) fn order_keys(
        &self,
        ctx: Ctx,
        tail: &Tail,
        items: &[Item],
    ) -> Result<Vec<(Key, ast::OrderByOptions)>> {
        tail.order_by
            .iter()
            .map(|o| {
                let (key, _) = self.output_or_expr(ctx, &o.expr, items, "ORDER BY")?;
                Ok((key, o.options))
            })
            .collect()
    }

    pub(super) fn output_or_expr(
        &self,
        ctx: Ctx,
        e: &E,
        items: &[Item],
        clause: &'static str,
    ) -> Result<(Key, ast::OrderByOptions)> {
        let none = ast::OrderByOptions {
            asc: None,
            nulls_first: None,
        };
        let output = |i: usize| -> Result<(Key, ast::OrderByOptions)> {
            let v = &items[i].value;
            match v.ty {
                SqlType::Interval
                | SqlType::Jsonb
                | SqlType::Array(_)
                | SqlType::Other(arrow::datatypes::DataType::Struct(_))
                    if !v.unknown =>
                {
                    Ok((Key::Beside(i, self.sort_key(v.clone())?.expr), none))
                }
                SqlType::Json => Err(SqlError::new(
                    "42883",
                    "could not identify an ordering operator for type json",
                )),
                _ => Ok((Key::Output(i), none)),
            }
        };
        if let Some(i) = ordinal(e, items.len(), clause)? {
            return output(i);
        }
        if let E::Identifier(i) = strip(e) {
            let name = fold(i);
            let mut same = items.iter().enumerate().filter(|(_, i)| i.name == name);
            if let Some((n, first)) = same.next() {
                if same.any(|(_, o)| o.value.expr != first.value.expr) {
                    return Err(SqlError::new(
                        "42702",
                        format!("{clause} \"{name}\" is ambiguous"),
                    ));
                }
                return output(n);
            }
        }
        let t = self.expr(Ctx { clause, ..ctx }, e)?;
        let t = self.known(t)?;
        if let Some(n) = items.iter().position(|i| i.value.expr == t.expr) {
            return output(n);
        }
        Ok((Key::Hidden(self.sort_key(t)?.expr), none))
    }

    /// Takes out of `exprs`, which are over `input`, those outputs that are to be computed after the rows were ordered and cut off: what gives another value
    /// each time it is called, as `nextval`, and subqueries, of which few are needed then. They find in the others what they are made of.
    pub(super) fn after_order(
        &self,
        input: &LogicalPlan,
        exprs: &mut Vec<Expr>,
        outputs: &[Column],
        sorts: &[Sort],
        tail: &Tail,
    ) -> Result<Late> {
        let mut late = Late::default();
        for column in outputs {
            let of_order = |s: &Sort| s.expr.column_refs().contains(column);
            let at = exprs.iter().position(
                |e| matches!(e, Expr::Alias(a) if a.relation.is_none() && a.name == column.name),
            );
            let Some(at) = at.filter(|_| !sorts.iter().any(of_order)) else {
                continue;
            };
            let volatile = df(is_volatile_value(&exprs[at]))?;
            let wanted = match super::select::has_subquery(&exprs[at]) {
                true => tail.cuts() && !volatile && !df(hides(&exprs[at], input))?,
                false => volatile,
            };
            if !wanted {
                continue;
            }
            let value = exprs.remove(at).unalias();
            let carried = RefCell::new(vec![]);
            let carry = |c: &Column| {
                let mut carried = carried.borrow_mut();
                let have = carried.iter().find(|(of, _)| of == c);
                have.map(|(_, name): &(Column, Column)| name.clone())
                    .unwrap_or_else(|| {
                        let name = Column::new_unqualified(self.fresh("late"));
                        carried.push((c.clone(), name.clone()));
                        name
                    })
            };
            let value = df(value.change_up(&mut |e| {
                Ok(match e {
                    Expr::Column(c) => Transformed::yes(Expr::Column(carry(&c))),
                    e if subquery_of(&e).is_some() => {
                        let own = |e: &Expr| match e {
                            Expr::OuterReferenceColumn(field, c)
                                if input.schema().has_column(c) =>
                            {
                                Ok(Some(Expr::OuterReferenceColumn(field.clone(), carry(c))))
                            }
                            _ => Ok(None),
                        };
                        Transformed::yes(with_subquery(e, |s| replace_outer(s, &own))?)
                    }
                    e => Transformed::no(e),
                })
            }))?;
            for (of, name) in carried.into_inner() {
                let (_, field) = df(input.schema().qualified_field_from_column(&of))?;
                late.carried.push((name.clone(), SqlType::of(field)));
                exprs.push(Expr::Column(of).alias(name.name));
            }
            late.values.push((column.clone(), value.data));
        }
        if exprs.is_empty() {
            exprs.push(truth(true).alias(self.fresh("late")));
        }
        Ok(late)
    }

    /// The outputs, with those that are computed of rows that were ordered by `sorts` and cut off.
    pub(super) fn with_late(
        &self,
        plan: LogicalPlan,
        outputs: Vec<Column>,
        late: Late,
        sorts: Vec<Sort>,
    ) -> Result<LogicalPlan> {
        if late.values.is_empty() {
            return only(plan, outputs);
        }
        let output = |c: &Column| {
            let after = late.values.iter().find(|(after, _)| after == c);
            after.map_or(Expr::Column(c.clone()), |(_, e)| e.clone().alias(&c.name))
        };
        let mut exprs: Vec<Expr> = outputs.iter().map(output).collect();
        if sorts.is_empty() || !exprs.iter().any(super::select::has_subquery) {
            return project(plan, exprs);
        }
        // What joins subqueries to rows doesn't keep their order.
        let mut keys: Vec<&Column> = sorts.iter().flat_map(|s| s.expr.column_refs()).collect();
        keys.retain(|key| !outputs.contains(key));
        keys.sort_unstable();
        keys.dedup();
        exprs.extend(keys.into_iter().cloned().map(Expr::Column));
        let plan = builder(project(plan, exprs)?);
        only(df(plan.sort(sorts).and_then(|b| b.build()))?, outputs)
    }

    /// Sorts and cuts. A cut makes the order total, so that it can't depend on how rows arrive; `sorts` is then that order.
    pub(super) fn sort_and_limit(
        &self,
        mut plan: LogicalPlan,
        sorts: &mut Vec<Sort>,
        (outputs, types): (&[Column], &[SqlType]),
        tail: &Tail,
        ctes: &Ctes,
        outer: Outer,
    ) -> Result<LogicalPlan> {
        let cut = tail.cuts();
        let chosen = sorts.clone();
        // Rows of a recursive query have an order: that in which they are found. It may have no end.
        if cut && !(chosen.is_empty() && by_rounds(&plan)) {
            if chosen.is_empty() {
                let ordered = df(own_order(plan))?;
                (plan, *sorts) = (ordered.plan, ordered.by);
            }
            for (c, ty) in outputs.iter().zip(types) {
                let e = Expr::Column(c.clone());
                let e = match crate::functions::rows::is_row(ty) {
                    true => self.sort_key(Typed::new(e, ty.clone()))?.expr,
                    false => e,
                };
                if !sorts.iter().any(|s| s.expr == e) {
                    sorts.push(Sort::new(e, true, false));
                }
            }
        }
        let count = |e: Option<&E>, clause| match e {
            Some(e) => self.count_expr(e, ctes, outer, clause),
            None => Ok(None),
        };
        let offset = count(tail.offset, "OFFSET")?;
        let limit = match tail.one {
            true => Some(literal(ScalarValue::Int64(Some(1)))),
            false => count(tail.limit, "LIMIT")?,
        };
        if tail.ties && limit.is_none() {
            let message = "row count cannot be null in FETCH FIRST ... WITH TIES clause";
            return Err(SqlError::new("2201W", message));
        }
        if tail.ties {
            if chosen.is_empty() {
                return Err(SqlError::new(
                    "42601",
                    "WITH TIES cannot be specified without ORDER BY clause",
                ));
            }
            return by_number(plan, Some(chosen), sorts.clone(), limit, offset);
        }
        if limit.iter().chain(&offset).any(needs_a_run) {
            return by_number(plan, None, sorts.clone(), limit, offset);
        }
        let mut b = builder(plan);
        if !sorts.is_empty() {
            b = df(b.sort(sorts.clone()))?;
        }
        if cut && (limit.is_some() || offset.is_some()) {
            b = df(b.limit_by_expr(offset, limit))?;
        }
        df(b.build())
    }

    fn count_expr(
        &self,
        e: &E,
        ctes: &Ctes,
        outer: Outer,
        clause: &'static str,
    ) -> Result<Option<Expr>> {
        if matches!(e, E::Identifier(i) if i.value.eq_ignore_ascii_case("all")) {
            return Ok(None);
        }
        let scope = Scope::new(outer);
        let t = self.expr(Ctx::plain(&scope, ctes, clause), e)?;
        let e = self.cast(t, &SqlType::Int8, Context::Explicit)?;
        match super::dml::fold_constant(&e) {
            Some(ScalarValue::Int64(Some(n))) if n < 0 => {
                let code = if clause == "LIMIT" { "2201W" } else { "2201X" };
                Err(SqlError::new(
                    code,
                    format!("{clause} must not be negative"),
                ))
            }
            Some(ScalarValue::Int64(None)) => Ok(None),
            Some(v) => Ok(Some(literal(v))),
            None => Ok(Some(e)),
        }
    }
}

/// Whether the number is only known when the query runs. A parameter is known before.
fn needs_a_run(number: &Expr) -> bool {
    super::select::has_subquery(number) || number.is_volatile() || {
        let stable = |e: &Expr| {
            matches!(e, Expr::ScalarFunction(f)
                if f.func.signature().volatility != datafusion_expr::Volatility::Immutable)
        };
        number.any(&mut |e| Ok(stable(e))).unwrap_or(true)
    }
}

/// The rows whose numbers in the order `total` are after `offset` and within `limit`. `ties`: and those that this order leaves
/// equal to the last of them.
fn by_number(
    plan: LogicalPlan,
    ties: Option<Vec<Sort>>,
    total: Vec<Sort>,
    limit: Option<Expr>,
    offset: Option<Expr>,
) -> Result<LogicalPlan> {
    let columns = columns_of(&plan).into_iter().map(Expr::Column).collect();
    let numbered = |function, order: &[Sort]| {
        Expr::WindowFunction(Box::new(WindowFunction {
            fun: datafusion_expr::WindowFunctionDefinition::WindowUDF(function),
            params: datafusion_expr::expr::WindowFunctionParams {
                args: vec![],
                partition_by: vec![],
                order_by: order.to_vec(),
                window_frame: super::windows::numbering_frame(),
                filter: None,
                null_treatment: None,
                distinct: false,
            },
        }))
    };
    let number = numbered(
        datafusion::functions_window::row_number::row_number_udwf(),
        &total,
    );
    // Of each row: what says whether it comes late enough, and early enough.
    let (number, last) = match &ties {
        None => (number.clone(), number),
        Some(chosen) => {
            let rank = numbered(datafusion::functions_window::rank::rank_udwf(), chosen);
            match offset {
                Some(_) => (number, rank),
                None => (rank.clone(), rank),
            }
        }
    };
    let mut calls = vec![number.clone()];
    calls.extend((last != number).then(|| last.clone()));
    let value = |call: &Expr| {
        let column = Expr::Column(Column::new_unqualified(call.schema_name().to_string()));
        Expr::Cast(datafusion_expr::Cast::new(
            Box::new(column),
            arrow::datatypes::DataType::Int64,
        ))
    };
    let (mut taken, mut place) = (None, value(&last));
    if let Some(offset) = offset {
        let skipped = number_of_rows(offset, Clause::Offset);
        taken = Some(value(&number).gt(skipped.clone()));
        place = Expr::BinaryExpr(datafusion_expr::BinaryExpr::new(
            Box::new(place),
            Operator::Minus,
            Box::new(skipped),
        ));
    }
    if let Some(limit) = limit {
        let limit = number_of_rows(limit, Clause::Limit);
        if last != number {
            // Rows equal to the last one that is passed over aren't ties of one that is taken.
            let some = limit.clone().gt(literal(ScalarValue::Int64(Some(0))));
            taken = datafusion_expr::utils::conjunction(taken.into_iter().chain([some]));
        }
        taken = datafusion_expr::utils::conjunction(taken.into_iter().chain([place.lt_eq(limit)]));
    }
    let plan = df(LogicalPlanBuilder::window_plan(plan, calls))?;
    let plan = match taken {
        Some(taken) => filter(plan, taken)?,
        None => plan,
    };
    let plan = project(plan, columns)?;
    match total.is_empty() {
        true => Ok(plan),
        false => df(builder(plan).sort(total).and_then(|b| b.build())),
    }
}

/// A number that stands for an output column, from 0.
pub(super) fn ordinal(e: &E, width: usize, clause: &str) -> Result<Option<usize>> {
    let E::Value(v) = strip(e) else {
        return Ok(None);
    };
    match &v.value {
        ast::Value::Number(n, _) => match n.parse::<usize>() {
            Ok(i) if i >= 1 && i <= width => Ok(Some(i - 1)),
            Ok(i) => Err(super::expr::at(
                SqlError::new(
                    "42P10",
                    format!("{clause} position {i} is not in select list"),
                ),
                position(v.span),
            )),
            Err(_) => Err(SqlError::new(
                "42601",
                format!("non-integer constant in {clause}"),
            )),
        },
        ast::Value::SingleQuotedString(_) | ast::Value::Boolean(_) | ast::Value::Null => Err(
            SqlError::new("42601", format!("non-integer constant in {clause}")),
        ),
        _ => Ok(None),
    }
}

/// `(SELECT …) ORDER BY …`: the query in the parentheses with what is said after them; `None` if that is nothing.
pub(super) fn without_parentheses(q: &ast::Query) -> Result<Option<ast::Query>> {
    let ast::SetExpr::Query(inner) = q.body.as_ref() else {
        return Ok(None);
    };
    let (outer, own) = (tail_of(q)?, tail_of(inner)?);
    if outer.is_empty() && q.with.is_none() {
        return Ok(None);
    }
    let twice = |what| {
        let message = format!("multiple {what} clauses not allowed");
        Err(SqlError::new("42601", message))
    };
    let limited = |t: &Tail| t.limit.is_some() || t.one;
    if !outer.order_by.is_empty() && !own.order_by.is_empty() {
        return twice("ORDER BY");
    }
    if outer.offset.is_some() && own.offset.is_some() {
        return twice("OFFSET");
    }
    if limited(&outer) && limited(&own) {
        return twice("LIMIT");
    }
    if q.with.is_some() && inner.with.is_some() {
        return twice("WITH");
    }
    let mut one = inner.as_ref().clone();
    one.with = one.with.or_else(|| q.with.clone());
    one.order_by = one.order_by.or_else(|| q.order_by.clone());
    one.fetch = one.fetch.or_else(|| q.fetch.clone());
    one.locks.extend(q.locks.iter().cloned());
    one.limit_clause = match (one.limit_clause, q.limit_clause.clone()) {
        (
            Some(ast::LimitClause::LimitOffset { limit, offset, .. }),
            Some(ast::LimitClause::LimitOffset {
                limit: limit_after,
                offset: offset_after,
                limit_by,
            }),
        ) => Some(ast::LimitClause::LimitOffset {
            limit: limit.or(limit_after),
            offset: offset.or(offset_after),
            limit_by,
        }),
        (own, after) => own.or(after),
    };
    Ok(Some(one))
}

pub(crate) fn tail_of(q: &ast::Query) -> Result<Tail<'_>> {
    let order_by = match q.order_by.as_ref().map(|o| &o.kind) {
        None => vec![],
        Some(OrderByKind::Expressions(e)) => e.iter().collect(),
        Some(OrderByKind::All(_)) => {
            return Err(SqlError::unsupported("ORDER BY ALL is not supported"));
        }
    };
    let (mut limit, offset) = match &q.limit_clause {
        None => (None, None),
        Some(ast::LimitClause::LimitOffset { limit, offset, .. }) => {
            (limit.as_ref(), offset.as_ref().map(|o| &o.value))
        }
        Some(ast::LimitClause::OffsetCommaLimit { offset, limit }) => (Some(limit), Some(offset)),
    };
    let marked = limit.and_then(with_ties);
    limit = marked.or(limit);
    if let Some(f) = &q.fetch {
        if f.percent {
            return Err(SqlError::unsupported("FETCH … PERCENT is not supported"));
        }
        limit = f.quantity.as_ref();
    }
    Ok(Tail {
        order_by,
        limit,
        offset,
        one: q.fetch.is_some() && limit.is_none(),
        ties: marked.is_some() || q.fetch.as_ref().is_some_and(|f| f.with_ties),
    })
}

/// The number in the mark that says WITH TIES.
fn with_ties(limit: &E) -> Option<&E> {
    let E::Function(f) = limit else { return None };
    let ast::FunctionArguments::List(list) = &f.args else {
        return None;
    };
    match list.args.as_slice() {
        [FunctionArg::Unnamed(FunctionArgExpr::Expr(e))] if parts(&f.name) == [TIES] => Some(e),
        _ => None,
    }
}
