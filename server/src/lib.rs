//! The server: Postgres wire protocol at the edge, sessions, and the coordinator that owns time.
//!
//! * [`pg`]: the wire. The only place that names pgwire.
//! * [`pg_catalog`]: the relations and functions that psql, drivers and tools look for.
//! * [`session`]: one client's state; statements in, responses out.
//! * `coordinator`: the epoch clock, commits, publication, DDL.

pub mod pg;
pub mod pg_catalog;
pub mod session;
