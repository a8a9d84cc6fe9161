//! LIKE with an escape character of its own; LIKE and regular expressions with an array of patterns.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::cast::AsArray;
use arrow::array::{Array, BooleanBuilder};
use regex::Regex;

use super::regexps::with_regex;
use super::registry::Registry;
use super::{Args, Kernel, external, kernel};
use crate::error::{Result, SqlError};

/// A LIKE pattern as a regex.
fn translated(pattern: &str, escape: &str, insensitive: bool) -> Result<String> {
    let mut chars = escape.chars();
    let (escape, None) = (chars.next(), chars.next()) else {
        return Err(SqlError::new("22025", "invalid escape string")
            .hint("Escape string must be empty or one character."));
    };
    let mut re = String::from(if insensitive { "(?is)^" } else { "(?s)^" });
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        if Some(c) == escape {
            let Some(c) = chars.next() else {
                return Err(SqlError::new(
                    "22025",
                    "LIKE pattern must not end with escape character",
                ));
            };
            re.push_str(&regex::escape(&c.to_string()));
        } else {
            match c {
                '%' => re.push_str(".*"),
                '_' => re.push('.'),
                c => re.push_str(&regex::escape(&c.to_string())),
            }
        }
    }
    re.push('$');
    Ok(re)
}

/// Patterns that are kept as regexes, per thread.
const KEPT_MAX: usize = 64;

thread_local! {
    static KEPT: RefCell<HashMap<String, Regex>> = RefCell::default();
}

fn like(s: &str, pattern: &str, escape: &str, insensitive: bool) -> Result<Option<bool>> {
    let re = translated(pattern, escape, insensitive)?;
    KEPT.with_borrow_mut(|kept| {
        if let Some(re) = kept.get(&re) {
            return Ok(Some(re.is_match(s)));
        }
        let compiled = Regex::new(&re).map_err(|e| SqlError::internal(e.to_string()))?;
        let found = compiled.is_match(s);
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        kept.insert(re, compiled);
        Ok(Some(found))
    })
}

/// Whether a text is like any or all of an array's patterns.
fn like_each(each: Each) -> Kernel {
    let Each {
        any,
        insensitive,
        negated,
        regex,
    } = each;
    let matches = move |text: &str, pattern: &str, escape: &str| match regex {
        true => with_regex(pattern, if insensitive { "i" } else { "" }, |re| {
            Some(re.is_match(text))
        }),
        false => like(text, pattern, escape, insensitive),
    };
    Arc::new(move |a: &Args| {
        let (texts, lists) = (a.arrays[0].as_string_view(), a.arrays[1].as_list::<i32>());
        let escapes = a.arrays[2].as_string_view();
        let mut out = BooleanBuilder::with_capacity(a.rows);
        for row in 0..a.rows {
            let (text, list) = (a.at(0, row), a.at(1, row));
            if lists.is_null(list) {
                out.append_null();
                continue;
            }
            let patterns = lists.value(list);
            let escape = escapes.value(a.at(2, row));
            let mut found = Some(!any);
            for pattern in patterns.as_string_view() {
                let one = match pattern {
                    Some(pattern) if !texts.is_null(text) => {
                        matches(texts.value(text), pattern, escape).map_err(external)?
                    }
                    _ => None,
                };
                match one {
                    // It decides, whatever is unknown.
                    Some(one) if (one != negated) == any => {
                        found = Some(any);
                        break;
                    }
                    Some(_) => {}
                    None => found = None,
                }
            }
            out.append_option(found);
        }
        Ok(Arc::new(out.finish()))
    })
}

/// Registers the functions of this file.
pub fn register(r: &mut Registry) {
    r.add_fallible(
        "like_escape(text, text, text) bool",
        kernel!(|s: text, p: text, e: text| -> bool like(s, p, e, false)),
    );
    r.add_fallible(
        "ilike_escape(text, text, text) bool",
        kernel!(|s: text, p: text, e: text| -> bool like(s, p, e, true)),
    );
    for (signature, each) in EACH {
        r.add_fallible(signature, like_each(each));
    }
}

/// How a text is compared with an array of patterns.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Each {
    /// One of them is enough.
    pub any: bool,
    /// ILIKE
    pub insensitive: bool,
    /// NOT LIKE
    pub negated: bool,
    /// The patterns are regular expressions.
    pub regex: bool,
}

const fn each(regex: bool, any: bool, insensitive: bool, negated: bool) -> Each {
    Each {
        any,
        insensitive,
        negated,
        regex,
    }
}

const EACH: [(&str, Each); 16] = [
    (
        "like_all(text, text[], text) bool",
        each(false, false, false, false),
    ),
    (
        "like_any(text, text[], text) bool",
        each(false, true, false, false),
    ),
    (
        "ilike_all(text, text[], text) bool",
        each(false, false, true, false),
    ),
    (
        "ilike_any(text, text[], text) bool",
        each(false, true, true, false),
    ),
    (
        "not_like_all(text, text[], text) bool",
        each(false, false, false, true),
    ),
    (
        "not_like_any(text, text[], text) bool",
        each(false, true, false, true),
    ),
    (
        "not_ilike_all(text, text[], text) bool",
        each(false, false, true, true),
    ),
    (
        "not_ilike_any(text, text[], text) bool",
        each(false, true, true, true),
    ),
    (
        "match_all(text, text[], text) bool",
        each(true, false, false, false),
    ),
    (
        "match_any(text, text[], text) bool",
        each(true, true, false, false),
    ),
    (
        "imatch_all(text, text[], text) bool",
        each(true, false, true, false),
    ),
    (
        "imatch_any(text, text[], text) bool",
        each(true, true, true, false),
    ),
    (
        "not_match_all(text, text[], text) bool",
        each(true, false, false, true),
    ),
    (
        "not_match_any(text, text[], text) bool",
        each(true, true, false, true),
    ),
    (
        "not_imatch_all(text, text[], text) bool",
        each(true, false, true, true),
    ),
    (
        "not_imatch_any(text, text[], text) bool",
        each(true, true, true, true),
    ),
];

impl Each {
    /// The function that compares so: of the text, the patterns and the escape character.
    pub(crate) fn function(self) -> &'static str {
        let found = EACH.iter().find(|(_, each)| *each == self);
        let signature = found.map_or("", |(signature, _)| signature);
        signature.split('(').next().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_become_regexes() {
        let re = |pattern| translated(pattern, "\\", false).unwrap();
        assert_eq!(re("a%b_c"), "(?s)^a.*b.c$");
        assert_eq!(re("10\\%.x"), "(?s)^10%\\.x$");
        assert!(translated("a\\", "\\", false).is_err());
    }
}
