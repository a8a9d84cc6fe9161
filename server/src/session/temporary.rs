//! Temporary tables and views: they stand in a schema of the session's own, which is found first and goes with the session. A
//! schema that the server couldn't drop any more goes when it starts.

use tidemill_planner::SqlError;
use tidemill_planner::ast::{Name, ObjectKind};

use super::sql::SqlSession;
use crate::catalog::{Catalog, Object, TEMPORARY_PREFIX};
use crate::coordinator::ddl::{Ddl, DdlReply};
use crate::coordinator::reply::{Reply, Underway};
use crate::coordinator::{Handle, Message};

impl SqlSession {
    pub(super) async fn make_temporary_schema(&mut self) -> Result<(), SqlError> {
        if self.temporary.is_some() {
            return Ok(());
        }
        let name = format!("{TEMPORARY_PREFIX}{}", self.backend_pid);
        let create = Ddl::CreateSchema {
            name: name.clone(),
            if_not_exists: true,
        };
        let create = |reply| Message::Ddl(create, reply);
        self.handle.change(&self.underway, create).await?;
        self.temporary = Some(name);
        Ok(())
    }

    /// DISCARD TEMP.
    pub(super) async fn drop_temporary(&mut self) -> Result<(), SqlError> {
        match self.temporary.take() {
            Some(schema) => drop_schema(&self.handle, &self.underway, schema).await,
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
        handle.send(dropping(schema, Reply::to_nobody()));
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
        drop_schema(handle, &Underway::default(), schema).await?;
    }
    Ok(())
}

async fn drop_schema(handle: &Handle, underway: &Underway, schema: String) -> Result<(), SqlError> {
    let drop_it = |reply| dropping(schema, reply);
    handle.change(underway, drop_it).await.map(drop)
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
