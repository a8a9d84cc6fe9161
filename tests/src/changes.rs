//! Change streams: `COPY (SUBSCRIBE …) TO STDOUT`, decoded, checked and summed.
//!
//! Invariant checked on every stream: times never go back, no diff is zero, and nothing comes below a progress time.

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;

use anyhow::{Context, Result, bail, ensure};
use futures::StreamExt;
use tokio_postgres::CopyOutStream;

use crate::client::{Row, Sql, SqlFailure, line};
use crate::wait::DEADLINE;

/// One changed row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The epoch.
    pub time: i64,
    /// Copies that came (positive) or went.
    pub diff: i64,
    /// The columns as text.
    pub row: Row,
}

/// One line of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A row changed.
    Change(Change),
    /// Everything below this time has been sent.
    Progress(i64),
}

/// Rows as lines (`a|b`) with their multiplicities; never holds zeros.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Multiset(pub BTreeMap<String, i64>);

impl Multiset {
    /// Adds `diff` copies.
    pub fn add(&mut self, row: &[Option<String>], diff: i64) {
        let key = line(row);
        let count = self.0.entry(key.clone()).or_insert(0);
        *count += diff;
        if *count == 0 {
            self.0.remove(&key);
        }
    }

    /// The multiset of these lines.
    pub fn of_lines<S: Into<String>>(lines: impl IntoIterator<Item = S>) -> Multiset {
        let mut set = Multiset::default();
        for line in lines {
            *set.0.entry(line.into()).or_insert(0) += 1;
        }
        set
    }

    /// Rows that have no positive multiplicity: an error in the stream.
    pub fn negative(&self) -> Vec<(&str, i64)> {
        self.0
            .iter()
            .filter(|(_, n)| **n < 0)
            .map(|(row, n)| (row.as_str(), *n))
            .collect()
    }
}

/// An open subscription and what it has given.
pub struct Subscription {
    // Dropping the session would end the stream.
    _session: Sql,
    stream: Pin<Box<CopyOutStream>>,
    pending: Vec<u8>,
    progress: bool,
    last_time: i64,
    /// The rows that came or went at `last_time`, and which of both.
    at_last: HashMap<Row, bool>,
    /// All changes so far.
    pub changes: Vec<Change>,
    /// The newest progress time: everything below it has been received.
    pub frontier: i64,
    /// The sum of all changes below `frontier`, and of those above that have come.
    pub sum: Multiset,
}

impl Subscription {
    /// `SUBSCRIBE TO target WITH (SNAPSHOT, PROGRESS)` in a session of its own.
    pub async fn open(session: &Sql, target: &str) -> Result<Subscription> {
        Subscription::with(
            session,
            &format!("SUBSCRIBE TO {target} WITH (SNAPSHOT = true, PROGRESS = true)"),
        )
        .await
    }

    /// What came after progress time `p` (everything below it is known): the documented way to resume.
    pub async fn resume(session: &Sql, target: &str, p: i64) -> Result<Subscription> {
        let sql = format!(
            "SUBSCRIBE TO {target} WITH (SNAPSHOT = false, PROGRESS = true) AS OF {}",
            p - 1
        );
        Subscription::with(session, &sql).await
    }

    /// Any SUBSCRIBE statement.
    pub async fn with(session: &Sql, subscribe: &str) -> Result<Subscription> {
        let session = session.another().await?;
        let stream = session
            .client()
            .copy_out(&format!("COPY ({subscribe}) TO STDOUT"))
            .await;
        let stream = stream
            .map_err(SqlFailure::from)
            .with_context(|| subscribe.to_owned())?;
        Ok(Subscription {
            _session: session,
            stream: Box::pin(stream),
            pending: Vec::new(),
            progress: subscribe.to_uppercase().contains("PROGRESS"),
            last_time: i64::MIN,
            at_last: HashMap::new(),
            changes: Vec::new(),
            frontier: i64::MIN,
            sum: Multiset::default(),
        })
    }

    /// The next line; `None` at the end of the stream. Errors carry a [`SqlFailure`] when the server sent one.
    pub async fn next(&mut self) -> Result<Option<Event>> {
        loop {
            if let Some(end) = self.pending.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                let line = String::from_utf8(line[..end].to_vec())?;
                return self.event(&line).map(Some);
            }
            let next = tokio::time::timeout(DEADLINE, self.stream.next()).await;
            match next
                .context("a subscription was silent for too long (progress comes every second)")?
            {
                Some(bytes) => self
                    .pending
                    .extend_from_slice(&bytes.map_err(SqlFailure::from)?),
                None => return Ok(None),
            }
        }
    }

    fn event(&mut self, text: &str) -> Result<Event> {
        let mut fields: Row = text.split('\t').map(unescape).collect();
        let head = if self.progress { 3 } else { 2 };
        ensure!(
            fields.len() >= head,
            "short line in a change stream: {text:?}"
        );
        let row = fields.split_off(head);
        let number = |i: usize| -> Result<i64> {
            let field = fields[i]
                .as_deref()
                .with_context(|| format!("NULL in column {i} of {text:?}"))?;
            field
                .parse()
                .with_context(|| format!("column {i} of {text:?}"))
        };
        let time = number(0)?;
        ensure!(
            time >= self.last_time,
            "time went back from {} to {time}",
            self.last_time
        );
        if time > self.last_time {
            self.at_last.clear();
        }
        self.last_time = time;
        if self.progress && fields[1].as_deref() == Some("t") {
            ensure!(
                row.iter().all(Option::is_none),
                "a progress row with values: {text:?}"
            );
            self.frontier = self.frontier.max(time);
            return Ok(Event::Progress(time));
        }
        let diff = number(head - 1)?;
        ensure!(diff != 0, "a change of nothing: {text:?}");
        ensure!(
            time >= self.frontier,
            "a change at {time} after progress {}: {text:?}",
            self.frontier
        );
        let came = self.at_last.entry(row.clone()).or_insert(diff > 0);
        ensure!(
            *came == (diff > 0),
            "a row that comes and goes at one time: {text:?}"
        );
        self.sum.add(&row, diff);
        let change = Change { time, diff, row };
        self.changes.push(change.clone());
        Ok(Event::Change(change))
    }

    /// Reads on until `done` says so at a progress row (a consistent moment).
    pub async fn until(
        &mut self,
        what: &str,
        mut done: impl FnMut(&Subscription) -> bool,
    ) -> Result<()> {
        let start = std::time::Instant::now();
        loop {
            match self.next().await? {
                Some(Event::Progress(_)) if done(self) => return Ok(()),
                Some(_) if start.elapsed() < DEADLINE => {}
                Some(_) => bail!(
                    "waited {DEADLINE:?} in vain for: {what}; the sum is {:?}",
                    self.sum
                ),
                None => bail!("the subscription ended before: {what}"),
            }
        }
    }

    /// Reads on until the sum is exactly these lines.
    pub async fn until_rows(&mut self, lines: &[&str]) -> Result<()> {
        let want = Multiset::of_lines(lines.iter().copied());
        self.until(&format!("{lines:?}"), |s| s.sum == want).await
    }

    /// The sum after each time that had changes.
    pub fn states(&self) -> Vec<(i64, Multiset)> {
        let mut states: Vec<(i64, Multiset)> = Vec::new();
        for change in &self.changes {
            match states.last_mut() {
                Some((time, set)) if *time == change.time => set.add(&change.row, change.diff),
                last => {
                    let mut set = last.map(|(_, set)| set.clone()).unwrap_or_default();
                    set.add(&change.row, change.diff);
                    states.push((change.time, set));
                }
            }
        }
        states
    }
}

/// A field of COPY's text format.
fn unescape(field: &str) -> Option<String> {
    if field == "\\N" {
        return None;
    }
    let mut text = String::with_capacity(field.len());
    let mut chars = field.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('t') => text.push('\t'),
                Some('n') => text.push('\n'),
                Some('r') => text.push('\r'),
                Some(other) => text.push(other),
                None => text.push('\\'),
            },
            c => text.push(c),
        }
    }
    Some(text)
}
