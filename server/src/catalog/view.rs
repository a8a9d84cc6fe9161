//! The catalog as the planner sees it: names resolved along a search path.

use std::collections::HashSet;
use std::sync::Arc;

use tidemill_planner::ast::CHANGED;
use tidemill_planner::catalog::{CatalogView, Relation, RelationKind};
use tidemill_zset::CollectionId;

use super::{Catalog, Detail, Object, TEMPORARY, TEMPORARY_PREFIX};
use crate::numbers::Counted;
use crate::pg_catalog::FIRST_USER_OID;
use crate::system::SystemRelations;

/// A catalog with a session's search path.
#[derive(Clone)]
pub struct CatalogSnapshot {
    catalog: Arc<Catalog>,
    system: Arc<SystemRelations>,
    search_path: Vec<String>,
    computed: Arc<HashSet<u64>>,
    changed: Arc<Vec<Relation>>,
}

impl CatalogSnapshot {
    /// Resolves against `catalog` and the system's relations.
    pub fn new(
        catalog: Arc<Catalog>,
        system: Arc<SystemRelations>,
        search_path: Vec<String>,
    ) -> Self {
        CatalogSnapshot {
            catalog,
            system,
            search_path,
            computed: Arc::default(),
            changed: Arc::default(),
        }
    }

    /// The same, but these materialized views are computed from their queries when they are read.
    pub fn computing(self, computed: Arc<HashSet<u64>>) -> Self {
        CatalogSnapshot { computed, ..self }
    }

    /// The same, with what statements in WITH return.
    pub fn with_changed(self, changed: Arc<Vec<Relation>>) -> Self {
        CatalogSnapshot { changed, ..self }
    }

    fn data_relation(&self, object: &Object) -> Option<Relation> {
        let relation = data_relation(object)?;
        Some(match &object.detail {
            Detail::MaterializedView { query, .. } if self.computed.contains(&object.record.id) => {
                Relation {
                    kind: RelationKind::View { sql: query.clone() },
                    unique: None,
                    append_only: false,
                    ..relation
                }
            }
            _ => relation,
        })
    }

    fn find(&self, schema: &str, name: &str) -> Option<Relation> {
        if let Some(relation) = self.system.resolve(schema, name) {
            return Some(relation);
        }
        if let Some(object) = self.catalog.find(schema, name) {
            let sequence = Counted::of(object);
            let sequence = sequence.map(|of| self.system.of_sequence(schema, &of));
            return sequence.or_else(|| self.data_relation(object));
        }
        let base = name.strip_suffix("_errors");
        if let Some(owner) = base.and_then(|base| self.catalog.find(schema, base)) {
            return error_relation(owner);
        }
        // What numbers a column is called so.
        let of = Counted::find(&self.catalog, schema, name).filter(|_| name.ends_with("_seq"))?;
        Some(self.system.of_sequence(schema, &of))
    }
}

impl CatalogView for CatalogSnapshot {
    fn resolve(&self, schema: Option<&str>, name: &str) -> Option<Relation> {
        match schema {
            Some(TEMPORARY) => {
                let own = self.search_path.iter();
                let mut own = own.filter(|s| s.starts_with(TEMPORARY_PREFIX));
                self.find(own.next()?, name)
            }
            Some(CHANGED) => self.changed.iter().find(|r| r.name == name).cloned(),
            Some(schema) => self.find(schema, name),
            None => std::iter::once("pg_catalog")
                .chain(self.search_path.iter().map(String::as_str))
                .find_map(|schema| self.find(schema, name)),
        }
    }

    fn relations(&self) -> Vec<Relation> {
        let mut all: Vec<Relation> = Vec::new();
        for object in self.catalog.objects() {
            all.extend(self.data_relation(object));
            all.extend(error_relation(object));
        }
        all.extend(self.system.relations());
        all
    }
}

/// The relation that holds an object's rows; `None` for sinks, indexes and sequences.
pub fn data_relation(object: &Object) -> Option<Relation> {
    let kind = match &object.detail {
        Detail::Table { .. } => RelationKind::Table,
        Detail::Source { .. } => RelationKind::Source,
        Detail::View { query } => RelationKind::View { sql: query.clone() },
        Detail::MaterializedView { .. } => RelationKind::MaterializedView,
        Detail::Broken { reason } if object.is_view() => RelationKind::Broken {
            reason: reason.clone(),
        },
        Detail::Sink { .. }
        | Detail::Index { .. }
        | Detail::Sequence(_)
        | Detail::Broken { .. } => return None,
    };
    let (primary_key, unique, append_only) = match &object.detail {
        Detail::Table { primary_key, .. } => {
            let key = (!primary_key.is_empty()).then(|| primary_key.clone());
            (key.clone(), key, false)
        }
        Detail::Source { append_only, .. } => (None, None, *append_only),
        Detail::MaterializedView {
            unique,
            append_only,
            ..
        } => (None, unique.clone(), *append_only),
        _ => (None, None, false),
    };
    Some(Relation {
        oid: FIRST_USER_OID + object.record.id as u32,
        id: object
            .record
            .ids
            .collection
            .unwrap_or(CollectionId(u64::MAX)),
        schema: object.record.schema.clone(),
        name: object.record.name.clone(),
        kind,
        columns: object.columns.clone(),
        planned: object.planned_names(),
        primary_key,
        unique,
        append_only,
    })
}

/// The error relation of an object that has one.
pub fn error_relation(object: &Object) -> Option<Relation> {
    Some(Relation {
        // pg_class doesn't have it.
        oid: 0,
        id: object.record.ids.errors_collection?,
        schema: object.record.schema.clone(),
        name: format!("{}_errors", object.record.name),
        kind: RelationKind::Errors,
        columns: object.error_columns()?,
        planned: None,
        primary_key: None,
        unique: None,
        append_only: false,
    })
}
