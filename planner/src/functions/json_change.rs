//! Functions that make one JSON document of another: paths set, inserted and deleted; keys tested; pretty printing.

use arrow::array::ArrayRef;
use arrow::array::cast::AsArray;

use super::json::document;
use super::json_document::Document as V;
use super::json_text::{canonical, string_into};
use super::kernel;
use super::registry::Registry;
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
