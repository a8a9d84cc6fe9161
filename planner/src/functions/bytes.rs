//! Bytes: access to single ones, hashes, encodings.

use std::sync::Arc;

use arrow::array::Int32Builder;
use sha2::Digest;

use super::registry::Registry;
use super::{Args, Kernel, kernel};
use crate::error::{Result, SqlError};

fn out_of_range(index: i64, length: usize) -> SqlError {
    SqlError::new(
        "2202E",
        format!("index {index} out of valid range, 0..{}", length as i64 - 1),
    )
}

/// A number that stays the same for a text: what `hashtextextended` gives.
pub fn hashed(text: &str, seed: i64) -> i64 {
    let hash = sha2::Sha256::new()
        .chain_update(seed.to_be_bytes())
        .chain_update(text)
        .finalize();
    let mut first = [0; 8];
    first.copy_from_slice(&hash[..8]);
    i64::from_be_bytes(first)
}

fn byte_at(bytes: &[u8], index: i64) -> Result<usize> {
    usize::try_from(index)
        .ok()
        .filter(|i| *i < bytes.len())
        .ok_or_else(|| out_of_range(index, bytes.len()))
}

/// The byte and the bit in it.
fn bit_at(bytes: &[u8], index: i64) -> Result<(usize, u32)> {
    let bits = bytes.len() * 8;
    match usize::try_from(index) {
        Ok(i) if i < bits => Ok((i / 8, (i % 8) as u32)),
        _ => Err(out_of_range(index, bits)),
    }
}

/// Characters `from` to `from + count` of `bytes`, counted from 1.
fn slice(bytes: &[u8], from: i64, count: Option<i64>) -> Result<Option<Vec<u8>>> {
    if count.is_some_and(|n| n < 0) {
        return Err(SqlError::new(
            "22011",
            "negative substring length not allowed",
        ));
    }
    let length = bytes.len() as i64;
    let end = count
        .map_or(length + 1, |n| from.saturating_add(n))
        .min(length + 1);
    let from = from.max(1);
    Ok(Some(if from >= end {
        vec![]
    } else {
        bytes[from as usize - 1..end as usize - 1].to_vec()
    }))
}

/// `bytes` with `with` in the place of `count` of them from `from`, counted from 1.
fn overlay(bytes: &[u8], with: &[u8], from: i32, count: i64) -> Result<Option<Vec<u8>>> {
    let Ok(before) = usize::try_from(i64::from(from) - 1) else {
        return Err(SqlError::new(
            "22011",
            "negative substring length not allowed",
        ));
    };
    let after = (before as i64).saturating_add(count).max(0) as usize;
    let head = &bytes[..before.min(bytes.len())];
    let tail = &bytes[after.min(bytes.len())..];
    Ok(Some([head, with, tail].concat()))
}

fn trimmed(bytes: &[u8], which: &[u8], left: bool, right: bool) -> Vec<u8> {
    let keep = |b: &u8| !which.contains(b);
    let from = if left {
        bytes.iter().position(keep).unwrap_or(bytes.len())
    } else {
        0
    };
    let to = if right {
        bytes.iter().rposition(keep).map_or(0, |i| i + 1)
    } else {
        bytes.len()
    };
    bytes[from..to.max(from)].to_vec()
}

enum Encoding {
    Utf8,
    Latin1,
    /// Whatever the bytes are.
    Ascii,
}

/// The encoding that a `conversion`, to a destination or from a source, names.
fn encoding(name: &str, conversion: &str) -> Result<Encoding> {
    let plain = |c: &char| c.is_ascii_alphanumeric();
    let known: String = name.to_ascii_lowercase().chars().filter(plain).collect();
    const OTHERS: [&str; 6] = ["win", "koi8", "iso8859", "latin", "euc", "big5"];
    match known.as_str() {
        "utf8" | "unicode" => Ok(Encoding::Utf8),
        "latin1" | "iso88591" => Ok(Encoding::Latin1),
        "sqlascii" => Ok(Encoding::Ascii),
        other if OTHERS.iter().any(|o| other.starts_with(o)) => Err(SqlError::unsupported(
            format!("encoding \"{name}\" is not supported"),
        )
        .hint("Text is UTF8; LATIN1 and SQL_ASCII are converted.")),
        _ => Err(SqlError::new(
            "22023",
            format!("invalid {conversion} encoding name \"{name}\""),
        )),
    }
}

fn encoded(text: &str, name: &str) -> Result<Vec<u8>> {
    match encoding(name, "destination")? {
        Encoding::Utf8 | Encoding::Ascii => Ok(text.as_bytes().to_vec()),
        Encoding::Latin1 => {
            let byte = |c: char| {
                u8::try_from(u32::from(c)).map_err(|_| {
                    let bytes = c.to_string().bytes().map(|b| format!("0x{b:02x}")).collect::<Vec<_>>();
                    SqlError::new(
                        "22P05",
                        format!(
                            "character with byte sequence {} in encoding \"UTF8\" has no equivalent in encoding \"LATIN1\"",
                            bytes.join(" ")
                        ),
                    )
                })
            };
            text.chars().map(byte).collect()
        }
    }
}

fn decoded(bytes: &[u8], name: &str) -> Result<String> {
    let encoding = encoding(name, "source")?;
    let valid = match (&encoding, std::str::from_utf8(bytes)) {
        (Encoding::Utf8 | Encoding::Ascii, Err(e)) => e.valid_up_to(),
        _ => bytes.len(),
    };
    // NUL is in no text.
    let nul = bytes[..valid].iter().position(|b| *b == 0);
    if let Some(wrong) = nul.or((valid < bytes.len()).then_some(valid)) {
        let name = name.to_ascii_uppercase().replace('-', "");
        let byte = hex(&bytes[wrong..wrong + 1]);
        let message = format!("invalid byte sequence for encoding \"{name}\": 0x{byte}");
        return Err(SqlError::new("22021", message));
    }
    Ok(match encoding {
        Encoding::Latin1 => bytes.iter().map(|b| char::from(*b)).collect(),
        Encoding::Utf8 | Encoding::Ascii => String::from_utf8_lossy(bytes).into_owned(),
    })
}

fn hex(bytes: &[u8]) -> String {
    super::format::bytea(bytes)[2..].to_string()
}

/// Counts the arguments that are NULL, or those that aren't.
fn nulls(count_nulls: bool) -> Kernel {
    Arc::new(move |a: &Args| {
        let mut out = Int32Builder::with_capacity(a.rows);
        for row in 0..a.rows {
            let n = (0..a.arrays.len()).filter(|i| a.is_null(*i, row) == count_nulls);
            out.append_value(n.count() as i32);
        }
        Ok(Arc::new(out.finish()))
    })
}

/// Registers the functions of this file.
pub fn register(r: &mut Registry) {
    macro_rules! hashes {
        ($($name:literal: $t:ty),*) => {
            $( r.add(concat!($name, "(bytea) bytea"), kernel!(|b: bytea| -> bytea Ok(Some(<$t>::digest(b).to_vec())))); )*
        };
    }
    hashes!("sha224": sha2::Sha224, "sha256": sha2::Sha256, "sha384": sha2::Sha384, "sha512": sha2::Sha512);
    // For advisory locks by name, not PostgreSQL's numbers.
    r.add(
        "hashtext(text) int4",
        kernel!(|s: text| -> int4 Ok(Some(hashed(s, 0) as i32))),
    );
    r.add(
        "hashtextextended(text, int8) int8",
        kernel!(|s: text, seed: int8| -> int8 Ok(Some(hashed(s, seed)))),
    );
    r.add(
        "md5(bytea) text",
        kernel!(|b: bytea| -> text Ok(Some(super::strings::md5(b)))),
    );
    r.add_fallible(
        "get_byte(bytea, int4) int4",
        kernel!(|b: bytea, n: int4| -> int4 byte_at(b, n as i64).map(|i| Some(b[i] as i32))),
    );
    r.add_fallible(
        "set_byte(bytea, int4, int4) bytea",
        kernel!(|b: bytea, n: int4, v: int4| -> bytea {
            let at = byte_at(b, n as i64)?;
            let mut out = b.to_vec();
            out[at] = v as u8;
            Ok(Some(out))
        }),
    );
    r.add_fallible(
        "get_bit(bytea, int8) int4",
        kernel!(|b: bytea, n: int8| -> int4 {
            bit_at(b, n).map(|(byte, bit)| Some((b[byte] >> bit & 1) as i32))
        }),
    );
    r.add_fallible(
        "set_bit(bytea, int8, int4) bytea",
        kernel!(|b: bytea, n: int8, v: int4| -> bytea {
            if v != 0 && v != 1 {
                return Err(SqlError::new("22023", "new bit must be 0 or 1"));
            }
            let (byte, bit) = bit_at(b, n)?;
            let mut out = b.to_vec();
            out[byte] = out[byte] & !(1 << bit) | (v as u8) << bit;
            Ok(Some(out))
        }),
    );
    r.add(
        "bit_length(bytea) int4",
        kernel!(|b: bytea| -> int4 Ok(Some((b.len() * 8) as i32))),
    );
    r.add_fallible(
        "overlay(bytea, bytea, int4) bytea",
        kernel!(|b: bytea, w: bytea, i: int4| -> bytea overlay(b, w, i, w.len() as i64)),
    );
    r.add_fallible(
        "overlay(bytea, bytea, int4, int4) bytea",
        kernel!(|b: bytea, w: bytea, i: int4, n: int4| -> bytea overlay(b, w, i, i64::from(n))),
    );
    r.add(
        "bit_count(bytea) int8",
        kernel!(|b: bytea| -> int8 Ok(Some(b.iter().map(|b| b.count_ones() as i64).sum()))),
    );
    for name in ["substring(bytea, int4) bytea", "substr(bytea, int4) bytea"] {
        r.add_fallible(
            name,
            kernel!(|b: bytea, n: int4| -> bytea slice(b, n as i64, None)),
        );
    }
    for name in [
        "substring(bytea, int4, int4) bytea",
        "substr(bytea, int4, int4) bytea",
    ] {
        r.add_fallible(
            name,
            kernel!(|b: bytea, n: int4, c: int4| -> bytea slice(b, n as i64, Some(c as i64))),
        );
    }
    for name in ["strpos(bytea, bytea) int4", "position(bytea, bytea) int4"] {
        r.add(
            name,
            kernel!(|b: bytea, part: bytea| -> int4 {
                let at = if part.is_empty() {
                    Some(0)
                } else {
                    b.windows(part.len()).position(|w| w == part)
                };
                Ok(Some(at.map_or(0, |i| i as i32 + 1)))
            }),
        );
    }
    r.add(
        "btrim(bytea, bytea) bytea",
        kernel!(|b: bytea, w: bytea| -> bytea Ok(Some(trimmed(b, w, true, true)))),
    );
    r.add(
        "ltrim(bytea, bytea) bytea",
        kernel!(|b: bytea, w: bytea| -> bytea Ok(Some(trimmed(b, w, true, false)))),
    );
    r.add(
        "rtrim(bytea, bytea) bytea",
        kernel!(|b: bytea, w: bytea| -> bytea Ok(Some(trimmed(b, w, false, true)))),
    );
    r.add(
        "reverse(bytea) bytea",
        kernel!(|b: bytea| -> bytea Ok(Some(b.iter().rev().copied().collect::<Vec<u8>>()))),
    );
    r.add_fallible(
        "convert_to(text, text) bytea",
        kernel!(|s: text, e: text| -> bytea encoded(s, e).map(Some)),
    );
    r.add_fallible(
        "convert_from(bytea, text) text",
        kernel!(|b: bytea, e: text| -> text decoded(b, e).map(Some)),
    );
    r.add("num_nulls(any...) int4", nulls(true));
    r.add("num_nonnulls(any...) int4", nulls(false));
}
