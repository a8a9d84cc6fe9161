//! Adapts an [`Operator`] to timely: orders its input by step, calls `finish` when a step's input is
//! complete on all workers, and sends what it makes.
//!
//! An operator works for [`ALLOWANCE`] at a time. With more to do it keeps its capability and asks to be scheduled again,
//! so that what it made goes on, other dataflows have their turns, and the worker hears its commands.
//!
//! Timely's times are **steps**: the n-th `Finish` of a dataflow ends step n. Every worker sees the same
//! commands, so a step means the same epoch everywhere; [`Journal`] knows which.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use tidemill_storage::ArrangementChange;
use tidemill_zset::{Delta, Epoch};
use timely::communication::Pull;
use timely::container::NoopBuilder;
use timely::dataflow::channels::Message;
use timely::dataflow::channels::pact::{DistributorPact, Pipeline};
use timely::dataflow::operators::InputCapability;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::generic::{InputHandleCore, OutputBuilder};
use timely::dataflow::{Scope, Stream};
use timely::progress::frontier::MutableAntichain;

use super::DataflowId;
use super::batch::{Batch, Split};
use crate::operator::{Exchange, Operator, Output};

/// Rows taken or pairs looked at in one turn: some milliseconds.
pub(super) const ALLOWANCE: usize = 1 << 16;

/// A dataflow's step, counted from 0.
pub type Step = u64;

/// A stream of deltas.
pub type Deltas<'scope> = Stream<'scope, Step, Batch>;

/// What a dataflow's operators on one worker share with the worker loop.
pub struct Journal {
    dataflow: DataflowId,
    /// Epochs of the steps that were ended but aren't collected yet, from `first` on.
    epochs: VecDeque<Epoch>,
    first: Step,
    /// First step that isn't complete at the dataflow's output on this worker.
    pub complete: Step,
    results: BTreeMap<Step, StepResult>,
}

/// What the operators gave in one step.
#[derive(Default)]
pub struct StepResult {
    /// The dataflow's output.
    pub rows: Vec<Delta>,
    /// Changes of its error collection.
    pub errors: Vec<Delta>,
    /// Changes of its arrangements.
    pub changes: Vec<ArrangementChange>,
}

impl Journal {
    /// That of a dataflow that begins.
    pub fn new(dataflow: DataflowId) -> Self {
        Journal {
            dataflow,
            epochs: VecDeque::new(),
            first: 0,
            complete: 0,
            results: BTreeMap::new(),
        }
    }

    /// The next step ends, and is that of `epoch`.
    pub fn end_step(&mut self, epoch: Epoch) {
        self.epochs.push_back(epoch);
    }

    /// The result of the oldest step, which must be complete.
    pub fn collect(&mut self) -> StepResult {
        assert!(self.complete > self.first, "the step isn't complete");
        self.epochs.pop_front();
        self.first += 1;
        self.results.remove(&(self.first - 1)).unwrap_or_default()
    }

    /// Whose it is.
    pub fn dataflow(&self) -> DataflowId {
        self.dataflow
    }

    /// Puts errors and changes of `step` aside and returns the rows.
    pub fn record(&mut self, step: Step, out: &mut Output) -> Vec<Delta> {
        if !out.errors.is_empty() || !out.changes.is_empty() {
            let result = self.results.entry(step).or_default();
            result.errors.append(&mut out.errors);
            result.changes.append(&mut out.changes);
        }
        std::mem::take(&mut out.rows)
    }

    fn epoch(&self, step: Step) -> Option<Epoch> {
        self.epochs.get((step - self.first) as usize).copied()
    }
}

thread_local! {
    static AT_WORK: Cell<Option<DataflowId>> = const { Cell::new(None) };
}

/// The dataflow whose operator is at work on this thread, or whose operator's panic ended that work.
pub fn at_work() -> Option<DataflowId> {
    AT_WORK.get()
}

/// An operator's turn. A panic leaves behind whose it was.
pub(super) struct Turn;

impl Turn {
    pub(super) fn of(dataflow: DataflowId) -> Self {
        AT_WORK.set(Some(dataflow));
        Turn
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            AT_WORK.set(None);
        }
    }
}

/// An operator's inputs as timely gives them: one way of moving rows or another.
pub(super) enum Port {
    Local(InputHandleCore<Step, Batch, LocalPuller>),
    Exchanged(InputHandleCore<Step, Batch, ExchangePuller>),
}

type LocalPuller =
    <Pipeline as timely::dataflow::channels::pact::ParallelizationContract<Step, Batch>>::Puller;
type ExchangePuller =
    timely::dataflow::channels::pact::LogPuller<Box<dyn Pull<Message<Step, Batch>>>>;

impl Port {
    /// Takes what has come.
    pub(super) fn for_each(&mut self, mut f: impl FnMut(&InputCapability<Step>, Delta)) {
        let mut each = |at: InputCapability<Step>, batch: &mut Batch| {
            for delta in std::mem::take(&mut batch.0) {
                f(&at, delta);
            }
        };
        match self {
            Port::Local(input) => input.for_each(&mut each),
            Port::Exchanged(input) => input.for_each(&mut each),
        }
    }
}

fn step_of(at: &InputCapability<Step>) -> Step {
    *at.least().expect("every message is sent at one step")
}

/// An operator and where it stands.
struct Driver {
    operator: Box<dyn Operator>,
    journal: Rc<RefCell<Journal>>,
    /// The step that is open.
    step: Step,
    /// Input of the open step that the operator hasn't been given yet.
    input: VecDeque<(usize, Delta)>,
    /// Input of later steps: another worker may be one ahead.
    early: Vec<(Step, usize, Delta)>,
    /// The operator has been told that the open step ends.
    finishing: bool,
}

/// How far a driver has come.
enum Progress {
    /// The allowance is spent, and there is more to do.
    Busy,
    /// The open step is complete.
    Ended,
    /// More input must come first.
    Waits,
}

impl Driver {
    fn new(operator: Box<dyn Operator>, journal: Rc<RefCell<Journal>>) -> Self {
        Driver {
            operator,
            journal,
            step: 0,
            input: VecDeque::new(),
            early: Vec::new(),
            finishing: false,
        }
    }

    fn receive(&mut self, port: usize, step: Step, delta: Delta) {
        if step == self.step {
            self.input.push_back((port, delta));
        } else {
            assert!(step > self.step, "input for a step that is complete");
            self.early.push((step, port, delta));
        }
    }

    /// Works on the open step, given the first step of which input may still come.
    fn advance(&mut self, frontier: Option<Step>, out: &mut Output) -> Progress {
        loop {
            if self.operator.is_busy() {
                self.operator.go_on(out);
                if self.operator.is_busy() {
                    return Progress::Busy;
                }
            }
            if std::mem::take(&mut self.finishing) {
                return Progress::Ended;
            }
            if out.is_spent() && !self.input.is_empty() {
                return Progress::Busy;
            }
            if let Some((port, delta)) = self.input.pop_front() {
                out.spend(delta.len());
                self.operator.push(port, delta, out);
                continue;
            }
            let Some(epoch) = self.finishes(frontier) else {
                return Progress::Waits;
            };
            self.operator.finish(epoch, out);
            self.finishing = true;
        }
    }

    /// True if the open step's input is complete.
    fn finishes(&self, frontier: Option<Step>) -> Option<Epoch> {
        let epoch = self.journal.borrow().epoch(self.step)?;
        frontier.is_none_or(|f| f > self.step).then_some(epoch)
    }

    /// Opens the next step and takes in what came early for it.
    fn next(&mut self) {
        self.step += 1;
        for (step, port, delta) in std::mem::take(&mut self.early) {
            self.receive(port, step, delta);
        }
    }

    /// Puts errors and changes of the open step aside and returns the rows.
    fn record(&self, out: &mut Output) -> Vec<Delta> {
        self.journal.borrow_mut().record(self.step, out)
    }

    /// The dataflow's step is complete on this worker, and gave `rows`.
    fn end(&mut self, rows: Vec<Delta>) {
        let mut journal = self.journal.borrow_mut();
        if !rows.is_empty() {
            journal.results.entry(self.step).or_default().rows = rows;
        }
        journal.complete = self.step + 1;
        drop(journal);
        self.next();
    }
}

pub(super) fn connect<'scope>(
    builder: &mut OperatorBuilder<'scope, Step>,
    inputs: Vec<(Deltas<'scope>, Exchange)>,
    workers: usize,
    partitions: u32,
) -> Vec<Port> {
    let mut ports = Vec::new();
    for (stream, exchange) in inputs {
        ports.push(if workers == 1 || exchange == Exchange::Local {
            Port::Local(builder.new_input(stream, Pipeline))
        } else {
            let split = DistributorPact(move |_| Split::new(exchange, partitions));
            Port::Exchanged(builder.new_input(stream, split))
        });
    }
    ports
}

/// The first step that may still come on any input.
fn least(frontiers: &[MutableAntichain<Step>]) -> Option<Step> {
    frontiers
        .iter()
        .filter_map(|f| f.frontier().iter().next().copied())
        .min()
}

/// Adds `operator` to a dataflow; the result is its output.
pub fn operator<'scope>(
    scope: Scope<'scope, Step>,
    name: &str,
    inputs: Vec<(Deltas<'scope>, Exchange)>,
    operator: Box<dyn Operator>,
    journal: Rc<RefCell<Journal>>,
    (workers, partitions): (usize, u32),
) -> Deltas<'scope> {
    let mut builder = OperatorBuilder::new(name.to_string(), scope);
    let mut ports = connect(&mut builder, inputs, workers, partitions);
    let (output, stream) = builder.new_output::<Batch>();
    let mut output = OutputBuilder::<Step, NoopBuilder<Batch>>::from(output);
    let dataflow = journal.borrow().dataflow();
    let mut driver = Driver::new(operator, journal);
    let again = scope.activator_for(builder.operator_info().address);
    builder.build(move |mut capabilities| {
        let mut capability = capabilities.pop();
        move |frontiers| {
            let _turn = Turn::of(dataflow);
            for (port, input) in ports.iter_mut().enumerate() {
                input.for_each(|at, delta| driver.receive(port, step_of(at), delta));
            }
            let Some(at) = &mut capability else { return };
            let frontier = least(frontiers);
            let mut session = output.activate();
            let mut out = Output::with_allowance(ALLOWANCE);
            loop {
                let progress = driver.advance(frontier, &mut out);
                let mut session = session.session_with_builder(&*at);
                for delta in driver.record(&mut out) {
                    session.give_container(&mut Batch(vec![delta]));
                }
                drop(session);
                match progress {
                    Progress::Busy => return again.activate(),
                    Progress::Waits => break,
                    Progress::Ended => {
                        driver.next();
                        at.downgrade(&driver.step);
                    }
                }
            }
            if frontier.is_none() {
                capability = None;
            }
        }
    });
    stream
}

/// Ends a dataflow: what `operator`, which gives rows at the end of a step only, makes of the inputs is its output, for the journal.
pub fn output<'scope>(
    scope: Scope<'scope, Step>,
    inputs: Vec<(Deltas<'scope>, Exchange)>,
    operator: Box<dyn Operator>,
    journal: Rc<RefCell<Journal>>,
    (workers, partitions): (usize, u32),
) {
    let mut builder = OperatorBuilder::new("Output".to_string(), scope);
    let mut ports = connect(&mut builder, inputs, workers, partitions);
    let dataflow = journal.borrow().dataflow();
    let mut driver = Driver::new(operator, journal);
    let again = scope.activator_for(builder.operator_info().address);
    builder.build(move |_| {
        move |frontiers| {
            let _turn = Turn::of(dataflow);
            for (port, input) in ports.iter_mut().enumerate() {
                input.for_each(|at, delta| driver.receive(port, step_of(at), delta));
            }
            let frontier = least(frontiers);
            let mut out = Output::with_allowance(ALLOWANCE);
            loop {
                let progress = driver.advance(frontier, &mut out);
                let rows = driver.record(&mut out);
                match progress {
                    Progress::Ended => driver.end(rows),
                    _ => assert!(rows.is_empty(), "the last operator gives rows at the end"),
                }
                match progress {
                    Progress::Busy => return again.activate(),
                    Progress::Waits => return,
                    Progress::Ended => {}
                }
            }
        }
    });
}
