//! Strings E'…' that sqlparser doesn't take: with escaped bytes from 0x80 on, of which characters are made up, or pairs of surrogates.

use crate::error::{Result, SqlError};

/// The string that begins at the E at `at`, and where it ends; `None`: none begins there, or it has no end.
pub(super) fn string_at(chars: &[char], at: usize) -> Result<Option<(String, usize)>> {
    let is_string = matches!(chars.get(at..at + 2), Some(['e' | 'E', '\'']));
    if !is_string {
        return Ok(None);
    }
    let mut escapes = Escapes {
        chars,
        next: at + 2,
        bytes: Vec::new(),
    };
    if !escapes.all()? {
        return Ok(None);
    }
    let text = String::from_utf8(escapes.bytes).map_err(|e| {
        let valid = e.utf8_error().valid_up_to();
        not_utf8(e.as_bytes()[valid])
    })?;
    match text.contains('\0') {
        true => Err(not_utf8(0)),
        false => Ok(Some((text, escapes.next))),
    }
}

fn not_utf8(byte: u8) -> SqlError {
    let message = format!("invalid byte sequence for encoding \"UTF8\": 0x{byte:02x}");
    SqlError::new("22021", message)
}

/// A string on the way to its end.
struct Escapes<'c> {
    chars: &'c [char],
    next: usize,
    bytes: Vec<u8>,
}

impl Escapes<'_> {
    /// False if the string has no end.
    fn all(&mut self) -> Result<bool> {
        while let Some(c) = self.char() {
            match c {
                '\'' if self.chars.get(self.next) == Some(&'\'') => {
                    self.next += 1;
                    self.bytes.push(b'\'');
                }
                '\'' => return Ok(true),
                '\\' => match self.char() {
                    Some(escaped) => self.escaped(escaped)?,
                    None => return Ok(false),
                },
                c => self.push(c),
            }
        }
        Ok(false)
    }

    fn char(&mut self) -> Option<char> {
        let c = self.chars.get(self.next).copied();
        self.next += usize::from(c.is_some());
        c
    }

    fn push(&mut self, c: char) {
        let mut utf8 = [0; 4];
        self.bytes.extend(c.encode_utf8(&mut utf8).bytes());
    }

    /// What `\c` stands for.
    fn escaped(&mut self, c: char) -> Result<()> {
        match c {
            'b' => self.bytes.push(8),
            'f' => self.bytes.push(12),
            'n' => self.bytes.push(b'\n'),
            'r' => self.bytes.push(b'\r'),
            't' => self.bytes.push(b'\t'),
            'u' => self.unicode(4)?,
            'U' => self.unicode(8)?,
            'x' => match self.digits(16, 2) {
                (0, _) => self.bytes.push(b'x'),
                (_, byte) => self.bytes.push(byte as u8),
            },
            '0'..='7' => {
                self.next -= 1;
                // Of three digits the last eight bits count.
                let (_, byte) = self.digits(8, 3);
                self.bytes.push(byte as u8);
            }
            c => self.push(c),
        }
        Ok(())
    }

    /// So many digits at most: how many there are, and their value.
    fn digits(&mut self, radix: u32, most: usize) -> (usize, u32) {
        let (mut count, mut value) = (0, 0u32);
        while count < most
            && let Some(digit) = self.chars.get(self.next).and_then(|c| c.to_digit(radix))
        {
            (count, value) = (count + 1, value.wrapping_mul(radix).wrapping_add(digit));
            self.next += 1;
        }
        (count, value)
    }

    fn code(&mut self, digits: usize) -> Result<u32> {
        match self.digits(16, digits) {
            (found, code) if found == digits => Ok(code),
            _ => Err(SqlError::new("22025", "invalid Unicode escape")
                .hint("Unicode escapes must be \\uXXXX or \\UXXXXXXXX.")),
        }
    }

    fn unicode(&mut self, digits: usize) -> Result<()> {
        let first = self.code(digits)?;
        let code = match first {
            0xD800..=0xDBFF => 0x10000 + ((first - 0xD800) << 10) + self.second()?,
            0xDC00..=0xDFFF => return Err(no_pair()),
            code => code,
        };
        match char::from_u32(code).filter(|c| *c != '\0') {
            Some(c) => self.push(c),
            None => return Err(SqlError::new("42601", "invalid Unicode escape value")),
        }
        Ok(())
    }

    /// The low bits of the second surrogate of a pair.
    fn second(&mut self) -> Result<u32> {
        let digits = match (self.char(), self.char()) {
            (Some('\\'), Some('u')) => 4,
            (Some('\\'), Some('U')) => 8,
            _ => return Err(no_pair()),
        };
        match self.code(digits)? {
            second @ 0xDC00..=0xDFFF => Ok(second - 0xDC00),
            _ => Err(no_pair()),
        }
    }
}

fn no_pair() -> SqlError {
    SqlError::new("42601", "invalid Unicode surrogate pair")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn string(text: &str) -> std::result::Result<(String, usize), String> {
        let chars: Vec<char> = text.chars().collect();
        match string_at(&chars, 0) {
            Ok(Some(found)) => Ok(found),
            Ok(None) => Err("none".into()),
            Err(e) => Err(e.sqlstate.to_string()),
        }
    }

    #[test]
    fn bytes_and_surrogates_make_up_characters() {
        let whole = [
            (r"e'caf\xc3\xa9 '''", "café '"),
            (r"E'\303\251\'\\'", "é'\\"),
            (r"e'\ud83d\ude00\U0000d83d\uDE00'", "😀😀"),
            (r"e'a\tü\x\q\b\501'", "a\tüxq\u{8}A"),
            (r"e'\u00e4'", "ä"),
        ];
        for (text, expected) in whole {
            let found = string(&format!("{text} || e'\\xff'"));
            assert_eq!(found, Ok((expected.into(), text.chars().count())), "{text}");
        }
    }

    #[test]
    fn what_is_no_text_is_an_error() {
        let errors = [
            (r"e'\xff'", "22021"),
            (r"e'\0'", "22021"),
            (r"e'\xc3'", "22021"),
            (r"e'\u12'", "22025"),
            (r"e'\U0001f60'", "22025"),
            (r"e'\ud83d'", "42601"),
            (r"e'\ude00'", "42601"),
            (r"e'\ud83d\u0041'", "42601"),
            (r"e'\u0000'", "42601"),
            (r"e'\U00110000'", "42601"),
            (r"e'abc", "none"),
            (r"e'abc\", "none"),
            ("'abc'", "none"),
            ("e", "none"),
        ];
        for (text, expected) in errors {
            assert_eq!(string(text), Err(expected.into()), "{text}");
        }
    }
}
