//! [`Direct`]: a query of one collection whose rows an index finds, or of a few given rows, run without planning it anew.
//!
//! Filters, projections, a sort and a limit, or one `min` or `max`, over one scan or VALUES are kept as a list of steps with compiled expressions.
//! An execution puts the parameters' values into them, asks the reader for the rows that the filter's conditions
//! select, and takes the rows through the steps. Any other query, and one that no index serves, goes to DataFusion.
//!
//! Invariant: the steps are those of the optimised plan that DataFusion would run, with the same expressions, so
//! that answers and errors are the same.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Poll;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::{
    SortColumn, SortOptions, concat_batches, lexsort_to_indices, sort_to_indices,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::physical_plan::filter::batch_filter;
use datafusion_common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion_common::{Column, DFSchema, ScalarValue};
use datafusion_expr::{Aggregate, Expr, ExprSchemable, LogicalPlan};
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions;
use futures::StreamExt;
use tidemill_zset::CollectionId;

use crate::access::{Condition, conditions, conjuncts};
use crate::bind::written::WRITTEN;
use crate::compile::expr::{has_subquery, physical};
use crate::error::{Result, SqlError, from_datafusion};
use crate::execute::{at_time, optimised_chain, time_value};
use crate::query::{ColumnOrder, QueryPlan, ResultStream, SnapshotReader, scan_collection};
use crate::scan::relabel;
use crate::tree::{PlanTree, Tree};

/// Rows of VALUES, at most: they are computed at once, on the caller's thread.
const GIVEN_ROWS_MAX: usize = 64;

/// Rows that are read in an index's order until there are enough of them; beyond that the general path reads all.
const FIRST_ROWS_READ_MAX: usize = 65_536;

/// A compiled expression over the columns of its input, followed by the parameters.
#[derive(Clone, Debug)]
struct Template {
    expr: Arc<dyn PhysicalExpr>,
    /// Number of input columns.
    width: usize,
    has_params: bool,
}

/// The columns that templates see. To make them checks all their names, which is done once for all the expressions of a step.
struct Inputs {
    all: DFSchema,
    width: usize,
}

impl Inputs {
    fn new(input: &DFSchema, params: &[Field]) -> Option<Inputs> {
        let columns = input.iter().map(|(q, f)| (q.cloned(), f.clone()));
        let params = params
            .iter()
            .enumerate()
            .map(|(i, f)| (None, Arc::new(f.clone().with_name(param_name(i)))));
        let all = DFSchema::new_with_metadata(columns.chain(params).collect(), Default::default());
        Some(Inputs {
            all: all.ok()?,
            width: input.fields().len(),
        })
    }

    fn template(&self, expr: &Expr) -> Option<Template> {
        if has_subquery(expr) {
            return None;
        }
        let mut has_params = false;
        let expr = expr.clone().change_up(&mut |e| {
            Ok(match &e {
                Expr::Placeholder(p) => {
                    has_params = true;
                    let n = p.id.trim_start_matches('$').parse::<usize>().unwrap_or(0);
                    let name = param_name(n.wrapping_sub(1));
                    Transformed::yes(Expr::Column(Column::new_unqualified(name)))
                }
                _ => Transformed::no(e),
            })
        });
        Some(Template {
            expr: physical(&expr.ok()?.data, &self.all).ok()?,
            width: self.width,
            has_params,
        })
    }
}

impl Template {
    /// Of an expression without columns.
    fn constant(expr: &Expr, params: &[Field]) -> Option<Template> {
        Inputs::new(&DFSchema::empty(), params)?.template(expr)
    }

    /// The expression with the parameters' values.
    fn bind(&self, values: &[ScalarValue]) -> Result<Arc<dyn PhysicalExpr>> {
        if !self.has_params {
            return Ok(Arc::clone(&self.expr));
        }
        let bound = Arc::clone(&self.expr).change_up(&mut |e| {
            let Some(column) = e.downcast_ref::<expressions::Column>() else {
                return Ok(Transformed::no(e));
            };
            let value = column.index().checked_sub(self.width);
            Ok(match value.and_then(|n| values.get(n)) {
                Some(value) => {
                    Transformed::yes(Arc::new(expressions::Literal::new(value.clone())) as _)
                }
                None => Transformed::no(e),
            })
        });
        bound.map(|t| t.data).map_err(|e| from_datafusion(&e))
    }

    /// The column of its input that it is.
    fn column(&self) -> Option<usize> {
        let column = self.expr.downcast_ref::<expressions::Column>()?.index();
        (column < self.width).then_some(column)
    }

    /// The value of an expression that names no column.
    fn value(&self, values: &[ScalarValue]) -> Result<ScalarValue> {
        if let Some(column) = self.expr.downcast_ref::<expressions::Column>()
            && let Some(value) = values.get(column.index().wrapping_sub(self.width))
        {
            return Ok(value.clone());
        }
        if let Some(literal) = self.expr.downcast_ref::<expressions::Literal>() {
            return Ok(literal.value().clone());
        }
        let options = RecordBatchOptions::new().with_row_count(Some(1));
        let one = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &options)
            .map_err(internal)?;
        let value = self
            .bind(values)?
            .evaluate(&one)
            .and_then(|v| v.into_array(1))
            .and_then(|a| ScalarValue::try_from_array(&a, 0));
        value.map_err(|e| from_datafusion(&e))
    }
}

fn param_name(index: usize) -> String {
    format!("${}", index.wrapping_add(1))
}

/// What is done with rows, in order. `N`: numbers of rows.
#[derive(Debug)]
enum Step<E, N> {
    Filter(E),
    Project(Vec<E>, SchemaRef),
    Sort(Vec<(E, SortOptions)>, Option<usize>),
    Limit(N, Option<N>),
    /// `min` or `max` of all rows, none of which is NULL: the first one in that order, NULL if there are no rows.
    Extreme(E, SortOptions, SchemaRef),
}

/// A step that can be done.
type Bound = Step<Arc<dyn PhysicalExpr>, usize>;

/// A number of rows.
#[derive(Debug)]
enum Count {
    Known(usize),
    Given(Template),
}

impl Count {
    fn new(e: Option<&Expr>, params: &[Field]) -> Option<Option<Count>> {
        Some(match e {
            None | Some(Expr::Literal(ScalarValue::Int64(None), _)) => None,
            Some(Expr::Literal(ScalarValue::Int64(Some(n)), _)) => {
                Some(Count::Known(usize::try_from(*n).ok()?))
            }
            Some(e) => Some(Count::Given(Template::constant(e, params)?)),
        })
    }

    /// `None`: it isn't a number of rows. NULL is none, and no limit.
    fn bind(&self, values: &[ScalarValue]) -> Option<Option<usize>> {
        let given = match self {
            Count::Known(n) => return Some(Some(*n)),
            Count::Given(given) => given.value(values).ok()?,
        };
        match given {
            ScalarValue::Int64(None) => Some(None),
            ScalarValue::Int64(Some(n)) => usize::try_from(n).ok().map(Some),
            _ => None,
        }
    }
}

impl<E, N> Step<E, N> {
    /// It needs all rows at once.
    fn is_whole(&self) -> bool {
        matches!(self, Step::Sort(..) | Step::Limit(..) | Step::Extreme(..))
    }
}

/// Without rows there is an answer as well.
fn answers_nothing(steps: &[Bound]) -> bool {
    steps.iter().any(|step| matches!(step, Step::Extreme(..)))
}

impl Step<Template, Count> {
    /// `None`: a number of rows isn't one, and the general path says how.
    fn bind(&self, values: &[ScalarValue]) -> Result<Option<Bound>> {
        Ok(Some(match self {
            Step::Filter(e) => Step::Filter(e.bind(values)?),
            Step::Project(exprs, schema) => Step::Project(
                exprs
                    .iter()
                    .map(|e| e.bind(values))
                    .collect::<Result<_>>()?,
                schema.clone(),
            ),
            Step::Sort(keys, fetch) => Step::Sort(
                keys.iter()
                    .map(|(e, options)| Ok((e.bind(values)?, *options)))
                    .collect::<Result<_>>()?,
                *fetch,
            ),
            Step::Extreme(value, options, schema) => {
                Step::Extreme(value.bind(values)?, *options, schema.clone())
            }
            Step::Limit(skip, fetch) => {
                let fetch = fetch.as_ref().map(|n| n.bind(values));
                match (skip.bind(values), fetch.unwrap_or(Some(None))) {
                    (Some(skip), Some(fetch)) => Step::Limit(skip.unwrap_or(0), fetch),
                    _ => return Ok(None),
                }
            }
        }))
    }
}

impl Bound {
    fn apply(&self, batch: RecordBatch) -> datafusion_common::Result<RecordBatch> {
        let rows = batch.num_rows();
        let array = |e: &Arc<dyn PhysicalExpr>| e.evaluate(&batch).and_then(|v| v.into_array(rows));
        match self {
            Step::Filter(predicate) => batch_filter(&batch, predicate),
            Step::Project(exprs, schema) => {
                let columns = exprs
                    .iter()
                    .map(array)
                    .collect::<datafusion_common::Result<Vec<ArrayRef>>>()?;
                let options = RecordBatchOptions::new().with_row_count(Some(rows));
                let schema = schema.clone();
                Ok(RecordBatch::try_new_with_options(
                    schema, columns, &options,
                )?)
            }
            Step::Sort(keys, fetch) => {
                let mut columns = Vec::with_capacity(keys.len());
                for (key, options) in keys {
                    columns.push(SortColumn {
                        values: array(key)?,
                        options: Some(*options),
                    });
                }
                let order = lexsort_to_indices(&columns, *fetch)?;
                Ok(arrow::compute::take_record_batch(&batch, &order)?)
            }
            Step::Extreme(value, options, schema) => {
                let values = array(value)?;
                let first = sort_to_indices(&values, Some(*options), Some(1))?;
                let best = match first.is_empty() {
                    true => new_null_array(values.data_type(), 1),
                    false => arrow::compute::take(&values, &first, None)?,
                };
                Ok(RecordBatch::try_new(schema.clone(), vec![best])?)
            }
            Step::Limit(skip, fetch) => {
                let skip = (*skip).min(rows);
                Ok(batch.slice(skip, fetch.unwrap_or(rows).min(rows - skip)))
            }
        }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Direct {
    collection: CollectionId,
    /// Columns of the collection that are read.
    columns: Option<Vec<usize>>,
    scanned: SchemaRef,
    /// Types of the collection's columns.
    types: SchemaRef,
    conditions: Vec<Condition<Template>>,
    /// The rows, each with its columns, if it reads no collection.
    given: Option<Vec<Vec<Template>>>,
    steps: Vec<Step<Template, Count>>,
    /// What the first rows are wanted by: a column of the collection, and whether descending.
    order: Option<(usize, bool)>,
    output: SchemaRef,
    params: Vec<Field>,
    /// The last two parameters are the times of the execution.
    timed: bool,
}

impl Direct {
    /// The query's steps, if it is of that kind.
    pub fn of(plan: &QueryPlan) -> Option<Direct> {
        if !is_chain(&plan.logical) {
            return None;
        }
        let timed = plan.uses_now;
        let changed;
        let plan = match timed {
            true => {
                changed = plan.with_times_as_params().ok()?;
                &changed
            }
            false => plan,
        };
        let logical = at_time(plan.logical.clone(), &plan.session).ok()?;
        let optimised = optimised_chain(logical).ok()?;
        let mut direct = Direct {
            collection: CollectionId(0),
            columns: None,
            scanned: Arc::new(Schema::empty()),
            types: Arc::new(Schema::empty()),
            conditions: vec![],
            given: None,
            steps: vec![],
            order: None,
            output: plan.columns.clone(),
            params: plan.params.clone(),
            timed,
        };
        direct.chain(&optimised)?;
        // Given rows are computed once; for rows that are looked for, an execution may be given up and begun anew.
        if plan.volatile.is_some() && direct.given.is_none() {
            return None;
        }
        direct.written_conditions(&plan.logical);
        let few = direct.given.is_some() || direct.collection == WRITTEN;
        if !few {
            direct.order = direct.first_by();
        }
        (few || direct.order.is_some() || !direct.conditions.is_empty()).then_some(direct)
    }

    /// The column of the collection whose order decides which rows are the first ones, and whether descending.
    fn first_by(&self) -> Option<(usize, bool)> {
        let whole = self.steps.iter().position(Step::is_whole)?;
        let next = self.steps.get(whole + 1);
        let (key, options, has_nulls) = match &self.steps[whole] {
            Step::Sort(keys, fetch)
                if fetch.is_some() || matches!(next, Some(Step::Limit(_, Some(_)))) =>
            {
                let (key, options) = keys.first()?;
                (key, options, true)
            }
            Step::Extreme(value, options, _) => (value, options, false),
            _ => return None,
        };
        let mut column = key.column()?;
        for step in self.steps[..whole].iter().rev() {
            if let Step::Project(exprs, _) = step {
                column = exprs[column].column()?;
            }
        }
        if let Some(columns) = &self.columns {
            column = columns[column];
        }
        let nulls = has_nulls && self.types.field(column).is_nullable();
        let ordered = !nulls || options.descending == options.nulls_first;
        ordered.then_some((column, options.descending))
    }

    /// Adds the steps of `plan`, those of its input first.
    fn chain(&mut self, plan: &LogicalPlan) -> Option<()> {
        let params = self.params.clone();
        let inputs = |input: &LogicalPlan| Inputs::new(input.schema(), &params);
        match plan {
            LogicalPlan::TableScan(scan) => {
                if scan.fetch.is_some() {
                    return None;
                }
                let relation = scan_collection(scan)?;
                self.collection = relation.id;
                self.columns.clone_from(&scan.projection);
                self.types = relation.columns;
                self.scanned = Arc::new(scan.projected_schema.as_arrow().clone());
            }
            LogicalPlan::EmptyRelation(one) if one.produce_one_row => {
                self.given = Some(vec![vec![]]);
            }
            LogicalPlan::Values(values) if values.values.len() <= GIVEN_ROWS_MAX => {
                let nothing = Inputs::new(&DFSchema::empty(), &params)?;
                let template = |e: &Expr| nothing.template(e);
                let row = |row: &Vec<Expr>| row.iter().map(template).collect();
                self.given = Some(values.values.iter().map(row).collect::<Option<_>>()?);
                self.scanned = Arc::new(values.schema.as_arrow().clone());
            }
            LogicalPlan::SubqueryAlias(alias) => self.chain(&alias.input)?,
            LogicalPlan::Filter(filter) => {
                self.chain(&filter.input)?;
                if self.steps.is_empty() {
                    let columns = self.columns.clone();
                    self.read_conditions(&filter.predicate, filter.input.schema(), &columns);
                }
                let predicate = inputs(&filter.input)?.template(&filter.predicate)?;
                self.steps.push(Step::Filter(predicate));
            }
            LogicalPlan::Projection(projection) => {
                self.chain(&projection.input)?;
                let exprs = projection.expr.iter();
                let inputs = inputs(&projection.input)?;
                let exprs = exprs.map(|e| inputs.template(e));
                let schema = Arc::new(projection.schema.as_arrow().clone());
                self.steps
                    .push(Step::Project(exprs.collect::<Option<_>>()?, schema));
            }
            LogicalPlan::Sort(sort) => {
                self.chain(&sort.input)?;
                let inputs = inputs(&sort.input)?;
                let keys = sort.expr.iter().map(|key| {
                    let options = SortOptions {
                        descending: !key.asc,
                        nulls_first: key.nulls_first,
                    };
                    Some((inputs.template(&key.expr)?, options))
                });
                self.steps
                    .push(Step::Sort(keys.collect::<Option<_>>()?, sort.fetch));
            }
            LogicalPlan::Aggregate(aggregate) => {
                let (value, descending) = extreme(aggregate)?;
                self.chain(&aggregate.input)?;
                let inputs = inputs(&aggregate.input)?;
                self.steps
                    .push(Step::Filter(inputs.template(&value.clone().is_not_null())?));
                let options = SortOptions {
                    descending,
                    nulls_first: descending,
                };
                let schema = Arc::new(aggregate.schema.as_arrow().clone());
                self.steps
                    .push(Step::Extreme(inputs.template(value)?, options, schema));
            }
            LogicalPlan::Limit(limit) => {
                self.chain(&limit.input)?;
                let skip = Count::new(limit.skip.as_deref(), &params)?;
                let fetch = Count::new(limit.fetch.as_deref(), &params)?;
                self.steps
                    .push(Step::Limit(skip.unwrap_or(Count::Known(0)), fetch));
            }
            _ => return None,
        }
        Some(())
    }

    /// Conditions of the plan as it was bound: optimised, a filter may have become several steps. They are
    /// read from filters that see rows of the scan as they are.
    fn written_conditions(&mut self, plan: &LogicalPlan) {
        if let LogicalPlan::Filter(filter) = plan
            && let Some(columns) = scanned_columns(&filter.input)
        {
            self.read_conditions(&filter.predicate, filter.input.schema(), columns);
        }
        plan.inputs()
            .iter()
            .for_each(|input| self.written_conditions(input));
    }

    /// `columns`: numbers of the columns of `input` in the collection.
    fn read_conditions(
        &mut self,
        predicate: &Expr,
        input: &DFSchema,
        columns: &Option<Vec<usize>>,
    ) {
        let column = |c: &Column| {
            let n = input.maybe_index_of_column(c)?;
            Some(columns.as_ref().map_or(n, |columns| columns[n]))
        };
        let Some(constants) = Inputs::new(&DFSchema::empty(), &self.params) else {
            return;
        };
        let mut parts = Vec::new();
        conjuncts(predicate, &mut parts);
        for part in parts {
            let found = conditions(part, &column).into_iter();
            let found = found.filter_map(|c| c.try_map(|value| constants.template(value)));
            self.conditions.extend(found);
        }
    }

    /// Runs the query with the given parameters, at these times: `now()` and `statement_timestamp()`, microseconds since the Unix epoch. `None`: no
    /// index of the reader serves it.
    pub fn execute(
        &self,
        given: &[ScalarValue],
        (now, statement): (i64, i64),
        reader: &dyn SnapshotReader,
    ) -> Result<Option<ResultStream>> {
        let times = [time_value(now), time_value(statement)];
        let Some(values) = self.params_of(given, &times) else {
            return Ok(None);
        };
        if let Some(given) = &self.given {
            // Where a value fails, the general path says how.
            let Ok(batch) = self.rows_of(given, &values) else {
                return Ok(None);
            };
            let Some(steps) = self.steps_of(&values)? else {
                return Ok(None);
            };
            let rows = relabel(take(batch, steps.iter())?, &self.output)?;
            return Ok(Some(futures::stream::iter([Ok(rows)]).boxed()));
        }
        let mut conditions = Vec::with_capacity(self.conditions.len());
        for condition in &self.conditions {
            // Where a value fails, the general path says how.
            let Some(condition) = condition.try_map(|t| t.value(&values).ok()) else {
                return Ok(None);
            };
            let wanted = self.types.field(condition.column()).data_type();
            conditions.extend(condition.of_type(wanted));
        }
        let Some(steps) = self.steps_of(&values)? else {
            return Ok(None);
        };
        if let Some(first) = self.first_rows(&conditions, &steps, reader)? {
            return Ok(Some(futures::stream::iter(first.map(Ok)).boxed()));
        }
        let columns = self.columns.as_deref();
        let Some(rows) = reader.find(self.collection, columns, &conditions)? else {
            return Ok(None);
        };
        let mut steps = VecDeque::from(steps);
        let whole = steps.iter().position(Step::is_whole);
        let each: Vec<_> = steps.drain(..whole.unwrap_or(steps.len())).collect();
        let nothing = match answers_nothing(steps.make_contiguous()) {
            true => Some(self.nothing(&each)?),
            false => None,
        };
        let scanned = self.scanned.clone();
        let pieces = rows.map(move |batch| {
            let batch = relabel(batch?, &scanned)?;
            take(batch, each.iter())
        });
        let output = self.output.clone();
        if whole.is_none() {
            let pieces = pieces.map(move |b| b.and_then(|b| relabel(b, &output)));
            return Ok(Some(yielding(pieces)));
        }
        // The rows that an index found, which a sort or a limit needs together.
        let mut all: Vec<RecordBatch> = Vec::new();
        let rest = move |all: &[RecordBatch]| {
            let Some(first) = all.first().or(nothing.as_ref()) else {
                return Ok(None);
            };
            let batch = concat_batches(first.schema_ref(), all).map_err(internal)?;
            relabel(take(batch, steps.iter())?, &output).map(Some)
        };
        let stream = yielding(pieces);
        let collected = async move {
            let mut stream = stream;
            while let Some(batch) = stream.next().await {
                let batch = batch?;
                if batch.num_rows() > 0 {
                    all.push(batch);
                }
            }
            rest(&all)
        };
        let result = futures::stream::once(collected);
        Ok(Some(
            result
                .filter_map(|r| futures::future::ready(r.transpose()))
                .boxed(),
        ))
    }

    /// The steps with the parameters' values. A sort gives no more rows than the limit behind it takes.
    fn steps_of(&self, values: &[ScalarValue]) -> Result<Option<Vec<Bound>>> {
        let mut steps = Vec::with_capacity(self.steps.len());
        for step in &self.steps {
            let Some(step) = step.bind(values)? else {
                return Ok(None);
            };
            if let (Step::Limit(skip, Some(fetch)), Some(Step::Sort(_, sorted))) =
                (&step, steps.last_mut())
            {
                *sorted = Some(
                    skip.saturating_add(*fetch)
                        .min(sorted.unwrap_or(usize::MAX)),
                );
            }
            steps.push(step);
        }
        Ok(Some(steps))
    }

    /// The answer, if the reader has the rows in the order that decides which are wanted, and few need to be read.
    fn first_rows(
        &self,
        conditions: &[Condition],
        steps: &[Bound],
        reader: &dyn SnapshotReader,
    ) -> Result<Option<Option<RecordBatch>>> {
        let whole = steps.iter().position(Step::is_whole);
        let (Some((column, descending)), Some(whole)) = (self.order, whole) else {
            return Ok(None);
        };
        let (each, rest) = steps.split_at(whole);
        let (wanted, nulls) = match rest.first() {
            Some(Step::Sort(_, Some(wanted))) => (*wanted, true),
            Some(Step::Extreme(..)) => (1, false),
            _ => return Ok(None),
        };
        if wanted > FIRST_ROWS_READ_MAX {
            return Ok(None);
        }
        let order = ColumnOrder {
            column,
            descending,
            nulls,
            rows: wanted,
        };
        let columns = self.columns.as_deref();
        let Some(pieces) = reader.find_in_order(self.collection, columns, conditions, order)?
        else {
            return Ok(None);
        };
        let (mut all, mut rows, mut read) = (Vec::new(), 0, 0);
        for piece in pieces {
            for batch in piece? {
                let batch = relabel(batch?, &self.scanned)?;
                read += batch.num_rows();
                if read > FIRST_ROWS_READ_MAX {
                    return Ok(None);
                }
                // Where a value fails, the general path says how.
                let Ok(batch) = take(batch, each.iter()) else {
                    return Ok(None);
                };
                rows += batch.num_rows();
                if batch.num_rows() > 0 {
                    all.push(batch);
                }
            }
            if rows >= wanted {
                break;
            }
        }
        if all.is_empty() && answers_nothing(rest) {
            all.push(self.nothing(each)?);
        }
        let Some(first) = all.first() else {
            return Ok(Some(None));
        };
        let batch = concat_batches(first.schema_ref(), &all).map_err(internal)?;
        let answer = relabel(take(batch, rest.iter())?, &self.output)?;
        Ok(Some(Some(answer)))
    }

    /// What the steps make of no rows.
    fn nothing(&self, steps: &[Bound]) -> Result<RecordBatch> {
        take(RecordBatch::new_empty(self.scanned.clone()), steps.iter())
    }

    /// The given rows, column by column.
    fn rows_of(&self, given: &[Vec<Template>], values: &[ScalarValue]) -> Result<RecordBatch> {
        let mut columns = Vec::with_capacity(self.scanned.fields().len());
        for (column, field) in self.scanned.fields().iter().enumerate() {
            let cells = given.iter().map(|row| row[column].value(values));
            let cells = cells.collect::<Result<Vec<ScalarValue>>>()?;
            let array = ScalarValue::iter_to_array(cells).map_err(|e| from_datafusion(&e))?;
            let array = match array.data_type() == field.data_type() {
                true => array,
                false => arrow::compute::cast(&array, field.data_type()).map_err(internal)?,
            };
            columns.push(array);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(given.len()));
        RecordBatch::try_new_with_options(self.scanned.clone(), columns, &options).map_err(internal)
    }

    /// The parameters, each in the type that the plan gives it.
    fn params_of(&self, given: &[ScalarValue], times: &[ScalarValue]) -> Option<Vec<ScalarValue>> {
        let times = if self.timed { times } else { &[] };
        let given = given.get(..self.params.len() - times.len())?.iter();
        let typed = given.chain(times).zip(&self.params).map(|(value, field)| {
            match value.data_type() == *field.data_type() {
                true => Some(value.clone()),
                false => value.cast_to(field.data_type()).ok(),
            }
        });
        typed.collect()
    }
}

/// The columns of a scan that is seen through filters and other names alone.
fn scanned_columns(plan: &LogicalPlan) -> Option<&Option<Vec<usize>>> {
    match plan {
        LogicalPlan::TableScan(scan) => Some(&scan.projection),
        LogicalPlan::SubqueryAlias(alias) => scanned_columns(&alias.input),
        LogicalPlan::Filter(filter) => scanned_columns(&filter.input),
        _ => None,
    }
}

/// Takes a batch through steps; a batch without rows has no value on which one could fail.
fn take<'s>(mut batch: RecordBatch, steps: impl Iterator<Item = &'s Bound>) -> Result<RecordBatch> {
    for step in steps {
        batch = step.apply(batch).map_err(|e| from_datafusion(&e))?;
    }
    Ok(batch)
}

/// The batches that have rows, as a stream that lets others run before it looks for the next one.
fn yielding(
    mut batches: impl Iterator<Item = Result<RecordBatch>> + Send + 'static,
) -> ResultStream {
    futures::stream::poll_fn(move |context| match batches.next() {
        Some(Ok(batch)) if batch.num_rows() == 0 => {
            context.waker().wake_by_ref();
            Poll::Pending
        }
        other => Poll::Ready(other),
    })
    .boxed()
}

/// Nothing but steps over one scan or given rows. Looked at before the plan is optimised, which takes its time.
fn is_chain(plan: &LogicalPlan) -> bool {
    let mut chain = true;
    let walked = plan.walk_all(&mut |node| {
        chain &= match node {
            // More would be optimised here in vain.
            LogicalPlan::Values(values) => values.values.len() <= GIVEN_ROWS_MAX,
            node => is_step(node),
        };
        Ok(match chain {
            true => TreeNodeRecursion::Continue,
            false => TreeNodeRecursion::Stop,
        })
    });
    chain && walked.is_ok()
}

/// The argument of the one `min` or `max` that an aggregate without groups computes, and whether the greatest is wanted. Only of types
/// whose values are sorted as those functions compare them.
fn extreme(aggregate: &Aggregate) -> Option<(&Expr, bool)> {
    let (true, [Expr::AggregateFunction(call)]) = (
        aggregate.group_expr.is_empty(),
        aggregate.aggr_expr.as_slice(),
    ) else {
        return None;
    };
    let plain = call.params.filter.is_none() && call.params.order_by.is_empty();
    let ([value], true) = (call.params.args.as_slice(), plain) else {
        return None;
    };
    let ty = value.get_type(&aggregate.input.schema()).ok()?;
    let sorted = ty.is_integer()
        || matches!(
            ty,
            DataType::Decimal128(..)
                | DataType::Date32
                | DataType::Time64(_)
                | DataType::Timestamp(..)
                | DataType::Utf8View
        );
    if !sorted || ty != *aggregate.schema.field(0).data_type() {
        return None;
    }
    match call.func.name() {
        "min" => Some((value, false)),
        "max" => Some((value, true)),
        _ => None,
    }
}

fn is_step(node: &LogicalPlan) -> bool {
    if let LogicalPlan::Aggregate(aggregate) = node {
        return extreme(aggregate).is_some();
    }
    matches!(
        node,
        LogicalPlan::TableScan(_)
            | LogicalPlan::EmptyRelation(_)
            | LogicalPlan::SubqueryAlias(_)
            | LogicalPlan::Filter(_)
            | LogicalPlan::Projection(_)
            | LogicalPlan::Sort(_)
            | LogicalPlan::Limit(_)
    )
}

fn internal(e: arrow::error::ArrowError) -> SqlError {
    SqlError::internal(e.to_string())
}
