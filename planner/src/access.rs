//! What a filter says of single columns of a scan: conditions by which a reader finds rows through an index.
//!
//! Invariant: a condition holds for every row for which the filter it was read from is true. It may hold for
//! more rows, so that whoever uses it filters again.

use std::collections::{BTreeMap, HashSet};
use std::ops::Bound;

use arrow::datatypes::DataType;
use datafusion_common::{Column, ScalarValue};
use datafusion_expr::expr::InList;
use datafusion_expr::{Expr, Operator};

/// A condition on one column of a collection. NULL never fulfils it.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition<V = ScalarValue> {
    /// The column equals one of the values. Without values no row is wanted.
    OneOf {
        /// Which column.
        column: usize,
        /// Values of the column's type, none of them NULL.
        values: Vec<V>,
    },
    /// The column lies between two bounds.
    Range {
        /// Which column.
        column: usize,
        /// Not below this.
        low: Bound<V>,
        /// Not above this.
        high: Bound<V>,
    },
}

impl<V> Condition<V> {
    /// The column that it is about.
    pub fn column(&self) -> usize {
        match self {
            Condition::OneOf { column, .. } | Condition::Range { column, .. } => *column,
        }
    }

    /// The same condition with other values.
    pub(crate) fn try_map<W>(&self, mut f: impl FnMut(&V) -> Option<W>) -> Option<Condition<W>> {
        let mut bound = |b: &Bound<V>| {
            Some(match b {
                Bound::Included(v) => Bound::Included(f(v)?),
                Bound::Excluded(v) => Bound::Excluded(f(v)?),
                Bound::Unbounded => Bound::Unbounded,
            })
        };
        Some(match self {
            Condition::Range { column, low, high } => Condition::Range {
                column: *column,
                low: bound(low)?,
                high: bound(high)?,
            },
            Condition::OneOf { column, values } => Condition::OneOf {
                column: *column,
                values: values.iter().map(f).collect::<Option<_>>()?,
            },
        })
    }
}

impl Condition {
    /// The condition with values of the column's type. `None`: they can't be given in it, so that the condition
    /// finds nothing by an index.
    pub(crate) fn of_type(self, wanted: &DataType) -> Option<Condition> {
        match self {
            Condition::OneOf { column, values } => {
                let mut fitting = Vec::with_capacity(values.len());
                for value in values {
                    match fit(value, wanted)? {
                        Fit::Is(value) => fitting.push(value),
                        Fit::IsNone => {}
                    }
                }
                Some(Condition::OneOf {
                    column,
                    values: fitting,
                })
            }
            Condition::Range { column, low, high } => {
                let mut never = false;
                let mut bound = |b: Bound<ScalarValue>| {
                    let (value, included) = match b {
                        Bound::Included(v) => (v, true),
                        Bound::Excluded(v) => (v, false),
                        Bound::Unbounded => return Some(Bound::Unbounded),
                    };
                    never |= value.is_null();
                    Some(match (fit(value, wanted)?, included) {
                        (Fit::Is(v), true) => Bound::Included(v),
                        (Fit::Is(v), false) => Bound::Excluded(v),
                        (Fit::IsNone, _) => Bound::Unbounded,
                    })
                };
                let (low, high) = (bound(low)?, bound(high)?);
                Some(match never {
                    true => Condition::OneOf {
                        column,
                        values: vec![],
                    },
                    false => Condition::Range { column, low, high },
                })
            }
        }
    }
}

/// What a value is in another type.
enum Fit {
    Is(ScalarValue),
    /// NULL, or an integer that the column's type doesn't hold: nothing equals it.
    IsNone,
}

fn fit(value: ScalarValue, wanted: &DataType) -> Option<Fit> {
    if value.is_null() {
        return Some(Fit::IsNone);
    }
    let given = value.data_type();
    if given == *wanted {
        return Some(Fit::Is(value));
    }
    if !given.is_signed_integer() || !wanted.is_signed_integer() {
        return None;
    }
    // A column that was widened for the comparison.
    let narrow = value.cast_to(wanted).ok().filter(|v| !v.is_null());
    let same = narrow
        .as_ref()
        .and_then(|v| v.cast_to(&given).ok())
        .is_some_and(|back| back == value);
    Some(match narrow {
        Some(narrow) if same => Fit::Is(narrow),
        _ => Fit::IsNone,
    })
}

/// What is true of a row for which `filter` is: the operands of its ANDs, also of those that evaluate an operand only
/// where those before it are true (`bind::conditions::lazy`).
pub(crate) fn conjuncts<'e>(filter: &'e Expr, out: &mut Vec<&'e Expr>) {
    match filter {
        Expr::BinaryExpr(b) if b.op == Operator::And => {
            conjuncts(&b.left, out);
            conjuncts(&b.right, out);
        }
        Expr::BinaryExpr(b) if b.op == Operator::Eq => match (lazy_case(&b.left), &*b.right) {
            (Some(case), Expr::Literal(ScalarValue::Int32(Some(1)), _)) => {
                // Outcomes that can be true; only if there is one it is known which.
                let branches = case.when_then_expr.iter();
                let branches = branches.map(|(when, then)| (Some(&**when), &**then));
                let otherwise = case.else_expr.iter().map(|e| (None, &**e));
                let mut possible = branches.chain(otherwise).filter(|(_, e)| !is_false(e));
                if let (Some((when, then)), None) = (possible.next(), possible.next()) {
                    when.into_iter().for_each(|e| conjuncts(e, out));
                    if let Expr::Cast(cast) = then {
                        conjuncts(&cast.expr, out);
                    }
                }
            }
            _ => out.push(filter),
        },
        _ => out.push(filter),
    }
}

/// A CASE whose outcomes are booleans as numbers.
fn lazy_case(e: &Expr) -> Option<&datafusion_expr::Case> {
    match e {
        Expr::Case(case) if case.expr.is_none() => {
            let mut outcomes = case.when_then_expr.iter().map(|(_, then)| then);
            let numbers = outcomes.all(|e| matches!(&**e, Expr::Cast(_)));
            numbers.then_some(case)
        }
        _ => None,
    }
}

fn is_false(e: &Expr) -> bool {
    let e = match e {
        Expr::Cast(cast) => &cast.expr,
        e => e,
    };
    matches!(
        e,
        Expr::Literal(
            ScalarValue::Boolean(Some(false)) | ScalarValue::Int32(Some(0)),
            _
        )
    )
}

/// The condition that `filter` is, if it is one; `column` gives the number of a column that may be used.
fn condition<'e>(
    filter: &'e Expr,
    column: &dyn Fn(&Column) -> Option<usize>,
) -> Option<Condition<&'e Expr>> {
    match filter {
        Expr::BinaryExpr(b) => {
            let (index, op, value) = match target(&b.left, column) {
                Some(index) => (index, b.op, b.right.as_ref()),
                None => (target(&b.right, column)?, b.op.swap()?, b.left.as_ref()),
            };
            if !value.column_refs().is_empty() {
                return None;
            }
            let range = |low, high| {
                Some(Condition::Range {
                    column: index,
                    low,
                    high,
                })
            };
            match op {
                Operator::Eq => Some(Condition::OneOf {
                    column: index,
                    values: vec![value],
                }),
                Operator::Lt => range(Bound::Unbounded, Bound::Excluded(value)),
                Operator::LtEq => range(Bound::Unbounded, Bound::Included(value)),
                Operator::Gt => range(Bound::Excluded(value), Bound::Unbounded),
                Operator::GtEq => range(Bound::Included(value), Bound::Unbounded),
                _ => None,
            }
        }
        Expr::Between(b) if !b.negated => {
            let constant = b.low.column_refs().is_empty() && b.high.column_refs().is_empty();
            constant.then_some(Condition::Range {
                column: target(&b.expr, column)?,
                low: Bound::Included(b.low.as_ref()),
                high: Bound::Included(b.high.as_ref()),
            })
        }
        Expr::InList(InList {
            expr,
            list,
            negated: false,
        }) => {
            let constant = list.iter().all(|v| v.column_refs().is_empty());
            constant.then_some(Condition::OneOf {
                column: target(expr, column)?,
                values: list.iter().collect(),
            })
        }
        _ => None,
    }
}

/// The conditions that follow from `filter`: the one that it is, or of `(a = 1 AND b = 2) OR (a = 3 AND b = 4)` that `a` is 1 or 3 and `b`
/// is 2 or 4. `(a, b) IN (…)` and short IN lists become the like.
pub(crate) fn conditions<'e>(
    filter: &'e Expr,
    column: &dyn Fn(&Column) -> Option<usize>,
) -> Vec<Condition<&'e Expr>> {
    if !matches!(filter, Expr::BinaryExpr(b) if b.op == Operator::Or) {
        return condition(filter, column).into_iter().collect();
    }
    let mut branches = vec![];
    disjuncts(filter, &mut branches);
    let of_branch = |branch| {
        let mut parts = vec![];
        conjuncts(branch, &mut parts);
        let found = parts.into_iter().filter_map(|part| condition(part, column));
        found.collect::<Vec<_>>()
    };
    let branches: Vec<_> = branches.into_iter().map(of_branch).collect();
    // By column, the values that the branches so far allow; columns that one of them leaves open are gone.
    let mut allowed: Option<BTreeMap<usize, Vec<&Expr>>> = None;
    for branch in &branches {
        let mut own: BTreeMap<usize, Vec<&Expr>> = BTreeMap::new();
        for part in branch {
            if let Condition::OneOf { column, values } = part {
                own.entry(*column).or_insert_with(|| values.clone());
            }
        }
        allowed = Some(match allowed {
            None => own,
            Some(mut all) => {
                all.retain(|column, values| match own.remove(column) {
                    Some(more) => {
                        values.extend(more);
                        true
                    }
                    None => false,
                });
                all
            }
        });
    }
    let allowed = allowed.into_iter().flatten();
    let values = allowed
        .map(|(column, mut values)| {
            let mut seen = HashSet::new();
            values.retain(|value| seen.insert(*value));
            Condition::OneOf { column, values }
        })
        .collect::<Vec<_>>();
    let of_values = |column: usize| values.iter().any(|c| c.column() == column);
    let ranges = common_ranges(&branches).into_iter();
    let ranges: Vec<_> = ranges.filter(|c| !of_values(c.column())).collect();
    values.into_iter().chain(ranges).collect()
}

/// Bounds that all branches have: of `a > 5 OR (a = 5 AND b > 3)`, which `(a, b) > (5, 3)` is, that `a` isn't below 5. A bound is the same if it is
/// written so.
fn common_ranges<'e>(branches: &[Vec<Condition<&'e Expr>>]) -> Vec<Condition<&'e Expr>> {
    type Bounds<'e> = BTreeMap<usize, (Vec<&'e Expr>, Vec<&'e Expr>)>;
    let of_branch = |branch: &Vec<Condition<&'e Expr>>| {
        let mut found = Bounds::new();
        for condition in branch {
            let (lows, highs) = found.entry(condition.column()).or_default();
            match condition {
                Condition::OneOf { values, .. } => {
                    if let [value] = values[..] {
                        lows.push(value);
                        highs.push(value);
                    }
                }
                Condition::Range { low, high, .. } => {
                    let value = |bound: &Bound<&'e Expr>| match bound {
                        Bound::Included(v) | Bound::Excluded(v) => Some(*v),
                        Bound::Unbounded => None,
                    };
                    lows.extend(value(low));
                    highs.extend(value(high));
                }
            }
        }
        found
    };
    let all = branches.iter().map(of_branch).reduce(|mut all, own| {
        all.retain(|column, (lows, highs)| {
            let (own_lows, own_highs) = own.get(column).cloned().unwrap_or_default();
            lows.retain(|low| own_lows.contains(low));
            highs.retain(|high| own_highs.contains(high));
            !lows.is_empty() || !highs.is_empty()
        });
        all
    });
    let bound = |values: &[&'e Expr]| {
        let value = values.first().copied();
        value.map_or(Bound::Unbounded, Bound::Included)
    };
    let all = all.into_iter().flatten();
    all.map(|(column, (lows, highs))| Condition::Range {
        column,
        low: bound(&lows),
        high: bound(&highs),
    })
    .collect()
}

/// The operands of ORs.
fn disjuncts<'e>(filter: &'e Expr, out: &mut Vec<&'e Expr>) {
    match filter {
        Expr::BinaryExpr(b) if b.op == Operator::Or => {
            disjuncts(&b.left, out);
            disjuncts(&b.right, out);
        }
        _ => out.push(filter),
    }
}

/// A column, perhaps widened to a larger integer.
fn target(e: &Expr, column: &dyn Fn(&Column) -> Option<usize>) -> Option<usize> {
    match e {
        Expr::Column(c) => column(c),
        Expr::Cast(cast) if cast.field.data_type().is_signed_integer() => {
            match cast.expr.as_ref() {
                Expr::Column(c) => column(c),
                _ => None,
            }
        }
        _ => None,
    }
}

/// The conditions of a filter that is pushed to a scan: values are constants by now.
pub(crate) fn of_scan(filter: &Expr, schema: &arrow::datatypes::Schema) -> Vec<Condition> {
    let found = conditions(filter, &|c| schema.index_of(&c.name).ok());
    let constant = found.into_iter().filter_map(|condition| {
        let wanted = schema.field(condition.column()).data_type();
        let literal = condition.try_map(|e| match e {
            Expr::Literal(v, _) => Some(v.clone()),
            _ => None,
        })?;
        literal.of_type(wanted)
    });
    constant.collect()
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{Field, Schema};
    use datafusion_expr::{cast, col, lit};

    use super::*;

    fn of(filter: Expr) -> Option<Condition> {
        let schema = Schema::new(vec![
            Field::new("a", DataType::Int32, true),
            Field::new("b", DataType::Utf8View, true),
        ]);
        let mut found = of_scan(&filter, &schema);
        assert!(found.len() < 2, "{found:?}");
        found.pop()
    }

    fn one_of(values: &[i32]) -> Option<Condition> {
        Some(Condition::OneOf {
            column: 0,
            values: values.iter().map(|v| ScalarValue::from(*v)).collect(),
        })
    }

    fn range(low: Bound<i32>, high: Bound<i32>) -> Option<Condition> {
        Some(Condition::Range {
            column: 0,
            low: low.map(ScalarValue::from),
            high: high.map(ScalarValue::from),
        })
    }

    #[test]
    fn equalities_and_lists() {
        assert_eq!(of(col("a").eq(lit(1))), one_of(&[1]));
        assert_eq!(of(lit(1).eq(col("a"))), one_of(&[1]));
        assert_eq!(
            of(col("a").eq(lit(1)).or(col("a").eq(lit(2)))),
            one_of(&[1, 2])
        );
        assert_eq!(
            of(col("a").in_list(vec![lit(3), lit(ScalarValue::Int32(None))], false)),
            one_of(&[3])
        );
        assert_eq!(of(col("a").in_list(vec![lit(3)], true)), None);
        assert_eq!(of(col("a").eq(lit(1)).or(col("b").eq(lit("x")))), None);
        assert_eq!(of(col("a").eq(col("a"))), None);
        assert_eq!(of(col("a").not_eq(lit(1))), None);
    }

    #[test]
    fn alternatives_allow_values_of_each_column() {
        let schema = Schema::new(vec![
            Field::new("a", DataType::Int32, true),
            Field::new("b", DataType::Int32, true),
        ]);
        let of = |filter: Expr| of_scan(&filter, &schema);
        let one_of = |column: usize, values: &[i32]| Condition::OneOf {
            column,
            values: values.iter().map(|v| ScalarValue::from(*v)).collect(),
        };
        let pair = |a: i32, b: i32| col("a").eq(lit(a)).and(col("b").eq(lit(b)));
        assert_eq!(
            of(pair(1, 2).or(pair(3, 4)).or(pair(1, 5).or(pair(3, 2)))),
            [one_of(0, &[1, 3]), one_of(1, &[2, 4, 5])]
        );
        // The first leaves `b` open, the last leaves all open.
        let open = pair(1, 2).or(col("a").eq(lit(3)));
        assert_eq!(of(open.clone()), [one_of(0, &[1, 3])]);
        assert_eq!(of(open.or(col("b").gt(lit(7)))), []);
    }

    #[test]
    fn comparisons_of_rows_bound_the_first_column() {
        let after = |last: Expr| col("a").gt(lit(5)).or(col("a").eq(lit(5)).and(last));
        let from_5 = range(Bound::Included(5), Bound::Unbounded);
        assert_eq!(of(after(col("b").gt(lit("x")))), from_5);
        let three = col("b")
            .gt(lit("x"))
            .or(col("b").eq(lit("x")).and(col("c").lt(lit(1))));
        assert_eq!(of(after(three)), from_5);
        assert_eq!(
            of(col("a").lt(lit(5)).or(lit(5).eq(col("a")))),
            range(Bound::Unbounded, Bound::Included(5))
        );
        assert_eq!(
            of(col("a")
                .between(lit(1), lit(3))
                .or(col("a").between(lit(1), lit(9)))),
            range(Bound::Included(1), Bound::Unbounded)
        );
        assert_eq!(of(col("a").gt(lit(5)).or(col("a").eq(lit(6)))), None);
        assert_eq!(of(col("a").gt(lit(5)).or(col("a").lt(lit(5)))), None);
    }

    #[test]
    fn ranges() {
        use Bound::*;
        assert_eq!(of(col("a").lt(lit(1))), range(Unbounded, Excluded(1)));
        assert_eq!(of(lit(1).lt(col("a"))), range(Excluded(1), Unbounded));
        assert_eq!(
            of(col("a").between(lit(1), lit(4))),
            range(Included(1), Included(4))
        );
        assert_eq!(of(col("a").gt(lit(ScalarValue::Int32(None)))), one_of(&[]));
    }

    #[test]
    fn what_is_evaluated_lazily_is_implied() {
        let number = |e: Expr| cast(e, DataType::Int32);
        let (x, y, z) = (col("x"), col("y"), col("z"));
        let guarded = Expr::Case(datafusion_expr::Case::new(
            None,
            vec![(Box::new(x.clone()), Box::new(number(y.clone())))],
            Some(Box::new(number(lit(false)))),
        ));
        let guarded = guarded.eq(lit(1));
        let chain = datafusion_expr::when(x.clone().is_false(), number(lit(false)))
            .otherwise(number(x.clone().and(y.clone())))
            .expect("a CASE")
            .eq(lit(1));
        let either = datafusion_expr::when(x.clone(), number(y.clone()))
            .otherwise(number(z.clone()))
            .expect("a CASE")
            .eq(lit(1));
        let of = |filter: &Expr| {
            let mut out = Vec::new();
            conjuncts(filter, &mut out);
            out.into_iter().cloned().collect::<Vec<_>>()
        };
        assert_eq!(of(&guarded.and(z.clone())), [x.clone(), y.clone(), z]);
        assert_eq!(of(&chain), [x, y]);
        assert!(of(&either).is_empty());
    }

    #[test]
    fn a_widened_column_keeps_its_type() {
        let wide = || cast(col("a"), DataType::Int64);
        assert_eq!(of(wide().eq(lit(7i64))), one_of(&[7]));
        assert_eq!(of(wide().eq(lit(1i64 << 40))), one_of(&[]));
        let above = of(wide().lt(lit(1i64 << 40)));
        assert_eq!(above, range(Bound::Unbounded, Bound::Unbounded));
        assert_eq!(of(cast(col("b"), DataType::Int64).eq(lit(7i64))), None);
    }
}
