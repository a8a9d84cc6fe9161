//! Row values: comparing them, `IS NULL`, and getting at their fields and at the elements of arrays.

use arrow::datatypes::{DataType, Field};
use datafusion_common::ScalarValue;
use datafusion_expr::{Expr, Operator};
use sqlparser::ast::{
    AccessExpr, BinaryOperator as B, Expr as E, FunctionArg, FunctionArgExpr, FunctionArguments,
    ObjectName, Subscript,
};
use tidemill_zset::schema::SqlType;

use super::conditions::{and, not, or, when};
use super::expr::{Ctx, at, strip};
use super::types::{castable, is_text};
use super::{Binder, Typed, literal, null_of, truth};
use crate::error::{Result, SqlError};
use crate::functions::cast::{self, Context};
use crate::functions::rows;
use crate::parser::{fold, parts, position};

/// The fields of `(a, b)` and `ROW(a, b)`.
pub(super) fn fields(e: &E) -> Option<Vec<E>> {
    match strip(e) {
        E::Tuple(items) => Some(items.clone()),
        E::Function(f) if parts(&f.name) == ["row"] => match &f.args {
            FunctionArguments::List(l) => l
                .args
                .iter()
                .map(|a| match a {
                    FunctionArg::Unnamed(FunctionArgExpr::Expr(e)) => Some(e.clone()),
                    _ => None,
                })
                .collect(),
            _ => None,
        },
        _ => None,
    }
}

fn same_width(l: &[E], r: &[E]) -> Result<()> {
    match l.len() == r.len() {
        true => Ok(()),
        false => Err(SqlError::new(
            "42601",
            "unequal number of entries in row expressions",
        )),
    }
}

impl Binder<'_> {
    /// A comparison whose left side is written as a row and whose right side is one or a subquery.
    pub(super) fn rows_compared(
        &self,
        c: Ctx,
        left: &E,
        op: &B,
        right: &E,
    ) -> Result<Option<Typed>> {
        let Some(l) = fields(left) else {
            return Ok(None);
        };
        if let E::Subquery(q) = strip(right) {
            let l = self.exprs(c, &l)?;
            let r = self.row_subquery(c, q, l.len())?;
            return self
                .compare_pairs(op, l.into_iter().zip(r).collect())
                .map(Some);
        }
        match fields(right) {
            Some(r) => self.compare_rows(c, &l, op, &r).map(Some),
            None => Ok(None),
        }
    }

    /// `(a, b) IS DISTINCT FROM (c, d)`: a field is.
    pub(super) fn rows_distinct(&self, c: Ctx, left: &E, right: &E) -> Result<Option<Typed>> {
        let (Some(l), Some(r)) = (fields(left), fields(right)) else {
            return Ok(None);
        };
        same_width(&l, &r)?;
        let mut out = truth(false);
        for (l, r) in self.exprs(c, &l)?.into_iter().zip(self.exprs(c, &r)?) {
            out = or(out, self.compare(Operator::IsDistinctFrom, l, r)?.expr);
        }
        Ok(Some(Typed::new(out, SqlType::Bool)))
    }

    /// `(a, b) BETWEEN (…) AND (…)`, field by field. `None`: no rows are compared.
    pub(super) fn row_between(
        &self,
        c: Ctx,
        x: &E,
        (low, high): (&E, &E),
        either_way: bool,
    ) -> Result<Option<Expr>> {
        let (Some(x), Some(low), Some(high)) = (fields(x), fields(low), fields(high)) else {
            return Ok(None);
        };
        let within = |low: &[E], high: &[E]| -> Result<Expr> {
            let ge = self.compare_rows(c, &x, &B::GtEq, low)?.expr;
            Ok(and(ge, self.compare_rows(c, &x, &B::LtEq, high)?.expr))
        };
        let found = within(&low, &high)?;
        Ok(Some(match either_way {
            true => or(found, within(&high, &low)?),
            false => found,
        }))
    }

    /// `(a, b) = (c, d)` and the orders.
    pub(super) fn compare_rows(&self, c: Ctx, l: &[E], op: &B, r: &[E]) -> Result<Typed> {
        same_width(l, r)?;
        self.compare_pairs(
            op,
            self.exprs(c, l)?
                .into_iter()
                .zip(self.exprs(c, r)?)
                .collect(),
        )
    }

    /// Two rows, field by field.
    fn compare_pairs(&self, op: &B, pairs: Vec<(Typed, Typed)>) -> Result<Typed> {
        let eq =
            |(a, b): &(Typed, Typed), op| self.compare(op, a.clone(), b.clone()).map(|t| t.expr);
        let all = |op| -> Result<Expr> {
            pairs
                .iter()
                .map(|p| eq(p, op))
                .reduce(|a, b| Ok(and(a?, b?)))
                .unwrap_or_else(|| Ok(truth(true)))
        };
        let e = match op {
            B::Eq => all(Operator::Eq)?,
            B::NotEq => not(all(Operator::Eq)?),
            B::Lt | B::LtEq | B::Gt | B::GtEq => {
                let strict = if matches!(op, B::Lt | B::LtEq) {
                    Operator::Lt
                } else {
                    Operator::Gt
                };
                let last = match op {
                    B::LtEq => Operator::LtEq,
                    B::GtEq => Operator::GtEq,
                    _ => strict,
                };
                let mut out: Option<Expr> = None;
                let bool = &SqlType::Bool;
                for p in pairs.into_iter().rev() {
                    out = Some(match out {
                        None => eq(&p, last)?,
                        Some(rest) => p.0.shared(bool, |a| {
                            p.1.shared(bool, |b| {
                                let p = (a, b);
                                Ok(or(eq(&p, strict)?, and(eq(&p, Operator::Eq)?, rest)))
                            })
                        })?,
                    });
                }
                out.unwrap_or_else(|| truth(true))
            }
            B::Overlaps => return self.overlaps(pairs),
            _ => {
                return Err(SqlError::unsupported(
                    "this operator on row values is not supported",
                ));
            }
        };
        Ok(Typed::new(e, SqlType::Bool))
    }

    /// Columns and types of the relation whose row type has this name.
    pub(super) fn row_type(&self, name: &[String]) -> Option<Vec<(String, SqlType)>> {
        let relation = match name {
            [table] => self.find_relation(None, table),
            [schema, table] => self.find_relation(Some(schema), table),
            _ => None,
        }?;
        let fields = relation.columns.fields().iter();
        let columns = fields.map(|f| (f.name().clone(), SqlType::of(f)));
        Some(columns.collect())
    }

    /// `(a, b)::t`: a row of a relation's columns. Fails with `unknown` if there is no such relation.
    pub(super) fn cast_to_row(
        &self,
        c: Ctx,
        e: &E,
        name: &ObjectName,
        unknown: SqlError,
    ) -> Result<Typed> {
        let names = parts(name);
        let columns = self.row_type(&names).ok_or(unknown)?;
        let fields = columns.iter().map(|(name, ty)| ty.field(name, true));
        let fields: Vec<Field> = fields.collect();
        let to = SqlType::Other(DataType::Struct(fields.into()));
        let t = self.expr(c, e)?;
        let fits = match (&t.ty, &to) {
            _ if t.unknown => {
                let Expr::Literal(ScalarValue::Null, _) = &t.expr else {
                    return Err(SqlError::unsupported("rows are not read from texts"));
                };
                return Ok(Typed::new(null_of(&to), to));
            }
            (SqlType::Other(DataType::Struct(from)), SqlType::Other(DataType::Struct(to))) => {
                let mut pairs = from.iter().zip(to);
                from.len() == to.len()
                    && pairs.all(|(a, b)| castable(&SqlType::of(a), &SqlType::of(b)))
            }
            _ => false,
        };
        if !fits {
            let message = format!("cannot cast type {} to {}", t.type_name(), names.join("."));
            return Err(SqlError::new("42846", message));
        }
        let row = cast::cast(t.expr, &t.ty, &to, Context::Explicit, self.zone());
        Ok(Typed::new(row, to))
    }

    /// IS NULL and IS NOT NULL. A row is NULL if all of its fields are, and not NULL if none is.
    pub(super) fn is_null(&self, c: Ctx, e: &E, null: bool) -> Result<Typed> {
        let t = self.expr(c, e)?;
        let t = self.known(t)?;
        if rows::is_row(&t.ty) {
            return Ok(rows::is_null(t.expr, &t.ty, null));
        }
        let e = match null {
            true => Expr::IsNull(Box::new(t.expr)),
            false => Expr::IsNotNull(Box::new(t.expr)),
        };
        Ok(Typed::new(e, SqlType::Bool))
    }

    pub(super) fn access(&self, c: Ctx, root: &E, chain: &[AccessExpr]) -> Result<Typed> {
        let mut t = match (root, chain.first()) {
            // t.arr[1] may come as an identifier with a chain of a field and a subscript.
            (E::Identifier(i), Some(AccessExpr::Dot(E::Identifier(f)))) => {
                let t = self.column_ref(c.scope, &[i.clone(), f.clone()])?;
                return self.access_typed(c, t, &chain[1..]);
            }
            _ => self.expr(c, root)?,
        };
        t = self.access_typed(c, t, chain)?;
        Ok(t)
    }

    /// `j['a']`, `j[0]`: a step of a path.
    pub(super) fn jsonb_step(&self, step: Typed) -> Result<Typed> {
        let known = !step.unknown;
        if known && !is_text(&step.ty) && !matches!(step.ty, SqlType::Int2 | SqlType::Int4) {
            return Err(SqlError::new(
                "42804",
                format!("subscript type {} is not supported", step.type_name()),
            )
            .hint("jsonb subscript must be coercible to either integer or text."));
        }
        Ok(Typed::new(self.any_text(step)?, SqlType::Text))
    }

    /// The number of an element of an array.
    pub(super) fn array_place(&self, i: Typed) -> Result<Typed> {
        let number = !i.unknown && super::types::is_number(&i.ty);
        if !number || i.ty == SqlType::Int4 {
            return Ok(i);
        }
        let to = SqlType::Int4;
        Ok(Typed::new(self.cast(i, &to, Context::Assignment)?, to))
    }

    fn access_typed(&self, c: Ctx, mut t: Typed, chain: &[AccessExpr]) -> Result<Typed> {
        for step in chain {
            t = match step {
                AccessExpr::Subscript(Subscript::Index { index }) => {
                    let i = self.expr(c, index)?;
                    if matches!(t.ty, SqlType::Jsonb) {
                        let step = self.jsonb_step(i)?;
                        self.function("jsonb_extract_path", vec![t, step], None)?
                    } else {
                        let i = self.array_place(i)?;
                        if !t.unknown && !matches!(t.ty, SqlType::Array(_)) {
                            let of = t.type_name();
                            return Err(SqlError::new(
                                "42804",
                                format!(
                                    "cannot subscript type {of} because it does not support subscripting"
                                ),
                            ));
                        }
                        self.function("array_subscript", vec![t, i], None)?
                    }
                }
                AccessExpr::Subscript(Subscript::Slice {
                    lower_bound,
                    upper_bound,
                    stride: None,
                }) => {
                    if matches!(t.ty, SqlType::Jsonb) {
                        let message = "jsonb subscript does not support slices";
                        return Err(SqlError::new("42804", message));
                    }
                    let one = Typed::new(literal(ScalarValue::Int32(Some(1))), SqlType::Int4);
                    let most =
                        Typed::new(literal(ScalarValue::Int32(Some(i32::MAX))), SqlType::Int4);
                    let l = lower_bound
                        .as_ref()
                        .map(|e| self.expr(c, e))
                        .transpose()?
                        .unwrap_or(one);
                    let u = upper_bound
                        .as_ref()
                        .map(|e| self.expr(c, e))
                        .transpose()?
                        .unwrap_or(most);
                    self.function("array_slice", vec![t, l, u], None)?
                }
                AccessExpr::Dot(E::Identifier(field)) => {
                    let name = fold(field);
                    rows::field(t, &name).map_err(|e| at(e, position(field.span)))?
                }
                _ => {
                    return Err(SqlError::unsupported(
                        "this access to a value is not supported",
                    ));
                }
            };
        }
        Ok(t)
    }

    /// `(start, end) OVERLAPS (start, end)`; an end may be an interval, and the two may be in any order.
    fn overlaps(&self, pairs: Vec<(Typed, Typed)>) -> Result<Typed> {
        let [(s1, s2), (e1, e2)]: [(Typed, Typed); 2] = pairs.try_into().map_err(|_| {
            SqlError::new(
                "42601",
                "wrong number of parameters for OVERLAPS expression",
            )
        })?;
        // What is said without a type is of that of the others.
        let all = [&s1, &s2, &e1, &e2];
        let known = all
            .into_iter()
            .find(|t| !t.unknown && t.ty != SqlType::Interval);
        let ty = known.map_or(SqlType::Timestamptz, |t| t.ty.clone());
        let typed = |t: Typed| -> Result<Typed> {
            match t.unknown {
                true => Ok(Typed::new(self.implicit(&t, &ty)?, ty.clone())),
                false => Ok(t),
            }
        };
        let (s1, s2, e1, e2) = (typed(s1)?, typed(s2)?, typed(e1)?, typed(e2)?);
        // Without an end there is only a moment.
        let period = |start: Typed, end: Typed| -> Result<(Typed, Typed)> {
            let end = match end.ty {
                SqlType::Interval if !end.unknown => self.operator(&B::Plus, start.clone(), end)?,
                _ => end,
            };
            let open = or(
                Expr::IsNull(Box::new(self.known(start.clone())?.expr)),
                Expr::IsNull(Box::new(self.known(end.clone())?.expr)),
            );
            let first = self.extreme("least", vec![start.clone(), end.clone()])?;
            let last = self.extreme("greatest", vec![start, end])?;
            let last_or_null = when(vec![(open, super::null_of(&last.ty))], last.expr);
            Ok((first, Typed::new(last_or_null, last.ty)))
        };
        let (first, second) = (period(s1, e1)?, period(s2, e2)?);
        let null = || super::null_of(&SqlType::Bool);
        let is_null = |t: &Typed| Expr::IsNull(Box::new(t.expr.clone()));
        let is = |op, l: &Typed, r: &Typed| self.compare(op, l.clone(), r.clone()).map(|t| t.expr);
        let after = |late: &(Typed, Typed), early: &(Typed, Typed)| -> Result<Expr> {
            let branches = vec![
                (is(Operator::Lt, &late.0, &early.1)?, truth(true)),
                (or(is_null(&early.1), is_null(&late.1)), null()),
            ];
            Ok(when(branches, truth(false)))
        };
        let open_end = or(is_null(&first.1), is_null(&second.1));
        let together = when(vec![(open_end, null())], truth(true));
        let branches = vec![
            (
                is(Operator::Gt, &first.0, &second.0)?,
                after(&first, &second)?,
            ),
            (
                is(Operator::Lt, &first.0, &second.0)?,
                after(&second, &first)?,
            ),
            (is(Operator::Eq, &first.0, &second.0)?, together),
        ];
        Ok(Typed::new(when(branches, null()), SqlType::Bool))
    }
}
