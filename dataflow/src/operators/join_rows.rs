//! [`RowStore`]: the rows of one side of a join, kept in the batches they came in, and chained to lists.
//!
//! A row has a number: its block times [`BLOCK_ROWS`] plus its place in the block. A block holds a
//! few pieces; a piece is a pushed batch itself (not a copy), except that runs of tiny pieces are
//! merged, so that a million one-row epochs don't leave a million batches. Numbers never change
//! while a store lives. Every live row is in exactly one list; the heads are kept by the owner.
//!
//! Invariant: the sum of diffs over the live rows of a list, row value by row value, is the Z-set of
//! its key. A value may occur in several rows; [`RowStore::group`] finds them and [`RowStore::merge`] adds them up.

use std::sync::Arc;

use arrow::array::cast::AsArray;
use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::array::{DynComparator, make_comparator};
use arrow::compute::interleave;
use arrow::datatypes::{DataType, SchemaRef};
use hashbrown::HashMap;
use tidemill_zset::Diffs;
use tidemill_zset::buffers::in_one_buffer;
use tidemill_zset::hash::hash_columns;

use super::join_keys::normal;

/// Rows per block, and the most that one append takes.
pub const BLOCK_ROWS: usize = 1 << BLOCK_BITS;
const BLOCK_BITS: u32 = 13;
/// The end of a list.
pub const NIL: u32 = u32::MAX;
/// What comes after a row that is in no list any more.
const DEAD: u32 = NIL - 1;
/// Pieces of fewer rows than this are merged with their neighbours in a block.
const PIECE_ROWS_MIN: usize = 1024;
/// Text that refers to buffers more than this many times its own size is copied to a buffer of its own.
const BUFFER_WASTE_MAX: usize = 8;

struct Block {
    /// (place of the first row in the block, rows), ascending.
    pieces: Vec<(u32, RecordBatch)>,
    /// Places given out.
    len: usize,
    /// Rows that are in a list.
    live: usize,
    /// `None`: every diff is 1.
    diffs: Option<Vec<i64>>,
}

/// How many of its matches each row has, for outer joins with a filter.
#[derive(Default)]
pub struct MatchState {
    /// Sum of the diffs of the rows that it matches; per row number.
    pub matches: Vec<i64>,
    /// The output says that it has a match; per row number.
    pub shown: Vec<bool>,
    /// It is in the owner's list of rows to look at again; per row number.
    pub dirty: Vec<bool>,
}

/// See the module.
pub struct RowStore {
    schema: SchemaRef,
    blocks: Vec<Block>,
    next: Vec<u32>,
    all_ones: bool,
    live: usize,
    dead: usize,
    bytes: usize,
    /// Kept only for sides that need it.
    pub matching: Option<MatchState>,
    /// Scratch of `locate`: first local piece number of each block, or `NIL`.
    local: Vec<u32>,
}

impl RowStore {
    /// An empty store of rows of `schema`.
    pub fn new(schema: SchemaRef, with_matching: bool) -> Self {
        RowStore {
            schema,
            blocks: Vec::new(),
            next: Vec::new(),
            all_ones: true,
            live: 0,
            dead: 0,
            bytes: 0,
            matching: with_matching.then(MatchState::default),
            local: Vec::new(),
        }
    }

    /// Columns of the rows.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Rows in lists.
    pub fn live(&self) -> usize {
        self.live
    }

    /// Rows that take space but are in no list any more.
    pub fn dead(&self) -> usize {
        self.dead
    }

    /// True if every row has diff 1.
    pub fn all_ones(&self) -> bool {
        self.all_ones
    }

    /// Approximate bytes of memory.
    pub fn bytes(&self) -> usize {
        let per_row = if self.matching.is_some() { 14 } else { 4 };
        self.bytes + self.next.len() * per_row
    }

    /// Adds `rows` (at most [`BLOCK_ROWS`]) and returns the number of the first; the others follow. They are in
    /// no list yet: the caller links each of them.
    pub fn append(&mut self, rows: &RecordBatch, diffs: &Diffs) -> u32 {
        let n = rows.num_rows();
        assert!(n <= BLOCK_ROWS, "the caller cuts batches");
        let fits = self
            .blocks
            .last()
            .is_some_and(|b| b.len + n <= BLOCK_ROWS && b.live > 0);
        if !fits {
            self.blocks.push(Block {
                pieces: Vec::with_capacity(1),
                len: 0,
                live: 0,
                diffs: None,
            });
            assert!(
                self.blocks.len() < (NIL >> BLOCK_BITS) as usize,
                "more rows in one worker's join side than its row numbers reach"
            );
        }
        let index = self.blocks.len() - 1;
        let block = &mut self.blocks[index];
        let place = block.len;
        if let (Diffs::Each(_), None) = (diffs, &block.diffs) {
            block.diffs = Some(vec![1; place]);
            self.all_ones = false;
        }
        if let Some(all) = &mut block.diffs {
            match diffs {
                Diffs::Ones => all.resize(place + n, 1),
                Diffs::Each(d) => all.extend_from_slice(d),
            }
            self.bytes += n * 8;
        }
        let rows = without_waste(rows);
        self.bytes += memory_bytes(&rows);
        block.pieces.push((place as u32, rows));
        block.len += n;
        block.live += n;
        merge_small(&mut block.pieces, &self.schema);
        let first = (index << BLOCK_BITS) + place;
        let end = first + n;
        self.next.resize(end, NIL);
        if let Some(m) = &mut self.matching {
            m.matches.resize(end, 0);
            m.shown.resize(end, false);
            m.dirty.resize(end, false);
        }
        self.live += n;
        first as u32
    }

    /// The row after `row` in its list.
    #[inline]
    pub fn next(&self, row: u32) -> u32 {
        self.next[row as usize]
    }

    /// Whether a row is in no list any more.
    #[inline]
    pub fn is_dead(&self, row: u32) -> bool {
        self.next[row as usize] == DEAD
    }

    /// Whether the list that starts at `head` has more than `rows` rows.
    pub fn is_longer(&self, head: u32, rows: usize) -> bool {
        let here = |row: u32| (row != NIL).then_some(row);
        let mut list = std::iter::successors(here(head), |row| here(self.next(*row)));
        list.nth(rows).is_some()
    }

    /// Puts `row` before the list that starts at `head` and makes it the head.
    #[inline]
    pub fn link(&mut self, row: u32, head: &mut u32) {
        self.next[row as usize] = *head;
        *head = row;
    }

    /// The diff of a row.
    #[inline]
    pub fn diff(&self, row: u32) -> i64 {
        match &self.blocks[(row >> BLOCK_BITS) as usize].diffs {
            None => 1,
            Some(d) => d[row as usize & (BLOCK_ROWS - 1)],
        }
    }

    /// Appends the row numbers of the list that starts at `head`.
    pub fn collect(&self, mut head: u32, out: &mut Vec<u32>) {
        while head != NIL {
            out.push(head);
            head = self.next(head);
        }
    }

    /// `columns` of the given rows, in that order.
    pub fn gather(&mut self, rows: &[u32], columns: &[usize]) -> Vec<ArrayRef> {
        if columns.is_empty() {
            return Vec::new();
        }
        if rows.is_empty() {
            let empty =
                |c: &usize| arrow::array::new_empty_array(self.schema.field(*c).data_type());
            return columns.iter().map(empty).collect();
        }
        let (pieces, places) = self.locate(rows);
        columns
            .iter()
            .map(|c| {
                let arrays: Vec<&dyn Array> =
                    pieces.iter().map(|p| p.column(*c).as_ref()).collect();
                interleave(&arrays, &places).expect("pieces of one schema")
            })
            .collect()
    }

    /// All columns of the given rows as a batch.
    pub fn gather_rows(&mut self, rows: &[u32]) -> RecordBatch {
        let columns: Vec<usize> = (0..self.schema.fields().len()).collect();
        let arrays = self.gather(rows, &columns);
        batch_of(&self.schema, arrays, rows.len())
    }

    /// The batches that hold `rows`, and for each row its batch and its place in that.
    fn locate(&mut self, rows: &[u32]) -> (Vec<&RecordBatch>, Vec<(usize, usize)>) {
        self.local.resize(self.blocks.len(), NIL);
        let mut pieces: Vec<&RecordBatch> = Vec::new();
        let mut touched: Vec<usize> = Vec::new();
        let mut places = Vec::with_capacity(rows.len());
        for row in rows {
            let b = (row >> BLOCK_BITS) as usize;
            let block = &self.blocks[b];
            if self.local[b] == NIL {
                self.local[b] = pieces.len() as u32;
                touched.push(b);
                pieces.extend(block.pieces.iter().map(|p| &p.1));
            }
            let base = self.local[b] as usize;
            let place = *row & (BLOCK_ROWS as u32 - 1);
            if block.pieces.len() == 1 {
                places.push((base, place as usize));
            } else {
                let piece = block.pieces.partition_point(|p| p.0 <= place) - 1;
                places.push((base + piece, (place - block.pieces[piece].0) as usize));
            }
        }
        for b in touched {
            self.local[b] = NIL;
        }
        (pieces, places)
    }

    /// Finds the equal rows within each of the lists that start at `heads`. Nothing is changed.
    pub fn group(&mut self, heads: &[u32]) -> Groups {
        let mut rows = Vec::new();
        let mut lists = Vec::new();
        for (i, head) in heads.iter().enumerate() {
            self.collect(*head, &mut rows);
            lists.resize(rows.len(), i as u32);
        }
        let batch = self.gather_rows(&rows);
        let hashes = hash_columns(batch.columns(), rows.len());
        let mut order: Vec<u32> = (0..rows.len() as u32).collect();
        order.sort_unstable_by_key(|i| (lists[*i as usize], hashes[*i as usize], *i));
        let equal = RowEquality::new(&batch);
        let same_hash = |a: u32, b: u32| {
            let (a, b) = (a as usize, b as usize);
            lists[a] == lists[b] && hashes[a] == hashes[b]
        };
        let mut groups = Groups::default();
        for run in order.chunk_by_mut(|a, b| same_hash(*a, *b)) {
            let mut left = run;
            while let [first, rest @ ..] = left {
                // Rows that only share the hash are groups of their own, and may lie between equal ones.
                let mut members = 1;
                for i in 0..rest.len() {
                    if equal.test(*first as usize, rest[i] as usize) {
                        rest[members - 1..=i].rotate_right(1);
                        members += 1;
                    }
                }
                let list = lists[*first as usize];
                let (group, others) = left.split_at_mut(members);
                groups.rows.extend(group.iter().map(|i| rows[*i as usize]));
                groups.ends.push(groups.rows.len());
                groups.lists.push(list);
                left = others;
            }
        }
        groups
    }

    /// Makes each group one row, or none if its diffs add up to zero; gives back the new heads of the `lists` lists.
    pub fn merge(&mut self, groups: &Groups, lists: usize) -> Vec<u32> {
        let mut heads = vec![NIL; lists];
        for (list, rows) in groups.iter() {
            let sum = rows.iter().map(|row| self.diff(*row)).sum();
            let kept = usize::from(sum != 0);
            rows[kept..].iter().for_each(|row| self.kill(*row));
            if sum != 0 {
                self.set_diff(rows[0], sum);
                self.link(rows[0], &mut heads[list as usize]);
            }
        }
        heads
    }

    fn set_diff(&mut self, row: u32, diff: i64) {
        let block = &mut self.blocks[(row >> BLOCK_BITS) as usize];
        let len = block.len;
        if block.diffs.is_none() && diff != 1 {
            block.diffs = Some(vec![1; len]);
            self.all_ones = false;
            self.bytes += len * 8;
        }
        if let Some(d) = &mut block.diffs {
            d[row as usize & (BLOCK_ROWS - 1)] = diff;
        }
    }

    /// Takes a row out of the store; the caller has taken it out of its list.
    fn kill(&mut self, row: u32) {
        self.live -= 1;
        self.dead += 1;
        self.next[row as usize] = DEAD;
        let block = &mut self.blocks[(row >> BLOCK_BITS) as usize];
        block.live -= 1;
        if block.live == 0 {
            let freed: usize = block.pieces.iter().map(|p| memory_bytes(&p.1)).sum();
            self.bytes = self.bytes.saturating_sub(freed);
            if let Some(d) = block.diffs.take() {
                self.bytes = self.bytes.saturating_sub(d.len() * 8);
            }
            block.pieces = Vec::new();
            // Its row numbers aren't given out again before the store is rebuilt.
            block.len = BLOCK_ROWS;
        }
    }
}

/// Rows of some lists, equal ones together; ascending by list.
#[derive(Default)]
pub struct Groups {
    rows: Vec<u32>,
    /// End of each group in `rows`.
    ends: Vec<usize>,
    /// Which list each group is of.
    lists: Vec<u32>,
}

impl Groups {
    /// Each group's list, and its rows.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &[u32])> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let ranges = starts.zip(&self.ends).zip(&self.lists);
        ranges.map(|((start, end), list)| (*list, &self.rows[start..*end]))
    }
}

/// Slots whose lists have had retractions, and when it pays to add up their rows.
#[derive(Default)]
pub struct Debts {
    /// Slot → (retractions since the list was last looked at, its length then).
    lists: HashMap<u32, (u32, u32)>,
    due: Vec<u32>,
}

/// Lists shorter than this are consolidated after every epoch that retracted from them.
const SHORT_LIST: u32 = 16;

impl Debts {
    /// Notes a retraction from the list of `slot`.
    pub fn note(&mut self, slot: u32) {
        let (retractions, length) = self.lists.entry(slot).or_insert((0, 0));
        *retractions += 1;
        if *retractions == 1.max(*length / 4) {
            self.due.push(slot);
        }
    }

    /// The slots to consolidate now. The others have been measured and wait for more retractions.
    pub fn due(&mut self, store: &RowStore, head: impl Fn(u32) -> u32) -> Vec<u32> {
        let mut out = Vec::new();
        for slot in std::mem::take(&mut self.due) {
            let entry = self.lists.entry(slot).or_insert((0, 0));
            let first = entry.1 == 0;
            let mut length = 0;
            let mut row = head(slot);
            while row != NIL {
                length += 1;
                row = store.next(row);
            }
            if first && length > SHORT_LIST {
                // Seen for the first time: wait until the retractions are a fair part of it.
                entry.1 = length;
                if entry.0 < length / 4 {
                    continue;
                }
            }
            self.lists.remove(&slot);
            out.push(slot);
        }
        out
    }

    /// Forgets everything, after the slots have been renumbered.
    pub fn clear(&mut self) {
        self.lists.clear();
        self.due.clear();
    }
}

/// A batch of `schema`, also if it has no columns.
pub fn batch_of(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> RecordBatch {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(schema.clone(), columns, &options)
        .unwrap_or_else(|e| panic!("rows don't fit the plan's schema: {e}"))
}

/// Compares rows of one batch, all columns; NULL equals NULL, NaN equals NaN, -0 equals 0.
struct RowEquality(Vec<DynComparator>);

impl RowEquality {
    fn new(batch: &RecordBatch) -> Self {
        let of = |c: &ArrayRef| {
            let c = normal(c);
            comparator(&c, &c)
        };
        RowEquality(batch.columns().iter().map(of).collect())
    }

    fn test(&self, a: usize, b: usize) -> bool {
        self.0.iter().all(|c| c(a, b).is_eq())
    }
}

/// Compares values of two columns of one type; NULL equals NULL.
pub fn comparator(a: &ArrayRef, b: &ArrayRef) -> DynComparator {
    make_comparator(a.as_ref(), b.as_ref(), Default::default())
        .unwrap_or_else(|e| panic!("values of type {} can't be compared: {e}", a.data_type()))
}

/// Merges tiny pieces at the end, so that sizes at least double from the end to the front.
fn merge_small(pieces: &mut Vec<(u32, RecordBatch)>, schema: &SchemaRef) {
    loop {
        let [.., (_, a), (_, b)] = pieces.as_slice() else {
            return;
        };
        if b.num_rows() >= PIECE_ROWS_MIN || a.num_rows() >= 2 * b.num_rows() {
            return;
        }
        let merged = arrow::compute::concat_batches(schema, [a, b])
            .expect("pieces of one schema, of at most a block together");
        pieces.pop();
        pieces.last_mut().expect("there were two").1 = release_buffers(&merged, 1);
    }
}

/// Bytes that the rows of a batch take. Unlike Arrow's own count it doesn't charge a slice for the whole
/// buffer that it is cut from.
pub fn memory_bytes(rows: &RecordBatch) -> usize {
    rows.columns().iter().map(column_bytes).sum()
}

fn column_bytes(column: &ArrayRef) -> usize {
    let n = column.len();
    if n == 0 {
        return 0;
    }
    if let Some(width) = column.data_type().primitive_width() {
        return n * width;
    }
    match column.data_type() {
        DataType::Boolean => n.div_ceil(8),
        DataType::Utf8 => {
            let offsets = column.as_string::<i32>().value_offsets();
            4 * n + (offsets[n] - offsets[0]) as usize
        }
        DataType::Binary => {
            let offsets = column.as_binary::<i32>().value_offsets();
            4 * n + (offsets[n] - offsets[0]) as usize
        }
        DataType::Utf8View => {
            let views = column.as_string_view().views();
            16 * n + views.iter().map(|v| view_bytes(*v)).sum::<usize>()
        }
        DataType::BinaryView => {
            let views = column.as_binary_view().views();
            16 * n + views.iter().map(|v| view_bytes(*v)).sum::<usize>()
        }
        DataType::Struct(_) => {
            let inner = column.as_struct().columns();
            inner.iter().map(column_bytes).sum()
        }
        _ => column.get_array_memory_size(),
    }
}

/// `rows`, which won't keep much more text alive than is theirs.
pub fn without_waste(rows: &RecordBatch) -> RecordBatch {
    release_buffers(rows, BUFFER_WASTE_MAX)
}

/// `rows`, with columns of views copied if their buffers are more than `waste_max` times what the views use: a few
/// rows that are left of a large batch must not keep its text alive.
fn release_buffers(rows: &RecordBatch, waste_max: usize) -> RecordBatch {
    let release = |column: &ArrayRef| -> ArrayRef {
        let (used, buffers) = match column.data_type() {
            DataType::Utf8View => view_usage(column.as_string_view()),
            DataType::BinaryView => view_usage(column.as_binary_view()),
            _ => return column.clone(),
        };
        match buffers <= used * waste_max {
            true => column.clone(),
            false => in_one_buffer(column),
        }
    };
    let columns = rows.columns().iter().map(release).collect();
    batch_of(rows.schema_ref(), columns, rows.num_rows())
}

/// Bytes outside the views that they use, and bytes that their buffers have.
fn view_usage<T: arrow::datatypes::ByteViewType>(
    views: &arrow::array::GenericByteViewArray<T>,
) -> (usize, usize) {
    let buffers = views.data_buffers().iter().map(|b| b.len()).sum();
    if buffers == 0 {
        return (0, 0);
    }
    (views.views().iter().map(|v| view_bytes(*v)).sum(), buffers)
}

/// Bytes outside the view itself.
fn view_bytes(view: u128) -> usize {
    match view as u32 as usize {
        0..=12 => 0,
        n => n,
    }
}

/// `schema` with every field nullable.
pub fn nullable(schema: &SchemaRef) -> SchemaRef {
    let fields = schema
        .fields()
        .iter()
        .map(|f| f.as_ref().clone().with_nullable(true));
    Arc::new(arrow::datatypes::Schema::new(fields.collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::Int64Array;

    #[test]
    fn equal_rows_with_another_of_their_hash_between_them() {
        let other = -7_021_267_108_112_166_320;
        let column = |values: Vec<i64>| Arc::new(Int64Array::from(values)) as ArrayRef;
        let rows = RecordBatch::try_from_iter([
            ("a", column(vec![2, 1, 2, 1, 2])),
            ("b", column(vec![other, 1, other, 1, other])),
        ])
        .expect("two columns");
        let hashes = hash_columns(rows.columns(), 5);
        assert!(hashes.iter().all(|h| *h == hashes[0]), "{hashes:?}");
        let mut store = RowStore::new(rows.schema(), false);
        let diffs = Diffs::Each(vec![1, 2, 1, -1, -2].into());
        let first = store.append(&rows, &diffs);
        let mut head = NIL;
        (first..first + 5).for_each(|row| store.link(row, &mut head));
        let groups = store.group(&[head]);
        let sizes: Vec<usize> = groups.iter().map(|(_, rows)| rows.len()).collect();
        assert_eq!(sizes, [3, 2]);
        let heads = store.merge(&groups, 1);
        let mut left = vec![];
        store.collect(heads[0], &mut left);
        let left: Vec<i64> = left.into_iter().map(|row| store.diff(row)).collect();
        assert_eq!(left, [1]);
    }
}
