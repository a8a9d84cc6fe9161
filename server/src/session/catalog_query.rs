//! Queries over `pg_catalog` and `information_schema` alone: answered by the catalog's own evaluator
//! (docs/design/0031), with this session's user, search path and settings.
//!
//! Invariant: what the evaluator doesn't know, the planner gets, unchanged.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{Field, SchemaRef};
use futures::StreamExt;
use tidemill_planner::SqlError;
use tidemill_planner::ast::Query;

use super::advisory::Request;
use super::query::param_types;
use super::sql::SqlSession;
use super::{ParamValue, Response};
use crate::pg_catalog::{self, Effects};

/// `pg_sleep` of more, or of infinity, goes on until the statement is cancelled.
const SLEEP_SECONDS_MAX: f64 = 1e9;

impl SqlSession {
    /// Parameters and columns of a query over the catalog; `None`: it is none.
    pub(super) fn catalog_shape(
        &self,
        query: &Query,
        types: &[Option<Field>],
    ) -> Option<(Vec<Field>, Option<SchemaRef>)> {
        let bound = pg_catalog::query(query, types)?;
        Some((bound.params, Some(bound.columns)))
    }

    /// The rows of a query over the catalog; `None`: it is none.
    pub(super) async fn catalog_rows(
        &mut self,
        query: &Query,
        params: &[ParamValue],
    ) -> Option<Result<Response, SqlError>> {
        let bound = match pg_catalog::query_why(query, &param_types(params)) {
            Ok(bound) => bound,
            Err(reason) => {
                tracing::trace!(%reason, %query, "not answered by the catalog alone");
                return None;
            }
        };
        let published = self.pin();
        let mut snapshot = self.handle.env.system.pg_snapshot(&published);
        snapshot.user.clone_from(&self.user);
        snapshot.search_path = self.search_path();
        snapshot.backend_pid = self.backend_pid;
        for (name, value, _) in &mut snapshot.settings {
            if let Some(set) = self.settings.get(name) {
                *value = set;
            }
        }
        let values: Vec<Option<ArrayRef>> = params
            .iter()
            .map(|param| match param {
                ParamValue::Null => None,
                ParamValue::Value(array) => Some(Arc::clone(array)),
            })
            .collect();
        // Over a large catalog it may take long, and other sessions have to go on.
        match tokio::task::block_in_place(|| bound.run(&snapshot, &values)) {
            Err(error) if pg_catalog::is_planners(&error) => None,
            Err(error) => Some(Err(error)),
            Ok((batch, effects)) => Some(self.catalog_answer(batch, effects).await),
        }
    }

    /// Waits for advisory locks.
    async fn wait_for(&mut self, locks: Vec<Request>) -> Result<(), SqlError> {
        let advisory = Arc::clone(&self.handle.env.system.advisory);
        for request in locks {
            let limit = self.settings.timeouts().lock;
            advisory.lock(self.backend_pid, request, limit).await?;
        }
        // What others committed before they let go is to be seen.
        if let Some(transaction) = self.transaction.as_mut().filter(|t| t.is_untouched()) {
            transaction.published = None;
        }
        Ok(())
    }

    /// Does what functions such as `set_config` ask for, and gives the rows.
    async fn catalog_answer(
        &mut self,
        batch: RecordBatch,
        effects: Effects,
    ) -> Result<Response, SqlError> {
        for (name, value, local) in effects.settings {
            self.set_value(&name, value, local)?;
        }
        for warning in effects.warnings {
            self.warn("01000", &warning);
        }
        if !effects.locks.is_empty() {
            self.wait_for(effects.locks).await?;
        }
        let schema = batch.schema();
        let batches = futures::stream::iter([Ok(batch)]);
        Ok(Response::Rows {
            schema,
            batches: match Duration::try_from_secs_f64(effects.sleep.min(SLEEP_SECONDS_MAX)) {
                Ok(sleep) if !sleep.is_zero() => {
                    let slept = futures::stream::once(tokio::time::sleep(sleep));
                    slept.flat_map(move |()| batches.clone()).boxed()
                }
                _ => batches.boxed(),
            },
            verb: "SELECT",
            counted: true,
            live: false,
        })
    }
}
