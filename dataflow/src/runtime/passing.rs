//! Adapts operators through which rows only pass: they remember nothing from one piece of input to the next and have nothing to do at the
//! end of a step. They hold no capability but those of the rows that they haven't passed on, so that the end of a step goes past them
//! without a round of scheduling and, between workers, of messages.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use tidemill_zset::Delta;
use timely::container::NoopBuilder;
use timely::dataflow::Scope;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::progress::operate::FrontierInterest;

use super::adapter::{ALLOWANCE, Deltas, Journal, Step, Turn, connect};
use super::batch::Batch;
use crate::operator::{Exchange, Operator, Output};

/// Adds `operator`, of which [`Operator::only_passes`] says that rows only pass through it, to a dataflow; the result is its output.
pub fn passing<'scope>(
    scope: Scope<'scope, Step>,
    name: &str,
    inputs: Vec<(Deltas<'scope>, Exchange)>,
    mut operator: Box<dyn Operator>,
    journal: Rc<RefCell<Journal>>,
    (workers, partitions): (usize, u32),
) -> Deltas<'scope> {
    let mut builder = OperatorBuilder::new(name.to_string(), scope);
    let mut ports = connect(&mut builder, inputs, workers, partitions);
    for port in 0..ports.len() {
        builder.set_notify_for(port, FrontierInterest::Never);
    }
    let (output, stream) = builder.new_output::<Batch>();
    let mut output = OutputBuilder::<Step, NoopBuilder<Batch>>::from(output);
    let dataflow = journal.borrow().dataflow();
    let again = scope.activator_for(builder.operator_info().address);
    builder.build(move |capabilities| {
        drop(capabilities);
        let mut waiting: VecDeque<(Capability<Step>, usize, Delta)> = VecDeque::new();
        // Of the piece that the operator is at.
        let mut current = None;
        move |_| {
            let _turn = Turn::of(dataflow);
            for (port, input) in ports.iter_mut().enumerate() {
                input.for_each(|at, delta| {
                    let at = at.retain_least(0).expect("every message has a step");
                    waiting.push_back((at, port, delta));
                });
            }
            let mut output = output.activate();
            let mut out = Output::with_allowance(ALLOWANCE);
            loop {
                if operator.is_busy() {
                    operator.go_on(&mut out);
                } else if let Some((at, port, delta)) = waiting.pop_front() {
                    out.spend(delta.len());
                    operator.push(port, delta, &mut out);
                    current = Some(at);
                } else {
                    current = None;
                    return;
                }
                let at = current.as_ref().expect("it is at a piece");
                let rows = journal.borrow_mut().record(*at.time(), &mut out);
                let mut session = output.session_with_builder(at);
                for delta in rows {
                    session.give_container(&mut Batch(vec![delta]));
                }
                drop(session);
                if out.is_spent() && (operator.is_busy() || !waiting.is_empty()) {
                    return again.activate();
                }
            }
        }
    });
    stream
}
