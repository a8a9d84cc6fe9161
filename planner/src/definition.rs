//! The text of definitions as it is stored: which relations it names, after one was renamed and whoever reads it.
//!
//! Invariant: in a stored definition a relation's name without a schema is one of the schema `public` or of the system, whatever
//! the search path of the session that wrote it. What names a common table expression is no relation's name.

mod columns;
mod defaults;
mod qualifiers;
pub(crate) mod texts;

use std::ops::ControlFlow;

use sqlparser::ast::{self, Ident, ObjectNamePart, TableAlias, TableFactor};

use crate::ast::{Name, Nulls, Query, Statement, parse};
use crate::error::{Result, SqlError};
use crate::names::name_of;

pub use columns::{ChangedColumns, How, rename_column, view_sql};
pub use defaults::{sequences_of, shown_default};
pub use texts::with_schemas_of_sequences;

/// The schema of names without one.
pub const DEFAULT_SCHEMA: &str = "public";

/// A query's text in which names without a schema have [`DEFAULT_SCHEMA`] where `is_there` says that it has them. `None`: nothing changes.
pub fn with_default_schema(query: &str, is_there: impl Fn(&str) -> bool) -> Option<String> {
    let mut query = crate::parser::parse_query(query).ok()?;
    let mut changed = texts::rename_in_expressions(&mut query, &mut |found| {
        let schema = Some(DEFAULT_SCHEMA.to_string());
        (found.schema.is_none() && is_there(&found.name)).then(|| Name {
            schema,
            name: found.name.clone(),
        })
    });
    relations(&mut query, &mut |factor, _| {
        let TableFactor::Table { name, .. } = factor else {
            return;
        };
        let Ok(found) = name_of(name) else { return };
        if found.schema.is_none() && is_there(&found.name) {
            let schema = ObjectNamePart::Identifier(Ident::new(DEFAULT_SCHEMA));
            name.0.insert(0, schema);
            changed = true;
        }
    });
    changed.then(|| query.to_string())
}

/// A stored query's text as PostgreSQL spells it.
pub fn written(query: &str) -> String {
    crate::parser::written::written(query)
}

/// The text of a CREATE INDEX.
pub fn index_sql(
    name: Option<&str>,
    (schema, on): (&str, &str),
    columns: &[String],
    unique: Option<Nulls>,
) -> String {
    let name = name.map_or_else(String::new, |name| quoted(None, name) + " ");
    let columns: Vec<String> = columns.iter().map(|c| quoted(None, c)).collect();
    let (kind, nulls) = match unique {
        None => ("", ""),
        Some(Nulls::Distinct) => ("UNIQUE ", ""),
        Some(Nulls::NotDistinct) => ("UNIQUE ", " NULLS NOT DISTINCT"),
    };
    format!(
        "CREATE {kind}INDEX {name}ON {} ({}){nulls}",
        quoted(Some(schema), on),
        columns.join(", ")
    )
}

/// The text of a CREATE statement or query in which relation `schema.from` is now called `to`, and its error relation
/// accordingly. Names are replaced where they name a relation, not where they qualify a column: a relation without an alias
/// gets its old name as one.
pub fn rename_relation(sql: &str, schema: &str, from: &str, to: &str) -> Result<String> {
    let new_name = |found: &Name| {
        if found.schema.as_deref().unwrap_or(DEFAULT_SCHEMA) != schema {
            None
        } else if found.name == from {
            Some(to.to_string())
        } else if found.name.strip_suffix("_errors") == Some(from) {
            Some(format!("{to}_errors"))
        } else {
            None
        }
    };
    let rewrite = |query: &Query| {
        let mut query = query.clone();
        qualifiers::without_schema(&mut query, (schema, from));
        texts::rename_in_expressions(&mut query, &mut |found| {
            new_name(found).map(|name| Name {
                schema: found.schema.clone(),
                name,
            })
        });
        relations(&mut query, &mut |factor, expressions| {
            let TableFactor::Table { name, alias, .. } = factor else {
                return;
            };
            let Ok(found) = name_of(name) else { return };
            let Some(new) = new_name(&found) else { return };
            if found.schema.is_none() && expressions.contains(&new.as_str()) {
                let schema = ObjectNamePart::Identifier(Ident::with_quote('"', schema));
                name.0.insert(0, schema);
            }
            if let Some(ObjectNamePart::Identifier(ident)) = name.0.last_mut() {
                *ident = Ident::with_quote('"', new);
            }
            if alias.is_none() {
                *alias = Some(TableAlias {
                    explicit: true,
                    name: Ident::with_quote('"', found.name),
                    columns: vec![],
                    at: None,
                });
            }
        });
        query
    };
    match parse(sql)?.into_iter().next().map(|p| p.statement) {
        Some(Statement::Query { query, .. }) => Ok(rewrite(&query).to_string()),
        Some(
            Statement::CreateView { query, .. } | Statement::CreateMaterializedView { query, .. },
        ) => with_query(sql, &rewrite(&query)),
        Some(Statement::CreateSink { name, options, .. }) => {
            let options: Vec<String> = options
                .iter()
                .map(|(k, v)| format!("\"{k}\" = '{}'", v.replace('\'', "''")))
                .collect();
            let sink = quoted(name.schema.as_deref(), &name.name);
            Ok(format!(
                "CREATE SINK {sink} FROM {} WITH ({})",
                quoted(Some(schema), to),
                options.join(", ")
            ))
        }
        Some(Statement::CreateIndex {
            name,
            columns,
            unique,
            ..
        }) => Ok(index_sql(name.as_deref(), (schema, to), &columns, unique)),
        _ => Ok(sql.to_string()),
    }
}

/// The query with the schema in front of every relation that is found in another one than a name without a schema would be;
/// `None`: there is none. `schema_of` finds names along the search path of the session.
pub fn qualify(query: &Query, schema_of: impl Fn(&str) -> Option<String>) -> Option<Query> {
    let mut qualified = query.clone();
    let elsewhere = |name: &str| {
        schema_of(name).filter(|schema| schema != DEFAULT_SCHEMA && schema != "pg_catalog")
    };
    let mut changed = texts::rename_in_expressions(&mut qualified, &mut |found| {
        let unqualified = found.schema.is_none().then_some(&found.name)?;
        Some(Name {
            schema: Some(elsewhere(unqualified)?),
            name: unqualified.clone(),
        })
    });
    relations(&mut qualified, &mut |factor, _| {
        let TableFactor::Table { name, .. } = factor else {
            return;
        };
        let Ok(found) = name_of(name) else { return };
        if found.schema.is_some() {
            return;
        }
        if let Some(schema) = elsewhere(&found.name) {
            let schema = ObjectNamePart::Identifier(Ident::with_quote('"', schema));
            name.0.insert(0, schema);
            changed = true;
        }
    });
    changed.then_some(qualified)
}

/// The text of a CREATE VIEW or CREATE MATERIALIZED VIEW with another query.
pub fn with_query(sql: &str, query: &Query) -> Result<String> {
    // The query is the last part of the statement's text; its own rendering may differ from the user's.
    let head =
        head_of(sql).ok_or_else(|| SqlError::internal("a view's text has AS before its query"))?;
    Ok(format!("{head}{query}"))
}

fn quoted(schema: Option<&str>, name: &str) -> String {
    let quote = |s: &str| format!("\"{}\"", s.replace('"', "\"\""));
    schema.map_or_else(
        || quote(name),
        |schema| format!("{}.{}", quote(schema), quote(name)),
    )
}

/// Calls `f` with every relation that `query` names, and the names that are those of common table expressions there.
fn relations(query: &mut Query, f: &mut OnRelation) {
    relations_or(query, |_| false, f);
}

/// Like [`relations`], but where `whole` is true of what stands in FROM, calls `f` with that and not with what is in it.
fn relations_or(query: &mut Query, whole: fn(&TableFactor) -> bool, f: &mut OnRelation) {
    let mut visitor = Relations {
        f,
        whole,
        within: 0,
        queries: Vec::new(),
    };
    crate::walk::change(query, &mut visitor);
}

type OnRelation<'f> = dyn FnMut(&mut TableFactor, &[&str]) + 'f;

struct Relations<'f> {
    f: &'f mut OnRelation<'f>,
    whole: fn(&TableFactor) -> bool,
    /// How many of those that are taken whole the place of the visit is in.
    within: usize,
    /// Those that the place of the visit is in, outermost first.
    queries: Vec<Scope>,
}

/// The common table expressions of a query. The queries directly in it are first their bodies, in order.
struct Scope {
    names: Vec<String>,
    recursive: bool,
    /// Queries directly in it that have begun.
    begun: usize,
}

impl Scope {
    /// The names that can be seen from within the query that began last.
    fn visible(&self) -> &[String] {
        match self.recursive {
            true => &self.names,
            false => &self.names[..self.names.len().min(self.begun.saturating_sub(1))],
        }
    }
}

impl Relations<'_> {
    /// The names of common table expressions that can be seen here.
    fn expressions(&self) -> Vec<String> {
        let Some((innermost, outer)) = self.queries.split_last() else {
            return vec![];
        };
        let outer = outer.iter().flat_map(Scope::visible);
        let all = innermost.names.iter().chain(outer);
        all.cloned().collect()
    }
}

impl ast::VisitorMut for Relations<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut ast::Query) -> ControlFlow<()> {
        if let Some(outer) = self.queries.last_mut() {
            outer.begun += 1;
        }
        let with = query.with.as_ref();
        let fold = |ident: &Ident| match ident.quote_style {
            Some(_) => ident.value.clone(),
            None => ident.value.to_lowercase(),
        };
        self.queries.push(Scope {
            names: with.map_or(vec![], |w| {
                w.cte_tables.iter().map(|c| fold(&c.alias.name)).collect()
            }),
            recursive: with.is_some_and(|w| w.recursive),
            begun: 0,
        });
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut ast::Query) -> ControlFlow<()> {
        self.queries.pop();
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        self.within += usize::from((self.whole)(factor));
        ControlFlow::Continue(())
    }

    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        if (self.whole)(factor) {
            self.within -= 1;
        }
        let name = match factor {
            _ if self.within > 0 => return ControlFlow::Continue(()),
            TableFactor::Table {
                name, args: None, ..
            } => Some(&*name),
            _ if (self.whole)(factor) => None,
            _ => return ControlFlow::Continue(()),
        };
        let unqualified = name
            .and_then(|name| name_of(name).ok())
            .filter(|n| n.schema.is_none());
        let expressions = self.expressions();
        let expressions: Vec<&str> = expressions.iter().map(String::as_str).collect();
        if !unqualified.is_some_and(|n| expressions.contains(&n.name.as_str())) {
            (self.f)(factor, &expressions);
        }
        ControlFlow::Continue(())
    }
}

/// The text up to and including the AS in front of the query, found by tokens.
fn head_of(sql: &str) -> Option<String> {
    use sqlparser::tokenizer::Token;
    let chars: Vec<char> = sql.chars().collect();
    let mut depth = 0;
    for token in crate::parser::tokenize(sql, &chars).ok()? {
        match &token.token {
            Token::LParen => depth += 1,
            Token::RParen => depth -= 1,
            Token::Word(word) if depth == 0 && word.value.eq_ignore_ascii_case("as") => {
                let end = token.span.end.column as usize - 1;
                let head: String = chars[..end].iter().collect();
                return Some(head + " ");
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renaming_keeps_column_qualifiers_working() {
        let sql = "CREATE MATERIALIZED VIEW v AS SELECT t.a FROM t JOIN public.t AS u ON t.a = u.a";
        let renamed = rename_relation(sql, "public", "t", "T2").unwrap();
        assert_eq!(
            renamed,
            "CREATE MATERIALIZED VIEW v AS SELECT t.a FROM \"T2\" AS \"t\" JOIN public.\"T2\" AS u ON t.a = u.a"
        );
        let errors = rename_relation("SELECT * FROM t_errors", "public", "t", "u").unwrap();
        assert_eq!(errors, "SELECT * FROM \"u_errors\" AS \"t_errors\"");
        for other in [
            "SELECT 1 FROM x",
            "SELECT * FROM s.t",
            "SELECT * FROM t('x')",
        ] {
            assert_eq!(rename_relation(other, "public", "t", "t2").unwrap(), other);
        }
        assert_eq!(
            rename_relation("SELECT * FROM s.t, t", "s", "t", "new").unwrap(),
            "SELECT * FROM s.\"new\" AS \"t\", t"
        );
    }

    #[test]
    fn common_table_expressions_are_no_relations() {
        let sql = "WITH t AS (SELECT * FROM t WHERE a > (WITH u AS (SELECT 1) SELECT * FROM u)), \
                   u AS (SELECT * FROM t) SELECT * FROM t, u, (SELECT * FROM t) AS w";
        assert_eq!(
            rename_relation(sql, "public", "t", "new").unwrap(),
            "WITH t AS (SELECT * FROM \"new\" AS \"t\" WHERE a > (WITH u AS (SELECT 1) SELECT * FROM u)), \
             u AS (SELECT * FROM t) SELECT * FROM t, u, (SELECT * FROM t) AS w"
        );
        let recursive = "WITH RECURSIVE t AS (SELECT 1 UNION ALL SELECT * FROM t) SELECT * FROM t";
        assert_eq!(
            rename_relation(recursive, "public", "t", "new").unwrap(),
            recursive
        );
        let captured = rename_relation(
            "WITH x AS (SELECT 1) SELECT * FROM t, x",
            "public",
            "t",
            "x",
        );
        assert_eq!(
            captured.unwrap(),
            "WITH x AS (SELECT 1) SELECT * FROM \"public\".\"x\" AS \"t\", x"
        );
    }

    #[test]
    fn columns_with_a_schema_follow() {
        let renamed = |sql: &str| rename_relation(sql, "s", "t", "new").unwrap();
        assert_eq!(
            renamed(
                "SELECT s.t.a, s.t.*, count(s.t.*), x.t.a FROM s.t WHERE EXISTS (SELECT s.t.b)"
            ),
            "SELECT t.a, t.*, count(t.*), x.t.a FROM s.\"new\" AS \"t\" WHERE EXISTS (SELECT t.b)"
        );
    }

    #[test]
    fn row_types_follow() {
        let sql = "SELECT * FROM jsonb_populate_record(NULL::t, '{}'), f(NULL::s.t, NULL::text)";
        assert_eq!(
            rename_relation(sql, "public", "t", "new").unwrap(),
            "SELECT * FROM jsonb_populate_record(NULL::\"new\", '{}'), f(NULL::s.t, NULL::TEXT)"
        );
    }

    #[test]
    fn names_in_texts_are_names_of_relations() {
        let renamed = |sql: &str| rename_relation(sql, "public", "t", "New").unwrap();
        assert_eq!(
            renamed("SELECT 't'::regclass, CAST('public.t' AS regclass), 's.t'::regclass, 't'"),
            "SELECT '\"New\"'::REGCLASS, CAST('public.\"New\"' AS REGCLASS), 's.t'::REGCLASS, 't'"
        );
        assert_eq!(
            renamed("SELECT nextval('t'), currval(' \"t\" '::regclass), lower('t')"),
            "SELECT nextval('\"New\"'), currval('\"New\"'::REGCLASS), lower('t')"
        );
        let query = crate::names::parse_query("SELECT regclass 't', setval('T', 1)").unwrap();
        let qualified = qualify(&query, |_| Some("s1".into())).unwrap();
        assert_eq!(
            qualified.to_string(),
            "SELECT REGCLASS 's1.t', setval('s1.t', 1)"
        );
        let of_sequences = |sql| with_schemas_of_sequences(sql, |_| Some("S".into()));
        assert_eq!(
            of_sequences(
                "CREATE TABLE t (a int DEFAULT\n nextval ( 's' ), \"nextval\" text DEFAULT ('x''y'))"
            )
            .as_deref(),
            Some(
                "CREATE TABLE t (a int DEFAULT\n nextval ( '\"S\".s' ), \"nextval\" text DEFAULT ('x''y'))"
            )
        );
        assert_eq!(of_sequences("SELECT nextval('a.s'), lastval()"), None);
    }

    #[test]
    fn names_found_elsewhere_are_qualified() {
        let qualified = |sql: &str| {
            let query = crate::names::parse_query(sql).unwrap();
            let schema_of =
                |name: &str| Some(if name == "t" { "s1" } else { "public" }.to_string());
            qualify(&query, schema_of).map(|q| q.to_string())
        };
        assert_eq!(qualified("SELECT * FROM u"), None);
        assert_eq!(
            qualified("WITH u AS (SELECT a FROM t) SELECT t.a FROM t, u").as_deref(),
            Some("WITH u AS (SELECT a FROM \"s1\".t) SELECT t.a FROM \"s1\".t, u")
        );
    }
}
