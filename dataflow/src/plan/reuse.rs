//! What a changed plan can keep of the state that an earlier plan of the same view has stored.
//!
//! An aggregate's output is a function of its state, so where the state of an aggregate and of everything below it is
//! unchanged, the rest of the plan can be computed from that instead of from the inputs.

use std::collections::HashMap;

use arrow::datatypes::SchemaRef;
use tidemill_zset::CollectionId;

use super::arrangements::Places;
use super::{DataflowPlan, Node, Op};

/// A plan without its unchanged parts.
#[derive(Clone, Debug)]
pub struct Remainder {
    /// What must be computed anew; what was cut off has become inputs.
    pub plan: DataflowPlan,
    /// The cut-off parts.
    pub cuts: Vec<Cut>,
    /// Positions in the whole plan's arrangements of those of `plan`, in its order.
    pub fresh: Vec<usize>,
}

/// A part of a plan whose output is read from its state.
#[derive(Clone, Debug)]
pub struct Cut {
    /// The input of the remainder that stands for it.
    pub collection: CollectionId,
    /// Position of the arrangement that holds the output, in the whole plan's.
    pub index: usize,
    /// Its columns that make the output, in order.
    pub columns: Vec<usize>,
    /// The output.
    pub schema: SchemaRef,
}

impl DataflowPlan {
    /// Cuts off the largest aggregates whose arrangements all are `kept` (one flag per arrangement of the plan);
    /// `id` gives collections that nothing else uses.
    pub fn remainder(&self, kept: &[bool], id: impl FnMut() -> CollectionId) -> Remainder {
        let mut cutter = Cutter {
            kept,
            id,
            places: Places::of(&self.root, |_| ()),
            done: HashMap::new(),
            cuts: Vec::new(),
            fresh: Vec::new(),
        };
        let root = cutter.node(&self.root);
        Remainder {
            plan: DataflowPlan { root },
            cuts: cutter.cuts,
            fresh: cutter.fresh,
        }
    }
}

struct Cutter<'a, F> {
    kept: &'a [bool],
    id: F,
    places: Places,
    /// What has become of the subtrees that were met, by their class.
    done: HashMap<usize, Node>,
    cuts: Vec<Cut>,
    fresh: Vec<usize>,
}

impl<F: FnMut() -> CollectionId> Cutter<'_, F> {
    fn node(&mut self, node: &Node) -> Node {
        let class = self.places.class(node);
        if let Some(done) = self.done.get(&class) {
            return done.clone();
        }
        let done = match self.cut(node) {
            Some(leaf) => leaf,
            None => {
                let inputs = node.inputs.iter().map(|n| self.node(n)).collect();
                self.fresh.extend(self.places.own(node));
                Node {
                    inputs,
                    ..node.clone()
                }
            }
        };
        self.done.insert(class, done.clone());
        done
    }

    /// The leaf that stands for an aggregate whose state is kept.
    fn cut(&mut self, node: &Node) -> Option<Node> {
        let Op::Aggregate { keys, aggregates } = &node.op else {
            return None;
        };
        if !self.is_kept(node) {
            return None;
        }
        let columns: Vec<usize> = (0..keys.len() + aggregates.len()).collect();
        let cut = Cut {
            collection: (self.id)(),
            index: self.places.own(node).start,
            columns: columns.clone(),
            schema: node.schema.clone(),
        };
        let op = Op::Input {
            collection: cut.collection,
            columns,
        };
        self.cuts.push(cut);
        Some(Node {
            op,
            inputs: Vec::new(),
            schema: node.schema.clone(),
            append_only: node.append_only,
        })
    }

    /// The state of `node` and of all below it is.
    fn is_kept(&self, node: &Node) -> bool {
        self.kept[self.places.own(node)].iter().all(|k| *k)
            && node.inputs.iter().all(|input| self.is_kept(input))
    }
}
