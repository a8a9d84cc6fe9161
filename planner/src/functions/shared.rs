//! A value that an expression uses several times, and that stands in the plan once.
//!
//! `coalesce(x, y)` is `CASE WHEN x IS NOT NULL THEN x ELSE y END`. With copies of `x`, each level of nesting doubles the expression. So an `x`
//! that isn't small becomes the argument of a call, and what is made of it the call's body, in which columns stand for the
//! arguments: the value, and after it whatever else of its row the body uses.
//!
//! Invariant: the arguments can be evaluated for every row, as SQL does with the value. What SQL evaluates for some rows
//! only is in the body.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::datatypes::{DataType, FieldRef};
use datafusion_common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion_common::{Column, Result as DfResult};
use datafusion_expr::expr::ScalarFunction;
use datafusion_expr::{
    ColumnarValue, Expr, ExprSchemable, LogicalPlan, ReturnFieldArgs, ScalarFunctionArgs,
    ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use tidemill_zset::schema::SqlType;

use super::body::{Body, rows_of, signature};
use super::can_fail;
use crate::compile::decorrelate::names::subquery_of;
use crate::error::Result;
use crate::functions::time_of;
use crate::tree::Tree;

/// Nodes of an expression that may be copied.
const COPIED_NODES_MAX: usize = 32;
/// Levels of subqueries in it.
const COPIED_SUBQUERIES_MAX: usize = 2;

/// Qualifier of the column that stands for the value while the body is made.
pub(crate) const SHARED: &str = "#shared";

/// What `body` makes of `value`, which may be used there any number of times. `ty`: the type of the result.
pub(crate) fn shared(
    value: Expr,
    ty: &SqlType,
    body: impl FnOnce(Expr) -> Result<Expr>,
) -> Result<Expr> {
    if is_small(&value) {
        return body(value);
    }
    let marker = marker();
    let made = body(Expr::Column(marker.clone()))?;
    Ok(closed(made, &marker, value, Arc::new(ty.field("?", true))))
}

/// Whether copies of the expression cost little, also where each level of nesting makes some.
pub(crate) fn is_small(e: &Expr) -> bool {
    let mut nodes = 0;
    e.any(&mut |e| {
        nodes += 1;
        Ok(nodes > COPIED_NODES_MAX || opened_call(e).is_some())
    })
    .is_ok_and(|large| !large && !has_nested(e, COPIED_SUBQUERIES_MAX))
}

/// Whether subqueries in `e` are nested more than so many levels deep.
fn has_nested(e: &Expr, levels: usize) -> bool {
    let deeper = |plan: &LogicalPlan| {
        let mut exprs = plan.expressions().into_iter();
        Ok(exprs.any(|e| has_nested(&e, levels - 1)))
    };
    e.any(&mut |e| match subquery_of(e) {
        Some(s) => Ok(levels == 0 || s.subquery.any(&mut |plan| deeper(plan))?),
        None => Ok(false),
    })
    .unwrap_or(true)
}

/// Whether the expression is such a call.
pub(crate) fn is_shared(e: &Expr) -> bool {
    opened_call(e).is_some()
}

/// The call as its value, the column that stands for it in the body, and the body.
pub(crate) fn opened(e: &Expr) -> Option<(Expr, Column, Expr, FieldRef)> {
    let (call, args) = opened_call(e)?;
    let marker = marker();
    let mut inside = args.to_vec();
    inside[0] = Expr::Column(marker.clone());
    let body = call.body.over(&inside);
    Some((args[0].clone(), marker, body, call.ret.clone()))
}

/// The opposite of [`opened`].
pub(crate) fn closed(body: Expr, marker: &Column, value: Expr, ret: FieldRef) -> Expr {
    let (mut uses, mut visible) = (0, false);
    body.walk(&mut |e| {
        match e {
            Expr::Column(c) if c == marker => uses += 1,
            // Subqueries become joins, and volatile functions are refused by name: both must be seen.
            Expr::ScalarFunction(f) if f.func.signature().volatility != Volatility::Immutable => {
                visible |= time_of(e).is_none();
            }
            e => visible |= subquery_of(e).is_some(),
        }
        Ok(TreeNodeRecursion::Continue)
    })
    .expect("looking can't fail");
    if uses < 2 || visible || is_small(&value) {
        let replaced = body.change_up(&mut |e| {
            Ok(match &e {
                Expr::Column(c) if c == marker => Transformed::yes(value.clone()),
                _ => Transformed::no(e),
            })
        });
        return replaced.expect("replacing columns can't fail").data;
    }
    // The marker's place is the value's.
    let mut args = vec![Expr::Column(marker.clone())];
    let body = Body::new(body, &mut args, &|_| false);
    args[0] = value;
    let call = Shared {
        name: format!("shared[{body}]"),
        fallible: body.is_fallible(),
        body,
        ret,
        signature: signature(),
    };
    let function = Arc::new(ScalarUDF::new_from_impl(call));
    Expr::ScalarFunction(ScalarFunction::new_udf(function, args))
}

/// A column that stands for a value and is in no other expression.
fn marker() -> Column {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    Column::new(Some(SHARED), n.to_string())
}

/// Whether evaluating the expression can fail.
pub(crate) fn can_fail_anywhere(e: &Expr) -> bool {
    let fails = |e: &Expr| matches!(e, Expr::ScalarFunction(f) if can_fail(&f.func));
    e.any(&mut |e| Ok(fails(e))).unwrap_or(true)
}

/// Whether an expression of the node, whose inputs are given, can fail for a value of another kind than one that is too large for its type: by
/// a division by zero, or for a text that is no number.
pub(crate) fn can_fail_for_some_value(e: &Expr, inputs: &[&LogicalPlan]) -> bool {
    let is_number = |e: &Expr| {
        let ty = inputs.iter().find_map(|i| e.get_type(i.schema()).ok());
        ty.is_some_and(|t| t.is_numeric())
    };
    let fails = |e: &Expr| match e {
        Expr::ScalarFunction(f) if can_fail(&f.func) => match f.func.name() {
            "+" | "-" | "*" | "abs" => false,
            "smallint" | "integer" | "bigint" | "real" => !f.args.iter().all(is_number),
            name => !(name.starts_with("numeric") && f.args.iter().all(is_number)),
        },
        _ => false,
    };
    e.any(&mut |e| Ok(fails(e))).unwrap_or(true)
}

fn opened_call(e: &Expr) -> Option<(&Shared, &[Expr])> {
    let Expr::ScalarFunction(f) = e else {
        return None;
    };
    let inner: &dyn std::any::Any = f.func.inner().as_ref();
    Some((inner.downcast_ref::<Shared>()?, &f.args))
}

/// The function that is called.
pub(super) struct Shared {
    name: String,
    body: Body,
    ret: FieldRef,
    /// The body can fail.
    pub(super) fallible: bool,
    signature: Signature,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "shared[{:?}]", self.body)
    }
}

impl PartialEq for Shared {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.ret == other.ret && self.body == other.body
    }
}

impl Eq for Shared {}

impl Hash for Shared {
    fn hash<H: Hasher>(&self, h: &mut H) {
        self.name.hash(h);
    }
}

impl ScalarUDFImpl for Shared {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        Ok(self.ret.data_type().clone())
    }

    fn return_field_from_args(&self, _: ReturnFieldArgs) -> DfResult<FieldRef> {
        Ok(self.ret.clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let out = self.body.evaluate(&rows_of(args)?, self.ret.data_type())?;
        Ok(ColumnarValue::Array(out))
    }
}

#[cfg(test)]
mod tests {
    use datafusion_expr::{lit, when};

    use super::*;

    /// `coalesce` by a CASE, nested in its first argument.
    fn nested(depth: usize) -> Expr {
        (0..depth).fold(datafusion_expr::col("a"), |e, _| {
            let or_two = |e: Expr| {
                let otherwise = lit(2i32);
                Ok(when(e.clone().is_not_null(), e)
                    .otherwise(otherwise)
                    .expect("a CASE"))
            };
            shared(e, &SqlType::Int4, or_two).expect("bound")
        })
    }

    fn nodes(e: &Expr) -> usize {
        let mut count = 0;
        e.walk(&mut |e| {
            count += 1;
            if let Some((call, _)) = opened_call(e) {
                count += nodes(&call.body.expr);
            }
            Ok(TreeNodeRecursion::Continue)
        })
        .expect("counted");
        count
    }

    #[test]
    fn nested_values_grow_by_what_each_level_adds() {
        let (ten, twenty, thirty) = (nodes(&nested(10)), nodes(&nested(20)), nodes(&nested(30)));
        assert_eq!(thirty - twenty, twenty - ten);
        assert!(thirty < 400, "{thirty} nodes");
    }

    #[test]
    fn an_opened_call_closes_to_itself() {
        let e = nested(10);
        let (value, marker, body, ret) = opened(&e).expect("a shared value");
        assert!(body.column_refs().contains(&marker));
        assert_eq!(closed(body, &marker, value, ret), e);
    }
}
