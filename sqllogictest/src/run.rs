//! Plays a script in a world.
//!
//! Invariant: in every world a query's answer must be the one in the file; only the order of a view's
//! rows is free.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Result, anyhow, bail, ensure};
use sqllogictest::ExpectedError;
use tidemill_tests::client::{Row, SqlFailure};
use tidemill_tests::{Options, Server, Sql};

use crate::script::{self, Act, Script, Step};
use crate::text::{Times, normal};
use crate::world::{Views, World, split_insert};

/// Failures reported per file; the rest is counted.
const FAILURES_SHOWN_MAX: usize = 25;

/// Plays the file at `path`; all that differs is in the error. `restarts_max` bounds the restarts of a restarting world.
pub async fn play(path: &Path, world: &World, restarts_max: usize) -> Result<()> {
    let script = script::read(path)?;
    if world.restart_every.is_some() && script.no_restart {
        return Ok(());
    }
    let scratch = tempfile_dir(path, world)?;
    let player = Player::start(&script, world, &scratch).await?;
    let outcome = player.play(restarts_max).await;
    let _ = std::fs::remove_dir_all(&scratch);
    outcome
}

fn tempfile_dir(path: &Path, world: &World) -> Result<std::path::PathBuf> {
    // Files of different folders may have one name, and run at the same time.
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let folder = path.parent().and_then(|p| p.file_name());
    let folder = folder.unwrap_or_default().to_string_lossy();
    let name = format!("slt-{}-{}-{folder}-{stem}", std::process::id(), world.name);
    let dir = std::env::temp_dir().join(name);
    std::fs::create_dir_all(dir.join("input"))?;
    Ok(dir)
}

struct Player<'a> {
    script: &'a Script,
    world: &'a World,
    input: std::path::PathBuf,
    server: Server,
    sessions: BTreeMap<Option<String>, Sql>,
    open_transactions: BTreeSet<Option<String>>,
    /// SET statements of the default session, run again after a restart.
    settings: Vec<String>,
    /// For each step that is a query with a view of its own: the step after which the view is made.
    made_after: BTreeMap<usize, usize>,
    /// Views whose creation failed, with the failure.
    unmade: BTreeMap<usize, SqlFailure>,
    failures: Vec<String>,
}

impl<'a> Player<'a> {
    async fn start(script: &'a Script, world: &'a World, scratch: &Path) -> Result<Player<'a>> {
        let server = Server::start(&scratch.join("data"), &Options::workers(world.workers))?;
        Ok(Player {
            script,
            world,
            input: scratch.join("input"),
            server,
            sessions: BTreeMap::new(),
            open_transactions: BTreeSet::new(),
            settings: Vec::new(),
            made_after: views_of(script, world),
            unmade: BTreeMap::new(),
            failures: Vec::new(),
        })
    }

    async fn play(mut self, restarts_max: usize) -> Result<()> {
        let mut restarts = 0;
        let stride = self.script.steps.len() / (restarts_max + 1) + 1;
        for at in 0..self.script.steps.len() {
            let step = &self.script.steps[at];
            let skipped = is_skipped(step, self.world);
            if !skipped && let Err(error) = self.step(at).await {
                self.failures.push(format!("line {}: {error:#}", step.line));
                ensure!(
                    self.server.is_running(),
                    "{}\nthe server is gone:\n{}",
                    self.report(),
                    self.server.log_text()
                );
            }
            self.make_views(at).await?;
            let due = self.world.restart_every.is_some()
                && (at + 1) % stride == 0
                && restarts < restarts_max;
            if due && self.open_transactions.is_empty() {
                restarts += 1;
                self.restart(1 + restarts % 2).await?;
            }
        }
        ensure!(self.failures.is_empty(), "{}", self.report());
        Ok(())
    }

    fn report(&self) -> String {
        let mut report = self
            .failures
            .iter()
            .take(FAILURES_SHOWN_MAX)
            .cloned()
            .collect::<Vec<_>>();
        if self.failures.len() > FAILURES_SHOWN_MAX {
            report.push(format!(
                "… and {} more",
                self.failures.len() - FAILURES_SHOWN_MAX
            ));
        }
        format!(
            "{} of {} steps failed\n{}",
            self.failures.len(),
            self.script.steps.len(),
            report.join("\n")
        )
    }

    async fn restart(&mut self, workers: usize) -> Result<()> {
        self.sessions.clear();
        self.server.restart(&Options::workers(workers))?;
        for setting in self.settings.clone() {
            self.session(&None).await?.run(&setting).await?;
        }
        Ok(())
    }

    async fn session(&mut self, name: &Option<String>) -> Result<&Sql> {
        if !self.sessions.contains_key(name) {
            let session = self.server.connect().await?;
            self.sessions.insert(name.clone(), session);
        }
        Ok(&self.sessions[name])
    }

    fn text(&self, sql: &str) -> String {
        sql.replace("$DIR", &self.input.display().to_string())
    }

    async fn step(&mut self, at: usize) -> Result<()> {
        let script = self.script;
        let step = &script.steps[at];
        if step.act.begins_transaction() {
            self.open_transactions.insert(step.connection.clone());
        } else if step.act.ends_transaction() {
            self.open_transactions.remove(&step.connection);
        }
        let (mut left, pause) = step.retry.unwrap_or((0, std::time::Duration::ZERO));
        loop {
            let outcome = match &step.act {
                Act::Statement { sql, expect } => {
                    self.statement(step, &self.text(sql), expect).await
                }
                Act::Query {
                    sql,
                    expect,
                    sorted,
                } => self.query(at, &self.text(sql), expect, *sorted).await,
                Act::System { command } => self.system(&self.text(command)),
            };
            if outcome.is_ok() || left == 0 {
                self.drop_view(at).await?;
                return outcome;
            }
            left -= 1;
            tokio::time::sleep(pause).await;
        }
    }

    fn system(&self, command: &str) -> Result<()> {
        let output = Command::new("bash")
            .args(["-ec", command])
            .current_dir(&self.input)
            .output()?;
        ensure!(
            output.status.success(),
            "{command}\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    async fn statement(
        &mut self,
        step: &Step,
        sql: &str,
        expect: &Result<(), ExpectedError>,
    ) -> Result<()> {
        let parts = match expect {
            Ok(())
                if self.world.row_per_epoch
                    && !self.open_transactions.contains(&step.connection) =>
            {
                split_insert(sql)
            }
            _ => vec![sql.to_owned()],
        };
        let mut outcome = Ok(());
        for part in parts {
            outcome = self
                .session(&step.connection)
                .await?
                .try_rows(&part)
                .await
                .map(|_| ());
            if outcome.is_err() {
                break;
            }
        }
        if step.connection.is_none() && outcome.is_ok() && step.act.verb() == "SET" {
            self.settings.push(sql.to_owned());
        }
        match (outcome, expect) {
            (Ok(()), Ok(())) => Ok(()),
            (Err(failure), Err(expected)) => matches(sql, &failure, expected),
            (Err(failure), Ok(())) => Err(anyhow!("{sql}\n    failed: {failure}")),
            (Ok(()), Err(expected)) => Err(anyhow!("{sql}\n    succeeded, expected: {expected}")),
        }
    }

    async fn query(
        &mut self,
        at: usize,
        sql: &str,
        expect: &Result<(usize, Vec<String>), ExpectedError>,
        sorted: bool,
    ) -> Result<()> {
        let step = &self.script.steps[at];
        let mut from_view = self.made_after.contains_key(&at);
        if let Some(failure) = self.unmade.get(&at).cloned() {
            match expect {
                Err(expected) if !step.refused => return matches(sql, &failure, expected),
                _ if failure.sqlstate != "0A000" => bail!("{sql}\n    as a view: {failure}"),
                _ if !step.refused => {
                    bail!("{sql}\n    refused as a view without `# view: refused`: {failure}")
                }
                _ => from_view = false,
            }
        } else if from_view && step.refused {
            bail!("{sql}\n    is accepted as a view: remove `# view: refused`");
        }
        let run = if from_view {
            format!("SELECT * FROM {}", view_name(at))
        } else {
            sql.to_owned()
        };
        let times = step.times;
        let connection = step.connection.clone();
        let outcome: Result<Vec<Row>, SqlFailure> =
            self.session(&connection).await?.try_rows(&run).await;
        match (outcome, expect) {
            (Ok(rows), Ok((columns, lines))) => {
                ensure!(
                    rows.iter().all(|r| r.len() == *columns),
                    "{sql}\n    {columns} columns expected, got {:?}",
                    rows.first()
                );
                let mut got: Vec<String> = Times::default()
                    .lines(&rows, times)
                    .iter()
                    .map(|l| normal(l))
                    .collect();
                let mut want: Vec<String> = lines.iter().map(|l| normal(l)).collect();
                if sorted || from_view {
                    got.sort();
                    want.sort();
                }
                ensure!(got == want, "{sql}\n{}", difference(&got, &want));
                Ok(())
            }
            (Err(failure), Err(expected)) => matches(sql, &failure, expected),
            (Err(failure), Ok(_)) => Err(anyhow!("{sql}\n    failed: {failure}")),
            (Ok(rows), Err(expected)) => Err(anyhow!(
                "{sql}\n    gave {} rows, expected: {expected}",
                rows.len()
            )),
        }
    }

    /// Makes the views that are due after step `at` (before step `at + 1`).
    async fn make_views(&mut self, at: usize) -> Result<()> {
        let due: Vec<usize> = self
            .made_after
            .iter()
            .filter(|(_, after)| **after == at)
            .map(|(query, _)| *query)
            .collect();
        for query in due {
            let step = &self.script.steps[query];
            let Act::Query { sql, expect, .. } = &step.act else {
                continue;
            };
            let columns = match expect {
                Ok((n, _)) => {
                    let names: Vec<String> = (1..=*n).map(|i| format!("c{i}")).collect();
                    format!(" ({})", names.join(", "))
                }
                Err(_) => String::new(),
            };
            let sql = self.text(sql.trim().trim_end_matches(';'));
            let create = format!(
                "CREATE MATERIALIZED VIEW {}{columns} AS {sql}",
                view_name(query)
            );
            if let Err(failure) = self
                .session(&step.connection.clone())
                .await?
                .try_rows(&create)
                .await
            {
                if failure.sqlstate.is_empty() {
                    bail!(
                        "{}\n{create}\n    {failure}\n{}",
                        self.report(),
                        self.server.log_text()
                    );
                }
                self.unmade.insert(query, failure);
            }
        }
        Ok(())
    }

    async fn drop_view(&mut self, at: usize) -> Result<()> {
        if self.made_after.remove(&at).is_some() && self.unmade.remove(&at).is_none() {
            let connection = self.script.steps[at].connection.clone();
            let drop = format!("DROP MATERIALIZED VIEW {}", view_name(at));
            self.session(&connection)
                .await?
                .try_rows(&drop)
                .await
                .map_err(|f| anyhow!("{drop}: {f}"))?;
        }
        Ok(())
    }
}

/// `onlyif` and `skipif` leave the step out of this world.
fn is_skipped(step: &Step, world: &World) -> bool {
    step.skip.iter().any(|l| l == world.name)
        || (!step.only.is_empty() && !step.only.iter().any(|l| l == world.name))
}

fn view_name(step: usize) -> String {
    format!("slt_view_{step}")
}

/// Which queries are answered by a view of their own, and after which step it is made. Queries inside
/// transactions and statements that only look like queries stay what they are.
fn views_of(script: &Script, world: &World) -> BTreeMap<usize, usize> {
    let mut made_after = BTreeMap::new();
    if world.views == Views::Never {
        return made_after;
    }
    let mut open: BTreeSet<&Option<String>> = BTreeSet::new();
    let mut last_definition = 0;
    for (at, step) in script.steps.iter().enumerate() {
        match step.act.verb().as_str() {
            _ if step.act.begins_transaction() => _ = open.insert(&step.connection),
            _ if step.act.ends_transaction() => _ = open.remove(&step.connection),
            "CREATE" | "DROP" | "ALTER" | "SET" | "RESET" if open.is_empty() => {
                last_definition = at
            }
            "SELECT" | "WITH" | "VALUES" | "TABLE"
                if matches!(step.act, Act::Query { .. })
                    && !step.as_select
                    && !is_skipped(step, world)
                    && open.is_empty()
                    && at > 0 =>
            {
                let before = if world.views == Views::Before {
                    last_definition
                } else {
                    at - 1
                };
                made_after.insert(at, before);
            }
            _ => {}
        }
    }
    made_after
}

fn matches(sql: &str, failure: &SqlFailure, expected: &ExpectedError) -> Result<()> {
    ensure!(
        expected.is_match(&failure.message, Some(&failure.sqlstate)),
        "{sql}\n    expected error {expected}, got {failure}"
    );
    Ok(())
}

/// Lines that only one side has.
fn difference(got: &[String], want: &[String]) -> String {
    let mut out = String::new();
    const LINES_MAX: usize = 12;
    let mut rest: Vec<&String> = got.iter().collect();
    let mut missing: Vec<&String> = Vec::new();
    for line in want {
        match rest.iter().position(|l| *l == line) {
            Some(i) => _ = rest.remove(i),
            None => missing.push(line),
        }
    }
    if rest.is_empty() && missing.is_empty() {
        return format!("    the order differs: got {got:?}, expected {want:?}");
    }
    for line in missing.iter().take(LINES_MAX) {
        out.push_str(&format!("    -{line}\n"));
    }
    for line in rest.iter().take(LINES_MAX) {
        out.push_str(&format!("    +{line}\n"));
    }
    out
}
