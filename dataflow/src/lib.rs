//! Incremental computation: plans as data, operators as pure state machines, and the timely
//! runtime that moves deltas between them.
//!
//! * [`plan`]: what a dataflow computes. Made by the planner, printed by EXPLAIN.
//! * [`operator`]: the trait every operator implements; [`operators`]: one file each.
//! * [`keys`]: the in-memory index from keys to dense numbers that operators build their state on.
//! * [`ranges`]: rows that a join's comparisons of both sides allow, by binary search.
//! * [`state`]: how operators read the committed part of their arrangements.
//! * `aside`: computations that may take long, on threads beside the workers.
//! * [`runtime`]: workers. The only place that names timely.

mod aside;
pub mod keys;
pub mod operator;
pub mod operators;
pub mod plan;
pub mod ranges;
pub mod runtime;
pub mod state;
