//! All files that a source knows, found by number, identity and path.
//!
//! Invariant: an identity and a path each lead to at most one entry; lost entries are found by number only.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use super::entry::{FileEntry, FileId, NEXT_KEY, Packing, Progress, number_of};
use crate::source::{ConnectorError, Offsets};

/// The files of a source.
#[derive(Default)]
pub struct Table {
    entries: BTreeMap<u64, FileEntry>,
    by_id: HashMap<(u64, u64), u64>,
    by_path: HashMap<PathBuf, u64>,
    /// The number that the next file gets.
    pub next: u64,
}

impl Table {
    /// What committed offsets say. Files of which more may have to be read get a stamp that no file has.
    pub fn load(offsets: &Offsets) -> Result<Table, ConnectorError> {
        let mut table = Table {
            next: 1,
            ..Table::default()
        };
        let damaged = || {
            ConnectorError::Io(
                "a source offset can't be read: it is damaged or of a newer version".into(),
            )
        };
        for (key, value) in offsets {
            if key == NEXT_KEY {
                let next: [u8; 8] = value.as_slice().try_into().map_err(|_| damaged())?;
                table.next = table.next.max(u64::from_le_bytes(next));
                continue;
            }
            let number = number_of(key).ok_or_else(damaged)?;
            let mut entry = FileEntry::decode(value).ok_or_else(damaged)?;
            let all_read = match (entry.progress, entry.packing) {
                (Progress::Reading, Packing::Plain) => entry.offset == entry.stamp.size,
                (Progress::Reading, _) => false,
                _ => true,
            };
            if !all_read {
                entry.stamp.changed_ns = i64::MIN;
            }
            table.next = table.next.max(number + 1);
            table.put(number, entry);
        }
        Ok(table)
    }

    /// The entries, in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &FileEntry)> {
        self.entries.iter().map(|(n, e)| (*n, e))
    }

    /// The entry with this number.
    pub fn get(&self, number: u64) -> Option<&FileEntry> {
        self.entries.get(&number)
    }

    /// The entry of the file with this identity.
    pub fn with_id(&self, id: FileId) -> Option<u64> {
        let number = *self.by_id.get(&(id.device, id.inode))?;
        let known = self.entries[&number].id.born_ns;
        (known == id.born_ns || known == 0 || id.born_ns == 0).then_some(number)
    }

    /// The entry of the file that was last seen at `path`.
    pub fn at_path(&self, path: &Path) -> Option<u64> {
        self.by_path.get(path).copied()
    }

    /// Adds a file, which gets a number of its own.
    pub fn add(&mut self, entry: FileEntry) -> u64 {
        let number = self.next;
        self.next += 1;
        self.put(number, entry);
        number
    }

    /// Sets the entry with this number.
    pub fn put(&mut self, number: u64, entry: FileEntry) {
        self.unlink(number);
        if entry.progress != Progress::Lost {
            self.by_id.insert((entry.id.device, entry.id.inode), number);
            self.by_path.insert(entry.path.clone(), number);
        }
        self.entries.insert(number, entry);
    }

    /// Forgets a file.
    pub fn remove(&mut self, number: u64) -> Option<FileEntry> {
        self.unlink(number);
        self.entries.remove(&number)
    }

    /// Another file has this one's inode, so it is gone; what is at its path now replaces it.
    pub fn lose_id(&mut self, number: u64) {
        if let Some(old) = self.entries.get(&number) {
            let id = (old.id.device, old.id.inode);
            if self.by_id.get(&id) == Some(&number) {
                self.by_id.remove(&id);
            }
        }
    }

    /// Takes a file out of what identities and paths lead to.
    fn unlink(&mut self, number: u64) {
        self.lose_id(number);
        if let Some(old) = self.entries.get(&number)
            && self.by_path.get(&old.path) == Some(&number)
        {
            self.by_path.remove(&old.path);
        }
    }
}
