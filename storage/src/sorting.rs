//! From the unsorted changes of one arrangement in one epoch to a run in a bundle.

use std::sync::Arc;

use arrow::array::cast::AsArray;
use arrow::array::{Array, RecordBatch, UInt32Array};
use arrow::buffer::ScalarBuffer;
use arrow::compute::take_record_batch;
use arrow::datatypes::DataType;
use tidemill_zset::{Diffs, Epoch};

use crate::api::{ArrangementChange, ArrangementDesc, Result, StoreError};
use crate::batches::{concat_rows, conform};
use crate::block::{BlockRows, Numbers};
use crate::bundle::{BundleWriter, RunEnd, is_sorted};
use crate::options::{BLOCK_BYTES_TARGET, BLOCK_ROWS_MAX};
use crate::order::{Entry, sort_by_hash};

/// What an entry takes beside its row: hash and diff, and its share of headers.
const ENTRY_BYTES: usize = 18;

/// Writes `changes` as a run of `desc`. Writes nothing if they hold no row.
pub(crate) fn write_changes(
    to: &mut BundleWriter,
    desc: &Arc<ArrangementDesc>,
    epoch: Epoch,
    changes: &[ArrangementChange],
) -> Result<()> {
    let mut batches = Vec::with_capacity(changes.len());
    let mut conformed = Vec::with_capacity(changes.len());
    for c in changes.iter().filter(|c| !c.delta.is_empty()) {
        check(desc, c)?;
        let rows = conform(&desc.schema, &c.delta.rows);
        conformed.push(rows.map_err(|e| mismatch(desc, &e.to_string()))?);
        batches.push(c);
    }
    if batches.is_empty() {
        return Ok(());
    }
    if !is_sorted(desc.kind) {
        return write_log(to, desc, epoch, &batches, &conformed);
    }
    let rows = one_batch(desc, &conformed)?;
    let diffs = all_diffs(&batches, rows.num_rows());
    write_sorted(to, desc, epoch, &batches, &rows, diffs)
}

fn one_batch(desc: &ArrangementDesc, batches: &[RecordBatch]) -> Result<RecordBatch> {
    concat_rows(&desc.schema, &batches.iter().collect::<Vec<_>>())
        .map_err(|e| mismatch(desc, &e.to_string()))
}

/// Rows as they come. Batches too small for a block are put together, others aren't copied.
fn write_log(
    to: &mut BundleWriter,
    desc: &Arc<ArrangementDesc>,
    epoch: Epoch,
    changes: &[&ArrangementChange],
    batches: &[RecordBatch],
) -> Result<()> {
    let mut run = to.run(desc.clone(), false);
    let mut from = 0;
    for until in 1..=batches.len() {
        let pending = &batches[from..until];
        let rows: usize = pending.iter().map(RecordBatch::num_rows).sum();
        if rows < block_rows(&batches[from]) && until < batches.len() {
            continue;
        }
        let together = one_batch(desc, pending)?;
        let diffs = all_diffs(&changes[from..until], rows);
        let step = rows.div_ceil(rows.div_ceil(block_rows(&together)));
        for at in (0..rows).step_by(step) {
            let len = step.min(rows - at);
            run.block(&BlockRows {
                hashes: Vec::new().into(),
                rows: &together.slice(at, len),
                diffs: diffs.slice(at, len),
                epochs: Numbers::All(epoch),
            })?;
        }
        from = until;
    }
    run.finish(RunEnd::of(0, true));
    Ok(())
}

fn write_sorted(
    to: &mut BundleWriter,
    desc: &Arc<ArrangementDesc>,
    epoch: Epoch,
    changes: &[&ArrangementChange],
    rows: &RecordBatch,
    diffs: Numbers,
) -> Result<()> {
    let entries = sorted_entries(desc, changes, rows);
    let distinct = entries.windows(2).all(|w| w[0].hash != w[1].hash);
    to.reserve(rows.num_rows() * (row_bytes(rows) + ENTRY_BYTES));
    let mut run = to.run(desc.clone(), false);
    // Block by block: what is gathered stays small, and its memory is used again for the next.
    for block in entries.chunks(block_rows(rows)) {
        let indices: UInt32Array = block.iter().map(|e| e.row).collect::<Vec<_>>().into();
        let sorted =
            take_record_batch(rows, &indices).map_err(|e| mismatch(desc, &e.to_string()))?;
        run.block(&BlockRows {
            hashes: block.iter().map(|e| e.hash).collect::<Vec<_>>().into(),
            rows: &sorted,
            diffs: match &diffs {
                Numbers::All(diff) => Numbers::All(*diff),
                Numbers::Each(diffs) => {
                    let each = block.iter().map(|e| diffs[e.row as usize]);
                    Numbers::of(each.collect::<Vec<_>>().into())
                }
            },
            epochs: Numbers::All(epoch),
        })?;
    }
    run.finish(RunEnd::of(0, distinct));
    Ok(())
}

fn sorted_entries(
    desc: &ArrangementDesc,
    changes: &[&ArrangementChange],
    rows: &RecordBatch,
) -> Vec<Entry> {
    let mut entries = Vec::with_capacity(rows.num_rows());
    for c in changes {
        let computed;
        let hashes = match c.hashes.is_empty() {
            true => {
                let keys = &c.delta.rows.columns()[..desc.key_columns];
                computed = desc.key_hashes(keys, c.delta.len());
                &computed
            }
            false => &c.hashes,
        };
        let base = entries.len();
        entries.extend(hashes.iter().enumerate().map(|(i, hash)| Entry {
            hash: *hash,
            source: 0,
            row: (base + i) as u32,
        }));
    }
    sort_by_hash(&mut entries);
    entries
}

fn all_diffs(changes: &[&ArrangementChange], rows: usize) -> Numbers {
    if changes.iter().all(|c| matches!(c.delta.diffs, Diffs::Ones)) {
        return Numbers::All(1);
    }
    let mut all = Vec::with_capacity(rows);
    for c in changes {
        match &c.delta.diffs {
            Diffs::Ones => all.resize(all.len() + c.delta.len(), 1),
            Diffs::Each(each) => all.extend_from_slice(each),
        }
    }
    Numbers::of(all.into())
}

fn mismatch(desc: &ArrangementDesc, detail: &str) -> StoreError {
    StoreError::Usage(format!(
        "a change doesn't fit arrangement {}: {detail}",
        desc.id
    ))
}

fn check(desc: &ArrangementDesc, c: &ArrangementChange) -> Result<()> {
    let rows = &c.delta.rows;
    let hashes = c.hashes.len();
    let expected = if is_sorted(desc.kind) {
        rows.num_rows()
    } else {
        0
    };
    if hashes != 0 && hashes != expected {
        let detail = format!("{hashes} hashes for {} rows", rows.num_rows());
        return Err(mismatch(desc, &detail));
    }
    if u32::try_from(rows.num_rows()).is_err() {
        return Err(mismatch(desc, "too many rows"));
    }
    Ok(())
}

/// How many rows make a block of about [`BLOCK_BYTES_TARGET`], judged by the average row.
pub(crate) fn block_rows(rows: &RecordBatch) -> usize {
    (BLOCK_BYTES_TARGET / row_bytes(rows).max(1)).clamp(1, BLOCK_ROWS_MAX)
}

/// Bytes of the average row.
fn row_bytes(rows: &RecordBatch) -> usize {
    let columns = rows.columns().iter().map(|c| column_bytes(c.as_ref()));
    columns.sum::<usize>().div_ceil(rows.num_rows().max(1))
}

/// About how many bytes the values of a column take, without what they share with others.
fn column_bytes(column: &dyn Array) -> usize {
    let lengths = |views: &ScalarBuffer<u128>| {
        let total: u64 = views.iter().map(|v| u64::from(*v as u32)).sum();
        total as usize + views.len() * size_of::<u32>()
    };
    match column.data_type() {
        DataType::Utf8View => lengths(column.as_string_view().views()),
        DataType::BinaryView => lengths(column.as_binary_view().views()),
        other => match other.primitive_width() {
            Some(width) => width * column.len(),
            None => column
                .to_data()
                .get_slice_memory_size()
                .unwrap_or_else(|_| column.get_array_memory_size()),
        },
    }
}
