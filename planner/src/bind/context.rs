//! Where an expression stands: what it may name and contain, and what of its value matters.

use std::cell::RefCell;

use sqlparser::ast;

use super::Ctes;
use super::expr::Calls;
use super::scope::Scope;

/// Where an expression stands.
#[derive(Clone, Copy)]
pub(crate) struct Ctx<'c> {
    pub scope: &'c Scope<'c>,
    pub ctes: &'c Ctes,
    /// Where calls go; `None`: not allowed here.
    pub calls: Option<&'c RefCell<Calls>>,
    pub aggregates: bool,
    pub windows: bool,
    pub sets: bool,
    /// For messages, e.g. `WHERE`.
    pub clause: &'static str,
    /// Named windows.
    pub named_windows: &'c [ast::NamedWindowDefinition],
    /// What of the expression's truth matters.
    pub truth: Truth,
}

/// What of a condition's value matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Truth {
    /// True, false and NULL are three values.
    Value,
    /// Only whether it is true: NULL is as good as false.
    Holds,
    /// The same, and rows for which it isn't true are dropped.
    Decides,
}

impl<'c> Ctx<'c> {
    /// Plain expressions.
    pub(crate) fn plain(scope: &'c Scope<'c>, ctes: &'c Ctes, clause: &'static str) -> Self {
        Ctx {
            scope,
            ctes,
            calls: None,
            aggregates: false,
            windows: false,
            sets: false,
            clause,
            named_windows: &[],
            truth: Truth::Value,
        }
    }

    /// For what must be one value, though rows may become more around it.
    pub(crate) fn one_value(self, clause: &'static str) -> Self {
        Ctx {
            sets: false,
            clause: if self.sets { clause } else { self.clause },
            ..self
        }
    }

    /// For an operand, whose value matters.
    pub(crate) fn value(self) -> Self {
        Ctx {
            truth: Truth::Value,
            ..self
        }
    }
}
