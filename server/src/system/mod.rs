//! Relations of the system: schema `tidemill` (what the server does, `own`), the rows that sequences show (`sequences`) and,
//! through `pg_catalog`, what Postgres clients ask for (`snapshot`). Computed when they are read; never maintained.

mod own;
mod sequences;
mod snapshot;

use std::sync::Arc;
use std::time::SystemTime;

use arrow::array::RecordBatch;
use tidemill_planner::SqlError;
use tidemill_planner::catalog::{Relation, RelationKind};
use tidemill_storage::Store;
use tidemill_zset::CollectionId;

use crate::numbers::Numbers;
use crate::pg_catalog;
use crate::published::Published;
use crate::session::advisory::AdvisoryLocks;
use crate::session::backends::Backends;
use crate::status::Status;

/// Collections of the system have this bit; the rest is their number.
const SYSTEM_BIT: u64 = 1 << 63;
/// Those that show a sequence have this one too; the rest is what [`sequences`] makes of object and column.
const SEQUENCE_BIT: u64 = 1 << 62;
/// Knows all relations of the system and fills them.
pub struct SystemRelations {
    store: Arc<Store>,
    status: Arc<Status>,
    numbers: Arc<Numbers>,
    relations: Vec<Relation>,
    /// Who is connected.
    pub backends: Arc<Backends>,
    /// What they have locked against each other.
    pub advisory: Arc<AdvisoryLocks>,
    /// When the server started.
    pub started: SystemTime,
}

impl SystemRelations {
    /// All relations over this server's store and status.
    pub fn new(store: Arc<Store>, status: Arc<Status>, numbers: Arc<Numbers>) -> Arc<Self> {
        let own = own::relations().enumerate().map(|(i, (name, columns))| {
            let oid = pg_catalog::TIDEMILL_OID + 1 + i as u32;
            (oid, "tidemill", name, columns)
        });
        let foreign = pg_catalog::relations();
        let foreign = foreign
            .iter()
            .map(|r| (r.oid, r.schema, r.name, r.columns.clone()));
        let relations = own
            .chain(foreign)
            .enumerate()
            .map(|(i, (oid, schema, name, columns))| Relation {
                oid,
                id: CollectionId(SYSTEM_BIT | i as u64),
                schema: schema.into(),
                name: name.into(),
                kind: RelationKind::System,
                columns,
                planned: None,
                primary_key: None,
                unique: None,
                append_only: false,
            })
            .collect();
        Arc::new(SystemRelations {
            store,
            status,
            numbers,
            relations,
            backends: Arc::default(),
            advisory: Arc::default(),
            started: SystemTime::now(),
        })
    }

    /// True for collections of the system.
    pub fn is_system(collection: CollectionId) -> bool {
        collection.0 & SYSTEM_BIT != 0 && collection.0 != u64::MAX
    }

    /// The relation of that name.
    pub fn resolve(&self, schema: &str, name: &str) -> Option<Relation> {
        self.relations
            .iter()
            .find(|r| r.schema == schema && r.name == name)
            .cloned()
    }

    /// All of them.
    pub fn relations(&self) -> Vec<Relation> {
        self.relations.clone()
    }

    /// The rows of one.
    pub fn rows(
        &self,
        collection: CollectionId,
        published: &Published,
    ) -> Result<Vec<RecordBatch>, SqlError> {
        if collection.0 & SEQUENCE_BIT != 0 {
            let number = collection.0 & !(SYSTEM_BIT | SEQUENCE_BIT);
            return Ok(vec![self.sequence_row(number, &published.catalog)?]);
        }
        let relation = self.relations.get((collection.0 & !SYSTEM_BIT) as usize);
        let Some(relation) = relation else {
            return Err(SqlError::internal(format!(
                "no system relation {collection}"
            )));
        };
        if relation.schema != "tidemill" {
            let snapshot = self.pg_snapshot(published);
            return Ok(
                pg_catalog::rows(&relation.schema, &relation.name, &snapshot)
                    .into_iter()
                    .collect(),
            );
        }
        self.own_rows(relation, published).map(|batch| vec![batch])
    }
}
