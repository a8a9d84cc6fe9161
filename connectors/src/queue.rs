//! The bounded queue between a source's thread and whoever cuts epochs, and the signal that stops a source.
//!
//! Invariant: the bytes waiting never exceed the bound, except that one batch is always let into
//! an empty queue, however large it is. If there is a bound of rows, no batch comes in while as many wait.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::source::{SourceBatch, Wanted};

/// Bytes that a batch counts for beyond its columns: queue entry, offsets.
const BATCH_OVERHEAD_BYTES: usize = 256;

/// Asks a source to stop. Clones are the same signal.
#[derive(Clone, Default)]
pub struct StopSignal {
    inner: Arc<StopInner>,
}

type Callback = Box<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct StopInner {
    stopped: AtomicBool,
    callbacks: Mutex<Vec<Callback>>,
    changed: Condvar,
}

impl StopSignal {
    /// A signal that hasn't been given.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives the signal; for ever.
    pub fn stop(&self) {
        let callbacks = self.inner.callbacks.lock();
        self.inner.stopped.store(true, Ordering::SeqCst);
        self.inner.changed.notify_all();
        for callback in callbacks.iter() {
            callback();
        }
    }

    /// Whether it was given.
    pub fn is_stopped(&self) -> bool {
        self.inner.stopped.load(Ordering::SeqCst)
    }

    /// Waits until the signal is given or `timeout` has passed; returns whether it was given.
    pub fn wait(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut guard = self.inner.callbacks.lock();
        while !self.is_stopped() {
            if self
                .inner
                .changed
                .wait_until(&mut guard, deadline)
                .timed_out()
            {
                break;
            }
        }
        self.is_stopped()
    }

    /// Calls `callback` when the signal is given; at once if it was. It must not call back into the signal.
    pub fn on_stop(&self, callback: impl Fn() + Send + Sync + 'static) {
        let mut callbacks = self.inner.callbacks.lock();
        if self.is_stopped() {
            callback();
        }
        callbacks.push(Box::new(callback));
    }
}

/// What a source is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceState {
    /// Reading.
    Running,
    /// Everything there is has been read; the text says what it waits for.
    Waiting(String),
    /// Ended by an error.
    Failed(String),
    /// Its input has ended, or it was stopped.
    Finished,
}

/// A source's state and counters, since it was opened.
#[derive(Clone, Debug)]
pub struct SourceStatus {
    /// What it is doing.
    pub state: SourceState,
    /// Input bytes decoded.
    pub bytes: u64,
    /// Rows handed over.
    pub rows: u64,
    /// Error rows handed over.
    pub errors: u64,
    /// The newest trouble, of an error row or of the environment.
    pub last_error: Option<String>,
}

/// The receiver is gone or the source was told to stop: give up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the source was stopped")]
pub struct Stopped;

struct Queued {
    batch: SourceBatch,
    bytes: usize,
    rows: usize,
    since: Instant,
}

struct State {
    bytes_max: usize,
    rows_max: usize,
    queue: VecDeque<Queued>,
    bytes: usize,
    rows: usize,
    closed: bool,
    wanted: Option<Wanted>,
    /// The source was told of columns that nobody wants.
    left_out: bool,
    status: SourceStatus,
}

impl State {
    /// There is no room for `more` bytes. An empty queue takes any batch.
    fn is_full(&self, more: usize) -> bool {
        let full = self.bytes + more > self.bytes_max || self.rows >= self.rows_max;
        full && !self.queue.is_empty()
    }
}

struct Shared {
    wake: Arc<dyn Fn() + Send + Sync>,
    state: Mutex<State>,
    room: Condvar,
}

/// A queue of at most `bytes_max` bytes. `wake` is called, without any lock held, after every batch
/// that was put in, when all there is has been read, and after the source's end: the receiver decides whether an
/// epoch is due.
pub fn channel(
    bytes_max: usize,
    wake: Arc<dyn Fn() + Send + Sync>,
) -> (BatchSender, BatchReceiver) {
    let shared = Arc::new(Shared {
        wake,
        state: Mutex::new(State {
            bytes_max,
            rows_max: usize::MAX,
            queue: VecDeque::new(),
            bytes: 0,
            rows: 0,
            closed: false,
            wanted: None,
            left_out: false,
            status: SourceStatus {
                state: SourceState::Running,
                bytes: 0,
                rows: 0,
                errors: 0,
                last_error: None,
            },
        }),
        room: Condvar::new(),
    });
    (
        BatchSender {
            shared: shared.clone(),
        },
        BatchReceiver { shared },
    )
}

/// The source's end of a queue.
#[derive(Clone)]
pub struct BatchSender {
    shared: Arc<Shared>,
}

impl BatchSender {
    /// Makes `stop` end a blocked [`send`](Self::send). Sources call it once, when they start.
    pub fn stop_with(&self, stop: &StopSignal) {
        let shared = self.shared.clone();
        stop.on_stop(move || {
            shared.state.lock().closed = true;
            shared.room.notify_all();
        });
    }

    /// Puts a batch in, waiting for room. An `Err` means that the batch was thrown away.
    pub fn send(&self, batch: SourceBatch) -> Result<(), Stopped> {
        let rows = batch.rows.as_ref().map_or(0, |d| d.len());
        let errors = batch.errors.as_ref().map_or(0, |d| d.len());
        let bytes = batch_bytes(&batch);
        {
            let mut s = self.shared.state.lock();
            while !s.closed && s.is_full(bytes) {
                self.shared.room.wait(&mut s);
            }
            if s.closed {
                return Err(Stopped);
            }
            s.bytes += bytes;
            s.rows += rows;
            s.status.rows += rows as u64;
            s.status.errors += errors as u64;
            s.status.bytes += batch.bytes;
            s.status.state = SourceState::Running;
            s.queue.push_back(Queued {
                batch,
                bytes,
                rows,
                since: Instant::now(),
            });
        }
        (self.shared.wake)();
        Ok(())
    }

    /// The columns that a batch begun now must have; `None`: all.
    pub fn wanted(&self) -> Option<Wanted> {
        let mut s = self.shared.state.lock();
        s.left_out |= s.wanted.is_some();
        s.wanted.clone()
    }

    /// Notes that everything there is has been read, and what is waited for.
    pub fn waiting(&self, what: String) {
        let before = std::mem::replace(
            &mut self.shared.state.lock().status.state,
            SourceState::Waiting(what),
        );
        if before == SourceState::Running {
            (self.shared.wake)();
        }
    }

    /// Notes a trouble that doesn't end the source.
    pub fn trouble(&self, message: String) {
        // What it quotes may have what no text can hold.
        let message = message.replace('\0', "\u{fffd}");
        self.shared.state.lock().status.last_error = Some(message);
    }

    /// What was noted as a trouble isn't one any more.
    pub fn trouble_over(&self, message: &str) {
        let last = &mut self.shared.state.lock().status.last_error;
        last.take_if(|last| last == message);
    }

    /// Notes the end of the source: what [`Source::run`](crate::Source::run) returned. Whoever runs
    /// the source's thread calls it.
    pub fn ended(&self, result: &Result<(), crate::ConnectorError>) {
        {
            let mut s = self.shared.state.lock();
            s.status.state = match result {
                Ok(()) => SourceState::Finished,
                Err(e) => {
                    s.status.last_error = Some(e.to_string());
                    SourceState::Failed(e.to_string())
                }
            };
        }
        (self.shared.wake)();
    }
}

/// The reader's end of a queue. Dropping it stops the source.
pub struct BatchReceiver {
    shared: Arc<Shared>,
}

impl BatchReceiver {
    /// Takes batches in order while they hold at most `rows_max` rows together; at least one if there
    /// is any. A batch without rows counts as one row, and one that retracts comes alone.
    pub fn take(&self, rows_max: usize) -> Vec<SourceBatch> {
        let mut out = Vec::new();
        let mut rows = 0;
        let mut s = self.shared.state.lock();
        while let Some(q) = s.queue.front() {
            let more = q.rows.max(1);
            let alone = !q.batch.retract.is_empty();
            if !out.is_empty() && (alone || rows + more > rows_max) {
                break;
            }
            rows += more;
            let q = s.queue.pop_front().expect("it has a front");
            s.bytes -= q.bytes;
            s.rows -= q.rows;
            out.push(q.batch);
            if alone {
                break;
            }
        }
        drop(s);
        self.shared.room.notify_all();
        out
    }

    /// Rows that wait.
    pub fn pending_rows(&self) -> usize {
        self.shared.state.lock().rows
    }

    /// Batches that wait (some carry only offsets or errors).
    pub fn pending_batches(&self) -> usize {
        self.shared.state.lock().queue.len()
    }

    /// Nothing waits, and the source has no more to give for now.
    pub fn is_empty_and_idle(&self) -> bool {
        let s = self.shared.state.lock();
        s.queue.is_empty() && s.status.state != SourceState::Running
    }

    /// Changes the bound. A smaller one takes nothing out.
    pub fn set_bytes_max(&self, bytes_max: usize) {
        self.shared.state.lock().bytes_max = bytes_max;
        self.shared.room.notify_all();
    }

    /// Sets how many rows wait before a batch more has to: without it, as many as there is room for.
    pub fn set_rows_max(&self, rows_max: usize) {
        self.shared.state.lock().rows_max = rows_max;
        self.shared.room.notify_all();
    }

    /// Sets which columns batches begun from now on must have (`None`: all); the source may give more. False: batches that
    /// have fewer may wait or come yet.
    pub fn want(&self, wanted: Option<Wanted>) -> bool {
        let mut s = self.shared.state.lock();
        s.wanted = wanted;
        !s.left_out
    }

    /// Bytes that wait.
    pub fn pending_bytes(&self) -> usize {
        self.shared.state.lock().bytes
    }

    /// When the oldest waiting batch was put in.
    pub fn oldest(&self) -> Option<Instant> {
        self.shared.state.lock().queue.front().map(|q| q.since)
    }

    /// State and counters.
    pub fn status(&self) -> SourceStatus {
        self.shared.state.lock().status.clone()
    }
}

impl Drop for BatchReceiver {
    fn drop(&mut self) {
        let mut s = self.shared.state.lock();
        s.closed = true;
        s.queue.clear();
        self.shared.room.notify_all();
    }
}

fn batch_bytes(batch: &SourceBatch) -> usize {
    let offsets: usize = batch
        .offsets
        .iter()
        .map(|(k, v)| k.len() + v.as_ref().map_or(0, Vec::len))
        .sum();
    let rows = batch.rows.as_ref().map_or(0, |d| d.memory_bytes());
    let errors = batch.errors.as_ref().map_or(0, |d| d.memory_bytes());
    rows + errors + offsets + BATCH_OVERHEAD_BYTES
}
