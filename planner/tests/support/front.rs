//! Queries of the tests: bound, run as SELECT, compiled.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use futures::TryStreamExt;
use tidemill_planner::SqlError;
use tidemill_planner::ast::{self, Statement};
use tidemill_planner::compile::CompiledView;
use tidemill_planner::query::{Condition, Planner, QueryPlan, SessionContextInfo, SnapshotReader};
use tidemill_zset::CollectionId;

use super::data::{self, Tables};

/// Contents of all tables.
pub type Contents = BTreeMap<CollectionId, RecordBatch>;

/// A bound query.
pub struct Bound {
    plan: QueryPlan,
}

/// Binds `sql`.
pub fn bind(tables: &Tables, sql: &str) -> Result<Bound, String> {
    let mut parsed = ast::parse(sql).map_err(|e| format!("{e:?}"))?;
    let Some(Statement::Query { query, .. }) = parsed.pop().map(|p| p.statement) else {
        return Err("not a query".into());
    };
    let plan = Planner::new()
        .plan_query(tables, &SessionContextInfo::default(), &query, &[])
        .map_err(|e| format!("{e:?}"))?;
    Ok(Bound { plan })
}

/// Compiles it.
pub fn view(_: &Tables, bound: &Bound) -> Result<CompiledView, SqlError> {
    bound.plan.compile()
}

/// Reads the given contents.
#[derive(Debug)]
struct Given(Contents);

impl SnapshotReader for Given {
    fn scan(
        &self,
        collection: CollectionId,
        columns: Option<&[usize]>,
        _: &[Condition],
    ) -> Result<Box<dyn Iterator<Item = Result<RecordBatch, SqlError>> + Send>, SqlError> {
        let rows = &self.0[&collection];
        let rows = match columns {
            Some(columns) => rows
                .project(columns)
                .map_err(|e| SqlError::internal(e.to_string()))?,
            None => rows.clone(),
        };
        Ok(Box::new(std::iter::once(Ok(rows))))
    }
}

/// Runs it on `contents`; rows as text, sorted.
pub fn select(_: &Tables, bound: &Bound, contents: &Contents) -> Result<Vec<String>, String> {
    let run = async {
        bound
            .plan
            .execute(Arc::new(Given(contents.clone())))?
            .try_collect::<Vec<_>>()
            .await
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let batches = runtime.block_on(run).map_err(|e| format!("{e:?}"))?;
    Ok(data::texts(&batches))
}

/// The number in an environment variable.
pub fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(default)
}
