//! A correlated plan for all rows of the query around it at once.
//!
//! The *domain* of a correlated plan are the distinct values of the outer columns that it names. [`Domain::all`] gives, for
//! each of these values, the rows that the plan gives for it: the *keys* (the domain's columns), then the plan's own
//! columns under their own names. Node by node the keys are carried from the leaves, where they come from a
//! copy of the domain, to the top: they group aggregates, partition windows and limits, and match the sides of joins.

use std::cell::Cell;
use std::sync::Arc;

use datafusion::functions_aggregate::count::count_udaf;
use datafusion_common::{Column, JoinType, NullEquality, Result, ScalarValue};
use datafusion_expr::expr::{AggregateFunction, GroupingSet};
use datafusion_expr::logical_plan::{Limit, SubqueryAlias};
use datafusion_expr::{
    Aggregate, Cast, Distinct, DistinctOn, Expr, FetchType, Filter, Join, LogicalPlan,
    LogicalPlanBuilder, Operator, Projection, SkipType, Sort, SortExpr, Union, Unnest, Window,
    binary_expr, lit, when,
};

use super::super::aggregate::each_set;
use super::super::expr::unalias;
use super::super::order::is_kept_sort;
use super::names::{free_columns, named, rebind, requalified};
use crate::bind::lateral::row_number;
use crate::functions::single::{Clause, number_of_rows};

/// A plan with keys.
pub(super) struct Keyed {
    /// The keys, then the plan's columns.
    pub plan: LogicalPlan,
    /// The keys as `plan` names them.
    pub keys: Vec<Column>,
}

impl Keyed {
    pub fn key_exprs(&self) -> Vec<Expr> {
        self.keys.iter().cloned().map(Expr::Column).collect()
    }
}

/// See the module.
pub(super) struct Domain {
    values: LogicalPlan,
    outer: Vec<Column>,
    /// Starts the names that are made up.
    name: String,
    copies: Cell<usize>,
}

impl Domain {
    /// The values of the columns `outer` of `base`.
    pub fn new(base: &LogicalPlan, outer: Vec<Column>, name: String) -> Result<Domain> {
        let columns = outer
            .iter()
            .enumerate()
            .map(|(i, c)| Expr::Column(c.clone()).alias(format!("{name}_{i}")));
        let values = LogicalPlanBuilder::from(base.clone())
            .project(columns.collect::<Vec<_>>())?
            .distinct()?
            .build()?;
        Ok(Domain {
            values,
            outer,
            name,
            copies: Cell::new(0),
        })
    }

    fn fresh(&self, what: &str) -> String {
        self.copies.set(self.copies.get() + 1);
        format!("{}_{what}_{}", self.name, self.copies.get())
    }

    /// The domain, under a name of its own.
    fn copy(&self) -> Result<Keyed> {
        let plan = LogicalPlanBuilder::from(self.values.clone())
            .alias(self.fresh("d"))?
            .build()?;
        Ok(Keyed {
            keys: plan.schema().columns(),
            plan,
        })
    }

    /// True if `plan` names a column of the domain.
    fn concerns(&self, plan: &LogicalPlan) -> Result<bool> {
        Ok(free_columns(plan)?.iter().any(|c| self.outer.contains(c)))
    }

    fn bind(&self, e: Expr, keys: &[Column]) -> Result<Expr> {
        rebind(e, &self.outer, keys)
    }

    fn bind_all(&self, exprs: &[Expr], keys: &[Column]) -> Result<Vec<Expr>> {
        exprs.iter().map(|e| self.bind(e.clone(), keys)).collect()
    }

    fn bind_sort(&self, sort: &[SortExpr], keys: &[Column]) -> Result<Vec<SortExpr>> {
        let bind = |s: &SortExpr| Ok(s.with_expr(self.bind(s.expr.clone(), keys)?));
        sort.iter().map(bind).collect()
    }

    /// `exprs` bound, under the names `columns`, behind the keys.
    fn listed(&self, keys: &[Column], exprs: &[Expr], columns: Vec<Column>) -> Result<Vec<Expr>> {
        let mut out: Vec<Expr> = keys.iter().cloned().map(Expr::Column).collect();
        for (e, c) in exprs.iter().zip(columns) {
            out.push(named(self.bind(e.clone(), keys)?, c));
        }
        Ok(out)
    }

    /// `plan` for every value of the domain; `None` if it has a node for which there is no way.
    pub fn all(&self, plan: &LogicalPlan) -> Result<Option<Keyed>> {
        if !self.concerns(plan)? {
            return self.for_each(plan).map(Some);
        }
        match plan {
            LogicalPlan::Filter(f) => {
                let Some(input) = self.all(&f.input)? else {
                    return Ok(None);
                };
                let predicate = self.bind(f.predicate.clone(), &input.keys)?;
                self.over(input, |input| {
                    Ok(LogicalPlan::Filter(Filter::try_new(predicate, input)?))
                })
            }
            LogicalPlan::Projection(p) => {
                let Some(input) = self.all(&p.input)? else {
                    return Ok(None);
                };
                let exprs = self.listed(&input.keys, &p.expr, p.schema.columns())?;
                self.over(input, |input| {
                    Ok(LogicalPlan::Projection(Projection::try_new(exprs, input)?))
                })
            }
            LogicalPlan::SubqueryAlias(a) => {
                let Some(input) = self.all(&a.input)? else {
                    return Ok(None);
                };
                let exprs = requalified(plan, &a.input, input.key_exprs());
                self.over(input, |input| {
                    Ok(LogicalPlan::Projection(Projection::try_new(exprs, input)?))
                })
            }
            LogicalPlan::Sort(s) if s.fetch.is_none() => self.all(&s.input),
            LogicalPlan::Sort(s) if is_kept_sort(s) => {
                let Some(input) = self.all(&s.input)? else {
                    return Ok(None);
                };
                // The window above is one of each key.
                let keys = input.key_exprs().into_iter();
                let mut expr: Vec<SortExpr> = keys.map(|key| key.sort(true, false)).collect();
                expr.extend(self.bind_sort(&s.expr, &input.keys)?);
                self.over(input, |input| {
                    Ok(LogicalPlan::Sort(Sort {
                        expr,
                        input,
                        fetch: s.fetch,
                    }))
                })
            }
            LogicalPlan::Distinct(Distinct::All(input)) => {
                let Some(input) = self.all(input)? else {
                    return Ok(None);
                };
                self.over(input, |input| {
                    Ok(LogicalPlan::Distinct(Distinct::All(input)))
                })
            }
            LogicalPlan::Distinct(Distinct::On(on)) => self.distinct_on(on),
            LogicalPlan::Aggregate(a) => self.aggregate(a),
            LogicalPlan::Window(w) => self.window(w),
            LogicalPlan::Union(u) => self.union(u),
            LogicalPlan::Limit(l) => self.limit(l),
            LogicalPlan::Join(j) => self.join(j),
            LogicalPlan::Unnest(u) => self.unnest(u),
            LogicalPlan::Values(v) => {
                let mut rows = vec![];
                for row in &v.values {
                    let source = self.copy()?;
                    let exprs = self.listed(&source.keys, row, v.schema.columns())?;
                    let plan = Projection::try_new(exprs, Arc::new(source.plan))?;
                    rows.push(Keyed {
                        plan: LogicalPlan::Projection(plan),
                        keys: source.keys,
                    });
                }
                self.unite(rows, v.schema.columns())
            }
            _ => Ok(None),
        }
    }

    /// The same rows for every value.
    fn for_each(&self, plan: &LogicalPlan) -> Result<Keyed> {
        let source = self.copy()?;
        if matches!(plan, LogicalPlan::EmptyRelation(e) if e.produce_one_row && e.schema.fields().is_empty())
        {
            return Ok(source);
        }
        let plan = LogicalPlanBuilder::from(source.plan)
            .cross_join(plan.clone())?
            .build()?;
        Ok(Keyed {
            plan,
            keys: source.keys,
        })
    }

    /// A node over `input` that keeps its keys.
    fn over(
        &self,
        input: Keyed,
        node: impl FnOnce(Arc<LogicalPlan>) -> Result<LogicalPlan>,
    ) -> Result<Option<Keyed>> {
        Ok(Some(Keyed {
            plan: node(Arc::new(input.plan))?,
            keys: input.keys,
        }))
    }

    fn distinct_on(&self, on: &DistinctOn) -> Result<Option<Keyed>> {
        let Some(input) = self.all(&on.input)? else {
            return Ok(None);
        };
        let mut keys = input.key_exprs();
        let mut sort: Vec<SortExpr> = keys.iter().map(|k| k.clone().sort(true, false)).collect();
        sort.extend(self.bind_sort(on.sort_expr.as_deref().unwrap_or(&[]), &input.keys)?);
        keys.extend(self.bind_all(&on.on_expr, &input.keys)?);
        let columns = on.schema.columns();
        let select = self.listed(&input.keys, &on.select_expr, columns)?;
        self.over(input, |input| {
            let on = DistinctOn::try_new(keys, select, Some(sort), input)?;
            Ok(LogicalPlan::Distinct(Distinct::On(on)))
        })
    }

    fn aggregate(&self, a: &Aggregate) -> Result<Option<Keyed>> {
        match a.group_expr.as_slice() {
            [Expr::GroupingSet(sets)] => return self.grouping_sets(a, sets),
            keys if keys.iter().any(|e| matches!(e, Expr::GroupingSet(_))) => return Ok(None),
            _ => {}
        }
        let Some(input) = self.all(&a.input)? else {
            return Ok(None);
        };
        if a.group_expr.is_empty() {
            return self.one_group(a, input).map(Some);
        }
        let columns = a.schema.columns();
        let (groups, calls) = columns.split_at(a.group_expr.len());
        let groups = self.listed(&input.keys, &a.group_expr, groups.to_vec())?;
        let mut bound = vec![];
        for (e, c) in a.aggr_expr.iter().zip(calls) {
            bound.push(named(self.bind(e.clone(), &input.keys)?, c.clone()));
        }
        self.over(input, |input| {
            Ok(LogicalPlan::Aggregate(Aggregate::try_new(
                input, groups, bound,
            )?))
        })
    }

    /// One aggregate per set of keys, with NULL for the keys that it leaves out, and the set's number.
    fn grouping_sets(&self, a: &Aggregate, sets: &GroupingSet) -> Result<Option<Keyed>> {
        let all: Vec<Expr> = sets.distinct_expr().into_iter().cloned().collect();
        let (keys, id) = a.schema.fields().split_at(all.len());
        let Some(id) = id.first() else {
            return Ok(None);
        };
        let mut parts = vec![];
        for set in each_set(sets) {
            let groups: Vec<Expr> = all.iter().filter(|e| set.contains(e)).cloned().collect();
            let mut calls = a.aggr_expr.clone();
            if groups.is_empty() && calls.is_empty() {
                // There is no aggregate without either.
                calls.push(count_udaf().call(vec![lit(1i64)]));
            }
            let width = groups.len() + a.aggr_expr.len();
            let one = Aggregate::try_new(a.input.clone(), groups, calls)?;
            let given = one.schema.columns();
            let Some(part) = self.aggregate(&one)? else {
                return Ok(None);
            };
            let mut columns = given.into_iter().take(width).map(Expr::Column);
            let mut exprs = vec![];
            let mut missing = 0u64;
            for (e, field) in all.iter().zip(keys) {
                let there = set.contains(e);
                missing = missing << 1 | u64::from(!there);
                let column = if there { columns.next() } else { None };
                exprs.push(match column {
                    Some(column) => column,
                    None => lit(ScalarValue::try_new_null(field.data_type())?),
                });
            }
            exprs.push(lit(
                ScalarValue::UInt64(Some(missing)).cast_to(id.data_type())?
            ));
            exprs.extend(columns);
            let names = exprs
                .iter()
                .map(|_| Column::new_unqualified(self.fresh("set")));
            let names = names.collect();
            let listed = self.listed(&part.keys, &exprs, names)?;
            let plan = Projection::try_new(listed, Arc::new(part.plan))?;
            parts.push(Keyed {
                plan: LogicalPlan::Projection(plan),
                keys: part.keys,
            });
        }
        self.unite(parts, a.schema.columns())
    }

    /// An aggregate without GROUP BY has a row for every value, also for those without input.
    fn one_group(&self, a: &Aggregate, input: Keyed) -> Result<Keyed> {
        let groups = self.copy()?;
        let mut all: Vec<Expr> = input
            .plan
            .schema()
            .columns()
            .into_iter()
            .map(Expr::Column)
            .collect();
        let present = self.fresh("present");
        all.push(lit(true).alias(&present));
        let rows = LogicalPlanBuilder::from(input.plan).project(all)?.build()?;
        let rows = LogicalPlanBuilder::from(groups.plan)
            .join_detailed(
                rows,
                JoinType::Left,
                (groups.keys.clone(), input.keys.clone()),
                None,
                NullEquality::NullEqualsNull,
            )?
            .build()?;
        let mut calls = vec![];
        for (e, c) in a.aggr_expr.iter().zip(a.schema.columns()) {
            let Expr::AggregateFunction(f) = unalias(e) else {
                return datafusion_common::internal_err!("{e} is not an aggregate");
            };
            let mut params = f.params.clone();
            let present = Expr::Column(Column::new_unqualified(&present)).is_not_null();
            let filter = match params.filter.take() {
                Some(f) => present.and(*f),
                None => present,
            };
            params.filter = Some(Box::new(filter));
            let func = f.func.clone();
            let call = Expr::AggregateFunction(AggregateFunction { func, params });
            calls.push(named(self.bind(call, &input.keys)?, c));
        }
        let keys: Vec<Expr> = groups.keys.iter().cloned().map(Expr::Column).collect();
        let plan = LogicalPlan::Aggregate(Aggregate::try_new(Arc::new(rows), keys, calls)?);
        Ok(Keyed {
            plan,
            keys: groups.keys,
        })
    }

    fn window(&self, w: &Window) -> Result<Option<Keyed>> {
        let Some(input) = self.all(&w.input)? else {
            return Ok(None);
        };
        let columns = w.schema.columns();
        let added = &columns[columns.len() - w.window_expr.len()..];
        let mut calls = vec![];
        for (e, c) in w.window_expr.iter().zip(added) {
            let Expr::WindowFunction(f) = unalias(e) else {
                return Ok(None);
            };
            let mut f = f.clone();
            f.params.partition_by.extend(input.key_exprs());
            let call = self.bind(Expr::WindowFunction(f), &input.keys)?;
            calls.push(call.alias(c.name.clone()));
        }
        self.over(input, |input| {
            Ok(LogicalPlan::Window(Window::try_new(calls, input)?))
        })
    }

    fn union(&self, u: &Union) -> Result<Option<Keyed>> {
        let mut parts = vec![];
        for input in &u.inputs {
            let Some(part) = self.all(input)? else {
                return Ok(None);
            };
            parts.push(part);
        }
        self.unite(parts, u.schema.columns())
    }

    /// All rows of `parts`, whose columns behind the keys become `columns`.
    fn unite(&self, parts: Vec<Keyed>, columns: Vec<Column>) -> Result<Option<Keyed>> {
        let width = self.outer.len();
        let stem = self.fresh("c");
        let name = |i: usize| format!("{stem}_{i}");
        let mut inputs = vec![];
        for part in parts {
            // Keys come first in some plans and not in others: by name, then the rest in order.
            let rest = part.plan.schema().columns();
            let rest = rest.into_iter().filter(|c| !part.keys.contains(c));
            let all = part.keys.iter().cloned().chain(rest).enumerate();
            let exprs = all.map(|(i, c)| Expr::Column(c).alias(name(i)));
            let exprs = exprs.collect();
            let projection = Projection::try_new(exprs, Arc::new(part.plan))?;
            inputs.push(Arc::new(LogicalPlan::Projection(projection)));
        }
        let union = match <[_; 1]>::try_from(inputs) {
            Ok([one]) => Arc::unwrap_or_clone(one),
            Err(inputs) => LogicalPlan::Union(Union::try_new_with_loose_types(inputs)?),
        };
        let alias = self.fresh("u");
        let union = LogicalPlanBuilder::from(union)
            .alias(alias.as_str())?
            .build()?;
        let given = union.schema().columns();
        let (keys, rest) = given.split_at(width);
        let mut exprs: Vec<Expr> = keys.iter().cloned().map(Expr::Column).collect();
        for (c, to) in rest.iter().zip(columns) {
            exprs.push(named(Expr::Column(c.clone()), to));
        }
        Ok(Some(Keyed {
            plan: LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(union))?),
            keys: keys.to_vec(),
        }))
    }

    /// LIMIT and OFFSET number the rows of each key.
    fn limit(&self, l: &Limit) -> Result<Option<Keyed>> {
        // A choice of columns may come after the limit as well as before it.
        let lower = |input: &Arc<LogicalPlan>| {
            Arc::new(LogicalPlan::Limit(Limit {
                skip: l.skip.clone(),
                fetch: l.fetch.clone(),
                input: Arc::clone(input),
            }))
        };
        match l.input.as_ref() {
            LogicalPlan::Projection(p) => {
                let input = lower(&p.input);
                let p = Projection::try_new_with_schema(p.expr.clone(), input, p.schema.clone())?;
                return self.all(&LogicalPlan::Projection(p));
            }
            LogicalPlan::SubqueryAlias(a) => {
                let a = SubqueryAlias::try_new(lower(&a.input), a.alias.clone())?;
                return self.all(&LogicalPlan::SubqueryAlias(a));
            }
            _ => {}
        }
        let (sort, input) = match l.input.as_ref() {
            LogicalPlan::Sort(Sort {
                expr,
                input,
                fetch: None,
            }) => (expr.clone(), input),
            other => {
                let columns = other.schema().columns().into_iter();
                let sort = columns.map(|c| Expr::Column(c).sort(true, false));
                (sort.collect(), &l.input)
            }
        };
        let columns = l.input.schema().columns();
        let Some(input) = self.all(input)? else {
            return Ok(None);
        };
        let number = |e: &Option<Box<Expr>>, clause| -> Result<Option<Expr>> {
            let Some(e) = e else { return Ok(None) };
            let e = self.bind(e.as_ref().clone(), &input.keys)?;
            Ok(Some(match e {
                Expr::Literal(..) => e,
                e => number_of_rows(e, clause),
            }))
        };
        let skipped = number(&l.skip, Clause::Offset)?.unwrap_or_else(|| lit(0_i64));
        let fetched = number(&l.fetch, Clause::Limit)?;
        let sort = self.bind_sort(&sort, &input.keys)?;
        let name = self.fresh("row");
        let number = row_number(input.key_exprs(), sort).alias(&name);
        let mut exprs = input.key_exprs();
        exprs.extend(columns.into_iter().map(Expr::Column));
        let column = Expr::Column(Column::new_unqualified(&name));
        let number_of_row = Expr::Cast(Cast::new(
            Box::new(column),
            arrow::datatypes::DataType::Int64,
        ));
        let mut wanted = binary_expr(number_of_row.clone(), Operator::Gt, skipped.clone());
        if let (FetchType::Literal(Some(fetch)), SkipType::Literal(skip)) =
            (l.get_fetch_type()?, l.get_skip_type()?)
        {
            let last = lit(i64::try_from(skip.saturating_add(fetch)).unwrap_or(i64::MAX));
            wanted = wanted.and(binary_expr(number_of_row, Operator::LtEq, last));
        } else if let Some(fetched) = fetched {
            let place = binary_expr(number_of_row, Operator::Minus, skipped);
            wanted = wanted.and(binary_expr(place, Operator::LtEq, fetched));
        }
        self.over(input, |input| {
            let numbered = LogicalPlan::Window(Window::try_new(vec![number], input)?);
            let kept = LogicalPlan::Filter(Filter::try_new(wanted, Arc::new(numbered))?);
            Ok(LogicalPlan::Projection(Projection::try_new(
                exprs,
                Arc::new(kept),
            )?))
        })
    }

    fn join(&self, j: &Join) -> Result<Option<Keyed>> {
        use JoinType::*;
        let (left, right) = (self.concerns(&j.left)?, self.concerns(&j.right)?);
        // A side whose rows appear without a match needs the keys.
        let (left, right) = match j.join_type {
            Inner => (left || !right, right),
            Left | LeftSemi | LeftAnti => (true, right),
            Right | RightSemi | RightAnti => (left, true),
            Full => (true, true),
            LeftMark | RightMark => return Ok(None),
        };
        if j.null_aware {
            return Ok(None);
        }
        let side = |wanted: bool, plan: &Arc<LogicalPlan>| -> Result<Option<Keyed>> {
            match wanted {
                true => self.all(plan),
                false => Ok(Some(Keyed {
                    plan: plan.as_ref().clone(),
                    keys: vec![],
                })),
            }
        };
        let (Some(l), Some(r)) = (side(left, &j.left)?, side(right, &j.right)?) else {
            return Ok(None);
        };
        let keys = if left { &l.keys } else { &r.keys };
        let mut on = vec![];
        let mut filter: Vec<Expr> = vec![];
        let nulls_equal = j.null_equality == NullEquality::NullEqualsNull;
        let equality = match nulls_equal {
            true => Operator::IsNotDistinctFrom,
            false => Operator::Eq,
        };
        for (a, b) in &j.on {
            let bound = (self.bind(a.clone(), keys)?, self.bind(b.clone(), keys)?);
            match bound.0 == *a && bound.1 == *b {
                true => on.push(bound),
                false => filter.push(binary_expr(bound.0, equality, bound.1)),
            }
        }
        if left && right {
            for (a, b) in l.keys.iter().zip(&r.keys) {
                let (a, b) = (Expr::Column(a.clone()), Expr::Column(b.clone()));
                match nulls_equal {
                    true => on.push((a, b)),
                    false => filter.push(binary_expr(a, Operator::IsNotDistinctFrom, b)),
                }
            }
        }
        if let Some(f) = &j.filter {
            filter.push(self.bind(f.clone(), keys)?);
        }
        let keys_from = match j.join_type {
            Full => None,
            Right | RightSemi | RightAnti => Some(&r.keys),
            _ => Some(keys),
        };
        let mut exprs = vec![];
        let mut out_keys = vec![];
        match keys_from {
            Some(keys) => {
                out_keys.extend(keys.iter().cloned());
                exprs.extend(keys.iter().cloned().map(Expr::Column));
            }
            None => {
                for (a, b) in l.keys.iter().zip(&r.keys) {
                    let name = self.fresh("key");
                    let (a, b) = (Expr::Column(a.clone()), Expr::Column(b.clone()));
                    exprs.push(when(a.clone().is_not_null(), a).otherwise(b)?.alias(&name));
                    out_keys.push(Column::new_unqualified(name));
                }
            }
        }
        exprs.extend(j.schema.columns().into_iter().map(Expr::Column));
        let join = Join::try_new(
            Arc::new(l.plan),
            Arc::new(r.plan),
            on,
            filter.into_iter().reduce(Expr::and),
            j.join_type,
            j.join_constraint,
            j.null_equality,
            false,
        )?;
        let join = Arc::new(LogicalPlan::Join(join));
        Ok(Some(Keyed {
            plan: LogicalPlan::Projection(Projection::try_new(exprs, join)?),
            keys: out_keys,
        }))
    }

    fn unnest(&self, u: &Unnest) -> Result<Option<Keyed>> {
        let Some(input) = self.all(&u.input)? else {
            return Ok(None);
        };
        let mut exprs = input.key_exprs();
        exprs.extend(u.schema.columns().into_iter().map(Expr::Column));
        let plan = LogicalPlanBuilder::from(input.plan)
            .unnest_columns_with_options(u.exec_columns.clone(), u.options.clone())?
            .project(exprs)?
            .build()?;
        Ok(Some(Keyed {
            plan,
            keys: input.keys,
        }))
    }
}
