//! The names that a query over the catalog sees.

use tidemill_planner::SqlError;
use tidemill_planner::ast::syntax as ast;

use super::plan::Expr;
use super::value::Ty;

/// SQLSTATE-like mark of what the planner must answer: never shown to users.
pub const NOT_OURS: &str = "TM000";

/// The refusal.
pub fn not_ours(what: impl std::fmt::Display) -> SqlError {
    SqlError::new(NOT_OURS, format!("not a catalog query: {what}"))
}

/// A name for a range of a row.
pub(super) struct Table {
    /// Alias, or the relation's name.
    pub name: String,
    pub columns: Vec<(String, Ty)>,
    pub at: usize,
    /// Oid of the relation itself, for `tableoid`.
    pub oid: Option<u32>,
}

/// Names that a query sees.
#[derive(Default)]
pub struct Scope<'a> {
    pub(super) tables: Vec<Table>,
    /// Tables from here on are hidden from derived tables that aren't LATERAL.
    pub(super) hidden: bool,
    pub(super) parent: Option<&'a Scope<'a>>,
}

impl<'a> Scope<'a> {
    /// The column of a name: expression and type.
    pub(super) fn column(&self, table: Option<&str>, name: &str) -> Option<(Expr, Ty)> {
        let mut scope = Some(self);
        let mut depth = 0;
        while let Some(current) = scope {
            for entry in current.tables.iter().filter(|_| !current.hidden) {
                if table.is_some_and(|wanted| wanted != entry.name) {
                    continue;
                }
                if let Some(number) = entry.columns.iter().position(|(column, _)| column == name) {
                    let index = entry.at + number;
                    return Some((Expr::Column { depth, index }, entry.columns[number].1));
                }
                if let Some(oid) = entry.oid
                    && let Some(value) = system_column(name, oid)
                {
                    return Some((Expr::Const(super::value::Value::Int(value)), Ty::Oid));
                }
            }
            scope = current.parent;
            depth += 1;
        }
        None
    }

    pub(super) fn wildcard(&self, table: Option<&str>) -> Option<Vec<(String, Expr, Ty)>> {
        let mut found = Vec::new();
        let mut any = table.is_none();
        for entry in &self.tables {
            if table.is_none_or(|wanted| wanted == entry.name) {
                any = true;
                for (number, (name, ty)) in entry.columns.iter().enumerate() {
                    let index = entry.at + number;
                    found.push((name.clone(), Expr::Column { depth: 0, index }, *ty));
                }
            }
        }
        any.then_some(found)
    }
}

/// Columns that every relation has without saying so.
fn system_column(name: &str, oid: u32) -> Option<i64> {
    match name {
        "tableoid" => Some(i64::from(oid)),
        "xmin" => Some(1),
        _ => None,
    }
}

/// The last part of a name, and the part before it.
pub fn name_of(name: &ast::ObjectName) -> (Option<String>, String) {
    let mut parts: Vec<String> = name
        .0
        .iter()
        .filter_map(|part| part.as_ident().map(fold))
        .collect();
    let last = parts.pop().unwrap_or_default();
    (parts.pop(), last)
}

/// An identifier after case folding.
pub fn fold(ident: &ast::Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    }
}
