//! WITH and WITH RECURSIVE.

use std::sync::Arc;

use datafusion::datasource::provider_as_source;
use datafusion_common::tree_node::TreeNodeRecursion;
use datafusion_common::{Column, JoinType};
use datafusion_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use sqlparser::ast::{self, SetExpr};
use tidemill_zset::schema::SqlType;

use super::scope::Outer;
use super::types::{is_integer, is_text, united};
use super::{Binder, Ctes, Rel, RelCol, Typed, builder, columns_of, df, project, unique_names};
use crate::compile::rules::has_outer_reference;
use crate::error::{Result, SqlError};
use crate::functions::single::nullable;
use crate::once::{Once, is_volatile};
use crate::parser::{fold, parts};
use crate::recent::RecentRows;
use crate::tree::Tree;
use crate::walk::references;

use super::from::renamed;
use super::lateral::LATERAL;

/// Whether a column of the first type takes values of the second in a recursive query.
fn holds(first: &SqlType, step: &SqlType) -> bool {
    match (first, step) {
        (SqlType::Numeric(..), SqlType::Numeric(..)) => true,
        // Within arrays all have the digits of the first term's.
        (SqlType::Array(first), SqlType::Array(step)) => match (&**first, &**step) {
            (SqlType::Numeric(_, s), SqlType::Numeric(_, t)) => s >= t,
            (first, step) => holds(first, step),
        },
        _ if matches!(first, SqlType::Numeric(..)) && is_integer(step) => true,
        // As of a varchar and a text beside each other, the first decides.
        (SqlType::Varchar(None), step) if is_text(step) => true,
        _ => united(first, step).as_ref() == Some(first),
    }
}

/// The queries, those that others name before them. With RECURSIVE each may name all.
fn in_order(w: &ast::With) -> Result<Vec<&ast::Cte>> {
    let mut rest: Vec<&ast::Cte> = w.cte_tables.iter().collect();
    let mut ordered = vec![];
    while !rest.is_empty() {
        let names_none = |c: &&ast::Cte| {
            let mut others = rest.iter().filter(|o| !std::ptr::eq(**o, *c));
            !w.recursive || !others.any(|o| mentions(&c.query, &fold(&o.alias.name)))
        };
        let Some(next) = rest.iter().position(names_none) else {
            return Err(SqlError::unsupported(
                "mutual recursion between WITH items is not implemented",
            ));
        };
        ordered.push(rest.remove(next));
    }
    Ok(ordered)
}

impl Binder<'_> {
    /// WITH.
    pub(crate) fn with(&self, w: &ast::With, ctes: &mut Ctes, outer: Outer) -> Result<()> {
        for (i, c) in w.cte_tables.iter().enumerate() {
            let name = fold(&c.alias.name);
            if w.cte_tables[..i]
                .iter()
                .any(|o| fold(&o.alias.name) == name)
            {
                return Err(SqlError::new(
                    "42712",
                    format!("WITH query name \"{name}\" specified more than once"),
                ));
            }
        }
        for c in in_order(w)? {
            let name = fold(&c.alias.name);
            let c = &without_parentheses(c);
            let recursive = w.recursive && mentions(&c.query, &name);
            let union = matches!(
                c.query.body.as_ref(),
                SetExpr::SetOperation {
                    op: ast::SetOperator::Union,
                    ..
                }
            );
            if recursive && !union {
                let message = format!(
                    "recursive query \"{name}\" does not have the form non-recursive-term UNION [ALL] recursive-term"
                );
                return Err(SqlError::new("42P19", message));
            }
            let rel = if recursive {
                self.recursive(&name, c, ctes, outer)?
            } else {
                let rel = self.query(&c.query, ctes, outer)?;
                renamed(self.settled(rel)?, Some(&c.alias))?
            };
            ctes.push((name, self.once(rel)?));
        }
        Ok(())
    }

    /// The rows of a query with volatile functions are the same wherever it is named.
    fn once(&self, rel: Rel) -> Result<Rel> {
        if !df(is_volatile(&rel.plan))? || df(has_outer_reference(&rel.plan))? {
            return Ok(rel);
        }
        let plan = Once::plan(self.number(), rel.plan);
        Ok(Rel { plan, ..rel })
    }

    pub(super) fn recursive(
        &self,
        name: &str,
        c: &ast::Cte,
        ctes: &Ctes,
        outer: Outer,
    ) -> Result<Rel> {
        let SetExpr::SetOperation {
            left,
            set_quantifier,
            right,
            ..
        } = c.query.body.as_ref()
        else {
            return Err(SqlError::internal("not a union"));
        };
        if c.query.order_by.is_some() || c.query.limit_clause.is_some() {
            return Err(SqlError::unsupported(
                "ORDER BY and LIMIT in a recursive query are not implemented",
            ));
        }
        if references(left.as_ref(), name) > 0 {
            return Err(SqlError::new(
                "42P19",
                format!(
                    "recursive reference to query \"{name}\" must not appear within its non-recursive term"
                ),
            ));
        }
        let mut own = ctes.clone();
        if let Some(w) = &c.query.with {
            self.with(w, &mut own, outer)?;
        }
        let ctes = &own;
        let start = self.set_expr(left, ctes, outer)?;
        let mut start = renamed(self.settled(start)?, Some(&c.alias))?;
        let names = unique_names(
            &start
                .cols
                .iter()
                .map(|c| c.name.clone())
                .collect::<Vec<_>>(),
        );
        let internal = self.qualifier(name);
        let mut step = self.step(name, &internal, &start, &names, right, (ctes, outer))?;
        if let Some(types) = open_numerics(&start, &step) {
            start = self.recast(start, &types)?;
            step = self.step(name, &internal, &start, &names, right, (ctes, outer))?;
        }
        // Both terms' fields must say the same of the type, and a cast that does nothing leaves a field as it was.
        let exprs = start
            .cols
            .iter()
            .zip(&names)
            .map(|(c, n)| nullable(Expr::Column(c.column.clone()), &c.ty).alias(n))
            .collect();
        let first = project(start.plan, exprs)?;
        let exprs = step
            .cols
            .iter()
            .zip(&start.cols)
            .zip(&names)
            .enumerate()
            .map(|(i, ((s, f), n))| {
                let t = Typed { expr: Expr::Column(s.column.clone()), ty: s.ty.clone(), unknown: false };
                if !s.unknown && !holds(&f.ty, &s.ty) {
                    return Err(SqlError::new("42804", format!(
                        "recursive query \"{name}\" column {} has type {} in non-recursive term but type {} overall",
                        i + 1, super::types::plain_name(&f.ty), super::types::plain_name(&s.ty)
                    )).hint("Cast the output of the non-recursive term to the correct type."));
                }
                let value = self.cast(t, &f.ty, crate::functions::cast::Context::Explicit)?;
                Ok(nullable(value, &f.ty).alias(n))
            })
            .collect::<Result<Vec<_>>>()?;
        let step = project(step.plan, exprs)?;
        let distinct = !matches!(set_quantifier, ast::SetQuantifier::All);
        let plan = df(builder(first)
            .to_recursive_query(internal, step, distinct)
            .and_then(|b| b.build()))?;
        let columns = columns_of(&plan);
        let cols = start
            .cols
            .into_iter()
            .zip(columns)
            .map(|(c, column)| RelCol { column, ..c })
            .collect();
        Ok(Rel { plan, cols })
    }
}

impl Binder<'_> {
    /// The recursive term over a table of the non-recursive one's columns.
    fn step(
        &self,
        name: &str,
        internal: &str,
        start: &Rel,
        names: &[String],
        term: &SetExpr,
        (ctes, outer): (&Ctes, Outer),
    ) -> Result<Rel> {
        let fields: Vec<arrow::datatypes::Field> = start
            .cols
            .iter()
            .zip(names)
            .map(|(c, n)| c.ty.field(n, true))
            .collect();
        let table = Arc::new(RecentRows::new(
            internal,
            Arc::new(arrow::datatypes::Schema::new(fields)),
        ));
        let scan =
            df(
                LogicalPlanBuilder::scan(internal.to_string(), provider_as_source(table), None)
                    .and_then(|b| b.build()),
            )?;
        let cols: Vec<RelCol> = start
            .cols
            .iter()
            .zip(names)
            .map(|(c, n)| RelCol {
                column: Column::new(Some(internal.to_string()), n),
                ..c.clone()
            })
            .collect();
        if references(term, name) > 1 {
            return Err(SqlError::new(
                "42P19",
                format!("recursive reference to query \"{name}\" must not appear more than once"),
            ));
        }
        let mut inner = ctes.clone();
        inner.push((name.to_string(), Rel { plan: scan, cols }));
        let step = self.set_expr(term, &inner, outer)?;
        let aggregates = |node: &LogicalPlan| match node {
            LogicalPlan::Aggregate(a) => !a.aggr_expr.is_empty() && reads(&a.input, internal, 1),
            _ => false,
        };
        if df(step.plan.any(&mut |node| Ok(aggregates(node))))? {
            return Err(SqlError::new(
                "42P19",
                "aggregate functions are not allowed in a recursive query's recursive term",
            ));
        }
        let in_subquery = |node: &LogicalPlan| {
            let mut found = false;
            for e in node.expressions() {
                e.walk(&mut |e| {
                    found |= matches!(e, Expr::ScalarSubquery(s) if reads(&s.subquery, internal, usize::MAX));
                    Ok(TreeNodeRecursion::Continue)
                })?;
            }
            Ok(found)
        };
        if df(step.plan.any(&mut |node| in_subquery(node)))? {
            let message = format!(
                "recursive reference to query \"{name}\" must not appear within a subquery"
            );
            return Err(SqlError::new("42P19", message));
        }
        let within_outer = |node: &LogicalPlan| match node {
            LogicalPlan::Join(j) => {
                let (left, right) = (
                    || reads(&j.left, internal, usize::MAX),
                    || reads(&j.right, internal, usize::MAX),
                );
                match j.join_type {
                    JoinType::Left => right(),
                    JoinType::Right => left(),
                    JoinType::Full => left() || right(),
                    _ => false,
                }
            }
            _ => false,
        };
        if df(step.plan.any(&mut |node| Ok(within_outer(node))))? {
            return Err(SqlError::new(
                "42P19",
                format!(
                    "recursive reference to query \"{name}\" must not appear within an outer join"
                ),
            ));
        }
        if step.cols.len() != start.cols.len() {
            return Err(SqlError::new(
                "42601",
                "each UNION query must have the same number of columns",
            ));
        }
        Ok(step)
    }

    /// The relation with its columns as these types.
    fn recast(&self, rel: Rel, types: &[SqlType]) -> Result<Rel> {
        let (mut exprs, mut cols) = (vec![], vec![]);
        for (c, ty) in rel.cols.into_iter().zip(types) {
            let value = Typed::new(Expr::Column(c.column), c.ty);
            let name = self.fresh(&c.name);
            let context = crate::functions::cast::Context::Explicit;
            exprs.push(self.cast(value, ty, context)?.alias(&name));
            cols.push(RelCol {
                name: c.name,
                ty: ty.clone(),
                unknown: c.unknown,
                column: Column::new_unqualified(name),
            });
        }
        let plan = project(rel.plan, exprs)?;
        Ok(Rel { plan, cols })
    }
}

/// Types of the columns where numerics of the recursive term have other digits than those that it starts from: the values of
/// each round may need more.
fn open_numerics(start: &Rel, step: &Rel) -> Option<Vec<SqlType>> {
    let types = start.cols.iter().zip(&step.cols);
    let types: Vec<SqlType> = types
        .map(|(f, s)| match (&f.ty, &s.ty) {
            (SqlType::Numeric(p, a), SqlType::Numeric(q, b)) if a == b => {
                let open = *p == 0 || *q == 0;
                SqlType::Numeric(if open { 0 } else { 38 }, *a)
            }
            (SqlType::Numeric(_, a), SqlType::Numeric(_, b)) => {
                SqlType::Numeric(0, super::types::SCALE_DEFAULT.max(*a).max(*b))
            }
            (of, _) => of.clone(),
        })
        .collect();
    let same = types.iter().zip(&start.cols).all(|(t, c)| *t == c.ty);
    (!same).then_some(types)
}

/// Whether FROM names the work table: it is below no more than so many aliases, of which a query in FROM has one of its own. Rows that a
/// LATERAL subquery is computed for don't name it.
fn reads(plan: &LogicalPlan, table: &str, aliases: usize) -> bool {
    match plan {
        LogicalPlan::TableScan(scan) => scan.table_name.table() == table,
        LogicalPlan::SubqueryAlias(a) if a.alias.table().starts_with(LATERAL) => false,
        LogicalPlan::SubqueryAlias(a) => aliases > 0 && reads(&a.input, table, aliases - 1),
        plan => plan.inputs().iter().any(|p| reads(p, table, aliases)),
    }
}

/// True if the query reads a relation of that name which it doesn't define itself.
pub(super) fn mentions(q: &ast::Query, name: &str) -> bool {
    if let Some(with) = &q.with
        && let Some(own) = with
            .cte_tables
            .iter()
            .position(|c| fold(&c.alias.name) == name)
    {
        // One that isn't recursive finds the outer one in itself.
        let before = own + usize::from(!with.recursive);
        let mut before = with.cte_tables[..before].iter();
        return before.any(|c| mentions(&c.query, name));
    }
    crate::walk::any_relation(q, |r| parts(r).as_slice() == [name])
}

/// A query whose body stands in parentheses, without them.
fn without_parentheses(cte: &ast::Cte) -> ast::Cte {
    let mut cte = cte.clone();
    while let SetExpr::Query(inner) = cte.query.body.as_ref() {
        let plain = |q: &ast::Query| {
            q.order_by.is_none()
                && q.limit_clause.is_none()
                && q.fetch.is_none()
                && q.locks.is_empty()
        };
        if !plain(inner) || !plain(&cte.query) || inner.with.is_some() {
            break;
        }
        let body = inner.body.clone();
        cte.query.body = body;
    }
    cte
}
