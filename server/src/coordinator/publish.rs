//! Publication: a committed epoch becomes visible to readers, followers and waiting writers, in that order.

use std::sync::Arc;

use tidemill_storage::StoreVersion;

use super::Coordinator;
use crate::published::Published;

impl Coordinator {
    /// The committer has made the epoch in `committing` durable.
    pub(super) fn publish(&mut self, version: StoreVersion) {
        self.env.fail.pass("before_publish");
        let work = self
            .committing
            .take()
            .expect("only a started commit finishes");
        assert_eq!(version.epoch(), work.epoch, "commits finish in order");
        for (collection, deltas) in work.deltas {
            self.env.changes.push(collection, work.epoch, deltas);
        }
        let before = self.env.publisher.pin();
        let mut offsets = before.offsets.clone();
        if !work.offsets.is_empty() {
            Arc::make_mut(&mut offsets).apply(work.offsets);
        }
        let published = Published {
            upper: (work.epoch + 1).max(before.upper),
            store: version,
            catalog: work.catalog.unwrap_or_else(|| before.catalog.clone()),
            offsets,
        };
        self.env.publisher.publish(published);
        self.epoch_takes = (self.epoch_takes * 7 + work.cut_at.elapsed()) / 8;
        self.upper_moved = std::time::Instant::now();
        let published: Arc<Published> = self.env.publisher.pin();
        self.env.status.published(work.epoch);
        for after in work.after {
            after(self, &published);
        }
    }
}
