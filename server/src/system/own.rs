//! Relations of schema `tidemill`: sources, views, indexes, sinks, commits and the catalog.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, StringViewArray};
use arrow::datatypes::{DataType, Field, SchemaRef};
use tidemill_connectors::queue::SourceState;
use tidemill_planner::SqlError;
use tidemill_planner::catalog::Relation;
use tidemill_zset::delta::schema_of;
use tidemill_zset::schema::SqlType;

use super::SystemRelations;
use crate::catalog::{Catalog, Detail};
use crate::coordinator::sources::state_words;
use crate::published::Published;

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
            ("broken", TEXT),
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
    (
        "builds",
        &[
            ("schema", TEXT),
            ("name", TEXT),
            ("kind", TEXT),
            ("rows", INT),
            ("rows_expected", INT),
            ("elapsed_ms", INT),
        ],
    ),
];

/// Names and columns.
pub(super) fn relations() -> impl Iterator<Item = (&'static str, SchemaRef)> {
    OWN.iter().map(|(name, columns)| {
        let fields = columns.iter();
        let fields = fields.map(|(n, t)| Field::new(*n, t.clone(), true));
        (*name, schema_of(fields.collect()))
    })
}

impl SystemRelations {
    /// The rows of `relation`.
    pub(super) fn own_rows(
        &self,
        relation: &Relation,
        published: &Published,
    ) -> Result<RecordBatch, SqlError> {
        let rows = match relation.name.as_str() {
            "sources" => self.sources(published),
            "views" => self.views(published),
            "indexes" => indexes(published),
            "sinks" => self.sinks(published),
            "commits" => self.commits(published),
            "objects" => objects(&published.catalog),
            "persistent_ids" => persistent_ids(published),
            "builds" => self.builds(),
            _ => columns(&published.catalog),
        };
        rows.finish(&relation.columns)
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
                (None, Some(status))
                    if !counters.under_way.is_empty()
                        && matches!(status.state, SourceState::Waiting(_)) =>
                {
                    let reason = "the epoch that its last rows are in";
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
            let taken = &counters.under_way;
            let taken_rows: usize = taken.iter().map(|(rows, ..)| rows).sum();
            let taken_bytes: u64 = taken.iter().map(|(_, bytes, _)| bytes).sum();
            let pending_rows = receiver.map_or(0, |r| r.pending_rows()) + taken_rows;
            let pending_bytes = receiver.map_or(0, |r| r.pending_bytes()) as u64 + taken_bytes;
            rows.int(pending_rows as i64).int(pending_bytes as i64);
            rows.opt_int(offsets.map(|o| o.len() as i64));
            let oldest = taken.front().map(|(.., since)| *since);
            let oldest = oldest.or(receiver.and_then(|r| r.oldest()));
            rows.int(oldest.map_or(0, |t| t.elapsed().as_millis() as i64));
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

    fn builds(&self) -> Rows {
        let mut rows = Rows::default();
        for build in self.status.builds() {
            let (schema, name) = build.name.clone().unzip();
            rows.opt_text(schema).opt_text(name).text(build.kind);
            rows.int(build.rows.load(Ordering::Relaxed) as i64)
                .int(build.rows_expected as i64)
                .int(build.started.elapsed().as_millis() as i64);
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
        rows.text(&record.sql)
            .opt_text(record.comment.clone())
            .opt_text(object.broken().map(str::to_string));
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
