//! Finds out how far a program of window functions looks around a row of its input (see [`Neighbourhood`]).
//!
//! `lag`, `lead` and frames that end on both sides look at rows nearby; whoever counts from the partition's first row, or adds up all that came
//! before, doesn't: it runs, from the first row on. Windows may stand over each other if all of them have the key for PARTITION BY and their orders begin alike.

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::datasource::source_as_provider;
use datafusion_common::{Column, DFSchema, ExprSchema, ScalarValue};
use datafusion_expr::expr::{Sort, WindowFunction};
use datafusion_expr::logical_plan::Window;
use datafusion_expr::{
    Expr, LogicalPlan, WindowFrame, WindowFrameBound, WindowFrameUnits, WindowFunctionDefinition,
};
use tidemill_dataflow::plan::{Neighbourhood, OrderBy, Reach};

use super::expr::{has_subquery, unalias};
use crate::functions::aggregate::{avg, sum};
use crate::program::InputTable;
use crate::tree::Tree;

const DAY_MICROS: i128 = 86_400_000_000;

/// How far the program `fragment` looks around rows of its only input, by whose columns `keys` it is run. `None` if that isn't known to be
/// less than all rows of a key.
pub(super) fn neighbourhood(fragment: &LogicalPlan, keys: &[usize]) -> Option<Neighbourhood> {
    let near = |runs| found(fragment, keys, runs);
    near(false).or_else(|| near(true))
}

/// `runs`: whether windows may look at all rows before a row.
fn found(fragment: &LogicalPlan, keys: &[usize], runs: bool) -> Option<Neighbourhood> {
    let mut found = Found {
        runs,
        ..Found::default()
    };
    let top = found.columns(fragment, keys, false)?;
    // A number that only tells rows apart is different in each part.
    if top.contains(&Origin::Number) || found.reaches.is_empty() && !runs {
        return None;
    }
    let order = found.order.filter(|order| !order.is_empty())?;
    let far = |reach: &Reach| matches!(reach, Reach::Distance { .. });
    if order.len() > 1 && found.reaches.iter().any(far) {
        return None;
    }
    Some(Neighbourhood {
        order,
        reaches: found.reaches,
        runs,
        matches: None,
    })
}

/// Where a column comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Origin {
    /// Column of the input.
    Input(usize),
    /// It was computed from rows that are near enough.
    Computed,
    /// It was computed from all rows before, of a window that runs.
    Running,
    /// It was computed from what came of such windows for rows nearby.
    Beyond,
    /// A row's number: it says which of two rows comes first, and nothing else that doesn't depend on all of them.
    Number,
}

/// What is known of the windows so far.
#[derive(Default)]
struct Found {
    /// Whether they may look at all rows before a row.
    runs: bool,
    /// What their orders have in common at the beginning.
    order: Option<Vec<OrderBy>>,
    /// From the bottom up.
    reaches: Vec<Reach>,
}

impl Found {
    /// The columns that a node gives. `below`: there is a window above it.
    fn columns(&mut self, plan: &LogicalPlan, keys: &[usize], below: bool) -> Option<Vec<Origin>> {
        match plan {
            LogicalPlan::TableScan(scan) if scan.filters.is_empty() && scan.fetch.is_none() => {
                let table = source_as_provider(&scan.source).ok()?;
                let table: &dyn std::any::Any = table.as_ref();
                table.downcast_ref::<InputTable>()?;
                let all = || (0..scan.source.schema().fields().len()).collect();
                let columns = scan.projection.clone().unwrap_or_else(all);
                Some(columns.into_iter().map(Origin::Input).collect())
            }
            LogicalPlan::SubqueryAlias(alias) => self.columns(&alias.input, keys, below),
            LogicalPlan::Projection(p) => {
                let input = self.columns(&p.input, keys, below)?;
                let schema = p.input.schema();
                p.expr.iter().map(|e| computed(e, &input, schema)).collect()
            }
            LogicalPlan::Filter(f) if !below => {
                let input = self.columns(&f.input, keys, below)?;
                match computed(&f.predicate, &input, f.input.schema())? {
                    Origin::Number => None,
                    _ => Some(input),
                }
            }
            LogicalPlan::Window(w) => self.window(w, keys),
            _ => None,
        }
    }

    fn window(&mut self, window: &Window, keys: &[usize]) -> Option<Vec<Origin>> {
        let mut columns = self.columns(&window.input, keys, true)?;
        let input = columns.clone();
        let schema = window.input.schema();
        let mut reaches = vec![];
        for e in &window.window_expr {
            let Expr::WindowFunction(w) = unalias(e) else {
                return None;
            };
            let by = w.params.partition_by.iter();
            let by = by.map(|e| match origin(e, &input, schema)? {
                Origin::Input(c) => Some(c),
                _ => None,
            });
            let by: Vec<usize> = by.collect::<Option<_>>()?;
            if !by.iter().all(|c| keys.contains(c)) || !keys.iter().all(|c| by.contains(c)) {
                return None;
            }
            let (order, place) = order_of(&w.params.order_by, &input, schema)?;
            self.order = Some(match self.order.take() {
                None => order,
                Some(known) => {
                    let both = known.into_iter().zip(&order);
                    both.take_while(|(a, b)| a == *b).map(|(a, _)| a).collect()
                }
            });
            if is_row_number(w) && !self.runs {
                columns.push(Origin::Number);
                continue;
            }
            let order = w.params.order_by.iter().map(|sort| &sort.expr);
            let filter = w.params.filter.as_deref();
            let seen = w.params.args.iter().chain(filter).chain(order);
            let seen = seen.map(|e| computed(e, &input, schema));
            let seen: Vec<Origin> = seen.collect::<Option<_>>()?;
            let far = |o: &Origin| matches!(o, Origin::Running | Origin::Beyond);
            if runs(w) && self.runs {
                if seen.contains(&Origin::Beyond) {
                    return None;
                }
                reaches.extend(end_of_frame(w, place)?);
                columns.push(Origin::Running);
                continue;
            }
            // The number of a row may be in its order.
            let args = &seen[..w.params.args.len()];
            if args.contains(&Origin::Number) {
                return None;
            }
            reaches.push(reach(w, place)?);
            columns.push(match seen.iter().any(far) {
                true => Origin::Beyond,
                false => Origin::Computed,
            });
        }
        // They don't look at each other's results.
        self.reaches.extend(widest(&reaches));
        Some(columns)
    }
}

/// One step that looks as far as all of these, or one for each kind.
fn widest(reaches: &[Reach]) -> Vec<Reach> {
    let (mut rows, mut distance) = (None, None);
    for reach in reaches {
        match *reach {
            Reach::Rows { before, after } => {
                let (b, a) = rows.unwrap_or_default();
                rows = Some((before.max(b), after.max(a)));
            }
            Reach::Distance { before, after } => {
                let (b, a) = distance.unwrap_or_default();
                distance = Some((before.max(b), after.max(a)));
            }
        }
    }
    let rows = rows.map(|(before, after)| Reach::Rows { before, after });
    let distance = distance.map(|(before, after)| Reach::Distance { before, after });
    rows.into_iter().chain(distance).collect()
}

fn origin(e: &Expr, input: &[Origin], schema: &DFSchema) -> Option<Origin> {
    match unalias(e) {
        Expr::Column(c) => at(c, input, schema),
        _ => None,
    }
}

fn at(column: &Column, input: &[Origin], schema: &DFSchema) -> Option<Origin> {
    let at = schema.maybe_index_of_column(column)?;
    input.get(at).copied()
}

/// What an expression that is computed row by row gives; `None` if it isn't, or computes something of a row's number.
fn computed(e: &Expr, input: &[Origin], schema: &DFSchema) -> Option<Origin> {
    if let Some(column) = origin(e, input, schema) {
        return Some(column);
    }
    let mut of = vec![];
    let mut look = |e: &Expr| {
        if let Expr::Column(c) = e {
            of.push(at(c, input, schema));
        }
        Ok(false)
    };
    if has_subquery(e) || e.any(&mut look).is_err() {
        return None;
    }
    let of: Vec<Origin> = of.into_iter().collect::<Option<_>>()?;
    let farthest = [Origin::Number, Origin::Beyond, Origin::Running];
    match farthest.into_iter().find(|o| of.contains(o)) {
        Some(Origin::Number) => None,
        Some(far) => Some(far),
        None => Some(Origin::Computed),
    }
}

/// The columns of the input that an order begins with, and what distances in the first one are counted in, in units of the column, if it
/// is the only one.
fn order_of(
    order_by: &[Sort],
    input: &[Origin],
    schema: &DFSchema,
) -> Option<(Vec<OrderBy>, Option<DataType>)> {
    let mut order = vec![];
    let mut place = None;
    // A row's number is in the same order in each part; what is computed of it needn't be.
    for sort in order_by {
        computed(&sort.expr, input, schema)?;
    }
    for sort in order_by {
        let Some((column, data_type)) = column_below(&sort.expr, schema) else {
            break;
        };
        let Some(Origin::Input(input)) = at(column, input, schema) else {
            break;
        };
        place = Some(data_type);
        order.push(OrderBy {
            column: input,
            descending: !sort.asc,
            nulls_first: sort.nulls_first,
        });
    }
    Some(match order_by.len() {
        1 => (order, place),
        _ => (order, None),
    })
}

/// The column that a key is, or is made of such that it has the same order and is equal for the same rows; and its type. RANGE makes
/// integers bigint, and gives decimals the digits of an offset.
fn column_below<'e>(e: &'e Expr, schema: &DFSchema) -> Option<(&'e Column, DataType)> {
    use DataType::{Int16, Int32, Int64};
    let (column, widened) = match unalias(e) {
        Expr::Column(c) => (c, None),
        Expr::Cast(cast) => match unalias(&cast.expr) {
            Expr::Column(c) => (c, Some(cast.field.data_type())),
            _ => return None,
        },
        _ => return None,
    };
    let field = schema.field_from_column(column).ok()?;
    let data_type = field.data_type().clone();
    let same = match (widened, &data_type) {
        (None, _) | (Some(Int64), Int16 | Int32 | Int64) => true,
        (Some(DataType::Decimal128(wide, more)), DataType::Decimal128(digits, scale)) => {
            more >= scale && i16::from(*wide as i8 - *more) >= i16::from(*digits as i8 - *scale)
        }
        _ => false,
    };
    same.then_some((column, data_type))
}

fn is_row_number(w: &WindowFunction) -> bool {
    matches!(&w.fun, WindowFunctionDefinition::WindowUDF(f) if f.name() == "row_number")
}

/// Whether a function looks at all rows before a row, such that what they come to can be carried in.
pub(super) fn runs(w: &WindowFunction) -> bool {
    let WindowFunctionDefinition::AggregateUDF(f) = &w.fun else {
        return is_row_number(w);
    };
    let params = &w.params;
    let known = match f.name() {
        "count" | "min" | "max" | "interval_min" | "interval_max" | "bool_and" | "bool_or" => true,
        // Others may depend on the order in which they add up parts.
        _ => **f == *sum() || **f == *avg(),
    };
    let all_before =
        matches!(&params.window_frame.start_bound, WindowFrameBound::Preceding(by) if by.is_null());
    let all_after =
        matches!(&params.window_frame.end_bound, WindowFrameBound::Following(by) if by.is_null());
    let plain = !params.distinct && params.null_treatment.is_none();
    known && plain && all_before && !all_after && !params.order_by.is_empty()
}

/// How far behind the row the frame of a function that runs ends; `None` if that isn't known. One that ends before the row doesn't see what is
/// carried in where there is nothing between.
fn end_of_frame(w: &WindowFunction, place: Option<DataType>) -> Option<Option<Reach>> {
    match &w.params.window_frame.end_bound {
        _ if is_row_number(w) => return Some(None),
        WindowFrameBound::CurrentRow => return Some(None),
        WindowFrameBound::Preceding(_) => return None,
        WindowFrameBound::Following(_) => {}
    }
    let mut to_end = w.params.window_frame.clone();
    to_end.start_bound = WindowFrameBound::CurrentRow;
    frame(&to_end, place).map(Some)
}

/// How far a function looks; `place` is the type of the only column that it is ordered by.
fn reach(w: &WindowFunction, place: Option<DataType>) -> Option<Reach> {
    let params = &w.params;
    if params.filter.is_some() || params.null_treatment.is_some() || params.distinct {
        return None;
    }
    match &w.fun {
        WindowFunctionDefinition::WindowUDF(f) => match f.name() {
            "lag" => shift(&params.args, -1),
            "lead" => shift(&params.args, 1),
            // Which one is the first of rows that are equal in order is left to other rules.
            "first_value" | "last_value" | "nth_value" => rows(&params.window_frame),
            _ => None,
        },
        // Others may come to results that depend on what else was in the frame before.
        WindowFunctionDefinition::AggregateUDF(f) => match f.name() {
            "count" | "min" | "max" => frame(&params.window_frame, place),
            "sum" if **f == *sum() => frame(&params.window_frame, place),
            "avg" if **f == *avg() => frame(&params.window_frame, place),
            "first_value" | "last_value" | "nth_value" => rows(&params.window_frame),
            _ => None,
        },
    }
}

fn shift(args: &[Expr], sign: i128) -> Option<Reach> {
    let by = match args.get(1).map(unalias) {
        None => 1,
        Some(Expr::Literal(ScalarValue::Int64(Some(by)), _)) => i128::from(*by),
        Some(Expr::Literal(ScalarValue::Int32(Some(by)), _)) => i128::from(*by),
        Some(_) => return None,
    };
    between(by * sign, by * sign)
}

/// From one place to another, counted in rows from the current one.
fn between(from: i128, to: i128) -> Option<Reach> {
    let rows = |n: i128| u64::try_from(n.max(0)).ok();
    Some(Reach::Rows {
        before: rows(-from.min(to))?,
        after: rows(from.max(to))?,
    })
}

fn rows(frame: &WindowFrame) -> Option<Reach> {
    let bound = |bound: &WindowFrameBound| match bound {
        WindowFrameBound::CurrentRow => Some(0),
        WindowFrameBound::Preceding(ScalarValue::UInt64(Some(n))) => Some(-i128::from(*n)),
        WindowFrameBound::Following(ScalarValue::UInt64(Some(n))) => Some(i128::from(*n)),
        _ => None,
    };
    match frame.units {
        WindowFrameUnits::Rows => between(bound(&frame.start_bound)?, bound(&frame.end_bound)?),
        _ => None,
    }
}

fn frame(frame: &WindowFrame, place: Option<DataType>) -> Option<Reach> {
    if frame.units != WindowFrameUnits::Range {
        return rows(frame);
    }
    let place = place?;
    let bound = |bound: &WindowFrameBound| match bound {
        WindowFrameBound::CurrentRow => Some(0),
        WindowFrameBound::Preceding(by) => Some(-distance(by, &place)?),
        WindowFrameBound::Following(by) => distance(by, &place),
    };
    let (from, to) = (bound(&frame.start_bound)?, bound(&frame.end_bound)?);
    Some(Reach::Distance {
        before: -from.min(to).min(0),
        after: from.max(to).max(0),
    })
}

/// An offset of RANGE in the units of the column; at least that much. Months have no length, nor have days where clocks are changed.
fn distance(by: &ScalarValue, place: &DataType) -> Option<i128> {
    match (by, place) {
        (ScalarValue::Int64(Some(by)), DataType::Int16 | DataType::Int32 | DataType::Int64) => {
            Some(i128::from(*by))
        }
        (ScalarValue::Decimal128(Some(by), _, more), DataType::Decimal128(_, scale)) => {
            let unit = 10i128.checked_pow(u32::try_from(more.checked_sub(*scale)?).ok()?)?;
            Some(by / unit + 1)
        }
        (
            ScalarValue::IntervalMonthDayNano(Some(by)),
            DataType::Timestamp(TimeUnit::Microsecond, zone),
        ) if by.months == 0 && (by.days == 0 || zone.is_none()) => {
            let micros = i128::from(by.nanoseconds) / 1000 + 1;
            Some(i128::from(by.days) * DAY_MICROS + micros)
        }
        _ => None,
    }
}
