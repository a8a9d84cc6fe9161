//! Literals that are given like parameters, so that statements which differ in nothing else have one plan.
//!
//! Applications whose drivers put values into the text send the same few statements over and over: a row by its key, a column of it set anew.
//! Planning them costs more than running them, and more with each column of the table. Those of one table whose literals stand beside
//! its columns are planned with parameters in their places instead; the text with these is what the plan is kept under ([`super::plans::Texts`]).
//! Those that don't find their rows by an index aren't: what they take is the scan, and their plan may depend on the values.
//!
//! Invariant: the statement means the same. A literal becomes a parameter only where its value and type don't depend on more than the column
//! beside it, as it was when the literal was looked at; all others stay, and are part of the text that tells statements apart. What can't be read as a value of that type is left to
//! the planner, whose errors say where.

use std::borrow::Cow;

use arrow::array::{ArrayRef, Int16Array, Int32Array, Int64Array};
use arrow::datatypes::Field;
use std::sync::Arc;
use tidemill_planner::ast::{Parsed, Statement};
use tidemill_planner::catalog::{CatalogView, Relation, RelationKind};
use tidemill_planner::names::{folded, name_of, sqlparser_ast as ast};
use tidemill_zset::schema::SqlType;

use super::ParamValue;
use super::plans::{PlanSlot, Planned};
use super::query::Given;
use super::sql::SqlSession;
use crate::catalog::Catalog;
use crate::pg::params::from_text;
use crate::published::Published;

/// Longer texts aren't looked at, in bytes.
const TEXT_MAX: usize = 4096;

/// A statement with parameters instead of some literals.
pub(super) struct Lifted {
    /// With `$1`, `$2`, …, and the text that the client sent.
    pub parsed: Parsed,
    /// Its text with the parameters, which is the same for all statements with the same plan.
    text: String,
    fields: Vec<Field>,
    values: Vec<ParamValue>,
    /// Where the types of the columns beside them are from.
    catalog: Arc<Catalog>,
}

impl Lifted {
    pub fn given<'a>(&'a self, slot: &'a PlanSlot) -> Given<'a> {
        Given {
            params: &self.values,
            lifted_with: Some(&self.catalog),
            declared: Some(&self.fields),
            slot: Some(slot),
            ..Given::default()
        }
    }
}

impl SqlSession {
    /// The statement with parameters and the place of its plan, if it is of the kind for which that is worth it, statements like it came
    /// before, and they found their rows by an index.
    pub(super) fn lifted(&mut self, parsed: &Parsed) -> Option<(Lifted, PlanSlot)> {
        if parsed.sql.len() > TEXT_MAX || parsed.sql.contains('$') {
            return None;
        }
        table_of(&parsed.statement)?;
        // Not pinned: the statement may never read anything.
        let published = match &self.transaction {
            Some(transaction) if transaction.failed => return None,
            Some(transaction) => transaction.published.clone(),
            None => None,
        };
        let published = published.unwrap_or_else(|| self.handle.env.publisher.pin());
        let lifted = self.with_parameters(&published, parsed)?;
        let slot = self.shapes.slot(&lifted.text)?;
        let types: Vec<Option<Field>> = lifted.fields.iter().cloned().map(Some).collect();
        let planned = match &lifted.parsed.statement {
            Statement::Query { query, .. } => {
                self.planned(&published, (query, None), &types, Some(&slot))
            }
            change => self.planned_write(&published, change, &types, Some(&slot)),
        };
        // Plans for DataFusion are better made with the values, and kept where the same text comes again.
        let by_index = match &*planned.ok()? {
            Planned::Query(query) => !query.was_scanned(),
            Planned::Write(write) => !write.query.was_scanned(),
            Planned::Catalog => false,
        };
        by_index.then_some((lifted, slot))
    }

    fn with_parameters(&self, published: &Published, parsed: &Parsed) -> Option<Lifted> {
        let table = table_of(&parsed.statement)?;
        let ast::TableFactor::Table { name, alias, .. } = table else {
            return None;
        };
        if alias.as_ref().is_some_and(|a| !a.columns.is_empty()) {
            // Its columns have other names.
            return None;
        }
        let name = name_of(name).ok()?;
        let relation = self
            .names(published)
            .resolve(name.schema.as_deref(), &name.name)?;
        let stored = matches!(
            relation.kind,
            RelationKind::Table | RelationKind::Source | RelationKind::MaterializedView
        );
        if !stored {
            return None;
        }
        let mut lift = Lift {
            session: self,
            called: alias.as_ref().map_or(name.name, |a| folded(&a.name)),
            relation,
            fields: Vec::new(),
            values: Vec::new(),
        };
        let mut statement = parsed.statement.clone();
        let text = match &mut statement {
            Statement::Query { query, .. } => {
                let ast::SetExpr::Select(select) = query.body.as_mut() else {
                    return None;
                };
                lift.condition(select.selection.as_mut()?);
                query.to_string()
            }
            Statement::Update(update) => {
                let ast::Statement::Update(update) = update.as_mut() else {
                    return None;
                };
                for assignment in &mut update.assignments {
                    lift.assignment(assignment);
                }
                lift.condition(update.selection.as_mut()?);
                update.to_string()
            }
            Statement::Delete(delete) => {
                lift.condition(delete.selection.as_mut()?);
                delete.to_string()
            }
            _ => return None,
        };
        (!lift.values.is_empty()).then_some(Lifted {
            text,
            catalog: published.catalog.clone(),
            fields: lift.fields,
            values: lift.values,
            parsed: Parsed {
                statement,
                sql: parsed.sql.clone(),
            },
        })
    }
}

/// The one relation of a statement that finds rows of it by conditions, and does nothing else with them than show or change them.
fn table_of(statement: &Statement) -> Option<&ast::TableFactor> {
    let table = match statement {
        Statement::Query { query, as_of: None } if query.with.is_none() => {
            let ast::SetExpr::Select(select) = query.body.as_ref() else {
                return None;
            };
            let columns = select.projection.iter().all(|item| match item {
                ast::SelectItem::Wildcard(_) => true,
                ast::SelectItem::UnnamedExpr(e)
                | ast::SelectItem::ExprWithAlias { expr: e, .. } => is_column(e),
                _ => false,
            });
            let plain = columns
                && select.distinct.is_none()
                && select.having.is_none()
                && matches!(&select.group_by, ast::GroupByExpr::Expressions(e, _) if e.is_empty());
            match select.from.as_slice() {
                [one] if plain => one,
                _ => return None,
            }
        }
        Statement::Update(update) => match update.as_ref() {
            ast::Statement::Update(update) if update.from.is_none() => &update.table,
            _ => return None,
        },
        Statement::Delete(delete) if delete.using.is_none() => {
            let (ast::FromTable::WithFromKeyword(tables) | ast::FromTable::WithoutKeyword(tables)) =
                &delete.from;
            match tables.as_slice() {
                [one] => one,
                _ => return None,
            }
        }
        _ => return None,
    };
    let plain = matches!(&table.relation, ast::TableFactor::Table { args: None, .. });
    (plain && table.joins.is_empty()).then_some(&table.relation)
}

fn is_column(e: &ast::Expr) -> bool {
    matches!(
        e,
        ast::Expr::Identifier(_) | ast::Expr::CompoundIdentifier(_)
    )
}

struct Lift<'s> {
    session: &'s SqlSession,
    relation: Relation,
    /// What the statement calls the relation.
    called: String,
    fields: Vec<Field>,
    values: Vec<ParamValue>,
}

impl Lift<'_> {
    /// Literals that columns are compared with, in conditions that must all be true.
    fn condition(&mut self, e: &mut ast::Expr) {
        use ast::BinaryOperator::*;
        match e {
            ast::Expr::Nested(inner) => self.condition(inner),
            ast::Expr::BinaryOp {
                left,
                op: And,
                right,
            } => {
                self.condition(left);
                self.condition(right);
            }
            ast::Expr::BinaryOp {
                left,
                op: Eq | NotEq | Lt | LtEq | Gt | GtEq,
                right,
            } => {
                if let Some(ty) = self.type_of(left) {
                    self.literal(right, &compared(ty));
                }
            }
            ast::Expr::Between {
                expr, low, high, ..
            } => {
                if let Some(ty) = self.type_of(expr) {
                    self.literal(low, &compared(ty.clone()));
                    self.literal(high, &compared(ty));
                }
            }
            _ => {}
        }
    }

    /// `column = literal`, `column = column + literal`.
    fn assignment(&mut self, assignment: &mut ast::Assignment) {
        let ast::AssignmentTarget::ColumnName(name) = &assignment.target else {
            return;
        };
        let [ast::ObjectNamePart::Identifier(column)] = name.0.as_slice() else {
            return;
        };
        let Some(ty) = self.type_named(&folded(column)) else {
            return;
        };
        match &mut assignment.value {
            ast::Expr::BinaryOp {
                left,
                op: ast::BinaryOperator::Plus | ast::BinaryOperator::Minus,
                right,
            } => {
                let of_integers = |ty| matches!(ty, SqlType::Int2 | SqlType::Int4 | SqlType::Int8);
                // An integer by itself is an integer, whatever stands beside it.
                if self.type_of(left).is_some_and(of_integers) && is_number(right) {
                    self.literal(right, &SqlType::Int4);
                }
            }
            // One that is too long is an error whether there are rows or not.
            _ if matches!(ty, SqlType::Varchar(Some(_))) => {}
            value => self.literal(value, &compared(ty)),
        }
    }

    fn type_of(&self, e: &ast::Expr) -> Option<SqlType> {
        match e {
            ast::Expr::Nested(inner) => self.type_of(inner),
            ast::Expr::Identifier(column) => self.type_named(&folded(column)),
            ast::Expr::CompoundIdentifier(parts) => match parts.as_slice() {
                [table, column] if folded(table) == self.called => self.type_named(&folded(column)),
                _ => None,
            },
            _ => None,
        }
    }

    fn type_named(&self, column: &str) -> Option<SqlType> {
        let field = self.relation.columns.field_with_name(column).ok()?;
        Some(SqlType::of(field))
    }

    /// Makes `e` a parameter of the type, if it is a literal whose value is one of it.
    fn literal(&mut self, e: &mut ast::Expr, ty: &SqlType) {
        let Some(value) = self.value(e, ty) else {
            return;
        };
        self.values.push(ParamValue::Value(value));
        self.fields.push(ty.field("?", true));
        let placeholder = ast::Value::Placeholder(format!("${}", self.values.len()));
        *e = ast::Expr::Value(match e {
            ast::Expr::Value(value) => placeholder.with_span(value.span),
            _ => placeholder.with_empty_span(),
        });
    }

    fn value(&self, e: &ast::Expr, ty: &SqlType) -> Option<ArrayRef> {
        if is_number(e) {
            let text = match e {
                ast::Expr::UnaryOp { expr, .. } => Cow::Owned(format!("-{}", digits(expr)?)),
                e => Cow::Borrowed(digits(e)?),
            };
            let n: i64 = text.parse().ok()?;
            return Some(match ty {
                SqlType::Int2 => Arc::new(Int16Array::from(vec![i16::try_from(n).ok()?])),
                SqlType::Int4 => Arc::new(Int32Array::from(vec![i32::try_from(n).ok()?])),
                SqlType::Int8 => Arc::new(Int64Array::from(vec![n])),
                _ => return None,
            });
        }
        let ast::Expr::Value(value) = e else {
            return None;
        };
        let ast::Value::SingleQuotedString(text) = &value.value else {
            return None;
        };
        let by_text = matches!(
            ty,
            SqlType::Text
                | SqlType::Int2
                | SqlType::Int4
                | SqlType::Int8
                | SqlType::Uuid
                | SqlType::Date
                | SqlType::Timestamp
                | SqlType::Timestamptz
        );
        let zone = self.session.settings.get("timezone");
        let zone = zone.and_then(|zone| zone.parse().ok());
        let field = ty.field("?", true);
        let read = || from_text(&field, text.as_bytes(), zone).ok();
        by_text.then(read).flatten()
    }
}

/// The type that a literal beside a column of type `ty` is read as.
fn compared(ty: SqlType) -> SqlType {
    match ty {
        SqlType::Varchar(_) => SqlType::Text,
        ty => ty,
    }
}

fn digits(e: &ast::Expr) -> Option<&str> {
    match e {
        ast::Expr::Value(value) => match &value.value {
            ast::Value::Number(digits, _) => Some(digits),
            _ => None,
        },
        _ => None,
    }
}

fn is_number(e: &ast::Expr) -> bool {
    match e {
        ast::Expr::UnaryOp {
            op: ast::UnaryOperator::Minus,
            expr,
        } => digits(expr).is_some(),
        e => digits(e).is_some(),
    }
}
