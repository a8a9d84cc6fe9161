//! The operators, one file each.

pub mod join_plan;
