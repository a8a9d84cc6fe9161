//! A `.slt` file as steps. The records are parsed by the `sqllogictest` crate; our directives are in comments.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sqllogictest::{
    Condition, Connection, DefaultColumnType, ExpectedError, QueryExpect, Record, SortMode,
    StatementExpect,
};

/// What a step does and what must come of it.
#[derive(Clone, Debug)]
pub enum Act {
    /// A statement; `count`: rows affected.
    Statement {
        /// Text.
        sql: String,
        /// `Ok`: success, `Err`: this error.
        expect: Result<(), ExpectedError>,
    },
    /// A query.
    Query {
        /// Text.
        sql: String,
        /// `Ok`: number of columns and lines; `Err`: this error.
        expect: Result<(usize, Vec<String>), ExpectedError>,
        /// Rows in any order.
        sorted: bool,
    },
    /// A shell command, run in the script's directory.
    System {
        /// Text.
        command: String,
    },
}

/// One record with everything around it.
#[derive(Clone, Debug)]
pub struct Step {
    /// Line in the file.
    pub line: u32,
    /// Named connection, or the default one.
    pub connection: Option<String>,
    /// `onlyif` labels.
    pub only: Vec<String>,
    /// `skipif` labels.
    pub skip: Vec<String>,
    /// `# view: refused`
    pub refused: bool,
    /// `# view: skip`
    pub as_select: bool,
    /// `# times: n`, from 0.
    pub times: Option<usize>,
    /// Attempts and pause between them: for input that arrives by itself (files), never for reads of one's own writes.
    pub retry: Option<(usize, Duration)>,
    /// What it does.
    pub act: Act,
}

/// A parsed file.
#[derive(Clone, Debug)]
pub struct Script {
    /// Steps in order.
    pub steps: Vec<Step>,
    /// `# restart: skip`
    pub no_restart: bool,
}

impl Act {
    /// The statement's or query's text.
    pub fn sql(&self) -> Option<&str> {
        match self {
            Act::Statement { sql, .. } | Act::Query { sql, .. } => Some(sql),
            Act::System { .. } => None,
        }
    }

    /// The first word in upper case.
    pub fn verb(&self) -> String {
        let text = self
            .sql()
            .unwrap_or("")
            .trim_start()
            .trim_start_matches('(');
        text.chars()
            .take_while(|c| c.is_ascii_alphabetic())
            .collect::<String>()
            .to_uppercase()
    }

    /// It begins a transaction.
    pub fn begins_transaction(&self) -> bool {
        matches!(self.verb().as_str(), "BEGIN" | "START")
    }

    /// It ends a transaction; going back to a savepoint doesn't.
    pub fn ends_transaction(&self) -> bool {
        let words = self.sql().unwrap_or("").split_whitespace().skip(1);
        let to_savepoint = words.take(2).any(|w| w.eq_ignore_ascii_case("to"));
        match self.verb().as_str() {
            "COMMIT" | "END" | "ABORT" => true,
            "ROLLBACK" => !to_savepoint,
            _ => false,
        }
    }
}

/// Reads a file.
pub fn read(path: &Path) -> Result<Script> {
    let records = sqllogictest::parse_file::<DefaultColumnType>(path)
        .with_context(|| path.display().to_string())?;
    let mut script = Script {
        steps: Vec::new(),
        no_restart: false,
    };
    let mut comments: Vec<String> = Vec::new();
    for record in records {
        match record {
            Record::Comment(lines) => {
                comments.extend(lines.iter().map(|l| l.trim().to_owned()));
                script.no_restart |= lines.iter().any(|l| l.trim() == "restart: skip");
            }
            Record::Newline => comments.clear(),
            Record::Statement {
                loc,
                conditions,
                connection,
                sql,
                expected,
                retry,
            } => {
                let expect = match expected {
                    StatementExpect::Ok | StatementExpect::Count(_) => Ok(()),
                    StatementExpect::Error(e) => Err(e),
                };
                let mut step = step(
                    loc.line(),
                    conditions,
                    connection,
                    &comments,
                    Act::Statement { sql, expect },
                )?;
                step.retry = retry.map(|r| (r.attempts, r.backoff));
                script.steps.push(step);
                comments.clear();
            }
            Record::Query {
                loc,
                conditions,
                connection,
                sql,
                expected,
                retry,
            } => {
                let (expect, sorted) = match expected {
                    QueryExpect::Results {
                        types,
                        sort_mode,
                        results,
                        ..
                    } => {
                        ensure!(
                            !types.is_empty(),
                            "line {}: a query needs one type per column",
                            loc.line()
                        );
                        (
                            Ok((types.len(), results)),
                            sort_mode == Some(SortMode::RowSort),
                        )
                    }
                    QueryExpect::Error(e) => (Err(e), false),
                };
                let act = Act::Query {
                    sql,
                    expect,
                    sorted,
                };
                let mut step = step(loc.line(), conditions, connection, &comments, act)?;
                step.retry = retry.map(|r| (r.attempts, r.backoff));
                script.steps.push(step);
                comments.clear();
            }
            Record::System {
                loc,
                conditions,
                command,
                ..
            } => {
                let act = Act::System { command };
                script.steps.push(step(
                    loc.line(),
                    conditions,
                    Connection::Default,
                    &comments,
                    act,
                )?);
            }
            Record::Halt { .. } => break,
            _ => {}
        }
    }
    Ok(script)
}

fn step(
    line: u32,
    conditions: Vec<Condition>,
    on: Connection,
    comments: &[String],
    act: Act,
) -> Result<Step> {
    let mut step = Step {
        line,
        connection: match on {
            Connection::Default => None,
            Connection::Named(name) => Some(name),
        },
        only: Vec::new(),
        skip: Vec::new(),
        refused: false,
        as_select: false,
        times: None,
        retry: None,
        act,
    };
    for condition in conditions {
        match condition {
            Condition::OnlyIf { label } => step.only.push(label),
            Condition::SkipIf { label } => step.skip.push(label),
        }
    }
    for comment in comments {
        if let Some(what) = comment.strip_prefix("view:") {
            match what.trim() {
                "refused" => step.refused = true,
                "skip" => step.as_select = true,
                other => anyhow::bail!("line {line}: `# view: {other}` means nothing"),
            }
        } else if let Some(column) = comment.strip_prefix("times:") {
            let column: usize = column
                .trim()
                .parse()
                .with_context(|| format!("line {line}: # times"))?;
            step.times = Some(column.checked_sub(1).context("columns count from 1")?);
        }
    }
    Ok(step)
}
