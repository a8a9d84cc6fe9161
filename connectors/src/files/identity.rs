//! Whether a file is still the one that was read: hashes of the ends (or all) of what was consumed.
//!
//! Invariant: a [`Cover`] always describes exactly the first `covered` bytes of the file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use xxhash_rust::xxh3::Xxh3;

use super::entry::{ENDS_BYTES, FileEntry, Hashed, Packing};

/// Bytes read at a time where a whole file is hashed.
const HASH_STEP_BYTES: usize = 1 << 20;

/// The ends, or everything, of the bytes that have been consumed.
#[derive(Clone)]
pub struct Cover {
    covered: u64,
    head: Vec<u8>,
    tail: Vec<u8>,
    full: Option<Box<Xxh3>>,
}

impl Cover {
    /// Nothing is covered yet.
    pub fn new(full: bool) -> Cover {
        Cover {
            covered: 0,
            head: Vec::new(),
            tail: Vec::new(),
            full: full.then(|| Box::new(Xxh3::new())),
        }
    }

    /// Covers the next `bytes`.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.covered += bytes.len() as u64;
        let room = ENDS_BYTES - self.head.len();
        self.head.extend_from_slice(&bytes[..bytes.len().min(room)]);
        let kept = ENDS_BYTES.saturating_sub(bytes.len()).min(self.tail.len());
        self.tail.drain(..self.tail.len() - kept);
        let new = &bytes[bytes.len().saturating_sub(ENDS_BYTES)..];
        self.tail.extend_from_slice(new);
        if let Some(full) = &mut self.full {
            full.update(bytes);
        }
    }

    /// Covers the first `size` bytes of a file.
    pub fn of_file(file: &File, size: u64, full: bool) -> io::Result<Cover> {
        let head = read_at(file, 0, size.min(ENDS_BYTES as u64) as usize)?;
        let tail_len = size.min(ENDS_BYTES as u64);
        let tail = read_at(file, size - tail_len, tail_len as usize)?;
        Ok(Cover {
            covered: size,
            head,
            tail,
            full: if full {
                Some(Box::new(hash_prefix(file, size)?))
            } else {
                None
            },
        })
    }

    /// Writes what is covered into `entry`.
    pub fn store(&self, entry: &mut FileEntry) {
        entry.covered = self.covered;
        entry.head = Hashed::of(&self.head);
        entry.tail = Hashed::of(&self.tail);
        entry.full = self.full.as_ref().map(|f| f.digest());
    }
}

/// What `file` covers of `entry`'s consumed bytes, ready to be extended; `None` if they have changed.
pub fn verify(file: &File, entry: &FileEntry, full: bool) -> io::Result<Option<Cover>> {
    let head = read_at(file, 0, entry.head.len as usize)?;
    if Hashed::of(&head) != entry.head {
        return Ok(None);
    }
    let tail_at = entry.covered.saturating_sub(entry.tail.len as u64);
    let tail = read_at(file, tail_at, entry.tail.len as usize)?;
    if Hashed::of(&tail) != entry.tail {
        return Ok(None);
    }
    let full = if full {
        let hash = hash_prefix(file, entry.covered)?;
        if entry.full.is_some_and(|f| f != hash.digest()) {
            return Ok(None);
        }
        Some(Box::new(hash))
    } else {
        None
    };
    Ok(Some(Cover {
        covered: entry.covered,
        head,
        tail,
        full,
    }))
}

/// Whether the hashes of `entry` see every consumed byte of a file.
pub fn covers_all(entry: &FileEntry) -> bool {
    entry.packing == Packing::Plain
        && (entry.full.is_some() || entry.covered <= entry.head.len as u64)
}

/// Up to `len` bytes at `offset`; fewer where the file ends.
pub fn read_at(file: &File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut out = vec![0; len];
    let mut have = 0;
    while have < len {
        match file.read_at(&mut out[have..], offset + have as u64) {
            Ok(0) => break,
            Ok(n) => have += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    out.truncate(have);
    Ok(out)
}

fn hash_prefix(file: &File, len: u64) -> io::Result<Xxh3> {
    let mut hash = Xxh3::new();
    let mut at = 0;
    while at < len {
        let step = read_at(file, at, HASH_STEP_BYTES.min((len - at) as usize))?;
        if step.is_empty() {
            break;
        }
        hash.update(&step);
        at += step.len() as u64;
    }
    Ok(hash)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::files::entry::{FileId, Stamp};

    #[test]
    fn growing_and_covering_at_once_agree() {
        let bytes: Vec<u8> = (0..20_000u32).map(|i| (i * 7 % 251) as u8).collect();
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(&bytes).expect("written");
        for cut in [0, 1, 100, 4095, 4096, 4097, 9000, 20_000] {
            let mut grown = Cover::new(true);
            let mut at = 0;
            let mut step = 1;
            while at < cut {
                let end = (at + step).min(cut);
                grown.extend(&bytes[at..end]);
                at = end;
                step = step * 3 + 1;
            }
            let mut a = FileEntry::new("/x".into(), FileId::default(), Stamp::default());
            let mut b = a.clone();
            grown.store(&mut a);
            Cover::of_file(&file, cut as u64, true)
                .expect("readable")
                .store(&mut b);
            assert_eq!(a, b, "{cut} bytes");
            assert!(verify(&file, &a, true).expect("readable").is_some());
        }
    }

    #[test]
    fn changes_are_seen() {
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(&[b'a'; 20_000]).expect("written");
        let mut entry = FileEntry::new("/x".into(), FileId::default(), Stamp::default());
        let cover = Cover::of_file(&file, 15_000, true).expect("readable");
        cover.store(&mut entry);
        let unchanged = |full| verify(&file, &entry, full).expect("readable").is_some();
        assert!(unchanged(false) && unchanged(true));
        file.write_all_at(b"b", 9_000).expect("written");
        assert!(
            unchanged(false),
            "the middle is only seen with verify = 'full'"
        );
        assert!(!unchanged(true));
        file.write_all_at(b"b", 14_999).expect("written");
        assert!(!unchanged(false));
        file.set_len(100).expect("cut");
        assert!(!unchanged(false));
    }
}
