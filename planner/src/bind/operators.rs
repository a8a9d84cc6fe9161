//! Operators: which one two types select.

use arrow::datatypes::DataType;
use datafusion_common::ScalarValue;
use datafusion_expr::expr::Like;
use datafusion_expr::{BinaryExpr, Expr, Operator};
use sqlparser::ast::{self, BinaryOperator as B, Expr as E};
use tidemill_zset::schema::SqlType;

use super::coerce::CHAR_MAX;
use super::conditions::not;
use super::expr::{Ctx, strip};
use super::types::{as_numeric, common, is_integer, is_number, is_text};
use super::{Binder, Typed};
use crate::error::{Result, SqlError};
use crate::functions::arith::{self, Op};
use crate::functions::cast::Context;
use crate::functions::like::Each;
use crate::parser::string_of;

/// `operator does not exist: integer + boolean`
pub(crate) fn no_operator(op: &str, l: &str, r: &str) -> SqlError {
    SqlError::new("42883", format!("operator does not exist: {l} {op} {r}")).hint(
        "No operator matches the given name and argument types. You might need to add explicit type casts.",
    )
}

impl Binder<'_> {
    pub(crate) fn operator(&self, op: &B, l: Typed, r: Typed) -> Result<Typed> {
        let compare = |o| self.compare(o, l.clone(), r.clone());
        match op {
            B::Eq => compare(Operator::Eq),
            B::NotEq => compare(Operator::NotEq),
            B::Lt => compare(Operator::Lt),
            B::LtEq => compare(Operator::LtEq),
            B::Gt => compare(Operator::Gt),
            B::GtEq => compare(Operator::GtEq),
            B::Plus => self.arithmetic(Op::Add, l, r),
            B::Minus if matches!(l.ty, SqlType::Jsonb) && !l.unknown => {
                self.function("jsonb_delete", vec![l, r], None)
            }
            B::Minus => self.arithmetic(Op::Sub, l, r),
            B::Multiply => self.arithmetic(Op::Mul, l, r),
            B::Divide => self.arithmetic(Op::Div, l, r),
            B::Modulo => self.arithmetic(Op::Mod, l, r),
            B::PGExp => self.function("power", vec![l, r], None),
            B::StringConcat => self.concat(l, r),
            B::PGRegexMatch => self.regex(l, r, false, false),
            B::PGRegexIMatch => self.regex(l, r, true, false),
            B::PGRegexNotMatch => self.regex(l, r, false, true),
            B::PGRegexNotIMatch => self.regex(l, r, true, true),
            B::PGLikeMatch => self.like_typed(l, r, None, false, false),
            B::PGILikeMatch => self.like_typed(l, r, None, false, true),
            B::PGNotLikeMatch => self.like_typed(l, r, None, true, false),
            B::PGNotILikeMatch => self.like_typed(l, r, None, true, true),
            B::PGStartsWith => self.function("starts_with", vec![l, r], None),
            B::Arrow => self.json_access("->", l, r),
            B::LongArrow => self.json_access("->>", l, r),
            B::HashArrow => self.json_access("#>", l, r),
            B::HashLongArrow => self.json_access("#>>", l, r),
            B::AtArrow => self.containment(l, r),
            B::ArrowAt => self.containment(r, l),
            B::PGOverlap => self.function("array_overlap", vec![l, r], None),
            B::QuestionPipe => self.function("jsonb_exists_any", vec![l, r], None),
            B::QuestionAnd => self.function("jsonb_exists_all", vec![l, r], None),
            B::HashMinus => self.function("jsonb_delete_path", vec![l, r], None),
            B::AtQuestion => self.path_operator("jsonb_path_exists", l, r),
            B::AtAt => self.path_operator("jsonb_path_match", l, r),
            B::Question => self.function("jsonb_exists", vec![l, r], None),
            B::BitwiseAnd => self.function("bitand", vec![l, r], None),
            B::BitwiseOr => self.function("bitor", vec![l, r], None),
            B::PGBitwiseXor => self.function("bitxor", vec![l, r], None),
            B::PGBitwiseShiftLeft => self.function("bitshl", vec![l, r], None),
            B::PGBitwiseShiftRight => self.function("bitshr", vec![l, r], None),
            B::PGCustomBinaryOperator(names) => {
                let plain = match names.last().map(String::as_str).unwrap_or_default() {
                    "~" => B::PGRegexMatch,
                    "~*" => B::PGRegexIMatch,
                    "!~" => B::PGRegexNotMatch,
                    "!~*" => B::PGRegexNotIMatch,
                    "~~" => B::PGLikeMatch,
                    "!~~" => B::PGNotLikeMatch,
                    "~~*" => B::PGILikeMatch,
                    "!~~*" => B::PGNotILikeMatch,
                    "=" => B::Eq,
                    "<>" | "!=" => B::NotEq,
                    "<" => B::Lt,
                    ">" => B::Gt,
                    "<=" => B::LtEq,
                    ">=" => B::GtEq,
                    "||" => B::StringConcat,
                    "+" => B::Plus,
                    "-" => B::Minus,
                    "*" => B::Multiply,
                    "/" => B::Divide,
                    "%" => B::Modulo,
                    other => return Err(no_operator(other, &l.type_name(), &r.type_name())),
                };
                self.operator(&plain, l, r)
            }
            other => Err(no_operator(
                &other.to_string(),
                &l.type_name(),
                &r.type_name(),
            )),
        }
    }

    /// `@?` and `@@`: a path's errors give NULL.
    fn path_operator(&self, function: &str, l: Typed, r: Typed) -> Result<Typed> {
        let none = super::literal(ScalarValue::Utf8View(Some("{}".into())));
        let variables = Typed::new(none, SqlType::Jsonb);
        let silent = Typed::new(super::truth(true), SqlType::Bool);
        self.function(function, vec![l, r, variables, silent], None)
    }

    /// Both sides as one type, for a comparison.
    pub(crate) fn same_type(&self, op: &str, l: Typed, r: Typed) -> Result<(Expr, Expr, SqlType)> {
        let none = || no_operator(op, &l.type_name(), &r.type_name());
        let ty = match (l.unknown, r.unknown) {
            (true, true) => SqlType::Text,
            (true, false) => r.ty.clone(),
            (false, true) => l.ty.clone(),
            // timestamptz is never compared with timestamp by cutting; text never with anything else.
            (false, false) => common(&l.ty, &r.ty).ok_or_else(none)?,
        };
        let ty = match ty {
            SqlType::Varchar(_) => SqlType::Text,
            // The spaces at the end of a literal count as little as those of the other side.
            SqlType::Char(_) if l.unknown || r.unknown => SqlType::Char(CHAR_MAX),
            SqlType::Char(_) => SqlType::Text,
            ty => ty,
        };
        if matches!(ty, SqlType::Json) {
            return Err(none());
        }
        // A literal takes the other side's digits as it has them.
        let ty = match (&ty, l.unknown || r.unknown) {
            (SqlType::Numeric(..), true) => {
                let text = match (&l.expr, &r.expr) {
                    (Expr::Literal(ScalarValue::Utf8View(Some(s)), _), _) if l.unknown => {
                        Some(s.clone())
                    }
                    (_, Expr::Literal(ScalarValue::Utf8View(Some(s)), _)) if r.unknown => {
                        Some(s.clone())
                    }
                    _ => None,
                };
                match text.and_then(|t| crate::functions::parse::decimal_parts(&t)) {
                    Some((_, scale)) => {
                        let (p, s) = super::types::wider_numeric(
                            as_numeric(&ty),
                            (38, scale.clamp(0, 30) as i8),
                        );
                        SqlType::Numeric(p, s)
                    }
                    None => ty,
                }
            }
            _ => ty,
        };
        Ok((self.implicit(&l, &ty)?, self.implicit(&r, &ty)?, ty))
    }

    /// Rounded to the fractional digits of seconds that a type such as `timestamp(3)` names.
    pub(super) fn at_precision(&self, t: Typed, to: &ast::DataType) -> Result<Typed> {
        use ast::DataType as D;
        let digits = match to {
            D::Timestamp(p, _) | D::Time(p, _) => *p,
            _ => None,
        };
        let Some(digits) = digits.filter(|p| *p < 6) else {
            return Ok(t);
        };
        let digits = Typed::new(
            super::literal(ScalarValue::Int32(Some(digits as i32))),
            SqlType::Int4,
        );
        self.function("round_seconds", vec![t, digits], None)
    }

    /// What decides the order and equality of values whose Arrow form doesn't: months are 30 days and days 24 hours, and
    /// jsonb has an order of its own.
    pub(crate) fn order_key(&self, t: Typed) -> Result<Typed> {
        match t.ty {
            SqlType::Interval => self.function("interval_key", vec![t], None),
            SqlType::Jsonb => self.function("jsonb_key", vec![t], None),
            _ => Ok(t),
        }
    }

    /// What ORDER BY sorts by.
    pub(crate) fn sort_key(&self, t: Typed) -> Result<Typed> {
        match &t.ty {
            SqlType::Other(of @ DataType::Struct(_)) => {
                let key = crate::functions::rows::key(t.expr, of);
                Ok(Typed::new(key, SqlType::Bytea))
            }
            // Arrow sorts arrays, but where NULL elements stand depends on where NULL does, and comparisons see it otherwise.
            SqlType::Array(_) => {
                let key = crate::functions::rows::array_key(t.expr, &t.ty);
                Ok(Typed::new(key, SqlType::Bytea))
            }
            _ => self.order_key(t),
        }
    }

    /// Both sides of a comparison: beside char(n), blanks at the end of varchar don't count.
    pub(super) fn without_blanks(&self, l: Typed, r: Typed) -> Result<(Typed, Typed)> {
        Ok(match (&l.ty, &r.ty) {
            (SqlType::Char(_), SqlType::Varchar(_)) => (l, self.function("rtrim", vec![r], None)?),
            (SqlType::Varchar(_), SqlType::Char(_)) => (self.function("rtrim", vec![l], None)?, r),
            _ => (l, r),
        })
    }

    pub(crate) fn compare(&self, op: Operator, l: Typed, r: Typed) -> Result<Typed> {
        let sign = match op {
            Operator::NotEq => "<>".to_string(),
            Operator::IsDistinctFrom | Operator::IsNotDistinctFrom => "=".to_string(),
            o => o.to_string(),
        };
        let (l, r) = self.without_blanks(l, r)?;
        let (l, r) = self.beside_each_other(l, r)?;
        let (l, r, ty) = self.same_type(&sign, l, r)?;
        let ordered = matches!(
            op,
            Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq
        );
        let by_key = crate::functions::rows::has_key(&ty);
        let key = |e| match &ty {
            // Arrow has NULL elements before all others.
            SqlType::Array(_) if ordered || by_key => Ok(crate::functions::rows::array_key(e, &ty)),
            SqlType::Other(of @ DataType::Struct(_)) if ordered || by_key => {
                Ok(crate::functions::rows::key(e, of))
            }
            _ => self.order_key(Typed::new(e, ty.clone())).map(|t| t.expr),
        };
        let (l, r) = (key(l)?, key(r)?);
        Ok(Typed::new(
            Expr::BinaryExpr(BinaryExpr::new(Box::new(l), op, Box::new(r))),
            SqlType::Bool,
        ))
    }

    fn arithmetic(&self, op: Op, l: Typed, r: Typed) -> Result<Typed> {
        let (l, r) = self.beside_each_other(l, r)?;
        let none = || no_operator(op.sign(), &l.type_name(), &r.type_name());
        if let Some(t) = self.temporal_arithmetic(op, &l, &r)? {
            return Ok(t);
        }
        let (lt, rt) = match (l.unknown, r.unknown) {
            (true, true) => return Err(SqlError::new("42725", format!("operator is not unique: unknown {} unknown", op.sign()))
                .hint("Could not choose a best candidate operator. You might need to add explicit type casts.")),
            (true, false) => (r.ty.clone(), r.ty.clone()),
            (false, true) => (l.ty.clone(), l.ty.clone()),
            (false, false) => (l.ty.clone(), r.ty.clone()),
        };
        if !is_number(&lt) || !is_number(&rt) {
            return Err(none());
        }
        let ty = common(&lt, &rt).ok_or_else(none)?;
        if op == Op::Mod && matches!(ty, SqlType::Float4 | SqlType::Float8) {
            return Err(none());
        }
        if let SqlType::Numeric(..) = ty {
            let own = |t: &Typed, other: &SqlType| -> (u8, i8) {
                match (&t.expr, t.unknown) {
                    (Expr::Literal(ScalarValue::Utf8View(Some(s)), _), true) => {
                        match crate::functions::parse::decimal_parts(s) {
                            Some((_, scale)) => (38, scale.clamp(0, 30) as i8),
                            None => as_numeric(other),
                        }
                    }
                    _ => as_numeric(if t.unknown { other } else { &t.ty }),
                }
            };
            let (a, b) = (own(&l, &rt), own(&r, &lt));
            let (at, bt) = (SqlType::Numeric(a.0, a.1), SqlType::Numeric(b.0, b.1));
            let ret = arith::numeric_result(op, a, b);
            let (le, re) = (self.implicit(&l, &at)?, self.implicit(&r, &bt)?);
            return Ok(Typed::new(
                arith::arithmetic(op, le, re, &at, &bt, &ret),
                ret,
            ));
        }
        let (le, re) = (self.implicit(&l, &ty)?, self.implicit(&r, &ty)?);
        Ok(Typed::new(arith::arithmetic(op, le, re, &ty, &ty, &ty), ty))
    }

    /// Dates, times and intervals.
    fn temporal_arithmetic(&self, op: Op, l: &Typed, r: &Typed) -> Result<Option<Typed>> {
        use SqlType::*;
        let temporal = |t: &SqlType| matches!(t, Date | Time | Timestamp | Timestamptz | Interval);
        if (r.unknown || !temporal(&r.ty)) && (l.unknown || !temporal(&l.ty)) {
            return Ok(None);
        }
        // An unknown side is what makes most sense beside the other.
        let guess = |t: &Typed, other: &SqlType| -> SqlType {
            match (t.unknown, op, other) {
                (false, ..) => t.ty.clone(),
                (true, Op::Sub, o) => o.clone(),
                (true, Op::Add, Interval) => Interval,
                (true, Op::Add, Date) => Int4,
                (true, Op::Mul | Op::Div, _) => Float8,
                (true, ..) => Interval,
            }
        };
        let (lt, rt) = (guess(l, &r.ty), guess(r, &l.ty));
        let name = match (op, &lt, &rt) {
            (Op::Add, Date, t) if is_integer(t) => "date_plus",
            (Op::Add, t, Date) if is_integer(t) => {
                return self
                    .function("date_plus", vec![r.clone(), l.clone()], None)
                    .map(Some);
            }
            (Op::Sub, Date, t) if is_integer(t) => "date_minus",
            (Op::Sub, Date, Date) => "date_diff_days",
            (Op::Add, Date | Timestamp | Timestamptz | Time, Interval) => "plus_interval",
            (Op::Add, Interval, Date | Timestamp | Timestamptz | Time) => {
                return self
                    .function(
                        "plus_interval",
                        vec![r.clone(), self.as_type(l, &Interval)?],
                        None,
                    )
                    .map(Some);
            }
            (Op::Sub, Date | Timestamp | Timestamptz | Time, Interval) => "minus_interval",
            (Op::Sub, Date | Timestamp | Timestamptz, Date | Timestamp | Timestamptz) => {
                "timestamp_diff"
            }
            (Op::Sub, Time, Time) => "time_diff",
            (Op::Add, Timestamp | Timestamptz, Time) => {
                let length = self.cast(r.clone(), &Interval, Context::Explicit)?;
                return self.temporal_arithmetic(op, l, &Typed::new(length, Interval));
            }
            (Op::Add, Time, Timestamp | Timestamptz) => {
                return self.temporal_arithmetic(op, r, l);
            }
            (Op::Sub, Date | Timestamp | Timestamptz, Time) => {
                let length = self.cast(r.clone(), &Interval, Context::Explicit)?;
                return self.temporal_arithmetic(op, l, &Typed::new(length, Interval));
            }
            (Op::Add, Date, Time) | (Op::Add, Time, Date) => "date_time",
            (Op::Add, Interval, Interval) => "interval_add",
            (Op::Sub, Interval, Interval) => "interval_sub",
            (Op::Mul, t, Time) if is_number(t) => return self.temporal_arithmetic(op, r, l),
            (Op::Mul | Op::Div, Time, t) if is_number(t) => {
                let e = self.cast(l.clone(), &Interval, Context::Explicit)?;
                let length = Typed::new(e, Interval);
                return self.temporal_arithmetic(op, &length, r);
            }
            (Op::Mul, Interval, t) if is_number(t) => "interval_mul",
            (Op::Mul, t, Interval) if is_number(t) => {
                return self
                    .function(
                        "interval_mul",
                        vec![r.clone(), self.as_type(l, &Float8)?],
                        None,
                    )
                    .map(Some);
            }
            (Op::Div, Interval, t) if is_number(t) => "interval_div",
            _ => return Err(no_operator(op.sign(), &l.type_name(), &r.type_name())),
        };
        let args = if matches!((&lt, &rt), (Time, Date)) {
            vec![r.clone(), l.clone()]
        } else {
            vec![self.as_type(l, &lt)?, self.as_type(r, &rt)?]
        };
        self.function(name, args, None).map(Some)
    }

    pub(crate) fn as_type(&self, t: &Typed, ty: &SqlType) -> Result<Typed> {
        Ok(Typed::new(self.implicit(t, ty)?, ty.clone()))
    }

    fn concat(&self, l: Typed, r: Typed) -> Result<Typed> {
        let is_array = |t: &Typed| matches!(t.ty, SqlType::Array(_)) && !t.unknown;
        if is_array(&l) || is_array(&r) {
            // A literal beside an array is one too.
            let (l, r) = match (l.unknown, r.unknown) {
                (true, false) => (self.as_type(&l, &r.ty)?, r),
                (false, true) => (self.as_type(&r, &l.ty).map(|r| (l, r)))?,
                _ => (l, r),
            };
            return self.function("array_cat_any", vec![l, r], None);
        }
        // And one beside jsonb is jsonb.
        let is_jsonb = |t: &Typed| matches!(t.ty, SqlType::Jsonb) && !t.unknown;
        if is_jsonb(&l) && (r.unknown || is_jsonb(&r)) || l.unknown && is_jsonb(&r) {
            return self.function("jsonb_concat", vec![l, r], None);
        }
        let texty = |t: &Typed| t.unknown || is_text(&t.ty);
        if matches!((&l.ty, &r.ty), (SqlType::Bytea, SqlType::Bytea))
            || matches!(l.ty, SqlType::Bytea) && r.unknown
            || matches!(r.ty, SqlType::Bytea) && l.unknown
        {
            return self.function("bytea_concat", vec![l, r], None);
        }
        if !texty(&l) && !texty(&r) {
            return Err(no_operator("||", &l.type_name(), &r.type_name()));
        }
        let args = vec![
            Typed::new(self.any_text(l)?, SqlType::Text),
            Typed::new(self.any_text(r)?, SqlType::Text),
        ];
        self.function("textcat", args, None)
    }

    fn regex(&self, l: Typed, r: Typed, insensitive: bool, negated: bool) -> Result<Typed> {
        if !(l.unknown || is_text(&l.ty)) || !(r.unknown || is_text(&r.ty)) {
            return Err(no_operator("~", &l.type_name(), &r.type_name()));
        }
        let name = if insensitive {
            "texticregexeq"
        } else {
            "textregexeq"
        };
        let t = self.function(name, vec![self.padded(l)?, r], None)?;
        Ok(if negated {
            Typed::new(not(t.expr), SqlType::Bool)
        } else {
            t
        })
    }

    pub(super) fn like(
        &self,
        c: Ctx,
        e: &E,
        pattern: &E,
        escape: &Option<ast::ValueWithSpan>,
        negated: bool,
        insensitive: bool,
    ) -> Result<Typed> {
        let l = self.expr(c, e)?;
        self.like_pattern(c, l, pattern, escape, negated, insensitive)
    }

    fn like_pattern(
        &self,
        c: Ctx,
        l: Typed,
        pattern: &E,
        escape: &Option<ast::ValueWithSpan>,
        negated: bool,
        insensitive: bool,
    ) -> Result<Typed> {
        let r = self.expr(c, pattern)?;
        let escape =
            match escape.as_ref().map(|v| &v.value) {
                Some(value) => Some(string_of(value).map(str::to_owned).ok_or_else(|| {
                    SqlError::new("42601", "ESCAPE must be followed by a string")
                })?),
                None => None,
            };
        self.like_typed(l, r, escape, negated, insensitive)
    }

    /// `x LIKE ANY (ARRAY[…])`, the patterns written out.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn like_each(
        &self,
        c: Ctx,
        e: &E,
        patterns: &E,
        escape: &Option<ast::ValueWithSpan>,
        negated: bool,
        insensitive: bool,
        any: bool,
    ) -> Result<Typed> {
        let E::Array(patterns) = strip(patterns) else {
            return self.like_array(c, e, patterns, escape, (negated, insensitive, any));
        };
        let operator = if any { Operator::Or } else { Operator::And };
        let found = self.expr(c, e)?.shared(&SqlType::Bool, |x| {
            let each = patterns.elem.iter().map(|p| {
                let one = self.like_pattern(c, x.clone(), p, escape, negated, insensitive);
                Ok(one?.expr)
            });
            Ok(super::conditions::chain(
                each.collect::<Result<_>>()?,
                operator,
            ))
        })?;
        Ok(Typed::new(found, SqlType::Bool))
    }

    /// The same with an array whose elements aren't written out.
    fn like_array(
        &self,
        c: Ctx,
        e: &E,
        patterns: &E,
        escape: &Option<ast::ValueWithSpan>,
        (negated, insensitive, any): (bool, bool, bool),
    ) -> Result<Typed> {
        if let E::Subquery(_) = strip(patterns) {
            return Err(SqlError::unsupported(
                "LIKE ANY and LIKE ALL are not supported with a subquery",
            )
            .hint("Join it, or make an array of it."));
        }
        let value = self.expr(c, e)?;
        let patterns = self.expr(c, patterns)?;
        let escape = match escape.as_ref() {
            Some(escape) => Some(self.expr(c, &E::Value(escape.clone()))?),
            None => None,
        };
        let each = Each {
            any,
            insensitive,
            negated,
            regex: false,
        };
        self.matches_each(each, value, patterns, escape)
    }

    /// A text beside an array of patterns.
    fn matches_each(
        &self,
        each: Each,
        value: Typed,
        patterns: Typed,
        escape: Option<Typed>,
    ) -> Result<Typed> {
        let value = self.padded(value)?;
        let array = SqlType::Array(Box::new(SqlType::Text));
        let patterns = Typed::new(self.implicit(&patterns, &array)?, array);
        let escape = escape.unwrap_or_else(|| {
            let backslash = super::literal(ScalarValue::Utf8View(Some("\\".into())));
            Typed::new(backslash, SqlType::Text)
        });
        self.function(each.function(), vec![value, patterns, escape], None)
    }

    /// `x ~ ANY (…)` and the like, with an array of patterns. `None`: the operator has no patterns.
    pub(super) fn patterns_each(
        &self,
        op: &B,
        any: bool,
        value: &Typed,
        patterns: &Typed,
    ) -> Option<Result<Typed>> {
        let (regex, insensitive, negated) = match op {
            B::PGRegexMatch => (true, false, false),
            B::PGRegexIMatch => (true, true, false),
            B::PGRegexNotMatch => (true, false, true),
            B::PGRegexNotIMatch => (true, true, true),
            B::PGLikeMatch => (false, false, false),
            B::PGILikeMatch => (false, true, false),
            B::PGNotLikeMatch => (false, false, true),
            B::PGNotILikeMatch => (false, true, true),
            _ => return None,
        };
        let each = Each {
            any,
            insensitive,
            negated,
            regex,
        };
        Some(self.matches_each(each, value.clone(), patterns.clone(), None))
    }

    pub(crate) fn like_typed(
        &self,
        l: Typed,
        r: Typed,
        escape: Option<String>,
        negated: bool,
        insensitive: bool,
    ) -> Result<Typed> {
        let sign = if insensitive { "~~*" } else { "~~" };
        if !(l.unknown || is_text(&l.ty)) || !(r.unknown || is_text(&r.ty)) {
            return Err(no_operator(sign, &l.type_name(), &r.type_name()));
        }
        let l = self.padded(l)?;
        if let Some(e) = escape.filter(|e| e != "\\") {
            let e = Typed::new(
                super::literal(ScalarValue::Utf8View(Some(e))),
                SqlType::Text,
            );
            let name = if insensitive {
                "ilike_escape"
            } else {
                "like_escape"
            };
            let t = self.function(name, vec![l, r, e], None)?;
            return Ok(if negated {
                Typed::new(not(t.expr), SqlType::Bool)
            } else {
                t
            });
        }
        let (l, r) = (
            self.implicit(&l, &SqlType::Text)?,
            self.implicit(&r, &SqlType::Text)?,
        );
        Ok(Typed::new(
            Expr::Like(Like::new(
                negated,
                Box::new(l),
                Box::new(r),
                None,
                insensitive,
            )),
            SqlType::Bool,
        ))
    }

    fn json_access(&self, op: &str, l: Typed, r: Typed) -> Result<Typed> {
        if l.unknown || !matches!(l.ty, SqlType::Json | SqlType::Jsonb) {
            return Err(no_operator(op, &l.type_name(), &r.type_name()));
        }
        let kind = if matches!(l.ty, SqlType::Jsonb) {
            "jsonb"
        } else {
            "json"
        };
        let name = match op {
            "->" => "object_field",
            "->>" => "object_field_text",
            "#>" => "extract_path_op",
            _ => "extract_path_text_op",
        };
        let r = match (op, r.unknown, &r.ty) {
            ("->" | "->>", false, t) if is_integer(t) => {
                let name = if op == "->" {
                    "array_element"
                } else {
                    "array_element_text"
                };
                return self.function(&format!("{kind}_{name}"), vec![l, r], None);
            }
            ("#>" | "#>>", true, _) => {
                self.as_type(&r, &SqlType::Array(Box::new(SqlType::Text)))?
            }
            _ => r,
        };
        self.function(&format!("{kind}_{name}"), vec![l, r], None)
    }

    fn containment(&self, l: Typed, r: Typed) -> Result<Typed> {
        if matches!(l.ty, SqlType::Array(_)) || matches!(r.ty, SqlType::Array(_)) {
            return self.function("array_contains_all", vec![l, r], None);
        }
        self.function("jsonb_contains", vec![l, r], None)
    }
}
