//! `--init`: statements that make the catalog what a file says. What is there already must agree; nothing is dropped.

use std::path::Path;

use anyhow::{Context, bail};
use tidemill_planner::ast::{Name, Statement, parse};

use crate::coordinator::Handle;
use crate::session::{Response, Session, SqlSession};

/// Runs the file. Stops at the first statement that differs from the catalog, or fails.
pub async fn run(handle: &Handle, path: &Path) -> anyhow::Result<()> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))?;
    let statements = parse(&text).map_err(|e| located(path, &text, &e))?;
    let mut searched = 0;
    let mut session = SqlSession::new(handle.clone(), "tidemill");
    for parsed in statements {
        // Statements come in the order of the file, with their own text.
        let start = text[searched..]
            .find(&parsed.sql)
            .map_or(searched, |at| searched + at);
        searched = start + parsed.sql.len();
        let place = format!("{}:{}", path.display(), line(&text[..start]));
        let name = match &parsed.statement {
            Statement::Empty => continue,
            Statement::CreateTable { name, .. }
            | Statement::CreateSource { name, .. }
            | Statement::CreateView { name, .. }
            | Statement::CreateMaterializedView { name, .. }
            | Statement::CreateSink { name, .. } => name.clone(),
            Statement::CreateIndex {
                name: Some(name),
                on,
                ..
            } => Name {
                schema: on.schema.clone(),
                name: name.clone(),
            },
            Statement::CreateIndex { name: None, .. } => bail!(
                "{}: an index needs a name here, so that it is known at the next start: {}",
                path.display(),
                parsed.sql
            ),
            Statement::CreateSchema { name, .. } => {
                if handle
                    .env
                    .publisher
                    .pin()
                    .catalog
                    .schemas()
                    .contains_key(name)
                {
                    continue;
                }
                Name {
                    schema: None,
                    name: name.clone(),
                }
            }
            Statement::Comment { name, .. } => name.clone(),
            _ => bail!(
                "{place}: only CREATE and COMMENT statements are allowed, not: {}",
                parsed.sql
            ),
        };
        if !matches!(
            parsed.statement,
            Statement::Comment { .. } | Statement::CreateSchema { .. }
        ) {
            let published = handle.env.publisher.pin();
            if let Some(known) = published.catalog.lookup(&name) {
                if normal(&known.record.sql) == normal(&parsed.sql) {
                    continue;
                }
                bail!(
                    "{place}: {} exists with another definition.\nThe catalog has: {}\nThe file has:   {}\nDrop it, or change the file.",
                    name.name,
                    known.record.sql,
                    parsed.sql
                );
            }
        }
        let sql = parsed.sql.clone();
        match session.execute_parsed(parsed, false).await {
            Ok(Response::Tag(_)) => {}
            Ok(_) => bail!("{place}: unexpected result of: {sql}"),
            Err(e) => {
                let place = match e.position {
                    Some(position) => format!("{}:{}", path.display(), line_of(&text, position)),
                    None => place,
                };
                bail!(
                    "{place}: {e}\nin: {sql}{}{}",
                    e.detail
                        .as_ref()
                        .map_or(String::new(), |d| format!("\ndetail: {d}")),
                    e.hint
                        .as_ref()
                        .map_or(String::new(), |h| format!("\nhint: {h}"))
                )
            }
        }
    }
    Ok(())
}

fn located(path: &Path, text: &str, e: &tidemill_planner::SqlError) -> anyhow::Error {
    let line = e.position.map_or(1, |position| line_of(text, position));
    anyhow::anyhow!("{}:{line}: {e}", path.display())
}

/// The line, from 1, on which a text ends.
fn line(before: &str) -> usize {
    before.matches('\n').count() + 1
}

/// The line of a position, which counts characters from 1.
fn line_of(text: &str, position: usize) -> usize {
    let before = text.chars().take(position.saturating_sub(1));
    before.filter(|c| *c == '\n').count() + 1
}

/// The statement without differences in white space, outside quotes, and in the case of IF NOT EXISTS.
fn normal(sql: &str) -> String {
    let mut out = String::new();
    let mut quote = None;
    for c in sql.trim().trim_end_matches(';').chars() {
        match quote {
            Some(q) => {
                out.push(c);
                if c == q {
                    quote = None;
                }
            }
            None if c == '\'' || c == '"' => {
                quote = Some(c);
                out.push(c);
            }
            None if c.is_whitespace() => {
                if !out.ends_with(' ') {
                    out.push(' ');
                }
            }
            None => out.extend(c.to_lowercase()),
        }
    }
    out.trim().replace("if not exists ", "")
}
