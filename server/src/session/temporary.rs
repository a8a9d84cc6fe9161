//! Temporary tables and views: they stand in a schema of the session's own, which is found first and goes with the session. A
//! schema that the server couldn't drop any more goes when it starts.

use std::borrow::Cow;

use tidemill_planner::SqlError;
use tidemill_planner::ast::{Name, ObjectKind, Parsed, Statement};
use tokio::sync::oneshot;

use super::sql::SqlSession;
use crate::catalog::{Catalog, Object, TEMPORARY, TEMPORARY_PREFIX};
use crate::coordinator::ddl::{Ddl, DdlReply};
use crate::coordinator::{Handle, Message};

impl SqlSession {
    /// Where names without a schema are looked for.
    pub(super) fn search_path(&self) -> Vec<String> {
        let own = self.temporary.iter().cloned();
        own.chain(self.settings.search_path()).collect()
    }

    /// The statement with temporary objects under the name of their schema.
    pub(super) async fn placed<'p>(
        &mut self,
        parsed: &'p Parsed,
    ) -> Result<Cow<'p, Parsed>, SqlError> {
        let is_temporary = |name: &Name| name.schema.as_deref() == Some(TEMPORARY);
        let creates = match &parsed.statement {
            Statement::CreateTable { name, .. }
            | Statement::CreateTableAs { name, .. }
            | Statement::CreateTableLike { name, .. }
            | Statement::CreateView { name, .. } => is_temporary(name),
            Statement::CreateMaterializedView { name, .. }
            | Statement::CreateSource { name, .. }
            | Statement::CreateSink { name, .. }
                if is_temporary(name) =>
            {
                return Err(SqlError::new(
                    "42P16",
                    "only tables and views can be temporary",
                ));
            }
            _ => false,
        };
        if creates {
            self.make_temporary_schema().await?;
        }
        let own = self.temporary.clone();
        let Some(own) = own.filter(|_| creates || changes_objects(&parsed.statement)) else {
            return Ok(Cow::Borrowed(parsed));
        };
        let published = self.pin();
        let mut placed = parsed.clone();
        for name in names_of(&mut placed.statement, creates) {
            place(name, &own, &published.catalog);
        }
        Ok(Cow::Owned(placed))
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

/// The names in a statement that may be those of temporary objects. `creates`: also that of what it makes.
fn names_of(statement: &mut Statement, creates: bool) -> Vec<&mut Name> {
    match statement {
        Statement::CreateTable { name, .. }
        | Statement::CreateTableAs { name, .. }
        | Statement::CreateTableLike { name, .. }
        | Statement::CreateView { name, .. }
            if creates =>
        {
            vec![name]
        }
        Statement::CreateIndex { on: name, .. }
        | Statement::Rename { name, .. }
        | Statement::Alter { name, .. }
        | Statement::Comment { name, .. } => vec![name],
        Statement::Drop { kind, names, .. } if *kind != ObjectKind::Schema => {
            names.iter_mut().collect()
        }
        _ => vec![],
    }
}

/// A name as that of an object in the session's schema, if there is one, or if it says so.
fn place(name: &mut Name, own: &str, catalog: &Catalog) {
    let said = name.schema.as_deref() == Some(TEMPORARY);
    if said || name.schema.is_none() && catalog.find(own, &name.name).is_some() {
        name.schema = Some(own.to_string());
    }
}
