//! Conditions of joins that compare one side with the other: a value of the *searched* side lies between limits that the *probing* side
//! gives. With the searched rows in the order of that value, the rows that a probing row can match are found by binary search instead of
//! by looking at all pairs: in rows that are put in order for that ([`Order`]), or in an index that is kept ([`RangeIndex`]).
//!
//! Invariant: pairs that aren't candidates don't fulfil the condition, and can't fail either. So what can't be evaluated for some row
//! excludes nothing, and a condition of which another part can fail is none of these.

mod codes;
mod comparisons;
mod index;
mod order;
mod second;
mod ways;

use std::cmp::Reverse;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::Schema;
use datafusion_common::Result;
use datafusion_expr::Operator;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::Column;
use tidemill_zset::hash::hash_columns;

pub use comparisons::is_ordered;
use comparisons::{Compared, Comparisons, Limit, renumbered};
pub use index::{Found, RangeIndex};
pub use order::{Candidates, FEW_ROWS, NO_GROUP, Order};
use second::Second;
use ways::Way;

type Expr = Arc<dyn PhysicalExpr>;

/// By column of a pair its side, 0 or 1, and its number among the columns of that side.
type SideOf<'a> = &'a dyn Fn(usize) -> (usize, usize);

/// See the module.
#[derive(Debug)]
pub struct RangeCondition {
    searched: usize,
    /// Columns of both sides that are equal besides.
    equal: Vec<[Expr; 2]>,
    /// Over the columns of the searched side.
    key: Expr,
    limits: Vec<Limit>,
    second: Option<Second>,
    is_whole: bool,
}

/// What is to be searched by.
#[derive(Clone, Copy, Debug)]
pub enum Wanted {
    /// Whatever excludes most rows; of what is as good, values of this side, 0 or 1.
    Side(usize),
    /// The same of values of this side alone.
    Only(usize),
    /// This column of a side.
    Column(usize, usize),
}

impl RangeCondition {
    /// What there is to search by in `condition`, over columns of `schema` of which `side_of` gives the side, 0 or 1, and the number among
    /// the columns of that side. `can_fail` says whether an expression can fail for some rows.
    pub fn of(
        condition: &Expr,
        schema: &Schema,
        side_of: SideOf,
        can_fail: &dyn Fn(&Expr) -> bool,
        wanted: Wanted,
    ) -> Option<RangeCondition> {
        let comparisons = Comparisons::of(condition, schema, side_of)?;
        let sides = [0, 1].map(|side| comparisons.of_side(side));
        let compared = sides.each_ref().map(|parts| parts.iter().flatten());
        let compared: [Vec<&Compared>; 2] = compared.map(Iterator::collect);
        let ways = compared.iter().enumerate().flat_map(|(side, compared)| {
            let ways = Way::all(compared).into_iter();
            ways.map(move |way| (side, way))
        });
        let mut ways: Vec<(usize, Way)> = ways
            .filter(|(side, way)| match wanted {
                Wanted::Side(_) => true,
                Wanted::Only(of) => *side == of,
                Wanted::Column(of, number) => {
                    let column = way.first.key.downcast_ref::<Column>();
                    let is_wanted = column.is_some_and(|c| side_of(c.index()).1 == number);
                    *side == of && is_wanted && way.second.is_none()
                }
            })
            .collect();
        let is_liked = |side: usize| matches!(wanted, Wanted::Side(liked) if liked == side);
        ways.sort_by_key(|(side, way)| Reverse((way.rank(), is_liked(*side))));
        let of_way = |(searched, way): (usize, Way)| {
            let parts = comparisons.parts.iter().zip(&sides[searched]);
            let others = parts.filter(|(_, c)| !c.as_ref().is_some_and(|c| way.has(c)));
            let mut others = others.map(|(e, _)| *e).peekable();
            let all_known = comparisons.all_known && others.peek().is_none();
            if others.any(can_fail) {
                return None;
            }
            let compared = &compared[searched];
            let key = way.first.key;
            let limits = compared.iter().filter(|c| c.key == key);
            let second = way.second;
            let second = second.map(|second| Second::of(second, compared, schema, side_of));
            Some(RangeCondition {
                searched,
                equal: vec![],
                key: renumbered(key, side_of),
                limits: limits.map(|c| c.limit(side_of)).collect(),
                is_whole: all_known && second.as_ref().is_none_or(|second| second.is_exact),
                second,
            })
        };
        ways.into_iter().find_map(of_way)
    }

    /// The condition between rows that are equal in these columns of the left and the right side, none of which is NULL. `None`: there is no
    /// order of them in which it can be searched, or a value can't be computed for all rows.
    pub fn among_equal(
        self,
        columns: &[(Expr, Expr)],
        schemas: [&Schema; 2],
        can_fail: &dyn Fn(&Expr) -> bool,
    ) -> Option<RangeCondition> {
        let exact = |e: &Expr, schema| {
            let ty = e.data_type(schema).ok();
            let exact = ty.filter(|ty| is_ordered(ty) && !ty.is_floating());
            exact.filter(|_| e.is::<Column>())
        };
        let all_equal = columns.iter().all(|(left, right)| {
            let left = exact(left, schemas[0]);
            left.is_some() && left == exact(right, schemas[1])
        });
        let fails = can_fail(&self.key);
        let equal = columns.iter().map(|(l, r)| [l.clone(), r.clone()]);
        (all_equal && !fails).then_some(RangeCondition {
            equal: equal.collect(),
            ..self
        })
    }

    /// The side that is searched: 0 or 1.
    pub fn searched(&self) -> usize {
        self.searched
    }

    /// What its rows are in the order of, over the columns of the searched side.
    pub fn key(&self) -> &Expr {
        &self.key
    }

    /// The values, over the columns of the probing side, that the key is compared with, and how it is.
    pub fn limits(&self) -> impl Iterator<Item = (&Expr, Operator)> {
        self.limits.iter().map(|limit| (&limit.value, limit.op))
    }

    /// Whether two values are compared, so that not all places in the ranges of [`Candidates`] can match.
    pub fn passes_over(&self) -> bool {
        self.second.is_some()
    }

    /// Whether all candidates fulfil the condition, where [`Candidates::are_all`] is false.
    pub fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Whether rows are only compared with those that are equal in some columns.
    pub fn is_among_equal(&self) -> bool {
        !self.equal.is_empty()
    }

    /// Hashes of the columns of a side that are equal to the other's.
    pub fn equal_hashes(&self, rows: &RecordBatch, side: usize) -> Result<Vec<u64>> {
        Ok(hash_columns(
            &self.equal_columns(rows, side)?,
            rows.num_rows(),
        ))
    }

    fn equal_columns(&self, rows: &RecordBatch, side: usize) -> Result<Vec<ArrayRef>> {
        let columns = self.equal.iter().map(|columns| {
            let column = columns[side].evaluate(rows)?;
            column.into_array(rows.num_rows())
        });
        columns.collect()
    }
}
