//! `x = ANY (list)` and `x <> ALL (list)` of a list that is known, as `x IN (…)` and `x NOT IN (…)`: an IN is looked up in a set, and
//! finds rows by a key.

use arrow::array::Array;
use arrow::datatypes::DataType;
use datafusion_common::ScalarValue;
use datafusion_expr::Expr;
use datafusion_expr::expr::InList;

use crate::bind::dml::fold_constant;

/// Elements up to which a list is taken apart: each is an expression in the plan.
const ELEMENTS_MAX: usize = 10_000;

/// The comparison as an IN, where it is one and values of its type are equal as IN takes it.
pub(crate) fn as_in_list(e: Expr) -> Expr {
    let Expr::ScalarFunction(f) = &e else {
        return e;
    };
    let negated = match f.name() {
        "any_eq" => false,
        "all_ne" => true,
        _ => return e,
    };
    // Which are texts, equal where they don't look so.
    if super::key_of(&f.func).is_none_or(|key| key.contains("json")) {
        return e;
    }
    let [x, list] = f.args.as_slice() else {
        return e;
    };
    let Some(list) = literals(list).filter(|l| l.len() <= ELEMENTS_MAX) else {
        return e;
    };
    if list.is_empty() {
        return Expr::Literal(ScalarValue::Boolean(Some(negated)), None);
    }
    let expr = Box::new(x.clone());
    Expr::InList(InList::new(expr, list, negated))
}

/// The elements of a constant list.
fn literals(list: &Expr) -> Option<Vec<Expr>> {
    if list.is_volatile() {
        return None;
    }
    let ScalarValue::List(list) = fold_constant(list)? else {
        return None;
    };
    if list.len() != 1 || list.is_null(0) {
        return None;
    }
    let values = list.value(0);
    if !is_plain(values.data_type()) {
        return None;
    }
    let values = (0..values.len()).map(|i| ScalarValue::try_from_array(&values, i));
    let values = values.map(|v| v.map(|v| Expr::Literal(v, None)));
    values.collect::<Result<_, _>>().ok()
}

/// Types whose values are equal if they are the same.
fn is_plain(of: &DataType) -> bool {
    matches!(
        of,
        DataType::Boolean
            | DataType::Int16
            | DataType::Int32
            | DataType::Int64
            | DataType::Utf8View
            | DataType::Date32
            | DataType::Time64(_)
            | DataType::Timestamp(..)
            | DataType::Decimal128(..)
            | DataType::FixedSizeBinary(_)
    )
}
