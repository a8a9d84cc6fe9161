//! Small questions about statements that the server asks: which table a write names, a type by its name, a query from
//! its text, and the text of a definition after a relation was renamed.

use std::ops::ControlFlow;

pub use sqlparser::ast as sqlparser_ast;

use sqlparser::ast::{self, FromTable, ObjectName, ObjectNamePart, TableFactor, TableObject};
use tidemill_zset::schema::SqlType;

use crate::ast::{Name, Parsed, Query, Statement, parse};
use crate::error::{Result, SqlError};

/// The name in an object name: the last two parts, folded as the parser folds them.
pub fn name_of(name: &ObjectName) -> Result<Name> {
    let part = |p: &ObjectNamePart| match p {
        ObjectNamePart::Identifier(ident) => Ok(fold(ident)),
        other => Err(SqlError::new("42601", format!("\"{other}\" is not a name"))),
    };
    let parts = name.0.iter().map(part).collect::<Result<Vec<String>>>()?;
    match parts.as_slice() {
        [name] => Ok(Name {
            schema: None,
            name: name.clone(),
        }),
        [schema, name] | [_, schema, name] => Ok(Name {
            schema: Some(schema.clone()),
            name: name.clone(),
        }),
        _ => Err(SqlError::new(
            "42601",
            format!("improper relation name (too many dotted names): {name}"),
        )),
    }
}

fn fold(ident: &ast::Ident) -> String {
    if ident.quote_style.is_some() {
        ident.value.clone()
    } else {
        ident.value.to_lowercase()
    }
}

/// The table that an INSERT, UPDATE or DELETE changes.
pub fn write_target(statement: &Statement) -> Result<Name> {
    let factor = |tables: &[ast::TableWithJoins]| match tables {
        [
            ast::TableWithJoins {
                relation: TableFactor::Table { name, .. },
                joins,
            },
        ] if joins.is_empty() => name_of(name),
        _ => Err(SqlError::unsupported("a write names exactly one table")),
    };
    match statement {
        Statement::Insert(insert) => match &insert.table {
            TableObject::TableName(name) => name_of(name),
            other => Err(SqlError::unsupported(format!("cannot insert into {other}"))),
        },
        Statement::Update(update) => match update.as_ref() {
            ast::Statement::Update(update) => factor(std::slice::from_ref(&update.table)),
            _ => Err(SqlError::internal("not an UPDATE")),
        },
        Statement::Delete(delete) => match &delete.from {
            FromTable::WithFromKeyword(tables) | FromTable::WithoutKeyword(tables) => {
                factor(tables)
            }
        },
        _ => Err(SqlError::internal("not a write")),
    }
}

/// An identifier after folding.
pub fn folded(ident: &ast::Ident) -> String {
    crate::parser::fold(ident)
}

/// A query from its text.
pub fn parse_query(sql: &str) -> Result<Query> {
    match parse(sql)?.into_iter().next() {
        Some(Parsed {
            statement: Statement::Query { query, .. },
            ..
        }) => Ok(*query),
        _ => Err(SqlError::new("42601", "not a query")),
    }
}

/// A type from its name.
pub fn parse_type(name: &str) -> Result<SqlType> {
    let parsed = parse(&format!("CREATE TABLE t (c {name})"))?;
    match parsed.into_iter().next() {
        Some(Parsed {
            statement: Statement::CreateTable { columns, .. },
            ..
        }) if columns.len() == 1 => Ok(columns[0].data_type.clone()),
        _ => Err(SqlError::new(
            "42704",
            format!("type \"{name}\" does not exist"),
        )),
    }
}

/// The text of a CREATE statement or query in which relation `schema.from` is now called `to`. Names are replaced
/// where they name a relation, not where they qualify a column: a relation without an alias gets its old name as one.
pub fn rename_relation(sql: &str, schema: &str, from: &str, to: &str) -> Result<String> {
    let parsed = parse(sql)?.into_iter().next();
    let rewrite = |query: &Query| {
        let mut query = query.clone();
        let _ = ast::VisitMut::visit(&mut query, &mut Renaming { schema, from, to });
        query.to_string()
    };
    let replace = |query: &Query| {
        // The query is the last part of the statement's text; its own rendering may differ from the user's.
        let new = rewrite(query);
        head_of(sql).map(|head| format!("{head}{new}"))
    };
    match parsed.map(|p| p.statement) {
        Some(Statement::Query { query, .. }) => Ok(rewrite(&query)),
        Some(
            Statement::CreateView { query, .. } | Statement::CreateMaterializedView { query, .. },
        ) => replace(&query)
            .ok_or_else(|| SqlError::internal("a view's text has AS before its query")),
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
        Some(Statement::CreateIndex { name, columns, .. }) => {
            let name = name.map_or_else(String::new, |name| quoted(None, &name) + " ");
            let columns: Vec<String> = columns.iter().map(|c| quoted(None, c)).collect();
            Ok(format!(
                "CREATE INDEX {name}ON {} ({})",
                quoted(Some(schema), to),
                columns.join(", ")
            ))
        }
        _ => Ok(sql.to_string()),
    }
}

fn quoted(schema: Option<&str>, name: &str) -> String {
    let quote = |s: &str| format!("\"{}\"", s.replace('"', "\"\""));
    schema.map_or_else(
        || quote(name),
        |schema| format!("{}.{}", quote(schema), quote(name)),
    )
}

struct Renaming<'a> {
    schema: &'a str,
    from: &'a str,
    to: &'a str,
}

impl ast::VisitorMut for Renaming<'_> {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        rename_factor(factor, self.schema, self.from, self.to);
        ControlFlow::Continue(())
    }
}

fn rename_factor(factor: &mut TableFactor, schema: &str, from: &str, to: &str) {
    let TableFactor::Table { name, alias, .. } = factor else {
        return;
    };
    let Ok(found) = name_of(name) else { return };
    if found.name != from || found.schema.as_deref().is_some_and(|s| s != schema) {
        return;
    }
    let Some(ObjectNamePart::Identifier(ident)) = name.0.last_mut() else {
        return;
    };
    *ident = ast::Ident::with_quote('"', to);
    if alias.is_none() {
        *alias = Some(ast::TableAlias {
            explicit: true,
            name: ast::Ident::with_quote('"', from),
            columns: vec![],
            at: None,
        });
    }
}

/// The text up to and including the AS in front of the query, found by tokens.
fn head_of(sql: &str) -> Option<String> {
    use sqlparser::tokenizer::{Token, Tokenizer};
    let dialect = sqlparser::dialect::PostgreSqlDialect {};
    let tokens = Tokenizer::new(&dialect, sql).tokenize().ok()?;
    let mut depth = 0;
    let mut head = String::new();
    for token in tokens {
        head.push_str(&token.to_string());
        match &token {
            Token::LParen => depth += 1,
            Token::RParen => depth -= 1,
            Token::Word(word) if depth == 0 && word.value.eq_ignore_ascii_case("as") => {
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
        assert_eq!(
            rename_relation("SELECT 1 FROM x", "public", "t", "t2").unwrap(),
            "SELECT 1 FROM x"
        );
    }
}
