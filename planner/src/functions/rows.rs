//! Row values: `ROW(a, b)`, `(a, b)` and whole rows of a relation.

use std::sync::Arc;

use arrow::array::cast::AsArray;
use arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Int64Array, ListArray, StructArray, UInt32Array,
};
use arrow::buffer::NullBuffer;
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Field, Fields, IntervalMonthDayNanoType};
use arrow::row::{RowConverter, SortField};
use datafusion_common::Result as DfResult;
use datafusion_expr::{Expr, Volatility};
use tidemill_zset::schema::SqlType;

use super::intervals::interval_key;
use super::{Args, Kernel, call, format, json_order};
use crate::bind::Typed;
use crate::error::{Result, SqlError};

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
        let rows = StructArray::try_new_with_length(fields.clone(), all, nulls, a.rows)?;
        Ok(Arc::new(rows))
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

/// Whether values of this type are rows.
pub(crate) fn is_row(ty: &SqlType) -> bool {
    matches!(ty, SqlType::Other(DataType::Struct(_)))
}

/// Whether values of this type are equal that look different, so that they are compared by a key.
pub(crate) fn has_key(ty: &SqlType) -> bool {
    match ty {
        SqlType::Interval | SqlType::Jsonb => true,
        SqlType::Array(of) => has_key(of),
        SqlType::Other(DataType::Struct(fields)) => fields.iter().any(|f| has_key(&SqlType::of(f))),
        _ => false,
    }
}

/// The values of a column with keys in the place of what is compared by a key, within arrays and rows, too.
pub(crate) fn comparable(array: &ArrayRef, ty: &SqlType) -> DfResult<ArrayRef> {
    if !has_key(ty) {
        return Ok(array.clone());
    }
    Ok(match ty {
        SqlType::Interval => {
            let values = array.as_primitive::<IntervalMonthDayNanoType>().iter();
            Arc::new(values.map(|v| v.map(interval_key)).collect::<Int64Array>())
        }
        SqlType::Jsonb => json_order::keys(array)?,
        SqlType::Array(of) => {
            let list = array.as_list::<i32>();
            let values = comparable(list.values(), of)?;
            let item = Arc::new(Field::new("item", values.data_type().clone(), true));
            let (offsets, nulls) = (list.offsets().clone(), list.nulls().cloned());
            Arc::new(ListArray::try_new(item, offsets, values, nulls)?)
        }
        SqlType::Other(DataType::Struct(fields)) => {
            let rows = array.as_struct();
            let columns = fields.iter().zip(rows.columns());
            let columns = columns.map(|(f, c)| comparable(c, &SqlType::of(f)));
            let columns = columns.collect::<DfResult<Vec<_>>>()?;
            let named = fields.iter().zip(&columns);
            let named: Vec<Field> = named
                .map(|(f, c)| Field::new(f.name(), c.data_type().clone(), true))
                .collect();
            let nulls = rows.nulls().cloned();
            Arc::new(StructArray::try_new_with_length(
                named.into(),
                columns,
                nulls,
                rows.len(),
            )?)
        }
        _ => array.clone(),
    })
}

/// A kernel that compares its arguments, of these types.
pub(crate) fn comparing(types: &[SqlType], kernel: Kernel) -> Kernel {
    if !types.iter().any(has_key) {
        return kernel;
    }
    let types = types.to_vec();
    Arc::new(move |a: &Args| {
        let arrays = a.arrays.iter().zip(&types).map(|(a, ty)| comparable(a, ty));
        kernel(&Args {
            arrays: arrays.collect::<DfResult<_>>()?,
            rows: a.rows,
        })
    })
}

/// A kernel that compares its arguments, of these types, also if they are rows, of which a NULL field is like any other and the last.
pub(crate) fn ordering(types: &[SqlType], kernel: Kernel) -> Kernel {
    let of_rows = |ty: &SqlType| match ty {
        SqlType::Array(of) => is_row(of),
        ty => is_row(ty),
    };
    if !types.iter().any(of_rows) {
        return comparing(types, kernel);
    }
    let types = types.to_vec();
    Arc::new(move |a: &Args| {
        let arrays = a.arrays.iter().zip(&types).map(|(array, ty)| match ty {
            SqlType::Array(of) if is_row(of) => {
                let list = array.as_list::<i32>();
                let keys = keys(list.values(), of)?;
                let item = Arc::new(Field::new("item", DataType::Binary, true));
                let (offsets, nulls) = (list.offsets().clone(), list.nulls().cloned());
                Ok(Arc::new(ListArray::try_new(item, offsets, keys, nulls)?) as ArrayRef)
            }
            ty if is_row(ty) => keys(array, ty),
            ty => comparable(array, ty),
        });
        kernel(&Args {
            arrays: arrays.collect::<DfResult<_>>()?,
            rows: a.rows,
        })
    })
}

/// What orders rows: field after field, NULL last. Arrow sorts by no column of rows.
fn keys(rows: &ArrayRef, ty: &SqlType) -> DfResult<ArrayRef> {
    let rows = comparable(rows, ty)?;
    let rows = rows.as_struct();
    let last = SortOptions {
        descending: false,
        nulls_first: false,
    };
    let fields = rows.columns().iter();
    let fields = fields.map(|c| SortField::new_with_options(c.data_type().clone(), last));
    let bytes = RowConverter::new(fields.collect())?.convert_columns(rows.columns())?;
    let keys = (0..rows.len()).map(|i| rows.is_valid(i).then(|| bytes.row(i).owned()));
    let keys: BinaryArray = keys.map(|k| k.map(|k| k.as_ref().to_vec())).collect();
    Ok(Arc::new(keys))
}

/// [`keys`] of the rows of an expression.
pub(crate) fn key(row: Expr, ty: &DataType) -> Expr {
    let of = SqlType::Other(ty.clone());
    let kernel: Kernel = Arc::new(move |a: &Args| keys(&a.arrays[0], &of));
    let of = SqlType::Bytea;
    let key = format!("row_key {ty:?}");
    call(
        "row_key",
        key,
        kernel,
        Volatility::Immutable,
        false,
        vec![row],
        &of,
    )
}

/// What orders arrays: element after element, NULL last.
pub(crate) fn array_key(array: Expr, ty: &SqlType) -> Expr {
    let of = ty.clone();
    let kernel: Kernel = Arc::new(move |a: &Args| {
        let arrays = &comparable(&a.arrays[0], &of)?;
        let last = SortOptions {
            descending: false,
            nulls_first: false,
        };
        let field = SortField::new_with_options(arrays.data_type().clone(), last);
        let bytes =
            RowConverter::new(vec![field])?.convert_columns(std::slice::from_ref(arrays))?;
        let keys = (0..arrays.len()).map(|i| arrays.is_valid(i).then(|| bytes.row(i).owned()));
        let keys: BinaryArray = keys.map(|k| k.map(|k| k.as_ref().to_vec())).collect();
        Ok(Arc::new(keys) as ArrayRef)
    });
    call(
        "array_key",
        format!("array_key {ty}"),
        kernel,
        Volatility::Immutable,
        false,
        vec![array],
        &SqlType::Bytea,
    )
}

/// `row IS NULL`: all of its fields are; `row IS NOT NULL`: none is. Both are false for others.
pub(crate) fn is_null(row: Expr, ty: &SqlType, null: bool) -> Typed {
    let kernel: Kernel = Arc::new(move |a: &Args| {
        let rows = a.arrays[0].as_struct();
        let all_alike = (0..a.rows).map(|i| {
            let i = a.at(0, i);
            match rows.is_null(i) {
                true => null,
                false => rows.columns().iter().all(|c| c.is_null(i) == null),
            }
        });
        Ok(Arc::new(BooleanArray::from(all_alike.collect::<Vec<bool>>())) as ArrayRef)
    });
    let name = if null {
        "row_is_null"
    } else {
        "row_is_not_null"
    };
    let key = format!("{name} {ty:?}");
    let of = SqlType::Bool;
    let e = call(
        name,
        key,
        kernel,
        Volatility::Immutable,
        false,
        vec![row],
        &of,
    );
    Typed::new(e, of)
}

/// `(row).name`
pub(crate) fn field(row: Typed, name: &str) -> Result<Typed> {
    let SqlType::Other(DataType::Struct(fields)) = &row.ty else {
        let message = format!(
            "column notation .{name} applied to type {}, which is not a composite type",
            row.type_name()
        );
        return Err(SqlError::new("42809", message));
    };
    let Some((n, field)) = fields.find(name) else {
        let message = format!("could not identify column \"{name}\" in record data type");
        return Err(SqlError::new("42703", message));
    };
    let ty = SqlType::of(field);
    let kernel: Kernel = Arc::new(move |a: &Args| {
        let rows = a.arrays[0].as_struct();
        let column = rows.column(n);
        match rows.nulls() {
            // Below a row that is NULL there may be anything.
            Some(nulls) => {
                let gone: BooleanArray = nulls.iter().map(|there| Some(!there)).collect();
                Ok(arrow::compute::nullif(column, &gone)?)
            }
            None => Ok(column.clone()),
        }
    });
    let key = format!("field {n} {:?}", row.ty);
    let e = call(
        "field",
        key,
        kernel,
        Volatility::Immutable,
        false,
        vec![row.expr],
        &ty,
    );
    Ok(Typed::new(e, ty))
}
