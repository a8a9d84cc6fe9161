//! Errors of values that nobody needs.
//!
//! `SELECT q.a FROM (SELECT a, 1 / b AS y FROM t) q JOIN …` fails for no row that the join drops, and where `y` isn't used for none. So
//! what can fail in the list of a subquery, or of a view, is computed as an [`attempt`], whose error a row has with it, and whose [`outcome`]
//! is asked for where the value is used. The optimiser makes the plain value of both where they meet.
//!
//! An attempt is made only where rows, or uses, may fall away above. From the root down, nodes are told which of their columns are
//! used for each of their rows (the *needed* ones); what can fail in those fails at once. From the leaves up, nodes tell which of
//! their columns are attempts, needed or not.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion_common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion_common::{Column, DFSchema, JoinType, Result};
use datafusion_expr::expr::{BinaryExpr, Case, Sort};
use datafusion_expr::expr_rewriter::NamePreserver;
use datafusion_expr::logical_plan::{Filter, Join, Projection, SubqueryAlias};
use datafusion_expr::utils::{split_conjunction, split_conjunction_owned};
use datafusion_expr::{Expr, ExprSchemable, LogicalPlan, Operator};
use tidemill_zset::schema::SqlType;

use super::conditions::{cases, chain, guard};
use super::select::{guarded, has_subquery};
use crate::compile::decorrelate::branches::in_branches;
use crate::functions::attempt::{attempt, outcome, value_field};
use crate::functions::shared::{self, can_fail_anywhere};
use crate::tree::{PlanTree, Tree};

type Columns = BTreeSet<Column>;

/// See the module.
pub(crate) fn late_errors(plan: LogicalPlan) -> Result<LogicalPlan> {
    let mut outer = Columns::new();
    let mut fallible = 0;
    plan.walk_all(&mut |node| {
        for e in node.expressions() {
            e.walk(&mut |e| {
                if let Expr::OuterReferenceColumn(_, c) = e {
                    outer.insert(c.clone());
                }
                Ok(TreeNodeRecursion::Continue)
            })?;
            let listed = matches!(node, LogicalPlan::Projection(_));
            fallible += usize::from(listed && can_fail_anywhere(&e));
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    match fallible {
        0 => Ok(plan),
        _ => Pass { outer }.whole(plan),
    }
}

/// One pass over a plan.
struct Pass {
    /// Columns that subqueries name as an outer query's. They are needed everywhere.
    outer: Columns,
}

/// A plan, and which of its columns are attempts.
type Late = (LogicalPlan, Columns);

impl Pass {
    /// The plan with the columns that it had.
    fn whole(&self, plan: LogicalPlan) -> Result<LogicalPlan> {
        let all = plan.schema().columns().into_iter().collect();
        let (plan, late) = self.late(plan, &all)?;
        settled(plan, &late)
    }

    /// The plan, of which `needed` are used for each row.
    fn late(&self, plan: LogicalPlan, needed: &Columns) -> Result<Late> {
        match plan {
            LogicalPlan::Projection(p) => self.projection(p, needed),
            LogicalPlan::SubqueryAlias(a) => self.alias(a, needed),
            LogicalPlan::Filter(f) => self.filter(f, needed),
            LogicalPlan::Join(j) => self.join(j, needed),
            LogicalPlan::Aggregate(_) | LogicalPlan::Window(_) => self.calls(plan, needed),
            LogicalPlan::Sort(_) | LogicalPlan::Limit(_) => self.ordered(plan, needed),
            // Of a lateral subquery, which names columns of its surroundings.
            LogicalPlan::Subquery(_) => Ok((plan, Columns::new())),
            plan => {
                let plan = self.subqueries(plan)?;
                let whole = &mut |input| self.whole(input).map(Transformed::yes);
                Ok((plan.change_children(whole)?.data, Columns::new()))
            }
        }
    }

    fn projection(&self, p: Projection, needed: &Columns) -> Result<Late> {
        let p = match self.subqueries(LogicalPlan::Projection(p))? {
            LogicalPlan::Projection(p) => p,
            other => return self.late(other, needed),
        };
        let columns = p.schema.columns();
        let is_needed = |c: &Column| needed.contains(c) || self.outer.contains(c);
        let mut below = Columns::new();
        for (e, c) in p.expr.iter().zip(&columns) {
            if is_needed(c) || !may_wait(e) {
                used(e, &mut below)?;
            }
        }
        let below = self.with_outer(below, &p.input);
        let (input, late) = self.late(Arc::unwrap_or_clone(p.input), &below)?;
        let (mut exprs, mut given) = (vec![], Columns::new());
        let mut changed = false;
        for (e, c) in p.expr.into_iter().zip(columns) {
            if !is_needed(&c) && matches!(as_column(&e), Some(c) if late.contains(c)) {
                given.insert(c);
                exprs.push(e);
                continue;
            }
            let settled = with_outcomes(e.clone(), &late, input.schema())?;
            let waits = !is_needed(&c) && may_wait(&settled) && can_fail_anywhere(&settled);
            if settled == e && !waits {
                exprs.push(e);
                continue;
            }
            changed = true;
            let mut e = settled.unalias();
            if waits {
                let field = e.to_field(input.schema())?.1;
                e = attempt(e, &field);
                given.insert(c.clone());
            }
            exprs.push(e.alias_qualified(c.relation, c.name));
        }
        let plan = match changed || !late.is_empty() {
            true => Projection::try_new(exprs, Arc::new(input))?,
            false => Projection::try_new_with_schema(exprs, Arc::new(input), p.schema)?,
        };
        Ok((LogicalPlan::Projection(plan), given))
    }

    fn alias(&self, a: SubqueryAlias, needed: &Columns) -> Result<Late> {
        let inner = a.input.schema().columns();
        let outer = a.schema.columns();
        let is_needed = |c: &Column| needed.contains(c) || self.outer.contains(c);
        let pairs = inner.iter().zip(&outer);
        let below = pairs.clone().filter(|(_, o)| is_needed(o));
        let below = below.map(|(i, _)| i.clone()).collect();
        let (input, mut late) = self.late(Arc::unwrap_or_clone(a.input), &below)?;
        let outside = pairs.clone().filter(|(_, o)| self.outer.contains(o));
        let now: Columns = outside.map(|(i, _)| i.clone()).collect();
        let now: Columns = late.intersection(&now).cloned().collect();
        let input = settled(input, &now)?;
        late.retain(|c| !now.contains(c));
        if late.is_empty() {
            let mut alias = SubqueryAlias::try_new(Arc::new(input), a.alias)?;
            alias.schema = a.schema;
            return Ok((LogicalPlan::SubqueryAlias(alias), late));
        }
        let given = pairs.filter(|(i, _)| late.contains(i));
        let given = given.map(|(_, o)| o.clone()).collect();
        let alias = SubqueryAlias::try_new(Arc::new(input), a.alias)?;
        Ok((LogicalPlan::SubqueryAlias(alias), given))
    }

    /// Rows that are dropped need nothing, but what decides that: of the conditions only the equalities of a join are looked at, which become
    /// its keys. Others are brought further down, to where values are computed.
    fn filter(&self, f: Filter, needed: &Columns) -> Result<Late> {
        let f = match self.subqueries(LogicalPlan::Filter(f))? {
            LogicalPlan::Filter(f) => f,
            other => return self.late(other, needed),
        };
        let f = match before_values(f)? {
            LogicalPlan::Filter(f) => f,
            below => return self.late(below, needed),
        };
        let below = match f.input.as_ref() {
            LogicalPlan::Join(_) => keys(&f.predicate)?,
            _ => Columns::new(),
        };
        let below = self.with_outer(below, &f.input);
        let (input, late) = self.late(Arc::unwrap_or_clone(f.input), &below)?;
        let predicate = match names(&f.predicate, &late) {
            true => condition(f.predicate, &|e| with_outcomes(e, &late, input.schema()))?,
            false => f.predicate,
        };
        let filter = Filter::try_new(predicate, Arc::new(input))?;
        Ok((LogicalPlan::Filter(filter), late))
    }

    fn join(&self, j: Join, needed: &Columns) -> Result<Late> {
        let j = match self.subqueries(LogicalPlan::Join(j))? {
            LogicalPlan::Join(j) => j,
            other => return self.late(other, needed),
        };
        let mut below = Columns::new();
        for (l, r) in &j.on {
            used(l, &mut below)?;
            used(r, &mut below)?;
        }
        if let Some(filter) = &j.filter {
            below.extend(keys(filter)?);
        }
        // Rows of an outer side are there whatever they are joined with.
        let whole = |side: &LogicalPlan, kept: bool| {
            let kept = needed
                .iter()
                .filter(|c| kept && side.schema().has_column(c));
            let own = below.iter().filter(|c| side.schema().has_column(c));
            self.with_outer(kept.chain(own).cloned().collect(), side)
        };
        let kept_left = matches!(j.join_type, JoinType::Left | JoinType::Full);
        let kept_right = matches!(j.join_type, JoinType::Right | JoinType::Full);
        let (left_needed, right_needed) = (whole(&j.left, kept_left), whole(&j.right, kept_right));
        let (left, mut late) = self.late(Arc::unwrap_or_clone(j.left), &left_needed)?;
        let (right, of_right) = self.late(Arc::unwrap_or_clone(j.right), &right_needed)?;
        late.extend(of_right);
        let schema = match late.is_empty() {
            true => j.schema,
            false => Arc::new(datafusion_expr::logical_plan::builder::build_join_schema(
                left.schema(),
                right.schema(),
                &j.join_type,
            )?),
        };
        let mut on = vec![];
        for (l, r) in j.on {
            let l = with_outcomes(l, &late, left.schema())?;
            on.push((l, with_outcomes(r, &late, right.schema())?));
        }
        let both = left.schema().join(right.schema())?;
        let filter = match j.filter {
            Some(f) if names(&f, &late) => Some(condition(f, &|e| with_outcomes(e, &late, &both))?),
            filter => filter,
        };
        let join = Join {
            left: Arc::new(left),
            right: Arc::new(right),
            on,
            filter,
            schema,
            ..j
        };
        let there: Columns = join.schema.columns().into_iter().collect();
        late.retain(|c| there.contains(c));
        Ok((LogicalPlan::Join(join), late))
    }

    /// Aggregates and window functions use what they are called with for each row that their FILTERs let through.
    fn calls(&self, plan: LogicalPlan, needed: &Columns) -> Result<Late> {
        let plan = self.subqueries(plan)?;
        let mut below = Columns::new();
        for e in plan.expressions() {
            match filter_of(&e) {
                Some(filter) => used(filter, &mut below)?,
                None => below.extend(e.column_refs().into_iter().cloned()),
            }
        }
        let is_window = matches!(plan, LogicalPlan::Window(_));
        if is_window {
            let inputs = plan.inputs();
            let own = needed.iter().filter(|c| inputs[0].schema().has_column(c));
            below.extend(own.cloned());
        }
        let (plan, late) = self.over(plan, below)?;
        let given = if is_window { late } else { Columns::new() };
        Ok((plan, given))
    }

    fn ordered(&self, plan: LogicalPlan, needed: &Columns) -> Result<Late> {
        let mut below = needed.clone();
        for e in plan.expressions() {
            used(&e, &mut below)?;
        }
        let plan = self.subqueries(plan)?;
        self.over(plan, below)
    }

    /// A node with one input, of which `below` are needed.
    fn over(&self, plan: LogicalPlan, below: Columns) -> Result<Late> {
        let inputs = plan.inputs();
        let below = self.with_outer(below, inputs[0]);
        let (input, mut late) = self.late(inputs[0].clone(), &below)?;
        let now: Columns = late.intersection(&below).cloned().collect();
        let input = settled(input, &now)?;
        late.retain(|c| !now.contains(c));
        if late.is_empty() {
            let input = &mut |_| Ok(Transformed::yes(input.clone()));
            return Ok((plan.change_children(input)?.data, late));
        }
        let names = NamePreserver::new(&plan);
        let exprs = plan.expressions().into_iter().map(|e| {
            let name = names.save(&e);
            Ok(name.restore(with_outcomes(e, &late, input.schema())?))
        });
        let exprs = exprs.collect::<Result<Vec<_>>>()?;
        let plan = plan.with_new_exprs(exprs, vec![input])?;
        Ok((plan, late))
    }

    fn with_outer(&self, mut needed: Columns, input: &LogicalPlan) -> Columns {
        let outer = self.outer.iter().filter(|c| input.schema().has_column(c));
        needed.extend(outer.cloned());
        needed
    }

    /// The node with its subqueries' plans seen to. Those in branches that may not be taken give an attempt.
    fn subqueries(&self, plan: LogicalPlan) -> Result<LogicalPlan> {
        if !plan.expressions().iter().any(has_subquery) {
            return Ok(plan);
        }
        let plan = self.branches(plan)?;
        let whole = &mut |plan| match plan {
            LogicalPlan::Subquery(mut s) => {
                s.subquery = Arc::new(self.whole(Arc::unwrap_or_clone(s.subquery))?);
                Ok(Transformed::yes(LogicalPlan::Subquery(s)))
            }
            plan => Ok(Transformed::no(plan)),
        };
        Ok(plan.change_subqueries(whole)?.data)
    }

    fn branches(&self, plan: LogicalPlan) -> Result<LogicalPlan> {
        let mut found = vec![];
        for e in plan.expressions() {
            in_branches(&e, &mut found)?;
        }
        let mut values: Vec<(Expr, Expr)> = vec![];
        for e in found {
            let Expr::ScalarSubquery(s) = &e else {
                continue;
            };
            let (pairs, late) = self.late(s.subquery.as_ref().clone(), &Columns::new())?;
            if late.is_empty() {
                continue;
            }
            let pair = pairs.schema().field(0).clone();
            let mut s = s.clone();
            s.subquery = Arc::new(pairs);
            if let Some(value) = value_field(&pair) {
                values.push((e, outcome(Expr::ScalarSubquery(s), value)));
            }
        }
        if values.is_empty() {
            return Ok(plan);
        }
        let replace = |e: &Expr| {
            let mut pairs = values.iter();
            Ok(pairs.find(|(old, _)| old == e).map(|(_, new)| new.clone()))
        };
        let schema = match plan.inputs()[..] {
            [input] => Arc::clone(input.schema()),
            _ => Arc::clone(plan.schema()),
        };
        let names = NamePreserver::new(&plan);
        let exprs = plan.expressions().into_iter().map(|e| {
            let name = names.save(&e);
            Ok(name.restore(replaced(e, &replace, &schema)?))
        });
        let exprs = exprs.collect::<Result<Vec<_>>>()?;
        let inputs = plan.inputs().into_iter().cloned().collect();
        plan.with_new_exprs(exprs, inputs)
    }
}

/// The plan with values in the place of attempts.
fn settled(plan: LogicalPlan, late: &Columns) -> Result<LogicalPlan> {
    if late.is_empty() {
        return Ok(plan);
    }
    let columns = plan.schema().columns().into_iter();
    let exprs = columns.map(|c| match late.contains(&c) {
        true => {
            let e = with_outcomes(Expr::Column(c.clone()), late, plan.schema())?;
            Ok(e.alias_qualified(c.relation, c.name))
        }
        false => Ok(Expr::Column(c)),
    });
    let exprs = exprs.collect::<Result<Vec<_>>>()?;
    Ok(LogicalPlan::Projection(Projection::try_new(
        exprs,
        Arc::new(plan),
    )?))
}

/// Whether the error of a value may wait: it is of a kind that an attempt can be made of, or a column, or has none.
fn may_wait(e: &Expr) -> bool {
    let visible = |e: &Expr| {
        matches!(
            e,
            Expr::Unnest(_) | Expr::AggregateFunction(_) | Expr::WindowFunction(_)
        )
    };
    !e.is_volatile() && !has_subquery(e) && !e.any(&mut |e| Ok(visible(e))).unwrap_or(true)
}

fn as_column(e: &Expr) -> Option<&Column> {
    match e {
        Expr::Column(c) => Some(c),
        Expr::Alias(a) => as_column(&a.expr),
        _ => None,
    }
}

/// Adds the columns that are looked at whatever becomes of the others.
fn used(e: &Expr, out: &mut Columns) -> Result<()> {
    e.walk(&mut |e| {
        let first: Vec<&Expr> = match e {
            Expr::Column(c) => {
                out.insert(c.clone());
                return Ok(TreeNodeRecursion::Continue);
            }
            Expr::Case(Case {
                expr,
                when_then_expr,
                ..
            }) => {
                let condition = when_then_expr.first().map(|(when, _)| when);
                expr.iter().chain(condition).map(|e| e.as_ref()).collect()
            }
            Expr::BinaryExpr(b) if matches!(b.op, Operator::And | Operator::Or) => vec![&b.left],
            e if shared::is_shared(e) => match shared::opened(e) {
                Some((value, _, _, _)) => {
                    used(&value, out)?;
                    vec![]
                }
                None => vec![],
            },
            _ => return Ok(TreeNodeRecursion::Continue),
        };
        for e in first {
            used(e, out)?;
        }
        Ok(TreeNodeRecursion::Jump)
    })?;
    Ok(())
}

/// The columns of a condition's equalities.
fn keys(predicate: &Expr) -> Result<Columns> {
    let mut out = Columns::new();
    for e in split_conjunction(predicate) {
        let Expr::BinaryExpr(b) = e else { continue };
        let equal = matches!(b.op, Operator::Eq | Operator::IsNotDistinctFrom);
        let sides = [&b.left, &b.right];
        if equal && sides.iter().all(|e| !e.column_refs().is_empty()) {
            used(e, &mut out)?;
        }
    }
    Ok(out)
}

/// The FILTER of an aggregate or a window function.
fn filter_of(e: &Expr) -> Option<&Expr> {
    match e {
        Expr::Alias(a) => filter_of(&a.expr),
        Expr::AggregateFunction(f) => f.params.filter.as_deref(),
        Expr::WindowFunction(f) => f.params.filter.as_deref(),
        _ => None,
    }
}

/// A condition whose parts are changed so that they can fail: those last, where the rest holds.
fn condition(predicate: Expr, change: &dyn Fn(Expr) -> Result<Expr>) -> Result<Expr> {
    let parts = split_conjunction_owned(predicate).into_iter().map(change);
    let parts = guarded(parts.collect::<Result<Vec<_>>>()?);
    Ok(parts.into_iter().reduce(Expr::and).expect("a condition"))
}

/// A filter above a list of values that can fail as one below it, as the optimiser has it.
fn before_values(f: Filter) -> Result<LogicalPlan> {
    let mut aliases = vec![];
    let mut input = f.input.as_ref();
    while let LogicalPlan::SubqueryAlias(alias) = input {
        aliases.push(alias);
        input = &alias.input;
    }
    let fixed = |e: &Expr| may_wait(e) && !e.contains_outer();
    let p = match input {
        LogicalPlan::Projection(p)
            if fixed(&f.predicate)
                && p.expr.iter().all(fixed)
                && p.expr.iter().any(can_fail_anywhere) =>
        {
            p
        }
        _ => return Ok(LogicalPlan::Filter(f)),
    };
    let columns = f.input.schema().columns();
    let replace = |e: &Expr| {
        let Expr::Column(c) = e else { return Ok(None) };
        let i = columns.iter().position(|have| have == c);
        Ok(i.map(|i| p.expr[i].clone().unalias()))
    };
    let predicate = condition(f.predicate.clone(), &|e| {
        replaced(e, &replace, p.input.schema())
    })?;
    let below = Filter::try_new(predicate, Arc::clone(&p.input))?;
    let below = Arc::new(LogicalPlan::Filter(below));
    let values = Projection::try_new_with_schema(p.expr.clone(), below, Arc::clone(&p.schema))?;
    let mut plan = LogicalPlan::Projection(values);
    for outer in aliases.into_iter().rev() {
        let mut alias = SubqueryAlias::try_new(Arc::new(plan), outer.alias.clone())?;
        alias.schema = Arc::clone(&outer.schema);
        plan = LogicalPlan::SubqueryAlias(alias);
    }
    Ok(plan)
}

fn names(e: &Expr, late: &Columns) -> bool {
    !late.is_empty() && e.column_refs().iter().any(|c| late.contains(c))
}

/// What takes the place of a column or a subquery, if something does.
type Replace<'a> = &'a dyn Fn(&Expr) -> Result<Option<Expr>>;

/// The expression over rows of `input` with outcomes in the place of attempts.
fn with_outcomes(e: Expr, late: &Columns, input: &DFSchema) -> Result<Expr> {
    if !names(&e, late) {
        return Ok(e);
    }
    let replace = |e: &Expr| {
        let Expr::Column(c) = e else { return Ok(None) };
        if !late.contains(c) {
            return Ok(None);
        }
        let (_, pair) = e.to_field(input)?;
        Ok(value_field(&pair).map(|value| outcome(e.clone(), value)))
    };
    replaced(e, &replace, input)
}

/// The expression with parts replaced by what can fail, which is evaluated only where SQL does; the result is one over rows of
/// `input`.
fn replaced(e: Expr, replace: Replace, input: &DFSchema) -> Result<Expr> {
    if let Some(new) = replace(&e)? {
        return Ok(new);
    }
    let inner = |e: Expr| replaced(e, replace, input);
    if !e.any(&mut |e| Ok(replace(e)?.is_some()))? {
        return Ok(e);
    }
    if shared::is_shared(&e)
        && let Some((value, place, body, ret)) = shared::opened(&e)
    {
        return Ok(shared::closed(inner(body)?, &place, inner(value)?, ret));
    }
    let boxed = |e: Option<Box<Expr>>| e.map(|e| inner(*e).map(Box::new)).transpose();
    let by = |s: Sort| {
        let (asc, nulls_first) = (s.asc, s.nulls_first);
        Ok(Sort::new(inner(s.expr)?, asc, nulls_first))
    };
    match e {
        Expr::BinaryExpr(BinaryExpr { op, .. }) if matches!(op, Operator::And | Operator::Or) => {
            let mut operands = vec![];
            flatten(e, op, &mut operands);
            let operands = operands.into_iter().map(inner);
            Ok(chain(operands.collect::<Result<Vec<_>>>()?, op))
        }
        Expr::Case(Case {
            expr: None,
            when_then_expr,
            else_expr: Some(otherwise),
        }) => {
            let (mut conditions, mut values) = (vec![], vec![]);
            let otherwise = inner(*otherwise)?;
            let ty = match otherwise.get_type(input)? {
                DataType::Boolean => SqlType::Bool,
                other => SqlType::Other(other),
            };
            for (when, then) in when_then_expr {
                conditions.push(inner(*when)?);
                values.push(inner(*then)?);
            }
            Ok(cases(conditions, values, otherwise, &ty))
        }
        Expr::AggregateFunction(mut f) => {
            let p = &mut f.params;
            p.args = p.args.drain(..).map(inner).collect::<Result<_>>()?;
            let order = p.order_by.drain(..);
            p.order_by = order.map(by).collect::<Result<_>>()?;
            p.filter = boxed(p.filter.take())?;
            let keys = p.order_by.iter_mut().map(|s| &mut s.expr);
            guard(&p.filter, p.args.iter_mut().chain(keys));
            Ok(Expr::AggregateFunction(f))
        }
        Expr::WindowFunction(mut f) => {
            let p = &mut f.params;
            p.args = p.args.drain(..).map(inner).collect::<Result<_>>()?;
            let keys = p.partition_by.drain(..);
            p.partition_by = keys.map(inner).collect::<Result<_>>()?;
            let order = p.order_by.drain(..);
            p.order_by = order.map(by).collect::<Result<_>>()?;
            p.filter = boxed(p.filter.take())?;
            guard(&p.filter, p.args.iter_mut());
            Ok(Expr::WindowFunction(f))
        }
        e => {
            let children = &mut |e: Expr| inner(e).map(Transformed::yes);
            Ok(e.change_children(children)?.data)
        }
    }
}

/// The operands of a chain.
fn flatten(e: Expr, op: Operator, out: &mut Vec<Expr>) {
    match e {
        Expr::BinaryExpr(b) if b.op == op => {
            flatten(*b.left, op, out);
            flatten(*b.right, op, out);
        }
        e => out.push(e),
    }
}
