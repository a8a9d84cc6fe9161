//! The Postgres wire protocol: one tokio task per connection, everything else behind
//! [`Session`](crate::session::Session).
//!
//! Read in this order: [`wire`] (socket and buffers), [`frontend`] and [`backend`] (messages),
//! [`startup`], [`connection`] (the loop, simple queries, COPY), [`extended`] with [`portals`], [`rows`]
//! (results), [`types`] with [`text`] and [`binary`] (values), [`params`].
//!
//! pgwire's own server loop is not used: it sends rows of a slow stream only when a buffer is
//! full, and its cancel reaches only part of a statement (docs/design/0030-own-wire-loop.md).
//!
//! Invariant: a statement's answer leaves in order and whole; what a connection does, or a panic
//! in it, touches no other connection.

pub mod backend;
pub mod binary;
pub mod connection;
pub mod extended;
pub mod frontend;
pub mod params;
pub mod portals;
pub mod rows;
pub mod startup;
pub mod text;
pub mod types;
pub mod wire;

use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tidemill_planner::SqlError;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::connection::Connection;
use self::startup::STARTUP_WAIT;
use self::wire::{Guard, Stop, Wire, stopping};
use crate::session::SessionFactory;
use crate::session::backends::Backends;

pub use self::startup::SERVER_VERSION;

/// Connections served at a time, where the process may open as many files.
pub const CONNECTIONS_MAX: usize = 4_000;
/// File descriptors that are left to the store, to sources and sinks, and to those who are refused, where the process may open few.
const FILES_RESERVED: usize = 300;
/// Connections that are served however few descriptors there are.
const CONNECTIONS_MIN: usize = 20;
/// Connections beyond those served that are told so, or that bring a CancelRequest; more are closed at once.
const CONNECTIONS_REFUSED_MAX: usize = 100;
/// How long clients get for their last message at shutdown.
const SHUTDOWN_WAIT: Duration = Duration::from_secs(5);
/// Pause after an accept that failed, e.g. for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connections served at a time: clients that take the last descriptors would end the server at its next commit.
fn connections_max() -> usize {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: getrlimit writes one rlimit, which outlives the call.
    let files = match unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } {
        0 => usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX),
        _ => usize::MAX,
    };
    let left = files.saturating_sub(FILES_RESERVED);
    left.clamp(CONNECTIONS_MIN, CONNECTIONS_MAX)
}

/// Serves connections until `shutdown` holds `true` (or its sender is gone), then tells every
/// client 57P01 and returns when the last connection is closed, at most a few seconds later.
///
/// Cancellation drops the future or the stream of the running statement, then calls
/// `Session::failed`; so does a client that goes away.
pub async fn serve(
    listener: TcpListener,
    factory: Arc<dyn SessionFactory>,
    mut shutdown: watch::Receiver<bool>,
) -> io::Result<()> {
    let backends = factory.backends();
    let connections_max = connections_max();
    let mut tasks = JoinSet::new();
    let guard = shutdown.clone();
    loop {
        let accepted = tokio::select! {
            () = stopping(&mut shutdown) => break,
            accepted = listener.accept() => accepted,
        };
        while tasks.try_join_next().is_some() {}
        match accepted {
            Ok(_) if tasks.len() >= connections_max + CONNECTIONS_REFUSED_MAX => {}
            Ok((stream, _)) => {
                let full = (tasks.len() >= connections_max).then_some(connections_max);
                let (factory, backends) = (Arc::clone(&factory), Arc::clone(&backends));
                tasks.spawn(connect(stream, factory, backends, guard.clone(), full));
            }
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let drained = async { while tasks.join_next().await.is_some() {} };
    // Connections that don't take their last message are dropped with the set.
    let _ = tokio::time::timeout(SHUTDOWN_WAIT, drained).await;
    Ok(())
}

/// A connection from its first byte to its last.
async fn connect(
    stream: TcpStream,
    factory: Arc<dyn SessionFactory>,
    backends: Arc<Backends>,
    mut shutdown: watch::Receiver<bool>,
    full: Option<usize>,
) {
    // Small answers must not wait for more.
    let _ = stream.set_nodelay(true);
    let mut wire = Wire::new(stream);
    let request = tokio::select! {
        () = stopping(&mut shutdown) => return,
        request = tokio::time::timeout(STARTUP_WAIT, startup::request(&mut wire, &backends)) => request,
    };
    let request = match request {
        Ok(Ok(Some(request))) => request,
        Ok(Err(stop)) => return last_words(&mut wire, stop).await,
        Ok(Ok(None)) | Err(_) => return,
    };
    if let Some(max) = full {
        let error = SqlError::new("53300", "sorry, too many clients already")
            .hint(format!("The server takes {max} connections."));
        return last_words(&mut wire, Stop::Fatal(error)).await;
    }
    let backend = backends.register();
    let guard = Guard::new(&backend, shutdown);
    let opening = startup::open(&mut wire, request, factory.as_ref(), &backend);
    match AssertUnwindSafe(opening).catch_unwind().await {
        Ok(Ok(session)) => {
            let mut connection = Connection::new(wire, guard, session, Arc::clone(&backend));
            let served = AssertUnwindSafe(connection.serve()).catch_unwind().await;
            let stop = served.unwrap_or_else(|_| panicked());
            last_words(connection.wire(), stop).await;
        }
        Ok(Err(stop)) => last_words(&mut wire, stop).await,
        Err(_) => last_words(&mut wire, panicked()).await,
    }
}

fn panicked() -> Stop {
    tracing::error!("a connection's task panicked");
    Stop::Fatal(
        SqlError::internal("internal error: the server's code for this connection panicked")
            .hint("Other connections go on. The server's log has the place."),
    )
}

/// Tells the client why the connection ends, if it is still there.
async fn last_words(wire: &mut Wire, stop: Stop) {
    let error = match stop {
        Stop::Gone => return,
        Stop::Fatal(error) | Stop::Failed(error) => error,
        Stop::Shutdown => wire::terminated(),
    };
    if wire.error("FATAL", &error).is_ok() {
        let _ = tokio::time::timeout(SHUTDOWN_WAIT, wire.flush_last()).await;
    }
}
