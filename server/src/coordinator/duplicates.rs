//! Whether what a unique index is built over has duplicates: their hashes are collected while rows are fed to the build, eight bytes
//! for each row; only where a hash comes twice are the rows looked at.

use std::collections::{HashMap, HashSet};

use arrow::array::BooleanArray;
use tidemill_planner::SqlError;
use tidemill_zset::Delta;
use tidemill_zset::consolidate::consolidate;
use tidemill_zset::hash::hash_columns;

use super::tables::arrow_error;
use super::unique::{UniqueIndex, shown};
use crate::reader::DeltaIterator;

/// What has been fed.
pub struct Duplicates {
    index: UniqueIndex,
    /// Hashes of the keys of rows that came once.
    once: Vec<u64>,
    /// How often the others came or went.
    otherwise: HashMap<u64, i64>,
}

impl Duplicates {
    /// Nothing has been fed yet.
    pub fn new(index: UniqueIndex) -> Self {
        Duplicates {
            index,
            once: vec![],
            otherwise: HashMap::new(),
        }
    }

    /// A piece is fed.
    pub fn note(&mut self, delta: &Delta) -> Result<(), SqlError> {
        let (keys, _, rows) = self.index.keys(&delta.rows)?;
        let hashes = hash_columns(keys.columns(), keys.num_rows());
        for (hash, row) in hashes.into_iter().zip(rows.values()) {
            match delta.diffs.get(*row as usize) {
                1 => self.once.push(hash),
                diff => *self.otherwise.entry(hash).or_default() += diff,
            }
        }
        Ok(())
    }

    /// Fails if some key has two rows; `rows` reads what has been fed.
    pub fn check(
        &mut self,
        rows: impl Fn() -> Result<DeltaIterator, SqlError>,
    ) -> Result<(), SqlError> {
        let suspects = self.suspects();
        if suspects.is_empty() {
            return Ok(());
        }
        let mut found = Vec::new();
        for delta in rows()? {
            found.push(self.among(&delta?, &suspects)?);
        }
        self.check_found(&found)
    }

    /// The keys of rows whose hashes are among `suspects`.
    pub fn among(&self, delta: &Delta, suspects: &HashSet<u64>) -> Result<Delta, SqlError> {
        let (keys, _, rows) = self.index.keys(&delta.rows)?;
        let hashes = hash_columns(keys.columns(), keys.num_rows());
        let diffs: Vec<i64> = rows
            .values()
            .iter()
            .map(|r| delta.diffs.get(*r as usize))
            .collect();
        let mask: BooleanArray = hashes.iter().map(|h| Some(suspects.contains(h))).collect();
        Delta::new(keys, diffs).filter(&mask).map_err(arrow_error)
    }

    /// Fails if some of the keys has two rows.
    pub fn check_found(&self, found: &[Delta]) -> Result<(), SqlError> {
        let Some(schema) = found.first().map(Delta::schema) else {
            return Ok(());
        };
        let found = consolidate(&schema, found);
        match (0..found.len()).find(|r| found.diffs.get(*r) > 1) {
            None => Ok(()),
            Some(row) => {
                let detail = format!("Key {} is duplicated.", shown(&found.rows, row));
                Err(self.refused().detail(detail))
            }
        }
    }

    /// The error of a duplicate.
    pub fn refused(&self) -> SqlError {
        let message = format!("could not create unique index \"{}\"", self.index.name);
        SqlError::new("23505", message)
    }

    /// Hashes that more than one row has.
    pub fn suspects(&mut self) -> HashSet<u64> {
        // A stable sort takes what is sorted already as it is.
        self.once.sort();
        let mut suspects = HashSet::new();
        for same in self.once.chunk_by(|a, b| a == b) {
            let more = self.otherwise.get(&same[0]).copied().unwrap_or(0);
            if same.len() as i64 + more > 1 {
                suspects.insert(same[0]);
            }
        }
        for (hash, count) in &self.otherwise {
            if *count > 1 && self.once.binary_search(hash).is_err() {
                suspects.insert(*hash);
            }
        }
        suspects
    }
}
