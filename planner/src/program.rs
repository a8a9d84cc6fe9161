//! [`Program`]: a batch plan over given rows, run by DataFusion, for the general operator.
//!
//! The plan is planned once; every run puts other rows under its leaves. A run is synchronous, on the calling
//! thread, with one partition, so equal inputs take equal paths. Programs are shared between workers: nothing of a
//! run is kept in the plan.

use std::any::Any;
use std::fmt;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::task::Poll;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::compute::BatchCoalescer;
use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::{TableType, source_as_provider};
use datafusion::execution::context::{SessionConfig, SessionState};
use datafusion::execution::{SendableRecordBatchStream, SessionStateBuilder, TaskContext};
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::execution_plan::{
    Boundedness, ChildrenPropertiesMode, EmissionType, ReplaceChildrenOptions, reset_plan_states,
};
use datafusion::physical_plan::memory::MemoryStream;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PhysicalExpr, PlanProperties,
    execute_stream,
};
use datafusion_common::{DataFusionError, Result, internal_err};
use datafusion_expr::{Expr, LogicalPlan, TableSource};
use futures::StreamExt;
use tidemill_dataflow::plan::{BatchProgram, Neighbourhood, RowError, Running};
use tokio::runtime::{Builder, Handle, Runtime};

use crate::bind::conditions::is_fallible;
use crate::error::{SqlError, row_error};
use crate::execute::yielding;
use crate::functions::external;
use crate::interrupt::{Ask, asking};
use crate::physical::{RoundsLimit, without_filters};
use crate::tree::PlanTree;

/// Rounds that a recursive query may take: without an end to it, everything would wait for the view.
const ROUNDS_MAX: usize = 1_000_000;
/// Rows that it may find.
const FOUND_ROWS_MAX: usize = 50_000_000;
/// Bytes that the values of these may have.
const FOUND_BYTES_MAX: usize = 2 << 30;

/// Rows of a batch of results.
const BATCH_ROWS: usize = 8192;

/// A batch plan with open leaves ([`InputTable`]).
pub struct Program {
    logical: LogicalPlan,
    physical: Arc<dyn ExecutionPlan>,
    /// Columns of each input.
    inputs: Vec<SchemaRef>,
    /// Columns of the output.
    output: SchemaRef,
    /// Some operators keep state that can't be reset; their plan is planned anew for each run.
    replan: bool,
    /// See [`BatchProgram::multiplies`].
    multiplies: bool,
    /// See [`BatchProgram::sees_order`].
    sees_order: bool,
    neighbourhood: Option<(Neighbourhood, MakeRunning)>,
    /// See [`BatchProgram::running`]; made when it is wanted first.
    running: OnceLock<Option<Running>>,
    /// Instead of the plan's own description.
    described: Option<String>,
}

/// Makes the programs that go on, of a plan and the columns of its only input and its output.
type MakeRunning = fn(&LogicalPlan, &SchemaRef, &SchemaRef) -> Result<Running>;

/// The rows of one run, one list per input. Leaves find them in the task's settings.
struct Inputs(Vec<Vec<RecordBatch>>);

impl Program {
    /// Plans `logical`, which is optimised already. `inputs`: columns of the leaves by number; `output`: what
    /// the result is cast to, column by column.
    pub fn try_new(
        logical: LogicalPlan,
        inputs: Vec<SchemaRef>,
        output: SchemaRef,
    ) -> Result<Self> {
        let (mut replan, mut multiplies, mut sees_order) = (false, false, false);
        logical.walk_all(&mut |node| {
            sees_order |= sees_order_of(node);
            replan |= matches!(node, LogicalPlan::RecursiveQuery(_));
            multiplies |= matches!(
                node,
                LogicalPlan::RecursiveQuery(_) | LogicalPlan::Join(_) | LogicalPlan::Unnest(_)
            );
            Ok(TreeNodeRecursion::Continue)
        })?;
        let physical = plan(&logical)?;
        Ok(Program {
            logical,
            physical,
            inputs,
            output,
            replan,
            multiplies,
            sees_order,
            neighbourhood: None,
            running: OnceLock::new(),
            described: None,
        })
    }

    /// The same program, with what is known of how far it looks around a row, and what makes programs of it that go on, if it runs.
    pub fn with_neighbourhood(
        mut self,
        neighbourhood: Option<Neighbourhood>,
        running: MakeRunning,
    ) -> Self {
        self.neighbourhood = neighbourhood.map(|n| (n, running));
        self
    }

    /// The same program, of which it is known that the order of its input's rows isn't seen in what it gives.
    pub fn in_any_order(mut self) -> Self {
        self.sees_order = false;
        self
    }

    /// The same program, described by words that leave nothing of its plan open.
    pub fn described(mut self, description: String) -> Self {
        self.described = Some(description);
        self
    }

    /// Runs the plan until `ask` gives an error; errors as DataFusion has them.
    pub fn execute(&self, inputs: Vec<Vec<RecordBatch>>, ask: &Ask) -> Result<Vec<RecordBatch>> {
        if inputs.len() != self.inputs.len() {
            return internal_err!(
                "{} inputs given, {} wanted",
                inputs.len(),
                self.inputs.len()
            );
        }
        let mut conformed = Vec::with_capacity(inputs.len());
        for (batches, schema) in inputs.into_iter().zip(&self.inputs) {
            let batches = batches.into_iter().map(|b| conform(b, schema));
            conformed.push(batches.collect::<Result<Vec<_>>>()?);
        }
        let physical = match self.replan {
            true => plan(&self.logical)?,
            false => reset_plan_states(Arc::clone(&self.physical))?,
        };
        let config = state()
            .config()
            .clone()
            .with_extension(Arc::new(Inputs(conformed)))
            .with_extension(Arc::new(RoundsLimit {
                rounds: ROUNDS_MAX,
                rows: FOUND_ROWS_MAX,
                bytes: FOUND_BYTES_MAX,
            }));
        let task = TaskContext::default()
            .with_session_config(config)
            .with_runtime(Arc::clone(state().runtime_env()));
        let stream = execute_stream(physical, Arc::new(task))?;
        let batches = block_on(collect(stream, ask), ask)??;
        batches
            .into_iter()
            .map(|b| conform(b, &self.output))
            .collect()
    }
}

/// Whether what a node gives may depend on the order of its input's rows. Sorts are by all columns where order decides
/// (`compile::order`); of several rows that fail, the first one's error is given.
fn sees_order_of(node: &LogicalPlan) -> bool {
    let known = matches!(
        node,
        LogicalPlan::TableScan(_)
            | LogicalPlan::Projection(_)
            | LogicalPlan::Filter(_)
            | LogicalPlan::SubqueryAlias(_)
            | LogicalPlan::Sort(_)
            | LogicalPlan::Limit(_)
    );
    !known || node.expressions().iter().any(is_fallible)
}

/// Whether the tables of equal plans are the same, which equality of plans leaves out.
fn same_tables(a: &LogicalPlan, b: &LogicalPlan) -> bool {
    let (a, b) = (tables(a), tables(b));
    a.len() == b.len()
        && a.iter().zip(&b).all(|(a, b)| {
            let (Some(a), Some(b)) = (a, b) else {
                return false;
            };
            let numbers = (input_number(a), input_number(b));
            Arc::ptr_eq(a, b) || matches!(numbers, (Some(a), Some(b)) if a == b)
        })
}

/// The tables of a plan, in the order of its scans.
fn tables(plan: &LogicalPlan) -> Vec<Option<Arc<dyn TableSource>>> {
    let mut out = vec![];
    let walked = plan.walk_all(&mut |node| {
        if let LogicalPlan::TableScan(scan) = node {
            out.push(Some(scan.source.clone()));
        }
        Ok(TreeNodeRecursion::Continue)
    });
    // One that wasn't walked to its end is equal to none.
    if walked.is_err() {
        out.push(None);
    }
    out
}

/// Which input of a program the table stands for.
fn input_number(table: &Arc<dyn TableSource>) -> Option<usize> {
    let provider = source_as_provider(table).ok()?;
    let provider: &dyn Any = provider.as_ref();
    Some(provider.downcast_ref::<InputTable>()?.index)
}

/// Settings and planner of all programs.
fn state() -> &'static SessionState {
    static STATE: LazyLock<SessionState> = LazyLock::new(|| {
        let mut config = SessionConfig::new()
            .with_target_partitions(1)
            .with_information_schema(false);
        let options = config.options_mut();
        options.execution.collect_statistics = false;
        options.execution.skip_physical_aggregate_schema_check = true;
        // Filters that grow while a plan runs are state that a plan planned once must not have.
        options.optimizer.enable_dynamic_filter_pushdown = false;
        options.optimizer.enable_topk_dynamic_filter_pushdown = false;
        options.optimizer.enable_join_dynamic_filter_pushdown = false;
        // As for SELECT: see `execute::BASE`.
        options.optimizer.enable_topk_aggregation = false;
        options.optimizer.enable_aggregate_dynamic_filter_pushdown = false;
        SessionStateBuilder::new()
            .with_config(config)
            .with_default_features()
            .with_physical_optimizer_rules(crate::physical::rules())
            .build()
    });
    &STATE
}

fn plan(logical: &LogicalPlan) -> Result<Arc<dyn ExecutionPlan>> {
    let state = state();
    let logical = without_filters(logical)?;
    let planned = state.query_planner().create_physical_plan(&logical, state);
    // The planner waits for locks of its own, each at the cost of some of the budget that tokio gives a task: without any left it would
    // wait for the task to be polled again, which is what it keeps from happening.
    yielding(futures::executor::block_on(tokio::task::unconstrained(
        planned,
    ))?)
}

/// All rows of a stream, small batches together, unless `ask` gives an error; it is asked between batches, and where operators yield.
async fn collect(mut stream: SendableRecordBatchStream, ask: &Ask) -> Result<Vec<RecordBatch>> {
    let mut batches = BatchCoalescer::new(stream.schema(), BATCH_ROWS)
        .with_biggest_coalesce_batch_size(Some(BATCH_ROWS / 2));
    loop {
        let next = poll_fn(|context| match ask() {
            Some(e) => Poll::Ready(Some(Err(external(e)))),
            None => stream.poll_next_unpin(context),
        });
        match next.await {
            None => break,
            Some(batch) => batches.push_batch(batch?)?,
        }
    }
    batches.finish_buffered_batch()?;
    Ok(std::iter::from_fn(|| batches.next_completed_batch()).collect())
}

thread_local! {
    /// Operators may start tasks, so a run needs a runtime; each worker thread has one.
    static RUNTIME: std::io::Result<Runtime> = Builder::new_current_thread().build();
}

/// Runs a future to its end on this thread; within somebody else's runtime that takes a thread of its own. Operators ask as well.
fn block_on<F>(future: F, ask: &Ask) -> Result<F::Output>
where
    F: Future + Send,
    F::Output: Send,
{
    let run = || {
        RUNTIME.with(|runtime| match runtime {
            Ok(runtime) => Ok(asking(ask, || runtime.block_on(future))),
            Err(e) => Err(DataFusionError::Execution(format!(
                "can't start a runtime: {e}"
            ))),
        })
    };
    if Handle::try_current().is_err() {
        return run();
    }
    std::thread::scope(|scope| {
        scope
            .spawn(run)
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// `batch` with exactly the fields of `schema`, cast where types differ.
fn conform(batch: RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    if batch.schema_ref() == schema {
        return Ok(batch);
    }
    let rows = batch.num_rows();
    let columns = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(
            |(column, field)| match column.data_type() == field.data_type() {
                true => Ok(Arc::clone(column)),
                false => Ok(arrow::compute::cast(column, field.data_type())?),
            },
        )
        .collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(
        schema.clone(),
        columns,
        &options,
    )?)
}

impl BatchProgram for Program {
    fn run(
        &self,
        inputs: Vec<Vec<RecordBatch>>,
        stop: &Arc<AtomicBool>,
    ) -> std::result::Result<Vec<RecordBatch>, RowError> {
        let stop = Arc::clone(stop);
        let ask: Ask = Arc::new(move || {
            let unwanted = stop.load(Ordering::Relaxed);
            unwanted.then(|| SqlError::internal("nobody wants the result any more"))
        });
        self.execute(inputs, &ask).map_err(|e| row_error(&e))
    }

    fn same(&self, other: &dyn BatchProgram) -> bool {
        let other: &dyn Any = other;
        let Some(other) = other.downcast_ref::<Program>() else {
            return false;
        };
        self.output == other.output
            && self.inputs == other.inputs
            && self.logical == other.logical
            && same_tables(&self.logical, &other.logical)
    }

    fn multiplies(&self) -> bool {
        self.multiplies
    }

    fn sees_order(&self) -> bool {
        self.sees_order
    }

    fn neighbourhood(&self) -> Option<&Neighbourhood> {
        self.neighbourhood.as_ref().map(|(n, _)| n)
    }

    fn running(&self) -> Option<&Running> {
        let (_, make) = self.neighbourhood.as_ref().filter(|(n, _)| n.runs)?;
        let made = || make(&self.logical, self.inputs.first()?, &self.output).ok();
        self.running.get_or_init(made).as_ref()
    }

    fn describe(&self) -> String {
        if let Some(description) = &self.described {
            return description.clone();
        }
        let plan = self.logical.display_indent().to_string();
        let lines: Vec<&str> = plan.lines().map(str::trim).collect();
        lines.join(" <- ")
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Program({})", self.describe())
    }
}

/// The table that stands for input `index` in a program's plan.
#[derive(Debug)]
pub struct InputTable {
    index: usize,
    schema: SchemaRef,
}

impl InputTable {
    /// Input `index` with columns `schema`.
    pub fn new(index: usize, schema: SchemaRef) -> Self {
        InputTable { index, schema }
    }
}

#[async_trait]
impl TableProvider for InputTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Temporary
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let columns: Vec<usize> = projection
            .cloned()
            .unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        Ok(Arc::new(InputExec::try_new(
            self.index,
            columns,
            &self.schema,
        )?))
    }
}

/// Reads the rows of one input of the run.
#[derive(Debug)]
struct InputExec {
    index: usize,
    columns: Vec<usize>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
}

impl InputExec {
    fn try_new(index: usize, columns: Vec<usize>, schema: &Schema) -> Result<Self> {
        let schema = Arc::new(schema.project(&columns)?);
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema.clone()),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Ok(InputExec {
            index,
            columns,
            schema,
            properties: Arc::new(properties),
        })
    }
}

impl DisplayAs for InputExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InputExec: {}", self.index)
    }
}

impl ExecutionPlan for InputExec {
    fn name(&self) -> &str {
        "InputExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
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

    fn execute(&self, _: usize, task: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let Some(inputs) = task.session_config().get_extension::<Inputs>() else {
            return internal_err!("the program runs without inputs");
        };
        let batches = inputs.0[self.index]
            .iter()
            .map(|b| b.project(&self.columns));
        let batches = batches.collect::<std::result::Result<Vec<_>, _>>()?;
        Ok(Box::pin(MemoryStream::try_new(
            batches,
            self.schema.clone(),
            None,
        )?))
    }
}
