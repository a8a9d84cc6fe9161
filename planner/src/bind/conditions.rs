//! Conditions: AND, OR and CASE that evaluate no more than SQL does.
//!
//! Invariant: an operand that can fail is never evaluated for a row that the operands before it have decided.

use datafusion_common::ScalarValue;
use datafusion_expr::expr::{Case, InList, ScalarFunction};
use datafusion_expr::{BinaryExpr, Expr, Operator};
use sqlparser::ast::{self, BinaryOperator as B, Expr as E};
use tidemill_zset::schema::SqlType;

use super::expr::{Ctx, at, null, start};
use super::{Binder, Typed, literal, truth};
use crate::error::{Result, SqlError};

use crate::functions::Function;
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
            super::conditions::chain(bound, operator),
            SqlType::Bool,
        ))
    }

    pub(super) fn in_list(&self, c: Ctx, e: &E, list: &[E], negated: bool) -> Result<Typed> {
        if let Some(l) = super::rows::fields(e) {
            let mut out: Option<Expr> = None;
            for item in list {
                let Some(r) = super::rows::fields(item) else {
                    return Err(SqlError::new(
                        "42601",
                        "IN needs row values of the same length",
                    ));
                };
                let one = self.compare_rows(c, &l, &B::Eq, &r)?.expr;
                out = Some(match out {
                    None => one,
                    Some(o) => or(o, one),
                });
            }
            let out = out.unwrap_or_else(|| truth(false));
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
        let interval = matches!(
            items.iter().find(|t| !t.unknown).map(|t| &t.ty),
            Some(SqlType::Interval)
        );
        if interval || items.len() == 2 {
            let x = items.remove(0);
            let mut out: Option<Expr> = None;
            for i in items {
                let one = self.compare(Operator::Eq, x.clone(), i)?.expr;
                out = Some(out.map_or(one.clone(), |o| or(o, one)));
            }
            let out = out.unwrap_or_else(|| truth(false));
            return Ok(Typed::new(
                if negated { not(out) } else { out },
                SqlType::Bool,
            ));
        }
        let (mut exprs, _) = self.unify(items, "IN")?;
        let x = exprs.remove(0);
        Ok(Typed::new(
            Expr::InList(InList::new(Box::new(x), exprs, negated)),
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
            let cond = self.expr(c, &w.condition)?;
            conds.push(match &operand {
                Some(o) => self.compare(Operator::Eq, o.clone(), cond)?.expr,
                None => self.boolean(cond, "CASE/WHEN")?,
            });
            results.push(self.expr(c, &w.result)?);
        }
        results.push(match otherwise {
            Some(e) => self.expr(c, e)?,
            None => null(),
        });
        let (mut exprs, ty) = self.unify(results, "CASE")?;
        let otherwise = exprs.pop().unwrap_or_else(|| super::null_of(&ty));
        let fallible = conds
            .iter()
            .chain(&exprs)
            .chain([&otherwise])
            .any(is_fallible);
        let branches = conds.into_iter().zip(exprs).collect();
        let e = if fallible && matches!(ty, SqlType::Bool) {
            lazy(branches, otherwise)
        } else {
            when(branches, otherwise)
        };
        Ok(Typed::new(e, ty))
    }
}

/// True if evaluating the expression can fail for some input.
pub(crate) fn is_fallible(e: &Expr) -> bool {
    use datafusion_common::tree_node::TreeNodeRecursion;
    let mut found = false;
    let _ = e.walk(&mut |e| {
        if let Expr::ScalarFunction(ScalarFunction { func, .. }) = e {
            let inner: &dyn std::any::Any = func.inner().as_ref();
            found |= inner.downcast_ref::<Function>().is_none_or(|f| f.fallible);
        }
        Ok(if found {
            TreeNodeRecursion::Stop
        } else {
            TreeNodeRecursion::Continue
        })
    });
    found
}

/// `l AND r`, where `r` isn't evaluated for rows in which `l` is false.
pub(crate) fn and(l: Expr, r: Expr) -> Expr {
    chain(vec![l, r], Operator::And)
}

/// `l OR r`, where `r` isn't evaluated for rows in which `l` is true.
pub(crate) fn or(l: Expr, r: Expr) -> Expr {
    chain(vec![l, r], Operator::Or)
}

/// A chain of ANDs or ORs. Each operand occurs at most twice, however long the chain is.
pub(crate) fn chain(operands: Vec<Expr>, op: Operator) -> Expr {
    let lazily = operands.iter().skip(1).any(is_fallible);
    let last = operands.len().saturating_sub(1);
    let branches = operands[..last]
        .iter()
        .map(|e| match op {
            Operator::And => (Expr::IsFalse(Box::new(e.clone())), truth(false)),
            _ => (Expr::IsTrue(Box::new(e.clone())), truth(true)),
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
    Expr::Case(Case::new(
        None,
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
