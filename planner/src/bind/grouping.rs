//! GROUP BY: its keys, the aggregate node, and how expressions are brought above it.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion_common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion_common::{Column, DFSchemaRef, ExprSchema, ScalarValue};
use datafusion_expr::expr::GroupingSet;
use datafusion_expr::{BinaryExpr, Expr, LogicalPlan, Operator};
use sqlparser::ast::{self, Expr as E, GroupByExpr};
use tidemill_zset::schema::SqlType;

use super::aggregates::given_type;
use super::expr::{AGGREGATE, Ctx, SET, WINDOW, deep, strip};
use super::grouping_sets::{Key, cube, each, keys_of, nested, product, rollup, row_or};
use super::hypothetical::DIRECT;
use super::outer_aggregates::outer_call;
use super::scope::Scope;
use super::{Binder, Typed, builder, columns_of, df, fit, project};
use crate::compile::decorrelate::names::{replace_outer, subquery_of, with_subquery};
use crate::compile::own_order::ordered_aggregates;
use crate::error::{Result, SqlError};
use crate::functions::shared::{self, SHARED};
use crate::parser::fold;
use crate::parser::spelling_queries::DISTINCT_SETS;
use crate::tree::Tree;
use crate::walk;

use super::select::Item;
use super::tail::ordinal;

impl Binder<'_> {
    /// GROUP BY: its keys, and how they combine if not plainly.
    pub(super) fn group_by(
        &self,
        ctx: Ctx,
        g: &GroupByExpr,
        s: &ast::Select,
        items: &[Item],
    ) -> Result<Groups> {
        let all;
        let (exprs, modifiers) = match g {
            GroupByExpr::Expressions(exprs, modifiers) => (exprs, modifiers),
            GroupByExpr::All(modifiers) => {
                all = without_aggregates(items);
                (&all, modifiers)
            }
        };
        if !modifiers.is_empty() {
            return Err(SqlError::unsupported(
                "GROUP BY modifiers are not supported",
            ));
        }
        let marked = |e: &E| matches!(e, E::Identifier(i) if i.value == DISTINCT_SETS);
        let (distinct, exprs) = match exprs.split_first() {
            Some((mark, rest)) if marked(mark) => (true, rest),
            _ => (false, exprs.as_slice()),
        };
        let c = Ctx {
            aggregates: false,
            windows: false,
            clause: "GROUP BY",
            ..ctx
        };
        let mut keys: Vec<Expr> = Vec::new();
        let mut shown: Vec<Shown> = Vec::new();
        // Output columns that are named as keys.
        let mut named: Vec<usize> = Vec::new();
        let mut one = |e: &E| -> Result<Key> {
            let output = self.output_of(c, e, s, items)?;
            let t = self.group_key(c, e, output, items)?;
            let key = match t.expr {
                Expr::Literal(..) => t.expr.clone(),
                _ => self.order_key(t.clone())?.expr,
            };
            if !keys.contains(&key) {
                keys.push(key.clone());
            }
            if key != t.expr && !shown.iter().any(|s| s.value.expr == t.expr) {
                let key = key.clone();
                shown.push(Shown { value: t, key });
            }
            named.extend(output);
            Ok(Key { expr: key, output })
        };
        // Each element stands for one or more sets of keys; together they stand for all combinations.
        let mut sets: Vec<Vec<Key>> = vec![vec![]];
        let mut plain = true;
        for e in exprs {
            let element = match row_or(e) {
                E::Rollup(es) => rollup(&each(es, &mut one)?),
                E::Cube(es) => cube(&each(es, &mut one)?)?,
                E::GroupingSets(es) => {
                    let mut all = Vec::new();
                    for e in es {
                        all.extend(nested(e, &mut one)?);
                    }
                    all
                }
                E::Tuple(es) => {
                    sets = product(sets, &each(std::slice::from_ref(es), &mut one)?)?;
                    continue;
                }
                e => {
                    sets = product(sets, &[vec![one(e)?]])?;
                    continue;
                }
            };
            plain = false;
            sets = product(sets, &element)?;
        }
        let sets_of_keys = sets.iter().map(|set| keys_of(set, &named, items));
        let mut sets = sets_of_keys.collect::<Result<Vec<_>>>()?;
        if distinct {
            let all = std::mem::take(&mut sets);
            for set in all {
                let alike = |s: &Vec<Expr>| {
                    s.iter().all(|e| set.contains(e)) && set.iter().all(|e| s.contains(e))
                };
                if !sets.iter().any(alike) {
                    sets.push(set);
                }
            }
        }
        let sets = GroupingSet::GroupingSets(sets);
        Ok(Groups {
            keys,
            sets: (!plain).then_some(Expr::GroupingSet(sets)),
            shown,
        })
    }

    /// What an element of GROUP BY is, `output` if that is an output column.
    fn group_key(&self, c: Ctx, e: &E, output: Option<usize>, items: &[Item]) -> Result<Typed> {
        let Some(n) = output else {
            let t = self.expr(c, e)?;
            return self.known(t);
        };
        let t = self.known(items[n].value.clone())?;
        let refused = |state, what| {
            let message = format!("{what} functions are not allowed in GROUP BY");
            Err(SqlError::new(state, message))
        };
        if uses_marker(&t.expr, AGGREGATE) {
            return refused("42803", "aggregate");
        }
        if uses_marker(&t.expr, WINDOW) {
            return refused("42P20", "window");
        }
        Ok(t)
    }

    /// The output column that an element of GROUP BY is.
    fn output_of(&self, c: Ctx, e: &E, s: &ast::Select, items: &[Item]) -> Result<Option<usize>> {
        if let Some(i) = ordinal(e, items.len(), "GROUP BY")? {
            return Ok(Some(i));
        }
        // An input column goes before an output name.
        if let E::Identifier(i) = strip(e) {
            let name = fold(i);
            if !c.scope.has_own(&name)?
                && let Some(n) = items.iter().position(|i| i.name == name)
            {
                let mut others = items[n + 1..].iter().filter(|i| i.name == name);
                if others.any(|o| o.value.expr != items[n].value.expr) {
                    let message = format!("GROUP BY \"{name}\" is ambiguous");
                    return Err(SqlError::new("42702", message));
                }
                return Ok(Some(n));
            }
        }
        // A subquery that is written twice is one; bound twice it would be two.
        Ok(same_item(e, s))
    }

    /// The aggregate node, and how expressions above it are brought up.
    pub(super) fn aggregate<'s>(
        &self,
        plan: LogicalPlan,
        scope: &'s Scope,
        Groups {
            keys: groups,
            sets,
            shown,
        }: Groups,
        mut calls: Vec<(Expr, SqlType)>,
    ) -> Result<(LogicalPlan, Lift<'s>)> {
        let asked = calls.len();
        for s in &shown {
            calls.push((representative(&s.value), s.value.ty.clone()));
        }
        let mut computed: Vec<(Expr, Expr)> = Vec::new();
        let mut place = |e: &Expr, stem: &str| -> Expr {
            match e {
                Expr::Column(_) | Expr::Literal(..) => e.clone(),
                e => {
                    if let Some((_, c)) = computed.iter().find(|(k, _)| k == e) {
                        return c.clone();
                    }
                    let c = Expr::Column(Column::new_unqualified(self.fresh(stem)));
                    computed.push((e.clone(), c.clone()));
                    c
                }
            }
        };
        // A constant key would be lost as a literal.
        let keys: Vec<(Expr, Expr)> = groups
            .iter()
            .map(|g| match g {
                Expr::Literal(..) => (
                    g.clone(),
                    Expr::Column(Column::new_unqualified(self.fresh("key"))),
                ),
                g => (g.clone(), place(g, "key")),
            })
            .collect();
        let mut functions = Vec::new();
        let (mut plan, calls) = df(ordered_aggregates(plan, calls))?;
        for (call, ty) in &calls {
            let Expr::AggregateFunction(a) = call else {
                return Err(SqlError::internal("not an aggregate"));
            };
            let mut a = a.clone();
            a.params.args = a.params.args.iter().map(|e| place(e, "arg")).collect();
            a.params.filter = a.params.filter.map(|f| Box::new(place(&f, "filter")));
            for s in &mut a.params.order_by {
                s.expr = place(&s.expr, "order");
            }
            functions.push((Expr::AggregateFunction(a), ty.clone()));
        }
        let constants: Vec<(Expr, Expr)> = keys
            .iter()
            .filter(|(g, _)| matches!(g, Expr::Literal(..)))
            .cloned()
            .collect();
        computed.extend(constants);
        if !computed.is_empty() {
            let mut exprs: Vec<Expr> = columns_of(&plan).into_iter().map(Expr::Column).collect();
            exprs.extend(computed.iter().map(|(e, c)| match c {
                Expr::Column(c) => e.clone().alias(&c.name),
                _ => e.clone(),
            }));
            plan = project(plan, exprs)?;
        }
        let group_exprs: Vec<Expr> = match sets {
            None => keys.iter().map(|(_, c)| c.clone()).collect(),
            Some(set) => vec![
                set.change_down(&mut |e| {
                    Ok(match keys.iter().find(|(k, _)| *k == e) {
                        Some((_, c)) => Transformed::new(c.clone(), true, TreeNodeRecursion::Jump),
                        None => Transformed::no(e),
                    })
                })
                .map_err(|e| crate::error::from_datafusion(&e))?
                .data,
            ],
        };
        let mut unique: Vec<Expr> = Vec::new();
        if group_exprs.is_empty() && functions.is_empty() {
            // All rows are one group, of which nothing is asked.
            let one = super::literal(ScalarValue::Int64(Some(1)));
            unique.push(datafusion::functions_aggregate::count::count_udaf().call(vec![one]));
        }
        for (f, _) in &functions {
            if !unique.contains(f) {
                unique.push(f.clone());
            }
        }
        let sets = match group_exprs.as_slice() {
            [Expr::GroupingSet(s)] => Some(s.distinct_expr().into_iter().cloned().collect()),
            _ => None,
        };
        let in_all = match group_exprs.as_slice() {
            [Expr::GroupingSet(GroupingSet::GroupingSets(sets))] => {
                let (first, others) = sets
                    .split_first()
                    .map_or((&[][..], &[][..]), |(f, o)| (f, o));
                let in_all = |e: &&Expr| others.iter().all(|set| set.contains(e));
                first.iter().filter(in_all).cloned().collect()
            }
            _ => vec![],
        };
        let plan = df(builder(plan)
            .aggregate(group_exprs, unique)
            .and_then(|b| b.build()))?;
        let results = functions
            .iter()
            .map(|(f, ty)| {
                let column = Column::new_unqualified(f.schema_name().to_string());
                let actual = given_type(&plan, &column).ok_or_else(|| {
                    SqlError::internal(format!("aggregate column {column} is missing"))
                })?;
                Ok(fit(Expr::Column(column), &actual, ty))
            })
            .collect::<Result<Vec<_>>>()?;
        let schema = plan.schema().clone();
        let above = |key: &Expr| keys.iter().find(|(k, _)| k == key).map(|(_, c)| c.clone());
        let shown = shown
            .into_iter()
            .zip(&results[asked..])
            .map(|(s, result)| {
                // Where a grouping set leaves the key out, it is NULL.
                let there = above(&s.key).filter(|_| sets.is_some());
                let result = match there {
                    Some(key) => super::conditions::when(
                        vec![(Expr::IsNotNull(Box::new(key)), result.clone())],
                        super::null_of(&s.value.ty),
                    ),
                    None => result.clone(),
                };
                (s, result)
            })
            .collect();
        Ok((
            plan,
            Lift {
                shown,
                scope,
                keys,
                results,
                sets,
                in_all,
                schema,
            },
        ))
    }

    /// `GROUPING(a, b)`: a marker that [`Lift::apply`] resolves, as it is known only then what the keys are.
    pub(super) fn grouping_call(&self, c: Ctx, f: &ast::Function) -> Result<Typed> {
        let args = match &f.args {
            ast::FunctionArguments::List(l) => self.function_args(c, &l.args)?,
            _ => Vec::new(),
        };
        if args.is_empty() || args.len() > 31 {
            return Err(SqlError::new(
                "54023",
                "GROUPING must have between 1 and 31 arguments",
            ));
        }
        let e = crate::functions::call(
            GROUPING,
            GROUPING.into(),
            std::sync::Arc::new(|_| Err(crate::functions::external(not_a_key()))),
            datafusion_expr::Volatility::Immutable,
            true,
            args.into_iter().map(|t| t.expr).collect(),
            &SqlType::Int4,
        );
        Ok(Typed::new(e, SqlType::Int4))
    }
}

/// Name of the marker of `GROUPING(…)`.
const GROUPING: &str = "grouping";

fn not_a_key() -> SqlError {
    SqlError::new(
        "42803",
        "arguments to GROUPING must be grouping expressions of the associated query level",
    )
}

/// An expression with a query of its own.
pub(super) fn is_subquery(e: &E) -> bool {
    matches!(e, E::Subquery(_) | E::Exists { .. } | E::InSubquery { .. })
}

/// The positions of items that use no aggregate and no window function, for GROUP BY ALL.
fn without_aggregates(items: &[Item]) -> Vec<E> {
    let plain = |i: &Item| {
        let uses = |marker| uses_marker(&i.value.expr, marker);
        !uses(AGGREGATE) && !uses(WINDOW)
    };
    let position = |n: usize| E::Value(ast::Value::Number((n + 1).to_string(), false).into());
    let numbered = items.iter().enumerate();
    let plain = numbered.filter(|(_, i)| plain(i));
    plain.map(|(n, _)| position(n)).collect()
}

/// The item of the select list that is written like a key with a subquery.
fn same_item(key: &E, s: &ast::Select) -> Option<usize> {
    if !walk::any_expr(key, is_subquery) {
        return None;
    }
    for (n, item) in s.projection.iter().enumerate() {
        match item {
            ast::SelectItem::UnnamedExpr(e) | ast::SelectItem::ExprWithAlias { expr: e, .. } => {
                if strip(e) == strip(key) {
                    return Some(n);
                }
            }
            // Stands for any number of items.
            _ => return None,
        }
    }
    None
}

/// Adds to the keys of GROUP BY what they determine: where all sets of them hold a table's PRIMARY KEY, its columns that expressions
/// above use.
pub(super) fn add_dependent(groups: &mut Groups, scope: &Scope, above: &[&Expr]) {
    let mut used: Vec<Column> = Vec::new();
    for e in above {
        let _ = e.walk(&mut |e| {
            match e {
                Expr::Column(c) => used.push(c.clone()),
                e => {
                    let outer = subquery_of(e).map(|s| s.outer_ref_columns.as_slice());
                    used.extend(outer.unwrap_or_default().iter().filter_map(|e| match e {
                        Expr::OuterReferenceColumn(_, c) => Some(c.clone()),
                        _ => None,
                    }));
                }
            }
            Ok(TreeNodeRecursion::Continue)
        });
    }
    for table in &scope.tables {
        let Some(key) = table.primary_key.as_deref().filter(|k| !k.is_empty()) else {
            continue;
        };
        let is_key = |e: &Expr| match &groups.sets {
            None => groups.keys.contains(e),
            Some(Expr::GroupingSet(GroupingSet::GroupingSets(sets))) => {
                sets.iter().all(|set| set.contains(e))
            }
            Some(_) => false,
        };
        let whole = key
            .iter()
            .all(|i| table.cols.get(*i).is_some_and(|c| is_key(&c.expr)));
        if !whole {
            continue;
        }
        for col in &table.cols {
            let in_use = matches!(&col.expr, Expr::Column(c) if used.contains(c));
            if !in_use || groups.keys.contains(&col.expr) {
                continue;
            }
            groups.keys.push(col.expr.clone());
            if let Some(Expr::GroupingSet(GroupingSet::GroupingSets(sets))) = &mut groups.sets {
                sets.iter_mut().for_each(|set| set.push(col.expr.clone()));
            }
        }
    }
}

/// What GROUP BY says.
pub(super) struct Groups {
    pub(super) keys: Vec<Expr>,
    /// How the keys combine, if not plainly.
    pub(super) sets: Option<Expr>,
    /// Values that stand beside their key.
    pub(super) shown: Vec<Shown>,
}

impl Groups {
    pub(super) fn change(&mut self, f: impl Fn(&mut Expr) -> Result<()>) -> Result<()> {
        let shown = (self.shown.iter_mut()).flat_map(|s| [&mut s.value.expr, &mut s.key]);
        (self.keys.iter_mut())
            .chain(&mut self.sets)
            .chain(shown)
            .try_for_each(f)
    }
}

/// A value whose equality is that of another one, the key: `1 month` and `30 days` are one group.
pub(super) struct Shown {
    value: Typed,
    key: Expr,
}

/// Of equal values the one that is shown: the interval in the largest units, the shortest jsonb. An aggregate call.
pub(super) fn representative(value: &Typed) -> Expr {
    let function = match value.ty {
        SqlType::Interval => datafusion::functions_aggregate::min_max::max_udaf(),
        _ => datafusion::functions_aggregate::min_max::min_udaf(),
    };
    function.call(vec![value.expr.clone()])
}

/// Brings expressions over the input of an aggregate above it.
pub(super) struct Lift<'s> {
    scope: &'s Scope<'s>,
    /// Values beside their key, and what they are above.
    shown: Vec<(Shown, Expr)>,
    /// Group key → its column above.
    keys: Vec<(Expr, Expr)>,
    /// Results of the aggregate calls.
    results: Vec<Expr>,
    /// With grouping sets: the keys above in the order of the bits of the set's number.
    sets: Option<Vec<Expr>>,
    /// Those that all sets have.
    in_all: Vec<Expr>,
    /// Of the aggregate.
    schema: DFSchemaRef,
}

impl Lift<'_> {
    pub(super) fn apply(&self, e: Expr) -> Result<Expr> {
        // A constant stays one, but a whole item that is a key is NULL where a grouping set leaves it out.
        if matches!(e, Expr::Literal(..))
            && self.sets.is_some()
            && let Some((_, c)) = self.keys.iter().find(|(k, _)| *k == e)
        {
            return Ok(c.clone());
        }
        let mut ungrouped = None;
        let out = e
            .change_down(&mut |e| {
                if let Expr::ScalarFunction(f) = &e
                    && f.func.name() == GROUPING
                {
                    let bits = self.grouping(&f.args).map_err(crate::functions::external)?;
                    return Ok(Transformed::new(bits, true, TreeNodeRecursion::Jump));
                }
                if let Expr::ScalarFunction(f) = &e
                    && f.func.name() == DIRECT
                    && let [result, direct @ ..] = f.args.as_slice()
                {
                    for value in direct {
                        let above = deep(|| self.apply(value.clone()));
                        let above = above.map_err(crate::functions::external)?;
                        // Where a set leaves the key out the value would be NULL.
                        let in_all = |c: &Column| {
                            self.in_all
                                .iter()
                                .any(|e| matches!(e, Expr::Column(k) if k == c))
                        };
                        if self.sets.is_some() && !above.column_refs().into_iter().all(in_all) {
                            let message =
                                "direct arguments that a grouping set leaves out are not supported";
                            return Err(crate::functions::external(SqlError::unsupported(message)));
                        }
                    }
                    let result = deep(|| self.apply(result.clone()));
                    let result = result.map_err(crate::functions::external)?;
                    return Ok(Transformed::new(result, true, TreeNodeRecursion::Jump));
                }
                if let Some((_, c)) = self
                    .keys
                    .iter()
                    .find(|(k, _)| *k == e && !matches!(k, Expr::Literal(..)))
                {
                    return Ok(Transformed::new(c.clone(), true, TreeNodeRecursion::Jump));
                }
                if let Some((_, above)) = self.shown.iter().find(|(s, _)| s.value.expr == e) {
                    return Ok(Transformed::new(
                        above.clone(),
                        true,
                        TreeNodeRecursion::Jump,
                    ));
                }
                if let Some((value, place, body, ret)) = shared::opened(&e) {
                    let lifted = |e| deep(|| self.apply(e)).map_err(crate::functions::external);
                    let (value, body) = (lifted(value)?, lifted(body)?);
                    let e = shared::closed(body, &place, value, ret);
                    return Ok(Transformed::new(e, true, TreeNodeRecursion::Jump));
                }
                if subquery_of(&e).is_some() {
                    return Ok(Transformed::yes(with_subquery(e, |s| {
                        replace_outer(s, &|e| self.outer(e))
                    })?));
                }
                if let Expr::Column(c) = &e {
                    let marker = c.relation.as_ref().map(|r| r.table());
                    if marker == Some(AGGREGATE) {
                        let n: usize = c.name.parse().unwrap_or(0);
                        return Ok(Transformed::new(
                            self.results[n].clone(),
                            true,
                            TreeNodeRecursion::Jump,
                        ));
                    }
                    if !matches!(marker, Some(WINDOW | SET | SHARED)) {
                        ungrouped.get_or_insert_with(|| c.clone());
                    }
                }
                Ok(Transformed::no(e))
            })
            .map_err(|e| crate::error::from_datafusion(&e))?;
        match ungrouped {
            None => Ok(out.data),
            Some(c) => Err(self.not_grouped(&c)),
        }
    }

    /// One bit per argument, the last one lowest: 1 if the row's set leaves the key out.
    fn grouping(&self, args: &[Expr]) -> Result<Expr> {
        let long = |v: i64| super::literal(ScalarValue::Int64(Some(v)));
        let binary = |l: Expr, op: Operator, r: Expr| {
            Expr::BinaryExpr(BinaryExpr::new(Box::new(l), op, Box::new(r)))
        };
        let cast = |e: Expr, to: DataType| Expr::Cast(datafusion_expr::Cast::new(Box::new(e), to));
        let mut out = long(0);
        for a in args {
            let a = match self.shown.iter().find(|(s, _)| s.value.expr == *a) {
                Some((s, _)) => &s.key,
                None => a,
            };
            let key = self.keys.iter().find(|(k, _)| k == a);
            let (_, above) = key.ok_or_else(not_a_key)?;
            out = binary(out, Operator::BitwiseShiftLeft, long(1));
            let Some(order) = &self.sets else { continue };
            let place = order
                .iter()
                .position(|k| k == above)
                .ok_or_else(not_a_key)?;
            let set = Expr::Column(Column::new_unqualified(
                datafusion_expr::Aggregate::INTERNAL_GROUPING_ID,
            ));
            let shift = long((order.len() - 1 - place) as i64);
            let set = binary(
                cast(set, DataType::Int64),
                Operator::BitwiseShiftRight,
                shift,
            );
            let bit = binary(set, Operator::BitwiseAnd, long(1));
            out = binary(out, Operator::BitwiseOr, bit);
        }
        Ok(cast(out, DataType::Int32))
    }

    /// What takes the place of an expression over this query's rows in a subquery above the aggregate: a key.
    fn outer(&self, e: &Expr) -> datafusion_common::Result<Option<Expr>> {
        if let Expr::OuterReferenceColumn(_, c) = e
            && let Some(n) = outer_call(self.scope, c)
        {
            let Some(Expr::Column(c)) = self.results.get(n) else {
                return Err(crate::functions::external(SqlError::unsupported(
                    "this aggregate of the query around a subquery is not supported",
                )));
            };
            let field = Arc::clone(self.schema.field_from_column(c)?);
            return Ok(Some(Expr::OuterReferenceColumn(field, c.clone())));
        }
        // An aggregate beside the subquery, which it is compared with.
        if let Expr::OuterReferenceColumn(_, c) = e
            && c.relation.as_ref().is_some_and(|r| r.table() == AGGREGATE)
            && let Some(result) = c.name.parse().ok().and_then(|n: usize| self.results.get(n))
        {
            let above = result.clone().change_up(&mut |e| match e {
                Expr::Column(c) => {
                    let field = Arc::clone(self.schema.field_from_column(&c)?);
                    Ok(Transformed::yes(Expr::OuterReferenceColumn(field, c)))
                }
                e => Ok(Transformed::no(e)),
            })?;
            return Ok(Some(above.data));
        }
        let mut own = false;
        let here = e.clone().change_up(&mut |e| {
            Ok(match &e {
                Expr::OuterReferenceColumn(_, c) if self.scope.has(c) => {
                    own = true;
                    Transformed::yes(Expr::Column(c.clone()))
                }
                _ => Transformed::no(e),
            })
        })?;
        if !own {
            return Ok(None);
        }
        let key = self.keys.iter().find(|(k, _)| *k == here.data);
        let shown = self.shown.iter().find(|(s, _)| s.value.expr == here.data);
        let above = key.map(|(_, c)| c).or(shown.map(|(_, e)| e));
        if let Some(Expr::Column(c)) = above {
            let field = Arc::clone(self.schema.field_from_column(c)?);
            return Ok(Some(Expr::OuterReferenceColumn(field, c.clone())));
        }
        match e {
            Expr::OuterReferenceColumn(_, c) => {
                let mut error = self.not_grouped(c);
                error.message = format!(
                    "subquery uses ungrouped column \"{}\" from outer query",
                    self.shown(c)
                );
                Err(crate::functions::external(error))
            }
            _ => Ok(None),
        }
    }

    /// A column as the user names it.
    fn shown(&self, c: &Column) -> String {
        self.scope
            .tables
            .iter()
            .find_map(|t| {
                let col = t
                    .cols
                    .iter()
                    .find(|s| matches!(&s.expr, Expr::Column(x) if x == c))?;
                Some(if t.alias.is_empty() {
                    col.name.clone()
                } else {
                    format!("{}.{}", t.alias, col.name)
                })
            })
            .unwrap_or_else(|| c.name.clone())
    }

    pub(super) fn not_grouped(&self, c: &Column) -> SqlError {
        let shown = self.shown(c);
        SqlError::new(
            "42803",
            format!(
                "column \"{shown}\" must appear in the GROUP BY clause or be used in an aggregate function"
            ),
        )
    }
}

/// Whether results of the calls that the marker stands for are in `e`.
pub(super) fn uses_marker(e: &Expr, marker: &str) -> bool {
    let mut found = false;
    let _ = e.walk(&mut |e| {
        if let Expr::Column(Column {
            relation: Some(r), ..
        }) = e
        {
            found |= r.table() == marker;
        }
        Ok(TreeNodeRecursion::Continue)
    });
    found
}
