//! DROP: what goes with an object, and what keeps it.

use std::sync::Arc;

use tidemill_planner::SqlError;
use tidemill_planner::ast::{Name, ObjectKind};
use tidemill_storage::OffsetChange;

use super::Coordinator;
use super::ddl::{Effects, find, notice};
use crate::catalog::record::{
    Kind, SchemaRecord, number_key, object_key, persistent_key, put, schema_key, sink_key,
};
use crate::catalog::{Catalog, DEFAULT_SCHEMA, Detail, Object, SYSTEM_SCHEMAS};
use crate::numbers::numbered;

impl Coordinator {
    #[allow(clippy::too_many_arguments)]
    pub(super) fn drop_objects(
        &mut self,
        kind: ObjectKind,
        names: &[Name],
        if_exists: bool,
        cascade: bool,
        purge: bool,
        next: &mut Catalog,
        effects: &mut Effects,
    ) -> Result<(), SqlError> {
        let mut ids = Vec::new();
        for name in names {
            match find(next, kind, name) {
                Ok(object) if object.record.constraint => {
                    return Err(required_by_constraint(object, next));
                }
                Ok(object) => ids.push(object.record.id),
                Err(e) if if_exists && e.sqlstate == "42P01" => {
                    let message = format!(
                        "{} \"{}\" does not exist, skipping",
                        kind.words(),
                        name.name
                    );
                    effects.notices.push(notice("00000", message));
                }
                Err(e) if kind == ObjectKind::Index && e.sqlstate == "42P01" => {
                    let message = format!("index \"{}\" does not exist", name.name);
                    return Err(SqlError::new("42704", message));
                }
                Err(e) => return Err(e),
            }
        }
        for object in ids.iter().filter_map(|id| next.get(*id)) {
            super::sequences::check_unused("drop", object, next, &ids)?;
        }
        self.drop_ids(ids, cascade, purge, next, effects)
    }

    pub(super) fn drop_ids(
        &mut self,
        ids: Vec<u64>,
        cascade: bool,
        purge: bool,
        next: &mut Catalog,
        effects: &mut Effects,
    ) -> Result<(), SqlError> {
        let dependents = next.dependents_of_all(&ids);
        // Indexes go with what they are on.
        let (indexes, dependents): (Vec<_>, Vec<_>) = dependents
            .into_iter()
            .partition(|o| o.record.kind == Kind::Index);
        if !dependents.is_empty() && !cascade {
            let first = next.get(ids[0]).map_or_else(String::new, |o| {
                format!("{} {}", o.record.kind.words(), o.display_name())
            });
            let list: Vec<String> = dependents
                .iter()
                .map(|o| {
                    format!(
                        "{} {} depends on it",
                        o.record.kind.words(),
                        o.display_name()
                    )
                })
                .collect();
            return Err(SqlError::new(
                "2BP01",
                format!("cannot drop {first} because other objects depend on it"),
            )
            .detail(list.join("\n"))
            .hint("Use DROP ... CASCADE to drop the dependent objects too."));
        }
        for index in &indexes {
            self.drop_one(index, purge, next, effects);
        }
        for object in dependents.iter().rev() {
            effects.notices.push(notice(
                "00000",
                format!(
                    "drop cascades to {} {}",
                    object.record.kind.words(),
                    object.display_name()
                ),
            ));
            self.drop_one(object, purge, next, effects);
        }
        for id in ids {
            if let Some(object) = next.get(id).cloned() {
                self.drop_one(&object, purge, next, effects);
            }
        }
        Ok(())
    }

    pub(super) fn drop_one(
        &mut self,
        object: &Arc<Object>,
        purge: bool,
        next: &mut Catalog,
        effects: &mut Effects,
    ) {
        let id = object.record.id;
        let ids = object.record.ids.clone();
        for collection in ids.collection.into_iter().chain(ids.errors_collection) {
            self.end_queries_of(collection, &dropped(&object.display_name()), effects);
        }
        next.remove(id);
        effects.changes.push((object_key(id), None));
        match &object.detail {
            Detail::Source { persistent_id, .. } => {
                let forget = match persistent_id {
                    Some(persistent) if purge => {
                        next.persistent_mut().remove(persistent);
                        effects.changes.push((persistent_key(persistent), None));
                        true
                    }
                    Some(_) => false,
                    None => true,
                };
                if forget {
                    effects.drop.extend(ids.rows.into_iter().chain(ids.errors));
                    self.forget_offsets(ids.offsets, effects);
                }
                effects.after.push(Box::new(move |c, _| c.stop_source(id)));
            }
            Detail::MaterializedView { .. } | Detail::Index { .. } => {
                effects.drop.extend(
                    ids.states
                        .iter()
                        .map(|s| s.id)
                        .chain(ids.rows)
                        .chain(ids.errors),
                );
                effects.end.push(id);
            }
            Detail::Sink { .. } => {
                effects.changes.push((sink_key(id), None));
                effects.after.push(Box::new(move |c, _| {
                    if let Some(sink) = c.sinks.remove(&id) {
                        sink.stop();
                    }
                    let key = sink_key(id);
                    c.riding.retain(|(k, _)| *k != key);
                    c.env.status.sink_gone(id);
                }));
            }
            Detail::Table { .. } => {
                let owned =
                    |o: &&Arc<Object>| o.record.owned_by.as_ref().is_some_and(|o| o.table == id);
                let owned: Vec<_> = next.objects().filter(owned).cloned().collect();
                for sequence in owned {
                    self.drop_one(&sequence, purge, next, effects);
                }
                effects.drop.extend(ids.rows);
                let columns = numbered(object).map(|(n, _)| (number_key(id, n), None));
                effects.changes.extend(columns);
                effects
                    .after
                    .push(Box::new(move |c, _| c.env.numbers.forget(id)));
            }
            Detail::Sequence(_) => {
                effects.changes.push((number_key(id, 0), None));
                effects
                    .after
                    .push(Box::new(move |c, _| c.env.numbers.forget(id)));
            }
            Detail::View { .. } => {}
            // It runs nowhere.
            Detail::Broken { .. } => {
                let states = ids.states.iter().map(|s| s.id);
                effects
                    .drop
                    .extend(states.chain(ids.rows).chain(ids.errors));
                effects.changes.push((sink_key(id), None));
            }
        }
    }

    pub(super) fn forget_offsets(&mut self, offsets: Option<u64>, effects: &mut Effects) {
        let Some(source) = offsets else { return };
        match self.env.store.offsets(source) {
            Ok(entries) => {
                effects
                    .offsets
                    .extend(entries.into_iter().map(|(key, _)| OffsetChange {
                        source,
                        key,
                        value: None,
                    }))
            }
            Err(e) => self.failure = Some(format!("offsets can't be read: {e}")),
        }
    }

    pub(super) fn drop_schema(
        &mut self,
        name: &str,
        if_exists: bool,
        cascade: bool,
        next: &mut Catalog,
        effects: &mut Effects,
    ) -> Result<(), SqlError> {
        if SYSTEM_SCHEMAS.contains(&name) {
            return Err(SqlError::new(
                "42501",
                format!("cannot drop schema {name} because it is required by the system"),
            ));
        }
        if !next.schemas().contains_key(name) {
            if if_exists {
                effects.notices.push(notice(
                    "00000",
                    format!("schema \"{name}\" does not exist, skipping"),
                ));
                return Ok(());
            }
            return Err(SqlError::new(
                "3F000",
                format!("schema \"{name}\" does not exist"),
            ));
        }
        if let Some((_, view)) = self.reserved.keys().find(|(schema, _)| schema == name) {
            return Err(SqlError::new(
                "55006",
                format!("cannot drop schema {name} because view {view} is being created in it"),
            )
            .hint("Wait for its CREATE to return, or cancel that."));
        }
        let ids: Vec<u64> = next
            .objects()
            .filter(|o| o.record.schema == name)
            .map(|o| o.record.id)
            .collect();
        if !ids.is_empty() && !cascade {
            return Err(SqlError::new(
                "2BP01",
                format!("cannot drop schema {name} because other objects depend on it"),
            )
            .hint("Use DROP ... CASCADE to drop the dependent objects too."));
        }
        for object in ids.iter().filter_map(|id| next.get(*id)) {
            super::sequences::check_unused("drop", object, next, &ids)?;
        }
        self.drop_ids(ids, cascade, false, next, effects)?;
        next.schemas_mut().remove(name);
        // A new data directory has the default schema, so that it must say that it doesn't.
        let dropped = SchemaRecord {
            id: 0,
            comment: None,
        };
        effects.changes.push(match name == DEFAULT_SCHEMA {
            true => put(schema_key(name), &dropped),
            false => (schema_key(name), None),
        });
        Ok(())
    }
}

/// The error of following a relation that was dropped.
pub fn dropped(name: &str) -> SqlError {
    SqlError::new("42P01", format!("\"{name}\" was dropped"))
}

/// The index of a constraint goes with the constraint alone.
fn required_by_constraint(index: &Object, catalog: &Catalog) -> SqlError {
    let name = &index.record.name;
    let table = match &index.detail {
        Detail::Index { on, .. } => catalog.get(*on),
        _ => None,
    };
    let table = table.map_or_else(String::new, |t| t.display_name());
    let message = format!(
        "cannot drop index {} because constraint {name} on table {table} requires it",
        index.display_name()
    );
    let hint = format!("You can drop constraint {name} on table {table} instead.");
    SqlError::new("2BP01", message).hint(hint)
}
