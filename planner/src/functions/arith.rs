//! Arithmetic with PostgreSQL's result types, overflow checks and errors.

use std::sync::Arc;

use arrow::array::cast::AsArray;
use arrow::array::types::*;
use arrow::array::{Array, ArrayRef, PrimitiveArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::i256;
use datafusion_common::Result as DfResult;
use datafusion_expr::{Expr, Volatility};
use tidemill_zset::schema::SqlType;

use super::{Args, Kernel, call, external, parse};
use crate::bind::types::{PRECISION_MAX, SCALE_PRODUCT_MAX, SCALE_QUOTIENT, plain_name};
use crate::error::{Result, SqlError};

/// The operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// +
    Add,
    /// -
    Sub,
    /// *
    Mul,
    /// /
    Div,
    /// %
    Mod,
}

impl Op {
    /// As SQL writes it.
    pub fn sign(self) -> &'static str {
        match self {
            Op::Add => "+",
            Op::Sub => "-",
            Op::Mul => "*",
            Op::Div => "/",
            Op::Mod => "%",
        }
    }
}

/// `division by zero`
pub fn division_by_zero() -> SqlError {
    SqlError::new("22012", "division by zero")
}

/// Result of an operation on two numbers of type numeric.
pub fn numeric_result(op: Op, (p1, s1): (u8, i8), (p2, s2): (u8, i8)) -> SqlType {
    let open = (p1 == 0 || p2 == 0) && op != Op::Div;
    let (p1, p2) = (SqlType::digits(p1), SqlType::digits(p2));
    let (w1, w2) = (p1 as i32 - s1 as i32, p2 as i32 - s2 as i32);
    let (whole, scale) = match op {
        Op::Add | Op::Sub => (w1.max(w2) + 1, s1.max(s2)),
        Op::Mul => (w1 + w2, (s1 + s2).min(SCALE_PRODUCT_MAX.max(s1).max(s2))),
        Op::Div => (PRECISION_MAX as i32, SCALE_QUOTIENT.max(s1).max(s2)),
        Op::Mod => (w1.max(w2), s1.max(s2)),
    };
    let p = (whole + scale as i32).clamp(1, PRECISION_MAX as i32) as u8;
    SqlType::Numeric(if open { 0 } else { p }, scale)
}

/// `l op r`. Both have type `t`, but numerics each their own precision and scale.
pub fn arithmetic(op: Op, l: Expr, r: Expr, lt: &SqlType, rt: &SqlType, ret: &SqlType) -> Expr {
    let key = format!("{} {lt} {rt} {ret}", op.sign());
    let kernel: Kernel = match (lt, rt, ret) {
        (SqlType::Numeric(_, s1), SqlType::Numeric(_, s2), SqlType::Numeric(p, s)) => {
            let (s1, s2, p, s) = (*s1 as i32, *s2 as i32, SqlType::digits(*p), *s);
            Arc::new(move |a: &Args| decimals(op, a, s1, s2, p, s))
        }
        (SqlType::Int2, ..) => integer_kernel::<Int16Type>(op, ret),
        (SqlType::Int4, ..) => integer_kernel::<Int32Type>(op, ret),
        (SqlType::Int8, ..) => integer_kernel::<Int64Type>(op, ret),
        (SqlType::Float4, ..) => Arc::new(move |a: &Args| {
            zip::<Float32Type>(a, |x, y| {
                float(op, x as f64, y as f64).and_then(|v| {
                    let narrow = v as f32;
                    if v.is_finite() && narrow.is_infinite() {
                        Err(overflow())
                    } else {
                        Ok(narrow)
                    }
                })
            })
        }),
        _ => Arc::new(move |a: &Args| zip::<Float64Type>(a, |x, y| float(op, x, y))),
    };
    call(
        op.sign(),
        key,
        kernel,
        Volatility::Immutable,
        true,
        vec![l, r],
        ret,
    )
}

fn underflow() -> SqlError {
    SqlError::new("22003", "value out of range: underflow")
}

fn overflow() -> SqlError {
    SqlError::new("22003", "value out of range: overflow")
}

#[inline]
fn float(op: Op, x: f64, y: f64) -> Result<f64> {
    let v = match op {
        Op::Add => x + y,
        Op::Sub => x - y,
        Op::Mul => x * y,
        Op::Div | Op::Mod if y == 0.0 && !x.is_nan() => return Err(division_by_zero()),
        Op::Div => x / y,
        Op::Mod => x % y,
    };
    if v.is_infinite() && x.is_finite() && y.is_finite() {
        return Err(overflow());
    }
    if v == 0.0 && matches!(op, Op::Mul | Op::Div) && x != 0.0 && y != 0.0 && y.is_finite() {
        return Err(SqlError::new("22003", "value out of range: underflow"));
    }
    Ok(plain(v))
}

/// A float as it may be in a column: no negative zero, and no NaN with a sign, which processors make of `inf - inf` and which
/// would be less than all numbers.
#[inline]
fn plain(v: f64) -> f64 {
    match v.is_nan() {
        true => f64::NAN,
        false => v + 0.0,
    }
}

/// Applies `f` where both are not NULL.
fn zip<T: ArrowPrimitiveType>(
    a: &Args,
    f: impl Fn(T::Native, T::Native) -> Result<T::Native>,
) -> DfResult<ArrayRef> {
    let (l, r) = (
        a.arrays[0].as_primitive::<T>(),
        a.arrays[1].as_primitive::<T>(),
    );
    let (ln, rn) = (l.len() == 1, r.len() == 1);
    let valid =
        |row: usize| l.is_valid(if ln { 0 } else { row }) && r.is_valid(if rn { 0 } else { row });
    let (lv, rv) = (l.values(), r.values());
    let mut out = Vec::with_capacity(a.rows);
    let no_nulls = l.null_count() == 0 && r.null_count() == 0;
    for row in 0..a.rows {
        if no_nulls || valid(row) {
            let x = lv[if ln { 0 } else { row }];
            let y = rv[if rn { 0 } else { row }];
            out.push(f(x, y).map_err(external)?);
        } else {
            out.push(T::default_value());
        }
    }
    let nulls = (!no_nulls).then(|| NullBuffer::from((0..a.rows).map(valid).collect::<Vec<_>>()));
    Ok(Arc::new(PrimitiveArray::<T>::new(out.into(), nulls)))
}

fn integer_kernel<T: ArrowPrimitiveType>(op: Op, ret: &SqlType) -> Kernel
where
    T::Native: num_like::Checked,
{
    use num_like::Checked;
    let name = plain_name(ret);
    Arc::new(move |a: &Args| {
        zip::<T>(a, |x, y| {
            if matches!(op, Op::Div | Op::Mod) && y == T::default_value() {
                return Err(division_by_zero());
            }
            let v = match op {
                Op::Add => x.add(y),
                Op::Sub => x.sub(y),
                Op::Mul => x.mul(y),
                Op::Div => x.div(y),
                Op::Mod => Some(x.rem(y)),
            };
            v.ok_or_else(|| SqlError::new("22003", format!("{name} out of range")))
        })
    })
}

/// Checked integer operations.
mod num_like {
    /// `None` on overflow.
    pub trait Checked: Copy {
        fn add(self, o: Self) -> Option<Self>;
        fn sub(self, o: Self) -> Option<Self>;
        fn mul(self, o: Self) -> Option<Self>;
        fn div(self, o: Self) -> Option<Self>;
        fn rem(self, o: Self) -> Self;
    }
    macro_rules! checked {
        ($($t:ty),*) => { $(impl Checked for $t {
            #[inline] fn add(self, o: Self) -> Option<Self> { self.checked_add(o) }
            #[inline] fn sub(self, o: Self) -> Option<Self> { self.checked_sub(o) }
            #[inline] fn mul(self, o: Self) -> Option<Self> { self.checked_mul(o) }
            #[inline] fn div(self, o: Self) -> Option<Self> { self.checked_div(o) }
            #[inline] fn rem(self, o: Self) -> Self { self.wrapping_rem(o) }
        })* };
    }
    checked!(i16, i32, i64);
}

fn decimals(op: Op, a: &Args, s1: i32, s2: i32, p: u8, s: i8) -> DfResult<ArrayRef> {
    let scale = s as i32;
    let array = zip::<Decimal128Type>(a, |x, y| {
        // The common case fits 128 bits.
        let narrow = match op {
            Op::Add if s1 == s2 && s1 == scale => x.checked_add(y),
            Op::Sub if s1 == s2 && s1 == scale => x.checked_sub(y),
            Op::Mul if s1 + s2 == scale => x.checked_mul(y),
            _ => None,
        };
        if let Some(v) = narrow {
            return parse::fits_narrow(v, p, s);
        }
        decimal(op, i256::from_i128(x), i256::from_i128(y), s1, s2, scale)?
            .ok_or_else(|| parse::numeric_overflow(p, s))
            .and_then(|v| parse::fits(v, p, s))
    })?;
    let out = array
        .as_primitive::<Decimal128Type>()
        .clone()
        .with_precision_and_scale(p, s)?;
    Ok(Arc::new(out))
}

fn decimal(op: Op, x: i256, y: i256, s1: i32, s2: i32, scale: i32) -> Result<Option<i256>> {
    if matches!(op, Op::Div | Op::Mod) && y == i256::ZERO {
        return Err(division_by_zero());
    }
    let both = |s: i32| Some((parse::rescale(x, s1, s)?, parse::rescale(y, s2, s)?));
    Ok(match op {
        Op::Add => both(scale).and_then(|(x, y)| x.checked_add(y)),
        Op::Sub => both(scale).and_then(|(x, y)| x.checked_sub(y)),
        Op::Mod => both(scale).and_then(|(x, y)| x.checked_rem(y)),
        Op::Mul => x
            .checked_mul(y)
            .and_then(|v| parse::rescale(v, s1 + s2, scale)),
        Op::Div => divide(x, y, scale + s2 - s1),
    })
}

/// `x * 10^shift / y`, rounded half away from zero.
pub fn divide(x: i256, y: i256, shift: i32) -> Option<i256> {
    let (x, y) = if shift >= 0 {
        (x.checked_mul(parse::pow10(shift as u32))?, y)
    } else {
        (x, y.checked_mul(parse::pow10((-shift) as u32))?)
    };
    let q = x.checked_div(y)?;
    let r = x.checked_sub(q.checked_mul(y)?)?;
    let (r2, ya) = (
        r.wrapping_abs().checked_mul(i256::from_i128(2))?,
        y.wrapping_abs(),
    );
    if r2 < ya {
        return Some(q);
    }
    let negative = (x < i256::ZERO) != (y < i256::ZERO);
    let one = i256::from_i128(1);
    if negative {
        q.checked_sub(one)
    } else {
        q.checked_add(one)
    }
}

/// div() of numerics with these scales: their quotient, cut off.
pub fn quotient(l: Expr, r: Expr, (s1, s2): (i8, i8)) -> (Expr, SqlType) {
    let ret = SqlType::Numeric(PRECISION_MAX, 0);
    let kernel: Kernel = Arc::new(move |a: &Args| {
        let array = zip::<Decimal128Type>(a, |x, y| {
            if y == 0 {
                return Err(division_by_zero());
            }
            let scale = s1.max(s2) as i32;
            let x = parse::rescale(i256::from_i128(x), s1 as i32, scale);
            let y = parse::rescale(i256::from_i128(y), s2 as i32, scale);
            x.zip(y)
                .and_then(|(x, y)| x.checked_div(y))
                .ok_or_else(|| parse::numeric_overflow(PRECISION_MAX, 0))
                .and_then(|q| parse::fits(q, PRECISION_MAX, 0))
        })?;
        let out = array.as_primitive::<Decimal128Type>().clone();
        Ok(Arc::new(out.with_precision_and_scale(PRECISION_MAX, 0)?))
    });
    let key = format!("div {s1} {s2}");
    let args = vec![l, r];
    let e = call("div", key, kernel, Volatility::Immutable, true, args, &ret);
    (e, ret)
}

/// `-x`
pub fn negate(x: Expr, t: &SqlType) -> Expr {
    let zero = match t {
        SqlType::Int2 => datafusion_common::ScalarValue::Int16(Some(0)),
        SqlType::Int4 => datafusion_common::ScalarValue::Int32(Some(0)),
        SqlType::Int8 => datafusion_common::ScalarValue::Int64(Some(0)),
        SqlType::Float4 => datafusion_common::ScalarValue::Float32(Some(0.0)),
        SqlType::Numeric(p, s) => {
            datafusion_common::ScalarValue::Decimal128(Some(0), SqlType::digits(*p), *s)
        }
        _ => datafusion_common::ScalarValue::Float64(Some(0.0)),
    };
    arithmetic(Op::Sub, Expr::Literal(zero, None), x, t, t, t)
}

/// round, trunc, ceil, floor, abs and sign of numerics at scale `scale`; a second argument is the number of digits.
pub fn rounding(name: &str, scale: i8, ret: &SqlType) -> Kernel {
    let SqlType::Numeric(p, s) = *ret else {
        return Arc::new(|_| Err(external(SqlError::internal("not a numeric"))));
    };
    let p = SqlType::digits(p);
    let (scale, name) = (scale as i32, name.to_string());
    Arc::new(move |a: &Args| {
        let x = a.arrays[0].as_primitive::<Decimal128Type>();
        let mut out = arrow::array::Decimal128Builder::with_capacity(a.rows);
        for row in 0..a.rows {
            if a.is_null(0, row) || (a.arrays.len() > 1 && a.is_null(1, row)) {
                out.append_null();
                continue;
            }
            let v = i256::from_i128(x.value(a.at(0, row)));
            let digits = match a.arrays.get(1) {
                Some(n) => n
                    .as_primitive::<Int32Type>()
                    .value(a.at(1, row))
                    .clamp(-38, 38),
                None => 0,
            };
            let r = rounded(&name, v, scale, digits)
                .and_then(|(v, at)| parse::rescale(v, at, s as i32));
            let r = r
                .ok_or_else(|| parse::numeric_overflow(p, s))
                .and_then(|v| parse::fits(v, p, s));
            out.append_value(r.map_err(external)?);
        }
        Ok(Arc::new(out.finish().with_precision_and_scale(p, s)?))
    })
}

/// The value and the scale it has then.
fn rounded(name: &str, v: i256, scale: i32, digits: i32) -> Option<(i256, i32)> {
    let toward_zero = |to: i32| {
        let d = parse::pow10((scale - to).max(0) as u32);
        (v.wrapping_div(d), d)
    };
    Some(match name {
        "abs" => (v.wrapping_abs(), scale),
        "sign" => (v.signum(), 0),
        "ceil" | "ceiling" | "floor" => {
            let (q, d) = toward_zero(0);
            let exact = q.checked_mul(d)? == v;
            let one = i256::from_i128(1);
            let q = match (name == "floor", exact, v < i256::ZERO) {
                (true, false, true) => q.checked_sub(one)?,
                (false, false, false) => q.checked_add(one)?,
                _ => q,
            };
            (q, 0)
        }
        "trunc" if digits >= scale => (v, scale),
        "trunc" => {
            let (q, _) = toward_zero(digits);
            if digits < 0 {
                (q.checked_mul(parse::pow10((-digits) as u32))?, 0)
            } else {
                (q, digits)
            }
        }
        _ if digits >= scale => (v, scale),
        _ if digits < 0 => {
            let q = parse::rescale(v, scale - digits, 0)?;
            (q.checked_mul(parse::pow10((-digits) as u32))?, 0)
        }
        _ => (parse::rescale(v, scale, digits)?, digits),
    })
}

/// An angle, of which an infinite one has no sine.
pub(super) fn angle(x: f64) -> Result<f64> {
    match x.is_infinite() {
        true => Err(SqlError::new("22003", "input is out of range")),
        false => Ok(x),
    }
}

fn finite(v: f64, of: &[f64]) -> Result<Option<f64>> {
    if v.is_infinite() && of.iter().all(|x| x.is_finite()) {
        return Err(overflow());
    }
    Ok(Some(plain(v)))
}

/// Functions on numbers that need no type of their own.
pub fn register(r: &mut super::registry::Registry) {
    use super::kernel;
    let range = |t: &'static str| SqlError::new("22003", format!("{t} out of range"));
    r.add_fallible(
        "abs(int2) int2",
        kernel!(|x: int2| -> int2 x.checked_abs().map(Some).ok_or_else(|| range("smallint"))),
    );
    r.add_fallible(
        "abs(int4) int4",
        kernel!(|x: int4| -> int4 x.checked_abs().map(Some).ok_or_else(|| range("integer"))),
    );
    r.add_fallible(
        "abs(int8) int8",
        kernel!(|x: int8| -> int8 x.checked_abs().map(Some).ok_or_else(|| range("bigint"))),
    );
    r.add(
        "abs(float4) float4",
        kernel!(|x: float4| -> float4 Ok(Some(x.abs()))),
    );
    r.add(
        "abs(float8) float8",
        kernel!(|x: float8| -> float8 Ok(Some(x.abs()))),
    );
    r.add("sign(float8) float8", kernel!(|x: float8| -> float8 Ok(Some(if x == 0.0 || x.is_nan() { x } else { x.signum() }))));
    r.add(
        "ceil(float8) float8",
        kernel!(|x: float8| -> float8 Ok(Some(x.ceil() + 0.0))),
    );
    r.add(
        "ceiling(float8) float8",
        kernel!(|x: float8| -> float8 Ok(Some(x.ceil() + 0.0))),
    );
    r.add(
        "floor(float8) float8",
        kernel!(|x: float8| -> float8 Ok(Some(x.floor() + 0.0))),
    );
    r.add(
        "round(float8) float8",
        kernel!(|x: float8| -> float8 Ok(Some(x.round_ties_even() + 0.0))),
    );
    r.add(
        "trunc(float8) float8",
        kernel!(|x: float8| -> float8 Ok(Some(x.trunc() + 0.0))),
    );
    r.add_fallible(
        "sqrt(float8) float8",
        kernel!(|x: float8| -> float8 {
            if x < 0.0 {
                Err(SqlError::new(
                    "2201F",
                    "cannot take square root of a negative number",
                ))
            } else {
                Ok(Some(x.sqrt()))
            }
        }),
    );
    r.add(
        "cbrt(float8) float8",
        kernel!(|x: float8| -> float8 Ok(Some(x.cbrt()))),
    );
    r.add_fallible(
        "exp(float8) float8",
        kernel!(|x: float8| -> float8 match x.exp() {
            0.0 if x.is_finite() => Err(underflow()),
            v => finite(v, &[x]),
        }),
    );
    for name in ["power(float8, float8) float8", "pow(float8, float8) float8"] {
        r.add_fallible(
            name,
            kernel!(|x: float8, y: float8| -> float8 {
                if x == 0.0 && y < 0.0 {
                    return Err(SqlError::new(
                        "2201F",
                        "zero raised to a negative power is undefined",
                    ));
                }
                if x < 0.0 && y.fract() != 0.0 && y.is_finite() {
                    return Err(SqlError::new(
                        "2201F",
                        "a negative number raised to a non-integer power yields a complex result",
                    ));
                }
                match x.powf(y) {
                    0.0 if x != 0.0 && x.is_finite() && y.is_finite() => Err(underflow()),
                    v => finite(v, &[x, y]),
                }
            }),
        );
    }
    let log = |x: f64, v: f64| -> Result<Option<f64>> {
        if x == 0.0 {
            return Err(SqlError::new("2201E", "cannot take logarithm of zero"));
        }
        if x < 0.0 {
            return Err(SqlError::new(
                "2201E",
                "cannot take logarithm of a negative number",
            ));
        }
        Ok(Some(plain(v)))
    };
    r.add_fallible(
        "ln(float8) float8",
        kernel!(|x: float8| -> float8 log(x, x.ln())),
    );
    r.add_fallible(
        "log(float8) float8",
        kernel!(|x: float8| -> float8 log(x, x.log10())),
    );
    r.add_fallible(
        "log10(float8) float8",
        kernel!(|x: float8| -> float8 log(x, x.log10())),
    );
    r.add_fallible(
        "log(float8, float8) float8",
        kernel!(|b: float8, x: float8| -> float8 {
            log(b, b.ln())?;
            match log(x, x.ln() / b.ln()) {
                Ok(_) if b == 1.0 => Err(division_by_zero()),
                result => result,
            }
        }),
    );
    r.add_fallible(
        "sin(float8) float8",
        kernel!(|x: float8| -> float8 angle(x).map(|x| Some(x.sin()))),
    );
    r.add_fallible(
        "cos(float8) float8",
        kernel!(|x: float8| -> float8 angle(x).map(|x| Some(x.cos()))),
    );
    r.add_fallible(
        "tan(float8) float8",
        kernel!(|x: float8| -> float8 angle(x).map(|x| Some(x.tan()))),
    );
    r.add(
        "atan(float8) float8",
        kernel!(|x: float8| -> float8 Ok(Some(x.atan()))),
    );
    r.add(
        "atan2(float8, float8) float8",
        kernel!(|y: float8, x: float8| -> float8 Ok(Some(y.atan2(x)))),
    );
    r.add_fallible(
        "degrees(float8) float8",
        kernel!(|x: float8| -> float8 finite(x.to_degrees(), &[x])),
    );
    r.add(
        "radians(float8) float8",
        kernel!(|x: float8| -> float8 Ok(Some(x.to_radians()))),
    );
    r.add(
        "pi() float8",
        kernel!(| | -> float8 Ok(Some(std::f64::consts::PI))),
    );
    r.add_volatile(
        "random() float8",
        kernel!(|| -> float8 {
            // 53 random bits of a fresh uuid.
            Ok(Some(
                (uuid::Uuid::new_v4().as_u128() >> 75) as u64 as f64 / (1u64 << 53) as f64,
            ))
        }),
    );
    r.add(
        "bitand(int4, int4) int4",
        kernel!(|a: int4, b: int4| -> int4 Ok(Some(a & b))),
    );
    r.add(
        "bitand(int8, int8) int8",
        kernel!(|a: int8, b: int8| -> int8 Ok(Some(a & b))),
    );
    r.add(
        "bitor(int4, int4) int4",
        kernel!(|a: int4, b: int4| -> int4 Ok(Some(a | b))),
    );
    r.add(
        "bitor(int8, int8) int8",
        kernel!(|a: int8, b: int8| -> int8 Ok(Some(a | b))),
    );
    r.add(
        "bitxor(int4, int4) int4",
        kernel!(|a: int4, b: int4| -> int4 Ok(Some(a ^ b))),
    );
    r.add(
        "bitxor(int8, int8) int8",
        kernel!(|a: int8, b: int8| -> int8 Ok(Some(a ^ b))),
    );
    r.add("bitnot(int4) int4", kernel!(|a: int4| -> int4 Ok(Some(!a))));
    r.add("bitnot(int8) int8", kernel!(|a: int8| -> int8 Ok(Some(!a))));
    r.add(
        "bitshl(int4, int4) int4",
        kernel!(|a: int4, n: int4| -> int4 Ok(Some(a.wrapping_shl(n as u32)))),
    );
    r.add(
        "bitshl(int8, int4) int8",
        kernel!(|a: int8, n: int4| -> int8 Ok(Some(a.wrapping_shl(n as u32)))),
    );
    r.add(
        "bitshr(int4, int4) int4",
        kernel!(|a: int4, n: int4| -> int4 Ok(Some(a.wrapping_shr(n as u32)))),
    );
    r.add(
        "bitshr(int8, int4) int8",
        kernel!(|a: int8, n: int4| -> int8 Ok(Some(a.wrapping_shr(n as u32)))),
    );
    r.add_fallible(
        "width_bucket(float8, float8, float8, int4) int4",
        kernel!(|x: float8, lo: float8, hi: float8, n: int4| -> int4 bucket(x, lo, hi, n).map(Some)),
    );
}

/// Which of `n` equal parts from `lo` to `hi`, up or down, has `x`.
fn bucket(x: f64, lo: f64, hi: f64, n: i32) -> Result<i32> {
    let refused = |message| Err(SqlError::new("2201G", message));
    if n <= 0 {
        return refused("count must be greater than zero");
    }
    if x.is_nan() || lo.is_nan() || hi.is_nan() {
        return refused("operand, lower bound, and upper bound cannot be NaN");
    }
    if lo.is_infinite() || hi.is_infinite() {
        return refused("lower and upper bounds must be finite");
    }
    if lo == hi {
        return refused("lower bound cannot equal upper bound");
    }
    let (before, after) = if lo < hi {
        (x < lo, x >= hi)
    } else {
        (x > lo, x <= hi)
    };
    if before {
        return Ok(0);
    }
    if after {
        return n
            .checked_add(1)
            .ok_or_else(|| SqlError::new("22003", "integer out of range"));
    }
    Ok(((x - lo) / (hi - lo) * n as f64).floor() as i32 + 1)
}
