//! string_agg whose separators differ from row to row: an array of values with their separators, and the text of it.

use std::sync::Arc;

use arrow::array::cast::AsArray;
use arrow::array::{Array, BinaryBuilder, ListArray, StringViewBuilder};

use super::registry::Registry;
use super::{Args, Kernel, external};

/// A value of string_agg with the separator that goes before it, and between the two a character that no text has.
fn separated() -> Kernel {
    Arc::new(|a: &Args| {
        let mut out = StringViewBuilder::with_capacity(a.rows);
        for row in 0..a.rows {
            if a.is_null(0, row) {
                out.append_null();
                continue;
            }
            let text = |i: usize| a.arrays[i].as_string_view().value(a.at(i, row));
            let separator = if a.is_null(1, row) { "" } else { text(1) };
            out.append_value(format!("{}\0{separator}", text(0)));
        }
        Ok(Arc::new(out.finish()))
    })
}

/// The texts of what [`separated`] gave, joined.
fn joined(lists: &ListArray, row: usize) -> Option<String> {
    if lists.is_null(row) {
        return None;
    }
    let items = lists.value(row);
    let mut text: Option<String> = None;
    for item in items.as_string_view().iter().flatten() {
        let (value, separator) = item.split_once('\0').unwrap_or((item, ""));
        match &mut text {
            Some(text) => {
                text.push_str(separator);
                text.push_str(value);
            }
            none => *none = Some(value.to_string()),
        }
    }
    text
}

/// string_agg of what [`separated`] gave.
fn join_separated() -> Kernel {
    Arc::new(|a: &Args| {
        let lists = a.arrays[0].as_list::<i32>();
        let mut out = StringViewBuilder::with_capacity(a.rows);
        for row in 0..a.rows {
            out.append_option(joined(lists, a.at(0, row)));
        }
        Ok(Arc::new(out.finish()))
    })
}

/// The same of bytes, whose hexadecimal digits [`separated`] got.
fn join_separated_bytes() -> Kernel {
    Arc::new(|a: &Args| {
        let lists = a.arrays[0].as_list::<i32>();
        let mut out = BinaryBuilder::with_capacity(a.rows, 0);
        for row in 0..a.rows {
            let digits = joined(lists, a.at(0, row));
            let bytes = digits.map(|d| super::parse::bytea(&format!("\\x{d}")));
            out.append_option(bytes.transpose().map_err(external)?);
        }
        Ok(Arc::new(out.finish()))
    })
}

/// Registers the functions of this file.
pub fn register(r: &mut Registry) {
    r.add("separated(text, text) text", separated());
    r.add("join_separated(text[]) text", join_separated());
    r.add("join_separated_bytes(text[]) bytea", join_separated_bytes());
}
