//! Walks over sqlparser's trees with one type of visitor.
//!
//! sqlparser's walk is generic over the visitor: each further type compiles the walk over all four hundred types of node
//! once more, which made up half of this crate's compile time. So reading walks over a copy.

use std::ops::ControlFlow;

use sqlparser::ast::{Expr, ObjectName, Query, Statement, TableFactor, VisitMut, VisitorMut};

use crate::parser::{fold, parts};

/// True if `found` is true of any expression in `node`, subqueries included.
pub fn any_expr(node: &(impl VisitMut + Clone), mut found: impl FnMut(&Expr) -> bool) -> bool {
    any(node, &mut |n| matches!(n, Node::Expr(e) if found(e)))
}

/// True if `found` is true of any expression in `e` that isn't in a subquery.
pub fn any_expr_here(e: &Expr, found: impl FnMut(&Expr) -> bool) -> bool {
    let mut reader = ReaderHere { found, queries: 0 };
    e.clone().visit(&mut Changer(&mut reader)).is_break()
}

/// True if `found` is true of the name of any relation in `node`, subqueries included.
pub fn any_relation(
    node: &(impl VisitMut + Clone),
    mut found: impl FnMut(&ObjectName) -> bool,
) -> bool {
    any(node, &mut |n| matches!(n, Node::Relation(r) if found(r)))
}

/// How often relations with that unqualified name are named in `node`, where no WITH of a query gives the name to something else.
pub fn references(node: &(impl VisitMut + Clone), name: &str) -> usize {
    let mut counter = Counter {
        name,
        hidden: 0,
        named: 0,
    };
    let _ = node.clone().visit(&mut Changer(&mut counter));
    counter.named
}

/// Counts references to a name.
struct Counter<'n> {
    name: &'n str,
    /// How many queries that define it the walk is in.
    hidden: usize,
    named: usize,
}

impl Counter<'_> {
    fn defines(&self, query: &Query) -> usize {
        let mut ctes = query.with.iter().flat_map(|w| &w.cte_tables);
        usize::from(ctes.any(|c| fold(&c.alias.name) == self.name))
    }
}

impl VisitorMut for Counter<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        self.hidden += self.defines(query);
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        self.hidden -= self.defines(query);
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &mut ObjectName) -> ControlFlow<()> {
        let is_it = self.hidden == 0 && parts(relation).as_slice() == [self.name];
        self.named += usize::from(is_it);
        ControlFlow::Continue(())
    }
}

/// True if one of the two is true of any expression, or of the name of any relation, in `node`, subqueries included.
pub fn any_part(
    node: &(impl VisitMut + Clone),
    mut expr: impl FnMut(&Expr) -> bool,
    mut relation: impl FnMut(&ObjectName) -> bool,
) -> bool {
    any(node, &mut |n| match n {
        Node::Expr(e) => expr(e),
        Node::Relation(name) => relation(name),
    })
}

enum Node<'n> {
    Expr(&'n Expr),
    Relation(&'n ObjectName),
}

fn any(node: &(impl VisitMut + Clone), found: &mut dyn FnMut(Node) -> bool) -> bool {
    let mut reader = Reader(found);
    node.clone().visit(&mut Changer(&mut reader)).is_break()
}

struct Reader<'v>(&'v mut dyn FnMut(Node) -> bool);

impl Reader<'_> {
    fn look(&mut self, node: Node) -> ControlFlow<()> {
        match (self.0)(node) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }
}

impl VisitorMut for Reader<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, e: &mut Expr) -> ControlFlow<()> {
        self.look(Node::Expr(e))
    }

    fn pre_visit_relation(&mut self, r: &mut ObjectName) -> ControlFlow<()> {
        self.look(Node::Relation(r))
    }
}

/// Looks at expressions outside of queries.
struct ReaderHere<F> {
    found: F,
    /// How many the walk is in.
    queries: usize,
}

impl<F: FnMut(&Expr) -> bool> VisitorMut for ReaderHere<F> {
    type Break = ();

    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.queries += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.queries -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, e: &mut Expr) -> ControlFlow<()> {
        match self.queries == 0 && (self.found)(e) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }
}

/// Walks over `node` with `visitor`, which may change it.
pub fn change(node: &mut impl VisitMut, visitor: &mut dyn VisitorMut<Break = ()>) {
    let _ = node.visit(&mut Changer(visitor));
}

struct Changer<'v>(&'v mut dyn VisitorMut<Break = ()>);

/// Passes on what visitors of this crate look at.
macro_rules! pass_on {
    ($($method:ident $node:ty),*) => {
        impl VisitorMut for Changer<'_> {
            type Break = ();

            $(fn $method(&mut self, node: &mut $node) -> ControlFlow<()> {
                self.0.$method(node)
            })*
        }
    };
}

pass_on!(
    pre_visit_query Query, post_visit_query Query,
    pre_visit_relation ObjectName, post_visit_relation ObjectName,
    pre_visit_table_factor TableFactor, post_visit_table_factor TableFactor,
    pre_visit_expr Expr, post_visit_expr Expr,
    pre_visit_statement Statement, post_visit_statement Statement
);
