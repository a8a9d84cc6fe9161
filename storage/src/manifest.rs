//! The keys in sled: what exists, where it lies, how far the clock is.
//!
//! | key | value |
//! |---|---|
//! | `f` | format, hash and codec version, partitions, directory id |
//! | `k` | clock: last epoch, reserved upper |
//! | `a` id | an arrangement: kind, key columns, schema, where its history begins |
//! | `n` bundle | a bundle: where, how long, its live runs |
//! | `b` bundle piece | a piece of an inline bundle |
//! | `c` key | a catalog row, JSON |
//! | `o` source key | a source offset |
//!
//! Numbers in keys are big-endian. Values of `a`, `n`, `c`, `o` may be longer than a value in sled
//! should be: they begin with length and checksum and are cut into pieces, whose number (u16) ends the key.
//!
//! Invariant: nothing here changes but by one atomic batch per commit.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::sync::Arc;

use arrow::datatypes::{Field, Schema};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use tidemill_zset::schema::settled;
use tidemill_zset::{ArrangementId, Epoch};

use crate::api::{ArrangementDesc, ArrangementKind, Result, StoreError};
use crate::ledger::Writes;
use crate::options::VALUE_BYTES_MAX;
use crate::run::RunMeta;
use crate::wire::{Put, Wire};

/// Version of the layout of the directory.
pub(crate) const FORMAT_VERSION: u32 = 2;
pub(crate) const FORMAT_KEY: &[u8] = b"f";
pub(crate) const CLOCK_KEY: &[u8] = b"k";
pub(crate) const ARRANGEMENT: u8 = b'a';
pub(crate) const BUNDLE: u8 = b'n';
pub(crate) const CATALOG: u8 = b'c';
pub(crate) const OFFSET: u8 = b'o';
const INLINE: u8 = b'b';

/// The version of a bundle's record is that of its runs.
const RECORD_VERSION: u8 = RunMeta::VERSION;
const LONG_HEADER_BYTES: usize = 8;

pub(crate) fn sled_error(context: &str) -> impl FnOnce(sled::Error) -> StoreError + '_ {
    move |source| StoreError::Sled {
        context: context.to_string(),
        source,
    }
}

fn corrupt(what: String, detail: &str) -> StoreError {
    StoreError::Corrupt {
        what,
        detail: detail.to_string(),
    }
}

/// The key of a number below a prefix.
pub(crate) fn id_key(prefix: u8, id: u64) -> Vec<u8> {
    let mut key = vec![prefix];
    key.extend_from_slice(&id.to_be_bytes());
    key
}

pub(crate) fn catalog_key(key: &str) -> Vec<u8> {
    [&[CATALOG], key.as_bytes()].concat()
}

pub(crate) fn offset_key(source: u64, key: &[u8]) -> Vec<u8> {
    [&id_key(OFFSET, source), key].concat()
}

fn piece_key(key: &[u8], piece: usize) -> Vec<u8> {
    [key, &(piece as u16).to_be_bytes()].concat()
}

fn pieces(len: usize) -> usize {
    (LONG_HEADER_BYTES + len).div_ceil(VALUE_BYTES_MAX)
}

/// Number of pieces that `key` has now.
fn stored_pieces(db: &sled::Db, key: &[u8]) -> Result<usize> {
    let first = db
        .get(piece_key(key, 0))
        .map_err(sled_error("reading the manifest"))?;
    Ok(match first.as_deref().map(|v| Wire(v).u32()) {
        Some(Some(len)) => pieces(len as usize),
        _ => 0,
    })
}

/// Sets or deletes (`None`) a long value.
pub(crate) fn put_long(
    db: &sled::Db,
    batch: &mut Writes,
    key: &[u8],
    value: Option<&[u8]>,
) -> Result<()> {
    let old = stored_pieces(db, key)?;
    let mut new = 0;
    if let Some(value) = value {
        new = pieces(value.len());
        if new > usize::from(u16::MAX) {
            return Err(StoreError::Usage(format!(
                "a value of {} bytes is too long for the catalog",
                value.len()
            )));
        }
        let mut all = Vec::with_capacity(LONG_HEADER_BYTES + value.len());
        all.u32(value.len() as u32);
        all.u32(crc32fast::hash(value));
        all.extend_from_slice(value);
        for (i, piece) in all.chunks(VALUE_BYTES_MAX).enumerate() {
            batch.insert(piece_key(key, i), piece);
        }
    }
    for i in new..old {
        batch.remove(piece_key(key, i));
    }
    Ok(())
}

/// All long values whose key begins with `prefix`: the rest of the key, and the value.
pub(crate) fn read_long(db: &sled::Db, prefix: &[u8]) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let entries = db.scan_prefix(prefix);
    join_long(
        entries.map(|e| e.map_err(sled_error("reading the manifest"))),
        prefix,
    )
}

/// Puts long values together from `entries`, whose keys all begin with `prefix`.
pub(crate) fn join_long<K: AsRef<[u8]>, V: AsRef<[u8]>>(
    entries: impl Iterator<Item = Result<(K, V)>>,
    prefix: &[u8],
) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut parts: BTreeMap<Vec<u8>, BTreeMap<u16, V>> = BTreeMap::new();
    for entry in entries {
        let (key, value) = entry?;
        let key = key.as_ref();
        let Some((name, piece)) = key[prefix.len()..].split_last_chunk::<2>() else {
            return Err(corrupt(format!("the key {key:?}"), "too short"));
        };
        let parts = parts.entry(name.to_vec()).or_default();
        parts.insert(u16::from_be_bytes(*piece), value);
    }
    let mut out = BTreeMap::new();
    for (name, parts) in parts {
        let all: Vec<u8> = parts
            .values()
            .flat_map(|p| p.as_ref().iter().copied())
            .collect();
        let mut wire = Wire(&all);
        let (len, crc) = (wire.u32(), wire.u32());
        if len != Some(wire.0.len() as u32) || crc != Some(crc32fast::hash(wire.0)) {
            let what = format!(
                "the value of the key {}{}",
                String::from_utf8_lossy(prefix),
                String::from_utf8_lossy(&name)
            );
            return Err(corrupt(what, "wrong length or checksum"));
        }
        out.insert(name, wire.0.to_vec());
    }
    Ok(out)
}

/// Puts the bytes of an inline bundle.
pub(crate) fn put_inline(batch: &mut Writes, id: u64, bytes: &[u8]) {
    for (i, piece) in bytes.chunks(VALUE_BYTES_MAX).enumerate() {
        batch.insert(piece_key(&id_key(INLINE, id), i), piece);
    }
}

/// Removes the bytes of an inline bundle of `len` bytes.
pub(crate) fn remove_inline(batch: &mut Writes, id: u64, len: usize) {
    for i in 0..len.div_ceil(VALUE_BYTES_MAX) {
        batch.remove(piece_key(&id_key(INLINE, id), i));
    }
}

/// Reads the bytes of an inline bundle of `len` bytes; the result may be shorter.
pub(crate) fn read_inline(db: &sled::Db, id: u64, len: usize) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(len);
    for i in 0..len.div_ceil(VALUE_BYTES_MAX) {
        let key = piece_key(&id_key(INLINE, id), i);
        match db
            .get(key)
            .map_err(sled_error("reading an inline bundle"))?
        {
            Some(piece) => out.extend_from_slice(&piece),
            None => break,
        }
    }
    Ok(out)
}

/// What the manifest says of a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BundleRecord {
    pub inline: bool,
    pub len: u64,
    /// Of a file's footer.
    pub crc: u32,
    /// Those that aren't retired.
    pub runs: Vec<RunMeta>,
}

impl BundleRecord {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(20 + self.runs.len() * RunMeta::BYTES);
        out.extend_from_slice(&[RECORD_VERSION, u8::from(self.inline), 0, 0]);
        out.u32(self.runs.len() as u32);
        out.u64(self.len);
        out.u32(self.crc);
        for run in &self.runs {
            run.put(&mut out);
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<BundleRecord> {
        let mut w = Wire(bytes);
        let head = w.bytes(4)?;
        let version = head[0];
        if version == 0 || version > RECORD_VERSION {
            return None;
        }
        let runs = w.u32()?;
        let (len, crc) = (w.u64()?, w.u32()?);
        let runs: Option<Vec<RunMeta>> = (0..runs).map(|_| RunMeta::get(&mut w, version)).collect();
        Some(BundleRecord {
            inline: head[1] > 0,
            len,
            crc,
            runs: runs?,
        })
    }
}

/// Appends kind, key columns and schema (as an Arrow IPC schema message) of an arrangement.
pub(crate) fn put_desc(desc: &ArrangementDesc, out: &mut Vec<u8>) {
    let schema = ipc_schema(desc);
    let kind = match desc.kind {
        ArrangementKind::Add => 0u32,
        ArrangementKind::Last => 1,
        ArrangementKind::Log => 2,
        ArrangementKind::Ordered => 3,
        ArrangementKind::OrderedLast => 4,
    };
    out.u32(kind);
    out.u32(desc.key_columns as u32);
    out.u32(schema.len() as u32);
    out.extend_from_slice(&schema);
}

/// An arrangement in the manifest: what it is, and the first epoch of its history.
pub(crate) fn put_arrangement(desc: &ArrangementDesc, begins: Epoch, out: &mut Vec<u8>) {
    put_desc(desc, out);
    out.i64(begins);
}

/// Reads what [`put_arrangement`] wrote. Versions before wrote no epoch.
pub(crate) fn get_arrangement(
    id: ArrangementId,
    mut w: Wire,
) -> std::result::Result<(ArrangementDesc, Epoch), String> {
    let desc = get_desc(id, &mut w)?;
    Ok((desc, w.i64().unwrap_or(0)))
}

fn ipc_schema(desc: &ArrangementDesc) -> Vec<u8> {
    StreamWriter::try_new(Vec::new(), &desc.schema)
        .and_then(|mut w| {
            w.finish()?;
            w.into_inner()
        })
        .expect("a schema is written to memory")
}

/// Reads what [`put_desc`] wrote.
pub(crate) fn get_desc(
    id: ArrangementId,
    w: &mut Wire,
) -> std::result::Result<ArrangementDesc, String> {
    let short = || "too short".to_string();
    let kind = match w.u32().ok_or_else(short)? {
        0 => ArrangementKind::Add,
        1 => ArrangementKind::Last,
        2 => ArrangementKind::Log,
        3 => ArrangementKind::Ordered,
        4 => ArrangementKind::OrderedLast,
        other => return Err(format!("unknown kind of arrangement {other}")),
    };
    let key_columns = w.u32().ok_or_else(short)? as usize;
    let len = w.u32().ok_or_else(short)? as usize;
    let schema = w.bytes(len).ok_or_else(short)?;
    let reader = StreamReader::try_new(Cursor::new(schema), None).map_err(|e| e.to_string())?;
    let schema = reader.schema();
    let fields: Vec<Field> = schema.fields().iter().map(|f| settled(f)).collect();
    let schema = Arc::new(Schema::new(fields));
    if key_columns > schema.fields().len() {
        return Err(format!("{key_columns} key columns, but fewer columns"));
    }
    Ok(ArrangementDesc {
        id,
        kind,
        schema,
        key_columns,
    })
}

/// The versions and constants of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Format {
    pub format: u32,
    pub hash: u32,
    pub codec: u32,
    pub partitions: u32,
    pub directory_id: String,
}

impl Format {
    /// The same directory as this build writes it.
    pub(crate) fn newest(&self) -> Format {
        Format {
            format: FORMAT_VERSION,
            codec: u32::from(tidemill_zset::codec::CODEC_VERSION),
            ..self.clone()
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.u32(self.format);
        out.u32(self.hash);
        out.u32(self.codec);
        out.u32(self.partitions);
        out.extend_from_slice(self.directory_id.as_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Format> {
        let mut w = Wire(bytes);
        Some(Format {
            format: w.u32()?,
            hash: w.u32()?,
            codec: w.u32()?,
            partitions: w.u32()?,
            directory_id: String::from_utf8_lossy(w.0).into_owned(),
        })
    }
}

/// How far time is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Clock {
    pub epoch: Option<i64>,
    pub reserved_upper: i64,
}

impl Clock {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.i64(self.epoch.unwrap_or(i64::MIN));
        out.i64(self.reserved_upper);
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Clock> {
        let mut w = Wire(bytes);
        let epoch = w.i64()?;
        Some(Clock {
            epoch: (epoch != i64::MIN).then_some(epoch),
            reserved_upper: w.i64()?,
        })
    }
}
