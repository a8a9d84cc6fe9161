//! JSON over text. Members and elements are found by scanning, no document is built; what is found is a view
//! into the argument's own buffers wherever it is longer than a view's inline bytes.

use std::sync::Arc;

use arrow::array::cast::AsArray;
use arrow::array::types::*;
use arrow::array::*;
use datafusion_common::Result as DfResult;
use sonic_rs::{JsonValueTrait, LazyValue};
use tidemill_zset::schema::SqlType;

use super::json_document::Document;
use super::json_members::{self, Wanted};
use super::json_scan::{element, elements, member, members};
use super::json_views::{Place, Slices};
use super::{Args, external, parse};
use crate::bind::types::plain_name;
use crate::error::{Result, SqlError};

fn quoted(raw: &str) -> Option<&str> {
    // By bytes: stripping prefixes calls the library's comparison twice.
    match raw.as_bytes() {
        [b'"', .., b'"'] => raw.get(1..raw.len() - 1),
        _ => None,
    }
}

/// The text of a JSON string without its quotes.
pub(super) fn unescape_inner(inner: &str) -> String {
    unescape(&format!("\"{inner}\""))
}

/// The text of a JSON string with its quotes.
pub(super) fn unescape(raw: &str) -> String {
    sonic_rs::from_str::<String>(raw).unwrap_or_else(|_| raw.trim_matches('"').to_string())
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

/// The slice of `json` that a value found in it covers.
pub(super) fn raw<'a>(json: &'a str, v: &LazyValue<'a>) -> &'a str {
    let r = v.as_raw_str();
    let offset = (r.as_ptr() as usize).wrapping_sub(json.as_ptr() as usize);
    json.get(offset..offset + r.len()).unwrap_or_default()
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

/// Checks that texts are JSON; jsonb also gets its canonical form: no spaces, each key once (the last),
/// keys by length and then bytes.
pub fn validate(array: &ArrayRef, jsonb: bool) -> DfResult<ArrayRef> {
    let a = array.as_string_view();
    let mut b = StringViewBuilder::with_capacity(a.len());
    for v in a.iter() {
        let Some(v) = v else {
            b.append_null();
            continue;
        };
        if jsonb {
            b.append_value(canonical(v).map_err(external)?);
        } else {
            check(v).map_err(external)?;
        }
    }
    if jsonb {
        Ok(Arc::new(b.finish()))
    } else {
        Ok(array.clone())
    }
}

/// Arrays and objects within each other, at most: functions that go into them take stack for each level.
const DEPTH_MAX: usize = 512;

pub(super) fn check(text: &str) -> Result<()> {
    serde_json::from_str::<serde::de::IgnoredAny>(text).map_err(|e| json_error(&e))?;
    match depth(text) > DEPTH_MAX {
        false => Ok(()),
        true => Err(SqlError::new(
            "54001",
            format!("JSON is nested more than {DEPTH_MAX} levels deep"),
        )),
    }
}

/// How deep `text`, which is JSON, is nested; where that is at most [`DEPTH_MAX`], perhaps a higher number that is, too.
fn depth(text: &str) -> usize {
    let opens = text.bytes().filter(|b| matches!(b, b'[' | b'{')).count();
    if opens <= DEPTH_MAX {
        return opens;
    }
    let (mut depth, mut deepest, mut quoted, mut escaped) = (0usize, 0, false, false);
    for byte in text.bytes() {
        match (quoted, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => quoted = !quoted,
            (false, b'[' | b'{') => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            (false, b']' | b'}') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

fn json_error(e: &serde_json::Error) -> SqlError {
    let text = e.to_string();
    let text = text.split(" at line").next().unwrap_or(&text).to_string();
    SqlError::new("22P02", "invalid input syntax for type json")
        .detail(format!("JSON parser: {text}."))
}

/// Fails on escapes of a text that is JSON which stand for no character that a text may have.
fn check_escapes(text: &str) -> Result<()> {
    let mut rest = text;
    let mut high = false;
    let invalid = |detail: &str| {
        Err(SqlError::new("22P02", "invalid input syntax for type json").detail(detail))
    };
    const LONE: &str = "Unicode low surrogate must follow a high surrogate.";
    while let Some(at) = rest.find('\\') {
        if high && at > 0 {
            return invalid(LONE);
        }
        let escape = &rest[at + 1..];
        let code = escape.strip_prefix('u').and_then(|hex| hex.get(..4));
        let code = code.and_then(|hex| u32::from_str_radix(hex, 16).ok());
        match (code, high) {
            (Some(0), _) => {
                return Err(
                    SqlError::new("22P05", "unsupported Unicode escape sequence")
                        .detail("\\u0000 cannot be converted to text."),
                );
            }
            (Some(0xD800..0xDC00), true) => {
                return invalid("Unicode high surrogate must not follow a high surrogate.");
            }
            (Some(0xD800..0xDC00), false) => high = true,
            (Some(0xDC00..0xE000), true) => high = false,
            (Some(0xDC00..0xE000), false) | (_, true) => return invalid(LONE),
            _ => {}
        }
        let length = if code.is_some() { 5 } else { 1 };
        rest = escape.get(length..).unwrap_or_default();
    }
    match high {
        true => invalid(LONE),
        false => Ok(()),
    }
}

/// jsonb's canonical text.
pub fn canonical(text: &str) -> Result<String> {
    check(text)?;
    check_escapes(text)?;
    let mut out = String::with_capacity(text.len());
    canonical_into(text, &mut out);
    Ok(out)
}

fn canonical_into(text: &str, out: &mut String) {
    let t = text.trim();
    match t.bytes().next() {
        Some(b'{') => {
            let mut members: Vec<(String, &str)> = sonic_rs::to_object_iter(t)
                .flatten()
                .map(|(k, v)| (k.to_string(), raw(t, &v)))
                .collect();
            members.sort_by(|a, b| (a.0.len(), &a.0).cmp(&(b.0.len(), &b.0)));
            let mut kept: Vec<(String, &str)> = Vec::with_capacity(members.len());
            for m in members {
                match kept.last_mut() {
                    Some(last) if last.0 == m.0 => *last = m,
                    _ => kept.push(m),
                }
            }
            out.push('{');
            for (i, (k, v)) in kept.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                string_into(k, out);
                out.push(':');
                canonical_into(v, out);
            }
            out.push('}');
        }
        Some(b'[') => {
            out.push('[');
            for (i, e) in sonic_rs::to_array_iter(t).flatten().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                canonical_into(raw(t, &e), out);
            }
            out.push(']');
        }
        Some(b'"') if t.contains('\\') => string_into(&unescape(t), out),
        Some(b'-' | b'0'..=b'9') if t.contains(['e', 'E']) || t == "-0" => {
            match parse::decimal_parts(t).and_then(|(v, s)| Some((v.to_i128()?, s))) {
                Some((v, s)) => out.push_str(&super::format::numeric(v, s as i8)),
                None => out.push_str(t),
            }
        }
        _ => out.push_str(t),
    }
}

/// A JSON string with the escapes that PostgreSQL writes.
pub fn string_into(s: &str, out: &mut String) {
    out.push('"');
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x20 => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// jsonb as PostgreSQL prints it: a space after each comma and colon.
pub fn spaced(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    let (mut in_string, mut escaped) = (false, false);
    for c in text.chars() {
        if in_string {
            out.push(c);
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match c {
            c if c.is_ascii_whitespace() => {}
            ',' => out.push_str(", "),
            ':' => out.push_str(": "),
            '"' => {
                in_string = true;
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out
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
                if matches!(t, SqlType::Timestamptz) && !text[text.len() - 3..].starts_with(':') {
                    text.push_str(":00");
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
fn contains(a: &Document, b: &Document) -> bool {
    match a {
        // At the top only: an array holds a bare scalar.
        Document::Array(items) if !b.is_object() && !b.is_array() => items.contains(b),
        _ => covers(a, b),
    }
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
    r.add_fallible(
        "jsonb_contains(jsonb, jsonb) bool",
        kernel!(|a: text, b: text| -> bool Ok(Some(contains(&document(a)?, &document(b)?)))),
    );
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
