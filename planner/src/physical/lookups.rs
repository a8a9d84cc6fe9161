//! [`LookupJoinExec`]: a hash join that reads one side by the keys of the other, if these are few and an index finds them. DataFusion's
//! joins read both sides to their ends.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, RecordBatch};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::config::ConfigOptions;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::HashJoinExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use datafusion_common::tree_node::Transformed;
use datafusion_common::{JoinType, NullEquality, Result, ScalarValue, internal_err};
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::{CastExpr, Column};
use futures::{StreamExt, TryStreamExt, stream};

use super::ConcatExec;
use super::kept::{KeptJoinExec, Table};
use super::range_join::RangeJoinExec;
use crate::counted::Counted;
use crate::execute::{asking_hash_join, with_a_chance_to_stop};
use crate::functions::external;
use crate::once::OnceExec;
use crate::recent::RecentRowsExec;
use crate::scan::is_found_by;
use crate::tree::Tree;

type Plan = Arc<dyn ExecutionPlan>;

/// So many rows are read in the time that finding one by an index takes.
pub(crate) const ROWS_PER_LOOKUP: usize = 64;
/// Rows that are kept to look others up by.
pub(crate) const ROWS_MAX: usize = 4096;
/// Rows of a side that may be read to its end for some rows of the other.
const SMALL_ROWS_MAX: usize = 16_384;

/// Takes [`LookupJoinExec`] where one side is a scan.
#[derive(Debug)]
pub(super) struct Lookups;

impl PhysicalOptimizerRule for Lookups {
    fn optimize(&self, plan: Plan, _: &ConfigOptions) -> Result<Plan> {
        let plan = plan.change_up(&mut |node| match recent_first(&node)? {
            Some(join) => Ok(Transformed::yes(join)),
            None => Ok(Transformed::no(node)),
        })?;
        let plan = plan.data.change_up(&mut |node| {
            Ok(match LookupJoinExec::instead_of(&node) {
                Some(join) => Transformed::yes(Arc::new(join)),
                None => Transformed::no(node),
            })
        })?;
        Ok(plan.data)
    }

    fn name(&self) -> &str {
        "Lookups"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct LookupJoinExec {
    join: Arc<HashJoinExec>,
    /// Left and right.
    inputs: [Plan; 2],
    /// Which of them gives keys; the other one is looked up.
    giver: usize,
    keys: Vec<Key>,
    /// The most rows of the giver by which it is worth it.
    rows_max: usize,
    /// See [`LookupJoinExec::of_some_rows`]: it fails instead of reading a large side to its end.
    of_some: bool,
    /// What joins the rows instead of `join`.
    ranges: Option<Box<RangeJoinExec>>,
    /// In a recursive query: that of the other side, for the rounds in which rows aren't looked up.
    table: Option<Arc<Table>>,
}

/// What one side tells of the scan on the other.
#[derive(Clone, Debug)]
struct Key {
    given: Arc<dyn PhysicalExpr>,
    /// A column of the scanned collection.
    column: usize,
}

impl LookupJoinExec {
    fn instead_of(node: &Plan) -> Option<LookupJoinExec> {
        if let Some(ranges) = node.downcast_ref::<RangeJoinExec>() {
            let join: Plan = Arc::new(ranges.hash_join()?.ok()?);
            let ranges = Some(Box::new(ranges.clone()));
            return LookupJoinExec::instead_of(&join)
                .map(|found| LookupJoinExec { ranges, ..found });
        }
        let join = node.downcast_ref::<HashJoinExec>()?;
        // The left side is the smaller one, as far as DataFusion knows.
        let mut found = [0, 1]
            .into_iter()
            .filter_map(|giver| LookupJoinExec::given_by(join, giver));
        found.find(|lookup| lookup.rows_max > 0 && !lookup.keys.is_empty())
    }

    /// The join for some rows of `giver`, which aren't all; `None`: more would be read for them than is worth it, or what becomes of them depends
    /// on the others.
    pub(super) fn of_some_rows(join: &HashJoinExec, giver: usize) -> Option<LookupJoinExec> {
        let found = LookupJoinExec::given_by(join, giver)?;
        let small = scanned(found.other())?.rows() <= SMALL_ROWS_MAX;
        (small || !found.keys.is_empty()).then_some(LookupJoinExec {
            of_some: true,
            ..found
        })
    }

    fn given_by(join: &HashJoinExec, giver: usize) -> Option<LookupJoinExec> {
        use JoinType::{Inner, Left, LeftAnti, LeftSemi, Right, RightAnti, RightSemi};
        // Rows of the other side that no given key is equal to must make no difference.
        let of_found = match giver {
            0 => matches!(
                join.join_type(),
                Inner | Left | LeftSemi | LeftAnti | RightSemi
            ),
            _ => matches!(
                join.join_type(),
                Inner | Right | RightSemi | RightAnti | LeftSemi
            ),
        };
        let strict = join.null_equality() == NullEquality::NullEqualsNothing;
        if !of_found || !strict || join.null_aware {
            return None;
        }
        let inputs = [join.left().clone(), join.right().clone()];
        let found = &inputs[1 - giver];
        let scan = scanned(found)?;
        let rows_max = (scan.rows() / ROWS_PER_LOOKUP).min(ROWS_MAX);
        let keys = join.on().iter().filter_map(|(left, right)| {
            let (given, sought) = match giver {
                0 => (left, right),
                _ => (right, left),
            };
            let column = scan.scan().column(traced(sought, found)?)?;
            let ty = scan.scan().relation.columns.field(column).data_type();
            is_found_by(ty).then(|| Key {
                given: given.clone(),
                column,
            })
        });
        Some(LookupJoinExec {
            keys: keys.collect(),
            join: Arc::new(join.builder().build().ok()?),
            inputs,
            giver,
            rows_max,
            of_some: false,
            ranges: None,
            table: None,
        })
    }

    /// The most rows of the giver that it takes.
    pub(super) fn rows_max(&self) -> usize {
        match scanned(self.other()) {
            Some(scan) if scan.rows() <= SMALL_ROWS_MAX => usize::MAX,
            _ => self.rows_max,
        }
    }

    /// The hash join of its inputs, which asks whether it is to stop; `None`: something else joins them.
    pub(super) fn asking(&self) -> Result<Option<HashJoinExec>> {
        if self.ranges.is_some() || self.of_some {
            return Ok(None);
        }
        let join = self.join.builder().reset_state().recompute_properties();
        let join = join.with_new_children(self.inputs.to_vec())?.build()?;
        Ok(Some(asking_hash_join(&join)?.unwrap_or(join)))
    }

    /// The same join with the other side's hash table, or, if this side is the `same` in all rounds and searched by a range, its order.
    pub(super) fn keeping(self, table: Option<Arc<Table>>, same: bool) -> LookupJoinExec {
        let keeping = |ranges: Box<RangeJoinExec>| {
            let searches = ranges.join().searched_side() != self.giver;
            Box::new(ranges.keeping(searches && same))
        };
        LookupJoinExec {
            table,
            ranges: self.ranges.map(keeping),
            ..self
        }
    }

    /// The input that gives keys.
    pub(super) fn giver(&self) -> &Plan {
        &self.inputs[self.giver]
    }

    /// The input that is looked up.
    pub(super) fn other(&self) -> &Plan {
        &self.inputs[1 - self.giver]
    }

    /// Whether the other side mustn't be read to its end. It may have grown since this was planned.
    fn must_find(&self, task: &TaskContext) -> Result<bool> {
        let Some(scan) = scanned(self.other()).filter(|_| self.of_some) else {
            return Ok(false);
        };
        let rows = scan.scan().rows_now(task)?;
        Ok(rows.is_none_or(|rows| rows > SMALL_ROWS_MAX))
    }

    /// The same join with another plan for the input that gives keys.
    pub(super) fn with_giver(&self, plan: Plan) -> LookupJoinExec {
        let mut join = self.clone();
        join.inputs[self.giver] = plan;
        join
    }

    /// The join of two inputs; of the other side those rows that were `found`, or all.
    fn joined(&self, inputs: [Plan; 2], found: bool) -> Result<Plan> {
        if let Some(ranges) = &self.ranges {
            let ranges = match found {
                true => &ranges.keeping(false),
                false => &**ranges,
            };
            return with_a_chance_to_stop(Arc::new(ranges.with_inputs(inputs)));
        }
        let join = self.join.builder().reset_state().recompute_properties();
        let join = join.with_new_children(inputs.to_vec())?.build_exec()?;
        with_a_chance_to_stop(join)
    }
}

/// The join with the rows of a recursive query's last round on the left, where they are kept: DataFusion, which doesn't know how many there
/// are, would keep all of the other side in each round anew.
fn recent_first(node: &Plan) -> Result<Option<Plan>> {
    let Some(join) = node.downcast_ref::<HashJoinExec>() else {
        return Ok(None);
    };
    let recent = |plan: &Plan| plan.any(&mut |node| Ok(node.is::<RecentRowsExec>()));
    let swapped =
        *join.join_type() == JoinType::Inner && recent(join.right())? && !recent(join.left())?;
    match swapped {
        true => join.swap_inputs(*join.partition_mode()).map(Some),
        false => Ok(None),
    }
}

/// The scan below nodes that change neither which rows have a key nor its value.
fn scanned(plan: &Plan) -> Option<&Counted> {
    match plan.downcast_ref::<Counted>() {
        Some(scan) => Some(scan),
        None => scanned(passing(plan)?),
    }
}

/// The input of a node that passes keys on.
fn passing(plan: &Plan) -> Option<&Plan> {
    let grouped = plan.downcast_ref::<AggregateExec>();
    let grouped =
        grouped.is_some_and(|a| a.group_expr().is_single() && a.limit_options().is_none());
    let filtered = plan.downcast_ref::<FilterExec>();
    let filtered = filtered.is_some_and(|f| f.fetch().is_none());
    let hidden = plan.downcast_ref::<ConcatExec>();
    let hidden = hidden.is_some_and(ConcatExec::only_hides);
    let chosen = plan.is::<ProjectionExec>() || plan.is::<CooperativeExec>();
    let shared = plan.downcast_ref::<OnceExec>();
    let shared = shared.is_some_and(OnceExec::is_shared_for_speed);
    let passes = grouped || filtered || hidden || chosen || shared;
    match plan.children()[..] {
        [input] if passes => Some(input),
        _ => None,
    }
}

/// The column of the scan below `plan` that `e`, an expression over its output, is.
fn traced(e: &Arc<dyn PhysicalExpr>, plan: &Plan) -> Option<usize> {
    if let Some(cast) = e.downcast_ref::<CastExpr>() {
        let (from, to) = (
            cast.expr().data_type(&plan.schema()).ok()?,
            cast.cast_type(),
        );
        let widens = from.is_signed_integer() && to.is_signed_integer();
        return traced(cast.expr(), plan).filter(|_| widens);
    }
    let column = e.downcast_ref::<Column>()?.index();
    if plan.is::<Counted>() {
        return Some(column);
    }
    let input = passing(plan)?;
    if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
        return traced(&projection.expr().get(column)?.expr, input);
    }
    if let Some(aggregate) = plan.downcast_ref::<AggregateExec>() {
        return traced(&aggregate.group_expr().expr().get(column)?.0, input);
    }
    let kept = plan.downcast_ref::<FilterExec>();
    let column = match kept.and_then(|f| f.projection().as_ref()) {
        Some(kept) => *kept.get(column)?,
        None => column,
    };
    let field = input.schema().field(column).name().clone();
    traced(&(Arc::new(Column::new(&field, column)) as _), input)
}

/// The plan with another source for the scan below it.
fn rooted(plan: &Plan, source: Plan) -> Result<Plan> {
    if plan.is::<Counted>() {
        return Ok(source);
    }
    let Some(input) = passing(plan) else {
        return internal_err!("there is no scan below {}", plan.name());
    };
    let input = rooted(input, source)?;
    // These are some of the rows, for this place alone.
    if plan.is::<OnceExec>() {
        return Ok(input);
    }
    let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
    plan.clone().replace_children(vec![input], options)
}

impl DisplayAs for LookupJoinExec {
    fn fmt_as(&self, t: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LookupJoinExec: ")?;
        self.join.fmt_as(t, f)
    }
}

impl ExecutionPlan for LookupJoinExec {
    fn name(&self) -> &str {
        "LookupJoinExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.join.properties()
    }

    fn children(&self) -> Vec<&Plan> {
        self.inputs.iter().collect()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        self.join.maintains_input_order()
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.join.apply_expressions(f)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Plan>,
        _: ReplaceChildrenOptions,
    ) -> Result<Plan> {
        let Ok(inputs) = <[Plan; 2]>::try_from(children) else {
            return internal_err!("a join has two inputs");
        };
        let this = LookupJoinExec::clone(&self);
        Ok(Arc::new(LookupJoinExec { inputs, ..this }))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Plan>) -> Result<Plan> {
        let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
        self.replace_children(children, options)
    }

    fn execute(
        &self,
        partition: usize,
        task: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let this = self.clone();
        let rows = stream::once(async move { this.run(partition, task).await }).try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
    }
}

impl LookupJoinExec {
    async fn run(
        self,
        partition: usize,
        task: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let giver = &self.inputs[self.giver];
        if let Some(table) = self.table.as_ref().filter(|table| table.is_made()) {
            let join = KeptJoinExec::new(table.clone(), giver.clone());
            return with_a_chance_to_stop(Arc::new(join))?.execute(partition, task);
        }
        let mut rest = giver.execute(partition, task.clone())?;
        let (mut batches, mut rows) = (vec![], 0);
        let mut ended = false;
        while rows <= self.rows_max && !ended {
            match rest.next().await {
                Some(batch) => {
                    let batch = batch?;
                    rows += batch.num_rows();
                    batches.push(batch);
                }
                None => ended = true,
            }
        }
        let found = match ended && !self.keys.is_empty() {
            true => self.found(&batches, &task)?,
            false => None,
        };
        if found.is_none() && self.must_find(&task)? {
            return internal_err!("a join would read a side to its end");
        }
        let seen = stream::iter(batches.into_iter().map(Ok)).chain(rest);
        let seen = RecordBatchStreamAdapter::new(giver.schema(), seen);
        let seen = Running::of(giver, Box::pin(seen));
        if let (None, Some(table)) = (&found, &self.table) {
            let join = KeptJoinExec::new(table.clone(), seen);
            return with_a_chance_to_stop(Arc::new(join))?.execute(partition, task);
        }
        let mut inputs = self.inputs.clone();
        inputs[self.giver] = seen;
        let few = found.is_some();
        if let Some(found) = found {
            inputs[1 - self.giver] = found;
        }
        self.joined(inputs, few)?.execute(partition, task)
    }

    /// The other side with only those rows that have the keys of `given`, if they are found.
    fn found(&self, given: &[RecordBatch], task: &Arc<TaskContext>) -> Result<Option<Plan>> {
        let other = self.other();
        let Some(scan) = scanned(other) else {
            return internal_err!("a join has lost its scan");
        };
        let keys = self.keys.iter();
        let keys = keys.map(|key| Ok((key.column, values(&key.given, given)?)));
        let keys = keys.collect::<Result<Vec<_>>>()?;
        let Some(found) = scan.scan().find(keys, task).map_err(external)? else {
            return Ok(None);
        };
        let mut source = other;
        while let Some(input) = passing(source) {
            source = input;
        }
        rooted(other, Running::of(source, found)).map(Some)
    }
}

/// The values of `key` that occur.
fn values(key: &Arc<dyn PhysicalExpr>, batches: &[RecordBatch]) -> Result<Vec<ScalarValue>> {
    let mut values = HashSet::new();
    for batch in batches {
        let column = key.evaluate(batch)?.into_array(batch.num_rows())?;
        for row in (0..column.len()).filter(|row| column.is_valid(*row)) {
            values.insert(ScalarValue::try_from_array(&column, row)?);
        }
    }
    Ok(values.into_iter().collect())
}

/// A plan that runs already: it can be executed once.
pub(super) struct Running {
    properties: Arc<PlanProperties>,
    rows: Mutex<Option<SendableRecordBatchStream>>,
}

impl Running {
    /// `rows` in place of those of `plan`.
    pub(super) fn of(plan: &Plan, rows: SendableRecordBatchStream) -> Plan {
        Arc::new(Running {
            properties: plan.properties().clone(),
            rows: Mutex::new(Some(rows)),
        })
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Running")
    }
}

impl DisplayAs for Running {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Running")
    }
}

impl ExecutionPlan for Running {
    fn name(&self) -> &str {
        "Running"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
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

    fn execute(&self, _: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        match rows.take() {
            Some(rows) => Ok(rows),
            None => internal_err!("rows are read twice"),
        }
    }
}
