//! [`SortedExec`]: all rows of an input in an order, in place of DataFusion's `SortExec`, which sorts batches and merges a hundred of
//! them by comparing keys byte by byte.
//!
//! All rows are there before anything is sorted, so that keys can be packed into integers (`sort_keys`). Those are sorted in segments,
//! as their rows are asked for. Rows with equal keys are ordered by what their keys leave out, and then stay in the order they came in.

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{SortOptions, interleave, take};
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, SortField};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::config::ConfigOptions;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use datafusion_common::tree_node::Transformed;
use datafusion_common::utils::memory::RecordBatchMemoryCounter;
use datafusion_common::{Result, internal_err};
use datafusion_physical_expr::{LexOrdering, PhysicalExpr};
use futures::{StreamExt, TryStreamExt};

use super::sort_keys::Packing;
use crate::tree::Tree;

/// Keys that are sorted at once: few enough for the second-level cache.
const SEGMENT_ROWS: usize = if cfg!(test) { 50 } else { 1 << 15 };

/// Takes [`SortedExec`] where all rows are sorted.
#[derive(Debug)]
pub(super) struct Sorts;

impl PhysicalOptimizerRule for Sorts {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let plan = plan.change_up(&mut |node| {
            Ok(match node.downcast_ref::<SortExec>() {
                Some(sort) if sort.fetch().is_none() && !sort.preserve_partitioning() => {
                    let sort = Arc::new(sort.clone());
                    Transformed::yes(Arc::new(SortedExec { sort }))
                }
                _ => Transformed::no(node),
            })
        })?;
        Ok(plan.data)
    }

    fn name(&self) -> &str {
        "Sorts"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct SortedExec {
    /// What it stands for.
    sort: Arc<SortExec>,
}

impl DisplayAs for SortedExec {
    fn fmt_as(&self, t: DisplayFormatType, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.sort.fmt_as(t, f)
    }
}

impl ExecutionPlan for SortedExec {
    fn name(&self) -> &str {
        "SortedExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.sort.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![self.sort.input()]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.sort.apply_expressions(f)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let (Some(input), true) = (children.pop(), children.is_empty()) else {
            return internal_err!("a sort has one input");
        };
        let sort = Arc::new(SortExec::new(self.sort.expr().clone(), input));
        Ok(Arc::new(SortedExec { sort }))
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(
            children,
            ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute),
        )
    }

    fn execute(&self, n: usize, task: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let mut input = self.sort.input().execute(n, task.clone())?;
        let consumer = MemoryConsumer::new("rows to sort");
        let mut rows = Rows {
            schema: self.schema(),
            order: self.sort.expr().clone(),
            batches: vec![],
            keys: vec![vec![]; self.sort.expr().len()],
            memory: consumer.register(task.memory_pool()),
            counted: RecordBatchMemoryCounter::new(),
            batch_rows: task.session_config().batch_size(),
        };
        let sorted = async move {
            while let Some(batch) = input.next().await {
                rows.add(batch?)?;
            }
            drop(input);
            rows.sorted().map(futures::stream::iter)
        };
        let sorted = futures::stream::once(sorted).try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            self.schema(),
            sorted,
        )))
    }
}

/// The rows as they come.
struct Rows {
    schema: SchemaRef,
    order: LexOrdering,
    batches: Vec<RecordBatch>,
    /// The batches' values of each expression of the order.
    keys: Vec<Vec<ArrayRef>>,
    memory: MemoryReservation,
    counted: RecordBatchMemoryCounter,
    batch_rows: usize,
}

impl Rows {
    fn add(&mut self, batch: RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        // Many batches may be parts of the same buffers.
        self.memory.try_grow(self.counted.count_batch(&batch))?;
        for (sort, keys) in self.order.iter().zip(&mut self.keys) {
            keys.push(sort.evaluate_to_sort_column(&batch)?.values);
        }
        self.batches.push(batch);
        Ok(())
    }

    /// The rows in their order, batch by batch.
    fn sorted(self) -> Result<Box<dyn Iterator<Item = Result<RecordBatch>> + Send>> {
        let options: Vec<SortOptions> = self.order.iter().map(|s| s.options).collect();
        let packing = Packing::of(&self.keys, &options)?;
        Ok(match packing.bits <= u64::BITS {
            true => Box::new(Sorted::<Narrow>::new(self, packing, options)?),
            false => Box::new(Sorted::<Wide>::new(self, packing, options)?),
        })
    }
}

/// A row: its packed key, and the numbers of its batch and of the row there. Those with equal keys are in the order they came in.
trait Entry: Copy + Ord + Send {
    fn new(key: u128, batch: usize, row: usize) -> Self;
    fn key(&self) -> u128;
    fn place(&self) -> (usize, usize);
}

/// Key, batch and row in one integer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Narrow(u128);

impl Entry for Narrow {
    fn new(key: u128, batch: usize, row: usize) -> Self {
        Narrow(key << 64 | (batch as u128) << 32 | row as u128)
    }

    fn key(&self) -> u128 {
        self.0 >> 64
    }

    fn place(&self) -> (usize, usize) {
        ((self.0 >> 32) as u32 as usize, self.0 as u32 as usize)
    }
}

/// For keys of more than 64 bits; they are in halves because an integer of 128 bits would be aligned to as many.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Wide {
    high: u64,
    low: u64,
    batch: u32,
    row: u32,
}

impl Entry for Wide {
    fn new(key: u128, batch: usize, row: usize) -> Self {
        Wide {
            high: (key >> 64) as u64,
            low: key as u64,
            batch: batch as u32,
            row: row as u32,
        }
    }

    fn key(&self) -> u128 {
        u128::from(self.high) << 64 | u128::from(self.low)
    }

    fn place(&self) -> (usize, usize) {
        (self.batch as usize, self.row as usize)
    }
}

impl Ord for Wide {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_key = self.key().cmp(&other.key());
        by_key.then_with(|| (self.batch, self.row).cmp(&(other.batch, other.row)))
    }
}

impl PartialOrd for Wide {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Rows, of which more and more are sorted.
struct Sorted<E> {
    rows: Rows,
    options: Vec<SortOptions>,
    /// The first expression of the order that keys don't tell all of.
    open: usize,
    entries: Vec<E>,
    /// Where segments end of which each has no key below those before it; the one that comes first is the last one.
    ends: Vec<usize>,
    /// Up to here entries are sorted; and also by what keys leave out; and given.
    sorted: usize,
    ready: usize,
    given: usize,
}

impl<E: Entry> Iterator for Sorted<E> {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let end = (self.given + self.rows.batch_rows).min(self.entries.len());
        while self.ready < end {
            self.sort_more();
            if let Err(e) = self.settle() {
                return Some(Err(e));
            }
        }
        let range = self.given..end;
        self.given = end;
        (!range.is_empty()).then(|| self.gathered(range))
    }
}

impl<E: Entry> Sorted<E> {
    /// Packs the keys of all rows; none of them is sorted.
    fn new(rows: Rows, packing: Packing, options: Vec<SortOptions>) -> Result<Self> {
        let count = rows.batches.iter().map(RecordBatch::num_rows).sum();
        rows.memory.try_grow(count * size_of::<E>())?;
        let mut entries = Vec::with_capacity(count);
        for (n, batch) in rows.batches.iter().enumerate() {
            let columns = rows.keys.iter().map(|parts| parts[n].clone());
            let columns: Vec<ArrayRef> = columns.collect();
            let keys = packing.keys(&columns, batch.num_rows())?;
            let keys = keys.into_iter().enumerate();
            entries.extend(keys.map(|(row, key)| E::new(key, n, row)));
        }
        Ok(Sorted {
            ends: vec![entries.len()],
            entries,
            sorted: 0,
            ready: 0,
            given: 0,
            open: packing.open.unwrap_or(rows.keys.len()),
            options,
            rows,
        })
    }

    /// Sorts the next segment.
    fn sort_more(&mut self) {
        let from = self.sorted;
        while let Some(&end) = self.ends.last() {
            let rest = &mut self.entries[from..end];
            if rest.len() > SEGMENT_ROWS {
                let middle = rest.len() / 2;
                rest.select_nth_unstable(middle);
                self.ends.push(from + middle);
                continue;
            }
            rest.sort_unstable();
            self.ends.pop();
            self.sorted = end;
            if end > from {
                return;
            }
        }
    }

    /// Orders rows of equal keys that are all known.
    fn settle(&mut self) -> Result<()> {
        let all = self.sorted == self.entries.len();
        if self.open == self.options.len() {
            self.ready = self.sorted;
            return Ok(());
        }
        // Where they aren't, equal keys may follow.
        let mut end = self.sorted;
        if !all && let Some(last) = self.entries[..end].last() {
            let key = last.key();
            end = self.ready + self.entries[self.ready..end].partition_point(|e| e.key() < key);
        }
        let range = self.ready..end;
        self.ready = end;
        self.order_ties(range)
    }

    fn order_ties(&mut self, range: Range<usize>) -> Result<()> {
        let entries = &mut self.entries[range];
        let ties = |group: &&mut [E]| group.len() > 1;
        let groups = entries.chunk_by_mut(|a, b| a.key() == b.key()).filter(ties);
        let groups: Vec<&mut [E]> = groups.collect();
        if groups.is_empty() {
            return Ok(());
        }
        let tied: Vec<(usize, usize)> =
            groups.iter().flat_map(|g| g.iter()).map(E::place).collect();
        let open = &self.rows.keys[self.open..];
        let columns = open.iter().map(|parts| {
            let parts = parts.iter().map(|p| p.as_ref());
            chosen(parts.collect(), &tied)
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let fields = columns.iter().zip(&self.options[self.open..]);
        let fields = fields.map(|(c, o)| SortField::new_with_options(c.data_type().clone(), *o));
        let rows = RowConverter::new(fields.collect())?.convert_columns(&columns)?;
        let memory = self.rows.memory.new_empty();
        memory.try_grow(rows.size())?;
        let mut from = 0;
        for group in groups {
            // They are in the order that they came in.
            let mut order: Vec<usize> = (0..group.len()).collect();
            order.sort_by(|a, b| rows.row(from + a).cmp(&rows.row(from + b)));
            from += group.len();
            let sorted: Vec<E> = order.into_iter().map(|i| group[i]).collect();
            group.copy_from_slice(&sorted);
        }
        Ok(())
    }

    fn gathered(&self, range: Range<usize>) -> Result<RecordBatch> {
        let rows = range.len();
        let places: Vec<(usize, usize)> = self.entries[range].iter().map(E::place).collect();
        let batches = &self.rows.batches;
        let columns = (0..self.rows.schema.fields().len()).map(|c| {
            let parts = batches.iter().map(|b| b.column(c).as_ref());
            chosen(parts.collect(), &places)
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let schema = self.rows.schema.clone();
        Ok(RecordBatch::try_new_with_options(
            schema, columns, &options,
        )?)
    }
}

/// The values at `places`.
fn chosen(parts: Vec<&dyn Array>, places: &[(usize, usize)]) -> Result<ArrayRef> {
    if let [only] = parts.as_slice() {
        let rows = places.iter().map(|(_, row)| *row as u32);
        return Ok(take(*only, &UInt32Array::from_iter_values(rows), None)?);
    }
    Ok(interleave(&parts, places)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{
        BinaryArray, BooleanArray, Decimal128Array, Float64Array, Int16Array, Int64Array,
        StringArray, TimestampMicrosecondArray,
    };
    use arrow::compute::{SortColumn, concat_batches, lexsort_to_indices, take_record_batch};
    use arrow::datatypes::{Field, Schema};
    use datafusion::execution::memory_pool::{MemoryPool, UnboundedMemoryPool};
    use datafusion_physical_expr::PhysicalSortExpr;
    use datafusion_physical_expr::expressions::Column;
    use rand::{Rng, SeedableRng};

    /// A column of values that are often equal, often NULL or never.
    fn column(rng: &mut impl Rng, kind: u32, rows: usize) -> ArrayRef {
        let nulls = [0.0, 0.0, 0.3][rng.random_range(0..3)];
        let spread = [2, 300, i64::MAX][rng.random_range(0..3)];
        let least = [-1, 0, 5_000_000_000][rng.random_range(0..3)];
        let values: Vec<Option<i64>> = (0..rows)
            .map(|_| {
                let v = i64::saturating_add(rng.random_range(0..spread), least);
                (!rng.random_bool(nulls)).then_some(v)
            })
            .collect();
        let some = values.iter().copied();
        match kind {
            0 => Arc::new(some.collect::<Int64Array>()),
            1 => Arc::new(some.map(|v| v.map(|v| v as i16)).collect::<Int16Array>()),
            2 => Arc::new(
                some.map(|v| v.map(|v| v % 2 == 0))
                    .collect::<BooleanArray>(),
            ),
            3 => Arc::new(
                some.map(|v| v.map(|v| (v as f64 - 3.0) / 7.0))
                    .collect::<Float64Array>(),
            ),
            4 => {
                let wide = some.map(|v| v.map(|v| i128::from(v) * i128::from(v) - 77));
                Arc::new(wide.collect::<Decimal128Array>())
            }
            5 => {
                let texts = some.map(|v| v.map(|v| format!("the same for all of them {v:x}")));
                Arc::new(texts.collect::<StringArray>())
            }
            6 => {
                let texts = some.map(|v| v.map(|v| ["", "a", "ab", "b"][v as usize % 4]));
                Arc::new(texts.collect::<StringArray>())
            }
            7 => {
                let bytes = some.map(|v| v.map(|v| vec![0u8; v as usize % 5]));
                let bytes: Vec<Option<Vec<u8>>> = bytes.collect();
                Arc::new(bytes.iter().map(|b| b.as_deref()).collect::<BinaryArray>())
            }
            _ => Arc::new(some.collect::<TimestampMicrosecondArray>()),
        }
    }

    #[test]
    fn sorts_like_arrow_and_keeps_equal_rows_in_order() {
        let seed = 11;
        println!("seed {seed}");
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let pool: Arc<dyn MemoryPool> = Arc::new(UnboundedMemoryPool::default());
        for round in 0..300 {
            let kinds: Vec<u32> = (0..rng.random_range(1..5))
                .map(|_| rng.random_range(0..9))
                .collect();
            let rows = rng.random_range(1..700);
            let number = Arc::new(Int64Array::from_iter_values(0..rows as i64));
            let mut columns: Vec<ArrayRef> = kinds
                .iter()
                .map(|kind| column(&mut rng, *kind, rows))
                .collect();
            columns.push(number);
            let fields = columns.iter().enumerate();
            let fields =
                fields.map(|(i, c)| Field::new(format!("c{i}"), c.data_type().clone(), true));
            let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
            let all = RecordBatch::try_new(schema.clone(), columns).expect("columns of the schema");
            let order: Vec<PhysicalSortExpr> = (0..kinds.len())
                .map(|i| PhysicalSortExpr {
                    expr: Arc::new(Column::new(&format!("c{i}"), i)),
                    options: SortOptions {
                        descending: rng.random(),
                        nulls_first: rng.random(),
                    },
                })
                .collect();
            // The rows' numbers stand for the order they came in.
            let by = order.iter().enumerate().map(|(i, o)| SortColumn {
                values: all.column(i).clone(),
                options: Some(o.options),
            });
            let last = SortColumn {
                values: all.column(kinds.len()).clone(),
                options: None,
            };
            let by: Vec<SortColumn> = by.chain([last]).collect();
            let indices = lexsort_to_indices(&by, None).expect("columns that can be sorted");
            let expected = take_record_batch(&all, &indices).expect("rows of the batch");

            let mut given = Rows {
                schema: schema.clone(),
                keys: vec![vec![]; order.len()],
                order: LexOrdering::new(order).expect("one column at least"),
                batches: vec![],
                memory: MemoryConsumer::new("test").register(&pool),
                counted: RecordBatchMemoryCounter::new(),
                batch_rows: 64,
            };
            let mut from = 0;
            while from < rows {
                let n = rng.random_range(1..200).min(rows - from);
                given.add(all.slice(from, n)).expect("memory");
                from += n;
            }
            let sorted = given.sorted().expect("columns that can be sorted");
            let sorted = sorted.collect::<Result<Vec<_>>>().expect("rows");
            let sorted = concat_batches(&schema, &sorted).expect("one schema");
            assert_eq!(sorted, expected, "round {round}, kinds {kinds:?}");
        }
    }
}
