//! Lists of IN, kept apart from each other.
//!
//! DataFusion's simplification makes one list of two that an AND or OR has for the same value, as if nothing were NULL: `x IN (1) AND x NOT IN (NULL)`
//! becomes `x IN (1)`, and `x NOT IN (1) OR x NOT IN (2)` is true of a NULL. It knows lists also where they are written as
//! `x = 1 OR x = 2`. So the lists of one value that differ from the first are hidden from it.

use std::sync::Arc;

use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};
use datafusion_common::Result;
use datafusion_common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion_expr::expr::InList;
use datafusion_expr::{BinaryExpr, Expr, LogicalPlan, Operator};
use tidemill_zset::schema::SqlType;

use crate::functions::single::{is_nullable, nullable};
use crate::tree::{PlanTree, Tree};

/// The simplification, which sees no two lists of one value.
#[derive(Debug)]
pub(super) struct ListsApart(pub Arc<dyn OptimizerRule + Send + Sync>);

impl OptimizerRule for ListsApart {
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
        let several = plan.expressions().iter().any(has_several);
        let plan = match several {
            true => {
                plan.change_exprs(&mut |e| apart(e).map(Transformed::yes))?
                    .data
            }
            false => plan,
        };
        self.0.rewrite(plan, config)
    }
}

/// The value of a list. One comparison is none: nothing is made of it and another list but their union, which is right.
fn of_list(e: &Expr) -> Option<&Expr> {
    match e {
        Expr::InList(list) => Some(&list.expr),
        Expr::BinaryExpr(b) if b.op == Operator::Or => of_alternatives(e),
        _ => None,
    }
}

/// The column that a list, or comparisons that are one, has values for.
fn of_alternatives(e: &Expr) -> Option<&Expr> {
    let column = match e {
        Expr::InList(InList { expr, negated, .. }) if !negated => expr,
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => match (op, &**left, &**right) {
            (Operator::Eq, _, Expr::Literal(..)) => left,
            (Operator::Eq, Expr::Literal(..), _) => right,
            (Operator::Or, left, right) => {
                let column = of_alternatives(left)?;
                return (of_alternatives(right)? == column).then_some(column);
            }
            _ => return None,
        },
        _ => return None,
    };
    matches!(**column, Expr::Column(_)).then_some(column)
}

/// Calls `see` with each list, as large as it is.
fn lists(e: &Expr, see: &mut dyn FnMut(&Expr)) {
    let look = &mut |e: &Expr| {
        if is_nullable(e) {
            return Ok(TreeNodeRecursion::Jump);
        }
        if of_list(e).is_none() {
            return Ok(TreeNodeRecursion::Continue);
        }
        see(e);
        Ok(TreeNodeRecursion::Jump)
    };
    e.walk(look).expect("looking can't fail");
}

fn has_several(e: &Expr) -> bool {
    let mut first: Vec<Expr> = vec![];
    let mut several = false;
    lists(e, &mut |list| several |= !is_first(list, &mut first));
    several
}

/// Whether a list is the first one of its value, or equal to it.
fn is_first(list: &Expr, first: &mut Vec<Expr>) -> bool {
    match first.iter().find(|have| of_list(have) == of_list(list)) {
        Some(have) => have == list,
        None => {
            first.push(list.clone());
            true
        }
    }
}

/// The expression with all lists of a value hidden that differ from the first.
fn apart(e: Expr) -> Result<Expr> {
    let mut first: Vec<Expr> = vec![];
    let hidden = e.change_down(&mut |e| {
        if is_nullable(&e) {
            return Ok(Transformed::new(e, false, TreeNodeRecursion::Jump));
        }
        if of_list(&e).is_none() {
            return Ok(Transformed::no(e));
        }
        if is_first(&e, &mut first) {
            return Ok(Transformed::new(e, false, TreeNodeRecursion::Jump));
        }
        let hidden = nullable(e, &SqlType::Bool);
        Ok(Transformed::new(hidden, true, TreeNodeRecursion::Jump))
    });
    Ok(hidden?.data)
}
