//! Values of expressions.
//!
//! Invariant: SQL's three-valued logic: a comparison with NULL is NULL, and only true keeps a row.

use std::cmp::Ordering;

use tidemill_planner::SqlError;

use super::context::{Context, read_array};
use super::plan::{Expr, Op, Plan};
use super::run;
use super::value::{Ty, Value, invalid};

/// A row, and the rows of the queries around it.
#[derive(Clone, Copy)]
pub struct Frame<'a> {
    /// This query's row.
    pub row: &'a [Value],
    /// The query around.
    pub outer: Option<&'a Frame<'a>>,
}

/// The value of an expression.
pub fn eval(expr: &Expr, frame: &Frame<'_>, context: &Context<'_>) -> Result<Value, SqlError> {
    let value = |expr: &Expr| eval(expr, frame, context);
    Ok(match expr {
        Expr::Const(value) => value.clone(),
        Expr::Column { depth, index } => column(frame, *depth, *index),
        Expr::Param(number) => context.params.get(*number).cloned().unwrap_or(Value::Null),
        Expr::Not(inner) => truth(value(inner)?.bool().map(|v| !v)),
        Expr::And(a, b) => match value(a)?.bool() {
            Some(false) => Value::Bool(false),
            left => match (left, value(b)?.bool()) {
                (_, Some(false)) => Value::Bool(false),
                (Some(true), Some(true)) => Value::Bool(true),
                _ => Value::Null,
            },
        },
        Expr::Or(a, b) => match value(a)?.bool() {
            Some(true) => Value::Bool(true),
            left => match (left, value(b)?.bool()) {
                (_, Some(true)) => Value::Bool(true),
                (Some(false), Some(false)) => Value::Bool(false),
                _ => Value::Null,
            },
        },
        Expr::Binary {
            op, left, right, ..
        } => binary(*op, &value(left)?, &value(right)?, context)?,
        Expr::IsNull(inner) => Value::Bool(value(inner)?.is_null()),
        Expr::Is(inner, wanted) => Value::Bool(value(inner)?.bool() == Some(*wanted)),
        Expr::Distinct(a, b) => {
            let (a, b) = (value(a)?, value(b)?);
            Value::Bool(match (a.is_null(), b.is_null()) {
                (false, false) => a.compare(&b) != Some(Ordering::Equal),
                (a, b) => a != b,
            })
        }
        Expr::Case {
            branches,
            otherwise,
        } => {
            for (condition, result) in branches {
                if value(condition)?.bool() == Some(true) {
                    return value(result);
                }
            }
            match otherwise {
                Some(result) => value(result)?,
                None => Value::Null,
            }
        }
        Expr::Cast(inner, ty) => cast(value(inner)?, *ty, context)?,
        Expr::In(inner, list) => {
            let left = value(inner)?;
            any(list.iter().map(value), Op::Eq, false, &left, context)?
        }
        Expr::AnyAll {
            left,
            op,
            all,
            right,
        } => {
            let left = value(left)?;
            match value(right)? {
                Value::Array(items) => {
                    any(items.iter().cloned().map(Ok), *op, *all, &left, context)?
                }
                _ => Value::Null,
            }
        }
        Expr::AnyAllQuery {
            left,
            op,
            all,
            query,
        } => {
            let left = value(left)?;
            any(
                firsts(query, frame, context)?.into_iter().map(Ok),
                *op,
                *all,
                &left,
                context,
            )?
        }
        Expr::Exists(query) => Value::Bool(!run::rows(query, Some(frame), context)?.is_empty()),
        Expr::Scalar(query) => {
            let mut values = firsts(query, frame, context)?;
            if values.len() > 1 {
                return Err(SqlError::new(
                    "21000",
                    "more than one row returned by a subquery used as an expression",
                ));
            }
            values.pop().unwrap_or(Value::Null)
        }
        Expr::ArrayQuery(query) => Value::Array(firsts(query, frame, context)?.into()),
        Expr::Array(items) => Value::Array(items.iter().map(value).collect::<Result<_, _>>()?),
        Expr::Subscript { array, index, base } => {
            let at = value(index)?.int().map(|index| index - base);
            match (value(array)?, at.and_then(|at| usize::try_from(at).ok())) {
                (Value::Array(items), Some(at)) => items.get(at).cloned().unwrap_or(Value::Null),
                _ => Value::Null,
            }
        }
        Expr::Call { function, args } => {
            let args: Vec<Value> = args.iter().map(value).collect::<Result<_, _>>()?;
            match function.strict && args.iter().any(Value::is_null) {
                true => Value::Null,
                false => (function.run)(&args, context)?,
            }
        }
    })
}

/// True if a condition holds.
pub fn holds(expr: &Expr, frame: &Frame<'_>, context: &Context<'_>) -> Result<bool, SqlError> {
    Ok(eval(expr, frame, context)?.bool() == Some(true))
}

fn column(frame: &Frame<'_>, depth: usize, index: usize) -> Value {
    let mut frame = frame;
    for _ in 0..depth {
        match frame.outer {
            Some(outer) => frame = outer,
            None => return Value::Null,
        }
    }
    frame.row.get(index).cloned().unwrap_or(Value::Null)
}

fn truth(value: Option<bool>) -> Value {
    value.map_or(Value::Null, Value::Bool)
}

/// The first column of a query's rows.
fn firsts(query: &Plan, frame: &Frame<'_>, context: &Context<'_>) -> Result<Vec<Value>, SqlError> {
    let rows = run::rows(query, Some(frame), context)?;
    Ok(rows
        .into_iter()
        .filter_map(|row| row.into_iter().next())
        .collect())
}

/// `left op ANY (values)`, or ALL.
fn any(
    values: impl Iterator<Item = Result<Value, SqlError>>,
    op: Op,
    all: bool,
    left: &Value,
    context: &Context<'_>,
) -> Result<Value, SqlError> {
    let mut unknown = false;
    for value in values {
        match binary(op, left, &value?, context)?.bool() {
            Some(found) if found != all => return Ok(Value::Bool(!all)),
            Some(_) => {}
            None => unknown = true,
        }
    }
    Ok(if unknown {
        Value::Null
    } else {
        Value::Bool(all)
    })
}

fn binary(op: Op, left: &Value, right: &Value, context: &Context<'_>) -> Result<Value, SqlError> {
    if op == Op::Concat {
        return Ok(concat(left, right));
    }
    if left.is_null() || right.is_null() {
        return Ok(Value::Null);
    }
    let order = |wanted: fn(Ordering) -> bool| truth(left.compare(right).map(wanted));
    Ok(match op {
        Op::Eq => order(Ordering::is_eq),
        Op::Ne => order(Ordering::is_ne),
        Op::Lt => order(Ordering::is_lt),
        Op::Le => order(Ordering::is_le),
        Op::Gt => order(Ordering::is_gt),
        Op::Ge => order(Ordering::is_ge),
        Op::Match {
            pattern,
            insensitive,
            negated,
        } => {
            let found = context.matches(&left.show(), &right.show(), pattern, insensitive)?;
            Value::Bool(found != negated)
        }
        _ => arithmetic(op, left, right)?,
    })
}

fn arithmetic(op: Op, left: &Value, right: &Value) -> Result<Value, SqlError> {
    let overflow = || SqlError::new("22003", "bigint out of range");
    if let (Value::Float(_), _) | (_, Value::Float(_)) = (left, right) {
        let float = |v: &Value| match v {
            Value::Float(v) => *v,
            other => other.int().unwrap_or(0) as f64,
        };
        let (a, b) = (float(left), float(right));
        if b == 0.0 && matches!(op, Op::Div | Op::Mod) {
            return Err(SqlError::new("22012", "division by zero"));
        }
        return Ok(Value::Float(match op {
            Op::Add => a + b,
            Op::Sub => a - b,
            Op::Mul => a * b,
            Op::Mod => a % b,
            _ => a / b,
        }));
    }
    let read = |value: &Value| value.int().ok_or_else(|| invalid("integer", &value.show()));
    let (a, b) = (read(left)?, read(right)?);
    if b == 0 && matches!(op, Op::Div | Op::Mod) {
        return Err(SqlError::new("22012", "division by zero"));
    }
    let result = match op {
        Op::Add => a.checked_add(b),
        Op::Sub => a.checked_sub(b),
        Op::Mul => a.checked_mul(b),
        Op::Div => a.checked_div(b),
        Op::BitAnd => Some(a & b),
        _ => a.checked_rem(b),
    };
    result.map(Value::Int).ok_or_else(overflow)
}

/// `||` of texts or arrays.
fn concat(left: &Value, right: &Value) -> Value {
    match (left, right) {
        (Value::Array(a), Value::Array(b)) => {
            Value::Array(a.iter().chain(b.iter()).cloned().collect())
        }
        (Value::Array(a), Value::Null) | (Value::Null, Value::Array(a)) => Value::Array(a.clone()),
        (Value::Array(a), item) => Value::Array(a.iter().chain([item]).cloned().collect()),
        (item, Value::Array(a)) => {
            Value::Array([item].into_iter().chain(a.iter()).cloned().collect())
        }
        (Value::Null, _) | (_, Value::Null) => Value::Null,
        (a, b) => Value::text(format!("{}{}", a.show(), b.show())),
    }
}

fn cast(value: Value, ty: Ty, context: &Context<'_>) -> Result<Value, SqlError> {
    if value.is_null() {
        return Ok(Value::Null);
    }
    let wrong = |name: &str| invalid(name, &value.show());
    Ok(match ty {
        Ty::Bool => Value::Bool(match &value {
            Value::Int(v) => *v != 0,
            other => other.bool().ok_or_else(|| wrong("boolean"))?,
        }),
        Ty::Int2 | Ty::Int4 | Ty::Int8 => {
            let (name, max) = match ty {
                Ty::Int2 => ("smallint", i64::from(i16::MAX)),
                Ty::Int4 => ("integer", i64::from(i32::MAX)),
                _ => ("bigint", i64::MAX),
            };
            let whole = match &value {
                Value::Float(v) => Some(v.round() as i64),
                other => other.int(),
            };
            let whole = whole.ok_or_else(|| wrong("integer"))?;
            if whole > max || whole < -max - 1 {
                return Err(SqlError::new("22003", format!("{name} out of range")));
            }
            Value::Int(whole)
        }
        Ty::Oid => Value::Int(value.int().ok_or_else(|| wrong("oid"))?),
        Ty::Float8 => match &value {
            Value::Float(_) => value,
            Value::Text(text) => {
                Value::Float(text.trim().parse().map_err(|_| wrong("double precision"))?)
            }
            other => Value::Float(other.int().ok_or_else(|| wrong("double precision"))? as f64),
        },
        Ty::Text | Ty::Json | Ty::Jsonb | Ty::Name => match value {
            Value::Bool(v) => Value::text(if v { "true" } else { "false" }),
            Value::Text(_) => value,
            other => Value::text(other.show()),
        },
        Ty::Char => Value::text(value.show().chars().take(1).collect::<String>()),
        Ty::Timestamptz => value,
        Ty::Reg(kind) => match &value {
            Value::Text(text) => context.read_reg(kind, text)?,
            other => context.reg(kind, other.int().ok_or_else(|| wrong("oid"))?),
        },
        Ty::Array(element) => match value {
            Value::Text(text) => cast(read_array(&text)?, ty, context)?,
            Value::Array(items) => {
                let items = items
                    .iter()
                    .map(|item| cast(item.clone(), *element, context));
                Value::Array(items.collect::<Result<_, _>>()?)
            }
            other => return Err(invalid("array", &other.show())),
        },
        Ty::Int2Vector | Ty::OidVector => match value {
            Value::Text(text) => Value::Array(text.split_whitespace().map(Value::text).collect()),
            other => other,
        },
    })
}
