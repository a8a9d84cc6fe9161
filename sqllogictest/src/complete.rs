//! Fills in expectations: runs a file's records against a server and writes what it answers.
//!
//! The file's own text is kept, but for the header of a `query`, its lines after `----`, and SQLSTATEs.
//! `query ?` asks for the types; `statement error` and `query error` ask for the SQLSTATE.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};
use tidemill_tests::Sql;
use tokio_postgres::types::Type;

use crate::text::Times;

/// Rewrites the file at `path` with what the server at `config` answers. `dir` stands for `$DIR`.
pub async fn complete(path: &Path, config: &str, dir: &Path) -> Result<()> {
    let text = std::fs::read_to_string(path)?;
    let mut writer = Writer {
        config,
        dir: dir.display().to_string(),
        sessions: BTreeMap::new(),
        connection: String::new(),
        times_column: None,
        out: String::new(),
    };
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if let Some(name) = line.strip_prefix("connection ") {
            writer.connection = name.trim().to_owned();
        }
        if let Some(n) = line.strip_prefix("# times:") {
            writer.times_column = n
                .trim()
                .parse::<usize>()
                .ok()
                .and_then(|n| n.checked_sub(1));
        }
        let kind = line.split(' ').next().unwrap_or("");
        if !["query", "statement", "system"].contains(&kind) {
            writer.line(line);
            continue;
        }
        let mut body: Vec<&str> = Vec::new();
        let mut results = false;
        while let Some(next) = lines.next_if(|l| !l.is_empty()) {
            results |= next == "----";
            if !results {
                body.push(next);
            }
        }
        writer
            .record(line, &body.join("\n"))
            .await
            .map_err(|e| e.context(format!("{}: {line}\n{}", path.display(), body.join("\n"))))?;
        writer.connection.clear();
        writer.times_column = None;
    }
    std::fs::write(path, writer.out)?;
    Ok(())
}

struct Writer<'a> {
    config: &'a str,
    dir: String,
    sessions: BTreeMap<String, Sql>,
    connection: String,
    times_column: Option<usize>,
    out: String,
}

impl Writer<'_> {
    fn line(&mut self, line: &str) {
        self.out.push_str(line);
        self.out.push('\n');
    }

    async fn session(&mut self) -> Result<&Sql> {
        if !self.sessions.contains_key(&self.connection) {
            let session = Sql::connect_to(self.config, 0).await?;
            self.sessions.insert(self.connection.clone(), session);
        }
        Ok(&self.sessions[&self.connection])
    }

    async fn record(&mut self, header: &str, body: &str) -> Result<()> {
        let sql = body.replace("$DIR", &self.dir);
        if header.starts_with("system") {
            let done = Command::new("bash")
                .args(["-ec", &sql])
                .current_dir(&self.dir)
                .status()?;
            anyhow::ensure!(done.success(), "the command failed");
            self.line(header);
            self.line(body);
            return Ok(());
        }
        let is_query = header.starts_with("query");
        let types = if is_query {
            self.types(&sql).await?
        } else {
            None
        };
        match self.session().await?.try_rows(&sql).await {
            Err(failure) if !is_query && !header.starts_with("statement error") => {
                bail!("failed: {failure}")
            }
            Err(failure) if failure.sqlstate.is_empty() => bail!("the connection broke: {failure}"),
            Err(failure) => {
                let kind = if is_query { "query" } else { "statement" };
                self.line(&format!("{kind} error ({})", failure.sqlstate));
                self.line(body);
            }
            Ok(_) if header.starts_with("statement error") => bail!("succeeded"),
            Ok(_) if !is_query => {
                self.line(header);
                self.line(body);
            }
            Ok(rows) => {
                let mut lines = Times::default().lines(&rows, self.times_column);
                let words: Vec<&str> = header.split(' ').skip(1).collect();
                let rest: Vec<&str> = words
                    .into_iter()
                    .filter(|w| !w.chars().all(|c| "TIR?".contains(c)))
                    .collect();
                let rest: Vec<&str> = if rest.first() == Some(&"error") {
                    Vec::new()
                } else {
                    rest
                };
                if rest.first() == Some(&"rowsort") {
                    lines.sort();
                }
                let width = rows.first().map_or(1, Vec::len);
                let types = types.unwrap_or_else(|| "T".repeat(width));
                self.line(
                    &[&["query", types.as_str()], rest.as_slice()]
                        .concat()
                        .join(" "),
                );
                self.line(body);
                self.line("----");
                lines.iter().for_each(|l| self.line(l));
            }
        }
        Ok(())
    }

    /// One letter per column, if the statement can be prepared.
    async fn types(&mut self, sql: &str) -> Result<Option<String>> {
        if self.connection.is_empty() && !sql.trim_start().to_uppercase().starts_with("FETCH") {
            // A session of its own, because a failure would end an open transaction; that transaction may hold locks.
            let session = Sql::connect_to(self.config, 0).await?;
            let _ = session.run("SET lock_timeout = '200ms'").await;
            if let Ok(statement) = session.client().prepare(sql).await {
                let letter = |t: &Type| match *t {
                    Type::INT2 | Type::INT4 | Type::INT8 | Type::OID => 'I',
                    Type::FLOAT4 | Type::FLOAT8 | Type::NUMERIC => 'R',
                    _ => 'T',
                };
                let types: String = statement
                    .columns()
                    .iter()
                    .map(|c| letter(c.type_()))
                    .collect();
                return Ok((!types.is_empty()).then_some(types));
            }
        }
        Ok(None)
    }
}
