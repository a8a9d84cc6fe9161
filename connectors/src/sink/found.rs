//! What stands in a sink's file behind the committed length: lines of epochs whose report a crash has prevented. They are
//! written again, perhaps in another order within an epoch; those that are there already stay where they are, so that
//! whoever reads the file sees it only grow.

use std::collections::HashMap;

use super::SinkEncoding;

/// Bytes that are looked at; where there are more, the file is cut.
pub const FOUND_BYTES_MAX: u64 = 64 << 20;
/// Bytes of an epoch's text up to which it is compared.
pub const COMPARED_BYTES_MAX: usize = 64 << 20;

/// The bytes from the committed length on.
pub struct Found(pub Vec<u8>);

/// What becomes of what was found once the text of an epoch is known.
#[derive(Debug, PartialEq, Eq)]
pub struct Taken {
    /// Bytes at the beginning that are of this epoch.
    pub kept: usize,
    /// Text to be written behind them, in the place of all that follows. Empty: everything is there, and what follows is left
    /// for later epochs.
    pub missing: Vec<u8>,
}

impl Found {
    /// Compares with `text`, the lines of one epoch in any order, and forgets what it has.
    pub fn take(&mut self, text: &[u8], encoding: SinkEncoding) -> Taken {
        let mut wanted: HashMap<&[u8], usize> = HashMap::new();
        for line in lines(text, encoding) {
            *wanted.entry(line).or_default() += 1;
        }
        let mut kept = 0;
        for line in lines(&self.0, encoding) {
            match wanted.get_mut(line) {
                Some(n) if *n > 0 => *n -= 1,
                _ => break,
            }
            kept += line.len();
        }
        let mut missing = Vec::new();
        for line in lines(text, encoding) {
            if let Some(n) = wanted.get_mut(line).filter(|n| **n > 0) {
                *n -= 1;
                missing.push(line);
            }
        }
        if missing.is_empty() {
            self.0.drain(..kept);
            let missing = Vec::new();
            return Taken { kept, missing };
        }
        // A line that was begun is ended.
        let rest = &self.0[kept..];
        let begun = missing.iter().position(|line| line.starts_with(rest));
        let mut out = Vec::with_capacity(missing.iter().map(|line| line.len()).sum());
        if let Some(at) = begun.filter(|_| !rest.is_empty()) {
            out.extend_from_slice(&missing.remove(at)[rest.len()..]);
            kept += rest.len();
        }
        missing.iter().for_each(|line| out.extend_from_slice(line));
        self.0.clear();
        Taken { kept, missing: out }
    }
}

/// The complete lines of `text`, each with its end. In CSV a line goes on within quotes.
fn lines(text: &[u8], encoding: SinkEncoding) -> impl Iterator<Item = &[u8]> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let mut quoted = false;
        let end = rest.iter().position(|b| {
            quoted ^= *b == b'"' && encoding == SinkEncoding::Csv;
            *b == b'\n' && !quoted
        })?;
        let (line, after) = rest.split_at(end + 1);
        rest = after;
        Some(line)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(found: &str, text: &str) -> (usize, String, String) {
        let mut rest = Found(found.as_bytes().to_vec());
        let Taken { kept, missing } = rest.take(text.as_bytes(), SinkEncoding::Csv);
        let text = |bytes| String::from_utf8(bytes).expect("text");
        (kept, text(missing), text(rest.0))
    }

    #[test]
    fn what_is_there_stays_in_any_order() {
        let all = |kept, rest: &str| (kept, String::new(), rest.to_string());
        assert_eq!(take("b\na\na\n", "a\nb\na\n"), all(6, ""));
        assert_eq!(
            take("b\na\nlater\nand mo", "a\nb\n"),
            all(4, "later\nand mo")
        );
        assert_eq!(take("b\n", ""), all(0, "b\n"));
        assert_eq!(
            take("\"1\n2\"\n\"1\n3\"\n", "\"1\n3\"\n\"1\n2\"\n"),
            all(12, "")
        );
    }

    #[test]
    fn what_is_missing_is_written_behind_it() {
        let some = |kept, missing: &str| (kept, missing.to_string(), String::new());
        assert_eq!(take("b\n", "a\nb\na\n"), some(2, "a\na\n"));
        assert_eq!(take("", "a\nb\n"), some(0, "a\nb\n"));
        // A line that was begun, and what isn't the sink's.
        assert_eq!(take("b\nxy", "a\nb\nxyz\n"), some(4, "z\na\n"));
        assert_eq!(take("b\nnobody's\na\n", "a\nb\n"), some(2, "a\n"));
        assert_eq!(take("b\nb\n", "a\nb\n"), some(2, "a\n"));
    }
}
