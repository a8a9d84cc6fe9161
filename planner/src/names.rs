//! Small questions about statements that the server asks: which table a write names, a type by its name, a query from
//! its text.

pub use sqlparser::ast as sqlparser_ast;

use sqlparser::ast::{self, FromTable, ObjectName, ObjectNamePart, TableFactor, TableObject};
use tidemill_zset::schema::SqlType;

use crate::ast::{Name, Parsed, Query, Statement, parse};
use crate::catalog::{CatalogView, Relation, RelationKind};
use crate::error::{Result, SqlError};

/// The one database.
pub const DATABASE: &str = "tidemill";

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
        [database, _, _] if database != DATABASE => Err(crate::parser::other_database(name)),
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

/// The name that a text such as `s."T"` spells; `None`: more than a schema and a name, or an empty part.
pub fn name_of_text(text: &str) -> Option<Name> {
    let mut parts = split_name(text);
    let name = parts.pop().filter(|name| !name.is_empty())?;
    let schema = parts.pop();
    let well_formed = parts.is_empty() && schema.as_deref() != Some("");
    well_formed.then_some(Name { schema, name })
}

/// The name without spaces around its points.
fn without_gaps(name: &str) -> String {
    let mut out = String::new();
    let (mut quoted, mut gap) = (false, false);
    for c in name.trim().chars() {
        if c == '"' {
            quoted = !quoted;
        }
        if !quoted && c.is_whitespace() {
            gap = true;
            continue;
        }
        let at_point = c == '.' && !quoted || out.ends_with('.');
        if std::mem::take(&mut gap) && !at_point {
            out.push(' ');
        }
        out.push(c);
    }
    out
}

/// The parts of `a."B c".d`, folded.
pub fn split_name(name: &str) -> Vec<String> {
    let name = without_gaps(name);
    let mut parts = vec![String::new()];
    let mut quoted = false;
    let mut chars = name.trim().chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.next_if_eq(&'"').is_some() => {
                let last = parts.len() - 1;
                parts[last].push('"');
            }
            '"' => quoted = !quoted,
            '.' if !quoted => parts.push(String::new()),
            c => {
                let last = parts.len() - 1;
                match quoted {
                    true => parts[last].push(c),
                    false => parts[last].extend(c.to_lowercase()),
                }
            }
        }
    }
    parts
}

fn fold(ident: &ast::Ident) -> String {
    if ident.quote_style.is_some() {
        ident.value.clone()
    } else {
        ident.value.to_lowercase()
    }
}

/// The table that an INSERT, UPDATE or DELETE changes, and the position of its name.
pub fn write_target(statement: &Statement) -> Result<(Name, Option<usize>)> {
    let name_of = |name: &ast::ObjectName| {
        let first = name.0.first().and_then(|part| match part {
            ast::ObjectNamePart::Identifier(ident) => crate::parser::position(ident.span),
            ast::ObjectNamePart::Function(_) => None,
        });
        Ok((name_of(name)?, first))
    };
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

/// Relations that a statement may name to be planned quickly, expressions in it, and rows of VALUES.
const QUICK_RELATIONS_MAX: usize = 3;
const QUICK_EXPRS_MAX: usize = 200;
const QUICK_ROWS_MAX: usize = 100;

/// Whether a query is surely planned within a few milliseconds: it is short, and names few relations, none of them a view.
pub fn is_quick(query: &Query, catalog: &dyn CatalogView) -> bool {
    !has_many_rows(query) && is_small(query, catalog)
}

/// The same of INSERT, UPDATE or DELETE.
pub fn is_quick_change(statement: &Statement, catalog: &dyn CatalogView) -> bool {
    match statement {
        Statement::Insert(insert) => {
            !insert.source.as_ref().is_some_and(|q| has_many_rows(q))
                && is_small(&**insert, catalog)
        }
        Statement::Update(update) => is_small(&**update, catalog),
        Statement::Delete(delete) => is_small(&**delete, catalog),
        _ => false,
    }
}

fn has_many_rows(query: &Query) -> bool {
    matches!(query.body.as_ref(), ast::SetExpr::Values(values) if values.rows.len() > QUICK_ROWS_MAX)
}

fn is_small(node: &(impl ast::VisitMut + Clone), catalog: &dyn CatalogView) -> bool {
    let (mut exprs, mut relations) = (0, 0);
    let many = |_: &ast::Expr| {
        exprs += 1;
        exprs > QUICK_EXPRS_MAX
    };
    let costly = |name: &ObjectName| {
        relations += 1;
        let found = match crate::parser::parts(name).as_slice() {
            [name] => catalog.resolve(None, name),
            [.., schema, name] => catalog.resolve(Some(schema), name),
            [] => None,
        };
        let is_view = |r: Relation| matches!(r.kind, RelationKind::View { .. });
        relations > QUICK_RELATIONS_MAX || found.is_some_and(is_view)
    };
    !crate::walk::any_part(node, many, costly)
}

/// An identifier after folding.
pub fn folded(ident: &ast::Ident) -> String {
    crate::parser::fold(ident)
}

/// The name among `names` that was probably meant.
pub fn closest<'n>(name: &str, names: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    crate::bind::scope::closest(name, names)
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
