//! Which arrangements a plan needs: a pure function of the plan, in an order that never changes,
//! so that ids given out at CREATE find their operators again at every start.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

use arrow::datatypes::SchemaRef;
use tidemill_storage::ArrangementKind;
use tidemill_zset::CollectionId;

use super::{Classes, DataflowPlan, Node, Op};
use crate::operators;

/// An arrangement that an operator needs: what to create in the store, and what its contents depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArrangementSpec {
    /// What its rows mean.
    pub kind: ArrangementKind,
    /// All columns, key columns first.
    pub schema: SchemaRef,
    /// How many leading columns form the key.
    pub key_columns: usize,
    /// Its role in the operator, e.g. `left`.
    pub name: String,
    /// Everything of the *operator* that decides the contents, as text; [`DataflowPlan::arrangements`] adds those of
    /// the plans below it. Stored contents are used only by a plan with the same fingerprint.
    pub fingerprint: String,
    /// Which input's plan decides the contents; `None`: all of them.
    pub input: Option<usize>,
}

/// Columns by collection.
pub type ColumnsRead = BTreeMap<CollectionId, BTreeSet<usize>>;

impl DataflowPlan {
    /// The arrangements of all operators, in post-order (inputs before the operator, first input first), of equal subtrees
    /// those of the first.
    pub fn arrangements(&self) -> Vec<ArrangementSpec> {
        let mut out = Vec::new();
        Places::of(&self.root, |node| out.extend(specs(node)));
        out
    }

    /// The collections that it reads, each once, in ascending order.
    pub fn inputs(&self) -> Vec<CollectionId> {
        self.columns_read().into_keys().collect()
    }

    /// True if an operator looks at all rows of a key again whenever one of them changes.
    pub fn recomputes(&self) -> bool {
        let mut found = false;
        Places::of(&self.root, |node| {
            found |= matches!(node.op, Op::Recompute { .. });
        });
        found
    }

    /// The columns that it reads of each collection.
    pub fn columns_read(&self) -> ColumnsRead {
        let mut out = BTreeMap::new();
        columns_read(&self.root, &mut out);
        out
    }
}

/// Where the arrangements of each operator are in those of the plan.
pub(super) struct Places {
    classes: Classes,
    own: HashMap<usize, Range<usize>>,
    /// How many there are.
    pub count: usize,
}

impl Places {
    /// Those of the plan with this root. `first` sees each operator with state once, in the order of the arrangements.
    pub fn of(root: &Node, mut first: impl FnMut(&Node)) -> Places {
        let mut places = Places {
            classes: Classes::of(root),
            own: HashMap::new(),
            count: 0,
        };
        places.add(root, &mut first);
        places
    }

    fn add(&mut self, node: &Node, first: &mut impl FnMut(&Node)) {
        let class = self.classes.class(node);
        if self.own.contains_key(&class) {
            return;
        }
        for input in &node.inputs {
            self.add(input, first);
        }
        let start = self.count;
        self.count += operators::arrangements(node).len();
        self.own.insert(class, start..self.count);
        if start < self.count {
            first(node);
        }
    }

    /// See [`Classes::class`].
    pub fn class(&self, node: &Node) -> usize {
        self.classes.class(node)
    }

    /// Those of `node` itself.
    pub fn own(&self, node: &Node) -> Range<usize> {
        self.own[&self.class(node)].clone()
    }
}

/// The arrangements of `node` itself, with fingerprints that say what is below it.
fn specs(node: &Node) -> Vec<ArrangementSpec> {
    let mut specs = operators::arrangements(node);
    for spec in &mut specs {
        let below: Vec<String> = match spec.input {
            Some(i) => vec![super::fingerprint(&node.inputs[i])],
            None => node.inputs.iter().map(super::fingerprint).collect(),
        };
        let own = format!("{}{}", spec.fingerprint, super::explain::salt(&node.op));
        spec.fingerprint = format!("{own} of {}", below.join(" and "));
    }
    specs
}

fn columns_read(node: &Node, out: &mut ColumnsRead) {
    if let Op::Input {
        collection,
        columns,
    } = &node.op
    {
        out.entry(*collection).or_default().extend(columns);
    }
    for input in &node.inputs {
        columns_read(input, out);
    }
}
