//! Expressions.

use datafusion_common::ScalarValue;
use datafusion_expr::{Expr, Operator};
use sqlparser::ast::{
    self, BinaryOperator as B, DateTimeField, Expr as E, TrimWhereField, UnaryOperator, Value,
};
use tidemill_zset::schema::SqlType;

use super::conditions::{and, not, or};
pub(crate) use super::context::{Ctx, Truth};
use super::intervals::fields_of;
use super::types::{is_number, sql_type};
use super::{Binder, Typed, literal, truth};
use crate::catalog::Relation;
use crate::definition::texts::{is_regclass, regclass_text};
use crate::error::{Result, SqlError};
use crate::functions::cast::Context;
use crate::functions::strings::quote_ident;
use crate::functions::{arith, parse};
use crate::names::name_of_text;
use crate::parser::spelling::SYMMETRIC;
use crate::parser::{parts, position, string_of};

/// A subquery's text, what of its truth matters, and whether it is a condition of WHERE.
pub(crate) type Written = (String, Truth, bool);

/// Calls that are computed by a node of their own, gathered while expressions are bound. A call's place
/// is taken by a marker column, whose qualifier says which list it is in.
#[derive(Default)]
pub(crate) struct Calls {
    pub aggregates: Vec<(Expr, SqlType)>,
    pub windows: Vec<(Expr, SqlType)>,
    /// Set-returning calls: an expression that gives a list, and the type of an element.
    pub sets: Vec<(Expr, SqlType)>,
    /// Subqueries as they are written, and where, with what they became: one that is written again is the same value.
    pub subqueries: Vec<(Written, Typed)>,
}

/// Bytes of stack below which more is taken, and how many.
const STACK_LEFT: usize = 1 << 20;
const STACK_MORE: usize = 4 << 20;

/// Runs `f`, which may be many levels down, on enough stack.
pub(crate) fn deep<T>(f: impl FnOnce() -> T) -> T {
    stacker::maybe_grow(STACK_LEFT, STACK_MORE, f)
}

/// Qualifiers of marker columns.
pub(crate) const AGGREGATE: &str = "#aggregate";
pub(crate) const WINDOW: &str = "#window";
pub(crate) const SET: &str = "#set";

fn text_literal(s: &str) -> Typed {
    Typed {
        expr: literal(ScalarValue::Utf8View(Some(s.to_string()))),
        ty: SqlType::Text,
        unknown: true,
    }
}

/// An untyped NULL.
pub(crate) fn null() -> Typed {
    Typed {
        expr: literal(ScalarValue::Null),
        ty: SqlType::Text,
        unknown: true,
    }
}

/// Operators that bind more than those which are only signs, such as `@`.
fn is_arithmetic(op: &B) -> bool {
    use B::*;
    matches!(op, Plus | Minus | Multiply | Divide | Modulo | PGExp)
}

/// `@ a + b` is `@ (a + b)`, though it was read as `(@ a) + b`: the sign at the left end of a sum, and what it is of.
fn prefixed(e: &E) -> Option<(UnaryOperator, E)> {
    use UnaryOperator::{BitwiseNot, PGAbs, PGCubeRoot, PGSquareRoot};
    let (mut left_end, mut sum) = (e, Vec::new());
    while let E::BinaryOp { left, op, right } = left_end
        && is_arithmetic(op)
    {
        sum.push((op, right));
        left_end = left;
    }
    let E::UnaryOp {
        op: prefix @ (BitwiseNot | PGAbs | PGCubeRoot | PGSquareRoot),
        expr,
    } = left_end
    else {
        return None;
    };
    let first = expr.as_ref().clone();
    let operand = sum
        .into_iter()
        .rev()
        .fold(first, |left, (op, right)| E::BinaryOp {
            left: Box::new(left),
            op: op.clone(),
            right: right.clone(),
        });
    Some((*prefix, operand))
}

/// `x IS NOT DISTINCT FROM NULL` as `x IS NULL`, which values without an order have, too.
fn null_test(l: &Typed, r: &Typed) -> Option<Expr> {
    let is_null = |t: &Typed| t.unknown && matches!(&t.expr, Expr::Literal(v, _) if v.is_null());
    let other = match (is_null(l), is_null(r)) {
        (_, true) => l,
        (true, _) => r,
        _ => return None,
    };
    let known = !matches!(other.expr, Expr::Placeholder(_)) || !other.unknown;
    known.then(|| Expr::IsNull(Box::new(other.expr.clone())))
}

impl Binder<'_> {
    pub(crate) fn expr(&self, c: Ctx, e: &E) -> Result<Typed> {
        let _level = self.deeper()?;
        deep(|| self.expr_here(c, e))
    }

    fn expr_here(&self, c: Ctx, e: &E) -> Result<Typed> {
        let truth = match (e, c.truth) {
            (E::Nested(_) | E::Exists { .. } | E::InSubquery { .. }, t) => t,
            (E::AnyOp { .. } | E::AllOp { .. }, t) => t,
            (E::BinaryOp { op: B::And, .. }, t) => t,
            (E::BinaryOp { op: B::Or, .. }, Truth::Decides) => Truth::Holds,
            (E::BinaryOp { op: B::Or, .. }, t) => t,
            (
                E::UnaryOp {
                    op: UnaryOperator::Not,
                    expr,
                },
                t,
            ) if matches!(strip(expr), E::InSubquery { .. }) => t,
            _ => Truth::Value,
        };
        let c = Ctx { truth, ..c };
        match e {
            // The parser knows the other functions that go without parentheses.
            E::Identifier(i)
                if i.quote_style.is_none() && i.value.eq_ignore_ascii_case("current_schema") =>
            {
                Ok(self.current_schema())
            }
            E::Identifier(i)
                if i.quote_style.is_none() && i.value.eq_ignore_ascii_case("current_role") =>
            {
                Ok(self.text(&self.session.user))
            }
            E::Identifier(i) => self.column_ref(c.scope, std::slice::from_ref(i)),
            E::CompoundIdentifier(p) => self.column_ref(c.scope, p),
            E::Value(v) => self.value(&v.value),
            E::Nested(e) => self.expr(c, e),
            E::BinaryOp { left, op, right } => self.binary(c, left, op, right),
            E::UnaryOp { op, expr } => self.unary(c, op, expr),
            E::Cast {
                expr,
                data_type,
                kind,
                ..
            } => {
                if matches!(kind, ast::CastKind::TryCast | ast::CastKind::SafeCast) {
                    return Err(SqlError::unsupported("TRY_CAST is not supported"));
                }
                let t = self.cast_to(c, expr, data_type)?;
                self.at_precision(t, data_type)
            }
            E::TypedString(t) => {
                let ty = sql_type(&t.data_type)?;
                let text = string_of(&t.value.value)
                    .map(text_literal)
                    .ok_or_else(|| SqlError::new("42601", "a string must follow a type's name"))?;
                if is_regclass(&t.data_type) {
                    return self.regclass(text);
                }
                if let Some(fields) = fields_of(&t.data_type) {
                    return self
                        .interval_of(text, fields)
                        .map_err(|e| at(e, position(t.value.span)));
                }
                let ty = match (&ty, t.data_type.to_string().to_lowercase().as_str()) {
                    (SqlType::Numeric(..), "numeric" | "decimal") => self.open_numeric(&text, ty),
                    _ => ty,
                };
                let expr = self
                    .settle(&text, &ty, Context::Explicit)
                    .map_err(|e| at(e, position(t.value.span)))?;
                self.at_precision(Typed::new(expr, ty), &t.data_type)
            }
            E::Interval(i) => self.interval_literal(c, i),
            E::IsNull(e) => self.is_null(c, e, true),
            E::IsNotNull(e) => self.is_null(c, e, false),
            E::IsTrue(e) => self.is_truth(c, e, "IS TRUE", |e| Expr::IsTrue(Box::new(e))),
            E::IsNotTrue(e) => self.is_truth(c, e, "IS NOT TRUE", |e| Expr::IsNotTrue(Box::new(e))),
            E::IsFalse(e) => self.is_truth(c, e, "IS FALSE", |e| Expr::IsFalse(Box::new(e))),
            E::IsNotFalse(e) => {
                self.is_truth(c, e, "IS NOT FALSE", |e| Expr::IsNotFalse(Box::new(e)))
            }
            E::IsUnknown(e) => self.is_truth(c, e, "IS UNKNOWN", |e| Expr::IsNull(Box::new(e))),
            E::IsNotUnknown(e) => {
                self.is_truth(c, e, "IS NOT UNKNOWN", |e| Expr::IsNotNull(Box::new(e)))
            }
            E::IsNormalized {
                expr,
                form,
                negated,
            } => self.is_normalized(c, expr, *form, *negated),
            E::IsDistinctFrom(l, r) => {
                if let Some(t) = self.rows_distinct(c, l, r)? {
                    return Ok(t);
                }
                let (l, r) = (self.expr(c, l)?, self.expr(c, r)?);
                if let Some(null) = null_test(&l, &r) {
                    return Ok(Typed::new(not(null), SqlType::Bool));
                }
                self.compare(Operator::IsDistinctFrom, l, r)
            }
            E::IsNotDistinctFrom(l, r) => {
                if let Some(t) = self.rows_distinct(c, l, r)? {
                    return Ok(Typed::new(not(t.expr), SqlType::Bool));
                }
                let (l, r) = (self.expr(c, l)?, self.expr(c, r)?);
                if let Some(null) = null_test(&l, &r) {
                    return Ok(Typed::new(null, SqlType::Bool));
                }
                self.compare(Operator::IsNotDistinctFrom, l, r)
            }
            E::Between {
                expr,
                negated,
                low,
                high,
            } => {
                let (low, either_way) = match symmetric_bound(low) {
                    Some(low) => (low, true),
                    None => (low.as_ref(), false),
                };
                if let Some(found) = self.row_between(c, expr, (low, high), either_way)? {
                    let found = if *negated { not(found) } else { found };
                    return Ok(Typed::new(found, SqlType::Bool));
                }
                let mut x = self.expr(c, expr)?;
                let (low, high) = (self.expr(c, low)?, self.expr(c, high)?);
                let known = [&low, &high].into_iter().find(|bound| !bound.unknown);
                if let (Expr::Placeholder(_), true, Some(known)) = (&x.expr, x.unknown, known) {
                    // It has one type in both comparisons.
                    x = self.beside(x, known)?;
                    if x.unknown {
                        x = Typed::new(self.implicit(&x, &known.ty)?, known.ty.clone());
                    }
                }
                let within = |x: &Typed, low: &Typed, high: &Typed| -> Result<Expr> {
                    let ge = self.compare(Operator::GtEq, x.clone(), low.clone())?;
                    let le = self.compare(Operator::LtEq, x.clone(), high.clone())?;
                    Ok(and(ge.expr, le.expr))
                };
                let bool = &SqlType::Bool;
                let found = x.shared(bool, |x| match either_way {
                    false => within(&x, &low, &high),
                    true => low.shared(bool, |low| {
                        high.shared(bool, |high| {
                            Ok(or(within(&x, &low, &high)?, within(&x, &high, &low)?))
                        })
                    }),
                })?;
                Ok(Typed::new(
                    if *negated { not(found) } else { found },
                    SqlType::Bool,
                ))
            }
            E::InList {
                expr,
                list,
                negated,
            } => self.in_list(c, expr, list, *negated),
            E::InSubquery { .. } | E::Exists { .. } | E::Subquery(_) => self.subquery_once(c, e),
            E::AnyOp {
                left,
                compare_op,
                right,
                ..
            } => self.quantified(c, left, compare_op, right, true),
            E::AllOp {
                left,
                compare_op,
                right,
            } => self.quantified(c, left, compare_op, right, false),
            E::Like {
                negated,
                expr,
                pattern,
                escape_char,
                any: false,
            } => match all_of(pattern) {
                Some(all) => self.like_each(c, expr, all, escape_char, *negated, false, false),
                None => self.like(c, expr, pattern, escape_char, *negated, false),
            },
            E::ILike {
                negated,
                expr,
                pattern,
                escape_char,
                any: false,
            } => match all_of(pattern) {
                Some(all) => self.like_each(c, expr, all, escape_char, *negated, true, false),
                None => self.like(c, expr, pattern, escape_char, *negated, true),
            },
            E::Like {
                negated,
                expr,
                pattern,
                escape_char,
                any: true,
            } => self.like_each(c, expr, pattern, escape_char, *negated, false, true),
            E::ILike {
                negated,
                expr,
                pattern,
                escape_char,
                any: true,
            } => self.like_each(c, expr, pattern, escape_char, *negated, true, true),
            E::SimilarTo {
                negated,
                expr,
                pattern,
                escape_char,
            } => {
                let value = self.padded(self.expr(c, expr)?)?;
                let mut args = vec![value, self.expr(c, pattern)?];
                if let Some(escape) = escape_char {
                    args.push(self.expr(c, &E::Value(escape.clone()))?);
                }
                let t = self.function("similar_to", args, None)?;
                Ok(if *negated {
                    Typed::new(not(t.expr), SqlType::Bool)
                } else {
                    t
                })
            }
            E::Case {
                operand,
                conditions,
                else_result,
                ..
            } => self.case(c, operand.as_deref(), conditions, else_result.as_deref()),
            E::Function(f) => self.call(c, f),
            E::Extract { field, expr, .. } => {
                let x = self.expr(c, expr)?;
                let name = field_name(field);
                let whole_days = matches!(x.ty, SqlType::Date);
                let t = self.function("extract", vec![text_literal(&name), x], None)?;
                let (precision, scale) = match crate::functions::datetime::unit(&name).as_str() {
                    "second" | "epoch" => return Ok(t),
                    "julian" if !whole_days => (0, 6),
                    "milliseconds" => (38, 3),
                    _ => (38, 0),
                };
                let to = SqlType::Numeric(precision, scale);
                Ok(Typed::new(self.cast(t, &to, Context::Explicit)?, to))
            }
            E::Ceil { expr, field } => {
                super::foreign::rounded(field)?;
                let x = self.expr(c, expr)?;
                self.function("ceil", vec![x], None)
            }
            E::Floor { expr, field } => {
                super::foreign::rounded(field)?;
                let x = self.expr(c, expr)?;
                self.function("floor", vec![x], None)
            }
            E::Position { expr, r#in } => {
                let args = vec![self.expr(c, r#in)?, self.expr(c, expr)?];
                self.function("strpos", args, None)
            }
            E::Substring {
                expr,
                substring_from,
                substring_for,
                shorthand,
                ..
            } => {
                let mut args = vec![self.expr(c, expr)?];
                match (substring_from, substring_for) {
                    (Some(f), n) => {
                        args.push(self.expr(c, f)?);
                        if let Some(n) = n {
                            args.push(self.expr(c, n)?);
                        }
                    }
                    (None, Some(n)) => {
                        args.push(Typed::new(
                            literal(ScalarValue::Int32(Some(1))),
                            SqlType::Int4,
                        ));
                        args.push(self.expr(c, n)?);
                    }
                    (None, None) => {}
                }
                let name = if *shorthand { "substr" } else { "substring" };
                self.function(name, args, None)
            }
            E::Trim {
                trim_where,
                trim_what,
                expr,
                trim_characters,
            } => {
                let name = match trim_where {
                    Some(TrimWhereField::Leading) => "ltrim",
                    Some(TrimWhereField::Trailing) => "rtrim",
                    _ => "btrim",
                };
                let mut args = vec![self.expr(c, expr)?];
                if let Some(w) = trim_what {
                    args.push(self.expr(c, w)?);
                } else if let Some(characters) = trim_characters.as_deref() {
                    let [w] = characters else {
                        return Err(super::calls::arity("trim"));
                    };
                    args.push(self.expr(c, w)?);
                }
                self.function(name, args, None)
            }
            E::Overlay {
                expr,
                overlay_what,
                overlay_from,
                overlay_for,
            } => {
                let mut args = vec![
                    self.expr(c, expr)?,
                    self.expr(c, overlay_what)?,
                    self.expr(c, overlay_from)?,
                ];
                if let Some(n) = overlay_for {
                    args.push(self.expr(c, n)?);
                }
                self.function("overlay", args, None)
            }
            E::AtTimeZone {
                timestamp,
                time_zone,
            } => {
                let args = vec![self.expr(c, time_zone)?, self.expr(c, timestamp)?];
                self.function("timezone", args, None)
            }
            E::Array(a) => {
                let items = a
                    .elem
                    .iter()
                    .map(|e| self.expr(c, e))
                    .collect::<Result<Vec<_>>>()?;
                self.array_of(items)
            }
            E::CompoundFieldAccess { root, access_chain } => self.access(c, root, access_chain),
            E::Tuple(items) => {
                let items = items.iter().map(|e| self.expr(c, e));
                self.row_of(items.collect::<Result<Vec<_>>>()?)
            }
            E::Prefixed { value, .. } => self.expr(c, value),
            other => Err(SqlError::unsupported(format!(
                "expression is not supported: {other}"
            ))),
        }
    }

    pub(crate) fn exprs(&self, c: Ctx, list: &[E]) -> Result<Vec<Typed>> {
        list.iter().map(|e| self.expr(c, e)).collect()
    }

    fn value(&self, v: &Value) -> Result<Typed> {
        Ok(match v {
            Value::Number(n, _) => number(n)?,
            Value::SingleQuotedString(s)
            | Value::EscapedStringLiteral(s)
            | Value::UnicodeStringLiteral(s)
            | Value::NationalStringLiteral(s) => text_literal(s),
            Value::DollarQuotedString(d) => text_literal(&d.value),
            Value::Boolean(b) => Typed::new(truth(*b), SqlType::Bool),
            Value::Null => null(),
            Value::Placeholder(p) => {
                let n = p.strip_prefix('$').filter(|n| !n.is_empty());
                let digits = n.filter(|n| n.bytes().all(|b| b.is_ascii_digit()));
                let n = digits.ok_or_else(|| {
                    SqlError::new("42601", format!("syntax error at or near \"{p}\""))
                })?;
                let n = n.parse().unwrap_or(usize::MAX);
                match self.named_param(n)? {
                    Some(ty) => Typed::new(super::coerce::placeholder(n, &ty), ty),
                    None => Typed {
                        expr: super::coerce::placeholder(n, &SqlType::Text),
                        ty: SqlType::Text,
                        unknown: true,
                    },
                }
            }
            other => {
                return Err(SqlError::unsupported(format!(
                    "literal is not supported: {other}"
                )));
            }
        })
    }

    pub(crate) fn cast_to(&self, c: Ctx, e: &E, data_type: &ast::DataType) -> Result<Typed> {
        let to = match (sql_type(data_type), data_type) {
            (Err(unknown), ast::DataType::Custom(name, modifiers)) if modifiers.is_empty() => {
                return self.cast_to_row(c, e, name, unknown);
            }
            (to, _) => to?,
        };
        let name = data_type.to_string().to_lowercase();
        if let E::Array(a) = strip(e)
            && a.elem.is_empty()
        {
            return self.empty_array(&to);
        }
        if let (E::Array(a), SqlType::Array(of)) = (strip(e), &to)
            && a.elem
                .iter()
                .all(|e| matches!(e, E::Value(v) if matches!(v.value, Value::Placeholder(_))))
        {
            // Parameters without a type are of that of the elements.
            for e in &a.elem {
                let t = self.expr(c, e)?;
                if t.unknown {
                    self.settle(&t, of, Context::Explicit)?;
                }
            }
        }
        if let Some(array) = of_elements(strip(e), data_type) {
            return self.cast_to(c, &array, data_type);
        }
        if let (SqlType::Text | SqlType::Varchar(None), Some(shown)) =
            (&to, self.shown_regclass(e)?)
        {
            return Ok(shown);
        }
        let t = self.expr(c, e)?;
        let at_literal = match e {
            E::Value(v) => position(v.span),
            _ => None,
        };
        if is_regclass(data_type) {
            return self.regclass(t);
        }
        if let Some(fields) = fields_of(data_type) {
            return self.interval_of(t, fields).map_err(|e| at(e, at_literal));
        }
        // numeric without a scale keeps that of the value.
        let to = match (&to, name.ends_with("numeric") || name.ends_with("decimal")) {
            (SqlType::Numeric(..), true) => self.open_numeric(&t, to.clone()),
            _ => to,
        };
        let expr = self
            .cast(t, &to, Context::Explicit)
            .map_err(|e| at(e, at_literal))?;
        Ok(Typed::new(expr, to))
    }

    /// `::numeric` of a value whose scale is known.
    pub(super) fn open_numeric(&self, t: &Typed, default: SqlType) -> SqlType {
        if t.unknown {
            if let Expr::Literal(ScalarValue::Utf8View(Some(s)), _) = &t.expr
                && let Some((_, scale)) = parse::decimal_parts(s)
            {
                return SqlType::Numeric(38, scale.clamp(0, 30) as i8);
            }
            return default;
        }
        match &t.ty {
            ty if is_number(ty) => {
                let (p, s) = super::types::as_numeric(ty);
                SqlType::Numeric(p, s)
            }
            _ => default,
        }
    }

    fn binary(&self, c: Ctx, left: &E, op: &B, right: &E) -> Result<Typed> {
        if let Some(compared) = self.rows_compared(c, left, op, right)? {
            return Ok(compared);
        }
        if matches!(op, B::And | B::Or) {
            return self.logical(c, left, op, right);
        }
        if let Some((prefix, operand)) = is_arithmetic(op).then(|| prefixed(left)).flatten() {
            let operand = E::BinaryOp {
                left: Box::new(operand),
                op: op.clone(),
                right: Box::new(right.clone()),
            };
            return self.unary(c, &prefix, &operand);
        }
        let (l, r) = (self.expr(c, left)?, self.expr(c, right)?);
        let near = start(left);
        self.operator(op, l, r).map_err(|e| at(e, near))
    }

    fn unary(&self, c: Ctx, op: &UnaryOperator, e: &E) -> Result<Typed> {
        if matches!(op, UnaryOperator::Minus)
            && let Some((negative, digits)) = signed_number(e)
        {
            return match negative {
                true => number(digits),
                false => number(&format!("-{digits}")),
            };
        }
        if let (
            UnaryOperator::Not,
            E::InSubquery {
                expr,
                subquery,
                negated,
            },
        ) = (op, strip(e))
        {
            return self.in_subquery(c, expr, subquery, !negated);
        }
        let t = self.expr(c, e)?;
        match op {
            UnaryOperator::Not => {
                let e = self.boolean(t, "NOT")?;
                Ok(Typed::new(not(e), SqlType::Bool))
            }
            UnaryOperator::Plus if is_number(&t.ty) && !t.unknown => Ok(t),
            UnaryOperator::Minus | UnaryOperator::Plus if t.unknown => {
                let ty = SqlType::Float8;
                let e = self.settle(&t, &ty, Context::Explicit)?;
                Ok(match op {
                    UnaryOperator::Plus => Typed::new(e, ty),
                    _ => Typed::new(arith::negate(e, &ty), ty),
                })
            }
            UnaryOperator::Minus if is_number(&t.ty) => Ok(Typed::new(arith::negate(t.expr, &t.ty), t.ty)),
            UnaryOperator::Minus if matches!(t.ty, SqlType::Interval) => self.function("interval_neg", vec![t], None),
            UnaryOperator::BitwiseNot => self.function("bitnot", vec![t], None),
            UnaryOperator::PGAbs => self.function("abs", vec![t], None),
            UnaryOperator::PGSquareRoot => self.function("sqrt", vec![t], None),
            UnaryOperator::PGCubeRoot => self.function("cbrt", vec![t], None),
            op => Err(SqlError::new("42883", format!("operator does not exist: {op} {}", t.type_name()))
                .hint("No operator matches the given name and argument type. You might need to add an explicit type cast.")),
        }
    }

    /// A name or number as an oid.
    fn regclass(&self, t: Typed) -> Result<Typed> {
        if let Expr::Literal(ScalarValue::Utf8View(Some(s)), _) = &t.expr
            && s.trim().parse::<i64>().is_err()
        {
            let r = self.relation_of_text(s)?;
            return Ok(Typed::new(
                literal(ScalarValue::Int64(Some(i64::from(r.oid)))),
                SqlType::Int8,
            ));
        }
        let expr = self.cast(t, &SqlType::Int8, Context::Explicit)?;
        Ok(Typed::new(expr, SqlType::Int8))
    }

    fn relation_of_text(&self, text: &str) -> Result<Relation> {
        let found =
            name_of_text(text).and_then(|n| self.find_relation(n.schema.as_deref(), &n.name));
        found.ok_or_else(|| SqlError::new("42P01", format!("relation \"{text}\" does not exist")))
    }

    /// The text of `'name'::regclass`: the relation's name, after its schema's if it isn't found without.
    fn shown_regclass(&self, e: &E) -> Result<Option<Typed>> {
        let Some(named) = regclass_text(e) else {
            return Ok(None);
        };
        let r = self.relation_of_text(named)?;
        let plain = self.catalog.resolve(None, &r.name);
        let mut shown = quote_ident(&r.name);
        if plain.is_none_or(|plain| plain.oid != r.oid) {
            shown = format!("{}.{shown}", quote_ident(&r.schema));
        }
        let text = literal(ScalarValue::Utf8View(Some(shown)));
        Ok(Some(Typed::new(text, SqlType::Text)))
    }

    /// A function call by its parsed form: aggregates, windows and plain ones.
    fn call(&self, c: Ctx, f: &ast::Function) -> Result<Typed> {
        let names = parts(&f.name);
        let at_name = f.name.0.first().and_then(|p| match p {
            ast::ObjectNamePart::Identifier(i) => position(i.span),
            _ => None,
        });
        let name = match names.as_slice() {
            [n] => n.clone(),
            [s, n] if s == "pg_catalog" || s == "information_schema" || s == "public" => n.clone(),
            _ => {
                return Err(at(
                    SqlError::new("42883", format!("function {} does not exist", f.name)),
                    at_name,
                ));
            }
        };
        self.named_call(c, &name, f).map_err(|e| at(e, at_name))
    }
}

/// Adds a position to an error that has none.
pub(crate) fn at(mut e: SqlError, position: Option<usize>) -> SqlError {
    e.position = e.position.or(position);
    e
}

/// Where an expression begins, if the parser kept it.
pub(super) fn start(e: &E) -> Option<usize> {
    match e {
        E::Identifier(i) => position(i.span),
        E::CompoundIdentifier(p) => position(p.first()?.span),
        E::Value(v) => position(v.span),
        E::Nested(e) | E::Cast { expr: e, .. } | E::BinaryOp { left: e, .. } => start(e),
        _ => None,
    }
}

/// The lower bound of BETWEEN SYMMETRIC; see [`crate::parser::spelling`].
fn symmetric_bound(low: &E) -> Option<&E> {
    argument_of(low, SYMMETRIC)
}

/// The list of `LIKE ALL (…)`, which the parser takes for a call.
fn all_of(pattern: &E) -> Option<&E> {
    argument_of(pattern, "all")
}

/// The argument of a call of that name with one.
pub(super) fn argument_of<'e>(e: &'e E, name: &str) -> Option<&'e E> {
    let E::Function(f) = e else { return None };
    let named = parts(&f.name).pop()?;
    match &f.args {
        ast::FunctionArguments::List(l) if named == name => match l.args.as_slice() {
            [ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(e))] => Some(e),
            _ => None,
        },
        _ => None,
    }
}

/// Without parentheses.
pub(crate) fn strip(e: &E) -> &E {
    match e {
        E::Nested(e) => strip(e),
        e => e,
    }
}

/// A numeric literal: integer, bigint or numeric by its size and form.
pub(crate) fn number(n: &str) -> Result<Typed> {
    if !n.contains(['.', 'e', 'E']) {
        let clean = n.replace('_', "");
        if let Ok(v) = clean.parse::<i32>() {
            return Ok(Typed::new(
                literal(ScalarValue::Int32(Some(v))),
                SqlType::Int4,
            ));
        }
        if let Ok(v) = clean.parse::<i64>() {
            return Ok(Typed::new(
                literal(ScalarValue::Int64(Some(v))),
                SqlType::Int8,
            ));
        }
    }
    let too_long = || {
        SqlError::new("22003", "numeric field overflow")
            .detail("numeric holds at most 38 digits here.")
    };
    let parts = parse::decimal_parts(&n.replace('_', ""))
        .and_then(|(v, scale)| Some((v.to_i128()?, scale)));
    let fitting =
        parts.filter(|(v, scale)| v.unsigned_abs().to_string().len() <= 38 && *scale <= 38);
    let Some((v, scale)) = fitting else {
        // Written with an exponent, what no numeric holds is a double.
        return if n.contains(['e', 'E']) {
            let v = parse::float(n, "double precision")?;
            Ok(Typed::new(
                literal(ScalarValue::Float64(Some(v))),
                SqlType::Float8,
            ))
        } else {
            Err(too_long())
        };
    };
    let digits = v.unsigned_abs().to_string().len() as i32;
    let p = digits.max(scale).max(1);
    let ty = SqlType::Numeric(p as u8, scale as i8);
    Ok(Typed::new(
        literal(ScalarValue::Decimal128(Some(v), p as u8, scale as i8)),
        ty,
    ))
}

/// A number with signs before it, and whether these make it negative.
fn signed_number(e: &E) -> Option<(bool, &str)> {
    match strip(e) {
        E::Value(v) => match &v.value {
            Value::Number(n, _) => Some((false, n.as_str())),
            _ => None,
        },
        E::UnaryOp {
            op: UnaryOperator::Minus,
            expr,
        } => signed_number(expr).map(|(negative, digits)| (!negative, digits)),
        _ => None,
    }
}

pub(super) fn field_name(f: &DateTimeField) -> String {
    f.to_string()
        .trim_matches(|c| c == '\'' || c == '"')
        .to_lowercase()
}

/// `ARRAY[1, 'NaN']::float8[]` as `ARRAY[1, 'NaN'::float8]::float8[]`: what has no type of its own gets that of the cast.
fn of_elements(e: &E, data_type: &ast::DataType) -> Option<E> {
    let ast::DataType::Array(ast::ArrayElemTypeDef::SquareBracket(of, _)) = data_type else {
        return None;
    };
    let E::Array(array) = e else { return None };
    let is_text = |e: &E| matches!(e, E::Value(v) if string_of(&v.value).is_some());
    let texts = array.elem.iter().filter(|e| is_text(e)).count();
    if texts == 0 || texts == array.elem.len() {
        return None;
    }
    let mut array = array.clone();
    for e in array.elem.iter_mut().filter(|e| is_text(e)) {
        *e = E::Cast {
            kind: ast::CastKind::DoubleColon,
            expr: Box::new(e.clone()),
            data_type: of.as_ref().clone(),
            array: false,
            format: None,
        };
    }
    Some(E::Array(array))
}
