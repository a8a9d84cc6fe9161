//! Which columns of a source somebody reads.
//!
//! The reader of a source whose rows aren't recorded leaves out what nobody reads. Live dataflows tell which columns
//! they read; whoever follows a collection gets whole rows. That fewer columns are read holds for the batches begun from then
//! on. That more are read can't wait for batches with fewer: the reader starts again where the last epoch ended.
//!
//! Invariant: no row lacks a column that is read, which is checked for every batch.

use tidemill_connectors::source::Wanted;
use tidemill_zset::{CollectionId, Epoch};

use super::Coordinator;
use crate::catalog::{Object, Rows};
use crate::changes::Follower;

impl Coordinator {
    /// Follows a collection from `upper` on, its rows whole. Nothing is under way, or it is followed already.
    pub(super) fn follow(&mut self, collection: CollectionId, upper: Epoch) -> Follower {
        self.want_whole_rows(collection);
        self.env.changes.follow(collection, upper)
    }

    fn want_whole_rows(&mut self, collection: CollectionId) {
        // Rows in error are always whole.
        let Some((object, Rows::Data)) = self.catalog.by_collection(collection) else {
            return;
        };
        let object = object.clone();
        let source = self.sources.get(&object.record.id);
        if source.is_some_and(|source| !source.want(None)) {
            self.restart_source(&object);
        }
    }

    /// Tells the readers of all sources which columns are read.
    pub(super) fn tell_wanted_columns(&self) {
        for (id, source) in &self.sources {
            let object = self.catalog.get(*id).filter(|_| source.may_leave_out());
            if let Some(wanted) = object.and_then(|o| self.wanted_columns(o)) {
                source.want(Some(wanted));
            }
        }
    }

    /// `None`: all.
    fn wanted_columns(&self, source: &Object) -> Option<Wanted> {
        let ids = &source.record.ids;
        let collection = ids.collection.filter(|_| ids.rows.is_none())?;
        if self.env.changes.is_followed(collection) {
            return None;
        }
        let read = self.read_by_dataflows.get(&collection);
        let is_read = |column| read.is_some_and(|read| read.contains(&column));
        let wanted: Wanted = (0..source.columns.fields().len()).map(is_read).collect();
        wanted.contains(&false).then_some(wanted)
    }

    /// Ends the process, before anything of the epoch is committed, if a batch of `source` lacks a column that is read.
    pub(super) fn check_columns(&mut self, source: &Object, columns: &Wanted) {
        let Some(wanted) = self.wanted_columns(source) else {
            self.failure = Some(format!("rows of {} aren't whole", source.display_name()));
            return;
        };
        let missing = (0..columns.len()).find(|column| wanted[*column] && !columns[*column]);
        if let Some(missing) = missing {
            self.failure = Some(format!(
                "rows of {} lack column {}",
                source.display_name(),
                source.columns.field(missing).name()
            ));
        }
    }
}
