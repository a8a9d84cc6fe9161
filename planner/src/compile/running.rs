//! The programs that go on from some row on, for windows that begin at a key's first row ([`Running`]).
//!
//! They are made of the program itself. Its input gets further columns, which pass through to the windows; there, each function that
//! adds up all rows before a row becomes one that adds what is carried in ([`Resumable`]). What is to be carried further comes from an
//! aggregate of the rows that such a window reads.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::datasource::provider_as_source;
use datafusion::functions_aggregate::count::count_udaf;
use datafusion_common::tree_node::Transformed;
use datafusion_common::{Column, DFSchema, Result, ScalarValue, internal_err};
use datafusion_expr::expr::{AggregateFunction, WindowFunction, WindowFunctionParams};
use datafusion_expr::logical_plan::{Filter, Projection, SubqueryAlias, Window};
use datafusion_expr::{
    AggregateUDF, Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, TableScanBuilder,
    WindowFrame, WindowFrameBound, WindowFrameUnits, WindowFunctionDefinition, lit,
};
use tidemill_dataflow::plan::{BatchProgram, Running};

use super::expr::unalias;
use super::neighbourhood::runs;
use crate::functions::resumed::Resumable;
use crate::program::{InputTable, Program};
use crate::tree::Tree;

/// The programs for `fragment`, which has a neighbourhood that runs. `input`: columns of its only input; `output`: its own.
pub(super) fn running(
    fragment: &LogicalPlan,
    input: &SchemaRef,
    output: &SchemaRef,
) -> Result<Running> {
    let calls = calls(fragment)?;
    let carried: Vec<DataType> = calls
        .iter()
        .map(Resumable::carried)
        .collect::<Result<_>>()?;
    let mut fields = input.fields().to_vec();
    fields.push(Arc::new(Field::new("__segment", DataType::Int64, true)));
    for (i, of) in carried.iter().enumerate() {
        let of = DataType::Dictionary(Box::new(DataType::Int32), Box::new(of.clone()));
        fields.push(Arc::new(Field::new(format!("__carried_{i}"), of, true)));
    }
    let mut resuming = Resuming {
        from: input.fields().len(),
        input: Arc::new(Schema::new(fields)),
        calls,
        next: 0,
        carries: vec![],
    };
    let changed = fragment
        .clone()
        .change_up(&mut |node| Ok(Transformed::yes(resuming.node(node)?)))?;
    let own = fragment.schema().columns().into_iter().map(Expr::Column);
    let resumed = Projection::try_new(own.collect(), Arc::new(changed.data))?;
    let program = |plan: LogicalPlan, output: SchemaRef| -> Result<Arc<dyn BatchProgram>> {
        let inputs = vec![resuming.input.clone()];
        Ok(Arc::new(Program::try_new(plan, inputs, output)?))
    };
    let carries = resuming.carries.iter().map(|plan| {
        let output = Schema::clone(plan.schema().as_arrow());
        program(plan.clone(), Arc::new(output))
    });
    Ok(Running {
        resumed: program(LogicalPlan::Projection(resumed), output.clone())?,
        carries: carries.collect::<Result<_>>()?,
        carried,
    })
}

/// The functions that run, from the bottom up.
fn calls(fragment: &LogicalPlan) -> Result<Vec<Resumable>> {
    let mut calls = vec![];
    fragment.clone().change_up(&mut |node| {
        if let LogicalPlan::Window(w) = &node {
            for (i, e) in w.window_expr.iter().enumerate() {
                let Some(call) = running_call(e) else {
                    continue;
                };
                let (of, args) = aggregate(call);
                let args = args.iter().map(|e| Ok(e.to_field(w.input.schema())?.1));
                let result = w.schema.field(own_columns(w) + i).data_type().clone();
                calls.push(Resumable::new(of, args.collect::<Result<_>>()?, result));
            }
        }
        Ok(Transformed::no(node))
    })?;
    Ok(calls)
}

fn running_call(e: &Expr) -> Option<&WindowFunction> {
    match unalias(e) {
        Expr::WindowFunction(w) if runs(w) => Some(w),
        _ => None,
    }
}

/// How many of its columns a window has from its input.
fn own_columns(w: &Window) -> usize {
    w.schema.fields().len() - w.window_expr.len()
}

/// The aggregate that a function is, over the rows up to some row, and its arguments. A row's number is how many rows there are.
fn aggregate(call: &WindowFunction) -> (Arc<AggregateUDF>, Vec<Expr>) {
    match &call.fun {
        WindowFunctionDefinition::AggregateUDF(of) => (of.clone(), call.params.args.clone()),
        WindowFunctionDefinition::WindowUDF(_) => (count_udaf(), vec![lit(1i64)]),
    }
}

fn up_to_the_row() -> WindowFrame {
    let all = WindowFrameBound::Preceding(ScalarValue::UInt64(None));
    WindowFrame::new_bounds(WindowFrameUnits::Rows, all, WindowFrameBound::CurrentRow)
}

/// A program on its way to one that goes on.
struct Resuming {
    /// Columns of its input.
    input: SchemaRef,
    calls: Vec<Resumable>,
    /// Which of the calls comes next.
    next: usize,
    /// Where the further columns are in the node below.
    from: usize,
    carries: Vec<LogicalPlan>,
}

impl Resuming {
    /// A node over a changed input.
    fn node(&mut self, node: LogicalPlan) -> Result<LogicalPlan> {
        match node {
            LogicalPlan::TableScan(scan) if scan.projection.is_none() => {
                let table = InputTable::new(0, self.input.clone());
                let table = provider_as_source(Arc::new(table));
                let scan = TableScanBuilder::new(scan.table_name, table).build()?;
                Ok(LogicalPlan::TableScan(scan))
            }
            LogicalPlan::Projection(p) => {
                let further = self.further(p.input.schema());
                self.from = p.expr.len();
                let exprs = p.expr.into_iter().chain(further).collect();
                Ok(LogicalPlan::Projection(Projection::try_new(
                    exprs, p.input,
                )?))
            }
            LogicalPlan::SubqueryAlias(alias) => {
                let alias = SubqueryAlias::try_new(alias.input, alias.alias)?;
                Ok(LogicalPlan::SubqueryAlias(alias))
            }
            LogicalPlan::Filter(f) => {
                Ok(LogicalPlan::Filter(Filter::try_new(f.predicate, f.input)?))
            }
            LogicalPlan::Window(w) => self.window(&w),
            other => internal_err!("{} in a program that runs", other.display()),
        }
    }

    /// The segment and what is carried, of a node's input.
    fn further(&self, schema: &DFSchema) -> Vec<Expr> {
        let column = |i| Expr::Column(Column::from(schema.qualified_field(self.from + i)));
        (0..=self.calls.len()).map(column).collect()
    }

    fn window(&mut self, w: &Window) -> Result<LogicalPlan> {
        let further = self.further(w.input.schema());
        let (segment, carried) = (&further[0], &further[1..]);
        let mut exprs = vec![];
        let mut states = vec![];
        for (i, e) in w.window_expr.iter().enumerate() {
            let Some(call) = running_call(e) else {
                exprs.push(e.clone());
                continue;
            };
            let (_, mut args) = aggregate(call);
            let counted = segment.clone().is_not_null();
            args.push(match &call.params.filter {
                Some(filter) => counted.and(filter.as_ref().clone().is_true()),
                None => counted,
            });
            args.push(carried[self.next].clone());
            let of = &self.calls[self.next];
            self.next += 1;
            let mut params = call.params.clone();
            params.filter = None;
            params.args = args.clone();
            if let WindowFunctionDefinition::WindowUDF(_) = &call.fun {
                params.window_frame = up_to_the_row();
            }
            let resumed = over(of.resumed()?, params);
            let (qualifier, field) = w.schema.qualified_field(own_columns(w) + i);
            exprs.push(resumed.alias_qualified(qualifier.cloned(), field.name()));
            states.push((of.state()?, of.together()?, args));
        }
        if !states.is_empty() {
            self.carries.push(carry(&w.input, segment, states)?);
        }
        Ok(LogicalPlan::Window(Window::try_new(
            exprs,
            w.input.clone(),
        )?))
    }
}

fn over(of: AggregateUDF, params: WindowFunctionParams) -> Expr {
    Expr::WindowFunction(Box::new(WindowFunction {
        fun: WindowFunctionDefinition::AggregateUDF(Arc::new(of)),
        params,
    }))
}

/// What the rows of `input` come to up to each segment's end. `states`: the aggregates, what adds up their states, and their arguments.
fn carry(
    input: &Arc<LogicalPlan>,
    segment: &Expr,
    states: Vec<(AggregateUDF, AggregateUDF, Vec<Expr>)>,
) -> Result<LogicalPlan> {
    let (mut of_segment, mut up_to_it) = (vec![], vec![segment.clone()]);
    let mut windows = vec![];
    for (i, (state, together, args)) in states.into_iter().enumerate() {
        let (one, all) = (format!("__state_{i}"), format!("__carried_{i}"));
        let call = AggregateFunction::new_udf(Arc::new(state), args, false, None, vec![], None);
        of_segment.push(Expr::AggregateFunction(call).alias(&one));
        let params = WindowFunctionParams {
            args: vec![Expr::Column(Column::new_unqualified(one))],
            partition_by: vec![],
            order_by: vec![segment.clone().sort(true, false)],
            window_frame: up_to_the_row(),
            filter: None,
            null_treatment: None,
            distinct: false,
        };
        windows.push(over(together, params).alias(&all));
        up_to_it.push(Expr::Column(Column::new_unqualified(all)));
    }
    LogicalPlanBuilder::from(input.clone())
        .filter(segment.clone().is_not_null())?
        .aggregate([segment.clone()], of_segment)?
        .window(windows)?
        .project(up_to_it)?
        .build()
}
