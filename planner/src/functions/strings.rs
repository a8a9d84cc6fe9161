//! Functions on text and bytea.

use std::sync::Arc;

use arrow::array::cast::AsArray;
use arrow::array::{Array, StringViewBuilder};
use datafusion_common::Result as DfResult;
use md5::{Digest, Md5};

use super::regexps::regexp_match;
use super::registry::Registry;
use super::{Args, Kernel, check_length, external, kernel};
use crate::error::{Result, SqlError};

/// Characters from `start` (from 1, may be less) for `n`.
fn substring(s: &str, start: i64, n: Option<i64>) -> Result<Option<String>> {
    let end = match n {
        Some(n) if n < 0 => {
            return Err(SqlError::new(
                "22011",
                "negative substring length not allowed",
            ));
        }
        Some(n) => start.saturating_add(n),
        None => i64::MAX,
    };
    let skip = (start.max(1) - 1) as usize;
    let take = (end.max(1) - start.max(1)).max(0) as usize;
    Ok(Some(s.chars().skip(skip).take(take).collect()))
}

fn pad(s: &str, n: i32, fill: &str, left: bool) -> Result<Option<String>> {
    let n = n.max(0) as usize;
    let length = s.chars().count();
    if length >= n || fill.is_empty() {
        return Ok(Some(s.chars().take(n).collect()));
    }
    let widest = fill.chars().map(char::len_utf8).max().unwrap_or(0);
    check_length((n - length).checked_mul(widest))?;
    let padding: String = fill.chars().cycle().take(n - length).collect();
    Ok(Some(if left {
        padding + s
    } else {
        s.to_string() + &padding
    }))
}

fn replace(s: &str, a: &str, b: &str) -> Result<Option<String>> {
    if a.is_empty() {
        return Ok(Some(s.to_string()));
    }
    if b.len() > a.len() {
        let grown = s.matches(a).count().checked_mul(b.len() - a.len());
        check_length(grown.and_then(|grown| grown.checked_add(s.len())))?;
    }
    Ok(Some(s.replace(a, b)))
}

fn trim(s: &str, set: &str, left: bool, right: bool) -> String {
    let strip = |c: char| set.contains(c);
    let s = if left { s.trim_start_matches(strip) } else { s };
    if right { s.trim_end_matches(strip) } else { s }.to_string()
}

fn split_part(s: &str, by: &str, n: i32) -> Result<Option<String>> {
    if n == 0 {
        return Err(SqlError::new("22023", "field position must not be zero"));
    }
    let all: Vec<&str> = if by.is_empty() {
        vec![s]
    } else {
        s.split(by).collect()
    };
    let i = if n > 0 {
        n as i64 - 1
    } else {
        all.len() as i64 + n as i64
    };
    Ok(Some(
        usize::try_from(i)
            .ok()
            .and_then(|i| all.get(i))
            .unwrap_or(&"")
            .to_string(),
    ))
}

fn initcap(s: &str) -> String {
    let mut word = false;
    s.chars()
        .flat_map(|c| {
            let out: Vec<char> = if word {
                c.to_lowercase().collect()
            } else {
                c.to_uppercase().collect()
            };
            word = c.is_alphanumeric();
            out
        })
        .collect()
}

/// string_to_array: by a separator, or into characters where it is NULL; parts equal to the third argument are NULL.
fn split() -> super::Kernel {
    std::sync::Arc::new(|a: &super::Args| {
        let text = |i: usize, row: usize| {
            let given = a.arrays.get(i).filter(|_| !a.is_null(i, row));
            given.map(|array| array.as_string_view().value(a.at(i, row)))
        };
        let mut out = super::array::TextListBuilder::default();
        for row in 0..a.rows {
            let Some(s) = text(0, row) else {
                out.append_null();
                continue;
            };
            let null = if a.arrays.len() > 2 {
                text(2, row)
            } else {
                None
            };
            let parts: Vec<String> = match text(1, row) {
                _ if s.is_empty() => vec![],
                None => s.chars().map(String::from).collect(),
                Some("") => vec![s.to_string()],
                Some(by) => s.split(by).map(String::from).collect(),
            };
            let parts = parts
                .into_iter()
                .map(|p| Some(p).filter(|p| Some(p.as_str()) != null));
            out.append_value(parts.collect());
        }
        Ok(std::sync::Arc::new(out.finish()))
    })
}

/// `s` with `with` in the place of `count` characters from the one at `from`, counted from 1.
fn overlay(s: &str, with: &str, from: i32, count: i64) -> Result<Option<String>> {
    let Ok(before) = usize::try_from(i64::from(from) - 1) else {
        return Err(SqlError::new(
            "22011",
            "negative substring length not allowed",
        ));
    };
    let after = (before as i64).saturating_add(count).max(0) as usize;
    let head = s.chars().take(before);
    Ok(Some(
        head.chain(with.chars())
            .chain(s.chars().skip(after))
            .collect(),
    ))
}

/// concat, concat_ws: NULLs are left out.
fn concat(separated: bool) -> Kernel {
    Arc::new(move |a: &Args| -> DfResult<arrow::array::ArrayRef> {
        let mut out = StringViewBuilder::with_capacity(a.rows);
        let text = |i: usize, row: usize| a.arrays[i].as_string_view().value(a.at(i, row));
        for row in 0..a.rows {
            if separated && a.is_null(0, row) {
                out.append_null();
                continue;
            }
            let mut s = String::new();
            let mut first = true;
            for i in separated as usize..a.arrays.len() {
                if a.is_null(i, row) {
                    continue;
                }
                if separated && !first {
                    s.push_str(text(0, row));
                }
                first = false;
                s.push_str(text(i, row));
            }
            out.append_value(s);
        }
        Ok(Arc::new(out.finish()))
    })
}

/// format('%s %I %L', …)
fn format_kernel(types: Vec<tidemill_zset::schema::SqlType>, zone: String) -> Kernel {
    Arc::new(move |a: &Args| -> DfResult<arrow::array::ArrayRef> {
        let mut out = StringViewBuilder::with_capacity(a.rows);
        let template = a.arrays[0].as_string_view();
        for row in 0..a.rows {
            if a.is_null(0, row) {
                out.append_null();
                continue;
            }
            let value = |i: usize| -> Result<Option<String>> {
                match a.arrays.get(i) {
                    Some(v) => {
                        let text = super::format::value(v, a.at(i, row), &types[i], &zone)?;
                        // As they are printed, not as a cast to text has them.
                        let letter = matches!(types[i], tidemill_zset::schema::SqlType::Bool);
                        Ok(text.map(|t| if letter { t[..1].to_string() } else { t }))
                    }
                    None => Err(SqlError::new("22023", "too few arguments for format()")),
                }
            };
            out.append_value(format_text(template.value(a.at(0, row)), value).map_err(external)?);
        }
        Ok(Arc::new(out.finish()))
    })
}

/// What stands between `%` and the type.
#[derive(Default)]
struct FormatSpec {
    /// The argument that is meant.
    position: Option<usize>,
    left: bool,
    width: usize,
    /// The argument that is the width: the next one, or that of a number.
    width_of: Option<Option<usize>>,
}

type Chars<'t> = std::iter::Peekable<std::str::Chars<'t>>;

/// `[n$][-][width | * | *n$]`
fn format_spec(chars: &mut Chars) -> FormatSpec {
    let number = |chars: &mut Chars| -> Option<usize> {
        let mut digits = String::new();
        while let Some(d) = chars.next_if(char::is_ascii_digit) {
            digits.push(d);
        }
        // A number that is too large for a position or a width.
        (!digits.is_empty()).then(|| digits.parse().unwrap_or(usize::MAX))
    };
    let mut spec = FormatSpec::default();
    match number(chars) {
        position if chars.next_if_eq(&'$').is_some() => spec.position = position,
        None => {}
        Some(width) => {
            spec.width = width;
            return spec;
        }
    }
    while chars.next_if_eq(&'-').is_some() {
        spec.left = true;
    }
    match chars.next_if_eq(&'*') {
        Some(_) => {
            let place = number(chars);
            chars.next_if_eq(&'$');
            spec.width_of = Some(place);
        }
        None => spec.width = number(chars).unwrap_or(0),
    }
    spec
}

/// The widest text that format() fills with spaces.
const WIDTH_MAX: i32 = 100_000_000;

/// A width that is an argument; without a value there is none.
fn width_given(text: Option<String>) -> Result<i32> {
    let Some(text) = text else { return Ok(0) };
    let width: Option<i32> = text.trim().parse().ok();
    match width {
        Some(width) if (-WIDTH_MAX..=WIDTH_MAX).contains(&width) => Ok(width),
        Some(_) => Err(out_of_range()),
        None => {
            let message = format!("invalid input syntax for type integer: \"{text}\"");
            Err(SqlError::new("22P02", message))
        }
    }
}

fn out_of_range() -> SqlError {
    SqlError::new("22003", "number is out of range")
}

fn format_text(template: &str, value: impl Fn(usize) -> Result<Option<String>>) -> Result<String> {
    let mut out = String::new();
    let mut chars = template.chars().peekable();
    let mut next = 1;
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let spec = format_spec(&mut chars);
        let kind = chars
            .next()
            .ok_or_else(|| SqlError::new("22023", "unterminated format() type specifier"))?;
        if kind == '%' {
            out.push('%');
            continue;
        }
        let (mut left, mut width) = (spec.left, spec.width);
        if let Some(place) = spec.width_of {
            let i = place.unwrap_or(next);
            next = i.saturating_add(1);
            let given = width_given(value(i)?)?;
            (left, width) = (left || given < 0, given.unsigned_abs() as usize);
        }
        if width > WIDTH_MAX as usize {
            return Err(out_of_range());
        }
        let i = spec.position.unwrap_or(next);
        next = i.saturating_add(1);
        let v = value(i)?;
        let text = match kind {
            's' => v.unwrap_or_default(),
            'I' => quote_ident(&v.ok_or_else(|| {
                SqlError::new(
                    "22004",
                    "null values cannot be formatted as an SQL identifier",
                )
            })?),
            'L' => v.map_or("NULL".into(), |v| quote_literal(&v)),
            k => {
                return Err(SqlError::new(
                    "22023",
                    format!("unrecognized format() type specifier \"{k}\""),
                )
                .hint("For a single \"%\" use \"%%\"."));
            }
        };
        let fill = width.saturating_sub(text.chars().count());
        if !left {
            out.extend(std::iter::repeat_n(' ', fill));
        }
        out.push_str(&text);
        if left {
            out.extend(std::iter::repeat_n(' ', fill));
        }
    }
    Ok(out)
}

/// Words that are no names without quotes.
const KEYWORDS: &str = "\
    all analyse analyze and any array as asc asymmetric authorization between bigint binary bit boolean both case \
    cast char character check coalesce collate collation column concurrently constraint create cross current_catalog \
    current_date current_role current_schema current_time current_timestamp current_user dec decimal default \
    deferrable desc distinct do else end except exists extract false fetch float for foreign freeze from full grant \
    greatest group grouping having ilike in initially inner inout int integer intersect interval into is isnull join \
    lateral leading least left like limit localtime localtimestamp national natural nchar none normalize not notnull \
    null nullif numeric offset on only or order out outer overlaps overlay placing position precision primary real \
    references returning right row select session_user setof similar smallint some substring symmetric table \
    tablesample then time timestamp to trailing treat trim true union unique user using values varchar variadic \
    verbose when where window with xmlattributes xmlconcat xmlelement xmlexists xmlforest xmlnamespaces xmlparse \
    xmlpi xmlroot xmlserialize xmltable";

/// An identifier, quoted where it must be.
pub fn quote_ident(s: &str) -> String {
    let plain = s
        .chars()
        .enumerate()
        .all(|(i, c)| c == '_' || c.is_ascii_lowercase() || (i > 0 && c.is_ascii_digit()));
    let keyword = KEYWORDS.split_ascii_whitespace().any(|w| w == s);
    if plain && !s.is_empty() && !keyword {
        s.to_string()
    } else {
        format!("\"{}\"", s.replace('"', "\"\""))
    }
}

fn quote_literal(s: &str) -> String {
    let quoted = s.replace('\'', "''");
    if s.contains('\\') {
        format!("E'{}'", quoted.replace('\\', "\\\\"))
    } else {
        format!("'{quoted}'")
    }
}

fn encode(b: &[u8], format: &str) -> Result<Option<String>> {
    match format.to_ascii_lowercase().as_str() {
        "hex" => Ok(Some(super::format::bytea(b)[2..].to_string())),
        "base64" => Ok(Some(base64(b))),
        "escape" => Ok(Some(
            b.iter()
                .map(|c| match c {
                    b'\\' => "\\\\".to_string(),
                    0 | 128.. => format!("\\{c:03o}"),
                    c => (*c as char).to_string(),
                })
                .collect(),
        )),
        f => Err(SqlError::new(
            "22023",
            format!("unrecognized encoding: \"{f}\""),
        )),
    }
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64(b: &[u8]) -> String {
    let mut out = String::new();
    for chunk in b.chunks(3) {
        let n = chunk.iter().fold(0u32, |n, b| n << 8 | *b as u32) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            out.push(if i <= chunk.len() {
                BASE64[(n >> (18 - 6 * i) & 63) as usize] as char
            } else {
                '='
            });
        }
    }
    // Lines of 76 characters, as RFC 2045 has it.
    let lines: Vec<&str> = out
        .as_bytes()
        .chunks(76)
        .map(|l| std::str::from_utf8(l).unwrap_or_default())
        .collect();
    lines.join("\n")
}

fn decode(s: &str, format: &str) -> Result<Option<Vec<u8>>> {
    match format.to_ascii_lowercase().as_str() {
        "hex" => super::parse::bytea(&format!("\\x{s}")).map(Some),
        "escape" => super::parse::bytea(s).map(Some),
        "base64" => {
            let mut out = Vec::new();
            let (mut bits, mut n) = (0u32, 0);
            let (mut digits, mut pads) = (0, 0);
            for c in s.bytes().filter(|c| !c.is_ascii_whitespace()) {
                if c == b'=' {
                    pads += 1;
                    continue;
                }
                if pads > 0 {
                    break;
                }
                digits += 1;
                let v = BASE64.iter().position(|b| *b == c).ok_or_else(|| {
                    SqlError::new(
                        "22023",
                        format!(
                            "invalid symbol \"{}\" found while decoding base64 sequence",
                            c as char
                        ),
                    )
                })?;
                bits = bits << 6 | v as u32;
                n += 6;
                if n >= 8 {
                    n -= 8;
                    out.push((bits >> n) as u8);
                    bits &= (1 << n) - 1;
                }
            }
            if (digits + pads) % 4 != 0 || pads > 2 {
                return Err(SqlError::new("22023", "invalid base64 end sequence").hint(
                    "Input data is missing padding, is truncated, or is otherwise corrupted.",
                ));
            }
            Ok(Some(out))
        }
        f => Err(SqlError::new(
            "22023",
            format!("unrecognized encoding: \"{f}\""),
        )),
    }
}

/// Registers the functions of this file.
pub fn register(r: &mut Registry) {
    r.add(
        "textcat(text, text) text",
        kernel!(|a: text, b: text| -> text Ok(Some([a, b].concat()))),
    );
    r.add(
        "upper(text) text",
        kernel!(|s: text| -> text Ok(Some(s.to_uppercase()))),
    );
    r.add(
        "lower(text) text",
        kernel!(|s: text| -> text Ok(Some(s.to_lowercase()))),
    );
    r.add(
        "initcap(text) text",
        kernel!(|s: text| -> text Ok(Some(initcap(s)))),
    );
    for name in [
        "length(text) int4",
        "char_length(text) int4",
        "character_length(text) int4",
    ] {
        r.add(
            name,
            kernel!(|s: text| -> int4 Ok(Some(s.chars().count() as i32))),
        );
    }
    r.add(
        "length(bytea) int4",
        kernel!(|s: bytea| -> int4 Ok(Some(s.len() as i32))),
    );
    r.add(
        "octet_length(text) int4",
        kernel!(|s: text| -> int4 Ok(Some(s.len() as i32))),
    );
    r.add(
        "octet_length(bytea) int4",
        kernel!(|s: bytea| -> int4 Ok(Some(s.len() as i32))),
    );
    r.add(
        "bit_length(text) int4",
        kernel!(|s: text| -> int4 Ok(Some(s.len() as i32 * 8))),
    );
    r.add(
        "reverse(text) text",
        kernel!(|s: text| -> text Ok(Some(s.chars().rev().collect::<String>()))),
    );
    for (two, three) in [
        (
            "substring(text, int4) text",
            "substring(text, int4, int4) text",
        ),
        ("substr(text, int4) text", "substr(text, int4, int4) text"),
    ] {
        r.add_fallible(
            two,
            kernel!(|s: text, i: int4| -> text substring(s, i as i64, None)),
        );
        r.add_fallible(
            three,
            kernel!(|s: text, i: int4, n: int4| -> text substring(s, i as i64, Some(n as i64))),
        );
    }
    r.add_fallible(
        "substring(text, text) text",
        kernel!(|s: text, p: text| -> text {
            Ok(regexp_match(s, p, "")?.and_then(|m| m.into_iter().next().flatten()))
        }),
    );
    r.add(
        "left(text, int4) text",
        kernel!(|s: text, n: int4| -> text {
            let all = s.chars().count() as i64;
            let n = if n < 0 {
                (all + n as i64).max(0)
            } else {
                n as i64
            };
            Ok(Some(s.chars().take(n as usize).collect::<String>()))
        }),
    );
    r.add(
        "right(text, int4) text",
        kernel!(|s: text, n: int4| -> text {
            let all = s.chars().count() as i64;
            let skip = if n < 0 {
                -(n as i64)
            } else {
                (all - n as i64).max(0)
            };
            Ok(Some(s.chars().skip(skip as usize).collect::<String>()))
        }),
    );
    r.add_fallible(
        "lpad(text, int4) text",
        kernel!(|s: text, n: int4| -> long_text pad(s, n, " ", true)),
    );
    r.add_fallible(
        "lpad(text, int4, text) text",
        kernel!(|s: text, n: int4, f: text| -> long_text pad(s, n, f, true)),
    );
    r.add_fallible(
        "rpad(text, int4) text",
        kernel!(|s: text, n: int4| -> long_text pad(s, n, " ", false)),
    );
    r.add_fallible(
        "rpad(text, int4, text) text",
        kernel!(|s: text, n: int4, f: text| -> long_text pad(s, n, f, false)),
    );
    r.add(
        "btrim(text) text",
        kernel!(|s: text| -> text Ok(Some(trim(s, " ", true, true)))),
    );
    r.add(
        "btrim(text, text) text",
        kernel!(|s: text, c: text| -> text Ok(Some(trim(s, c, true, true)))),
    );
    r.add(
        "ltrim(text) text",
        kernel!(|s: text| -> text Ok(Some(trim(s, " ", true, false)))),
    );
    r.add(
        "ltrim(text, text) text",
        kernel!(|s: text, c: text| -> text Ok(Some(trim(s, c, true, false)))),
    );
    r.add(
        "rtrim(text) text",
        kernel!(|s: text| -> text Ok(Some(trim(s, " ", false, true)))),
    );
    r.add(
        "rtrim(text, text) text",
        kernel!(|s: text, c: text| -> text Ok(Some(trim(s, c, false, true)))),
    );
    for name in ["strpos(text, text) int4", "position(text, text) int4"] {
        r.add(
            name,
            kernel!(|s: text, t: text| -> int4 {
                Ok(Some(
                    s.find(t).map_or(0, |i| s[..i].chars().count() as i32 + 1),
                ))
            }),
        );
    }
    r.add_fallible(
        "overlay(text, text, int4) text",
        kernel!(|s: text, t: text, i: int4| -> text overlay(s, t, i, t.chars().count() as i64)),
    );
    r.add_fallible(
        "overlay(text, text, int4, int4) text",
        kernel!(|s: text, t: text, i: int4, n: int4| -> text overlay(s, t, i, i64::from(n))),
    );
    r.add_fallible(
        "replace(text, text, text) text",
        kernel!(|s: text, a: text, b: text| -> long_text replace(s, a, b)),
    );
    r.add(
        "translate(text, text, text) text",
        kernel!(|s: text, a: text, b: text| -> text {
            let to: Vec<char> = b.chars().collect();
            Ok(Some(
                s.chars()
                    .filter_map(|c| match a.chars().position(|x| x == c) {
                        Some(i) => to.get(i).copied(),
                        None => Some(c),
                    })
                    .collect::<String>(),
            ))
        }),
    );
    r.add_fallible(
        "split_part(text, text, int4) text",
        kernel!(|s: text, by: text, n: int4| -> text split_part(s, by, n)),
    );
    r.add_fallible(
        "repeat(text, int4) text",
        kernel!(|s: text, n: int4| -> long_text {
            let n = n.max(0) as usize;
            check_length(s.len().checked_mul(n))?;
            Ok(Some(s.repeat(n)))
        }),
    );
    r.add(
        "starts_with(text, text) bool",
        kernel!(|s: text, p: text| -> bool Ok(Some(s.starts_with(p)))),
    );
    r.add(
        "ascii(text) int4",
        kernel!(|s: text| -> int4 Ok(Some(s.chars().next().map_or(0, |c| c as i32)))),
    );
    r.add_fallible(
        "chr(int4) text",
        kernel!(|n: int4| -> text {
            match u32::try_from(n).ok().and_then(char::from_u32) {
                Some('\0') => Err(SqlError::new("54000", "null character not permitted")),
                Some(c) => Ok(Some(c.to_string())),
                None if n < 0 => Err(SqlError::new("22023", "character number must be positive")),
                None => Err(SqlError::new(
                    "54000",
                    format!("requested character too large for encoding: {n}"),
                )),
            }
        }),
    );
    r.add(
        "to_hex(int4) text",
        kernel!(|n: int4| -> text Ok(Some(format!("{n:x}")))),
    );
    r.add(
        "to_hex(int8) text",
        kernel!(|n: int8| -> text Ok(Some(format!("{n:x}")))),
    );
    r.add(
        "quote_ident(text) text",
        kernel!(|s: text| -> text Ok(Some(quote_ident(s)))),
    );
    r.add(
        "quote_literal(text) text",
        kernel!(|s: text| -> text Ok(Some(quote_literal(s)))),
    );
    r.add(
        "quote_nullable(text) text",
        std::sync::Arc::new(|a: &super::Args| {
            let values = a.arrays[0].as_string_view();
            let mut out = arrow::array::StringViewBuilder::with_capacity(a.rows);
            for row in 0..a.rows {
                let at = a.at(0, row);
                if values.is_null(at) {
                    out.append_value("NULL");
                } else {
                    out.append_value(quote_literal(values.value(at)));
                }
            }
            Ok(std::sync::Arc::new(out.finish()))
        }),
    );
    r.add_fallible(
        "encode(bytea, text) text",
        kernel!(|b: bytea, f: text| -> text encode(b, f)),
    );
    r.add_fallible(
        "decode(text, text) bytea",
        kernel!(|s: text, f: text| -> bytea decode(s, f)),
    );
    r.add(
        "bytea_concat(bytea, bytea) bytea",
        kernel!(|a: bytea, b: bytea| -> bytea Ok(Some([a, b].concat()))),
    );
    for name in [
        "string_to_array(text, text) text[]",
        "string_to_array(text, text, text) text[]",
        "string_to_table_list(text, text) text[]",
        "string_to_table_list(text, text, text) text[]",
    ] {
        r.add(name, split());
    }
    r.add("concat(text...) text", concat(false));
    r.add("concat_ws(text, text...) text", concat(true));
    r.add_typed("format(text, any...) text", |t| {
        format_kernel(t.args.to_vec(), t.zone.to_string())
    });
    r.add(
        "md5(text) text",
        Arc::new(|a: &Args| {
            let s = a.arrays[0].as_string_view();
            let mut out = StringViewBuilder::with_capacity(a.rows);
            for row in 0..a.rows {
                let i = a.at(0, row);
                if s.is_null(i) {
                    out.append_null()
                } else {
                    out.append_value(md5(s.value(i).as_bytes()))
                }
            }
            Ok(Arc::new(out.finish()))
        }),
    );
}

/// MD5 (RFC 1321), hexadecimal.
pub(super) fn md5(data: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut hex = String::with_capacity(32);
    for byte in Md5::digest(data) {
        hex.push(DIGITS[usize::from(byte >> 4)] as char);
        hex.push(DIGITS[usize::from(byte & 15)] as char);
    }
    hex
}
