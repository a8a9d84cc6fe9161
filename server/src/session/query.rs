//! SELECT and what else gives rows from a plan.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use datafusion_common::ScalarValue;
use tidemill_planner::SqlError;
use tidemill_planner::ast::{Expr, Query};
use tidemill_planner::query::QueryPlan;
use tidemill_zset::Epoch;

use super::sql::SqlSession;
use super::{ParamValue, Response};
use crate::published::Published;

impl SqlSession {
    /// Plans a query against a version.
    pub(super) fn plan(
        &self,
        published: &Arc<Published>,
        query: &Query,
        types: &[Option<Field>],
    ) -> Result<QueryPlan, SqlError> {
        self.handle
            .env
            .planner
            .plan_query(&self.names(published), &self.context(), query, types)
    }

    pub(super) async fn select(
        &mut self,
        query: &Query,
        as_of: Option<&Expr>,
        params: &[ParamValue],
    ) -> Result<Response, SqlError> {
        if as_of.is_none()
            && let Some(response) = self.catalog_rows(query, params)
        {
            return response;
        }
        let mut published = self.pin();
        let mut plan = self.plan(&published, query, &param_types(params))?;
        if self.begin_sources(&plan, &published).await? {
            published = self.pin();
            plan = self.plan(&published, query, &param_types(params))?;
        }
        let plan = bind(plan, params)?;
        self.check_readable(&plan, &published.catalog)?;
        let mut snapshot = self.snapshot(&published);
        if let Some(expr) = as_of {
            snapshot.at = self.time("AS OF", expr)?;
            if snapshot.at > published.now() {
                return Err(SqlError::new(
                    "22023",
                    format!("time {} is not complete yet", snapshot.at),
                )
                .detail(format!("The newest complete time is {}.", published.now())));
            }
        }
        let batches = plan.execute(Arc::new(snapshot))?;
        Ok(Response::Rows {
            schema: plan.columns.clone(),
            batches,
            verb: "SELECT",
            counted: true,
            live: false,
        })
    }

    /// The value of a time expression such as that of AS OF.
    pub(super) fn time(&self, clause: &str, expr: &Expr) -> Result<Epoch, SqlError> {
        let to = Field::new("time", DataType::Int64, false);
        let (value, _) = self
            .handle
            .env
            .planner
            .constant(&self.context(), expr, Some(&to))?;
        match value {
            ScalarValue::Int64(Some(time)) if time >= 0 => Ok(time),
            other => Err(
                SqlError::new("22023", format!("{clause} needs a time, not {other}"))
                    .hint("A time is a number as shown in the column \"time\" of a subscription."),
            ),
        }
    }
}

/// Types of given parameters, for planning.
pub(super) fn param_types(params: &[ParamValue]) -> Vec<Option<Field>> {
    params
        .iter()
        .map(|p| match p {
            ParamValue::Null => None,
            ParamValue::Value(array) => Some(Field::new("?", array.data_type().clone(), true)),
        })
        .collect()
}

/// The plan with its parameters' values.
pub(super) fn bind(plan: QueryPlan, params: &[ParamValue]) -> Result<QueryPlan, SqlError> {
    if plan.params.len() > params.len() {
        let message = format!(
            "bind message supplies {} parameters, but the statement requires {}",
            params.len(),
            plan.params.len()
        );
        return Err(SqlError::new("08P01", message));
    }
    if plan.params.is_empty() {
        return Ok(plan);
    }
    let internal = |e: datafusion_common::DataFusionError| SqlError::internal(e.to_string());
    let values = params
        .iter()
        .zip(&plan.params)
        .map(|(param, field)| match param {
            ParamValue::Null => ScalarValue::try_from(field.data_type()).map_err(internal),
            ParamValue::Value(array) => ScalarValue::try_from_array(array, 0).map_err(internal),
        });
    let values = values.collect::<Result<Vec<_>, _>>()?;
    plan.bind_params(&values)
}
