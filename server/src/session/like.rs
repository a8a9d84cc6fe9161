//! CREATE TABLE … (LIKE …): the catalog keeps the CREATE TABLE that says the same with all columns written out.

use tidemill_planner::SqlError;
use tidemill_planner::ast::{ColumnDefault, Including, Name, NumberingKind, TableItem, parse};
use tidemill_planner::catalog::CatalogView;
use tidemill_zset::schema::SqlType;

use super::Response;
use super::sql::SqlSession;
use crate::catalog::text::{columns, numbered, quoted, unique};
use crate::catalog::{Detail, Object};
use crate::numbers::sequence_name;
use crate::published::Published;

impl SqlSession {
    pub(super) async fn create_table_like(
        &mut self,
        name: &Name,
        if_not_exists: bool,
        items: &[TableItem],
    ) -> Result<Response, SqlError> {
        let published = self.pin();
        let (mut written, mut indexes) = (vec![], vec![]);
        for item in items {
            match item {
                TableItem::Written(text) => written.push(text.clone()),
                TableItem::Like(of, including) => {
                    let (items, more) = self.alike(&published, of, *including, name)?;
                    written.extend(items);
                    indexes.extend(more);
                }
            }
        }
        let exists = if if_not_exists { "IF NOT EXISTS " } else { "" };
        let table = format!(
            "CREATE TABLE {exists}{} ({})",
            qualified(name),
            written.join(", ")
        );
        let mut created = None;
        for sql in std::iter::once(table).chain(indexes) {
            for parsed in parse(&sql)? {
                let response = self.ddl(&parsed).await?;
                created.get_or_insert(response);
            }
        }
        created.ok_or_else(|| SqlError::internal("CREATE TABLE is a statement"))
    }

    /// The columns and constraints of a table like `of`, and the statements that create its indexes on `name`.
    fn alike(
        &self,
        published: &Published,
        of: &Name,
        including: Including,
        name: &Name,
    ) -> Result<(Vec<String>, Vec<String>), SqlError> {
        let found = self
            .names(published)
            .resolve(of.schema.as_deref(), &of.name)
            .ok_or_else(|| self.no_relation(published, &of.name))?;
        let object = published.catalog.by_collection(found.id);
        let object = object.map(|(object, _)| object.clone());
        let mut items = vec![];
        for (n, field) in found.columns.fields().iter().enumerate() {
            let ty = SqlType::of(field);
            if let SqlType::Other(_) = ty {
                let message = format!(
                    "column \"{}\" has a type that a table can't have",
                    field.name()
                );
                return Err(SqlError::new("42P16", message));
            }
            let more = match &object {
                Some(object) => default_of(object, n, including),
                None => String::new(),
            };
            let required = if field.is_nullable() { "" } else { " NOT NULL" };
            items.push(format!("{} {ty}{more}{required}", quoted(field.name())));
        }
        let mut indexes = vec![];
        if let Some(object) = &object {
            items.extend(constraints(object, including));
            if including.indexes {
                let all = published.catalog.indexes_on(object.record.id);
                indexes = all.filter_map(|i| plain_index(i, object, name)).collect();
            }
        }
        Ok((items, indexes))
    }
}

fn qualified(name: &Name) -> String {
    let schema = name.schema.as_deref().map(|s| quoted(s) + ".");
    schema.unwrap_or_default() + &quoted(&name.name)
}

/// What a column holds where an INSERT doesn't say.
fn default_of(object: &Object, column: usize, including: Including) -> String {
    let Detail::Table { defaults, .. } = &object.detail else {
        return String::new();
    };
    match defaults.get(column).and_then(Option::as_ref) {
        Some(ColumnDefault::Expression(text)) if including.defaults => format!(" DEFAULT {text}"),
        Some(ColumnDefault::Numbering(n)) => match n.kind {
            NumberingKind::Serial if including.defaults => {
                let sequence = quoted(&sequence_name(object, column));
                let sequence = format!("{}.{sequence}", quoted(&object.record.schema));
                format!(" DEFAULT nextval('{}')", sequence.replace('\'', "''"))
            }
            NumberingKind::Always if including.identity => numbered(n),
            NumberingKind::ByDefault if including.identity => numbered(n),
            _ => String::new(),
        },
        _ => String::new(),
    }
}

fn constraints(object: &Object, including: Including) -> Vec<String> {
    let Detail::Table {
        primary_key,
        uniques,
        checks,
        ..
    } = &object.detail
    else {
        return vec![];
    };
    let mut out = vec![];
    if including.constraints {
        let checks = checks.iter();
        out.extend(
            checks.map(|c| format!("CONSTRAINT {} CHECK ({})", quoted(&c.name), c.condition)),
        );
    }
    if including.indexes {
        if !primary_key.is_empty() {
            out.push(format!("PRIMARY KEY ({})", columns(object, primary_key)));
        }
        out.extend(uniques.iter().map(unique));
    }
    out
}

/// The CREATE INDEX of an index that isn't there because of a constraint.
fn plain_index(index: &Object, object: &Object, on: &Name) -> Option<String> {
    let Detail::Index {
        columns: keys,
        unique,
        ..
    } = &index.detail
    else {
        return None;
    };
    if index.record.constraint {
        return None;
    }
    let unique = if unique.is_some() { "UNIQUE " } else { "" };
    Some(format!(
        "CREATE {unique}INDEX ON {} ({})",
        qualified(on),
        columns(object, keys)
    ))
}
