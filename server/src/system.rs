//! Relations of the system: schema `tidemill` (what the server does) and, through `pg_catalog`, what Postgres
//! clients ask for. Computed when they are read; never maintained.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, StringViewArray};
use arrow::datatypes::{DataType, Field, SchemaRef};
use tidemill_connectors::queue::SourceState;
use tidemill_planner::SqlError;
use tidemill_planner::ast::{ColumnDefault, Nulls, Numbering, NumberingKind};
use tidemill_planner::catalog::{Relation, RelationKind};
use tidemill_storage::Store;
use tidemill_zset::CollectionId;
use tidemill_zset::delta::schema_of;
use tidemill_zset::schema::SqlType;

use crate::catalog::{Catalog, Detail, Object};
use crate::coordinator::sources::state_words;
use crate::numbers::{Counted, Numbers, last_before, numbered, shown_default};
use crate::pg_catalog;
use crate::published::Published;
use crate::session::advisory::AdvisoryLocks;
use crate::session::backends::Backends;
use crate::status::Status;

/// Collections of the system have this bit; the rest is their number.
const SYSTEM_BIT: u64 = 1 << 63;
/// Those that show a sequence have this one too; the rest is its object and the column.
const SEQUENCE_BIT: u64 = 1 << 62;
/// Columns of a table that are told apart in the number of a sequence.
const COLUMNS_MAX: u64 = 1 << 12;

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
}

const TEXT: DataType = DataType::Utf8View;
const INT: DataType = DataType::Int64;
const BOOL: DataType = DataType::Boolean;

/// Relations of schema `tidemill`, with their columns.
const OWN: &[(&str, &[(&str, DataType)])] = &[
    (
        "sources",
        &[
            ("schema", TEXT),
            ("name", TEXT),
            ("connector", TEXT),
            ("state", TEXT),
            ("reason", TEXT),
            ("persistent_id", TEXT),
            ("rows", INT),
            ("errors", INT),
            ("bytes", INT),
            ("pending_rows", INT),
            ("pending_bytes", INT),
            ("offset_entries", INT),
            ("lag_ms", INT),
        ],
    ),
    (
        "views",
        &[
            ("schema", TEXT),
            ("name", TEXT),
            ("rows", INT),
            ("state_bytes", INT),
            ("errors", INT),
            ("since", INT),
            ("upper", INT),
        ],
    ),
    (
        "indexes",
        &[
            ("schema", TEXT),
            ("name", TEXT),
            ("relation", TEXT),
            ("columns", TEXT),
            ("rows", INT),
            ("bytes", INT),
            ("comment", TEXT),
        ],
    ),
    (
        "sinks",
        &[
            ("schema", TEXT),
            ("name", TEXT),
            ("relation", TEXT),
            ("path", TEXT),
            ("state", TEXT),
            ("reason", TEXT),
            ("time", INT),
            ("bytes", INT),
        ],
    ),
    (
        "commits",
        &[
            ("epochs", INT),
            ("commits", INT),
            ("last_time", INT),
            ("upper", INT),
            ("bytes_written", INT),
            ("segment_files", INT),
            ("segment_bytes", INT),
            ("inline_runs", INT),
            ("merges", INT),
            ("cache_bytes", INT),
        ],
    ),
    (
        "objects",
        &[
            ("id", INT),
            ("schema", TEXT),
            ("name", TEXT),
            ("kind", TEXT),
            ("sql", TEXT),
            ("comment", TEXT),
        ],
    ),
    (
        "persistent_ids",
        &[
            ("persistent_id", TEXT),
            ("source", TEXT),
            ("columns", TEXT),
            ("rows", INT),
            ("bytes", INT),
        ],
    ),
    (
        "columns",
        &[
            ("schema", TEXT),
            ("relation", TEXT),
            ("position", INT),
            ("name", TEXT),
            ("type", TEXT),
            ("nullable", BOOL),
            ("comment", TEXT),
        ],
    ),
];

impl SystemRelations {
    /// All relations over this server's store and status.
    pub fn new(store: Arc<Store>, status: Arc<Status>, numbers: Arc<Numbers>) -> Arc<Self> {
        let own = OWN.iter().enumerate().map(|(i, (name, columns))| {
            let fields = columns
                .iter()
                .map(|(n, t)| Field::new(*n, t.clone(), true))
                .collect();
            let oid = pg_catalog::TIDEMILL_OID + 1 + i as u32;
            (oid, "tidemill", *name, schema_of(fields))
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

    /// The relation that shows where a sequence is.
    pub fn of_sequence(&self, schema: &str, of: &Counted) -> Relation {
        Relation {
            oid: sequence_oid(of),
            id: CollectionId(
                SYSTEM_BIT | SEQUENCE_BIT | (of.object * COLUMNS_MAX + of.column as u64),
            ),
            schema: schema.into(),
            name: of.name.clone(),
            kind: RelationKind::System,
            columns: sequence_columns(),
            planned: None,
            primary_key: None,
            unique: None,
            append_only: false,
        }
    }

    fn sequence_row(&self, number: u64, catalog: &Catalog) -> Result<RecordBatch, SqlError> {
        let (object, column) = (number / COLUMNS_MAX, (number % COLUMNS_MAX) as usize);
        let of = catalog
            .get(object)
            .and_then(|object| match Counted::of(object) {
                Some(of) => Some(of),
                None => numbered(object)
                    .find(|(n, _)| *n == column)
                    .map(|found| Counted::of_column(object, found)),
            });
        let of = of.ok_or_else(|| SqlError::new("42P01", "the sequence was dropped"))?;
        let (last, called) = self.last_of(&of);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![last])),
            Arc::new(Int64Array::from(vec![0])),
            Arc::new(BooleanArray::from(vec![called])),
        ];
        RecordBatch::try_new(sequence_columns(), columns)
            .map_err(|e| SqlError::internal(e.to_string()))
    }

    /// `last_value` and `is_called` of a sequence.
    fn last_of(&self, of: &Counted) -> (i64, bool) {
        let next = self.numbers.next_of(of);
        match last_before(&of.numbering, next) {
            Some(last) => (last, true),
            None => (next.unwrap_or(of.numbering.start), false),
        }
    }

    /// All sequences of a catalog.
    fn sequences(&self, catalog: &Catalog) -> Vec<pg_catalog::SequenceInfo> {
        let oid = |object: u64| pg_catalog::FIRST_USER_OID + object as u32;
        let mut out = vec![];
        for object in catalog.objects() {
            let record = &object.record;
            let info = |of: &Counted, data_type: SqlType| {
                let (last, called) = self.last_of(of);
                pg_catalog::SequenceInfo {
                    oid: sequence_oid(of),
                    schema: record.schema.clone(),
                    name: of.name.clone(),
                    data_type,
                    numbering: of.numbering.clone(),
                    last: called.then_some(last),
                    owner: None,
                    comment: None,
                }
            };
            if let (Some(of), Detail::Sequence(sequence)) = (Counted::of(object), &object.detail) {
                let owner = record.owned_by.as_ref().and_then(|owner| {
                    let table = catalog.get(owner.table)?;
                    Some((
                        oid(owner.table),
                        table.columns.index_of(&owner.column).ok()?,
                    ))
                });
                out.push(pg_catalog::SequenceInfo {
                    owner,
                    comment: record.comment.clone(),
                    ..info(&of, sequence.data_type.clone())
                });
            }
            for column in numbered(object) {
                let of = Counted::of_column(object, column);
                let data_type = SqlType::of(object.columns.field(column.0));
                out.push(pg_catalog::SequenceInfo {
                    owner: Some((oid(record.id), column.0)),
                    ..info(&of, data_type)
                });
            }
        }
        out
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
        let rows = match relation.name.as_str() {
            "sources" => self.sources(published),
            "views" => self.views(published),
            "indexes" => indexes(published),
            "sinks" => self.sinks(published),
            "commits" => self.commits(published),
            "objects" => objects(&published.catalog),
            "persistent_ids" => persistent_ids(published),
            _ => columns(&published.catalog),
        };
        rows.finish(&relation.columns).map(|batch| vec![batch])
    }

    fn sources(&self, published: &Published) -> Rows {
        let mut rows = Rows::default();
        for object in published.catalog.objects() {
            let Detail::Source {
                options,
                persistent_id,
                ..
            } = &object.detail
            else {
                continue;
            };
            let counters = self.status.source(object.record.id);
            let receiver = counters.receiver.as_ref();
            let status = receiver.map(|r| r.status());
            let (state, reason) = match (&counters.failure, &status) {
                (Some(reason), _) => ("failed", Some(reason.clone())),
                (None, Some(status))
                    if !counters.begun && !matches!(status.state, SourceState::Failed(_)) =>
                {
                    let reason = "nothing reads it yet: it begins with the first view, subscription or SELECT";
                    ("waiting", Some(reason.to_string()))
                }
                (None, Some(status)) => {
                    let (state, reason) = state_words(&status.state);
                    (state, status.last_error.clone().or(reason))
                }
                (None, None) => ("created", None),
            };
            let offsets = object
                .record
                .ids
                .offsets
                .and_then(|o| self.store.offsets(o).ok());
            rows.text(&object.record.schema).text(&object.record.name);
            rows.opt_text(options.get("connector").cloned())
                .text(state)
                .opt_text(reason)
                .opt_text(persistent_id.clone());
            rows.int(counters.rows as i64)
                .int(counters.errors as i64)
                .int(counters.bytes as i64);
            rows.int(receiver.map_or(0, |r| r.pending_rows()) as i64)
                .int(receiver.map_or(0, |r| r.pending_bytes()) as i64);
            rows.opt_int(offsets.map(|o| o.len() as i64));
            rows.int(
                receiver
                    .and_then(|r| r.oldest())
                    .map_or(0, |t| t.elapsed().as_millis() as i64),
            );
        }
        rows
    }

    fn views(&self, published: &Published) -> Rows {
        let mut rows = Rows::default();
        for object in published.catalog.objects() {
            let Detail::MaterializedView { output, .. } = &object.detail else {
                continue;
            };
            let ids = &object.record.ids;
            let all = ids
                .states
                .iter()
                .map(|s| s.id)
                .chain(ids.rows)
                .chain(ids.errors);
            let versions: Vec<_> = all.filter_map(|a| published.store.arrangement(a)).collect();
            let contents = match output {
                tidemill_dataflow::plan::OutputStorage::Own => ids.rows,
                tidemill_dataflow::plan::OutputStorage::Arrangement { index, .. } => {
                    ids.states.get(*index).map(|s| s.id)
                }
            };
            let contents = contents.and_then(|a| published.store.arrangement(a));
            let errors = ids.errors.and_then(|a| published.store.arrangement(a));
            rows.text(&object.record.schema).text(&object.record.name);
            rows.int(contents.as_ref().map_or(0, |v| v.rows_estimate()) as i64);
            rows.int(versions.iter().map(|v| v.bytes()).sum::<u64>() as i64);
            rows.int(errors.map_or(0, |v| v.rows_estimate()) as i64);
            rows.int(contents.map_or(0, |v| v.since()))
                .int(published.upper);
        }
        rows
    }

    fn sinks(&self, published: &Published) -> Rows {
        let mut rows = Rows::default();
        for object in published.catalog.objects() {
            let Detail::Sink { from, options } = &object.detail else {
                continue;
            };
            let state = self.status.sink(object.record.id);
            rows.text(&object.record.schema).text(&object.record.name);
            rows.opt_text(published.catalog.get(*from).map(|o| o.display_name()));
            rows.opt_text(options.get("path").cloned())
                .text(state.state)
                .opt_text(state.reason);
            rows.opt_int(state.epoch)
                .opt_int(state.length.map(|l| l as i64));
        }
        rows
    }

    fn commits(&self, published: &Published) -> Rows {
        let stats = self.store.stats();
        let (epochs, last) = self.status.epochs();
        let mut rows = Rows::default();
        rows.int(epochs as i64)
            .int(stats.commits as i64)
            .int(last)
            .int(published.upper)
            .int(stats.bytes_written as i64);
        rows.int(stats.segment_files as i64)
            .int(stats.segment_bytes as i64)
            .int(stats.inline_runs as i64);
        rows.int(stats.merges as i64).int(stats.cache_bytes as i64);
        rows
    }

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
                    None if name == crate::catalog::DEFAULT_SCHEMA => {
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
        let mut relations: Vec<pg_catalog::RelationInfo> =
            catalog.objects().filter_map(relation_info).collect();
        for (on, index) in catalog.objects().filter_map(index_info) {
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
            relations.push(pg_catalog::RelationInfo {
                oid: pg_catalog::TIDEMILL_OID + 1 + i as u32,
                schema: relation.schema.clone(),
                name: relation.name.clone(),
                kind: pg_catalog::RelationType::View,
                columns: relation.columns.clone(),
                defaults: vec![],
                identities: vec![],
                primary_key: vec![],
                primary_key_name: String::new(),
                checks: vec![],
                indexes: vec![],
                definition: None,
                depends: vec![],
                connector: None,
                options: vec![],
                comment: None,
                column_comments: vec![],
                rows: None,
                bytes: None,
            });
        }
        let sequences = self.sequences(catalog);
        relations.extend(sequences.iter().map(sequence_info));
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
        }
    }
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
        Detail::Sink { .. } | Detail::Index { .. } | Detail::Sequence(_) => return None,
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
        oid: pg_catalog::FIRST_USER_OID + record.id as u32,
        schema: record.schema.clone(),
        name: record.name.clone(),
        kind,
        columns: object.columns.clone(),
        defaults,
        identities: identities(object),
        primary_key,
        primary_key_name: object.primary_key_name(),
        checks: match &object.detail {
            Detail::Table { checks, .. } => checks.clone(),
            _ => vec![],
        },
        indexes: vec![],
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
        rows: None,
        bytes: None,
    })
}

/// What a sequence shows as a relation.
fn sequence_columns() -> SchemaRef {
    schema_of(vec![
        SqlType::Int8.field("last_value", false),
        SqlType::Int8.field("log_cnt", false),
        SqlType::Bool.field("is_called", false),
    ])
}

/// Those of columns have no object of their own.
fn sequence_oid(of: &Counted) -> u32 {
    match of.numbering.kind {
        NumberingKind::Sequence => pg_catalog::FIRST_USER_OID + of.object as u32,
        _ => {
            let number = (of.object as u32).wrapping_mul(16) + of.column as u32 % 16;
            pg_catalog::COLUMN_SEQUENCES.wrapping_add(number)
        }
    }
}

fn sequence_info(sequence: &pg_catalog::SequenceInfo) -> pg_catalog::RelationInfo {
    pg_catalog::RelationInfo {
        oid: sequence.oid,
        schema: sequence.schema.clone(),
        name: sequence.name.clone(),
        kind: pg_catalog::RelationType::Sequence,
        columns: sequence_columns(),
        defaults: vec![],
        identities: vec![],
        primary_key: vec![],
        primary_key_name: String::new(),
        checks: vec![],
        indexes: vec![],
        definition: None,
        depends: vec![],
        connector: None,
        options: vec![],
        comment: sequence.comment.clone(),
        column_comments: vec![],
        rows: Some(1),
        bytes: None,
    }
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
    };
    Some((pg_catalog::FIRST_USER_OID + *on as u32, index))
}

fn indexes(published: &Published) -> Rows {
    let mut rows = Rows::default();
    for object in published.catalog.objects() {
        let Detail::Index { on, columns, .. } = &object.detail else {
            continue;
        };
        let record = &object.record;
        let relation = published.catalog.get(*on);
        let names = relation.map(|r| {
            let names = columns.iter().map(|c| r.columns.field(*c).name().as_str());
            names.collect::<Vec<_>>().join(", ")
        });
        let stored = record.ids.rows.and_then(|a| published.store.arrangement(a));
        rows.text(&record.schema)
            .text(&record.name)
            .opt_text(relation.map(|r| r.display_name()))
            .opt_text(names);
        rows.int(stored.as_ref().map_or(0, |v| v.rows_estimate()) as i64)
            .int(stored.map_or(0, |v| v.bytes()) as i64);
        rows.opt_text(record.comment.clone());
    }
    rows
}

fn objects(catalog: &Catalog) -> Rows {
    let mut rows = Rows::default();
    for object in catalog.objects() {
        let record = &object.record;
        rows.int(record.id as i64)
            .text(&record.schema)
            .text(&record.name)
            .text(record.kind.words());
        rows.text(&record.sql).opt_text(record.comment.clone());
    }
    rows
}

fn persistent_ids(published: &Published) -> Rows {
    let mut rows = Rows::default();
    for (name, record) in published.catalog.persistent() {
        let user = published
            .catalog
            .objects()
            .find(|o| o.record.ids.rows == Some(record.rows));
        let version = published.store.arrangement(record.rows);
        rows.text(name)
            .opt_text(user.map(|o| o.display_name()))
            .text(&record.columns.join(", "));
        rows.int(version.as_ref().map_or(0, |v| v.rows_estimate()) as i64)
            .int(version.map_or(0, |v| v.bytes()) as i64);
    }
    rows
}

fn columns(catalog: &Catalog) -> Rows {
    let mut rows = Rows::default();
    for object in catalog.objects() {
        for (i, field) in object.columns.fields().iter().enumerate() {
            rows.text(&object.record.schema)
                .text(&object.record.name)
                .int(i as i64 + 1)
                .text(field.name());
            rows.text(&SqlType::of(field).to_string())
                .bool(field.is_nullable());
            rows.opt_text(object.record.column_comments.get(field.name()).cloned());
        }
    }
    rows
}

/// Cells of a small relation, row by row.
#[derive(Default)]
struct Rows {
    cells: Vec<Cell>,
}

enum Cell {
    Text(Option<String>),
    Int(Option<i64>),
    Bool(bool),
}

impl Rows {
    fn text(&mut self, text: &str) -> &mut Self {
        self.opt_text(Some(text.into()))
    }

    fn opt_text(&mut self, text: Option<String>) -> &mut Self {
        self.cells.push(Cell::Text(text));
        self
    }

    fn int(&mut self, n: i64) -> &mut Self {
        self.opt_int(Some(n))
    }

    fn opt_int(&mut self, n: Option<i64>) -> &mut Self {
        self.cells.push(Cell::Int(n));
        self
    }

    fn bool(&mut self, b: bool) -> &mut Self {
        self.cells.push(Cell::Bool(b));
        self
    }

    fn finish(self, schema: &SchemaRef) -> Result<RecordBatch, SqlError> {
        let width = schema.fields().len();
        let column = |c: usize| self.cells.iter().skip(c).step_by(width);
        let arrays = schema
            .fields()
            .iter()
            .enumerate()
            .map(|(c, field)| -> ArrayRef {
                match field.data_type() {
                    DataType::Int64 => Arc::new(
                        column(c)
                            .map(|v| if let Cell::Int(n) = v { *n } else { None })
                            .collect::<Int64Array>(),
                    ),
                    DataType::Boolean => Arc::new(
                        column(c)
                            .map(|v| Some(matches!(v, Cell::Bool(true))))
                            .collect::<BooleanArray>(),
                    ),
                    _ => Arc::new(
                        column(c)
                            .map(|v| {
                                if let Cell::Text(t) = v {
                                    t.as_deref()
                                } else {
                                    None
                                }
                            })
                            .collect::<StringViewArray>(),
                    ),
                }
            });
        RecordBatch::try_new(schema.clone(), arrays.collect())
            .map_err(|e| SqlError::internal(e.to_string()))
    }
}
