//! JSON lines: finds the values of the declared columns in one object per line.
//!
//! A column gets the value of the top-level key of its name, as PostgreSQL's `json_populate_record`
//! gives it: a missing key and `null` are NULL, other keys are ignored (their values are still
//! checked), strings give their text, everything else the JSON text, which the column's type then reads.

use memchr::memchr;

use super::field::Field;
use super::json::{self, JsonError, Met};
use super::shape::{Member, Shape};
use super::{End, Rows};

/// What a column does with a JSON value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// The text of strings, the JSON text of everything else.
    Text,
    /// JSON as it stands.
    Json,
    /// JSON without insignificant space.
    CompactJson,
}

/// Finds the values of JSON lines.
pub struct JsonlSplitter {
    names: Vec<String>,
    wants: Vec<Wants>,
    shape: Shape,
    /// The columns' values in the line at hand.
    members: Vec<Member>,
}

impl JsonlSplitter {
    /// For objects whose keys `names` are wanted.
    pub fn new(names: Vec<String>, wants: Vec<Wants>) -> Self {
        JsonlSplitter {
            names,
            wants,
            shape: Shape::default(),
            members: Vec::new(),
        }
    }

    /// Adds complete lines from `at` until `rows` is full; returns where it stopped.
    pub fn fill(&mut self, bytes: &[u8], mut at: usize, end: End, rows: &mut Rows) -> usize {
        while !rows.is_full() && at < bytes.len() {
            let (line_end, next) = match memchr(b'\n', &bytes[at..]) {
                Some(n) => (at + n, at + n + 1),
                None if end == End::Last => (bytes.len(), bytes.len()),
                None => return at,
            };
            self.line(bytes, at, line_end, rows);
            rows.line += 1;
            at = next;
        }
        at
    }

    fn line(&mut self, bytes: &[u8], at: usize, end: usize, rows: &mut Rows) {
        let line = &bytes[..end];
        let start = json::skip_space(line, at);
        if start == end {
            return;
        }
        if end - at > rows.line_bytes_max {
            rows.error(bytes, at, end, rows.too_long());
            return;
        }
        if rows.dirty && !rows.check_text(bytes, at, end) {
            return;
        }
        let side = rows.side.len();
        rows.block.open_row().fill(Field::NULL);
        let found = match self.shape.find(line, start, &mut self.members) {
            true => Ok(()),
            false => self.object(line, start),
        };
        match found.and_then(|()| self.fields(line, rows)) {
            Ok(()) => rows.block.close_row(at, end, rows.line),
            Err(e) => {
                rows.side.truncate(side);
                rows.error(bytes, at, end, reason(e, at));
            }
        }
    }

    /// The open row's fields.
    #[inline]
    fn fields(&self, line: &[u8], rows: &mut Rows) -> Result<(), JsonError> {
        for m in &self.members {
            rows.block.open_row()[m.column] = value(line, m, self.wants[m.column], &mut rows.side)?;
        }
        Ok(())
    }

    /// Finds the members of the object at `at`, which must be all there is on the line.
    fn object(&mut self, line: &[u8], at: usize) -> Result<(), JsonError> {
        if line[at] != b'{' {
            // Whatever else it is, it isn't a row; but tell broken JSON from a wrong kind of value.
            let end = json::skip_value(line, at, &mut Met::default())?;
            return Err(JsonError::Token(if end == line.len() { at } else { end }));
        }
        let begin = at;
        let mut at = json::skip_space(line, at + 1);
        let mut expected = 0;
        if line.get(at) == Some(&b'}') {
            return only_space(line, at + 1);
        }
        loop {
            if line.get(at) != Some(&b'"') {
                return Err(unexpected(line, at));
            }
            let mut met = Met::default();
            let key_end = json::skip_string(line, at, &mut met)?;
            let column = self.column(&line[at + 1..key_end - 1], met.escape, expected)?;
            at = json::skip_space(line, key_end);
            if line.get(at) != Some(&b':') {
                return Err(unexpected(line, at));
            }
            let start = json::skip_space(line, at + 1);
            let mut met = Met::default();
            at = json::skip_value(line, start, &mut met)?;
            if let Some(column) = column {
                let end = at;
                self.members.push(Member {
                    column,
                    start,
                    end,
                    met,
                });
                expected = column + 1;
            }
            at = json::skip_space(line, at);
            match line.get(at) {
                Some(b',') => at = json::skip_space(line, at + 1),
                Some(b'}') => break,
                _ => return Err(unexpected(line, at)),
            }
        }
        only_space(line, at + 1)?;
        if self.shape.learns() {
            self.shape.learn(line, begin, at + 1, &self.members);
        }
        Ok(())
    }

    /// The column of a key; most lines have their keys in the order of the columns.
    #[inline]
    fn column(
        &self,
        key: &[u8],
        escaped: bool,
        expected: usize,
    ) -> Result<Option<usize>, JsonError> {
        if escaped {
            let mut text = Vec::new();
            json::unescape(key, &mut text)?;
            return Ok(self.names.iter().position(|n| n.as_bytes() == text));
        }
        if self
            .names
            .get(expected)
            .is_some_and(|n| n.as_bytes() == key)
        {
            return Ok(Some(expected));
        }
        Ok(self.names.iter().position(|n| n.as_bytes() == key))
    }
}

/// The field that a column gets from its value.
#[inline]
fn value(
    line: &[u8],
    member: &Member,
    wants: Wants,
    side: &mut Vec<u8>,
) -> Result<Field, JsonError> {
    let Member {
        start, end, met, ..
    } = *member;
    let text = &line[start..end];
    if text == b"null" {
        return Ok(Field::NULL);
    }
    match wants {
        Wants::Text if text[0] == b'"' => {
            if !met.escape {
                return Ok(Field::main(start + 1, end - 1));
            }
            let from = side.len();
            json::unescape(&text[1..text.len() - 1], side)?;
            Ok(Field::side(from, side.len()))
        }
        Wants::CompactJson => {
            if met.escape {
                json::check_escapes(text)?;
            }
            if !met.space {
                return Ok(Field::main(start, end));
            }
            let from = side.len();
            json::compact(text, side);
            Ok(Field::side(from, side.len()))
        }
        Wants::Text | Wants::Json => Ok(Field::main(start, end)),
    }
}

fn unexpected(line: &[u8], at: usize) -> JsonError {
    if at < line.len() {
        JsonError::Token(at)
    } else {
        JsonError::End
    }
}

fn only_space(line: &[u8], at: usize) -> Result<(), JsonError> {
    let at = json::skip_space(line, at);
    if at == line.len() {
        Ok(())
    } else {
        Err(JsonError::Token(at))
    }
}

/// The message, with positions counted from the start of the line.
fn reason(e: JsonError, start: usize) -> String {
    match e {
        JsonError::Token(at) => JsonError::Token(at - start).to_string(),
        JsonError::Escape(at) => JsonError::Escape(at.saturating_sub(start)).to_string(),
        other => other.to_string(),
    }
}
