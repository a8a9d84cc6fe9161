//! Queries over `pg_catalog` and `information_schema` alone: answered by the catalog's own evaluator
//! (docs/design/0031), with this session's user, search path and settings.
//!
//! Invariant: what the evaluator doesn't know, the planner gets, unchanged.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{Field, SchemaRef};
use futures::StreamExt;
use tidemill_planner::SqlError;
use tidemill_planner::ast::Query;

use super::query::param_types;
use super::sql::SqlSession;
use super::{ParamValue, Response};
use crate::pg_catalog;

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
    pub(super) fn catalog_rows(
        &mut self,
        query: &Query,
        params: &[ParamValue],
    ) -> Option<Result<Response, SqlError>> {
        let bound = pg_catalog::query(query, &param_types(params))?;
        let published = self.pin();
        let mut snapshot = self.handle.env.system.pg_snapshot(&published);
        snapshot.user.clone_from(&self.user);
        snapshot.search_path = self.settings.search_path();
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
        let batch = match bound.run(&snapshot, &values) {
            Err(error) if pg_catalog::is_planners(&error) => return None,
            other => other,
        };
        Some(batch.map(|batch| Response::Rows {
            schema: batch.schema(),
            batches: futures::stream::iter([Ok(batch)]).boxed(),
            verb: "SELECT",
            counted: true,
            live: false,
        }))
    }
}
