//! PostgreSQL's text forms of values: reading them ([`number`], [`datetime`], [`interval`], and the
//! rest here) and writing them ([`output`]).
//!
//! Invariant: a function of this module reads what the input function of PostgreSQL's type reads (what
//! isn't read is listed in docs/connectors.md) and never panics, whatever the bytes.

pub mod datetime;
pub mod interval;
pub mod number;
pub mod output;

/// Why a text isn't a value of a type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueError {
    /// It doesn't have the form of the type.
    Syntax,
    /// It has, but the value isn't within the type's range.
    Range,
    /// Something else is wrong; the message ends with the text.
    Quoted(&'static str),
    /// Anything else, in full.
    Other(String),
}

impl ValueError {
    /// PostgreSQL's message for `text` as a value of the type called `type_name`.
    pub fn message(&self, type_name: &str, text: &[u8]) -> String {
        let text = shown(text);
        match self {
            ValueError::Syntax => format!("invalid input syntax for type {type_name}: \"{text}\""),
            ValueError::Range => match type_name {
                "smallint" | "integer" | "bigint" => {
                    format!("value \"{text}\" is out of range for type {type_name}")
                }
                "real" | "double precision" => {
                    format!("\"{text}\" is out of range for type {type_name}")
                }
                _ => format!("date/time field value out of range: \"{text}\""),
            },
            ValueError::Quoted(what) => format!("{what}: \"{text}\""),
            ValueError::Other(message) => message.clone(),
        }
    }
}

/// Bytes of a value that a message quotes at most.
const SHOWN_BYTES_MAX: usize = 200;

fn shown(text: &[u8]) -> String {
    if text.len() <= SHOWN_BYTES_MAX {
        return String::from_utf8_lossy(text).into_owned();
    }
    let cut = String::from_utf8_lossy(&text[..SHOWN_BYTES_MAX]);
    format!("{}…", cut.trim_end_matches('\u{fffd}'))
}

/// `text` without the white space around it that PostgreSQL's numbers and dates allow.
pub fn trim(text: &[u8]) -> &[u8] {
    let space = |b: &u8| matches!(b, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c);
    let start = text.iter().position(|b| !space(b)).unwrap_or(text.len());
    let end = text
        .iter()
        .rposition(|b| !space(b))
        .map_or(start, |e| e + 1);
    &text[start..end]
}

/// `boolean`: any unambiguous beginning of true, false, yes, no, on, off; 1 and 0.
pub fn parse_bool(text: &[u8]) -> Result<bool, ValueError> {
    match text {
        b"t" | b"true" | b"1" => return Ok(true),
        b"f" | b"false" | b"0" => return Ok(false),
        _ => {}
    }
    let word = trim(text).to_ascii_lowercase();
    let begins = |whole: &[u8], min: usize| word.len() >= min && whole.starts_with(&word);
    if begins(b"true", 1) || begins(b"yes", 1) || begins(b"on", 2) || word == b"1" {
        Ok(true)
    } else if begins(b"false", 1) || begins(b"no", 1) || begins(b"off", 2) || word == b"0" {
        Ok(false)
    } else {
        Err(ValueError::Syntax)
    }
}

/// `uuid`, in any of PostgreSQL's forms, as its canonical text.
pub fn parse_uuid(text: &[u8], out: &mut [u8; 36]) -> Result<(), ValueError> {
    let text = match text {
        [b'{', inside @ .., b'}'] => inside,
        other => other,
    };
    let mut digits = 0;
    let mut previous_hyphen = true;
    for &b in text {
        if b == b'-' {
            // PostgreSQL allows a hyphen after any group of four digits.
            if previous_hyphen || digits % 4 != 0 || digits == 32 {
                return Err(ValueError::Syntax);
            }
            previous_hyphen = true;
            continue;
        }
        previous_hyphen = false;
        if !b.is_ascii_hexdigit() || digits == 32 {
            return Err(ValueError::Syntax);
        }
        let hyphens = match digits {
            0..8 => 0,
            8..12 => 1,
            12..16 => 2,
            16..20 => 3,
            _ => 4,
        };
        out[digits + hyphens] = b.to_ascii_lowercase();
        digits += 1;
    }
    if digits != 32 || previous_hyphen {
        return Err(ValueError::Syntax);
    }
    for at in [8, 13, 18, 23] {
        out[at] = b'-';
    }
    Ok(())
}

/// `bytea`: `\x` and hexadecimal digits, or the escape form.
pub fn parse_bytea(text: &[u8], out: &mut Vec<u8>) -> Result<(), ValueError> {
    if let Some(hex) = text.strip_prefix(b"\\x") {
        let mut high = None;
        for &b in hex {
            let Some(digit) = (b as char).to_digit(16) else {
                // White space is allowed between pairs.
                if high.is_none() && matches!(b, b' ' | b'\t' | b'\n' | b'\r') {
                    continue;
                }
                return Err(ValueError::Other(format!(
                    "invalid hexadecimal digit: \"{}\"",
                    b as char
                )));
            };
            match high.take() {
                None => high = Some(digit as u8),
                Some(h) => out.push(h << 4 | digit as u8),
            }
        }
        return match high {
            None => Ok(()),
            Some(_) => Err(ValueError::Other(
                "invalid hexadecimal data: odd number of digits".into(),
            )),
        };
    }
    let mut rest = text;
    while let Some((&b, tail)) = rest.split_first() {
        rest = tail;
        if b != b'\\' {
            out.push(b);
            continue;
        }
        match rest {
            [b'\\', tail @ ..] => {
                out.push(b'\\');
                rest = tail;
            }
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..] => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = tail;
            }
            _ => return Err(ValueError::Syntax),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booleans() {
        for t in ["t", "TRUE", " tru ", "y", "Yes", "on", "1"] {
            assert_eq!(parse_bool(t.as_bytes()), Ok(true), "{t}");
        }
        for t in ["f", "fal", "n", "NO", "of", "off", "0"] {
            assert_eq!(parse_bool(t.as_bytes()), Ok(false), "{t}");
        }
        for t in ["", "o", "2", "truex", "nein"] {
            assert_eq!(parse_bool(t.as_bytes()), Err(ValueError::Syntax), "{t}");
        }
    }

    #[test]
    fn uuids() {
        let canonical = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
        for t in [
            canonical,
            "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
            "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}",
            "a0eebc999c0b4ef8bb6d6bb9bd380a11",
            "a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11",
        ] {
            let mut out = [0; 36];
            assert_eq!(parse_uuid(t.as_bytes(), &mut out), Ok(()), "{t}");
            assert_eq!(std::str::from_utf8(&out), Ok(canonical));
        }
        for t in [
            "",
            "a0eebc99",
            "g0eebc999c0b4ef8bb6d6bb9bd380a11",
            "a0eebc999c0b4ef8bb6d6bb9bd380a11-",
        ] {
            assert!(parse_uuid(t.as_bytes(), &mut [0; 36]).is_err(), "{t}");
        }
    }

    #[test]
    fn byte_strings() {
        let parse = |t: &str| {
            let mut out = Vec::new();
            parse_bytea(t.as_bytes(), &mut out).map(|()| out)
        };
        assert_eq!(parse("\\xDEad 00"), Ok(vec![0xde, 0xad, 0]));
        assert_eq!(parse("a\\\\b\\001"), Ok(b"a\\b\x01".to_vec()));
        assert!(parse("\\x1").is_err());
        assert!(parse("\\9").is_err());
    }

    /// Nothing of what is read here panics, whatever the text.
    #[test]
    fn any_text_is_read_or_refused() {
        use rand::prelude::*;
        let seed = rand::random();
        println!("seed {seed}");
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let pieces = [
            "é",
            "ß",
            "日",
            "\u{0}",
            "-",
            "/",
            ".",
            ":",
            " ",
            ",",
            "+",
            "T",
            "Z",
            "P",
            "e",
            "E",
            "0",
            "1",
            "9",
            "12",
            "2024",
            "99999999999999999999",
            "jan",
            "am",
            "bc",
            "day",
            "ago",
            "epoch",
            "infinity",
            "\\",
            "\\x",
            "{",
            "}",
            "\"",
            "NaN",
            "Europe/Paris",
            "-infinity",
            "\t",
        ];
        for _ in 0..200_000 {
            let count = rng.random_range(0..7);
            let text: String = (0..count)
                .filter_map(|_| pieces.choose(&mut rng))
                .copied()
                .collect();
            let text = text.as_bytes();
            let _ = datetime::parse_date(text);
            let _ = datetime::parse_time(text);
            let _ = datetime::parse_timestamp(text);
            let _ = datetime::parse_timestamptz(text);
            let _ = interval::parse_interval(text);
            let _ = number::parse_i64(text);
            let _ = number::parse_f64(text);
            let _ = number::parse_f32(text);
            let _ = number::parse_numeric(text, 38, 10);
            let _ = parse_bool(text);
            let _ = parse_uuid(text, &mut [0; 36]);
            let _ = parse_bytea(text, &mut Vec::new());
        }
    }
}
