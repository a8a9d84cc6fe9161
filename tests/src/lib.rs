//! The harness of the integration tests: a real server in a process of its own, clients over the wire.
//!
//! * [`scratch`]: a test's directory, runtime and time limit.
//! * [`server`]: starts, kills and restarts the `tidemill` binary.
//! * [`client`]: connections, queries as text, psql.
//! * [`changes`]: collects change streams and sums them.
//! * [`seed`]: random numbers that a failed run can repeat.
//! * [`load`]: how much the server's process does.
//! * [`wait`]: deadlines; no test sleeps to synchronise.
//! * [`files`]: input files that appear and grow as a user's would.
//!
//! Invariant: nothing in here knows how the server works inside; it uses the command line, SQL, files and signals.

pub mod changes;
pub mod client;
pub mod files;
pub mod load;
pub mod raw;
pub mod scratch;
pub mod seed;
pub mod server;
pub mod wait;

pub use changes::{Change, Multiset, Subscription};
pub use client::{Sql, SqlFailure};
pub use scratch::{Scratch, run};
pub use seed::Seed;
pub use server::{Options, Server};
pub use wait::{DEADLINE, eventually};
