//! Window function calls: the function, its window and its frame.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::datatypes::IntervalMonthDayNano;
use datafusion::functions_window as win;
use datafusion_common::{Column, ScalarValue};
use datafusion_expr::expr::{NullTreatment, Sort, WindowFunction, WindowFunctionParams};
use datafusion_expr::{
    Expr, WindowFrame, WindowFrameBound, WindowFrameUnits, WindowFunctionDefinition,
};
use sqlparser::ast::{self, FunctionArguments};
use tidemill_zset::schema::SqlType;

use super::aggregates::is_aggregate;
use super::calls::{ignores_nulls, no_function};
use super::coerce::scale_of_literal;
use super::conditions::{and, when};
use super::expr::{Ctx, WINDOW};
use super::types::{is_integer, is_number};
use super::{Binder, Typed, literal};
use crate::error::{Result, SqlError};
use crate::functions::aggregate::skips_nulls;
use crate::functions::cast::Context;
use crate::functions::intervals::interval_key;
use crate::functions::one_way::one_way;
use crate::functions::windows::{Exclude, Of, over_frame, shifted, tiles};
use crate::parser::fold;
use crate::parser::spelling_queries::EXCLUDED;

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

/// Whether a function looks at no frame.
fn numbers(name: &str) -> bool {
    is_window(name) && !matches!(name, "first_value" | "last_value" | "nth_value")
}

/// The frame of functions that look at none: one that goes with keys of any type.
pub(super) fn numbering_frame() -> WindowFrame {
    let start = WindowFrameBound::Preceding(ScalarValue::UInt64(None));
    WindowFrame::new_bounds(WindowFrameUnits::Rows, start, WindowFrameBound::CurrentRow)
}

/// A frame by RANGE without offsets is one by GROUPS.
fn by_groups(frame: WindowFrame) -> WindowFrame {
    if frame.units != WindowFrameUnits::Range {
        return frame;
    }
    let bound = |b: WindowFrameBound| match b {
        WindowFrameBound::Preceding(_) => WindowFrameBound::Preceding(ScalarValue::UInt64(None)),
        WindowFrameBound::Following(_) => WindowFrameBound::Following(ScalarValue::UInt64(None)),
        WindowFrameBound::CurrentRow => WindowFrameBound::CurrentRow,
    };
    let (start, end) = (bound(frame.start_bound), bound(frame.end_bound));
    WindowFrame::new_bounds(WindowFrameUnits::Groups, start, end)
}

/// Whether the frame's bounds are rows, groups, the current one, or the ends of the partition.
fn has_no_offset(frame: &WindowFrame) -> bool {
    let unbounded = |b: &WindowFrameBound| match b {
        WindowFrameBound::Preceding(v) | WindowFrameBound::Following(v) => v.is_null(),
        WindowFrameBound::CurrentRow => true,
    };
    unbounded(&frame.start_bound) && unbounded(&frame.end_bound)
}

/// Whether DataFusion's aggregate can forget rows that leave its frame.
fn slides(aggregate: &str) -> bool {
    !matches!(
        aggregate,
        "bool_and"
            | "bool_or"
            | "bit_and"
            | "bit_or"
            | "bit_xor"
            | "string_agg"
            | "interval_min"
            | "interval_max"
    )
}

/// What the window's frame leaves out, whose mark is taken out of PARTITION BY (`parser::spelling`).
fn excluded(spec: &mut ast::WindowSpec) -> Exclude {
    let Some(ast::Expr::Identifier(mark)) = spec.partition_by.first() else {
        return Exclude::Nothing;
    };
    let all = [Exclude::CurrentRow, Exclude::Group, Exclude::Ties];
    let mut marks = EXCLUDED.iter().zip(all);
    match marks.find(|((name, _), _)| *name == mark.value) {
        Some((_, exclude)) => {
            spec.partition_by.remove(0);
            exclude
        }
        None => Exclude::Nothing,
    }
}

/// Refuses IGNORE NULLS where it takes a function of our own: only DataFusion's know it.
fn refuse_ignored_nulls(f: &ast::Function) -> Result<()> {
    match ignores_nulls(f) {
        false => Ok(()),
        true => Err(SqlError::unsupported(
            "IGNORE NULLS is not supported with EXCLUDE, or with an offset that isn't constant",
        )),
    }
}

/// Refuses windows of one name.
pub(super) fn check_names(windows: &[ast::NamedWindowDefinition]) -> Result<()> {
    for (i, w) in windows.iter().enumerate() {
        let name = fold(&w.0);
        if windows[..i].iter().any(|o| fold(&o.0) == name) {
            let message = format!("window \"{name}\" is already defined");
            return Err(SqlError::new("42P20", message));
        }
    }
    Ok(())
}

impl Binder<'_> {
    pub(super) fn window_call(&self, c: Ctx, name: &str, f: &ast::Function) -> Result<Typed> {
        super::foreign::window(f, is_aggregate(name) && !is_window(name))?;
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
        let mut spec = self.window_spec(c, f.over.as_ref())?;
        let exclude = excluded(&mut spec);
        let partition_by = self
            .exprs(inner, &spec.partition_by)?
            .into_iter()
            .map(|t| self.order_key(self.known(t)?).map(|t| t.expr))
            .collect::<Result<Vec<_>>>()?;
        let mut order_by = self.sorts(inner, &spec.order_by)?;
        let (window_frame, only) = match &spec.window_frame {
            Some(w) => self.frame(inner, w, &spec.order_by, &mut order_by)?,
            None => {
                let frame = WindowFrame::new((!order_by.is_empty()).then_some(false));
                (frame, None)
            }
        };
        let window_frame = match spec.order_by.first() {
            _ if numbers(name) => numbering_frame(),
            Some(by) if has_no_offset(&window_frame) && self.has_no_ranges(inner, &by.expr)? => {
                by_groups(window_frame)
            }
            _ => window_frame,
        };
        let (fun, args, ty, resolved, filter) = if is_window(name) {
            let (udwf, mut args, ty) = self.window_function(inner, name, f, exclude, &order_by)?;
            if let (Some(only), "first_value" | "last_value" | "nth_value") = (only, name) {
                let value = args[0].clone();
                args[0] = when(vec![(only, value)], super::null_of(&ty));
            }
            let fun = WindowFunctionDefinition::WindowUDF(udwf);
            (fun, args, ty, None, None)
        } else if is_aggregate(name) {
            let (r, distinct, filter, _) = self.aggregate_parts(inner, name, f)?;
            if distinct {
                return Err(SqlError::unsupported(
                    "DISTINCT is not implemented for window functions",
                ));
            }
            let filter = match (filter, only) {
                (Some(filter), Some(only)) => Some(Box::new(and(only, *filter))),
                (filter, only) => filter.or(only.map(Box::new)),
            };
            let (mut args, ty) = (r.args.clone(), r.ty.clone());
            let grows =
                matches!(&window_frame.start_bound, WindowFrameBound::Preceding(n) if n.is_null());
            // DataFusion finds the frames of an aggregate whose filter stays, those by RANGE with offsets wrongly where they overflow.
            let filtered = filter.is_some() && !skips_nulls(r.function.name());
            let distant =
                window_frame.units == WindowFrameUnits::Range && !has_no_offset(&window_frame);
            let found = !filtered || !distant;
            if exclude == Exclude::Nothing && found && (grows || slides(r.function.name())) {
                let function = match slides(r.function.name()) {
                    true => r.function.clone(),
                    false => one_way(r.function.clone()),
                };
                let def = WindowFunctionDefinition::AggregateUDF(function);
                (def, args, ty, Some(r), filter)
            } else {
                let of = Of::Aggregate(r.function.clone());
                let keys = order_by.len();
                let over = over_frame(of, exclude, args.len(), filter.is_some(), keys);
                args.extend(filter.map(|f| *f));
                args.extend(order_by.iter().map(|s| s.expr.clone()));
                let def = WindowFunctionDefinition::WindowUDF(over);
                (def, args, ty, Some(r), None)
            }
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
                null_treatment: ignores_nulls(f).then_some(NullTreatment::IgnoreNulls),
                distinct: false,
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

    /// Whether DataFusion has no frames by RANGE over a key of this type.
    fn has_no_ranges(&self, c: Ctx, key: &ast::Expr) -> Result<bool> {
        let key = self.known(self.expr(c, key)?)?;
        Ok(match key.ty {
            SqlType::Bytea | SqlType::Jsonb | SqlType::Array(_) | SqlType::Time => true,
            ty => crate::functions::rows::is_row(&ty),
        })
    }

    /// A number of rows; without a type it is an integer.
    fn count_of(&self, n: &Typed) -> Result<Expr> {
        let to = SqlType::Int4;
        match n.unknown {
            true => {
                let n = Typed::new(self.implicit(n, &to)?, to);
                self.implicit(&n, &SqlType::Int8)
            }
            false => self.implicit(n, &SqlType::Int8),
        }
    }

    fn window_function(
        &self,
        c: Ctx,
        name: &str,
        f: &ast::Function,
        exclude: Exclude,
        order_by: &[Sort],
    ) -> Result<(Arc<datafusion_expr::WindowUDF>, Vec<Expr>, SqlType)> {
        let args = match &f.args {
            FunctionArguments::List(l) => self.function_args(c, &l.args)?,
            _ => Vec::new(),
        };
        let none = || no_function(name, &args.iter().map(Typed::type_name).collect::<Vec<_>>());
        let looks_at_values = !numbers(name) || matches!(name, "lag" | "lead");
        if ignores_nulls(f) && !looks_at_values {
            let message = format!("function {name} does not accept IGNORE NULLS");
            return Err(SqlError::new("42809", message));
        }
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
                let [n] = args.as_slice() else {
                    return Err(none());
                };
                let n = self.count_of(n).map_err(|_| none())?;
                match super::dml::fold_constant(&n) {
                    Some(n @ ScalarValue::Int64(Some(1..))) => {
                        (win::ntile::ntile_udwf(), vec![literal(n)], SqlType::Int4)
                    }
                    _ => (tiles(), vec![n], SqlType::Int4),
                }
            }
            "lag" | "lead" => {
                if args.len() > 3 {
                    return Err(none());
                }
                let v = self.known(args.first().ok_or_else(none)?.clone())?;
                // The value and what stands for it are of one type.
                let (v, default) = match args.get(2) {
                    None => (v, None),
                    Some(d) => {
                        let both = [(&v.ty, args[0].unknown), (&d.ty, d.unknown)];
                        let ty = self
                            .unify_types(both.into_iter(), name)
                            .map_err(|_| none())?;
                        let ty = match ty == v.ty {
                            true => ty,
                            false => super::coerce::own_scales(ty, both.into_iter()),
                        };
                        let ty = super::coerce::with_digits(ty, [&args[0], d].into_iter());
                        let value = self.implicit(&args[0], &ty)?;
                        (Typed::new(value, ty.clone()), Some(self.implicit(d, &ty)?))
                    }
                };
                let one = literal(ScalarValue::Int64(Some(1)));
                let n = match args.get(1) {
                    Some(n) if n.unknown => self.count_of(n)?,
                    Some(n) => self.count_of(n).map_err(|_| none())?,
                    None => one,
                };
                let constant = |e: &Expr| super::dml::fold_constant(e);
                match (constant(&n), default.as_ref().map(constant)) {
                    (Some(n @ ScalarValue::Int64(Some(_))), None | Some(Some(_))) => {
                        let mut out = vec![v.expr, literal(n)];
                        out.extend(default.as_ref().and_then(constant).map(literal));
                        let f = match name {
                            "lag" => win::lead_lag::lag_udwf(),
                            _ => win::lead_lag::lead_udwf(),
                        };
                        (f, out, v.ty)
                    }
                    _ => {
                        refuse_ignored_nulls(f)?;
                        let default = default.unwrap_or_else(|| super::null_of(&v.ty));
                        (shifted(name == "lag"), vec![v.expr, n, default], v.ty)
                    }
                }
            }
            _ => {
                let v = self.known(args.first().ok_or_else(none)?.clone())?;
                let nth = name == "nth_value";
                if args.len() != 1 + usize::from(nth) {
                    return Err(none());
                }
                let mut out = vec![v.expr];
                let mut plain = exclude == Exclude::Nothing;
                if nth {
                    let n = self
                        .implicit(&args[1], &SqlType::Int8)
                        .map_err(|_| none())?;
                    match super::dml::fold_constant(&n) {
                        Some(n @ ScalarValue::Int64(Some(1..))) => out.push(literal(n)),
                        _ => {
                            plain = false;
                            out.push(n);
                        }
                    }
                }
                let f = match (plain, name) {
                    (true, "first_value") => win::nth_value::first_value_udwf(),
                    (true, "last_value") => win::nth_value::last_value_udwf(),
                    (true, _) => win::nth_value::nth_value_udwf(),
                    (false, name) => {
                        refuse_ignored_nulls(f)?;
                        let of = match name {
                            "first_value" => Of::First,
                            "last_value" => Of::Last,
                            _ => Of::Nth,
                        };
                        let over = over_frame(of, exclude, out.len(), false, order_by.len());
                        out.extend(order_by.iter().map(|s| s.expr.clone()));
                        over
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
                    let base = fold(base);
                    let mut own = s.clone();
                    let mark = own.partition_by.first().cloned();
                    let mark = mark.filter(|_| excluded(&mut own) != Exclude::Nothing);
                    let refused = |message: String| Err(SqlError::new("42P20", message));
                    if !own.partition_by.is_empty() {
                        return refused(format!(
                            "cannot override PARTITION BY clause of window \"{base}\""
                        ));
                    }
                    if !own.order_by.is_empty() && !b.order_by.is_empty() {
                        return refused(format!(
                            "cannot override ORDER BY clause of window \"{base}\""
                        ));
                    }
                    if b.window_frame.is_some() {
                        return refused(format!(
                            "cannot copy window \"{base}\" because it has a frame clause"
                        ))
                        .map_err(|e| e.hint("Omit the parentheses in this OVER clause."));
                    }
                    if !own.order_by.is_empty() {
                        b.order_by = own.order_by;
                    }
                    b.window_frame = own.window_frame;
                    b.partition_by.splice(0..0, mark);
                    Ok(b)
                }
            },
            None => Err(SqlError::internal("a window call without OVER")),
        }
    }
}

/// A bound of a frame as it is written: where it lies, and how far away.
type Bound<'w> = (Side, Option<&'w ast::Expr>);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Before,
    Current,
    After,
}

fn written(b: &ast::WindowFrameBound) -> Bound<'_> {
    match b {
        ast::WindowFrameBound::CurrentRow => (Side::Current, None),
        ast::WindowFrameBound::Preceding(e) => (Side::Before, e.as_deref().map(quoted)),
        ast::WindowFrameBound::Following(e) => (Side::After, e.as_deref().map(quoted)),
    }
}

/// The parser takes a constant in quotes for an interval; a number is one of whatever type the frame needs.
fn quoted(e: &ast::Expr) -> &ast::Expr {
    match e {
        ast::Expr::Interval(i) if i.leading_field.is_none() => match i.value.as_ref() {
            ast::Expr::Value(v) if is_plain_number(&v.value) => &i.value,
            _ => e,
        },
        e => e,
    }
}

fn is_plain_number(v: &ast::Value) -> bool {
    matches!(v, ast::Value::SingleQuotedString(s) if s.trim().parse::<f64>().is_ok())
}

/// Whether DataFusion takes the frame for one that ends before it begins.
fn is_backward(from: &WindowFrameBound, to: &WindowFrameBound) -> bool {
    use WindowFrameBound::{Following, Preceding};
    // Not all intervals are less, equal or greater to it, which compares months first.
    let less = |a: &ScalarValue, b: &ScalarValue| {
        let order = a.partial_cmp(b);
        !a.is_null() && !b.is_null() && order.is_none_or(Ordering::is_lt)
    };
    match (from, to) {
        (Preceding(from), Preceding(to)) => less(from, to),
        (Following(from), Following(to)) => less(to, from),
        _ => false,
    }
}

/// The same bounds, both on one side, as bounds of two sides: what is following is so much less than nothing preceding.
fn other_way(from: WindowFrameBound, to: WindowFrameBound) -> (WindowFrameBound, WindowFrameBound) {
    use WindowFrameBound::{Following, Preceding};
    match (from, to) {
        (from @ Preceding(_), Preceding(to)) => (from, Following(negated(to))),
        (Following(from), to @ Following(_)) => (Preceding(negated(from)), to),
        both => both,
    }
}

fn negated(offset: ScalarValue) -> ScalarValue {
    match offset {
        ScalarValue::Int64(Some(v)) => ScalarValue::Int64(Some(v.saturating_neg())),
        ScalarValue::Float64(Some(v)) => ScalarValue::Float64(Some(-v)),
        ScalarValue::Decimal128(Some(v), p, s) => {
            ScalarValue::Decimal128(Some(v.saturating_neg()), p, s)
        }
        ScalarValue::IntervalMonthDayNano(Some(v)) => {
            let v = IntervalMonthDayNano::new(
                v.months.saturating_neg(),
                v.days.saturating_neg(),
                v.nanoseconds.saturating_neg(),
            );
            ScalarValue::IntervalMonthDayNano(Some(v))
        }
        other => other,
    }
}

/// Refuses frames that end before they begin.
fn check_order((start, from): &Bound, (end, to): &Bound) -> Result<()> {
    let refused = match (start, end) {
        (Side::After, _) if from.is_none() => "frame start cannot be UNBOUNDED FOLLOWING",
        (_, Side::Before) if to.is_none() => "frame end cannot be UNBOUNDED PRECEDING",
        (Side::Current, Side::Before) => {
            "frame starting from current row cannot have preceding rows"
        }
        (Side::After, Side::Before | Side::Current) => {
            "frame starting from following row cannot have preceding rows"
        }
        _ => return Ok(()),
    };
    Err(SqlError::new("42P20", refused))
}

impl Binder<'_> {
    /// A frame, and a condition on its rows if none of them is in it. With RANGE and offsets the key in `order_by` becomes
    /// one of a type in which offsets are added to it.
    fn frame(
        &self,
        c: Ctx,
        w: &ast::WindowFrame,
        by: &[ast::OrderByExpr],
        order_by: &mut [Sort],
    ) -> Result<(WindowFrame, Option<Expr>)> {
        let units = match w.units {
            ast::WindowFrameUnits::Rows => WindowFrameUnits::Rows,
            ast::WindowFrameUnits::Range => WindowFrameUnits::Range,
            ast::WindowFrameUnits::Groups => WindowFrameUnits::Groups,
        };
        let start = written(&w.start_bound);
        let end = w.end_bound.as_ref().map_or((Side::Current, None), written);
        check_order(&start, &end)?;
        // Spelled out, these are the frames of a window without one.
        if units == WindowFrameUnits::Range && start.1.is_none() && end.1.is_none() {
            let from_first = start.0 == Side::Before && end.0 == Side::Current;
            if by.is_empty() || from_first {
                let frame = WindowFrame::new((!by.is_empty()).then_some(false));
                return Ok((frame, None));
            }
        }
        let offset = |e: Option<&ast::Expr>| e.map(|e| self.expr(c, e)).transpose();
        let (from, to) = (offset(start.1)?, offset(end.1)?);
        let ranged = units == WindowFrameUnits::Range && (from.is_some() || to.is_some());
        let mut of = SqlType::Int8;
        let key = match (by, &mut *order_by) {
            ([by, ..], [sort]) if ranged => {
                let key = self.known(self.expr(c, &by.expr)?)?;
                of = key.ty.clone();
                let key = self.range_key(key, [&from, &to])?;
                sort.expr = key.expr.clone();
                Some(key)
            }
            _ if ranged => {
                return Err(SqlError::new(
                    "42P20",
                    "RANGE with offset PRECEDING/FOLLOWING requires exactly one ORDER BY column",
                ));
            }
            _ => None,
        };
        if units == WindowFrameUnits::Groups && by.is_empty() {
            let message = "GROUPS mode requires an ORDER BY clause";
            return Err(SqlError::new("42P20", message));
        }
        let bound = |side: Side, offset: Option<Typed>, which: &str| -> Result<WindowFrameBound> {
            let distance = match (offset, &key) {
                _ if side == Side::Current => return Ok(WindowFrameBound::CurrentRow),
                (Some(t), Some(key)) => self.range_offset(t, key, &of)?,
                (Some(t), None) => self.row_offset(t, which)?,
                (None, None) if units != WindowFrameUnits::Range => ScalarValue::UInt64(None),
                (None, _) => ScalarValue::Null,
            };
            Ok(match side {
                Side::Before => WindowFrameBound::Preceding(distance),
                _ => WindowFrameBound::Following(distance),
            })
        };
        let (from, to) = (
            bound(start.0, from, "starting")?,
            bound(end.0, to, "ending")?,
        );
        if !is_backward(&from, &to) {
            return Ok((WindowFrame::new_bounds(units, from, to), None));
        }
        if ranged {
            // Not all of them are empty: rows with NULL, NaN or infinity are equally far from each other.
            let (from, to) = other_way(from, to);
            return Ok((WindowFrame::new_bounds(units, from, to), None));
        }
        let here = || WindowFrameBound::CurrentRow;
        let frame = WindowFrame::new_bounds(units, here(), here());
        Ok((frame, Some(super::truth(false))))
    }

    /// A number of rows or groups.
    fn row_offset(&self, t: Typed, which: &str) -> Result<ScalarValue> {
        let e = self.implicit(&t, &SqlType::Int8)?;
        match super::dml::fold_constant(&e) {
            Some(ScalarValue::Int64(Some(v))) => match u64::try_from(v) {
                Ok(v) => Ok(ScalarValue::UInt64(Some(v))),
                Err(_) => Err(SqlError::new(
                    "22013",
                    format!("frame {which} offset must not be negative"),
                )),
            },
            Some(_) => Err(SqlError::new(
                "22004",
                format!("frame {which} offset must not be null"),
            )),
            None => Err(SqlError::unsupported("frame offsets must be constants")),
        }
    }

    /// The key of a RANGE frame as a value of which an offset can be taken away without loss: all integers as bigint, all
    /// floats as double precision, and so on. DataFusion compares nothing but values of one type.
    fn range_key(&self, key: Typed, offsets: [&Option<Typed>; 2]) -> Result<Typed> {
        let of = key.type_name();
        let refused = |offset: Option<&Typed>| {
            let offset = offset.map_or(String::new(), |t| {
                format!(" and offset type {}", t.type_name())
            });
            SqlError::new(
                "0A000",
                format!(
                    "RANGE with offset PRECEDING/FOLLOWING is not supported for column type {of}{offset}"
                ),
            )
            .hint("Cast the offset value to an appropriate type.")
        };
        let all = || offsets.into_iter().flatten();
        let offsets = || all().filter(|t| !t.unknown);
        let fits = |ty: &SqlType| match &key.ty {
            t if is_integer(t) => is_integer(ty),
            t if is_number(t) => is_number(ty),
            _ => matches!(ty, SqlType::Interval),
        };
        if let Some(wrong) = offsets().find(|t| !fits(&t.ty)) {
            return Err(refused(Some(wrong)));
        }
        let to = match &key.ty {
            t if is_integer(t) => SqlType::Int8,
            SqlType::Float4 | SqlType::Float8 => SqlType::Float8,
            SqlType::Numeric(_, scale) => {
                let scale_of = |t: &Typed| match t.unknown {
                    true => scale_of_literal(t),
                    false => Some(super::types::as_numeric(&t.ty).1),
                };
                let scales = all().filter_map(scale_of);
                SqlType::Numeric(38, scales.fold(*scale, i8::max))
            }
            SqlType::Date | SqlType::Timestamp => SqlType::Timestamp,
            SqlType::Timestamptz => SqlType::Timestamptz,
            SqlType::Time | SqlType::Interval => {
                let length = self.cast(key, &SqlType::Interval, Context::Explicit)?;
                return self.order_key(Typed::new(length, SqlType::Interval));
            }
            _ => return Err(refused(None)),
        };
        Ok(Typed::new(self.cast(key, &to, Context::Explicit)?, to))
    }

    /// The offset of a RANGE frame, for a key that [`Binder::range_key`] gave of one that was `of`.
    fn range_offset(&self, offset: Typed, key: &Typed, of: &SqlType) -> Result<ScalarValue> {
        let of_day = matches!(of, SqlType::Time);
        let over_time = of_day
            || matches!(
                of,
                SqlType::Date | SqlType::Timestamp | SqlType::Timestamptz | SqlType::Interval
            );
        let to = if over_time {
            &SqlType::Interval
        } else {
            &key.ty
        };
        let value = self.cast(offset, to, Context::Explicit)?;
        let value = match &key.ty {
            SqlType::Int8 if over_time && !of_day => {
                self.order_key(Typed::new(value, SqlType::Interval))?.expr
            }
            _ => value,
        };
        let value = super::dml::fold_constant(&value)
            .ok_or_else(|| SqlError::unsupported("frame offsets must be constants"))?;
        let value = match value {
            // To the time of a day, days and months are nothing.
            ScalarValue::IntervalMonthDayNano(Some(v)) if of_day => {
                let time = IntervalMonthDayNano::new(0, 0, v.nanoseconds);
                ScalarValue::Int64(Some(interval_key(time)))
            }
            value => value,
        };
        let negative = match &value {
            ScalarValue::Int64(Some(v)) => *v < 0,
            ScalarValue::Float64(Some(v)) => *v < 0.0 || v.is_nan(),
            ScalarValue::Decimal128(Some(v), ..) => *v < 0,
            ScalarValue::IntervalMonthDayNano(Some(v)) => interval_key(*v) < 0,
            _ => {
                let message = "frame starting offset must not be null";
                return Err(SqlError::new("22004", message));
            }
        };
        if negative {
            return Err(SqlError::new(
                "22013",
                "invalid preceding or following size in window function",
            ));
        }
        Ok(value)
    }
}
