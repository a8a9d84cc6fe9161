//! DDL: objects come and go between two epochs; their catalog rows ride in the next epoch's commit, and the
//! statement is answered once that is published.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use tidemill_connectors::sink::FileSink;
use tidemill_dataflow::runtime::Command;
use tidemill_planner::SqlError;
use tidemill_planner::ast::{Name, ObjectKind, Options};
use tidemill_storage::{ArrangementDesc, ArrangementKind, OffsetChange};
use tidemill_zset::schema::SqlType;
use tidemill_zset::{ArrangementId, CollectionId};
use tokio::sync::oneshot;

use super::build::{output_desc, stored_desc};
use super::cut::origin_schema;
use super::rename::check_seen;
use super::{AfterPublish, Coordinator, Owner};
use crate::catalog::record::{
    Ids, Kind, NEXT_ID_KEY, PersistentRecord, SchemaRecord, number_key, object_key, persistent_key,
    put, schema_key, sink_key,
};
use crate::catalog::{Catalog, Change, DEFAULT_SCHEMA, Detail, Object, SYSTEM_SCHEMAS};
use crate::numbers::numbered;
use crate::reader::key_first;
use crate::session::Notice;

/// History kept where `retain_history` doesn't say: one minute.
pub const RETAIN_HISTORY_MS_DEFAULT: i64 = 60_000;

/// Answer to DDL: notices for the client.
pub type DdlReply = oneshot::Sender<Result<Vec<Notice>, SqlError>>;

/// A statement that changes the catalog, checked by the session against the catalog it saw.
pub enum Ddl {
    /// CREATE SCHEMA
    CreateSchema {
        /// Its name.
        name: String,
        /// Not an error if it exists.
        if_not_exists: bool,
    },
    /// CREATE TABLE, SOURCE, VIEW, SINK. The record's id and ids are given here.
    Create {
        /// Everything but ids.
        object: Box<Object>,
        /// The catalog that it was planned against.
        seen: Arc<Catalog>,
        /// Not an error if the name is taken.
        if_not_exists: bool,
        /// Replace a view of that name with the same columns.
        or_replace: bool,
        /// A sink's file, opened already.
        file: Option<Box<FileSink>>,
    },
    /// DROP
    Drop {
        /// What kind the statement says.
        kind: ObjectKind,
        /// Which.
        names: Vec<Name>,
        /// Not an error if one is missing.
        if_exists: bool,
        /// Dependents too.
        cascade: bool,
        /// Forget what is recorded under the persistent id.
        purge: bool,
    },
    /// ALTER … RENAME TO
    Rename {
        /// What kind the statement says.
        kind: ObjectKind,
        /// Which.
        name: Name,
        /// Not an error if it is missing.
        if_exists: bool,
        /// The new name.
        to: String,
    },
    /// COMMENT ON
    Comment {
        /// What kind the statement says.
        kind: ObjectKind,
        /// Which.
        name: Name,
        /// Of one of its columns.
        column: Option<String>,
        /// The text; `None` removes it.
        comment: Option<String>,
    },
}

/// What a statement changes besides the catalog in memory.
#[derive(Default)]
pub(super) struct Effects {
    pub(super) changes: Vec<Change>,
    create: Vec<ArrangementDesc>,
    drop: Vec<ArrangementId>,
    offsets: Vec<OffsetChange>,
    /// Indexes that come with a new table, whose dataflows begin.
    indexes: Vec<Arc<Object>>,
    after: Vec<AfterPublish>,
    pub(super) notices: Vec<Notice>,
}

impl Coordinator {
    pub(super) fn do_ddl(&mut self, ddl: Ddl, reply: DdlReply) {
        let mut next = Catalog::clone(&self.catalog);
        let mut effects = Effects::default();
        if let Err(e) = self.prepare(ddl, &mut next, &mut effects) {
            let _ = reply.send(Err(e));
            return;
        }
        let notices = std::mem::take(&mut effects.notices);
        if effects.changes.is_empty() {
            let _ = reply.send(Ok(notices));
            return;
        }
        effects
            .changes
            .push(put(NEXT_ID_KEY.into(), &next.next_id()));
        self.catalog = Arc::new(next);
        if !effects.indexes.is_empty() {
            effects.indexes.iter().for_each(|i| self.resume_view(i));
            self.recount_inputs();
        }
        let mut work = self.begin_epoch();
        work.catalog = Some(self.catalog.clone());
        work.commit.catalog.extend(effects.changes);
        work.commit.since = effects.create.iter().map(|d| (d.id, work.epoch)).collect();
        work.commit.create = effects.create;
        work.commit.drop.extend(effects.drop);
        work.offsets = effects.offsets.clone();
        work.commit.offsets = effects.offsets;
        work.after = effects.after;
        work.after.push(Box::new(move |_, _| {
            let _ = reply.send(Ok(notices));
        }));
        self.finish_cut(work);
    }

    fn prepare(
        &mut self,
        ddl: Ddl,
        next: &mut Catalog,
        effects: &mut Effects,
    ) -> Result<(), SqlError> {
        match ddl {
            Ddl::CreateSchema {
                name,
                if_not_exists,
            } => create_schema(name, if_not_exists, next, effects),
            Ddl::Create {
                object,
                seen,
                if_not_exists,
                or_replace,
                file,
            } => {
                check_seen(&object.record.depends, &seen, next)?;
                self.create(*object, if_not_exists, or_replace, file, next, effects)
            }
            Ddl::Drop {
                kind: ObjectKind::Schema,
                names,
                if_exists,
                cascade,
                ..
            } => {
                for name in names {
                    self.drop_schema(&name.name, if_exists, cascade, next, effects)?;
                }
                Ok(())
            }
            Ddl::Drop {
                kind,
                names,
                if_exists,
                cascade,
                purge,
            } => self.drop_objects(kind, &names, if_exists, cascade, purge, next, effects),
            Ddl::Rename {
                kind,
                name,
                if_exists,
                to,
            } => self.rename(kind, &name, if_exists, to, next, effects),
            Ddl::Comment {
                kind,
                name,
                column,
                comment,
            } => set_comment(kind, &name, column, comment, next, effects),
        }
    }

    fn create(
        &mut self,
        mut object: Object,
        if_not_exists: bool,
        or_replace: bool,
        file: Option<Box<FileSink>>,
        next: &mut Catalog,
        effects: &mut Effects,
    ) -> Result<(), SqlError> {
        let name = Name {
            schema: Some(object.record.schema.clone()),
            name: object.record.name.clone(),
        };
        if let Some(old) = next.lookup(&name).cloned() {
            if if_not_exists {
                let message = format!("relation \"{}\" already exists, skipping", name.name);
                effects.notices.push(notice("42P07", message));
                return Ok(());
            }
            if or_replace && old.record.kind == Kind::View {
                self.check_unused_by_builds(&old)?;
                return replace_view(&old, object, next, effects);
            }
        }
        next.free_name(&name)?;
        self.check_unreserved(&name)?;
        object.record.id = next.allocate();
        match &object.detail {
            Detail::Table { .. } => table_ids(&mut object, next, effects),
            Detail::Source { .. } => source_ids(&mut object, next, effects)?,
            _ => {}
        }
        effects
            .changes
            .push(put(object_key(object.record.id), &object.record));
        let object = Arc::new(object);
        next.put(object.clone());
        match &object.detail {
            Detail::Table { uniques, .. } => {
                for unique in uniques {
                    let index = crate::index::of_constraint(next, &object, unique)?;
                    self.create_index_of(index, next, effects)?;
                }
            }
            Detail::Source { .. } => effects.after.push(Box::new(move |c, _| {
                if let Err(e) = c.start_source(&object) {
                    c.failure = Some(e);
                }
            })),
            Detail::Sink { .. } => effects.after.push(Box::new(move |c, _| {
                c.start_sink(&object, file.map(|f| *f), None);
            })),
            _ => {}
        }
        Ok(())
    }

    /// The index of a constraint of a table that is made in the same step: there is nothing to take in.
    fn create_index_of(
        &mut self,
        mut index: Object,
        next: &mut Catalog,
        effects: &mut Effects,
    ) -> Result<(), SqlError> {
        let name = Name {
            schema: Some(index.record.schema.clone()),
            name: index.record.name.clone(),
        };
        next.free_name(&name)?;
        self.check_unreserved(&name)?;
        index.record.id = next.allocate();
        let rows = ArrangementId(next.allocate());
        index.record.ids.rows = Some(rows);
        effects.create.push(stored_desc(rows, &index));
        effects
            .changes
            .push(put(object_key(index.record.id), &index.record));
        let index = Arc::new(index);
        next.put(index.clone());
        effects.indexes.push(index);
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn drop_objects(
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
                    let message =
                        format!("{} \"{}\" does not exist, skipping", words(kind), name.name);
                    effects.notices.push(notice("00000", message));
                }
                Err(e) if kind == ObjectKind::Index && e.sqlstate == "42P01" => {
                    let message = format!("index \"{}\" does not exist", name.name);
                    return Err(SqlError::new("42704", message));
                }
                Err(e) => return Err(e),
            }
        }
        self.drop_ids(ids, cascade, purge, next, effects)
    }

    fn drop_ids(
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

    fn drop_one(
        &mut self,
        object: &Arc<Object>,
        purge: bool,
        next: &mut Catalog,
        effects: &mut Effects,
    ) {
        let id = object.record.id;
        let ids = object.record.ids.clone();
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
                let dataflow = self
                    .dataflows
                    .iter()
                    .find(|(_, o)| matches!(o, Owner::View(v) if *v == id))
                    .map(|(d, _)| *d);
                if let Some(dataflow) = dataflow {
                    self.dataflows.remove(&dataflow);
                    self.runtime.send(Command::Drop(dataflow));
                    self.recount_inputs();
                }
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
                effects.drop.extend(ids.rows);
                let columns = numbered(object).map(|(n, _)| (number_key(id, n), None));
                effects.changes.extend(columns);
                effects
                    .after
                    .push(Box::new(move |c, _| c.env.numbers.forget(id)));
            }
            Detail::View { .. } => {}
        }
    }

    fn forget_offsets(&mut self, offsets: Option<u64>, effects: &mut Effects) {
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

    fn drop_schema(
        &mut self,
        name: &str,
        if_exists: bool,
        cascade: bool,
        next: &mut Catalog,
        effects: &mut Effects,
    ) -> Result<(), SqlError> {
        if SYSTEM_SCHEMAS.contains(&name) || name == DEFAULT_SCHEMA {
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
        if let Some((_, view)) = self.reserved.iter().find(|(schema, _)| schema == name) {
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
        self.drop_ids(ids, cascade, false, next, effects)?;
        next.schemas_mut().remove(name);
        effects.changes.push((schema_key(name), None));
        Ok(())
    }
}

/// The index of a constraint goes with its table alone.
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
    SqlError::new("2BP01", message).hint(format!("The constraint goes with the table {table}."))
}

fn create_schema(
    name: String,
    if_not_exists: bool,
    next: &mut Catalog,
    effects: &mut Effects,
) -> Result<(), SqlError> {
    if name.starts_with("pg_") {
        return Err(
            SqlError::new("42939", format!("unacceptable schema name \"{name}\""))
                .detail("The prefix \"pg_\" is reserved for system schemas."),
        );
    }
    if next.schemas().contains_key(&name) || SYSTEM_SCHEMAS.contains(&name.as_str()) {
        let message = format!("schema \"{name}\" already exists");
        if if_not_exists {
            effects
                .notices
                .push(notice("42P06", format!("{message}, skipping")));
            return Ok(());
        }
        return Err(SqlError::new("42P06", message));
    }
    let record = SchemaRecord {
        id: next.allocate(),
        comment: None,
    };
    effects.changes.push(put(schema_key(&name), &record));
    next.schemas_mut().insert(name, record);
    Ok(())
}

fn replace_view(
    old: &Arc<Object>,
    mut new: Object,
    next: &mut Catalog,
    effects: &mut Effects,
) -> Result<(), SqlError> {
    let kept = old.columns.fields().len() <= new.columns.fields().len()
        && old
            .columns
            .fields()
            .iter()
            .zip(new.columns.fields())
            .all(|(a, b)| a.name() == b.name() && a.data_type() == b.data_type());
    if !kept {
        return Err(SqlError::new(
            "42P16",
            "cannot change the columns of a view with CREATE OR REPLACE VIEW",
        )
        .hint("Columns may only be added at the end. Drop the view and create it anew."));
    }
    if !next.dependents(old.record.id).is_empty() {
        return Err(SqlError::new(
            "2BP01",
            format!(
                "cannot replace view {} because other objects depend on it",
                old.display_name()
            ),
        )
        .hint("What depends on it was built from the old query. Drop it first."));
    }
    new.record.id = old.record.id;
    effects
        .changes
        .push(put(object_key(new.record.id), &new.record));
    next.put(Arc::new(new));
    Ok(())
}

fn table_ids(object: &mut Object, next: &mut Catalog, effects: &mut Effects) {
    let Detail::Table { primary_key, .. } = &object.detail else {
        return;
    };
    let rows = ArrangementId(next.allocate());
    effects
        .create
        .push(table_desc(rows, &object.columns, primary_key));
    object.record.ids = Ids {
        collection: Some(CollectionId(next.allocate())),
        rows: Some(rows),
        ..Ids::default()
    };
}

/// How a table's rows are stored: by key, or as a multiset of whole rows.
pub fn table_desc(
    id: ArrangementId,
    columns: &SchemaRef,
    primary_key: &[usize],
) -> ArrangementDesc {
    let width = columns.fields().len();
    let order = key_first(primary_key, width);
    let schema = Arc::new(
        columns
            .project(&order)
            .expect("the order names each column once"),
    );
    if primary_key.is_empty() {
        ArrangementDesc {
            id,
            kind: ArrangementKind::Add,
            schema,
            key_columns: width,
        }
    } else {
        ArrangementDesc {
            id,
            kind: ArrangementKind::Last,
            schema,
            key_columns: primary_key.len(),
        }
    }
}

fn source_ids(
    object: &mut Object,
    next: &mut Catalog,
    effects: &mut Effects,
) -> Result<(), SqlError> {
    let Detail::Source { persistent_id, .. } = &object.detail else {
        return Ok(());
    };
    let columns: Vec<String> = object
        .columns
        .fields()
        .iter()
        .map(|f| format!("{} {}", f.name(), SqlType::of(f)))
        .collect();
    let mut record = match persistent_id
        .as_ref()
        .and_then(|id| next.persistent().get(id))
    {
        Some(known) => {
            let persistent_id = persistent_id.as_deref().unwrap_or_default();
            let user = next
                .objects()
                .find(|o| o.record.ids.rows == Some(known.rows));
            if let Some(user) = user {
                return Err(SqlError::new(
                    "55006",
                    format!(
                        "persistent_id '{persistent_id}' is in use by source {}",
                        user.display_name()
                    ),
                )
                .hint("Each source needs a persistent_id of its own."));
            }
            if known.columns != columns {
                return Err(SqlError::new("42P16", format!("persistent_id '{persistent_id}' was recorded with other columns"))
                    .detail(format!("Recorded: ({}). Declared: ({}).", known.columns.join(", "), columns.join(", ")))
                    .hint("Declare the recorded columns, choose another persistent_id, or forget the record with DROP SOURCE … PURGE."));
            }
            known.clone()
        }
        None => {
            let record = PersistentRecord {
                columns,
                rows: ArrangementId(next.allocate()),
                errors: ArrangementId(next.allocate()),
                offsets: next.allocate(),
            };
            let log = |id, columns: &SchemaRef| ArrangementDesc {
                id,
                kind: ArrangementKind::Log,
                schema: origin_schema(columns),
                key_columns: 0,
            };
            let errors = object
                .error_columns()
                .expect("a source has an error relation");
            effects.create.push(log(record.errors, &errors));
            if persistent_id.is_some() {
                effects.create.push(log(record.rows, &object.columns));
            }
            record
        }
    };
    if let Some(id) = persistent_id {
        record.columns.shrink_to_fit();
        effects.changes.push(put(persistent_key(id), &record));
        next.persistent_mut().insert(id.clone(), record.clone());
    }
    object.record.ids = Ids {
        collection: Some(CollectionId(next.allocate())),
        rows: persistent_id.is_some().then_some(record.rows),
        errors_collection: Some(CollectionId(next.allocate())),
        errors: Some(record.errors),
        offsets: Some(record.offsets),
        ..Ids::default()
    };
    Ok(())
}

fn set_comment(
    kind: ObjectKind,
    name: &Name,
    column: Option<String>,
    comment: Option<String>,
    next: &mut Catalog,
    effects: &mut Effects,
) -> Result<(), SqlError> {
    if kind == ObjectKind::Schema {
        let Some(record) = next.schemas_mut().get_mut(&name.name) else {
            return Err(SqlError::new(
                "3F000",
                format!("schema \"{}\" does not exist", name.name),
            ));
        };
        record.comment = comment;
        effects.changes.push(put(schema_key(&name.name), record));
        return Ok(());
    }
    let object = if column.is_some() {
        find_any(next, name)?
    } else {
        find(next, kind, name)?
    };
    let mut changed = Object::clone(object);
    match (column, comment) {
        (None, comment) => changed.record.comment = comment,
        (Some(column), comment) => {
            if changed.columns.column_with_name(&column).is_none() {
                let message = format!(
                    "column \"{column}\" of relation \"{}\" does not exist",
                    name.name
                );
                return Err(SqlError::new("42703", message));
            }
            let comments: &mut BTreeMap<String, String> = &mut changed.record.column_comments;
            match comment {
                Some(text) => comments.insert(column, text),
                None => comments.remove(&column),
            };
        }
    }
    effects
        .changes
        .push(put(object_key(changed.record.id), &changed.record));
    next.put(Arc::new(changed));
    Ok(())
}

/// The object of that name, if it is of that kind.
pub fn find<'a>(
    catalog: &'a Catalog,
    kind: ObjectKind,
    name: &Name,
) -> Result<&'a Arc<Object>, SqlError> {
    let object = find_any(catalog, name).map_err(|e| match kind {
        ObjectKind::Table => SqlError {
            message: format!("table \"{}\" does not exist", name.name),
            ..e
        },
        ObjectKind::View => SqlError {
            message: format!("view \"{}\" does not exist", name.name),
            ..e
        },
        _ => e,
    })?;
    let right = matches!(
        (kind, object.record.kind),
        (ObjectKind::Table, Kind::Table)
            | (ObjectKind::Source, Kind::Source)
            | (ObjectKind::View, Kind::View)
            | (ObjectKind::MaterializedView, Kind::MaterializedView)
            | (ObjectKind::Sink, Kind::Sink)
            | (ObjectKind::Index, Kind::Index)
    );
    if right {
        return Ok(object);
    }
    let real = object.record.kind.words();
    Err(SqlError::new(
        "42809",
        format!("\"{}\" is not a {}", name.name, words(kind)),
    )
    .hint(format!(
        "Use DROP {} to remove a {real}.",
        real.to_uppercase()
    )))
}

/// The object of that name, of any kind.
pub fn find_any<'a>(catalog: &'a Catalog, name: &Name) -> Result<&'a Arc<Object>, SqlError> {
    catalog.lookup(name).ok_or_else(|| {
        SqlError::new(
            "42P01",
            format!("relation \"{}\" does not exist", name.name),
        )
    })
}

/// The words of SQL for a kind, lower case.
pub fn words(kind: ObjectKind) -> &'static str {
    match kind {
        ObjectKind::Source => "source",
        ObjectKind::Table => "table",
        ObjectKind::View => "view",
        ObjectKind::MaterializedView => "materialized view",
        ObjectKind::Sink => "sink",
        ObjectKind::Schema => "schema",
        ObjectKind::Index => "index",
        ObjectKind::Column => "column",
    }
}

/// A notice for the client.
pub fn notice(sqlstate: &'static str, message: String) -> Notice {
    Notice {
        severity: "NOTICE",
        sqlstate,
        message,
        hint: None,
    }
}

/// Options of CREATE MATERIALIZED VIEW.
pub fn retain_history_ms(options: &Options) -> Result<i64, SqlError> {
    crate::catalog::object::check_options(options, &["retain_history"])?;
    match options.get("retain_history") {
        None => Ok(RETAIN_HISTORY_MS_DEFAULT),
        Some(text) => crate::catalog::object::duration_ms("retain_history", text),
    }
}

/// The schema of an `Add` arrangement of errors.
pub fn errors_desc(id: ArrangementId) -> ArrangementDesc {
    output_desc(id, &tidemill_dataflow::operator::error_schema())
}
