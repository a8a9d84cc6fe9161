//! Published versions: what readers see. One value holds the catalog and the contents of all
//! collections at one epoch; a statement pins one and so sees one moment of everything.

use std::sync::Arc;

use parking_lot::RwLock;
use tidemill_connectors::source::Offsets;
use tidemill_storage::StoreVersion;
use tidemill_zset::Epoch;
use tokio::sync::watch;

use crate::catalog::{Catalog, Object};
use crate::offsets::SourceOffsets;

/// Everything at one moment. Immutable.
#[derive(Clone)]
pub struct Published {
    /// First epoch that is not complete: reads of "now" happen at `upper - 1`.
    pub upper: Epoch,
    /// Contents.
    pub store: StoreVersion,
    /// Names.
    pub catalog: Arc<Catalog>,
    /// How far the input of sources that aren't recorded has been read.
    pub offsets: Arc<SourceOffsets>,
}

impl Published {
    /// The newest epoch that can be read.
    pub fn now(&self) -> Epoch {
        self.upper - 1
    }

    /// How far the input of a source that isn't recorded has been read; nothing: not at all.
    pub fn offsets_of(&self, source: &Object) -> Offsets {
        let offsets = source.record.ids.offsets;
        offsets
            .and_then(|id| self.offsets.of(id))
            .unwrap_or_default()
    }
}

/// Holds the current [`Published`]; the coordinator swaps it, readers pin it.
pub struct Publisher {
    current: RwLock<Arc<Published>>,
    upper: watch::Sender<Epoch>,
}

impl Publisher {
    /// Starts with what recovery found.
    pub fn new(first: Published) -> Self {
        let (upper, _) = watch::channel(first.upper);
        Publisher {
            current: RwLock::new(Arc::new(first)),
            upper,
        }
    }

    /// Pins the current version.
    pub fn pin(&self) -> Arc<Published> {
        self.current.read().clone()
    }

    /// Replaces the current version and wakes everyone who waits for its epoch.
    pub fn publish(&self, next: Published) {
        let upper = next.upper;
        *self.current.write() = Arc::new(next);
        self.upper.send_replace(upper);
    }

    /// Follows `upper`.
    pub fn watch(&self) -> watch::Receiver<Epoch> {
        self.upper.subscribe()
    }
}
