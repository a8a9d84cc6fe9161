//! Execution of bound plans on a snapshot, by DataFusion with one partition.

use std::sync::{Arc, LazyLock, OnceLock};

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::context::{SessionConfig, SessionState};
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{GreedyMemoryPool, MemoryPool, UnboundedMemoryPool};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::optimizer::Optimizer;
use datafusion::optimizer::optimize_projections::OptimizeProjections;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::physical_plan::joins::utils::JoinFilter;
use datafusion::physical_plan::joins::{
    CrossJoinExec, HashJoinExec, NestedLoopJoinExec, NestedLoopJoinExecBuilder,
};
use datafusion::physical_plan::recursive_query::RecursiveQueryExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use datafusion::physical_plan::unnest::UnnestExec;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion_common::tree_node::Transformed;
use datafusion_common::{DataFusionError, Result as DfResult, ScalarValue};
use datafusion_expr::expr::Placeholder;
use datafusion_expr::{Expr, LogicalPlan, TableProviderFilterPushDown, TableType};
use futures::{Stream, StreamExt, TryStreamExt};
use tidemill_zset::schema::{SqlType, UTC};

use crate::access::of_scan;
use crate::catalog::Relation;
use crate::compile::decorrelate;
use crate::compile::join_rules::careful;
use crate::counted::Counted;
use crate::divided::{Divided, divided};
use crate::equal_parts::once_each;
use crate::error::{Result, SqlError, from_datafusion};
use crate::few_buffers::FewBuffersExec;
use crate::functions::one_of::as_in_list;
use crate::functions::{Time, external, time_of};
use crate::interrupt::{AskingExpr, Interruptible};
use crate::join_order;
use crate::once;
use crate::or_joins;
use crate::physical::in_order::InOrderExpr;
use crate::physical::kept::keep_fixed;
use crate::physical::range_join::RangeJoinExec;
use crate::pieces::PiecesExec;
use crate::query::SessionContextInfo;
use crate::query::{ResultStream, SnapshotReader};
use crate::scan::{Reader, Scan, relabel};
use crate::tree::{PlanTree, Tree};

/// Rows of a batch.
const BATCH_ROWS: usize = 8192;

/// A collection as DataFusion's planner sees it. It is read by the reader in the session that executes.
#[derive(Clone, Debug)]
pub struct CollectionTable {
    relation: Arc<Relation>,
}

impl CollectionTable {
    pub(crate) fn new(relation: Relation) -> Self {
        CollectionTable {
            relation: Arc::new(relation),
        }
    }

    /// The collection.
    pub fn relation(&self) -> &Relation {
        &self.relation
    }
}

#[async_trait::async_trait]
impl TableProvider for CollectionTable {
    fn schema(&self) -> SchemaRef {
        self.relation.columns.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> DfResult<Vec<TableProviderFilterPushDown>> {
        // Hints for the reader: DataFusion filters again.
        Ok(filters
            .iter()
            .map(|f| match of_scan(f, &self.relation.columns).is_empty() {
                false => TableProviderFilterPushDown::Inexact,
                true => TableProviderFilterPushDown::Unsupported,
            })
            .collect())
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let schema = match projection {
            Some(p) => Arc::new(self.relation.columns.project(p)?),
            None => self.relation.columns.clone(),
        };
        let conditions = filters
            .iter()
            .flat_map(|f| of_scan(f, &self.relation.columns))
            .collect();
        let scan = Arc::new(Scan {
            relation: self.relation.clone(),
            columns: projection.cloned(),
            conditions,
            schema: schema.clone(),
        });
        let reader = session.config().get_extension::<Reader>();
        let rows = match reader {
            Some(reader) => scan.rows_estimate(&*reader.0)?,
            None => None,
        };
        let limit = limit.filter(|_| filters.is_empty());
        let all: Vec<Arc<dyn PartitionStream>> = vec![scan.clone()];
        let exec = StreamingTableExec::try_new(schema, all, None, vec![], false, limit)?;
        Ok(match rows {
            Some(rows) => Arc::new(Counted::new(Arc::new(exec), scan, rows)),
            None => Arc::new(exec),
        })
    }
}

/// Bytes that all queries on snapshots together may hold in sorts, hash tables and the like; `None`: no limit.
static MEMORY_BYTES_MAX: OnceLock<Option<usize>> = OnceLock::new();

/// Limits the memory of all queries on snapshots of this process together. A query that needs more fails with 53200. Holds
/// from the first query on and can't be changed afterwards; `false` if it came too late.
pub fn limit_query_memory(bytes: usize) -> bool {
    MEMORY_BYTES_MAX.set(Some(bytes)).is_ok()
}

/// The memory of queries on snapshots. Programs of views have no limit of this kind: what they give must
/// depend on their rows alone.
fn snapshot_memory() -> Arc<RuntimeEnv> {
    let pool: Arc<dyn MemoryPool> = match MEMORY_BYTES_MAX.get_or_init(|| None) {
        Some(bytes) => Arc::new(GreedyMemoryPool::new(*bytes)),
        None => Arc::new(UnboundedMemoryPool::default()),
    };
    // Nothing is written to the disk behind the user's back.
    let disk = DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled);
    let env = RuntimeEnvBuilder::new()
        .with_memory_pool(pool)
        .with_disk_manager_builder(disk)
        .build_arc();
    env.expect("an environment without files")
}

/// DataFusion's settings: one partition, nothing repartitioned. No function is looked up by name: plans hold
/// their functions.
static BASE: LazyLock<SessionState> = LazyLock::new(|| {
    let mut config = SessionConfig::new()
        .with_target_partitions(1)
        .with_batch_size(BATCH_ROWS);
    config
        .options_mut()
        .optimizer
        .enable_round_robin_repartition = false;
    // Scans take no filters that become known while a query runs, and plans that hold some can't be run twice.
    let optimizer = &mut config.options_mut().optimizer;
    optimizer.enable_dynamic_filter_pushdown = false;
    optimizer.enable_topk_dynamic_filter_pushdown = false;
    optimizer.enable_join_dynamic_filter_pushdown = false;
    // It makes room at once for all the rows that a limit allows, of which those are without one that only keep a sort.
    optimizer.enable_topk_aggregation = false;
    optimizer.enable_aggregate_dynamic_filter_pushdown = false;
    // Nullability and the names of SQL types in the fields' metadata may differ below unions and joins.
    config
        .options_mut()
        .execution
        .skip_physical_aggregate_schema_check = true;
    // That rule adds up sums of sums, whose types differ here.
    let rules = Optimizer::new()
        .rules
        .into_iter()
        .filter(|r| r.name() != "single_distinct_aggregation_to_group_by")
        .map(careful)
        .map(|rule| Arc::new(Interruptible(rule)) as _)
        .collect();
    SessionStateBuilder::new()
        .with_config(config)
        .with_optimizer_rules(rules)
        .with_physical_optimizer_rules(crate::physical::rules())
        .with_query_planner(Arc::new(once::Planner))
        .build()
});

/// The session in which a plan is executed.
fn state(reader: Arc<dyn SnapshotReader>) -> SessionState {
    static SNAPSHOTS: LazyLock<SessionState> = LazyLock::new(|| {
        SessionStateBuilder::new_from_existing(BASE.clone())
            .with_runtime_env(snapshot_memory())
            .build()
    });
    let mut state = SNAPSHOTS.clone();
    let config = state.config_mut();
    config.set_extension(Arc::new(Reader(reader)));
    config.set_extension(Arc::new(once::Results::default()));
    state
}

/// The plan that DataFusion runs for `logical`.
pub(crate) fn optimised(logical: LogicalPlan) -> DfResult<LogicalPlan> {
    decorrelate::optimise(logical, &|plan| BASE.optimize(&plan))
}

/// The plan that is executed for `logical` on the rows of `reader`.
pub(crate) fn ordered(logical: LogicalPlan, reader: &dyn SnapshotReader) -> DfResult<LogicalPlan> {
    let rules = |plan| joins_in_order(BASE.optimize(&plan)?, reader);
    once_each(decorrelate::optimise(logical, &rules)?)
}

/// The optimised plan with its joins by what is equal, in an order that suits the rows that there are.
fn joins_in_order(plan: LogicalPlan, reader: &dyn SnapshotReader) -> DfResult<LogicalPlan> {
    static COLUMNS: LazyLock<Optimizer> =
        LazyLock::new(|| Optimizer::with_rules(vec![Arc::new(OptimizeProjections::new())]));
    let plan = or_joins::by_branches(plan)?.data;
    let ordered = join_order::ordered(plan, reader)?;
    match ordered.transformed {
        // Columns may be left out of other joins now.
        true => COLUMNS.optimize(ordered.data, &*BASE, |_, _| {}),
        false => Ok(ordered.data),
    }
}

/// Rules that can change a plan of filters, projections, sorts, limits and an aggregate over one scan without subqueries.
const RULES_OF_CHAINS: &[&str] = &[
    "simplify_expressions",
    "eliminate_duplicated_expr",
    "eliminate_filter",
    "eliminate_limit",
    "propagate_empty_relation",
    "push_down_limit",
    "push_down_filter",
    "common_sub_expression_eliminate",
    "optimize_projections",
];

/// As [`optimised`], for such a plan. Each rule goes over all of it, several times, which is much of what a simple statement takes.
pub(crate) fn optimised_chain(logical: LogicalPlan) -> DfResult<LogicalPlan> {
    static RULES: LazyLock<Optimizer> = LazyLock::new(|| {
        let all = BASE.optimizer().rules.iter();
        let some = all.filter(|r| RULES_OF_CHAINS.contains(&r.name()));
        Optimizer::with_rules(some.cloned().collect())
    });
    RULES.optimize(decorrelate::keys::honest(logical)?, &*BASE, |_, _| {})
}

/// The plan with a chance to stop at every batch of operators that make many rows of few. DataFusion has its scans
/// yield from time to time; a cross join would go on for hours without asking one for more. Lists are made in pieces of bounded size.
pub(crate) fn yielding(plan: Arc<dyn ExecutionPlan>) -> DfResult<Arc<dyn ExecutionPlan>> {
    let plan = plan.change_up(&mut |node| {
        if let Some(pieces) = PiecesExec::instead_of(&node) {
            return Ok(Transformed::yes(pieces));
        }
        let multiplies = node.is::<CrossJoinExec>()
            || node.is::<NestedLoopJoinExec>()
            || node.is::<RangeJoinExec>()
            || node.is::<HashJoinExec>()
            || node.is::<UnnestExec>();
        Ok(match multiplies {
            true => Transformed::yes(with_a_chance_to_stop(node)?),
            false => Transformed::no(node),
        })
    })?;
    keep_fixed(plan.data)
}

/// One such operator.
pub(crate) fn with_a_chance_to_stop(
    node: Arc<dyn ExecutionPlan>,
) -> DfResult<Arc<dyn ExecutionPlan>> {
    let node = asking_join(&node)?.unwrap_or(node);
    let node = FewBuffersExec::around(node);
    Ok(Arc::new(CooperativeExec::new(node)))
}

/// The join with a condition that asks whether it is to stop: pairs that the condition leaves out make no batch, however many there are.
fn asking_join(node: &Arc<dyn ExecutionPlan>) -> DfResult<Option<Arc<dyn ExecutionPlan>>> {
    if let Some(join) = node.downcast_ref::<HashJoinExec>() {
        let join = asking_hash_join(join)?;
        return Ok(join.map(|join| Arc::new(join) as _));
    }
    if let Some(join) = node.downcast_ref::<NestedLoopJoinExec>()
        && let Some(filter) = join.filter()
    {
        let join = NestedLoopJoinExecBuilder::from(join).with_filter(Some(asking(filter)?));
        return Ok(Some(Arc::new(join.build()?)));
    }
    Ok(None)
}

/// The same of a hash join.
pub(crate) fn asking_hash_join(join: &HashJoinExec) -> DfResult<Option<HashJoinExec>> {
    let Some(filter) = join.filter() else {
        return Ok(None);
    };
    let join = join.builder().with_filter(Some(asking(filter)?));
    Ok(Some(join.build()?))
}

fn asking(filter: &JoinFilter) -> DfResult<JoinFilter> {
    let condition = AskingExpr::around(&InOrderExpr::of(filter.expression())?);
    let indices = filter.column_indices().to_vec();
    Ok(JoinFilter::new(condition, indices, filter.schema().clone()))
}

/// A place for what DataFusion has made of a logical plan; clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept(Arc<OnceLock<Arc<dyn ExecutionPlan>>>);

impl Kept {
    /// What has been kept.
    pub fn get(&self) -> Option<Arc<dyn ExecutionPlan>> {
        self.0.get().cloned()
    }

    /// Keeps `plan`, if it can be run again.
    fn set(&self, plan: &Arc<dyn ExecutionPlan>) -> DfResult<()> {
        let recursive = plan.any(&mut |node| Ok(node.is::<RecursiveQueryExec>()))?;
        if !recursive {
            // Whoever was faster kept the same plan.
            let _ = self.0.set(plan.clone());
        }
        Ok(())
    }
}

/// Runs a plan, and leaves in `keep` what it was planned to. DataFusion plans lazily, when the stream is first polled.
pub(crate) fn run(
    logical: LogicalPlan,
    keep: Option<Kept>,
    columns: SchemaRef,
    reader: Arc<dyn SnapshotReader>,
) -> ResultStream {
    let start = async move {
        let state = state(reader.clone());
        let Some(Divided { rest, parts }) = divided(&logical)? else {
            let physical = planned(logical, &state, &*reader).await?;
            return started(physical, keep, &state);
        };
        let mut held = vec![];
        for (part, plan) in parts {
            let physical = planned(plan, &state, &*reader).await?;
            let rows = execute_stream(physical, state.task_ctx())?;
            let filled = part.fill(rows, &state.runtime_env().memory_pool).await;
            match filled.map_err(|e| (needs_memory(&e), e)) {
                Ok(()) => held.push(part),
                Err((false, e)) => return Err(e),
                // As a whole it needn't keep rows.
                Err((true, _)) => {
                    drop(held);
                    let physical = planned(logical, &state, &*reader).await?;
                    return started(physical, keep, &state);
                }
            }
        }
        // It reads the parts' rows, and so can't be run again; their memory is counted until it ends.
        let physical = planned(rest, &state, &*reader).await?;
        let rows = started(physical, None, &state)?;
        let schema = rows.schema();
        let rows = rows.inspect(move |_| {
            let _held = &held;
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)) as SendableRecordBatchStream)
    };
    results(futures::stream::once(start).try_flatten(), columns)
}

/// Whether an error says that there isn't enough memory.
fn needs_memory(e: &DataFusionError) -> bool {
    matches!(e.find_root(), DataFusionError::ResourcesExhausted(_))
}

/// What DataFusion makes of a logical plan.
async fn planned(
    logical: LogicalPlan,
    state: &SessionState,
    reader: &dyn SnapshotReader,
) -> DfResult<Arc<dyn ExecutionPlan>> {
    let rules = |plan| joins_in_order(state.optimize(&plan)?, reader);
    let optimised = once_each(decorrelate::optimise(logical, &rules)?)?;
    let planner = state.query_planner();
    let physical = planner.create_physical_plan(&optimised, state).await?;
    yielding(physical)
}

/// The rows of a plan, which is left in `keep`.
fn started(
    physical: Arc<dyn ExecutionPlan>,
    keep: Option<Kept>,
    state: &SessionState,
) -> DfResult<SendableRecordBatchStream> {
    match keep {
        Some(keep) => {
            keep.set(&physical)?;
            execute_afresh(physical, state)
        }
        None => execute_stream(physical, state.task_ctx()),
    }
}

/// Runs a plan that was kept.
pub(crate) fn run_again(
    physical: Arc<dyn ExecutionPlan>,
    columns: SchemaRef,
    reader: Arc<dyn SnapshotReader>,
) -> ResultStream {
    let start = async move { execute_afresh(physical, &state(reader)) };
    results(futures::stream::once(start).try_flatten(), columns)
}

/// Executes a copy: joins keep their built sides, and all nodes their metrics, in the plan.
fn execute_afresh(
    physical: Arc<dyn ExecutionPlan>,
    state: &SessionState,
) -> DfResult<SendableRecordBatchStream> {
    execute_stream(reset_plan_states(physical)?, state.task_ctx())
}

fn results(
    batches: impl Stream<Item = DfResult<RecordBatch>> + Send + 'static,
    columns: SchemaRef,
) -> ResultStream {
    batches
        .map(move |b| {
            b.map_err(|e| from_datafusion(&e))
                .and_then(|b| relabel(b, &columns))
        })
        .boxed()
}

/// The expression with `now()` replaced.
pub(crate) fn with_times(e: Expr, session: &SessionContextInfo) -> Result<Expr> {
    let literal = |at: i64| Expr::Literal(time_value(at), None);
    e.change_up(&mut |e| {
        Ok(match time_of(&e) {
            Some(Time::Transaction) => Transformed::yes(literal(session.now)),
            Some(Time::Statement) => Transformed::yes(literal(session.statement)),
            None => Transformed::no(e),
        })
    })
    .map(|t| t.data)
    .map_err(|e| from_datafusion(&e))
}

/// The plan with its times as two more parameters, `now()` and `statement_timestamp()`, after the `count` that it has.
pub(crate) fn times_as_params(plan: LogicalPlan, count: usize) -> Result<LogicalPlan> {
    let place = |after: usize| {
        let at = SqlType::Timestamptz.field("", true);
        Expr::Placeholder(Placeholder::new_with_field(
            format!("${}", count + after),
            Some(Arc::new(at)),
        ))
    };
    map_exprs(plan, &|e| {
        e.change_up(&mut |e| {
            Ok(match time_of(&e) {
                Some(Time::Transaction) => Transformed::yes(place(1)),
                Some(Time::Statement) => Transformed::yes(place(2)),
                None => Transformed::no(e),
            })
        })
        .map(|t| t.data)
        .map_err(|e| from_datafusion(&e))
    })
}

/// A time as a value.
pub(crate) fn time_value(at: i64) -> ScalarValue {
    ScalarValue::TimestampMicrosecond(Some(at), Some(UTC.into()))
}

/// The plan at the session's times.
pub(crate) fn at_time(plan: LogicalPlan, session: &SessionContextInfo) -> Result<LogicalPlan> {
    map_exprs(plan, &|e| with_times(e, session))
}

/// The plan with values for its parameters.
pub(crate) fn with_params(
    plan: LogicalPlan,
    values: &[ScalarValue],
    types: &[Field],
) -> Result<LogicalPlan> {
    map_exprs(plan, &|e| {
        e.change_up(&mut |e| {
            let p = match &e {
                Expr::Placeholder(p) => p,
                // Its list is known now.
                Expr::ScalarFunction(_) => return Ok(Transformed::yes(as_in_list(e))),
                _ => return Ok(Transformed::no(e)),
            };
            let n: usize = p.id.trim_start_matches('$').parse().unwrap_or(0);
            let (Some(v), Some(t)) = (values.get(n.wrapping_sub(1)), types.get(n.wrapping_sub(1)))
            else {
                return Err(external(SqlError::new(
                    "42P02",
                    format!("there is no parameter {}", p.id),
                )));
            };
            let v = if v.data_type() == *t.data_type() {
                v.clone()
            } else {
                v.cast_to(t.data_type())?
            };
            Ok(Transformed::yes(Expr::Literal(v, None)))
        })
        .map(|t| t.data)
        .map_err(|e| from_datafusion(&e))
    })
}

/// Rewrites all expressions of a plan and of its subqueries. Names of output columns stay.
fn map_exprs(plan: LogicalPlan, f: &dyn Fn(Expr) -> Result<Expr>) -> Result<LogicalPlan> {
    use datafusion_expr::expr_rewriter::NamePreserver;
    plan.change_all_up(&mut |p| {
        let preserver = NamePreserver::new(&p);
        p.change_exprs(&mut |e| {
            let name = preserver.save(&e);
            let new = f(e.clone()).map_err(external)?;
            Ok(if new == e {
                Transformed::no(e)
            } else {
                Transformed::yes(name.restore(new))
            })
        })
    })
    .map(|t| t.data)
    .map_err(|e| from_datafusion(&e))
}
