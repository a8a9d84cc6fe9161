//! Window functions that DataFusion hasn't: over frames with EXCLUDE, aggregates that forget no rows over frames that do, and
//! with numbers that differ from row to row.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int32Array};
use arrow::compute::{filter, interleave, partition};
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type, Schema};
use datafusion_common::{DataFusionError, Result, ScalarValue};
use datafusion_expr::function::{PartitionEvaluatorArgs, WindowUDFFieldArgs};
use datafusion_expr::{
    AggregateUDF, PartitionEvaluator, Signature, Volatility, WindowUDF, WindowUDFImpl,
};
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::aggregate::{AggregateExprBuilder, AggregateFunctionExpr};
use datafusion_physical_expr::expressions::{Column, Literal};

use super::external;
use crate::error::SqlError;
use crate::interrupt::check_level;

/// Rows of a frame that don't count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Exclude {
    Nothing,
    CurrentRow,
    /// The current row and those that ORDER BY leaves equal to it.
    Group,
    /// The latter alone.
    Ties,
}

/// What is made of the rows of a frame.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Of {
    Aggregate(Arc<AggregateUDF>),
    First,
    Last,
    /// The row whose number within the frame is the second argument.
    Nth,
}

/// What the names of functions that [`over_frame`] makes begin with.
pub(crate) const OVER_FRAME: &str = "over_frame";

/// `of` over what `exclude` leaves of each frame. A call has `args` arguments of `of`, then the condition of FILTER if it is
/// `filtered`, then the `keys` expressions of ORDER BY.
pub(crate) fn over_frame(
    of: Of,
    exclude: Exclude,
    args: usize,
    filtered: bool,
    keys: usize,
) -> Arc<WindowUDF> {
    let function = match &of {
        Of::Aggregate(function) => function.name(),
        Of::First => "first_value",
        Of::Last => "last_value",
        Of::Nth => "nth_value",
    };
    // The name says everything: columns and what is stored of a view are told apart by it.
    let filter = if filtered { " filtered" } else { "" };
    let name = format!("{OVER_FRAME} {function} {exclude:?}{filter}");
    Arc::new(WindowUDF::new_from_impl(OverFrame {
        name,
        of,
        exclude,
        args,
        filtered,
        keys,
        signature: Signature::variadic_any(Volatility::Immutable),
    }))
}

/// `lag` if `back`, else `lead`: of a value, the number of rows, and the value where there is no such row.
pub(crate) fn shifted(back: bool) -> Arc<WindowUDF> {
    Arc::new(WindowUDF::new_from_impl(Shifted {
        back,
        signature: Signature::any(3, Volatility::Immutable),
    }))
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct OverFrame {
    name: String,
    of: Of,
    exclude: Exclude,
    args: usize,
    filtered: bool,
    keys: usize,
    signature: Signature,
}

impl WindowUDFImpl for OverFrame {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn partition_evaluator(
        &self,
        args: PartitionEvaluatorArgs,
    ) -> Result<Box<dyn PartitionEvaluator>> {
        let aggregate = match &self.of {
            Of::Aggregate(function) => Some(self.aggregate(function, &args)?),
            _ => None,
        };
        Ok(Box::new(Frames {
            function: self.clone(),
            aggregate,
            groups: None,
            row: 0,
        }))
    }

    fn field(&self, args: WindowUDFFieldArgs) -> Result<FieldRef> {
        let field = match &self.of {
            Of::Aggregate(function) => function.return_field(&args.input_fields()[..self.args])?,
            _ => args.input_fields()[0].clone(),
        };
        let field = field.as_ref().clone();
        Ok(Arc::new(field.with_name(args.name()).with_nullable(true)))
    }
}

impl OverFrame {
    /// The aggregate over a batch of its arguments.
    fn aggregate(
        &self,
        function: &Arc<AggregateUDF>,
        args: &PartitionEvaluatorArgs,
    ) -> Result<AggregateFunctionExpr> {
        let fields = args.input_fields()[..self.args].iter().enumerate();
        let fields = fields.map(|(i, f)| f.as_ref().clone().with_name(format!("a{i}")));
        let schema = Schema::new(fields.collect::<Vec<_>>());
        let exprs = args.input_exprs()[..self.args].iter().enumerate();
        let exprs = exprs.map(|(i, e)| match e.downcast_ref::<Literal>() {
            Some(_) => e.clone(),
            None => Arc::new(Column::new(&format!("a{i}"), i)) as Arc<dyn PhysicalExpr>,
        });
        AggregateExprBuilder::new(function.clone(), exprs.collect())
            .schema(Arc::new(schema))
            .alias(OVER_FRAME)
            .build()
    }
}

/// Goes over the rows of one partition, in their order.
#[derive(Debug)]
struct Frames {
    function: OverFrame,
    aggregate: Option<AggregateFunctionExpr>,
    /// Rows that ORDER BY leaves equal, once they are known.
    groups: Option<Vec<Range<usize>>>,
    row: usize,
}

impl PartitionEvaluator for Frames {
    fn evaluate(&mut self, values: &[ArrayRef], range: &Range<usize>) -> Result<ScalarValue> {
        check_level().map_err(external)?;
        let row = self.row;
        self.row += 1;
        let parts = self.rest(values, range, row)?;
        let function = &self.function;
        let nth = |n: usize| {
            let mut before = n;
            parts.iter().find_map(|part| {
                let at = part.start + before;
                before = before.saturating_sub(part.len());
                (at < part.end).then_some(at)
            })
        };
        let at = match &function.of {
            Of::Aggregate(_) => return self.aggregated(values, &parts),
            Of::First => nth(0),
            Of::Last => parts.last().map(|part| part.end - 1),
            Of::Nth => match number(&values[1], row) {
                None => None,
                Some(n) if n > 0 => nth(n as usize - 1),
                Some(_) => {
                    let message = "argument of nth_value must be greater than zero";
                    return Err(external(SqlError::new("22016", message)));
                }
            },
        };
        match at {
            Some(at) => ScalarValue::try_from_array(&values[0], at),
            None => ScalarValue::try_new_null(values[0].data_type()),
        }
    }

    fn uses_window_frame(&self) -> bool {
        true
    }
}

impl Frames {
    /// What is left of the frame `range` of row `row`: runs of rows, none of them empty.
    fn rest(
        &mut self,
        values: &[ArrayRef],
        range: &Range<usize>,
        row: usize,
    ) -> Result<Vec<Range<usize>>> {
        let hole = match self.function.exclude {
            Exclude::Nothing => row..row,
            Exclude::CurrentRow => row..row + 1,
            Exclude::Group | Exclude::Ties => self.group(values, row)?,
        };
        let mut parts = Vec::with_capacity(3);
        parts.push(range.start..range.end.min(hole.start));
        if self.function.exclude == Exclude::Ties && range.contains(&row) {
            parts.push(row..row + 1);
        }
        parts.push(range.start.max(hole.end)..range.end);
        parts.retain(|part| part.start < part.end);
        Ok(parts)
    }

    /// The rows that ORDER BY leaves equal to `row`.
    fn group(&mut self, values: &[ArrayRef], row: usize) -> Result<Range<usize>> {
        let first = self.function.args + usize::from(self.function.filtered);
        let keys = &values[first..first + self.function.keys];
        let rows = values.first().map_or(0, |v| v.len());
        if keys.is_empty() {
            return Ok(0..rows);
        }
        let groups = match &mut self.groups {
            Some(groups) => groups,
            none => none.insert(partition(keys)?.ranges()),
        };
        let n = groups.partition_point(|g| g.end <= row);
        groups.get(n).cloned().ok_or_else(|| {
            DataFusionError::Internal(format!("row {row} is in no group of {rows} rows"))
        })
    }

    fn aggregated(&self, values: &[ArrayRef], parts: &[Range<usize>]) -> Result<ScalarValue> {
        let Some(aggregate) = &self.aggregate else {
            return datafusion_common::internal_err!("an aggregate without a function");
        };
        let mut sum = aggregate.create_accumulator()?;
        for part in parts {
            let cut = |v: &ArrayRef| v.slice(part.start, part.len());
            let mut args: Vec<ArrayRef> = values[..self.function.args].iter().map(cut).collect();
            if self.function.filtered {
                let wanted = cut(&values[self.function.args]);
                for arg in &mut args {
                    *arg = filter(arg, wanted.as_boolean())?;
                }
            }
            sum.update_batch(&args)?;
        }
        sum.evaluate()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Shifted {
    back: bool,
    signature: Signature,
}

impl WindowUDFImpl for Shifted {
    fn name(&self) -> &str {
        // `compile::order` knows the functions whose result depends on the order of equal rows by these names.
        if self.back { "lag" } else { "lead" }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn partition_evaluator(
        &self,
        _: PartitionEvaluatorArgs,
    ) -> Result<Box<dyn PartitionEvaluator>> {
        Ok(Box::new(self.clone()))
    }

    fn field(&self, args: WindowUDFFieldArgs) -> Result<FieldRef> {
        let field = args.input_fields()[0].as_ref().clone();
        Ok(Arc::new(field.with_name(args.name()).with_nullable(true)))
    }
}

impl PartitionEvaluator for Shifted {
    fn evaluate_all(&mut self, values: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
        let nothing = ScalarValue::try_new_null(values[0].data_type())?.to_array_of_size(1)?;
        let from: Vec<(usize, usize)> = (0..rows)
            .map(|row| {
                let Some(n) = number(&values[1], row) else {
                    return (2, 0);
                };
                let n = if self.back { n.checked_neg() } else { Some(n) };
                let at = n.and_then(|n| (row as i64).checked_add(n));
                match at.and_then(|at| usize::try_from(at).ok()) {
                    Some(at) if at < rows => (0, at),
                    _ => (1, row),
                }
            })
            .collect();
        let sources = [values[0].as_ref(), values[2].as_ref(), nothing.as_ref()];
        Ok(interleave(&sources, &from)?)
    }
}

/// `ntile` of a number of buckets that a row gives: the first that has one, with which counting begins.
pub(crate) fn tiles() -> Arc<WindowUDF> {
    Arc::new(WindowUDF::new_from_impl(Tiles {
        signature: Signature::any(1, Volatility::Immutable),
    }))
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Tiles {
    signature: Signature,
}

impl WindowUDFImpl for Tiles {
    fn name(&self) -> &str {
        // As of lag and lead.
        "ntile"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn partition_evaluator(
        &self,
        _: PartitionEvaluatorArgs,
    ) -> Result<Box<dyn PartitionEvaluator>> {
        Ok(Box::new(self.clone()))
    }

    fn field(&self, args: WindowUDFFieldArgs) -> Result<FieldRef> {
        Ok(Arc::new(Field::new(args.name(), DataType::Int32, true)))
    }
}

impl PartitionEvaluator for Tiles {
    fn evaluate_all(&mut self, values: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
        let given = (0..rows).find_map(|row| number(&values[0], row).map(|n| (row, n)));
        let (start, buckets) = match given {
            None => return Ok(arrow::array::new_null_array(&DataType::Int32, rows)),
            Some((row, n)) if n > 0 => (row, n as u128),
            Some(_) => {
                let message = "argument of ntile must be greater than zero";
                return Err(external(SqlError::new("22014", message)));
            }
        };
        // The first buckets have a row more than the others.
        let (size, longer) = (rows as u128 / buckets, rows as u128 % buckets);
        let border = longer * (size + 1);
        let bucket = |row: u128| match row < border {
            true => row / (size + 1),
            false => longer + (row - border) / size.max(1),
        };
        let numbers = (0..rows).map(|row| {
            let row = row.checked_sub(start)?;
            Some(bucket(row as u128) as i32 + 1)
        });
        Ok(Arc::new(numbers.collect::<Int32Array>()))
    }
}

/// A bigint.
fn number(numbers: &ArrayRef, row: usize) -> Option<i64> {
    let numbers = numbers.as_primitive::<Int64Type>();
    numbers.is_valid(row).then(|| numbers.value(row))
}
