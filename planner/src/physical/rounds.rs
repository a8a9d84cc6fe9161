//! WITH RECURSIVE: what was found in the last round, and with UNION, that a row that was found before isn't found again.
//!
//! DataFusion's own node takes the numbers that `GroupValues` gives to the rows of a batch for ascending. They aren't where two new rows have
//! one hash, and then it drops rows. So its node is one for UNION ALL here, and those above its two terms, which share what has been
//! found, let the new rows through, and hand them to the next round.

use std::fmt;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::config::ConfigOptions;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::aggregates::group_values::{GroupValues, new_group_values};
use datafusion::physical_plan::aggregates::order::GroupOrdering;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::recursive_query::RecursiveQueryExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::work_table::WorkTableExec;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use datafusion_common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion_common::{Result, internal_err};
use datafusion_physical_expr::PhysicalExpr;
use futures::{Stream, StreamExt, TryStreamExt, stream};

use crate::error::SqlError;
use crate::functions::external;
use crate::once::{OnceExec, forget};
use crate::recent::{Recent, RecentRowsExec, unknown};
use crate::tree::Tree;

type Plan = Arc<dyn ExecutionPlan>;

/// So many rows are a batch.
const TOGETHER_ROWS: usize = 4096;

/// Puts [`NewRowsExec`] above the terms of recursive queries, and what they find below them.
#[derive(Debug)]
pub(super) struct Rounds;

impl PhysicalOptimizerRule for Rounds {
    fn optimize(&self, plan: Plan, _: &ConfigOptions) -> Result<Plan> {
        let plan = plan.change_up(&mut |node| {
            let Some(query) = node.downcast_ref::<RecursiveQueryExec>() else {
                return Ok(Transformed::no(node));
            };
            let found = Arc::new(Mutex::new(Found::default()));
            let recent = Recent::new(is_read_once(query)?);
            let term = query.recursive_term().clone().change_up(&mut |node| {
                Ok(match node.downcast_ref::<RecentRowsExec>() {
                    Some(read) if read.query() == query.name() => {
                        Transformed::yes(Arc::new(read.of(&recent)) as Plan)
                    }
                    _ => Transformed::no(node),
                })
            })?;
            let anew = drawn_from_recent(query)?;
            let above = |term: &Plan, given| NewRowsExec {
                input: term.clone(),
                given,
                distinct: query.is_distinct(),
                found: found.clone(),
                recent: recent.clone(),
                anew: anew.clone(),
                properties: unknown(term.schema()),
            };
            let given = WorkTableExec::new(query.name().into(), query.schema(), None)?;
            let first = above(query.static_term(), None);
            let next = above(&term.data, Some(Arc::new(given)));
            let all = RecursiveQueryExec::try_new(
                query.name().into(),
                query.schema(),
                Arc::new(first),
                Arc::new(next),
                false,
            )?;
            Ok(Transformed::yes(Arc::new(all) as Plan))
        })?;
        Ok(plan.data)
    }

    fn name(&self) -> &str {
        "Rounds"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Whether the rows of a round are read in one place only, once.
fn is_read_once(query: &RecursiveQueryExec) -> Result<bool> {
    let (mut places, mut in_rounds) = (0, false);
    query.recursive_term().walk(&mut |node| {
        places += usize::from(reads(node, query));
        in_rounds |= node.is::<RecursiveQueryExec>() && below_reads(node, query)?;
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(places == 1 && !in_rounds)
}

/// Whether the node is one that reads the rows of a round of `query`.
fn reads(node: &Plan, query: &RecursiveQueryExec) -> bool {
    let read = node.downcast_ref::<RecentRowsExec>();
    read.is_some_and(|read| read.query() == query.name())
}

fn below_reads(plan: &Plan, query: &RecursiveQueryExec) -> Result<bool> {
    plan.any(&mut |node| Ok(reads(node, query)))
}

/// The numbers of parts of the term that are computed once in each round.
fn drawn_from_recent(query: &RecursiveQueryExec) -> Result<Arc<[usize]>> {
    let mut numbers = vec![];
    query.recursive_term().walk(&mut |node| {
        if let Some(once) = node.downcast_ref::<OnceExec>()
            && below_reads(node, query)?
        {
            numbers.push(once.number());
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(numbers.into())
}

/// How far a recursive query may go whose end nobody waits for and nobody can cancel, as that of a view. A setting of its task.
pub(crate) struct RoundsLimit {
    /// Rounds that it may take.
    pub rounds: usize,
    /// Rows that it may find.
    pub rows: usize,
    /// Bytes that their values may have.
    pub bytes: usize,
}

/// What was found in one execution.
#[derive(Default)]
struct Found {
    rounds: usize,
    rows: usize,
    bytes: usize,
    /// With UNION, all rows.
    all: Option<All>,
    /// Those of this round, if they are to be read more than once.
    next: Vec<RecordBatch>,
}

/// The rows that were found, each once.
struct All {
    rows: Box<dyn GroupValues>,
    memory: MemoryReservation,
    /// The rows of a batch by their numbers among all.
    numbers: Vec<usize>,
}

impl All {
    fn none(schema: SchemaRef, task: &TaskContext) -> Result<All> {
        let consumer = MemoryConsumer::new("rows of a recursive query");
        Ok(All {
            rows: new_group_values(schema, &GroupOrdering::None)?,
            memory: consumer.register(task.memory_pool()),
            numbers: vec![],
        })
    }

    /// Those rows of the batch that are new, each once.
    fn new_of(&mut self, batch: &RecordBatch) -> Result<RecordBatch> {
        let before = self.rows.len();
        self.numbers.clear();
        self.rows.intern(batch.columns(), &mut self.numbers)?;
        self.memory.try_resize(self.rows.size())?;
        let mut seen = vec![false; self.rows.len() - before];
        let is_new = |number: &usize| match number.checked_sub(before) {
            Some(at) => !std::mem::replace(&mut seen[at], true),
            None => false,
        };
        let new: BooleanArray = self.numbers.iter().map(is_new).map(Some).collect();
        Ok(filter_record_batch(batch, &new)?)
    }
}

impl Found {
    fn check(&self, limit: &RoundsLimit) -> Result<()> {
        let message = if self.rounds > limit.rounds {
            format!(
                "a recursive query of a view had no end after {} rounds",
                limit.rounds
            )
        } else if self.rows > limit.rows {
            format!(
                "a recursive query of a view found more than {} rows",
                limit.rows
            )
        } else if self.bytes > limit.bytes {
            format!(
                "a recursive query of a view found rows of more than {} bytes",
                limit.bytes
            )
        } else {
            return Ok(());
        };
        Err(external(SqlError::new("54000", message)))
    }
}

/// The bytes of a column's values, whoever shares their memory.
fn value_bytes(column: &ArrayRef) -> usize {
    match column.data_type() {
        DataType::Utf8View => column.as_string_view().lengths().map(|n| n as usize).sum(),
        DataType::BinaryView => column.as_binary_view().lengths().map(|n| n as usize).sum(),
        _ => column.to_data().get_slice_memory_size().unwrap_or_default(),
    }
}

fn locked(found: &Mutex<Found>) -> MutexGuard<'_, Found> {
    found.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The rows of its input, with UNION those that weren't found before.
pub(super) struct NewRowsExec {
    input: Plan,
    /// Where DataFusion's node leaves the rows of the last round, and holds their memory; `None`: above the first term, where nothing has been
    /// found when it begins.
    given: Option<Plan>,
    distinct: bool,
    found: Arc<Mutex<Found>>,
    /// The rows of the last round.
    recent: Recent,
    /// Parts of its term that each round computes anew.
    anew: Arc<[usize]>,
    properties: Arc<PlanProperties>,
}

impl fmt::Debug for NewRowsExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NewRowsExec({:?})", self.input)
    }
}

impl DisplayAs for NewRowsExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NewRowsExec")
    }
}

impl ExecutionPlan for NewRowsExec {
    fn name(&self) -> &str {
        "NewRowsExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Plan> {
        [&self.input].into_iter().chain(&self.given).collect()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        self.children().iter().map(|_| true).collect()
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        self.children().iter().map(|_| false).collect()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Plan>,
        _: ReplaceChildrenOptions,
    ) -> Result<Plan> {
        let mut children = children.into_iter();
        let (Some(input), given) = (children.next(), children.next()) else {
            return internal_err!("new rows are those of a term");
        };
        // Each round runs a copy of its term.
        Ok(Arc::new(NewRowsExec {
            input,
            given,
            distinct: self.distinct,
            found: self.found.clone(),
            recent: self.recent.clone(),
            anew: self.anew.clone(),
            properties: self.properties.clone(),
        }))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Plan>) -> Result<Plan> {
        self.replace_children(
            children,
            ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute),
        )
    }

    fn execute(&self, n: usize, task: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let limit = task.session_config().get_extension::<RoundsLimit>();
        match &self.given {
            None => {
                let none = || All::none(self.schema(), &task);
                let all = self.distinct.then(none).transpose()?;
                *locked(&self.found) = Found {
                    all,
                    ..Found::default()
                };
            }
            Some(given) => {
                let rows = given.execute(n, task.clone())?;
                let mut found = locked(&self.found);
                found.rounds += 1;
                limit.iter().try_for_each(|limit| found.check(limit))?;
                self.recent.set(mem::take(&mut found.next), rows);
                drop(found);
                forget(&self.anew, &task);
            }
        }
        let (found, keeps) = (self.found.clone(), !self.recent.is_read_once());
        let shared = found.clone();
        let new = self.input.execute(n, task)?.map(move |batch| {
            let mut found = locked(&shared);
            let new = match &mut found.all {
                Some(all) => all.new_of(&batch?)?,
                None => batch?,
            };
            if let Some(limit) = &limit {
                found.rows += new.num_rows();
                found.bytes += new.columns().iter().map(value_bytes).sum::<usize>();
                found.check(limit)?;
            }
            Ok(new)
        });
        let rows = together(self.schema(), new).inspect_ok(move |new| {
            if keeps {
                locked(&found).next.push(new.clone());
            }
        });
        let rows = RecordBatchStreamAdapter::new(self.schema(), rows);
        Ok(Box::pin(rows))
    }
}

/// Rows in batches of many, if there are as many: a round may make a batch of each row of the last one, and the next one of each of those.
fn together(
    schema: SchemaRef,
    rows: impl Stream<Item = Result<RecordBatch>> + Unpin,
) -> impl Stream<Item = Result<RecordBatch>> {
    stream::try_unfold(rows, move |mut rows| {
        let schema = schema.clone();
        async move {
            let (mut small, mut count) = (Vec::new(), 0);
            while count < TOGETHER_ROWS && small.len() < TOGETHER_ROWS / 2 {
                let Some(batch) = rows.try_next().await? else {
                    break;
                };
                count += batch.num_rows();
                small.extend((batch.num_rows() > 0).then_some(batch));
            }
            let batch = match &small[..] {
                [] => return Ok(None),
                [one] => one.clone(),
                _ => concat_batches(&schema, &small)?,
            };
            Ok(Some((batch, rows)))
        }
    })
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int32Array, StringViewArray};

    use super::*;

    #[test]
    fn values_count_once_whoever_shares_their_memory() {
        let texts = (0..100).map(|i| Some(format!("a text of more than twelve bytes, {i:03}")));
        let texts: ArrayRef = Arc::new(StringViewArray::from_iter(texts));
        assert_eq!(value_bytes(&texts.slice(0, 2)), 2 * 37);
        let numbers: ArrayRef = Arc::new(Int32Array::from_iter_values(0..100));
        assert_eq!(value_bytes(&numbers.slice(10, 5)), 5 * 4);
    }

    #[test]
    fn each_limit_is_one() {
        let limit = RoundsLimit {
            rounds: 2,
            rows: 10,
            bytes: 100,
        };
        let fails = |rounds, rows, bytes| {
            let found = Found {
                rounds,
                rows,
                bytes,
                ..Found::default()
            };
            found.check(&limit).err().map(|e| e.to_string())
        };
        assert_eq!(fails(2, 10, 100), None);
        for (failed, word) in [
            (fails(3, 0, 0), "2 rounds"),
            (fails(0, 11, 0), "10 rows"),
            (fails(0, 0, 101), "100 bytes"),
        ] {
            assert!(
                failed.as_ref().is_some_and(|m| m.contains(word)),
                "{failed:?}"
            );
        }
    }
}
