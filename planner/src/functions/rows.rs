//! Row values: `ROW(a, b)`, `(a, b)` and whole rows of a relation.

use std::sync::Arc;

use arrow::array::cast::AsArray;
use arrow::array::{Array, ArrayRef, StructArray, UInt32Array};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Field, Fields};
use datafusion_expr::{Expr, Volatility};
use tidemill_zset::schema::SqlType;

use super::{Args, Kernel, call, format};
use crate::error::Result;

/// A row of named values. `whole`: a relation's row, which is NULL where an outer join found none, that is where all
/// of its columns are.
pub fn row(columns: Vec<(String, SqlType)>, args: Vec<Expr>, whole: bool) -> (Expr, SqlType) {
    let fields: Vec<Field> = columns
        .iter()
        .map(|(name, ty)| ty.field(name, true))
        .collect();
    let shown: Vec<String> = columns.iter().map(|(n, t)| format!("{n} {t}")).collect();
    let fields = Fields::from(fields);
    let ty = SqlType::Other(DataType::Struct(fields.clone()));
    let kernel: Kernel = Arc::new(move |a: &Args| {
        let all: Vec<ArrayRef> = a
            .arrays
            .iter()
            .map(|array| {
                if array.len() == a.rows {
                    return Ok(array.clone());
                }
                let first = UInt32Array::from(vec![0; a.rows]);
                arrow::compute::take(array, &first, None)
            })
            .collect::<std::result::Result<_, _>>()?;
        let nulls = whole.then(|| {
            let there = (0..a.rows).map(|row| all.iter().any(|array| array.is_valid(row)));
            NullBuffer::from(there.collect::<Vec<bool>>())
        });
        Ok(Arc::new(StructArray::try_new(fields.clone(), all, nulls)?))
    });
    let key = format!("row({}) {whole}", shown.join(","));
    let e = call("row", key, kernel, Volatility::Immutable, false, args, &ty);
    (e, ty)
}

/// `(1,"a b",)`
pub fn text(array: &ArrayRef, row: usize, zone: &str) -> Result<String> {
    let rows = array.as_struct();
    let mut out = String::from("(");
    for (i, (field, column)) in rows.fields().iter().zip(rows.columns()).enumerate() {
        if i > 0 {
            out.push(',');
        }
        let Some(value) = format::value(column, row, &SqlType::of(field), zone)? else {
            continue;
        };
        // Booleans within a row are a letter.
        let value = match SqlType::of(field) {
            SqlType::Bool => value[..1].to_string(),
            _ => value,
        };
        let special =
            |c: char| matches!(c, '(' | ')' | '"' | '\\' | ',') || c.is_ascii_whitespace();
        if value.is_empty() || value.contains(special) {
            let escaped = value.replace('\\', "\\\\").replace('"', "\"\"");
            out.push('"');
            out.push_str(&escaped);
            out.push('"');
        } else {
            out.push_str(&value);
        }
    }
    out.push(')');
    Ok(out)
}
