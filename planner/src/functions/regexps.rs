//! Regular expressions: patterns, matches, replacing, splitting, counting, positions, parts.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::ListArray;
use arrow::array::cast::AsArray;
use arrow::buffer::OffsetBuffer;
use regex::{Captures, Regex};
use tidemill_zset::schema::SqlType;

use super::array::TextListBuilder;
use super::registry::Registry;
use super::{Args, Kernel, external, kernel};
use crate::error::{Result, SqlError};

/// Classes of characters that the regex crate has for ASCII only.
const CLASSES: [(&str, &str); 5] = [
    (":alpha:]", r"\p{Alphabetic}"),
    (":alnum:]", r"\p{Alphabetic}\p{Nd}"),
    (":upper:]", r"\p{Uppercase}"),
    (":lower:]", r"\p{Lowercase}"),
    (":space:]", r"\s"),
];

/// Names of classes of characters.
const CLASS_NAMES: [&str; 13] = [
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct",
    "space", "upper", "xdigit",
];

/// PostgreSQL's escapes, classes and brackets as the regex crate spells them.
fn translate_regex(p: &str) -> Result<String> {
    let mut out = String::with_capacity(p.len());
    let mut rest = p;
    while let Some(c) = rest.chars().next() {
        rest = match c {
            '[' => bracket(rest, &mut out)?,
            '\\' => escape(&rest[1..], &mut out),
            // A bound begins with a digit.
            '{' if !rest[1..].starts_with(|c: char| c.is_ascii_digit()) => {
                out.push_str(r"\{");
                &rest[1..]
            }
            c => {
                out.push(c);
                &rest[c.len_utf8()..]
            }
        };
    }
    Ok(out)
}

/// What follows a backslash; gives what is after it.
fn escape<'p>(rest: &'p str, out: &mut String) -> &'p str {
    let Some(c) = rest.chars().next() else {
        out.push('\\');
        return rest;
    };
    match c {
        'm' => out.push_str(r"\b{start}"),
        'M' => out.push_str(r"\b{end}"),
        'y' => out.push_str(r"\b"),
        'Y' => out.push_str(r"\B"),
        'Z' => out.push_str(r"\z"),
        'B' => out.push_str(r"\\"),
        'e' => out.push_str(r"\x1B"),
        c if c.is_alphanumeric() => {
            out.push('\\');
            out.push(c);
        }
        // The crate gives some of these a meaning.
        c => out.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
    }
    &rest[c.len_utf8()..]
}

/// A bracket expression, in which the crate has operators and brackets that POSIX doesn't; gives what is after it.
fn bracket<'p>(from: &'p str, out: &mut String) -> Result<&'p str> {
    for (word, edge) in [("[[:<:]]", r"\b{start}"), ("[[:>:]]", r"\b{end}")] {
        if let Some(rest) = from.strip_prefix(word) {
            out.push_str(edge);
            return Ok(rest);
        }
    }
    let invalid = |what: &str| {
        let message = format!("invalid regular expression: {what}");
        SqlError::new("2201B", message)
    };
    out.push('[');
    let mut rest = &from[1..];
    if let Some(after) = rest.strip_prefix('^') {
        out.push('^');
        rest = after;
    }
    let mut first = true;
    let mut before = ' ';
    loop {
        let Some(c) = rest.chars().next() else {
            return Err(invalid("brackets [] not balanced"));
        };
        let after = &rest[c.len_utf8()..];
        rest = match c {
            ']' if !first => {
                out.push(']');
                return Ok(after);
            }
            '[' if after.starts_with(':') => {
                let (name, end) = after[1..]
                    .split_once(":]")
                    .ok_or_else(|| invalid("brackets [] not balanced"))?;
                if !CLASS_NAMES.contains(&name) {
                    return Err(invalid("invalid character class"));
                }
                let own = CLASSES.iter().find(|(n, _)| n[1..].starts_with(name));
                match own {
                    Some((_, class)) => out.push_str(class),
                    None => out.push_str(&format!("[:{name}:]")),
                }
                end
            }
            '[' if after.starts_with(['.', '=']) => {
                let mark = &after[..1];
                let (element, end) = after[1..]
                    .split_once(&format!("{mark}]"))
                    .ok_or_else(|| invalid("brackets [] not balanced"))?;
                let mut chars = element.chars();
                match (chars.next(), chars.next()) {
                    (Some(c), None) => push_member(c, out),
                    _ => return Err(invalid("invalid collating element")),
                }
                end
            }
            '\\' => escape(after, out),
            '-' if before == '-' || first || after.starts_with(']') => {
                out.push_str(r"\-");
                after
            }
            '-' => {
                out.push('-');
                after
            }
            c => {
                push_member(c, out);
                after
            }
        };
        (first, before) = (false, c);
    }
}

/// A character that stands for itself in brackets.
fn push_member(c: char, out: &mut String) {
    if matches!(c, '[' | ']' | '&' | '~' | '^' | '-') {
        out.push('\\');
    }
    out.push(c);
}

/// What the letters of a flags argument say; of those about the same, the last one counts.
#[derive(Default)]
struct Options {
    insensitive: bool,
    /// `.` and negated classes don't match a line's end.
    dot_stops: bool,
    /// `^` and `$` match at lines.
    lines: bool,
    expanded: bool,
    literal: bool,
}

impl Options {
    fn of(flags: &str) -> Result<Options> {
        let mut o = Options::default();
        for flag in flags.chars() {
            match flag {
                'i' => o.insensitive = true,
                'c' => o.insensitive = false,
                'm' | 'n' => (o.dot_stops, o.lines) = (true, true),
                's' => (o.dot_stops, o.lines) = (false, false),
                'p' => (o.dot_stops, o.lines) = (true, false),
                'w' => (o.dot_stops, o.lines) = (false, true),
                'x' => o.expanded = true,
                't' => o.expanded = false,
                'q' => o.literal = true,
                'b' | 'e' => o.literal = false,
                // Said to the function, not to the pattern.
                'g' => {}
                other => {
                    return Err(SqlError::new(
                        "22023",
                        format!("invalid regular expression option: \"{other}\""),
                    ));
                }
            }
        }
        Ok(o)
    }
}

/// Compiled patterns that a thread keeps: patterns are mostly constant, but there may be an array of them.
const KEPT_MAX: usize = 64;

thread_local! {
    static KEPT: RefCell<HashMap<String, Regex>> = RefCell::default();
}

pub(super) fn with_regex<T>(pattern: &str, flags: &str, f: impl FnOnce(&Regex) -> T) -> Result<T> {
    let key = format!("{flags}/{pattern}");
    KEPT.with_borrow_mut(|kept| {
        if let Some(re) = kept.get(&key) {
            return Ok(f(re));
        }
        let re = compiled(pattern, &Options::of(flags)?)?;
        let found = f(&re);
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        kept.insert(key, re);
        Ok(found)
    })
}

fn compiled(pattern: &str, options: &Options) -> Result<Regex> {
    let translated = match options.literal {
        true => regex::escape(pattern),
        false => translate_regex(pattern)?,
    };
    let built = regex::RegexBuilder::new(&translated)
        .case_insensitive(options.insensitive)
        .dot_matches_new_line(!options.dot_stops)
        .multi_line(options.lines)
        .ignore_whitespace(options.expanded)
        .size_limit(1 << 22)
        .build();
    built.map_err(|e| {
        let text = e.to_string();
        let last = text.lines().last().unwrap_or_default();
        let reason = last.trim_start_matches("error: ");
        SqlError::new("2201B", format!("invalid regular expression: {reason}"))
    })
}

/// `\1` and `\&` in a replacement.
fn replacement(r: &str) -> String {
    let mut out = String::new();
    let mut chars = r.chars();
    while let Some(c) = chars.next() {
        match c {
            '$' => out.push_str("$$"),
            '\\' => match chars.next() {
                Some('&') => out.push_str("${0}"),
                Some(d @ '1'..='9') => out.push_str(&format!("${{{d}}}")),
                Some('\\') | None => out.push('\\'),
                Some(c) => {
                    out.push_str(if c == '$' { "\\$" } else { "\\" });
                    out.push(c);
                }
            },
            c => out.push(c),
        }
    }
    out
}

fn regexp_replace(s: &str, p: &str, r: &str, flags: &str) -> Result<Option<String>> {
    let n = if flags.contains('g') { 0 } else { 1 };
    with_regex(p, flags, |re| {
        Some(replaced(re, (s, 0), &replacement(r), n))
    })
}

/// What is found in a text from byte `from` on, one after the other. Right behind a match there may be an empty one, other than by the
/// crate's own iterators; behind an empty one the next character is passed over.
fn successive<T>(
    text: &str,
    mut from: usize,
    mut find: impl FnMut(usize) -> Option<(T, std::ops::Range<usize>)>,
) -> impl Iterator<Item = T> {
    std::iter::from_fn(move || {
        let (found, at) = find(Some(from).filter(|from| *from <= text.len())?)?;
        from = match at.is_empty() {
            true => at.end + text[at.end..].chars().next().map_or(1, char::len_utf8),
            false => at.end,
        };
        Some(found)
    })
}

fn all_found<'a>(
    re: &'a Regex,
    text: &'a str,
    from: usize,
) -> impl Iterator<Item = std::ops::Range<usize>> + use<'a> {
    successive(text, from, |from| {
        let at = re.find_at(text, from)?.range();
        Some((at.clone(), at))
    })
}

fn all_captures<'a>(
    re: &'a Regex,
    text: &'a str,
    from: usize,
) -> impl Iterator<Item = Captures<'a>> + use<'a> {
    successive(text, from, |from| {
        let captures = re.captures_at(text, from)?;
        let at = captures.get(0)?.range();
        Some((captures, at))
    })
}

/// The text with match `n` from byte `from` on replaced, or all of them where `n` is 0.
fn replaced(re: &Regex, (text, from): (&str, usize), by: &str, n: usize) -> String {
    let (mut out, mut done) = (String::new(), 0);
    let many = if n == 0 { usize::MAX } else { n };
    for (captures, number) in all_captures(re, text, from).take(many).zip(1..) {
        let at = captures.get(0).map_or(0..0, |m| m.range());
        if n == 0 || number == n {
            out.push_str(&text[done..at.start]);
            captures.expand(by, &mut out);
            done = at.end;
        }
    }
    out.push_str(&text[done..]);
    out
}

/// The first match's groups, or the whole of it.
pub(super) fn regexp_match(s: &str, p: &str, flags: &str) -> Result<Option<Vec<Option<String>>>> {
    with_regex(p, flags, |re| {
        re.captures(s).map(|c| {
            if c.len() == 1 {
                vec![c.get(0).map(|m| m.as_str().to_string())]
            } else {
                c.iter()
                    .skip(1)
                    .map(|m| m.map(|m| m.as_str().to_string()))
                    .collect()
            }
        })
    })
}

fn regexp_split(s: &str, p: &str, flags: &str) -> Result<Option<Vec<Option<String>>>> {
    with_regex(p, flags, |re| {
        let (mut parts, mut from) = (vec![], 0);
        for m in all_found(re, s, 0) {
            // Nothing is found at the ends, nor right behind what was.
            if m.is_empty() && (m.start == from || m.end == s.len()) {
                continue;
            }
            parts.push(Some(s[from..m.start].to_string()));
            from = m.end;
        }
        parts.push(Some(s[from..].to_string()));
        Some(parts)
    })
}

/// The groups of each match, or the whole of it; only the first match without the flag `g`.
fn matches(text: &str, pattern: &str, flags: &str) -> Result<Vec<Vec<Option<String>>>> {
    let all = flags.contains('g');
    let flags = flags.replace('g', "");
    with_regex(pattern, &flags, |re| {
        all_captures(re, text, 0)
            .take(if all { usize::MAX } else { 1 })
            .map(|c| {
                let from = usize::from(c.len() > 1);
                c.iter()
                    .skip(from)
                    .map(|m| m.map(|m| m.as_str().to_string()))
                    .collect()
            })
            .collect()
    })
}

fn all_matches(with_flags: bool) -> Kernel {
    Arc::new(move |a: &Args| {
        let text = |i: usize, row: usize| a.arrays[i].as_string_view().value(a.at(i, row));
        let mut items = TextListBuilder::default();
        let mut lengths = Vec::with_capacity(a.rows);
        let mut valid = Vec::with_capacity(a.rows);
        for row in 0..a.rows {
            let null = (0..a.arrays.len()).any(|i| a.is_null(i, row));
            valid.push(!null);
            if null {
                lengths.push(0);
                continue;
            }
            let flags = if with_flags { text(2, row) } else { "" };
            let found = matches(text(0, row), text(1, row), flags).map_err(external)?;
            lengths.push(found.len());
            found.into_iter().for_each(|m| items.append_value(m));
        }
        let of = SqlType::Array(Box::new(SqlType::Text));
        let lists = ListArray::new(
            Arc::new(of.field("item", true)),
            OffsetBuffer::from_lengths(lengths),
            Arc::new(items.finish()),
            Some(valid.into()),
        );
        Ok(Arc::new(lists))
    })
}

/// The `n`-th match (or its group `group`) from character `start` on: first byte and end.
fn nth(
    text: &str,
    pattern: &str,
    flags: &str,
    start: i32,
    n: i32,
    group: i32,
) -> Result<Option<(usize, usize)>> {
    for (name, value, least) in [("start", start, 1), ("n", n, 1), ("subexpr", group, 0)] {
        if value < least {
            return Err(SqlError::new(
                "22023",
                format!("invalid value for parameter \"{name}\": {value}"),
            ));
        }
    }
    let Some(from) = text
        .char_indices()
        .map(|(i, _)| i)
        .chain([text.len()])
        .nth(start as usize - 1)
    else {
        return Ok(None);
    };
    with_regex(pattern, flags, |re| {
        let captures = all_captures(re, text, from).nth(n as usize - 1)?;
        let m = captures.get(group as usize)?;
        Some((m.start(), m.end()))
    })
}

fn position(text: &str, at: Option<(usize, usize)>, end: bool) -> i32 {
    match at {
        None => 0,
        Some((from, to)) => text[..if end { to } else { from }].chars().count() as i32 + 1,
    }
}

fn count(text: &str, pattern: &str, flags: &str, start: i32) -> Result<Option<i32>> {
    if start < 1 {
        return Err(SqlError::new(
            "22023",
            format!("invalid value for parameter \"start\": {start}"),
        ));
    }
    let mut places = text.char_indices().map(|(i, _)| i).chain([text.len()]);
    let Some(from) = places.nth(start as usize - 1) else {
        return Ok(Some(0));
    };
    with_regex(pattern, flags, |re| {
        Some(all_found(re, text, from).count() as i32)
    })
}

/// regexp_replace from character `start` on, of the match `n` or, where it is 0, of all.
fn regexp_replace_from(
    (s, p, r): (&str, &str, &str),
    start: i32,
    n: i32,
    flags: &str,
) -> Result<Option<String>> {
    for (name, value, least) in [("start", start, 1), ("n", n, 0)] {
        if value < least {
            return Err(SqlError::new(
                "22023",
                format!("invalid value for parameter \"{name}\": {value}"),
            ));
        }
    }
    let mut places = s.char_indices().map(|(i, _)| i).chain([s.len()]);
    let Some(from) = places.nth(start as usize - 1) else {
        return Ok(Some(s.to_string()));
    };
    let r = replacement(r);
    with_regex(p, flags, |re| Some(replaced(re, (s, from), &r, n as usize)))
}

/// Flags of a function that looks for one match, or splits at all.
fn not_global<'f>(function: &str, flags: &'f str) -> Result<&'f str> {
    match flags.contains('g') {
        false => Ok(flags),
        true => Err(SqlError::new(
            "22023",
            format!("{function}() does not support the \"global\" option"),
        )),
    }
}

/// Where a match begins, or, where `end` is 1, ends.
fn instr(text: &str, at: Option<(usize, usize)>, end: i32) -> Result<Option<i32>> {
    match end {
        0 | 1 => Ok(Some(position(text, at, end == 1))),
        _ => Err(SqlError::new(
            "22023",
            format!("invalid value for parameter \"endoption\": {end}"),
        )),
    }
}

/// Registers the functions of this file.
pub fn register(r: &mut Registry) {
    r.add_fallible(
        "textregexeq(text, text) bool",
        kernel!(|s: text, p: text| -> bool with_regex(p, "", |r| Some(r.is_match(s)))),
    );
    r.add_fallible(
        "texticregexeq(text, text) bool",
        kernel!(|s: text, p: text| -> bool with_regex(p, "i", |r| Some(r.is_match(s)))),
    );
    r.add_fallible(
        "regexp_like(text, text) bool",
        kernel!(|s: text, p: text| -> bool with_regex(p, "", |r| Some(r.is_match(s)))),
    );
    r.add_fallible(
        "regexp_replace(text, text, text) text",
        kernel!(|s: text, p: text, t: text| -> text regexp_replace(s, p, t, "")),
    );
    r.add_fallible(
        "regexp_replace(text, text, text, text) text",
        kernel!(|s: text, p: text, t: text, f: text| -> text regexp_replace(s, p, t, f)),
    );
    r.add_fallible(
        "regexp_match(text, text) text[]",
        kernel!(|s: text, p: text| -> text_list regexp_match(s, p, "")),
    );
    r.add_fallible(
        "regexp_match(text, text, text) text[]",
        kernel!(|s: text, p: text, f: text| -> text_list {
            let f = not_global("regexp_match", f)
                .map_err(|e| e.hint("Use the regexp_matches function instead."))?;
            regexp_match(s, p, f)
        }),
    );
    r.add_fallible(
        "regexp_split_to_array(text, text) text[]",
        kernel!(|s: text, p: text| -> text_list regexp_split(s, p, "")),
    );
    r.add_fallible(
        "regexp_split_to_array(text, text, text) text[]",
        kernel!(|s: text, p: text, f: text| -> text_list {
            regexp_split(s, p, not_global("regexp_split_to_array", f)?)
        }),
    );
    r.add_fallible(
        "regexp_split_to_table_list(text, text) text[]",
        kernel!(|s: text, p: text| -> text_list regexp_split(s, p, "")),
    );
    r.add_fallible(
        "regexp_split_to_table_list(text, text, text) text[]",
        kernel!(|s: text, p: text, f: text| -> text_list {
            regexp_split(s, p, not_global("regexp_split_to_table", f)?)
        }),
    );
    r.add_fallible("regexp_count(text, text) int4", kernel!(|s: text, p: text| -> int4 with_regex(p, "", |r| Some(all_found(r, s, 0).count() as i32))));
    r.add_fallible(
        "regexp_replace(text, text, text, int4) text",
        kernel!(|s: text, p: text, t: text, start: int4| -> text {
            regexp_replace_from((s, p, t), start, 1, "")
        }),
    );
    r.add_fallible(
        "regexp_replace(text, text, text, int4, int4) text",
        kernel!(|s: text, p: text, t: text, start: int4, n: int4| -> text {
            regexp_replace_from((s, p, t), start, n, "")
        }),
    );
    r.add_fallible(
        "regexp_replace(text, text, text, int4, int4, text) text",
        kernel!(
            |s: text, p: text, t: text, start: int4, n: int4, f: text| -> text {
                regexp_replace_from((s, p, t), start, n, f)
            }
        ),
    );
    r.add_typed("regexp_matches_list(text, text) text[][]", |_| {
        all_matches(false)
    });
    r.add_typed("regexp_matches_list(text, text, text) text[][]", |_| {
        all_matches(true)
    });
    r.add_fallible(
        "regexp_count(text, text, int4) int4",
        kernel!(|s: text, p: text, n: int4| -> int4 count(s, p, "", n)),
    );
    r.add_fallible(
        "regexp_count(text, text, int4, text) int4",
        kernel!(|s: text, p: text, n: int4, f: text| -> int4 {
            count(s, p, not_global("regexp_count", f)?, n)
        }),
    );
    r.add_fallible(
        "regexp_like(text, text, text) bool",
        kernel!(|s: text, p: text, f: text| -> bool {
            with_regex(p, not_global("regexp_like", f)?, |re| Some(re.is_match(s)))
        }),
    );
    r.add_fallible(
        "regexp_substr(text, text) text",
        kernel!(|s: text, p: text| -> text {
            Ok(nth(s, p, "", 1, 1, 0)?.map(|(a, b)| s[a..b].to_string()))
        }),
    );
    r.add_fallible(
        "regexp_substr(text, text, int4) text",
        kernel!(|s: text, p: text, start: int4| -> text {
            Ok(nth(s, p, "", start, 1, 0)?.map(|(a, b)| s[a..b].to_string()))
        }),
    );
    r.add_fallible(
        "regexp_substr(text, text, int4, int4) text",
        kernel!(|s: text, p: text, start: int4, n: int4| -> text {
            Ok(nth(s, p, "", start, n, 0)?.map(|(a, b)| s[a..b].to_string()))
        }),
    );
    r.add_fallible(
        "regexp_substr(text, text, int4, int4, text) text",
        kernel!(|s: text, p: text, start: int4, n: int4, f: text| -> text {
            let f = not_global("regexp_substr", f)?;
            Ok(nth(s, p, f, start, n, 0)?.map(|(a, b)| s[a..b].to_string()))
        }),
    );
    r.add_fallible(
        "regexp_substr(text, text, int4, int4, text, int4) text",
        kernel!(
            |s: text, p: text, start: int4, n: int4, f: text, g: int4| -> text {
                let f = not_global("regexp_substr", f)?;
                Ok(nth(s, p, f, start, n, g)?.map(|(a, b)| s[a..b].to_string()))
            }
        ),
    );
    r.add_fallible(
        "regexp_instr(text, text) int4",
        kernel!(|s: text, p: text| -> int4 Ok(Some(position(s, nth(s, p, "", 1, 1, 0)?, false)))),
    );
    r.add_fallible(
        "regexp_instr(text, text, int4) int4",
        kernel!(|s: text, p: text, start: int4| -> int4 {
            Ok(Some(position(s, nth(s, p, "", start, 1, 0)?, false)))
        }),
    );
    r.add_fallible(
        "regexp_instr(text, text, int4, int4) int4",
        kernel!(|s: text, p: text, start: int4, n: int4| -> int4 {
            Ok(Some(position(s, nth(s, p, "", start, n, 0)?, false)))
        }),
    );
    r.add_fallible(
        "regexp_instr(text, text, int4, int4, int4) int4",
        kernel!(
            |s: text, p: text, start: int4, n: int4, end: int4| -> int4 {
                instr(s, nth(s, p, "", start, n, 0)?, end)
            }
        ),
    );
    r.add_fallible(
        "regexp_instr(text, text, int4, int4, int4, text) int4",
        kernel!(
            |s: text, p: text, start: int4, n: int4, end: int4, f: text| -> int4 {
                let f = not_global("regexp_instr", f)?;
                instr(s, nth(s, p, f, start, n, 0)?, end)
            }
        ),
    );
    r.add_fallible(
        "regexp_instr(text, text, int4, int4, int4, text, int4) int4",
        kernel!(
            |s: text, p: text, start: int4, n: int4, end: int4, f: text, g: int4| -> int4 {
                let f = not_global("regexp_instr", f)?;
                instr(s, nth(s, p, f, start, n, g)?, end)
            }
        ),
    );
}
