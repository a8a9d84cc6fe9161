//! Normal forms of text, and text with escapes for its characters.

use unicode_normalization::{UnicodeNormalization, is_nfc, is_nfd, is_nfkc, is_nfkd};

use super::kernel;
use super::registry::Registry;
use crate::error::{Result, SqlError};

fn normalized(text: &str, form: &str) -> Result<Option<String>> {
    Ok(Some(match form.to_ascii_uppercase().as_str() {
        "NFC" => text.nfc().collect(),
        "NFD" => text.nfd().collect(),
        "NFKC" => text.nfkc().collect(),
        "NFKD" => text.nfkd().collect(),
        _ => return Err(no_form(form)),
    }))
}

fn is_normalized(text: &str, form: &str) -> Result<Option<bool>> {
    Ok(Some(match form.to_ascii_uppercase().as_str() {
        "NFC" => is_nfc(text),
        "NFD" => is_nfd(text),
        "NFKC" => is_nfkc(text),
        "NFKD" => is_nfkd(text),
        _ => return Err(no_form(form)),
    }))
}

fn no_form(form: &str) -> SqlError {
    SqlError::new("22023", format!("invalid normalization form: {form}"))
}

fn invalid_pair() -> SqlError {
    SqlError::new("42601", "invalid Unicode surrogate pair")
}

/// `\XXXX`, `\+XXXXXX`, `\uXXXX`, `\UXXXXXXXX` and `\\` as what they stand for.
fn unescaped(text: &str) -> Result<Option<String>> {
    let mut out = String::with_capacity(text.len());
    // The first half of a pair.
    let mut high: Option<u32> = None;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        if c != '\\' || rest.starts_with('\\') {
            if high.is_some() {
                return Err(invalid_pair());
            }
            out.push(c);
            rest = rest
                .strip_prefix('\\')
                .filter(|_| c == '\\')
                .unwrap_or(rest);
            continue;
        }
        let (skip, digits) = match rest.as_bytes().first() {
            Some(b'+') => (1, 6),
            Some(b'u') => (1, 4),
            Some(b'U') => (1, 8),
            _ => (0, 4),
        };
        let escape = rest.get(skip..skip + digits);
        let escape = escape.filter(|e| e.bytes().all(|b| b.is_ascii_hexdigit()));
        let code = escape.and_then(|e| u32::from_str_radix(e, 16).ok());
        let code = code.ok_or_else(|| {
            SqlError::new("42601", "invalid Unicode escape")
                .hint("Unicode escapes must be \\XXXX, \\+XXXXXX, \\uXXXX, or \\UXXXXXXXX.")
        })?;
        rest = &rest[skip + digits..];
        let code = match (high.take(), code) {
            (None, 0xD800..0xDC00) => {
                high = Some(code);
                continue;
            }
            (Some(high), 0xDC00..0xE000) => 0x10000 + ((high - 0xD800) << 10) + (code - 0xDC00),
            (Some(_), _) | (None, 0xDC00..0xE000) => return Err(invalid_pair()),
            (None, code) => code,
        };
        let c = char::from_u32(code).filter(|c| *c != '\0');
        out.push(c.ok_or_else(|| {
            SqlError::new("22023", format!("invalid Unicode code point: {code:04X}"))
        })?);
    }
    match high {
        None => Ok(Some(out)),
        Some(_) => Err(invalid_pair()),
    }
}

/// Registers the functions of this file.
pub fn register(r: &mut Registry) {
    r.add_fallible(
        "normalize(text, text) text",
        kernel!(|text: text, form: text| -> text normalized(text, form)),
    );
    r.add_fallible(
        "#is_normalized(text, text) bool",
        kernel!(|text: text, form: text| -> bool is_normalized(text, form)),
    );
    r.add_fallible(
        "unistr(text) text",
        kernel!(|text: text| -> text unescaped(text)),
    );
}
