//! From the syntax tree of an expression to an [`Expr`] with its type.
//!
//! Invariant: types decide only how results are described and how literals are read; evaluation
//! looks at the values.

use tidemill_planner::SqlError;
use tidemill_planner::ast::syntax as ast;

use super::bind::{Binder, Place};
use super::functions;
use super::plan::{Expr, Op, Pattern};
use super::scope::{fold, not_ours};
use super::value::{Ty, Value};

pub(super) type Bound = (Expr, Ty);

impl<'a> Binder<'a> {
    /// Binds an expression.
    pub(super) fn expr(&self, expr: &'a ast::Expr, place: Place<'_>) -> Result<Bound, SqlError> {
        use ast::Expr as E;
        let boxed = |expr: &'a ast::Expr| Ok::<_, SqlError>(Box::new(self.expr(expr, place)?.0));
        let negate = |expr: Expr, negated: bool| match negated {
            true => Expr::Not(Box::new(expr)),
            false => expr,
        };
        Ok(match expr {
            E::Nested(inner) | E::Collate { expr: inner, .. } => self.expr(inner, place)?,
            E::Identifier(ident) => self.column(None, ident, place)?,
            E::CompoundIdentifier(parts) => match parts.as_slice() {
                [.., table, column] => self.column(Some(&fold(table)), column, place)?,
                _ => return Err(not_ours(expr)),
            },
            E::Value(value) => self.value(&value.value)?,
            E::TypedString(typed) => {
                let ty = self.named(&typed.data_type)?;
                let text = Value::text(typed.value.clone().into_string().unwrap_or_default());
                (Expr::Cast(Box::new(Expr::Const(text)), ty), ty)
            }
            E::Cast {
                expr, data_type, ..
            } => {
                let ty = self.named(data_type)?;
                let (inner, from) = self.expr(expr, place)?;
                if let Expr::Param(number) = inner {
                    self.declare(number, ty);
                }
                match functions::find("array_to_string") {
                    _ if from == ty => (inner, ty),
                    // As it is shown: `1 2`.
                    Some(function) if from.is_vector() && ty == Ty::Text => {
                        let args = vec![inner, Expr::Const(Value::text(" "))];
                        (Expr::Call { function, args }, ty)
                    }
                    _ => (Expr::Cast(Box::new(inner), ty), ty),
                }
            }
            E::UnaryOp { op, expr } => {
                let (inner, ty) = self.expr(expr, place)?;
                match op {
                    ast::UnaryOperator::Not => (Expr::Not(Box::new(inner)), Ty::Bool),
                    ast::UnaryOperator::Plus => (inner, ty),
                    ast::UnaryOperator::Minus => {
                        let zero = Box::new(Expr::Const(Value::Int(0)));
                        let right = Box::new(inner);
                        (
                            Expr::Binary {
                                op: Op::Sub,
                                left: zero,
                                right,
                                alike: true,
                            },
                            ty,
                        )
                    }
                    other => return Err(not_ours(other)),
                }
            }
            E::BinaryOp { left, op, right } => {
                self.operator(self.expr(left, place)?, op, self.expr(right, place)?)?
            }
            E::Like {
                negated,
                expr: value,
                pattern,
                escape_char,
                ..
            }
            | E::ILike {
                negated,
                expr: value,
                pattern,
                escape_char,
                ..
            } => {
                let insensitive = matches!(expr, E::ILike { .. });
                let op = Op::Match {
                    pattern: Pattern::Like(escape(escape_char.as_ref())?),
                    insensitive,
                    negated: *negated,
                };
                let (left, right) = (boxed(value)?, boxed(pattern)?);
                (
                    Expr::Binary {
                        op,
                        left,
                        right,
                        alike: false,
                    },
                    Ty::Bool,
                )
            }
            E::IsNull(inner) | E::IsUnknown(inner) => (Expr::IsNull(boxed(inner)?), Ty::Bool),
            E::IsNotNull(inner) | E::IsNotUnknown(inner) => {
                (negate(Expr::IsNull(boxed(inner)?), true), Ty::Bool)
            }
            E::IsTrue(inner) => (Expr::Is(boxed(inner)?, true), Ty::Bool),
            E::IsNotTrue(inner) => (negate(Expr::Is(boxed(inner)?, true), true), Ty::Bool),
            E::IsFalse(inner) => (Expr::Is(boxed(inner)?, false), Ty::Bool),
            E::IsNotFalse(inner) => (negate(Expr::Is(boxed(inner)?, false), true), Ty::Bool),
            E::IsDistinctFrom(a, b) => (Expr::Distinct(boxed(a)?, boxed(b)?), Ty::Bool),
            E::IsNotDistinctFrom(a, b) => {
                (negate(Expr::Distinct(boxed(a)?, boxed(b)?), true), Ty::Bool)
            }
            E::Between {
                expr,
                negated,
                low,
                high,
            } => {
                let value = self.expr(expr, place)?;
                let low = self.compare(value.clone(), Op::Ge, self.expr(low, place)?);
                let high = self.compare(value, Op::Le, self.expr(high, place)?);
                (
                    negate(Expr::And(Box::new(low), Box::new(high)), *negated),
                    Ty::Bool,
                )
            }
            E::InList {
                expr,
                list,
                negated,
            } => {
                let (value, ty) = self.expr(expr, place)?;
                let mut items = Vec::with_capacity(list.len());
                for item in list {
                    let (item, item_ty) = self.expr(item, place)?;
                    items.push(literal_as(item, item_ty, ty));
                }
                (negate(Expr::In(Box::new(value), items), *negated), Ty::Bool)
            }
            E::InSubquery {
                expr,
                subquery,
                negated,
            } => {
                let query = Box::new(self.query(subquery, place.scope)?);
                let any = Expr::AnyAllQuery {
                    left: boxed(expr)?,
                    op: Op::Eq,
                    all: false,
                    query,
                };
                (negate(any, *negated), Ty::Bool)
            }
            E::AnyOp {
                left,
                compare_op,
                right,
                ..
            } => (
                self.quantified(left, compare_op, right, false, place)?,
                Ty::Bool,
            ),
            E::AllOp {
                left,
                compare_op,
                right,
            } => (
                self.quantified(left, compare_op, right, true, place)?,
                Ty::Bool,
            ),
            E::Exists { subquery, negated } => {
                let plan = self.query(subquery, place.scope)?;
                (negate(Expr::Exists(Box::new(plan)), *negated), Ty::Bool)
            }
            E::Subquery(query) => {
                let plan = self.query(query, place.scope)?;
                let ty = plan.columns.first().map_or(Ty::Text, |(_, ty)| *ty);
                (Expr::Scalar(Box::new(plan)), ty)
            }
            E::Case {
                operand,
                conditions,
                else_result,
                ..
            } => self.case(
                operand.as_deref(),
                conditions,
                else_result.as_deref(),
                place,
            )?,
            E::Array(array) => {
                let mut ty = Ty::Text;
                let mut items = Vec::new();
                for item in &array.elem {
                    let (item, item_ty) = self.expr(item, place)?;
                    ty = item_ty;
                    items.push(item);
                }
                (Expr::Array(items), ty.array())
            }
            E::CompoundFieldAccess { root, access_chain } => {
                // `table.column[n]` comes as an access to a column called like the table.
                let column = match (root.as_ref(), access_chain.as_slice()) {
                    (E::Identifier(table), [ast::AccessExpr::Dot(E::Identifier(column)), ..]) => {
                        place.scope.column(Some(&fold(table)), &fold(column))
                    }
                    _ => None,
                };
                match column {
                    Some(found) => self.access(found, &access_chain[1..], place)?,
                    None => self.access(self.expr(root, place)?, access_chain, place)?,
                }
            }
            E::Substring {
                expr,
                substring_from,
                substring_for,
                ..
            } => {
                let mut args = vec![self.expr(expr, place)?];
                let from = substring_from.as_deref();
                args.push(match from {
                    Some(from) => self.expr(from, place)?,
                    None => (Expr::Const(Value::Int(1)), Ty::Int4),
                });
                if let Some(length) = substring_for {
                    args.push(self.expr(length, place)?);
                }
                self.call("substring", args)?
            }
            E::Trim {
                trim_where,
                trim_what,
                expr,
                ..
            } => {
                let name = match trim_where {
                    Some(ast::TrimWhereField::Leading) => "ltrim",
                    Some(ast::TrimWhereField::Trailing) => "rtrim",
                    _ => "btrim",
                };
                let mut args = vec![self.expr(expr, place)?];
                if let Some(what) = trim_what {
                    args.push(self.expr(what, place)?);
                }
                self.call(name, args)?
            }
            E::Position { expr, r#in } => {
                let args = vec![self.expr(r#in, place)?, self.expr(expr, place)?];
                self.call("strpos", args)?
            }
            E::Function(function) => self.function(function, place)?,
            other => return Err(not_ours(other)),
        })
    }

    fn column(
        &self,
        table: Option<&str>,
        ident: &ast::Ident,
        place: Place<'_>,
    ) -> Result<Bound, SqlError> {
        let name = fold(ident);
        if let Some(found) = place.scope.column(table, &name) {
            return Ok(found);
        }
        if table.is_none() && functions::is_niladic(&name) {
            return self.call(&name, Vec::new());
        }
        let shown = table.map_or_else(|| name.clone(), |table| format!("{table}.{name}"));
        Err(SqlError::new(
            "42703",
            format!("column \"{shown}\" does not exist"),
        ))
    }

    fn value(&self, value: &ast::Value) -> Result<Bound, SqlError> {
        Ok(match value {
            ast::Value::Number(number, _) => match number.parse::<i64>() {
                Ok(int) if i32::try_from(int).is_ok() => (Expr::Const(Value::Int(int)), Ty::Int4),
                Ok(int) => (Expr::Const(Value::Int(int)), Ty::Int8),
                Err(_) => (
                    Expr::Const(Value::Float(number.parse().unwrap_or(0.0))),
                    Ty::Float8,
                ),
            },
            ast::Value::Boolean(value) => (Expr::Const(Value::Bool(*value)), Ty::Bool),
            ast::Value::Null => (Expr::Const(Value::Null), Ty::Text),
            ast::Value::Placeholder(name) => {
                let number = name.trim_start_matches('$').parse::<usize>().unwrap_or(0);
                if number == 0 || number > super::PARAMS_MAX {
                    return Err(not_ours(name));
                }
                let mut params = self.params.borrow_mut();
                if params.len() < number {
                    params.resize(number, None);
                }
                (
                    Expr::Param(number - 1),
                    params[number - 1].unwrap_or(Ty::Text),
                )
            }
            other => match other.clone().into_string() {
                Some(text) => (Expr::Const(Value::text(text)), Ty::Text),
                None => return Err(not_ours(other)),
            },
        })
    }

    /// A parameter whose type the client left open gets the type of what it is used with.
    pub(super) fn declare(&self, number: usize, ty: Ty) {
        if let Some(param) = self.params.borrow_mut().get_mut(number) {
            param.get_or_insert(ty);
        }
    }

    /// A type by its name in SQL; casts to `reg…` are the catalog's.
    fn named(&self, data_type: &ast::DataType) -> Result<Ty, SqlError> {
        let text = data_type.to_string();
        let quoted = text.contains('"');
        let text = text.replace('"', "").to_lowercase();
        let name = text.strip_prefix("pg_catalog.").unwrap_or(&text);
        let name = name.strip_prefix("information_schema.").unwrap_or(name);
        let (name, suffix) = match name.strip_suffix("[]") {
            Some(element) => (element, "[]"),
            None => (name, ""),
        };
        let name = name.split('(').next().unwrap_or(name).trim();
        // Unquoted, char is character(1).
        let name = if name == "char" && !quoted {
            "text"
        } else {
            name
        };
        let ty = Ty::named(&format!("{name}{suffix}")).ok_or_else(|| not_ours(data_type))?;
        if text.contains('(') || matches!(ty, Ty::Float8 | Ty::Timestamptz | Ty::Array(_)) {
            self.computes.set(true);
        }
        if matches!(ty, Ty::Reg(_)) {
            self.ours.set(true);
        }
        Ok(ty)
    }

    fn operator(
        &self,
        left: Bound,
        op: &ast::BinaryOperator,
        right: Bound,
    ) -> Result<Bound, SqlError> {
        use ast::BinaryOperator as B;
        let matching = |like: bool, insensitive: bool, negated: bool| Op::Match {
            pattern: match like {
                true => Pattern::Like(Some('\\')),
                false => Pattern::Regex,
            },
            insensitive,
            negated,
        };
        let op = match op {
            B::And => return Ok((Expr::And(Box::new(left.0), Box::new(right.0)), Ty::Bool)),
            B::Or => return Ok((Expr::Or(Box::new(left.0), Box::new(right.0)), Ty::Bool)),
            B::Eq => Op::Eq,
            B::NotEq => Op::Ne,
            B::Lt => Op::Lt,
            B::LtEq => Op::Le,
            B::Gt => Op::Gt,
            B::GtEq => Op::Ge,
            B::Plus => Op::Add,
            B::Minus => Op::Sub,
            B::Multiply => Op::Mul,
            B::Divide => Op::Div,
            B::Modulo => Op::Mod,
            B::BitwiseAnd => Op::BitAnd,
            B::StringConcat => Op::Concat,
            B::PGRegexMatch => matching(false, false, false),
            B::PGRegexIMatch => matching(false, true, false),
            B::PGRegexNotMatch => matching(false, false, true),
            B::PGRegexNotIMatch => matching(false, true, true),
            B::PGLikeMatch => matching(true, false, false),
            B::PGILikeMatch => matching(true, true, false),
            B::PGNotLikeMatch => matching(true, false, true),
            B::PGNotILikeMatch => matching(true, true, true),
            B::PGCustomBinaryOperator(parts) => match parts.last().map(String::as_str) {
                Some("=") => Op::Eq,
                Some("<>") => Op::Ne,
                Some("~") => matching(false, false, false),
                Some("~*") => matching(false, true, false),
                Some("!~") => matching(false, false, true),
                Some("!~*") => matching(false, true, true),
                Some("~~") => matching(true, false, false),
                Some("~~*") => matching(true, true, false),
                Some("!~~") => matching(true, false, true),
                Some("!~~*") => matching(true, true, true),
                _ => return Err(not_ours("an operator")),
            },
            other => return Err(not_ours(other)),
        };
        let ty = match op {
            Op::Add | Op::Sub | Op::Mul | Op::Div | Op::Mod | Op::BitAnd => match (left.1, right.1)
            {
                (Ty::Json | Ty::Jsonb | Ty::Array(_), _)
                | (_, Ty::Json | Ty::Jsonb | Ty::Array(_)) => {
                    return Err(not_ours("arithmetic"));
                }
                (Ty::Timestamptz, _) | (_, Ty::Timestamptz) => {
                    self.computes.set(true);
                    Ty::Int4
                }
                (Ty::Float8, _) | (_, Ty::Float8) => {
                    self.computes.set(true);
                    Ty::Float8
                }
                (Ty::Int8, _) | (_, Ty::Int8) => Ty::Int8,
                (Ty::Int2, Ty::Int2) => Ty::Int2,
                _ => Ty::Int4,
            },
            Op::Concat => match (left.1, right.1) {
                (array @ Ty::Array(_), _) | (_, array @ Ty::Array(_)) => array,
                _ => Ty::Text,
            },
            _ => Ty::Bool,
        };
        let result = self.compare(left, op, right);
        Ok(match ty {
            // It must fit.
            Ty::Int2 | Ty::Int4 => (Expr::Cast(Box::new(result), ty), ty),
            ty => (result, ty),
        })
    }

    /// An operator over two sides; a literal or parameter takes the other's type.
    fn compare(&self, left: Bound, op: Op, right: Bound) -> Expr {
        if let Expr::Param(number) = left.0 {
            self.declare(number, right.1);
        }
        if let Expr::Param(number) = right.0 {
            self.declare(number, left.1);
        }
        let (left_ty, right_ty) = (left.1, right.1);
        let comparing = matches!(op, Op::Eq | Op::Ne | Op::Lt | Op::Le | Op::Gt | Op::Ge);
        let (left, right) = match comparing {
            true => (
                literal_as(left.0, left_ty, right_ty),
                literal_as(right.0, right_ty, left_ty),
            ),
            false => (left.0, right.0),
        };
        let alike = class(left_ty).is_some() && class(left_ty) == class(right_ty);
        Expr::Binary {
            op,
            left: Box::new(left),
            right: Box::new(right),
            alike,
        }
    }

    fn quantified(
        &self,
        left: &'a ast::Expr,
        op: &ast::BinaryOperator,
        right: &'a ast::Expr,
        all: bool,
        place: Place<'_>,
    ) -> Result<Expr, SqlError> {
        let left = self.expr(left, place)?;
        let right_query = match right {
            ast::Expr::Subquery(query) => Some(query),
            ast::Expr::Nested(inner) => match inner.as_ref() {
                ast::Expr::Subquery(query) => Some(query),
                _ => None,
            },
            _ => None,
        };
        let dummy = (Expr::Const(Value::Null), left.1);
        let op = match self.operator(left.clone(), op, dummy)?.0 {
            Expr::Binary { op, .. } => op,
            _ => return Err(not_ours("this operator with ANY")),
        };
        let left_ty = left.1;
        let left = Box::new(left.0);
        if let Some(query) = right_query {
            let query = Box::new(self.query(query, place.scope)?);
            return Ok(Expr::AnyAllQuery {
                left,
                op,
                all,
                query,
            });
        }
        let (right, mut ty) = self.expr(right, place)?;
        if let Expr::Param(number) = right {
            self.declare(number, left_ty.array());
            ty = left_ty.array();
        }
        // An array's literal.
        let right = match ty {
            Ty::Text => Expr::Cast(Box::new(right), Ty::Text.array()),
            _ => right,
        };
        Ok(Expr::AnyAll {
            left,
            op,
            all,
            right: Box::new(right),
        })
    }

    fn case(
        &self,
        operand: Option<&'a ast::Expr>,
        conditions: &'a [ast::CaseWhen],
        otherwise: Option<&'a ast::Expr>,
        place: Place<'_>,
    ) -> Result<Bound, SqlError> {
        let operand = operand.map(|expr| self.expr(expr, place)).transpose()?;
        let mut ty = None;
        let mut see = |expr: &Expr, new: Ty| {
            if !matches!(expr, Expr::Const(Value::Null)) {
                ty.get_or_insert(new);
            }
        };
        let mut branches = Vec::new();
        for when in conditions {
            let condition = self.expr(&when.condition, place)?;
            let condition = match &operand {
                Some(operand) => self.compare(operand.clone(), Op::Eq, condition),
                None => condition.0,
            };
            let (result, result_ty) = self.expr(&when.result, place)?;
            see(&result, result_ty);
            branches.push((condition, result));
        }
        let otherwise = match otherwise {
            Some(expr) => {
                let (result, result_ty) = self.expr(expr, place)?;
                see(&result, result_ty);
                Some(Box::new(result))
            }
            None => None,
        };
        Ok((
            Expr::Case {
                branches,
                otherwise,
            },
            ty.unwrap_or(Ty::Text),
        ))
    }

    fn access(
        &self,
        root: Bound,
        chain: &'a [ast::AccessExpr],
        place: Place<'_>,
    ) -> Result<Bound, SqlError> {
        let (mut expr, mut ty) = root;
        for step in chain {
            let (index, base) = match step {
                ast::AccessExpr::Subscript(ast::Subscript::Index { index }) => {
                    (self.expr(index, place)?.0, i64::from(!ty.is_vector()))
                }
                // The fields of `_pg_expandarray`'s records.
                ast::AccessExpr::Dot(ast::Expr::Identifier(ident)) => match fold(ident).as_str() {
                    "x" | "option_name" => (Expr::Const(Value::Int(1)), 1),
                    "n" | "option_value" => (Expr::Const(Value::Int(2)), 1),
                    other => return Err(not_ours(other)),
                },
                _ => return Err(not_ours("this kind of subscript")),
            };
            expr = Expr::Subscript {
                array: Box::new(expr),
                index: Box::new(index),
                base,
            };
            ty = ty.element();
        }
        Ok((expr, ty))
    }
}

/// What takes their meaning from `%` and `_` of LIKE: a backslash, unless ESCAPE says otherwise.
fn escape(written: Option<&ast::ValueWithSpan>) -> Result<Option<char>, SqlError> {
    let Some(written) = written else {
        return Ok(Some('\\'));
    };
    let ast::Value::SingleQuotedString(text) = &written.value else {
        return Err(not_ours("this kind of ESCAPE"));
    };
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (first, None) => Ok(first),
        _ => Err(SqlError::new("22025", "invalid escape string")
            .hint("Escape string must be empty or one character.")),
    }
}

/// Kinds of values that compare with themselves.
fn class(ty: Ty) -> Option<u8> {
    match ty {
        Ty::Bool => Some(0),
        Ty::Int2 | Ty::Int4 | Ty::Int8 | Ty::Oid => Some(1),
        Ty::Text | Ty::Name | Ty::Char => Some(2),
        _ => None,
    }
}

/// A literal in the other side's type, read once.
fn literal_as(expr: Expr, ty: Ty, other: Ty) -> Expr {
    match &expr {
        Expr::Const(Value::Text(text)) if ty == Ty::Text => match class(other) {
            Some(1) => text
                .trim()
                .parse()
                .map_or(expr, |int| Expr::Const(Value::Int(int))),
            Some(0) => Value::bool(&Value::Text(text.clone()))
                .map_or(expr, |value| Expr::Const(Value::Bool(value))),
            _ => expr,
        },
        _ => expr,
    }
}
