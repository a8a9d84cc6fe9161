//! The changes of an arrangement between two epochs, from the epochs that its entries carry.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::UInt32Array;
use arrow::compute::take_record_batch;
use tidemill_zset::hash::hash_columns;
use tidemill_zset::{Delta, Epoch};

use crate::api::{ArrangementDesc, ArrangementKind, Result};
use crate::block::Block;
use crate::order::{Entry, sort_by_hash};
use crate::read::{ArrangementVersion, diffs};
use crate::resolve::{Kept, Mode, Sources, damaged_rows};
use crate::rows::RowEqual;

/// See [`ArrangementVersion::changes`].
pub(crate) fn changes(
    version: &ArrangementVersion,
    after: Epoch,
    until: Epoch,
) -> Result<Vec<(Epoch, Delta)>> {
    let blocks = version.window(after, until)?;
    let inside = |epoch: Epoch| epoch > after && epoch <= until;
    match version.desc.kind {
        kind if kind.is_last() => {
            let mut hashes: Vec<u64> = Vec::new();
            for b in &blocks {
                hashes.extend(
                    (0..b.rows)
                        .filter(|r| inside(b.epoch(*r)))
                        .map(|r| b.hashes[r]),
                );
            }
            hashes.sort_unstable();
            hashes.dedup();
            let (blocks, entries) = version.entries_since(&hashes, after, until)?;
            last_changes(&version.desc, &blocks, &entries, after)
        }
        kind => {
            let mut by_epoch: BTreeMap<Epoch, Vec<Entry>> = BTreeMap::new();
            for (source, b) in blocks.iter().enumerate() {
                for row in (0..b.rows).filter(|r| inside(b.epoch(*r))) {
                    by_epoch.entry(b.epoch(row)).or_default().push(Entry {
                        hash: b.hashes.get(row).copied().unwrap_or(0),
                        source: source as u32,
                        row: row as u32,
                    });
                }
            }
            let sources = Sources {
                desc: &version.desc,
                blocks: &blocks,
            };
            let mut out = Vec::new();
            for (epoch, mut entries) in by_epoch {
                if kind == ArrangementKind::Log {
                    hash_whole_rows(&sources, &mut entries)?;
                }
                sort_by_hash(&mut entries);
                let mut kept = sources.resolve(&entries, Mode::Snapshot)?.kept;
                if kind == ArrangementKind::Log {
                    kept.sort_by_key(|k| (k.entry.source, k.entry.row));
                }
                if !kept.is_empty() {
                    out.push((epoch, retractions_first(&sources, kept)?));
                }
            }
            Ok(out)
        }
    }
}

/// Gives the entries of a log hashes of their whole rows, if some diff is negative; without
/// retractions nothing can cancel, and equal rows stay apart as they arrived.
fn hash_whole_rows(sources: &Sources, entries: &mut [Entry]) -> Result<()> {
    let negative = |e: &Entry| sources.blocks[e.source as usize].diffs.get(e.row as usize) < 0;
    if !entries.iter().any(negative) {
        for (i, e) in entries.iter_mut().enumerate() {
            e.hash = i as u64;
        }
        return Ok(());
    }
    let rows: Vec<(usize, usize)> = entries
        .iter()
        .map(|e| (e.source as usize, e.row as usize))
        .collect();
    let gathered = sources.gather_all(&rows)?;
    let hashes = hash_columns(gathered.columns(), gathered.num_rows());
    for (e, h) in entries.iter_mut().zip(hashes) {
        e.hash = h;
    }
    Ok(())
}

fn retractions_first(sources: &Sources, kept: Vec<Kept>) -> Result<Delta> {
    let (mut ordered, inserted): (Vec<Kept>, Vec<Kept>) =
        kept.into_iter().partition(|k| k.diff < 0);
    ordered.extend(inserted);
    let all: Vec<usize> = (0..sources.desc.schema.fields().len()).collect();
    let batch = sources.batch(&ordered, &all, &sources.desc.schema)?;
    Ok(Delta {
        rows: batch.rows,
        diffs: diffs(&batch.diffs),
    })
}

/// `entries`: the whole history of the touched hashes, sorted by hash.
fn last_changes(
    desc: &ArrangementDesc,
    blocks: &[Arc<Block>],
    entries: &[Entry],
    after: Epoch,
) -> Result<Vec<(Epoch, Delta)>> {
    let sources = Sources { desc, blocks };
    let positions: Vec<(usize, usize)> = entries
        .iter()
        .map(|e| (e.source as usize, e.row as usize))
        .collect();
    let rows = sources.gather_all(&positions)?;
    let same_key = RowEqual::of_batch(&rows.columns()[..desc.key_columns]);
    let same_row = RowEqual::of_batch(rows.columns());
    let epoch = |i: usize| blocks[positions[i].0].epoch(positions[i].1);
    let present = |i: usize| blocks[positions[i].0].diffs.get(positions[i].1) > 0;

    // Per epoch: rows retracted, rows inserted.
    let mut by_epoch: BTreeMap<Epoch, (Vec<u32>, Vec<u32>)> = BTreeMap::new();
    let mut taken = vec![false; entries.len()];
    let mut history: Vec<usize> = Vec::new();
    for first in 0..entries.len() {
        if taken[first] {
            continue;
        }
        history.clear();
        let mut i = first;
        while i < entries.len() && entries[i].hash == entries[first].hash {
            if !taken[i] && same_key.equal((0, first), (0, i)) {
                taken[i] = true;
                history.push(i);
            }
            i += 1;
        }
        // Stable: within one epoch the later run wins.
        history.sort_by_key(|i| epoch(*i));
        let mut current: Option<usize> = None;
        for (k, &i) in history.iter().enumerate() {
            if history.get(k + 1).is_some_and(|n| epoch(*n) == epoch(i)) {
                continue;
            }
            let new = present(i).then_some(i);
            if epoch(i) > after {
                let unchanged = match (current, new) {
                    (Some(a), Some(b)) => same_row.equal((0, a), (0, b)),
                    (None, None) => true,
                    _ => false,
                };
                if !unchanged {
                    let (retracted, inserted) = by_epoch.entry(epoch(i)).or_default();
                    retracted.extend(current.map(|r| r as u32));
                    inserted.extend(new.map(|r| r as u32));
                }
            }
            current = new;
        }
    }
    let mut out = Vec::new();
    for (epoch, (retracted, inserted)) in by_epoch {
        let mut each = vec![-1i64; retracted.len()];
        each.resize(retracted.len() + inserted.len(), 1);
        let indices: UInt32Array = [retracted, inserted].concat().into();
        let batch = take_record_batch(&rows, &indices).map_err(|e| damaged_rows(desc, &e))?;
        out.push((epoch, Delta::new(batch, each)));
    }
    Ok(out)
}
