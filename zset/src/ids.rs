//! Identifiers that every layer shares.
//!
//! Ids are allocated once by the catalog and never reused in a data directory.

use serde::{Deserialize, Serialize};

/// One atomic step of the system: a strictly increasing, non-negative number, milliseconds
/// since the Unix epoch where the clock allows. Shown to users as `time`.
pub type Epoch = i64;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub u64);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

id!(
    /// A source, table or view: a multiset of rows that changes over time.
    CollectionId, "c"
);
id!(
    /// A collection indexed by the hash of a key and kept up to date: operator state or stored rows.
    ArrangementId, "a"
);
