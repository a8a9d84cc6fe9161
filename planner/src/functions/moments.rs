//! Variances, deviations, covariances and regressions from exact sums, so that the order of rows never shows: an aggregate
//! gathers moments ([`tidemill_zset::moments`]), and functions of these say what is asked for.
//!
//! Over integers and numerics the sums are integers and the results numeric. What is made of sums of doubles carries twice a
//! double's digits until the last step.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::cast::AsArray;
use arrow::array::types::*;
use arrow::array::{Array, ArrayRef};
use arrow::datatypes::{DataType, Field, FieldRef, i256};
use datafusion_common::{Result as DfResult, ScalarValue};
use datafusion_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Expr, Signature, TypeSignature, Volatility,
};
use tidemill_zset::FloatSum;
use tidemill_zset::moments::{ExactMoments, FloatMoments};
use tidemill_zset::schema::SqlType;

use super::{Args, Kernel, arith, call, external, parse};
use crate::bind::Typed;
use crate::error::SqlError;

/// The functions of this file, as one of one or two arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Moment {
    /// `variance`, `var_samp`
    VarSamp,
    /// `var_pop`
    VarPop,
    /// `stddev`, `stddev_samp`
    StddevSamp,
    /// `stddev_pop`
    StddevPop,
    /// `corr(y, x)`
    Corr,
    /// `covar_pop`
    CovarPop,
    /// `covar_samp`
    CovarSamp,
    /// `regr_slope`
    Slope,
    /// `regr_intercept`
    Intercept,
    /// `regr_r2`
    R2,
    /// `regr_avgx`
    AvgX,
    /// `regr_avgy`
    AvgY,
    /// `regr_sxx`
    Sxx,
    /// `regr_syy`
    Syy,
    /// `regr_sxy`
    Sxy,
    /// `regr_count`
    Count,
}

impl Moment {
    /// By name.
    pub fn named(name: &str) -> Option<Moment> {
        Some(match name {
            "variance" | "var_samp" => Moment::VarSamp,
            "var_pop" => Moment::VarPop,
            "stddev" | "stddev_samp" => Moment::StddevSamp,
            "stddev_pop" => Moment::StddevPop,
            "corr" => Moment::Corr,
            "covar_pop" => Moment::CovarPop,
            "covar_samp" => Moment::CovarSamp,
            "regr_slope" => Moment::Slope,
            "regr_intercept" => Moment::Intercept,
            "regr_r2" => Moment::R2,
            "regr_avgx" => Moment::AvgX,
            "regr_avgy" => Moment::AvgY,
            "regr_sxx" => Moment::Sxx,
            "regr_syy" => Moment::Syy,
            "regr_sxy" => Moment::Sxy,
            "regr_count" => Moment::Count,
            _ => return None,
        })
    }

    /// Number of arguments.
    pub fn arguments(self) -> usize {
        match self {
            Moment::VarSamp | Moment::VarPop | Moment::StddevSamp | Moment::StddevPop => 1,
            _ => 2,
        }
    }

    fn is_deviation(self) -> bool {
        matches!(self, Moment::StddevSamp | Moment::StddevPop)
    }

    /// What the sum of squares is divided by.
    fn divisor(self, n: i64) -> i64 {
        match self {
            Moment::VarSamp | Moment::StddevSamp | Moment::CovarSamp => n - 1,
            _ => n,
        }
    }
}

/// The aggregate's name.
pub const NAME: &str = "moments";

/// The aggregate that gathers moments of one argument (an integer, numeric or double) or of two doubles, as bytes.
pub fn aggregate() -> Arc<AggregateUDF> {
    Arc::new(AggregateUDF::new_from_impl(Gather {
        signature: Signature::one_of(
            vec![TypeSignature::Any(1), TypeSignature::Any(2)],
            Volatility::Immutable,
        ),
    }))
}

/// What `moments` of values of a type say.
pub(crate) fn of(moment: Moment, values: &SqlType, moments: Expr) -> Typed {
    let ty = match (moment, values) {
        (Moment::Count, _) => SqlType::Int8,
        (_, SqlType::Float8) => SqlType::Float8,
        (_, t) => super::aggregate::result_type("avg", t),
    };
    let (input, output) = (values.arrow(), ty.arrow());
    let kernel: Kernel = Arc::new(move |args: &Args| {
        let bytes = args.arrays[0].as_binary::<i32>();
        let of_row = |row| {
            let i = args.at(0, row);
            let bytes = bytes.is_valid(i).then(|| bytes.value(i));
            result(moment, &input, &output, bytes).map_err(external)
        };
        let values = (0..args.rows).map(of_row).collect::<DfResult<Vec<_>>>()?;
        match values.is_empty() {
            true => Ok(arrow::array::new_empty_array(&output)),
            false => ScalarValue::iter_to_array(values),
        }
    });
    let name = format!("{moment:?}").to_lowercase();
    let key = format!("{name}({values:?})");
    let volatility = Volatility::Immutable;
    let expr = call(&name, key, kernel, volatility, true, vec![moments], &ty);
    Typed::new(expr, ty)
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Gather {
    signature: Signature,
}

impl AggregateUDFImpl for Gather {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        Ok(DataType::Binary)
    }

    fn accumulator(&self, args: AccumulatorArgs) -> DfResult<Box<dyn Accumulator>> {
        Ok(Box::new(Gathered {
            moments: Moments::none_of(args.expr_fields[0].data_type()),
            distinct: args.is_distinct.then(|| {
                let types = args.expr_fields.iter().map(|f| f.data_type().clone());
                (types.collect(), HashSet::new())
            }),
        }))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> DfResult<Vec<FieldRef>> {
        if args.is_distinct {
            let fields = args.input_fields.iter().enumerate();
            let lists = fields.map(|(i, f)| {
                let item = Field::new("item", f.data_type().clone(), true);
                let list = DataType::List(Arc::new(item));
                Arc::new(Field::new(format!("{}[{i}]", args.name), list, true))
            });
            return Ok(lists.collect());
        }
        let name = format!("{}[moments]", args.name);
        Ok(vec![Arc::new(Field::new(name, DataType::Binary, true))])
    }
}

/// Moments of what was seen so far.
#[derive(Clone, Debug)]
enum Moments {
    Exact(ExactMoments),
    Floats(FloatMoments),
}

impl Moments {
    /// Of no values of type `input` yet.
    fn none_of(input: &DataType) -> Moments {
        match input {
            DataType::Float64 => Moments::Floats(FloatMoments::default()),
            _ => Moments::Exact(ExactMoments::default()),
        }
    }

    fn count(&self) -> i64 {
        match self {
            Moments::Exact(m) => m.count,
            Moments::Floats(m) => m.count,
        }
    }

    /// Adds the rows in which no value is NULL.
    fn add(&mut self, values: &[ArrayRef], times: i64) {
        let y = &values[0];
        match self {
            Moments::Exact(m) => {
                macro_rules! integers {
                    ($t:ty) => {
                        for v in y.as_primitive::<$t>().iter().flatten() {
                            m.add(v as i128, times);
                        }
                    };
                }
                match y.data_type() {
                    DataType::Int16 => integers!(Int16Type),
                    DataType::Int32 => integers!(Int32Type),
                    DataType::Int64 => integers!(Int64Type),
                    _ => integers!(Decimal128Type),
                }
            }
            Moments::Floats(m) => {
                let y = y.as_primitive::<Float64Type>();
                let Some(x) = values.get(1).map(|x| x.as_primitive::<Float64Type>()) else {
                    y.iter().flatten().for_each(|y| m.add(y, times));
                    return;
                };
                for (y, x) in y.iter().zip(x) {
                    if let (Some(y), Some(x)) = (y, x) {
                        m.add_pair(y, x, times);
                    }
                }
            }
        }
    }

    fn to_bytes(&self) -> Vec<u8> {
        match self {
            Moments::Exact(m) => m.to_bytes(),
            Moments::Floats(m) => m.to_bytes(),
        }
    }

    /// Adds what [`Moments::to_bytes`] wrote.
    fn merge(&mut self, bytes: &[u8]) -> Result<(), SqlError> {
        let merged = match self {
            Moments::Exact(m) => m.merge(bytes),
            Moments::Floats(m) => m.merge(bytes),
        };
        merged.ok_or_else(|| SqlError::internal("moments have the wrong form"))
    }
}

fn overflow() -> SqlError {
    SqlError::new("22003", "value out of range: overflow")
}

/// What the moments of values of type `input` say, as a value of type `output`; `None`: there are no values.
fn result(
    moment: Moment,
    input: &DataType,
    output: &DataType,
    bytes: Option<&[u8]>,
) -> Result<ScalarValue, SqlError> {
    let mut moments = Moments::none_of(input);
    bytes.map_or(Ok(()), |b| moments.merge(b))?;
    let n = moments.count();
    if moment == Moment::Count {
        return Ok(ScalarValue::Int64(Some(n)));
    }
    let divisor = moment.divisor(n);
    if n < 1 || divisor < 1 {
        return ScalarValue::try_new_null(output).map_err(|e| SqlError::internal(e.to_string()));
    }
    match (&moments, output) {
        (Moments::Exact(m), DataType::Decimal128(p, s)) => {
            let of = match input {
                DataType::Decimal128(_, s) => *s as i32,
                _ => 0,
            };
            let v = numeric(m, moment, of, *s as i32).ok_or_else(overflow)?;
            Ok(ScalarValue::Decimal128(
                Some(parse::fits(v, *p, *s)?),
                *p,
                *s,
            ))
        }
        (Moments::Floats(m), _) if m.overflows == 0 => {
            let v = double(m, moment).map(|v| v + 0.0);
            Ok(ScalarValue::Float64(v))
        }
        _ => Err(overflow()),
    }
}

/// The variance or deviation, at a scale, of values of the scale `of`.
fn numeric(m: &ExactMoments, moment: Moment, of: i32, scale: i32) -> Option<i256> {
    let int = |v: i64| i256::from_i128(v as i128);
    let (n, divisor) = (int(m.count), int(moment.divisor(m.count)));
    let sum = m.sum();
    let above = n.checked_mul(m.squares()?)?;
    let above = above.checked_sub(sum.checked_mul(sum)?)?;
    let below = n.checked_mul(divisor)?;
    // PostgreSQL's digits: of the variance as many as a quotient has, and of its root the same.
    let digits = quotient_digits(above, 2 * of, below).clamp(0, 30);
    let variance = arith::divide(above, below, digits - 2 * of)?;
    if !moment.is_deviation() {
        return parse::rescale(variance, digits, scale);
    }
    match variance.checked_mul(parse::pow10(digits as u32)) {
        Some(square) => parse::rescale(nearest_root(square), digits, scale),
        None => {
            // As many digits as fit.
            let mut digits = 2 * scale + 2;
            loop {
                match arith::divide(above, below, digits - 2 * of) {
                    Some(v) => return parse::rescale(root(v), digits / 2, scale),
                    None if digits > 2 => digits -= 2,
                    None => return None,
                }
            }
        }
    }
}

fn double(m: &FloatMoments, moment: Moment) -> Option<f64> {
    let n = m.count as f64;
    let [y, yy, x, xx, xy] = &m.sums();
    let (y, x) = (Double::of(y), Double::of(x));
    // Sums of squared distances from the mean.
    let about = |squares: &FloatSum, a: Double, b: Double| {
        Double::of(squares).minus(a.times(b).over(n)).value()
    };
    let never_negative = |v: f64| if v < 0.0 { 0.0 } else { v };
    let syy = || never_negative(about(yy, y, y));
    let sxx = || never_negative(about(xx, x, x));
    let sxy = || about(xy, y, x);
    let divisor = moment.divisor(m.count) as f64;
    Some(match moment {
        Moment::VarSamp | Moment::VarPop => syy() / divisor,
        Moment::StddevSamp | Moment::StddevPop => (syy() / divisor).sqrt(),
        Moment::CovarPop | Moment::CovarSamp => sxy() / divisor,
        Moment::Corr => {
            let (sxx, syy) = (sxx(), syy());
            if sxx == 0.0 || syy == 0.0 {
                return None;
            }
            sxy() / (sxx * syy).sqrt()
        }
        Moment::Slope => {
            let sxx = sxx();
            if sxx == 0.0 {
                return None;
            }
            sxy() / sxx
        }
        Moment::Intercept => {
            let sxx = sxx();
            if sxx == 0.0 {
                return None;
            }
            (y.value() - x.value() * sxy() / sxx) / n
        }
        Moment::R2 => {
            let (sxx, syy) = (sxx(), syy());
            if sxx == 0.0 {
                return None;
            }
            if syy == 0.0 {
                return Some(1.0);
            }
            let sxy = sxy();
            (sxy * sxy) / (sxx * syy)
        }
        Moment::AvgX => x.value() / n,
        Moment::AvgY => y.value() / n,
        Moment::Sxx => sxx(),
        Moment::Syy => syy(),
        Moment::Sxy => sxy(),
        Moment::Count => n,
    })
}

/// Decimals of a quotient in PostgreSQL: at least 16 significant digits, in groups of four. `above` has `scale` decimals.
fn quotient_digits(above: i256, scale: i32, below: i256) -> i32 {
    // The first group of four digits, and its place: 0 for the one before the point.
    let first = |v: i256, scale: i32| -> (i32, i32) {
        let digits = v.to_string();
        let digits = digits.trim_start_matches('-');
        if digits == "0" {
            return (0, 0);
        }
        let before = digits.len() as i32 - scale;
        let place = (before + 3).div_euclid(4) - 1;
        let own = (before - 4 * place) as usize;
        let group: String = digits.chars().chain("0000".chars()).take(own).collect();
        (place, group.parse().unwrap_or(0))
    };
    let ((above_place, above_first), (below_place, below_first)) =
        (first(above, scale), first(below, 0));
    let mut place = above_place - below_place;
    if above_first <= below_first {
        place -= 1;
    }
    (16 - 4 * place).max(scale)
}

/// The root, rounded.
fn nearest_root(v: i256) -> i256 {
    let low = root(v);
    let one = i256::from_i128(1);
    // v is nearer to (low + 1)² if it is above low² + low + 1/4.
    match low.checked_mul(low).and_then(|s| s.checked_add(low)) {
        Some(middle) if v > middle => low.wrapping_add(one),
        _ => low,
    }
}

/// The integer below the square root of a number that isn't negative.
fn root(v: i256) -> i256 {
    let (one, two) = (i256::from_i128(1), i256::from_i128(2));
    let (mut low, mut high) = (i256::ZERO, i256::from_parts(u128::MAX, 0));
    while low < high {
        let middle = low.wrapping_add(high).wrapping_add(one).wrapping_div(two);
        match middle.checked_mul(middle) {
            Some(square) if square <= v => low = middle,
            _ => high = middle.wrapping_sub(one),
        }
    }
    low
}

/// A number as the sum of two doubles.
#[derive(Clone, Copy)]
struct Double(f64, f64);

impl Double {
    fn of(sum: &FloatSum) -> Double {
        let high = sum.value();
        if !high.is_finite() {
            return Double(high, 0.0);
        }
        let mut rest = sum.clone();
        rest.subtract(high);
        Double(high, rest.value())
    }

    fn value(self) -> f64 {
        self.0 + self.1
    }

    fn joined(high: f64, low: f64) -> Double {
        let sum = high + low;
        if !sum.is_finite() {
            return Double(sum, 0.0);
        }
        Double(sum, low - (sum - high))
    }

    fn times(self, other: Double) -> Double {
        let product = self.0 * other.0;
        if !product.is_finite() {
            return Double(product, 0.0);
        }
        let rest = self.0.mul_add(other.0, -product) + (self.0 * other.1 + self.1 * other.0);
        Double::joined(product, rest)
    }

    fn over(self, n: f64) -> Double {
        let quotient = self.0 / n;
        if !quotient.is_finite() {
            return Double(quotient, 0.0);
        }
        let rest = (-quotient).mul_add(n, self.0) + self.1;
        Double::joined(quotient, rest / n)
    }

    fn minus(self, other: Double) -> Double {
        let difference = self.0 - other.0;
        if !difference.is_finite() {
            return Double(difference, 0.0);
        }
        let back = difference - self.0;
        let lost = (self.0 - (difference - back)) + (-other.0 - back);
        Double::joined(difference, lost + (self.1 - other.1))
    }
}

/// The accumulator.
#[derive(Debug)]
struct Gathered {
    moments: Moments,
    /// Of DISTINCT: the types of the arguments and the rows that were seen.
    distinct: Option<(Vec<DataType>, HashSet<Vec<ScalarValue>>)>,
}

impl Accumulator for Gathered {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        let Some((_, seen)) = &mut self.distinct else {
            self.moments.add(values, 1);
            return Ok(());
        };
        for i in 0..values[0].len() {
            if values.iter().all(|a| a.is_valid(i)) {
                let row = values.iter().map(|a| ScalarValue::try_from_array(a, i));
                seen.insert(row.collect::<DfResult<_>>()?);
            }
        }
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        self.moments.add(values, -1);
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        self.distinct.is_none()
    }

    fn evaluate(&mut self) -> DfResult<ScalarValue> {
        let mut all = self.moments.clone();
        for row in self.distinct.iter().flat_map(|(_, seen)| seen) {
            let values = row.iter().map(ScalarValue::to_array);
            all.add(&values.collect::<DfResult<Vec<_>>>()?, 1);
        }
        let bytes = (all.count() != 0).then(|| all.to_bytes());
        Ok(ScalarValue::Binary(bytes))
    }

    fn size(&self) -> usize {
        let heap = match &self.moments {
            Moments::Exact(_) => 0,
            Moments::Floats(m) => m.heap_bytes(),
        };
        let seen = self.distinct.as_ref().map_or(0, |(_, seen)| seen.len());
        size_of::<Self>() + heap + seen * 2 * size_of::<ScalarValue>()
    }

    fn state(&mut self) -> DfResult<Vec<ScalarValue>> {
        let Some((types, seen)) = &self.distinct else {
            return Ok(vec![self.evaluate()?]);
        };
        let lists = types.iter().enumerate().map(|(i, of)| {
            let column: Vec<ScalarValue> = seen.iter().map(|row| row[i].clone()).collect();
            ScalarValue::List(ScalarValue::new_list(&column, of, true))
        });
        Ok(lists.collect())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> DfResult<()> {
        if self.distinct.is_some() {
            let lists: Vec<_> = states.iter().map(|s| s.as_list::<i32>()).collect();
            for row in 0..lists[0].len() {
                if lists[0].is_valid(row) {
                    let columns: Vec<ArrayRef> = lists.iter().map(|l| l.value(row)).collect();
                    self.update_batch(&columns)?;
                }
            }
            return Ok(());
        }
        for bytes in states[0].as_binary::<i32>().iter().flatten() {
            self.moments.merge(bytes).map_err(external)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Float64Array, Int32Array};

    fn gathered(input: DataType) -> Gathered {
        Gathered {
            moments: Moments::none_of(&input),
            distinct: None,
        }
    }

    #[test]
    fn order_and_retraction_never_show() {
        let values = [1e15, 0.1, -1e15, 3.7, 0.1, 1e-3, 12345.678];
        let reversed: Vec<f64> = values.iter().rev().copied().collect();
        let mut a = gathered(DataType::Float64);
        let mut b = gathered(DataType::Float64);
        let array = |v: &[f64]| -> ArrayRef { Arc::new(Float64Array::from(v.to_vec())) };
        a.update_batch(&[array(&values)]).unwrap();
        b.update_batch(&[array(&[5.5, 1e100])]).unwrap();
        b.update_batch(&[array(&reversed)]).unwrap();
        b.retract_batch(&[array(&[1e100, 5.5])]).unwrap();
        assert_eq!(a.evaluate().unwrap(), b.evaluate().unwrap());
        let mut c = gathered(DataType::Float64);
        let state = a.state().unwrap();
        let state: Vec<ArrayRef> = state.iter().map(|s| s.to_array().unwrap()).collect();
        c.merge_batch(&state).unwrap();
        assert_eq!(a.evaluate().unwrap(), c.evaluate().unwrap());
        b.retract_batch(&[array(&values)]).unwrap();
        assert_eq!(b.evaluate().unwrap(), ScalarValue::Binary(None));
    }

    #[test]
    fn integers_give_numerics() {
        let mut a = gathered(DataType::Int32);
        a.update_batch(&[Arc::new(Int32Array::from(vec![1, 2, 3, 4])) as ArrayRef])
            .unwrap();
        let ScalarValue::Binary(bytes) = a.evaluate().unwrap() else {
            panic!("moments are bytes")
        };
        let value = |moment| {
            let output = DataType::Decimal128(38, 16);
            result(moment, &DataType::Int32, &output, bytes.as_deref()).unwrap()
        };
        // sqrt(5/3)
        assert_eq!(
            value(Moment::StddevSamp),
            ScalarValue::Decimal128(Some(12_909_944_487_358_056), 38, 16)
        );
        assert_eq!(
            value(Moment::VarPop),
            ScalarValue::Decimal128(Some(12_500_000_000_000_000), 38, 16)
        );
    }
}
