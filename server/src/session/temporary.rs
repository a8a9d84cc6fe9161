//! Temporary tables and views: they stand in a schema of the session's own, which is found first and goes with the session. A
//! schema that the server couldn't drop any more goes when it starts.

use std::borrow::Cow;

use tidemill_planner::SqlError;
use tidemill_planner::ast::{Name, ObjectKind, Parsed, Statement};
use tidemill_planner::definition::rename_relation;
use tokio::sync::oneshot;

use super::sql::SqlSession;
use crate::catalog::{Catalog, DEFAULT_SCHEMA, Object, TEMPORARY, TEMPORARY_PREFIX};
use crate::coordinator::ddl::{Ddl, DdlReply};
use crate::coordinator::{Handle, Message};

impl SqlSession {
    /// Where names without a schema are looked for.
    pub(super) fn search_path(&self) -> Vec<String> {
        let own = self.temporary.iter().cloned();
        own.chain(self.settings.search_path()).collect()
    }

    /// The statement with the schemas of the objects that it makes or changes, as the search path and temporary objects give them.
    pub(super) async fn placed<'p>(
        &mut self,
        parsed: &'p Parsed,
    ) -> Result<Cow<'p, Parsed>, SqlError> {
        let made = name_of_new(&parsed.statement);
        if made.is_some_and(|name| name.schema.as_deref() == Some(TEMPORARY)) {
            if !matches!(
                parsed.statement,
                Statement::CreateTable { .. }
                    | Statement::CreateTableAs { .. }
                    | Statement::CreateTableLike { .. }
                    | Statement::CreateView { .. }
            ) {
                return Err(SqlError::new(
                    "42P16",
                    "only tables and views can be temporary",
                ));
            }
            self.make_temporary_schema().await?;
        }
        let path = self.search_path();
        if made.is_none() && !changes_objects(&parsed.statement) || path == [DEFAULT_SCHEMA] {
            return Ok(Cow::Borrowed(parsed));
        }
        let published = self.pin();
        let catalog = &published.catalog;
        let mut placed = parsed.clone();
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

    /// The schema of the search path that new objects go to.
    fn creation_schema(&self, catalog: &Catalog) -> Result<String, SqlError> {
        let mut path = self.settings.search_path().into_iter();
        path.find(|schema| catalog.schemas().contains_key(schema))
            .ok_or_else(|| {
                SqlError::new("3F000", "no schema has been selected to create in")
                    .hint("SET search_path to a schema that exists, or write schema.name.")
            })
    }

    async fn make_temporary_schema(&mut self) -> Result<(), SqlError> {
        if self.temporary.is_some() {
            return Ok(());
        }
        let name = format!("{TEMPORARY_PREFIX}{}", self.backend_pid);
        let create = Ddl::CreateSchema {
            name: name.clone(),
            if_not_exists: true,
        };
        self.handle.ask(|reply| Message::Ddl(create, reply)).await?;
        self.temporary = Some(name);
        Ok(())
    }

    /// DISCARD TEMP.
    pub(super) async fn drop_temporary(&mut self) -> Result<(), SqlError> {
        match self.temporary.take() {
            Some(schema) => drop_schema(&self.handle, schema).await,
            None => Ok(()),
        }
    }

    /// A view that reads temporary relations is temporary itself, and one that is kept up to date can't be.
    pub(super) fn place_view(&mut self, object: &mut Object) -> Result<(), SqlError> {
        let Some(own) = self.temporary.clone() else {
            return Ok(());
        };
        let published = self.pin();
        let is_temporary = |id: &u64| {
            let read = published.catalog.get(*id);
            read.is_some_and(|o| o.record.schema == own)
        };
        if object.record.schema == own || !object.record.depends.iter().any(is_temporary) {
            return Ok(());
        }
        object.record.schema = own;
        let message = format!("view \"{}\" will be a temporary view", object.record.name);
        self.inform(message, None);
        Ok(())
    }

    /// Refuses what stays and would read what goes.
    pub(super) fn check_permanent(
        &self,
        object: &Object,
        catalog: &Catalog,
    ) -> Result<(), SqlError> {
        let is_temporary = |id: &u64| {
            let read = catalog.get(*id);
            read.is_some_and(|o| o.record.schema.starts_with(TEMPORARY_PREFIX))
        };
        if object.record.schema.starts_with(TEMPORARY_PREFIX)
            || !object.record.depends.iter().any(is_temporary)
        {
            return Ok(());
        }
        Err(SqlError::unsupported(
            "materialized views must not use temporary tables or views",
        ))
    }
}

/// What a session leaves behind is dropped without anybody waiting for it.
pub(super) fn leave(handle: &Handle, schema: Option<String>) {
    if let Some(schema) = schema {
        let (reply, _) = oneshot::channel();
        handle.send(dropping(schema, reply));
    }
}

/// Drops what sessions left behind that ended with the server.
pub async fn sweep(handle: &Handle) -> Result<(), SqlError> {
    let published = handle.env.publisher.pin();
    let schemas = published.catalog.schemas().keys();
    let left: Vec<String> = schemas
        .filter(|name| name.starts_with(TEMPORARY_PREFIX))
        .cloned()
        .collect();
    for schema in left {
        drop_schema(handle, schema).await?;
    }
    Ok(())
}

async fn drop_schema(handle: &Handle, schema: String) -> Result<(), SqlError> {
    handle.ask(|reply| dropping(schema, reply)).await.map(drop)
}

fn dropping(schema: String, reply: DdlReply) -> Message {
    let drop = Ddl::Drop {
        kind: ObjectKind::Schema,
        names: vec![Name {
            schema: None,
            name: schema,
        }],
        if_exists: true,
        cascade: true,
        purge: false,
    };
    Message::Ddl(drop, reply)
}

/// Whether a statement changes objects that are there. Others find names along the search path.
fn changes_objects(statement: &Statement) -> bool {
    matches!(
        statement,
        Statement::CreateIndex { .. }
            | Statement::Rename { .. }
            | Statement::Alter { .. }
            | Statement::Comment { .. }
            | Statement::Drop { .. }
    )
}

/// The name of what a statement makes.
fn name_of_new(statement: &Statement) -> Option<&Name> {
    match statement {
        Statement::CreateTable { name, .. }
        | Statement::CreateTableAs { name, .. }
        | Statement::CreateTableLike { name, .. }
        | Statement::CreateView { name, .. }
        | Statement::CreateMaterializedView { name, .. }
        | Statement::CreateSource { name, .. }
        | Statement::CreateSink { name, .. } => Some(name),
        _ => None,
    }
}

/// The names of what a statement makes or changes.
fn names_of(statement: &mut Statement) -> Vec<&mut Name> {
    match statement {
        Statement::CreateTable { name, .. }
        | Statement::CreateTableAs { name, .. }
        | Statement::CreateTableLike { name, .. }
        | Statement::CreateView { name, .. }
        | Statement::CreateMaterializedView { name, .. }
        | Statement::CreateSource { name, .. }
        | Statement::CreateSink { name, .. }
        | Statement::CreateIndex { on: name, .. }
        | Statement::Rename { name, .. }
        | Statement::Alter { name, .. } => vec![name],
        Statement::Comment { kind, name, .. } if *kind != ObjectKind::Schema => vec![name],
        Statement::Drop { kind, names, .. } if *kind != ObjectKind::Schema => {
            names.iter_mut().collect()
        }
        _ => vec![],
    }
}
