//! DDL: objects come and go between two epochs; their catalog rows ride in the next epoch's commit, and the
//! statement is answered once that is published.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use tidemill_connectors::sink::FileSink;
use tidemill_planner::SqlError;
use tidemill_planner::ast::{Name, ObjectKind, Options};
use tidemill_storage::{ArrangementChange, ArrangementDesc, OffsetChange, StagedRun};
use tidemill_zset::{ArrangementId, CollectionId, Delta};

use super::alter::Alteration;
use super::build::stored_desc;
use super::ids::{source_ids, table_ids};
use super::rename::check_seen;
use super::reply::Reply;
use super::sequences::AlterSequence;
use super::{AfterPublish, Coordinator};
use crate::catalog::record::{Kind, NEXT_ID_KEY, SchemaRecord, object_key, put, schema_key};
use crate::catalog::{Catalog, Change, Detail, Object, SYSTEM_SCHEMAS};
use crate::session::Notice;

/// History kept where `retain_history` doesn't say: one minute.
pub const RETAIN_HISTORY_MS_DEFAULT: i64 = 60_000;

/// Answer to DDL: notices for the client.
pub type DdlReply = Reply<Vec<Notice>>;

/// A statement that changes the catalog, checked by the session against the catalog it saw.
pub enum Ddl {
    /// CREATE SCHEMA
    CreateSchema {
        /// Its name, which users may give, or that of a session's temporary objects.
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
        /// What a table without a key has in it from the beginning.
        rows: Option<RecordBatch>,
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
    /// ALTER of columns and constraints.
    Alter(Box<Alteration>),
    /// ALTER SEQUENCE
    AlterSequence(Box<AlterSequence>),
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

/// What a statement changes besides the catalog in memory. Nothing of it has happened before all of the statement is known to be
/// possible.
#[derive(Default)]
pub(super) struct Effects {
    pub(super) changes: Vec<Change>,
    pub(super) create: Vec<ArrangementDesc>,
    pub(super) drop: Vec<ArrangementId>,
    pub(super) offsets: Vec<OffsetChange>,
    /// Indexes and views whose dataflows end.
    pub(super) end: Vec<u64>,
    /// Indexes and views whose dataflows begin.
    pub(super) begin: Vec<Arc<Object>>,
    /// What is in new arrangements.
    pub(super) staged: Vec<StagedRun>,
    pub(super) rows: Vec<ArrangementChange>,
    /// The collection of a table, and the one that takes its place.
    pub(super) replaced: Option<(CollectionId, CollectionId)>,
    /// A table to which nothing may be written that was checked before.
    pub(super) checked: Option<CollectionId>,
    /// Changes for followers alone.
    pub(super) told: Vec<(CollectionId, Delta)>,
    pub(super) after: Vec<AfterPublish>,
    pub(super) notices: Vec<Notice>,
}

impl Coordinator {
    pub(super) fn do_ddl(&mut self, ddl: Ddl, reply: DdlReply) {
        if !reply.begin() {
            return;
        }
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
        if !effects.end.is_empty() || !effects.begin.is_empty() {
            effects.end.iter().for_each(|id| self.end_dataflow_of(*id));
            effects.begin.iter().for_each(|o| self.resume_view(o));
            self.recount_inputs();
        }
        let mut work = self.begin_epoch();
        self.tell_altered(effects.replaced, effects.checked, effects.told, &mut work);
        work.has_writes = !effects.create.is_empty();
        work.commit.staged = effects.staged;
        work.commit.changes.extend(effects.rows);
        work.catalog = Some(self.catalog.clone());
        work.commit.catalog.extend(effects.changes);
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
                rows,
            } => {
                check_seen(&object.record.depends, &seen, next)?;
                let id = self.create(*object, if_not_exists, or_replace, file, next, effects)?;
                let made = id.zip(rows).filter(|(_, rows)| rows.num_rows() > 0);
                if let Some((id, rows)) = made {
                    effects.rows.push(first_rows(id, rows, next)?);
                }
                Ok(())
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
            Ddl::Alter(alteration) => self.alter(*alteration, next, effects),
            Ddl::AlterSequence(alter) => self.alter_sequence(*alter, next, effects),
            Ddl::Comment {
                kind,
                name,
                column,
                comment,
            } => set_comment(kind, &name, column, comment, next, effects),
        }
    }

    /// The id of what is new.
    fn create(
        &mut self,
        mut object: Object,
        if_not_exists: bool,
        or_replace: bool,
        file: Option<Box<FileSink>>,
        next: &mut Catalog,
        effects: &mut Effects,
    ) -> Result<Option<u64>, SqlError> {
        let name = Name {
            schema: Some(object.record.schema.clone()),
            name: object.record.name.clone(),
        };
        if let Some(old) = next.lookup(&name).cloned() {
            if if_not_exists {
                let message = format!("relation \"{}\" already exists, skipping", name.name);
                effects.notices.push(notice("42P07", message));
                return Ok(None);
            }
            if or_replace && old.record.kind == Kind::View {
                self.check_unused_by_builds(&old)?;
                return replace_view(&old, object, next, effects).map(|()| None);
            }
        }
        next.free_name(&name)?;
        self.check_unreserved(&name)?;
        super::sequences::check_named(&object, None, next)?;
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
        let id = object.record.id;
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
            Detail::Sink { .. } => {
                let held = self.follow_for_sink(&object, next);
                effects.after.push(Box::new(move |c, _| {
                    c.start_sink(&object, file.map(|f| *f), None);
                    drop(held);
                }));
            }
            _ => {}
        }
        Ok(Some(id))
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
        effects.begin.push(index);
        Ok(())
    }
}

/// The rows of a new table, which has no key.
fn first_rows(id: u64, rows: RecordBatch, next: &Catalog) -> Result<ArrangementChange, SqlError> {
    let arrangement = next.get(id).and_then(|table| table.record.ids.rows);
    Ok(ArrangementChange {
        arrangement: arrangement.ok_or_else(|| SqlError::internal("a table has rows"))?,
        hashes: vec![],
        delta: Delta::insert(rows),
    })
}

fn create_schema(
    name: String,
    if_not_exists: bool,
    next: &mut Catalog,
    effects: &mut Effects,
) -> Result<(), SqlError> {
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
    check_replaceable(old, &new, next)?;
    new.record.id = old.record.id;
    new.record.comment = old.record.comment.clone();
    new.record.column_comments = old.record.column_comments.clone();
    effects
        .changes
        .push(put(object_key(new.record.id), &new.record));
    next.put(Arc::new(new));
    Ok(())
}

/// Views over a view read its query when they are read themselves, so that it may be another one; what stores rows was
/// built from the old one.
fn check_replaceable(old: &Object, new: &Object, next: &Catalog) -> Result<(), SqlError> {
    let mut above = vec![];
    let mut todo = vec![old.record.id];
    while let Some(id) = todo.pop() {
        for object in next.dependents(id) {
            if !above.contains(&object.record.id) {
                above.push(object.record.id);
                todo.push(object.record.id);
            }
            if object.record.kind != Kind::View {
                return Err(SqlError::new(
                    "2BP01",
                    format!(
                        "cannot replace view {} because other objects depend on it",
                        old.display_name()
                    ),
                )
                .detail(format!(
                    "{} stores what it was built from.",
                    object.display_name()
                ))
                .hint("Drop it first."));
            }
        }
    }
    if new
        .record
        .depends
        .iter()
        .any(|id| *id == old.record.id || above.contains(id))
    {
        let message = format!("infinite recursion detected in view {}", old.display_name());
        return Err(SqlError::new("42P17", message));
    }
    if !above.is_empty()
        && old.broken().is_none()
        && new.columns.fields().len() > old.columns.fields().len()
    {
        return Err(SqlError::new(
            "2BP01",
            format!(
                "cannot add columns to view {} because other views depend on it",
                old.display_name()
            ),
        ));
    }
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
        ObjectKind::Sequence => SqlError {
            message: format!("sequence \"{}\" does not exist", name.name),
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
            | (ObjectKind::Sequence, Kind::Sequence)
    );
    if right {
        return Ok(object);
    }
    let real = object.record.kind.words();
    Err(SqlError::new(
        "42809",
        format!("\"{}\" is not {}", name.name, with_article(kind.words())),
    )
    .hint(format!(
        "Use DROP {} to remove {}.",
        real.to_uppercase(),
        with_article(real)
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

/// "a table", "an index".
pub fn with_article(words: &str) -> String {
    let article = match words.starts_with(['a', 'e', 'i', 'o', 'u']) {
        true => "an",
        false => "a",
    };
    format!("{article} {words}")
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
