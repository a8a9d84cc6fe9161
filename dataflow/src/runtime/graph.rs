//! Builds a timely dataflow from a plan: one timely operator per node, one input handle per leaf; equal subtrees
//! are built once.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use arrow::datatypes::SchemaRef;
use tidemill_zset::{CollectionId, Delta, Epoch};
use timely::container::NoopBuilder;
use timely::dataflow::operators::Input;
use timely::dataflow::{InputHandle, Scope};
use timely::worker::Worker;

use super::adapter::{self, Deltas, Journal, Step, StepResult};
use super::batch::Batch;
use super::passing::passing;
use super::{Install, RuntimeOptions};
use crate::operator::{BuildContext, Exchange, Operator};
use crate::operators;
use crate::operators::combine::Combine;
use crate::operators::input::project;
use crate::operators::map::never_fails;
use crate::operators::output::{Last, OutputRows};
use crate::plan::{Classes, Node, Op, OutputStorage};
use crate::state::StateHandle;

/// A dataflow on one worker.
pub struct Graph {
    leaves: Vec<Leaf>,
    journal: Rc<RefCell<Journal>>,
    /// The open step.
    step: Step,
    /// Timely's number for it.
    pub index: usize,
    /// Whether the output rows are wanted, by anybody.
    pub demand: Rc<Cell<bool>>,
}

struct Leaf {
    rows: Rows,
    handle: InputHandle<Step, NoopBuilder<Batch>>,
}

/// Where a leaf's rows come from.
enum Rows {
    Collection(CollectionId, Vec<usize>, SchemaRef),
    /// Rows to insert in the first step.
    Constant(Option<Delta>),
}

impl Graph {
    /// Builds the dataflow that `install` describes, of which each arrangement may take `state_bytes_max` of memory. Every
    /// worker must build the same dataflows in the same order.
    pub fn build(
        worker: &mut Worker,
        install: &Install,
        options: &RuntimeOptions,
        state_bytes_max: usize,
    ) -> Graph {
        let index = worker.next_dataflow_index();
        let demand = Rc::new(Cell::new(install.demand));
        let journal = Rc::new(RefCell::new(Journal::new(install.id)));
        let context = BuildContext {
            worker: worker.index(),
            workers: worker.peers(),
            partitions: options.partitions,
            fresh: install.fresh,
            state_bytes_max,
            error_mapper: options.error_mapper,
            demand: Rc::new(Cell::new(true)),
        };
        let name = format!("dataflow {}", install.id.0);
        let leaves = worker.dataflow_named(&name, |scope| {
            let mut builder = Builder {
                scope,
                states: install.states.iter().cloned(),
                context,
                journal: journal.clone(),
                leaves: Vec::new(),
                classes: Classes::of(&install.plan.root),
                built: HashMap::new(),
            };
            let storage = install.plan.output_storage();
            let skippable = skippable(&storage, &demand);
            let arrangement = install.output_state.as_ref().map(|s| s.desc.id);
            let output = OutputRows::new(
                install.plan.root.schema.clone(),
                arrangement,
                demand.clone(),
                storage.is_apart(),
            );
            builder.root(&install.plan.root, skippable, output);
            assert!(
                builder.states.next().is_none(),
                "one state per arrangement of the plan"
            );
            builder.leaves
        });
        Graph {
            leaves,
            journal,
            step: 0,
            index,
            demand,
        }
    }

    /// Gives the open step a piece of a collection's delta.
    pub fn feed(&mut self, collection: CollectionId, delta: &Delta) {
        for leaf in &mut self.leaves {
            if let Rows::Collection(c, columns, schema) = &leaf.rows
                && *c == collection
            {
                let delta = project(delta, columns, schema);
                leaf.handle.send_batch(&mut Batch(vec![delta]));
            }
        }
    }

    /// Ends the open step, which is that of `epoch`, on this worker.
    pub fn finish(&mut self, epoch: Epoch) {
        for leaf in &mut self.leaves {
            if let Rows::Constant(rows) = &mut leaf.rows
                && let Some(rows) = rows.take()
            {
                leaf.handle.send_batch(&mut Batch(vec![rows]));
            }
        }
        self.journal.borrow_mut().end_step(epoch);
        self.step += 1;
        for leaf in &mut self.leaves {
            leaf.handle.advance_to(self.step);
        }
    }

    /// True if all ended steps are complete on this worker.
    pub fn is_complete(&self) -> bool {
        self.journal.borrow().complete == self.step
    }

    /// The result of the step that ended last. Once per step, when it is complete.
    pub fn collect(&mut self) -> StepResult {
        self.journal.borrow_mut().collect()
    }
}

/// The cell by which the operator at the root learns that its rows aren't wanted, if it may skip them:
/// what follows it must not have effects of its own.
fn skippable(storage: &OutputStorage, demand: &Rc<Cell<bool>>) -> Option<Rc<Cell<bool>>> {
    let OutputStorage::Arrangement { maps, .. } = storage else {
        return None;
    };
    let quiet = maps.iter().all(|op| match op {
        Op::Map {
            predicate,
            projection,
        } => predicate
            .iter()
            .chain(projection.iter().flatten())
            .all(never_fails),
        _ => false,
    });
    quiet.then(|| demand.clone())
}

/// True if the rows of the input of `node` are little more than its key, so that they may repeat often:
/// one column, or none but for the number of rows.
fn combines(node: &Node, exchange: &Exchange) -> bool {
    let narrow = node.inputs[0].schema.fields().len() <= 1;
    matches!(node.op, Op::Aggregate { .. }) && *exchange != Exchange::Local && narrow
}

struct Builder<'scope, S> {
    scope: Scope<'scope, Step>,
    states: S,
    context: BuildContext,
    journal: Rc<RefCell<Journal>>,
    leaves: Vec<Leaf>,
    classes: Classes,
    /// The outputs of the subtrees that stand already, by their class.
    built: HashMap<usize, Deltas<'scope>>,
}

impl<'scope, S: Iterator<Item = StateHandle>> Builder<'scope, S> {
    /// Builds `node` and what is below it; `demand` reaches through maps to the operator it is about.
    fn node(&mut self, node: &Node, demand: Option<Rc<Cell<bool>>>) -> Deltas<'scope> {
        let class = self.classes.class(node);
        if let Some(rows) = self.built.get(&class) {
            return rows.clone();
        }
        let rows = self.build(node, demand);
        self.built.insert(class, rows.clone());
        rows
    }

    /// Builds the dataflow's root and what is below it, and ends it with `output`.
    fn root(&mut self, root: &Node, demand: Option<Rc<Cell<bool>>>, output: OutputRows) {
        let (inputs, operator): (_, Box<dyn Operator>) = match self.leaf_of(root) {
            Some(rows) => (vec![(rows, Exchange::Local)], Box::new(output)),
            None => {
                let (inputs, operator) = self.operator(root, demand);
                (inputs, Box::new(Last::new(operator, output)))
            }
        };
        let (journal, place) = (self.journal.clone(), self.place());
        adapter::output(self.scope, inputs, operator, journal, place);
    }

    fn build(&mut self, node: &Node, demand: Option<Rc<Cell<bool>>>) -> Deltas<'scope> {
        if let Some(rows) = self.leaf_of(node) {
            return rows;
        }
        let (inputs, operator) = self.operator(node, demand);
        let add = match operator.only_passes() {
            true => passing,
            false => adapter::operator,
        };
        let (journal, place) = (self.journal.clone(), self.place());
        add(self.scope, node.op.name(), inputs, operator, journal, place)
    }

    fn place(&self) -> (usize, u32) {
        (self.context.workers, self.context.partitions)
    }

    fn leaf_of(&mut self, node: &Node) -> Option<Deltas<'scope>> {
        let rows = match &node.op {
            Op::Input {
                collection,
                columns,
            } => Rows::Collection(*collection, columns.clone(), node.schema.clone()),
            Op::Constant { rows } => {
                let first = self.context.fresh && self.context.worker == 0 && rows.num_rows() > 0;
                let rows =
                    operators::map::conform(&node.schema, rows.columns().to_vec(), rows.num_rows());
                Rows::Constant(first.then(|| Delta::insert(rows)))
            }
            _ => return None,
        };
        Some(self.leaf(rows))
    }

    /// The operator of a node that isn't a leaf, and its inputs.
    fn operator(
        &mut self,
        node: &Node,
        demand: Option<Rc<Cell<bool>>>,
    ) -> (Vec<(Deltas<'scope>, Exchange)>, Box<dyn Operator>) {
        let is_map = matches!(node.op, Op::Map { .. });
        let mut inputs = Vec::new();
        for (port, input) in node.inputs.iter().enumerate() {
            let below = demand.clone().filter(|_| is_map);
            let mut rows = self.node(input, below);
            let exchange = operators::exchange(node, port);
            if self.context.workers > 1 && combines(node, &exchange) {
                rows = self.combine(rows, &input.schema);
            }
            inputs.push((rows, exchange));
        }
        let count = operators::arrangements(node).len();
        let states: Vec<StateHandle> = self.states.by_ref().take(count).collect();
        assert_eq!(states.len(), count, "one state per arrangement of the plan");
        let mut context = self.context.clone();
        if let Some(demand) = demand.filter(|_| !is_map) {
            context.demand = demand;
        }
        let operator = operators::build(node, states, &context);
        (inputs, operator.expect("leaves are handled apart"))
    }

    /// Adds up equal rows before they are sent to other workers.
    fn combine(&mut self, rows: Deltas<'scope>, schema: &SchemaRef) -> Deltas<'scope> {
        adapter::operator(
            self.scope,
            "Combine",
            vec![(rows, Exchange::Local)],
            Box::new(Combine::new(schema.clone())),
            self.journal.clone(),
            self.place(),
        )
    }

    fn leaf(&mut self, rows: Rows) -> Deltas<'scope> {
        let (handle, stream) = self.scope.new_input_with_builder::<NoopBuilder<Batch>>();
        self.leaves.push(Leaf { rows, handle });
        stream
    }
}
