//! FROM: relations, joins, functions, LATERAL, common table expressions.

use std::sync::Arc;

use datafusion::datasource::provider_as_source;
use datafusion_common::{Column, JoinType};
use datafusion_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Operator};
use sqlparser::ast::{
    self, JoinConstraint, JoinOperator, TableAlias, TableFactor, TableWithJoins, VisitMut,
};
use tidemill_zset::schema::SqlType;

use super::expr::Ctx;
use super::from_functions::{is_lateral, table_function};
use super::scope::{Outer, Scope, ScopeCol, ScopeTable, closest};
use super::types::{is_text, united};
use super::{
    Binder, Ctes, Rel, RelCol, Typed, builder, columns_of, df, fit, project, unique_names,
};
use crate::catalog::{Relation, RelationKind, broken_view};
use crate::error::{Result, SqlError};
use crate::functions::shared::shared;
use crate::parser::spelling::JOIN_ALIAS;
use crate::parser::{fold, parts, position};
use crate::query::CollectionTable;

/// An inner join with ON, or a cross join.
fn is_plain_inner(join: &ast::Join) -> bool {
    matches!(
        join.join_operator,
        JoinOperator::Join(JoinConstraint::On(_))
            | JoinOperator::Inner(JoinConstraint::On(_))
            | JoinOperator::CrossJoin(_)
    )
}

/// A join that gives its left side's rows only, with what belongs to them.
fn keeps_left(join: &ast::Join) -> bool {
    use JoinOperator::*;
    matches!(
        join.join_operator,
        Join(JoinConstraint::On(_))
            | Inner(JoinConstraint::On(_))
            | Left(JoinConstraint::On(_))
            | LeftOuter(JoinConstraint::On(_))
            | CrossJoin(_)
    )
}

/// An inner or left join with USING.
fn is_using(join: &ast::Join) -> bool {
    use JoinOperator::*;
    matches!(
        join.join_operator,
        Join(JoinConstraint::Using(_))
            | Inner(JoinConstraint::Using(_))
            | Left(JoinConstraint::Using(_))
            | LeftOuter(JoinConstraint::Using(_))
    )
}

/// The condition `true`.
fn is_true(e: &ast::Expr) -> bool {
    matches!(super::expr::strip(e), ast::Expr::Value(v) if v.value == ast::Value::Boolean(true))
}

/// Whether a part of a condition equates two values of rows.
fn has_keys(e: &ast::Expr) -> bool {
    super::factors::conjuncts(e).iter().any(|part| {
        let ast::Expr::BinaryOp { left, op, right } = super::expr::strip(part) else {
            return false;
        };
        *op == ast::BinaryOperator::Eq && names_columns(&**left) && names_columns(&**right)
    })
}

/// Whether there are names of columns in `node`, or a query, which may have some.
fn names_columns(node: &(impl VisitMut + Clone)) -> bool {
    crate::walk::any_expr(node, |e| {
        matches!(
            e,
            ast::Expr::Identifier(_)
                | ast::Expr::CompoundIdentifier(_)
                | ast::Expr::Subquery(_)
                | ast::Expr::Exists { .. }
                | ast::Expr::InSubquery { .. }
        )
    })
}

/// What has been joined so far.
pub(super) struct Joined<'o> {
    pub(super) plan: Option<LogicalPlan>,
    pub(super) scope: Scope<'o>,
}

pub(super) fn one_row() -> LogicalPlan {
    LogicalPlanBuilder::empty(true).plan().clone()
}

impl Binder<'_> {
    pub(crate) fn relations<'o>(
        &self,
        from: &[TableWithJoins],
        ctes: &Ctes,
        outer: Outer<'o>,
    ) -> Result<(LogicalPlan, Scope<'o>)> {
        self.relations_on(None, from, ctes, outer)
    }

    /// FROM, its relations joined to `base`.
    pub(super) fn relations_on<'o>(
        &self,
        base: Option<LogicalPlan>,
        from: &[TableWithJoins],
        ctes: &Ctes,
        outer: Outer<'o>,
    ) -> Result<(LogicalPlan, Scope<'o>)> {
        let on_base = base.is_some();
        let j = Joined {
            plan: base,
            scope: Scope::new(outer),
        };
        self.relations_beside(j, from, ctes, on_base)
    }

    /// Items of FROM, joined to what there is already. `on_base`: that has no names of its own.
    pub(super) fn relations_beside<'o>(
        &self,
        mut j: Joined<'o>,
        from: &[TableWithJoins],
        ctes: &Ctes,
        on_base: bool,
    ) -> Result<(LogicalPlan, Scope<'o>)> {
        let outer = j.scope.outer;
        for t in from {
            // Conditions of inner joins may name columns of `base` alone.
            let inner = on_base && t.joins.iter().all(is_plain_inner);
            let follows = is_lateral(&t.relation) && t.joins.iter().all(keeps_left);
            if t.joins.is_empty() || j.plan.is_none() || follows || inner {
                j = self.join_chain(j, t, ctes)?;
                continue;
            }
            // `a, b JOIN c`: the join on the right is made first.
            let apart = Joined {
                plan: None,
                scope: Scope::new(outer),
            };
            let looks_left =
                is_lateral(&t.relation) || t.joins.iter().any(|k| is_lateral(&k.relation));
            j = match self.join_chain(apart, t, ctes) {
                // But if something in it needs what stands to the left, it is joined to that step by step.
                Err(e) if looks_left && matches!(e.sqlstate, "42P01" | "42703") => {
                    if !t.joins.iter().all(|k| keeps_left(k) || is_using(k)) {
                        return Err(e);
                    }
                    self.join_chain(j, t, ctes)?
                }
                right => self.combine(j, right?, JoinType::Inner, &JoinConstraint::None, ctes)?,
            };
        }
        Ok((j.plan.unwrap_or_else(one_row), j.scope))
    }

    /// An item of FROM with its joins, joined to what stands to the left.
    fn join_chain<'o>(
        &self,
        left: Joined<'o>,
        t: &TableWithJoins,
        ctes: &Ctes,
    ) -> Result<Joined<'o>> {
        let (inner, no_condition) = (JoinType::Inner, JoinConstraint::None);
        let mut j = self.join(left, &t.relation, inner, &no_condition, ctes)?;
        for k in &t.joins {
            j = self.join_step(j, k, ctes)?;
        }
        Ok(j)
    }

    pub(super) fn join_step<'o>(
        &self,
        left: Joined<'o>,
        k: &ast::Join,
        ctes: &Ctes,
    ) -> Result<Joined<'o>> {
        let (kind, constraint) = match &k.join_operator {
            JoinOperator::Join(c) | JoinOperator::Inner(c) => (JoinType::Inner, c),
            JoinOperator::Left(c) | JoinOperator::LeftOuter(c) => (JoinType::Left, c),
            JoinOperator::Right(c) | JoinOperator::RightOuter(c) => (JoinType::Right, c),
            JoinOperator::FullOuter(c) => (JoinType::Full, c),
            JoinOperator::CrossJoin(_) => (JoinType::Inner, &JoinConstraint::None),
            _ => return Err(SqlError::unsupported("this kind of join is not supported")),
        };
        if matches!(constraint, JoinConstraint::None)
            && !matches!(k.join_operator, JoinOperator::CrossJoin(_))
        {
            return Err(SqlError::new(
                "42601",
                "syntax error: a join needs ON, USING or CROSS",
            ));
        }
        self.join(left, &k.relation, kind, constraint, ctes)
    }

    pub(super) fn join<'o>(
        &self,
        left: Joined<'o>,
        factor: &TableFactor,
        kind: JoinType,
        constraint: &JoinConstraint,
        ctes: &Ctes,
    ) -> Result<Joined<'o>> {
        super::foreign::relation(factor)?;
        if let Some((name, args, alias, ordinality)) = table_function(factor) {
            let loops = left.plan.is_none()
                || match (kind, constraint) {
                    (JoinType::Inner, JoinConstraint::None) => true,
                    // A function of its own that is joined by keys isn't looked through for each row.
                    (JoinType::Inner, JoinConstraint::On(e)) => {
                        !(has_keys(e) && args.iter().all(|a| !names_columns(a)))
                    }
                    (JoinType::Left, JoinConstraint::On(e)) => is_true(e),
                    _ => false,
                };
            if !loops {
                return self.join_function_apart(left, factor, kind, constraint, ctes);
            }
            return self.join_function(
                left, &name, &args, alias, ordinality, kind, constraint, ctes,
            );
        }
        let outer = left.scope.outer;
        if let TableFactor::Derived {
            lateral: true,
            subquery,
            alias,
            ..
        } = factor
        {
            // Names to the left go before those of queries around; RIGHT and FULL joins see none of them.
            let sees_left = matches!(kind, JoinType::Inner | JoinType::Left)
                || matches!(self.query(subquery, ctes, outer), Err(e) if matches!(e.sqlstate, "42P01" | "42703"));
            if left.plan.is_some() && sees_left {
                return self.join_lateral(left, subquery, alias.as_ref(), kind, constraint, ctes);
            }
        }
        let mut right = Joined {
            plan: None,
            scope: Scope::new(outer),
        };
        match factor {
            TableFactor::Table {
                name,
                alias,
                with_ordinality,
                ..
            } => {
                let n = crate::parser::relation_name(name)?;
                if *with_ordinality {
                    let message = "WITH ORDINALITY is for functions in FROM";
                    return Err(SqlError::new("42601", message).hint(format!(
                        "\"{}\" is a relation. row_number() numbers its rows.",
                        n.name
                    )));
                }
                let at = name.0.first().and_then(|p| match p {
                    ast::ObjectNamePart::Identifier(i) => position(i.span),
                    _ => None,
                });
                let (rel, pk) = self
                    .relation(n.schema.as_deref(), &n.name, alias.as_ref(), ctes)
                    .map_err(|e| super::expr::at(e, at))?;
                let is_cte = n.schema.is_none() && ctes.iter().any(|(c, _)| *c == n.name);
                let schema = match alias.is_some() || is_cte {
                    true => None,
                    false => self
                        .find_relation(n.schema.as_deref(), &n.name)
                        .map(|r| r.schema),
                };
                let mut t = rel.table(
                    &alias.as_ref().map_or(n.name.clone(), |a| fold(&a.name)),
                    schema,
                );
                t.primary_key = pk;
                right.plan = Some(rel.plan);
                right.scope.add(t)?;
            }
            TableFactor::Derived {
                subquery, alias, ..
            } => {
                let rel = self.query(subquery, ctes, outer)?;
                let name = alias.as_ref().map(|a| fold(&a.name)).unwrap_or_default();
                let rel = self.aliased(
                    rel,
                    if name.is_empty() { "subquery" } else { &name },
                    alias.as_ref(),
                )?;
                right.scope.add(rel.table(&name, None))?;
                right.plan = Some(rel.plan);
            }
            TableFactor::NestedJoin {
                table_with_joins,
                alias,
            } => {
                right = self.join(
                    right,
                    &table_with_joins.relation,
                    JoinType::Inner,
                    &JoinConstraint::None,
                    ctes,
                )?;
                for k in &table_with_joins.joins {
                    right = self.join_step(right, k, ctes)?;
                }
                if let Some(alias) = alias {
                    right = self.named_join(right, alias)?;
                }
            }
            other => {
                return Err(SqlError::unsupported(format!(
                    "FROM item is not supported: {other}"
                )));
            }
        }
        self.combine(left, right, kind, constraint, ctes)
    }

    /// `(a JOIN b …) AS j`: one relation, which hides those in it.
    fn named_join<'o>(&self, join: Joined<'o>, alias: &TableAlias) -> Result<Joined<'o>> {
        let (mut exprs, mut cols) = (Vec::new(), Vec::new());
        for c in join.scope.star() {
            let internal = self.fresh(&c.name);
            exprs.push(c.expr.clone().alias(&internal));
            cols.push(RelCol {
                name: c.name.clone(),
                ty: c.ty.clone(),
                unknown: false,
                column: Column::new_unqualified(internal),
            });
        }
        let plan = project(join.plan.unwrap_or_else(one_row), exprs)?;
        let name = fold(&alias.name);
        let rel = self.aliased(Rel { plan, cols }, &name, Some(alias))?;
        let mut scope = Scope::new(join.scope.outer);
        scope.add(rel.table(&name, None))?;
        Ok(Joined {
            plan: Some(rel.plan),
            scope,
        })
    }

    pub(super) fn combine<'o>(
        &self,
        left: Joined<'o>,
        right: Joined<'o>,
        kind: JoinType,
        constraint: &JoinConstraint,
        ctes: &Ctes,
    ) -> Result<Joined<'o>> {
        let Some(left_plan) = left.plan else {
            return Ok(right);
        };
        let right_plan = right.plan.unwrap_or_else(one_row);
        let width = left.scope.tables.len();
        let mut scope = left.scope;
        for t in right.scope.tables {
            scope.add(t)?;
        }
        let (mut on, merged) = match constraint {
            JoinConstraint::On(e) => (self.conjuncts(&scope, ctes, e, "JOIN/ON")?, None),
            _ => self.columns_in_common(&mut scope, width, kind, constraint)?,
        };
        let b = builder(left_plan);
        let b = if on.is_empty() && kind == JoinType::Inner {
            b.cross_join(right_plan)
        } else {
            if on.is_empty() {
                on.push(super::truth(true));
            }
            b.join_on(right_plan, kind, on)
        };
        let mut plan = df(b.and_then(|b| b.build()))?;
        if let Some(m) = merged {
            plan = self.with_merged(plan, m, &mut scope)?;
        }
        Ok(Joined {
            plan: Some(plan),
            scope,
        })
    }

    /// The equalities that USING and NATURAL stand for between the first `width` tables of a scope and the rest, and what they make
    /// one column. With another constraint: none.
    pub(super) fn columns_in_common(
        &self,
        scope: &mut Scope,
        width: usize,
        kind: JoinType,
        constraint: &JoinConstraint,
    ) -> Result<(Vec<Expr>, Option<ScopeTable>)> {
        match constraint {
            JoinConstraint::None | JoinConstraint::On(_) => Ok((Vec::new(), None)),
            JoinConstraint::Using(names) => {
                let mut names: Vec<String> = names.iter().filter_map(|n| parts(n).pop()).collect();
                let alias = names
                    .first()
                    .and_then(|n| n.strip_prefix(JOIN_ALIAS))
                    .map(str::to_string);
                if alias.is_some() {
                    names.remove(0);
                }
                let twice = (1..names.len()).find(|i| names[..*i].contains(&names[*i]));
                if let Some(name) = twice.map(|i| &names[i]) {
                    return Err(SqlError::new(
                        "42701",
                        format!("column name \"{name}\" appears more than once in USING clause"),
                    ));
                }
                let (on, mut merged) = self.using(scope, width, &names, kind)?;
                if let (Some(merged), Some(alias)) = (&mut merged, alias) {
                    merged.alias = alias;
                }
                Ok((on, merged))
            }
            JoinConstraint::Natural => {
                let left: Vec<&ScopeCol> = scope.tables[..width]
                    .iter()
                    .flat_map(|t| &t.cols)
                    .filter(|c| !c.hidden)
                    .collect();
                let names: Vec<String> = left
                    .iter()
                    .map(|c| c.name.clone())
                    .filter(|n| {
                        scope.tables[width..]
                            .iter()
                            .flat_map(|t| &t.cols)
                            .any(|c| c.name == *n)
                    })
                    .collect();
                self.using(scope, width, &names, kind)
            }
        }
    }

    /// Adds what USING merged to the scope, in front. A value that is made of both sides becomes a column of the plan, so that
    /// subqueries can name it.
    pub(super) fn with_merged(
        &self,
        plan: LogicalPlan,
        mut merged: ScopeTable,
        scope: &mut Scope,
    ) -> Result<LogicalPlan> {
        let mut exprs: Vec<Expr> = columns_of(&plan).into_iter().map(Expr::Column).collect();
        let width = exprs.len();
        for c in &mut merged.cols {
            if !matches!(c.expr, Expr::Column(_)) {
                let name = self.fresh(&c.name);
                exprs.push(c.expr.clone().alias(&name));
                c.expr = Expr::Column(Column::new_unqualified(name));
            }
        }
        let taken = scope.tables.iter();
        if taken
            .clone()
            .any(|t| !t.alias.is_empty() && t.alias == merged.alias)
        {
            let message = format!("table name \"{}\" specified more than once", merged.alias);
            return Err(SqlError::new("42712", message));
        }
        scope.tables.insert(0, merged);
        match exprs.len() == width {
            true => Ok(plan),
            false => project(plan, exprs),
        }
    }

    /// A condition's conjuncts, bound one by one.
    fn conjuncts(
        &self,
        scope: &Scope,
        ctes: &Ctes,
        e: &ast::Expr,
        clause: &'static str,
    ) -> Result<Vec<Expr>> {
        let conjuncts = super::factors::conjuncts(e).into_iter();
        let bound = conjuncts.map(|e| self.condition(Ctx::plain(scope, ctes, clause), &e));
        Ok(super::select::guarded(bound.collect::<Result<_>>()?))
    }

    /// USING: equal columns, seen as one.
    fn using(
        &self,
        scope: &mut Scope,
        width: usize,
        names: &[String],
        kind: JoinType,
    ) -> Result<(Vec<Expr>, Option<ScopeTable>)> {
        let mut on = Vec::new();
        let mut cols = Vec::new();
        for n in names {
            let find = |tables: &[ScopeTable], side: &str| -> Result<(usize, usize)> {
                let mut found = tables.iter().enumerate().flat_map(|(t, table)| {
                    table
                        .cols
                        .iter()
                        .enumerate()
                        .filter(|(_, c)| !c.hidden && c.name == *n)
                        .map(move |(c, _)| (t, c))
                });
                let first = found.next().ok_or_else(|| {
                    SqlError::new("42703", format!("column \"{n}\" specified in USING clause does not exist in {side} table"))
                })?;
                if found.next().is_some() {
                    return Err(SqlError::new(
                        "42702",
                        format!(
                            "common column name \"{n}\" appears more than once in {side} table"
                        ),
                    ));
                }
                Ok(first)
            };
            let (lt, lc) = find(&scope.tables[..width], "left")?;
            let (rt, rc) = find(&scope.tables[width..], "right")?;
            let (l, r) = (
                scope.tables[lt].cols[lc].clone(),
                scope.tables[width + rt].cols[rc].clone(),
            );
            scope.tables[lt].cols[lc].hidden = true;
            scope.tables[width + rt].cols[rc].hidden = true;
            let side = |c: &ScopeCol| Typed::new(c.expr.clone(), c.ty.clone());
            on.push(self.compare(Operator::Eq, side(&l), side(&r))?.expr);
            let ty = match is_text(&l.ty) && is_text(&r.ty) && kind != JoinType::Full {
                true => None,
                false => united(&l.ty, &r.ty),
            };
            let of_side = |c: &ScopeCol| {
                let ty = ty.clone().unwrap_or_else(|| c.ty.clone());
                Ok::<_, SqlError>((self.implicit(&side(c), &ty)?, ty))
            };
            let (expr, ty) = match kind {
                JoinType::Right => of_side(&r)?,
                JoinType::Full => {
                    let ((le, ty), (re, _)) = (of_side(&l)?, of_side(&r)?);
                    let first = shared(le, &ty, |le| Ok(super::conditions::first(le, re)))?;
                    (first, ty)
                }
                _ => of_side(&l)?,
            };
            cols.push(ScopeCol {
                name: n.clone(),
                ty,
                expr,
                hidden: false,
            });
        }
        Ok((
            on,
            (!cols.is_empty()).then_some(ScopeTable {
                alias: String::new(),
                schema: None,
                cols,
                primary_key: None,
            }),
        ))
    }

    /// A relation by name: a common table expression, a collection, or a view's query.
    pub(crate) fn relation(
        &self,
        schema: Option<&str>,
        name: &str,
        alias: Option<&TableAlias>,
        ctes: &Ctes,
    ) -> Result<(Rel, Option<Vec<usize>>)> {
        let qualifier = alias.map_or(name.to_string(), |a| fold(&a.name));
        if schema.is_none()
            && let Some((_, rel)) = ctes.iter().rev().find(|(n, _)| n == name)
        {
            return Ok((self.aliased(rel.clone(), &qualifier, alias)?, None));
        }
        let r = self
            .find_relation(schema, name)
            .ok_or_else(|| self.no_relation(schema, name))?;
        let rel = match &r.kind {
            RelationKind::View { sql } => {
                let key = format!("{}.{}", r.schema, r.name);
                let rel = self.in_view(key, || {
                    let q = crate::parser::parse_query(sql)?;
                    self.query(&q, &Vec::new(), Outer::None)
                })?;
                let rel = self.settled(rel)?;
                let named = r.columns.fields().len();
                let cols = rel.cols.iter().enumerate().map(|(i, c)| RelCol {
                    name: match i < named {
                        true => r.planned_name(i).to_string(),
                        false => c.name.clone(),
                    },
                    ..c.clone()
                });
                let cols = cols.collect();
                Rel { cols, ..rel }
            }
            RelationKind::Broken { reason } => return Err(broken_view(&r.name, reason)),
            _ => self.scan(&r, &qualifier)?,
        };
        let scanned = !matches!(r.kind, RelationKind::View { .. });
        let rel = if scanned {
            renamed(rel, alias)?
        } else {
            let mut rel = self.aliased(rel, &qualifier, None)?;
            self.are_columns_of(&r, &rel.cols);
            for (c, f) in rel.cols.iter_mut().zip(r.columns.fields()) {
                c.name = f.name().clone();
            }
            renamed(rel, alias)?
        };
        Ok((rel, r.primary_key.clone()))
    }

    fn no_relation(&self, schema: Option<&str>, name: &str) -> SqlError {
        let shown = schema.map_or(name.to_string(), |s| format!("{s}.{name}"));
        let e = SqlError::new("42P01", format!("relation \"{shown}\" does not exist"));
        let all = self.catalog.relations();
        let names = all
            .iter()
            .filter(|r| {
                schema.is_none_or(|s| s == r.schema)
                    && !matches!(r.schema.as_str(), "pg_catalog" | "information_schema")
            })
            .map(|r| r.name.as_str());
        match closest(name, names) {
            Some(c) => e.hint(format!("Did you mean \"{c}\"?")),
            None => e,
        }
    }

    /// A collection's rows.
    pub(super) fn scan(&self, r: &Relation, name: &str) -> Result<Rel> {
        self.reads(r.id);
        let qualifier = self.qualifier(name);
        let fields = r.columns.fields();
        let mut planned = r.clone();
        if r.planned.is_some() {
            let named = fields
                .iter()
                .enumerate()
                .map(|(i, f)| f.as_ref().clone().with_name(r.planned_name(i)));
            planned.columns = tidemill_zset::delta::schema_of(named.collect());
        }
        let source = provider_as_source(Arc::new(CollectionTable::new(planned)));
        let table = datafusion_common::TableReference::bare(qualifier.clone());
        let mut plan =
            df(LogicalPlanBuilder::scan(table.clone(), source, None).and_then(|b| b.build()))?;
        let cols: Vec<RelCol> = fields
            .iter()
            .enumerate()
            .map(|(i, f)| RelCol {
                name: f.name().clone(),
                ty: SqlType::of(f),
                unknown: false,
                column: Column::new(Some(table.clone()), r.planned_name(i)),
            })
            .collect();
        self.are_columns_of(r, &cols);
        // Types that expressions don't know, such as Utf8, become those they do.
        if fields
            .iter()
            .zip(&cols)
            .any(|(f, c)| !f.data_type().equals_datatype(&c.ty.arrow()))
        {
            let exprs = fields
                .iter()
                .zip(&cols)
                .map(|(f, c)| {
                    let column = Expr::Column(c.column.clone());
                    match fit(column.clone(), f.data_type(), &c.ty) {
                        e if e == column => e,
                        e => e.alias_qualified(Some(table.clone()), &c.column.name),
                    }
                })
                .collect();
            plan = project(plan, exprs)?;
        }
        Ok(Rel { plan, cols })
    }

    /// The relation under a qualifier of its own, with the alias's column names.
    pub(crate) fn aliased(&self, rel: Rel, name: &str, alias: Option<&TableAlias>) -> Result<Rel> {
        let rel = self.settled(rel)?;
        let names = unique_names(&rel.cols.iter().map(|c| c.name.clone()).collect::<Vec<_>>());
        let exprs = rel
            .cols
            .iter()
            .zip(&names)
            .map(|(c, n)| {
                let e = Expr::Column(c.column.clone());
                if c.column.name == *n && c.column.relation.is_none() {
                    e
                } else {
                    e.alias(n)
                }
            })
            .collect::<Vec<_>>();
        let same = exprs.iter().all(|e| matches!(e, Expr::Column(_)))
            && rel.plan.schema().fields().len() == exprs.len();
        let plan = if same {
            rel.plan
        } else {
            project(rel.plan, exprs)?
        };
        let qualifier = self.qualifier(name);
        let plan = df(builder(plan)
            .alias(qualifier.clone())
            .and_then(|b| b.build()))?;
        let cols = rel
            .cols
            .into_iter()
            .zip(names)
            .map(|(c, n)| RelCol {
                column: Column::new(Some(qualifier.clone()), n),
                ..c
            })
            .collect();
        renamed(Rel { plan, cols }, alias)
    }

    /// Columns of unknown type become text.
    pub(crate) fn settled(&self, mut rel: Rel) -> Result<Rel> {
        for c in &mut rel.cols {
            if c.unknown {
                c.unknown = false;
                c.ty = SqlType::Text;
            }
        }
        Ok(rel)
    }
}

/// Column names given by an alias.
pub(super) fn renamed(mut rel: Rel, alias: Option<&TableAlias>) -> Result<Rel> {
    let Some(a) = alias else { return Ok(rel) };
    if a.columns.len() > rel.cols.len() {
        return Err(SqlError::new(
            "42P10",
            format!(
                "table \"{}\" has {} columns available but {} columns specified",
                fold(&a.name),
                rel.cols.len(),
                a.columns.len()
            ),
        ));
    }
    for (c, n) in rel.cols.iter_mut().zip(&a.columns) {
        c.name = fold(&n.name);
    }
    Ok(rel)
}
