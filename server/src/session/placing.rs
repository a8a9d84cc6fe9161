//! The schemas of what DDL makes and changes, where it doesn't say them: temporary objects and the search path. Queries find their names
//! along the same path when they are planned.

use std::borrow::Cow;

use tidemill_planner::SqlError;
use tidemill_planner::ast::{Name, ObjectKind, Parsed, Statement, parse};
use tidemill_planner::catalog::CatalogView;
use tidemill_planner::definition::{rename_relation, with_schemas_of_sequences};

use super::sql::SqlSession;
use crate::catalog::{Catalog, DEFAULT_SCHEMA, SYSTEM_SCHEMAS, TEMPORARY};
use crate::published::Published;

impl SqlSession {
    /// Where names without a schema are looked for.
    pub(super) fn search_path(&self) -> Vec<String> {
        let own = self.temporary.iter().cloned();
        let published = self.handle.env.publisher.pin();
        let schemas = published.catalog.schemas();
        let named = self.settings.search_path().into_iter();
        let there = |schema: &String| {
            schemas.contains_key(schema) || SYSTEM_SCHEMAS.contains(&schema.as_str())
        };
        own.chain(named.filter(there)).collect()
    }

    /// The statement with the schemas of the objects that it makes or changes, as the search path and temporary objects give them.
    pub(super) async fn placed<'p>(
        &mut self,
        parsed: &'p Parsed,
    ) -> Result<Cow<'p, Parsed>, SqlError> {
        let made = name_of_new(&parsed.statement);
        if made.is_none() && !changes_objects(&parsed.statement) {
            return Ok(Cow::Borrowed(parsed));
        }
        if made.is_some_and(|name| name.schema.as_deref() == Some(TEMPORARY)) {
            if !matches!(
                parsed.statement,
                Statement::CreateTable { .. }
                    | Statement::CreateTableAs { .. }
                    | Statement::CreateTableAsExecute { .. }
                    | Statement::CreateTableLike { .. }
                    | Statement::CreateView { .. }
                    | Statement::CreateSequence { .. }
            ) {
                return Err(SqlError::new(
                    "42P16",
                    "only tables, views and sequences can be temporary",
                ));
            }
            self.make_temporary_schema().await?;
        }
        let published = self.pin();
        let parsed = match self.with_sequences(&published, parsed)? {
            Some(parsed) => Cow::Owned(parsed),
            None => Cow::Borrowed(parsed),
        };
        let path = self.search_path();
        if path == [DEFAULT_SCHEMA] {
            return Ok(parsed);
        }
        let catalog = &published.catalog;
        let mut placed = parsed.clone().into_owned();
        if let Statement::CreateSink { from, .. } = &mut placed.statement
            && from.schema.is_none()
        {
            let mut path = path.iter();
            from.schema = path
                .find(|s| catalog.find(s, &from.name).is_some())
                .cloned();
        }
        for name in names_of(&mut placed.statement) {
            match name.schema.as_deref() {
                Some(TEMPORARY) => name.schema = self.temporary.clone().or(name.schema.take()),
                Some(_) => {}
                None if made.is_some() => name.schema = Some(self.creation_schema(catalog)?),
                None => {
                    let has = |schema: &&String| catalog.find(schema, &name.name).is_some();
                    let known = |schema: &&String| catalog.schemas().contains_key(*schema);
                    let found = path.iter().find(has);
                    // What isn't found isn't there, even if another schema has it.
                    name.schema = found.or(path.iter().find(known)).cloned();
                }
            }
        }
        // What they stand on is found again by their text.
        if let Statement::CreateIndex { on: name, .. } | Statement::CreateSink { from: name, .. } =
            &placed.statement
            && let Some(schema) = &name.schema
        {
            placed.sql = rename_relation(&parsed.sql, schema, &name.name, &name.name)?;
        }
        Ok(Cow::Owned(placed))
    }

    /// A statement with DEFAULTs, in which sequences have the schema where the session finds them. `None`: it is as it is.
    fn with_sequences(
        &self,
        published: &Published,
        parsed: &Parsed,
    ) -> Result<Option<Parsed>, SqlError> {
        if !matches!(
            parsed.statement,
            Statement::CreateTable { .. }
                | Statement::CreateTableLike { .. }
                | Statement::Alter { .. }
        ) {
            return Ok(None);
        }
        let names = self.names(published);
        let schema_of = |name: &str| names.resolve(None, name).map(|found| found.schema);
        match with_schemas_of_sequences(&parsed.sql, schema_of) {
            Some(sql) => Ok(parse(&sql)?.into_iter().next()),
            None => Ok(None),
        }
    }

    /// The schema of the search path that new objects go to.
    fn creation_schema(&self, catalog: &Catalog) -> Result<String, SqlError> {
        let mut path = self.settings.search_path().into_iter();
        path.find(|schema| catalog.schemas().contains_key(schema))
            .ok_or_else(|| {
                SqlError::new("3F000", "no schema has been selected to create in")
                    .hint("SET search_path to a schema that exists, or write schema.name.")
            })
    }
}

/// Whether a statement changes objects that are there. Others find names along the search path.
fn changes_objects(statement: &Statement) -> bool {
    matches!(
        statement,
        Statement::CreateIndex { .. }
            | Statement::Rename { .. }
            | Statement::Alter { .. }
            | Statement::AlterSequence { .. }
            | Statement::Comment { .. }
            | Statement::Drop { .. }
    )
}

/// The name of what a statement makes.
fn name_of_new(statement: &Statement) -> Option<&Name> {
    match statement {
        Statement::CreateTable { name, .. }
        | Statement::CreateTableAs { name, .. }
        | Statement::CreateTableAsExecute { name, .. }
        | Statement::CreateTableLike { name, .. }
        | Statement::CreateView { name, .. }
        | Statement::CreateMaterializedView { name, .. }
        | Statement::CreateSource { name, .. }
        | Statement::CreateSequence { name, .. }
        | Statement::CreateSink { name, .. } => Some(name),
        _ => None,
    }
}

/// The names of what a statement makes or changes.
fn names_of(statement: &mut Statement) -> Vec<&mut Name> {
    match statement {
        Statement::CreateTable { name, .. }
        | Statement::CreateTableAs { name, .. }
        | Statement::CreateTableAsExecute { name, .. }
        | Statement::CreateTableLike { name, .. }
        | Statement::CreateView { name, .. }
        | Statement::CreateMaterializedView { name, .. }
        | Statement::CreateSource { name, .. }
        | Statement::CreateSequence { name, .. }
        | Statement::CreateSink { name, .. }
        | Statement::CreateIndex { on: name, .. }
        | Statement::AlterSequence { name, .. }
        | Statement::Rename { name, .. }
        | Statement::Alter { name, .. } => vec![name],
        Statement::Comment { kind, name, .. } if *kind != ObjectKind::Schema => vec![name],
        Statement::Drop { kind, names, .. } if *kind != ObjectKind::Schema => {
            names.iter_mut().collect()
        }
        _ => vec![],
    }
}
