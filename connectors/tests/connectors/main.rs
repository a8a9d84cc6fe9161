//! Sources and sinks from the outside: real files, real threads, and a model of what the server keeps.

mod decoding;
mod edits;
mod files;
mod generators;
mod harness;
mod left_out;
mod malformed;
mod packed;
mod queue;
mod random;
mod reading_again;
mod shapes;
mod sinks;
