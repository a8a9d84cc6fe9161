//! Rows compared with those of a subquery: `(a, b) IN (SELECT …)` and its like.

use std::cell::RefCell;

use sqlparser::ast::{self, BinaryOperator as B, Expr as E, TableFactor};
use tidemill_zset::schema::SqlType;

use super::conditions::when;
use super::expr::{Ctx, Truth};
use super::grouping::is_subquery;
use super::scope::{Scope, ScopeCol, ScopeTable};
use super::subquery::{around, is_marker, wrong_width};
use super::{Binder, Typed, df, null_of, truth};
use crate::error::{Result, SqlError};
use crate::once::is_volatile;
use crate::walk;

/// A column of the subquery's rows that is always 1.
const ONE: &str = "in#one";

impl Binder<'_> {
    /// `(a, b) op ANY (SELECT …)`: whether for a row of the subquery the comparison holds, or may hold. `negated`:
    /// `(a, b) op ALL (SELECT …)`, where `op` is the opposite of what is written.
    pub(super) fn row_in_subquery(
        &self,
        c: Ctx,
        items: &[E],
        op: &B,
        q: &ast::Query,
        negated: bool,
    ) -> Result<Typed> {
        if items.is_empty() {
            return Err(SqlError::new("42601", "syntax error at or near \")\""));
        }
        let (scope, items) = self.called_first(c, items)?;
        let (c, items) = (Ctx { scope: &scope, ..c }, &items);
        let rows = Rows {
            query: q,
            names: (1..=items.len())
                .map(|i| ast::Ident::with_quote('"', format!("in#{i}")))
                .collect(),
        };
        let fields = rows.names.iter().cloned().map(E::Identifier);
        let equal = match op {
            B::Eq => items
                .iter()
                .zip(fields)
                .map(|(e, field)| binary(e.clone(), B::Eq, field))
                .reduce(|l, r| binary(l, B::And, r)),
            op => {
                let (l, r) = (items.to_vec(), fields.collect());
                Some(binary(E::Tuple(l), op.clone(), E::Tuple(r)))
            }
        };
        let equal = nested(equal.unwrap_or(E::Tuple(vec![])));
        let rel = self.query(q, c.ctes, around(c, &RefCell::new(Vec::new())))?;
        if rel.cols.len() != items.len() {
            return Err(wrong_width(rel.cols.len(), items.len()));
        }
        let apart = *op == B::Eq && !df(is_volatile(&rel.plan))? && self.are_plain(c, items)?;
        let exists = |condition: E, negated| self.exists(c, &rows.which(condition)?, negated);
        let is_value = c.truth == Truth::Value;
        if !is_value && !negated {
            return exists(equal, false);
        }
        // Rows that may be equal: where NULL counts as false, NOT IN is true if there are none.
        let may_equal = E::IsNotFalse(Box::new(equal.clone()));
        let may_equal = match apart {
            false => vec![may_equal],
            true => rows.may_equal(items, may_equal)?,
        };
        if !is_value {
            let equal = apart.then_some(equal);
            let all = equal.into_iter().chain(may_equal);
            let all = all.map(|condition| Ok(exists(condition, true)?.expr));
            let all = all.collect::<Result<Vec<_>>>()?;
            let none = all.into_iter().reduce(|l, r| l.and(r));
            return Ok(Typed::new(
                none.unwrap_or_else(|| truth(true)),
                SqlType::Bool,
            ));
        }
        let mut branches = vec![(exists(equal, false)?.expr, truth(!negated))];
        for condition in may_equal {
            branches.push((exists(condition, false)?.expr, null_of(&SqlType::Bool)));
        }
        Ok(Typed::new(when(branches, truth(negated)), SqlType::Bool))
    }

    /// Values that may be compared several times.
    fn are_plain(&self, c: Ctx, items: &[E]) -> Result<bool> {
        for e in items {
            if walk::any_expr(e, is_subquery) || self.expr(c.value(), e)?.expr.is_volatile() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Fields of a row with aggregates or window functions, which belong to the query and not to the subquery that the row is
    /// compared in, by names of a relation more in the query's scope.
    fn called_first<'c>(&self, c: Ctx<'c>, items: &[E]) -> Result<(Scope<'c>, Vec<E>)> {
        let (mut scope, mut items) = (c.scope.clone(), items.to_vec());
        let mut called = ScopeTable {
            alias: "in#row".into(),
            schema: None,
            cols: vec![],
            primary_key: None,
        };
        for e in &mut items {
            if walk::any_expr(e, is_subquery) || !walk::any_expr(e, |e| matches!(e, E::Function(_)))
            {
                continue;
            }
            let t = self.expr(c.value(), e)?;
            let mut columns = t.expr.column_refs().into_iter();
            if columns.any(is_marker) {
                let name = format!("call#{}", called.cols.len());
                *e = E::CompoundIdentifier(vec![
                    ast::Ident::with_quote('"', &called.alias),
                    ast::Ident::with_quote('"', &name),
                ]);
                let t = self.known(t)?;
                called.cols.push(ScopeCol {
                    name,
                    ty: t.ty,
                    expr: t.expr,
                    hidden: true,
                });
            }
        }
        scope.tables.push(called);
        Ok((scope, items))
    }
}

/// The subquery's rows, whose columns have these names.
struct Rows<'q> {
    query: &'q ast::Query,
    names: Vec<ast::Ident>,
}

impl Rows<'_> {
    /// Those for which `condition` is true. It may name [`ONE`].
    fn which(&self, condition: E) -> Result<ast::Query> {
        let one = walk::any_expr(
            &condition,
            |e| matches!(e, E::Identifier(i) if i.value == ONE),
        );
        let mut rows = crate::parser::parse_query(&match one {
            true => format!("SELECT *, 1 AS \"{ONE}\" FROM (SELECT 1) AS \"in#\""),
            false => "SELECT 1 FROM (SELECT 1) AS \"in#\"".into(),
        })?;
        if let ast::SetExpr::Select(s) = rows.body.as_mut()
            && let Some(TableFactor::Derived {
                subquery, alias, ..
            }) = s.from.first_mut().map(|t| &mut t.relation)
        {
            **subquery = self.query.clone();
            let named = |name: &ast::Ident| ast::TableAliasColumnDef {
                name: name.clone(),
                data_type: None,
            };
            if let Some(alias) = alias {
                alias.columns = self.names.iter().map(named).collect();
            }
        }
        if one {
            let mut outer = crate::parser::parse_query("SELECT 1 FROM (SELECT 1) AS \"in#\"")?;
            if let ast::SetExpr::Select(s) = outer.body.as_mut()
                && let Some(TableFactor::Derived { subquery, .. }) =
                    s.from.first_mut().map(|t| &mut t.relation)
            {
                *subquery = rows;
            }
            rows = outer;
        }
        if let ast::SetExpr::Select(s) = rows.body.as_mut() {
            s.selection = Some(condition);
        }
        Ok(*rows)
    }

    /// Conditions of which one is true where `items` may be equal to a row, as `may_equal` says, but aren't: as one condition
    /// it would have all pairs looked at. A row with a NULL in it is one of few; where `items` have one, all rows are looked
    /// at, by a key of all of them that others don't have.
    fn may_equal(&self, items: &[E], may_equal: E) -> Result<Vec<E>> {
        let any_null = |all: Vec<E>| {
            let nulls = all.into_iter().map(|e| E::IsNull(Box::new(nested(e))));
            nulls.reduce(|l, r| binary(l, B::Or, r))
        };
        let of_rows = any_null(self.names.iter().cloned().map(E::Identifier).collect());
        let of_items = any_null(items.to_vec());
        let mut key = crate::parser::parse_expr("CASE WHEN true THEN 1 END")?;
        if let (E::Case { conditions, .. }, Some(null)) = (&mut key, of_items) {
            for branch in conditions {
                branch.condition = null.clone();
            }
        }
        let one = E::Identifier(ast::Ident::with_quote('"', ONE));
        let here = [of_rows.map(nested), Some(binary(key, B::Eq, one))];
        let with = |condition: E| binary(condition, B::And, may_equal.clone());
        Ok(here.into_iter().flatten().map(with).collect())
    }
}

fn binary(left: E, op: B, right: E) -> E {
    E::BinaryOp {
        left: Box::new(left),
        op,
        right: Box::new(right),
    }
}

fn nested(e: E) -> E {
    E::Nested(Box::new(e))
}
