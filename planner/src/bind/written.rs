//! RETURNING and ON CONFLICT DO UPDATE: queries over rows that a write has at hand, not over a collection.
//!
//! The server gives those rows to the scan of the collection [`WRITTEN`].

use std::sync::Arc;

use arrow::datatypes::{Field, Schema};
use sqlparser::ast::{self, OnConflict, OnConflictAction, OnInsert, SelectItem};
use tidemill_zset::CollectionId;
use tidemill_zset::schema::SqlType;

use super::expr::Ctx;
use super::scope::{Outer, Scope, ScopeCol, ScopeTable};
use super::{Binder, Ctes, Rel, RelCol, project, unique_names};
use crate::catalog::{Relation, RelationKind};
use crate::error::{Result, SqlError};
use crate::parser::fold;

/// The collection that stands for a write's rows.
pub const WRITTEN: CollectionId = CollectionId(u64::MAX);

/// What an INSERT does with a row whose key is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// Nothing special: it is an error.
    Fail,
    /// DO NOTHING
    Skip,
    /// DO UPDATE
    Update,
}

/// What INSERT says of conflicts; the target must be the table's key.
pub(crate) fn conflict(insert: &ast::Insert, table: &Relation) -> Result<Conflict> {
    let on = match &insert.on {
        None => return Ok(Conflict::Fail),
        Some(OnInsert::OnConflict(on)) => on,
        Some(other) => return Err(SqlError::unsupported(format!("{other} is not supported"))),
    };
    let fields = table.columns.fields();
    let key: Option<Vec<&str>> = table
        .primary_key
        .as_ref()
        .map(|k| k.iter().map(|i| fields[*i].name().as_str()).collect());
    let matches = match (&on.conflict_target, &key) {
        (None, _) => matches!(on.action, OnConflictAction::DoNothing),
        (Some(ast::ConflictTarget::Columns(names)), Some(key)) => {
            let names: Vec<String> = names.iter().map(fold).collect();
            if let Some(n) = names.iter().find(|n| fields.find(n).is_none()) {
                return Err(SqlError::new(
                    "42703",
                    format!("column \"{n}\" does not exist"),
                ));
            }
            names.len() == key.len() && names.iter().all(|n| key.contains(&n.as_str()))
        }
        (Some(ast::ConflictTarget::OnConstraint(name)), Some(_)) => {
            let name = crate::parser::parts(name).pop().unwrap_or_default();
            let own = format!("{}_pkey", table.name);
            if name != own {
                return Err(SqlError::new(
                    "42704",
                    format!(
                        "constraint \"{name}\" for table \"{}\" does not exist",
                        table.name
                    ),
                ));
            }
            true
        }
        (Some(_), None) => false,
    };
    match &on.action {
        _ if !matches && on.conflict_target.is_none() => Err(SqlError::new(
            "42601",
            "ON CONFLICT DO UPDATE requires inference specification or constraint name",
        )
        .hint("For example, ON CONFLICT (column_name).")),
        _ if !matches => Err(SqlError::new(
            "42P10",
            "there is no unique or exclusion constraint matching the ON CONFLICT specification",
        )
        .hint("Only the PRIMARY KEY of a table is unique.")),
        // A table without a key has no conflicts.
        OnConflictAction::DoNothing if key.is_none() => Ok(Conflict::Fail),
        OnConflictAction::DoNothing => Ok(Conflict::Skip),
        OnConflictAction::DoUpdate(_) => Ok(Conflict::Update),
    }
}

/// The relation of the rows at hand.
fn written(table: &Relation, fields: Vec<Field>) -> Relation {
    Relation {
        id: WRITTEN,
        schema: String::new(),
        name: "written".into(),
        kind: RelationKind::Table,
        columns: Arc::new(Schema::new(fields)),
        primary_key: None,
        unique: None,
        append_only: table.append_only,
    }
}

impl Binder<'_> {
    /// RETURNING: `items` over rows of the table's columns and then, where there are several relations in `from`, those of the
    /// others.
    pub(crate) fn returning(
        &self,
        items: &[SelectItem],
        table: &Relation,
        alias: Option<&str>,
        from: &[ast::TableWithJoins],
    ) -> Result<Rel> {
        let ctes = Ctes::new();
        let alone = from.len() < 2 && from.iter().all(|t| t.joins.is_empty());
        let others = match alone {
            true => vec![],
            false => self
                .relations(from, &ctes, Outer::None)?
                .1
                .tables
                .split_off(1),
        };
        let own = table.columns.fields().iter().map(|f| f.as_ref().clone());
        let all = others.iter().flat_map(|t| &t.cols).enumerate();
        let more = all.map(|(i, c)| c.ty.field(&beside_name(i), true));
        let rel = self.scan(&written(table, own.chain(more).collect()), "written")?;
        let (own, mut more) = rel.cols.split_at(table.columns.fields().len());
        let mut scope = Scope::new(Outer::None);
        scope.add(scope_table(own, alias.unwrap_or(&table.name), table))?;
        for mut other in others {
            let given;
            (given, more) = more.split_at(other.cols.len());
            for (c, g) in other.cols.iter_mut().zip(given) {
                c.expr = datafusion_expr::Expr::Column(g.column.clone());
            }
            scope.add(other)?;
        }
        let ctx = Ctx {
            clause: "RETURNING",
            ..Ctx::plain(&scope, &ctes, "RETURNING")
        };
        let items = self.items(ctx, items)?;
        let names = unique_names(&items.iter().map(|i| i.name.clone()).collect::<Vec<_>>());
        let (mut exprs, mut cols) = (Vec::new(), Vec::new());
        for (i, name) in items.into_iter().zip(names) {
            let value = self.known(i.value)?;
            exprs.push(value.expr.alias(&name));
            cols.push(RelCol {
                name: i.name,
                ty: value.ty,
                unknown: false,
                column: datafusion_common::Column::new_unqualified(name),
            });
        }
        Ok(Rel {
            plan: project(rel.plan, exprs)?,
            cols,
        })
    }

    /// The conditions of a table's CHECKs over rows of its columns.
    pub(crate) fn checks(&self, conditions: &[String], table: &Relation) -> Result<Rel> {
        let fields = table.columns.fields().iter().map(|f| f.as_ref().clone());
        let rel = self.scan(&written(table, fields.collect()), "written")?;
        let mut scope = Scope::new(Outer::None);
        scope.add(scope_table(&rel.cols, &table.name, table))?;
        let ctes = Ctes::new();
        let ctx = Ctx::plain(&scope, &ctes, "check constraints");
        let (mut exprs, mut cols) = (Vec::new(), Vec::new());
        for (i, condition) in conditions.iter().enumerate() {
            let condition = crate::parser::parse_expr(condition)?;
            if has_query(&condition) {
                return Err(SqlError::unsupported(
                    "cannot use subquery in check constraint",
                ));
            }
            let value = self.expr(ctx, &condition)?;
            let name = format!("check#{i}");
            exprs.push(self.boolean(value, "CHECK")?.alias(&name));
            cols.push(RelCol {
                column: datafusion_common::Column::new_unqualified(&name),
                name,
                ty: SqlType::Bool,
                unknown: false,
            });
        }
        Ok(Rel {
            plan: project(rel.plan, exprs)?,
            cols,
        })
    }

    /// ON CONFLICT DO UPDATE over rows of the table's columns and then those of `excluded`: all old columns, then all new
    /// ones, of the rows that WHERE lets through.
    pub(crate) fn do_update(
        &self,
        insert: &ast::Insert,
        table: &Relation,
        defaults: &[Option<String>],
    ) -> Result<Rel> {
        let Some(OnInsert::OnConflict(OnConflict {
            action: OnConflictAction::DoUpdate(update),
            ..
        })) = &insert.on
        else {
            return Err(SqlError::internal("not an ON CONFLICT DO UPDATE"));
        };
        let own = table.columns.fields();
        let width = own.len();
        let fields = own
            .iter()
            .enumerate()
            .map(|(i, f)| f.as_ref().clone().with_name(format!("old#{i}")))
            .chain(
                own.iter()
                    .enumerate()
                    .map(|(i, f)| f.as_ref().clone().with_name(format!("new#{i}"))),
            );
        let rel = self.scan(&written(table, fields.collect()), "written")?;
        let named = |cols: &[RelCol]| -> Vec<RelCol> {
            let pairs = cols.iter().zip(own.iter());
            pairs
                .map(|(c, f)| RelCol {
                    name: f.name().clone(),
                    ..c.clone()
                })
                .collect()
        };
        let (old, excluded) = (named(&rel.cols[..width]), named(&rel.cols[width..]));
        let alias = insert.table_alias.as_ref().map(|a| fold(&a.alias));
        let mut scope = Scope::new(Outer::None);
        scope.add(scope_table(
            &old,
            alias.as_deref().unwrap_or(&table.name),
            table,
        ))?;
        scope.add(scope_table(&excluded, "excluded", table))?;
        // Bare names mean the row that is there.
        scope.prefer_first = true;
        let ctes = Ctes::new();
        let mut plan = rel.plan;
        if let Some(w) = &update.selection {
            plan = self.where_clause(plan, &scope, &ctes, w)?;
        }
        let old: Vec<datafusion_expr::Expr> = scope.tables[0]
            .cols
            .iter()
            .map(|c| c.expr.clone())
            .collect();
        let new = self.assignments(&update.assignments, &scope, &ctes, table, defaults, &old)?;
        super::dml::old_and_new(plan, table, old, new, vec![])
    }
}

/// The name of the column `i` of the relations beside the one that is written to.
pub(super) fn beside_name(i: usize) -> String {
    format!("from#{i}")
}

fn has_query(e: &ast::Expr) -> bool {
    crate::walk::any_expr(e, |e| {
        matches!(
            e,
            ast::Expr::Subquery(_) | ast::Expr::Exists { .. } | ast::Expr::InSubquery { .. }
        )
    })
}

fn scope_table(cols: &[RelCol], alias: &str, table: &Relation) -> ScopeTable {
    ScopeTable {
        alias: alias.to_string(),
        schema: None,
        cols: cols
            .iter()
            .map(|c| ScopeCol {
                name: c.name.clone(),
                ty: c.ty.clone(),
                expr: datafusion_expr::Expr::Column(c.column.clone()),
                hidden: false,
            })
            .collect(),
        primary_key: table.primary_key.clone(),
    }
}
