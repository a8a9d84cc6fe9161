//! ALTER SEQUENCE, and numbers for which something has to be stored first: the next epoch's commit passes over them, and then they
//! are handed out.

use std::sync::Arc;

use tidemill_planner::SqlError;
use tidemill_planner::ast::{Name, ObjectKind, Sequence, SequenceOptions};
use tokio::sync::oneshot;

use super::ddl::{Effects, find, notice};
use super::{Coordinator, EpochWork};
use crate::catalog::record::{OwnedBy, object_key, put};
use crate::catalog::{Catalog, DEFAULT_SCHEMA, Detail, Object, text};
use crate::numbers::{Counted, Storing, after, last_before};
use crate::session::sequences::{missing_of, used_by};

/// What somebody wants of a sequence.
pub struct NumberRequest {
    /// Which.
    pub of: Counted,
    /// What.
    pub wanted: Wanted,
    /// Where the numbers go, once nobody can get them again.
    pub reply: oneshot::Sender<Result<Vec<i64>, SqlError>>,
}

/// See [`NumberRequest`].
#[derive(Clone, Copy, Debug)]
pub enum Wanted {
    /// So many numbers.
    Next(usize),
    /// That it goes on with this number.
    Set(Option<i64>),
}

/// ALTER SEQUENCE.
pub struct AlterSequence {
    /// Which.
    pub name: Name,
    /// Not an error if it is missing.
    pub if_exists: bool,
    /// What is said of it.
    pub options: SequenceOptions,
    /// OWNED BY, looked up.
    pub owned_by: Option<Option<OwnedBy>>,
}

impl Coordinator {
    pub(super) fn alter_sequence(
        &mut self,
        alter: AlterSequence,
        next: &mut Catalog,
        effects: &mut Effects,
    ) -> Result<(), SqlError> {
        let (name, options) = (&alter.name, &alter.options);
        let schema = name.schema.as_deref().unwrap_or(DEFAULT_SCHEMA);
        let object = match (next.lookup(name), Counted::find(next, schema, &name.name)) {
            (None, Some(of)) => return self.alter_numbering(of, options, effects),
            _ => match find(next, ObjectKind::Sequence, name) {
                Err(e) if alter.if_exists && e.sqlstate == "42P01" => {
                    let message = format!("relation \"{}\" does not exist, skipping", name.name);
                    effects.notices.push(notice("00000", message));
                    return Ok(());
                }
                other => other?,
            },
        };
        let (Detail::Sequence(old), Some(of)) = (&object.detail, Counted::of(object)) else {
            return Err(SqlError::internal("not a sequence"));
        };
        let new = old.altered(options)?;
        let storing = match options.restart {
            Some(with) => {
                let first = new.restart(with)?;
                Some(self.env.numbers.set(&of, Some(first)))
            }
            None if new.numbering == old.numbering => None,
            None => {
                let goes_on = |next| goes_on(next, old, &new);
                Some(self.env.numbers.change(&of, goes_on)?)
            }
        };
        let mut changed = Object::clone(object);
        changed.record.sql = new.sql(&text::quoted(&changed.record.name));
        changed.detail = Detail::Sequence(new);
        if let Some(owner) = alter.owned_by {
            changed.record.owned_by = owner;
            check_named(&changed, Some(object), next)?;
        }
        effects
            .changes
            .push(put(object_key(changed.record.id), &changed.record));
        next.put(Arc::new(changed));
        storing.into_iter().for_each(|s| store(s, effects));
        Ok(())
    }

    /// ALTER SEQUENCE of what numbers a column: it may only begin anew.
    fn alter_numbering(
        &mut self,
        of: Counted,
        options: &SequenceOptions,
        effects: &mut Effects,
    ) -> Result<(), SqlError> {
        let only = SequenceOptions {
            restart: options.restart,
            ..SequenceOptions::default()
        };
        let Some(with) = options.restart.filter(|_| *options == only) else {
            let message = format!(
                "\"{}\" belongs to a column: only RESTART is supported",
                of.name
            );
            return Err(SqlError::unsupported(message));
        };
        let sequence = Sequence {
            data_type: tidemill_zset::schema::SqlType::Int8,
            numbering: of.numbering.clone(),
        };
        let first = sequence.restart(with)?;
        store(self.env.numbers.set(&of, Some(first)), effects);
        Ok(())
    }

    /// Does what is wanted of sequences with the epoch that is being cut.
    pub(super) fn cut_numbers(&mut self, work: &mut EpochWork) {
        for NumberRequest { of, wanted, reply } in std::mem::take(&mut self.numbers_wanted) {
            let numbers = &self.env.numbers;
            let done = match (self.catalog.get(of.object), wanted) {
                (None, _) => Err(gone(&of.name)),
                (Some(_), Wanted::Next(count)) => numbers.reserve(&of, count),
                (Some(_), Wanted::Set(next)) => Ok((vec![], numbers.set(&of, next))),
            };
            match done {
                Err(e) => {
                    let _ = reply.send(Err(e));
                }
                Ok((given, storing)) => {
                    work.is_awaited = true;
                    work.commit.catalog.push(storing.change());
                    work.after.push(Box::new(move |c, _| {
                        c.env.numbers.passed(&storing);
                        let _ = reply.send(Ok(given));
                    }));
                }
            }
        }
    }
}

fn store(storing: Storing, effects: &mut Effects) {
    effects.changes.push(storing.change());
    effects
        .after
        .push(Box::new(move |c, _| c.env.numbers.passed(&storing)));
}

/// The next number of a sequence that counts otherwise from now on: the one after the last that was given.
fn goes_on(next: Option<i64>, old: &Sequence, new: &Sequence) -> Result<Option<i64>, SqlError> {
    let Some(last) = last_before(&old.numbering, next) else {
        let first = match next {
            Some(next) if next != old.numbering.start => next,
            _ => new.numbering.start,
        };
        return new.restart(Some(first)).map(Some);
    };
    new.restart(Some(last))?;
    Ok(after(&new.numbering, last))
}

fn gone(name: &str) -> SqlError {
    SqlError::new("42P01", format!("relation \"{name}\" does not exist"))
}

/// DEFAULTs name sequences by text, so that one that they name stays as it is. `going`: tables that go with it.
pub(super) fn check_unused(
    verb: &str,
    object: &Object,
    catalog: &Catalog,
    going: &[u64],
) -> Result<(), SqlError> {
    if !matches!(object.detail, Detail::Sequence(_) | Detail::Table { .. }) {
        return Ok(());
    }
    let users = used_by(catalog, object, going);
    if users.is_empty() {
        return Ok(());
    }
    let name = format!("{} {}", object.record.kind.words(), object.display_name());
    let list: Vec<String> = users
        .iter()
        .map(|user| format!("{user} depends on {name}"))
        .collect();
    let message = format!("cannot {verb} {name} because other objects depend on it");
    Err(SqlError::new("2BP01", message)
        .detail(list.join("\n"))
        .hint("ALTER TABLE … ALTER COLUMN … DROP DEFAULT first."))
}

/// What DEFAULTs and OWNED BY name must be there still, when an object is made or altered. What it named `before` was there then.
pub(super) fn check_named(
    object: &Object,
    before: Option<&Object>,
    catalog: &Catalog,
) -> Result<(), SqlError> {
    if let Some(name) = missing_of(object, before, catalog) {
        return Err(gone(&name));
    }
    let Some(owner) = &object.record.owned_by else {
        return Ok(());
    };
    let table = catalog.get(owner.table);
    let has_column = table.is_some_and(|t| t.columns.index_of(&owner.column).is_ok());
    let same = before.is_some_and(|b| b.record.owned_by == object.record.owned_by);
    match has_column || same {
        true => Ok(()),
        false => Err(super::tables::conflict()),
    }
}
