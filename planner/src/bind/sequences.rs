//! `nextval`, `currval`, `lastval`, `setval` and `pg_get_serial_sequence`: calls that reach the sequences of the session
//! when they are executed. A sequence is looked up by the text of its name then, as `nextval('s'::text)` is in PostgreSQL; one that
//! a view names by a constant depends on no reader's search path.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, StringViewArray};
use arrow::datatypes::Int64Type;
use datafusion_common::ScalarValue;
use datafusion_expr::Volatility;
use sqlparser::ast::{self, FunctionArg, FunctionArgExpr, FunctionArguments};
use tidemill_zset::schema::SqlType;

use super::expr::Ctx;
use super::expr::strip;
use super::types::is_integer;
use super::{Binder, Typed, literal};
use crate::catalog::Sequences;
use crate::definition::texts::{is_regclass, sequence_text};
use crate::error::Result;
use crate::functions::cast::Context;
use crate::functions::strings::quote_ident;
use crate::functions::{Args, Kernel, call, external};
use crate::names::name_of_text;

impl Binder<'_> {
    /// A call of one of these functions; `None`: it is of another, or with other arguments.
    pub(super) fn sequence_call(
        &self,
        c: Ctx,
        name: &str,
        f: &ast::Function,
    ) -> Result<Option<Typed>> {
        let args = match &f.args {
            FunctionArguments::List(list) => list.args.as_slice(),
            _ => &[],
        };
        let (text, long, yes) = (SqlType::Text, SqlType::Int8, SqlType::Bool);
        let (types, ret) = match (name, args.len()) {
            ("nextval" | "currval", 1) => (vec![text], long),
            ("lastval", 0) => (vec![], long),
            ("setval", 2) => (vec![text, long.clone()], long),
            ("setval", 3) => (vec![text, long.clone(), yes], long),
            ("pg_get_serial_sequence", 2) => (vec![text.clone(), text.clone()], text),
            _ => return Ok(None),
        };
        let mut exprs = Vec::with_capacity(args.len());
        for (arg, to) in args.iter().zip(&types) {
            let arg = match arg {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(e)) => self.expr(c, plain_name(e))?,
                _ => return Ok(None),
            };
            exprs.push(match to {
                SqlType::Text if !arg.unknown && is_integer(&arg.ty) => {
                    self.cast(arg, to, Context::Explicit)?
                }
                _ => self.implicit(&arg, to)?,
            });
        }
        if let Some(sequence) = sequence_text(f).and_then(name_of_text)
            && let Some(found) = self.find_relation(sequence.schema.as_deref(), &sequence.name)
            && self.is_in_view()
        {
            let (schema, name) = (quote_ident(&found.schema), quote_ident(&found.name));
            exprs[0] = literal(ScalarValue::Utf8View(Some(format!("{schema}.{name}"))));
        }
        self.volatile(name);
        let kernel = kernel(name, self.session.sequences.clone());
        let key = format!("{name}/{}", args.len());
        let call = call(name, key, kernel, Volatility::Volatile, true, exprs, &ret);
        Ok(Some(Typed::new(call, ret)))
    }
}

/// `'s'` of `'s'::regclass`.
fn plain_name(e: &ast::Expr) -> &ast::Expr {
    match e {
        ast::Expr::Cast {
            expr, data_type, ..
        } if is_regclass(data_type) => strip(expr),
        e => e,
    }
}

fn kernel(name: &str, sequences: Arc<dyn Sequences>) -> Kernel {
    match name {
        "nextval" => Arc::new(move |a| next(a, &*sequences)),
        "currval" => per_row(move |a, row| sequences.current(text(a, 0, row))),
        "lastval" => per_row(move |_, _| sequences.last()),
        "setval" => per_row(move |a, row| {
            let value = a.arrays[1].as_primitive::<Int64Type>().value(a.at(1, row));
            let called = a
                .arrays
                .get(2)
                .is_none_or(|called| called.as_boolean().value(a.at(2, row)));
            sequences.set(text(a, 0, row), value, called)?;
            Ok(value)
        }),
        _ => Arc::new(move |a| {
            let rows = (0..a.rows).map(|row| match is_null(a, row) {
                true => Ok(None),
                false => sequences.of_column(text(a, 0, row), text(a, 1, row)),
            });
            let names: StringViewArray = rows.collect::<Result<_>>().map_err(external)?;
            Ok(Arc::new(names))
        }),
    }
}

fn text(args: &Args, i: usize, row: usize) -> &str {
    args.arrays[i].as_string_view().value(args.at(i, row))
}

fn is_null(args: &Args, row: usize) -> bool {
    (0..args.arrays.len()).any(|i| args.is_null(i, row))
}

/// A number per row; NULL where an argument is.
fn per_row(f: impl Fn(&Args, usize) -> Result<i64> + Send + Sync + 'static) -> Kernel {
    Arc::new(move |a| {
        let rows = (0..a.rows).map(|row| match is_null(a, row) {
            true => Ok(None),
            false => f(a, row).map(Some),
        });
        let numbers: Int64Array = rows.collect::<Result<_>>().map_err(external)?;
        Ok(Arc::new(numbers))
    })
}

/// All rows that name the sequence of the row before get their numbers at once.
fn next(a: &Args, sequences: &dyn Sequences) -> datafusion_common::Result<ArrayRef> {
    let name = |row: usize| (!is_null(a, row)).then(|| text(a, 0, row));
    let mut out: Vec<Option<i64>> = Vec::with_capacity(a.rows);
    while out.len() < a.rows {
        let first = name(out.len());
        let same = match a.arrays[0].len() {
            1 => a.rows,
            _ => (out.len()..a.rows)
                .take_while(|row| name(*row) == first)
                .count(),
        };
        match first {
            None => out.resize(out.len() + same, None),
            Some(first) => {
                let numbers = sequences.next(first, same).map_err(external)?;
                out.extend(numbers.into_iter().map(Some));
            }
        }
    }
    Ok(Arc::new(Int64Array::from(out)))
}
