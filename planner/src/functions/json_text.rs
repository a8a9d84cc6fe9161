//! The texts of JSON values: what is one, jsonb's canonical form, and strings with their escapes.

use std::sync::Arc;

use arrow::array::cast::AsArray;
use arrow::array::*;
use datafusion_common::Result as DfResult;
use sonic_rs::LazyValue;

use super::{external, parse};
use crate::error::{Result, SqlError};

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

/// Checks that a text is JSON.
pub fn check(text: &str) -> Result<()> {
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
                Some((v, s)) => out.push_str(&plain_number(v, s)),
                None => out.push_str(t),
            }
        }
        _ => out.push_str(t),
    }
}

/// `v` with `scale` digits behind the point, which may be more than a numeric has.
fn plain_number(v: i128, scale: i32) -> String {
    if let Ok(scale) = i8::try_from(scale) {
        return super::format::numeric(v, scale);
    }
    let sign = if v < 0 { "-" } else { "" };
    let width = scale as usize;
    format!("{sign}0.{:0>width$}", v.unsigned_abs())
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

/// The text of a JSON string without its quotes.
pub(super) fn unescape_inner(inner: &str) -> String {
    unescape(&format!("\"{inner}\""))
}

/// The text of a JSON string with its quotes.
pub(super) fn unescape(raw: &str) -> String {
    sonic_rs::from_str::<String>(raw).unwrap_or_else(|_| raw.trim_matches('"').to_string())
}

/// The slice of `json` that a value found in it covers.
pub(super) fn raw<'a>(json: &'a str, v: &LazyValue<'a>) -> &'a str {
    let r = v.as_raw_str();
    let offset = (r.as_ptr() as usize).wrapping_sub(json.as_ptr() as usize);
    json.get(offset..offset + r.len()).unwrap_or_default()
}
