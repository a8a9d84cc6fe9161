//! SQL: parsing, the PostgreSQL dialect on DataFusion, snapshot SELECTs, and compilation of
//! logical plans to incremental dataflows. No I/O of its own.
//!
//! * [`error`]: [`SqlError`], the error every user sees.
//! * [`catalog`]: what the planner asks of the catalog.
//! * [`ast`]: statements of the dialect and their parser.
//! * [`query`]: binding and executing queries.
//! * [`direct`]: queries that an index answers, without DataFusion's planner.
//! * [`functions`]: scalar functions, casts and aggregates with PostgreSQL's meaning.
//! * [`compile`]: from a bound query to a dataflow that maintains it.
//! * `execute`: snapshot SELECTs on DataFusion: `join_order`, in which order they join, `equal_parts`, what of them is computed once, `recent`, what a
//!   round of a recursive query reads, and `physical`, its physical optimiser with repairs.
//! * [`interrupt`]: planning that can be stopped.
//! * [`program`]: batch plans for the dataflow's general operator.

mod access;
pub mod ast;
mod bind;
pub mod catalog;
pub mod compile;
mod counted;
pub mod definition;
pub mod direct;
mod divided;
mod equal_parts;
pub mod error;
mod execute;
mod few_buffers;
pub mod functions;
mod given;
pub mod interrupt;
mod join_order;
pub mod names;
mod once;
mod or_joins;
pub mod origins;
mod parser;
mod part;
mod physical;
mod pieces;
pub mod program;
pub mod query;
mod recent;
mod scan;
mod tree;
mod walk;

pub use error::SqlError;
