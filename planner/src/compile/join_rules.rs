//! DataFusion's rules, kept away from what they would give another meaning.
//!
//! * A join in which NULL keys are equal treats all of its keys so. A rule that adds `a = b` to its keys, or that puts its keys
//!   together with those of other joins, would match NULL with NULL, or lose matches.
//! * A condition on a key of one side of a join holds for that of the other too. But where it can fail it must not be looked at for rows there
//!   that have no partner: of `a.code = b.code AND b.code::int > 5` the codes of `b` alone are numbers.
//! * An aggregate without keys gives a row for no input. A condition that names no column, as of a join that never matches,
//!   must drop this row; below the aggregate it would only drop the input.

use super::in_lists::ListsApart;
use crate::functions::shared::can_fail_anywhere;
use crate::tree::Tree;
use datafusion::optimizer::eliminate_cross_join::EliminateCrossJoin;
use datafusion::optimizer::extract_equijoin_predicate::ExtractEquijoinPredicate;
use datafusion::optimizer::push_down_filter::PushDownFilter;
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};
use datafusion_common::tree_node::Transformed;
use datafusion_common::{Column, NullEquality, Result};
use datafusion_expr::utils::{conjunction, split_conjunction, split_conjunction_owned};
use datafusion_expr::{BinaryExpr, Expr, Filter, Join, LogicalPlan};
use std::sync::Arc;

/// The rule that takes the place of `rule`, or it itself.
pub(crate) fn careful(
    rule: Arc<dyn OptimizerRule + Send + Sync>,
) -> Arc<dyn OptimizerRule + Send + Sync> {
    match rule.name() {
        "extract_equijoin_predicate" => Arc::new(EquijoinKeys::default()),
        "eliminate_cross_join" => Arc::new(CrossJoins::default()),
        "simplify_expressions" => Arc::new(ListsApart(rule)),
        "push_down_filter" => Arc::new(FiltersDown::default()),
        _ => rule,
    }
}

/// Makes equalities of a join's condition its keys.
#[derive(Debug, Default)]
pub(super) struct EquijoinKeys(ExtractEquijoinPredicate);

/// Makes joins of cross joins and a filter above them.
#[derive(Debug, Default)]
pub(super) struct CrossJoins(EliminateCrossJoin);

/// Brings filters closer to the scans.
#[derive(Debug, Default)]
pub(super) struct FiltersDown(PushDownFilter);

/// Whether rows of `plan` come from an aggregate that may have no keys, below filters only.
fn may_be_one_group(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Filter(f) => may_be_one_group(&f.input),
        LogicalPlan::Aggregate(a) => matches!(a.group_expr.as_slice(), [] | [Expr::GroupingSet(_)]),
        _ => false,
    }
}

/// A filter with the one below it, each condition once: an outer join adds what it infers again with each pass.
fn merged(f: Filter) -> Result<Transformed<LogicalPlan>> {
    let LogicalPlan::Filter(below) = f.input.as_ref() else {
        return Ok(Transformed::no(LogicalPlan::Filter(f)));
    };
    let mut all: Vec<Expr> = vec![];
    for e in split_conjunction(&below.predicate)
        .into_iter()
        .chain(split_conjunction(&f.predicate))
    {
        if !all.contains(e) {
            all.push(e.clone());
        }
    }
    let predicate = all.into_iter().reduce(Expr::and).unwrap_or(f.predicate);
    let filter = Filter::try_new(predicate, Arc::clone(&below.input))?;
    Ok(Transformed::yes(LogicalPlan::Filter(filter)))
}

/// The filter, with those directly below it, or the join with comparisons to constants turned round so that the column comes
/// first: the rule takes `2 = a AND a = 2`, of which it adds one half by itself, for a contradiction.
fn columns_first(plan: LogicalPlan) -> LogicalPlan {
    match plan {
        LogicalPlan::Filter(mut f) => {
            if let LogicalPlan::Filter(_) = f.input.as_ref() {
                f.input = Arc::new(columns_first(Arc::unwrap_or_clone(f.input)));
            }
            f.predicate = column_first(f.predicate);
            LogicalPlan::Filter(f)
        }
        LogicalPlan::Join(mut j) => {
            j.filter = j.filter.map(column_first);
            LogicalPlan::Join(j)
        }
        plan => plan,
    }
}

fn column_first(predicate: Expr) -> Expr {
    let is_reversed = |e: &Expr| {
        matches!(e, Expr::BinaryExpr(b)
            if matches!((b.left.as_ref(), b.right.as_ref()), (Expr::Literal(..), Expr::Column(_)))
                && b.op.swap().is_some())
    };
    if !split_conjunction(&predicate).into_iter().any(is_reversed) {
        return predicate;
    }
    let conditions = split_conjunction_owned(predicate).into_iter();
    let turned = conditions.map(|e| match e {
        Expr::BinaryExpr(b) if matches!(b.left.as_ref(), Expr::Literal(..)) => {
            match (b.right.as_ref(), b.op.swap()) {
                (Expr::Column(_), Some(op)) => {
                    Expr::BinaryExpr(BinaryExpr::new(b.right, op, b.left))
                }
                _ => Expr::BinaryExpr(b),
            }
        }
        e => e,
    });
    turned.reduce(Expr::and).expect("at least one condition")
}

fn nulls_are_equal(node: &LogicalPlan) -> bool {
    matches!(node, LogicalPlan::Join(j) if j.null_equality == NullEquality::NullEqualsNull)
}

impl OptimizerRule for EquijoinKeys {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        self.0.apply_order()
    }

    fn supports_rewrite(&self) -> bool {
        true
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        config: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>> {
        match nulls_are_equal(&plan) {
            true => Ok(Transformed::no(plan)),
            false => self.0.rewrite(plan, config),
        }
    }
}

impl OptimizerRule for CrossJoins {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn supports_rewrite(&self) -> bool {
        true
    }

    // The rule walks the plan by itself, so it is a matter of the whole plan.
    fn rewrite(
        &self,
        plan: LogicalPlan,
        config: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>> {
        match plan.any(&mut |node| Ok(nulls_are_equal(node)))? {
            true => Ok(Transformed::no(plan)),
            false => self.0.rewrite(plan, config),
        }
    }
}

impl OptimizerRule for FiltersDown {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        self.0.apply_order()
    }

    fn supports_rewrite(&self) -> bool {
        true
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        config: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>> {
        match plan {
            LogicalPlan::Filter(f) if may_be_one_group(&f.input) => merged(f),
            plan => self.below_joins(columns_first(plan), config),
        }
    }
}

impl FiltersDown {
    /// Applies the rule; conditions of a join that can fail for a key stay on their side of it.
    fn below_joins(
        &self,
        plan: LogicalPlan,
        config: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>> {
        let Some((mut join, above)) = join_below(&plan) else {
            return self.0.rewrite(plan, config);
        };
        let keys: Vec<Column> = join
            .on
            .iter()
            .flat_map(|(l, r)| [l.try_as_col(), r.try_as_col()])
            .flatten()
            .cloned()
            .collect();
        let one_sided = |e: &Expr| {
            can_fail_anywhere(e) && e.column_refs().into_iter().any(|c| keys.contains(c))
        };
        let own = join.filter.take().map_or(vec![], split_conjunction_owned);
        let (above_apart, above): (Vec<Expr>, Vec<Expr>) = above.into_iter().partition(one_sided);
        let (own_apart, own): (Vec<Expr>, Vec<Expr>) = own.into_iter().partition(one_sided);
        if above_apart.is_empty() && own_apart.is_empty() {
            return self.0.rewrite(plan, config);
        }
        join.filter = conjunction(own);
        let first = self.0.rewrite(below(above, join), config)?;
        let changed = first.transformed;
        let Some((mut join, above)) = join_below(&first.data) else {
            return Ok(Transformed::no(plan));
        };
        // A key that is no column is equal to nothing that the rule looks for.
        let mask = |e: Expr| e.alias("#key");
        let on = std::mem::take(&mut join.on).into_iter();
        join.on = on.map(|(l, r)| (mask(l), mask(r))).collect();
        let own = join.filter.take().map_or(vec![], split_conjunction_owned);
        join.filter = conjunction(own.into_iter().chain(own_apart));
        let all = above.into_iter().chain(above_apart).collect();
        let second = self.0.rewrite(below(all, join), config)?;
        let changed = changed || second.transformed;
        let Some((mut join, above)) = join_below(&second.data) else {
            return Ok(Transformed::no(plan));
        };
        let on = std::mem::take(&mut join.on).into_iter();
        join.on = on.map(|(l, r)| (l.unalias(), r.unalias())).collect();
        Ok(Transformed::new_transformed(below(above, join), changed))
    }
}

/// A join, and the conditions of the filters directly above it, which the rule makes one.
fn join_below(plan: &LogicalPlan) -> Option<(Join, Vec<Expr>)> {
    match plan {
        LogicalPlan::Join(join) => Some((join.clone(), vec![])),
        LogicalPlan::Filter(f) => {
            let (join, mut above) = join_below(&f.input)?;
            above.extend(split_conjunction_owned(f.predicate.clone()));
            Some((join, above))
        }
        _ => None,
    }
}

/// The join below a filter of the conditions, if there are any.
fn below(conditions: Vec<Expr>, join: Join) -> LogicalPlan {
    let join = LogicalPlan::Join(join);
    match conjunction(conditions) {
        Some(all) => LogicalPlan::Filter(Filter::new(all, Arc::new(join))),
        None => join,
    }
}
