//! SELECT and what else gives rows from a plan; INSERT, UPDATE, DELETE, TRUNCATE.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field};
use datafusion_common::ScalarValue;
use futures::TryStreamExt;
use parking_lot::Mutex;
use tidemill_planner::SqlError;
use tidemill_planner::ast::{Expr, Name, Query, Statement};
use tidemill_planner::catalog::{CatalogView, Relation, RelationKind};
use tidemill_planner::query::QueryPlan;
use tidemill_zset::{Delta, Diffs, Epoch};

use super::execution;
use super::plans::{self, PlanSlot, Planned};
use super::sql::{SqlSession, now_micros};
use super::{BatchStream, ParamValue, Response};
use crate::catalog::{Detail, Object};
use crate::coordinator::tables::{check_in_transaction, check_not_null};
use crate::published::Published;
use crate::reader::{ReadSet, Snapshot};

/// How often an autocommit statement is tried again after a conflict before the client hears of it.
const RETRIES_MAX: usize = 100;

/// What comes with a statement: values of its parameters, their types where it was prepared, a place for its plan.
#[derive(Default)]
pub(super) struct Given<'a> {
    pub params: &'a [ParamValue],
    pub declared: Option<&'a [Field]>,
    pub slot: Option<&'a PlanSlot>,
}

impl Given<'_> {
    fn types(&self) -> Vec<Option<Field>> {
        match self.declared {
            Some(fields) => fields.iter().cloned().map(Some).collect(),
            None => param_types(self.params),
        }
    }
}

/// A write's target: the relation as the planner sees it, and the object.
pub struct Target {
    pub relation: Relation,
    pub object: Arc<Object>,
    pub defaults: Vec<Option<String>>,
}

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
            false => Planned::Query(plans::Query::new(self.plan(published, query, types)?)),
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
        let mut published = self.pin();
        let types = given.types();
        let mut planned = self.planned(&published, (query, as_of), &types, given.slot)?;
        if let Planned::Catalog = *planned {
            if let Some(response) = self.catalog_rows(query, given.params) {
                return response;
            }
            let plan = self.plan(&published, query, &types)?;
            planned = Arc::new(Planned::Query(plans::Query::new(plan)));
        }
        if let Planned::Query(first) = &*planned
            && self.begin_sources(&first.plan, &published).await?
        {
            published = self.pin();
            planned = self.planned(&published, (query, as_of), &types, given.slot)?;
        }
        let (Planned::Query(query) | Planned::Write(query, _)) = &*planned else {
            return Err(SqlError::internal("a query has a plan"));
        };
        self.check_readable(&query.plan, &published.catalog)?;
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
        Ok(Response::Rows {
            schema: query.plan.columns.clone(),
            batches: self.rows(query, given.params, snapshot)?,
            verb: "SELECT",
            counted: true,
            live: false,
        })
    }

    /// The rows of a plan: by an index where that is possible.
    fn rows(
        &self,
        query: &plans::Query,
        params: &[ParamValue],
        snapshot: Snapshot,
    ) -> Result<BatchStream, SqlError> {
        let values = values(&query.plan, params)?;
        if let Some(direct) = &query.direct
            && let Some(rows) = direct.execute(&values, &snapshot)?
        {
            return Ok(rows);
        }
        let mut plan = match query.plan.params.is_empty() {
            true => query.plan.clone(),
            false => query.plan.bind_params(&values)?,
        };
        plan.session.now = now_micros();
        Ok(execution::start(plan, snapshot))
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

    pub(super) fn target(
        &self,
        published: &Published,
        schema: Option<&str>,
        name: &str,
    ) -> Result<Target, SqlError> {
        let Some(relation) = self.names(published).resolve(schema, name) else {
            return Err(SqlError::new(
                "42P01",
                format!("relation \"{name}\" does not exist"),
            ));
        };
        if relation.kind != RelationKind::Table {
            let kind = match relation.kind {
                RelationKind::Source => "source",
                RelationKind::View { .. } => "view",
                RelationKind::MaterializedView => "materialized view",
                _ => "system relation",
            };
            return Err(
                SqlError::new("42809", format!("cannot change {kind} \"{name}\""))
                    .hint("Only tables are written to directly."),
            );
        }
        let object = published
            .catalog
            .by_collection(relation.id)
            .map(|(o, _)| o.clone());
        let object = object.ok_or_else(|| SqlError::internal("a table is in the catalog"))?;
        let defaults = match &object.detail {
            Detail::Table { defaults, .. } => defaults.clone(),
            _ => vec![],
        };
        Ok(Target {
            relation,
            object,
            defaults,
        })
    }

    pub(super) fn write_params(
        &mut self,
        statement: &Statement,
        types: &[Option<Field>],
        slot: Option<&PlanSlot>,
    ) -> Result<Vec<Field>, SqlError> {
        let published = self.pin();
        match &*self.planned_write(&published, statement, types, slot)? {
            Planned::Write(query, _) => Ok(query.plan.params.clone()),
            _ => Err(SqlError::internal("a write has a plan")),
        }
    }

    fn planned_write(
        &self,
        published: &Arc<Published>,
        statement: &Statement,
        types: &[Option<Field>],
        slot: Option<&PlanSlot>,
    ) -> Result<Arc<Planned>, SqlError> {
        let version = self.settings.version();
        if let Some(planned) = slot.and_then(|s| s.get(&published.catalog, version)) {
            return Ok(planned);
        }
        let (target, plan) = self.plan_write(published, statement, types)?;
        let planned = Arc::new(Planned::Write(plans::Query::new(plan), Arc::new(target)));
        if let Some(slot) = slot {
            slot.set(&published.catalog, version, &planned);
        }
        Ok(planned)
    }

    fn plan_write(
        &self,
        published: &Arc<Published>,
        statement: &Statement,
        types: &[Option<Field>],
    ) -> Result<(Target, QueryPlan), SqlError> {
        let (catalog, context, planner) = (
            self.names(published),
            self.context(),
            &self.handle.env.planner,
        );
        let name = tidemill_planner::names::write_target(statement)?;
        let target = self.target(published, name.schema.as_deref(), &name.name)?;
        let plan = match statement {
            Statement::Insert(insert) => planner.plan_insert(
                &catalog,
                &context,
                insert,
                &target.relation,
                &target.defaults,
                types,
            )?,
            Statement::Update(update) => planner.plan_update(
                &catalog,
                &context,
                update,
                &target.relation,
                &target.defaults,
                types,
            )?,
            Statement::Delete(delete) => {
                planner.plan_delete(&catalog, &context, delete, &target.relation, types)?
            }
            _ => return Err(SqlError::internal("not a write")),
        };
        Ok((target, plan))
    }

    /// INSERT, UPDATE and DELETE.
    pub(super) async fn change(
        &mut self,
        statement: &Statement,
        given: &Given<'_>,
    ) -> Result<Response, SqlError> {
        let rows = self.write_statement(statement, given).await?;
        Ok(Response::Tag(match statement {
            Statement::Insert(_) => format!("INSERT 0 {rows}"),
            Statement::Update(_) => format!("UPDATE {rows}"),
            _ => format!("DELETE {rows}"),
        }))
    }

    /// Runs a write; outside a transaction it is tried again after conflicts. Gives the number of rows.
    async fn write_statement(
        &mut self,
        statement: &Statement,
        given: &Given<'_>,
    ) -> Result<usize, SqlError> {
        self.check_writable(statement)?;
        for _ in 0..RETRIES_MAX {
            match self.try_write(statement, given).await {
                Err(e) if e.sqlstate == "40001" && self.transaction.is_none() => continue,
                other => return other,
            }
        }
        self.try_write(statement, given).await
    }

    pub(super) fn check_writable(&self, statement: &Statement) -> Result<(), SqlError> {
        if self.transaction.as_ref().is_some_and(|t| t.read_only) {
            let verb = match statement {
                Statement::Insert(_) => "INSERT",
                Statement::Update(_) => "UPDATE",
                Statement::Delete(_) => "DELETE",
                _ => "TRUNCATE",
            };
            return Err(SqlError::new(
                "25006",
                format!("cannot execute {verb} in a read-only transaction"),
            ));
        }
        Ok(())
    }

    async fn try_write(
        &mut self,
        statement: &Statement,
        given: &Given<'_>,
    ) -> Result<usize, SqlError> {
        let mut published = self.pin();
        let types = given.types();
        let mut planned = self.planned_write(&published, statement, &types, given.slot)?;
        if let Planned::Write(query, _) = &*planned
            && self.begin_sources(&query.plan, &published).await?
        {
            published = self.pin();
            planned = self.planned_write(&published, statement, &types, given.slot)?;
        }
        let Planned::Write(query, target) = &*planned else {
            return Err(SqlError::internal("a write has a plan"));
        };
        self.check_readable(&query.plan, &published.catalog)?;
        let mut snapshot = self.snapshot(&published);
        let reads = snapshot
            .reads
            .get_or_insert_with(|| Arc::new(Mutex::new(ReadSet::default())))
            .clone();
        let rows = self.rows(query, given.params, snapshot)?;
        let batches: Vec<RecordBatch> = rows.try_collect().await?;
        let (delta, rows) = delta_of(statement, &target.object, &batches)?;
        let reads = reads.lock().clone();
        if let Some(transaction) = &self.transaction {
            let own = transaction
                .writes
                .get(&target.relation.id)
                .map_or(&[][..], Vec::as_slice);
            check_in_transaction(&target.object, &published.store, own, &delta)?;
        }
        self.write(target.relation.id, delta, published.now(), reads)
            .await?;
        Ok(rows)
    }

    pub(super) async fn truncate(&mut self, names: &[Name]) -> Result<Response, SqlError> {
        self.check_writable(&Statement::Truncate { names: vec![] })?;
        for name in names {
            for attempt in 0..=RETRIES_MAX {
                let published = self.pin();
                let target = self.target(&published, name.schema.as_deref(), &name.name)?;
                let snapshot = self.snapshot(&published);
                let mut deltas: Vec<Delta> = snapshot
                    .deltas(target.relation.id)?
                    .collect::<Result<_, _>>()?;
                deltas.extend(
                    snapshot
                        .own_writes
                        .get(&target.relation.id)
                        .into_iter()
                        .flatten()
                        .cloned(),
                );
                let all = tidemill_zset::consolidate::consolidate(&target.object.columns, &deltas)
                    .negate();
                let mut reads = ReadSet::default();
                reads.collections.insert(target.relation.id);
                if let Some(transaction) = &self.transaction {
                    transaction
                        .reads
                        .lock()
                        .collections
                        .insert(target.relation.id);
                }
                match self
                    .write(target.relation.id, all, published.now(), reads)
                    .await
                {
                    Err(e)
                        if e.sqlstate == "40001"
                            && self.transaction.is_none()
                            && attempt < RETRIES_MAX =>
                    {
                        continue;
                    }
                    other => other?,
                }
                break;
            }
        }
        Ok(Response::Tag("TRUNCATE TABLE".into()))
    }
}

/// The change that a write's rows mean, and how many rows it counts.
fn delta_of(
    statement: &Statement,
    object: &Object,
    batches: &[RecordBatch],
) -> Result<(Delta, usize), SqlError> {
    let internal = |e: arrow::error::ArrowError| SqlError::internal(e.to_string());
    let width = object.columns.fields().len();
    let mut deltas = Vec::new();
    let mut count = 0;
    for batch in batches {
        let rows = batch.num_rows();
        count += rows;
        let part = |from: usize| {
            RecordBatch::try_new(
                object.columns.clone(),
                batch.columns()[from..from + width].to_vec(),
            )
        };
        let minus = || Diffs::Each(vec![-1; rows].into());
        match statement {
            Statement::Insert(_) => {
                check_not_null(object, batch)?;
                deltas.push(Delta::insert(part(0).map_err(internal)?));
            }
            Statement::Update(_) => {
                let new: Vec<usize> = (width..2 * width).collect();
                check_not_null(object, &batch.project(&new).map_err(internal)?)?;
                deltas.push(Delta {
                    rows: part(0).map_err(internal)?,
                    diffs: minus(),
                });
                deltas.push(Delta::insert(part(width).map_err(internal)?));
            }
            _ => deltas.push(Delta {
                rows: part(0).map_err(internal)?,
                diffs: minus(),
            }),
        }
    }
    // An insertion needs no summing up.
    let delta = match statement {
        Statement::Insert(_) => Delta::concat(&object.columns, &deltas).map_err(internal)?,
        _ => tidemill_zset::consolidate::consolidate(&object.columns, &deltas),
    };
    Ok((delta, count))
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

/// The parameters' values for a plan.
fn values(plan: &QueryPlan, params: &[ParamValue]) -> Result<Vec<ScalarValue>, SqlError> {
    if plan.params.len() > params.len() {
        let message = format!(
            "bind message supplies {} parameters, but the statement requires {}",
            params.len(),
            plan.params.len()
        );
        return Err(SqlError::new("08P01", message));
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
