//! Window functions over many partitions at once.
//!
//! DataFusion evaluates a window function partition by partition, and aggregates row by row through a scalar each. Those here go over
//! the columns of whole chunks; what they don't know is left to DataFusion, a partition at a time.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::cast::AsArray;
use arrow::array::types::{Float32Type, Float64Type};
use arrow::array::{
    Array, ArrayRef, Int64Array, RecordBatch, UInt32Array, UInt64Array, new_empty_array,
};
use arrow::compute::{SortOptions, concat, concat_batches, interleave, take};
use arrow::datatypes::DataType;
use datafusion::physical_plan::windows::WindowUDFExpr;
use datafusion_common::{Result, ScalarValue, internal_err};
use datafusion_expr::EmitTo;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::aggregate::AggregateFunctionExpr;
use datafusion_physical_expr::expressions::Literal;
use datafusion_physical_expr::window::{
    PlainAggregateWindowExpr, SlidingAggregateWindowExpr, StandardWindowExpr, WindowExpr,
};

use super::window_calls::{Callee, Calls};
use super::window_frames::{Frame, Units, has_distance, runs};
use crate::functions::extremes::order_of_floats;
use crate::functions::moving_sum::MovingSum;

/// Rows of whole partitions, in their order.
pub(super) struct Chunk<'c> {
    pub batches: &'c [RecordBatch],
    pub rows: usize,
    pub partitions: Vec<Range<usize>>,
}

impl Chunk<'_> {
    /// An expression's values of all rows.
    pub fn column(&self, e: &Arc<dyn PhysicalExpr>) -> Result<ArrayRef> {
        let parts = self.batches.iter();
        let parts = parts.map(|b| e.evaluate(b)?.into_array(b.num_rows()));
        let parts = parts.collect::<Result<Vec<_>>>()?;
        if let [only] = parts.as_slice() {
            return Ok(only.clone());
        }
        let parts: Vec<&dyn Array> = parts.iter().map(|p| p.as_ref()).collect();
        Ok(concat(&parts)?)
    }

    /// The rows of one partition, the first one's at the `from`th row.
    fn rows_of(&self, range: &Range<usize>) -> Result<RecordBatch> {
        let mut parts = vec![];
        let mut from = 0;
        for batch in self.batches {
            let to = from + batch.num_rows();
            let cut = range.start.max(from)..range.end.min(to);
            if !cut.is_empty() {
                parts.push(batch.slice(cut.start - from, cut.len()));
            }
            from = to;
        }
        match parts.as_slice() {
            [only] => Ok(only.clone()),
            parts => Ok(concat_batches(&self.batches[0].schema(), parts)?),
        }
    }
}

/// A window function of a node.
#[derive(Debug)]
pub(super) struct Function {
    expr: Arc<dyn WindowExpr>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    RowNumber,
    Rank,
    DenseRank,
    /// The value so many rows before, and what stands for it where there is none.
    Shifted(i64, ScalarValue),
    /// The value at one of the frame's rows.
    Chosen(Frame, Choice),
    /// An aggregate of the partition.
    Whole(Box<AggregateFunctionExpr>),
    Count(Frame),
    Sum(Frame, MovingSum),
    /// The value that compares so to all others.
    Extreme(Frame, Ordering),
    /// DataFusion's function, called with one frame after the other.
    Framed(Frame, Callee),
    /// One that looks at no frame, or has a filter.
    Other,
}

#[derive(Clone, Copy, Debug)]
enum Choice {
    First,
    Last,
    /// Counted from zero.
    Nth(usize),
}

impl Function {
    pub fn of(expr: &Arc<dyn WindowExpr>) -> Function {
        Function {
            expr: expr.clone(),
            kind: kind(expr).unwrap_or(Kind::Other),
        }
    }

    /// Whether DataFusion computes it, be it by frames that are given to it.
    pub fn is_other(&self) -> bool {
        matches!(self.kind, Kind::Other | Kind::Framed(..))
    }

    /// Whether its frames are by RANGE with offsets, which DataFusion takes for others where they overflow or hold rows without a key.
    pub fn has_distance(&self) -> bool {
        has_distance(self.expr.get_window_frame())
    }

    /// Its values of all rows.
    pub fn evaluate(&self, chunk: &Chunk<'_>) -> Result<ArrayRef> {
        match &self.kind {
            Kind::RowNumber => {
                let numbers = chunk.partitions.iter().flat_map(|p| 1..=p.len() as u64);
                Ok(Arc::new(UInt64Array::from_iter_values(numbers)))
            }
            Kind::Rank => self.ranks(chunk, |_, first| first as u64 + 1),
            Kind::DenseRank => self.ranks(chunk, |group, _| group as u64 + 1),
            Kind::Shifted(by, default) => self.shifted(chunk, *by, default),
            Kind::Chosen(frame, choice) => self.chosen(chunk, frame, *choice),
            Kind::Whole(aggregate) => self.whole(chunk, aggregate),
            Kind::Count(frame) => self.count(chunk, frame),
            Kind::Sum(frame, sum) => self.sum(chunk, frame, sum),
            Kind::Extreme(frame, wanted) => self.extreme(chunk, frame, *wanted),
            Kind::Framed(frame, callee) => self.framed(chunk, frame, callee),
            Kind::Other => {
                let parts = chunk.partitions.iter();
                let parts = parts.map(|p| self.expr.evaluate(&chunk.rows_of(p)?));
                let parts = parts.collect::<Result<Vec<_>>>()?;
                let parts: Vec<&dyn Array> = parts.iter().map(|p| p.as_ref()).collect();
                Ok(concat(&parts)?)
            }
        }
    }

    fn argument(&self, chunk: &Chunk<'_>) -> Result<ArrayRef> {
        match self.expr.expressions().first() {
            Some(e) => chunk.column(e),
            None => internal_err!("{} of nothing", self.expr.name()),
        }
    }

    /// Groups of rows that PARTITION BY and ORDER BY leave equal.
    fn peers(&self, chunk: &Chunk<'_>) -> Result<Vec<Range<usize>>> {
        let by = self.expr.partition_by().iter();
        let order = self.expr.order_by().iter().map(|s| &s.expr);
        let columns = by.chain(order).map(|e| chunk.column(e));
        runs(&columns.collect::<Result<Vec<_>>>()?, chunk.rows)
    }

    /// As [`Frame::for_each`], over all partitions. `each` is told where a partition begins.
    fn for_each_frame(
        &self,
        chunk: &Chunk<'_>,
        frame: &Frame,
        mut each: impl FnMut(Option<usize>, Range<usize>) -> Result<()>,
    ) -> Result<()> {
        let peers = match frame.units {
            Units::Peers => self.peers(chunk)?,
            _ => vec![],
        };
        let reach = match (frame.units, self.expr.order_by()) {
            (Units::Distance, [by, ..]) => Some(frame.reach(&chunk.column(&by.expr)?, by.options)?),
            _ => None,
        };
        for partition in &chunk.partitions {
            let mut begins = Some(partition.start);
            let each = |range| each(begins.take(), range);
            match &reach {
                Some(reach) => reach.for_each(partition, each)?,
                None => frame.for_each(partition, &peers, each)?,
            }
        }
        Ok(())
    }

    /// `rank` of the number of a row's group in its partition, and of the place of the group's first row there.
    fn ranks(&self, chunk: &Chunk<'_>, rank: impl Fn(usize, usize) -> u64) -> Result<ArrayRef> {
        let peers = self.peers(chunk)?;
        let mut out = Vec::with_capacity(chunk.rows);
        let mut peers = peers.iter().peekable();
        for partition in &chunk.partitions {
            let mut group = 0;
            while let Some(run) = peers.next_if(|p| p.start < partition.end) {
                let rank = rank(group, run.start - partition.start);
                out.resize(run.end, rank);
                group += 1;
            }
        }
        Ok(Arc::new(UInt64Array::from(out)))
    }

    fn shifted(&self, chunk: &Chunk<'_>, by: i64, default: &ScalarValue) -> Result<ArrayRef> {
        let values = self.argument(chunk)?;
        let from = |partition: &Range<usize>, row: usize| {
            let at = usize::try_from((row as i64).checked_sub(by)?).ok()?;
            partition.contains(&at).then_some(at)
        };
        let rows = chunk.partitions.iter();
        let rows = rows.flat_map(|p| p.clone().map(move |row| from(p, row)));
        if default.is_null() {
            let rows: UInt32Array = rows.map(|at| at.map(|at| at as u32)).collect();
            return Ok(take(&values, &rows, None)?);
        }
        let default = default.cast_to(values.data_type())?.to_array_of_size(1)?;
        let places = rows.map(|at| at.map_or((1, 0), |at| (0, at)));
        let places: Vec<(usize, usize)> = places.collect();
        Ok(interleave(&[values.as_ref(), default.as_ref()], &places)?)
    }

    fn chosen(&self, chunk: &Chunk<'_>, frame: &Frame, choice: Choice) -> Result<ArrayRef> {
        let values = self.argument(chunk)?;
        let mut rows: Vec<Option<u32>> = Vec::with_capacity(chunk.rows);
        self.for_each_frame(chunk, frame, |_, range| {
            let at = match choice {
                Choice::First => Some(range.start),
                Choice::Last => range.end.checked_sub(1),
                Choice::Nth(n) => range.start.checked_add(n),
            };
            let at = at.filter(|at| range.contains(at));
            rows.push(at.map(|at| at as u32));
            Ok(())
        })?;
        Ok(take(&values, &UInt32Array::from(rows), None)?)
    }

    fn framed(&self, chunk: &Chunk<'_>, frame: &Frame, callee: &Callee) -> Result<ArrayRef> {
        let args = self.expr.expressions();
        let args = args.iter().map(|e| chunk.column(e));
        let args = args.collect::<Result<Vec<_>>>()?;
        let mut results: Vec<ScalarValue> = Vec::with_capacity(chunk.rows);
        let mut partitions = chunk.partitions.iter();
        let mut calls: Option<Calls<'_>> = None;
        self.for_each_frame(chunk, frame, |begins, range| {
            if begins.is_some() {
                let partition = partitions.next().cloned().unwrap_or_default();
                calls = Some(Calls::new(callee, &args, partition)?);
            }
            match &mut calls {
                Some(calls) => results.push(calls.result(range)?),
                None => return internal_err!("rows of no partition"),
            }
            Ok(())
        })?;
        match results.is_empty() {
            true => Ok(new_empty_array(self.expr.field()?.data_type())),
            false => ScalarValue::iter_to_array(results),
        }
    }

    fn whole(&self, chunk: &Chunk<'_>, aggregate: &AggregateFunctionExpr) -> Result<ArrayRef> {
        let args = self.expr.expressions();
        let args = args.iter().map(|e| chunk.column(e));
        let args = args.collect::<Result<Vec<_>>>()?;
        let mut groups = Vec::with_capacity(chunk.rows);
        for (n, partition) in chunk.partitions.iter().enumerate() {
            groups.resize(partition.end, n);
        }
        let mut accumulator = aggregate.create_groups_accumulator()?;
        accumulator.update_batch(&args, &groups, None, chunk.partitions.len())?;
        let results = accumulator.evaluate(EmitTo::All)?;
        let rows = groups.into_iter().map(|n| n as u32);
        Ok(take(&results, &UInt32Array::from_iter_values(rows), None)?)
    }

    fn count(&self, chunk: &Chunk<'_>, frame: &Frame) -> Result<ArrayRef> {
        let values = self.argument(chunk)?;
        let mut out = Vec::with_capacity(chunk.rows);
        let Some(nulls) = values.nulls().filter(|n| n.null_count() > 0) else {
            self.for_each_frame(chunk, frame, |_, range| {
                out.push(range.len() as i64);
                Ok(())
            })?;
            return Ok(Arc::new(Int64Array::from(out)));
        };
        // How many there are before each row.
        let mut before = Vec::with_capacity(chunk.rows + 1);
        before.push(0);
        before.extend(nulls.iter().scan(0, |n, valid| {
            *n += i64::from(valid);
            Some(*n)
        }));
        self.for_each_frame(chunk, frame, |_, range| {
            let range = range.start..range.end.max(range.start);
            out.push(before[range.end] - before[range.start]);
            Ok(())
        })?;
        Ok(Arc::new(Int64Array::from(out)))
    }

    fn sum(&self, chunk: &Chunk<'_>, frame: &Frame, sum: &MovingSum) -> Result<ArrayRef> {
        let values = self.argument(chunk)?;
        sum.over(&values, |each| self.for_each_frame(chunk, frame, each))
    }

    fn extreme(&self, chunk: &Chunk<'_>, frame: &Frame, wanted: Ordering) -> Result<ArrayRef> {
        let values = self.argument(chunk)?;
        let compare = comparator(&values)?;
        let mut rows: Vec<Option<u32>> = Vec::with_capacity(chunk.rows);
        // Rows of the frame, the best one first; each is better than those behind it, which come later.
        let mut best: VecDeque<usize> = VecDeque::new();
        let mut seen = 0;
        self.for_each_frame(chunk, frame, |begins, range| {
            if let Some(start) = begins {
                best.clear();
                seen = start;
            }
            seen = seen.max(range.start);
            while seen < range.end {
                if values.is_valid(seen) {
                    // An equal one is as good, and stays longer.
                    while let Some(last) = best.back()
                        && compare(*last, seen) != wanted
                    {
                        best.pop_back();
                    }
                    best.push_back(seen);
                }
                seen += 1;
            }
            while best.front().is_some_and(|first| *first < range.start) {
                best.pop_front();
            }
            rows.push(best.front().map(|row| *row as u32));
            Ok(())
        })?;
        Ok(take(&values, &UInt32Array::from(rows), None)?)
    }
}

/// Compares rows of a column.
type Compare<'v> = Box<dyn Fn(usize, usize) -> Ordering + 'v>;

fn comparator(values: &ArrayRef) -> Result<Compare<'_>> {
    Ok(match values.data_type() {
        DataType::Float32 => {
            let v = values.as_primitive::<Float32Type>();
            Box::new(|a, b| order_of_floats(v.value(a).into(), v.value(b).into()))
        }
        DataType::Float64 => {
            let v = values.as_primitive::<Float64Type>();
            Box::new(|a, b| order_of_floats(v.value(a), v.value(b)))
        }
        _ => {
            let options = SortOptions::default();
            arrow::array::make_comparator(values, values, options)?
        }
    })
}

fn kind(expr: &Arc<dyn WindowExpr>) -> Option<Kind> {
    let frame = Frame::of(expr.get_window_frame(), !expr.order_by().is_empty());
    let any = expr.as_any();
    let plain = any.downcast_ref::<PlainAggregateWindowExpr>();
    let sliding = any.downcast_ref::<SlidingAggregateWindowExpr>();
    let aggregate = plain.map(PlainAggregateWindowExpr::get_aggregate_expr);
    let aggregate = aggregate.or_else(|| sliding.map(|s| s.get_aggregate_expr()));
    match aggregate {
        // DataFusion shows nobody the filter, which is the last field of both.
        Some(_) if !format!("{expr:?}").ends_with("filter: None }") => None,
        Some(aggregate) => {
            let frame = frame?;
            Some(match aggregate_kind(aggregate, &frame) {
                Some(known) => known,
                None => {
                    let (grows, function) = (frame.grows(), Box::new(aggregate.clone()));
                    Kind::Framed(frame, Callee::Aggregate { function, grows })
                }
            })
        }
        None => {
            let function = any.downcast_ref::<StandardWindowExpr>()?;
            let function = function.get_standard_func_expr();
            let known = function.as_any().downcast_ref::<WindowUDFExpr>();
            if let Some(known) = known.and_then(|f| standard_kind(f, frame.as_ref())) {
                return Some(known);
            }
            let framed = function.create_evaluator().ok()?.uses_window_frame();
            framed.then_some(Kind::Framed(frame?, Callee::Standard(function.clone())))
        }
    }
}

fn aggregate_kind(aggregate: &AggregateFunctionExpr, frame: &Frame) -> Option<Kind> {
    if aggregate.is_distinct() || aggregate.ignore_nulls() || !aggregate.order_bys().is_empty() {
        return None;
    }
    if frame.is_whole() {
        let groups = aggregate.groups_accumulator_supported();
        return groups.then(|| Kind::Whole(Box::new(aggregate.clone())));
    }
    let field = aggregate.field();
    let frame = frame.clone();
    match (aggregate.fun().name(), aggregate.expressions().as_slice()) {
        ("count", [_]) => Some(Kind::Count(frame)),
        ("min", [_]) if is_compared(field.data_type()) => {
            Some(Kind::Extreme(frame, Ordering::Less))
        }
        ("max", [_]) if is_compared(field.data_type()) => {
            Some(Kind::Extreme(frame, Ordering::Greater))
        }
        _ => MovingSum::of(aggregate.fun(), field.data_type()).map(|sum| Kind::Sum(frame, sum)),
    }
}

/// Whether values of the type are compared as Arrow does, or as numbers.
fn is_compared(t: &DataType) -> bool {
    use DataType::*;
    matches!(
        t,
        Boolean
            | Int16
            | Int32
            | Int64
            | Float32
            | Float64
            | Decimal128(..)
            | Date32
            | Time64(_)
            | Timestamp(..)
            | Utf8
            | Utf8View
            | Binary
            | BinaryView
    )
}

fn standard_kind(function: &WindowUDFExpr, frame: Option<&Frame>) -> Option<Kind> {
    // DataFusion shows nobody whether NULLs are ignored, nor whether rows are taken from their end: the last fields of it.
    if !format!("{function:?}").ends_with("is_reversed: false, ignore_nulls: false }") {
        return None;
    }
    let args = function.args();
    let constant = |i: usize| {
        let literal = args.get(i)?.downcast_ref::<Literal>()?;
        Some(literal.value().clone())
    };
    let number = |i: usize| match constant(i) {
        Some(ScalarValue::Int64(n)) => n,
        _ => None,
    };
    match function.fun().name() {
        "row_number" => Some(Kind::RowNumber),
        "rank" => Some(Kind::Rank),
        "dense_rank" => Some(Kind::DenseRank),
        name @ ("lag" | "lead") => {
            let by = if args.len() > 1 { number(1)? } else { 1 };
            let default = match args.len() {
                0..3 => ScalarValue::Null,
                _ => constant(2)?,
            };
            let by = if name == "lag" { by } else { by.checked_neg()? };
            Some(Kind::Shifted(by, default))
        }
        "first_value" => Some(Kind::Chosen(frame?.clone(), Choice::First)),
        "last_value" => Some(Kind::Chosen(frame?.clone(), Choice::Last)),
        "nth_value" => {
            let n = usize::try_from(number(1)?).ok()?.checked_sub(1)?;
            Some(Kind::Chosen(frame?.clone(), Choice::Nth(n)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Decimal128Array, Float64Array, Int32Array, StringArray};
    use arrow::compute::{SortColumn, lexsort_to_indices, take_record_batch};
    use arrow::datatypes::{Field, Schema};
    use datafusion::functions_aggregate::{count::count_udaf, min_max};
    use datafusion::functions_window as win;
    use datafusion::physical_plan::windows::create_window_expr;
    use datafusion_expr::{
        WindowFrame, WindowFrameBound, WindowFrameUnits, WindowFunctionDefinition,
    };
    use datafusion_physical_expr::PhysicalSortExpr;
    use datafusion_physical_expr::expressions::Column;
    use rand::{Rng, SeedableRng};

    use crate::functions::aggregate::{avg, sum};

    /// Rows of key, order and four values, sorted by the first two.
    fn rows(rng: &mut impl Rng) -> RecordBatch {
        let n = rng.random_range(1..200);
        let keys = rng.random_range(1..30);
        let mut numbers = |of: i32| -> Int32Array {
            let number = |_| rng.random_bool(0.85).then(|| rng.random_range(-of..of));
            (0..n).map(number).collect()
        };
        let (key, order, a) = (numbers(keys), numbers(8), numbers(1000));
        let b: Float64Array = numbers(50)
            .iter()
            .map(|v| v.map(|v| f64::from(v) / 3.0))
            .collect();
        let c: Decimal128Array = numbers(90).iter().map(|v| v.map(i128::from)).collect();
        let d: StringArray = numbers(9)
            .iter()
            .map(|v| v.map(|v| v.to_string()))
            .collect();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(key),
            Arc::new(order),
            Arc::new(a),
            Arc::new(b),
            Arc::new(c),
            Arc::new(d),
        ];
        let fields = columns.iter().zip(["key", "order", "a", "b", "c", "d"]);
        let fields = fields.map(|(c, name)| Field::new(name, c.data_type().clone(), true));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let batch = RecordBatch::try_new(schema, columns).expect("columns of the schema");
        let by = [0, 1].map(|i| SortColumn {
            values: batch.column(i).clone(),
            options: None,
        });
        let by = lexsort_to_indices(&by, None).expect("numbers");
        take_record_batch(&batch, &by).expect("rows of the batch")
    }

    fn frame(rng: &mut impl Rng, ordered: bool) -> WindowFrame {
        let units = match rng.random_range(0..3) {
            0 if ordered => WindowFrameUnits::Groups,
            1 => WindowFrameUnits::Range,
            _ => WindowFrameUnits::Rows,
        };
        // In rows or groups after the current one; DataFusion takes no frame that ends before it begins.
        let bound = |n: i64| match ScalarValue::UInt64(Some(n.unsigned_abs())) {
            _ if n == 0 => WindowFrameBound::CurrentRow,
            by if n < 0 => WindowFrameBound::Preceding(by),
            by => WindowFrameBound::Following(by),
        };
        let (from, more) = match units {
            WindowFrameUnits::Range => (0, 0),
            _ => (rng.random_range(-4..4), rng.random_range(0..4)),
        };
        let none = ScalarValue::UInt64(None);
        let start = match rng.random() {
            true => WindowFrameBound::Preceding(none.clone()),
            false => bound(from),
        };
        let end = match rng.random() {
            true => WindowFrameBound::Following(none),
            false => bound(from + more),
        };
        WindowFrame::new_bounds(units, start, end)
    }

    fn function(rng: &mut impl Rng) -> (WindowFunctionDefinition, usize) {
        use WindowFunctionDefinition::{AggregateUDF, WindowUDF};
        match rng.random_range(0..13) {
            0 => (AggregateUDF(sum()), 5),
            1 => (AggregateUDF(avg()), 5),
            2 => (AggregateUDF(count_udaf()), 6),
            3 => (AggregateUDF(min_max::min_udaf()), 6),
            4 => (AggregateUDF(min_max::max_udaf()), 6),
            5 => (WindowUDF(win::row_number::row_number_udwf()), 0),
            6 => (WindowUDF(win::rank::rank_udwf()), 0),
            7 => (WindowUDF(win::rank::dense_rank_udwf()), 0),
            8 => (WindowUDF(win::lead_lag::lag_udwf()), 6),
            9 => (WindowUDF(win::lead_lag::lead_udwf()), 6),
            10 => (WindowUDF(win::nth_value::first_value_udwf()), 6),
            11 => (WindowUDF(win::nth_value::last_value_udwf()), 6),
            _ => (WindowUDF(win::nth_value::nth_value_udwf()), 6),
        }
    }

    /// As DataFusion does it, partition by partition.
    #[test]
    fn functions_are_as_datafusions() {
        let seed = 12;
        println!("seed {seed}");
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let mut known = 0;
        for round in 0..3000 {
            let batch = rows(&mut rng);
            let column = |i: usize| -> Arc<dyn PhysicalExpr> {
                Arc::new(Column::new(batch.schema().field(i).name(), i))
            };
            let by = if rng.random_bool(0.8) {
                vec![column(0)]
            } else {
                vec![]
            };
            // Without a key the second column isn't sorted, but the first one is.
            let order = rng.random_bool(0.8).then(|| PhysicalSortExpr {
                expr: column(usize::from(!by.is_empty())),
                options: SortOptions::default(),
            });
            let order: Vec<PhysicalSortExpr> = order.into_iter().collect();
            let frame = frame(&mut rng, !order.is_empty());
            let (function, columns) = function(&mut rng);
            let mut args = match columns {
                0 => vec![],
                n => vec![column(rng.random_range(2..n))],
            };
            let name = function.name().to_string();
            if name == "nth_value" || matches!(&*name, "lag" | "lead") && rng.random() {
                let n = ScalarValue::Int64(Some(rng.random_range(1..4)));
                args.push(Arc::new(Literal::new(n)));
            }
            let expr = create_window_expr(
                &function,
                name.clone(),
                &args,
                &by,
                &order,
                Arc::new(frame.clone()),
                batch.schema(),
                false,
                false,
                None,
            )
            .expect("a window function");
            let function = Function::of(&expr);
            known += usize::from(!function.is_other());
            let cut = rng.random_range(0..=batch.num_rows());
            let batches = [
                batch.slice(0, cut),
                batch.slice(cut, batch.num_rows() - cut),
            ];
            let keys: Vec<ArrayRef> = by.iter().map(|_| batch.column(0).clone()).collect();
            let chunk = Chunk {
                rows: batch.num_rows(),
                partitions: runs(&keys, batch.num_rows()).expect("numbers"),
                batches: &batches,
            };
            let other = Function {
                expr,
                kind: Kind::Other,
            };
            let expected = other.evaluate(&chunk).expect("no overflow");
            let found = function.evaluate(&chunk).expect("no overflow");
            assert_eq!(&found, &expected, "round {round}: {name} over {frame}");
        }
        assert_eq!(known, 3000);
    }
}
