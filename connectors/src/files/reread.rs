//! Reads again what an unrecorded source has consumed, exactly.

use std::collections::HashMap;

use tidemill_zset::Delta;

use super::entry::{FileEntry, FileId, Packing, Progress};
use super::identity::verify;
use super::input;
use super::options::FilesOptions;
use super::reader::{Job, ReadError, Reader};
use super::scan::{find, list};
use super::table::Table;
use crate::queue::{BatchSender, StopSignal};
use crate::source::{ConnectorError, Offsets, SourceBatch, SourceSpec};

/// See [`crate::source::reread`]. Stopping it is no error: what was sent is then incomplete.
pub fn reread(
    spec: &SourceSpec,
    from: Offsets,
    to: Offsets,
    out: BatchSender,
    stop: StopSignal,
) -> Result<(), ConnectorError> {
    out.stop_with(&stop);
    let options = FilesOptions::parse(spec)?;
    let (before, table) = (Table::load(&from)?, Table::load(&to)?);
    let mut reader = Reader::new(spec, &options)?;
    let mut elsewhere: Option<HashMap<FileId, std::path::PathBuf>> = None;
    for (number, entry) in table.iter() {
        if entry.offset == 0 && entry.progress != Progress::Rejected {
            continue;
        }
        let begun = before.get(number);
        if begun.is_some_and(|b| b.offset == entry.offset && b.records == entry.records) {
            continue;
        }
        let mut entry = entry.clone();
        if entry.progress == Progress::Lost {
            return Err(refused(&entry, "was changed after it had been read"));
        }
        match find(&entry.path) {
            Ok(Some(found)) if found.id == entry.id => {}
            _ => {
                // Renamed since?
                let files = elsewhere.get_or_insert_with(|| {
                    let listing = list(&options.root);
                    listing.files.into_iter().map(|f| (f.id, f.path)).collect()
                });
                match files.get(&entry.id) {
                    Some(path) => entry.path = path.clone(),
                    None => return Err(refused(&entry, "is gone")),
                }
            }
        }
        match again(&mut reader, &options, number, begun, &entry, &out) {
            Ok(()) => {}
            Err(ReadError::Stopped(_)) => return Ok(()),
            Err(ReadError::Io(e)) if e.kind() == std::io::ErrorKind::InvalidData => {
                return Err(refused(&entry, "was changed after it had been read"));
            }
            Err(ReadError::Io(e)) => {
                return Err(ConnectorError::Io(format!("{}: {e}", entry.path.display())));
            }
        }
    }
    Ok(())
}

/// Reads one file from the entry `begun`, or its start, up to the entry `wanted`. `InvalidData`: it isn't the file that
/// was read.
fn again(
    reader: &mut Reader,
    options: &FilesOptions,
    number: u64,
    begun: Option<&FileEntry>,
    wanted: &FileEntry,
    out: &BatchSender,
) -> Result<(), ReadError> {
    let changed = || std::io::Error::from(std::io::ErrorKind::InvalidData);
    let file = input::open(&wanted.path)?;
    let (_, stamp) = super::entry::look(&file.metadata()?);
    let whole = matches!(wanted.progress, Progress::Complete);
    if stamp.size < wanted.covered
        || (whole && stamp.size != wanted.covered)
        || verify(&file, wanted, options.verify_full)?.is_none()
    {
        return Err(changed().into());
    }
    let mut fresh = FileEntry::new(wanted.path.clone(), wanted.id, wanted.stamp);
    fresh.packing = wanted.packing;
    if let Some(begun) = begun {
        (fresh.offset, fresh.lines, fresh.records) = (begun.offset, begun.lines, begun.records);
    }
    let limit = match (wanted.packing, wanted.progress) {
        // To the end, so that a cut is reported as it was.
        (Packing::Gzip | Packing::Zstd, Progress::Cut | Progress::Complete) => u64::MAX,
        _ => wanted.offset,
    };
    let job = Job {
        entry: &mut fresh,
        cover: super::identity::Cover::new(options.verify_full),
        limit: if wanted.progress == Progress::Rejected {
            u64::MAX
        } else {
            limit
        },
        size: match wanted.progress {
            // It may have grown since.
            Progress::Cut => wanted.covered,
            _ => stamp.size,
        },
        settled: true,
        again: true,
    };
    reader.read(file, job, &mut |_, decoded, bytes| {
        out.send(SourceBatch {
            rows: decoded.rows.map(Delta::insert),
            columns: decoded.columns,
            errors: decoded.errors.map(Delta::insert),
            origin: number,
            retract: Vec::new(),
            offsets: Vec::new(),
            bytes,
        })
    })?;
    // The number of records differs where a quote that had been given up was closed by what came later.
    if fresh.offset != wanted.offset || fresh.records != wanted.records {
        return Err(changed().into());
    }
    Ok(())
}

fn refused(entry: &FileEntry, what: &str) -> ConnectorError {
    ConnectorError::Refused {
        message: format!("the input can't be read again: file \"{}\" {what}", entry.path.display()),
        hint: "Declare the source with persistent_id = '…': its rows are then recorded, and later views \
               and queries don't need the files."
            .into(),
    }
}
