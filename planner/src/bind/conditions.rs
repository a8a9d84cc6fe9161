//! Conditions: AND, OR and CASE that evaluate no more than SQL does.
//!
//! Invariant: an operand that can fail is never evaluated for a row that the operands before it have decided.

use datafusion_common::ScalarValue;
use datafusion_expr::expr::{Case, InList, ScalarFunction};
use datafusion_expr::{BinaryExpr, Expr, Operator, Volatility};
use sqlparser::ast::{self, BinaryOperator as B, Expr as E};
use tidemill_zset::schema::SqlType;

use super::expr::{Ctx, Truth, at, null, start};
use super::{Binder, Typed, literal, truth};
use crate::compile::decorrelate::names::subquery_of;
use crate::error::{Result, SqlError};

use crate::functions::can_fail;
use crate::functions::shared::{can_fail_anywhere, is_small, shared};
use crate::tree::Tree;

impl Binder<'_> {
    /// A boolean expression.
    pub(crate) fn condition(&self, c: Ctx, e: &E) -> Result<Expr> {
        let t = self.expr(c, e)?;
        self.boolean(t, c.clause).map_err(|err| at(err, start(e)))
    }

    pub(super) fn is_truth(
        &self,
        c: Ctx,
        e: &E,
        what: &str,
        f: impl Fn(Expr) -> Expr,
    ) -> Result<Typed> {
        let t = self.expr(c, e)?;
        let e = self.boolean(t, what)?;
        Ok(Typed::new(f(e), SqlType::Bool))
    }

    /// AND and OR: a chain of one of them is bound from left to right, without recursion.
    pub(super) fn logical(&self, c: Ctx, left: &E, op: &B, right: &E) -> Result<Typed> {
        let (name, operator) = match op {
            B::And => ("AND", Operator::And),
            _ => ("OR", Operator::Or),
        };
        let mut operands = vec![right];
        let mut at = left;
        while let E::BinaryOp { left, op: o, right } = at
            && o == op
        {
            operands.push(right);
            at = left;
        }
        operands.push(at);
        let bound = operands
            .into_iter()
            .rev()
            .map(|e| self.expr(c, e).and_then(|t| self.boolean(t, name)))
            .collect::<Result<Vec<_>>>()?;
        Ok(Typed::new(
            chain_for(bound, operator, c.truth),
            SqlType::Bool,
        ))
    }

    pub(super) fn in_list(&self, c: Ctx, e: &E, list: &[E], negated: bool) -> Result<Typed> {
        if let Some(l) = super::rows::fields(e) {
            let mut any = Vec::with_capacity(list.len());
            for item in list {
                let Some(r) = super::rows::fields(item) else {
                    return Err(SqlError::new(
                        "42601",
                        "IN needs row values of the same length",
                    ));
                };
                any.push(self.compare_rows(c, &l, &B::Eq, &r)?.expr);
            }
            let out = match any.is_empty() {
                true => truth(false),
                false => chain(any, Operator::Or),
            };
            return Ok(Typed::new(
                if negated { not(out) } else { out },
                SqlType::Bool,
            ));
        }
        let x = self.expr(c, e)?;
        let mut items = self.exprs(c, list)?;
        items.insert(0, x);
        let known = items.iter().find(|t| !t.unknown).map(|t| t.type_name());
        let bad = items.iter().find(|t| {
            !t.unknown
                && known.is_some()
                && super::types::common(&items.iter().find(|o| !o.unknown).unwrap_or(t).ty, &t.ty)
                    .is_none()
        });
        if let Some(b) = bad {
            return Err(super::operators::no_operator(
                "=",
                &known.unwrap_or_default(),
                &b.type_name(),
            ));
        }
        // One value is compared as by `=`, several are of one type with `e`.
        let by_key = matches!(
            items.iter().find(|t| !t.unknown).map(|t| &t.ty),
            Some(SqlType::Interval | SqlType::Jsonb | SqlType::Char(_))
        );
        if by_key || items.len() == 2 {
            let x = items.remove(0);
            let out = x.shared(&SqlType::Bool, |x| {
                let equal = items.into_iter();
                let equal = equal.map(|i| Ok(self.compare(Operator::Eq, x.clone(), i)?.expr));
                Ok(chain(equal.collect::<Result<_>>()?, Operator::Or))
            })?;
            return Ok(Typed::new(
                if negated { not(out) } else { out },
                SqlType::Bool,
            ));
        }
        let (mut exprs, ty) = self.unify(items, "IN")?;
        let x = exprs.remove(0);
        // As in PostgreSQL only constants form a list. DataFusion takes for a constant what gives one for no rows, as a CASE may.
        let (varying, fixed): (Vec<_>, Vec<_>) = exprs.into_iter().partition(varies);
        if varying.is_empty() {
            return Ok(Typed::new(
                Expr::InList(InList::new(Box::new(x), fixed, negated)),
                SqlType::Bool,
            ));
        }
        let found = shared(x, &SqlType::Bool, |x| {
            let mut any = vec![];
            if !fixed.is_empty() {
                any.push(Expr::InList(InList::new(Box::new(x.clone()), fixed, false)));
            }
            for item in varying {
                let (x, item) = (
                    Typed::new(x.clone(), ty.clone()),
                    Typed::new(item, ty.clone()),
                );
                any.push(self.compare(Operator::Eq, x, item)?.expr);
            }
            Ok(chain(any, Operator::Or))
        })?;
        Ok(Typed::new(
            if negated { not(found) } else { found },
            SqlType::Bool,
        ))
    }

    pub(super) fn case(
        &self,
        c: Ctx,
        operand: Option<&E>,
        conditions: &[ast::CaseWhen],
        otherwise: Option<&E>,
    ) -> Result<Typed> {
        let c = c.one_value("CASE");
        let operand = operand.map(|o| self.expr(c, o)).transpose()?;
        let (mut conds, mut results) = (Vec::new(), Vec::new());
        for w in conditions {
            conds.push(self.expr(c, &w.condition)?);
            results.push(self.expr(c, &w.result)?);
        }
        results.push(match otherwise {
            Some(e) => self.expr(c, e)?,
            None => null(),
        });
        let (mut exprs, ty) = self.unify(results, "CASE")?;
        let otherwise = exprs.pop().unwrap_or_else(|| super::null_of(&ty));
        let branches = |conds: Result<Vec<Expr>>| Ok(cases(conds?, exprs, otherwise, &ty));
        let e = match operand {
            None => {
                let conds = conds.into_iter();
                branches(conds.map(|t| self.boolean(t, "CASE/WHEN")).collect())
            }
            Some(o) => o.shared(&ty, |o| {
                let conds = conds.into_iter();
                let equal = conds.map(|t| self.compare(Operator::Eq, o.clone(), t));
                branches(equal.map(|t| Ok(t?.expr)).collect())
            }),
        };
        Ok(Typed::new(e?, ty))
    }
}

/// A CASE that is evaluated as SQL does, whatever DataFusion would make of it.
pub(super) fn cases(conds: Vec<Expr>, results: Vec<Expr>, otherwise: Expr, ty: &SqlType) -> Expr {
    let outcomes = || results.iter().chain([&otherwise]);
    let constants = outcomes().all(|e| matches!(e, Expr::Literal(..)));
    let boolean = matches!(ty, SqlType::Bool);
    let fallible = conds.iter().chain(outcomes()).any(is_fallible);
    // Of a CASE that gives truth values, or constants that are compared, it makes ANDs and ORs of all conditions, each several times.
    let large = !conds.iter().all(is_small);
    let whole = match constants {
        true => large || conds.iter().skip(1).any(is_fallible),
        false => large && boolean && !fallible,
    };
    let branches = conds.into_iter().zip(results).collect();
    if whole {
        case_of(truth(true), branches, otherwise)
    } else if boolean && fallible {
        lazy(branches, otherwise)
    } else {
        when(branches, otherwise)
    }
}

/// Whether the value may be another one for another row.
pub(super) fn varies(e: &Expr) -> bool {
    let varies = |e: &Expr| {
        let leaf = matches!(
            e,
            Expr::Column(_) | Expr::OuterReferenceColumn(..) | Expr::AggregateFunction(_)
        );
        leaf || subquery_of(e).is_some()
    };
    e.any(&mut |e| Ok(varies(e))).unwrap_or(true)
}

/// True if evaluating the expression can fail for some input. A call of constants, such as `1 + 10`, is looked at by itself.
pub(crate) fn is_fallible(e: &Expr) -> bool {
    use datafusion_common::tree_node::TreeNodeRecursion;
    let mut found = false;
    let _ = e.walk(&mut |e| {
        if let Expr::ScalarFunction(ScalarFunction { func, .. }) = e
            && can_fail(func)
        {
            if is_constant(e) && super::dml::fold_constant(e).is_some() {
                return Ok(TreeNodeRecursion::Jump);
            }
            found = true;
        }
        Ok(if found {
            TreeNodeRecursion::Stop
        } else {
            TreeNodeRecursion::Continue
        })
    });
    found
}

/// Whether the expression is made of constants and functions that always give the same of them.
fn is_constant(e: &Expr) -> bool {
    let varies = |e: &Expr| match e {
        Expr::Literal(..) | Expr::Cast(_) => false,
        Expr::ScalarFunction(f) => f.func.signature().volatility != Volatility::Immutable,
        _ => true,
    };
    e.any(&mut |e| Ok(varies(e))).is_ok_and(|varies| !varies)
}

/// `l AND r`, where `r` isn't evaluated for rows in which `l` is false.
pub(crate) fn and(l: Expr, r: Expr) -> Expr {
    chain(vec![l, r], Operator::And)
}

/// `l OR r`, where `r` isn't evaluated for rows in which `l` is true.
pub(crate) fn or(l: Expr, r: Expr) -> Expr {
    chain(vec![l, r], Operator::Or)
}

/// A chain of ANDs or ORs. Each operand occurs at most twice, however long the chain is, and once if it isn't small.
pub(crate) fn chain(operands: Vec<Expr>, op: Operator) -> Expr {
    chain_for(operands, op, Truth::Value)
}

/// A chain of which no more than `truth` matters.
fn chain_for(mut operands: Vec<Expr>, op: Operator, truth: Truth) -> Expr {
    let lazily = operands.iter().skip(1).any(is_fallible);
    let last = operands.len().saturating_sub(1);
    if lazily && !operands[..last].iter().all(is_small) {
        let right = operands.split_off(operands.len() / 2);
        let (left, right) = (chain_for(operands, op, truth), chain_for(right, op, truth));
        return match truth {
            Truth::Value => {
                let both = |left| Ok(chain_of_small(vec![left, right], op, truth, true));
                shared(left, &SqlType::Bool, both).expect("making a chain can't fail")
            }
            _ if op == Operator::And => lazy(vec![(left, right)], self::truth(false)),
            _ => lazy(vec![(left, self::truth(true))], right),
        };
    }
    chain_of_small(operands, op, truth, lazily)
}

/// A chain in which each operand but the last occurs twice, if it must be evaluated `lazily`.
fn chain_of_small(operands: Vec<Expr>, op: Operator, truth: Truth, lazily: bool) -> Expr {
    let last = operands.len().saturating_sub(1);
    let branches = operands[..last]
        .iter()
        .map(|e| match (op, truth) {
            (Operator::And, Truth::Value) => {
                (Expr::IsFalse(Box::new(e.clone())), self::truth(false))
            }
            // Where NULL is as good as false it decides as well.
            (Operator::And, _) => (Expr::IsNotTrue(Box::new(e.clone())), self::truth(false)),
            _ => (Expr::IsTrue(Box::new(e.clone())), self::truth(true)),
        })
        .collect::<Vec<_>>();
    let all = balanced(operands, op);
    if lazily { lazy(branches, all) } else { all }
}

/// One tree of the operands, as flat as can be: whatever walks it needs little stack.
pub(crate) fn balanced(mut operands: Vec<Expr>, op: Operator) -> Expr {
    while operands.len() > 1 {
        let mut next = Vec::with_capacity(operands.len().div_ceil(2));
        let mut it = operands.into_iter();
        while let Some(l) = it.next() {
            next.push(match it.next() {
                Some(r) => Expr::BinaryExpr(BinaryExpr::new(Box::new(l), op, Box::new(r))),
                None => l,
            });
        }
        operands = next;
    }
    operands.pop().unwrap_or_else(|| truth(op == Operator::And))
}

/// CASE WHEN … ELSE … END
pub(crate) fn when(branches: Vec<(Expr, Expr)>, otherwise: Expr) -> Expr {
    case(None, branches, otherwise)
}

/// `e`, or `otherwise` where it is NULL.
pub(crate) fn first(e: Expr, otherwise: Expr) -> Expr {
    when(vec![(Expr::IsNotNull(Box::new(e.clone())), e)], otherwise)
}

/// CASE … WHEN … ELSE … END
fn case_of(operand: Expr, branches: Vec<(Expr, Expr)>, otherwise: Expr) -> Expr {
    case(Some(Box::new(operand)), branches, otherwise)
}

fn case(operand: Option<Box<Expr>>, branches: Vec<(Expr, Expr)>, otherwise: Expr) -> Expr {
    Expr::Case(Case::new(
        operand,
        branches
            .into_iter()
            .map(|(c, r)| (Box::new(c), Box::new(r)))
            .collect(),
        Some(Box::new(otherwise)),
    ))
}

/// A CASE that gives a boolean and stays a CASE: DataFusion would make AND and OR of it, which evaluate everything.
pub(crate) fn lazy(branches: Vec<(Expr, Expr)>, otherwise: Expr) -> Expr {
    let number = |e: Expr| {
        Expr::Cast(datafusion_expr::Cast::new(
            Box::new(e),
            arrow::datatypes::DataType::Int32,
        ))
    };
    let branches = branches.into_iter().map(|(c, r)| (c, number(r))).collect();
    let one = literal(ScalarValue::Int32(Some(1)));
    Expr::BinaryExpr(BinaryExpr::new(
        Box::new(when(branches, number(otherwise))),
        Operator::Eq,
        Box::new(one),
    ))
}

/// NOT
pub(crate) fn not(e: Expr) -> Expr {
    Expr::Not(Box::new(e))
}

/// What an aggregate computes of a row is computed before rows are filtered: where it can fail, only for those that pass.
pub(super) fn guard<'e>(filter: &Option<Box<Expr>>, computed: impl Iterator<Item = &'e mut Expr>) {
    let Some(filter) = filter else { return };
    for e in computed.filter(|e| can_fail_anywhere(e)) {
        let passes = (filter.clone(), Box::new(e.clone()));
        *e = Expr::Case(Case::new(None, vec![passes], None));
    }
}
