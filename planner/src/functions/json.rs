//! JSON over text. Members and elements are found by scanning, no document is built; what is found is a view
//! into the argument's own buffers wherever it is longer than a view's inline bytes.

use std::sync::Arc;

use arrow::array::cast::AsArray;
use arrow::array::types::*;
use arrow::array::*;
use datafusion_common::Result as DfResult;
use sonic_rs::JsonValueTrait;
use tidemill_zset::schema::SqlType;

use super::json_document::Document;
use super::json_members::{self, Wanted};
use super::json_scan::{element, elements, member, members};
use super::json_text::{canonical, raw, spaced, string_into, unescape, unescape_inner};
use super::json_views::{Place, Slices};
use super::{Args, external};
use crate::bind::types::plain_name;
use crate::error::{Result, SqlError};

fn quoted(raw: &str) -> Option<&str> {
    // By bytes: stripping prefixes calls the library's comparison twice.
    match raw.as_bytes() {
        [b'"', .., b'"'] => raw.get(1..raw.len() - 1),
        _ => None,
    }
}

/// Appends a value found in the text at `place`: as JSON, or (`as_text`) as what `->>` gives. `escaped`: a string may have
/// escapes.
#[inline]
pub(super) fn emit(
    out: &mut Slices,
    place: Place,
    raw: &str,
    escaped: bool,
    as_text: bool,
    jsonb: bool,
) {
    if !as_text {
        return out.push(place, raw);
    }
    match raw.as_bytes().first() {
        Some(b'"') => match quoted(raw) {
            Some(inner) if !escaped || !inner.contains('\\') => out.push(place, inner),
            _ => out.push_own(&unescape(raw)),
        },
        Some(b'{' | b'[') if jsonb => out.push_own(&spaced(raw)),
        Some(b'n') if raw == "null" => out.push_null(),
        _ => out.push(place, raw),
    }
}

/// [`emit`] of what may not have been found.
fn emit_found(out: &mut Slices, place: Place, raw: Option<&str>, as_text: bool, jsonb: bool) {
    match raw {
        Some(raw) => emit(out, place, raw.trim(), true, as_text, jsonb),
        None => out.push_null(),
    }
}

/// `json -> 'key'`, `json ->> 'key'`
pub fn by_key(a: &Args, as_text: bool, jsonb: bool) -> DfResult<ArrayRef> {
    let (json, key) = (a.arrays[0].as_string_view(), a.arrays[1].as_string_view());
    if key.len() == 1 && key.is_valid(0) && json.len() == a.rows {
        let wanted = [Wanted {
            key: key.value(0).to_string(),
            as_text,
        }];
        let found = json_members::columns(json, &wanted, jsonb);
        return Ok(Arc::new(found.into_iter().next().expect("one is wanted")));
    }
    let mut out = Slices::new(json, a.rows);
    for row in 0..a.rows {
        let (j, k) = (a.at(0, row), a.at(1, row));
        if json.is_null(j) || key.is_null(k) {
            out.push_null();
            continue;
        }
        let place = Place::new(json, j);
        let found = member(place.text, key.value(k));
        emit_found(&mut out, place, found, as_text, jsonb);
    }
    Ok(Arc::new(out.finish()))
}

/// `json -> 1`, `json ->> 1`
pub fn by_index(a: &Args, as_text: bool, jsonb: bool) -> DfResult<ArrayRef> {
    let (json, index) = (
        a.arrays[0].as_string_view(),
        a.arrays[1].as_primitive::<Int32Type>(),
    );
    let mut out = Slices::new(json, a.rows);
    for row in 0..a.rows {
        let (j, i) = (a.at(0, row), a.at(1, row));
        if json.is_null(j) || index.is_null(i) {
            out.push_null();
            continue;
        }
        let place = Place::new(json, j);
        let n = index.value(i) as i64;
        let found = match place.text.trim_start().as_bytes().first() {
            // A jsonb scalar is an array of itself.
            Some(b) if jsonb && !matches!(b, b'[' | b'{') => {
                matches!(n, 0 | -1).then_some(place.text)
            }
            _ => element(place.text, n),
        };
        emit_found(&mut out, place, found, as_text, jsonb);
    }
    Ok(Arc::new(out.finish()))
}

/// The member or element that a step of a path names.
fn step_into<'a>(text: &'a str, step: &str) -> Option<&'a str> {
    match step.parse::<i64>() {
        Ok(i) if text.trim_start().starts_with('[') => element(text, i),
        _ => member(text, step),
    }
}

/// `json #> '{a,1}'`, `json #>> '{a,1}'`
pub fn by_path(a: &Args, as_text: bool, jsonb: bool) -> DfResult<ArrayRef> {
    let (json, path) = (a.arrays[0].as_string_view(), a.arrays[1].as_list::<i32>());
    let mut out = Slices::new(json, a.rows);
    for row in 0..a.rows {
        let (j, p) = (a.at(0, row), a.at(1, row));
        if json.is_null(j) || path.is_null(p) {
            out.push_null();
            continue;
        }
        let steps = path.value(p);
        let steps = steps.as_string_view();
        let place = Place::new(json, j);
        let mut at = Some(place.text);
        for step in steps.iter() {
            at = match (at, step) {
                (Some(text), Some(s)) => step_into(text, s),
                _ => None,
            };
        }
        emit_found(&mut out, place, at, as_text, jsonb);
    }
    Ok(Arc::new(out.finish()))
}

/// What a set-returning function over JSON gives per row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Items {
    /// Elements of an array, as JSON.
    Elements,
    /// Elements of an array, as text.
    ElementsText,
    /// Keys of an object.
    Keys,
    /// Values of an object, as JSON.
    Values,
    /// Values of an object, as text.
    ValuesText,
}

/// A list per row. `ret` is its array type.
pub fn items(a: &Args, what: Items, jsonb: bool, ret: &SqlType) -> DfResult<ArrayRef> {
    let json = a.arrays[0].as_string_view();
    let mut out = Slices::new(json, a.rows * 2);
    let (mut lengths, mut valid) = (Vec::with_capacity(a.rows), Vec::with_capacity(a.rows));
    for row in 0..a.rows {
        let j = a.at(0, row);
        valid.push(json.is_valid(j));
        if json.is_null(j) {
            lengths.push(0);
            continue;
        }
        lengths.push(items_of(&mut out, Place::new(json, j), what, jsonb).map_err(external)?);
    }
    super::cast::list_array(Arc::new(out.finish()), lengths, valid, ret)
}

/// The error of taking elements out of `text`, which is no array.
pub(super) fn no_elements(text: &str) -> SqlError {
    let kind = match text.trim_start().starts_with('{') {
        true => "an object",
        false => "a scalar",
    };
    SqlError::new("22023", format!("cannot extract elements from {kind}"))
}

fn items_of(out: &mut Slices, place: Place, what: Items, jsonb: bool) -> Result<usize> {
    let mut n = 0;
    let text = place.text;
    let first = text.trim_start().bytes().next();
    match what {
        Items::Elements | Items::ElementsText => {
            for e in elements(text).ok_or_else(|| no_elements(text))? {
                emit(out, place, e, true, what == Items::ElementsText, jsonb);
                n += 1;
            }
        }
        Items::Keys | Items::Values | Items::ValuesText => {
            if first != Some(b'{') {
                let kind = if first == Some(b'[') {
                    "an array"
                } else {
                    "a scalar"
                };
                let name = match what {
                    Items::Keys if jsonb => "jsonb_object_keys",
                    Items::Keys => "json_object_keys",
                    _ => {
                        return Err(SqlError::new(
                            "22023",
                            "cannot deconstruct a scalar or an array",
                        ));
                    }
                };
                return Err(SqlError::new(
                    "22023",
                    format!("cannot call {name} on {kind}"),
                ));
            }
            for (key, escaped, v) in members(text).into_iter().flatten() {
                if what != Items::Keys {
                    emit(out, place, v, true, what == Items::ValuesText, jsonb);
                } else if escaped {
                    out.push_own(&unescape_inner(key));
                } else {
                    out.push(place, key);
                }
                n += 1;
            }
        }
    }
    Ok(n)
}

/// What `json_to_record` and its kin take: an object, or an array of them.
fn check_records(text: &str, name: &str) -> Result<()> {
    let refused = |message| Err(SqlError::new("22023", message));
    let kind = type_of(text);
    let set = name.ends_with("set");
    match kind {
        "object" if !set => Ok(()),
        "array" if !set => refused("cannot call populate_composite on an array".to_string()),
        _ if !set => refused("cannot call populate_composite on a scalar".to_string()),
        "array" if elements(text).is_some_and(|mut all| all.all(|e| type_of(e) == "object")) => {
            Ok(())
        }
        "array" => refused(format!("argument of {name} must be an array of objects")),
        _ if name.starts_with("jsonb") => refused(format!("cannot call {name} on a non-array")),
        "object" => refused(format!("cannot call {name} on an object")),
        _ => refused(format!("cannot call {name} on a scalar")),
    }
}

/// jsonb_array_length
pub fn array_length(text: &str) -> Result<Option<i32>> {
    match text.trim_start().bytes().next() {
        Some(b'[') => Ok(elements(text).map(|e| e.count() as i32)),
        Some(b'{') => Err(SqlError::new(
            "22023",
            "cannot get array length of a non-array",
        )),
        _ => Err(SqlError::new(
            "22023",
            "cannot get array length of a scalar",
        )),
    }
}

/// jsonb_typeof
pub fn type_of(text: &str) -> &'static str {
    match text.trim_start().bytes().next() {
        Some(b'{') => "object",
        Some(b'[') => "array",
        Some(b'"') => "string",
        Some(b't' | b'f') => "boolean",
        Some(b'n') => "null",
        _ => "number",
    }
}

/// jsonb numbers and booleans as SQL values.
pub fn to_sql(array: &ArrayRef, to: &SqlType) -> DfResult<ArrayRef> {
    let a = array.as_string_view();
    let want = if matches!(to, SqlType::Bool) {
        "boolean"
    } else {
        "number"
    };
    for v in a.iter().flatten() {
        let kind = type_of(v);
        if kind != want {
            return Err(external(SqlError::new(
                "22023",
                format!("cannot cast jsonb {kind} to type {}", plain_name(to)),
            )));
        }
    }
    if matches!(
        to,
        SqlType::Bool | SqlType::Numeric(..) | SqlType::Float8 | SqlType::Float4
    ) {
        return super::cast::cast_array(
            array,
            &SqlType::Text,
            to,
            super::cast::Context::Explicit,
            "UTC",
        );
    }
    let exact = SqlType::Numeric(38, 6);
    let n = super::cast::cast_array(
        array,
        &SqlType::Text,
        &exact,
        super::cast::Context::Explicit,
        "UTC",
    )?;
    super::cast::cast_array(&n, &exact, to, super::cast::Context::Explicit, "UTC")
}

/// A JSON array as the text of an array, whose elements are then read as their type is; a string is that text already. `of_json`: the elements
/// are JSON.
fn array_literal(json: &str, of_json: bool) -> Result<Option<String>> {
    match type_of(json) {
        "null" => return Ok(None),
        "string" => return Ok(Some(super::json_text::unescape(json.trim()))),
        "array" => {}
        _ => return Err(SqlError::new("22P02", "expected JSON array")),
    }
    let mut out = String::from("{");
    for (n, element) in super::json_scan::elements(json)
        .into_iter()
        .flatten()
        .enumerate()
    {
        if n > 0 {
            out.push(',');
        }
        let text = match type_of(element) {
            "null" => {
                out.push_str("NULL");
                continue;
            }
            "string" if !of_json => super::json_text::unescape(element.trim()),
            _ => element.to_string(),
        };
        out.push('"');
        for c in text.chars() {
            if matches!(c, '"' | '\\') {
                out.push('\\');
            }
            out.push(c);
        }
        out.push('"');
    }
    out.push('}');
    Ok(Some(out))
}

/// Any value as JSON.
pub fn value_into(
    array: &ArrayRef,
    row: usize,
    t: &SqlType,
    zone: &str,
    out: &mut String,
) -> Result<()> {
    parted_into(array, row, t, (zone, ","), out)
}

/// The same, with what stands between its elements or fields.
pub fn parted_into(
    array: &ArrayRef,
    row: usize,
    t: &SqlType,
    (zone, comma): (&str, &str),
    out: &mut String,
) -> Result<()> {
    if array.is_null(row) {
        out.push_str("null");
        return Ok(());
    }
    match t {
        SqlType::Json => out.push_str(array.as_string_view().value(row)),
        SqlType::Jsonb => out.push_str(&spaced(array.as_string_view().value(row))),
        SqlType::Array(of) => {
            let list = array.as_list::<i32>().value(row);
            out.push('[');
            for i in 0..list.len() {
                if i > 0 {
                    out.push_str(comma);
                }
                value_into(&list, i, of, zone, out)?;
            }
            out.push(']');
        }
        SqlType::Other(arrow::datatypes::DataType::Struct(fields)) => {
            let columns = array.as_struct().columns();
            out.push('{');
            for (i, (field, column)) in fields.iter().zip(columns).enumerate() {
                if i > 0 {
                    out.push_str(comma);
                }
                string_into(field.name(), out);
                out.push(':');
                value_into(column, row, &SqlType::of(field), zone, out)?;
            }
            out.push('}');
        }
        SqlType::Bool => out.push_str(if array.as_boolean().value(row) {
            "true"
        } else {
            "false"
        }),
        t => {
            let mut text = super::format::value(array, row, t, zone)?.unwrap_or_default();
            if matches!(t, SqlType::Timestamp | SqlType::Timestamptz) {
                text = text.replacen(' ', "T", 1);
                let end = text.strip_suffix(" BC").map_or(text.len(), str::len);
                if matches!(t, SqlType::Timestamptz) && !text[end - 3..end].starts_with(':') {
                    text.insert_str(end, ":00");
                }
            }
            let number = crate::bind::types::is_number(t) && !text.contains(['N', 'I']);
            if number {
                out.push_str(&text)
            } else {
                string_into(&text, out)
            }
        }
    }
    Ok(())
}

/// `a @> b`
fn contains_all(args: &Args) -> DfResult<ArrayRef> {
    let (a, b) = (
        args.arrays[0].as_string_view(),
        args.arrays[1].as_string_view(),
    );
    let mut out = BooleanBuilder::with_capacity(args.rows);
    // Mostly it is the same for all rows.
    let mut last: Option<(usize, Document)> = None;
    for row in 0..args.rows {
        if args.is_null(0, row) || args.is_null(1, row) {
            out.append_null();
            continue;
        }
        let at = args.at(1, row);
        let wanted = match last.take_if(|(known, _)| *known == at) {
            Some((_, wanted)) => wanted,
            None => document(b.value(at)).map_err(external)?,
        };
        let found = contains(a.value(args.at(0, row)), &wanted).map_err(external)?;
        out.append_value(found);
        last = Some((at, wanted));
    }
    Ok(Arc::new(out.finish()))
}

fn contains(a: &str, b: &Document) -> Result<bool> {
    if b.is_object() {
        return has_members(a, b);
    }
    Ok(match document(a)? {
        // At the top only: an array holds a bare scalar.
        Document::Array(items) if !b.is_array() => items.contains(b),
        a => covers(&a, b),
    })
}

/// [`covers`] of a text, of which nothing is read but the members that `b` has.
fn has_members(a: &str, b: &Document) -> Result<bool> {
    let Document::Object(wanted) = b else {
        return Ok(covers(&document(a)?, b));
    };
    if members(a).is_none() {
        return Ok(false);
    }
    for (key, value) in wanted.iter() {
        match member(a, key) {
            Some(found) if has_members(found, value)? => {}
            _ => return Ok(false),
        }
    }
    Ok(true)
}

/// Whether `a` has all that `b` has, level by level.
fn covers(a: &Document, b: &Document) -> bool {
    use Document as V;
    match (a, b) {
        (V::Object(a), V::Object(b)) => b
            .iter()
            .all(|(k, v)| a.get(k).is_some_and(|w| covers(w, v))),
        (V::Array(a), V::Array(b)) => b.iter().all(|v| a.iter().any(|w| covers(w, v))),
        (a, b) => a == b,
    }
}

/// True if a JSON null.
pub fn is_null(text: &str) -> bool {
    sonic_rs::from_str::<sonic_rs::Value>(text).is_ok_and(|v| v.is_null())
}

pub(super) fn document(text: &str) -> Result<Document> {
    Document::parse(text)
}

/// Whether values of a type can be no keys of an object.
pub fn is_composite(ty: &SqlType) -> bool {
    matches!(ty, SqlType::Json | SqlType::Jsonb | SqlType::Array(_)) || super::rows::is_row(ty)
}

/// Registers the functions of this file.
pub fn register(r: &mut super::registry::Registry) {
    use super::kernel;
    macro_rules! access {
        ($kind:literal, $jsonb:literal) => {
            r.add(concat!($kind, "_object_field(", $kind, ", text) ", $kind), Arc::new(|a: &Args| by_key(a, false, $jsonb)));
            r.add(concat!($kind, "_object_field_text(", $kind, ", text) text"), Arc::new(|a: &Args| by_key(a, true, $jsonb)));
            r.add(concat!($kind, "_array_element(", $kind, ", int4) ", $kind), Arc::new(|a: &Args| by_index(a, false, $jsonb)));
            r.add(concat!($kind, "_array_element_text(", $kind, ", int4) text"), Arc::new(|a: &Args| by_index(a, true, $jsonb)));
            r.add(concat!($kind, "_extract_path_op(", $kind, ", text[]) ", $kind), Arc::new(|a: &Args| by_path(a, false, $jsonb)));
            r.add(concat!($kind, "_extract_path_text_op(", $kind, ", text[]) text"), Arc::new(|a: &Args| by_path(a, true, $jsonb)));
            r.add(concat!($kind, "_extract_path(", $kind, ", text...) ", $kind), Arc::new(|a: &Args| by_steps(a, false, $jsonb)));
            r.add(concat!($kind, "_extract_path_text(", $kind, ", text...) text"), Arc::new(|a: &Args| by_steps(a, true, $jsonb)));
            r.add_fallible(concat!($kind, "_array_length(", $kind, ") int4"), kernel!(|j: text| -> int4 array_length(j)));
            r.add(concat!($kind, "_typeof(", $kind, ") text"), kernel!(|j: text| -> text Ok(Some(type_of(j)))));
        };
    }
    access!("json", false);
    access!("jsonb", true);
    macro_rules! records {
        ($name:literal, $kind:literal) => {
            r.add_fallible(
                concat!("#", $name, "(", $kind, ") ", $kind),
                kernel!(|j: text| -> text check_records(j, $name).map(|()| Some(j))),
            );
        };
    }
    records!("json_to_record", "json");
    records!("jsonb_to_record", "jsonb");
    records!("json_to_recordset", "json");
    records!("jsonb_to_recordset", "jsonb");
    records!("json_populate_record", "json");
    records!("jsonb_populate_record", "jsonb");
    records!("json_populate_recordset", "json");
    records!("jsonb_populate_recordset", "jsonb");
    r.add_fallible(
        "#array_literal(json) text",
        kernel!(|j: text| -> text array_literal(j, false)),
    );
    r.add_fallible(
        "#json_array_literal(json) text",
        kernel!(|j: text| -> text array_literal(j, true)),
    );
    r.add_fallible("jsonb_contains(jsonb, jsonb) bool", Arc::new(contains_all));
    r.add(
        "jsonb_exists(jsonb, text) bool",
        kernel!(|j: text, k: text| -> bool {
            Ok(Some(match type_of(j) {
                "object" => member(j, k).is_some(),
                "array" => sonic_rs::to_array_iter(j).flatten().any(|e| {
                    let e = raw(j, &e);
                    quoted(e).is_some_and(|_| unescape(e) == k)
                }),
                "string" => unescape(j) == k,
                _ => false,
            }))
        }),
    );
    r.add_fallible(
        "jsonb_concat(jsonb, jsonb) jsonb",
        kernel!(|a: text, b: text| -> text {
            use Document as V;
            let joined = match (document(a)?, document(b)?) {
                (V::Object(mut a), V::Object(b)) => {
                    a.extend(b);
                    V::Object(a)
                }
                (V::Array(mut a), V::Array(b)) => {
                    a.extend(b);
                    V::Array(a)
                }
                (V::Array(mut a), b) => {
                    a.push(b);
                    V::Array(a)
                }
                (a, V::Array(mut b)) => {
                    b.insert(0, a);
                    V::Array(b)
                }
                (a, b) => V::Array(vec![a, b]),
            };
            canonical(&joined.to_string()).map(Some)
        }),
    );
    r.add_fallible(
        "jsonb_delete(jsonb, text) jsonb",
        kernel!(|j: text, k: text| -> text {
            use Document as V;
            let v = match document(j)? {
                V::Object(mut o) => {
                    o.retain(|have, _| have != k);
                    V::Object(o)
                }
                V::Array(a) => V::Array(a.into_iter().filter(|e| e.as_str() != Some(k)).collect()),
                _ => return Err(SqlError::new("22023", "cannot delete from scalar")),
            };
            canonical(&v.to_string()).map(Some)
        }),
    );
    r.add_fallible(
        "jsonb_delete(jsonb, int4) jsonb",
        kernel!(|j: text, i: int4| -> text {
            use Document as V;
            let V::Array(mut a) = document(j)? else {
                return Err(SqlError::new(
                    "22023",
                    "cannot delete from object using integer index",
                ));
            };
            let at = if i < 0 {
                a.len() as i64 + i as i64
            } else {
                i as i64
            };
            if at >= 0 && (at as usize) < a.len() {
                a.remove(at as usize);
            }
            canonical(&V::Array(a).to_string()).map(Some)
        }),
    );
    r.add_fallible(
        "jsonb_strip_nulls(jsonb) jsonb",
        kernel!(|j: text| -> text canonical(&without_nulls(j)?).map(Some)),
    );
    r.add_fallible(
        "json_strip_nulls(json) json",
        kernel!(|j: text| -> text without_nulls(j).map(Some)),
    );
}

/// JSON without those fields of its objects that are null.
fn without_nulls(text: &str) -> Result<String> {
    fn strip(v: &mut Document) {
        match v {
            Document::Object(o) => {
                o.retain(|_, v| !v.is_null());
                o.values_mut().for_each(strip);
            }
            Document::Array(a) => a.iter_mut().for_each(strip),
            _ => {}
        }
    }
    let mut v = document(text)?;
    strip(&mut v);
    Ok(v.to_string())
}

/// json_extract_path(j, 'a', 'b')
fn by_steps(a: &Args, as_text: bool, jsonb: bool) -> DfResult<ArrayRef> {
    let json = a.arrays[0].as_string_view();
    let mut out = Slices::new(json, a.rows);
    for row in 0..a.rows {
        let j = a.at(0, row);
        if json.is_null(j) {
            out.push_null();
            continue;
        }
        let place = Place::new(json, j);
        let mut at = Some(place.text);
        for i in 1..a.arrays.len() {
            at = match at {
                Some(text) if !a.is_null(i, row) => {
                    let s = a.arrays[i].as_string_view().value(a.at(i, row));
                    step_into(text, s)
                }
                _ => None,
            };
        }
        emit_found(&mut out, place, at, as_text, jsonb);
    }
    Ok(Arc::new(out.finish()))
}
