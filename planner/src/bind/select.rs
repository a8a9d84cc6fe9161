//! SELECT: from the syntax tree to a plan, in the order in which its clauses take effect.

use std::cell::RefCell;
use std::collections::BTreeSet;

use datafusion_common::tree_node::TreeNodeRecursion;
use datafusion_common::{Column, ScalarValue, UnnestOptions};
use datafusion_expr::expr::Sort;
use datafusion_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Operator};
use sqlparser::ast::{self, Expr as E, SelectItem, SelectItemQualifiedWildcardKind, SetExpr};
use tidemill_zset::schema::SqlType;

use super::aggregates::given_type;
use super::expr::{Calls, Ctx, SET, Truth, WINDOW};
use super::names::output_name;
use super::scope::{Outer, Scope};
use super::substitute::{by_output_names, replace};
use super::tail::{Key, Late, SortKey, Tail, tail_of};
use super::{
    Binder, Ctes, Rel, RelCol, Typed, builder, columns_of, df, filter, filter_all, fit, literal,
    project, unique_names,
};
use crate::compile::own_order::{ordered_windows, own_order};
use crate::error::{Result, SqlError};
use crate::functions::cast::Context;
use crate::functions::shared::can_fail_for_some_value;
use crate::parser::spelling::ALL_FIELDS;
use crate::parser::{fold, parts, position};
use crate::tree::Tree;

/// An item of the select list.
pub(super) struct Item {
    pub(super) name: String,
    pub(super) value: Typed,
}

impl Binder<'_> {
    /// A whole query with its WITH, ORDER BY and LIMIT.
    pub(crate) fn query(&self, q: &ast::Query, ctes: &Ctes, outer: Outer) -> Result<Rel> {
        if let Some(q) = super::tail::without_parentheses(q)? {
            return self.query(&q, ctes, outer);
        }
        let mut ctes = ctes.clone();
        if let Some(w) = &q.with {
            self.with(w, &mut ctes, outer)?;
        }
        self.check_locks(q, &ctes)?;
        super::foreign::query(q)?;
        let tail = tail_of(q)?;
        match q.body.as_ref() {
            SetExpr::Select(s) => self.select(s, &tail, &ctes, outer),
            body => {
                let rel = self.set_expr(body, &ctes, outer)?;
                if tail.is_empty() {
                    Ok(rel)
                } else {
                    self.order_output(rel, &tail, &ctes, outer)
                }
            }
        }
    }

    pub(crate) fn set_expr(&self, e: &SetExpr, ctes: &Ctes, outer: Outer) -> Result<Rel> {
        match e {
            SetExpr::Select(s) => self.select(s, &Tail::default(), ctes, outer),
            SetExpr::Query(q) => self.query(q, ctes, outer),
            SetExpr::SetOperation {
                left,
                op,
                set_quantifier,
                right,
            } => self.set_operation(left, *op, *set_quantifier, right, ctes, outer),
            SetExpr::Values(v) => self.values(v, ctes, outer),
            SetExpr::Table(t) => {
                let name = t.table_name.clone().unwrap_or_default().to_lowercase();
                let schema = t.schema_name.as_ref().map(|s| s.to_lowercase());
                self.relation(schema.as_deref(), &name, None, ctes)
                    .map(|(rel, _)| rel)
            }
            _ => Err(crate::parser::with_change::not_at_the_top()),
        }
    }

    fn select(&self, s: &ast::Select, tail: &Tail, ctes: &Ctes, outer: Outer) -> Result<Rel> {
        super::foreign::select(s)?;
        super::windows::check_names(&s.named_window)?;
        let (mut plan, scope) = self.filtered_from(s, ctes, outer)?;
        let scope = &scope;
        let calls = RefCell::new(Calls::default());
        let ctx = Ctx {
            scope,
            ctes,
            calls: Some(&calls),
            aggregates: true,
            windows: true,
            sets: true,
            clause: "SELECT",
            named_windows: &s.named_window,
            truth: Truth::Value,
        };
        let mut items = self.items(ctx, &s.projection)?;
        let mut groups = self.group_by(ctx, &s.group_by, s, &items)?;
        let having = match &s.having {
            Some(h) => Some(self.condition(
                Ctx {
                    windows: false,
                    sets: false,
                    clause: "HAVING",
                    truth: Truth::Decides,
                    ..ctx
                },
                h,
            )?),
            None => None,
        };
        let qualified = s
            .qualify
            .as_ref()
            .map(|q| by_output_names(q, &s.projection, scope));
        let qualify = match &qualified {
            Some(q) => Some(self.condition(
                Ctx {
                    sets: false,
                    clause: "QUALIFY",
                    truth: Truth::Decides,
                    ..ctx
                },
                q,
            )?),
            None => None,
        };
        let mut keys = self.order_keys(ctx, tail, &items)?;
        let mut on = Vec::new();
        if let Some(ast::Distinct::On(exprs)) = &s.distinct {
            for e in exprs {
                on.push(self.output_or_expr(ctx, e, &items, "DISTINCT ON")?);
            }
        }
        let mut calls = calls.into_inner();
        let grouped_sets = sets_of(&groups.keys, &calls.sets);
        if !grouped_sets.is_empty() {
            // What GROUP BY names is there before the groups are.
            let found;
            (plan, found) = self.unnest_levels(plan, &calls.sets, grouped_sets.clone())?;
            let mut kept = 0..;
            let found =
                found
                    .into_iter()
                    .enumerate()
                    .map(|(n, column)| match grouped_sets.contains(&n) {
                        true => column,
                        false => set_marker(kept.next().unwrap_or(n)),
                    });
            let subst = [(SET.to_string(), found.collect())];
            let put = |e: &mut Expr| -> Result<()> {
                *e = replace(std::mem::take(e), &subst)?;
                Ok(())
            };
            let mut n = 0..;
            (calls.sets).retain(|_| n.next().is_none_or(|n| !grouped_sets.contains(&n)));
            groups.change(put)?;
            (items.iter_mut().map(|i| &mut i.value.expr))
                .chain(calls.windows.iter_mut().map(|(e, _)| e))
                .chain(calls.sets.iter_mut().map(|(e, _)| e))
                .chain(keys.iter_mut().chain(&mut on).filter_map(|(k, _)| match k {
                    Key::Hidden(e) | Key::Beside(_, e) => Some(e),
                    Key::Output(_) => None,
                }))
                .try_for_each(put)?;
        }
        // Everything above sees columns of what is below only; `lift` brings expressions up.
        let grouped = !matches!(&s.group_by, ast::GroupByExpr::Expressions(e, _) if e.is_empty());
        if !calls.aggregates.is_empty() || grouped || having.is_some() {
            let mut above: Vec<&Expr> = items.iter().map(|i| &i.value.expr).collect();
            above.extend(having.iter().chain(&qualify));
            above.extend(calls.windows.iter().chain(&calls.sets).map(|(e, _)| e));
            above.extend(keys.iter().chain(&on).filter_map(|(k, _)| match k {
                Key::Hidden(e) | Key::Beside(_, e) => Some(e),
                Key::Output(_) => None,
            }));
            super::grouping::add_dependent(&mut groups, scope, &above);
            let lift;
            (plan, lift) = self.aggregate(plan, scope, groups, calls.aggregates)?;
            let lift = |e: Expr| lift.apply(e);
            if let Some(h) = having {
                plan = filter(plan, lift(h)?)?;
            }
            for i in &mut items {
                i.value.expr = lift(i.value.expr.clone())?;
            }
            for k in keys.iter_mut().chain(&mut on) {
                if let Key::Hidden(e) | Key::Beside(_, e) = &mut k.0 {
                    *e = lift(e.clone())?;
                }
            }
            let windows = calls
                .windows
                .iter()
                .map(|(e, t)| Ok((lift(e.clone())?, t.clone())))
                .collect::<Result<Vec<_>>>()?;
            let sets = calls
                .sets
                .iter()
                .map(|(e, t)| Ok((lift(e.clone())?, t.clone())))
                .collect::<Result<Vec<_>>>()?;
            let qualify = qualify.map(lift).transpose()?;
            return self.finish_select(
                s,
                tail,
                (ctes, outer),
                plan,
                items,
                keys,
                on,
                windows,
                sets,
                qualify,
            );
        }
        self.finish_select(
            s,
            tail,
            (ctes, outer),
            plan,
            items,
            keys,
            on,
            calls.windows,
            calls.sets,
            qualify,
        )
    }

    /// Windows, set-returning calls, the select list, DISTINCT, ORDER BY, LIMIT.
    #[allow(clippy::too_many_arguments)]
    fn finish_select(
        &self,
        s: &ast::Select,
        tail: &Tail,
        (ctes, outer): (&Ctes, Outer),
        mut plan: LogicalPlan,
        mut items: Vec<Item>,
        mut keys: Vec<SortKey>,
        mut on: Vec<SortKey>,
        calls: Vec<(Expr, SqlType)>,
        mut sets: Vec<(Expr, SqlType)>,
        qualify: Option<Expr>,
    ) -> Result<Rel> {
        let mut subst: Vec<(String, Vec<Expr>)> = Vec::new();
        if !calls.is_empty() {
            let windows;
            (plan, windows) = df(ordered_windows(plan, calls))?;
            let (p, found) = self.windows(plan, windows)?;
            plan = p;
            subst.push((WINDOW.to_string(), found));
        }
        for (e, _) in &mut sets {
            *e = replace(e.clone(), &subst)?;
        }
        if let Some(q) = qualify {
            plan = filter(plan, replace(q, &subst)?)?;
        }
        if !sets.is_empty() && !on.is_empty() && !keys.is_empty() {
            let first = self.first_before_sets(&plan, &items, (&on, &keys), &subst)?;
            if let Some(first) = first {
                plan = first;
                on.clear();
            }
        }
        if !sets.is_empty() {
            let all = (0..sets.len()).collect();
            let (p, found) = self.unnest_levels(plan, &sets, all)?;
            plan = p;
            subst.push((SET.to_string(), found));
        }
        for i in &mut items {
            i.value.expr = replace(i.value.expr.clone(), &subst)?;
        }
        for k in keys.iter_mut().chain(&mut on) {
            if let Key::Hidden(e) | Key::Beside(_, e) = &mut k.0 {
                *e = replace(e.clone(), &subst)?;
            }
        }
        // Decorrelation adds columns of the relations below to a subquery's output, so that it must not use their names.
        let names: Vec<String> = match outer {
            Outer::Query(..) => items.iter().map(|i| self.fresh(&i.name)).collect(),
            _ => unique_names(&items.iter().map(|i| i.name.clone()).collect::<Vec<_>>()),
        };
        let mut exprs = Vec::new();
        let mut cols = Vec::new();
        for (i, name) in items.into_iter().zip(names) {
            // Unknown literals stay so for a set operation or INSERT around, as text.
            let expr = match (&i.value.expr, i.value.unknown) {
                (Expr::Literal(ScalarValue::Null, _), true) => super::null_of(&SqlType::Text),
                (Expr::Placeholder(_), true) => {
                    self.settle(&i.value, &SqlType::Text, Context::Explicit)?
                }
                (e, _) => e.clone(),
            };
            exprs.push(expr.alias(&name));
            cols.push(RelCol {
                name: i.name,
                ty: i.value.ty,
                unknown: i.value.unknown,
                column: Column::new_unqualified(name),
            });
        }
        let outputs: Vec<Column> = cols.iter().map(|c| c.column.clone()).collect();
        let types: Vec<SqlType> = cols.iter().map(|c| c.ty.clone()).collect();
        let distinct = matches!(s.distinct, Some(ast::Distinct::Distinct));
        let mut known: Vec<(Expr, Expr)> = Vec::new();
        let mut hidden = |k: &Key| -> Result<Expr> {
            Ok(match k {
                Key::Output(i) => Expr::Column(outputs[*i].clone()),
                Key::Hidden(_) if distinct => {
                    return Err(SqlError::new(
                        "42P10",
                        "for SELECT DISTINCT, ORDER BY expressions must appear in select list",
                    ));
                }
                Key::Beside(i, _) if distinct => {
                    let column = Expr::Column(outputs[*i].clone());
                    self.sort_key(Typed::new(column, types[*i].clone()))?.expr
                }
                Key::Hidden(e) | Key::Beside(_, e) => {
                    // DISTINCT ON and ORDER BY may mean the same.
                    if let Some((_, column)) = known.iter().find(|(have, _)| have == e) {
                        return Ok(column.clone());
                    }
                    let name = self.fresh("sort");
                    exprs.push(e.clone().alias(&name));
                    let column = Expr::Column(Column::new_unqualified(name));
                    known.push((e.clone(), column.clone()));
                    column
                }
            })
        };
        // What it is sorted by, it is also told apart by.
        let sorted_by = |on: &Key| match on {
            Key::Output(i) => keys
                .iter()
                .map(|(k, _)| k)
                .find(|k| matches!(k, Key::Beside(j, _) if j == i)),
            _ => None,
        };
        let on: Vec<Expr> = on
            .iter()
            .map(|(k, _)| hidden(sorted_by(k).unwrap_or(k)))
            .collect::<Result<_>>()?;
        let mut sorts = keys
            .iter()
            .map(|(k, o)| {
                let asc = o.asc.unwrap_or(true);
                Ok(Sort::new(hidden(k)?, asc, o.nulls_first.unwrap_or(!asc)))
            })
            .collect::<Result<Vec<_>>>()?;
        let late = match distinct || !on.is_empty() || tail.is_empty() {
            true => Late::default(),
            false => self.after_order(&plan, &mut exprs, &outputs, &sorts, tail)?,
        };
        let (ties, of_ties) = late.ties(&outputs, &types);
        plan = project(plan, exprs)?;
        if distinct {
            plan = self.distinct(plan, &types)?;
        }
        if !on.is_empty() {
            plan = self.distinct_on(plan, on, &sorts, &outputs)?;
        }
        let ties = (&ties[..], &of_ties[..]);
        plan = self.sort_and_limit(plan, &mut sorts, ties, tail, ctes, outer)?;
        let plan = self.with_late(plan, outputs, late, sorts)?;
        Ok(Rel { plan, cols })
    }

    /// Each row once. The plan's columns are of these types.
    pub(super) fn distinct(&self, plan: LogicalPlan, types: &[SqlType]) -> Result<LogicalPlan> {
        let columns = columns_of(&plan);
        let (mut keys, mut shown) = (Vec::new(), Vec::new());
        for (column, ty) in columns.iter().zip(types) {
            let value = Typed::new(Expr::Column(column.clone()), ty.clone());
            let key = self.order_key(value.clone())?.expr;
            if key != value.expr {
                shown.push((column, super::grouping::representative(&value)));
                keys.push(key.alias(self.fresh("key")));
            } else {
                keys.push(key);
            }
        }
        if shown.is_empty() {
            return df(builder(plan).distinct().and_then(|b| b.build()));
        }
        let calls: Vec<Expr> = shown.iter().map(|(_, call)| call.clone()).collect();
        let plan = df(builder(plan).aggregate(keys, calls).and_then(|b| b.build()))?;
        let exprs = columns
            .iter()
            .map(|c| match shown.iter().find(|(s, _)| *s == c) {
                Some((_, call)) => {
                    let value = Column::new_unqualified(call.schema_name().to_string());
                    Expr::Column(value).alias_qualified(c.relation.clone(), &c.name)
                }
                None => Expr::Column(c.clone()),
            });
        project(plan, exprs.collect())
    }

    /// DISTINCT ON with ORDER BY chooses among the rows before set-returning functions make several of them, unless either is by such a
    /// function.
    fn first_before_sets(
        &self,
        plan: &LogicalPlan,
        items: &[Item],
        (on, keys): (&[SortKey], &[SortKey]),
        subst: &[(String, Vec<Expr>)],
    ) -> Result<Option<LogicalPlan>> {
        let columns = columns_of(plan);
        let mut exprs: Vec<Expr> = columns.iter().cloned().map(Expr::Column).collect();
        let mut known: Vec<(Expr, Expr)> = vec![];
        let mut column = |key: &Key| -> Result<Option<Expr>> {
            let e = match key {
                Key::Output(i) => &items[*i].value.expr,
                Key::Hidden(e) | Key::Beside(_, e) => e,
            };
            if super::grouping::uses_marker(e, SET) {
                return Ok(None);
            }
            let e = replace(e.clone(), subst)?;
            if let Some((_, column)) = known.iter().find(|(have, _)| *have == e) {
                return Ok(Some(column.clone()));
            }
            let name = self.fresh("first");
            exprs.push(e.clone().alias(&name));
            let column = Expr::Column(Column::new_unqualified(name));
            known.push((e, column.clone()));
            Ok(Some(column))
        };
        // What it is sorted by, it is also told apart by.
        let sorted_by = |on: &Key| {
            let mut all = keys.iter().map(|(k, _)| k);
            all.find(|k| matches!((k, on), (Key::Beside(j, _), Key::Output(i)) if j == i))
        };
        let on = on.iter().map(|(k, _)| column(sorted_by(k).unwrap_or(k)));
        let on = on.collect::<Result<Option<_>>>()?;
        let by = keys.iter().map(|(k, _)| column(k));
        let by = by.collect::<Result<Option<Vec<Expr>>>>()?;
        let (Some(on), Some(by)) = (on, by) else {
            return Ok(None);
        };
        let sorts = by.into_iter().zip(keys).map(|(e, (_, o))| {
            let asc = o.asc.unwrap_or(true);
            Sort::new(e, asc, o.nulls_first.unwrap_or(!asc))
        });
        let sorts: Vec<Sort> = sorts.collect();
        let plan = self.distinct_on(project(plan.clone(), exprs)?, on, &sorts, &columns)?;
        super::only(plan, columns).map(Some)
    }

    /// The first row of each group of equal `on`, by `sorts` and then by all columns.
    fn distinct_on(
        &self,
        plan: LogicalPlan,
        on: Vec<Expr>,
        sorts: &[Sort],
        outputs: &[Column],
    ) -> Result<LogicalPlan> {
        let n = sorts.len().min(on.len());
        if sorts[..n].iter().any(|s| !on.contains(&s.expr)) {
            return Err(SqlError::new(
                "42P10",
                "SELECT DISTINCT ON expressions must match initial ORDER BY expressions",
            ));
        }
        let (plan, mut order) = match sorts {
            [] => df(own_order(plan)).map(|o| (o.plan, o.by))?,
            sorts => (plan, sorts.to_vec()),
        };
        let ties = outputs.iter().cloned().map(Expr::Column);
        order.extend(ties.map(|c| Sort::new(c, true, false)));
        let first = super::lateral::row_number(on, order);
        let columns: Vec<Expr> = columns_of(&plan).into_iter().map(Expr::Column).collect();
        let (plan, found) = self.windows(plan, vec![(first, SqlType::Int8)])?;
        let one = literal(ScalarValue::Int64(Some(1)));
        let is_first = Expr::BinaryExpr(datafusion_expr::BinaryExpr::new(
            Box::new(found[0].clone()),
            Operator::Eq,
            Box::new(one),
        ));
        project(filter(plan, is_first)?, columns)
    }

    /// Adds a node that computes the window calls; gives the expressions that stand for their results.
    fn windows(
        &self,
        plan: LogicalPlan,
        mut windows: Vec<(Expr, SqlType)>,
    ) -> Result<(LogicalPlan, Vec<Expr>)> {
        let plan = self.keys_first(plan, &mut windows)?;
        let mut distinct: Vec<Expr> = Vec::new();
        for (e, _) in &windows {
            if !distinct.contains(e) {
                distinct.push(e.clone());
            }
        }
        let plan = df(LogicalPlanBuilder::window_plan(plan, distinct))?;
        let found = windows
            .iter()
            .map(|(e, ty)| {
                let column = Column::new_unqualified(e.schema_name().to_string());
                let actual = given_type(&plan, &column).ok_or_else(|| {
                    SqlError::internal(format!("window column {column} is missing"))
                })?;
                Ok(fit(Expr::Column(column), &actual, ty))
            })
            .collect::<Result<Vec<_>>>()?;
        Ok((plan, found))
    }

    /// Keys that are columns below the window: such as `ORDER BY random()`, which has one value there, and conditions over functions, of
    /// whose order DataFusion knows so little that it takes rows in it for unsorted. So are all parts of a call that DataFusion would call as it calls
    /// another: casts aren't in names.
    fn keys_first(
        &self,
        plan: LogicalPlan,
        windows: &mut [(Expr, SqlType)],
    ) -> Result<LogicalPlan> {
        let mut exprs: Vec<Expr> = columns_of(&plan).into_iter().map(Expr::Column).collect();
        let own = exprs.len();
        let mut names: Vec<String> = vec![];
        for (e, _) in windows {
            let name = e.schema_name().to_string();
            let is_taken = names.contains(&name);
            names.push(name);
            let Expr::WindowFunction(w) = e else { continue };
            let params = &mut w.params;
            let keys = params.order_by.iter_mut().map(|s| &mut s.expr);
            let keys = keys.chain(&mut params.partition_by);
            let keys = keys.filter(|k| is_taken || k.is_volatile() || compares_calls(k));
            let others = (params.args.iter_mut()).chain(params.filter.as_deref_mut());
            for part in keys.chain(others.filter(|_| is_taken)) {
                if matches!(part, Expr::Literal(..)) {
                    continue;
                }
                let name = self.fresh("key");
                let column = Expr::Column(Column::new_unqualified(&name));
                exprs.push(std::mem::replace(part, column).alias(name));
            }
        }
        match exprs.len() == own {
            true => Ok(plan),
            false => project(plan, exprs),
        }
    }

    /// Those of the set-returning calls `sets` that are in `rest`; ones that have others as arguments after these.
    fn unnest_levels(
        &self,
        mut plan: LogicalPlan,
        sets: &[(Expr, SqlType)],
        mut rest: Vec<usize>,
    ) -> Result<(LogicalPlan, Vec<Expr>)> {
        // Until a call's elements are there, its marker stands for them.
        let mut found: Vec<Expr> = (0..sets.len()).map(set_marker).collect();
        while !rest.is_empty() {
            let subst = [(SET.to_string(), found.clone())];
            let (mut now, mut later, mut lists) = (vec![], vec![], vec![]);
            for n in rest {
                let list = replace(sets[n].0.clone(), &subst)?;
                if relations(&list).0.contains(SET) {
                    later.push(n);
                } else {
                    now.push(n);
                    lists.push((list, sets[n].1.clone()));
                }
            }
            if now.is_empty() {
                return Err(SqlError::internal(
                    "set-returning calls that need each other",
                ));
            }
            let columns;
            (plan, columns) = self.unnest(plan, lists, false)?;
            for (n, column) in now.into_iter().zip(columns) {
                found[n] = column;
            }
            rest = later;
        }
        Ok((plan, found))
    }

    /// Unnests lists side by side; gives the columns of their elements. `outer`: a row without elements stays, with NULL.
    pub(crate) fn unnest(
        &self,
        plan: LogicalPlan,
        lists: Vec<(Expr, SqlType)>,
        outer: bool,
    ) -> Result<(LogicalPlan, Vec<Expr>)> {
        let mut exprs: Vec<Expr> = columns_of(&plan).into_iter().map(Expr::Column).collect();
        let (plan, lists) = super::sets::bounds_as_columns(plan, lists)?;
        let mut columns = Vec::new();
        for (e, _) in lists {
            let name = self.fresh("element");
            exprs.push(e.alias(&name));
            columns.push(Column::new_unqualified(name));
        }
        let plan = project(plan, exprs)?;
        let options = UnnestOptions {
            null_handling: if outer {
                datafusion_common::NullHandling::PreserveAndExpandEmpty
            } else {
                datafusion_common::NullHandling::Drop
            },
            recursions: vec![],
        };
        let plan = df(builder(plan)
            .unnest_columns_with_options(columns.clone(), options)
            .and_then(|b| b.build()))?;
        Ok((plan, columns.into_iter().map(Expr::Column).collect()))
    }

    /// The conditions of WHERE.
    pub(crate) fn where_clause(
        &self,
        plan: LogicalPlan,
        scope: &Scope,
        ctes: &Ctes,
        e: &E,
    ) -> Result<LogicalPlan> {
        let all = self.conditions(scope, ctes, e)?;
        filter_all(plan, all)
    }

    /// The conditions of WHERE, all of which must be true.
    pub(super) fn conditions(&self, scope: &Scope, ctes: &Ctes, e: &E) -> Result<Vec<Expr>> {
        let ctx = Ctx {
            truth: Truth::Decides,
            ..Ctx::plain(scope, ctes, "WHERE")
        };
        let conjuncts = super::factors::conjuncts(e).into_iter();
        let bound = conjuncts.map(|c| self.condition(ctx, &c));
        Ok(guarded(bound.collect::<Result<_>>()?))
    }

    pub(super) fn items(&self, ctx: Ctx, projection: &[SelectItem]) -> Result<Vec<Item>> {
        let mut out = Vec::new();
        for p in projection {
            match p {
                SelectItem::UnnamedExpr(E::Function(f)) if parts(&f.name) == [ALL_FIELDS] => {
                    out.extend(self.all_fields(ctx, f)?);
                }
                SelectItem::UnnamedExpr(e) => out.push(Item {
                    name: output_name(e),
                    value: self.expr(ctx, e)?,
                }),
                SelectItem::ExprWithAlias { expr, alias } => out.push(Item {
                    name: fold(alias),
                    value: self.expr(ctx, expr)?,
                }),
                SelectItem::Wildcard(_) => {
                    let before = out.len();
                    out.extend(ctx.scope.star().map(|c| Item {
                        name: c.name.clone(),
                        value: Typed::new(c.expr.clone(), c.ty.clone()),
                    }));
                    if out.len() == before && ctx.scope.tables.is_empty() {
                        return Err(SqlError::new(
                            "42601",
                            "SELECT * with no tables specified is not valid",
                        ));
                    }
                }
                SelectItem::QualifiedWildcard(
                    SelectItemQualifiedWildcardKind::ObjectName(n),
                    _,
                ) => {
                    let p = parts(n);
                    let (schema, table) = match p.as_slice() {
                        [.., s, t] => (Some(s.as_str()), t.as_str()),
                        [t] => (None, t.as_str()),
                        [] => (None, ""),
                    };
                    if let Some(cols) = ctx.scope.columns_around(schema, table)? {
                        out.extend(cols.into_iter().map(|(name, value)| Item { name, value }));
                        continue;
                    }
                    let t = ctx.scope.table(schema, table)?.ok_or_else(|| {
                        let mut e = SqlError::new(
                            "42P01",
                            format!("missing FROM-clause entry for table \"{table}\""),
                        );
                        if let Some(ast::ObjectNamePart::Identifier(i)) = n.0.first() {
                            e.position = position(i.span);
                        }
                        e
                    })?;
                    out.extend(t.cols.iter().map(|c| Item {
                        name: c.name.clone(),
                        value: Typed::new(c.expr.clone(), c.ty.clone()),
                    }));
                }
                other => {
                    return Err(SqlError::unsupported(format!(
                        "select item is not supported: {other}"
                    )));
                }
            }
        }
        Ok(out)
    }
}

impl Binder<'_> {
    /// `(x).*`
    fn all_fields(&self, ctx: Ctx, call: &ast::Function) -> Result<Vec<Item>> {
        let ast::FunctionArguments::List(list) = &call.args else {
            return Err(SqlError::internal("a mark without its value"));
        };
        let row = self.row_or_value(self.function_args(ctx, &list.args)?)?;
        let SqlType::Other(arrow::datatypes::DataType::Struct(fields)) = &row.ty else {
            return Err(SqlError::new(
                "42809",
                format!("type {} is not composite", row.type_name()),
            ));
        };
        let items = fields.iter().map(|f| {
            Ok(Item {
                name: f.name().clone(),
                value: crate::functions::rows::field(row.clone(), f.name())?,
            })
        });
        items.collect()
    }

    /// A value in parentheses, which several are a row in.
    fn row_or_value(&self, mut values: Vec<Typed>) -> Result<Typed> {
        match (values.pop(), values.is_empty()) {
            (Some(one), true) => Ok(one),
            (last, _) => {
                values.extend(last);
                self.row_of(values)
            }
        }
    }
}

fn set_marker(n: usize) -> Expr {
    Expr::Column(Column::new(Some(SET), n.to_string()))
}

/// Whether there is an operator of DataFusion's own, and a function.
fn compares_calls(e: &Expr) -> bool {
    let has = |found: fn(&Expr) -> bool| e.any(&mut |e| Ok(found(e))).unwrap_or(true);
    has(|e| matches!(e, Expr::BinaryExpr(_))) && has(|e| matches!(e, Expr::ScalarFunction(_)))
}

/// Which set-returning calls `keys` use, with those in the arguments of these.
fn sets_of(keys: &[Expr], sets: &[(Expr, SqlType)]) -> Vec<usize> {
    let uses = |n: usize, e: &Expr| {
        e.column_refs()
            .iter()
            .any(|c| set_marker(n) == Expr::Column((*c).clone()))
    };
    let mut found: Vec<usize> = vec![];
    loop {
        let more = (0..sets.len()).find(|n| {
            !found.contains(n)
                && (keys.iter().any(|k| uses(*n, k)) || found.iter().any(|f| uses(*n, &sets[*f].0)))
        });
        match more {
            Some(n) => found.push(n),
            None => return found,
        }
    }
}

/// The relations whose columns an expression uses, and those of outer queries.
fn relations(e: &Expr) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut own, mut outer) = (BTreeSet::new(), BTreeSet::new());
    let _ = e.walk(&mut |e| {
        match e {
            Expr::Column(c) => own.extend(c.relation.as_ref().map(|r| r.to_string())),
            Expr::OuterReferenceColumn(_, c) => {
                outer.extend(c.relation.as_ref().map(|r| r.to_string()))
            }
            _ => {}
        }
        Ok(TreeNodeRecursion::Continue)
    });
    (own, outer)
}

/// Conditions that can fail and guard a later one: each is copied.
const GUARDS_MAX: usize = 32;

/// The conjuncts of a condition, those that can fail last, which see only rows that passed what is written before them about the
/// same relations. Comparisons of these with an outer row are among that, but for conditions that fail for large numbers only: they are
/// worth more below the join that such a comparison becomes.
pub(super) fn guarded(conjuncts: Vec<Expr>) -> Vec<Expr> {
    let (fallible, mut safe): (Vec<Expr>, Vec<Expr>) = conjuncts
        .into_iter()
        .partition(super::conditions::is_fallible);
    let mut guarded = Vec::new();
    for (i, f) in fallible.iter().enumerate() {
        let (mine, of_outer) = relations(f);
        let before: Vec<Expr> = if mine.len() + of_outer.len() > 1 {
            vec![]
        } else {
            let any_outer = of_outer.is_empty() && can_fail_for_some_value(f, &[]);
            let guards = |g: &&Expr| {
                let (own, outer) = relations(g);
                let (own_in, outer_in) = (own.is_subset(&mine), outer.is_subset(&of_outer));
                own_in && (outer_in || any_outer && !own.is_empty()) && own.len() + outer.len() > 0
            };
            safe.iter()
                .filter(|g| !has_subquery(g))
                .chain(&fallible[i.saturating_sub(GUARDS_MAX)..i])
                .filter(guards)
                .cloned()
                .collect()
        };
        guarded.push(match before.is_empty() {
            true => f.clone(),
            false => {
                let passed = super::conditions::balanced(before, Operator::And);
                super::conditions::lazy(vec![(passed, f.clone())], super::truth(false))
            }
        });
    }
    safe.extend(guarded);
    safe
}

pub(super) fn has_subquery(e: &Expr) -> bool {
    e.any(&mut |e| {
        Ok(matches!(
            e,
            Expr::Exists(_) | Expr::InSubquery(_) | Expr::ScalarSubquery(_)
        ))
    })
    .unwrap_or(true)
}
