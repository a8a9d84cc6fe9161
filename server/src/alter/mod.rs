//! What ALTER TABLE makes of a table: its new definition, where each of its columns comes from, and what goes along.
//!
//! The actions of a statement are taken in PostgreSQL's order, not in that in which they stand: what is dropped goes first, then types change,
//! columns come, constraints come. The result is written out as a CREATE TABLE, so that a table that was altered is one like
//! any other. `dependents` says what becomes of those who read it.

pub mod dependents;
mod draft;

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemill_planner::SqlError;
use tidemill_planner::ast::{AlterAction, Unique, parse};
use tidemill_planner::definition::{ChangedColumns, index_sql, view_sql};
use tidemill_zset::schema::SqlType;
use tidemill_zset::{ArrangementId, CollectionId};

use crate::catalog::{Catalog, Detail, Object};
use crate::define::Definer;
use crate::session::Notice;
use dependents::{Followed, Readers};
use draft::Draft;

/// Where the values of a column come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    /// The column of that number as it is.
    Column(usize),
    /// The column of that number as another type, or an expression instead of it.
    Converted(usize, Option<String>),
    /// Its default.
    New,
}

impl From {
    /// The column that it was.
    pub fn column(&self) -> Option<usize> {
        match self {
            From::Column(n) | From::Converted(n, _) => Some(*n),
            From::New => None,
        }
    }
}

/// What ALTER TABLE makes of a table and of what depends on it.
pub struct Altered {
    /// The table.
    pub old: Arc<Object>,
    /// The table as it will be.
    pub new: Object,
    /// Of each of its columns.
    pub from: Vec<From>,
    /// Something is other than it was.
    pub touched: bool,
    /// Its rows are stored anew.
    pub rewritten: bool,
    /// CHECKs have to hold for the rows that are there.
    pub checked: bool,
    /// The PRIMARY KEY has to be one.
    pub key_checked: bool,
    /// Indexes that are built anew.
    pub indexes: Vec<Object>,
    /// Those that stay and name their columns anew.
    pub renamed_indexes: Vec<Object>,
    /// What becomes of views.
    pub followed: Followed,
    /// What goes.
    pub dropped: Vec<u64>,
    /// What the client is told.
    pub notices: Vec<Notice>,
}

impl Altered {
    /// The rows have to be read.
    pub fn reads_rows(&self) -> bool {
        self.rewritten || self.checked || self.key_checked || !self.indexes.is_empty()
    }
}

/// Works out what `actions` make of the table `old`. `ids` gives the numbers of what is new.
pub fn alter(
    definer: &Definer,
    old: &Arc<Object>,
    actions: &[AlterAction],
    ids: &mut dyn FnMut() -> u64,
) -> Result<Altered, SqlError> {
    let catalog = definer.catalog.clone();
    let mut draft = Draft::of(&catalog, old)?;
    draft.apply(definer, actions)?;
    let mut new = draft.object(definer)?;
    let from = draft.sources();
    let fields = || old.columns.fields().iter().zip(new.columns.fields());
    let as_it_was = from.iter().enumerate().all(|(n, f)| *f == From::Column(n))
        && from.len() == old.columns.fields().len();
    let rewritten = !as_it_was
        || fields().any(|(a, b)| a.is_nullable() != b.is_nullable())
        || key(old) != key(&new);
    let keyed: Vec<&From> = key(&new).iter().map(|n| &from[*n]).collect();
    let key_before: Vec<From> = key(old).iter().map(|n| From::Column(*n)).collect();
    let key_checked = !keyed.is_empty() && !keyed.into_iter().eq(&key_before);
    if rewritten {
        new.record.ids.collection = Some(CollectionId(ids()));
        new.record.ids.rows = Some(ArrangementId(ids()));
    }
    let mut next = Catalog::clone(&catalog);
    next.put(Arc::new(new.clone()));
    let mut dropped = draft.dropped_indexes();
    dropped.iter().for_each(|id| next.remove(*id));
    let (mut indexes, mut renamed_indexes) = (vec![], vec![]);
    for index in draft.kept_indexes() {
        let mut renewed = index_on(&index, &new)?;
        if rewritten {
            renewed.record.ids.rows = Some(ArrangementId(ids()));
            indexes.push(renewed.clone());
        } else if renewed.record.sql != index.record.sql {
            renamed_indexes.push(renewed.clone());
        }
        next.put(Arc::new(renewed));
    }
    for unique in draft.new_uniques() {
        let mut index = crate::index::of_constraint(&next, &new, unique)?;
        index.record.id = ids();
        index.record.ids.rows = Some(ArrangementId(ids()));
        indexes.push(index.clone());
        next.put(Arc::new(index));
    }
    new.record.sql = draft.text(&new, &uniques_on(&next, &new));
    next.put(Arc::new(new.clone()));
    let columns = ChangedColumns {
        schema: new.record.schema.clone(),
        name: new.record.name.clone(),
        before: names(old),
        after: names(&new)
            .into_iter()
            .zip(&from)
            .map(|(name, from)| (name, from.column()))
            .collect(),
    };
    let readers = Readers::new(definer, old, columns);
    let changes = rewritten || names(old) != names(&new);
    if changes {
        readers.check_whole()?;
        readers.check_sinks()?;
    }
    let (cascaded, told) = readers.check_used(draft.gone(), &draft.converted())?;
    draft.notices.extend(told);
    cascaded.iter().for_each(|id| next.remove(*id));
    dropped.extend(cascaded);
    let followed = match changes {
        true => readers.follow(&new, &from, next)?,
        false => Followed::default(),
    };
    Ok(Altered {
        old: old.clone(),
        touched: draft.touched,
        checked: draft.has_unchecked(),
        key_checked,
        new,
        from,
        rewritten,
        indexes,
        renamed_indexes,
        followed,
        dropped,
        notices: draft.notices,
    })
}

/// ALTER VIEW … RENAME COLUMN.
pub fn rename_view_column(
    definer: &Definer,
    old: &Arc<Object>,
    (from, to): (&str, &str),
) -> Result<Altered, SqlError> {
    let Some((number, _)) = old.columns.column_with_name(from) else {
        let message = format!("column \"{from}\" does not exist");
        return Err(SqlError::new("42703", message));
    };
    let mut after = names(old);
    if after.iter().any(|n| n == to) {
        let table = &old.record.name;
        let message = format!("column \"{to}\" of relation \"{table}\" already exists");
        return Err(SqlError::new("42701", message));
    }
    after[number] = to.to_string();
    let mut new = Object::clone(old);
    let fields = old.columns.fields().iter().zip(&after);
    let fields = fields.map(|(f, name)| f.as_ref().clone().with_name(name));
    new.columns = tidemill_zset::delta::schema_of(fields.collect());
    new.record.sql = view_sql(&old.record.sql, &after)?;
    renamed(&mut new.record.planned_names, from, to, &names(old));
    if let Some(comment) = new.record.column_comments.remove(from) {
        new.record.column_comments.insert(to.into(), comment);
    }
    let mut next = Catalog::clone(&definer.catalog);
    next.put(Arc::new(new.clone()));
    let mut changed = vec![];
    for index in definer.catalog.indexes_on(old.record.id) {
        let renewed = index_on(index, &new)?;
        next.put(Arc::new(renewed.clone()));
        changed.push(renewed);
    }
    let columns = ChangedColumns {
        schema: new.record.schema.clone(),
        name: new.record.name.clone(),
        before: names(old),
        after: after.into_iter().zip((0..).map(Some)).collect(),
    };
    let from: Vec<From> = (0..names(old).len()).map(From::Column).collect();
    let readers = Readers::new(definer, old, columns);
    readers.check_whole()?;
    readers.check_sinks()?;
    let followed = readers.follow(&new, &from, next)?;
    Ok(Altered {
        old: old.clone(),
        new,
        from,
        touched: true,
        rewritten: false,
        checked: false,
        key_checked: false,
        indexes: vec![],
        renamed_indexes: changed,
        followed,
        dropped: vec![],
        notices: vec![],
    })
}

/// Notes that the column `from` is called `to`, of columns with the names `all` before.
fn renamed(planned: &mut BTreeMap<String, String>, from: &str, to: &str, all: &[String]) {
    let name = planned.remove(from).unwrap_or_else(|| from.to_string());
    if name != to {
        planned.insert(to.to_string(), name);
    }
    distinct(planned, all.iter().filter(|n| *n != from), to);
}

/// Plans must not call two columns the same: gives the column `name` another name for plans if one of `others` has it.
fn distinct<'n>(
    planned: &mut BTreeMap<String, String>,
    others: impl Iterator<Item = &'n String>,
    name: &str,
) {
    let taken: Vec<String> = others
        .map(|n| planned.get(n).unwrap_or(n).clone())
        .collect();
    let own = planned.get(name).cloned().unwrap_or_else(|| name.into());
    if taken.contains(&own) {
        let numbered = (2u64..).map(|n| format!("{own}#{n}"));
        let free = numbered.into_iter().find(|n| !taken.contains(n));
        planned.extend(free.map(|free| (name.to_string(), free)));
    }
}

fn names(object: &Object) -> Vec<String> {
    let fields = object.columns.fields().iter();
    fields.map(|f| f.name().clone()).collect()
}

fn key(table: &Object) -> &[usize] {
    match &table.detail {
        Detail::Table { primary_key, .. } => primary_key,
        _ => &[],
    }
}

/// The UNIQUEs of a table, with the names of their indexes.
fn uniques_on(catalog: &Catalog, table: &Object) -> Vec<Unique> {
    let all = catalog.indexes_on(table.record.id);
    let constraints = all.filter(|i| i.record.constraint);
    let unique = |index: &Arc<Object>| match &index.detail {
        Detail::Index {
            columns,
            unique: Some(nulls),
            ..
        } => Some(Unique {
            name: Some(index.record.name.clone()),
            columns: columns.iter().map(|c| names(table)[*c].clone()).collect(),
            nulls: *nulls,
        }),
        _ => None,
    };
    constraints.filter_map(unique).collect()
}

/// An index whose columns have the names that `index` was given by its draft, on the object as it is now.
fn index_on(index: &Object, on: &Object) -> Result<Object, SqlError> {
    let Detail::Index {
        columns, unique, ..
    } = &index.detail
    else {
        return Err(SqlError::internal("not an index"));
    };
    let all = names(on);
    let columns: Vec<String> = columns.iter().map(|c| all[*c].clone()).collect();
    let mut renewed = index.clone();
    renewed.record.sql = index_sql(
        Some(&index.record.name),
        (&on.record.schema, &on.record.name),
        &columns,
        *unique,
    );
    renewed.detail = crate::index::detail(on, &columns, *unique)?;
    Ok(renewed)
}

/// A type's name without its length.
fn plain(ty: &SqlType) -> String {
    match ty {
        SqlType::Numeric(..) => "numeric".into(),
        SqlType::Varchar(_) => "character varying".into(),
        SqlType::Char(_) => "character".into(),
        other => other.to_string(),
    }
}

/// Reads a statement from its text.
fn statement(sql: &str) -> Result<tidemill_planner::ast::Statement, SqlError> {
    let parsed = parse(sql)?.into_iter().next();
    parsed
        .map(|p| p.statement)
        .ok_or_else(|| SqlError::internal("a statement has text"))
}
