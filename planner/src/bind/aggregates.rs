//! Aggregate and window function calls.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::functions_aggregate as agg;
use datafusion::functions_window as win;
use datafusion_common::{Column, ScalarValue};
use datafusion_expr::expr::{AggregateFunction, Sort, WindowFunction, WindowFunctionParams};
use datafusion_expr::{
    AggregateUDF, Expr, WindowFrame, WindowFrameBound, WindowFrameUnits, WindowFunctionDefinition,
};
use sqlparser::ast::{
    self, DuplicateTreatment, FunctionArg, FunctionArgExpr, FunctionArgumentClause,
    FunctionArguments,
};
use tidemill_zset::schema::SqlType;

use super::calls::no_function;
use super::expr::{AGGREGATE, Ctx, WINDOW};
use super::types::{is_integer, is_number, is_text};
use super::{Binder, Typed, literal};
use crate::error::{Result, SqlError};
use crate::functions::aggregate as own;
use crate::functions::cast::Context;
use crate::functions::moments;
use crate::parser::fold;

/// Names of aggregate functions.
pub(crate) fn is_aggregate(name: &str) -> bool {
    matches!(
        name,
        "count"
            | "sum"
            | "avg"
            | "min"
            | "max"
            | "bool_and"
            | "bool_or"
            | "every"
            | "array_agg"
            | "string_agg"
            | "json_agg"
            | "jsonb_agg"
            | "json_object_agg"
            | "jsonb_object_agg"
            | "stddev"
            | "stddev_samp"
            | "stddev_pop"
            | "variance"
            | "var_samp"
            | "var_pop"
            | "corr"
            | "covar_pop"
            | "covar_samp"
            | "regr_slope"
            | "regr_intercept"
            | "regr_r2"
            | "regr_count"
            | "regr_avgx"
            | "regr_avgy"
            | "regr_sxx"
            | "regr_syy"
            | "regr_sxy"
            | "bit_and"
            | "bit_or"
            | "bit_xor"
            | "percentile_cont"
            | "percentile_disc"
            | "mode"
            | "grouping"
    )
}

/// Names of functions that need OVER.
pub(crate) fn is_window(name: &str) -> bool {
    matches!(
        name,
        "row_number"
            | "rank"
            | "dense_rank"
            | "percent_rank"
            | "cume_dist"
            | "ntile"
            | "lag"
            | "lead"
            | "first_value"
            | "last_value"
            | "nth_value"
    )
}

/// Names of aggregates that need WITHIN GROUP.
fn is_ordered_set(name: &str) -> bool {
    matches!(name, "percentile_cont" | "percentile_disc" | "mode")
}

/// A resolved aggregate: the function, its arguments, the type it gives, and what is done with its result.
struct Resolved {
    function: Arc<AggregateUDF>,
    args: Vec<Expr>,
    ty: SqlType,
    /// Applied to the result and further arguments, e.g. to make one JSON text of an array.
    then: Option<(&'static str, SqlType, Vec<Typed>)>,
    /// Order of the values where the call gives none.
    ordered: bool,
}

/// A function of the array of the group's values.
fn over_array(value: Typed, function: &'static str, ty: SqlType) -> Resolved {
    Resolved {
        function: agg::array_agg::array_agg_udaf(),
        args: vec![value.expr],
        ty: SqlType::Array(Box::new(value.ty)),
        then: Some((function, ty, vec![])),
        ordered: false,
    }
}

impl Binder<'_> {
    pub(crate) fn aggregate_or_window(
        &self,
        c: Ctx,
        name: &str,
        f: &ast::Function,
    ) -> Result<Typed> {
        if f.over.is_some() {
            return self.window_call(c, name, f);
        }
        if is_window(name) {
            return Err(SqlError::new(
                "42809",
                format!("window function {name} requires an OVER clause"),
            ));
        }
        let Some(calls) = c.calls.filter(|_| c.aggregates) else {
            return Err(match c.clause {
                "aggregate" => SqlError::new("42803", "aggregate function calls cannot be nested"),
                clause => SqlError::new(
                    "42803",
                    format!("aggregate functions are not allowed in {clause}"),
                ),
            });
        };
        let inner = Ctx {
            aggregates: false,
            windows: false,
            sets: false,
            clause: "aggregate",
            ..c
        };
        if name == "grouping" {
            let inner = Ctx {
                clause: "GROUPING",
                ..inner
            };
            return self.grouping_call(inner, f);
        }
        let a = self.aggregate_parts(inner, name, f)?;
        let call = Expr::AggregateFunction(AggregateFunction::new_udf(
            a.0.function.clone(),
            a.0.args.clone(),
            a.1,
            a.2,
            a.3,
            None,
        ));
        let mut calls = calls.borrow_mut();
        let n = match calls.aggregates.iter().position(|(e, _)| *e == call) {
            Some(n) => n,
            None => {
                calls.aggregates.push((call, a.0.ty.clone()));
                calls.aggregates.len() - 1
            }
        };
        drop(calls);
        let marker = Expr::Column(Column::new(Some(AGGREGATE), n.to_string()));
        self.finish_aggregate(marker, a.0)
    }

    fn finish_aggregate(&self, marker: Expr, r: Resolved) -> Result<Typed> {
        match r.then {
            None => Ok(Typed::new(marker, r.ty)),
            Some((f, ty, more)) => {
                let mut args = vec![Typed::new(marker, r.ty)];
                args.extend(more);
                let t = self.function(f, args, None)?;
                Ok(Typed::new(t.expr, ty))
            }
        }
    }

    /// The call's parts: function and arguments, DISTINCT, FILTER, ORDER BY.
    #[allow(clippy::type_complexity)]
    fn aggregate_parts(
        &self,
        c: Ctx,
        name: &str,
        f: &ast::Function,
    ) -> Result<(Resolved, bool, Option<Box<Expr>>, Vec<Sort>)> {
        let (mut args, mut star, mut distinct, mut order) = (Vec::new(), false, false, Vec::new());
        if let FunctionArguments::List(l) = &f.args {
            distinct = matches!(l.duplicate_treatment, Some(DuplicateTreatment::Distinct));
            match l.args.as_slice() {
                [FunctionArg::Unnamed(FunctionArgExpr::Wildcard)] => star = true,
                list => args = self.function_args(c, list)?,
            }
            for clause in &l.clauses {
                match clause {
                    FunctionArgumentClause::OrderBy(o) => order = self.sorts(c, o)?,
                    other => {
                        return Err(SqlError::unsupported(format!("{other} is not supported")));
                    }
                }
            }
        }
        let filter = match &f.filter {
            Some(e) => Some(Box::new(self.condition(
                Ctx {
                    clause: "FILTER",
                    ..c
                },
                e,
            )?)),
            None => None,
        };
        if is_ordered_set(name) {
            return self.ordered_set(c, name, f, args, filter);
        }
        if !f.within_group.is_empty() {
            return Err(SqlError::new(
                "42883",
                format!("{name} is not an ordered-set aggregate, so it cannot have WITHIN GROUP"),
            ));
        }
        let r = self.resolve_aggregate(name, args, star)?;
        if distinct
            && r.args.first().is_some_and(|_| !order.is_empty())
            && !order.iter().all(|s| r.args.contains(&s.expr))
        {
            return Err(SqlError::new(
                "42P10",
                "in an aggregate with DISTINCT, ORDER BY expressions must appear in argument list",
            ));
        }
        if r.ordered && order.is_empty() {
            // Without an order the result would depend on chance.
            order = r
                .args
                .iter()
                .take(1)
                .map(|e| Sort::new(e.clone(), true, false))
                .collect();
        }
        if matches!(
            name,
            "sum" | "count" | "avg" | "min" | "max" | "bool_and" | "bool_or" | "every"
        ) {
            order.clear();
        }
        let distinct =
            distinct && !matches!(name, "min" | "max" | "bool_and" | "bool_or" | "every");
        Ok((r, distinct, filter, order))
    }

    /// `percentile_cont(f) WITHIN GROUP (ORDER BY x)` and its kin: a function of the array of the values that aren't NULL,
    /// in order.
    #[allow(clippy::type_complexity)]
    fn ordered_set(
        &self,
        c: Ctx,
        name: &str,
        f: &ast::Function,
        direct: Vec<Typed>,
        filter: Option<Box<Expr>>,
    ) -> Result<(Resolved, bool, Option<Box<Expr>>, Vec<Sort>)> {
        if f.over.is_some() {
            return Err(SqlError::unsupported(format!(
                "OVER is not supported for ordered-set aggregate {name}"
            )));
        }
        let [by] = f.within_group.as_slice() else {
            return Err(match f.within_group.len() {
                0 => SqlError::new(
                    "42809",
                    format!("WITHIN GROUP is required for ordered-set aggregate {name}"),
                ),
                _ => no_function(
                    name,
                    &vec!["…".to_string(); direct.len() + f.within_group.len()],
                ),
            });
        };
        let value = self.expr(c, &by.expr)?;
        let value = self.known(value)?;
        let shown = || {
            let types: Vec<String> = direct
                .iter()
                .chain([&value])
                .map(Typed::type_name)
                .collect();
            no_function(name, &types)
        };
        // The direct argument: one fraction or several.
        let many = direct
            .first()
            .is_some_and(|d| !d.unknown && matches!(d.ty, SqlType::Array(_)));
        let float = SqlType::Float8;
        let floats = SqlType::Array(Box::new(SqlType::Float8));
        let fraction = match (name, direct.as_slice()) {
            ("mode", []) => vec![],
            ("percentile_cont" | "percentile_disc", [d]) => {
                vec![
                    self.as_type(d, if many { &floats } else { &float })
                        .map_err(|_| shown())?,
                ]
            }
            _ => return Err(shown()),
        };
        let value = match (name, &value.ty) {
            ("percentile_cont", SqlType::Interval) => value,
            ("percentile_cont", t) if is_number(t) => self.as_type(&value, &float)?,
            ("percentile_cont", _) => return Err(shown()),
            (_, SqlType::Varchar(_) | SqlType::Char(_)) => self.as_type(&value, &SqlType::Text)?,
            _ => value,
        };
        let sort = self.sort(value.clone(), &by.options)?;
        let given = Expr::IsNotNull(Box::new(value.expr.clone()));
        let filter = match filter {
            Some(f) => super::conditions::and(*f, given),
            None => given,
        };
        let result = if many {
            SqlType::Array(Box::new(value.ty.clone()))
        } else {
            value.ty.clone()
        };
        let function = match (name, many) {
            ("mode", _) => "mode_of_sorted",
            ("percentile_cont", false) => "percentile_cont_of_sorted",
            ("percentile_cont", true) => "percentiles_cont_of_sorted",
            (_, false) => "percentile_disc_of_sorted",
            (_, true) => "percentiles_disc_of_sorted",
        };
        let resolved = Resolved {
            function: agg::array_agg::array_agg_udaf(),
            args: vec![value.expr],
            ty: SqlType::Array(Box::new(value.ty)),
            then: Some((function, result, fraction)),
            ordered: true,
        };
        Ok((resolved, false, Some(Box::new(filter)), vec![sort]))
    }

    fn resolve_aggregate(&self, name: &str, args: Vec<Typed>, star: bool) -> Result<Resolved> {
        let none = || no_function(name, &args.iter().map(Typed::type_name).collect::<Vec<_>>());
        let plain = |function, args, ty| {
            Ok(Resolved {
                function,
                args,
                ty,
                then: None,
                ordered: false,
            })
        };
        if name == "count" && (star || args.is_empty()) {
            if !star {
                return Err(SqlError::new(
                    "42809",
                    "count(*) must be used to call a parameterless aggregate function",
                ));
            }
            return plain(
                agg::count::count_udaf(),
                vec![literal(ScalarValue::Int64(Some(1)))],
                SqlType::Int8,
            );
        }
        let Some(first) = args.first().cloned() else {
            return Err(none());
        };
        let two_floats = || -> Result<Vec<Expr>> {
            args.iter()
                .map(|a| {
                    if a.unknown || is_number(&a.ty) {
                        self.implicit(a, &SqlType::Float8)
                    } else {
                        Err(none())
                    }
                })
                .collect()
        };
        match name {
            "count" => {
                let a = self.known(first)?;
                plain(agg::count::count_udaf(), vec![a.expr], SqlType::Int8)
            }
            "sum" | "avg" => {
                let ty = match (&first.ty, first.unknown) {
                    (_, true) => {
                        return Err(SqlError::new(
                            "42725",
                            format!("function {name}(unknown) is not unique"),
                        ));
                    }
                    (SqlType::Interval, _) => {
                        let f = if name == "sum" {
                            "interval_sum_of"
                        } else {
                            "interval_avg_of"
                        };
                        return Ok(over_array(first, f, SqlType::Interval));
                    }
                    (t, _) if !is_number(t) => return Err(none()),
                    (t, _) => own::result_type(name, t),
                };
                plain(
                    if name == "sum" {
                        own::sum()
                    } else {
                        own::avg()
                    },
                    vec![first.expr],
                    ty,
                )
            }
            "min" | "max" => {
                let a = self.known(first)?;
                if matches!(
                    a.ty,
                    SqlType::Bool | SqlType::Json | SqlType::Jsonb | SqlType::Uuid
                ) {
                    return Err(none());
                }
                if matches!(a.ty, SqlType::Interval) {
                    // Arrow's order of intervals isn't SQL's.
                    let f = if name == "min" {
                        "interval_min_of"
                    } else {
                        "interval_max_of"
                    };
                    return Ok(over_array(a, f, SqlType::Interval));
                }
                let ty = if is_text(&a.ty) { SqlType::Text } else { a.ty };
                let float = matches!(ty, SqlType::Float4 | SqlType::Float8);
                let f = match (name, float) {
                    ("min", false) => agg::min_max::min_udaf(),
                    (_, false) => agg::min_max::max_udaf(),
                    ("min", true) => crate::functions::extremes::min(),
                    (_, true) => crate::functions::extremes::max(),
                };
                plain(f, vec![a.expr], ty)
            }
            "bool_and" | "every" | "bool_or" => {
                let e = self.implicit(&first, &SqlType::Bool).map_err(|_| none())?;
                let f = if name == "bool_or" {
                    agg::bool_and_or::bool_or_udaf()
                } else {
                    agg::bool_and_or::bool_and_udaf()
                };
                plain(f, vec![e], SqlType::Bool)
            }
            "array_agg" => {
                let a = self.known(first)?;
                let ty = SqlType::Array(Box::new(a.ty));
                Ok(Resolved {
                    function: agg::array_agg::array_agg_udaf(),
                    args: vec![a.expr],
                    ty,
                    then: None,
                    ordered: true,
                })
            }
            "string_agg" => {
                let [v, s]: [Typed; 2] = args.clone().try_into().map_err(|_| none())?;
                let args = vec![
                    self.implicit(&v, &SqlType::Text).map_err(|_| none())?,
                    self.implicit(&s, &SqlType::Text)?,
                ];
                Ok(Resolved {
                    function: agg::string_agg::string_agg_udaf(),
                    args,
                    ty: SqlType::Text,
                    then: None,
                    ordered: true,
                })
            }
            "json_agg" | "jsonb_agg" => {
                let json = if name == "json_agg" {
                    SqlType::Json
                } else {
                    SqlType::Jsonb
                };
                let a = self.known(first)?;
                let text = self.function(
                    if name == "json_agg" {
                        "to_json_or_null"
                    } else {
                        "to_jsonb_or_null"
                    },
                    vec![a],
                    None,
                )?;
                let ty = SqlType::Array(Box::new(SqlType::Text));
                let then = Some((
                    if name == "json_agg" {
                        "json_join"
                    } else {
                        "jsonb_join"
                    },
                    json,
                    vec![],
                ));
                Ok(Resolved {
                    function: agg::array_agg::array_agg_udaf(),
                    args: vec![text.expr],
                    ty,
                    then,
                    ordered: true,
                })
            }
            "json_object_agg" | "jsonb_object_agg" => {
                let json = if name == "json_object_agg" {
                    SqlType::Json
                } else {
                    SqlType::Jsonb
                };
                let pair = self.function("json_pair", args.clone(), None)?;
                let ty = SqlType::Array(Box::new(SqlType::Text));
                let then = Some((
                    if name == "json_object_agg" {
                        "json_join_object"
                    } else {
                        "jsonb_join_object"
                    },
                    json,
                    vec![],
                ));
                Ok(Resolved {
                    function: agg::array_agg::array_agg_udaf(),
                    args: vec![pair.expr],
                    ty,
                    then,
                    ordered: true,
                })
            }
            "bit_and" | "bit_or" | "bit_xor" => {
                if first.unknown || !is_integer(&first.ty) {
                    return Err(none());
                }
                let f = match name {
                    "bit_and" => agg::bit_and_or_xor::bit_and_udaf(),
                    "bit_or" => agg::bit_and_or_xor::bit_or_udaf(),
                    _ => agg::bit_and_or_xor::bit_xor_udaf(),
                };
                plain(f, vec![first.expr], first.ty)
            }
            "regr_count" => plain(agg::regr::regr_count_udaf(), two_floats()?, SqlType::Int8),
            _ => {
                let moment = moments::Moment::named(name).ok_or_else(none)?;
                if args.len() != moment.arguments() {
                    return Err(none());
                }
                let exact =
                    !first.unknown && (1..=4).contains(&super::types::number_rank(&first.ty));
                if moment.arguments() == 1 && exact {
                    let ty = moments::result_type(&first.ty);
                    return plain(moments::aggregate(moment), vec![first.expr], ty);
                }
                plain(moments::aggregate(moment), two_floats()?, SqlType::Float8)
            }
        }
    }

    /// ORDER BY items as sort expressions; ascending puts NULLs last.
    pub(crate) fn sorts(&self, c: Ctx, items: &[ast::OrderByExpr]) -> Result<Vec<Sort>> {
        items
            .iter()
            .map(|o| {
                let t = self.expr(c, &o.expr)?;
                let t = self.known(t)?;
                self.sort(t, &o.options)
            })
            .collect()
    }

    pub(crate) fn sort(&self, t: Typed, o: &ast::OrderByOptions) -> Result<Sort> {
        if matches!(t.ty, SqlType::Json) {
            return Err(SqlError::new(
                "42883",
                "could not identify an ordering operator for type json",
            )
            .hint("Use an explicit ordering operator or modify the query."));
        }
        let asc = o.asc.unwrap_or(true);
        Ok(Sort::new(
            self.order_key(t)?.expr,
            asc,
            o.nulls_first.unwrap_or(!asc),
        ))
    }

    fn window_call(&self, c: Ctx, name: &str, f: &ast::Function) -> Result<Typed> {
        let Some(calls) = c.calls.filter(|_| c.windows) else {
            return Err(SqlError::new(
                "42P20",
                match c.clause {
                    "window" => "window function calls cannot be nested".to_string(),
                    clause => format!("window functions are not allowed in {clause}"),
                },
            ));
        };
        let inner = Ctx {
            windows: false,
            sets: false,
            clause: "window",
            ..c
        };
        let spec = self.window_spec(c, f.over.as_ref())?;
        let partition_by = self
            .exprs(inner, &spec.partition_by)?
            .into_iter()
            .map(|t| self.known(t).map(|t| t.expr))
            .collect::<Result<Vec<_>>>()?;
        let order_by = self.sorts(inner, &spec.order_by)?;
        let window_frame = match &spec.window_frame {
            Some(w) => self.frame(inner, w)?,
            None => WindowFrame::new((!order_by.is_empty()).then_some(false)),
        };
        let (fun, args, ty, resolved, filter, distinct) = if is_window(name) {
            let (udwf, args, ty) = self.window_function(inner, name, f)?;
            (
                WindowFunctionDefinition::WindowUDF(udwf),
                args,
                ty,
                None,
                None,
                false,
            )
        } else if is_aggregate(name) {
            let (r, distinct, filter, _) = self.aggregate_parts(inner, name, f)?;
            if distinct {
                return Err(SqlError::unsupported(
                    "DISTINCT is not implemented for window functions",
                ));
            }
            let def = WindowFunctionDefinition::AggregateUDF(r.function.clone());
            (def, r.args.clone(), r.ty.clone(), Some(r), filter, distinct)
        } else {
            return Err(SqlError::new(
                "42809",
                format!(
                    "OVER specified, but {name} is not a window function nor an aggregate function"
                ),
            ));
        };
        let call = Expr::WindowFunction(Box::new(WindowFunction {
            fun,
            params: WindowFunctionParams {
                args,
                partition_by,
                order_by,
                window_frame,
                filter,
                null_treatment: None,
                distinct,
            },
        }));
        let mut calls = calls.borrow_mut();
        let n = match calls.windows.iter().position(|(e, _)| *e == call) {
            Some(n) => n,
            None => {
                calls.windows.push((call, ty.clone()));
                calls.windows.len() - 1
            }
        };
        drop(calls);
        let marker = Expr::Column(Column::new(Some(WINDOW), n.to_string()));
        match resolved {
            Some(r) => self.finish_aggregate(marker, r),
            None => Ok(Typed::new(marker, ty)),
        }
    }

    fn window_function(
        &self,
        c: Ctx,
        name: &str,
        f: &ast::Function,
    ) -> Result<(Arc<datafusion_expr::WindowUDF>, Vec<Expr>, SqlType)> {
        let args = match &f.args {
            FunctionArguments::List(l) => self.function_args(c, &l.args)?,
            _ => Vec::new(),
        };
        let none = || no_function(name, &args.iter().map(Typed::type_name).collect::<Vec<_>>());
        let integer = |t: &Typed| -> Result<Expr> {
            let e = self.implicit(t, &SqlType::Int8)?;
            match super::dml::fold_constant(&e) {
                Some(v @ ScalarValue::Int64(_)) => Ok(literal(v)),
                _ => Err(SqlError::unsupported(format!(
                    "the offset of {name} must be a constant"
                ))),
            }
        };
        if matches!(
            name,
            "row_number" | "rank" | "dense_rank" | "percent_rank" | "cume_dist"
        ) && !args.is_empty()
        {
            return Err(none());
        }
        Ok(match name {
            "row_number" => (win::row_number::row_number_udwf(), vec![], SqlType::Int8),
            "rank" => (win::rank::rank_udwf(), vec![], SqlType::Int8),
            "dense_rank" => (win::rank::dense_rank_udwf(), vec![], SqlType::Int8),
            "percent_rank" => (win::rank::percent_rank_udwf(), vec![], SqlType::Float8),
            "cume_dist" => (win::cume_dist::cume_dist_udwf(), vec![], SqlType::Float8),
            "ntile" => {
                let n = integer(args.first().ok_or_else(none)?)?;
                (win::ntile::ntile_udwf(), vec![n], SqlType::Int4)
            }
            "lag" | "lead" => {
                let v = self.known(args.first().ok_or_else(none)?.clone())?;
                let mut out = vec![v.expr];
                if let Some(n) = args.get(1) {
                    out.push(integer(n)?);
                }
                if let Some(d) = args.get(2) {
                    let e = self.cast(d.clone(), &v.ty, Context::Explicit)?;
                    match super::dml::fold_constant(&e) {
                        Some(s) => out.push(literal(s)),
                        None => {
                            return Err(SqlError::unsupported(format!(
                                "the default of {name} must be a constant"
                            )));
                        }
                    }
                }
                let f = if name == "lag" {
                    win::lead_lag::lag_udwf()
                } else {
                    win::lead_lag::lead_udwf()
                };
                (f, out, v.ty)
            }
            _ => {
                let v = self.known(args.first().ok_or_else(none)?.clone())?;
                let mut out = vec![v.expr];
                let f = match name {
                    "first_value" => win::nth_value::first_value_udwf(),
                    "last_value" => win::nth_value::last_value_udwf(),
                    _ => {
                        out.push(integer(args.get(1).ok_or_else(none)?)?);
                        win::nth_value::nth_value_udwf()
                    }
                };
                (f, out, v.ty)
            }
        })
    }

    fn window_spec(&self, c: Ctx, over: Option<&ast::WindowType>) -> Result<ast::WindowSpec> {
        let named = |name: &ast::Ident| -> Result<ast::WindowSpec> {
            let name = fold(name);
            let d = c.named_windows.iter().find(|d| fold(&d.0) == name);
            match d.map(|d| &d.1) {
                Some(ast::NamedWindowExpr::WindowSpec(s)) => {
                    self.window_spec(c, Some(&ast::WindowType::WindowSpec(s.clone())))
                }
                Some(ast::NamedWindowExpr::NamedWindow(n)) if fold(n) != name => {
                    self.window_spec(c, Some(&ast::WindowType::NamedWindow(n.clone())))
                }
                _ => Err(SqlError::new(
                    "42704",
                    format!("window \"{name}\" does not exist"),
                )),
            }
        };
        match over {
            Some(ast::WindowType::NamedWindow(n)) => named(n),
            Some(ast::WindowType::WindowSpec(s)) => match &s.window_name {
                None => Ok(s.clone()),
                Some(base) => {
                    let mut b = named(base)?;
                    if !s.order_by.is_empty() {
                        b.order_by = s.order_by.clone();
                    }
                    b.window_frame = s.window_frame.clone();
                    Ok(b)
                }
            },
            None => Err(SqlError::internal("a window call without OVER")),
        }
    }

    fn frame(&self, c: Ctx, w: &ast::WindowFrame) -> Result<WindowFrame> {
        let units = match w.units {
            ast::WindowFrameUnits::Rows => WindowFrameUnits::Rows,
            ast::WindowFrameUnits::Range => WindowFrameUnits::Range,
            ast::WindowFrameUnits::Groups => WindowFrameUnits::Groups,
        };
        let bound = |b: &ast::WindowFrameBound| -> Result<WindowFrameBound> {
            let offset = |e: &Option<Box<ast::Expr>>| -> Result<ScalarValue> {
                let Some(e) = e else {
                    return Ok(ScalarValue::Null);
                };
                let t = self.expr(c, e)?;
                let rows = units != WindowFrameUnits::Range;
                let e = if rows {
                    self.implicit(&t, &SqlType::Int8)?
                } else {
                    t.expr
                };
                match super::dml::fold_constant(&e) {
                    Some(ScalarValue::Int64(Some(v))) if rows => {
                        if v < 0 {
                            return Err(SqlError::new(
                                "22013",
                                "frame starting offset must not be negative",
                            ));
                        }
                        Ok(ScalarValue::UInt64(Some(v as u64)))
                    }
                    Some(v) => Ok(v),
                    None => Err(SqlError::unsupported("frame offsets must be constants")),
                }
            };
            Ok(match b {
                ast::WindowFrameBound::CurrentRow => WindowFrameBound::CurrentRow,
                ast::WindowFrameBound::Preceding(e) => WindowFrameBound::Preceding(offset(e)?),
                ast::WindowFrameBound::Following(e) => WindowFrameBound::Following(offset(e)?),
            })
        };
        let start = bound(&w.start_bound)?;
        let end = match &w.end_bound {
            Some(b) => bound(b)?,
            None => WindowFrameBound::CurrentRow,
        };
        // DataFusion wants UNBOUNDED typed for ROWS and GROUPS.
        let typed =
            |b: WindowFrameBound| match (b, units) {
                (
                    WindowFrameBound::Preceding(s),
                    WindowFrameUnits::Rows | WindowFrameUnits::Groups,
                ) if s.is_null() => WindowFrameBound::Preceding(ScalarValue::UInt64(None)),
                (
                    WindowFrameBound::Following(s),
                    WindowFrameUnits::Rows | WindowFrameUnits::Groups,
                ) if s.is_null() => WindowFrameBound::Following(ScalarValue::UInt64(None)),
                (b, _) => b,
            };
        Ok(WindowFrame::new_bounds(units, typed(start), typed(end)))
    }
}

/// The Arrow type that an aggregate or window call of DataFusion gives.
pub(crate) fn given_type(plan: &datafusion_expr::LogicalPlan, column: &Column) -> Option<DataType> {
    let schema = plan.schema();
    let n = schema.maybe_index_of_column(column)?;
    Some(schema.field(n).data_type().clone())
}
