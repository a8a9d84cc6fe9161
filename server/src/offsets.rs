//! Offsets of the sources whose rows aren't recorded, as part of a published version: a reader of the version
//! reads the input again exactly up to them.
//!
//! Invariant: a value never changes once it is published. A commit changes a few entries of a source that may
//! have very many (one per file), so entries lie in layers that versions share: a change adds a small layer, and layers
//! are put together as they become alike in size, which costs each entry a logarithmic number of moves.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemill_connectors::source::Offsets;
use tidemill_storage::{OffsetChange, Store, StoreError};

use crate::catalog::{Catalog, Detail};

/// Entries that changed; `None` is an entry that went.
type Layer = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// The offsets of all unrecorded sources at one epoch. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct SourceOffsets(BTreeMap<u64, Layers>);

/// Oldest first; each is at least twice as large as the next, and only the first holds no removals.
#[derive(Clone, Debug, Default)]
struct Layers(Vec<Arc<Layer>>);

impl SourceOffsets {
    /// What the last commit says.
    pub fn load(catalog: &Catalog, store: &Store) -> Result<SourceOffsets, StoreError> {
        let mut all = SourceOffsets::default();
        for object in catalog.objects() {
            let ids = &object.record.ids;
            let (Detail::Source { .. }, None, Some(source)) =
                (&object.detail, ids.rows, ids.offsets)
            else {
                continue;
            };
            let entries = store.offsets(source)?.into_iter();
            all.apply(entries.map(|(key, value)| OffsetChange {
                source,
                key,
                value: Some(value),
            }));
        }
        Ok(all)
    }

    /// Applies the changes of one commit. A source that is left without entries is forgotten.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = OffsetChange>) {
        let mut by_source: BTreeMap<u64, Layer> = BTreeMap::new();
        for change in changes {
            let layer = by_source.entry(change.source).or_default();
            layer.insert(change.key, change.value);
        }
        for (source, layer) in by_source {
            let layers = self.0.entry(source).or_default();
            layers.push(layer);
            if layers.0.iter().all(|l| l.is_empty()) {
                self.0.remove(&source);
            }
        }
    }

    /// All entries of `source`; `None` if it has none: nothing of its input has been committed.
    pub fn of(&self, source: u64) -> Option<Offsets> {
        let mut sum = Layer::new();
        for layer in &self.0.get(&source)?.0 {
            sum.extend(layer.iter().map(|(k, v)| (k.clone(), v.clone())));
        }
        let entries = sum.into_iter().filter_map(|(k, v)| Some((k, v?)));
        Some(entries.collect())
    }

    /// Something of the input of `source` has been committed.
    pub fn has(&self, source: u64) -> bool {
        self.0.contains_key(&source)
    }
}

impl Layers {
    fn push(&mut self, mut top: Layer) {
        while let Some(below) = self.0.last()
            && below.len() < 2 * top.len()
        {
            let mut sum = Layer::clone(below);
            sum.append(&mut top);
            top = sum;
            self.0.pop();
        }
        if self.0.is_empty() {
            top.retain(|_, value| value.is_some());
        }
        self.0.push(Arc::new(top));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};

    #[test]
    fn layers_hold_what_a_map_holds_and_old_versions_stay() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(5);
        let mut offsets = SourceOffsets::default();
        let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        let mut held = Vec::new();
        let listed = |model: &BTreeMap<Vec<u8>, Vec<u8>>| -> Offsets {
            model.iter().map(|(k, v)| (k.clone(), v.clone())).collect()
        };
        for step in 0..500u32 {
            let mut changes = Vec::new();
            for _ in 0..rng.random_range(1..4) {
                let key = rng.random_range(0..200u16).to_be_bytes().to_vec();
                let value = rng.random_bool(0.7).then(|| step.to_le_bytes().to_vec());
                match &value {
                    Some(v) => model.insert(key.clone(), v.clone()),
                    None => model.remove(&key),
                };
                changes.push(OffsetChange {
                    source: 3,
                    key,
                    value,
                });
            }
            offsets.apply(changes);
            assert_eq!(offsets.of(3).unwrap_or_default(), listed(&model), "{step}");
            let layers = offsets.0.get(&3).map_or(0, |l| l.0.len());
            assert!(layers <= 9, "{layers} layers hold at most 200 entries");
            if step % 100 == 0 {
                held.push((offsets.clone(), listed(&model)));
            }
        }
        for (version, wanted) in held {
            assert_eq!(version.of(3).unwrap_or_default(), wanted);
        }
        let all = model.into_keys().map(|key| OffsetChange {
            source: 3,
            key,
            value: None,
        });
        offsets.apply(all.collect::<Vec<_>>());
        assert!(!offsets.has(3) && offsets.of(3).is_none());
    }
}
