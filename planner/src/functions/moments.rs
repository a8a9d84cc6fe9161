//! Variances, deviations, covariances and regressions from exact sums, so that the order of rows never shows.
//!
//! Over integers and numerics the sums are integers and the results numeric. Over doubles the sums of values, squares and
//! products are exact ([`FloatSum`]; a product is the sum of two doubles), and what is made of them carries twice a
//! double's digits until the last step.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::cast::AsArray;
use arrow::array::types::*;
use arrow::array::{Array, ArrayRef};
use arrow::datatypes::{DataType, Field, FieldRef, i256};
use datafusion_common::{Result as DfResult, ScalarValue};
use datafusion_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility};
use tidemill_zset::FloatSum;
use tidemill_zset::schema::SqlType;

use super::{arith, external, parse};
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

/// The type over values of a type.
pub fn result_type(of: &SqlType) -> SqlType {
    match of {
        SqlType::Float4 | SqlType::Float8 => SqlType::Float8,
        t => super::aggregate::result_type("avg", t),
    }
}

/// The aggregate function.
pub fn aggregate(moment: Moment) -> Arc<AggregateUDF> {
    Arc::new(AggregateUDF::new_from_impl(Moments {
        moment,
        name: format!("{moment:?}").to_lowercase(),
        signature: Signature::any(moment.arguments(), Volatility::Immutable),
    }))
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Moments {
    moment: Moment,
    name: String,
    signature: Signature,
}

impl AggregateUDFImpl for Moments {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, args: &[DataType]) -> DfResult<DataType> {
        let of = args.first().cloned().unwrap_or(DataType::Float64);
        Ok(result_type(&SqlType::of(&Field::new("", of, true))).arrow())
    }

    fn accumulator(&self, args: AccumulatorArgs) -> DfResult<Box<dyn Accumulator>> {
        Ok(Box::new(Sums {
            moment: self.moment,
            input: args.expr_fields[0].data_type().clone(),
            output: args.return_field.data_type().clone(),
            n: 0,
            exact: [i256::ZERO; 2],
            float: Default::default(),
            distinct: args.is_distinct.then(HashSet::new),
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
        let field = |part: &str, of: DataType| {
            Arc::new(Field::new(format!("{}[{part}]", args.name), of, true))
        };
        Ok(vec![
            field("count", DataType::Int64),
            field("sums", DataType::Binary),
        ])
    }
}

/// Values (or pairs) seen so far, as sums.
#[derive(Clone, Debug)]
struct Sums {
    moment: Moment,
    input: DataType,
    output: DataType,
    n: i64,
    /// Of values and of squares.
    exact: [i256; 2],
    /// Of y, x, y², x², xy; of one argument only y and y².
    float: [FloatSum; 5],
    distinct: Option<HashSet<Vec<ScalarValue>>>,
}

fn overflow() -> datafusion_common::DataFusionError {
    external(SqlError::new("22003", "value out of range: overflow"))
}

/// Adds `a * b` exactly.
fn add_product(sum: &mut FloatSum, a: f64, b: f64, times: i64) -> DfResult<()> {
    let product = a * b;
    if product.is_infinite() && a.is_finite() && b.is_finite() {
        return Err(overflow());
    }
    sum.add_times(product, times);
    if product.is_finite() {
        sum.add_times(a.mul_add(b, -product), times);
    }
    Ok(())
}

impl Sums {
    fn change(&mut self, values: &[ArrayRef], times: i64) -> DfResult<()> {
        let a = &values[0];
        macro_rules! integers {
            ($t:ty) => {
                for v in a.as_primitive::<$t>().iter().flatten() {
                    self.add_exact(v as i128, times)?;
                }
            };
        }
        match &self.input {
            DataType::Int16 => integers!(Int16Type),
            DataType::Int32 => integers!(Int32Type),
            DataType::Int64 => integers!(Int64Type),
            DataType::Decimal128(..) => integers!(Decimal128Type),
            _ => {
                let y = a.as_primitive::<Float64Type>();
                let x = values.get(1).map(|x| x.as_primitive::<Float64Type>());
                for i in 0..y.len() {
                    if y.is_null(i) || x.is_some_and(|x| x.is_null(i)) {
                        continue;
                    }
                    let v = y.value(i);
                    self.n += times;
                    self.float[0].add_times(v, times);
                    add_product(&mut self.float[2], v, v, times)?;
                    if let Some(x) = x {
                        let w = x.value(i);
                        self.float[1].add_times(w, times);
                        add_product(&mut self.float[3], w, w, times)?;
                        add_product(&mut self.float[4], v, w, times)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn add_exact(&mut self, v: i128, times: i64) -> DfResult<()> {
        self.n += times;
        let (v, times) = (i256::from_i128(v), i256::from_i128(times as i128));
        let square = v.checked_mul(v).ok_or_else(overflow)?;
        for (sum, v) in self.exact.iter_mut().zip([v, square]) {
            *sum = v
                .checked_mul(times)
                .and_then(|v| sum.checked_add(v))
                .ok_or_else(overflow)?;
        }
        Ok(())
    }

    fn result(&self) -> DfResult<ScalarValue> {
        let divisor = self.moment.divisor(self.n);
        if self.n < 1 || divisor < 1 {
            return ScalarValue::try_from(&self.output);
        }
        match &self.output {
            DataType::Decimal128(p, s) => {
                let v = self.numeric(divisor, *s as i32).ok_or_else(overflow)?;
                let v = parse::fits(v, *p, *s).map_err(external)?;
                Ok(ScalarValue::Decimal128(Some(v), *p, *s))
            }
            _ => Ok(ScalarValue::Float64(self.double(divisor).map(|v| v + 0.0))),
        }
    }

    /// The variance or deviation at a scale.
    fn numeric(&self, divisor: i64, scale: i32) -> Option<i256> {
        let of = match self.input {
            DataType::Decimal128(_, s) => s as i32,
            _ => 0,
        };
        let int = |v: i64| i256::from_i128(v as i128);
        let [sum, squares] = self.exact;
        let above = int(self.n)
            .checked_mul(squares)?
            .checked_sub(sum.checked_mul(sum)?)?;
        let below = int(self.n).checked_mul(int(divisor))?;
        // PostgreSQL's digits: of the variance as many as a quotient has, and of its root the same.
        let digits = quotient_digits(above, 2 * of, below).clamp(0, 30);
        let variance = arith::divide(above, below, digits - 2 * of)?;
        if !self.moment.is_deviation() {
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

    fn double(&self, divisor: i64) -> Option<f64> {
        let n = self.n as f64;
        let [y, x, yy, xx, xy] = &self.float;
        let (y, x) = (Double::of(y), Double::of(x));
        // Sums of squared distances from the mean.
        let about = |squares: &FloatSum, a: Double, b: Double| {
            Double::of(squares).minus(a.times(b).over(n)).value()
        };
        let never_negative = |v: f64| if v < 0.0 { 0.0 } else { v };
        let syy = || never_negative(about(yy, y, y));
        let sxx = || never_negative(about(xx, x, x));
        let sxy = || about(xy, y, x);
        let divisor = divisor as f64;
        Some(match self.moment {
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
        })
    }
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

impl Accumulator for Sums {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        let Some(seen) = &mut self.distinct else {
            return self.change(values, 1);
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
        self.change(values, -1)
    }

    fn supports_retract_batch(&self) -> bool {
        self.distinct.is_none()
    }

    fn evaluate(&mut self) -> DfResult<ScalarValue> {
        let Some(seen) = &self.distinct else {
            return self.result();
        };
        let mut all = self.clone();
        for row in seen {
            let values = row.iter().map(ScalarValue::to_array);
            all.change(&values.collect::<DfResult<Vec<_>>>()?, 1)?;
        }
        all.result()
    }

    fn size(&self) -> usize {
        let seen = self.distinct.as_ref().map_or(0, HashSet::len);
        let heap: usize = self.float.iter().map(FloatSum::heap_bytes).sum();
        size_of::<Self>() + heap + seen * 2 * size_of::<ScalarValue>()
    }

    fn state(&mut self) -> DfResult<Vec<ScalarValue>> {
        if let Some(seen) = &self.distinct {
            let lists = (0..self.moment.arguments()).map(|i| {
                let column: Vec<ScalarValue> = seen.iter().map(|row| row[i].clone()).collect();
                ScalarValue::List(ScalarValue::new_list(&column, &self.input, true))
            });
            return Ok(lists.collect());
        }
        let mut bytes = Vec::new();
        for exact in &self.exact {
            bytes.extend(exact.to_le_bytes());
        }
        for float in &self.float {
            let part = float.to_bytes();
            bytes.extend((part.len() as u32).to_le_bytes());
            bytes.extend(part);
        }
        Ok(vec![
            ScalarValue::Int64(Some(self.n)),
            ScalarValue::Binary(Some(bytes)),
        ])
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
        let counts = states[0].as_primitive::<Int64Type>();
        let sums = states[1].as_binary::<i32>();
        for i in 0..counts.len() {
            if counts.is_valid(i) && sums.is_valid(i) {
                self.n += counts.value(i);
                self.merge(sums.value(i)).ok_or_else(overflow)?;
            }
        }
        Ok(())
    }
}

impl Sums {
    /// Adds what [`Accumulator::state`] wrote.
    fn merge(&mut self, mut bytes: &[u8]) -> Option<()> {
        for exact in &mut self.exact {
            let (own, rest) = bytes.split_first_chunk::<32>()?;
            *exact = exact.checked_add(i256::from_le_bytes(*own))?;
            bytes = rest;
        }
        for float in &mut self.float {
            let (length, rest) = bytes.split_first_chunk::<4>()?;
            let (own, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            float.merge(&FloatSum::from_bytes(own)?);
            bytes = rest;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Float64Array, Int32Array};

    fn sums(moment: Moment, input: DataType) -> Sums {
        let output = result_type(&SqlType::of(&Field::new("", input.clone(), true))).arrow();
        Sums {
            moment,
            input,
            output,
            n: 0,
            exact: [i256::ZERO; 2],
            float: Default::default(),
            distinct: None,
        }
    }

    #[test]
    fn order_and_retraction_never_show() {
        let values = [1e15, 0.1, -1e15, 3.7, 0.1, 1e-3, 12345.678];
        let reversed: Vec<f64> = values.iter().rev().copied().collect();
        let mut a = sums(Moment::StddevSamp, DataType::Float64);
        let mut b = a.clone();
        let array = |v: &[f64]| -> ArrayRef { Arc::new(Float64Array::from(v.to_vec())) };
        a.update_batch(&[array(&values)]).unwrap();
        b.update_batch(&[array(&[5.5, 1e100])]).unwrap();
        b.update_batch(&[array(&reversed)]).unwrap();
        b.retract_batch(&[array(&[1e100, 5.5])]).unwrap();
        assert_eq!(a.evaluate().unwrap(), b.evaluate().unwrap());
        let mut c = sums(Moment::StddevSamp, DataType::Float64);
        let state = a.state().unwrap();
        let state: Vec<ArrayRef> = state.iter().map(|s| s.to_array().unwrap()).collect();
        c.merge_batch(&state).unwrap();
        assert_eq!(a.evaluate().unwrap(), c.evaluate().unwrap());
    }

    #[test]
    fn integers_give_numerics() {
        let mut a = sums(Moment::StddevSamp, DataType::Int32);
        a.update_batch(&[Arc::new(Int32Array::from(vec![1, 2, 3, 4])) as ArrayRef])
            .unwrap();
        // sqrt(5/3)
        assert_eq!(
            a.evaluate().unwrap(),
            ScalarValue::Decimal128(Some(12_909_944_487_358_056), 38, 16)
        );
        a.moment = Moment::VarPop;
        assert_eq!(
            a.evaluate().unwrap(),
            ScalarValue::Decimal128(Some(12_500_000_000_000_000), 38, 16)
        );
    }
}
