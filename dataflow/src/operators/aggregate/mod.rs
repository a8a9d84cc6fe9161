//! GROUP BY with aggregates that are kept up to date per group; without aggregates: DISTINCT.

pub mod extremes;
pub mod layout;

use tidemill_zset::{Delta, Epoch};

use crate::operator::{BuildContext, Operator, Output};
use crate::plan::{ArrangementSpec, Node};
use crate::state::StateHandle;

use layout::Layout;
pub use layout::supports;

/// The arrangements of an aggregate: its groups, then the values of each min and max that must survive retractions.
pub fn arrangements(node: &Node) -> Vec<ArrangementSpec> {
    Layout::of(node).arrangements()
}

/// Builds the operator of `node`.
pub fn build(node: &Node, states: Vec<StateHandle>, context: &BuildContext) -> Box<dyn Operator> {
    let _ = (states, context);
    Box::new(Groups {
        layout: Layout::of(node),
    })
}

struct Groups {
    layout: Layout,
}

impl Operator for Groups {
    fn push(&mut self, _port: usize, _delta: Delta, _out: &mut Output) {
        let _ = &self.layout;
    }
    fn finish(&mut self, _epoch: Epoch, _out: &mut Output) {}
}
