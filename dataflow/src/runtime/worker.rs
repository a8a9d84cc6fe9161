//! The loop of one worker: takes commands, feeds dataflows, lets timely run, reports what is done.
//!
//! Everything that concerns the live scope, and everything that changes which dataflows there are,
//! is one queue, handled in order on every worker; it waits while a live epoch is under way. Each
//! hidden dataflow has a queue of its own, from which a few batches are taken per turn, so that a
//! backfill doesn't hold up live epochs.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};
use tidemill_zset::{CollectionId, Delta, Epoch};
use timely::worker::Worker as Timely;

use super::adapter::StepResult;
use super::graph::Graph;
use super::rounds::Rounds;
use super::{Command, DataflowId, DataflowResult, Event, Install, Order, RuntimeOptions, Scope};

/// Batches of a hidden dataflow that are fed between two looks at the commands.
const HIDDEN_BATCHES_PER_TURN: usize = 4;

/// The state of one worker.
pub struct Worker<'a> {
    timely: &'a mut Timely,
    options: RuntimeOptions,
    orders: Receiver<Order>,
    events: Sender<Event>,
    dataflows: BTreeMap<DataflowId, Running>,
    rounds: Rounds,
    live: VecDeque<Order>,
    hidden: BTreeMap<DataflowId, VecDeque<HiddenCommand>>,
    /// The hidden dataflow that had the last turn.
    last_turn: DataflowId,
    stepping: Option<LiveStep>,
    ended: bool,
}

struct Running {
    install: Arc<Install>,
    graph: Graph,
    live: bool,
    /// Somebody outside wants the rows.
    demand: bool,
    /// The hidden epoch under way.
    stepping: Option<Epoch>,
}

enum HiddenCommand {
    Feed(CollectionId, Delta),
    Finish(Epoch),
}

/// A live epoch under way.
struct LiveStep {
    epoch: Epoch,
    /// Dataflows whose input isn't complete: they read a view that isn't.
    waiting: Vec<DataflowId>,
    /// Dataflows that are at work.
    working: Vec<DataflowId>,
    results: Vec<DataflowResult>,
}

impl<'a> Worker<'a> {
    pub fn new(
        timely: &'a mut Timely,
        options: RuntimeOptions,
        orders: Receiver<Order>,
        events: Sender<Event>,
    ) -> Self {
        Worker {
            timely,
            options,
            orders,
            events,
            dataflows: BTreeMap::new(),
            rounds: Rounds::default(),
            live: VecDeque::new(),
            hidden: BTreeMap::new(),
            last_turn: DataflowId(0),
            stepping: None,
            ended: false,
        }
    }

    /// Runs until `Shutdown`.
    pub fn run(&mut self) {
        while !self.ended {
            self.take_orders();
            self.run_live();
            let more = self.run_hidden();
            if self.ended {
                break;
            }
            if more {
                self.timely.step();
            } else {
                // Parks while nothing is to be done; a new command or another worker's message wakes it.
                self.timely.step_or_park(None);
            }
        }
        for (_, running) in std::mem::take(&mut self.dataflows) {
            self.timely.drop_dataflow(running.graph.index);
        }
    }

    fn take_orders(&mut self) {
        loop {
            match self.orders.try_recv() {
                Ok(Order::Command(Command::Feed {
                    scope: Scope::Hidden(id),
                    collection,
                    delta,
                })) => self.hide(id, HiddenCommand::Feed(collection, delta)),
                Ok(Order::Command(Command::Finish {
                    scope: Scope::Hidden(id),
                    epoch,
                })) => self.hide(id, HiddenCommand::Finish(epoch)),
                Ok(Order::Command(Command::Shutdown))
                | Err(crossbeam_channel::TryRecvError::Disconnected) => {
                    self.ended = true;
                    return;
                }
                Ok(order) => self.live.push_back(order),
                Err(crossbeam_channel::TryRecvError::Empty) => return,
            }
        }
    }

    /// Queues a command of a hidden dataflow. One that was dropped meanwhile needs it no more.
    fn hide(&mut self, id: DataflowId, command: HiddenCommand) {
        let coming = |o: &Order| matches!(o, Order::Command(Command::Install(i)) if i.id == id);
        if self.dataflows.contains_key(&id) || self.live.iter().any(coming) {
            self.hidden.entry(id).or_default().push_back(command);
        }
    }

    /// Goes on with the live epoch under way, then with the live queue as far as it gets.
    fn run_live(&mut self) {
        loop {
            self.advance_live();
            if self.stepping.is_some() {
                return;
            }
            match self.live.front() {
                None => return,
                Some(Order::Command(Command::Join(id))) if !self.can_join(*id) => return,
                Some(_) => {}
            }
            match self.live.pop_front().expect("looked at above") {
                Order::Command(command) => self.handle(command),
                Order::FinishLive(epoch, fed) => self.begin_step(epoch, &fed),
            }
        }
    }

    fn handle(&mut self, command: Command) {
        match command {
            Command::Install(install) => self.install(install),
            Command::Drop(id) => {
                self.hidden.remove(&id);
                self.rounds.leave(id);
                if let Some(running) = self.dataflows.remove(&id) {
                    self.timely.drop_dataflow(running.graph.index);
                }
                self.spread_demand();
            }
            Command::Feed {
                collection, delta, ..
            } => self.feed_readers(collection, &delta),
            Command::Join(id) => {
                self.hidden.remove(&id);
                if let Some(running) = self.dataflows.get_mut(&id) {
                    running.live = true;
                    self.rounds.join(
                        id,
                        running.install.plan.inputs(),
                        running.install.collection,
                    );
                }
                self.spread_demand();
            }
            Command::Demand(id, demand) => {
                if let Some(running) = self.dataflows.get_mut(&id) {
                    running.demand = demand;
                }
                self.spread_demand();
            }
            Command::Finish { .. } | Command::Shutdown => {
                unreachable!("it is taken out of the queue, or was never in it")
            }
        }
    }

    /// Begins the step of those live dataflows that take part in `epoch`.
    fn begin_step(&mut self, epoch: Epoch, fed: &[CollectionId]) {
        self.stepping = Some(LiveStep {
            epoch,
            waiting: self.rounds.next(fed).into_iter().collect(),
            working: Vec::new(),
            results: Vec::new(),
        });
    }

    fn feed_readers(&mut self, collection: CollectionId, delta: &Delta) {
        for id in self.rounds.readers(collection) {
            let reader = self.dataflows.get_mut(id).expect("it is live");
            reader.graph.feed(collection, delta);
        }
    }

    fn install(&mut self, install: Arc<Install>) {
        // An equal share for everybody that is there. Those that came earlier keep theirs, so that n
        // arrangements together may take ln(n) times the limit: their sizes differ by more than that.
        let there = self.dataflows.values().map(|r| r.install.states.len());
        let share = (there.sum::<usize>() + install.states.len()).max(1);
        let bytes_max = self.options.state_bytes_max / share;
        let graph = Graph::build(self.timely, &install, &self.options, bytes_max);
        let running = Running {
            graph,
            live: install.scope == Scope::Live,
            demand: install.demand,
            stepping: None,
            install: install.clone(),
        };
        if running.live {
            let inputs = install.plan.inputs();
            self.rounds.join(install.id, inputs, install.collection);
        }
        self.dataflows.insert(install.id, running);
        self.spread_demand();
    }

    /// Rows of a dataflow are wanted if somebody outside wants them, or a live dataflow reads them.
    fn spread_demand(&mut self) {
        for r in self.dataflows.values() {
            let read = |c| !self.rounds.readers(c).is_empty();
            let inside = r.live && r.install.collection.is_some_and(read);
            r.graph.demand.set(r.demand || inside);
        }
    }

    /// A dataflow joins when everything it was told in its hidden scope is done.
    fn can_join(&self, id: DataflowId) -> bool {
        let idle = self.hidden.get(&id).is_none_or(VecDeque::is_empty);
        idle && self.dataflows.get(&id).is_none_or(|r| r.stepping.is_none())
    }

    /// Moves the live epoch on: starts dataflows whose inputs are complete, collects those that are
    /// done, feeds their output to their readers, and reports when all are done.
    fn advance_live(&mut self) {
        let Some(mut step) = self.stepping.take() else {
            return;
        };
        loop {
            let before = (step.waiting.len(), step.working.len());
            self.start_ready(&mut step);
            self.collect_done(&mut step);
            if before == (step.waiting.len(), step.working.len()) {
                break;
            }
        }
        if step.waiting.is_empty() && step.working.is_empty() {
            self.report(Event::Done {
                worker: self.timely.index(),
                scope: Scope::Live,
                epoch: step.epoch,
                results: step.results,
            });
        } else {
            assert!(
                !step.working.is_empty(),
                "views read each other in a circle"
            );
            self.stepping = Some(step);
        }
    }

    fn start_ready(&mut self, step: &mut LiveStep) {
        let unfinished: Vec<CollectionId> = step
            .waiting
            .iter()
            .chain(&step.working)
            .filter_map(|id| self.dataflows[id].install.collection)
            .collect();
        let (dataflows, working) = (&mut self.dataflows, &mut step.working);
        let rounds = &self.rounds;
        step.waiting.retain(|id| {
            let mut inputs = rounds.inputs(*id).iter();
            let waits = inputs.any(|c| unfinished.contains(c));
            if !waits {
                let running = dataflows
                    .get_mut(id)
                    .expect("live dataflows stay in an epoch");
                running.graph.finish(step.epoch);
                working.push(*id);
            }
            waits
        });
    }

    fn collect_done(&mut self, step: &mut LiveStep) {
        let mut done = Vec::new();
        step.working.retain(|id| {
            let complete = self.dataflows[id].graph.is_complete();
            if complete {
                done.push(*id);
            }
            !complete
        });
        for id in done {
            let running = self
                .dataflows
                .get_mut(&id)
                .expect("live dataflows stay in an epoch");
            let mut result = running.graph.collect();
            let collection = running.install.collection;
            if let Some(collection) = collection {
                for delta in &result.rows {
                    self.feed_readers(collection, delta);
                }
            }
            if !self.dataflows[&id].demand {
                result.rows.clear();
            }
            step.results.extend(report_of(id, result));
        }
    }

    /// Gives one hidden dataflow a turn. True if there is more to feed.
    fn run_hidden(&mut self) -> bool {
        let ids: Vec<DataflowId> = self.hidden.keys().copied().collect();
        for id in &ids {
            self.collect_hidden(*id);
        }
        let ready = |id: &&DataflowId| {
            let waits = self.hidden[*id].is_empty();
            let running = self.dataflows.get(*id);
            !waits && running.is_some_and(|r| r.stepping.is_none())
        };
        let next = ids.iter().filter(|id| **id > self.last_turn).find(ready);
        let Some(id) = next.or_else(|| ids.iter().find(ready)).copied() else {
            return false;
        };
        self.last_turn = id;
        let queue = self.hidden.get_mut(&id).expect("it is ready");
        let running = self.dataflows.get_mut(&id).expect("it is ready");
        for _ in 0..HIDDEN_BATCHES_PER_TURN {
            match queue.pop_front() {
                None => break,
                Some(HiddenCommand::Feed(collection, delta)) => {
                    running.graph.feed(collection, &delta)
                }
                Some(HiddenCommand::Finish(epoch)) => {
                    running.graph.finish(epoch);
                    running.stepping = Some(epoch);
                    break;
                }
            }
        }
        true
    }

    /// Reports the hidden epoch under way if it is complete.
    fn collect_hidden(&mut self, id: DataflowId) {
        let Some(running) = self.dataflows.get_mut(&id) else {
            return;
        };
        let Some(epoch) = running.stepping.filter(|_| running.graph.is_complete()) else {
            return;
        };
        running.stepping = None;
        let result = running.graph.collect();
        self.report(Event::Done {
            worker: self.timely.index(),
            scope: Scope::Hidden(id),
            epoch,
            results: report_of(id, result).into_iter().collect(),
        });
    }

    fn report(&self, event: Event) {
        // If nobody listens any more, the process is ending.
        let _ = self.events.send(event);
    }
}

fn report_of(dataflow: DataflowId, result: StepResult) -> Option<DataflowResult> {
    let StepResult {
        rows,
        errors,
        changes,
    } = result;
    let any = !rows.is_empty() || !errors.is_empty() || !changes.is_empty();
    any.then_some(DataflowResult {
        dataflow,
        rows,
        errors,
        changes,
    })
}
