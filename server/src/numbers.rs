//! Counters of serial and IDENTITY columns, and of sequences.
//!
//! A number is given from memory when a statement makes its rows. The commit of every write to the table stores how far the
//! counter is by then, so no number that was committed is ever given again (docs/design/0055-keys-and-numbers.md). `nextval` gives
//! only numbers that a commit has passed over, because whoever asked may use them anywhere.

use std::collections::{BTreeMap, HashMap};

use parking_lot::Mutex;
use tidemill_planner::SqlError;
use tidemill_planner::ast::{ColumnDefault, Numbering, NumberingKind};

use crate::catalog::record::{Change, number_key, put};
use crate::catalog::{Catalog, Detail, Object};

/// Numbers that one commit passes over for `nextval`, beyond those that are asked for. After a crash as many may be missing.
pub const AHEAD: usize = 32;

/// All counters.
#[derive(Default)]
pub struct Numbers(Mutex<HashMap<u64, Table>>);

/// Those of a table, or the one of a sequence.
#[derive(Default)]
struct Table {
    counters: BTreeMap<usize, Counter>,
    /// How often it began anew, since the server started.
    generation: u64,
}

/// A next number. `None`: there are no more.
type Next = Option<i64>;

struct Counter {
    next: Next,
    /// Where a restart would go on, once everything that was handed to the committer is committed. `None`: the stored one means nothing.
    stored: Option<Next>,
    /// The same with what is committed.
    durable: Option<Next>,
    /// How often it was set.
    version: u64,
}

impl Counter {
    fn at(next: Next) -> Self {
        Counter {
            next,
            stored: Some(next),
            durable: Some(next),
            version: 0,
        }
    }

    /// Gives the next `count` numbers; where there are no more: as many as there are.
    fn take(&mut self, numbering: &Numbering, count: usize) -> Vec<i64> {
        let (given, next) = ahead(numbering, self.next, count);
        self.next = next;
        given
    }

    fn storing(&mut self, of: &Counted, bound: Next) -> Storing {
        self.stored = Some(bound);
        Storing {
            counted: of.clone(),
            bound,
            version: self.version,
        }
    }
}

/// The `count` numbers from `next` on, or as many as there are, and the one after them.
fn ahead(numbering: &Numbering, mut next: Next, count: usize) -> (Vec<i64>, Next) {
    let mut given = Vec::with_capacity(count);
    while let (Some(number), true) = (next, given.len() < count) {
        given.push(number);
        next = after(numbering, number);
    }
    (given, next)
}

/// The number after `number`.
pub fn after(numbering: &Numbering, number: i64) -> Next {
    let Numbering {
        increment,
        min,
        max,
        ..
    } = *numbering;
    let next = number.checked_add(increment);
    let next = next.filter(|n| (min..=max).contains(n));
    let first = if increment > 0 { min } else { max };
    next.or(numbering.cycle.then_some(first))
}

/// The number that was given before `next`; `None`: none was, as far as one can tell.
pub fn last_before(numbering: &Numbering, next: Option<i64>) -> Option<i64> {
    let Numbering {
        start,
        increment,
        min,
        max,
        ..
    } = *numbering;
    match next {
        Some(next) if next == start => None,
        Some(next) => next
            .checked_sub(increment)
            .filter(|last| (min..=max).contains(last)),
        // Nothing is left: it was the last one before the bound.
        None => {
            let bound = if increment > 0 { max } else { min };
            let steps = (i128::from(bound) - i128::from(start)) / i128::from(increment);
            i64::try_from(i128::from(start) + steps * i128::from(increment)).ok()
        }
    }
}

/// Whether a restart from `bound` gives no number before `next` again. Numbers that come again anyway are passed over one by one.
fn covers(numbering: &Numbering, bound: Option<Next>, next: Next) -> bool {
    match (bound, next) {
        (None, _) => false,
        (Some(bound), next) if numbering.cycle => bound == next,
        (Some(None), _) => true,
        (Some(Some(_)), None) => false,
        (Some(Some(bound)), Some(next)) if numbering.increment > 0 => bound >= next,
        (Some(Some(bound)), Some(next)) => bound <= next,
    }
}

/// A counter, and how it counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// The table or sequence.
    pub object: u64,
    /// The table's column; 0 of a sequence.
    pub column: usize,
    /// Its name, for messages.
    pub name: String,
    /// How it counts.
    pub numbering: Numbering,
}

impl Counted {
    /// The sequence of that name: one that was created, or that of a column, under the name that PostgreSQL gives it.
    pub fn find(catalog: &Catalog, schema: &str, name: &str) -> Option<Counted> {
        match catalog.find(schema, name) {
            Some(object) => Counted::of(object),
            None => {
                let mut tables = catalog.objects().filter(|o| o.record.schema == schema);
                tables.find_map(|table| {
                    let mut columns = numbered(table);
                    let column = columns.find(|(n, _)| sequence_name(table, *n) == name)?;
                    Some(Counted::of_column(table, column))
                })
            }
        }
    }

    /// An object that is a sequence.
    pub fn of(object: &Object) -> Option<Counted> {
        let Detail::Sequence(sequence) = &object.detail else {
            return None;
        };
        Some(Counted {
            object: object.record.id,
            column: 0,
            name: object.record.name.clone(),
            numbering: sequence.numbering.clone(),
        })
    }

    /// A column that numbers rows.
    pub fn of_column(table: &Object, (column, numbering): (usize, &Numbering)) -> Counted {
        Counted {
            object: table.record.id,
            column,
            name: sequence_name(table, column),
            numbering: numbering.clone(),
        }
    }
    fn exhausted(&self) -> SqlError {
        let (which, bound) = match self.numbering.increment > 0 {
            true => ("maximum", self.numbering.max),
            false => ("minimum", self.numbering.min),
        };
        SqlError::new(
            "2200H",
            format!(
                "nextval: reached {which} value of sequence \"{}\" ({bound})",
                self.name
            ),
        )
    }
}

/// What a commit stores of a counter, for [`Numbers::passed`].
pub struct Storing {
    counted: Counted,
    bound: Next,
    version: u64,
}

impl Storing {
    /// For the commit.
    pub fn change(&self) -> Change {
        put(
            number_key(self.counted.object, self.counted.column),
            &self.bound,
        )
    }
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
        let mut tables = self.0.lock();
        tables
            .entry(table)
            .or_default()
            .counters
            .insert(column, Counter::at(next));
    }

    fn with<T>(&self, of: &Counted, f: impl FnOnce(&mut Counter) -> T) -> T {
        let mut tables = self.0.lock();
        let counters = &mut tables.entry(of.object).or_default().counters;
        let fresh = || Counter::at(Some(of.numbering.start));
        f(counters.entry(of.column).or_insert_with(fresh))
    }

    /// The next `count` numbers of a column.
    pub fn give(
        &self,
        table: &Object,
        column: (usize, &Numbering),
        count: usize,
    ) -> Result<(Vec<i64>, Numbered), SqlError> {
        let counted = Counted::of_column(table, column);
        let mut tables = self.0.lock();
        let of_table = tables.entry(table.record.id).or_default();
        let fresh = || Counter::at(Some(column.1.start));
        let counter = of_table.counters.entry(column.0).or_insert_with(fresh);
        let given = counter.take(column.1, count);
        if given.len() < count {
            return Err(counted.exhausted());
        }
        let numbered = Numbered {
            table: table.record.id,
            generation: of_table.generation,
        };
        Ok((given, numbered))
    }

    /// The next `count` numbers, if a commit has passed over them; else `None`, and [`Numbers::reserve`] is to be asked.
    pub fn give_passed(&self, of: &Counted, count: usize) -> Option<Vec<i64>> {
        self.with(of, |counter| {
            let (given, next) = ahead(&of.numbering, counter.next, count);
            let passed = given.len() == count && covers(&of.numbering, counter.durable, next);
            passed.then(|| {
                counter.next = next;
                given
            })
        })
    }

    /// The next `count` numbers, which may be used once what it says is stored.
    pub fn reserve(&self, of: &Counted, count: usize) -> Result<(Vec<i64>, Storing), SqlError> {
        self.with(of, |counter| {
            let given = counter.take(&of.numbering, count);
            if given.len() < count {
                return Err(of.exhausted());
            }
            // Near its end a counter is stored as it is: otherwise a crash would leave it with no numbers.
            let (more, bound) = ahead(&of.numbering, counter.next, AHEAD);
            let spare = more.len() == AHEAD && bound.is_some() && !of.numbering.cycle;
            let bound = if spare { bound } else { counter.next };
            Ok((given, counter.storing(of, bound)))
        })
    }

    /// Goes on with `next`, whatever was given before, once what it says is stored.
    pub fn set(&self, of: &Counted, next: Option<i64>) -> Storing {
        let storing = self.change(of, |_| Ok(next));
        storing.expect("it takes the number that it is given")
    }

    /// Goes on with what `f` makes of the next number, between two that are given.
    pub fn change(
        &self,
        of: &Counted,
        f: impl FnOnce(Option<i64>) -> Result<Option<i64>, SqlError>,
    ) -> Result<Storing, SqlError> {
        self.with(of, |counter| {
            let next = f(counter.next)?;
            counter.version += 1;
            (counter.next, counter.durable) = (next, None);
            Ok(counter.storing(of, next))
        })
    }

    /// It is committed.
    pub fn passed(&self, stored: &Storing) {
        self.with(&stored.counted, |counter| {
            if counter.version == stored.version {
                counter.durable = Some(stored.bound);
            }
        });
    }

    /// Where a counter is: its next number.
    pub fn next_of(&self, of: &Counted) -> Option<i64> {
        self.with(of, |counter| counter.next)
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
            let version = of_table.counters.remove(&column).map_or(0, |c| c.version);
            let counter = Counter {
                stored: None,
                durable: None,
                version: version + 1,
                ..Counter::at(Some(numbering.start))
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
            of_table.counters.insert(n, Counter::at(next));
        }
        changes
    }

    /// What a commit of a write to the table has to store.
    pub fn changed(&self, table: &Object) -> Vec<Change> {
        let mut tables = self.0.lock();
        let Some(of_table) = tables.get_mut(&table.record.id) else {
            return vec![];
        };
        let mut changes = vec![];
        for (column, numbering) in numbered(table) {
            if let Some(counter) = of_table.counters.get_mut(&column)
                && !covers(numbering, counter.stored, counter.next)
            {
                counter.stored = Some(counter.next);
                changes.push(put(number_key(table.record.id, column), &counter.next));
            }
        }
        changes
    }

    /// The table is dropped.
    pub fn forget(&self, table: u64) {
        self.0.lock().remove(&table);
    }
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
                behind: false,
                owned_by: None,
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
            cycle: false,
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
                cycle: false,
            }),
        );
        assert!(numbers.changed(&table).is_empty());
        give(&numbers, &table, 5).expect("there are enough");
        assert_eq!(
            numbers.changed(&table),
            [put(number_key(7, 0), &Some(6i64))]
        );
        assert!(numbers.changed(&table).is_empty());
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
                cycle: false,
            }),
        );
        let column = numbered(&table).next().expect("it has one");
        let (_, before) = numbers.give(&table, column, 1).expect("there are enough");
        assert!(numbers.holds(&before));
        numbers.restart(&table);
        assert!(!numbers.holds(&before));
    }

    #[test]
    fn nextval_gives_what_a_commit_has_passed_over() {
        let of = |numbering| Counted {
            object: 1,
            column: 0,
            name: "s".into(),
            numbering,
        };
        let numbering = |increment, cycle| Numbering {
            kind: NumberingKind::Sequence,
            start: 1,
            increment,
            min: 1,
            max: 40,
            cycle,
        };
        let numbers = Numbers::default();
        let s = of(numbering(1, false));
        assert_eq!(numbers.give_passed(&s, 1), None);
        let (given, storing) = numbers.reserve(&s, 2).expect("there are enough");
        assert_eq!(given, [1, 2]);
        // Not before it is committed.
        assert_eq!(numbers.give_passed(&s, 1), None);
        numbers.passed(&storing);
        assert_eq!(numbers.give_passed(&s, 32), Some((3..35).collect()));
        assert_eq!(numbers.give_passed(&s, 1), None);
        // Near the end nothing is passed over that isn't given.
        let (given, storing) = numbers.reserve(&s, 1).expect("there are enough");
        assert_eq!(given, [35]);
        assert_eq!(storing.change(), put(number_key(1, 0), &Some(36i64)));
        // Set meanwhile: what was stored before means nothing.
        let set = numbers.set(&s, Some(40));
        numbers.passed(&storing);
        assert_eq!(numbers.give_passed(&s, 1), None);
        numbers.passed(&set);
        let (given, storing) = numbers.reserve(&s, 1).expect("there is one");
        assert_eq!(given, [40]);
        assert_eq!(storing.change(), put(number_key(1, 0), &None::<i64>));
        assert_eq!(
            numbers.reserve(&s, 1).err().map(|e| e.sqlstate),
            Some("2200H")
        );
        // Round and round.
        let s = Counted {
            object: 2,
            ..of(numbering(20, true))
        };
        let (given, _) = numbers.reserve(&s, 4).expect("there is no end");
        assert_eq!(given, [1, 21, 1, 21]);
    }
}
