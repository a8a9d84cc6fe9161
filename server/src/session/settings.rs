//! Session settings: SET, SHOW, RESET, and what clients are told at the start.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tidemill_planner::SqlError;

use super::setting_values::{check, milliseconds};

/// Setting name, default, description, and whether clients are told of changes (ParameterStatus).
const SETTINGS: &[(&str, &str, &str, bool)] = &[
    (
        "application_name",
        "",
        "Sets the application name to be reported in statistics and logs.",
        true,
    ),
    (
        "array_nulls",
        "on",
        "Enable input of NULL elements in arrays.",
        false,
    ),
    (
        "block_size",
        "8192",
        "Shows the size of a disk block.",
        false,
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
        "default_table_access_method",
        "heap",
        "Sets the default table access method for new tables.",
        false,
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
        "Sets the maximum allowed idle time between queries, when in a transaction.",
        false,
    ),
    (
        "idle_session_timeout",
        "0",
        "Sets the maximum allowed idle time between queries, when not in a transaction.",
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
        "max_index_keys",
        "32",
        "Shows the maximum number of index keys.",
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
    ("ssl", "off", "Enables SSL connections.", false),
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
    "array_nulls",
    "block_size",
    "integer_datetimes",
    "is_superuser",
    "lc_collate",
    "lc_ctype",
    "max_identifier_length",
    "max_index_keys",
    "server_encoding",
    "server_version",
    "server_version_num",
    "ssl",
];

/// Settings of PostgreSQL that mean nothing here, with what it shows for them: they are accepted and keep their value.
const WITHOUT_EFFECT: &[(&str, &str)] = &[
    ("check_function_bodies", "on"),
    ("constraint_exclusion", "partition"),
    ("cpu_index_tuple_cost", "0.005"),
    ("cpu_operator_cost", "0.0025"),
    ("cpu_tuple_cost", "0.01"),
    ("cursor_tuple_fraction", "0.1"),
    ("default_statistics_target", "100"),
    ("default_tablespace", ""),
    ("default_toast_compression", "pglz"),
    ("default_transaction_deferrable", "off"),
    ("effective_cache_size", "4GB"),
    ("effective_io_concurrency", "1"),
    ("enable_bitmapscan", "on"),
    ("enable_gathermerge", "on"),
    ("enable_hashagg", "on"),
    ("enable_hashjoin", "on"),
    ("enable_incremental_sort", "on"),
    ("enable_indexonlyscan", "on"),
    ("enable_indexscan", "on"),
    ("enable_material", "on"),
    ("enable_memoize", "on"),
    ("enable_mergejoin", "on"),
    ("enable_nestloop", "on"),
    ("enable_parallel_append", "on"),
    ("enable_parallel_hash", "on"),
    ("enable_partition_pruning", "on"),
    ("enable_partitionwise_aggregate", "off"),
    ("enable_partitionwise_join", "off"),
    ("enable_seqscan", "on"),
    ("enable_sort", "on"),
    ("enable_tidscan", "on"),
    ("escape_string_warning", "on"),
    ("from_collapse_limit", "8"),
    ("geqo", "on"),
    ("geqo_threshold", "12"),
    ("hash_mem_multiplier", "2"),
    ("jit", "off"),
    ("jit_above_cost", "100000"),
    ("jit_inline_above_cost", "500000"),
    ("jit_optimize_above_cost", "500000"),
    ("join_collapse_limit", "8"),
    ("lc_messages", "C"),
    ("lc_monetary", "C"),
    ("lc_numeric", "C"),
    ("lc_time", "C"),
    ("log_min_duration_statement", "-1"),
    ("log_min_messages", "warning"),
    ("log_statement", "none"),
    ("maintenance_work_mem", "64MB"),
    ("max_parallel_maintenance_workers", "2"),
    ("max_parallel_workers", "8"),
    ("max_parallel_workers_per_gather", "2"),
    ("parallel_leader_participation", "on"),
    ("parallel_setup_cost", "1000"),
    ("parallel_tuple_cost", "0.1"),
    ("plan_cache_mode", "auto"),
    ("random_page_cost", "4"),
    ("seq_page_cost", "1"),
    ("synchronize_seqscans", "on"),
    ("tcp_keepalives_idle", "7200"),
    ("temp_buffers", "8MB"),
    ("temp_tablespaces", ""),
    ("track_activities", "on"),
    ("track_counts", "on"),
    ("track_functions", "none"),
    ("track_io_timing", "off"),
    ("transaction_deferrable", "off"),
    ("work_mem", "4MB"),
    ("xmloption", "content"),
];

/// The same of systems whose scripts users bring along; they have no value before they are set.
const OF_OTHERS: &[&str] = &[
    "allow_drop_cascade",
    "backfill_rate_limit",
    "background_ddl",
    "cluster",
    "cluster_replica",
    "create_compaction_group_for_mv",
    "dml_rate_limit",
    "force_two_phase_agg",
    "max_split_range_gap",
    "query_epoch",
    "query_mode",
    "upsert_dml",
    "visibility_mode",
];

/// Both by the beginning of the name.
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
    WITHOUT_EFFECT.iter().any(|(have, _)| *have == name)
        || OF_OTHERS.contains(&name.as_str())
        || WITHOUT_EFFECT_PREFIXES.iter().any(|p| name.starts_with(p))
}

/// Name, value, description of every setting at its default.
pub fn descriptions() -> Vec<(String, String, String)> {
    let known = SETTINGS
        .iter()
        .map(|(name, value, text, _)| (*name, *value, *text));
    let others = WITHOUT_EFFECT.iter();
    let others = others.map(|(name, value)| (*name, *value, "Has no effect here."));
    let mut all: Vec<_> = known
        .chain(others)
        .map(|(name, value, text)| (name.to_string(), value.to_string(), text.to_string()))
        .collect();
    all.sort();
    all
}

/// Limits of time that a session has set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// `statement_timeout`
    pub statement: Option<Duration>,
    /// `lock_timeout`
    pub lock: Option<Duration>,
    /// `idle_in_transaction_session_timeout`
    pub idle_in_transaction: Option<Duration>,
    /// `idle_session_timeout`
    pub idle: Option<Duration>,
}

/// Values that differ from the defaults: those of the session, and those of the transaction alone.
#[derive(Clone, Debug, Default)]
pub struct Values {
    session: BTreeMap<String, String>,
    local: BTreeMap<String, String>,
}

impl Values {
    fn get(&self, name: &str) -> Option<&str> {
        let set = |name: &str| self.local.get(name).or_else(|| self.session.get(name));
        let of_next = match name {
            "transaction_isolation" => "default_transaction_isolation",
            "transaction_read_only" => "default_transaction_read_only",
            _ => name,
        };
        set(name)
            .or_else(|| set(of_next))
            .map(String::as_str)
            .or_else(|| known(of_next).map(|s| s.1))
            .or_else(|| {
                let shown = WITHOUT_EFFECT.iter().find(|s| s.0 == name);
                shown.map(|s| s.1)
            })
    }
}

/// One session's settings. What a transaction sets is undone when it is rolled back.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    values: Values,
    /// What RESET goes back to: what the client asked for when it connected.
    initial: BTreeMap<String, String>,
    /// What ROLLBACK goes back to; `None` outside transactions.
    before: Option<BTreeMap<String, String>>,
    /// Grows with every change.
    version: u64,
    /// Changes that the client must be told.
    reported: Vec<(String, String)>,
    timeouts: Timeouts,
    /// All values by name, once somebody asked.
    shown: OnceLock<Arc<BTreeMap<String, String>>>,
}

impl Settings {
    /// The value of a setting.
    pub fn get(&self, name: &str) -> Option<String> {
        self.values.get(&canonical(name)).map(str::to_string)
    }

    /// A number that another change makes another one.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// True for a switch that is on.
    pub fn is_on(&self, name: &str) -> bool {
        self.values.get(name) == Some("on")
    }

    /// The limits of time.
    pub fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    /// What was set so far is what the client asked for at the start.
    pub fn started(&mut self) {
        self.initial = self.values.session.clone();
    }

    /// Sets a setting; `None`: back to its default. `local`: for this transaction only.
    pub fn set(&mut self, name: &str, value: Option<String>, local: bool) -> Result<(), SqlError> {
        let name = canonical(name);
        // Names with a dot are the user's own, as in PostgreSQL.
        let own = name.contains('.') || is_without_effect(&name);
        if known(&name).is_none() && !own {
            return Err(unrecognized(&name));
        }
        if FIXED.contains(&name.as_str()) {
            return Err(SqlError::new(
                "55P02",
                format!("parameter \"{name}\" cannot be changed"),
            ));
        }
        let value = match value {
            Some(value) if own => Some(value),
            Some(value) => Some(check(&name, value)?),
            None => self
                .initial
                .get(&name)
                .cloned()
                .or_else(|| known(&name).map(|s| s.1.to_string())),
        };
        let mut values = self.values.clone();
        let of_transaction = matches!(
            name.as_str(),
            "transaction_isolation" | "transaction_read_only"
        );
        if local || of_transaction {
            if self.before.is_some() {
                values.local.insert(name, value.unwrap_or_default());
            }
        } else {
            values.local.remove(&name);
            match value {
                Some(value) => values.session.insert(name, value),
                None => values.session.remove(&name),
            };
        }
        self.replace(values);
        Ok(())
    }

    /// All settings back to what they were at the start.
    pub fn reset_all(&mut self) {
        self.replace(Values {
            session: self.initial.clone(),
            local: BTreeMap::new(),
        });
    }

    /// A transaction begins, or goes on as one that is explicit.
    pub fn begin(&mut self) {
        self.before
            .get_or_insert_with(|| self.values.session.clone());
    }

    /// A transaction ends.
    pub fn end(&mut self, committed: bool) {
        let Some(before) = self.before.take() else {
            return;
        };
        if committed && self.values.local.is_empty() {
            return;
        }
        let session = match committed {
            true => std::mem::take(&mut self.values.session),
            false => before,
        };
        let local = BTreeMap::new();
        self.replace(Values { session, local });
    }

    /// All values, to come back to with [`Settings::replace`].
    pub fn values(&self) -> Values {
        self.values.clone()
    }

    /// Takes over other values, and tells the client what changed.
    pub fn replace(&mut self, values: Values) {
        self.version += 1;
        self.shown = OnceLock::new();
        let old = std::mem::replace(&mut self.values, values);
        for (name, _, _, report) in SETTINGS {
            let value = self.values.get(name).unwrap_or_default();
            if *report && old.get(name) != Some(value) {
                self.reported.push((reported_name(name), value.to_string()));
            }
        }
        let limit = |name| {
            let ms = self.values.get(name).and_then(milliseconds)?;
            (ms > 0).then(|| Duration::from_millis(ms))
        };
        self.timeouts = Timeouts {
            statement: limit("statement_timeout"),
            lock: limit("lock_timeout"),
            idle_in_transaction: limit("idle_in_transaction_session_timeout"),
            idle: limit("idle_session_timeout"),
        };
    }

    /// True if the client wants messages of that severity, `NOTICE` or `WARNING`.
    pub fn wants(&self, severity: &str) -> bool {
        match self.values.get("client_min_messages") {
            Some("error") => false,
            Some("warning") => severity == "WARNING",
            _ => true,
        }
    }

    /// Name and value of every setting.
    pub fn all(&self) -> Vec<(String, String, String)> {
        descriptions()
            .into_iter()
            .map(|(name, default, text)| {
                let value = self.values.get(&name).map_or(default, str::to_string);
                (reported_name(&name), value, text)
            })
            .collect()
    }

    /// Changes to report, once.
    pub fn take_reported(&mut self) -> Vec<(String, String)> {
        std::mem::take(&mut self.reported)
    }

    /// All values by name, for `current_setting`.
    pub fn variables(&self) -> Arc<BTreeMap<String, String>> {
        Arc::clone(self.shown.get_or_init(|| Arc::new(self.all_values())))
    }

    fn all_values(&self) -> BTreeMap<String, String> {
        let known = SETTINGS.iter().map(|s| (s.0, s.1));
        let mut all: BTreeMap<String, String> = known
            .chain(WITHOUT_EFFECT.iter().copied())
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect();
        all.extend(self.values.session.clone());
        all.extend(self.values.local.clone());
        for name in ["transaction_isolation", "transaction_read_only"] {
            if let Some(value) = self.values.get(name) {
                all.insert(name.into(), value.into());
            }
        }
        all
    }

    /// The search path as a list.
    pub fn search_path(&self) -> Vec<String> {
        let text = self.values.get("search_path").unwrap_or_default();
        let (mut names, mut name, mut quoted) = (vec![], String::new(), false);
        for c in text.chars() {
            match c {
                '"' => quoted = !quoted,
                ',' if !quoted => names.push(std::mem::take(&mut name)),
                c if quoted => name.push(c),
                c if c.is_whitespace() => {}
                c => name.extend(c.to_lowercase()),
            }
        }
        names.push(name);
        names.retain(|s| !s.is_empty() && s != "$user" && s != "pg_catalog");
        names
    }
}

/// The error for a setting that doesn't exist.
pub fn unrecognized(name: &str) -> SqlError {
    SqlError::new(
        "42704",
        format!("unrecognized configuration parameter \"{name}\""),
    )
    .hint("SHOW ALL lists the settings.")
}

fn canonical(name: &str) -> String {
    match name.to_ascii_lowercase().as_str() {
        "time zone" => "timezone".into(),
        "names" => "client_encoding".into(),
        "transaction isolation level" => "transaction_isolation".into(),
        other => other.into(),
    }
}

/// A setting's name as PostgreSQL writes it.
pub(super) fn reported_name(name: &str) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn set(settings: &mut Settings, name: &str, value: &str) -> Result<(), SqlError> {
        settings.set(name, Some(value.into()), false)
    }

    #[test]
    fn settings_fold_names_check_values_and_report() {
        let mut settings = Settings::default();
        set(&mut settings, "TIME ZONE", "Europe/Berlin").unwrap();
        assert_eq!(settings.get("TimeZone").unwrap(), "Europe/Berlin");
        assert_eq!(
            settings.take_reported(),
            vec![("TimeZone".to_string(), "Europe/Berlin".to_string())]
        );
        for (zone, shown) in [
            ("europe/berlin", "Europe/Berlin"),
            ("utc", "UTC"),
            ("-5", "Etc/GMT+5"),
            ("+3", "Etc/GMT-3"),
            ("GMT-03:00", "Etc/GMT-3"),
            ("UTC+0", "Etc/GMT"),
        ] {
            set(&mut settings, "timezone", zone).unwrap();
            assert_eq!(settings.get("TimeZone").unwrap(), shown, "{zone}");
        }
        let mut code = |name, value| set(&mut settings, name, value).unwrap_err().sqlstate;
        for zone in ["Mars/Base", "3.5", "+03:30", "99", "nan", ""] {
            assert_eq!(code("timezone", zone), "22023", "{zone}");
        }
        assert_eq!(code("no_such", "1"), "42704");
        assert_eq!(code("server_version", "1"), "55P02");
        assert_eq!(code("statement_timeout", "-1"), "22023");
        assert_eq!(code("statement_timeout", "5 weeks"), "22023");
        assert_eq!(code("standard_conforming_strings", "off"), "22023");
        set(&mut settings, "RW_Implicit_Flush", "true").unwrap();
        assert_eq!(settings.get("rw_implicit_flush").unwrap(), "true");
        assert!(is_without_effect("rw_implicit_flush") && !is_without_effect("timezone"));
        set(&mut settings, "client_encoding", "'utf-8'").unwrap();
        assert_eq!(settings.get("client_encoding").unwrap(), "UTF8");
        assert_eq!(settings.get("jit").unwrap(), "off");
        set(&mut settings, "work_mem", "64MB").unwrap();
        assert_eq!(settings.variables()["work_mem"], "64MB");
        settings.set("work_mem", None, false).unwrap();
        assert_eq!(settings.variables()["work_mem"], "4MB");
        set(&mut settings, "my.own", "1").unwrap();
        assert_eq!(settings.get("my.own").unwrap(), "1");
    }

    #[test]
    fn timeouts_are_read_and_shown_with_units() {
        let mut settings = Settings::default();
        for (written, show, ms) in [
            ("1500", "1500ms", 1_500),
            ("2s", "2s", 2_000),
            ("120 s", "2min", 120_000),
            ("0.5s", "500ms", 500),
            ("1h", "1h", 3_600_000),
        ] {
            set(&mut settings, "statement_timeout", written).unwrap();
            assert_eq!(settings.get("statement_timeout").unwrap(), show);
            let limit = Some(Duration::from_millis(ms));
            assert_eq!(settings.timeouts().statement, limit);
        }
        set(&mut settings, "statement_timeout", "0").unwrap();
        assert_eq!(settings.timeouts(), Timeouts::default());
    }

    #[test]
    fn rollback_undoes_and_local_ends_with_the_transaction() {
        let mut settings = Settings::default();
        set(&mut settings, "application_name", "start").unwrap();
        settings.started();
        settings.take_reported();
        let name = |settings: &Settings| settings.get("application_name").unwrap();
        settings.begin();
        set(&mut settings, "application_name", "a").unwrap();
        settings.end(false);
        assert_eq!(name(&settings), "start");
        settings.begin();
        set(&mut settings, "application_name", "b").unwrap();
        settings
            .set("application_name", Some("c".into()), true)
            .unwrap();
        assert_eq!(name(&settings), "c");
        settings.end(true);
        assert_eq!(name(&settings), "b");
        let told: Vec<String> = settings.take_reported().into_iter().map(|r| r.1).collect();
        assert_eq!(told, ["a", "start", "b", "c", "b"]);
        // Outside a transaction, LOCAL has nothing to hold on to.
        settings
            .set("application_name", Some("d".into()), true)
            .unwrap();
        assert_eq!(name(&settings), "b");
        settings.reset_all();
        assert_eq!(name(&settings), "start");
    }
}
