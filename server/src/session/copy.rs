//! COPY … FROM STDIN and COPY … TO STDOUT.

use futures::StreamExt;
use tidemill_planner::SqlError;
use tidemill_planner::ast::{CopyOptions, CopySource, Name};

use super::Response;
use super::sql::SqlSession;

impl SqlSession {
    pub(super) async fn copy_to(
        &mut self,
        source: &CopySource,
        options: &CopyOptions,
    ) -> Result<Response, SqlError> {
        let query = match source {
            CopySource::Subscribe(subscribe) => {
                let (schema, batches) = self.subscribe(subscribe).await?;
                return Ok(Response::CopyOut {
                    schema,
                    batches,
                    options: options.clone(),
                    live: true,
                });
            }
            CopySource::Query(query) => query.as_ref().clone(),
            CopySource::Relation(Name { schema, name }, columns) => {
                let quote = |s: &String| format!("\"{}\"", s.replace('"', "\"\""));
                let columns: Vec<String> = columns.iter().map(quote).collect();
                let columns = if columns.is_empty() {
                    "*".into()
                } else {
                    columns.join(", ")
                };
                let prefix = schema
                    .as_ref()
                    .map_or(String::new(), |s| format!("{}.", quote(s)));
                tidemill_planner::names::parse_query(&format!(
                    "SELECT {columns} FROM {prefix}{}",
                    quote(name)
                ))?
            }
        };
        match self.select(&query, None, &[]).await? {
            Response::Rows {
                schema, batches, ..
            } => Ok(Response::CopyOut {
                schema,
                batches: batches.boxed(),
                options: options.clone(),
                live: false,
            }),
            _ => Err(SqlError::internal("a query gives rows")),
        }
    }

    pub(super) async fn copy_from(
        &mut self,
        table: &Name,
        columns: &[String],
        options: &CopyOptions,
    ) -> Result<Response, SqlError> {
        let _ = (table, columns, options);
        Err(SqlError::unsupported(
            "COPY FROM STDIN is not supported yet",
        ))
    }
}
