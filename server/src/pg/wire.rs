//! The socket of one connection: whole frames in, buffered bytes out.
//!
//! Invariant: bytes in the output buffer always end at a message boundary once [`Wire::put`] has
//! returned, even when it failed; waiting for anything also watches for the client's end, a
//! cancel request and the server's shutdown.

use std::future::{Future, poll_fn};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tidemill_planner::SqlError;
use tidemill_planner::interrupt::{Ask, asking};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::ReadHalf;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::watch;
use tokio::task::unconstrained;
use tokio::time::Instant;

use super::frontend::{self, Message};
use crate::coordinator::reply::Underway;
use crate::session::backends::{Backend, Signals};

/// Largest message that a client may send, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 256 << 20;
/// What is read from a client that goes on sending while its statement runs, in bytes.
const READ_AHEAD_BYTES_MAX: usize = 256 << 10;
/// The output buffer is sent when it holds this much, in bytes.
pub const FLUSH_BYTES: usize = 64 << 10;
/// A buffer that grew beyond this is given back when it is empty, in bytes.
const KEEP_BYTES_MAX: usize = 1 << 20;
/// Type byte of Sync.
const SYNC: u8 = b'S';

/// Why a wait or a statement ended.
#[derive(Debug)]
pub enum Stop {
    /// The statement failed or was cancelled; the connection goes on.
    Failed(SqlError),
    /// The client is gone.
    Gone,
    /// The client broke the protocol: it is told, and the connection ends.
    Fatal(SqlError),
    /// The server stops.
    Shutdown,
}

impl From<SqlError> for Stop {
    fn from(error: SqlError) -> Stop {
        Stop::Failed(error)
    }
}

impl From<io::Error> for Stop {
    fn from(_: io::Error) -> Stop {
        Stop::Gone
    }
}

/// What can interrupt a connection's work from outside.
pub struct Guard {
    signals: watch::Receiver<Signals>,
    /// The change that the session waits for.
    underway: Arc<Underway>,
    /// Cancel requests that are known.
    cancels: u64,
    shutdown: watch::Receiver<bool>,
    /// What goes on has happened already: only the end of the connection interrupts it.
    settled: bool,
    /// When what goes on has taken too long, and what happens then.
    limit: Option<(Instant, Limit)>,
}

/// What takes too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// A statement.
    Statement,
    /// The client, within a transaction.
    IdleInTransaction,
    /// The client.
    Idle,
}

impl Limit {
    fn stop(self) -> Stop {
        match self {
            Limit::Statement => Stop::Failed(out_of_time()),
            Limit::IdleInTransaction => Stop::Fatal(SqlError::new(
                "25P03",
                "terminating connection due to idle-in-transaction timeout",
            )),
            Limit::Idle => Stop::Fatal(SqlError::new(
                "57P05",
                "terminating connection due to idle-session timeout",
            )),
        }
    }
}

impl Guard {
    /// Watches what others ask of a connection; `shutdown` holds true when the server stops.
    pub fn new(backend: &Backend, shutdown: watch::Receiver<bool>) -> Guard {
        Guard {
            signals: backend.signals(),
            underway: Arc::clone(&backend.underway),
            cancels: 0,
            settled: false,
            shutdown,
            limit: None,
        }
    }

    /// What follows may take that long; `None`: for ever.
    pub fn limit(&mut self, kind: Limit, time: Option<Duration>) {
        self.limit = time.map(|time| (Instant::now() + time, kind));
    }

    /// True while a statement's time runs.
    pub fn is_timed(&self) -> bool {
        let limit = self.limit;
        limit.is_some_and(|(at, kind)| kind == Limit::Statement && at > Instant::now())
    }

    /// What goes on may take for ever.
    pub fn lift(&mut self) {
        self.limit = None;
    }

    /// Whether what follows only tells of what has happened: to cancel that would say that it hasn't.
    pub fn settle(&mut self, settled: bool) {
        self.settled = settled;
    }

    /// Cancel requests so far were meant for what is over.
    fn forget_cancels(&mut self) {
        self.cancels = self.signals.borrow().cancels;
    }

    /// As `stopped`, for work that asks because it doesn't wait.
    fn ask(&self) -> Ask {
        let (signals, shutdown) = (self.signals.clone(), self.shutdown.clone());
        let (limit, known) = (self.limit, self.cancels);
        Arc::new(move || {
            let asked = *signals.borrow();
            let over = |(at, kind)| kind == Limit::Statement && at <= Instant::now();
            if asked.terminate || *shutdown.borrow() {
                Some(terminated())
            } else if asked.cancels != known {
                Some(SqlError::cancelled())
            } else {
                limit.is_some_and(over).then(out_of_time)
            }
        })
    }

    /// As `stopped`; an idle connection has nothing to cancel.
    async fn interrupted(&mut self, idle: bool) -> Stop {
        if idle {
            // A statement's time doesn't run while its client is awaited.
            let limit = self.limit.filter(|(_, kind)| *kind != Limit::Statement);
            return tokio::select! {
                stop = self.ended() => stop,
                stop = expired(limit) => stop,
            };
        }
        self.stopped().await
    }

    /// Resolves when the connection has to end.
    async fn ended(&mut self) -> Stop {
        tokio::select! {
            () = stopping(&mut self.shutdown) => Stop::Shutdown,
            _ = until(&mut self.signals, |s| s.terminate) => Stop::Fatal(terminated()),
        }
    }

    /// Resolves on a request to stop, at the limit of time, or at shutdown.
    async fn stopped(&mut self) -> Stop {
        if self.settled {
            return self.ended().await;
        }
        let (limit, known) = (self.limit, self.cancels);
        tokio::select! {
            stop = expired(limit) => stop,
            () = stopping(&mut self.shutdown) => Stop::Shutdown,
            signals = until(&mut self.signals, |s| s.terminate || s.cancels != known) => {
                self.cancels = signals.cancels;
                match signals.terminate {
                    true => Stop::Fatal(terminated()),
                    false => Stop::Failed(SqlError::cancelled()),
                }
            }
        }
    }
}

fn out_of_time() -> SqlError {
    SqlError::new("57014", "canceling statement due to statement timeout")
}

/// What a client hears whose connection is ended from outside.
pub fn terminated() -> SqlError {
    SqlError::new(
        "57P01",
        "terminating connection due to administrator command",
    )
}

/// Resolves when the signals are such.
async fn until(
    signals: &mut watch::Receiver<Signals>,
    such: impl FnMut(&Signals) -> bool,
) -> Signals {
    let found = signals.wait_for(such).await.map(|signals| *signals).ok();
    match found {
        Some(signals) => signals,
        // The sender lives as long as the connection.
        None => std::future::pending().await,
    }
}

/// Resolves at a limit of time.
async fn expired(limit: Option<(Instant, Limit)>) -> Stop {
    match limit {
        Some((at, kind)) => {
            tokio::time::sleep_until(at).await;
            kind.stop()
        }
        None => std::future::pending().await,
    }
}

/// Resolves when the server stops.
pub async fn stopping(shutdown: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, and with it the server.
    let _ = shutdown.wait_for(|stop| *stop).await;
}

/// A connection's socket and its buffers.
pub struct Wire {
    stream: TcpStream,
    input: BytesMut,
    out: BytesMut,
    /// `out` ends at a message boundary here.
    sound: usize,
}

impl Wire {
    /// A fresh connection.
    pub fn new(stream: TcpStream) -> Wire {
        Wire {
            stream,
            input: BytesMut::with_capacity(8 << 10),
            out: BytesMut::with_capacity(8 << 10),
            sound: 0,
        }
    }

    /// The client's address.
    pub fn peer(&self) -> Option<std::net::SocketAddr> {
        self.stream.peer_addr().ok()
    }

    /// Appends messages to the output; on an error, or a panic inside, none of them.
    pub fn put<E>(&mut self, write: impl FnOnce(&mut BytesMut) -> Result<(), E>) -> Result<(), E> {
        self.out.truncate(self.sound);
        let result = write(&mut self.out);
        if result.is_err() {
            self.out.truncate(self.sound);
        }
        self.sound = self.out.len();
        result
    }

    /// Bytes that wait to be sent.
    pub fn pending(&self) -> usize {
        self.out.len()
    }

    /// The first packet: its length and code, then its body; without a type byte.
    pub async fn startup_frame(&mut self, bytes_max: usize) -> Result<BytesMut, Stop> {
        loop {
            if let Some(length) = frame_length(&self.input, 0) {
                if length < 8 || length > bytes_max {
                    return Err(Stop::Gone);
                }
                if self.input.len() >= length {
                    return Ok(self.input.split_to(length));
                }
            }
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(Stop::Gone);
            }
        }
    }

    /// The next message, if it is here already.
    pub fn buffered(&mut self) -> Result<Option<Message>, Stop> {
        let Some(length) = frame_length(&self.input, 1) else {
            return Ok(None);
        };
        if !(4..=MESSAGE_BYTES_MAX).contains(&length) {
            return Err(Stop::Fatal(SqlError::new(
                "08P01",
                format!("invalid message length: {length} bytes"),
            )));
        }
        if self.input.len() < length + 1 {
            self.input.reserve(length + 1 - self.input.len());
            return Ok(None);
        }
        let mut frame = self.input.split_to(length + 1);
        let kind = frame[0];
        frame.advance(5);
        Ok(Some(frontend::decode(kind, frame.freeze())))
    }

    /// True if the next message is a Sync, which is waited for: nobody is answered without a Sync or a Flush.
    pub async fn sync_is_next(&mut self, guard: &mut Guard) -> Result<bool, Stop> {
        while self.input.is_empty() {
            self.read(guard, false).await?;
        }
        Ok(self.input.first() == Some(&SYNC))
    }

    /// Waits for more bytes.
    async fn read(&mut self, guard: &mut Guard, idle: bool) -> Result<(), Stop> {
        let read = tokio::select! {
            biased;
            stop = guard.interrupted(idle) => return Err(stop),
            read = self.stream.read_buf(&mut self.input) => read?,
        };
        match read {
            0 => Err(Stop::Gone),
            _ => Ok(()),
        }
    }

    /// Sends what is buffered, then waits for the next message. `idle`: cancel requests that
    /// come meanwhile mean nothing; else they end the wait.
    pub async fn message(&mut self, guard: &mut Guard, idle: bool) -> Result<Message, Stop> {
        if let Some(message) = self.buffered()? {
            return Ok(message);
        }
        self.flush_unless(guard.interrupted(idle)).await?;
        loop {
            self.read(guard, idle).await?;
            if let Some(message) = self.buffered()? {
                if idle {
                    guard.forget_cancels();
                }
                return Ok(message);
            }
        }
    }

    /// Sends all that is buffered while a statement runs. Interrupted, it can be called again.
    pub async fn flush(&mut self, guard: &mut Guard) -> Result<(), Stop> {
        self.flush_unless(guard.stopped()).await
    }

    /// `stop` comes first: a client that always reads must not hide its own cancel request.
    pub(super) async fn flush_unless(
        &mut self,
        stop: impl Future<Output = Stop>,
    ) -> Result<(), Stop> {
        if self.out.is_empty() {
            return Ok(());
        }
        let (mut reader, mut writer) = self.stream.split();
        let result = tokio::select! {
            biased;
            stop = stop => Err(stop),
            sent = writer.write_all_buf(&mut self.out) => sent.map_err(Stop::from),
            () = gone(&mut reader, &mut self.input) => Err(Stop::Gone),
        };
        self.sound = self.out.len();
        if self.out.is_empty() && self.out.capacity() > KEEP_BYTES_MAX {
            self.out = BytesMut::new();
        }
        result
    }

    /// Sends what is buffered, without watching anything: the last words.
    pub async fn flush_last(&mut self) -> io::Result<()> {
        self.out.truncate(self.sound);
        self.stream.write_all_buf(&mut self.out).await?;
        self.sound = 0;
        self.stream.shutdown().await
    }

    /// Waits for some work, unless the client goes away, cancels it, or the server stops. A change that is being made can't be
    /// cancelled any more: the client hears how it ended.
    pub async fn run<T>(
        &mut self,
        guard: &mut Guard,
        work: impl Future<Output = T>,
    ) -> Result<T, Stop> {
        let (mut reader, _) = self.stream.split();
        let ask = guard.ask();
        let mut work = std::pin::pin!(work);
        let work = poll_fn(|context| asking(&ask, || work.as_mut().poll(context)));
        // Work that never waits uses up the budget that tokio gives a task; what stops it must not depend on that.
        let mut work = std::pin::pin!(work);
        let stop = tokio::select! {
            biased;
            done = &mut work => return Ok(done),
            () = unconstrained(gone(&mut reader, &mut self.input)) => Stop::Gone,
            stop = unconstrained(guard.stopped()) => stop,
        };
        if matches!(stop, Stop::Gone | Stop::Shutdown) || guard.underway.give_up() {
            return Err(stop);
        }
        // Whoever ends the connection ends it after that.
        tokio::select! {
            biased;
            done = work => Ok(done),
            () = unconstrained(gone(&mut reader, &mut self.input)) => Err(Stop::Gone),
            () = unconstrained(stopping(&mut guard.shutdown)) => Err(Stop::Shutdown),
        }
    }
}

/// A statement's text from which on it may take long to be parsed and bound, in bytes.
const LONG_TEXT_BYTES: usize = 4 << 10;

/// Runs what computes without waiting, for as long as `text` is. A thread of the runtime would hold up whoever is next on it, and
/// with the network all others: so it gives its place to another one first.
pub fn beside<T>(text: &str, work: impl FnOnce() -> T) -> T {
    let others = || Handle::current().runtime_flavor() == RuntimeFlavor::MultiThread;
    match text.len() > LONG_TEXT_BYTES && others() {
        true => tokio::task::block_in_place(work),
        false => work(),
    }
}

/// As [`beside`], for the work of a session.
pub async fn run_beside<T>(text: &str, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    poll_fn(|context| beside(text, || work.as_mut().poll(context))).await
}

/// Resolves when the client has closed its side. What it sends meanwhile is kept, up to a limit;
/// beyond that its end is noticed at the next write.
async fn gone(reader: &mut ReadHalf<'_>, input: &mut BytesMut) {
    while input.len() < READ_AHEAD_BYTES_MAX {
        match reader.read_buf(input).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
    std::future::pending().await
}

/// The length that a frame at the front claims, itself included; `None`: not here yet. Negative
/// lengths come out as huge ones.
fn frame_length(input: &BytesMut, at: usize) -> Option<usize> {
    let bytes = input.get(at..at + 4)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?) as usize)
}
