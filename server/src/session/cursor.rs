//! Cursors: DECLARE, FETCH, MOVE, CLOSE, over queries and subscriptions. They live until the transaction ends, or
//! WITH HOLD until the session does.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::{Stream, StreamExt, TryStreamExt};
use tidemill_planner::SqlError;
use tidemill_planner::ast::CursorSource;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use super::query::Given;
use super::sql::SqlSession;
use super::{BatchStream, ParamValue, Response};

/// How long FETCH waits for more of a subscription once it has something.
const READY: Duration = Duration::from_millis(2);

/// Rows that MOVE reads before it forgets them, and that FETCH collects before it gives them.
const ROWS_AT_ONCE: usize = 10_000;

/// An open cursor.
pub struct Cursor {
    schema: SchemaRef,
    /// Shared with the rows that a FETCH is giving.
    reading: Arc<Mutex<Reading>>,
    live: bool,
    /// It outlives its transaction.
    hold: bool,
    /// Its transaction is committed, or it never had one.
    held: bool,
    /// How many cursors the session has opened up to this one.
    pub(super) number: u64,
}

/// What a cursor reads from. The lock is never contended but where a FETCH is not read to its end.
struct Reading {
    batches: Option<BatchStream>,
    /// Rows that were read ahead.
    ahead: Vec<RecordBatch>,
    live: bool,
    /// How reading ended, for every FETCH from then on.
    failed: Option<SqlError>,
}

impl Reading {
    fn rows_ahead(&self) -> usize {
        self.ahead.iter().map(RecordBatch::num_rows).sum()
    }

    /// Reads on until `count` rows are there, the end, or (for a subscription) the deadline; rows stay in `ahead`, so
    /// that nothing is lost if this is cancelled.
    async fn fill(&mut self, count: usize, deadline: Option<Instant>) {
        while self.rows_ahead() < count {
            let Some(batches) = self.batches.as_mut() else {
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

impl Cursor {
    /// Its columns.
    pub(super) fn schema(&self) -> &SchemaRef {
        &self.schema
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
        let reading = Reading {
            batches: Some(batches),
            ahead: vec![],
            live,
            failed: None,
        };
        self.cursors_opened += 1;
        let cursor = Cursor {
            schema,
            reading: Arc::new(Mutex::new(reading)),
            live,
            hold,
            held: !in_block,
            number: self.cursors_opened,
        };
        self.cursors.insert(name.into(), cursor);
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
        let cursor = self.cursors.get(name).ok_or_else(|| no_cursor(name))?;
        let count = count.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
        let deadline = timeout_ms.map(|ms| Instant::now() + Duration::from_millis(ms).max(READY));
        let first = match cursor.live {
            true => count,
            false => count.min(ROWS_AT_ONCE),
        };
        let rows = {
            let mut reading = cursor.reading.lock().await;
            reading.fill(first, deadline).await;
            reading.check()?;
            reading.take(first)
        };
        let rows = futures::stream::iter(rows.into_iter().map(Ok));
        let batches = match count - first {
            0 => rows.boxed(),
            // In pieces, so that no more of them is in memory than the client is ready to take.
            left => rows.chain(pieces(cursor.reading.clone(), left)).boxed(),
        };
        Ok(Response::Rows {
            schema: cursor.schema.clone(),
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
        let cursor = self.cursors.get(name).ok_or_else(|| no_cursor(name))?;
        let mut reading = cursor.reading.lock().await;
        let mut left = count.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
        let mut moved = 0;
        // Step by step, so that rows that nobody wants aren't collected.
        while left > 0 {
            reading.fill(left.min(ROWS_AT_ONCE), None).await;
            reading.check()?;
            let rows: usize = reading.take(left).iter().map(RecordBatch::num_rows).sum();
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

/// The next `left` rows.
fn pieces(
    reading: Arc<Mutex<Reading>>,
    left: usize,
) -> impl Stream<Item = Result<RecordBatch, SqlError>> + Send {
    let piece = |(reading, left): (Arc<Mutex<Reading>>, usize)| async move {
        let count = left.min(ROWS_AT_ONCE);
        let rows = {
            let mut reading = reading.lock().await;
            reading.fill(count, None).await;
            reading.check()?;
            reading.take(count)
        };
        let taken: usize = rows.iter().map(RecordBatch::num_rows).sum();
        let rows = futures::stream::iter(rows.into_iter().map(Ok));
        Ok((taken > 0).then(|| (rows, (reading, left - taken))))
    };
    futures::stream::try_unfold((reading, left), piece).try_flatten()
}

fn no_cursor(name: &str) -> SqlError {
    SqlError::new("34000", format!("cursor \"{name}\" does not exist"))
}
