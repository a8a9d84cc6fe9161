//! Values of settings: whether they are ones, and how they are kept.

use tidemill_planner::SqlError;

/// The value as it is kept; error 22023 if it isn't one of the setting.
pub(super) fn check(name: &str, value: String) -> Result<String, SqlError> {
    let invalid = |hint: &str| {
        Err(SqlError::new(
            "22023",
            format!("invalid value for parameter \"{name}\": \"{value}\""),
        )
        .hint(hint))
    };
    let lower = value.to_ascii_lowercase();
    match name {
        "timezone" if matches!(lower.as_str(), "utc" | "default" | "local") => Ok("UTC".into()),
        "timezone" => match time_zone(&value) {
            Some(zone) => Ok(zone),
            None => invalid(
                "Write an IANA name such as 'Europe/Berlin', 'UTC', or a number of whole hours.",
            ),
        },
        "client_encoding"
            if !matches!(encoding(&lower).as_str(), "utf8" | "unicode" | "sqlascii") =>
        {
            invalid("Tidemill speaks UTF8 only.")
        }
        "client_encoding" => Ok("UTF8".into()),
        "datestyle" => {
            let mut words = lower.split(',').map(str::trim);
            let is_ours =
                |w: &str| matches!(w, "iso" | "mdy" | "us" | "default") || w.starts_with("noneuro");
            let is_other = |w: &str| {
                let orders = matches!(w, "dmy" | "ymd") || w.starts_with("euro");
                orders || matches!(w, "sql" | "german") || w.starts_with("postgres")
            };
            let hint = "Only the style ISO, MDY is supported.";
            if words.clone().all(is_ours) {
                return Ok("ISO, MDY".into());
            }
            if words.all(|w| is_ours(w) || is_other(w)) {
                let message = format!("DateStyle \"{value}\" is not supported");
                return Err(SqlError::unsupported(message).hint(hint));
            }
            invalid(hint)
        }
        "statement_timeout"
        | "lock_timeout"
        | "idle_in_transaction_session_timeout"
        | "idle_session_timeout" => match milliseconds(&value) {
            Some(ms) => Ok(shown(ms)),
            None => {
                invalid("Write milliseconds, or a number with ms, s, min, h or d; 0 is no limit.")
            }
        },
        "default_transaction_read_only" | "transaction_read_only" | "row_security" => {
            match boolean(&lower) {
                Some(on) => Ok(if on { "on" } else { "off" }.into()),
                None => Err(SqlError::new(
                    "22023",
                    format!("parameter \"{name}\" requires a Boolean value"),
                )),
            }
        }
        "standard_conforming_strings" if boolean(&lower) != Some(true) => {
            invalid("Only on is supported: backslashes are escapes in E'…' only.")
        }
        "standard_conforming_strings" => Ok("on".into()),
        "bytea_output" if lower != "hex" => invalid("Only hex is supported."),
        "client_min_messages" => match lower.as_str() {
            "debug5" | "debug4" | "debug3" | "debug2" | "debug1" | "debug" | "log" | "notice"
            | "warning" | "error" => Ok(lower),
            _ => invalid("Levels are debug5 to debug1, log, notice, warning and error."),
        },
        "extra_float_digits" if !value.parse().is_ok_and(|n: i32| (-15..=3).contains(&n)) => {
            invalid("Write a number from -15 to 3; floats are shown with all the digits they need.")
        }
        "intervalstyle" => match lower.as_str() {
            "postgres" | "iso_8601" => Ok(lower),
            _ => invalid("The styles postgres and iso_8601 are supported."),
        },
        "transaction_isolation" | "default_transaction_isolation" => {
            // Every level is served as the strictest one.
            match lower.replace('_', " ").as_str() {
                "read uncommitted"
                | "read committed"
                | "repeatable read"
                | "serializable"
                | "strict serializable" => Ok(lower),
                _ => invalid("Every level is served as serializable."),
            }
        }
        _ => Ok(value),
    }
}

/// The IANA name of a zone. A number counts hours eastwards, an offset after a name westwards, as in PostgreSQL.
fn time_zone(value: &str) -> Option<String> {
    if let Some(zone) = chrono_tz::TZ_VARIANTS
        .iter()
        .find(|z| z.name().eq_ignore_ascii_case(value))
    {
        return Some(zone.name().to_string());
    }
    let west = match value.parse::<f64>() {
        Ok(east) => -east,
        Err(_) => {
            let offset = value.trim_start_matches(|c: char| c.is_ascii_alphabetic());
            let hours = offset.strip_suffix(":00").unwrap_or(offset);
            hours.parse::<f64>().ok()?
        }
    };
    let zone = match west {
        0.0 => "Etc/GMT".to_string(),
        hours => format!("Etc/GMT{hours:+}"),
    };
    zone.parse::<chrono_tz::Tz>().ok().map(|_| zone)
}

/// An encoding's name as PostgreSQL compares it: letters and digits alone. (asyncpg sends `'utf-8'`, with the quotes.)
fn encoding(lower: &str) -> String {
    lower.chars().filter(char::is_ascii_alphanumeric).collect()
}

/// PostgreSQL's words for true and false.
fn boolean(lower: &str) -> Option<bool> {
    match lower {
        "on" | "true" | "yes" | "1" | "t" | "y" => Some(true),
        "off" | "false" | "no" | "0" | "f" | "n" => Some(false),
        _ => None,
    }
}

/// Units of time with their milliseconds, the largest first.
const UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("min", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// A duration in milliseconds, with an optional unit; at most what an `i32` holds, as in PostgreSQL.
pub(super) fn milliseconds(text: &str) -> Option<u64> {
    let text = text.trim();
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let number: f64 = text[..split].parse().ok()?;
    let factor = match text[split..].trim() {
        "" => 1,
        unit => UNITS.iter().find(|u| u.0 == unit)?.1,
    };
    let ms = (number * factor as f64).round();
    (ms <= f64::from(i32::MAX)).then_some(ms as u64)
}

/// A duration as SHOW gives it: in the largest unit that divides it.
fn shown(ms: u64) -> String {
    let unit = UNITS.iter().find(|u| ms > 0 && ms.is_multiple_of(u.1));
    unit.map_or("0".into(), |(unit, size)| format!("{}{unit}", ms / size))
}
