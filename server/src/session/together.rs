//! `WITH name AS (INSERT … RETURNING …) …`: several changes in one statement, and perhaps a query.
//!
//! All of them see what was there before, and what those before them return as relations of the schema [`CHANGED`]. They become one
//! change: outside of a transaction the statement is one by itself.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{Field, SchemaRef};
use arrow::row::{RowConverter, SortField};
use futures::TryStreamExt;
use tidemill_planner::SqlError;
use tidemill_planner::ast::{CHANGED, Changing, Statement};
use tidemill_planner::catalog::{Relation, RelationKind};
use tidemill_planner::query::QueryPlan;
use tidemill_zset::delta::schema_of;
use tidemill_zset::{CollectionId, Delta};

use super::Response;
use super::query::Given;
use super::sql::SqlSession;
use super::transaction::Transaction;
use super::write::{Change, RETRIES_MAX, Returned};
use super::write_plan::{params_of, settle};
use super::write_rows::internal;

/// What statements in WITH return, while others are planned and evaluated.
#[derive(Clone, Default)]
pub(super) struct Changed {
    pub relations: Arc<Vec<Relation>>,
    pub rows: Arc<HashMap<CollectionId, Vec<RecordBatch>>>,
}

impl Changed {
    /// `rows` are of the columns `columns`, of which several may have one name.
    fn add(
        &mut self,
        name: &str,
        columns: SchemaRef,
        rows: Vec<RecordBatch>,
    ) -> Result<(), SqlError> {
        let relations = Arc::make_mut(&mut self.relations);
        let numbers = 1..=columns.fields().len();
        let planned: Vec<String> = numbers.map(|n| format!("column{n}")).collect();
        let fields = columns.fields().iter().zip(&planned);
        let stored: Vec<Field> = fields
            .map(|(f, name)| f.as_ref().clone().with_name(name))
            .collect();
        let stored = schema_of(stored);
        let rows = rows.into_iter().map(|batch| {
            RecordBatch::try_new(stored.clone(), batch.columns().to_vec()).map_err(internal)
        });
        let rows = rows.collect::<Result<_, _>>()?;
        // From behind, where no collection of the catalog is.
        let id = CollectionId(u64::MAX - 1 - relations.len() as u64);
        relations.push(Relation {
            oid: 0,
            id,
            schema: CHANGED.into(),
            name: name.into(),
            kind: RelationKind::Table,
            columns,
            planned: Some(Arc::new(planned)),
            primary_key: None,
            unique: None,
            append_only: false,
        });
        Arc::make_mut(&mut self.rows).insert(id, rows);
        Ok(())
    }
}

impl SqlSession {
    /// Runs `changes` and `main`; outside a transaction again after conflicts.
    pub(super) async fn together(
        &mut self,
        changes: &[Changing],
        main: &Statement,
        given: &Given<'_>,
    ) -> Result<Response, SqlError> {
        for change in changes {
            self.check_writable(&change.statement)?;
        }
        let alone = self.transaction.is_none();
        let mut tries = 0;
        loop {
            if alone {
                self.transaction = Some(Transaction::new(false, self.statement_began));
                self.settings.begin();
            }
            // A statement that was cancelled has left its own.
            self.changed = Changed::default();
            let done = self.try_together(changes, main, given).await;
            self.changed = Changed::default();
            let done = match done {
                Ok(response) if alone => self.commit().await.map(|_| response),
                done => done,
            };
            match done {
                Err(e) if alone && e.sqlstate == "40001" && tries < RETRIES_MAX => {
                    tries += 1;
                    if self.transaction.take().is_some() {
                        self.ended(false);
                    }
                }
                done => return done,
            }
        }
    }

    async fn try_together(
        &mut self,
        changes: &[Changing],
        main: &Statement,
        given: &Given<'_>,
    ) -> Result<Response, SqlError> {
        let within = Given {
            params: given.params,
            declared: given.declared,
            ..Given::default()
        };
        let mut all = vec![];
        for Changing { name, statement } in changes {
            let evaluated = self.evaluated(statement, &within).await?;
            if let Some(Returned {
                columns, batches, ..
            }) = evaluated.returned
            {
                self.changed.add(name, columns, batches)?;
            }
            all.push(evaluated.change);
        }
        let within = Given {
            described: given.described,
            ..within
        };
        let response = match main {
            Statement::Query { query, .. } => {
                let response = self.select(query, None, &within).await?;
                let Response::Rows {
                    schema,
                    batches,
                    verb,
                    counted,
                    live,
                } = response
                else {
                    return Err(SqlError::internal("a query gives rows"));
                };
                // Before anything of it changes.
                let batches: Vec<RecordBatch> = batches.try_collect().await?;
                Response::Rows {
                    schema,
                    batches: Box::pin(futures::stream::iter(batches.into_iter().map(Ok))),
                    verb,
                    counted,
                    live,
                }
            }
            change => {
                let (response, change) = self.evaluated(change, &within).await?.parts();
                all.push(change);
                response
            }
        };
        check_once(&all)?;
        for change in all {
            self.write_checked(change).await?;
        }
        Ok(response)
    }

    /// Parameters and the columns of the rows.
    pub(super) fn together_shape(
        &mut self,
        changes: &[Changing],
        main: &Statement,
        types: &[Option<Field>],
    ) -> Result<(Vec<Field>, Option<SchemaRef>), SqlError> {
        self.changed = Changed::default();
        let shape = self.planned_together(changes, main, types);
        self.changed = Changed::default();
        shape
    }

    fn planned_together(
        &mut self,
        changes: &[Changing],
        main: &Statement,
        types: &[Option<Field>],
    ) -> Result<(Vec<Field>, Option<SchemaRef>), SqlError> {
        let published = self.pin();
        // A parameter has one type in all of the statement.
        let types = &mut types.to_vec();
        let mut writes = vec![];
        for Changing { name, statement } in changes {
            let planned = self.planned_write(&published, statement, types, None)?;
            let write = planned.write()?;
            write.plans().iter().for_each(|plan| settle(types, plan));
            if let Some(returning) = &write.returning {
                let columns = returning.plan.columns.clone();
                self.changed.add(name, columns, vec![])?;
            }
            writes.push(planned);
        }
        let mut queries = vec![];
        let columns = match main {
            Statement::Query { query, .. } => {
                let plan = self.plan(&published, query, types)?;
                let columns = plan.described.clone();
                queries.push(plan);
                Some(columns)
            }
            change => {
                let planned = self.planned_write(&published, change, types, None)?;
                let returning = planned.write()?.returning.as_ref();
                let columns = returning.map(|r| r.plan.described.clone());
                writes.push(planned);
                columns
            }
        };
        let mut plans: Vec<&QueryPlan> = queries.iter().collect();
        for planned in &writes {
            plans.extend(planned.write()?.plans());
        }
        Ok((params_of(&plans)?, columns))
    }
}

/// Fails if two of the changes take the same row away: which of them does isn't told.
fn check_once(changes: &[Change]) -> Result<(), SqlError> {
    for (at, change) in changes.iter().enumerate() {
        let table = change.written.table;
        let before = &changes[..at];
        let before: Vec<RecordBatch> = before
            .iter()
            .filter(|c| c.written.table == table)
            .map(|c| taken_away(&c.written.delta))
            .collect::<Result<_, _>>()?;
        if before.iter().all(|rows| rows.num_rows() == 0) {
            continue;
        }
        let rows = taken_away(&change.written.delta)?;
        let fields = rows.columns().iter();
        let fields = fields.map(|c| SortField::new(c.data_type().clone()));
        let converter = RowConverter::new(fields.collect()).map_err(internal)?;
        let rows = converter
            .convert_columns(rows.columns())
            .map_err(internal)?;
        let rows: HashSet<_> = rows.iter().collect();
        for batch in before {
            let others = converter
                .convert_columns(batch.columns())
                .map_err(internal)?;
            if others.iter().any(|row| rows.contains(&row)) {
                let message = "changing a row twice in one statement is not supported";
                let name = change.object.display_name();
                return Err(SqlError::unsupported(message).detail(format!(
                    "Two parts of the statement change or delete a row of table \"{name}\"."
                )));
            }
        }
    }
    Ok(())
}

/// The rows of a delta that are there no more.
fn taken_away(delta: &Delta) -> Result<RecordBatch, SqlError> {
    let away = (0..delta.len()).filter(|row| delta.diffs.get(*row) < 0);
    let away = UInt32Array::from_iter_values(away.map(|row| row as u32));
    take_record_batch(&delta.rows, &away).map_err(internal)
}
