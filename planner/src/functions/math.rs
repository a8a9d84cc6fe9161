//! Trigonometry, number theory and the inspection of numerics.

use std::sync::Arc;

use arrow::array::cast::AsArray;
use arrow::array::types::Decimal128Type;
use arrow::array::{Array, Int32Builder};
use tidemill_zset::schema::SqlType;

use super::registry::{CallTypes, Registry};
use super::{Args, Kernel, kernel};
use crate::error::{Result, SqlError};

fn input_range() -> SqlError {
    SqlError::new("22003", "input is out of range")
}

/// Checks the argument's range.
/// Beyond it, 1 is nothing beside a square.
const LARGE: f64 = 1e150;

/// Without the double, which may be too large.
fn logarithm_of_twice(x: f64) -> f64 {
    x.ln() + std::f64::consts::LN_2
}

fn within(x: f64, low: f64, high: f64) -> Result<()> {
    if x < low || x > high {
        return Err(input_range());
    }
    Ok(())
}

/// Degrees brought to 0 to 90, with what the sines and cosines there must be multiplied by.
fn quadrant(x: f64) -> Result<(f64, f64, f64)> {
    if x.is_infinite() {
        return Err(input_range());
    }
    let mut x = x % 360.0;
    let (mut sine, mut cosine) = (1.0, 1.0);
    if x < 0.0 {
        x = -x;
        sine = -sine;
    }
    if x > 180.0 {
        x = 360.0 - x;
        sine = -sine;
    }
    if x > 90.0 {
        x = 180.0 - x;
        cosine = -cosine;
    }
    Ok((x, sine, cosine))
}

/// The sine of 0 to 90 degrees, exact where it is 0, a half or 1.
fn sine(x: f64) -> f64 {
    if x <= 30.0 {
        (x.to_radians().sin() / 30f64.to_radians().sin()) / 2.0
    } else {
        cosine_to_60(90.0 - x)
    }
}

fn cosine_to_60(x: f64) -> f64 {
    1.0 - ((1.0 - x.to_radians().cos()) / (1.0 - 60f64.to_radians().cos())) / 2.0
}

fn cosine(x: f64) -> f64 {
    if x <= 60.0 {
        cosine_to_60(x)
    } else {
        sine(90.0 - x)
    }
}

fn tangent(x: f64, inverse: bool) -> Result<f64> {
    let (x, s, c) = quadrant(x)?;
    let (up, down) = if inverse {
        (cosine(x), sine(x))
    } else {
        (sine(x), cosine(x))
    };
    let one = if inverse {
        cosine(45.0) / sine(45.0)
    } else {
        sine(45.0) / cosine(45.0)
    };
    let v = s * c * ((up / down) / one);
    Ok(v + 0.0)
}

/// The arc sine in degrees, exact where it is a multiple of 30.
fn arc_sine(x: f64) -> f64 {
    if x < 0.0 {
        return -arc_sine(-x);
    }
    if x <= 0.5 {
        (x.asin() / 0.5f64.asin()) * 30.0
    } else {
        90.0 - (x.acos() / 0.5f64.acos()) * 60.0
    }
}

fn arc_cosine(x: f64) -> f64 {
    if x < 0.0 {
        return 90.0 + (-x).asin() / 0.5f64.asin() * 30.0;
    }
    if x <= 0.5 {
        90.0 - (x.asin() / 0.5f64.asin()) * 30.0
    } else {
        (x.acos() / 0.5f64.acos()) * 60.0
    }
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

fn lcm(a: i64, b: i64) -> Option<i64> {
    if a == 0 || b == 0 {
        return Some(0);
    }
    let (a, b) = (a.unsigned_abs(), b.unsigned_abs());
    i64::try_from((a / gcd(a, b)).checked_mul(b)?).ok()
}

/// The digits after the point that a numeric needs; `all`: that it has.
fn scale_of(t: &CallTypes, all: bool) -> Kernel {
    let (open, scale) = match t.args.first() {
        Some(SqlType::Numeric(p, s)) => (*p == 0, *s as i32),
        _ => (false, 0),
    };
    Arc::new(move |a: &Args| {
        let values = a.arrays[0].as_primitive::<Decimal128Type>();
        let mut out = Int32Builder::with_capacity(a.rows);
        for row in 0..a.rows {
            let at = a.at(0, row);
            if values.is_null(at) {
                out.append_null();
                continue;
            }
            let (mut v, mut s) = (values.value(at), scale);
            while (open || !all) && s > 0 && v % 10 == 0 {
                v /= 10;
                s -= 1;
            }
            out.append_value(s);
        }
        Ok(Arc::new(out.finish()))
    })
}

/// Registers the functions of this file.
pub fn register(r: &mut Registry) {
    let range = |t: &'static str| SqlError::new("22003", format!("{t} out of range"));
    macro_rules! plain {
        ($($name:literal: $f:expr),* $(,)?) => {
            $( r.add(concat!($name, "(float8) float8"), kernel!(|x: float8| -> float8 Ok(Some($f(x) + 0.0)))); )*
        };
    }
    plain!(
        "sinh": f64::sinh,
        "cosh": f64::cosh,
        "tanh": f64::tanh,
        "asinh": |x: f64| if x.abs() > LARGE { logarithm_of_twice(x.abs()).copysign(x) } else { x.asinh() },
        "atand": |x: f64| (x.atan() / 1f64.atan()) * 45.0,
    );
    macro_rules! checked {
        ($($name:literal: $f:expr),* $(,)?) => {
            $( r.add_fallible(concat!($name, "(float8) float8"), kernel!(|x: float8| -> float8 $f(x).map(|v: f64| Some(v + 0.0)))); )*
        };
    }
    checked!(
        "cot": |x: f64| super::arith::angle(x).map(|x| 1.0 / x.tan()),
        "asin": |x: f64| within(x, -1.0, 1.0).map(|()| x.asin()),
        "acos": |x: f64| within(x, -1.0, 1.0).map(|()| x.acos()),
        "acosh": |x: f64| within(x, 1.0, f64::INFINITY).map(|()| if x > LARGE { logarithm_of_twice(x) } else { x.acosh() }),
        "atanh": |x: f64| within(x, -1.0, 1.0).map(|()| x.atanh()),
        "asind": |x: f64| within(x, -1.0, 1.0).map(|()| arc_sine(x)),
        "acosd": |x: f64| within(x, -1.0, 1.0).map(|()| arc_cosine(x)),
        "sind": |x: f64| quadrant(x).map(|(x, s, _)| s * sine(x)),
        "cosd": |x: f64| quadrant(x).map(|(x, _, c)| c * cosine(x)),
        "tand": |x: f64| tangent(x, false),
        "cotd": |x: f64| tangent(x, true),
    );
    r.add(
        "atan2d(float8, float8) float8",
        kernel!(|y: float8, x: float8| -> float8 Ok(Some((y.atan2(x) / 1f64.atan()) * 45.0))),
    );
    r.add_fallible(
        "gcd(int4, int4) int4",
        kernel!(|a: int4, b: int4| -> int4 {
            let v = gcd(a.unsigned_abs() as u64, b.unsigned_abs() as u64);
            i32::try_from(v).map(Some).map_err(|_| range("integer"))
        }),
    );
    r.add_fallible(
        "gcd(int8, int8) int8",
        kernel!(|a: int8, b: int8| -> int8 {
            i64::try_from(gcd(a.unsigned_abs(), b.unsigned_abs()))
                .map(Some)
                .map_err(|_| range("bigint"))
        }),
    );
    r.add_fallible(
        "lcm(int4, int4) int4",
        kernel!(|a: int4, b: int4| -> int4 {
            lcm(a as i64, b as i64)
                .and_then(|v| i32::try_from(v).ok())
                .map(Some)
                .ok_or_else(|| range("integer"))
        }),
    );
    r.add_fallible(
        "lcm(int8, int8) int8",
        kernel!(|a: int8, b: int8| -> int8 lcm(a, b).map(Some).ok_or_else(|| range("bigint"))),
    );
    r.add_typed("factorial(int8) numeric0", |_| {
        Arc::new(|a: &Args| {
            let n = a.arrays[0].as_primitive::<arrow::array::types::Int64Type>();
            let mut out = arrow::array::Decimal128Builder::with_capacity(a.rows);
            for row in 0..a.rows {
                let at = a.at(0, row);
                if n.is_null(at) {
                    out.append_null();
                    continue;
                }
                let n = n.value(at);
                if n < 0 {
                    let e = SqlError::new("22003", "factorial of a negative number is undefined");
                    return Err(super::external(e));
                }
                let v = (1..=n as i128)
                    .take(35)
                    .try_fold(1i128, |v, k| v.checked_mul(k))
                    .filter(|_| n <= 33)
                    .ok_or_else(|| super::external(super::parse::numeric_overflow(38, 0)))?;
                out.append_value(v);
            }
            Ok(Arc::new(out.finish().with_precision_and_scale(38, 0)?))
        })
    });
    r.add_typed("scale(numeric) int4", |t| scale_of(t, true));
    r.add_typed("min_scale(numeric) int4", |t| scale_of(t, false));
    for name in [
        "width_bucket(float8, float8[]) int4",
        "width_bucket(int4, int4[]) int4",
        "width_bucket(int8, int8[]) int4",
    ] {
        r.add_typed(name, |_| {
            Arc::new(|a: &Args| {
                let list = a.arrays[1].as_list::<i32>();
                let mut out = Int32Builder::with_capacity(a.rows);
                for row in 0..a.rows {
                    let at = a.at(1, row);
                    if a.is_null(0, row) || list.is_null(at) {
                        out.append_null();
                        continue;
                    }
                    let bounds = list.value(at);
                    let value = a.arrays[0].slice(a.at(0, row), 1);
                    let compare =
                        arrow::array::make_comparator(&bounds, &value, Default::default())?;
                    let below = (0..bounds.len()).filter(|i| compare(*i, 0).is_le());
                    out.append_value(below.count() as i32);
                }
                Ok(Arc::new(out.finish()))
            })
        });
    }
    macro_rules! small {
        ($($name:literal: $op:tt),*) => {
            $( r.add(concat!($name, "(int2, int2) int2"), kernel!(|a: int2, b: int2| -> int2 Ok(Some(a $op b)))); )*
        };
    }
    small!("bitand": &, "bitor": |, "bitxor": ^);
    r.add("bitnot(int2) int2", kernel!(|a: int2| -> int2 Ok(Some(!a))));
    // PostgreSQL shifts smallints as integers and cuts the result off.
    r.add(
        "bitshl(int2, int4) int2",
        kernel!(|a: int2, n: int4| -> int2 Ok(Some((a as i32).wrapping_shl(n as u32) as i16))),
    );
    r.add(
        "bitshr(int2, int4) int2",
        kernel!(|a: int2, n: int4| -> int2 Ok(Some((a as i32).wrapping_shr(n as u32) as i16))),
    );
}
