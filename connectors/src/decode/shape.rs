//! [`Shape`]: what a line of JSON has in common with one before it, so that only the rest is scanned.
//!
//! Programs write the same keys in the same order again and again. A shape is a line without its scalars: what stands between
//! them is compared byte by byte, and only scalars are scanned. That is as strict as scanning all of it: in a valid text,
//! scalars in the place of scalars leave it valid and its structure the same.

use super::json::{self, Met};

/// Longer lines, and lines with more scalars, are scanned.
const TEXT_BYTES_MAX: usize = 4096;
const SCALARS_MAX: usize = 512;
/// A shape that so many lines had was worth learning.
const HITS_MIN: u32 = 16;
/// Lines that pass at most before another shape is learned.
const WAIT_MAX: u32 = 1023;

/// A column's value in a line.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// The column.
    pub column: usize,
    /// Where the value begins and ends.
    pub start: usize,
    /// See `start`.
    pub end: usize,
    /// White space in it; a backslash in it, which where the line has the known shape can be one elsewhere.
    pub met: Met,
}

/// A position in a line that has the shape.
#[derive(Clone, Copy, Debug)]
struct Place {
    literal: usize,
    offset: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Shape {
    /// The line that it was learned from.
    text: Vec<u8>,
    /// What stands before, between and behind the scalars of `text`: from, until.
    literals: Vec<(usize, usize)>,
    /// Columns, what was met in their values, and where these lie.
    members: Vec<(usize, Met, Place, Place)>,
    /// Where the literals lie in the line that was looked at last.
    starts: Vec<usize>,
    /// Lines that had the shape.
    hits: u32,
    /// Lines to pass before a shape is learned again, and how many of them are left.
    pause: u32,
    wait: u32,
}

impl Shape {
    /// Whether the object at `at`, which must be all there is of `line`, has the shape. If so, `members` are its columns' values,
    /// as if it had been scanned.
    pub fn find(&mut self, line: &[u8], at: usize, members: &mut Vec<Member>) -> bool {
        members.clear();
        if self.literals.is_empty() {
            self.wait = self.wait.saturating_sub(1);
            return false;
        }
        let mut met = Met::default();
        if self.follow(line, at, &mut met).is_none() {
            self.pause = match self.hits {
                HITS_MIN.. => 1,
                _ => (2 * self.pause + 1).min(WAIT_MAX),
            };
            self.wait = self.pause;
            self.literals.clear();
            return false;
        }
        self.hits = self.hits.saturating_add(1);
        let starts = &self.starts;
        let position = |place: Place| starts[place.literal] + place.offset;
        let known = self.members.iter();
        members.extend(known.map(|(column, learned, start, end)| Member {
            column: *column,
            start: position(*start),
            end: position(*end),
            met: Met {
                space: learned.space,
                escape: learned.escape || met.escape,
            },
        }));
        true
    }

    /// Fills `starts`. `None`: the line has another shape.
    fn follow(&mut self, line: &[u8], mut at: usize, met: &mut Met) -> Option<()> {
        self.starts.clear();
        let (last, others) = self.literals.split_last()?;
        for (from, until) in others {
            self.starts.push(at);
            at = behind(line, at, &self.text[*from..*until])?;
            at = json::skip_scalar(line, at, met).ok()?;
        }
        self.starts.push(at);
        at = behind(line, at, &self.text[last.0..last.1])?;
        (json::skip_space(line, at) == line.len()).then_some(())
    }

    /// Whether it is time to learn.
    pub fn learns(&self) -> bool {
        self.literals.is_empty() && self.wait == 0
    }

    /// Learns the shape of the valid object `line[at..end]`, whose columns' values are `members`.
    pub fn learn(&mut self, line: &[u8], at: usize, end: usize, members: &[Member]) {
        self.hits = 0;
        self.literals.clear();
        self.members.clear();
        let (mut from, mut scalars) = (at, 0);
        let scanned = json::scan_value(line, at, &mut Met::default(), &mut |start, until| {
            if scalars < SCALARS_MAX {
                self.literals.push((from - at, start - at));
            }
            scalars += 1;
            from = until;
        });
        if scanned.is_err() || scalars > SCALARS_MAX || end - at > TEXT_BYTES_MAX {
            self.literals.clear();
            self.pause = WAIT_MAX;
            self.wait = WAIT_MAX;
            return;
        }
        self.literals.push((from - at, end - at));
        self.text.clear();
        self.text.extend_from_slice(&line[at..end]);
        for m in members {
            // A value begins behind what stands before it, and ends before what stands behind it.
            let (start, end) = (m.start - at, m.end - at);
            let first = self.literals.partition_point(|l| l.1 < start);
            let last = self.literals.partition_point(|l| l.0 <= end) - 1;
            let place = |literal: usize, position: usize| Place {
                literal,
                offset: position - self.literals[literal].0,
            };
            self.members
                .push((m.column, m.met, place(first, start), place(last, end)));
        }
    }
}

/// The position behind `literal`, if that is at `at`.
#[inline]
fn behind(line: &[u8], at: usize, literal: &[u8]) -> Option<usize> {
    let end = at + literal.len();
    same(line.get(at..end)?, literal).then_some(end)
}

/// Whether two slices of one length are equal; for short ones, without a call.
#[inline]
fn same(a: &[u8], b: &[u8]) -> bool {
    let eight = |s: &[u8], at: usize| {
        let bytes = s.get(at..at + 8).map(<[u8; 8]>::try_from);
        bytes.and_then(Result::ok).map(u64::from_ne_bytes)
    };
    let n = a.len();
    if n < 8 {
        return a.iter().zip(b).all(|(a, b)| a == b);
    }
    let mut at = 0;
    while at + 8 < n {
        if eight(a, at) != eight(b, at) {
            return false;
        }
        at += 8;
    }
    eight(a, n - 8) == eight(b, n - 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Learns from the first line; the values found in the second.
    fn found(learned: &str, members: &[(usize, &str)], line: &str) -> Option<Vec<String>> {
        let mut shape = Shape::default();
        let of = |(column, value): &(usize, &str)| {
            let start = learned.find(value).unwrap();
            Member {
                column: *column,
                start,
                end: start + value.len(),
                met: Met::default(),
            }
        };
        let members: Vec<Member> = members.iter().map(of).collect();
        shape.learn(learned.as_bytes(), 0, learned.len(), &members);
        let mut out = Vec::new();
        shape.find(line.as_bytes(), 0, &mut out).then(|| {
            let text = |m: &Member| format!("{}={}", m.column, &line[m.start..m.end]);
            out.iter().map(text).collect()
        })
    }

    #[test]
    fn scalars_may_differ() {
        let line = r#"{"a":1,"b":"x","c":[{"d":true},{}]}"#;
        let members = [(0, "1"), (2, "\"x\""), (1, r#"[{"d":true},{}]"#)];
        let same = found(
            line,
            &members,
            r#"{"a":-1.5e7,"b":null,"c":[{"d":"]}"},{}]} "#,
        );
        let expected = ["0=-1.5e7", "2=null", r#"1=[{"d":"]}"},{}]"#];
        assert_eq!(same.unwrap(), expected);
        for other in [
            r#"{"a":1,"b":"x","c":[{"d":true},{}]"#,
            r#"{"a":1,"b":"x","c":[{"d":true},{}]}}"#,
            r#"{"a":1,"b":"x","c":[{"d":true}]}"#,
            r#"{"a":1,"b":[],"c":[{"d":true},{}]}"#,
            r#"{"a":1x,"b":"x","c":[{"d":true},{}]}"#,
            r#"{"a":01,"b":"x","c":[{"d":true},{}]}"#,
            r#"{"a":1,"b":"\x","c":[{"d":true},{}]}"#,
            r#"{"a":1,"b":"x","C":[{"d":true},{}]}"#,
            r#"{"a":1,"b":"x", "c":[{"d":true},{}]}"#,
            r#"{"a":1,"b":"x","c":[{"d":tru},{}]}"#,
            "",
        ] {
            assert_eq!(found(line, &members, other), None, "{other}");
        }
        assert_eq!(found("{}", &[], "{} "), Some(vec![]));
    }

    #[test]
    fn what_is_too_large_is_not_learned() {
        let long = format!(r#"{{"a":"{}"}}"#, "x".repeat(TEXT_BYTES_MAX));
        let many = format!(r#"{{"a":[{}0]}}"#, "0,".repeat(SCALARS_MAX));
        for line in [long, many] {
            assert_eq!(found(&line, &[], &line), None);
        }
    }

    #[test]
    fn shapes_that_vary_are_rarely_learned() {
        let mut shape = Shape::default();
        let mut learned = 0;
        for i in 0..100_000 {
            let line = format!(r#"{{"a":[{}]}}"#, "[],".repeat(i % 7) + "1");
            let found = shape.find(line.as_bytes(), 0, &mut Vec::new());
            if !found && shape.learns() {
                shape.learn(line.as_bytes(), 0, line.len(), &[]);
                learned += 1;
            }
        }
        assert!((20..200).contains(&learned), "{learned}");
    }

    #[test]
    fn comparison_looks_at_each_byte() {
        for n in 0..40 {
            let a: Vec<u8> = (0..n).collect();
            assert!(same(&a, &a));
            for i in 0..a.len() {
                let mut b = a.clone();
                b[i] ^= 1;
                assert!(!same(&a, &b));
            }
        }
    }
}
