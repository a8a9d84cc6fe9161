//! FOR UPDATE, FOR SHARE and their kin. At COMMIT, everything that a transaction has read is checked against what others have
//! changed since, so nothing is left to do but to refuse what PostgreSQL refuses.

use sqlparser::ast::{self, GroupByExpr, LockType, NonBlock, SelectItem, SetExpr, TableFactor};

use super::lateral::has_aggregate;
use super::sets::is_set_returning;
use super::{Binder, Ctes};
use crate::catalog::RelationKind;
use crate::error::{Result, SqlError};
use crate::parser::{fold, parts};
use crate::walk;

/// A relation in FROM: what it is called there, and its name if it has one.
struct Item {
    alias: String,
    name: Option<Vec<String>>,
}

impl Binder<'_> {
    /// Checks a query's locking clauses. Errors: what can't be locked (0A000, 42809), names that FROM doesn't have (42P01).
    pub(super) fn check_locks(&self, q: &ast::Query, ctes: &Ctes) -> Result<()> {
        for lock in &q.locks {
            let clause = match lock.lock_type {
                LockType::Update => "FOR UPDATE",
                LockType::Share => "FOR SHARE",
            };
            if matches!(lock.nonblock, Some(NonBlock::SkipLocked)) {
                let message = format!("{clause} SKIP LOCKED is not supported");
                return Err(SqlError::unsupported(message)
                    .detail("Rows are not locked: COMMIT fails with 40001 if they have changed.")
                    .hint("Take advisory locks: pg_try_advisory_xact_lock tells what is taken."));
            }
            let refused = |by: &str| {
                let message = format!("{clause} is not allowed with {by}");
                Err(SqlError::unsupported(message))
            };
            let select = match q.body.as_ref() {
                SetExpr::Select(select) => select,
                SetExpr::Values(_) => {
                    let message = format!("{clause} cannot be applied to VALUES");
                    return Err(SqlError::unsupported(message));
                }
                _ => return refused("UNION/INTERSECT/EXCEPT"),
            };
            if let Some(by) = not_rows(select) {
                return refused(by);
            }
            let mut items = vec![];
            for from in &select.from {
                add_items(&from.relation, &mut items);
                for join in &from.joins {
                    add_items(&join.relation, &mut items);
                }
            }
            if let Some(of) = &lock.of {
                let of = parts(of);
                items.retain(|item| of.len() == 1 && item.alias == of[0]);
                if items.is_empty() {
                    let message = format!(
                        "relation \"{}\" in {clause} clause not found in FROM clause",
                        of.join(".")
                    );
                    return Err(SqlError::new("42P01", message));
                }
            }
            for name in items.iter().filter_map(|item| item.name.as_deref()) {
                self.check_lockable(name, ctes)?;
            }
        }
        Ok(())
    }

    fn check_lockable(&self, name: &[String], ctes: &Ctes) -> Result<()> {
        let Some((table, schema)) = name.split_last() else {
            return Ok(());
        };
        if schema.is_empty() && ctes.iter().any(|(n, _)| n == table) {
            return Ok(());
        }
        let found = self.find_relation(schema.last().map(String::as_str), table);
        let kind = match found.map(|r| r.kind) {
            Some(RelationKind::MaterializedView) => "materialized view",
            Some(RelationKind::Source) => "source",
            Some(RelationKind::Errors) => "error relation",
            _ => return Ok(()),
        };
        let message = format!("cannot lock rows in {kind} \"{table}\"");
        Err(SqlError::new("42809", message).hint("Only rows of tables can be locked."))
    }
}

/// Why a query's rows aren't those of its tables, in PostgreSQL's words.
fn not_rows(s: &ast::Select) -> Option<&'static str> {
    let any = |test: fn(&ast::Expr) -> bool| {
        s.projection.iter().any(|item| match item {
            SelectItem::UnnamedExpr(e) | SelectItem::ExprWithAlias { expr: e, .. } => test(e),
            _ => false,
        })
    };
    let grouped = match &s.group_by {
        GroupByExpr::All(_) => true,
        GroupByExpr::Expressions(by, more) => !by.is_empty() || !more.is_empty(),
    };
    if s.distinct.is_some() {
        Some("DISTINCT clause")
    } else if grouped {
        Some("GROUP BY clause")
    } else if s.having.is_some() {
        Some("HAVING clause")
    } else if any(has_aggregate) {
        Some("aggregate functions")
    } else if any(has_window) {
        Some("window functions")
    } else if any(has_set) {
        Some("set-returning functions in the target list")
    } else {
        None
    }
}

fn has_window(e: &ast::Expr) -> bool {
    walk::any_expr_here(
        e,
        |e| matches!(e, ast::Expr::Function(f) if f.over.is_some()),
    )
}

fn has_set(e: &ast::Expr) -> bool {
    walk::any_expr_here(e, |e| match e {
        ast::Expr::Function(f) => parts(&f.name).pop().is_some_and(|n| is_set_returning(&n)),
        _ => false,
    })
}

fn add_items(factor: &TableFactor, items: &mut Vec<Item>) {
    match factor {
        TableFactor::Table {
            name, alias, args, ..
        } => {
            let name = parts(name);
            let alias = alias.as_ref().map(|a| fold(&a.name));
            let alias = alias.or_else(|| name.last().cloned());
            items.push(Item {
                alias: alias.unwrap_or_default(),
                name: args.is_none().then_some(name),
            });
        }
        TableFactor::NestedJoin {
            table_with_joins, ..
        } => {
            add_items(&table_with_joins.relation, items);
            for join in &table_with_joins.joins {
                add_items(&join.relation, items);
            }
        }
        TableFactor::Derived { alias: Some(a), .. }
        | TableFactor::Function { alias: Some(a), .. }
        | TableFactor::UNNEST { alias: Some(a), .. } => items.push(Item {
            alias: fold(&a.name),
            name: None,
        }),
        _ => {}
    }
}
