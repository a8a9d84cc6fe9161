//! Durable state: arrangements as runs, committed epoch by epoch in one sled transaction.
//!
//! The caller (the coordinator in `server`) owns time. It calls [`Store::commit`] with everything
//! that one epoch changed, in epoch order; when `commit` returns, the epoch is durable and the
//! returned [`StoreVersion`] may be published. Readers hold a `StoreVersion` (an immutable list of
//! runs per arrangement) for as long as they like; files are deleted only when nobody names them.
//!
//! See `docs/storage-format.md` for keys, files, the commit protocol and recovery.

pub mod api;
mod background;
mod batches;
mod block;
mod bundle;
mod changes;
mod copy;
mod disk;
mod due;
mod fail;
mod ledger;
mod log;
mod manifest;
mod mark;
mod merge;
mod open;
mod options;
mod order;
mod read;
mod repair;
mod resolve;
mod rows;
mod run;
mod sorting;
mod store;
mod wire;

pub use api::*;
pub use bundle::{SegmentRun, describe_segment};
pub use fail::{FAIL_POINTS, FailPoints};
pub use options::*;
pub use read::{ArrangementVersion, Scan, StoreVersion};
pub use repair::{RepairPlan, SledState, UsedCopy, plan_repair, repair};
pub use store::Store;
