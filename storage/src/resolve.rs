//! From entries that share key hashes to what they mean: sums for `Add`, the newest value for `Last`.
//!
//! Invariant: two entries are combined only if their rows (`Add`) or keys (`Last`) are equal
//! column by column; an equal hash alone never suffices. Rows are compared only where hashes are.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow::compute;
use arrow::datatypes::SchemaRef;
use hashbrown::HashTable;
use tidemill_zset::Epoch;
use tidemill_zset::hash::hash_columns;

use crate::api::{ArrangementDesc, ArrangementKind, Result, RunBatch, StoreError};
use crate::batches::batch_of;
use crate::block::{Block, Numbers};
use crate::order::Entry;
use crate::rows::{Place, RowEqual};

/// From this size on, the rows of an `Add` group are told apart by a hash of the whole row.
const LARGE_GROUP: usize = 16;

/// How much history the result keeps.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mode {
    /// One entry per row or key: the contents.
    Snapshot,
    /// What is needed to read as of any epoch from `since` on.
    Compact(Compaction),
}

/// How a merge treats history. Invariants: `floor` and `tombstones_until` are at most `since`, and below the epochs of all
/// entries outside the merge that are newer than some entry in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Compaction {
    /// Nobody reads as of an earlier epoch.
    pub since: Epoch,
    /// Lower epochs become this one: blocks in which all are equal are smaller.
    pub floor: Epoch,
    /// Nothing older lies outside the merge, so that a tombstone up to here has done its work.
    pub tombstones_until: Epoch,
    /// Put aside what reads as of the newest epoch don't need.
    pub split: bool,
}

impl Compaction {
    /// Keeps everything as it is.
    pub(crate) const NONE: Compaction = Compaction {
        since: Epoch::MIN,
        floor: Epoch::MIN,
        tombstones_until: Epoch::MIN,
        split: false,
    };
}

/// An entry that survives, with the diff and epoch it now has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kept {
    pub entry: Entry,
    pub diff: i64,
    pub epoch: Epoch,
}

/// What [`Sources::resolve`] gives.
pub(crate) struct Resolved {
    pub kept: Vec<Kept>,
    /// Put aside by [`Compaction::split`]: superseded values; diffs that add up to zero for every row.
    pub past: Vec<Kept>,
    /// No two of `kept` have equal rows (`Add`) or keys (`Last`).
    pub distinct: bool,
}

/// Blocks and what their rows mean.
#[derive(Clone, Copy)]
pub(crate) struct Sources<'a> {
    pub desc: &'a ArrangementDesc,
    /// Older ones first.
    pub blocks: &'a [Arc<Block>],
}

/// Rows to be gathered. Of many blocks only those are looked at that have some: a column of a wide row may be in thousands.
struct Places {
    /// Their numbers among the sources.
    blocks: Vec<usize>,
    /// Each row's place among `blocks`, and in its block.
    rows: Vec<(usize, usize)>,
}

impl Sources<'_> {
    fn column(&self, block: usize, column: usize) -> Result<&ArrayRef> {
        let decoded = self.blocks[block].column(column, &self.desc.schema);
        decoded.map_err(|e| StoreError::Corrupt {
            what: format!("arrangement {}", self.desc.id),
            detail: format!("column {column}: {e}"),
        })
    }

    /// The values of `column` at `rows`.
    fn gather(&self, column: usize, rows: &Places) -> Result<ArrayRef> {
        let arrow_error = |e| damaged_rows(self.desc, &e);
        if rows.blocks.is_empty() {
            let data_type = self.desc.schema.field(column).data_type();
            return Ok(arrow::array::new_empty_array(data_type));
        }
        let arrays = rows.blocks.iter().map(|b| self.column(*b, column));
        let arrays = arrays.collect::<Result<Vec<&ArrayRef>>>()?;
        if let [source] = arrays[..] {
            let rows = &rows.rows;
            if rows.len() == source.len() && rows.iter().enumerate().all(|(i, r)| r.1 == i) {
                return Ok(source.clone());
            }
            let indices: UInt32Array = rows.iter().map(|r| r.1 as u32).collect::<Vec<_>>().into();
            return compute::take(source.as_ref(), &indices, None).map_err(arrow_error);
        }
        let arrays: Vec<&dyn Array> = arrays.into_iter().map(AsRef::as_ref).collect();
        compute::interleave(&arrays, &rows.rows).map_err(arrow_error)
    }

    /// The batch of the surviving entries; `columns` are the indexes wanted, `schema` theirs.
    pub(crate) fn batch(
        &self,
        kept: &[Kept],
        columns: &[usize],
        schema: &SchemaRef,
    ) -> Result<RunBatch> {
        let rows = kept
            .iter()
            .map(|k| (k.entry.source as usize, k.entry.row as usize));
        let rows = self.places(rows);
        let mut arrays = Vec::with_capacity(columns.len());
        for c in columns {
            arrays.push(self.gather(*c, &rows)?);
        }
        let log = self.desc.kind == ArrangementKind::Log;
        Ok(RunBatch {
            hashes: if log {
                Vec::new().into()
            } else {
                kept.iter().map(|k| k.entry.hash).collect::<Vec<_>>().into()
            },
            rows: record_batch(self.desc, schema, arrays, kept.len())?,
            diffs: kept.iter().map(|k| k.diff).collect::<Vec<_>>().into(),
            epochs: kept.iter().map(|k| k.epoch).collect::<Vec<_>>().into(),
        })
    }

    /// The given columns of the only block as they are, if all of its rows are there as of `at`.
    pub(crate) fn whole(
        &self,
        at: Epoch,
        columns: &[usize],
        schema: &SchemaRef,
    ) -> Result<Option<RunBatch>> {
        let block = &self.blocks[0];
        let Numbers::All(diff @ 1..) = block.diffs else {
            return Ok(None);
        };
        if block.newest > at {
            return Ok(None);
        }
        let arrays = columns.iter().map(|c| self.column(0, *c).cloned());
        let arrays = arrays.collect::<Result<Vec<_>>>()?;
        Ok(Some(RunBatch {
            hashes: block.hashes.clone(),
            rows: record_batch(self.desc, schema, arrays, block.rows)?,
            diffs: vec![diff; block.rows].into(),
            epochs: match &block.epochs {
                Numbers::All(epoch) => vec![*epoch; block.rows].into(),
                Numbers::Each(each) => each.clone(),
            },
        }))
    }

    /// All columns at `rows`.
    pub(crate) fn gather_all(&self, rows: &[(usize, usize)]) -> Result<RecordBatch> {
        let places = self.places(rows.iter().copied());
        let mut arrays = Vec::with_capacity(self.desc.schema.fields().len());
        for c in 0..self.desc.schema.fields().len() {
            arrays.push(self.gather(c, &places)?);
        }
        record_batch(self.desc, &self.desc.schema, arrays, rows.len())
    }

    /// Rows by the blocks that they are in.
    fn places(&self, rows: impl Iterator<Item = (usize, usize)>) -> Places {
        const UNUSED: usize = usize::MAX;
        let mut numbers = vec![UNUSED; self.blocks.len()];
        let mut blocks = Vec::new();
        let rows = rows.map(|(block, row)| {
            let number = &mut numbers[block];
            if *number == UNUSED {
                *number = blocks.len();
                blocks.push(block);
            }
            (*number, row)
        });
        Places {
            rows: rows.collect(),
            blocks,
        }
    }

    fn kept(&self, e: Entry) -> Kept {
        let block = &self.blocks[e.source as usize];
        Kept {
            entry: e,
            diff: block.diffs.get(e.row as usize),
            epoch: block.epoch(e.row as usize),
        }
    }

    /// Resolves `entries`, which are sorted by hash (see [`crate::order`]).
    pub(crate) fn resolve(&self, entries: &[Entry], mode: Mode) -> Result<Resolved> {
        let mut resolver = Resolver {
            kind: self.desc.kind,
            mode,
            members: Vec::new(),
            out: Resolved {
                kept: Vec::with_capacity(entries.len()),
                past: Vec::new(),
                distinct: true,
            },
        };
        let groups = Groups::new(self, entries)?;
        let mut at = 0;
        while at < entries.len() {
            let hash = entries[at].hash;
            let mut end = at + 1;
            while end < entries.len() && entries[end].hash == hash {
                end += 1;
            }
            let group = &entries[at..end];
            at = end;
            if group.len() == 1 {
                resolver.single(self.kept(group[0]));
                continue;
            }
            match groups.classes(self, group)? {
                None => resolver.class(group.iter().map(|e| self.kept(*e))),
                Some(classes) => {
                    for class in classes {
                        resolver.class(class.iter().map(|i| self.kept(group[*i as usize])));
                    }
                }
            }
        }
        Ok(resolver.out)
    }
}

fn record_batch(
    desc: &ArrangementDesc,
    schema: &SchemaRef,
    columns: Vec<ArrayRef>,
    rows: usize,
) -> Result<RecordBatch> {
    batch_of(schema, columns, rows).map_err(|e| damaged_rows(desc, &e))
}

/// Rows that don't fit their schema: what was stored isn't what the arrangement says.
pub(crate) fn damaged_rows(desc: &ArrangementDesc, error: &arrow::error::ArrowError) -> StoreError {
    StoreError::Corrupt {
        what: format!("arrangement {}", desc.id),
        detail: error.to_string(),
    }
}

/// Tells the rows of entries that share a hash apart.
struct Groups {
    equal: RowEqual,
    /// Columns that are compared.
    compared: usize,
    /// The hash is that of the compared columns: a large group is one class, or nearly.
    hashed_whole: bool,
}

fn place(e: &Entry) -> Place {
    (e.source as usize, e.row as usize)
}

impl Groups {
    fn new(sources: &Sources, entries: &[Entry]) -> Result<Groups> {
        let kind = sources.desc.kind;
        let compared = match kind.is_last() {
            true => sources.desc.key_columns,
            false => sources.desc.schema.fields().len(),
        };
        let mut columns = Vec::new();
        // Without a hash that occurs twice no column is needed, or decoded.
        if entries.windows(2).any(|w| w[0].hash == w[1].hash) {
            for c in 0..compared {
                let arrays = (0..sources.blocks.len()).map(|b| sources.column(b, c).cloned());
                columns.push(arrays.collect::<Result<Vec<_>>>()?);
            }
        }
        Ok(Groups {
            equal: RowEqual::new(&columns),
            compared,
            hashed_whole: sources.desc.key_columns == compared && !kind.is_ordered(),
        })
    }

    /// Positions within `group` by equal row or key. `None`: all are equal.
    fn classes(&self, sources: &Sources, group: &[Entry]) -> Result<Option<Vec<Vec<u32>>>> {
        let first = place(&group[0]);
        if group[1..].iter().all(|e| self.equal.equal(first, place(e))) {
            return Ok(None);
        }
        let equal = |a: u32, b: usize| {
            self.equal
                .equal(place(&group[a as usize]), place(&group[b]))
        };
        let mut classes: Vec<Vec<u32>> = Vec::new();
        if group.len() <= LARGE_GROUP || self.hashed_whole {
            for i in 0..group.len() {
                match classes.iter_mut().find(|c| equal(c[0], i)) {
                    Some(class) => class.push(i as u32),
                    None => classes.push(vec![i as u32]),
                }
            }
            return Ok(Some(classes));
        }
        let hashes = self.row_hashes(sources, group)?;
        let mut table: HashTable<u32> = HashTable::with_capacity(group.len());
        for i in 0..group.len() {
            let found = table.find(hashes[i], |c| equal(classes[*c as usize][0], i));
            match found {
                Some(class) => classes[*class as usize].push(i as u32),
                None => {
                    let class = classes.len() as u32;
                    classes.push(vec![i as u32]);
                    let hash = |c: &u32| hashes[classes[*c as usize][0] as usize];
                    table.insert_unique(hashes[i], class, hash);
                }
            }
        }
        Ok(Some(classes))
    }

    /// Hashes of all compared columns, for a large group whose key hash covers only some.
    fn row_hashes(&self, sources: &Sources, group: &[Entry]) -> Result<Vec<u64>> {
        let places = sources.places(group.iter().map(place));
        let mut columns = Vec::with_capacity(self.compared);
        for c in 0..self.compared {
            columns.push(sources.gather(c, &places)?);
        }
        Ok(hash_columns(&columns, group.len()))
    }
}

/// Applies the rules of the kind to one class of equal rows or keys at a time.
struct Resolver {
    kind: ArrangementKind,
    mode: Mode,
    members: Vec<Kept>,
    out: Resolved,
}

impl Resolver {
    /// The newest of its class, or the only one.
    fn single(&mut self, mut k: Kept) {
        let drop = match (self.kind.is_last(), self.mode) {
            (true, Mode::Snapshot) => k.diff < 0,
            (true, Mode::Compact(c)) => k.diff < 0 && k.epoch <= c.tombstones_until,
            (false, _) => k.diff == 0,
        };
        if drop {
            return;
        }
        if let Mode::Compact(c) = self.mode {
            k.epoch = k.epoch.max(c.floor);
        }
        self.out.kept.push(k);
    }

    /// `members` are in the order of age.
    fn class(&mut self, members: impl Iterator<Item = Kept>) {
        self.members.clear();
        self.members.extend(members);
        let Mode::Compact(c) = self.mode else {
            return self.sum_up();
        };
        // No entry of the class is read by itself any more.
        if self.members.iter().all(|m| m.epoch <= c.since) {
            return self.sum_up();
        }
        let before = self.out.kept.len();
        // A stable sort: within one epoch the order of age remains.
        self.members.sort_by_key(|m| m.epoch);
        match self.kind.is_last() {
            true => self.compact_last(c),
            false => self.compact_sums(c),
        }
        if self.out.kept.len() > before + 1 {
            self.out.distinct = false;
        }
    }

    /// The class becomes at most one entry.
    fn sum_up(&mut self) {
        let one = match self.kind.is_last() {
            true => newest(&self.members),
            false => {
                let mut sum = self.members[0];
                for m in &self.members[1..] {
                    sum.diff += m.diff;
                    sum.epoch = sum.epoch.max(m.epoch);
                }
                sum
            }
        };
        self.single(one);
    }

    /// The members are sorted by epoch. Those up to `since` become one, those of one epoch too.
    fn compact_sums(&mut self, c: Compaction) {
        let mut sums: Vec<Kept> = Vec::new();
        for m in &self.members {
            match sums.last_mut() {
                Some(sum) if m.epoch <= c.since || m.epoch == sum.epoch => {
                    sum.diff += m.diff;
                    sum.epoch = m.epoch;
                }
                _ => sums.push(*m),
            }
        }
        // What is there in the end stays, from the newest insertion on; the rest comes and goes.
        let mut wanted: i64 = sums.iter().map(|s| s.diff).sum();
        let from = self.out.kept.len();
        for mut sum in sums.into_iter().rev() {
            let stays = match c.split {
                false => sum.diff,
                true if (sum.diff > 0) != (wanted > 0) || wanted == 0 => 0,
                true if wanted > 0 => sum.diff.min(wanted),
                true => sum.diff.max(wanted),
            };
            let goes = sum.diff - stays;
            if goes != 0 {
                self.out.past.push(Kept { diff: goes, ..sum });
            }
            if stays != 0 {
                wanted -= stays;
                sum.diff = stays;
                sum.epoch = sum.epoch.max(c.floor);
                self.out.kept.push(sum);
            }
        }
        self.out.kept[from..].reverse();
    }

    /// The members are sorted by epoch; what was superseded up to `since` goes.
    fn compact_last(&mut self, c: Compaction) {
        for (i, m) in self.members.iter().enumerate() {
            let Some(next) = self.members.get(i + 1) else {
                let last = *m;
                return self.single(last);
            };
            // Of two entries of one epoch the later run's counts.
            if next.epoch <= c.since || next.epoch == m.epoch {
                continue;
            }
            match c.split {
                true => self.out.past.push(*m),
                false => self.out.kept.push(Kept {
                    epoch: m.epoch.max(c.floor),
                    ..*m
                }),
            }
        }
    }
}

fn newest(members: &[Kept]) -> Kept {
    let mut newest = members[0];
    for m in &members[1..] {
        if m.epoch >= newest.epoch {
            newest = *m;
        }
    }
    newest
}
