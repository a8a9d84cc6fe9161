//! SELECT and what else gives rows from a plan.

use std::sync::Arc;

use arrow::datatypes::{Field, SchemaRef};
use datafusion_common::ScalarValue;
use tidemill_planner::SqlError;
use tidemill_planner::ast::{Expr, Query};
use tidemill_planner::catalog::CatalogView;
use tidemill_planner::names::is_quick;
use tidemill_planner::query::{QueryPlan, SnapshotReader};

use super::plans::{self, PlanSlot, Planned};
use super::sql::SqlSession;
use super::{BatchStream, ParamValue, Response, execution};
use crate::catalog::Catalog;
use crate::pg::extended::same_columns;
use crate::published::Published;
use crate::reader::{Contents, contents, no_history};

/// The statement is to be run with its literals; no client sees this code.
pub(super) const LIFT_AGAIN: &str = "XXLFT";

/// What comes with a statement: values of its parameters, their types where it was prepared, a place for its plan.
#[derive(Default)]
pub(super) struct Given<'a> {
    pub params: &'a [ParamValue],
    pub declared: Option<&'a [Field]>,
    pub slot: Option<&'a PlanSlot>,
    /// What the types were found with, if the statement's literals became the parameters: with another one they may have other types.
    pub lifted_with: Option<&'a Arc<Catalog>>,
    /// The columns of its rows that the client was told.
    pub described: Option<&'a SchemaRef>,
    /// Its rows are read while other statements run.
    pub lasting: bool,
}

impl Given<'_> {
    /// Types of the parameters, for planning.
    pub(super) fn types(&self) -> Vec<Option<Field>> {
        match self.declared {
            Some(fields) => fields.iter().cloned().map(Some).collect(),
            None => param_types(self.params),
        }
    }

    /// Fails with [`LIFT_AGAIN`] if its literals became parameters by another catalog.
    pub(super) fn check_lifted(&self, catalog: &Arc<Catalog>) -> Result<(), SqlError> {
        match self.lifted_with {
            Some(with) if !Arc::ptr_eq(with, catalog) => {
                Err(SqlError::new(LIFT_AGAIN, "relations have changed"))
            }
            _ => Ok(()),
        }
    }

    /// Fails if the rows have other columns now than the client was told. Before anything is changed.
    pub(super) fn check_described(&self, columns: Option<&SchemaRef>) -> Result<(), SqlError> {
        match (self.described, columns) {
            (Some(described), Some(columns)) => same_columns(Some(described), columns),
            _ => Ok(()),
        }
    }
}

impl SqlSession {
    /// Plans a query against a version.
    pub(super) fn plan(
        &self,
        published: &Arc<Published>,
        query: &Query,
        types: &[Option<Field>],
    ) -> Result<QueryPlan, SqlError> {
        let planner = &self.handle.env.planner;
        let (names, context) = (self.names(published), self.context());
        let plan = || planner.plan_query(&names, &context, query, types);
        match is_quick(query, &names) {
            true => plan(),
            false => execution::planning(plan),
        }
    }

    /// Another plan of the query, if this one reads views that don't include what the transaction has written.
    pub(super) fn computing(
        &mut self,
        plan: &QueryPlan,
        published: &Arc<Published>,
        query: &Query,
        types: &[Option<Field>],
    ) -> Result<Option<QueryPlan>, SqlError> {
        let Some(behind) = self.behind(&[plan], &published.catalog)? else {
            return Ok(None);
        };
        self.computed = behind;
        let plan = self.plan(published, query, types);
        self.computed = Arc::default();
        plan.map(Some)
    }

    /// The plan of a query, from its slot if it has one that still holds. `types`: of the parameters.
    pub(super) fn planned(
        &self,
        published: &Arc<Published>,
        (query, as_of): (&Query, Option<&Expr>),
        types: &[Option<Field>],
        slot: Option<&PlanSlot>,
    ) -> Result<Arc<Planned>, SqlError> {
        let version = self.settings.version();
        if let Some(planned) = slot.and_then(|s| s.get(&published.catalog, version)) {
            return Ok(planned);
        }
        let planned = match as_of.is_none() && self.catalog_shape(query, types).is_some() {
            true => Planned::Catalog,
            false => Planned::Query(Box::new(plans::Query::new(
                self.plan(published, query, types)?,
            ))),
        };
        let planned = Arc::new(planned);
        if let Some(slot) = slot {
            slot.set(&published.catalog, version, &planned);
        }
        Ok(planned)
    }

    pub(super) async fn select(
        &mut self,
        query: &Query,
        as_of: Option<&Expr>,
        given: &Given<'_>,
    ) -> Result<Response, SqlError> {
        if !query.locks.is_empty() && self.settings.is_on("transaction_read_only") {
            return Err(SqlError::new(
                "25006",
                format!(
                    "cannot execute SELECT FOR {} in a read-only transaction",
                    query.locks[0].lock_type
                ),
            ));
        }
        let mut published = self.pin();
        given.check_lifted(&published.catalog)?;
        let types = given.types();
        let mut planned = self.planned(&published, (query, as_of), &types, given.slot)?;
        if let Planned::Catalog = *planned {
            if let Some(response) = self.catalog_rows(query, given.params).await {
                return response;
            }
            let plan = self.plan(&published, query, &types)?;
            planned = Arc::new(Planned::Query(Box::new(plans::Query::new(plan))));
        }
        if let Planned::Query(first) = &*planned
            && self.begin_sources(&first.plan, &published).await?
        {
            published = self.pin();
            given.check_lifted(&published.catalog)?;
            planned = self.planned(&published, (query, as_of), &types, given.slot)?;
        }
        if let Planned::Query(first) = &*planned
            && let Some(plan) = self.computing(&first.plan, &published, query, &types)?
        {
            planned = Arc::new(Planned::Query(Box::new(plans::Query::new(plan))));
        }
        let query = match &*planned {
            Planned::Query(query) => query,
            Planned::Write(write) => &write.query,
            Planned::Catalog => return Err(SqlError::internal("a query has a plan")),
        };
        if let Some(transaction) = self.transaction.as_ref().filter(|_| given.lasting) {
            // DDL in between moves the transaction on: what is still to be read must be the same then.
            let mut reads = transaction.reads.lock();
            reads.collections.extend(query.plan.inputs.iter().copied());
        }
        let mut snapshot = self.snapshot(&published);
        if let Some(expr) = as_of {
            snapshot.at = self.time("AS OF", expr, given.params)?;
            if snapshot.at > published.now() {
                return Err(SqlError::new(
                    "22023",
                    format!("time {} is not complete yet", snapshot.at),
                )
                .detail(format!("The newest complete time is {}.", published.now())));
            }
            for input in &query.plan.inputs {
                if snapshot.at < published.now()
                    && let Contents::Unrecorded(source) = contents(&published.catalog, *input)?
                {
                    return Err(no_history(&source));
                }
            }
        }
        Ok(Response::Rows {
            schema: query.plan.described.clone(),
            batches: self.rows(query, given.params, snapshot)?,
            verb: "SELECT",
            counted: true,
            live: false,
        })
    }

    /// The rows of a plan: by an index where that is possible.
    pub(super) fn rows(
        &self,
        query: &plans::Query,
        params: &[ParamValue],
        reader: impl SnapshotReader + 'static,
    ) -> Result<BatchStream, SqlError> {
        let values = values(&query.plan, params)?;
        let times = (self.now(), self.statement_began);
        if let Some(direct) = &query.direct
            && let Some(rows) = direct.execute(&values, times, &reader)?
        {
            return Ok(rows);
        }
        query.note_scan();
        let mut plan = match query.plan.params.is_empty() {
            true => query.plan.clone(),
            false => query.plan.bind_params(&values)?,
        };
        (plan.session.now, plan.session.statement) = times;
        Ok(execution::start(plan, Arc::new(reader)))
    }

    /// The error for a relation that doesn't exist.
    pub(super) fn no_relation(&self, published: &Published, name: &str) -> SqlError {
        let e = SqlError::new("42P01", format!("relation \"{name}\" does not exist"));
        let all = self.names(published).relations();
        let ours = all
            .iter()
            .filter(|r| !matches!(r.schema.as_str(), "pg_catalog" | "information_schema"));
        match tidemill_planner::names::closest(name, ours.map(|r| r.name.as_str())) {
            Some(close) => e.hint(format!("Did you mean \"{close}\"?")),
            None => e,
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
    let values = values(&plan, params)?;
    match plan.params.is_empty() {
        true => Ok(plan),
        false => plan.bind_params(&values),
    }
}

/// The parameters' values for a plan.
fn values(plan: &QueryPlan, params: &[ParamValue]) -> Result<Vec<ScalarValue>, SqlError> {
    if plan.params.len() > params.len() {
        let message = format!("there is no parameter ${}", params.len() + 1);
        return Err(SqlError::new("42P02", message));
    }
    let internal = |e: datafusion_common::DataFusionError| SqlError::internal(e.to_string());
    let values = params
        .iter()
        .zip(&plan.params)
        .map(|(param, field)| match param {
            ParamValue::Null => ScalarValue::try_from(field.data_type()).map_err(internal),
            ParamValue::Value(array) => ScalarValue::try_from_array(array, 0).map_err(internal),
        });
    values.collect()
}
