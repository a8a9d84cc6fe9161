//! `SET a[i] = …`: assignments to elements of arrays and members of JSON documents.

use datafusion_expr::Expr;
use sqlparser::ast::{self, Expr as E, FunctionArg, FunctionArgExpr, ObjectNamePart};
use tidemill_zset::schema::SqlType;

use super::Binder;
use super::expr::Ctx;
use super::types::plain_name;
use crate::error::{Result, SqlError};
use crate::functions::array_change::{element_set, slice_set};
use crate::functions::json_change::member_set;
use crate::parser::elements::{ELEMENT, SLICE_TO};

/// A subscript behind the name of a column that is assigned to.
pub(super) struct Subscript<'q> {
    name: &'q str,
    args: Vec<&'q E>,
}

/// The subscripts behind a column's name.
pub(super) fn subscripts(name: &ast::ObjectName) -> Vec<Subscript<'_>> {
    let calls = name.0.iter().filter_map(|part| match part {
        ObjectNamePart::Function(call) => Some(call),
        ObjectNamePart::Identifier(_) => None,
    });
    calls
        .map(|call| Subscript {
            name: &call.name.value,
            args: call.args.iter().filter_map(argument).collect(),
        })
        .collect()
}

fn argument(a: &FunctionArg) -> Option<&E> {
    match a {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(e)) => Some(e),
        _ => None,
    }
}

impl Binder<'_> {
    /// The new value of a column of which a part is assigned to.
    pub(super) fn part_assigned(
        &self,
        c: Ctx,
        (column, ty): (&str, &SqlType),
        old: Expr,
        steps: &[Subscript],
        value: &E,
    ) -> Result<Expr> {
        let of = match (ty, steps) {
            (SqlType::Jsonb, _) => return self.member_assigned(c, column, old, steps, value),
            (SqlType::Array(of), [_]) => of.as_ref(),
            (SqlType::Array(_), _) => {
                let message = "arrays of several dimensions are not supported";
                return Err(SqlError::unsupported(message));
            }
            _ => {
                let message = format!(
                    "cannot subscript type {} because it does not support subscripting",
                    plain_name(ty)
                );
                return Err(SqlError::new("42804", message));
            }
        };
        let mut numbers = vec![];
        for e in steps.iter().flat_map(|s| &s.args) {
            let number = self.array_place(self.expr(c, e)?)?;
            numbers.push(self.implicit(&number, &SqlType::Int4)?);
        }
        let name = steps.first().map_or(ELEMENT, |s| s.name);
        let mut numbers = numbers.into_iter();
        let mut next = |there: bool| there.then(|| numbers.next()).flatten();
        if name == ELEMENT {
            let at = next(true).ok_or_else(|| SqlError::internal("a subscript without a value"))?;
            return Ok(element_set(old, at, self.part(c, column, value, of)?, ty));
        }
        let bounds = (next(name != SLICE_TO), next(true));
        let value = self.part(c, column, value, ty)?;
        Ok(slice_set(old, bounds, value, ty))
    }

    /// `SET j['a'][0] = …`
    fn member_assigned(
        &self,
        c: Ctx,
        column: &str,
        old: Expr,
        steps: &[Subscript],
        value: &E,
    ) -> Result<Expr> {
        let (mut path, mut in_array) = (vec![], None);
        for step in steps {
            let ([e], ELEMENT) = (step.args.as_slice(), step.name) else {
                let message = "jsonb subscript does not support slices";
                return Err(SqlError::new("42804", message));
            };
            let step = self.expr(c, e)?;
            let number = !step.unknown && super::types::is_integer(&step.ty);
            in_array.get_or_insert(number);
            path.push(self.jsonb_step(step)?);
        }
        let path = self.array_of(path)?;
        let value = self.part(c, column, value, &SqlType::Jsonb)?;
        Ok(member_set(old, path.expr, value, in_array == Some(true)))
    }

    /// What is assigned to a part of a column, as a value of `ty`.
    fn part(&self, c: Ctx, column: &str, value: &E, ty: &SqlType) -> Result<Expr> {
        let value = self.expr(c, value)?;
        let given = value.type_name();
        self.assign(value, ty, column).map_err(|e| {
            if e.sqlstate != "42804" {
                return e;
            }
            let message = format!(
                "subscripted assignment to \"{column}\" requires type {} but expression is of type {given}",
                plain_name(ty)
            );
            SqlError::new("42804", message).hint("You will need to rewrite or cast the expression.")
        })
    }
}
