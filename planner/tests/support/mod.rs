//! What the tests of the compiler share: tables with random contents, queries, and the plain meaning of a plan.

#![allow(dead_code)]

pub mod data;
pub mod front;
pub mod golden;
pub mod queries;
pub mod reference;
pub mod running;
