//! Records and fields of COPY data: PostgreSQL's text format (tabs, backslash escapes, `\N`, `\.`) and CSV. Data arrives
//! in pieces torn anywhere; a record is given out once its end has been seen.

use tidemill_planner::SqlError;
use tidemill_planner::ast::CopyOptions;

/// A record longer than this is refused, in bytes.
const RECORD_BYTES_MAX: usize = 256 << 20;

/// How records are written.
#[derive(Clone, Debug)]
pub struct RecordFormat {
    csv: bool,
    header: bool,
    delimiter: u8,
    null: Vec<u8>,
}

impl RecordFormat {
    /// The format that a COPY statement's options say.
    pub fn of(options: &CopyOptions) -> RecordFormat {
        let null = options
            .null
            .clone()
            .unwrap_or_else(|| if options.csv { "".into() } else { "\\N".into() });
        RecordFormat {
            csv: options.csv,
            header: options.header,
            delimiter: options
                .delimiter
                .unwrap_or(if options.csv { b',' } else { b'\t' }),
            null: null.into_bytes(),
        }
    }
}

/// A record: its fields, `None` for NULL, and the line it starts on, from 1.
#[derive(Debug, PartialEq, Eq)]
pub struct Record {
    /// Fields without quotes and escapes.
    pub fields: Vec<Option<Vec<u8>>>,
    /// Line, from 1.
    pub line: u64,
}

/// What ends a record. The first one's end says what the others have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LineEnd {
    Lf,
    CrLf,
    Cr,
}

/// Splits data into records.
pub struct Records {
    format: RecordFormat,
    pending: Vec<u8>,
    /// Everything before has been given out.
    at: usize,
    /// For CSV: how far the record at `at` has been searched for its end, and whether inside quotes.
    searched: usize,
    quoted: bool,
    line_end: Option<LineEnd>,
    line: u64,
    header_left: bool,
    ended: bool,
}

impl Records {
    /// Data in `format`.
    pub fn new(format: RecordFormat) -> Self {
        let header_left = format.header;
        Records {
            format,
            pending: vec![],
            at: 0,
            searched: 0,
            quoted: false,
            line_end: None,
            line: 1,
            header_left,
            ended: false,
        }
    }

    /// More data.
    pub fn add(&mut self, bytes: &[u8]) {
        self.pending.drain(..self.at);
        self.searched -= self.at;
        self.at = 0;
        self.pending.extend_from_slice(bytes);
    }

    /// The next complete record; with `end`, what is left counts as complete.
    pub fn next(&mut self, end: bool) -> Result<Option<Record>, SqlError> {
        loop {
            if self.ended || (self.at == self.pending.len()) {
                return Ok(None);
            }
            let Some((last, stop)) = self.find_end(end)? else {
                return Ok(None);
            };
            let record = &self.pending[self.at..last];
            let line = self.line;
            let lines = 1 + record.iter().filter(|b| **b == b'\n').count() as u64;
            let fields = if record == b"\\." {
                self.ended = true;
                None
            } else if self.header_left {
                None
            } else if self.format.csv {
                Some(csv_fields(record, &self.format))
            } else {
                Some(text_fields(record, &self.format))
            };
            let skipped = std::mem::take(&mut self.header_left);
            self.line += lines;
            self.at = stop;
            self.searched = stop;
            self.quoted = false;
            match fields {
                Some(fields) => return Ok(Some(Record { fields, line })),
                None if self.ended => return Ok(None),
                None => debug_assert!(skipped),
            }
        }
    }

    /// Where the record ends, and where the next one begins, if that has been seen.
    fn find_end(&mut self, end: bool) -> Result<Option<(usize, usize)>, SqlError> {
        while let Some(byte) = self.pending.get(self.searched) {
            let at = self.searched;
            match byte {
                // What follows is of the field, a newline too.
                b'\\' if !self.format.csv => match at + 1 < self.pending.len() {
                    true => self.searched += 1,
                    false => break,
                },
                b'"' if self.format.csv => self.quoted = !self.quoted,
                b'\r' if !self.quoted => {
                    let next = self.pending.get(at + 1);
                    if next.is_none() && !end && self.line_end != Some(LineEnd::Cr) {
                        break;
                    }
                    let here = match (self.line_end, next) {
                        (Some(LineEnd::Cr), _) => LineEnd::Cr,
                        (_, Some(b'\n')) => LineEnd::CrLf,
                        _ => LineEnd::Cr,
                    };
                    self.check_line_end(here)?;
                    let width = if here == LineEnd::CrLf { 2 } else { 1 };
                    return Ok(Some((at, at + width)));
                }
                b'\n' if !self.quoted => {
                    self.check_line_end(LineEnd::Lf)?;
                    return Ok(Some((at, at + 1)));
                }
                _ => {}
            }
            self.searched += 1;
        }
        if self.pending.len() - self.at > RECORD_BYTES_MAX {
            return Err(SqlError::new(
                "54000",
                format!("a COPY record is longer than {RECORD_BYTES_MAX} bytes"),
            ));
        }
        if !end {
            return Ok(None);
        }
        if self.quoted {
            return Err(SqlError::new("22P04", "unterminated CSV quoted field"));
        }
        let rest = self.pending.len();
        Ok(Some((rest, rest)))
    }

    /// Other ends of lines than the first one's would have to be quoted.
    fn check_line_end(&mut self, here: LineEnd) -> Result<(), SqlError> {
        if *self.line_end.get_or_insert(here) == here {
            return Ok(());
        }
        let (name, escape) = match here {
            LineEnd::Lf => ("newline", "\\n"),
            LineEnd::Cr | LineEnd::CrLf => ("carriage return", "\\r"),
        };
        let (how, hint) = match self.format.csv {
            true => (
                "unquoted",
                format!("Use quoted CSV field to represent {name}."),
            ),
            false => ("literal", format!("Use \"{escape}\" to represent {name}.")),
        };
        let message = format!("{how} {name} found in data");
        Err(SqlError::new("22P04", message).hint(hint))
    }
}

fn text_fields(record: &[u8], format: &RecordFormat) -> Vec<Option<Vec<u8>>> {
    let mut fields = Vec::new();
    let mut start = 0;
    let mut i = 0;
    while i <= record.len() {
        match record.get(i) {
            // The one after a backslash is never a delimiter.
            Some(b'\\') if i + 1 < record.len() => i += 1,
            Some(b) if *b != format.delimiter => {}
            _ => {
                let raw = &record[start..i.min(record.len())];
                fields.push((raw != format.null.as_slice()).then(|| unescape(raw)));
                start = i + 1;
            }
        }
        i += 1;
    }
    fields
}

fn unescape(raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len());
    let mut bytes = raw.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let digits = |bytes: &mut std::iter::Peekable<_>, radix: u32, most: usize| -> Option<u8> {
            let bytes: &mut std::iter::Peekable<std::iter::Copied<std::slice::Iter<'_, u8>>> =
                bytes;
            let mut value = None;
            for _ in 0..most {
                let Some(digit) = bytes.peek().and_then(|b| (*b as char).to_digit(radix)) else {
                    break;
                };
                bytes.next();
                value = Some(value.unwrap_or(0u32) * radix + digit);
            }
            value.map(|v| v as u8)
        };
        match bytes.peek().copied() {
            None => out.push(b'\\'),
            Some(b'0'..=b'7') => out.extend(digits(&mut bytes, 8, 3)),
            Some(b'x') => {
                bytes.next();
                out.push(digits(&mut bytes, 16, 2).unwrap_or(b'x'));
            }
            Some(other) => {
                bytes.next();
                out.push(match other {
                    b'b' => 8,
                    b'f' => 12,
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'v' => 11,
                    other => other,
                });
            }
        }
    }
    out
}

fn csv_fields(record: &[u8], format: &RecordFormat) -> Vec<Option<Vec<u8>>> {
    let mut fields = Vec::new();
    let (mut field, mut was_quoted, mut quoted) = (Vec::new(), false, false);
    let mut bytes = record.iter().copied().peekable();
    loop {
        match bytes.next() {
            Some(b'"') if quoted && bytes.peek() == Some(&b'"') => {
                bytes.next();
                field.push(b'"');
            }
            Some(b'"') => {
                quoted = !quoted;
                was_quoted = true;
            }
            Some(b) if quoted || b != format.delimiter => field.push(b),
            ended => {
                let value = std::mem::take(&mut field);
                fields.push((was_quoted || value != format.null).then_some(value));
                was_quoted = false;
                if ended.is_none() {
                    return fields;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(options: CopyOptions, pieces: &[&[u8]]) -> Vec<(u64, Vec<Option<String>>)> {
        let mut records = Records::new(RecordFormat::of(&options));
        let mut out = Vec::new();
        let text = |f: Option<Vec<u8>>| f.map(|b| String::from_utf8(b).unwrap());
        for piece in pieces {
            records.add(piece);
            while let Some(r) = records.next(false).unwrap() {
                out.push((r.line, r.fields.into_iter().map(text).collect()));
            }
        }
        while let Some(r) = records.next(true).unwrap() {
            out.push((r.line, r.fields.into_iter().map(text).collect()));
        }
        out
    }

    fn some(fields: &[&str]) -> Vec<Option<String>> {
        fields.iter().map(|f| Some(f.to_string())).collect()
    }

    #[test]
    fn text_records_torn_anywhere() {
        let data = b"1\ta\\tb\n2\t\\N\n3\t\\x41\\101\\\\\n4\ta\\\nb\\\\\n\\.\nignored";
        let expected = vec![
            (1, some(&["1", "a\tb"])),
            (2, vec![Some("2".into()), None]),
            (3, some(&["3", "AA\\"])),
            (4, some(&["4", "a\nb\\"])),
        ];
        for cut in 0..data.len() {
            assert_eq!(
                all(CopyOptions::default(), &[&data[..cut], &data[cut..]]),
                expected,
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn csv_records_torn_anywhere() {
        let data = b"h,i\r\n1,\"a,\"\"b\"\"\nc\"\r\n,\"\"\r\nlast,x";
        let options = CopyOptions {
            csv: true,
            header: true,
            ..CopyOptions::default()
        };
        let expected = vec![
            (2, some(&["1", "a,\"b\"\nc"])),
            (4, vec![None, Some("".into())]),
            (5, some(&["last", "x"])),
        ];
        for cut in 0..data.len() {
            assert_eq!(
                all(options.clone(), &[&data[..cut], &data[cut..]]),
                expected,
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn lines_end_as_the_first_one_does() {
        let text = CopyOptions::default();
        let csv = CopyOptions {
            csv: true,
            ..CopyOptions::default()
        };
        for options in [&text, &csv] {
            let expected = vec![(1, some(&["a"])), (2, some(&["b"])), (3, some(&["c"]))];
            for data in ["a\rb\rc\r", "a\r\nb\r\nc", "a\nb\nc\n"] {
                for cut in 0..data.len() {
                    let (one, two) = data.as_bytes().split_at(cut);
                    assert_eq!(
                        all(options.clone(), &[one, two]),
                        expected,
                        "{data:?} {cut}"
                    );
                }
            }
            for data in [
                "a\nb\rc\n",
                "a\nb\r\n",
                "a\r\nb\n",
                "a\r\nb\rc\r\n",
                "a\rb\n",
            ] {
                let mut records = Records::new(RecordFormat::of(options));
                records.add(data.as_bytes());
                assert!(records.next(true).expect("the first").is_some());
                let e = records.next(true).expect_err(data);
                assert_eq!(e.sqlstate, "22P04", "{data:?}");
            }
        }
        // The end of a line that is escaped, or quoted, is of the field.
        assert_eq!(all(text, &[b"a\\\n"]), [(1, some(&["a\n"]))]);
        assert_eq!(
            all(csv, &[b"\"a\r\"\nb\n"]),
            [(1, some(&["a\r"])), (2, some(&["b"]))]
        );
    }

    #[test]
    fn an_open_quote_is_an_error_at_the_end() {
        let mut records = Records::new(RecordFormat::of(&CopyOptions {
            csv: true,
            ..CopyOptions::default()
        }));
        records.add(b"\"open");
        assert_eq!(records.next(false).unwrap(), None);
        assert_eq!(records.next(true).unwrap_err().sqlstate, "22P04");
    }
}
