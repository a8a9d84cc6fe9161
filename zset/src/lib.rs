//! The vocabulary of Tidemill: epochs, deltas (Z-sets), key hashes and the row codec.
//!
//! Everything here is plain data and pure functions: no I/O, no threads, no clock.
//! Read in this order: [`ids`], [`delta`], [`hash`], [`order_code`], [`consolidate`], [`codec`], [`schema`].

pub mod buffers;
pub mod codec;
pub mod consolidate;
pub mod delta;
pub mod digits;
pub mod float_sum;
pub mod hash;
pub mod ids;
pub mod interval;
pub mod moments;
mod narrow;
pub mod order_code;
pub mod schema;
pub mod wide_sum;
pub mod zones;

pub use delta::{Delta, Diffs};
pub use float_sum::FloatSum;
pub use ids::{ArrangementId, CollectionId, Epoch};
pub use wide_sum::WideSum;
