//! Counters of serial and IDENTITY columns.
//!
//! A number is given from memory when a statement makes its rows. The commit of every write to the table stores how far the
//! counter is by then, so no number that was committed is ever given again (docs/design/0055-keys-and-numbers.md).

use std::collections::{BTreeMap, HashMap};

use parking_lot::Mutex;
use tidemill_planner::SqlError;
use tidemill_planner::ast::{ColumnDefault, Numbering, NumberingKind};

use crate::catalog::record::{Change, number_key, put};
use crate::catalog::{Detail, Object};

/// All counters.
#[derive(Default)]
pub struct Numbers(Mutex<HashMap<u64, Table>>);

/// Those of a table.
#[derive(Default)]
struct Table {
    counters: BTreeMap<usize, Counter>,
    /// How often it began anew, since the server started.
    generation: u64,
}

struct Counter {
    /// `None`: there are no more.
    next: Option<i64>,
    stored: bool,
}

/// That a transaction has numbers of a table: they mean nothing once the counters have begun anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Numbered {
    /// The table's object.
    pub table: u64,
    /// When they were given.
    pub generation: u64,
}

/// The columns of a table that number rows.
pub fn numbered(table: &Object) -> impl Iterator<Item = (usize, &Numbering)> {
    let defaults = match &table.detail {
        Detail::Table { defaults, .. } => defaults.as_slice(),
        _ => &[],
    };
    defaults.iter().enumerate().filter_map(|(n, d)| match d {
        Some(ColumnDefault::Numbering(numbering)) => Some((n, numbering)),
        _ => None,
    })
}

/// The name under which PostgreSQL has the counter of a column.
pub fn sequence_name(table: &Object, column: usize) -> String {
    format!(
        "{}_{}_seq",
        table.record.name,
        table.columns.field(column).name()
    )
}

/// The DEFAULT that PostgreSQL shows of a serial column; IDENTITY columns have none.
pub fn shown_default(table: &Object, column: usize, numbering: &Numbering) -> Option<String> {
    let sequence = crate::pg_catalog::quote_ident(&sequence_name(table, column));
    (numbering.kind == NumberingKind::Serial).then(|| format!("nextval('{sequence}'::regclass)"))
}

impl Numbers {
    /// What was stored of a counter.
    pub fn load(&self, table: u64, column: usize, next: Option<i64>) {
        let counter = Counter { next, stored: true };
        let mut tables = self.0.lock();
        tables
            .entry(table)
            .or_default()
            .counters
            .insert(column, counter);
    }

    /// The next `count` numbers of a column.
    pub fn give(
        &self,
        table: &Object,
        (column, numbering): (usize, &Numbering),
        count: usize,
    ) -> Result<(Vec<i64>, Numbered), SqlError> {
        let mut tables = self.0.lock();
        let of_table = tables.entry(table.record.id).or_default();
        let counter = of_table.counters.entry(column).or_insert(Counter {
            next: Some(numbering.start),
            stored: true,
        });
        let mut given = Vec::with_capacity(count);
        while given.len() < count {
            let Some(number) = counter.next else {
                return Err(exhausted(&sequence_name(table, column), numbering));
            };
            given.push(number);
            let next = number.checked_add(numbering.increment);
            counter.next = next.filter(|n| (numbering.min..=numbering.max).contains(n));
            counter.stored = false;
        }
        let numbered = Numbered {
            table: table.record.id,
            generation: of_table.generation,
        };
        Ok((given, numbered))
    }

    /// The numbers are still those of the counter.
    pub fn holds(&self, numbered: &Numbered) -> bool {
        let tables = self.0.lock();
        tables.get(&numbered.table).map_or(0, |t| t.generation) == numbered.generation
    }

    /// Begins anew.
    pub fn restart(&self, table: &Object) {
        let mut tables = self.0.lock();
        let of_table = tables.entry(table.record.id).or_default();
        of_table.generation += 1;
        for (column, numbering) in numbered(table) {
            let counter = Counter {
                next: Some(numbering.start),
                stored: false,
            };
            of_table.counters.insert(column, counter);
        }
    }

    /// The table's columns have other numbers now: `from` says of each which one it was. Counters of new columns are `fresh`. Gives what
    /// the commit has to store.
    pub fn renumber(&self, table: u64, from: &[Option<usize>], fresh: &Numbers) -> Vec<Change> {
        let mut tables = self.0.lock();
        let of_table = tables.entry(table).or_default();
        let old = std::mem::take(&mut of_table.counters);
        of_table.generation += 1;
        let mut changes: Vec<Change> = old.keys().map(|n| (number_key(table, *n), None)).collect();
        let mut fresh = fresh.0.lock().remove(&table).unwrap_or_default().counters;
        let of_column = |(n, from): (usize, &Option<usize>)| match from {
            Some(from) => Some((n, old.get(from)?.next)),
            None => Some((n, fresh.remove(&n)?.next)),
        };
        for (n, next) in from.iter().enumerate().filter_map(of_column) {
            changes.push(put(number_key(table, n), &next));
            of_table.counters.insert(n, Counter { next, stored: true });
        }
        changes
    }

    /// What a commit of a write to the table has to store.
    pub fn changed(&self, table: u64) -> Vec<Change> {
        let mut tables = self.0.lock();
        let counters = tables
            .get_mut(&table)
            .into_iter()
            .flat_map(|t| &mut t.counters);
        let changed = counters.filter(|(_, counter)| !counter.stored);
        changed
            .map(|(column, counter)| {
                counter.stored = true;
                put(number_key(table, *column), &counter.next)
            })
            .collect()
    }

    /// The table is dropped.
    pub fn forget(&self, table: u64) {
        self.0.lock().remove(&table);
    }
}

fn exhausted(sequence: &str, numbering: &Numbering) -> SqlError {
    let (which, bound) = match numbering.increment > 0 {
        true => ("maximum", numbering.max),
        false => ("minimum", numbering.min),
    };
    SqlError::new(
        "2200H",
        format!("nextval: reached {which} value of sequence \"{sequence}\" ({bound})"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::record::{Ids, Kind, Record};
    use tidemill_zset::schema::SqlType;

    fn table(numbering: Numbering) -> Object {
        Object {
            record: Record {
                id: 7,
                kind: Kind::Table,
                schema: "public".into(),
                name: "t".into(),
                sql: String::new(),
                settings: Default::default(),
                comment: None,
                column_comments: Default::default(),
                planned_names: Default::default(),
                depends: vec![],
                constraint: false,
                ids: Ids::default(),
            },
            columns: tidemill_zset::delta::schema_of(vec![SqlType::Int2.field("id", false)]),
            detail: Detail::Table {
                primary_key: vec![],
                primary_key_name: None,
                defaults: vec![Some(ColumnDefault::Numbering(numbering))],
                uniques: vec![],
                checks: vec![],
            },
        }
    }

    fn give(numbers: &Numbers, table: &Object, count: usize) -> Result<Vec<i64>, SqlError> {
        let column = numbered(table).next().expect("it has one");
        numbers.give(table, column, count).map(|(given, _)| given)
    }

    #[test]
    fn numbers_end_at_the_bound() {
        let numbering = |start, increment, min, max| Numbering {
            kind: NumberingKind::Always,
            start,
            increment,
            min,
            max,
        };
        for (numbering, expected) in [
            (numbering(1, 1, 1, 3), vec![1, 2, 3]),
            (numbering(-1, -2, -4, -1), vec![-1, -3]),
            (
                numbering(i64::MAX - 1, 1, 1, i64::MAX),
                vec![i64::MAX - 1, i64::MAX],
            ),
        ] {
            let (numbers, table) = (Numbers::default(), table(numbering));
            for n in &expected {
                assert_eq!(give(&numbers, &table, 1).ok(), Some(vec![*n]));
            }
            let e = give(&numbers, &table, 1).expect_err("there are no more");
            assert_eq!(e.sqlstate, "2200H");
            numbers.restart(&table);
            assert_eq!(give(&numbers, &table, 1).ok(), Some(expected[..1].to_vec()));
        }
    }

    #[test]
    fn what_was_given_is_stored_once() {
        let (numbers, table) = (
            Numbers::default(),
            table(Numbering {
                kind: NumberingKind::Serial,
                start: 1,
                increment: 1,
                min: 1,
                max: 100,
            }),
        );
        assert!(numbers.changed(7).is_empty());
        give(&numbers, &table, 5).expect("there are enough");
        assert_eq!(numbers.changed(7), [put(number_key(7, 0), &Some(6i64))]);
        assert!(numbers.changed(7).is_empty());
        let after = Numbers::default();
        after.load(7, 0, Some(6));
        assert_eq!(give(&after, &table, 1).ok(), Some(vec![6]));
    }

    #[test]
    fn numbers_from_before_a_restart_no_longer_hold() {
        let (numbers, table) = (
            Numbers::default(),
            table(Numbering {
                kind: NumberingKind::ByDefault,
                start: 1,
                increment: 1,
                min: 1,
                max: 100,
            }),
        );
        let column = numbered(&table).next().expect("it has one");
        let (_, before) = numbers.give(&table, column, 1).expect("there are enough");
        assert!(numbers.holds(&before));
        numbers.restart(&table);
        assert!(!numbers.holds(&before));
    }
}
