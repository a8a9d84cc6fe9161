//! The times of AS OF and UP TO, which may be given as parameters.

use arrow::array::AsArray;
use arrow::datatypes::{DataType, Field, Int64Type};
use datafusion_common::ScalarValue;
use tidemill_planner::SqlError;
use tidemill_planner::ast::Expr;
use tidemill_planner::ast::syntax::Value;
use tidemill_zset::Epoch;
use tidemill_zset::schema::SqlType;

use super::ParamValue;
use super::sql::SqlSession;

/// The number of a parameter, from 1.
fn placeholder(expr: &Expr) -> Option<usize> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::Placeholder(name) => name.strip_prefix('$')?.parse().ok(),
            _ => None,
        },
        _ => None,
    }
}

/// The expressions inside of which parameters are looked for.
fn parts(expr: &mut Expr) -> Vec<&mut Expr> {
    match expr {
        Expr::Nested(inner) => vec![inner],
        Expr::Cast { expr, .. } | Expr::UnaryOp { expr, .. } => vec![expr],
        Expr::BinaryOp { left, right, .. } => vec![left, right],
        _ => vec![],
    }
}

/// Adds the types of the parameters that an expression for a time uses beyond `params`.
pub(super) fn add_time_params(expr: Option<&Expr>, params: &mut Vec<Field>) {
    fn last(expr: &mut Expr) -> usize {
        let here = placeholder(expr).unwrap_or(0);
        parts(expr).into_iter().map(last).fold(here, usize::max)
    }
    if let Some(expr) = expr {
        let count = last(&mut expr.clone());
        while params.len() < count.min(usize::from(u16::MAX)) {
            params.push(SqlType::Int8.field("?", true));
        }
    }
}

/// Puts values in the place of parameters.
fn fill(expr: &mut Expr, params: &[ParamValue]) -> Result<(), SqlError> {
    if let Some(number) = placeholder(expr) {
        let value = match params.get(number.wrapping_sub(1)) {
            Some(ParamValue::Value(array)) => match array.data_type() {
                DataType::Int64 => array.as_primitive::<Int64Type>().value(0).to_string(),
                _ => crate::pg::types::text_of(array, 0),
            },
            Some(ParamValue::Null) => return Err(no_time("AS OF and UP TO need", "NULL")),
            None => {
                return Err(SqlError::new(
                    "42P02",
                    format!("there is no parameter ${number}"),
                ));
            }
        };
        *expr = Expr::Value(Value::Number(value, false).into());
    }
    parts(expr)
        .into_iter()
        .try_for_each(|part| fill(part, params))
}

fn no_time(clause: &str, what: &str) -> SqlError {
    SqlError::new("22023", format!("{clause} a time, not {what}"))
        .hint("A time is a number as shown in the column \"time\" of a subscription: milliseconds since 1970.")
}

impl SqlSession {
    /// The value of a time expression such as that of AS OF.
    pub(super) fn time(
        &self,
        clause: &str,
        expr: &Expr,
        params: &[ParamValue],
    ) -> Result<Epoch, SqlError> {
        let to = Field::new("time", DataType::Int64, false);
        let mut expr = expr.clone();
        fill(&mut expr, params)?;
        let planner = &self.handle.env.planner;
        let no_number = |e: SqlError| match e.sqlstate {
            "42804" | "22P02" => no_time(&format!("{clause} needs"), &expr.to_string()),
            _ => e,
        };
        let value = planner.constant(&self.context(), &expr, Some(&to));
        let (value, _) = value.map_err(no_number)?;
        match value {
            ScalarValue::Int64(Some(time)) if time >= 0 => Ok(time),
            ScalarValue::Int64(Some(time)) => {
                Err(no_time(&format!("{clause} needs"), &time.to_string()))
            }
            _ => Err(no_time(&format!("{clause} needs"), "NULL")),
        }
    }
}
