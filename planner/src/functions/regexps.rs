//! Regular expressions: all matches, counting, positions, parts.

use std::sync::Arc;

use arrow::array::ListArray;
use arrow::array::cast::AsArray;
use arrow::buffer::OffsetBuffer;
use tidemill_zset::schema::SqlType;

use super::array::TextListBuilder;
use super::registry::Registry;
use super::strings::{replacement, with_regex};
use super::{Args, Kernel, external, kernel};
use crate::error::{Result, SqlError};

/// The groups of each match, or the whole of it; only the first match without the flag `g`.
fn matches(text: &str, pattern: &str, flags: &str) -> Result<Vec<Vec<Option<String>>>> {
    let all = flags.contains('g');
    let flags = flags.replace('g', "");
    with_regex(pattern, &flags, |re| {
        re.captures_iter(text)
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
        let captures = re.captures_iter(&text[from..]).nth(n as usize - 1)?;
        let m = captures.get(group as usize)?;
        Some((from + m.start(), from + m.end()))
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
    let rest: String = text.chars().skip(start as usize - 1).collect();
    with_regex(
        pattern,
        flags,
        |re| Some(re.find_iter(&rest).count() as i32),
    )
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
    let mut places = s.char_indices().map(|(i, _)| i);
    let from = places.nth(start as usize - 1).unwrap_or(s.len());
    let r = replacement(r);
    with_regex(p, flags, |re| {
        let mut seen = 0;
        let changed = re.replace_all(&s[from..], |c: &regex::Captures| {
            seen += 1;
            let mut out = String::new();
            match n == 0 || seen == n {
                true => c.expand(&r, &mut out),
                false => out.push_str(&c[0]),
            }
            out
        });
        Some(format!("{}{changed}", &s[..from]))
    })
}

/// Registers the functions of this file.
pub fn register(r: &mut Registry) {
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
        kernel!(|s: text, p: text, n: int4, f: text| -> int4 count(s, p, f, n)),
    );
    r.add_fallible(
        "regexp_like(text, text) bool",
        kernel!(|s: text, p: text| -> bool with_regex(p, "", |re| Some(re.is_match(s)))),
    );
    r.add_fallible(
        "regexp_like(text, text, text) bool",
        kernel!(|s: text, p: text, f: text| -> bool with_regex(p, f, |re| Some(re.is_match(s)))),
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
            Ok(nth(s, p, f, start, n, 0)?.map(|(a, b)| s[a..b].to_string()))
        }),
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
                Ok(Some(position(s, nth(s, p, "", start, n, 0)?, end == 1)))
            }
        ),
    );
    r.add_fallible(
        "regexp_instr(text, text, int4, int4, int4, text, int4) int4",
        kernel!(
            |s: text, p: text, start: int4, n: int4, end: int4, f: text, g: int4| -> int4 {
                Ok(Some(position(s, nth(s, p, f, start, n, g)?, end == 1)))
            }
        ),
    );
}
