//! The catalog: every object users created, by id and by name.
//!
//! What is durable is a [`Record`] per object: SQL text, ids and fingerprints, never a plan.
//! [`Object`] is a record with what was derived from its SQL at start or at CREATE. A [`Catalog`] value is
//! immutable once published; DDL works on a clone and publishes it with the epoch that commits it.

pub mod object;
pub mod record;
pub mod text;
pub mod view;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use tidemill_planner::SqlError;
use tidemill_planner::ast::Name;
use tidemill_zset::CollectionId;

pub use object::{Detail, Object, TableCheck};
pub use record::{Change, Kind, PersistentRecord, Record, SchemaRecord};
pub use view::CatalogSnapshot;

/// The schema that unqualified CREATEs go to.
pub const DEFAULT_SCHEMA: &str = "public";

/// The schema that a session's temporary objects are in, as it calls it.
pub const TEMPORARY: &str = "pg_temp";

/// What the names of these schemas begin with.
pub const TEMPORARY_PREFIX: &str = "pg_temp_";

/// Schemas that users can't change.
pub const SYSTEM_SCHEMAS: [&str; 3] = ["pg_catalog", "information_schema", "tidemill"];

/// All objects at one moment.
#[derive(Clone, Default)]
pub struct Catalog {
    objects: BTreeMap<u64, Arc<Object>>,
    names: HashMap<(String, String), u64>,
    collections: HashMap<CollectionId, (u64, Rows)>,
    /// Indexes by the object they are on.
    indexes: HashMap<u64, Vec<u64>>,
    schemas: BTreeMap<String, SchemaRecord>,
    persistent: BTreeMap<String, PersistentRecord>,
    next_id: u64,
}

/// The first id of user objects; lower ones are PostgreSQL's own.
const FIRST_ID: u64 = 16_384;

impl Catalog {
    /// A catalog with only the default schema.
    pub fn new() -> Self {
        let mut catalog = Catalog {
            next_id: FIRST_ID,
            ..Default::default()
        };
        catalog.schemas.insert(
            DEFAULT_SCHEMA.into(),
            SchemaRecord {
                id: 2_200,
                comment: None,
            },
        );
        catalog
    }

    /// A number for a new object, collection or arrangement; never given twice in a data directory
    /// (the counter is durable with the epoch that commits the object).
    pub fn allocate(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    /// The durable form of the id counter.
    pub fn next_id(&self) -> u64 {
        self.next_id
    }

    pub(crate) fn set_next_id(&mut self, id: u64) {
        self.next_id = self.next_id.max(id);
    }

    /// Objects in order of creation; a view comes after what it reads.
    pub fn objects(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.objects.values()
    }

    /// The object of that id.
    pub fn get(&self, id: u64) -> Option<&Arc<Object>> {
        self.objects.get(&id)
    }

    /// The object of exactly that name.
    pub fn find(&self, schema: &str, name: &str) -> Option<&Arc<Object>> {
        self.objects
            .get(self.names.get(&(schema.to_string(), name.to_string()))?)
    }

    /// The object whose rows or errors are this collection.
    pub fn by_collection(&self, id: CollectionId) -> Option<(&Arc<Object>, Rows)> {
        let (object, rows) = self.collections.get(&id)?;
        Some((self.objects.get(object)?, *rows))
    }

    /// Resolves a name as DDL does: the given schema or the default one.
    pub fn lookup(&self, name: &Name) -> Option<&Arc<Object>> {
        self.find(name.schema.as_deref().unwrap_or(DEFAULT_SCHEMA), &name.name)
    }

    /// Adds or replaces an object.
    pub fn put(&mut self, object: Arc<Object>) {
        self.remove(object.record.id);
        let key = (object.record.schema.clone(), object.record.name.clone());
        self.names.insert(key, object.record.id);
        for (collection, rows) in collections_of(&object) {
            self.collections
                .insert(collection, (object.record.id, rows));
        }
        if let Detail::Index { on, .. } = &object.detail {
            self.indexes.entry(*on).or_default().push(object.record.id);
        }
        self.objects.insert(object.record.id, object);
    }

    /// The indexes on an object.
    pub fn indexes_on(&self, id: u64) -> impl Iterator<Item = &Arc<Object>> {
        let ids = self.indexes.get(&id).into_iter().flatten();
        ids.filter_map(|id| self.objects.get(id))
    }

    /// Removes an object.
    pub fn remove(&mut self, id: u64) {
        let Some(old) = self.objects.remove(&id) else {
            return;
        };
        self.names
            .remove(&(old.record.schema.clone(), old.record.name.clone()));
        for (collection, _) in collections_of(&old) {
            self.collections.remove(&collection);
        }
        if let Detail::Index { on, .. } = &old.detail
            && let Some(indexes) = self.indexes.get_mut(on)
        {
            indexes.retain(|index| *index != id);
        }
    }

    /// Objects that read or stand on `id`, directly.
    pub fn dependents(&self, id: u64) -> Vec<Arc<Object>> {
        self.objects
            .values()
            .filter(|o| o.record.depends.contains(&id))
            .cloned()
            .collect()
    }

    /// Objects that stand on any of `ids`, directly or not, without `ids` themselves; dependents last.
    pub fn dependents_of_all(&self, ids: &[u64]) -> Vec<Arc<Object>> {
        let mut reached: BTreeSet<u64> = ids.iter().copied().collect();
        let mut todo: Vec<u64> = ids.to_vec();
        while let Some(id) = todo.pop() {
            let above = self.dependents(id).into_iter().map(|o| o.record.id);
            todo.extend(above.filter(|id| reached.insert(*id)));
        }
        ids.iter().for_each(|id| {
            reached.remove(id);
        });
        // A replaced view may stand on what was made after it, so that ids say nothing.
        let mut out: Vec<Arc<Object>> = Vec::new();
        while let Some(next) = reached.iter().copied().find(|id| {
            let below = self.objects.get(id).map(|o| &o.record.depends);
            below.is_none_or(|below| !below.iter().any(|d| d != id && reached.contains(d)))
        }) {
            reached.remove(&next);
            out.extend(self.objects.get(&next).cloned());
        }
        out
    }

    /// Schemas by name, without the system's.
    pub fn schemas(&self) -> &BTreeMap<String, SchemaRecord> {
        &self.schemas
    }

    pub(crate) fn schemas_mut(&mut self) -> &mut BTreeMap<String, SchemaRecord> {
        &mut self.schemas
    }

    /// What is recorded under each `persistent_id`, also of dropped sources.
    pub fn persistent(&self) -> &BTreeMap<String, PersistentRecord> {
        &self.persistent
    }

    pub(crate) fn persistent_mut(&mut self) -> &mut BTreeMap<String, PersistentRecord> {
        &mut self.persistent
    }

    /// Checks that a new object may take `name`; gives (schema, name).
    pub fn free_name(&self, name: &Name) -> Result<(String, String), SqlError> {
        let schema = name.schema.clone().unwrap_or_else(|| DEFAULT_SCHEMA.into());
        if SYSTEM_SCHEMAS.contains(&schema.as_str()) {
            return Err(
                SqlError::new("42501", format!("permission denied for schema {schema}"))
                    .detail("The schema belongs to the system."),
            );
        }
        if !self.schemas.contains_key(&schema) {
            return Err(
                SqlError::new("3F000", format!("schema \"{schema}\" does not exist"))
                    .hint(format!("Create it with CREATE SCHEMA {schema}.")),
            );
        }
        let taken = self.find(&schema, &name.name).is_some()
            || name.name.strip_suffix("_errors").is_some_and(|base| {
                self.find(&schema, base)
                    .is_some_and(|o| o.record.ids.errors_collection.is_some())
            });
        if taken {
            return Err(SqlError::new(
                "42P07",
                format!("relation \"{}\" already exists", name.name),
            ));
        }
        Ok((schema, name.name.clone()))
    }
}

/// The collections of an object.
fn collections_of(object: &Object) -> impl Iterator<Item = (CollectionId, Rows)> {
    let ids = &object.record.ids;
    let data = ids.collection.map(|id| (id, Rows::Data));
    let errors = ids.errors_collection.map(|id| (id, Rows::Errors));
    data.into_iter().chain(errors)
}

/// Which rows of an object a collection holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// Its rows.
    Data,
    /// Its error relation.
    Errors,
}
