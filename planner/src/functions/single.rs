//! What a query demands of values that it finds while it runs: one row of a scalar subquery, a number of rows of LIMIT.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array};
use arrow::datatypes::{Field, Int64Type};
use datafusion_expr::{Expr, Volatility};
use tidemill_zset::schema::SqlType;

use super::{Args, Kernel, call, external};
use crate::error::SqlError;

/// `value`, or the error that there is more than one row. `of`: the value's type.
pub(crate) fn single(rows: Expr, value: Expr, of: &Field) -> Expr {
    let kernel: Kernel = Arc::new(|args: &Args| {
        let counts = args.arrays[0].as_primitive::<Int64Type>();
        if counts.iter().flatten().any(|n| n > 1) {
            return Err(external(SqlError::new(
                "21000",
                "more than one row returned by a subquery used as an expression",
            )));
        }
        Ok(args.arrays[1].clone())
    });
    let ty = SqlType::of(of);
    call(
        "single",
        format!("single({ty:?})"),
        kernel,
        Volatility::Immutable,
        true,
        vec![rows, value],
        &ty,
    )
}

/// The value in a field that may be NULL and says the type, where DataFusion's own wouldn't.
pub(crate) fn nullable(value: Expr, ty: &SqlType) -> Expr {
    let kernel: Kernel = Arc::new(|args: &Args| Ok(args.arrays[0].clone()));
    call(
        "nullable",
        format!("nullable({ty:?})"),
        kernel,
        Volatility::Immutable,
        false,
        vec![value],
        ty,
    )
}

/// Whether the expression is such a call.
pub(crate) fn is_nullable(e: &Expr) -> bool {
    matches!(e, Expr::ScalarFunction(f)
        if super::key_of(&f.func).is_some_and(|key| key.starts_with("nullable(")))
}

/// Where a number of rows stands.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Clause {
    Limit,
    Offset,
}

/// The number of rows that LIMIT or OFFSET means: without a value all of them, or none. Fails where it is negative.
pub(crate) fn number_of_rows(number: Expr, clause: Clause) -> Expr {
    let (code, name, otherwise) = match clause {
        Clause::Limit => ("2201W", "LIMIT", i64::MAX),
        Clause::Offset => ("2201X", "OFFSET", 0),
    };
    let kernel: Kernel = Arc::new(move |args: &Args| {
        let numbers = args.arrays[0].as_primitive::<Int64Type>();
        if numbers.iter().flatten().any(|n| n < 0) {
            let message = format!("{name} must not be negative");
            return Err(external(SqlError::new(code, message)));
        }
        let rows = numbers.iter().map(|n| Some(n.unwrap_or(otherwise)));
        Ok(Arc::new(rows.collect::<Int64Array>()) as ArrayRef)
    });
    call(
        "number_of_rows",
        format!("number_of_rows({clause:?})"),
        kernel,
        Volatility::Immutable,
        true,
        vec![number],
        &SqlType::Int8,
    )
}
