//! Rows made up by the server, deterministic by seed.

use std::collections::BTreeMap;

use arrow::datatypes::SchemaRef;

use crate::source::{ConnectorError, Offsets, Source, SourceSpec};
use crate::{BatchSender, StopSignal};

/// The options of a generator, checked.
#[derive(Clone, Debug)]
pub struct GeneratorOptions {}

impl GeneratorOptions {
    /// Checks and reads the options of `spec`.
    pub fn parse(spec: &SourceSpec) -> Result<Self, ConnectorError> {
        let _ = spec;
        Ok(GeneratorOptions {})
    }
}

/// The columns that the kind gives.
pub fn default_columns(options: &BTreeMap<String, String>) -> Result<SchemaRef, ConnectorError> {
    let _ = options;
    Err(ConnectorError::Io("no columns".into()))
}

/// A source of made-up rows.
pub struct GeneratorSource {}

impl GeneratorSource {
    /// Opens it at `offsets`.
    pub fn open(spec: SourceSpec, offsets: Offsets) -> Result<Self, ConnectorError> {
        let _ = (spec, offsets);
        Ok(GeneratorSource {})
    }
}

impl Source for GeneratorSource {
    fn run(self: Box<Self>, out: BatchSender, stop: StopSignal) -> Result<(), ConnectorError> {
        out.stop_with(&stop);
        Ok(())
    }
}

/// See [`crate::source::reread`].
pub fn reread(
    spec: &SourceSpec,
    offsets: Offsets,
    out: BatchSender,
    stop: StopSignal,
) -> Result<(), ConnectorError> {
    let _ = (spec, offsets, out, stop);
    Ok(())
}
