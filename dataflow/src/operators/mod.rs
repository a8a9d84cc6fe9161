//! The operators, one file each, and the two functions that map a plan's [`Op`] to them.

pub mod aggregate;
pub mod combine;
pub mod culprit;
pub mod input;
pub mod join;
mod join_filter;
mod join_index;
mod join_keys;
mod join_pairs;
mod join_pending;
pub mod join_plan;
mod join_presence;
mod join_ranges;
mod join_rows;
mod join_state;
mod join_tasks;
mod join_unindexed;
mod join_weights;
pub mod map;
mod neighbour_matches;
mod neighbour_reach;
mod neighbour_rows;
mod neighbour_tails;
mod neighbours;
pub mod output;
pub mod recompute;
mod reload;
pub mod top_k;
mod top_k_changes;
mod top_k_first;
pub mod union;
pub mod unnest;

use arrow::datatypes::SchemaRef;

use crate::operator::{BuildContext, Exchange, Operator};
use crate::plan::{ArrangementSpec, Node, Op};
use crate::state::StateHandle;

/// The arrangements that the operator of `node` itself owns (not those below it); their fingerprints are
/// those of the operator alone.
pub fn arrangements(node: &Node) -> Vec<ArrangementSpec> {
    match &node.op {
        Op::Aggregate { .. } => aggregate::arrangements(node),
        Op::Join { .. } => join_plan::join_arrangements(&node.op, &input_schemas(node)),
        Op::Recompute { .. } => {
            join_plan::recompute_arrangements(&node.op, &input_schemas(node), &node.schema)
        }
        Op::TopK { .. } => top_k::arrangements(node),
        Op::Input { .. } | Op::Constant { .. } | Op::Map { .. } | Op::Unnest { .. } | Op::Union => {
            Vec::new()
        }
    }
}

fn input_schemas(node: &Node) -> Vec<SchemaRef> {
    node.inputs.iter().map(|n| n.schema.clone()).collect()
}

/// How the rows of input `port` of `node` must be spread over workers.
pub fn exchange(node: &Node, port: usize) -> Exchange {
    let by = |columns: Vec<usize>| match columns.is_empty() {
        true => Exchange::One,
        false => Exchange::Keys(columns),
    };
    match &node.op {
        Op::Aggregate { keys, .. } | Op::TopK { keys, .. } => by(keys.clone()),
        Op::Join { on, .. } => by(on
            .iter()
            .map(|(l, r)| if port == 0 { *l } else { *r })
            .collect()),
        Op::Recompute { keys, .. } => by(keys.get(port).cloned().unwrap_or_default()),
        Op::Input { .. } | Op::Constant { .. } | Op::Map { .. } | Op::Unnest { .. } | Op::Union => {
            Exchange::Local
        }
    }
}

/// Builds the operator of `node`; `states` are those of [`arrangements`], in that order. Inputs and
/// constants have none: the runtime feeds their rows.
pub fn build(
    node: &Node,
    states: Vec<StateHandle>,
    context: &BuildContext,
) -> Option<Box<dyn Operator>> {
    Some(match &node.op {
        Op::Input { .. } | Op::Constant { .. } => return None,
        Op::Map {
            predicate,
            projection,
        } => Box::new(
            map::Map::new(predicate.clone(), projection.clone(), context.error_mapper)
                .with_schema(node.schema.clone()),
        ),
        Op::Unnest { columns, structs } => Box::new(unnest::Unnest::new(
            columns.clone(),
            structs.clone(),
            node.schema.clone(),
        )),
        Op::Union => Box::new(union::Union::new(node.schema.clone())),
        Op::Aggregate { .. } => aggregate::build(node, states, context),
        Op::Join { .. } => join::build(node, states, context),
        Op::TopK { .. } => top_k::build(node, states, context),
        Op::Recompute { .. } => recompute::build(node, states, context),
    })
}
