//! `a IS DISTINCT FROM b AND c`: sqlparser takes all of `b AND c` for the right operand. Here such chains are put together
//! again by the precedence of NOT, AND and OR. And a sign binds before `^`. Operators in front of others get parentheses in between: what is
//! written anew of a definition has no blank there, and `- -x` would become a comment, `@ -x` another operator.

use std::ops::ControlFlow;

use sqlparser::ast::{BinaryOperator, CastKind, Expr, Ident, UnaryOperator, VisitMut, VisitorMut};
use sqlparser::tokenizer::Token;

/// Repairs all expressions in `node`.
pub(super) fn repair(node: &mut impl VisitMut) {
    crate::walk::change(node, &mut Repair);
}

struct Repair;

impl VisitorMut for Repair {
    type Break = ();

    // From the top: a chain is repaired as a whole, where it begins.
    fn pre_visit_expr(&mut self, e: &mut Expr) -> ControlFlow<()> {
        if swallows(e) {
            let whole = std::mem::replace(e, Expr::Identifier(Ident::new("")));
            let mut chain = Chain::default();
            chain.take(whole);
            *e = chain.tree();
        }
        if signs_a_power(e) {
            sign_first(e);
        }
        if let Expr::UnaryOp { op, expr } = e
            && *op != UnaryOperator::Not
            && begins_with_operator(expr)
        {
            let operand = std::mem::replace(expr.as_mut(), Expr::Identifier(Ident::new("")));
            **expr = Expr::Nested(Box::new(operand));
        }
        ControlFlow::Continue(())
    }
}

/// Whether an operator of this token may stand before its only operand.
pub(super) fn may_be_prefix(token: &Token) -> bool {
    matches!(
        token,
        Token::Minus
            | Token::Plus
            | Token::Tilde
            | Token::AtSign
            | Token::PGSquareRoot
            | Token::PGCubeRoot
    )
}

/// Whether the first token of the expression is an operator.
fn begins_with_operator(e: &Expr) -> bool {
    let mut first = e;
    loop {
        first = match first {
            Expr::UnaryOp { op, .. } => return *op != UnaryOperator::Not,
            Expr::BinaryOp { left, .. } => left,
            Expr::Cast {
                kind: CastKind::DoubleColon,
                expr,
                ..
            } => expr,
            _ => return false,
        };
    }
}

/// `-a ^ b`, which sqlparser takes for `-(a ^ b)`.
fn signs_a_power(e: &Expr) -> bool {
    matches!(e, Expr::UnaryOp { op: UnaryOperator::Minus | UnaryOperator::Plus, expr }
        if matches!(expr.as_ref(), Expr::BinaryOp { op: BinaryOperator::PGExp, .. }))
}

/// Gives the sign to the first of the powers' operands.
fn sign_first(e: &mut Expr) {
    let nothing = || Expr::Identifier(Ident::new(""));
    let Expr::UnaryOp { op, expr } = std::mem::replace(e, nothing()) else {
        return;
    };
    *e = *expr;
    let mut first = e;
    while let Expr::BinaryOp {
        left,
        op: BinaryOperator::PGExp,
        ..
    } = first
    {
        first = left;
    }
    let operand = std::mem::replace(first, nothing());
    *first = Expr::UnaryOp {
        op,
        expr: Box::new(operand),
    };
}

/// Whether the last operand of the chain that `e` is has taken what comes after it.
fn swallows(e: &Expr) -> bool {
    let mut at = e;
    loop {
        at = match at {
            Expr::BinaryOp {
                op: BinaryOperator::And | BinaryOperator::Or,
                right,
                ..
            } => right,
            Expr::UnaryOp {
                op: UnaryOperator::Not,
                expr,
            } => expr,
            Expr::IsDistinctFrom(_, right) | Expr::IsNotDistinctFrom(_, right) => {
                if matches!(
                    right.as_ref(),
                    Expr::BinaryOp {
                        op: BinaryOperator::And | BinaryOperator::Or,
                        ..
                    }
                ) {
                    return true;
                }
                right
            }
            _ => return false,
        };
    }
}

/// Operands with what stands between them.
#[derive(Default)]
struct Chain {
    operands: Vec<Expr>,
    /// Before each operand but the first: AND, or else OR.
    ands: Vec<bool>,
}

impl Chain {
    /// Appends the operands of `e`, in the order in which they are written.
    fn take(&mut self, e: Expr) {
        match e {
            Expr::BinaryOp { left, op, right }
                if matches!(op, BinaryOperator::And | BinaryOperator::Or) =>
            {
                self.take(*left);
                self.ands.push(op == BinaryOperator::And);
                self.take(*right);
            }
            Expr::UnaryOp {
                op: UnaryOperator::Not,
                expr,
            } => self.take_first(*expr, |expr| Expr::UnaryOp {
                op: UnaryOperator::Not,
                expr: Box::new(expr),
            }),
            Expr::IsDistinctFrom(left, right) => {
                self.take_first(*right, |right| Expr::IsDistinctFrom(left, Box::new(right)))
            }
            Expr::IsNotDistinctFrom(left, right) => self.take_first(*right, |right| {
                Expr::IsNotDistinctFrom(left, Box::new(right))
            }),
            e => self.operands.push(e),
        }
    }

    /// The operands of `e`, of which `outer` belongs to the first.
    fn take_first(&mut self, e: Expr, outer: impl FnOnce(Expr) -> Expr) {
        let first = self.operands.len();
        self.take(e);
        let operand = self.operands.remove(first);
        self.operands.insert(first, outer(operand));
    }

    /// The tree in which AND binds before OR.
    fn tree(self) -> Expr {
        let join = |left: Expr, op: BinaryOperator, right: Expr| Expr::BinaryOp {
            left: Box::new(left),
            op,
            right: Box::new(right),
        };
        let mut operands = self.operands.into_iter();
        let mut all: Option<Expr> = None;
        let mut group = operands.next();
        for (and, operand) in self.ands.into_iter().zip(operands) {
            group = Some(match (group.take(), and) {
                (Some(g), true) => join(g, BinaryOperator::And, operand),
                (g, _) => {
                    all = match (all.take(), g) {
                        (Some(a), Some(g)) => Some(join(a, BinaryOperator::Or, g)),
                        (a, g) => a.or(g),
                    };
                    operand
                }
            });
        }
        match (all, group) {
            (Some(a), Some(g)) => join(a, BinaryOperator::Or, g),
            (a, g) => a.or(g).expect("a chain has an operand"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse_expr;
    use super::Expr;

    /// With parentheses around everything.
    fn shape(e: &Expr) -> String {
        match e {
            Expr::Nested(e) => shape(e),
            Expr::BinaryOp { left, op, right } => {
                format!("({} {op} {})", shape(left), shape(right))
            }
            Expr::UnaryOp { op, expr } => format!("({op} {})", shape(expr)),
            Expr::IsDistinctFrom(l, r) => format!("({} <d> {})", shape(l), shape(r)),
            Expr::IsNotDistinctFrom(l, r) => format!("({} <n> {})", shape(l), shape(r)),
            e => e.to_string(),
        }
    }

    #[test]
    fn is_distinct_from_binds_before_and() {
        for (given, meant) in [
            ("a IS DISTINCT FROM b AND c", "(a IS DISTINCT FROM b) AND c"),
            (
                "x AND a IS NOT DISTINCT FROM b OR c",
                "(x AND (a IS NOT DISTINCT FROM b)) OR c",
            ),
            (
                "NOT a IS DISTINCT FROM b OR c",
                "(NOT (a IS DISTINCT FROM b)) OR c",
            ),
            (
                "a IS DISTINCT FROM b OR c AND d IS DISTINCT FROM e AND f",
                "(a IS DISTINCT FROM b) OR ((c AND (d IS DISTINCT FROM e)) AND f)",
            ),
            (
                "a IS DISTINCT FROM (b AND c)",
                "a IS DISTINCT FROM (b AND c)",
            ),
        ] {
            let shape = |sql: &str| shape(&parse_expr(sql).expect("it is SQL"));
            assert_eq!(shape(given), shape(meant), "{given}");
        }
    }

    #[test]
    fn what_is_written_anew_means_the_same() {
        for sql in [
            "- -x",
            "- - -x",
            "@ -x",
            "@ @x",
            "~ -x",
            "|/ @x",
            "- -x + 1",
            "@ -x + - -1",
            "- -x ^ 2",
            "- -x::int",
            "y > - -2 AND NOT - -x = @ -1",
        ] {
            let given = parse_expr(sql).expect("it is SQL");
            let written = given.to_string();
            let again = parse_expr(&written).unwrap_or_else(|e| panic!("{written}: {e:?}"));
            assert_eq!(shape(&again), shape(&given), "{sql} as {written}");
        }
    }
}
