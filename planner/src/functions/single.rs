//! The value of a scalar subquery that may have given several rows.

use std::sync::Arc;

use arrow::array::AsArray;
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
