//! Scans JSON values in place: validates, finds where they end, unescapes strings, drops insignificant space.
//!
//! Invariant: accepts exactly RFC 8259 within [`DEPTH_MAX`] levels; never recurses. The bytes must be
//! valid UTF-8, which the caller has checked.

/// Levels of arrays and objects in one value.
pub const DEPTH_MAX: u32 = 128;

/// Why bytes aren't a JSON value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// It ends too early.
    #[error("invalid input syntax for type json: the input string ended unexpectedly")]
    End,
    /// An unexpected byte, at this position of the text that was scanned.
    #[error("invalid input syntax for type json: unexpected character at byte {0}")]
    Token(usize),
    /// A string has a bad escape or a control character.
    #[error(
        "invalid input syntax for type json: bad escape sequence or control character at byte {0}"
    )]
    Escape(usize),
    /// Arrays and objects within each other.
    #[error("JSON is nested too deeply (more than {DEPTH_MAX} levels)")]
    Depth,
    /// `\u0000` where text is wanted.
    #[error("unsupported Unicode escape sequence: \\u0000 cannot be converted to text")]
    Nul,
}

/// What was met in a value.
#[derive(Clone, Copy, Debug, Default)]
pub struct Met {
    /// Insignificant white space.
    pub space: bool,
    /// A backslash in a string.
    pub escape: bool,
}

#[inline]
fn is_space(b: u8) -> bool {
    matches!(b, b' ' | b'\t' | b'\n' | b'\r')
}

/// The first position from `at` that isn't white space.
#[inline]
pub fn skip_space(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() && is_space(bytes[at]) {
        at += 1;
    }
    at
}

/// Scans the value that begins at `at` (no space before it) and returns where it ends.
pub fn skip_value(bytes: &[u8], at: usize, met: &mut Met) -> Result<usize, JsonError> {
    scan_value(bytes, at, met, &mut |_, _| {})
}

/// The same, and tells where each scalar in it begins and ends, which keys aren't.
pub fn scan_value(
    bytes: &[u8],
    mut at: usize,
    met: &mut Met,
    scalar: &mut impl FnMut(usize, usize),
) -> Result<usize, JsonError> {
    // Bit 0 is the innermost level: 1 an object, 0 an array.
    let mut levels = 0u128;
    let mut depth = 0u32;
    loop {
        // A value begins here.
        match bytes.get(at) {
            Some(open @ (b'{' | b'[')) => {
                if depth == DEPTH_MAX {
                    return Err(JsonError::Depth);
                }
                let object = *open == b'{';
                depth += 1;
                levels = levels << 1 | object as u128;
                at = spaced(bytes, at + 1, met);
                match (bytes.get(at), object) {
                    (Some(b'}'), true) | (Some(b']'), false) => {
                        at += 1;
                        depth -= 1;
                        levels >>= 1;
                    }
                    (_, true) => {
                        at = skip_key(bytes, at, met)?;
                        continue;
                    }
                    (_, false) => continue,
                }
            }
            _ => {
                let end = skip_scalar(bytes, at, met)?;
                scalar(at, end);
                at = end;
            }
        }
        // A value has ended here: what follows depends on what it was in.
        loop {
            if depth == 0 {
                return Ok(at);
            }
            at = spaced(bytes, at, met);
            let object = levels & 1 == 1;
            match (bytes.get(at), object) {
                (Some(b','), true) => {
                    at = spaced(bytes, at + 1, met);
                    at = skip_key(bytes, at, met)?;
                    break;
                }
                (Some(b','), false) => {
                    at = spaced(bytes, at + 1, met);
                    break;
                }
                (Some(b'}'), true) | (Some(b']'), false) => {
                    at += 1;
                    depth -= 1;
                    levels >>= 1;
                }
                (None, _) => return Err(JsonError::End),
                _ => return Err(JsonError::Token(at)),
            }
        }
    }
}

/// Scans the string, number or word at `at`.
#[inline]
pub fn skip_scalar(bytes: &[u8], at: usize, met: &mut Met) -> Result<usize, JsonError> {
    match bytes.get(at) {
        None => Err(JsonError::End),
        Some(b'"') => skip_string(bytes, at, met),
        Some(b'-' | b'0'..=b'9') => skip_number(bytes, at),
        Some(b't') => skip_word(bytes, at, b"true"),
        Some(b'f') => skip_word(bytes, at, b"false"),
        Some(b'n') => skip_word(bytes, at, b"null"),
        Some(_) => Err(JsonError::Token(at)),
    }
}

#[inline]
fn spaced(bytes: &[u8], at: usize, met: &mut Met) -> usize {
    match bytes.get(at) {
        Some(b) if *b <= b' ' => {
            let end = skip_space(bytes, at);
            met.space |= end > at;
            end
        }
        _ => at,
    }
}

/// `"key" :` and the space after it.
#[inline]
fn skip_key(bytes: &[u8], at: usize, met: &mut Met) -> Result<usize, JsonError> {
    match bytes.get(at) {
        Some(b'"') => {}
        Some(_) => return Err(JsonError::Token(at)),
        None => return Err(JsonError::End),
    }
    let at = skip_string(bytes, at, met)?;
    let at = spaced(bytes, at, met);
    match bytes.get(at) {
        Some(b':') => Ok(spaced(bytes, at + 1, met)),
        Some(_) => Err(JsonError::Token(at)),
        None => Err(JsonError::End),
    }
}

/// Scans the string whose opening quote is at `at`; returns the position behind its closing quote.
#[inline]
pub fn skip_string(bytes: &[u8], at: usize, met: &mut Met) -> Result<usize, JsonError> {
    let mut at = string_special(bytes, at + 1);
    loop {
        match bytes.get(at) {
            Some(b'"') => return Ok(at + 1),
            Some(b'\\') => {
                met.escape = true;
                at = match bytes.get(at + 1) {
                    Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => at + 2,
                    Some(b'u') => {
                        hex4(bytes, at + 2)?;
                        at + 6
                    }
                    Some(_) => return Err(JsonError::Escape(at)),
                    None => return Err(JsonError::End),
                };
                at = string_special(bytes, at);
            }
            Some(_) => return Err(JsonError::Escape(at)),
            None => return Err(JsonError::End),
        }
    }
}

/// The first position from `at` with a quote, a backslash or a control character; the end if there is none.
#[inline]
pub fn string_special(bytes: &[u8], mut at: usize) -> usize {
    #[cfg(target_arch = "x86_64")]
    while let Some(lane) = bytes.get(at..at + 16) {
        use std::arch::x86_64::*;
        // SAFETY: SSE2 is part of x86-64; the load is an unaligned one of the 16 bytes of `lane`.
        let mask = unsafe {
            let v = _mm_loadu_si128(lane.as_ptr().cast());
            let quote = _mm_cmpeq_epi8(v, _mm_set1_epi8(b'"' as i8));
            let backslash = _mm_cmpeq_epi8(v, _mm_set1_epi8(b'\\' as i8));
            // Unsigned v <= 0x1f: the minimum of both is v.
            let control = _mm_cmpeq_epi8(_mm_min_epu8(v, _mm_set1_epi8(0x1f)), v);
            _mm_movemask_epi8(_mm_or_si128(_mm_or_si128(quote, backslash), control)) as u32
        };
        if mask != 0 {
            return at + mask.trailing_zeros() as usize;
        }
        at += 16;
    }
    while at < bytes.len() && !(bytes[at] == b'"' || bytes[at] == b'\\' || bytes[at] < 0x20) {
        at += 1;
    }
    at
}

#[inline]
fn skip_number(bytes: &[u8], mut at: usize) -> Result<usize, JsonError> {
    let digits = |at| skip_digits(bytes, at);
    let some_digits = |at: usize| match digits(at) {
        end if end > at => Ok(end),
        end if end == bytes.len() => Err(JsonError::End),
        end => Err(JsonError::Token(end)),
    };
    if bytes[at] == b'-' {
        at += 1;
    }
    at = match bytes.get(at) {
        Some(b'0') => at + 1,
        _ => some_digits(at)?,
    };
    if bytes.get(at) == Some(&b'.') {
        at = some_digits(at + 1)?;
    }
    if let Some(b'e' | b'E') = bytes.get(at) {
        at += 1;
        if let Some(b'+' | b'-') = bytes.get(at) {
            at += 1;
        }
        at = some_digits(at)?;
    }
    Ok(at)
}

/// The first position from `at` that isn't a digit. Eight at a time: lengths vary, and a branch per digit is guessed wrong
/// at the end.
#[inline]
fn skip_digits(bytes: &[u8], mut at: usize) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    while let Some(Ok(eight)) = bytes.get(at..at + 8).map(<[u8; 8]>::try_from) {
        let from_zero = u64::from_le_bytes(eight) ^ (ONES * b'0' as u64);
        // The highest bit of a byte above 9, which adding 0x76 carries into it, or which has it already.
        let low = from_zero & (ONES * 0x7f);
        let others = ((low + ONES * 0x76) | from_zero) & (ONES * 0x80);
        if others != 0 {
            return at + others.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    while at < bytes.len() && bytes[at].is_ascii_digit() {
        at += 1;
    }
    at
}

#[inline]
fn skip_word(bytes: &[u8], at: usize, word: &[u8]) -> Result<usize, JsonError> {
    if bytes[at..].starts_with(word) {
        Ok(at + word.len())
    } else if word.starts_with(&bytes[at..]) {
        Err(JsonError::End)
    } else {
        Err(JsonError::Token(at))
    }
}

fn hex4(bytes: &[u8], at: usize) -> Result<u32, JsonError> {
    let digits = bytes.get(at..at + 4).ok_or(JsonError::End)?;
    digits.iter().try_fold(0u32, |v, b| {
        let d = (*b as char).to_digit(16).ok_or(JsonError::Escape(at))?;
        Ok(v << 4 | d)
    })
}

/// Appends the text of a string that was scanned, given without its quotes.
pub fn unescape(string: &[u8], out: &mut Vec<u8>) -> Result<(), JsonError> {
    let mut at = 0;
    while let Some(found) = memchr::memchr(b'\\', &string[at..]) {
        out.extend_from_slice(&string[at..at + found]);
        at += found;
        let escaped = *string.get(at + 1).ok_or(JsonError::End)?;
        at += 2;
        out.push(match escaped {
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let (c, end) = unicode(string, at)?;
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                at = end;
                continue;
            }
            other => other,
        });
    }
    out.extend_from_slice(&string[at..]);
    Ok(())
}

/// The character whose four digits are at `at`, with its low surrogate if it needs one.
fn unicode(string: &[u8], at: usize) -> Result<(char, usize), JsonError> {
    let high = hex4(string, at)?;
    if high == 0 {
        return Err(JsonError::Nul);
    }
    if !(0xd800..0xdc00).contains(&high) {
        let c = char::from_u32(high).ok_or(JsonError::Escape(at))?;
        return Ok((c, at + 4));
    }
    if string.get(at + 4..at + 6) != Some(b"\\u") {
        return Err(JsonError::Escape(at));
    }
    let low = hex4(string, at + 6)?;
    if !(0xdc00..0xe000).contains(&low) {
        return Err(JsonError::Escape(at));
    }
    let c = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
    Ok((char::from_u32(c).ok_or(JsonError::Escape(at))?, at + 10))
}

/// Refuses what `jsonb` can't hold though `json` can: `\u0000` and lone surrogates.
pub fn check_escapes(value: &[u8]) -> Result<(), JsonError> {
    let mut at = 0;
    while let Some(found) = memchr::memchr(b'\\', &value[at..]) {
        at += found;
        at = match value.get(at + 1) {
            Some(b'u') => unicode(value, at + 2)?.1,
            _ => at + 2,
        };
        at = at.min(value.len());
    }
    Ok(())
}

/// Appends a value that was scanned, without insignificant white space.
pub fn compact(value: &[u8], out: &mut Vec<u8>) {
    let mut at = 0;
    while at < value.len() {
        match value[at] {
            b'"' => {
                let end = skip_string(value, at, &mut Met::default()).unwrap_or(value.len());
                out.extend_from_slice(&value[at..end]);
                at = end;
            }
            b if is_space(b) => at += 1,
            b => {
                out.push(b);
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(text: &str) -> Result<Met, JsonError> {
        let mut met = Met::default();
        let end = skip_value(text.as_bytes(), 0, &mut met)?;
        if end == text.len() {
            Ok(met)
        } else {
            Err(JsonError::Token(end))
        }
    }

    #[test]
    fn agrees_with_serde_json() {
        let corpus = [
            "1",
            "1234567",
            "12345678",
            "123456789",
            "1234567a",
            "12345678a",
            "12345678901234567/",
            "1234567:",
            "1234567.12345678e-12",
            "-12345678901234567890\u{b0}",
            "-0",
            "-0.5e+10",
            "01",
            "1.",
            ".5",
            "1e",
            "-",
            "true",
            "tru",
            "nul",
            "nulll",
            "\"\"",
            "\"a\\n\\u00e9\"",
            "\"\\x\"",
            "\"\\u12\"",
            "\"abc",
            "\"a\tb\"",
            "[]",
            "[ ]",
            "[1,2 , 3]",
            "[1,]",
            "[,1]",
            "[1 2]",
            "{}",
            "{ }",
            "{\"a\":1}",
            "{\"a\" : [ {\"b\":null} ]}",
            "{\"a\"}",
            "{\"a\":}",
            "{a:1}",
            "{\"a\":1,}",
            "[1}",
            "{\"a\":1]",
            "[",
            "{",
            "[[[[]]]]",
            "",
            "\"0123456789abcdef0123456789\\\\abcdefghij\\\"klmnop\"",
            "[true,false,null,\"\",{}]",
        ];
        for text in corpus {
            let want = serde_json::from_str::<serde_json::Value>(text).is_ok();
            assert_eq!(whole(text).is_ok(), want, "{text}");
        }
    }

    #[test]
    fn agrees_with_serde_json_on_damaged_text() {
        let text = r#"{"events":[{"account_id":1,"amount":-5.25e3,"t":"de\"b\u00e9it"},{"x":[true,null]} ]}"#;
        let mut x = 7u32;
        for _ in 0..20_000 {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let at = (x >> 8) as usize % text.len();
            let mut damaged = text.as_bytes().to_vec();
            damaged[at] = b"{}[],:\"\\0 1ae-tn"[(x >> 4) as usize % 16];
            let text = String::from_utf8(damaged).expect("ASCII stays ASCII");
            let want = match serde_json::from_str::<serde_json::Value>(&text) {
                Ok(_) => true,
                // Lone surrogates and numbers beyond f64 are serde_json's limits, not the grammar's.
                Err(e)
                    if e.to_string().contains("surrogate")
                        || e.to_string().contains("number out of range") =>
                {
                    continue;
                }
                Err(_) => false,
            };
            assert_eq!(whole(&text).is_ok(), want, "{text}");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |n: usize| "[".repeat(n) + &"]".repeat(n);
        assert!(whole(&nested(128)).is_ok());
        assert_eq!(whole(&nested(129)).unwrap_err(), JsonError::Depth);
        assert_eq!(whole(&"[".repeat(1_000_000)).unwrap_err(), JsonError::Depth);
    }

    #[test]
    fn strings() {
        let text = |s: &str| {
            let mut out = Vec::new();
            unescape(s.as_bytes(), &mut out).map(|()| String::from_utf8(out).expect("UTF-8"))
        };
        assert_eq!(
            text(r#"a\"b\\c\/\n\u00e9\ud83d\ude00z"#),
            Ok("a\"b\\c/\né😀z".into())
        );
        assert_eq!(text(r"\u0000"), Err(JsonError::Nul));
        assert!(text(r"\ud83d").is_err());
        assert!(text(r"\ude00").is_err());
        assert_eq!(check_escapes(br#""a\\u0000""#), Ok(()));
        assert_eq!(check_escapes(br#""\u0000""#), Err(JsonError::Nul));
    }

    #[test]
    fn compacts() {
        let mut out = Vec::new();
        compact(br#"{ "a b" : [ 1 , "x \" y" ] }"#, &mut out);
        assert_eq!(out, br#"{"a b":[1,"x \" y"]}"#);
        assert!(whole("[1, 2]").is_ok_and(|m| m.space));
        assert!(whole("[1,2]").is_ok_and(|m| !m.space));
    }
}
