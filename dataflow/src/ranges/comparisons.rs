//! Reading a condition: which of its ANDs compare one side of a join with the other.

use std::sync::Arc;

use arrow::datatypes::{DataType, Schema};
use datafusion_common::ScalarValue;
use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_expr::Operator;
use datafusion_physical_expr::expressions::{BinaryExpr, CaseExpr, CastExpr, Column, Literal};
use datafusion_physical_expr::utils::collect_columns;

use super::codes::is_exact;
use super::{Expr, SideOf};

/// What a condition says, read as ANDs.
pub(super) struct Comparisons<'e> {
    pub parts: Vec<&'e Expr>,
    /// By part: the comparison of both sides that it is.
    pub each: Vec<Option<Comparison<'e>>>,
    /// The parts are all there is to it.
    pub all_known: bool,
}

/// A comparison between both sides.
pub(super) struct Comparison<'e> {
    /// What stands on each side.
    pub sides: [&'e Expr; 2],
    /// Of the first with the second.
    op: Operator,
}

/// The same, of a value of one side with one of the other.
pub(super) struct Compared<'e> {
    pub key: &'e Expr,
    pub value: &'e Expr,
    pub op: Operator,
}

/// A comparison of a key of the searched side with a value of the probing side.
#[derive(Debug)]
pub(super) struct Limit {
    /// Over the columns of the probing side.
    pub value: Expr,
    /// Of the key with the value: `<`, `<=`, `>`, `>=` or `=`.
    pub op: Operator,
}

impl<'e> Comparisons<'e> {
    /// `None`: the condition is volatile.
    pub fn of(condition: &'e Expr, schema: &Schema, side_of: SideOf) -> Option<Self> {
        let volatile = condition.exists(&mut |e: &Expr| Ok(e.is_volatile_node()));
        if !volatile.is_ok_and(|volatile| !volatile) {
            return None;
        }
        let mut parts = vec![];
        let all_known = conjuncts(condition, &mut parts);
        let each = parts.iter().map(|e| comparison(e, schema, side_of));
        Some(Comparisons {
            each: each.collect(),
            parts,
            all_known,
        })
    }

    /// By part, what it compares of a side, 0 or 1.
    pub fn of_side(&self, side: usize) -> Vec<Option<Compared<'e>>> {
        let of = |c: &Comparison<'e>| {
            Some(Compared {
                key: c.sides[side],
                value: c.sides[1 - side],
                op: if side == 0 { c.op } else { c.op.swap()? },
            })
        };
        let each = self.each.iter();
        each.map(|c| c.as_ref().and_then(of)).collect()
    }
}

impl Compared<'_> {
    /// Whether the value is an upper end.
    pub fn is_upper(&self) -> bool {
        matches!(self.op, Operator::Lt | Operator::LtEq)
    }

    /// Whether both compare the same, each in one and the same direction.
    pub fn is_alike(&self, other: &Compared) -> bool {
        let one_way = self.op != Operator::Eq && other.op != Operator::Eq;
        one_way && self.key == other.key && self.is_upper() == other.is_upper()
    }

    /// Whether different values have different codes.
    pub fn is_exact(&self, schema: &Schema) -> bool {
        self.key.data_type(schema).is_ok_and(|ty| is_exact(&ty))
    }

    /// With the value over the columns of its side.
    pub fn limit(&self, side_of: SideOf) -> Limit {
        Limit {
            value: renumbered(self.value, side_of),
            op: self.op,
        }
    }
}

/// Types of which DataFusion and [`Order`](super::Order) have the same order.
pub fn is_ordered(ty: &DataType) -> bool {
    use DataType::*;
    matches!(
        ty,
        Boolean
            | Int16
            | Int32
            | Int64
            | Float32
            | Float64
            | Decimal128(..)
            | Utf8View
            | Date32
            | Time64(_)
            | Timestamp(..)
    )
}

/// The comparison of one side with the other that `e` is, if it is one.
fn comparison<'e>(e: &'e Expr, schema: &Schema, side_of: SideOf) -> Option<Comparison<'e>> {
    let e = e.downcast_ref::<BinaryExpr>()?;
    let op = *e.op();
    let ty = e.left().data_type(schema).ok()?;
    if !is_ordered(&ty) || e.right().data_type(schema).ok()? != ty {
        return None;
    }
    let compares = matches!(
        op,
        Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq | Operator::Eq
    );
    let side = |e: &Expr| {
        let columns = collect_columns(e);
        let mut sides = columns.iter().map(|c| side_of(c.index()).0);
        let first = sides.next()?;
        sides.all(|side| side == first).then_some(first)
    };
    let sides = compares.then_some((side(e.left())?, side(e.right())?))?;
    Some(match sides {
        (0, 1) => Comparison {
            sides: [e.left(), e.right()],
            op,
        },
        (1, 0) => Comparison {
            sides: [e.right(), e.left()],
            op: op.swap()?,
        },
        _ => return None,
    })
}

/// The operands of a condition's ANDs, also of those that are written as a CASE, so that an operand is evaluated only where those before it
/// are true. False: there may be more to it than they say.
fn conjuncts<'e>(condition: &'e Expr, parts: &mut Vec<&'e Expr>) -> bool {
    if let Some(binary) = condition.downcast_ref::<BinaryExpr>() {
        if *binary.op() == Operator::And {
            let left = conjuncts(binary.left(), parts);
            return conjuncts(binary.right(), parts) && left;
        }
        let case = binary.left().downcast_ref::<CaseExpr>();
        let case = case.filter(|case| case.expr().is_none());
        let is_one = literal(binary.right()) == Some(&ScalarValue::Int32(Some(1)));
        if let (Some(case), Operator::Eq, true) = (case, binary.op(), is_one) {
            return of_case(case, parts);
        }
    }
    parts.push(condition);
    true
}

/// The same for a CASE that gives a boolean as a number.
fn of_case<'e>(case: &'e CaseExpr, parts: &mut Vec<&'e Expr>) -> bool {
    let is_zero = |e: &Expr| literal(e) == Some(&ScalarValue::Int32(Some(0)));
    let known = parts.len();
    match (case.when_then_expr(), case.else_expr()) {
        // Where the first is true, the second.
        ([(first, second)], Some(otherwise)) if is_zero(otherwise) => {
            let first = conjuncts(first, parts);
            outcome(second, parts) && first
        }
        // Unless the first is false, both.
        ([(is_false, zero)], Some(both)) if is_zero(zero) => {
            let all_known = outcome(both, parts);
            let excluded = is_false.downcast_ref::<BinaryExpr>().is_some_and(|e| {
                let mut first = vec![];
                let falsehood = literal(e.right()) == Some(&ScalarValue::Boolean(Some(false)));
                let compares = *e.op() == Operator::IsNotDistinctFrom;
                let all = conjuncts(e.left(), &mut first);
                let mut first = first.into_iter();
                compares && falsehood && all && first.all(|e| parts[known..].contains(&e))
            });
            all_known && excluded
        }
        _ => false,
    }
}

/// The same for a boolean as a number.
fn outcome<'e>(number: &'e Expr, parts: &mut Vec<&'e Expr>) -> bool {
    match number.downcast_ref::<CastExpr>() {
        Some(cast) => conjuncts(cast.expr(), parts),
        None => false,
    }
}

fn literal(e: &Expr) -> Option<&ScalarValue> {
    e.downcast_ref::<Literal>().map(Literal::value)
}

/// The expression over the columns of its side.
pub(super) fn renumbered(e: &Expr, side_of: SideOf) -> Expr {
    let column = |e: Expr| {
        Ok(match e.downcast_ref::<Column>() {
            Some(c) => {
                let column: Expr = Arc::new(Column::new(c.name(), side_of(c.index()).1));
                Transformed::yes(column)
            }
            None => Transformed::no(e),
        })
    };
    let found = Arc::clone(e).transform_down(column);
    found.expect("renumbering columns can't fail").data
}
