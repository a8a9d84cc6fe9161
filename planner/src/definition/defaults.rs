//! DEFAULT expressions as PostgreSQL's catalog shows them: tools read the type and the value out of the text.

use sqlparser::ast::{self, Expr, UnaryOperator, Value};
use tidemill_zset::schema::SqlType;

use crate::bind::types::{is_integer, is_number, is_text, plain_name, sql_type};
use crate::functions::cast::{Context, constant};
use crate::functions::format;
use crate::parser::{fold, parse_expr, parts, string_of};
use crate::walk;

use super::texts::sequence_text;

/// The text that PostgreSQL shows of a DEFAULT of a column of type `of`; none for NULL. What isn't a constant or a call without arguments is
/// shown as it was written.
pub fn shown_default(written: &str, of: &SqlType) -> Option<String> {
    let Ok(expr) = parse_expr(written) else {
        return Some(written.to_string());
    };
    match bare(&expr) {
        Expr::Value(v) if matches!(v.value, Value::Null) => None,
        e => Some(shown(e, of).unwrap_or_else(|| e.to_string())),
    }
}

fn bare(e: &Expr) -> &Expr {
    match e {
        Expr::Nested(e) => bare(e),
        e => e,
    }
}

fn shown(e: &Expr, of: &SqlType) -> Option<String> {
    match e {
        Expr::Value(v) => match &v.value {
            Value::Boolean(v) => Some(v.to_string()),
            value => quoted(string_of(value)?, of),
        },
        Expr::TypedString(typed) => {
            let to = sql_type(&typed.data_type).ok()?;
            quoted(string_of(&typed.value.value)?, &to)
        }
        Expr::Cast {
            expr, data_type, ..
        } => {
            let to = sql_type(data_type).ok()?;
            match bare(expr) {
                Expr::Value(v) => match &v.value {
                    Value::Null => Some(format!("NULL::{}", shown_type(&to))),
                    value => quoted(string_of(value)?, &to),
                },
                _ => None,
            }
        }
        Expr::UnaryOp {
            op: UnaryOperator::Minus,
            expr,
        } => match bare(expr) {
            Expr::Value(v) => match &v.value {
                Value::Number(n, _) => {
                    let n = n.to_string();
                    let ty = match (n.parse::<i32>(), n.parse::<i64>()) {
                        (Ok(_), _) => "integer",
                        (_, Ok(_)) => "bigint",
                        _ => "numeric",
                    };
                    Some(format!("'-{n}'::{ty}"))
                }
                _ => None,
            },
            _ => None,
        },
        Expr::BinaryOp { .. } => Some(format!("({e})")),
        Expr::Function(f) => call(f),
        Expr::Identifier(name) if name.quote_style.is_none() => keyword(&fold(name)),
        _ => None,
    }
}

/// The names in an expression's calls of `nextval` and its kin, as they were written.
pub fn sequences_of(written: &str) -> Vec<String> {
    let mut found = vec![];
    if let Ok(expr) = parse_expr(written) {
        walk::any_expr(&expr, |e| {
            if let Expr::Function(f) = e {
                found.extend(sequence_text(f).map(str::to_string));
            }
            false
        });
    }
    found
}

/// A call without arguments, or of `nextval`.
fn call(f: &ast::Function) -> Option<String> {
    let name = parts(&f.name).pop()?;
    match &f.args {
        ast::FunctionArguments::None => keyword(&name),
        ast::FunctionArguments::List(list) if list.args.is_empty() => Some(format!("{name}()")),
        _ if name == "nextval" => {
            // Of the search path that most have.
            let sequence = sequence_text(f)?;
            let sequence = sequence.strip_prefix("public.").unwrap_or(sequence);
            let sequence = sequence.replace('\'', "''");
            Some(format!("nextval('{sequence}'::regclass)"))
        }
        _ => None,
    }
}

fn keyword(name: &str) -> Option<String> {
    let known = [
        "current_timestamp",
        "current_date",
        "current_time",
        "current_user",
        "current_role",
        "current_catalog",
        "current_schema",
        "localtime",
        "localtimestamp",
        "session_user",
        "user",
    ];
    known.contains(&name).then(|| name.to_uppercase())
}

/// A literal of a type.
fn quoted(text: &str, of: &SqlType) -> Option<String> {
    let value = match of {
        t if is_text(t) => text.to_string(),
        SqlType::Json | SqlType::Jsonb | SqlType::Array(_) | SqlType::Numeric(..) => {
            text.trim().to_string()
        }
        of => {
            // A constant is shown as its type writes it.
            let value = constant(text, of, Context::Assignment, "UTC").ok()?;
            format::value(&value.to_array().ok()?, 0, of, "UTC").ok()??
        }
    };
    if matches!(of, SqlType::Bool) {
        return Some(
            if value.starts_with('t') {
                "true"
            } else {
                "false"
            }
            .to_string(),
        );
    }
    if is_integer(of) && !value.starts_with('-')
        || is_number(of) && value.parse::<f64>().is_ok_and(|v| v >= 0.0)
    {
        return Some(value);
    }
    Some(format!(
        "'{}'::{}",
        value.replace('\'', "''"),
        shown_type(of)
    ))
}

/// A type's name without what limits its length.
fn shown_type(of: &SqlType) -> String {
    match of {
        SqlType::Char(_) => "bpchar".to_string(),
        SqlType::Array(item) => format!("{}[]", shown_type(item)),
        of => plain_name(of),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_postgresql_shows_them() {
        let text_array = SqlType::Array(Box::new(SqlType::Text));
        let cases = [
            ("'zz'", SqlType::Text, Some("'zz'::text")),
            (
                "'it''s'",
                SqlType::Varchar(Some(9)),
                Some("'it''s'::character varying"),
            ),
            ("'a'", SqlType::Char(3), Some("'a'::bpchar")),
            ("'{}'", SqlType::Jsonb, Some("'{}'::jsonb")),
            ("'{}'", text_array, Some("'{}'::text[]")),
            ("'3'", SqlType::Int4, Some("3")),
            ("-1", SqlType::Int4, Some("'-1'::integer")),
            ("1.50", SqlType::Numeric(9, 2), Some("1.50")),
            ("'1'", SqlType::Bool, Some("true")),
            ("FALSE", SqlType::Bool, Some("false")),
            (
                "(gen_random_uuid())",
                SqlType::Uuid,
                Some("gen_random_uuid()"),
            ),
            (
                "current_timestamp",
                SqlType::Timestamptz,
                Some("CURRENT_TIMESTAMP"),
            ),
            ("now()", SqlType::Timestamptz, Some("now()")),
            ("'2020-1-1'", SqlType::Date, Some("'2020-01-01'::date")),
            ("'x'::text", SqlType::Text, Some("'x'::text")),
            ("NULL", SqlType::Text, None),
            ("1 + 2", SqlType::Int4, Some("(1 + 2)")),
        ];
        for (written, of, expected) in cases {
            assert_eq!(
                shown_default(written, &of).as_deref(),
                expected,
                "{written}"
            );
        }
    }
}
