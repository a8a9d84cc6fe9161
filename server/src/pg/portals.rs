//! The portals of a connection. They live until their transaction ends, or goes back to a savepoint that is older than they are.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use tidemill_planner::SqlError;
use tidemill_planner::ast::Statement as Sql;

use super::extended::Portal;

/// See the module.
#[derive(Default)]
pub struct Portals {
    open: HashMap<String, Numbered>,
    /// Portals that have been made.
    made: u64,
    /// Savepoints of the transaction, and how many portals had been made by then.
    savepoints: Vec<(String, u64)>,
}

struct Numbered {
    portal: Portal,
    number: u64,
}

/// What a statement, once it is executed, means for portals.
pub enum Effect {
    /// The transaction has ended.
    End,
    /// CLOSE ALL
    Close,
    /// SAVEPOINT
    Savepoint(String),
    /// RELEASE
    Release(String),
    /// ROLLBACK TO
    BackTo(String),
}

impl Effect {
    /// That of a statement, if it has one.
    pub fn of(statement: &Sql) -> Option<Effect> {
        Some(match statement {
            Sql::Commit { .. } | Sql::Rollback { .. } => Effect::End,
            Sql::Close { cursor: None } => Effect::Close,
            Sql::Savepoint { name } => Effect::Savepoint(name.clone()),
            Sql::Release { name } => Effect::Release(name.clone()),
            Sql::RollbackTo { name } => Effect::BackTo(name.clone()),
            _ => return None,
        })
    }
}

impl Portals {
    /// Adds one; the one without a name takes the place of the one before.
    pub fn insert(&mut self, name: String, portal: Portal) -> Result<(), SqlError> {
        self.made += 1;
        let number = self.made;
        let numbered = Numbered { portal, number };
        match self.open.entry(name) {
            Entry::Occupied(mut entry) if entry.key().is_empty() => {
                entry.insert(numbered);
            }
            Entry::Occupied(entry) => return Err(taken(entry.key())),
            Entry::Vacant(entry) => {
                entry.insert(numbered);
            }
        }
        Ok(())
    }

    /// The one of that name.
    pub fn get(&self, name: &str) -> Option<&Portal> {
        self.open.get(name).map(|n| &n.portal)
    }

    /// The one of that name.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Portal> {
        self.open.get_mut(name).map(|n| &mut n.portal)
    }

    /// Closes the one of that name.
    pub fn remove(&mut self, name: &str) -> Option<Portal> {
        self.open.remove(name).map(|n| n.portal)
    }

    /// The transaction has ended.
    pub fn clear(&mut self) {
        self.open.clear();
        self.savepoints.clear();
    }

    /// A statement with this effect was executed.
    pub fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::End => self.clear(),
            Effect::Close => self.open.clear(),
            Effect::Savepoint(name) => self.savepoints.push((name, self.made)),
            Effect::Release(name) => {
                if let Some(place) = self.place(&name) {
                    self.savepoints.truncate(place);
                }
            }
            Effect::BackTo(name) => {
                if let Some(place) = self.place(&name) {
                    self.savepoints.truncate(place + 1);
                    let (_, made) = self.savepoints[place];
                    self.open.retain(|_, n| n.number <= made);
                }
            }
        }
    }

    /// The newest savepoint of that name.
    fn place(&self, name: &str) -> Option<usize> {
        self.savepoints.iter().rposition(|(n, _)| n == name)
    }
}

/// The error of a second portal or cursor of a name.
pub fn taken(name: &str) -> SqlError {
    SqlError::new("42P03", format!("cursor \"{name}\" already exists"))
}
