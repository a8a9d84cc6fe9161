//! Subqueries in expressions.
//!
//! DataFusion decorrelates scalar subqueries anywhere, and EXISTS and IN in WHERE. Elsewhere EXISTS and IN become counts,
//! which keeps SQL's three values.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion_common::tree_node::Transformed;
use datafusion_common::{Column, ScalarValue, Spans};
use datafusion_expr::expr::{Exists, InSubquery};
use datafusion_expr::logical_plan::Subquery;
use datafusion_expr::{BinaryExpr, Expr, LogicalPlan, Operator};
use sqlparser::ast::{self, BinaryOperator as B, Expr as E, SelectItem, TableFactor};
use tidemill_zset::schema::SqlType;

use super::conditions::{first, is_fallible, not, when};
use super::expr::{AGGREGATE, Calls, Ctx, SET, Truth, WINDOW, strip};
use super::scope::{Outer, outer};
use super::sets::{is_each, is_set_returning};
use super::types::{SCALE_DEFAULT, common};
use super::{Binder, Rel, RelCol, Typed, builder, df, literal, null_of, project, truth};
use crate::compile::decorrelate;
use crate::compile::own_order::ordered_aggregates;
use crate::error::{Result, SqlError};
use crate::functions::cast::Context;
use crate::functions::one_of::as_in_list;
use crate::functions::rows;
use crate::functions::shared::shared;
use crate::functions::single::nullable;
use crate::parser::parts;
use crate::tree::Tree;
use crate::walk;

/// Columns of a subquery's input up to which what can fail is computed outside of it: each is a subquery of its own.
const OUTSIDE_COLUMNS_MAX: usize = 3;

impl Binder<'_> {
    /// A query inside an expression; `f` may add to its plan.
    fn subquery(
        &self,
        c: Ctx,
        q: &ast::Query,
        f: impl FnOnce(&Self, Rel) -> Result<Rel>,
    ) -> Result<(Subquery, Vec<RelCol>)> {
        let used = RefCell::new(Vec::new());
        let rel = self.query(q, c.ctes, around(c, &used))?;
        let rel = f(self, rel)?;
        let s = Subquery {
            subquery: Arc::new(rel.plan),
            outer_ref_columns: used.into_inner(),
            spans: Spans::new(),
        };
        Ok((s, rel.cols))
    }

    /// A subquery in an expression. Written twice in the select list, GROUP BY, ORDER BY and so on it is the same expression,
    /// unless each has its own random numbers.
    pub(super) fn subquery_once(&self, c: Ctx, e: &E) -> Result<Typed> {
        let bind = || match e {
            E::InSubquery {
                expr,
                subquery,
                negated,
            } => self.in_subquery(c, expr, subquery, *negated),
            E::Exists { subquery, negated } => self.exists(c, subquery, *negated),
            E::Subquery(q) => self.scalar_subquery(c, q),
            _ => Err(SqlError::internal("not a subquery")),
        };
        let Some(calls) = c.calls else { return bind() };
        let written = (e.to_string(), c.truth, c.clause == "WHERE");
        let known = |calls: &Calls| {
            let same = calls.subqueries.iter().find(|(s, _)| *s == written);
            same.map(|(_, t)| t.clone())
        };
        if let Some(t) = known(&calls.borrow()) {
            return Ok(t);
        }
        let t = bind()?;
        if !df(crate::once::is_volatile_value(&t.expr))? {
            calls.borrow_mut().subqueries.push((written, t.clone()));
        }
        Ok(t)
    }

    fn one_column(cols: &[RelCol]) -> Result<&RelCol> {
        match cols {
            [c] => Ok(c),
            _ => Err(SqlError::new(
                "42601",
                "subquery must return only one column",
            )),
        }
    }

    pub(crate) fn scalar_subquery(&self, c: Ctx, q: &ast::Query) -> Result<Typed> {
        let (s, cols) = self.subquery(c, q, |_, r| Ok(r))?;
        let col = Self::one_column(&cols)?;
        if let Some(value) = self.computed_outside(&s)? {
            return Ok(Typed::new(value, col.ty.clone()));
        }
        let always = decorrelate::always_one(&s.subquery);
        let value = Expr::ScalarSubquery(s);
        let value = match df(always)? {
            true => value,
            // Without a row it is NULL, also where its column never is, or turns out to be a constant.
            false => nullable(value, &col.ty),
        };
        Ok(Typed::new(value, col.ty.clone()))
    }

    /// `(SELECT 1 / count(*) …)` as `1 / (SELECT count(*) …)`: a subquery is computed for all rows around it, or for none, but
    /// what can fail must be only where a row needs it.
    fn computed_outside(&self, s: &Subquery) -> Result<Option<Expr>> {
        let LogicalPlan::Projection(p) = s.subquery.as_ref() else {
            return Ok(None);
        };
        let [value] = p.expr.as_slice() else {
            return Ok(None);
        };
        let value = value.clone().unalias();
        let columns: Vec<Column> = value.column_refs().into_iter().cloned().collect();
        let apart = (1..=OUTSIDE_COLUMNS_MAX).contains(&columns.len())
            && is_fallible(&value)
            && !value.is_volatile()
            && !value.contains_outer()
            && !super::select::has_subquery(&value)
            && df(decorrelate::always_one(&p.input))?
            && !df(crate::once::is_volatile(&p.input))?;
        if !apart {
            return Ok(None);
        }
        let mut inner = HashMap::new();
        for column in columns {
            let named = Expr::Column(column.clone()).alias(self.fresh("value"));
            let input = project(p.input.as_ref().clone(), vec![named])?;
            let subquery = Expr::ScalarSubquery(Subquery {
                subquery: Arc::new(input),
                ..s.clone()
            });
            inner.insert(column, subquery);
        }
        let outside = value.change_up(&mut |e| {
            Ok(match &e {
                Expr::Column(c) => match inner.get(c) {
                    Some(subquery) => Transformed::yes(subquery.clone()),
                    None => Transformed::no(e),
                },
                _ => Transformed::no(e),
            })
        });
        Ok(Some(df(outside)?.data))
    }

    /// The fields of the one row that a subquery gives, each as a subquery.
    pub(super) fn row_subquery(&self, c: Ctx, q: &ast::Query, width: usize) -> Result<Vec<Typed>> {
        (0..width)
            .map(|i| {
                let (s, cols) = self.subquery(c, q, |_, mut r| {
                    if r.cols.len() != width {
                        return Err(wrong_width(r.cols.len(), width));
                    }
                    let col = r.cols.swap_remove(i);
                    let plan = project(r.plan, vec![Expr::Column(col.column.clone())])?;
                    Ok(Rel {
                        plan,
                        cols: vec![col],
                    })
                })?;
                let ty = cols[0].ty.clone();
                Ok(Typed::new(nullable(Expr::ScalarSubquery(s), &ty), ty))
            })
            .collect()
    }

    /// `ARRAY(SELECT …)`
    pub(crate) fn array_subquery(&self, c: Ctx, q: &ast::Query) -> Result<Typed> {
        let mut ty = SqlType::Text;
        let (s, _) = self.subquery(c, q, |b, r| {
            let col = Self::one_column(&r.cols)?.clone();
            super::aggregate_kinds::no_arrays_of_arrays(&col.ty)?;
            ty = SqlType::Array(Box::new(col.ty.clone()));
            let value = Expr::Column(col.column.clone());
            let call = Expr::AggregateFunction(datafusion_expr::expr::AggregateFunction::new_udf(
                crate::functions::lists::array_agg(),
                vec![value],
                false,
                None,
                vec![],
                None,
            ));
            let (input, call) = df(ordered_aggregates(r.plan, vec![(call, ())]))?;
            let call: Vec<Expr> = call.into_iter().map(|(e, ())| e).collect();
            let plan = df(builder(input)
                .aggregate(Vec::<Expr>::new(), call)
                .and_then(|b| b.build()))?;
            let given = plan.schema().columns().remove(0);
            let actual = plan.schema().field(0).data_type().clone();
            let name = b.fresh("array");
            let e = super::fit(Expr::Column(given), &actual, &ty).alias(&name);
            let plan = project(plan, vec![e])?;
            Ok(Rel {
                plan,
                cols: vec![RelCol {
                    name: "array".into(),
                    ty: ty.clone(),
                    unknown: false,
                    column: datafusion_common::Column::new_unqualified(name),
                }],
            })
        })?;
        let empty = self.empty_array(&ty)?;
        let list = shared(Expr::ScalarSubquery(s), &ty, |list| {
            Ok(first(list, empty.expr))
        })?;
        Ok(Typed::new(list, ty))
    }

    pub(crate) fn exists(&self, c: Ctx, q: &ast::Query, negated: bool) -> Result<Typed> {
        if c.clause == "WHERE" || c.truth != Truth::Value {
            // Rows are told apart from none by a column, also where the query gives none.
            let (s, _) = self.subquery(c, q, |b, r| {
                if !r.cols.is_empty() {
                    return Ok(r);
                }
                let one = literal(ScalarValue::Int64(Some(1))).alias(b.fresh("row"));
                let plan = project(r.plan, vec![one])?;
                Ok(Rel { plan, cols: vec![] })
            })?;
            return Ok(Typed::new(
                Expr::Exists(Exists {
                    subquery: s,
                    negated,
                }),
                SqlType::Bool,
            ));
        }
        let n = self.count(c, q, |_, r| Ok(r))?;
        let some = compare(n, Operator::Gt, 0);
        Ok(Typed::new(
            if negated { not(some) } else { some },
            SqlType::Bool,
        ))
    }

    /// The number of rows of a subquery, as an expression.
    fn count(
        &self,
        c: Ctx,
        q: &ast::Query,
        f: impl FnOnce(&Self, Rel) -> Result<Rel>,
    ) -> Result<Expr> {
        let (s, _) = self.subquery(c, q, |b, r| {
            let r = f(b, r)?;
            let one = literal(ScalarValue::Int64(Some(1)));
            let call = datafusion::functions_aggregate::count::count_udaf().call(vec![one]);
            let (input, call) = df(ordered_aggregates(r.plan, vec![(call, ())]))?;
            let call: Vec<Expr> = call.into_iter().map(|(e, ())| e).collect();
            let plan = df(builder(input)
                .aggregate(Vec::<Expr>::new(), call)
                .and_then(|b| b.build()))?;
            let given = plan.schema().columns().remove(0);
            let name = b.fresh("count");
            let plan = project(plan, vec![Expr::Column(given).alias(&name)])?;
            Ok(Rel { plan, cols: vec![] })
        })?;
        let n = Expr::ScalarSubquery(s);
        let zero = literal(ScalarValue::Int64(Some(0)));
        shared(n, &SqlType::Int8, |n| Ok(first(n, zero)))
    }

    pub(crate) fn in_subquery(
        &self,
        c: Ctx,
        e: &E,
        q: &ast::Query,
        negated: bool,
    ) -> Result<Typed> {
        if let Some(items) = super::rows::fields(e) {
            return self.row_in_subquery(c, &items, &B::Eq, q, negated);
        }
        if c.truth == Truth::Value && compares_with_rows(e) {
            return self.value_first(c, e, |x| E::InSubquery {
                expr: x,
                subquery: Box::new(q.clone()),
                negated,
            });
        }
        let x = self.expr(c.value(), e)?;
        self.in_typed(c, x, q, negated)
    }

    /// `f` of `e`, which is computed once, as the column of a subquery: what counts rows for a value of an expression has
    /// copies of it.
    fn value_first(&self, c: Ctx, e: &E, f: impl FnOnce(Box<E>) -> E) -> Result<Typed> {
        let mut q = crate::parser::parse_query("SELECT 1 FROM (SELECT 1) AS \"in#\"(\"in#1\")")?;
        if let ast::SetExpr::Select(outer) = q.body.as_mut()
            && let Some(TableFactor::Derived { subquery, .. }) =
                outer.from.first_mut().map(|t| &mut t.relation)
            && let ast::SetExpr::Select(inner) = subquery.body.as_mut()
        {
            let column = E::Identifier(ast::Ident::with_quote('"', "in#1"));
            inner.projection = vec![SelectItem::UnnamedExpr(e.clone())];
            outer.projection = vec![SelectItem::UnnamedExpr(f(Box::new(column)))];
        }
        self.scalar_subquery(c.value(), &q)
    }

    fn in_typed(&self, c: Ctx, x: Typed, q: &ast::Query, negated: bool) -> Result<Typed> {
        // A join knows matches, and NULL only where the row is dropped.
        if c.truth == Truth::Decides || c.truth == Truth::Holds && !negated {
            let mut matched = x.clone();
            let (s, _) = self.subquery(c, q, |b, r| {
                let (r, t) = b.matching(&matched, r)?;
                matched = t;
                Ok(r)
            })?;
            let own = !matched.expr.column_refs().is_empty();
            // What can fail is guarded by the conditions beside it, and there the join's answer is a value, which NULL would have to be.
            let joins = own && s.outer_ref_columns.is_empty() && !is_fallible(&matched.expr);
            if !negated || joins {
                let e = Expr::InSubquery(InSubquery {
                    expr: Box::new(matched.expr),
                    subquery: s,
                    negated,
                });
                return Ok(Typed::new(e, SqlType::Bool));
            }
        }
        self.quantified_counts(c, x, &B::Eq, q, true).map(|t| {
            if negated {
                Typed::new(not(t.expr), SqlType::Bool)
            } else {
                t
            }
        })
    }

    /// The subquery's column and `x` as one type.
    fn matching(&self, x: &Typed, r: Rel) -> Result<(Rel, Typed)> {
        let col = Self::one_column(&r.cols)?.clone();
        let y = Typed {
            expr: Expr::Column(col.column.clone()),
            ty: col.ty.clone(),
            unknown: col.unknown,
        };
        let (x, y) = self.without_blanks(x.clone(), y)?;
        let (xe, ye, ty) = self.same_type("=", x, y)?;
        let key = |e| self.order_key(Typed::new(e, ty.clone())).map(|t| t.expr);
        let (xe, ye) = (key(xe)?, key(ye)?);
        // A rule that marks rows is at a loss with what isn't a projection.
        // Nor with a choice of columns above a LIMIT.
        let plain = match (&ye, &r.plan) {
            (Expr::Column(_), LogicalPlan::Projection(p)) => {
                !matches!(p.input.as_ref(), LogicalPlan::Limit(_))
            }
            _ => false,
        };
        let r = if plain {
            r
        } else {
            let name = self.fresh("in");
            let plan = project(r.plan, vec![ye.alias(&name)])?;
            let column = datafusion_common::Column::new_unqualified(name);
            Rel {
                plan,
                cols: vec![RelCol {
                    column,
                    ty: ty.clone(),
                    ..col
                }],
            }
        };
        Ok((r, Typed::new(xe, ty)))
    }

    /// `x op ANY (…)`, `x op ALL (…)`
    pub(crate) fn quantified(
        &self,
        c: Ctx,
        left: &E,
        op: &B,
        right: &E,
        any: bool,
    ) -> Result<Typed> {
        let by_equality = matches!((op, any), (B::Eq, true) | (B::NotEq, false));
        if let (true, Some(q)) = (
            by_equality && c.truth != Truth::Value,
            query_of_array(right),
        ) {
            // Rows are looked for in a query's rows faster than in an array of them.
            let query = E::Subquery(Box::new(q.clone()));
            return self.quantified(c, left, op, &query, any);
        }
        if let (Some(items), E::Subquery(q)) = (super::rows::fields(left), strip(right)) {
            let op = match (op, any) {
                (op, true) => op.clone(),
                (B::Eq, _) => B::NotEq,
                (B::NotEq, _) => B::Eq,
                (B::Lt, _) => B::GtEq,
                (B::LtEq, _) => B::Gt,
                (B::Gt, _) => B::LtEq,
                (B::GtEq, _) => B::Lt,
                (op, _) => {
                    return Err(SqlError::unsupported(format!(
                        "{op} with ALL, a row value and a subquery is not supported"
                    )));
                }
            };
            return self.row_in_subquery(c, &items, &op, q, !any);
        }
        if let E::Subquery(_) = strip(right)
            && compares_with_rows(left)
            && (c.truth == Truth::Value || !by_equality)
        {
            let (compare_op, right) = (op.clone(), Box::new(right.clone()));
            return self.value_first(c, left, |left| match any {
                true => E::AnyOp {
                    left,
                    compare_op,
                    right,
                    is_some: false,
                },
                false => E::AllOp {
                    left,
                    compare_op,
                    right,
                },
            });
        }
        let x = self.expr(c.value(), left)?;
        if let E::Subquery(q) = strip(right) {
            return match (op, any) {
                (B::Eq, true) => self.in_typed(c, x, q, false),
                (B::NotEq, false) => self.in_typed(c, x, q, true),
                _ => self.quantified_counts(c, x, op, q, any),
            };
        }
        let mut list = self.expr(c.value(), right)?;
        if list.unknown && matches!(x.ty, SqlType::Numeric(..)) && !x.unknown {
            // As a parameter beside a numeric.
            let ty = SqlType::Array(Box::new(SqlType::Numeric(0, SCALE_DEFAULT)));
            list = Typed::new(self.settle(&list, &ty, Context::Explicit)?, ty);
        }
        let mut x = x;
        if let SqlType::Array(of) = &list.ty
            && rows::is_row(of)
            && let Some(ty) = common(&x.ty, of)
        {
            let all = SqlType::Array(Box::new(ty.clone()));
            x = Typed::new(self.implicit(&x, &ty)?, ty);
            list = Typed::new(self.implicit(&list, &all)?, all);
        }
        if let Some(matched) = self.patterns_each(op, any, &x, &list) {
            return matched;
        }
        let name = match (op, any) {
            (B::Eq, true) => "any_eq",
            (B::NotEq, true) => "any_ne",
            (B::Lt, true) => "any_lt",
            (B::LtEq, true) => "any_le",
            (B::Gt, true) => "any_gt",
            (B::GtEq, true) => "any_ge",
            (B::Eq, false) => "all_eq",
            (B::NotEq, false) => "all_ne",
            (B::Lt, false) => "all_lt",
            (B::LtEq, false) => "all_le",
            (B::Gt, false) => "all_gt",
            (B::GtEq, false) => "all_ge",
            _ => {
                return Err(SqlError::unsupported(format!(
                    "{op} with ANY or ALL is not supported"
                )));
            }
        };
        let types = (x.type_name(), list.type_name());
        let of = match &list.ty {
            SqlType::Array(of) => super::types::plain_name(of),
            _ if list.unknown => types.1,
            _ => {
                let message = "op ANY/ALL (array) requires array on right side";
                return Err(SqlError::new("42809", message));
            }
        };
        let found = self.function(name, vec![x, list], None);
        let found = found.map(|t| Typed {
            expr: as_in_list(t.expr),
            ..t
        });
        found.map_err(|e| match e.sqlstate {
            "42883" => super::operators::no_operator(&op.to_string(), &types.0, &of),
            _ => e,
        })
    }

    /// ANY and ALL with SQL's three values: by the number of rows that decide, or by the extreme value.
    fn quantified_counts(
        &self,
        c: Ctx,
        x: Typed,
        op: &B,
        q: &ast::Query,
        any: bool,
    ) -> Result<Typed> {
        let null_rows = self.count(c, q, |b, r| {
            let col = Self::one_column(&r.cols)?.clone();
            let _ = b;
            Ok(Rel {
                plan: super::filter(r.plan, Expr::IsNull(Box::new(Expr::Column(col.column))))?,
                cols: vec![],
            })
        })?;
        let rows = self.count(c, q, |_, r| Ok(r))?;
        let decided = match (op, any) {
            (B::Eq, true) | (B::NotEq, false) => {
                compare(self.rows_with(Operator::Eq, c, &x, q)?, Operator::Gt, 0)
            }
            (B::NotEq, true) | (B::Eq, false) => {
                compare(self.rows_with(Operator::NotEq, c, &x, q)?, Operator::Gt, 0)
            }
            (B::Lt | B::LtEq | B::Gt | B::GtEq, _) => {
                let most = matches!(op, B::Lt | B::LtEq) == any;
                let (s, cols) = self.subquery(c, q, |b, r| b.extreme_of(r, most, &x.ty))?;
                let extreme = Typed::new(Expr::ScalarSubquery(s), cols[0].ty.clone());
                let x = match &x.ty {
                    SqlType::Other(of @ DataType::Struct(_)) => {
                        Typed::new(rows::key(x.expr.clone(), of), SqlType::Bytea)
                    }
                    _ => x.clone(),
                };
                let t = self.operator(op, x, extreme)?;
                if any {
                    Expr::IsTrue(Box::new(t.expr))
                } else {
                    Expr::IsFalse(Box::new(t.expr))
                }
            }
            _ => {
                return Err(SqlError::unsupported(format!(
                    "{op} with ANY or ALL and a subquery is not supported"
                )));
            }
        };
        let some = |n| compare(n, Operator::Gt, 0);
        let x_null =
            super::conditions::and(Expr::IsNull(Box::new(self.known(x)?.expr)), some(rows));
        let unknown = super::conditions::or(x_null, some(null_rows));
        let e = when(
            vec![(decided, truth(any)), (unknown, null_of(&SqlType::Bool))],
            truth(!any),
        );
        Ok(Typed::new(e, SqlType::Bool))
    }

    /// The least or greatest value of a subquery's column, which is compared with one of type `x`; of rows their key.
    fn extreme_of(&self, r: Rel, most: bool, x: &SqlType) -> Result<Rel> {
        let mut col = Self::one_column(&r.cols)?.clone();
        let mut value = Expr::Column(col.column.clone());
        if let SqlType::Other(of @ DataType::Struct(_)) = x {
            let row = self.implicit(&Typed::new(value, col.ty.clone()), x)?;
            value = rows::key(row, of);
            col.ty = SqlType::Bytea;
        }
        let f = match most {
            true => datafusion::functions_aggregate::min_max::max_udaf(),
            false => datafusion::functions_aggregate::min_max::min_udaf(),
        };
        let plan = df(builder(r.plan)
            .aggregate(Vec::<Expr>::new(), vec![f.call(vec![value])])
            .and_then(|b| b.build()))?;
        let given = plan.schema().columns().remove(0);
        let name = self.fresh("extreme");
        let plan = project(plan, vec![Expr::Column(given).alias(&name)])?;
        let column = datafusion_common::Column::new_unqualified(name);
        Ok(Rel {
            plan,
            cols: vec![RelCol { column, ..col }],
        })
    }

    /// How many rows of the subquery are equal, or unequal, to `x`.
    fn rows_with(&self, op: Operator, c: Ctx, x: &Typed, q: &ast::Query) -> Result<Expr> {
        let used = RefCell::new(Vec::new());
        let rel = self.query(q, c.ctes, around(c, &used))?;
        let (rel, x) = self.matching(x, rel)?;
        let mut used = used.into_inner();
        let y = Expr::Column(rel.cols[0].column.clone());
        let equal = Expr::BinaryExpr(BinaryExpr::new(
            Box::new(y),
            op,
            Box::new(outer(&x, c.scope, &mut used)),
        ));
        let plan = super::filter(rel.plan, equal)?;
        let one = literal(ScalarValue::Int64(Some(1)));
        let call = datafusion::functions_aggregate::count::count_udaf().call(vec![one]);
        let plan = df(builder(plan)
            .aggregate(Vec::<Expr>::new(), vec![call])
            .and_then(|b| b.build()))?;
        let given = plan.schema().columns().remove(0);
        let plan = project(plan, vec![Expr::Column(given).alias(self.fresh("count"))])?;
        let n = Expr::ScalarSubquery(Subquery {
            subquery: Arc::new(plan),
            outer_ref_columns: used,
            spans: Spans::new(),
        });
        let zero = literal(ScalarValue::Int64(Some(0)));
        shared(n, &SqlType::Int8, |n| Ok(first(n, zero)))
    }
}

/// The query of `ARRAY(SELECT …)`.
fn query_of_array(e: &E) -> Option<&ast::Query> {
    match strip(e) {
        E::Function(f) if parts(&f.name) == ["array"] => match &f.args {
            ast::FunctionArguments::Subquery(q) => Some(q),
            _ => None,
        },
        _ => None,
    }
}

/// Whether a comparison of a value with the rows of a subquery is in `e`, and nothing that must stay in its query.
fn compares_with_rows(e: &E) -> bool {
    let bound_to_query = |e: &E| match e {
        E::Function(f) => {
            let name = parts(&f.name).pop().unwrap_or_default();
            f.over.is_some() || is_set_returning(&name) || is_each(&name)
        }
        _ => false,
    };
    let compares = walk::any_expr(e, |e| match e {
        E::InSubquery { .. } => true,
        E::AnyOp { right, .. } | E::AllOp { right, .. } => matches!(strip(right), E::Subquery(_)),
        _ => false,
    });
    compares && !walk::any_expr(e, bound_to_query)
}

/// Whether a column stands for a call until it is known where that is computed.
pub(super) fn is_marker(column: &Column) -> bool {
    let relation = column.relation.as_ref().map(|r| r.table());
    matches!(relation, Some(AGGREGATE | WINDOW | SET))
}

/// The query in which an expression stands, for the subqueries in it.
pub(super) fn around<'c>(c: Ctx<'c>, used: &'c RefCell<Vec<Expr>>) -> Outer<'c> {
    Outer::Query(c.scope, used, c.calls.filter(|_| c.aggregates))
}

pub(super) fn wrong_width(found: usize, wanted: usize) -> SqlError {
    let much = if found > wanted { "many" } else { "few" };
    SqlError::new("42601", format!("subquery has too {much} columns"))
}

fn compare(l: Expr, op: Operator, n: i64) -> Expr {
    let r = literal(ScalarValue::Int64(Some(n)));
    Expr::BinaryExpr(BinaryExpr::new(Box::new(l), op, Box::new(r)))
}
