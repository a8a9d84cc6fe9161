//! Hypothetical-set aggregates: where a row with given values would stand among those of the group.

use std::cell::RefCell;

use datafusion::functions_aggregate::count::count_udaf;
use datafusion_common::{Column, ScalarValue};
use datafusion_expr::expr::AggregateFunction;
use datafusion_expr::{Expr, Operator};
use sqlparser::ast::{self, BinaryOperator as B, FunctionArguments};
use tidemill_zset::schema::SqlType;

use super::aggregates::{not_here, note};
use super::calls::no_function;
use super::conditions::{and, or, when};
use super::expr::{AGGREGATE, Calls, Ctx};
use super::{Binder, Typed, literal};
use crate::error::Result;
use crate::functions::cast::Context;

impl Binder<'_> {
    /// `rank(v) WITHIN GROUP (ORDER BY x)` and its kin, made of counts of the rows before that one.
    pub(super) fn hypothetical(&self, c: Ctx, name: &str, f: &ast::Function) -> Result<Typed> {
        let calls = c
            .calls
            .filter(|_| c.aggregates)
            .ok_or_else(|| not_here(c))?;
        let inner = Ctx {
            aggregates: false,
            windows: false,
            sets: false,
            clause: "aggregate",
            ..c
        };
        let values = match &f.args {
            FunctionArguments::List(l) => self.function_args(inner, &l.args)?,
            _ => vec![],
        };
        if values.len() != f.within_group.len() {
            let given = values.iter().map(Typed::type_name);
            let keys = f.within_group.iter().map(|_| "\u{2026}".to_string());
            return Err(no_function(name, &given.chain(keys).collect::<Vec<_>>()));
        }
        let wanted = match &f.filter {
            Some(e) => Some(self.condition(
                Ctx {
                    clause: "FILTER",
                    ..inner
                },
                e,
            )?),
            None => None,
        };
        let direct: Vec<Expr> = values.iter().map(|v| v.expr.clone()).collect();
        let (mut keys, mut before, mut equal) = (Vec::new(), None, None);
        for (value, by) in values.into_iter().zip(&f.within_group).rev() {
            let key = self.known(self.expr(inner, &by.expr)?)?;
            let asc = by.options.asc.unwrap_or(true);
            let nulls_first = by.options.nulls_first.unwrap_or(!asc);
            let less = if asc { Operator::Lt } else { Operator::Gt };
            let less = self.compare(less, key.clone(), value.clone())?.expr;
            let same = Operator::IsNotDistinctFrom;
            let same = self.compare(same, key.clone(), value.clone())?.expr;
            let (null, there) = match nulls_first {
                true => (key.expr.clone(), self.known(value)?.expr),
                false => (self.known(value)?.expr, key.expr.clone()),
            };
            let null = Expr::IsNull(Box::new(null));
            let own = or(less, and(null, Expr::IsNotNull(Box::new(there))));
            before = Some(match before {
                None => own,
                Some(rest) => or(own, and(same.clone(), rest)),
            });
            equal = Some(match equal {
                None => same,
                Some(rest) => and(same, rest),
            });
            keys.push(key);
        }
        let (before, equal) = match (before, equal) {
            (Some(before), Some(equal)) => (before, equal),
            _ => return Err(not_here(c)),
        };
        let one = || literal(ScalarValue::Int64(Some(1)));
        let count = |of: Expr, distinct: bool, filter: Option<Expr>| -> Typed {
            let filter = match (filter, &wanted) {
                (Some(f), Some(w)) => Some(and(w.clone(), f)),
                (f, w) => f.or(w.clone()),
            };
            counted(calls, of, distinct, filter)
        };
        let number = |n: Typed| {
            let one = Typed::new(one(), SqlType::Int8);
            self.operator(&B::Plus, n, one)
        };
        let share = |part: Typed, whole: Typed| -> Result<Typed> {
            let float = |t: Typed| self.cast(t, &SqlType::Float8, Context::Explicit);
            let (part, whole) = (float(part)?, float(whole)?);
            let none = Expr::BinaryExpr(datafusion_expr::BinaryExpr::new(
                Box::new(whole.clone()),
                Operator::Eq,
                Box::new(literal(ScalarValue::Float64(Some(0.0)))),
            ));
            let typed = |e| Typed::new(e, SqlType::Float8);
            let quotient = self.operator(&B::Divide, typed(part), typed(whole))?.expr;
            let zero = literal(ScalarValue::Float64(Some(0.0)));
            Ok(typed(when(vec![(none, zero)], quotient)))
        };
        let result = match name {
            "rank" => number(count(one(), false, Some(before))),
            "dense_rank" => {
                let row = self.row_of(keys)?.expr;
                number(count(row, true, Some(before)))
            }
            "percent_rank" => share(count(one(), false, Some(before)), count(one(), false, None)),
            _ => share(
                number(count(one(), false, Some(or(before, equal))))?,
                number(count(one(), false, None))?,
            ),
        }?;
        Ok(with_direct(result, direct))
    }
}

/// Name of the marker of direct arguments, which stands for its first argument: [`super::grouping::Lift`] sees to it that the others are
/// of the group.
pub(super) const DIRECT: &str = "#direct";

fn with_direct(result: Typed, direct: Vec<Expr>) -> Typed {
    let ty = result.ty.clone();
    let args = std::iter::once(result.expr).chain(direct).collect();
    let first = std::sync::Arc::new(|a: &crate::functions::Args| Ok(a.arrays[0].clone()));
    let volatility = datafusion_expr::Volatility::Immutable;
    let e = crate::functions::call(DIRECT, DIRECT.into(), first, volatility, false, args, &ty);
    Typed::new(e, ty)
}

/// A call of count, as what stands for its result.
fn counted(calls: &RefCell<Calls>, of: Expr, distinct: bool, filter: Option<Expr>) -> Typed {
    let call = AggregateFunction::new_udf(
        count_udaf(),
        vec![of],
        distinct,
        filter.map(Box::new),
        vec![],
        None,
    );
    let n = note(calls, Expr::AggregateFunction(call), &SqlType::Int8);
    let marker = Expr::Column(Column::new(Some(AGGREGATE), n.to_string()));
    Typed::new(marker, SqlType::Int8)
}
