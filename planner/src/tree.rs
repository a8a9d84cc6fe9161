//! Walks over DataFusion's plans and expressions, each compiled once.
//!
//! DataFusion's own walks are generic over the closure: each call compiled the walk over all kinds of nodes once more, a
//! sixth of this crate's compile time. Here closures are `dyn`. Those over whole plans, which may be large, can be stopped
//! ([`crate::interrupt`]). Walks over sqlparser's trees are in [`crate::walk`].

use datafusion_common::Result;
use datafusion_common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion_expr::{Expr, LogicalPlan};

use crate::functions::external;
use crate::interrupt::check_level;

type Changed<T> = Result<Transformed<T>>;

/// Walks over expressions and plans, logical ones without the plans of their subqueries.
pub trait Tree: TreeNode {
    /// Looks at each node, parents first.
    fn walk<'n>(
        &'n self,
        look: &mut dyn FnMut(&'n Self) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.apply(look)
    }

    /// True if `found` is true of any node.
    fn any(&self, found: &mut dyn FnMut(&Self) -> Result<bool>) -> Result<bool> {
        self.exists(found)
    }

    /// Changes each node, children first.
    fn change_up(self, change: &mut dyn FnMut(Self) -> Changed<Self>) -> Changed<Self> {
        self.transform_up(change)
    }

    /// Changes each node, parents first.
    fn change_down(self, change: &mut dyn FnMut(Self) -> Changed<Self>) -> Changed<Self> {
        self.transform_down(change)
    }

    /// Changes the children of this node.
    fn change_children(self, change: &mut dyn FnMut(Self) -> Changed<Self>) -> Changed<Self> {
        self.map_children(change)
    }
}

impl<T: TreeNode> Tree for T {}

/// Walks over plans with the plans of their subqueries, and over a node's expressions.
pub trait PlanTree: Sized {
    /// Looks at each node, parents first.
    fn walk_all(
        &self,
        look: &mut dyn FnMut(&Self) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion>;

    /// Looks at the plans of this node's subqueries.
    fn walk_subqueries(
        &self,
        look: &mut dyn FnMut(&Self) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion>;

    /// Changes each node, children first.
    fn change_all_up(self, change: &mut dyn FnMut(Self) -> Changed<Self>) -> Changed<Self>;

    /// Changes the plans of this node's subqueries.
    fn change_subqueries(self, change: &mut dyn FnMut(Self) -> Changed<Self>) -> Changed<Self>;

    /// Changes the expressions of this node.
    fn change_exprs(self, change: &mut dyn FnMut(Expr) -> Changed<Expr>) -> Changed<Self>;
}

impl PlanTree for LogicalPlan {
    fn walk_all(
        &self,
        look: &mut dyn FnMut(&Self) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.apply_with_subqueries(|node| {
            check_level().map_err(external)?;
            look(node)
        })
    }

    fn walk_subqueries(
        &self,
        look: &mut dyn FnMut(&Self) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.apply_subqueries(look)
    }

    fn change_all_up(self, change: &mut dyn FnMut(Self) -> Changed<Self>) -> Changed<Self> {
        self.transform_up_with_subqueries(|node| {
            check_level().map_err(external)?;
            change(node)
        })
    }

    fn change_subqueries(self, change: &mut dyn FnMut(Self) -> Changed<Self>) -> Changed<Self> {
        self.map_subqueries(change)
    }

    fn change_exprs(self, change: &mut dyn FnMut(Expr) -> Changed<Expr>) -> Changed<Self> {
        self.map_expressions(change)
    }
}
