//! Definitions of those who read a relation whose columns have changed: they go on seeing the columns that they were written for.
//!
//! `FROM t` becomes `FROM t AS t(a, b)`, where columns have other names, or `FROM (SELECT a, b FROM t) AS t`, where there are more
//! of them, which `*` or a name without a qualifier could mean.

use std::ops::ControlFlow;

use sqlparser::ast::{
    self, Expr, Ident, SelectItem, SetExpr, TableAlias, TableAliasColumnDef, TableFactor,
};

use super::qualifiers::without_schema;
use super::{DEFAULT_SCHEMA, quoted, relations_or, with_query};
use crate::ast::{Options, Query, Statement, parse};
use crate::error::{Result, SqlError};
use crate::names::{folded, name_of};

/// A relation and its columns before and after a change.
pub struct ChangedColumns {
    /// The relation's schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Names of its columns before.
    pub before: Vec<String>,
    /// Its columns now: their names, and their numbers before; those without one are new.
    pub after: Vec<(String, Option<usize>)>,
}

/// How a definition names the columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// As it does; lists of columns that it has follow.
    Followed,
    /// By the names that they had, those that are new by their own.
    Renamed,
    /// Only those that were there, by the names that they had.
    Listed,
}

impl ChangedColumns {
    /// The text of a CREATE VIEW or CREATE MATERIALIZED VIEW that sees the columns as before.
    pub fn rewrite(&self, sql: &str, how: How) -> Result<String> {
        let Some(parsed) = parse(sql)?.into_iter().next() else {
            return Ok(sql.into());
        };
        match parsed.statement {
            Statement::CreateView { query, .. }
            | Statement::CreateMaterializedView { query, .. } => {
                let rewritten = self.query(&query, how)?;
                match rewritten == *query {
                    true => Ok(sql.into()),
                    false => with_query(sql, &rewritten),
                }
            }
            _ => Ok(sql.into()),
        }
    }

    fn query(&self, query: &Query, how: How) -> Result<Query> {
        let mut query = query.clone();
        let mut failed = None;
        without_schema(&mut query, (&self.schema, &self.name));
        relations_or(&mut query, is_listed, &mut |factor, _| {
            if let Err(e) = self.factor(factor, how) {
                failed = Some(e);
            }
        });
        failed.map_or(Ok(query), Err)
    }

    fn factor(&self, factor: &mut TableFactor, how: How) -> Result<()> {
        if let Some(items) = listed_items(factor, |name| self.is_this(name)) {
            return self.items(items);
        }
        let TableFactor::Table { name, alias, .. } = factor else {
            return Ok(());
        };
        if !self.is_this(name) {
            return Ok(());
        }
        let given = alias.as_ref().map_or(vec![], |a| a.columns.clone());
        let seen = |n: usize| match given.get(n) {
            Some(column) => folded(&column.name),
            None => self.before[n].clone(),
        };
        let kept: Vec<(&str, String)> = self
            .after
            .iter()
            .filter_map(|(now, before)| Some((now.as_str(), seen((*before)?))))
            .collect();
        let relation = match alias.as_ref() {
            Some(alias) => alias.name.clone(),
            None => Ident::with_quote('"', name_of(name)?.name),
        };
        if how == How::Listed {
            let list = kept.iter().map(|(now, seen)| match *now == seen {
                true => quoted(None, now),
                false => format!("{} AS {}", quoted(None, now), quoted(None, seen)),
            });
            let list: Vec<String> = list.collect();
            let text = format!(
                "SELECT * FROM (SELECT {} FROM {name}) AS {relation}",
                list.join(", ")
            );
            *factor = first_factor(&text)?;
            return Ok(());
        }
        let named = kept.iter().all(|(now, seen)| now == seen);
        if given.is_empty() && (named || how == How::Followed) {
            return Ok(());
        }
        let columns = kept.into_iter().map(|(_, seen)| TableAliasColumnDef {
            name: Ident::with_quote('"', seen),
            data_type: None,
        });
        *alias = Some(TableAlias {
            explicit: true,
            name: relation,
            columns: columns.collect(),
            at: None,
        });
        Ok(())
    }

    /// A list that is there already: what is gone goes, names follow.
    fn items(&self, items: &mut Vec<SelectItem>) -> Result<()> {
        let mut out = vec![];
        for item in items.iter() {
            let (column, shown) = match item {
                SelectItem::UnnamedExpr(Expr::Identifier(column)) => (column, column),
                SelectItem::ExprWithAlias {
                    expr: Expr::Identifier(column),
                    alias,
                } => (column, alias),
                _ => return Err(SqlError::internal("a list of columns")),
            };
            let before = self.before.iter().position(|n| *n == folded(column));
            let Some(before) = before else {
                out.push(item.clone());
                continue;
            };
            let now = self.after.iter().find(|(_, b)| *b == Some(before));
            let Some((now, _)) = now else { continue };
            out.push(match *now == folded(column) {
                true => item.clone(),
                false => SelectItem::ExprWithAlias {
                    expr: Expr::Identifier(Ident::with_quote('"', now)),
                    alias: shown.clone(),
                },
            });
        }
        *items = out;
        Ok(())
    }

    fn is_this(&self, name: &ast::ObjectName) -> bool {
        name_of(name).is_ok_and(|n| {
            n.name == self.name && n.schema.as_deref().unwrap_or(DEFAULT_SCHEMA) == self.schema
        })
    }
}

/// What stands first in FROM.
fn first_factor(query: &str) -> Result<TableFactor> {
    let query = crate::names::parse_query(query)?;
    match *query.body {
        SetExpr::Select(select) => select.from.into_iter().next().map(|t| t.relation),
        _ => None,
    }
    .ok_or_else(|| SqlError::internal("a query reads something"))
}

/// `(SELECT a, b AS c FROM t) AS t`: columns of one relation, and nothing else.
fn is_listed(factor: &TableFactor) -> bool {
    let TableFactor::Derived {
        lateral: false,
        subquery,
        alias: Some(alias),
        ..
    } = factor
    else {
        return false;
    };
    let SetExpr::Select(select) = subquery.body.as_ref() else {
        return false;
    };
    let plain = |item: &SelectItem| {
        matches!(
            item,
            SelectItem::UnnamedExpr(Expr::Identifier(_))
                | SelectItem::ExprWithAlias {
                    expr: Expr::Identifier(_),
                    ..
                }
        )
    };
    let [table] = select.from.as_slice() else {
        return false;
    };
    let TableFactor::Table {
        name, args: None, ..
    } = &table.relation
    else {
        return false;
    };
    let items: Vec<String> = select.projection.iter().map(|i| i.to_string()).collect();
    alias.columns.is_empty()
        && select.projection.iter().all(plain)
        && subquery.to_string() == format!("SELECT {} FROM {name}", items.join(", "))
}

fn listed_items(
    factor: &mut TableFactor,
    of: impl Fn(&ast::ObjectName) -> bool,
) -> Option<&mut Vec<SelectItem>> {
    if !is_listed(factor) {
        return None;
    }
    let TableFactor::Derived { subquery, .. } = factor else {
        return None;
    };
    let SetExpr::Select(select) = subquery.body.as_mut() else {
        return None;
    };
    match &select.from.first()?.relation {
        TableFactor::Table { name, .. } if of(name) => Some(&mut select.projection),
        _ => None,
    }
}

/// The text of a table's condition in which a column has got another name.
pub fn rename_column(condition: &str, from: &str, to: &str) -> Result<String> {
    struct Names<'n>(&'n str, &'n str);
    impl ast::VisitorMut for Names<'_> {
        type Break = ();

        fn pre_visit_expr(&mut self, e: &mut Expr) -> ControlFlow<()> {
            let column = match e {
                Expr::Identifier(column) => Some(column),
                Expr::CompoundIdentifier(parts) => parts.last_mut(),
                _ => None,
            };
            if let Some(column) = column.filter(|c| folded(c) == self.0) {
                *column = Ident::with_quote('"', self.1);
            }
            ControlFlow::Continue(())
        }
    }
    let mut e = crate::parser::parse_expr(condition)?;
    crate::walk::change(&mut e, &mut Names(from, to));
    Ok(e.to_string())
}

/// The text of a CREATE VIEW or CREATE MATERIALIZED VIEW with these names of columns.
pub fn view_sql(sql: &str, columns: &[String]) -> Result<String> {
    let columns: Vec<String> = columns.iter().map(|c| quoted(None, c)).collect();
    let columns = columns.join(", ");
    let options = |options: &Options| {
        let list = options
            .iter()
            .map(|(k, v)| format!("\"{k}\" = '{}'", v.replace('\'', "''")));
        let list: Vec<String> = list.collect();
        match list.is_empty() {
            true => String::new(),
            false => format!(" WITH ({})", list.join(", ")),
        }
    };
    match parse(sql)?.into_iter().next().map(|p| p.statement) {
        Some(Statement::CreateView { name, query, .. }) => Ok(format!(
            "CREATE VIEW {} ({columns}) AS {query}",
            quoted(name.schema.as_deref(), &name.name)
        )),
        Some(Statement::CreateMaterializedView {
            name,
            query,
            options: given,
            ..
        }) => Ok(format!(
            "CREATE MATERIALIZED VIEW {} ({columns}){} AS {query}",
            quoted(name.schema.as_deref(), &name.name),
            options(&given)
        )),
        _ => Err(SqlError::internal("not the text of a view")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(after: &[(&str, Option<usize>)]) -> ChangedColumns {
        ChangedColumns {
            schema: "public".into(),
            name: "t".into(),
            before: vec!["a".into(), "b".into()],
            after: after.iter().map(|(n, b)| (n.to_string(), *b)).collect(),
        }
    }

    #[test]
    fn columns_are_seen_as_before() {
        let renamed = changed(&[("x", Some(0)), ("b", Some(1))]);
        let rewrite = |c: &ChangedColumns, sql: &str, how| {
            let text = c.rewrite(&format!("CREATE VIEW v AS {sql}"), how).unwrap();
            text.trim_start_matches("CREATE VIEW v AS ").to_string()
        };
        let sql = "SELECT t.a FROM t, s.t AS u";
        assert_eq!(rewrite(&renamed, sql, How::Followed), sql);
        assert_eq!(
            rewrite(&renamed, sql, How::Renamed),
            "SELECT t.a FROM t AS \"t\" (\"a\", \"b\"), s.t AS u"
        );
        for how in [How::Followed, How::Renamed] {
            assert_eq!(
                rewrite(&renamed, "SELECT * FROM t AS q(m)", how),
                "SELECT * FROM t AS q (\"m\", \"b\")"
            );
        }
        let more = changed(&[("x", Some(0)), ("b", Some(1)), ("c", None)]);
        let listed = rewrite(&more, "SELECT * FROM t", How::Listed);
        assert_eq!(
            listed,
            "SELECT * FROM (SELECT \"x\" AS \"a\", \"b\" FROM t) AS \"t\""
        );
        let later = ChangedColumns {
            before: vec!["x".into(), "b".into(), "c".into()],
            after: vec![("y".into(), Some(0)), ("c".into(), Some(2))],
            ..more
        };
        for how in [How::Followed, How::Renamed, How::Listed] {
            assert_eq!(
                rewrite(&later, &listed, how),
                "SELECT * FROM (SELECT \"y\" AS \"a\" FROM t) AS \"t\""
            );
        }
        let within = "WITH t AS (SELECT 1) SELECT * FROM t";
        assert_eq!(rewrite(&renamed, within, How::Listed), within);
    }

    #[test]
    fn conditions_and_views_follow_names() {
        assert_eq!(
            rename_column("a > 0 AND t.a < B", "a", "A b").unwrap(),
            "\"A b\" > 0 AND t.\"A b\" < B"
        );
        assert_eq!(
            view_sql(
                "CREATE MATERIALIZED VIEW v WITH (retain_history = '1h') AS SELECT 1",
                &["n".into()]
            )
            .unwrap(),
            "CREATE MATERIALIZED VIEW \"v\" (\"n\") WITH (\"retain_history\" = '1h') AS SELECT 1"
        );
    }
}
