//! Functions that make one JSON document of another: paths set, inserted and deleted; keys tested; pretty printing.

use std::sync::Arc;

use arrow::array::cast::AsArray;
use arrow::array::{ArrayRef, StringViewBuilder};
use datafusion_common::Result as DfResult;
use datafusion_expr::{Expr, Volatility};
use tidemill_zset::schema::SqlType;

use super::json::document;
use super::json_document::Document as V;
use super::json_text::{canonical, string_into};
use super::registry::Registry;
use super::{Args, Kernel, call, external, kernel};
use crate::error::{Result, SqlError};

fn texts(list: &ArrayRef) -> Vec<Option<String>> {
    let list = list.as_string_view();
    list.iter().map(|t| t.map(String::from)).collect()
}

/// A path without NULLs.
fn path(list: &ArrayRef) -> Result<Vec<String>> {
    let all = texts(list).into_iter().enumerate();
    all.map(|(i, t)| {
        t.ok_or_else(|| {
            SqlError::new(
                "22004",
                format!("path element at position {} is null", i + 1),
            )
        })
    })
    .collect()
}

/// What is done at the end of a path.
#[derive(Clone, Copy)]
enum Change<'a> {
    /// Replaced, or with `create` added.
    Set { value: &'a V, create: bool },
    /// Added beside an element, or as a new key.
    Insert { value: &'a V, after: bool },
    /// Taken away.
    Delete,
}

/// The place that a path element names in an array: below 0 before its start.
fn index(step: &str, position: usize, length: usize) -> Result<i64> {
    let n: i32 = step.trim().parse().map_err(|_| {
        SqlError::new(
            "22P02",
            format!("path element at position {position} is not an integer: \"{step}\""),
        )
    })?;
    Ok(if n < 0 {
        length as i64 + n as i64
    } else {
        n as i64
    })
}

fn change(target: &mut V, path: &[String], depth: usize, what: Change) -> Result<()> {
    let Some((step, rest)) = path.split_first() else {
        return Ok(());
    };
    match target {
        V::Object(members) if rest.is_empty() => match what {
            Change::Set { value, create } => {
                if create || members.contains_key(step) {
                    members.insert(step.clone(), value.clone());
                }
            }
            Change::Insert { value, .. } => {
                if members.contains_key(step) {
                    return Err(SqlError::new("22023", "cannot replace existing key")
                        .hint("Try using the function jsonb_set to replace key value."));
                }
                members.insert(step.clone(), value.clone());
            }
            Change::Delete => {
                members.retain(|k, _| k != step);
            }
        },
        V::Object(members) => {
            if let Some(inner) = members.get_mut(step) {
                change(inner, rest, depth + 1, what)?;
            }
        }
        V::Array(items) => {
            let length = items.len();
            let at = index(step, depth, length)?;
            let there = usize::try_from(at).ok().filter(|at| *at < length);
            if !rest.is_empty() {
                if let Some(at) = there {
                    change(&mut items[at], rest, depth + 1, what)?;
                }
                return Ok(());
            }
            match (what, there) {
                (Change::Set { value, .. }, Some(at)) => items[at] = value.clone(),
                (Change::Set { create: false, .. }, None) => {}
                (Change::Set { value, .. } | Change::Insert { value, .. }, None) => {
                    let at = if at < 0 { 0 } else { length };
                    items.insert(at, value.clone());
                }
                (Change::Insert { value, after }, Some(at)) => {
                    items.insert(at + usize::from(after), value.clone());
                }
                (Change::Delete, Some(at)) => {
                    items.remove(at);
                }
                (Change::Delete, None) => {}
            }
        }
        _ => {}
    }
    Ok(())
}

fn changed(j: &str, steps: &ArrayRef, what: Change) -> Result<Option<String>> {
    let mut target = document(j)?;
    if !target.is_object() && !target.is_array() {
        let verb = match what {
            Change::Delete => "delete path",
            _ => "set path",
        };
        return Err(SqlError::new("22023", format!("cannot {verb} in scalar")));
    }
    let steps = path(steps)?;
    let adds = !matches!(what, Change::Delete | Change::Set { create: false, .. });
    let empty = match &target {
        V::Array(items) => items.is_empty(),
        V::Object(members) => members.len() == 0,
        _ => false,
    };
    // In nothing there is nothing to be found, whatever the path is.
    if adds || !empty {
        change(&mut target, &steps, 1, what)?;
    }
    canonical(&target.to_string()).map(Some)
}

/// `j` with `value` at `path`: `SET j['a'][0] = …`. Objects and arrays on the way are made if they aren't there; of nothing, an array if
/// `in_array`.
pub(crate) fn member_set(j: Expr, path: Expr, value: Expr, in_array: bool) -> Expr {
    let kernel: Kernel = Arc::new(move |a: &Args| -> DfResult<ArrayRef> {
        let mut out = StringViewBuilder::with_capacity(a.rows);
        for row in 0..a.rows {
            let new = with_member(a, row, in_array).map_err(external)?;
            out.append_value(new);
        }
        Ok(Arc::new(out.finish()))
    });
    call(
        "member_set",
        format!("member_set({in_array})"),
        kernel,
        Volatility::Immutable,
        true,
        vec![j, path, value],
        &SqlType::Jsonb,
    )
}

fn with_member(a: &Args, row: usize, in_array: bool) -> Result<String> {
    let text = |i: usize| match a.is_null(i, row) {
        true => None,
        false => Some(a.arrays[i].as_string_view().value(a.at(i, row))),
    };
    let mut target = match text(0) {
        Some(j) => document(j)?,
        None if in_array => V::Array(vec![]),
        None => V::Object(Default::default()),
    };
    let steps = texts(&a.arrays[1].as_list::<i32>().value(a.at(1, row)));
    let steps = steps.into_iter().collect::<Option<Vec<_>>>();
    let steps = steps
        .ok_or_else(|| SqlError::new("22004", "jsonb subscript in assignment must not be null"))?;
    let value = text(2).map_or(Ok(V::Null), document)?;
    put(&mut target, &steps, 1, value)?;
    canonical(&target.to_string())
}

fn put(target: &mut V, path: &[String], depth: usize, value: V) -> Result<()> {
    let Some((step, rest)) = path.split_first() else {
        *target = value;
        return Ok(());
    };
    match target {
        V::Object(members) => match members.get_mut(step) {
            Some(inner) => put(inner, rest, depth + 1, value)?,
            None => members.insert(step.clone(), made(rest, value)?),
        },
        V::Array(items) => {
            let at = usize::try_from(index(step, depth, items.len())?).map_err(|_| {
                let message = format!("path element at position {depth} is out of range: {step}");
                SqlError::new("22023", message)
            })?;
            match items.get_mut(at) {
                Some(inner) => put(inner, rest, depth + 1, value)?,
                None => {
                    nulls(items, at)?;
                    items.push(made(rest, value)?);
                }
            }
        }
        _ => {
            let message = "cannot replace existing key";
            return Err(SqlError::new("22023", message)
                .detail("The path assumes key is a composite object, but it is a scalar value."));
        }
    }
    Ok(())
}

/// What a path leads through where there is nothing: a number is the place in an array.
fn made(path: &[String], value: V) -> Result<V> {
    path.iter().rev().try_fold(value, |value, step| {
        Ok(match step.parse::<i32>() {
            Ok(at) => {
                let mut items = vec![];
                nulls(&mut items, usize::try_from(at).unwrap_or(0))?;
                items.push(value);
                V::Array(items)
            }
            Err(_) => {
                let mut members = super::json_document::Members::default();
                members.insert(step.clone(), value);
                V::Object(members)
            }
        })
    })
}

/// Elements of an array that a path makes.
const MADE_MAX: usize = 10_000_000;

fn nulls(items: &mut Vec<V>, count: usize) -> Result<()> {
    if count > MADE_MAX {
        let message = format!("array size exceeds the maximum allowed ({MADE_MAX})");
        return Err(SqlError::new("54000", message));
    }
    items.resize(count, V::Null);
    Ok(())
}

/// jsonb_set_lax: what is done if there is no value may be said.
fn set_lax() -> Kernel {
    Arc::new(|a: &Args| -> DfResult<ArrayRef> {
        let mut out = StringViewBuilder::with_capacity(a.rows);
        for row in 0..a.rows {
            let required = [0, 1, 3].into_iter().filter(|i| *i < a.arrays.len());
            match required.into_iter().any(|i| a.is_null(i, row)) {
                true => out.append_null(),
                false => out.append_option(set_lax_of(a, row).map_err(external)?),
            }
        }
        Ok(Arc::new(out.finish()))
    })
}

fn set_lax_of(a: &Args, row: usize) -> Result<Option<String>> {
    let text = |i: usize| match i >= a.arrays.len() || a.is_null(i, row) {
        true => None,
        false => Some(a.arrays[i].as_string_view().value(a.at(i, row))),
    };
    let j = text(0).unwrap_or_default();
    let path = a.arrays[1].as_list::<i32>().value(a.at(1, row));
    let create = a
        .arrays
        .get(3)
        .is_none_or(|c| c.as_boolean().value(a.at(3, row)));
    let treatment = match a.arrays.len() {
        5 => text(4).unwrap_or_default(),
        _ => "use_json_null",
    };
    if !treatment.is_empty()
        && let Some(value) = text(2)
    {
        let value = &document(value)?;
        return changed(j, &path, Change::Set { value, create });
    }
    match treatment {
        "use_json_null" => changed(j, &path, Change::Set { value: &V::Null, create }),
        "delete_key" => changed(j, &path, Change::Delete),
        "return_target" => Ok(Some(j.to_string())),
        "raise_exception" => Err(SqlError::new("22004", "JSON value must not be null")
            .detail(
                "Exception was raised because null_value_treatment is \"raise_exception\".",
            )
            .hint(
                "To avoid, either change the null_value_treatment argument or ensure that an SQL NULL is not passed.",
            )),
        _ => Err(SqlError::new(
            "22023",
            "null_value_treatment must be \"delete_key\", \"return_target\", \"use_json_null\", or \"raise_exception\"",
        )),
    }
}

fn pretty(v: &V, depth: usize, out: &mut String) {
    let indent = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n("    ", depth));
    };
    match v {
        V::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                indent(out, depth + 1);
                pretty(item, depth + 1, out);
            }
            indent(out, depth);
            out.push(']');
        }
        V::Object(members) => {
            out.push('{');
            for (i, (key, value)) in members.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                indent(out, depth + 1);
                string_into(key, out);
                out.push_str(": ");
                pretty(value, depth + 1, out);
            }
            indent(out, depth);
            out.push('}');
        }
        V::String(s) => string_into(s, out),
        v => out.push_str(&v.to_string()),
    }
}

fn has_key(v: &V, key: &str) -> bool {
    match v {
        V::Object(members) => members.contains_key(key),
        V::Array(items) => items.iter().any(|e| e.as_str() == Some(key)),
        V::String(s) => s == key,
        _ => false,
    }
}

/// `{"a" : "1"}` of keys and values by turns, or of two lists.
fn object(keys: Vec<Option<String>>, values: Vec<Option<String>>, json: bool) -> Result<String> {
    if keys.len() != values.len() {
        return Err(SqlError::new("2202E", "mismatched array dimensions"));
    }
    let (between, colon) = if json { (", ", " : ") } else { (",", ":") };
    let mut out = String::from("{");
    for (i, (key, value)) in keys.into_iter().zip(values).enumerate() {
        let key =
            key.ok_or_else(|| SqlError::new("22004", "null value not allowed for object key"))?;
        if i > 0 {
            out.push_str(between);
        }
        string_into(&key, &mut out);
        out.push_str(colon);
        match value {
            Some(v) => string_into(&v, &mut out),
            None => out.push_str("null"),
        }
    }
    out.push('}');
    if json { Ok(out) } else { canonical(&out) }
}

fn by_turns(list: &ArrayRef, json: bool) -> Result<Option<String>> {
    let all = texts(list);
    if !all.len().is_multiple_of(2) {
        return Err(SqlError::new(
            "2202E",
            "array must have even number of elements",
        ));
    }
    let keys = all.iter().step_by(2).cloned().collect();
    let values = all.iter().skip(1).step_by(2).cloned().collect();
    object(keys, values, json).map(Some)
}

/// Registers the functions of this file.
pub fn register(r: &mut Registry) {
    r.add_fallible(
        "jsonb_set(jsonb, text[], jsonb) jsonb",
        kernel!(|j: text, p: list, v: text| -> text {
            let value = &document(v)?;
            changed(
                j,
                &p,
                Change::Set {
                    value,
                    create: true,
                },
            )
        }),
    );
    r.add_fallible(
        "jsonb_set(jsonb, text[], jsonb, bool) jsonb",
        kernel!(|j: text, p: list, v: text, create: bool| -> text {
            let value = &document(v)?;
            changed(j, &p, Change::Set { value, create })
        }),
    );
    for signature in [
        "jsonb_set_lax(jsonb, text[], jsonb) jsonb",
        "jsonb_set_lax(jsonb, text[], jsonb, bool) jsonb",
        "jsonb_set_lax(jsonb, text[], jsonb, bool, text) jsonb",
    ] {
        r.add_fallible(signature, set_lax());
    }
    r.add_fallible(
        "jsonb_insert(jsonb, text[], jsonb) jsonb",
        kernel!(|j: text, p: list, v: text| -> text {
            let value = &document(v)?;
            changed(
                j,
                &p,
                Change::Insert {
                    value,
                    after: false,
                },
            )
        }),
    );
    r.add_fallible(
        "jsonb_insert(jsonb, text[], jsonb, bool) jsonb",
        kernel!(|j: text, p: list, v: text, after: bool| -> text {
            let value = &document(v)?;
            changed(j, &p, Change::Insert { value, after })
        }),
    );
    r.add_fallible(
        "jsonb_delete_path(jsonb, text[]) jsonb",
        kernel!(|j: text, p: list| -> text changed(j, &p, Change::Delete)),
    );
    r.add_fallible(
        "jsonb_delete(jsonb, text[]) jsonb",
        kernel!(|j: text, keys: list| -> text {
            let keys: Vec<String> = texts(&keys).into_iter().flatten().collect();
            let left = match document(j)? {
                V::Object(mut members) => {
                    members.retain(|k, _| !keys.iter().any(|key| key == k));
                    V::Object(members)
                }
                V::Array(mut items) => {
                    items.retain(|e| !e.as_str().is_some_and(|e| keys.iter().any(|k| k == e)));
                    V::Array(items)
                }
                _ => return Err(SqlError::new("22023", "cannot delete from scalar")),
            };
            canonical(&left.to_string()).map(Some)
        }),
    );
    r.add_fallible(
        "jsonb_exists_any(jsonb, text[]) bool",
        kernel!(|j: text, keys: list| -> bool {
            let v = document(j)?;
            Ok(Some(texts(&keys).iter().flatten().any(|k| has_key(&v, k))))
        }),
    );
    r.add_fallible(
        "jsonb_exists_all(jsonb, text[]) bool",
        kernel!(|j: text, keys: list| -> bool {
            let v = document(j)?;
            Ok(Some(texts(&keys).iter().flatten().all(|k| has_key(&v, k))))
        }),
    );
    r.add_fallible(
        "jsonb_pretty(jsonb) text",
        kernel!(|j: text| -> text {
            let mut out = String::new();
            pretty(&document(j)?, 0, &mut out);
            Ok(Some(out))
        }),
    );
    r.add_fallible(
        "json_object(text[]) json",
        kernel!(|l: list| -> text by_turns(&l, true)),
    );
    r.add_fallible(
        "jsonb_object(text[]) jsonb",
        kernel!(|l: list| -> text by_turns(&l, false)),
    );
    r.add_fallible(
        "json_object(text[], text[]) json",
        kernel!(|k: list, v: list| -> text object(texts(&k), texts(&v), true).map(Some)),
    );
    r.add_fallible(
        "jsonb_object(text[], text[]) jsonb",
        kernel!(|k: list, v: list| -> text object(texts(&k), texts(&v), false).map(Some)),
    );
}
