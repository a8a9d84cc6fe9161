//! The binder: PostgreSQL's syntax tree to a typed DataFusion logical plan.
//!
//! It resolves names, types and overloads itself, so that DataFusion's own coercions have nothing left to do:
//! every expression it builds has operands of equal types, and every cast is explicit. Relations get qualifiers
//! that are unique in the statement; names that users see are kept beside the plan, in [`Rel`].

mod aggregate_kinds;
pub(crate) mod aggregates;
pub(crate) mod calls;
pub(crate) mod coerce;
pub(crate) mod conditions;
mod context;
pub(crate) mod dml;
mod elements;
pub(crate) mod expr;
mod factors;
mod foreign;
pub(crate) mod from;
mod from_functions;
pub(crate) mod grouping;
mod grouping_sets;
mod hypothetical;
mod intervals;
pub(crate) mod late_errors;
pub(crate) mod lateral;
mod locks;
pub(crate) mod names;
mod narrowing;
pub(crate) mod operators;
mod outer_aggregates;
mod row_in;
mod rows;
pub(crate) mod scope;
pub(crate) mod select;
mod sequences;
pub(crate) mod setop;
pub(crate) mod sets;
pub(crate) mod subquery;
mod substitute;
pub(crate) mod tail;
pub(crate) mod types;
mod variadic;
mod windows;
pub(crate) mod with;
pub mod written;

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use datafusion_common::{Column, ScalarValue};
use datafusion_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Projection};
use tidemill_zset::CollectionId;
use tidemill_zset::schema::SqlType;

use crate::catalog::{CatalogView, Relation};
use crate::error::{Result, SqlError, from_datafusion};
use crate::functions::shared::shared;
use crate::interrupt;
use crate::origins::{Origin, Origins};
use crate::query::SessionContextInfo;
use crate::query::Settled;

/// An expression with its SQL type.
#[derive(Clone, Debug)]
pub(crate) struct Typed {
    /// Over the columns of the plan at hand; its Arrow type is `ty.arrow()`.
    pub expr: Expr,
    /// Its type; for an unknown one `text`.
    pub ty: SqlType,
    /// A literal or parameter without a type of its own.
    pub unknown: bool,
}

impl Typed {
    pub(crate) fn new(expr: Expr, ty: SqlType) -> Self {
        Typed {
            expr,
            ty,
            unknown: false,
        }
    }

    /// What `f` makes of it, which may use it several times; see [`crate::functions::shared`]. `ty`: the type of the result.
    pub(crate) fn shared(
        self,
        ty: &SqlType,
        f: impl FnOnce(Typed) -> Result<Expr>,
    ) -> Result<Expr> {
        let (own, unknown) = (self.ty, self.unknown);
        shared(self.expr, ty, |expr| {
            f(Typed {
                expr,
                ty: own,
                unknown,
            })
        })
    }

    /// PostgreSQL's name of the type, for messages.
    pub(crate) fn type_name(&self) -> String {
        if self.unknown {
            "unknown".into()
        } else {
            types::plain_name(&self.ty)
        }
    }
}

/// A bound relation: a plan and what users see of its columns.
#[derive(Clone, Debug)]
pub(crate) struct Rel {
    pub plan: LogicalPlan,
    pub cols: Vec<RelCol>,
}

/// A column of a [`Rel`].
#[derive(Clone, Debug)]
pub(crate) struct RelCol {
    /// As users see it.
    pub name: String,
    pub ty: SqlType,
    /// An untyped literal: a set operation or INSERT may still choose its type.
    pub unknown: bool,
    /// In the plan.
    pub column: Column,
}

/// Common table expressions in sight, the innermost last.
pub(crate) type Ctes = Vec<(String, Rel)>;

/// What binding a statement finds out on the way.
#[derive(Clone, Default)]
struct Found {
    params: Vec<Option<SqlType>>,
    inputs: Vec<CollectionId>,
    uses_now: bool,
    volatile: Option<String>,
    asks: Option<String>,
    qualifiers: HashMap<String, usize>,
    counter: usize,
    views: Vec<String>,
    origins: Origins,
    /// How often each parameter was named once its type was known; those that were named at all have a place here.
    named_params: HashMap<usize, usize>,
}

/// Binds one statement.
pub(crate) struct Binder<'a> {
    pub catalog: &'a dyn CatalogView,
    pub session: &'a SessionContextInfo,
    found: RefCell<Found>,
    depth: std::cell::Cell<usize>,
    narrowing: RefCell<narrowing::Narrowing>,
}

/// A level of nesting; see [`Binder::deeper`].
pub(crate) struct Level<'b>(&'b std::cell::Cell<usize>);

impl Drop for Level<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// What [`Binder::finish`] hands over.
pub(crate) struct Facts {
    pub params: Vec<SqlType>,
    pub settled: Vec<Settled>,
    pub inputs: Vec<CollectionId>,
    pub uses_now: bool,
    pub volatile: Option<String>,
    pub asks: Option<String>,
    /// Of the columns of the relations that are named.
    pub origins: Origins,
}

/// Parameters of a statement: as many as messages can have.
const PARAMS_MAX: usize = 65_535;
/// Nesting of expressions that is still bound.
const EXPR_DEPTH_MAX: usize = 250;
/// Views within views that are still inlined.
const VIEW_DEPTH_MAX: usize = 64;

impl<'a> Binder<'a> {
    pub(crate) fn new(
        catalog: &'a dyn CatalogView,
        session: &'a SessionContextInfo,
        params: Vec<Option<SqlType>>,
    ) -> Self {
        Binder {
            catalog,
            session,
            found: RefCell::new(Found {
                params,
                ..Default::default()
            }),
            depth: Default::default(),
            narrowing: Default::default(),
        }
    }

    pub(crate) fn finish(self) -> Facts {
        let f = self.found.into_inner();
        let settled = f.params.iter().zip(1..).map(|(ty, n)| match ty {
            Some(_) => Settled::Typed,
            None if f.named_params.contains_key(&n) => Settled::Named,
            None => Settled::Unnamed,
        });
        Facts {
            settled: settled.collect(),
            params: f
                .params
                .into_iter()
                .map(|p| p.unwrap_or(SqlType::Text))
                .collect(),
            inputs: f.inputs,
            uses_now: f.uses_now,
            volatile: f.volatile,
            asks: f.asks,
            origins: f.origins,
        }
    }

    /// Notes that `columns` are those of a relation, in order.
    pub(crate) fn are_columns_of(&self, relation: &Relation, columns: &[RelCol]) {
        if relation.oid == 0 {
            return;
        }
        let mut found = self.found.borrow_mut();
        for (c, number) in columns.iter().zip(1..) {
            let oid = relation.oid;
            found
                .origins
                .insert(c.column.clone(), Origin { oid, number });
        }
    }

    /// A relation qualifier that nothing else in the statement has.
    pub(crate) fn qualifier(&self, name: &str) -> String {
        let mut f = self.found.borrow_mut();
        let n = f.qualifiers.entry(name.to_string()).or_insert(0);
        *n += 1;
        if *n == 1 {
            name.to_string()
        } else {
            format!("{name}#{n}")
        }
    }

    /// A number that nothing else in the statement has.
    pub(crate) fn number(&self) -> usize {
        let mut f = self.found.borrow_mut();
        f.counter += 1;
        f.counter
    }

    /// A column name that nothing else in the statement has.
    pub(crate) fn fresh(&self, stem: &str) -> String {
        format!("{stem}#{}", self.number())
    }

    pub(crate) fn reads(&self, id: CollectionId) {
        let mut f = self.found.borrow_mut();
        if !f.inputs.contains(&id) {
            f.inputs.push(id);
        }
    }

    pub(crate) fn uses_now(&self) {
        self.found.borrow_mut().uses_now = true;
    }

    pub(crate) fn volatile(&self, function: &str) {
        self.found
            .borrow_mut()
            .volatile
            .get_or_insert_with(|| function.to_string());
    }

    /// What a function gives is the session's or the catalog's.
    pub(crate) fn asks(&self, function: &str) {
        self.found.borrow_mut().asks = Some(function.to_string());
    }

    /// Runs `f` as the body of the view `name`; refuses endless nesting.
    pub(crate) fn in_view<T>(&self, name: String, f: impl FnOnce() -> Result<T>) -> Result<T> {
        {
            let mut found = self.found.borrow_mut();
            if found.views.contains(&name) || found.views.len() >= VIEW_DEPTH_MAX {
                return Err(SqlError::new(
                    "42P17",
                    format!("infinite recursion detected in rules for relation \"{name}\""),
                ));
            }
            found.views.push(name);
        }
        let r = f();
        self.found.borrow_mut().views.pop();
        r
    }

    /// What is bound is a view's text.
    pub(crate) fn is_in_view(&self) -> bool {
        !self.found.borrow().views.is_empty()
    }

    /// The relation of that name. In a view's text a name without a schema means the same for every reader.
    pub(crate) fn find_relation(
        &self,
        schema: Option<&str>,
        name: &str,
    ) -> Option<crate::catalog::Relation> {
        if schema.is_some() || !self.is_in_view() {
            return self.catalog.resolve(schema, name);
        }
        ["pg_catalog", crate::definition::DEFAULT_SCHEMA]
            .into_iter()
            .find_map(|schema| self.catalog.resolve(Some(schema), name))
    }

    /// The type of parameter `n` (from 1), if it is known.
    pub(crate) fn param_type(&self, n: usize) -> Option<SqlType> {
        let mut f = self.found.borrow_mut();
        if f.params.len() < n {
            f.params.resize(n, None);
        }
        f.params[n - 1].clone()
    }

    /// Settles the type of parameter `n`.
    pub(crate) fn set_param_type(&self, n: usize, t: &SqlType) {
        self.param_type(n);
        self.found.borrow_mut().params[n - 1] = Some(t.clone());
    }

    /// Notes that the parameter `n` is named, and gives its type if it is known.
    pub(crate) fn named_param(&self, n: usize) -> Result<Option<SqlType>> {
        if n == 0 || n > PARAMS_MAX {
            let message = format!("there is no parameter ${n}");
            return Err(SqlError::new("42P02", message)
                .detail(format!("A statement has up to {PARAMS_MAX} parameters.")));
        }
        let ty = self.param_type(n);
        let mut found = self.found.borrow_mut();
        *found.named_params.entry(n).or_default() += usize::from(ty.is_some());
        Ok(ty)
    }

    /// Whether the parameter `n` was named once only so far, so that its type may become another one.
    pub(crate) fn is_named_once(&self, n: usize) -> bool {
        self.found.borrow().named_params.get(&n) == Some(&1)
    }

    /// One level of nesting more, until the guard is dropped.
    pub(crate) fn deeper(&self) -> Result<Level<'_>> {
        interrupt::check_level()?;
        let n = self.depth.get() + 1;
        if n > EXPR_DEPTH_MAX {
            return Err(SqlError::new("54001", "stack depth limit exceeded")
                .hint("The expression is nested too deeply."));
        }
        self.depth.set(n);
        Ok(Level(&self.depth))
    }

    pub(crate) fn zone(&self) -> &str {
        &self.session.time_zone
    }
}

/// Converts DataFusion's errors.
pub(crate) fn df<T>(r: datafusion_common::Result<T>) -> Result<T> {
    r.map_err(|e| from_datafusion(&e))
}

/// A projection. Columns keep their qualified names, other expressions must carry an alias.
pub(crate) fn project(plan: LogicalPlan, exprs: Vec<Expr>) -> Result<LogicalPlan> {
    df(Projection::try_new(exprs, Arc::new(plan)).map(LogicalPlan::Projection))
}

/// `columns` of a plan that may have more.
pub(crate) fn only(plan: LogicalPlan, columns: Vec<Column>) -> Result<LogicalPlan> {
    match plan.schema().fields().len() == columns.len() {
        true => Ok(plan),
        false => project(plan, columns.into_iter().map(Expr::Column).collect()),
    }
}

pub(crate) fn filter(plan: LogicalPlan, predicate: Expr) -> Result<LogicalPlan> {
    df(
        datafusion_expr::logical_plan::Filter::try_new(predicate, Arc::new(plan))
            .map(LogicalPlan::Filter),
    )
}

/// Those rows for which all of the conditions are true, of which there may be none.
pub(crate) fn filter_all(plan: LogicalPlan, all: Vec<Expr>) -> Result<LogicalPlan> {
    match all.is_empty() {
        true => Ok(plan),
        false => filter(
            plan,
            conditions::balanced(all, datafusion_expr::Operator::And),
        ),
    }
}

pub(crate) fn builder(plan: LogicalPlan) -> LogicalPlanBuilder {
    LogicalPlanBuilder::new(plan)
}

/// Columns of a plan, as expressions.
pub(crate) fn columns_of(plan: &LogicalPlan) -> Vec<Column> {
    plan.schema().columns()
}

pub(crate) fn literal(v: ScalarValue) -> Expr {
    Expr::Literal(v, None)
}

/// A NULL of a type.
pub(crate) fn null_of(t: &SqlType) -> Expr {
    literal(ScalarValue::try_from(&t.arrow()).unwrap_or(ScalarValue::Null))
}

pub(crate) fn truth(v: bool) -> Expr {
    literal(ScalarValue::Boolean(Some(v)))
}

/// The expression with the Arrow type that `ty` is carried by, if it isn't already.
pub(crate) fn fit(expr: Expr, actual: &arrow::datatypes::DataType, ty: &SqlType) -> Expr {
    let want = ty.arrow();
    if actual.equals_datatype(&want) {
        expr
    } else {
        Expr::Cast(datafusion_expr::Cast::new(Box::new(expr), want))
    }
}

/// Makes names unique, for internal use.
pub(crate) fn unique_names(names: &[String]) -> Vec<String> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    names
        .iter()
        .map(|n| {
            let k = seen.entry(n.clone()).or_insert(0);
            *k += 1;
            if *k == 1 {
                n.clone()
            } else {
                format!("{n}##{k}")
            }
        })
        .collect()
}
