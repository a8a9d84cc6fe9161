//! The `WITH (…)` options: which exist, and messages that help when one is wrong.
//!
//! Invariant: an option is either known to the connector, known to the server
//! ([`COMMON_OPTIONS`]), or refused with the nearest name that exists.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::source::ConnectorError;

/// Options of every source, which the server reads itself: accepted here, not checked.
pub const COMMON_OPTIONS: &[&str] = &[
    "connector",
    "persistent_id",
    "commit_interval",
    "epoch_rows_max",
];

/// The kinds of connector a source can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connector {
    /// Files on a file system.
    Files,
    /// Rows made up by the server.
    Generator,
}

/// The connector that the options name.
pub fn connector_of(options: &BTreeMap<String, String>) -> Result<Connector, ConnectorError> {
    match options.get("connector").map(String::as_str) {
        Some("files") => Ok(Connector::Files),
        Some("generator") => Ok(Connector::Generator),
        Some(other) => Err(wrong_value("connector", other, &["files", "generator"])),
        None => Err(missing("connector", "connector = 'files' | 'generator'")),
    }
}

/// Refuses options that are neither in `known` nor in `common`.
pub fn check_names(
    options: &BTreeMap<String, String>,
    common: &[&str],
    known: &[&str],
) -> Result<(), ConnectorError> {
    for name in options.keys() {
        if known.contains(&name.as_str()) || common.contains(&name.as_str()) {
            continue;
        }
        let all: Vec<&str> = common.iter().chain(known).copied().collect();
        let nearest = nearest(name, &all);
        return Err(ConnectorError::Option {
            message: format!("unrecognized option \"{name}\""),
            hint: format!(
                "{}The options are: {}.",
                nearest.map_or(String::new(), |n| format!("Perhaps you mean \"{n}\". ")),
                all.join(", ")
            ),
        });
    }
    Ok(())
}

/// The name closest to `name`, if it is close.
fn nearest<'a>(name: &str, all: &[&'a str]) -> Option<&'a str> {
    all.iter()
        .map(|n| (distance(name, n), *n))
        .min()
        .filter(|(d, n)| *d <= n.len().max(3) / 2)
        .map(|(_, n)| n)
}

/// Edit distance in bytes.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (diagonal + usize::from(x != y))
                .min(above + 1)
                .min(row[j] + 1);
            diagonal = above;
        }
    }
    row[b.len()]
}

/// An option that must be given isn't.
pub fn missing(name: &str, example: &str) -> ConnectorError {
    ConnectorError::Option {
        message: format!("option \"{name}\" is required"),
        hint: format!("Write {example}."),
    }
}

/// An option has a value that isn't one of `allowed`.
pub fn wrong_value(name: &str, value: &str, allowed: &[&str]) -> ConnectorError {
    let list: Vec<String> = allowed.iter().map(|a| format!("'{a}'")).collect();
    ConnectorError::Option {
        message: format!("invalid value for option \"{name}\": \"{value}\""),
        hint: format!("Allowed are {}.", list.join(", ")),
    }
}

/// An option has a value of the wrong form; `expected` completes "It must be …".
pub fn malformed(name: &str, value: &str, expected: &str) -> ConnectorError {
    ConnectorError::Option {
        message: format!("invalid value for option \"{name}\": \"{value}\""),
        hint: format!("It must be {expected}."),
    }
}

/// One of `allowed`, by position; `None` where the option isn't given.
pub fn choice(
    options: &BTreeMap<String, String>,
    name: &str,
    allowed: &[&str],
) -> Result<Option<usize>, ConnectorError> {
    let Some(value) = options.get(name) else {
        return Ok(None);
    };
    let lower = value.to_ascii_lowercase();
    match allowed.iter().position(|a| *a == lower) {
        Some(i) => Ok(Some(i)),
        None => Err(wrong_value(name, value, allowed)),
    }
}

/// A boolean as PostgreSQL reads it.
pub fn boolean(
    options: &BTreeMap<String, String>,
    name: &str,
    default: bool,
) -> Result<bool, ConnectorError> {
    let Some(value) = options.get(name) else {
        return Ok(default);
    };
    match value.to_ascii_lowercase().as_str() {
        "true" | "on" | "yes" | "t" | "y" | "1" => Ok(true),
        "false" | "off" | "no" | "f" | "n" | "0" => Ok(false),
        _ => Err(wrong_value(name, value, &["true", "false"])),
    }
}

/// A whole number between `min` and `max`.
pub fn integer(
    options: &BTreeMap<String, String>,
    name: &str,
    default: u64,
    min: u64,
    max: u64,
) -> Result<u64, ConnectorError> {
    let Some(value) = options.get(name) else {
        return Ok(default);
    };
    match value.parse::<u64>() {
        Ok(n) if (min..=max).contains(&n) => Ok(n),
        _ => Err(malformed(
            name,
            value,
            &format!("a whole number from {min} to {max}"),
        )),
    }
}

/// A single ASCII character; `\t` may be written so.
pub fn character(
    options: &BTreeMap<String, String>,
    name: &str,
    default: u8,
) -> Result<u8, ConnectorError> {
    let Some(value) = options.get(name) else {
        return Ok(default);
    };
    match value.as_bytes() {
        b"\\t" => Ok(b'\t'),
        [c] if c.is_ascii() && !matches!(c, b'\n' | b'\r' | 0) => Ok(*c),
        _ => Err(malformed(
            name,
            value,
            "a single one-byte character, not a line end",
        )),
    }
}

/// A duration such as `10ms`, `1.5s`, `2 min`, `1h`; a plain number means milliseconds.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let number: f64 = text[..digits].parse().ok()?;
    let seconds = match text[digits..].trim() {
        "us" => number / 1e6,
        "" | "ms" => number / 1e3,
        "s" | "sec" | "second" | "seconds" => number,
        "min" | "m" | "minute" | "minutes" => number * 60.0,
        "h" | "hour" | "hours" => number * 3600.0,
        "d" | "day" | "days" => number * 86400.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_nearest_option() {
        let options = BTreeMap::from([("delimeter".to_string(), ";".to_string())]);
        let Err(ConnectorError::Option { message, hint }) =
            check_names(&options, COMMON_OPTIONS, &["path", "delimiter", "null"])
        else {
            panic!("must be refused")
        };
        assert_eq!(message, "unrecognized option \"delimeter\"");
        assert!(
            hint.starts_with("Perhaps you mean \"delimiter\". "),
            "{hint}"
        );
        assert!(hint.contains("commit_interval"), "{hint}");
    }

    #[test]
    fn durations() {
        assert_eq!(parse_duration("10ms"), Some(Duration::from_millis(10)));
        assert_eq!(parse_duration("1.5s"), Some(Duration::from_millis(1500)));
        assert_eq!(parse_duration("2 min"), Some(Duration::from_secs(120)));
        assert_eq!(parse_duration("7"), Some(Duration::from_millis(7)));
        assert_eq!(parse_duration("soon"), None);
        assert_eq!(parse_duration("-1s"), None);
    }
}
