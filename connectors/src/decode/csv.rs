//! CSV: finds records and fields.
//!
//! The rules are RFC 4180's with PostgreSQL's about NULL: a field that is quoted is never NULL. A quote
//! within an unquoted field is an ordinary character. A record may span lines within quotes; if its quoting is
//! broken, only its first line is given up and reading goes on with the next.

use std::collections::HashMap;

use memchr::{memchr, memchr2};

use super::field::Field;
use super::marks::Marks;
use super::{End, Rows};

/// The options of the format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CsvFormat {
    /// Between fields.
    pub delimiter: u8,
    /// Around fields.
    pub quote: u8,
    /// Before a quote within quotes; the quote itself by default.
    pub escape: u8,
    /// The unquoted text that means NULL.
    pub null: Vec<u8>,
    /// The first line of each file names its columns.
    pub header: bool,
}

impl Default for CsvFormat {
    fn default() -> Self {
        CsvFormat {
            delimiter: b',',
            quote: b'"',
            escape: b'"',
            null: Vec::new(),
            header: false,
        }
    }
}

/// Finds the fields of CSV records.
pub struct CsvSplitter {
    format: CsvFormat,
    marks: Marks,
    /// Names of the declared columns.
    names: Vec<String>,
    /// Declared column of each field of the file.
    order: Vec<usize>,
    /// Opening quotes of fields of several lines from which on the chunk has no whole record, and why: the records of all lines up to
    /// there fail for the same reason, and each would look through all of it again.
    failing: HashMap<usize, Failing>,
}

/// Why: something is wrong, or (`None`) a quote stays open.
type Failing = Option<&'static str>;

/// The lines of a record.
fn lines_of(record: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', record).count().max(1) as u64
}

enum Record {
    /// Complete; where the next one starts.
    Complete { end: usize, next: usize },
    /// More bytes are needed; whether a quote is open.
    Incomplete { open_quote: bool },
    /// Its quoting is broken.
    Broken(&'static str),
}

impl CsvSplitter {
    /// For files with the columns `names`, in that order until a header says otherwise.
    pub fn new(format: CsvFormat, names: Vec<String>) -> Self {
        CsvSplitter {
            marks: Marks::new(b'\n', format.delimiter, format.quote),
            order: (0..names.len()).collect(),
            failing: HashMap::new(),
            format,
            names,
        }
    }

    /// Whether files begin with a header.
    pub fn has_header(&self) -> bool {
        self.format.header
    }

    /// Reads a file's header (without its line end). An `Err` tells why the file can't be read.
    pub fn set_header(&mut self, line: &[u8]) -> Result<(), String> {
        self.order = (0..self.names.len()).collect();
        let mut rows =
            Rows::of_one(line.iter().filter(|b| **b == self.format.delimiter).count() + 1);
        let fields = match self.record(line, 0, End::Last, &mut rows, &mut vec![]) {
            (Record::Complete { .. }, n) => n,
            _ => return Err("the header has a broken quote".into()),
        };
        let mut order = Vec::with_capacity(fields);
        for field in &rows.block.fields[..fields] {
            let name = if field.is_null() {
                String::new()
            } else {
                let texts = rows.texts(line);
                String::from_utf8_lossy(texts.get(*field)).into_owned()
            };
            let declared = self.position(&name).ok_or_else(|| {
                format!(
                    "the header names column \"{name}\", which the source doesn't have; it has {}",
                    self.names.join(", ")
                )
            })?;
            if order.contains(&declared) {
                return Err(format!("the header names column \"{name}\" twice"));
            }
            order.push(declared);
        }
        if let Some(missing) = (0..self.names.len()).find(|i| !order.contains(i)) {
            return Err(format!(
                "the header lacks column \"{}\"",
                self.names[missing]
            ));
        }
        self.order = order;
        Ok(())
    }

    fn position(&self, name: &str) -> Option<usize> {
        let exact = self.names.iter().position(|n| n == name);
        let name = name.trim();
        exact.or_else(|| self.names.iter().position(|n| n.eq_ignore_ascii_case(name)))
    }

    /// The next call of [`fill`](Self::fill) starts at `from` of a chunk not seen before.
    pub fn seek(&mut self, from: usize) {
        self.failing.clear();
        self.marks.seek(from);
    }

    /// Adds complete records from `at` until `rows` is full; returns where it stopped.
    pub fn fill(&mut self, bytes: &[u8], mut at: usize, end: End, rows: &mut Rows) -> usize {
        let width = self.order.len();
        let plain_null = self.format.null.is_empty();
        'record: while !rows.is_full() {
            if plain_null && let Some((field_end, next)) = self.plain(bytes, at, rows) {
                self.close(bytes, at, field_end, width, 1, rows);
                at = next;
                continue;
            }
            let (mut field, mut column) = (at, 0);
            loop {
                let Some(mark) = self.marks.next(bytes) else {
                    // The last record has no line end; or a line isn't complete.
                    let next = match at < bytes.len() {
                        true => self.slow(bytes, at, end, rows),
                        false => None,
                    };
                    return self.stop_at(next.unwrap_or(at));
                };
                let byte = bytes[mark];
                let line_end = byte == b'\n';
                if !line_end && byte != self.format.delimiter {
                    match self.slow(bytes, at, end, rows) {
                        Some(next) => {
                            at = next;
                            continue 'record;
                        }
                        None => return self.stop_at(at),
                    }
                }
                let mut field_end = mark;
                if line_end && mark > at && bytes[mark - 1] == b'\r' {
                    field_end -= 1;
                }
                if column < width {
                    let null = if plain_null {
                        field_end <= field
                    } else {
                        bytes.get(field..field_end) == Some(&self.format.null)
                    };
                    rows.block.open_row()[self.order[column]] = if null {
                        Field::NULL
                    } else {
                        Field::main(field, field_end.max(field))
                    };
                }
                column += 1;
                field = mark + 1;
                if line_end {
                    self.close(bytes, at, field_end, column, 1, rows);
                    at = field;
                    continue 'record;
                }
            }
        }
        at
    }

    /// The fields of a record without quotes that has as many as it should and whose line is complete: its end and where the
    /// next one starts. `None`: it may be another kind, nothing is decided. Nothing in it but its length depends on a branch.
    #[inline]
    fn plain(&mut self, bytes: &[u8], at: usize, rows: &mut Rows) -> Option<(usize, usize)> {
        let width = self.order.len();
        let marks = self.marks.ahead(bytes, width);
        let (line_end, delimiters) = marks.split_last().filter(|_| marks.len() == width)?;
        let mut end = *line_end as usize;
        let next = end + 1;
        let (last, others) = self.order.split_last()?;
        let row = rows.block.open_row();
        let mut field = at as u32;
        let mut plain = bytes[end] == b'\n';
        for (column, mark) in others.iter().zip(delimiters) {
            plain &= bytes[*mark as usize] == self.format.delimiter;
            row[*column] = Field::of_text(field, *mark);
            field = mark + 1;
        }
        if !plain {
            return None;
        }
        if end > field as usize && bytes[end - 1] == b'\r' {
            end -= 1;
        }
        row[*last] = Field::of_text(field, end as u32);
        self.marks.pass(width);
        Some((end, next))
    }

    /// The next call goes on at `at`: marks of an incomplete record will be needed again.
    fn stop_at(&mut self, at: usize) -> usize {
        self.marks.seek(at);
        at
    }

    /// One record by the careful way. `None`: it isn't complete.
    fn slow(&mut self, bytes: &[u8], at: usize, end: End, rows: &mut Rows) -> Option<usize> {
        let side = rows.side.len();
        let mut opened = vec![];
        let (record, fields) = self.record(bytes, at, end, rows, &mut opened);
        let failing = match record {
            Record::Broken(reason) => Some(Some(reason)),
            Record::Incomplete { open_quote: true } => Some(None),
            _ => None,
        };
        if let Some(why) = failing {
            self.failing
                .extend(opened.into_iter().map(|quote| (quote, why)));
        }
        let next = match record {
            Record::Complete { end, next } if next - at > rows.line_bytes_max => {
                rows.side.truncate(side);
                let reason = rows.too_long();
                if next - at > rows.awaited_bytes() {
                    self.give_up(bytes, at, &reason, rows)
                } else {
                    rows.error(bytes, at, end, reason);
                    rows.line += lines_of(&bytes[at..next]);
                    next
                }
            }
            Record::Complete { end, next } => {
                let lines = lines_of(&bytes[at..next]);
                self.close(bytes, at, end, fields, lines, rows);
                next
            }
            Record::Broken(reason) => self.give_up(bytes, at, reason, rows),
            Record::Incomplete { open_quote: true } => {
                let has_line = memchr(b'\n', &bytes[at..]).is_some();
                match end {
                    End::More => return None,
                    End::Settled if !has_line => return None,
                    End::Settled | End::Last => {
                        rows.side.truncate(side);
                        self.give_up(bytes, at, "unterminated CSV quoted field", rows)
                    }
                }
            }
            Record::Incomplete { open_quote: false } => return None,
        };
        self.marks.skip_to(next);
        Some(next)
    }

    /// Gives up the record at `at`, which is too long; returns where the next line starts.
    pub fn give_up_record(&mut self, bytes: &[u8], at: usize, rows: &mut Rows) -> usize {
        let reason = rows.too_long();
        let next = self.give_up(bytes, at, &reason, rows);
        self.marks.seek(next);
        next
    }

    /// Reports the first line of a record and returns where the next line starts.
    fn give_up(&mut self, bytes: &[u8], at: usize, reason: &str, rows: &mut Rows) -> usize {
        let end = memchr(b'\n', &bytes[at..]).map_or(bytes.len(), |n| at + n);
        rows.error(bytes, at, end, reason.into());
        rows.line += 1;
        (end + 1).min(bytes.len())
    }

    /// Completes a record of `fields` fields, or reports it.
    #[inline]
    fn close(
        &mut self,
        bytes: &[u8],
        at: usize,
        end: usize,
        fields: usize,
        lines: u64,
        rows: &mut Rows,
    ) {
        let width = self.order.len();
        if end.saturating_sub(at) > rows.line_bytes_max {
            rows.error(bytes, at, end, rows.too_long());
        } else if fields != width {
            // An empty line is a NULL where there is one column, and nothing where there are several.
            if !(fields == 1 && end <= at) {
                let reason = if fields < width {
                    format!(
                        "missing data for column \"{}\": expected {width} fields, found {fields}",
                        self.names[self.order[fields]]
                    )
                } else {
                    format!(
                        "extra data after last expected column: expected {width} fields, found {fields}"
                    )
                };
                rows.error(bytes, at, end.max(at), reason);
            }
        } else if rows.dirty && !rows.check_text(bytes, at, end.max(at)) {
            // check_text has reported it.
        } else {
            rows.block.close_row(at, end.max(at), rows.line);
        }
        rows.line += lines;
    }

    /// Finds the fields of the record at `at`; gives how many it has. `opened` gets the opening quotes of those of several lines.
    fn record(
        &self,
        bytes: &[u8],
        at: usize,
        end: End,
        rows: &mut Rows,
        opened: &mut Vec<usize>,
    ) -> (Record, usize) {
        let f = &self.format;
        let (mut pos, mut column) = (at, 0);
        loop {
            let (field, quoted) = if bytes.get(pos) == Some(&f.quote) {
                let known = self.failing.get(&pos).copied();
                let found = match known {
                    Some(Some(reason)) => return (Record::Broken(reason), column),
                    Some(None) => None,
                    None => self.quoted(bytes, pos + 1, rows),
                };
                let Some((field, after)) = found else {
                    opened.push(pos);
                    return (Record::Incomplete { open_quote: true }, column);
                };
                if memchr(b'\n', &bytes[pos..after]).is_some() {
                    opened.push(pos);
                }
                pos = after;
                (field, true)
            } else {
                let len = memchr2(f.delimiter, b'\n', &bytes[pos..]);
                let stop = len.map_or(bytes.len(), |n| pos + n);
                let cr =
                    stop > pos && bytes.get(stop) != Some(&f.delimiter) && bytes[stop - 1] == b'\r';
                let text_end = stop - usize::from(cr);
                let null = bytes[pos..text_end] == f.null;
                let field = if null {
                    Field::NULL
                } else {
                    Field::main(pos, text_end)
                };
                pos = text_end;
                (field, false)
            };
            // Fields beyond the declared ones are only counted.
            let place = self.order.get(column).copied().unwrap_or(column);
            if let Some(slot) = rows.block.open_row().get_mut(place) {
                *slot = field;
            }
            column += 1;
            let line_end = pos;
            if bytes.get(pos) == Some(&b'\r') && matches!(bytes.get(pos + 1), Some(b'\n') | None) {
                pos += 1;
            }
            match bytes.get(pos) {
                Some(b'\n') => {
                    return (
                        Record::Complete {
                            end: line_end,
                            next: pos + 1,
                        },
                        column,
                    );
                }
                Some(b) if *b == f.delimiter => pos += 1,
                None if end == End::Last => {
                    return (
                        Record::Complete {
                            end: line_end,
                            next: pos,
                        },
                        column,
                    );
                }
                None => return (Record::Incomplete { open_quote: false }, column),
                Some(_) if quoted => {
                    return (
                        Record::Broken("unexpected character after a closing quote"),
                        column,
                    );
                }
                Some(_) => return (Record::Broken("unexpected carriage return"), column),
            }
        }
    }

    /// The text after an opening quote, and the position after the closing one; `None` if there is none.
    fn quoted(&self, bytes: &[u8], start: usize, rows: &mut Rows) -> Option<(Field, usize)> {
        let f = &self.format;
        let side = rows.side.len();
        let mut pos = start;
        let mut copied = start;
        loop {
            pos += memchr2(f.quote, f.escape, &bytes[pos..])?;
            let escaped = bytes[pos] == f.escape
                && (bytes.get(pos + 1) == Some(&f.quote)
                    || (f.escape != f.quote && bytes.get(pos + 1) == Some(&f.escape)));
            if escaped {
                rows.side.extend_from_slice(&bytes[copied..pos]);
                copied = pos + 1;
                pos += 2;
            } else if bytes[pos] == f.quote {
                break;
            } else {
                pos += 1;
            }
        }
        let field = if copied == start {
            Field::main(start, pos)
        } else {
            rows.side.extend_from_slice(&bytes[copied..pos]);
            Field::side(side, rows.side.len())
        };
        Some((field, pos + 1))
    }
}
