//! Publication: committed epochs become visible to readers, followers and waiting writers, in that order.

use std::sync::Arc;

use tidemill_storage::StoreVersion;

use super::Coordinator;
use crate::published::Published;

impl Coordinator {
    /// The committer has made the epochs in `committing` durable.
    pub(super) fn publish(&mut self, version: StoreVersion) {
        self.env.fail.pass("before_publish");
        let group = std::mem::take(&mut self.committing);
        let last = group.last().expect("only a started commit finishes");
        assert_eq!(version.epoch(), last.epoch, "commits finish in order");
        let (epoch, cut_at) = (last.epoch, last.cut_at);
        let before = self.env.publisher.pin();
        let mut published = Published {
            upper: (epoch + 1).max(before.upper),
            store: version,
            ..before.as_ref().clone()
        };
        let mut after = Vec::new();
        let epochs: Vec<_> = group.iter().map(|work| work.epoch).collect();
        for work in group {
            for (collection, deltas) in work.deltas {
                self.env.changes.push(collection, work.epoch, deltas);
            }
            if !work.offsets.is_empty() {
                Arc::make_mut(&mut published.offsets).apply(work.offsets);
            }
            published.catalog = work.catalog.unwrap_or(published.catalog);
            after.extend(work.after);
        }
        self.env.publisher.publish(published);
        self.epoch_takes = (self.epoch_takes * 7 + cut_at.elapsed()) / 8;
        self.upper_moved = std::time::Instant::now();
        let published: Arc<Published> = self.env.publisher.pin();
        for epoch in epochs {
            self.env.status.published(epoch);
        }
        for after in after {
            after(self, &published);
        }
    }
}
