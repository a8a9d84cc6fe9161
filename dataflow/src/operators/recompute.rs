//! The general operator: recomputes the touched keys with the batch plan.

use crate::operator::{BuildContext, Operator, Output};
use crate::plan::Node;
use crate::state::StateHandle;
use tidemill_zset::{Delta, Epoch};

/// Builds the operator of `node`.
pub fn build(
    _node: &Node,
    _states: Vec<StateHandle>,
    _context: &BuildContext,
) -> Box<dyn Operator> {
    Box::new(Placeholder)
}

struct Placeholder;

impl Operator for Placeholder {
    fn push(&mut self, _port: usize, _delta: Delta, _out: &mut Output) {}
    fn finish(&mut self, _epoch: Epoch, _out: &mut Output) {}
}
