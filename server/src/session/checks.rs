//! CHECK constraints of tables.

use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use tidemill_planner::SqlError;
use tidemill_planner::catalog::{Relation, RelationKind};
use tidemill_planner::query::{QueryPlan, WRITTEN};

use super::execution;
use super::sql::SqlSession;
use super::write_rows::WithRows;
use crate::catalog::{Detail, Object};
use crate::coordinator::unique::failing_row;
use crate::reader::Snapshot;

/// CHECKs of a table.
pub(super) struct Checks {
    schema: String,
    table: String,
    names: Vec<String>,
    plan: QueryPlan,
}

impl Checks {
    /// Fails if one of them is false of one of the rows.
    pub(super) async fn of(&self, rows: &RecordBatch, snapshot: &Snapshot) -> Result<(), SqlError> {
        let Some((name, row)) = self.violated(rows, snapshot).await? else {
            return Ok(());
        };
        let message = format!(
            "new row for relation \"{}\" violates check constraint \"{name}\"",
            self.table
        );
        let detail = failing_row(rows.schema().fields(), rows.columns(), row);
        Err(self.about(name, SqlError::new("23514", message).detail(detail)))
    }

    /// Fails if one of them is false of one of the rows that are there already.
    pub(super) async fn of_all(
        &self,
        rows: &RecordBatch,
        snapshot: &Snapshot,
    ) -> Result<(), SqlError> {
        match self.violated(rows, snapshot).await? {
            None => Ok(()),
            Some((name, _)) => {
                let table = &self.table;
                let message = format!(
                    "check constraint \"{name}\" of relation \"{table}\" is violated by some row"
                );
                Err(self.about(name, SqlError::new("23514", message)))
            }
        }
    }

    fn about(&self, constraint: &str, e: SqlError) -> SqlError {
        e.about(|a| {
            a.schema = Some(self.schema.clone());
            a.table = Some(self.table.clone());
            a.constraint = Some(constraint.into());
        })
    }

    /// One that is false, and the number of a row that it is false of.
    async fn violated(
        &self,
        rows: &RecordBatch,
        snapshot: &Snapshot,
    ) -> Result<Option<(&str, usize)>, SqlError> {
        let reader = WithRows {
            inner: snapshot.clone(),
            rows: rows.clone(),
        };
        let found = execution::collect(self.plan.clone(), Arc::new(reader)).await?;
        let mut before = 0;
        for batch in &found {
            for (truths, name) in batch.columns().iter().zip(&self.names) {
                let failing = truths.as_boolean().iter().position(|t| t == Some(false));
                if let Some(row) = failing {
                    return Ok(Some((name, before + row)));
                }
            }
            before += batch.num_rows();
        }
        Ok(None)
    }
}

impl SqlSession {
    /// Refuses CHECKs that can't be evaluated, when the table is made.
    pub(super) fn check_checks(&self, object: &Object) -> Result<(), SqlError> {
        self.checks_of(object).map(|_| ())
    }

    /// The plan of a table's CHECKs, if it has any.
    pub(super) fn checks_of(&self, object: &Object) -> Result<Option<Checks>, SqlError> {
        let Detail::Table { checks, .. } = &object.detail else {
            return Ok(None);
        };
        if checks.is_empty() {
            return Ok(None);
        }
        let conditions: Vec<String> = checks.iter().map(|c| c.condition.clone()).collect();
        let table = Relation {
            id: WRITTEN,
            schema: object.record.schema.clone(),
            name: object.record.name.clone(),
            kind: RelationKind::Table,
            columns: object.columns.clone(),
            oid: 0,
            planned: None,
            primary_key: None,
            unique: None,
            append_only: false,
        };
        let planner = &self.handle.env.planner;
        Ok(Some(Checks {
            schema: object.record.schema.clone(),
            table: object.record.name.clone(),
            names: checks.iter().map(|c| c.name.clone()).collect(),
            plan: planner.plan_checks(&self.context(), &conditions, &table)?,
        }))
    }

    pub(super) async fn check_rows(
        &self,
        object: &Object,
        rows: &RecordBatch,
        snapshot: &Snapshot,
    ) -> Result<(), SqlError> {
        match self.checks_of(object)? {
            Some(checks) => checks.of(rows, snapshot).await,
            None => Ok(()),
        }
    }
}
