//! Connectors: where rows come from and go to. Sources and sinks, formats, files.
//!
//! A source runs on a thread of its own, reads as fast as its bounded queue lets it, and hands
//! over [`SourceBatch`]es: rows, errors, and the offsets that make both durable together.

pub mod source;
