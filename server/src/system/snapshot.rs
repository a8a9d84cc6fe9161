//! The catalog as `pg_catalog` shows it.

use std::sync::Arc;

use tidemill_dataflow::plan::OutputStorage;
use tidemill_planner::ast::{ColumnDefault, Nulls, Numbering, NumberingKind};
use tidemill_zset::schema::SqlType;

use super::{SystemRelations, sequences};
use crate::catalog::{Detail, Kind, Object};
use crate::numbers::{numbered, shown_default};
use crate::pg_catalog;
use crate::published::Published;

impl SystemRelations {
    /// The catalog as `pg_catalog` shows it.
    pub(crate) fn pg_snapshot(&self, published: &Published) -> pg_catalog::CatalogSnapshot {
        let catalog = &published.catalog;
        let mut schemas: Vec<pg_catalog::SchemaInfo> = catalog
            .schemas()
            .iter()
            .map(|(name, s)| pg_catalog::SchemaInfo {
                oid: match name == crate::catalog::DEFAULT_SCHEMA {
                    true => pg_catalog::PUBLIC_OID,
                    false => pg_catalog::FIRST_USER_OID + s.id as u32,
                },
                name: name.clone(),
                comment: match &s.comment {
                    None if s.id == u64::from(pg_catalog::PUBLIC_OID) => {
                        Some("standard public schema".into())
                    }
                    comment => comment.clone(),
                },
            })
            .collect();
        schemas.push(pg_catalog::SchemaInfo {
            oid: pg_catalog::TIDEMILL_OID,
            name: "tidemill".into(),
            comment: Some("what the server does".into()),
        });
        let mut relations: Vec<pg_catalog::RelationInfo> = catalog
            .objects()
            .filter_map(|object| {
                let mut relation = relation_info(object)?;
                (relation.rows, relation.bytes) = sizes(object, published);
                Some(relation)
            })
            .collect();
        let index = |object| {
            let (on, mut index) = index_info(object)?;
            index.bytes = sizes(object, published).1.unwrap_or(0);
            Some((on, index))
        };
        for (on, index) in catalog.objects().filter_map(index) {
            if let Some(relation) = relations.iter_mut().find(|r| r.oid == on) {
                relation.indexes.push(index);
            }
        }
        for (i, relation) in self
            .relations
            .iter()
            .filter(|r| r.schema == "tidemill")
            .enumerate()
        {
            relations.push(pg_catalog::RelationInfo::new(
                pg_catalog::TIDEMILL_OID + 1 + i as u32,
                &relation.schema,
                &relation.name,
                pg_catalog::RelationType::View,
                relation.columns.clone(),
            ));
        }
        let sequences = self.sequences(catalog);
        relations.extend(sequences.iter().map(sequences::relation));
        let backends = Arc::clone(&self.backends);
        let signal = move |pid, terminate| backends.signal(pid, terminate);
        pg_catalog::CatalogSnapshot {
            database: crate::session::DATABASE.into(),
            user: "tidemill".into(),
            server_version: crate::session::SERVER_VERSION.into(),
            search_path: vec![crate::catalog::DEFAULT_SCHEMA.into()],
            schemas,
            relations,
            sequences,
            settings: crate::session::settings::descriptions(),
            backends: self.backends.list(),
            signal: pg_catalog::Signal(Some(Arc::new(signal))),
            backend_pid: 0,
            advisory: Arc::clone(&self.advisory),
            started: Some(self.started),
        }
    }
}

/// About how many rows an object has, and the bytes that are stored of it, as far as they are its own.
fn sizes(object: &Arc<Object>, published: &Published) -> (Option<u64>, Option<u64>) {
    let ids = &object.record.ids;
    let states = ids.states.iter().map(|s| s.id);
    let stored = |id| published.store.arrangement(id);
    let all = states.chain(ids.rows).chain(ids.errors).filter_map(stored);
    let contents = match &object.detail {
        Detail::MaterializedView {
            output: OutputStorage::Arrangement { index, .. },
            ..
        } => ids.states.get(*index).map(|s| s.id),
        _ => ids.rows,
    };
    let rows = contents.and_then(stored).map(|v| v.rows_estimate());
    let bytes = all.map(|v| v.bytes()).sum();
    (rows, rows.map(|_| bytes))
}

fn relation_info(object: &Arc<Object>) -> Option<pg_catalog::RelationInfo> {
    use pg_catalog::RelationType;
    let record = &object.record;
    let (kind, definition) = match &object.detail {
        Detail::Table { .. } => (RelationType::Table, None),
        Detail::Source { .. } => (RelationType::Source, None),
        Detail::View { query } => (RelationType::View, Some(query.clone())),
        Detail::MaterializedView { query, .. } => {
            (RelationType::MaterializedView, Some(query.clone()))
        }
        Detail::Broken { .. } if record.kind == Kind::View => {
            (RelationType::View, Some(record.sql.clone()))
        }
        Detail::Broken { .. } if record.kind == Kind::MaterializedView => {
            (RelationType::MaterializedView, Some(record.sql.clone()))
        }
        Detail::Sink { .. }
        | Detail::Index { .. }
        | Detail::Sequence(_)
        | Detail::Broken { .. } => return None,
    };
    let (defaults, primary_key) = match &object.detail {
        Detail::Table {
            defaults,
            primary_key,
            ..
        } => (shown_defaults(object, defaults), primary_key.clone()),
        _ => (vec![], vec![]),
    };
    let options = match &object.detail {
        Detail::Source { options, .. } => options
            .iter()
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect(),
        _ => vec![],
    };
    let comments = record.column_comments.iter();
    Some(pg_catalog::RelationInfo {
        defaults,
        identities: identities(object),
        primary_key,
        primary_key_name: object.primary_key_name(),
        checks: match &object.detail {
            Detail::Table { checks, .. } => checks.clone(),
            _ => vec![],
        },
        definition,
        depends: record
            .depends
            .iter()
            .map(|id| pg_catalog::FIRST_USER_OID + *id as u32)
            .collect(),
        connector: match &object.detail {
            Detail::Source { options, .. } => options.get("connector").cloned(),
            _ => None,
        },
        options,
        comment: record.comment.clone(),
        column_comments: comments
            .filter_map(|(c, text)| Some((object.columns.index_of(c).ok()?, text.clone())))
            .collect(),
        ..pg_catalog::RelationInfo::new(
            pg_catalog::FIRST_USER_OID + record.id as u32,
            &record.schema,
            &record.name,
            kind,
            object.columns.clone(),
        )
    })
}

/// DEFAULTs as PostgreSQL shows them.
fn shown_defaults(table: &Object, defaults: &[Option<ColumnDefault>]) -> Vec<Option<String>> {
    let shown = defaults.iter().enumerate().map(|(n, d)| match d.as_ref()? {
        ColumnDefault::Expression(text) => {
            let of = SqlType::of(table.columns.field(n));
            tidemill_planner::definition::shown_default(text, &of)
        }
        ColumnDefault::Numbering(numbering) => shown_default(table, n, numbering),
    });
    shown.collect()
}

fn identities(object: &Object) -> Vec<(usize, char)> {
    let kind = |n: &Numbering| match n.kind {
        NumberingKind::Serial | NumberingKind::Sequence => None,
        NumberingKind::Always => Some('a'),
        NumberingKind::ByDefault => Some('d'),
    };
    numbered(object)
        .filter_map(|(n, numbering)| Some((n, kind(numbering)?)))
        .collect()
}

/// An index, with the oid of its relation.
fn index_info(object: &Arc<Object>) -> Option<(u32, pg_catalog::IndexInfo)> {
    let Detail::Index {
        on,
        columns,
        unique,
        ..
    } = &object.detail
    else {
        return None;
    };
    let index = pg_catalog::IndexInfo {
        oid: pg_catalog::FIRST_USER_OID + object.record.id as u32,
        name: object.record.name.clone(),
        columns: columns.clone(),
        unique: unique.is_some(),
        nulls_not_distinct: *unique == Some(Nulls::NotDistinct),
        constraint: object.record.constraint,
        comment: object.record.comment.clone(),
        bytes: 0,
    };
    Some((pg_catalog::FIRST_USER_OID + *on as u32, index))
}
