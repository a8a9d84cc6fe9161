//! Session settings: SET, SHOW, RESET, and what clients are told at the start.

use std::collections::BTreeMap;

use tidemill_planner::SqlError;

/// Setting name, default, description, and whether clients are told of changes (ParameterStatus).
const SETTINGS: &[(&str, &str, &str, bool)] = &[
    (
        "application_name",
        "",
        "Sets the application name to be reported in statistics and logs.",
        true,
    ),
    (
        "bytea_output",
        "hex",
        "Sets the output format for bytea.",
        false,
    ),
    (
        "client_encoding",
        "UTF8",
        "Sets the client's character set encoding.",
        true,
    ),
    (
        "client_min_messages",
        "notice",
        "Sets the message levels that are sent to the client.",
        false,
    ),
    (
        "datestyle",
        "ISO, MDY",
        "Sets the display format for date and time values.",
        true,
    ),
    (
        "default_transaction_isolation",
        "serializable",
        "Sets the transaction isolation level of each new transaction.",
        false,
    ),
    (
        "default_transaction_read_only",
        "off",
        "Sets the default read-only status of new transactions.",
        true,
    ),
    (
        "extra_float_digits",
        "1",
        "Sets the number of digits displayed for floating-point values.",
        false,
    ),
    (
        "idle_in_transaction_session_timeout",
        "0",
        "Sets the maximum allowed idle time within a transaction.",
        false,
    ),
    (
        "integer_datetimes",
        "on",
        "Shows whether datetimes are integer based.",
        true,
    ),
    (
        "intervalstyle",
        "postgres",
        "Sets the display format for interval values.",
        true,
    ),
    (
        "is_superuser",
        "on",
        "Shows whether the current user is a superuser.",
        true,
    ),
    (
        "lc_collate",
        "C",
        "Shows the collation order locale.",
        false,
    ),
    (
        "lc_ctype",
        "C",
        "Shows the character classification and case conversion locale.",
        false,
    ),
    (
        "lock_timeout",
        "0",
        "Sets the maximum allowed duration of any wait for a lock.",
        false,
    ),
    (
        "max_identifier_length",
        "63",
        "Shows the maximum identifier length.",
        false,
    ),
    ("row_security", "on", "Enable row security.", false),
    (
        "search_path",
        "public",
        "Sets the schema search order for names that are not schema-qualified.",
        false,
    ),
    (
        "server_encoding",
        "UTF8",
        "Shows the server (database) character set encoding.",
        true,
    ),
    (
        "server_version",
        super::SERVER_VERSION,
        "Shows the server version.",
        true,
    ),
    (
        "server_version_num",
        "150012",
        "Shows the server version as an integer.",
        false,
    ),
    (
        "session_authorization",
        "tidemill",
        "Sets the current session's user name.",
        true,
    ),
    (
        "standard_conforming_strings",
        "on",
        "Causes '...' strings to treat backslashes literally.",
        true,
    ),
    (
        "statement_timeout",
        "0",
        "Sets the maximum allowed duration of any statement.",
        false,
    ),
    (
        "synchronous_commit",
        "on",
        "Sets the current transaction's synchronization level.",
        false,
    ),
    (
        "timezone",
        "UTC",
        "Sets the time zone for displaying and interpreting time stamps.",
        true,
    ),
    (
        "transaction_isolation",
        "serializable",
        "Sets the current transaction's isolation level.",
        false,
    ),
    (
        "transaction_read_only",
        "off",
        "Sets the current transaction's read-only status.",
        false,
    ),
];

/// Settings that can't be set.
const FIXED: &[&str] = &[
    "integer_datetimes",
    "is_superuser",
    "lc_collate",
    "lc_ctype",
    "max_identifier_length",
    "server_encoding",
    "server_version",
    "server_version_num",
];

/// Settings of PostgreSQL, and of systems whose scripts users bring along, that mean nothing here: they are accepted and
/// keep their value.
const WITHOUT_EFFECT: &[&str] = &[
    "background_ddl",
    "check_function_bodies",
    "cluster",
    "cluster_replica",
    "constraint_exclusion",
    "create_compaction_group_for_mv",
    "default_table_access_method",
    "default_tablespace",
    "default_transaction_deferrable",
    "effective_cache_size",
    "escape_string_warning",
    "idle_session_timeout",
    "maintenance_work_mem",
    "plan_cache_mode",
    "query_epoch",
    "query_mode",
    "random_page_cost",
    "seq_page_cost",
    "temp_buffers",
    "tcp_keepalives_idle",
    "visibility_mode",
    "work_mem",
    "xmloption",
];

/// The same by the beginning of the name.
const WITHOUT_EFFECT_PREFIXES: &[&str] = &[
    "batch_",
    "cpu_",
    "debug_",
    "enable_",
    "geqo",
    "jit",
    "log_",
    "max_parallel_",
    "min_parallel_",
    "parallel_",
    "rw_",
    "sink_",
    "source_",
    "streaming_",
    "track_",
];

/// True for a setting that is accepted but does nothing.
pub fn is_without_effect(name: &str) -> bool {
    let name = canonical(name);
    WITHOUT_EFFECT.contains(&name.as_str())
        || WITHOUT_EFFECT_PREFIXES.iter().any(|p| name.starts_with(p))
}

/// Name, value, description of every setting at its default.
pub fn descriptions() -> Vec<(String, String, String)> {
    SETTINGS
        .iter()
        .map(|(name, value, text, _)| (name.to_string(), value.to_string(), text.to_string()))
        .collect()
}

/// One session's settings.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    changed: BTreeMap<String, String>,
    /// Grows with every change.
    version: u64,
    /// Changes that the client must be told.
    reported: Vec<(String, String)>,
}

impl Settings {
    /// The value of a setting.
    pub fn get(&self, name: &str) -> Option<String> {
        let name = canonical(name);
        self.changed
            .get(&name)
            .cloned()
            .or_else(|| known(&name).map(|s| s.1.to_string()))
    }

    /// A number that another change makes another one.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Sets a setting; `None`: back to its default.
    pub fn set(&mut self, name: &str, value: Option<String>) -> Result<(), SqlError> {
        self.version += 1;
        let name = canonical(name);
        let Some((_, default, _, report)) = known(&name) else {
            // Names with a dot are the user's own, as in PostgreSQL.
            if name.contains('.') || is_without_effect(&name) {
                match value {
                    Some(value) => self.changed.insert(name, value),
                    None => self.changed.remove(&name),
                };
                return Ok(());
            }
            return Err(SqlError::new(
                "42704",
                format!("unrecognized configuration parameter \"{name}\""),
            ));
        };
        if FIXED.contains(&name.as_str()) {
            return Err(SqlError::new(
                "55P02",
                format!("parameter \"{name}\" cannot be changed"),
            ));
        }
        let value = match value {
            Some(value) => check(&name, value)?,
            None => default.to_string(),
        };
        if *report {
            self.reported.push((reported_name(&name), value.clone()));
        }
        self.changed.insert(name, value);
        Ok(())
    }

    /// All settings back to their defaults.
    pub fn reset_all(&mut self) {
        self.version += 1;
        self.changed.clear();
    }

    /// Name and value of every setting.
    pub fn all(&self) -> Vec<(String, String, String)> {
        descriptions()
            .into_iter()
            .map(|(name, default, text)| {
                let value = self.changed.get(&name).cloned().unwrap_or(default);
                (reported_name(&name), value, text)
            })
            .collect()
    }

    /// Changes to report, once.
    pub fn take_reported(&mut self) -> Vec<(String, String)> {
        std::mem::take(&mut self.reported)
    }

    /// All values by name, for `current_setting`.
    pub fn variables(&self) -> BTreeMap<String, String> {
        let mut all: BTreeMap<String, String> = SETTINGS
            .iter()
            .map(|s| (s.0.to_string(), s.1.to_string()))
            .collect();
        all.extend(self.changed.clone());
        all
    }

    /// The search path as a list.
    pub fn search_path(&self) -> Vec<String> {
        let text = self.get("search_path").unwrap_or_default();
        let names = text
            .split(',')
            .map(|s| s.trim().trim_matches('"').to_string());
        names
            .filter(|s| !s.is_empty() && s != "$user" && s != "pg_catalog")
            .collect()
    }
}

fn canonical(name: &str) -> String {
    match name.to_ascii_lowercase().as_str() {
        "time zone" => "timezone".into(),
        "names" => "client_encoding".into(),
        "transaction isolation level"
        | "session characteristics as transaction isolation level" => {
            "transaction_isolation".into()
        }
        other => other.into(),
    }
}

fn reported_name(name: &str) -> String {
    match name {
        "datestyle" => "DateStyle".into(),
        "intervalstyle" => "IntervalStyle".into(),
        "timezone" => "TimeZone".into(),
        other => other.into(),
    }
}

fn known(name: &str) -> Option<&'static (&'static str, &'static str, &'static str, bool)> {
    SETTINGS.iter().find(|s| s.0 == name)
}

fn check(name: &str, value: String) -> Result<String, SqlError> {
    let invalid = |hint: &str| {
        Err(SqlError::new(
            "22023",
            format!("invalid value for parameter \"{name}\": \"{value}\""),
        )
        .hint(hint))
    };
    let lower = value.to_ascii_lowercase();
    match name {
        "timezone"
            if !matches!(
                lower.as_str(),
                "utc" | "gmt" | "default" | "local" | "etc/utc"
            ) && value.parse::<chrono_tz::Tz>().is_err() =>
        {
            invalid("Write an IANA name such as 'Europe/Berlin', or 'UTC'.")
        }
        "timezone" if matches!(lower.as_str(), "utc" | "default" | "local") => Ok("UTC".into()),
        "client_encoding"
            if !matches!(
                lower.replace('-', "").as_str(),
                "utf8" | "unicode" | "sql_ascii"
            ) =>
        {
            invalid("Tidemill speaks UTF8 only.")
        }
        "client_encoding" => Ok("UTF8".into()),
        "datestyle"
            if !lower.starts_with("iso") && !matches!(lower.as_str(), "mdy" | "default") =>
        {
            invalid("Only the style ISO, MDY is supported.")
        }
        "datestyle" => Ok("ISO, MDY".into()),
        "intervalstyle" if lower != "postgres" => invalid("Only the style postgres is supported."),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_fold_names_check_values_and_report() {
        let mut settings = Settings::default();
        settings
            .set("TIME ZONE", Some("Europe/Berlin".into()))
            .unwrap();
        assert_eq!(settings.get("TimeZone").unwrap(), "Europe/Berlin");
        assert_eq!(
            settings.take_reported(),
            vec![("TimeZone".to_string(), "Europe/Berlin".to_string())]
        );
        assert_eq!(
            settings
                .set("timezone", Some("Mars/Base".into()))
                .unwrap_err()
                .sqlstate,
            "22023"
        );
        assert_eq!(
            settings
                .set("no_such", Some("1".into()))
                .unwrap_err()
                .sqlstate,
            "42704"
        );
        assert_eq!(
            settings
                .set("server_version", Some("1".into()))
                .unwrap_err()
                .sqlstate,
            "55P02"
        );
        settings
            .set("RW_Implicit_Flush", Some("true".into()))
            .unwrap();
        assert_eq!(settings.get("rw_implicit_flush").unwrap(), "true");
        assert!(is_without_effect("rw_implicit_flush") && !is_without_effect("timezone"));
        settings.set("my.own", Some("1".into())).unwrap();
        assert_eq!(settings.get("my.own").unwrap(), "1");
    }
}
