//! [`Writes`], what one transaction of sled does, and [`Ledger`], a sum over all keys that is kept with the clock.
//!
//! sled may open without keys whose pages are damaged, and then nothing says that they ever were. The sum does: it is written in
//! the same transaction as the keys, and an opening adds up what it finds.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use tidemill_zset::hash::mix;

use crate::api::{Result, StoreError};
use crate::manifest::{CLOCK_KEY, sled_error};

/// The keys that one transaction sets (`Some`) and removes.
#[derive(Debug, Default)]
pub(crate) struct Writes(BTreeMap<Vec<u8>, Option<Vec<u8>>>);

impl Writes {
    pub(crate) fn insert(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.0.insert(key.into(), Some(value.into()));
    }

    pub(crate) fn remove(&mut self, key: impl Into<Vec<u8>>) {
        self.0.insert(key.into(), None);
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    of: HashMap<Vec<u8>, u64>,
    sum: u64,
}

impl Ledger {
    /// Adds up what sled holds.
    pub(crate) fn of_sled(db: &sled::Db) -> Result<Ledger> {
        let mut ledger = Ledger::default();
        for entry in db.iter() {
            let (key, value) = entry.map_err(sled_error("reading the manifest"))?;
            ledger.set(&key, Some(&value));
        }
        Ok(ledger)
    }

    /// Adds up the given keys.
    pub(crate) fn of_keys<'a>(
        keys: impl IntoIterator<Item = (&'a Vec<u8>, &'a Vec<u8>)>,
    ) -> Ledger {
        let mut ledger = Ledger::default();
        for (key, value) in keys {
            ledger.set(key, Some(value));
        }
        ledger
    }

    fn set(&mut self, key: &[u8], value: Option<&[u8]>) {
        if key == CLOCK_KEY {
            return;
        }
        let old = match value {
            None => self.of.remove(key),
            Some(value) => {
                let crcs = (crc32fast::hash(key), crc32fast::hash(value));
                let new = mix(u64::from(crcs.0) << 32 | u64::from(crcs.1));
                self.sum = self.sum.wrapping_add(new);
                match self.of.get_mut(key) {
                    Some(known) => Some(std::mem::replace(known, new)),
                    None => self.of.insert(key.to_vec(), new),
                }
            }
        };
        self.sum = self.sum.wrapping_sub(old.unwrap_or(0));
    }

    /// Notes what a transaction does, and gives it to sled with the new sum behind the clock.
    pub(crate) fn enter(&mut self, mut writes: Writes) -> sled::Batch {
        for (key, value) in &writes.0 {
            self.set(key, value.as_deref());
        }
        if let Some(Some(clock)) = writes.0.get_mut(CLOCK_KEY) {
            clock.extend(self.sum.to_le_bytes());
        }
        let mut batch = sled::Batch::default();
        for (key, value) in writes.0 {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        batch
    }

    /// Compares with the sum behind the clock, if there is one: a repair leaves it out.
    pub(crate) fn check(&self, clock: Option<&[u8]>, log: &Path) -> Result<()> {
        let stored = clock.and_then(|c| c.get(16..)?.first_chunk::<8>());
        match stored {
            Some(stored) if u64::from_le_bytes(*stored) != self.sum => Err(StoreError::Corrupt {
                what: log.display().to_string(),
                detail: "some of what was written to it is missing".into(),
            }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_that_of_the_keys_that_are_there() {
        let mut ledger = Ledger::default();
        let mut first = Writes::default();
        first.insert(b"a", b"1");
        first.insert(b"b", b"2");
        ledger.enter(first);
        let mut second = Writes::default();
        second.insert(b"a", b"3");
        second.remove(b"b");
        second.remove(b"never");
        second.insert(CLOCK_KEY, b"some time");
        ledger.enter(second);
        let (key, value) = (b"a".to_vec(), b"3".to_vec());
        assert_eq!(ledger.sum, Ledger::of_keys([(&key, &value)]).sum);
        let clock = |sum: u64| [&[0; 16][..], &sum.to_le_bytes()].concat();
        let log = Path::new("db");
        assert!(ledger.check(Some(&clock(ledger.sum)), log).is_ok());
        assert!(ledger.check(Some(&clock(1)), log).is_err());
        assert!(ledger.check(Some(&[0; 16]), log).is_ok());
        assert_eq!(Ledger::of_keys([]).sum, 0);
    }
}
