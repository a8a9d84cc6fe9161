//! Cursors: DECLARE, FETCH, MOVE, CLOSE, over queries and subscriptions. They live until the transaction ends, or
//! WITH HOLD until the session does.

use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::StreamExt;
use parking_lot::Mutex;
use tidemill_planner::SqlError;
use tidemill_planner::ast::CursorSource;
use tokio::time::{Instant, timeout_at};

use super::query::Given;
use super::sql::SqlSession;
use super::{BatchStream, ParamValue, Response};

/// How long FETCH waits for more of a subscription once it has something.
const READY: Duration = Duration::from_millis(2);

/// Rows that MOVE reads before it forgets them.
const MOVED_AT_ONCE: usize = 10_000;

/// An open cursor. The lock is never contended: it only lets a session be shared between threads.
pub struct Cursor {
    schema: SchemaRef,
    batches: Option<Mutex<BatchStream>>,
    /// Rows that were read ahead.
    ahead: Vec<RecordBatch>,
    live: bool,
    /// How reading ended, for every FETCH from then on.
    failed: Option<SqlError>,
    /// It outlives its transaction.
    hold: bool,
    /// Its transaction is committed, or it never had one.
    held: bool,
}

impl Cursor {
    fn rows_ahead(&self) -> usize {
        self.ahead.iter().map(RecordBatch::num_rows).sum()
    }

    /// Reads on until `count` rows are there, the end, or (for a subscription) the deadline; rows stay in `ahead`, so
    /// that nothing is lost if this is cancelled.
    async fn fill(&mut self, count: usize, deadline: Option<Instant>) {
        while self.rows_ahead() < count {
            let Some(batches) = self.batches.as_mut().map(Mutex::get_mut) else {
                return;
            };
            let next = match (self.live, deadline) {
                (false, _) => batches.next().await,
                (true, Some(deadline)) => match timeout_at(deadline, batches.next()).await {
                    Ok(next) => next,
                    Err(_) => return,
                },
                // Without a timeout: wait for the first row, then take what is ready.
                (true, None) if self.ahead.is_empty() => batches.next().await,
                (true, None) => match timeout_at(Instant::now() + READY, batches.next()).await {
                    Ok(next) => next,
                    Err(_) => return,
                },
            };
            match next {
                Some(Ok(batch)) if batch.num_rows() > 0 => self.ahead.push(batch),
                Some(Ok(_)) => {}
                Some(Err(e)) => {
                    self.batches = None;
                    self.failed = Some(e);
                }
                None => self.batches = None,
            }
        }
    }

    /// The error that reading ended with, once it is its turn. The rows of a subscription before it are of epochs that are right; those of a
    /// query are worth nothing.
    fn check(&self) -> Result<(), SqlError> {
        match &self.failed {
            Some(e) if !self.live || self.ahead.is_empty() => Err(e.clone()),
            _ => Ok(()),
        }
    }

    fn take(&mut self, count: usize) -> Vec<RecordBatch> {
        let mut left = count;
        let mut out = Vec::new();
        for batch in std::mem::take(&mut self.ahead) {
            let rows = batch.num_rows().min(left);
            if rows > 0 {
                out.push(batch.slice(0, rows));
            }
            if rows < batch.num_rows() {
                self.ahead.push(batch.slice(rows, batch.num_rows() - rows));
            }
            left -= rows;
        }
        out
    }
}

impl SqlSession {
    pub(super) async fn declare(
        &mut self,
        name: &str,
        hold: bool,
        source: &CursorSource,
        params: &[ParamValue],
    ) -> Result<Response, SqlError> {
        let in_block = self.transaction.is_some();
        if !in_block && !hold {
            return Err(SqlError::new(
                "25P01",
                "DECLARE CURSOR can only be used in transaction blocks",
            )
            .hint("Say BEGIN first, or DECLARE … WITH HOLD."));
        }
        if self.cursors.contains_key(name) {
            return Err(SqlError::new(
                "42P03",
                format!("cursor \"{name}\" already exists"),
            ));
        }
        let (schema, batches, live) = match source {
            CursorSource::Subscribe(subscribe) => {
                let (schema, batches) = self.subscribe(subscribe, params).await?;
                (schema, batches, true)
            }
            CursorSource::Query(query) => {
                let given = Given {
                    params,
                    lasting: true,
                    ..Given::default()
                };
                match self.select(query, None, &given).await? {
                    Response::Rows {
                        schema, batches, ..
                    } => (schema, batches, false),
                    _ => return Err(SqlError::internal("a query gives rows")),
                }
            }
        };
        self.cursors.insert(
            name.into(),
            Cursor {
                schema,
                batches: Some(Mutex::new(batches)),
                ahead: vec![],
                live,
                failed: None,
                hold,
                held: !in_block,
            },
        );
        Ok(Response::Tag("DECLARE CURSOR".into()))
    }

    /// The end of a transaction closes its cursors; after COMMIT, those WITH HOLD stay.
    pub(super) fn end_cursors(&mut self, committed: bool) {
        self.cursors
            .retain(|_, cursor| cursor.held || (committed && cursor.hold));
        self.cursors.values_mut().for_each(|c| c.held = true);
    }

    pub(super) fn cursor_schema(&self, name: &str) -> Result<SchemaRef, SqlError> {
        self.cursors
            .get(name)
            .map(|c| c.schema.clone())
            .ok_or_else(|| no_cursor(name))
    }

    pub(super) async fn fetch(
        &mut self,
        name: &str,
        count: Option<u64>,
        timeout_ms: Option<u64>,
    ) -> Result<Response, SqlError> {
        let cursor = self.cursors.get_mut(name).ok_or_else(|| no_cursor(name))?;
        let count = count.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
        let deadline = timeout_ms.map(|ms| Instant::now() + Duration::from_millis(ms).max(READY));
        cursor.fill(count, deadline).await;
        cursor.check()?;
        let rows = cursor.take(count);
        let schema = cursor.schema.clone();
        let batches = futures::stream::iter(rows.into_iter().map(Ok)).boxed();
        Ok(Response::Rows {
            schema,
            batches,
            verb: "FETCH",
            counted: true,
            live: false,
        })
    }

    /// MOVE: goes over rows without giving them.
    pub(super) async fn move_on(
        &mut self,
        name: &str,
        count: Option<u64>,
    ) -> Result<Response, SqlError> {
        let cursor = self.cursors.get_mut(name).ok_or_else(|| no_cursor(name))?;
        let mut left = count.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
        let mut moved = 0;
        // Step by step, so that rows that nobody wants aren't collected.
        while left > 0 {
            cursor.fill(left.min(MOVED_AT_ONCE), None).await;
            cursor.check()?;
            let rows: usize = cursor.take(left).iter().map(RecordBatch::num_rows).sum();
            moved += rows;
            left -= rows;
            // A subscription has no end to go to.
            if rows == 0 || cursor.live {
                break;
            }
        }
        Ok(Response::Tag(format!("MOVE {moved}")))
    }

    pub(super) fn close(&mut self, name: Option<&str>) -> Result<Response, SqlError> {
        match name {
            None => {
                self.cursors.clear();
                Ok(Response::Tag("CLOSE CURSOR ALL".into()))
            }
            Some(name) => match self.cursors.remove(name) {
                Some(_) => Ok(Response::Tag("CLOSE CURSOR".into())),
                None => Err(no_cursor(name)),
            },
        }
    }
}

fn no_cursor(name: &str) -> SqlError {
    SqlError::new("34000", format!("cursor \"{name}\" does not exist"))
}
