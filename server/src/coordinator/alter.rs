//! ALTER TABLE: a table whose rows are read or stored anew is held meanwhile, so that nobody writes to it; then everything that
//! changes goes into one commit.
//!
//! Invariant: writes to a held table wait. They go on when it is let go, and those that were planned for its old columns are
//! planned again.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use tidemill_dataflow::operator::error_schema;
use tidemill_dataflow::runtime::{Command, DataflowId};
use tidemill_planner::SqlError;
use tidemill_storage::{ArrangementDesc, StagedRun};
use tidemill_zset::{CollectionId, Delta};
use tokio::sync::oneshot;

use super::ddl::Effects;
use super::tables::WriteRequest;
use super::upgrade::Upgrade;
use super::{Coordinator, EpochWork, Handle, Message, Owner, QuietWork};
use crate::catalog::record::{object_key, put};
use crate::catalog::{Catalog, Detail, Object};
use crate::numbers::Numbers;
use crate::published::Published;

/// A table that nobody writes to.
pub struct Held {
    /// All that was written to it.
    pub published: Arc<Published>,
    /// Numbers for what is new.
    pub ids: Vec<u64>,
    /// Lets it go.
    pub hand: Hand,
}

/// Lets a table go when it is dropped, also if nobody is there any more to take the answer that it is in.
pub struct Hand {
    handle: Handle,
    table: u64,
}

impl Drop for Hand {
    fn drop(&mut self) {
        self.handle.send(Message::Release(self.table));
    }
}

/// Answer to [`Message::Hold`].
pub type HoldReply = oneshot::Sender<Result<Held, SqlError>>;

/// A request to hold a table.
pub struct Hold {
    /// Which.
    pub table: u64,
    /// How many numbers are needed.
    pub ids: usize,
    /// Gets the table when no one else holds it.
    pub reply: HoldReply,
}

/// What waits for a held table.
#[derive(Default)]
pub struct Waiting {
    writes: Vec<WriteRequest>,
    holds: Vec<Hold>,
}

/// Tables that are held.
pub type HeldTables = HashMap<u64, Waiting>;

/// What ALTER changes, all in one commit.
pub struct Alteration {
    /// The catalog that it was planned against.
    pub seen: Arc<Catalog>,
    /// The relation that is altered.
    pub target: u64,
    /// Objects as they will be, in the order of creation, the relation itself first; also new ones.
    pub changed: Vec<Object>,
    /// What goes.
    pub dropped: Vec<u64>,
    /// Where the columns of a table come from, if its rows are stored anew; counters of new ones.
    pub renumbered: Option<(Vec<Option<usize>>, Numbers)>,
    /// CHECKs came that its rows have been checked with.
    pub checked: bool,
    /// New arrangements.
    pub create: Vec<ArrangementDesc>,
    /// What is in them.
    pub staged: Vec<StagedRun>,
    /// Views that must be rebuilt.
    pub stale: Upgrade,
}

impl Coordinator {
    pub(super) fn hold(&mut self, hold: Hold) {
        if let Some(waiting) = self.held.get_mut(&hold.table) {
            waiting.holds.push(hold);
            return;
        }
        let catalog = Arc::make_mut(&mut self.catalog);
        let held = Held {
            ids: (0..hold.ids).map(|_| catalog.allocate()).collect(),
            published: self.env.publisher.pin(),
            hand: Hand {
                handle: self.handle.clone(),
                table: hold.table,
            },
        };
        self.held.insert(hold.table, Waiting::default());
        let _ = hold.reply.send(Ok(held));
        let writes = std::mem::take(&mut self.writes);
        writes.into_iter().for_each(|w| self.on_write(w));
    }

    pub(super) fn on_write(&mut self, request: WriteRequest) {
        let mut tables = request.writes.iter().filter_map(|(collection, _)| {
            let (object, _) = self.catalog.by_collection(*collection)?;
            Some(object.record.id)
        });
        let held = tables.find(|id| self.held.contains_key(id));
        match held.and_then(|id| self.held.get_mut(&id)) {
            Some(waiting) => waiting.writes.push(request),
            None => self.writes.push_back(request),
        }
    }

    pub(super) fn on_release(&mut self, table: u64) {
        let Some(waiting) = self.held.remove(&table) else {
            return;
        };
        for hold in waiting.holds {
            self.quiet_work.push_back(QuietWork::Hold(hold));
        }
        for request in waiting.writes {
            // Who was cancelled while waiting wants nothing written.
            if !request.reply.is_given_up() {
                self.handle.send(Message::Write(request));
            }
        }
    }

    pub(super) fn alter(
        &mut self,
        a: Alteration,
        next: &mut Catalog,
        effects: &mut Effects,
    ) -> Result<(), SqlError> {
        check_unchanged(&a, next)?;
        let Some(old) = next.get(a.target).cloned() else {
            return Err(super::tables::conflict());
        };
        for object in &a.changed {
            if next.get(object.record.id).is_none() {
                let name = tidemill_planner::ast::Name {
                    schema: Some(object.record.schema.clone()),
                    name: object.record.name.clone(),
                };
                let taken = next.lookup(&name).map(|o| o.record.id);
                if !taken.is_some_and(|id| a.dropped.contains(&id)) {
                    next.free_name(&name)?;
                }
                self.check_unreserved(&name)?;
            }
        }
        let new = a.changed.first().filter(|o| o.record.id == a.target);
        let moved = match new.map(|new| new.record.ids.collection) {
            Some(to) if to != old.record.ids.collection => old.record.ids.collection.zip(to),
            _ => None,
        };
        let same_columns = new.is_some_and(|new| new.columns == old.columns);
        if moved.is_some() || !same_columns {
            self.end_builds_of(&old);
        }
        for id in &a.dropped {
            if let Some(object) = next.get(*id).cloned() {
                self.drop_one(&object, false, next, effects);
            }
        }
        for object in a.changed {
            let before = next.get(object.record.id).cloned();
            super::sequences::check_named(&object, before.as_deref(), next)?;
            effects
                .changes
                .push(put(object_key(object.record.id), &object.record));
            let object = Arc::new(object);
            next.put(object.clone());
            let begins = match (&before, &object.detail) {
                (_, Detail::Table { .. }) => {
                    let rows = before.and_then(|b| b.record.ids.rows);
                    let gone = rows.filter(|rows| Some(*rows) != object.record.ids.rows);
                    effects.drop.extend(gone);
                    false
                }
                (Some(before), Detail::Index { .. }) => {
                    let rows = before.record.ids.rows;
                    let gone = rows.filter(|rows| Some(*rows) != object.record.ids.rows);
                    effects.drop.extend(gone);
                    gone.is_some()
                }
                (None, Detail::Index { .. }) => true,
                (_, Detail::MaterializedView { .. }) => moved.is_some(),
                _ => false,
            };
            let stale = a.stale.holds(object.record.id);
            if begins || stale {
                effects.end.push(object.record.id);
                if !stale {
                    effects.begin.push(object);
                }
            }
        }
        effects.checked = old.record.ids.collection.filter(|_| a.checked);
        effects.create.extend(a.create);
        effects.staged.extend(a.staged);
        if let Some((from, to)) = moved {
            self.end_queries_of(from, &altered(&old.display_name()), effects);
            effects.replaced = Some((from, to));
        }
        if let Some((from, fresh)) = a.renumbered {
            let changes = self.env.numbers.renumber(a.target, &from, &fresh);
            effects.changes.extend(changes);
        }
        self.upgrade.queue.extend(a.stale.queue);
        Ok(())
    }

    pub(super) fn end_dataflow_of(&mut self, object: u64) {
        let of = |o: &Owner| matches!(o, Owner::View(id) if *id == object);
        let found = self
            .dataflows
            .iter()
            .find(|(_, o)| of(o))
            .map(|(id, _)| *id);
        if let Some(id) = found {
            self.dataflows.remove(&id);
            self.runtime.send(Command::Drop(id));
        }
    }

    /// What is under construction was planned for the old columns.
    fn end_builds_of(&mut self, table: &Object) {
        let reads = |b: &super::build::Build| {
            b.is_under_construction() && b.depends.contains(&table.record.id)
        };
        let builds = self.builds.iter().filter(|(_, b)| reads(b));
        let ids: Vec<DataflowId> = builds.map(|(id, _)| *id).collect();
        for id in ids {
            let message = format!(
                "relation \"{}\" was altered while the statement was executed",
                table.display_name()
            );
            let e = SqlError::new("40001", message).hint("Try again.");
            self.abandon_build(id, e);
        }
    }

    /// Subscriptions to queries of a collection that comes to its end are told so.
    pub(super) fn end_queries_of(
        &self,
        collection: CollectionId,
        why: &SqlError,
        effects: &mut Effects,
    ) {
        for (id, owner) in &self.dataflows {
            let Owner::Query { errors, .. } = owner else {
                continue;
            };
            let build = self.builds.get(id);
            if build.is_some_and(|b| b.reads.contains_key(&collection)) {
                effects.told.push((*errors, row_of(why)));
            }
        }
    }

    /// What the epoch of the ALTER says besides its commit.
    pub(super) fn tell_altered(
        &mut self,
        replaced: Option<(CollectionId, CollectionId)>,
        checked: Option<CollectionId>,
        told: Vec<(CollectionId, Delta)>,
        work: &mut EpochWork,
    ) {
        for (errors, delta) in told {
            self.feed(errors, delta, work);
        }
        if let Some((from, to)) = replaced {
            self.write_log.replace(from, to);
        }
        if let Some(table) = checked {
            self.write_log.note_checks(table, work.epoch);
        }
    }
}

/// The error of following a relation that was altered.
pub fn altered(name: &str) -> SqlError {
    SqlError::new("55000", format!("relation \"{name}\" was altered"))
        .hint("Its columns are others now: subscribe again.")
}

/// An error as a row of an error relation.
fn row_of(e: &SqlError) -> Delta {
    let text = |text: &str| Arc::new(StringArray::from(vec![text.to_string()])) as ArrayRef;
    let columns = vec![text(e.sqlstate), text(&e.message), text("")];
    let row = RecordBatch::try_new(error_schema(), columns);
    Delta::insert(row.expect("an error has a code, a message and a row"))
}

/// Fails if something that the statement was planned with has changed since.
fn check_unchanged(a: &Alteration, now: &Catalog) -> Result<(), SqlError> {
    let ids = |catalog: &Catalog| -> Vec<(u64, usize)> {
        let all = catalog.dependents_of_all(&[a.target]);
        let all = all.iter().chain(catalog.get(a.target));
        all.map(|o| (o.record.id, Arc::as_ptr(o) as usize))
            .collect()
    };
    match ids(&a.seen) == ids(now) {
        true => Ok(()),
        false => Err(super::tables::conflict()),
    }
}
