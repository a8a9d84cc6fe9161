//! Connectors: where rows come from and go to. Sources and sinks, formats, files.
//!
//! A source runs on a thread of its own, reads as fast as its bounded queue lets it, and hands
//! over [`SourceBatch`](source::SourceBatch)es: rows, errors, and the offsets that make both durable together.
//!
//! Read in this order: [`source`] (the contract), [`queue`], [`options`]; then [`text`] (PostgreSQL's
//! text forms of values, in and out), [`decode`] (bytes to columns), [`files`], [`generator`], [`sink`].

pub mod decode;
pub mod files;
pub mod generator;
pub mod options;
pub mod queue;
pub mod sink;
pub mod source;
pub mod text;

pub use queue::{BatchReceiver, BatchSender, SourceState, SourceStatus, StopSignal, channel};
pub use sink::{FileSink, SinkFormat};
pub use source::{
    ConnectorError, Offsets, Source, SourceBatch, SourceSpec, Wanted, default_columns,
    error_schema, open_source, reread, validate_options,
};
