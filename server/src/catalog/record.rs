//! Durable catalog rows: JSON under keys of the store's catalog log.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tidemill_connectors::sink::Mark;
use tidemill_dataflow::plan::OutputStorage;
use tidemill_planner::query::SessionContextInfo;
use tidemill_zset::{ArrangementId, CollectionId};

/// One durable catalog change: key and new value, `None` to delete.
pub type Change = (String, Option<serde_json::Value>);

/// Kinds of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// CREATE TABLE
    Table,
    /// CREATE SOURCE
    Source,
    /// CREATE VIEW
    View,
    /// CREATE MATERIALIZED VIEW
    MaterializedView,
    /// CREATE SINK
    Sink,
    /// CREATE INDEX
    Index,
    /// CREATE SEQUENCE
    Sequence,
}

impl Kind {
    /// The words of SQL, lower case, for messages.
    pub fn words(self) -> &'static str {
        match self {
            Kind::Table => "table",
            Kind::Source => "source",
            Kind::View => "view",
            Kind::MaterializedView => "materialized view",
            Kind::Sink => "sink",
            Kind::Index => "index",
            Kind::Sequence => "sequence",
        }
    }
}

/// What is stored of an object.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// Its id, also its OID for Postgres clients.
    pub id: u64,
    /// What it is.
    pub kind: Kind,
    /// Schema.
    pub schema: String,
    /// Name; the one in `sql` may be older.
    pub name: String,
    /// The CREATE statement.
    pub sql: String,
    /// Of the session that created it, where its query depends on them.
    #[serde(default)]
    pub settings: Settings,
    /// COMMENT ON the object.
    #[serde(default)]
    pub comment: Option<String>,
    /// COMMENT ON COLUMN.
    #[serde(default)]
    pub column_comments: BTreeMap<String, String>,
    /// What plans call columns that were renamed, by their names now.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub planned_names: BTreeMap<String, String>,
    /// Objects it reads or stands on.
    #[serde(default)]
    pub depends: Vec<u64>,
    /// An index that is there because of a constraint of its table.
    #[serde(default)]
    pub constraint: bool,
    /// What is stored of a materialized view is of an epoch before the last: a start couldn't restore it, and it wasn't maintained since.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub behind: bool,
    /// The column that a sequence goes with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owned_by: Option<OwnedBy>,
    /// Ids of what is stored for it.
    #[serde(default)]
    pub ids: Ids,
}

/// OWNED BY of a sequence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnedBy {
    /// The table's object.
    pub table: u64,
    /// The column's name when it was said.
    pub column: String,
}

/// What a query means depends on these; a restart plans it with those that it was created with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// `current_user`
    pub user: String,
    /// `TimeZone`
    pub time_zone: String,
}

impl Settings {
    /// Those of a session.
    pub fn of(session: &SessionContextInfo) -> Self {
        Settings {
            user: session.user.clone(),
            time_zone: session.time_zone.clone(),
        }
    }

    /// A session like the one that they were taken from.
    pub fn session(&self) -> SessionContextInfo {
        SessionContextInfo {
            user: self.user.clone(),
            time_zone: self.time_zone.clone(),
            ..SessionContextInfo::default()
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Settings::of(&SessionContextInfo::default())
    }
}

/// Ids that tie an object to stored data. Which are set depends on the kind.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Ids {
    /// Rows as others read them.
    pub collection: Option<CollectionId>,
    /// Arrangement that holds the rows (table; recorded source; view with an output of its own).
    pub rows: Option<ArrangementId>,
    /// `<name>_errors` as others read it.
    pub errors_collection: Option<CollectionId>,
    /// Arrangement that holds the errors.
    pub errors: Option<ArrangementId>,
    /// Operator state in the plan's order, with fingerprints.
    #[serde(default)]
    pub states: Vec<State>,
    /// How the rows are read where they are a function of one of the states.
    #[serde(default)]
    pub output: Option<Output>,
    /// Types of a materialized view's columns, as SQL. Empty in what an earlier version stored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<String>,
    /// The revision of the functions in a materialized view's plan. 0 in what an earlier version stored.
    #[serde(default)]
    pub revision: u32,
    /// Where a source's offsets are kept in the store.
    pub offsets: Option<u64>,
}

/// The state that a view's rows are read from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// Its position in `states`.
    pub state: usize,
    /// How rows are made of it, as text: a plan with the same text reads them, whatever else has changed in it.
    pub layout: String,
}

impl Output {
    /// What to store of a plan's output.
    pub fn of(storage: &OutputStorage) -> Option<Output> {
        match (storage, storage.layout()) {
            (OutputStorage::Arrangement { index, .. }, Some(layout)) => Some(Output {
                state: *index,
                layout,
            }),
            _ => None,
        }
    }
}

/// One arrangement of operator state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Its arrangement.
    pub id: ArrangementId,
    /// The plan's fingerprint of the operator and all below it: state is loaded only into the plan that wrote it.
    pub fingerprint: String,
}

/// A schema.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SchemaRecord {
    /// Its OID; 0: the default schema was dropped.
    pub id: u64,
    /// COMMENT ON SCHEMA.
    pub comment: Option<String>,
}

/// What is recorded under a `persistent_id`; outlives the source.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PersistentRecord {
    /// Declared columns, `name type` each, that a source of this id must have.
    pub columns: Vec<String>,
    /// Recorded rows.
    pub rows: ArrangementId,
    /// Recorded errors.
    pub errors: ArrangementId,
    /// Where the offsets are kept.
    pub offsets: u64,
}

/// How far a sink has written; stored after the file is synced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkProgress {
    /// Last epoch that is in the file.
    pub epoch: i64,
    /// Length of the file then, in bytes.
    pub length: u64,
    /// Checksum of its last bytes; see [`Mark`].
    #[serde(default)]
    pub tail: Option<u32>,
}

impl SinkProgress {
    /// What the file is known by.
    pub fn mark(&self) -> Mark {
        Mark {
            length: self.length,
            tail: self.tail,
        }
    }
}

/// Key of an object's record.
pub fn object_key(id: u64) -> String {
    format!("object/{id:020}")
}

/// Key of a schema's record.
pub fn schema_key(name: &str) -> String {
    format!("schema/{name}")
}

/// Key of a persistent id's record.
pub fn persistent_key(id: &str) -> String {
    format!("persistent/{id}")
}

/// Key of a sink's progress.
pub fn sink_key(id: u64) -> String {
    format!("sink/{id:020}")
}

/// Key of the counter of a column that numbers rows: its next number, or null if there is none.
pub fn number_key(table: u64, column: usize) -> String {
    format!("number/{table:020}/{column}")
}

/// Key of a note of the arrangements that the rebuilding of a view has made and that don't belong to it yet.
pub fn rebuild_key(id: u64) -> String {
    format!("rebuild/{id:020}")
}

/// Key of the id counter.
pub const NEXT_ID_KEY: &str = "meta/next_id";

/// A catalog change that stores `value` under `key`.
pub fn put(key: String, value: &impl Serialize) -> Change {
    (
        key,
        Some(serde_json::to_value(value).expect("records are plain data")),
    )
}
