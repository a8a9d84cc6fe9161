//! Of each row's matches the first ones in an order, as `LATERAL (… ORDER BY … LIMIT 1)` and `DISTINCT ON` ask for: where rows are numbered
//! above a join, by the value that the join's condition compares, and only those with the first numbers are kept, the join needn't give more.
//! So it is where of each row's matches only the least or the greatest value is wanted.

use std::sync::Arc;

use datafusion::config::ConfigOptions;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::HashJoinExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::windows::WindowUDFExpr;
use datafusion_common::tree_node::Transformed;
use datafusion_common::{JoinType, Result};
use datafusion_expr::Operator;
use datafusion_physical_expr::expressions::{BinaryExpr, CastExpr, Column, IsNotNullExpr, Literal};
use datafusion_physical_expr::window::{StandardWindowExpr, WindowExpr};
use datafusion_physical_expr::{PhysicalExpr, PhysicalSortExpr, split_conjunction};

use super::ConcatExec;
use super::range_join::RangeJoinExec;
use super::range_pairs::First;
use super::windows::functions;
use crate::tree::Tree;

type Plan = Arc<dyn ExecutionPlan>;

/// So many rows of each are kept at most; beyond that all are looked at.
const ROWS_MAX: usize = 1024;

/// Takes joins that give the first matches of each row.
#[derive(Debug)]
pub(super) struct Nearest;

impl PhysicalOptimizerRule for Nearest {
    fn optimize(&self, plan: Plan, _: &ConfigOptions) -> Result<Plan> {
        let plan = plan.change_up(&mut |node| {
            Ok(match above_first(&node)? {
                Some(changed) => Transformed::yes(changed),
                None => Transformed::no(node),
            })
        })?;
        Ok(plan.data)
    }

    fn name(&self) -> &str {
        "Nearest"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// The filter, or aggregate, above a join that gives no more rows than it needs.
fn above_first(node: &Plan) -> Result<Option<Plan>> {
    if let Some(aggregate) = node.downcast_ref::<AggregateExec>() {
        return below_extreme(node, aggregate);
    }
    let Some(filter) = node.downcast_ref::<FilterExec>() else {
        return Ok(None);
    };
    for (column, rows) in split_conjunction(filter.predicate())
        .into_iter()
        .filter_map(most)
    {
        if let Some(input) = above_window(filter.input(), column, rows)? {
            return over(node, input).map(Some);
        }
    }
    Ok(None)
}

/// The aggregate above a join that gives, for each group, the rows with the only value that it computes, which is the least or the greatest.
fn below_extreme(node: &Plan, aggregate: &AggregateExec) -> Result<Option<Plan>> {
    let groups = aggregate.group_expr();
    let column = |e: &Arc<dyn PhysicalExpr>| Some(e.downcast_ref::<Column>()?.index());
    let by = groups.expr().iter().map(|(e, _)| column(e));
    let (Some(by), true) = (by.collect::<Option<Vec<_>>>(), groups.is_single()) else {
        return Ok(None);
    };
    let mut extremes = aggregate.aggr_expr().iter().map(|e| {
        let descending = match e.fun().name() {
            "min" => false,
            "max" => true,
            _ => return None,
        };
        match &e.expressions()[..] {
            [value] => Some((column(value)?, descending)),
            _ => None,
        }
    });
    let Some(Some((key, descending))) = extremes.next() else {
        return Ok(None);
    };
    // Of rows that have no match; their value is NULL.
    let drops_none = |filter: &Option<Arc<dyn PhysicalExpr>>| {
        let Some(filter) = filter else { return true };
        let present = filter.downcast_ref::<IsNotNullExpr>();
        let present = present.and_then(|e| column(e.arg()));
        present.is_some_and(|marker| tells_of_match(aggregate.input(), marker))
    };
    let drops_none = aggregate.filter_expr().iter().all(drops_none);
    if by.is_empty() || !drops_none || !extremes.all(|e| e == Some((key, descending))) {
        return Ok(None);
    }
    // They are equal in all that is wanted of them.
    let ties = Some(vec![]);
    let sought = Sought {
        by,
        key,
        first: First {
            rows: 1,
            descending,
            ties,
        },
        rows: Rows::Unordered,
    };
    let below = sought.above_join(aggregate.input())?;
    below.map(|below| over(node, below)).transpose()
}

/// Whether a column is NULL only where an outer join found no match.
fn tells_of_match(node: &Plan, marker: usize) -> bool {
    if let Some(projection) = node.downcast_ref::<ProjectionExec>() {
        let e = &projection.expr()[marker].expr;
        if let Some(literal) = e.downcast_ref::<Literal>() {
            return !literal.value().is_null();
        }
        let column = e.downcast_ref::<Column>();
        return column.is_some_and(|c| tells_of_match(projection.input(), c.index()));
    }
    if let Some(outer) = Outer::of(node) {
        return matches!(outer.column(marker), (true, c) if tells_of_match(outer.matched(), c));
    }
    match node.children()[..] {
        [input] if passes_all(node) => tells_of_match(input, marker),
        _ => false,
    }
}

/// Whether the node passes the rows of its input on as they are.
fn passes_all(node: &Plan) -> bool {
    let hides = node.downcast_ref::<ConcatExec>();
    node.is::<CooperativeExec>() || hides.is_some_and(ConcatExec::only_hides)
}

/// An outer join of one side by equal columns alone.
struct Outer<'n> {
    join: &'n HashJoinExec,
    /// Which side's rows may have no match.
    kept: usize,
}

impl Outer<'_> {
    fn of(node: &Plan) -> Option<Outer<'_>> {
        let join = node.downcast_ref::<HashJoinExec>()?;
        let kept = match join.join_type() {
            JoinType::Left => 0,
            JoinType::Right => 1,
            _ => return None,
        };
        join.filter().is_none().then_some(Outer { join, kept })
    }

    /// The side of the matches.
    fn matched(&self) -> &Plan {
        match self.kept {
            0 => self.join.right(),
            _ => self.join.left(),
        }
    }

    /// The column of a side that a column of the result is, and whether it is of the matches.
    fn column(&self, n: usize) -> (bool, usize) {
        let n = self.join.projection.as_deref().map_or(n, |p| p[n]);
        let left = self.join.left().schema().fields().len();
        match n.checked_sub(left) {
            Some(right) => (self.kept == 0, right),
            None => (self.kept == 1, n),
        }
    }

    /// The column of the matches that is equal to a column of the result.
    fn of_matches(&self, n: usize) -> Option<usize> {
        let (of_matches, n) = self.column(n);
        if of_matches {
            return Some(n);
        }
        let column = |e: &Arc<dyn PhysicalExpr>| Some(e.downcast_ref::<Column>()?.index());
        let mut pairs = self.join.on().iter().map(|(left, right)| match self.kept {
            0 => (column(left), column(right)),
            _ => (column(right), column(left)),
        });
        pairs.find_map(|(own, other)| other.filter(|_| own == Some(n)))
    }

    /// The node over other matches.
    fn over(&self, node: &Plan, matches: Plan) -> Result<Plan> {
        let mut inputs = vec![self.join.left().clone(), self.join.right().clone()];
        inputs[1 - self.kept] = matches;
        let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
        node.clone().replace_children(inputs, options)
    }
}

/// The column that a condition allows to be so much at most.
fn most(condition: &Arc<dyn PhysicalExpr>) -> Option<(usize, usize)> {
    let condition = condition.downcast_ref::<BinaryExpr>()?;
    let mut number = condition.left();
    while let Some(cast) = number.downcast_ref::<CastExpr>() {
        number = cast.expr();
    }
    let column = number.downcast_ref::<Column>()?.index();
    let value = condition.right().downcast_ref::<Literal>()?.value();
    let value: usize = value.to_string().parse().ok()?;
    let most = match condition.op() {
        Operator::Eq | Operator::LtEq => value,
        Operator::Lt => value.checked_sub(1)?,
        _ => return None,
    };
    (1..=ROWS_MAX).contains(&most).then_some((column, most))
}

/// The node above a window that numbers rows in `column`, of which `rows` are kept of each partition.
fn above_window(node: &Plan, column: usize, rows: usize) -> Result<Option<Plan>> {
    let [input] = node.children()[..] else {
        return Ok(None);
    };
    if let Some(projection) = node.downcast_ref::<ProjectionExec>() {
        let e = &projection.expr()[column].expr;
        let Some(below) = e.downcast_ref::<Column>() else {
            return Ok(None);
        };
        let below = above_window(input, below.index(), rows)?;
        return below.map(|below| over(node, below)).transpose();
    }
    let Some(functions) = functions(node) else {
        return Ok(None);
    };
    let number = column.checked_sub(input.schema().fields().len());
    let Some(function) = number.and_then(|n| functions.get(n)) else {
        return Ok(None);
    };
    let same = |e: &Arc<dyn WindowExpr>| {
        let same_rows = e.partition_by() == function.partition_by();
        numbers(e).is_some() && same_rows && e.order_by() == function.order_by()
    };
    // What a partition is of is the same for all its rows.
    let own = |e: &&PhysicalSortExpr| !function.partition_by().contains(&e.expr);
    let mut order = function.order_by().iter().filter(own);
    let Some(first) = order.next().filter(|_| functions.iter().all(same)) else {
        return Ok(None);
    };
    let column = |e: &Arc<dyn PhysicalExpr>| Some(e.downcast_ref::<Column>()?.index());
    let by = function.partition_by().iter().map(column);
    let (Some(by), Some(key)) = (by.collect::<Option<Vec<_>>>(), column(&first.expr)) else {
        return Ok(None);
    };
    let ties = order.map(|e| Some((column(&e.expr)?, e.options)));
    // Rows of one rank are all there.
    let ties = match functions.iter().all(|e| numbers(e) == Some("row_number")) {
        true => ties.collect(),
        false => None,
    };
    let sought = Sought {
        by,
        key,
        first: First {
            rows,
            descending: first.options.descending,
            ties,
        },
        rows: Rows::Unsorted,
    };
    let below = sought.above_join(input)?;
    below.map(|below| over(node, below)).transpose()
}

/// The function's name, if it numbers rows by those before them.
fn numbers(e: &Arc<dyn WindowExpr>) -> Option<&str> {
    let e = e.as_any().downcast_ref::<StandardWindowExpr>();
    let function = e.map(StandardWindowExpr::get_standard_func_expr);
    let function = function.and_then(|f| f.as_any().downcast_ref::<WindowUDFExpr>());
    let name = function.map(|f| f.fun().name());
    name.filter(|name| matches!(*name, "row_number" | "rank"))
}

/// What is wanted of the rows of a node.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rows {
    /// Them in an order, but no sort has been met yet.
    Unsorted,
    /// Them, which are sorted above.
    Sorted,
    /// One value of all of them.
    Unordered,
}

/// For each value of the columns `by` the first rows in the order of column `key`.
struct Sought {
    by: Vec<usize>,
    key: usize,
    first: First,
    rows: Rows,
}

impl Sought {
    /// The same of rows below, of which `below` gives the columns; `None`: it isn't among these.
    fn below(&self, below: impl Fn(usize) -> Option<usize>) -> Option<Sought> {
        let tie = |(column, options): &(usize, _)| Some((below(*column)?, *options));
        let ties = self.first.ties.as_ref();
        Some(Sought {
            by: self.by.iter().map(|c| below(*c)).collect::<Option<_>>()?,
            key: below(self.key)?,
            first: First {
                ties: ties.and_then(|ties| ties.iter().map(tie).collect()),
                ..self.first
            },
            rows: self.rows,
        })
    }

    /// The node above a join of whose rows no more than these are needed.
    fn above_join(self, node: &Plan) -> Result<Option<Plan>> {
        let join = match self.rows {
            Rows::Unsorted => None,
            _ => RangeJoinExec::giving_first(node, &self.by, self.key, &self.first)?,
        };
        if let Some(join) = join {
            return Ok(Some(Arc::new(join)));
        }
        // Its rows without a match have no value.
        if let Some(outer) = Outer::of(node).filter(|_| self.rows == Rows::Unordered) {
            let (of_matches, _) = outer.column(self.key);
            let below = self.below(|column| outer.of_matches(column));
            let below = match below.filter(|_| of_matches) {
                Some(below) => below.above_join(outer.matched())?,
                None => None,
            };
            return below.map(|below| outer.over(node, below)).transpose();
        }
        let [input] = node.children()[..] else {
            return Ok(None);
        };
        let sorts = node.downcast_ref::<SortExec>();
        let passes = passes_all(node) || sorts.is_some_and(|s| s.fetch().is_none());
        let below = if passes {
            let rows = match self.rows {
                Rows::Unsorted if sorts.is_some() => Rows::Sorted,
                rows => rows,
            };
            Sought { rows, ..self }.above_join(input)?
        } else if let Some(projection) = node.downcast_ref::<ProjectionExec>() {
            let below = self.below(|column| {
                let e = &projection.expr()[column].expr;
                Some(e.downcast_ref::<Column>()?.index())
            });
            match below {
                Some(below) => below.above_join(input)?,
                None => None,
            }
        } else {
            None
        };
        below.map(|below| over(node, below)).transpose()
    }
}

/// The node over another input.
fn over(node: &Plan, input: Plan) -> Result<Plan> {
    let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
    node.clone().replace_children(vec![input], options)
}
