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
use crate::ast::ColumnDefault;
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

/// What is unique of a table: its PRIMARY KEY or a unique index.
#[derive(Clone, Debug)]
pub struct Key {
    /// Its name.
    pub name: String,
    /// Columns of the table.
    pub columns: Vec<usize>,
    /// A constraint, which ON CONFLICT ON CONSTRAINT can name.
    pub constraint: bool,
}

/// What INSERT says of conflicts, and with which of `keys`, by their numbers.
pub(crate) fn conflict(
    insert: &ast::Insert,
    table: &Relation,
    keys: &[Key],
) -> Result<(Conflict, Vec<usize>)> {
    let on = match &insert.on {
        None => return Ok((Conflict::Fail, vec![])),
        Some(OnInsert::OnConflict(on)) => on,
        Some(other) => return Err(SqlError::unsupported(format!("{other} is not supported"))),
    };
    let skips = matches!(on.action, OnConflictAction::DoNothing);
    let chosen: Vec<usize> = match &on.conflict_target {
        None if skips => (0..keys.len()).collect(),
        None => {
            return Err(SqlError::new(
                "42601",
                "ON CONFLICT DO UPDATE requires inference specification or constraint name",
            )
            .hint("For example, ON CONFLICT (column_name)."));
        }
        Some(ast::ConflictTarget::Columns(names)) => inferred(names, table, keys)?,
        Some(ast::ConflictTarget::OnConstraint(name)) => {
            let name = crate::parser::parts(name).pop().unwrap_or_default();
            let Some(key) = keys.iter().position(|k| k.constraint && k.name == name) else {
                let table = &table.name;
                let message = format!("constraint \"{name}\" for table \"{table}\" does not exist");
                return Err(SqlError::new("42704", message));
            };
            vec![key]
        }
    };
    Ok(match skips {
        // A table without a key has no conflicts.
        true if chosen.is_empty() => (Conflict::Fail, chosen),
        true => (Conflict::Skip, chosen),
        false => (Conflict::Update, chosen),
    })
}

/// The keys that have these columns.
fn inferred(names: &[ast::Ident], table: &Relation, keys: &[Key]) -> Result<Vec<usize>> {
    let mut columns = Vec::with_capacity(names.len());
    for name in names.iter().map(fold) {
        let Some((column, _)) = table.columns.column_with_name(&name) else {
            let message = format!("column \"{name}\" does not exist");
            return Err(SqlError::new("42703", message));
        };
        columns.push(column);
    }
    let same = |key: &Key| {
        key.columns.iter().all(|c| columns.contains(c))
            && columns.iter().all(|c| key.columns.contains(c))
    };
    let chosen: Vec<usize> = (0..keys.len()).filter(|k| same(&keys[*k])).collect();
    match chosen.is_empty() {
        false => Ok(chosen),
        true => Err(SqlError::new(
            "42P10",
            "there is no unique or exclusion constraint matching the ON CONFLICT specification",
        )),
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
        oid: table.oid,
        planned: None,
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

    /// Refuses an expression of ALTER COLUMN … TYPE … USING that can't be evaluated over rows of the table; without one, the column
    /// itself is taken.
    pub(crate) fn transform(
        &self,
        (column, using): (&str, Option<&str>),
        to: &SqlType,
        table: &Relation,
    ) -> Result<()> {
        let fields = table.columns.fields().iter().map(|f| f.as_ref().clone());
        let rel = self.scan(&written(table, fields.collect()), "written")?;
        let mut scope = Scope::new(Outer::None);
        scope.add(scope_table(&rel.cols, &table.name, table))?;
        let ctes = Ctes::new();
        let ctx = Ctx::plain(&scope, &ctes, "transform expressions");
        let e = match using {
            Some(using) => crate::parser::parse_expr(using)?,
            None => ast::Expr::Identifier(ast::Ident::with_quote('"', column)),
        };
        if has_query(&e) {
            return Err(SqlError::unsupported(
                "cannot use subquery in transform expression",
            ));
        }
        let value = self.expr(ctx, &e)?;
        let name = crate::bind::types::plain_name(to);
        self.assign(value, to, column).map(drop).map_err(|e| {
            if e.sqlstate != "42804" {
                return e;
            }
            match using {
                None => SqlError::new(
                    "42804",
                    format!("column \"{column}\" cannot be cast automatically to type {name}"),
                )
                .hint(format!("You might need to specify \"USING {column}::{name}\".")),
                Some(_) => SqlError::new(
                    "42804",
                    format!("result of USING clause for column \"{column}\" cannot be cast automatically to type {name}"),
                )
                .hint("You might need to add an explicit cast."),
            }
        })
    }

    /// ON CONFLICT DO UPDATE over rows of the table's columns and then those of `excluded`: all old columns, then all new
    /// ones, of the rows that WHERE lets through.
    pub(crate) fn do_update(
        &self,
        insert: &ast::Insert,
        table: &Relation,
        defaults: &[Option<ColumnDefault>],
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
        schema: (alias == table.name).then(|| table.schema.clone()),
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
