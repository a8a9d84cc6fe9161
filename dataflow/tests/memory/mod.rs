//! State in memory for tests of operators: what was committed, readable as the store would give it. Also small rows
//! of optional integers, and their way to Arrow columns of several types and back.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use arrow::array::{
    Array, ArrayRef, Float64Array, Int32Array, Int64Array, RecordBatch, StringViewArray,
};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::util::display::array_value_to_string;
use tidemill_dataflow::plan::{ArrangementSpec, RowError};
use tidemill_dataflow::state::{Batches, StateHandle, StateReader};
use tidemill_storage::{ArrangementChange, ArrangementDesc, RunBatch};
use tidemill_zset::hash::hash_columns;
use tidemill_zset::{ArrangementId, Delta, Diffs, Epoch};

/// A row of a test.
pub type Row = Vec<Option<i64>>;
/// A multiset of rows.
pub type Rows = BTreeMap<Row, i64>;

/// Adds `diff` of `row`; a row with diff zero is gone.
pub fn add(rows: &mut Rows, row: Row, diff: i64) {
    let entry = rows.entry(row.clone()).or_insert(0);
    *entry += diff;
    if *entry == 0 {
        rows.remove(&row);
    }
}

/// One committed arrangement.
pub struct MemoryState {
    desc: ArrangementDesc,
    /// By hash and the row as text.
    rows: Mutex<BTreeMap<(u64, String), (RecordBatch, i64)>>,
    epoch: AtomicI64,
}

impl MemoryState {
    pub fn new(id: u64, spec: &ArrangementSpec) -> Arc<Self> {
        Arc::new(MemoryState {
            desc: ArrangementDesc {
                id: ArrangementId(id),
                kind: spec.kind,
                schema: spec.schema.clone(),
                key_columns: spec.key_columns,
            },
            rows: Mutex::default(),
            epoch: AtomicI64::new(0),
        })
    }

    pub fn handle(self: &Arc<Self>) -> StateHandle {
        StateHandle {
            desc: self.desc.clone(),
            reader: Some(self.clone()),
        }
    }

    /// Commits the changes of `epoch` that concern this arrangement.
    pub fn commit(&self, epoch: Epoch, changes: &[ArrangementChange]) {
        let mut rows = self.rows.lock().unwrap();
        for change in changes.iter().filter(|c| c.arrangement == self.desc.id) {
            let batch = &change.delta.rows;
            let keys = &batch.columns()[..self.desc.key_columns];
            let hashes = hash_columns(keys, batch.num_rows());
            assert!(change.hashes.is_empty() || change.hashes == hashes);
            for (i, hash) in hashes.iter().enumerate() {
                let text = row_key(batch, i);
                let diff = change.delta.diffs.get(i);
                let entry = rows
                    .entry((*hash, text.clone()))
                    .or_insert((batch.slice(i, 1), 0));
                entry.1 += diff;
                if entry.1 == 0 {
                    rows.remove(&(*hash, text));
                }
            }
        }
        self.epoch.store(epoch, Ordering::SeqCst);
    }

    /// Number of different rows.
    pub fn len(&self) -> usize {
        self.rows.lock().unwrap().len()
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
        let mut out = Vec::new();
        for hash in hashes {
            let found: Vec<_> = rows
                .range((*hash, String::new())..)
                .take_while(|(k, _)| k.0 == *hash)
                .map(|(_, v)| v)
                .collect();
            if found.is_empty() {
                continue;
            }
            let batch = concat_batches(&self.desc.schema, found.iter().map(|f| &f.0)).unwrap();
            let n = found.len();
            out.push(RunBatch {
                hashes: vec![*hash; n].into(),
                rows: batch,
                diffs: found.iter().map(|f| f.1).collect(),
                epochs: vec![0; n].into(),
            });
        }
        Ok(out)
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

fn row_key(batch: &RecordBatch, row: usize) -> String {
    let value = |c: &ArrayRef| match c.is_null(row) {
        true => "NULL".to_string(),
        false => array_value_to_string(c, row).unwrap(),
    };
    batch
        .columns()
        .iter()
        .map(value)
        .collect::<Vec<_>>()
        .join("|")
}

/// Rows as a batch. Text is the number with a long prefix.
pub fn batch(schema: &SchemaRef, rows: &[Row]) -> RecordBatch {
    let columns = schema
        .fields()
        .iter()
        .enumerate()
        .map(|(c, f)| {
            let values = rows.iter().map(|r| r[c]);
            let column: ArrayRef = match f.data_type() {
                DataType::Int32 => {
                    Arc::new(Int32Array::from_iter(values.map(|v| v.map(|v| v as i32))))
                }
                DataType::Int64 => Arc::new(Int64Array::from_iter(values)),
                DataType::Float64 => {
                    Arc::new(Float64Array::from_iter(values.map(|v| v.map(|v| v as f64))))
                }
                DataType::Utf8View => Arc::new(StringViewArray::from_iter(
                    values.map(|v| v.map(|v| format!("a rather long text {v}"))),
                )),
                other => panic!("no test rows of type {other}"),
            };
            column
        })
        .collect();
    RecordBatch::try_new(schema.clone(), columns).unwrap()
}

/// The reverse of [`batch`].
pub fn rows_of(batch: &RecordBatch) -> Vec<Row> {
    let value = |c: &ArrayRef, row: usize| {
        if c.is_null(row) {
            return None;
        }
        let text = array_value_to_string(c, row).unwrap();
        let number = text.rsplit(' ').next().unwrap();
        Some(number.parse::<f64>().unwrap() as i64)
    };
    (0..batch.num_rows())
        .map(|row| batch.columns().iter().map(|c| value(c, row)).collect())
        .collect()
}

/// A delta of rows with diffs.
pub fn delta(schema: &SchemaRef, rows: &[(Row, i64)]) -> Delta {
    let values: Vec<Row> = rows.iter().map(|r| r.0.clone()).collect();
    let diffs: Vec<i64> = rows.iter().map(|r| r.1).collect();
    Delta::new(batch(schema, &values), Diffs::from(diffs))
}

/// Maps an error to its text.
pub fn map_error(e: &datafusion_common::DataFusionError) -> RowError {
    RowError {
        sqlstate: "22012".into(),
        message: e.to_string(),
    }
}
