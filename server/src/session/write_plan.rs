//! What a write is planned to: its target, the plans of its rows, of DO UPDATE and of RETURNING.

use std::sync::Arc;

use arrow::datatypes::{Field, SchemaRef};
use tidemill_planner::SqlError;
use tidemill_planner::ast::{ColumnDefault, Statement};
use tidemill_planner::catalog::{CatalogView, Relation, RelationKind};
use tidemill_planner::names::{is_quick_change, sqlparser_ast};
use tidemill_planner::query::{Conflict, QueryPlan, Settled};

use super::execution::planning;
use super::plans::{self, PlanSlot, Planned};
use super::sql::SqlSession;
use super::unique::Unique;
use crate::catalog::{Detail, Object};
use crate::published::Published;

/// A write's target: the relation as the planner sees it, and the object.
pub struct Target {
    pub relation: Relation,
    pub object: Arc<Object>,
    pub defaults: Vec<Option<ColumnDefault>>,
    /// What is unique of it: the PRIMARY KEY first.
    pub keys: Vec<Unique>,
}

/// A RETURNING clause.
pub(super) struct Returning<'a> {
    items: &'a [sqlparser_ast::SelectItem],
    /// The table's alias in the statement.
    alias: Option<&'a sqlparser_ast::Ident>,
    /// The relations that the statement reads, the table itself first; of an INSERT none.
    from: Vec<sqlparser_ast::TableWithJoins>,
}

fn returning(statement: &Statement) -> Option<Returning<'_>> {
    fn alias(tables: &[sqlparser_ast::TableWithJoins]) -> Option<&sqlparser_ast::Ident> {
        match &tables.first()?.relation {
            sqlparser_ast::TableFactor::Table { alias, .. } => alias.as_ref().map(|a| &a.name),
            _ => None,
        }
    }
    let (items, alias, from) = match statement {
        Statement::Insert(insert) => (
            insert.returning.as_ref()?,
            insert.table_alias.as_ref().map(|a| &a.alias),
            vec![],
        ),
        Statement::Update(update) => match update.as_ref() {
            sqlparser_ast::Statement::Update(update) => {
                use sqlparser_ast::UpdateTableFromKind::{AfterSet, BeforeSet};
                let mut from = vec![update.table.clone()];
                if let Some(AfterSet(more) | BeforeSet(more)) = &update.from {
                    from.extend(more.iter().cloned());
                }
                (
                    update.returning.as_ref()?,
                    alias(std::slice::from_ref(&update.table)),
                    from,
                )
            }
            _ => return None,
        },
        Statement::Delete(delete) => match &delete.from {
            sqlparser_ast::FromTable::WithFromKeyword(tables)
            | sqlparser_ast::FromTable::WithoutKeyword(tables) => {
                let mut from = tables.clone();
                from.extend(delete.using.iter().flatten().cloned());
                (delete.returning.as_ref()?, alias(tables), from)
            }
        },
        _ => return None,
    };
    Some(Returning { items, alias, from })
}

impl SqlSession {
    pub(super) fn target(
        &self,
        published: &Published,
        schema: Option<&str>,
        name: &str,
    ) -> Result<Target, SqlError> {
        let Some(relation) = self.names(published).resolve(schema, name) else {
            return Err(self.no_relation(published, name));
        };
        if relation.kind != RelationKind::Table {
            let kind = match relation.kind {
                RelationKind::Source => "source",
                RelationKind::View { .. } | RelationKind::Broken { .. } => "view",
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
            keys: Unique::all_of(&published.catalog, &object),
            relation,
            object,
            defaults,
        })
    }

    /// Parameters of a write, and the columns of its RETURNING.
    pub(super) fn write_shape(
        &mut self,
        statement: &Statement,
        types: &[Option<Field>],
        slot: Option<&PlanSlot>,
    ) -> Result<(Vec<Field>, Option<SchemaRef>), SqlError> {
        let published = self.pin();
        let planned = self.planned_write(&published, statement, types, slot)?;
        let write = planned.write()?;
        let further = write.update.iter().chain(&write.returning);
        let plans: Vec<&QueryPlan> = [&write.query]
            .into_iter()
            .chain(further)
            .map(|q| &q.plan)
            .collect();
        let params = params_of(&plans)?;
        let columns = write.returning.as_ref().map(|r| r.plan.described.clone());
        Ok((params, columns))
    }

    /// The plan of a write, from its slot if it has one that still holds.
    pub(super) fn planned_write(
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
        let plan = || self.plans_of_write(published, statement, types);
        let planned = match is_quick_change(statement, &self.names(published)) {
            true => plan(),
            false => planning(plan),
        }?;
        if let Some(slot) = slot {
            slot.set(&published.catalog, version, &planned);
        }
        Ok(planned)
    }

    fn plans_of_write(
        &self,
        published: &Arc<Published>,
        statement: &Statement,
        types: &[Option<Field>],
    ) -> Result<Arc<Planned>, SqlError> {
        let (target, plan) = self.plan_write(published, statement, types)?;
        // A parameter has one type in all of the statement.
        let types = &mut types.to_vec();
        settle(types, &plan);
        let update = match statement {
            Statement::Insert(insert) if self.conflict(insert, &target)?.0 == Conflict::Update => {
                let plan = self.plan_do_update(published, insert, &target, types)?;
                settle(types, &plan);
                Some(plans::Query::new(plan))
            }
            _ => None,
        };
        let returning = match returning(statement) {
            Some(returning) => {
                let plan = self.plan_returning(published, returning, &target, types)?;
                Some(plans::Query::new(plan))
            }
            None => None,
        };
        Ok(Arc::new(Planned::Write(Box::new(plans::Write {
            query: plans::Query::new(plan),
            target: Arc::new(target),
            update,
            returning,
        }))))
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
        let (name, position) = tidemill_planner::names::write_target(statement)?;
        let target = self
            .target(published, name.schema.as_deref(), &name.name)
            .map_err(|mut e| {
                e.position = position;
                e
            })?;
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

    pub(super) fn conflict(
        &self,
        insert: &sqlparser_ast::Insert,
        target: &Target,
    ) -> Result<(Conflict, Vec<usize>), SqlError> {
        let keys: Vec<_> = target.keys.iter().map(|k| k.key(&target.object)).collect();
        let planner = &self.handle.env.planner;
        planner.conflict(insert, &target.relation, &keys)
    }

    fn plan_do_update(
        &self,
        published: &Arc<Published>,
        insert: &sqlparser_ast::Insert,
        target: &Target,
        types: &[Option<Field>],
    ) -> Result<QueryPlan, SqlError> {
        self.handle.env.planner.plan_do_update(
            &self.names(published),
            &self.context(),
            insert,
            &target.relation,
            &target.defaults,
            types,
        )
    }

    fn plan_returning(
        &self,
        published: &Arc<Published>,
        returning: Returning<'_>,
        target: &Target,
        types: &[Option<Field>],
    ) -> Result<QueryPlan, SqlError> {
        let alias = returning.alias.map(tidemill_planner::names::folded);
        self.handle.env.planner.plan_returning(
            &self.names(published),
            &self.context(),
            (returning.items, alias.as_deref()),
            &returning.from,
            &target.relation,
            types,
        )
    }
}

/// Notes the types that parameters have in a plan.
pub(super) fn settle(types: &mut Vec<Option<Field>>, plan: &QueryPlan) {
    types.resize(types.len().max(plan.params.len()), None);
    for ((ty, param), settled) in types.iter_mut().zip(&plan.params).zip(&plan.settled) {
        if *settled == Settled::Typed {
            ty.get_or_insert_with(|| param.clone());
        }
    }
}

/// The parameters of a statement that has these plans.
pub(super) fn params_of(plans: &[&QueryPlan]) -> Result<Vec<Field>, SqlError> {
    let count = plans.iter().map(|p| p.params.len()).max();
    let param = |i: usize| {
        let there = plans.iter().filter(|p| i < p.params.len());
        let with = |wanted: Settled| there.clone().find(|p| p.settled[i] == wanted);
        match with(Settled::Typed).or_else(|| with(Settled::Named)) {
            Some(plan) => Ok(plan.params[i].clone()),
            None => Err(SqlError::new(
                "42P18",
                format!("could not determine data type of parameter ${}", i + 1),
            )),
        }
    };
    (0..count.unwrap_or(0)).map(param).collect()
}
