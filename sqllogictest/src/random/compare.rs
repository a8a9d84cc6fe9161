//! Answers of two servers, made comparable.

use std::collections::BTreeMap;
use std::time::Duration;

use tidemill_tests::client::{SqlFailure, line};
use tidemill_tests::{DEADLINE, Sql};

/// Differences shown, the shortest first.
const SHOWN_MAX: usize = 12;

/// What a query gave: sorted lines, or how it failed.
pub type Answer = Result<Vec<String>, SqlFailure>;

/// Runs a query; one that takes longer than a test should wait fails.
pub async fn answer(sql: &Sql, query: &str) -> Answer {
    let rows = match tokio::time::timeout(DEADLINE, sql.try_rows(query)).await {
        Ok(rows) => rows?,
        Err(_) => return Err(failure(&format!("no answer within {DEADLINE:?}"))),
    };
    let mut lines: Vec<String> = rows
        .into_iter()
        .map(|row| line(&row.into_iter().map(|v| v.map(plain)).collect::<Vec<_>>()))
        .collect();
    lines.sort();
    Ok(lines)
}

/// Runs a statement.
pub async fn run(sql: &Sql, statement: &str) -> Result<(), SqlFailure> {
    answer(sql, statement).await.map(|_| ())
}

fn failure(message: &str) -> SqlFailure {
    SqlFailure {
        sqlstate: String::new(),
        message: message.into(),
        detail: None,
        hint: None,
    }
}

/// A number without zeros at its end: how many there are differs (docs/sql.md).
fn plain(value: String) -> String {
    let digits = value.strip_prefix('-').unwrap_or(&value);
    match digits.split_once('.') {
        Some((whole, fraction))
            if !whole.is_empty()
                && !fraction.is_empty()
                && (whole.bytes().chain(fraction.bytes())).all(|b| b.is_ascii_digit()) =>
        {
            value.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
        _ => value,
    }
}

/// True if both gave the same rows, or failed with the same SQLSTATE.
pub fn alike(a: &Answer, b: &Answer) -> bool {
    match (a, b) {
        (Ok(a), Ok(b)) => a == b,
        (Err(a), Err(b)) => a.sqlstate == b.sqlstate && !a.sqlstate.is_empty(),
        _ => false,
    }
}

/// What differed so far.
#[derive(Debug, Default)]
pub struct Differences {
    found: Vec<String>,
    counts: BTreeMap<&'static str, usize>,
}

impl Differences {
    /// Notes a difference.
    pub fn add(&mut self, query: &str, details: String) {
        self.found.push(format!("{query}\n{details}"));
    }

    /// Counts something worth telling.
    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// Fails if there are any.
    pub fn check(mut self) -> anyhow::Result<()> {
        eprintln!("{:?}", self.counts);
        self.found
            .sort_by_key(|d| d.lines().next().map_or(0, str::len));
        let shown = &self.found[..self.found.len().min(SHOWN_MAX)];
        anyhow::ensure!(
            self.found.is_empty(),
            "{} differences\n{}",
            self.found.len(),
            shown.join("\n\n")
        );
        Ok(())
    }
}

/// Two answers side by side, cut to a readable length.
pub fn side_by_side(left: (&str, &Answer), right: (&str, &Answer)) -> String {
    const LINES_MAX: usize = 8;
    if let (Ok(a), Ok(b)) = (left.1, right.1) {
        let only = |these: &[String], those: &[String]| {
            let mut rest = those.to_vec();
            let mut out: Vec<String> = vec![];
            for line in these {
                match rest.iter().position(|r| r == line) {
                    Some(at) => _ = rest.swap_remove(at),
                    None => out.push(line.clone()),
                }
            }
            out.truncate(LINES_MAX);
            out
        };
        return format!(
            "  {} rows {}, only there: {:?}\n  {} rows {}, only there: {:?}",
            left.0,
            a.len(),
            only(a, b),
            right.0,
            b.len(),
            only(b, a)
        );
    }
    let show = |(name, answer): (&str, &Answer)| match answer {
        Ok(rows) => format!("  {name}: {:?}", &rows[..rows.len().min(LINES_MAX)]),
        Err(failure) => format!("  {name}: {failure}"),
    };
    format!("{}\n{}", show(left), show(right))
}

/// How long a server may take over one statement.
pub const STATEMENT_MAX: Duration = Duration::from_secs(10);
