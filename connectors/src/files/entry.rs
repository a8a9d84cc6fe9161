//! What is remembered of a file, in memory and as an offset entry.
//!
//! Each generation of a file has a number of its own (the `origin` of its batches), never reused. An
//! entry's key is `f` and the number, big-endian; the key `n` holds the next number. Values are our
//! own encoding: a version byte, fixed-width little-endian numbers, the path last.

use std::fs::Metadata;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

/// Version of the encoding.
const ENTRY_VERSION: u8 = 1;
/// Key of the next number.
pub const NEXT_KEY: &[u8] = b"n";
/// Bytes at each end of what was consumed that are hashed.
pub const ENDS_BYTES: usize = 4096;

/// Which file it is, on this machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FileId {
    /// Device.
    pub device: u64,
    /// Inode.
    pub inode: u64,
    /// When it was made, in nanoseconds since the Unix epoch; 0 where the file system doesn't tell. Tells
    /// a file from a later one that got its inode.
    pub born_ns: i64,
}

/// What changes when a file may have changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// Length in bytes.
    pub size: u64,
    /// Time of the last change of its content, in nanoseconds since the Unix epoch.
    pub modified_ns: i64,
    /// Time of the last change of content or attributes.
    pub changed_ns: i64,
}

/// Identity and stamp of a file's metadata.
pub fn look(metadata: &Metadata) -> (FileId, Stamp) {
    let born = metadata.created().ok();
    let born = born.and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
    let id = FileId {
        device: metadata.dev(),
        inode: metadata.ino(),
        born_ns: born.map_or(0, |d| d.as_nanos() as i64),
    };
    let ns = |s: i64, n: i64| s.saturating_mul(1_000_000_000).saturating_add(n);
    let stamp = Stamp {
        size: metadata.size(),
        modified_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
        changed_ns: ns(metadata.ctime(), metadata.ctime_nsec()),
    };
    (id, stamp)
}

/// How a file is packed, by its suffix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// Not at all.
    Plain,
    /// gzip, one or more members.
    Gzip,
    /// Zstandard, one or more frames.
    Zstd,
}

impl Packing {
    /// The packing that a path's suffix says.
    pub fn of(path: &Path) -> Packing {
        match path.extension().and_then(|e| e.to_str()) {
            Some("gz" | "gzip") => Packing::Gzip,
            Some("zst" | "zstd") => Packing::Zstd,
            _ => Packing::Plain,
        }
    }
}

/// How far a file has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It is read as it grows; a packed file is in the middle.
    Reading,
    /// A packed file has been read to its end.
    Complete,
    /// Its header is wrong: nothing is read.
    Rejected,
    /// What was consumed is no longer there.
    Lost,
    /// A packed file ended too early, and that was reported.
    Cut,
    /// The last line was read without its line end.
    Unended,
}

/// The hash of a number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hashed {
    /// How many.
    pub len: u32,
    /// XXH3-64.
    pub hash: u64,
}

impl Hashed {
    /// The hash of `bytes`.
    pub fn of(bytes: &[u8]) -> Hashed {
        Hashed {
            len: bytes.len() as u32,
            hash: xxh3_64(bytes),
        }
    }
}

/// What is remembered of one generation of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// Where it was last seen.
    pub path: PathBuf,
    /// How it is packed; stays when it is renamed.
    pub packing: Packing,
    /// Which file it is.
    pub id: FileId,
    /// Its stamp when it was last looked at.
    pub stamp: Stamp,
    /// Bytes consumed, unpacked ones if it is packed.
    pub offset: u64,
    /// Lines consumed.
    pub lines: u64,
    /// Rows and error rows given.
    pub records: u64,
    /// Bytes of the file itself that the hashes vouch for.
    pub covered: u64,
    /// The first bytes of what is covered.
    pub head: Hashed,
    /// The last bytes of what is covered.
    pub tail: Hashed,
    /// All that is covered, if `verify = 'full'`.
    pub full: Option<u64>,
    /// How far it has got.
    pub progress: Progress,
}

impl FileEntry {
    /// A file that nothing has been read of.
    pub fn new(path: PathBuf, id: FileId, stamp: Stamp) -> FileEntry {
        FileEntry {
            packing: Packing::of(&path),
            path,
            id,
            stamp,
            offset: 0,
            lines: 0,
            records: 0,
            covered: 0,
            head: Hashed::of(&[]),
            tail: Hashed::of(&[]),
            full: None,
            progress: Progress::Reading,
        }
    }

    /// The value of its offset entry.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![ENTRY_VERSION];
        out.push(match self.progress {
            Progress::Reading => 0,
            Progress::Complete => 1,
            Progress::Rejected => 2,
            Progress::Lost => 3,
            Progress::Cut => 4,
            Progress::Unended => 5,
        });
        out.push(self.full.is_some() as u8);
        out.push(match self.packing {
            Packing::Plain => 0,
            Packing::Gzip => 1,
            Packing::Zstd => 2,
        });
        for n in [
            self.id.device,
            self.id.inode,
            self.id.born_ns as u64,
            self.stamp.size,
            self.stamp.modified_ns as u64,
            self.stamp.changed_ns as u64,
            self.offset,
            self.lines,
            self.records,
            self.covered,
            self.head.len as u64,
            self.head.hash,
            self.tail.len as u64,
            self.tail.hash,
            self.full.unwrap_or(0),
        ] {
            out.extend_from_slice(&n.to_le_bytes());
        }
        out.extend_from_slice(self.path.as_os_str().as_bytes());
        out
    }

    /// Reads [`encode`](Self::encode)'s bytes; `None` if they are damaged or of a newer version.
    pub fn decode(bytes: &[u8]) -> Option<FileEntry> {
        let (&[version, progress, full, packing], mut rest) = bytes.split_first_chunk::<4>()?;
        if version != ENTRY_VERSION {
            return None;
        }
        let mut number = || {
            let (n, tail) = rest.split_first_chunk::<8>()?;
            rest = tail;
            Some(u64::from_le_bytes(*n))
        };
        let id = FileId {
            device: number()?,
            inode: number()?,
            born_ns: number()? as i64,
        };
        let stamp = Stamp {
            size: number()?,
            modified_ns: number()? as i64,
            changed_ns: number()? as i64,
        };
        let (offset, lines, records, covered) = (number()?, number()?, number()?, number()?);
        let mut hashed = || {
            Some(Hashed {
                len: u32::try_from(number()?).ok()?,
                hash: number()?,
            })
        };
        let (head, tail) = (hashed()?, hashed()?);
        let hash = number()?;
        Some(FileEntry {
            path: PathBuf::from(std::ffi::OsString::from_vec(rest.to_vec())),
            packing: match packing {
                0 => Packing::Plain,
                1 => Packing::Gzip,
                2 => Packing::Zstd,
                _ => return None,
            },
            id,
            stamp,
            offset,
            lines,
            records,
            covered,
            head,
            tail,
            full: (full == 1).then_some(hash),
            progress: match progress {
                0 => Progress::Reading,
                1 => Progress::Complete,
                2 => Progress::Rejected,
                3 => Progress::Lost,
                4 => Progress::Cut,
                5 => Progress::Unended,
                _ => return None,
            },
        })
    }
}

/// The key of the entry with this number.
pub fn key_of(number: u64) -> Vec<u8> {
    let mut key = vec![b'f'];
    key.extend_from_slice(&number.to_be_bytes());
    key
}

/// The number in an entry's key.
pub fn number_of(key: &[u8]) -> Option<u64> {
    match key {
        [b'f', number @ ..] => Some(u64::from_be_bytes(number.try_into().ok()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_round_trip_and_damage_is_noticed() {
        let mut entry = FileEntry::new(
            PathBuf::from("/data/é.csv"),
            FileId {
                device: 7,
                inode: u64::MAX,
                born_ns: -5,
            },
            Stamp {
                size: 1,
                modified_ns: 2,
                changed_ns: -3,
            },
        );
        entry.offset = 99;
        entry.full = Some(0);
        entry.progress = Progress::Cut;
        entry.head = Hashed::of(b"abc");
        let bytes = entry.encode();
        assert_eq!(FileEntry::decode(&bytes), Some(entry.clone()));
        for len in 0..bytes.len() - entry.path.as_os_str().len() {
            assert_eq!(FileEntry::decode(&bytes[..len]), None, "cut to {len}");
        }
        let mut newer = bytes;
        newer[0] = 2;
        assert_eq!(FileEntry::decode(&newer), None);
        assert_eq!(number_of(&key_of(258)), Some(258));
        assert_eq!(number_of(NEXT_KEY), None);
    }
}
