//! Queries of the tests: bound, run as SELECT, compiled.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::datasource::MemTable;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion_expr::LogicalPlan;
use tidemill_planner::SqlError;
use tidemill_planner::catalog::CatalogView;
use tidemill_planner::compile::{CompiledView, compile, order};
use tidemill_zset::CollectionId;

use super::data::{self, Tables};

/// Contents of all tables.
pub type Contents = BTreeMap<CollectionId, RecordBatch>;

/// A bound query.
pub struct Bound {
    plan: LogicalPlan,
    columns: SchemaRef,
    sql: String,
}

fn context(tables: &Tables, contents: Option<&Contents>) -> SessionContext {
    let mut config = SessionConfig::new().with_target_partitions(1);
    config.options_mut().sql_parser.dialect = datafusion_common::config::Dialect::PostgreSQL;
    let context = SessionContext::new_with_config(config);
    for r in &tables.relations {
        let rows = contents
            .map(|c| c[&r.id].clone())
            .unwrap_or_else(|| RecordBatch::new_empty(r.columns.clone()));
        let table = MemTable::try_new(r.columns.clone(), vec![vec![rows]]).expect("one schema");
        context
            .register_table(r.name.as_str(), Arc::new(table))
            .expect("a new name");
    }
    context
}

fn plan(context: &SessionContext, sql: &str) -> Result<LogicalPlan, String> {
    let state = context.state();
    let plan =
        futures::executor::block_on(state.create_logical_plan(sql)).map_err(|e| e.to_string())?;
    state
        .analyzer()
        .execute_and_check(plan, state.config_options(), |_, _| {})
        .map_err(|e| e.to_string())
}

/// Binds `sql`.
pub fn bind(tables: &Tables, sql: &str) -> Result<Bound, String> {
    let plan = plan(&context(tables, None), sql)?;
    let columns = Arc::new(plan.schema().as_arrow().clone());
    Ok(Bound {
        plan,
        columns,
        sql: sql.into(),
    })
}

/// Compiles it.
pub fn view(tables: &Tables, bound: &Bound) -> Result<CompiledView, SqlError> {
    compile(&bound.plan, &bound.columns, &|scan| {
        tables.resolve(None, scan.table_name.table())
    })
}

/// Runs it on `contents`; rows as text, sorted.
pub fn select(tables: &Tables, bound: &Bound, contents: &Contents) -> Result<Vec<String>, String> {
    let context = context(tables, Some(contents));
    let plan = order::canonical(plan(&context, &bound.sql)?).map_err(|e| e.to_string())?;
    let run = async { context.execute_logical_plan(plan).await?.collect().await };
    let batches = tokio::runtime::Runtime::new()
        .expect("a runtime")
        .block_on(run)
        .map_err(|e| e.to_string())?;
    Ok(data::texts(&batches))
}

/// The number in an environment variable.
pub fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(default)
}
