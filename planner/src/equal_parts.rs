//! Equal parts of a query are computed once.
//!
//! A WITH query is put into each place that names it, and the rows around a correlated subquery stand below it once more. What the
//! optimiser leaves equal of such copies needn't run twice. Only what has read all of its input before it gives its first row is taken:
//! aggregates and windows, of which nothing above wants but some rows. Other parts pass rows on, and keeping all of them could take far more
//! memory than reading them again takes time. Views have the same in their dataflows, for all operators.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use datafusion::datasource::source_as_provider;
use datafusion_common::Result;
use datafusion_common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion_expr::{LogicalPlan, TableScan};

use crate::bind::expr::deep;
use crate::compile::rules::has_outer_reference;
use crate::once::{Once, is_volatile};
use crate::query::scanned_relation;
use crate::recent::RecentRows;
use crate::tree::{PlanTree, Tree};

/// The optimised plan with the equal parts of it marked as one.
pub(crate) fn once_each(plan: LogicalPlan) -> Result<LogicalPlan> {
    let mut candidates = 0;
    plan.walk_all(&mut |node| {
        candidates += usize::from(reads_all(node));
        Ok(match candidates {
            0 | 1 => TreeNodeRecursion::Continue,
            _ => TreeNodeRecursion::Stop,
        })
    })?;
    if candidates < 2 {
        return Ok(plan);
    }
    let mut parts = Parts::default();
    parts.meet(&plan, Above::default())?;
    match parts.met.values().flatten().any(|part| part.places > 1) {
        true => parts.marked(plan, Above::default()).map(|t| t.data),
        false => Ok(plan),
    }
}

/// Nodes that have read all of their input before they give a row.
fn reads_all(node: &LogicalPlan) -> bool {
    matches!(node, LogicalPlan::Aggregate(_) | LogicalPlan::Window(_))
}

/// What is known of the nodes above a place, which may spare what is below them some of its work.
#[derive(Clone, Copy, Default)]
struct Above {
    /// Only the first rows are wanted.
    limited: bool,
    /// Rows are dropped: those behind the first of each key, perhaps.
    filtered: bool,
}

impl Above {
    /// Whether `node` is computed as a whole there.
    fn wants_all_of(self, node: &LogicalPlan) -> bool {
        match node {
            LogicalPlan::Aggregate(_) => !self.limited,
            LogicalPlan::Window(_) => !self.limited && !self.filtered,
            _ => false,
        }
    }

    /// The same for the inputs of `node`.
    fn below(self, node: &LogicalPlan) -> Above {
        let limited = |limited| Above { limited, ..self };
        match node {
            LogicalPlan::Limit(_) => limited(true),
            LogicalPlan::Sort(sort) => limited(self.limited || sort.fetch.is_some()),
            LogicalPlan::Filter(_) => Above {
                filtered: true,
                ..self
            },
            LogicalPlan::Projection(_) | LogicalPlan::SubqueryAlias(_) => self,
            _ => Above::default(),
        }
    }
}

/// One of the plan's parts.
struct Part {
    plan: LogicalPlan,
    /// How many places it has, those in further places of a part above it not counted.
    places: usize,
    /// What stands in all places instead.
    marked: Option<LogicalPlan>,
}

/// Parts by their hashes.
#[derive(Default)]
struct Parts {
    met: HashMap<u64, Vec<Part>>,
}

impl Parts {
    fn find(&mut self, plan: &LogicalPlan) -> Option<&mut Part> {
        let alike = self.met.get_mut(&hash(plan))?;
        alike.iter_mut().find(|part| is_same(&part.plan, plan))
    }

    /// Counts the places of all parts.
    fn meet(&mut self, plan: &LogicalPlan, above: Above) -> Result<()> {
        if above.wants_all_of(plan) {
            if let Some(part) = self.find(plan) {
                part.places += 1;
                return Ok(());
            }
            if can_be_kept(plan)? {
                let part = Part {
                    plan: plan.clone(),
                    places: 1,
                    marked: None,
                };
                self.met.entry(hash(plan)).or_default().push(part);
            }
        }
        for input in plan.inputs() {
            deep(|| self.meet(input, above.below(plan)))?;
        }
        plan.walk_subqueries(&mut |subquery| {
            deep(|| self.meet(subquery, Above::default()))?;
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(())
    }

    /// The plan with those marked that have several.
    fn marked(&mut self, plan: LogicalPlan, above: Above) -> Result<Transformed<LogicalPlan>> {
        let found = match above.wants_all_of(&plan) {
            true => self.find(&plan).filter(|part| part.places > 1),
            false => None,
        };
        let Some(part) = found else {
            return self.marked_below(plan, above);
        };
        if let Some(marked) = &part.marked {
            return Ok(Transformed::yes(marked.clone()));
        }
        let original = plan.clone();
        let marked = Once::equal(self.marked_below(plan, above)?.data);
        if let Some(part) = self.find(&original) {
            part.marked = Some(marked.clone());
        }
        Ok(Transformed::yes(marked))
    }

    fn marked_below(
        &mut self,
        plan: LogicalPlan,
        above: Above,
    ) -> Result<Transformed<LogicalPlan>> {
        let below = above.below(&plan);
        let plan = plan.change_children(&mut |input| deep(|| self.marked(input, below)))?;
        plan.transform_data(|plan| {
            plan.change_subqueries(&mut |subquery| deep(|| self.marked(subquery, Above::default())))
        })
    }
}

/// Whether the rows of a part are the same wherever it stands, and whenever it runs.
fn can_be_kept(plan: &LogicalPlan) -> Result<bool> {
    if has_outer_reference(plan)? || is_volatile(plan)? {
        return Ok(false);
    }
    Ok(scans(plan)?.iter().all(|scan| !is_recent(scan)))
}

fn is_recent(scan: &TableScan) -> bool {
    let provider = source_as_provider(&scan.source);
    provider.is_ok_and(|provider| {
        let provider: &dyn std::any::Any = provider.as_ref();
        provider.is::<RecentRows>()
    })
}

/// Those of the plan and of its subqueries.
fn scans(plan: &LogicalPlan) -> Result<Vec<TableScan>> {
    let mut scans = vec![];
    plan.walk_all(&mut |node| {
        if let LogicalPlan::TableScan(scan) = node {
            scans.push(scan.clone());
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(scans)
}

fn hash(plan: &LogicalPlan) -> u64 {
    let mut hasher = DefaultHasher::new();
    plan.hash(&mut hasher);
    hasher.finish()
}

/// Whether both are the same plan of the same tables.
fn is_same(a: &LogicalPlan, b: &LogicalPlan) -> bool {
    a == b
        && match (scans(a), scans(b)) {
            (Ok(a), Ok(b)) => a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| same_table(a, b)),
            _ => false,
        }
}

/// Whether both read the same table: DataFusion compares names only.
pub(crate) fn same_table(a: &TableScan, b: &TableScan) -> bool {
    match (scanned_relation(a), scanned_relation(b)) {
        (Some(a), Some(b)) => a.id == b.id,
        _ => Arc::ptr_eq(&a.source, &b.source),
    }
}
