//! What is the same in all rounds of a recursive query is computed in one of them.
//!
//! DataFusion runs the recursive term anew in each round, and in each reads its tables to their ends, aggregates them, and puts them into
//! hash tables. The parts without the rows of the last round are fixed: [`KeptRowsExec`] keeps their rows, and [`KeptJoinExec`] the
//! hash table of a join's fixed side, whatever side DataFusion would take. A [`RangeJoinExec`] keeps the order of what it searches.

use std::fmt;
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::coop::cooperative;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::execution_plan::{
    ChildrenPropertiesMode, ReplaceChildrenOptions, reset_plan_states,
};
use datafusion::physical_plan::joins::HashJoinExec;
use datafusion::physical_plan::placeholder_row::PlaceholderRowExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::recursive_query::RecursiveQueryExec;
use datafusion::physical_plan::scalar_subquery::ScalarSubqueryExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::work_table::WorkTableExec;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use datafusion_common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion_common::utils::memory::RecordBatchMemoryCounter;
use datafusion_common::{DataFusionError, JoinType, Result, internal_err};
use datafusion_physical_expr::PhysicalExpr;
use futures::{StreamExt, TryStreamExt, stream};

use super::first_rows::FirstRowsExec;
use super::lookups::LookupJoinExec;
use super::range_join::RangeJoinExec;
use super::rounds::NewRowsExec;
use crate::recent::RecentRowsExec;
use crate::tree::Tree;

type Plan = Arc<dyn ExecutionPlan>;

/// Bytes that one part keeps; one that has more is computed anew each time.
const KEPT_BYTES_MAX: usize = 1 << 30;
/// One of so many parts of the memory of all queries is the most that one part keeps: what is kept isn't given back where it is short.
const KEPT_PART: usize = 4;

/// Rounds after which a hash table is made anew: each leaves a few measurements in it.
const ROUNDS_MAX: usize = 4096;

/// The plan with the fixed parts of its recursive queries kept. It can be executed once.
pub(crate) fn keep_fixed(plan: Plan) -> Result<Plan> {
    let kept = plan.change_up(&mut |node| {
        let Some(query) = node.downcast_ref::<RecursiveQueryExec>() else {
            return Ok(Transformed::no(node));
        };
        let term = query.recursive_term();
        // The values of its expressions are put into a plan before it runs, and what is kept wouldn't see it.
        if term.any(&mut |node| Ok(node.is::<ScalarSubqueryExec>()))? {
            return Ok(Transformed::no(node));
        }
        let kept = RecursiveQueryExec::try_new(
            query.name().into(),
            query.schema(),
            query.static_term().clone(),
            term_of_kept(term)?,
            query.is_distinct(),
        )?;
        Ok(Transformed::yes(Arc::new(kept) as Plan))
    })?;
    Ok(kept.data)
}

/// The same part of a recursive term with what is fixed in it kept.
fn term_of_kept(plan: &Plan) -> Result<Plan> {
    // The rows that it lets through are those of a round even where nothing below it reads the last one's.
    if !plan.is::<NewRowsExec>() && is_fixed(plan)? {
        return Ok(match is_at_hand(plan) {
            true => plan.clone(),
            false => Arc::new(KeptRowsExec::new(plan.clone())),
        });
    }
    if let Some(join) = plan.downcast_ref::<HashJoinExec>()
        && let Some((varying, table)) = Table::of(join)?
    {
        let probe = term_of_kept(&varying)?;
        return Ok(Arc::new(KeptJoinExec::new(Arc::new(table), probe)));
    }
    if let Some(lookup) = plan.downcast_ref::<LookupJoinExec>() {
        let giver = term_of_kept(lookup.giver())?;
        let table = match lookup.asking()? {
            Some(join) => Table::of(&join)?.map(|(_, table)| Arc::new(table)),
            None => None,
        };
        let same = is_fixed(lookup.other())?;
        return Ok(Arc::new(lookup.with_giver(giver).keeping(table, same)));
    }
    if let Some(join) = plan.downcast_ref::<RangeJoinExec>() {
        let (mut inputs, searched) = (join.inputs().clone(), join.join().searched_side());
        let same = is_fixed(&inputs[searched])?;
        for (side, input) in inputs.iter_mut().enumerate() {
            if side != searched || !same {
                *input = term_of_kept(input)?;
            }
        }
        return Ok(Arc::new(join.keeping(same).with_inputs(inputs)));
    }
    // The one looks into what is below it; the other's terms begin anew with each other, and what is fixed in them is kept already.
    if plan.is::<FirstRowsExec>() || plan.is::<RecursiveQueryExec>() {
        return Ok(plan.clone());
    }
    let inputs = plan.children().into_iter().map(term_of_kept);
    let inputs = inputs.collect::<Result<Vec<_>>>()?;
    let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
    plan.clone().replace_children(inputs, options)
}

/// Whether a part gives the same rows in all rounds.
fn is_fixed(plan: &Plan) -> Result<bool> {
    let (mut volatile, mut read, mut within) = (false, vec![], vec![]);
    plan.walk(&mut |node| {
        node.apply_expressions(&mut |e| {
            volatile |= e.any(&mut |e| Ok(e.is_volatile_node()))?;
            Ok(TreeNodeRecursion::Continue)
        })?;
        if let Some(query) = node.downcast_ref::<RecursiveQueryExec>() {
            within.push(query.name());
        }
        if let Some(recent) = node.downcast_ref::<RecentRowsExec>() {
            read.push(recent.query());
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(!volatile && read.iter().all(|query| within.contains(query)))
}

/// Whether a part reads nothing, or belongs to the rounds themselves.
fn is_at_hand(plan: &Plan) -> bool {
    let inputs = plan.children();
    match inputs.as_slice() {
        [] => {
            plan.is::<EmptyExec>() || plan.is::<PlaceholderRowExec>() || plan.is::<WorkTableExec>()
        }
        [input] => plan.is::<ProjectionExec>() && is_at_hand(input),
        _ => false,
    }
}

/// The rows of a fixed part, which are computed until they have been read to their end.
#[derive(Debug)]
struct KeptRowsExec {
    /// Isn't an input, so that nobody resets what is kept with it.
    part: Plan,
    kept: Arc<Mutex<Kept>>,
}

#[derive(Debug, Default)]
enum Kept {
    #[default]
    Nothing,
    Rows(
        Vec<RecordBatch>,
        #[expect(dead_code, reason = "held")] MemoryReservation,
    ),
    /// They are too many.
    Never,
}

impl KeptRowsExec {
    fn new(part: Plan) -> Self {
        KeptRowsExec {
            part,
            kept: Arc::default(),
        }
    }
}

/// The most bytes that one part may keep.
pub(crate) fn bytes_max(task: &TaskContext) -> usize {
    match task.memory_pool().memory_limit() {
        MemoryLimit::Finite(all) => KEPT_BYTES_MAX.min(all / KEPT_PART),
        _ => KEPT_BYTES_MAX,
    }
}

/// Rows on their way through, and those of them that are to be kept.
struct Passing {
    rows: SendableRecordBatchStream,
    /// `None`: they have become too many.
    seen: Option<Seen>,
    kept: Arc<Mutex<Kept>>,
}

struct Seen {
    rows: Vec<RecordBatch>,
    /// Batches may be slices of the same buffers.
    bytes: RecordBatchMemoryCounter,
    bytes_max: usize,
    memory: MemoryReservation,
}

impl Seen {
    /// Keeps a batch; false if there is no room for it.
    fn keep(&mut self, batch: &RecordBatch) -> bool {
        let more = self.bytes.count_batch(batch);
        let kept =
            self.bytes.memory_usage() <= self.bytes_max && self.memory.try_grow(more).is_ok();
        self.rows.push(batch.clone());
        kept
    }
}

impl Passing {
    async fn next(mut self) -> Option<(Result<RecordBatch>, Self)> {
        let set = |kept: &Mutex<Kept>, to| {
            *kept.lock().unwrap_or_else(PoisonError::into_inner) = to;
        };
        match self.rows.next().await {
            Some(Ok(batch)) => {
                if let Some(seen) = &mut self.seen
                    && !seen.keep(&batch)
                {
                    self.seen = None;
                    set(&self.kept, Kept::Never);
                }
                Some((Ok(batch), self))
            }
            Some(Err(e)) => Some((Err(e), self)),
            None => {
                if let Some(seen) = self.seen.take() {
                    set(&self.kept, Kept::Rows(seen.rows, seen.memory));
                }
                None
            }
        }
    }
}

impl DisplayAs for KeptRowsExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeptRowsExec")
    }
}

impl ExecutionPlan for KeptRowsExec {
    fn name(&self) -> &str {
        "KeptRowsExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.part.properties()
    }

    fn children(&self) -> Vec<&Plan> {
        vec![]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(self: Arc<Self>, _: Vec<Plan>, _: ReplaceChildrenOptions) -> Result<Plan> {
        Ok(self)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Plan>) -> Result<Plan> {
        Ok(self)
    }

    fn execute(&self, n: usize, task: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let keeps = match &*self.kept.lock().unwrap_or_else(PoisonError::into_inner) {
            Kept::Rows(rows, _) => {
                let rows = stream::iter(rows.clone().into_iter().map(Ok));
                let rows = RecordBatchStreamAdapter::new(self.schema(), rows);
                return Ok(Box::pin(cooperative(rows)));
            }
            Kept::Nothing => true,
            Kept::Never => false,
        };
        let rows = reset_plan_states(self.part.clone())?.execute(n, task.clone())?;
        if !keeps {
            return Ok(rows);
        }
        let consumer = MemoryConsumer::new("rows that all rounds have");
        let passing = Passing {
            rows,
            seen: Some(Seen {
                rows: vec![],
                bytes: RecordBatchMemoryCounter::new(),
                bytes_max: bytes_max(&task),
                memory: consumer.register(task.memory_pool()),
            }),
            kept: self.kept.clone(),
        };
        let rows = stream::unfold(passing, Passing::next);
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
    }
}

/// The hash table of a join's fixed side.
#[derive(Debug)]
pub(super) struct Table {
    fixed: Plan,
    /// As DataFusion would run it, with which side varies.
    join: HashJoinExec,
    varying: usize,
    /// The join with the fixed side on the left, where it is kept; a projection is above it if its columns come in another order then.
    turned: Plan,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Nothing,
    /// A copy of `turned` that has the table, and how often it was used.
    Made(Plan, usize),
    /// Memory is short.
    Never,
}

impl Table {
    /// The varying input, and the table for the other one; `None` if both vary, or if what becomes of a row of the fixed side depends on all
    /// rows of the other.
    fn of(join: &HashJoinExec) -> Result<Option<(Plan, Table)>> {
        use JoinType::{
            Inner, Left, LeftAnti, LeftMark, LeftSemi, Right, RightAnti, RightMark, RightSemi,
        };
        let varying = match (is_fixed(join.left())?, is_fixed(join.right())?) {
            (true, false) => 1,
            (false, true) => 0,
            _ => return Ok(None),
        };
        let possible = match varying {
            1 => matches!(
                join.join_type(),
                Inner | Right | RightSemi | RightAnti | RightMark
            ),
            _ => matches!(
                join.join_type(),
                Inner | Left | LeftSemi | LeftAnti | LeftMark
            ),
        };
        // Its rows may have been left in an order that what is above depends on.
        let ordered = varying == 0 && join.properties().output_ordering().is_some();
        if !possible || ordered || join.null_aware {
            return Ok(None);
        }
        let turned = match varying {
            1 => join.builder().build_exec()?,
            _ => join.swap_inputs(*join.partition_mode())?,
        };
        let inputs = [join.left().clone(), join.right().clone()];
        let table = Table {
            fixed: inputs[1 - varying].clone(),
            join: join.builder().reset_state().build()?,
            varying,
            turned,
            state: Mutex::default(),
        };
        let [left, right] = inputs;
        Ok(Some((if varying == 0 { left } else { right }, table)))
    }

    /// Whether it has been made.
    pub fn is_made(&self) -> bool {
        matches!(&*self.locked(), State::Made(..))
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The join of `probe` with the fixed side.
    async fn join(&self, probe: Plan, task: &Arc<TaskContext>) -> Result<Plan> {
        let made = match &mut *self.locked() {
            State::Made(join, rounds) if *rounds < ROUNDS_MAX => {
                *rounds += 1;
                Some(join.clone())
            }
            State::Never => return self.without(probe),
            _ => None,
        };
        let made = match made {
            Some(made) => made,
            None => match self.make(&probe, task).await? {
                Some(made) => made,
                None => return self.without(probe),
            },
        };
        with_inputs(&made, None, probe)
    }

    /// Makes the table; `None` if there is no memory for it.
    async fn make(&self, probe: &Plan, task: &Arc<TaskContext>) -> Result<Option<Plan>> {
        // What an earlier one has is given back first.
        let _ = mem::take(&mut *self.locked());
        let nothing: Plan = Arc::new(EmptyExec::new(probe.schema()));
        let fixed = reset_plan_states(self.fixed.clone())?;
        let join = with_inputs(&reset_joins(&self.turned)?, Some(fixed), nothing)?;
        // It looks at its left side first.
        let before = task.memory_pool().reserved();
        let rows: Result<Vec<RecordBatch>> = join.execute(0, task.clone())?.try_collect().await;
        let takes = task.memory_pool().reserved().saturating_sub(before);
        let made = match rows {
            Ok(_) if takes <= bytes_max(task) => with_inputs(&join, None, probe.clone())?,
            Err(e) if !is_short_of_memory(&e) => return Err(e),
            _ => {
                *self.locked() = State::Never;
                return Ok(None);
            }
        };
        *self.locked() = State::Made(made.clone(), 0);
        Ok(Some(made))
    }

    /// The join as DataFusion would run it.
    fn without(&self, probe: Plan) -> Result<Plan> {
        let fixed = reset_plan_states(self.fixed.clone())?;
        let inputs = match self.varying {
            0 => vec![probe, fixed],
            _ => vec![fixed, probe],
        };
        let join = self.join.builder().reset_state().recompute_properties();
        join.with_new_children(inputs)?.build_exec()
    }
}

fn is_short_of_memory(e: &DataFusionError) -> bool {
    matches!(e.find_root(), DataFusionError::ResourcesExhausted(_))
}

/// The join, or projection of one, with the probing side `probe`, and another fixed side if one is given.
fn with_inputs(plan: &Plan, fixed: Option<Plan>, probe: Plan) -> Result<Plan> {
    if let Some(join) = plan.downcast_ref::<HashJoinExec>() {
        let fixed = fixed.unwrap_or_else(|| join.left().clone());
        let join = join.builder().with_new_children(vec![fixed, probe])?;
        return join.build_exec();
    }
    let [input] = plan.children()[..] else {
        return internal_err!("a join that was turned is {}", plan.name());
    };
    let input = with_inputs(input, fixed, probe)?;
    let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
    plan.clone().replace_children(vec![input], options)
}

/// The join, or projection of one, without a table.
fn reset_joins(plan: &Plan) -> Result<Plan> {
    if let Some(join) = plan.downcast_ref::<HashJoinExec>() {
        return join.builder().reset_state().build_exec();
    }
    let [input] = plan.children()[..] else {
        return internal_err!("a join that was turned is {}", plan.name());
    };
    let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
    plan.clone()
        .replace_children(vec![reset_joins(input)?], options)
}

/// A join with a fixed side, whose hash table is kept.
#[derive(Debug)]
pub(super) struct KeptJoinExec {
    table: Arc<Table>,
    probe: Plan,
}

impl KeptJoinExec {
    /// The rows of `probe` joined with the fixed side.
    pub fn new(table: Arc<Table>, probe: Plan) -> Self {
        KeptJoinExec { table, probe }
    }
}

impl DisplayAs for KeptJoinExec {
    fn fmt_as(&self, t: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeptJoinExec: ")?;
        self.table.join.fmt_as(t, f)
    }
}

impl ExecutionPlan for KeptJoinExec {
    fn name(&self) -> &str {
        "KeptJoinExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.table.join.properties()
    }

    fn children(&self) -> Vec<&Plan> {
        vec![&self.probe]
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.table.join.apply_expressions(f)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Plan>,
        _: ReplaceChildrenOptions,
    ) -> Result<Plan> {
        let [probe] = children.as_slice() else {
            return internal_err!("one side of the join varies, {} given", children.len());
        };
        let kept = KeptJoinExec::new(self.table.clone(), probe.clone());
        Ok(Arc::new(kept))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Plan>) -> Result<Plan> {
        self.replace_children(
            children,
            ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute),
        )
    }

    fn execute(&self, n: usize, task: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let (table, probe) = (self.table.clone(), self.probe.clone());
        let rows = stream::once(async move { table.join(probe, &task).await?.execute(n, task) });
        let rows = RecordBatchStreamAdapter::new(self.schema(), rows.try_flatten());
        Ok(Box::pin(rows))
    }
}
