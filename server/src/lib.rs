//! The server: Postgres wire protocol at the edge, sessions, and the coordinator that owns time.
//!
//! * [`pg`]: the wire. The only place that names pgwire.
//! * [`pg_catalog`]: the relations and functions that psql, drivers and tools look for.
//! * [`session`]: one client's state; statements in, responses out.
//! * [`coordinator`]: the epoch clock, commits, publication, DDL.
//! * [`catalog`], [`define`]: objects and what their SQL says.
//! * [`published`], [`offsets`], [`reader`], [`reread`], [`changes`], [`feed`]: what readers and followers see.
//! * [`system`], [`pg_catalog`]: relations about the server itself.
//! * [`serve`], [`demo`], [`repair`]: the commands of the binary.

mod alter;
mod backlog;
pub mod catalog;
pub mod changes;
pub mod coordinator;
pub mod define;
pub mod demo;
pub mod feed;
mod find;
mod index;
pub mod init;
pub mod numbers;
pub mod offsets;
pub mod pg;
pub mod pg_catalog;
pub mod published;
pub mod reader;
pub mod repair;
pub mod reread;
pub mod serve;
pub mod session;
pub mod status;
pub mod system;
