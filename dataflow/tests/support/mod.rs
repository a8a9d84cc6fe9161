//! State in memory for tests: what was committed, of `Add` and `Last` arrangements, readable as the store gives it.

pub mod integers;
pub mod joins;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use tidemill_dataflow::operator::{BuildContext, Operator};
use tidemill_dataflow::operators;
use tidemill_dataflow::operators::culprit::row_text;
use tidemill_dataflow::plan::{ArrangementSpec, Node, RowError};
use tidemill_dataflow::state::{Batches, StateHandle, StateReader};
use tidemill_storage::{ArrangementChange, ArrangementDesc, RunBatch};
use tidemill_zset::hash::hash_columns;
use tidemill_zset::{ArrangementId, Delta, Epoch};

/// Rows as text, with their multiplicities.
pub type Multiset = BTreeMap<String, i64>;

/// Adds the rows of `delta`.
pub fn add_rows(to: &mut Multiset, delta: &Delta) {
    for row in 0..delta.len() {
        add(to, row_text(&delta.rows, row), delta.diffs.get(row));
    }
}

/// Adds `diff` of a row; a row with diff zero is gone.
pub fn add(to: &mut Multiset, row: String, diff: i64) {
    let entry = to.entry(row.clone()).or_insert(0);
    *entry += diff;
    if *entry == 0 {
        to.remove(&row);
    }
}

/// A hash and a row (of `Last`: a key) as text.
type Place = (u64, String);

/// One committed arrangement.
pub struct MemoryState {
    desc: ArrangementDesc,
    rows: Mutex<BTreeMap<Place, (RecordBatch, i64)>>,
    epoch: AtomicI64,
}

impl MemoryState {
    pub fn new(id: u64, spec: &ArrangementSpec) -> Arc<Self> {
        let desc = ArrangementDesc {
            id: ArrangementId(id),
            kind: spec.kind,
            schema: spec.schema.clone(),
            key_columns: spec.key_columns,
        };
        Self::of(desc)
    }

    pub fn of(desc: ArrangementDesc) -> Arc<Self> {
        Arc::new(MemoryState {
            desc,
            rows: Mutex::default(),
            epoch: AtomicI64::new(0),
        })
    }

    /// What an operator gets.
    pub fn handle(self: &Arc<Self>) -> StateHandle {
        StateHandle {
            desc: self.desc.clone(),
            reader: Some(self.clone()),
        }
    }

    /// Commits the changes of `epoch` that concern this arrangement.
    pub fn commit(&self, epoch: Epoch, changes: &[ArrangementChange]) {
        let mut rows = self.rows.lock().unwrap();
        let mut seen = std::collections::BTreeSet::new();
        let last = self.desc.kind.is_last();
        for change in changes.iter().filter(|c| c.arrangement == self.desc.id) {
            let batch = &change.delta.rows;
            assert_eq!(batch.schema(), self.desc.schema);
            let key: Vec<usize> = (0..self.desc.key_columns).collect();
            let keys = batch.project(&key).unwrap();
            let hashes = hash_columns(keys.columns(), batch.num_rows());
            assert!(change.hashes.is_empty() || change.hashes == hashes);
            for (i, hash) in hashes.iter().enumerate() {
                let text = row_text(if last { &keys } else { batch }, i);
                let diff = change.delta.diffs.get(i);
                let place = (*hash, text.clone());
                if last {
                    assert!(seen.insert(text.clone()), "{text} changes twice");
                    match diff {
                        1 => rows.insert(place, (batch.slice(i, 1), 1)),
                        -1 => rows.remove(&place),
                        d => panic!("a diff of {d}"),
                    };
                    continue;
                }
                let entry = rows.entry(place.clone()).or_insert((batch.slice(i, 1), 0));
                entry.1 += diff;
                if entry.1 == 0 {
                    rows.remove(&place);
                }
            }
        }
        self.epoch.store(epoch, Ordering::SeqCst);
    }

    /// Number of different rows.
    pub fn len(&self) -> usize {
        self.rows.lock().unwrap().len()
    }

    /// What it holds, restricted to `columns`.
    pub fn contents(&self, columns: &[usize]) -> Multiset {
        let mut out = Multiset::new();
        for (batch, diff) in self.rows.lock().unwrap().values() {
            add(
                &mut out,
                row_text(&batch.project(columns).unwrap(), 0),
                *diff,
            );
        }
        out
    }
}

impl StateReader for MemoryState {
    fn epoch(&self) -> Epoch {
        self.epoch.load(Ordering::SeqCst)
    }

    fn is_empty(&self) -> bool {
        self.rows.lock().unwrap().is_empty()
    }

    fn get_many(&self, hashes: &[u64]) -> tidemill_storage::Result<Vec<RunBatch>> {
        assert!(hashes.windows(2).all(|w| w[0] < w[1]), "sorted and unique");
        let rows = self.rows.lock().unwrap();
        let mut found = Vec::new();
        for hash in hashes {
            let range = rows.range((*hash, String::new())..);
            found.extend(range.take_while(|(k, _)| k.0 == *hash));
        }
        // In several batches, as from a store with several blocks.
        let several = found.chunk_by(|(a, _), (b, _)| a.0 == b.0 || a.0 % 3 != 0);
        let batch = |rows: &[(&Place, &(RecordBatch, i64))]| RunBatch {
            hashes: rows.iter().map(|(k, _)| k.0).collect(),
            rows: concat_batches(&self.desc.schema, rows.iter().map(|(_, v)| &v.0)).unwrap(),
            diffs: rows.iter().map(|(_, v)| v.1).collect(),
            epochs: vec![0; rows.len()].into(),
        };
        Ok(several.map(batch).collect())
    }

    fn rows_estimate(&self) -> u64 {
        self.rows.lock().unwrap().len() as u64
    }

    fn range(&self, (from, until): (u64, u64)) -> tidemill_storage::Result<Batches> {
        let hashes: std::collections::BTreeSet<u64> = {
            let rows = self.rows.lock().unwrap();
            let from = rows.range((from, String::new())..);
            from.map(|(k, _)| k.0).take_while(|h| *h <= until).collect()
        };
        let hashes: Vec<u64> = hashes.into_iter().collect();
        Ok(Box::new(self.get_many(&hashes)?.into_iter().map(Ok)))
    }
}

/// Every evaluation error as the same SQLSTATE with its own text.
pub fn map_error(e: &datafusion_common::DataFusionError) -> RowError {
    RowError {
        sqlstate: "22000".into(),
        message: e.to_string(),
    }
}

/// The operator of `node` over its states, alone on one worker.
pub fn build(
    node: &Node,
    states: &[Arc<MemoryState>],
    fresh: bool,
    state_bytes_max: usize,
) -> Box<dyn Operator> {
    let context = BuildContext {
        worker: 0,
        workers: 1,
        partitions: 16,
        fresh,
        state_bytes_max,
        error_mapper: map_error,
        demand: Default::default(),
    };
    operators::build(node, states.iter().map(|s| s.handle()).collect(), &context).unwrap()
}
