//! Very large queries are planned in parts.
//!
//! A WITH query stands in each place that names it. Where each names the one before it twice, ten of them are a thousand copies, and planning takes what it takes for
//! a query of that length. So in a query of more than [`NODES_MAX`] nodes the parts that stand in several places are taken out, each planned by itself,
//! once; what names them reads them as if they were tables. What is known of such a part isn't known above it, as PostgreSQL has it for WITH queries
//! that are named twice: smaller queries are left whole.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use datafusion_common::tree_node::Transformed;
use datafusion_common::{NullEquality, Result};
use datafusion_expr::{Distinct, JoinType, LogicalPlan, TableScan};

use crate::bind::expr::deep;
use crate::compile::rules::has_outer_reference;
use crate::equal_parts::same_table;
use crate::once::is_volatile;
use crate::part::Part;
use crate::tree::{PlanTree, Tree};

/// Nodes of a plan that is left whole: planning it takes less than a second, and conditions reach the tables.
const NODES_MAX: usize = 4000;
/// So many copies there are of a node on average, or it isn't copies that make a plan large.
const COPIES_MIN: usize = 8;
/// Nodes of a part that is taken out.
const PART_NODES_MIN: usize = 30;

/// A plan and the parts that have been taken out of it.
pub(crate) struct Divided {
    /// What is left.
    pub rest: LogicalPlan,
    /// Each may read those before it.
    pub parts: Vec<(Arc<Part>, LogicalPlan)>,
}

/// The plan in parts; `None`: it is left whole.
pub(crate) fn divided(plan: &LogicalPlan) -> Result<Option<Divided>> {
    let Some(nodes) = large(plan)? else {
        return Ok(None);
    };
    if is_volatile(plan)? {
        return Ok(None);
    }
    let mut numbering = Numbering::default();
    let root = numbering.number(plan)?;
    if nodes < numbering.classes.len() * COPIES_MIN {
        return Ok(None);
    }
    let mut division = Division {
        classes: &numbering.classes,
        made: HashMap::new(),
        parts: vec![],
    };
    let (rest, _) = division.rest(root)?;
    let parts = division.parts;
    Ok((!parts.is_empty()).then_some(Divided { rest, parts }))
}

/// How many nodes it has, if these are more than [`NODES_MAX`], and none whose input is read more than once.
fn large(plan: &LogicalPlan) -> Result<Option<usize>> {
    let (mut nodes, mut special) = (0, false);
    plan.walk_all(&mut |node| {
        nodes += 1;
        special |= matches!(
            node,
            LogicalPlan::RecursiveQuery(_) | LogicalPlan::Extension(_)
        );
        Ok(datafusion_common::tree_node::TreeNodeRecursion::Continue)
    })?;
    Ok((nodes > NODES_MAX && !special).then_some(nodes))
}

/// Subtrees that are equal.
struct Class<'p> {
    node: &'p LogicalPlan,
    inputs: Vec<usize>,
    places: usize,
}

/// Equal subtrees have the same number.
#[derive(Default)]
struct Numbering<'p> {
    classes: Vec<Class<'p>>,
    /// By the hash of a node alone and the numbers of its inputs.
    met: HashMap<u64, Vec<usize>>,
}

impl<'p> Numbering<'p> {
    fn number(&mut self, node: &'p LogicalPlan) -> Result<usize> {
        let inputs = node.inputs().into_iter();
        let inputs = inputs.map(|input| deep(|| self.number(input)));
        let inputs = inputs.collect::<Result<Vec<usize>>>()?;
        let mut hasher = DefaultHasher::new();
        node.display().to_string().hash(&mut hasher);
        inputs.hash(&mut hasher);
        let alike = self.met.entry(hasher.finish()).or_default();
        let classes = &mut self.classes;
        let same = |at: &&usize| {
            let class = &classes[**at];
            class.inputs == inputs && is_same_node(class.node, node)
        };
        if let Some(at) = alike.iter().find(same) {
            classes[*at].places += 1;
            return Ok(*at);
        }
        alike.push(classes.len());
        classes.push(Class {
            node,
            inputs,
            places: 1,
        });
        Ok(classes.len() - 1)
    }
}

/// Whether both give the same rows of the same inputs.
fn is_same_node(a: &LogicalPlan, b: &LogicalPlan) -> bool {
    let of_join = |join: &LogicalPlan| -> Option<(JoinType, NullEquality, bool)> {
        match join {
            LogicalPlan::Join(j) => Some((j.join_type, j.null_equality, j.null_aware)),
            _ => None,
        }
    };
    let asks = |plan: &LogicalPlan| {
        plan.expressions()
            .iter()
            .any(crate::compile::expr::has_subquery)
    };
    match (a, b) {
        (LogicalPlan::TableScan(a), LogicalPlan::TableScan(b)) => is_same_scan(a, b),
        (LogicalPlan::Projection(_), LogicalPlan::Projection(_))
        | (LogicalPlan::Filter(_), LogicalPlan::Filter(_))
        | (LogicalPlan::Aggregate(_), LogicalPlan::Aggregate(_))
        | (LogicalPlan::Window(_), LogicalPlan::Window(_))
        | (LogicalPlan::Sort(_), LogicalPlan::Sort(_))
        | (LogicalPlan::Limit(_), LogicalPlan::Limit(_))
        | (LogicalPlan::Union(_), LogicalPlan::Union(_))
        | (LogicalPlan::Values(_), LogicalPlan::Values(_))
        | (LogicalPlan::EmptyRelation(_), LogicalPlan::EmptyRelation(_))
        | (LogicalPlan::Distinct(Distinct::All(_)), LogicalPlan::Distinct(Distinct::All(_)))
        | (LogicalPlan::SubqueryAlias(_), LogicalPlan::SubqueryAlias(_))
        | (LogicalPlan::Join(_), LogicalPlan::Join(_)) => {
            of_join(a) == of_join(b)
                && a.display().to_string() == b.display().to_string()
                && a.schema() == b.schema()
                && a.expressions() == b.expressions()
                && !asks(a)
        }
        _ => false,
    }
}

fn is_same_scan(a: &TableScan, b: &TableScan) -> bool {
    same_table(a, b)
        && a.table_name == b.table_name
        && a.projection == b.projection
        && a.filters == b.filters
        && a.fetch == b.fetch
}

/// Whether the rows have an order of their own, which what is above may go by ([`crate::compile::own_order`]).
fn has_own_order(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Projection(p) => has_own_order(&p.input),
        LogicalPlan::Filter(f) => has_own_order(&f.input),
        LogicalPlan::SubqueryAlias(a) => has_own_order(&a.input),
        LogicalPlan::Sort(_)
        | LogicalPlan::Limit(_)
        | LogicalPlan::Unnest(_)
        | LogicalPlan::Values(_) => true,
        _ => false,
    }
}

/// Taking out parts, from the leaves up.
struct Division<'p, 'l> {
    classes: &'l [Class<'p>],
    /// What stands for the subtrees of a number, and how many nodes that has.
    made: HashMap<usize, (LogicalPlan, usize)>,
    parts: Vec<(Arc<Part>, LogicalPlan)>,
}

impl Division<'_, '_> {
    fn rest(&mut self, number: usize) -> Result<(LogicalPlan, usize)> {
        if let Some(made) = self.made.get(&number) {
            return Ok(made.clone());
        }
        let class = &self.classes[number];
        let (mut nodes, mut inputs) = (1, vec![]);
        for input in &class.inputs {
            let (plan, count) = deep(|| self.rest(*input))?;
            nodes += count;
            inputs.push(plan);
        }
        let mut inputs = inputs.into_iter();
        let plan = class
            .node
            .clone()
            .change_children(&mut |child| Ok(Transformed::yes(inputs.next().unwrap_or(child))))?;
        let mut made = (plan.data, nodes);
        let is_part = class.places > 1 && nodes >= PART_NODES_MIN && !has_own_order(&made.0);
        if is_part && !has_outer_reference(&made.0)? {
            let part = Arc::new(Part::new(self.parts.len(), &made.0));
            let leaf = part.clone().leaf(&made.0)?;
            if leaf.schema().iter().eq(made.0.schema().iter()) {
                self.parts.push((part, made.0));
                made = (leaf, 2);
            }
        }
        self.made.insert(number, made.clone());
        Ok(made)
    }
}
