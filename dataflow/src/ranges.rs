//! Conditions of joins that compare one side with the other: a value of the *searched* side lies between limits that the *probing* side
//! gives. With the searched rows in the order of that value, the rows that a probing row can match are found by binary search instead of
//! by looking at all pairs: in rows that are put in order for that ([`Order`]), or in an index that is kept ([`RangeIndex`]).
//!
//! Invariant: pairs that aren't candidates don't fulfil the condition, and can't fail either. So what can't be evaluated for some row
//! excludes nothing, and a condition of which another part can fail is none of these.

mod comparisons;
mod index;
mod order;

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::Schema;
use datafusion_common::Result;
use datafusion_expr::Operator;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::Column;
use tidemill_zset::hash::hash_columns;

pub use comparisons::is_ordered;
use comparisons::{Comparisons, Limit, renumbered};
pub use index::{Found, IndexCondition, RangeIndex};
pub use order::{Candidates, FEW_ROWS, NO_GROUP, Order};

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
    is_whole: bool,
}

/// What is to be searched by.
#[derive(Clone, Copy, Debug)]
pub enum Wanted {
    /// Whatever ends the range in both directions; of those that are as good, a value of this side, 0 or 1.
    Side(usize),
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
        let known = comparisons.each.iter().flatten();
        let keys = known.flat_map(|c| [(0, c.sides[0]), (1, c.sides[1])]);
        let keys = keys.filter(|(_, e)| {
            let column = e.downcast_ref::<Column>().map(|c| side_of(c.index()));
            match wanted {
                Wanted::Column(side, number) => column == Some((side, number)),
                Wanted::Side(_) => true,
            }
        });
        let of_key = |(searched, key): (usize, &Expr)| {
            let limits = sides[searched].iter();
            let limits: Vec<_> = limits
                .map(|c| c.as_ref().filter(|c| c.key == key))
                .collect();
            let others = comparisons.parts.iter().zip(&limits);
            let others = others.filter(|(_, limit)| limit.is_none());
            let mut others = others.map(|(e, _)| e).peekable();
            let is_whole = comparisons.all_known && others.peek().is_none();
            if others.any(|e| can_fail(e)) {
                return None;
            }
            let limits = limits.into_iter().flatten();
            Some(RangeCondition {
                searched,
                equal: vec![],
                key: renumbered(key, side_of),
                limits: limits.map(|c| c.limit(side_of)).collect(),
                is_whole,
            })
        };
        let rank = |range: &RangeCondition| {
            let liked = matches!(wanted, Wanted::Side(side) if side == range.searched);
            (range.bounds(), liked)
        };
        let found = keys.filter_map(of_key);
        found.reduce(|best, next| match rank(&next) > rank(&best) {
            true => next,
            false => best,
        })
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

    /// In how many directions the range ends.
    fn bounds(&self) -> usize {
        let any = |ops: &[Operator]| self.limits.iter().any(|l| ops.contains(&l.op));
        let low = any(&[Operator::Gt, Operator::GtEq, Operator::Eq]);
        let high = any(&[Operator::Lt, Operator::LtEq, Operator::Eq]);
        usize::from(low) + usize::from(high)
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
