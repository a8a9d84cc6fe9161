//! Plans that are kept: of prepared statements, and of texts that a session sends again and again.
//!
//! Invariant: a kept plan is used only with the catalog and the settings that it was made with; values of parameters
//! and the time are put in at each execution.

use std::collections::VecDeque;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tidemill_planner::SqlError;
use tidemill_planner::direct::Direct;
use tidemill_planner::query::QueryPlan;

use super::write_plan::Target;
use crate::catalog::Catalog;

/// Texts whose plans a session keeps.
const TEXTS_MAX: usize = 32;
/// Texts of which a session knows that it has seen them once.
const SEEN_MAX: usize = 64;

/// What a statement's rows come from.
pub enum Planned {
    /// A query over the catalog alone, which has an evaluator of its own.
    Catalog,
    /// A plan.
    Query(Box<Query>),
    /// What a write changes.
    Write(Box<Write>),
}

/// The rows that a write changes, and where.
pub struct Write {
    /// The rows.
    pub query: Query,
    /// The table.
    pub target: Arc<Target>,
    /// What ON CONFLICT DO UPDATE makes of rows that are there.
    pub update: Option<Query>,
    /// What RETURNING gives.
    pub returning: Option<Query>,
}

impl Write {
    /// All its plans.
    pub fn plans(&self) -> Vec<&QueryPlan> {
        let more = [&self.update, &self.returning].into_iter().flatten();
        let all = std::iter::once(&self.query).chain(more);
        all.map(|query| &query.plan).collect()
    }
}

impl Planned {
    /// The plan of a write.
    pub fn write(&self) -> Result<&Write, SqlError> {
        match self {
            Planned::Write(write) => Ok(write),
            _ => Err(SqlError::internal("a write has a plan")),
        }
    }
}

/// A bound plan.
pub struct Query {
    /// For DataFusion.
    pub plan: QueryPlan,
    /// The same by an index, if it is of that kind.
    pub direct: Option<Direct>,
    scanned: AtomicBool,
}

impl Query {
    /// Prepares both ways.
    pub fn new(plan: QueryPlan) -> Query {
        Query {
            direct: Direct::of(&plan),
            plan,
            scanned: AtomicBool::new(false),
        }
    }

    /// It has been run by DataFusion, as no index was of use.
    pub fn was_scanned(&self) -> bool {
        self.scanned.load(Ordering::Relaxed)
    }

    /// Notes that.
    pub fn note_scan(&self) {
        self.scanned.store(true, Ordering::Relaxed);
    }
}

struct Kept {
    /// Its address says which; it isn't kept alive.
    catalog: Weak<Catalog>,
    settings: u64,
    planned: Arc<Planned>,
}

/// Place for the plan of one statement; clones share it.
#[derive(Clone, Default)]
pub struct PlanSlot(Arc<Mutex<Option<Kept>>>);

impl PlanSlot {
    /// The plan, if it was made with this catalog and these settings.
    pub fn get(&self, catalog: &Arc<Catalog>, settings: u64) -> Option<Arc<Planned>> {
        let kept = self.0.lock();
        let kept = kept.as_ref()?;
        let same = kept.settings == settings && std::ptr::eq(kept.catalog.as_ptr(), &**catalog);
        same.then(|| kept.planned.clone())
    }

    /// Keeps a plan.
    pub fn set(&self, catalog: &Arc<Catalog>, settings: u64, planned: &Arc<Planned>) {
        *self.0.lock() = Some(Kept {
            catalog: Arc::downgrade(catalog),
            settings,
            planned: planned.clone(),
        });
    }
}

/// Slots of texts that came more than once, the newest in front.
#[derive(Default)]
pub struct Texts {
    slots: VecDeque<(String, PlanSlot)>,
    seen: VecDeque<u64>,
}

impl Texts {
    /// The slot of a text that was seen before, or none.
    pub fn slot(&mut self, sql: &str) -> Option<PlanSlot> {
        if let Some(at) = self.slots.iter().position(|(text, _)| text == sql) {
            let found = self.slots.remove(at)?;
            let slot = found.1.clone();
            self.slots.push_front(found);
            return Some(slot);
        }
        let mut hasher = DefaultHasher::new();
        sql.hash(&mut hasher);
        let hash = hasher.finish();
        if !self.seen.contains(&hash) {
            self.seen.truncate(SEEN_MAX - 1);
            self.seen.push_front(hash);
            return None;
        }
        let slot = PlanSlot::default();
        self.slots.truncate(TEXTS_MAX - 1);
        self.slots.push_front((sql.to_string(), slot.clone()));
        Some(slot)
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Texts::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_has_a_slot_from_the_second_time_on_and_few_are_kept() {
        let mut texts = Texts::default();
        assert!(texts.slot("SELECT 1").is_none());
        let slot = texts.slot("SELECT 1").expect("seen before");
        let again = texts.slot("SELECT 1").expect("kept");
        assert!(Arc::ptr_eq(&slot.0, &again.0));
        for i in 0..TEXTS_MAX {
            texts.slot(&format!("SELECT {i} + 1"));
            texts.slot(&format!("SELECT {i} + 1"));
        }
        assert_eq!(texts.slots.len(), TEXTS_MAX);
        let later = texts.slot("SELECT 1").expect("still known as seen");
        assert!(!Arc::ptr_eq(&slot.0, &later.0));
    }

    #[test]
    fn a_plan_is_used_only_with_its_catalog_and_settings() {
        let slot = PlanSlot::default();
        let (one, other) = (Arc::new(Catalog::new()), Arc::new(Catalog::new()));
        assert!(slot.get(&one, 1).is_none());
        slot.set(&one, 1, &Arc::new(Planned::Catalog));
        assert!(slot.get(&one, 1).is_some());
        assert!(slot.get(&one, 2).is_none());
        assert!(slot.get(&other, 1).is_none());
    }
}
