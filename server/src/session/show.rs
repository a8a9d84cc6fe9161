//! SHOW and EXPLAIN.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringViewArray};
use arrow::datatypes::{DataType, Field, SchemaRef};
use futures::StreamExt;
use tidemill_planner::SqlError;
use tidemill_planner::ast::{ExplainStage, ObjectKind, Show, Statement, SubscribeTarget};
use tidemill_planner::catalog::CatalogView;
use tidemill_planner::names::parse_query;
use tidemill_zset::CollectionId;
use tidemill_zset::delta::schema_of;
use tidemill_zset::schema::SqlType;

use super::Response;
use super::execution::planning;
use super::query::Given;
use super::settings::reported_name;
use super::sql::SqlSession;
use crate::catalog::{Catalog, Rows};
use crate::coordinator::ddl::find;

/// Columns of EXPLAIN.
pub fn explain_schema() -> SchemaRef {
    texts(&["QUERY PLAN"])
}

fn texts(names: &[&str]) -> SchemaRef {
    schema_of(
        names
            .iter()
            .map(|n| Field::new(*n, DataType::Utf8View, true))
            .collect(),
    )
}

impl SqlSession {
    /// The query behind a SHOW that lists something, over relations of the system.
    fn show_query(show: &Show) -> Option<String> {
        let objects = |kind: &str| {
            format!(
                "SELECT schema, name, comment FROM tidemill.objects WHERE kind = '{kind}' ORDER BY schema, name"
            )
        };
        Some(match show {
            Show::Objects(ObjectKind::Source) => {
                "SELECT schema, name, connector, state, persistent_id, rows, errors, reason FROM tidemill.sources ORDER BY schema, name".into()
            }
            Show::Objects(ObjectKind::Sink) => {
                "SELECT schema, name, relation, path, state, \"time\", reason FROM tidemill.sinks ORDER BY schema, name".into()
            }
            Show::Objects(ObjectKind::Schema) => {
                "SELECT nspname AS name FROM pg_catalog.pg_namespace ORDER BY nspname".into()
            }
            Show::Objects(ObjectKind::Table) => objects("table"),
            Show::Objects(ObjectKind::View) => objects("view"),
            Show::Objects(ObjectKind::MaterializedView) => objects("materialized view"),
            Show::Objects(_) => {
                "SELECT schema, name, relation, columns, comment FROM tidemill.indexes ORDER BY schema, name".into()
            }
            Show::PersistentIds => "SELECT persistent_id, source, columns, rows, bytes FROM tidemill.persistent_ids ORDER BY persistent_id".into(),
            _ => return None,
        })
    }

    pub(super) fn show_schema(&mut self, show: &Show) -> SchemaRef {
        if let Some(sql) = Self::show_query(show) {
            let published = self.pin();
            let plan = parse_query(&sql).and_then(|query| self.plan(&published, &query, &[]));
            return plan.map_or_else(|_| texts(&["name"]), |p| p.columns);
        }
        match show {
            Show::Columns(_) => texts(&["name", "type", "nullable", "comment"]),
            Show::Create(..) => texts(&["name", "create_sql"]),
            Show::All => texts(&["name", "setting", "description"]),
            Show::Variable(name) => texts(&[&reported_name(name)]),
            _ => texts(&["name"]),
        }
    }

    pub(super) async fn show(&mut self, show: &Show) -> Result<Response, SqlError> {
        if let Some(sql) = Self::show_query(show) {
            let query = parse_query(&sql)?;
            let Response::Rows {
                schema,
                batches,
                live,
                ..
            } = self.select(&query, None, &Given::default()).await?
            else {
                return Err(SqlError::internal("a query gives rows"));
            };
            return Ok(Response::Rows {
                schema,
                batches,
                verb: "SHOW",
                counted: false,
                live,
            });
        }
        let schema = self.show_schema(show);
        let rows: Vec<Vec<Option<String>>> = match show {
            Show::Columns(name) => {
                let published = self.pin();
                let relation = self
                    .names(&published)
                    .resolve(name.schema.as_deref(), &name.name);
                let relation = relation.ok_or_else(|| {
                    SqlError::new(
                        "42P01",
                        format!("relation \"{}\" does not exist", name.name),
                    )
                })?;
                let object = published
                    .catalog
                    .by_collection(relation.id)
                    .map(|(o, _)| o.clone());
                let comment = |column: &str| {
                    object
                        .as_ref()
                        .and_then(|o| o.record.column_comments.get(column).cloned())
                };
                let fields = relation.columns.fields().iter();
                fields
                    .map(|f| {
                        let nullable = if f.is_nullable() { "t" } else { "f" };
                        vec![
                            Some(f.name().clone()),
                            Some(SqlType::of(f).to_string()),
                            Some(nullable.into()),
                            comment(f.name()),
                        ]
                    })
                    .collect()
            }
            Show::Create(kind, name) => {
                let published = self.pin();
                let mut name = name.clone();
                if name.schema.is_none() {
                    let found = self.names(&published).resolve(None, &name.name);
                    name.schema = found.map(|relation| relation.schema);
                }
                let object = find(&published.catalog, *kind, &name)?;
                vec![vec![
                    Some(object.display_name()),
                    Some(object.record.sql.clone()),
                ]]
            }
            Show::All => self
                .settings
                .all()
                .into_iter()
                .map(|(n, v, d)| vec![Some(n), Some(v), Some(d)])
                .collect(),
            Show::Variable(name) => {
                let value = self.settings.get(name).ok_or_else(|| {
                    SqlError::new(
                        "42704",
                        format!("unrecognized configuration parameter \"{name}\""),
                    )
                })?;
                vec![vec![Some(value)]]
            }
            _ => vec![],
        };
        Ok(text_rows(schema, rows, "SHOW"))
    }

    pub(super) async fn explain(
        &mut self,
        stage: ExplainStage,
        statement: &Statement,
    ) -> Result<Response, SqlError> {
        let query = match statement {
            Statement::Query { query, .. }
            | Statement::CreateView { query, .. }
            | Statement::CreateMaterializedView { query, .. } => query.as_ref().clone(),
            Statement::Subscribe(subscribe) => match &subscribe.target {
                SubscribeTarget::Query(query) => query.as_ref().clone(),
                SubscribeTarget::Relation(name) => {
                    let quoted = crate::catalog::text::quoted;
                    let schema = name.schema.as_deref().map(|s| quoted(s) + ".");
                    let schema = schema.unwrap_or_default();
                    parse_query(&format!("SELECT * FROM {schema}{}", quoted(&name.name)))?
                }
            },
            _ => {
                return Err(SqlError::unsupported(
                    "EXPLAIN is supported for queries, views and subscriptions",
                ));
            }
        };
        let published = self.pin();
        let plan = self.plan(&published, &query, &[])?;
        let reader = self.snapshot(&published);
        let text = planning(|| -> Result<String, SqlError> {
            Ok(match stage {
                ExplainStage::Logical => {
                    let plan = match statement {
                        Statement::Query { .. } => plan.ordered(&reader)?,
                        _ => plan.optimised()?,
                    };
                    plan.display_indent().to_string()
                }
                ExplainStage::Dataflow => {
                    let plan = plan.compile()?.plan;
                    with_names(plan.explain(), &plan.inputs(), &published.catalog)
                }
            })
        })?;
        let rows = text
            .lines()
            .map(|line| vec![Some(line.to_string())])
            .collect();
        Ok(text_rows(explain_schema(), rows, "EXPLAIN"))
    }
}

/// The text of a dataflow in which its inputs are called by their relations' names.
fn with_names(mut text: String, inputs: &[CollectionId], catalog: &Catalog) -> String {
    for input in inputs {
        if let Some((object, rows)) = catalog.by_collection(*input) {
            let errors = if rows == Rows::Errors { "_errors" } else { "" };
            let name = format!("Input {}{errors} columns", object.display_name());
            text = text.replace(&format!("Input {input} columns"), &name);
        }
    }
    text
}

fn text_rows(schema: SchemaRef, rows: Vec<Vec<Option<String>>>, verb: &'static str) -> Response {
    let columns = (0..schema.fields().len()).map(|c| -> ArrayRef {
        Arc::new(
            rows.iter()
                .map(|r| r[c].as_deref())
                .collect::<StringViewArray>(),
        )
    });
    let batch = RecordBatch::try_new(schema.clone(), columns.collect())
        .map_err(|e| SqlError::internal(e.to_string()));
    let batches = futures::stream::iter([batch]).boxed();
    Response::Rows {
        schema,
        batches,
        verb,
        counted: false,
        live: false,
    }
}
