//! The numbers that new tables and sources get: of their collections, arrangements and offsets.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use tidemill_planner::SqlError;
use tidemill_storage::{ArrangementDesc, ArrangementKind};
use tidemill_zset::schema::SqlType;
use tidemill_zset::{ArrangementId, CollectionId};

use super::cut::origin_schema;
use super::ddl::Effects;
use crate::catalog::record::{Ids, PersistentRecord, persistent_key, put};
use crate::catalog::{Catalog, Detail, Object};
use crate::index::has_order;
use crate::reader::key_first;

pub(super) fn table_ids(object: &mut Object, next: &mut Catalog, effects: &mut Effects) {
    let Detail::Table { primary_key, .. } = &object.detail else {
        return;
    };
    let rows = ArrangementId(next.allocate());
    effects
        .create
        .push(table_desc(rows, &object.columns, primary_key));
    object.record.ids = Ids {
        collection: Some(CollectionId(next.allocate())),
        rows: Some(rows),
        ..Ids::default()
    };
}

/// How a table's rows are stored: by key, or as a multiset of whole rows.
pub fn table_desc(
    id: ArrangementId,
    columns: &SchemaRef,
    primary_key: &[usize],
) -> ArrangementDesc {
    let width = columns.fields().len();
    let order = key_first(primary_key, width);
    let schema = Arc::new(
        columns
            .project(&order)
            .expect("the order names each column once"),
    );
    if primary_key.is_empty() {
        ArrangementDesc {
            id,
            kind: ArrangementKind::Add,
            schema,
            key_columns: width,
        }
    } else {
        let kind = match has_order(schema.field(0)) {
            true => ArrangementKind::OrderedLast,
            false => ArrangementKind::Last,
        };
        ArrangementDesc {
            id,
            kind,
            schema,
            key_columns: primary_key.len(),
        }
    }
}

pub(super) fn source_ids(
    object: &mut Object,
    next: &mut Catalog,
    effects: &mut Effects,
) -> Result<(), SqlError> {
    let Detail::Source { persistent_id, .. } = &object.detail else {
        return Ok(());
    };
    let columns: Vec<String> = object
        .columns
        .fields()
        .iter()
        .map(|f| format!("{} {}", f.name(), SqlType::of(f)))
        .collect();
    let mut record = match persistent_id
        .as_ref()
        .and_then(|id| next.persistent().get(id))
    {
        Some(known) => {
            let persistent_id = persistent_id.as_deref().unwrap_or_default();
            let user = next
                .objects()
                .find(|o| o.record.ids.rows == Some(known.rows));
            if let Some(user) = user {
                return Err(SqlError::new(
                    "55006",
                    format!(
                        "persistent_id '{persistent_id}' is in use by source {}",
                        user.display_name()
                    ),
                )
                .hint("Each source needs a persistent_id of its own."));
            }
            if known.columns != columns {
                return Err(SqlError::new("42P16", format!("persistent_id '{persistent_id}' was recorded with other columns"))
                    .detail(format!("Recorded: ({}). Declared: ({}).", known.columns.join(", "), columns.join(", ")))
                    .hint("Declare the recorded columns, choose another persistent_id, or forget the record with DROP SOURCE … PURGE."));
            }
            known.clone()
        }
        None => {
            let record = PersistentRecord {
                columns,
                rows: ArrangementId(next.allocate()),
                errors: ArrangementId(next.allocate()),
                offsets: next.allocate(),
            };
            let log = |id, columns: &SchemaRef| ArrangementDesc {
                id,
                kind: ArrangementKind::Log,
                schema: origin_schema(columns),
                key_columns: 0,
            };
            let errors = object
                .error_columns()
                .expect("a source has an error relation");
            effects.create.push(log(record.errors, &errors));
            if persistent_id.is_some() {
                effects.create.push(log(record.rows, &object.columns));
            }
            record
        }
    };
    if let Some(id) = persistent_id {
        record.columns.shrink_to_fit();
        effects.changes.push(put(persistent_key(id), &record));
        next.persistent_mut().insert(id.clone(), record.clone());
    }
    object.record.ids = Ids {
        collection: Some(CollectionId(next.allocate())),
        rows: persistent_id.is_some().then_some(record.rows),
        errors_collection: Some(CollectionId(next.allocate())),
        errors: Some(record.errors),
        offsets: Some(record.offsets),
        ..Ids::default()
    };
    Ok(())
}
