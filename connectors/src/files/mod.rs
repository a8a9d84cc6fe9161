//! Files as a source: a file, a directory or a glob, watched for new, growing, renamed, edited and
//! deleted files. docs/connectors.md says what each of these does.
//!
//! Read in this order: [`options`], [`pattern`], [`entry`] (what is remembered of a file), [`identity`],
//! [`input`], [`reader`] (one file), [`table`], [`scan`], [`watch`], [`run`] (the loop).
//!
//! Invariant: a row is handed over together with the offset entry that says it was read, so a restart
//! from any committed offsets gives every row exactly once.

pub mod chunks;
pub mod entry;
pub mod identity;
pub mod input;
pub mod options;
pub mod pattern;
pub mod reader;
pub mod reread;
pub mod run;
pub mod scan;
pub mod table;
pub mod watch;

use std::sync::Arc;

use crate::queue::{BatchSender, StopSignal, Stopped};
use crate::source::{ConnectorError, Offsets, Source, SourceSpec};

pub use options::FilesOptions;
use reader::Reader;
pub use reread::reread;
use run::Run;
use table::Table;
use watch::Doorbell;

/// A source over files.
pub struct FilesSource {
    options: FilesOptions,
    spec: SourceSpec,
    table: Table,
}

impl FilesSource {
    /// Opens it at `offsets`.
    pub fn open(spec: SourceSpec, offsets: Offsets) -> Result<Self, ConnectorError> {
        Ok(FilesSource {
            options: FilesOptions::parse(&spec)?,
            table: Table::load(&offsets)?,
            spec,
        })
    }
}

impl Source for FilesSource {
    fn run(self: Box<Self>, out: BatchSender, stop: StopSignal) -> Result<(), ConnectorError> {
        out.stop_with(&stop);
        let bell = Arc::new(Doorbell::default());
        let stop_bell = bell.clone();
        stop.on_stop(move || stop_bell.ring());
        let reader = Reader::new(&self.spec, &self.options)?;
        let sender = out.clone();
        let reader = reader.with_wanted(move || sender.wanted());
        let recorded = self.spec.recorded;
        let mut run = Run::new(self.options, recorded, self.table, reader, out);
        match run.run(&bell, &stop) {
            Ok(()) | Err(Stopped) => Ok(()),
        }
    }
}
