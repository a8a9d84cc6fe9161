//! Arrays with other elements at some places: what `SET a[i] = …` makes of a column.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::array::cast::AsArray;
use arrow::array::types::Int32Type;
use datafusion_common::{Result as DfResult, ScalarValue};
use datafusion_expr::{Expr, Volatility};
use tidemill_zset::schema::SqlType;

use super::array::{list_of, lists, scalar};
use super::{Args, Kernel, call, external};
use crate::error::{Result, SqlError};

/// Elements of an array that grows by an assignment.
const ELEMENTS_MAX: i32 = 10_000_000;

/// `array`, of the type `ty`, with `value` at the place `at`.
pub(crate) fn element_set(array: Expr, at: Expr, value: Expr, ty: &SqlType) -> Expr {
    changed("element_set", vec![array, at, value], ty, |a, row, none| {
        let at = place(a, 1, row)?;
        let mut items = list_of(a, 0, row)?.unwrap_or_default();
        put(&mut items, at, vec![scalar(a, 2, row)?], none)?;
        Ok(Some(items))
    })
}

/// `array` with elements of the array `value` at the places between two bounds; without one, as far as it goes.
pub(crate) fn slice_set(
    array: Expr,
    (lower, upper): (Option<Expr>, Option<Expr>),
    value: Expr,
    ty: &SqlType,
) -> Expr {
    let of_lower = lower.is_some().then_some(2);
    let of_upper = upper.is_some().then_some(2 + usize::from(lower.is_some()));
    let args = [array, value].into_iter().chain(lower).chain(upper);
    let name = match (of_lower, of_upper) {
        (Some(_), Some(_)) => "slice_set",
        (Some(_), None) => "slice_set_from",
        (None, Some(_)) => "slice_set_to",
        (None, None) => "slice_set_all",
    };
    changed(name, args.collect(), ty, move |a, row, none| {
        let lower = of_lower.map(|i| place(a, i, row)).transpose()?;
        let upper = of_upper.map(|i| place(a, i, row)).transpose()?;
        let old = list_of(a, 0, row)?;
        let Some(mut given) = list_of(a, 1, row)? else {
            return Ok(old);
        };
        let mut items = old.unwrap_or_default();
        if items.is_empty() && (lower.is_none() || upper.is_none()) {
            let e = SqlError::new(
                "2202E",
                "array slice subscript must provide both boundaries",
            );
            return Err(external(e.detail(
                "When assigning to a slice of an empty array value, slice boundaries must be fully specified.",
            )));
        }
        let lower = lower.unwrap_or(1);
        let upper = upper.unwrap_or(items.len() as i32);
        if lower > upper && !items.is_empty() {
            let message = "upper bound cannot be less than lower bound";
            return Err(external(SqlError::new("2202E", message)));
        }
        let count = usize::try_from(i64::from(upper) - i64::from(lower) + 1).unwrap_or(0);
        if given.len() < count {
            return Err(external(SqlError::new("2202E", "source array too small")));
        }
        given.truncate(count);
        put(&mut items, lower, given, none)?;
        Ok(Some(items))
    })
}

/// The number of an element that a row's argument `i` is.
fn place(a: &Args, i: usize, row: usize) -> DfResult<i32> {
    match a.is_null(i, row) {
        false => Ok(a.arrays[i].as_primitive::<Int32Type>().value(a.at(i, row))),
        true => Err(external(SqlError::new(
            "22004",
            "array subscript in assignment must not be null",
        ))),
    }
}

/// Puts elements in their places from `at` on; what isn't there before them is NULL.
fn put(
    items: &mut Vec<ScalarValue>,
    at: i32,
    given: Vec<ScalarValue>,
    none: &ScalarValue,
) -> DfResult<()> {
    let start = start(at, given.len()).map_err(external)?;
    let end = start + given.len();
    if items.len() < end {
        items.resize(end, none.clone());
    }
    items.splice(start..end, given);
    Ok(())
}

/// The index of the first of `count` elements.
fn start(at: i32, count: usize) -> Result<usize> {
    if at < 1 {
        let message = format!("cannot assign to array element {at}: arrays begin at 1 here");
        return Err(SqlError::unsupported(message));
    }
    if i64::from(at) + count as i64 > i64::from(ELEMENTS_MAX) {
        let message = format!("array size exceeds the maximum allowed ({ELEMENTS_MAX})");
        return Err(SqlError::new("54000", message));
    }
    Ok(at as usize - 1)
}

/// A call of what gives a row's new elements; it is given NULL as an element.
fn changed(
    name: &str,
    args: Vec<Expr>,
    ty: &SqlType,
    change: impl Fn(&Args, usize, &ScalarValue) -> DfResult<Option<Vec<ScalarValue>>>
    + Send
    + Sync
    + 'static,
) -> Expr {
    let ret = ty.clone();
    let kernel: Kernel = Arc::new(move |a: &Args| -> DfResult<ArrayRef> {
        let SqlType::Array(of) = &ret else {
            return Err(external(SqlError::internal("not an array type")));
        };
        let none = ScalarValue::try_from(&of.arrow())?;
        let rows = (0..a.rows).map(|row| change(a, row, &none));
        lists(rows.collect::<DfResult<_>>()?, &ret)
    });
    let key = format!("{name}({ty})");
    call(name, key, kernel, Volatility::Immutable, true, args, ty)
}
