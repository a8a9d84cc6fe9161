//! From the unsorted changes of one arrangement in one epoch to a run in a bundle.

use std::cell::RefCell;
use std::sync::Arc;

use arrow::array::cast::AsArray;
use arrow::array::{Array, RecordBatch, UInt32Array};
use arrow::buffer::ScalarBuffer;
use arrow::compute::take_record_batch;
use arrow::datatypes::DataType;
use tidemill_zset::{Diffs, Epoch};

use crate::api::{ArrangementChange, ArrangementDesc, Result, StoreError};
use crate::batches::{concat_rows, conform, for_pieces};
use crate::block::{BlockRows, Numbers};
use crate::bundle::{BundleWriter, RunEnd, is_sorted};
use crate::options::{BLOCK_BYTES_TARGET, BLOCK_ROWS_MAX};
use crate::order::{Entry, Sorter};

/// What an entry takes beside its row: hash and diff, and its share of headers.
const ENTRY_BYTES: usize = 18;

/// A change that holds rows, which have the schema of the arrangement.
struct Part<'a> {
    change: &'a ArrangementChange,
    rows: RecordBatch,
}

/// Writes `changes` as a run of `desc`. Writes nothing if they hold no row.
pub(crate) fn write_changes(
    to: &mut BundleWriter,
    desc: &Arc<ArrangementDesc>,
    epoch: Epoch,
    changes: &[ArrangementChange],
) -> Result<()> {
    let mut parts = Vec::with_capacity(changes.len());
    for change in changes.iter().filter(|c| !c.delta.is_empty()) {
        check(desc, change)?;
        let rows = conform(&desc.schema, &change.delta.rows);
        let rows = rows.map_err(|e| mismatch(desc, &e.to_string()))?;
        parts.push(Part { change, rows });
    }
    if parts.is_empty() {
        return Ok(());
    }
    if is_sorted(desc.kind) {
        SPACE.with_borrow_mut(|space| write_sorted(to, desc, epoch, &parts, space))
    } else {
        write_log(to, desc, epoch, &parts)
    }
}

/// The rows of all parts, one part after the other.
fn together(desc: &ArrangementDesc, parts: &[Part<'_>]) -> Result<RecordBatch> {
    let batches: Vec<&RecordBatch> = parts.iter().map(|p| &p.rows).collect();
    concat_rows(&desc.schema, &batches).map_err(|e| mismatch(desc, &e.to_string()))
}

/// Rows as they come. Batches too small for a block are put together, others aren't copied.
fn write_log(
    to: &mut BundleWriter,
    desc: &Arc<ArrangementDesc>,
    epoch: Epoch,
    parts: &[Part<'_>],
) -> Result<()> {
    let mut run = to.run(desc.clone(), false);
    let mut from = 0;
    for until in 1..=parts.len() {
        let pending = &parts[from..until];
        let rows: usize = pending.iter().map(|p| p.rows.num_rows()).sum();
        if rows < block_rows(&parts[from].rows) && until < parts.len() {
            continue;
        }
        let together = together(desc, pending)?;
        let diffs = all_diffs(pending, rows);
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

thread_local! {
    /// What sorting takes, kept for the next epoch: fresh memory has to be cleared by the system first, page by page.
    static SPACE: RefCell<Space> = RefCell::default();
}

#[derive(Default)]
struct Space {
    entries: Vec<Entry>,
    sorter: Sorter,
}

/// Entries for which space is kept, of 16 bytes each, twice.
const SPACE_ENTRIES_MAX: usize = 128 * 1024;

fn write_sorted(
    to: &mut BundleWriter,
    desc: &Arc<ArrangementDesc>,
    epoch: Epoch,
    parts: &[Part<'_>],
    space: &mut Space,
) -> Result<()> {
    put_entries(desc, parts, &mut space.entries);
    space.sorter.sort(&mut space.entries);
    let entries = &space.entries;
    let distinct = entries.windows(2).all(|w| w[0].hash != w[1].hash);
    // One batch first: gathering from many by turns takes twice as long.
    let rows = together(desc, parts)?;
    let diffs = all_diffs(parts, rows.num_rows());
    to.reserve(batch_bytes(&rows) + entries.len() * ENTRY_BYTES);
    let mut run = to.run(desc.clone(), false);
    // Block by block: what is gathered stays small, and its memory is used again for the next.
    let of_block = block_rows(&rows);
    let rows = for_pieces(rows, entries.len().div_ceil(of_block))
        .map_err(|e| mismatch(desc, &e.to_string()))?;
    for block in entries.chunks(of_block) {
        let indices: UInt32Array = block.iter().map(|e| e.row).collect::<Vec<_>>().into();
        let sorted =
            take_record_batch(&rows, &indices).map_err(|e| mismatch(desc, &e.to_string()))?;
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
    if space.entries.capacity() > SPACE_ENTRIES_MAX {
        *space = Space::default();
    }
    Ok(())
}

/// An entry for each row of `parts`, as if they were one batch.
fn put_entries(desc: &ArrangementDesc, parts: &[Part<'_>], entries: &mut Vec<Entry>) {
    entries.clear();
    entries.reserve(parts.iter().map(|p| p.rows.num_rows()).sum());
    for part in parts {
        let computed;
        let hashes = match part.change.hashes.is_empty() {
            true => {
                let keys = &part.rows.columns()[..desc.key_columns];
                computed = desc.key_hashes(keys, part.rows.num_rows());
                &computed
            }
            false => &part.change.hashes,
        };
        let base = entries.len();
        entries.extend(hashes.iter().enumerate().map(|(i, hash)| Entry {
            hash: *hash,
            source: 0,
            row: (base + i) as u32,
        }));
    }
}

fn is_ones(part: &Part<'_>) -> bool {
    matches!(part.change.delta.diffs, Diffs::Ones)
}

fn all_diffs(parts: &[Part<'_>], rows: usize) -> Numbers {
    if parts.iter().all(is_ones) {
        return Numbers::All(1);
    }
    let mut all = Vec::with_capacity(rows);
    for delta in parts.iter().map(|p| &p.change.delta) {
        match &delta.diffs {
            Diffs::Ones => all.resize(all.len() + delta.len(), 1),
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
    let row_bytes = batch_bytes(rows).div_ceil(rows.num_rows().max(1));
    (BLOCK_BYTES_TARGET / row_bytes.max(1)).clamp(1, BLOCK_ROWS_MAX)
}

/// About how many bytes the values of all rows take.
fn batch_bytes(rows: &RecordBatch) -> usize {
    rows.columns()
        .iter()
        .map(|c| column_bytes(c.as_ref()))
        .sum()
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
