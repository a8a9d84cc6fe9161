//! The functions of advisory locks.

use tidemill_planner::SqlError;

use super::context::Context;
use super::value::{Value, invalid};
use crate::session::advisory::{Key, Mode, Request, Until};

fn key(args: &[Value]) -> Result<Key, SqlError> {
    let number = |value: &Value| match value {
        Value::Int(number) => Ok(*number),
        other => {
            let shown = other.show();
            let read = shown.trim().parse();
            read.map_err(|_| invalid("bigint", &shown))
        }
    };
    let half = |value: &Value| {
        number(value).and_then(|n| {
            i32::try_from(n).map_err(|_| SqlError::new("22003", "integer out of range"))
        })
    };
    match args {
        [one] => Ok(Key::One(number(one)?)),
        [a, b] => Ok(Key::Two(half(a)?, half(b)?)),
        _ => Err(SqlError::new(
            "42883",
            "advisory locks are of one bigint, or of two integers",
        )
        .hint("Give the function one number or two.")),
    }
}

/// Refuses what depends on a lock that the same statement has to wait for, which it does at its end.
fn check_pending(context: &Context<'_>, key: Key) -> Result<(), SqlError> {
    match context.effects.borrow().locks.iter().any(|r| r.key == key) {
        false => Ok(()),
        true => Err(SqlError::unsupported(
            "a statement can't use an advisory lock that it waits for itself",
        )
        .hint("Lock in a statement of its own.")),
    }
}

fn take(context: &Context<'_>, request: Request) -> Result<bool, SqlError> {
    let snapshot = context.snapshot;
    snapshot.advisory.try_lock(snapshot.backend_pid, request)
}

/// `pg_advisory_lock` and its kin: takes the lock, or has the statement wait for it.
pub fn lock(
    args: &[Value],
    context: &Context<'_>,
    mode: Mode,
    until: Until,
) -> Result<Value, SqlError> {
    let key = key(args)?;
    let request = Request { key, mode, until };
    if !take(context, request)? {
        context.effects.borrow_mut().locks.push(request);
    }
    Ok(Value::text(""))
}

/// `pg_try_advisory_lock` and its kin.
pub fn try_lock(
    args: &[Value],
    context: &Context<'_>,
    mode: Mode,
    until: Until,
) -> Result<Value, SqlError> {
    let key = key(args)?;
    check_pending(context, key)?;
    take(context, Request { key, mode, until }).map(Value::Bool)
}

/// `pg_advisory_unlock` and its kin.
pub fn unlock(args: &[Value], context: &Context<'_>, mode: Mode) -> Result<Value, SqlError> {
    let key = key(args)?;
    check_pending(context, key)?;
    let snapshot = context.snapshot;
    let had = snapshot.advisory.unlock(snapshot.backend_pid, key, mode);
    if !had {
        let warning = format!("you don't own a lock of type {mode}");
        context.effects.borrow_mut().warnings.push(warning);
    }
    Ok(Value::Bool(had))
}

/// `pg_advisory_unlock_all`.
pub fn unlock_all(context: &Context<'_>) -> Value {
    let snapshot = context.snapshot;
    snapshot.advisory.unlock_all(snapshot.backend_pid);
    Value::text("")
}
