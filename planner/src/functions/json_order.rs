//! The order of jsonb: keys whose bytes compare as PostgreSQL compares the values.
//!
//! null < strings < numbers < booleans < arrays < objects; arrays and objects by their number of elements first; an empty
//! array on its own before everything. Numbers compare by value, so `1` and `1.0` are equal.

use std::sync::Arc;

use arrow::array::cast::AsArray;
use arrow::array::{Array, ArrayRef, BinaryBuilder};
use datafusion_common::Result as DfResult;

use super::json_document::Document as V;
use super::registry::Registry;
use super::{Args, Kernel, json};

fn text_key(text: &str, out: &mut Vec<u8>) {
    // A zero byte ends the text; there is none in it.
    out.extend_from_slice(text.as_bytes());
    out.push(0);
}

/// Sign, exponent and digits, so that bytes compare as the numbers do.
pub(super) fn number_key(text: &str, out: &mut Vec<u8>) {
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (mantissa, exponent) = match unsigned.find(['e', 'E']) {
        Some(at) => (
            &unsigned[..at],
            unsigned[at + 1..].parse::<i32>().unwrap_or(0),
        ),
        None => (unsigned, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
    let zeros = all.iter().take_while(|d| **d == b'0').count();
    let digits = &all[zeros..];
    let used = digits
        .iter()
        .rposition(|d| *d != b'0')
        .map_or(0, |last| last + 1);
    if used == 0 {
        out.push(1);
        return;
    }
    // 0.d1d2… times ten to this.
    let power = exponent
        .saturating_add(whole.len() as i32)
        .saturating_sub(zeros as i32);
    let from = out.len();
    out.push(if negative { 0 } else { 2 });
    out.extend_from_slice(&((power as u32) ^ 0x8000_0000).to_be_bytes());
    out.extend_from_slice(&digits[..used]);
    out.push(0);
    if negative {
        out[from + 1..].iter_mut().for_each(|b| *b = !*b);
    }
}

fn key_into(value: &V, out: &mut Vec<u8>) {
    match value {
        V::Null => out.push(1),
        V::String(s) => {
            out.push(2);
            text_key(s, out);
        }
        V::Number(n) => {
            out.push(3);
            number_key(n, out);
        }
        V::Bool(b) => out.push(4 + u8::from(*b)),
        V::Array(items) => {
            out.push(6);
            out.extend_from_slice(&(items.len() as u32).to_be_bytes());
            items.iter().for_each(|v| key_into(v, out));
        }
        V::Object(members) => {
            out.push(7);
            out.extend_from_slice(&(members.len() as u32).to_be_bytes());
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by(|a, b| (a.0.len(), &a.0).cmp(&(b.0.len(), &b.0)));
            for (name, v) in members {
                text_key(name, out);
                key_into(v, out);
            }
        }
    }
}

fn key() -> Kernel {
    Arc::new(|a: &Args| -> DfResult<ArrayRef> {
        let values = a.arrays[0].as_string_view();
        let mut out = BinaryBuilder::with_capacity(a.rows, 0);
        let mut bytes = Vec::new();
        for row in 0..a.rows {
            let at = a.at(0, row);
            if values.is_null(at) {
                out.append_null();
                continue;
            }
            bytes.clear();
            let text = values.value(at).trim();
            match text.as_bytes().first() {
                // Numbers as they are written: a document's would lose digits.
                Some(b'-' | b'0'..=b'9') => {
                    bytes.push(3);
                    number_key(text, &mut bytes);
                }
                _ => {
                    let value = json::document(text).map_err(super::external)?;
                    match &value {
                        V::Array(items) if items.is_empty() => bytes.push(0),
                        value => key_into(value, &mut bytes),
                    }
                }
            }
            out.append_value(&bytes);
        }
        Ok(Arc::new(out.finish()))
    })
}

/// What orders a column of jsonb.
pub(super) fn keys(values: &ArrayRef) -> DfResult<ArrayRef> {
    key()(&Args {
        arrays: vec![values.clone()],
        rows: values.len(),
    })
}

/// Registers the functions of this file.
pub fn register(r: &mut Registry) {
    r.add("jsonb_key(jsonb) bytea", key());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_compare_by_value() {
        let key = |t: &str| {
            let mut out = Vec::new();
            number_key(t, &mut out);
            out
        };
        let ascending = [
            "-1e30", "-12.5", "-12", "-1.5", "-0.001", "0", "0.0009", "0.001", "1", "1.01", "9",
            "10", "10.5", "1e2", "123", "1e30",
        ];
        for pair in ascending.windows(2) {
            assert!(key(pair[0]) < key(pair[1]), "{pair:?}");
        }
        assert_eq!(key("1"), key("1.00"));
        assert_eq!(key("100"), key("1e2"));
        assert_eq!(key("-0.0"), key("0"));
    }
}
