//! What a session does with sequences: `nextval`, `currval`, `lastval`, `setval`.
//!
//! Invariant: a number that `nextval` gave is never given again, not after a crash either.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use tidemill_planner::SqlError;
use tidemill_planner::ast::ColumnDefault;
use tidemill_planner::catalog::{CatalogView, Sequences};
use tidemill_planner::names::split_name;

use crate::catalog::{Catalog, CatalogSnapshot, Detail, Object};
use crate::coordinator::sequences::{NumberRequest, Wanted};
use crate::coordinator::{Handle, Message};
use crate::numbers::{Counted, after, numbered, sequence_name};
use crate::pg_catalog::{FIRST_USER_OID, quote_ident};

/// A counter: the table or sequence, and the column.
type Key = (u64, usize);

/// The numbers that a session got last.
#[derive(Debug, Default)]
pub struct Currents(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    of: HashMap<Key, i64>,
    last: Option<Key>,
}

impl Currents {
    /// The session got a number.
    pub fn gave(&self, key: Key, number: i64) {
        let mut state = self.0.lock();
        state.of.insert(key, number);
        state.last = Some(key);
    }

    /// DISCARD SEQUENCES.
    pub fn forget(&self) {
        *self.0.lock() = State::default();
    }
}

/// The sequences as a statement reaches them.
pub struct SessionSequences {
    /// The coordinator.
    pub handle: Handle,
    /// Where names without a schema are looked for.
    pub search_path: Vec<String>,
    /// The transaction is READ ONLY.
    pub read_only: bool,
    /// The numbers that the session got.
    pub currents: Arc<Currents>,
}

impl fmt::Debug for SessionSequences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionSequences")
    }
}

impl SessionSequences {
    fn find(&self, name: &str) -> Result<Counted, SqlError> {
        let catalog = self.handle.env.publisher.pin().catalog.clone();
        let parts = split_name(name);
        let by_oid = name.parse::<u32>().ok().map(|oid| {
            let id = u64::from(oid.wrapping_sub(FIRST_USER_OID));
            catalog.get(id).and_then(|object| Counted::of(object))
        });
        let found = match (by_oid, parts.as_slice()) {
            (Some(found), _) => found,
            (None, [schema, name]) => Counted::find(&catalog, schema, name),
            (None, [name]) => {
                let mut path = self.search_path.iter();
                path.find_map(|schema| Counted::find(&catalog, schema, name))
            }
            _ => None,
        };
        found.ok_or_else(|| match self.relation(&catalog, &parts) {
            true => SqlError::new("42809", format!("\"{name}\" is not a sequence")),
            false => SqlError::new("42P01", format!("relation \"{name}\" does not exist")),
        })
    }

    fn names(&self, catalog: &Arc<Catalog>) -> CatalogSnapshot {
        let system = self.handle.env.system.clone();
        CatalogSnapshot::new(catalog.clone(), system, self.search_path.clone())
    }

    fn relation(&self, catalog: &Arc<Catalog>, parts: &[String]) -> bool {
        let names = self.names(catalog);
        match parts {
            [schema, name] => names.resolve(Some(schema), name).is_some(),
            [name] => names.resolve(None, name).is_some(),
            _ => false,
        }
    }

    fn check_writable(&self, function: &str) -> Result<(), SqlError> {
        match self.read_only {
            false => Ok(()),
            true => Err(SqlError::new(
                "25006",
                format!("cannot execute {function}() in a read-only transaction"),
            )),
        }
    }

    /// Has the coordinator store something; waits until that is durable.
    fn ask(&self, of: &Counted, wanted: Wanted) -> Result<Vec<i64>, SqlError> {
        let request = self.handle.ask(|reply| {
            Message::Number(NumberRequest {
                of: of.clone(),
                wanted,
                reply,
            })
        });
        let tokio = &self.handle.env.tokio;
        match tokio::runtime::Handle::try_current() {
            Ok(_) => tokio::task::block_in_place(|| tokio.block_on(request)),
            Err(_) => tokio.block_on(request),
        }
    }
}

impl Sequences for SessionSequences {
    fn check(&self, name: &str) -> Result<(), SqlError> {
        self.find(name).map(drop)
    }

    fn next(&self, name: &str, count: usize) -> Result<Vec<i64>, SqlError> {
        self.check_writable("nextval")?;
        let of = self.find(name)?;
        let given = match self.handle.env.numbers.give_passed(&of, count) {
            Some(given) => given,
            None => self.ask(&of, Wanted::Next(count))?,
        };
        if let Some(last) = given.last() {
            self.currents.gave((of.object, of.column), *last);
        }
        Ok(given)
    }

    fn current(&self, name: &str) -> Result<i64, SqlError> {
        let of = self.find(name)?;
        let state = self.currents.0.lock();
        let current = state.of.get(&(of.object, of.column)).copied();
        current.ok_or_else(|| {
            let message = format!(
                "currval of sequence \"{}\" is not yet defined in this session",
                of.name
            );
            SqlError::new("55000", message)
        })
    }

    fn last(&self) -> Result<i64, SqlError> {
        let state = self.currents.0.lock();
        let last = state.last.and_then(|key| state.of.get(&key).copied());
        last.ok_or_else(|| SqlError::new("55000", "lastval is not yet defined in this session"))
    }

    fn set(&self, name: &str, value: i64, called: bool) -> Result<(), SqlError> {
        self.check_writable("setval")?;
        let of = self.find(name)?;
        let (min, max) = (of.numbering.min, of.numbering.max);
        if !(min..=max).contains(&value) {
            let message = format!(
                "setval: value {value} is out of bounds for sequence \"{}\" ({min}..{max})",
                of.name
            );
            return Err(SqlError::new("22003", message));
        }
        let next = match called {
            true => after(&of.numbering, value),
            false => Some(value),
        };
        self.ask(&of, Wanted::Set(next))?;
        if called {
            let mut state = self.currents.0.lock();
            state.of.insert((of.object, of.column), value);
        }
        Ok(())
    }

    fn of_column(&self, table: &str, column: &str) -> Result<Option<String>, SqlError> {
        let catalog = self.handle.env.publisher.pin().catalog.clone();
        let missing = || SqlError::new("42P01", format!("relation \"{table}\" does not exist"));
        let names = self.names(&catalog);
        let relation = match split_name(table).as_slice() {
            [schema, name] => names.resolve(Some(schema), name),
            [name] => names.resolve(None, name),
            _ => None,
        };
        let relation = relation.ok_or_else(missing)?;
        if relation.columns.index_of(column).is_err() {
            let name = &relation.name;
            let message = format!("column \"{column}\" of relation \"{name}\" does not exist");
            return Err(SqlError::new("42703", message));
        }
        let object = catalog.find(&relation.schema, &relation.name);
        Ok(object.and_then(|table| sequence_of(&catalog, table, column)))
    }
}

/// The qualified name of the sequence that belongs to a column: what numbers it, or one that is OWNED BY it.
pub fn sequence_of(catalog: &Catalog, table: &Object, column: &str) -> Option<String> {
    let number = table.columns.index_of(column).ok()?;
    let own = numbered(table).find(|(n, _)| *n == number);
    let (schema, name) = match own {
        Some((n, _)) => (&table.record.schema, sequence_name(table, n)),
        None => {
            let owned = catalog.objects().find(|o| {
                let owner = o.record.owned_by.as_ref();
                owner.is_some_and(|o| o.table == table.record.id && o.column == column)
            })?;
            (&owned.record.schema, owned.record.name.clone())
        }
    };
    Some(format!("{}.{}", quote_ident(schema), quote_ident(&name)))
}

/// The DEFAULTs that name this sequence, or what numbers a column of this table, but for those of the tables `going`.
pub fn used_by(catalog: &Catalog, object: &Object, going: &[u64]) -> Vec<String> {
    let own = (object.record.schema.clone(), object.record.name.clone());
    let sequences: Vec<(String, String)> = match object.detail {
        Detail::Table { .. } => {
            let columns = numbered(object);
            let names = columns.map(|(n, _)| (own.0.clone(), sequence_name(object, n)));
            names.collect()
        }
        _ => vec![own],
    };
    let names = |text: &str| {
        let named = tidemill_planner::definition::sequences_of(text);
        named.iter().any(|name| {
            let is = |(schema, sequence): &(String, String)| match split_name(name).as_slice() {
                [in_schema, name] => in_schema == schema && name == sequence,
                [name] => name == sequence,
                _ => false,
            };
            sequences.iter().any(is)
        })
    };
    let mut out = vec![];
    for table in catalog.objects() {
        let Detail::Table { defaults, .. } = &table.detail else {
            continue;
        };
        if going.contains(&table.record.id) || sequences.is_empty() {
            continue;
        }
        for (field, default) in table.columns.fields().iter().zip(defaults) {
            if matches!(default, Some(ColumnDefault::Expression(text)) if names(text)) {
                let table = table.display_name();
                out.push(format!(
                    "default value for column {} of table {table}",
                    field.name()
                ));
            }
        }
    }
    out
}

/// A sequence that a DEFAULT names and that isn't there. Those that DEFAULTs named `before` aren't looked for.
pub fn missing_of(table: &Object, before: Option<&Object>, catalog: &Catalog) -> Option<String> {
    let texts = |table: &Object| match &table.detail {
        Detail::Table { defaults, .. } => defaults
            .iter()
            .filter_map(|default| match default {
                Some(ColumnDefault::Expression(text)) => Some(text.clone()),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    };
    let old = before.map(texts).unwrap_or_default();
    let new = texts(table).into_iter().filter(|text| !old.contains(text));
    let mut named = new.flat_map(|text| tidemill_planner::definition::sequences_of(&text));
    named.find(|name| match split_name(name).as_slice() {
        [schema, name] => Counted::find(catalog, schema, name).is_none(),
        // Definitions are stored with qualified names.
        _ => false,
    })
}
