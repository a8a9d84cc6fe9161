//! min and max of floats and intervals as PostgreSQL orders them: NaN is the greatest value, equal to itself.
//!
//! DataFusion's own start from the largest finite value, so that the minimum of infinity alone is wrong, and skip NaN.

use std::cmp::Ordering;
use std::sync::{Arc, LazyLock};

use arrow::array::cast::AsArray;
use arrow::array::types::{
    Float32Type, Float64Type, IntervalMonthDayNano, IntervalMonthDayNanoType,
};
use arrow::array::{Array, ArrayRef};
use arrow::datatypes::{DataType, IntervalUnit};
use datafusion::functions_aggregate::min_max;
use datafusion_common::{Result as DfResult, ScalarValue};
use datafusion_expr::function::AccumulatorArgs;
use datafusion_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility};

use super::intervals::interval_key;

/// `min` of floats.
pub fn min() -> Arc<AggregateUDF> {
    static F: LazyLock<Arc<AggregateUDF>> =
        LazyLock::new(|| Arc::new(AggregateUDF::new_from_impl(Extreme::new("min"))));
    F.clone()
}

/// `max` of floats.
pub fn max() -> Arc<AggregateUDF> {
    static F: LazyLock<Arc<AggregateUDF>> =
        LazyLock::new(|| Arc::new(AggregateUDF::new_from_impl(Extreme::new("max"))));
    F.clone()
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Extreme {
    name: &'static str,
    signature: Signature,
}

impl Extreme {
    fn new(name: &'static str) -> Self {
        Extreme {
            name,
            signature: Signature::any(1, Volatility::Immutable),
        }
    }
}

impl AggregateUDFImpl for Extreme {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, args: &[DataType]) -> DfResult<DataType> {
        Ok(args.first().cloned().unwrap_or(DataType::Float64))
    }

    fn accumulator(&self, args: AccumulatorArgs) -> DfResult<Box<dyn Accumulator>> {
        Ok(Box::new(Best {
            wanted: wanted(self.name),
            float4: args.return_field.data_type() == &DataType::Float32,
            value: None,
        }))
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> DfResult<Box<dyn Accumulator>> {
        match self.name {
            "min" => min_max::min_udaf().create_sliding_accumulator(args),
            _ => min_max::max_udaf().create_sliding_accumulator(args),
        }
    }
}

/// `min` or `max` of intervals, of which those that are equal may look different: the one with the most months, then days, is shown.
pub fn of_intervals(min: bool) -> Arc<AggregateUDF> {
    // By another name than those of values whose order is Arrow's.
    let name = if min { "interval_min" } else { "interval_max" };
    Arc::new(AggregateUDF::new_from_impl(IntervalExtreme {
        name,
        signature: Signature::any(1, Volatility::Immutable),
    }))
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct IntervalExtreme {
    name: &'static str,
    signature: Signature,
}

impl AggregateUDFImpl for IntervalExtreme {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        Ok(DataType::Interval(IntervalUnit::MonthDayNano))
    }

    fn accumulator(&self, _: AccumulatorArgs) -> DfResult<Box<dyn Accumulator>> {
        Ok(Box::new(BestInterval {
            min: self.name == "interval_min",
            value: None,
        }))
    }
}

#[derive(Debug)]
struct BestInterval {
    min: bool,
    value: Option<IntervalMonthDayNano>,
}

impl BestInterval {
    /// The greatest is the best.
    fn rank(&self, v: IntervalMonthDayNano) -> (i64, i32, i32) {
        let key = interval_key(v);
        let key = if self.min { key.saturating_neg() } else { key };
        (key, v.months, v.days)
    }
}

impl Accumulator for BestInterval {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        let values = values[0].as_primitive::<IntervalMonthDayNanoType>();
        let best = values.iter().flatten().chain(self.value);
        self.value = best.max_by_key(|v| self.rank(*v));
        Ok(())
    }

    fn evaluate(&mut self) -> DfResult<ScalarValue> {
        Ok(ScalarValue::IntervalMonthDayNano(self.value))
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }

    fn state(&mut self) -> DfResult<Vec<ScalarValue>> {
        Ok(vec![self.evaluate()?])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> DfResult<()> {
        self.update_batch(states)
    }
}

/// How a value that replaces the best one compares to it.
fn wanted(name: &str) -> Ordering {
    if name == "min" {
        Ordering::Less
    } else {
        Ordering::Greater
    }
}

/// NaN is the greatest number.
pub(crate) fn order_of_floats(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b)
        .unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

#[derive(Debug)]
struct Best {
    wanted: Ordering,
    float4: bool,
    value: Option<f64>,
}

impl Best {
    fn take(&mut self, value: f64) {
        if self
            .value
            .is_none_or(|best| order_of_floats(value, best) == self.wanted)
        {
            self.value = Some(value);
        }
    }
}

impl Accumulator for Best {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        let array = &values[0];
        if self.float4 {
            let floats = array.as_primitive::<Float32Type>();
            floats
                .iter()
                .flatten()
                .for_each(|v| self.take(f64::from(v)));
        } else {
            let floats = array.as_primitive::<Float64Type>();
            floats.iter().flatten().for_each(|v| self.take(v));
        }
        Ok(())
    }

    fn evaluate(&mut self) -> DfResult<ScalarValue> {
        Ok(match self.float4 {
            // It came from a 32-bit value, so it fits one.
            true => ScalarValue::Float32(self.value.map(|v| v as f32)),
            false => ScalarValue::Float64(self.value),
        })
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }

    fn state(&mut self) -> DfResult<Vec<ScalarValue>> {
        Ok(vec![self.evaluate()?])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> DfResult<()> {
        if states[0].len() == states[0].null_count() {
            return Ok(());
        }
        self.update_batch(states)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::Float64Array;

    fn best(name: &str, values: Vec<Option<f64>>) -> Option<f64> {
        let mut best = Best {
            wanted: wanted(name),
            float4: false,
            value: None,
        };
        let array: ArrayRef = Arc::new(Float64Array::from(values));
        best.update_batch(&[array]).expect("floats");
        best.value
    }

    #[test]
    fn nan_is_the_greatest_and_infinity_counts() {
        let infinity = f64::INFINITY;
        assert_eq!(best("min", vec![Some(infinity)]), Some(infinity));
        assert_eq!(best("max", vec![Some(-infinity), None]), Some(-infinity));
        assert!(best("max", vec![Some(0.1), Some(f64::NAN)]).is_some_and(f64::is_nan));
        assert_eq!(best("min", vec![Some(f64::NAN), Some(2.0)]), Some(2.0));
        assert!(best("min", vec![Some(f64::NAN)]).is_some_and(f64::is_nan));
        assert_eq!(best("min", vec![None]), None);
    }
}
