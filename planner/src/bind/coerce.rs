//! Coercions: implicit, by assignment, explicit.

use datafusion_common::ScalarValue;
use datafusion_expr::Expr;
use tidemill_zset::schema::SqlType;

use super::types::{
    SCALE_DEFAULT, SCALE_QUOTIENT, as_numeric, assignable, castable, common, implicit_cost,
    is_number, is_text, plain_name, united,
};
use super::{Binder, Typed, null_of};
use crate::error::{Result, SqlError};
use crate::functions::cast::{self, Context};

/// PostgreSQL's greatest length of `char(n)`.
pub(super) const CHAR_MAX: u32 = 10_485_760;

/// Rows whose numerics have different scales are shown with the digits that each needs.
pub(crate) fn own_scales<'t>(
    ty: SqlType,
    mut items: impl Iterator<Item = (&'t SqlType, bool)>,
) -> SqlType {
    match ty {
        SqlType::Numeric(_, s)
            if items.any(|(t, unknown)| !unknown && is_number(t) && as_numeric(t).1 != s) =>
        {
            SqlType::Numeric(0, s)
        }
        ty => ty,
    }
}

/// Digits behind the point of a number that is written as a literal of unknown type; as many as a quotient has at most.
pub(super) fn scale_of_literal(t: &Typed) -> Option<i8> {
    let Expr::Literal(ScalarValue::Utf8View(Some(text)), _) = &t.expr else {
        return None;
    };
    let (_, fraction) = text.trim().split_once('.').unwrap_or((text, ""));
    let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
    t.unknown
        .then_some(digits.min(SCALE_QUOTIENT as usize) as i8)
}

/// The type of any length that `ty` has the values of.
pub(super) fn without_length(ty: &SqlType) -> SqlType {
    match ty {
        SqlType::Varchar(Some(_)) => SqlType::Varchar(None),
        SqlType::Char(_) => SqlType::Text,
        SqlType::Array(of) => SqlType::Array(Box::new(without_length(of))),
        ty => ty.clone(),
    }
}

/// The same type without a limit of its length.
fn of_any_length(ty: &SqlType) -> SqlType {
    match ty {
        SqlType::Varchar(_) => SqlType::Varchar(None),
        SqlType::Char(_) => SqlType::Char(CHAR_MAX),
        SqlType::Array(of) => SqlType::Array(Box::new(of_any_length(of))),
        ty => ty.clone(),
    }
}

/// `ty` with room for the digits of the literals among `items`.
pub(super) fn with_digits<'t>(ty: SqlType, items: impl Iterator<Item = &'t Typed>) -> SqlType {
    match ty {
        SqlType::Numeric(_, s) => match items.filter_map(scale_of_literal).max() {
            Some(digits) if digits > s => SqlType::Numeric(0, digits),
            _ => ty,
        },
        ty => ty,
    }
}

impl Binder<'_> {
    /// A literal or parameter without a type, as a `to`.
    pub(crate) fn settle(&self, t: &Typed, to: &SqlType, context: Context) -> Result<Expr> {
        match &t.expr {
            Expr::Literal(ScalarValue::Null, _) => Ok(null_of(to)),
            Expr::Literal(ScalarValue::Utf8View(Some(text)), _) => {
                let to = match to {
                    // The literal's own digits decide where the type leaves them open.
                    SqlType::Varchar(None) => &SqlType::Text,
                    to => to,
                };
                let value = cast::constant(text, to, context, self.zone())?;
                Ok(Expr::Literal(value, None))
            }
            Expr::Placeholder(p) => {
                let n: usize = p.id.trim_start_matches('$').parse().unwrap_or(1);
                match self.param_type(n) {
                    Some(known) => {
                        let typed = Typed::new(placeholder(n, &known), known);
                        self.cast(typed, to, context)
                    }
                    None => {
                        self.set_param_type(n, to);
                        Ok(placeholder(n, to))
                    }
                }
            }
            _ => Ok(cast::cast(
                t.expr.clone(),
                &SqlType::Text,
                to,
                context,
                self.zone(),
            )),
        }
    }

    /// A parameter without a type beside a numeric is a numeric of its own: it isn't rounded to the other's digits.
    pub(crate) fn beside(&self, t: Typed, other: &Typed) -> Result<Typed> {
        let numeric = !other.unknown && matches!(other.ty, SqlType::Numeric(..));
        match (&t.expr, t.unknown && numeric) {
            (Expr::Placeholder(_), true) => {
                let ty = SqlType::Numeric(0, SCALE_DEFAULT);
                Ok(Typed::new(self.settle(&t, &ty, Context::Explicit)?, ty))
            }
            _ => Ok(t),
        }
    }

    /// Both of them so.
    pub(crate) fn beside_each_other(&self, l: Typed, r: Typed) -> Result<(Typed, Typed)> {
        let l = self.beside(l, &r)?;
        let r = self.beside(r, &l)?;
        Ok((l, r))
    }

    /// `t` as `to` if there is an implicit cast.
    pub(crate) fn implicit(&self, t: &Typed, to: &SqlType) -> Result<Expr> {
        if t.unknown {
            // What is written or sent isn't cut to a length that nobody has asked for.
            return self.settle(t, &of_any_length(to), Context::Explicit);
        }
        if implicit_cost(&t.ty, to).is_none() && common(&t.ty, to).as_ref() != Some(to) {
            return Err(cast::no_cast(&t.ty, to));
        }
        Ok(cast::cast(
            t.expr.clone(),
            &t.ty,
            to,
            Context::Explicit,
            self.zone(),
        ))
    }

    /// `t::to`, or (`Context::Assignment`) the value for a column of type `to`.
    pub(crate) fn cast(&self, t: Typed, to: &SqlType, context: Context) -> Result<Expr> {
        let t = self.with_digits_of(t, to);
        if t.unknown {
            let base = without_length(to);
            if base != *to
                && let Expr::Placeholder(_) = &t.expr
            {
                // A parameter is what was sent; its length is checked, or cut, here.
                let value = Typed::new(self.settle(&t, &base, context)?, base);
                return self.cast(value, to, context);
            }
            return self.settle(&t, to, context);
        }
        let possible = if context == Context::Assignment {
            assignable(&t.ty, to)
        } else {
            castable(&t.ty, to)
        };
        if !possible {
            return Err(cast::no_cast(&t.ty, to));
        }
        Ok(cast::cast(t.expr, &t.ty, to, context, self.zone()))
    }

    /// A parameter that was declared numeric, and has thus as many decimals as any, with those of `to`, which alone it is for.
    fn with_digits_of(&self, t: Typed, to: &SqlType) -> Typed {
        match (&t.expr, &t.ty, to) {
            (Expr::Placeholder(p), SqlType::Numeric(0, SCALE_DEFAULT), SqlType::Numeric(_, s))
                if !t.unknown && *s > SCALE_DEFAULT =>
            {
                let n: usize = p.id.trim_start_matches('$').parse().unwrap_or(0);
                if !self.is_named_once(n) {
                    return t;
                }
                let wide = SqlType::Numeric(0, *s);
                self.set_param_type(n, &wide);
                Typed::new(placeholder(n, &wide), wide)
            }
            _ => t,
        }
    }

    /// The value for the column `name` of a table.
    pub(crate) fn assign(&self, t: Typed, to: &SqlType, name: &str) -> Result<Expr> {
        if !t.unknown && !assignable(&t.ty, to) {
            return Err(SqlError::new(
                "42804",
                format!(
                    "column \"{name}\" is of type {} but expression is of type {}",
                    plain_name(to),
                    plain_name(&t.ty)
                ),
            )
            .hint("You will need to rewrite or cast the expression."));
        }
        self.cast(t, to, Context::Assignment)
    }

    /// The type of CASE, COALESCE, VALUES, UNION and the like over `items`.
    pub(crate) fn unify_types<'t>(
        &self,
        items: impl Iterator<Item = (&'t SqlType, bool)>,
        what: &str,
    ) -> Result<SqlType> {
        let mut out: Option<SqlType> = None;
        let mut unknowns = false;
        for (ty, unknown) in items {
            if unknown {
                unknowns = true;
                continue;
            }
            out = Some(match out {
                None => ty.clone(),
                Some(o) => united(&o, ty).ok_or_else(|| {
                    SqlError::new(
                        "42804",
                        format!(
                            "{what} types {} and {} cannot be matched",
                            plain_name(&o),
                            plain_name(ty)
                        ),
                    )
                })?,
            });
        }
        Ok(match out {
            // A literal's length is its own.
            Some(ty) if unknowns => without_length(&ty),
            Some(ty) => ty,
            None => SqlType::Text,
        })
    }

    /// All of `items` as one type.
    pub(crate) fn unify(&self, items: Vec<Typed>, what: &str) -> Result<(Vec<Expr>, SqlType)> {
        let numeric = |t: &&Typed| !t.unknown && matches!(t.ty, SqlType::Numeric(..));
        let items = match items.iter().find(numeric).cloned() {
            Some(numeric) => {
                let items = items.into_iter().map(|t| self.beside(t, &numeric));
                items.collect::<Result<Vec<_>>>()?
            }
            None => items,
        };
        let is_null = |t: &&Typed| matches!(&t.expr, Expr::Literal(v, _) if v.is_null());
        let some = items.iter().filter(|t| !(t.unknown && is_null(t)));
        let mut ty = self.unify_types(some.map(|t| (&t.ty, t.unknown)), what)?;
        if let SqlType::Numeric(p, s) = &mut ty {
            // Integers and constants of other scales are shown with their own digits each, where no computed numeric
            // among them sets the scale.
            let mut known = items.iter().filter(|t| !t.unknown);
            let computed = |t: &Typed| {
                matches!(t.ty, SqlType::Numeric(..)) && !matches!(t.expr, Expr::Literal(..))
            };
            if !known.clone().any(computed) && known.any(|t| as_numeric(&t.ty).1 != *s) {
                *p = 0;
            }
        }
        // A literal that fits is shown like the others, one with more digits isn't cut to theirs.
        let ty = with_digits(ty, items.iter());
        let exprs = items
            .iter()
            .map(|t| self.implicit(t, &ty))
            .collect::<Result<Vec<_>>>()?;
        Ok((exprs, ty))
    }

    /// A condition.
    pub(crate) fn boolean(&self, t: Typed, clause: &str) -> Result<Expr> {
        if t.unknown || matches!(t.ty, SqlType::Bool) {
            return self.implicit(&t, &SqlType::Bool);
        }
        Err(SqlError::new(
            "42804",
            format!(
                "argument of {clause} must be type boolean, not type {}",
                plain_name(&t.ty)
            ),
        ))
    }

    /// The value with a type of its own: unknown becomes text.
    pub(crate) fn known(&self, t: Typed) -> Result<Typed> {
        if !t.unknown {
            return Ok(t);
        }
        let expr = self.settle(&t, &SqlType::Text, Context::Explicit)?;
        Ok(Typed::new(expr, SqlType::Text))
    }

    /// A `char(n)` as text with the spaces that pad it, where they count.
    pub(crate) fn padded(&self, t: Typed) -> Result<Typed> {
        let SqlType::Char(n) = t.ty else {
            return Ok(t);
        };
        if t.unknown {
            return Ok(t);
        }
        let length = super::literal(ScalarValue::Int32(i32::try_from(n).ok()));
        self.function("rpad", vec![t, Typed::new(length, SqlType::Int4)], None)
    }

    /// As text, if the type has an implicit way to it (`||` and concat take anything).
    pub(crate) fn any_text(&self, t: Typed) -> Result<Expr> {
        if t.unknown || is_text(&t.ty) {
            return self.implicit(&t, &SqlType::Text);
        }
        Ok(cast::cast(
            t.expr,
            &t.ty,
            &SqlType::Text,
            Context::Explicit,
            self.zone(),
        ))
    }
}

/// `$n` of a type.
pub(crate) fn placeholder(n: usize, t: &SqlType) -> Expr {
    Expr::Placeholder(datafusion_expr::expr::Placeholder::new_with_field(
        format!("${n}"),
        Some(std::sync::Arc::new(t.field("", true))),
    ))
}
