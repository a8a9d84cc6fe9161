//! Names while something is being planned or built: ALTER … RENAME TO, and the checks that what a statement was planned from is
//! still what it was.
//!
//! Invariant: the SQL text that is stored of an object names what it reads as that is called now.

use std::sync::Arc;

use tidemill_planner::SqlError;
use tidemill_planner::ast::{Name, ObjectKind};

use super::Coordinator;
use super::build::{Build, BuildTarget};
use super::ddl::{Effects, find, notice};
use crate::catalog::record::{Kind, object_key, put};
use crate::catalog::{Catalog, DEFAULT_SCHEMA, Detail, Object};

impl Coordinator {
    pub(super) fn rename(
        &mut self,
        kind: ObjectKind,
        name: &Name,
        if_exists: bool,
        to: String,
        next: &mut Catalog,
        effects: &mut Effects,
    ) -> Result<(), SqlError> {
        if kind == ObjectKind::Index && is_key_of(next, name, &to) {
            // The index of a primary key is called after its table, and was renamed with it.
            return Ok(());
        }
        let object = match renamed(next, kind, name) {
            Err(e) if if_exists && e.sqlstate == "42P01" => {
                effects.notices.push(notice(
                    "00000",
                    format!("relation \"{}\" does not exist, skipping", name.name),
                ));
                return Ok(());
            }
            other => other?.clone(),
        };
        super::sequences::check_unused("rename", &object, next, &[])?;
        let new_name = Name {
            schema: Some(object.record.schema.clone()),
            name: to.clone(),
        };
        next.free_name(&new_name)?;
        self.check_unreserved(&new_name)?;
        let rewrite = Rewrite {
            schema: &object.record.schema,
            old: &object.record.name,
            new: &to,
        };
        let mut renamed = Object::clone(&object);
        renamed.record.name = to.clone();
        effects
            .changes
            .push(put(object_key(renamed.record.id), &renamed.record));
        check_readers_whole("rename", &object, next)?;
        // Those who read it keep its name in their SQL text, which is planned again at the next start.
        for dependent in next.dependents(object.record.id) {
            let mut changed = Object::clone(&dependent);
            rewrite.apply(&mut changed)?;
            effects
                .changes
                .push(put(object_key(changed.record.id), &changed.record));
            next.put(Arc::new(changed));
        }
        for build in self.builds.values_mut() {
            if let Some(BuildTarget::View(view)) = &mut build.target
                && build.depends.contains(&object.record.id)
            {
                rewrite.apply(view)?;
            }
        }
        next.put(Arc::new(renamed));
        Ok(())
    }

    /// Views under construction have their names already.
    pub(super) fn check_unreserved(&self, name: &Name) -> Result<(), SqlError> {
        let schema = name.schema.as_deref().unwrap_or(DEFAULT_SCHEMA);
        let mut reserved = self.reserved.keys();
        if reserved.any(|(s, n)| s == schema && *n == name.name) {
            return Err(SqlError::new(
                "42P07",
                format!("relation \"{}\" already exists", name.name),
            )
            .detail("A view of that name is being created."));
        }
        Ok(())
    }

    /// A view under construction was planned from what it reads as that was.
    pub(super) fn check_unused_by_builds(&self, object: &Object) -> Result<(), SqlError> {
        let reads = |b: &Build| {
            matches!(b.target, Some(BuildTarget::View(_))) && b.depends.contains(&object.record.id)
        };
        if self.builds.values().any(reads) {
            return Err(SqlError::new(
                "55006",
                format!(
                    "cannot replace view {} because a view that reads it is being created",
                    object.display_name()
                ),
            )
            .hint("Wait for its CREATE to return, or cancel that."));
        }
        Ok(())
    }
}

/// The object that is renamed. ALTER TABLE is for all relations.
fn renamed<'c>(
    catalog: &'c Catalog,
    kind: ObjectKind,
    name: &Name,
) -> Result<&'c Arc<Object>, SqlError> {
    match catalog.lookup(name) {
        Some(object) if kind == ObjectKind::Table && object.record.kind != Kind::Sink => Ok(object),
        _ => find(catalog, kind, name),
    }
}

/// Whether there is no index of this name, but a primary key's that is called `to`.
fn is_key_of(catalog: &Catalog, name: &Name, to: &str) -> bool {
    let table = to.strip_suffix("_pkey").map(|table| Name {
        schema: name.schema.clone(),
        name: table.to_string(),
    });
    let table = table.and_then(|table| catalog.lookup(&table));
    let has_key = table.is_some_and(|t| {
        let keyed =
            matches!(&t.detail, Detail::Table { primary_key, .. } if !primary_key.is_empty());
        keyed && t.primary_key_name() == to
    });
    has_key && catalog.lookup(name).is_none()
}

/// A new name for a relation in the SQL text of those who read it.
struct Rewrite<'a> {
    schema: &'a str,
    old: &'a str,
    new: &'a str,
}

impl Rewrite<'_> {
    fn apply(&self, object: &mut Object) -> Result<(), SqlError> {
        let rewrite = |sql: &str| {
            tidemill_planner::definition::rename_relation(sql, self.schema, self.old, self.new)
        };
        object.record.sql = rewrite(&object.record.sql)?;
        match &mut object.detail {
            Detail::View { query } | Detail::MaterializedView { query, .. } => {
                *query = rewrite(query)?
            }
            _ => {}
        }
        Ok(())
    }
}

/// The text of a view that couldn't be restored can't be kept true to what it reads.
pub(crate) fn check_readers_whole(
    verb: &str,
    object: &Object,
    catalog: &Catalog,
) -> Result<(), SqlError> {
    let readers = catalog.dependents_of_all(&[object.record.id]);
    let Some(broken) = readers.iter().find(|reader| reader.broken().is_some()) else {
        return Ok(());
    };
    let (kind, name) = (object.record.kind.words(), object.display_name());
    let (reader, reader_name) = (broken.record.kind.words(), broken.display_name());
    Err(SqlError::new(
        "55000",
        format!("cannot {verb} {kind} {name} because {reader} {reader_name} couldn't be restored at the last start"),
    )
    .detail(broken.broken().unwrap_or_default())
    .hint(format!("Drop {reader} {reader_name} first.")))
}

/// Everything in `depends` must be there as the session saw it when it planned: SQL text names what it reads.
pub(super) fn check_seen(depends: &[u64], seen: &Catalog, now: &Catalog) -> Result<(), SqlError> {
    for id in depends {
        let Some(object) = now.get(*id) else {
            return Err(SqlError::new(
                "42P01",
                "a relation that the statement reads was dropped meanwhile",
            ));
        };
        let same = seen.get(*id).is_some_and(|old| {
            (&old.record.schema, &old.record.name) == (&object.record.schema, &object.record.name)
                && old.columns == object.columns
                && old.record.sql == object.record.sql
        });
        if !same {
            return Err(SqlError::new(
                "40001",
                format!(
                    "relation \"{}\" was changed while the statement was planned",
                    object.display_name()
                ),
            )
            .hint("Try again."));
        }
    }
    Ok(())
}
