//! SIMILAR TO, and substring by such a pattern.

use super::kernel;
use super::regexps::with_regex;
use super::registry::Registry;
use crate::error::{Result, SqlError};

/// A SIMILAR TO pattern as a regex. With two separators, an escape before a double quote, the part between them is
/// group 1; `part`: it is asked for, and what stands before it is as short as can be.
fn translated(pattern: &str, escape: &str, part: bool) -> Result<String> {
    let mut letters = escape.chars();
    let escape = letters.next();
    if letters.next().is_some() {
        return Err(SqlError::new("22025", "invalid escape string")
            .hint("Escape string must be empty or one character."));
    }
    let two = escape.is_some_and(|e| pattern.contains(&format!("{e}\"")));
    let mut re = String::from("^(?:");
    let (mut separators, mut in_class) = (0, false);
    let is_short = |separators: usize| part && two && separators == 0;
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        if Some(c) == escape {
            match chars.next() {
                Some('"') if !in_class => {
                    separators += 1;
                    re.push_str(match separators {
                        1 => ")(",
                        2 => ")(?:",
                        _ => {
                            return Err(SqlError::new(
                                "2200C",
                                "SQL regular expression may not contain more than two escape-double-quote separators",
                            ));
                        }
                    });
                }
                // Letters and digits may be a class or a constraint of their own.
                Some(c) if c.is_ascii_alphanumeric() => re.extend(['\\', c]),
                Some(c) => re.push_str(&regex::escape(&c.to_string())),
                None => re.push_str("\\\\"),
            }
            continue;
        }
        match c {
            '\\' => re.push_str("\\\\"),
            c if in_class => {
                in_class = c != ']';
                re.push(c);
            }
            '[' => {
                in_class = true;
                re.push(c);
            }
            '%' => re.push_str(if is_short(separators) { ".*?" } else { ".*" }),
            '*' | '+' | '?' | '}' if is_short(separators) => re.extend([c, '?']),
            '_' => re.push('.'),
            '(' => re.push_str("(?:"),
            '.' | '^' | '$' => re.extend(['\\', c]),
            c => re.push(c),
        }
    }
    re.push_str(")$");
    Ok(re)
}

fn similar(s: &str, pattern: &str, escape: &str) -> Result<Option<bool>> {
    with_regex(&translated(pattern, escape, false)?, "", |r| {
        Some(r.is_match(s))
    })
}

fn part(s: &str, pattern: &str, escape: &str) -> Result<Option<String>> {
    with_regex(&translated(pattern, escape, true)?, "", |r| {
        let found = r.captures(s)?;
        let part = found.get(1).or_else(|| found.get(0))?;
        Some(part.as_str().to_string())
    })
}

/// Registers the functions of this file.
pub fn register(r: &mut Registry) {
    r.add_fallible(
        "similar_to(text, text) bool",
        kernel!(|s: text, p: text| -> bool similar(s, p, "\\")),
    );
    r.add_fallible(
        "similar_to(text, text, text) bool",
        kernel!(|s: text, p: text, e: text| -> bool similar(s, p, e)),
    );
    r.add_fallible(
        "substring(text, text, text) text",
        kernel!(|s: text, p: text, e: text| -> text part(s, p, e)),
    );
}
