//! The executable specification's runner: `.slt` files over the wire, in several worlds.
//!
//! * [`script`]: a file as a list of steps, with the directives that are ours.
//! * [`world`]: what differs between worlds.
//! * [`run`]: plays a script in a world and compares.
//! * [`complete`]: fills in expectations from a real server.
//! * [`random`]: random queries and changes for comparing two servers; [`postgres`]: the server to compare with.
//!
//! Files under `slt/pg/` hold standard SQL, completed from PostgreSQL 15 by the script `sqllogictest/complete`;
//! `slt/tidemill/` and `slt/dialect/` hold what only Tidemill says.
//!
//! Besides the records of the `sqllogictest` crate a comment right above a record may say:
//!
//! * `# view: refused`: as a materialized view this query is refused with 0A000; it must be.
//! * `# view: skip`: run as SELECT in every world (it isn't a function of the collections' contents).
//! * `# times: n`: column n holds epochs; they are compared as t1, t2, … in the order of
//!   their first appearance in this result.
//! * `# restart: skip` anywhere in a file: the file depends on session state that a restart loses.
//!
//! Records under `onlyif postgres` are deviations from PostgreSQL: no world plays them, the expectation is PostgreSQL's.
//!
//! `$DIR` in SQL and in `system` commands is a fresh directory. Labels for `onlyif`/`skipif` are the names of worlds.

pub mod complete;
pub mod postgres;
pub mod random;
pub mod run;
pub mod script;
pub mod text;
pub mod world;
