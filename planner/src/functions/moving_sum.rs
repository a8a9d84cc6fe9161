//! sum and avg over the frames of windows.

use std::ops::Range;

use arrow::array::cast::AsArray;
use arrow::array::types::*;
use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, PrimitiveArray, new_empty_array};
use arrow::datatypes::{DataType, i256};
use datafusion_common::{Result, ScalarValue};
use datafusion_expr::AggregateUDF;
use tidemill_zset::FloatSum;

use super::aggregate::{Form, avg, overflow, sum};
use super::external;
use crate::error::SqlError;

/// A sum or average over frames whose ends only move forwards: each row is added once, and taken away once.
#[derive(Debug)]
pub(crate) struct MovingSum {
    avg: bool,
    output: DataType,
}

/// Told the first row of a partition with its first frame, and each row's frame.
type EachFrame<'f> = &'f mut dyn FnMut(Option<usize>, Range<usize>) -> Result<()>;

impl MovingSum {
    /// `None` if `function` is another one.
    pub fn of(function: &AggregateUDF, output: &DataType) -> Option<MovingSum> {
        let avg = match function {
            f if *f == *sum() => false,
            f if *f == *avg() => true,
            _ => return None,
        };
        let output = output.clone();
        Some(MovingSum { avg, output })
    }

    /// The results of all rows. `frames` calls what it is given with each row's frame, in their order.
    pub fn over(
        &self,
        values: &ArrayRef,
        frames: impl FnOnce(EachFrame<'_>) -> Result<()>,
    ) -> Result<ArrayRef> {
        let form = Form {
            avg: self.avg,
            input: values.data_type().clone(),
            output: self.output.clone(),
        };
        macro_rules! exact {
            ($t:ty) => {
                self.swept(
                    values.as_primitive::<$t>(),
                    form,
                    frames,
                    |sums, v, sign| {
                        let v = i256::from_i128(i128::from(v));
                        let sum = match sign {
                            1 => sums.exact.checked_add(v),
                            _ => sums.exact.checked_sub(v),
                        };
                        sums.exact = sum.ok_or_else(overflow)?;
                        Ok(())
                    },
                )
            };
        }
        macro_rules! float {
            ($t:ty) => {
                self.swept(
                    values.as_primitive::<$t>(),
                    form,
                    frames,
                    |sums, v, sign| {
                        sums.float.add_times(f64::from(v), sign);
                        Ok(())
                    },
                )
            };
        }
        match values.data_type() {
            DataType::Int16 => exact!(Int16Type),
            DataType::Int32 => exact!(Int32Type),
            DataType::Int64 => exact!(Int64Type),
            DataType::Decimal128(..) => exact!(Decimal128Type),
            DataType::Float32 => float!(Float32Type),
            DataType::Float64 => float!(Float64Type),
            other => Err(external(SqlError::internal(format!("sum over {other}")))),
        }
    }

    fn swept<T: ArrowPrimitiveType>(
        &self,
        values: &PrimitiveArray<T>,
        form: Form,
        frames: impl FnOnce(EachFrame<'_>) -> Result<()>,
        change: impl Fn(&mut Sums, T::Native, i64) -> Result<()>,
    ) -> Result<ArrayRef> {
        let mut results: Vec<ScalarValue> = Vec::with_capacity(values.len());
        let mut sums = Sums::default();
        // The rows that are in the sum.
        let mut within = 0..0;
        let change = |sums: &mut Sums, row: usize, sign: i64| {
            if values.is_null(row) {
                return Ok(());
            }
            sums.count += sign;
            change(sums, values.value(row), sign)
        };
        frames(&mut |begins, frame| {
            if let Some(start) = begins {
                sums = Sums::default();
                within = start..start;
            } else if frame == within
                && let Some(last) = results.last()
            {
                results.push(last.clone());
                return Ok(());
            }
            for row in within.start..frame.start.min(within.end) {
                change(&mut sums, row, -1)?;
            }
            within.start = within.start.max(frame.start);
            within.end = within.end.max(within.start);
            for row in within.end..frame.end {
                change(&mut sums, row, 1)?;
            }
            within.end = within.end.max(frame.end);
            results.push(form.result(sums.count, sums.exact, &sums.float)?);
            Ok(())
        })?;
        match results.is_empty() {
            true => Ok(new_empty_array(&self.output)),
            false => ScalarValue::iter_to_array(results),
        }
    }
}

/// What is in the sum.
struct Sums {
    count: i64,
    exact: i256,
    float: FloatSum,
}

impl Default for Sums {
    fn default() -> Self {
        Sums {
            count: 0,
            exact: i256::ZERO,
            float: FloatSum::new(),
        }
    }
}
