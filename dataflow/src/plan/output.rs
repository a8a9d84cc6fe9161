//! Where the contents of a dataflow's output are stored, and how a reader gets them from there.

use std::sync::Arc;

use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::Column;
use tidemill_zset::Delta;

use super::arrangements::Places;
use super::explain::map_text;
use super::{DataflowPlan, ErrorMapper, Op};
use crate::operator::Output;
use crate::operators::map::Map;

/// How the output collection is stored.
#[derive(Clone, Debug)]
pub enum OutputStorage {
    /// It is a function of one of the plan's arrangements: no second copy is stored.
    Arrangement {
        /// Position in [`DataflowPlan::arrangements`]; a `Last` arrangement.
        index: usize,
        /// Columns of the arrangement that make the operator's output, in order.
        columns: Vec<usize>,
        /// [`Op::Map`]s to apply to them, in order; see [`apply_maps`].
        maps: Vec<Op>,
    },
    /// An arrangement of its own: a log, or `Add`, keyed by the whole row.
    Own,
}

impl DataflowPlan {
    /// Where the output is stored.
    pub fn output_storage(&self) -> OutputStorage {
        let mut maps = Vec::new();
        let mut node = &self.root;
        while let Op::Map { .. } = &node.op {
            maps.push(node.op.clone());
            node = &node.inputs[0];
        }
        maps.reverse();
        let Op::Aggregate { keys, aggregates } = &node.op else {
            return OutputStorage::Own;
        };
        OutputStorage::Arrangement {
            index: Places::of(&node.inputs[0], |_| ()).count,
            columns: (0..keys.len() + aggregates.len()).collect(),
            maps,
        }
    }
}

impl OutputStorage {
    /// Whether the changes of an epoch have no equal rows among them, whichever worker they come from: each change of the
    /// aggregate, which are of different groups or have different values, is seen in the output.
    pub fn is_apart(&self) -> bool {
        let OutputStorage::Arrangement { columns, maps, .. } = self else {
            return false;
        };
        // Where the columns of the aggregate are.
        let mut at: Vec<Option<usize>> = (0..columns.len()).map(Some).collect();
        for op in maps {
            if let Op::Map {
                projection: Some(exprs),
                ..
            } = op
            {
                let plain = |e: &Arc<dyn PhysicalExpr>| e.downcast_ref::<Column>()?.index().into();
                let places: Vec<Option<usize>> = exprs.iter().map(plain).collect();
                let moved = |i: usize| places.iter().position(|p| *p == Some(i));
                at = at.into_iter().map(|i| i.and_then(moved)).collect();
            }
        }
        at.iter().all(Option::is_some)
    }

    /// For [`OutputStorage::Arrangement`]: all that decides how its rows become the output, as text. Where that is the same, a
    /// new plan's maps read what an old plan stored.
    pub fn layout(&self) -> Option<String> {
        let OutputStorage::Arrangement { columns, maps, .. } = self else {
            return None;
        };
        let mut text = format!("columns {columns:?}");
        for op in maps {
            if let Op::Map {
                predicate,
                projection,
            } = op
            {
                text.push_str("; ");
                text.push_str(&map_text(predicate, projection));
            }
        }
        Some(text)
    }
}

/// Applies `maps` (all [`Op::Map`]) to `rows`. Rows on which an expression fails are left out and
/// described by the error deltas.
pub fn apply_maps(maps: &[Op], rows: Delta, mapper: ErrorMapper) -> (Delta, Vec<Delta>) {
    let mut out = Output::default();
    let mut rows = rows;
    for op in maps {
        let Op::Map {
            predicate,
            projection,
        } = op
        else {
            unreachable!("OutputStorage holds only maps")
        };
        let map = Map::new(predicate.clone(), projection.clone(), mapper);
        rows = map.apply(&rows, &mut out.errors);
    }
    (rows, out.errors)
}
