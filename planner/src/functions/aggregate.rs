//! sum and avg with PostgreSQL's result types. Integers and decimals are added in 256 bits, floats exactly, so that
//! the order of rows never shows.

use std::sync::{Arc, LazyLock};

use self::distinct::DistinctSum;
use arrow::array::cast::AsArray;
use arrow::array::types::*;
use arrow::array::{Array, ArrayRef, BinaryArray};
use arrow::datatypes::{DataType, Field, FieldRef, i256};
use datafusion_common::{Result as DfResult, ScalarValue};
use datafusion_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, GroupsAccumulator, Signature, Volatility,
};
use tidemill_zset::FloatSum;
use tidemill_zset::schema::SqlType;

use super::grouped_sums::GroupSums;
use super::{arith, external, parse};
use crate::bind::types::{PRECISION_MAX, SCALE_QUOTIENT};
use crate::error::SqlError;

/// The type of sum or avg over values of a type.
pub fn result_type(name: &str, of: &SqlType) -> SqlType {
    match (name, of) {
        ("sum", SqlType::Int2 | SqlType::Int4) => SqlType::Int8,
        ("sum", SqlType::Int8) => SqlType::Numeric(PRECISION_MAX, 0),
        ("sum", SqlType::Numeric(0, s)) => SqlType::Numeric(0, *s),
        ("sum", SqlType::Numeric(_, s)) => SqlType::Numeric(PRECISION_MAX, *s),
        ("sum", t) => t.clone(),
        (_, SqlType::Float4 | SqlType::Float8) => SqlType::Float8,
        (_, SqlType::Numeric(_, s)) => SqlType::Numeric(PRECISION_MAX, SCALE_QUOTIENT.max(*s)),
        _ => SqlType::Numeric(PRECISION_MAX, SCALE_QUOTIENT),
    }
}

/// Whether rows in which the first argument is NULL are nothing to the aggregate.
pub(crate) fn skips_nulls(name: &str) -> bool {
    matches!(
        name,
        "count"
            | "sum"
            | "avg"
            | "min"
            | "max"
            | "interval_min"
            | "interval_max"
            | "bool_and"
            | "bool_or"
            | "bit_and"
            | "bit_or"
            | "bit_xor"
            | "string_agg"
            | "stddev_samp"
            | "stddev_pop"
            | "var_samp"
            | "var_pop"
    )
}

/// `sum`
pub fn sum() -> Arc<AggregateUDF> {
    static F: LazyLock<Arc<AggregateUDF>> =
        LazyLock::new(|| Arc::new(AggregateUDF::new_from_impl(Sums::new("sum"))));
    F.clone()
}

/// `avg`
pub fn avg() -> Arc<AggregateUDF> {
    static F: LazyLock<Arc<AggregateUDF>> =
        LazyLock::new(|| Arc::new(AggregateUDF::new_from_impl(Sums::new("avg"))));
    F.clone()
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Sums {
    name: &'static str,
    signature: Signature,
}

impl Sums {
    fn new(name: &'static str) -> Self {
        Sums {
            name,
            signature: Signature::any(1, Volatility::Immutable),
        }
    }

    fn form(&self, args: &AccumulatorArgs) -> Form {
        Form {
            avg: self.name == "avg",
            input: args.expr_fields[0].data_type().clone(),
            output: args.return_field.data_type().clone(),
        }
    }
}

impl AggregateUDFImpl for Sums {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, args: &[DataType]) -> DfResult<DataType> {
        let of = SqlType::of(&Field::new(
            "",
            args.first().cloned().unwrap_or(DataType::Null),
            true,
        ));
        Ok(result_type(self.name, &of).arrow())
    }

    fn accumulator(&self, args: AccumulatorArgs) -> DfResult<Box<dyn Accumulator>> {
        let form = self.form(&args);
        let distinct = args.is_distinct.then(|| form.input.clone());
        let a = Adder {
            form,
            count: 0,
            exact: i256::ZERO,
            float: FloatSum::new(),
        };
        Ok(match distinct {
            Some(of) => Box::new(DistinctSum::new(a, &of)),
            None => Box::new(a),
        })
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        !args.is_distinct
    }

    fn create_groups_accumulator(
        &self,
        args: AccumulatorArgs,
    ) -> DfResult<Box<dyn GroupsAccumulator>> {
        Ok(Box::new(GroupSums::new(self.form(&args))))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> DfResult<Vec<FieldRef>> {
        if args.is_distinct {
            let of = args.input_fields[0].data_type().clone();
            let list = DataType::List(Arc::new(Field::new("item", of, true)));
            return Ok(vec![Arc::new(Field::new(
                format!("{}[values]", args.name),
                list,
                true,
            ))]);
        }
        Ok(vec![
            Arc::new(Field::new(
                format!("{}[count]", args.name),
                DataType::Int64,
                true,
            )),
            Arc::new(Field::new(
                format!("{}[sum]", args.name),
                DataType::Binary,
                true,
            )),
        ])
    }
}

/// Which function it is, of what.
#[derive(Debug, Clone)]
pub(super) struct Form {
    pub(super) avg: bool,
    pub(super) input: DataType,
    pub(super) output: DataType,
}

/// A running sum and count.
#[derive(Debug, Clone)]
struct Adder {
    form: Form,
    count: i64,
    exact: i256,
    float: FloatSum,
}

pub(super) fn overflow() -> datafusion_common::DataFusionError {
    external(SqlError::new("22003", "bigint out of range"))
}

impl Adder {
    fn change(&mut self, a: &ArrayRef, sign: i64) -> DfResult<()> {
        self.count += sign * (a.len() - a.null_count()) as i64;
        macro_rules! exact {
            ($t:ty) => {{
                let a = a.as_primitive::<$t>();
                let mut part = 0i128;
                for v in a.iter().flatten() {
                    match part.checked_add(v as i128) {
                        Some(p) => part = p,
                        None => {
                            self.add_exact(part, sign)?;
                            part = v as i128;
                        }
                    }
                }
                self.add_exact(part, sign)
            }};
        }
        match &self.form.input {
            DataType::Int16 => exact!(Int16Type),
            DataType::Int32 => exact!(Int32Type),
            DataType::Int64 => exact!(Int64Type),
            DataType::Decimal128(_, _) => exact!(Decimal128Type),
            DataType::Float32 => {
                a.as_primitive::<Float32Type>()
                    .iter()
                    .flatten()
                    .for_each(|v| self.float.add_times(v as f64, sign));
                Ok(())
            }
            DataType::Float64 => {
                a.as_primitive::<Float64Type>()
                    .iter()
                    .flatten()
                    .for_each(|v| self.float.add_times(v, sign));
                Ok(())
            }
            other => Err(external(SqlError::internal(format!("sum over {other}")))),
        }
    }

    fn add_exact(&mut self, v: i128, sign: i64) -> DfResult<()> {
        let v = i256::from_i128(v);
        let r = if sign > 0 {
            self.exact.checked_add(v)
        } else {
            self.exact.checked_sub(v)
        };
        self.exact = r.ok_or_else(overflow)?;
        Ok(())
    }
}

impl Form {
    /// The sum or average of `count` values, whose sum is `exact` or `float`.
    pub(super) fn result(
        &self,
        count: i64,
        exact: i256,
        float: &FloatSum,
    ) -> DfResult<ScalarValue> {
        if count == 0 {
            return ScalarValue::try_from(&self.output);
        }
        let scale = match self.input {
            DataType::Decimal128(_, s) => s as i32,
            _ => 0,
        };
        let narrow = self.output == DataType::Float32;
        let sum = float.value();
        if float.overflows() || (narrow && sum.is_finite() && (sum as f32).is_infinite()) {
            let message = "value out of range: overflow";
            return Err(external(SqlError::new("22003", message)));
        }
        Ok(match &self.output {
            DataType::Int64 => ScalarValue::Int64(Some(
                exact
                    .to_i128()
                    .and_then(|v| i64::try_from(v).ok())
                    .ok_or_else(overflow)?,
            )),
            DataType::Decimal128(p, s) => {
                let v = if self.avg {
                    arith::divide(exact, i256::from_i128(count as i128), *s as i32 - scale)
                } else {
                    parse::rescale(exact, scale, *s as i32)
                };
                let v = v.ok_or_else(|| external(parse::numeric_overflow(*p, *s)))?;
                ScalarValue::Decimal128(Some(parse::fits(v, *p, *s).map_err(external)?), *p, *s)
            }
            DataType::Float32 => ScalarValue::Float32(Some(sum as f32)),
            _ if self.avg => ScalarValue::Float64(Some(sum / count as f64)),
            _ => ScalarValue::Float64(Some(sum)),
        })
    }
}

impl Accumulator for Adder {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        self.change(&values[0], 1)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        self.change(&values[0], -1)
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> DfResult<ScalarValue> {
        self.form.result(self.count, self.exact, &self.float)
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.float.heap_bytes()
    }

    fn state(&mut self) -> DfResult<Vec<ScalarValue>> {
        let sum = to_bytes(self.exact, &self.float);
        Ok(vec![
            ScalarValue::Int64(Some(self.count)),
            ScalarValue::Binary(Some(sum)),
        ])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> DfResult<()> {
        for (_, count, exact, float) in sums_of(states)? {
            self.count += count;
            self.exact = self.exact.checked_add(exact).ok_or_else(overflow)?;
            self.float.merge(&float);
        }
        Ok(())
    }
}

pub(super) fn to_bytes(exact: i256, float: &FloatSum) -> Vec<u8> {
    let mut bytes = exact.to_le_bytes().to_vec();
    bytes.extend(float.to_bytes());
    bytes
}

/// The rows of a state that have something: row, count, and sum.
pub(super) fn sums_of(states: &[ArrayRef]) -> DfResult<Vec<(usize, i64, i256, FloatSum)>> {
    let counts = states[0].as_primitive::<Int64Type>();
    let sums: &BinaryArray = states[1].as_binary::<i32>();
    let given = (0..counts.len()).filter(|i| counts.is_valid(*i) && sums.is_valid(*i));
    let one = |i: usize| {
        let (exact, float) = sums.value(i).split_at_checked(32)?;
        let exact = i256::from_le_bytes(exact.try_into().ok()?);
        Some((i, counts.value(i), exact, FloatSum::from_bytes(float)?))
    };
    given.map(|i| one(i).ok_or_else(overflow)).collect()
}

mod distinct {
    //! sum(DISTINCT …): each value once.

    use std::collections::HashSet;

    use arrow::array::{Array, ArrayRef};
    use arrow::datatypes::DataType;
    use datafusion_common::{Result as DfResult, ScalarValue};
    use datafusion_expr::Accumulator;

    use super::Adder;

    #[derive(Debug)]
    pub(super) struct DistinctSum {
        adder: Adder,
        of: DataType,
        seen: HashSet<ScalarValue>,
    }

    impl DistinctSum {
        pub(super) fn new(adder: Adder, of: &DataType) -> Self {
            DistinctSum {
                adder,
                of: of.clone(),
                seen: HashSet::new(),
            }
        }
    }

    impl Accumulator for DistinctSum {
        fn update_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
            let a = &values[0];
            for i in 0..a.len() {
                if a.is_valid(i) {
                    self.seen.insert(ScalarValue::try_from_array(a, i)?);
                }
            }
            Ok(())
        }

        fn evaluate(&mut self) -> DfResult<ScalarValue> {
            let mut a = self.adder.clone();
            if !self.seen.is_empty() {
                let all = ScalarValue::iter_to_array(self.seen.iter().cloned())?;
                a.update_batch(&[all])?;
            }
            a.evaluate()
        }

        fn size(&self) -> usize {
            size_of::<Self>() + self.seen.len() * size_of::<ScalarValue>()
        }

        fn state(&mut self) -> DfResult<Vec<ScalarValue>> {
            let all: Vec<ScalarValue> = self.seen.iter().cloned().collect();
            Ok(vec![ScalarValue::List(ScalarValue::new_list(
                &all, &self.of, true,
            ))])
        }

        fn merge_batch(&mut self, states: &[ArrayRef]) -> DfResult<()> {
            use arrow::array::cast::AsArray;
            for v in states[0].as_list::<i32>().iter().flatten() {
                self.update_batch(&[v])?;
            }
            Ok(())
        }
    }
}
